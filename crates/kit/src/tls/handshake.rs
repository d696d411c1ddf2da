//! The two ends of a handshake, with the identity that is in force when it begins.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Identity, client_end, identity::Present, server_end};
use crate::{PeerName, StartError, config::Tls};

/// A configuration of rustls, and the generation of the identity it was made of.
type Made<C> = Arc<Mutex<(u64, Arc<C>)>>;

/// The server end.
#[derive(Debug, Clone)]
pub struct Acceptor {
    identity: Arc<Identity>,
    made: Made<ServerConfig>,
}

impl Acceptor {
    /// Of this configuration.
    ///
    /// # Errors
    /// If a file or the token cannot be used, or does not fit the others.
    pub fn new(tls: &Tls) -> Result<Self, StartError> {
        let identity = Identity::of(tls)?;
        let (present, generation) = identity.present();
        let made = server_end(&present, identity.trust_domain())?;
        Ok(Self {
            identity,
            made: Arc::new(Mutex::new((generation, made))),
        })
    }

    /// Shakes hands with whoever connected: a peer of the trust domain, or it fails.
    ///
    /// # Errors
    /// What rustls says of the peer, or that our key could not sign.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        let domain = self.identity.trust_domain();
        let config = current(&self.identity, &self.made, |present| {
            server_end(present, domain)
        })?;
        let handshake = TlsAcceptor::from(config).accept(stream);
        self.identity.shake(handshake).await
    }
}

/// The client end.
#[derive(Debug, Clone)]
pub struct Connector {
    identity: Arc<Identity>,
    expected: PeerName,
    made: Made<ClientConfig>,
}

impl Connector {
    /// Of this configuration, for a server that must show `expected`.
    ///
    /// # Errors
    /// If a file or the token cannot be used, or does not fit the others.
    pub fn new(tls: &Tls, expected: &PeerName) -> Result<Self, StartError> {
        let identity = Identity::of(tls)?;
        let (present, generation) = identity.present();
        let made = client_end(&present, expected)?;
        Ok(Self {
            identity,
            expected: expected.clone(),
            made: Arc::new(Mutex::new((generation, made))),
        })
    }

    /// Shakes hands with the server.
    ///
    /// # Errors
    /// What rustls says of the server, or that our key could not sign.
    pub async fn connect(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let config = current(&self.identity, &self.made, |present| {
            client_end(present, &self.expected)
        })?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        self.identity.shake(handshake).await
    }
}

/// The configuration of the identity in force, made anew if that has changed.
fn current<C>(
    identity: &Identity,
    made: &Made<C>,
    make: impl FnOnce(&Present) -> Result<Arc<C>, StartError>,
) -> io::Result<Arc<C>> {
    let (present, generation) = identity.present();
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    if made.0 != generation {
        let config = make(&present).map_err(|e| io::Error::other(e.to_string()))?;
        *made = (generation, config);
    }
    Ok(Arc::clone(&made.1))
}
