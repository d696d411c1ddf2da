//! `latchkey.reset.v1.MeterAccessService`: single commands, each under a permit of its own.

use dlms::Obis;
use kit::peer;
use latchkey_proto::{
    audit::v1::{Command, CommandService, Purpose, Tier},
    reset::v1::{
        AttributeValue, ConnectMeterRequest, ConnectMeterResponse, GetObjectRequest,
        GetObjectResponse, GetObjectsRequest, GetObjectsResponse, InvokeMethodRequest,
        InvokeMethodResponse, ReadProfileRequest, ReadProfileResponse, Reset,
        meter_access_service_server::MeterAccessService,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, Asked, parse};
use crate::{
    bluebook,
    error::Error,
    facts,
    meter::{Got, Opening},
    office::{self, Leave, Plea},
    orders::{self, Wish},
    plan,
    profile::{Object, Profile},
};

/// Life of a permit for one command.
const LIFETIME_SECONDS: u32 = 120;
/// Columns of a profile that tell when and how an entry was captured, but not what: clock and status.
const COLUMNS: u16 = 2;

#[tonic::async_trait]
impl MeterAccessService for Api {
    async fn connect_meter(
        &self,
        request: Request<ConnectMeterRequest>,
    ) -> Result<Response<ConnectMeterResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        let visit = Visit {
            request_id: &request.request_id,
            meter_id: &request.meter_id,
            principal: &principal,
            reason: or(&request.reason, "connect"),
        };
        match self.connect(visit, &request.reason).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(self
                .refuse(visit.asked(Purpose::Connect, Vec::new()), error)
                .await),
        }
    }

    async fn get_object(
        &self,
        request: Request<GetObjectRequest>,
    ) -> Result<Response<GetObjectResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        let visit = Visit {
            request_id: &request.request_id,
            meter_id: &request.meter_id,
            principal: &principal,
            reason: or(&request.reason, "read"),
        };
        match self.object(visit, &request).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(self
                .refuse(visit.asked(Purpose::Read, Vec::new()), error)
                .await),
        }
    }

    async fn get_objects(
        &self,
        request: Request<GetObjectsRequest>,
    ) -> Result<Response<GetObjectsResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        let visit = Visit {
            request_id: &request.request_id,
            meter_id: &request.meter_id,
            principal: &principal,
            reason: or(&request.reason, "read"),
        };
        match self.objects(visit, &request).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(self
                .refuse(visit.asked(Purpose::Read, Vec::new()), error)
                .await),
        }
    }

    async fn read_profile(
        &self,
        request: Request<ReadProfileRequest>,
    ) -> Result<Response<ReadProfileResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        let visit = Visit {
            request_id: &request.request_id,
            meter_id: &request.meter_id,
            principal: &principal,
            reason: or(&request.reason, "read"),
        };
        match self.entries(visit, &request).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(self
                .refuse(visit.asked(Purpose::Read, Vec::new()), error)
                .await),
        }
    }

    async fn invoke_method(
        &self,
        request: Request<InvokeMethodRequest>,
    ) -> Result<Response<InvokeMethodResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        let visit = Visit {
            request_id: &request.request_id,
            meter_id: &request.meter_id,
            principal: &principal,
            reason: or(&request.reason, "invoke"),
        };
        match self.method(visit, &request).await {
            Ok(reset) => Ok(Response::new(InvokeMethodResponse { reset: Some(reset) })),
            Err(error) => Err(self
                .refuse(visit.asked(Purpose::Reset, Vec::new()), error)
                .await),
        }
    }
}

/// Who wants something of which meter, and why.
#[derive(Clone, Copy)]
struct Visit<'a> {
    request_id: &'a str,
    meter_id: &'a str,
    principal: &'a str,
    reason: &'a str,
}

impl Visit<'_> {
    /// In whose name the meter is held. A holder takes over its own association, and a reset holds in the name of its
    /// id, which people see: a caller who chose that as its request id must not end the reset's association.
    fn holder(&self) -> String {
        format!("visit-{}", self.request_id)
    }

    /// The caller's request id as the auditor gets it.
    fn permit_request_id(&self) -> String {
        office::visit_request_id(self.principal, self.request_id)
    }

    fn asked(&self, purpose: Purpose, commands: Vec<Command>) -> Asked {
        Asked {
            principal: self.principal.to_owned(),
            meter_id: self.meter_id.to_owned(),
            purpose,
            commands,
            reason: self.reason.to_owned(),
            ..Asked::default()
        }
    }
}

