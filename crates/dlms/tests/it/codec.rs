//! Services octet by octet, and what is said of octets that are wrong.

use dlms::{
    AccessOutcome, Accessed, ActionResult, Attribute, Command, Confirmation, Data,
    DataAccessResult, Exception, GeneralBlock, InvokeId, LongInvokeId, Method, Notification, Obis,
    Request, Response, Selection,
};

const CLOCK: Attribute = Attribute {
    class_id: 8,
    name: Obis::new([0, 0, 1, 0, 0, 255]),
    index: 2,
};
const SCRIPT: Method = Method {
    class_id: 9,
    name: Obis::new([0, 0, 10, 1, 0, 255]),
    index: 1,
};

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

#[track_caller]
fn requests(table: &[(&str, Request)]) {
    for (text, request) in table {
        assert_eq!(request.encode(), hex(text), "{text}");
        assert_eq!(Request::decode(&hex(text)).as_ref(), Ok(request));
    }
}

#[track_caller]
fn responses(table: &[(&str, Response)]) {
    for (text, response) in table {
        assert_eq!(response.encode(), hex(text), "{text}");
        assert_eq!(Response::decode(&hex(text)).as_ref(), Ok(response));
    }
}

#[test]
fn reads_and_writes_octet_by_octet() {
    let invoke = InvokeId::new(1);
    let octets = vec![0xAA, 0xBB];
    requests(&[
        ("C0 02 C1 00000007", Request::GetNext { invoke, block: 7 }),
        (
            "C0 03 C1 02 0008 0000010000FF 02 00 0008 0000010000FF 02 00",
            Command::GetList(vec![(CLOCK, None); 2]).with(invoke),
        ),
        (
            "C1 02 C1 0008 0000010000FF 02 00 00 00000001 02 AABB",
            Request::SetFirstBlock {
                invoke,
                attribute: CLOCK,
                selection: None,
                last: false,
                block: 1,
                octets: octets.clone(),
            },
        ),
        (
            "C1 03 C1 01 00000002 02 AABB",
            Request::SetBlock {
                invoke,
                last: true,
                block: 2,
                octets: octets.clone(),
            },
        ),
        (
            "C1 04 C1 01 0008 0000010000FF 02 00 01 11 05",
            Command::SetList(vec![(CLOCK, None, Data::Unsigned(5))]).with(invoke),
        ),
        (
            "C1 05 C1 01 0008 0000010000FF 02 00 00 00000001 02 AABB",
            Request::SetListFirstBlock {
                invoke,
                attributes: vec![(CLOCK, None)],
                last: false,
                block: 1,
                octets,
            },
        ),
    ]);
}

#[test]
fn executions_octet_by_octet() {
    let invoke = InvokeId::new(1);
    let octets = vec![0xAA, 0xBB];
    requests(&[
        (
            "C3 02 C1 00000003",
            Request::ActionNext { invoke, block: 3 },
        ),
        (
            "C3 03 C1 02 0009 00000A0100FF 01 0009 00000A0100FF 01 02 12 0001 00",
            Command::ActionList(vec![(SCRIPT, Some(Data::LongUnsigned(1))), (SCRIPT, None)])
                .with(invoke),
        ),
        (
            "C3 04 C1 0009 00000A0100FF 01 00 00000001 02 AABB",
            Request::ActionFirstBlock {
                invoke,
                method: SCRIPT,
                last: false,
                block: 1,
                octets: octets.clone(),
            },
        ),
        (
            "C3 05 C1 01 0009 00000A0100FF 01 00 00000001 02 AABB",
            Request::ActionListFirstBlock {
                invoke,
                methods: vec![SCRIPT],
                last: false,
                block: 1,
                octets: octets.clone(),
            },
        ),
        (
            "C3 06 C1 01 00000002 02 AABB",
            Request::ActionBlock {
                invoke,
                last: true,
                block: 2,
                octets,
            },
        ),
    ]);
}

