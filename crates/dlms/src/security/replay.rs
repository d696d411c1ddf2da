//! Which invocation counters of a peer were seen already.

/// A counter that will not do: it was seen, or is too old to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("invocation counter: {expected} is the lowest that is certainly taken")]
pub struct Replay {
    /// One above the highest counter seen.
    pub expected: u32,
}

/// The counters received under one key: each is taken once.
///
/// A window of 1 takes only counters that rise, which is what the standard asks. A wider one also takes counters that
/// were overtaken on their way, over transports that reorder, as long as they are less than `width` below the highest.
///
/// Ask [`Self::check`] before any cryptography, and [`Self::record`] the counter only once the tag is right: else an
/// attacker could spend the counters of his victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayWindow {
    width: u32,
    highest: Option<u32>,
    /// Bit n: the counter n below the highest was seen.
    seen: u64,
}

impl ReplayWindow {
    /// The widest window there is.
    pub const MAX: u32 = 64;

    /// A window that has seen nothing: it takes any counter first, 0 included. Its width is 1..=64; what is outside is
    /// taken as the nearer end.
    #[must_use]
    pub const fn new(width: u32) -> Self {
        let width = match width {
            0 => 1,
            1..=Self::MAX => width,
            _ => Self::MAX,
        };
        Self {
            width,
            highest: None,
            seen: 0,
        }
    }

    /// A window that goes on after this counter, as it was kept over a restart: that one and all below count as seen.
    #[must_use]
    pub const fn after(width: u32, highest: u32) -> Self {
        Self {
            highest: Some(highest),
            seen: u64::MAX,
            ..Self::new(width)
        }
    }

    /// The highest counter recorded.
    #[must_use]
    pub const fn highest(&self) -> Option<u32> {
        self.highest
    }

    /// Whether this counter is new. Changes nothing.
    ///
    /// # Errors
    /// It was seen, or lies below the window.
    pub fn check(&self, counter: u32) -> Result<(), Replay> {
        let Some(highest) = self.highest else {
            return Ok(());
        };
        let fresh = match highest.checked_sub(counter) {
            None => true,
            Some(age) => age < self.width && self.seen.checked_shr(age).unwrap_or(1) & 1 == 0,
        };
        let expected = highest.saturating_add(1);
        if fresh {
            Ok(())
        } else {
            Err(Replay { expected })
        }
    }

    /// Marks a counter as seen: its APDU was authentic.
    pub fn record(&mut self, counter: u32) {
        let highest = self.highest.unwrap_or(counter);
        if let Some(ahead) = counter.checked_sub(highest) {
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = Some(counter);
        } else if let Some(bit) = highest
            .checked_sub(counter)
            .and_then(|age| 1_u64.checked_shl(age))
        {
            self.seen |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_one_takes_what_rises() {
        let mut window = ReplayWindow::new(1);
        assert_eq!(window.check(0), Ok(()), "anything is taken first");
        window.record(0);
        for (counter, taken) in [(0, false), (1, true), (u32::MAX, true)] {
            assert_eq!(window.check(counter).is_ok(), taken, "{counter}");
        }
        window.record(7);
        assert_eq!(window.check(6), Err(Replay { expected: 8 }));
        window.record(u32::MAX);
        assert!(
            window.check(u32::MAX).is_err(),
            "the last counter is the end"
        );
        assert!(window.check(0).is_err());
    }

    #[test]
    fn a_wider_one_takes_what_was_overtaken_once() {
        let mut window = ReplayWindow::new(4);
        for counter in [10, 12] {
            window.record(counter);
        }
        for (counter, taken) in [(8, false), (9, true), (10, false), (11, true), (13, true)] {
            assert_eq!(window.check(counter).is_ok(), taken, "{counter}");
        }
        window.record(11);
        assert!(window.check(11).is_err());
        window.record(500);
        assert!(window.check(499).is_ok());
        assert!(window.check(12).is_err(), "below the window");
    }

    #[test]
    fn one_that_goes_on_has_seen_all_before() {
        for width in [0, 1, 64, 1000] {
            let mut window = ReplayWindow::after(width, 100);
            assert!((0..=100).all(|counter| window.check(counter).is_err()));
            assert_eq!(window.check(101), Ok(()));
            window.record(103);
            assert_eq!(window.check(102).is_ok(), width > 1, "width {width}");
            assert_eq!(window.highest(), Some(103));
        }
    }

    /// Against a plain set, over every short history.
    #[test]
    fn it_is_a_set_of_the_last_counters() {
        for history in 0..4096_u32 {
            let counters = [0, 3, 6, 9].map(|shift| (history >> shift) & 7);
            let mut window = ReplayWindow::new(3);
            let mut seen: alloc::vec::Vec<u32> = alloc::vec![];
            for counter in counters {
                let highest = seen.iter().max().copied();
                let due =
                    !seen.contains(&counter) && highest.is_none_or(|highest| counter + 3 > highest);
                assert_eq!(
                    window.check(counter).is_ok(),
                    due,
                    "{counters:?} at {counter}"
                );
                if due {
                    window.record(counter);
                    seen.push(counter);
                }
            }
        }
    }
}
