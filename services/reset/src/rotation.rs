//! Rotations of keys as jobs: asked for once, carried on until the meter has proven which keys it has.
//!
//! ```text
//!            permit, attempt            new keys proven
//!   PENDING ────────────────▶ ROTATING ────────────────▶ DONE
//!      ▲                       │    │                     ▲
//!      └── old keys proven ────┘    │ nothing proven      │ refused, or as often as is configured
//!                                   ▼                     │
//!                               UNSETTLED ── back-off ──▶ ROTATING
//! ```
//!
//! An attempt is recorded before it begins, so a crash is one more attempt. What it comes to custody says: the meter's
//! proof, or that there is none. While there is none the job does not end: it looks again, each time with a fresh permit,
//! more and more seldom, until the meter proves something or a person helps it to.

mod clerk;

use dlms::Data;
use kit::clock;
use latchkey_proto::{
    audit::v1::{Command, CommandService},
    custody::v1::KeyKind,
    reset::v1::{KeyRotation, KeyRotationState, RotateKeysRequest, RotationVerdict},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

pub(crate) use self::clerk::Clerk;
use crate::{error::Error, office};

/// Longest detail.
const DETAIL_MAX: usize = 1024;
/// The security setup of the management association.
const SETUP: &str = "0.0.43.0.0.255";
/// How often an attempt may have a command ciphered: confirm, send, confirm again.
const USES: u32 = 4;
/// The master key.
const MASTER: u8 = 1 << 3;

/// What was asked for, and by whom. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) rotation_id: String,
    pub(crate) request_id: String,
    /// SHA-256 of the request and its caller.
    pub(crate) request_digest: Vec<u8>,
    pub(crate) meter_id: String,
    /// Bit n: the key with id n in a security setup.
    pub(crate) key_bits: u8,
    pub(crate) agree: bool,
    pub(crate) reason: String,
    pub(crate) ticket: String,
    pub(crate) principal: String,
}

/// A rotation as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rotation {
    pub(crate) asked: Asked,
    pub(crate) state: State,
    /// The old keys are in force, as far as is known: nothing was sent, or the meter has proven them since.
    pub(crate) settled: bool,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) detail: String,
    pub(crate) attempts: u32,
    /// When it goes on.
    pub(crate) next_us: i64,
    pub(crate) version: i64,
    pub(crate) create_us: i64,
    pub(crate) update_us: i64,
}

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It goes on at its time; the old keys are in force.
    Pending,
    /// An attempt is under way.
    Rotating,
    /// It goes on at its time; nobody knows which keys are in force.
    Unsettled,
    /// It is over.
    Done,
}

impl State {
    const ALL: [Self; 4] = [Self::Pending, Self::Rotating, Self::Unsettled, Self::Done];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Rotating => "ROTATING",
            Self::Unsettled => "UNSETTLED",
            Self::Done => "DONE",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// How a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Rotated,
    KeptOld,
    Unreachable,
    Refused,
}

impl Verdict {
    const ALL: [Self; 4] = [
        Self::Rotated,
        Self::KeptOld,
        Self::Unreachable,
        Self::Refused,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rotated => "ROTATED",
            Self::KeptOld => "KEPT_OLD",
            Self::Unreachable => "UNREACHABLE",
            Self::Refused => "REFUSED",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// As of resets: docs/cli.md.
    pub(crate) const fn exit_code(self) -> u32 {
        match self {
            Self::Rotated => 0,
            Self::Refused => 1,
            Self::Unreachable => 2,
            Self::KeptOld => 4,
        }
    }
}

impl Asked {
    /// From a request; all faults at once.
    pub(crate) fn parse(request: &RotateKeysRequest, principal: &str) -> Result<Self, Error> {
        let mut wrong = Vec::new();
        let mut note = |field: &str, found: Result<(), String>| {
            wrong.extend(found.err().map(|why| (field.to_owned(), why)));
        };
        note("request_id", kit::check::uuid(&request.request_id));
        note("meter_id", kit::check::meter_id(&request.meter_id));
        note("reason", kit::check::text(&request.reason, 1, 256));
        note("ticket", kit::check::text(&request.ticket, 0, 64));
        let bits = bits(&request.keys);
        note("keys", bits.clone().map(drop));
        if request.agree && bits.as_ref().is_ok_and(|bits| *bits != MASTER) {
            note("agree", Err("is for the master key alone".to_owned()));
        }
        match bits {
            Ok(key_bits) if wrong.is_empty() => Ok(Self {
                rotation_id: kit::context::new_id(),
                request_id: request.request_id.clone(),
                request_digest: digest(request, principal),
                meter_id: request.meter_id.clone(),
                key_bits,
                agree: request.agree,
                reason: request.reason.clone(),
                ticket: request.ticket.clone(),
                principal: principal.to_owned(),
            }),
            _ => Err(Error::Invalid(wrong)),
        }
    }

    /// What its permits are for: the rotation and its keys, and not one octet of them.
    pub(crate) fn commands(&self) -> Vec<Command> {
        let id = uuid::Uuid::try_parse(&self.rotation_id).unwrap_or_default();
        let keys = (0..4_u8).filter(|key| self.key_bits & (1 << key) != 0);
        let parameter = Data::Structure(vec![
            Data::OctetString(id.as_bytes().to_vec()),
            Data::Array(keys.map(Data::Enum).collect()),
        ])
        .encode();
        let methods: &[i32] = if self.agree { &[3, 2] } else { &[2] };
        let command = |index: &i32| Command {
            service: CommandService::Action.into(),
            class_id: 64,
            logical_name: SETUP.to_owned(),
            index: *index,
            parameter: parameter.clone(),
            selection: Vec::new(),
            max_uses: USES,
        };
        methods.iter().map(command).collect()
    }

