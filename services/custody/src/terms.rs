//! Which associations may be had with a meter: mechanism × protection × security, decided once, when a context is
//! opened. Whatever is not in the table is refused by name.
//!
//! | mechanism | not ciphered | ciphered (suite of the meter's keys) |
//! |---|---|---|
//! | none | any meter; where it has keys: the public client, which reads invocation counters and nothing else | refused |
//! | low | password; no keys held | password and EK, and the enrolment names it |
//! | HLS 3, 4 | HLS secret; no keys held; `allow_legacy_hls` | the same, and EK |
//! | HLS 5 | refused | EK |
//! | HLS 6 | HLS secret; no keys held | HLS secret and EK |
//! | HLS 7 | suite 1 or 2, the meter's signing key; no keys held | the same, and EK |
//!
//! "Keys held" are an encryption key, an HLS secret or a signing key of the meter for the public client, an encryption
//! key for everybody else: a meter that can cipher is never spoken to in clear.
//!
//! | protection | needs besides |
//! |---|---|
//! | glo, general-glo, general-ciphering (identified) | EK and AK |
//! | ded, general-ded | encryption: the dedicated key travels in the InitiateRequest |
//! | general-ciphering (wrapped) | the meter's master key |
//! | general-ciphering (one-pass) | suite 1 or 2, the meter's keys for signing and agreement |
//! | general-ciphering (static) | suite 1 or 2, the meter's key for agreement |
//! | signed | ciphering, suite 1 or 2, the meter's signing key |
//! | authenticated only | the enrolment names it |
//! | encrypted only | the enrolment names it, and `allow_encryption_only`: nothing received is authentic, and what is sent can be changed on its way; not with a key of its own |
//!
//! A mechanism that was not named when the meter's keys came in is refused, if any were named; low-level security beside
//! an encryption key always needs naming. So a stolen association service cannot choose the weakest of what the keys
//! would serve.

use dlms::{
    KeyChoice, Mechanism, Protection, SecurityControl, Suite,
    agreement::{Algorithm, AlgorithmId, KeyId},
};

use crate::{
    error::Error,
    keyring::{Need, NeedOfSecret},
    keys::{bit, policy_bit},
    store::KeyRow,
};

/// How APDUs are secured, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) mechanism: Mechanism,
    pub(crate) protection: Protection,
    /// Suite, authentication, encryption: of every ciphered APDU, sent and received.
    pub(crate) control: SecurityControl,
    pub(crate) signed: bool,
    pub(crate) algorithm_id: AlgorithmId,
}

/// Under which key an APDU is, and so whose counters it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// The global unicast encryption key.
    Global,
    /// The dedicated key of the association.
    Dedicated,
    /// One of its own.
    Own,
}

/// What the configuration allows besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Leave {
    pub(crate) legacy_hls: bool,
    pub(crate) encryption_only: bool,
}

impl Terms {
    /// The suite.
    pub(crate) fn suite(&self) -> Suite {
        self.control.suite().unwrap_or_default()
    }

    pub(crate) fn is_ciphered(&self) -> bool {
        self.protection.is_ciphered()
    }

    /// Whether a received APDU carries a proof that it is the meter's.
    pub(crate) fn is_authentic(&self) -> bool {
        self.is_ciphered() && self.control.is_authenticated()
    }

    /// Whether commands and their answers are under the global key, and authentic: then the counters of its space that
    /// they carry can be believed, and compared with the meter's own.
    pub(crate) fn counts_globally(&self) -> bool {
        self.is_authentic() && self.space() == Space::Global
    }

    /// The form of an APDU: the agreed one, or, for a service that has no tag of its own there (ACCESS, confirmations),
    /// the general form of the same key.
    pub(crate) fn form_of(&self, apdu: &[u8]) -> Option<Protection> {
        let tag = *apdu.first()?;
        let general = match self.protection {
            Protection::Glo => Protection::GeneralGlo,
            Protection::Ded => Protection::GeneralDed,
            other => other,
        };
        [self.protection, general]
            .into_iter()
            .find(|form| form.tag(tag).is_some())
    }

