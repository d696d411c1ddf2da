//! An auditor that signs what the test wants and remembers what custody reports.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use kit::{Listener, Server, ServiceConfig, Tasks, clock, config, permit::PermitKey};
use latchkey_proto::audit::v1::{
    Command, CommandService, Entry, EntryKind, ExportTrailRequest, ExportTrailResponse,
    GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest,
    GetConsistencyProofResponse, GetInclusionProofRequest, GetInclusionProofResponse,
    ListEntriesRequest, ListEntriesResponse, Permit, Purpose, RecordRequest, RecordResponse,
    SignedPermit, Tier,
    trail_service_server::{TrailService, TrailServiceServer},
};
use prost::Message as _;
use serde::Deserialize;
use tonic::{Request, Response, Status};

use super::Pki;

/// Detail of an entry that the auditor refuses for ever.
pub const REFUSED: &str = "refused";

/// Entries by request id.
type Entries = Arc<Mutex<BTreeMap<String, Entry>>>;

pub struct Auditor {
    key: Ed25519KeyPair,
    address: std::net::SocketAddr,
    entries: Entries,
}

impl Auditor {
    pub async fn start(pki: &Pki, tasks: &Tasks) -> Self {
        let tls = pki.leaf("latchkey/auditor");
        let file = tls.ca_file.with_file_name("auditor.toml");
        let text = format!(
            "[server]\nlisten = '127.0.0.1:0'\ndrain_seconds = 1\n\
             [server.peers]\n'latchkey.audit.v1.TrailService' = ['spiffe://latchkey.test/latchkey/custody']\n\
             [server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\nca_file = {:?}\ntrust_domain = 'latchkey.test'\n",
            tls.certificate_file.expect("a file"),
            tls.key_file.expect("a file"),
            tls.ca_file
        );
        std::fs::write(&file, text).expect("written");
        let config: Config = config::load(&file).expect("a good configuration");
        let listener = Listener::bind(config.server.listen).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let entries = Entries::default();
        let server = Server::new("auditor", &config.server).expect("a server");
        let server = server.add(TrailServiceServer::new(Ears(entries.clone())));
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("auditor", async move {
            server.serve(listener, shutdown).await.expect("it serves")
        });
        Self {
            key: Ed25519KeyPair::generate().expect("a key"),
            address,
            entries,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn permit_key(&self) -> PermitKey {
        PermitKey::new(self.key.public_key().as_ref()).expect("32 octets")
    }

    pub fn sign(&self, permit: &Permit) -> SignedPermit {
        let body = permit.encode_to_vec();
        let signature = self
            .key
            .sign(&kit::permit::signing_input(&body))
            .as_ref()
            .to_vec();
        SignedPermit {
            body,
            signature,
            key_id: self.permit_key().key_id(),
        }
    }

    /// Entries of one kind, in the order of their request ids.
    pub fn entries(&self, kind: EntryKind) -> Vec<Entry> {
        let entries = self.entries.lock().expect("no panic");
        entries
            .values()
            .filter(|entry| entry.kind() == kind)
            .cloned()
            .collect()
    }
}

/// A permit for these commands on this meter, valid for ten minutes.
pub fn permit(meter_id: &str, commands: Vec<Command>) -> Permit {
    let now = clock::now();
    Permit {
        permit_id: kit::context::new_id(),
        leaf_index: 7,
        log_origin: "latchkey.test/trail".to_owned(),
        meter_id: meter_id.to_owned(),
        principal: "spiffe://latchkey.test/operator/anna".to_owned(),
        requester: "spiffe://latchkey.test/latchkey/reset".to_owned(),
        purpose: Purpose::Reset.into(),
        tier: Tier::Cold.into(),
        commands,
        max_associations: 8,
        not_before: Some(clock::timestamp(now)),
        expire_time: Some(clock::timestamp(now + Duration::from_secs(600))),
        reset_id: "reset-1".to_owned(),
    }
}

/// A GET without limit.
pub fn get(class_id: u32, logical_name: &str, index: i32) -> Command {
    Command {
        service: CommandService::Get.into(),
        class_id,
        logical_name: logical_name.to_owned(),
        index,
        ..Command::default()
    }
}

/// An ACTION that may be ciphered once.
pub fn action(class_id: u32, logical_name: &str, index: i32, parameter: &[u8]) -> Command {
    Command {
        service: CommandService::Action.into(),
        parameter: parameter.to_vec(),
        max_uses: 1,
        ..get(class_id, logical_name, index)
    }
}

/// A SET that may be ciphered once.
pub fn set(class_id: u32, logical_name: &str, index: i32, value: &[u8]) -> Command {
    Command {
        service: CommandService::Set.into(),
        ..action(class_id, logical_name, index, value)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    server: config::Server,
    #[serde(default)]
    telemetry: config::Telemetry,
}

impl ServiceConfig for Config {
    fn server(&self) -> &config::Server {
        &self.server
    }
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }
}

struct Ears(Entries);

#[tonic::async_trait]
impl TrailService for Ears {
    async fn record(
        &self,
        request: Request<RecordRequest>,
    ) -> Result<Response<RecordResponse>, Status> {
        let RecordRequest { request_id, entry } = request.into_inner();
        let mut entries = self.0.lock().expect("no panic");
        let entry = entry.expect("an entry");
        if entry.detail == REFUSED {
            return Err(custody::Error::Request(Vec::new()).into());
        }
        let is_meter = entry.meter_id.is_empty() || kit::check::meter_id(&entry.meter_id).is_ok();
        let named = entry
            .commands
            .iter()
            .all(|c| c.class_id > 0 && (1..=127).contains(&c.index));
        assert!(is_meter && named, "the auditor would refuse {entry:?}");
        let first = entries.entry(request_id).or_insert_with(|| entry.clone());
        assert_eq!(*first, entry, "one id, one entry");
        Ok(Response::new(RecordResponse { leaf_index: 0 }))
    }

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        Err(Status::unimplemented("not asked by custody"))
    }

    async fn list_entries(
        &self,
        _: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        Err(Status::unimplemented("not asked by custody"))
    }

    async fn get_inclusion_proof(
        &self,
        _: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        Err(Status::unimplemented("not asked by custody"))
    }

    async fn get_consistency_proof(
        &self,
        _: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        Err(Status::unimplemented("not asked by custody"))
    }

    type ExportTrailStream = futures::stream::Empty<Result<ExportTrailResponse, Status>>;

    async fn export_trail(
        &self,
        _: Request<ExportTrailRequest>,
    ) -> Result<Response<Self::ExportTrailStream>, Status> {
        Err(Status::unimplemented("not asked by custody"))
    }
}
