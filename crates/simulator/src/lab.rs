//! Lab keys: the keys of a simulated or foreign meter, in a file, for laboratories only.

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use dlms::{KeyChoice, Protection, Suite};
use softcipher::{Keys, PrivateKey, PublicKey, Secret};
use zeroize::Zeroizing;

use crate::{Auth, Error};

mod file;

/// The keys and titles of one meter and its client. Zeroized when dropped; never printed.
#[derive(Clone)]
pub struct LabKeys {
    client_system_title: [u8; 8],
    server_system_title: [u8; 8],
    suite: Suite,
    ek: Secret,
    ak: Secret,
    gbek: Option<Secret>,
    kek: Option<Secret>,
    hls_secret: Option<Secret>,
    password: Secret,
    signing: Option<Pair>,
    agreement: Option<Pair>,
    client_signing: Option<PublicKey>,
    client_agreement: Option<PublicKey>,
}

/// A private key of the meter, as it stands in the file, and what is made of it.
#[derive(Clone)]
struct Pair {
    scalar: Secret,
    key: PrivateKey,
}

impl Pair {
    fn new(scalar: Secret) -> Option<Self> {
        let key = PrivateKey::from_octets(scalar.expose())?;
        Some(Self { scalar, key })
    }
}

impl LabKeys {
    /// Reads a key file.
    ///
    /// # Errors
    /// [`Error::LabKeys`] if it cannot be read, has an unknown or missing field, or a value of the wrong length.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::LabKeys {
            path: path.to_owned(),
            reason,
        };
        let text =
            Zeroizing::new(fs::read_to_string(path).map_err(|error| bad(error.to_string()))?);
        Self::parse(&text).map_err(bad)
    }

    /// Makes new keys of suite 0 from random octets: titles of the manufacturers `LKH` (client) and `LKM` (meter).
    pub fn generate(random: impl FnMut(&mut [u8])) -> Self {
        Self::generate_for(Suite::Suite0, random)
    }

    /// Makes new keys of a suite from random octets. In suites 1 and 2 the meter has private keys; the public keys of its
    /// client are not known: see [`Self::with_client_keys`].
    pub fn generate_for(suite: Suite, mut random: impl FnMut(&mut [u8])) -> Self {
        let mut title = |maker: [u8; 3]| {
            let mut serial = [0; 5];
            random(&mut serial);
            let ([a, b, c], [d, e, f, g, h]) = (maker, serial);
            [a, b, c, d, e, f, g, h]
        };
        let (client_system_title, server_system_title) = (title(*b"LKH"), title(*b"LKM"));
        let mut secret = |length| {
            let mut octets = vec![0; length];
            random(&mut octets);
            Secret::new(octets)
        };
        let length = suite.key_len();
        let (ek, ak, password) = (secret(length), secret(length), secret(8));
        let (gbek, kek, hls_secret) = (secret(length), secret(length), secret(32));
        // practically every number is a private key; a generator that gives none would give none for ever
        let mut pair = || (0..16).find_map(|_| Pair::new(secret(suite.public_key_len() / 2)));
        let (signing, agreement) = (pair(), pair());
        Self {
            client_system_title,
            server_system_title,
            suite,
            ek,
            ak,
            gbek: Some(gbek),
            kek: Some(kek),
            hls_secret: Some(hls_secret),
            password,
            signing,
            agreement,
            client_signing: None,
            client_agreement: None,
        }
    }

    /// With the public keys of the client, x || y: what a meter is told by whoever installs it.
    ///
    /// # Errors
    /// [`Error::Options`] if one is no point of the curve of the suite.
    pub fn with_client_keys(mut self, signing: &[u8], agreement: &[u8]) -> Result<Self, Error> {
        let key = |name, octets| {
            PublicKey::from_octets(octets)
                .filter(|key| key.suite() == self.suite)
                .ok_or_else(|| {
                    let suite = self.suite.id();
                    Error::Options(format!("the client's {name} key is none of suite {suite}"))
                })
        };
        let keys = (key("signing", signing)?, key("agreement", agreement)?);
        (self.client_signing, self.client_agreement) = (Some(keys.0), Some(keys.1));
        Ok(self)
    }

    /// Writes the keys into a new file that only its owner may read (mode 0600).
    ///
    /// # Errors
    /// [`Error::LabKeys`] if the file exists (keys are never overwritten) or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let bad = |error: std::io::Error| Error::LabKeys {
            path: PathBuf::from(path),
            reason: error.to_string(),
        };
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(bad)?;
        file.write_all(self.render().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(bad)
    }

    /// System title of the client.
    #[must_use]
    pub fn client_system_title(&self) -> [u8; 8] {
        self.client_system_title
    }

    /// System title of the meter.
    #[must_use]
    pub fn server_system_title(&self) -> [u8; 8] {
        self.server_system_title
    }

    /// The security suite of the keys.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Global unicast encryption key: 16 octets, in suite 2 of 32.
    #[must_use]
    pub fn ek(&self) -> &[u8] {
        self.ek.expose()
    }

    /// Authentication key, as long.
    #[must_use]
    pub fn ak(&self) -> &[u8] {
        self.ak.expose()
    }

    /// Global broadcast encryption key, as long; empty if there is none.
    #[must_use]
    pub fn gbek(&self) -> &[u8] {
        self.gbek.as_ref().map_or(&[], Secret::expose)
    }

    /// Key-encryption key (master key), as long; empty if there is none.
    #[must_use]
    pub fn kek(&self) -> &[u8] {
        self.kek.as_ref().map_or(&[], Secret::expose)
    }

    /// Secret of HLS 3, 4 and 6, up to 64 octets; empty if there is none.
    #[must_use]
    pub fn hls_secret(&self) -> &[u8] {
        self.hls_secret.as_ref().map_or(&[], Secret::expose)
    }

    /// Password of low-level security; may be empty.
    #[must_use]
    pub fn password(&self) -> &[u8] {
        self.password.expose()
    }

    /// The meter's public key for ECDSA, x || y: 64 or 96 octets; empty if it has none.
    #[must_use]
    pub fn server_signing_key(&self) -> Vec<u8> {
        public(self.signing.as_ref())
    }

    /// The meter's public key for ECDH, x || y; empty if it has none.
    #[must_use]
    pub fn server_agreement_key(&self) -> Vec<u8> {
        public(self.agreement.as_ref())
    }

    /// What the meter holds of all this.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys {
            encryption: Some(self.ek.clone()),
            authentication: Some(self.ak.clone()),
            broadcast: self.gbek.clone(),
            master: self.kek.clone(),
            hls_secret: self.hls_secret.clone(),
            signing: self.signing.as_ref().map(|pair| pair.key.clone()),
            agreement: self.agreement.as_ref().map(|pair| pair.key.clone()),
            peer_signing: self.client_signing.clone(),
            peer_agreement: self.client_agreement.clone(),
        }
    }

    /// The first key that a meter needs for this and has not.
    pub(crate) fn missing(
        &self,
        auth: Auth,
        forms: &[Protection],
        signed: bool,
    ) -> Option<&'static str> {
        let uses = |choice| forms.contains(&Protection::GeneralCiphering(choice));
        let agrees = uses(KeyChoice::OnePass) || uses(KeyChoice::Static);
        let signs = signed || auth == Auth::Hls7 || uses(KeyChoice::OnePass);
        let secret = matches!(auth, Auth::Hls3 | Auth::Hls4 | Auth::Hls6);
        [
            (secret && self.hls_secret.is_none(), "hls_secret"),
            (uses(KeyChoice::Wrapped) && self.kek.is_none(), "kek"),
            (
                signs && self.signing.is_none(),
                "server_signing_private_key",
            ),
            (
                signs && self.client_signing.is_none(),
                "client_signing_public_key",
            ),
            (
                agrees && self.agreement.is_none(),
                "server_agreement_private_key",
            ),
            (
                agrees && self.client_agreement.is_none(),
                "client_agreement_public_key",
            ),
        ]
        .into_iter()
        .find_map(|(missing, name)| missing.then_some(name))
    }
}

impl fmt::Debug for LabKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabKeys")
            .field(
                "client_system_title",
                &hex::encode(self.client_system_title),
            )
            .field(
                "server_system_title",
                &hex::encode(self.server_system_title),
            )
            .field("suite", &self.suite.id())
            .finish_non_exhaustive()
    }
}

fn public(pair: Option<&Pair>) -> Vec<u8> {
    pair.map(|pair| pair.key.public().octets())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
