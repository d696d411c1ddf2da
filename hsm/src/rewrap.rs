//! Generations of key-encryption keys, and how what is kept under one comes under another.
//!
//! A working token never lets out what its key-encryption keys unwrap, so it cannot wrap it anew. A backup token can:
//! its own copy of each key unwraps to what can be wrapped again and do nothing else. In neither token, and not in this
//! process, is a key in clear that is kept by RFC 3394. What is sealed (`kek-ak-N`) the working token opens and seals
//! anew by itself; that is in this process for the moment, zeroized.

use std::collections::BTreeMap;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::KeyType;

use crate::cipher;
use crate::error::Error;
use crate::key::{self, Kind};
use crate::pool::Engine;
use crate::stock::JOB;
use crate::token::Token;

/// The key-encryption keys of one number that a token has and can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KekGeneration {
    /// The N of `kek-ek-N`, `kek-ak-N`, `kek-hs-N` and `kek-mk-N`.
    pub number: u32,
    /// Whether encryption keys can be kept under it.
    pub ek: bool,
    /// Whether authentication keys and passwords can.
    pub ak: bool,
    /// Whether HLS secrets can.
    pub hs: bool,
    /// Whether master keys can.
    pub mk: bool,
}

impl KekGeneration {
    /// How much of it there is: 2 without HLS secrets and master keys, 4 with all.
    pub fn keys(&self) -> usize {
        [self.ek, self.ak, self.hs, self.mk]
            .into_iter()
            .filter(|there| *there)
            .count()
    }
}

/// Something sealed by [`Token::protect_ak`], to be sealed anew.
#[derive(Clone, Debug)]
pub struct Reseal {
    /// The blob.
    pub blob: Vec<u8>,
    /// The associated data it was sealed with.
    pub old_aad: Vec<u8>,
    /// The associated data it is sealed with anew.
    pub new_aad: Vec<u8>,
}

impl Token {
    /// The generations whose `kek-ek-N` and `kek-ak-N` are on this custody token and passed their test, in rising order.
    /// It knows the keys that were there when its session was opened.
    pub async fn kek_generations(&self) -> Result<Vec<KekGeneration>, Error> {
        let all = self.on_any(|engine| Ok(engine.generations())).await?;
        Ok(all.into_iter().filter(|kek| kek.ek && kek.ak).collect())
    }

    /// Takes keys wrapped (RFC 3394) under one key-encryption key of this *backup* token and wraps them under another of
    /// the same kind, each with its own outcome. Waits for its turn, and lets others have theirs in between.
    ///
    /// [`Error::WrappedKeyInvalid`] for one that is damaged or not of that key.
    pub async fn rewrap(
        &self,
        from: &str,
        to: &str,
        wrapped: Vec<Vec<u8>>,
    ) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.in_jobs(wrapped, JOB, move |engine, wrapped| {
            let rewrapped = engine.rewrap(&from, &to, &wrapped);
            engine.own(rewrapped)
        })
        .await
    }

    /// Opens what is sealed under one key of this custody token and seals it under another, each with its own outcome.
    /// [`Error::AuthFailed`] for one that does not open.
    pub async fn reseal(
        &self,
        from: &str,
        to: &str,
        sealed: Vec<Reseal>,
    ) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        for one in &sealed {
            cipher::limit("the blob", &one.blob)?;
            cipher::limit("the associated data", &one.old_aad)?;
            cipher::limit("the associated data", &one.new_aad)?;
        }
        let (from, to) = (from.to_owned(), to.to_owned());
        self.in_jobs(sealed, JOB, move |engine, one| {
            let opened = engine.reveal_ak(&from, &one.old_aad, &one.blob);
            match engine.own(opened)? {
                Ok(opened) => engine.protect_ak(&to, &one.new_aad, &opened).map(Ok),
                Err(error) => Ok(Err(error)),
            }
        })
        .await
    }
}

impl Engine {
    fn generations(&self) -> Vec<KekGeneration> {
        let mut all: BTreeMap<u32, KekGeneration> = BTreeMap::new();
        for (label, found) in self.keys() {
            let usable = self.key(label, found.kind).is_ok();
            let number = label.rsplit('-').next().and_then(|n| n.parse().ok());
            let (true, Some(number)) = (usable, number) else {
                continue;
            };
            let mut kek = KekGeneration {
                number,
                ..all.get(&number).copied().unwrap_or_default()
            };
            match found.kind {
                Kind::KekEk => kek.ek = true,
                Kind::KekAk => kek.ak = true,
                Kind::KekHs => kek.hs = true,
                Kind::KekMk => kek.mk = true,
                _ => continue,
            }
            all.insert(number, kek);
        }
        all.into_values().collect()
    }

    fn rewrap(&mut self, from: &str, to: &str, wrapped: &[u8]) -> Result<Vec<u8>, Error> {
        let kinds = [Kind::KekEk, Kind::KekHs, Kind::KekMk];
        let of_from = kinds.into_iter().find(|kind| self.key(from, *kind).is_ok());
        let kind = of_from.unwrap_or(Kind::KekEk);
        let (old, new) = (self.key(from, kind)?, self.key(to, kind)?);
        let key_type = match kind {
            Kind::KekHs => KeyType::GENERIC_SECRET,
            _ => KeyType::AES,
        };
        let template = key::passing_through(key_type);
        let passing = self.unwrap_by(from, (&Mechanism::AesKeyWrap, old), wrapped, &template)?;
        crate::wrap::wrap_and_destroy(self.session(), new, passing)
    }

    /// The same octets again, by the bare calls: `Engine::unwrap` asks what this is for what its errors mean.
    pub(crate) fn rewrap_bare(&self, kek: &str, wrapped: &[u8]) -> Result<Vec<u8>, Error> {
        let kek = self.key(kek, Kind::KekEk)?;
        let template = key::passing_through(KeyType::AES);
        let session = self.session();
        crate::module::making(1);
        let passing = session.unwrap_key(&Mechanism::AesKeyWrap, kek, wrapped, &template)?;
        crate::wrap::wrap_and_destroy(session, kek, passing)
    }
}
