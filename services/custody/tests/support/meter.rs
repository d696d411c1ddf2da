//! The meter's end, with its own AES-GCM, and an association through custody.

use std::collections::BTreeSet;

use aes_gcm::{
    AesGcm, KeyInit as _,
    aead::{Aead as _, Payload, consts::U12},
    aes::Aes128,
};
use dlms::{
    Attribute, Conformance, Data, InvokeId, Method, Obis, Request, Response,
    initiate::{InitiateRequest, InitiateResponse},
};
use kit::Channel;
use latchkey_proto::{
    audit::v1::SignedPermit,
    custody::v1::{
        AnswerChallengeRequest, CloseContextRequest, ImportLabKeysRequest, Mechanism,
        OpenContextRequest, OpenContextResponse, ProtectRequest, Protection, UnprotectRequest,
        VerifyAnswerRequest, cipher_service_client::CipherServiceClient,
    },
};
use tonic::Status;

/// The encryption key of a meter: each has its own.
pub fn ek(meter_id: &str) -> [u8; 16] {
    let mut key = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    for (octet, id) in key.iter_mut().zip(meter_id.bytes()) {
        *octet ^= id;
    }
    key
}

/// Authentication key and titles of the Green Book's examples.
pub const AK: [u8; 16] = [
    0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF,
];
pub const PASSWORD: &[u8] = b"sesame-4059";
pub const CLIENT: [u8; 8] = *b"MMM\0\0\0\0\x01";
pub const SERVER: [u8; 8] = *b"MMM\0\0\xBCaN";

/// A meter with keys.
pub struct Meter {
    pub ek: [u8; 16],
    pub counter: u32,
    /// Counters the client has spent, and none twice.
    pub spent: BTreeSet<u32>,
}

impl Meter {
    pub fn new(meter_id: &str) -> Self {
        Self {
            ek: ek(meter_id),
            counter: 1000,
            spent: BTreeSet::new(),
        }
    }

    fn cipher(&self) -> AesGcm<Aes128, U12, U12> {
        AesGcm::new(&self.ek.into())
    }

    fn nonce(title: [u8; 8], counter: u32) -> [u8; 12] {
        let octets: Vec<u8> = title.into_iter().chain(counter.to_be_bytes()).collect();
        octets.try_into().expect("12 octets")
    }

    fn aad(control: u8, more: &[u8]) -> Vec<u8> {
        [&[control][..], &AK, more].concat()
    }

    /// Deciphers a request as a meter would, and checks that its counter is new.
    pub fn open(&mut self, apdu: &[u8]) -> Vec<u8> {
        let ciphered = dlms::Ciphered::decode(apdu).expect("a ciphered APDU");
        assert_eq!(ciphered.control.octet(), 0x30);
        assert!(
            self.spent.insert(ciphered.counter),
            "counter {} was used twice",
            ciphered.counter
        );
        let nonce = Self::nonce(CLIENT, ciphered.counter);
        let aad = Self::aad(0x30, &[]);
        let payload = Payload {
            msg: &ciphered.body,
            aad: &aad,
        };
        self.cipher()
            .decrypt(&nonce.into(), payload)
            .expect("the tag is right")
    }

    /// Ciphers a response with the next counter.
    pub fn seal(&mut self, tag: u8, apdu: &[u8]) -> Vec<u8> {
        self.counter += 1;
        self.seal_with(tag, 0x30, self.counter, apdu)
    }

