//! The keys of many meters at one time.
//!
//! A batch is checked row by row, brought through the token in jobs of many keys, and stored in one transaction with one
//! entry of the trail. A row that is refused refuses nothing else. Sending a batch again changes nothing: what is held is
//! compared, inside the token where it is secret.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::digest;
use dlms::Mechanism;
use hsm::{Comparison, Delivery, Kept, Sealing};
use kit::status::Fault as _;
use latchkey_proto::audit::v1::{Entry, EntryKind};

use super::{
    AUTHENTICATION_KEY, BROADCAST_KEY, ENCRYPTION_KEY, HLS_SECRET, Identity, MASTER_KEY, New,
    WrappedKeys, first_counter, wrapped_wrong,
};
use crate::{
    custody::Custody,
    error::Error,
    keyring::Kek,
    seal::Kind,
    store::{Arrival, KeyRow, KeyState, Placed},
    trail,
};

/// One meter of a batch; parsed.
pub(crate) struct Record {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) identity: Identity,
    pub(crate) keys: WrappedKeys,
}

/// What became of a batch.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) stored: usize,
    /// The places of those that are held already, the same.
    pub(crate) unchanged: Vec<usize>,
    pub(crate) refused: Vec<Refused>,
    /// Empty if nothing was stored.
    pub(crate) import_id: String,
    /// Empty if nothing was stored.
    pub(crate) digest: Vec<u8>,
}

/// A row that was refused.
pub(crate) struct Refused {
    pub(crate) index: usize,
    pub(crate) meter_id: String,
    pub(crate) error: Error,
}

/// A row on its way into the store.
struct Ready {
    index: usize,
    arrival: Arrival,
    /// What is compared with what is held, or sealed.
    incoming: Secrets,
    held: Option<KeyRow>,
}

/// The readable secrets of a row, wrapped under the transport key.
struct Secrets {
    transport: String,
    ak: Vec<u8>,
    /// Empty unless custody must be able to read it.
    hls_secret: Vec<u8>,
}

impl Custody {
    /// Imports a batch of meters, no meter twice. An error is of the token or the database, and then nothing of the
    /// batch is stored.
    pub(crate) async fn import_batch(
        &self,
        principal: &str,
        records: Vec<Record>,
        refused: Vec<Refused>,
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome {
            refused,
            ..Outcome::default()
        };
        let ready = self.brought_in(records, &mut outcome).await?;
        let (held, new): (Vec<_>, Vec<_>) = ready.into_iter().partition(|row| row.held.is_some());
        self.compare(held, &mut outcome).await?;
        let new = self.seal_all(new, &mut outcome).await?;
        self.store_all(principal, new, &mut outcome).await?;
        outcome.refused.sort_by_key(|refused| refused.index);
        Ok(outcome)
    }

    /// Brings the keys of the token through it; the rows, without what is sealed.
    async fn brought_in(
        &self,
        records: Vec<Record>,
        outcome: &mut Outcome,
    ) -> Result<Vec<Ready>, Error> {
        let meters: Vec<_> = records
            .iter()
            .map(|record| record.identity.meter_id.as_str())
            .collect();
        let mut held = self.store.keys_of(&meters).await?;
        let counter = first_counter();
        let records: Vec<_> = records
            .into_iter()
            .map(|record| {
                let held = held.remove(&record.identity.meter_id);
                let new = New {
                    source: "imported",
                    counter,
                    place: self.place(held.as_ref()),
                };
                (record, new, held)
            })
            .collect();
        let deliveries = records
            .iter()
            .map(|(record, new, _)| record.keys.delivery(new));
        let kept = self.keyring.token().take_in(deliveries.collect()).await?;
        let mut ready = Vec::with_capacity(records.len());
        for ((record, new, held), kept) in records.into_iter().zip(kept) {
            let (index, meter_id) = (record.index, record.identity.meter_id.clone());
            match kept.map_err(rejected) {
                Ok(kept) => ready.push(Ready::new(record, &new, kept, held)),
                Err(error) => outcome.refuse(index, meter_id, error),
            }
        }
        Ok(ready)
    }

