//! Custody as several processes on one database: where a context is opened, and that it stays there.
//!
//! A cipher context lives in the process that opened it. Another one knows nothing of it, so nothing is ever tried again
//! there: what was asked may have been done, and a command is ciphered once. When its process is gone, the context is
//! gone, and so is the association; whoever holds it opens a new one, in a process that serves.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kit::{Replica, Replicas, Shutdown, StartError, Tasks, config, config::Tls, status};
use latchkey_proto::custody::v1::{
    OpenContextResponse, RotationKeys, cipher_service_client::CipherServiceClient,
};
use tonic::{Code, Status};

use crate::{
    custody::{Context, Terms},
    lane::Lane,
};

/// How long a process may take to open a context while there are others to ask.
const PATIENCE: Duration = Duration::from_secs(3);
/// The service whose health counts.
const SERVICE: &str = "latchkey.custody.v1.CipherService";

/// All processes of custody.
#[derive(Debug, Clone)]
pub(crate) struct Custodies {
    replicas: Replicas,
    /// By address.
    lanes: Arc<HashMap<String, Lane>>,
}

impl Custodies {
    /// Nothing is connected yet.
    pub(crate) fn new(
        config: &config::Replicas,
        tls: &Tls,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let replicas = Replicas::new(config, tls)?;
        let patience = Duration::from_millis(config.timeout_ms);
        let lane = |replica: &Replica| {
            let client = CipherServiceClient::new(replica.channel());
            let lane = Lane::new(client, tasks.clone(), patience);
            (replica.endpoint().to_owned(), lane)
        };
        let lanes = Arc::new(replicas.in_order().iter().map(lane).collect());
        Ok(Self { replicas, lanes })
    }

    /// Follows their health until shutdown.
    pub(crate) async fn watch(self, shutdown: Shutdown) {
        self.replicas.watch(SERVICE, shutdown).await;
    }

    /// The first one that serves: where what is asked is of no context.
    pub(crate) fn first(&self) -> Option<Lane> {
        let order = self.replicas.in_order();
        order.first().and_then(|replica| self.lane(replica))
    }

    /// Opens a context in a process that serves. One that does not answer is passed over: it may have counted an
    /// association, and nothing else was done. A rotation stays with the first, which may have begun an agreement.
    pub(crate) async fn open(
        &self,
        terms: Terms,
    ) -> Result<(Context, OpenContextResponse), Status> {
        let order = match terms.rotation_keys {
            RotationKeys::Unspecified => self.replicas.in_turn(),
            _ => self.replicas.in_order(),
        };
        let mut silence = None;
        let mut left = order.len();
        for replica in order {
            let Some(lane) = self.lane(&replica) else {
                continue;
            };
            left = left.saturating_sub(1);
            let opening = Context::open(lane, terms.clone());
            let opened = match left {
                0 => opening.await,
                _ => match tokio::time::timeout(PATIENCE, opening).await {
                    Ok(opened) => opened,
                    Err(_) => Err(Status::deadline_exceeded("custody did not answer in time")),
                },
            };
            match opened {
                Err(status) if cannot(&status) => {
                    tracing::warn!(endpoint = replica.endpoint(), %status, "custody opens no context here");
                    replica.failed();
                    silence.get_or_insert(status);
                }
                // It was counted by the one that did not answer.
                Err(status) if is(&status, "PERMIT_ASSOCIATIONS_SPENT") && silence.is_some() => {}
                done => return done,
            }
        }
        Err(silence.unwrap_or_else(|| Status::aborted("custody has no address")))
    }

    fn lane(&self, replica: &Replica) -> Option<Lane> {
        self.lanes.get(replica.endpoint()).cloned()
    }
}

fn is(status: &Status, reason: &str) -> bool {
    status::reason(status).is_some_and(|said| said == reason)
}

/// Whether this process cannot do its work now, and another one may.
fn cannot(status: &Status) -> bool {
    match status::reason(status) {
        // It did not say it: the connection, or the time.
        None => status::is_transient(status),
        Some(_) => status.code() == Code::Unavailable,
    }
}

/// Whether a context is lost with this answer to one of its jobs: its process is gone, or does not know it.
pub(crate) fn is_lost(status: &Status) -> bool {
    match status::reason(status).as_deref() {
        Some("CONTEXT_UNKNOWN" | "CONTEXT_FENCED") => true,
        Some("CUSTODY_UNAVAILABLE") | None => status.code() == Code::Unavailable,
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use kit::status::Fault;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("said")]
    struct Said(Code, &'static str);

    impl Fault for Said {
        fn code(&self) -> Code {
            self.0
        }
        fn reason(&self) -> &'static str {
            self.1
        }
    }

    #[test]
    fn what_is_lost_and_what_only_fails() {
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        let cases = [
            (Code::NotFound, "CONTEXT_UNKNOWN", true, false),
            (Code::NotFound, "CONTEXT_FENCED", true, false),
            (Code::Unavailable, "CUSTODY_UNAVAILABLE", true, true),
            (Code::DeadlineExceeded, "CUSTODY_UNAVAILABLE", false, false),
            (Code::Unavailable, "TOKEN_FAILED", false, true),
            (Code::Unavailable, "DATABASE_UNAVAILABLE", false, true),
            (Code::PermissionDenied, "PERMIT_EXPIRED", false, false),
            (Code::NotFound, "KEYS_UNKNOWN", false, false),
        ];
        for (code, reason, lost, elsewhere) in cases {
            let status = status::status(&Said(code, reason));
            assert_eq!(
                (is_lost(&status), cannot(&status)),
                (lost, elsewhere),
                "{reason}"
            );
        }
        assert!(cannot(&broken), "{broken:?}");
    }
}
