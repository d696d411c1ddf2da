//! Plaintext APDUs: what is asked, whether a permit covers it, whether anything could.
//!
//! Everything here is a pure function of octets. An APDU is taken apart, put together again, and refused unless the
//! two are the same: what was compared is exactly what the meter will read.

use std::fmt;

use dlms::{
    Access, Attribute, Confirmation, Data, Method, Obis, Request, Selection,
    initiate::InitiateRequest,
};

use crate::{error::Error, permit::Allowed};

/// Tag of an InitiateRequest.
const INITIATE_REQUEST: u8 = 0x01;
/// Tag of a DataNotification-Confirm.
const CONFIRMATION: u8 = 0x10;
/// A-XDR of null-data.
const NULL: &[u8] = &[0];

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
    /// A GET, SET, ACTION or ACCESS, whole: one command, or several of a list.
    Commands {
        id: Id,
        list: bool,
        asked: Vec<Asked>,
    },
    /// The first block of a SET or ACTION: what is written or executed, and no parameters yet.
    FirstBlock {
        invoke: u8,
        list: bool,
        heads: Vec<Asked>,
        block: Block,
    },
    /// The next block of a SET or ACTION.
    Block {
        invoke: u8,
        service: Service,
        block: Block,
    },
    /// Asks for the next block of what a GET or ACTION returns.
    NextBlock {
        invoke: u8,
        service: Service,
        block: u32,
    },
    /// Confirms the DataNotification with this long-invoke-id-and-priority.
    Confirmation { invoke: u32 },
}

/// What a request is told from others by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    /// Of GET, SET, ACTION: 0..15.
    Short(u8),
    /// Of ACCESS: 24 bits.
    Long(u32),
}

/// A part of what a request carries.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) last: bool,
    pub(crate) number: u32,
    pub(crate) octets: Vec<u8>,
}

/// The octets are not shown.
impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, octets) = (self.number, self.octets.len());
        write!(f, "block {number} of {octets} octets, last: {}", self.last)
    }
}

impl Asked {
    fn read(attribute: Attribute, selection: Option<&Selection>) -> Self {
        Self::of_attribute(Service::Get, attribute, selection, Vec::new())
    }

    fn write(attribute: Attribute, selection: Option<&Selection>, value: Vec<u8>) -> Self {
        Self::of_attribute(Service::Set, attribute, selection, value)
    }

    fn of_attribute(
        service: Service,
        attribute: Attribute,
        selection: Option<&Selection>,
        parameter: Vec<u8>,
    ) -> Self {
        Self {
            service,
            class_id: attribute.class_id,
            name: attribute.name,
            index: attribute.index,
            parameter,
            selection: selection.map(Selection::encode).unwrap_or_default(),
        }
    }

    fn act(method: Method, parameter: Option<&Data>) -> Self {
        Self {
            service: Service::Action,
            class_id: method.class_id,
            name: method.name,
            index: method.index,
            parameter: parameter.map(Data::encode).unwrap_or_default(),
            selection: Vec::new(),
        }
    }

    /// Whether it is of the same attribute or method, and of the same part of it: all but the parameter.
    pub(crate) fn same_target(&self, other: &Self) -> bool {
        (self.service, self.class_id, self.name, self.index)
            == (other.service, other.class_id, other.name, other.index)
            && self.selection == other.selection
    }

    /// The parameter as a list has it: a method without one has null-data there.
    pub(crate) fn listed_parameter(&self) -> &[u8] {
        match self.parameter.as_slice() {
            [] => NULL,
            parameter => parameter,
        }
    }
}

