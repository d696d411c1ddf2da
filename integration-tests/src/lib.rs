//! What the tests of the whole suite share: a stack of real processes, and a meter on a foreign stack.

#![forbid(unsafe_code)]

pub mod caller;
pub mod driver;
pub mod foreign_meter;
pub mod kryoptic;
pub mod line;
pub mod postgres;
pub mod stack;
