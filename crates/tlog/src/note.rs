//! C2SP signed notes with Ed25519 keys (signature type 0x01).

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// Octets of an Ed25519 public key.
pub const PUBLIC_KEY_LEN: usize = 32;
/// Octets of an Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;
/// A note longer than this is refused before it is looked at.
pub const MAX_NOTE_LEN: usize = 16 * 1024;

const ED25519: u8 = 0x01;
const KEY_ID_LEN: usize = 4;
/// Signature lines a note may carry.
const MAX_SIGNATURES: usize = 16;
/// A signature line opens with an em dash and a space.
const SIGNATURE_START: &str = "\u{2014} ";

/// An Ed25519 key that verifies notes: `NAME+ID+KEY` as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public_key: [u8; PUBLIC_KEY_LEN],
}

impl VerifierKey {
    /// A key under its name.
    ///
    /// # Errors
    /// [`Error::Key`] if the name is empty, or holds white space, a control character or `+`.
    pub fn new(name: &str, public_key: [u8; PUBLIC_KEY_LEN]) -> Result<Self, Error> {
        if !is_name(name) {
            return Err(Error::Key(
                "the name must not be empty or hold white space or +",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            public_key,
        })
    }

    /// Reads `NAME+ID+KEY`.
    ///
    /// # Errors
    /// [`Error::Key`] if it is not exactly that, or the id is not that of the key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Error::Key("expected NAME+ID+KEY"));
        };
        let octets = STANDARD
            .decode(key)
            .map_err(|_| Error::Key("the key is not base64"))?;
        let Some((&ED25519, public_key)) = octets.split_first() else {
            return Err(Error::Key("the key is not Ed25519 (type 0x01)"));
        };
        let public_key = public_key
            .try_into()
            .map_err(|_| Error::Key("an Ed25519 key has 32 octets"))?;
        let key = Self::new(name, public_key)?;
        if key.id_text() != id {
            return Err(Error::Key("the id is not that of the key"));
        }
        Ok(key)
    }

    /// The name: for a log, its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; PUBLIC_KEY_LEN] {
        &self.public_key
    }

    /// The key id: the first 4 octets of SHA-256(name ‖ LF ‖ 0x01 ‖ key).
    fn id(&self) -> [u8; KEY_ID_LEN] {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update(b"\n");
        hasher.update([ED25519]);
        hasher.update(self.public_key);
        let digest: [u8; 32] = hasher.finalize().into();
        digest.first_chunk().copied().unwrap_or_default()
    }

    fn id_text(&self) -> String {
        alloc::format!("{:08x}", u32::from_be_bytes(self.id()))
    }
}

/// `NAME+ID+KEY`.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = Vec::with_capacity(PUBLIC_KEY_LEN.saturating_add(1));
        octets.push(ED25519);
        octets.extend_from_slice(&self.public_key);
        let key = STANDARD.encode(octets);
        write!(f, "{}+{}+{key}", self.name, self.id_text())
    }
}

/// One signature line of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    name: String,
    key_id: [u8; KEY_ID_LEN],
    octets: Vec<u8>,
}

/// A signed note, read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// Reads a note: text, an empty line, signature lines.
    ///
    /// # Errors
    /// [`Error::Note`] if it breaks the format anywhere.
    pub fn parse(note: &str) -> Result<Self, Error> {
        if note.len() > MAX_NOTE_LEN {
            return Err(Error::Note("longer than 16 KiB"));
        }
        if note.chars().any(|c| c < '\u{20}' && c != '\n') {
            return Err(Error::Note("a control character"));
        }
        let (text, signatures) = note
            .rsplit_once("\n\n")
            .ok_or(Error::Note("no empty line before the signatures"))?;
        let signatures = signatures
            .strip_suffix('\n')
            .ok_or(Error::Note("the last line does not end"))?
            .split('\n')
            .map(parse_signature)
            .collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(Error::Note("more than 16 signatures"));
        }
        Ok(Self {
            text: alloc::format!("{text}\n"),
            signatures,
        })
    }

    /// What the signatures are over.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Checks the signature by `key`; signatures by other keys say nothing and are passed over.
    /// `ed25519(public_key, message, signature)` is the verification itself.
    ///
    /// # Errors
    /// [`Error::NotSigned`] if there is none, [`Error::Signature`] if it does not verify.
    pub fn verify<V>(&self, key: &VerifierKey, ed25519: V) -> Result<(), Error>
    where
        V: Fn(&[u8; PUBLIC_KEY_LEN], &[u8], &[u8; SIGNATURE_LEN]) -> bool,
    {
        let line = self
            .signatures
            .iter()
            .find(|line| line.name == key.name && line.key_id == key.id())
            .ok_or_else(|| Error::NotSigned(key.name.clone()))?;
        let verified = <&[u8; SIGNATURE_LEN]>::try_from(line.octets.as_slice())
            .is_ok_and(|octets| ed25519(&key.public_key, self.text.as_bytes(), octets));
        if verified {
            Ok(())
        } else {
            Err(Error::Signature(key.name.clone()))
        }
    }
}