/// Takes a plaintext request apart.
pub(crate) fn parse(apdu: &[u8]) -> Result<Parsed, Error> {
    let refused = |why| Error::ApduNotPermitted { why };
    match apdu.first() {
        Some(&INITIATE_REQUEST) => {
            let initiate =
                InitiateRequest::decode(apdu).map_err(|_| refused("it is no InitiateRequest"))?;
            if initiate.dedicated_key.is_some() {
                // Whoever chose a dedicated key could cipher under it without custody.
                return Err(Error::ApduForbidden {
                    why: "a dedicated key would take ciphering out of custody",
                });
            }
            canonical(apdu, &initiate.encode()).map(|()| Parsed::Initiate)
        }
        Some(&CONFIRMATION) => {
            let confirmation =
                Confirmation::decode(apdu).map_err(|_| refused("it is no confirmation"))?;
            canonical(apdu, &confirmation.encode())?;
            Ok(Parsed::Confirmation {
                invoke: confirmation.invoke.bits(),
            })
        }
        _ => {
            let request = Request::decode(apdu).map_err(|_| {
                refused("it is no GET, SET, ACTION or ACCESS that custody can read")
            })?;
            canonical(apdu, &request.encode())?;
            Ok(requested(request))
        }
    }
}

/// What was read is all that is there: a meter reads nothing else in it.
fn canonical(apdu: &[u8], again: &[u8]) -> Result<(), Error> {
    if again == apdu {
        Ok(())
    } else {
        Err(Error::ApduNotPermitted {
            why: "it is not canonical",
        })
    }
}

fn requested(request: Request) -> Parsed {
    let invoke = request.invoke().id();
    let one = |asked| Parsed::Commands {
        id: Id::Short(invoke),
        list: false,
        asked: vec![asked],
    };
    let several = |asked| Parsed::Commands {
        id: Id::Short(invoke),
        list: true,
        asked,
    };
    match request {
        Request::Get {
            attribute,
            selection,
            ..
        } => one(Asked::read(attribute, selection.as_ref())),
        Request::GetList { attributes, .. } => {
            let read = |(attribute, selection): &(Attribute, Option<Selection>)| {
                Asked::read(*attribute, selection.as_ref())
            };
            several(attributes.iter().map(read).collect())
        }
        Request::Set {
            attribute,
            selection,
            value,
            ..
        } => one(Asked::write(attribute, selection.as_ref(), value.encode())),
        Request::SetList { values, .. } => {
            let write = |(attribute, selection, value): &(Attribute, Option<Selection>, Data)| {
                Asked::write(*attribute, selection.as_ref(), value.encode())
            };
            several(values.iter().map(write).collect())
        }
        Request::Action {
            method, parameter, ..
        } => one(Asked::act(method, parameter.as_ref())),
        Request::ActionList { methods, .. } => {
            let act = |(method, parameter): &(Method, Option<Data>)| {
                Asked::act(*method, parameter.as_ref())
            };
            several(methods.iter().map(act).collect())
        }
        Request::Access {
            invoke, accesses, ..
        } => Parsed::Commands {
            id: Id::Long(invoke.id()),
            list: true,
            asked: accesses.iter().map(accessed).collect(),
        },
        blocks => in_blocks(blocks, invoke),
    }
}

fn accessed(access: &Access) -> Asked {
    match access {
        Access::Get {
            attribute,
            selection,
        } => Asked::read(*attribute, selection.as_ref()),
        Access::Set {
            attribute,
            selection,
            value,
        } => Asked::write(*attribute, selection.as_ref(), value.encode()),
        Access::Action { method, parameter } => Asked::act(*method, parameter.as_ref()),
    }
}

fn in_blocks(request: Request, invoke: u8) -> Parsed {
    match request {
        Request::SetBlock {
            last,
            block: number,
            octets,
            ..
        } => Parsed::Block {
            invoke,
            service: Service::Set,
            block: Block {
                last,
                number,
                octets,
            },
        },
        Request::ActionBlock {
            last,
            block: number,
            octets,
            ..
        } => Parsed::Block {
            invoke,
            service: Service::Action,
            block: Block {
                last,
                number,
                octets,
            },
        },
        Request::ActionNext { block, .. } => Parsed::NextBlock {
            invoke,
            service: Service::Action,
            block,
        },
        Request::GetNext { block, .. } => Parsed::NextBlock {
            invoke,
            service: Service::Get,
            block,
        },
        first => first_block(first, invoke),
    }
}

