//! How the tokens of a pool are.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// One token of a pool, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHealth {
    /// As errors and logs call it: its label, and its module where another token has the same label.
    pub name: String,
    /// Its serial, once it was found.
    pub serial: Option<String>,
    /// Its PKCS#11 module.
    pub module: PathBuf,
    /// Whether work is given to it.
    pub state: TokenState,
    /// Pieces of work done since it was opened.
    pub operations: u64,
    /// Pieces of work that the token failed to do, because of its own state: a wrong tag or a damaged
    /// blob is none of these.
    pub failures: u64,
    /// Pieces of work that wait for it now.
    pub queued: usize,
    /// How often its module was initialised since the process began, less one. Keys and sessions are of
    /// one epoch.
    pub epoch: u64,
    /// How often that was planned, to have the memory of destroyed objects back.
    pub planned: u64,
    /// How often that was because a token of the module failed.
    pub forced: u64,
    /// Objects made in this epoch.
    pub objects: u64,
}

/// Whether work is given to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It is.
    Works,
    /// It failed, and gets no work while another token does it.
    Out {
        /// How it failed.
        why: Failure,
        /// The error in words.
        error: String,
    },
}

/// How a token failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was removed, or does not answer. It is looked for by each check.
    Gone,
    /// A call into its module does not return. It is taken back when the call does.
    Hung,
    /// The device reports a fault. It is looked for by each check.
    Device,
    /// Sessions are closed again and again.
    Session,
    /// It is logged out again and again.
    Login,
    /// It has no memory left.
    Memory,
    /// It refused the PIN, now or in an earlier process. It is not tried again before a restart.
    PinIncorrect,
    /// Its PIN is locked, or down to the last try. It is not tried again before a restart.
    PinLocked,
    /// It could not be opened, or something else is wrong with it.
    Other,
}

impl Failure {
    /// As metrics and the trail call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Hung => "hung",
            Self::Device => "device",
            Self::Session => "session",
            Self::Login => "login",
            Self::Memory => "memory",
            Self::PinIncorrect => "pin-incorrect",
            Self::PinLocked => "pin-locked",
            Self::Other => "other",
        }
    }

    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::TokenGone { .. } | Error::TokenNotFound { .. } => Self::Gone,
            Error::TokenHung { .. } => Self::Hung,
            Error::DeviceError { .. } => Self::Device,
            Error::SessionLost { .. } => Self::Session,
            Error::NotLoggedIn { .. } => Self::Login,
            Error::HostMemory { .. } => Self::Memory,
            Error::PinIncorrect { .. } | Error::PinRefusedBefore { .. } => Self::PinIncorrect,
            Error::PinLocked { .. } => Self::PinLocked,
            _ => Self::Other,
        }
    }

    /// Whether nothing but a human and a restart helps.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::PinIncorrect | Self::PinLocked)
    }
}

/// What is counted of one token, and whether it is out.
#[derive(Debug, Default)]
pub(crate) struct Record {
    operations: AtomicU64,
    failures: AtomicU64,
    out: AtomicBool,
    why: Mutex<Option<(Failure, String)>>,
}

impl Record {
    /// Notes how a piece of work ended.
    pub(crate) fn note<T>(&self, name: &str, outcome: &Result<T, Error>) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Err(error) if error.is_of_token() => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                // A new session or login is tried first.
                if !error.is_passing() {
                    self.take_out(name, error);
                }
            }
            Ok(_) if self.is_out() => self.take_back(name),
            _ => {}
        }
    }

    /// Gives it no more work.
    pub(crate) fn take_out(&self, name: &str, error: &Error) {
        let why = Failure::of(error);
        let before = self.why().replace((why, error.to_string()));
        self.out.store(true, Ordering::Relaxed);
        if before.map(|(before, _)| before) != Some(why) {
            tracing::warn!(token = name, why = why.as_str(), %error, "token taken out");
        }
    }

    /// Gives it work again.
    pub(crate) fn take_back(&self, name: &str) {
        let before = self.why().take();
        self.out.store(false, Ordering::Relaxed);
        if before.is_some() {
            tracing::info!(token = name, "token taken back");
        }
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    pub(crate) fn state(&self) -> TokenState {
        match &*self.why() {
            None => TokenState::Works,
            Some((why, error)) => TokenState::Out {
                why: *why,
                error: error.clone(),
            },
        }
    }

    /// How it failed, if it is out.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.why().as_ref().map(|(why, _)| *why)
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.operations), load(&self.failures))
    }

    fn why(&self) -> std::sync::MutexGuard<'_, Option<(Failure, String)>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
