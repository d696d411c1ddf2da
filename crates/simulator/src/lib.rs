//! Simulated DLMS meters, a product of its own: hardware that resets, COSEM objects that tell, and faults on command.
//!
//! ```text
//!       wrapper (TCP, UDP), HDLC             what a client may see         what really happens
//!  client ──▶ server ──▶ dlms::Meter ──Ask──▶ objects (GET SET ACTION) ──▶ Device ──▶ physics (boards, relay, LED)
//!               ▲            │ Cipher                                        │   └──▶ logs (events, load profile, 128 KiB ring)
//!               │            ▼                                               └──────▶ faults, state file
//!               └─────── softcipher (lab keys, counters)          events: one JSON object each, to the laboratory
//! ```
//! A meter is two boards (metrology and communication), a latching relay that only an explicit command moves, NVRAM
//! that survives a reset and RAM that does not. While its communication board boots, nothing listens on its port.
//!
//! The keys are laboratory keys in a file: nothing here belongs on a real network.

#![forbid(unsafe_code)]

mod cipher;
mod device;
mod error;
mod event;
mod fault;
mod fleet;
mod lab;
mod logs;
mod nvram;
mod objects;
mod options;
mod physics;
mod rtc;
mod server;

pub use crate::{
    error::Error,
    event::{Event, Happening},
    fault::{FAULTS, Fault, FaultEntry, FaultKind},
    fleet::{Fleet, fleet_addresses},
    lab::LabKeys,
    options::{Auth, Form, MeterOptions, Notify, Policy, Profile, Services, Transport},
    server::{MeterServer, run_meter},
};
