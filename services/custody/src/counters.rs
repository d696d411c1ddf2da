//! Invocation counters in use: how many are reserved at a time, and for whom.
//!
//! A block is durable before one of its counters is used (P4), and what a context leaves of it is lost: gaps are fine,
//! a meter wants "greater", not "next". So a block should be as large as a context needs and no larger. A context
//! begins with half of what was reserved last for its meter. A block that is used up quickly is followed by one twice as
//! large; one that lasts is followed by the same. So what is lost is at most about what was used, and a meter that was
//! idle begins small.

use std::{ops::Range, time::Duration};

use kit::clock;

use crate::{
    context::{Context, State},
    custody::Custody,
    error::Error,
    memory::Witness,
    store::{CounterOf, KeyRow, Reservation},
    terms::Terms,
};

/// A block that lasts less is too small.
const QUICK: Duration = Duration::from_secs(10);
/// A meter that reserved nothing for so long begins with the smallest block.
const IDLE: Duration = Duration::from_secs(3600);

/// How custody deals with counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// The smallest block.
    pub(crate) block_min: u32,
    /// The largest block.
    pub(crate) block_max: u32,
    /// The first counter that is worth a warning.
    pub(crate) warning: u32,
    /// By how much all counters are raised when the database went back.
    pub(crate) restore_gap: u32,
    /// By how much all hints of one day may raise the counters of a meter.
    pub(crate) hint_max: u32,
}

impl Policy {
    /// The first block of a context, after one of `last` counters was reserved so long ago.
    fn first(&self, last: u32, since: Duration) -> u32 {
        if since >= IDLE {
            self.block_min
        } else {
            self.bounded(last / 2)
        }
    }

    /// The block after one of `last` counters that was used up.
    fn next(&self, last: u32, since: Duration) -> u32 {
        if since < QUICK {
            self.bounded(last.saturating_mul(2))
        } else {
            self.bounded(last)
        }
    }

    fn bounded(&self, size: u32) -> u32 {
        size.clamp(self.block_min, self.block_max.max(self.block_min))
    }
}

/// The counters that a context may spend.
#[derive(Debug, Default)]
pub(crate) struct Supply {
    left: Range<u32>,
    /// How many were reserved last.
    size: u32,
    /// When, in microseconds since 1970.
    reserve_us: i64,
}

impl Supply {
    fn new(block: Range<u32>, reserve_us: i64) -> Self {
        Self {
            size: block.end.saturating_sub(block.start),
            left: block,
            reserve_us,
        }
    }
}

/// The place of a context among those of its meter, and its first counters.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// None for a context that ends no others.
    pub(crate) fence: Option<i64>,
    /// The last counter taken from the meter before it.
    pub(crate) received_before: Option<u32>,
    pub(crate) supply: Supply,
}

impl Custody {
    /// Begins a context. One that ciphers or has HLS ends the others of its meter, in every replica; one that ciphers
    /// takes its first counters.
    pub(crate) async fn begin(
        &self,
        row: Option<&KeyRow>,
        of: CounterOf,
        terms: &Terms,
    ) -> Result<Beginning, Error> {
        let Some(row) = row.filter(|_| terms.is_exclusive()) else {
            return Ok(Beginning {
                fence: None,
                received_before: row.and_then(|row| row.last_received),
                supply: Supply::default(),
            });
        };
        let ciphers = terms.is_ciphered();
        let now = clock::micros(clock::now());
        let since = elapsed(row.reserve_us, now);
        let wanted = ciphers.then(|| {
            let size = self.counters.first(row.counter_block, since);
            self.reservation(&row.meter_id, of, size)
        });
        let before = self.memory.end_of(&row.meter_id, of.generation());
        let begun = self.store.begin_context(&row.meter_id, wanted).await?;
        if begun.state != row.state {
            // Marked or destroyed since the row was read: nothing may be opened behind the fence that this raised.
            return Err(Error::KeysChanged {
                meter: row.meter_id.clone(),
            });
        }
        if ciphers {
            self.taken(&row.meter_id, of, before, &begun.counters)
                .await?;
        }
        Ok(Beginning {
            fence: Some(begun.fence),
            received_before: begun.last_received,
            supply: Supply::new(begun.counters, now),
        })
    }

    /// The next counter of the context's block, or of a new block.
    pub(crate) async fn next_counter(
        &self,
        context: &Context,
        state: &mut State,
    ) -> Result<u32, Error> {
        loop {
            let supply = &mut state.counters;
            if let Some(counter) = supply.left.next() {
                return Ok(counter);
            }
            let Some(fence) = context.fence else {
                // Every context that ciphers has one.
                return Err(Error::ContextUnknown);
            };
            let now = clock::micros(clock::now());
            let size = self
                .counters
                .next(supply.size, elapsed(supply.reserve_us, now));
            let wanted = self.reservation(&context.permit.meter_id, context.counter_of, size);
            let generation = context.counter_of.generation();
            let before = self.memory.end_of(&context.permit.meter_id, generation);
            let block = Box::pin(self.store.reserve_counters(&wanted, fence)).await?;
            self.taken(wanted.meter_id, wanted.of, before, &block)
                .await?;
            state.counters = Supply::new(block, now);
        }
    }

    /// Makes a block usable: it must be above all that this process took before it was reserved, and is remembered
    /// outside the database.
    async fn taken(
        &self,
        meter_id: &str,
        of: CounterOf,
        before: u32,
        block: &Range<u32>,
    ) -> Result<(), Error> {
        if block.start < before {
            self.memory.doubt();
            return Err(Error::CountersUnsure);
        }
        let witness = Witness {
            meter_id: meter_id.to_owned(),
            generation: of.generation(),
            end: block.end,
        };
        self.memory.keep(witness).await
    }

    fn reservation<'a>(&self, meter_id: &'a str, of: CounterOf, size: u32) -> Reservation<'a> {
        Reservation {
            meter_id,
            of,
            size,
            warning: self.counters.warning,
        }
    }
}

fn elapsed(from_us: i64, to_us: i64) -> Duration {
    Duration::from_micros(u64::try_from(to_us.saturating_sub(from_us)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        block_min: 8,
        block_max: 1024,
        warning: 0,
        restore_gap: 0,
        hint_max: 0,
    };
    const NOW: Duration = Duration::from_millis(1);

    #[test]
    fn blocks_grow_with_use_and_shrink_without() {
        assert_eq!(POLICY.first(0, IDLE), 8, "never reserved");
        let mut size = POLICY.first(0, NOW);
        let mut taken = vec![size];
        for _ in 0..9 {
            size = POLICY.next(size, NOW);
            taken.push(size);
        }
        assert_eq!(taken, [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]);
        assert_eq!(POLICY.next(64, QUICK), 64, "it lasted");
        assert_eq!(POLICY.first(1024, NOW), 512);
        assert_eq!(POLICY.first(1024, IDLE), 8);
        assert_eq!(POLICY.first(4096, NOW), 1024, "the bound was lowered");
    }

    /// What is reserved for contexts of one size after another stays within a few times what they use.
    #[test]
    fn little_is_lost() {
        for uses in [1_u32, 5, 20, 100, 1000, 5000] {
            let (mut last, mut reserved) = (0, 0);
            for _ in 0..100 {
                last = POLICY.first(last, NOW);
                let mut supply = last;
                while supply < uses {
                    last = POLICY.next(last, NOW);
                    supply += last;
                }
                reserved += supply;
            }
            let bound = 100 * (3 * uses + POLICY.block_min);
            assert!(reserved <= bound, "{uses}: {reserved} of {bound}");
        }
    }
}
