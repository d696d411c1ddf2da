//! The way to a meter: TLS to the gateway, a PROXY protocol v2 header that names the meter, the gateway's answer, and
//! then the meter's octets.
//!
//! The header names a host and port (STREAM for TCP, with a TLV of type `E1` for HDLC; DGRAM for UDP), or a serial line
//! of the gateway (family UNIX). The answer is a header of the same form with one TLV, type `E0`, one octet: 0 connected,
//! 1 refused, 2 unreachable, 3 busy (the gateway's `proxy.rs` is the other half). After it, an orderly end
//! (close_notify) means that the meter closed; any other end is the gateway's, or the network's.
//!
//! Datagrams travel behind their length, two octets, big-endian.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use kit::{StartError, config::Tls, tls::Connector};
use ppp::v2::{Addresses, Builder, Command, Header, Protocol, Unix, Version};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{client::TlsStream, rustls::pki_types::ServerName};

use crate::{
    config,
    directory::{Address, Transport},
    error::Error,
};

const ANSWER_TLV: u8 = 0xE0;
const FRAMING_TLV: u8 = 0xE1;
const HDLC: u8 = 1;
const FIXED: usize = 16;
const REST_MAX: usize = 256;
/// Octets of an address of the family UNIX.
const UNIX: usize = 108;
/// Octets of the length before a datagram.
const PREFIX: usize = 2;
/// How much of a stream of datagrams is read at once.
const CHUNK: usize = 4096;

/// An open way to a meter.
pub(crate) struct Link {
    tls: Tunnel,
    /// Over UDP: what came and is no whole datagram yet.
    datagrams: Option<Datagrams>,
}

type Tunnel = TlsStream<TcpStream>;

impl Link {
    fn new(tls: Tunnel, transport: Transport) -> Self {
        let datagrams = matches!(transport, Transport::Udp).then(Datagrams::default);
        Self { tls, datagrams }
    }

    /// Reads octets as they come, over UDP one datagram; 0 when the meter has closed. Safe to drop before it is ready.
    /// A datagram that is longer than `room` is dropped.
    pub(crate) async fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Some(datagrams) = &mut self.datagrams else {
            return self.tls.read(room).await;
        };
        loop {
            if let Some(count) = datagrams.take(room) {
                return Ok(count);
            }
            match self.tls.read(&mut datagrams.chunk).await? {
                0 => return Ok(0),
                count => datagrams.push(count),
            }
        }
    }

    /// Writes one frame or datagram.
    pub(crate) async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.datagrams.is_some() {
            let length = u16::try_from(frame.len()).map_err(io::Error::other)?;
            self.tls.write_all(&length.to_be_bytes()).await?;
        }
        self.tls.write_all(frame).await?;
        self.tls.flush().await
    }

    /// Ends it in order.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.tls.shutdown().await
    }
}

/// Datagrams behind their lengths, out of a stream.
struct Datagrams {
    held: Vec<u8>,
    chunk: Vec<u8>,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            chunk: vec![0; CHUNK],
        }
    }
}

impl Datagrams {
    /// Takes in so many octets of the chunk.
    fn push(&mut self, count: usize) {
        let octets = self.chunk.get(..count).unwrap_or_default();
        self.held.extend_from_slice(octets);
    }

    /// The next whole datagram that fits the room; its length.
    fn take(&mut self, room: &mut [u8]) -> Option<usize> {
        loop {
            let (prefix, rest) = self.held.split_first_chunk::<PREFIX>()?;
            let length = usize::from(u16::from_be_bytes(*prefix));
            let datagram = rest.get(..length)?;
            let place = room.get_mut(..length);
            let fits = place.map(|place| place.copy_from_slice(datagram)).is_some();
            self.held.drain(..length.saturating_add(PREFIX));
            if fits && length > 0 {
                return Some(length);
            }
            tracing::debug!(length, "a datagram that is too long for us is dropped");
        }
    }
}

/// The gateway, as seen from here.
#[derive(Clone)]
pub(crate) struct Gateway {
    address: SocketAddr,
    tls: Connector,
    patience: Duration,
}

