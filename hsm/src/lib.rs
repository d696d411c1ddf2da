//! Keys that never leave the token.
//!
//! The only crate that links cryptoki. It loads any PKCS#11 module, finds a token by label and
//! serial, proves at start that the token can do what its [`Role`] needs, and offers the few
//! operations Latchkey needs as asynchronous methods of [`Token`]. Each session is owned by one
//! thread behind a bounded queue; a handle of a session that is gone is never used again.
//!
//! What is inside the token stays there: key-encryption keys and the head-end's own keys are token
//! objects made by the [`ceremony`]; meters' encryption keys, master keys and HLS secrets are
//! wrapped blobs outside and non-extractable session objects inside. Keys that can be known outside
//! are these, and no others, each in zeroized memory:
//!
//! - authentication keys, because they are part of the associated data of DLMS security
//!   (IEC 62056-5-3, 5.3.3.4), which PKCS#11 takes from the host;
//! - dedicated keys, once, because they travel inside an InitiateRequest;
//! - keys agreed for one APDU, once, where the token has no key derivation of DLMS's kind;
//! - HLS secrets of meters with MD5, which no token digests without showing (SoftHSM: SHA only),
//!   and of laboratory meters where their length is one that RFC 3394 does not wrap.
//!
//! The PIN is kept, in zeroized memory, for as long as the token is open: whenever its module is
//! initialised anew, it must be logged in again. What becomes of each failure of a token is in this
//! crate's README.

#![forbid(unsafe_code)]

mod able;
mod agree;
mod block;
pub mod ceremony;
mod certificate;
mod cipher;
mod curve;
mod error;
mod health;
mod key;
mod login;
mod member;
mod module;
mod oaep;
mod pin;
mod pool;
mod probe;
mod request;
mod rewrap;
mod same;
mod secret;
mod sign;
mod stock;
mod token;
mod travel;
mod wrap;

#[cfg(test)]
extern crate self as hsm;
#[cfg(test)]
#[path = "../tests/contract/lab.rs"]
mod lab;

pub use able::{Capabilities, GcmBackend, KeyDerivation};
pub use certificate::CHAIN_MAX;
pub use curve::Curve;
pub use error::Error;
pub use health::{Failure, TokenHealth, TokenState};
pub use key::KeyHandle;
pub use oaep::{OaepHash, TransportKey};
pub use request::Subject;
pub use rewrap::{KekGeneration, Reseal};
pub use secret::{Hash, SecretHandle};
pub use sign::der_signature;
pub use stock::{Comparison, Delivery, Keks, Kept, Marks, Rejected, Sealing};
pub use token::{Role, Token, TokenConfig};
pub use travel::{EphemeralHandle, Travelling, TravellingMaster};
pub use wrap::MasterKeyHandle;
