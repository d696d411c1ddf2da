//! What a token must prove before it is used, and the known answers that tell later whether it
//! still works.

mod feature;

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectHandle};
use cryptoki::slot::Slot;

use crate::cipher::{self, Gcm, NONCE};
use crate::error::Error;
use crate::key::{self, Kind};
use crate::module::making;
use crate::pool::Engine;
use crate::token::Role;
use crate::{sign, wrap};

/// A mechanism, its PKCS#11 name, and what it is for.
type Need = (MechanismType, &'static str, &'static str);

/// What a role needs at run time.
fn needs(role: Role) -> &'static [Need] {
    const CUSTODY: &[Need] = &[
        (
            MechanismType::AES_GCM,
            "CKM_AES_GCM",
            "ciphering APDUs, HLS, stored authentication keys",
        ),
        (
            MechanismType::AES_KEY_WRAP,
            "CKM_AES_KEY_WRAP",
            "stored encryption keys",
        ),
        (
            MechanismType::AES_KEY_GEN,
            "CKM_AES_KEY_GEN",
            "new meter keys",
        ),
        (MechanismType::AES_CMAC, "CKM_AES_CMAC", "key check values"),
    ];
    const AUDITOR: &[Need] = &[(
        MechanismType::EDDSA,
        "CKM_EDDSA",
        "signatures of checkpoints and permits",
    )];
    const TLS: &[Need] = &[(
        MechanismType::ECDSA,
        "CKM_ECDSA",
        "signatures of TLS handshakes",
    )];
    const BACKUP: &[Need] = &[
        (
            MechanismType::AES_KEY_WRAP,
            "CKM_AES_KEY_WRAP",
            "wrapping meters' keys anew",
        ),
        (
            MechanismType::AES_KEY_GEN,
            "CKM_AES_KEY_GEN",
            "its self-test",
        ),
    ];
    match role {
        Role::Custody => CUSTODY,
        Role::Auditor => AUDITOR,
        Role::Tls => TLS,
        Role::Backup => BACKUP,
    }
}

/// Refuses a token that lacks a mechanism.
pub(crate) fn mechanisms(
    context: &Pkcs11,
    slot: Slot,
    label: &str,
    role: Role,
) -> Result<(), Error> {
    let present = context.get_mechanism_list(slot)?;
    demand(&present, needs(role), label, role)
}

/// Refuses a token that cannot make the keys of its role.
pub(crate) fn ceremony_mechanisms(
    context: &Pkcs11,
    slot: Slot,
    label: &str,
    role: Role,
) -> Result<(), Error> {
    const CURVES: &[Need] = &[
        (
            MechanismType::ECC_KEY_PAIR_GEN,
            "CKM_EC_KEY_PAIR_GEN",
            "the transcript key",
        ),
        (MechanismType::ECDSA, "CKM_ECDSA", "signing the transcript"),
    ];
    const AUDITOR: &[Need] = &[(
        MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
        "CKM_EC_EDWARDS_KEY_PAIR_GEN",
        "its keys",
    )];
    mechanisms(context, slot, label, role)?;
    let more = match role {
        Role::Custody | Role::Backup | Role::Tls => CURVES,
        Role::Auditor => AUDITOR,
    };
    demand(&context.get_mechanism_list(slot)?, more, label, role)
}

fn demand(present: &[MechanismType], needs: &[Need], label: &str, role: Role) -> Result<(), Error> {
    // What can be done in another way: in which, the self-test or the ceremony decides.
    let instead = |mechanism| match mechanism {
        MechanismType::AES_GCM => MechanismType::AES_ECB,
        MechanismType::ECDSA => MechanismType::ECDSA_SHA256,
        other => other,
    };
    let missing = needs.iter().find(|(mechanism, _, _)| {
        !present.contains(mechanism) && !present.contains(&instead(*mechanism))
    });
    missing.map_or(Ok(()), |&(_, mechanism, purpose)| {
        Err(Error::MechanismMissing {
            label: label.to_owned(),
            role: role.as_str(),
            mechanism,
            purpose,
        })
    })
}

