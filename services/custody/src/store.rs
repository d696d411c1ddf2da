//! Custody's rows: the only SQL of this crate.
//!
//! Three promises live here. A block of invocation counters is on the disk before one of it is used (P4); a limited
//! command is counted on the disk before it is ciphered (P1, P5); an entry of the trail is stored in the transaction
//! of what it reports, and leaves the outbox only when the auditor has it.

mod certificates;
mod counters;
mod fingerprints;
mod floor;
mod keys;
mod outbox;
mod permits;
mod rewrap;
mod rotations;
mod stock;

use kit::sql::{Migration, Pool};

pub(crate) use self::{
    certificates::{CertificateRow, Wanted as CertificatesWanted},
    counters::{COUNTER_END, CounterOf, ENCRYPTION, Reservation},
    fingerprints::{Claim, Fingerprint, KeyKind},
    floor::{Floor, Raised, Source, Standing},
    keys::{Generations, KeyRow, KeyState, Placed},
    outbox::Pending,
    permits::Use,
    rewrap::Rewrapped,
    rotations::{Activation, Beginning, GenerationRow, RotationRow, RotationState},
    stock::{Arrival, Filter},
};
use crate::error::Error;

/// The schema.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "first",
        sql: include_str!("../migrations/0001_first.sql"),
    },
    // Counters are per row: one key in two rows would have every nonce twice, and a permit for one meter would cipher
    // for the other. RFC 3394 has no randomness, so equal keys are equal octets.
    Migration {
        version: 2,
        name: "one key, one meter",
        sql: include_str!("../migrations/0002_one_key_one_meter.sql"),
    },
    Migration {
        version: 3,
        name: "suites, HLS secrets, master keys, public keys",
        sql: include_str!("../migrations/0003_suites.sql"),
    },
    Migration {
        version: 4,
        name: "policies",
        sql: include_str!("../migrations/0004_policies.sql"),
    },
    // meter_keys has the keys of a meter that are in use; key_generations those that are not yet, or no longer.
    // A fingerprint is kept for ever: a key that was destroyed must not come back with its counters from the start.
    Migration {
        version: 5,
        name: "generations",
        sql: include_str!("../migrations/0005_generations.sql"),
    },
    // Rows of before have no fingerprints: unmarked_keys says which, until each has its own.
    Migration {
        version: 6,
        name: "states, batches, broadcast keys",
        sql: include_str!("../migrations/0006_stock.sql"),
    },
    // What raised the counters of a meter beside their use: hints of one day are bounded.
    Migration {
        version: 7,
        name: "counter floors",
        sql: include_str!("../migrations/0007_counter_floors.sql"),
    },
    // What is sent in a rotation, and where it stands: one at a time for each meter.
    Migration {
        version: 8,
        name: "rotations",
        sql: include_str!("../migrations/0008_rotations.sql"),
    },
    Migration {
        version: 9,
        name: "certificates",
        sql: include_str!("../migrations/0009_certificates.sql"),
    },
];

/// Custody's database.
#[derive(Clone)]
pub(crate) struct Store {
    pool: Pool,
}

impl Store {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

fn counter(value: i64, column: &'static str) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::RowInvalid { column })
}

#[cfg(test)]
mod tests;
