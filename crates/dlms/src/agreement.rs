//! Keys in motion: transfer and agreement (IEC 62056-6-2, security setup, class 64; IEC 62056-5-3, key-info). What is
//! hashed, signed and sent; no key is made here.
//!
//! Party U is whoever begins: the client in [`KeyAgreement`] (2e0s), the originator of the APDU in general-ciphering
//! (1e1s and 0e2s), whichever role that has.

use alloc::vec::Vec;

use crate::axdr::{Reader, put_prefixed};
use crate::data::Data;
use crate::error::Error;
use crate::security::{Suite, SystemTitle};

/// A symmetric key of a security setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyId {
    /// 0, GUEK.
    GlobalUnicastEncryption,
    /// 1, GBEK.
    GlobalBroadcastEncryption,
    /// 2, GAK.
    GlobalAuthentication,
    /// 3, KEK: the key that wraps keys.
    Master,
}

impl KeyId {
    /// From its id in a security setup.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::GlobalUnicastEncryption),
            1 => Some(Self::GlobalBroadcastEncryption),
            2 => Some(Self::GlobalAuthentication),
            3 => Some(Self::Master),
            _ => None,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::GlobalUnicastEncryption => 0,
            Self::GlobalBroadcastEncryption => 1,
            Self::GlobalAuthentication => 2,
            Self::Master => 3,
        }
    }

    /// Of an identified key, which can only encrypt.
    pub(crate) fn read_identified(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let offset = reader.offset();
        match reader.u8()? {
            0 => Ok(Self::GlobalUnicastEncryption),
            1 => Ok(Self::GlobalBroadcastEncryption),
            found => Err(Error::Unexpected {
                offset,
                expected: "the id of an encryption key (00 unicast, 01 broadcast)",
                found,
            }),
        }
    }
}

/// What a derived key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// 0: AES-GCM with 128 bits.
    AesGcm128,
    /// 1: AES-GCM with 256 bits.
    AesGcm256,
    /// 2: AES key wrap with 128 bits.
    Wrap128,
    /// 3: AES key wrap with 256 bits.
    Wrap256,
}

impl Algorithm {
    /// What a key of this suite is for.
    #[must_use]
    pub const fn of(suite: Suite, key: KeyId) -> Self {
        match (suite, key) {
            (Suite::Suite0 | Suite::Suite1, KeyId::Master) => Self::Wrap128,
            (Suite::Suite2, KeyId::Master) => Self::Wrap256,
            (Suite::Suite0 | Suite::Suite1, _) => Self::AesGcm128,
            (Suite::Suite2, _) => Self::AesGcm256,
        }
    }

    const fn id(self) -> u8 {
        match self {
            Self::AesGcm128 => 0,
            Self::AesGcm256 => 1,
            Self::Wrap128 => 2,
            Self::Wrap256 => 3,
        }
    }
}

/// How AlgorithmID is written in the key derivation. Both are in the field, and meters of one do not understand heads of
/// the other: a switch of the meter's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AlgorithmId {
    /// 60 85 74 05 08 03 xx, 2.16.756.5.8.3.x.
    #[default]
    Standard,
    /// 60 85 74 06 08 03 xx.
    Legacy,
}

impl AlgorithmId {
    /// Its seven octets.
    #[must_use]
    pub const fn octets(self, algorithm: Algorithm) -> [u8; 7] {
        let arc = match self {
            Self::Standard => 0x05,
            Self::Legacy => 0x06,
        };
        [0x60, 0x85, 0x74, arc, 0x08, 0x03, algorithm.id()]
    }
}

/// OtherInfo of the key derivation: AlgorithmID, PartyUInfo, PartyVInfo.
///
/// The parties are system titles; in C(0e, 2s) that of U is followed by its nonce: see [`party_u_static`].
#[must_use]
pub fn other_info(
    id: AlgorithmId,
    algorithm: Algorithm,
    party_u: &[u8],
    party_v: &[u8],
) -> Vec<u8> {
    [&id.octets(algorithm)[..], party_u, party_v].concat()
}

/// PartyUInfo of C(0e, 2s): the originator's title, then the transaction id with its length.
#[must_use]
pub fn party_u_static(originator: SystemTitle, transaction_id: &[u8]) -> Vec<u8> {
    let mut out = originator.bytes().to_vec();
    put_prefixed(&mut out, transaction_id);
    out
}

