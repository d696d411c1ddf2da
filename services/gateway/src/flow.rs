//! One open connection: whole units of its framing, both ways, until an end, a limit, or the allowlist stops it.

use std::{io, net::IpAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{
    config::Limits,
    destination::Destination,
    dial::Line,
    drops::Cause,
    metrics,
    pdu::{Framing, Units},
    relay::{Relay, abort},
};

/// How much is read at once.
const READ: usize = 4096;

pub(crate) struct Flow<'a> {
    relay: &'a Relay,
    source: IpAddr,
    destination: Destination,
    to_meter: Way,
    to_source: Way,
    clocks: Clocks,
}

/// One direction.
struct Way {
    name: &'static str,
    units: Units,
    whole: u64,
    /// When the unit that is not whole yet began.
    partial_since: Option<Instant>,
}

/// When what runs out.
struct Clocks {
    pdu: Duration,
    idle: Duration,
    first_octet_by: Option<Instant>,
    idle_at: Instant,
    lifetime_at: Instant,
}

/// Who ended it, and in order or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The meter closed or broke the connection.
    Meter,
    /// The association closed it.
    Source,
    /// The association broke it.
    SourceBroke,
    /// Nothing passed for too long.
    Idle,
    /// It was open for too long.
    Lifetime,
    /// The gateway is going down.
    Shutdown,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(relay: &'a Relay, source: IpAddr, destination: Destination) -> Self {
        let limits = &relay.config.limits;
        let way = |name, framing: Framing| Way {
            name,
            units: Units::new(framing, limits.max_pdu),
            whole: 0,
            partial_since: None,
        };
        let (to_meter, to_source) = destination.framings();
        Self {
            relay,
            source,
            destination,
            to_meter: way("to_meter", to_meter),
            to_source: way("to_source", to_source),
            clocks: Clocks::new(limits),
        }
    }

    pub(crate) async fn run(
        mut self,
        mut tls: TlsStream<TcpStream>,
        mut meter: Box<dyn Line>,
    ) -> Result<(), Cause> {
        let end = self.pass(&mut tls, &mut meter).await;
        tracing::debug!(
            source = %self.source, destination = %self.destination,
            to_meter = self.to_meter.whole, to_source = self.to_source.whole, ?end, "relayed connection ended",
        );
        match end {
            Ok(End::Meter) => {
                let patience = self.clocks.pdu;
                if !matches!(timeout(patience, tls.shutdown()).await, Ok(Ok(()))) {
                    abort(&tls);
                }
            }
            // Dropping the socket sends FIN: the association hung up.
            Ok(End::Source) => {}
            Ok(End::SourceBroke | End::Idle | End::Lifetime | End::Shutdown) | Err(_) => {
                abort(&tls);
                meter.abort();
            }
        }
        end.map(drop)
    }

    async fn pass(
        &mut self,
        tls: &mut TlsStream<TcpStream>,
        meter: &mut Box<dyn Line>,
    ) -> Result<End, Cause> {
        let mut list = self.relay.list.clone();
        let (mut up, mut down) = (vec![0; READ], vec![0; READ]);
        // The list may have changed between the look-up and here.
        list.mark_changed();
        loop {
            let deadline = self
                .clocks
                .next(self.to_meter.partial_since, self.to_source.partial_since);
            tokio::select! {
                read = tls.read(&mut up) => match read {
                    Ok(0) => return Ok(End::Source),
                    Ok(count) => {
                        self.clocks.first_octet_by = None;
                        let octets = up.get(..count).unwrap_or_default();
                        if self.to_meter.forward(octets, meter, &mut self.clocks, Cause::SourceGarbage).await?.is_err() {
                            return Ok(End::Meter);
                        }
                    }
                    Err(_) => return Ok(End::SourceBroke),
                },
                read = meter.read(&mut down) => match read {
                    Ok(0) | Err(_) => return Ok(End::Meter),
                    Ok(count) => {
                        let octets = down.get(..count).unwrap_or_default();
                        if self.to_source.forward(octets, tls, &mut self.clocks, Cause::MeterGarbage).await?.is_err() {
                            return Ok(End::SourceBroke);
                        }
                    }
                },
                () = sleep_until(deadline) => return self.clocks.ran_out(),
                // At shutdown the feed ends before us; then nothing changes any more.
                Ok(()) = list.changed() => {
                    let listed = list.borrow_and_update().as_ref().is_some_and(|list| {
                        let meter = self.destination.address();
                        list.allows_source(self.source) && meter.is_none_or(|meter| list.allows_meter(meter.ip()))
                    });
                    if !listed {
                        return Err(Cause::Revoked);
                    }
                }
                () = self.relay.cut.fired() => return Ok(End::Shutdown),
            }
        }
    }
}

impl Way {
    /// Takes octets in and sends on what is whole. The inner error is that of the other side's socket.
    async fn forward(
        &mut self,
        octets: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
        clocks: &mut Clocks,
        garbage: Cause,
    ) -> Result<io::Result<()>, Cause> {
        let now = Instant::now();
        clocks.idle_at = now + clocks.idle;
        self.units.push(octets);
        let (whole, count) = self.units.take_whole().map_err(|_| garbage)?;
        if !whole.is_empty() {
            metrics::pdus(self.name, count);
            self.whole = self.whole.saturating_add(count);
            self.partial_since = None;
            let send = async {
                to.write_all(&whole).await?;
                to.flush().await
            };
            let sent = timeout(clocks.pdu, send)
                .await
                .map_err(|_| Cause::TooSlow)?;
            if sent.is_err() {
                return Ok(sent);
            }
        }
        if self.units.is_partial() {
            self.partial_since.get_or_insert(now);
        }
        Ok(Ok(()))
    }
}

impl Clocks {
    fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let idle = Duration::from_millis(limits.idle_timeout_ms);
        Self {
            pdu: Duration::from_millis(limits.pdu_timeout_ms),
            idle,
            first_octet_by: Some(now + Duration::from_millis(limits.first_octet_timeout_ms)),
            idle_at: now + idle,
            lifetime_at: now + Duration::from_secs(limits.lifetime_seconds),
        }
    }

    /// The earliest of all.
    fn next(&self, up: Option<Instant>, down: Option<Instant>) -> Instant {
        let partial = [up, down]
            .into_iter()
            .flatten()
            .map(|since| since + self.pdu);
        partial
            .chain(self.first_octet_by)
            .chain([self.idle_at])
            .fold(self.lifetime_at, Instant::min)
    }

    /// Which of them was that.
    fn ran_out(&self) -> Result<End, Cause> {
        let now = Instant::now();
        if now >= self.lifetime_at {
            Ok(End::Lifetime)
        } else if now >= self.idle_at {
            Ok(End::Idle)
        } else {
            Err(Cause::TooSlow)
        }
    }
}
