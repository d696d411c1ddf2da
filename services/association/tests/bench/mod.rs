//! A meter, a gateway, an auditor and a custody with keys in memory, around a real association service.

#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

#[path = "../../../gateway/tests/support/mod.rs"]
pub mod support;

mod keys;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use kit::{Channel, Listener, StartError, Tasks, status::Fault};
use latchkey_proto::{
    association::v1::{
        InvokeRequest, Meter, OpenAssociationRequest, OpenAssociationResponse,
        association_service_client::AssociationServiceClient,
        meter_service_client::MeterServiceClient,
    },
    audit::v1::{Command, CommandService, Permit, SignedPermit},
    custody::v1::{
        AnswerChallengeRequest, AnswerChallengeResponse, CloseContextRequest, CloseContextResponse,
        GetPermitUseRequest, GetPermitUseResponse, Mechanism, OpenContextRequest,
        OpenContextResponse, ProtectRequest, ProtectResponse, Protection, UnprotectRequest,
        UnprotectResponse, VerifyAnswerRequest, VerifyAnswerResponse,
        cipher_service_server::{CipherService, CipherServiceServer},
    },
};
use prost::Message as _;
use simulator::{Event, LabKeys, MeterOptions, MeterServer};
use support::{Pki, Stack};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use self::keys::SoftKeys;

/// The reset script table, which the fake custody refuses when told to.
const SCRIPTS: [u8; 6] = [0, 0, 10, 1, 0, 255];

/// Custody with keys in memory. It checks no signature; permits are custody's own tests' matter.
#[derive(Clone)]
pub struct Custody(Arc<Inner>);

struct Inner {
    keys: SoftKeys,
    counter: AtomicU32,
    contexts: Mutex<HashMap<String, OpenContextRequest>>,
    opened: AtomicU32,
    refuse_scripts: AtomicBool,
    gets: AtomicU32,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the permit does not cover this APDU")]
    NotPermitted,
    #[error("the response is not authentic")]
    NotAuthentic,
    #[error("the meter's answer is wrong")]
    AnswerWrong,
}

impl Fault for Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NotPermitted => Code::PermissionDenied,
            Self::NotAuthentic => Code::DataLoss,
            Self::AnswerWrong => Code::Unauthenticated,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted => "APDU_NOT_PERMITTED",
            Self::NotAuthentic => "CIPHERTEXT_INVALID",
            Self::AnswerWrong => "HLS_ANSWER_WRONG",
        }
    }
}

impl Custody {
    pub fn new(keys: &LabKeys) -> Self {
        Self(Arc::new(Inner {
            keys: SoftKeys::new(keys),
            counter: AtomicU32::new(1),
            contexts: Mutex::default(),
            opened: AtomicU32::new(0),
            refuse_scripts: AtomicBool::new(false),
            gets: AtomicU32::new(0),
        }))
    }

    /// From now on no ACTION on the script table is ciphered.
    pub fn refuse_scripts(&self) {
        self.0.refuse_scripts.store(true, Ordering::SeqCst);
    }

    /// How many contexts were ever opened.
    pub fn opened(&self) -> u32 {
        self.0.opened.load(Ordering::SeqCst)
    }

    /// How many contexts are open.
    pub fn open_now(&self) -> usize {
        self.0.contexts.lock().unwrap().len()
    }

    fn context(&self, id: &str) -> OpenContextRequest {
        self.0
            .contexts
            .lock()
            .unwrap()
            .get(id)
            .cloned()
            .expect("a context that is open")
    }

    fn next_counter(&self) -> u32 {
        self.0.counter.fetch_add(1, Ordering::SeqCst)
    }
}

const CHALLENGE: &[u8] = b"fake-challenge-1";