#[test]
fn an_access_octet_by_octet() {
    let entry = Selection::Entry {
        from_entry: 1,
        to_entry: 1,
        from_column: 1,
        to_column: 0,
    };
    let command = Command::Access(vec![
        dlms::Access::Get {
            attribute: CLOCK,
            selection: None,
        },
        dlms::Access::Set {
            attribute: CLOCK,
            selection: None,
            value: Data::Unsigned(5),
        },
        dlms::Access::Action {
            method: SCRIPT,
            parameter: Some(Data::LongUnsigned(1)),
        },
        dlms::Access::Get {
            attribute: CLOCK,
            selection: Some(entry),
        },
    ]);
    let request = command.with(InvokeId::new(4));
    let text = "D9 E0000004 00 04 \
        01 0008 0000010000FF 02 02 0008 0000010000FF 02 03 0009 00000A0100FF 01 \
        04 0008 0000010000FF 02 02 0204 0600000001 0600000001 120001 120000 \
        04 00 1105 120001 00";
    assert_eq!(request.encode(), hex(text));
    assert_eq!(Request::decode(&hex(text)), Ok(request));

    let response = Response::Access {
        invoke: LongInvokeId::new(4),
        time: None,
        specifications: None,
        results: vec![
            Accessed {
                outcome: AccessOutcome::Get(DataAccessResult::SUCCESS),
                data: Data::Unsigned(7),
            },
            Accessed {
                outcome: AccessOutcome::Set(DataAccessResult::READ_WRITE_DENIED),
                data: Data::Null,
            },
            Accessed {
                outcome: AccessOutcome::Action(ActionResult::SUCCESS),
                data: Data::Null,
            },
        ],
    };
    let text = "DA C0000004 00 00 03 1107 00 00 03 0100 0203 0300";
    assert_eq!(response.encode(), hex(text));
    assert_eq!(Response::decode(&hex(text)), Ok(response));
}

#[test]
fn responses_octet_by_octet() {
    let invoke = InvokeId::new(1);
    let denied = DataAccessResult::READ_WRITE_DENIED;
    responses(&[
        (
            "C4 03 C1 02 00 11 05 01 03",
            Response::GetList {
                invoke,
                results: vec![Ok(Data::Unsigned(5)), Err(denied)],
            },
        ),
        (
            "C5 02 C1 00000002",
            Response::SetBlockAck { invoke, block: 2 },
        ),
        (
            "C5 03 C1 03 00000002",
            Response::SetLastBlock {
                invoke,
                result: denied,
                block: 2,
            },
        ),
        (
            "C5 04 C1 02 00 03 00000002",
            Response::SetLastBlockList {
                invoke,
                results: vec![DataAccessResult::SUCCESS, denied],
                block: 2,
            },
        ),
        (
            "C5 05 C1 02 00 03",
            Response::SetList {
                invoke,
                results: vec![DataAccessResult::SUCCESS, denied],
            },
        ),
    ]);
}

#[test]
fn outcomes_of_methods_and_exceptions_octet_by_octet() {
    let invoke = InvokeId::new(1);
    responses(&[
        (
            "C7 02 C1 00 00000001 02 AABB",
            Response::ActionBlock {
                invoke,
                last: false,
                block: 1,
                octets: vec![0xAA, 0xBB],
            },
        ),
        (
            "C7 03 C1 02 00 01 00 11 05 03 00",
            Response::ActionList {
                invoke,
                outcomes: vec![
                    (ActionResult::SUCCESS, Some(Ok(Data::Unsigned(5)))),
                    (ActionResult::READ_WRITE_DENIED, None),
                ],
            },
        ),
        (
            "C7 04 C1 00000002",
            Response::ActionNextBlock { invoke, block: 2 },
        ),
        (
            "D8 01 06",
            Response::Exception(Exception {
                state: 1,
                service: 6,
                counter: None,
            }),
        ),
        (
            "D8 01 06 00000123",
            Response::Exception(Exception::invocation_counter(0x123)),
        ),
    ]);
}

#[test]
fn notifications_octet_by_octet() {
    let time = Some([0x07, 0xEA, 10, 10, 6, 1, 2, 3, 0, 0x80, 0, 0]);
    let push = Notification::Data {
        invoke: LongInvokeId::new(2),
        time,
        body: Data::Unsigned(5),
    };
    let text = "0F C0000002 0C 07EA0A0A0601020300800000 11 05";
    assert_eq!(push.encode(), hex(text));
    assert_eq!(Notification::decode(&hex(text)), Ok(push.clone()));
    let confirmation = push.confirmation().unwrap();
    assert_eq!(confirmation.encode(), hex("10 C0000002 00"));
    assert_eq!(
        Confirmation::decode(&hex("10 C0000002 00")),
        Ok(confirmation)
    );

    let event = Notification::Event {
        time,
        attribute: CLOCK,
        value: Data::Null,
    };
    let text = "C2 01 0C 07EA0A0A0601020300800000 0008 0000010000FF 02 00";
    assert_eq!(event.encode(), hex(text));
    assert_eq!(Notification::decode(&hex(text)), Ok(event.clone()));
    assert_eq!(event.confirmation(), None);

    let block = GeneralBlock {
        last: true,
        streaming: true,
        window: 3,
        block: 1,
        ack: 2,
        data: vec![9],
    };
    assert_eq!(block.encode(), hex("E0 C3 0001 0002 01 09"));
}

