//! Where an association wants to go, and in what framing.

use std::{fmt, net::SocketAddr};

use kit::check;

use crate::pdu::Framing;

/// A meter, as a PROXY header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A host and port, over TCP.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// HDLC instead of the wrapper.
        hdlc: bool,
    },
    /// A host and port, over UDP: the wrapper.
    Udp(SocketAddr),
    /// A serial line by its name in the configuration: HDLC.
    Serial(String),
}

impl Destination {
    /// A serial line, if the name can be one.
    #[must_use]
    pub fn serial(name: &str) -> Option<Self> {
        check::meter_id(name)
            .is_ok()
            .then(|| Self::Serial(name.to_owned()))
    }

    /// The host and port; a serial line has none.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { address, .. } | Self::Udp(address) => Some(*address),
            Self::Serial(_) => None,
        }
    }

    /// How what goes to the meter is cut, and how what comes from it is.
    #[must_use]
    pub const fn framings(&self) -> (Framing, Framing) {
        match self {
            Self::Tcp { hdlc: false, .. } => (Framing::Wrapper, Framing::Wrapper),
            Self::Udp(_) => (Framing::Datagrams, Framing::Datagrams),
            Self::Tcp { hdlc: true, .. } | Self::Serial(_) => (Framing::Hdlc, Framing::Octets),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Udp(address) => write!(f, "{address}/udp"),
            Self::Serial(name) => write!(f, "serial:{name}"),
        }
    }
}
