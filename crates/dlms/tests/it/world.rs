//! A client and a meter at the ends of a virtual line that may be bad, with keys in software, objects that count what
//! they execute, and a clock that only moves when there is nothing else to do.

use std::collections::{BinaryHeap, VecDeque};

use dlms::client::{self, Client};
use dlms::meter::{self, Meter};
use dlms::{
    CipherFailure, CipherJob, ClientConfig, Command, LinkConfig, MeterConfig, Notification,
    Request, Response,
};
use softcipher::SoftCipher;

use crate::cosem::{Effects, respond};

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub(crate) fn octets(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

/// How often, in percent, a bad line does what to a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) spoilt: u64,
    pub(crate) cut: u64,
    /// The longest delay, in milliseconds.
    pub(crate) delay: u64,
    /// How often a cipher job fails.
    pub(crate) unkeyed: u64,
}

/// One direction of the line.
#[derive(Default)]
struct Line {
    /// When what was sent before arrives: a stream does not overtake itself.
    busy_until: u64,
    /// The connection is cut: what is sent now is lost.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Client,
    Meter,
}

/// What happens at a time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Octets(End, Vec<u8>),
    Closed(End),
    Jobs(End),
}

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) meter: Meter,
    pub(crate) client_keys: SoftCipher,
    pub(crate) meter_keys: SoftCipher,
    /// Whether the next jobs of the client that protect are refused.
    pub(crate) refusals: Vec<bool>,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) now: u64,
    pub(crate) events: VecDeque<client::Event>,
    pub(crate) meter_events: Vec<meter::Event>,
    pub(crate) effects: Effects,
    /// Longest frame in each direction.
    pub(crate) longest: [usize; 2],
    /// The first octet of every APDU that went over the wrapper, in both directions.
    pub(crate) tags: Vec<u8>,
    link: LinkConfig,
    lines: [Line; 2],
    queue: BinaryHeap<std::cmp::Reverse<(u64, u64, Happening)>>,
    order: u64,
    jobs: [VecDeque<CipherJob>; 2],
    timers: [Option<u64>; 2],
    steps: usize,
    /// Whether everything is printed.
    shown: bool,
}

impl World {
    pub(crate) fn new(
        client: ClientConfig,
        meter: MeterConfig,
        keys: (SoftCipher, SoftCipher),
        seed: u64,
    ) -> Self {
        let mut rng = Rng(seed);
        let link = client.link.clone();
        let challenge = rng.octets(32);
        Self {
            client: Client::new(client),
            meter: Meter::new(meter, challenge),
            client_keys: keys.0,
            meter_keys: keys.1,
            refusals: vec![],
            rng,
            faults: Faults::default(),
            now: 0,
            events: VecDeque::new(),
            meter_events: vec![],
            effects: Effects::default(),
            longest: [0; 2],
            tags: vec![],
            link,
            lines: [Line::default(), Line::default()],
            queue: BinaryHeap::new(),
            order: 0,
            jobs: [VecDeque::new(), VecDeque::new()],
            timers: [None; 2],
            steps: 0,
            shown: std::env::var(crate::joined::ONLY).is_ok(),
        }
    }

    pub(crate) fn open(&mut self) {
        self.client.open(self.now);
        self.run();
    }

    pub(crate) fn request(&mut self, command: Command) {
        self.client.request(self.now, command).unwrap();
        self.run();
    }

    /// Until the client has something to say, or nothing more can happen.
    pub(crate) fn run(&mut self) {
        while self.events.is_empty() && self.step() {}
    }

    /// Until nothing more can happen, or some time has passed (an idle HDLC link polls for ever).
    pub(crate) fn drain(&mut self) {
        let end = self.now + 10_000;
        while self.now < end && self.step() {}
    }

