//! A client and a meter on one table: what passes between them lies there until the input moves it.

use std::collections::{HashMap, VecDeque};

use dlms::client::{self, Client, ClientConfig};
use dlms::meter::{self, ClientAccess, Meter, MeterConfig};
use dlms::{
    CipherFailure, CipherJob, CipherOutput, Conformance, Frame, KeyChoice, LinkConfig, Mechanism,
    Protection, Request, SecurityControl, Suite, SystemTitle, hdlc,
};
use softcipher::{Keys, Setup, SoftCipher};

use super::input::Input;
use super::memory::measure;
use super::objects::{self, Id};

const CLIENT: SystemTitle = SystemTitle::new(*b"LKHcli01");
const METER: SystemTitle = SystemTitle::new(*b"LKMmet01");
const PASSWORD: &[u8] = b"12345678";
/// Steps of one input; what it says after that is not heard.
const STEPS: usize = 400;
/// Frames that lie on the wire in one direction; more are lost.
const ON_THE_WIRE: usize = 64;
/// Octets that may come in one piece.
const MERGED: usize = 4096;
/// Rounds in which an interaction that nobody disturbs any more must come to rest.
const ROUNDS: usize = 20_000;
/// Octets at once for each octet that has come: one is at most two values of 32 (compact arrays).
const PER_OCTET: usize = 64;

/// Which of the two is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Meter,
}

/// One side: its keys, what it asked of them, and what lies on the wire towards it.
struct Place {
    keys: SoftCipher,
    jobs: VecDeque<CipherJob>,
    wire: VecDeque<Vec<u8>>,
    timer: u64,
    /// The octets it was given, of whatever kind.
    given: usize,
}

/// How far an interaction came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// Associations that were opened, as the client sees it.
    pub opened: usize,
    /// Commands that were executed.
    pub executed: usize,
    /// Commands that were answered.
    pub answered: usize,
    /// Whether the association was released in order.
    pub released: bool,
}

pub(super) struct Table {
    target: Side,
    client: Client,
    meter: Meter,
    places: [Place; 2],
    asked: Option<Request>,
    now: u64,
    pdu: usize,
    id: Id,
    executed: HashMap<Id, usize>,
    /// Nobody but the holders of the keys can make an APDU that is taken.
    protected: bool,
    /// Nothing was put on the wire that was not sent, and nothing twice.
    honest: bool,
    over: bool,
    challenges: u8,
    reached: Reached,
}

