//! The two gRPC services: parse, call, render. Every refusal of something asked of a meter leaves a denial in the trail.

mod access;
mod parse;
mod resets;
mod rotations;
mod watch;

use std::sync::Arc;

use kit::Shutdown;
use latchkey_proto::audit::v1::{Command, Entry, Purpose, Tier};
use tonic::Status;

use crate::{crew::Crew, denials::Denials, driver::Deps, error::Error, office, rotation::Clerk};

/// Both services.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) deps: Arc<Deps>,
    pub(crate) crew: Crew,
    pub(crate) clerk: Clerk,
    pub(crate) denials: Denials,
    pub(crate) shutdown: Shutdown,
}

/// What was asked of a meter, as far as the trail may know it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) principal: String,
    pub(crate) meter_id: String,
    pub(crate) purpose: Purpose,
    pub(crate) tier: Tier,
    pub(crate) commands: Vec<Command>,
    pub(crate) reason: String,
    pub(crate) ticket: String,
}

impl Api {
    /// Turns an error into a status; a refusal of ours goes into the trail first. The auditor and key custody record
    /// their own.
    async fn refuse(&self, asked: Asked, error: Error) -> Status {
        let ours = match &error {
            Error::Invalid(_)
            | Error::MeterUnknown(_)
            | Error::ProfileUnknown { .. }
            | Error::RequestReused(_)
            | Error::ResetUnderWay { .. }
            | Error::RotationUnderWay { .. }
            | Error::DoesNotFit(_)
            | Error::NotATier => true,
            Error::ResetUnknown(_)
            | Error::RotationUnknown(_)
            | Error::RotationOver(_)
            | Error::PastPivot(_)
            | Error::Over(_)
            | Error::NoAnswer { .. }
            | Error::Upstream(_)
            | Error::Stopping
            | Error::Store(_)
            | Error::Row(_)
            | Error::Stolen(_) => false,
        };
        if ours {
            // A field that breaks its rules has no place in the trail; the detail says which it was.
            let sound = kit::check::meter_id(&asked.meter_id).is_ok();
            let entry = Entry {
                principal: asked.principal,
                meter_id: if sound { asked.meter_id } else { String::new() },
                purpose: asked.purpose.into(),
                tier: asked.tier.into(),
                commands: office::digests(&asked.commands),
                reason: office::reason(&asked.reason),
                ticket: office::limited(&asked.ticket, 64),
                detail: office::limited(&error.to_string(), 1024),
                ..Entry::default()
            };
            self.denials.record(entry).await;
        }
        error.into()
    }
}
