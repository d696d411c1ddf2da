//! What a token can do, decided when it is opened and never again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::{Limit, Slot};
use serde::{Deserialize, Serialize};

use crate::curve::Curve;
use crate::error::Error;
use crate::oaep::OaepHash;
use crate::token::{Role, TokenConfig};

/// How AES-GCM with a nonce of the caller's is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GcmBackend {
    /// By the token's own CKM_AES_GCM.
    #[default]
    Token,
    /// The token enciphers single blocks (CKM_AES_ECB), GHASH is done here: the same octets. For
    /// tokens that make nonces themselves. The hash key is in this process during each call.
    EcbGhash,
}

impl GcmBackend {
    /// The token's mechanism.
    pub(crate) fn mechanism(self) -> &'static str {
        match self {
            Self::Token => "CKM_AES_GCM",
            Self::EcbGhash => "CKM_AES_ECB",
        }
    }
}

impl fmt::Display for GcmBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "in the token (CKM_AES_GCM)",
            Self::EcbGhash => "blocks in the token (CKM_AES_ECB), GHASH in this process",
        })
    }
}

/// Where the AES key of a key agreement is derived (NIST SP 800-56A, one hash step).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyDerivation {
    /// In the token (CKD_SHA256_KDF_SP800, CKD_SHA384_KDF_SP800): the agreed key never leaves it.
    TokenSp800,
    /// The token digests the shared secret, which it does not show; the agreed key passes through
    /// this process, zeroized.
    DigestKey,
    /// The shared secret passes through this process, zeroized. Only where configuration says so.
    HostZ,
}

impl KeyDerivation {
    /// What is tried without leave of configuration, the best first.
    pub(crate) const TRIED: [Self; 2] = [Self::TokenSp800, Self::DigestKey];
}

impl fmt::Display for KeyDerivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenSp800 => "in the token (CKD_SHA*_KDF_SP800)",
            Self::DigestKey => "digest in the token (C_DigestKey), key through this process",
            Self::HostZ => "shared secret and key through this process",
        })
    }
}

/// What a token can do, as its self-test found when it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The token's label.
    pub token: String,
    /// What it is used for.
    pub role: Role,
    /// Who made it, by its own word.
    pub manufacturer: String,
    /// Which model, by its own word.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// Version of its firmware.
    pub firmware: String,
    /// How many sessions it allows; none if it names no limit.
    pub sessions_max: Option<u64>,
    /// How meters' APDUs are ciphered; none where the role ciphers nothing.
    pub gcm: Option<GcmBackend>,
    /// How keys are agreed with meters, on the curves of which the token has a key: `P-256`, `P-384`.
    pub key_derivation: BTreeMap<String, KeyDerivation>,
    /// The hash of its RSA-OAEP; none without a `transport-rsa-N`.
    pub oaep: Option<OaepHash>,
    /// Mechanisms that Latchkey could use and the token lacks, by their PKCS#11 names.
    pub lacks: Vec<String>,
    /// Labels of keys that failed their test, and why. They are not used.
    pub off: BTreeMap<String, String>,
}

impl Capabilities {
    /// How it works, in one line, for a log or a trail.
    pub fn summary(&self) -> String {
        let mut said = vec![match self.gcm {
            Some(GcmBackend::Token) => "GCM by the token".to_owned(),
            Some(GcmBackend::EcbGhash) => "GCM by blocks".to_owned(),
            None => "no GCM".to_owned(),
        }];
        for (curve, derivation) in &self.key_derivation {
            let how = match derivation {
                KeyDerivation::TokenSp800 => "in the token",
                KeyDerivation::DigestKey => "by digest",
                KeyDerivation::HostZ => "in this process",
            };
            said.push(format!("{curve} keys derived {how}"));
        }
        said.extend(self.oaep.map(|hash| format!("RSA-OAEP with {hash}")));
        if !self.off.is_empty() {
            let off: Vec<&str> = self.off.keys().map(String::as_str).collect();
            said.push(format!("not used: {}", off.join(" ")));
        }
        said.join(", ")
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        writeln!(f, "token       {} ({})", self.token, self.role.as_str())?;
        let (maker, model) = (of(&self.manufacturer), of(&self.model));
        writeln!(
            f,
            "made by     {maker}, {model}, firmware {}",
            self.firmware
        )?;
        writeln!(f, "serial      {}", self.serial)?;
        match self.sessions_max {
            Some(max) => writeln!(f, "sessions    at most {max}")?,
            None => writeln!(f, "sessions    no limit named")?,
        }
        if let Some(gcm) = self.gcm {
            writeln!(f, "AES-GCM     {gcm}")?;
        }
        for (curve, derivation) in &self.key_derivation {
            writeln!(f, "agreement   {curve}: key derived {derivation}")?;
        }
        match self.oaep {
            Some(hash) => writeln!(f, "RSA-OAEP    {hash}")?,
            None if self.role == Role::Custody => writeln!(f, "RSA-OAEP    no key for it")?,
            None => {}
        }
        for mechanism in &self.lacks {
            writeln!(f, "lacks       {mechanism}")?;
        }
        for (label, why) in &self.off {
            writeln!(f, "not used    {label}: {why}")?;
        }
        Ok(())
    }
}

