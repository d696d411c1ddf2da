//! What the workers of one token share: the module, the login, and what the token proved.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};

use crate::able::Able;
use crate::error::Error;
use crate::module::{Entered, Module};
use crate::pin::{Pin, Source};
use crate::probe::{self, Canary};
use crate::token::{Role, TokenConfig};

/// What the workers of one token share.
pub(crate) struct Shared {
    pub(crate) module: Arc<Module>,
    /// As errors call it: its label, and its module where another of the pool has the same.
    pub(crate) label: String,
    pub(crate) role: Role,
    /// Its place in the pool.
    pub(crate) member: usize,
    token_label: String,
    /// The serial demanded, or the one found first: a twin with the same label is not taken.
    serial: OnceLock<String>,
    /// Objects after which the module is initialised anew; 0: never.
    pub(crate) objects_max: u64,
    pin: Pin,
    anchor: Mutex<Anchor>,
    /// Known answers made when the token was first opened.
    pub(crate) canary: OnceLock<Canary>,
    /// What the self-test found when the token was first opened.
    pub(crate) able: Able,
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
    Refused(Refusal),
}

#[derive(Clone, Copy)]
enum Refusal {
    Now(RvError),
    Before,
}

impl Shared {
    pub(crate) fn open(
        config: &TokenConfig,
        role: Role,
        (member, name): (usize, &str),
    ) -> Result<Self, Error> {
        let pin = Source::of(config)?.read(config)?;
        let serial = OnceLock::new();
        if let Some(wanted) = &config.token_serial {
            serial.get_or_init(|| wanted.clone());
        }
        let shared = Self {
            module: Module::load(&config.module)?,
            label: name.to_owned(),
            role,
            member,
            token_label: config.token_label.clone(),
            serial,
            objects_max: config.objects_max,
            pin,
            anchor: Mutex::new(Anchor::None),
            canary: OnceLock::new(),
            able: Able::new(config),
        };
        shared.begin(config.sessions)?;
        Ok(shared)
    }

    fn begin(&self, sessions: usize) -> Result<(), Error> {
        let entered = self.module.enter();
        let slot = self.log_in(&entered)?;
        let info = entered.context().get_token_info(slot)?;
        enough_sessions(&self.label, &info, sessions)?;
        probe::mechanisms(entered.context(), slot, &self.label, self.role)?;
        self.able.meet(entered.context(), slot, self.role)
    }

    /// The serial of the token that was found, or that is demanded.
    pub(crate) fn serial(&self) -> Option<&str> {
        self.serial.get().map(String::as_str)
    }

    /// Logs in, once per epoch, and says which slot the token is in.
    pub(crate) fn log_in(&self, entered: &Entered<'_>) -> Result<Slot, Error> {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        match &*anchor {
            Anchor::Held { epoch, slot, .. } if *epoch == entered.epoch() => return Ok(*slot),
            Anchor::Refused(why) => return Err(self.refusal(*why)),
            Anchor::Held { .. } | Anchor::None => {}
        }
        // A session of an older epoch is dropped here: it was opened not to close on drop.
        *anchor = Anchor::None;
        let slot = find(entered.context(), &self.token_label, self.serial())
            .map_err(|error| self.explain(error))?;
        let info = self.call(entered.context().get_token_info(slot))?;
        let serial = self.serial.get_or_init(|| info.serial_number().to_owned());
        if info.user_pin_locked() || info.user_pin_final_try() {
            return Err(pin_error(&self.label, RvError::PinLocked));
        }
        if let Some(refused) = &self.pin.refused
            && refused.names(serial, &self.pin.secret)
        {
            *anchor = Anchor::Refused(Refusal::Before);
            return Err(self.refusal(Refusal::Before));
        }
        let session = self.call(entered.context().open_rw_session_no_drop(slot))?;
        let login = session.login(UserType::User, Some(&self.pin.secret));
        match login {
            Ok(()) => self.welcome(),
            Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                drop(session.close());
                let Pkcs11Error::Pkcs11(code, Function::Login) = error else {
                    return Err(error.into());
                };
                if !is_pin_error(code) {
                    return self.call(Err(error));
                }
                *anchor = Anchor::Refused(Refusal::Now(code));
                self.note_refusal(serial);
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

    /// Forgets the login if it is one no more: the session that keeps it is gone, or somebody
    /// logged the token out.
    pub(crate) fn doubt_login(&self, entered: &Entered<'_>) {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let Anchor::Held { session, epoch, .. } = &*anchor else {
            return;
        };
        if *epoch != entered.epoch() {
            return;
        }
        let state = session.get_session_info().map(|info| info.session_state());
        match state {
            Ok(SessionState::RwUser | SessionState::RoUser) => return,
            // Still ours: it is closed, or each logout would leave one behind.
            Ok(_) => {
                if let Anchor::Held { session, .. } = std::mem::replace(&mut *anchor, Anchor::None)
                {
                    drop(session.close());
                }
            }
            // Its number may be another's by now: forgotten, not closed.
            Err(_) => *anchor = Anchor::None,
        }
        tracing::warn!(
            token = self.label,
            "the token was logged out; logging in again"
        );
    }

