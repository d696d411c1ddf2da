//! `latchkey.custody.v1.KeyService`.

use dlms::Suite;
use kit::{PeerName, clock};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        GenerateMeterKeysRequest, GenerateMeterKeysResponse, GetClientKeysRequest,
        GetClientKeysResponse, GetMeterKeysRequest, GetMeterKeysResponse, ImportLabKeysRequest,
        ImportLabKeysResponse, ImportMeterKeysRequest, ImportMeterKeysResponse,
        ListMeterKeysRequest, ListMeterKeysResponse, Mechanism, MeterKeys, SecurityPolicy,
        key_service_server::KeyService,
    },
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Violations, cipher::control, mechanism};
use crate::{
    custody::Custody,
    error::Error,
    keyring,
    keys::{Identity, LabKeys, WrappedKeys, bit, policy_bit},
    store::KeyRow,
    trail,
};

/// Octets of a system title.
const TITLE: usize = 8;
const PASSWORD_MAX: usize = 64;
/// Octets of an HLS secret.
const SECRET_MIN: usize = 8;
const SECRET_MAX: usize = 64;
/// Octets that RFC 3394 adds.
const WRAP: usize = 8;

#[tonic::async_trait]
impl KeyService for Custody {
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
        check(&identity, violations)?;
        let row = self.generate_keys(peer.as_str(), identity).await?;
        Ok(Response::new(GenerateMeterKeysResponse {
            keys: Some(render(row)),
        }))
    }

    async fn import_meter_keys(
        &self,
        request: Request<ImportMeterKeysRequest>,
    ) -> Result<Response<ImportMeterKeysResponse>, Status> {
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
            signing_key: asked.server_signing_key,
            agreement_key: asked.server_agreement_key,
        };
        let keys = WrappedKeys {
            encryption_key: asked.wrapped_encryption_key,
            authentication_key: asked.wrapped_authentication_key,
            hls_secret: asked.wrapped_hls_secret,
            master_key: asked.wrapped_key_encryption_key,
        };
        let wrapped = identity.suite.wrapped_len();
        for (field, octets) in [
            ("wrapped_encryption_key", &keys.encryption_key),
            ("wrapped_authentication_key", &keys.authentication_key),
        ] {
            violations.length(field, octets, &[wrapped..=wrapped]);
        }
        let or_none = [0..=0, wrapped..=wrapped];
        violations.length("wrapped_key_encryption_key", &keys.master_key, &or_none);
        if !keys.hls_secret.is_empty() && !keys.hls_secret.len().is_multiple_of(8) {
            let why = "must have a multiple of 8 octets".to_owned();
            violations.check("wrapped_hls_secret", Err(why));
        }
        let secret = [0..=0, 16 + WRAP..=SECRET_MAX + WRAP];
        violations.length("wrapped_hls_secret", &keys.hls_secret, &secret);
        check(&identity, violations)?;
        let row = self.import_keys(peer.as_str(), identity, keys).await?;
        Ok(Response::new(ImportMeterKeysResponse {
            keys: Some(render(row)),
        }))
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
            keys: Some(render(row)),
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
            keys: Some(render(row)),
        }))
    }

    async fn list_meter_keys(
        &self,
        request: Request<ListMeterKeysRequest>,
    ) -> Result<Response<ListMeterKeysResponse>, Status> {
        let asked = request.into_inner();
        let mut violations = Violations::default();
        if asked.page_size > 1000 {
            violations.check("page_size", Err("must be at most 1000".to_owned()));
        }
        // The token is the last meter id of the page before.
        if !asked.page_token.is_empty() {
            violations.check(
                "page_token",
                kit::check::meter_id(&asked.page_token).map_err(|_| "is none of ours".to_owned()),
            );
        }
        violations.none()?;
        let size = if asked.page_size == 0 {
            100
        } else {
            asked.page_size
        };
        let mut rows = self
            .store
            .list_keys(&asked.page_token, size.saturating_add(1))
            .await?;
        let full = usize::try_from(size).unwrap_or(usize::MAX);
        let more = rows.len() > full;
        rows.truncate(full);
        let next_page_token = rows
            .last()
            .filter(|_| more)
            .map(|row| row.meter_id.clone())
            .unwrap_or_default();
        let keys = rows.into_iter().map(render).collect();
        Ok(Response::new(ListMeterKeysResponse {
            keys,
            next_page_token,
        }))
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

/// The suite with this id; suite 0 beside a violation.
fn suite(violations: &mut Violations, id: u32) -> Suite {
    let suite = u8::try_from(id).ok().and_then(Suite::from_id);
    if suite.is_none() {
        let why = "must be 0, 1 or 2".to_owned();
        violations.check("security_suite", Err(why));
    }
    suite.unwrap_or_default()
}

/// The mechanisms that are named, as a row keeps them.
fn mechanisms(violations: &mut Violations, named: &[i32]) -> u8 {
    let known = |named: &i32| mechanism(Mechanism::try_from(*named).ok()?);
    named.iter().fold(0, |bits, named| match known(named) {
        Some(dlms::Mechanism::None) | None => {
            let why = "must name mechanisms that authenticate".to_owned();
            violations.check("mechanisms", Err(why));
            bits
        }
        Some(mechanism) => bits | bit(mechanism),
    })
}

/// The policies that are named besides authenticated and encrypted, as a row keeps them.
fn policies(violations: &mut Violations, named: &[i32]) -> u8 {
    named
        .iter()
        .fold(0, |bits, named| match SecurityPolicy::try_from(*named) {
            Ok(SecurityPolicy::Unspecified) | Err(_) => {
                let why = "must name policies".to_owned();
                violations.check("policies", Err(why));
                bits
            }
            Ok(policy) => bits | policy_bit(control(Suite::Suite0, policy)),
        })
}

/// A meter id, two titles, two public keys. The titles differ: with one title for both, client and meter would share
/// nonces.
fn check(identity: &Identity, mut violations: Violations) -> Result<(), Error> {
    let (client, server) = (&identity.client_title, &identity.server_title);
    violations.check("meter_id", kit::check::meter_id(&identity.meter_id));
    violations.length("client_system_title", client, &[TITLE..=TITLE]);
    violations.length("server_system_title", server, &[TITLE..=TITLE]);
    if client == server {
        violations.check(
            "server_system_title",
            Err("must differ from the client's".to_owned()),
        );
    }
    for (field, key) in [
        ("server_signing_key", &identity.signing_key),
        ("server_agreement_key", &identity.agreement_key),
    ] {
        let good = match keyring::curve(identity.suite) {
            _ if key.is_empty() => Ok(()),
            None => Err("suite 0 has no public keys".to_owned()),
            Some(curve) if curve.is_public_key(key) => Ok(()),
            Some(curve) => Err(format!(
                "must be X then Y of a point on the suite's curve, {} octets",
                curve.pair()
            )),
        };
        violations.check(field, good);
    }
    violations.none()
}

fn check_lab(keys: &LabKeys, length: usize, violations: &mut Violations) {
    let key = [0..=0, length..=length];
    violations.length("encryption_key", &keys.encryption_key, &key);
    violations.length("authentication_key", &keys.authentication_key, &key);
    violations.length("key_encryption_key", &keys.master_key, &key);
    violations.length("password", &keys.password, &[0..=PASSWORD_MAX]);
    let secret = [0..=0, SECRET_MIN..=SECRET_MAX];
    violations.length("hls_secret", &keys.hls_secret, &secret);
    if keys.encryption_key.is_empty() != keys.authentication_key.is_empty() {
        let why = "goes with the encryption key: both or neither".to_owned();
        violations.check("authentication_key", Err(why));
    }
    if keys.encryption_key.is_empty() && !keys.master_key.is_empty() {
        let why = "goes with an encryption key".to_owned();
        violations.check("key_encryption_key", Err(why));
    }
}

fn render(row: KeyRow) -> MeterKeys {
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
        policies: policies.map(Into::into).collect(),
        mechanisms: mechanisms.map(|mechanism| (*mechanism).into()).collect(),
        has_password: !row.sealed_password.is_empty(),
        has_hls_secret: !(row.wrapped_hls_secret.is_empty() && row.sealed_hls_secret.is_empty()),
        has_key_encryption_key: !row.wrapped_master_key.is_empty(),
        security_suite: row.suite.id().into(),
        next_invocation_counter: row.next_counter.into(),
        create_time: Some(clock::timestamp(clock::from_micros(row.create_us))),
        meter_id: row.meter_id,
        client_system_title: row.client_system_title,
        server_system_title: row.server_system_title,
        check_value: row.check_value,
        source: row.source,
        server_signing_key: row.server_signing_key,
        server_agreement_key: row.server_agreement_key,
    }
}
