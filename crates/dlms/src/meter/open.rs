//! AARQ and RLRQ: who gets an association, and how it ends.

use alloc::vec::Vec;

use super::state::{Challenges, Opening, Phase, Session, State};
use super::{ClientAccess, Effect, Event, Meter};
use crate::acse::{Aare, Aarq, AssociationResult, Diagnostic, Rlre, Rlrq};
use crate::cipher::{CipherFailure, CipherOp, CipherOutput};
use crate::conformance::Conformance;
use crate::initiate::{ConfirmedServiceError, DLMS_VERSION, InitiateRequest, InitiateResponse};
use crate::mechanism::{ApplicationContext, CHALLENGE_MAX, CHALLENGE_MIN, Mechanism};
use crate::security::{
    Ciphered, GENERAL_GLO, Protection, SecurityControl, SystemTitle, is_ciphered, plain_tag,
};
use crate::service::Exception;

/// The shortest max-receive-pdu-size a client may name, 0 meaning no limit.
const PDU_MIN: u16 = 12;

/// Why an AARQ is refused.
struct Refusal {
    result: AssociationResult,
    diagnostic: Diagnostic,
    error: Option<ConfirmedServiceError>,
    why: &'static str,
}

impl Refusal {
    const fn permanent(diagnostic: Diagnostic, why: &'static str) -> Self {
        Self {
            result: AssociationResult::RejectedPermanent,
            diagnostic,
            error: None,
            why,
        }
    }

    const fn initiate(value: u8, why: &'static str) -> Self {
        Self {
            result: AssociationResult::RejectedPermanent,
            diagnostic: Diagnostic::NO_REASON,
            error: Some(ConfirmedServiceError::initiate(value)),
            why,
        }
    }
}

impl Meter {
    pub(super) fn on_aarq(&mut self, client_sap: u16, apdu: &[u8]) -> State {
        let Ok(aarq) = Aarq::decode(apdu) else {
            self.except(client_sap, Exception::NOT_POSSIBLE);
            return self.refused(client_sap, "the AARQ is malformed");
        };
        let context = aarq.context;
        let (opening, information) = match self.check_aarq(client_sap, aarq) {
            Ok(accepted) => accepted,
            Err(refusal) => return self.reject(client_sap, context, refusal),
        };
        if context == ApplicationContext::LogicalName {
            return self.on_initiate_request(context, opening, &information);
        }
        match (
            check_ciphered(&information, opening.client_title),
            opening.client_title,
        ) {
            (Some(tag), Some(peer_title)) => {
                let job = self.job(CipherOp::Unprotect {
                    apdu: information,
                    peer_title,
                    protection: Protection::Glo,
                    control: SecurityControl::AUTH_ENC,
                    signed: false,
                });
                State::UnprotectingInitiate { job, tag, opening }
            }
            (None, _) | (_, None) => {
                self.except(client_sap, Exception::DECIPHERING);
                self.refused(
                    client_sap,
                    "the InitiateRequest is not ciphered as it must be",
                )
            }
        }
    }

    /// What of an AARQ can be judged without keys.
    fn check_aarq(&mut self, client_sap: u16, aarq: Aarq) -> Result<(Opening, Vec<u8>), Refusal> {
        let permanent = Refusal::permanent;
        let access = self
            .config
            .clients
            .iter()
            .find(|access| access.client_sap == client_sap);
        let access = access.ok_or(permanent(Diagnostic::NO_REASON, "the client is unknown"))?;
        let ciphered = aarq.context == ApplicationContext::LogicalNameCiphered;
        if aarq.context != ApplicationContext::logical_name(ciphered) || !access.allows(ciphered) {
            return Err(permanent(
                Diagnostic::CONTEXT_NOT_SUPPORTED,
                "the application context is another",
            ));
        }
        let mechanism = check_mechanism(access, &aarq)?;
        let titled = ciphered || mechanism.is_high_level();
        let client_title = aarq.calling_title;
        if titled && client_title.is_none_or(|title| title == self.config.server_title) {
            let diagnostic = Diagnostic::CALLING_TITLE_NOT_RECOGNISED;
            return Err(permanent(
                diagnostic,
                "the client's system title is absent, or ours",
            ));
        }
        let information = aarq.user_information;
        let information = information.ok_or(permanent(
            Diagnostic::NO_REASON,
            "there is no InitiateRequest",
        ))?;
        let challenges = if mechanism.is_high_level() {
            Some(self.challenges(aarq.authentication_value.unwrap_or_default())?)
        } else {
            None
        };
        Ok((
            Opening {
                client_sap,
                mechanism,
                client_title,
                challenges,
            },
            information,
        ))
    }

