use dlms::{
    AccessOutcome, Accessed, ActionResult, Attribute, Conformance, Data, DataAccessResult,
    InvokeId, LongInvokeId,
};

use super::*;

const OK: DataAccessResult = DataAccessResult::new(0);

fn data(id: u8) -> Vec<u8> {
    Response::GetData {
        invoke: InvokeId::new(id),
        data: Data::Boolean(true),
    }
    .encode()
}

fn acted(id: u8) -> Vec<u8> {
    Response::Action {
        invoke: InvokeId::new(id),
        result: ActionResult::new(0),
        data: None,
    }
    .encode()
}

#[test]
fn answers_fit_their_requests() {
    let mut waiting = Outstanding::default();
    assert!(waiting.answered(&data(5)).is_err(), "nothing was asked");
    waiting.command(Id::Short(5), Service::Get, None);
    assert!(waiting.expects(0xC4) && !waiting.expects(0xC7) && !waiting.expects(0x08));
    assert!(waiting.answered(&data(6)).is_err(), "another invoke id");
    assert!(waiting.answered(&acted(5)).is_err(), "another service");
    assert_eq!(waiting.answered(&data(5)).unwrap(), Answer::Other);
    assert!(waiting.answered(&data(5)).is_err(), "once");
}

#[test]
fn lists_are_answered_by_lists_of_their_length() {
    let invoke = InvokeId::new(3);
    let get = |count| Response::GetList {
        invoke,
        results: vec![Ok(Data::Null); count],
    };
    let set = |count| Response::SetList {
        invoke,
        results: vec![OK; count],
    };
    let act = |count| Response::ActionList {
        invoke,
        outcomes: vec![(ActionResult::new(0), None); count],
    };
    let mut waiting = Outstanding::default();
    for (service, right, wrong) in [
        (Service::Get, get(2), [get(1), get(3)]),
        (Service::Set, set(2), [set(1), set(3)]),
        (Service::Action, act(2), [act(1), act(3)]),
    ] {
        waiting.command(Id::Short(3), service, Some(2));
        for wrong in wrong {
            assert!(waiting.answered(&wrong.encode()).is_err(), "{service:?}");
        }
        assert!(
            waiting.answered(&data(3)).is_err(),
            "{service:?}: one value"
        );
        assert!(
            waiting.answered(&acted(3)).is_err(),
            "{service:?}: one outcome"
        );
        waiting.answered(&right.encode()).unwrap();
        assert!(!waiting.waits(3));
        waiting.command(Id::Short(3), service, None);
        assert!(
            waiting.answered(&right.encode()).is_err(),
            "{service:?}: one was asked"
        );
        waiting = Outstanding::default();
    }
}

