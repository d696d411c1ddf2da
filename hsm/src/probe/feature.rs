//! The self-test of what not every token needs: HLS secrets, master keys, ECDSA and ECDH.
//!
//! A token is tested for what it has keys for. One that refuses a part of it serves without: the
//! key is named in the log and refused by name ever after. One that gives a wrong answer, or lets a
//! key out, is not used at all.

use std::collections::BTreeMap;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::cmac;
use aws_lc_rs::digest::{self, digest};
use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectHandle};

use super::{SONG, equal, wrong};
use crate::able::KeyDerivation;
use crate::agree::Agreement;
use crate::cipher;
use crate::curve::Curve;
use crate::error::Error;
use crate::key::{self, Found, Kind};
use crate::oaep::OaepHash;
use crate::pool::Engine;
use crate::secret::{self, used_once};
use crate::{sign, wrap};

/// What the self-test found out.
#[derive(Default)]
pub(crate) struct Features {
    /// Which keys are not to be used, and why.
    pub(crate) off: BTreeMap<String, String>,
    /// The hash of the token's RSA-OAEP, if it has a key for it.
    pub(crate) oaep: Option<OaepHash>,
    /// Where agreed keys are derived, on the curves that have a key.
    pub(crate) derivation: BTreeMap<Curve, KeyDerivation>,
}