/// An answer the token gave when it was first opened, and must give ever after: also after it was
/// pulled and put back, which proves that the same keys came back.
pub(crate) enum Canary {
    /// A key wrapped under a key-encryption key, and something sealed with it.
    Custody {
        kek: String,
        wrapped: Vec<u8>,
        nonce: [u8; NONCE],
        sealed: Vec<u8>,
    },
    /// A signing key.
    Signature {
        kind: Kind,
        label: String,
        public: Vec<u8>,
    },
    /// A key wrapped under a key-encryption key: wrapped again it is the same octets.
    Backup { kek: String, wrapped: Vec<u8> },
}

/// Makes the canary when the token is first opened; later checks that it still sings. Returns the
/// canary's key, to be held by the session.
pub(crate) fn settle(engine: &mut Engine) -> Result<Option<ObjectHandle>, Error> {
    let canary = match engine.shared().canary.get() {
        Some(_) => None,
        None => Some(hatch(engine)?),
    };
    if let Some(canary) = canary {
        engine.shared().canary.get_or_init(|| canary);
    }
    let shared = engine.shared_arc();
    match shared.canary.get() {
        Some(Canary::Custody { kek, wrapped, .. }) => {
            let key = engine.unwrap_meter_key(kek, wrapped)?;
            sings(engine, key)?;
            Ok(Some(key))
        }
        _ => check(engine).map(|()| None),
    }
}

fn hatch(engine: &mut Engine) -> Result<Canary, Error> {
    let of_kind = |kind: Kind, label: &'static str| {
        let keys = engine.keys();
        // The newest: an older one may be destroyed while it is in use here.
        let number = |name: &str| name.rsplit('-').next().and_then(|n| n.parse::<u32>().ok());
        keys.filter(|(name, key)| key.kind == kind && name.starts_with(label))
            .max_by_key(|(name, _)| number(name))
            .map(|(name, key)| (name.to_owned(), key.clone()))
            .ok_or_else(|| Error::KeyNotFound {
                token: engine.shared().label.clone(),
                what: kind.name(),
                label: format!("{label}1"),
            })
    };
    let signs = match engine.shared().role {
        Role::Custody | Role::Backup => None,
        Role::Auditor => {
            of_kind(Kind::Ed25519, "permit-")?;
            Some(of_kind(Kind::Ed25519, "log-")?)
        }
        Role::Tls => Some(of_kind(Kind::Tls, "tls-")?),
    };
    if let Some((label, key)) = signs {
        return Ok(Canary::Signature {
            kind: key.kind,
            label,
            public: key.public.unwrap_or_default(),
        });
    }
    let (kek, _) = of_kind(Kind::KekEk, "kek-ek-")?;
    let wrapped = engine.generate_wrapped(&kek, 16)?;
    if engine.shared().role == Role::Backup {
        return Ok(Canary::Backup { kek, wrapped });
    }
    of_kind(Kind::KekAk, "kek-ak-")?;
    let (label, wanted) = (&engine.shared().label, engine.shared().able.gcm_wanted);
    let gcm = cipher::choose(engine.session(), label, wanted)?;
    engine.shared().able.gcm.get_or_init(|| gcm);
    let mut nonce = [0; NONCE];
    engine.session().generate_random_slice(&mut nonce)?;
    let key = engine.unwrap_meter_key(&kek, &wrapped)?;
    let sealed = cipher::encrypt(engine.session(), key, dlms(engine, nonce, SONG), SONG);
    engine.session().destroy_object(key)?;
    Ok(Canary::Custody {
        kek,
        wrapped,
        nonce,
        sealed: sealed?,
    })
}

/// Whether the session still ciphers: cheap, and blind to a token whose storage is gone.
pub(crate) fn glance(engine: &Engine) -> Result<(), Error> {
    engine.canary().map_or(Ok(()), |key| sings(engine, key))
}

