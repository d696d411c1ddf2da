//! Refusals of this service itself, on their way to the trail. They are stored first: the trail gets them also when
//! the auditor is away at that moment.

use std::{sync::Arc, time::Duration};

use kit::{Shutdown, status};
use latchkey_proto::audit::v1::{Entry, EntryKind};
use prost::Message as _;
use tokio::sync::Notify;
use tonic::{Code, Status};

use crate::{
    error::Error,
    office::{self, Office},
    store::{Pending, Store},
};

/// How long a refusal waits for its entry to be in the trail.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two rounds while the auditor is away.
const PAUSE: Duration = Duration::from_secs(5);

/// The refusals that the trail does not hold yet.
#[derive(Clone)]
pub(crate) struct Denials {
    store: Store,
    office: Office,
    left: Arc<Notify>,
}

/// Wakes the delivery when it is dropped: also if the caller goes away while its refusal is on its way to the trail.
struct Late<'a>(&'a Notify);

impl Drop for Late<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Denials {
    pub(crate) fn new(store: Store, office: Office) -> Self {
        Self {
            store,
            office,
            left: Arc::default(),
        }
    }

    /// Leaves a denial in the trail, at once or later. The refusal stands whether or not this succeeds.
    pub(crate) async fn record(&self, denial: Entry) {
        let entry = Entry {
            kind: EntryKind::Denial.into(),
            request_id: office::limited(&kit::context::request_id(), 64),
            ..denial
        };
        let denial = Pending {
            request_id: kit::context::new_id(),
            entry: entry.encode_to_vec(),
        };
        let late = Late(&self.left);
        match self.store.owe_denial(&denial).await {
            Ok(true) => {}
            Ok(false) => tracing::error!("too many denials wait for the auditor: one is not kept"),
            Err(error) => tracing::error!(%error, "a denial could not be stored"),
        }
        match tokio::time::timeout(PATIENCE, self.deliver(&denial)).await {
            Ok(Ok(())) => std::mem::forget(late),
            failed => tracing::warn!(?failed, "a denial is still owed to the trail"),
        }
    }

    /// Delivers what is left, now and whenever something is, until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let work = async {
            loop {
                match self.settle().await {
                    Ok(()) => self.left.notified().await,
                    Err(error) => {
                        tracing::debug!(%error, "denials are still owed to the trail");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.fired() => {}
        }
    }

    async fn settle(&self) -> Result<(), Error> {
        loop {
            let denials = self.store.denials().await?;
            if denials.is_empty() {
                return Ok(());
            }
            for denial in denials {
                self.deliver(&denial).await?;
            }
        }
    }

    async fn deliver(&self, denial: &Pending) -> Result<(), Error> {
        let entry = Entry::decode(denial.entry.as_slice())
            .map_err(|error| Error::Row(error.to_string()))?;
        match self.office.deliver(&denial.request_id, entry).await {
            Ok(_) => {}
            // It would be refused again, and hold up those behind it.
            Err(refused) if is_hopeless(&refused) => {
                tracing::error!(%refused, "the auditor does not take a denial: it is dropped");
            }
            Err(error) => return Err(Error::Upstream(error)),
        }
        self.store.denial_told(&denial.request_id).await
    }
}

/// Whether the entry itself is what the auditor refuses.
fn is_hopeless(error: &Status) -> bool {
    error.code() == Code::InvalidArgument && status::reason(error).is_some()
}
