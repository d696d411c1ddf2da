//! `latchkey.reset.v1.ResetService`.

use futures::stream::BoxStream;
use kit::peer;
use latchkey_proto::{
    audit::v1::Purpose,
    reset::v1::{
        CancelResetRequest, CancelResetResponse, CreateResetRequest, CreateResetResponse,
        GetResetRequest, GetResetResponse, ListResetsRequest, ListResetsResponse,
        WatchResetRequest, WatchResetResponse, reset_service_server::ResetService,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, Asked, parse, watch};
use crate::{error::Error, orders, store::Row};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1000;

#[tonic::async_trait]
impl ResetService for Api {
    async fn create_reset(
        &self,
        request: Request<CreateResetRequest>,
    ) -> Result<Response<CreateResetResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        let created = match parse::wish(&request, &principal) {
            Ok(wish) => orders::create(&self.deps, &self.crew, &wish).await,
            Err(error) => Err(error),
        };
        match created {
            Ok(reset) => Ok(Response::new(CreateResetResponse { reset: Some(reset) })),
            Err(error) => {
                let asked = Asked {
                    principal,
                    purpose: Purpose::Reset,
                    tier: request.tier(),
                    meter_id: request.meter_id,
                    reason: request.reason,
                    ticket: request.ticket,
                    ..Asked::default()
                };
                Err(self.refuse(asked, error).await)
            }
        }
    }

    async fn get_reset(
        &self,
        request: Request<GetResetRequest>,
    ) -> Result<Response<GetResetResponse>, Status> {
        let row = self.row(&request.into_inner().reset_id).await?;
        Ok(Response::new(GetResetResponse {
            reset: Some(orders::message(&row)),
        }))
    }

    async fn list_resets(
        &self,
        request: Request<ListResetsRequest>,
    ) -> Result<Response<ListResetsResponse>, Status> {
        let request = request.into_inner();
        let size = match request.page_size {
            0 => PAGE_DEFAULT,
            size @ 1..=PAGE_MAX => size,
            _ => return Err(Error::field("page_size", "must be 0..1000").into()),
        };
        if !request.page_token.is_empty() && kit::check::uuid(&request.page_token).is_err() {
            return Err(Error::field("page_token", "is none of this service's").into());
        }
        if !request.meter_id.is_empty()
            && let Err(why) = kit::check::meter_id(&request.meter_id)
        {
            return Err(Error::field("meter_id", why).into());
        }
        let rows = self
            .deps
            .store
            .list(&request.meter_id, &request.page_token, i64::from(size))
            .await?;
        let full = u32::try_from(rows.len()).is_ok_and(|count| count == size);
        let next = rows
            .last()
            .filter(|_| full)
            .map(|row| row.order.reset_id.clone());
        Ok(Response::new(ListResetsResponse {
            resets: rows.iter().map(orders::message).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    type WatchResetStream = BoxStream<'static, Result<WatchResetResponse, Status>>;

    async fn watch_reset(
        &self,
        request: Request<WatchResetRequest>,
    ) -> Result<Response<Self::WatchResetStream>, Status> {
        let request = request.into_inner();
        let row = self.row(&request.reset_id).await?;
        let after = i64::try_from(request.after_sequence).unwrap_or(i64::MAX);
        Ok(Response::new(watch::story(self.clone(), row, after)))
    }

    async fn cancel_reset(
        &self,
        request: Request<CancelResetRequest>,
    ) -> Result<Response<CancelResetResponse>, Status> {
        let by = peer(&request).to_string();
        let reset_id = request.into_inner().reset_id;
        self.row(&reset_id).await?;
        self.crew.cancel(&reset_id, by).await?;
        let row = self.row(&reset_id).await?;
        Ok(Response::new(CancelResetResponse {
            reset: Some(orders::message(&row)),
        }))
    }
}

impl Api {
    async fn row(&self, reset_id: &str) -> Result<Row, Error> {
        kit::check::uuid(reset_id).map_err(|why| Error::field("reset_id", why))?;
        let row = self.deps.store.load(reset_id).await?;
        row.ok_or_else(|| Error::ResetUnknown(reset_id.to_owned()))
    }
}
