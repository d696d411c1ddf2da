//! A whole trail as one text file.
//!
//! ```text
//! latchkey-trail-v1
//! latchkey.test/trail                       the signed checkpoint (C2SP): origin,
//! 2                                         size,
//! bsfYwBD…=                                 root,
//!                                           an empty line,
//! — latchkey.test/trail vU2k…=              and the log's signature
//!                                           an empty line
//! 0 4Hd0…= CAEQ…                            per entry: index, leaf hash, body
//! 1 9zzq…= CAEQ…
//! ```
//!
//! There is exactly one file for one trail under one signed checkpoint: one signature, one space between
//! fields, decimal numbers without leading zeros, canonical base64, `\n` after every line. So no octet can
//! change without the verification failing, and the failure names the line that holds it.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::Checkpoint;
use crate::note::{MAX_NOTE_LEN, Note, PUBLIC_KEY_LEN, SIGNATURE_LEN, VerifierKey};
use crate::tree::{Hash, Tree, leaf_hash};

/// The first line of the file.
pub const HEADER: &str = "latchkey-trail-v1";
/// Octets an entry may have.
pub const MAX_BODY_LEN: usize = 64 * 1024;
/// A line that holds the largest entry: base64 of its body, its hash, its index and two spaces.
const MAX_LINE_LEN: usize = MAX_BODY_LEN.div_ceil(3) * 4 + 44 + 20 + 2;

/// The head of the file: everything before the entries. `signed` is the signed checkpoint.
#[must_use]
pub fn head(signed: &str) -> String {
    format!("{HEADER}\n{signed}\n")
}

/// The line of one entry.
#[must_use]
pub fn line(index: u64, body: &[u8]) -> String {
    format!("{index} {} {}\n", leaf_hash(body), STANDARD.encode(body))
}

/// A trail that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which log.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root they hash to, which the log signed.
    pub root: Hash,
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The first line.
    Header,
    /// The signed checkpoint and the empty line after it.
    Checkpoint,
    /// The entry of this index.
    Entry(u64),
    /// Every entry is sound in itself, but together they are not the tree that was signed.
    Tree,
    /// Something follows the last entry.
    End,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Entry(index) => write!(f, "entry {index}"),
            Self::Tree => f.write_str("tree"),
            Self::End => f.write_str("end of file"),
        }
    }
}

/// Why a trail does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Failure {
    /// Where.
    pub what: What,
    /// What is wrong there.
    pub why: String,
}

/// Verifies a whole export file.
///
/// # Errors
/// The first [`Failure`] in the file.
pub fn verify<V>(file: &[u8], key: &VerifierKey, ed25519: V) -> Result<Summary, Failure>
where
    V: Fn(&[u8; PUBLIC_KEY_LEN], &[u8], &[u8; SIGNATURE_LEN]) -> bool,
{
    let mut verifier = Verifier::new(key.clone(), ed25519);
    verifier.push(file)?;
    verifier.finish()
}

/// Verifies an export file as it comes, holding one line at a time.
#[derive(Debug)]
pub struct Verifier<V> {
    key: VerifierKey,
    ed25519: V,
    line: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    /// The note so far, and how many empty lines it holds.
    Checkpoint(String, u8),
    Entries(Checkpoint, Tree),
    Failed(Failure),
}

