//! How a key gets from the backup token into another, and how it is proved that it is the same key there.
//!
//! The other token opens a *door*: an RSA key pair of its session, whose private half unwraps and does nothing else.
//! The backup token wraps the key under its public half (RSA-OAEP), and the other token unwraps it with the whole
//! policy of a working key. The clear key is in the two tokens only. A private key is longer than RSA-OAEP takes: it
//! crosses under an AES key that crossed before it, made for it alone.
//!
//! PKCS#11 cannot tell a backup token whose public key it wraps under (`CKA_WRAP_WITH_TRUSTED` needs a security officer
//! who can trust a key; no software token has one). So whoever drives the session of a backup token can have its keys.
//! What this module can do it does: the public half is signed by the other token's `transcript` key, which the plan's
//! `previous_transcript` pins, and the signature is a part of the transcript; and whatever comes in through the door
//! can be neither read nor exported again.

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, PrivateKey};
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};

use crate::able::{GcmBackend, KeyDerivation};
use crate::agree::Agreement;
use crate::cipher::{self, Gcm, NONCE};
use crate::curve::Curve;
use crate::error::Error;
use crate::key::{self, Found, Kind, NestedTemplate};
use crate::secret::used_once;
use crate::token::Role;
use crate::{sign, wrap};

/// One end of a crossing.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) token: &'a str,
    pub(super) role: Role,
    pub(super) session: &'a Session,
}

/// How a key came from the backup token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossing {
    /// The mechanism by its PKCS#11 name, with its hash.
    pub mechanism: String,
    /// SHA-256 of modulus and public exponent it crossed under, in hexadecimal.
    pub door_sha256: String,
    /// Signature of the receiving token's `transcript` key over `latchkey-door/1`, the key's label and that digest, 64
    /// octets in hexadecimal.
    pub door_signature: String,
}

/// What the `transcript` key signs of a door.
pub(super) fn statement(label: &str, door_sha256: &str) -> Vec<u8> {
    format!("latchkey-door/1\n{label}\n{door_sha256}\n").into_bytes()
}

/// Clones a key of the backup token. `speaker` is the receiving token's own `transcript` key.
pub(super) fn clone(
    doors: &mut Doors,
    (from, to): (End<'_>, End<'_>),
    (label, origin): (&str, &Found),
    speaker: &Found,
) -> Result<Crossing, Error> {
    let kind = origin.kind;
    let (door, hash) = if kind.is_secret() {
        let nested = kind.unwrap_template(to.role);
        let allowed = key::policy_here(to.session, to.role, kind)?;
        let mut template = allowed;
        template.extend(names(label));
        template.extend(nested.as_ref().map(NestedTemplate::attribute));
        cross(doors, (from, to), origin.object, &template)?
    } else {
        private_key(doors, (from, to), (label, origin))?
    };
    let signature = sign::sign(
        to.session,
        speaker.kind,
        speaker.object,
        &statement(label, &door),
    )?;
    Ok(Crossing {
        mechanism: format!("CKM_RSA_PKCS_OAEP {}", hash_name(hash)),
        door_sha256: door,
        door_signature: hex::encode(signature),
    })
}

/// The doors that a token has opened, by what they demand. An RSA key pair takes a second to make.
#[derive(Default)]
pub(super) struct Doors(Vec<(Vec<Attribute>, Door)>);

impl Doors {
    fn at(&mut self, session: &Session, demanded: Vec<Attribute>) -> Result<&Door, Error> {
        let there = self.0.iter().position(|(of, _)| *of == demanded);
        let index = match there {
            Some(index) => index,
            None => {
                let door = Door::open(session, &demanded)?;
                self.0.push((demanded, door));
                self.0.len() - 1
            }
        };
        let door = self.0.get(index).map(|(_, door)| door);
        door.ok_or_else(|| Error::Contract {
            why: "a door that was opened is not there".to_owned(),
        })
    }

    /// Nothing comes through any more.
    pub(super) fn close(self, session: &Session) -> Result<(), Error> {
        self.0
            .into_iter()
            .try_for_each(|(_, door)| door.close(session))
    }
}

