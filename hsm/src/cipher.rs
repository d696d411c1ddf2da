//! AES-GCM with DLMS's 12-octet tag, GMAC, and the check value.

use cryptoki::context::Function;
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::able::GcmBackend;
use crate::block;
use crate::error::Error;
use crate::key::{self, KeyHandle};
use crate::module::making;
use crate::secret::used_once;
use crate::token::Token;

impl Token {
    /// Enciphers and authenticates under a meter's key: ciphertext, then the 12-octet tag.
    ///
    /// The caller answers for `nonce`: a pair of key and nonce must never be used twice.
    pub async fn seal(
        &self,
        key: &KeyHandle,
        nonce: [u8; NONCE],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Error> {
        limit("the associated data", aad)?;
        limit("the plaintext", plaintext)?;
        let (held, aad) = (key.clone(), Zeroizing::new(aad.to_vec()));
        let plaintext = Zeroizing::new(plaintext.to_vec());
        self.on_owner(key, move |engine| {
            let object = engine.held(&held)?;
            let gcm = Gcm::dlms(nonce, &aad).by(engine.gcm());
            encrypt(engine.session(), object, gcm, &plaintext)
        })
        .await
    }

    /// Checks the tag and deciphers what [`Token::seal`] makes. [`Error::AuthFailed`] if the tag is
    /// wrong.
    pub async fn open_sealed(
        &self,
        key: &KeyHandle,
        nonce: [u8; NONCE],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, Error> {
        limit("the associated data", aad)?;
        limit("the sealed data", sealed)?;
        if sealed.len() < DLMS_TAG {
            return Err(Error::AuthFailed);
        }
        let (held, aad, sealed) = (key.clone(), Zeroizing::new(aad.to_vec()), sealed.to_vec());
        self.on_owner(key, move |engine| {
            let object = engine.held(&held)?;
            let gcm = Gcm::dlms(nonce, &aad).by(engine.gcm());
            decrypt(engine.session(), object, gcm, &sealed)
        })
        .await
    }

    /// The GMAC tag over `aad`: GCM of nothing (IEC 62056-5-3, HLS mechanism 5, and
    /// authenticated-only APDUs). Verify one with [`Token::open_sealed`] of the bare tag.
    pub async fn gmac(
        &self,
        key: &KeyHandle,
        nonce: [u8; NONCE],
        aad: &[u8],
    ) -> Result<[u8; DLMS_TAG], Error> {
        let tag = self.seal(key, nonce, aad, &[]).await?;
        tag.as_slice()
            .try_into()
            .map_err(|_| short("GCM", DLMS_TAG, tag.len()))
    }

    /// Enciphers or deciphers without a tag: AES in counter mode, as GCM has it (IEC 62056-5-3,
    /// security control 2x). Nothing about the result is authentic. `nonce` as with
    /// [`Token::seal`].
    pub async fn cipher_only(
        &self,
        key: &KeyHandle,
        nonce: [u8; NONCE],
        text: &[u8],
    ) -> Result<Vec<u8>, Error> {
        // Counter mode is its own inverse, and every token refuses to decipher without a tag.
        let mut sealed = self.seal(key, nonce, &[], text).await?;
        sealed.truncate(text.len());
        Ok(sealed)
    }

    /// The key's check value: the first 5 octets of its CMAC over 16 zero octets. Not the ECB
    /// kind, which would give away part of the GHASH key.
    pub async fn check_value(&self, key: &KeyHandle) -> Result<[u8; 5], Error> {
        let held = key.clone();
        self.on_owner(key, move |engine| {
            let object = engine.held(&held)?;
            let mac = cmac(engine.session(), object, &[0; 16])?;
            let head = mac.first_chunk::<5>().copied();
            head.ok_or_else(|| short("CMAC", 16, mac.len()))
        })
        .await
    }
}

/// Everything of a GCM call but key and text.
pub(crate) struct Gcm<'a> {
    nonce: [u8; NONCE],
    aad: &'a [u8],
    tag: usize,
    by: GcmBackend,
}

impl<'a> Gcm<'a> {
    /// With the 12-octet tag of DLMS.
    pub(crate) fn dlms(nonce: [u8; NONCE], aad: &'a [u8]) -> Self {
        Self {
            nonce,
            aad,
            tag: DLMS_TAG,
            by: GcmBackend::Token,
        }
    }

    /// With a full tag, for what we keep ourselves.
    pub(crate) fn full(nonce: [u8; NONCE], aad: &'a [u8]) -> Self {
        Self {
            nonce,
            aad,
            tag: FULL_TAG,
            by: GcmBackend::Token,
        }
    }

    /// Done in this way.
    pub(crate) fn by(mut self, backend: GcmBackend) -> Self {
        self.by = backend;
        self
    }

    fn params<'b>(&'b mut self) -> Result<GcmParams<'b>, Error>
    where
        'a: 'b,
    {
        let bits = u8::try_from(self.tag * 8).unwrap_or(u8::MAX);
        let params = GcmParams::new(
            &mut self.nonce,
            self.aad,
            std::ffi::c_ulong::from(bits).into(),
        );
        Ok(params?)
    }
}

