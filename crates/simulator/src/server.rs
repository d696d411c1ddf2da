//! The network edge of one meter: a TCP listener, one connection at a time, silence while it boots.
//!
//! A client that connects while another is served waits in the listener's backlog, as it would at a meter with one
//! socket. A reboot drops the connection and the listener: nothing answers until the communication board runs again.

use std::{net::SocketAddr, time::Duration};

use dlms::{
    ClientAccess, Conformance, Mechanism, MeterConfig, Request, SystemTitle, meter::Effect,
};
use kit::Shutdown;
use rand::Rng as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    Auth, Error, Event, FaultKind, Happening, MeterOptions,
    device::{Aftermath, Device},
    objects::{CONFORMANCE, MAX_PDU, View, respond},
    rtc,
};

/// A meter that has its address and waits to be run.
#[derive(Debug)]
pub struct MeterServer {
    address: SocketAddr,
    listener: TcpListener,
    options: MeterOptions,
    device: Device,
    made: Instant,
}

impl MeterServer {
    /// Makes the meter and binds its address.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::State`] or [`Error::BootSeconds`].
    pub async fn bind(options: MeterOptions) -> Result<Self, Error> {
        let host_ms = kit::clock::micros(kit::clock::now()) / 1000;
        let device = Device::new(&options, host_ms)?;
        let listener = listen(options.listen).await?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: options.listen,
            source,
        })?;
        Ok(Self {
            address,
            listener,
            options,
            device,
            made: Instant::now(),
        })
    }

    /// The address, with the port that was really bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Runs the meter until `shutdown` fires. Events go to a channel that must be read or dropped: a full one stops
    /// the meter until there is room.
    ///
    /// # Errors
    /// [`Error::Listen`] after a boot, or [`Error::State`].
    pub async fn run(self, events: mpsc::Sender<Event>, shutdown: Shutdown) -> Result<(), Error> {
        let mut running = Running {
            address: self.address,
            config: config(&self.options),
            idle: Duration::from_millis(self.options.idle_ms()),
            device: self.device,
            made: self.made,
            events,
            shutdown,
        };
        let outcome = running.run(self.listener).await;
        running.device.save()?;
        running.flush().await;
        outcome
    }
}

/// Makes a meter and runs it until `shutdown` fires.
///
/// # Errors
/// As [`MeterServer::bind`] and [`MeterServer::run`].
pub async fn run_meter(
    options: MeterOptions,
    events: mpsc::Sender<Event>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    MeterServer::bind(options)
        .await?
        .run(events, shutdown)
        .await
}

/// A meter at work.
struct Running {
    address: SocketAddr,
    config: MeterConfig,
    idle: Duration,
    device: Device,
    made: Instant,
    events: mpsc::Sender<Event>,
    shutdown: Shutdown,
}

/// One connection.
struct Link {
    stream: TcpStream,
    association: dlms::Meter,
    view: View,
    /// When the association wants to be told the time.
    timer: Option<u64>,
}

/// Why a connection ended, for the `disconnected` event.
type Reason = &'static str;

impl Running {
    async fn run(&mut self, first: TcpListener) -> Result<(), Error> {
        let mut listener = Some(first);
        self.tell_listening();
        while !self.shutdown.is_fired() {
            self.device.advance(self.now());
            self.flush().await;
            if self.device.is_silent() {
                listener = None;
                self.pause().await;
                continue;
            }
            let open = match listener.take() {
                Some(open) => open,
                None => {
                    let open = self.listen_again().await?;
                    self.tell_listening();
                    open
                }
            };
            tokio::select! {
                () = self.shutdown.fired() => {}
                () = sleep_until(self.due()) => {}
                accepted = open.accept() => match accepted {
                    Ok((stream, peer)) => self.connection(stream, peer).await?,
                    Err(error) => {
                        tracing::warn!(address = %self.address, %error, "accept failed");
                        sleep(REBIND_PAUSE).await; // out of file descriptors, most likely: do not spin
                    }
                },
            }
            listener = Some(open);
        }
        Ok(())
    }

    /// Waits for the next thing to happen by itself.
    async fn pause(&self) {
        tokio::select! {
            () = self.shutdown.fired() => {}
            () = sleep_until(self.due()) => {}
        }
    }

    /// Binds the address again after a boot; it may still be in use for a moment.
    async fn listen_again(&self) -> Result<TcpListener, Error> {
        for _ in 0..REBIND_TRIES {
            if self.shutdown.is_fired() {
                break;
            }
            if let Ok(listener) = listen(self.address).await {
                return Ok(listener);
            }
            sleep(REBIND_PAUSE).await;
        }
        listen(self.address).await
    }