/// What was asked for, and what was found, of one token.
#[derive(Default)]
pub(crate) struct Able {
    /// What configuration demands; none to take the best there is.
    pub(crate) gcm_wanted: Option<GcmBackend>,
    pub(crate) derivation_wanted: Option<KeyDerivation>,
    pub(crate) gcm: OnceLock<GcmBackend>,
    /// Labels of keys that failed their test when the token was first opened, and why.
    pub(crate) off: OnceLock<BTreeMap<String, String>>,
    /// By curve.
    pub(crate) derivation: OnceLock<BTreeMap<Curve, KeyDerivation>>,
    /// The hash that the RSA-OAEP of this token has.
    pub(crate) oaep: OnceLock<Option<OaepHash>>,
    /// What the token says of itself.
    card: OnceLock<Card>,
}

struct Card {
    manufacturer: String,
    model: String,
    serial: String,
    firmware: String,
    sessions_max: Option<u64>,
    lacks: Vec<String>,
}

impl Able {
    pub(crate) fn new(config: &TokenConfig) -> Self {
        Self {
            gcm_wanted: config.gcm,
            derivation_wanted: config.key_derivation,
            ..Self::default()
        }
    }

    /// Reads what the token says of itself.
    pub(crate) fn meet(&self, context: &Pkcs11, slot: Slot, role: Role) -> Result<(), Error> {
        let info = context.get_token_info(slot)?;
        let sessions_max = limit(info.max_session_count(), info.max_rw_session_count());
        let present = context.get_mechanism_list(slot)?;
        let lacking = useful(role).iter().filter(|one| !present.contains(one));
        self.card.get_or_init(|| Card {
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            serial: info.serial_number().to_owned(),
            firmware: info.firmware_version().to_string(),
            sessions_max,
            lacks: lacking.map(ToString::to_string).collect(),
        });
        Ok(())
    }

    /// All of it, once the self-test is through.
    pub(crate) fn report(&self, token: &str, role: Role) -> Capabilities {
        let card = self.card.get();
        let text = |of: fn(&Card) -> &String| card.map(of).cloned().unwrap_or_default();
        let derivation = self.derivation.get().into_iter().flatten();
        Capabilities {
            token: token.to_owned(),
            role,
            manufacturer: text(|card| &card.manufacturer),
            model: text(|card| &card.model),
            serial: text(|card| &card.serial),
            firmware: text(|card| &card.firmware),
            sessions_max: card.and_then(|card| card.sessions_max),
            gcm: self.gcm.get().copied(),
            key_derivation: derivation
                .map(|(curve, how)| (curve.to_string(), *how))
                .collect(),
            oaep: self.oaep.get().copied().flatten(),
            lacks: card.map(|card| card.lacks.clone()).unwrap_or_default(),
            off: self.off.get().cloned().unwrap_or_default(),
        }
    }

    pub(crate) fn gcm(&self) -> GcmBackend {
        self.gcm.get().copied().unwrap_or_default()
    }

    /// Where keys of this curve are derived. Without a key of the curve nothing was tested: then in
    /// the way that most tokens can, unless configuration says another.
    pub(crate) fn derivation(&self, curve: Curve) -> KeyDerivation {
        let found = self.derivation.get().and_then(|found| found.get(&curve));
        let found = found.copied().or(self.derivation_wanted);
        found.unwrap_or(KeyDerivation::DigestKey)
    }
}

/// The smaller of two limits; all our sessions are read-write.
fn limit(all: Limit, read_write: Limit) -> Option<u64> {
    let max = |limit| match limit {
        Limit::Max(max) => Some(max),
        Limit::Unavailable | Limit::Infinite => None,
    };
    max(all).into_iter().chain(max(read_write)).min()
}

/// What a role could use; without some of it, it does without.
fn useful(role: Role) -> &'static [MechanismType] {
    match role {
        Role::Custody => &[
            MechanismType::AES_GCM,
            MechanismType::AES_ECB,
            MechanismType::AES_CMAC,
            MechanismType::AES_KEY_WRAP,
            MechanismType::AES_KEY_WRAP_PAD,
            MechanismType::SHA256,
            MechanismType::ECC_KEY_PAIR_GEN,
            MechanismType::ECDSA,
            MechanismType::ECDSA_SHA256,
            MechanismType::ECDSA_SHA384,
            MechanismType::ECDH1_DERIVE,
            MechanismType::RSA_PKCS_OAEP,
        ],
        Role::Backup => &[
            MechanismType::AES_KEY_WRAP,
            MechanismType::AES_KEY_WRAP_PAD,
            MechanismType::RSA_PKCS_OAEP,
        ],
        Role::Auditor => &[MechanismType::EDDSA],
        Role::Tls => &[MechanismType::ECDSA],
    }
}
