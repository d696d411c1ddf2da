//! What custody remembers of its counters outside the database.
//!
//! A database that is restored from a backup, or fails over to a copy that lags, has counters that were used already: a
//! nonce would repeat (P4). The database cannot tell; so each replica keeps a file beside it, of its own: the newest
//! [`KEPT`] blocks it took. A block is written there, and on the disk, before one of its counters is used. After a
//! start, and while it runs, custody looks whether the database still knows them.
//!
//! Why the newest are enough: a backup is a moment of the database. If it lacks any block that was used, then it lacks
//! every block that was reserved after that one was used. At most as many reservations are under way at one time as there are
//! connections, which is fewer than [`KEPT`]; so one of the newest at least was begun later, and it is missing too.
//!
//! The file must not be restored with the database. Where it is missing though the database was used, custody cannot
//! know, and takes it for restored. The file of one replica may be copied for a new one: it tells of the database.

use std::{
    collections::{HashMap, VecDeque},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::digest;
use kit::{StartError, crash_point};
use tokio::sync::{mpsc, oneshot};

use crate::{crash, error::Error};

/// Blocks that are remembered.
const KEPT: usize = 128;
/// Reservations that wait for the disk.
const QUEUE: usize = 1024;
/// Octets of a slot. There are two, written in turn: the one that a crash spoils is not the one before it.
const SLOT: usize = 16 * 1024;
const SLOT_OFFSET: u64 = 16 * 1024;
const MAGIC: &[u8; 8] = b"LKCNTRS1";
const HEAD: usize = 20;
const SUM: usize = 32;
/// Keys whose highest counter is known in memory.
const SEEN_MAX: usize = 16_384;

/// A block that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) meter_id: String,
    /// Generation of the encryption key that its counters are of.
    pub(crate) generation: u32,
    /// The counter after its last.
    pub(crate) end: u32,
}

/// What the file said at the start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    /// There is no file by configuration.
    Off,
    /// It is new, or cannot be read.
    Nothing,
    /// The newest blocks, the oldest of them first.
    Witnesses(Vec<Witness>),
}

/// What this process knows of the counters.
pub(crate) struct Memory {
    /// None without a file.
    queue: Option<mpsc::Sender<Note>>,
    known: Mutex<Known>,
    /// The database went back, and no counter is to be had until it is known how far.
    unsure: AtomicBool,
}

#[derive(Default)]
struct Known {
    newest: VecDeque<Witness>,
    /// By meter and generation of its key: the highest counter that was reserved, plus one.
    ends: HashMap<(String, u32), u32>,
}

impl Known {
    fn add(&mut self, witness: &Witness) {
        let key = (witness.meter_id.clone(), witness.generation);
        if self.ends.len() >= SEEN_MAX && !self.ends.contains_key(&key) {
            self.ends.clear();
        }
        let end = self.ends.entry(key).or_default();
        *end = witness.end.max(*end);
        push(&mut self.newest, witness.clone());
    }
}

struct Note {
    witness: Witness,
    done: oneshot::Sender<bool>,
}

impl Memory {
    /// Opens the file, and makes it if it is not there.
    pub(crate) fn open(file: Option<&Path>) -> Result<(Self, Option<Scribe>, Recall), StartError> {
        let Some(path) = file else {
            return Ok((Self::new(None), None, Recall::Off));
        };
        let wrong =
            |e: io::Error| StartError::context(format!("counter_state_file {}", path.display()), e);
        let (scribe, recall, queue) = Scribe::open(path).map_err(wrong)?;
        Ok((Self::new(Some(queue)), Some(scribe), recall))
    }

    fn new(queue: Option<mpsc::Sender<Note>>) -> Self {
        Self {
            queue,
            known: Mutex::default(),
            unsure: AtomicBool::new(false),
        }
    }

    /// The counter after the highest one of this key that this process has taken; 0 if it has taken none. A block that is
    /// reserved later must begin here or above: else the database went back.
    pub(crate) fn end_of(&self, meter_id: &str, generation: u32) -> u32 {
        let key = (meter_id.to_owned(), generation);
        self.known().ends.get(&key).copied().unwrap_or_default()
    }

    /// Remembers a block before one of its counters is used: it is on the disk when this returns.
    pub(crate) async fn keep(&self, witness: Witness) -> Result<(), Error> {
        if !self.is_sure() {
            return Err(Error::CountersUnsure);
        }
        self.known().add(&witness);
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        crash_point(crash::BEFORE_REMEMBER);
        let (done, written) = oneshot::channel();
        let note = Note { witness, done };
        let kept = queue.send(note).await.is_ok() && written.await.unwrap_or(false);
        crash_point(crash::AFTER_REMEMBER);
        if kept {
            Ok(())
        } else {
            Err(Error::CountersNotKept)
        }
    }