    /// Which counters APDUs have; Initiate APDUs always those of the global key.
    pub(crate) fn space(&self) -> Space {
        match self.protection {
            Protection::Plain
            | Protection::Glo
            | Protection::GeneralGlo
            | Protection::GeneralCiphering(KeyChoice::Identified) => Space::Global,
            Protection::Ded | Protection::GeneralDed => Space::Dedicated,
            Protection::GeneralCiphering(
                KeyChoice::Wrapped | KeyChoice::OnePass | KeyChoice::Static,
            ) => Space::Own,
        }
    }

    /// What a derived key is for, in words of the key derivation.
    pub(crate) fn algorithm(&self) -> Algorithm {
        Algorithm::of(self.suite(), KeyId::GlobalUnicastEncryption)
    }

    /// What of the row is used.
    pub(crate) fn need(&self) -> Need {
        Need {
            ciphering: self.is_ciphered(),
            secret: match self.mechanism {
                Mechanism::HlsMd5 => Some(NeedOfSecret::Md5),
                Mechanism::HlsSha1 | Mechanism::HlsSha256 => Some(NeedOfSecret::Sha),
                _ => None,
            },
        }
    }

    /// Whether the signing keys of both ends are used: for HLS, for every APDU, or for ephemeral keys.
    pub(crate) fn uses_signatures(&self) -> bool {
        let one_pass = Protection::GeneralCiphering(KeyChoice::OnePass);
        self.mechanism == Mechanism::HlsEcdsa || self.signed || self.protection == one_pass
    }

    /// Whether the agreement keys of both ends are used.
    pub(crate) fn uses_agreement(&self) -> bool {
        let choices = [KeyChoice::OnePass, KeyChoice::Static];
        choices
            .into_iter()
            .any(|choice| self.protection == Protection::GeneralCiphering(choice))
    }

    /// As the trail tells it.
    pub(crate) fn describe(&self, public: bool) -> String {
        let how = match self.protection {
            Protection::Plain if public => "public client, not ciphered".to_owned(),
            Protection::Plain => "not ciphered".to_owned(),
            protection => format!(
                "{protection:?}, {}{}",
                self.control,
                if self.signed { ", signed" } else { "" }
            ),
        };
        format!("{how}, mechanism {}", self.mechanism.id())
    }

