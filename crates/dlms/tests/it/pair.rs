//! A client and a meter in one memory, each with its keys, and a wire that a test may bend.

use std::collections::VecDeque;

use dlms::client::{self, Client, ClientConfig};
use dlms::meter::{self, ClientAccess, Meter, MeterConfig};
use dlms::{
    Attribute, Cause, Command, Conformance, Data, Frame, InvokeId, Mechanism, Method, Protection,
    Request, Response, SystemTitle,
};

use crate::soft::Soft;

pub(crate) const CLIENT_TITLE: SystemTitle = SystemTitle::new([0x4D, 0x4D, 0x4D, 0, 0, 0, 0, 1]);
pub(crate) const METER_TITLE: SystemTitle =
    SystemTitle::new([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);
pub(crate) const CTOS: &[u8] = b"K56iVagYK56iVagY";
pub(crate) const STOC: &[u8] = b"P6wRJ21FP6wRJ21F";
pub(crate) const TIMEOUT: u64 = 1000;

pub(crate) const COUNTER: Attribute = Attribute {
    class_id: 1,
    name: dlms::Obis::new([0, 0, 43, 1, 0, 255]),
    index: 2,
};

pub(crate) fn get() -> Command {
    Command::Get {
        attribute: COUNTER,
        selection: None,
    }
}

pub(crate) fn action() -> Command {
    let method = Method {
        class_id: 9,
        name: dlms::Obis::new([0, 0, 10, 1, 0, 255]),
        index: 1,
    };
    Command::Action {
        method,
        parameter: Some(Data::LongUnsigned(3)),
    }
}

/// What becomes of one frame on the wire: the segments that arrive.
pub(crate) type Tap = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>>;

pub(crate) struct Pair {
    pub(crate) client: Client,
    pub(crate) meter: Meter,
    pub(crate) client_keys: Soft,
    pub(crate) meter_keys: Soft,
    pub(crate) to_meter: Tap,
    pub(crate) to_client: Tap,
    pub(crate) objects: Box<dyn FnMut(&Request) -> Response>,
    pub(crate) events: VecDeque<client::Event>,
    pub(crate) meter_events: Vec<meter::Event>,
    pub(crate) asked: Vec<Request>,
    /// Every frame that left, in both directions, before the wire was bent.
    pub(crate) frames: Vec<Frame>,
    pub(crate) now: u64,
    pub(crate) timer: u64,
}

pub(crate) fn client_config(mechanism: Mechanism, protection: Protection) -> ClientConfig {
    ClientConfig {
        client_sap: 1,
        server_sap: 1,
        mechanism,
        protection,
        client_title: Some(CLIENT_TITLE),
        expected_server_title: Some(METER_TITLE),
        authentication_value: match mechanism {
            Mechanism::None => vec![],
            Mechanism::Low => b"12345678".to_vec(),
            _ => CTOS.to_vec(),
        },
        max_pdu: 1024,
        conformance: Conformance::RESET | Conformance::SET,
        answer_timeout_ms: TIMEOUT,
        ..ClientConfig::default()
    }
}

pub(crate) fn meter_config(mechanism: Mechanism, ciphered: bool) -> MeterConfig {
    let password = b"12345678".to_vec();
    let management = if ciphered {
        ClientAccess::ciphered(1, mechanism, password)
    } else {
        ClientAccess::plain(1, mechanism, password)
    };
    MeterConfig {
        conformance: Conformance::RESET | Conformance::SET | Conformance::GENERAL_PROTECTION,
        ..MeterConfig::new(
            METER_TITLE,
            vec![ClientAccess::plain(16, Mechanism::None, vec![]), management],
        )
    }
}

fn serve(request: &Request) -> Response {
    let invoke = InvokeId::new(0);
    match request {
        Request::Get { .. } => Response::GetData {
            invoke,
            data: Data::DoubleLongUnsigned(5009),
        },
        Request::Set { .. } => Response::Set {
            invoke,
            result: dlms::DataAccessResult::SUCCESS,
        },
        Request::Action { .. } => Response::Action {
            invoke,
            result: dlms::ActionResult::SUCCESS,
            data: None,
        },
        other => unreachable!("{other:?}: the meter value hands over none of these"),
    }
}

/// A wire that delivers each frame as it is.
pub(crate) fn straight() -> Tap {
    Box::new(|frame| vec![frame])
}

impl Pair {
    pub(crate) fn new(mechanism: Mechanism, protection: Protection) -> Self {
        Self::with(
            client_config(mechanism, protection),
            meter_config(mechanism, protection.is_ciphered()),
        )
    }

    pub(crate) fn with(client: ClientConfig, meter: MeterConfig) -> Self {
        Self {
            client: Client::new(client),
            meter: Meter::new(meter, STOC.to_vec()),
            client_keys: Soft::new(CLIENT_TITLE),
            meter_keys: Soft::new(METER_TITLE),
            to_meter: straight(),
            to_client: straight(),
            objects: Box::new(serve),
            events: VecDeque::new(),
            meter_events: vec![],
            asked: vec![],
            frames: vec![],
            now: 0,
            timer: 0,
        }
    }

    /// A pair that is open already.
    pub(crate) fn opened(mechanism: Mechanism, protection: Protection) -> Self {
        let mut pair = Self::new(mechanism, protection);
        pair.open();
        assert!(matches!(pair.event(), client::Event::Opened { .. }));
        pair
    }

    pub(crate) fn open(&mut self) {
        self.client.open(self.now);
        self.run();
    }

    pub(crate) fn request(&mut self, command: Command) {
        self.client.request(self.now, command).unwrap();
        self.run();
    }

    pub(crate) fn release(&mut self) {
        self.client.release(self.now);
        self.run();
    }

    pub(crate) fn expire(&mut self) {
        self.now = self.timer;
        self.client.handle_timeout(self.now);
        self.run();
    }

    /// The client's next event.
    #[track_caller]
    pub(crate) fn event(&mut self) -> client::Event {
        self.events.pop_front().expect("an event of the client")
    }

    /// Why the client failed.
    #[track_caller]
    pub(crate) fn failure(&mut self) -> Cause {
        match self.event() {
            client::Event::Failed(cause) => {
                assert_eq!(self.client.cause(), Some(&cause));
                assert!(self.events.is_empty());
                cause
            }
            event => panic!("expected a failure, found {event:?}"),
        }
    }

    /// The value of a GET that is answered.
    #[track_caller]
    pub(crate) fn value(&mut self) -> Data {
        match self.event() {
            client::Event::Answered(Response::GetData { data, .. }) => data,
            event => panic!("expected a value, found {event:?}"),
        }
    }

    /// Hands octets to the client as if the meter had sent them.
    pub(crate) fn inject(&mut self, apdu: Vec<u8>) {
        let octets = Frame {
            source: 1,
            destination: 1,
            apdu,
        }
        .encode()
        .unwrap();
        self.client.handle_bytes(self.now, &octets);
        self.run();
    }

    /// Until neither side has anything to do.
    pub(crate) fn run(&mut self) {
        loop {
            let before = (self.client.poll(), self.meter.poll());
            match before {
                (None, None) => break,
                (client, meter) => {
                    client
                        .into_iter()
                        .for_each(|effect| self.client_effect(effect));
                    meter
                        .into_iter()
                        .for_each(|effect| self.meter_effect(effect));
                }
            }
        }
    }

    fn client_effect(&mut self, effect: client::Effect) {
        match effect {
            client::Effect::Transmit(octets) => {
                self.note(&octets);
                for segment in (self.to_meter)(octets) {
                    self.meter.handle_bytes(self.now, &segment);
                }
            }
            client::Effect::Cipher(job) => {
                let result = self.client_keys.run(job.op);
                self.client.handle_cipher(self.now, job.id, result);
            }
            client::Effect::Event(event) => self.events.push_back(event),
            client::Effect::Timer(deadline) => self.timer = deadline,
        }
    }

    fn meter_effect(&mut self, effect: meter::Effect) {
        match effect {
            meter::Effect::Transmit(octets) => {
                self.note(&octets);
                for segment in (self.to_client)(octets) {
                    self.client.handle_bytes(self.now, &segment);
                }
            }
            meter::Effect::Cipher(job) => {
                let result = self.meter_keys.run(job.op);
                self.meter.handle_cipher(self.now, job.id, result);
            }
            meter::Effect::Ask(request) => {
                let response = (self.objects)(&request);
                self.asked.push(request);
                self.meter.answer(self.now, response).unwrap();
            }
            meter::Effect::Event(event) => self.meter_events.push(event),
            meter::Effect::Timer(_) => {}
        }
    }

    fn note(&mut self, octets: &[u8]) {
        let mut reassembler = dlms::Reassembler::default();
        reassembler.push(octets);
        self.frames.push(reassembler.next().unwrap().unwrap());
    }
}