    /// The newest blocks that this process took, at most `count`.
    pub(crate) fn newest(&self, count: usize) -> Vec<Witness> {
        self.known()
            .newest
            .iter()
            .rev()
            .take(count)
            .cloned()
            .collect()
    }

    /// Whether counters may be had.
    pub(crate) fn is_sure(&self) -> bool {
        !self.unsure.load(Ordering::SeqCst)
    }

    /// No counters from here on.
    pub(crate) fn doubt(&self) {
        self.unsure.store(true, Ordering::SeqCst);
    }

    /// Every counter is above what was ever used: what was known before is of another database.
    pub(crate) fn begin_anew(&self) {
        *self.known() = Known::default();
        self.unsure.store(false, Ordering::SeqCst);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(newest: &mut VecDeque<Witness>, witness: Witness) {
    if newest.len() >= KEPT {
        newest.pop_front();
    }
    newest.push_back(witness);
}

/// Writes the file: all blocks that wait at one time with one write.
pub(crate) struct Scribe {
    file: Arc<File>,
    queue: mpsc::Receiver<Note>,
    newest: VecDeque<Witness>,
    number: u64,
}

impl Scribe {
    fn open(path: &Path) -> io::Result<(Self, Recall, mpsc::Sender<Note>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        // Two replicas that wrote one file would forget each other's blocks.
        file.try_lock()?;
        let mut slots = [read_slot(&file, 0)?, read_slot(&file, SLOT_OFFSET)?];
        slots.sort_by_key(|slot| slot.as_ref().map(|(number, _)| *number));
        let (number, recall) = match slots {
            [_, Some((number, witnesses))] => (number, Recall::Witnesses(witnesses)),
            _ => {
                file.set_len(SLOT_OFFSET * 2)?;
                file.sync_all()?;
                if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
                    File::open(folder)?.sync_all()?;
                }
                (0, Recall::Nothing)
            }
        };
        let (sender, queue) = mpsc::channel(QUEUE);
        let newest = match &recall {
            Recall::Witnesses(witnesses) => witnesses.iter().cloned().collect(),
            Recall::Off | Recall::Nothing => VecDeque::new(),
        };
        let scribe = Self {
            file: Arc::new(file),
            queue,
            newest,
            number,
        };
        Ok((scribe, recall, sender))
    }

    /// Runs until nobody can take a counter any more.
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut notes = vec![first];
            while let Ok(more) = self.queue.try_recv() {
                notes.push(more);
            }
            for note in &notes {
                push(&mut self.newest, note.witness.clone());
            }
            let written = self.write().await;
            if let Err(error) = &written {
                tracing::error!(%error, "the counter state file cannot be written: no counter is given out");
            }
            for note in notes {
                // Whoever asked may have gone; then the counters are lost.
                let _ = note.done.send(written.is_ok());
            }
        }
    }

    /// Forgets all blocks: every counter was raised above them.
    pub(crate) async fn begin_anew(&mut self) -> io::Result<()> {
        self.newest.clear();
        self.write().await
    }

    async fn write(&mut self) -> io::Result<()> {
        self.number += 1;
        let slot = encode(self.number, &self.newest);
        let offset = (self.number % 2) * SLOT_OFFSET;
        let file = Arc::clone(&self.file);
        let write = move || {
            file.write_all_at(&slot, offset)?;
            file.sync_data()
        };
        tokio::task::spawn_blocking(write)
            .await
            .map_err(io::Error::other)?
    }
}

/// Magic, number, length, a line for each block, SHA-256 of it all.
fn encode(number: u64, newest: &VecDeque<Witness>) -> Vec<u8> {
    let lines: String = newest
        .iter()
        .map(|it| format!("{} {} {}\n", it.meter_id, it.generation, it.end))
        .collect();
    let length = u32::try_from(lines.len()).unwrap_or(u32::MAX);
    let mut slot = [
        &MAGIC[..],
        &number.to_be_bytes(),
        &length.to_be_bytes(),
        lines.as_bytes(),
    ]
    .concat();
    let sum = digest::digest(&digest::SHA256, &slot);
    slot.extend_from_slice(sum.as_ref());
    slot
}

