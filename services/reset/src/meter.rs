//! Meters, by way of the association service.

use std::time::Duration;

use dlms::Data;
use kit::{Channel, status};
use latchkey_proto::{
    association::v1::{
        Delivery, GetMeterRequest, InvokeRequest, InvokeResponse, Meter, OpenAssociationRequest,
        OpenAssociationResponse, ReleaseAssociationRequest,
        association_service_client::AssociationServiceClient,
        meter_service_client::MeterServiceClient,
    },
    audit::v1::{Command, SignedPermit},
};
use machine::{Input, Snapshot};
use tonic::{Request, Status};

use crate::{error::Error, facts::Reading, failure, failure::Failure, plan::Fact};

/// Longest wait for an association: connection, AARQ and HLS.
const OPEN_TIMEOUT: Duration = Duration::from_secs(45);
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

    /// Reads many facts.
    pub(crate) async fn read(
        &self,
        association_id: &str,
        readings: &[(Fact, Command)],
    ) -> Result<Snapshot, Failure> {
        let mut reading = Reading::default();
        for (fact, command) in readings {
            let got = self.get(association_id, command).await?;
            reading.take(*fact, got.value().as_ref(), got.counter);
        }
        Ok(reading.finish(crate::driver::now()))
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
