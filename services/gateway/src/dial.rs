//! The way from the gateway to a meter: a TCP connection, a UDP socket, or a serial line.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use serial2_tokio::{CharSize, FlowControl, Parity, SerialPort, Settings, StopBits};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    config::{self, SerialLine},
    datagrams::Datagrams,
    relay::reset,
};

/// An open way to a meter.
pub(crate) trait Line: AsyncRead + AsyncWrite + Send + Unpin {
    /// Ends it without a word, where the way knows such an end.
    fn abort(self: Box<Self>);
}

impl Line for TcpStream {
    fn abort(self: Box<Self>) {
        reset(*self);
    }
}

impl Line for Datagrams {
    fn abort(self: Box<Self>) {}
}

impl Line for Serial {
    fn abort(self: Box<Self>) {}
}

/// A socket that only datagrams from exactly this address reach: the kernel drops the others.
pub(crate) async fn udp(meter: SocketAddr) -> io::Result<UdpSocket> {
    let any = match meter {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(meter).await?;
    Ok(socket)
}

/// The serial lines by their names; each is opened by one connection at a time.
#[derive(Debug, Clone)]
pub(crate) struct Lines(Arc<HashMap<String, (SerialLine, Arc<Semaphore>)>>);

/// Why a serial line is not open.
#[derive(Debug)]
pub(crate) enum NoLine {
    /// Another connection has it.
    Busy,
    /// The device cannot be opened.
    Device(io::Error),
}

impl Lines {
    pub(crate) fn new(lines: Vec<SerialLine>) -> Self {
        let place = || Arc::new(Semaphore::new(1));
        let lines = lines.into_iter();
        Self(Arc::new(
            lines
                .map(|line| (line.name.clone(), (line, place())))
                .collect(),
        ))
    }

    pub(crate) fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Opens a line that is known.
    pub(crate) fn open(&self, name: &str) -> Result<Serial, NoLine> {
        let (line, place) = self
            .0
            .get(name)
            .ok_or_else(|| NoLine::Device(io::ErrorKind::NotFound.into()))?;
        let place = Arc::clone(place)
            .try_acquire_owned()
            .map_err(|_| NoLine::Busy)?;
        let port = port(line).map_err(NoLine::Device)?;
        Ok(Serial {
            port,
            _place: place,
        })
    }
}

fn port(line: &SerialLine) -> io::Result<SerialPort> {
    let port = SerialPort::open(&line.device, |mut settings: Settings| {
        settings.set_raw();
        settings.set_baud_rate(line.baud)?;
        settings.set_char_size(CharSize::Bits8);
        settings.set_stop_bits(StopBits::One);
        settings.set_flow_control(FlowControl::None);
        settings.set_parity(match line.parity {
            config::Parity::None => Parity::None,
            config::Parity::Even => Parity::Even,
            config::Parity::Odd => Parity::Odd,
        });
        Ok(settings)
    })?;
    // What the line said to whoever had it before is not for us.
    port.discard_buffers()?;
    Ok(port)
}

/// A serial line, ours until it is dropped.
pub(crate) struct Serial {
    port: SerialPort,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Serial {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.port).poll_read(cx, buf)
    }
}

impl AsyncWrite for Serial {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.port).poll_write(cx, buf)
    }

    /// What is written is with the kernel; waiting for the line to have sent it would block.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
