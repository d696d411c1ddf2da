//! The keys of a SoftHSM token, by its files and its PIN: how a laboratory knows the keys that no module shows.
//!
//! SoftHSM keeps each object in a file: a generation, then attributes of type, kind and value, in integers of 8 octets,
//! big-endian. A private value is IV || AES-256-CBC under the token's key, which is in `token.object` under a key
//! of the PIN: salt (8) || IV (16) || AES-256-CBC("RJR" || key), with SHA-256(salt || PIN) hashed 1500 + salt[7] times.

use std::{fs, path::Path};

use aws_lc_rs::{
    cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey},
    digest::{SHA256, digest},
    iv::FixedLength,
};

const CKA_LABEL: u64 = 3;
const CKA_CLASS: u64 = 0;
const CKA_VALUE: u64 = 0x11;
const CKA_OS_USERPIN: u64 = 0x8000_534D;

/// Labels and values of the token's secret and private keys.
pub(crate) fn keys(tokens: &Path, pin: &str) -> Vec<(String, Vec<u8>)> {
    let token = fs::read_dir(tokens)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let blob = attribute(
        &fs::read(token.join("token.object")).unwrap(),
        CKA_OS_USERPIN,
    )
    .unwrap();
    let key = token_key(&blob, pin);
    let mut keys = Vec::new();
    for file in fs::read_dir(&token).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".object") || name == "token.object" {
            continue;
        }
        let object = fs::read(&path).unwrap();
        // CKO_PRIVATE_KEY, CKO_SECRET_KEY
        let class = attribute(&object, CKA_CLASS).unwrap();
        if !matches!(class.last(), Some(3 | 4)) {
            continue;
        }
        let label = open(&key, &attribute(&object, CKA_LABEL).unwrap());
        let value = open(&key, &attribute(&object, CKA_VALUE).unwrap());
        keys.push((String::from_utf8(label).unwrap(), value));
    }
    assert!(keys.len() >= 8, "{}", keys.len());
    keys
}

fn token_key(blob: &[u8], pin: &str) -> Vec<u8> {
    let (salt, sealed) = blob.split_at(8);
    let mut derived = digest(&SHA256, &[salt, pin.as_bytes()].concat());
    for _ in 1..1500 + u32::from(salt[7]) {
        derived = digest(&SHA256, derived.as_ref());
    }
    let opened = open(derived.as_ref(), sealed);
    opened.strip_prefix(b"RJR").unwrap().to_vec()
}

/// IV || AES-256-CBC.
fn open(key: &[u8], sealed: &[u8]) -> Vec<u8> {
    let (iv, sealed) = sealed.split_first_chunk::<16>().unwrap();
    let key = UnboundCipherKey::new(&AES_256, key).unwrap();
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).unwrap();
    let mut text = sealed.to_vec();
    let iv = DecryptionContext::Iv128(FixedLength::from(*iv));
    key.decrypt(&mut text, iv).unwrap().to_vec()
}

/// The value of an attribute of an object file.
fn attribute(file: &[u8], wanted: u64) -> Option<Vec<u8>> {
    let mut rest = file.get(8..)?;
    let mut take = |length: usize| {
        let (taken, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(taken)
    };
    let number = |octets: &[u8]| u64::from_be_bytes(octets.try_into().unwrap());
    loop {
        let kind = number(take(8)?);
        let value = match number(take(8)?) {
            1 => take(1)?,
            2 => take(8)?,
            3 | 4 => {
                let length = usize::try_from(number(take(8)?)).unwrap();
                take(length)?
            }
            // A set of mechanisms: how many, and each.
            5 => {
                let count = usize::try_from(number(take(8)?)).unwrap();
                take(count * 8)?
            }
            other => panic!("an attribute of kind {other}"),
        };
        if kind == wanted {
            return Some(value.to_vec());
        }
    }
}
