//! `latchkey.audit.v1.PermitService`.

use kit::peer;
use latchkey_proto::audit::v1::permit_service_server::PermitService;
use latchkey_proto::audit::v1::{
    AuthoriseRequest, AuthoriseResponse, GetPermitKeyRequest, GetPermitKeyResponse,
};
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl PermitService for Api {
    async fn authorise(
        &self,
        request: Request<AuthoriseRequest>,
    ) -> Result<Response<AuthoriseResponse>, Status> {
        let caller = peer(&request);
        let response = self
            .auditor
            .authorise(&caller, &request.into_inner())
            .await?;
        Ok(Response::new(response))
    }

    async fn get_permit_key(
        &self,
        _: Request<GetPermitKeyRequest>,
    ) -> Result<Response<GetPermitKeyResponse>, Status> {
        let key = &self.auditor.keys.permit;
        Ok(Response::new(GetPermitKeyResponse {
            public_key: key.octets().to_vec(),
            key_id: key.key_id(),
        }))
    }
}
