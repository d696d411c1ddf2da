//! One token of a pool: opened when it is there, given work while it does it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::health::{Failure, Record, TokenHealth};
use crate::login::Shared;
use crate::module::{Module, Why};
use crate::pool::{self, Engine, Line};
use crate::same::Proof;
use crate::token::{Role, TokenConfig};

/// One token of a pool.
pub(crate) struct Member {
    config: TokenConfig,
    role: Role,
    place: usize,
    name: String,
    opened: OnceLock<Opened>,
    record: Record,
    next_try: Mutex<(Instant, Duration)>,
    /// A thread is about to open it.
    opening: Arc<AtomicBool>,
}

struct Opened {
    shared: Arc<Shared>,
    lines: Vec<Line>,
}

impl Member {
    pub(crate) fn new(config: TokenConfig, role: Role, (place, name): (usize, String)) -> Self {
        Self {
            config,
            role,
            place,
            name,
            opened: OnceLock::new(),
            record: Record::default(),
            next_try: Mutex::new((Instant::now(), PAUSE_MIN)),
            opening: Arc::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// What its workers share; none before it was opened.
    pub(crate) fn shared(&self) -> Option<&Shared> {
        self.opened.get().map(|opened| &*opened.shared)
    }

    /// Its lines; none before it was opened.
    pub(crate) fn lines(&self) -> &[Line] {
        self.opened.get().map_or(&[], |opened| &opened.lines)
    }

    /// Whether it is given work.
    pub(crate) fn works(&self) -> bool {
        self.opened.get().is_some() && !self.record.is_out()
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.config.call_timeout_ms)
    }

    /// Finds the token, logs in, probes it, and compares its keys with the pool's, if it is of one: the
    /// first that is opened makes the proof that the others are compared with.
    pub(crate) async fn open(&self, proof: Option<&OnceLock<Arc<Proof>>>) -> Result<(), Error> {
        if self.opening.swap(true, Ordering::Relaxed) {
            // The thread of an earlier try has not come back.
            return Err(Error::TokenHung {
                label: self.name.clone(),
            });
        }
        let (config, role) = (self.config.clone(), self.role);
        let (place, name) = (self.place, self.name.clone());
        let opening = Arc::clone(&self.opening);
        // A human at the prompt is waited for.
        let limit = if config.pin_prompt {
            PROMPT_MAX
        } else {
            self.limit()
        };
        let opened = pool::on_thread(&self.name, limit, move || {
            let opened = Shared::open(&config, role, (place, &name));
            opening.store(false, Ordering::Relaxed);
            opened
        });
        let shared = Arc::new(opened.await?);
        let mut lines = Vec::with_capacity(self.config.sessions);
        for worker in 0..self.config.sessions {
            lines.push(Line::open(Arc::clone(&shared), worker, self.limit()).await?);
        }
        if let (Some(first), Some(proof)) = (lines.first(), proof) {
            self.compare(first, proof).await?;
        }
        self.opened.get_or_init(|| Opened { shared, lines });
        self.record.take_back(&self.name);
        Ok(())
    }

    /// Refuses it if its keys are not the pool's.
    async fn compare(&self, line: &Line, proof: &OnceLock<Arc<Proof>>) -> Result<(), Error> {
        if let Some(proof) = proof.get() {
            let proof = Arc::clone(proof);
            return line.call_patiently(move |engine| proof.check(engine)).await;
        }
        let made = Arc::new(line.call_patiently(Proof::of).await?);
        proof.get_or_init(|| made);
        Ok(())
    }

    /// Tries again to open one that was not there, at most once per pause.
    async fn open_late(&self, proof: Option<&OnceLock<Arc<Proof>>>) {
        if self.record.failure().is_some_and(|why| why.is_final()) {
            return;
        }
        {
            let mut next = self.next_try.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() < next.0 {
                return;
            }
            *next = (Instant::now() + next.1, (next.1 * 2).min(PAUSE_MAX));
        }
        if let Err(error) = self.open_anew(proof).await {
            tracing::warn!(token = self.name, %error, "token cannot be opened");
            self.record.take_out(&self.name, &error);
        }
    }

    /// A module that was initialised without the token may not see it come: SoftHSM does not.
    async fn open_anew(&self, proof: Option<&OnceLock<Arc<Proof>>>) -> Result<(), Error> {
        let path = self.config.module.clone();
        let again = move || {
            let module = Module::load(&path)?;
            module.reinitialise(module.epoch(), Why::Failure)
        };
        if self.record.failure() == Some(Failure::Gone) {
            pool::on_thread(&self.name, self.limit(), again).await?;
        }
        self.open(proof).await
    }

    /// Has every session do real work with the token's keys.
    pub(crate) async fn check(&self, proof: Option<&OnceLock<Arc<Proof>>>) -> bool {
        let Some(opened) = self.opened.get() else {
            self.open_late(proof).await;
            return self.works();
        };
        let mut healthy = Ok(());
        for line in &opened.lines {
            let checked = match line.call_patiently(Engine::check).await {
                Err(error) if error.is_passing() => line.call_patiently(Engine::check).await,
                checked => checked,
            };
            healthy = healthy.and(checked);
        }
        match &healthy {
            Ok(()) => self.record.take_back(&self.name),
            Err(error) => self.record.take_out(&self.name, error),
        }
        healthy.is_ok()
    }

    /// How it is.
    pub(crate) fn health(&self) -> TokenHealth {
        let opened = self.opened.get();
        let module = opened.map(|opened| &opened.shared.module);
        let (planned, forced) = module
            .map(|module| module.reinitialised())
            .unwrap_or_default();
        let (operations, failures) = self.record.counts();
        let serial = opened.and_then(|opened| opened.shared.serial());
        TokenHealth {
            name: self.name.clone(),
            serial: serial
                .or(self.config.token_serial.as_deref())
                .map(str::to_owned),
            module: self.config.module.clone(),
            state: self.record.state(),
            operations,
            failures,
            queued: self.lines().iter().map(Line::queued).sum(),
            epoch: module.map(|module| module.epoch()).unwrap_or_default(),
            planned,
            forced,
            objects: module.map(|module| module.made()).unwrap_or_default(),
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PROMPT_MAX: Duration = Duration::from_secs(600);
