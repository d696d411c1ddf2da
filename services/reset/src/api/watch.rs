//! The story of a reset as it happens. The rows are the truth; the channel only says when to look again.

use std::collections::VecDeque;

use futures::stream::{self, BoxStream, StreamExt as _};
use kit::clock;
use latchkey_proto::reset::v1::{ResetEvent, WatchResetResponse};
use tokio::sync::watch;
use tonic::Status;

use super::Api;
use crate::{
    error::Error,
    orders,
    store::{Row, StoryLine},
};

const PAGE: i64 = 256;

struct Watcher {
    api: Api,
    row: Row,
    after: i64,
    lines: VecDeque<StoryLine>,
    changed: Option<watch::Receiver<()>>,
}

/// All lines after a sequence number, then new ones until the reset is over.
pub(super) fn story(
    api: Api,
    row: Row,
    after: i64,
) -> BoxStream<'static, Result<WatchResetResponse, Status>> {
    let changed = api.crew.subscribe(&row.order.reset_id);
    let watcher = Watcher {
        api,
        row,
        after,
        lines: VecDeque::new(),
        changed,
    };
    stream::try_unfold(watcher, |mut watcher| async move {
        match watcher.next().await {
            Ok(Some(line)) => Ok(Some((watcher.render(line), watcher))),
            Ok(None) => Ok(None),
            Err(error) => Err(Status::from(error)),
        }
    })
    .boxed()
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<StoryLine>, Error> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                self.after = line.sequence;
                return Ok(Some(line));
            }
            // Marked as seen before it is read: what comes in between wakes the wait below.
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            }
            let store = &self.api.deps.store;
            if let Some(row) = store.load(&self.row.order.reset_id).await? {
                self.row = row;
            }
            self.lines = store
                .story(&self.row.order.reset_id, self.after, PAGE)
                .await?
                .into();
            if self.lines.is_empty() {
                if !self.wait().await {
                    return Ok(None);
                }
            // Between the two reads more may have come: a line never goes out with a row that is older than it, or the
            // last one would come without the verdict.
            } else if let Some(row) = store.load(&self.row.order.reset_id).await? {
                self.row = row;
            }
        }
    }

    /// Waits for news; whether there can be any.
    async fn wait(&mut self) -> bool {
        if self.row.machine.outcome().is_some() {
            return false;
        }
        let Some(changed) = &mut self.changed else {
            // Nobody drives it: the service stops, or cannot go on with it.
            return false;
        };
        tokio::select! {
            news = changed.changed() => {
                if news.is_err() {
                    // The driver has ended; what it wrote last is still to be read.
                    self.changed = None;
                }
                true
            }
            () = self.api.shutdown.fired() => false,
        }
    }

    fn render(&self, line: StoryLine) -> WatchResetResponse {
        WatchResetResponse {
            event: Some(ResetEvent {
                sequence: u64::try_from(line.sequence).unwrap_or(0),
                time: Some(clock::timestamp(clock::from_micros(line.time_us))),
                kind: line.kind,
                text: line.text,
            }),
            reset: Some(orders::message(&self.row)),
        }
    }
}
