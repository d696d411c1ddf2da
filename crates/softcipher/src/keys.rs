//! The keys of one side towards one peer.

use dlms::Suite;

use crate::{PrivateKey, PublicKey, Secret, random::Random};

/// What one side holds. What is absent cannot be used: a job that needs it fails as
/// [`dlms::CipherFailure::Unavailable`].
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// The global unicast encryption key (GUEK), 16 octets, in suite 2 of 32.
    pub encryption: Option<Secret>,
    /// The global authentication key (GAK), as long.
    pub authentication: Option<Secret>,
    /// The global broadcast encryption key (GBEK), as long.
    pub broadcast: Option<Secret>,
    /// The master key (KEK), as long: it wraps the keys of general-ciphering and of key transfer.
    pub master: Option<Secret>,
    /// The secret of HLS 3, 4 and 6, up to 64 octets.
    pub hls_secret: Option<Secret>,
    /// One's own signing key.
    pub signing: Option<PrivateKey>,
    /// One's own static key of key agreement.
    pub agreement: Option<PrivateKey>,
    /// The peer's signing key.
    pub peer_signing: Option<PublicKey>,
    /// The peer's static key of key agreement.
    pub peer_agreement: Option<PublicKey>,
}

/// A key that does not belong to the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A symmetric key has another length.
    #[error("the {which} key has {found} octets, suite {} needs {expected}", .suite.id())]
    Length {
        /// Which key.
        which: &'static str,
        /// The suite.
        suite: Suite,
        /// Octets it should have.
        expected: usize,
        /// Octets it has.
        found: usize,
    },
    /// A private or public key is on another curve.
    #[error("the {which} key is not on the curve of suite {}", .suite.id())]
    Curve {
        /// Which key.
        which: &'static str,
        /// The suite.
        suite: Suite,
    },
    /// The HLS secret has another length than 1..=64 octets.
    #[error("the HLS secret has {found} octets, 1 to 64 are allowed")]
    HlsSecret {
        /// Octets it has.
        found: usize,
    },
}

impl Keys {
    /// All keys of two sides that know each other (client, meter), drawn from a seed: for tests and measurements.
    #[must_use]
    pub fn pair(suite: Suite, seed: u64) -> (Self, Self) {
        let mut random = Random::Seeded { seed, drawn: 0 };
        let mut secret = |length| {
            let mut secret = Secret::new(vec![0; length]);
            random.fill(secret.octets_mut());
            Some(secret)
        };
        let length = suite.key_len();
        let shared = Self {
            encryption: secret(length),
            authentication: secret(length),
            broadcast: secret(length),
            master: secret(length),
            hls_secret: secret(32),
            ..Self::default()
        };
        let [signing, agreement, peer_signing, peer_agreement] =
            [(); 4].map(|()| PrivateKey::generate(suite, &mut random));
        let side = |own: [&Option<PrivateKey>; 2], peer: [&Option<PrivateKey>; 2]| Self {
            signing: own[0].clone(),
            agreement: own[1].clone(),
            peer_signing: peer[0].as_ref().map(PrivateKey::public),
            peer_agreement: peer[1].as_ref().map(PrivateKey::public),
            ..shared.clone()
        };
        let client = [&signing, &agreement];
        let meter = [&peer_signing, &peer_agreement];
        (side(client, meter), side(meter, client))
    }

    /// Whether every key that is there belongs to the suite.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self, suite: Suite) -> Result<(), KeyError> {
        let symmetric = [
            ("encryption", &self.encryption),
            ("authentication", &self.authentication),
            ("broadcast", &self.broadcast),
            ("master", &self.master),
        ];
        for (which, key) in symmetric {
            let found = key.as_ref().map(|key| key.expose().len());
            if let Some(found) = found.filter(|found| *found != suite.key_len()) {
                let expected = suite.key_len();
                return Err(KeyError::Length {
                    which,
                    suite,
                    expected,
                    found,
                });
            }
        }
        let curves = [
            ("signing", self.signing.as_ref().map(PrivateKey::suite)),
            ("agreement", self.agreement.as_ref().map(PrivateKey::suite)),
            (
                "peer's signing",
                self.peer_signing.as_ref().map(PublicKey::suite),
            ),
            (
                "peer's agreement",
                self.peer_agreement.as_ref().map(PublicKey::suite),
            ),
        ];
        for (which, found) in curves {
            if found.is_some_and(|found| found != suite) {
                return Err(KeyError::Curve { which, suite });
            }
        }
        match self.hls_secret.as_ref().map(|key| key.expose().len()) {
            Some(found) if !(1..=64).contains(&found) => Err(KeyError::HlsSecret { found }),
            Some(_) | None => Ok(()),
        }
    }
}