/// A secret key through a door: the door's digest, and the hash both tokens could use.
fn cross(
    doors: &mut Doors,
    (from, to): (End<'_>, End<'_>),
    origin: ObjectHandle,
    template: &[Attribute],
) -> Result<(String, MechanismType), Error> {
    let demanded = template
        .iter()
        .filter(|attribute| ENFORCED.contains(&attribute.attribute_type()))
        .cloned()
        .collect::<Vec<_>>();
    let door = doors.at(to.session, demanded)?;
    let mut crossed = Err(Error::Contract {
        why: "no hash to try".to_owned(),
    });
    for hash in HASHES {
        let wrapped = door.wrap(from.session, hash, origin);
        crossed = wrapped.and_then(|wrapped| door.unwrap(to.session, hash, &wrapped, template));
        if crossed.is_ok() {
            break;
        }
    }
    match crossed {
        Ok(hash) => Ok((door.digest(), hash)),
        Err(Error::Refused { function, code }) => Err(Error::Clone {
            from: from.token.to_owned(),
            to: to.token.to_owned(),
            why: format!("{function:?} by RSA-OAEP: {code:?}"),
        }),
        Err(other) => Err(other),
    }
}

/// A private key, under an AES key that goes before it; and its public half.
fn private_key(
    doors: &mut Doors,
    (from, to): (End<'_>, End<'_>),
    (label, origin): (&str, &Found),
) -> Result<(String, MechanismType), Error> {
    let template = [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(false),
        key::value_length(32),
    ];
    let bridge = from
        .session
        .generate_key(&Mechanism::AesKeyGen, &template)?;
    let mark = Attribute::Label(BRIDGE.to_vec());
    let mut far = vec![mark.clone()];
    far.push(Attribute::AllowedMechanisms(vec![
        MechanismType::AES_KEY_WRAP_PAD,
    ]));
    far.extend(key::bridge());
    let crossed = used_once(from.session, bridge, |bridge| {
        let door = cross(doors, (from, to), bridge, &far)?;
        let wrapped = from
            .session
            .wrap_key(&Mechanism::AesKeyWrapPad, bridge, origin.object)?;
        Ok((door, wrapped))
    });
    let unfit = |error| match error {
        Error::Refused { function, code } => Error::Clone {
            from: from.token.to_owned(),
            to: to.token.to_owned(),
            why: format!(
                "{function:?} by CKM_AES_KEY_WRAP_PAD: {code:?}; list `{label}` with the tokens that are to have it and \
                 not with the backup token: each makes its own"
            ),
        },
        other => other,
    };
    let (door, wrapped) = crossed.map_err(unfit)?;
    let found = to.session.find_objects(&[Attribute::Token(false), mark])?;
    let far = *found.first().ok_or_else(|| Error::Contract {
        why: "a key that was unwrapped is not there".to_owned(),
    })?;
    used_once(to.session, far, |far| {
        let mut template = key::policy_here(to.session, to.role, origin.kind)?;
        template.extend(names(label));
        // Last of all: SoftHSM sets one after the other, and after this one none.
        template.sort_by_key(|attribute| *attribute == Attribute::Modifiable(false));
        let unwrapped = to
            .session
            .unwrap_key(&Mechanism::AesKeyWrapPad, far, &wrapped, &template);
        unwrapped.map(drop).map_err(Error::from)
    })
    .map_err(unfit)?;
    public_half(from.session, to.session, label)?;
    Ok(door)
}

/// The public key object of a key pair: copied as it is.
fn public_half(from: &Session, to: &Session, label: &str) -> Result<(), Error> {
    let found = from.find_objects(&[
        Attribute::Token(true),
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Label(label.as_bytes().to_vec()),
    ])?;
    let object = *found.first().ok_or_else(|| Error::Contract {
        why: "a key pair has no public key".to_owned(),
    })?;
    let mut template = from.get_attributes(
        object,
        &[
            AttributeType::KeyType,
            AttributeType::EcParams,
            AttributeType::EcPoint,
            AttributeType::Verify,
        ],
    )?;
    template.extend([
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Token(true),
        Attribute::Private(false),
    ]);
    template.extend(names(label));
    template.push(Attribute::Modifiable(false));
    to.create_object(&template)?;
    Ok(())
}

