//! Crash points: the lines at which a test may kill the process.

/// Names the crash points of a service: a constant for each, and `CRASH_POINTS` with all of them, so that none can be
/// missing from the test that walks them.
#[macro_export]
macro_rules! crash_points {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub(crate) const $name: &str = $value;)*

        /// Every crash point of this service, for the test that walks them all.
        pub const CRASH_POINTS: &[&str] = &[$($name),*];
    };
}

/// In debug builds, kills this process with SIGKILL if the environment holds `LATCHKEY_CRASH_AT=name:FILE`
/// with this name and FILE exists; FILE is removed first, so it happens once. In release builds, nothing.
#[inline]
pub fn crash_point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::crash_if_armed(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::{path::PathBuf, sync::OnceLock};

    static ARMED: OnceLock<Option<(String, PathBuf)>> = OnceLock::new();

    pub(super) fn crash_if_armed(name: &str) {
        let armed = ARMED.get_or_init(|| {
            let value = std::env::var("LATCHKEY_CRASH_AT").ok()?;
            let (name, file) = value.split_once(':')?;
            Some((name.to_owned(), PathBuf::from(file)))
        });
        if let Some((at, file)) = armed
            && at == name
            && std::fs::remove_file(file).is_ok()
        {
            let me = rustix::process::getpid();
            if rustix::process::kill_process(me, rustix::process::Signal::KILL).is_err() {
                std::process::abort();
            }
            // The signal may take a moment to arrive; nothing may happen after this line.
            loop {
                std::thread::park();
            }
        }
    }
}
