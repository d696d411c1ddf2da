//! What else may see the memory of this process: nobody.
//!
//! Memory holds authentication keys, private TLS keys and a token's PIN. So no service leaves a core dump, not even
//! through a pipe, and no process of the same user reads its memory or attaches to it. A service that holds keys keeps
//! its memory out of swap as well, where it may.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, capabilities},
};

use crate::config;

/// What became of it; said once there is a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    dumps: bool,
    locked: Locked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locked {
    NotWanted,
    /// Every page stays in memory, from when it is first used.
    Yes,
    /// The kernel would refuse some page, now or later.
    NotAllowed,
}

/// Does it for the whole life of this process. Before the first secret, and before the first thread.
pub(crate) fn keep_private(config: Option<&config::Memory>) -> std::io::Result<Kept> {
    let dumps = config.is_some_and(|config| config.allow_dumps);
    if !dumps {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Core, none)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    let locked = match config {
        Some(config) if config.lock => lock()?,
        _ => Locked::NotWanted,
    };
    Ok(Kept { dumps, locked })
}

/// With a limit, an allocation that goes beyond it fails one day, and with it the process; so it is all or nothing.
fn lock() -> std::io::Result<Locked> {
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    if !unlimited
        && !capabilities(None)?
            .effective
            .contains(CapabilitySet::IPC_LOCK)
    {
        return Ok(Locked::NotAllowed);
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(match mlockall(all) {
        Ok(()) => Locked::Yes,
        Err(_) => Locked::NotAllowed,
    })
}

impl Kept {
    /// Says what is not as it should be.
    pub(crate) fn say(self) {
        if self.dumps {
            tracing::warn!(
                "memory.allow_dumps: this process leaves core dumps and lets itself be read; for laboratories alone"
            );
        }
        match self.locked {
            Locked::NotWanted => {}
            Locked::Yes => tracing::info!("memory is kept out of swap"),
            Locked::NotAllowed => tracing::warn!(
                "memory may go to swap: give this process LimitMEMLOCK=infinity, or set memory.lock = false"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn memory_is_not_dumped() -> std::io::Result<()> {
        let kept = keep_private(None)?;
        assert_eq!((kept.dumps, kept.locked), (false, Locked::NotWanted));
        assert_eq!(dumpable_behavior()?, DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        Ok(())
    }
}
