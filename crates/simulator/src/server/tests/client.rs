//! A client of our own over a real socket: the association value of `dlms`, and the soft cipher.

use std::{net::SocketAddr, time::Duration};

use dlms::{
    Attribute, Client, ClientConfig, Command, Data, Mechanism, Method, Protection, Response,
    Selection, Suite, SystemTitle,
    client::{Effect, Event},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use softcipher::{Setup, SoftCipher};

use crate::LabKeys;

/// What a head-end keeps of one meter.
pub(super) struct HeadEnd {
    address: SocketAddr,
    pub(super) cipher: SoftCipher,
    titles: [SystemTitle; 2],
    pub(super) config: ClientConfig,
}

/// An association that was opened over a connection.
pub(super) struct Associated<'a> {
    stream: TcpStream,
    client: Client,
    head_end: &'a mut HeadEnd,
}

impl HeadEnd {
    pub(super) fn new(address: SocketAddr, keys: &LabKeys) -> Self {
        let (own, meter) = (keys.client_system_title(), keys.server_system_title());
        let titles = [SystemTitle::new(own), SystemTitle::new(meter)];
        Self {
            address,
            cipher: SoftCipher::new(Setup::new(Suite::Suite0, titles[0]), keys.keys()).unwrap(),
            titles,
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

    /// Connects and opens an association; the event that says why not otherwise, or nothing without a connection.
    pub(super) async fn open(&mut self) -> Result<Associated<'_>, Option<Event>> {
        let stream = TcpStream::connect(self.address).await.map_err(|_| None)?;
        let mut config = self.config.clone();
        if config.mechanism == Mechanism::HlsGmac {
            config.authentication_value = super::challenge();
        }
        let mut client = Client::new(config);
        client.open(0);
        let mut associated = Associated {
            stream,
            client,
            head_end: self,
        };
        match associated.event().await {
            Event::Opened { server_title, .. } => {
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
        self.client.release(0);
        assert_eq!(self.event().await, Event::Released);
    }

    /// Waits until the meter closes the connection.
    pub(super) async fn closed(mut self) {
        let mut buffer = [0; 64];
        let read = timeout(LIMIT, self.stream.read(&mut buffer))
            .await
            .expect("the meter kept the connection");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    async fn ask(&mut self, command: Command) -> Event {
        self.client.request(0, command).unwrap();
        self.event().await
    }

    async fn event(&mut self) -> Event {
        let mut buffer = vec![0; 2048];
        loop {
            while let Some(effect) = self.client.poll() {
                match effect {
                    Effect::Transmit(frame) => {
                        // a connection that is gone shows at the next read
                        self.stream.write_all(&frame).await.ok();
                    }
                    Effect::Cipher(job) => {
                        let result = self.head_end.cipher.run(job.op);
                        self.client.handle_cipher(0, job.id, result);
                    }
                    Effect::Event(event) => return event,
                    Effect::Timer(_) => {}
                }
            }
            match timeout(LIMIT, self.stream.read(&mut buffer))
                .await
                .expect("no answer in time")
            {
                Ok(0) | Err(_) => self.client.closed(),
                Ok(count) => self.client.handle_bytes(0, &buffer[..count]),
            }
        }
    }
}

const LIMIT: Duration = Duration::from_secs(20);
