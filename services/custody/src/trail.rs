//! What custody reports to the auditor's trail.
//!
//! An act (keys stored, association opened, limited command ciphered) is reported by an outbox row of its own
//! transaction: it reaches the trail even if the auditor is away and custody dies. A refusal is reported through a
//! bounded queue in memory: a flood of refused requests must fill neither the disk nor the wait for an answer.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use kit::{Shutdown, Trail};
use latchkey_proto::audit::v1::{CommandDigest, CommandService, Entry, EntryKind, Permit};
use tokio::sync::{Notify, mpsc};
use tonic::Code;

use crate::{
    apdu::{Asked, Service},
    error::Error,
    store::{Pending, Store},
};

/// Refusals that wait for the auditor.
const QUEUE: usize = 256;
/// Entries taken from the outbox at one time.
const PAGE: u32 = 64;
/// First wait after the auditor did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Commands that an entry names; a permit has no more.
const COMMANDS: usize = 64;
/// How long entries are carried after shutdown.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where the rest of custody reports.
#[derive(Clone)]
pub(crate) struct Reporter {
    refusals: mpsc::Sender<(String, Entry)>,
    stored: Arc<Notify>,
}

impl Reporter {
    /// A reporter, and the task that carries its reports. It ends after `shutdown`; what is left in the outbox then is
    /// carried after the next start.
    pub(crate) fn new(trail: Trail, store: Store) -> (Self, Carrier) {
        let (refusals, queue) = mpsc::channel(QUEUE);
        let stored = Arc::new(Notify::new());
        let carrier = Carrier {
            trail,
            store,
            queue,
            stored: Arc::clone(&stored),
        };
        (Self { refusals, stored }, carrier)
    }

    /// There is a new entry in the outbox.
    pub(crate) fn stored(&self) {
        self.stored.notify_one();
    }

    /// Reports a refusal, without waiting.
    pub(crate) fn refused(&self, entry: Entry) {
        if let Err(error) = self.refusals.try_send((kit::context::new_id(), entry)) {
            let (mpsc::error::TrySendError::Full((_, entry))
            | mpsc::error::TrySendError::Closed((_, entry))) = error;
            tracing::error!(
                meter_id = entry.meter_id,
                detail = entry.detail,
                "a refusal is missing from the trail: too many wait for the auditor"
            );
        }
    }
}

/// Carries reports to the auditor.
pub(crate) struct Carrier {
    trail: Trail,
    store: Store,
    queue: mpsc::Receiver<(String, Entry)>,
    stored: Arc<Notify>,
}

impl Carrier {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut pause = PAUSE;
        loop {
            let all = self.carry_stored().await;
            pause = if all {
                PAUSE
            } else {
                (pause * 2).min(PAUSE_MAX)
            };
            tokio::select! {
                () = shutdown.fired() => break,
                () = self.stored.notified(), if all => {}
                () = tokio::time::sleep(pause), if !all => {}
                Some((request_id, entry)) = self.queue.recv() => self.carry_refusal(request_id, entry).await,
            }
        }
        self.queue.close();
        if tokio::time::timeout(LAST_WORDS, self.carry_rest())
            .await
            .is_err()
        {
            tracing::warn!(
                refusals = self.queue.len(),
                "stopped before the auditor had every entry"
            );
        }
    }

    async fn carry_rest(&mut self) {
        self.carry_stored().await;
        while let Some((request_id, entry)) = self.queue.recv().await {
            self.carry_refusal(request_id, entry).await;
        }
    }

    /// Whether everything in the outbox is in the trail now.
    async fn carry_stored(&self) -> bool {
        let (mut after, mut refused) = (String::new(), 0);
        loop {
            match self.carry_page(&mut after).await {
                Ok(None) if refused == 0 => return true,
                Ok(None) => {
                    tracing::warn!(
                        refused,
                        "entries that the auditor refuses wait in the outbox"
                    );
                    return false;
                }
                Ok(Some(more)) => refused += more,
                Err(error) => {
                    tracing::warn!(%error, "entries wait in the outbox");
                    return false;
                }
            }
        }
    }

    /// Carries the oldest entries after this request id, which moves on; how many of them the auditor refuses. `None`
    /// at the end.
    async fn carry_page(&self, after: &mut String) -> Result<Option<usize>, String> {
        let chain = |error: Error| kit::status::chain(&error);
        let pending = self.store.pending(after, PAGE).await.map_err(chain)?;
        let Some(last) = pending.last() else {
            return Ok(None);
        };
        after.clone_from(&last.request_id);
        let mut refused = 0;
        for Pending { request_id, entry } in pending {
            // The row's own id: an entry that was recorded before a crash is recorded once.
            match self.trail.record_as(request_id.clone(), entry).await {
                Ok(_) => self.store.forget(&request_id).await.map_err(chain)?,
                Err(status) if status.code() == Code::InvalidArgument => {
                    // It must not hold up those behind it, and must not be lost.
                    tracing::error!(request_id, %status, "the auditor refuses an entry; it stays in the outbox");
                    refused += 1;
                }
                Err(status) => return Err(format!("the auditor takes no entries: {status}")),
            }
        }
        Ok(Some(refused))
    }

    async fn carry_refusal(&self, request_id: String, entry: Entry) {
        let (meter_id, detail) = (entry.meter_id.clone(), entry.detail.clone());
        if let Err(status) = self.trail.record_as(request_id, entry).await {
            tracing::error!(meter_id, detail, code = ?status.code(), "a refusal is missing from the trail");
        }
    }
}

