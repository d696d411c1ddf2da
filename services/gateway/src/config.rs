//! What the gateway is told at start.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kit::{
    PeerName, ServiceConfig, check,
    config::{Client, ConfigError, Server, Telemetry},
};
use serde::Deserialize;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The admin port: health and reflection. Its TLS identity is also that of the relay.
    pub server: Server,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// The relay port.
    pub relay: Relay,
    /// Where the allowlist comes from and the drops go to.
    pub auditor: Client,
    /// Serial lines with meters on them. A line is reached by its name; what is not named here is not opened.
    #[serde(default)]
    pub serial: Vec<SerialLine>,
}

/// A serial line: 8 data bits, 1 stop bit, no flow control (IEC 62056-46).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialLine {
    /// What meters' addresses call it (`serial:NAME`): at most 64 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Its device, such as `/dev/ttyUSB0`.
    pub device: PathBuf,
    /// Bits a second, 300..921600.
    #[serde(default = "baud")]
    pub baud: u32,
    /// Parity.
    #[serde(default)]
    pub parity: Parity,
}

/// The parity of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    /// None, as the standard says.
    #[default]
    None,
    /// Even.
    Even,
    /// Odd.
    Odd,
}

/// The relay port: what faces the meters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Where associations connect to, such as `127.0.0.1:4059`.
    pub listen: SocketAddr,
    /// Who may: certificate names, at least one.
    pub peers: Vec<PeerName>,
    /// Ports of meters that may be dialled.
    #[serde(default = "meter_ports")]
    pub meter_ports: Vec<u16>,
    /// Laboratories only: any port of a listed meter may be dialled.
    #[serde(default)]
    pub lab_any_port: bool,
    /// The last good allowlist is kept here, so that a restart does not need the auditor.
    pub cache_file: PathBuf,
    /// A list that the auditor has not confirmed for this long admits nobody.
    #[serde(default = "max_age_seconds")]
    pub max_age_seconds: u64,
    /// How often the auditor is asked for changes.
    #[serde(default = "poll_ms")]
    pub poll_ms: u64,
    /// How much one peer may take.
    #[serde(default)]
    pub limits: Limits,
}

/// How much may be taken of the relay.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time, over all sources.
    pub connections: usize,
    /// Connections at a time from one source address.
    pub connections_per_source: usize,
    /// How long a meter may take to accept a connection.
    pub connect_timeout_ms: u64,
    /// How long a source may take from its SYN to the end of its PROXY header, TLS handshake included, and
    /// then again to its first octet.
    pub first_octet_timeout_ms: u64,
    /// How long a PDU may take from its first octet to its last, and to be written to the other side.
    pub pdu_timeout_ms: u64,
    /// A connection on which nothing passes for this long is closed.
    pub idle_timeout_ms: u64,
    /// A connection older than this is closed.
    pub lifetime_seconds: u64,
    /// The largest APDU that passes, in octets: 64..65535.
    pub max_pdu: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_source: 512,
            connect_timeout_ms: 5_000,
            first_octet_timeout_ms: 10_000,
            pdu_timeout_ms: 5_000,
            idle_timeout_ms: 180_000,
            lifetime_seconds: 3_600,
            max_pdu: 4_096,
        }
    }
}

impl Relay {
    /// Whether a meter may be dialled on this port.
    #[must_use]
    pub fn allows_port(&self, port: u16) -> bool {
        port != 0 && (self.lab_any_port || self.meter_ports.contains(&port))
    }

    pub(crate) fn max_age(&self) -> Duration {
        Duration::from_secs(self.max_age_seconds)
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
        let relay = &self.relay;
        let limits = &relay.limits;
        let rules = [
            (
                !relay.peers.is_empty(),
                "relay.peers is empty: nobody could use the relay; name the association service",
            ),
            (
                !relay.meter_ports.is_empty(),
                "relay.meter_ports is empty: no meter could be dialled; leave it out for 4059",
            ),
            (
                !relay.meter_ports.contains(&0),
                "relay.meter_ports holds 0: name real ports",
            ),
            (
                (1..=86_400).contains(&relay.max_age_seconds),
                "relay.max_age_seconds must be 1..86400",
            ),
            (
                (10..=60_000).contains(&relay.poll_ms),
                "relay.poll_ms must be 10..60000",
            ),
            (
                Duration::from_millis(relay.poll_ms) < relay.max_age(),
                "relay.poll_ms must be less than relay.max_age_seconds: the list would expire between two questions",
            ),
            (
                (64..=65_535).contains(&limits.max_pdu),
                "relay.limits.max_pdu must be 64..65535",
            ),
            (
                (1..=1_000_000).contains(&limits.connections),
                "relay.limits.connections must be 1..1000000",
            ),
            (
                limits.connections_per_source >= 1,
                "relay.limits.connections_per_source must be at least 1",
            ),
            (
                limits.connect_timeout_ms >= 1,
                "relay.limits.connect_timeout_ms must be at least 1",
            ),
            (
                limits.first_octet_timeout_ms >= 1,
                "relay.limits.first_octet_timeout_ms must be at least 1",
            ),
            (
                limits.pdu_timeout_ms >= 1,
                "relay.limits.pdu_timeout_ms must be at least 1",
            ),
            (
                limits.idle_timeout_ms >= 1,
                "relay.limits.idle_timeout_ms must be at least 1",
            ),
            (
                limits.lifetime_seconds >= 1,
                "relay.limits.lifetime_seconds must be at least 1",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err(ConfigError::msg((*message).to_owned())),
            None => check_lines(&self.serial),
        }
    }
}

fn check_lines(lines: &[SerialLine]) -> Result<(), ConfigError> {
    let wrong = |line: &SerialLine, why: &str| {
        Err(ConfigError::msg(format!(
            "serial line {:?}: {why}",
            line.name
        )))
    };
    for (at, line) in lines.iter().enumerate() {
        if let Err(why) = check::meter_id(&line.name) {
            return wrong(line, &format!("its name {why}"));
        }
        if !(300..=921_600).contains(&line.baud) {
            return wrong(line, "baud must be 300..921600");
        }
        let mut before = lines.iter().take(at);
        if before.any(|other| other.name == line.name || other.device == line.device) {
            return wrong(line, "its name or its device is given twice");
        }
    }
    Ok(())
}

fn baud() -> u32 {
    9_600
}

fn meter_ports() -> Vec<u16> {
    vec![4059]
}

fn max_age_seconds() -> u64 {
    3_600
}

fn poll_ms() -> u64 {
    1_000
}
