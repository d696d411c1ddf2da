//! The conversation at the head of a relayed connection, in PROXY protocol version 2.
//!
//! The association says where it wants to go: command PROXY, the meter as the destination.
//!
//! | family, protocol | destination | what passes |
//! |---|---|---|
//! | IP, STREAM | a host and port | the wrapper over TCP; with a TLV of type [`FRAMING_TLV`] that holds [`HDLC`]: HDLC |
//! | IP, DGRAM | a host and port | datagrams of the wrapper over UDP, each behind its length (two octets, big-endian) |
//! | UNIX, STREAM | the name of a serial line | HDLC |
//!
//! The gateway answers with a header of the same form: the same destination, and one TLV of type [`ANSWER_TLV`] that
//! holds one octet, an [`Answer`]. Only after [`Answer::Connected`] do octets pass. Without that answer, a meter that
//! does not listen and a meter that closes after the AARQ (which says: wrong key or counter) would look the same.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ppp::v2::{Addresses, Builder, Command, Header, Protocol, Unix, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::destination::Destination;

/// Type of the TLV that holds the answer: the first of the range for private use (`PP2_TYPE_MIN_CUSTOM`).
pub const ANSWER_TLV: u8 = 0xE0;
/// Type of the TLV that says which framing passes over TCP; without it, the wrapper.
pub const FRAMING_TLV: u8 = 0xE1;
/// The value of [`FRAMING_TLV`] for HDLC.
pub const HDLC: u8 = 1;
/// Octets before the addresses; the last two say how many follow.
const FIXED: usize = 16;
/// Two addresses of the family UNIX (216 octets) and a few TLVs; more is not a header of ours.
const REST_MAX: usize = 256;
/// Octets of an address of the family UNIX.
const UNIX: usize = 108;

/// What the gateway says to a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The meter accepted the connection; octets pass from here on.
    Connected = 0,
    /// The destination is not in the allowlist, or its port is not.
    Refused = 1,
    /// The meter did not accept the connection in time, or the device of the serial line cannot be opened.
    Unreachable = 2,
    /// The serial line is in use.
    Busy = 3,
}

/// Octets that are no header which names a meter.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection ended or broke.
    #[error("the connection ended within the PROXY header")]
    Read(#[from] io::Error),
    /// Not PROXY protocol version 2.
    #[error("no PROXY protocol version 2 header")]
    Malformed,
    /// A header without a destination that can be a meter.
    #[error("the PROXY header names no meter's address, serial line or framing")]
    NoDestination,
}