    /// Our own challenge is used up, whatever becomes of the association.
    fn challenges(&mut self, client: Vec<u8>) -> Result<Challenges, Refusal> {
        let lengths = CHALLENGE_MIN..=CHALLENGE_MAX;
        if !lengths.contains(&client.len()) {
            let why = "the client's challenge has another length than 8..64 octets";
            return Err(Refusal::permanent(Diagnostic::AUTHENTICATION_FAILURE, why));
        }
        let server = core::mem::take(&mut self.challenge);
        if !lengths.contains(&server.len()) || server == client {
            return Err(Refusal {
                result: AssociationResult::RejectedTransient,
                ..Refusal::permanent(Diagnostic::NO_REASON, "there is no fresh challenge")
            });
        }
        Ok(Challenges { client, server })
    }

    pub(super) fn on_initiate(
        &mut self,
        tag: u8,
        opening: Opening,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        let client_sap = opening.client_sap;
        match unprotected(tag, result) {
            Ok(apdu) => {
                self.on_initiate_request(ApplicationContext::LogicalNameCiphered, opening, &apdu)
            }
            Err(failure) => {
                self.not_deciphered(client_sap, failure);
                self.refused(client_sap, "the InitiateRequest could not be deciphered")
            }
        }
    }

    fn on_initiate_request(
        &mut self,
        context: ApplicationContext,
        opening: Opening,
        apdu: &[u8],
    ) -> State {
        let client_sap = opening.client_sap;
        let request = match self.check_initiate(apdu) {
            Ok(request) => request,
            Err(refusal) => return self.reject(client_sap, context, refusal),
        };
        let session = Session {
            client_sap,
            mechanism: opening.mechanism,
            ciphered: context == ApplicationContext::LogicalNameCiphered,
            client_title: opening.client_title,
            client_max_pdu: request.max_pdu,
            conformance: request.conformance & self.config.conformance,
        };
        let response = self.initiate_response(&session);
        if session.ciphered {
            // Either form of ciphering has the same tag here.
            let job = self.protect(response, Protection::Glo);
            State::ProtectingInitiate {
                job,
                opening,
                session,
            }
        } else {
            self.accept(opening, session, response)
        }
    }

    fn check_initiate(&self, apdu: &[u8]) -> Result<InitiateRequest, Refusal> {
        let malformed = "the InitiateRequest is malformed";
        let request = InitiateRequest::decode(apdu)
            .map_err(|_| Refusal::permanent(Diagnostic::NO_REASON, malformed))?;
        if request.version < DLMS_VERSION {
            return Err(Refusal::initiate(1, "the DLMS version is below 6"));
        }
        if request.conformance & self.config.conformance == Conformance::NONE {
            return Err(Refusal::initiate(2, "no service is common"));
        }
        if (1..PDU_MIN).contains(&request.max_pdu) {
            return Err(Refusal::initiate(
                3,
                "the client's largest APDU is below 12 octets",
            ));
        }
        if request.dedicated_key.is_some() {
            return Err(Refusal::initiate(4, "dedicated keys are not supported"));
        }
        Ok(request)
    }

    fn initiate_response(&self, session: &Session) -> Vec<u8> {
        InitiateResponse::new(session.conformance, self.config.max_pdu).encode()
    }

    pub(super) fn on_initiate_protected(
        &mut self,
        opening: Opening,
        session: Session,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        let client_sap = session.client_sap;
        match ciphered(result) {
            Ok(information) => self.accept(opening, session, information),
            Err(_) => self.not_ciphered(client_sap),
        }
    }

    fn accept(&mut self, opening: Opening, session: Session, information: Vec<u8>) -> State {
        let high = opening.challenges.is_some();
        let aare = Aare {
            context: ApplicationContext::logical_name(session.ciphered),
            result: AssociationResult::Accepted,
            diagnostic: if high {
                Diagnostic::AUTHENTICATION_REQUIRED
            } else {
                Diagnostic::NULL
            },
            responding_title: (session.ciphered || high).then_some(self.config.server_title),
            responding_ae_qualifier: None,
            mechanism: high.then_some(session.mechanism),
            authentication_value: opening
                .challenges
                .as_ref()
                .map(|challenges| challenges.server.clone()),
            user_information: Some(information),
        };
        self.transmit(session.client_sap, aare.encode());
        let phase = match opening.challenges {
            Some(challenges) => Phase::Pending(challenges),
            None => {
                self.opened(&session);
                Phase::Open(None)
            }
        };
        State::Associated { session, phase }
    }

    pub(super) fn opened(&mut self, session: &Session) {
        self.effects.push_back(Effect::Event(Event::Opened {
            client_sap: session.client_sap,
            client_title: session.client_title,
            mechanism: session.mechanism,
        }));
    }

    fn reject(&mut self, client_sap: u16, context: ApplicationContext, refusal: Refusal) -> State {
        let aare = Aare {
            context,
            result: refusal.result,
            diagnostic: refusal.diagnostic,
            responding_title: None,
            responding_ae_qualifier: None,
            mechanism: None,
            authentication_value: None,
            user_information: refusal.error.map(|error| error.encode()),
        };
        self.transmit(client_sap, aare.encode());
        self.refused(client_sap, refusal.why)
    }

