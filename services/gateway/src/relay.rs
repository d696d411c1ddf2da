//! The relay port.
//!
//! ```text
//!  SYN ─▶ source listed? ─▶ TLS 1.3, certificate ─▶ name in relay.peers? ─▶ PROXY header ─▶ destination and port
//!         (else RST)        of the trust domain                                            listed, or the serial
//!                                                                                          line known? ─▶ dial ─▶ PDUs
//! ```
//! Nothing is read from a source that is not listed, and nothing is dialled that is not listed. Every step has a
//! time limit; every refusal is counted. An end that the gateway makes is abrupt (RST, no TLS close_notify); the
//! orderly end is kept for "the meter closed", so that the association can tell them apart.

use std::{net::IpAddr, sync::Arc, time::Duration};

use kit::{Shutdown, Tasks, config::Tls, tls::Acceptor};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{
    config,
    datagrams::Datagrams,
    destination::Destination,
    dial::{self, Line, Lines, NoLine},
    drops::{Cause, Drops},
    feed::{Current, Fresh},
    flow::Flow,
    limits::{Place, Places},
    metrics,
    proxy::{Answer, answer, read_destination},
};

/// What every connection shares.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) config: Arc<config::Relay>,
    pub(crate) tls: Acceptor,
    pub(crate) trust_domain: Arc<str>,
    pub(crate) list: Current,
    pub(crate) fresh: Fresh,
    pub(crate) drops: Drops,
    pub(crate) places: Places,
    pub(crate) lines: Lines,
    /// Ends the connections that outlive the drain.
    pub(crate) cut: Shutdown,
}

/// A connection that was not let through: why, and what it asked for.
pub(crate) struct Refusal {
    cause: Cause,
    example: String,
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            example: String::new(),
        }
    }
}

/// A source that is through, and the meter it asked for.
struct Ready {
    tls: TlsStream<TcpStream>,
    meter: Box<dyn Line>,
    destination: Destination,
}

impl Relay {
    pub(crate) fn new(
        config: config::Relay,
        lines: Lines,
        tls: &Tls,
        (list, fresh): (Current, Fresh),
        drops: Drops,
        cut: Shutdown,
    ) -> Result<Self, kit::StartError> {
        Ok(Self {
            lines,
            places: Places::new(
                config.limits.connections,
                config.limits.connections_per_source,
            ),
            config: Arc::new(config),
            tls: Acceptor::new(tls)?,
            trust_domain: tls.trust_domain.as_str().into(),
            list,
            fresh,
            drops,
            cut,
        })
    }

