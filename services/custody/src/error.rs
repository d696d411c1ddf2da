//! What can go wrong in custody, and what to do about it.

use std::time::Duration;

use kit::status::Fault;
use tonic::Code;

use crate::certificate::Fault as CertificateFault;

/// Why custody did not do what it was asked. No variant holds a key, a password or a clear APDU.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request are wrong.
    #[error("the request is not valid: {}", list(.0))]
    Request(Vec<(String, String)>),
    /// Custody holds nothing for the meter.
    #[error("custody holds no keys for meter {meter}")]
    KeysUnknown {
        /// The meter.
        meter: String,
    },
    /// The meter has keys already, and they are others.
    #[error("meter {meter} has other keys already")]
    KeysExist {
        /// The meter.
        meter: String,
    },
    /// Somebody changed the meter's row since it was read.
    #[error("the keys of meter {meter} were changed meanwhile")]
    KeysChanged {
        /// The meter.
        meter: String,
    },
    /// Somebody else may have the meter's keys.
    #[error("the keys of meter {meter} are marked compromised")]
    KeysCompromised {
        /// The meter.
        meter: String,
    },
    /// The meter's keys were destroyed.
    #[error("the keys of meter {meter} were destroyed")]
    KeysDestroyed {
        /// The meter.
        meter: String,
    },
    /// As many bulk imports as there may be are under way.
    #[error("another bulk import is under way")]
    ImportsBusy,
    /// The encryption key is, or was, in another place.
    #[error(
        "the encryption key that came for meter {meter} is, or was, another meter's, or an earlier one of this meter"
    )]
    KeyInUse {
        /// The meter it came for.
        meter: String,
    },
    /// Keys in clear are refused by configuration.
    #[error("custody does not import keys in clear")]
    LabImportOff,
    /// A wrapped key does not unwrap.
    #[error("the {which} does not unwrap under the transport key")]
    WrappedKeyInvalid {
        /// Which field.
        which: &'static str,
    },
    /// A stored key does not fit the row it is in.
    #[error(
        "the stored keys of meter {meter} do not belong to its row: the database was changed by another hand"
    )]
    KeyRowChanged {
        /// The meter.
        meter: String,
    },
    /// All invocation counters are spent.
    #[error("the invocation counters of meter {meter} are spent")]
    CountersExhausted {
        /// The meter.
        meter: String,
    },
    /// Hints would raise the counters too far.
    #[error(
        "the meter shows invocation counter {shown}, {by} above ours: hints may raise it by {left} more today"
    )]
    CounterJump {
        /// What it shows.
        shown: u32,
        /// How far above ours.
        by: u32,
        /// By how much hints may raise it yet.
        left: u32,
    },
    /// The database went back.
    #[error(
        "the database gives out invocation counters that were used before: it was restored, or it failed over"
    )]
    CountersUnsure,
    /// The counter state file cannot be written.
    #[error("what was reserved cannot be remembered outside the database")]
    CountersNotKept,
    /// A rotation of the meter's keys is not settled.
    #[error("which keys meter {meter} has is not known: rotation {rotation} is not settled")]
    KeysUnsettled {
        /// The meter.
        meter: String,
        /// The rotation.
        rotation: String,
    },
    /// Another rotation must end first.
    #[error("meter {meter} has another rotation under way: {rotation}")]
    RotationUnderWay {
        /// The meter.
        meter: String,
        /// The other.
        rotation: String,
    },
    /// The meter has not what the rotation needs.
    #[error("these keys cannot be changed so: {why}")]
    RotationImpossible {
        /// What is missing.
        why: &'static str,
    },
    /// There is no such rotation.
    #[error("the rotation is unknown, or has not begun here")]
    RotationUnknown,
    /// It is over.
    #[error("the rotation is over")]
    RotationOver,
    /// Too many contexts were opened without a proof.
    #[error(
        "{max} associations were opened for the rotation in 24 hours, and the meter has proven nothing"
    )]
    RotationOpeningsSpent {
        /// How many are allowed.
        max: u32,
    },
    /// The meter's answer to a key agreement is not what it must be.
    #[error("the meter's answer to the key agreement is refused: {why}")]
    RotationAnswer {
        /// Why.
        why: &'static str,
    },
    /// The permit does not hold.
    #[error("the permit is refused: {why}")]
    PermitRefused {
        /// Why, without any of its contents.
        why: String,
    },
    /// Its signature is not the auditor's.
    #[error("the permit is not signed by the auditor: {why}")]
    PermitSignature {
        /// Which check failed.
        why: String,
    },
    /// It has expired.
    #[error("the permit has expired")]
    PermitExpired,
    /// It is not valid yet.
    #[error("the permit is not valid yet")]
    PermitNotYet,
    /// It is for another meter.
    #[error("the permit is not for meter {meter}")]
    PermitOtherMeter {
        /// The meter that was asked for.
        meter: String,
    },
    /// Its associations are spent.
    #[error("the permit allows {max} associations, and they have been opened")]
    PermitAssociationsSpent {
        /// How many it allows.
        max: u32,
    },
    /// The command was ciphered as often as the permit allows.
    #[error(
        "the permit lets this command be ciphered {max} times, and it has been; it will never be ciphered again"
    )]
    CommandSpent {
        /// How often it allows.
        max: u32,
    },
    /// The permit does not cover the APDU.
    #[error("the permit does not cover this APDU: {why}")]
    ApduNotPermitted {
        /// What does not fit, without any of its contents.
        why: &'static str,
    },
    /// No permit could cover the APDU.
    #[error("custody never ciphers this APDU: {why}")]
    ApduForbidden {
        /// Which rule.
        why: &'static str,
    },
    /// The mechanism or protection does not go with the meter.
    #[error("this association is refused: {why}")]
    AssociationRefused {
        /// Why.
        why: &'static str,
    },
    /// There is no such context, or it belongs to another peer.
    #[error("the cipher context is unknown or has ended")]
    ContextUnknown,
    /// A later context of the same meter has ended this one.
    #[error("a later association with the meter has ended this cipher context")]
    ContextFenced,
    /// The step does not come at this point of an association.
    #[error("not at this point of the association: {why}")]
    OutOfOrder {
        /// What is expected.
        why: &'static str,
    },
    /// A response is not what the meter was asked for, or not as it was agreed.
    #[error("the response is refused: {why}")]
    ResponseRefused {
        /// Why.
        why: &'static str,
    },
    /// A response is not authentic, or old.
    #[error("the response is not authentic: {why}")]
    CiphertextInvalid {
        /// Which check failed.
        why: &'static str,
    },
    /// The meter's challenge is not one to answer.
    #[error("the meter's challenge is refused: {why}")]
    ChallengeRefused {
        /// Why.
        why: &'static str,
    },
    /// The meter's challenge happens to begin like a request.
    #[error("the meter's challenge could be read as a request, so its tag would authenticate one")]
    ChallengeAmbiguous,
    /// The meter did not prove that it holds the keys.
    #[error("the meter's answer to the challenge is wrong")]
    AnswerWrong,
    /// The token has no such generation of key-encryption keys, or not all of them.
    #[error("the token has no whole generation {generation} of key-encryption keys")]
    GenerationUnknown {
        /// The generation.
        generation: u32,
    },
    /// A re-wrap is at work in this replica.
    #[error("this custody is at a re-wrap already")]
    RewrapRunning,
    /// A re-wrap cannot be done.
    #[error("no key can come under other key-encryption keys: {why}")]
    RewrapRefused {
        /// What is missing.
        why: String,
    },
    /// A certificate is not believed.
    #[error("the certificate {what} is refused: {fault}")]
    CertificateRefused {
        /// Whose it is.
        what: String,
        /// Why.
        fault: CertificateFault,
    },
    /// There is no such certificate.
    #[error("custody holds no certificate with SHA-256 {fingerprint}")]
    CertificateUnknown {
        /// The SHA-256 that was asked for.
        fingerprint: String,
    },
    /// A later revocation list of the authority is there.
    #[error("a later revocation list of {name} is there already")]
    RevocationsOlder {
        /// The authority.
        name: String,
    },
    /// The token has not the key that this needs.
    #[error("this cannot be had with the token as it is: {why}")]
    TokenLacks {
        /// Which key is not there, or not used.
        why: String,
    },
    /// The token did not do it.
    #[error("the token failed")]
    Token(#[source] hsm::Error),
    /// The database did not do it.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// A row holds what custody never wrote.
    #[error("column {column} holds a value that custody never writes")]
    RowInvalid {
        /// The column.
        column: &'static str,
    },
}

