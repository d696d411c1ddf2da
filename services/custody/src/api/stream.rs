//! `latchkey.custody.v1.CipherService/Cipher`: jobs of many contexts over one stream.
//!
//! A call of its own costs an HTTP/2 stream, two sets of headers, a span and a wake-up of each side; ciphering an APDU
//! costs less than that. Here jobs that wait are read together, done together, and answered together: the token's
//! worker finds them in its queue one after the other, and one message carries what is ready.

use std::{future, sync::Arc};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use kit::{Origin, PeerName, run_job, status};
use latchkey_proto::custody::v1::{
    CipherFailure, CipherJob, CipherRequest, CipherResponse, CipherResult, cipher_job::Job,
    cipher_result::Outcome,
};
use tonic::{Status, Streaming};

use crate::{custody::Custody, error::Error};

/// Jobs of one stream that are done at one time; the proto says so.
const IN_FLIGHT: usize = 256;
/// Most jobs of one message, and most answers.
const JOBS_MAX: usize = 64;

/// The answers of one stream.
pub(super) type Results = BoxStream<'static, Result<CipherResponse, Status>>;

/// Does the jobs of a stream until it ends, breaks, or custody stops. Jobs that were taken are done to their end.
///
/// The order of the jobs of one context is kept: they are begun in the order they came in, each of them waits for the
/// context's lock before anything else, and that lock is given in the order it was asked for.
pub(super) fn results(
    custody: Custody,
    peer: PeerName,
    asked: Streaming<CipherRequest>,
) -> Results {
    let shutdown = custody.shutdown.clone();
    let server = Arc::new((custody, peer));
    asked
        .take_until(async move { shutdown.fired().await })
        .scan(false, |ended, message| {
            let jobs = jobs(message);
            let last = std::mem::replace(ended, matches!(jobs, Err(Some(_)) | Err(None)));
            future::ready((!last).then_some(jobs))
        })
        .flat_map(|jobs| match jobs {
            Ok(jobs) => stream::iter(jobs).map(Ok).left_stream(),
            Err(refused) => stream::iter(refused.map(Err)).right_stream(),
        })
        .map(move |job| {
            let server = Arc::clone(&server);
            async move { Ok(done(&server, job?).await) }
        })
        .buffer_unordered(IN_FLIGHT)
        .ready_chunks(JOBS_MAX)
        .map(|done| {
            let results = done.into_iter().collect::<Result<Vec<_>, Status>>()?;
            Ok(CipherResponse { results })
        })
        .boxed()
}

/// The jobs of a message. Else the stream ends: with an error, or without where the caller is gone.
fn jobs(message: Result<CipherRequest, Status>) -> Result<Vec<CipherJob>, Option<Status>> {
    match message {
        Ok(message) if (1..=JOBS_MAX).contains(&message.jobs.len()) => Ok(message.jobs),
        Ok(message) => {
            let why = format!("must have 1..{JOBS_MAX}, has {}", message.jobs.len());
            let refused = Error::Request(vec![("jobs".to_owned(), why)]);
            Err(Some(refused.into()))
        }
        Err(broken) => {
            tracing::debug!(status = %broken, "a stream of cipher jobs broke");
            Err(None)
        }
    }
}

/// Does one job.
async fn done(server: &(Custody, PeerName), job: CipherJob) -> CipherResult {
    let (custody, peer) = server;
    let origin = Origin {
        request_id: job.request_id,
        trace_parent: job.trace_parent,
    };
    let method = match &job.job {
        Some(Job::Protect(_)) => "Cipher/Protect",
        Some(Job::Unprotect(_)) => "Cipher/Unprotect",
        Some(Job::AnswerChallenge(_)) => "Cipher/AnswerChallenge",
        Some(Job::VerifyAnswer(_)) => "Cipher/VerifyAnswer",
        None => "Cipher/None",
    };
    let outcome = run_job(method, origin, async {
        Ok(match job.job {
            Some(Job::Protect(asked)) => {
                Outcome::Protect(custody.protect_asked(peer, asked).await?)
            }
            Some(Job::Unprotect(asked)) => {
                Outcome::Unprotect(custody.unprotect_asked(peer, asked).await?)
            }
            Some(Job::AnswerChallenge(asked)) => {
                Outcome::AnswerChallenge(custody.answer_asked(peer, asked).await?)
            }
            Some(Job::VerifyAnswer(asked)) => {
                Outcome::VerifyAnswer(custody.verify_asked(peer, asked).await?)
            }
            None => {
                let why = "is required".to_owned();
                return Err(Error::Request(vec![("job".to_owned(), why)]).into());
            }
        })
    });
    let outcome = Box::pin(outcome).await.unwrap_or_else(|status| {
        let (code, message, details) = status::to_parts(&status);
        Outcome::Failure(CipherFailure {
            code,
            message,
            details,
        })
    });
    CipherResult {
        job_id: job.job_id,
        outcome: Some(outcome),
    }
}
