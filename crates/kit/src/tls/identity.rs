//! Who we are in TLS: certificate, key and authorities, and their changes while we run.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::{Duration, SystemTime},
};

use rustls::{RootCertStore, crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{expiry::Expiring, peer_of, token::TokenKey};
use crate::{PeerName, StartError, clock, config::Tls};

/// How often files and token are looked at for changes.
pub const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// One configuration's identity: certificate, key and authorities as they were read last. Everything of a process with
/// the same configuration shares one.
#[derive(Debug)]
pub struct Identity {
    tls: Tls,
    token: Option<TokenKey>,
    state: RwLock<State>,
    expiring: watch::Sender<Option<Expiring>>,
}

#[derive(Debug)]
struct State {
    present: Arc<Present>,
    /// Counts the changes.
    generation: u64,
    /// The state of the files that `present` is of.
    stamp: Stamp,
    /// The state of files that could not be used: said once.
    refused: Option<Stamp>,
}

/// What is in force.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
    /// Ours; or why there is none, which every peer will mind.
    pub(super) name: Result<PeerName, String>,
    pub(super) not_after: SystemTime,
}

/// What a file's change changes; or the certificates themselves, where a token keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    files: Vec<Option<(u64, u64, i64, i64)>>,
    kept: Vec<Vec<u8>>,
}

impl Identity {
    /// The identity of this configuration: the one the process has, or a new one, which reads the files and opens the
    /// token. This blocks, at a start.
    ///
    /// # Errors
    /// If a file or the token cannot be used, or does not fit the others.
    pub fn of(tls: &Tls) -> Result<Arc<Self>, StartError> {
        static ALL: Mutex<BTreeMap<String, Weak<Identity>>> = Mutex::new(BTreeMap::new());
        // No two configurations read the same; none of it is secret.
        let name = format!("{tls:?}");
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = all.get(&name).and_then(Weak::upgrade) {
            return Ok(identity);
        }
        all.retain(|_, identity| identity.strong_count() > 0);
        let identity = Arc::new(Self::load(tls)?);
        all.insert(name, Arc::downgrade(&identity));
        Ok(identity)
    }

    fn load(tls: &Tls) -> Result<Self, StartError> {
        tls.check()?;
        let token = tls
            .token
            .as_ref()
            .map(|token| TokenKey::open(token, &tls.token_key))
            .transpose()?;
        let stamp = stamp(tls, token.as_ref())?;
        let present = Arc::new(read(tls, token.as_ref(), &stamp)?);
        let identity = Self {
            tls: tls.clone(),
            token,
            expiring: watch::Sender::new(None),
            state: RwLock::new(State {
                present,
                generation: 0,
                stamp,
                refused: None,
            }),
        };
        identity.look_at_expiry();
        Ok(identity)
    }

    /// Looks whether files or token have changed, and takes what they hold now if it can be used; otherwise the old goes
    /// on, and the log says why. This blocks.
    pub fn refresh(&self) {
        let stamp = match stamp(&self.tls, self.token.as_ref()) {
            Ok(stamp) => stamp,
            Err(error) => {
                tracing::warn!(%error, "the certificate in the token cannot be read; the present one stays");
                return;
            }
        };
        let known = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.stamp == stamp || state.refused.as_ref() == Some(&stamp)
        };
        if !known {
            self.take(stamp);
        }
        self.look_at_expiry();
    }

    fn take(&self, stamp: Stamp) {
        let read = read(&self.tls, self.token.as_ref(), &stamp).and_then(|read| {
            let expected = &self.present().0.name;
            if read.name == *expected {
                return Ok(read);
            }
            Err(StartError::msg(format!(
                "the new certificate has not the name of the present one: {:?}",
                read.name
            )))
        });
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(present) => {
                tracing::info!(name = ?present.name, "TLS certificate, key or authorities have changed; new connections use the new ones");
                state.present = Arc::new(present);
                state.generation = state.generation.wrapping_add(1);
                state.stamp = stamp;
                state.refused = None;
            }
            Err(error) => {
                tracing::error!(%error, "the changed TLS files cannot be used; the present certificate stays");
                state.refused = Some(stamp);
            }
        }
    }

    fn look_at_expiry(&self) {
        let present = self.present().0;
        let now = present
            .name
            .as_ref()
            .ok()
            .and_then(|name| Expiring::of(name, present.not_after, clock::now()));
        // The same level again is no news.
        self.expiring.send_if_modified(|before| {
            let news = *before != now;
            if news && let Some(expiring) = &now {
                expiring.warn();
            }
            *before = now;
            news
        });
    }

    /// News of the end of our certificate: `None` while that is far.
    #[must_use]
    pub fn expiring(&self) -> watch::Receiver<Option<Expiring>> {
        self.expiring.subscribe()
    }

    /// What is in force, and which in order it is.
    pub(super) fn present(&self) -> (Arc<Present>, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&state.present), state.generation)
    }

    /// The trust domain of every peer.
    pub(super) fn trust_domain(&self) -> &str {
        &self.tls.trust_domain
    }

    /// Carries a handshake out where its key lets it: one in a token must not be waited for on a service's own threads.
    pub(super) async fn shake<T, F>(&self, handshake: F) -> io::Result<T>
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        match self.token {
            Some(_) => TokenKey::shake(handshake).await,
            None => handshake.await,
        }
    }
}