impl Error {
    /// Whether a key was stale: its token failed, or was opened anew. What was to be done can be done again from the
    /// unwrapping of the key.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Self::Token(hsm::Error::StaleKey))
    }
}

impl From<hsm::Error> for Error {
    fn from(error: hsm::Error) -> Self {
        match error {
            hsm::Error::KeyNotFound { .. }
            | hsm::Error::KeyOff { .. }
            | hsm::Error::Certificate { .. } => Self::TokenLacks {
                why: error.to_string(),
            },
            other => Self::Token(other),
        }
    }
}

fn list(violations: &[(String, String)]) -> String {
    let texts: Vec<_> = violations
        .iter()
        .map(|(field, why)| format!("{field} {why}"))
        .collect();
    texts.join("; ")
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Request(_) | Self::WrappedKeyInvalid { .. } => Code::InvalidArgument,
            Self::CertificateUnknown { .. }
            | Self::KeysUnknown { .. }
            | Self::ContextUnknown
            | Self::ContextFenced
            | Self::RotationUnknown => Code::NotFound,
            Self::KeysExist { .. } | Self::KeyInUse { .. } => Code::AlreadyExists,
            Self::KeysChanged { .. } => Code::Aborted,
            Self::ImportsBusy => Code::ResourceExhausted,
            Self::LabImportOff
            | Self::KeysCompromised { .. }
            | Self::KeysDestroyed { .. }
            | Self::CountersExhausted { .. }
            | Self::CounterJump { .. }
            | Self::AssociationRefused { .. }
            | Self::KeysUnsettled { .. }
            | Self::RotationUnderWay { .. }
            | Self::RotationImpossible { .. }
            | Self::RotationOver
            | Self::RotationOpeningsSpent { .. }
            | Self::TokenLacks { .. }
            | Self::CertificateRefused { .. }
            | Self::RevocationsOlder { .. }
            | Self::GenerationUnknown { .. }
            | Self::RewrapRefused { .. }
            | Self::RewrapRunning
            | Self::OutOfOrder { .. } => Code::FailedPrecondition,
            Self::PermitRefused { .. }
            | Self::PermitSignature { .. }
            | Self::PermitExpired
            | Self::PermitNotYet
            | Self::PermitOtherMeter { .. }
            | Self::PermitAssociationsSpent { .. }
            | Self::CommandSpent { .. }
            | Self::ApduNotPermitted { .. }
            | Self::ApduForbidden { .. } => Code::PermissionDenied,
            Self::ResponseRefused { .. }
            | Self::RotationAnswer { .. }
            | Self::CiphertextInvalid { .. }
            | Self::KeyRowChanged { .. } => Code::DataLoss,
            Self::ChallengeRefused { .. } | Self::AnswerWrong => Code::Unauthenticated,
            Self::Token(error) => token_code(error),
            Self::Database(_)
            | Self::ChallengeAmbiguous
            | Self::CountersUnsure
            | Self::CountersNotKept => Code::Unavailable,
            Self::RowInvalid { .. } => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "REQUEST_INVALID",
            Self::KeysUnknown { .. } => "KEYS_UNKNOWN",
            Self::KeysExist { .. } => "KEYS_EXIST",
            Self::KeyInUse { .. } => "KEY_IN_USE",
            Self::KeysChanged { .. } => "KEYS_CHANGED",
            Self::KeysCompromised { .. } => "KEYS_COMPROMISED",
            Self::KeysDestroyed { .. } => "KEYS_DESTROYED",
            Self::ImportsBusy => "IMPORTS_BUSY",
            Self::LabImportOff => "LAB_IMPORT_OFF",
            Self::WrappedKeyInvalid { .. } => "WRAPPED_KEY_INVALID",
            Self::KeyRowChanged { .. } => "KEY_ROW_CHANGED",
            Self::CountersExhausted { .. } => "INVOCATION_COUNTER_EXHAUSTED",
            Self::CounterJump { .. } => "COUNTER_JUMP",
            Self::CountersUnsure => "INVOCATION_COUNTERS_UNSURE",
            Self::CountersNotKept => "COUNTER_STATE_NOT_WRITTEN",
            Self::KeysUnsettled { .. } => "KEYS_UNSETTLED",
            Self::RotationUnderWay { .. } => "ROTATION_UNDER_WAY",
            Self::RotationImpossible { .. } => "ROTATION_IMPOSSIBLE",
            Self::RotationUnknown => "ROTATION_UNKNOWN",
            Self::RotationOver => "ROTATION_OVER",
            Self::RotationOpeningsSpent { .. } => "ROTATION_OPENINGS_SPENT",
            Self::RotationAnswer { .. } => "ROTATION_ANSWER_INVALID",
            Self::PermitRefused { .. } => "PERMIT_INVALID",
            Self::PermitSignature { .. } => "PERMIT_SIGNATURE_INVALID",
            Self::PermitExpired => "PERMIT_EXPIRED",
            Self::PermitNotYet => "PERMIT_NOT_YET_VALID",
            Self::PermitOtherMeter { .. } => "PERMIT_OTHER_METER",
            Self::PermitAssociationsSpent { .. } => "PERMIT_ASSOCIATIONS_SPENT",
            Self::CommandSpent { .. } => "PERMIT_USES_SPENT",
            Self::ApduNotPermitted { .. } => "APDU_NOT_PERMITTED",
            Self::ApduForbidden { .. } => "APDU_FORBIDDEN",
            Self::AssociationRefused { .. } => "ASSOCIATION_REFUSED",
            Self::ContextUnknown => "CONTEXT_UNKNOWN",
            Self::ContextFenced => "CONTEXT_FENCED",
            Self::OutOfOrder { .. } => "OUT_OF_ORDER",
            Self::ResponseRefused { .. } => "RESPONSE_REFUSED",
            Self::CiphertextInvalid { .. } => "CIPHERTEXT_INVALID",
            Self::ChallengeRefused { .. } => "CHALLENGE_REFUSED",
            Self::ChallengeAmbiguous => "CHALLENGE_AMBIGUOUS",
            Self::AnswerWrong => "HLS_ANSWER_WRONG",
            Self::CertificateRefused { fault, .. } => fault.reason(),
            Self::CertificateUnknown { .. } => "CERTIFICATE_UNKNOWN",
            Self::RevocationsOlder { .. } => "REVOCATION_LIST_OLDER",
            Self::TokenLacks { .. } => "TOKEN_KEY_MISSING",
            Self::GenerationUnknown { .. } => "KEK_GENERATION_UNKNOWN",
            Self::RewrapRefused { .. } => "REWRAP_REFUSED",
            Self::RewrapRunning => "REWRAP_RUNNING",
            Self::Token(_) => "TOKEN_FAILED",
            Self::Database(_) => "DATABASE_UNAVAILABLE",
            Self::RowInvalid { .. } => "ROW_INVALID",
        }
    }

    fn mend(&self) -> Option<String> {
        Some(mend(self)?.to_owned())
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self.code(), Code::Unavailable | Code::ResourceExhausted)
            .then_some(Duration::from_secs(1))
    }

    fn violations(&self) -> Vec<(String, String)> {
        match self {
            Self::Request(violations) => violations.clone(),
            _ => Vec::new(),
        }
    }
}

