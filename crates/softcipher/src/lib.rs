//! The cryptography of DLMS associations with keys in memory: what [`dlms`] asks for as effects, done, in either role.
//! For laboratories: simulated meters, explained traces, tests and measurements. A head-end's keys belong into a module
//! that does not show them.
//!
//! Suites 0, 1 and 2; authenticated, encrypted, or both; glo-, ded-, general-glo-, general-ded- and general-ciphering
//! with each of its keys; general-signing; HLS 3 to 7; key transfer and key agreement.
//!
//! ```
//! use dlms::{CipherOp, CipherOutput, Protection, SecurityControl, Suite, SystemTitle};
//! use softcipher::{Keys, Setup, SoftCipher};
//!
//! let (client, meter) = (SystemTitle::new(*b"LKHcli01"), SystemTitle::new(*b"LKMmet01"));
//! let keys = Keys {
//!     encryption: Some([7; 16].into()),
//!     authentication: Some([9; 16].into()),
//!     ..Keys::default()
//! };
//! let mut sender = SoftCipher::new(Setup::new(Suite::Suite0, client), keys.clone())?;
//! let mut receiver = SoftCipher::new(Setup::new(Suite::Suite0, meter), keys)?;
//! let (protection, control, signed) = (Protection::Glo, SecurityControl::AUTH_ENC, false);
//! let get = vec![0xC0, 1, 0xC1, 0, 8, 0, 0, 1, 0, 0, 255, 2, 0];
//! let CipherOutput::Apdu(apdu, 1) =
//!     sender.run(CipherOp::Protect { apdu: get.clone(), protection, control, signed })?
//! else {
//!     panic!("the first counter is 1");
//! };
//! let ask = CipherOp::Unprotect { apdu, peer_title: client, protection, control, signed };
//! assert_eq!(receiver.run(ask.clone()), Ok(CipherOutput::Apdu(get, 1)));
//! assert!(receiver.run(ask).is_err(), "once");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::wildcard_enum_match_arm,
        reason = "a test may fail by panicking"
    )
)]

mod agreement;
mod cipher;
mod curve;
mod gcm;
mod general;
mod hls;
mod keys;
mod random;
mod secret;
mod space;

pub use agreement::Ephemeral;
pub use cipher::{Session, Setup, SoftCipher};
pub use curve::{PrivateKey, PublicKey};
pub use gcm::{unwrap, wrap};
pub use general::derive;
pub use keys::{KeyError, Keys};
pub use secret::Secret;
pub use space::Counters;

#[cfg(test)]
mod tests;
