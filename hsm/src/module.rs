//! A loaded PKCS#11 module: one per library file and process.
//!
//! `C_Initialize` and `C_Finalize` are process-wide, and after a new `C_Initialize` the module
//! counts its sessions and objects from the start again: an old number then names somebody
//! else's key. So every call into the module is made under a gate that says which *epoch* it is,
//! and a session or handle of another epoch is forgotten: never used, never closed.

mod gate;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};

use self::gate::{Gate, Inside};
use crate::error::Error;

/// A PKCS#11 library, initialised.
pub(crate) struct Module {
    path: PathBuf,
    context: Pkcs11,
    /// The epoch. Who is inside calls into the module; who closes it initialises it anew.
    gate: Gate,
    /// Objects made in this epoch, destroyed ones included.
    made: AtomicU64,
    planned: AtomicU64,
    forced: AtomicU64,
    /// When the epoch began: see [`milliseconds`].
    since: AtomicU64,
}

/// Why a module is initialised anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has made so many objects that it is time to have their memory back.
    Memory,
    /// A token of it failed.
    Failure,
}

impl Module {
    /// Loads and initialises the library, or returns it if the process has it already.
    pub(crate) fn load(path: &Path) -> Result<Arc<Self>, Error> {
        type Place = Arc<Mutex<Option<Arc<Module>>>>;
        static LOADED: Mutex<BTreeMap<PathBuf, Place>> = Mutex::new(BTreeMap::new());
        let real = path.canonicalize().map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        // One lock for each: a module that hangs while it is loaded holds up no other.
        let place = {
            let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loaded.entry(real.clone()).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = &*place {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&real).map_err(|error| refuse(&real, &error))?;
        initialise(&context).map_err(|error| refuse(&real, &error))?;
        let module = Arc::new(Self {
            path: real,
            context,
            gate: Gate::default(),
            made: AtomicU64::new(0),
            planned: AtomicU64::new(0),
            forced: AtomicU64::new(0),
            since: AtomicU64::new(milliseconds()),
        });
        *place = Some(Arc::clone(&module));
        Ok(module)
    }

    /// The library's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the epoch from changing. Never enter twice on one thread: whoever waits to close the
    /// gate would stop the second entry.
    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered {
            context: &self.context,
            inside: self.gate.enter(),
        }
    }

    /// Which epoch it is: how often the module was initialised anew.
    pub(crate) fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Objects made in this epoch. SoftHSM keeps some 245 octets of each until it is finalised.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Adds the objects that this thread has made since it last said so.
    pub(crate) fn count_made(&self) {
        let made = MADE.take();
        if made > 0 {
            self.made.fetch_add(made, Ordering::Relaxed);
        }
    }

    /// How long the epoch lasts already.
    pub(crate) fn age(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        Duration::from_millis(milliseconds().saturating_sub(since))
    }

    /// How often it was initialised anew: as planned, and after failures.
    pub(crate) fn reinitialised(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.planned), load(&self.forced))
    }

    /// Finalises and initialises the library, unless somebody did so since `seen`.
    ///
    /// This drops every session and session object of *all* tokens of the module. It cannot be done
    /// while a call does not return: [`Error::TokenHung`] after a bounded wait.
    pub(crate) fn reinitialise(&self, seen: u64, why: Why) -> Result<(), Error> {
        let begun = Instant::now();
        let Some(closed) = self.gate.close(CLOSE_MAX) else {
            tracing::error!(
                module = %self.path.display(),
                "module cannot be initialised anew: a call into it does not return"
            );
            return Err(Error::TokenHung {
                label: self.path.display().to_string(),
            });
        };
        if closed.epoch() != seen {
            return Ok(());
        }
        closed.turn();
        self.made.store(0, Ordering::Relaxed);
        self.since.store(milliseconds(), Ordering::Relaxed);
        // A module that lost its device may refuse to finalise: initialising decides.
        if let Err(error) = self.context.clone().finalize() {
            tracing::warn!(module = %self.path.display(), %error, "module did not finalise");
        }
        let done = initialise(&self.context).map_err(|error| refuse(&self.path, &error));
        let (module, epoch) = (self.path.display(), closed.epoch());
        let milliseconds = begun.elapsed().as_millis();
        match why {
            Why::Memory => {
                self.planned.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%module, epoch, milliseconds, "module initialised anew as planned");
            }
            Why::Failure => {
                self.forced.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%module, epoch, milliseconds, "module initialised anew");
            }
        }
        done
    }
}

/// The right to call into the module: the epoch stays while this lives.
pub(crate) struct Entered<'a> {
    context: &'a Pkcs11,
    inside: Inside<'a>,
}

impl Entered<'_> {
    /// The module's functions.
    pub(crate) fn context(&self) -> &Pkcs11 {
        self.context
    }

    /// Which epoch it is.
    pub(crate) fn epoch(&self) -> u64 {
        self.inside.epoch()
    }
}

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// Notes that this thread is about to make objects in a token: see [`Module::made`].
pub(crate) fn making(objects: u64) {
    MADE.set(MADE.get().saturating_add(objects));
}

/// Milliseconds on a clock of this process that never goes back; 1 at the first call.
pub(crate) fn milliseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
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

/// How long a module is waited for that shall be initialised anew: all calls that it does in an
/// ordinary way have returned by then.
const CLOSE_MAX: Duration = Duration::from_secs(3);
