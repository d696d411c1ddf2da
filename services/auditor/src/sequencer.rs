//! The one writer of the trail: what many callers ask for becomes one transaction, then one answer each.
//!
//! ```text
//!  append ─┐                       ┌─ idx n   ┐
//!  append ─┼─ bounded queue ─ batch┼─ idx n+1 ┼─ one transaction ─▶ tree grows ─▶ head, and an answer each
//!  append ─┘                       └─ idx n+2 ┘
//! ```
//!
//! Whoever has an answer has it on the disk. An entry and its effect (a permit to be signed, a change of the
//! allowlist, the receipt of the request) are one transaction: there is never one without the other.
//! After a failed transaction the writer does not know what is on the disk; it reads the trail again before
//! it writes on.

use std::time::Duration;

use kit::{Shutdown, clock, crash_point};
use latchkey_proto::audit::v1::{AllowlistEntry, AllowlistSide, Entry, Permit};
use prost::Message as _;
use tlog::{Hash, Tree, leaf_hash};
use tokio::sync::{mpsc, oneshot, watch};

use crate::crash;
use crate::error::Error;
use crate::store::{self, Receipt, Row, Store, Tx};

/// Callers that may wait at once; more wait to be let in.
const QUEUE: usize = 1024;
/// Entries of one transaction.
const BATCH: usize = 256;
/// How often a writer that failed looks whether it can write again.
const RETRY: Duration = Duration::from_secs(1);
/// Version of the entry message.
const SCHEMA_VERSION: u32 = 1;
/// Entries read at once when the trail is replayed.
const PAGE: u32 = 256;

/// An entry to be appended.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The entry; append time and schema version are set by the writer.
    pub(crate) entry: Entry,
    /// What makes the same request again the same request.
    pub(crate) key: Option<RequestKey>,
    /// What becomes true together with the entry.
    pub(crate) effect: Effect,
}

/// The identity of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// Which kind of request; each has its own ids.
    pub(crate) scope: &'static str,
    /// The caller's id for it.
    pub(crate) request_id: String,
    /// SHA-256 of caller and request.
    pub(crate) digest: Vec<u8>,
}

/// What becomes true together with an entry.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// This permit may be signed; the writer sets its leaf index. With the policies that allowed it.
    Permit(Box<Permit>, Vec<String>),
    /// A network is on the allowlist. If it is already, there is no entry.
    Allow(AllowlistEntry),
    /// A network is not on the allowlist any more. If it was not, there is no entry, but an error.
    Disallow(AllowlistSide, String),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The receipt: where the entry is, and its permit.
    pub(crate) receipt: Receipt,
    /// The version of the allowlist, after a change of it.
    pub(crate) version: u64,
}

struct Job {
    draft: Draft,
    answer: oneshot::Sender<Result<Placed, Error>>,
}

/// The way to the writer.
#[derive(Clone, Debug)]
pub(crate) struct Sequencer {
    jobs: mpsc::Sender<Job>,
}

impl Sequencer {
    /// Appends an entry, and returns when it is durable. A caller that goes away does not stop it.
    pub(crate) async fn append(&self, draft: Draft) -> Result<Placed, Error> {
        let (answer, answered) = oneshot::channel();
        let job = Job { draft, answer };
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| Error::TrailUnwritable(None))?;
        answered.await.unwrap_or(Err(Error::TrailUnwritable(None)))
    }
}

/// The writer. There is one.
pub(crate) struct Writer {
    store: Store,
    tree: Tree,
    /// Whether the tree is known to be what is on the disk.
    sure: bool,
    jobs: mpsc::Receiver<Job>,
    head: watch::Sender<Tree>,
    writable: watch::Sender<bool>,
}

/// What the rest of the service sees of the writer.
pub(crate) struct Ends {
    /// The way to it.
    pub(crate) sequencer: Sequencer,
    /// The tree of everything that is durable.
    pub(crate) head: watch::Receiver<Tree>,
    /// Whether the last transaction worked.
    pub(crate) writable: watch::Receiver<bool>,
}

