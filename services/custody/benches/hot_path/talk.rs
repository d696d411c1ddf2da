//! An association through custody as the association service has it, with the meter's end in this process.

use association::lane::Lane;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use dlms::{
    ActionResult, Attribute, Conformance, Data, InvokeId, Method, Request, Response,
    initiate::{InitiateRequest, InitiateResponse},
};
use latchkey_proto::custody::v1::{
    AnswerChallengeRequest, CloseContextRequest, Mechanism, OpenContextRequest, ProtectRequest,
    Protection, UnprotectRequest, VerifyAnswerRequest, cipher_job::Job, cipher_result::Outcome,
};

use crate::support::{Bed, Meter, SERVER, action, get, permit};

const RELAY: &str = "0.0.96.3.10.255";
const SCRIPTS: &str = "0.0.10.1.0.255";
const CHALLENGE: [u8; 16] = *b"P6wRJ21Fp6WrJ12f";

/// A key under the transport key.
pub(crate) fn wrapped(transport: &[u8; 32], key: &[u8]) -> Vec<u8> {
    let kek = AesKek::new(&AES_256, transport).expect("a key");
    kek.wrap(key, &mut [0; 24]).expect("wrapped").to_vec()
}

pub(crate) struct Talk {
    lane: Lane,
    context_id: String,
    challenge: Vec<u8>,
    meter: Meter,
}

impl Talk {
    pub(crate) async fn open(bed: &Bed, lane: &Lane, meter_id: &str) -> Self {
        let ek = Meter::new(meter_id).ek;
        Self::open_with(bed, lane, meter_id, ek).await
    }

    /// With a meter that has this encryption key.
    pub(crate) async fn open_with(bed: &Bed, lane: &Lane, meter_id: &str, ek: [u8; 16]) -> Self {
        let commands = vec![get(70, RELAY, 2), action(9, SCRIPTS, 1, &[0x12, 0, 3])];
        let request = OpenContextRequest {
            permit: Some(bed.auditor.sign(&permit(meter_id, commands))),
            meter_id: meter_id.to_owned(),
            mechanism: Mechanism::HlsGmac.into(),
            protection: Protection::Glo.into(),
            security: None,
            rotation_keys: 0,
        };
        let opened = lane.client().open_context(request).await.expect("open");
        let opened = opened.into_inner();
        Self {
            lane: lane.clone(),
            context_id: opened.context_id,
            challenge: opened.calling_authentication_value,
            meter: Meter {
                ek,
                ..Meter::new(meter_id)
            },
        }
    }

    /// AARQ, AARE, and HLS passes 3 and 4.
    pub(crate) async fn establish(&mut self) {
        let initiate = InitiateRequest::new(Conformance::new(0x10), 1024).encode();
        self.protect(initiate).await;
        let accepted = InitiateResponse::new(Conformance::new(0x10), 1024).encode();
        let accepted = self.meter.seal(0x28, &accepted);
        self.unprotect(accepted).await;
        let request = AnswerChallengeRequest {
            server_certificate: Vec::new(),
            context_id: self.context_id.clone(),
            server_challenge: CHALLENGE.to_vec(),
            server_system_title: SERVER.to_vec(),
        };
        let Ok(Outcome::AnswerChallenge(answer)) =
            self.lane.run(Job::AnswerChallenge(request)).await
        else {
            panic!("no token");
        };
        let reply = Request::Action {
            invoke: InvokeId::new(2),
            method: Method::REPLY_TO_HLS,
            parameter: Some(Data::OctetString(answer.token)),
        };
        self.protect(reply.encode()).await;
        self.meter.counter += 1;
        let theirs = self
            .meter
            .token(SERVER, self.meter.counter, &self.challenge);
        let answer = Response::Action {
            invoke: InvokeId::new(2),
            result: ActionResult::new(0),
            data: Some(Ok(Data::OctetString(theirs.clone()))),
        };
        let answer = self.meter.seal(0xCF, &answer.encode());
        self.unprotect(answer).await;
        let request = VerifyAnswerRequest {
            context_id: self.context_id.clone(),
            token: theirs,
        };
        let verified = self.lane.run(Job::VerifyAnswer(request)).await;
        assert!(matches!(verified, Ok(Outcome::VerifyAnswer(_))));
    }

    /// A GET of the relay's output state.
    pub(crate) fn read(&self) -> ProtectRequest {
        let attribute = Attribute {
            class_id: 70,
            name: RELAY.parse().expect("an OBIS code"),
            index: 2,
        };
        let request = Request::Get {
            invoke: InvokeId::new(1),
            attribute,
            selection: None,
        };
        ProtectRequest {
            context_id: self.context_id.clone(),
            apdu: request.encode(),
        }
    }

    pub(crate) async fn protect_read(&self) {
        let done = self.lane.run(Job::Protect(self.read())).await;
        assert!(matches!(done, Ok(Outcome::Protect(_))), "{done:?}");
    }

    /// The read, and its answer.
    pub(crate) async fn exchange(&mut self) {
        self.protect_read().await;
        let value = Response::GetData {
            invoke: InvokeId::new(1),
            data: Data::Boolean(true),
        };
        let answer = self.meter.seal(0xCC, &value.encode());
        self.unprotect(answer).await;
    }

    pub(crate) async fn close(self) {
        let request = CloseContextRequest {
            context_id: self.context_id,
        };
        let closed = self.lane.client().close_context(request).await;
        assert!(closed.is_ok());
    }

    async fn protect(&self, apdu: Vec<u8>) {
        let context_id = self.context_id.clone();
        let job = Job::Protect(ProtectRequest { context_id, apdu });
        let done = self.lane.run(job).await;
        assert!(matches!(done, Ok(Outcome::Protect(_))), "{done:?}");
    }

    async fn unprotect(&self, apdu: Vec<u8>) {
        let context_id = self.context_id.clone();
        let job = Job::Unprotect(UnprotectRequest { context_id, apdu });
        let done = self.lane.run(job).await;
        assert!(matches!(done, Ok(Outcome::Unprotect(_))), "{done:?}");
    }
}
