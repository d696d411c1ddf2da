//! The directory of meters, as far as the reset service asks it.

use latchkey_proto::association::v1::{
    CreateMeterRequest, CreateMeterResponse, DeleteMeterRequest, DeleteMeterResponse,
    GetMeterRequest, GetMeterResponse, ListMetersRequest, ListMetersResponse, Meter,
    meter_service_server::MeterService,
};
use tonic::{Code, Request, Response, Status};

use crate::meter::{Fake, refuse};

#[tonic::async_trait]
impl MeterService for Fake {
    async fn get_meter(
        &self,
        request: Request<GetMeterRequest>,
    ) -> Result<Response<GetMeterResponse>, Status> {
        let meter_id = request.into_inner().meter_id;
        if !meter_id.starts_with("m-") {
            return Err(refuse(Code::NotFound, "METER_UNKNOWN"));
        }
        let meter = Meter {
            meter_id,
            profile: "quick".to_owned(),
            invocation_counter_name: "0.0.43.1.0.255".to_owned(),
            ..Meter::default()
        };
        Ok(Response::new(GetMeterResponse { meter: Some(meter) }))
    }

    async fn create_meter(
        &self,
        _: Request<CreateMeterRequest>,
    ) -> Result<Response<CreateMeterResponse>, Status> {
        unreachable!("the reset service enrols nothing")
    }

    async fn list_meters(
        &self,
        _: Request<ListMetersRequest>,
    ) -> Result<Response<ListMetersResponse>, Status> {
        unreachable!("the reset service lists nothing")
    }

    async fn delete_meter(
        &self,
        _: Request<DeleteMeterRequest>,
    ) -> Result<Response<DeleteMeterResponse>, Status> {
        unreachable!("the reset service forgets nothing")
    }
}
