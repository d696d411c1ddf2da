//! What of `latchkey.custody.v1.KeyService` is about many rows, or about rows that are there.

use std::{collections::HashMap, pin::Pin};

use futures::{Stream, stream};
use kit::{clock, status::Fault as _};
use latchkey_proto::custody::v1::{
    ImportMeterKeysBatchRequest, ImportMeterKeysBatchResponse, KeyFingerprint, KeyState,
    ListKeyFingerprintsRequest, ListMeterKeysRequest, ListMeterKeysResponse, RejectedMeterKeys,
    UpdateMeterKeysRequest,
};
use tonic::{Status, Streaming};

use super::{
    Violations,
    incoming::{check, mechanisms, policies, wrapped},
    keys::render,
};
use crate::{
    certificates::{AGREEMENT_CERTIFIED, SIGNING_CERTIFIED},
    custody::Custody,
    error::Error,
    keys::{
        Identity,
        batch::{Outcome, Record, Refused, doubles},
        change::End,
    },
    store::{self, Filter, Fingerprint, KeyRow},
};

/// Rows of one batch.
const BATCH_MAX: usize = 512;
/// Characters of a justification.
const WHY_MAX: usize = 256;

/// The answers of a bulk import.
pub(super) type Batches =
    Pin<Box<dyn Stream<Item = Result<ImportMeterKeysBatchResponse, Status>> + Send>>;

impl Custody {
    /// One answer for each batch that comes. The next is not read before this one is stored: who sends faster waits.
    pub(super) fn import_batches(
        &self,
        principal: &str,
        incoming: Streaming<ImportMeterKeysBatchRequest>,
    ) -> Result<Batches, Error> {
        let place = self.imports.clone().try_acquire_owned();
        let place = place.map_err(|_| Error::ImportsBusy)?;
        let work = Work {
            custody: self.clone(),
            principal: principal.to_owned(),
            request_id: kit::context::request_id(),
            incoming,
            batch: 0,
            _place: place,
        };
        let answers = stream::try_unfold(work, |mut work| async move {
            Ok(work.next().await?.map(|answer| (answer, work)))
        });
        Ok(Box::pin(answers))
    }

    async fn import_one_batch(
        &self,
        principal: &str,
        batch: u32,
        asked: ImportMeterKeysBatchRequest,
    ) -> Result<ImportMeterKeysBatchResponse, Error> {
        let mut violations = Violations::default();
        if !(1..=BATCH_MAX).contains(&asked.meters.len()) {
            let why = format!("must have 1..{BATCH_MAX} rows, has {}", asked.meters.len());
            violations.check("meters", Err(why));
        }
        violations.none()?;
        // One that comes twice fares as it did the first time, if it is the same.
        let twice = doubles(asked.meters.iter().map(|meter| meter.meter_id.as_str()));
        let same = |(index, first): &(usize, usize)| {
            let place = |index: usize| asked.meters.get(index);
            (*index, (place(*index) == place(*first)).then_some(*first))
        };
        let twice: HashMap<usize, Option<usize>> = twice.iter().map(same).collect();
        let (mut records, mut refused) = (Vec::new(), Vec::new());
        for (index, meter) in asked.meters.into_iter().enumerate() {
            let meter_id = meter.meter_id.clone();
            let parsed = match twice.get(&index) {
                None => wrapped(meter),
                Some(Some(_)) => continue,
                Some(None) => Err(comes_twice()),
            };
            match parsed {
                Ok((identity, keys)) => records.push(Record {
                    index,
                    identity,
                    keys,
                }),
                Err(error) => refused.push(Refused {
                    index,
                    meter_id,
                    error,
                }),
            }
        }
        let outcome = self.import_batch(principal, records, refused).await?;
        Ok(answer(batch, outcome, &twice))
    }

    /// Changes what is known of a meter in clear.
    pub(super) async fn update(
        &self,
        principal: &str,
        asked: UpdateMeterKeysRequest,
    ) -> Result<KeyRow, Error> {
        let mut violations = Violations::default();
        violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
        violations.check(
            "justification",
            kit::check::text(&asked.justification, 1, WHY_MAX),
        );
        version(&mut violations, asked.row_version);
        let changed = change(&asked, &mut violations);
        violations.none()?;
        let held = self.keys_at(&asked.meter_id, asked.row_version).await?;
        let row = changed
            .into_iter()
            .fold(held.clone(), |row, change| change(&asked, row));
        check(&identity(&row), Violations::default())?;
        self.update_keys(principal, (&held, row), &asked.justification)
            .await
    }