impl Writer {
    /// A writer that goes on from `tree`, which the caller has read from the store and checked.
    pub(crate) fn new(store: Store, tree: Tree) -> (Self, Ends) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (head, head_seen) = watch::channel(tree.clone());
        let (writable, writable_seen) = watch::channel(true);
        let writer = Self {
            store,
            tree,
            sure: true,
            jobs,
            head,
            writable,
        };
        let ends = Ends {
            sequencer: Sequencer { jobs: sender },
            head: head_seen,
            writable: writable_seen,
        };
        (writer, ends)
    }

    /// Writes until nobody can ask any more, or until `finished` fires: then what is waiting is still written.
    pub(crate) async fn run(mut self, finished: Shutdown) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut closing = false;
        loop {
            let received = tokio::select! {
                received = self.jobs.recv_many(&mut batch, BATCH) => received,
                () = tokio::time::sleep(RETRY), if !self.sure && !closing => {
                    self.catch_up().await;
                    continue;
                }
                () = finished.fired(), if !closing => {
                    closing = true;
                    self.jobs.close();
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            self.write(std::mem::take(&mut batch)).await;
        }
    }

    async fn write(&mut self, batch: Vec<Job>) {
        if !self.sure {
            self.catch_up().await;
        }
        let (drafts, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|job| (job.draft, job.answer)).unzip();
        let results = if self.sure {
            self.commit(drafts).await
        } else {
            Err(None)
        };
        match results {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // the caller may have gone; its receipt stays
                    let _ = answer.send(result);
                }
            }
            Err(cause) => {
                self.unsure(cause.as_ref());
                let mut cause = cause;
                for answer in answers {
                    let _ = answer.send(Err(Error::TrailUnwritable(cause.take())));
                }
            }
        }
    }

    /// One transaction for all. An error means that nothing is known of what is on the disk.
    async fn commit(
        &mut self,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Result<Placed, Error>>, Option<sqlx::Error>> {
        let mut tx = self.store.begin().await?;
        let mut leaves = Vec::with_capacity(drafts.len());
        let mut results = Vec::with_capacity(drafts.len());
        let mut index = self.tree.size();
        for draft in drafts {
            let (leaf, result) = place(&mut tx, index, draft).await?;
            if let Some(leaf) = leaf {
                leaves.push(leaf);
                index = index.saturating_add(1);
            }
            results.push(result);
        }
        crash_point(crash::BEFORE_COMMIT);
        tx.commit().await?;
        crash_point(crash::AFTER_COMMIT);
        if !leaves.is_empty() {
            self.tree.extend(leaves);
            self.head.send_replace(self.tree.clone());
        }
        Ok(results)
    }

    fn unsure(&mut self, cause: Option<&sqlx::Error>) {
        self.sure = false;
        if let Some(cause) = cause {
            tracing::error!(error = %kit::status::chain(cause), "the trail cannot be written");
        }
        self.writable.send_replace(false);
    }

    /// Reads what is on the disk beyond the tree: a transaction that seemed to fail may have been committed.
    async fn catch_up(&mut self) {
        match replay(&self.store, &mut self.tree, None).await {
            Ok(()) => {
                self.sure = true;
                self.head.send_replace(self.tree.clone());
                self.writable.send_replace(true);
                tracing::info!(size = self.tree.size(), "the trail can be written again");
            }
            Err(fault) => tracing::error!(%fault, "the trail still cannot be written"),
        }
    }
}

/// Why the stored trail cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayFault {
    /// The database does not answer.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] sqlx::Error),
    /// It is not the trail it was.
    #[error("{0}")]
    Damaged(String),
}

