//! What can go wrong around a simulated meter.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why a simulated meter could not be set up or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lab key file is not what it should be. Nothing of its content is repeated.
    #[error("lab keys {path}: {reason}")]
    LabKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// Keys, of the laboratory or of the state file, do not belong to the meter's suite.
    #[error(transparent)]
    Keys(#[from] softcipher::KeyError),
    /// The address to listen on is not to be had.
    #[error("meter cannot listen on {address}: {source}; choose a free address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The state file cannot be read or written.
    #[error("state file {path}: {reason}; remove it to start with a new meter")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nobody knows this fault.
    #[error("unknown fault {name:?}; known faults: {known}")]
    UnknownFault {
        /// What was asked for.
        name: String,
        /// The known ones.
        known: String,
    },
    /// A fault's argument makes no sense.
    #[error(
        "fault {name}: argument {argument:?} is not a number from 1 to 1000000, or the fault takes none"
    )]
    FaultArgument {
        /// The fault.
        name: &'static str,
        /// What was given.
        argument: String,
    },
    /// A word that is none of the known ones.
    #[error("unknown {what} {name:?}; known: {known}")]
    UnknownWord {
        /// What kind of word.
        what: &'static str,
        /// What was given.
        name: String,
        /// The known ones.
        known: String,
    },
    /// Options that do not agree with each other or with the keys.
    #[error("the meter's options do not go together: {0}")]
    Options(String),
    /// The serial line is not to be had.
    #[error("serial line {path}: {source}; name a terminal device that this user may open")]
    Serial {
        /// The device.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The boot time makes no sense.
    #[error("boot time {0} s is not between 0 and 3600 s")]
    BootSeconds(f64),
    /// A fleet does not fit the addresses it was given.
    #[error("{count} meters do not fit from {first} on; use an address such as 127.10.0.1:4059")]
    FleetAddresses {
        /// How many.
        count: usize,
        /// The first address.
        first: SocketAddr,
    },
}
