//! Cryptography as an effect: what an association asks of whoever holds the keys, and what comes back.

use alloc::vec::Vec;
use core::fmt;

use crate::security::{Protection, SystemTitle};

/// Names a job within one association. The result goes back with it; a result for any other job is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl JobId {
    pub(crate) const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// A piece of cryptography to be done. The association goes on when its result is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CipherJob {
    /// Which job.
    pub id: JobId,
    /// What to do.
    pub op: CipherOp,
}

/// What to do. The executor knows its own system title, its keys and its counters; all else is in here.
#[derive(Clone, PartialEq, Eq)]
pub enum CipherOp {
    /// Cipher a plaintext APDU with the next invocation counter: result [`CipherOutput::Apdu`].
    Protect {
        /// The plaintext APDU.
        apdu: Vec<u8>,
        /// Its form; the tag is [`Protection::tag`] of the first octet, the control octet is `AUTH_ENC`.
        protection: Protection,
    },
    /// Check the tag, check that the peer's counter is above the last, decipher: result [`CipherOutput::Apdu`].
    Unprotect {
        /// The ciphered APDU.
        apdu: Vec<u8>,
        /// Who sent it.
        peer_title: SystemTitle,
    },
    /// Compute one's own HLS5 token over the peer's challenge, with a counter of its own: result [`CipherOutput::Token`].
    Answer {
        /// The peer's challenge.
        challenge: Vec<u8>,
        /// The peer.
        peer_title: SystemTitle,
    },
    /// Check the peer's HLS5 token over one's own challenge: result [`CipherOutput::Verified`].
    ///
    /// The token's counter is the one of the APDU that carried it, or below it: only the APDU's must rise.
    Verify {
        /// SC || IC || T.
        token: Vec<u8>,
        /// One's own challenge.
        challenge: Vec<u8>,
        /// The peer.
        peer_title: SystemTitle,
    },
}

/// APDUs in clear are not shown.
impl fmt::Debug for CipherOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protect { apdu, protection } => {
                write!(f, "Protect({} octets, {protection:?})", apdu.len())
            }
            Self::Unprotect { apdu, peer_title } => {
                write!(f, "Unprotect({} octets of {peer_title})", apdu.len())
            }
            Self::Answer { peer_title, .. } => write!(f, "Answer({peer_title})"),
            Self::Verify { peer_title, .. } => write!(f, "Verify({peer_title})"),
        }
    }
}

/// What a job made.
#[derive(Clone, PartialEq, Eq)]
pub enum CipherOutput {
    /// The ciphered or deciphered APDU, and the invocation counter it carries.
    Apdu(Vec<u8>, u32),
    /// An HLS5 token, 17 octets.
    Token(Vec<u8>),
    /// The token is right.
    Verified,
}

impl fmt::Debug for CipherOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apdu(apdu, counter) => {
                write!(f, "Apdu({} octets, counter {counter})", apdu.len())
            }
            Self::Token(_) => write!(f, "Token"),
            Self::Verified => write!(f, "Verified"),
        }
    }
}

/// Why a job was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CipherFailure {
    /// The tag is wrong: another key, another title, or a changed APDU.
    #[error("its authentication tag is wrong; compare the keys and system titles of both sides")]
    AuthFailed,
    /// The peer's invocation counter is not above the last one: a replay, a duplicate or a counter that was lost.
    #[error("its invocation counter is not above the last; {expected} is the lowest that would do")]
    Replay {
        /// The lowest counter that would be accepted.
        expected: u32,
    },
    /// The holder of the keys does not allow it.
    #[error("the holder of the keys refused it; see its error for the reason")]
    Refused,
    /// The holder of the keys cannot be reached, or has no counter left.
    #[error("the holder of the keys could not do it; see its error for the reason")]
    Unavailable,
}