/// An RSA key pair of the receiving session.
struct Door {
    public: ObjectHandle,
    private: ObjectHandle,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl Door {
    /// What comes through it must have these attributes.
    fn open(session: &Session, demanded: &[Attribute]) -> Result<Self, Error> {
        let nested = NestedTemplate::new(demanded);
        let public = [
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Encrypt(false),
            Attribute::Verify(false),
            Attribute::Wrap(false),
            Attribute::ModulusBits(RSA_BITS.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ];
        let private = [
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Copyable(false),
            Attribute::Sign(false),
            Attribute::Decrypt(false),
            Attribute::Unwrap(true),
            Attribute::AllowedMechanisms(vec![MechanismType::RSA_PKCS_OAEP]),
            nested.attribute(),
            Attribute::Modifiable(false),
        ];
        let (public, private) =
            session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)?;
        let read = session.get_attributes(
            public,
            &[AttributeType::Modulus, AttributeType::PublicExponent],
        )?;
        let mut door = Self {
            public,
            private,
            modulus: Vec::new(),
            exponent: Vec::new(),
        };
        for attribute in read {
            match attribute {
                Attribute::Modulus(modulus) => door.modulus = modulus,
                Attribute::PublicExponent(exponent) => door.exponent = exponent,
                _ => {}
            }
        }
        if door.modulus.len() == RSA_OCTETS && !door.exponent.is_empty() {
            return Ok(door);
        }
        door.close(session)?;
        Err(Error::Contract {
            why: "a new RSA key pair has no readable public key of its size".to_owned(),
        })
    }

    fn wrap(
        &self,
        from: &Session,
        hash: MechanismType,
        origin: ObjectHandle,
    ) -> Result<Vec<u8>, Error> {
        let public = from.create_object(&[
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Encrypt(false),
            Attribute::Verify(false),
            Attribute::Wrap(true),
            Attribute::Modulus(self.modulus.clone()),
            Attribute::PublicExponent(self.exponent.clone()),
        ])?;
        used_once(from, public, |public| {
            Ok(from.wrap_key(&oaep(hash), public, origin)?)
        })
    }

    fn unwrap(
        &self,
        to: &Session,
        hash: MechanismType,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<MechanismType, Error> {
        let mut template = template.to_vec();
        template.sort_by_key(|attribute| *attribute == Attribute::Modifiable(false));
        to.unwrap_key(&oaep(hash), self.private, wrapped, &template)?;
        Ok(hash)
    }

    fn digest(&self) -> String {
        let octets = [&self.modulus[..], &self.exponent].concat();
        hex::encode(digest(&SHA256, &octets))
    }

    fn close(self, session: &Session) -> Result<(), Error> {
        session.destroy_object(self.private)?;
        Ok(session.destroy_object(self.public)?)
    }
}

/// Proves that two tokens hold the same key, by known answers; what was proved, in words.
pub(super) fn same(
    from: End<'_>,
    to: End<'_>,
    label: &str,
    (origin, clone): (&Found, &Found),
) -> Result<Vec<String>, Error> {
    let proved = match origin.kind {
        Kind::KekEk | Kind::KekHs | Kind::KekMk => unwraps(from, to, (origin, clone))
            .and_then(|()| unwraps(to, from, (clone, origin)))
            .map(|()| vec!["what the one wraps the other unwraps, both ways".to_owned()]),
        Kind::Transport => unwraps(from, to, (origin, clone))
            .map(|()| vec!["what the backup wraps it unwraps".to_owned()]),
        Kind::KekAk => deciphers(from, to, (origin, clone))
            .and_then(|()| deciphers(to, from, (clone, origin)))
            .map(|()| vec!["what the one seals the other opens, both ways".to_owned()]),
        Kind::Sign(_) => signs(to.session, (origin, clone))
            .map(|()| vec!["its signature is of the backup's public key".to_owned()]),
        Kind::Agree(curve) => agrees(from.session, to.session, curve, (origin, clone))
            .map(|()| vec!["both agree on the same key with a third".to_owned()]),
        Kind::TransportRsa | Kind::Ed25519 | Kind::Transcript | Kind::Tls => Ok(Vec::new()),
    };
    proved.map_err(|error| match error {
        Error::Refused { .. } | Error::AuthFailed | Error::SelfTest { .. } => Error::Differs {
            token: to.token.to_owned(),
            why: format!("key `{label}` is not the one of the backup token"),
        },
        other => other,
    })
}

/// RFC 3394 has a check of its own: another key does not unwrap.
fn unwraps(from: End<'_>, to: End<'_>, (one, other): (&Found, &Found)) -> Result<(), Error> {
    let wrapped = wrap::generate(from.session, one.object, 32)?;
    let template = one.kind.unwrapped(to.role);
    let template = template.unwrap_or_else(|| key::incoming_key(KeyType::AES, false));
    let made = to
        .session
        .unwrap_key(&Mechanism::AesKeyWrap, other.object, &wrapped, &template)?;
    Ok(to.session.destroy_object(made)?)
}

fn deciphers(from: End<'_>, to: End<'_>, (one, other): (&Found, &Found)) -> Result<(), Error> {
    let mut nonce = [0; NONCE];
    from.session.generate_random_slice(&mut nonce)?;
    let (text, aad) = (&[0; 16], b"latchkey-ceremony: the same key");
    let sealed = cipher::encrypt(
        from.session,
        one.object,
        Gcm::full(nonce, aad).by(one.gcm()),
        text,
    )?;
    let opened = cipher::decrypt(
        to.session,
        other.object,
        Gcm::full(nonce, aad).by(other.gcm()),
        &sealed,
    )?;
    equal(&opened, text)
}

fn signs(to: &Session, (origin, clone): (&Found, &Found)) -> Result<(), Error> {
    let message = b"latchkey-ceremony: the same key";
    let signature = sign::sign(to, clone.kind, clone.object, message)?;
    let same = sign::verifies(origin, message, &signature) && origin.public == clone.public;
    equal(&[u8::from(same)], &[1])
}

fn agrees(
    from: &Session,
    to: &Session,
    curve: Curve,
    (origin, clone): (&Found, &Found),
) -> Result<(), Error> {
    let host = |_| Error::Contract {
        why: "ECDH failed on this machine".to_owned(),
    };
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let third = PrivateKey::generate(algorithm).map_err(host)?;
    let public = third.compute_public_key().map_err(host)?;
    let peer = public.as_ref().get(1..).unwrap_or_default();
    let agreement = Agreement::new(curve, peer, b"latchkey-ceremony: the same key")?;
    let answer = |session: &Session, key: ObjectHandle| {
        let agreed =
            agreement.carry_out(session, key, (KeyDerivation::DigestKey, GcmBackend::Token))?;
        used_once(session, agreed, |agreed| {
            cipher::cmac(session, agreed, &[0; 16])
        })
    };
    let one = answer(from, origin.object)?;
    equal(&one, &answer(to, clone.object)?)?;
    equal(&[u8::from(origin.public == clone.public)], &[1])
}

fn equal(one: &[u8], other: &[u8]) -> Result<(), Error> {
    if one == other {
        Ok(())
    } else {
        Err(Error::AuthFailed)
    }
}

fn names(label: &str) -> [Attribute; 2] {
    [
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(label.as_bytes().to_vec()),
    ]
}

fn oaep(hash: MechanismType) -> Mechanism<'static> {
    let mask = if hash == MechanismType::SHA1 {
        PkcsMgfType::MGF1_SHA1
    } else {
        PkcsMgfType::MGF1_SHA256
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
}

fn hash_name(hash: MechanismType) -> &'static str {
    if hash == MechanismType::SHA1 {
        "SHA-1"
    } else {
        "SHA-256"
    }
}

/// Best first. SoftHSM 2.6 has the second alone; OAEP does not rest on its collisions (RFC 8017, B.1).
const HASHES: [MechanismType; 2] = [MechanismType::SHA256, MechanismType::SHA1];
/// Of what comes through a door, what the door demands of it.
const ENFORCED: [AttributeType; 11] = [
    AttributeType::Class,
    AttributeType::KeyType,
    AttributeType::Token,
    AttributeType::Private,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Copyable,
    AttributeType::Sign,
    AttributeType::Verify,
    AttributeType::Derive,
    AttributeType::Modifiable,
];
/// As strong as AES-128, which the meters' keys of suites 0 and 1 are (NIST SP 800-57, 5.6.1).
const RSA_BITS: std::ffi::c_ulong = 3072;
const RSA_OCTETS: usize = 384;
const BRIDGE: &[u8] = b"latchkey-bridge";
