//! The gate in front of a module: many inside, or one who has closed it.
//!
//! A lock of the standard library would do, but for one thing: whoever waits to close the gate while
//! a call inside never returns must be able to give up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A gate and its epoch.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    epoch: u64,
    inside: usize,
    /// Somebody has closed it, or waits until everybody has left: nobody enters.
    closing: bool,
}

impl Gate {
    /// Enters, after waiting while it is closed.
    pub(super) fn enter(&self) -> Inside<'_> {
        let mut state = self.state();
        while state.closing {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.inside += 1;
        Inside {
            epoch: state.epoch,
            gate: self,
        }
    }

    /// Closes it when everybody has left; none if they have not after `limit`.
    pub(super) fn close(&self, limit: Duration) -> Option<Closed<'_>> {
        let until = Instant::now() + limit;
        let mut state = self.state();
        while state.closing {
            state = self.wait(state, until)?;
        }
        state.closing = true;
        while state.inside > 0 {
            let Some(again) = self.wait(state, until) else {
                self.open();
                return None;
            };
            state = again;
        }
        Some(Closed { gate: self })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let left = until.checked_duration_since(Instant::now())?;
        let waited = self.changed.wait_timeout(state, left);
        Some(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn open(&self) {
        self.state().closing = false;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who has entered.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    epoch: u64,
    gate: &'a Gate,
}

impl Inside<'_> {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.inside -= 1;
        if state.inside == 0 && state.closing {
            self.gate.changed.notify_all();
        }
    }
}

/// Somebody who has closed it.
#[derive(Debug)]
pub(super) struct Closed<'a> {
    gate: &'a Gate,
}

impl Closed<'_> {
    pub(super) fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Begins a new epoch.
    pub(super) fn turn(&self) {
        let mut state = self.gate.state();
        state.epoch = state.epoch.wrapping_add(1);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.gate.open();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_closes_when_all_have_left_and_not_before() {
        let gate = Gate::default();
        let inside = gate.enter();
        assert!(gate.close(Duration::from_millis(20)).is_none());
        // who could not close it has left it open
        assert_eq!(gate.enter().epoch(), inside.epoch());
        drop(inside);
        let closed = gate.close(Duration::from_millis(20)).unwrap();
        closed.turn();
        assert!(gate.close(Duration::from_millis(20)).is_none());
        drop(closed);
        assert_eq!(gate.enter().epoch(), 1);
    }
}
