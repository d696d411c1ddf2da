//! `latchkey.audit.v1.AllowlistService`.

use kit::{check, peer};
use latchkey_proto::audit::v1::allowlist_service_server::AllowlistService;
use latchkey_proto::audit::v1::{
    AddAllowlistEntryRequest, AddAllowlistEntryResponse, AllowlistSide, GetAllowlistRequest,
    GetAllowlistResponse, RemoveAllowlistEntryRequest, RemoveAllowlistEntryResponse,
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::allowlist::Network;
use crate::auditor::Change;
use crate::error::Error;
use crate::request::Faults;

#[tonic::async_trait]
impl AllowlistService for Api {
    async fn get_allowlist(
        &self,
        request: Request<GetAllowlistRequest>,
    ) -> Result<Response<GetAllowlistResponse>, Status> {
        let known = request.into_inner().known_version;
        let store = &self.auditor.store;
        let current = store.allowlist_version().await;
        let current = current.map_err(Error::TrailUnreadable)?;
        if current == known {
            return Ok(Response::new(GetAllowlistResponse {
                version: current,
                entries: Vec::new(),
            }));
        }
        let (version, entries) = store.allowlist().await.map_err(Error::TrailUnreadable)?;
        Ok(Response::new(GetAllowlistResponse { version, entries }))
    }

    async fn add_allowlist_entry(
        &self,
        request: Request<AddAllowlistEntryRequest>,
    ) -> Result<Response<AddAllowlistEntryResponse>, Status> {
        let caller = peer(&request);
        let entry = request.into_inner().entry.unwrap_or_default();
        let mut faults = Faults::default();
        faults.note("entry.reason", check::text(&entry.reason, 1, 256));
        let (side, network) = parse(faults, "entry.", entry.side(), &entry.network)?;
        let change = Change {
            side,
            network,
            reason: Some(&entry.reason),
        };
        let version = self.auditor.change_allowlist(&caller, change).await?;
        Ok(Response::new(AddAllowlistEntryResponse { version }))
    }

    async fn remove_allowlist_entry(
        &self,
        request: Request<RemoveAllowlistEntryRequest>,
    ) -> Result<Response<RemoveAllowlistEntryResponse>, Status> {
        let caller = peer(&request);
        let request = request.into_inner();
        let (side, network) = parse(Faults::default(), "", request.side(), &request.network)?;
        let change = Change {
            side,
            network,
            reason: None,
        };
        let version = self.auditor.change_allowlist(&caller, change).await?;
        Ok(Response::new(RemoveAllowlistEntryResponse { version }))
    }
}

fn parse(
    mut faults: Faults,
    prefix: &str,
    side: AllowlistSide,
    network: &str,
) -> Result<(AllowlistSide, Network), Error> {
    if side == AllowlistSide::Unspecified {
        faults.note(format!("{prefix}side"), Err("is required".to_owned()));
    }
    let field = format!("{prefix}network");
    match network.parse::<Network>() {
        Ok(network) => faults.finish().map(|()| (side, network)),
        Err(why) => {
            faults.note(field.clone(), Err(why.clone()));
            // it holds at least this fault
            faults.finish()?;
            Err(Error::Invalid(vec![(field, why)]))
        }
    }
}
