//! What a development stack is made of: names, ports, and where each file is.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The trust domain of every development certificate.
pub(crate) const DOMAIN: &str = "latchkey.test";
/// The person at the keyboard: enrols, reads and resets meters.
pub(crate) const OPERATOR: &str = "operator-dev";
/// The person who keeps the allowlist: who guards does not command (IEC 62351-8).
pub(crate) const ADMIN: &str = "operator-admin";
/// The services and their ports on 127.0.0.1, in the order they are started: nothing waits for one that comes later.
pub(crate) const SERVICES: [(&str, u16); 5] = [
    ("auditor", 7404),
    ("custody", 7401),
    ("gateway", 7405),
    ("association", 7402),
    ("reset", 7403),
];
/// Where the gateway takes connections for meters.
pub(crate) const RELAY: &str = "127.0.0.1:4059";
/// The first simulated meter; the others follow it, each on its own address and the real port.
pub(crate) const FIRST_METER: &str = "127.10.0.1:4059";

/// A folder and the places in it. All paths are absolute: the configurations made from them work from anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Result<Self, Failure> {
        let root = std::path::absolute(dir).map_err(|error| Failure::file("find", dir, &error))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Every folder, outermost first.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let inner = ["pki", "hsm", "hsm/tokens", "config", "db", "fleet"];
        std::iter::once(self.root.clone())
            .chain(inner.map(|name| self.root.join(name)))
            .collect()
    }

    pub(crate) fn client_config(&self) -> PathBuf {
        self.root.join("latchkey.toml")
    }

    /// The same, for [`ADMIN`].
    pub(crate) fn admin_config(&self) -> PathBuf {
        self.root.join("admin.toml")
    }

    pub(crate) fn service_config(&self, service: &str) -> PathBuf {
        self.root.join("config").join(format!("{service}.toml"))
    }

    pub(crate) fn database(&self, service: &str) -> PathBuf {
        self.root.join("db").join(format!("{service}.db"))
    }

    /// What custody remembers of its counters: not beside the database, which may be restored.
    pub(crate) fn counter_state(&self) -> PathBuf {
        self.root.join("hsm/custody.counters")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.root.join("pki/ca.crt")
    }

    pub(crate) fn ca_key(&self) -> PathBuf {
        self.root.join("pki/ca.key")
    }

    pub(crate) fn certificate(&self, who: &str) -> PathBuf {
        self.root.join("pki").join(format!("{who}.crt"))
    }

    pub(crate) fn key(&self, who: &str) -> PathBuf {
        self.root.join("pki").join(format!("{who}.key"))
    }

    /// What `SOFTHSM2_CONF` must say in every process that opens a token.
    pub(crate) fn softhsm_conf(&self) -> PathBuf {
        self.root.join("hsm/softhsm2.conf")
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.root.join("hsm/tokens")
    }

    pub(crate) fn ceremony_plan(&self) -> PathBuf {
        self.root.join("hsm/ceremony.toml")
    }

    pub(crate) fn ceremony_transcript(&self) -> PathBuf {
        self.root.join("hsm/transcript.json")
    }

    pub(crate) fn pin(&self, token: &str) -> PathBuf {
        self.root.join("hsm").join(format!("{token}.pin"))
    }

    pub(crate) fn so_pin(&self, token: &str) -> PathBuf {
        self.root.join("hsm").join(format!("{token}.so-pin"))
    }

    /// The public key that custody checks permits with.
    pub(crate) fn permit_key(&self) -> PathBuf {
        self.root.join("hsm/permit.pub")
    }

    /// The public key that the trail verifies with.
    pub(crate) fn trail_key(&self) -> PathBuf {
        self.root.join("trail.vkey")
    }

    pub(crate) fn gateway_cache(&self) -> PathBuf {
        self.root.join("db/gateway-allowlist.json")
    }

    /// The simulated meters.
    pub(crate) fn fleet(&self) -> PathBuf {
        self.root.join("fleet/meters.toml")
    }

    pub(crate) fn lab_keys(&self, meter: &str) -> PathBuf {
        self.root.join("fleet").join(format!("{meter}.keys.toml"))
    }

    pub(crate) fn meter_state(&self, meter: &str) -> PathBuf {
        self.root.join("fleet").join(format!("{meter}.state"))
    }
}

/// The peer name of a service or person.
pub(crate) fn peer_name(who: &str) -> String {
    match who.strip_prefix("operator-") {
        Some(person) => format!("spiffe://{DOMAIN}/operator/{person}"),
        None => format!("spiffe://{DOMAIN}/latchkey/{who}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_peer_names() {
        for (who, name) in [
            ("custody", "spiffe://latchkey.test/latchkey/custody"),
            (OPERATOR, "spiffe://latchkey.test/operator/dev"),
        ] {
            assert_eq!(
                peer_name(who).parse::<kit::PeerName>().unwrap().as_str(),
                name
            );
        }
    }
}
