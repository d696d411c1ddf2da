//! Opening: AARQ, AARE, and what is refused of the latter.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::exchange::exception;
use super::state::{Grant, Plain, Session, State, Then};
use super::wire::unprotected;
use super::{Client, Effect, Event};
use crate::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use crate::cause::{Awaiting, Cause};
use crate::cipher::{CipherFailure, CipherOutput};
use crate::initiate::{ConfirmedServiceError, DLMS_VERSION, InitiateRequest, InitiateResponse};
use crate::mechanism::{ApplicationContext, CHALLENGE_MAX, CHALLENGE_MIN, Mechanism};
use crate::security::SystemTitle;
use crate::service::{EXCEPTION, InvokeId};
use crate::terms::Parties;

/// The shortest max-receive-pdu-size a server may name (IEC 62056-5-3), 0 meaning no limit.
const PDU_MIN: u16 = 12;
/// Tag of an InitiateRequest.
const INITIATE: u8 = 0x01;

impl Client {
    /// Sets the link up.
    pub(super) fn connect(&mut self, now_ms: u64) {
        self.state = State::Connecting;
        self.link.connect(now_ms);
        self.drain(now_ms);
    }

    /// The link is up.
    pub(super) fn start(&mut self, now_ms: u64) {
        let request = self.initiate_request();
        if self.config.protection.is_ciphered() {
            // With a dedicated key it is its holder who puts it in.
            let terms = crate::terms::Terms {
                signed: false,
                ..self.config.terms()
            };
            let (job, _) = self.protect(request, terms);
            self.state = State::ProtectingInitiate { job };
        } else {
            self.transmit_aarq(now_ms, request);
        }
    }

    pub(super) fn initiate_request(&self) -> Vec<u8> {
        InitiateRequest::new(self.config.proposed(), self.config.max_pdu).encode()
    }

    pub(super) fn on_initiate_protected(
        &mut self,
        now_ms: u64,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        match self.protected_initiate(Awaiting::Aare, result) {
            Ok(information) => self.transmit_aarq(now_ms, information),
            Err(cause) => self.fail(cause),
        }
    }

    /// The InitiateRequest of a `Protect` job.
    pub(super) fn protected_initiate(
        &self,
        during: Awaiting,
        result: Result<CipherOutput, CipherFailure>,
    ) -> Result<Vec<u8>, Cause> {
        let plain = Plain {
            tag: INITIATE,
            print: 0,
        };
        let terms = self.config.terms().initiate();
        self.protected(during, plain, (terms, None), result)
    }

    const fn context(&self) -> ApplicationContext {
        ApplicationContext::logical_name(self.config.protection.is_ciphered())
    }

    fn transmit_aarq(&mut self, now_ms: u64, information: Vec<u8>) {
        let mechanism = self.config.mechanism;
        let authenticates = mechanism != Mechanism::None;
        let titled = self.config.is_titled() || mechanism.is_high_level();
        let aarq = Aarq {
            context: self.context(),
            calling_title: self.config.client_title.filter(|_| titled),
            calling_ae_qualifier: self.config.certificate.clone(),
            mechanism: authenticates.then_some(mechanism),
            authentication_value: authenticates.then(|| self.config.authentication_value.clone()),
            user_information: Some(information),
        };
        let deadline = self.deadline(now_ms);
        self.state = State::AwaitingAare { deadline };
        if let Err(cause) = self.transmit(now_ms, aarq.encode()) {
            self.fail(cause);
        }
    }

    /// Takes an AARE. Over UDP anybody may have sent it, until its InitiateResponse is deciphered: before that nothing
    /// ends the opening of a ciphered association but the time-out, which tells the first of what was doubted. In a
    /// plain association nothing proves anything: all but a malformed AARE is taken at its word.
    pub(super) fn on_aare(&mut self, now_ms: u64, apdu: &[u8]) {
        let State::AwaitingAare { deadline } = self.state else {
            return;
        };
        let (grant, information) = match self.check_aare(apdu) {
            Ok(accepted) => accepted,
            Err(cause) => return self.not_opened(now_ms, cause),
        };
        if !self.config.protection.is_ciphered() {
            return self.on_initiate_response(now_ms, grant, &information);
        }
        let Some(from) = grant.server_title else {
            return self.unproven(now_ms, Cause::NoServerTitle);
        };
        let (terms, to) = (self.config.terms().initiate(), self.config.client_title);
        match terms.check(&information, Parties { from, to }) {
            Ok(tag) => {
                let job = self.unprotect(information, from, terms);
                self.state = State::UnprotectingInitiate {
                    job,
                    deadline,
                    tag,
                    grant,
                };
            }
            Err(cause) => self.unproven(now_ms, cause),
        }
    }

