//! Keys under other keys: how meters' keys come in, are kept, and come into use.

use cryptoki::context::Function;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::cipher::{self, FULL_TAG, Gcm, NONCE};
use crate::error::Error;
use crate::key::{self, KeyHandle, Kind};
use crate::module::making;
use crate::oaep;
use crate::pool::{Engine, is_data_error};
use crate::token::Token;

impl Token {
    /// Brings a stored key (RFC 3394, 24 or 40 octets) into use: a session object that can neither
    /// be read nor exported. It is destroyed when the last clone of its handle is dropped.
    pub async fn unwrap_key(&self, kek: &str, wrapped: &[u8]) -> Result<KeyHandle, Error> {
        wrapped_length(wrapped)?;
        let (kek, wrapped) = (kek.to_owned(), wrapped.to_vec());
        self.on_any(move |engine| {
            let object = engine.unwrap_meter_key(&kek, &wrapped)?;
            Ok(engine.hold(object))
        })
        .await
    }

    /// Makes a new AES key of 16 or 32 octets in the token and returns it wrapped under `kek`
    /// (`kek-ek-N`, or `kek-mk-N` for a master key).
    pub async fn generate_wrapped(&self, kek: &str, octets: usize) -> Result<Vec<u8>, Error> {
        cipher::key_length(octets)?;
        let kek = kek.to_owned();
        self.on_any(move |engine| engine.generate_wrapped(&kek, octets))
            .await
    }

    /// Takes a key wrapped under `transport` (`transport-N`: RFC 3394, 24 or 40 octets;
    /// `transport-rsa-N`: RSA-OAEP, 384 octets, with the hash that [`Token::transport_key`] says)
    /// and returns it wrapped under `kek` (`kek-ek-N`, or `kek-mk-N` for a master key).
    pub async fn import_wrapped(
        &self,
        transport: &str,
        wrapped: &[u8],
        kek: &str,
    ) -> Result<Vec<u8>, Error> {
        oaep::sent_length(transport, wrapped, wrapped_length)?;
        let (transport, kek) = (transport.to_owned(), kek.to_owned());
        let wrapped = wrapped.to_vec();
        self.on_any(move |engine| engine.import_wrapped(&transport, &wrapped, &kek))
            .await
    }

    /// Takes an *authentication* key wrapped under `transport` and returns the blob that
    /// [`Token::protect_ak`] would have made of it.
    pub async fn import_ak(
        &self,
        transport: &str,
        wrapped: &[u8],
        kek_ak: &str,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        oaep::sent_length(transport, wrapped, wrapped_length)?;
        cipher::limit("the associated data", aad)?;
        let (transport, kek_ak) = (transport.to_owned(), kek_ak.to_owned());
        let (wrapped, aad) = (wrapped.to_vec(), aad.to_vec());
        self.on_any(move |engine| {
            let ak = engine.reveal_incoming(&transport, &wrapped, KeyType::AES)?;
            engine.protect_ak(&kek_ak, &aad, &ak)
        })
        .await
    }

    /// Wraps a key known in clear, 16 or 32 octets. For laboratories: a production key is never in
    /// clear outside a token.
    pub async fn wrap_clear(&self, kek: &str, key: &Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Error> {
        cipher::key_length(key.len())?;
        let (kek, key) = (kek.to_owned(), key.clone());
        self.on_any(move |engine| engine.wrap_clear(&kek, &key))
            .await
    }

    /// Brings a meter's stored master key into use (RFC 3394, 24 or 40 octets, under `kek-mk-N`).
    pub async fn unwrap_master_key(
        &self,
        kek_mk: &str,
        wrapped: &[u8],
    ) -> Result<MasterKeyHandle, Error> {
        wrapped_length(wrapped)?;
        let (kek_mk, wrapped) = (kek_mk.to_owned(), wrapped.to_vec());
        let held = self.on_any(move |engine| {
            let object = engine.unwrap_master_key(&kek_mk, &wrapped)?;
            Ok(engine.hold(object))
        });
        Ok(MasterKeyHandle(held.await?))
    }

    /// Makes a key of 16 or 32 octets that enciphers and does nothing else, and wraps it under a
    /// meter's master key: to be sent along with what it enciphered.
    pub async fn generate_under(
        &self,
        master: &MasterKeyHandle,
        octets: usize,
    ) -> Result<(KeyHandle, Vec<u8>), Error> {
        cipher::key_length(octets)?;
        let held = master.0.clone();
        self.on_owner(&master.0, move |engine| {
            let master = engine.held(&held)?;
            let session = engine.session();
            let mut template = key::passing_key();
            template.push(key::value_length(octets));
            making(1);
            let fresh = session.generate_key(&Mechanism::AesKeyGen, &template)?;
            // Held first: it is destroyed if it cannot be wrapped.
            let fresh_key = engine.hold(fresh);
            let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, master, fresh)?;
            Ok((fresh_key, wrapped))
        })
        .await
    }

