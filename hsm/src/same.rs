//! Proof that tokens of a pool hold the same keys.
//!
//! The first token wraps a new key under each of its wrapping keys and seals a text under each of its
//! sealing keys; every other token must unwrap and open all of it. RFC 3394 and GCM authenticate, so
//! a token with another key of that label cannot. Of key pairs the public halves are compared.
//! Transport keys of AES neither wrap nor sign: of them only the label is. A token's `transcript` key is
//! its own, and not compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::key::Kind;
use crate::pool::Engine;
use crate::wrap;

/// What the first token of a pool did, for the others to undo.
#[derive(Debug)]
pub(crate) struct Proof {
    token: String,
    labels: BTreeSet<String>,
    wrapped: BTreeMap<String, (Kind, Vec<u8>)>,
    sealed: BTreeMap<String, Vec<u8>>,
    public: BTreeMap<String, Vec<u8>>,
}

impl Proof {
    /// Of the token that `engine` works with.
    pub(crate) fn of(engine: &mut Engine) -> Result<Self, Error> {
        let mut proof = Self {
            token: engine.shared().label.clone(),
            labels: BTreeSet::new(),
            wrapped: BTreeMap::new(),
            sealed: BTreeMap::new(),
            public: BTreeMap::new(),
        };
        for (label, found) in keys(engine) {
            if let Some(public) = found.1 {
                proof.public.insert(label.clone(), public);
            } else if found.0 == Kind::KekAk {
                let sealed = engine.protect_ak(&label, SONG, SONG)?;
                proof.sealed.insert(label.clone(), sealed);
            } else if found.0.unwrapped(engine.shared().role).is_some() {
                // One that is off is off for all: nothing uses it.
                let kek = match engine.key(&label, found.0) {
                    Ok(kek) => kek,
                    Err(Error::KeyOff { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let wrapped = wrap::generate(engine.session(), kek, 16)?;
                proof.wrapped.insert(label.clone(), (found.0, wrapped));
            }
            proof.labels.insert(label);
        }
        Ok(proof)
    }

    /// Refuses the token that `engine` works with if it holds other keys.
    pub(crate) fn check(&self, engine: &mut Engine) -> Result<(), Error> {
        let theirs = keys(engine);
        let differ = |why: String| Error::KeysDiffer {
            token: engine.shared().label.clone(),
            first: self.token.clone(),
            why,
        };
        let labels: BTreeSet<String> = theirs.iter().map(|(label, _)| label.clone()).collect();
        if let Some(label) = self.labels.symmetric_difference(&labels).next() {
            return Err(differ(format!("only one of them has `{label}`")));
        }
        for (label, (_, public)) in &theirs {
            if self.public.get(label) != public.as_ref() {
                return Err(differ(format!("`{label}` is another key pair")));
            }
        }
        for (label, (kind, wrapped)) in &self.wrapped {
            let template = kind.unwrapped(engine.shared().role).unwrap_or_default();
            match engine.unwrap(*kind, label, wrapped, &template) {
                Ok(object) => engine.session().destroy_object(object)?,
                Err(Error::WrappedKeyInvalid { .. }) => {
                    return Err(self.other_key(engine, label));
                }
                Err(error) => return Err(error),
            }
        }
        for (label, sealed) in &self.sealed {
            match engine.reveal_ak(label, SONG, sealed) {
                Ok(_) => {}
                Err(Error::AuthFailed) => return Err(self.other_key(engine, label)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn other_key(&self, engine: &Engine, label: &str) -> Error {
        Error::KeysDiffer {
            token: engine.shared().label.clone(),
            first: self.token.clone(),
            why: format!("`{label}` is another key: it does not open what the first one closed"),
        }
    }
}

/// Kind, and public half if it has one.
type Key = (Kind, Option<Vec<u8>>);

/// The keys of a token.
fn keys(engine: &Engine) -> Vec<(String, Key)> {
    let all = engine.keys();
    // It signs what that token was made to be.
    let shared = all.filter(|(label, _)| *label != TRANSCRIPT);
    shared
        .map(|(label, found)| (label.to_owned(), (found.kind, found.public.clone())))
        .collect()
}

const TRANSCRIPT: &str = "transcript";
/// What is sealed for the proof: of no meter, and no secret.
const SONG: &[u8] = b"latchkey pool proof";
