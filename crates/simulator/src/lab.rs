//! Lab keys: the keys of a simulated or foreign meter, in a file, for laboratories only.

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use softcipher::Keys;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::Error;

/// The keys and titles of one meter and its client. Zeroized when dropped; never printed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct LabKeys {
    client_system_title: [u8; 8],
    server_system_title: [u8; 8],
    ek: [u8; 16],
    ak: [u8; 16],
    kek: Option<[u8; 16]>,
    password: Vec<u8>,
}

/// The file: every value in hex. Unknown fields are refused, so that a misspelt one is noticed.
#[derive(Deserialize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct File {
    client_system_title: String,
    server_system_title: String,
    ek: String,
    ak: String,
    kek: Option<String>,
    #[serde(default)]
    password: String,
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

    /// Reads the text of a key file. The error repeats nothing of it but field names.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // `message` alone: the full error of the TOML reader quotes the line, and with it the key
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut password = vec![0; file.password.len() / 2];
        unhex("password", &file.password, &mut password)?;
        if password.len() > MAX_PASSWORD {
            return Err(format!("password is longer than {MAX_PASSWORD} octets"));
        }
        let mut keys = Self {
            client_system_title: [0; 8],
            server_system_title: [0; 8],
            ek: [0; 16],
            ak: [0; 16],
            kek: None,
            password,
        };
        unhex(
            "client_system_title",
            &file.client_system_title,
            &mut keys.client_system_title,
        )?;
        unhex(
            "server_system_title",
            &file.server_system_title,
            &mut keys.server_system_title,
        )?;
        unhex("ek", &file.ek, &mut keys.ek)?;
        unhex("ak", &file.ak, &mut keys.ak)?;
        if let Some(kek) = &file.kek {
            unhex("kek", kek, keys.kek.insert([0; 16]))?;
        }
        if keys.client_system_title == keys.server_system_title {
            // the two ends would build the same nonces under the same key
            return Err(
                "client_system_title and server_system_title are the same; they must differ".into(),
            );
        }
        Ok(keys)
    }

    /// Makes new keys from random octets: titles of the manufacturers `LKH` (client) and `LKM` (meter).
    pub fn generate(mut random: impl FnMut(&mut [u8])) -> Self {
        let mut keys = Self {
            client_system_title: *b"LKH\0\0\0\0\0",
            server_system_title: *b"LKM\0\0\0\0\0",
            ek: [0; 16],
            ak: [0; 16],
            kek: Some([0; 16]),
            password: vec![0; 8],
        };
        if let Some(serial) = keys.client_system_title.get_mut(3..) {
            random(serial);
        }
        if let Some(serial) = keys.server_system_title.get_mut(3..) {
            random(serial);
        }
        random(&mut keys.ek);
        random(&mut keys.ak);
        random(&mut keys.password);
        random(keys.kek.get_or_insert_default());
        keys
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
        let mut text = Zeroizing::new(String::with_capacity(512));
        for (name, value) in [
            ("client_system_title", self.client_system_title.as_slice()),
            ("server_system_title", &self.server_system_title),
            ("ek", &self.ek),
            ("ak", &self.ak),
            ("kek", self.kek.as_ref().map_or(&[], <[u8; 16]>::as_slice)),
            ("password", &self.password),
        ]
        .into_iter()
        .filter(|(name, value)| *name == "password" || !value.is_empty())
        {
            let mut hex = hex::encode(value);
            for part in [name, " = \"", hex.as_str(), "\"\n"] {
                text.push_str(part);
            }
            hex.zeroize();
        }
        file.write_all(text.as_bytes())
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

    /// Global unicast encryption key.
    #[must_use]
    pub fn ek(&self) -> &[u8; 16] {
        &self.ek
    }

    /// Authentication key.
    #[must_use]
    pub fn ak(&self) -> &[u8; 16] {
        &self.ak
    }

    /// Key-encryption key (KEK): what other keys are wrapped with when they are changed. Without it they cannot be.
    #[must_use]
    pub fn kek(&self) -> Option<&[u8; 16]> {
        self.kek.as_ref()
    }

    /// All of them, as the software cipher wants them.
    pub(crate) fn keys(&self) -> Keys {
        Keys {
            encryption: Some(self.ek.into()),
            authentication: Some(self.ak.into()),
            master: self.kek.map(Into::into),
            ..Keys::default()
        }
    }

    /// Password of low-level security; may be empty.
    #[must_use]
    pub fn password(&self) -> &[u8] {
        &self.password
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
            .finish_non_exhaustive()
    }
}

/// Fills `into` from `text`, which must be exactly that long.
fn unhex(name: &str, text: &str, into: &mut [u8]) -> Result<(), String> {
    hex::decode_to_slice(text, into)
        .map_err(|_| format!("{name} must be {} hexadecimal digits", into.len() * 2))
}

/// The longest password a calling-authentication-value in one octet of length may carry.
const MAX_PASSWORD: usize = 64;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const GOOD: &str = r#"
client_system_title = "4D4D4D0000BC614E"
server_system_title = "4d4d4d0000000001"
ek = "000102030405060708090A0B0C0D0E0F"
ak = "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF"
password = "3132333435363738"
"#;

    #[test]
    fn reads_hex_of_either_case() {
        let keys = LabKeys::parse(GOOD).unwrap();
        assert_eq!(
            keys.server_system_title(),
            [0x4d, 0x4d, 0x4d, 0, 0, 0, 0, 1]
        );
        assert_eq!(keys.ek()[15], 0x0f);
        assert_eq!(keys.password(), b"12345678");
    }

    #[test]
    fn bad_files_are_refused_without_repeating_a_key() {
        let ek = "000102030405060708090A0B0C0D0E0F";
        let cases = [
            GOOD.replace("\nek =", "\ndek ="),
            format!("{GOOD}hls6 = \"00\"\n"),
            format!("{GOOD}kek = \"00\"\n"),
            GOOD.replace(ek, "0001"),
            GOOD.replace(ek, "zz0102030405060708090A0B0C0D0E0F"),
            GOOD.replace(&format!("\"{ek}\""), ek),
            GOOD.replace("4d4d4d0000000001", "4D4D4D0000BC614E"),
            GOOD.replace("3132333435363738", &"31".repeat(65)),
            GOOD.replace("3132333435363738", "313"),
        ];
        for (index, case) in cases.iter().enumerate() {
            let Err(reason) = LabKeys::parse(case) else {
                panic!("case {index} was accepted")
            };
            assert!(!reason.contains("0405060708"), "case {index}: {reason}");
        }
    }

    #[test]
    fn debug_shows_titles_and_no_key() {
        let shown = format!("{:?}", LabKeys::parse(GOOD).unwrap());
        assert!(shown.contains("4d4d4d0000000001"));
        assert!(!shown.contains("000102"));
        assert!(!shown.contains("d0d1"));
        assert!(!shown.contains("3132"));
    }

    #[test]
    fn written_keys_read_back_and_belong_to_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meter.toml");
        let mut next = 0_u8;
        let keys = LabKeys::generate(|octets| {
            for octet in octets {
                *octet = next;
                next = next.wrapping_add(1);
            }
        });
        keys.write(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let read = LabKeys::read(&path).unwrap();
        assert_eq!(
            (read.ek, read.ak, read.kek, &read.password),
            (keys.ek, keys.ak, keys.kek, &keys.password)
        );
        assert!(read.server_system_title.starts_with(b"LKM"));
        assert!(
            keys.write(&path).is_err(),
            "a key file must not be overwritten"
        );
    }
}
