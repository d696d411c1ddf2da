//! Frames out of a stream that splits, merges, damages and precedes them with junk.

use alloc::vec::Vec;

use super::frame::{FLAG, Fault, Frame, Header, MIN_LENGTH, length_field};

/// Cuts a stream into frames. Holds at most two: one that comes, and the last one, each of 2049 octets.
///
/// The header is checked as soon as it is there, so that a damaged length never waits for what follows it. After a
/// fault, the search goes on at the next flag that a header follows; what is passed over on the way is no further fault.
#[derive(Default, Clone)]
pub struct Deframer {
    /// Empty, or beginning with a flag.
    held: Vec<u8>,
    /// What the last frame or fault was made of.
    last: Vec<u8>,
    searching: bool,
}

/// What the octets held are.
enum Scan {
    /// A frame, or its beginning, with so many octets in all.
    Needs(usize),
    /// A frame.
    Whole(Frame),
    /// None, and it is not known where it ends: the next one may begin at any octet.
    Lost(Fault),
    /// None, between flags where its length says; the next one begins after so many octets.
    Bad { fault: Fault, pass: usize },
}

impl Deframer {
    /// Takes octets until there is a frame or a fault; nothing when `octets` are used up.
    pub fn next(&mut self, octets: &mut &[u8]) -> Option<Result<Frame, Fault>> {
        loop {
            self.align(octets);
            match self.scan() {
                Scan::Needs(length) => {
                    if octets.is_empty() {
                        return None;
                    }
                    let missing = length.saturating_sub(self.held.len()).min(octets.len());
                    let (taken, rest) = octets.split_at_checked(missing)?;
                    self.held.extend_from_slice(taken);
                    *octets = rest;
                }
                Scan::Whole(frame) => {
                    self.keep_closing_flag();
                    self.searching = false;
                    return Some(Ok(frame));
                }
                Scan::Bad { fault, pass } => {
                    self.keep(pass.saturating_add(1));
                    self.held.drain(..pass.min(self.held.len()));
                    self.searching = false;
                    return Some(Err(fault));
                }
                Scan::Lost(fault) => {
                    if !self.searching {
                        self.keep(self.next_flag());
                    }
                    self.held.drain(..1.min(self.held.len()));
                    if !core::mem::replace(&mut self.searching, true) {
                        return Some(Err(fault));
                    }
                }
            }
        }
    }

    /// The octets of the frame or the fault that [`Self::next`] returned last, flags included. Of a fault whose end is not
    /// known: up to the next flag, as far as they had come.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.last
    }

    /// Forgets a frame that is not whole: the line was silent for too long.
    pub fn reset(&mut self) {
        self.held.clear();
    }

    /// Whether a frame has begun: its header is there, and undamaged.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        matches!(Header::read(&self.held), Some(Ok(header)) if self.held.len() >= header.end.saturating_add(2))
    }

    /// The fault of a stream that ends here, if it ends within a frame.
    #[must_use]
    pub fn end(&self) -> Option<Fault> {
        match self.held.as_slice() {
            [] | [FLAG] => None,
            held => Frame::decode(held).err(),
        }
    }

    /// Makes the octets held begin with one flag: passes over junk and fill.
    fn align(&mut self, octets: &mut &[u8]) {
        let junk = self
            .held
            .iter()
            .position(|octet| *octet == FLAG)
            .unwrap_or(self.held.len());
        let fill = self
            .held
            .get(junk..)
            .unwrap_or_default()
            .windows(2)
            .take_while(|pair| *pair == [FLAG, FLAG])
            .count();
        self.held
            .drain(..junk.saturating_add(fill).min(self.held.len()));
        if self.held.is_empty() {
            let junk = octets
                .iter()
                .position(|octet| *octet == FLAG)
                .unwrap_or(octets.len());
            *octets = octets.get(junk..).unwrap_or_default();
        }
    }

    fn scan(&self) -> Scan {
        let length = match length_field(&self.held) {
            None => return Scan::Needs(self.held.len().saturating_add(1)),
            Some(Err(fault)) => return Scan::Lost(fault),
            Some(Ok(length)) => length,
        };
        let whole = length.saturating_add(2);
        if length < MIN_LENGTH {
            let fault = Fault::Length {
                offset: 1,
                expected: length,
                found: self.held.len().saturating_sub(1),
            };
            return Scan::Lost(fault);
        }
        if self.held.len() >= whole {
            return self.judge(length);
        }
        match Header::read(&self.held) {
            // What follows the header of a frame without information is its FCS: the frame is judged as a whole.
            Some(Ok(header)) if header.end.saturating_add(3) == whole => Scan::Needs(whole),
            Some(Ok(header)) if self.held.len() >= header.end.saturating_add(2) => {
                match header.hcs_fault(&self.held) {
                    Some(fault) => Scan::Lost(fault),
                    None => Scan::Needs(whole),
                }
            }
            Some(Err(fault)) => Scan::Lost(fault),
            Some(Ok(_)) | None => Scan::Needs(self.held.len().saturating_add(1)),
        }
    }

    /// All octets up to the place of the closing flag are there.
    fn judge(&self, length: usize) -> Scan {
        let at = length.saturating_add(1);
        match self.held.get(at).copied() {
            Some(FLAG) => match Frame::parse(&self.held) {
                Ok(frame) => Scan::Whole(frame),
                Err(fault) => Scan::Bad { fault, pass: at },
            },
            found => {
                let fault = Fault::ClosingFlag { offset: at, found };
                Scan::Lost(fault)
            }
        }
    }

    /// The flag that closes one frame may open the next.
    fn keep_closing_flag(&mut self) {
        core::mem::swap(&mut self.held, &mut self.last);
        self.held.clear();
        self.held.push(FLAG);
    }

    /// Keeps the first octets held, for whoever wants to see a fault.
    fn keep(&mut self, count: usize) {
        self.last.clear();
        let octets = self.held.get(..count).unwrap_or(&self.held);
        self.last.extend_from_slice(octets);
    }

    /// Where the next flag stands after the first octet held, or the end.
    fn next_flag(&self) -> usize {
        self.held
            .iter()
            .skip(1)
            .position(|octet| *octet == FLAG)
            .map_or(self.held.len(), |at| at.saturating_add(1))
    }
}

/// What is held may be part of a command in clear: only its length is shown.
impl core::fmt::Debug for Deframer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Deframer({} octets)", self.held.len())
    }
}
