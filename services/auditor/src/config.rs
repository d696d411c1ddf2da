//! The auditor's configuration. The doc comment on each field is its manual.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kit::config::{ConfigError, Database, Memory, Server, Telemetry};
use kit::{PeerName, ServiceConfig};
use latchkey_proto::audit::v1::EntryKind;
use serde::Deserialize;
use tlog::VerifierKey;

use crate::allowlist::Network;

/// Everything the auditor is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How it listens, and who may call what.
    pub server: Server,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// What may see its memory: nobody, unless this says otherwise.
    #[serde(default)]
    pub memory: Memory,
    /// Where the trail is kept.
    pub database: Database,
    /// Token B: keys `log-1` (checkpoints) and `permit-1` (permits), both Ed25519.
    pub token: hsm::TokenConfig,
    /// Name of the log, such as `latchkey.test/trail`: the first line of every checkpoint, and the name of its
    /// verifier key. It never changes for a database.
    pub origin: String,
    /// Roles of people and systems by peer name:
    /// `"spiffe://latchkey.test/operator/alice" = ["operator", "installer"]`.
    /// Whoever is not here may nothing.
    #[serde(default)]
    pub roles: BTreeMap<PeerName, Vec<Role>>,
    /// Directory of a policy bundle (`schema.cedarschema`, `policies.cedar`, `objects.toml`) to use in place of the
    /// one compiled in.
    pub policy_dir: Option<PathBuf>,
    /// Services that may present plans. Default: `latchkey/reset` of the trust domain.
    #[serde(default)]
    pub reset_services: Vec<PeerName>,
    /// Services under another peer name than `latchkey/NAME` of the trust domain, and as what they report to the trail:
    /// `"spiffe://latchkey.test/latchkey/custody-2" = "custody"`. Whoever is neither reports nothing.
    #[serde(default)]
    pub reporters: BTreeMap<PeerName, Reporter>,
    /// Networks to put on the allowlist once, the first time they are seen here. Removing one by
    /// `RemoveAllowlistEntry` stays, whatever is written here.
    #[serde(default)]
    pub allowlist: Vec<Seed>,
}

/// What a person or system may (IEC 62351-8); the policy bundle says what that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees what Latchkey knows; commands nothing.
    Viewer,
    /// Reads meters and resets them.
    Operator,
    /// Reads meters and rehearses resets.
    Engineer,
    /// Puts meters in: connects, reads their identity, adds them to the allowlist.
    Installer,
    /// Keeps policy, certificates and allowlist; commands nothing.
    SecurityAdmin,
    /// Reads and verifies the trail; commands and changes nothing.
    SecurityAuditor,
}

impl Role {
    /// The role as policies name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Engineer => "engineer",
            Self::Installer => "installer",
            Self::SecurityAdmin => "security-admin",
            Self::SecurityAuditor => "security-auditor",
        }
    }
}

/// A service that reports to the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reporter {
    /// Keys, and what was done with them.
    Custody,
    /// The meter directory.
    Association,
    /// Resets.
    Reset,
    /// Dropped traffic.
    Gateway,
}

impl Reporter {
    /// Whether entries of this kind are its own. A stolen gateway must not be able to write that a reset succeeded.
    #[must_use]
    pub const fn reports(self, kind: EntryKind) -> bool {
        match kind {
            EntryKind::Start | EntryKind::Certificate => true,
            EntryKind::Denial => matches!(self, Self::Custody | Self::Association | Self::Reset),
            EntryKind::Outcome | EntryKind::Verdict => matches!(self, Self::Reset),
            EntryKind::Key | EntryKind::KeyUse | EntryKind::Token => {
                matches!(self, Self::Custody)
            }
            EntryKind::Meter => matches!(self, Self::Association),
            EntryKind::Drop => matches!(self, Self::Gateway),
            EntryKind::Unspecified
            | EntryKind::Intent
            | EntryKind::Policy
            | EntryKind::Allowlist => false,
        }
    }
}

/// A network to begin with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Who may connect (`source`), or what may be reached (`meter`).
    pub side: Side,
    /// The network in CIDR form, such as `127.0.0.0/8`.
    pub network: Network,
    /// Why, 1..256 characters.
    pub reason: String,
}

/// A side of the allowlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Hosts that may open connections through the gateway.
    Source,
    /// Meters that may be reached.
    Meter,
}

impl Config {
    /// The auditor's own peer name.
    #[must_use]
    pub fn own_name(&self) -> String {
        self.service_name("auditor")
    }

    /// Whether `peer` may present plans.
    #[must_use]
    pub fn is_reset_service(&self, peer: &PeerName) -> bool {
        if self.reset_services.is_empty() {
            peer.as_str() == self.service_name("reset")
        } else {
            self.reset_services.contains(peer)
        }
    }

    /// As what `peer` reports to the trail; `None` if it may not.
    #[must_use]
    pub fn reporter(&self, peer: &PeerName) -> Option<Reporter> {
        let by_name = || {
            [
                ("custody", Reporter::Custody),
                ("association", Reporter::Association),
                ("reset", Reporter::Reset),
                ("gateway", Reporter::Gateway),
            ]
            .into_iter()
            .find(|(service, _)| peer.as_str() == self.service_name(service))
            .map(|(_, reporter)| reporter)
        };
        let as_reset = || self.is_reset_service(peer).then_some(Reporter::Reset);
        let named = self.reporters.get(peer).copied();
        named.or_else(by_name).or_else(as_reset)
    }