#[allow(clippy::too_many_lines, reason = "a table: one line for each error")]
fn mend(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Request(_) => "correct the fields named",
        Error::GenerationUnknown { .. } | Error::RewrapRunning | Error::RewrapRefused { .. } => {
            mend_generations(error)
        }
        Error::CertificateRefused { .. } => {
            "have the certificate or its authority renewed and imported; see docs/runbooks/certificate-expiry.md"
        }
        Error::CertificateUnknown { .. } => "list the certificates",
        Error::RevocationsOlder { .. } => "fetch the authority's present list",
        Error::TokenLacks { .. } => {
            "hold a ceremony with a plan that lists the key, on a token that can use it"
        }
        Error::Token(_) => "check that the token is there and its module works, then try again",
        Error::Database(_) => "check the database, then try again",
        Error::RowInvalid { .. } => return None,
        other => return mend_keys(other).or_else(|| mend_contexts(other)),
    })
}

/// What is about the keys that are stored.
fn mend_keys(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::KeysUnknown { .. } => "generate or import the meter's keys first",
        Error::KeysExist { .. } => "check the meter id; keys that are in use are never overwritten",
        Error::KeyInUse { .. } => {
            "check the meter id, or have another key made; under two ids, or anew, one key would repeat its nonces"
        }
        Error::KeysChanged { .. } => "look at the keys again, then decide again",
        Error::KeysCompromised { .. } => {
            "give the meter new keys: over the air, or on site and then destroy and import"
        }
        Error::KeysDestroyed { .. } => "import or generate other keys for the meter",
        Error::ImportsBusy => "wait for its end, then try again",
        Error::LabImportOff => {
            "use wrapped keys; for laboratory meters only, set lab_import = true in custody's configuration and restart it"
        }
        Error::WrappedKeyInvalid { .. } => {
            "wrap the key again under the transport key that was named, one of this token"
        }
        Error::KeyRowChanged { .. } => {
            "restore the row from a backup, raise next_counter, and find out who changed it"
        }
        Error::CountersExhausted { .. } => "transfer a new encryption key to the meter",
        Error::CounterJump { .. } => {
            "find out where the meter was used before; then raise the counter: latchkey keys counter METER --at-least N --reason WHY"
        }
        Error::CountersUnsure => {
            "wait some seconds: custody raises every counter by itself; then look at the trail and at the database"
        }
        Error::CountersNotKept => "make room on the disk of counter_state_file",
        Error::KeysUnsettled { .. } => {
            "let the rotation find out which keys are in force: `latchkey keys rotations ID --retry`; runbook key-compromise"
        }
        Error::RotationUnderWay { .. } => {
            "wait until it has its verdict: the meter may have the keys it sent"
        }
        Error::RotationImpossible { .. } => "import what is missing, or choose other keys",
        Error::RotationUnknown => "begin the rotation first",
        Error::RotationOver => "ask for another rotation, if the keys are to be changed again",
        Error::RotationOpeningsSpent { .. } => {
            "find out why the meter proves neither its old nor its new keys before it is asked again; runbook key-compromise"
        }
        Error::RotationAnswer { .. } => {
            "agree again; if it happens again, check the meter's public key and who else answers at its address"
        }
        _ => return None,
    })
}

