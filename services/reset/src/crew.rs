//! The resets under way: one task each, one reset per meter, found again after a crash.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kit::Tasks;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    driver::{CancelRequest, Deps, Driver},
    error::Error,
    store::Row,
};

/// Cancellations that wait for one reset.
const MAILBOX: usize = 8;

/// Starts drivers and reaches them.
#[derive(Clone)]
pub(crate) struct Crew {
    deps: Arc<Deps>,
    tasks: Tasks,
    active: Arc<Mutex<HashMap<String, Active>>>,
}

struct Active {
    cancel: mpsc::Sender<CancelRequest>,
    changed: watch::Receiver<()>,
}

impl Crew {
    pub(crate) fn new(deps: Arc<Deps>, tasks: Tasks) -> Self {
        Self {
            deps,
            tasks,
            active: Arc::default(),
        }
    }

    /// Goes on with every reset that has not ended.
    pub(crate) async fn recover(&self) -> Result<(), Error> {
        for row in self.deps.store.unfinished().await? {
            tracing::info!(
                reset_id = row.order.reset_id,
                meter_id = row.order.meter_id,
                "goes on with a reset"
            );
            self.start(row);
        }
        Ok(())
    }

    /// Drives a stored reset. One that is driven already is left alone.
    pub(crate) fn start(&self, row: Row) {
        let reset_id = row.order.reset_id.clone();
        let request_id = row.order.request_id.clone();
        let (cancel, mailbox) = mpsc::channel(MAILBOX);
        let (changed, changes) = watch::channel(());
        {
            let mut active = self.active();
            if active.contains_key(&reset_id) {
                return;
            }
            active.insert(
                reset_id.clone(),
                Active {
                    cancel,
                    changed: changes,
                },
            );
        }
        let crew = self.clone();
        let shutdown = self.tasks.shutdown().clone();
        let work = async move {
            let driver = Driver::new(crew.deps.clone(), row, changed);
            let driven = Box::pin(driver.run(mailbox, shutdown)).await;
            crew.active().remove(&reset_id);
            if let Err(error) = driven {
                tracing::error!(error = %kit::status::chain(&error), reset_id, "a reset is not driven any more; it goes on at the next start");
            }
        };
        self.tasks
            .spawn("reset", kit::context::scope(request_id, work));
    }

    /// Cancels a reset; it is stored when this returns. Cancelling one that is cancelled changes nothing.
    pub(crate) async fn cancel(&self, reset_id: &str, by: String) -> Result<(), Error> {
        if self.is_cancelled(reset_id).await? {
            return Ok(());
        }
        let mailbox = self
            .active()
            .get(reset_id)
            .map(|active| active.cancel.clone());
        let mailbox = mailbox.ok_or(Error::Stopping)?;
        let (answer, told) = oneshot::channel();
        let request = CancelRequest { by, told: answer };
        // If the driver has ended meanwhile, the row says how.
        if mailbox.send(request).await.is_ok() && told.await == Ok(true) {
            return Ok(());
        }
        if self.is_cancelled(reset_id).await? {
            return Ok(());
        }
        Err(Error::PastPivot(reset_id.to_owned()))
    }

    /// Whether it is cancelled; an error if it ended otherwise.
    async fn is_cancelled(&self, reset_id: &str) -> Result<bool, Error> {
        let row = self.deps.store.load(reset_id).await?;
        let row = row.ok_or_else(|| Error::ResetUnknown(reset_id.to_owned()))?;
        if row.machine.cancellation().is_some() {
            return Ok(true);
        }
        match row.machine.outcome() {
            Some(_) => Err(Error::Over(reset_id.to_owned())),
            None => Ok(false),
        }
    }

    /// Something to wait on until a reset changes; `None` if nobody drives it.
    pub(crate) fn subscribe(&self, reset_id: &str) -> Option<watch::Receiver<()>> {
        self.active()
            .get(reset_id)
            .map(|active| active.changed.clone())
    }

    fn active(&self) -> MutexGuard<'_, HashMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