/// Whether session, login and the token's own keys work.
pub(crate) fn check(engine: &mut Engine) -> Result<(), Error> {
    let shared = engine.shared_arc();
    match shared.canary.get() {
        Some(Canary::Custody { kek, wrapped, .. }) => {
            glance(engine)?;
            // The bare call: `Engine::unwrap` asks this function what its errors mean.
            let kek = engine.key(kek, Kind::KekEk)?;
            let template = key::meter_key();
            let session = engine.session();
            making(1);
            let key = session.unwrap_key(&Mechanism::AesKeyWrap, kek, wrapped, &template)?;
            let sung = sings(engine, key);
            engine.session().destroy_object(key)?;
            sung
        }
        Some(Canary::Backup { kek, wrapped }) => {
            let again = engine.rewrap_bare(kek, wrapped)?;
            equal(engine, "CKM_AES_KEY_WRAP", &again, wrapped)
        }
        Some(Canary::Signature {
            kind,
            label,
            public,
        }) => {
            let key = engine.key(label, *kind)?;
            // Never leaves this function, and is no checkpoint: those name their origin first; nor a handshake's, which
            // begins with 64 spaces (RFC 8446, 4.4.3).
            let signature = sign::sign(engine.session(), *kind, key, SONG)?;
            if sign::verifies_raw(kind.curve(), public, SONG, &signature) {
                Ok(())
            } else {
                let why = "its signature is not of the key it was";
                Err(wrong(engine, signing_mechanism(*kind), why))
            }
        }
        None => Ok(()),
    }
}

/// A GCM call in the way this token does them.
fn dlms<'a>(engine: &Engine, nonce: [u8; NONCE], aad: &'a [u8]) -> Gcm<'a> {
    Gcm::dlms(nonce, aad).by(engine.gcm())
}

fn sings(engine: &Engine, key: ObjectHandle) -> Result<(), Error> {
    let Some(Canary::Custody { nonce, sealed, .. }) = engine.shared().canary.get() else {
        return Ok(());
    };
    let song = cipher::decrypt(engine.session(), key, dlms(engine, *nonce, SONG), sealed)?;
    if song == SONG {
        Ok(())
    } else {
        let why = "it deciphers to something else than before";
        Err(wrong(engine, engine.gcm().mechanism(), why))
    }
}

/// The self-test of the first session: known answers, and proof that keys stay inside.
pub(crate) fn run(engine: &mut Engine) -> Result<(), Error> {
    match engine.shared().role {
        Role::Custody => {}
        Role::Auditor => return signatures(engine, Kind::Ed25519),
        Role::Tls => return signatures(engine, Kind::Tls),
        // It only wraps, and has shown that it does.
        Role::Backup => return Ok(()),
    }
    known_answers(engine)?;
    caller_nonce(engine)?;
    locked_in(engine)?;
    let features = feature::run(engine)?;
    let able = &engine.shared().able;
    able.off.get_or_init(|| features.off);
    able.oaep.get_or_init(|| features.oaep);
    able.derivation.get_or_init(|| features.derivation);
    Ok(())
}

/// Every signing key signs, and the signature verifies outside the token.
fn signatures(engine: &Engine, kind: Kind) -> Result<(), Error> {
    for (label, key) in engine.keys().filter(|(_, key)| key.kind == kind) {
        let signature = sign::sign(engine.session(), key.kind, key.object, SONG)?;
        if !sign::verifies(key, SONG, &signature) {
            let why = format!("`{label}` signs wrongly");
            return Err(wrong(engine, signing_mechanism(kind), &why));
        }
    }
    Ok(())
}

fn signing_mechanism(kind: Kind) -> &'static str {
    match kind.curve() {
        Some(_) => "CKM_ECDSA",
        None => "CKM_EDDSA",
    }
}

