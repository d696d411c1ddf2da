//! What the reset service is told at start.

use std::path::PathBuf;

use kit::{
    ServiceConfig,
    config::{Client, ConfigError, Database, Server, Telemetry},
};
use serde::Deserialize;

use crate::profile::Profiles;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How it listens, and who may call.
    pub server: Server,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Where resets are kept.
    pub database: Database,
    /// The auditor: permits and the trail.
    pub auditor: Client,
    /// The association service: the only way to a meter.
    pub association: Client,
    /// Directory of more reset profiles, one per `*.toml`. Without it, only `standard` and `procedure`.
    pub profile_dir: Option<PathBuf>,
    /// How long a meter may take to come back after its command, in seconds: 1..86400. Default 300.
    #[serde(default = "rejoin_seconds")]
    pub rejoin_seconds: u64,
    /// Between two looks for it, in seconds, give or take a half: 1..3600. Default 5.
    #[serde(default = "poll_seconds")]
    pub poll_seconds: u64,
    /// Wait after temporary-failure, in seconds: 1..86400. Default 900.
    #[serde(default = "temporary_failure_wait_seconds")]
    pub temporary_failure_wait_seconds: u64,
    /// Commands that may be sent for one reset, each proven not accepted before the next: 1..10. Default 3.
    #[serde(default = "attempts_max")]
    pub attempts_max: u32,
    /// Resets driven at one time; more wait: 1..10000. Default 64.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// Life of a reset's permit, in seconds: 60..86400. Default 1800.
    #[serde(default = "permit_lifetime_seconds")]
    pub permit_lifetime_seconds: u32,
    /// How long a meter may take to answer the command, in milliseconds: 1..120000. Default 15,000.
    #[serde(default = "act_timeout_ms")]
    pub act_timeout_ms: u32,
    /// Attempts to change a meter's keys before it is left as it is, or a person is called: 1..20. Default 4.
    #[serde(default = "rotation_attempts_max")]
    pub rotation_attempts_max: u32,
    /// Wait after the first attempt that came to nothing, in seconds; it doubles with each, up to an hour: 1..3600.
    /// Default 60.
    #[serde(default = "rotation_retry_seconds")]
    pub rotation_retry_seconds: u64,
}

impl Config {
    /// Looks at one association that a permit allows: every poll, and some more.
    pub(crate) fn associations_max(&self) -> u32 {
        let polls = self.rejoin_seconds.saturating_mul(2) / self.poll_seconds.max(1);
        u32::try_from(polls.saturating_add(16)).map_or(1024, |count| count.min(1024))
    }
}

impl ServiceConfig for Config {
    fn server(&self) -> &Server {
        &self.server
    }

    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn check(&self) -> Result<(), ConfigError> {
        let rules = [
            (
                (1..=86_400).contains(&self.rejoin_seconds),
                "rejoin_seconds must be 1..86400",
            ),
            (
                (1..=3_600).contains(&self.poll_seconds),
                "poll_seconds must be 1..3600",
            ),
            (
                (1..=86_400).contains(&self.temporary_failure_wait_seconds),
                "temporary_failure_wait_seconds must be 1..86400",
            ),
            (
                (1..=10).contains(&self.attempts_max),
                "attempts_max must be 1..10",
            ),
            (
                (1..=10_000).contains(&self.concurrency),
                "concurrency must be 1..10000",
            ),
            (
                (60..=86_400).contains(&self.permit_lifetime_seconds),
                "permit_lifetime_seconds must be 60..86400",
            ),
            (
                (1..=120_000).contains(&self.act_timeout_ms),
                "act_timeout_ms must be 1..120000",
            ),
            (
                (1..=20).contains(&self.rotation_attempts_max),
                "rotation_attempts_max must be 1..20",
            ),
            (
                (1..=3_600).contains(&self.rotation_retry_seconds),
                "rotation_retry_seconds must be 1..3600",
            ),
        ];
        if let Some((_, message)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(ConfigError::msg(*message));
        }
        Profiles::load(self.profile_dir.as_deref())
            .map(drop)
            .map_err(|error| ConfigError::msg(error.to_string()))
    }
}

fn rejoin_seconds() -> u64 {
    300
}

fn poll_seconds() -> u64 {
    5
}

fn temporary_failure_wait_seconds() -> u64 {
    900
}

fn attempts_max() -> u32 {
    3
}

fn concurrency() -> usize {
    64
}

fn permit_lifetime_seconds() -> u32 {
    1_800
}

fn rotation_attempts_max() -> u32 {
    4
}

fn rotation_retry_seconds() -> u64 {
    60
}

fn act_timeout_ms() -> u32 {
    15_000
}
