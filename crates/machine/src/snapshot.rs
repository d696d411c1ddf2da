//! What was read from the meter, as typed facts. A fact that could not be read is `None`.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::Millis;

/// One authenticated reading of everything the machine compares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was complete, by our clock.
    pub taken_at: Millis,
    /// The highest invocation counter the reading spent; 0 if it was not ciphered.
    pub counter: u32,
    /// Logical device name.
    pub identity: Option<String>,
    /// Image transfer status (class 18, attribute 6).
    pub image_transfer: Option<u8>,
    /// Clock (class 8).
    pub clock: Option<Clock>,
    /// Disconnect control (class 70).
    pub relay: Option<Relay>,
    /// Versions of both boards.
    pub firmware: Firmware,
    /// Number of power failures.
    pub power_failures: Option<u64>,
    /// Seconds since the start.
    pub uptime: Option<u64>,
    /// The newest entries of the event log, from the surveyed position on.
    pub events: Option<Vec<LoggedEvent>>,
    /// How many entries the event log has.
    #[serde(default)]
    pub event_log: Option<EventLog>,
    /// Where the load profile ends.
    pub load_profile: Option<LoadProfile>,
}

/// The meter's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds since the Unix epoch by the meter's time; `None` if it is not specified.
    pub seconds: Option<u64>,
    /// The status says that the time is invalid (Blue Book, clock status bit 0).
    pub invalid: bool,
}

/// The relay (class 70, attributes 2, 3 and 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Output state: `true` means supplied.
    pub output: bool,
    /// Control state: 0 disconnected, 1 connected, 2 ready for reconnection.
    pub state: u8,
    /// Control mode 0..=7.
    pub mode: u8,
}

impl Relay {
    /// Whether the premises are supplied, without any doubt.
    #[must_use]
    pub fn is_connected(self) -> bool {
        self.output && self.state == 1
    }

    /// Whether output and control state say opposite things.
    #[must_use]
    pub fn contradicts_itself(self) -> bool {
        self.output != (self.state == 1)
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = if self.output { "closed" } else { "open" };
        let state = match self.state {
            0 => "disconnected",
            1 => "connected",
            2 => "ready for reconnection",
            _ => "unknown state",
        };
        write!(f, "{output} ({state}), control mode {}", self.mode)
    }
}

/// Firmware versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// Of the metrology board.
    pub metrology: Option<String>,
    /// Of the communication module.
    pub module: Option<String>,
}

/// One entry of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// When, in seconds since the Unix epoch by the meter's clock; 0 if it is not specified.
    pub seconds: u64,
    /// Event code.
    pub code: u16,
}

/// How full the event log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLog {
    /// Entries in use.
    pub entries: u32,
    /// How many there can be; `None` if the meter does not say.
    pub capacity: Option<u32>,
}

impl EventLog {
    /// Whether the next entry takes the place of older ones: some meters drop a whole block then.
    pub(crate) fn is_full(self) -> bool {
        self.capacity
            .is_some_and(|capacity| self.entries >= capacity)
    }
}

/// Where the load profile ends. Its values are never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadProfile {
    /// Entries in use.
    pub entries: u32,
    /// Time of the newest entry, in seconds since the Unix epoch; `None` if there is none.
    pub newest: Option<u64>,
}
