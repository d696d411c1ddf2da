//! C2SP tlog-checkpoint: the head of a log, as the text of a signed note.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use core::fmt;

use crate::error::Error;
use crate::note::{self, Note, PUBLIC_KEY_LEN, SIGNATURE_LEN, VerifierKey};
use crate::tree::Hash;

/// The head of a log. Its `Display` form is the text that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
}

impl Checkpoint {
    /// The head of the log `origin`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the origin cannot be one line that names a log.
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, Error> {
        if origin.is_empty() || origin.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::Checkpoint(
                "the origin must not be empty or hold white space",
            ));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// Reads the text of a checkpoint: exactly origin, size and root. Extension lines are refused:
    /// this log writes none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let body = text
            .strip_suffix('\n')
            .ok_or(Error::Checkpoint("the last line does not end"))?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(Error::Checkpoint("expected origin, size and root"));
        };
        let size = size
            .parse::<u64>()
            .ok()
            .filter(|number| number.to_string() == size)
            .ok_or(Error::Checkpoint("the size is not a plain decimal number"))?;
        let root = Hash::from_base64(root.as_bytes())
            .ok_or(Error::Checkpoint("the root is not 32 octets in base64"))?;
        Self::new(origin, size, root)
    }

    /// Reads a signed checkpoint and checks the signature by the log's own key, whose name is the origin.
    /// `ed25519(public_key, message, signature)` is the verification itself.
    ///
    /// # Errors
    /// What is wrong with the note, its signature or the checkpoint in it.
    pub fn open<V>(signed: &str, key: &VerifierKey, ed25519: V) -> Result<Self, Error>
    where
        V: Fn(&[u8; PUBLIC_KEY_LEN], &[u8], &[u8; SIGNATURE_LEN]) -> bool,
    {
        let note = Note::parse(signed)?;
        note.verify(key, ed25519)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin != key.name() {
            return Err(Error::Checkpoint("the origin is not the name of the key"));
        }
        Ok(checkpoint)
    }

    /// The signed note of this checkpoint; `signature` is over its `Display` form, by `key`.
    #[must_use]
    pub fn seal(&self, key: &VerifierKey, signature: &[u8; SIGNATURE_LEN]) -> String {
        note::seal(&self.to_string(), key, signature)
    }

    /// Which log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many entries.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree of that size.
    #[must_use]
    pub const fn root(&self) -> Hash {
        self.root
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::leaf_hash;

    #[test]
    fn a_checkpoint_reads_what_it_writes() {
        let checkpoint = Checkpoint::new("latchkey.test/trail", 10, leaf_hash(b"x")).unwrap();
        assert_eq!(Checkpoint::parse(&checkpoint.to_string()), Ok(checkpoint));
    }

    #[test]
    fn anything_else_is_refused() {
        let root = leaf_hash(b"x");
        let cases = [
            alloc::format!("log\n1\n{root}"),
            alloc::format!("log\n01\n{root}\n"),
            alloc::format!("log\n+1\n{root}\n"),
            alloc::format!("log\n18446744073709551616\n{root}\n"),
            alloc::format!("log\n1\n{root}\nextension\n"),
            alloc::format!("log\n1\n{root}\n\n"),
            alloc::format!("\n1\n{root}\n"),
            alloc::format!("my log\n1\n{root}\n"),
            "log\n1\nAAAA\n".to_owned(),
            "log\n1\n".to_owned(),
            String::new(),
        ];
        for case in cases {
            assert!(
                matches!(Checkpoint::parse(&case), Err(Error::Checkpoint(_))),
                "{case:?}"
            );
        }
    }
}
