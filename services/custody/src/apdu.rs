//! Plaintext APDUs: what is asked, whether a permit covers it, whether anything could.
//!
//! Everything here is a pure function of octets. An APDU is taken apart, put together again, and refused unless the
//! two are the same: what was compared is exactly what the meter will read.

use std::fmt;

use dlms::{
    Method, Obis, Request, Response,
    initiate::{ConfirmedServiceError, InitiateRequest, InitiateResponse},
};

use crate::{error::Error, permit::Allowed};

/// Tag of an InitiateRequest.
const INITIATE_REQUEST: u8 = 0x01;
/// Tag of an InitiateResponse.
const INITIATE_RESPONSE: u8 = 0x08;
/// Tag of a ConfirmedServiceError.
const SERVICE_ERROR: u8 = 0x0E;

/// A COSEM service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Get,
    Set,
    Action,
}

/// One COSEM service on one attribute or method, with its octets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) service: Service,
    pub(crate) class_id: u16,
    pub(crate) name: Obis,
    pub(crate) index: i8,
    /// A-XDR: the value of a SET, the parameter of an ACTION; empty for none.
    pub(crate) parameter: Vec<u8>,
    /// A-XDR: the selector and its parameters; empty for none.
    pub(crate) selection: Vec<u8>,
}

/// The parameter is not shown.
impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {}/{}/{}",
            self.service, self.class_id, self.name, self.index
        )
    }
}

/// What a plaintext request APDU is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// InitiateRequest, of the AARQ or the RLRQ.
    Initiate,
    /// A GET, SET or ACTION.
    Command { invoke: u8, asked: Asked },
    /// The next block of a GET.
    NextBlock { invoke: u8, block: u32 },
}

/// Takes a plaintext request apart.
pub(crate) fn parse(apdu: &[u8]) -> Result<Parsed, Error> {
    let refused = |why| Error::ApduNotPermitted { why };
    if apdu.first() == Some(&INITIATE_REQUEST) {
        let initiate =
            InitiateRequest::decode(apdu).map_err(|_| refused("it is no InitiateRequest"))?;
        if initiate.dedicated_key.is_some() {
            // Whoever chose a dedicated key could cipher under it without custody.
            return Err(Error::ApduForbidden {
                why: "a dedicated key would take ciphering out of custody",
            });
        }
        return if initiate.encode() == apdu {
            Ok(Parsed::Initiate)
        } else {
            Err(refused("it is not canonical"))
        };
    }
    let request = Request::decode(apdu)
        .map_err(|_| refused("it is no GET, SET or ACTION that custody can read"))?;
    if request.encode() != apdu {
        return Err(refused("it is not canonical"));
    }
    let invoke = request.invoke().id();
    let selected =
        |selection: Option<dlms::Selection>| selection.map(|s| s.encode()).unwrap_or_default();
    let asked = match request {
        Request::GetNext { block, .. } => return Ok(Parsed::NextBlock { invoke, block }),
        Request::Get {
            attribute,
            selection,
            ..
        } => Asked {
            service: Service::Get,
            class_id: attribute.class_id,
            name: attribute.name,
            index: attribute.index,
            parameter: Vec::new(),
            selection: selected(selection),
        },
        Request::Set {
            attribute,
            selection,
            value,
            ..
        } => Asked {
            service: Service::Set,
            class_id: attribute.class_id,
            name: attribute.name,
            index: attribute.index,
            parameter: value.encode(),
            selection: selected(selection),
        },
        Request::Action {
            method, parameter, ..
        } => Asked {
            service: Service::Action,
            class_id: method.class_id,
            name: method.name,
            index: method.index,
            parameter: parameter.map(|p| p.encode()).unwrap_or_default(),
            selection: Vec::new(),
        },
        Request::GetList { .. }
        | Request::SetFirstBlock { .. }
        | Request::SetBlock { .. }
        | Request::SetList { .. }
        | Request::SetListFirstBlock { .. }
        | Request::ActionNext { .. }
        | Request::ActionList { .. }
        | Request::ActionFirstBlock { .. }
        | Request::ActionListFirstBlock { .. }
        | Request::ActionBlock { .. }
        | Request::Access { .. } => return Err(refused("it is a list, a block or an ACCESS")),
    };
    Ok(Parsed::Command { invoke, asked })
}

/// Why no permit could cover a command: the rules that are compiled in (P2).
///
/// Class and name are judged each by itself: some meters look an object up by its name and do not compare the class.
pub(crate) fn forbidden(asked: &Asked) -> Option<&'static str> {
    match asked.service {
        Service::Get => None,
        Service::Set => forbidden_name(asked.name).or_else(|| forbidden_write(asked)),
        Service::Action => forbidden_name(asked.name).or_else(|| forbidden_act(asked)),
    }
}

