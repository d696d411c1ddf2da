//! HDLC: the frame codec, the deframer, and two stations with a bad line between them.

use std::collections::VecDeque;

use dlms::hdlc::{Config, Deframer, Effect, FLAG, Frame, Parameters, Station};

use super::input::Input;
use super::memory::measure;

/// The longest APDU a station receives here.
const LONGEST: usize = 1024;
/// The largest single allocation: four times the longest APDU, which no frame exceeds either.
const LARGEST: usize = 4 * LONGEST;
/// What two stations and their line may hold: windows of seven frames, APDUs that wait, and the frames on the way.
const BOUND: usize = 256 * 1024;
/// Frames on the line in each direction; more are lost.
const ON_THE_LINE: usize = 16;

/// Takes one input through what its first octet selects.
///
/// # Panics
/// If the code does, or if a promise of it is broken.
pub fn run(octets: &[u8]) {
    let Some((selector, rest)) = octets.split_first() else {
        return;
    };
    match selector % 3 {
        0 => frame(rest),
        1 => stream(rest),
        _ => stations(rest),
    }
}

fn frame(octets: &[u8]) {
    if let Ok(frame) = Frame::decode(octets) {
        // more flags than one at either end are fill
        let fill = |flags: usize| flags.saturating_sub(1);
        let before = octets.iter().take_while(|octet| **octet == FLAG).count();
        let after = octets
            .iter()
            .rev()
            .take_while(|octet| **octet == FLAG)
            .count();
        let bare = &octets[fill(before)..octets.len() - fill(after)];
        assert_eq!(frame.encode().as_deref(), Ok(bare));
    }
    if let Ok(parameters) = Parameters::decode(octets) {
        assert_eq!(Parameters::decode(&parameters.encode()), Ok(parameters));
    }
}

/// A stream in pieces gives the frames of the stream in one piece.
fn stream(octets: &[u8]) {
    let mut input = Input::new(octets);
    let size = usize::from(input.octet()) + 1;
    let stream = input.rest();
    let found = |size: usize| {
        let mut deframer = Deframer::default();
        let mut found = vec![];
        for mut piece in stream.chunks(size) {
            while let Some(one) = deframer.next(&mut piece) {
                found.push(one);
            }
            assert!(piece.is_empty());
        }
        (found, deframer.end())
    };
    let (whole, used) = measure(|| found(usize::MAX));
    assert!(used.peak <= 16 * 1024 + 64 * stream.len());
    assert_eq!(whole, found(size));
}

struct Line {
    client: Station,
    meter: Station,
    to_meter: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
    now: u64,
}

fn config(input: &mut Input<'_>) -> Config {
    Config {
        address_octets: [1, 2, 4][usize::from(input.octet()) % 3],
        physical: 0,
        max_info: 32 + u16::from(input.octet()) * 4,
        window: input.octet() % 9,
        timeout_ms: 100,
        retries: 3,
    }
}

fn stations(octets: &[u8]) {
    let mut input = Input::new(octets);
    let ours = config(&mut input);
    let theirs = Config {
        address_octets: ours.address_octets,
        ..config(&mut input)
    };
    let (Ok(client), Ok(meter)) = (
        Station::primary(ours, 16, 1, LONGEST),
        Station::secondary(theirs, 1, LONGEST),
    ) else {
        return;
    };
    let ((), used) = measure(|| {
        let mut line = Line {
            client,
            meter,
            to_meter: VecDeque::new(),
            to_client: VecDeque::new(),
            now: 0,
        };
        line.client.connect(0);
        line.collect();
        while !input.is_empty() {
            line.step(&mut input);
        }
    });
    assert!(used.largest <= LARGEST, "{} octets at once", used.largest);
    assert!(used.peak <= BOUND, "{} octets held", used.peak);
}

impl Line {
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.octet();
        match what % 12 {
            0..=2 => self.deliver(true),
            3..=5 => self.deliver(false),
            6 => {
                let length = usize::from(input.number()) % (LONGEST + 9);
                drop(self.client.send(self.now, &vec![what; length]));
            }
            7 => {
                let length = usize::from(input.number()) % (LONGEST + 9);
                drop(self.meter.send(self.now, &vec![what; length]));
            }
            8 => {
                self.now += u64::from(input.octet()) * 10;
                self.client.timeout(self.now);
            }
            9 => self.spoil(input),
            10 => {
                let octets = input.octets();
                if what & 0x80 == 0 {
                    self.client.receive(self.now, octets);
                } else {
                    self.meter.receive(self.now, octets);
                }
            }
            _ => match input.octet() % 4 {
                0 => self.client.connect(self.now),
                1 => self.client.disconnect(self.now),
                2 => self.client.listen(self.now),
                _ => {
                    self.to_meter.clear();
                    self.to_client.clear();
                }
            },
        }
        self.collect();
    }

    fn deliver(&mut self, to_meter: bool) {
        if to_meter {
            if let Some(frame) = self.to_meter.pop_front() {
                self.meter.receive(self.now, &frame);
            }
        } else if let Some(frame) = self.to_client.pop_front() {
            self.client.receive(self.now, &frame);
        }
    }

    /// Loses, doubles, cuts or changes the first frame of a direction.
    fn spoil(&mut self, input: &mut Input<'_>) {
        let how = input.octet();
        let line = if how & 0x80 == 0 {
            &mut self.to_meter
        } else {
            &mut self.to_client
        };
        let Some(mut frame) = line.pop_front() else {
            return;
        };
        match how % 4 {
            0 => {}
            1 => {
                line.push_front(frame.clone());
                line.push_front(frame);
                line.truncate(ON_THE_LINE);
            }
            2 => {
                frame.truncate(usize::from(input.octet()) % frame.len().max(1));
                line.push_front(frame);
            }
            _ => {
                let at = usize::from(input.octet()) % frame.len().max(1);
                if let Some(octet) = frame.get_mut(at) {
                    *octet ^= input.octet();
                }
                line.push_front(frame);
            }
        }
    }

    /// Takes what the stations want done: a bounded number of things for each step.
    fn collect(&mut self) {
        for (station, line) in [
            (&mut self.client, &mut self.to_meter),
            (&mut self.meter, &mut self.to_client),
        ] {
            for steps in 0.. {
                assert!(steps < 100, "a step led to a hundred effects");
                match station.poll() {
                    Some(Effect::Transmit(frame)) => {
                        assert!(Frame::decode(&frame).is_ok());
                        line.push_back(frame);
                        line.truncate(ON_THE_LINE);
                    }
                    Some(Effect::Connected | Effect::Disconnected | Effect::Failed(_)) => {}
                    None => break,
                }
            }
            while let Some((_, apdu)) = station.take() {
                assert!(apdu.len() <= LONGEST);
            }
        }
    }
}
