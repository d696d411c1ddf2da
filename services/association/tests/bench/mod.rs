//! A meter, a gateway, an auditor and a custody with keys in memory, around a real association service.

#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

#[path = "../../../gateway/tests/support/mod.rs"]
pub mod support;

mod custody;
mod jobs;

use std::net::SocketAddr;

use dlms::Suite;
use kit::{Channel, Listener, StartError, Tasks};
use latchkey_proto::{
    association::v1::{
        InvokeRequest, Meter, OpenAssociationRequest, OpenAssociationResponse,
        association_service_client::AssociationServiceClient,
        meter_service_client::MeterServiceClient,
    },
    audit::v1::{Command, CommandService, Permit, SignedPermit},
    custody::v1::{Mechanism, Protection, cipher_service_server::CipherServiceServer},
};
use prost::Message as _;
use simulator::{Event, LabKeys, MeterOptions, MeterServer};
use softcipher::{Keys, PrivateKey, PublicKey};
use support::{Pki, Stack};
use tokio::sync::watch;
use tonic::{Code, Status};

pub use self::custody::{Client, Custody};

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
        Self::start_with(change, more, "").await
    }

    /// Likewise; `relay` goes to the end of the gateway's configuration, within `[relay]`.
    pub async fn start_with(
        change: impl FnOnce(&mut MeterOptions),
        more: &str,
        relay: &str,
    ) -> Self {
        let bench = Self::bare(party(Suite::Suite0, 1), change, more, relay).await;
        bench
            .enrol("m-1", bench.meter, Mechanism::HlsGmac, Protection::Glo)
            .await
            .unwrap();
        bench
    }

    /// Likewise, with these keys and without a meter in the directory.
    pub async fn bare(
        party: Party,
        change: impl FnOnce(&mut MeterOptions),
        more: &str,
        relay: &str,
    ) -> Self {
        Self::beside(party, change, (more, relay), &[]).await
    }

    /// Likewise, with other addresses where custody may be, before the one where it is.
    pub async fn beside(
        party: Party,
        change: impl FnOnce(&mut MeterOptions),
        (more, relay): (&str, &str),
        others: &[SocketAddr],
    ) -> Self {
        let relay = format!("lab_any_port = true\n{relay}");
        let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], &relay).await;
        let mut options = MeterOptions::new("127.0.0.1:0".parse().unwrap(), party.meter);
        options.boot_seconds = 0.2;
        change(&mut options);
        let (meter, events) = start_meter(options, &stack.tasks).await;
        let custody = Custody::new(party.client);
        let custody_address = serve_custody(&stack.pki, custody.clone(), &stack.tasks).await;
        let (service_trigger, shutdown) = kit::shutdown();
        let service = Tasks::new(shutdown);
        let custodies = [others, &[custody_address]].concat();
        let association = start_association(&stack, &custodies, &service, more).await;
        Self {
            stack,
            custody,
            meter,
            events,
            association,
            service,
            service_trigger,
        }
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
        self.custody.commands()
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

/// A meter and its head-end, who know each other.
pub struct Party {
    pub meter: LabKeys,
    pub client: Client,
}

/// The same keys for the same seed.
pub fn party(suite: Suite, seed: u8) -> Party {
    let meter = LabKeys::generate_for(suite, octets(seed));
    let mut random = octets(seed.wrapping_add(100));
    let mut private = || {
        let mut scalar = vec![0; suite.public_key_len() / 2];
        random(&mut scalar);
        // Below the order of either curve.
        scalar.first_mut().into_iter().for_each(|first| *first = 1);
        PrivateKey::from_octets(&scalar)
    };
    let (signing, agreement) = (private(), private());
    let meter = match (&signing, &agreement) {
        (Some(signing), Some(agreement)) => {
            let (signing, agreement) = (signing.public().octets(), agreement.public().octets());
            meter.with_client_keys(&signing, &agreement).unwrap()
        }
        _ => meter,
    };
    let client = Client {
        title: meter.client_system_title(),
        meter: meter.server_system_title(),
        suite,
        keys: Keys {
            encryption: Some(meter.ek().into()),
            authentication: Some(meter.ak().into()),
            master: Some(meter.kek().into()),
            hls_secret: Some(meter.hls_secret().into()),
            signing,
            agreement,
            peer_signing: PublicKey::from_octets(&meter.server_signing_key()),
            peer_agreement: PublicKey::from_octets(&meter.server_agreement_key()),
            ..Keys::default()
        },
        password: meter.password().to_vec(),
        certificate: vec![0x30; 500],
    };
    Party { meter, client }
}

/// The same keys of suite 0 for the same seed.
pub fn lab_keys(seed: u8) -> LabKeys {
    party(Suite::Suite0, seed).meter
}

fn octets(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut next = seed;
    move |octets| {
        for octet in octets {
            *octet = next;
            next = next.wrapping_mul(5).wrapping_add(17);
        }
    }
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
    custodies: &[SocketAddr],
    tasks: &Tasks,
    more: &str,
) -> SocketAddr {
    let endpoints: Vec<_> = custodies.iter().map(|at| format!("https://{at}")).collect();
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
         [custody]\nendpoints = {endpoints:?}\npeer = '{}'\n\
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
    permit_for(meter_id, role, Vec::new())
}

/// One that covers these commands.
pub fn permit_for(meter_id: &str, role: &str, commands: Vec<Command>) -> SignedPermit {
    let permit = Permit {
        commands,
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
