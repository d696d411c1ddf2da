//! A PKCS#11 module for tests: it forwards every function of the 2.40 list to another module and
//! fails on command.
//!
//! A test installs a copy of it with [`Shim::install`], names the real module behind it, and tells it
//! through [`Shim`] what to do: return a code, hang, lose sessions or login, seem removed, crash. The
//! commands are lines of a file beside the copy, so they also reach a copy in another process:
//!
//! ```text
//! 7 C_Encrypt 2 return 0x30        the next two C_Encrypt return CKR_DEVICE_ERROR
//! 8 C_UnwrapKey - hang             every C_UnwrapKey hangs until this line is gone
//! ```
//!
//! Several copies in one process are several modules, each with a SoftHSM of its own behind it if
//! the real module is a copy as well.

#![allow(
    unsafe_code,
    reason = "a PKCS#11 module is a set of C functions; no product links this crate"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests only: whatever goes wrong here fails the test"
)]

mod command;
mod forward;
mod list;

pub use command::{Fault, Shim};

/// The entry point of the module.
///
/// # Safety
/// As PKCS#11 has it: `list` points to where the list's address is put.
#[allow(non_snake_case, reason = "the name of the standard")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(
    list: *mut *mut cryptoki_sys::CK_FUNCTION_LIST,
) -> cryptoki_sys::CK_RV {
    if list.is_null() {
        return cryptoki_sys::CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and the caller's. Nobody writes through the pointer: PKCS#11 forbids it.
    unsafe { *list = (&raw const list::LIST.0).cast_mut() };
    cryptoki_sys::CKR_OK
}
