//! A client of our own over a real socket: the association value of `dlms`, and the soft cipher.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use dlms::{
    Attribute, Client, ClientConfig, Command, Conformance, Data, LinkConfig, Mechanism, Method,
    Protection, Response, Selection, SystemTitle,
    client::{Effect, Event},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, unix::AsyncFd},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout_at},
};

use rand::Rng as _;
use softcipher::{Setup, SoftCipher};

use crate::LabKeys;

/// What a head-end keeps of one meter.
pub(super) struct HeadEnd {
    address: SocketAddr,
    pub(super) cipher: SoftCipher,
    titles: [SystemTitle; 2],
    pub(super) config: ClientConfig,
    /// Whether the network delivers its datagrams twice.
    pub(super) doubled: bool,
    /// The near end of a serial line.
    pub(super) line: Option<Arc<AsyncFd<OwnedFd>>>,
}

/// What carries the octets.
pub(super) enum Wire {
    Tcp(TcpStream),
    Udp(UdpSocket),
    /// A network that delivers every request twice.
    Doubled(UdpSocket),
    Serial(Arc<AsyncFd<OwnedFd>>),
}

impl Wire {
    /// A wire that is gone shows at the next read.
    pub(super) async fn write(&mut self, octets: &[u8]) {
        match self {
            Self::Tcp(stream) => drop(stream.write_all(octets).await),
            Self::Udp(socket) => drop(socket.send(octets).await),
            Self::Doubled(socket) => {
                for _ in 0..2 {
                    socket.send(octets).await.ok();
                }
            }
            Self::Serial(line) => {
                let mut left = octets;
                while let [_, ..] = left {
                    let mut ready = line.writable().await.unwrap();
                    let written = ready.try_io(|line| Ok(rustix::io::write(line, left)?));
                    if let Ok(count) = written {
                        left = &left[count.unwrap()..];
                    }
                }
            }
        }
    }

    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Udp(socket) | Self::Doubled(socket) => socket.recv(buffer).await,
            Self::Serial(line) => loop {
                let mut ready = line.readable().await?;
                if let Ok(read) = ready.try_io(|line| Ok(rustix::io::read(line, &mut *buffer)?)) {
                    break read;
                }
            },
        }
    }
}

/// An association that was opened over a connection.
pub(super) struct Associated<'a> {
    pub(super) wire: Wire,
    pub(super) client: Client,
    head_end: &'a mut HeadEnd,
    timer: Option<u64>,
    made: Instant,
    /// The services that the meter granted.
    pub(super) granted: Option<Conformance>,
}

impl HeadEnd {
    pub(super) fn new(address: SocketAddr, keys: &LabKeys) -> Self {
        let (own, meter) = (keys.client_system_title(), keys.server_system_title());
        let titles = [SystemTitle::new(own), SystemTitle::new(meter)];
        Self {
            address,
            cipher: SoftCipher::new(Setup::new(keys.suite(), titles[0]), keys.keys()).unwrap(),
            titles,
            doubled: false,
            line: None,
            config: ClientConfig {
                client_sap: 1,
                server_sap: 1,
                mechanism: Mechanism::HlsGmac,
                protection: Protection::Glo,
                client_title: Some(titles[0]),
                expected_server_title: Some(titles[1]),
                authentication_value: Vec::new(),
                answer_timeout_ms: 60_000,
                ..ClientConfig::default()
            },
        }
    }

    /// Becomes a client without ciphering.
    pub(super) fn plain(mut self, client_sap: u16, mechanism: Mechanism, password: &[u8]) -> Self {
        self.config = ClientConfig {
            client_sap,
            mechanism,
            protection: Protection::Plain,
            client_title: None,
            expected_server_title: None,
            authentication_value: password.to_vec(),
            ..self.config
        };
        self
    }

    /// The counter it used last.
    pub(super) fn spent(&self) -> u32 {
        self.cipher.counters().sent
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects and opens an association.
    pub(super) async fn association(&mut self) -> Associated<'_> {
        match self.open().await {
            Ok(association) => association,
            Err(event) => panic!("no association: {event:?}"),
        }
    }

    async fn connect(&self) -> std::io::Result<Wire> {
        Ok(match (&self.line, &self.config.link) {
            (Some(line), _) => Wire::Serial(Arc::clone(line)),
            (None, LinkConfig::Udp) => {
                let socket = UdpSocket::bind("127.0.0.1:0").await?;
                socket.connect(self.address).await?;
                if self.doubled {
                    Wire::Doubled(socket)
                } else {
                    Wire::Udp(socket)
                }
            }
            (None, LinkConfig::Tcp | LinkConfig::Hdlc(_)) => {
                Wire::Tcp(TcpStream::connect(self.address).await?)
            }
        })
    }

