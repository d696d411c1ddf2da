//! What a meter tells unasked: its events to the client that is there, and that it is back to whoever waits for it.

use std::{net::SocketAddr, time::Duration};

use dlms::{Attribute, Data, Frame, LongInvokeId, Notification, Obis, cosem::name};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    Running,
    session::{Outlet, Reason, Talk},
};
use crate::{
    Error, Happening, Transport,
    objects::View,
    options::{MANAGEMENT_SAP, SERVER_SAP},
};

impl Running {
    /// Keeps what is to be told to a client, and pushes what is to be pushed.
    pub(super) async fn note(&mut self, what: &Happening) {
        match what {
            Happening::Logged { code } if self.notify.events => {
                if self.notices.len() >= NOTICES {
                    self.notices.pop_front();
                }
                self.notices.push_back(*code);
            }
            Happening::Rejoin { .. } => {
                if let Some(address) = self.notify.push {
                    self.push(address).await;
                }
            }
            _ => {}
        }
    }

    /// Tells a client the events of late. One that has not negotiated it is told nothing.
    pub(super) async fn tell_events(
        &mut self,
        talk: &mut Talk,
        outlet: &mut impl Outlet,
    ) -> Result<Option<Reason>, Error> {
        if !talk.hears_events() {
            return Ok(None);
        }
        while let Some(code) = self.notices.pop_front() {
            let notification = Notification::Event {
                time: None,
                attribute: second(1, name::EVENT_CODE),
                value: Data::LongUnsigned(code),
            };
            if let Some(reason) = self.tell(talk, outlet, &notification).await? {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// A DataNotification: who it is, what time it is, how often its power failed. A listener that is not there is no
    /// concern of the meter's.
    async fn push(&mut self, address: SocketAddr) {
        let now = self.now();
        let attributes = [
            second(1, name::LOGICAL_DEVICE_NAME),
            second(8, name::CLOCK),
            second(1, name::POWER_FAILURES),
        ];
        let mut read = |attribute: &Attribute| {
            let value = self.device.get(View::Management, attribute, None, now);
            value.unwrap_or(Data::Null)
        };
        let body = Data::Structure(attributes.iter().map(&mut read).collect());
        let notification = Notification::Data {
            invoke: LongInvokeId::from_bits(self.pushed),
            time: None,
            body,
        };
        self.pushed = self.pushed.wrapping_add(1) & 0x00FF_FFFF;
        let frame = Frame {
            source: SERVER_SAP,
            destination: MANAGEMENT_SAP,
            apdu: notification.encode(),
        };
        let (Ok(octets), udp) = (frame.encode(), self.transport == Transport::Udp) else {
            return;
        };
        let sent = timeout(PUSH_TIMEOUT, send(address, udp, &octets)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.device.tell(Happening::Dropped {
                what: "notification",
                why: "nobody took it".into(),
            });
        }
    }
}

/// The attribute of an object that holds its value.
const fn second(class_id: u16, name: Obis) -> Attribute {
    Attribute {
        class_id,
        name,
        index: 2,
    }
}

async fn send(address: SocketAddr, udp: bool, octets: &[u8]) -> std::io::Result<()> {
    if udp {
        let any: SocketAddr = if address.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        socket.send_to(octets, address).await.map(|_| ())
    } else {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(octets).await?;
        stream.shutdown().await
    }
}

/// Events that wait for a client; older ones are in the log.
const NOTICES: usize = 16;
const PUSH_TIMEOUT: Duration = Duration::from_secs(2);
