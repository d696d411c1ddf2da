//! Keys that never leave the token.
//!
//! The only crate that links cryptoki. It loads any PKCS#11 module, finds a token by label and
//! serial, proves at start that the token can do what its [`Role`] needs, and offers the few
//! operations Latchkey needs as asynchronous methods of [`Token`]. Each session is owned by one
//! thread behind a bounded queue; a handle of a session that is gone is never used again.
//!
//! What is inside the token stays there: key-encryption keys are token objects made by the
//! [`ceremony`], meters' encryption keys are wrapped blobs outside and non-extractable session
//! objects inside. Only authentication keys can be revealed, because they are part of the
//! associated data of DLMS security (IEC 62056-5-3, 5.3.3.4), which PKCS#11 takes from the host.

#![forbid(unsafe_code)]

pub mod ceremony;
mod cipher;
mod error;
mod key;
mod module;
mod pool;
mod probe;
mod sign;
mod token;
mod wrap;

#[cfg(test)]
extern crate self as hsm;
#[cfg(test)]
#[path = "../tests/softhsm/lab.rs"]
mod lab;

pub use error::Error;
pub use key::KeyHandle;
pub use token::{Role, Token, TokenConfig};
