//! Our client over a bare socket, with keys in memory: what a foreign meter says to it needs no gateway and no custody.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use dlms::{Client, ClientConfig, Command, Data, Effect, Event, LinkConfig, Response};
use softcipher::SoftCipher;

/// An association with a meter.
#[derive(Debug)]
pub struct Driver {
    client: Client,
    cipher: SoftCipher,
    wire: Wire,
    epoch: Instant,
    timer_ms: Option<u64>,
}

#[derive(Debug)]
enum Wire {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

impl Driver {
    /// Connects and opens it.
    ///
    /// # Errors
    /// If the meter cannot be reached, or the association is not to be had.
    pub fn open(address: SocketAddr, config: ClientConfig, cipher: SoftCipher) -> Result<Self> {
        let wire = if config.link == LinkConfig::Udp {
            let socket = UdpSocket::bind((address.ip(), 0))?;
            socket.connect(address)?;
            Wire::Datagrams(socket)
        } else {
            Wire::Stream(TcpStream::connect(address)?)
        };
        let mut driver = Self {
            client: Client::new(config),
            cipher,
            wire,
            epoch: Instant::now(),
            timer_ms: None,
        };
        driver.client.open(0);
        match driver.event()? {
            Event::Opened { .. } => Ok(driver),
            other => bail!("not opened: {other:?}"),
        }
    }

    /// Sends a command; its answer.
    ///
    /// # Errors
    /// If there is none.
    pub fn ask(&mut self, command: Command) -> Result<Response> {
        let now = self.now_ms();
        self.client.request(now, command)?;
        match self.event()? {
            Event::Answered(response) => Ok(response),
            other => bail!("no answer: {other:?}"),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// If the meter does not give it.
    pub fn get(&mut self, command: Command) -> Result<Data> {
        match self.ask(command)? {
            Response::GetData { data, .. } => Ok(data),
            other => bail!("no data: {other:?}"),
        }
    }

    /// Releases it.
    ///
    /// # Errors
    /// If the socket breaks.
    pub fn release(mut self) -> Result<()> {
        let now = self.now_ms();
        self.client.release(now);
        match self.event()? {
            Event::Released => Ok(()),
            other => bail!("not released: {other:?}"),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Carries out effects and reads until the association has something to say.
    fn event(&mut self) -> Result<Event> {
        let mut chunk = vec![0; 4096];
        loop {
            while let Some(effect) = self.client.poll() {
                match effect {
                    Effect::Transmit(octets) => self.wire.send(&octets)?,
                    Effect::Timer(at_ms) => self.timer_ms = Some(at_ms),
                    Effect::Event(event) => return Ok(event),
                    Effect::Cipher(job) => {
                        let result = self.cipher.run(job.op);
                        let now = self.now_ms();
                        self.client.handle_cipher(now, job.id, result);
                    }
                }
            }
            let now = self.now_ms();
            let left = self.timer_ms.map_or(1000, |at| at.saturating_sub(now));
            let received = self
                .wire
                .receive(&mut chunk, Duration::from_millis(left.max(1)))?;
            let now = self.now_ms();
            match received {
                Some(0) => self.client.closed(),
                Some(count) => self.client.handle_bytes(now, &chunk[..count]),
                None => self.client.handle_timeout(now),
            }
        }
    }
}

impl Wire {
    fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(octets),
            Self::Datagrams(socket) => socket.send(octets).map(drop),
        }
    }

    /// Octets; none if the time is up, zero at the end of a stream.
    fn receive(&mut self, chunk: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        let received = match self {
            Self::Stream(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.read(chunk)
            }
            Self::Datagrams(socket) => {
                socket.set_read_timeout(Some(patience))?;
                socket.recv(chunk)
            }
        };
        match received {
            Ok(count) => Ok(Some(count)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
