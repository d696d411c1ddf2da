//! What tokens do when they fail, and what this crate does about it: SoftHSM behind a shim that fails
//! on command.
//!
//! Each test has tokens of its own: a copy of the token that one ceremony made, behind a module of its
//! own. So all of them run in one process, which also shows that modules do not disturb each other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy.toml knows test functions, not their helpers"
)]

mod epoch;
mod hang;
mod pin;
mod pool;
mod session;
mod site;