fn stamp(tls: &Tls, token: Option<&TokenKey>) -> Result<Stamp, StartError> {
    let of = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    let files = [
        tls.certificate_file.as_ref(),
        tls.key_file.as_ref(),
        Some(&tls.ca_file),
    ];
    let files = files.into_iter().flatten().map(|path| of(path)).collect();
    let kept = match (token, &tls.certificate_file) {
        (Some(token), None) => token.certificates()?,
        _ => Vec::new(),
    };
    Ok(Stamp { files, kept })
}

fn read(tls: &Tls, token: Option<&TokenKey>, stamp: &Stamp) -> Result<Present, StartError> {
    let (chain, whence) = match (&tls.certificate_file, &tls.token) {
        (Some(file), _) => (certificates(file)?, file.display().to_string()),
        (None, token) => {
            let label = token
                .as_ref()
                .map_or("", |token| token.token_label.as_str());
            let whence = format!("key {} of token {label}", tls.token_key);
            let chain: Vec<_> = stamp.kept.iter().cloned().map(Into::into).collect();
            if chain.is_empty() {
                return Err(StartError::msg(format!(
                    "there is no certificate of {whence}: latchkey-ceremony certificate import puts one in"
                )));
            }
            (chain, whence)
        }
    };
    let name = peer_of(&chain, &tls.trust_domain).map_err(|e| format!("{whence}: {e}"));
    let not_after = not_after(&chain).map_err(|why| StartError::context(&whence, why))?;
    let (key, source) = match (token, &tls.key_file) {
        (Some(token), _) => (
            Arc::new(token.clone()) as Arc<dyn rustls::sign::SigningKey>,
            tls.token_key.clone(),
        ),
        (None, Some(file)) => (private_key(file)?, file.display().to_string()),
        (None, None) => return Err(StartError::msg("no private key is named")),
    };
    let key = CertifiedKey::new(chain, key);
    key.keys_match()
        .map_err(|e| StartError::context(format!("{source} does not fit {whence}"), e))?;
    Ok(Present {
        key: Arc::new(key),
        roots: Arc::new(roots(&tls.ca_file)?),
        name,
        not_after,
    })
}

/// When the first certificate of the chain to end does.
fn not_after(chain: &[CertificateDer<'_>]) -> Result<SystemTime, &'static str> {
    let mut first = i64::MAX;
    for der in chain {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| "it holds what is no certificate")?;
        first = first.min(certificate.validity().not_after.timestamp());
    }
    Ok(clock::from_micros(first.saturating_mul(1_000_000)))
}

fn private_key(file: &Path) -> Result<Arc<dyn rustls::sign::SigningKey>, StartError> {
    let key = PrivateKeyDer::from_pem_file(file)
        .map_err(|e| StartError::context(format!("{} holds no private key", file.display()), e))?;
    Ok(aws_lc_rs::sign::any_supported_type(&key)?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| StartError::context(format!("{} cannot be read", path.display()), e))?;
    if certificates.is_empty() {
        return Err(StartError::msg(format!(
            "{} holds no certificate",
            path.display()
        )));
    }
    Ok(certificates)
}

fn roots(file: &Path) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}
