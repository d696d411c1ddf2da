//! Two HDLC stations with a line between them that does everything a line can do but overtake.

use std::collections::VecDeque;

use dlms::hdlc::{Config, Effect, Station};
use proptest::prelude::*;

use crate::stations::{config, primary, secondary};

#[derive(Debug, Clone)]
enum Harm {
    None,
    Drop,
    Double,
    Corrupt(usize, u8),
    Truncate(usize),
    Junk(Vec<u8>),
    Split(usize),
    Hold,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        6 => Just(Harm::None),
        1 => Just(Harm::Drop),
        1 => Just(Harm::Double),
        1 => (any::<usize>(), 1_u8..).prop_map(|(at, bits)| Harm::Corrupt(at, bits)),
        1 => any::<usize>().prop_map(Harm::Truncate),
        1 => proptest::collection::vec(any::<u8>(), 1..20).prop_map(Harm::Junk),
        1 => any::<usize>().prop_map(Harm::Split),
        1 => Just(Harm::Hold),
    ]
}

#[derive(Default)]
struct Line {
    /// When they arrive, and what.
    under_way: VecDeque<(u64, Vec<u8>)>,
    held: Vec<u8>,
}

impl Line {
    fn put(&mut self, now: u64, octets: Vec<u8>, harm: Harm, delay: u64) {
        let at = self
            .under_way
            .back()
            .map_or(0, |(at, _)| *at)
            .max(now + delay);
        let held = self.held.len();
        let mut octets = [std::mem::take(&mut self.held), octets].concat();
        match harm {
            Harm::None => self.under_way.push_back((at, octets)),
            Harm::Drop => {}
            // A frame comes twice, not a stretch of the line: SNRM and what followed it, replayed together, is a new
            // link, on which an association is no longer open.
            Harm::Double => {
                let frame = octets.split_off(held);
                self.under_way.push_back((at, octets));
                self.under_way.push_back((at, frame.clone()));
                self.under_way.push_back((at + delay, frame));
            }
            Harm::Corrupt(place, bits) => {
                let place = place % octets.len();
                octets[place] ^= bits;
                self.under_way.push_back((at, octets));
            }
            Harm::Truncate(place) => {
                octets.truncate(place % octets.len());
                self.under_way.push_back((at, octets));
            }
            Harm::Junk(junk) => self.under_way.push_back((at, [junk, octets].concat())),
            Harm::Split(place) => {
                let rest = octets.split_off(place % octets.len());
                self.under_way.push_back((at, octets));
                self.under_way.push_back((at + 1, rest));
            }
            // Comes together with the next.
            Harm::Hold => self.held = octets,
        }
    }

    fn arrived(&mut self, now: u64) -> Option<Vec<u8>> {
        self.under_way
            .pop_front_if(|(at, _)| *at <= now)
            .map(|(_, octets)| octets)
    }
}

struct Story {
    client: Station,
    meter: Station,
    to_meter: Line,
    to_client: Line,
    harms: Vec<(Harm, u64)>,
    used: usize,
    now: u64,
    asked: u32,
    served: Vec<u32>,
    answered: Vec<u32>,
    /// Answers the meter still works on.
    work: VecDeque<(u64, Vec<u8>)>,
    end: Option<Effect>,
}

const REQUESTS: u32 = 12;
const PATIENCE: u64 = 120_000;

/// Request and answer number `k`, of a length that changes.
fn apdu(tag: u8, number: u32) -> Vec<u8> {
    let filler = usize::try_from(number * 37 % 300).unwrap();
    [&[tag][..], &number.to_be_bytes(), &vec![0x7E; filler]].concat()
}

fn number(apdu: &[u8]) -> u32 {
    u32::from_be_bytes(apdu[1..5].try_into().unwrap())
}

impl Story {
    fn harm(&mut self) -> (Harm, u64) {
        // The line gets better in the end, so that a story can.
        let harm = self.harms.get(self.used).cloned();
        self.used += 1;
        harm.unwrap_or((Harm::None, 1))
    }

    fn client_effects(&mut self) {
        while let Some(effect) = self.client.poll() {
            match effect {
                Effect::Transmit(octets) => {
                    let (harm, delay) = self.harm();
                    self.to_meter.put(self.now, octets, harm, delay);
                }
                Effect::Connected => self.ask(),
                end @ (Effect::Disconnected | Effect::Failed(_)) => self.end = Some(end),
            }
        }
        while let Some((_, answer)) = self.client.take() {
            assert_eq!(answer, apdu(0xC4, number(&answer)));
            self.answered.push(number(&answer));
            if self.asked < REQUESTS {
                self.ask();
            } else {
                self.client.disconnect(self.now);
            }
        }
    }