    #[track_caller]
    pub(crate) fn event(&mut self) -> client::Event {
        self.events.pop_front().unwrap()
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> Response {
        match self.event() {
            client::Event::Answered(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn notify(&mut self, notification: &Notification) -> Result<(), dlms::Error> {
        self.meter.notify(self.now, notification)
    }

    /// Whether anything happened.
    fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < 50_000, "no end");
        self.collect();
        let next = self.queue.peek().map(|std::cmp::Reverse((at, ..))| *at);
        let timer = |end: End| self.timers[end as usize].map(|at| (at, end));
        let timer = [timer(End::Client), timer(End::Meter)]
            .into_iter()
            .flatten()
            .min();
        match (next, timer) {
            (None, None) => return false,
            (Some(at), timer) if timer.is_none_or(|(timer, _)| at <= timer) => {
                self.now = self.now.max(at);
                let happening = self.queue.pop().map(|std::cmp::Reverse((.., what))| what);
                happening.into_iter().for_each(|what| self.happen(what));
            }
            (_, Some((at, end))) => {
                self.now = self.now.max(at);
                self.timers[end as usize] = None;
                match end {
                    End::Client => self.client.handle_timeout(self.now),
                    End::Meter => self.meter.handle_timeout(self.now),
                }
            }
            (Some(_), None) => {}
        }
        self.collect();
        true
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Octets(End::Client, octets) => self.client.handle_bytes(self.now, &octets),
            Happening::Octets(End::Meter, octets) => self.meter.handle_bytes(self.now, &octets),
            Happening::Closed(End::Client) => self.client.closed(),
            // whoever runs a meter drops it when the connection ends
            Happening::Closed(End::Meter) => {}
            Happening::Jobs(end) => self.work(end),
        }
    }

    fn later(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.queue.push(std::cmp::Reverse((at, self.order, what)));
    }

    /// Does the oldest job of one side.
    fn work(&mut self, end: End) {
        let Some(job) = self.jobs[end as usize].pop_front() else {
            return;
        };
        let failure = self.faults.unkeyed > 0 && self.rng.chance(self.faults.unkeyed);
        let keys = match end {
            End::Client => &mut self.client_keys,
            End::Meter => &mut self.meter_keys,
        };
        let protects = matches!(job.op, dlms::CipherOp::Protect { .. });
        let refused =
            end == End::Client && protects && !self.refusals.is_empty() && self.refusals.remove(0);
        let result = if refused {
            Err(CipherFailure::Refused)
        } else if failure {
            Err(CipherFailure::Unavailable)
        } else {
            keys.run(job.op)
        };
        match end {
            End::Client => self.client.handle_cipher(self.now, job.id, result),
            End::Meter => self.meter.handle_cipher(self.now, job.id, result),
        }
    }

    /// Takes the effects of both.
    fn collect(&mut self) {
        loop {
            let mut any = false;
            while let Some(effect) = self.client.poll() {
                any = true;
                match effect {
                    client::Effect::Transmit(octets) => self.carry(End::Meter, octets),
                    client::Effect::Cipher(job) => self.enqueue(End::Client, job),
                    client::Effect::Event(event) => {
                        if self.shown {
                            println!("{:6} {event:.160?}", self.now);
                        }
                        self.events.push_back(event);
                    }
                    client::Effect::Timer(at) => self.timers[0] = Some(at),
                }
            }
            while let Some(effect) = self.meter.poll() {
                any = true;
                match effect {
                    meter::Effect::Transmit(octets) => self.carry(End::Client, octets),
                    meter::Effect::Cipher(job) => self.enqueue(End::Meter, job),
                    meter::Effect::Ask(request) => self.serve(&request),
                    meter::Effect::Event(event) => {
                        let challenge = self.rng.octets(32);
                        self.meter.refill(challenge);
                        self.meter_events.push(event);
                    }
                    meter::Effect::Timer(at) => self.timers[1] = Some(at),
                }
            }
            if !any {
                break;
            }
        }
    }

    fn serve(&mut self, request: &Request) {
        let response = respond(request, &mut self.effects);
        self.meter.answer(self.now, response).unwrap();
    }

    fn enqueue(&mut self, end: End, job: CipherJob) {
        self.jobs[end as usize].push_back(job);
        let at = self.now + self.delay() / 4;
        self.later(at, Happening::Jobs(end));
    }

    fn delay(&mut self) -> u64 {
        match self.faults.delay {
            0 => 0,
            most => self.rng.next() % most,
        }
    }

    /// Puts a frame on the line.
    fn carry(&mut self, to: End, octets: Vec<u8>) {
        if self.shown {
            println!("{:6} to the {to:?}: {}", self.now, hex::encode(&octets));
        }
        let longest = &mut self.longest[to as usize];
        *longest = (*longest).max(octets.len());
        if !matches!(self.link, LinkConfig::Hdlc(_)) {
            self.tags.extend(octets.get(8));
        }
        match self.link {
            LinkConfig::Udp => self.datagram(to, octets),
            LinkConfig::Tcp | LinkConfig::Hdlc(_) => self.stream(to, octets),
        }
    }

    /// A datagram may be lost, come twice, be cut short, and be overtaken.
    fn datagram(&mut self, to: End, mut octets: Vec<u8>) {
        if self.rng.chance(self.faults.lost) {
            return;
        }
        if self.rng.chance(self.faults.spoilt) {
            let keep = self.rng.below(octets.len());
            octets.truncate(keep);
        }
        if self.rng.chance(self.faults.doubled) {
            let at = self.now + self.delay();
            self.later(at, Happening::Octets(to, octets.clone()));
        }
        let at = self.now + self.delay();
        self.later(at, Happening::Octets(to, octets));
    }

    /// A stream arrives in its order, in other segments than it was sent in, until it is cut. A line (HDLC) may also lose
    /// frames, double them, and change octets.
    fn stream(&mut self, to: End, mut octets: Vec<u8>) {
        if self.lines[to as usize].broken {
            return;
        }
        if matches!(self.link, LinkConfig::Hdlc(_)) {
            if self.rng.chance(self.faults.lost) {
                return;
            }
            if self.rng.chance(self.faults.spoilt) {
                let at = self.rng.below(octets.len());
                octets[at] ^= 1 << self.rng.below(8);
                let keep = 1 + self.rng.below(octets.len());
                if self.rng.chance(30) {
                    octets.truncate(keep);
                }
            }
        }
        // What doubles on a stream is a fault of some box on its way: it comes at once, in one segment.
        let doubled = self.rng.chance(self.faults.doubled);
        if doubled {
            octets = [octets.clone(), octets].concat();
        }
        if self.rng.chance(self.faults.cut) {
            let keep = self.rng.below(octets.len() + 1);
            octets.truncate(keep);
            self.lines.iter_mut().for_each(|line| line.broken = true);
            let at = self.now + self.faults.delay + 1;
            self.later(at, Happening::Closed(End::Client));
            self.later(at, Happening::Closed(End::Meter));
        }
        while !octets.is_empty() {
            let size = if self.faults.delay > 0 && !doubled && self.rng.chance(30) {
                1 + self.rng.below(octets.len())
            } else {
                octets.len()
            };
            let rest = octets.split_off(size);
            let segment = std::mem::replace(&mut octets, rest);
            let at = (self.now + self.delay()).max(self.lines[to as usize].busy_until);
            self.lines[to as usize].busy_until = at;
            self.later(at, Happening::Octets(to, segment));
        }
    }
}