/// Tests every key that is there.
pub(crate) fn run(engine: &mut Engine) -> Result<Features, Error> {
    let keys: Vec<(String, Found)> = engine
        .keys()
        .map(|(label, found)| (label.to_owned(), found.clone()))
        .collect();
    let mut features = Features::default();
    for (label, found) in keys {
        let tested = match found.kind {
            Kind::KekHs => secrets(engine, &label),
            Kind::KekMk => master_keys(engine, &label),
            Kind::Sign(_) => signature(engine, &label, &found),
            Kind::Agree(curve) => derivation(engine, &found, curve).map(|how| {
                features.derivation.insert(curve, how);
            }),
            Kind::KekAk => sealing(engine, &label),
            Kind::TransportRsa => {
                let hash = transported(engine, &found);
                hash.map(|hash| features.oaep = Some(hash))
            }
            Kind::KekEk | Kind::Transport | Kind::Transcript | Kind::Ed25519 | Kind::Tls => Ok(()),
        };
        match tested {
            Ok(()) => {}
            Err(error @ (Error::Refused { .. } | Error::Contract { .. })) => {
                let token = &engine.shared().label;
                tracing::warn!(token, label, %error, "key is not used: its self-test failed");
                features.off.insert(label, error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let sealing = engine.keys().filter(|(_, key)| key.kind == Kind::KekAk);
    let off = sealing.map(|(label, _)| (label, features.off.get(label)));
    // A custody token that cannot open one stored key serves nobody.
    if let Some((label, Some(why))) = off.min_by_key(|(_, off)| off.is_some()) {
        return Err(Error::KeyOff {
            token: engine.shared().label.clone(),
            label: label.to_owned(),
            why: why.clone(),
        });
    }
    Ok(features)
}

/// What is sealed for storage opens again, and with other associated data does not.
fn sealing(engine: &mut Engine, label: &str) -> Result<(), Error> {
    let sealed = engine.protect_ak(label, b"a", SONG)?;
    let opened = engine.reveal_ak(label, b"a", &sealed)?;
    let mechanism = engine.sealing_key(label)?.1.mechanism();
    equal(engine, mechanism, &opened, SONG)?;
    match engine.reveal_ak(label, b"b", &sealed) {
        Err(Error::AuthFailed) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(wrong(engine, mechanism, "it opens what is another's")),
    }
}

/// A secret goes in, is digested as in software, and does not come out.
fn secrets(engine: &mut Engine, label: &str) -> Result<(), Error> {
    let wrapped = engine.wrap_secret(label, SONG.get(..16).unwrap_or(SONG))?;
    let object = engine.unwrap_secret(label, &wrapped)?;
    let session = engine.session();
    let digested = secret::digest(session, &Mechanism::Sha256, (b"a", b"b"), object);
    let locked = locked_in(engine, object, "an HLS secret");
    session.destroy_object(object)?;
    locked?;
    let expected = digest(&digest::SHA256, b"alatchkey hsm selb");
    equal(engine, "C_DigestKey", &digested?, expected.as_ref())?;
    let kek = engine.key(label, Kind::KekHs)?;
    not_unwrapped_open(engine, kek, &wrapped, &key::secret())
}

/// A master key goes in, wraps and unwraps, and does not come out.
fn master_keys(engine: &mut Engine, label: &str) -> Result<(), Error> {
    let wrapped = engine.generate_wrapped(label, 32)?;
    let master = engine.unwrap_master_key(label, &wrapped)?;
    let tested = master_key(engine, master);
    engine.session().destroy_object(master)?;
    tested?;
    let kek = engine.key(label, Kind::KekMk)?;
    not_unwrapped_open(engine, kek, &wrapped, &key::master_key())
}

fn master_key(engine: &Engine, master: ObjectHandle) -> Result<(), Error> {
    locked_in(engine, master, "a master key")?;
    let session = engine.session();
    let mut template = key::passing_key();
    template.push(key::value_length(16));
    let passing = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    let (sealed, sent) = used_once(session, passing, |passing| {
        let gcm = super::dlms(engine, [0; 12], SONG);
        let sealed = cipher::encrypt(session, passing, gcm, SONG)?;
        let sent = session.wrap_key(&Mechanism::AesKeyWrap, master, passing)?;
        Ok((sealed, sent))
    })?;
    let template = key::working_key(engine.gcm());
    let received = session.unwrap_key(&Mechanism::AesKeyWrap, master, &sent, &template)?;
    used_once(session, received, |received| {
        locked_in(engine, received, "a key that came wrapped")?;
        let gcm = super::dlms(engine, [0; 12], SONG);
        let opened = cipher::decrypt(session, received, gcm, &sealed)?;
        equal(engine, "CKM_AES_KEY_WRAP", &opened, SONG)
    })
}

fn signature(engine: &Engine, label: &str, found: &Found) -> Result<(), Error> {
    // Never leaves this function, and is of no form that DLMS signs.
    let signature = sign::sign(engine.session(), found.kind, found.object, SONG)?;
    if sign::verifies(found, SONG, &signature) {
        Ok(())
    } else {
        let why = format!("`{label}` signs wrongly");
        Err(wrong(engine, "CKM_ECDSA", &why))
    }
}

/// Where keys agreed with this key are derived: the first way that gives the key it should, or the one that
/// configuration demands.
fn derivation(engine: &Engine, found: &Found, curve: Curve) -> Result<KeyDerivation, Error> {
    let wanted = engine.shared().able.derivation_wanted;
    let tried = wanted.map_or(KeyDerivation::TRIED.to_vec(), |wanted| vec![wanted]);
    let mut failed = Error::PublicKeyInvalid;
    for how in tried {
        match agreed(engine, found, curve, how) {
            Ok(()) => return Ok(how),
            Err(
                error @ (Error::Refused { .. } | Error::Contract { .. } | Error::SelfTest { .. }),
            ) => {
                tracing::debug!(token = engine.shared().label, ?how, %error, "not in this way");
                failed = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(failed)
}

/// The token agrees on the same key as software does with a key pair of its own.
fn agreed(engine: &Engine, found: &Found, curve: Curve, how: KeyDerivation) -> Result<(), Error> {
    let host = |_| Error::Contract {
        why: "ECDH failed on this machine".to_owned(),
    };
    let algorithm = match curve {
        Curve::P256 => &agreement::ECDH_P256,
        Curve::P384 => &agreement::ECDH_P384,
    };
    let own = PrivateKey::generate(algorithm).map_err(host)?;
    let public = own.compute_public_key().map_err(host)?;
    let peer = public.as_ref().get(1..).unwrap_or_default();
    let session = engine.session();
    let agreement = Agreement::new(curve, peer, SONG)?;
    let object = agreement.carry_out(session, found.object, (how, engine.gcm()))?;
    let mac = used_once(session, object, |object| {
        locked_in(engine, object, "an agreed key")?;
        cipher::cmac(session, object, SONG)
    })?;
    let theirs = UnparsedPublicKey::new(algorithm, found.public.as_deref().unwrap_or_default());
    let unspecified = aws_lc_rs::error::Unspecified;
    let expected = agreement::agree(&own, theirs, unspecified, |z| {
        let mut context = digest::Context::new(curve.hash());
        for piece in [&[0, 0, 0, 1], z, SONG] {
            context.update(piece);
        }
        let key = context.finish();
        let algorithm = match curve {
            Curve::P256 => cmac::AES_128,
            Curve::P384 => cmac::AES_256,
        };
        let key = key.as_ref().get(..curve.agreed()).unwrap_or_default();
        let key = cmac::Key::new(algorithm, key)?;
        cmac::sign(&key, SONG)
    });
    equal(
        engine,
        "CKM_ECDH1_DERIVE",
        &mac,
        expected.map_err(host)?.as_ref(),
    )
}

/// A key that software enciphers with the public half comes in, with the best hash the token has.
fn transported(engine: &Engine, found: &Found) -> Result<OaepHash, Error> {
    let host = || Error::Contract {
        why: "RSA-OAEP failed on this machine".to_owned(),
    };
    let spki = found.public.as_deref().unwrap_or_default();
    let public = PublicEncryptingKey::from_der(spki).map_err(|_| host())?;
    let public = OaepPublicEncryptingKey::new(public).map_err(|_| host())?;
    let key = SONG.get(..16).unwrap_or(SONG);
    let mut refused = host();
    for hash in OaepHash::ALL {
        let mut sent = vec![0; public.ciphertext_size()];
        let sealed = public.encrypt(hash.algorithm(), key, &mut sent, None);
        let sent = sealed.map_err(|_| host())?;
        let unwrap = |template: &[Attribute]| {
            let session = engine.session();
            session.unwrap_key(&hash.mechanism(), found.object, sent, template)
        };
        let incoming = key::incoming_key(KeyType::AES, true);
        let object = match unwrap(&incoming) {
            Ok(object) => object,
            Err(error) => {
                refused = error.into();
                continue;
            }
        };
        let read = used_once(engine.session(), object, |object| {
            let types = [AttributeType::Value];
            Ok(engine.session().get_attributes(object, &types)?)
        })?;
        match read.as_slice() {
            [Attribute::Value(value)] => equal(engine, "CKM_RSA_PKCS_OAEP", value, key)?,
            _ => return Err(wrong(engine, "CKM_RSA_PKCS_OAEP", "it gave a key no value")),
        }
        // What comes in may be wrapped again, and nothing else be done with it.
        let mut usable = incoming;
        usable.retain(|attribute| !matches!(attribute, Attribute::Decrypt(_)));
        usable.push(Attribute::Decrypt(true));
        if let Ok(object) = unwrap(&usable) {
            engine.session().destroy_object(object)?;
            let why = "it does not enforce the unwrap template of its transport key";
            return Err(wrong(engine, "CKM_RSA_PKCS_OAEP", why));
        }
        return Ok(hash);
    }
    Err(refused)
}

/// The object can be neither read nor wrapped.
fn locked_in(engine: &Engine, object: ObjectHandle, what: &str) -> Result<(), Error> {
    let session = engine.session();
    let value = session.get_attribute_info(object, &[AttributeType::Value])?;
    if matches!(value.first(), Some(AttributeInfo::Available(_))) {
        return Err(wrong(
            engine,
            "C_GetAttributeValue",
            &format!("{what} can be read"),
        ));
    }
    for (_, kek) in engine.keys() {
        let wrapped = matches!(kek.kind, Kind::KekEk | Kind::KekMk | Kind::KekHs)
            && session
                .wrap_key(&Mechanism::AesKeyWrap, kek.object, object)
                .is_ok();
        if wrapped {
            return Err(wrong(
                engine,
                "C_WrapKey",
                &format!("{what} can be exported"),
            ));
        }
    }
    Ok(())
}

/// What is stored under the key cannot be unwrapped to something readable.
fn not_unwrapped_open(
    engine: &Engine,
    kek: ObjectHandle,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<(), Error> {
    let session = engine.session();
    for open in [Attribute::Sensitive(false), Attribute::Extractable(true)] {
        let template = (template.to_vec(), &open);
        if let Ok(readable) = wrap::unwrap_as(session, kek, wrapped, template) {
            session.destroy_object(readable)?;
            let why = "it does not enforce the unwrap template of its key-encryption key";
            return Err(wrong(engine, "CKM_AES_KEY_WRAP", why));
        }
    }
    Ok(())
}