    fn ask(&mut self) {
        let request = apdu(0xC0, self.asked);
        self.asked += 1;
        self.client.send(self.now, &request).unwrap();
    }

    fn meter_effects(&mut self) {
        while let Some(effect) = self.meter.poll() {
            if let Effect::Transmit(octets) = effect {
                let (harm, delay) = self.harm();
                self.to_client.put(self.now, octets, harm, delay);
            }
        }
        while let Some((_, request)) = self.meter.take() {
            assert_eq!(request, apdu(0xC0, number(&request)));
            self.served.push(number(&request));
            let (_, delay) = self.harm();
            self.work
                .push_back((self.now + delay * 3, apdu(0xC4, number(&request))));
        }
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(octets) = self.to_meter.arrived(now) {
            self.meter.receive(now, &octets);
        }
        while let Some(octets) = self.to_client.arrived(now) {
            self.client.receive(now, &octets);
        }
        while let Some((_, answer)) = self.work.pop_front_if(|(at, _)| *at <= now) {
            // A meter that was disconnected in between has nobody to answer.
            let _ = self.meter.send(now, &answer).is_ok();
        }
        self.client.timeout(now);
        if now >= PATIENCE {
            self.client.disconnect(now);
        }
        self.meter_effects();
        self.client_effects();
    }

    fn run(&mut self) {
        self.client.connect(0);
        self.client_effects();
        for _ in 0..20_000 {
            if self.end.is_some() {
                return;
            }
            let next = [
                self.to_meter.under_way.front().map(|(at, _)| *at),
                self.to_client.under_way.front().map(|(at, _)| *at),
                self.work.front().map(|(at, _)| *at),
                self.client.deadline(),
            ];
            let next = next.into_iter().flatten().min();
            self.now = self.now.max(next.expect("something is always to come"));
            self.step();
        }
        panic!("no end: {:?} {:?}", self.client, self.meter);
    }
}

fn story(harms: Vec<(Harm, u64)>, ours: Config, theirs: Config) -> Story {
    let mut story = Story {
        client: primary(ours),
        meter: secondary(theirs),
        to_meter: Line::default(),
        to_client: Line::default(),
        harms,
        used: 0,
        now: 0,
        asked: 0,
        served: vec![],
        answered: vec![],
        work: VecDeque::new(),
        end: None,
    };
    story.run();
    story
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn a_bad_line_ends_in_a_defined_state_and_doubles_nothing(
        harms in proptest::collection::vec((harm(), 0_u64..1500), 0..200),
        (max_info, window) in (16_u16..200, 1_u8..=7),
        (their_info, their_window) in (16_u16..200, 1_u8..=7),
    ) {
        let story = story(harms, config(max_info, window), config(their_info, their_window));
        prop_assert!(story.served.is_sorted_by(|a, b| a < b), "{:?}", story.served);
        prop_assert!(story.answered.is_sorted_by(|a, b| a < b), "{:?}", story.answered);
        prop_assert!(story.served.len() >= story.answered.len());
        prop_assert_eq!(story.answered.len() == 12, story.asked == 12 && story.answered.last() == Some(&11));
    }

    #[test]
    fn a_line_that_only_splits_merges_and_delays_a_little_loses_nothing(
        harms in proptest::collection::vec(
            (prop_oneof![Just(Harm::None), any::<usize>().prop_map(Harm::Split)], 0_u64..400), 0..300),
        (max_info, window) in (16_u16..200, 1_u8..=7),
    ) {
        let story = story(harms, config(max_info, window), config(max_info, window));
        prop_assert_eq!(story.end, Some(Effect::Disconnected));
        prop_assert_eq!(story.answered, (0..REQUESTS).collect::<Vec<_>>());
        prop_assert_eq!(story.served, (0..REQUESTS).collect::<Vec<_>>());
    }

    #[test]
    fn no_octets_make_a_station_panic_or_hold_more_than_a_frame(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
        meter in any::<bool>(),
    ) {
        let mut station = if meter { secondary(config(64, 3)) } else { primary(config(64, 3)) };
        station.connect(0);
        for part in &parts {
            station.receive(0, part);
            station.timeout(station.deadline().unwrap_or(0));
            while station.poll().is_some() || station.take().is_some() {}
        }
    }
}
