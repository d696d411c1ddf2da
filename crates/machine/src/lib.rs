//! The reset as a value: `(State, Input) → (State, marks, effect)`.
//!
//! Nothing here reads a clock, opens a socket or draws a random number: time and a seed come in, what is to be done
//! goes out. The driver writes the new state and its [`Mark`]s in one transaction, then performs the one [`Effect`],
//! and feeds what came of it back as an [`Input`].
//!
//! ```text
//!               Survey ─▶ Authorise ─▶ Guard ──────▶ ACTING ──answered ok──▶ Poll ─▶ Read ─▶ RECORDING ─▶ DONE
//!                 ▲          (Preparing)  │            │  │                  (Following)  ▲      ▲
//!                 │                       └─ refused ──│──│───────────────────────────────│──────┤
//!                 │  not sent, refused for now         │  └ answer lost ─▶ Counter ─▶ Probe ─────┘
//!                 └──────────────────────── or proven not accepted ──────────────────────┘
//! ```
//!
//! Left of ACTING everything can be dropped and done again. ACTING is the pivot: it is entered only by a row that is
//! already durable, and left only by an answer, by proof that nothing was sent, or into finding out. Right of it the
//! machine only reads. A second command needs proof that the first was not accepted, a new permit, and an attempt left.
//!
//! ```
//! use machine::{Effect, Input, Millis, Reset, Rules, Survey};
//!
//! let rules = Rules::example();
//! let (reset, _marks, effect) = Reset::begin(rules, Millis(1_000)).into_parts();
//! assert_eq!(effect, Some(Effect::Survey));
//! let step = reset.step(Millis(2_000), Input::Surveyed(Survey { events: Some(40), load_profile: Some(96) }));
//! assert_eq!(step.effect, Some(Effect::Authorise { number: 1 }));
//! ```

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

extern crate alloc;

mod acting;
mod compare;
mod evidence;
mod following;
mod guard;
mod mark;
mod outcome;
mod pace;
mod preparing;
mod reset;
mod rules;
mod snapshot;

pub use crate::{
    evidence::{Acceptance, Changes},
    mark::{Event, Kind, Mark, Moment, Record},
    outcome::{Outcome, Verdict},
    reset::{Act, Effect, Input, Party, Phase, Reset, Session, Step, Survey, Warrant},
    rules::{Expect, Limits, Millis, Rules, Tier},
    snapshot::{Clock, EventLog, Firmware, LoadProfile, LoggedEvent, Relay, Snapshot},
};