/// The counter that the single step of the key derivation begins with.
pub const KDF_COUNTER: [u8; 4] = [0, 0, 0, 1];

/// What the key derivation hashes (SP 800-56A, one step): counter, Z, OtherInfo. SHA-256 in suite 1, SHA-384 in suite 2;
/// the key is the leftmost [`Suite::key_len`] octets.
///
/// A holder of keys that does not show Z digests the pieces: [`KDF_COUNTER`], Z, [`other_info`]. The result holds Z: wipe
/// it. It is exactly as large as it began, so no copy is left behind.
#[must_use]
pub fn kdf_input(z: &[u8], other_info: &[u8]) -> Vec<u8> {
    let room = z.len().saturating_add(other_info.len());
    let mut out = Vec::with_capacity(room.saturating_add(KDF_COUNTER.len()));
    out.extend_from_slice(&KDF_COUNTER);
    out.extend_from_slice(z);
    out.extend_from_slice(other_info);
    out
}

/// An ephemeral public key and its owner's signature: what key-info carries in C(1e, 1s), and what
/// [`KeyAgreement`] carries for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedKey {
    /// x and y, 64 or 96 octets.
    pub public: Vec<u8>,
    /// r and s, 64 or 96 octets. In key-info over the public key alone, in a key agreement over
    /// [`KeyAgreement::signing_input`].
    pub signature: Vec<u8>,
}

impl SignedKey {
    /// Takes the octets apart: each half is half of them.
    ///
    /// # Errors
    /// Another length than the suite's.
    pub fn decode(suite: Suite, octets: &[u8]) -> Result<Self, Error> {
        let wrong = Error::Bounds {
            offset: 0,
            expected: "a public key and a signature (128 octets in suite 1, 192 in suite 2)",
            found: octets.len(),
        };
        let lengths = suite.public_key_len().saturating_add(suite.signature_len());
        match octets.split_at_checked(suite.public_key_len()) {
            Some((public, signature)) if octets.len() == lengths && lengths > 0 => Ok(Self {
                public: public.to_vec(),
                signature: signature.to_vec(),
            }),
            Some(_) | None => Err(wrong),
        }
    }

    /// Its octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.public.as_slice(), self.signature.as_slice()].concat()
    }
}

/// One key of `key_agreement` (class 64, method 3): ephemeral unified model, C(2e, 0s). Request and answer alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAgreement {
    /// Which key is agreed.
    pub key: KeyId,
    /// The sender's ephemeral public key, signed with [`Self::signing_input`].
    pub data: SignedKey,
}

impl KeyAgreement {
    /// What is signed: the key's id, then the ephemeral public key.
    #[must_use]
    pub fn signing_input(key: KeyId, public: &[u8]) -> Vec<u8> {
        [&[key.id()][..], public].concat()
    }

    /// The parameter of the method, or its answer: an array of structures of key id and key data.
    #[must_use]
    pub fn to_data(items: &[Self]) -> Data {
        array(items.iter().map(|item| (item.key, item.data.encode())))
    }

    /// Takes the parameter or the answer apart.
    ///
    /// # Errors
    /// Another shape, an unknown key id or another length than the suite's. Offsets count elements.
    pub fn from_data(suite: Suite, data: &Data) -> Result<Vec<Self>, Error> {
        let item = |(key, octets): (KeyId, &[u8])| {
            SignedKey::decode(suite, octets).map(|data| Self { key, data })
        };
        elements(data)?.into_iter().map(item).collect()
    }
}

/// One key of `key_transfer` (class 64, method 2), wrapped (RFC 3394) under the master key that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTransfer {
    /// Which key is new.
    pub key: KeyId,
    /// The wrapped key, 24 or 40 octets.
    pub wrapped: Vec<u8>,
}

impl KeyTransfer {
    /// The parameter of the method.
    #[must_use]
    pub fn to_data(items: &[Self]) -> Data {
        array(items.iter().map(|item| (item.key, item.wrapped.clone())))
    }

    /// Takes the parameter apart.
    ///
    /// # Errors
    /// Another shape or an unknown key id. Offsets count elements.
    pub fn from_data(data: &Data) -> Result<Vec<Self>, Error> {
        let item = |(key, octets): (KeyId, &[u8])| Self {
            key,
            wrapped: octets.to_vec(),
        };
        Ok(elements(data)?.into_iter().map(item).collect())
    }
}

