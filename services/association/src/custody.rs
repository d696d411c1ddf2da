//! One cipher context in custody: where the cipher jobs of an association are done.

use dlms::{CipherFailure, CipherJob, CipherOp, CipherOutput, Ciphered};
use kit::Channel;
use latchkey_proto::{
    audit::v1::SignedPermit,
    custody::v1::{
        AnswerChallengeRequest, CloseContextRequest, Mechanism, OpenContextRequest,
        OpenContextResponse, ProtectRequest, ProtectResponse, Protection, UnprotectRequest,
        VerifyAnswerRequest, cipher_service_client::CipherServiceClient,
    },
};
use tonic::{Code, Status};

/// A client of custody's cipher service.
pub(crate) type Custody = CipherServiceClient<Channel>;

/// A context that is open in custody.
pub(crate) struct Context {
    custody: Custody,
    id: String,
    /// What custody said when it last said no.
    pub(crate) refusal: Option<Status>,
    /// The invocation counter of the request that was ciphered last.
    pub(crate) counter: u32,
    /// The invocation counter of the response that was accepted last.
    received: Option<u32>,
}

/// How an association is to be opened.
pub(crate) struct Terms {
    pub(crate) permit: SignedPermit,
    pub(crate) meter_id: String,
    pub(crate) mechanism: Mechanism,
    pub(crate) protection: Protection,
}

impl Context {
    /// Opens a context under a permit; custody judges the permit.
    pub(crate) async fn open(
        mut custody: Custody,
        terms: Terms,
    ) -> Result<(Self, OpenContextResponse), Status> {
        let request = OpenContextRequest {
            permit: Some(terms.permit),
            meter_id: terms.meter_id,
            mechanism: terms.mechanism.into(),
            protection: terms.protection.into(),
            security: None,
        };
        let response = custody.open_context(request).await?.into_inner();
        let context = Self {
            custody,
            id: response.context_id.clone(),
            refusal: None,
            counter: 0,
            received: None,
        };
        Ok((context, response))
    }

    /// Does a job.
    pub(crate) async fn run(&mut self, job: CipherJob) -> Result<CipherOutput, CipherFailure> {
        let done = match job.op {
            CipherOp::Protect { apdu, .. } => self.protect(apdu).await,
            CipherOp::Unprotect { apdu, .. } => {
                let counter = Ciphered::decode(&apdu).map_or(0, |ciphered| ciphered.counter);
                // A late or doubled answer: it is dropped, and the right one is still waited for. Custody, who keeps the
                // counter over all associations, would refuse it as it refuses a forgery, and end this one.
                if let Some(last) = self.received.filter(|last| counter <= *last) {
                    return Err(CipherFailure::Replay {
                        expected: last.saturating_add(1),
                    });
                }
                self.unprotect(apdu, counter).await
            }
            CipherOp::Answer {
                challenge,
                peer_title,
                ..
            } => {
                let request = AnswerChallengeRequest {
                    context_id: self.id.clone(),
                    server_challenge: challenge,
                    server_system_title: peer_title.bytes().to_vec(),
                };
                let answered = self.custody.answer_challenge(request).await;
                answered.map(|answer| CipherOutput::Token(answer.into_inner().token))
            }
            CipherOp::Verify { token, .. } => {
                let request = VerifyAnswerRequest {
                    context_id: self.id.clone(),
                    token,
                };
                self.custody
                    .verify_answer(request)
                    .await
                    .map(|_| CipherOutput::Verified)
            }
        };
        done.map_err(|status| {
            let failure = failure_of(&status);
            self.refusal = Some(status);
            failure
        })
    }

    async fn protect(&mut self, apdu: Vec<u8>) -> Result<CipherOutput, Status> {
        let ProtectResponse {
            apdu,
            invocation_counter,
        } = self.ask_protect(apdu).await?;
        self.counter = invocation_counter;
        Ok(CipherOutput::Apdu(apdu, invocation_counter))
    }

    async fn unprotect(&mut self, apdu: Vec<u8>, counter: u32) -> Result<CipherOutput, Status> {
        let request = UnprotectRequest {
            context_id: self.id.clone(),
            apdu,
        };
        let plain = self.custody.unprotect(request).await?.into_inner();
        self.received = Some(counter);
        Ok(CipherOutput::Apdu(plain.apdu, counter))
    }

    /// Asks leave for a request of a plain association: custody compares it with the permit, as it does with those it
    /// ciphers, and hands it back as it is.
    pub(crate) async fn allow(&mut self, apdu: &[u8]) -> Result<(), CipherFailure> {
        match self.ask_protect(apdu.to_vec()).await {
            Ok(allowed) if allowed.apdu == apdu => Ok(()),
            Ok(_) => Err(CipherFailure::Refused),
            Err(status) => {
                let failure = failure_of(&status);
                self.refusal = Some(status);
                Err(failure)
            }
        }
    }

    async fn ask_protect(&mut self, apdu: Vec<u8>) -> Result<ProtectResponse, Status> {
        let request = ProtectRequest {
            context_id: self.id.clone(),
            apdu,
        };
        Ok(self.custody.protect(request).await?.into_inner())
    }

    /// Forgets the context; custody forgets it anyway when the permit ends.
    pub(crate) async fn close(mut self) {
        let request = CloseContextRequest {
            context_id: std::mem::take(&mut self.id),
        };
        if let Err(status) = self.custody.close_context(request).await {
            tracing::debug!(%status, "the cipher context was not closed");
        }
    }
}

fn failure_of(status: &Status) -> CipherFailure {
    match status.code() {
        // DATA_LOSS: wrong tag or old counter; UNAUTHENTICATED: the meter's challenge or answer is not to be trusted.
        Code::DataLoss | Code::Unauthenticated => CipherFailure::AuthFailed,
        Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument => {
            CipherFailure::Refused
        }
        _ => CipherFailure::Unavailable,
    }
}
