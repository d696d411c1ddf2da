//! An auditor that allows resets and reads, denies on command, and goes away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use kit::clock;
use latchkey_proto::audit::v1::{
    AuthoriseRequest, AuthoriseResponse, CommandService, Entry, EntryKind, ExportTrailRequest,
    ExportTrailResponse, GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest,
    GetConsistencyProofResponse, GetInclusionProofRequest, GetInclusionProofResponse,
    GetPermitKeyRequest, GetPermitKeyResponse, ListEntriesRequest, ListEntriesResponse, Permit,
    Purpose, RecordRequest, RecordResponse, SignedPermit, permit_service_server::PermitService,
    trail_service_server::TrailService,
};
use prost::Message as _;
use tonic::{Code, Request, Response, Status};

use crate::meter::refuse;

#[derive(Default)]
pub(crate) struct Office {
    /// Every call is answered UNAVAILABLE.
    pub(crate) away: bool,
    /// Resets are denied.
    pub(crate) deny: bool,
    pub(crate) asked: Vec<AuthoriseRequest>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) starts: u32,
    /// How often an entry came under a request id that was known.
    pub(crate) repeats: u32,
    permits: HashMap<String, (Vec<u8>, SignedPermit)>,
    receipts: HashMap<String, u64>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Office>>);

impl Fake {
    pub(crate) fn office(&self) -> MutexGuard<'_, Office> {
        self.0.lock().expect("not poisoned")
    }
}

impl Office {
    pub(crate) fn kinds(&self) -> Vec<EntryKind> {
        self.entries.iter().map(Entry::kind).collect()
    }

    /// Starts are counted apart: they come at a time of their own.
    fn append(&mut self, entry: Entry) -> u64 {
        if entry.kind() == EntryKind::Start {
            self.starts += 1;
            return u64::MAX;
        }
        self.entries.push(entry);
        u64::try_from(self.entries.len()).expect("small") - 1
    }

    fn authorise(
        &mut self,
        request: &AuthoriseRequest,
        requester: String,
    ) -> Result<AuthoriseResponse, Status> {
        if self.away {
            return Err(refuse(Code::Unavailable, "TRAIL_UNWRITABLE"));
        }
        self.asked.push(request.clone());
        let about = |kind: EntryKind| Entry {
            kind: kind.into(),
            meter_id: request.meter_id.clone(),
            reset_id: request.reset_id.clone(),
            ..Entry::default()
        };
        let acts = request
            .commands
            .iter()
            .filter(|command| command.service() != CommandService::Get)
            .count();
        let reset = matches!(request.purpose(), Purpose::Reset | Purpose::Rekey);
        if (self.deny && reset) || (acts > 0 && !reset) {
            self.append(about(EntryKind::Denial));
            return Err(refuse(Code::PermissionDenied, "POLICY_DENIED"));
        }
        if request.validate_only {
            return Ok(AuthoriseResponse::default());
        }
        let body = request.encode_to_vec();
        if let Some((known, permit)) = self.permits.get(&request.request_id) {
            if *known != body {
                return Err(refuse(Code::AlreadyExists, "REQUEST_ID_REUSED"));
            }
            return Ok(AuthoriseResponse {
                permit: Some(permit.clone()),
                policy_ids: Vec::new(),
            });
        }
        let leaf_index = self.append(about(EntryKind::Intent));
        let now = clock::now();
        let life = Duration::from_secs(request.lifetime_seconds.into());
        let permit = Permit {
            permit_id: kit::context::new_id(),
            leaf_index,
            meter_id: request.meter_id.clone(),
            principal: request.on_behalf_of.clone(),
            requester,
            purpose: request.purpose,
            tier: request.tier,
            commands: request.commands.clone(),
            max_associations: request.max_associations,
            not_before: Some(clock::timestamp(now)),
            expire_time: Some(clock::timestamp(now + life)),
            reset_id: request.reset_id.clone(),
            ..Permit::default()
        };
        let signed = SignedPermit {
            body: permit.encode_to_vec(),
            signature: vec![0; 64],
            key_id: "k".to_owned(),
        };
        self.permits
            .insert(request.request_id.clone(), (body, signed.clone()));
        Ok(AuthoriseResponse {
            permit: Some(signed),
            policy_ids: Vec::new(),
        })
    }
}

#[tonic::async_trait]
impl PermitService for Fake {
    async fn authorise(
        &self,
        request: Request<AuthoriseRequest>,
    ) -> Result<Response<AuthoriseResponse>, Status> {
        let requester = kit::peer(&request).to_string();
        self.office()
            .authorise(request.get_ref(), requester)
            .map(Response::new)
    }

    async fn get_permit_key(
        &self,
        _: Request<GetPermitKeyRequest>,
    ) -> Result<Response<GetPermitKeyResponse>, Status> {
        unreachable!("the reset service checks no permit")
    }
}

#[tonic::async_trait]
impl TrailService for Fake {
    async fn record(
        &self,
        request: Request<RecordRequest>,
    ) -> Result<Response<RecordResponse>, Status> {
        let mut office = self.office();
        if office.away {
            return Err(refuse(Code::Unavailable, "TRAIL_UNWRITABLE"));
        }
        let request = request.into_inner();
        let known = office.receipts.get(&request.request_id).copied();
        office.repeats += u32::from(known.is_some());
        let leaf_index = known.unwrap_or_else(|| office.append(request.entry.expect("an entry")));
        office.receipts.insert(request.request_id, leaf_index);
        Ok(Response::new(RecordResponse { leaf_index }))
    }

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        unreachable!("not asked by the reset service")
    }

    async fn list_entries(
        &self,
        _: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        unreachable!("not asked by the reset service")
    }

    async fn get_inclusion_proof(
        &self,
        _: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        unreachable!("not asked by the reset service")
    }

    async fn get_consistency_proof(
        &self,
        _: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        unreachable!("not asked by the reset service")
    }

    type ExportTrailStream = futures::stream::Empty<Result<ExportTrailResponse, Status>>;

    async fn export_trail(
        &self,
        _: Request<ExportTrailRequest>,
    ) -> Result<Response<Self::ExportTrailStream>, Status> {
        unreachable!("not asked by the reset service")
    }
}
