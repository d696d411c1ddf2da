//! Cryptography as an effect: what an association asks of whoever holds the keys, and what comes back.

use alloc::vec::Vec;
use core::fmt;

use crate::mechanism::Mechanism;
use crate::security::{Protection, SecurityControl, Suite, SystemTitle};

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
    ///
    /// With [`Protection::Plain`] and no signature the executor may refuse the command; else it hands the APDU back as
    /// it is, with counter 0. With [`Protection::Ded`] and [`Protection::GeneralDed`] the executor makes the dedicated
    /// key itself and puts it into the InitiateRequest before it ciphers that: the association never sees it.
    Protect {
        /// The plaintext APDU.
        apdu: Vec<u8>,
        /// Its form; the tag is [`Protection::tag`] of the first octet.
        protection: Protection,
        /// Suite, authentication, encryption and key set.
        control: SecurityControl,
        /// Whether the ciphered (or plain) APDU is put into general-signing. Initiate APDUs never are.
        signed: bool,
    },
    /// Check the tag, check that the peer's counter is above the last, decipher: result [`CipherOutput::Apdu`].
    ///
    /// What is protected less than asked, or otherwise, is refused.
    Unprotect {
        /// The ciphered APDU.
        apdu: Vec<u8>,
        /// Who sent it.
        peer_title: SystemTitle,
        /// The form it must have.
        protection: Protection,
        /// The security control it must have.
        control: SecurityControl,
        /// Whether it must be in general-signing.
        signed: bool,
    },
    /// Compute one's own answer to the peer's challenge: result [`CipherOutput::Token`].
    Answer {
        /// 3 to 7, but 2.
        mechanism: Mechanism,
        /// The peer's challenge.
        challenge: Vec<u8>,
        /// One's own: HLS 6 and 7 answer over both.
        own_challenge: Vec<u8>,
        /// The peer.
        peer_title: SystemTitle,
        /// The certificate, DER, that the peer's ACSE APDU brought: it proves nothing until it is verified.
        peer_certificate: Option<Vec<u8>>,
        /// The suite: of the control octet of HLS 5, of the curve of HLS 7.
        suite: Suite,
    },
    /// Check the peer's answer to one's own challenge: result [`CipherOutput::Verified`].
    ///
    /// The counter of an HLS5 token is the one of the APDU that carried it, or below it: only the APDU's must rise.
    Verify {
        /// 3 to 7, but 2.
        mechanism: Mechanism,
        /// What the peer answered.
        token: Vec<u8>,
        /// One's own challenge.
        challenge: Vec<u8>,
        /// The peer's.
        peer_challenge: Vec<u8>,
        /// The peer.
        peer_title: SystemTitle,
        /// The suite.
        suite: Suite,
    },
}

/// APDUs in clear are not shown.
impl fmt::Debug for CipherOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protect {
                apdu,
                protection,
                control,
                signed,
            } => write!(
                f,
                "Protect({} octets, {protection:?}, {control:?}, signed: {signed})",
                apdu.len()
            ),
            Self::Unprotect {
                apdu,
                peer_title,
                protection,
                control,
                signed,
            } => write!(
                f,
                "Unprotect({} octets of {peer_title}, {protection:?}, {control:?}, signed: {signed})",
                apdu.len()
            ),
            Self::Answer {
                mechanism,
                peer_title,
                ..
            } => write!(f, "Answer({mechanism:?}, {peer_title})"),
            Self::Verify {
                mechanism,
                peer_title,
                ..
            } => write!(f, "Verify({mechanism:?}, {peer_title})"),
        }
    }
}

/// What a job made.
#[derive(Clone, PartialEq, Eq)]
pub enum CipherOutput {
    /// The ciphered or deciphered APDU, and the invocation counter it carries.
    Apdu(Vec<u8>, u32),
    /// The answer to a challenge: 16 octets (HLS 3), 20 (4), 17 (5, SC || IC || T), 32 (6), 64 or 96 (7).
    Token(Vec<u8>),
    /// The peer's answer is right.
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