#[tonic::async_trait]
impl CipherService for Custody {
    async fn open_context(
        &self,
        request: Request<OpenContextRequest>,
    ) -> Result<Response<OpenContextResponse>, Status> {
        let request = request.into_inner();
        let id = format!("{:036}", self.0.opened.fetch_add(1, Ordering::SeqCst));
        let keys = &self.0.keys;
        let (title, server, value) = match request.mechanism() {
            Mechanism::HlsGmac => (
                keys.client.to_vec(),
                keys.server.to_vec(),
                CHALLENGE.to_vec(),
            ),
            Mechanism::Low => (
                keys.client.to_vec(),
                keys.server.to_vec(),
                keys.password.clone(),
            ),
            _ => (vec![], vec![], vec![]),
        };
        self.0.contexts.lock().unwrap().insert(id.clone(), request);
        Ok(Response::new(OpenContextResponse {
            context_id: id,
            client_system_title: title,
            server_system_title: server,
            calling_authentication_value: value,
            client_certificate: vec![],
        }))
    }

    async fn protect(
        &self,
        request: Request<ProtectRequest>,
    ) -> Result<Response<ProtectResponse>, Status> {
        let ProtectRequest { context_id, apdu } = request.into_inner();
        let protection = self.context(&context_id).protection();
        let scripts = apdu.windows(SCRIPTS.len()).any(|window| window == SCRIPTS);
        if scripts && self.0.refuse_scripts.load(Ordering::SeqCst) {
            return Err(kit::status::status(&Refusal::NotPermitted));
        }
        if protection == Protection::Plain {
            self.0.gets.fetch_add(1, Ordering::SeqCst);
            return Ok(Response::new(ProtectResponse {
                apdu,
                invocation_counter: 0,
            }));
        }
        let protection = match protection {
            Protection::GeneralGlo => dlms::Protection::GeneralGlo,
            _ => dlms::Protection::Glo,
        };
        let counter = self.next_counter();
        let apdu = self.0.keys.seal(&apdu, protection, counter);
        Ok(Response::new(ProtectResponse {
            apdu,
            invocation_counter: counter,
        }))
    }

    async fn unprotect(
        &self,
        request: Request<UnprotectRequest>,
    ) -> Result<Response<UnprotectResponse>, Status> {
        let UnprotectRequest { context_id, apdu } = request.into_inner();
        self.context(&context_id);
        let apdu = self
            .0
            .keys
            .open(&apdu)
            .ok_or_else(|| kit::status::status(&Refusal::NotAuthentic))?;
        Ok(Response::new(UnprotectResponse { apdu }))
    }

    async fn answer_challenge(
        &self,
        request: Request<AnswerChallengeRequest>,
    ) -> Result<Response<AnswerChallengeResponse>, Status> {
        let token = self
            .0
            .keys
            .token(&request.get_ref().server_challenge, self.next_counter());
        Ok(Response::new(AnswerChallengeResponse { token }))
    }

    async fn verify_answer(
        &self,
        request: Request<VerifyAnswerRequest>,
    ) -> Result<Response<VerifyAnswerResponse>, Status> {
        if self.0.keys.verify(&request.get_ref().token, CHALLENGE) {
            Ok(Response::new(VerifyAnswerResponse {}))
        } else {
            Err(kit::status::status(&Refusal::AnswerWrong))
        }
    }

    async fn close_context(
        &self,
        request: Request<CloseContextRequest>,
    ) -> Result<Response<CloseContextResponse>, Status> {
        self.0
            .contexts
            .lock()
            .unwrap()
            .remove(&request.get_ref().context_id);
        Ok(Response::new(CloseContextResponse {}))
    }

    async fn get_permit_use(
        &self,
        _: Request<GetPermitUseRequest>,
    ) -> Result<Response<GetPermitUseResponse>, Status> {
        unreachable!("the association service does not ask")
    }
}

/// Everything, with one meter enrolled as `m-1`.
pub struct Bench {
    pub stack: Stack,
    pub custody: Custody,
    pub meter: SocketAddr,
    pub events: watch::Receiver<Vec<Event>>,
    pub association: SocketAddr,
    /// Ends when the association service has ended.
    pub service: Tasks,
    pub service_trigger: kit::ShutdownTrigger,
}

