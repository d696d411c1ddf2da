//! The key file: TOML, every value in hex but the suite. Unknown fields are refused, so that a misspelt one is noticed.

use serde::Deserialize;
use zeroize::{Zeroize as _, ZeroizeOnDrop};

use super::{LabKeys, Pair, PublicKey, Secret, Suite, Zeroizing};

#[derive(Deserialize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct File {
    client_system_title: String,
    server_system_title: String,
    /// 0 if it is absent, as in the files of old.
    #[serde(default)]
    suite: u8,
    ek: String,
    ak: String,
    #[serde(default)]
    gbek: String,
    #[serde(default)]
    kek: String,
    #[serde(default)]
    hls_secret: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    server_signing_private_key: String,
    #[serde(default)]
    server_agreement_private_key: String,
    #[serde(default)]
    client_signing_public_key: String,
    #[serde(default)]
    client_agreement_public_key: String,
}

impl LabKeys {
    /// Reads the text of a key file. The error repeats nothing of it but field names.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // `message` alone: the full error of the TOML reader quotes the line, and with it the key
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let suite = Suite::from_id(file.suite).ok_or("suite must be 0, 1 or 2")?;
        let length = suite.key_len();
        let mut titles = [[0; 8]; 2];
        for (title, (name, text)) in titles.iter_mut().zip([
            ("client_system_title", &file.client_system_title),
            ("server_system_title", &file.server_system_title),
        ]) {
            title.copy_from_slice(secret(name, text, 8)?.expose());
        }
        let [client_system_title, server_system_title] = titles;
        if client_system_title == server_system_title {
            // the two ends would build the same nonces under the same key
            return Err(
                "client_system_title and server_system_title are the same; they must differ".into(),
            );
        }
        Ok(Self {
            client_system_title,
            server_system_title,
            suite,
            ek: secret("ek", &file.ek, length)?,
            ak: secret("ak", &file.ak, length)?,
            gbek: given(&file.gbek, |text| secret("gbek", text, length))?,
            kek: given(&file.kek, |text| secret("kek", text, length))?,
            hls_secret: given(&file.hls_secret, |text| any("hls_secret", text))?,
            password: any("password", &file.password)?,
            signing: given(&file.server_signing_private_key, |text| {
                private("server_signing_private_key", text, suite)
            })?,
            agreement: given(&file.server_agreement_private_key, |text| {
                private("server_agreement_private_key", text, suite)
            })?,
            client_signing: given(&file.client_signing_public_key, |text| {
                public("client_signing_public_key", text, suite)
            })?,
            client_agreement: given(&file.client_agreement_public_key, |text| {
                public("client_agreement_public_key", text, suite)
            })?,
        })
    }

    /// The text of a key file: what is not there is not written.
    pub(super) fn render(&self) -> Zeroizing<String> {
        // room for all of it: a text that grew would leave keys behind
        let mut text = Zeroizing::new(String::with_capacity(4096));
        text.push_str(&format!("suite = {}\n", self.suite.id()));
        let (signing, agreement) = (&self.signing, &self.agreement);
        let [client_signing, client_agreement] = [&self.client_signing, &self.client_agreement]
            .map(|key| key.as_ref().map(PublicKey::octets).unwrap_or_default());
        let scalar = |pair: &'_ Option<Pair>| -> Zeroizing<Vec<u8>> {
            let scalar = pair.as_ref().map(|pair| pair.scalar.expose().to_vec());
            Zeroizing::new(scalar.unwrap_or_default())
        };
        let (signing, agreement) = (scalar(signing), scalar(agreement));
        for (name, value) in [
            ("client_system_title", self.client_system_title.as_slice()),
            ("server_system_title", &self.server_system_title),
            ("ek", self.ek()),
            ("ak", self.ak()),
            ("gbek", self.gbek()),
            ("kek", self.kek()),
            ("hls_secret", self.hls_secret()),
            ("password", self.password()),
            ("server_signing_private_key", &signing),
            ("server_agreement_private_key", &agreement),
            ("client_signing_public_key", &client_signing),
            ("client_agreement_public_key", &client_agreement),
        ] {
            if value.is_empty() {
                continue;
            }
            let mut hex = hex::encode(value);
            for part in [name, " = \"", hex.as_str(), "\"\n"] {
                text.push_str(part);
            }
            hex.zeroize();
        }
        text
    }
}

/// A value that may be absent.
fn given<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        read(text).map(Some)
    }
}

/// Exactly so many octets.
fn secret(name: &str, text: &str, length: usize) -> Result<Secret, String> {
    let mut octets = Zeroizing::new(vec![0; length]);
    hex::decode_to_slice(text, &mut octets)
        .map_err(|_| format!("{name} must be {} hexadecimal digits", length * 2))?;
    Ok(Secret::new(std::mem::take(&mut *octets)))
}

/// At most as many octets as an authentication value holds.
fn any(name: &str, text: &str) -> Result<Secret, String> {
    let octets = secret(name, text, text.len() / 2)?;
    if octets.expose().len() > MAX_SECRET {
        return Err(format!("{name} is longer than {MAX_SECRET} octets"));
    }
    Ok(octets)
}

fn private(name: &str, text: &str, suite: Suite) -> Result<Pair, String> {
    let scalar = secret(name, text, curve(name, suite)?)?;
    Pair::new(scalar).ok_or_else(|| format!("{name} is no private key of the suite's curve"))
}

fn public(name: &str, text: &str, suite: Suite) -> Result<PublicKey, String> {
    let octets = secret(name, text, curve(name, suite)? * 2)?;
    PublicKey::from_octets(octets.expose())
        .ok_or_else(|| format!("{name} is no point of the suite's curve"))
}

/// Octets of a number on the suite's curve.
fn curve(name: &str, suite: Suite) -> Result<usize, String> {
    match suite.public_key_len() / 2 {
        0 => Err(format!("{name} has no use in suite 0")),
        octets => Ok(octets),
    }
}

/// The longest password or secret a calling-authentication-value in one octet of length may carry.
const MAX_SECRET: usize = 64;
