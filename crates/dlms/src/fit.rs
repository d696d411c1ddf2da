//! Whether commands and their answers fit the link, before anything is sent.
//!
//! A packet that is cut into fragments on its way through a mesh is lost when one fragment is. So the size that is
//! proposed for the meter's answers is that of one frame of the link, and what is longer goes in blocks of the DLMS
//! service, each in one frame. A reset command, on its way:
//!
//! ```
//! use dlms::fit::{Envelope, Fit, Network, Path, Plan};
//! use dlms::{Command, Conformance, Data, LinkConfig, Method, Protection, SecurityControl};
//!
//! let envelope = Envelope { protection: Protection::Glo, control: SecurityControl::AUTH_ENC, signed: false };
//! let path = Path { link: LinkConfig::Udp, network: Network::V6, mtu: 1280 };
//! let plan = Plan { path, envelope, conformance: Conformance::RESET };
//! let method = Method { class_id: 9, name: "0.0.10.1.0.255".parse()?, index: 1 };
//! let command = Command::Action { method, parameter: Some(Data::LongUnsigned(3)) };
//! let request = plan.request(&command, 0);
//! assert_eq!((request.fit, request.octets), (Fit::OneFrame, Some(91)));
//! assert_eq!(plan.max_pdu(), Some(1224));
//! # Ok::<(), dlms::Error>(())
//! ```

use crate::axdr::length_of_length;
use crate::conformance::Conformance;
use crate::link::LinkConfig;
use crate::security::{GeneralSigning, Protection, SecurityControl};
use crate::service::{Access, Attribute, Command, InvokeId, Method};
use crate::wrapper::HEADER;

/// The version of IP below the wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4: 20 octets, without options.
    V4,
    /// IPv6: 40 octets, without extension headers.
    V6,
}

/// The way to a meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// What carries APDUs. With HDLC a frame is as long as its information field allows, and the rest is not looked at.
    pub link: LinkConfig,
    /// What carries the wrapper. TCP is counted without options: hosts that agree on time stamps add 12 octets.
    pub network: Network,
    /// The largest IP packet that crosses unfragmented, in octets; 0 if it is not known: then any APDU fits.
    pub mtu: u16,
}

/// How APDUs are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The form.
    pub protection: Protection,
    /// Suite, authentication and encryption.
    pub control: SecurityControl,
    /// Whether general-signing is around it.
    pub signed: bool,
}

/// What is known of an association before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The way.
    pub path: Path,
    /// The protection.
    pub envelope: Envelope,
    /// The services that will be proposed; it is assumed that the meter grants them.
    pub conformance: Conformance,
}

/// How an APDU crosses the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// In one frame of the link.
    OneFrame,
    /// In parts, each in one frame of the link: blocks of the DLMS service (or general blocks), or segments of HDLC.
    Blocks,
    /// Not at all without fragments: the service has no blocks, or they are not proposed, or not even a block fits.
    TooLong,
}

/// An APDU on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// How it crosses.
    pub fit: Fit,
    /// Its octets on the link with all headers, of all its blocks together, acknowledgements not counted. Nothing if it
    /// has no known length.
    pub octets: Option<usize>,
}

/// A value in blocks: octets of it, what is around it in the first block and in each further one, without the length.
#[derive(Clone, Copy)]
struct Cut {
    value: usize,
    first: usize,
    next: usize,
}

/// Room for plaintext below which a limit is not worth proposing: a block of a few octets.
const LEAST: usize = 32;
/// GeneralBlock: tag, control, two numbers.
const GENERAL_BLOCK: usize = 6;

impl Plan {
    /// The longest APDU, protection included, that one frame of the link carries; nothing if that is not known.
    #[must_use]
    pub fn frame(&self) -> Option<usize> {
        match &self.path.link {
            LinkConfig::Hdlc(config) => {
                Some(usize::from(config.parameters().max_info_transmit).saturating_sub(LLC))
            }
            LinkConfig::Tcp | LinkConfig::Udp => match self.path.mtu {
                0 => None,
                mtu => Some(usize::from(mtu).saturating_sub(self.headers())),
            },
        }
    }

