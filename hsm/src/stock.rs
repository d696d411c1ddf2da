//! Many meters' keys at one time: how a delivery of a manufacturer comes in.
//!
//! One job of a worker takes [`JOB`] meters, some 10 ms of a software token: whoever wants an APDU
//! ciphered meanwhile waits no longer than that.

use cryptoki::object::{KeyType, ObjectHandle};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::cipher;
use crate::error::Error;
use crate::key::KeyHandle;
use crate::oaep;
use crate::pool::Engine;
use crate::token::Token;

/// What is MACed for a fingerprint: one block of AES, and no block that a check value, GHASH or
/// any message of DLMS has first.
const FINGERPRINT: &[u8; 16] = b"latchkey-key-id1";
/// Meters whose keys one job takes.
pub(crate) const JOB: usize = 64;
/// The same, where each key comes under RSA.
const RSA_JOB: usize = 2;

/// How a key is told from every other without being shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marks {
    /// The first 5 octets of its CMAC over 16 zero octets, as meters and their papers show it.
    pub check_value: [u8; 5],
    /// Its whole CMAC over a constant of Latchkey's: two keys have the same one once in 2^128.
    pub fingerprint: [u8; 16],
}

/// Keys of one meter on their way in, each wrapped under the transport key; empty for none.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// The transport key they are wrapped under.
    pub transport: String,
    /// The keys they are to be wrapped under.
    pub keks: Keks,
    /// The global unicast encryption key, AES.
    pub encryption: Vec<u8>,
    /// The global broadcast encryption key, AES.
    pub broadcast: Vec<u8>,
    /// The master key, AES.
    pub master: Vec<u8>,
    /// The HLS secret.
    pub secret: Vec<u8>,
}

/// The labels of one generation of key-encryption keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keks {
    /// `kek-ek-N`.
    pub encryption: String,
    /// `kek-mk-N`.
    pub master: String,
    /// `kek-hs-N`.
    pub secret: String,
}

/// What was made of a [`Delivery`]: what is to be stored, each empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Under `kek-ek-N`.
    pub encryption: Vec<u8>,
    /// Of the encryption key.
    pub encryption_marks: Option<Marks>,
    /// Under `kek-ek-N`.
    pub broadcast: Vec<u8>,
    /// Of the broadcast key.
    pub broadcast_marks: Option<Marks>,
    /// Under `kek-mk-N`.
    pub master: Vec<u8>,
    /// Under `kek-hs-N`.
    pub secret: Vec<u8>,
}

/// Which part of a delivery was refused, and why. Only what is wrong with the part itself: that
/// the token failed is an error of the whole.
#[derive(Debug)]
pub struct Rejected {
    /// `encryption`, `broadcast`, `master` or `secret`.
    pub part: &'static str,
    /// Why.
    pub error: Error,
}

/// A readable secret on its way in, to be sealed as [`Token::protect_ak`] does it.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The transport key it is wrapped under.
    pub transport: String,
    /// The secret, wrapped.
    pub wrapped: Vec<u8>,
    /// Whether it is an AES key; else an HLS secret.
    pub is_key: bool,
    /// The key that seals it: `kek-ak-N`.
    pub kek: String,
    /// What the seal binds it to.
    pub aad: Vec<u8>,
}

/// A readable secret on its way in, to be compared with a sealed one.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The secret that came. Its `kek` and `aad` are those of the one that is held.
    pub incoming: Sealing,
    /// The one that is held, as [`Token::protect_ak`] made it.
    pub held: Vec<u8>,
}

impl Token {
    /// Takes the keys of many meters in, in the order given. Waits for the token if it is busy;
    /// an error is of the token, and then nothing of any of them is known.
    pub async fn take_in(
        &self,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Result<Kept, Rejected>>, Error> {
        let job = job(deliveries.iter().map(|delivery| &delivery.transport));
        self.in_jobs(deliveries, job, |engine, delivery| {
            engine.take_in(&delivery)
        })
        .await
    }

    /// Seals many readable secrets, in the order given.
    pub async fn seal_in(
        &self,
        sealings: Vec<Sealing>,
    ) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let job = job(sealings.iter().map(|sealing| &sealing.transport));
        self.in_jobs(sealings, job, |engine, sealing| {
            let secret = engine.reveal_sealing(&sealing);
            match engine.own(secret)? {
                Ok(secret) => engine
                    .protect_ak(&sealing.kek, &sealing.aad, &secret)
                    .map(Ok),
                Err(error) => Ok(Err(error)),
            }
        })
        .await
    }

    /// Whether readable secrets that came are those that are held, in the order given; in constant
    /// time for each. One that does not unwrap, or whose seal is broken, is another.
    pub async fn compare_in(&self, comparisons: Vec<Comparison>) -> Result<Vec<bool>, Error> {
        let job = job(comparisons.iter().map(|pair| &pair.incoming.transport));
        self.in_jobs(comparisons, job, |engine, comparison| {
            let sealing = &comparison.incoming;
            let came = engine.reveal_sealing(sealing);
            let Ok(came) = engine.own(came)? else {
                return Ok(false);
            };
            let held = engine.reveal_ak(&sealing.kek, &sealing.aad, &comparison.held);
            let Ok(held) = engine.own(held)? else {
                return Ok(false);
            };
            Ok(came.as_slice().ct_eq(held.as_slice()).into())
        })
        .await
    }

