//! A meter whose client sends blocks, lists and forms as it should not.

use dlms::{
    ActionResult, ClientAccess, Conformance, Data, DataAccessResult, Error, Exception, Frame,
    InvokeId, Mechanism, Meter, MeterConfig, Protection, Request, Response, SecurityControl, Suite,
    meter,
};

use crate::cosem::{attribute, method, parameter};
use crate::pair::{METER_TITLE, Pair, client_config, get, meter_config};
use crate::soft::Soft;

const ALL: Conformance = crate::joined::ALL;

/// An open association without protection, with all services.
fn plain(conformance: Conformance) -> Meter {
    let clients = vec![ClientAccess::plain(1, Mechanism::None, vec![])];
    let config = MeterConfig {
        conformance: ALL,
        ..MeterConfig::new(METER_TITLE, clients)
    };
    let mut meter = Meter::new(config, vec![]);
    let initiate = dlms::initiate::InitiateRequest::new(conformance, 200);
    let aarq = dlms::acse::Aarq {
        context: dlms::ApplicationContext::LogicalName,
        calling_title: None,
        calling_ae_qualifier: None,
        mechanism: None,
        authentication_value: None,
        user_information: Some(initiate.encode()),
    };
    hear(&mut meter, aarq.encode());
    while meter.poll().is_some() {}
    meter
}

fn hear(meter: &mut Meter, apdu: Vec<u8>) {
    let (source, destination) = (1, 1);
    let frame = Frame {
        source,
        destination,
        apdu,
    };
    meter.handle_bytes(0, &frame.encode().unwrap());
}

/// What a meter does with a request.
#[derive(Debug, PartialEq)]
enum Said {
    Answered(Response),
    Asked(Request),
}

use Said::{Answered, Asked};

/// What a meter says to a request, or asks of its objects.
fn say(meter: &mut Meter, request: &Request) -> Said {
    hear(meter, request.encode());
    match meter.poll() {
        Some(meter::Effect::Transmit(frame)) => Answered(Response::decode(&frame[8..]).unwrap()),
        Some(meter::Effect::Ask(request)) => Asked(request),
        other => panic!("{other:?}"),
    }
}

const ID: InvokeId = InvokeId::new(5);

fn first(last: bool, block: u32, octets: &[u8]) -> Request {
    Request::SetFirstBlock {
        invoke: ID,
        attribute: attribute(1),
        selection: None,
        last,
        block,
        octets: octets.to_vec(),
    }
}

fn next(last: bool, block: u32, octets: &[u8]) -> Request {
    Request::SetBlock {
        invoke: ID,
        last,
        block,
        octets: octets.to_vec(),
    }
}

fn ended(result: DataAccessResult, block: u32) -> Said {
    let invoke = ID;
    Answered(Response::SetLastBlock {
        invoke,
        result,
        block,
    })
}

const TAKEN: fn(u32) -> Said = |block| Answered(Response::SetBlockAck { invoke: ID, block });

#[test]
fn blocks_are_joined_acknowledged_and_asked_once() {
    let value = parameter(9, 20);
    let octets = value.encode();
    let mut meter = plain(ALL);
    assert_eq!(say(&mut meter, &first(false, 1, &octets[..5])), TAKEN(1));
    assert_eq!(say(&mut meter, &next(false, 2, &octets[5..9])), TAKEN(2));
    // what was taken before is acknowledged again, and not joined again
    assert_eq!(say(&mut meter, &next(false, 2, &octets[5..9])), TAKEN(2));
    let whole = Request::Set {
        invoke: ID,
        attribute: attribute(1),
        selection: None,
        value,
    };
    assert_eq!(say(&mut meter, &next(true, 3, &octets[9..])), Asked(whole));
    let result = DataAccessResult::SUCCESS;
    let invoke = InvokeId::new(0);
    meter.answer(0, Response::Set { invoke, result }).unwrap();
    let Some(meter::Effect::Transmit(frame)) = meter.poll() else {
        panic!("no answer")
    };
    let said = Response::decode(&frame[8..]).unwrap();
    assert_eq!(Answered(said), ended(result, 3));
}

