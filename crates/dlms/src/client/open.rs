//! Opening: AARQ, AARE, and what is refused of the latter.

use alloc::vec::Vec;

use super::state::{Grant, Session, State};
use super::{Client, Effect, Event};
use crate::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use crate::cause::{Awaiting, Cause};
use crate::cipher::{CipherFailure, CipherOp, CipherOutput};
use crate::conformance::Conformance;
use crate::initiate::{ConfirmedServiceError, DLMS_VERSION, InitiateRequest, InitiateResponse};
use crate::mechanism::{ApplicationContext, CHALLENGE_MAX, CHALLENGE_MIN, Mechanism};
use crate::security::{
    Ciphered, GENERAL_GLO, SecurityControl, Suite, SystemTitle, is_ciphered, plain_tag,
};
use crate::service::{EXCEPTION, InvokeId, Response};

/// The shortest max-receive-pdu-size a server may name (IEC 62056-5-3), 0 meaning no limit.
const PDU_MIN: u16 = 12;

impl Client {
    pub(super) fn start(&mut self, now_ms: u64) -> State {
        if let Err(cause) = self.check_config() {
            return self.fail(cause);
        }
        let request = self.initiate_request();
        if self.config.protection.is_ciphered() {
            let job = self.protect(request);
            State::ProtectingInitiate { job }
        } else {
            self.transmit_aarq(now_ms, request)
        }
    }

    fn check_config(&self) -> Result<(), Cause> {
        let config = &self.config;
        let mechanism = config.mechanism;
        if !mechanism.is_supported() {
            return Err(Cause::Unsupported(mechanism));
        }
        if self.names_itself() && config.client_title.is_none() {
            return Err(Cause::Config(
                "ciphering and HLS need the client's system title",
            ));
        }
        let length = config.authentication_value.len();
        let wrong = if mechanism.is_high_level() {
            (!(CHALLENGE_MIN..=CHALLENGE_MAX).contains(&length))
                .then_some("HLS needs a challenge of 8..64 octets")
        } else if mechanism == Mechanism::Low {
            (length > CHALLENGE_MAX).then_some("a password has at most 64 octets")
        } else {
            (length > 0).then_some("without authentication there is no authentication value")
        };
        wrong.map_or(Ok(()), |why| Err(Cause::Config(why)))
    }

    /// Whether system titles matter.
    const fn names_itself(&self) -> bool {
        self.config.protection.is_ciphered() || self.config.mechanism.is_high_level()
    }

    fn proposed(&self) -> Conformance {
        if self.config.protection.is_general() {
            self.config.conformance | Conformance::GENERAL_PROTECTION
        } else {
            self.config.conformance
        }
    }

    pub(super) fn initiate_request(&self) -> Vec<u8> {
        InitiateRequest::new(self.proposed(), self.config.max_pdu).encode()
    }

    pub(super) fn on_initiate_protected(
        &mut self,
        now_ms: u64,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match self.protected(Awaiting::Aare, 0x01, result) {
            Ok(information) => self.transmit_aarq(now_ms, information),
            Err(cause) => self.fail(cause),
        }
    }

    fn context(&self) -> ApplicationContext {
        ApplicationContext::logical_name(self.config.protection.is_ciphered())
    }

    fn transmit_aarq(&mut self, now_ms: u64, information: Vec<u8>) -> State {
        let mechanism = self.config.mechanism;
        let authenticates = mechanism != Mechanism::None;
        let aarq = Aarq {
            context: self.context(),
            calling_title: self.config.client_title.filter(|_| self.names_itself()),
            calling_ae_qualifier: None,
            mechanism: authenticates.then_some(mechanism),
            authentication_value: authenticates.then(|| self.config.authentication_value.clone()),
            user_information: Some(information),
        };
        match self.transmit(aarq.encode()) {
            Ok(()) => State::AwaitingAare {
                deadline: self.arm(now_ms),
            },
            Err(cause) => self.fail(cause),
        }
    }