    /// Accepts until shutdown.
    pub(crate) async fn accept(self, listener: TcpListener, tasks: Tasks) {
        let shutdown = tasks.shutdown().clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.fired() => return,
            };
            match accepted {
                Ok((tcp, source)) => self.admit(tcp, source.ip().to_canonical(), &tasks),
                Err(error) => {
                    // Out of file descriptors, mostly: going on at once would only spin.
                    tracing::error!(%error, "cannot accept");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Before anything is read.
    fn admit(&self, tcp: TcpStream, source: IpAddr, tasks: &Tasks) {
        match self.place_for(source) {
            Ok(place) => {
                let relay = self.clone();
                tasks.spawn(
                    "relay",
                    async move { relay.serve(tcp, source, place).await },
                );
            }
            Err(cause) => {
                self.drops.count(source, cause, "");
                reset(tcp);
            }
        }
    }

    fn place_for(&self, source: IpAddr) -> Result<Place, Cause> {
        match self.list.borrow().as_ref() {
            None => Err(Cause::ListExpired),
            Some(list) if !list.allows_source(source) => Err(Cause::SourceNotListed),
            Some(_) => self.places.take(source),
        }
    }

    async fn serve(self, tcp: TcpStream, source: IpAddr, _place: Place) {
        let open = metrics::Open::begin();
        let passed = self.pass(tcp, source).await;
        open.end(passed.is_ok());
        if let Err(refusal) = passed {
            self.drops.count(source, refusal.cause, &refusal.example);
        }
    }

    async fn pass(&self, tcp: TcpStream, source: IpAddr) -> Result<(), Refusal> {
        let ready = tokio::select! {
            ready = self.prepare(tcp) => ready?,
            () = self.cut.fired() => None,
        };
        let Some(Ready {
            tls,
            meter,
            destination,
        }) = ready
        else {
            return Ok(());
        };
        let flow = Flow::new(self, source, destination.clone());
        flow.run(tls, meter)
            .await
            .map_err(|cause| refusal(cause, &destination))
    }

    /// Everything up to the first PDU; `None` if it ends there and nobody is to blame.
    async fn prepare(&self, tcp: TcpStream) -> Result<Option<Ready>, Refusal> {
        let limits = &self.config.limits;
        let patience = Duration::from_millis(limits.first_octet_timeout_ms);
        let (mut tls, destination) = timeout(patience, self.greet(tcp))
            .await
            .map_err(|_| Cause::TooSlow)??;
        if self.may_reach(&destination) == Err(Cause::DestinationNotListed) {
            self.fresh.wait().await;
        }
        if let Err(cause) = self.may_reach(&destination) {
            self.say(&mut tls, &destination, Answer::Refused).await;
            return Err(refusal(cause, &destination));
        }
        let patience = Duration::from_millis(limits.connect_timeout_ms);
        let dialled = timeout(patience, self.dial(&destination)).await;
        match dialled.unwrap_or(Err(Answer::Unreachable)) {
            Ok(meter) => {
                let told = self.say(&mut tls, &destination, Answer::Connected).await;
                Ok(told.then_some(Ready {
                    tls,
                    meter,
                    destination,
                }))
            }
            Err(answer) => {
                tracing::info!(%destination, ?answer, "the meter did not accept a connection");
                self.say(&mut tls, &destination, answer).await;
                Ok(None)
            }
        }
    }

    /// Opens the way to a meter that may be reached.
    async fn dial(&self, destination: &Destination) -> Result<Box<dyn Line>, Answer> {
        let unreachable = |error: std::io::Error| {
            tracing::info!(%destination, %error, "cannot be dialled");
            Answer::Unreachable
        };
        match destination {
            Destination::Tcp { address, .. } => {
                let meter = TcpStream::connect(address).await.map_err(unreachable)?;
                Ok(Box::new(meter))
            }
            Destination::Udp(address) => {
                let socket = dial::udp(*address).await.map_err(unreachable)?;
                let max_pdu = self.config.limits.max_pdu;
                let drops = self.drops.clone();
                Ok(Box::new(Datagrams::new(
                    socket,
                    max_pdu,
                    address.ip(),
                    drops,
                )))
            }
            Destination::Serial(name) => match self.lines.open(name) {
                Ok(line) => Ok(Box::new(line)),
                Err(NoLine::Busy) => Err(Answer::Busy),
                Err(NoLine::Device(error)) => Err(unreachable(error)),
            },
        }
    }

    /// TLS, the peer's name, the PROXY header.
    async fn greet(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Destination), Refusal> {
        // Requests and answers are small and wait for each other.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let mut tls = self.tls.accept(tcp).await.map_err(|error| Refusal {
            cause: Cause::Tls,
            example: error.to_string(),
        })?;
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = kit::tls::peer_of(certificates, &self.trust_domain);
        let peer = peer.map_err(|error| Refusal {
            cause: Cause::Tls,
            example: error.to_string(),
        })?;
        if !self.config.peers.contains(&peer) {
            abort(&tls);
            return Err(Refusal {
                cause: Cause::PeerNotAllowed,
                example: peer.to_string(),
            });
        }
        match read_destination(&mut tls).await {
            Ok(destination) => Ok((tls, destination)),
            Err(error) => {
                abort(&tls);
                Err(Refusal {
                    cause: Cause::Header,
                    example: error.to_string(),
                })
            }
        }
    }

    /// Whether this meter may be dialled, by the list in force and the lines that are configured.
    fn may_reach(&self, destination: &Destination) -> Result<(), Cause> {
        let list = self.list.borrow();
        let Some(list) = list.as_ref() else {
            return Err(Cause::ListExpired);
        };
        match destination {
            Destination::Serial(name) if self.lines.knows(name) => Ok(()),
            Destination::Serial(_) => Err(Cause::LineUnknown),
            Destination::Tcp { address, .. } | Destination::Udp(address) => {
                if !list.allows_meter(address.ip()) {
                    Err(Cause::DestinationNotListed)
                } else if !self.config.allows_port(address.port()) {
                    Err(Cause::PortNotAllowed)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Answers the PROXY header; after any answer but [`Answer::Connected`] the connection ends in order.
    /// Whether the answer went out.
    async fn say(
        &self,
        tls: &mut TlsStream<TcpStream>,
        destination: &Destination,
        what: Answer,
    ) -> bool {
        let send = async {
            tls.write_all(&answer(destination, what)?).await?;
            if what == Answer::Connected {
                tls.flush().await
            } else {
                tls.shutdown().await
            }
        };
        let patience = Duration::from_millis(self.config.limits.pdu_timeout_ms);
        match timeout(patience, send).await {
            Ok(Ok(())) => true,
            failed => {
                tracing::debug!(?failed, "the source did not take the answer");
                false
            }
        }
    }
}

fn refusal(cause: Cause, destination: &Destination) -> Refusal {
    Refusal {
        cause,
        example: format!("to {destination}"),
    }
}

/// Closes with RST instead of FIN: nothing is left waiting, on either side.
pub(crate) fn reset(tcp: TcpStream) {
    if let Err(error) = tcp.set_zero_linger() {
        tracing::debug!(%error, "no RST");
    }
}

/// Makes the close of a TLS connection, which follows, a RST.
pub(crate) fn abort(tls: &TlsStream<TcpStream>) {
    if let Err(error) = tls.get_ref().0.set_zero_linger() {
        tracing::debug!(%error, "no RST");
    }
}
