//! The way to a meter: TLS to the gateway, a PROXY protocol v2 header that names the meter, the gateway's answer, and
//! then the meter's octets.
//!
//! The answer is a header of the same form with one TLV, type `E0`, one octet: 0 connected, 1 refused, 2 unreachable
//! (the gateway's `proxy.rs` is the other half). After it, an orderly end (close_notify) means that the meter
//! closed; any other end is the gateway's, or the network's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kit::{StartError, config::Tls};
use ppp::v2::{Builder, Command, Header, Protocol, Version};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

use crate::{config, error::Error};

/// An open way to a meter.
pub(crate) type Link = TlsStream<TcpStream>;

const ANSWER_TLV: u8 = 0xE0;
const FIXED: usize = 16;
const REST_MAX: usize = 256;

/// The gateway, as seen from here.
#[derive(Clone)]
pub(crate) struct Gateway {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
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
            tls: kit::tls::client_config(tls, &config.peer)?,
            patience,
        })
    }

    /// Connects to a meter.
    pub(crate) async fn connect(&self, meter_id: &str, meter: SocketAddr) -> Result<Link, Error> {
        let tls = timeout(self.patience, self.greet()).await;
        let mut tls =
            tls.map_err(|_| Error::GatewayUnreachable("it did not answer in time".to_owned()))??;
        let unreachable = |cause: &str| Error::MeterUnreachable {
            meter_id: meter_id.to_owned(),
            cause: cause.to_owned(),
        };
        match timeout(self.patience, ask(&mut tls, meter)).await {
            Err(_) => Err(unreachable("the gateway did not get through in time")),
            // TLS 1.3: a server that refuses our certificate says so only now.
            Ok(Err(error)) => Err(Error::GatewayRefused(format!(
                "it closed the connection ({error})"
            ))),
            Ok(Ok(0)) => Ok(tls),
            Ok(Ok(1)) => Err(Error::GatewayRefused(format!(
                "meter address {meter} is not in its allowlist, or its port is not allowed"
            ))),
            Ok(Ok(2)) => Err(unreachable("it does not accept connections")),
            Ok(Ok(other)) => Err(Error::GatewayUnreachable(format!(
                "it gave the unknown answer {other}"
            ))),
        }
    }

    async fn greet(&self) -> Result<Link, Error> {
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

    async fn shake_hands(&self) -> io::Result<Link> {
        let tcp = TcpStream::connect(self.address).await?;
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(self.tls.clone())
            .connect(name, tcp)
            .await
    }
}

/// Names the meter; the gateway's answer.
async fn ask(tls: &mut Link, meter: SocketAddr) -> io::Result<u8> {
    let unspecified = match meter {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let addresses = (SocketAddr::new(unspecified, 0), meter);
    let header =
        Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses)
            .build()?;
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