    pub(super) fn on_aare(&mut self, apdu: &[u8]) -> State {
        let (grant, information) = match self.check_aare(apdu) {
            Ok(accepted) => accepted,
            Err(cause) => return self.fail(cause),
        };
        match (self.config.protection.is_ciphered(), grant.server_title) {
            (true, Some(peer_title)) => match check_ciphered(&information, peer_title) {
                Ok(tag) => {
                    let job = self.job(CipherOp::Unprotect {
                        apdu: information,
                        peer_title,
                        protection: self.config.protection,
                        control: SecurityControl::AUTH_ENC,
                        signed: false,
                    });
                    State::UnprotectingInitiate { job, tag, grant }
                }
                Err(cause) => self.fail(cause),
            },
            (true, None) => self.fail(Cause::NoServerTitle),
            (false, _) => self.on_initiate_response(grant, &information),
        }
    }

    /// What an AARE grants, if it grants what was asked for.
    fn check_aare(&self, apdu: &[u8]) -> Result<(Grant, Vec<u8>), Cause> {
        if apdu.first() == Some(&EXCEPTION) {
            return Err(exception(apdu));
        }
        let aare = Aare::decode(apdu)?;
        let Aare {
            result, diagnostic, ..
        } = aare;
        if result != AssociationResult::Accepted {
            let error = aare
                .user_information
                .and_then(|information| ConfirmedServiceError::decode(&information).ok());
            return Err(Cause::Rejected {
                result,
                diagnostic,
                error,
            });
        }
        let (proposed, granted) = (self.context(), aare.context);
        if proposed != granted {
            return Err(Cause::ContextDowngrade { proposed, granted });
        }
        self.check_mechanism(aare.mechanism, diagnostic)?;
        let server_title = self.check_title(aare.responding_title)?;
        let challenge = self.check_challenge(aare.authentication_value)?;
        let information = aare
            .user_information
            .ok_or(Cause::BadInitiate("there is none"))?;
        Ok((
            Grant {
                server_title,
                challenge,
            },
            information,
        ))
    }

    /// The mechanism proposed decides on passes 3 and 4: servers are known that name none, or say diagnostic 0, with HLS.
    fn check_mechanism(
        &self,
        granted: Option<Mechanism>,
        diagnostic: Diagnostic,
    ) -> Result<(), Cause> {
        let proposed = self.config.mechanism;
        let other = granted.is_some_and(|granted| granted != proposed);
        let demanded =
            diagnostic == Diagnostic::AUTHENTICATION_REQUIRED && !proposed.is_high_level();
        if other || demanded {
            return Err(Cause::MechanismDowngrade { proposed, granted });
        }
        Ok(())
    }

