//! Values that come in blocks.

use dlms::client::Event;
use dlms::{
    Cause, Command, Conformance, Data, DataAccessResult, InvokeId, Mechanism, Protection, Request,
    Response,
};

use crate::pair::{COUNTER, Pair, client_config, get, meter_config};

fn profile() -> Data {
    let row = |hour| {
        Data::Structure(vec![
            Data::DateTime([hour; 12]),
            Data::DoubleLongUnsigned(7),
            Data::Unsigned(hour),
        ])
    };
    Data::Array((0..200).map(row).collect())
}

fn pair(protection: Protection, max_pdu: u16) -> Pair {
    let mut config = client_config(Mechanism::None, protection);
    config.max_pdu = max_pdu;
    let mut pair = Pair::with(
        config,
        meter_config(Mechanism::None, protection.is_ciphered()),
    );
    pair.objects = Box::new(|request| Response::GetData {
        invoke: request.invoke(),
        data: profile(),
    });
    pair.open();
    pair.event();
    pair
}

#[test]
fn a_long_value_arrives_whole_and_no_apdu_exceeds_what_the_client_receives() {
    for protection in [Protection::Plain, Protection::Glo, Protection::GeneralGlo] {
        for max_pdu in [60, 127, 128, 129, 255, 256, 300, 1024] {
            let mut pair = pair(protection, max_pdu);
            pair.request(get());
            assert_eq!(pair.value(), profile());
            assert_eq!(pair.asked.len(), 1, "the objects are asked once");
            let blocks = pair.frames.iter().skip(2).skip(1).step_by(2);
            let longest = blocks.map(|frame| frame.apdu.len()).max().unwrap();
            assert!(longest <= usize::from(max_pdu), "{longest} > {max_pdu}");
            assert!(
                longest + 16 > usize::from(max_pdu),
                "blocks are filled: {longest} of {max_pdu}"
            );
        }
    }
}

#[test]
fn a_value_that_fits_is_not_split_and_zero_is_no_limit() {
    let mut pair = pair(Protection::Glo, 0);
    pair.request(get());
    assert_eq!(pair.value(), profile());
    assert_eq!(pair.frames.len(), 4);
}

#[test]
fn a_command_longer_than_a_frame_of_the_link_goes_in_blocks() {
    let blocks = Conformance::SET | Conformance::BLOCK_TRANSFER_SET;
    for protection in [Protection::Plain, Protection::Glo, Protection::GeneralGlo] {
        let mut client = client_config(Mechanism::None, protection);
        client.frame = 100;
        client.conformance = blocks;
        let mut meter = meter_config(Mechanism::None, protection.is_ciphered());
        meter.conformance = blocks | Conformance::GENERAL_PROTECTION;
        let mut pair = Pair::with(client, meter);
        pair.open();
        let Event::Opened { max_pdu, .. } = pair.event() else {
            panic!("not opened")
        };
        assert!(max_pdu > 500, "the meter receives more");
        pair.request(Command::Set {
            attribute: COUNTER,
            selection: None,
            value: Data::OctetString(vec![7; 300]),
        });
        let sent = pair.frames.iter().skip(2).step_by(2);
        let lengths: Vec<usize> = sent.map(|frame| frame.apdu.len()).collect();
        assert!(
            lengths[0] > 90 && lengths.iter().all(|length| *length <= 100),
            "{lengths:?}"
        );
    }
}

#[test]
fn without_block_transfer_a_long_value_is_an_exception() {
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.conformance = Conformance::GET;
    config.max_pdu = 100;
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.objects = Box::new(|request| Response::GetData {
        invoke: request.invoke(),
        data: profile(),
    });
    pair.open();
    pair.event();
    pair.request(get());
    let Event::Answered(Response::Exception(exception)) = pair.event() else {
        panic!("no exception")
    };
    assert_eq!(exception.name(), "pdu-too-long");
}

#[test]
fn doubled_blocks_are_taken_once() {
    for protection in [Protection::Plain, Protection::Glo] {
        let mut pair = pair(protection, 300);
        pair.to_client = Box::new(|frame| vec![frame.clone(), frame]);
        pair.request(get());
        assert_eq!(pair.value(), profile());
    }
}

