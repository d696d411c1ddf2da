//! The network edge of one meter: what it listens on, what it serves, and silence while it boots.
//!
//! Over a stream (TCP, a serial line) it serves one client at a time; a client that connects while another is served waits
//! in the listener's backlog, as it would at a meter with one socket. Over UDP every client address has an association of
//! its own. A reboot drops all of them: nothing answers until the communication board runs again.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use dlms::{LinkConfig, MeterConfig};
use kit::Shutdown;
use rand::Rng as _;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{Error, Event, Happening, MeterOptions, Notify, Transport, device::Device, rtc};

mod bend;
mod datagram;
mod notify;
mod serial;
mod session;
mod stream;

/// A meter that has its address and waits to be run.
#[derive(Debug)]
pub struct MeterServer {
    name: String,
    address: SocketAddr,
    ear: Ear,
    options: MeterOptions,
    device: Device,
    made: Instant,
}

/// What a meter listens on.
#[derive(Debug)]
enum Ear {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Serial(serial::Line),
}

impl MeterServer {
    /// Makes the meter and binds its address, or opens its serial line.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Serial`], [`Error::State`], [`Error::BootSeconds`], or [`Error::Options`] if the
    /// options do not go together.
    pub async fn bind(options: MeterOptions) -> Result<Self, Error> {
        options.check()?;
        let host_ms = kit::clock::micros(kit::clock::now()) / 1000;
        let device = Device::new(&options, host_ms)?;
        let ear = match &options.transport {
            Transport::Tcp | Transport::Hdlc => Ear::Tcp(stream::listen(options.listen).await?),
            Transport::Udp => Ear::Udp(datagram::listen(options.listen).await?),
            Transport::Serial { path, baud } => Ear::Serial(serial::Line::open(path, *baud)?),
        };
        let address = match &ear {
            Ear::Tcp(listener) => listener.local_addr(),
            Ear::Udp(socket) => socket.local_addr(),
            Ear::Serial(_) => Ok(options.listen),
        };
        let address = address.map_err(|source| Error::Listen {
            address: options.listen,
            source,
        })?;
        let name = match &options.transport {
            Transport::Serial { path, .. } => path.display().to_string(),
            Transport::Tcp | Transport::Udp | Transport::Hdlc => address.to_string(),
        };
        Ok(Self {
            name,
            address,
            ear,
            options,
            device,
            made: Instant::now(),
        })
    }

    /// The address, with the port that was really bound. Of no meaning on a serial line.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The meter's name in its events: its address, or the path of its serial line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the meter until `shutdown` fires. Events go to a channel that must be read or dropped: a full one stops
    /// the meter until there is room.
    ///
    /// # Errors
    /// [`Error::Listen`] after a boot, or [`Error::State`].
    pub async fn run(self, events: mpsc::Sender<Event>, shutdown: Shutdown) -> Result<(), Error> {
        let mut running = Running {
            name: self.name,
            address: self.address,
            config: self.options.config(),
            transport: self.options.transport.clone(),
            notify: self.options.notify,
            notices: VecDeque::new(),
            pushed: 0,
            idle: Duration::from_millis(self.options.idle_ms()),
            device: self.device,
            made: self.made,
            events,
            shutdown,
        };
        running.tell_listening();
        let outcome = match self.ear {
            Ear::Tcp(listener) => running.over_tcp(listener).await,
            Ear::Udp(socket) => running.over_udp(socket).await,
            Ear::Serial(line) => running.over_serial(line).await,
        };
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
    name: String,
    address: SocketAddr,
    config: MeterConfig,
    transport: Transport,
    notify: Notify,
    /// Event codes that wait for a client.
    notices: VecDeque<u16>,
    /// How many notifications were pushed.
    pushed: u32,
    idle: Duration,
    device: Device,
    made: Instant,
    events: mpsc::Sender<Event>,
    shutdown: Shutdown,
}

impl Running {
    /// How APDUs travel.
    fn link(&self) -> &LinkConfig {
        &self.config.link
    }

    /// Waits for the next thing to happen by itself.
    async fn pause(&self) {
        tokio::select! {
            () = self.shutdown.fired() => {}
            () = sleep_until(self.due()) => {}
        }
    }

    /// Milliseconds since the meter was made.
    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When a time of [`Self::now`] is.
    fn instant(&self, at: u64) -> Instant {
        self.made + Duration::from_millis(at)
    }

    /// Waits for a time, for ever if there is none.
    async fn until(&self, at: Option<u64>) {
        match at {
            Some(at) => sleep_until(self.instant(at)).await,
            None => std::future::pending().await,
        }
    }

    /// When the device wants to be advanced.
    fn due(&self) -> Instant {
        self.instant(self.device.due(self.now()))
    }

    fn tell_listening(&mut self) {
        let profile = self.device.profile.name();
        let address = self.name.clone();
        self.device.tell(Happening::Listening { address, profile });
    }

    /// Hands over what happened. A laboratory that went away does not stop the meter.
    async fn flush(&mut self) {
        let happened = self.device.take_happened();
        if happened.is_empty() {
            return;
        }
        let time = rtc::rfc3339(self.device.rtc.host(self.now()));
        for what in happened {
            self.note(&what).await;
            let event = Event {
                time: time.clone(),
                meter: self.name.clone(),
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

/// A fresh challenge StoC: 16 octets keep the AARE below 128, which some clients need; HLS 7 wants 32.
fn challenge(config: &MeterConfig) -> Vec<u8> {
    let lengths = config
        .clients
        .iter()
        .map(|client| client.mechanism.challenge_min());
    let mut challenge = vec![0; lengths.max().unwrap_or_default().max(CHALLENGE)];
    rand::rng().fill_bytes(&mut challenge);
    challenge
}

const CHALLENGE: usize = 16;

#[cfg(test)]
mod tests;