/// What is about permits, associations and APDUs.
fn mend_contexts(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::PermitRefused { .. }
        | Error::PermitExpired
        | Error::PermitOtherMeter { .. }
        | Error::PermitAssociationsSpent { .. }
        | Error::ApduNotPermitted { .. } => {
            "ask the auditor for a permit that covers what is wanted"
        }
        Error::PermitSignature { .. } => {
            "check that permit_key_file holds the public key of the auditor that signs now"
        }
        Error::PermitNotYet => "set the clocks of auditor and custody",
        Error::CommandSpent { .. } => {
            "find out from the meter what the first one did before asking for another permit"
        }
        Error::ApduForbidden { .. } => {
            "do not send it: relay, global resets and key changes are not for this suite"
        }
        Error::AssociationRefused { .. } => {
            "correct the meter's mechanism and protection in the directory"
        }
        Error::ContextUnknown => "open a new cipher context",
        Error::ContextFenced => {
            "use the context that was opened last; one association at a time is had with a meter"
        }
        Error::OutOfOrder { .. } => {
            "follow the order AARQ, HLS, commands, RLRQ; else open a new cipher context"
        }
        Error::ResponseRefused { .. } | Error::CiphertextInvalid { .. } => {
            "treat the answer as lost, open a new association, and find out what happened"
        }
        Error::ChallengeRefused { .. } | Error::AnswerWrong => {
            "open a new association; if it happens again, check the meter's keys and who else answers at its address"
        }
        Error::ChallengeAmbiguous => {
            "open the association again: the meter's next challenge is another; one in some 1,700 is refused so"
        }
        _ => return None,
    })
}

fn mend_generations(error: &Error) -> &'static str {
    match error {
        Error::GenerationUnknown { .. } => {
            "add the generation at a ceremony, then restart custody; or correct kek_generation in its configuration"
        }
        Error::RewrapRunning => "wait for its end, or end the call that began it",
        _ => {
            "bring the backup token that custody's keys were born in, with its PIN, and name it in [backup_token]"
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Token(_) | Error::Database(_)) {
            // Outside, only that it failed; here, why.
            tracing::warn!(error = %kit::status::chain(&error), "a dependency failed");
        }
        kit::status::status(&error)
    }
}

fn token_code(_error: &hsm::Error) -> Code {
    Code::Unavailable
}