    /// Sorts rows of meters that have keys: the same, or others.
    async fn compare(&self, rows: Vec<Ready>, outcome: &mut Outcome) -> Result<(), Error> {
        let comparisons: Vec<_> = rows.iter().flat_map(Ready::comparisons).collect();
        let mut same = self
            .keyring
            .token()
            .compare_in(comparisons)
            .await?
            .into_iter();
        for row in rows {
            let count = row.comparisons().len();
            let secrets = same.by_ref().take(count).fold(true, |all, same| all & same);
            if secrets && row.has_same_facts() {
                outcome.unchanged.push(row.index);
            } else {
                let meter = row.arrival.row.meter_id;
                outcome.refuse(row.index, meter.clone(), Error::KeysExist { meter });
            }
        }
        Ok(())
    }

    async fn seal_all(
        &self,
        rows: Vec<Ready>,
        outcome: &mut Outcome,
    ) -> Result<Vec<(usize, Arrival)>, Error> {
        let sealings: Vec<_> = rows.iter().flat_map(Ready::sealings).collect();
        let sealings = sealings.into_iter().map(|(_, sealing)| sealing).collect();
        let mut sealed = self.keyring.token().seal_in(sealings).await?.into_iter();
        let mut arrivals = Vec::with_capacity(rows.len());
        for mut row in rows {
            let kinds: Vec<_> = row.sealings().into_iter().map(|(kind, _)| kind).collect();
            let mut wrong = None;
            for (kind, sealed) in kinds.into_iter().zip(sealed.by_ref()) {
                match (kind, sealed) {
                    (Kind::HlsSecret, Ok(sealed)) => row.arrival.row.sealed_hls_secret = sealed,
                    (_, Ok(sealed)) => row.arrival.row.sealed_authentication_key = sealed,
                    (Kind::HlsSecret, Err(error)) => wrong = Some(wrapped_wrong(error, HLS_SECRET)),
                    (_, Err(error)) => wrong = Some(wrapped_wrong(error, AUTHENTICATION_KEY)),
                }
            }
            match wrong.or_else(|| row.arrival.row.fits_suite().err()) {
                None => arrivals.push((row.index, row.arrival)),
                Some(error) => outcome.refuse(row.index, row.arrival.row.meter_id, error),
            }
        }
        Ok(arrivals)
    }

    async fn store_all(
        &self,
        principal: &str,
        new: Vec<(usize, Arrival)>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let import_id = kit::context::new_id();
        let (places, mut arrivals): (Vec<_>, Vec<_>) = new.into_iter().unzip();
        for arrival in &mut arrivals {
            arrival.row.import_id.clone_from(&import_id);
        }
        let rows: Vec<&KeyRow> = arrivals.iter().map(|arrival| &arrival.row).collect();
        let report = |placed: &[Placed]| {
            for ((index, row), placed) in places.iter().zip(&rows).zip(placed) {
                let meter = row.meter_id.clone();
                match placed {
                    Placed::Stored => outcome.stored += 1,
                    // Stored by somebody else since it was looked for: not by this batch.
                    Placed::MeterHasKeys => {
                        outcome.refuse(*index, meter.clone(), Error::KeysExist { meter });
                    }
                    Placed::KeyInUse => {
                        outcome.refuse(*index, meter.clone(), Error::KeyInUse { meter });
                    }
                }
            }
            let stored = rows.iter().zip(placed);
            let stored = stored.filter(|(_, placed)| **placed == Placed::Stored);
            let stored: Vec<_> = stored.map(|(row, _)| *row).collect();
            if !stored.is_empty() {
                outcome.import_id.clone_from(&import_id);
                outcome.digest = digest_of(&stored);
            }
            outcome.entry(principal)
        };
        self.store.insert_many(&arrivals, report).await?;
        self.reporter.stored();
        Ok(())
    }
}

impl Outcome {
    fn refuse(&mut self, index: usize, meter_id: String, error: Error) {
        self.refused.push(Refused {
            index,
            meter_id,
            error,
        });
    }

    /// What the trail says of the batch; nothing of one that changed nothing.
    fn entry(&self, principal: &str) -> Option<Entry> {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for refused in &self.refused {
            *reasons.entry(refused.error.reason()).or_default() += 1;
        }
        let reasons: Vec<_> = reasons
            .into_iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let refused = format!("refused {} ({})", self.refused.len(), reasons.join(", "));
        let (kind, story) = match (self.stored, self.refused.len()) {
            (0, 0) => return None,
            (0, _) => (EntryKind::Denial, format!("keys of a batch: {refused}")),
            (stored, count) => {
                let mut story = format!(
                    "keys imported: batch {} of {stored} meters, SHA-256 of its lines {}",
                    self.import_id,
                    hex::encode(&self.digest)
                );
                if count > 0 {
                    story += &format!("; {refused}");
                }
                (EntryKind::Key, story)
            }
        };
        Some(trail::entry(kind, principal, "", story))
    }
}