#[test]
fn blocks_that_do_not_belong_there_end_the_transfer() {
    let wrong = [
        (
            next(false, 3, &[1]),
            DataAccessResult::DATA_BLOCK_NUMBER_INVALID,
        ),
        (next(false, 2, &[]), DataAccessResult::LONG_SET_ABORTED),
    ];
    for (request, result) in wrong {
        let mut meter = plain(ALL);
        assert_eq!(say(&mut meter, &first(false, 1, &[9, 9])), TAKEN(1));
        let Request::SetBlock { block, .. } = request else {
            panic!("a block")
        };
        assert_eq!(say(&mut meter, &request), ended(result, block));
        let over = ended(DataAccessResult::NO_LONG_SET_IN_PROGRESS, 2);
        assert_eq!(say(&mut meter, &next(false, 2, &[1])), over);
    }
    // a first block is the first, another request forgets what was begun, another invoke id continues nothing
    let mut meter = plain(ALL);
    let result = DataAccessResult::DATA_BLOCK_NUMBER_INVALID;
    assert_eq!(say(&mut meter, &first(false, 2, &[9])), ended(result, 2));
    assert_eq!(say(&mut meter, &first(false, 1, &[9])), TAKEN(1));
    let mut other = next(false, 2, &[1]);
    if let Request::SetBlock { invoke, .. } = &mut other {
        *invoke = InvokeId::new(6);
    }
    assert!(matches!(
        say(&mut meter, &other),
        Answered(Response::SetLastBlock { .. })
    ));
    assert_eq!(say(&mut meter, &first(false, 1, &[9])), TAKEN(1));
    assert!(matches!(say(&mut meter, &get().with(ID)), Asked(_)));
    let data = Data::Null;
    meter
        .answer(0, Response::GetData { invoke: ID, data })
        .unwrap();
    while meter.poll().is_some() {}
    let over = ended(DataAccessResult::NO_LONG_SET_IN_PROGRESS, 2);
    assert_eq!(say(&mut meter, &next(true, 2, &[1])), over);
}

#[test]
fn a_request_without_end_or_without_sense_is_given_up() {
    let mut meter = plain(ALL);
    let part = [0; 900];
    assert_eq!(say(&mut meter, &first(false, 1, &part)), TAKEN(1));
    let refused = (2..100).find_map(|block| {
        let said = say(&mut meter, &next(false, block, &part));
        (said != TAKEN(block)).then_some((block, said))
    });
    let (block, said) = refused.unwrap();
    assert_eq!(said, ended(DataAccessResult::LONG_SET_ABORTED, block));
    assert!((70..75).contains(&block), "65536 octets: {block}");
    let mut meter = plain(ALL);
    let said = say(&mut meter, &first(true, 1, &[0x12, 0]));
    assert_eq!(said, Answered(Response::Exception(Exception::OTHER_REASON)));
}

#[test]
fn a_long_action_has_its_own_results() {
    let block = |last, block, octets: &[u8]| Request::ActionBlock {
        invoke: ID,
        last,
        block,
        octets: octets.to_vec(),
    };
    let refused = |result| {
        let (invoke, data) = (ID, None);
        Answered(Response::Action {
            invoke,
            result,
            data,
        })
    };
    let mut meter = plain(ALL);
    let none = refused(ActionResult::NO_LONG_ACTION_IN_PROGRESS);
    assert_eq!(say(&mut meter, &block(false, 2, &[1])), none);
    let begin = Request::ActionFirstBlock {
        invoke: ID,
        method: method(0),
        last: false,
        block: 1,
        octets: vec![0x12],
    };
    let taken = Answered(Response::ActionNextBlock {
        invoke: ID,
        block: 1,
    });
    assert_eq!(say(&mut meter, &begin), taken);
    let aborted = refused(ActionResult::LONG_ACTION_ABORTED);
    assert_eq!(say(&mut meter, &block(false, 9, &[1])), aborted);
    assert_eq!(say(&mut meter, &begin), taken);
    let parameter = Some(Data::LongUnsigned(7));
    let whole = Request::Action {
        invoke: ID,
        method: method(0),
        parameter,
    };
    assert_eq!(say(&mut meter, &block(true, 2, &[0, 7])), Asked(whole));
    // and the next block of an answer that has none
    let result = ActionResult::SUCCESS;
    let (invoke, data) = (ID, None);
    meter
        .answer(
            0,
            Response::Action {
                invoke,
                result,
                data,
            },
        )
        .unwrap();
    while meter.poll().is_some() {}
    let next = Request::ActionNext { invoke, block: 1 };
    assert_eq!(
        say(&mut meter, &next),
        refused(ActionResult::NO_LONG_ACTION_IN_PROGRESS)
    );
}

#[test]
fn what_was_not_negotiated_is_not_served() {
    let list = vec![(attribute(1), None)];
    let requests = [
        (Conformance::GET, get().with(ID)),
        (Conformance::SET, first(false, 1, &[9])),
        (
            Conformance::MULTIPLE_REFERENCES,
            Request::GetList {
                invoke: ID,
                attributes: list,
            },
        ),
        (
            Conformance::ACCESS,
            Request::Access {
                invoke: dlms::LongInvokeId::new(1),
                time: None,
                accesses: vec![],
            },
        ),
        (Conformance::BLOCK_TRANSFER_SET, first(false, 1, &[9])),
    ];
    for (service, request) in requests {
        let without = Conformance::new(ALL.bits() & !service.bits());
        let said = say(&mut plain(without), &request);
        let expected = Answered(Response::Exception(Exception::NOT_SUPPORTED));
        assert_eq!(said, expected, "{service:?}");
        assert_ne!(say(&mut plain(ALL), &request), expected, "{service:?}");
    }
}

