//! Meters, by way of the association service.

use std::time::Duration;

use dlms::Data;
use kit::{Channel, status};
use latchkey_proto::{
    association::v1::{
        Delivery, GetMeterRequest, InvokeListRequest, InvokeListResponse, InvokeRequest,
        InvokeResponse, ListForm, Meter, OpenAssociationRequest, OpenAssociationResponse,
        PlanAssociationRequest, PlanAssociationResponse, ReleaseAssociationRequest,
        RotateKeysRequest, RotateKeysResponse,
        association_service_client::AssociationServiceClient,
        meter_service_client::MeterServiceClient,
    },
    audit::v1::{Command, SignedPermit},
};
use machine::{Input, Snapshot};
use tonic::{Code, Request, Status};

use crate::{
    error::Error,
    facts::Reading,
    failure,
    failure::Failure,
    plan::{self, Fact},
};

/// Longest wait for an association: connection, AARQ and HLS.
const OPEN_TIMEOUT: Duration = Duration::from_secs(45);
/// Openings of one attempt to change keys.
const OPENINGS: u32 = 5;
/// How much longer than the meter the association service may take to answer.
const INVOKE_MARGIN: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a GET.
const GET_TIMEOUT_MS: u32 = 15_000;
/// The same, where only a sign of life is wanted.
const SIGN_OF_LIFE_MS: u32 = 3_000;
/// Longest wait for a release.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the association service.
#[derive(Debug, Clone)]
pub(crate) struct Meters {
    directory: MeterServiceClient<Channel>,
    associations: AssociationServiceClient<Channel>,
}

/// Who opens an association, to which meter, under what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) meter_id: &'a str,
    pub(crate) holder: &'a str,
    pub(crate) permit: &'a SignedPermit,
    pub(crate) public_client: bool,
}

/// What is known of an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// The meter answered in it.
    Lives {
        /// The counter that the question spent.
        counter: u32,
    },
    /// The meter ended it.
    EndedByMeter,
    /// It cannot be used any more, and nothing says that the meter ended it.
    Gone,
}

/// What a GET brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) result: u32,
    pub(crate) data: Vec<u8>,
    pub(crate) counter: u32,
}

impl Got {
    /// The value, if there is one that makes sense.
    pub(crate) fn value(&self) -> Option<Data> {
        if self.result == 0 {
            Data::decode(&self.data).ok()
        } else {
            None
        }
    }
}