impl WrappedKeys {
    fn delivery(&self, new: &New) -> Delivery {
        Delivery {
            transport: self.transport.clone(),
            keks: new.place.keks.clone(),
            encryption: self.encryption_key.clone(),
            broadcast: self.broadcast_key.clone(),
            master: self.master_key.clone(),
            secret: self.hls_secret.clone(),
        }
    }
}

impl Ready {
    fn new(record: Record, new: &New, kept: Kept, held: Option<KeyRow>) -> Self {
        let readable = record.identity.names(Mechanism::HlsMd5);
        let incoming = Secrets {
            transport: record.keys.transport,
            ak: record.keys.authentication_key,
            hls_secret: if readable {
                record.keys.hls_secret
            } else {
                Vec::new()
            },
        };
        let mut row = new.row(record.identity);
        let claims = row.take_marks(kept.encryption_marks, kept.broadcast_marks);
        row.wrapped_encryption_key = kept.encryption;
        row.wrapped_broadcast_key = kept.broadcast;
        row.wrapped_master_key = kept.master;
        row.wrapped_hls_secret = kept.secret;
        Self {
            index: record.index,
            arrival: Arrival { row, claims },
            incoming,
            // What is destroyed is compared with nothing: it makes room.
            held: held.filter(|held| held.state != KeyState::Destroyed),
        }
    }

    /// What is to be sealed: the row binds it, so all else must be in it.
    fn sealings(&self) -> Vec<(Kind, Sealing)> {
        let row = &self.arrival.row;
        let sealing = |kind: Kind, wrapped: &[u8]| {
            let sealing = Sealing {
                transport: self.incoming.transport.clone(),
                wrapped: wrapped.to_vec(),
                is_key: kind == Kind::AuthenticationKey,
                kek: Kek::Authentication.of(row.generations.kek),
                aad: row.binding(kind),
            };
            (kind, sealing)
        };
        let mut all = vec![sealing(Kind::AuthenticationKey, &self.incoming.ak)];
        if !self.incoming.hls_secret.is_empty() {
            all.push(sealing(Kind::HlsSecret, &self.incoming.hls_secret));
        }
        all
    }

    /// The readable secrets that came, each beside the one that is held.
    fn comparisons(&self) -> Vec<Comparison> {
        let Some(held) = &self.held else {
            return Vec::new();
        };
        let all = self.sealings().into_iter();
        all.map(|(kind, incoming)| Comparison {
            incoming: Sealing {
                aad: held.binding(kind),
                ..incoming
            },
            held: kind.of(held).to_vec(),
        })
        .collect()
    }

    /// Whether all but the readable secrets is as it is held. RFC 3394 has no randomness, and what came was wrapped as
    /// what is held.
    fn has_same_facts(&self) -> bool {
        self.held.as_ref().is_some_and(|held| {
            held.binding(Kind::Row) == self.arrival.row.binding(Kind::Row)
                && held.sealed_password.is_empty()
                && held.sealed_hls_secret.is_empty() == self.incoming.hls_secret.is_empty()
        })
    }
}

fn rejected(rejected: hsm::Rejected) -> Error {
    let which = match rejected.part {
        "encryption" => ENCRYPTION_KEY,
        "broadcast" => BROADCAST_KEY,
        "master" => MASTER_KEY,
        _ => HLS_SECRET,
    };
    wrapped_wrong(rejected.error, which)
}

/// SHA-256 over a line for each: what an auditor compares with a list of what came in.
fn digest_of(rows: &[&KeyRow]) -> Vec<u8> {
    let lines: BTreeMap<&str, &[u8]> = rows
        .iter()
        .map(|row| (row.meter_id.as_str(), row.check_value.as_slice()))
        .collect();
    let mut hash = digest::Context::new(&digest::SHA256);
    for (meter_id, check_value) in lines {
        hash.update(format!("{meter_id} {}\n", hex::encode(check_value)).as_bytes());
    }
    hash.finish().as_ref().to_vec()
}

/// The places of meters that come twice, each with the place where they came first.
pub(crate) fn doubles<'a>(meters: impl Iterator<Item = &'a str>) -> Vec<(usize, usize)> {
    let mut seen = HashMap::new();
    meters
        .enumerate()
        .filter_map(|(index, meter)| {
            let first = *seen.entry(meter).or_insert(index);
            (first != index).then_some((index, first))
        })
        .collect()
}
