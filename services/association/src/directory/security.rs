//! How the APDUs of a meter's association are secured.

use latchkey_proto::custody::v1::{self as pb, AlgorithmId, KeyInfo, Protection, SecurityPolicy};

/// Suite, policy, signature and key of an association; what the message leaves open is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Security {
    /// Security suite, 0..2.
    pub suite: u8,
    /// What is protected; unspecified if nothing is.
    pub policy: SecurityPolicy,
    /// Whether APDUs are signed besides.
    pub signed: bool,
    /// The key of general-ciphering; unspecified is the global one.
    pub key_info: KeyInfo,
    /// How the AlgorithmID of a key derivation is written; unspecified if no key is agreed.
    pub algorithm_id: AlgorithmId,
}

impl Security {
    /// Of an association in which nothing is protected.
    pub const NONE: Self = Self {
        suite: 0,
        policy: SecurityPolicy::Unspecified,
        signed: false,
        key_info: KeyInfo::Unspecified,
        algorithm_id: AlgorithmId::Unspecified,
    };

    /// What a message says, which the directory's rules hold for; `None` if a value is out of range.
    #[must_use]
    pub fn parse(security: &pb::Security, protection: Protection) -> Option<Self> {
        let read = Self {
            suite: u8::try_from(security.suite)
                .ok()
                .filter(|suite| *suite <= 2)?,
            policy: security.policy.try_into().ok()?,
            signed: security.signed,
            key_info: security.key_info.try_into().ok()?,
            algorithm_id: security.algorithm_id.try_into().ok()?,
        };
        Some(read.filled_in(protection))
    }

    fn filled_in(self, protection: Protection) -> Self {
        let policy = match (protection, self.policy) {
            (Protection::Plain, policy) => policy,
            (_, SecurityPolicy::Unspecified) => SecurityPolicy::AuthenticatedEncrypted,
            (_, policy) => policy,
        };
        let algorithm_id = match (is_agreed(self.key_info), self.algorithm_id) {
            (true, AlgorithmId::Unspecified) => AlgorithmId::Standard,
            (_, algorithm_id) => algorithm_id,
        };
        Self {
            policy,
            algorithm_id,
            ..self
        }
    }

    /// As it goes into a message.
    #[must_use]
    pub fn render(self) -> pb::Security {
        pb::Security {
            suite: self.suite.into(),
            policy: self.policy.into(),
            signed: self.signed,
            key_info: self.key_info.into(),
            algorithm_id: self.algorithm_id.into(),
        }
    }
}

/// Whether both parties make the key of general-ciphering from their key pairs.
pub(super) const fn is_agreed(key_info: KeyInfo) -> bool {
    matches!(key_info, KeyInfo::AgreedOnePass | KeyInfo::AgreedStatic)
}
