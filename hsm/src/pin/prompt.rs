//! A PIN typed on the terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{SECRET_MAX, exact};
use crate::error::Error;

/// Asks on the terminal of the process and does not show what is typed. There must be one: neither a
/// pipe nor a file will do.
pub(super) fn ask(question: &str) -> Result<SecretString, Error> {
    let terminal = OpenOptions::new().read(true).write(true).open(TERMINAL);
    ask_on(
        terminal.map_err(|error| refuse(&error.to_string()))?,
        question,
    )
}

/// The same on this terminal.
pub(super) fn ask_on(terminal: File, question: &str) -> Result<SecretString, Error> {
    let silent = Silent::new(terminal)?;
    let mut terminal = &silent.terminal;
    let failed = |error: std::io::Error| refuse(&error.to_string());
    terminal.write_all(question.as_bytes()).map_err(failed)?;
    // Never grows, so no copy is left behind.
    let mut typed = Zeroizing::new(Vec::with_capacity(SECRET_MAX));
    let mut octet = Zeroizing::new([0]);
    loop {
        if terminal.read(&mut *octet).map_err(failed)? == 0 {
            return Err(refuse("it was closed"));
        }
        match octet[0] {
            b'\n' | b'\r' => break,
            // Ctrl-C and Ctrl-D: signals are off, or the terminal would be left silent.
            3 | 4 => return Err(refuse("nobody typed a PIN")),
            8 | 127 => drop(typed.pop()),
            // Ctrl-U
            21 => typed.clear(),
            _ if typed.len() == SECRET_MAX => return Err(refuse("a PIN is not that long")),
            octet => typed.push(octet),
        }
    }
    terminal.write_all(b"\n").map_err(failed)?;
    exact(&typed).ok_or_else(|| refuse("a PIN has no spaces and is not empty"))
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn new(terminal: File) -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| refuse(&error.to_string());
        let before = termios::tcgetattr(&terminal).map_err(failed)?;
        let mut silent = before.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        // What was typed before it was asked for is dropped.
        termios::tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let restored = termios::tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        if let Err(error) = restored {
            tracing::warn!(%error, "the terminal stays silent; `stty sane` mends it");
        }
    }
}

fn refuse(why: &str) -> Error {
    Error::PinFile {
        path: Path::new(TERMINAL).to_owned(),
        why: format!("{why}; start the process on a terminal, or use pin_file or pin_credential"),
    }
}

pub(super) const TERMINAL: &str = "/dev/tty";
