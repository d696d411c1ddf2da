//! A token: found by label and serial, logged in once, used through its workers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::key::KeyHandle;
use crate::module::{Entered, Module};
use crate::oaep::OaepHash;
use crate::pool::{self, Engine, Line};
use crate::probe::{self, Canary};

/// Where a token is and how to log in to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The PKCS#11 module (a shared library).
    pub module: PathBuf,
    /// Label of the token.
    pub token_label: String,
    /// Serial number of the token; needed only where two tokens share a label.
    #[serde(default)]
    pub token_serial: Option<String>,
    /// File that holds the user PIN and nothing else; readable by its owner alone.
    pub pin_file: PathBuf,
    /// How many sessions, each with a thread of its own. Software tokens are fastest with 1, a
    /// network HSM wants 16 to 64.
    #[serde(default = "one")]
    pub sessions: usize,
}

impl TokenConfig {
    /// A token with its PIN in a file, used through one session; everything else as it is by
    /// default.
    pub fn new(
        module: impl Into<PathBuf>,
        token_label: impl Into<String>,
        pin_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            module: module.into(),
            token_label: token_label.into(),
            token_serial: None,
            pin_file: pin_file.into(),
            sessions: one(),
        }
    }
}

/// What a token is for; decides what it must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Token A: meters' keys.
    Custody,
    /// Token B: log and permit signatures.
    Auditor,
    /// The key of a service's TLS end, and nothing else.
    Tls,
    /// Where custody's keys are born and cloned from: away from every service but at ceremonies and re-wraps.
    Backup,
}

impl Role {
    /// As configuration and errors spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custody => "custody",
            Self::Auditor => "auditor",
            Self::Tls => "tls",
            Self::Backup => "backup",
        }
    }
}

/// A token, logged in and proven fit. Clones share its sessions.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    lines: Vec<Line>,
    next: AtomicUsize,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Token({}, {})",
            self.0.shared.label,
            self.0.shared.role.as_str()
        )
    }
}

impl Token {
    /// Finds the token, logs in and probes it. Refuses a token that cannot do what `role` needs
    /// and says which mechanism is missing or wrong. A wrong PIN is tried once and never again.
    pub fn open(config: &TokenConfig, role: Role) -> BoxFuture<'static, Result<Self, Error>> {
        let config = config.clone();
        Box::pin(async move {
            let sessions = config.sessions;
            if !(1..=SESSIONS_MAX).contains(&sessions) {
                return Err(Error::Config {
                    why: format!("sessions = {sessions}; use 1 to {SESSIONS_MAX}"),
                });
            }
            let label = config.token_label.clone();
            let opened = pool::on_thread(&label, move || Shared::open(&config, role)).await?;
            let shared = Arc::new(opened);
            let mut lines = Vec::with_capacity(sessions);
            for worker in 0..sessions {
                lines.push(Line::open(Arc::clone(&shared), worker).await?);
            }
            Ok(Self(Arc::new(Inner {
                shared,
                lines,
                next: AtomicUsize::new(0),
            })))
        })
    }

    /// Whether every session does real work with the token's keys now. A token that is gone is
    /// looked for again by this call.
    pub async fn health(&self) -> bool {
        let mut healthy = true;
        for line in &self.0.lines {
            healthy &= line.call_patiently(Engine::check).await.is_ok();
        }
        healthy
    }

    /// Random octets from the token, 1 to 1024.
    pub async fn random(&self, length: usize) -> Result<Vec<u8>, Error> {
        if !(1..=1024).contains(&length) {
            return Err(Error::Length {
                what: "the random string",
                length,
                allowed: "1..=1024",
            });
        }
        self.on_any(move |engine| {
            let mut random = vec![0; length];
            engine.session().generate_random_slice(&mut random)?;
            Ok(random)
        })
        .await
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.0.shared.label
    }

    /// Runs `op` on the next worker in turn. It may be run again, elsewhere, where a token failed.
    pub(crate) async fn on_any<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        self.next_line().call(op).await
    }

    /// Runs `op` on the worker that owns the key.
    pub(crate) async fn on_owner<T: Send + 'static>(
        &self,
        key: &KeyHandle,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let line = self.0.lines.get(key.worker()).ok_or(Error::StaleKey)?;
        line.call(op).await
    }

    /// The next worker in turn.
    pub(crate) fn next_line(&self) -> &Line {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(self.0.lines.len()).unwrap_or(0);
        // `open` makes at least one line and `index` is below their number.
        &self.0.lines[index]
    }
}

/// What the workers of one token share.
pub(crate) struct Shared {
    pub(crate) module: Arc<Module>,
    pub(crate) label: String,
    pub(crate) role: Role,
    /// The serial demanded, or the one found first: a twin with the same label is not taken.
    serial: OnceLock<String>,
    pin: SecretString,
    anchor: Mutex<Anchor>,
    /// Known answers made when the token was first opened.
    pub(crate) canary: OnceLock<Canary>,
    /// Labels of keys that failed their test when the token was first opened, and why.
    pub(crate) off: OnceLock<BTreeMap<String, String>>,
    /// The hash that the RSA-OAEP of this token has.
    pub(crate) oaep: OnceLock<Option<OaepHash>>,
}

/// The session that keeps the token logged in: PKCS#11 logs out with the last session.
enum Anchor {
    None,
    Held {
        session: Session,
        epoch: u64,
        slot: Slot,
    },
    /// The PIN was refused: nothing logs in again.
    Refused(RvError),
}

