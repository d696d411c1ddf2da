//! Over UDP: an association for each client address. That duplicates do no harm is the association value's affair.

use std::{collections::HashMap, net::SocketAddr};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until},
};

use super::{
    Running,
    session::{Outlet, Reason, Talk},
};
use crate::{Error, Happening};

/// One client address.
struct Client {
    talk: Talk,
    idle_at: Instant,
}

/// Sends datagrams to one address.
struct Datagrams<'a> {
    socket: &'a UdpSocket,
    peer: SocketAddr,
}

impl Outlet for Datagrams<'_> {
    /// A datagram that could not be sent is one that was lost.
    async fn send(&mut self, frame: &[u8]) -> bool {
        self.socket.send_to(frame, self.peer).await.ok();
        true
    }
}

impl Running {
    pub(super) async fn over_udp(&mut self, socket: UdpSocket) -> Result<(), Error> {
        let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
        let mut buffer = vec![0; self.longest()];
        while !self.shutdown.is_fired() {
            self.device.advance(self.now());
            self.flush().await;
            if self.device.is_silent() {
                self.pause().await;
                // nobody hears what is said to a meter that boots
                while socket.try_recv(&mut buffer).is_ok() {}
                self.device.advance(self.now());
                if !self.device.is_silent() {
                    self.tell_listening();
                }
                continue;
            }
            self.tell_all(&socket, &mut clients).await?;
            let next = clients.iter().map(|(peer, client)| {
                let timer = client.talk.timer.map(|at| self.instant(at));
                let due = timer.map_or(client.idle_at, |timer| timer.min(client.idle_at));
                (due, *peer)
            });
            let next = next.min();
            tokio::select! {
                () = self.shutdown.fired() => {}
                () = sleep_until(self.due()) => {}
                () = wait(next) => {
                    if let Some((_, peer)) = next {
                        self.overdue(&socket, &mut clients, peer).await?;
                    }
                }
                received = socket.recv_from(&mut buffer) => if let Ok((count, peer)) = received {
                    let octets = buffer.get(..count).unwrap_or_default();
                    self.datagram(&socket, &mut clients, peer, octets).await?;
                },
            }
        }
        Ok(())
    }

    /// The longest datagram that is taken; of a longer one the rest is lost, and so all of it.
    fn longest(&self) -> usize {
        match usize::from(self.config.max_pdu) {
            0 => usize::from(u16::MAX),
            limit => limit.max(DATAGRAM_MIN) + HEADER,
        }
    }

    async fn datagram(
        &mut self,
        socket: &UdpSocket,
        clients: &mut HashMap<SocketAddr, Client>,
        peer: SocketAddr,
        octets: &[u8],
    ) -> Result<(), Error> {
        let now = Instant::now();
        if !clients.contains_key(&peer) {
            self.make_room(clients).await;
            self.device.tell(Happening::Connected {
                peer: peer.to_string(),
            });
        }
        let client = clients.entry(peer).or_insert_with(|| Client {
            talk: self.talk(),
            idle_at: now,
        });
        client.idle_at = now + self.idle;
        let mut outlet = Datagrams { socket, peer };
        let end = self.hear(&mut client.talk, &mut outlet, octets).await?;
        self.ended(clients, peer, end).await
    }

    /// Tells the events of late to the client that is there for them.
    async fn tell_all(
        &mut self,
        socket: &UdpSocket,
        clients: &mut HashMap<SocketAddr, Client>,
    ) -> Result<(), Error> {
        let listening = clients
            .iter_mut()
            .find(|(_, client)| client.talk.hears_events());
        let Some((peer, client)) = listening else {
            return Ok(());
        };
        let peer = *peer;
        let mut outlet = Datagrams { socket, peer };
        let end = self.tell_events(&mut client.talk, &mut outlet).await?;
        self.ended(clients, peer, end).await
    }

    /// A client's timer, or the end of its time.
    async fn overdue(
        &mut self,
        socket: &UdpSocket,
        clients: &mut HashMap<SocketAddr, Client>,
        peer: SocketAddr,
    ) -> Result<(), Error> {
        let Some(client) = clients.get_mut(&peer) else {
            return Ok(());
        };
        let mut outlet = Datagrams { socket, peer };
        let end = if client.idle_at <= Instant::now() {
            Some("idle")
        } else {
            self.tick(&mut client.talk, &mut outlet).await?
        };
        self.ended(clients, peer, end).await
    }

    /// Forgets a client whose conversation is over; all of them, if the meter was reset.
    async fn ended(
        &mut self,
        clients: &mut HashMap<SocketAddr, Client>,
        peer: SocketAddr,
        end: Option<Reason>,
    ) -> Result<(), Error> {
        let Some(reason) = end else {
            return Ok(());
        };
        let gone: Vec<Client> = if reason == "reset" {
            clients.drain().map(|(_, client)| client).collect()
        } else {
            clients.remove(&peer).into_iter().collect()
        };
        for client in gone {
            self.device.association_ended(client.talk.view, self.now());
            self.device.tell(Happening::Disconnected { reason });
        }
        self.device.tell_counters();
        self.flush().await;
        self.device.save()
    }

    /// Anyone may send a datagram: the client that was silent for longest makes room.
    async fn make_room(&mut self, clients: &mut HashMap<SocketAddr, Client>) {
        if clients.len() < CLIENTS {
            return;
        }
        let oldest = clients.iter().min_by_key(|(_, client)| client.idle_at);
        if let Some(peer) = oldest.map(|(peer, _)| *peer) {
            clients.remove(&peer);
            let reason = "crowded out";
            self.device.tell(Happening::Disconnected { reason });
        }
    }
}

async fn wait(next: Option<(Instant, SocketAddr)>) {
    match next {
        Some((at, _)) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn listen(address: SocketAddr) -> Result<UdpSocket, Error> {
    UdpSocket::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// Octets of a wrapper header.
const HEADER: usize = 8;
/// The shortest room for a datagram: an AARQ with a certificate comes before any negotiation.
const DATAGRAM_MIN: usize = 2048;
/// Client addresses at once.
const CLIENTS: usize = 32;
