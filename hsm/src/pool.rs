//! Workers: each owns one session and one thread, and takes its work from a bounded queue.
//!
//! A key belongs to the worker that unwrapped it, so no key is destroyed while another thread
//! uses it, and the work on one key keeps its order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::Function;
use cryptoki::error::RvError;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::key::{self, Found, KeyHandle, Kind};
use crate::module::Entered;
use crate::probe;
use crate::token::Shared;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The queue in front of one worker.
pub(crate) struct Line {
    label: String,
    /// There until this is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    /// Closes when the worker has made its last call into the module.
    ended: Mutex<Receiver<Infallible>>,
}

impl Line {
    /// Starts the worker and waits until it has opened its session and passed its probe.
    pub(crate) async fn open(shared: Arc<Shared>, worker: usize) -> Result<Self, Error> {
        let label = shared.label.clone();
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let grave = Arc::new(Grave {
            worker,
            dead: Mutex::new(Vec::new()),
            wake: jobs.downgrade(),
        });
        let mut worker = Worker::new(shared, grave);
        let (ready, opened) = oneshot::channel();
        let (alive, ended) = sync_channel(0);
        spawn(&label, move || {
            match worker.begin() {
                Ok(()) => {
                    drop(ready.send(Ok(())));
                    while let Some(job) = queue.blocking_recv() {
                        job(&mut worker);
                    }
                    worker.end();
                }
                Err(error) => {
                    worker.end();
                    drop(ready.send(Err(error)));
                }
            }
            drop(alive);
        })?;
        opened.await.map_err(|_| gone(&label))??;
        Ok(Self {
            label,
            jobs: Some(jobs),
            ended: Mutex::new(ended),
        })
    }

    /// Runs `op` in the worker, or says `Busy` at once.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (job, answer) = job(op);
        self.jobs()?.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => gone(&self.label),
        })?;
        answer.await.map_err(|_| gone(&self.label))?
    }

    /// Runs `op` in the worker, waiting for a place in the queue.
    pub(crate) async fn call_patiently<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (job, answer) = job(op);
        self.jobs()?
            .send(job)
            .await
            .map_err(|_| gone(&self.label))?;
        answer.await.map_err(|_| gone(&self.label))?
    }

    fn jobs(&self) -> Result<&mpsc::Sender<Job>, Error> {
        self.jobs.as_ref().ok_or_else(|| gone(&self.label))
    }
}

impl Drop for Line {
    /// Waits for the worker to finish: a process that exits while a thread is inside the module
    /// crashes in the module's own clean-up.
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LEAVE_MAX) {
            tracing::warn!(
                token = self.label,
                "the token's worker did not finish in time"
            );
        }
    }
}

fn job<T: Send + 'static>(
    op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, Error>>) {
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |worker| {
        // Whoever asked may have left; what the reply holds is then dropped like any other.
        drop(reply.send(worker.run(op)));
    });
    (job, answer)
}

/// Keys whose last handle is gone, until their worker destroys them.
#[derive(Debug)]
pub(crate) struct Grave {
    worker: usize,
    dead: Mutex<Vec<(u64, ObjectHandle)>>,
    wake: mpsc::WeakSender<Job>,
}

impl Grave {
    /// The worker whose keys these are.
    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// Leaves a key to be destroyed.
    pub(crate) fn bury(&self, session: u64, object: ObjectHandle) {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.push((session, object));
        drop(dead);
        if let Some(jobs) = self.wake.upgrade() {
            // A full queue needs no waking: every job buries first.
            drop(jobs.try_send(Box::new(|worker| worker.tidy())));
        }
    }