impl Shared {
    fn open(config: &TokenConfig, role: Role) -> Result<Self, Error> {
        let pin = read_pin(&config.pin_file)?;
        let serial = OnceLock::new();
        if let Some(wanted) = &config.token_serial {
            serial.get_or_init(|| wanted.clone());
        }
        let shared = Self {
            module: Module::load(&config.module)?,
            label: config.token_label.clone(),
            role,
            serial,
            pin,
            anchor: Mutex::new(Anchor::None),
            canary: OnceLock::new(),
            off: OnceLock::new(),
            oaep: OnceLock::new(),
        };
        shared.begin()?;
        Ok(shared)
    }

    fn begin(&self) -> Result<(), Error> {
        let entered = self.module.enter();
        let slot = self.log_in(&entered)?;
        probe::mechanisms(entered.context(), slot, &self.label, self.role)
    }

    /// Logs in, once per epoch, and says which slot the token is in.
    pub(crate) fn log_in(&self, entered: &Entered<'_>) -> Result<Slot, Error> {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        match &*anchor {
            Anchor::Held { epoch, slot, .. } if *epoch == entered.epoch() => return Ok(*slot),
            Anchor::Refused(code) => return Err(pin_error(&self.label, *code)),
            Anchor::Held { .. } | Anchor::None => {}
        }
        // A session of an older epoch is dropped here: it was opened not to close on drop.
        let serial = self.serial.get().map(String::as_str);
        let slot = find(entered.context(), &self.label, serial)?;
        let info = entered.context().get_token_info(slot)?;
        self.serial.get_or_init(|| info.serial_number().to_owned());
        if info.user_pin_locked() || info.user_pin_final_try() {
            return Err(pin_error(&self.label, RvError::PinLocked));
        }
        let session = entered.context().open_rw_session_no_drop(slot)?;
        let login = session.login(UserType::User, Some(&self.pin));
        match login {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                drop(session.close());
                let Pkcs11Error::Pkcs11(code, Function::Login) = error else {
                    return Err(error.into());
                };
                if !is_pin_error(code) {
                    return Err(error.into());
                }
                *anchor = Anchor::Refused(code);
                return Err(pin_error(&self.label, code));
            }
        }
        *anchor = Anchor::Held {
            session,
            epoch: entered.epoch(),
            slot,
        };
        Ok(slot)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let anchor = self
            .anchor
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Anchor::Held { session, epoch, .. } = std::mem::replace(anchor, Anchor::None) {
            let entered = self.module.enter();
            if entered.epoch() == epoch
                && let Err(error) = session.close()
            {
                tracing::warn!(token = self.label, %error, "session did not close");
            }
        }
    }
}

/// Finds the slot of the token with this label and serial. Slot numbers change at will.
pub(crate) fn find(context: &Pkcs11, label: &str, serial: Option<&str>) -> Result<Slot, Error> {
    let mut found = None;
    for slot in context.get_slots_with_token()? {
        let info = context.get_token_info(slot)?;
        let same = info.token_initialized()
            && info.label() == label
            && serial.is_none_or(|serial| info.serial_number() == serial);
        if same && found.replace(slot).is_some() {
            return Err(Error::TokenAmbiguous {
                label: label.to_owned(),
            });
        }
    }
    found.ok_or_else(|| Error::TokenNotFound {
        label: label.to_owned(),
        serial: serial.map(str::to_owned),
    })
}

/// Reads a PIN file: a regular file of its owner alone, one line.
pub(crate) fn read_pin(path: &Path) -> Result<SecretString, Error> {
    let text = read_secret(path)?;
    let text = std::str::from_utf8(&text)
        .unwrap_or_default()
        .trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err(Error::PinFile {
            path: path.to_owned(),
            why: "it must hold the PIN on one line and nothing else".to_owned(),
        });
    }
    // Exactly as large as needed: a box made of it does not move and leave a copy.
    let mut pin = String::with_capacity(text.len());
    pin.push_str(text);
    Ok(SecretString::from(pin))
}

/// Reads a small secret file, if nobody but its owner can.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let refuse = |why: String| Error::PinFile {
        path: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    // Of the open file, not of the path: the path may change hands in between.
    let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_file() || mode & 0o077 != 0 {
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

pub(crate) fn is_pin_error(code: RvError) -> bool {
    matches!(
        code,
        RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
    )
}

pub(crate) fn pin_error(label: &str, code: RvError) -> Error {
    let label = label.to_owned();
    if matches!(code, RvError::PinLocked | RvError::PinExpired) {
        Error::PinLocked { label }
    } else {
        Error::PinIncorrect { label }
    }
}

fn one() -> usize {
    1
}

const SESSIONS_MAX: usize = 256;
const SECRET_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn file(mode: u32, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_pin_is_one_line() {
        let (_directory, path) = file(0o600, b"123456\n");
        assert_eq!(read_pin(&path).unwrap().expose_secret(), "123456");
        for bad in [
            &b""[..],
            b"\n",
            b"12 34\n",
            b"1234\n5678\n",
            b"\xFF\xFE",
            &[b'1'; 300],
        ] {
            let (_directory, path) = file(0o400, bad);
            assert!(matches!(read_pin(&path), Err(Error::PinFile { .. })));
        }
    }

    #[test]
    fn a_pin_others_can_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let (_directory, path) = file(mode, b"123456\n");
            let error = read_pin(&path).unwrap_err().to_string();
            assert!(
                error.contains("chmod 600") && !error.contains("123456"),
                "{error}"
            );
        }
    }
}
