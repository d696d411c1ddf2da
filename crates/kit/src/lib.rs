//! The one shared edge of the services: everything a service needs that is not its own logic.
//!
//! A service is `serve(config, listener, shutdown)`; [`run`] wraps it into a process. Listener, clock and
//! clients are passed in, so the same `serve` runs under systemd, on port 0 in a test, and inside
//! `latchkey dev`.
//!
//! ```text
//!  run ── config ── Listener ── serve ── Server (TLS 1.3, peer name, allow-list, deadline, request id,
//!   │                                     │        trace context, metrics, health, reflection)
//!   └ Shutdown                            └ handlers ── Channel ── next service (the same, outgoing)
//! ```

#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod clock;
pub mod config;
pub mod context;
pub mod permit;
pub mod sql;
pub mod status;
pub mod tls;

mod crash;
mod edge;
mod job;
mod memory;
mod peer;
mod replicas;
mod run;
mod server;
mod shutdown;
mod start_error;
mod task;
mod telemetry;
mod trail;

pub use crate::{
    client::Channel,
    crash::crash_point,
    job::{Origin, run_job},
    peer::{PeerName, PeerNameError, peer},
    replicas::{Replica, Replicas},
    run::{ServiceConfig, run},
    server::{Health, Listener, Server},
    shutdown::{Shutdown, ShutdownTrigger, shutdown},
    start_error::StartError,
    task::Tasks,
    telemetry::Telemetry,
    trail::Trail,
};
