//! Both roles of this crate, and of the peer, with the same keys, objects and commands.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may fail by panicking"
)]

pub mod ours;
pub mod theirs;

pub const CLIENT: [u8; 8] = *b"LKHcli01";
pub const METER: [u8; 8] = *b"LKMmet01";
pub const EK: [u8; 16] = [7; 16];
pub const AK: [u8; 16] = [9; 16];
pub const CLOCK: [u8; 6] = [0, 0, 1, 0, 0, 255];
pub const SCRIPT: [u8; 6] = [0, 0, 10, 1, 0, 255];
/// What the object that is read has.
pub const VALUE: u32 = 5009;
