//! A UDP socket as a stream: each datagram behind its length, two octets, big-endian, both ways.
//!
//! A datagram from the meter that is not exactly one PDU is dropped and counted. It ends nothing: whoever can write the
//! meter's address into a packet could else end its association.

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
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..DROPS_MAX {
            let mut room = ReadBuf::new(&mut self.room);
            match ready!(self.socket.poll_recv(cx, &mut room)) {
                Ok(()) => {}
                Err(error) if is_rumour(&error) => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let datagram = room.filled();
            match u16::try_from(datagram.len()) {
                Ok(length) if is_one_pdu(datagram, self.max_pdu) => {
                    self.incoming.extend_from_slice(&length.to_be_bytes());
                    self.incoming.extend_from_slice(datagram);
                    return Poll::Ready(Ok(()));
                }
                Ok(_) | Err(_) => {
                    let example = format!("a datagram of {} octets", datagram.len());
                    self.drops.count(self.meter, Cause::MeterGarbage, &example);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The first datagram that waits, without its length.
    fn first(&self) -> Option<&[u8]> {
        let (prefix, rest) = self.outgoing.split_first_chunk::<PREFIX>()?;
        rest.get(..usize::from(u16::from_be_bytes(*prefix)))
    }
}

/// An ICMP message says that nobody listens. Anyone can send one; a meter that boots says so too.
fn is_rumour(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

impl AsyncRead for Datagrams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.incoming.is_empty() {
            ready!(this.poll_receive(cx))?;
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
            match ready!(this.socket.poll_send(cx, datagram)) {
                Ok(_) => {}
                // The message is of an earlier datagram; this one was not sent.
                Err(error) if is_rumour(&error) => {
                    if let Err(error) = ready!(this.socket.poll_send(cx, datagram)) {
                        tracing::debug!(%error, "a datagram was not sent");
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            this.outgoing.drain(..length.saturating_add(PREFIX));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