/// Reads one header, and not an octet more, and returns the destination it names.
///
/// # Errors
/// [`HeaderError`]
pub async fn read_destination(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Destination, HeaderError> {
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

fn destination(octets: &[u8]) -> Result<Destination, HeaderError> {
    let header = Header::try_from(octets).map_err(|_| HeaderError::Malformed)?;
    if header.command != Command::Proxy {
        return Err(HeaderError::NoDestination);
    }
    let address = match header.addresses {
        Addresses::IPv4(v4) => SocketAddr::new(v4.destination_address.into(), v4.destination_port),
        // Canonical, so that ::ffff:a.b.c.d is judged, and dialled, as a.b.c.d.
        Addresses::IPv6(v6) => SocketAddr::new(
            IpAddr::from(v6.destination_address).to_canonical(),
            v6.destination_port,
        ),
        Addresses::Unix(unix) if header.protocol == Protocol::Stream => {
            return line(&unix.destination).ok_or(HeaderError::NoDestination);
        }
        Addresses::Unix(_) | Addresses::Unspecified => return Err(HeaderError::NoDestination),
    };
    match header.protocol {
        Protocol::Stream => Ok(Destination::Tcp {
            address,
            hdlc: is_hdlc(&header)?,
        }),
        Protocol::Datagram => Ok(Destination::Udp(address)),
        Protocol::Unspecified => Err(HeaderError::NoDestination),
    }
}

/// Whether HDLC is asked for. An unknown framing must not pass as another.
fn is_hdlc(header: &Header<'_>) -> Result<bool, HeaderError> {
    let framing = header
        .tlvs()
        .flatten()
        .find(|tlv| tlv.kind == FRAMING_TLV)
        .map(|tlv| tlv.value.into_owned());
    match framing.as_deref() {
        None => Ok(false),
        Some([HDLC]) => Ok(true),
        Some(_) => Err(HeaderError::NoDestination),
    }
}

/// The serial line that a path names: up to its first NUL.
fn line(path: &[u8]) -> Option<Destination> {
    let name = path.split(|octet| *octet == 0).next()?;
    Destination::serial(std::str::from_utf8(name).ok()?)
}

/// The header that answers.
///
/// # Errors
/// Never in practice: writing into memory.
pub fn answer(destination: &Destination, answer: Answer) -> io::Result<Vec<u8>> {
    let protocol = match destination {
        Destination::Tcp { .. } | Destination::Serial(_) => Protocol::Stream,
        Destination::Udp(_) => Protocol::Datagram,
    };
    Builder::with_addresses(
        Version::Two | Command::Proxy,
        protocol,
        addresses(destination),
    )
    .write_tlv(ANSWER_TLV, &[answer as u8])?
    .build()
}

fn addresses(destination: &Destination) -> Addresses {
    match destination {
        Destination::Tcp { address, .. } | Destination::Udp(address) => {
            let unspecified = match address {
                SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            (SocketAddr::new(unspecified, 0), *address).into()
        }
        Destination::Serial(name) => {
            let mut path = [0; UNIX];
            for (octet, of_name) in path.iter_mut().zip(name.bytes()) {
                *octet = of_name;
            }
            Unix::new([0; UNIX], path).into()
        }
    }
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

    async fn read(octets: &[u8]) -> Result<Destination, HeaderError> {
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
        assert_eq!(destination, tcp("127.10.0.1:4059", false));
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
        assert_eq!(read(&octets).await.unwrap(), tcp("127.10.0.1:4059", false));
    }

    fn tcp(address: &str, hdlc: bool) -> Destination {
        let address = address.parse().unwrap();
        Destination::Tcp { address, hdlc }
    }

    fn to(destination: &Destination, protocol: Protocol, framing: &[u8]) -> Vec<u8> {
        let builder = Builder::with_addresses(
            Version::Two | Command::Proxy,
            protocol,
            addresses(destination),
        );
        let builder = match framing {
            [] => builder,
            framing => builder.write_tlv(FRAMING_TLV, framing).unwrap(),
        };
        builder.build().unwrap()
    }

    #[tokio::test]
    async fn every_kind_of_meter_has_a_header() {
        let address = "127.10.0.1:4059";
        let (hdlc, udp) = (
            tcp(address, true),
            Destination::Udp(address.parse().unwrap()),
        );
        let line = Destination::serial("cabinet-7").unwrap();
        for (destination, protocol, framing, text) in [
            (&hdlc, Protocol::Stream, &[HDLC][..], "127.10.0.1:4059"),
            (&udp, Protocol::Datagram, &[], "127.10.0.1:4059/udp"),
            (&line, Protocol::Stream, &[], "serial:cabinet-7"),
        ] {
            let octets = to(destination, protocol, framing);
            assert_eq!(read(&octets).await.unwrap(), *destination);
            assert_eq!(destination.to_string(), text);
            let answer = answer(destination, Answer::Busy).unwrap();
            let answer = Header::try_from(answer.as_slice()).unwrap();
            assert_eq!(answer.addresses, addresses(destination));
        }
        for octets in [
            to(&hdlc, Protocol::Stream, &[2]),
            to(&hdlc, Protocol::Unspecified, &[]),
            to(&line, Protocol::Datagram, &[]),
            to(
                &Destination::Serial("a/b".to_owned()),
                Protocol::Stream,
                &[],
            ),
            to(&Destination::Serial(String::new()), Protocol::Stream, &[]),
        ] {
            assert!(matches!(
                read(&octets).await,
                Err(HeaderError::NoDestination)
            ));
        }
    }

    #[tokio::test]
    async fn refuses_what_names_no_destination() {
        let local = header(
            Command::Local,
            Protocol::Stream,
            "127.0.0.1:9",
            "127.10.0.1:4059",
        );
        assert!(matches!(
            read(&local).await,
            Err(HeaderError::NoDestination)
        ));
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
        let octets = answer(&tcp("127.10.0.1:4059", false), Answer::Unreachable).unwrap();
        let header = Header::try_from(octets.as_slice()).unwrap();
        let tlvs: Vec<_> = header.tlvs().map(Result::unwrap).collect();
        assert_eq!(
            (tlvs.len(), tlvs[0].kind, tlvs[0].value.as_ref()),
            (1, ANSWER_TLV, [2].as_slice())
        );
    }
}
