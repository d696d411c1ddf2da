//! The stream of cipher jobs to custody: what every association of this process asks, over one HTTP/2 stream.
//!
//! ```text
//!  association ─┐            ┌ requests: whatever waits, in one message ─▶ ┐
//!  association ─┼─ Lane::run ┤                                             │ custody
//!  association ─┘            └ waiting: job id → who asked  ◀── answers ── ┘
//! ```
//! The stream opens with the first job and again with the next one after it broke. A job without an answer may have been
//! done, exactly as with a call that broke. A custody that does not know the stream yet is called as before.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use kit::{
    Channel, Origin, Tasks, context,
    status::{self, Fault},
};
use latchkey_proto::custody::v1::{
    CipherJob, CipherRequest, CipherResult, cipher_job::Job, cipher_result::Outcome,
    cipher_service_client::CipherServiceClient,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// Jobs that wait to be sent.
const QUEUE: usize = 256;
/// Most jobs of one message; the proto says so.
const JOBS_MAX: usize = 64;

/// The way to custody's keys. Clones share its stream.
#[derive(Debug, Clone)]
pub struct Lane(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: CipherServiceClient<Channel>,
    tasks: Tasks,
    patience: Duration,
    /// Where jobs go, while a stream is open.
    open: Mutex<Option<mpsc::Sender<Asked>>>,
    known: Arc<Known>,
}

/// What is known of custody: [`UNTRIED`], [`STREAMS`] or [`CALLS`].
#[derive(Debug, Default)]
struct Known(AtomicU8);

const UNTRIED: u8 = 0;
/// It has answered a job of a stream.
const STREAMS: u8 = 1;
/// It is older than the stream: so it is called, until a call fails for a while.
const CALLS: u8 = 2;

/// A job on its way.
#[derive(Debug)]
struct Asked {
    origin: Origin,
    job: Job,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Outcome, Status>>;

/// Jobs that were sent and have no answer.
#[derive(Debug, Clone, Default)]
struct Waiting(Arc<Mutex<HashMap<u64, Reply>>>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the stream to custody broke before it answered")]
    Broken,
    #[error("custody did not answer in time")]
    Late,
    #[error("custody answered something else than it was asked")]
    Foreign,
}

impl Fault for Silence {
    fn code(&self) -> Code {
        match self {
            Self::Broken => Code::Unavailable,
            Self::Late => Code::DeadlineExceeded,
            Self::Foreign => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        "CUSTODY_UNAVAILABLE"
    }

    fn mend(&self) -> Option<String> {
        Some("see the log of custody; try again when it is healthy".to_owned())
    }
}

impl Lane {
    /// Nothing is opened yet. A job waits for its answer no longer than `patience`, nor than its call's deadline.
    #[must_use]
    pub fn new(client: CipherServiceClient<Channel>, tasks: Tasks, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            client,
            tasks,
            patience,
            open: Mutex::default(),
            known: Arc::default(),
        }))
    }

    /// The calls that are no jobs.
    #[must_use]
    pub fn client(&self) -> CipherServiceClient<Channel> {
        self.0.client.clone()
    }

    /// Has a job done. The jobs of one context must be asked one after the other.
    ///
    /// # Errors
    /// The status its call would end with. Without an answer it may have been done: `UNAVAILABLE` or
    /// `DEADLINE_EXCEEDED`.
    pub async fn run(&self, job: Job) -> Result<Outcome, Status> {
        let spare = match self.0.known.get() {
            STREAMS => None,
            CALLS => return self.call(job).await,
            // Nothing of it is done by a custody that does not know the stream.
            _ => Some(job.clone()),
        };
        let wait = context::time_left(self.0.patience);
        let done = match timeout(wait, self.stream(job)).await {
            Ok(done) => done,
            Err(_) => Err(status::status(&Silence::Late)),
        };
        match (done, spare) {
            (Err(status), Some(job)) if status.code() == Code::Unimplemented => {
                self.call(job).await
            }
            (done, _) => done,
        }
    }

    async fn stream(&self, job: Job) -> Result<Outcome, Status> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            origin: Origin::here(),
            job,
            reply,
        };
        // A stream that ended a moment ago takes nothing more: this job opens the next.
        if let Err(mpsc::error::SendError(asked)) = self.sender().send(asked).await
            && self.sender().send(asked).await.is_err()
        {
            return Err(status::status(&Silence::Broken));
        }
        answer
            .await
            .unwrap_or_else(|_| Err(status::status(&Silence::Broken)))
    }

    /// Into the stream that is open, or a new one.
    fn sender(&self) -> mpsc::Sender<Asked> {
        let mut open = lock(&self.0.open);
        match &*open {
            Some(sender) if !sender.is_closed() => sender.clone(),
            _ => {
                let (sender, jobs) = mpsc::channel(QUEUE);
                *open = Some(sender.clone());
                let (client, known) = (self.client(), Arc::clone(&self.0.known));
                let carried = carry(client, jobs, known);
                self.0.tasks.spawn("cipher stream", carried);
                sender
            }
        }
    }

    /// The job as a call of its own.
    async fn call(&self, job: Job) -> Result<Outcome, Status> {
        let mut client = self.client();
        let done = match job {
            Job::Protect(asked) => client
                .protect(asked)
                .await
                .map(|done| Outcome::Protect(done.into_inner())),
            Job::Unprotect(asked) => client
                .unprotect(asked)
                .await
                .map(|done| Outcome::Unprotect(done.into_inner())),
            Job::AnswerChallenge(asked) => client
                .answer_challenge(asked)
                .await
                .map(|done| Outcome::AnswerChallenge(done.into_inner())),
            Job::VerifyAnswer(asked) => client
                .verify_answer(asked)
                .await
                .map(|done| Outcome::VerifyAnswer(done.into_inner())),
        };
        // Whoever is there now may be newer than who was.
        if matches!(&done, Err(status) if status::is_transient(status)) {
            self.0.known.set(UNTRIED);
        }
        done
    }
}

