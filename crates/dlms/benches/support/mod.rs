//! Both roles of this crate, and of the peer, with the same keys, objects and commands.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may fail by panicking"
)]
#![allow(dead_code, reason = "each benchmark uses its part of it")]

pub(crate) mod ours;
pub(crate) mod theirs;

pub(crate) const CLIENT: [u8; 8] = *b"LKHcli01";
pub(crate) const METER: [u8; 8] = *b"LKMmet01";
pub(crate) const EK: [u8; 16] = [7; 16];
pub(crate) const AK: [u8; 16] = [9; 16];
pub(crate) const CLOCK: [u8; 6] = [0, 0, 1, 0, 0, 255];
pub(crate) const SCRIPT: [u8; 6] = [0, 0, 10, 1, 0, 255];
/// What the object that is read has.
pub(crate) const VALUE: u32 = 5009;