impl Bench {
    /// `change` changes the meter, `more` goes to the head of the association's configuration.
    pub async fn start(change: impl FnOnce(&mut MeterOptions), more: &str) -> Self {
        let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], "lab_any_port = true").await;
        let keys = lab_keys(1);
        let mut options = MeterOptions::new("127.0.0.1:0".parse().unwrap(), keys.clone());
        options.boot_seconds = 0.2;
        change(&mut options);
        let (meter, events) = start_meter(options, &stack.tasks).await;
        let custody = Custody::new(&keys);
        let custody_address = serve_custody(&stack.pki, custody.clone(), &stack.tasks).await;
        let (service_trigger, shutdown) = kit::shutdown();
        let service = Tasks::new(shutdown);
        let association = start_association(&stack, custody_address, &service, more).await;
        let bench = Self {
            stack,
            custody,
            meter,
            events,
            association,
            service,
            service_trigger,
        };
        bench
            .enrol("m-1", bench.meter, Mechanism::HlsGmac, Protection::Glo)
            .await
            .unwrap();
        bench
    }

    pub fn channel(&self, role: &str) -> Channel {
        let client = kit::config::Client {
            endpoint: format!("https://{}", self.association),
            peer: Pki::name("association"),
            timeout_ms: 30_000,
        };
        kit::client::channel(&client, &self.stack.pki.identity(role)).unwrap()
    }

    pub fn meters(&self) -> MeterServiceClient<Channel> {
        MeterServiceClient::new(self.channel("cli"))
    }

    pub fn client(&self, role: &str) -> AssociationServiceClient<Channel> {
        AssociationServiceClient::new(self.channel(role))
    }

    pub async fn enrol(
        &self,
        id: &str,
        address: SocketAddr,
        mechanism: Mechanism,
        protection: Protection,
    ) -> Result<Meter, Status> {
        let meter = Meter {
            meter_id: id.to_owned(),
            address: address.to_string(),
            mechanism: mechanism.into(),
            protection: protection.into(),
            profile: "standard".to_owned(),
            ..Meter::default()
        };
        let request = latchkey_proto::association::v1::CreateMeterRequest { meter: Some(meter) };
        Ok(self
            .meters()
            .create_meter(request)
            .await?
            .into_inner()
            .meter
            .unwrap())
    }

    pub async fn open(&self, role: &str, holder: &str) -> Result<OpenAssociationResponse, Status> {
        let request = OpenAssociationRequest {
            meter_id: "m-1".to_owned(),
            permit: Some(permit("m-1", role)),
            holder: holder.to_owned(),
            public_client: false,
        };
        Ok(self
            .client(role)
            .open_association(request)
            .await?
            .into_inner())
    }

    /// Waits until the meter told of something whose JSON holds `text`.
    pub async fn told(&self, text: &str) {
        let mut events = self.events.clone();
        let told = events.wait_for(|events| mentions(events, text));
        tokio::time::timeout(support::PATIENCE, told)
            .await
            .expect(text)
            .unwrap();
    }

    pub fn has_told(&self, text: &str) -> bool {
        mentions(&self.events.borrow(), text)
    }

    /// How many plain commands custody has let through: each is on its way to the meter a moment later.
    pub fn gets_seen(&self) -> u32 {
        self.custody.0.gets.load(Ordering::SeqCst)
    }

    /// Waits for the first of them.
    pub async fn sent_get(&self) {
        support::until("the GET is on its way", || async { self.gets_seen() > 0 }).await;
    }

    pub async fn stop(self) {
        self.service_trigger.fire();
        tokio::time::timeout(support::PATIENCE, self.service.join())
            .await
            .expect("the service stops in time");
        assert_eq!(self.custody.open_now(), 0, "every cipher context is closed");
        self.stack.stop().await;
    }
}

fn mentions(events: &[Event], text: &str) -> bool {
    events
        .iter()
        .any(|event| serde_json::to_string(event).unwrap().contains(text))
}

