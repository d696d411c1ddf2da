//! Keys on their way to a meter: made in the token, and out of it only wrapped, twice: under the
//! key-encryption key they are kept under, and under the meter's master key, as `key_transfer`
//! carries them (IEC 62056-6-2, class 64). The object itself is destroyed at once.
//!
//! Only authentication keys are known outside, as always ([`crate`]), and so is, in zeroized
//! memory, what a key agreement derives where the token has no key derivation of DLMS's kind.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::agree::{Agreement, ephemeral};
use crate::cipher;
use crate::curve::Curve;
use crate::error::Error;
use crate::key::{self, KeyHandle, Kind};
use crate::pool::Engine;
use crate::secret::used_once;
use crate::token::Token;
use crate::wrap::MasterKeyHandle;

/// A new key, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Travelling {
    /// Under the key-encryption key: to be kept.
    pub kept: Vec<u8>,
    /// Under the meter's master key that is in force: to be sent.
    pub sent: Vec<u8>,
}

/// A new master key of a meter, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TravellingMaster {
    /// Under `kek-mk-N`: to be kept.
    pub kept: Vec<u8>,
    /// Under the master key that is in force: to be sent. Empty if it was agreed.
    pub sent: Vec<u8>,
    /// Under itself: a meter that takes this has it, and changes nothing.
    pub confirmed: Vec<u8>,
}

/// Our half of a key agreement: a key pair of one session, gone with its last clone, and with the
/// session.
#[derive(Clone, Debug)]
pub struct EphemeralHandle {
    key: KeyHandle,
    curve: Curve,
}

impl Token {
    /// Makes a new encryption key of 16 or 32 octets for a meter, kept under `kek` (`kek-ek-N`).
    pub async fn generate_for_meter(
        &self,
        kek: &str,
        master: &MasterKeyHandle,
        octets: usize,
    ) -> Result<Travelling, Error> {
        cipher::key_length(octets)?;
        let (kek, held) = (kek.to_owned(), master.0.clone());
        self.on_owner(&master.0, move |engine| {
            let kek = engine.key(&kek, Kind::KekEk)?;
            let master = engine.held(&held)?;
            let mut template = key::incoming_key(KeyType::AES, false);
            template.push(key::value_length(octets));
            let session = engine.session();
            let fresh = session.generate_key(&Mechanism::AesKeyGen, &template)?;
            used_once(session, fresh, |fresh| {
                Ok(Travelling {
                    kept: wrap(session, kek, fresh)?,
                    sent: wrap(session, master, fresh)?,
                })
            })
        })
        .await
    }

    /// Wraps an *authentication* key, 16 or 32 octets, under a meter's master key.
    pub async fn wrap_for_meter(
        &self,
        master: &MasterKeyHandle,
        ak: &Zeroizing<Vec<u8>>,
    ) -> Result<Vec<u8>, Error> {
        cipher::key_length(ak.len())?;
        let (ak, held) = (ak.clone(), master.0.clone());
        self.on_owner(&master.0, move |engine| {
            let master = engine.held(&held)?;
            let template = key::incoming_key(KeyType::AES, false);
            let session = engine.session();
            let object = key::create_with_value(session, template, &ak)?;
            used_once(session, object, |object| wrap(session, master, object))
        })
        .await
    }

    /// Makes a new master key of 16 or 32 octets for a meter, kept under `kek_mk` (`kek-mk-N`).
    pub async fn generate_master_for_meter(
        &self,
        kek_mk: &str,
        master: &MasterKeyHandle,
        octets: usize,
    ) -> Result<TravellingMaster, Error> {
        cipher::key_length(octets)?;
        let (kek_mk, held) = (kek_mk.to_owned(), master.0.clone());
        self.on_owner(&master.0, move |engine| {
            let old = engine.held(&held)?;
            let mut template = travelling_master();
            template.push(key::value_length(octets));
            let session = engine.session();
            let fresh = session.generate_key(&Mechanism::AesKeyGen, &template)?;
            master_out(engine, &kek_mk, Some(old), fresh)
        })
        .await
    }

    /// Makes a key pair for one agreement. Returns it and its public key, X then Y.
    pub async fn begin_agreement(&self, curve: Curve) -> Result<(EphemeralHandle, Vec<u8>), Error> {
        self.on_any(move |engine| {
            let (own, public) = ephemeral(engine.session(), curve)?;
            let key = engine.hold(own);
            Ok((EphemeralHandle { key, curve }, public))
        })
        .await
    }

    /// Finishes an agreement with the peer's ephemeral public key (X then Y): the new master key of
    /// a meter. [`Error::StaleKey`] if the token was opened anew since it began.
    pub async fn agree_master(
        &self,
        own: &EphemeralHandle,
        peer: &[u8],
        other_info: &[u8],
        kek_mk: &str,
    ) -> Result<TravellingMaster, Error> {
        let agreement = Agreement::new(own.curve, peer, other_info)?;
        let (kek_mk, held) = (kek_mk.to_owned(), own.key.clone());
        let curve = own.curve;
        self.on_owner(&own.key, move |engine| {
            let own = engine.held(&held)?;
            let made = (engine.manner(curve).0, travelling_master());
            let agreed = agreement.carry_out_as(engine.session(), own, made)?;
            master_out(engine, &kek_mk, None, agreed)
        })
        .await
    }
}

/// Wraps a new master key, and destroys it.
fn master_out(
    engine: &mut Engine,
    kek_mk: &str,
    old: Option<ObjectHandle>,
    fresh: ObjectHandle,
) -> Result<TravellingMaster, Error> {
    let kek = engine.key(kek_mk, Kind::KekMk);
    let session = engine.session();
    used_once(session, fresh, |fresh| {
        Ok(TravellingMaster {
            kept: wrap(session, kek?, fresh)?,
            sent: match old {
                Some(old) => wrap(session, old, fresh)?,
                None => Vec::new(),
            },
            confirmed: wrap(session, fresh, fresh)?,
        })
    })
}

fn wrap(session: &Session, by: ObjectHandle, key: ObjectHandle) -> Result<Vec<u8>, Error> {
    Ok(session.wrap_key(&Mechanism::AesKeyWrap, by, key)?)
}

/// Good for being wrapped, and for wrapping itself.
fn travelling_master() -> Vec<Attribute> {
    let mut template = key::incoming_key(KeyType::AES, false);
    for attribute in &mut template {
        if matches!(attribute, Attribute::Wrap(_)) {
            *attribute = Attribute::Wrap(true);
        }
    }
    template
}
