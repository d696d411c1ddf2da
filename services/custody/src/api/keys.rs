//! `latchkey.custody.v1.KeyService`.

use kit::{PeerName, clock};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        GenerateMeterKeysRequest, GenerateMeterKeysResponse, GetClientKeysRequest,
        GetClientKeysResponse, GetMeterKeysRequest, GetMeterKeysResponse, ImportLabKeysRequest,
        ImportLabKeysResponse, ImportMeterKeysRequest, ImportMeterKeysResponse,
        ListMeterKeysRequest, ListMeterKeysResponse, MeterKeys, key_service_server::KeyService,
    },
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::Violations;
use crate::{
    custody::Custody,
    error::Error,
    keys::{Identity, LabKeys},
    store::KeyRow,
    trail,
};

/// Octets of a system title.
const TITLE: usize = 8;
/// Octets of an AES-128 key, and of one wrapped by RFC 3394.
const KEY: usize = 16;
const WRAPPED: usize = 24;
const PASSWORD_MAX: usize = 64;

#[tonic::async_trait]
impl KeyService for Custody {
    async fn get_client_keys(
        &self,
        _request: Request<GetClientKeysRequest>,
    ) -> Result<Response<GetClientKeysResponse>, Status> {
        Err(Status::unimplemented("no client keys yet"))
    }

    async fn generate_meter_keys(
        &self,
        request: Request<GenerateMeterKeysRequest>,
    ) -> Result<Response<GenerateMeterKeysResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let violations = Violations::default();
        let identity = identity(
            violations,
            asked.meter_id,
            asked.client_system_title,
            asked.server_system_title,
        )?;
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
        violations.length(
            "wrapped_encryption_key",
            &asked.wrapped_encryption_key,
            &[WRAPPED..=WRAPPED],
        );
        violations.length(
            "wrapped_authentication_key",
            &asked.wrapped_authentication_key,
            &[WRAPPED..=WRAPPED],
        );
        let identity = identity(
            violations,
            asked.meter_id,
            asked.client_system_title,
            asked.server_system_title,
        )?;
        let (ek, ak) = (
            asked.wrapped_encryption_key,
            asked.wrapped_authentication_key,
        );
        let row = self.import_keys(peer.as_str(), identity, &ek, &ak).await?;
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
        let keys = LabKeys {
            encryption_key: Zeroizing::new(std::mem::take(&mut asked.encryption_key)),
            authentication_key: Zeroizing::new(std::mem::take(&mut asked.authentication_key)),
            password: Zeroizing::new(std::mem::take(&mut asked.password)),
        };
        self.allow_lab_import(&peer, &asked.meter_id)?;
        let mut violations = Violations::default();
        violations.length("encryption_key", &keys.encryption_key, &[0..=0, KEY..=KEY]);
        violations.length(
            "authentication_key",
            &keys.authentication_key,
            &[0..=0, KEY..=KEY],
        );
        violations.length("password", &keys.password, &[0..=PASSWORD_MAX]);
        if keys.encryption_key.is_empty() != keys.authentication_key.is_empty() {
            let why = "goes with the encryption key: both or neither".to_owned();
            violations.check("authentication_key", Err(why));
        }
        let identity = identity(
            violations,
            asked.meter_id,
            asked.client_system_title,
            asked.server_system_title,
        )?;
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

/// A meter id and two titles. The titles differ: with one title for both, client and meter would share nonces.
fn identity(
    mut violations: Violations,
    meter_id: String,
    client_title: Vec<u8>,
    server_title: Vec<u8>,
) -> Result<Identity, Error> {
    violations.check("meter_id", kit::check::meter_id(&meter_id));
    violations.length("client_system_title", &client_title, &[TITLE..=TITLE]);
    violations.length("server_system_title", &server_title, &[TITLE..=TITLE]);
    if client_title == server_title {
        violations.check(
            "server_system_title",
            Err("must differ from the client's".to_owned()),
        );
    }
    violations.none()?;
    Ok(Identity {
        meter_id,
        client_title,
        server_title,
    })
}

fn render(row: KeyRow) -> MeterKeys {
    MeterKeys {
        meter_id: row.meter_id,
        client_system_title: row.client_system_title,
        server_system_title: row.server_system_title,
        check_value: row.check_value,
        has_password: !row.sealed_password.is_empty(),
        next_invocation_counter: row.next_counter.into(),
        create_time: Some(clock::timestamp(clock::from_micros(row.create_us))),
        source: row.source,
        ..MeterKeys::default()
    }
}
