//! A session and what was found through it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::context::Function;
use cryptoki::error::RvError;
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState};

use super::Grave;
use crate::able::GcmBackend;
use crate::error::Error;
use crate::key::{self, Found, KeyHandle, Kind, Spare};
use crate::login::Shared;
use crate::module::Entered;
use crate::probe;

/// A session and what was found through it. Used by its worker only, and only under the gate.
pub(crate) struct Engine {
    session: Session,
    shared: Arc<Shared>,
    /// Where keys of its session go.
    grave: Arc<Grave>,
    /// Names this opened session; unlike `epoch` no two sessions of the process share it.
    number: u64,
    epoch: u64,
    keys: BTreeMap<String, Found>,
    /// The canary's key, held for quick checks.
    canary: Option<ObjectHandle>,
    /// An operation failed at a point where it may have begun and not ended.
    poisoned: Cell<bool>,
}

impl Engine {
    pub(super) fn open(
        shared: &Arc<Shared>,
        grave: &Arc<Grave>,
        entered: &Entered<'_>,
    ) -> Result<Self, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let slot = shared.log_in(entered)?;
        let session = entered.context().open_rw_session_no_drop(slot)?;
        let mut engine = Self {
            session,
            shared: Arc::clone(shared),
            grave: Arc::clone(grave),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            epoch: entered.epoch(),
            keys: BTreeMap::new(),
            canary: None,
            poisoned: Cell::new(false),
        };
        match engine.settle() {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.close();
                Err(error)
            }
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.keys = key::survey(&self.session, &self.shared.label, self.shared.role)?;
        self.canary = probe::settle(self)?;
        Ok(())
    }

    /// Closes the session. Only in its epoch.
    pub(super) fn close(self) {
        if let Err(error) = self.session.close() {
            tracing::warn!(token = self.shared.label, %error, "session did not close");
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.get()
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn shared_arc(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.keys
            .iter()
            .map(|(label, found)| (label.as_str(), found))
    }

    pub(crate) fn canary(&self) -> Option<ObjectHandle> {
        self.canary
    }

    /// The token key of that label, if it is of that kind and passed its test.
    pub(crate) fn key(&self, label: &str, kind: Kind) -> Result<ObjectHandle, Error> {
        if let Some(why) = self.shared.able.off.get().and_then(|off| off.get(label)) {
            return Err(Error::KeyOff {
                token: self.shared.label.clone(),
                label: label.to_owned(),
                why: why.clone(),
            });
        }
        let found = self.keys.get(label).filter(|found| found.kind == kind);
        found
            .map(|found| found.object)
            .ok_or_else(|| Error::KeyNotFound {
                token: self.shared.label.clone(),
                what: kind.name(),
                label: label.to_owned(),
            })
    }

    /// A key that seals what is stored, and how: in the way it was made for.
    pub(crate) fn sealing_key(&self, label: &str) -> Result<(ObjectHandle, GcmBackend), Error> {
        let object = self.key(label, Kind::KekAk)?;
        let found = self.keys.get(label).map(Found::gcm);
        Ok((object, found.unwrap_or_default()))
    }

    /// How GCM is done with meters' keys.
    pub(crate) fn gcm(&self) -> GcmBackend {
        self.shared.able.gcm()
    }

    /// The object behind a handle, if it is of this session.
    pub(crate) fn held(&self, key: &KeyHandle) -> Result<ObjectHandle, Error> {
        key.object_in(self.number)
    }

    /// A handle to an object of this session.
    pub(crate) fn hold(&self, object: ObjectHandle) -> KeyHandle {
        KeyHandle::new(object, self.number, Arc::clone(&self.grave), None)
    }

    /// The same of a key that is nowhere else: with a wrapped copy, it outlives its session.
    pub(crate) fn hold_with_spare(&self, object: ObjectHandle, spare: Option<Spare>) -> KeyHandle {
        KeyHandle::new(object, self.number, Arc::clone(&self.grave), spare)
    }

    /// Proves that token, login and keys work now.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        probe::check(self).map_err(|error| {
            tracing::warn!(token = self.shared.label, %error, "token failed its check");
            match self.shared.explain(error) {
                error if error.is_of_token() => error,
                Error::Refused {
                    code: code @ RvError::DeviceError,
                    ..
                } => self.fault(code),
                Error::Refused {
                    code: RvError::OperationActive,
                    ..
                } => self.poison(),
                _ => self.gone_or_logged_out(),
            }
        })
    }

    /// A module that was logged out, or whose sessions were closed, may say no more than that a key is
    /// not there.
    fn gone_or_logged_out(&self) -> Error {
        let label = self.shared.label.clone();
        let info = self.session.get_session_info();
        match info.map(|info| info.session_state()).map_err(Error::from) {
            Ok(SessionState::RwUser) => self.gone(),
            Ok(_) => Error::NotLoggedIn { label },
            Err(error) => match self.shared.explain(error) {
                lost @ Error::SessionLost { .. } => lost,
                _ => self.gone(),
            },
        }
    }

    /// The session is in the middle of an operation that nothing ends: it is discarded.
    fn poison(&self) -> Error {
        self.poisoned.set(true);
        Error::SessionLost {
            label: self.shared.label.clone(),
        }
    }

    fn gone(&self) -> Error {
        Error::TokenGone {
            label: self.shared.label.clone(),
        }
    }

    /// What a failure means. Some codes say it. SoftHSM 2.6 says GENERAL_ERROR both for a wrong tag
    /// and for a token that is gone; so after an error that could be either, a known answer decides.
    pub(super) fn judge(&mut self, error: Error) -> Error {
        let Error::Refused { function, code } = error else {
            return error;
        };
        if let Some(error) = Error::of_code(&self.shared.label, code) {
            return error;
        }
        if code == RvError::OperationActive {
            return self.poison();
        }
        if !matches!(function, Function::Decrypt) || !is_data_error(code) {
            self.poisoned
                .set(has_parts(function) && !is_plain_refusal(code));
            return match self.check() {
                Err(_) if code == RvError::DeviceError => self.fault(code),
                Err(failed) => failed,
                Ok(()) if code == RvError::DeviceError => self.fault(code),
                Ok(()) => error,
            };
        }
        if matches!(
            code,
            RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange
        ) {
            return Error::AuthFailed;
        }
        // A bad tag costs no more than a good one: no key is unwrapped for it.
        match probe::glance(self) {
            Ok(()) => Error::AuthFailed,
            Err(failed) => match self.shared.explain(failed) {
                failed if failed.is_of_token() => failed,
                _ if code == RvError::DeviceError => self.fault(code),
                _ => self.gone_or_logged_out(),
            },
        }
    }

    fn fault(&self, code: RvError) -> Error {
        Error::DeviceError {
            label: self.shared.label.clone(),
            code,
        }
    }

    /// Destroys keys of this session; those of earlier ones went with their sessions.
    pub(super) fn destroy(&mut self, dead: Vec<(u64, ObjectHandle)>) {
        for (session, object) in dead {
            if session == self.number
                && let Err(error) = self.session.destroy_object(object)
            {
                tracing::warn!(token = self.shared.label, %error, "key was not destroyed");
            }
        }
    }
}

