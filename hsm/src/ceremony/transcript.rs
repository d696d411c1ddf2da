//! The record of a ceremony: read back from the tokens, signed by them, checkable by anybody.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::clone::{self, Crossing};
use super::plan::TRANSCRIPT;
use crate::curve::Curve;
use crate::error::Error;
use crate::sign::verifies_raw;
use crate::token::Role;

/// A signed record. Its text is [`Transcript::render`]; any other text does not verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// What is signed.
    pub body: Body,
    /// One signature of every token.
    pub signatures: Vec<SignatureRecord>,
}

/// What was done, with what, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// `latchkey-ceremony/1`.
    pub format: String,
    /// When, as the caller said.
    pub date: String,
    /// SHA-256 of the plan's text.
    pub plan_sha256: String,
    /// Fingerprint of the transcript before, where the plan names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The PKCS#11 module.
    pub module: ModuleRecord,
    /// The tokens, in the plan's order.
    pub tokens: Vec<TokenRecord>,
}

/// The PKCS#11 module that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRecord {
    /// Where it is.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it calls itself.
    pub description: String,
    /// Its version.
    pub version: String,
    /// The version of PKCS#11 it speaks.
    pub cryptoki_version: String,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Its label.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// Which model it is.
    pub model: String,
    /// Version of the hardware.
    pub hardware_version: String,
    /// Version of the firmware.
    pub firmware_version: String,
    /// Whether its keys were made now, all or some.
    pub outcome: Outcome,
    /// Its keys, by label.
    pub keys: Vec<KeyRecord>,
    /// Labels of the keys that were destroyed now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destroyed: Vec<String>,
}

/// What the ceremony did to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its keys were made.
    Created,
    /// Some of its keys were made, and those that were there are as planned.
    Extended,
    /// Its keys were there and are as planned.
    Unchanged,
}

/// One key, as the token describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its label.
    pub label: String,
    /// What it is, in words.
    pub kind: String,
    /// The raw public key of a signing key, in hexadecimal.
    pub public_key: Option<String>,
    /// Check value of a transport key, where its components were at hand: the first 5 octets of
    /// the key's CMAC over 16 zero octets.
    pub check_value: Option<String>,
    /// Its attributes, without the `CKA_`.
    pub attributes: BTreeMap<String, String>,
    /// What was tried with it and refused, with the token's answer.
    pub refused: Vec<String>,
    /// Of a key that the backup token of this ceremony has, too. A key without it cannot be restored when its token is
    /// lost, and what is kept under it cannot be kept under another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupRecord>,
}

/// What the backup token has to do with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRecord {
    /// Label of the backup token.
    pub token: String,
    /// How it came from there, if it did so now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned: Option<Crossing>,
    /// The known answers by which both are the same key.
    pub same: Vec<String>,
}

/// A token's signature over the body: Ed25519 by an auditor's, ECDSA P-256 with SHA-256 by a
/// custody token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureRecord {
    /// The token.
    pub token: String,
    /// The key that signed; its public key is in the body.
    pub key: String,
    /// The signature's 64 octets, in hexadecimal.
    pub signature: String,
}

impl Body {
    /// What the tokens sign: the body as JSON without white space.
    pub(super) fn signed_octets(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| refuse(error.to_string()))
    }
}

impl Transcript {
    /// The one text of this transcript.
    pub fn render(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self).map_err(|e| refuse(e.to_string()))?;
        Ok(text + "\n")
    }

    /// Reads a transcript and verifies it: its form to the octet, and a signature of every token
    /// by the key the body names.
    ///
    /// It proves that nothing was changed since; that these are *your* tokens, only a comparison of
    /// the [`Transcript::fingerprint`] with what the witnesses wrote down does.
    pub fn verify(text: &str) -> Result<Self, Error> {
        let transcript: Self = serde_json::from_str(text).map_err(|e| refuse(e.to_string()))?;
        if transcript.body.format != FORMAT {
            return Err(refuse(format!("its format is not {FORMAT}")));
        }
        if transcript.render()? != text {
            return Err(refuse("its text was edited".to_owned()));
        }
        let signed = transcript.body.signed_octets()?;
        let (tokens, signatures) = (&transcript.body.tokens, &transcript.signatures);
        if tokens.is_empty() || tokens.len() != signatures.len() {
            return Err(refuse("it has not one signature of every token".to_owned()));
        }
        for (token, signature) in tokens.iter().zip(signatures) {
            if !token.signed(&signed, signature) || !token.doors_signed() {
                let why = format!("the signature of token `{}` is wrong", token.label);
                return Err(refuse(why));
            }
        }
        Ok(transcript)
    }

    /// SHA-256 of the signed body, in hexadecimal: for the witnesses to write down.
    pub fn fingerprint(&self) -> Result<String, Error> {
        let signed = self.body.signed_octets()?;
        Ok(hex::encode(digest::digest(&digest::SHA256, &signed)))
    }

    /// The public key of that label on the first token of that role.
    pub fn public_key(&self, role: Role, label: &str) -> Option<Vec<u8>> {
        let token = self.body.tokens.iter().find(|token| token.role == role)?;
        let key = token.keys.iter().find(|key| key.label == label)?;
        hex::decode(key.public_key.as_deref()?).ok()
    }

    /// Whether the other transcript tells of the same tokens with the same keys.
    pub fn same_tokens(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.body.tokens, &other.body.tokens);
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.is(b))
    }
}

impl TokenRecord {
    fn signed(&self, message: &[u8], signature: &SignatureRecord) -> bool {
        signature.token == self.label
            && signature.key == TRANSCRIPT
            && self.said(message, &signature.signature)
    }

    /// Every door through which a key came was this token's.
    fn doors_signed(&self) -> bool {
        self.keys.iter().all(|key| {
            let backup = key.backup.as_ref();
            backup
                .and_then(|backup| backup.cloned.as_ref())
                .is_none_or(|crossing| {
                    let statement = clone::statement(&key.label, &crossing.door_sha256);
                    self.said(&statement, &crossing.door_signature)
                })
        })
    }

    fn said(&self, message: &[u8], signature: &str) -> bool {
        let key = self.keys.iter().find(|key| key.label == TRANSCRIPT);
        let public = key.and_then(|key| hex::decode(key.public_key.as_deref()?).ok());
        let (Some(public), Ok(octets)) = (public, hex::decode(signature)) else {
            return false;
        };
        let curve = (self.role != Role::Auditor).then_some(Curve::P256);
        verifies_raw(curve, &public, message, &octets)
    }

    fn is(&self, other: &Self) -> bool {
        let same = |a: &KeyRecord, b: &KeyRecord| {
            a.label == b.label
                && a.kind == b.kind
                && a.public_key == b.public_key
                && a.attributes == b.attributes
        };
        self.label == other.label
            && self.role == other.role
            && self.serial == other.serial
            && self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(|(a, b)| same(a, b))
    }
}

fn refuse(why: String) -> Error {
    Error::Transcript { why }
}

/// The format's name.
pub(super) const FORMAT: &str = "latchkey-ceremony/1";
