//! A client and a meter joined by a line that loses, doubles, reorders, splits, merges, cuts short and delays, as far as
//! its transport lets it: they always come to a defined state within a bounded number of steps, no command is ever
//! executed twice, and what the client calls answered was executed, with the answer the objects gave.

use std::sync::LazyLock;

use dlms::client::Event;
use dlms::{
    Access, ClientAccess, ClientConfig, Command, Conformance, KeyChoice, LinkConfig, LongInvokeId,
    Mechanism, MeterConfig, Notification, Protection, Response, SecurityControl, Suite, hdlc,
};
use softcipher::{Keys, Setup, SoftCipher};

use crate::cosem::{attribute, expected, method, numbers, parameter, same};
use crate::pair::{CLIENT_TITLE, METER_TITLE};
use crate::world::{Faults, Rng, World};

/// Seeds a run; three transports share them.
const SEEDS: u64 = 10_200;
const SUITES: [Suite; 3] = [Suite::Suite0, Suite::Suite1, Suite::Suite2];

/// Names the one seed to be run, and shown.
pub(crate) const ONLY: &str = "JOINED_SEED";

/// Both sides' keys of each suite: drawing them anew for every seed would take most of the time.
static KEYS: LazyLock<[(SoftCipher, SoftCipher); 3]> = LazyLock::new(|| SUITES.map(pair_of_keys));

/// A network may let a notification overtake an answer: the client takes both.
fn pair_of_keys(suite: Suite) -> (SoftCipher, SoftCipher) {
    let (client, meter) = Keys::pair(suite, 5);
    let own = Setup {
        window: 32,
        ..Setup::new(suite, CLIENT_TITLE)
    };
    (
        SoftCipher::new(own, client).unwrap(),
        SoftCipher::new(Setup::new(suite, METER_TITLE), meter).unwrap(),
    )
}

/// Keys of a suite, with random numbers of this seed.
pub(crate) fn keys(suite: Suite, seed: u64) -> (SoftCipher, SoftCipher) {
    let (client, meter) = KEYS[usize::from(suite.id())].clone();
    (client.seeded(seed), meter.seeded(!seed))
}

/// What both sides have agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) link: LinkConfig,
    pub(crate) mechanism: Mechanism,
    pub(crate) form: Protection,
    pub(crate) control: SecurityControl,
    pub(crate) signed: bool,
    pub(crate) client_pdu: u16,
    pub(crate) meter_pdu: u16,
    pub(crate) conformance: Conformance,
}

pub(crate) const ALL: Conformance = Conformance::new(0x00FF_FFFF);
pub(crate) const MECHANISMS: [Mechanism; 7] = [
    Mechanism::None,
    Mechanism::Low,
    Mechanism::HlsMd5,
    Mechanism::HlsSha1,
    Mechanism::HlsGmac,
    Mechanism::HlsSha256,
    Mechanism::HlsEcdsa,
];
pub(crate) const FORMS: [Protection; 9] = [
    Protection::Plain,
    Protection::Glo,
    Protection::GeneralGlo,
    Protection::Ded,
    Protection::GeneralDed,
    Protection::GeneralCiphering(KeyChoice::Identified),
    Protection::GeneralCiphering(KeyChoice::Wrapped),
    Protection::GeneralCiphering(KeyChoice::OnePass),
    Protection::GeneralCiphering(KeyChoice::Static),
];

impl Terms {
    pub(crate) fn client(&self) -> ClientConfig {
        ClientConfig {
            link: self.link.clone(),
            client_sap: 1,
            mechanism: self.mechanism,
            protection: self.form,
            control: self.control,
            signed: self.signed,
            client_title: Some(CLIENT_TITLE),
            expected_server_title: Some(METER_TITLE),
            authentication_value: match self.mechanism {
                Mechanism::None => vec![],
                Mechanism::Low => b"12345678".to_vec(),
                _ => b"CtoS, of 32 octets, for ECDSA too".to_vec(),
            },
            max_pdu: self.client_pdu,
            conformance: self.conformance,
            answer_timeout_ms: 2000,
            ..ClientConfig::default()
        }
    }