    /// The AARQ was not granted. An association that the meter still holds may be what is in the way.
    fn not_opened(&mut self, now_ms: u64, cause: Cause) {
        let held = matches!(cause, Cause::NotOpened(_) | Cause::Rejected { .. });
        if held && cause.is_transient() && self.config.recover && self.recovered.is_none() {
            self.recovered = Some(cause);
            self.start_release(now_ms, Then::Again);
        } else {
            self.unproven(now_ms, cause);
        }
    }

    /// The AARE is not to be acted on, and what it says is not authentic yet.
    fn unproven(&mut self, now_ms: u64, cause: Cause) {
        if self.config.protection.is_ciphered() || matches!(cause, Cause::Malformed(_)) {
            self.doubt(now_ms, cause);
        } else {
            self.fail(cause);
        }
    }

    /// Why it failed: where nothing came of another try, what the meter had said to the first.
    pub(super) fn told(&mut self, cause: Cause) -> Cause {
        let silent = matches!(
            cause,
            Cause::Closed {
                awaiting: Awaiting::Nothing | Awaiting::Aare,
                ..
            } | Cause::TimedOut {
                awaiting: Awaiting::Nothing | Awaiting::Aare,
            } | Cause::Link {
                awaiting: Awaiting::Nothing | Awaiting::Aare,
                ..
            }
        );
        match self.recovered.take() {
            Some(said) if silent => said,
            _ => cause,
        }
    }

    /// What an AARE grants, if it grants what was asked for.
    fn check_aare(&self, apdu: &[u8]) -> Result<(Grant, Vec<u8>), Cause> {
        if apdu.first() == Some(&EXCEPTION) {
            return Err(exception(apdu, Cause::NotOpened));
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
        let grant = Grant {
            server_title,
            challenge,
            certificate: aare.responding_ae_qualifier,
        };
        Ok((grant, information))
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
        let title = match (self.config.expected_server_title, found) {
            _ if !self.config.is_titled() => return Ok(found),
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
        if !challenge_lengths(self.config.mechanism).contains(&found) {
            return Err(Cause::BadChallenge { found });
        }
        if challenge == self.config.authentication_value {
            return Err(Cause::Reflected { what: "challenge" });
        }
        Ok(Some(challenge))
    }

    pub(super) fn on_initiate(
        &mut self,
        now_ms: u64,
        tag: Option<u8>,
        grant: Grant,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let terms = self.config.terms().initiate();
        // A forged AARE, one of an earlier association, one ciphered as it must not be: another may follow.
        let forged = matches!(
            result,
            Err(CipherFailure::AuthFailed | CipherFailure::Replay { .. } | CipherFailure::Refused)
        );
        match unprotected(Awaiting::Aare, (terms, tag), result) {
            Ok(apdu) => self.on_initiate_response(now_ms, grant, &apdu),
            Err(cause) if forged => self.unproven(now_ms, cause),
            Err(cause) => self.fail(cause),
        }
    }

    fn on_initiate_response(&mut self, now_ms: u64, grant: Grant, apdu: &[u8]) {
        match (self.negotiate(grant.server_title, apdu), grant.challenge) {
            (Ok(session), Some(challenge)) => {
                self.answer_challenge(session, challenge, grant.certificate);
            }
            (Ok(session), None) => self.opened(now_ms, session),
            (Err(cause), _) => self.fail(cause),
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
            conformance: response.conformance & self.config.proposed(),
            max_pdu: response.max_pdu,
            frame: self.config.frame,
            invoke: InvokeId::new(1),
        })
    }

    pub(super) fn opened(&mut self, now_ms: u64, session: Session) {
        self.recovered = None;
        self.effects.push_back(Effect::Event(Event::Opened {
            server_title: session.server_title,
            conformance: session.conformance,
            max_pdu: session.max_pdu,
        }));
        self.idle(now_ms, session);
    }
}

/// The lengths of a challenge that a peer may send. With ECDSA 32 octets are due, but a peer is known that always sends
/// 16, which is enough.
pub(crate) const fn challenge_lengths(mechanism: Mechanism) -> RangeInclusive<usize> {
    if matches!(mechanism, Mechanism::HlsEcdsa) {
        16..=CHALLENGE_MAX
    } else {
        CHALLENGE_MIN..=CHALLENGE_MAX
    }
}
