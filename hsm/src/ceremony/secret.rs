//! Secrets the ceremony reads or makes: PINs and transport components.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::{cmac, rand};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::plan::{Plan, TokenPlan};
use crate::error::Error;
use crate::pin::{self, read_secret};

/// Makes a PIN file of random digits, unless the file is there already.
pub(super) fn create_pin(path: &Path) -> Result<(), Error> {
    let mut pin = Zeroizing::new(Vec::with_capacity(PIN_DIGITS + 1));
    while pin.len() < PIN_DIGITS {
        let mut octet = [0];
        random(&mut octet)?;
        // 250 values: every digit equally often.
        if octet[0] < 250 {
            pin.push(b'0' + octet[0] % 10);
        }
    }
    pin.push(b'\n');
    create(path, &pin)
}

/// The PIN in a file; or, where the plan says so and there is no file, one that is typed: twice if it is new.
pub(super) fn pin(
    plan: &Plan,
    path: &Path,
    (whose, new): (&str, bool),
) -> Result<SecretString, Error> {
    match (plan.pin_prompt && !path.exists(), new) {
        (false, _) => pin::read_pin(path),
        (true, true) => pin::ask_new(whose),
        (true, false) => pin::ask(whose),
    }
}

/// A transport key, put together from its components.
pub(super) struct Component(Zeroizing<[u8; KEY]>);

impl Component {
    pub(super) fn value(&self) -> &[u8] {
        &self.0[..]
    }

    /// The first 5 octets of the key's CMAC over 16 zero octets: what the sender compares.
    pub(super) fn check_value(&self) -> Result<String, Error> {
        let key = cmac::Key::new(cmac::AES_256, self.value()).map_err(|_| host("AES-CMAC"))?;
        let mac = cmac::sign(&key, &[0; 16]).map_err(|_| host("AES-CMAC"))?;
        let head = mac.as_ref().get(..5).ok_or_else(|| host("AES-CMAC"))?;
        Ok(hex::encode(head))
    }

    /// A random key wrapped by this one (RFC 3394).
    pub(super) fn wrap_test_key(&self) -> Result<Vec<u8>, Error> {
        let mut key = Zeroizing::new([0; 16]);
        random(&mut key[..])?;
        let kek = AesKek::new(&AES_256, self.value()).map_err(|_| host("AES key wrap"))?;
        let mut wrapped = vec![0; key.len() + 8];
        kek.wrap(&key[..], &mut wrapped)
            .map_err(|_| host("AES key wrap"))?;
        Ok(wrapped)
    }
}

/// Reads the components of a plan, making those that are missing if `create`; `None` if the plan
/// has none.
pub(super) fn combine(token: &TokenPlan, create: bool) -> Result<Option<Component>, Error> {
    if token.transport_components.is_empty() {
        return Ok(None);
    }
    let mut key = Zeroizing::new([0; KEY]);
    for path in &token.transport_components {
        if create {
            create_component(path)?;
        }
        let text = read_secret(path)?;
        let mut component = Zeroizing::new([0; KEY]);
        let digits = text.strip_suffix(b"\n").unwrap_or(&text);
        hex::decode_to_slice(digits, &mut component[..]).map_err(|_| Error::PinFile {
            path: path.clone(),
            why: "a transport component is 64 hexadecimal digits".to_owned(),
        })?;
        for (octet, part) in key.iter_mut().zip(component.iter()) {
            *octet ^= part;
        }
    }
    Ok(Some(Component(key)))
}

fn create_component(path: &Path) -> Result<(), Error> {
    let mut octets = Zeroizing::new([0; KEY]);
    random(&mut octets[..])?;
    let mut text = Zeroizing::new(vec![0; KEY * 2 + 1]);
    if let Some((newline, digits)) = text.split_last_mut() {
        *newline = b'\n';
        hex::encode_to_slice(&octets[..], digits).map_err(|_| host("hexadecimal"))?;
    }
    create(path, &text)
}

fn create(path: &Path, content: &[u8]) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn random(octets: &mut [u8]) -> Result<(), Error> {
    rand::fill(octets).map_err(|_| host("the random generator"))
}

fn host(what: &str) -> Error {
    Error::Contract {
        why: format!("{what} failed on this machine"),
    }
}

const PIN_DIGITS: usize = 16;
/// Octets of a transport key: AES-256.
const KEY: usize = 32;
