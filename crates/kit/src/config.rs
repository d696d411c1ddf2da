//! Configuration: TOML, typed, unknown fields refused. The doc comments on the fields are the manual.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{PeerName, ServiceConfig};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// A refusal that is only a message. Name the key, what is wrong, and what would be right.
    #[must_use]
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// How a service listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// IP address and port for gRPC, such as `127.0.0.1:7401`. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Our certificate, and whom we trust.
    pub tls: Tls,
    /// Who may call what.
    pub peers: Peers,
    /// Seconds that running requests get after SIGTERM. Default 10.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: u64,
    /// Largest request, in octets. Default 1 MiB.
    #[serde(default = "default_max_message_bytes")]
    pub max_message_bytes: usize,
    /// Requests served at one time; more are answered `RESOURCE_EXHAUSTED`. Default 256.
    #[serde(default = "default_max_concurrent_requests")]
    pub max_concurrent_requests: usize,
    /// Seconds after which a connection is asked to end and the peer to connect anew, which proves its certificate
    /// again: a peer whose certificate expired, or whose authority was removed, is gone by then. Default 3600.
    #[serde(default = "default_max_connection_age_seconds")]
    pub max_connection_age_seconds: u64,
    /// Seconds that requests on such a connection get to end before it is cut. Default 300.
    #[serde(default = "default_max_connection_grace_seconds")]
    pub max_connection_grace_seconds: u64,
}

fn default_max_connection_age_seconds() -> u64 {
    3600
}
fn default_max_connection_grace_seconds() -> u64 {
    300
}
fn default_drain_seconds() -> u64 {
    10
}
fn default_max_message_bytes() -> usize {
    1 << 20
}
fn default_max_concurrent_requests() -> usize {
    256
}

/// One end of mutual TLS 1.3. Files are PEM; they are read again when they change, without a restart.
///
/// The private key is in a token: `[server.tls.token]`, a table as that of custody's own token, names it, and no private
/// key is on the disk. Or it is in `key_file`, for development.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate and its intermediates. It must hold exactly one URI SAN: our peer name. Left out with a key in a
    /// token: the chain that the token keeps for it (`latchkey-ceremony certificate import`).
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// Our private key (PKCS#8), if it is in no token. Readable by the service's user alone.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The certificates that may sign a peer's.
    pub ca_file: PathBuf,
    /// The trust domain of every peer, such as `latchkey.test`.
    pub trust_domain: String,
    /// The token that holds our private key: a token of role `tls`, made by the ceremony, of this service alone. Its
    /// module may be that of another token of the process.
    #[serde(default)]
    pub token: Option<hsm::TokenConfig>,
    /// Label of the key in the token. Default `tls-1`.
    #[serde(default = "default_token_key")]
    pub token_key: String,
}

fn default_token_key() -> String {
    "tls-1".to_owned()
}

impl Tls {
    /// With everything in files.
    #[must_use]
    pub fn files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        ca: impl Into<PathBuf>,
        trust_domain: &str,
    ) -> Self {
        Self {
            certificate_file: Some(certificate.into()),
            key_file: Some(key.into()),
            ca_file: ca.into(),
            trust_domain: trust_domain.to_owned(),
            token: None,
            token_key: default_token_key(),
        }
    }

    /// What types alone cannot check.
    ///
    /// # Errors
    /// Names the keys that do not go together.
    pub fn check(&self) -> Result<(), ConfigError> {
        match (&self.key_file, &self.token, &self.certificate_file) {
            (Some(_), Some(_), _) => Err(ConfigError::msg(
                "[server.tls] has both key_file and token: the private key is in one place; remove key_file",
            )),
            (None, None, _) => Err(ConfigError::msg(
                "[server.tls] names no private key: add a table [server.tls.token], or key_file for development",
            )),
            (Some(_), None, None) => Err(ConfigError::msg(
                "[server.tls] certificate_file is missing: only a token keeps a certificate beside its key",
            )),
            _ => Ok(()),
        }
    }
}

/// Which peer may call which gRPC service. Keys are `package.Service`, or `package.Service/Method` to override one
/// method. What is not named here is refused. Health and reflection need no entry: every peer with a good
/// certificate may ask for them.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Peers(BTreeMap<String, Vec<PeerName>>);

impl Peers {
    /// Whether `peer` may call `/package.Service/Method`.
    #[must_use]
    pub fn allows(&self, peer: &PeerName, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        let service = path.split('/').next().unwrap_or_default();
        self.0
            .get(path)
            .or_else(|| self.0.get(service))
            .is_some_and(|allowed| allowed.contains(peer))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.0.is_empty() {
            return Err(ConfigError::msg(
                "[server.peers] is empty: nobody could call this service; name the peers of each gRPC service",
            ));
        }
        for (service, peers) in &self.0 {
            if peers.is_empty() {
                return Err(ConfigError::msg(format!(
                    "[server.peers] {service:?} is an empty list: name at least one peer, or remove the line"
                )));
            }
            let name = service.split('/').next().unwrap_or_default();
            if !name.starts_with("latchkey.") {
                return Err(ConfigError::msg(format!(
                    "[server.peers] {service:?} is no service of ours: expected latchkey.PACKAGE.v1.Service or latchkey.PACKAGE.v1.Service/Method"
                )));
            }
        }
        Ok(())
    }
}

/// How to reach another service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its address, such as `https://127.0.0.1:7401`.
    pub endpoint: String,
    /// The name its certificate must hold.
    pub peer: PeerName,
    /// Longest wait for an answer where the caller set no deadline, in milliseconds. Default 10,000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    10_000
}