    fn keys(&self) -> Vec<i32> {
        (0..4_i32)
            .filter(|key| self.key_bits & (1 << key) != 0)
            .map(|key| key + 1)
            .collect()
    }
}

impl Rotation {
    /// One that nobody has begun.
    pub(crate) fn new(asked: Asked) -> Self {
        let now = clock::micros(clock::now());
        Self {
            asked,
            state: State::Pending,
            settled: true,
            verdict: None,
            detail: "not begun".to_owned(),
            attempts: 0,
            next_us: now,
            version: 0,
            create_us: now,
            update_us: now,
        }
    }

    pub(crate) fn tell(&mut self, detail: &str) {
        self.detail = office::limited(detail, DETAIL_MAX);
    }

    /// As callers see it.
    pub(crate) fn message(&self) -> KeyRotation {
        let time = |micros| Some(clock::timestamp(clock::from_micros(micros)));
        let waits = matches!(self.state, State::Pending | State::Unsettled);
        KeyRotation {
            rotation_id: self.asked.rotation_id.clone(),
            meter_id: self.asked.meter_id.clone(),
            keys: self.asked.keys(),
            agree: self.asked.agree,
            reason: self.asked.reason.clone(),
            ticket: self.asked.ticket.clone(),
            principal: self.asked.principal.clone(),
            state: match self.state {
                State::Pending => KeyRotationState::Pending,
                State::Rotating => KeyRotationState::Rotating,
                State::Unsettled => KeyRotationState::Unsettled,
                State::Done => KeyRotationState::Done,
            }
            .into(),
            verdict: match self.verdict {
                None => RotationVerdict::Unspecified,
                Some(Verdict::Rotated) => RotationVerdict::Rotated,
                Some(Verdict::KeptOld) => RotationVerdict::KeptOld,
                Some(Verdict::Unreachable) => RotationVerdict::Unreachable,
                Some(Verdict::Refused) => RotationVerdict::Refused,
            }
            .into(),
            detail: self.detail.clone(),
            exit_code: self.verdict.map_or(0, Verdict::exit_code),
            attempts: self.attempts,
            next_time: if waits { time(self.next_us) } else { None },
            create_time: time(self.create_us),
            update_time: time(self.update_us),
        }
    }
}

/// Bit n: the key with id n; 1..3 keys, each once, the master key alone.
fn bits(kinds: &[i32]) -> Result<u8, String> {
    let mut bits = 0_u8;
    for kind in kinds {
        let bit = match KeyKind::try_from(*kind) {
            Ok(KeyKind::GlobalUnicastEncryption) => 1,
            Ok(KeyKind::GlobalBroadcastEncryption) => 1 << 1,
            Ok(KeyKind::GlobalAuthentication) => 1 << 2,
            Ok(KeyKind::Master) => MASTER,
            Ok(KeyKind::Unspecified) | Err(_) => return Err("has one that is not known".to_owned()),
        };
        if bits & bit != 0 {
            return Err("names one twice".to_owned());
        }
        bits |= bit;
    }
    match bits {
        0 => Err("is required".to_owned()),
        bits if bits & MASTER != 0 && bits != MASTER => {
            Err("has others beside the master key, which changes alone".to_owned())
        }
        bits => Ok(bits),
    }
}

/// The body of a request, whatever its id, and who sent it.
fn digest(request: &RotateKeysRequest, principal: &str) -> Vec<u8> {
    let body = RotateKeysRequest {
        request_id: String::new(),
        ..request.clone()
    };
    let digest = Sha256::new()
        .chain_update(principal.as_bytes())
        .chain_update(b"\n")
        .chain_update(body.encode_to_vec());
    digest.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(keys: &[KeyKind], agree: bool) -> RotateKeysRequest {
        RotateKeysRequest {
            request_id: "0190b6a0-0000-7000-8000-000000000001".to_owned(),
            meter_id: "m-1".to_owned(),
            keys: keys.iter().map(|key| (*key).into()).collect(),
            agree,
            reason: "due".to_owned(),
            ticket: String::new(),
        }
    }

    #[test]
    fn keys_change_together_but_for_the_master_key() {
        use KeyKind::{
            GlobalAuthentication as Gak, GlobalBroadcastEncryption as Gbek,
            GlobalUnicastEncryption as Guek, Master,
        };
        let parse = |keys: &[KeyKind], agree| Asked::parse(&request(keys, agree), "p");
        assert_eq!(parse(&[Gak, Guek], false).unwrap().key_bits, 0b101);
        assert_eq!(parse(&[Gbek], false).unwrap().keys(), [2]);
        assert_eq!(parse(&[Master], true).unwrap().key_bits, MASTER);
        for (keys, agree) in [
            (&[][..], false),
            (&[KeyKind::Unspecified], false),
            (&[Guek, Guek], false),
            (&[Guek, Master], false),
            (&[Guek], true),
        ] {
            assert!(parse(keys, agree).is_err(), "{keys:?} {agree}");
        }
    }

    #[test]
    fn a_permit_is_asked_for_the_rotation_and_no_key() {
        let asked = Asked::parse(&request(&[KeyKind::Master], true), "p").unwrap();
        let commands = asked.commands();
        let methods: Vec<_> = commands.iter().map(|command| command.index).collect();
        assert_eq!(methods, [3, 2]);
        let id = uuid::Uuid::parse_str(&asked.rotation_id).unwrap();
        let expected = [&[2, 2, 9, 16], &id.as_bytes()[..], &[1, 1, 22, 3]].concat();
        assert!(commands.iter().all(|command| command.parameter == expected));
    }
}
