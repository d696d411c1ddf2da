//! One cipher context in custody: where the cipher jobs of an association are done.

mod seen;

use dlms::{
    CipherFailure, CipherJob, CipherOp, CipherOutput, KeyChoice, Protection, SystemTitle,
    security::Envelope,
};
use latchkey_proto::{
    audit::v1::SignedPermit,
    custody::v1::{
        self as pb, AnswerChallengeRequest, CloseContextRequest, HintInvocationCounterRequest,
        Mechanism, OpenContextRequest, OpenContextResponse, ProtectRequest, ProtectResponse,
        UnprotectRequest, UnprotectResponse, VerifyAnswerRequest, cipher_job::Job,
        cipher_result::Outcome,
    },
};
use tonic::{Code, Status};

use self::seen::Seen;
use crate::custodies::is_lost;
use crate::lane::{Lane, foreign};

/// A context that is open in custody.
pub(crate) struct Context {
    custody: Lane,
    id: String,
    /// What custody said when it last said no.
    pub(crate) refusal: Option<Status>,
    /// The invocation counter of the request that was let through last; 0 if it was of another key than the global one,
    /// whose counter alone can be compared with what a meter shows.
    pub(crate) counter: u32,
    /// Custody has it no longer: its process is gone, or a later context has ended it.
    pub(crate) lost: bool,
    seen: Seen,
}

/// How an association is to be opened.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) permit: SignedPermit,
    pub(crate) meter_id: String,
    pub(crate) mechanism: Mechanism,
    pub(crate) protection: pb::Protection,
    pub(crate) security: Option<pb::Security>,
    /// Of a rotation: which of its keys.
    pub(crate) rotation_keys: pb::RotationKeys,
}

impl Context {
    /// Opens a context under a permit; custody judges the permit.
    pub(crate) async fn open(
        custody: Lane,
        terms: Terms,
    ) -> Result<(Self, OpenContextResponse), Status> {
        let request = OpenContextRequest {
            permit: Some(terms.permit),
            meter_id: terms.meter_id,
            mechanism: terms.mechanism.into(),
            protection: terms.protection.into(),
            security: terms.security,
            rotation_keys: terms.rotation_keys.into(),
        };
        let response = custody.client().open_context(request).await?.into_inner();
        let context = Self {
            custody,
            id: response.context_id.clone(),
            refusal: None,
            counter: 0,
            lost: false,
            seen: Seen::default(),
        };
        Ok((context, response))
    }

    /// Does a job.
    pub(crate) async fn run(&mut self, job: CipherJob) -> Result<CipherOutput, CipherFailure> {
        let done = match job.op {
            CipherOp::Protect {
                apdu, protection, ..
            } => return self.protect(apdu, protection).await,
            CipherOp::Unprotect { apdu, .. } => return self.unprotect(apdu).await,
            CipherOp::Answer {
                challenge,
                peer_title,
                peer_certificate,
                ..
            } => {
                let request = AnswerChallengeRequest {
                    server_certificate: peer_certificate.unwrap_or_default(),
                    context_id: self.id.clone(),
                    server_challenge: challenge,
                    server_system_title: title_of(peer_title),
                };
                match self.custody.run(Job::AnswerChallenge(request)).await {
                    Ok(Outcome::AnswerChallenge(answer)) => Ok(CipherOutput::Token(answer.token)),
                    other => Err(refusal(other)),
                }
            }
            CipherOp::Verify { token, .. } => {
                let request = VerifyAnswerRequest {
                    context_id: self.id.clone(),
                    token,
                };
                match self.custody.run(Job::VerifyAnswer(request)).await {
                    Ok(Outcome::VerifyAnswer(_)) => Ok(CipherOutput::Verified),
                    other => Err(refusal(other)),
                }
            }
        };
        done.map_err(|status| self.refused(status))
    }

