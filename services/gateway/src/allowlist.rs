//! Who may come in, and where they may go: the allowlist as the gateway holds it.

use std::net::IpAddr;

use ipnet::IpNet;
use latchkey_proto::audit::v1::{AllowlistEntry, AllowlistSide};

/// One version of the allowlist. What it does not name is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowlist {
    version: u64,
    sources: Networks,
    meters: Networks,
}

/// Disjoint networks in ascending order, so that a look-up is one binary search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Networks(Vec<IpNet>);

impl Allowlist {
    /// The list the auditor gave. An entry that cannot be read admits nobody; the others hold.
    #[must_use]
    pub fn from_entries(version: u64, entries: &[AllowlistEntry]) -> Self {
        let mut sides = (Vec::new(), Vec::new());
        for entry in entries {
            match (entry.network.parse::<IpNet>(), entry.side()) {
                (Ok(network), _) if too_wide(&network) => {
                    tracing::error!(
                        network = entry.network,
                        "allowlist entry ignored: the network is too wide"
                    );
                }
                (Ok(network), AllowlistSide::Source) => sides.0.push(network),
                (Ok(network), AllowlistSide::Meter) => sides.1.push(network),
                _ => tracing::error!(
                    network = entry.network,
                    side = entry.side,
                    "allowlist entry ignored: unreadable"
                ),
            }
        }
        Self::new(version, sides.0, sides.1)
    }

    /// A list of these networks.
    #[must_use]
    pub fn new(version: u64, sources: Vec<IpNet>, meters: Vec<IpNet>) -> Self {
        Self {
            version,
            sources: Networks::new(sources),
            meters: Networks::new(meters),
        }
    }

    /// The auditor's number of this version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether this host may open connections.
    #[must_use]
    pub fn allows_source(&self, address: IpAddr) -> bool {
        self.sources.contain(address)
    }

    /// Whether a meter may be dialled at this address.
    #[must_use]
    pub fn allows_meter(&self, address: IpAddr) -> bool {
        self.meters.contain(address)
    }

    /// The networks of the source side.
    #[must_use]
    pub fn sources(&self) -> &[IpNet] {
        &self.sources.0
    }

    /// The networks of the meter side.
    #[must_use]
    pub fn meters(&self) -> &[IpNet] {
        &self.meters.0
    }
}

impl Networks {
    fn new(networks: Vec<IpNet>) -> Self {
        let mut disjoint = IpNet::aggregate(&networks);
        disjoint.sort_by_key(IpNet::network);
        Self(disjoint)
    }

    fn contain(&self, address: IpAddr) -> bool {
        // An IPv4 address in IPv6 clothes (::ffff:a.b.c.d) is the IPv4 address.
        let address = address.to_canonical();
        let after = self
            .0
            .partition_point(|network| network.network() <= address);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|network| network.contains(&address))
    }
}

/// The auditor refuses such prefixes; a list that holds one did not come through its door.
fn too_wide(network: &IpNet) -> bool {
    match network {
        IpNet::V4(v4) => v4.prefix_len() < 8,
        IpNet::V6(v6) => v6.prefix_len() < 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(side: AllowlistSide, network: &str) -> AllowlistEntry {
        AllowlistEntry {
            side: side.into(),
            network: network.to_owned(),
            ..AllowlistEntry::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_named_is_refused() {
        let list = Allowlist::from_entries(
            7,
            &[
                entry(AllowlistSide::Source, "10.20.0.0/28"),
                entry(AllowlistSide::Source, "fd20::/64"),
                entry(AllowlistSide::Meter, "10.30.0.7/32"),
                entry(AllowlistSide::Meter, "10.30.0.0/30"),
                entry(AllowlistSide::Meter, "10.30.0.2/32"),
            ],
        );
        assert_eq!(list.version(), 7);
        for yes in ["10.20.0.0", "10.20.0.15", "fd20::10", "::ffff:10.20.0.1"] {
            assert!(list.allows_source(ip(yes)), "{yes}");
        }
        for no in [
            "10.20.0.16",
            "10.19.255.255",
            "fd21::1",
            "::1",
            "0.0.0.0",
            "10.30.0.7",
            "255.255.255.255",
        ] {
            assert!(!list.allows_source(ip(no)), "{no}");
        }
        for yes in ["10.30.0.0", "10.30.0.2", "10.30.0.3", "10.30.0.7"] {
            assert!(list.allows_meter(ip(yes)), "{yes}");
        }
        for no in ["10.30.0.4", "10.30.0.6", "10.30.0.8", "10.20.0.1"] {
            assert!(!list.allows_meter(ip(no)), "{no}");
        }
    }

    #[test]
    fn unreadable_and_too_wide_entries_admit_nobody() {
        let list = Allowlist::from_entries(
            1,
            &[
                entry(AllowlistSide::Source, "0.0.0.0/0"),
                entry(AllowlistSide::Source, "10.0.0.0/7"),
                entry(AllowlistSide::Source, "fd00::/8"),
                entry(AllowlistSide::Source, "10.1.1.1"),
                entry(AllowlistSide::Source, "host.example/32"),
                entry(AllowlistSide::Unspecified, "10.2.0.0/16"),
                entry(AllowlistSide::Source, "10.3.0.0/16"),
            ],
        );
        assert_eq!(list.sources(), ["10.3.0.0/16".parse::<IpNet>().unwrap()]);
        assert!(list.meters().is_empty());
        assert!(!list.allows_source(ip("10.1.1.1")));
        assert!(!list.allows_source(ip("10.2.0.1")));
    }

    #[test]
    fn an_empty_list_admits_nobody() {
        let list = Allowlist::from_entries(1, &[]);
        assert!(!list.allows_source(ip("127.0.0.1")));
        assert!(!list.allows_meter(ip("127.0.0.1")));
    }
}
