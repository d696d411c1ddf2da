//! What holds for all values: decoding undoes encoding, and no input makes anything panic.

use dlms::acse::{Aare, Aarq, Rlre, Rlrq};
use dlms::client::{Client, Effect, Event};
use dlms::initiate::{ConfirmedServiceError, InitiateRequest, InitiateResponse};
use dlms::meter::{self, Meter};
use dlms::{
    CipherFailure, CipherOp, CipherOutput, Ciphered, Command, Confirmation, Conformance, Data,
    Frame, GeneralBlock, GmacToken, JobId, LinkConfig, Notification, Obis, Reassembler, Request,
    Response, SecurityControl, Selection, hdlc,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use softcipher::SoftCipher;

use crate::apdus::{confirmation, general_block, notification, request, response};
use crate::joined::{FORMS, MECHANISMS, Terms};
use crate::pair::{COUNTER, STOC, action, get};
use crate::values::{
    aare, aarq, ciphered, data, initiate_request, initiate_response, octets, selection,
    service_error,
};

proptest! {
    #[test]
    fn data_is_what_it_was(data in data()) {
        prop_assert_eq!(Data::decode(&data.encode()), Ok(data));
    }

    #[test]
    fn requests_are_what_they_were(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn responses_are_what_they_were(response in response()) {
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    #[test]
    fn notifications_are_what_they_were(
        notification in notification(), confirmation in confirmation(), block in general_block()
    ) {
        prop_assert_eq!(Notification::decode(&notification.encode()), Ok(notification));
        prop_assert_eq!(Confirmation::decode(&confirmation.encode()), Ok(confirmation));
        prop_assert_eq!(GeneralBlock::decode(&block.encode()), Ok(block));
    }

    #[test]
    fn selections_are_what_they_were(selection in selection()) {
        prop_assert_eq!(Selection::decode(&selection.encode()), Ok(selection));
    }

    #[test]
    fn association_apdus_are_what_they_were(aarq in aarq(), aare in aare()) {
        prop_assert_eq!(Aarq::decode(&aarq.encode()), Ok(aarq));
        prop_assert_eq!(Aare::decode(&aare.encode()), Ok(aare));
    }

    #[test]
    fn release_apdus_are_what_they_were(reason: Option<u8>, information in option::of(octets())) {
        let rlrq = Rlrq { reason, user_information: information.clone() };
        let rlre = Rlre { reason, user_information: information };
        prop_assert_eq!(Rlrq::decode(&rlrq.encode()), Ok(rlrq));
        prop_assert_eq!(Rlre::decode(&rlre.encode()), Ok(rlre));
    }

    #[test]
    fn initiate_apdus_are_what_they_were(
        request in initiate_request(), response in initiate_response(), error in service_error()
    ) {
        prop_assert_eq!(InitiateRequest::decode(&request.encode()), Ok(request));
        prop_assert_eq!(InitiateResponse::decode(&response.encode()), Ok(response));
        prop_assert_eq!(ConfirmedServiceError::decode(&error.encode()), Ok(error));
    }

    #[test]
    fn ciphered_apdus_are_what_they_were(ciphered in ciphered()) {
        prop_assert_eq!(Ciphered::decode(&ciphered.encode()), Ok(ciphered));
    }

    #[test]
    fn names_are_what_they_were(groups: [u8; 6]) {
        let name = Obis::new(groups);
        prop_assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn text_never_panics(text in ".{0,64}") {
        let _ = text.parse::<Obis>();
    }
}

/// Everything that reads octets.
fn read_all(octets: &[u8]) {
    let _ = Data::decode(octets);
    let _ = Selection::decode(octets);
    let _ = Request::decode(octets);
    let _ = Response::decode(octets);
    let _ = Notification::decode(octets);
    let _ = Confirmation::decode(octets);
    let _ = GeneralBlock::decode(octets);
    let _ = Aarq::decode(octets);
    let _ = Aare::decode(octets);
    let _ = Rlrq::decode(octets);
    let _ = Rlre::decode(octets);
    let _ = InitiateRequest::decode(octets);
    let _ = InitiateResponse::decode(octets);
    let _ = ConfirmedServiceError::decode(octets);
    let _ = Ciphered::decode(octets);
    let _ = GmacToken::decode(octets);
    let mut reassembler = Reassembler::new(64);
    for chunk in octets.chunks(7) {
        reassembler.push(chunk);
        while let Ok(Some(_)) = reassembler.next() {}
    }
}

/// Good octets of every kind, to be spoilt.
fn apdu() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        octets(),
        data().prop_map(|data| data.encode()),
        request().prop_map(|request| request.encode()),
        response().prop_map(|response| response.encode()),
        notification().prop_map(|notification| notification.encode()),
        general_block().prop_map(|block| block.encode()),
        aarq().prop_map(|aarq| aarq.encode()),
        aare().prop_map(|aare| aare.encode()),
        initiate_request().prop_map(|request| request.encode()),
        initiate_response().prop_map(|response| response.encode()),
        ciphered().prop_map(|ciphered| ciphered.encode()),
    ]
}

fn spoilt() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (apdu(), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut octets, changes, end, cut)| {
            if !octets.is_empty() {
                for (index, value) in changes {
                    let at = index.index(octets.len());
                    octets[at] = value;
                }
                if cut {
                    octets.truncate(end.index(octets.len()));
                }
            }
            octets
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_octets_make_a_decoder_panic(octets in vec(any::<u8>(), 0..400), spoilt in spoilt()) {
        read_all(&octets);
        read_all(&spoilt);
    }
}

/// What may happen to an association, in any order.
#[derive(Debug, Clone)]
enum Input {
    Open,
    Get,
    Action,
    Long(usize),
    Notify(Notification),
    Release,
    /// Octets of the transport as they are.
    Octets(Vec<u8>),
    /// A frame with this APDU.
    Apdu(Vec<u8>),
    /// What the other side really sent last, again.
    Honest,
    /// The oldest job, done well.
    Done,
    /// The oldest job, done badly.
    Spoilt(Vec<u8>),
    Failed(u8),
    Timeout(u64),
    Closed,
    Answer(Response),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        2 => Just(Input::Open),
        2 => Just(Input::Get),
        1 => Just(Input::Action),
        1 => (0_usize..600).prop_map(Input::Long),
        1 => notification().prop_map(Input::Notify),
        1 => Just(Input::Release),
        1 => octets().prop_map(Input::Octets),
        4 => spoilt().prop_map(Input::Apdu),
        8 => Just(Input::Honest),
        8 => Just(Input::Done),
        1 => spoilt().prop_map(Input::Spoilt),
        1 => any::<u8>().prop_map(Input::Failed),
        1 => (0_u64..5000).prop_map(Input::Timeout),
        1 => Just(Input::Closed),
        3 => response().prop_map(Input::Answer),
    ]
}

/// A client and a meter whose frames and jobs lie about until an input moves them.
struct Table {
    client: Client,
    meter: Meter,
    client_keys: SoftCipher,
    meter_keys: SoftCipher,
    client_jobs: Vec<(JobId, CipherOp)>,
    meter_jobs: Vec<(JobId, CipherOp)>,
    to_meter: Vec<Vec<u8>>,
    to_client: Vec<Vec<u8>>,
    /// Whether a frame shows its APDU, and that must be ciphered.
    ciphered: bool,
    over: bool,
}

impl Table {
    fn new(terms: &Terms) -> Self {
        let (client_keys, meter_keys) = crate::joined::keys(terms.suite(), 1);
        let line = matches!(terms.link, LinkConfig::Hdlc(_));
        Self {
            client: Client::new(terms.client()),
            meter: Meter::new(terms.meter(), STOC.repeat(2)),
            client_keys,
            meter_keys,
            client_jobs: vec![],
            meter_jobs: vec![],
            to_meter: vec![],
            to_client: vec![],
            ciphered: terms.form.is_ciphered() && !line,
            over: false,
        }
    }

    fn step(&mut self, input: Input) {
        match input {
            Input::Open => self.client.open(0),
            Input::Get => drop(self.client.request(0, get())),
            Input::Action => drop(self.client.request(0, action())),
            Input::Long(octets) => drop(self.client.request(
                0,
                Command::Set {
                    attribute: COUNTER,
                    selection: None,
                    value: Data::OctetString(vec![1; octets]),
                },
            )),
            Input::Notify(notification) => drop(self.meter.notify(0, &notification)),
            Input::Release => self.client.release(0),
            Input::Octets(octets) => {
                self.client.handle_bytes(0, &octets);
                self.meter.handle_bytes(0, &octets);
            }
            Input::Apdu(apdu) => {
                let octets = Frame {
                    source: 1,
                    destination: 1,
                    apdu,
                }
                .encode()
                .unwrap();
                self.client.handle_bytes(0, &octets);
                self.meter.handle_bytes(0, &octets);
            }
            Input::Honest => {
                self.to_client
                    .last()
                    .into_iter()
                    .for_each(|octets| self.client.handle_bytes(0, octets));
                self.to_meter
                    .last()
                    .into_iter()
                    .for_each(|octets| self.meter.handle_bytes(0, octets));
            }
            Input::Done => {
                for (id, op) in core::mem::take(&mut self.client_jobs) {
                    let result = self.client_keys.run(op);
                    self.client.handle_cipher(0, id, result);
                }
                for (id, op) in core::mem::take(&mut self.meter_jobs) {
                    let result = self.meter_keys.run(op);
                    self.meter.handle_cipher(0, id, result);
                }
            }
            Input::Spoilt(octets) => self.finish(&Ok(CipherOutput::Apdu(octets, 1))),
            Input::Failed(kind) => self.finish(&match kind % 6 {
                0 => Err(CipherFailure::AuthFailed),
                1 => Err(CipherFailure::Replay { expected: 9 }),
                2 => Err(CipherFailure::Refused),
                3 => Err(CipherFailure::Unavailable),
                4 => Ok(CipherOutput::Verified),
                _ => Ok(CipherOutput::Token(vec![0x10; 17])),
            }),
            Input::Timeout(now) => {
                self.client.handle_timeout(now);
                self.meter.handle_timeout(now);
            }
            Input::Closed => self.client.closed(),
            Input::Answer(response) => drop(self.meter.answer(0, response)),
        }
        self.collect();
    }

    fn finish(&mut self, result: &Result<CipherOutput, CipherFailure>) {
        for (id, _) in core::mem::take(&mut self.client_jobs) {
            self.client.handle_cipher(0, id, result.clone());
        }
        for (id, _) in core::mem::take(&mut self.meter_jobs) {
            self.meter.handle_cipher(0, id, result.clone());
        }
    }

    /// Takes the effects, and checks what must hold of them.
    fn collect(&mut self) {
        while let Some(effect) = self.client.poll() {
            assert!(!self.over, "{effect:?} after the end");
            match effect {
                Effect::Transmit(octets) => {
                    assert!(
                        !self.ciphered || !matches!(octets[8], 0xC0..=0xC3 | 0xD9),
                        "a clear request left a ciphered association"
                    );
                    self.to_meter.push(octets);
                }
                Effect::Cipher(job) => self.client_jobs.push((job.id, job.op)),
                Effect::Event(event) => {
                    self.over = matches!(event, Event::Failed(_) | Event::Released)
                }
                Effect::Timer(_) => {}
            }
        }
        while let Some(effect) = self.meter.poll() {
            match effect {
                meter::Effect::Transmit(octets) => {
                    assert!(
                        !self.ciphered || !matches!(octets[8], 0xC4..=0xC7 | 0xDA | 0x0F | 0xC2),
                        "a clear answer left a ciphered association"
                    );
                    self.to_client.push(octets);
                }
                meter::Effect::Cipher(job) => self.meter_jobs.push((job.id, job.op)),
                meter::Effect::Ask(_) | meter::Effect::Event(_) | meter::Effect::Timer(_) => {}
            }
        }
    }
}

fn terms() -> impl Strategy<Value = Terms> {
    let links = [
        LinkConfig::Tcp,
        LinkConfig::Udp,
        LinkConfig::Hdlc(hdlc::Config::default()),
    ];
    let pdus = prop::sample::select(vec![0, 60, 200, 1024]);
    (
        prop::sample::select(links.to_vec()),
        prop::sample::select(&MECHANISMS[..6]),
        prop::sample::select(&FORMS[..7]),
        (pdus.clone(), pdus),
        any::<u32>(),
    )
        .prop_map(
            |(link, mechanism, form, (client_pdu, meter_pdu), services)| Terms {
                link,
                mechanism,
                form,
                control: SecurityControl::AUTH_ENC,
                signed: false,
                client_pdu,
                meter_pdu,
                conformance: Conformance::GET | Conformance::ACTION | Conformance::new(services),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_inputs_make_an_association_panic(
        terms in terms(), inputs in vec(input(), 0..60),
    ) {
        let mut table = Table::new(&terms);
        table.step(Input::Open);
        for input in inputs {
            table.step(input);
        }
    }
}
