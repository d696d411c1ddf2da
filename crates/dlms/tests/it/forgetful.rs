//! Commands in general blocks to meters that forget: what they had all of must not reach them whole once more.

use dlms::client::Event;
use dlms::gbt::{Received, Receiver};
use dlms::{
    Awaiting, Cause, Command, Conformance, Data, GeneralBlock, InvokeId, LinkConfig, Mechanism,
    Protection, Request, Response,
};

use crate::pair::{COUNTER, Pair, TIMEOUT, client_config, get, meter_config};

/// A client that is open, and a meter that the test plays from here on.
fn opened(link: &LinkConfig) -> Pair {
    let services = Conformance::GET | Conformance::SET | Conformance::GENERAL_BLOCK_TRANSFER;
    let mut client = client_config(Mechanism::None, Protection::Plain);
    (client.link, client.conformance) = (link.clone(), services);
    let mut meter = meter_config(Mechanism::None, false);
    (meter.link, meter.conformance, meter.max_pdu) = (link.clone(), services, 70);
    let mut pair = Pair::with(client, meter);
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    pair.to_meter = Box::new(|_| vec![]);
    pair
}

fn set() -> Command {
    Command::Set {
        attribute: COUNTER,
        selection: None,
        value: Data::OctetString(vec![7; 285]),
    }
}

/// A meter that executes what it has all of, and forgets that it had it.
struct Forgetful {
    receiver: Receiver,
    /// Frames it has seen.
    seen: usize,
    executed: Vec<Request>,
    /// How often the last block came.
    ends: usize,
}

impl Forgetful {
    fn of(pair: &Pair) -> Self {
        Self {
            receiver: Receiver::new(1024, 8, 0),
            seen: pair.frames.len(),
            executed: vec![],
            ends: 0,
        }
    }

    /// Takes what the client sent, and acknowledges what it has to.
    fn take(&mut self, pair: &mut Pair) {
        while let Some(frame) = pair.frames.get(self.seen) {
            self.seen += 1;
            let block = GeneralBlock::decode(&frame.apdu).unwrap();
            self.ends += usize::from(block.last && !block.data.is_empty());
            match self.receiver.take(&block) {
                Ok(Received::Acknowledge(block)) => pair.inject(block.encode()),
                Ok(Received::Complete(apdu)) => {
                    self.executed.push(Request::decode(&apdu).unwrap());
                    self.receiver = Receiver::new(1024, 8, 0);
                }
                Ok(Received::More) | Err(_) => {}
            }
        }
    }
}

fn acknowledgement(number: u16, ack: u16) -> Vec<u8> {
    GeneralBlock {
        last: true,
        streaming: false,
        window: 8,
        block: number,
        ack,
        data: vec![],
    }
    .encode()
}

#[test]
fn a_meter_that_forgets_is_never_sent_the_last_block_twice() {
    for link in [LinkConfig::Tcp, LinkConfig::Udp] {
        let mut pair = opened(&link);
        let mut meter = Forgetful::of(&pair);
        // the client learns how many blocks the meter takes in a row: the next command leaves in one go
        pair.request(set());
        meter.take(&mut pair);
        let result = dlms::DataAccessResult::SUCCESS;
        let invoke = InvokeId::new(1);
        pair.inject(Response::Set { invoke, result }.encode());
        assert!(matches!(pair.event(), Event::Answered(_)), "{link:?}");

        pair.request(set());
        meter.take(&mut pair);
        assert_eq!((meter.executed.len(), meter.ends), (2, 2), "{link:?}");
        // it is slow, and asks for what it has forgotten
        for number in 2..6 {
            pair.inject(acknowledgement(number, 0));
            meter.take(&mut pair);
        }
        while pair.events.is_empty() {
            pair.expire();
            meter.take(&mut pair);
        }
        let awaiting = Awaiting::Answer;
        assert_eq!(pair.failure(), Cause::TimedOut { awaiting }, "{link:?}");
        assert_eq!((meter.executed.len(), meter.ends), (2, 2), "{link:?}");
    }
}

#[test]
fn over_udp_a_block_that_is_named_is_sent_again_and_before_the_last_has_left_any() {
    let mut pair = opened(&LinkConfig::Udp);
    let numbers = |pair: &mut Pair| -> Vec<u16> {
        let sent = pair.frames.drain(..);
        sent.map(|frame| GeneralBlock::decode(&frame.apdu).unwrap().block)
            .collect()
    };
    pair.frames.clear();
    pair.request(set());
    assert_eq!(numbers(&mut pair), [1]);
    pair.expire();
    assert_eq!(numbers(&mut pair), [1], "it was lost");
    pair.inject(acknowledgement(1, 1));
    assert_eq!(numbers(&mut pair), [2, 3, 4, 5]);
    pair.inject(acknowledgement(2, 3));
    assert_eq!(numbers(&mut pair), [4, 5], "the fourth was lost");
    pair.inject(acknowledgement(2, 3));
    pair.expire();
    assert_eq!(
        numbers(&mut pair),
        [0_u16; 0],
        "the same once more, and silence"
    );
}

#[test]
fn only_blocks_that_bring_it_further_put_the_end_of_waiting_off() {
    let part = |number, data: &[u8]| {
        GeneralBlock {
            last: false,
            streaming: false,
            window: 1,
            block: number,
            ack: 0,
            data: data.to_vec(),
        }
        .encode()
    };
    for link in [LinkConfig::Tcp, LinkConfig::Udp] {
        let mut pair = opened(&link);
        pair.request(get());
        let begun = pair.now;
        // the first block of the answer
        pair.now = begun + TIMEOUT / 2;
        pair.inject(part(1, &[0xC4, 1]));
        // the same again, and acknowledgements
        for late in 1..10 {
            pair.now = begun + TIMEOUT / 2 + late * TIMEOUT / 10;
            pair.inject(part(1, &[0xC4, 1]));
            pair.inject(acknowledgement(u16::try_from(late).unwrap(), 0));
            if link == LinkConfig::Udp {
                pair.inject(vec![0xE0]);
            }
        }
        pair.client.handle_timeout(pair.now);
        pair.run();
        assert!(pair.events.is_empty(), "{link:?}: the first block counts");
        pair.now = begun + TIMEOUT / 2 + TIMEOUT;
        pair.client.handle_timeout(pair.now);
        pair.run();
        assert!(matches!(pair.event(), Event::Failed(_)), "{link:?}");
    }
}