    /// A meter with our own title would answer under our own nonces.
    fn check_title(&self, found: Option<SystemTitle>) -> Result<Option<SystemTitle>, Cause> {
        if !self.names_itself() {
            return Ok(found);
        }
        let title = match (self.config.expected_server_title, found) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(Cause::WrongServerTitle { expected, found });
            }
            (Some(title), _) | (None, Some(title)) => title,
            (None, None) => return Err(Cause::NoServerTitle),
        };
        if self.config.client_title == Some(title) {
            return Err(Cause::Reflected {
                what: "system title",
            });
        }
        Ok(Some(title))
    }

    fn check_challenge(&self, challenge: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Cause> {
        if !self.config.mechanism.is_high_level() {
            return Ok(None);
        }
        let challenge = challenge.unwrap_or_default();
        let found = challenge.len();
        if !(CHALLENGE_MIN..=CHALLENGE_MAX).contains(&found) {
            return Err(Cause::BadChallenge { found });
        }
        if challenge == self.config.authentication_value {
            return Err(Cause::Reflected { what: "challenge" });
        }
        Ok(Some(challenge))
    }

    pub(super) fn on_initiate(
        &mut self,
        tag: u8,
        grant: Grant,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match unprotected(Awaiting::Aare, tag, result) {
            Ok(apdu) => self.on_initiate_response(grant, &apdu),
            Err(cause) => self.fail(cause),
        }
    }

    fn on_initiate_response(&mut self, grant: Grant, apdu: &[u8]) -> State {
        let session = match self.negotiate(grant.server_title, apdu) {
            Ok(session) => session,
            Err(cause) => return self.fail(cause),
        };
        match (grant.challenge, session.server_title) {
            (Some(challenge), Some(peer_title)) => {
                let job = self.job(CipherOp::Answer {
                    mechanism: self.config.mechanism,
                    challenge,
                    own_challenge: self.config.authentication_value.clone(),
                    peer_title,
                    suite: Suite::Suite0,
                });
                State::Answering { job, session }
            }
            (Some(_), None) => self.fail(Cause::NoServerTitle),
            (None, _) => self.opened(session),
        }
    }

    fn negotiate(&self, server_title: Option<SystemTitle>, apdu: &[u8]) -> Result<Session, Cause> {
        if let Ok(error) = ConfirmedServiceError::decode(apdu) {
            return Err(Cause::Rejected {
                result: AssociationResult::Accepted,
                diagnostic: Diagnostic::NULL,
                error: Some(error),
            });
        }
        let response = InitiateResponse::decode(apdu)?;
        if response.version < DLMS_VERSION {
            return Err(Cause::BadInitiate("its DLMS version is below 6"));
        }
        if (1..PDU_MIN).contains(&response.max_pdu) {
            return Err(Cause::BadInitiate("its largest APDU is below 12 octets"));
        }
        Ok(Session {
            server_title,
            conformance: response.conformance & self.proposed(),
            max_pdu: response.max_pdu,
            invoke: InvokeId::new(1),
        })
    }

    pub(super) fn opened(&mut self, session: Session) -> State {
        self.effects.push_back(Effect::Event(Event::Opened {
            server_title: session.server_title,
            conformance: session.conformance,
            max_pdu: session.max_pdu,
        }));
        State::Ready { session }
    }
}

pub(super) fn exception(apdu: &[u8]) -> Cause {
    match Response::decode(apdu) {
        Ok(Response::Exception(exception)) => Cause::Exception(exception),
        Ok(
            Response::GetData { .. }
            | Response::GetError { .. }
            | Response::GetBlock { .. }
            | Response::GetList { .. }
            | Response::Set { .. }
            | Response::SetBlockAck { .. }
            | Response::SetLastBlock { .. }
            | Response::SetLastBlockList { .. }
            | Response::SetList { .. }
            | Response::Action { .. }
            | Response::ActionBlock { .. }
            | Response::ActionList { .. }
            | Response::ActionNextBlock { .. }
            | Response::Access { .. }
            | Response::ConfirmedServiceError(_),
        ) => Cause::Mismatch("no exception"),
        Err(error) => Cause::Malformed(error),
    }
}

/// The tag of an answer that is protected as everything must be in a ciphered association.
pub(super) fn check_ciphered(apdu: &[u8], server_title: SystemTitle) -> Result<u8, Cause> {
    if !is_ciphered(apdu) {
        let tag = apdu.first().copied().unwrap_or_default();
        return Err(Cause::Unprotected { tag });
    }
    let Ciphered {
        tag,
        title,
        control,
        ..
    } = Ciphered::decode(apdu)?;
    let expected = SecurityControl::AUTH_ENC;
    if control != expected {
        return Err(Cause::WrongProtection {
            expected,
            found: control,
        });
    }
    match title {
        Some(found) if found != server_title => Err(Cause::WrongServerTitle {
            expected: server_title,
            found,
        }),
        Some(_) | None => Ok(tag),
    }
}

/// The plaintext of an `Unprotect` job, if it is the kind of APDU that its tag says.
pub(super) fn unprotected(
    during: Awaiting,
    tag: u8,
    result: Result<CipherOutput, CipherFailure>,
) -> Result<Vec<u8>, Cause> {
    let output = result.map_err(|failure| Cause::Cipher { during, failure })?;
    let CipherOutput::Apdu(apdu, _) = output else {
        return Err(Cause::BadCipherOutput {
            expected: "a deciphered APDU",
        });
    };
    let inside = apdu.first().copied().unwrap_or_default();
    if tag != GENERAL_GLO && plain_tag(tag) != Some(inside) {
        return Err(Cause::WrongTag { found: tag, inside });
    }
    Ok(apdu)
}
