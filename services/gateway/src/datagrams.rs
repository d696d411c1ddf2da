//! A UDP socket as a stream: each datagram behind its length, two octets, big-endian, both ways.
//!
//! A datagram from the meter that is not exactly one PDU is dropped and counted. It ends nothing: whoever can write the
//! meter's address into a packet could else end its association. Nor does any error of the socket: the kernel makes them
//! of ICMP messages, and anyone can send those. What ends a connection over UDP is the association, or a time limit.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UdpSocket,
};

use crate::{
    drops::{Cause, Drops},
    pdu::{HEADER, PREFIX, is_one_pdu},
};

/// Datagrams that may be dropped before another task gets its turn.
const DROPS_MAX: usize = 32;

pub(crate) struct Datagrams {
    socket: UdpSocket,
    max_pdu: usize,
    /// Where a datagram is received into: one octet longer than the longest, so that a longer one is known.
    room: Vec<u8>,
    /// A datagram with its length, as far as it has not been read.
    incoming: Vec<u8>,
    /// What was written and has not been sent.
    outgoing: Vec<u8>,
    meter: IpAddr,
    drops: Drops,
}

impl Datagrams {
    pub(crate) fn new(socket: UdpSocket, max_pdu: usize, meter: IpAddr, drops: Drops) -> Self {
        Self {
            socket,
            max_pdu,
            room: vec![0; max_pdu.saturating_add(HEADER).saturating_add(1)],
            incoming: Vec::new(),
            outgoing: Vec::new(),
            meter,
            drops,
        }
    }

    /// Receives the next datagram that is one PDU.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..DROPS_MAX {
            let mut room = ReadBuf::new(&mut self.room);
            let received = ready!(self.socket.poll_recv(cx, &mut room));
            let received = received.map(|()| room.filled().len());
            if self.keep(received) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Keeps what was received, so many octets of the room; whether that is something to pass on.
    fn keep(&mut self, received: io::Result<usize>) -> bool {
        let count = match received {
            Ok(count) => count,
            // The socket is bound and connected: its errors are ICMP messages (nobody listens, no route, too long,
            // prohibited, no such protocol), forged as easily as datagrams; a meter that boots causes some, too.
            Err(error) => {
                tracing::debug!(%error, meter = %self.meter, "a rumour about the meter");
                return false;
            }
        };
        let datagram = self.room.get(..count).unwrap_or_default();
        match u16::try_from(datagram.len()) {
            Ok(length) if is_one_pdu(datagram, self.max_pdu) => {
                self.incoming.extend_from_slice(&length.to_be_bytes());
                self.incoming.extend_from_slice(datagram);
                true
            }
            Ok(_) | Err(_) => {
                let example = format!("a datagram of {count} octets");
                self.drops.count(self.meter, Cause::MeterGarbage, &example);
                false
            }
        }
    }

    /// The first datagram that waits, without its length.
    fn first(&self) -> Option<&[u8]> {
        let (prefix, rest) = self.outgoing.split_first_chunk::<PREFIX>()?;
        rest.get(..usize::from(u16::from_be_bytes(*prefix)))
    }
}

impl AsyncRead for Datagrams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.incoming.is_empty() {
            ready!(this.poll_receive(cx));
        }
        let count = this.incoming.len().min(buf.remaining());
        buf.put_slice(this.incoming.get(..count).unwrap_or_default());
        this.incoming.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Datagrams {
    /// Takes whole datagrams with their lengths, as [`crate::pdu::Units`] cut them; [`Self::poll_flush`] sends them.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.outgoing.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while let Some(datagram) = this.first() {
            let length = datagram.len();
            // The first error may be an ICMP message about an earlier datagram: this one was not sent and goes once
            // more. The second is its own, and it is lost, as datagrams may be.
            if ready!(this.socket.poll_send(cx, datagram)).is_err()
                && let Err(error) = ready!(this.socket.poll_send(cx, datagram))
            {
                tracing::debug!(%error, meter = %this.meter, "a datagram was not sent");
            }
            this.outgoing.drain(..length.saturating_add(PREFIX));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::dial;

    /// One PDU of the wrapper.
    const PDU: [u8; 9] = [0, 1, 0, 1, 0, 1, 0, 1, 0xC8];

    async fn connected() -> (UdpSocket, Datagrams) {
        let meter = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = meter.local_addr().unwrap();
        let socket = dial::udp(address).await.unwrap();
        meter.connect(socket.local_addr().unwrap()).await.unwrap();
        let max_pdu = usize::from(u16::MAX);
        let drops = Drops::default();
        (meter, Datagrams::new(socket, max_pdu, address.ip(), drops))
    }

    #[tokio::test]
    async fn no_icmp_message_ends_it() {
        let (meter, mut datagrams) = connected().await;
        // What Linux makes of ICMP and ICMPv6, by type and code.
        for errno in [
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
            Errno::NOPROTOOPT,
            Errno::CONNREFUSED,
            Errno::MSGSIZE,
            Errno::OPNOTSUPP,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::PROTO,
            Errno::ACCESS,
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert!(!datagrams.keep(Err(error)), "{errno}");
        }
        meter.send(&PDU).await.unwrap();
        let mut heard = [0; PREFIX + PDU.len()];
        datagrams.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[PREFIX..], PDU);
    }

    #[tokio::test]
    async fn a_datagram_that_cannot_be_sent_is_lost_alone() {
        let (meter, mut datagrams) = connected().await;
        // Longer than a datagram over IPv4 can be: EMSGSIZE, each time.
        let long = [[0xFF; PREFIX].as_slice(), &[0; 0xFFFF]].concat();
        let short = [[0, 9].as_slice(), &PDU].concat();
        datagrams.write_all(&long).await.unwrap();
        datagrams.write_all(&short).await.unwrap();
        datagrams.flush().await.unwrap();
        let mut room = [0; 100];
        let count = meter.recv(&mut room).await.unwrap();
        assert_eq!(room[..count], PDU);
    }
}
