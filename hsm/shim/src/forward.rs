//! The way to the real module, and what is done on it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cryptoki_sys::*;

use crate::command::{self, Fault, Rule};

/// What a function does.
pub(crate) enum Order {
    /// Returns this and does nothing.
    Answer(CK_RV),
    /// Does its work.
    Forward,
}

/// The list of functions, which PKCS#11 lets everybody read.
pub(crate) struct List(pub(crate) CK_FUNCTION_LIST);

// SAFETY: nobody writes to it.
unsafe impl Sync for List {}

/// A first argument, as far as it is a handle.
pub(crate) trait First {
    fn first(&self) -> CK_ULONG;
}

impl First for CK_ULONG {
    fn first(&self) -> CK_ULONG {
        *self
    }
}

impl First for CK_BBOOL {
    fn first(&self) -> CK_ULONG {
        0
    }
}

impl<T> First for *mut T {
    fn first(&self) -> CK_ULONG {
        0
    }
}

struct Real {
    /// Stays loaded.
    _library: Pkcs11,
    functions: CK_FUNCTION_LIST,
    conf: Option<PathBuf>,
}

// SAFETY: function pointers into a module that is never unloaded.
unsafe impl Send for Real {}
// SAFETY: the same; PKCS#11 functions may be called from any thread.
unsafe impl Sync for Real {}

/// The real module's functions.
pub(crate) fn real() -> Option<&'static CK_FUNCTION_LIST> {
    real_module().map(|real| &real.functions)
}

fn real_module() -> Option<&'static Real> {
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    REAL.get_or_init(load).as_ref()
}

fn load() -> Option<Real> {
    let settings = fs::read_to_string(own_path()?.with_extension("real")).ok()?;
    let mut lines = settings.lines();
    let path = lines.next()?;
    let conf = lines
        .next()
        .filter(|conf| !conf.is_empty())
        .map(PathBuf::from);
    // SAFETY: loading a PKCS#11 module runs its initialisers, as every user of it must.
    let library = unsafe { Pkcs11::new(path) }.ok()?;
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is where the address goes.
    let code = unsafe { library.C_GetFunctionList(&raw mut list) };
    if code != CKR_OK || list.is_null() {
        return None;
    }
    // SAFETY: the module says that the list is there, and it is never unloaded.
    let functions = unsafe { *list };
    Some(Real {
        _library: library,
        functions,
        conf,
    })
}

/// The file this code was loaded from: copies of one file are told apart by it.
fn own_path() -> Option<&'static Path> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let here = own_path as *const () as usize;
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let from = usize::from_str_radix(from, 16).ok()?;
            let to = usize::from_str_radix(to, 16).ok()?;
            let path = rest.find('/').and_then(|at| rest.get(at..))?;
            (from..to).contains(&here).then(|| PathBuf::from(path))
        })
    };
    PATH.get_or_init(find).as_deref()
}

/// C_Initialize with the real module's own configuration, which it takes from the environment.
pub(crate) fn initialize(
    call: impl FnOnce(unsafe extern "C" fn(*mut std::ffi::c_void) -> CK_RV) -> CK_RV,
) -> CK_RV {
    let Some(real) = real_module() else {
        return CKR_GENERAL_ERROR;
    };
    let Some(function) = real.functions.C_Initialize else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let Some(conf) = &real.conf else {
        return call(function);
    };
    // One at a time, of all copies in the process: the environment is shared.
    let lock = std::env::temp_dir().join(format!("hsm-shim-{}", std::process::id()));
    let Ok(lock) = File::create(lock) else {
        return CKR_GENERAL_ERROR;
    };
    if lock.lock().is_err() {
        return CKR_GENERAL_ERROR;
    }
    let before = std::env::var_os(CONF);
    set_conf(Some(conf.as_os_str()));
    let code = call(function);
    set_conf(before.as_deref());
    code
}

#[allow(
    clippy::disallowed_methods,
    reason = "SoftHSM knows no other way, and a test has two of it in one process"
)]
fn set_conf(value: Option<&std::ffi::OsStr>) {
    // SAFETY: all writers of the environment in these tests are here, under one lock.
    unsafe {
        match value {
            Some(value) => std::env::set_var(CONF, value),
            None => std::env::remove_var(CONF),
        }
    }
}

