//! The thread's own state: a session if there is one, and how to get one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Engine, Grave};
use crate::error::Error;
use crate::login::Shared;
use crate::module::{Entered, Why};
use crate::probe;

/// One worker of a token.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    grave: Arc<Grave>,
    engine: Option<Engine>,
    /// Set while the token is gone: the epoch that failed, and when to try again.
    lost: Option<Lost>,
    /// Failures in a row that a new session or login should have ended.
    passing: u32,
    /// Not before, after a planned new initialisation failed.
    next_planned: Instant,
}

struct Lost {
    epoch: u64,
    next_try: Instant,
    pause: Duration,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, grave: Arc<Grave>) -> Self {
        Self {
            shared,
            grave,
            engine: None,
            lost: None,
            passing: 0,
            next_planned: Instant::now(),
        }
    }

    /// Opens the first session. The first worker of a token also probes the token.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        let engine = Engine::open(&self.shared, &self.grave, &entered);
        let engine = self.engine.insert(engine.map_err(|e| shared.explain(e))?);
        if self.grave.place().1 == 0 {
            probe::run(engine).map_err(|error| shared.explain(error))?;
        }
        Ok(())
    }

    /// Does one piece of work under the gate, with a session of the present epoch.
    pub(super) fn run<T>(
        &mut self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.recover()?;
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        let outcome = self
            .engine(&entered)
            .and_then(|engine| op(engine).map_err(|error| engine.judge(error)));
        match &outcome {
            Err(error) if error.is_passing() && self.passing >= PASSING_MAX => {
                self.lose(entered.epoch());
            }
            Err(error) => self.draw_conclusions(error, &entered),
            Ok(_) => self.passing = 0,
        }
        outcome
    }

    /// What a failure means for the session.
    fn draw_conclusions(&mut self, error: &Error, entered: &Entered<'_>) {
        match error {
            Error::TokenGone { .. } => self.lose(entered.epoch()),
            // Nothing says that its number is still ours: forgotten, not closed; unless it is there, and
            // in the middle of something.
            Error::SessionLost { .. } => {
                self.passing += 1;
                if self.engine.as_ref().is_some_and(Engine::is_poisoned) {
                    self.close();
                }
                self.engine = None;
                self.shared.doubt_login(entered);
            }
            Error::NotLoggedIn { .. } => {
                self.passing += 1;
                self.close();
                self.shared.doubt_login(entered);
            }
            Error::DeviceError { .. } if self.fails() => self.lose(entered.epoch()),
            Error::HostMemory { .. } => self.close(),
            // An operation that began and did not end would be in the next one's way.
            Error::Refused { .. } if self.engine.as_ref().is_some_and(Engine::is_poisoned) => {
                tracing::warn!(token = self.shared.label, %error, "session discarded");
                self.close();
            }
            _ => {}
        }
    }

    fn fails(&mut self) -> bool {
        let engine = self.engine.as_mut();
        engine.is_none_or(|engine| engine.check().is_err())
    }

    /// Closes the session, if it is of this epoch. Only inside the gate.
    fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }

    /// The engine of this epoch, opened if need be, with the dead keys of its session destroyed.
    fn engine(&mut self, entered: &Entered<'_>) -> Result<&mut Engine, Error> {
        let stale = |engine: &Engine| engine.epoch() != entered.epoch();
        if self.engine.as_ref().is_none_or(stale) {
            // A session of an old epoch is forgotten, not closed: its number is another's now.
            self.engine = None;
            let engine = self.reopen(entered).map_err(|error| {
                tracing::warn!(token = self.shared.label, %error, "token cannot be reopened");
                match self.shared.explain(error) {
                    error
                        if error.is_of_token() && !matches!(error, Error::TokenNotFound { .. }) =>
                    {
                        error
                    }
                    _ => Error::TokenGone {
                        label: self.shared.label.clone(),
                    },
                }
            })?;
            self.engine = Some(engine);
            self.lost = None;
        }
        let engine = self.engine.as_mut().ok_or_else(|| Error::TokenGone {
            label: self.shared.label.clone(),
        })?;
        engine.destroy(self.grave.take());
        Ok(engine)
    }

    /// Opens a session; once more if the login turned out to be none.
    fn reopen(&self, entered: &Entered<'_>) -> Result<Engine, Error> {
        let open = || Engine::open(&self.shared, &self.grave, entered);
        open().or_else(|error| match self.shared.explain(error) {
            error if error.is_passing() => {
                self.shared.doubt_login(entered);
                open()
            }
            error => Err(error),
        })
    }

    /// If the token is gone: initialises the module anew, at most once per pause.
    ///
    /// A module keeps what it knew of a token that was pulled and put back (SoftHSM never finds
    /// its keys again), so nothing short of this helps.
    fn recover(&mut self) -> Result<(), Error> {
        let Some(lost) = &mut self.lost else {
            return Ok(());
        };
        let gone = |_| Error::TokenGone {
            label: self.shared.label.clone(),
        };
        if Instant::now() < lost.next_try {
            return Err(gone(()));
        }
        lost.next_try = Instant::now() + lost.pause;
        lost.pause = (lost.pause * 2).min(PAUSE_MAX);
        self.engine = None;
        let done = self.shared.module.reinitialise(lost.epoch, Why::Failure);
        done.map_err(|error| match error {
            Error::TokenHung { .. } => Error::TokenHung {
                label: self.shared.label.clone(),
            },
            error => {
                tracing::warn!(token = self.shared.label, %error, "token cannot be recovered");
                gone(())
            }
        })
    }

    fn lose(&mut self, epoch: u64) {
        self.engine = None;
        self.passing = 0;
        match &mut self.lost {
            Some(lost) => lost.epoch = epoch,
            None => {
                self.lost = Some(Lost {
                    epoch,
                    next_try: Instant::now(),
                    pause: PAUSE_MIN,
                });
            }
        }
    }

    /// Between two jobs: has the module initialised anew if it has made so many objects that their
    /// memory is wanted back. Best when nobody waits; at the latest a quarter above the limit. Those
    /// who wait then go on in the new epoch.
    pub(super) fn rest(&mut self, quiet: bool) {
        let module = &self.shared.module;
        module.count_made();
        let (made, max) = (module.made(), self.shared.objects_max);
        let last = max.saturating_add(max / 4);
        if max == 0 || made < max || (made < last && !quiet) || self.lost.is_some() {
            return;
        }
        // Each caller must be able to unwrap its key again and use it in the meantime.
        if module.age() < EPOCH_MIN || Instant::now() < self.next_planned {
            return;
        }
        // The epoch is of the session: if another worker was faster, nothing is done.
        let Some(epoch) = self.engine.as_ref().map(Engine::epoch) else {
            return;
        };
        let done = self.shared.module.reinitialise(epoch, Why::Memory);
        if let Err(error) = done {
            tracing::warn!(token = self.shared.label, %error, "planned new initialisation failed");
            self.next_planned = Instant::now() + PAUSE_MAX;
        }
    }

    /// Destroys dead keys while there is nothing else to do.
    pub(super) fn tidy(&mut self) {
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        let dead = self.grave.take();
        if let Some(engine) = self
            .engine
            .as_mut()
            .filter(|engine| engine.epoch() == entered.epoch())
        {
            engine.destroy(dead);
        }
    }

    /// Closes the session, if it is of this epoch.
    pub(super) fn end(mut self) {
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        if let Some(engine) = self
            .engine
            .take()
            .filter(|engine| engine.epoch() == entered.epoch())
        {
            engine.close();
        }
    }
}

const EPOCH_MIN: Duration = Duration::from_millis(100);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// After so many failures in a row that opening a session or logging in did not end, the module is
/// initialised anew.
const PASSING_MAX: u32 = 3;