/// Vectors, with keys put in by value. A token that takes no key by value goes without: the next
/// test covers what matters on keys of its own.
fn known_answers(engine: &mut Engine) -> Result<(), Error> {
    let gcm = engine.gcm().mechanism();
    let Some(key) = put(
        engine,
        GB_EK,
        &[Attribute::Encrypt(true), Attribute::Decrypt(true)],
    ) else {
        tracing::info!(
            token = engine.shared().label,
            "token takes no test key: vectors not run"
        );
        return Ok(());
    };
    let sealed = cipher::encrypt(
        engine.session(),
        key,
        dlms(engine, GB_NONCE, GB_AAD),
        GB_APDU,
    );
    equal(engine, gcm, &sealed?, GB_SEALED)?;
    let tag = cipher::encrypt(engine.session(), key, dlms(engine, HLS_NONCE, HLS_AAD), &[]);
    equal(engine, gcm, &tag?, HLS_TAG)?;
    let opened = cipher::decrypt(
        engine.session(),
        key,
        dlms(engine, GB_NONCE, GB_AAD),
        GB_SEALED,
    );
    equal(engine, gcm, &opened?, GB_APDU)?;
    engine.session().destroy_object(key)?;

    if let Some(key) = put(engine, CMAC_KEY, &[Attribute::Sign(true)]) {
        let mac = cipher::cmac(engine.session(), key, CMAC_TEXT)?;
        equal(engine, "CKM_AES_CMAC", &mac, CMAC_MAC)?;
        engine.session().destroy_object(key)?;
    }
    let kek = put(engine, GB_EK, &[Attribute::Wrap(true)]);
    let key = put(engine, RFC3394_KEY, &[Attribute::Extractable(true)]);
    if let (Some(kek), Some(key)) = (kek, key) {
        let wrapped = engine
            .session()
            .wrap_key(&Mechanism::AesKeyWrap, kek, key)?;
        equal(engine, "CKM_AES_KEY_WRAP", &wrapped, RFC3394_WRAPPED)?;
        engine.session().destroy_object(kek)?;
        engine.session().destroy_object(key)?;
    }
    Ok(())
}

