//! The note that a token refused a PIN.
//!
//! Tokens lock after a few wrong PINs, some for ever. A service that is started again and again with
//! the same wrong PIN would use them up in seconds. So the refusal is noted in a file, before anything
//! else is done about it, and a PIN that is the one noted is not tried.
//!
//! The file holds a salted digest of the PIN, made slow (PBKDF2), never the PIN. To try the same PIN
//! again, after somebody reset it on the token, remove the file. Another PIN is tried by itself.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::pbkdf2;
use aws_lc_rs::rand;
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::Error;

/// Where the refusal of one token's PIN is noted.
pub(crate) struct Refused {
    path: PathBuf,
}

impl Refused {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this PIN was refused by the token of that serial. A note that cannot be read counts as
    /// one about this PIN: a wrong guess would cost a try.
    pub(crate) fn names(&self, serial: &str, pin: &SecretString) -> bool {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
        };
        let mut notes = text.lines().filter(|line| !line.starts_with('#'));
        notes.any(|line| {
            let mut words = line.split(' ');
            let (Some(salt), Some(digest)) = (words.next(), words.next()) else {
                return true;
            };
            let (Ok(salt), Ok(digest)) = (hex::decode(salt), hex::decode(digest)) else {
                return true;
            };
            let salt = salted(&salt, serial);
            let pin = pin.expose_secret().as_bytes();
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, pin, &digest).is_ok()
        })
    }

    /// Notes a refusal, durably.
    pub(crate) fn note(&self, label: &str, serial: &str, pin: &SecretString) -> Result<(), Error> {
        let failed = |source| Error::File {
            path: self.path.clone(),
            source,
        };
        let mut salt = [0; 16];
        rand::fill(&mut salt).map_err(|_| failed(std::io::Error::other("no random numbers")))?;
        let mut digest = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ROUNDS,
            &salted(&salt, serial),
            pin.expose_secret().as_bytes(),
            &mut digest,
        );
        let text = format!(
            "# Token {label:?} refused the PIN whose salted digest this is; it is not tried again.\n\
             # Another PIN is. To try the same one again, remove this file.\n{} {}\n",
            hex::encode(salt),
            hex::encode(digest),
        );
        let mut draft = self.path.as_os_str().to_owned();
        draft.push(".new");
        write(Path::new(&draft), &text)
            .and_then(|()| fs::rename(&draft, &self.path))
            .and_then(|()| sync_directory(&self.path))
            .map_err(failed)
    }

    /// Forgets it: another PIN was right.
    pub(crate) fn forget(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.path.display(), %error, "an old note of a refused PIN stays");
            }
            _ => {}
        }
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Two tokens with one PIN have two digests.
fn salted(salt: &[u8], serial: &str) -> Vec<u8> {
    [salt, serial.as_bytes()].concat()
}

/// Of PBKDF2: some 0.1 s for each guess. A PIN of few digits is still found by whoever has the file
/// and hours; it stands beside the PIN itself, with the same rights.
const ROUNDS: NonZeroU32 = match NonZeroU32::new(300_000) {
    Some(rounds) => rounds,
    None => NonZeroU32::MIN,
};
