//! Reading the trail: checkpoints, proofs, pages and the export.

use std::sync::Arc;

use futures::Stream;
use kit::crash_point;
use latchkey_proto::audit::v1::{Entry, IndexedEntry};
use prost::Message as _;
use tlog::{Checkpoint, Hash, Tree, export, proof};
use tokio::sync::{Mutex, watch};

use crate::crash;
use crate::error::{Error, StartFault};
use crate::sequencer::{self, ReplayFault};
use crate::signer::{Keys, LOG_KEY, Sign, ed25519};
use crate::store::Store;

/// Octets of one piece of the export.
const CHUNK: usize = 64 * 1024;
/// Entries read at once for the export.
const PAGE: u32 = 64;
/// Octets of entries in one page of a listing: well below what a client accepts in one message.
const LISTING: usize = 1024 * 1024;

/// The trail as readers see it.
pub(crate) struct Trail {
    store: Store,
    keys: Keys,
    signer: Arc<dyn Sign>,
    head: watch::Receiver<Tree>,
    signed: Mutex<Option<Signed>>,
}

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// How many entries it covers.
    pub(crate) size: u64,
    /// The signed note.
    pub(crate) note: String,
}

/// A page of entries.
pub(crate) struct Page {
    pub(crate) entries: Vec<IndexedEntry>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<u64>,
}

/// An inclusion proof.
pub(crate) struct Inclusion {
    pub(crate) tree_size: u64,
    pub(crate) leaf: Hash,
    pub(crate) path: Vec<Hash>,
}

/// The tree of the stored trail, and its last signed checkpoint. Every stored body is hashed again, and the tree must
/// pass through the checkpoint: who changed, removed or brought back entries while we were away is found here.
pub(crate) async fn recover(
    store: &Store,
    keys: &Keys,
) -> Result<(Tree, Option<Signed>), kit::StartError> {
    let signed = match store.checkpoint().await? {
        None => None,
        Some(note) => {
            let checkpoint = Checkpoint::open(&note, &keys.log, ed25519)
                .map_err(StartFault::ForeignCheckpoint)?;
            Some((checkpoint, note))
        }
    };
    let expected = signed.as_ref().map(|(c, _)| (c.size(), c.root()));
    let mut tree = Tree::new();
    match sequencer::replay(store, &mut tree, expected).await {
        Ok(()) => {}
        Err(ReplayFault::Unreadable(error)) => return Err(error.into()),
        Err(ReplayFault::Damaged(what)) => return Err(StartFault::TrailDisagrees { what }.into()),
    }
    let signed = signed.map(|(checkpoint, note)| Signed {
        size: checkpoint.size(),
        note,
    });
    Ok((tree, signed))
}

impl Trail {
    /// The trail that [`recover`] found; `head` follows the writer.
    pub(crate) fn new(
        store: Store,
        keys: Keys,
        signer: Arc<dyn Sign>,
        head: watch::Receiver<Tree>,
        signed: Option<Signed>,
    ) -> Self {
        Self {
            store,
            keys,
            signer,
            head,
            signed: Mutex::new(signed),
        }
    }

    /// A checkpoint over everything that is durable now; signed if there is none yet.
    pub(crate) async fn checkpoint(&self) -> Result<Signed, Error> {
        let mut signed = self.signed.lock().await;
        let tree = self.head.borrow().clone();
        if let Some(signed) = signed.as_ref()
            && signed.size >= tree.size()
        {
            return Ok(signed.clone());
        }
        let checkpoint = Checkpoint::new(self.keys.log.name(), tree.size(), tree.root())?;
        crash_point(crash::BEFORE_SIGN_CHECKPOINT);
        let message = checkpoint.to_string();
        let signature = self.signer.sign(LOG_KEY, message.as_bytes()).await?;
        crash_point(crash::AFTER_SIGN_CHECKPOINT);
        let newest = Signed {
            size: tree.size(),
            note: checkpoint.seal(&self.keys.log, &signature),
        };
        // stored before anybody sees it: what was shown is what the next start is held to
        self.store
            .put_checkpoint(newest.size, &newest.note)
            .await
            .map_err(|e| Error::TrailUnwritable(Some(e)))?;
        crash_point(crash::AFTER_STORE_CHECKPOINT);
        *signed = Some(newest.clone());
        Ok(newest)
    }

    /// The key that verifies checkpoints.
    pub(crate) fn verifier_key(&self) -> String {
        self.keys.log.to_string()
    }

