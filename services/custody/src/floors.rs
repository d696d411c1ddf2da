//! Where the counters of a meter must go on, learnt from outside this database.
//!
//! A meter takes no request with a counter that is not above the last. If it was used elsewhere, or this database lost
//! what it gave out, the meter is ahead and answers nothing. Three ways lead above it, and none down:
//!
//! - What the meter says under its key, in an association: a value of its invocation-counter object
//!   (class 1, 0.0.43.1.x.255). It is believed up to the warning; beyond that a person decides.
//! - What anybody may have said, to the public client or in an exception-response. It is a hint: all hints of one day
//!   raise the counters by `counter_hint_max` at most, or whoever is in the middle could use them up.
//! - What a person says who answers for it, by name and with a reason.

use dlms::{Data, Response};
use kit::{PeerName, clock};
use latchkey_proto::audit::v1::{Entry, EntryKind};

use crate::{
    context::{Context, State},
    custody::Custody,
    error::Error,
    metrics,
    store::{COUNTER_END, CounterOf, Floor, KeyRow, Raised, Source},
    trail,
};

impl Custody {
    /// The meter of a context shows this counter, unauthenticated. Whether ours were raised.
    pub(crate) async fn hint_counter(
        &self,
        peer: &PeerName,
        context_id: &str,
        shown: u32,
    ) -> Result<bool, Error> {
        let context = self.contexts.get(context_id, peer, clock::now())?;
        let meter_id = &context.permit.meter_id;
        let row = self.stored_keys(meter_id).await?;
        let refused = |error: Error| {
            self.refused(&context.permit, &[], &error);
            error
        };
        if shown >= COUNTER_END {
            let meter = meter_id.clone();
            return Err(refused(Error::CountersExhausted { meter }));
        }
        let floor = Floor {
            meter_id,
            generation: row.generations.encryption,
            at_least: shown.saturating_add(1),
            source: Source::Hint,
            hint_max: self.counters.hint_max,
        };
        let raised = self.store.raise_floor(floor, |from| {
            let detail = format!(
                "the meter shows invocation counter {shown}, unauthenticated: ours raised from {from}"
            );
            trail::under_permit(EntryKind::Key, &context.permit, &[], detail)
        });
        match raised.await? {
            Raised::Already(_) => Ok(false),
            Raised::From(from) => {
                self.raised("hint", meter_id, (from, floor.at_least));
                Ok(true)
            }
            Raised::TooFar { next, left } => {
                let by = floor.at_least.saturating_sub(next);
                Err(refused(Error::CounterJump { shown, by, left }))
            }
        }
    }

    /// A person says where the counters go on, and why. Where they were before.
    pub(crate) async fn raise_counter(
        &self,
        principal: &str,
        meter_id: &str,
        (at_least, reason): (u32, &str),
    ) -> Result<(KeyRow, u32), Error> {
        let row = self.stored_keys(meter_id).await?;
        let floor = Floor {
            meter_id,
            generation: row.generations.encryption,
            at_least,
            source: Source::Certain,
            hint_max: 0,
        };
        let raised = self.store.raise_floor(floor, |from| {
            let detail = format!("the invocation counter is raised from {from} to {at_least}");
            Entry {
                reason: reason.to_owned(),
                ..trail::entry(EntryKind::Key, principal, meter_id, detail)
            }
        });
        let before = match raised.await? {
            Raised::From(from) => {
                self.raised("person", meter_id, (from, at_least));
                from
            }
            Raised::Already(next) | Raised::TooFar { next, .. } => next,
        };
        Ok((self.stored_keys(meter_id).await?, before))
    }

    /// Learns from an authentic answer, if it is that of the meter's invocation-counter object.
    pub(crate) async fn learn_counter(
        &self,
        context: &Context,
        state: &mut State,
        apdu: &[u8],
    ) -> Result<(), Error> {
        let (Some(asked), CounterOf::InUse { generation }) =
            (state.counter_asked, context.counter_of)
        else {
            return Ok(());
        };
        let Ok(Response::GetData { invoke, data }) = Response::decode(apdu) else {
            return Ok(());
        };
        if invoke.id() != asked {
            return Ok(());
        }
        state.counter_asked = None;
        let Data::DoubleLongUnsigned(shown) = data else {
            return Ok(());
        };
        let meter_id = &context.permit.meter_id;
        if shown >= self.counters.warning {
            tracing::warn!(
                meter_id,
                shown,
                "the meter's invocation counter is near its end"
            );
            return Ok(());
        }
        let floor = Floor {
            meter_id,
            generation,
            at_least: shown.saturating_add(1),
            source: Source::Certain,
            hint_max: 0,
        };
        let raised = self.store.raise_floor(floor, |from| {
            let detail = format!(
                "the meter says, under its key, that its invocation counter is {shown}: ours raised from {from}"
            );
            trail::under_permit(EntryKind::Key, &context.permit, &[], detail)
        });
        if let Raised::From(from) = raised.await? {
            self.raised("meter", meter_id, (from, floor.at_least));
        }
        Ok(())
    }

    fn raised(&self, source: &'static str, meter_id: &str, (from, to): (u32, u32)) {
        tracing::warn!(
            meter_id,
            source,
            from,
            to,
            "an invocation counter was raised"
        );
        metrics::counters_raised(source);
        self.reporter.stored();
    }
}
