//! `AssociationService`.

use std::time::Duration;

use kit::{check, peer};
use latchkey_proto::{
    association::v1::{
        InvokeListRequest, InvokeListResponse, InvokeRequest, InvokeResponse,
        OpenAssociationRequest, OpenAssociationResponse, PlanAssociationRequest,
        PlanAssociationResponse, ReleaseAssociationRequest, ReleaseAssociationResponse,
        RotateKeysRequest, RotateKeysResponse, association_service_server::AssociationService,
    },
    audit::v1::SignedPermit,
    custody::v1::RotationKeys,
};
use tonic::{Request, Response, Status};

use crate::{
    associations::{Associations, OpenOrder},
    command,
    error::Error,
    lease::Holder,
    plan::Plan,
    proposal::{Manner, conformance},
    rotation::Attempt,
    store::Store,
};

const ANSWER_TIMEOUT_MS_MAX: u32 = 120_000;
/// Commands of one plan: as many as a permit may hold.
const PLAN_MAX: usize = 64;
const PERMIT_MAX: usize = 64 * 1024;

/// The service.
pub(crate) struct AssociationApi {
    pub(crate) store: Store,
    pub(crate) associations: Associations,
    pub(crate) max_pdu: u16,
    pub(crate) answer_timeout_ms: u32,
}

impl AssociationApi {
    /// How long a meter may take.
    fn answer_timeout(&self, asked_ms: u32) -> Result<Duration, Error> {
        match asked_ms {
            0 => Ok(Duration::from_millis(self.answer_timeout_ms.into())),
            ms @ 1..=ANSWER_TIMEOUT_MS_MAX => Ok(Duration::from_millis(ms.into())),
            _ => Err(Error::field("answer_timeout_ms", "must be 0..120000")),
        }
    }
}

/// What every association is asked for with; the permit.
fn asked(
    meter_id: &str,
    holder: &str,
    permit: Option<SignedPermit>,
) -> Result<SignedPermit, Error> {
    let mut wrong = Vec::new();
    for (field, result) in [
        ("meter_id", check::meter_id(meter_id)),
        ("holder", check::text(holder, 1, 64)),
    ] {
        wrong.extend(result.err().map(|why| (field.to_owned(), why)));
    }
    let permit = permit.filter(|permit| permit.body.len() <= PERMIT_MAX);
    if permit.is_none() {
        wrong.push((
            "permit".to_owned(),
            "is required, with a body of at most 64 KiB".to_owned(),
        ));
    }
    permit
        .filter(|_| wrong.is_empty())
        .ok_or(Error::Invalid(wrong))
}

#[tonic::async_trait]
impl AssociationService for AssociationApi {
    async fn open_association(
        &self,
        request: Request<OpenAssociationRequest>,
    ) -> Result<Response<OpenAssociationResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let permit = asked(&request.meter_id, &request.holder, request.permit)?;
        let meter = self.store.by_id(&request.meter_id).await?;
        let meter = meter.ok_or(Error::MeterUnknown(request.meter_id))?;
        let holder = Holder {
            peer,
            name: request.holder,
        };
        let order = OpenOrder {
            meter,
            permit,
            holder,
            public_client: request.public_client,
            rotation_keys: RotationKeys::Unspecified,
        };
        let (association_id, opened) = self.associations.open(order).await?;
        Ok(Response::new(OpenAssociationResponse {
            association_id,
            server_system_title: opened.server_title,
            conformance: opened.conformance,
            server_max_receive_pdu_size: opened.server_max_pdu.into(),
            client_max_receive_pdu_size: opened.client_max_pdu.into(),
        }))
    }

    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let permit = asked(&request.meter_id, &request.holder, request.permit)?;
        let answer_timeout = self.answer_timeout(request.answer_timeout_ms)?;
        let meter = self.store.by_id(&request.meter_id).await?;
        let meter = meter.ok_or(Error::MeterUnknown(request.meter_id))?;
        let attempt = Attempt {
            associations: self.associations.clone(),
            meter,
            permit,
            holder: Holder {
                peer,
                name: request.holder,
            },
            answer_timeout,
            probe_only: request.probe_only,
        };
        Ok(Response::new(Box::pin(attempt.run()).await?))
    }

    async fn invoke_list(
        &self,
        request: Request<InvokeListRequest>,
    ) -> Result<Response<InvokeListResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let asked = command::parse_list(&request.commands, request.form)?;
        let timeout = self.answer_timeout(request.answer_timeout_ms)?;
        let answer = self
            .associations
            .invoke(&peer, &request.association_id, asked, timeout)
            .await?;
        Ok(Response::new(answer.render_list()))
    }

    async fn plan_association(
        &self,
        request: Request<PlanAssociationRequest>,
    ) -> Result<Response<PlanAssociationResponse>, Status> {
        let PlanAssociationRequest { meter_id, commands } = request.into_inner();
        check::meter_id(&meter_id).map_err(|why| Error::field("meter_id", why))?;
        let accesses = match commands.as_slice() {
            [] => Vec::new(),
            commands => command::parse_all(commands, PLAN_MAX)?,
        };
        let meter = self.store.by_id(&meter_id).await?;
        let meter = meter.ok_or(Error::MeterUnknown(meter_id))?;
        let manner = Manner::of(&meter, false);
        let services = conformance(&commands, &meter, &manner);
        let plan = Plan::new(&meter, &manner, services, self.max_pdu)?;
        Ok(Response::new(plan.render(accesses)))
    }

    async fn invoke(
        &self,
        request: Request<InvokeRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let asked = command::parse(request.command.as_ref())?;
        let timeout = self.answer_timeout(request.answer_timeout_ms)?;
        let answer = self
            .associations
            .invoke(&peer, &request.association_id, asked, timeout)
            .await?;
        Ok(Response::new(answer.render()))
    }

    async fn release_association(
        &self,
        request: Request<ReleaseAssociationRequest>,
    ) -> Result<Response<ReleaseAssociationResponse>, Status> {
        let peer = peer(&request);
        self.associations
            .release(&peer, &request.get_ref().association_id)
            .await;
        Ok(Response::new(ReleaseAssociationResponse {}))
    }
}