    /// A request: custody compares it with the permit, and ciphers it. Where nothing is ciphered it hands it back as it
    /// is: an honest association service sends no plain command that custody did not let through. No key stops a stolen one: a
    /// meter without encryption key obeys whoever speaks to it (promise P2 does not hold there).
    async fn protect(
        &mut self,
        apdu: Vec<u8>,
        protection: Protection,
    ) -> Result<CipherOutput, CipherFailure> {
        let commands = is_command(&apdu);
        let plain = (!protection.is_ciphered()).then(|| apdu.clone());
        let request = ProtectRequest {
            context_id: self.id.clone(),
            apdu,
        };
        let ProtectResponse {
            apdu,
            invocation_counter,
        } = match self.custody.run(Job::Protect(request)).await {
            Ok(Outcome::Protect(done)) => done,
            other => return Err(self.refused(refusal(other))),
        };
        if plain.is_some_and(|plain| plain != apdu) {
            return Err(CipherFailure::Refused);
        }
        if commands {
            self.counter = match is_global(protection) {
                true => invocation_counter,
                false => 0,
            };
        }
        Ok(CipherOutput::Apdu(apdu, invocation_counter))
    }

    async fn unprotect(&mut self, apdu: Vec<u8>) -> Result<CipherOutput, CipherFailure> {
        // What cannot be read is for custody to refuse.
        let envelope = Envelope::of(&apdu).ok();
        if let Some(envelope) = &envelope {
            // A late or doubled answer: it is dropped, and the right one is still waited for. Custody, who keeps the
            // counter over all associations, would refuse it as it refuses a forgery, and end this one.
            self.seen.check(envelope, &apdu)?;
        }
        let digest = seen::digest(&apdu);
        let request = UnprotectRequest {
            context_id: self.id.clone(),
            apdu,
        };
        let UnprotectResponse { apdu } = match self.custody.run(Job::Unprotect(request)).await {
            Ok(Outcome::Unprotect(done)) => done,
            other => return Err(self.refused(refusal(other))),
        };
        if let Some(envelope) = &envelope {
            self.seen.record(envelope, digest);
        }
        let counter = envelope.and_then(|envelope| envelope.counter);
        Ok(CipherOutput::Apdu(apdu, counter.unwrap_or(0)))
    }

    fn refused(&mut self, status: Status) -> CipherFailure {
        let failure = failure_of(&status);
        self.lost |= is_lost(&status);
        self.refusal = Some(status);
        failure
    }

    /// Tells custody which invocation counter the meter shows, unauthenticated. Whether ours were raised.
    pub(crate) async fn hint(&self, shown: u32) -> Result<bool, Status> {
        let request = HintInvocationCounterRequest {
            context_id: self.id.clone(),
            invocation_counter: shown,
        };
        let mut custody = self.custody.client();
        let hinted = custody.hint_invocation_counter(request).await?;
        Ok(hinted.into_inner().raised)
    }

    /// Forgets the context; custody forgets it anyway when the permit ends.
    pub(crate) async fn close(mut self) {
        let request = CloseContextRequest {
            context_id: std::mem::take(&mut self.id),
        };
        if let Err(status) = self.custody.client().close_context(request).await {
            tracing::debug!(%status, "the cipher context was not closed");
        }
    }
}

/// Why a job has not the answer that belongs to it.
fn refusal(done: Result<Outcome, Status>) -> Status {
    done.err().unwrap_or_else(foreign)
}

/// A meter that did not say its title, where none is needed (HLS with MD5 and SHA-1, not ciphered), has eight zeros for
/// one.
fn title_of(peer: SystemTitle) -> Vec<u8> {
    match peer.bytes() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Vec::new(),
        title => title.to_vec(),
    }
}

/// Whether a plaintext APDU is a command, or a block of one: not a release, nor the confirmation of a notification.
pub(crate) fn is_command(apdu: &[u8]) -> bool {
    matches!(apdu.first(), Some(0xC0 | 0xC1 | 0xC3 | 0xD9))
}

/// Whether APDUs of this form are under the global key, whose counter outlives associations.
pub(crate) const fn is_global(protection: Protection) -> bool {
    matches!(
        protection,
        Protection::Glo
            | Protection::GeneralGlo
            | Protection::GeneralCiphering(KeyChoice::Identified)
    )
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
