//! Against a real SoftHSM. It must be installed: nothing is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy.toml knows test functions, not their helpers"
)]

mod agree;
mod ceremony;
mod certificate;
mod cipher;
mod failure;
mod key;
mod lab;
mod secret;
mod stock;
