//! DLMS/COSEM as values: octets to APDUs and back, and an association of either role. No socket, no clock, no
//! random number and no key is in here; they come in as inputs, and what is to be done goes out as effects.
//!
//! ```text
//!  A client         link up           ciphered?              AARE          InitiateResponse        HLS?
//!   open()       ┌──────────┐   ┌──────────────────┐   ┌────────────┐   ┌────────────────────┐   ┌─────────┐
//!    Idle ──────▶│Connecting│──▶│ProtectingInitiate│──▶│AwaitingAare│──▶│UnprotectingInitiate│──▶│Answering│ f(StoC)
//!                └────▲─────┘   └──────────────────┘   └─────┬──────┘   └─────────┬──────────┘   └────┬────┘
//!                     │ recover: once more         "not now" │             no HLS │                   ▼ pass 3
//!                ┌────┴────────┐   ┌───────────────┐   ┌─────▼───────────┐   ┌────▼────┐ Opened  ┌─────────┐
//!   Released ◀───│Disconnecting│◀──│AwaitingRelease│◀──│ProtectingRelease│◀──│  Ready  │◀────────│Verifying│ f(CtoS),
//!                └─────────────┘   └───────────────┘   └─────────────────┘   └─┬────▲──┘         └─────────┘ pass 4
//!                   HDLC: DISC           RLRQ                release()         │    │ Answered, NotSent
//!                                                                    request() ▼    │
//!                an exchange, and pass 3:                          Protecting ─▶ Awaiting
//!                                                                       ▲            │
//!                                                                       └────────────┘ a block: the next, out or in
//!
//!  Beside Ready, Protecting and Awaiting an APDU that comes is deciphered: a notification is told whenever it comes, and
//!  confirmed if it wants to be; a replay, a doubled answer and one with another invoke id change nothing.
//!
//!  Every state: what the standard, the proposal or the keys do not allow ──▶ Failed(Cause), which nothing leaves. Over UDP
//!  anybody may have sent it: while an exchange runs it is waited out, and is the cause if nothing better comes.
//!
//!
//!  A meter          ciphered?                AARE                           the objects are asked
//!   AARQ     ┌────────────────────┐   ┌──────────────────┐   ┌────────────┐   ┌─────┐ answer() ┌──────────┐
//!    Idle ──▶│UnprotectingInitiate│──▶│ProtectingInitiate│   │Unprotecting│──▶│Asked│─────────▶│Protecting│
//!     ▲      └────────────────────┘   └───┬───────────┬──┘   └─────▲──────┘   └─────┘          └────┬─────┘
//!     │                            no HLS │           │ HLS        │ a request                      │
//!     │                              ┌────▼───────────┼────────────┴──┐                             │
//!     │◀─────────────────────────────│  Associated,   │     open      │◀────────────────────────────┘
//!     │ ProtectingRelease ◀ RLRQ     └────────────────┼────────────▲──┘
//!     │                                               ▼            │ Opened
//!     └── wrong: denied ◀── Verifying ◀── Associated, pass 3 due   │
//!                               └──▶ Answering ──▶ Protecting ─────┘ pass 4
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
//! # What is spoken
//!
//! - **Links** ([`LinkConfig`]): the wrapper over TCP and over UDP, HDLC. [`fit`] says what size of APDU keeps a command in
//!   one frame of a link.
//! - **Mechanisms** ([`Mechanism`]): none, low, HLS with MD5, SHA-1, GMAC, SHA-256 and ECDSA.
//! - **Protection** ([`Protection`], [`SecurityControl`]): suites 0 to 2; authenticated, encrypted, both; glo, ded,
//!   general-glo, general-ded and general-ciphering with each of its keys; general-signing around any of them.
//!   `Effect::Cipher` carries a [`CipherJob`] for whoever holds the keys (`softcipher` for laboratories). A client offers it
//!   every request, one that is not ciphered too, so that it can refuse a command before anything is sent.
//! - **Services** ([`Command`]): GET, SET and ACTION, of one object or of several, in blocks by themselves where an APDU would
//!   be too long; ACCESS; general block transfer, where it was negotiated; notifications, confirmed where they want to be.
//!
//! A client never sends a command twice: it is answered, or not sent, or the association has failed and what became of it is
//! not known. A meter never executes one twice: in a ciphered association its counter tells, and over UDP without ciphering
//! its octets do.
//!
//! # Refused rather than guessed
//!
//! Short names. The manufacturer's own HLS (mechanism 2). Compressed APDUs, suites above 2, APDUs that are neither
//! authenticated nor encrypted in a ciphered association. An answer with another control octet, another form (but for the
//! two forms of one key), a signature more or less than agreed, another title or our own words in it. Blocks out of order,
//! answers of another service or about another number of objects. What was not negotiated: general blocks, lists, ACCESS, or
//! ACCESS in a service-specific form without general protection. A notification with less protection than its association
//! has. An APDU longer than its receiver takes, where no blocks carry it.
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