    async fn connection(&mut self, stream: TcpStream, peer: SocketAddr) -> Result<(), Error> {
        self.device.tell(Happening::Connected {
            peer: peer.to_string(),
        });
        // answers are small and each is waited for
        stream.set_nodelay(true).ok();
        let association = dlms::Meter::new(self.config.clone(), challenge());
        let mut link = Link {
            stream,
            association,
            view: View::Public,
            timer: None,
        };
        let reason = if self.device.fault.strikes(FaultKind::StuckAssociation) {
            let shutdown = self.shutdown.clone();
            tokio::select! {
                () = shutdown.fired() => "shutdown",
                reason = self.refuse_stuck(&mut link) => reason,
            }
        } else {
            self.serve(&mut link).await?
        };
        drop(link);
        self.device.association_ended(self.now());
        self.device.tell(Happening::Disconnected { reason });
        self.device.tell_counters();
        self.flush().await;
        self.device.save()
    }

    async fn serve(&mut self, link: &mut Link) -> Result<Reason, Error> {
        let mut buffer = vec![0; READ_BUFFER];
        let mut idle_at = Instant::now() + self.idle;
        loop {
            if let Some(reason) = self.drain(link).await? {
                return Ok(reason);
            }
            self.flush().await;
            tokio::select! {
                () = self.shutdown.fired() => return Ok("shutdown"),
                () = sleep_until(self.due()) => self.device.advance(self.now()),
                () = sleep_until(idle_at) => return Ok("idle"),
                () = self.until(link.timer) => {
                    link.timer = None;
                    link.association.handle_timeout(self.now());
                }
                read = link.stream.read(&mut buffer) => {
                    self.device.advance(self.now());
                    match read.map(|count| buffer.get(..count).unwrap_or_default()) {
                        Ok([]) => return Ok("closed by the client"),
                        Ok(octets) => link.association.handle_bytes(self.now(), octets),
                        Err(_) => return Ok("broken"),
                    }
                    idle_at = Instant::now() + self.idle;
                }
            }
        }
    }

