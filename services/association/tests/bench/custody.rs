//! Custody with keys in memory. It checks no signature and no permit: those are custody's own tests' matter.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use dlms::{CipherFailure, CipherOp, CipherOutput, KeyChoice, SecurityControl, Suite, SystemTitle};
use kit::status::Fault;
use latchkey_proto::custody::v1::{
    self as pb, AnswerChallengeRequest, AnswerChallengeResponse, CipherRequest,
    CloseContextRequest, CloseContextResponse, GetPermitUseRequest, GetPermitUseResponse,
    HintInvocationCounterRequest, HintInvocationCounterResponse, KeyInfo, Mechanism,
    OpenContextRequest, OpenContextResponse, ProtectRequest, ProtectResponse, SecurityPolicy,
    UnprotectRequest, UnprotectResponse, VerifyAnswerRequest, VerifyAnswerResponse,
    cipher_service_server::CipherService,
};
use softcipher::{Keys, Setup, SoftCipher};
use tonic::{Code, Request, Response, Status, Streaming};

use super::jobs::Results;

/// The reset script table, which the fake custody refuses when told to.
const SCRIPTS: [u8; 6] = [0, 0, 10, 1, 0, 255];

/// The client's side of one meter.
#[derive(Clone)]
pub struct Custody(Arc<Inner>);

/// Whose keys they are, and the password of LLS.
pub struct Client {
    pub title: [u8; 8],
    pub meter: [u8; 8],
    pub suite: Suite,
    pub keys: Keys,
    pub password: Vec<u8>,
    pub certificate: Vec<u8>,
}

struct Inner {
    client: Client,
    /// One for all contexts: the counters of the global key go on.
    cipher: Mutex<SoftCipher>,
    contexts: Mutex<HashMap<String, Context>>,
    opened: AtomicU32,
    refuse_scripts: AtomicBool,
    commands: AtomicU32,
    hints: Mutex<Vec<u32>>,
    /// It is older than the stream of jobs.
    calls_alone: AtomicBool,
    /// Streams that were opened.
    streams: AtomicU32,
}

#[derive(Clone)]
struct Context {
    request: OpenContextRequest,
    challenge: Vec<u8>,
    server_challenge: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the permit does not cover this APDU")]
    NotPermitted,
    #[error("the response is not authentic")]
    NotAuthentic,
    #[error("the meter's answer is wrong")]
    AnswerWrong,
    #[error("the token failed")]
    Token,
}

impl Fault for Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NotPermitted => Code::PermissionDenied,
            Self::NotAuthentic => Code::DataLoss,
            Self::AnswerWrong => Code::Unauthenticated,
            Self::Token => Code::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted => "APDU_NOT_PERMITTED",
            Self::NotAuthentic => "CIPHERTEXT_INVALID",
            Self::AnswerWrong => "HLS_ANSWER_WRONG",
            Self::Token => "TOKEN_FAILED",
        }
    }
}

impl Custody {
    pub fn new(client: Client) -> Self {
        let setup = Setup {
            peer: Some(SystemTitle::new(client.meter)),
            ..Setup::new(client.suite, SystemTitle::new(client.title))
        };
        let cipher = SoftCipher::new(setup, client.keys.clone()).unwrap();
        Self(Arc::new(Inner {
            client,
            cipher: Mutex::new(cipher),
            contexts: Mutex::default(),
            opened: AtomicU32::new(0),
            refuse_scripts: AtomicBool::new(false),
            commands: AtomicU32::new(0),
            hints: Mutex::default(),
            calls_alone: AtomicBool::new(false),
            streams: AtomicU32::new(0),
        }))
    }

    /// From now on no ACTION on the script table is ciphered.
    pub fn refuse_scripts(&self) {
        self.0.refuse_scripts.store(true, Ordering::SeqCst);
    }

    /// From now on it does not know the stream of jobs.
    pub fn know_calls_alone(&self) {
        self.0.calls_alone.store(true, Ordering::SeqCst);
    }

    /// How many streams of jobs were ever opened.
    pub fn streams(&self) -> u32 {
        self.0.streams.load(Ordering::SeqCst)
    }

    /// Which counters the meter was said to show.
    pub fn hints(&self) -> Vec<u32> {
        self.0.hints.lock().unwrap().clone()
    }

    /// Its database was restored: its counters begin again.
    pub fn rewind(&self) {
        let mut cipher = self.0.cipher.lock().unwrap();
        let counters = softcipher::Counters {
            sent: 0,
            ..cipher.counters()
        };
        cipher.resume(counters);
    }

    /// Goes on above what the meter shows, if that is higher; whether it was.
    fn hinted(&self, shown: u32) -> bool {
        self.0.hints.lock().unwrap().push(shown);
        let mut cipher = self.0.cipher.lock().unwrap();
        let mut counters = cipher.counters();
        let ahead = shown > counters.sent;
        if ahead {
            counters.sent = shown;
            cipher.resume(counters);
        }
        ahead
    }