/// The note of `text`, which ends with a newline, and the signature over it by `key`.
#[must_use]
pub fn seal(text: &str, key: &VerifierKey, signature: &[u8; SIGNATURE_LEN]) -> String {
    let mut octets = Vec::with_capacity(KEY_ID_LEN.saturating_add(SIGNATURE_LEN));
    octets.extend_from_slice(&key.id());
    octets.extend_from_slice(signature);
    let octets = STANDARD.encode(octets);
    alloc::format!("{text}\n{SIGNATURE_START}{} {octets}\n", key.name)
}

fn parse_signature(line: &str) -> Result<Signature, Error> {
    let (name, octets) = line
        .strip_prefix(SIGNATURE_START)
        .and_then(|rest| rest.split_once(' '))
        .ok_or(Error::Note("a signature line that is not one"))?;
    if !is_name(name) {
        return Err(Error::Note("a signer's name that is not one"));
    }
    let octets = STANDARD
        .decode(octets)
        .map_err(|_| Error::Note("a signature that is not base64"))?;
    let (key_id, octets) = octets
        .split_first_chunk()
        .ok_or(Error::Note("a signature shorter than its key id"))?;
    Ok(Signature {
        name: name.to_owned(),
        key_id: *key_id,
        octets: octets.to_vec(),
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519 as ALGORITHM, UnparsedPublicKey};

    pub(crate) fn ed25519(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ALGORITHM, key)
            .verify(message, signature)
            .is_ok()
    }

    // the example of golang.org/x/mod/sumdb/note, which C2SP signed-note descends from
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_reference_note_verifies() {
        let key = VerifierKey::parse(KEY).unwrap();
        assert_eq!(alloc::format!("{key}"), KEY);
        let note = Note::parse(NOTE).unwrap();
        assert_eq!(note.verify(&key, ed25519), Ok(()));
        let octets = &note.signatures()[0].octets;
        let again = seal(note.text(), &key, octets.as_slice().try_into().unwrap());
        assert_eq!(again, NOTE);
    }

    #[test]
    fn another_text_or_key_does_not_verify() {
        let key = VerifierKey::parse(KEY).unwrap();
        let note = Note::parse(&NOTE.replace("cryptography", "cryptographY")).unwrap();
        assert!(matches!(
            note.verify(&key, ed25519),
            Err(Error::Signature(_))
        ));
        let other = VerifierKey::new("PeterNeumann", [7; 32]).unwrap();
        let note = Note::parse(NOTE).unwrap();
        assert!(matches!(
            note.verify(&other, ed25519),
            Err(Error::NotSigned(_))
        ));
    }

    #[test]
    fn every_mangled_key_is_refused() {
        for i in 0..KEY.len() {
            let mut octets = KEY.as_bytes().to_vec();
            octets[i] ^= 1;
            let text = String::from_utf8(octets).unwrap();
            assert!(VerifierKey::parse(&text).is_err(), "{text}");
            assert!(VerifierKey::parse(&KEY[..i]).is_err());
        }
        assert!(VerifierKey::new("two words", [0; 32]).is_err());
        assert!(VerifierKey::new("", [0; 32]).is_err());
    }

    #[test]
    fn malformed_notes_are_refused() {
        let cases = [
            "",
            "text\n",
            "text\n\n",
            "text\n\n— name AAAA",
            "text\n\n- name AAAAAAAA\n",
            "text\n\n— name AAAA\n",
            "text\n\n— name AAAAAAB=\n",
            "text\n\n— na+me AAAAAAAA\n",
            "te\txt\n\n— name AAAAAAAA\n",
            "text\n\n— name AAAAAAAA\n\n",
        ];
        for case in cases {
            assert!(matches!(Note::parse(case), Err(Error::Note(_))), "{case:?}");
        }
    }
}
