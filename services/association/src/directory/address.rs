//! Where a meter is.

use std::{fmt, net::SocketAddr};

use kit::check;

const SERIAL: &str = "serial:";

/// Where a meter is: a host and port, or a serial line of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `IP:PORT`.
    Ip(SocketAddr),
    /// `serial:NAME`: a line that the gateway's configuration names.
    Serial(String),
}

impl Address {
    /// Reads an address, and brings it to its canonical form.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is required".to_owned());
        }
        if let Some(name) = text.strip_prefix(SERIAL) {
            return match check::meter_id(name) {
                Ok(()) => Ok(Self::Serial(name.to_owned())),
                Err(why) => Err(format!("names a serial line whose name {why}")),
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            "must be an IP address and a port, such as 127.10.0.1:4059 or [fd20::1]:4059, or serial:NAME"
                .to_owned()
        })?;
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
            return Err("must be the address of one host, with a port".to_owned());
        }
        Ok(Self::Ip(SocketAddr::new(ip, address.port())))
    }

    /// Whether it is a serial line.
    #[must_use]
    pub const fn is_serial(&self) -> bool {
        matches!(self, Self::Serial(_))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Serial(name) => write!(f, "{SERIAL}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_meter_has_one_address() {
        for (given, canonical) in [
            ("127.10.0.1:4059", "127.10.0.1:4059"),
            ("[::ffff:127.10.0.1]:4059", "127.10.0.1:4059"),
            ("[fd20:0::1]:4059", "[fd20::1]:4059"),
            ("serial:line-1", "serial:line-1"),
        ] {
            let address = Address::parse(given).unwrap();
            assert_eq!(address.to_string(), canonical);
            assert_eq!(Address::parse(canonical), Ok(address));
        }
    }

    #[test]
    fn addresses_of_no_host_are_refused() {
        for bad in [
            "0.0.0.0:4059",
            "127.0.0.1:0",
            "224.0.0.1:4059",
            "[::]:4059",
            "127.0.0.1",
            "",
            "[::ffff:0.0.0.0]:1",
            "serial:",
            "serial:/dev/ttyS0",
            "Serial:a",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
