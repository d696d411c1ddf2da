//! A gRPC server: mutual TLS 1.3, then the edge, then the services.

use std::{
    collections::VecDeque, convert::Infallible, future::Future as _, io, net::SocketAddr, pin::Pin,
    sync::Arc, task, time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    body::Body,
    server::NamedService,
    service::RoutesBuilder,
    transport::server::{Connected, Server as Transport},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    Shutdown, StartError, Tasks, config,
    edge::EdgeLayer,
    peer::PeerConnection,
    tls::{self, Acceptor, Identity},
};

/// How long a client may take for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at one time. One more ends the oldest.
const HANDSHAKES_MAX: usize = 256;
/// Idle connections are asked for a sign of life this often.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A bound TCP port that nobody has been accepted on yet.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Binds a port; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address is taken or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A server with no services yet.
pub struct Server {
    name: &'static str,
    config: config::Server,
    tls: Acceptor,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    endless: Vec<&'static str>,
    health: HealthReporter,
}

/// Says whether a server can do its work, to whoever asks `grpc.health.v1`.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Health {
    /// Sets the server and all its services to serving or not.
    pub async fn set(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in self.services.iter().copied().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

impl Server {
    /// Reads the TLS files and prepares health.
    ///
    /// # Errors
    /// If a TLS file cannot be used.
    pub fn new(name: &'static str, config: &config::Server) -> Result<Self, StartError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut routes = RoutesBuilder::default();
        routes.add_service(health_service);
        Ok(Self {
            name,
            config: config.clone(),
            tls: Acceptor::new(&config.tls)?,
            routes,
            services: Vec::new(),
            endless: Vec::new(),
            health,
        })
    }

    /// Adds a service. Its peers come from the configuration; without any it answers nobody.
    #[must_use]
    #[allow(
        clippy::should_implement_trait,
        reason = "it is a builder's verb, not arithmetic"
    )]
    pub fn add<S>(mut self, service: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Says that the requests of this method (`/package.Service/Method`) are a stream without end: `max_message_bytes`
    /// limits each message of it, not their sum. The handler bounds what it keeps of them.
    #[must_use]
    pub fn endless(mut self, method: &'static str) -> Self {
        self.endless.push(method);
        self
    }

    /// A handle on its health. Take it after the last [`Self::add`].
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            reporter: self.health.clone(),
            services: self.services.clone(),
        }
    }

    /// Serves until `shutdown` fires, then gives running requests `drain_seconds`. Health is serving from the start,
    /// unless the caller sets it otherwise.
    #[must_use]
    pub fn serve(
        self,
        listener: Listener,
        shutdown: Shutdown,
    ) -> BoxFuture<'static, Result<(), StartError>> {
        Box::pin(self.run(listener, shutdown))
    }

    async fn run(mut self, listener: Listener, shutdown: Shutdown) -> Result<(), StartError> {
        self.routes.add_service(self.reflection()?);
        self.health().set(true).await;
        let address = listener.local_addr()?;
        let tasks = Tasks::new(shutdown.clone());
        let (ready, connections) = mpsc::channel(64);
        let accept = Accept {
            tls: self.tls.clone(),
            trust_domain: self.config.tls.trust_domain.clone(),
            life: Duration::from_secs(
                self.config
                    .max_connection_age_seconds
                    .saturating_add(self.config.max_connection_grace_seconds),
            ),
            ready,
            tasks: tasks.clone(),
        };
        tasks.spawn("accept", accept.run(listener));
        let identity = Identity::of(&self.config.tls)?;
        tasks.spawn("identity", follow_files(identity, shutdown.clone()));
        tracing::info!(service = self.name, %address, "serving");
        let drain = Duration::from_secs(self.config.drain_seconds);
        let served = Transport::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_connection_age(Duration::from_secs(self.config.max_connection_age_seconds))
            .layer(EdgeLayer::new(&self.config, self.endless))
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), {
                let shutdown = shutdown.clone();
                async move { shutdown.fired().await }
            });
        tokio::select! {
            served = served => served?,
            () = async { shutdown.fired().await; sleep(drain).await } => {
                tracing::warn!(service = self.name, "some requests did not end in time");
            }
        }
        tracing::info!(service = self.name, "stopped");
        Ok(())
    }

    fn reflection(&self) -> Result<impl Reflection, StartError> {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(latchkey_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        for service in &self.services {
            builder = builder.with_service_name(*service);
        }
        Ok(builder.build_v1()?)
    }
}

