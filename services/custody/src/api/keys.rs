//! `latchkey.custody.v1.KeyService`.

use futures::stream::BoxStream;
use kit::{PeerName, clock};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        CounterState, CreateSigningRequestRequest, CreateSigningRequestResponse,
        DeleteCertificateRequest, DeleteCertificateResponse, DestroyMeterKeysRequest,
        DestroyMeterKeysResponse, GenerateMeterKeysRequest, GenerateMeterKeysResponse,
        GetClientKeysRequest, GetClientKeysResponse, GetMeterKeysRequest, GetMeterKeysResponse,
        ImportCertificateRequest, ImportCertificateResponse, ImportLabKeysRequest,
        ImportLabKeysResponse, ImportMeterKeysBatchRequest, ImportMeterKeysRequest,
        ImportMeterKeysResponse, ImportRevocationListRequest, ImportRevocationListResponse,
        ListCertificatesRequest, ListCertificatesResponse, ListKekGenerationsRequest,
        ListKekGenerationsResponse, ListKeyFingerprintsRequest, ListKeyFingerprintsResponse,
        ListMeterKeysRequest, ListMeterKeysResponse, MarkMeterKeysCompromisedRequest,
        MarkMeterKeysCompromisedResponse, Mechanism, MeterKeys, RaiseInvocationCounterRequest,
        RaiseInvocationCounterResponse, RewrapKeysRequest, RewrapKeysResponse, SecurityPolicy,
        UpdateMeterKeysRequest, UpdateMeterKeysResponse, key_service_server::KeyService,
    },
};
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroizing;

use super::{
    Violations, certificates,
    cipher::control,
    incoming::{check, check_lab, mechanisms, policies, suite, wrapped},
    rewrap,
    stock::{Batches, end, state, version},
};
use crate::{
    certificate::Kind,
    custody::Custody,
    error::Error,
    keyring,
    keys::{Broadcast, Identity, LabKeys, bit, policy_bit},
    store::{COUNTER_END, KeyRow},
    trail,
};

