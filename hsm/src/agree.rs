//! Key agreement: ECDH in the token, then the key derivation of DLMS.
//!
//! The token computes the shared secret Z and keeps it (a generic secret that can be digested and
//! nothing else). The derivation is one step of a hash, SHA-256 or SHA-384 (00000001 || Z ||
//! OtherInfo), NIST SP 800-56A section 5.8.2.1 as IEC 62056-5-3 takes it. A token with
//! CKD_SHA256_KDF_SP800 could make the AES key of it inside; SoftHSM has no KDF but CKD_NULL. So the
//! token digests Z (C_DigestKey), and the digest passes through the memory of this process: it is
//! zeroized memory, put into the token at once as a key that cannot be read, and used for one APDU.
//! Z and the private keys never pass.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::cipher::{self, short};
use crate::curve::{Curve, point};
use crate::error::Error;
use crate::key::{self, KeyHandle, Kind, bare_point};
use crate::module::making;
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
            let object = agreement.carry_out(engine.session(), own)?;
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
                agreement.carry_out(engine.session(), own)
            })?;
            Ok((engine.hold(object), public))
        })
        .await
    }

    /// Brings a key known in clear into use, 16 or 32 octets: a dedicated key, which travels inside
    /// an InitiateRequest and so has to be known once. It is gone with its last clone.
    pub async fn hold_clear(&self, key: &Zeroizing<Vec<u8>>) -> Result<KeyHandle, Error> {
        cipher::key_length(key.len())?;
        let key = key.clone();
        self.on_any(move |engine| {
            let object = hold(engine.session(), &key)?;
            Ok(engine.hold(object))
        })
        .await
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
    ) -> Result<ObjectHandle, Error> {
        self.carry_out_as(session, own, key::working_key())
    }

    /// The agreed AES key as an object of the session with these attributes.
    pub(crate) fn carry_out_as(
        &self,
        session: &Session,
        own: ObjectHandle,
        template: Vec<Attribute>,
    ) -> Result<ObjectHandle, Error> {
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
            let derived = Zeroizing::new(secret::digest(session, &hash, pieces, z)?);
            let key = derived.get(..self.curve.agreed());
            let key = key.ok_or_else(|| short("the hash", self.curve.agreed(), derived.len()))?;
            key::create_with_value(session, template, key)
        })
    }
}

/// A session's own AES key of this value.
fn hold(session: &Session, value: &[u8]) -> Result<ObjectHandle, Error> {
    key::create_with_value(session, key::working_key(), value)
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
