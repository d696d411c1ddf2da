//! Every meter's keys under another generation of key-encryption keys, while custody serves.
//!
//! ```text
//! per batch:   rows ──▶ backup token: wrapped keys under the new generation ──▶ this token: each encryption key again,
//!              its check value compared ──▶ this token: seals anew, over the new facts ──▶ one transaction, one entry
//! ```
//!
//! What a row says of its generation is all the state there is: after a crash, or in another replica, the work goes on
//! with the rows that are not under the new generation yet. A row that somebody changed meanwhile is left, and taken again. A context
//! that is open keeps the octets it was opened with: they open under the old generation as long as the token has it,
//! which is until a ceremony destroys it.
//!
//! No key that is kept by RFC 3394 is in clear in this process. What is sealed (authentication keys, passwords) the token
//! gives to `hsm`, which gives it back to be sealed anew.

mod others;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hsm::{KekGeneration, Reseal, Role, Token, TokenConfig};
use latchkey_proto::audit::v1::EntryKind;
use tokio::sync::{Mutex, OwnedMutexGuard};
use zeroize::Zeroizing;

use crate::{
    custody::Custody,
    error::Error,
    keyring::Kek,
    seal::Kind,
    store::{GenerationRow, KeyRow, Rewrapped, RotationRow, Store},
    trail,
};

/// Meters in one transaction: some 20 ms of a software token, and a lock of as many rows for as long as their update.
const BATCH: u32 = 128;
/// Meters that a report names.
const NAMED: usize = 100;
/// How often rows that others changed meanwhile are taken again.
const PASSES: u32 = 16;

/// What a re-wrap needs besides the rest of custody.
#[derive(Clone)]
pub(crate) struct Rewrapping {
    backup: Option<TokenConfig>,
    /// One at a time.
    running: Arc<Mutex<()>>,
}

/// A re-wrap at work. Dropped, it stops after the last batch that was stored.
pub(crate) struct Rewrap {
    custody: Custody,
    backup: Token,
    principal: String,
    to: u32,
    after: String,
    pass: u32,
    progress: Progress,
    /// Rows of this pass that somebody changed.
    changed: u64,
    finished: bool,
    _running: OwnedMutexGuard<()>,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) to: u32,
    pub(crate) total: u64,
    pub(crate) done: u64,
    pub(crate) again: u64,
    /// Of the present pass.
    pub(crate) failed: u64,
    pub(crate) named: Vec<String>,
    pub(crate) finished: bool,
}

/// A generation and what is under it.
pub(crate) struct Needed {
    pub(crate) kek: KekGeneration,
    pub(crate) rows: u64,
}

impl Rewrapping {
    pub(crate) fn new(backup: Option<TokenConfig>) -> Self {
        Self {
            backup,
            running: Arc::new(Mutex::new(())),
        }
    }
}

impl Custody {
    /// Which generations there are, and what needs them.
    pub(crate) async fn generations(&self) -> Result<Vec<Needed>, Error> {
        let mut all: BTreeMap<u32, Needed> = BTreeMap::new();
        for kek in self.keyring.token().kek_generations().await? {
            all.insert(kek.number, Needed { kek, rows: 0 });
        }
        for (number, rows) in self.store.kek_generations().await? {
            let unknown = || Needed {
                kek: KekGeneration {
                    number,
                    ..KekGeneration::default()
                },
                rows: 0,
            };
            all.entry(number).or_insert_with(unknown).rows = rows;
        }
        Ok(all.into_values().collect())
    }