/// Objects that are neither written nor acted on, in any channel (B) and instance (F) (IEC 62056-6-1, abstract objects).
fn forbidden_name(name: Obis) -> Option<&'static str> {
    let [0, _, c, d, e, _] = name.bytes() else {
        return None;
    };
    match (c, d, e) {
        (10, 0, 0) => Some("the meter is never reset to its factory state (0.0.10.0.0.255)"),
        (10, 0, 1) | (15, 0, 0) => Some("a billing period is never closed (0.0.10.0.1.255)"),
        (10, 0, 106) | (15, 0, 1) | (17, 0, _) | (96, 3, 10) => {
            Some("the relay is never moved: control, scripts, schedule, limiter (0.0.96.3.10.255)")
        }
        (10, 0, 107) | (15, 0, 2) => Some("no firmware is activated (0.0.10.0.107.255)"),
        (43, 0, _) => Some("keys and security policy are never changed (0.0.43.0.x.255)"),
        _ => None,
    }
}

fn forbidden_write(asked: &Asked) -> Option<&'static str> {
    match (asked.class_id, asked.index) {
        (70 | 71, _) => Some("the relay is never moved (classes 70, 71)"),
        (64, _) => Some("keys and security policy are never changed this way (class 64)"),
        (12 | 15, _) => Some("secrets and rights of associations are never changed (class 15)"),
        _ => None,
    }
}

fn forbidden_act(asked: &Asked) -> Option<&'static str> {
    match (asked.class_id, asked.index) {
        (15, 1) => None,
        // Both reset and capture change what is stored, and so does the next period of a demand register.
        (3, 1) | (4 | 5 | 7 | 61 | 62, 1 | 2) => {
            Some("registers and profiles are never reset or captured")
        }
        _ => forbidden_write(asked),
    }
}

/// Which command of a permit covers what is asked: service, class, logical name, index, parameter and selection, octet
/// by octet.
pub(crate) fn covered(asked: &Asked, allowed: &[Allowed]) -> Result<usize, Error> {
    if let Some(why) = forbidden(asked) {
        return Err(Error::ApduForbidden { why });
    }
    let place = allowed.iter().position(|allowed| allowed.asked == *asked);
    place.ok_or(Error::ApduNotPermitted {
        why: "no command of the permit is this service on this object with these octets",
    })
}

/// Whether a GET reads an invocation counter: all that the public client of a meter with keys may do.
pub(crate) fn reads_invocation_counter(asked: &Asked) -> bool {
    let [a, b, c, d, _, f] = asked.name.bytes();
    asked.service == Service::Get
        && (asked.class_id, asked.index) == (1, 2)
        && [a, b, c, d, f] == [0, 0, 43, 1, 255]
        && asked.selection.is_empty()
}

/// Whether a command is `reply_to_HLS_authentication` of the current association with exactly this token.
pub(crate) fn replies_to_hls(asked: &Asked, token: &[u8]) -> bool {
    let Method {
        class_id,
        name,
        index,
    } = Method::REPLY_TO_HLS;
    asked.service == Service::Action
        && (asked.class_id, asked.name, asked.index) == (class_id, name, index)
        && asked.parameter == dlms::Data::OctetString(token.to_vec()).encode()
}

/// Whether a challenge could be read as a request.
///
/// An HLS5 token over a challenge and an authenticated-only APDU (security control 0x10) are tags over the same
/// octets: SC || AK || challenge, SC || AK || APDU (IEC 62056-5-3). Whoever may choose the challenge could have any
/// request authenticated, and a meter whose policy asks for authentication alone would obey it. So custody answers no
/// challenge that begins like a request. A meter's random challenge does so about once in 2,300 associations; the next
/// association has another.
pub(crate) fn challenge_is_request(challenge: &[u8]) -> bool {
    match challenge {
        // GET, SET, ACTION: service types normal .. with-list-and-block.
        [0xC0 | 0xC1 | 0xC3, 1..=6, ..] => true,
        // InitiateRequest: then response-allowed or its absence, or a dedicated key of an AES length in any form of
        // that length. A-XDR takes any octet but 0 for "present". With a key of its own choice an attacker would cipher
        // the rest of the association alone.
        [0x01, 0, 0 | 1, ..] | [0x01, 1..=255, 16 | 24 | 32 | 0x81..=0x84, ..] => true,
        // Read, Write, UnconfirmedWrite of an association with short names, which custody never asks for, but whoever
        // sends the AARQ might: a few accesses, the first by variable name, with parameters, or of a block.
        [0x05 | 0x06 | 0x16, 1..=16, 2 | 4..=7, ..] => true,
        // ACCESS request: long-invoke-id-and-priority, then a date-time of 0 or 12 octets.
        [0xD9, _, _, _, _, 0 | 12, ..] => true,
        _ => false,
    }
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// An answer to a GET; with a number, after that block the next may be asked for.
    Get {
        received: Option<u32>,
    },
    Set,
    Action,
}