/// Puts a public test key into the session.
fn put(engine: &Engine, value: &[u8], uses: &[Attribute]) -> Option<ObjectHandle> {
    let mut template = vec![
        Attribute::Class(cryptoki::object::ObjectClass::SECRET_KEY),
        Attribute::KeyType(cryptoki::object::KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
    ];
    template.extend_from_slice(uses);
    key::create_with_value(engine.session(), template, value).ok()
}

/// The token uses the caller's nonce and refuses a wrong tag, on a key made inside. HSMs in FIPS
/// mode make the nonce themselves, which DLMS cannot use: there it is title and counter.
fn caller_nonce(engine: &Engine) -> Result<(), Error> {
    let Some(key) = engine.canary() else {
        return Ok(());
    };
    let Some(Canary::Custody { nonce, sealed, .. }) = engine.shared().canary.get() else {
        return Ok(());
    };
    let gcm = engine.gcm().mechanism();
    // The same nonce, data and text again: the same answer, so nothing new is given away.
    let again = cipher::encrypt(engine.session(), key, dlms(engine, *nonce, SONG), SONG)?;
    equal(engine, gcm, &again, sealed)?;
    let mut damaged = sealed.clone();
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    match cipher::decrypt(engine.session(), key, dlms(engine, *nonce, SONG), &damaged) {
        Err(_) => glance(engine),
        Ok(_) => Err(wrong(engine, gcm, "it accepts a wrong tag")),
    }
}

/// An unwrapped meter key can be neither read nor exported, and no stored key can be unwrapped to
/// something readable.
fn locked_in(engine: &Engine) -> Result<(), Error> {
    let (Some(key), Some(Canary::Custody { kek, wrapped, .. })) =
        (engine.canary(), engine.shared().canary.get())
    else {
        return Ok(());
    };
    let session = engine.session();
    let kek = engine.key(kek, Kind::KekEk)?;
    let value = session.get_attribute_info(key, &[AttributeType::Value])?;
    if matches!(value.first(), Some(AttributeInfo::Available(_))) {
        return Err(wrong(
            engine,
            "CKM_AES_KEY_WRAP",
            "an unwrapped key can be read",
        ));
    }
    if session.wrap_key(&Mechanism::AesKeyWrap, kek, key).is_ok() {
        return Err(wrong(
            engine,
            "CKM_AES_KEY_WRAP",
            "an unwrapped key can be exported",
        ));
    }
    for open in [Attribute::Sensitive(false), Attribute::Extractable(true)] {
        if let Ok(readable) = wrap::unwrap_as(session, kek, wrapped, (key::meter_key(), &open)) {
            session.destroy_object(readable)?;
            let why = "it does not enforce the unwrap template of its key-encryption key";
            return Err(wrong(engine, "CKM_AES_KEY_WRAP", why));
        }
    }
    Ok(())
}

fn equal(engine: &Engine, mechanism: &'static str, got: &[u8], want: &[u8]) -> Result<(), Error> {
    if got == want {
        Ok(())
    } else {
        Err(wrong(engine, mechanism, "it differs from the known answer"))
    }
}

fn wrong(engine: &Engine, mechanism: &'static str, why: &str) -> Error {
    Error::SelfTest {
        label: engine.shared().label.clone(),
        mechanism,
        why: why.to_owned(),
    }
}

/// What the canary seals and signs.
const SONG: &[u8] = b"latchkey hsm self-test\n";

// DLMS UA Green Book, example of a ciphered GET-request, SC = 0x30.
const GB_EK: &[u8] = b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0A\x0B\x0C\x0D\x0E\x0F";
const GB_NONCE: [u8; NONCE] = *b"MMM\x00\x00\xBCaN\x01\x23\x45\x67";
const GB_AAD: &[u8] = b"\x30\xD0\xD1\xD2\xD3\xD4\xD5\xD6\xD7\xD8\xD9\xDA\xDB\xDC\xDD\xDE\xDF";
const GB_APDU: &[u8] = b"\xC0\x01\x00\x00\x08\x00\x00\x01\x00\x00\xFF\x02\x00";
const GB_SEALED: &[u8] = b"\x41\x13\x12\xFF\x93\x5A\x47\x56\x68\x27\xC4\x67\xBC\
    \x7D\x82\x5C\x3B\xE4\xA7\x7C\x3F\xCC\x05\x6B\x6B";
// The same book, HLS mechanism 5: f(StoC) of the client.
const HLS_NONCE: [u8; NONCE] = *b"MMM\x00\x00\x00\x00\x01\x00\x00\x00\x01";
const HLS_AAD: &[u8] =
    b"\x10\xD0\xD1\xD2\xD3\xD4\xD5\xD6\xD7\xD8\xD9\xDA\xDB\xDC\xDD\xDE\xDFP6wRJ21F";
const HLS_TAG: &[u8] = b"\x1A\x52\xFE\x7D\xD3\xE7\x27\x48\x97\x3C\x1E\x28";
// RFC 3394, 4.1, under the key above.
const RFC3394_KEY: &[u8] = b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xAA\xBB\xCC\xDD\xEE\xFF";
const RFC3394_WRAPPED: &[u8] = b"\x1F\xA6\x8B\x0A\x81\x12\xB4\x47\xAE\xF3\x4B\xD8\xFB\x5A\x7B\x82\
    \x9D\x3E\x86\x23\x71\xD2\xCF\xE5";
// RFC 4493, example 2.
const CMAC_KEY: &[u8] = b"\x2B\x7E\x15\x16\x28\xAE\xD2\xA6\xAB\xF7\x15\x88\x09\xCF\x4F\x3C";
const CMAC_TEXT: &[u8] = b"\x6B\xC1\xBE\xE2\x2E\x40\x9F\x96\xE9\x3D\x7E\x11\x73\x93\x17\x2A";
const CMAC_MAC: &[u8] = b"\x07\x0A\x16\xB4\x6B\x4D\x41\x44\xF7\x9B\xDD\x9D\xD0\x4A\x28\x7C";