    /// Begins: opens the backup token and proves that it has the keys that this one has.
    pub(crate) async fn begin_rewrap(&self, principal: &str, to: u32) -> Result<Rewrap, Error> {
        let to = match to {
            0 => self.keyring.generation(),
            to => to,
        };
        let refuse = |why: &str| Error::RewrapRefused {
            why: why.to_owned(),
        };
        let running = Arc::clone(&self.rewrapping.running);
        let running = running.try_lock_owned();
        let running = running.map_err(|_| Error::RewrapRunning)?;
        let generations = self.generations().await?;
        let there = |needed: &&Needed| needed.kek.number == to && needed.kek.ek;
        if !generations.iter().any(|needed| there(&needed)) {
            return Err(Error::GenerationUnknown { generation: to });
        }
        let config = self.rewrapping.backup.as_ref();
        let config = config.ok_or_else(|| refuse("no [backup_token] is configured"))?;
        let backup = Token::open(config, Role::Backup)
            .await
            .map_err(|error| refuse(&error.to_string()))?;
        for needed in &generations {
            if needed.rows > 0 || needed.kek.number == to {
                prove(self.keyring.token(), &backup, &needed.kek).await?;
            }
        }
        let total = self.store.meters_not_under(to).await?;
        let detail = format!(
            "re-wrap to generation {to} begun: {total} meters, backup token {:?}",
            backup.label()
        );
        let entry = trail::entry(EntryKind::Key, principal, "", detail);
        self.store.enqueue_start(&entry).await?;
        self.reporter.stored();
        Ok(Rewrap {
            custody: self.clone(),
            backup,
            principal: principal.to_owned(),
            to,
            after: String::new(),
            pass: 1,
            progress: Progress {
                to,
                total,
                ..Progress::default()
            },
            changed: 0,
            finished: false,
            _running: running,
        })
    }
}

impl Rewrap {
    /// Does one batch; how far it is then. `None` after the report that said `finished`.
    pub(crate) async fn step(&mut self) -> Result<Option<Progress>, Error> {
        if self.finished {
            return Ok(None);
        }
        let store = &self.custody.store;
        let rows = store.keys_not_under(self.to, &self.after, BATCH).await?;
        match rows.last() {
            Some(last) => {
                self.after.clone_from(&last.meter_id);
                self.batch(rows).await?;
            }
            None if self.changed > 0 && self.pass < PASSES => {
                self.pass += 1;
                self.changed = 0;
                self.after.clear();
                self.progress.failed = 0;
                self.progress.named.clear();
            }
            None => self.finish().await?,
        }
        Ok(Some(self.progress.clone()))
    }

    async fn finish(&mut self) -> Result<(), Error> {
        self.finished = true;
        self.progress.finished = true;
        let detail = format!(
            "re-wrap to generation {} ended: {} meters done, {} left as they were, {} that others keep changing{}",
            self.to,
            self.progress.done,
            self.progress.failed,
            self.changed,
            named(&self.progress.named),
        );
        let entry = trail::entry(EntryKind::Key, &self.principal, "", detail);
        self.custody.store.enqueue_start(&entry).await?;
        self.custody.reporter.stored();
        Ok(())
    }

    async fn batch(&mut self, rows: Vec<KeyRow>) -> Result<(), Error> {
        let read = rows.len();
        let token = self.custody.keyring.token();
        let ids = (first_of(&rows), self.after.as_str());
        let others = self.custody.store.others_not_under(self.to, ids).await?;
        let (rewrapped, mut failed) = rewrap(token, &self.backup, rows, self.to).await?;
        // In the order of their ids, as every transaction that has more rows than one: two never wait for each other.
        let mut meters: BTreeMap<String, Rewrapped> = rewrapped
            .into_iter()
            .map(|row| {
                let meter = Rewrapped {
                    row,
                    keys: Vec::new(),
                    rotation: None,
                };
                (meter.row.meter_id.clone(), meter)
            })
            .collect();
        let tokens = (token, &self.backup);
        let bad = with_others(tokens, &mut meters, others, self.to).await?;
        meters.retain(|id, _| !bad.contains(id));
        failed.extend(bad);
        let rewrapped: Vec<Rewrapped> = meters.into_values().collect();
        let (to, principal) = (self.to, self.principal.as_str());
        let ends = (rewrapped.first(), rewrapped.last());
        let ends = match ends {
            (Some(first), Some(last)) => {
                format!("{} to {}", first.row.meter_id, last.row.meter_id)
            }
            _ => String::new(),
        };
        let entry = |count: usize| {
            let detail = format!("keys of {count} meters came under generation {to}: {ends}");
            trail::entry(EntryKind::Key, principal, "", detail)
        };
        let stored = store_all(&self.custody.store, &rewrapped, entry).await?;
        self.custody.reporter.stored();
        let again = read.saturating_sub(stored).saturating_sub(failed.len());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.progress.done += count(stored);
        self.progress.again += count(again);
        self.changed += count(again);
        self.progress.failed += count(failed.len());
        let room = NAMED.saturating_sub(self.progress.named.len());
        self.progress.named.extend(failed.into_iter().take(room));
        Ok(())
    }
}

