//! DLMS/COSEM as values: octets to APDUs and back, and an association of either role. No socket, no clock, no
//! random number and no key is in here; they come in as inputs, and what is to be done goes out as effects.
//!
//! ```text
//!                 ciphered?               AARE               InitiateResponse          HLS?
//!   open()   ┌──────────────────┐   ┌──────────────┐   ┌──────────────────────┐   ┌───────────┐
//!  Idle ────▶│ProtectingInitiate│──▶│ AwaitingAare │──▶│ UnprotectingInitiate │──▶│ Answering │ f(StoC)
//!            └──────────────────┘   └──────────────┘   └──────────┬───────────┘   └─────┬─────┘
//!                                                         no HLS  │                     ▼ pass 3, an exchange
//!            ┌───────────────┐   ┌──────────────────┐   ┌─────────▼─┐    Opened   ┌───────────┐
//!  Released◀─│AwaitingRelease│◀──│ProtectingRelease │◀──│   Ready   │◀────────────│ Verifying │ f(CtoS), pass 4
//!            └───────────────┘   └──────────────────┘   └──┬─────▲──┘             └───────────┘
//!                          release()           request()   │     │ Answered, NotSent
//!                                                          ▼     │
//!            an exchange:          Protecting ──▶ Awaiting ──▶ Unprotecting
//!                                       ▲             ▲             │ │
//!                                       │             └─────────────┘ │ a replay: wait on
//!                                       └─────────────────────────────┘ a block: fetch the next
//!
//!  Every state: what the standard, the proposal or the keys do not allow ──▶ Failed(Cause), which nothing leaves.
//! ```
//!
//! A client and a meter, with the wire between them as two lines of code:
//!
//! ```
//! use dlms::{Attribute, CipherOp, CipherOutput, Client, ClientAccess, ClientConfig, Command, Data, Mechanism};
//! use dlms::{Meter, MeterConfig, Response, SystemTitle, client, meter};
//!
//! let mut client = Client::new(ClientConfig::default());
//! let public = ClientAccess::plain(16, Mechanism::None, vec![]);
//! let config = MeterConfig::new(SystemTitle::new(*b"LKY00001"), vec![public]);
//! let mut meter = Meter::new(config, vec![]);
//! let counter = Attribute { class_id: 1, name: "0.0.43.1.0.255".parse()?, index: 2 };
//! client.open(0);
//! let answer = loop {
//!     match client.poll() {
//!         Some(client::Effect::Transmit(frame)) => meter.handle_bytes(0, &frame),
//!         Some(client::Effect::Event(client::Event::Opened { .. })) => {
//!             client.request(0, Command::Get { attribute: counter, selection: None })?;
//!         }
//!         Some(client::Effect::Event(client::Event::Answered(response))) => break response,
//!         Some(client::Effect::Event(event)) => panic!("{event:?}"),
//!         // whoever holds the keys sees every command first, even one that is not ciphered: this one allows them all
//!         Some(client::Effect::Cipher(job)) => {
//!             let CipherOp::Protect { apdu, .. } = job.op else { panic!("nothing is ciphered here") };
//!             client.handle_cipher(0, job.id, Ok(CipherOutput::Apdu(apdu, 0)));
//!         }
//!         Some(client::Effect::Timer(_)) | None => {}
//!     }
//!     match meter.poll() {
//!         Some(meter::Effect::Transmit(frame)) => client.handle_bytes(0, &frame),
//!         Some(meter::Effect::Ask(request)) => {
//!             let data = Data::DoubleLongUnsigned(5009);
//!             meter.answer(0, Response::GetData { invoke: request.invoke(), data })?;
//!         }
//!         Some(meter::Effect::Cipher(_) | meter::Effect::Event(_) | meter::Effect::Timer(_)) | None => {}
//!     }
//! };
//! assert!(matches!(answer, Response::GetData { data: Data::DoubleLongUnsigned(5009), .. }));
//! # Ok::<(), dlms::Error>(())
//! ```
//!
//! With ciphering, `Effect::Cipher` carries a [`CipherJob`] for whoever holds the keys. Mechanisms none, low and HLS
//! with GMAC are spoken; suite 0, authenticated and encrypted, as service-specific or general global ciphering.
//! Refused rather than guessed: compact arrays, lists of attributes, long SET and ACTION, dedicated keys, general
//! block transfer, short names.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::wildcard_enum_match_arm,
        reason = "a test may fail by panicking"
    )
)]

extern crate alloc;

pub mod acse;
pub mod agreement;
mod axdr;
mod blocks;
mod cause;
mod cipher;
pub mod client;
mod conformance;
pub mod cosem;
mod data;
mod error;
pub mod fit;
pub mod gbt;
mod general;
pub mod hdlc;
pub mod initiate;
mod link;
mod mechanism;
pub mod meter;
mod obis;
pub mod security;
mod selection;
mod service;
pub mod status;
mod terms;
pub mod wrapper;

pub use cause::{Awaiting, Cause, CauseClass};
pub use cipher::{CipherFailure, CipherJob, CipherOp, CipherOutput, JobId};
pub use client::{Client, ClientConfig, Effect, Event, MAX_ANSWER};
pub use conformance::Conformance;
pub use data::{CompactArray, Data, MAX_DEPTH, MAX_ELEMENTS, SimpleType, TypeDescription};
pub use error::Error;
pub use gbt::GeneralBlock;
pub use link::LinkConfig;
pub use mechanism::{ApplicationContext, CHALLENGE_MAX, CHALLENGE_MIN, HlsInput, Mechanism, Piece};
pub use meter::{ClientAccess, Meter, MeterConfig};
pub use obis::Obis;
pub use security::{
    Ciphered, GmacToken, KeyChoice, Protection, SecurityControl, Suite, SystemTitle,
};
pub use selection::Selection;
pub use service::{
    Access, AccessOutcome, AccessSpecification, Accessed, ActionOutcome, Attribute, Command,
    Confirmation, Exception, InvokeId, LongInvokeId, Method, Notification, Request, Response,
};
pub use status::{ActionResult, DataAccessResult, Retry};
pub use wrapper::{Frame, Reassembler};