    /// How many contexts were ever opened.
    pub fn opened(&self) -> u32 {
        self.0.opened.load(Ordering::SeqCst)
    }

    /// How many contexts are open.
    pub fn open_now(&self) -> usize {
        self.contexts().len()
    }

    /// How many commands have been let through.
    pub fn commands(&self) -> u32 {
        self.0.commands.load(Ordering::SeqCst)
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<String, Context>> {
        self.0.contexts.lock().unwrap()
    }

    fn context(&self, id: &str) -> Context {
        let contexts = self.contexts();
        contexts.get(id).cloned().expect("a context that is open")
    }

    fn peer_title(&self) -> SystemTitle {
        SystemTitle::new(self.0.client.meter)
    }

    fn run(&self, op: CipherOp) -> Result<CipherOutput, Status> {
        let done = self.0.cipher.lock().unwrap().run(op);
        done.map_err(|failure| {
            kit::status::status(&match failure {
                CipherFailure::AuthFailed | CipherFailure::Replay { .. } => Refusal::NotAuthentic,
                CipherFailure::Refused => Refusal::NotPermitted,
                CipherFailure::Unavailable => Refusal::Token,
            })
        })
    }
}

#[tonic::async_trait]
impl CipherService for Custody {
    async fn open_context(
        &self,
        request: Request<OpenContextRequest>,
    ) -> Result<Response<OpenContextResponse>, Status> {
        let request = request.into_inner();
        let id = format!("{:036}", self.0.opened.fetch_add(1, Ordering::SeqCst));
        let client = &self.0.client;
        let plain = request.protection() == pb::Protection::Plain;
        // As custody does: without a secret there is nothing to tell of.
        let (title, server) = match request.mechanism() {
            Mechanism::None if plain => (vec![], vec![]),
            _ => (client.title.to_vec(), client.meter.to_vec()),
        };
        let challenge = |length: usize| id.as_bytes()[36 - length..].to_vec();
        let value = match request.mechanism() {
            Mechanism::Unspecified | Mechanism::None => vec![],
            Mechanism::Low => client.password.clone(),
            Mechanism::HlsEcdsa => challenge(32),
            _ => challenge(16),
        };
        let context = Context {
            challenge: value.clone(),
            server_challenge: vec![],
            request,
        };
        self.contexts().insert(id.clone(), context);
        Ok(Response::new(OpenContextResponse {
            context_id: id,
            client_system_title: title,
            server_system_title: server,
            calling_authentication_value: value,
            client_certificate: client.certificate.clone(),
        }))
    }

    async fn protect(
        &self,
        request: Request<ProtectRequest>,
    ) -> Result<Response<ProtectResponse>, Status> {
        let ProtectRequest { context_id, apdu } = request.into_inner();
        let context = self.context(&context_id);
        let scripts = apdu.windows(SCRIPTS.len()).any(|window| window == SCRIPTS);
        if scripts && self.0.refuse_scripts.load(Ordering::SeqCst) {
            return Err(kit::status::status(&Refusal::NotPermitted));
        }
        if !matches!(apdu[0], 0x01) {
            self.0.commands.fetch_add(1, Ordering::SeqCst);
        }
        let (protection, control, signed) = terms(&context.request);
        let done = self.run(CipherOp::Protect {
            apdu,
            protection,
            control,
            signed,
        })?;
        let CipherOutput::Apdu(apdu, invocation_counter) = done else {
            unreachable!("an APDU becomes an APDU")
        };
        Ok(Response::new(ProtectResponse {
            apdu,
            invocation_counter,
        }))
    }

    async fn unprotect(
        &self,
        request: Request<UnprotectRequest>,
    ) -> Result<Response<UnprotectResponse>, Status> {
        let UnprotectRequest { context_id, apdu } = request.into_inner();
        let (protection, control, signed) = terms(&self.context(&context_id).request);
        let done = self.run(CipherOp::Unprotect {
            apdu,
            peer_title: self.peer_title(),
            protection,
            control,
            signed,
        })?;
        let CipherOutput::Apdu(apdu, _) = done else {
            unreachable!("an APDU becomes an APDU")
        };
        Ok(Response::new(UnprotectResponse { apdu }))
    }

