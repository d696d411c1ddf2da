//! The gRPC services: parse, authorise, call, render.

pub(crate) mod association;
pub(crate) mod meter;
