//! The conversation at the head of a relayed connection, in PROXY protocol version 2.
//!
//! The association says where it wants to go: command PROXY, the meter as the destination. The gateway answers
//! with a header of the same form: the same destination, and one TLV of type [`ANSWER_TLV`] that holds one
//! octet, an [`Answer`]. Only after [`Answer::Connected`] do octets pass. Without that answer, a meter that does not
//! listen and a meter that closes after the AARQ (which says: wrong key or counter) would look the same.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ppp::v2::{Addresses, Builder, Command, Header, Protocol, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Type of the TLV that holds the answer: the first of the range for private use (`PP2_TYPE_MIN_CUSTOM`).
pub const ANSWER_TLV: u8 = 0xE0;
/// Octets before the addresses; the last two say how many follow.
const FIXED: usize = 16;
/// Addresses of IPv6 (36 octets) and a few TLVs; more is not a header of ours.
const REST_MAX: usize = 256;

/// What the gateway says to a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The meter accepted the connection; octets pass from here on.
    Connected = 0,
    /// The destination is not in the allowlist, or its port is not.
    Refused = 1,
    /// The meter did not accept the connection in time.
    Unreachable = 2,
}

/// Octets that are no header which names a TCP destination.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection ended or broke.
    #[error("the connection ended within the PROXY header")]
    Read(#[from] io::Error),
    /// Not PROXY protocol version 2.
    #[error("no PROXY protocol version 2 header")]
    Malformed,
    /// A header without an IP destination over TCP.
    #[error("the PROXY header names no TCP destination")]
    NoDestination,
}

/// Reads one header, and not an octet more, and returns the destination it names.
///
/// # Errors
/// [`HeaderError`]
pub async fn read_destination(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<SocketAddr, HeaderError> {
    let mut header = vec![0_u8; FIXED];
    stream.read_exact(&mut header).await?;
    if !header.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(HeaderError::Malformed);
    }
    let length = match header.as_slice() {
        [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    if length > REST_MAX {
        return Err(HeaderError::Malformed);
    }
    header.resize(FIXED.saturating_add(length), 0);
    stream
        .read_exact(header.get_mut(FIXED..).unwrap_or_default())
        .await?;
    destination(&header)
}

fn destination(octets: &[u8]) -> Result<SocketAddr, HeaderError> {
    let header = Header::try_from(octets).map_err(|_| HeaderError::Malformed)?;
    if header.command != Command::Proxy || header.protocol != Protocol::Stream {
        return Err(HeaderError::NoDestination);
    }
    match header.addresses {
        Addresses::IPv4(v4) => Ok(SocketAddr::new(
            v4.destination_address.into(),
            v4.destination_port,
        )),
        // Canonical, so that ::ffff:a.b.c.d is judged, and dialled, as a.b.c.d.
        Addresses::IPv6(v6) => Ok(SocketAddr::new(
            IpAddr::from(v6.destination_address).to_canonical(),
            v6.destination_port,
        )),
        Addresses::Unix(_) | Addresses::Unspecified => Err(HeaderError::NoDestination),
    }
}

/// The header that answers.
///
/// # Errors
/// Never in practice: writing into memory.
pub fn answer(destination: SocketAddr, answer: Answer) -> io::Result<Vec<u8>> {
    let unspecified = match destination {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let addresses = (SocketAddr::new(unspecified, 0), destination);
    Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses)
        .write_tlv(ANSWER_TLV, &[answer as u8])?
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: Command, protocol: Protocol, from: &str, to: &str) -> Vec<u8> {
        let addresses: (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        Builder::with_addresses(Version::Two | command, protocol, addresses)
            .build()
            .unwrap()
    }

    async fn read(octets: &[u8]) -> Result<SocketAddr, HeaderError> {
        read_destination(&mut &*octets).await
    }

    #[tokio::test]
    async fn takes_the_header_and_nothing_else() {
        let mut octets = header(
            Command::Proxy,
            Protocol::Stream,
            "127.0.0.1:9",
            "127.10.0.1:4059",
        );
        octets.extend([0, 1, 0, 16]);
        let mut stream = octets.as_slice();
        let destination = read_destination(&mut stream).await.unwrap();
        assert_eq!(destination, "127.10.0.1:4059".parse().unwrap());
        assert_eq!(stream, [0, 1, 0, 16]);
    }

    #[tokio::test]
    async fn an_ipv4_address_in_ipv6_clothes_is_unmasked() {
        let octets = header(
            Command::Proxy,
            Protocol::Stream,
            "[::1]:9",
            "[::ffff:127.10.0.1]:4059",
        );
        assert_eq!(
            read(&octets).await.unwrap(),
            "127.10.0.1:4059".parse().unwrap()
        );
    }

    #[tokio::test]
    async fn refuses_what_names_no_destination() {
        let local = header(
            Command::Local,
            Protocol::Stream,
            "127.0.0.1:9",
            "127.10.0.1:4059",
        );
        let datagram = header(
            Command::Proxy,
            Protocol::Datagram,
            "127.0.0.1:9",
            "127.10.0.1:4059",
        );
        for octets in [local, datagram] {
            assert!(matches!(
                read(&octets).await,
                Err(HeaderError::NoDestination)
            ));
        }
        let good = header(
            Command::Proxy,
            Protocol::Stream,
            "127.0.0.1:9",
            "127.10.0.1:4059",
        );
        assert!(matches!(read(&good[..27]).await, Err(HeaderError::Read(_))));
        assert!(matches!(
            read(b"PROXY TCP4 127.0.0.1 127.0.0.2 1 2\r\n").await,
            Err(HeaderError::Malformed)
        ));
        let mut huge = good.clone();
        huge[14] = 0xff;
        assert!(matches!(read(&huge).await, Err(HeaderError::Malformed)));
        let mut version = good;
        version[12] = 0x31;
        assert!(matches!(read(&version).await, Err(HeaderError::Malformed)));
    }

    #[test]
    fn the_answer_is_a_header_with_one_octet_more() {
        let octets = answer("127.10.0.1:4059".parse().unwrap(), Answer::Unreachable).unwrap();
        let header = Header::try_from(octets.as_slice()).unwrap();
        let tlvs: Vec<_> = header.tlvs().map(Result::unwrap).collect();
        assert_eq!(
            (tlvs.len(), tlvs[0].kind, tlvs[0].value.as_ref()),
            (1, ANSWER_TLV, [2].as_slice())
        );
    }
}