/// The number and blocks of a slot, if it is whole.
fn read_slot(file: &File, offset: u64) -> io::Result<Option<(u64, Vec<Witness>)>> {
    let mut slot = vec![0; SLOT];
    let mut read = 0;
    while let Some(rest) = slot.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        match file.read_at(rest, at)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(decode(&slot))
}

fn decode(slot: &[u8]) -> Option<(u64, Vec<Witness>)> {
    let (head, rest) = slot.split_at_checked(HEAD)?;
    let (magic, head) = head.split_at_checked(MAGIC.len())?;
    let (number, length) = head.split_at_checked(8)?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
    let lines = rest.get(..length)?;
    let sum = rest.get(length..length.checked_add(SUM)?)?;
    let whole = slot.get(..HEAD.checked_add(length)?)?;
    if magic != MAGIC || digest::digest(&digest::SHA256, whole).as_ref() != sum {
        return None;
    }
    let lines = std::str::from_utf8(lines).ok()?;
    let witnesses = lines.lines().map(witness).collect::<Option<_>>()?;
    Some((number, witnesses))
}

fn witness(line: &str) -> Option<Witness> {
    let mut words = line.split(' ');
    let witness = Witness {
        meter_id: words.next()?.to_owned(),
        generation: words.next()?.parse().ok()?,
        end: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(witness)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(meter: usize, generation: u32, end: u32) -> Witness {
        Witness {
            // The longest id there is.
            meter_id: format!("{meter:0>64}"),
            generation,
            end,
        }
    }

    async fn keep(path: &Path, blocks: &[Witness]) -> Recall {
        let (memory, scribe, recall) = Memory::open(Some(path)).unwrap();
        let scribe = scribe.unwrap();
        let keeping = async {
            for block in blocks {
                memory.keep(block.clone()).await.unwrap();
            }
            drop(memory);
        };
        tokio::join!(scribe.run(), keeping);
        recall
    }

    #[tokio::test]
    async fn the_newest_blocks_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        let blocks: Vec<_> = (0..300).map(|n| block(n, u32::MAX, u32::MAX)).collect();
        assert_eq!(keep(&path, &blocks[..1]).await, Recall::Nothing);
        assert_eq!(
            keep(&path, &blocks[1..]).await,
            Recall::Witnesses(blocks[..1].to_vec())
        );
        let newest = blocks[blocks.len() - KEPT..].to_vec();
        assert_eq!(keep(&path, &[]).await, Recall::Witnesses(newest));
    }

    #[tokio::test]
    async fn a_slot_that_a_crash_spoiled_is_not_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        let (one, two) = (block(1, 1, 9), block(2, 1, 9));
        keep(&path, &[one.clone(), two.clone()]).await;
        let whole = std::fs::read(&path).unwrap();
        let slot = |n: usize| n * SLOT..(n + 1) * SLOT;
        let newer = usize::from(decode(&whole[slot(1)]).unwrap().0 == 2);
        let mut torn = whole.clone();
        torn[newer * SLOT + HEAD] ^= 1;
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(keep(&path, &[]).await, Recall::Witnesses(vec![one]));
        torn[(1 - newer) * SLOT] ^= 1;
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(keep(&path, &[]).await, Recall::Nothing);
    }

    #[test]
    fn one_file_is_of_one_replica() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        let first = Memory::open(Some(&path)).unwrap();
        assert!(Memory::open(Some(&path)).is_err());
        drop(first);
        assert!(Memory::open(Some(&path)).is_ok());
        assert_eq!(Memory::open(None).unwrap().2, Recall::Off);
    }

    #[tokio::test]
    async fn nothing_is_given_out_in_doubt() {
        let memory = Memory::new(None);
        for (generation, end) in [(1, 17), (1, 9), (2, 9)] {
            memory.keep(block(1, generation, end)).await.unwrap();
        }
        let meter_id = &block(1, 1, 1).meter_id;
        let ends = [1, 2, 3].map(|generation| memory.end_of(meter_id, generation));
        assert_eq!(ends, [17, 9, 0], "in whatever order they are told");
        assert_eq!(memory.newest(2), [block(1, 2, 9), block(1, 1, 9)]);
        memory.doubt();
        let refused = memory.keep(block(2, 1, 9)).await;
        assert!(matches!(refused, Err(Error::CountersUnsure)));
        memory.begin_anew();
        memory.keep(block(2, 1, 9)).await.unwrap();
        assert_eq!(memory.end_of(meter_id, 1), 0);
    }
}