    /// Brings a key that came wrapped under a meter's master key into use.
    pub async fn unwrap_under(
        &self,
        master: &MasterKeyHandle,
        wrapped: &[u8],
    ) -> Result<KeyHandle, Error> {
        wrapped_length(wrapped)?;
        let held = master.0.clone();
        let wrapped = wrapped.to_vec();
        self.on_owner(&master.0, move |engine| {
            let master = engine.held(&held)?;
            let object = engine.unwrap_by(
                "the master key",
                (&Mechanism::AesKeyWrap, master),
                &wrapped,
                &key::working_key(engine.gcm()),
            )?;
            Ok(engine.hold(object))
        })
        .await
    }

    /// Enciphers an authentication key for storage. `aad` says whose it is: a blob moved to
    /// another meter's row does not open.
    pub async fn protect_ak(&self, kek_ak: &str, aad: &[u8], ak: &[u8]) -> Result<Vec<u8>, Error> {
        cipher::limit("the associated data", aad)?;
        cipher::limit("the authentication key", ak)?;
        let (kek_ak, aad) = (kek_ak.to_owned(), aad.to_vec());
        let ak = Zeroizing::new(ak.to_vec());
        self.on_any(move |engine| engine.protect_ak(&kek_ak, &aad, &ak))
            .await
    }

    /// Deciphers what [`Token::protect_ak`] made. [`Error::AuthFailed`] if blob or `aad` is not
    /// what it was.
    pub async fn reveal_ak(
        &self,
        kek_ak: &str,
        aad: &[u8],
        blob: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        cipher::limit("the associated data", aad)?;
        cipher::limit("the blob", blob)?;
        let (kek_ak, aad, blob) = (kek_ak.to_owned(), aad.to_vec(), blob.to_vec());
        self.on_any(move |engine| engine.reveal_ak(&kek_ak, &aad, &blob))
            .await
    }
}

impl Engine {
    pub(crate) fn unwrap_meter_key(
        &mut self,
        kek: &str,
        wrapped: &[u8],
    ) -> Result<ObjectHandle, Error> {
        self.unwrap(Kind::KekEk, kek, wrapped, &key::working_key(self.gcm()))
    }

    pub(crate) fn unwrap_master_key(
        &mut self,
        kek: &str,
        wrapped: &[u8],
    ) -> Result<ObjectHandle, Error> {
        self.unwrap(Kind::KekMk, kek, wrapped, &key::master_key())
    }

    pub(crate) fn generate_wrapped(&self, kek: &str, octets: usize) -> Result<Vec<u8>, Error> {
        generate(self.session(), self.wrapping_key(kek)?, octets)
    }

    /// A key that wraps AES keys.
    fn wrapping_key(&self, label: &str) -> Result<ObjectHandle, Error> {
        self.key(label, Kind::KekMk)
            .or_else(|_| self.key(label, Kind::KekEk))
    }

    pub(crate) fn import_wrapped(
        &mut self,
        transport: &str,
        wrapped: &[u8],
        kek: &str,
    ) -> Result<Vec<u8>, Error> {
        let wrapping = self.wrapping_key(kek)?;
        let template = key::incoming_key(KeyType::AES, false);
        let incoming = self.unwrap_incoming(transport, wrapped, &template)?;
        self.rewrap_incoming(transport, incoming, (wrapping, kek), cipher::key_length)
    }

    pub(crate) fn reveal_incoming(
        &mut self,
        transport: &str,
        wrapped: &[u8],
        key_type: KeyType,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let template = key::incoming_key(key_type, true);
        let incoming = self.unwrap_incoming(transport, wrapped, &template)?;
        let read = self
            .session()
            .get_attributes(incoming, &[AttributeType::Value]);
        self.session().destroy_object(incoming)?;
        match read?.pop() {
            Some(Attribute::Value(value)) => {
                let value = Zeroizing::new(value);
                if oaep::is_rsa(transport) {
                    readable_length(key_type, value.len())?;
                }
                Ok(value)
            }
            _ => Err(Error::Contract {
                why: "an unwrapped key has no value".to_owned(),
            }),
        }
    }

    pub(crate) fn wrap_clear(&self, kek: &str, value: &[u8]) -> Result<Vec<u8>, Error> {
        let kek = self.wrapping_key(kek)?;
        let template = key::incoming_key(KeyType::AES, false);
        let incoming = key::create_with_value(self.session(), template, value)?;
        wrap_and_destroy(self.session(), kek, incoming)
    }