    /// The size to propose for what the client receives (client-max-receive-pdu-size, ciphering included): that of one
    /// frame; nothing if that is not known. HDLC with very short information fields carries more, in segments.
    #[must_use]
    pub fn max_pdu(&self) -> Option<u16> {
        let least = self.sealed(LEAST);
        let limit = match (&self.path.link, self.frame()?) {
            (LinkConfig::Hdlc(_), frame) => frame.max(least),
            (LinkConfig::Tcp | LinkConfig::Udp, frame) => frame.max(MIN_PDU),
        };
        u16::try_from(limit).ok()
    }

    /// A command on its way to a meter that receives APDUs of so many octets (0: no limit, or not known yet).
    #[must_use]
    pub fn request(&self, command: &Command, server_max_pdu: u16) -> Crossing {
        let whole = command.clone().with(InvokeId::new(1)).encode().len();
        let cut = self.request_cut(command, whole);
        self.crossing(Some(whole), cut, server_max_pdu)
    }

    /// The longest answer that is to be expected to a command, on its way back to a client that proposed this size
    /// (0: no limit).
    #[must_use]
    pub fn response(&self, command: &Command, client_max_pdu: u16) -> Crossing {
        let whole = expected_answer(command);
        let granted = |service| self.conformance.contains(service);
        let head = match command {
            // C4 02 invoke last number 00
            Command::Get { .. } | Command::GetList(_) => {
                granted(Conformance::BLOCK_TRANSFER_GET).then_some(9)
            }
            // C7 02 invoke last number
            Command::Action { .. } | Command::ActionList(_) => {
                granted(Conformance::BLOCK_TRANSFER_ACTION).then_some(8)
            }
            Command::Set { .. } | Command::SetList(_) | Command::Access(_) => None,
        };
        let cut = head.map(|head| Cut {
            // The choice and the counts before the value are no longer than the head.
            value: whole.unwrap_or_default(),
            first: head,
            next: head,
        });
        self.crossing(whole, cut, client_max_pdu)
    }

    /// How the value of a request may be cut.
    fn request_cut(&self, command: &Command, whole: usize) -> Option<Cut> {
        let granted = |service| self.conformance.contains(service);
        // last, number
        let cut = |value: usize, around: usize| Cut {
            value,
            first: around.saturating_add(5),
            next: 3 + 5,
        };
        match command {
            Command::Set { value, .. } if granted(Conformance::BLOCK_TRANSFER_SET) => {
                let value = value.encode().len();
                Some(cut(value, whole.saturating_sub(value)))
            }
            Command::SetList(list) if granted(Conformance::BLOCK_TRANSFER_SET) => {
                let values = list.iter().map(|(_, _, value)| value.encode().len());
                let value = counted(values);
                Some(cut(value, whole.saturating_sub(value)))
            }
            Command::Action {
                parameter: Some(parameter),
                ..
            } if granted(Conformance::BLOCK_TRANSFER_ACTION) => {
                let value = parameter.encode().len();
                // The octet that says "a parameter follows" is not in a block.
                let around = whole.saturating_sub(value).saturating_sub(1);
                Some(cut(value, around))
            }
            Command::ActionList(list) if granted(Conformance::BLOCK_TRANSFER_ACTION) => {
                let values = list.iter().map(|(_, parameter)| {
                    parameter
                        .as_ref()
                        .map_or(1, |parameter| parameter.encode().len())
                });
                let value = counted(values);
                Some(cut(value, whole.saturating_sub(value)))
            }
            Command::Get { .. }
            | Command::Set { .. }
            | Command::Action { .. }
            | Command::GetList(_)
            | Command::SetList(_)
            | Command::ActionList(_)
            | Command::Access(_) => None,
        }
    }

    fn crossing(&self, whole: Option<usize>, cut: Option<Cut>, peer_max_pdu: u16) -> Crossing {
        let frame = self.frame().unwrap_or(usize::MAX);
        let limit = match usize::from(peer_max_pdu) {
            0 => frame,
            limit => frame.min(limit),
        };
        let Some(whole) = whole else {
            let fit = match cut {
                None if self.segments() || self.general_blocks() => Fit::Blocks,
                Some(cut) if self.room(limit) > cut.first.saturating_add(1) => Fit::Blocks,
                Some(_) if self.segments() => Fit::Blocks,
                Some(_) | None => Fit::TooLong,
            };
            return Crossing { fit, octets: None };
        };
        let sealed = self.sealed(whole);
        if sealed <= limit {
            return Crossing {
                fit: Fit::OneFrame,
                octets: Some(self.on_link(sealed)),
            };
        }
        let within_peer = peer_max_pdu == 0 || sealed <= usize::from(peer_max_pdu);
        let octets = cut
            .and_then(|cut| self.in_blocks(cut, limit))
            .or_else(|| self.in_general_blocks(sealed, limit))
            .or_else(|| (self.segments() && within_peer).then(|| self.on_link(sealed)));
        Crossing {
            fit: octets.map_or(Fit::TooLong, |_| Fit::Blocks),
            octets: Some(octets.unwrap_or_else(|| self.on_link(sealed))),
        }
    }

