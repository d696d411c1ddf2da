//! The meter's end, and the book of every ciphertext that came out of custody.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest,
};
use dlms::{
    ActionResult, Attribute, Conformance, Data, InvokeId, Method, Request, Response, SystemTitle,
    initiate::{InitiateRequest, InitiateResponse},
};
use futures::StreamExt as _;
use kit::Channel;
use latchkey_proto::custody::v1::{
    AnswerChallengeRequest, CipherJob, CipherRequest, Mechanism, OpenContextRequest,
    ProtectRequest, Protection, UnprotectRequest, VerifyAnswerRequest, cipher_job::Job,
    cipher_result::Outcome, cipher_service_client::CipherServiceClient,
};
use tonic::Status;

use crate::house::{Counter, REPLICAS};

pub(crate) const OBJECT: &str = "0.0.96.1.0.255";
pub(crate) const AK: [u8; 16] = [0xD0; 16];
pub(crate) const CLIENT: [u8; 8] = *b"MMM\0\0\0\0\x01";
pub(crate) const SERVER: [u8; 8] = *b"MMM\0\0\xBCaN";
/// Jobs of one message of a stream.
const BATCH: usize = 32;

/// A meter.
pub(crate) struct Meter {
    pub(crate) id: String,
    pub(crate) key: [u8; 16],
    /// The counter it used last.
    counter: AtomicU32,
    /// What came for it, by invocation counter: the beginning of the digest.
    seen: Mutex<HashMap<u32, u64>>,
}

/// What all of it comes to.
pub(crate) struct Books {
    wanted: usize,
    written: AtomicUsize,
    contexts: AtomicU64,
    repeated: Mutex<Vec<String>>,
    /// Whoever writes goes on for as long, even if there are enough.
    open: std::sync::atomic::AtomicBool,
}

impl Books {
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            wanted,
            written: AtomicUsize::new(0),
            contexts: AtomicU64::new(0),
            repeated: Mutex::default(),
            open: true.into(),
        }
    }

    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    pub(crate) fn is_full(&self) -> bool {
        self.written.load(Ordering::Relaxed) >= self.wanted
    }

    /// Nobody writes any more.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    fn is_closed(&self) -> bool {
        !self.open.load(Ordering::SeqCst)
    }

    /// Ciphertexts and contexts.
    pub(crate) fn sums(&self) -> (usize, u64) {
        (
            self.written.load(Ordering::SeqCst),
            self.contexts.load(Ordering::SeqCst),
        )
    }

    /// What must not be.
    pub(crate) fn repeated(&self) -> Vec<String> {
        self.repeated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Meter {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            id: format!("nonce-{number}"),
            key: [u8::try_from(number).unwrap_or(255) + 1; 16],
            counter: AtomicU32::new(1),
            seen: Mutex::default(),
        }
    }

    /// Writes down what custody made under this meter's key and the client's title, with this counter.
    fn note(&self, counter: u32, octets: &[u8], books: &Books) {
        let digest = digest::digest(&digest::SHA256, octets);
        let short = digest
            .as_ref()
            .first_chunk()
            .map(|it| u64::from_be_bytes(*it));
        let short = short.unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen
            .insert(counter, short)
            .is_some_and(|before| before != short)
        {
            let what = format!("{}: counter {counter}", self.id);
            let mut repeated = books
                .repeated
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            repeated.push(what);
        }
        books.written.fetch_add(1, Ordering::Relaxed);
    }

    fn tag(&self, counter: u32, aad: &[u8], text: &mut [u8]) -> Vec<u8> {
        let key = UnboundKey::new(&AES_128_GCM, &self.key).expect("16 octets");
        let nonce = [&SERVER[..], &counter.to_be_bytes()].concat();
        let nonce = Nonce::try_assume_unique_for_key(&nonce).expect("12 octets");
        let tag = LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            .expect("it ciphers");
        tag.as_ref()[..12].to_vec()
    }

    /// Ciphers an answer with the next counter.
    fn seal(&self, tag: u8, apdu: &[u8]) -> Vec<u8> {
        let counter = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let mut body = apdu.to_vec();
        let mac = self.tag(counter, &[&[0x30][..], &AK].concat(), &mut body);
        body.extend(mac);
        dlms::Ciphered {
            tag,
            title: None,
            control: dlms::SecurityControl::new(0x30),
            counter,
            body,
        }
        .encode()
    }

    /// f(CtoS) of HLS5.
    fn token(&self, challenge: &[u8]) -> Vec<u8> {
        let counter = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let mac = self.tag(counter, &[&[0x10][..], &AK, challenge].concat(), &mut []);
        [&[0x10][..], &counter.to_be_bytes(), &mac].concat()
    }
}