    /// The first login with this PIN that the token accepts ends what is noted about another.
    fn welcome(&self) {
        if let Some(refused) = &self.pin.refused {
            refused.forget();
        }
    }

    /// Before anything else: whoever starts the process again must not try the same PIN.
    fn note_refusal(&self, serial: &str) {
        let Some(refused) = &self.pin.refused else {
            return;
        };
        if let Err(error) = refused.note(&self.label, serial, &self.pin.secret) {
            tracing::error!(
                token = self.label, %error,
                "that the token refused the PIN cannot be noted: do not start the process again before the PIN is right"
            );
        }
    }

    fn refusal(&self, why: Refusal) -> Error {
        match (why, &self.pin.refused) {
            (Refusal::Before, Some(refused)) => Error::PinRefusedBefore {
                label: self.label.clone(),
                marker: refused.path().to_owned(),
            },
            (Refusal::Before, None) => pin_error(&self.label, RvError::PinIncorrect),
            (Refusal::Now(code), _) => pin_error(&self.label, code),
        }
    }

    /// The error that a return value is by itself, whatever was called.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Refused { code, .. } => Error::of_code(&self.label, code).unwrap_or(error),
            other => other,
        }
    }

    fn call<T>(&self, outcome: Result<T, Pkcs11Error>) -> Result<T, Error> {
        outcome.map_err(|error| self.explain(error.into()))
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

/// Refuses to open more sessions than the token says it has: one for each worker, and the one that
/// keeps it logged in.
fn enough_sessions(label: &str, info: &TokenInfo, sessions: usize) -> Result<(), Error> {
    let needed = u64::try_from(sessions)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let of = |limit: Limit| match limit {
        Limit::Max(max) => Some(max),
        Limit::Unavailable | Limit::Infinite => None,
    };
    let limits = [info.max_session_count(), info.max_rw_session_count()];
    match limits.into_iter().filter_map(of).min() {
        Some(max) if max < needed => Err(Error::Config {
            why: format!(
                "sessions = {sessions}: token `{label}` has {max}, and one keeps it logged in; use at most {}",
                max.saturating_sub(1)
            ),
        }),
        _ => Ok(()),
    }
}

/// Finds the slot of the token with this label and serial. Slot numbers change at will.
pub(crate) fn find(context: &Pkcs11, label: &str, serial: Option<&str>) -> Result<Slot, Error> {
    let mut found = None;
    for slot in context.get_slots_with_token()? {
        let info = match context.get_token_info(slot) {
            Ok(info) => info,
            // It went between the two calls, or another slot's has a fault: it is not the one.
            Err(Pkcs11Error::Pkcs11(
                RvError::TokenNotPresent | RvError::TokenNotRecognized | RvError::DeviceRemoved,
                _,
            )) => continue,
            Err(error) => return Err(error.into()),
        };
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