    /// Connects and opens an association; the event that says why not otherwise, or nothing without a connection.
    pub(super) async fn open(&mut self) -> Result<Associated<'_>, Option<Event>> {
        let wire = self.connect().await.map_err(|_| None)?;
        let mut config = self.config.clone();
        if config.mechanism.is_high_level() {
            config.authentication_value = vec![0; 32];
            rand::rng().fill_bytes(&mut config.authentication_value);
        }
        let client = Client::new(config);
        let mut associated = Associated {
            wire,
            client,
            head_end: self,
            timer: None,
            made: Instant::now(),
            granted: None,
        };
        let now = associated.now();
        associated.client.open(now);
        match associated.event().await {
            Event::Opened {
                server_title,
                conformance,
                ..
            } => {
                associated.granted = Some(conformance);
                let [_, meter] = associated.head_end.titles;
                assert!(server_title.is_none_or(|title| title == meter));
                Ok(associated)
            }
            other => Err(Some(other)),
        }
    }
}

impl Associated<'_> {
    pub(super) async fn get(&mut self, class_id: u16, name: &str, index: i8) -> Result<Data, u8> {
        self.select(class_id, name, index, None).await
    }

    pub(super) async fn select(
        &mut self,
        class_id: u16,
        name: &str,
        index: i8,
        selection: Option<Selection>,
    ) -> Result<Data, u8> {
        let attribute = Attribute {
            class_id,
            name: name.parse().unwrap(),
            index,
        };
        match self
            .ask(Command::Get {
                attribute,
                selection,
            })
            .await
        {
            Event::Answered(Response::GetData { data, .. }) => Ok(data),
            Event::Answered(Response::GetError { result, .. }) => Err(result.code()),
            other => panic!("{other:?}"),
        }
    }

    /// The result, or nothing if the answer was lost.
    pub(super) async fn act(
        &mut self,
        class_id: u16,
        name: &str,
        index: i8,
        parameter: Data,
    ) -> Option<u8> {
        let method = Method {
            class_id,
            name: name.parse().unwrap(),
            index,
        };
        match self
            .ask(Command::Action {
                method,
                parameter: Some(parameter),
            })
            .await
        {
            Event::Answered(Response::Action { result, .. }) => Some(result.code()),
            Event::Failed(_) => None,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn release(mut self) {
        let now = self.now();
        self.client.release(now);
        assert_eq!(self.event().await, Event::Released);
    }

    /// Waits until the meter closes the connection, where there is one.
    pub(super) async fn closed(mut self) {
        if !matches!(self.wire, Wire::Tcp(_)) {
            return;
        }
        let (mut buffer, end) = ([0; 64], Instant::now() + LIMIT);
        let read = timeout_at(end, self.wire.read(&mut buffer))
            .await
            .expect("the meter kept the connection");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    pub(super) async fn ask(&mut self, command: Command) -> Event {
        let now = self.now();
        self.client.request(now, command).unwrap();
        self.event().await
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap()
    }

    pub(super) async fn event(&mut self) -> Event {
        let (mut buffer, end) = (vec![0; 65_535], Instant::now() + LIMIT);
        loop {
            while let Some(effect) = self.client.poll() {
                match effect {
                    Effect::Transmit(frame) => self.wire.write(&frame).await,
                    Effect::Cipher(job) => {
                        let result = self.head_end.cipher.run(job.op);
                        let now = self.now();
                        self.client.handle_cipher(now, job.id, result);
                    }
                    Effect::Event(event) => return event,
                    Effect::Timer(at) => self.timer = Some(at),
                }
            }
            let due = self.timer.map(|at| self.made + Duration::from_millis(at));
            let read = timeout_at(due.unwrap_or(end).min(end), self.wire.read(&mut buffer)).await;
            let now = self.now();
            assert!(Instant::now() < end, "no answer in time");
            match read {
                Err(_) => {
                    self.timer = None;
                    self.client.handle_timeout(now);
                }
                Ok(Ok(0) | Err(_)) => self.client.closed(),
                Ok(Ok(count)) => self.client.handle_bytes(now, &buffer[..count]),
            }
        }
    }
}

const LIMIT: Duration = Duration::from_secs(20);