/// One head: opens associations with its meter through a replica, uses them for a while, and opens others.
pub(crate) async fn work(number: usize, meter: Arc<Meter>, books: Arc<Books>, at: Arc<Counter>) {
    let mut turn = number;
    while !books.is_closed() {
        turn = turn.wrapping_mul(25).wrapping_add(7) % 10_007;
        let replica = turn % REPLICAS;
        let gets = 64 + (turn % 23) * 64;
        let mut talk = Talk {
            custody: at.custody(replica),
            context_id: String::new(),
            meter: &meter,
            books: &books,
        };
        // A replica that is dead, a context that another one ended: all of it is meant to happen.
        let ended = match talk.open(at.permit(&meter.id)).await {
            Ok(()) => talk.read(gets).await,
            Err(status) => Err(status),
        };
        if ended.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Talk<'a> {
    custody: CipherServiceClient<Channel>,
    context_id: String,
    meter: &'a Meter,
    books: &'a Books,
}

impl Talk<'_> {
    /// AARQ and HLS5.
    async fn open(
        &mut self,
        permit: latchkey_proto::audit::v1::SignedPermit,
    ) -> Result<(), Status> {
        let request = OpenContextRequest {
            permit: Some(permit),
            meter_id: self.meter.id.clone(),
            mechanism: Mechanism::HlsGmac.into(),
            protection: Protection::Glo.into(),
            ..OpenContextRequest::default()
        };
        let opened = self.custody.open_context(request).await?.into_inner();
        self.context_id = opened.context_id;
        self.books.contexts.fetch_add(1, Ordering::Relaxed);
        let conformance = Conformance::new(0x10);
        self.protect(InitiateRequest::new(conformance, 1024).encode())
            .await?;
        let response = InitiateResponse::new(conformance, 1024).encode();
        self.unprotect(self.meter.seal(0x28, &response)).await?;
        let asked = AnswerChallengeRequest {
            server_certificate: Vec::new(),
            context_id: self.context_id.clone(),
            server_challenge: b"P6wRJ21Fp6WrJ12f".to_vec(),
            server_system_title: SERVER.to_vec(),
        };
        let token = self.custody.answer_challenge(asked).await?;
        let token = token.into_inner().token;
        let counter = token[1..5].try_into().map(u32::from_be_bytes);
        self.meter
            .note(counter.expect("four octets"), &token, self.books);
        let reply = Request::Action {
            invoke: InvokeId::new(1),
            method: Method::REPLY_TO_HLS,
            parameter: Some(Data::OctetString(token)),
        };
        self.protect(reply.encode()).await?;
        let token = self.meter.token(&opened.calling_authentication_value);
        let answer = Response::Action {
            invoke: InvokeId::new(1),
            result: ActionResult::new(0),
            data: Some(Ok(Data::OctetString(token.clone()))),
        };
        self.unprotect(self.meter.seal(0xCF, &answer.encode()))
            .await?;
        let asked = VerifyAnswerRequest {
            context_id: self.context_id.clone(),
            token,
        };
        self.custody.verify_answer(asked).await.map(drop)
    }

    async fn protect(&mut self, apdu: Vec<u8>) -> Result<(), Status> {
        let request = ProtectRequest {
            context_id: self.context_id.clone(),
            apdu,
        };
        let apdu = self.custody.protect(request).await?.into_inner().apdu;
        self.note(&apdu);
        Ok(())
    }

    async fn unprotect(&mut self, apdu: Vec<u8>) -> Result<(), Status> {
        let request = UnprotectRequest {
            context_id: self.context_id.clone(),
            apdu,
        };
        self.custody.unprotect(request).await.map(drop)
    }

    fn note(&self, apdu: &[u8]) {
        let ciphered = dlms::Ciphered::decode(apdu).expect("a ciphered APDU");
        assert!(
            ciphered
                .title
                .is_none_or(|it| it == SystemTitle::new(CLIENT))
        );
        self.meter.note(ciphered.counter, apdu, self.books);
    }

    /// Many GETs, in batches over a stream.
    async fn read(&mut self, gets: usize) -> Result<(), Status> {
        let batches: Vec<_> = (0..gets / BATCH).map(|n| self.batch(n * BATCH)).collect();
        let asked = futures::stream::iter(batches);
        let mut answers = self.custody.cipher(asked).await?.into_inner();
        while let Some(response) = answers.next().await {
            for result in response?.results {
                match result.outcome {
                    Some(Outcome::Protect(done)) => self.note(&done.apdu),
                    // A later association ended this one.
                    _ => return Ok(()),
                }
            }
        }
        Ok(())
    }

    fn batch(&self, first: usize) -> CipherRequest {
        let job = |number: usize| {
            let request = Request::Get {
                invoke: InvokeId::new(u8::try_from(number % 16).unwrap_or_default()),
                attribute: Attribute {
                    class_id: 1,
                    name: OBJECT.parse().expect("an OBIS code"),
                    index: 2,
                },
                selection: None,
            };
            CipherJob {
                job_id: u64::try_from(number).unwrap_or_default(),
                job: Some(Job::Protect(ProtectRequest {
                    context_id: self.context_id.clone(),
                    apdu: request.encode(),
                })),
                ..CipherJob::default()
            }
        };
        CipherRequest {
            jobs: (first..first + BATCH).map(job).collect(),
        }
    }
}