    /// Many clients release without ciphering: they may, for it is only their own connection that they end.
    pub(super) fn on_rlrq(&mut self, session: Session, phase: Phase, apdu: &[u8]) -> State {
        let Ok(rlrq) = Rlrq::decode(apdu) else {
            self.except(session.client_sap, Exception::NOT_POSSIBLE);
            return State::Associated { session, phase };
        };
        let information = rlrq
            .user_information
            .filter(|octets| session.ciphered && is_ciphered(octets));
        let Some(information) = information else {
            return self.release(session.client_sap, None);
        };
        match (
            check_ciphered(&information, session.client_title),
            session.client_title,
        ) {
            (Some(tag), Some(peer_title)) => {
                let job = self.job(CipherOp::Unprotect {
                    apdu: information,
                    peer_title,
                    protection: Protection::Glo,
                    control: SecurityControl::AUTH_ENC,
                    signed: false,
                });
                State::UnprotectingRelease {
                    job,
                    tag,
                    session,
                    phase,
                }
            }
            (None, _) | (_, None) => {
                self.except(session.client_sap, Exception::DECIPHERING);
                State::Associated { session, phase }
            }
        }
    }

    pub(super) fn on_release_unprotected(
        &mut self,
        tag: u8,
        session: Session,
        phase: Phase,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match unprotected(tag, result) {
            Ok(_) => {
                let job = self.protect(self.initiate_response(&session), Protection::Glo);
                State::ProtectingRelease {
                    job,
                    client_sap: session.client_sap,
                }
            }
            Err(failure) => {
                self.not_deciphered(session.client_sap, failure);
                State::Associated { session, phase }
            }
        }
    }

    pub(super) fn on_release_protected(
        &mut self,
        client_sap: u16,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match ciphered(result) {
            Ok(information) => self.release(client_sap, Some(information)),
            Err(_) => self.not_ciphered(client_sap),
        }
    }

    fn release(&mut self, client_sap: u16, user_information: Option<Vec<u8>>) -> State {
        let rlre = Rlre {
            reason: Some(0),
            user_information,
        };
        self.transmit(client_sap, rlre.encode());
        self.effects.push_back(Effect::Event(Event::Released));
        State::Idle
    }
}

fn check_mechanism(access: &ClientAccess, aarq: &Aarq) -> Result<Mechanism, Refusal> {
    let asked = aarq.mechanism.unwrap_or(Mechanism::None);
    if asked != access.mechanism || !asked.is_supported() {
        let diagnostic = if aarq.mechanism.is_none() {
            Diagnostic::MECHANISM_REQUIRED
        } else {
            Diagnostic::MECHANISM_NOT_RECOGNISED
        };
        return Err(Refusal::permanent(diagnostic, "the mechanism is another"));
    }
    let given = aarq.authentication_value.as_deref().unwrap_or_default();
    if asked == Mechanism::Low && !same(given, &access.password) {
        return Err(Refusal::permanent(
            Diagnostic::AUTHENTICATION_FAILURE,
            "the password is wrong",
        ));
    }
    Ok(asked)
}

/// Compares without telling by its time where the difference lies.
fn same(left: &[u8], right: &[u8]) -> bool {
    let differing = left
        .iter()
        .zip(right)
        .fold(0, |differing, (left, right)| differing | (left ^ right));
    left.len() == right.len() && core::hint::black_box(differing) == 0
}

/// The tag of an APDU that is protected as everything must be in a ciphered association: authenticated and encrypted,
/// by the client of that association where it says a title.
pub(super) fn check_ciphered(apdu: &[u8], client_title: Option<SystemTitle>) -> Option<u8> {
    let Ciphered {
        tag,
        title,
        control,
        ..
    } = Ciphered::decode(apdu).ok()?;
    let ours = title.is_none() || title == client_title;
    (ours && control == SecurityControl::AUTH_ENC).then_some(tag)
}

/// The plaintext of an `Unprotect` job, if it is the kind of APDU that its tag says.
pub(super) fn unprotected(
    tag: u8,
    result: Result<CipherOutput, CipherFailure>,
) -> Result<Vec<u8>, CipherFailure> {
    let apdu = ciphered(result)?;
    if tag != GENERAL_GLO && plain_tag(tag) != apdu.first().copied() {
        return Err(CipherFailure::AuthFailed);
    }
    Ok(apdu)
}

/// The APDU that a job made; an executor that returns something else counts as one that could not do it.
pub(super) fn ciphered(
    result: Result<CipherOutput, CipherFailure>,
) -> Result<Vec<u8>, CipherFailure> {
    match result? {
        CipherOutput::Apdu(apdu, _) => Ok(apdu),
        CipherOutput::Token(_) | CipherOutput::Verified => Err(CipherFailure::Unavailable),
    }
}