impl Api {
    async fn connect(&self, visit: Visit<'_>, reason: &str) -> Result<ConnectMeterResponse, Error> {
        parse::connect(visit.request_id, visit.meter_id, reason)?;
        self.deps.meters.meter(visit.meter_id).await?;
        let leave = self
            .ask(
                visit,
                visit.permit_request_id(),
                Purpose::Connect,
                Vec::new(),
            )
            .await?;
        let holder = visit.holder();
        let opened = self
            .deps
            .meters
            .open(opening(visit, &holder, &leave))
            .await
            .map_err(Error::Upstream)?;
        self.deps.meters.release(&opened.association_id).await;
        Ok(ConnectMeterResponse {
            server_system_title: opened.server_system_title,
            conformance: opened.conformance,
            server_max_receive_pdu_size: opened.server_max_receive_pdu_size,
        })
    }

    async fn object(
        &self,
        visit: Visit<'_>,
        request: &GetObjectRequest,
    ) -> Result<GetObjectResponse, Error> {
        let name = parse::object(request)?;
        let profile = self.meter_profile(visit.meter_id).await?;
        let object = resolve(profile, request.class_id, name, "class_id")?;
        let got = self
            .read(
                visit,
                visit.permit_request_id(),
                object.get(request.attribute),
            )
            .await?;
        Ok(GetObjectResponse {
            result: got.result,
            data: got.data,
            class_id: u32::from(object.class_id),
        })
    }

    /// Several GETs under one permit: in one request if the meter takes it, else one after the other.
    async fn objects(
        &self,
        visit: Visit<'_>,
        request: &GetObjectsRequest,
    ) -> Result<GetObjectsResponse, Error> {
        let names = parse::objects(request)?;
        let profile = self.meter_profile(visit.meter_id).await?;
        let mut objects = Vec::new();
        for (n, (asked, name)) in request.attributes.iter().zip(names).enumerate() {
            let field = format!("attributes[{n}].class_id");
            objects.push(resolve(profile, asked.class_id, name, &field)?);
        }
        let commands: Vec<Command> = objects
            .iter()
            .zip(&request.attributes)
            .map(|(object, asked)| object.get(asked.attribute))
            .collect();
        let (got, one_request) = self.read_all(visit, commands).await?;
        let values = objects.iter().zip(got).map(|(object, got)| AttributeValue {
            result: got.result,
            data: got.data,
            class_id: u32::from(object.class_id),
        });
        Ok(GetObjectsResponse {
            values: values.collect(),
            one_request,
        })
    }

    async fn entries(
        &self,
        visit: Visit<'_>,
        request: &ReadProfileRequest,
    ) -> Result<ReadProfileResponse, Error> {
        let name = parse::profile(request)?;
        self.deps.meters.meter(visit.meter_id).await?;
        let log = Object { class_id: 7, name };
        // Two permits: the second names exactly the entries, which only the first tells.
        let got = self
            .read(visit, visit.permit_request_id(), plan::entries_in_use(log))
            .await?;
        let Some(in_use) = got.value().as_ref().and_then(facts::entries_in_use) else {
            return Ok(ReadProfileResponse {
                result: got.result,
                ..ReadProfileResponse::default()
            });
        };
        let from = in_use
            .saturating_sub(request.entries.saturating_sub(1))
            .max(1);
        let got = self
            .read(
                visit,
                kit::context::new_id(),
                plan::newest(log, from, COLUMNS),
            )
            .await?;
        Ok(ReadProfileResponse {
            result: got.result,
            data: got.data,
            entries_in_use: in_use,
        })
    }

    /// A tier of the meter's profile becomes a reset with all its guards. Anything else is put to policy, which says
    /// no and records it; nothing else is ever sent, whatever policy says.
    async fn method(
        &self,
        visit: Visit<'_>,
        request: &InvokeMethodRequest,
    ) -> Result<Reset, Error> {
        let name = parse::method(request)?;
        let meter = self.deps.meters.meter(visit.meter_id).await?;
        let known = self.deps.profiles.get(&meter.profile);
        let object = resolve(known, request.class_id, name, "class_id")?;
        let profile = orders::profile(&self.deps, &meter)?;
        let Some(tier) = profile.tier_of(object, request.method, &request.parameter) else {
            let command = Command {
                service: CommandService::Action.into(),
                class_id: u32::from(object.class_id),
                logical_name: object.name.to_string(),
                index: request.method,
                parameter: request.parameter.clone(),
                selection: Vec::new(),
                max_uses: 1,
            };
            let plea = Plea {
                validate_only: true,
                ..plea(
                    visit,
                    visit.permit_request_id(),
                    Purpose::Read,
                    vec![command],
                )
            };
            self.deps
                .office
                .authorise(plea)
                .await
                .map_err(Error::Upstream)?;
            return Err(Error::NotATier);
        };
        let wish = Wish {
            request_id: visit.request_id.to_owned(),
            meter_id: visit.meter_id.to_owned(),
            tier,
            reason: visit.reason.to_owned(),
            ticket: String::new(),
            principal: visit.principal.to_owned(),
            validate_only: false,
        };
        orders::create(&self.deps, &self.crew, &wish).await
    }