    fn take(&self) -> Vec<(u64, ObjectHandle)> {
        std::mem::take(&mut *self.dead.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread's own state: a session if there is one, and how to get one.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    grave: Arc<Grave>,
    engine: Option<Engine>,
    /// Set while the token is gone: the epoch that failed, and when to try again.
    lost: Option<Lost>,
}

struct Lost {
    epoch: u64,
    next_try: Instant,
    pause: Duration,
}

impl Worker {
    fn new(shared: Arc<Shared>, grave: Arc<Grave>) -> Self {
        Self {
            shared,
            grave,
            engine: None,
            lost: None,
        }
    }

    /// Opens the first session. The first worker of a token also probes the token.
    fn begin(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        let engine = self
            .engine
            .insert(Engine::open(&self.shared, &self.grave, &entered)?);
        if self.grave.worker == 0 {
            probe::run(engine)?;
        }
        Ok(())
    }

    /// Does one piece of work under the gate, with a session of the present epoch.
    fn run<T>(&mut self, op: impl FnOnce(&mut Engine) -> Result<T, Error>) -> Result<T, Error> {
        self.recover()?;
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        let outcome = self
            .engine(&entered)
            .and_then(|engine| op(engine).map_err(|error| engine.judge(error)));
        if let Err(Error::TokenGone { .. }) = &outcome {
            self.lose(entered.epoch());
        }
        outcome
    }

    /// The engine of this epoch, opened if need be, with the dead keys of its session destroyed.
    fn engine(&mut self, entered: &Entered<'_>) -> Result<&mut Engine, Error> {
        let stale = |engine: &Engine| engine.epoch != entered.epoch();
        if self.engine.as_ref().is_none_or(stale) {
            // A session of an old epoch is forgotten, not closed: its number is another's now.
            self.engine = None;
            let engine = Engine::open(&self.shared, &self.grave, entered).map_err(|error| {
                tracing::warn!(token = self.shared.label, %error, "token cannot be reopened");
                match error {
                    Error::PinIncorrect { .. } | Error::PinLocked { .. } => error,
                    _ => Error::TokenGone {
                        label: self.shared.label.clone(),
                    },
                }
            })?;
            self.engine = Some(engine);
            self.lost = None;
        }
        let engine = self
            .engine
            .as_mut()
            .ok_or_else(|| gone(&self.shared.label))?;
        engine.destroy(self.grave.take());
        Ok(engine)
    }

    /// If the token is gone: initialises the module anew, at most once per pause.
    ///
    /// A module keeps what it knew of a token that was pulled and put back (SoftHSM never finds
    /// its keys again), so nothing short of this helps.
    fn recover(&mut self) -> Result<(), Error> {
        let Some(lost) = &mut self.lost else {
            return Ok(());
        };
        if Instant::now() < lost.next_try {
            return Err(Error::TokenGone {
                label: self.shared.label.clone(),
            });
        }
        lost.next_try = Instant::now() + lost.pause;
        lost.pause = (lost.pause * 2).min(PAUSE_MAX);
        self.engine = None;
        self.shared.module.reinitialise(lost.epoch)
    }

    fn lose(&mut self, epoch: u64) {
        self.engine = None;
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

    /// Destroys dead keys while there is nothing else to do.
    fn tidy(&mut self) {
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        let dead = self.grave.take();
        if let Some(engine) = self
            .engine
            .as_mut()
            .filter(|engine| engine.epoch == entered.epoch())
        {
            engine.destroy(dead);
        }
    }

    /// Closes the session, if it is of this epoch.
    fn end(mut self) {
        let shared = Arc::clone(&self.shared);
        let entered = shared.module.enter();
        if let Some(engine) = self
            .engine
            .take()
            .filter(|engine| engine.epoch == entered.epoch())
        {
            engine.close();
        }
    }
}

/// A session and what was found through it. Used by its worker only, and only under the gate.
pub(crate) struct Engine {
    session: Session,
    shared: Arc<Shared>,
    /// Where keys of its session go.
    grave: Arc<Grave>,
    /// Names this opened session; unlike `epoch` no two sessions of the process share it.
    number: u64,
    epoch: u64,
    keys: BTreeMap<String, Found>,
    /// The canary's key, held for quick checks.
    canary: Option<ObjectHandle>,
}

impl Engine {
    fn open(
        shared: &Arc<Shared>,
        grave: &Arc<Grave>,
        entered: &Entered<'_>,
    ) -> Result<Self, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let slot = shared.log_in(entered)?;
        let session = entered.context().open_rw_session_no_drop(slot)?;
        let mut engine = Self {
            session,
            shared: Arc::clone(shared),
            grave: Arc::clone(grave),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            epoch: entered.epoch(),
            keys: BTreeMap::new(),
            canary: None,
        };
        match engine.settle() {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.close();
                Err(error)
            }
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.keys = key::survey(&self.session, &self.shared.label, self.shared.role)?;
        self.canary = probe::settle(self)?;
        Ok(())
    }

    /// Closes the session. Only in its epoch.
    fn close(self) {
        if let Err(error) = self.session.close() {
            tracing::warn!(token = self.shared.label, %error, "session did not close");
        }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn shared_arc(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.keys
            .iter()
            .map(|(label, found)| (label.as_str(), found))
    }

    pub(crate) fn canary(&self) -> Option<ObjectHandle> {
        self.canary
    }

    /// The token key of that label, if it is of that kind and passed its test.
    pub(crate) fn key(&self, label: &str, kind: Kind) -> Result<ObjectHandle, Error> {
        if let Some(why) = self.shared.off.get().and_then(|off| off.get(label)) {
            return Err(Error::KeyOff {
                token: self.shared.label.clone(),
                label: label.to_owned(),
                why: why.clone(),
            });
        }
        let found = self.keys.get(label).filter(|found| found.kind == kind);
        found
            .map(|found| found.object)
            .ok_or_else(|| Error::KeyNotFound {
                token: self.shared.label.clone(),
                what: kind.name(),
                label: label.to_owned(),
            })
    }

    /// The object behind a handle, if it is of this session.
    pub(crate) fn held(&self, key: &KeyHandle) -> Result<ObjectHandle, Error> {
        key.object_in(self.number)
    }

    /// A handle to an object of this session.
    pub(crate) fn hold(&self, object: ObjectHandle) -> KeyHandle {
        KeyHandle::new(object, self.number, Arc::clone(&self.grave))
    }

    /// Proves that token, login and keys work now.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        probe::check(self).map_err(|error| {
            tracing::warn!(token = self.shared.label, %error, "token failed its check");
            self.gone()
        })
    }