impl Meters {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            directory: MeterServiceClient::new(channel.clone()),
            associations: AssociationServiceClient::new(channel),
        }
    }

    /// A meter of the directory.
    pub(crate) async fn meter(&self, meter_id: &str) -> Result<Meter, Error> {
        let request = GetMeterRequest {
            meter_id: meter_id.to_owned(),
            address: String::new(),
        };
        match self.directory.clone().get_meter(request).await {
            Ok(response) => response
                .into_inner()
                .meter
                .ok_or_else(|| Error::MeterUnknown(meter_id.to_owned())),
            Err(error) if status::reason(&error).as_deref() == Some("METER_UNKNOWN") => {
                Err(Error::MeterUnknown(meter_id.to_owned()))
            }
            Err(error) => Err(Error::Upstream(error)),
        }
    }

    /// Opens an association.
    pub(crate) async fn open(
        &self,
        opening: Opening<'_>,
    ) -> Result<OpenAssociationResponse, Status> {
        let mut request = Request::new(OpenAssociationRequest {
            meter_id: opening.meter_id.to_owned(),
            permit: Some(opening.permit.clone()),
            holder: opening.holder.to_owned(),
            public_client: opening.public_client,
        });
        request.set_timeout(OPEN_TIMEOUT);
        let response = self.associations.clone().open_association(request).await?;
        Ok(response.into_inner())
    }

    /// Releases an association. What goes wrong with it is no concern of the caller's: its lease ends by itself.
    pub(crate) async fn release(&self, association_id: &str) {
        let mut request = Request::new(ReleaseAssociationRequest {
            association_id: association_id.to_owned(),
        });
        request.set_timeout(RELEASE_TIMEOUT);
        if let Err(error) = self.associations.clone().release_association(request).await {
            tracing::debug!(%error, "an association was not released");
        }
    }

    /// Reads one attribute.
    pub(crate) async fn get(
        &self,
        association_id: &str,
        command: &Command,
    ) -> Result<Got, Failure> {
        let answer = self.invoke(association_id, command, GET_TIMEOUT_MS).await?;
        answered(answer)
    }

    /// Reads one attribute for a person, who is told exactly what went wrong.
    pub(crate) async fn get_once(
        &self,
        meter_id: &str,
        association_id: &str,
        command: &Command,
    ) -> Result<Got, Error> {
        let answer = self
            .invoke(association_id, command, GET_TIMEOUT_MS)
            .await
            .map_err(Error::Upstream)?;
        let cause = answer.cause.clone();
        answered(answer).map_err(|_| Error::NoAnswer {
            meter_id: meter_id.to_owned(),
            cause,
        })
    }

    /// Whether an association lives, by a question that is not waited for long; and if it is over, how it ended.
    pub(crate) async fn sign_of_life(
        &self,
        association_id: &str,
        command: &Command,
    ) -> Result<Life, Failure> {
        // A question that is not answered ends the association: the second one is told how.
        for _ in 0..2 {
            let error = match self.invoke(association_id, command, SIGN_OF_LIFE_MS).await {
                Ok(answer) if answer.delivery() == Delivery::Answered => {
                    return Ok(Life::Lives {
                        counter: answer.invocation_counter,
                    });
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            match status::reason(&error).as_deref() {
                Some("ASSOCIATION_CLOSED_BY_METER") => return Ok(Life::EndedByMeter),
                Some("ASSOCIATION_GONE" | "ASSOCIATION_TAKEN_OVER") => return Ok(Life::Gone),
                _ => {}
            }
            return match Failure::from(error) {
                failure @ Failure::Service(_) => Err(failure),
                Failure::Silent(_) | Failure::Stale(_) | Failure::Denied(_) => Ok(Life::Gone),
            };
        }
        Ok(Life::Gone)
    }

    /// Reads several attributes for a person, in one request; `None` if that cannot be, and nothing was sent.
    pub(crate) async fn get_list_once(
        &self,
        meter_id: &str,
        association_id: &str,
        commands: Vec<Command>,
    ) -> Result<Option<Vec<Got>>, Error> {
        let count = commands.len();
        let answer = self.invoke_list(association_id, commands).await;
        let Some(answer) = answer.map_err(Error::Upstream)? else {
            return Ok(None);
        };
        let cause = answer.cause.clone();
        let got = all_answered(answer, count).map_err(|_| Error::NoAnswer {
            meter_id: meter_id.to_owned(),
            cause,
        })?;
        Ok(Some(got))
    }

    /// Reads many facts. Where the meter takes lists, those with short answers go in one request; `lists` false asks for
    /// none. A list that was not answered is a question that was not answered.
    pub(crate) async fn read(
        &self,
        association_id: &str,
        readings: &[(Fact, Command)],
        mut lists: bool,
    ) -> Result<Snapshot, Failure> {
        let mut reading = Reading::default();
        for run in plan::runs(readings) {
            let together = match run {
                [_, _, ..] if lists => {
                    let commands = run.iter().map(|(_, command)| command.clone()).collect();
                    let answer = self.invoke_list(association_id, commands).await?;
                    lists = answer.is_some();
                    answer.map(|answer| all_answered(answer, run.len()))
                }
                _ => None,
            };
            if let Some(together) = together {
                for ((fact, _), got) in run.iter().zip(together?) {
                    reading.take(*fact, got.value().as_ref(), got.counter);
                }
                continue;
            }
            for (fact, command) in run {
                let got = self.get(association_id, command).await?;
                reading.take(*fact, got.value().as_ref(), got.counter);
            }
        }
        Ok(reading.finish(crate::driver::now()))
    }

    /// How commands would fit a meter's link; `None` if the association service is too old to tell.
    pub(crate) async fn plan(
        &self,
        meter_id: &str,
        commands: Vec<Command>,
    ) -> Result<Option<PlanAssociationResponse>, Status> {
        let mut request = Request::new(PlanAssociationRequest {
            meter_id: meter_id.to_owned(),
            commands,
        });
        request.set_timeout(RELEASE_TIMEOUT);
        match self.associations.clone().plan_association(request).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(error) if error.code() == Code::Unimplemented => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends the one command that changes something. Whatever comes of it is told, never guessed (promise P5).
    pub(crate) async fn act(
        &self,
        association_id: &str,
        command: &Command,
        timeout_ms: u32,
    ) -> Input {
        match self.invoke(association_id, command, timeout_ms).await {
            Ok(answer) => match answer.delivery() {
                Delivery::Answered => Input::ActAnswered {
                    // A result beyond one octet is none of the standard's: it says nothing, like other-reason.
                    result: u8::try_from(answer.result).unwrap_or(250),
                    counter: answer.invocation_counter,
                },
                Delivery::Unknown | Delivery::Unspecified => Input::ActUnknown {
                    cause: answer.cause,
                    counter: answer.invocation_counter,
                },
            },
            Err(error) if failure::proves_not_sent(&error) => match Failure::from(error) {
                Failure::Silent(cause) | Failure::Service(cause) => Input::ActNotSent { cause },
                Failure::Stale(cause) => Input::PermitStale { cause },
                Failure::Denied(cause) => Input::Denied { cause },
            },
            Err(error) => Input::ActUnknown {
                cause: format!(
                    "the association service did not answer ({})",
                    error.message()
                ),
                counter: 0,
            },
        }
    }

    /// One attempt of a rotation of keys.
    pub(crate) async fn rotate(
        &self,
        meter_id: &str,
        holder: &str,
        permit: &SignedPermit,
        timeout_ms: u32,
    ) -> Result<RotateKeysResponse, Status> {
        let mut request = Request::new(RotateKeysRequest {
            meter_id: meter_id.to_owned(),
            permit: Some(permit.clone()),
            holder: holder.to_owned(),
            probe_only: false,
            answer_timeout_ms: timeout_ms,
        });
        let answers = Duration::from_millis(u64::from(timeout_ms)).saturating_mul(3);
        request.set_timeout(OPEN_TIMEOUT.saturating_mul(OPENINGS) + answers + INVOKE_MARGIN);
        let response = self.associations.clone().rotate_keys(request).await?;
        Ok(response.into_inner())
    }

    /// Several GETs in one request; `None` if that cannot be, and nothing was sent.
    async fn invoke_list(
        &self,
        association_id: &str,
        commands: Vec<Command>,
    ) -> Result<Option<InvokeListResponse>, Status> {
        let mut request = Request::new(InvokeListRequest {
            association_id: association_id.to_owned(),
            commands,
            form: ListForm::WithList.into(),
            answer_timeout_ms: GET_TIMEOUT_MS,
        });
        request.set_timeout(Duration::from_millis(u64::from(GET_TIMEOUT_MS)) + INVOKE_MARGIN);
        match self.associations.clone().invoke_list(request).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(error) if takes_no_list(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn invoke(
        &self,
        association_id: &str,
        command: &Command,
        timeout_ms: u32,
    ) -> Result<InvokeResponse, Status> {
        let mut request = Request::new(InvokeRequest {
            association_id: association_id.to_owned(),
            command: Some(command.clone()),
            answer_timeout_ms: timeout_ms,
        });
        request.set_timeout(Duration::from_millis(u64::from(timeout_ms)) + INVOKE_MARGIN);
        let response = self.associations.clone().invoke(request).await?;
        Ok(response.into_inner())
    }
}

/// Whether an error of a list says that nothing was sent, and that single commands can be.
fn takes_no_list(error: &Status) -> bool {
    error.code() == Code::Unimplemented
        || matches!(
            status::reason(error).as_deref(),
            Some("SERVICE_NOT_GRANTED" | "DOES_NOT_FIT")
        )
}

fn all_answered(answer: InvokeListResponse, count: usize) -> Result<Vec<Got>, Failure> {
    match answer.delivery() {
        Delivery::Answered if answer.results.len() == count => {
            let counter = answer.invocation_counter;
            let got = answer.results.into_iter().map(|one| Got {
                result: one.result,
                data: one.data,
                counter,
            });
            Ok(got.collect())
        }
        Delivery::Answered | Delivery::Unknown | Delivery::Unspecified => Err(Failure::Silent(
            format!("several questions were not answered: {}", answer.cause),
        )),
    }
}

fn answered(answer: InvokeResponse) -> Result<Got, Failure> {
    match answer.delivery() {
        Delivery::Answered => Ok(Got {
            result: answer.result,
            data: answer.data,
            counter: answer.invocation_counter,
        }),
        Delivery::Unknown | Delivery::Unspecified => Err(Failure::Silent(format!(
            "a question was not answered: {}",
            answer.cause
        ))),
    }
}