    async fn answer_challenge(
        &self,
        request: Request<AnswerChallengeRequest>,
    ) -> Result<Response<AnswerChallengeResponse>, Status> {
        let AnswerChallengeRequest {
            context_id,
            server_challenge,
            ..
        } = request.into_inner();
        let mut context = self.context(&context_id);
        context.server_challenge.clone_from(&server_challenge);
        let done = self.run(CipherOp::Answer {
            peer_certificate: None,
            mechanism: mechanism(&context.request),
            challenge: server_challenge,
            own_challenge: context.challenge.clone(),
            peer_title: self.peer_title(),
            suite: self.0.client.suite,
        })?;
        self.contexts().insert(context_id, context);
        let CipherOutput::Token(token) = done else {
            unreachable!("a challenge becomes a token")
        };
        Ok(Response::new(AnswerChallengeResponse { token }))
    }

    async fn verify_answer(
        &self,
        request: Request<VerifyAnswerRequest>,
    ) -> Result<Response<VerifyAnswerResponse>, Status> {
        let VerifyAnswerRequest { context_id, token } = request.into_inner();
        let context = self.context(&context_id);
        self.run(CipherOp::Verify {
            mechanism: mechanism(&context.request),
            token,
            challenge: context.challenge,
            peer_challenge: context.server_challenge,
            peer_title: self.peer_title(),
            suite: self.0.client.suite,
        })
        .map_err(|_| kit::status::status(&Refusal::AnswerWrong))?;
        Ok(Response::new(VerifyAnswerResponse {}))
    }

    type CipherStream = Results;

    async fn cipher(
        &self,
        request: Request<Streaming<CipherRequest>>,
    ) -> Result<Response<Results>, Status> {
        if self.0.calls_alone.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("an older custody"));
        }
        self.0.streams.fetch_add(1, Ordering::SeqCst);
        let results = super::jobs::results(self.clone(), request.into_inner());
        Ok(Response::new(results))
    }

    async fn close_context(
        &self,
        request: Request<CloseContextRequest>,
    ) -> Result<Response<CloseContextResponse>, Status> {
        self.contexts().remove(&request.get_ref().context_id);
        Ok(Response::new(CloseContextResponse {}))
    }

    async fn begin_rotation(
        &self,
        _: Request<pb::BeginRotationRequest>,
    ) -> Result<Response<pb::BeginRotationResponse>, Status> {
        unreachable!("keys are changed with a real custody")
    }

    async fn get_rotation(
        &self,
        _: Request<pb::GetRotationRequest>,
    ) -> Result<Response<pb::GetRotationResponse>, Status> {
        unreachable!("keys are changed with a real custody")
    }

    async fn hint_invocation_counter(
        &self,
        request: Request<HintInvocationCounterRequest>,
    ) -> Result<Response<HintInvocationCounterResponse>, Status> {
        let shown = request.into_inner().invocation_counter;
        let raised = self.hinted(shown);
        Ok(Response::new(HintInvocationCounterResponse { raised }))
    }

    async fn get_permit_use(
        &self,
        _: Request<GetPermitUseRequest>,
    ) -> Result<Response<GetPermitUseResponse>, Status> {
        unreachable!("the association service does not ask")
    }
}

fn mechanism(request: &OpenContextRequest) -> dlms::Mechanism {
    let id = match request.mechanism() {
        Mechanism::Unspecified | Mechanism::None => 0,
        Mechanism::Low => 1,
        Mechanism::HlsMd5 => 3,
        Mechanism::HlsSha1 => 4,
        Mechanism::HlsGmac => 5,
        Mechanism::HlsSha256 => 6,
        Mechanism::HlsEcdsa => 7,
    };
    dlms::Mechanism::from_id(id).unwrap()
}

/// How custody ciphers is its own affair: it knows the context, and asks nobody.
fn terms(request: &OpenContextRequest) -> (dlms::Protection, SecurityControl, bool) {
    let security = request.security.unwrap_or_default();
    let protection = match request.protection() {
        pb::Protection::Unspecified | pb::Protection::Plain => dlms::Protection::Plain,
        pb::Protection::Glo => dlms::Protection::Glo,
        pb::Protection::GeneralGlo => dlms::Protection::GeneralGlo,
        pb::Protection::Ded => dlms::Protection::Ded,
        pb::Protection::GeneralDed => dlms::Protection::GeneralDed,
        pb::Protection::GeneralCiphering => {
            dlms::Protection::GeneralCiphering(match security.key_info() {
                KeyInfo::Unspecified => KeyChoice::Identified,
                KeyInfo::Wrapped => KeyChoice::Wrapped,
                KeyInfo::AgreedOnePass => KeyChoice::OnePass,
                KeyInfo::AgreedStatic => KeyChoice::Static,
            })
        }
    };
    let suite = Suite::from_id(u8::try_from(security.suite).unwrap()).unwrap();
    let (authenticated, encrypted) = match security.policy() {
        SecurityPolicy::Authenticated => (true, false),
        SecurityPolicy::Encrypted => (false, true),
        _ => (true, true),
    };
    let control = SecurityControl::of(suite, authenticated, encrypted);
    (protection, control, security.signed)
}
