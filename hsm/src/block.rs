//! AES-GCM put together from single blocks, for tokens whose own GCM is of no use to DLMS.
//!
//! DLMS fixes the nonce: title and counter (IEC 62056-5-3, 5.3.3.4). A token in FIPS mode makes
//! nonces itself. There the token enciphers the counter blocks one by one (CKM_AES_ECB), and the
//! sum of GHASH is made here (NIST SP 800-38D, 6.4 and 7). The result is the same to the bit.
//!
//! The key stays in the token. Its hash key H does not: it is in this process during each call,
//! zeroized. With H, and a message he has seen, somebody could forge another under the *same*
//! nonce, which a meter refuses; he deciphers nothing, and makes no tag for a new nonce.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::cipher::{NONCE, short};
use crate::error::Error;

/// Ciphertext, then the first `tag` octets of the tag.
pub(crate) fn encrypt(
    session: &Session,
    key: ObjectHandle,
    (nonce, aad, tag): (&[u8; NONCE], &[u8], usize),
    plaintext: &[u8],
) -> Result<Vec<u8>, Error> {
    let stream = Stream::make(session, key, nonce, plaintext.len())?;
    let mut sealed = Vec::with_capacity(plaintext.len().saturating_add(BLOCK));
    sealed.extend_from_slice(plaintext);
    stream.apply(&mut sealed);
    let whole = stream.tag(aad, &sealed);
    sealed.extend(whole.iter().take(tag));
    Ok(sealed)
}

/// The reverse of [`encrypt`]: [`Error::AuthFailed`] if the tag is another.
pub(crate) fn decrypt(
    session: &Session,
    key: ObjectHandle,
    (nonce, aad, tag): (&[u8; NONCE], &[u8], usize),
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    let split = sealed.len().checked_sub(tag);
    let Some((text, came)) = split.and_then(|at| sealed.split_at_checked(at)) else {
        return Err(Error::AuthFailed);
    };
    let stream = Stream::make(session, key, nonce, text.len())?;
    let whole = stream.tag(aad, text);
    let ours = whole.get(..tag).unwrap_or(&whole);
    if !bool::from(ours.ct_eq(came)) {
        return Err(Error::AuthFailed);
    }
    let mut opened = text.to_vec();
    stream.apply(&mut opened);
    Ok(opened)
}

/// What one key and one nonce make: H, the mask of the tag, and the key stream.
struct Stream(Zeroizing<Vec<u8>>);

impl Stream {
    fn make(
        session: &Session,
        key: ObjectHandle,
        nonce: &[u8; NONCE],
        length: usize,
    ) -> Result<Self, Error> {
        let blocks = length.div_ceil(BLOCK).saturating_add(1);
        let mut counters = vec![0; BLOCK];
        // With a nonce of 96 bits the first counter block ends in 1, and masks the tag.
        for counter in (1u32..).take(blocks) {
            counters.extend_from_slice(nonce);
            counters.extend_from_slice(&counter.to_be_bytes());
        }
        let stream = Zeroizing::new(session.encrypt(&Mechanism::AesEcb, key, &counters)?);
        if stream.len() == counters.len() {
            Ok(Self(stream))
        } else {
            Err(short("AES-ECB", counters.len(), stream.len()))
        }
    }

    fn apply(&self, text: &mut [u8]) {
        let stream = self.0.iter().skip(2 * BLOCK);
        text.iter_mut()
            .zip(stream)
            .for_each(|(octet, key)| *octet ^= key);
    }

    fn tag(&self, aad: &[u8], ciphertext: &[u8]) -> [u8; BLOCK] {
        let (hash_key, rest) = self.0.split_at(BLOCK);
        let mut key = Zeroizing::new([0; BLOCK]);
        key.copy_from_slice(hash_key);
        let mut hash = GHash::new((&*key).into());
        hash.update_padded(aad);
        hash.update_padded(ciphertext);
        let mut lengths = ghash::Block::default();
        let (first, second) = lengths.split_at_mut(BLOCK / 2);
        first.copy_from_slice(&bits(aad));
        second.copy_from_slice(&bits(ciphertext));
        hash.update(&[lengths]);
        let mut tag = [0; BLOCK];
        tag.iter_mut()
            .zip(hash.finalize())
            .zip(rest)
            .for_each(|((octet, sum), mask)| *octet = sum ^ mask);
        tag
    }
}

/// The length in bits, as GHASH takes it.
fn bits(text: &[u8]) -> [u8; 8] {
    let octets = u64::try_from(text.len()).unwrap_or(u64::MAX);
    octets.saturating_mul(8).to_be_bytes()
}

const BLOCK: usize = 16;