    pub fn seal_with(&self, tag: u8, control: u8, counter: u32, apdu: &[u8]) -> Vec<u8> {
        let nonce = Self::nonce(SERVER, counter);
        let aad = Self::aad(control, &[]);
        let body = self
            .cipher()
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: apdu,
                    aad: &aad,
                },
            )
            .expect("it ciphers");
        let title = (tag == 0xDB).then(|| dlms::SystemTitle::new(SERVER));
        dlms::Ciphered {
            tag,
            title,
            control: dlms::SecurityControl::new(control),
            counter,
            body,
        }
        .encode()
    }

    /// SC || IC || T over a challenge.
    pub fn token(&self, title: [u8; 8], counter: u32, challenge: &[u8]) -> Vec<u8> {
        let nonce = Self::nonce(title, counter);
        let aad = Self::aad(0x10, challenge);
        let tag = self
            .cipher()
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: &[],
                    aad: &aad,
                },
            )
            .expect("it ciphers");
        [&[0x10][..], &counter.to_be_bytes(), &tag].concat()
    }
}

/// Keys of a laboratory meter as they are imported.
pub fn lab_keys(meter_id: &str) -> ImportLabKeysRequest {
    ImportLabKeysRequest {
        meter_id: meter_id.to_owned(),
        client_system_title: CLIENT.to_vec(),
        server_system_title: SERVER.to_vec(),
        encryption_key: ek(meter_id).to_vec(),
        authentication_key: AK.to_vec(),
        password: PASSWORD.to_vec(),
        mechanisms: vec![Mechanism::HlsGmac.into(), Mechanism::Low.into()],
        ..ImportLabKeysRequest::default()
    }
}

/// One association through custody, with the test as network and meter.
#[derive(Clone)]
pub struct Association {
    pub custody: CipherServiceClient<Channel>,
    pub context_id: String,
    pub challenge: Vec<u8>,
    pub client_title: Vec<u8>,
    invoke: u8,
}

impl Association {
    /// Opens a cipher context.
    pub async fn open(
        custody: &CipherServiceClient<Channel>,
        permit: &SignedPermit,
        meter_id: &str,
        how: (Mechanism, Protection),
    ) -> Result<Self, Status> {
        let request = OpenContextRequest {
            permit: Some(permit.clone()),
            meter_id: meter_id.to_owned(),
            mechanism: how.0.into(),
            protection: how.1.into(),
            security: None,
            rotation_keys: 0,
        };
        Self::open_as(custody, request).await.map(|(it, _)| it)
    }

    /// Opens a cipher context as the request says.
    pub async fn open_as(
        custody: &CipherServiceClient<Channel>,
        request: OpenContextRequest,
    ) -> Result<(Self, OpenContextResponse), Status> {
        let opened = custody.clone().open_context(request).await?.into_inner();
        let association = Self {
            custody: custody.clone(),
            context_id: opened.context_id.clone(),
            client_title: opened.client_system_title.clone(),
            challenge: opened.calling_authentication_value.clone(),
            invoke: 0,
        };
        Ok((association, opened))
    }

    /// Opens a context with HLS5 and glo-ciphering.
    pub async fn hls(
        custody: &CipherServiceClient<Channel>,
        permit: &SignedPermit,
        meter_id: &str,
    ) -> Result<Self, Status> {
        Self::open(
            custody,
            permit,
            meter_id,
            (Mechanism::HlsGmac, Protection::Glo),
        )
        .await
    }

    pub async fn protect(&mut self, apdu: Vec<u8>) -> Result<(Vec<u8>, u32), Status> {
        let request = ProtectRequest {
            context_id: self.context_id.clone(),
            apdu,
        };
        let done = self.custody.protect(request).await?.into_inner();
        Ok((done.apdu, done.invocation_counter))
    }

    pub async fn unprotect(&mut self, apdu: Vec<u8>) -> Result<Vec<u8>, Status> {
        let request = UnprotectRequest {
            context_id: self.context_id.clone(),
            apdu,
        };
        Ok(self.custody.unprotect(request).await?.into_inner().apdu)
    }

    pub async fn answer(&mut self, challenge: &[u8], title: [u8; 8]) -> Result<Vec<u8>, Status> {
        let request = AnswerChallengeRequest {
            server_certificate: Vec::new(),
            context_id: self.context_id.clone(),
            server_challenge: challenge.to_vec(),
            server_system_title: title.to_vec(),
        };
        Ok(self
            .custody
            .answer_challenge(request)
            .await?
            .into_inner()
            .token)
    }