fn array(items: impl Iterator<Item = (KeyId, Vec<u8>)>) -> Data {
    let structure = |(key, octets): (KeyId, Vec<u8>)| {
        Data::Structure(Vec::from([Data::Enum(key.id()), Data::OctetString(octets)]))
    };
    Data::Array(items.map(structure).collect())
}

fn elements(data: &Data) -> Result<Vec<(KeyId, &[u8])>, Error> {
    let shape = "an array of structures of an enum 0..3 and an octet-string";
    let missing = |offset| Error::Missing {
        offset,
        expected: shape,
    };
    let Data::Array(items) = data else {
        return Err(missing(0));
    };
    let mut found = Vec::with_capacity(items.len());
    for (offset, item) in items.iter().enumerate() {
        found.push(pair(item).ok_or_else(|| missing(offset))?);
    }
    Ok(found)
}

fn pair(item: &Data) -> Option<(KeyId, &[u8])> {
    let Data::Structure(fields) = item else {
        return None;
    };
    let [Data::Enum(id), Data::OctetString(octets)] = fields.as_slice() else {
        return None;
    };
    KeyId::from_id(*id).map(|key| (key, octets.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn algorithm_ids_in_both_encodings() {
        let (unicast, master) = (KeyId::GlobalUnicastEncryption, KeyId::Master);
        for (suite, key, last) in [
            (Suite::Suite0, unicast, 0),
            (Suite::Suite1, KeyId::GlobalAuthentication, 0),
            (Suite::Suite1, master, 2),
            (Suite::Suite2, unicast, 1),
            (Suite::Suite2, master, 3),
        ] {
            let algorithm = Algorithm::of(suite, key);
            let standard = [0x60, 0x85, 0x74, 0x05, 0x08, 0x03, last];
            assert_eq!(AlgorithmId::Standard.octets(algorithm), standard);
            let legacy = [0x60, 0x85, 0x74, 0x06, 0x08, 0x03, last];
            assert_eq!(AlgorithmId::Legacy.octets(algorithm), legacy);
        }
    }

    #[test]
    fn derivation_input_is_counter_secret_and_other_info() {
        let title = SystemTitle::new(*b"MMM\0\0\0\0\x01");
        let party_u = party_u_static(title, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(
            party_u,
            b"MMM\0\0\0\0\x01\x08\x01\x02\x03\x04\x05\x06\x07\x08"
        );
        let other = other_info(
            AlgorithmId::Standard,
            Algorithm::AesGcm128,
            &party_u,
            b"VVVVVVVV",
        );
        assert_eq!(other.len(), 7 + 17 + 8);
        let input = kdf_input(&[9; 32], &other);
        assert_eq!(input, [&[0, 0, 0, 1][..], &[9; 32], &other].concat());
        assert_eq!(input.capacity(), input.len(), "it never moved");
    }

    #[test]
    fn agreements_and_transfers_go_there_and_back() {
        for suite in [Suite::Suite1, Suite::Suite2] {
            let data = SignedKey {
                public: vec![1; suite.public_key_len()],
                signature: vec![2; suite.signature_len()],
            };
            let item = |key| KeyAgreement {
                key,
                data: data.clone(),
            };
            let items = vec![item(KeyId::GlobalUnicastEncryption), item(KeyId::Master)];
            let encoded = KeyAgreement::to_data(&items);
            assert_eq!(KeyAgreement::from_data(suite, &encoded), Ok(items));
            let other = Suite::from_id(3 - suite.id()).unwrap();
            assert!(KeyAgreement::from_data(other, &encoded).is_err());
            assert!(KeyAgreement::from_data(Suite::Suite0, &encoded).is_err());
        }
        let key = KeyId::GlobalAuthentication;
        assert_eq!(KeyAgreement::signing_input(key, &[5, 6]), [2, 5, 6]);
        let items = vec![KeyTransfer {
            key,
            wrapped: vec![3; 24],
        }];
        assert_eq!(
            KeyTransfer::from_data(&KeyTransfer::to_data(&items)),
            Ok(items)
        );
        let unknown = Data::Structure(vec![Data::Enum(4), Data::OctetString(vec![])]);
        for wrong in [
            Data::Integer(0),
            Data::Array(vec![Data::Integer(0)]),
            Data::Array(vec![unknown]),
        ] {
            assert!(KeyTransfer::from_data(&wrong).is_err(), "{wrong:?}");
        }
    }
}
