//! Reporting to the auditor's trail.

use std::{fmt, time::Duration};

use aws_lc_rs::digest;
use latchkey_proto::audit::v1::{
    Entry, EntryKind, RecordRequest, trail_service_client::TrailServiceClient,
};
use tonic::Status;

use crate::{Channel, StartError, Tasks, config::Tls, context, status, tls::Identity};

/// First wait between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long to try where the caller set no deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the trail.
#[derive(Debug, Clone)]
pub struct Trail(TrailServiceClient<Channel>);

impl Trail {
    /// Over a channel to the auditor.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self(TrailServiceClient::new(channel))
    }

    /// Reports that a service started: its name, and a digest that changes with its configuration and shows none of
    /// it. In the background, until the entry is in the trail or shutdown fires.
    pub fn announce(&self, tasks: &Tasks, name: &str, configuration: &impl fmt::Debug) {
        let digest = digest::digest(&digest::SHA256, format!("{configuration:?}").as_bytes());
        let digest: String = digest
            .as_ref()
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect();
        let entry = Entry {
            kind: EntryKind::Start.into(),
            detail: format!("{name} started: configuration SHA-256 {digest}"),
            ..Entry::default()
        };
        let (trail, id, shutdown) = (self.clone(), context::new_id(), tasks.shutdown().clone());
        tasks.spawn("announce", async move {
            let recorded = async {
                while let Err(status) = trail.record_as(id.clone(), entry.clone()).await {
                    tracing::warn!(%status, "the start is not in the trail yet");
                    tokio::time::sleep(PAUSE_MAX).await;
                }
            };
            tokio::select! {
                () = recorded => {}
                () = shutdown.fired() => {}
            }
        });
    }

    /// Reports in the background when our own TLS certificate is about to end: within 30, 7 and 1 days, and when it has.
    ///
    /// # Errors
    /// If the certificate cannot be read.
    pub fn watch_certificate(&self, tasks: &Tasks, tls: &Tls) -> Result<(), StartError> {
        let mut expiring = Identity::of(tls)?.expiring();
        let (trail, shutdown) = (self.clone(), tasks.shutdown().clone());
        tasks.spawn("certificate", async move {
            loop {
                let news = expiring.borrow_and_update().clone();
                if let Some(news) = news {
                    let entry = Entry {
                        kind: EntryKind::Certificate.into(),
                        detail: news.story(),
                        ..Entry::default()
                    };
                    if let Err(status) = trail.record(entry).await {
                        tracing::warn!(%status, "the end of our certificate is not in the trail");
                    }
                }
                tokio::select! {
                    changed = expiring.changed() => if changed.is_err() { return },
                    () = shutdown.fired() => return,
                }
            }
        });
        Ok(())
    }

    /// Appends an entry; returns its index once it is durable. Tries again, under one request id, while the error is
    /// transient and the caller's deadline (or 10 s) allows.
    ///
    /// # Errors
    /// The last status. The entry may or may not be in the trail.
    pub async fn record(&self, entry: Entry) -> Result<u64, Status> {
        self.record_as(context::new_id(), entry).await
    }

    /// The same under a request id of the caller's, so that a try after a crash is the same request.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn record_as(&self, request_id: String, entry: Entry) -> Result<u64, Status> {
        let until = tokio::time::Instant::now() + context::time_left(PATIENCE);
        let mut pause = PAUSE;
        loop {
            let request = RecordRequest {
                request_id: request_id.clone(),
                entry: Some(entry.clone()),
            };
            match self.0.clone().record(request).await {
                Ok(response) => return Ok(response.into_inner().leaf_index),
                Err(error)
                    if status::is_transient(&error)
                        && tokio::time::Instant::now() + pause < until =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