    /// The roles of a person or system.
    #[must_use]
    pub fn roles_of(&self, peer: &PeerName) -> Vec<&'static str> {
        let roles = self.roles.get(peer).into_iter().flatten();
        roles.map(|role| role.as_str()).collect()
    }

    fn service_name(&self, service: &str) -> String {
        format!(
            "spiffe://{}/latchkey/{service}",
            self.server.tls.trust_domain
        )
    }
}

impl ServiceConfig for Config {
    fn server(&self) -> &Server {
        &self.server
    }

    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn memory(&self) -> Option<&Memory> {
        Some(&self.memory)
    }

    fn check(&self) -> Result<(), ConfigError> {
        VerifierKey::new(&self.origin, [0; 32])
            .map_err(|e| ConfigError::msg(format!("origin {:?}: {e}", self.origin)))?;
        for seed in &self.allowlist {
            kit::check::text(&seed.reason, 1, 256).map_err(|e| {
                ConfigError::msg(format!("[[allowlist]] {}: reason {e}", seed.network))
            })?;
        }
        crate::policy::Policy::load(self.policy_dir.as_deref())
            .map_err(|e| ConfigError::msg(e.to_string()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        origin = "latchkey.test/trail"
        [server]
        listen = "127.0.0.1:7404"
        [server.tls]
        certificate_file = "auditor.pem"
        key_file = "auditor.key"
        ca_file = "ca.pem"
        trust_domain = "latchkey.test"
        [server.peers]
        "latchkey.audit.v1.PermitService" = ["spiffe://latchkey.test/latchkey/reset"]
        [database]
        url = "sqlite://auditor.db"
        [token]
        module = "/usr/lib/softhsm/libsofthsm2.so"
        token_label = "latchkey-b"
        pin_file = "pin-b"
        [roles]
        "spiffe://latchkey.test/operator/alice" = ["operator", "installer"]
        [[allowlist]]
        side = "source"
        network = "127.0.0.1/32"
        reason = "the association service"
    "#;

    #[test]
    fn the_example_is_good() {
        let config: Config = toml::from_str(EXAMPLE).unwrap();
        config.check().unwrap();
        let alice = "spiffe://latchkey.test/operator/alice".parse().unwrap();
        assert_eq!(config.roles_of(&alice), ["operator", "installer"]);
        let reset = "spiffe://latchkey.test/latchkey/reset".parse().unwrap();
        assert!(config.is_reset_service(&reset) && !config.is_reset_service(&alice));
        assert_eq!(config.own_name(), "spiffe://latchkey.test/latchkey/auditor");
    }

    #[test]
    fn each_service_reports_what_is_its_own() {
        use EntryKind as K;
        let text = format!(
            "{EXAMPLE}\n[reporters]\n\"spiffe://latchkey.test/latchkey/custody-2\" = \"custody\""
        );
        let config: Config = toml::from_str(&text).unwrap();
        let of = |name: &str| {
            let peer = format!("spiffe://{name}").parse().unwrap();
            let reporter = config.reporter(&peer);
            (1..)
                .map_while(|kind| K::try_from(kind).ok())
                .filter(|kind| reporter.is_some_and(|reporter| reporter.reports(*kind)))
                .collect::<Vec<_>>()
        };
        let custody = [
            K::Denial,
            K::Key,
            K::Start,
            K::KeyUse,
            K::Token,
            K::Certificate,
        ];
        assert_eq!(of("latchkey.test/latchkey/custody"), custody);
        assert_eq!(of("latchkey.test/latchkey/custody-2"), custody);
        assert_eq!(
            of("latchkey.test/latchkey/association"),
            [K::Denial, K::Meter, K::Start, K::Certificate]
        );
        assert_eq!(
            of("latchkey.test/latchkey/gateway"),
            [K::Drop, K::Start, K::Certificate]
        );
        assert_eq!(
            of("latchkey.test/latchkey/reset"),
            [K::Denial, K::Outcome, K::Verdict, K::Start, K::Certificate]
        );
        for nobody in [
            "latchkey.test/operator/alice",
            "latchkey.test/operator/reset",
            "latchkey.test/latchkey/auditor",
            "latchkey.test/latchkey/reset/x",
            "other.test/latchkey/reset",
        ] {
            assert_eq!(of(nobody), [], "{nobody}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for (from, to) in [
            ("[\"operator\", \"installer\"]", "[\"reset\"]"),
            ("127.0.0.1/32", "0.0.0.0/0"),
            ("127.0.0.1/32", "127.0.0.1"),
            ("side = \"source\"", "side = \"both\""),
            ("pin_file", "pin"),
            ("origin = \"", "orgin = \""),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let text = EXAMPLE.replace(from, to);
            assert!(toml::from_str::<Config>(&text).is_err(), "{to}");
        }
        for (from, to) in [
            ("latchkey.test/trail", "my trail"),
            ("the association service", ""),
            ("[server]", "policy_dir = \"/nonexistent\"\n[server]"),
        ] {
            let config: Config = toml::from_str(&EXAMPLE.replace(from, to)).unwrap();
            assert!(config.check().is_err(), "{to}");
        }
    }
}