    fn gone(&self) -> Error {
        Error::TokenGone {
            label: self.shared.label.clone(),
        }
    }

    /// What a failure means. SoftHSM 2.6 says GENERAL_ERROR both for a wrong tag and for a token
    /// that is gone; so after an error that could be either, a known answer decides.
    fn judge(&mut self, error: Error) -> Error {
        let Error::Refused { function, code } = error else {
            return error;
        };
        if !matches!(function, Function::Decrypt) || !is_data_error(code) {
            return self.check().err().unwrap_or(error);
        }
        if matches!(
            code,
            RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange
        ) {
            return Error::AuthFailed;
        }
        // A bad tag costs no more than a good one: no key is unwrapped for it.
        match probe::glance(self) {
            Ok(()) => Error::AuthFailed,
            Err(_) => self.gone(),
        }
    }

    /// Destroys keys of this session; those of earlier ones went with their sessions.
    fn destroy(&mut self, dead: Vec<(u64, ObjectHandle)>) {
        for (session, object) in dead {
            if session == self.number
                && let Err(error) = self.session.destroy_object(object)
            {
                tracing::warn!(token = self.shared.label, %error, "key was not destroyed");
            }
        }
    }
}

/// Codes by which some module says that the *data* of a Decrypt or UnwrapKey is at fault.
pub(crate) fn is_data_error(code: RvError) -> bool {
    matches!(
        code,
        RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DeviceError
            | RvError::DataInvalid
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::SignatureInvalid
            | RvError::KeySizeRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange
    )
}

/// Runs blocking work on a thread of its own.
pub(crate) async fn on_thread<T: Send + 'static>(
    label: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    spawn(label, move || drop(reply.send(work())))?;
    answer.await.map_err(|_| gone(label))?
}

fn spawn(label: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let builder = std::thread::Builder::new().name(format!("hsm {label}"));
    builder.spawn(work).map(drop).map_err(|_| gone(label))
}

fn gone(label: &str) -> Error {
    Error::WorkerGone {
        label: label.to_owned(),
    }
}

/// Jobs that may wait for one worker: 10 ms of work for a software token.
const QUEUE: usize = 1024;
/// How long a dropped token waits for its worker.
const LEAVE_MAX: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
