//! Octets cut into frames: wrapper and HDLC by their lengths, an APDU by itself where it ends.

use super::explain::{self, apdu_extent};
use super::hdlc::{self, FLAG};

/// How an APDU travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Wrapper,
    Hdlc,
    /// An APDU by itself, or after an LLC header.
    Apdu,
}

impl Form {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Wrapper => "wrapper",
            Self::Hdlc => "hdlc",
            Self::Apdu => "apdu",
        }
    }
}

/// The first frame of some octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) form: Form,
    /// Its octets.
    pub(crate) len: usize,
    /// Where the next one begins: two HDLC frames may share a flag.
    pub(crate) next: usize,
    /// More octets may follow that belong to it.
    pub(crate) open: bool,
}

impl Cut {
    const fn whole(form: Form, len: usize) -> Self {
        Self {
            form,
            len,
            next: len,
            open: false,
        }
    }

    const fn open(form: Form, len: usize) -> Self {
        Self {
            form,
            len,
            next: len,
            open: true,
        }
    }
}

/// Finds the end of the first frame. `octets` are not empty.
pub(crate) fn first(octets: &[u8]) -> Cut {
    match octets {
        [FLAG, ..] => hdlc(octets),
        [0] | [0, 1, ..] => wrapper(octets),
        _ if bare_hdlc(octets) => Cut::whole(Form::Hdlc, octets.len()),
        _ => apdu(octets),
    }
}

/// Whether the first frame is there and nothing is wrong with it.
pub(crate) fn good(octets: &[u8]) -> bool {
    if octets.is_empty() {
        return false;
    }
    let cut = first(octets);
    let frame = octets.get(..cut.len).unwrap_or_default();
    !cut.open && explain::fault(cut.form, frame).is_none()
}

/// Whether octets look like the beginning of a frame, good or not.
pub(crate) fn begins(octets: &[u8]) -> bool {
    match octets {
        [FLAG, high, _, ..] => high & 0xf0 == 0xa0,
        [0, 1, _, _, _, _, high, low, ..] => [*high, *low] != [0, 0],
        _ => false,
    }
}

fn wrapper(octets: &[u8]) -> Cut {
    let Some(&[high, low]) = octets.get(6..8) else {
        return Cut::open(Form::Wrapper, octets.len());
    };
    let len = usize::from(u16::from_be_bytes([high, low])).saturating_add(8);
    match octets.get(len..) {
        None => match later(octets, 8) {
            // a length that swallows the next frame is wrong
            Some(end) => Cut::whole(Form::Wrapper, end),
            None => Cut::open(Form::Wrapper, octets.len()),
        },
        Some([] | [0, 1, ..] | [FLAG, _, ..]) => Cut::whole(Form::Wrapper, len),
        // the beginning of another, or too much: the next octets say
        Some([0] | [FLAG]) => Cut::open(Form::Wrapper, octets.len()),
        Some(_) => Cut::whole(Form::Wrapper, later(octets, len).unwrap_or(octets.len())),
    }
}

/// Where a good wrapper or HDLC frame begins, after `from`.
fn later(octets: &[u8], from: usize) -> Option<usize> {
    (from..octets.len()).find(|at| {
        let rest = octets.get(*at..).unwrap_or_default();
        begins(rest) && closes(rest)
    })
}

/// Whether a frame that begins here ends where it says, with a right check sequence or a whole APDU.
fn closes(octets: &[u8]) -> bool {
    match octets {
        [FLAG, rest @ ..] => hdlc::length(rest).is_some_and(|len| {
            rest.get(len) == Some(&FLAG) && hdlc::sound(rest.get(..len).unwrap_or_default())
        }),
        [_, _, _, _, _, _, high, low, rest @ ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            rest.get(..len)
                .is_some_and(|apdu| explain::apdu_fault(apdu).is_none())
        }
        _ => false,
    }
}

fn hdlc(octets: &[u8]) -> Cut {
    let flags = octets.iter().take_while(|octet| **octet == FLAG).count();
    let rest = octets.get(flags..).unwrap_or_default();
    let Some(promised) = hdlc::length(rest) else {
        if rest.len() < 2 {
            return Cut::open(Form::Hdlc, octets.len());
        }
        return resynchronised(octets, flags);
    };
    let closing = flags.saturating_add(promised);
    match octets.get(closing) {
        Some(&FLAG) => closed(octets, closing.saturating_add(1)),
        Some(_) => resynchronised(octets, flags),
        None => match later(octets, flags) {
            Some(_) => resynchronised(octets, flags),
            None => Cut::open(Form::Hdlc, octets.len()),
        },
    }
}

/// A frame that ends at `end`, its closing flag included. More flags may fill the time to the next.
fn closed(octets: &[u8], end: usize) -> Cut {
    let rest = octets.get(end..).unwrap_or_default();
    let fill = rest.iter().take_while(|octet| **octet == FLAG).count();
    let after = rest.get(fill..).unwrap_or_default();
    let filled = Cut::whole(Form::Hdlc, end.saturating_add(fill));
    match after {
        [] if fill == 0 => filled,
        // the beginning of another, or too much: the next octets say
        [] | [0] | [0, 1] => Cut::open(Form::Hdlc, octets.len()),
        [0, 1, ..] => filled,
        [high, ..] if fill > 0 && high & 0xf0 == 0xa0 => Cut::whole(Form::Hdlc, end),
        _ if hdlc::length(after).is_some_and(|len| after.get(len) == Some(&FLAG)) => Cut {
            next: end.saturating_sub(1),
            ..Cut::whole(Form::Hdlc, end)
        },
        _ => Cut::whole(Form::Hdlc, later(octets, end).unwrap_or(octets.len())),
    }
}

/// The end of a broken frame: where a good one begins, else where all ends.
fn resynchronised(octets: &[u8], flags: usize) -> Cut {
    let Some(at) = later(octets, flags) else {
        return Cut::whole(Form::Hdlc, octets.len());
    };
    // the next one's flag closes this one too, if it has none of its own
    let own = at
        .checked_sub(1)
        .and_then(|before| octets.get(before))
        .is_some_and(|octet| *octet == FLAG);
    Cut {
        form: Form::Hdlc,
        len: if own { at } else { at.saturating_add(1) },
        next: at,
        open: false,
    }
}

/// A frame without its flags, or without the opening one.
fn bare_hdlc(octets: &[u8]) -> bool {
    hdlc::length(octets).is_some_and(|len| {
        hdlc::sound(octets.get(..len).unwrap_or_default())
            && matches!(octets.get(len..), Some([] | [FLAG]))
    })
}

fn apdu(octets: &[u8]) -> Cut {
    let (end, fault) = apdu_extent(octets);
    if let Some(fault) = fault {
        return match fault.kind {
            super::fault::Kind::Truncated => Cut::open(Form::Apdu, octets.len()),
            _ => Cut::whole(Form::Apdu, later(octets, 1).unwrap_or(octets.len())),
        };
    }
    let rest = octets.get(end..).unwrap_or_default();
    let another = !rest.is_empty() && (begins(rest) || apdus(rest));
    Cut::whole(Form::Apdu, if another { end } else { octets.len() })
}

/// Whether octets are nothing but whole APDUs.
fn apdus(mut octets: &[u8]) -> bool {
    while !octets.is_empty() {
        let (end, fault) = apdu_extent(octets);
        if fault.is_some() || end == 0 {
            return false;
        }
        octets = octets.get(end..).unwrap_or_default();
    }
    true
}