    pub(crate) fn protect_ak(&self, kek_ak: &str, aad: &[u8], ak: &[u8]) -> Result<Vec<u8>, Error> {
        let (kek, gcm) = self.sealing_key(kek_ak)?;
        let mut nonce = [0; NONCE];
        self.session().generate_random_slice(&mut nonce)?;
        let gcm = Gcm::full(nonce, aad).by(gcm);
        let sealed = cipher::encrypt(self.session(), kek, gcm, ak)?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) fn reveal_ak(
        &mut self,
        kek_ak: &str,
        aad: &[u8],
        blob: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (kek, gcm) = self.sealing_key(kek_ak)?;
        let Some((nonce, sealed)) = blob.split_first_chunk::<NONCE>() else {
            return Err(Error::AuthFailed);
        };
        if sealed.len() < FULL_TAG {
            return Err(Error::AuthFailed);
        }
        match cipher::decrypt(self.session(), kek, Gcm::full(*nonce, aad).by(gcm), sealed) {
            Ok(ak) => Ok(Zeroizing::new(ak)),
            // Unlike a meter's key this one is a token object, which goes when the token goes.
            Err(Error::Refused {
                function: Function::Decrypt,
                code,
            }) if is_data_error(code) => {
                self.check()?;
                Err(Error::AuthFailed)
            }
            Err(other) => Err(other),
        }
    }

    pub(crate) fn unwrap(
        &mut self,
        kind: Kind,
        label: &str,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        let kek = self.key(label, kind)?;
        self.unwrap_by(label, (&Mechanism::AesKeyWrap, kek), wrapped, template)
    }

    pub(crate) fn unwrap_by(
        &mut self,
        label: &str,
        (mechanism, kek): (&Mechanism<'_>, ObjectHandle),
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        making(1);
        let unwrapped = self.session().unwrap_key(mechanism, kek, wrapped, template);
        match unwrapped.map_err(Error::from) {
            Err(Error::Refused {
                function: Function::UnwrapKey,
                code,
            }) if is_data_error(code) => {
                self.check()?;
                // The token does its work. If it was at fault just then, it is not now: a damaged
                // blob stays damaged.
                making(1);
                let again = self.session().unwrap_key(mechanism, kek, wrapped, template);
                again.map_err(|_| Error::WrappedKeyInvalid {
                    kek: label.to_owned(),
                })
            }
            other => other,
        }
    }
}

/// A meter's master key (KEK) inside the token: it wraps and unwraps other keys; unreadable, gone
/// with its last clone.
#[derive(Clone, Debug)]
pub struct MasterKeyHandle(pub(crate) KeyHandle);

/// A new AES key of 16 or 32 octets, wrapped.
pub(crate) fn generate(
    session: &Session,
    kek: ObjectHandle,
    octets: usize,
) -> Result<Vec<u8>, Error> {
    let mut template = key::incoming_key(KeyType::AES, false);
    template.push(key::value_length(octets));
    making(1);
    let fresh = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    wrap_and_destroy(session, kek, fresh)
}

/// Tries to unwrap a key of `template` with one attribute other than it must be.
pub(crate) fn unwrap_as(
    session: &Session,
    kek: ObjectHandle,
    wrapped: &[u8],
    (mut template, open): (Vec<Attribute>, &Attribute),
) -> Result<ObjectHandle, cryptoki::error::Error> {
    for attribute in &mut template {
        if attribute.attribute_type() == open.attribute_type() {
            *attribute = open.clone();
        }
    }
    making(1);
    session.unwrap_key(&Mechanism::AesKeyWrap, kek, wrapped, &template)
}

pub(crate) fn wrap_and_destroy(
    session: &Session,
    kek: ObjectHandle,
    key: ObjectHandle,
) -> Result<Vec<u8>, Error> {
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, kek, key);
    session.destroy_object(key)?;
    Ok(wrapped?)
}

/// What may come in to be read: an AES key, or an HLS secret of any length.
fn readable_length(key_type: KeyType, octets: usize) -> Result<(), Error> {
    if key_type == KeyType::AES {
        return cipher::key_length(octets);
    }
    if (1..=64).contains(&octets) {
        return Ok(());
    }
    Err(Error::Length {
        what: "the HLS secret",
        length: octets,
        allowed: "1..=64",
    })
}

fn wrapped_length(wrapped: &[u8]) -> Result<(), Error> {
    if matches!(wrapped.len(), 24 | 40) {
        return Ok(());
    }
    Err(Error::Length {
        what: "the wrapped key",
        length: wrapped.len(),
        allowed: "24 (AES-128) or 40 (AES-256)",
    })
}