fn first_of(rows: &[KeyRow]) -> &str {
    rows.first().map_or("", |row| &row.meter_id)
}

/// Adds what else these meters have; the ids of those of which something does not open.
async fn with_others(
    tokens: (&Token, &Token),
    meters: &mut BTreeMap<String, Rewrapped>,
    (keys, rotations): (Vec<GenerationRow>, Vec<RotationRow>),
    to: u32,
) -> Result<BTreeSet<String>, Error> {
    let mut bad = BTreeSet::new();
    for old in keys {
        let Some(meter) = meters.get_mut(&old.meter_id) else {
            continue;
        };
        match others::key(tokens, &old, to).await? {
            Some(key) => meter.keys.push(key),
            None => drop(bad.insert(old.meter_id)),
        }
    }
    for old in rotations {
        let Some(meter) = meters.get_mut(&old.meter_id) else {
            continue;
        };
        match others::rotation(tokens.0, &old, to).await? {
            Some(rotation) => meter.rotation = Some(rotation),
            None => drop(bad.insert(old.meter_id)),
        }
    }
    Ok(bad)
}

async fn store_all(
    store: &Store,
    rows: &[Rewrapped],
    entry: impl FnOnce(usize) -> latchkey_proto::audit::v1::Entry + Send,
) -> Result<usize, Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(store.store_rewrapped(rows, entry).await?.len())
}