#[test]
fn the_objects_answer_what_was_asked() {
    let attributes = vec![(attribute(1), None), (attribute(2), None)];
    let ask = || {
        let mut meter = plain(ALL);
        let attributes = attributes.clone();
        let request = Request::GetList {
            invoke: ID,
            attributes,
        };
        assert!(matches!(say(&mut meter, &request), Asked(_)));
        meter
    };
    let results = |count| Response::GetList {
        invoke: ID,
        results: vec![Ok(Data::Null); count],
    };
    for (response, taken) in [
        (results(2), true),
        (results(1), false),
        (results(3), false),
        (
            Response::GetData {
                invoke: ID,
                data: Data::Null,
            },
            false,
        ),
        (
            Response::GetError {
                invoke: ID,
                result: DataAccessResult::TEMPORARY_FAILURE,
            },
            true,
        ),
        (Response::Exception(Exception::OTHER_REASON), true),
    ] {
        let answered = ask().answer(0, response.clone());
        assert_eq!(answered.is_ok(), taken, "{response:?}");
        if let Err(error) = answered {
            assert!(matches!(error, Error::State { .. }));
        }
    }
}

/// A meter that demands this of its client, and what a client with these terms comes to.
fn demanded(access: ClientAccess, change: impl FnOnce(&mut dlms::ClientConfig)) -> Pair {
    let mut config = client_config(Mechanism::None, Protection::Glo);
    change(&mut config);
    let mut meter = meter_config(Mechanism::None, true);
    meter.clients = vec![access];
    let mut pair = Pair::with(config, meter);
    pair.open();
    pair
}

#[test]
fn only_the_forms_and_the_control_that_a_client_may_use_are_taken() {
    let access = || ClientAccess {
        forms: vec![Protection::GeneralGlo],
        ..ClientAccess::ciphered(1, Mechanism::None, vec![])
    };
    let mut pair = demanded(access(), |config| {
        config.protection = Protection::GeneralGlo
    });
    assert!(matches!(pair.event(), dlms::client::Event::Opened { .. }));
    pair.request(get());
    pair.value();
    // another form, or another control: told, and not deciphered
    for (form, control) in [
        (Protection::Glo, SecurityControl::AUTH_ENC),
        (Protection::GeneralDed, SecurityControl::AUTH_ENC),
        (Protection::GeneralGlo, SecurityControl::AUTH),
        (Protection::GeneralGlo, SecurityControl::ENC),
    ] {
        let mut pair = demanded(access(), |config| {
            config.protection = Protection::GeneralGlo
        });
        pair.event();
        let plain = get().with(ID).encode();
        let keys: &Soft = &pair.client_keys;
        let apdu = match form {
            Protection::GeneralDed => {
                let general = keys.protect(&plain, Protection::GeneralGlo, 50);
                [&[0xDC], &general[1..]].concat()
            }
            form => keys.protect_as(&plain, form, control, 50),
        };
        pair.to_client = Box::new(|_| vec![]);
        hear(&mut pair.meter, apdu);
        pair.run();
        let said = Response::decode(&pair.frames.last().unwrap().apdu);
        assert_eq!(
            said,
            Ok(Response::Exception(Exception::DECIPHERING)),
            "{form:?}"
        );
        assert!(pair.asked.is_empty());
    }
    // nor may it come without ciphering, nor choose a dedicated key
    let mut pair = demanded(access(), |config| config.protection = Protection::Plain);
    assert!(matches!(pair.failure(), dlms::Cause::Rejected { .. }));
    let mut pair = demanded(access(), |config| config.protection = Protection::Ded);
    let cause = pair.failure();
    let dlms::Cause::Rejected { error, .. } = cause else {
        panic!("{cause}")
    };
    assert_eq!(
        error.map(|error| error.name()),
        Some("refused-by-the-VDE-handler")
    );
    // a suite is not a matter of taste
    let suite_1 = SecurityControl::of(Suite::Suite1, true, true);
    let demanding = ClientAccess {
        control: suite_1,
        ..access()
    };
    let mut pair = demanded(demanding, |config| {
        config.protection = Protection::GeneralGlo
    });
    assert_eq!(
        pair.failure(),
        dlms::Cause::NotOpened(Exception::DECIPHERING)
    );
}

#[test]
fn the_certificate_of_a_client_is_at_hand() {
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.certificate = Some(vec![0x30; 600]);
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.open();
    assert!(matches!(pair.event(), dlms::client::Event::Opened { .. }));
    assert_eq!(pair.meter.client_certificate(), Some(&[0x30; 600][..]));
    assert_eq!(pair.frames[0].apdu[..2], [0x60, 0x82]);
}