/// The status of an answer that is not the one that was asked for.
#[must_use]
pub fn foreign() -> Status {
    status::status(&Silence::Foreign)
}

impl Known {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, known: u8) {
        self.0.store(known, Ordering::Relaxed);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Reply>> {
        lock(&self.0)
    }

    /// A message of these jobs; whoever asked is remembered before it leaves.
    fn message(&self, number: &mut u64, asked: Vec<Asked>) -> CipherRequest {
        let mut waiting = self.lock();
        let jobs = asked.into_iter().map(|asked| {
            *number += 1;
            waiting.insert(*number, asked.reply);
            CipherJob {
                job_id: *number,
                request_id: asked.origin.request_id,
                trace_parent: asked.origin.trace_parent,
                job: Some(asked.job),
            }
        });
        let jobs = jobs.collect();
        CipherRequest { jobs }
    }

    fn answer(&self, result: CipherResult) {
        let Some(reply) = self.lock().remove(&result.job_id) else {
            tracing::warn!(job_id = result.job_id, "custody answered no job of ours");
            return;
        };
        let outcome = match result.outcome {
            Some(Outcome::Failure(failure)) => Err(status::from_parts(
                failure.code,
                failure.message,
                failure.details,
            )),
            Some(outcome) => Ok(outcome),
            None => Err(foreign()),
        };
        // Whoever asked may have left.
        drop(reply.send(outcome));
    }

    /// Nobody answers these any more.
    fn fail(&self, status: &Status) {
        for (_, reply) in self.lock().drain() {
            drop(reply.send(Err(status.clone())));
        }
    }
}

/// Carries jobs until nobody can ask any more, or the stream breaks.
async fn carry(
    mut client: CipherServiceClient<Channel>,
    jobs: mpsc::Receiver<Asked>,
    known: Arc<Known>,
) {
    let waiting = Waiting::default();
    let requests = {
        let (waiting, mut number) = (waiting.clone(), 0);
        ReceiverStream::new(jobs)
            .ready_chunks(JOBS_MAX)
            .map(move |asked| waiting.message(&mut number, asked))
    };
    let ended = match client.cipher(requests).await {
        Ok(response) => {
            let mut answers = response.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(response)) => {
                        known.set(STREAMS);
                        response
                            .results
                            .into_iter()
                            .for_each(|result| waiting.answer(result));
                    }
                    Ok(None) => break status::status(&Silence::Broken),
                    Err(status) => break status,
                }
            }
        }
        Err(status) => status,
    };
    match ended.code() {
        Code::Unimplemented => known.set(CALLS),
        _ => known.set(UNTRIED),
    }
    tracing::debug!(status = %ended, "the stream of cipher jobs ended");
    waiting.fail(&ended);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
