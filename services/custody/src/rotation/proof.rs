//! What a meter has proven, and what follows from it.

use latchkey_proto::audit::v1::EntryKind;

use super::{KeySet, Rotating, Which};
use crate::{
    context::{Context, State},
    custody::Custody,
    error::Error,
    store::{Activation, CounterOf},
    trail,
};

/// How often a row that somebody changes meanwhile is read again.
const TRIES: usize = 8;

impl Custody {
    /// The meter has proven itself in a context of a rotation: it has the keys of this context. `received` is the counter
    /// of its encryption key that it did so with. Whether the counter is stored.
    pub(crate) async fn proven(
        &self,
        context: &Context,
        received: Option<u32>,
    ) -> Result<bool, Error> {
        let Some(rotating) = &context.rotating else {
            return Ok(false);
        };
        let rotation_id = rotating.plan.rotation_id.as_str();
        match rotating.which {
            _ if !rotating.plan.keys.ciphers() => {
                self.store.rotation_note(rotation_id, None, true).await?;
            }
            Which::Old => {
                let said = "the meter has proven its old keys: the new ones are not in force";
                self.kept(context, rotating, (said, false)).await?;
                self.store.rotation_note(rotation_id, None, true).await?;
            }
            Which::New => {
                let said = "the meter has proven its new keys";
                self.activated(context, rotating, (received, said)).await?;
                return Ok(rotating.encryption.is_some());
            }
        }
        Ok(false)
    }

    /// The old keys are in force, if that was not known.
    pub(super) async fn kept(
        &self,
        context: &Context,
        rotating: &Rotating,
        (said, untaken): (&str, bool),
    ) -> Result<(), Error> {
        let meter_id = &context.permit.meter_id;
        let of = (rotating.plan.rotation_id.as_str(), meter_id.as_str());
        let detail = format!("{}: {said}", rotating.plan.keys);
        let entry = trail::under_permit(EntryKind::Key, &context.permit, &[], detail);
        self.store
            .rotation_kept(of, context.fence, (said, untaken, &entry))
            .await?;
        self.reporter.stored();
        Ok(())
    }

    /// The new keys are in force.
    pub(super) async fn activated(
        &self,
        context: &Context,
        rotating: &Rotating,
        (received, said): (Option<u32>, &str),
    ) -> Result<(), Error> {
        let meter_id = &context.permit.meter_id;
        let rotation_id = &rotating.plan.rotation_id;
        for _ in 0..TRIES {
            let row = self.stored_keys(meter_id).await?;
            let new = self.store.new_keys(meter_id).await?;
            if KeySet::from_bits(new.iter().fold(0, |bits, key| bits | 1 << key.key.id()))
                != Some(rotating.plan.keys)
            {
                return Err(Error::RotationOver);
            }
            // One of the two was read before a re-wrap and the other after it.
            if new
                .iter()
                .any(|key| key.kek_generation != row.generations.kek)
            {
                continue;
            }
            if new
                .iter()
                .any(|key| key.kek_generation != row.generations.kek)
            {
                // One was read before it came under other key-encryption keys, the other after.
                continue;
            }
            let (next, retiring) = self.keyring.replaced(&row, &new).await?;
            let numbers: Vec<_> = new.iter().map(|key| key.generation.to_string()).collect();
            let detail = format!(
                "{} in force, generation {}: {said}",
                rotating.plan.keys,
                numbers.join(", ")
            );
            let entry = trail::under_permit(EntryKind::Key, &context.permit, &[], detail);
            let activation = Activation {
                rotation_id,
                row: &next,
                retiring: &retiring,
                fence: context.fence,
                received,
                detail: said,
                entry: &entry,
            };
            if self.store.activate(&activation).await? {
                self.reporter.stored();
                self.agreements.remove(rotation_id);
                tracing::info!(meter_id, rotation_id, keys = %rotating.plan.keys, "new keys are in force");
                return Ok(());
            }
            let now = self.store.rotation(rotation_id).await?;
            if now.is_none_or(|rotation| rotation.state.is_over()) {
                return Err(Error::RotationOver);
            }
        }
        Err(Error::RotationUnderWay {
            meter: meter_id.clone(),
            rotation: rotation_id.clone(),
        })
    }

    /// Before the new keys are ciphered: from here on nobody knows which ones the meter has.
    pub(crate) async fn unsettle(
        &self,
        context: &Context,
        state: &mut State,
        indices: &[usize],
    ) -> Result<(), Error> {
        let Some(rotating) = &context.rotating else {
            return Ok(());
        };
        let real = |index: &usize| {
            context
                .allowed
                .get(*index)
                .is_some_and(|it| it.named.is_some())
        };
        if !indices.iter().any(real) {
            return Ok(());
        }
        state.rekeying = true;
        if rotating.which == Which::Old {
            let of = (
                rotating.plan.rotation_id.as_str(),
                context.permit.meter_id.as_str(),
            );
            self.store.rotation_sent(of, context.fence).await?;
        }
        Ok(())
    }
}

impl Rotating {
    /// Of which key counters are, if of another than the one in use: a new encryption key has its own.
    pub(crate) fn counter_of(&self) -> Option<CounterOf> {
        self.encryption
            .map(|generation| CounterOf::Other { generation })
    }
}
