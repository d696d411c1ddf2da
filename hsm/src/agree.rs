//! Key agreement: ECDH in the token, then the key derivation of DLMS.
//!
//! The derivation is one step of a hash, SHA-256 or SHA-384 (00000001 || Z || OtherInfo), NIST SP
//! 800-56A section 5.8.2.1 as IEC 62056-5-3 takes it. A token with CKD_SHA256_KDF_SP800 makes the
//! AES key of the shared secret Z inside. SoftHSM has no KDF but CKD_NULL: there the token keeps Z
//! (a generic secret that can be digested and nothing else) and digests it (C_DigestKey); the digest
//! passes through the memory of this process, zeroized, is put into the token at once as a key that
//! cannot be read, and is used for one APDU. Only where configuration says so does Z itself pass
//! ([`KeyDerivation::HostZ`]). Private keys never do.

use aws_lc_rs::digest;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::able::{GcmBackend, KeyDerivation};
use crate::cipher::{self, short};
use crate::curve::{Curve, point};
use crate::error::Error;
use crate::key::{self, KeyHandle, Kind, Spare, bare_point};
use crate::module::making;
use crate::pool::Engine;
use crate::secret::{self, used_once};
use crate::token::Token;

impl Token {
    /// The AES key that the token's own agreement key (`agree-p256-N`, `agree-p384-N`) and the
    /// peer's public key (X then Y) make: 16 octets with P-256, 32 with P-384.
    ///
    /// `other_info` is AlgorithmID || PartyUInfo || PartyVInfo. [`Error::PublicKeyInvalid`] if the
    /// peer's is no point of the curve.
    pub async fn agree(
        &self,
        curve: Curve,
        label: &str,
        peer: &[u8],
        other_info: &[u8],
    ) -> Result<KeyHandle, Error> {
        let agreement = Agreement::new(curve, peer, other_info)?;
        let label = label.to_owned();
        self.on_any(move |engine| {
            let own = engine.key(&label, Kind::Agree(curve))?;
            let object = agreement.carry_out(engine.session(), own, engine.manner(curve))?;
            Ok(engine.hold(object))
        })
        .await
    }

    /// The same with a key pair made for this one agreement and destroyed in it. Returns the AES
    /// key and the pair's public key, X then Y.
    pub async fn agree_once(
        &self,
        curve: Curve,
        peer: &[u8],
        other_info: &[u8],
    ) -> Result<(KeyHandle, Vec<u8>), Error> {
        let agreement = Agreement::new(curve, peer, other_info)?;
        self.on_any(move |engine| {
            let (own, public) = ephemeral(engine.session(), curve)?;
            let object = used_once(engine.session(), own, |own| {
                agreement.carry_out(engine.session(), own, engine.manner(curve))
            })?;
            Ok((engine.hold(object), public))
        })
        .await
    }

    /// Brings a key known in clear into use, 16 or 32 octets: a dedicated key, which travels inside
    /// an InitiateRequest and so has to be known once. It is gone with its last clone, and not before: with
    /// it goes a copy wrapped under a `kek-ek-N`, from which it is brought back when its token fails or is
    /// opened anew.
    pub async fn hold_clear(&self, key: &Zeroizing<Vec<u8>>) -> Result<KeyHandle, Error> {
        cipher::key_length(key.len())?;
        let key = key.clone();
        self.on_any(move |engine| {
            let spare = engine.spare(&key)?;
            let object = hold(engine.session(), &key, engine.gcm())?;
            Ok(engine.hold_with_spare(object, spare))
        })
        .await
    }
}

impl Engine {
    /// The key wrapped under the newest key-encryption key; none if the token has none.
    fn spare(&self, key: &[u8]) -> Result<Option<Spare>, Error> {
        let keks = self.keys().filter(|(_, found)| found.kind == Kind::KekEk);
        let newest = keks
            .map(|(label, _)| label.to_owned())
            .max_by_key(|label| (label.len(), label.clone()));
        let wrap = |kek: String| {
            let wrapped = self.wrap_clear(&kek, key)?;
            Ok(Spare { kek, wrapped })
        };
        newest.map(wrap).transpose()
    }
}

/// One key agreement, all but the private key.
#[derive(Clone)]
pub(crate) struct Agreement {
    curve: Curve,
    /// An uncompressed point.
    peer: Vec<u8>,
    other_info: Vec<u8>,
}

impl Agreement {
    pub(crate) fn new(curve: Curve, peer: &[u8], other_info: &[u8]) -> Result<Self, Error> {
        cipher::limit("the other information", other_info)?;
        // A token that did not look would give away its key, a few bits each time.
        if !curve.is_public_key(peer) {
            return Err(Error::PublicKeyInvalid);
        }
        Ok(Self {
            curve,
            peer: point(peer),
            other_info: other_info.to_vec(),
        })
    }

