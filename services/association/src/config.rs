//! What the association service is told at start.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kit::{
    PeerName, ServiceConfig,
    config::{Client, ConfigError, Database, Replicas, Server, Telemetry},
};
use serde::Deserialize;

/// Answers that an opening may wait for.
const OPENING: u32 = 6;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How it listens, and who may call.
    pub server: Server,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Where the meter directory is kept.
    pub database: Database,
    /// Key custody: one process, or several on one database.
    pub custody: Replicas,
    /// The auditor: enrolments go to its trail.
    pub auditor: Client,
    /// The only way to a meter.
    pub gateway: Gateway,
    /// How long a meter may take to answer, where the caller does not say: 1..120000. Default 10,000.
    #[serde(default = "answer_timeout_ms")]
    pub answer_timeout_ms: u32,
    /// How long a meter may take until its association is open, with every answer in time: 1..720000. Default six times
    /// `answer_timeout_ms`: link, AARQ and the last pass of HLS, and all of it twice where the meter held an association.
    pub opening_timeout_ms: Option<u32>,
    /// How long it may take to reach a meter through the gateway; longer than the gateway's own limit, so that its
    /// answer arrives. Default 8,000.
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// An association that no call has named for this long is released. Default 60.
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u64,
    /// The largest APDU a meter may send, ciphering included, in octets: 64..65535; no larger than the gateway lets
    /// through. Default 1,024.
    #[serde(default = "max_pdu")]
    pub max_pdu: u16,
    /// Where encrypted frames are written in hex, one a line; of any other frame with an APDU, only the header. Off without it.
    pub trace_file: Option<PathBuf>,
}

/// How to reach the gateway's relay port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Its address, such as `127.0.0.1:4059`.
    pub address: SocketAddr,
    /// The name its certificate must hold.
    pub peer: PeerName,
}

impl Config {
    pub(crate) fn opening_timeout(&self) -> Duration {
        let derived = self.answer_timeout_ms.saturating_mul(OPENING);
        Duration::from_millis(self.opening_timeout_ms.unwrap_or(derived).into())
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
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
                (1..=120_000).contains(&self.answer_timeout_ms),
                "answer_timeout_ms must be 1..120000",
            ),
            (
                self.opening_timeout_ms
                    .is_none_or(|limit| (1..=720_000).contains(&limit)),
                "opening_timeout_ms must be 1..720000",
            ),
            (
                (1..=120_000).contains(&self.connect_timeout_ms),
                "connect_timeout_ms must be 1..120000",
            ),
            (
                (1..=3_600).contains(&self.lease_seconds),
                "lease_seconds must be 1..3600",
            ),
            (self.max_pdu >= 64, "max_pdu must be 64..65535"),
        ];
        self.custody.clients()?;
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err(ConfigError::msg(*message)),
            None => Ok(()),
        }
    }
}

fn answer_timeout_ms() -> u32 {
    10_000
}

fn connect_timeout_ms() -> u64 {
    8_000
}

fn lease_seconds() -> u64 {
    60
}

fn max_pdu() -> u16 {
    1_024
}
