//! RSA-OAEP (RFC 8017, 7.1): how keys come in from a maker who shares no secret with us.
//!
//! `transport-rsa-N` is an RSA key pair of 3072 bits made in the token. Its public half goes to the
//! maker, who enciphers each key or secret of its file with it. Wherever a transport key is named
//! ([`Token::import_wrapped`] and the like) this one may be: what comes in is then 384 octets, not
//! RFC 3394. An RSA operation costs some milliseconds of a software token: a thousand times an AES
//! one.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::key::Kind;
use crate::pool::Engine;
use crate::secret::{self, used_once};
use crate::token::{Role, Token};
use crate::wrap::wrap_and_destroy;

/// The hash of an OAEP, which its mask generation (MGF1) has, too. The label is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OaepHash {
    /// SHA-256: what is asked of makers where the token can.
    Sha256,
    /// SHA-1: all that SoftHSM 2.6 has. OAEP does not rest on its resistance to collisions.
    Sha1,
}

impl OaepHash {
    /// Every one, the best first.
    pub(crate) const ALL: [Self; 2] = [Self::Sha256, Self::Sha1];

    pub(crate) fn mechanism(self) -> Mechanism<'static> {
        let (hash, mask) = match self {
            Self::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
            Self::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        };
        Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
    }

    pub(crate) fn algorithm(self) -> &'static OaepAlgorithm {
        match self {
            Self::Sha256 => &OAEP_SHA256_MGF1SHA256,
            Self::Sha1 => &OAEP_SHA1_MGF1SHA1,
        }
    }
}

impl fmt::Display for OaepHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA-256",
            Self::Sha1 => "SHA-1",
        })
    }
}

/// The public half of a `transport-rsa-N`, and how to encipher with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportKey {
    /// SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), DER: rsaEncryption, 3072 bits, exponent 65537.
    pub spki: Vec<u8>,
    /// The hash this token takes, of OAEP and of its MGF1.
    pub hash: OaepHash,
}

impl TransportKey {
    /// The key as PEM (`PUBLIC KEY`, RFC 7468).
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.spki);
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        for line in text.as_bytes().chunks(64) {
            pem += &String::from_utf8_lossy(line);
            pem.push('\n');
        }
        pem + "-----END PUBLIC KEY-----\n"
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what its owner reads to the maker over the telephone.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = digest::digest(&digest::SHA256, &self.spki);
        digest.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl Token {
    /// The public half of the transport key of that label (`transport-rsa-N`), for the makers of
    /// meters. Compare its fingerprint with the ceremony's transcript before you send it.
    pub async fn transport_key(&self, label: &str) -> Result<TransportKey, Error> {
        let label = label.to_owned();
        self.on_any(move |engine| {
            engine.key(&label, Kind::TransportRsa)?;
            let mut keys = engine.keys();
            let spki =
                keys.find_map(|(name, found)| found.public.clone().filter(|_| name == label));
            Ok(TransportKey {
                spki: spki.unwrap_or_default(),
                hash: engine.oaep()?,
            })
        })
        .await
    }
}

impl Engine {
    /// The hash the token's OAEP has, as its self-test found.
    pub(crate) fn oaep(&self) -> Result<OaepHash, Error> {
        let found = self.shared().able.oaep.get().copied().flatten();
        found.ok_or_else(|| Error::Contract {
            why: "an RSA key was used before its self-test".to_owned(),
        })
    }

    /// Unwraps what a maker sent under this transport key, of either kind.
    pub(crate) fn unwrap_incoming(
        &mut self,
        transport: &str,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        if !is_rsa(transport) {
            return self.unwrap(Kind::Transport, transport, wrapped, template);
        }
        let own = self.key(transport, Kind::TransportRsa)?;
        let mechanism = self.oaep()?.mechanism();
        self.unwrap_by(transport, (&mechanism, own), wrapped, template)
    }