/// Looks at certificate, key and authorities now and then, and at once after SIGHUP.
async fn follow_files(identity: Arc<Identity>, shutdown: Shutdown) {
    let mut asked = match signal(SignalKind::hangup()) {
        Ok(asked) => asked,
        Err(error) => {
            return tracing::error!(%error, "SIGHUP cannot be waited for; TLS files are not followed");
        }
    };
    loop {
        tokio::select! {
            () = shutdown.fired() => return,
            _ = asked.recv() => tracing::info!("SIGHUP: looking at the TLS files"),
            () = sleep(tls::RELOAD_EVERY) => {}
        }
        let identity = Arc::clone(&identity);
        // It reads files, and blocks for a token.
        if tokio::task::spawn_blocking(move || identity.refresh())
            .await
            .is_err()
        {
            tracing::error!("looking at the TLS files ended badly");
        }
    }
}

/// What [`RoutesBuilder::add_service`] asks of a service; spelt once.
trait Reflection:
    tower::Service<
        Request<Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Reflection for S where
    S: tower::Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Accepts connections and shakes hands; only a peer with a good name gets past it.
struct Accept {
    tls: Acceptor,
    trust_domain: String,
    /// How long a connection may live at most.
    life: Duration,
    ready: mpsc::Sender<io::Result<PeerStream>>,
    tasks: Tasks,
}

impl Accept {
    async fn run(self, listener: Listener) {
        let mut handshakes = Handshakes::default();
        let shutdown = self.tasks.shutdown().clone();
        loop {
            let (stream, address) = tokio::select! {
                () = shutdown.fired() => return,
                accepted = listener.0.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, most likely: let some connections end.
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (tls, domain, ready) = (
                self.tls.clone(),
                self.trust_domain.clone(),
                self.ready.clone(),
            );
            let life = self.life;
            let displaced = handshakes.begin();
            self.tasks.spawn("handshake", async move {
                let shaken = timeout(HANDSHAKE_TIMEOUT, handshake(tls, stream, address, &domain));
                let admitted = async {
                    match shaken.await {
                        Ok(Ok((stream, peer))) => {
                            let stream = PeerStream::new(stream, peer, life);
                            drop(ready.send(Ok(stream)).await);
                        }
                        Ok(Err(error)) => tracing::warn!(%address, %error, "refused a connection"),
                        Err(_) => tracing::warn!(%address, "refused a connection: its handshake took too long"),
                    }
                };
                tokio::select! {
                    // First: one that was displaced before it began must not take a token's time.
                    biased;
                    _ = displaced => tracing::warn!(%address, "refused a connection: too many handshakes"),
                    () = admitted => {}
                }
            });
        }
    }
}

/// Handshakes under way, oldest first. Who connects and says nothing must not keep out those who speak: a good
/// handshake takes milliseconds and is over before it is the oldest of so many.
#[derive(Default)]
struct Handshakes(VecDeque<oneshot::Sender<()>>);

impl Handshakes {
    /// One more; it ends when what is returned does.
    fn begin(&mut self) -> oneshot::Receiver<()> {
        self.0.retain(|handshake| !handshake.is_closed());
        if self.0.len() >= HANDSHAKES_MAX {
            drop(self.0.pop_front());
        }
        let (handshake, displaced) = oneshot::channel();
        self.0.push_back(handshake);
        displaced
    }
}

async fn handshake(
    tls: Acceptor,
    stream: TcpStream,
    address: SocketAddr,
    domain: &str,
) -> io::Result<(TlsStream<TcpStream>, PeerConnection)> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let name = tls::peer_of(certificates, domain).map_err(io::Error::other)?;
    Ok((stream, PeerConnection { name, address }))
}

/// A connection that ends, whatever passes on it: tonic asks it to end in order when it is of age, but in 0.14 its own
/// grace period cuts without asking.
struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: PeerConnection,
    end: Pin<Box<Sleep>>,
}

impl PeerStream {
    fn new(stream: TlsStream<TcpStream>, peer: PeerConnection, life: Duration) -> Self {
        Self {
            stream,
            peer,
            end: Box::pin(sleep(life)),
        }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> task::Poll<io::Result<()>> {
        if self.end.as_mut().poll(cx).is_ready() {
            tracing::info!(peer = %self.peer.name, address = %self.peer.address, "a connection outlived its age and grace and is cut");
            return task::Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> task::Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