    /// The agreed AES key as an object of the session, to cipher with.
    pub(crate) fn carry_out(
        &self,
        session: &Session,
        own: ObjectHandle,
        (derivation, gcm): Manner,
    ) -> Result<ObjectHandle, Error> {
        self.carry_out_as(session, own, (derivation, key::working_key(gcm)))
    }

    /// The agreed AES key as an object of the session with these attributes.
    pub(crate) fn carry_out_as(
        &self,
        session: &Session,
        own: ObjectHandle,
        (derivation, template): (KeyDerivation, Vec<Attribute>),
    ) -> Result<ObjectHandle, Error> {
        let derived = match derivation {
            KeyDerivation::TokenSp800 => return self.inside(session, own, template),
            KeyDerivation::DigestKey => self.digested(session, own)?,
            KeyDerivation::HostZ => self.outside(session, own)?,
        };
        let key = derived.get(..self.curve.agreed());
        let key = key.ok_or_else(|| short("the hash", self.curve.agreed(), derived.len()))?;
        key::create_with_value(session, template, key)
    }

    /// The token derives Z and makes the AES key of it.
    fn inside(
        &self,
        session: &Session,
        own: ObjectHandle,
        mut template: Vec<Attribute>,
    ) -> Result<ObjectHandle, Error> {
        let kdf = match self.curve {
            Curve::P256 => EcKdf::sha256_sp800(&self.other_info),
            Curve::P384 => EcKdf::sha384_sp800(&self.other_info),
        };
        let ecdh = Ecdh1DeriveParams::new(kdf, &self.peer);
        template.insert(0, key::value_length(self.curve.agreed()));
        making(1);
        Ok(session.derive_key(&Mechanism::Ecdh1Derive(ecdh), own, &template)?)
    }

    /// The token derives Z, keeps it and digests it.
    fn digested(&self, session: &Session, own: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, Error> {
        let ecdh = Ecdh1DeriveParams::new(EcKdf::null(), &self.peer);
        let shared = secret::derived(self.curve.coordinate());
        making(1);
        let z = session.derive_key(&Mechanism::Ecdh1Derive(ecdh), own, &shared)?;
        used_once(session, z, |z| {
            let hash = match self.curve {
                Curve::P256 => Mechanism::Sha256,
                Curve::P384 => Mechanism::Sha384,
            };
            let pieces = (ONE, self.other_info.as_slice());
            Ok(Zeroizing::new(secret::digest(session, &hash, pieces, z)?))
        })
    }

    /// The token derives Z and shows it.
    fn outside(&self, session: &Session, own: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, Error> {
        let ecdh = Ecdh1DeriveParams::new(EcKdf::null(), &self.peer);
        let length = self.curve.coordinate();
        let mut template = vec![key::value_length(length)];
        template.extend(key::incoming_key(KeyType::GENERIC_SECRET, true));
        making(1);
        let z = session.derive_key(&Mechanism::Ecdh1Derive(ecdh), own, &template)?;
        let mut read = used_once(session, z, |z| {
            Ok(session.get_attributes(z, &[AttributeType::Value])?)
        })?;
        let Some(Attribute::Value(z)) = read.pop() else {
            return Err(short("ECDH", length, 0));
        };
        let z = Zeroizing::new(z);
        if z.len() != length {
            return Err(short("ECDH", length, z.len()));
        }
        let mut context = digest::Context::new(self.curve.hash());
        for piece in [ONE, z.as_slice(), self.other_info.as_slice()] {
            context.update(piece);
        }
        Ok(Zeroizing::new(context.finish().as_ref().to_vec()))
    }
}

/// Where keys are derived, and how the key that comes of it is used.
pub(crate) type Manner = (KeyDerivation, GcmBackend);

impl Engine {
    /// How this token agrees on keys of this curve.
    pub(crate) fn manner(&self, curve: Curve) -> Manner {
        (self.shared().able.derivation(curve), self.gcm())
    }
}

/// A session's own AES key of this value.
fn hold(session: &Session, value: &[u8], gcm: GcmBackend) -> Result<ObjectHandle, Error> {
    key::create_with_value(session, key::working_key(gcm), value)
}

/// A key pair of this session: the private key, and X then Y.
pub(crate) fn ephemeral(session: &Session, curve: Curve) -> Result<(ObjectHandle, Vec<u8>), Error> {
    let public = [
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Verify(false),
        Attribute::EcParams(curve.oid().to_vec()),
    ];
    let private = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(true),
    ];
    making(2);
    let (public, private) =
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    let read = session.get_attributes(public, &[AttributeType::EcPoint]);
    session.destroy_object(public)?;
    let point = match read?.pop() {
        Some(Attribute::EcPoint(point)) => bare_point(&point, curve.pair() + 1),
        _ => None,
    };
    match point.as_deref() {
        Some([0x04, public @ ..]) => Ok((private, public.to_vec())),
        _ => {
            session.destroy_object(private)?;
            Err(Error::Contract {
                why: "a new key pair has no readable public key".to_owned(),
            })
        }
    }
}

/// The counter of the one step.
const ONE: &[u8] = &[0, 0, 0, 1];