impl<V> Verifier<V>
where
    V: Fn(&[u8; PUBLIC_KEY_LEN], &[u8], &[u8; SIGNATURE_LEN]) -> bool,
{
    /// For a file that `key` signed; `ed25519(public_key, message, signature)` is the verification itself.
    pub const fn new(key: VerifierKey, ed25519: V) -> Self {
        Self {
            key,
            ed25519,
            line: Vec::new(),
            state: State::Header,
        }
    }

    /// Takes the next octets of the file.
    ///
    /// # Errors
    /// The first [`Failure`]; every later call repeats it.
    pub fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let mut lines = octets.split(|octet| *octet == b'\n');
        let rest = lines.next_back().unwrap_or_default();
        for ending in lines {
            self.extend_line(ending)?;
            let line = core::mem::take(&mut self.line);
            self.take_line(&line)?;
        }
        self.extend_line(rest)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The first [`Failure`] of the file.
    pub fn finish(mut self) -> Result<Summary, Failure> {
        if !self.line.is_empty() {
            return Err(self.fail("the file is cut off within a line"));
        }
        let State::Entries(checkpoint, tree) = &self.state else {
            return Err(self.fail("the file ends before it"));
        };
        if tree.size() < checkpoint.size() {
            let why = format!("missing: the checkpoint counts {}", checkpoint.size());
            return Err(self.fail(&why));
        }
        if tree.root() != checkpoint.root() {
            return Err(Failure {
                what: What::Tree,
                why: "the entries do not hash to the root that was signed".to_string(),
            });
        }
        Ok(Summary {
            origin: checkpoint.origin().to_string(),
            size: checkpoint.size(),
            root: checkpoint.root(),
        })
    }

    fn extend_line(&mut self, octets: &[u8]) -> Result<(), Failure> {
        if let State::Failed(failure) = &self.state {
            return Err(failure.clone());
        }
        if self.line.len().saturating_add(octets.len()) > MAX_LINE_LEN {
            return Err(self.fail("a line longer than any entry"));
        }
        self.line.extend_from_slice(octets);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let taken = match &mut self.state {
            State::Header if line == HEADER.as_bytes() => {
                self.state = State::Checkpoint(String::new(), 0);
                Ok(())
            }
            State::Header => Err(format!("expected the line {HEADER}")),
            State::Checkpoint(note, empty_lines) => {
                if line.is_empty() {
                    *empty_lines = empty_lines.saturating_add(1);
                }
                if *empty_lines < 2 {
                    extend_note(note, line)
                } else {
                    let opened = open(note, &self.key, &self.ed25519);
                    opened.map(|checkpoint| self.state = State::Entries(checkpoint, Tree::new()))
                }
            }
            State::Entries(checkpoint, tree) if tree.size() == checkpoint.size() => {
                Err("something follows the last entry".to_string())
            }
            State::Entries(_, tree) => parse_entry(line, tree.size()).map(|leaf| tree.push(leaf)),
            State::Failed(failure) => return Err(failure.clone()),
        };
        taken.map_err(|why| self.fail(&why))
    }

    /// Remembers that the part being read is wrong.
    fn fail(&mut self, why: &str) -> Failure {
        let what = match &self.state {
            State::Header => What::Header,
            State::Checkpoint(..) => What::Checkpoint,
            State::Entries(checkpoint, tree) if tree.size() == checkpoint.size() => What::End,
            State::Entries(_, tree) => What::Entry(tree.size()),
            State::Failed(failure) => return failure.clone(),
        };
        let failure = Failure {
            what,
            why: why.to_string(),
        };
        self.state = State::Failed(failure.clone());
        failure
    }
}

fn extend_note(note: &mut String, line: &[u8]) -> Result<(), String> {
    let line = core::str::from_utf8(line).map_err(|_| "not UTF-8".to_string())?;
    if note.len().saturating_add(line.len()) > MAX_NOTE_LEN {
        return Err("longer than 16 KiB".to_string());
    }
    note.push_str(line);
    note.push('\n');
    Ok(())
}

/// The checkpoint of a note that holds the log's signature and no other: a signature nobody checks
/// would be octets anybody can change.
fn open<V>(note: &str, key: &VerifierKey, ed25519: V) -> Result<Checkpoint, String>
where
    V: Fn(&[u8; PUBLIC_KEY_LEN], &[u8], &[u8; SIGNATURE_LEN]) -> bool,
{
    let parsed = Note::parse(note).map_err(|e| e.to_string())?;
    if parsed.signatures().len() != 1 {
        return Err("expected one signature, the log's".to_string());
    }
    Checkpoint::open(note, key, ed25519).map_err(|e| e.to_string())
}

/// The leaf hash of the line of entry `index`, if that is what the line is.
fn parse_entry(line: &[u8], index: u64) -> Result<Hash, String> {
    let mut fields = line.split(|octet| *octet == b' ');
    let (Some(number), Some(hash), Some(body), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("expected index, leaf hash and body, one space between".to_string());
    };
    if number != index.to_string().as_bytes() {
        return Err(format!("expected index {index}"));
    }
    let hash = Hash::from_base64(hash).ok_or("the leaf hash is not 32 octets in base64")?;
    let body = STANDARD
        .decode(body)
        .map_err(|_| "the body is not base64")?;
    if body.len() > MAX_BODY_LEN {
        return Err("the body is longer than 64 KiB".to_string());
    }
    if leaf_hash(&body) != hash {
        return Err("the body does not hash to the leaf hash".to_string());
    }
    Ok(hash)
}

#[cfg(test)]
mod tests;
