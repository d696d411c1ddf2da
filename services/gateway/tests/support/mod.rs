//! A gateway, a fake auditor and a fake meter over real sockets and real certificates.

#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gateway::proxy::ANSWER_TLV;
use kit::{
    Listener, PeerName, ShutdownTrigger, Tasks,
    config::{self, Tls},
};
use latchkey_proto::audit::v1::{
    AddAllowlistEntryRequest, AddAllowlistEntryResponse, AllowlistEntry, AllowlistSide, Entry,
    EntryKind, ExportTrailRequest, ExportTrailResponse, GetAllowlistRequest, GetAllowlistResponse,
    GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest,
    GetConsistencyProofResponse, GetInclusionProofRequest, GetInclusionProofResponse,
    ListEntriesRequest, ListEntriesResponse, RecordRequest, RecordResponse,
    RemoveAllowlistEntryRequest, RemoveAllowlistEntryResponse,
    allowlist_service_server::{AllowlistService, AllowlistServiceServer},
    trail_service_server::{TrailService, TrailServiceServer},
};
use ppp::v2::{Builder, Command, Header, Protocol, Version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Request, Response, Status};

pub const DOMAIN: &str = "gateway.test";
/// How long any condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate authority in a directory.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    pub fn name(role: &str) -> PeerName {
        format!("spiffe://{DOMAIN}/latchkey/{role}")
            .parse()
            .unwrap()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The identity of a role, made when it is first asked for.
    pub fn identity(&self, role: &str) -> Tls {
        let (certificate, private) = (
            self.path(&format!("{role}.pem")),
            self.path(&format!("{role}.key")),
        );
        if !certificate.exists() {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.subject_alt_names =
                vec![SanType::URI(Self::name(role).as_str().try_into().unwrap())];
            let leaf = params.signed_by(&key, &self.issuer).unwrap();
            std::fs::write(&certificate, leaf.pem()).unwrap();
            std::fs::write(&private, key.serialize_pem()).unwrap();
        }
        Tls::files(certificate, private, self.path("ca.pem"), DOMAIN)
    }

    pub fn server_toml(&self, role: &str, listen: SocketAddr, peers: &str) -> String {
        let tls = self.identity(role);
        format!(
            "[server]\nlisten = '{listen}'\ndrain_seconds = 1\n[server.peers]\n{peers}\n[server.tls]\n\
             certificate_file = {:?}\nkey_file = {:?}\nca_file = {:?}\ntrust_domain = '{DOMAIN}'\n",
            tls.certificate_file.unwrap(),
            tls.key_file.unwrap(),
            tls.ca_file
        )
    }
}

/// What the fake auditor knows.
#[derive(Clone)]
pub struct Auditor {
    list: Arc<Mutex<(u64, Vec<AllowlistEntry>)>>,
    trail: watch::Sender<HashMap<String, Entry>>,
    /// Refuse every call.
    pub away: Arc<AtomicBool>,
    /// Take every question about the list, and answer none.
    pub stuck: Arc<AtomicBool>,
}

impl Auditor {
    pub fn new() -> Self {
        Self {
            list: Arc::default(),
            trail: watch::Sender::default(),
            away: Arc::default(),
            stuck: Arc::default(),
        }
    }

    pub fn set(&self, sources: &[&str], meters: &[&str]) {
        let entry = |side: AllowlistSide, network: &str| AllowlistEntry {
            side: side.into(),
            network: network.to_owned(),
            ..AllowlistEntry::default()
        };
        let sources = sources
            .iter()
            .map(|network| entry(AllowlistSide::Source, network));
        let meters = meters
            .iter()
            .map(|network| entry(AllowlistSide::Meter, network));
        let mut list = self.list.lock().unwrap();
        *list = (list.0 + 1, sources.chain(meters).collect());
    }

    /// Waits until drops whose detail holds `text` add up to `count`; returns how many entries they are.
    pub async fn drops(&self, text: &str, count: u64) -> usize {
        let mut trail = self.trail.subscribe();
        let of = |entries: &HashMap<String, Entry>| {
            let like: Vec<_> = entries
                .values()
                .filter(|entry| entry.detail.contains(text))
                .collect();
            (
                like.iter().map(|entry| entry.count).sum::<u64>(),
                like.len(),
            )
        };
        let found =
            tokio::time::timeout(PATIENCE, trail.wait_for(|entries| of(entries).0 >= count)).await;
        let Ok(Ok(entries)) = found else {
            panic!("no {count} drops of {text:?} in {:?}", self.trail.borrow());
        };
        let (sum, entries) = of(&entries);
        assert_eq!(sum, count, "{text}");
        entries
    }