impl Table {
    pub(super) fn play(octets: &[u8], target: Side) -> Reached {
        let mut input = Input::new(octets);
        let mut table = Self::new(&mut input, target);
        table.on(Side::Client, 0, |table| table.client.open(0));
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            table.step(&mut input);
        }
        table.settle();
        table.reached
    }

    fn new(input: &mut Input<'_>, target: Side) -> Self {
        let mechanism = Mechanism::from_id(input.octet() % 8).unwrap_or(Mechanism::None);
        let protection = protection(input);
        let (authenticated, encrypted) =
            [(true, true), (true, false), (false, true)][usize::from(input.octet()) % 3];
        let control = SecurityControl::of(Suite::Suite0, authenticated, encrypted);
        let link = match input.octet() % 4 {
            0 | 1 => LinkConfig::Tcp,
            2 => LinkConfig::Udp,
            _ => LinkConfig::Hdlc(hdlc::Config::default()),
        };
        let pdu = [128, 256, 512, 1024][usize::from(input.octet()) % 4];
        let conformance = Conformance::new(if input.octet() & 1 == 0 {
            0xFF_FFFF
        } else {
            0x10_1FFF
        });
        let client = Client::new(ClientConfig {
            link: link.clone(),
            client_sap: 1,
            server_sap: 1,
            mechanism,
            protection,
            control,
            client_title: Some(CLIENT),
            expected_server_title: Some(METER),
            authentication_value: match mechanism {
                Mechanism::None => vec![],
                Mechanism::Low => PASSWORD.to_vec(),
                _ => b"K56iVagYK56iVagYK56iVagYK56iVagY".to_vec(),
            },
            max_pdu: pdu,
            conformance,
            answer_timeout_ms: 1000,
            release: input.octet() & 1 == 0,
            ..ClientConfig::default()
        });
        let access = ClientAccess {
            forms: vec![protection],
            control,
            ..ClientAccess::plain(1, mechanism, PASSWORD.to_vec())
        };
        let meter = Meter::new(
            MeterConfig {
                link,
                max_pdu: pdu,
                conformance,
                ..MeterConfig::new(METER, vec![access])
            },
            challenge(0),
        );
        Self {
            target,
            client,
            meter,
            places: [Place::of(CLIENT), Place::of(METER)],
            asked: None,
            now: 0,
            pdu: usize::from(pdu),
            id: 0,
            executed: HashMap::new(),
            protected: protection.is_ciphered() && authenticated,
            honest: true,
            over: false,
            challenges: 0,
            reached: Reached::default(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let target = self.target;
        match input.octet() % 16 {
            0 | 1 => self.deliver(Side::Meter),
            2 | 3 => self.deliver(Side::Client),
            4 => self.work(Side::Client),
            5 => self.work(Side::Meter),
            6 => self.serve(),
            7 => {
                let command = objects::command(input, &mut self.id);
                self.on(Side::Client, 0, |table| {
                    drop(table.client.request(table.now, command));
                });
            }
            8 => {
                self.now += 50 * u64::from(input.octet());
                self.timers();
            }
            9 => self.bend(input),
            10 => {
                let octets = input.octets();
                self.honest = false;
                self.give(target, octets);
            }
            11 => {
                let apdu = input.octets().to_vec();
                self.honest = false;
                let frame = Frame {
                    source: 1,
                    destination: 1,
                    apdu,
                };
                self.give(target, &frame.encode().unwrap_or_default());
            }
            12 => self.cheat(input),
            13 => match input.octet() % 3 {
                0 => self.on(Side::Client, 0, |table| table.client.release(table.now)),
                1 => self.on(Side::Client, 0, |table| table.client.closed()),
                _ => self.on(Side::Client, 0, |table| table.client.open(table.now)),
            },
            // what happens if nobody interferes
            _ => drop(self.round()),
        }
    }

    /// Everything that is due, once. Says whether anything was.
    fn round(&mut self) -> bool {
        let busy = self.places.iter().any(Place::is_busy) || self.asked.is_some();
        for side in [Side::Client, Side::Meter] {
            self.work(side);
            self.deliver(side);
        }
        self.serve();
        busy
    }

    /// Without any more interference everything comes to rest, and the client knows where it stands.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            if self.round() {
                continue;
            }
            let state = format!("{:?}", self.client);
            if self.over || self.client.is_ready() || state == "Client(not open)" {
                return;
            }
            self.now = self.now.max(self.places[0].timer).max(self.places[1].timer) + 1;
            self.timers();
        }
        panic!(
            "{:?} and {:?} did not come to rest",
            self.client, self.meter
        );
    }

    fn deliver(&mut self, to: Side) {
        if let Some(octets) = self.place(to).wire.pop_front() {
            self.give(to, &octets);
        }
    }

    fn give(&mut self, to: Side, octets: &[u8]) {
        self.on(to, octets.len(), |table| match to {
            Side::Client => table.client.handle_bytes(table.now, octets),
            Side::Meter => table.meter.handle_bytes(table.now, octets),
        });
    }

    /// Does the oldest job as it should be done.
    fn work(&mut self, side: Side) {
        let place = self.place(side);
        if let Some(CipherJob { id, op }) = place.jobs.pop_front() {
            let result = place.keys.run(op);
            self.finish(side, id, result);
        }
    }

    fn finish(&mut self, side: Side, id: dlms::JobId, result: Result<CipherOutput, CipherFailure>) {
        let octets = match &result {
            Ok(CipherOutput::Apdu(apdu, _)) => apdu.len(),
            Ok(CipherOutput::Token(token)) => token.len(),
            Ok(CipherOutput::Verified) | Err(_) => 0,
        };
        self.on(side, octets, |table| match side {
            Side::Client => table.client.handle_cipher(table.now, id, result),
            Side::Meter => table.meter.handle_cipher(table.now, id, result),
        });
    }

    /// Does the oldest job of the target as the input says.
    fn cheat(&mut self, input: &mut Input<'_>) {
        let how = input.octet();
        let octets = input.octets().to_vec();
        let target = self.target;
        let Some(CipherJob { id, .. }) = self.place(target).jobs.pop_front() else {
            return;
        };
        let result = match how % 8 {
            0 => Err(CipherFailure::AuthFailed),
            1 => Err(CipherFailure::Replay {
                expected: u32::from(how),
            }),
            2 => Err(CipherFailure::Refused),
            3 => Err(CipherFailure::Unavailable),
            4 => Ok(CipherOutput::Verified),
            5 => Ok(CipherOutput::Token(octets)),
            _ => Ok(CipherOutput::Apdu(octets, u32::from(how))),
        };
        if result.is_ok() {
            self.protected = false;
            self.honest = false;
        }
        self.finish(target, id, result);
    }

    fn serve(&mut self) {
        if let Some(request) = self.asked.take() {
            let response = objects::serve(&request);
            let octets = response.encode().len();
            self.on(Side::Meter, octets, |table| {
                drop(table.meter.answer(table.now, response));
            });
        }
    }

    fn timers(&mut self) {
        self.on(Side::Client, 0, |table| {
            table.client.handle_timeout(table.now)
        });
        self.on(Side::Meter, 0, |table| {
            table.meter.handle_timeout(table.now)
        });
    }

    /// Loses, doubles, swaps, cuts, splits, merges or changes what lies first on the wire.
    fn bend(&mut self, input: &mut Input<'_>) {
        let how = input.octet();
        let side = if how & 0x80 == 0 {
            Side::Client
        } else {
            Side::Meter
        };
        let at = usize::from(input.octet());
        let wire = &mut self.places[side as usize].wire;
        let Some(mut octets) = wire.pop_front() else {
            return;
        };
        let middle = at % octets.len().max(1);
        match how % 7 {
            0 => {}
            1 => {
                self.honest = false;
                wire.push_front(octets.clone());
                wire.push_front(octets);
            }
            2 => wire.insert(1.min(wire.len()), octets),
            3 => {
                octets.truncate(middle);
                wire.push_front(octets);
            }
            4 => {
                let rest = octets.split_off(middle);
                wire.push_front(rest);
                wire.push_front(octets);
            }
            5 => {
                // doubled and merged again and again, they would fill all memory
                if octets.len() < MERGED {
                    octets.extend(wire.pop_front().unwrap_or_default());
                }
                wire.push_front(octets);
            }
            _ => {
                self.honest = false;
                if let Some(octet) = octets.get_mut(middle) {
                    *octet ^= input.octet();
                }
                wire.push_front(octets);
            }
        }
        wire.truncate(ON_THE_WIRE);
    }

    /// A call into one side, with what must hold of it; then what it wants done.
    fn on(&mut self, side: Side, octets: usize, call: impl FnOnce(&mut Self)) {
        let place = self.place(side);
        place.given += octets;
        let given = place.given;
        let ((), used) = measure(|| call(self));
        if side == self.target {
            let bound = 4 * self.pdu.max(2048) + PER_OCTET * given;
            assert!(
                used.largest <= bound,
                "{} octets at once, {given} given, PDU {}",
                used.largest,
                self.pdu
            );
        }
        self.collect(given);
    }

    fn collect(&mut self, given: usize) {
        // a window of general blocks, what else there may be to say, and what has waited while keys were at work
        let bound = 80 + 2 * given;
        for effects in 0.. {
            assert!(effects <= bound, "one call led to {effects} effects");
            match self.client.poll() {
                Some(effect) => self.on_client(effect),
                None => break,
            }
        }
        for effects in 0.. {
            assert!(effects <= bound, "one call led to {effects} effects");
            match self.meter.poll() {
                Some(effect) => self.on_meter(effect),
                None => break,
            }
        }
    }

    fn on_client(&mut self, effect: client::Effect) {
        match effect {
            client::Effect::Transmit(octets) => self.place(Side::Meter).put(octets),
            client::Effect::Cipher(job) => self.place(Side::Client).jobs.push_back(job),
            client::Effect::Timer(at) => self.place(Side::Client).timer = at,
            client::Effect::Event(event) => {
                assert!(!self.over, "{event:?} after the end");
                match event {
                    client::Event::Opened { .. } => self.reached.opened += 1,
                    client::Event::Answered(_) => self.reached.answered += 1,
                    client::Event::Released => self.reached.released = true,
                    client::Event::Failed(_) => self.over = true,
                    client::Event::NotSent(_) | client::Event::Notified(_) => {}
                }
                self.over |= self.reached.released;
            }
        }
    }

    fn on_meter(&mut self, effect: meter::Effect) {
        match effect {
            meter::Effect::Transmit(octets) => self.place(Side::Client).put(octets),
            meter::Effect::Cipher(job) => self.place(Side::Meter).jobs.push_back(job),
            meter::Effect::Timer(at) => self.place(Side::Meter).timer = at,
            meter::Effect::Event(_) => {
                self.challenges = self.challenges.wrapping_add(1);
                self.meter.refill(challenge(self.challenges));
            }
            meter::Effect::Ask(request) => {
                for id in objects::ids(&request) {
                    let times = self.executed.entry(id).or_default();
                    *times += 1;
                    self.reached.executed += 1;
                    assert!(
                        *times == 1 || !(self.protected || self.honest),
                        "command {id} is executed twice"
                    );
                }
                self.asked = Some(request);
            }
        }
    }

    fn place(&mut self, side: Side) -> &mut Place {
        &mut self.places[side as usize]
    }
}