#[tonic::async_trait]
impl KeyService for Custody {
    async fn import_certificate(
        &self,
        request: Request<ImportCertificateRequest>,
    ) -> Result<Response<ImportCertificateResponse>, Status> {
        let peer = kit::peer(&request);
        let done = certificates::import(self, &peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let page = certificates::list(self, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn delete_certificate(
        &self,
        request: Request<DeleteCertificateRequest>,
    ) -> Result<Response<DeleteCertificateResponse>, Status> {
        let peer = kit::peer(&request);
        let done = certificates::delete(self, &peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn import_revocation_list(
        &self,
        request: Request<ImportRevocationListRequest>,
    ) -> Result<Response<ImportRevocationListResponse>, Status> {
        let peer = kit::peer(&request);
        let done = certificates::import_revocations(self, &peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn create_signing_request(
        &self,
        request: Request<CreateSigningRequestRequest>,
    ) -> Result<Response<CreateSigningRequestResponse>, Status> {
        let done = certificates::signing_request(self, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn get_client_keys(
        &self,
        request: Request<GetClientKeysRequest>,
    ) -> Result<Response<GetClientKeysResponse>, Status> {
        let mut violations = Violations::default();
        let suite = suite(&mut violations, request.into_inner().security_suite);
        let curve = keyring::curve(suite);
        if curve.is_none() {
            let why = "must be 1 or 2: suite 0 has no public keys".to_owned();
            violations.check("security_suite", Err(why));
        }
        violations.none()?;
        let curve = curve.ok_or_else(|| Error::Request(Vec::new()))?;
        let keys = self.client_keys(curve).await?;
        Ok(Response::new(keys))
    }

    type RewrapKeysStream = BoxStream<'static, Result<RewrapKeysResponse, Status>>;

    async fn rewrap_keys(
        &self,
        request: Request<RewrapKeysRequest>,
    ) -> Result<Response<Self::RewrapKeysStream>, Status> {
        let peer = kit::peer(&request);
        let to = request.into_inner().to_generation;
        let rewrap = self.begin_rewrap(peer.as_str(), to).await?;
        Ok(Response::new(rewrap::watch(rewrap)))
    }

    async fn list_kek_generations(
        &self,
        _request: Request<ListKekGenerationsRequest>,
    ) -> Result<Response<ListKekGenerationsResponse>, Status> {
        Ok(Response::new(rewrap::generations(self).await?))
    }

    async fn generate_meter_keys(
        &self,
        request: Request<GenerateMeterKeysRequest>,
    ) -> Result<Response<GenerateMeterKeysResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let mut violations = Violations::default();
        let mechanisms = mechanisms(&mut violations, &asked.mechanisms);
        let policies = policies(&mut violations, &asked.policies);
        let identity = Identity {
            suite: suite(&mut violations, asked.security_suite),
            mechanisms,
            policies,
            meter_id: asked.meter_id,
            client_title: asked.client_system_title,
            server_title: asked.server_system_title,
            signing_key: Vec::new(),
            agreement_key: Vec::new(),
        };
        let broadcast = match (asked.broadcast_key, asked.broadcast_key_of) {
            (false, of) if of.is_empty() => Broadcast::None,
            (true, of) if of.is_empty() => Broadcast::New,
            (made, of) => {
                violations.check("broadcast_key_of", kit::check::meter_id(&of));
                if made {
                    let why = "does not go with broadcast_key".to_owned();
                    violations.check("broadcast_key_of", Err(why));
                }
                Broadcast::Of(of)
            }
        };
        check(&identity, violations)?;
        let row = self
            .generate_keys(peer.as_str(), identity, broadcast)
            .await?;
        Ok(Response::new(GenerateMeterKeysResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    async fn import_meter_keys(
        &self,
        request: Request<ImportMeterKeysRequest>,
    ) -> Result<Response<ImportMeterKeysResponse>, Status> {
        let peer = kit::peer(&request);
        let (identity, keys) = wrapped(request.into_inner())?;
        let row = self.import_keys(peer.as_str(), identity, keys).await?;
        Ok(Response::new(ImportMeterKeysResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    type ImportMeterKeysBatchStream = Batches;

    async fn import_meter_keys_batch(
        &self,
        request: Request<Streaming<ImportMeterKeysBatchRequest>>,
    ) -> Result<Response<Batches>, Status> {
        let peer = kit::peer(&request);
        let answers = self.import_batches(peer.as_str(), request.into_inner())?;
        Ok(Response::new(answers))
    }

    async fn update_meter_keys(
        &self,
        request: Request<UpdateMeterKeysRequest>,
    ) -> Result<Response<UpdateMeterKeysResponse>, Status> {
        let peer = kit::peer(&request);
        let row = self.update(peer.as_str(), request.into_inner()).await?;
        Ok(Response::new(UpdateMeterKeysResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    async fn mark_meter_keys_compromised(
        &self,
        request: Request<MarkMeterKeysCompromisedRequest>,
    ) -> Result<Response<MarkMeterKeysCompromisedResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let end = end(asked.meter_id, asked.row_version, asked.justification)?;
        let row = self.compromise_keys(peer.as_str(), end).await?;
        Ok(Response::new(MarkMeterKeysCompromisedResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    async fn destroy_meter_keys(
        &self,
        request: Request<DestroyMeterKeysRequest>,
    ) -> Result<Response<DestroyMeterKeysResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let mut violations = Violations::default();
        version(&mut violations, asked.row_version);
        violations.none()?;
        let end = end(asked.meter_id, asked.row_version, asked.justification)?;
        let row = self.destroy_keys(peer.as_str(), end).await?;
        Ok(Response::new(DestroyMeterKeysResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    async fn list_key_fingerprints(
        &self,
        request: Request<ListKeyFingerprintsRequest>,
    ) -> Result<Response<ListKeyFingerprintsResponse>, Status> {
        let fingerprints = self.key_fingerprints(request.into_inner()).await?;
        Ok(Response::new(ListKeyFingerprintsResponse { fingerprints }))
    }

    async fn import_lab_keys(
        &self,
        request: Request<ImportLabKeysRequest>,
    ) -> Result<Response<ImportLabKeysResponse>, Status> {
        let peer = kit::peer(&request);
        let mut asked = request.into_inner();
        let secret = |field: &mut Vec<u8>| Zeroizing::new(std::mem::take(field));
        let keys = LabKeys {
            encryption_key: secret(&mut asked.encryption_key),
            authentication_key: secret(&mut asked.authentication_key),
            password: secret(&mut asked.password),
            hls_secret: secret(&mut asked.hls_secret),
            master_key: secret(&mut asked.key_encryption_key),
            broadcast_key: secret(&mut asked.broadcast_key),
        };
        self.allow_lab_import(&peer, &asked.meter_id)?;
        let mut violations = Violations::default();
        let mechanisms = mechanisms(&mut violations, &asked.mechanisms);
        let policies = policies(&mut violations, &asked.policies);
        let identity = Identity {
            suite: suite(&mut violations, asked.security_suite),
            mechanisms,
            policies,
            meter_id: asked.meter_id,
            client_title: asked.client_system_title,
            server_title: asked.server_system_title,
            signing_key: asked.server_signing_key,
            agreement_key: asked.server_agreement_key,
        };
        check_lab(&keys, identity.suite.key_len(), &mut violations);
        check(&identity, violations)?;
        let row = self.import_lab_keys(peer.as_str(), identity, keys).await?;
        Ok(Response::new(ImportLabKeysResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    async fn raise_invocation_counter(
        &self,
        request: Request<RaiseInvocationCounterRequest>,
    ) -> Result<Response<RaiseInvocationCounterResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let mut violations = Violations::default();
        violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
        violations.check("reason", kit::check::text(&asked.reason, 1, 256));
        if !(1..COUNTER_END).contains(&asked.at_least) {
            let why = format!("must be 1..{}", COUNTER_END.saturating_sub(1));
            violations.check("at_least", Err(why));
        }
        violations.none()?;
        let (row, before) = self
            .raise_counter(
                peer.as_str(),
                &asked.meter_id,
                (asked.at_least, &asked.reason),
            )
            .await?;
        Ok(Response::new(RaiseInvocationCounterResponse {
            keys: Some(render(row, self.counters.warning)),
            previous_invocation_counter: before,
        }))
    }

    async fn get_meter_keys(
        &self,
        request: Request<GetMeterKeysRequest>,
    ) -> Result<Response<GetMeterKeysResponse>, Status> {
        let meter_id = request.into_inner().meter_id;
        let mut violations = Violations::default();
        violations.check("meter_id", kit::check::meter_id(&meter_id));
        violations.none()?;
        let row = self.stored_keys(&meter_id).await?;
        Ok(Response::new(GetMeterKeysResponse {
            keys: Some(render(row, self.counters.warning)),
        }))
    }

    async fn list_meter_keys(
        &self,
        request: Request<ListMeterKeysRequest>,
    ) -> Result<Response<ListMeterKeysResponse>, Status> {
        let page = self.list(request.into_inner()).await?;
        Ok(Response::new(page))
    }
}

impl Custody {
    fn allow_lab_import(&self, peer: &PeerName, meter_id: &str) -> Result<(), Error> {
        if self.lab_import {
            return Ok(());
        }
        let error = Error::LabImportOff;
        self.reporter.refused(trail::entry(
            EntryKind::Denial,
            peer.as_str(),
            meter_id,
            error.to_string(),
        ));
        Err(error)
    }
}

pub(super) fn render(row: KeyRow, counter_warning: u32) -> MeterKeys {
    let named = |mechanism: &Mechanism| {
        super::mechanism(*mechanism).is_some_and(|id| row.mechanisms & bit(id) != 0)
    };
    let mechanisms = super::MECHANISMS
        .iter()
        .filter(|mechanism| named(mechanism));
    let policies = [SecurityPolicy::Authenticated, SecurityPolicy::Encrypted]
        .into_iter()
        .filter(|policy| row.policies & policy_bit(control(row.suite, *policy)) != 0);
    MeterKeys {
        server_signing_key_certified: row.is_certified(Kind::MeterSigning),
        server_agreement_key_certified: row.is_certified(Kind::MeterAgreement),
        policies: policies.map(Into::into).collect(),
        mechanisms: mechanisms.map(|mechanism| (*mechanism).into()).collect(),
        has_password: !row.sealed_password.is_empty(),
        has_hls_secret: !(row.wrapped_hls_secret.is_empty() && row.sealed_hls_secret.is_empty()),
        has_key_encryption_key: !row.wrapped_master_key.is_empty(),
        security_suite: row.suite.id().into(),
        next_invocation_counter: row.next_counter.into(),
        invocation_counters_left: match row.wrapped_encryption_key.as_slice() {
            [] => 0,
            _ => COUNTER_END.saturating_sub(row.next_counter).into(),
        },
        counter_state: counter_state(&row, counter_warning).into(),
        counter_block: row.counter_block,
        counter_reserve_time: (row.reserve_us > 0)
            .then(|| clock::timestamp(clock::from_micros(row.reserve_us))),
        last_received_counter: row.last_received,
        create_time: Some(clock::timestamp(clock::from_micros(row.create_us))),
        meter_id: row.meter_id,
        unsettled_rotation_id: row.rotation_id.unwrap_or_default(),
        client_system_title: row.client_system_title,
        server_system_title: row.server_system_title,
        check_value: row.check_value,
        source: row.source,
        server_signing_key: row.server_signing_key,
        server_agreement_key: row.server_agreement_key,
        row_version: row.row_version,
        state: state(row.state).into(),
        state_reason: row.state_reason,
        has_broadcast_key: !row.wrapped_broadcast_key.is_empty(),
        broadcast_check_value: row.broadcast_check_value,
        change_time: (row.change_us != 0)
            .then(|| clock::timestamp(clock::from_micros(row.change_us))),
        import_id: row.import_id,
    }
}

fn counter_state(row: &KeyRow, warning: u32) -> CounterState {
    if row.wrapped_encryption_key.is_empty() {
        CounterState::Unspecified
    } else if row.next_counter >= COUNTER_END {
        CounterState::Exhausted
    } else if row.next_counter > warning {
        CounterState::Warning
    } else {
        CounterState::Plenty
    }
}