    /// The entries of a kind, in no order.
    pub fn entries(&self, kind: EntryKind) -> Vec<Entry> {
        self.trail
            .borrow()
            .values()
            .filter(|entry| entry.kind() == kind)
            .cloned()
            .collect()
    }

    fn here(&self) -> Result<(), Status> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Status::cancelled("away"));
        }
        Ok(())
    }

    pub async fn start(&self, pki: &Pki, tasks: &Tasks) -> SocketAddr {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        self.serve(pki, listener, tasks);
        address
    }

    pub fn serve(&self, pki: &Pki, listener: Listener, tasks: &Tasks) {
        let (gateway, association) = (Pki::name("gateway"), Pki::name("association"));
        let peers = format!(
            "'latchkey.audit.v1.AllowlistService' = ['{gateway}']\n\
             'latchkey.audit.v1.TrailService' = ['{gateway}', '{association}']"
        );
        let text = pki.server_toml("auditor", listener.local_addr().unwrap(), &peers);
        let config: Wrapped = toml::from_str(&text).unwrap();
        let served = kit::Server::new("auditor", &config.server)
            .unwrap()
            .add(AllowlistServiceServer::new(self.clone()))
            .add(TrailServiceServer::new(self.clone()))
            .serve(listener, tasks.shutdown().clone());
        tasks.spawn("auditor", async move { served.await.unwrap() });
    }
}

/// The `[server]` section alone.
#[derive(serde::Deserialize)]
pub struct Wrapped {
    pub server: config::Server,
}

#[tonic::async_trait]
impl AllowlistService for Auditor {
    async fn get_allowlist(
        &self,
        request: Request<GetAllowlistRequest>,
    ) -> Result<Response<GetAllowlistResponse>, Status> {
        self.here()?;
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let (version, entries) = self.list.lock().unwrap().clone();
        let known = request.get_ref().known_version == version;
        Ok(Response::new(GetAllowlistResponse {
            version,
            entries: if known { Vec::new() } else { entries },
        }))
    }

    async fn add_allowlist_entry(
        &self,
        _: Request<AddAllowlistEntryRequest>,
    ) -> Result<Response<AddAllowlistEntryResponse>, Status> {
        unreachable!("the gateway changes nothing")
    }

    async fn remove_allowlist_entry(
        &self,
        _: Request<RemoveAllowlistEntryRequest>,
    ) -> Result<Response<RemoveAllowlistEntryResponse>, Status> {
        unreachable!("the gateway changes nothing")
    }
}

#[tonic::async_trait]
impl TrailService for Auditor {
    type ExportTrailStream = tonic::codegen::BoxStream<ExportTrailResponse>;

    async fn record(
        &self,
        request: Request<RecordRequest>,
    ) -> Result<Response<RecordResponse>, Status> {
        self.here()?;
        let RecordRequest { request_id, entry } = request.into_inner();
        self.trail.send_modify(|trail| {
            trail.entry(request_id).or_insert(entry.unwrap());
        });
        Ok(Response::new(RecordResponse { leaf_index: 1 }))
    }

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        unreachable!("the gateway only records")
    }

    async fn list_entries(
        &self,
        _: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        unreachable!("the gateway only records")
    }

    async fn get_inclusion_proof(
        &self,
        _: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        unreachable!("the gateway only records")
    }

    async fn get_consistency_proof(
        &self,
        _: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        unreachable!("the gateway only records")
    }

    async fn export_trail(
        &self,
        _: Request<ExportTrailRequest>,
    ) -> Result<Response<Self::ExportTrailStream>, Status> {
        unreachable!("the gateway only records")
    }
}

/// A running gateway with its auditor.
pub struct Stack {
    pub pki: Pki,
    pub auditor: Auditor,
    pub auditor_address: SocketAddr,
    pub relay: SocketAddr,
    pub admin: SocketAddr,
    pub tasks: Tasks,
    pub trigger: ShutdownTrigger,
}

