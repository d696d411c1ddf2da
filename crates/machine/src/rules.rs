//! What one reset may do and how long it may take: fixed when it is created.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// This much later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How deep a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Clears application-layer buffers; no board restarts.
    Soft,
    /// Restarts the operating system.
    Warm,
    /// Cycles the power supply: both boards restart.
    Cold,
}

impl Tier {
    /// Its name, as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// What a tier does to a meter of this kind. A fact the meter does not offer is not asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// The power-failure counter rises.
    pub power_failure: bool,
    /// The event log gains one of these codes (there is no standard "cold start" code).
    pub start_events: Vec<u16>,
    /// The uptime of the metrology board begins again.
    pub uptime: bool,
    /// The communication module restarts: no session outlives it.
    pub session_ends: bool,
}

impl Expect {
    /// Whether the tier leaves a trace at all. A soft reset leaves none.
    #[must_use]
    pub fn leaves_traces(&self) -> bool {
        self.power_failure || self.uptime || !self.start_events.is_empty()
    }
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long the meter may be silent and unchanged after the command, by its profile.
    pub outage_ms: u64,
    /// How long to wait for it to come back.
    pub rejoin_ms: u64,
    /// Between two looks.
    pub poll_ms: u64,
    /// Wait after temporary-failure (2).
    pub temporary_failure_ms: u64,
    /// Commands that may be sent, each under its own permit.
    pub attempts_max: u32,
    /// Permits that may be asked for.
    pub permits_max: u32,
    /// Failures to reach the meter before the command, in a row.
    pub failures_max: u32,
    /// After this a failure is not tried again.
    pub deadline: Millis,
}

/// Everything the machine must know about one reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// How deep.
    pub tier: Tier,
    /// The command in words, such as `ACTION 9/0.0.10.1.0.255 method 1`.
    pub action: String,
    /// The logical device name this meter showed when it was first met; `None` if it never was.
    pub identity: Option<String>,
    /// The profile says that the relay's latch was verified to hold through a power cut.
    pub latching_verified: bool,
    /// What the tier does.
    pub expect: Expect,
    /// Event codes that mean that data was destroyed.
    pub tripwires: Vec<u16>,
    /// How long and how often.
    pub limits: Limits,
    /// Tells the profile it was planned by from a changed one; empty if that is not known. The driver compares it.
    #[serde(default)]
    pub profile: String,
    /// Seeds the jitter.
    pub seed: u64,
}

impl Rules {
    /// A cold reset of a standard meter, for examples and tests.
    #[must_use]
    pub fn example() -> Self {
        Self {
            tier: Tier::Cold,
            action: String::from("ACTION 9/0.0.10.1.0.255 method 1 script 3"),
            identity: None,
            latching_verified: true,
            expect: Expect {
                power_failure: true,
                start_events: alloc::vec![2],
                uptime: true,
                session_ends: true,
            },
            tripwires: alloc::vec![255],
            limits: Limits {
                outage_ms: 20_000,
                rejoin_ms: 300_000,
                poll_ms: 5_000,
                temporary_failure_ms: 900_000,
                attempts_max: 3,
                permits_max: 12,
                failures_max: 5,
                deadline: Millis(7_200_000),
            },
            profile: String::new(),
            seed: 1,
        }
    }
}
