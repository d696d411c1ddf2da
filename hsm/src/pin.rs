//! Where a PIN comes from, and how a wrong one is kept from being tried twice.

mod prompt;
mod refused;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

pub(crate) use self::refused::Refused;
use crate::error::Error;
use crate::token::TokenConfig;

/// A PIN, and where it is noted if the token refuses it.
pub(crate) struct Pin {
    pub(crate) secret: SecretString,
    /// None of one that somebody typed: nothing types it again.
    pub(crate) refused: Option<Refused>,
}

/// Where the PIN of a token is to be had. Never an argument, never the value of an environment
/// variable: both can be read by others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    /// A file of this name in the directory that systemd names: `LoadCredential=`,
    /// `LoadCredentialEncrypted=`.
    Credential(String),
    /// The terminal of the process.
    Prompt,
}

impl Source {
    /// The one that the configuration names.
    pub(crate) fn of(config: &TokenConfig) -> Result<Self, Error> {
        let file = config.pin_file.clone().map(Self::File);
        let credential = config.pin_credential.clone().map(Self::Credential);
        let prompt = config.pin_prompt.then_some(Self::Prompt);
        let mut named = [file, credential, prompt].into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(source), None) => Ok(source),
            _ => Err(Error::Config {
                why: format!(
                    "token `{}` needs exactly one of pin_file, pin_credential and pin_prompt",
                    config.token_label
                ),
            }),
        }
    }

    /// Reads the PIN. At a prompt this waits for a human.
    pub(crate) fn read(&self, config: &TokenConfig) -> Result<Pin, Error> {
        match self {
            Self::File(path) => Ok(Pin {
                secret: read_pin(path)?,
                refused: Some(Refused::new(marker(config, path))),
            }),
            Self::Credential(name) => {
                let path = credential(name)?;
                let secret = read_secret_of(&path, CREDENTIAL_OTHERS)?;
                Ok(Pin {
                    secret: parse(&path, &secret)?,
                    refused: Some(Refused::new(marker(config, &path))),
                })
            }
            Self::Prompt => Ok(Pin {
                secret: ask(&format!("PIN of token `{}`", config.token_label))?,
                refused: None,
            }),
        }
    }
}

/// Asks for a PIN on the terminal, without showing it.
pub(crate) fn ask(whose: &str) -> Result<SecretString, Error> {
    prompt::ask(&format!("{whose}: "))
}

/// Asks for a PIN that is to be, twice.
pub(crate) fn ask_new(whose: &str) -> Result<SecretString, Error> {
    let first = ask(&format!("New {whose}"))?;
    let again = ask("The same again")?;
    if first.expose_secret() == again.expose_secret() {
        return Ok(first);
    }
    Err(Error::PinFile {
        path: PathBuf::from(prompt::TERMINAL),
        why: "the two are not the same; begin again, nothing was changed".to_owned(),
    })
}

/// Reads a PIN file: a regular file of its owner alone, one line.
pub(crate) fn read_pin(path: &Path) -> Result<SecretString, Error> {
    parse(path, &read_secret(path)?)
}

fn parse(path: &Path, text: &[u8]) -> Result<SecretString, Error> {
    exact(text).ok_or_else(|| Error::PinFile {
        path: path.to_owned(),
        why: "it must hold the PIN on one line and nothing else".to_owned(),
    })
}

/// A PIN of one line.
fn exact(text: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(text)
        .unwrap_or_default()
        .trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.contains(char::is_whitespace) {
        return None;
    }
    // Exactly as large as needed: a box made of it does not move and leave a copy.
    let mut pin = String::with_capacity(text.len());
    pin.push_str(text);
    Some(SecretString::from(pin))
}

/// Reads a small secret file, if nobody but its owner can.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    read_secret_of(path, 0o077)
}

fn read_secret_of(path: &Path, others: u32) -> Result<Zeroizing<Vec<u8>>, Error> {
    let refuse = |why: String| Error::PinFile {
        path: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    // Of the open file, not of the path: the path may change hands in between.
    let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_file() || mode & others != 0 {
        return Err(refuse(format!(
            "others can use it (mode {mode:03o}); chmod 600 it"
        )));
    }
    // Never grows, so no copy is left behind.
    let mut text = Zeroizing::new(Vec::with_capacity(SECRET_MAX + 1));
    let mut limited = file.take(SECRET_MAX as u64 + 1);
    limited
        .read_to_end(&mut text)
        .map_err(|error| refuse(error.to_string()))?;
    if text.len() > SECRET_MAX {
        return Err(refuse(format!("it is longer than {SECRET_MAX} octets")));
    }
    Ok(text)
}

/// The file of a systemd credential.
fn credential(name: &str) -> Result<PathBuf, Error> {
    let refuse = |why: &str| Error::Config {
        why: format!("pin_credential = \"{}\": {why}", name.escape_debug()),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(refuse("a credential's name is letters, digits, - _ and ."));
    }
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        refuse("systemd gave this process no credentials; LoadCredential= in its unit does")
    })?;
    Ok(PathBuf::from(directory).join(name))
}

/// Where a refusal of the PIN in `file` is noted: where the configuration says, else in the directory
/// that systemd made for the service's state, else beside the PIN.
fn marker(config: &TokenConfig, file: &Path) -> PathBuf {
    if let Some(path) = &config.pin_refused_file {
        return path.clone();
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let label: String = config.token_label.chars().map(plain).collect();
    let name = format!("{name}.{label}.refused");
    let state = std::env::var("STATE_DIRECTORY").unwrap_or_default();
    match state.split(':').next() {
        Some(state) if !state.is_empty() => Path::new(state).join(name),
        _ => file.with_file_name(name),
    }
}

const SECRET_MAX: usize = 256;
/// A credential is in a directory that only the service enters; systemd grants it by an access list,
/// which shows as rights of the group.
const CREDENTIAL_OTHERS: u32 = 0o037;

#[cfg(test)]
mod tests;
