//! A private key in a token, as rustls wants it.
//!
//! rustls asks for a signature synchronously, in the middle of a handshake, and a token may take its time. So a handshake
//! with such a key runs on threads that do nothing else, where it may block, and the token's work on one more: whatever
//! the token does, no request of a service waits for it. The wait is bounded; when it is over the handshake fails, the
//! peer tries again, and connections that are open go on.

use std::{
    future::Future,
    io,
    sync::{Arc, OnceLock, mpsc},
    time::{Duration, Instant},
};

use hsm::{Curve, Token};
use opentelemetry::{KeyValue, metrics::Histogram};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey, public_key_to_spki},
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, alg_id};
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::StartError;

/// How long a handshake waits for its signature.
const PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes that may wait for the token at one time; others wait for these.
const HANDSHAKE_THREADS: usize = 4;

/// The threads of all handshakes of this process whose keys are in tokens.
struct Threads {
    handshakes: Runtime,
    token: Runtime,
}

fn threads() -> Result<&'static Threads, StartError> {
    static THREADS: OnceLock<Threads> = OnceLock::new();
    if let Some(threads) = THREADS.get() {
        return Ok(threads);
    }
    let runtime = |name: &str, threads: usize| {
        Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .enable_all()
            .build()
            .map_err(|e| StartError::context("cannot start the threads of TLS handshakes", e))
    };
    let made = Threads {
        handshakes: runtime("tls handshake", HANDSHAKE_THREADS)?,
        token: runtime("tls token", 1)?,
    };
    Ok(THREADS.get_or_init(|| made))
}

/// A P-256 key in a token. Clones share its session.
#[derive(Debug, Clone)]
pub(super) struct TokenKey(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token: Token,
    label: String,
    /// SubjectPublicKeyInfo.
    public: SubjectPublicKeyInfoDer<'static>,
    patience: Duration,
}

impl TokenKey {
    /// Logs in to the token and looks for the key. This blocks, at a start.
    pub(super) fn open(config: &hsm::TokenConfig, label: &str) -> Result<Self, StartError> {
        let (config, label) = (config.clone(), label.to_owned());
        on_token(Duration::MAX, async move {
            let token = Token::open(&config, hsm::Role::Tls).await?;
            let (curve, public) = token.certified_key(&label).await?;
            if curve != Curve::P256 {
                return Err(StartError::msg(format!("key {label} is not of P-256")));
            }
            Ok(Self(Arc::new(Inner {
                token,
                label,
                public: public_key_to_spki(&alg_id::ECDSA_P256, public),
                patience: PATIENCE,
            })))
        })?
    }

    /// The chain that the token keeps for the key; empty for none. This blocks.
    pub(super) fn certificates(&self) -> Result<Vec<Vec<u8>>, StartError> {
        let key = self.clone();
        let read = on_token(PATIENCE, async move {
            key.0.token.certificates(&key.0.label).await
        })?;
        Ok(read?)
    }

    /// Carries a handshake out where it may block.
    pub(super) async fn shake<T, F>(handshake: F) -> io::Result<T>
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let threads = threads().map_err(|e| io::Error::other(e.to_string()))?;
        AbortOnDropHandle::new(threads.handshakes.spawn(handshake))
            .await
            .map_err(io::Error::other)?
    }
}

/// Runs `work` on the thread of the tokens and blocks for it.
fn on_token<T, F>(patience: Duration, work: F) -> Result<T, StartError>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let (tell, told) = mpsc::sync_channel(1);
    threads()?.token.spawn(async move {
        // Whoever asked may have lost patience.
        let _ = tell.try_send(work.await);
    });
    told.recv_timeout(patience)
        .map_err(|_| StartError::msg("the token did not answer in time"))
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.public.clone())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let begun = Instant::now();
        let (key, message) = (self.clone(), message.to_vec());
        let signed = on_token(self.0.patience, async move {
            key.0.token.sign_certified(&key.0.label, &message).await
        });
        let signed = signed.and_then(|signed| Ok(signed?));
        duration().record(
            begun.elapsed().as_secs_f64(),
            &[KeyValue::new("signed", signed.is_ok())],
        );
        match signed {
            Ok(signature) => Ok(hsm::der_signature(&signature)),
            Err(error) => {
                let (token, key) = (self.0.token.label(), &self.0.label);
                tracing::error!(token, key, %error, "a TLS handshake failed: the token did not sign it");
                Err(rustls::Error::General(
                    "the token did not sign the handshake".to_owned(),
                ))
            }
        }
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

fn duration() -> &'static Histogram<f64> {
    static DURATION: OnceLock<Histogram<f64>> = OnceLock::new();
    DURATION.get_or_init(|| {
        opentelemetry::global::meter("latchkey")
            .f64_histogram("tls.token.signature.duration")
            .with_unit("s")
            .with_description("Time a TLS handshake waited for the token's signature")
            .build()
    })
}