    /// Wraps what came in under a key-encryption key and destroys it.
    ///
    /// RFC 3394 says how long a key is before it is unwrapped, RSA does not, nor does SoftHSM say
    /// it of a key it holds; and it wraps what is no multiple of 8 octets with zeros behind it. So
    /// what came under RSA must be, by its digest, what unwraps again.
    pub(crate) fn rewrap_incoming(
        &mut self,
        transport: &str,
        incoming: ObjectHandle,
        (kek, label): (ObjectHandle, &str),
        fits: impl Fn(usize) -> Result<(), Error>,
    ) -> Result<Vec<u8>, Error> {
        if !is_rsa(transport) {
            return wrap_and_destroy(self.session(), kek, incoming);
        }
        let session = self.session();
        let came = digest_of(session, incoming);
        let wrapped = wrap_and_destroy(session, kek, incoming);
        let (came, wrapped) = match (came, wrapped) {
            (Ok(came), Ok(wrapped)) => (came, wrapped),
            // RFC 3394 wraps nothing but multiples of 8 octets.
            (Err(Error::Refused { .. }), _) | (_, Err(Error::Refused { .. })) => {
                self.check()?;
                return Err(invalid(transport));
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        fits(wrapped.len().saturating_sub(RFC3394_MORE))?;
        let role = self.shared().role;
        let template = Kind::of(role, label).and_then(|kind| kind.unwrapped(role));
        let template = template.unwrap_or_default();
        let again = self.unwrap_by(label, (&Mechanism::AesKeyWrap, kek), &wrapped, &template)?;
        let session = self.session();
        if used_once(session, again, |again| digest_of(session, again))? == came {
            Ok(wrapped)
        } else {
            Err(invalid(transport))
        }
    }
}

fn digest_of(session: &Session, key: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, Error> {
    secret::digest(session, &Mechanism::Sha256, (&[], &[]), key).map(Zeroizing::new)
}

fn invalid(transport: &str) -> Error {
    Error::WrappedKeyInvalid {
        kek: transport.to_owned(),
    }
}

/// Whether a label promises an RSA transport key.
pub(crate) fn is_rsa(transport: &str) -> bool {
    Kind::of(Role::Custody, transport) == Some(Kind::TransportRsa)
}

/// The length of what comes in under an RSA transport key; for another, as `otherwise` says.
pub(crate) fn sent_length(
    transport: &str,
    wrapped: &[u8],
    otherwise: impl Fn(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    match (is_rsa(transport), wrapped.len()) {
        (false, _) => otherwise(wrapped),
        (true, MODULUS) => Ok(()),
        (true, length) => Err(Error::Length {
            what: "what came under an RSA transport key",
            length,
            allowed: "384 (RSA of 3072 bits)",
        }),
    }
}

/// The SubjectPublicKeyInfo of a public key object, if it is as the ceremony makes them.
pub(crate) fn public_key(
    session: &Session,
    object: ObjectHandle,
) -> Result<Option<Vec<u8>>, Error> {
    let types = [AttributeType::Modulus, AttributeType::PublicExponent];
    let read = session.get_attributes(object, &types)?;
    let [
        Attribute::Modulus(modulus),
        Attribute::PublicExponent(exponent),
    ] = read.as_slice()
    else {
        return Ok(None);
    };
    let full = modulus.len() == MODULUS && modulus.first().is_some_and(|first| first & 0x80 != 0);
    if !full || significant(exponent) != EXPONENT {
        return Ok(None);
    }
    Ok(Some([SPKI_HEAD, modulus, SPKI_TAIL].concat()))
}

fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Octets that RFC 3394 adds to what it wraps.
const RFC3394_MORE: usize = 8;
/// Bits of an RSA transport key (NIST SP 800-57 part 1: 128 bits of security).
pub(crate) const BITS: u32 = 3072;
/// Octets of its modulus, and of what is enciphered with it.
const MODULUS: usize = 384;
/// 65537.
pub(crate) const EXPONENT: &[u8] = &[1, 0, 1];
// SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING { SEQUENCE { INTEGER modulus, INTEGER 65537 } } }: a modulus of
// 3072 bits has its highest bit set, so every length is known.
const SPKI_HEAD: &[u8] =
    b"\x30\x82\x01\xA2\x30\x0D\x06\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x01\x05\x00\
    \x03\x82\x01\x8F\x00\x30\x82\x01\x8A\x02\x82\x01\x81\x00";
const SPKI_TAIL: &[u8] = b"\x02\x03\x01\x00\x01";