impl Gateway {
    pub(crate) fn new(
        config: &config::Gateway,
        tls: &Tls,
        patience: Duration,
    ) -> Result<Self, StartError> {
        Ok(Self {
            address: config.address,
            tls: Connector::new(tls, &config.peer)?,
            patience,
        })
    }

    /// Connects to a meter.
    pub(crate) async fn connect(
        &self,
        meter_id: &str,
        address: &Address,
        transport: Transport,
    ) -> Result<Link, Error> {
        let tls = timeout(self.patience, self.greet()).await;
        let mut tls =
            tls.map_err(|_| Error::GatewayUnreachable("it did not answer in time".to_owned()))??;
        let unreachable = |cause: &str| Error::MeterUnreachable {
            meter_id: meter_id.to_owned(),
            cause: cause.to_owned(),
        };
        match timeout(self.patience, ask(&mut tls, address, transport)).await {
            Err(_) => Err(unreachable("the gateway did not get through in time")),
            // TLS 1.3: a server that refuses our certificate says so only now.
            Ok(Err(error)) => Err(Error::GatewayRefused(format!(
                "it closed the connection ({error})"
            ))),
            Ok(Ok(0)) => Ok(Link::new(tls, transport)),
            Ok(Ok(1)) => Err(Error::GatewayRefused(match address {
                Address::Ip(address) => format!(
                    "meter address {address} is not in its allowlist, or its port is not allowed"
                ),
                Address::Serial(name) => {
                    format!(
                        "its configuration has no serial line {name}, or its allowlist has expired"
                    )
                }
            })),
            Ok(Ok(2)) => Err(unreachable(match address {
                Address::Ip(_) => "it does not accept connections",
                Address::Serial(_) => "the gateway cannot open the device of its serial line",
            })),
            Ok(Ok(3)) => Err(unreachable("another connection has its serial line")),
            Ok(Ok(other)) => Err(Error::GatewayUnreachable(format!(
                "it gave the unknown answer {other}"
            ))),
        }
    }

    async fn greet(&self) -> Result<Tunnel, Error> {
        self.shake_hands()
            .await
            .map_err(|error| match error.kind() {
                // What an unlisted source gets, and one too many: RST, before a word was said.
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected => Error::GatewayReset(error.to_string()),
                _ => Error::GatewayUnreachable(format!("{}: {error}", self.address)),
            })
    }

    async fn shake_hands(&self) -> io::Result<Tunnel> {
        let tcp = TcpStream::connect(self.address).await?;
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let name = ServerName::IpAddress(self.address.ip().into());
        self.tls.connect(name, tcp).await
    }
}