    /// Check value and fingerprint of stored keys, each with the label of its `kek-ek-N`, in the
    /// order given.
    pub async fn marks_of(
        &self,
        keys: Vec<(String, Vec<u8>)>,
    ) -> Result<Vec<Result<Marks, Error>>, Error> {
        self.in_jobs(keys, JOB, |engine, (kek, wrapped)| {
            let marks = engine.marks_of(&kek, &wrapped);
            engine.own(marks)
        })
        .await
    }

    /// The fingerprint of a key in use.
    pub async fn fingerprint(&self, key: &KeyHandle) -> Result<[u8; 16], Error> {
        let held = key.clone();
        self.on_owner(key, move |engine| {
            let object = engine.held(&held)?;
            mac(engine, object, FINGERPRINT)
        })
        .await
    }

    /// Does `op` for each, some of them in one job; waits for a place rather than say `Busy`.
    pub(crate) async fn in_jobs<I: Clone + Send + 'static, O: Send + 'static>(
        &self,
        mut items: Vec<I>,
        job: usize,
        op: impl Fn(&mut Engine, I) -> Result<O, Error> + Clone + Send + 'static,
    ) -> Result<Vec<O>, Error> {
        let mut done = Vec::with_capacity(items.len());
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(job));
            let job = std::mem::replace(&mut items, rest);
            let op = op.clone();
            let made = self.on_any_patiently(move |engine| {
                job.into_iter()
                    .map(|item| op(engine, item))
                    .collect::<Result<Vec<_>, _>>()
            });
            done.extend(made.await?);
        }
        Ok(done)
    }
}

impl Engine {
    fn take_in(&mut self, delivery: &Delivery) -> Result<Result<Kept, Rejected>, Error> {
        let transport = delivery.transport.as_str();
        let keks = &delivery.keks;
        let mut kept = Kept::default();
        let parts = [
            (
                "encryption",
                &delivery.encryption,
                &mut kept.encryption,
                &keks.encryption,
            ),
            (
                "broadcast",
                &delivery.broadcast,
                &mut kept.broadcast,
                &keks.encryption,
            ),
            ("master", &delivery.master, &mut kept.master, &keks.master),
        ];
        for (part, wrapped, place, kek) in parts {
            if wrapped.is_empty() {
                continue;
            }
            let imported = self.import_wrapped(transport, wrapped, kek);
            match self.own(imported)? {
                Ok(wrapped) => *place = wrapped,
                Err(error) => return Ok(Err(Rejected { part, error })),
            }
        }
        if !delivery.secret.is_empty() {
            let imported = self.import_secret(transport, &delivery.secret, &keks.secret);
            match self.own(imported)? {
                Ok(wrapped) => kept.secret = wrapped,
                Err(error) => {
                    let part = "secret";
                    return Ok(Err(Rejected { part, error }));
                }
            }
        }
        if !kept.encryption.is_empty() {
            kept.encryption_marks = Some(self.marks_of(&keks.encryption, &kept.encryption)?);
        }
        if !kept.broadcast.is_empty() {
            kept.broadcast_marks = Some(self.marks_of(&keks.encryption, &kept.broadcast)?);
        }
        Ok(Ok(kept))
    }

    /// Unwraps a key, looks at it and destroys it.
    fn marks_of(&mut self, kek: &str, wrapped: &[u8]) -> Result<Marks, Error> {
        let object = self.unwrap_meter_key(kek, wrapped)?;
        let check: Result<[u8; 16], Error> = mac(self, object, &[0; 16]);
        let fingerprint = mac(self, object, FINGERPRINT);
        self.session().destroy_object(object)?;
        let [a, b, c, d, e, ..] = check?;
        Ok(Marks {
            check_value: [a, b, c, d, e],
            fingerprint: fingerprint?,
        })
    }

    /// Sorts out what is wrong with what came from what is wrong with the token.
    pub(crate) fn own<T>(&mut self, outcome: Result<T, Error>) -> Result<Result<T, Error>, Error> {
        match outcome {
            Ok(done) => Ok(Ok(done)),
            Err(
                error
                @ (Error::WrappedKeyInvalid { .. } | Error::AuthFailed | Error::Length { .. }),
            ) => Ok(Err(error)),
            Err(error @ Error::Refused { .. }) => {
                // A token that still does its work refused this one.
                self.check()?;
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    fn reveal_sealing(&mut self, sealing: &Sealing) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key_type = if sealing.is_key {
            KeyType::AES
        } else {
            KeyType::GENERIC_SECRET
        };
        self.reveal_incoming(&sealing.transport, &sealing.wrapped, key_type)
    }
}

/// How many of these one job takes.
fn job<'a>(mut transports: impl Iterator<Item = &'a String>) -> usize {
    if transports.any(|transport| oaep::is_rsa(transport)) {
        RSA_JOB
    } else {
        JOB
    }
}

fn mac(engine: &Engine, key: ObjectHandle, text: &[u8; 16]) -> Result<[u8; 16], Error> {
    let mac = cipher::cmac(engine.session(), key, text)?;
    <[u8; 16]>::try_from(mac.as_slice()).map_err(|_| Error::Contract {
        why: format!("a CMAC has {} octets, not 16", mac.len()),
    })
}
