//! What can go wrong with a token, whose fault it is, and what to do next.

use std::path::PathBuf;

use cryptoki::context::Function;
use cryptoki::error::RvError;

/// Every failure of this crate. No variant carries a key, a PIN or a plaintext.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tag does not belong to the data.
    #[error(
        "the tag is wrong: data, associated data, nonce or key is not the sender's; discard the data"
    )]
    AuthFailed,
    /// Every place in the worker's queue is taken.
    #[error("the token's queue is full; retry after a pause")]
    Busy,
    /// A peer's public key is no point of the curve.
    #[error("the peer's public key is no point of the curve; discard what came with it")]
    PublicKeyInvalid,
    /// A key of the token failed its test when the token was opened, and is not used.
    #[error(
        "key `{label}` of token `{token}` is not used: {why}; use another token, or enable the mechanism in the module"
    )]
    KeyOff {
        /// The token.
        token: String,
        /// The key.
        label: String,
        /// What failed.
        why: String,
    },
    /// The wrapped key is damaged, or was wrapped under another key.
    #[error(
        "the wrapped key does not unwrap under `{kek}`: it is damaged or belongs to another key; import it again"
    )]
    WrappedKeyInvalid {
        /// Label of the unwrapping key.
        kek: String,
    },
    /// The handle is from before the token was opened again.
    #[error("the key handle is from before the token was reopened; unwrap the key again")]
    StaleKey,
    /// The PIN is wrong. Nothing tries it again.
    #[error(
        "token `{label}` refused the PIN; put the right one into the PIN file, then restart: each wrong try brings the lock nearer"
    )]
    PinIncorrect {
        /// The token.
        label: String,
    },
    /// The token takes no PIN any more, or only one more, which is left to a human.
    #[error(
        "the PIN of token `{label}` is locked or down to its last try; the security officer must reset it"
    )]
    PinLocked {
        /// The token.
        label: String,
    },
    /// The token refused this very PIN before, in this or an earlier process. It was not tried.
    #[error(
        "token `{label}` refused this PIN before ({}); put in the right one: another PIN is tried by itself, the same one only after the file is removed", marker.display()
    )]
    PinRefusedBefore {
        /// The token.
        label: String,
        /// Where that was noted.
        marker: PathBuf,
    },
    /// The PIN file cannot be used.
    #[error("PIN file {}: {why}", path.display())]
    PinFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and how to mend it.
        why: String,
    },
    /// No such token in any slot.
    #[error("no token labelled `{label}`{} in this module; run the ceremony, or correct label and serial", of_serial(serial.as_deref()))]
    TokenNotFound {
        /// The label looked for.
        label: String,
        /// The serial looked for.
        serial: Option<String>,
    },
    /// Two tokens match.
    #[error("more than one token is labelled `{label}`; name its serial in the configuration")]
    TokenAmbiguous {
        /// The label looked for.
        label: String,
    },
    /// The token was there and is not any more. The next call tries to get it back.
    #[error(
        "token `{label}` does not answer; check the device and its module, recovery is tried by itself"
    )]
    TokenGone {
        /// The token.
        label: String,
    },
    /// A call into the module has not returned. Its thread cannot be ended; when it comes back, the
    /// token is taken back.
    #[error(
        "token `{label}` hangs: a call into its module does not return; check the device, and restart the process if it does not come back"
    )]
    TokenHung {
        /// The token, or the module's file.
        label: String,
    },
    /// The session is gone; the next call opens another.
    #[error("token `{label}` has lost the session; a new one is opened by itself, repeat the call")]
    SessionLost {
        /// The token.
        label: String,
    },
    /// Somebody logged the token out, and so destroyed its session keys; the next call logs in.
    #[error(
        "token `{label}` is not logged in any more: another part of this process or the device logged it out; repeat the call"
    )]
    NotLoggedIn {
        /// The token.
        label: String,
    },
    /// The device says that it has a fault.
    #[error(
        "token `{label}` has a fault ({code:?}); check the device, recovery is tried by itself"
    )]
    DeviceError {
        /// The token.
        label: String,
        /// The PKCS#11 return value.
        code: RvError,
    },
    /// Module or device has no memory left for the call.
    #[error(
        "token `{label}` has no memory left for this ({code:?}); hold fewer keys, or give it more memory"
    )]
    HostMemory {
        /// The token.
        label: String,
        /// The PKCS#11 return value.
        code: RvError,
    },
    /// A token of a pool holds other keys than the first one.
    #[error(
        "token `{token}` does not hold the keys of token `{first}`: {why}; tokens of one pool must be copies of each other"
    )]
    KeysDiffer {
        /// The token that is refused.
        token: String,
        /// The token it was compared with.
        first: String,
        /// The first difference.
        why: String,
    },
    /// No key of that label and use on the token.
    #[error(
        "token `{token}` has no {what} labelled `{label}`; run the ceremony, or correct the label"
    )]
    KeyNotFound {
        /// The token.
        token: String,
        /// What kind of key was needed.
        what: &'static str,
        /// The label looked for.
        label: String,
    },
    /// A key is there but is not what its label promises.
    #[error("key `{label}` on token `{token}` is unfit: {why}; it must be made by the ceremony")]
    KeyUnfit {
        /// The token.
        token: String,
        /// The key.
        label: String,
        /// The first difference.
        why: String,
    },
    /// The token lacks a mechanism its role needs.
    #[error(
        "token `{label}` cannot serve as {role}: it lacks {mechanism} ({purpose}); use another token, or enable the mechanism in the module"
    )]
    MechanismMissing {
        /// The token.
        label: String,
        /// The role.
        role: &'static str,
        /// The mechanism by its PKCS#11 name.
        mechanism: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// The token has the mechanism and gets it wrong.
    #[error("token `{label}` failed its self-test of {mechanism}: {why}; do not use this token")]
    SelfTest {
        /// The token.
        label: String,
        /// The mechanism by its PKCS#11 name.
        mechanism: &'static str,
        /// What was wrong.
        why: String,
    },
    /// An argument is too long, too short or of the wrong length.
    #[error("{what} has {length} octets, allowed are {allowed}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Its length.
        length: usize,
        /// What would do.
        allowed: &'static str,
    },
    /// The module cannot be loaded or initialised.
    #[error("PKCS#11 module {}: {why}", path.display())]
    Module {
        /// The library.
        path: PathBuf,
        /// What is wrong and how to mend it.
        why: String,
    },
    /// The token refused a call in a way nobody expected.
    #[error(
        "the token refused {function:?}: {code:?}; if it repeats, report it with the module's name and version"
    )]
    Refused {
        /// The PKCS#11 function.
        function: Function,
        /// Its return value.
        code: RvError,
    },
    /// The library cannot express the call, or the module broke the PKCS#11 contract.
    #[error(
        "the PKCS#11 module broke its contract: {why}; report it with the module's name and version"
    )]
    Contract {
        /// What happened.
        why: String,
    },
    /// A worker or opening thread could not be started, or ended.
    #[error("the thread of token `{label}` is gone; restart the process")]
    WorkerGone {
        /// The token.
        label: String,
    },
    /// A configuration value is refused.
    #[error("token configuration: {why}")]
    Config {
        /// What is wrong and how to mend it.
        why: String,
    },
    /// A certificate or a request for one is refused. Nothing was changed.
    #[error("certificate of key `{label}`: {why}")]
    Certificate {
        /// The key.
        label: String,
        /// What is wrong with it.
        why: String,
    },
    /// The ceremony's plan is refused. Nothing was changed.
    #[error("ceremony plan: {why}")]
    Plan {
        /// What is wrong and how to mend it.
        why: String,
    },
    /// The token exists and is not what the plan says. Nothing was changed.
    #[error("token `{token}` differs from the plan: {why}; nothing was changed")]
    Differs {
        /// The token.
        token: String,
        /// The first difference.
        why: String,
    },
    /// A key does not get from the backup token into another.
    #[error("token `{to}` does not get a key of backup token `{from}`: {why}")]
    Clone {
        /// The backup token.
        from: String,
        /// The token that was to have it.
        to: String,
        /// Which step both tokens do not share, and what to do.
        why: String,
    },
    /// Keys that are to be destroyed are still needed. Nothing was changed.
    #[error("nothing was destroyed: {why}")]
    Needed {
        /// What needs them and how to mend it.
        why: String,
    },
    /// A transcript does not verify.
    #[error("the transcript does not verify: {why}")]
    Transcript {
        /// What is wrong.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether it is the token that failed: another one with the same keys may do what was asked.
    pub(crate) fn is_of_token(&self) -> bool {
        self.is_passing()
            || matches!(
                self,
                Self::TokenGone { .. }
                    | Self::TokenNotFound { .. }
                    | Self::TokenHung { .. }
                    | Self::DeviceError { .. }
                    | Self::HostMemory { .. }
                    | Self::WorkerGone { .. }
                    | Self::PinIncorrect { .. }
                    | Self::PinLocked { .. }
                    | Self::PinRefusedBefore { .. }
            )
    }

    /// Whether the same token can do it at once: it opens a session or logs in, and goes on.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::SessionLost { .. } | Self::NotLoggedIn { .. })
    }

    /// What a return value says by itself about the token `label`, whatever was called.
    pub(crate) fn of_code(label: &str, code: RvError) -> Option<Self> {
        let label = label.to_owned();
        Some(match code {
            RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::DeviceRemoved
            | RvError::SlotIdInvalid
            | RvError::CryptokiNotInitialized => Self::TokenGone { label },
            RvError::SessionHandleInvalid | RvError::SessionClosed => Self::SessionLost { label },
            RvError::UserNotLoggedIn => Self::NotLoggedIn { label },
            RvError::HostMemory | RvError::DeviceMemory => Self::HostMemory { label, code },
            _ => return None,
        })
    }
}

impl From<cryptoki::error::Error> for Error {
    fn from(error: cryptoki::error::Error) -> Self {
        match error {
            cryptoki::error::Error::Pkcs11(code, function) => Self::Refused { function, code },
            other => Self::Contract {
                why: other.to_string(),
            },
        }
    }
}

fn of_serial(serial: Option<&str>) -> String {
    serial
        .map(|serial| format!(" with serial `{serial}`"))
        .unwrap_or_default()
}