impl Place {
    fn of(own: SystemTitle) -> Self {
        let keys = Keys {
            encryption: Some([7; 16].into()),
            authentication: Some([9; 16].into()),
            hls_secret: Some([5; 16].into()),
            master: Some([3; 16].into()),
            ..Keys::default()
        };
        let keys = SoftCipher::new(Setup::new(Suite::Suite0, own), keys).expect("good keys");
        Self {
            keys: keys.seeded(1),
            jobs: VecDeque::new(),
            wire: VecDeque::new(),
            timer: 0,
            given: 0,
        }
    }

    fn put(&mut self, octets: Vec<u8>) {
        self.wire.push_back(octets);
        self.wire.truncate(ON_THE_WIRE);
    }

    fn is_busy(&self) -> bool {
        !(self.jobs.is_empty() && self.wire.is_empty())
    }
}

fn protection(input: &mut Input<'_>) -> Protection {
    match input.octet() % 7 {
        0 => Protection::Plain,
        1 => Protection::Glo,
        2 => Protection::GeneralGlo,
        3 => Protection::Ded,
        4 => Protection::GeneralDed,
        5 => Protection::GeneralCiphering(KeyChoice::Identified),
        _ => Protection::GeneralCiphering(KeyChoice::Wrapped),
    }
}

/// Never used before, as long as an input is no longer than it is.
fn challenge(number: u8) -> Vec<u8> {
    let mut challenge = b"P6wRJ21FP6wRJ21FP6wRJ21FP6wRJ21F".to_vec();
    challenge.push(number);
    challenge
}
