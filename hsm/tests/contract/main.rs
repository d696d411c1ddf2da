//! One contract, two software tokens: SoftHSM and Kryoptic. Both must be there: nothing is skipped.
//!
//! What is not alike is said at the scenario: `on Softhsm:` or `on Kryoptic:`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy.toml knows test functions, not their helpers"
)]

mod able;
mod agree;
mod backup;
mod ceremony;
mod certificate;
mod cipher;
mod failure;
mod key;
mod lab;
mod secret;
mod stock;
mod transport;
mod travel;