    /// Does all that the association wants done; then the reset it was asked for, whose answer is out by now.
    async fn drain(&mut self, link: &mut Link) -> Result<Option<Reason>, Error> {
        while let Some(effect) = link.association.poll() {
            let end = match effect {
                Effect::Transmit(frame) => self.transmit(link, &frame).await?,
                Effect::Cipher(job) => {
                    let result = self.device.cipher.run(job.op);
                    link.association.handle_cipher(self.now(), job.id, result);
                    None
                }
                Effect::Ask(request) => self.ask(link, &request),
                Effect::Event(event) => self.association_event(link, event),
                Effect::Timer(at) => {
                    link.timer = Some(at);
                    None
                }
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        let Some(tier) = self.device.take_accepted() else {
            return Ok(None);
        };
        let aftermath = self.device.reset(tier, self.now());
        self.device.save()?;
        Ok((aftermath == Aftermath::SessionGone).then_some("reset"))
    }

    /// Sends a frame. NVRAM is written first: no counter that was seen outside may ever be used again.
    async fn transmit(&mut self, link: &mut Link, frame: &[u8]) -> Result<Option<Reason>, Error> {
        self.device.save()?;
        let delay = Duration::from_millis(self.device.fault.delay_ms());
        if !delay.is_zero() {
            tokio::select! {
                () = self.shutdown.fired() => return Ok(Some("shutdown")),
                () = sleep(delay) => {}
            }
        }
        let written = timeout(WRITE_TIMEOUT, link.stream.write_all(frame)).await;
        Ok(if matches!(written, Ok(Ok(()))) {
            None
        } else {
            Some("broken")
        })
    }

    /// Serves one request.
    fn ask(&mut self, link: &mut Link, request: &Request) -> Option<Reason> {
        if let Some(reason) = self.lose_request(request) {
            return Some(reason);
        }
        let now = self.now();
        let response = respond(&mut self.device, link.view, request, now);
        if self.device.has_accepted() {
            let lost = self.device.fault.strikes(FaultKind::LostAck);
            if lost {
                self.device.tell(Happening::Dropped {
                    what: "answer",
                    why: "fault lost-ack".into(),
                });
            }
            if lost || self.device.fault.is(FaultKind::RebootBeforeAck) {
                let tier = self.device.take_accepted()?;
                self.device.reset(tier, now);
                return Some("reset");
            }
        }
        if link.association.answer(now, response).is_err() {
            return Some("out of step");
        }
        None
    }

    /// Plays a request that was lost on its way: the meter knows nothing of it, not even its counter.
    fn lose_request(&mut self, request: &Request) -> Option<Reason> {
        if !self.device.is_reset(request) || !self.device.fault.strikes(FaultKind::LostRequest) {
            return None;
        }
        self.device.cipher.unreceive();
        self.device.tell(Happening::Dropped {
            what: "request",
            why: "fault lost-request".into(),
        });
        Some("link lost")
    }

    fn association_event(&mut self, link: &mut Link, event: dlms::meter::Event) -> Option<Reason> {
        use dlms::meter::Event;
        let (outcome, client_sap, detail) = match event {
            Event::Opened {
                client_sap,
                client_title,
                mechanism,
            } => {
                self.device.cipher.open();
                link.association.refill(challenge());
                link.view = if client_sap == PUBLIC_SAP {
                    View::Public
                } else {
                    View::Management
                };
                let title =
                    client_title.map_or_else(|| "none".to_owned(), |title| title.to_string());
                (
                    "opened",
                    client_sap,
                    format!("{mechanism:?}, client system title {title}"),
                )
            }
            Event::Refused { client_sap, why } => {
                link.association.refill(challenge());
                ("refused", client_sap, why.to_owned())
            }
            Event::Released => {
                self.device.association_ended(self.now());
                link.association.refill(challenge());
                ("released", 0, String::new())
            }
            Event::Confirmed(_) => return None,
            Event::NotDeciphered(failure) => {
                self.device.tell(Happening::Dropped {
                    what: "request",
                    why: failure.to_string(),
                });
                return None;
            }
            Event::Failed(error) => {
                self.device.tell(Happening::Dropped {
                    what: "frame",
                    why: error.to_string(),
                });
                return Some("not DLMS");
            }
        };
        self.device.tell(Happening::Association {
            outcome,
            client_sap,
            detail,
        });
        None
    }

    /// Plays a meter whose old association was never released: any request is not allowed now.
    async fn refuse_stuck(&mut self, link: &mut Link) -> Reason {
        let mut header = [0; 8];
        if !self.read_exact(link, &mut header).await {
            return "closed by the client";
        }
        let [_, _, a, b, c, d, high, low] = header;
        // octets left unread would turn the close into a reset, and the answer would be lost
        let mut apdu = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        if !self.read_exact(link, &mut apdu).await {
            return "closed by the client";
        }
        // the ports swapped; exception-response, service-not-allowed, operation-not-possible
        let answer = [0, 1, c, d, a, b, 0, 3, 0xD8, 1, 1];
        link.stream.write_all(&answer).await.ok();
        self.device.tell(Happening::Association {
            outcome: "refused",
            client_sap: u16::from_be_bytes([a, b]),
            detail: "fault stuck-association: an old association is still open".into(),
        });
        "stuck association"
    }

    async fn read_exact(&self, link: &mut Link, octets: &mut [u8]) -> bool {
        matches!(
            timeout(self.idle, link.stream.read_exact(octets)).await,
            Ok(Ok(_))
        )
    }

    /// Milliseconds since the meter was made.
    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for a time, for ever if there is none.
    async fn until(&self, at: Option<u64>) {
        match at {
            Some(at) => sleep_until(self.made + Duration::from_millis(at)).await,
            None => std::future::pending().await,
        }
    }

    /// When the device wants to be advanced.
    fn due(&self) -> Instant {
        self.made + Duration::from_millis(self.device.due(self.now()))
    }

    fn tell_listening(&mut self) {
        let profile = self.device.profile.name();
        self.device.tell(Happening::Listening {
            address: self.address.to_string(),
            profile,
        });
    }

    /// Hands over what happened. A laboratory that went away does not stop the meter.
    async fn flush(&mut self) {
        let time = rtc::rfc3339(self.device.rtc.host(self.now()));
        for what in self.device.take_happened() {
            let event = Event {
                time: time.clone(),
                meter: self.address.to_string(),
                what,
            };
            tokio::select! {
                biased;
                _gone = self.events.send(event) => {}
                () = self.shutdown.fired() => {}
            }
        }
    }
}

fn config(options: &MeterOptions) -> MeterConfig {
    let plain = |mechanism| {
        let password = options.lab_keys.password().to_vec();
        ClientAccess::plain(MANAGEMENT_SAP, mechanism, password)
    };
    let (management, conformance) = match options.auth {
        Auth::None => (plain(Mechanism::None), CONFORMANCE),
        Auth::Low => (plain(Mechanism::Low), CONFORMANCE),
        Auth::Hls5 => (
            ClientAccess::ciphered(MANAGEMENT_SAP, Mechanism::HlsGmac, Vec::new()),
            CONFORMANCE | Conformance::GENERAL_PROTECTION,
        ),
    };
    let public = ClientAccess::plain(PUBLIC_SAP, Mechanism::None, Vec::new());
    let title = SystemTitle::new(options.lab_keys.server_system_title());
    MeterConfig {
        max_pdu: MAX_PDU,
        conformance,
        ..MeterConfig::new(title, vec![management, public])
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// A fresh challenge StoC: 16 octets keep the AARE below 128, which some clients need.
fn challenge() -> Vec<u8> {
    let mut challenge = vec![0; 16];
    rand::rng().fill_bytes(&mut challenge);
    challenge
}

const MANAGEMENT_SAP: u16 = 1;
const PUBLIC_SAP: u16 = 16;
const READ_BUFFER: usize = 2048;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const REBIND_TRIES: u32 = 50;
const REBIND_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
