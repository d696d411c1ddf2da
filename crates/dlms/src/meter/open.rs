//! AARQ: who gets an association.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::state::{Challenges, Opening, Phase, Session, State};
use super::wire::unprotected;
use super::{ClientAccess, Effect, Event, Meter};
use crate::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use crate::cipher::{CipherFailure, CipherOutput};
use crate::client::challenge_lengths;
use crate::conformance::Conformance;
use crate::initiate::{ConfirmedServiceError, DLMS_VERSION, InitiateRequest, InitiateResponse};
use crate::mechanism::{ApplicationContext, CHALLENGE_MAX, Mechanism};
use crate::service::Exception;
use crate::terms::{Parties, print};

/// The shortest max-receive-pdu-size a client may name, 0 meaning no limit.
const PDU_MIN: u16 = 12;
/// Tag of an InitiateResponse.
pub(super) const INITIATE_RESPONSE: u8 = 0x08;

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
    /// A client that lost its association asks for a new one: the old one ends here. Over UDP, where anybody may ask, it
    /// ends only when the new one is deciphered, and the same AARQ once more is a duplicate.
    pub(super) fn on_aarq(&mut self, now_ms: u64, client_sap: u16, apdu: &[u8], state: State) {
        let print = print(apdu);
        let old = if let (State::Associated { session, phase }, true) = (state, self.is_datagram())
        {
            if let Some(aare) = self.seen.aare(print) {
                self.state = State::Associated { session, phase };
                self.transmit(now_ms, client_sap, aare);
                return;
            }
            Some(Box::new((session, phase)))
        } else {
            self.end();
            None
        };
        let Ok(mut aarq) = Aarq::decode(apdu) else {
            self.except(now_ms, client_sap, Exception::NOT_POSSIBLE);
            return self.not_opened(client_sap, old, "the AARQ is malformed");
        };
        let certificate = aarq.calling_ae_qualifier.take();
        let context = aarq.context;
        let (mut opening, information) = match self.check_aarq(client_sap, aarq) {
            Ok(accepted) => accepted,
            Err(refusal) => return self.reject(now_ms, (client_sap, context), old, refusal),
        };
        (opening.old, opening.print) = (old, print);
        self.certificate = certificate;
        if !opening.session.ciphered {
            return self.on_initiate_request(now_ms, opening, &information);
        }
        let Some(from) = opening.session.client_title else {
            return self.not_opened(client_sap, opening.old, "there is no system title");
        };
        let (terms, to) = (
            opening.session.terms.initiate(),
            Some(self.config.server_title),
        );
        if let Ok(tag) = terms.check(&information, Parties { from, to }) {
            let job = self.unprotect(information, from, terms);
            self.state = State::UnprotectingInitiate { job, tag, opening };
        } else {
            self.except(now_ms, client_sap, Exception::DECIPHERING);
            let why = "the InitiateRequest is not ciphered as it must be";
            self.not_opened(client_sap, opening.old, why);
        }
    }

    /// There is no new association; what there was goes on.
    fn not_opened(
        &mut self,
        client_sap: u16,
        old: Option<Box<(Session, Phase)>>,
        why: &'static str,
    ) {
        if let Some(old) = old {
            let (session, phase) = *old;
            self.effects
                .push_back(Effect::Event(Event::Refused { client_sap, why }));
            self.state = State::Associated { session, phase };
        } else {
            self.refused(client_sap, why);
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
        let terms = access
            .terms(ciphered)
            .filter(|_| aarq.context == ApplicationContext::logical_name(ciphered));
        let terms = terms.ok_or(permanent(
            Diagnostic::CONTEXT_NOT_SUPPORTED,
            "the application context is another",
        ))?;
        let mechanism = check_mechanism(access, &aarq)?;
        let titled = terms.protects() || is_titled(mechanism);
        let client_title = aarq.calling_title;
        if titled && client_title.is_none_or(|title| title == self.config.server_title) {
            let diagnostic = Diagnostic::CALLING_TITLE_NOT_RECOGNISED;
            return Err(permanent(
                diagnostic,
                "the client's system title is absent, or ours",
            ));
        }
        let information = aarq.user_information.ok_or(permanent(
            Diagnostic::NO_REASON,
            "there is no InitiateRequest",
        ))?;
        let challenges = if mechanism.is_high_level() {
            Some(self.challenges(mechanism, aarq.authentication_value.unwrap_or_default())?)
        } else {
            None
        };
        let session = Session {
            client_sap,
            mechanism,
            ciphered,
            terms,
            client_title,
            client_max_pdu: 0,
            conformance: Conformance::NONE,
        };
        let opening = Opening {
            session,
            challenges,
            old: None,
            print: 0,
        };
        Ok((opening, information))
    }

    /// Our own challenge is used up, whatever becomes of the association.
    fn challenges(&mut self, mechanism: Mechanism, client: Vec<u8>) -> Result<Challenges, Refusal> {
        if !challenge_lengths(mechanism).contains(&client.len()) {
            let why = "the client's challenge is too short or too long";
            return Err(Refusal::permanent(Diagnostic::AUTHENTICATION_FAILURE, why));
        }
        let server = core::mem::take(&mut self.challenge);
        let lengths = mechanism.challenge_min()..=CHALLENGE_MAX;
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
        now_ms: u64,
        tag: Option<u8>,
        opening: Opening,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let client_sap = opening.session.client_sap;
        match unprotected(opening.session.terms.initiate(), tag, result) {
            Ok(apdu) => self.on_initiate_request(now_ms, opening, &apdu),
            Err(failure) => {
                self.not_deciphered(now_ms, client_sap, failure);
                let why = "the InitiateRequest could not be deciphered";
                self.not_opened(client_sap, opening.old, why);
            }
        }
    }

    fn on_initiate_request(&mut self, now_ms: u64, mut opening: Opening, apdu: &[u8]) {
        let client_sap = opening.session.client_sap;
        let context = ApplicationContext::logical_name(opening.session.ciphered);
        let request = match self.check_initiate(client_sap, apdu) {
            Ok(request) => request,
            Err(refusal) => {
                return self.reject(now_ms, (client_sap, context), opening.old, refusal);
            }
        };
        // It is the client's: what there was before ends here.
        opening.old = None;
        self.end();
        let session = &mut opening.session;
        session.client_max_pdu = request.max_pdu;
        session.conformance = request.conformance & self.config.conformance;
        let response = self.initiate_response(session);
        if session.ciphered {
            let job = self.protect(response, opening.session.terms.initiate());
            self.state = State::ProtectingInitiate { job, opening };
        } else {
            self.accept(now_ms, opening, response);
        }
    }

    fn check_initiate(&self, client_sap: u16, apdu: &[u8]) -> Result<InitiateRequest, Refusal> {
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
        let clients = self.config.clients.iter();
        let dedicated = clients
            .filter(|access| access.client_sap == client_sap)
            .any(ClientAccess::is_dedicated);
        if request.dedicated_key.is_some() && !dedicated {
            return Err(Refusal::initiate(4, "the client may have no dedicated key"));
        }
        Ok(request)
    }

    pub(super) fn initiate_response(&self, session: &Session) -> Vec<u8> {
        InitiateResponse::new(session.conformance, self.config.max_pdu).encode()
    }

    pub(super) fn on_initiate_protected(
        &mut self,
        now_ms: u64,
        opening: Opening,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let session = &opening.session;
        let terms = (session.terms.initiate(), session.client_title);
        match self.protected(INITIATE_RESPONSE, terms, result) {
            Ok(information) => self.accept(now_ms, opening, information),
            Err(_) => self.not_ciphered(session.client_sap),
        }
    }

    fn accept(&mut self, now_ms: u64, opening: Opening, information: Vec<u8>) {
        let session = opening.session;
        let high = opening.challenges.is_some();
        let aare = Aare {
            context: ApplicationContext::logical_name(session.ciphered),
            result: AssociationResult::Accepted,
            diagnostic: if high {
                Diagnostic::AUTHENTICATION_REQUIRED
            } else {
                Diagnostic::NULL
            },
            responding_title: (session.terms.protects() || high)
                .then_some(self.config.server_title),
            responding_ae_qualifier: self.config.certificate.clone().filter(|_| high),
            mechanism: high.then_some(session.mechanism),
            authentication_value: opening
                .challenges
                .as_ref()
                .map(|challenges| challenges.server.clone()),
            user_information: Some(information),
        };
        let aare = aare.encode();
        if self.is_datagram() {
            self.seen.opened(opening.print, aare.clone());
        }
        self.transmit(now_ms, session.client_sap, aare);
        let phase = match opening.challenges {
            Some(challenges) => Phase::Pending(challenges),
            None => {
                self.opened(&session);
                Phase::Open(None)
            }
        };
        self.state = State::Associated { session, phase };
    }

    pub(super) fn opened(&mut self, session: &Session) {
        self.effects.push_back(Effect::Event(Event::Opened {
            client_sap: session.client_sap,
            client_title: session.client_title,
            mechanism: session.mechanism,
        }));
    }

    fn reject(
        &mut self,
        now_ms: u64,
        (client_sap, context): (u16, ApplicationContext),
        old: Option<Box<(Session, Phase)>>,
        refusal: Refusal,
    ) {
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
        self.transmit(now_ms, client_sap, aare.encode());
        self.not_opened(client_sap, old, refusal.why);
    }
}

/// Whether the tokens of a mechanism are over system titles, or under nonces with them.
const fn is_titled(mechanism: Mechanism) -> bool {
    matches!(
        mechanism,
        Mechanism::HlsGmac | Mechanism::HlsSha256 | Mechanism::HlsEcdsa
    )
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
