//! Workers: each owns one session and one thread, and takes its work from a bounded queue.
//!
//! A key belongs to the worker that unwrapped it, so no key is destroyed while another thread
//! uses it, and the work on one key keeps its order.

mod engine;
mod worker;

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cryptoki::object::ObjectHandle;
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::engine::{Engine, is_data_error};
use self::worker::Worker;
use crate::error::Error;
use crate::login::Shared;
use crate::module::milliseconds;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The queue in front of one worker.
pub(crate) struct Line {
    label: String,
    /// There until this is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    pulse: Arc<Pulse>,
    /// How long a job may take.
    limit: Duration,
    /// Closes when the worker has made its last call into the module.
    ended: Mutex<Receiver<Infallible>>,
}

impl Line {
    /// Starts the worker and waits until it has opened its session and passed its probe.
    pub(crate) async fn open(
        shared: Arc<Shared>,
        worker: usize,
        limit: Duration,
    ) -> Result<Self, Error> {
        let label = shared.label.clone();
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let grave = Arc::new(Grave {
            place: (shared.member, worker),
            dead: Mutex::new(Vec::new()),
            wake: jobs.downgrade(),
        });
        let mut worker = Worker::new(shared, grave);
        let pulse = Arc::new(Pulse::default());
        let beat = Arc::clone(&pulse);
        let (ready, opened) = oneshot::channel();
        let (alive, ended) = sync_channel(0);
        spawn(&label, move || {
            match worker.begin() {
                Ok(()) => {
                    drop(ready.send(Ok(())));
                    while let Some(job) = queue.blocking_recv() {
                        beat.begin();
                        job(&mut worker);
                        worker.rest(queue.is_empty());
                        beat.end();
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
        let opened = tokio::time::timeout(limit.max(OPEN_MAX), opened).await;
        opened
            .map_err(|_| hung(&label))?
            .map_err(|_| gone(&label))??;
        Ok(Self {
            label,
            jobs: Some(jobs),
            pulse,
            limit,
            ended: Mutex::new(ended),
        })
    }

    /// Runs `op` in the worker, or says `Busy` at once. [`Error::TokenHung`] if the worker's job does
    /// not return: `op` may then be carried out later, with nobody to hear of it.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (job, answer) = job(op);
        self.jobs()?.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) if self.hangs() => hung(&self.label),
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => gone(&self.label),
        })?;
        self.answered(answer)
            .await?
            .map_err(|_| gone(&self.label))?
    }

    /// Runs `op` in the worker, waiting for a place in the queue.
    pub(crate) async fn call_patiently<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (job, answer) = job(op);
        let sent = self.answered(self.jobs()?.send(job)).await?;
        sent.map_err(|_| gone(&self.label))?;
        self.answered(answer)
            .await?
            .map_err(|_| gone(&self.label))?
    }

    /// Waits, unless the worker's present job takes longer than it may.
    async fn answered<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let left = self.limit.saturating_sub(self.pulse.elapsed());
            match tokio::time::timeout(left, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if self.hangs() => return Err(hung(&self.label)),
                // Other jobs were before ours, and each of them returned in time.
                Err(_) => {}
            }
        }
    }

    /// Whether the worker's present job takes longer than it may.
    pub(crate) fn hangs(&self) -> bool {
        self.pulse.elapsed() >= self.limit
    }

    /// Jobs that wait.
    pub(crate) fn queued(&self) -> usize {
        let free = self.jobs.as_ref().map_or(QUEUE, mpsc::Sender::capacity);
        QUEUE.saturating_sub(free)
    }

    fn jobs(&self) -> Result<&mpsc::Sender<Job>, Error> {
        self.jobs.as_ref().ok_or_else(|| gone(&self.label))
    }
}

impl Drop for Line {
    /// Waits for the worker to finish: a process that exits while a thread is inside the module
    /// crashes in the module's own clean-up. One that hangs is not waited for.
    fn drop(&mut self) {
        self.jobs = None;
        let limit = if self.hangs() {
            Duration::ZERO
        } else {
            LEAVE_MAX
        };
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(limit) {
            tracing::warn!(
                token = self.label,
                "the token's worker did not finish in time"
            );
        }
    }
}

/// Since when a worker has been at its present job.
#[derive(Debug, Default)]
struct Pulse(AtomicU64);

impl Pulse {
    fn begin(&self) {
        self.0.store(milliseconds(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long its present job takes already; nothing if it has none.
    fn elapsed(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(milliseconds().saturating_sub(since)),
        }
    }
}

fn job<T: Send + 'static>(
    op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, Error>>) {
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |worker| {
        // Whoever asked may have left while the job waited, or leave before it is done; what the
        // reply holds is then dropped like any other.
        if !reply.is_closed() {
            drop(reply.send(worker.run(op)));
        }
    });
    (job, answer)
}

/// Keys whose last handle is gone, until their worker destroys them.
#[derive(Debug)]
pub(crate) struct Grave {
    place: (usize, usize),
    dead: Mutex<Vec<(u64, ObjectHandle)>>,
    wake: mpsc::WeakSender<Job>,
}

impl Grave {
    /// The token and the worker of it whose keys these are.
    pub(crate) fn place(&self) -> (usize, usize) {
        self.place
    }

    /// Leaves a key to be destroyed.
    pub(crate) fn bury(&self, session: u64, object: ObjectHandle) {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.push((session, object));
        drop(dead);
        if let Some(jobs) = self.wake.upgrade() {
            // A full queue needs no waking: every job buries first.
            drop(jobs.try_send(Box::new(Worker::tidy)));
        }
    }

    fn take(&self) -> Vec<(u64, ObjectHandle)> {
        std::mem::take(&mut *self.dead.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs blocking work on a thread of its own, for at most `limit`.
pub(crate) async fn on_thread<T: Send + 'static>(
    label: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    spawn(label, move || drop(reply.send(work())))?;
    let answer = tokio::time::timeout(limit.max(OPEN_MAX), answer).await;
    answer.map_err(|_| hung(label))?.map_err(|_| gone(label))?
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

fn hung(label: &str) -> Error {
    Error::TokenHung {
        label: label.to_owned(),
    }
}

/// Jobs that may wait for one worker: 10 ms of work for a software token.
const QUEUE: usize = 1024;
/// How long a dropped token waits for its worker.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How long opening a token may take at least: its self-test is some hundred calls.
const OPEN_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