    /// The profile of an enrolled meter, if this service has it: reading does not need it.
    async fn meter_profile(&self, meter_id: &str) -> Result<Option<&Profile>, Error> {
        let meter = self.deps.meters.meter(meter_id).await?;
        Ok(self.deps.profiles.get(&meter.profile))
    }

    /// One GET: permit, association, question, release.
    async fn read(
        &self,
        visit: Visit<'_>,
        request_id: String,
        command: Command,
    ) -> Result<Got, Error> {
        let commands = vec![command.clone()];
        let association_id = self.associate(visit, request_id, commands).await?;
        let meters = &self.deps.meters;
        let got = meters
            .get_once(visit.meter_id, &association_id, &command)
            .await;
        meters.release(&association_id).await;
        got
    }

    /// Several: the same, and whether it was one question.
    async fn read_all(
        &self,
        visit: Visit<'_>,
        commands: Vec<Command>,
    ) -> Result<(Vec<Got>, bool), Error> {
        let request_id = visit.permit_request_id();
        let association_id = self.associate(visit, request_id, commands.clone()).await?;
        let got = self
            .get_all(visit.meter_id, &association_id, commands)
            .await;
        self.deps.meters.release(&association_id).await;
        got
    }

    async fn get_all(
        &self,
        meter_id: &str,
        association_id: &str,
        commands: Vec<Command>,
    ) -> Result<(Vec<Got>, bool), Error> {
        let meters = &self.deps.meters;
        if let [_, _, ..] = commands.as_slice() {
            let list = meters
                .get_list_once(meter_id, association_id, commands.clone())
                .await?;
            if let Some(got) = list {
                return Ok((got, true));
            }
        }
        let mut all = Vec::new();
        for command in &commands {
            all.push(meters.get_once(meter_id, association_id, command).await?);
        }
        Ok((all, commands.len() == 1))
    }

    /// An association under a permit of its own for these commands.
    async fn associate(
        &self,
        visit: Visit<'_>,
        request_id: String,
        commands: Vec<Command>,
    ) -> Result<String, Error> {
        let leave = self.ask(visit, request_id, Purpose::Read, commands).await?;
        let holder = visit.holder();
        let opened = self
            .deps
            .meters
            .open(opening(visit, &holder, &leave))
            .await
            .map_err(Error::Upstream)?;
        Ok(opened.association_id)
    }

    async fn ask(
        &self,
        visit: Visit<'_>,
        request_id: String,
        purpose: Purpose,
        commands: Vec<Command>,
    ) -> Result<Leave, Error> {
        let leave = self
            .deps
            .office
            .authorise(plea(visit, request_id, purpose, commands))
            .await;
        leave
            .map_err(Error::Upstream)?
            .ok_or_else(|| Error::Row("the auditor gave no permit".to_owned()))
    }
}

/// The object a caller means: its class as given, as the meter's profile knows it, or as the Blue Book does.
fn resolve(
    profile: Option<&Profile>,
    class_id: u32,
    name: Obis,
    field: &str,
) -> Result<Object, Error> {
    let class_id = match u16::try_from(class_id) {
        Ok(0) => {
            let known = profile.and_then(|profile| profile.class_of(name));
            known.or_else(|| bluebook::class_of(name)).ok_or_else(|| {
                Error::field(
                    field,
                    format!("is required: the class of {name} is not known"),
                )
            })?
        }
        Ok(class_id) => class_id,
        Err(_) => return Err(Error::field(field, "must be 0..65535")),
    };
    Ok(Object { class_id, name })
}

fn plea<'a>(
    visit: Visit<'a>,
    request_id: String,
    purpose: Purpose,
    commands: Vec<Command>,
) -> Plea<'a> {
    Plea {
        request_id,
        meter_id: visit.meter_id,
        purpose,
        tier: Tier::Unspecified,
        commands,
        principal: visit.principal,
        reason: visit.reason,
        ticket: "",
        reset_id: "",
        max_associations: 1,
        lifetime_seconds: LIFETIME_SECONDS,
        validate_only: false,
    }
}

fn opening<'a>(visit: Visit<'a>, holder: &'a str, leave: &'a Leave) -> Opening<'a> {
    Opening {
        meter_id: visit.meter_id,
        holder,
        permit: &leave.signed,
        public_client: false,
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_a_meter_in_the_name_of_a_reset() {
        let reset_id = kit::context::new_id();
        let visit = Visit {
            request_id: &reset_id,
            meter_id: "m-1",
            principal: "p",
            reason: "read",
        };
        assert_ne!(visit.holder(), reset_id);
        // what the association service takes for a holder
        assert_eq!(kit::check::text(&visit.holder(), 1, 64), Ok(()));
    }
}