impl Stack {
    /// Everything up, the relay listening. `more` goes into `[relay]`, then `[relay.limits]`.
    pub async fn start(sources: &[&str], meters: &[&str], more: &str) -> Self {
        let (trigger, shutdown) = kit::shutdown();
        let tasks = Tasks::new(shutdown);
        let pki = Pki::new();
        let auditor = Auditor::new();
        auditor.set(sources, meters);
        let auditor_address = auditor.start(&pki, &tasks).await;
        let (relay, admin) = start_gateway(&pki, auditor_address, &tasks, more).await;
        let stack = Self {
            pki,
            auditor,
            auditor_address,
            relay,
            admin,
            tasks,
            trigger,
        };
        until("the relay listens", || async {
            TcpStream::connect(stack.relay).await.is_ok()
        })
        .await;
        stack
    }

    /// A relayed connection from a source address, as a role.
    pub async fn dial(
        &self,
        from: &str,
        role: &str,
        meter: SocketAddr,
    ) -> std::io::Result<(TlsStream<TcpStream>, u8)> {
        let addresses = ("127.0.0.1:1".parse::<SocketAddr>().unwrap(), meter);
        let header =
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses)
                .build()?;
        self.dial_with(from, role, &header).await
    }

    /// Likewise, with any PROXY header.
    pub async fn dial_with(
        &self,
        from: &str,
        role: &str,
        header: &[u8],
    ) -> std::io::Result<(TlsStream<TcpStream>, u8)> {
        let mut tls = self.greet(from, role).await?;
        tls.write_all(header).await?;
        let mut answer = vec![0; 16];
        tls.read_exact(&mut answer).await?;
        let rest = usize::from(u16::from_be_bytes([answer[14], answer[15]]));
        answer.resize(16 + rest, 0);
        tls.read_exact(&mut answer[16..]).await?;
        let answer = Header::try_from(answer.as_slice()).unwrap().to_owned();
        let tlv = answer.tlvs().next().unwrap().unwrap();
        assert_eq!(tlv.kind, ANSWER_TLV);
        Ok((tls, tlv.value[0]))
    }

    /// TLS and nothing more.
    pub async fn greet(&self, from: &str, role: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = connect_from(from, self.relay).await?;
        let config =
            kit::tls::client_config(&self.pki.identity(role), &Pki::name("gateway")).unwrap();
        TlsConnector::from(config)
            .connect(ServerName::try_from("gateway").unwrap(), tcp)
            .await
    }

    pub async fn stop(self) {
        self.trigger.fire();
        tokio::time::timeout(PATIENCE, self.tasks.join())
            .await
            .expect("stopped in time");
    }
}

/// Starts a gateway; its relay and admin addresses. The relay may not listen yet.
pub async fn start_gateway(
    pki: &Pki,
    auditor: SocketAddr,
    tasks: &Tasks,
    more: &str,
) -> (SocketAddr, SocketAddr) {
    let relay = free_address().await;
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let admin = listener.local_addr().unwrap();
    let config = gateway_config(pki, admin, relay, auditor, more);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("gateway", async move {
        gateway::serve(config, listener, shutdown).await.unwrap()
    });
    (relay, admin)
}

pub fn gateway_config(
    pki: &Pki,
    admin: SocketAddr,
    relay: SocketAddr,
    auditor: SocketAddr,
    more: &str,
) -> gateway::Config {
    let association = Pki::name("association");
    let peers = format!("'latchkey.gateway.v1.Relay' = ['{association}']");
    let server = pki.server_toml("gateway", admin, &peers);
    let poll = if more.contains("poll_ms") {
        ""
    } else {
        "poll_ms = 20\n"
    };
    let text = format!(
        "{server}[auditor]\nendpoint = 'https://{auditor}'\npeer = '{}'\ntimeout_ms = 2000\n[relay]\nlisten = '{relay}'\n\
         peers = ['{association}']\n{poll}cache_file = {:?}\n{more}\n",
        Pki::name("auditor"),
        pki.path("allowlist.toml"),
    );
    toml::from_str(&text).unwrap()
}

pub async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

pub async fn connect_from(source: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0))?;
    socket.connect(to).await
}

/// A meter that nobody has connected to yet.
pub async fn meter() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A wrapper PDU around an APDU.
pub fn pdu(apdu: &[u8]) -> Vec<u8> {
    let length = u16::try_from(apdu.len()).unwrap().to_be_bytes();
    [&[0, 1, 0, 16, 0, 1], length.as_slice(), apdu].concat()
}

/// Waits for a condition, with a bound.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}
