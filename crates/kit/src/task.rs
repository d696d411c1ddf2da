//! Background tasks: named, tracked, awaited at shutdown.

use std::future::Future;

use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span};

use crate::Shutdown;

/// The background tasks of one service.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
}

impl Tasks {
    /// No tasks yet. They are expected to end soon after `shutdown` fires.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            tracker: TaskTracker::new(),
            shutdown,
        }
    }

    /// The signal the tasks watch.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task. A panic in it is logged and ends only the task.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = self
            .tracker
            .spawn(task.instrument(info_span!("task", name)));
        self.tracker.spawn(async move {
            if let Err(error) = running.await {
                tracing::error!(name, %error, "task ended badly");
            }
        });
    }

    /// Waits until every task has ended. Call it after shutdown has fired.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
