//! DLMS/COSEM as values.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm
)]

extern crate alloc;

pub mod acse;
mod axdr;
mod cause;
mod cipher;
pub mod client;
mod conformance;
mod data;
mod error;
pub mod initiate;
mod mechanism;
pub mod meter;
mod obis;
pub mod security;
mod selection;
mod service;
pub mod status;
pub mod wrapper;

pub use cause::{Awaiting, Cause, CauseClass};
pub use cipher::{CipherFailure, CipherJob, CipherOp, CipherOutput, JobId};
pub use client::{Client, ClientConfig, Effect, Event};
pub use conformance::Conformance;
pub use data::{Data, MAX_DEPTH, MAX_ELEMENTS};
pub use error::Error;
pub use mechanism::{ApplicationContext, CHALLENGE_MAX, CHALLENGE_MIN, Mechanism};
pub use meter::{ClientAccess, Meter, MeterConfig};
pub use obis::Obis;
pub use security::{Ciphered, GmacToken, Protection, SecurityControl, SystemTitle};
pub use selection::Selection;
pub use service::{Attribute, Command, Exception, InvokeId, Method, Request, Response};
pub use status::{ActionResult, DataAccessResult, Retry};
pub use wrapper::{Frame, Reassembler};