#[test]
fn long_ids_have_their_flags() {
    let id = LongInvokeId::new(0xFF00_0123);
    assert_eq!((id.bits(), id.id()), (0xC000_0123, 0x123));
    assert!(id.is_confirmed() && !id.breaks_on_error() && !id.is_self_descriptive());
    let id = id.breaking_on_error().self_describing();
    assert_eq!(id.bits(), 0xF000_0123);
    assert!(id.breaks_on_error() && id.is_self_descriptive());
    assert_eq!(id.short(), InvokeId::from_octet(0xC3));
    assert_eq!(LongInvokeId::from(InvokeId::new(7)).bits(), 0xC000_0007);
}

/// The decoder, the octets, and offset, expectation and finding as they are told.
const WRONG: [(&str, &str, &str); 18] = [
    (
        "request",
        "",
        "offset 0: 1 octets expected, 0 left; the sender cut it short",
    ),
    (
        "request",
        "C4",
        "offset 0: expected the tag of a GET, SET, ACTION or ACCESS request (C0, C1, C3, D9), found 0xc4",
    ),
    (
        "request",
        "C0 04 C1",
        "offset 1: expected a type of GET request (01..03), found 0x04",
    ),
    (
        "request",
        "C1 06 C1",
        "offset 1: expected a type of SET request (01..05), found 0x06",
    ),
    (
        "request",
        "C3 07 C1",
        "offset 1: expected a type of ACTION request (01..06), found 0x07",
    ),
    (
        "request",
        "C0 01 C1 0008 00000100",
        "offset 5: 6 octets expected, 4 left; the sender cut it short",
    ),
    (
        "request",
        "C1 04 C1 01 0008 0000010000FF 02 00 02 00 00",
        "offset 14: expected as many values as attributes, found 2",
    ),
    (
        "request",
        "C0 01 C1 0008 0000010000FF 02 00 AA",
        "offset 13: expected the end, found 1 more octets",
    ),
    (
        "request",
        "D9 C0000001 03 00",
        "offset 5: expected a date-time of 12 octets, or none, found 3",
    ),
    (
        "request",
        "D9 C0000001 00 01 06",
        "offset 7: expected an access-request-specification (01..05), found 0x06",
    ),
    (
        "request",
        "D9 C0000001 00 01 01 0008 0000010000FF 02 01 11 05",
        "offset 18: expected null-data (00), the data of a read, found 0x11",
    ),
    (
        "response",
        "C4 01 C1 02",
        "offset 3: expected 00 (data) or 01 (data-access-result), found 0x02",
    ),
    (
        "response",
        "C5 05 C1 84 FFFFFFFF 00",
        "offset 9: 1 octets expected, 0 left; the sender cut it short",
    ),
    (
        "response",
        "D8 01 06 23",
        "offset 3: expected an invocation counter of 4 octets, or none, found 1",
    ),
    (
        "response",
        "0E 01 08 01",
        "offset 2: expected a kind of service error (00..07, 09, 0A), found 0x08",
    ),
    (
        "data",
        "02 02 11 05 0E 00",
        "offset 4: expected a Data tag (0..6, 9, 10, 12, 13, 15..27, 255), found 0x0e",
    ),
    (
        "data",
        "09 05 01 02",
        "offset 2: 5 octets expected, 2 left; the sender cut it short",
    ),
    (
        "notification",
        "C3",
        "offset 0: expected the tag of a notification (0F, C2), found 0xc3",
    ),
];

#[test]
fn errors_say_where_what_was_expected_and_what_was_found() {
    for (decoder, text, said) in WRONG {
        let octets = hex(text);
        let error = match decoder {
            "request" => Request::decode(&octets).unwrap_err(),
            "response" => Response::decode(&octets).unwrap_err(),
            "data" => Data::decode(&octets).unwrap_err(),
            _ => Notification::decode(&octets).unwrap_err(),
        };
        assert_eq!(error.to_string(), said, "{text}");
    }
}
