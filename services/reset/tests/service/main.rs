//! The reset service over real sockets and certificates, between an auditor and an association service that lose
//! answers, say no, and go away on command.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod access;
mod auditor;
mod bed;
mod directory;
mod faults;
mod meter;
mod resets;
mod rotations;