/// Ciphertext, then tag.
pub(crate) fn encrypt(
    session: &Session,
    key: ObjectHandle,
    mut gcm: Gcm<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, Error> {
    if gcm.by == GcmBackend::EcbGhash {
        return block::encrypt(session, key, (&gcm.nonce, gcm.aad, gcm.tag), plaintext);
    }
    let wanted = plaintext.len() + gcm.tag;
    let sealed = session.encrypt(&Mechanism::AesGcm(gcm.params()?), key, plaintext)?;
    // Some tokens make the nonce themselves and append it, or give a tag of their own length.
    if sealed.len() == wanted {
        Ok(sealed)
    } else {
        Err(short("GCM", wanted, sealed.len()))
    }
}

/// The reverse of [`encrypt`]. A wrong tag is whatever the module says: see `Engine::judge`.
pub(crate) fn decrypt(
    session: &Session,
    key: ObjectHandle,
    mut gcm: Gcm<'_>,
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    if gcm.by == GcmBackend::EcbGhash {
        return block::decrypt(session, key, (&gcm.nonce, gcm.aad, gcm.tag), sealed);
    }
    let wanted = sealed.len().saturating_sub(gcm.tag);
    let opened = match session.decrypt(&Mechanism::AesGcm(gcm.params()?), key, sealed) {
        // A wrong tag, says one module; that it failed, says another. A wrong tag stays wrong.
        Err(Pkcs11Error::Pkcs11(code, Function::Decrypt)) if is_ambiguous(code) => {
            session.decrypt(&Mechanism::AesGcm(gcm.params()?), key, sealed)?
        }
        opened => opened?,
    };
    if opened.len() == wanted {
        Ok(opened)
    } else {
        Err(short("GCM", wanted, opened.len()))
    }
}

/// Codes that some module returns for a wrong tag, and another for a fault of its own.
fn is_ambiguous(code: RvError) -> bool {
    matches!(
        code,
        RvError::GeneralError | RvError::DeviceError | RvError::FunctionFailed
    )
}

/// How this token does GCM with the caller's nonce: by itself if it can, which a key made for the
/// question shows. If both ways are open they must agree.
pub(crate) fn choose(
    session: &Session,
    label: &str,
    wanted: Option<GcmBackend>,
) -> Result<GcmBackend, Error> {
    making(1);
    let key = session.generate_key(&Mechanism::AesKeyGen, &key::test_key())?;
    let mut nonce = [0; NONCE];
    let tried = used_once(session, key, |key| {
        session.generate_random_slice(&mut nonce)?;
        let by = |backend| {
            let text = b"latchkey: which nonce is it?";
            encrypt(session, key, Gcm::dlms(nonce, b"a").by(backend), text)
        };
        // Twice: a token that makes the nonce itself answers otherwise each time.
        let token = by(GcmBackend::Token).and_then(|first| {
            let same = by(GcmBackend::Token)? == first;
            let why = || wrong(label, "CKM_AES_GCM", "it makes the nonce itself");
            same.then_some(first).ok_or_else(why)
        });
        Ok((token, by(GcmBackend::EcbGhash)))
    })?;
    match (wanted, tried) {
        (_, (Ok(token), Ok(blocks))) if token != blocks => Err(wrong(
            label,
            "CKM_AES_GCM",
            "it differs from GCM made of single blocks",
        )),
        (None | Some(GcmBackend::Token), (Ok(_), _)) => Ok(GcmBackend::Token),
        (None, (Err(error), Ok(_))) if is_inability(&error) => {
            tracing::warn!(token = label, %error, "GCM is made of single blocks");
            Ok(GcmBackend::EcbGhash)
        }
        (Some(GcmBackend::EcbGhash), (_, Ok(_))) => Ok(GcmBackend::EcbGhash),
        (None | Some(GcmBackend::Token), (Err(error), _))
        | (Some(GcmBackend::EcbGhash), (_, Err(error))) => Err(error),
    }
}

/// Whether a token cannot do a thing, rather than that it failed this time.
fn is_inability(error: &Error) -> bool {
    match error {
        Error::Refused { code, .. } => matches!(
            code,
            RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::ArgumentsBad
                | RvError::DataLenRange
                | RvError::FunctionNotSupported
                | RvError::KeyFunctionNotPermitted
        ),
        Error::SelfTest { .. } | Error::Contract { .. } => true,
        _ => false,
    }
}

fn wrong(label: &str, mechanism: &'static str, why: &str) -> Error {
    Error::SelfTest {
        label: label.to_owned(),
        mechanism,
        why: why.to_owned(),
    }
}

/// AES-CMAC (RFC 4493), 16 octets.
pub(crate) fn cmac(session: &Session, key: ObjectHandle, data: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(session.sign(&Mechanism::AesCMac, key, data)?)
}

/// AES-128 or AES-256.
pub(crate) fn key_length(octets: usize) -> Result<(), Error> {
    if matches!(octets, 16 | 32) {
        return Ok(());
    }
    Err(Error::Length {
        what: "the key",
        length: octets,
        allowed: "16 or 32",
    })
}

pub(crate) fn limit(what: &'static str, data: &[u8]) -> Result<(), Error> {
    if data.len() <= TEXT_MAX {
        return Ok(());
    }
    Err(Error::Length {
        what,
        length: data.len(),
        allowed: "0..=131072",
    })
}

pub(crate) fn short(mechanism: &str, wanted: usize, got: usize) -> Error {
    Error::Contract {
        why: format!("{mechanism} gave {got} octets instead of {wanted}"),
    }
}

/// Octets of a GCM nonce: system title and invocation counter.
pub(crate) const NONCE: usize = 12;
/// Octets of a tag on the wire (IEC 62056-5-3, security suites 0 to 2).
pub(crate) const DLMS_TAG: usize = 12;
/// Octets of a tag in our own storage.
pub(crate) const FULL_TAG: usize = 16;
/// Two of the largest APDU: no call holds a worker for long.
const TEXT_MAX: usize = 131_072;