/// A client that has asked, and a meter that the test plays.
fn asked() -> (Pair, InvokeId) {
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.max_pdu = 0;
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.open();
    pair.event();
    pair.to_meter = Box::new(|_| vec![]);
    pair.request(get());
    let invoke = Request::decode(&pair.frames.last().unwrap().apdu)
        .unwrap()
        .invoke();
    (pair, invoke)
}

fn block(invoke: InvokeId, last: bool, block: u32, payload: &[u8]) -> Vec<u8> {
    Response::GetBlock {
        invoke,
        last,
        block,
        payload: Ok(payload.to_vec()),
    }
    .encode()
}

#[test]
fn blocks_out_of_order_empty_or_malformed_fail() {
    let (mut pair, invoke) = asked();
    pair.inject(block(invoke, false, 2, &[17]));
    assert_eq!(pair.failure(), Cause::Mismatch("a block is out of order"));

    let (mut pair, invoke) = asked();
    pair.inject(block(invoke, false, 1, &[]));
    assert_eq!(
        pair.failure(),
        Cause::Mismatch("a block that is not the last is empty")
    );

    let (mut pair, invoke) = asked();
    pair.inject(block(invoke, false, 1, &[17]));
    assert_eq!(
        Request::decode(&pair.frames.last().unwrap().apdu),
        Ok(Request::GetNext { invoke, block: 1 })
    );
    pair.inject(
        Response::GetData {
            invoke,
            data: Data::Null,
        }
        .encode(),
    );
    assert!(matches!(pair.failure(), Cause::Mismatch(_)));

    let (mut pair, invoke) = asked();
    pair.inject(block(invoke, true, 1, &[17]));
    assert!(matches!(pair.failure(), Cause::Malformed(_)));
}

#[test]
fn an_endless_value_is_given_up() {
    let (mut pair, invoke) = asked();
    let part = vec![0; 60_000];
    for number in 1..=17 {
        pair.inject(block(invoke, false, number, &part));
    }
    assert!(pair.events.is_empty());
    pair.inject(block(invoke, false, 18, &part));
    assert_eq!(
        pair.failure(),
        Cause::AnswerTooLong {
            limit: dlms::MAX_ANSWER
        }
    );
}

#[test]
fn an_error_in_the_middle_is_the_answer() {
    let (mut pair, invoke) = asked();
    pair.inject(block(invoke, false, 1, &[17]));
    let result = DataAccessResult::LONG_GET_ABORTED;
    pair.inject(
        Response::GetBlock {
            invoke,
            last: true,
            block: 2,
            payload: Err(result),
        }
        .encode(),
    );
    assert_eq!(
        pair.event(),
        Event::Answered(Response::GetError { invoke, result })
    );
    assert!(pair.client.is_ready());
}

#[test]
fn a_meter_refuses_a_next_it_does_not_expect() {
    for (number, due) in [
        (2, DataAccessResult::DATA_BLOCK_NUMBER_INVALID),
        (1, DataAccessResult::SUCCESS),
    ] {
        let mut pair = pair(Protection::Plain, 100);
        pair.to_client = Box::new(|_| vec![]);
        pair.request(get());
        let invoke = pair.asked[0].invoke();
        let mut next = |number| {
            let apdu = Request::GetNext {
                invoke,
                block: number,
            }
            .encode();
            let octets = dlms::Frame {
                source: 1,
                destination: 1,
                apdu,
            }
            .encode()
            .unwrap();
            pair.meter.handle_bytes(0, &octets);
            pair.run();
            Response::decode(&pair.frames.last().unwrap().apdu).unwrap()
        };
        let Response::GetBlock { payload, .. } = next(number) else {
            panic!("no block")
        };
        assert_eq!(payload.err().unwrap_or(DataAccessResult::SUCCESS), due);
        if due != DataAccessResult::SUCCESS {
            let Response::GetBlock { payload, .. } = next(1) else {
                panic!("no block")
            };
            assert_eq!(payload, Err(DataAccessResult::NO_LONG_GET_IN_PROGRESS));
        }
    }
}