fn first_block(request: Request, invoke: u8) -> Parsed {
    let (list, heads, last, number, octets) = match request {
        Request::SetFirstBlock {
            attribute,
            selection,
            last,
            block,
            octets,
            ..
        } => {
            let head = Asked::write(attribute, selection.as_ref(), Vec::new());
            (false, vec![head], last, block, octets)
        }
        Request::SetListFirstBlock {
            attributes,
            last,
            block,
            octets,
            ..
        } => {
            let head = |(attribute, selection): &(Attribute, Option<Selection>)| {
                Asked::write(*attribute, selection.as_ref(), Vec::new())
            };
            let heads = attributes.iter().map(head).collect();
            (true, heads, last, block, octets)
        }
        Request::ActionFirstBlock {
            method,
            last,
            block,
            octets,
            ..
        } => (false, vec![Asked::act(method, None)], last, block, octets),
        Request::ActionListFirstBlock {
            methods,
            last,
            block,
            octets,
            ..
        } => {
            let heads = methods.iter().map(|method| Asked::act(*method, None));
            (true, heads.collect(), last, block, octets)
        }
        // All others were taken before: a first block of nothing, which no permit covers.
        _ => (false, Vec::new(), true, 1, Vec::new()),
    };
    Parsed::FirstBlock {
        invoke,
        list,
        heads,
        block: Block {
            last,
            number,
            octets,
        },
    }
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

/// Which commands of a permit cover what is asked, each of it: service, class, logical name, index, parameter and
/// selection, octet by octet.
pub(crate) fn covered(
    asked: &[Asked],
    list: bool,
    allowed: &[Allowed],
) -> Result<Vec<usize>, Error> {
    if asked.is_empty() {
        return Err(Error::ApduNotPermitted {
            why: "it asks for nothing",
        });
    }
    asked
        .iter()
        .map(|asked| covering(asked, list, allowed))
        .collect()
}

fn covering(asked: &Asked, list: bool, allowed: &[Allowed]) -> Result<usize, Error> {
    let rekeying = forbidden_but_rekeying(asked, allowed)?;
    let same_parameter = |other: &Asked| {
        if list {
            asked.listed_parameter() == other.listed_parameter()
        } else {
            asked.parameter == other.parameter
        }
    };
    let place = allowed.iter().position(|it| {
        asked.same_target(&it.asked)
            && same_parameter(&it.asked)
            && (!rekeying || it.named.is_some())
    });
    place.ok_or(Error::ApduNotPermitted {
        why: "no command of the permit is this service on this object with these octets",
    })
}

/// Whether it is a change of keys that custody prepared, in a context of that rotation; an error if no permit could cover
/// it.
pub(crate) fn forbidden_but_rekeying(asked: &Asked, allowed: &[Allowed]) -> Result<bool, Error> {
    let Some(why) = forbidden(asked) else {
        return Ok(false);
    };
    let prepared = |it: &Allowed| it.named.is_some() && asked.same_target(&it.asked);
    match asked.class_id == 64 && allowed.iter().any(prepared) {
        true => Ok(true),
        false => Err(Error::ApduForbidden { why }),
    }
}

/// Whether a GET reads an invocation counter: all that the public client of a meter with keys may do.
pub(crate) fn reads_invocation_counter(asked: &Asked) -> bool {
    let [a, b, c, d, _, f] = asked.name.bytes();
    asked.service == Service::Get
        && (asked.class_id, asked.index) == (1, 2)
        && [a, b, c, d, f] == [0, 0, 43, 1, 255]
        && asked.selection.is_empty()
}

/// The command `reply_to_HLS_authentication` of the current association with this token.
pub(crate) fn reply_to_hls(token: &[u8]) -> Asked {
    let token = Data::OctetString(token.to_vec());
    Asked::act(Method::REPLY_TO_HLS, Some(&token))
}

#[cfg(test)]
mod tests;
