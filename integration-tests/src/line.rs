//! A serial line in memory: two pseudo terminals whose far ends are joined.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// The two ends of a line. It ends with the process.
#[derive(Debug)]
pub struct Line {
    gateway: PathBuf,
    meter: PathBuf,
}

impl Line {
    /// A line that nobody has opened.
    ///
    /// # Errors
    /// If the system gives no pseudo terminals.
    pub fn open() -> Result<Self> {
        let (near, gateway) = terminal()?;
        let (far, meter) = terminal()?;
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            thread::spawn(move || carry(File::from(from), File::from(to)));
        }
        Ok(Self { gateway, meter })
    }

    /// The device that the gateway opens.
    #[must_use]
    pub fn gateway_end(&self) -> &Path {
        &self.gateway
    }

    /// The device that the meter opens.
    #[must_use]
    pub fn meter_end(&self) -> &Path {
        &self.meter
    }
}

/// One terminal, raw, and the path of the end that a program opens.
fn terminal() -> Result<(OwnedFd, PathBuf)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let mut modes = tcgetattr(&master)?;
    modes.make_raw();
    tcsetattr(&master, OptionalActions::Now, &modes)?;
    let path = ptsname(&master, Vec::new())?;
    let path = path.into_string().context("a path in UTF-8")?;
    Ok((master, path.into()))
}

/// Carries octets one way. A line that nobody has open at the other end says so by an error: that end may come.
fn carry(mut from: File, mut to: File) {
    let mut room = [0; 4096];
    loop {
        match from.read(&mut room) {
            Ok(0) | Err(_) => thread::park_timeout(std::time::Duration::from_millis(20)),
            Ok(count) => {
                let octets = room.get(..count).unwrap_or_default();
                // An end that is not open loses them, as a line does.
                drop(to.write_all(octets));
            }
        }
    }
}