    /// A page of descriptions.
    pub(super) async fn list(
        &self,
        asked: ListMeterKeysRequest,
    ) -> Result<ListMeterKeysResponse, Error> {
        let mut violations = Violations::default();
        if asked.page_size > 1000 {
            violations.check("page_size", Err("must be at most 1000".to_owned()));
        }
        // The token is the last meter id of the page before.
        if !asked.page_token.is_empty() {
            violations.check(
                "page_token",
                kit::check::meter_id(&asked.page_token).map_err(|_| "is none of ours".to_owned()),
            );
        }
        violations.check("source", kit::check::text(&asked.source, 0, 16));
        let filter = Filter {
            state: match asked.state() {
                KeyState::Unspecified => "",
                KeyState::Active => store::KeyState::Active.name(),
                KeyState::Compromised => store::KeyState::Compromised.name(),
                KeyState::Destroyed => store::KeyState::Destroyed.name(),
            },
            kek_generation: asked.kek_generation,
            before_us: asked.create_time_before.map_or(0, |time| {
                let seconds = time.seconds.saturating_mul(1_000_000);
                seconds.saturating_add(i64::from(time.nanos) / 1000)
            }),
            counter_min: asked.next_invocation_counter_min,
            source: asked.source,
        };
        violations.none()?;
        let size = if asked.page_size == 0 {
            100
        } else {
            asked.page_size
        };
        let mut rows = self
            .store
            .list_keys(&asked.page_token, size.saturating_add(1), &filter)
            .await?;
        let full = usize::try_from(size).unwrap_or(usize::MAX);
        let more = rows.len() > full;
        rows.truncate(full);
        let next_page_token = rows
            .last()
            .filter(|_| more)
            .map(|row| row.meter_id.clone())
            .unwrap_or_default();
        Ok(ListMeterKeysResponse {
            keys: rows
                .into_iter()
                .map(|row| render(row, self.counters.warning))
                .collect(),
            next_page_token,
        })
    }

    /// Which keys a meter has and had, or whose key it is.
    pub(super) async fn key_fingerprints(
        &self,
        asked: ListKeyFingerprintsRequest,
    ) -> Result<Vec<KeyFingerprint>, Error> {
        let mut violations = Violations::default();
        match (asked.meter_id.as_str(), asked.fingerprint.as_slice()) {
            (meter_id, []) => violations.check("meter_id", kit::check::meter_id(meter_id)),
            ("", fingerprint) => violations.length("fingerprint", fingerprint, &[16..=16]),
            _ => {
                let why = "does not go with meter_id".to_owned();
                violations.check("fingerprint", Err(why));
            }
        }
        violations.none()?;
        let found = if asked.fingerprint.is_empty() {
            self.store.fingerprints(&asked.meter_id).await?
        } else {
            let owner = self.store.owner(&asked.fingerprint).await?;
            owner.into_iter().collect()
        };
        Ok(found.into_iter().map(shown).collect())
    }
}

