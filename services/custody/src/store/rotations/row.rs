//! A rotation, and a key that is not in use, as rows.

use dlms::agreement::KeyId;
use sqlx::{Row as _, any::AnyRow};

use crate::{
    error::Error,
    rotation::{KeySet, name_of},
    store::{counter, counters::received},
};

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationState {
    /// The keys are stored; the old ones are in force.
    New,
    /// The keys may have reached the meter.
    Unsettled,
    /// They are the meter's keys.
    Active,
    /// It was given up.
    Abandoned,
}

impl RotationState {
    const ALL: [Self; 4] = [Self::New, Self::Unsettled, Self::Active, Self::Abandoned];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Unsettled => "unsettled",
            Self::Active => "active",
            Self::Abandoned => "abandoned",
        }
    }

    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::Active | Self::Abandoned)
    }
}

/// A rotation as it is stored.
#[derive(Clone)]
pub(crate) struct RotationRow {
    pub(crate) rotation_id: String,
    pub(crate) meter_id: String,
    pub(crate) keys: KeySet,
    /// The master key is agreed, not transferred.
    pub(crate) agreed: bool,
    pub(crate) state: RotationState,
    /// The parameter that carries the keys, AES-GCM under `kek-ak-N`; empty if they are agreed.
    pub(crate) sealed_send: Vec<u8>,
    /// The parameter that a meter with the new master key takes; empty if there is none.
    pub(crate) sealed_confirm: Vec<u8>,
    /// N of the above, and of the rows of the new keys.
    pub(crate) kek_generation: u32,
    /// How often the keys were sent.
    pub(crate) attempts: u32,
    /// Contexts opened since the meter last proved something.
    pub(crate) openings: u32,
    /// What was last learnt.
    pub(crate) detail: String,
    pub(crate) create_us: i64,
}

/// A key that is not in use: `NEW`, `RETIRING` or `DESTROYED`.
#[derive(Clone)]
pub(crate) struct GenerationRow {
    pub(crate) meter_id: String,
    pub(crate) key: KeyId,
    pub(crate) generation: u32,
    /// Wrapped (RFC 3394), of an authentication key sealed (AES-GCM); empty when it is destroyed.
    pub(crate) secret: Vec<u8>,
    pub(crate) check_value: Vec<u8>,
    /// Binds what is wrapped to this row: AES-GCM of nothing under `kek-ak-N`.
    pub(crate) seal: Vec<u8>,
    pub(crate) kek_generation: u32,
    pub(crate) next_counter: u32,
    pub(crate) last_received: Option<u32>,
}

pub(in crate::store) fn rotation_row(row: &AnyRow) -> Result<RotationRow, Error> {
    let state: String = row.try_get("state")?;
    let state = RotationState::ALL.into_iter().find(|it| it.name() == state);
    let bits: i64 = row.try_get("key_bits")?;
    Ok(RotationRow {
        rotation_id: row.try_get("rotation_id")?,
        meter_id: row.try_get("meter_id")?,
        keys: u8::try_from(bits)
            .ok()
            .and_then(KeySet::from_bits)
            .ok_or(Error::RowInvalid { column: "key_bits" })?,
        agreed: row.try_get::<i64, _>("agreed")? != 0,
        state: state.ok_or(Error::RowInvalid { column: "state" })?,
        sealed_send: row.try_get("sealed_send")?,
        sealed_confirm: row.try_get("sealed_confirm")?,
        kek_generation: counter(row.try_get("kek_generation")?, "kek_generation")?,
        attempts: counter(row.try_get("attempts")?, "attempts")?,
        openings: counter(row.try_get("openings")?, "openings")?,
        detail: row.try_get("detail")?,
        create_us: row.try_get("create_us")?,
    })
}

pub(in crate::store) fn generation_row(row: &AnyRow) -> Result<GenerationRow, Error> {
    let kind: String = row.try_get("kind")?;
    let key = (0..4)
        .filter_map(KeyId::from_id)
        .find(|key| name_of(*key) == kind);
    Ok(GenerationRow {
        meter_id: row.try_get("meter_id")?,
        key: key.ok_or(Error::RowInvalid { column: "kind" })?,
        generation: counter(row.try_get("generation")?, "generation")?,
        secret: row.try_get("secret")?,
        check_value: row.try_get("check_value")?,
        seal: row.try_get("seal")?,
        kek_generation: counter(row.try_get("kek_generation")?, "kek_generation")?,
        next_counter: counter(row.try_get("next_counter")?, "next_counter")?,
        last_received: received(row.try_get("last_received")?)?,
    })
}
