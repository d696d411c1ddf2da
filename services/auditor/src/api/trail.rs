//! `latchkey.audit.v1.TrailService`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kit::{check, peer};
use latchkey_proto::audit::v1::trail_service_server::TrailService;
use latchkey_proto::audit::v1::{
    ExportTrailRequest, ExportTrailResponse, GetCheckpointRequest, GetCheckpointResponse,
    GetConsistencyProofRequest, GetConsistencyProofResponse, GetInclusionProofRequest,
    GetInclusionProofResponse, ListEntriesRequest, ListEntriesResponse, RecordRequest,
    RecordResponse,
};
use tlog::Hash;
use tonic::{Request, Response, Status};

use super::Api;
use crate::error::Error;
use crate::request::Faults;

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1000;

#[tonic::async_trait]
impl TrailService for Api {
    async fn record(
        &self,
        request: Request<RecordRequest>,
    ) -> Result<Response<RecordResponse>, Status> {
        let caller = peer(&request);
        let leaf_index = self.auditor.record(&caller, request.into_inner()).await?;
        Ok(Response::new(RecordResponse { leaf_index }))
    }

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let signed = self.trail.checkpoint().await?;
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: signed.note,
            verifier_key: self.trail.verifier_key(),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let (limit, from) = parse_page(&request)?;
        let page = self
            .trail
            .page(from, limit, &request.meter_id, &request.reset_id)
            .await?;
        Ok(Response::new(ListEntriesResponse {
            entries: page.entries,
            next_page_token: page.next.map_or_else(String::new, |next| {
                token(next, &request.meter_id, &request.reset_id)
            }),
        }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        let request = request.into_inner();
        let proof = self
            .trail
            .inclusion(request.leaf_index, request.tree_size)
            .await?;
        Ok(Response::new(GetInclusionProofResponse {
            tree_size: proof.tree_size,
            leaf_hash: proof.leaf.bytes().to_vec(),
            hashes: octets(&proof.path),
        }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        let request = request.into_inner();
        let (new_size, path) = self
            .trail
            .consistency(request.old_size, request.new_size)
            .await?;
        Ok(Response::new(GetConsistencyProofResponse {
            new_size,
            hashes: octets(&path),
        }))
    }

    type ExportTrailStream = BoxStream<'static, Result<ExportTrailResponse, Status>>;

    async fn export_trail(
        &self,
        _: Request<ExportTrailRequest>,
    ) -> Result<Response<Self::ExportTrailStream>, Status> {
        let pieces = self.trail.clone().export().await?;
        let stream = pieces.map(|piece| match piece {
            Ok(chunk) => Ok(ExportTrailResponse { chunk }),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(stream.boxed()))
    }
}

fn octets(hashes: &[Hash]) -> Vec<Vec<u8>> {
    hashes.iter().map(|hash| hash.bytes().to_vec()).collect()
}

/// How many entries, from which index on.
fn parse_page(request: &ListEntriesRequest) -> Result<(u32, u64), Error> {
    let mut faults = Faults::default();
    if request.page_size > PAGE_MAX {
        let why = format!("must be at most {PAGE_MAX}");
        faults.note("page_size", Err(why));
    }
    if !request.meter_id.is_empty() {
        faults.note("meter_id", check::meter_id(&request.meter_id));
    }
    faults.note("reset_id", check::text(&request.reset_id, 0, 64));
    let from = if request.page_token.is_empty() {
        Some(0)
    } else {
        next_of(request)
    };
    if from.is_none() {
        let why = "is not the token of this listing; begin again without one";
        faults.note("page_token", Err(why.to_owned()));
    }
    faults.finish()?;
    let limit = match request.page_size {
        0 => PAGE_DEFAULT,
        size => size,
    };
    Ok((limit, from.unwrap_or_default()))
}

/// The next index and the filters it belongs to. It grants nothing: who may list may list from anywhere.
fn token(next: u64, meter_id: &str, reset_id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{next}\n{meter_id}\n{reset_id}"))
}

fn next_of(request: &ListEntriesRequest) -> Option<u64> {
    let octets = URL_SAFE_NO_PAD.decode(&request.page_token).ok()?;
    let text = String::from_utf8(octets).ok()?;
    let (next, filters) = text.split_once('\n')?;
    let same = filters == format!("{}\n{}", request.meter_id, request.reset_id);
    same.then(|| next.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_filters() {
        let mut request = ListEntriesRequest {
            page_token: token(7, "m1", ""),
            meter_id: "m1".to_owned(),
            ..ListEntriesRequest::default()
        };
        assert_eq!(parse_page(&request).unwrap(), (PAGE_DEFAULT, 7));
        request.meter_id = "m2".to_owned();
        assert!(parse_page(&request).is_err());
        request.meter_id = "m1".to_owned();
        for bad in [
            "x",
            "!",
            &URL_SAFE_NO_PAD.encode("7\nm1"),
            &token(7, "m1", "r"),
        ] {
            request.page_token = bad.to_owned();
            assert!(parse_page(&request).is_err(), "{bad}");
        }
        request.page_token.clear();
        request.page_size = 1001;
        assert!(parse_page(&request).is_err());
    }
}
