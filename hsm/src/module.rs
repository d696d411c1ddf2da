//! A loaded PKCS#11 module: one per library file and process.
//!
//! `C_Initialize` and `C_Finalize` are process-wide, and after a new `C_Initialize` the module
//! counts its sessions and objects from the start again: an old number then names somebody
//! else's key. So every call into the module is made under a gate that says which *epoch* it is,
//! and a session or handle of another epoch is forgotten: never used, never closed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};

use crate::error::Error;

static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A PKCS#11 library, initialised.
pub(crate) struct Module {
    path: PathBuf,
    context: Pkcs11,
    /// The epoch. Readers call into the module; a writer initialises it anew.
    gate: RwLock<u64>,
}

impl Module {
    /// Loads and initialises the library, or returns it if the process has it already.
    pub(crate) fn load(path: &Path) -> Result<Arc<Self>, Error> {
        let real = path.canonicalize().map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&real) {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&real).map_err(|error| refuse(&real, &error))?;
        initialise(&context).map_err(|error| refuse(&real, &error))?;
        let module = Arc::new(Self {
            path: real.clone(),
            context,
            gate: RwLock::new(0),
        });
        loaded.insert(real, Arc::clone(&module));
        Ok(module)
    }

    /// The library's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the epoch from changing. Never enter twice on one thread: a waiting writer would
    /// stop the second entry for ever.
    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered {
            context: &self.context,
            epoch: self.gate.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Finalises and initialises the library, unless somebody did so since `seen`.
    ///
    /// This drops every session and session object of *all* tokens of the module.
    pub(crate) fn reinitialise(&self, seen: u64) -> Result<(), Error> {
        let mut epoch = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if *epoch != seen {
            return Ok(());
        }
        *epoch = seen.wrapping_add(1);
        // A module that lost its device may refuse to finalise: initialising decides.
        if let Err(error) = self.context.clone().finalize() {
            tracing::warn!(module = %self.path.display(), %error, "module did not finalise");
        }
        tracing::warn!(module = %self.path.display(), epoch = *epoch, "module initialised anew");
        initialise(&self.context).map_err(|error| refuse(&self.path, &error))
    }
}

/// The right to call into the module: the epoch stays while this lives.
pub(crate) struct Entered<'a> {
    context: &'a Pkcs11,
    epoch: RwLockReadGuard<'a, u64>,
}

impl Entered<'_> {
    /// The module's functions.
    pub(crate) fn context(&self) -> &Pkcs11 {
        self.context
    }

    /// Which epoch it is.
    pub(crate) fn epoch(&self) -> u64 {
        *self.epoch
    }
}

fn initialise(context: &Pkcs11) -> Result<(), Pkcs11Error> {
    // Without OS_LOCKING_OK a module may skip its locks, and we have several threads.
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
}

fn refuse(path: &Path, error: &Pkcs11Error) -> Error {
    let why = match error {
        Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, Function::Initialize) => {
            "another part of this process has initialised it; only one may".to_owned()
        }
        other => format!("{other}; check the path and the module's own configuration"),
    };
    Error::Module {
        path: path.to_owned(),
        why,
    }
}