static SLOT: AtomicU64 = AtomicU64::new(0);

/// The slot that sessions are opened in.
pub(crate) fn remember(slot: CK_SLOT_ID) {
    SLOT.store(slot, Ordering::Relaxed);
}

/// What is commanded of `function`, whose first argument is the handle `first` if it is one.
pub(crate) fn before(function: &'static str, first: CK_ULONG) -> Order {
    for rule in rules().into_iter().filter(|rule| rule.is_for(function)) {
        if !matches!(rule.fault, Fault::TokenFlags(_) | Fault::SessionsMax(_)) && spent(&rule) {
            continue;
        }
        match rule.fault {
            Fault::Return(code) => {
                if code != CKR_OPERATION_ACTIVE {
                    end_operation(function, first);
                }
                return Order::Answer(code);
            }
            Fault::Hang => hang(rule.id),
            Fault::CloseAll => {
                if let Some(close) = real().and_then(|real| real.C_CloseAllSessions) {
                    // SAFETY: any slot number may be given.
                    unsafe { close(SLOT.load(Ordering::Relaxed)) };
                }
            }
            Fault::Logout => {
                if let Some(logout) = real().and_then(|real| real.C_Logout) {
                    // SAFETY: any session number may be given.
                    unsafe { logout(first) };
                }
            }
            Fault::Crash => std::process::abort(),
            Fault::Log => note(function, first),
            Fault::TokenFlags(_) | Fault::SessionsMax(_) => {}
        }
    }
    Order::Forward
}

/// Ends the operation that the function would have ended: an error of it does, says PKCS#11. Any
/// nonsense will do.
fn end_operation(function: &str, session: CK_SESSION_HANDLE) {
    let Some(real) = real() else { return };
    let end = match function {
        "C_Encrypt" => real.C_Encrypt,
        "C_Decrypt" => real.C_Decrypt,
        "C_Sign" => real.C_Sign,
        _ => return,
    };
    if let Some(end) = end {
        let (mut data, mut out) = ([0; 1], [0; 1024]);
        let (length, mut room) = (data.len() as CK_ULONG, out.len() as CK_ULONG);
        // SAFETY: both buffers are as long as it is told.
        unsafe {
            end(
                session,
                data.as_mut_ptr(),
                length,
                out.as_mut_ptr(),
                &raw mut room,
            )
        };
    }
}

/// Changes what the token says of itself.
pub(crate) fn falsify(info: &mut CK_TOKEN_INFO) {
    for rule in rules() {
        match rule.fault {
            Fault::TokenFlags(flags) if !spent(&rule) => info.flags |= flags,
            Fault::SessionsMax(count) if !spent(&rule) => {
                info.ulMaxSessionCount = count;
                info.ulMaxRwSessionCount = count;
            }
            _ => {}
        }
    }
}

/// Whether the rule has been obeyed as often as it says; counts this time.
fn spent(rule: &Rule) -> bool {
    static DONE: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());
    let Some(times) = rule.times else {
        return false;
    };
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let done = done.entry(rule.id).or_default();
    *done += 1;
    *done > times
}

#[allow(
    clippy::disallowed_methods,
    reason = "a module that hangs is what is wanted"
)]
fn hang(id: u64) {
    while rules().iter().any(|rule| rule.id == id) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The rules of now. Read again only if the file is another.
fn rules() -> Vec<Rule> {
    type Read = (Option<(u64, i64)>, Vec<Rule>);
    static READ: Mutex<Read> = Mutex::new((None, Vec::new()));
    let Some(path) = own_path().map(|path| path.with_extension("faults")) else {
        return Vec::new();
    };
    let stamp = fs::metadata(&path)
        .map(|file| (file.ino(), file.mtime_nsec()))
        .ok();
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if read.0 != stamp {
        let text = fs::read_to_string(path).unwrap_or_default();
        *read = (stamp, command::parse(&text));
    }
    read.1.clone()
}

/// Notes a call.
fn note(function: &str, first: CK_ULONG) {
    let path = own_path().map(|path| path.with_extension("log"));
    let file = path.and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
    if let Some(mut file) = file {
        drop(file.write_all(format!("{function} {first}\n").as_bytes()));
    }
}

/// Where SoftHSM looks for its configuration.
const CONF: &str = "SOFTHSM2_CONF";
