//! The machine against a meter, a network and services that fail on command.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "the world is part of the test: a broken expectation is a failure"
)]

mod properties;
mod rows;
mod scenarios;
mod world;