#[test]
fn blocks_are_asked_for_in_turn() {
    let mut waiting = Outstanding::default();
    let invoke = InvokeId::new(2);
    let get = |block, last| {
        let payload = Ok(vec![1]);
        Response::GetBlock {
            invoke,
            last,
            block,
            payload,
        }
        .encode()
    };
    let act = |block, last| {
        let octets = vec![1];
        Response::ActionBlock {
            invoke,
            last,
            block,
            octets,
        }
        .encode()
    };
    type Block<'a> = &'a dyn Fn(u32, bool) -> Vec<u8>;
    let forms: [(Service, Block<'_>); 2] = [(Service::Get, &get), (Service::Action, &act)];
    for (service, block) in forms {
        waiting.command(Id::Short(2), service, None);
        assert!(!waiting.continues(2, service, 1), "no block came yet");
        waiting.answered(&block(1, false)).unwrap();
        assert!(waiting.continues(2, service, 1) && !waiting.continues(2, service, 2));
        assert!(!waiting.continues(3, service, 1));
        for other in [Service::Get, Service::Set, Service::Action] {
            assert_eq!(waiting.continues(2, other, 1), other == service);
            assert_eq!(waiting.returns(2, other), other == service);
        }
        waiting.next_block(2);
        assert!(!waiting.continues(2, service, 1), "once");
        waiting.answered(&block(2, true)).unwrap();
        assert!(!waiting.continues(2, service, 2), "it was the last");
    }
}

#[test]
fn the_next_block_is_sent_when_the_last_is_acknowledged() {
    let invoke = InvokeId::new(4);
    let set = |block| Response::SetBlockAck { invoke, block }.encode();
    let act = |block| Response::ActionNextBlock { invoke, block }.encode();
    for (service, right, wrong) in [
        (Service::Set, set(1), [set(2), act(1)]),
        (Service::Action, act(1), [act(2), set(1)]),
    ] {
        let mut waiting = Outstanding::default();
        waiting.block(4, service, 1);
        assert!(!waiting.acknowledged(4, service, 1));
        for wrong in wrong {
            assert!(waiting.answered(&wrong).is_err(), "{service:?}");
        }
        waiting.answered(&right).unwrap();
        assert!(waiting.acknowledged(4, service, 1));
        assert!(!waiting.acknowledged(4, service, 2) && !waiting.acknowledged(5, service, 1));
    }
    // The meter refuses the value before it is all there.
    let mut waiting = Outstanding::default();
    waiting.block(4, Service::Set, 1);
    let refused = Response::SetLastBlock {
        invoke,
        result: DataAccessResult::new(12),
        block: 1,
    };
    waiting.answered(&refused.encode()).unwrap();
    assert!(!waiting.waits(4) && !waiting.acknowledged(4, Service::Set, 1));
}

#[test]
fn an_id_with_an_answer_to_come_is_not_free() {
    let mut waiting = Outstanding::default();
    assert!(waiting.is_free(1));
    waiting.block(1, Service::Action, 1);
    waiting.command(Id::Short(1), Service::Action, None);
    assert!(!waiting.is_free(1) && waiting.is_free(2));
    waiting.answered(&acted(1)).unwrap();
    assert!(waiting.is_free(1), "a transfer was answered");
    // Two commands with one id: one answer is taken, the other may still come.
    waiting.command(Id::Short(1), Service::Action, None);
    waiting.command(Id::Short(1), Service::Action, None);
    waiting.answered(&acted(1)).unwrap();
    assert!(!waiting.is_free(1) && !waiting.waits(1));
}

#[test]
fn an_access_is_answered_by_its_long_id() {
    let answer = |id, count| {
        let accessed = Accessed {
            outcome: AccessOutcome::Get(OK),
            data: Data::Null,
        };
        Response::Access {
            invoke: LongInvokeId::new(id),
            time: None,
            specifications: None,
            results: vec![accessed; count],
        }
        .encode()
    };
    let mut waiting = Outstanding::default();
    assert!(!waiting.expects(0xDA));
    waiting.command(Id::Long(0x01_0001), Service::Get, Some(2));
    assert!(waiting.expects(0xDA) && !waiting.expects(0xC4));
    assert!(
        waiting.answered(&answer(1, 2)).is_err(),
        "the same low octet"
    );
    waiting.answered(&answer(0x01_0001, 2)).unwrap();
    assert!(waiting.answered(&answer(0x01_0001, 2)).is_err(), "once");
    waiting.command(Id::Long(2), Service::Get, Some(2));
    waiting.answered(&answer(2, 1)).unwrap();
    waiting.command(Id::Long(3), Service::Get, Some(1));
    assert!(
        waiting.answered(&answer(3, 2)).is_err(),
        "more than was asked"
    );
    for id in 0..100 {
        waiting.command(Id::Long(id), Service::Get, Some(1));
    }
    assert!(waiting.accesses.len() <= REMEMBERED);
}

#[test]
fn notifications_are_confirmed_once() {
    let mut waiting = Outstanding::default();
    let invoke = LongInvokeId::new(77);
    let notification = Notification::Data {
        invoke,
        time: None,
        body: Data::Null,
    };
    assert!(!waiting.is_unconfirmed(invoke.bits()));
    let answer = waiting.answered(&notification.encode()).unwrap();
    assert_eq!(answer, Answer::Notification);
    assert!(waiting.is_unconfirmed(invoke.bits()));
    waiting.confirm(invoke.bits());
    assert!(!waiting.is_unconfirmed(invoke.bits()));
    let event = Notification::Event {
        time: None,
        attribute: Attribute {
            class_id: 1,
            name: dlms::Obis::new([0, 0, 96, 1, 0, 255]),
            index: 2,
        },
        value: Data::Null,
    };
    waiting.answered(&event.encode()).unwrap();
    assert!(waiting.unconfirmed.is_empty(), "an event is not confirmed");
}

#[test]
fn an_initiate_is_answered_once() {
    let mut waiting = Outstanding::default();
    let response = InitiateResponse::new(Conformance::new(0x10), 1024).encode();
    assert!(waiting.answered(&response).is_err());
    waiting.initiate();
    assert!(waiting.expects(0x08) && waiting.expects(0x0E));
    assert_eq!(waiting.answered(&response).unwrap(), Answer::Initiated);
    assert!(waiting.answered(&response).is_err());
    waiting.initiate();
    let error = ConfirmedServiceError::initiate(1).encode();
    assert_eq!(waiting.answered(&error).unwrap(), Answer::Other);
}