/// An entry about a meter. A text that is no meter id is left out: the auditor would refuse the entry, and with it the
/// report of whoever sent such a text.
pub(crate) fn entry(kind: EntryKind, principal: &str, meter_id: &str, detail: String) -> Entry {
    Entry {
        kind: kind.into(),
        principal: principal.to_owned(),
        meter_id: Some(meter_id)
            .filter(|id| kit::check::meter_id(id).is_ok())
            .unwrap_or_default()
            .to_owned(),
        detail: detail.chars().take(1024).collect(),
        request_id: kit::context::request_id().chars().take(64).collect(),
        ..Entry::default()
    }
}

/// An entry about what was done, or refused, under a permit. It names the first commands of a long list.
pub(crate) fn under_permit(
    kind: EntryKind,
    permit: &Permit,
    asked: &[Asked],
    detail: String,
) -> Entry {
    Entry {
        reset_id: permit.reset_id.clone(),
        permit_id: permit.permit_id.clone(),
        purpose: permit.purpose,
        tier: permit.tier,
        commands: asked
            .iter()
            .take(COMMANDS)
            .filter_map(command_digest)
            .collect(),
        ..entry(kind, &permit.principal, &permit.meter_id, detail)
    }
}

/// A command as the trail names it; none for what no COSEM object has (class 0, index 0): its entry goes without, rather
/// than not at all.
fn command_digest(asked: &Asked) -> Option<CommandDigest> {
    if asked.class_id == 0 || asked.index < 1 {
        return None;
    }
    let service = match asked.service {
        Service::Get => CommandService::Get,
        Service::Set => CommandService::Set,
        Service::Action => CommandService::Action,
    };
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&asked.parameter);
    hash.update(&asked.selection);
    Some(CommandDigest {
        service: service.into(),
        class_id: asked.class_id.into(),
        logical_name: asked.name.to_string(),
        index: asked.index.into(),
        digest: hash.finish().as_ref().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_request_cannot_keep_its_refusal_out_of_the_trail() {
        let entry = entry(EntryKind::Denial, "", "no/meter", "x".repeat(2000));
        assert_eq!((entry.meter_id.as_str(), entry.detail.len()), ("", 1024));
        let asked = |class_id, index| Asked {
            service: Service::Get,
            class_id,
            name: dlms::Obis::new([0; 6]),
            index,
            parameter: Vec::new(),
            selection: Vec::new(),
        };
        for (class_id, index, named) in [(1, 2, 1), (0, 2, 0), (1, 0, 0), (1, -1, 0)] {
            let asked = asked(class_id, index);
            let entry = under_permit(
                EntryKind::Denial,
                &Permit::default(),
                &[asked],
                String::new(),
            );
            assert_eq!(entry.commands.len(), named);
        }
    }
}