/// Grows `tree` by every stored entry it does not hold yet, hashing every body again. With `expected` (size
/// and root of a signed checkpoint) the tree must pass through exactly that.
pub(crate) async fn replay(
    store: &Store,
    tree: &mut Tree,
    expected: Option<(u64, Hash)>,
) -> Result<(), ReplayFault> {
    let damaged = |what: String| Err(ReplayFault::Damaged(what));
    let size = store.size().await?;
    let least = expected.map_or(0, |(size, _)| size).max(tree.size());
    if size < least {
        return damaged(format!("{size} entries are left of at least {least}"));
    }
    let mut grown = tree.clone();
    loop {
        let rows = store.rows(grown.size(), size, PAGE).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let leaf = leaf_hash(&row.body);
            if row.index != grown.size() {
                return damaged(format!("entry {} is missing", grown.size()));
            }
            if row.leaf_hash != leaf.bytes() {
                return damaged(format!("entry {} was changed", row.index));
            }
            grown.push(leaf);
            if expected.is_some_and(|(size, root)| grown.size() == size && grown.root() != root) {
                let last = row.index;
                return damaged(format!(
                    "entries 0 to {last} are not those that were signed"
                ));
            }
        }
    }
    *tree = grown;
    Ok(())
}

/// Puts one draft into the transaction: its leaf, if it makes an entry, and its answer.
async fn place(
    tx: &mut Tx,
    index: u64,
    draft: Draft,
) -> Result<(Option<Hash>, Result<Placed, Error>), sqlx::Error> {
    let Draft {
        mut entry,
        key,
        mut effect,
    } = draft;
    if let Some(key) = &key
        && let Some(receipt) = store::find_receipt(tx, key.scope, &key.request_id).await?
    {
        return Ok((None, same_request(key, receipt)));
    }
    let now = clock::timestamp(clock::now());
    if let Effect::Allow(network) = &mut effect {
        network.add_time = Some(now);
    }
    let mut receipt = Receipt {
        digest: key
            .as_ref()
            .map(|key| key.digest.clone())
            .unwrap_or_default(),
        leaf_index: index,
        ..Receipt::default()
    };
    let (happens, version) = take_effect(tx, effect, &mut receipt).await?;
    let leaf = match happens {
        Happens::Refused(error) => return Ok((None, Err(error))),
        Happens::Nothing => None,
        Happens::Entry => {
            entry.schema_version = SCHEMA_VERSION;
            entry.append_time = Some(now);
            let body = entry.encode_to_vec();
            let leaf = leaf_hash(&body);
            let row = Row {
                index,
                body,
                leaf_hash: leaf.bytes().to_vec(),
            };
            store::insert_entry(tx, &row, &entry.meter_id, &entry.reset_id).await?;
            Some(leaf)
        }
    };
    if let Some(key) = &key {
        store::insert_receipt(tx, key.scope, &key.request_id, &receipt).await?;
    }
    Ok((leaf, Ok(Placed { receipt, version })))
}

/// The first answer to the same request; a refusal of another request under its id.
pub(crate) fn same_request(key: &RequestKey, receipt: Receipt) -> Result<Placed, Error> {
    if receipt.digest == key.digest {
        Ok(Placed {
            receipt,
            version: 0,
        })
    } else {
        Err(Error::RequestReused(key.request_id.clone()))
    }
}

/// Whether a draft makes an entry.
enum Happens {
    Entry,
    /// It is true already.
    Nothing,
    Refused(Error),
}

async fn take_effect(
    tx: &mut Tx,
    effect: Effect,
    receipt: &mut Receipt,
) -> Result<(Happens, u64), sqlx::Error> {
    match effect {
        Effect::None => Ok((Happens::Entry, 0)),
        Effect::Permit(mut permit, policy_ids) => {
            permit.leaf_index = receipt.leaf_index;
            receipt.permit = permit.encode_to_vec();
            receipt.policy_ids = policy_ids;
            Ok((Happens::Entry, 0))
        }
        Effect::Allow(network) => {
            if store::allow(tx, &network).await? {
                Ok((Happens::Entry, store::raise_version(tx).await?))
            } else {
                Ok((Happens::Nothing, store::find_version(tx).await?))
            }
        }
        Effect::Disallow(side, network) => {
            if store::disallow(tx, side.into(), &network).await? {
                Ok((Happens::Entry, store::raise_version(tx).await?))
            } else {
                Ok((Happens::Refused(Error::NetworkUnknown(network)), 0))
            }
        }
    }
}