    /// Octets of a value in service-specific blocks, each of at most `limit` octets; nothing if not even one fits.
    fn in_blocks(&self, cut: Cut, limit: usize) -> Option<usize> {
        let mut left = cut.value;
        let mut octets: usize = 0;
        let mut around = cut.first;
        loop {
            let room = self.room(limit).checked_sub(around)?;
            let block = without_its_length(room).min(left);
            if block == 0 {
                return None;
            }
            let plain = around
                .saturating_add(length_of_length(block))
                .saturating_add(block);
            octets = octets.saturating_add(self.on_link(self.sealed(plain)));
            left = left.saturating_sub(block);
            if left == 0 {
                return Some(octets);
            }
            around = cut.next;
        }
    }

    /// Octets of a protected APDU in general blocks.
    fn in_general_blocks(&self, sealed: usize, limit: usize) -> Option<usize> {
        if !self.general_blocks() {
            return None;
        }
        let room = without_its_length(limit.checked_sub(GENERAL_BLOCK)?);
        let full = sealed.checked_div(room)?;
        let rest = sealed.checked_rem(room)?;
        let block = |octets: usize| {
            let length = length_of_length(octets);
            self.on_link(GENERAL_BLOCK.saturating_add(length).saturating_add(octets))
        };
        let last = if rest == 0 { 0 } else { block(rest) };
        Some(block(room).saturating_mul(full).saturating_add(last))
    }

    const fn general_blocks(&self) -> bool {
        self.conformance
            .contains(Conformance::GENERAL_BLOCK_TRANSFER)
    }

    /// Whether the link itself carries a long APDU in several frames.
    const fn segments(&self) -> bool {
        matches!(self.path.link, LinkConfig::Hdlc(_))
    }

    /// The APDU with its protection.
    fn sealed(&self, plain: usize) -> usize {
        let Envelope {
            protection,
            control,
            signed,
        } = self.envelope;
        let ciphered = plain.saturating_add(protection.overhead(control, plain));
        if signed {
            let suite = control.suite().unwrap_or_default();
            ciphered.saturating_add(GeneralSigning::overhead(suite, ciphered))
        } else {
            ciphered
        }
    }

    /// The longest plaintext whose protected APDU has at most `limit` octets.
    fn room(&self, limit: usize) -> usize {
        let most = self.sealed(limit).saturating_sub(limit);
        let room = limit.saturating_sub(most);
        // The overhead of a shorter APDU may be some octets less.
        (room..=limit.min(room.saturating_add(SLACK)))
            .rev()
            .find(|plain| self.sealed(*plain) <= limit)
            .unwrap_or_default()
    }

    /// Octets around an APDU in a packet.
    const fn headers(&self) -> usize {
        let ip: usize = match self.path.network {
            Network::V4 => 20,
            Network::V6 => 40,
        };
        let transport: usize = match self.path.link {
            LinkConfig::Tcp => 20,
            LinkConfig::Udp => 8,
            LinkConfig::Hdlc(_) => return 0,
        };
        ip.saturating_add(transport).saturating_add(HEADER)
    }

    /// The octets of an APDU on the link: in one packet, or in as many HDLC frames as it takes.
    fn on_link(&self, apdu: usize) -> usize {
        let LinkConfig::Hdlc(config) = &self.path.link else {
            return apdu.saturating_add(self.headers());
        };
        let information = apdu.saturating_add(LLC);
        let segment = usize::from(config.parameters().max_info_transmit);
        let frames = information.div_ceil(segment.max(1));
        // flags, format, client and server address, control, HCS, FCS
        let around = usize::from(config.address_octets).saturating_add(2 + 2 + 1 + 1 + 2 + 2);
        information.saturating_add(frames.saturating_mul(around))
    }
}

/// The LLC header before an APDU in HDLC.
const LLC: usize = 3;
/// The smallest size that may be proposed (IEC 62056-5-3).
const MIN_PDU: usize = 12;
/// How much the lengths within a protected APDU can differ.
const SLACK: usize = 8;

