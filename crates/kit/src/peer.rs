//! Who is at the other end of a connection: the URI SAN of its certificate.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::Deserialize;

/// The name of a process or person: a SPIFFE URI such as `spiffe://latchkey.test/latchkey/reset`
/// (X.509-SVID). At most 255 octets; trust domain of `[a-z0-9._-]`, path segments of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerName(String);

/// A text that is no peer name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no peer name: expected spiffe://TRUST-DOMAIN/PATH of at most 255 octets")]
pub struct PeerNameError(String);

impl PeerName {
    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain, such as `latchkey.test`.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.parts().map_or("", |(domain, _)| domain)
    }

    /// The path without its leading slash, such as `latchkey/reset`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().map_or("", |(_, path)| path)
    }

    fn parts(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("spiffe://")?.split_once('/')
    }
}

impl FromStr for PeerName {
    type Err = PeerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = Self(text.to_owned());
        let domain_char =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        let path_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.chars().all(path_char);
        let good = text.len() <= 255
            && name.parts().is_some_and(|(domain, path)| {
                !domain.is_empty()
                    && domain.chars().all(domain_char)
                    && path.split('/').all(segment)
            });
        if good {
            Ok(name)
        } else {
            Err(PeerNameError(text.chars().take(300).collect()))
        }
    }
}

impl TryFrom<String> for PeerName {
    type Error = PeerNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct PeerConnection {
    pub(crate) name: PeerName,
    pub(crate) address: SocketAddr,
}

/// The caller of a request. [`crate::Server`] has put it there before any handler runs; without it (a handler
/// called outside a server) the name is `spiffe://unknown/unknown`, which no allow-list holds.
#[must_use]
pub fn peer<T>(request: &tonic::Request<T>) -> PeerName {
    request
        .extensions()
        .get::<PeerName>()
        .cloned()
        .unwrap_or_else(|| PeerName("spiffe://unknown/unknown".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_svids() -> Result<(), PeerNameError> {
        let name: PeerName = "spiffe://latchkey.test/latchkey/reset".parse()?;
        assert_eq!(
            (name.trust_domain(), name.path()),
            ("latchkey.test", "latchkey/reset")
        );
        for bad in [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///x",
            "http://a/b",
            "spiffe://A/b",
            "spiffe://a/b//c",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b c",
            "spiffe://u@a/b",
            "spiffe://a:1/b",
        ] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
        assert!(
            format!("spiffe://a/{}", "x".repeat(255))
                .parse::<PeerName>()
                .is_err()
        );
        Ok(())
    }
}