/// Names the meter; the gateway's answer.
async fn ask(tls: &mut Tunnel, address: &Address, transport: Transport) -> io::Result<u8> {
    let header = header(address, transport)?;
    tls.write_all(&header).await?;
    tls.flush().await?;
    let mut answer = vec![0_u8; FIXED];
    tls.read_exact(&mut answer).await?;
    let length = match answer.as_slice() {
        [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    if length > REST_MAX {
        return Err(io::Error::other("its answer is no PROXY header"));
    }
    answer.resize(FIXED.saturating_add(length), 0);
    tls.read_exact(answer.get_mut(FIXED..).unwrap_or_default())
        .await?;
    verdict(&answer).ok_or_else(|| io::Error::other("its answer is no PROXY header with an answer"))
}

fn verdict(answer: &[u8]) -> Option<u8> {
    let header = Header::try_from(answer).ok()?;
    header
        .tlvs()
        .flatten()
        .find(|tlv| tlv.kind == ANSWER_TLV)
        .and_then(|tlv| match *tlv.value {
            [octet] => Some(octet),
            _ => None,
        })
}

/// The header that names a meter.
fn header(address: &Address, transport: Transport) -> io::Result<Vec<u8>> {
    let protocol = match transport {
        Transport::Tcp | Transport::Hdlc(_) => Protocol::Stream,
        Transport::Udp => Protocol::Datagram,
    };
    let builder = Builder::with_addresses(
        Version::Two | Command::Proxy,
        protocol,
        destination(address)?,
    );
    match (address, transport) {
        (Address::Ip(_), Transport::Hdlc(_)) => builder.write_tlv(FRAMING_TLV, &[HDLC])?.build(),
        // A serial line has HDLC and nothing else.
        (Address::Serial(_), Transport::Hdlc(_))
        | (Address::Ip(_), Transport::Tcp | Transport::Udp) => builder.build(),
        (Address::Serial(_), Transport::Tcp | Transport::Udp) => {
            Err(io::Error::other("a serial line carries HDLC only"))
        }
    }
}

fn destination(address: &Address) -> io::Result<Addresses> {
    match address {
        Address::Ip(meter) => {
            let unspecified = match meter {
                SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            Ok((SocketAddr::new(unspecified, 0), *meter).into())
        }
        Address::Serial(name) => {
            let mut path = [0; UNIX];
            path.get_mut(..name.len())
                .filter(|_| name.len() < UNIX)
                .ok_or_else(|| io::Error::other("the name of a serial line is too long"))?
                .copy_from_slice(name.as_bytes());
            Ok(Unix::new([0; UNIX], path).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Hdlc;

    fn hdlc() -> Transport {
        Transport::Hdlc(Hdlc {
            address_octets: 1,
            physical_address: 0,
            max_information: 128,
            window: 1,
        })
    }

    /// What the gateway reads of it.
    fn read(address: &str, transport: Transport) -> (Protocol, Addresses, Option<Vec<u8>>) {
        let octets = header(&Address::parse(address).unwrap(), transport).unwrap();
        let header = Header::try_from(octets.as_slice()).unwrap();
        assert_eq!(header.command, Command::Proxy);
        let framing = header
            .tlvs()
            .flatten()
            .find(|tlv| tlv.kind == FRAMING_TLV)
            .map(|tlv| tlv.value.into_owned());
        (header.protocol, header.addresses, framing)
    }

    #[test]
    fn each_kind_of_meter_is_named_in_its_own_way() {
        let ip: Addresses = (
            "0.0.0.0:0".parse::<SocketAddr>().unwrap(),
            "127.10.0.1:4059".parse::<SocketAddr>().unwrap(),
        )
            .into();
        let stream = Protocol::Stream;
        assert_eq!(read("127.10.0.1:4059", Transport::Tcp), (stream, ip, None));
        assert_eq!(
            read("127.10.0.1:4059", Transport::Udp),
            (Protocol::Datagram, ip, None)
        );
        assert_eq!(
            read("127.10.0.1:4059", hdlc()),
            (stream, ip, Some(vec![HDLC]))
        );
        let (protocol, addresses, framing) = read("serial:cabinet-7", hdlc());
        assert_eq!((protocol, framing), (stream, None));
        let Addresses::Unix(unix) = addresses else {
            panic!("{addresses:?}")
        };
        assert_eq!(&unix.destination[..10], b"cabinet-7\0");
        let line = Address::parse("serial:cabinet-7").unwrap();
        assert!(header(&line, Transport::Tcp).is_err());
    }

    #[test]
    fn datagrams_come_whole_and_one_at_a_time() {
        let mut datagrams = Datagrams::default();
        let stream = [
            &[0, 3, 1, 2, 3][..],
            &[0, 9],
            &[9; 9],
            &[0, 1, 7],
            &[0, 2, 8],
        ]
        .concat();
        let mut room = [0; 4];
        let mut seen = vec![];
        for part in stream.chunks(4) {
            datagrams.chunk[..part.len()].copy_from_slice(part);
            datagrams.push(part.len());
            while let Some(count) = datagrams.take(&mut room) {
                seen.push(room[..count].to_vec());
            }
        }
        // The one of nine octets is too long; the last is not whole.
        assert_eq!(seen, [vec![1, 2, 3], vec![7]]);
    }
}