    pub async fn verify(&mut self, token: Vec<u8>) -> Result<(), Status> {
        let request = VerifyAnswerRequest {
            context_id: self.context_id.clone(),
            token,
        };
        self.custody.verify_answer(request).await.map(drop)
    }

    pub async fn close(&mut self) -> Result<(), Status> {
        let request = CloseContextRequest {
            context_id: self.context_id.clone(),
        };
        self.custody.close_context(request).await.map(drop)
    }

    /// AARQ and AARE.
    pub async fn initiate(&mut self, meter: &mut Meter) -> Result<(), Status> {
        let request = InitiateRequest::new(Conformance::new(0x10), 1024).encode();
        let (apdu, _) = self.protect(request.clone()).await?;
        assert_eq!((apdu.first(), meter.open(&apdu)), (Some(&0x21), request));
        let response = InitiateResponse::new(Conformance::new(0x10), 1024).encode();
        let ciphered = meter.seal(0x28, &response);
        assert_eq!(self.unprotect(ciphered).await?, response);
        Ok(())
    }

    /// AARQ, AARE, and HLS passes 3 and 4.
    pub async fn establish(&mut self, meter: &mut Meter) -> Result<(), Status> {
        self.initiate(meter).await?;
        let challenge = *b"P6wRJ21Fp6WrJ12f";
        let token = self.answer(&challenge, SERVER).await?;
        let counter = u32::from_be_bytes(token[1..5].try_into().expect("four octets"));
        assert!(
            meter.spent.insert(counter),
            "counter {counter} was used twice"
        );
        assert_eq!(token, meter.token(CLIENT, counter, &challenge));
        let reply = self.reply(token).await?;
        meter.open(&reply);
        meter.counter += 1;
        let theirs = meter.token(SERVER, meter.counter, &self.challenge);
        let answer = Response::Action {
            invoke: InvokeId::new(self.invoke),
            result: dlms::ActionResult::new(0),
            data: Some(Ok(Data::OctetString(theirs.clone()))),
        };
        let ciphered = meter.seal(0xCF, &answer.encode());
        self.unprotect(ciphered).await?;
        self.verify(theirs).await
    }

    /// Has reply_to_HLS with this token ciphered.
    pub async fn reply(&mut self, token: Vec<u8>) -> Result<Vec<u8>, Status> {
        let apdu = self.action_apdu(Method::REPLY_TO_HLS, Some(Data::OctetString(token)));
        Ok(self.protect(apdu).await?.0)
    }

    pub fn invoke(&self) -> InvokeId {
        InvokeId::new(self.invoke)
    }

    /// The invoke id of the next request.
    pub fn next(&mut self) -> InvokeId {
        self.invoke = (self.invoke + 1) % 16;
        self.invoke()
    }

    pub fn get_apdu(&mut self, class_id: u16, name: &str, index: i8) -> Vec<u8> {
        self.invoke = (self.invoke + 1) % 16;
        let attribute = Attribute {
            class_id,
            name: name.parse().expect("an OBIS code"),
            index,
        };
        Request::Get {
            invoke: self.invoke(),
            attribute,
            selection: None,
        }
        .encode()
    }

    pub fn action_apdu(&mut self, method: Method, parameter: Option<Data>) -> Vec<u8> {
        self.invoke = (self.invoke + 1) % 16;
        Request::Action {
            invoke: self.invoke(),
            method,
            parameter,
        }
        .encode()
    }

    /// The plaintext answer to the GET asked last.
    pub fn value(&self, data: Data) -> Vec<u8> {
        Response::GetData {
            invoke: self.invoke(),
            data,
        }
        .encode()
    }
}

pub fn method(class_id: u16, name: &str, index: i8) -> Method {
    Method {
        class_id,
        name: name.parse::<Obis>().expect("an OBIS code"),
        index,
    }
}
