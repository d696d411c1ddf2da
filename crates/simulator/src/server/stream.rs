//! Over a stream: the wrapper or HDLC over TCP, one connection at a time.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Running,
    session::{Outlet, Reason, Talk},
};
use crate::{Error, Happening};

impl<T: AsyncWrite + Unpin + Send> Outlet for T {
    async fn send(&mut self, frame: &[u8]) -> bool {
        matches!(
            timeout(WRITE_TIMEOUT, self.write_all(frame)).await,
            Ok(Ok(()))
        )
    }
}

impl Running {
    pub(super) async fn over_tcp(&mut self, first: TcpListener) -> Result<(), Error> {
        let mut listener = Some(first);
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
                    self.flush().await;
                    open
                }
            };
            tokio::select! {
                () = self.shutdown.fired() => {}
                () = sleep_until(self.due()) => {}
                accepted = open.accept() => match accepted {
                    Ok((stream, peer)) => self.connection(stream, peer).await?,
                    Err(error) => {
                        tracing::warn!(meter = %self.name, %error, "accept failed");
                        sleep(REBIND_PAUSE).await; // out of file descriptors, most likely: do not spin
                    }
                },
            }
            listener = Some(open);
        }
        Ok(())
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

    async fn connection(&mut self, mut stream: TcpStream, peer: SocketAddr) -> Result<(), Error> {
        // answers are small and each is waited for
        stream.set_nodelay(true).ok();
        let peer = peer.to_string();
        self.conversation(&mut stream, peer, &[]).await
    }

    /// Serves one client from its first octets to its end.
    pub(super) async fn conversation(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        peer: String,
        first: &[u8],
    ) -> Result<(), Error> {
        self.device.tell(Happening::Connected { peer });
        let mut talk = self.talk();
        let reason = match self.hear(&mut talk, stream, first).await? {
            Some(reason) => reason,
            None => self.serve(&mut talk, stream).await?,
        };
        self.device.association_ended(talk.view, self.now());
        self.device.tell(Happening::Disconnected { reason });
        self.device.tell_counters();
        self.flush().await;
        self.device.save()
    }

    async fn serve(
        &mut self,
        talk: &mut Talk,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    ) -> Result<Reason, Error> {
        let mut buffer = vec![0; READ_BUFFER];
        let mut idle_at = Instant::now() + self.idle;
        loop {
            self.flush().await;
            if let Some(reason) = self.tell_events(talk, stream).await? {
                return Ok(reason);
            }
            let end = tokio::select! {
                () = self.shutdown.fired() => Some("shutdown"),
                () = sleep_until(self.due()) => {
                    self.device.advance(self.now());
                    None
                }
                () = sleep_until(idle_at) => Some("idle"),
                () = self.until(talk.timer) => self.tick(talk, stream).await?,
                read = stream.read(&mut buffer) => {
                    idle_at = Instant::now() + self.idle;
                    match read.map(|count| buffer.get(..count).unwrap_or_default()) {
                        Ok([]) => Some("closed by the client"),
                        Ok(octets) => self.hear(talk, stream, octets).await?,
                        Err(_) => Some("broken"),
                    }
                }
            };
            if let Some(reason) = end {
                return Ok(reason);
            }
        }
    }
}

pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

const READ_BUFFER: usize = 2048;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const REBIND_TRIES: u32 = 50;
const REBIND_PAUSE: Duration = Duration::from_millis(100);