/// The same keys for the same seed.
pub fn lab_keys(seed: u8) -> LabKeys {
    let mut next = seed;
    LabKeys::generate(|octets| {
        for octet in octets {
            *octet = next;
            next = next.wrapping_mul(5).wrapping_add(17);
        }
    })
}

async fn start_meter(
    options: MeterOptions,
    tasks: &Tasks,
) -> (SocketAddr, watch::Receiver<Vec<Event>>) {
    let server = MeterServer::bind(options).await.unwrap();
    let address = server.local_addr();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("meter", async move {
        server.run(sender, shutdown).await.unwrap()
    });
    let (told, events) = watch::channel(Vec::new());
    tasks.spawn("meter events", async move {
        while let Some(event) = receiver.recv().await {
            told.send_modify(|events: &mut Vec<Event>| events.push(event));
        }
    });
    (address, events)
}

async fn serve_custody(pki: &Pki, custody: Custody, tasks: &Tasks) -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let peers = format!(
        "'latchkey.custody.v1.CipherService' = ['{}']",
        Pki::name("association")
    );
    let config: support::Wrapped =
        toml::from_str(&pki.server_toml("custody", address, &peers)).unwrap();
    let served = kit::Server::new("custody", &config.server)
        .unwrap()
        .add(CipherServiceServer::new(custody));
    let served = served.serve(listener, tasks.shutdown().clone());
    tasks.spawn("custody", async move { served.await.unwrap() });
    address
}

async fn start_association(
    stack: &Stack,
    custody: SocketAddr,
    tasks: &Tasks,
    more: &str,
) -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (reset, cli) = (Pki::name("reset"), Pki::name("cli"));
    let peers = format!(
        "'latchkey.association.v1.MeterService' = ['{reset}', '{cli}']\n\
         'latchkey.association.v1.AssociationService' = ['{reset}', '{cli}']"
    );
    let server = stack.pki.server_toml("association", address, &peers);
    let text = format!(
        "{more}\n{server}[database]\nurl = 'sqlite://{}'\n\
         [custody]\nendpoint = 'https://{custody}'\npeer = '{}'\n\
         [auditor]\nendpoint = 'https://{}'\npeer = '{}'\n\
         [gateway]\naddress = '{}'\npeer = '{}'\n",
        stack.pki.path("association.db").display(),
        Pki::name("custody"),
        stack.auditor_address,
        Pki::name("auditor"),
        stack.relay,
        Pki::name("gateway"),
    );
    let config: association::Config = toml::from_str(&text).unwrap();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("association", async move {
        let served: Result<(), StartError> = association::serve(config, listener, shutdown).await;
        served.unwrap();
    });
    address
}

/// The code and the reason of an error.
pub fn why<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (
        status.code(),
        kit::status::reason(&status).unwrap_or_default(),
    )
}

/// A permit that only its body makes one: the fake custody checks no signature.
pub fn permit(meter_id: &str, role: &str) -> SignedPermit {
    let permit = Permit {
        permit_id: "018f3c5e-7b1a-7c3d-9e4f-5a6b7c8d9e0f".to_owned(),
        meter_id: meter_id.to_owned(),
        requester: Pki::name(role).to_string(),
        ..Permit::default()
    };
    SignedPermit {
        body: permit.encode_to_vec(),
        ..SignedPermit::default()
    }
}

pub fn get(association_id: &str, class_id: u32, name: &str, index: i32) -> InvokeRequest {
    let command = Command {
        service: CommandService::Get.into(),
        class_id,
        logical_name: name.to_owned(),
        index,
        ..Command::default()
    };
    InvokeRequest {
        association_id: association_id.to_owned(),
        command: Some(command),
        answer_timeout_ms: 3_000,
    }
}

/// Runs a script of the reset script table.
pub fn script(association_id: &str, id: u8) -> InvokeRequest {
    let mut request = get(association_id, 9, "0.0.10.1.0.255", 1);
    let command = request.command.as_mut().unwrap();
    command.service = CommandService::Action.into();
    command.parameter = vec![0x12, 0, id];
    command.max_uses = 1;
    request
}