/// The longest value that leaves room for its own length.
fn without_its_length(room: usize) -> usize {
    let most = room.saturating_sub(1);
    (room.saturating_sub(5)..=most)
        .rev()
        .find(|value| value.saturating_add(length_of_length(*value)) <= room)
        .unwrap_or_default()
}

/// Values behind their count.
fn counted(values: impl ExactSizeIterator<Item = usize>) -> usize {
    let count = length_of_length(values.len());
    values.fold(count, usize::saturating_add)
}

/// The longest plaintext answer that the objects of a command are expected to give, in octets; nothing if they have no
/// known bound, as the buffer of a profile has none. What a standard fixes is exact; an identification is taken to have
/// at most 48 characters.
#[must_use]
pub fn expected_answer(command: &Command) -> Option<usize> {
    match command {
        Command::Get { attribute, .. } => {
            expected_value(attribute).map(|value| value.saturating_add(4))
        }
        Command::Set { .. } => Some(4),
        // Result, "data follow", choice.
        Command::Action { method, .. } => Some(match returned(method) {
            0 => 5,
            value => value.saturating_add(6),
        }),
        Command::GetList(of) => listed(of.iter().map(|(attribute, _)| expected_value(attribute))),
        // A result has no choice before it.
        Command::SetList(of) => listed(of.iter().map(|_| Some(0))),
        Command::ActionList(of) => listed(of.iter().map(|(method, _)| match returned(method) {
            0 => Some(1),
            value => Some(value.saturating_add(2)),
        })),
        Command::Access(of) => of.iter().try_fold(
            // tag, long invoke id, no time, no specification, two counts
            1 + 4 + 1 + 1 + 1 + 1,
            |sum: usize, access| {
                let value = match access {
                    Access::Get { attribute, .. } => expected_value(attribute)?,
                    Access::Set { .. } => 1,
                    Access::Action { method, .. } => returned(method).max(1),
                };
                // a choice and a result besides
                Some(sum.saturating_add(2).saturating_add(value))
            },
        ),
    }
}

/// A list of results: tag, form, invoke id, a count of at most 127, then one octet before each value.
fn listed(mut values: impl Iterator<Item = Option<usize>>) -> Option<usize> {
    values.try_fold(3 + 1, |sum: usize, value| {
        Some(sum.saturating_add(1).saturating_add(value?))
    })
}

/// Octets of the value that a method gives back; 0 if it gives none.
const fn returned(method: &Method) -> usize {
    match (method.class_id, method.index) {
        // f(CtoS): the longest is a signature of suite 2.
        (15, 1) => 2 + 96,
        _ => 0,
    }
}

/// Octets of an attribute's value, encoded; nothing if it has no known bound.
const fn expected_value(attribute: &Attribute) -> Option<usize> {
    const NAME: usize = 8;
    const NUMBER: usize = 9;
    const COUNTER: usize = 5;
    const ENUM: usize = 2;
    const DATE_TIME: usize = 14;
    const LOGICAL_DEVICE_NAME: usize = 18;
    const IDENTIFICATION: usize = 50;
    let octets = match (attribute.class_id, attribute.index, attribute.name.bytes()) {
        (_, 1, _) => NAME,
        (1, 2, [0, 0, 42, 0, 0, 255]) => LOGICAL_DEVICE_NAME,
        (1, 2, [0, _, 43, 1, _, 255] | [0, _, 96, 7, _, 255] | [0, _, 96, 11, _, 255]) => COUNTER,
        (1, 2, [0, _, 96, 1, _, 255] | [1, _, 0, 2, _, 255]) => IDENTIFICATION,
        (3, 2, _) | (4, 2, _) | (71, 3..=5, _) => NUMBER,
        // scaler and unit
        (3 | 4, 3, _) => 6,
        (4, 5, _) | (8, 2, _) => DATE_TIME,
        (7, 7 | 8, _) | (71, 6 | 7, _) | (18, 2 | 4, _) => COUNTER,
        (8, 4, _) | (18, 6, _) | (64, 2 | 3, _) | (70, 2..=4, _) => ENUM,
        (8, 3, _) => 3,
        (18, 5, _) => 2,
        // system titles
        (64, 4 | 5, _) => 10,
        _ => return None,
    };
    Some(octets)
}

#[cfg(test)]
mod tests;