    /// The proof that an entry is in the tree of `tree_size` entries (0: of the newest checkpoint).
    pub(crate) async fn inclusion(
        &self,
        leaf_index: u64,
        tree_size: u64,
    ) -> Result<Inclusion, Error> {
        let tree_size = self.covered(tree_size).await?;
        if leaf_index >= tree_size {
            return Err(Error::BeyondTrail {
                asked: leaf_index.saturating_add(1),
                size: tree_size,
            });
        }
        let leaves = self.leaves(tree_size).await?;
        let path = proof::inclusion(&leaves, leaf_index)?;
        let at = usize::try_from(leaf_index).ok();
        let leaf = at
            .and_then(|at| leaves.get(at))
            .copied()
            .ok_or(Error::EntryDamaged(leaf_index))?;
        Ok(Inclusion {
            tree_size,
            leaf,
            path,
        })
    }

    /// The proof that the tree of `old_size` entries is a prefix of that of `new_size` (0: of the newest checkpoint),
    /// and the size of the latter.
    pub(crate) async fn consistency(
        &self,
        old_size: u64,
        new_size: u64,
    ) -> Result<(u64, Vec<Hash>), Error> {
        let new_size = self.covered(new_size).await?;
        if old_size > new_size {
            return Err(Error::BeyondTrail {
                asked: old_size,
                size: new_size,
            });
        }
        let leaves = self.leaves(new_size).await?;
        Ok((new_size, proof::consistency(&leaves, old_size)?))
    }

    /// The size asked for, if a checkpoint covers it.
    async fn covered(&self, asked: u64) -> Result<u64, Error> {
        let size = self.checkpoint().await?.size;
        match asked {
            0 => Ok(size),
            asked if asked <= size => Ok(asked),
            asked => Err(Error::BeyondTrail { asked, size }),
        }
    }

    /// All leaf hashes of a tree. They are read each time; stored subtrees come with issue 5.
    async fn leaves(&self, size: u64) -> Result<Vec<Hash>, Error> {
        let leaves = self.store.leaf_hashes(size).await;
        let leaves = leaves.map_err(Error::TrailUnreadable)?;
        match u64::try_from(leaves.len()) {
            Ok(found) if found == size => Ok(leaves),
            Ok(found) => Err(Error::EntryDamaged(found)),
            Err(_) => Err(Error::EntryDamaged(size)),
        }
    }

    /// Entries from `from` on, at most `limit`, about a meter and of a reset (empty: any).
    pub(crate) async fn page(
        &self,
        from: u64,
        limit: u32,
        meter_id: &str,
        reset_id: &str,
    ) -> Result<Page, Error> {
        let more = limit.saturating_add(1);
        let rows = self.store.rows_about(from, meter_id, reset_id, more).await;
        let mut octets = 0_usize;
        let mut entries = Vec::new();
        for row in rows.map_err(Error::TrailUnreadable)? {
            octets = octets.saturating_add(row.body.len());
            let full = u32::try_from(entries.len()).is_ok_and(|count| count == limit);
            if full || (octets > LISTING && !entries.is_empty()) {
                return Ok(Page {
                    entries,
                    next: Some(row.index),
                });
            }
            let entry = Entry::decode(row.body.as_slice());
            entries.push(IndexedEntry {
                leaf_index: row.index,
                entry: Some(entry.map_err(|_| Error::EntryDamaged(row.index))?),
            });
        }
        Ok(Page {
            entries,
            next: None,
        })
    }

    /// The export file under a checkpoint over everything that is durable now, in pieces.
    pub(crate) async fn export(
        self: Arc<Self>,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, Error>> + use<>, Error> {
        let signed = self.checkpoint().await?;
        let begin = Cursor {
            pending: export::head(&signed.note).into_bytes(),
            next: 0,
            size: signed.size,
            trail: self,
        };
        Ok(futures::stream::try_unfold(begin, Cursor::piece))
    }
}

/// Where an export stands.
struct Cursor {
    trail: Arc<Trail>,
    pending: Vec<u8>,
    next: u64,
    size: u64,
}

impl Cursor {
    /// The next piece of the file; `None` at its end.
    async fn piece(mut self) -> Result<Option<(Vec<u8>, Self)>, Error> {
        while self.pending.len() < CHUNK && self.next < self.size {
            let rows = self.trail.store.rows(self.next, self.size, PAGE).await;
            let rows = rows.map_err(Error::TrailUnreadable)?;
            if rows.is_empty() {
                return Err(Error::EntryDamaged(self.next));
            }
            for row in rows {
                let line = export::line(row.index, &row.body);
                self.pending.extend_from_slice(line.as_bytes());
                self.next = row.index.saturating_add(1);
            }
        }
        if self.pending.is_empty() {
            return Ok(None);
        }
        let rest = self.pending.split_off(self.pending.len().min(CHUNK));
        let piece = std::mem::replace(&mut self.pending, rest);
        Ok(Some((piece, self)))
    }
}