/// Requests of one context that have no answer yet, by invoke id. A late answer to an older request still deciphers;
/// an answer to no request does not.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    initiate: bool,
    requests: [Option<Waiting>; 16],
}

/// What a response is, to the context it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The initiate was accepted.
    Initiated,
    /// Anything else that was waited for.
    Other,
}

impl Outstanding {
    /// An InitiateRequest was ciphered.
    pub(crate) fn initiate(&mut self) {
        self.initiate = true;
    }

    /// A command was ciphered.
    pub(crate) fn command(&mut self, invoke: u8, service: Service) {
        let waiting = match service {
            Service::Get => Waiting::Get { received: None },
            Service::Set => Waiting::Set,
            Service::Action => Waiting::Action,
        };
        self.put(invoke, Some(waiting));
    }

    /// Whether block `block` came for this request and the one after it has not been asked for.
    pub(crate) fn continues(&self, invoke: u8, block: u32) -> bool {
        self.at(invoke)
            == Some(Waiting::Get {
                received: Some(block),
            })
    }

    /// Whether this request has no answer yet.
    pub(crate) fn waits(&self, invoke: u8) -> bool {
        self.at(invoke).is_some()
    }

    /// Whether this request is a GET that has not been answered to the end.
    pub(crate) fn reads(&self, invoke: u8) -> bool {
        matches!(self.at(invoke), Some(Waiting::Get { .. }))
    }

    /// The block after one that came was asked for.
    pub(crate) fn next_block(&mut self, invoke: u8) {
        self.put(invoke, Some(Waiting::Get { received: None }));
    }

    /// Whether an APDU with this plaintext tag could answer anything.
    pub(crate) fn expects(&self, plain_tag: u8) -> bool {
        match plain_tag {
            INITIATE_RESPONSE | SERVICE_ERROR => self.initiate,
            0xC4 => self.any(|waiting| matches!(waiting, Waiting::Get { .. })),
            0xC5 => self.any(|waiting| waiting == Waiting::Set),
            0xC7 => self.any(|waiting| waiting == Waiting::Action),
            _ => false,
        }
    }

    /// Takes an authentic plaintext response.
    pub(crate) fn answered(&mut self, apdu: &[u8]) -> Result<Answer, Error> {
        let refused = |why| Error::ResponseRefused { why };
        if matches!(apdu.first(), Some(&(INITIATE_RESPONSE | SERVICE_ERROR))) {
            let accepted = InitiateResponse::decode(apdu).is_ok();
            if !self.initiate || !(accepted || ConfirmedServiceError::decode(apdu).is_ok()) {
                return Err(refused("it answers no InitiateRequest"));
            }
            self.initiate = false;
            return Ok(if accepted {
                Answer::Initiated
            } else {
                Answer::Other
            });
        }
        let response = Response::decode(apdu).map_err(|_| refused("custody cannot read it"))?;
        let unasked = refused("no request with its invoke id waits for it");
        let Some(invoke) = response.invoke().map(dlms::InvokeId::id) else {
            return Err(unasked);
        };
        let next = match (self.at(invoke), &response) {
            (
                Some(Waiting::Get { .. }),
                Response::GetBlock {
                    last: false,
                    block,
                    payload: Ok(_),
                    ..
                },
            ) => Some(Waiting::Get {
                received: Some(*block),
            }),
            (
                Some(Waiting::Get { .. }),
                Response::GetData { .. } | Response::GetError { .. } | Response::GetBlock { .. },
            )
            | (Some(Waiting::Set), Response::Set { .. })
            | (Some(Waiting::Action), Response::Action { .. }) => None,
            _ => return Err(unasked),
        };
        self.put(invoke, next);
        Ok(Answer::Other)
    }

    fn at(&self, invoke: u8) -> Option<Waiting> {
        self.requests.get(usize::from(invoke)).copied().flatten()
    }

    fn put(&mut self, invoke: u8, waiting: Option<Waiting>) {
        if let Some(slot) = self.requests.get_mut(usize::from(invoke)) {
            *slot = waiting;
        }
    }

    fn any(&self, wanted: impl Fn(Waiting) -> bool) -> bool {
        self.requests
            .iter()
            .flatten()
            .any(|waiting| wanted(*waiting))
    }
}

#[cfg(test)]
mod tests;