    pub(crate) fn meter(&self) -> MeterConfig {
        // ACCESS and data notifications have general forms only
        let sibling = match self.form {
            Protection::Glo => Protection::GeneralGlo,
            Protection::Ded => Protection::GeneralDed,
            form => form,
        };
        let access = ClientAccess {
            forms: vec![self.form, sibling],
            control: self.control,
            signed: self.signed,
            ..ClientAccess::plain(1, self.mechanism, b"12345678".to_vec())
        };
        MeterConfig {
            link: self.link.clone(),
            max_pdu: self.meter_pdu,
            conformance: ALL,
            ..MeterConfig::new(METER_TITLE, vec![access])
        }
    }

    pub(crate) fn suite(&self) -> Suite {
        self.control.suite().unwrap()
    }

    pub(crate) fn world(&self, seed: u64) -> World {
        let keys = keys(self.suite(), seed);
        World::new(self.client(), self.meter(), keys, seed)
    }

    /// Public-key cryptography takes a hundred times as long as the rest: one seed in six has any.
    fn random(link: &LinkConfig, rng: &mut Rng) -> Self {
        let slow = rng.chance(16);
        let mechanism = rng.pick(&MECHANISMS[..if slow { 7 } else { 6 }]);
        let form = rng.pick(&FORMS[..if slow { 9 } else { 7 }]);
        let signed = slow && rng.chance(30);
        let suite = match (slow, rng.below(8)) {
            (false, _) => rng.pick(&SUITES),
            (true, 0) => Suite::Suite2,
            (true, _) => Suite::Suite1,
        };
        let (authenticated, encrypted) = match rng.below(4) {
            0 if !form.is_dedicated() => (true, false),
            // what is encrypted only is not authenticated: a bad line may change it
            _ => (true, true),
        };
        let pdus = [0, 96, 128, 200, 512, 1024];
        let tight = if signed || form.is_general() { 5 } else { 0 };
        let mut conformance = ALL;
        for (service, percent) in [
            (Conformance::GENERAL_BLOCK_TRANSFER, 50),
            (Conformance::BLOCK_TRANSFER_GET, 30),
            (Conformance::BLOCK_TRANSFER_SET, 30),
            (Conformance::BLOCK_TRANSFER_ACTION, 30),
        ] {
            if rng.chance(percent) {
                conformance = Conformance::new(conformance.bits() & !service.bits());
            }
        }
        let pdu = |rng: &mut Rng| {
            if rng.below(6) < tight {
                1024
            } else {
                rng.pick(&pdus)
            }
        };
        Self {
            link: link.clone(),
            mechanism,
            form,
            control: SecurityControl::of(suite, authenticated, encrypted),
            signed,
            client_pdu: pdu(rng),
            meter_pdu: pdu(rng),
            conformance,
        }
    }
}

fn command(rng: &mut Rng, next: &mut u32) -> Command {
    let mut number = || {
        *next += 1;
        *next
    };
    let size = |rng: &mut Rng| rng.pick(&[0, 1, 40, 300, 900]);
    let length = size(rng);
    let attribute = attribute(u16::try_from(size(rng)).unwrap());
    let method = method(u16::try_from(size(rng)).unwrap());
    let mut value = |octets| parameter(number(), octets);
    match rng.below(7) {
        0 => Command::Get {
            attribute,
            selection: None,
        },
        1 => Command::Set {
            attribute,
            selection: None,
            value: value(length),
        },
        2 => Command::Action {
            method,
            parameter: Some(value(length)),
        },
        3 => Command::GetList(vec![(attribute, None), (attribute, None)]),
        4 => Command::SetList(vec![
            (attribute, None, value(length)),
            (attribute, None, value(3)),
        ]),
        5 => Command::ActionList(vec![(method, Some(value(length))), (method, None)]),
        _ => Command::Access(vec![
            Access::Get {
                attribute,
                selection: None,
            },
            Access::Set {
                attribute,
                selection: None,
                value: value(length),
            },
            Access::Action {
                method,
                parameter: Some(value(1)),
            },
        ]),
    }
}