/// A bulk import under way.
struct Work {
    custody: Custody,
    principal: String,
    request_id: String,
    incoming: Streaming<ImportMeterKeysBatchRequest>,
    /// The number of the next batch.
    batch: u32,
    /// Given back with the last answer.
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Work {
    /// Of a service that stops, the caller has fewer answers than it asked for, each of them stored.
    async fn next(&mut self) -> Result<Option<ImportMeterKeysBatchResponse>, Status> {
        let asked = tokio::select! {
            biased;
            () = self.custody.shutdown.fired() => return Ok(None),
            asked = self.incoming.message() => asked?,
        };
        let Some(asked) = asked else {
            return Ok(None);
        };
        let batch = self.batch;
        self.batch = batch.saturating_add(1);
        let work = self.custody.import_one_batch(&self.principal, batch, asked);
        let answer = kit::context::scope(self.request_id.clone(), work).await?;
        Ok(Some(answer))
    }
}

fn answer(
    batch: u32,
    outcome: Outcome,
    twice: &HashMap<usize, Option<usize>>,
) -> ImportMeterKeysBatchResponse {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut unchanged = outcome.unchanged.len();
    let refused: HashMap<usize, &Refused> = outcome
        .refused
        .iter()
        .map(|refused| (refused.index, refused))
        .collect();
    let mut rejected: Vec<_> = outcome
        .refused
        .iter()
        .map(|refused| rejected(refused.index, refused))
        .collect();
    for (index, first) in twice {
        let Some(first) = first else { continue };
        match refused.get(first) {
            Some(refused) => rejected.push(self::rejected(*index, refused)),
            None => unchanged += 1,
        }
    }
    rejected.sort_by_key(|rejected| rejected.index);
    ImportMeterKeysBatchResponse {
        batch,
        stored_count: count(outcome.stored),
        unchanged_count: count(unchanged),
        rejected,
        import_id: outcome.import_id,
        digest: outcome.digest,
    }
}

fn rejected(index: usize, refused: &Refused) -> RejectedMeterKeys {
    let mend = refused.error.mend();
    let known = kit::check::meter_id(&refused.meter_id).is_ok();
    RejectedMeterKeys {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        meter_id: if known {
            refused.meter_id.clone()
        } else {
            String::new()
        },
        reason: refused.error.reason().to_owned(),
        detail: match mend {
            Some(mend) => format!("{}; {mend}", refused.error),
            None => refused.error.to_string(),
        },
    }
}

fn comes_twice() -> Error {
    let why = "comes twice in the batch, with other values".to_owned();
    Error::Request(vec![("meter_id".to_owned(), why)])
}

/// The end of a meter's keys; parsed.
pub(super) fn end(meter_id: String, row_version: i64, why: String) -> Result<End, Error> {
    let mut violations = Violations::default();
    violations.check("meter_id", kit::check::meter_id(&meter_id));
    violations.check("justification", kit::check::text(&why, 1, WHY_MAX));
    violations.none()?;
    Ok(End {
        meter_id,
        row_version,
        why,
    })
}

pub(super) fn version(violations: &mut Violations, row_version: i64) {
    if row_version < 1 {
        let why = "must be the version that the change was decided upon".to_owned();
        violations.check("row_version", Err(why));
    }
}

type Change = fn(&UpdateMeterKeysRequest, KeyRow) -> KeyRow;

/// What the mask names.
fn change(asked: &UpdateMeterKeysRequest, violations: &mut Violations) -> Vec<Change> {
    let paths = asked.update_mask.as_ref().map(|mask| mask.paths.as_slice());
    let paths = paths.unwrap_or_default();
    if paths.is_empty() {
        let why = "must name at least one field".to_owned();
        violations.check("update_mask", Err(why));
    }
    mechanisms(violations, &asked.mechanisms);
    policies(violations, &asked.policies);
    let known = |path: &String| {
        let change = CHANGES.iter().find(|(name, _)| name == path);
        change.map(|(_, change)| *change)
    };
    if !paths.iter().all(|path| known(path).is_some()) {
        let names: Vec<_> = CHANGES.iter().map(|(name, _)| *name).collect();
        let why = format!("names a field that is none of {}", names.join(", "));
        violations.check("update_mask", Err(why));
    }
    paths.iter().filter_map(known).collect()
}

const CHANGES: [(&str, Change); 6] = [
    ("client_system_title", |asked, row| KeyRow {
        client_system_title: asked.client_system_title.clone(),
        ..row
    }),
    ("server_system_title", |asked, row| KeyRow {
        server_system_title: asked.server_system_title.clone(),
        ..row
    }),
    ("mechanisms", |asked, row| KeyRow {
        mechanisms: mechanisms(&mut Violations::default(), &asked.mechanisms),
        ..row
    }),
    ("policies", |asked, row| KeyRow {
        // That a key came from a certificate is nothing a caller says.
        policies: policies(&mut Violations::default(), &asked.policies)
            | row.policies & (SIGNING_CERTIFIED | AGREEMENT_CERTIFIED),
        ..row
    }),
    ("server_signing_key", |asked, row| KeyRow {
        server_signing_key: asked.server_signing_key.clone(),
        policies: row.policies & !SIGNING_CERTIFIED,
        ..row
    }),
    ("server_agreement_key", |asked, row| KeyRow {
        server_agreement_key: asked.server_agreement_key.clone(),
        policies: row.policies & !AGREEMENT_CERTIFIED,
        ..row
    }),
];

fn identity(row: &KeyRow) -> Identity {
    Identity {
        meter_id: row.meter_id.clone(),
        client_title: row.client_system_title.clone(),
        server_title: row.server_system_title.clone(),
        suite: row.suite,
        mechanisms: row.mechanisms,
        policies: row.policies,
        signing_key: row.server_signing_key.clone(),
        agreement_key: row.server_agreement_key.clone(),
    }
}

pub(super) fn state(state: store::KeyState) -> KeyState {
    match state {
        store::KeyState::Active => KeyState::Active,
        store::KeyState::Compromised => KeyState::Compromised,
        store::KeyState::Destroyed => KeyState::Destroyed,
    }
}

fn shown(found: Fingerprint) -> KeyFingerprint {
    KeyFingerprint {
        fingerprint: found.fingerprint,
        meter_id: found.meter_id,
        kind: found.kind,
        generation: found.generation,
        create_time: Some(clock::timestamp(clock::from_micros(found.create_us))),
    }
}
