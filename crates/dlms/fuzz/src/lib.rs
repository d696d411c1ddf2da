//! What the fuzz targets do with their input. The tests of `dlms` replay the corpora through this same code.
#![allow(
    unreachable_pub,
    reason = "it is a library for the targets and a module for the tests"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a promise that is broken ends in a panic: that is what a fuzzer looks for"
)]

pub mod client;
pub mod decode;
pub mod hdlc;
pub mod input;
pub mod memory;
pub mod meter;
mod objects;
mod table;

pub use table::Reached;
