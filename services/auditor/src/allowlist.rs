//! A network of the 4059 allowlist.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

/// Shortest IPv4 prefix: wider is as good as no list.
const MIN_PREFIX_V4: u8 = 8;
/// Shortest IPv6 prefix.
const MIN_PREFIX_V6: u8 = 32;
/// Where IPv4 addresses lie in IPv6.
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, 0, 0);

/// A network in CIDR form, in its one spelling: no host bits, and no wider than the list allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network: IpNet = text
            .parse()
            .map_err(|_| "must be a network in CIDR form, such as 127.10.0.1/32".to_owned())?;
        let (shortest, mapped) = match network {
            IpNet::V4(_) => (MIN_PREFIX_V4, false),
            // the same hosts under a second name
            IpNet::V6(v6) => (
                MIN_PREFIX_V6,
                v6.addr().to_ipv4_mapped().is_some() || v6.contains(&MAPPED),
            ),
        };
        if network.prefix_len() < shortest {
            return Err(format!("must not be wider than /{shortest}"));
        }
        if mapped {
            return Err("must name IPv4 hosts by their IPv4 address".to_owned());
        }
        if network.trunc() != network || network.to_string() != text {
            return Err(format!("has host bits; did you mean {}?", network.trunc()));
        }
        Ok(Self(network))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|e| format!("network {text:?} {e}"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_one_spelling_and_a_limit() {
        for good in ["127.10.0.1/32", "10.0.0.0/8", "fd20::/64", "2001:db8::/32"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "127.10.0.1",
            "0.0.0.0/0",
            "10.0.0.0/7",
            "::/0",
            "2001::/31",
            "10.0.0.1/8",
            "010.0.0.0/8",
            "::ffff:10.0.0.1/128",
            "::/32",
            "FD20::/64",
            "fd20:0::/64",
            "10.0.0.0/08",
            "10.0.0.0/33",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