fn named(meters: &[String]) -> String {
    match meters {
        [] => String::new(),
        meters => format!(
            ": {}",
            meters
                .iter()
                .take(16)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// Both tokens have the same keys of this generation: a key wrapped in the one comes out of the other as the same octets.
async fn prove(token: &Token, backup: &Token, kek: &KekGeneration) -> Result<(), Error> {
    let mut tests = Vec::new();
    for (there, of) in [(kek.ek, Kek::Encryption), (kek.mk, Kek::Master)] {
        if there {
            let label = of.of(kek.number);
            tests.push((token.generate_wrapped(&label, 16).await?, label));
        }
    }
    if kek.hs {
        let secret = Zeroizing::new(token.random(16).await?);
        let label = Kek::Secret.of(kek.number);
        tests.push((token.wrap_secret(&label, &secret).await?, label));
    }
    for (wrapped, label) in tests {
        let again = backup.rewrap(&label, &label, vec![wrapped.clone()]).await;
        let again = again.map(|mut all| all.pop());
        if !matches!(again, Ok(Some(Ok(again))) if again == wrapped) {
            let why = format!(
                "`{label}` of token {:?} is not that of backup token {:?}",
                token.label(),
                backup.label()
            );
            return Err(Error::RewrapRefused { why });
        }
    }
    Ok(())
}

/// These rows under the new generation, not stored; and the meters whose keys do not open under the one they name.
async fn rewrap(
    token: &Token,
    backup: &Token,
    rows: Vec<KeyRow>,
    to: u32,
) -> Result<(Vec<KeyRow>, Vec<String>), Error> {
    let mut by_generation: BTreeMap<u32, Vec<KeyRow>> = BTreeMap::new();
    for row in rows {
        let of = by_generation.entry(row.generations.kek).or_default();
        of.push(row);
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (from, old) in by_generation {
        let (new, bad) = from_generation((token, backup), &old, (from, to)).await?;
        for (row, bad) in new.into_iter().zip(bad) {
            if bad {
                failed.push(row.meter_id);
            } else {
                done.push(row);
            }
        }
    }
    Ok((done, failed))
}

/// The same for rows of one generation: each row, and whether it is bad.
async fn from_generation(
    (token, backup): (&Token, &Token),
    old: &[KeyRow],
    (from, to): (u32, u32),
) -> Result<(Vec<KeyRow>, Vec<bool>), Error> {
    let mut new = old.to_vec();
    for row in &mut new {
        row.generations.kek = to;
    }
    // What nothing binds would be bound from now on, whoever wrote it.
    let unbound = |row: &KeyRow| {
        let owes = row.needs_seal() || !row.wrapped_encryption_key.is_empty();
        owes && row.sealed_authentication_key.is_empty() && row.row_seal.is_empty()
    };
    let mut bad: Vec<bool> = old.iter().map(unbound).collect();
    for (kek, field) in WRAPPED {
        let (places, blobs) = present(new.iter_mut().map(|row| field(row).clone()));
        let outcomes = backup.rewrap(&kek.of(from), &kek.of(to), blobs).await?;
        put(&mut new, &mut bad, (&places, outcomes), field);
    }
    compare(token, &new, &mut bad, to).await?;
    let (old_kek, new_kek) = (Kek::Authentication.of(from), Kek::Authentication.of(to));
    for kind in SEALED {
        let sealed = old.iter().zip(&new).map(|(old, new)| Reseal {
            blob: kind.of(old).to_vec(),
            old_aad: old.binding(kind),
            new_aad: new.binding(kind),
        });
        let (places, sealed): (Vec<usize>, Vec<Reseal>) = sealed
            .enumerate()
            .filter(|(_, one)| !one.blob.is_empty())
            .unzip();
        let outcomes = token.reseal(&old_kek, &new_kek, sealed).await?;
        put(&mut new, &mut bad, (&places, outcomes), |row| {
            kind.place(row)
        });
    }
    // A row of the first schemas without an authentication key has a fact more now: its generation.
    for (row, bad) in new.iter_mut().zip(&bad) {
        if !bad && row.needs_seal() && row.row_seal.is_empty() {
            let bound = row.binding(Kind::Row);
            row.row_seal = token.protect_ak(&new_kek, &bound, &[]).await?;
        }
    }
    Ok((new, bad))
}

/// A field of a row.
type Field = fn(&mut KeyRow) -> &mut Vec<u8>;

/// What is wrapped, and under which key.
const WRAPPED: [(Kek, Field); 4] = [
    (Kek::Encryption, |row| &mut row.wrapped_encryption_key),
    (Kek::Encryption, |row| &mut row.wrapped_broadcast_key),
    (Kek::Secret, |row| &mut row.wrapped_hls_secret),
    (Kek::Master, |row| &mut row.wrapped_master_key),
];

/// What is sealed.
const SEALED: [Kind; 4] = [
    Kind::AuthenticationKey,
    Kind::Password,
    Kind::HlsSecret,
    Kind::Row,
];

/// Those that are there, and their places.
fn present(blobs: impl Iterator<Item = Vec<u8>>) -> (Vec<usize>, Vec<Vec<u8>>) {
    blobs
        .enumerate()
        .filter(|(_, blob)| !blob.is_empty())
        .unzip()
}

/// Puts outcomes into their places; a row with one that failed is bad.
fn put(
    rows: &mut [KeyRow],
    bad: &mut [bool],
    (places, outcomes): (&[usize], Vec<Result<Vec<u8>, hsm::Error>>),
    field: impl Fn(&mut KeyRow) -> &mut Vec<u8>,
) {
    for (place, outcome) in places.iter().zip(outcomes) {
        match (outcome, rows.get_mut(*place), bad.get_mut(*place)) {
            (Ok(octets), Some(row), _) => *field(row) = octets,
            (Err(error), Some(row), Some(bad)) => {
                tracing::warn!(meter_id = row.meter_id, %error, "a key does not open and stays as it is");
                *bad = true;
            }
            _ => {}
        }
    }
}

/// Each encryption key is the one it was: this token unwraps it under its new key to the check value of the row.
async fn compare(token: &Token, rows: &[KeyRow], bad: &mut [bool], to: u32) -> Result<(), Error> {
    let label = Kek::Encryption.of(to);
    let keys = rows.iter().zip(bad.iter()).map(|(row, bad)| match bad {
        true => Vec::new(),
        false => row.wrapped_encryption_key.clone(),
    });
    let (places, keys) = present(keys);
    let keys = keys.into_iter().map(|key| (label.clone(), key)).collect();
    for (place, marks) in places.into_iter().zip(token.marks_of(keys).await?) {
        let (Some(row), Some(bad)) = (rows.get(place), bad.get_mut(place)) else {
            continue;
        };
        *bad = !matches!(marks, Ok(marks) if marks.check_value[..] == row.check_value[..]);
    }
    Ok(())
}
