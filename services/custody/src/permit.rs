//! Permits as custody sees them: verified, bound, and turned into what an APDU is compared with.

use std::time::SystemTime;

use kit::{
    PeerName,
    permit::{PermitError, PermitKey, verify},
};
use latchkey_proto::audit::v1::{Command, CommandService, Permit, SignedPermit};

use crate::{
    apdu::{Asked, Service},
    config::Config,
    error::Error,
};

/// Most commands of a permit.
const COMMANDS_MAX: usize = 64;
/// Most uses of a counted command.
const USES_MAX: u32 = 16;
/// Most associations of a permit.
const ASSOCIATIONS_MAX: u32 = 1024;

/// One command that a permit covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) asked: Asked,
    /// 0 for a GET that may be repeated until the permit expires.
    pub(crate) max_uses: u32,
    /// Of a change of keys: the parameter as the permit has it. `asked` then holds the real one, and is the one command of
    /// its kind that is ciphered.
    pub(crate) named: Option<Vec<u8>>,
}

impl Allowed {
    /// The command as the permit names it: all that the trail is told.
    pub(crate) fn as_permitted(&self) -> Asked {
        let mut asked = self.asked.clone();
        if let Some(named) = &self.named {
            asked.parameter.clone_from(named);
        }
        asked
    }
}

/// A permit that held when it was checked.
pub(crate) struct Verified {
    pub(crate) permit: Permit,
    pub(crate) allowed: Vec<Allowed>,
    /// When it ends, by our clock, with the skew allowed for.
    pub(crate) ends: SystemTime,
}

/// Whose permits are obeyed.
pub(crate) struct Gate {
    key: PermitKey,
    requesters: Vec<PeerName>,
    skew: std::time::Duration,
}

impl Gate {
    pub(crate) fn new(key: PermitKey, config: &Config) -> Self {
        Self {
            key,
            requesters: config.requesters.clone(),
            skew: config.clock_skew(),
        }
    }

    /// Checks signature, time, meter, requester, and that every command is one that can be compared exactly.
    pub(crate) fn check(
        &self,
        signed: &SignedPermit,
        meter_id: &str,
        now: SystemTime,
    ) -> Result<Verified, Error> {
        let permit = verify(signed, &self.key, now, self.skew).map_err(refusal)?;
        if permit.meter_id != meter_id {
            return Err(Error::PermitOtherMeter {
                meter: meter_id.to_owned(),
            });
        }
        if !self
            .requesters
            .iter()
            .any(|peer| peer.as_str() == permit.requester)
        {
            return Err(refused(
                "its requester is not one whose permits custody obeys",
            ));
        }
        if kit::check::uuid(&permit.permit_id).is_err() {
            return Err(refused("its permit_id is no UUID"));
        }
        if !(1..=ASSOCIATIONS_MAX).contains(&permit.max_associations) {
            return Err(refused("its max_associations is not 1..1024"));
        }
        if permit.commands.len() > COMMANDS_MAX {
            return Err(refused("it has more than 64 commands"));
        }
        let allowed = permit
            .commands
            .iter()
            .map(allowed)
            .collect::<Result<_, _>>()?;
        let expiry = permit
            .expire_time
            .as_ref()
            .and_then(kit::clock::from_timestamp);
        let ends = expiry.ok_or_else(|| refused("it has no expire_time"))? + self.skew;
        Ok(Verified {
            permit,
            allowed,
            ends,
        })
    }
}

fn refused(why: &str) -> Error {
    Error::PermitRefused {
        why: why.to_owned(),
    }
}

fn refusal(error: PermitError) -> Error {
    match error {
        PermitError::Malformed(why) => refused(why),
        PermitError::ForeignKey { .. } | PermitError::Signature => Error::PermitSignature {
            why: error.to_string(),
        },
        PermitError::NotYet => Error::PermitNotYet,
        PermitError::Expired => Error::PermitExpired,
    }
}

fn allowed(command: &Command) -> Result<Allowed, Error> {
    let service = match command.service() {
        CommandService::Get => Service::Get,
        CommandService::Set => Service::Set,
        CommandService::Action => Service::Action,
        CommandService::Unspecified => return Err(refused("a command has no service")),
    };
    // A command that changes the meter without a limit would outlive the decision behind it.
    let limits = if service == Service::Get {
        0..=USES_MAX
    } else {
        1..=USES_MAX
    };
    if !limits.contains(&command.max_uses) {
        return Err(refused("a command's max_uses is out of range"));
    }
    let name = command
        .logical_name
        .parse::<dlms::Obis>()
        .map_err(|_| refused("a logical name is no OBIS code"))?;
    let class_id =
        u16::try_from(command.class_id).map_err(|_| refused("a class_id is out of range"))?;
    let index = i8::try_from(command.index).map_err(|_| refused("an index is out of range"))?;
    Ok(Allowed {
        asked: Asked {
            service,
            class_id,
            name,
            index,
            parameter: command.parameter.clone(),
            selection: command.selection.clone(),
        },
        max_uses: command.max_uses,
        named: None,
    })
}

#[cfg(test)]
mod tests;