/// How to reach another service that may run as several processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    /// Its address, such as `https://127.0.0.1:7401`, where it is one process. This or `endpoints`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The addresses of all its processes, 1..16, each once.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// The name the certificate of each must hold.
    pub peer: PeerName,
    /// Longest wait for an answer where the caller set no deadline, in milliseconds. Default 10,000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// Most processes of one service.
const REPLICAS_MAX: usize = 16;

impl Replicas {
    /// How to reach each of them.
    ///
    /// # Errors
    /// If there is none, more than 16, or one is named twice.
    pub fn clients(&self) -> Result<Vec<Client>, ConfigError> {
        let named: Vec<&String> = self.endpoint.iter().chain(&self.endpoints).collect();
        let distinct: std::collections::BTreeSet<_> = named.iter().collect();
        if !(1..=REPLICAS_MAX).contains(&named.len()) || distinct.len() < named.len() {
            return Err(ConfigError::msg(format!(
                "endpoint and endpoints must name 1..{REPLICAS_MAX} addresses, each once"
            )));
        }
        Ok(named
            .into_iter()
            .map(|endpoint| Client {
                endpoint: endpoint.clone(),
                peer: self.peer.clone(),
                timeout_ms: self.timeout_ms,
            })
            .collect())
    }
}

/// Where a service keeps its rows.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite:///absolute/path.db`, or `postgres://user@host/database`.
    pub url: String,
    /// Connections on PostgreSQL. Default 8. SQLite always has one.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        let scheme = self.url.split(':').next().unwrap_or_default();
        f.debug_struct("Database")
            .field("url", &format_args!("{scheme}:..."))
            .finish_non_exhaustive()
    }
}

fn default_max_connections() -> u32 {
    8
}

/// What may see the memory of a process that holds keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Leaves core dumps and debuggers on: only for a laboratory that looks for keys in memory. Said in the log and in the
    /// trail's entry of the start. Default false.
    pub allow_dumps: bool,
    /// Keeps memory out of swap; a warning where the process may not (`LimitMEMLOCK=infinity` lets it). Default true.
    pub lock: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            allow_dumps: false,
            lock: true,
        }
    }
}

/// Logs, traces and metrics.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// OTLP/gRPC collector, such as `http://127.0.0.1:4317`. Traces and metrics stay off without it.
    pub otlp_endpoint: Option<String>,
    /// Log filter, such as `info` or `info,custody=debug`. Empty means `info`.
    pub log: String,
    /// Shape of the log lines on standard error.
    pub log_format: LogFormat,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Reads, parses and checks a configuration file.
///
/// # Errors
/// Says which file and key, and what is wrong with it.
pub fn load<C: ServiceConfig>(path: &Path) -> Result<C, ConfigError> {
    let in_file = |what: String| ConfigError(format!("{}: {what}", path.display()));
    let text =
        std::fs::read_to_string(path).map_err(|e| in_file(format!("cannot be read: {e}")))?;
    let config: C = toml::from_str(&text).map_err(|e| in_file(e.to_string()))?;
    let server = config.server();
    server.tls.check().map_err(|e| in_file(e.0))?;
    server.peers.check().map_err(|e| in_file(e.0))?;
    if server.max_connection_age_seconds == 0 {
        let why = "[server] max_connection_age_seconds must be greater than 0";
        return Err(in_file(why.to_owned()));
    }
    if server.max_concurrent_requests == 0 || server.max_message_bytes == 0 {
        return Err(in_file("[server] limits must be greater than 0".to_owned()));
    }
    config.check().map_err(|e| in_file(e.0))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        server: Server,
        #[serde(default)]
        telemetry: Telemetry,
    }

    impl ServiceConfig for Config {
        fn server(&self) -> &Server {
            &self.server
        }
        fn telemetry(&self) -> &Telemetry {
            &self.telemetry
        }
    }

    fn parse(peers: &str, more: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.toml");
        let text = format!(
            "{more}\n[server]\nlisten = '127.0.0.1:0'\n[server.tls]\ncertificate_file='a'\nkey_file='b'\nca_file='c'\ntrust_domain='t'\n[server.peers]\n{peers}"
        );
        std::fs::write(&path, text).expect("written");
        load(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn peers_are_matched_by_service_and_method() {
        let config = parse(
            "'latchkey.a.v1.S' = ['spiffe://t/x']\n'latchkey.a.v1.S/Secret' = ['spiffe://t/y']",
            "",
        )
        .expect("a good configuration");
        let x: PeerName = "spiffe://t/x".parse().expect("a name");
        let y: PeerName = "spiffe://t/y".parse().expect("a name");
        let peers = &config.server.peers;
        assert!(
            peers.allows(&x, "/latchkey.a.v1.S/Open") && !peers.allows(&y, "/latchkey.a.v1.S/Open")
        );
        assert!(
            peers.allows(&y, "/latchkey.a.v1.S/Secret")
                && !peers.allows(&x, "/latchkey.a.v1.S/Secret")
        );
        assert!(
            !peers.allows(&x, "/latchkey.b.v1.S/Open")
                && !peers.allows(&x, "/")
                && !peers.allows(&x, "")
        );
    }

    #[test]
    fn fails_closed() {
        assert!(parse("", "").is_err_and(|e| e.contains("empty")));
        assert!(parse("'latchkey.a.v1.S' = []", "").is_err_and(|e| e.contains("empty list")));
        assert!(
            parse("'*' = ['spiffe://t/x']", "").is_err_and(|e| e.contains("no service of ours"))
        );
        assert!(
            parse("'latchkey.a.v1.S' = ['nobody']", "").is_err_and(|e| e.contains("no peer name"))
        );
        assert!(
            parse("'latchkey.a.v1.S' = ['spiffe://t/x']", "surprise = 1")
                .is_err_and(|e| e.contains("surprise"))
        );
    }
}