/// One life of an association over a bad line.
fn life(link: &LinkConfig, seed: u64) -> usize {
    let mut rng = Rng(seed);
    let terms = Terms::random(link, &mut rng);
    let mut world = terms.world(seed);
    world.faults = faults(link, &mut rng);
    let mut next = 0;
    let (mut answered, mut told) = (0, 0);
    world.open();
    let mut sent = None;
    for _ in 0..40 {
        let Some(event) = world.events.pop_front() else {
            break;
        };
        match event {
            Event::Answered(response) => {
                let command = sent.take().expect("a command was sent");
                check(&world, &terms, &command, &response);
                answered += 1;
            }
            Event::Notified(_) => {
                told += 1;
                world.run();
                continue;
            }
            Event::Released | Event::Failed(_) => {
                assert!(world.events.is_empty(), "nothing after the end");
                break;
            }
            Event::Opened { .. } | Event::NotSent(_) => {}
        }
        if !world.events.is_empty() {
            continue;
        }
        assert!(world.client.is_ready());
        if rng.chance(10) {
            let notification = Notification::Data {
                invoke: LongInvokeId::new(7),
                time: None,
                body: parameter(0, rng.below(200)),
            };
            world.notify(&notification).ok();
        }
        if rng.chance(8) {
            world.client.release(world.now);
        } else {
            let command = command(&mut rng, &mut next);
            if world.client.request(world.now, command.clone()).is_ok() {
                sent = Some(command);
            } else {
                world.client.release(world.now);
            }
        }
        world.run();
    }
    world.drain();
    let twice = world.effects.iter().find(|(_, count)| **count > 1);
    assert_eq!(twice, None, "executed twice: {terms:?} {:?}", world.faults);
    assert!(told <= 80);
    answered
}

/// What the client calls answered was executed, and says what the objects said.
fn check(world: &World, terms: &Terms, command: &Command, response: &Response) {
    // a line that carries octets without protection may make one answer of another (and of blocks over UDP, a mixture)
    if let Response::Exception(_) | Response::ConfirmedServiceError(_) = response {
        return;
    }
    for number in numbers(command) {
        assert!(
            world.effects.contains_key(&number),
            "not executed: {command:?} {response:?} {terms:?}"
        );
    }
    assert!(
        same(response, &expected(command)),
        "{command:?} {response:?} {terms:?}"
    );
}

/// What may happen on a line of this kind, from nothing to much.
fn faults(link: &LinkConfig, rng: &mut Rng) -> Faults {
    let much = rng.pick(&[0, 1, 5, 15]);
    let delay = rng.pick(&[0, 10, 300]);
    let unkeyed = rng.pick(&[0, 0, 0, 2]);
    let stream = Faults {
        doubled: much,
        cut: much.div_ceil(3),
        delay,
        unkeyed,
        ..Faults::default()
    };
    match link {
        LinkConfig::Tcp => stream,
        LinkConfig::Udp => Faults {
            lost: much,
            spoilt: much,
            cut: 0,
            ..stream
        },
        LinkConfig::Hdlc(_) => Faults {
            lost: much,
            spoilt: much,
            ..stream
        },
    }
}

fn lives(link: &LinkConfig, seeds: std::ops::Range<u64>) {
    let mut answered = 0;
    let only: Option<u64> = std::env::var(ONLY).ok().and_then(|seed| seed.parse().ok());
    for seed in seeds.filter(|seed| only.is_none_or(|only| only == *seed)) {
        let result = std::panic::catch_unwind(|| life(link, seed));
        match result {
            Ok(some) => answered += some,
            Err(_) => panic!("over {link:?}: to see it alone, {ONLY}={seed}"),
        }
    }
    assert!(
        only.is_some() || answered > 3000,
        "{answered} commands were answered"
    );
}

#[test]
fn over_tcp() {
    lives(&LinkConfig::Tcp, 0..SEEDS / 3);
}

#[test]
fn over_udp() {
    lives(&LinkConfig::Udp, SEEDS / 3..2 * SEEDS / 3);
}

#[test]
fn over_hdlc() {
    let config = hdlc::Config {
        max_info: 200,
        window: 3,
        timeout_ms: 400,
        ..hdlc::Config::default()
    };
    lives(&LinkConfig::Hdlc(config), 2 * SEEDS / 3..SEEDS);
}
