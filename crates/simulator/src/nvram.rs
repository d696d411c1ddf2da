//! What survives a reset and, in the state file, the death of the process.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    Error,
    cipher::{KeptCounters, KeptKeys},
    logs::{EventLog, LoadProfile},
    physics::Relay,
};

/// The contents of the non-volatile memory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nvram {
    pub(crate) relay: Relay,
    pub(crate) power_failures: u32,
    pub(crate) import_mwh: u64,
    pub(crate) clock_offset_ms: i64,
    pub(crate) counters: KeptCounters,
    /// Keys that were changed over the air.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<KeptKeys>,
    pub(crate) events: EventLog,
    pub(crate) load_profile: LoadProfile,
}

/// The file NVRAM is kept in: replaced as a whole, so that a killed process leaves the old or the new one.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file, and what it holds; nothing if it does not exist yet.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Nvram>), Error> {
        let file = Self {
            path: path.to_owned(),
        };
        let saved = match fs::read(path) {
            Ok(octets) => Some(serde_json::from_slice(&octets).map_err(|error| file.bad(&error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(file.bad(&error)),
        };
        Ok((file, saved))
    }

    pub(crate) fn save(&self, nvram: &Nvram) -> Result<(), Error> {
        let octets = serde_json::to_vec(nvram).map_err(|error| self.bad(&error))?;
        let octets = Zeroizing::new(octets); // there may be keys in it
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&octets))
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(|error| self.bad(&error))
    }

    fn bad(&self, error: &dyn std::error::Error) -> Error {
        Error::State {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}