/// Codes by which some module says that the *data* of a Decrypt or UnwrapKey is at fault.
pub(crate) fn is_data_error(code: RvError) -> bool {
    matches!(
        code,
        RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DeviceError
            | RvError::DataInvalid
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::SignatureInvalid
            | RvError::KeySizeRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange
    )
}

/// Codes by which a module says that it did not begin: the key or the mechanism will not do.
fn is_plain_refusal(code: RvError) -> bool {
    matches!(
        code,
        RvError::KeyFunctionNotPermitted
            | RvError::KeyHandleInvalid
            | RvError::KeyIndigestible
            | RvError::KeySizeRange
            | RvError::KeyTypeInconsistent
            | RvError::MechanismInvalid
            | RvError::MechanismParamInvalid
            | RvError::ObjectHandleInvalid
    )
}

/// Whether the function is a part of an operation of several calls: after an error the session may
/// still be in the middle of it (CKR_OPERATION_ACTIVE ever after).
fn has_parts(function: Function) -> bool {
    matches!(
        function,
        Function::EncryptInit
            | Function::Encrypt
            | Function::DecryptInit
            | Function::Decrypt
            | Function::DigestInit
            | Function::Digest
            | Function::DigestUpdate
            | Function::DigestKey
            | Function::DigestFinal
            | Function::SignInit
            | Function::Sign
            | Function::SignUpdate
            | Function::SignFinal
            | Function::FindObjectsInit
            | Function::FindObjects
            | Function::FindObjectsFinal
    )
}
