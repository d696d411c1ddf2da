//! The stream of jobs of the custody in memory: each is done as its call is.

use futures::{StreamExt as _, stream::BoxStream};
use kit::status;
use latchkey_proto::custody::v1::{
    CipherFailure, CipherJob, CipherRequest, CipherResponse, CipherResult, cipher_job::Job,
    cipher_result::Outcome, cipher_service_server::CipherService as _,
};
use tonic::{Request, Status, Streaming};

use super::custody::Custody;

pub type Results = BoxStream<'static, Result<CipherResponse, Status>>;

pub fn results(custody: Custody, asked: Streaming<CipherRequest>) -> Results {
    let done = move |message: Result<CipherRequest, Status>| {
        let custody = custody.clone();
        async move {
            let mut results = Vec::new();
            for job in message?.jobs {
                results.push(done(&custody, job).await);
            }
            Ok(CipherResponse { results })
        }
    };
    asked.then(done).boxed()
}

async fn done(custody: &Custody, job: CipherJob) -> CipherResult {
    assert!(!job.request_id.is_empty(), "a job has its request id");
    let done = match job.job.expect("a job") {
        Job::Protect(asked) => custody
            .protect(Request::new(asked))
            .await
            .map(|done| Outcome::Protect(done.into_inner())),
        Job::Unprotect(asked) => custody
            .unprotect(Request::new(asked))
            .await
            .map(|done| Outcome::Unprotect(done.into_inner())),
        Job::AnswerChallenge(asked) => custody
            .answer_challenge(Request::new(asked))
            .await
            .map(|done| Outcome::AnswerChallenge(done.into_inner())),
        Job::VerifyAnswer(asked) => custody
            .verify_answer(Request::new(asked))
            .await
            .map(|done| Outcome::VerifyAnswer(done.into_inner())),
    };
    let outcome = done.unwrap_or_else(|failed| {
        let (code, message, details) = status::to_parts(&failed);
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