    /// Whether a context with them ends the others of its meter. A ciphered one has the higher block of counters: a
    /// request ciphered in an older one would come too late, with a counter the meter has passed. Of two with HLS, one
    /// could answer the challenge of the other.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.is_ciphered() || self.mechanism.is_high_level()
    }

    /// Whether they may be had with this meter, and if so, whether it is the public client's association.
    pub(crate) fn check(
        &self,
        meter_id: &str,
        row: Option<&KeyRow>,
        leave: Leave,
    ) -> Result<bool, Error> {
        let has = Has::of(row);
        if self.mechanism == Mechanism::None {
            return match (self.is_ciphered(), self.signed) {
                (false, false) => Ok(has.keys || has.secret || has.signing_key),
                _ => refused(
                    "ciphering and signing go with low-level security or HLS, not without authentication",
                ),
            };
        }
        let row = row.ok_or_else(|| Error::KeysUnknown {
            meter: meter_id.to_owned(),
        })?;
        self.mechanism(row, has, leave)?;
        if self.is_ciphered() {
            self.ciphered(row, has, leave)?;
        } else if has.keys {
            return refused("the meter has keys: its APDUs are ciphered");
        } else if self.signed {
            return refused("signed APDUs are ciphered, too");
        }
        Ok(false)
    }

    fn mechanism(&self, row: &KeyRow, has: Has, leave: Leave) -> Result<(), Error> {
        if row.mechanisms != 0 && row.mechanisms & bit(self.mechanism) == 0 {
            return refused("the meter's keys came in for other mechanisms");
        }
        match self.mechanism {
            Mechanism::None => Ok(()),
            Mechanism::Low if !has.password => refused("the meter has no password"),
            Mechanism::Low if has.keys && row.mechanisms == 0 => refused(
                "the meter has an encryption key, and low-level security was not named when it came in",
            ),
            Mechanism::Low => Ok(()),
            Mechanism::HlsManufacturer => refused("the manufacturer's own HLS is not known here"),
            Mechanism::HlsMd5 | Mechanism::HlsSha1 if !leave.legacy_hls => {
                refused("HLS with MD5 or SHA-1 is not allowed (allow_legacy_hls)")
            }
            Mechanism::HlsMd5 if has.secret && row.sealed_hls_secret.is_empty() => {
                refused("HLS with MD5 was not named when the secret came in")
            }
            Mechanism::HlsMd5 | Mechanism::HlsSha1 | Mechanism::HlsSha256 if !has.secret => {
                refused("the meter has no HLS secret")
            }
            Mechanism::HlsMd5 | Mechanism::HlsSha1 | Mechanism::HlsSha256 => Ok(()),
            Mechanism::HlsGmac if !self.is_ciphered() => {
                refused("HLS with GMAC goes with ciphering")
            }
            Mechanism::HlsGmac => Ok(()),
            Mechanism::HlsEcdsa => {
                self.public_keys(row, has, "HLS with ECDSA is of suites 1 and 2")
            }
        }
    }

    fn ciphered(&self, row: &KeyRow, has: Has, leave: Leave) -> Result<(), Error> {
        if !has.keys {
            return refused("the meter has no encryption key");
        }
        if self.suite() != row.suite {
            return refused("the suite is not that of the meter's keys");
        }
        if self.control.unsupported().is_some() || self.control.is_broadcast() {
            return refused("APDUs are authenticated or encrypted or both");
        }
        self.policy(row, leave)?;
        if self.protection.is_dedicated() && !self.control.is_encrypted() {
            return refused("a dedicated key travels encrypted or not at all");
        }
        if self.signed {
            self.public_keys(row, has, "signed APDUs are of suites 1 and 2")?;
        }
        match self.protection {
            Protection::GeneralCiphering(KeyChoice::Wrapped) if !has.master_key => {
                refused("the meter has no key-encryption key")
            }
            Protection::GeneralCiphering(KeyChoice::OnePass) => {
                self.public_keys(row, has, "keys are agreed in suites 1 and 2")?;
                agreed(has)
            }
            Protection::GeneralCiphering(KeyChoice::Static) => agreed(has),
            _ => Ok(()),
        }
    }

    /// Less than authentication and encryption, if the meter's keys came in for it.
    fn policy(&self, row: &KeyRow, leave: Leave) -> Result<(), Error> {
        if !self.control.is_authenticated() && !leave.encryption_only {
            return refused(
                "encryption without authentication is not allowed (allow_encryption_only)",
            );
        }
        if row.policies & policy_bit(self.control) != policy_bit(self.control) {
            return refused("the meter's keys came in for authentication with encryption");
        }
        // No tag binds an answer to its transaction then, and its counter says nothing: a recording of an authenticated
        // answer, key and all, would be deciphered under another transaction's id.
        if !self.control.is_authenticated() && self.space() == Space::Own {
            return refused("a key of its own goes with authentication");
        }
        Ok(())
    }

    /// Signatures of the meter can be checked.
    fn public_keys(&self, row: &KeyRow, has: Has, why: &'static str) -> Result<(), Error> {
        match self.suite() {
            Suite::Suite0 => refused(why),
            suite if suite != row.suite => refused("the suite is not that of the meter's keys"),
            _ if !has.signing_key => refused("the meter's public key for signatures is not known"),
            _ => Ok(()),
        }
    }
}

/// What is held for a meter.
#[derive(Clone, Copy, Default)]
struct Has {
    keys: bool,
    password: bool,
    secret: bool,
    master_key: bool,
    signing_key: bool,
    agreement_key: bool,
}

impl Has {
    fn of(row: Option<&KeyRow>) -> Self {
        row.map_or_else(Self::default, |row| Self {
            keys: !row.wrapped_encryption_key.is_empty(),
            password: !row.sealed_password.is_empty(),
            secret: !(row.wrapped_hls_secret.is_empty() && row.sealed_hls_secret.is_empty()),
            master_key: !row.wrapped_master_key.is_empty(),
            signing_key: !row.server_signing_key.is_empty(),
            agreement_key: !row.server_agreement_key.is_empty(),
        })
    }
}

fn agreed(has: Has) -> Result<(), Error> {
    if has.agreement_key {
        Ok(())
    } else {
        refused("the meter's public key for key agreement is not known")
    }
}

fn refused<T>(why: &'static str) -> Result<T, Error> {
    Err(Error::AssociationRefused { why })
}

#[cfg(test)]
mod tests;
