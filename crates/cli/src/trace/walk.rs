//! A walk over octets that gives each of them a meaning, and goes on as far as they make sense.

use serde_json::{Value, json};

use super::fault::{Fault, Kind};
use super::node::{Node, Shape};

/// How deep a tree may be: arrays in arrays, APDUs in APDUs.
const DEPTH_MAX: usize = 48;
/// How many nodes a tree may have: a compact array may claim elements without octets.
const NODES_MAX: usize = 200_000;

/// Nothing more can be understood. Why is in the walk.
#[derive(Debug)]
pub(crate) struct Stop;

pub(crate) type Step<T = ()> = Result<T, Stop>;

/// A value and its meaning.
pub(crate) struct Said {
    value: Value,
    text: String,
    extra: Vec<(&'static str, Value)>,
    secret: bool,
}

impl Said {
    pub(crate) fn new(value: impl Into<Value>, text: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            text: text.into(),
            extra: Vec::new(),
            secret: false,
        }
    }

    /// Octets as hex.
    pub(crate) fn hex(octets: &[u8]) -> Self {
        Self::new(hex::encode(octets), format!("{} octets", octets.len()))
    }

    /// A number with its name.
    pub(crate) fn code(code: u32, name: &str) -> Self {
        Self::new(
            json!({ "code": code, "name": name }),
            format!("{name} ({code})"),
        )
    }

    /// A password or a key.
    pub(crate) fn secret(octets: &[u8], what: &str) -> Self {
        let text = format!("{what}, {} octets, not shown", octets.len());
        let mut said = Self::new(text.clone(), text);
        said.secret = true;
        said
    }

    pub(crate) fn also(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.extra.push((name, value));
        }
        self
    }
}

/// The walk. The first fault is kept; those it causes are not.
pub(crate) struct Walk<'a> {
    octets: &'a [u8],
    at: usize,
    end: usize,
    /// What it is called if octets are needed beyond `end`.
    short: Kind,
    open: Vec<Node>,
    nodes: usize,
    pub(crate) fault: Option<Fault>,
    /// Departures from the standard that leave the meaning clear, and hints.
    pub(crate) notes: Vec<String>,
    /// The frame is known to be whole: a length beyond its end is wrong, not cut short.
    pub(crate) whole: bool,
    /// Where octets are known to go on elsewhere: their end is no fault.
    pub(crate) partial: Option<usize>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self {
            octets,
            at: 0,
            end: octets.len(),
            short: Kind::Truncated,
            open: vec![Node::new("root", Shape::Group, 0)],
            nodes: 0,
            fault: None,
            notes: Vec::new(),
            whole: false,
            partial: None,
        }
    }

    /// The tree. What was not reached becomes a leaf, so that every octet is in one.
    pub(crate) fn finish(mut self) -> (Node, Option<Fault>, Vec<String>) {
        self.end = self.octets.len();
        self.rest_as("not explained");
        let mut root = self
            .open
            .pop()
            .unwrap_or_else(|| Node::new("root", Shape::Group, 0));
        root.len = self.octets.len();
        (root, self.fault, self.notes)
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn left(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.peek_at(0)
    }

    pub(crate) fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.ahead().get(ahead).copied()
    }

    /// What is left, up to the enclosing length.
    pub(crate) fn ahead(&self) -> &'a [u8] {
        self.octets.get(self.at..self.end).unwrap_or_default()
    }

    /// What was read since an offset.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.octets.get(start..self.at).unwrap_or_default()
    }

    /// Keeps a fault if it is the first, and goes on.
    pub(crate) fn record(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Keeps a fault if it is the first, and stops.
    pub(crate) fn fail(&mut self, fault: Fault) -> Stop {
        self.record(fault);
        Stop
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The octets end here although more are needed.
    fn short(&mut self, needed: usize) -> Stop {
        if self.partial != Some(self.end) {
            let found = self.left();
            self.record(Fault::new(
                self.short,
                self.at,
                octets(needed),
                match (found, self.short) {
                    (0, Kind::LengthMismatch) => "the end of the length before".to_owned(),
                    (0, _) => "the end".to_owned(),
                    (found, Kind::LengthMismatch) => {
                        format!("{found} and the end of the length before")
                    }
                    (found, _) => format!("{found} and the end"),
                },
            ));
        }
        Stop
    }

    /// A field of a fixed length.
    pub(crate) fn leaf(
        &mut self,
        name: &'static str,
        len: usize,
        say: impl FnOnce(&'a [u8]) -> Said,
    ) -> Step<&'a [u8]> {
        let Some(octets) = self.ahead().get(..len) else {
            return Err(self.short(len));
        };
        let said = say(octets);
        let mut node = Node::new(name, Shape::Leaf, self.at);
        node.len = len;
        (node.value, node.text, node.extra, node.secret) =
            (said.value, said.text, said.extra, said.secret);
        self.at = self.at.saturating_add(len);
        self.attach(node)?;
        Ok(octets)
    }

    /// A tag, a length or a flag: for people only.
    pub(crate) fn mark(
        &mut self,
        name: &'static str,
        len: usize,
        say: impl FnOnce(&'a [u8]) -> String,
    ) -> Step<&'a [u8]> {
        let octets = self.leaf(name, len, |octets| Said::new(Value::Null, say(octets)))?;
        if let Some(node) = self.last() {
            node.in_json = false;
        }
        Ok(octets)
    }

    pub(crate) fn u8(&mut self, name: &'static str) -> Step<u8> {
        self.number(name, 1)
            .map(|n| u8::try_from(n).unwrap_or(u8::MAX))
    }

    pub(crate) fn u16(&mut self, name: &'static str) -> Step<u16> {
        self.number(name, 2)
            .map(|n| u16::try_from(n).unwrap_or(u16::MAX))
    }

    pub(crate) fn u32(&mut self, name: &'static str) -> Step<u32> {
        self.number(name, 4)
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    fn number(&mut self, name: &'static str, len: usize) -> Step<u64> {
        self.leaf(name, len, |octets| {
            Said::new(unsigned(octets), unsigned(octets).to_string())
        })
        .map(unsigned)
    }

    /// An enumeration of one octet.
    pub(crate) fn code(
        &mut self,
        name: &'static str,
        names: impl FnOnce(u8) -> &'static str,
    ) -> Step<u8> {
        let octets = self.leaf(name, 1, |octets| {
            let code = first(octets);
            Said::code(code.into(), names(code))
        })?;
        Ok(first(octets))
    }

    /// A BOOLEAN of A-XDR: 0 is false.
    pub(crate) fn boolean(&mut self, name: &'static str) -> Step<bool> {
        let octets = self.leaf(name, 1, |octets| {
            let yes = first(octets) != 0;
            Said::new(yes, yes.to_string())
        })?;
        Ok(first(octets) != 0)
    }

    /// The usage flag of an OPTIONAL or DEFAULT element.
    pub(crate) fn present(&mut self, of: &'static str) -> Step<bool> {
        let at = self.at;
        let octets = self.mark("usage flag", 1, |octets| match first(octets) {
            0 => format!("{of}: absent"),
            _ => format!("{of}: present"),
        })?;
        let flag = first(octets);
        if flag > 1 {
            self.record(Fault::new(
                Kind::BadValue,
                at,
                format!("00 or 01, whether {of} is present"),
                format!("{flag:02x}"),
            ));
        }
        Ok(flag != 0)
    }

    /// A length (A-XDR and BER are alike). One that says more than is left is a fault, and counts as what is left.
    pub(crate) fn length(&mut self, of: &'static str) -> Step<usize> {
        let at = self.at;
        let length = self.count("length", of)?;
        let left = self.left();
        if length <= left {
            return Ok(length);
        }
        if self.partial != Some(self.end) {
            let kind = if self.whole {
                Kind::LengthMismatch
            } else {
                self.short
            };
            let (offset, expected) = match kind {
                Kind::Truncated => (self.end, format!("{length} octets of {of}")),
                _ => (at, format!("a length of {of} of at most {left}")),
            };
            let found = match kind {
                Kind::Truncated => format!("{left} and the end"),
                _ => length.to_string(),
            };
            self.record(Fault::new(kind, offset, expected, found));
        }
        Ok(left)
    }

    /// A count of elements or octets, in the length encoding, not compared with what is left.
    pub(crate) fn count(&mut self, name: &'static str, of: &'static str) -> Step<usize> {
        let at = self.at;
        let Some(first) = self.peek() else {
            return Err(self.short(1));
        };
        let more = match first {
            0..=0x7f => 0,
            0x81..=0x84 => usize::from(first & 0x0f),
            _ => {
                return Err(self.fail(Fault::new(
                    Kind::BadValue,
                    at,
                    format!("a definite length of {of}, of at most four octets"),
                    format!("{first:02x}"),
                )));
            }
        };
        let octets = self.mark(name, more.saturating_add(1), |octets| {
            format!("{} of {of}", size(octets))
        })?;
        Ok(size(octets))
    }

    /// Octets preceded by their length.
    pub(crate) fn prefixed(
        &mut self,
        name: &'static str,
        say: impl FnOnce(&'a [u8]) -> Said,
    ) -> Step<&'a [u8]> {
        let length = self.length(name)?;
        self.leaf(name, length, say)
    }

    /// Fields that belong together. What was understood stays even if something in it was not.
    pub(crate) fn group<T>(
        &mut self,
        name: &'static str,
        walk: impl FnOnce(&mut Self) -> Step<T>,
    ) -> Step<T> {
        self.nest(name, Shape::Group, walk)
    }

    /// Elements of one kind.
    pub(crate) fn list<T>(
        &mut self,
        name: &'static str,
        walk: impl FnOnce(&mut Self) -> Step<T>,
    ) -> Step<T> {
        self.nest(name, Shape::List, walk)
    }

    fn nest<T>(
        &mut self,
        name: &'static str,
        shape: Shape,
        walk: impl FnOnce(&mut Self) -> Step<T>,
    ) -> Step<T> {
        if self.open.len() >= DEPTH_MAX {
            return Err(self.fail(Fault::new(
                Kind::BadValue,
                self.at,
                format!("at most {DEPTH_MAX} levels"),
                "more",
            )));
        }
        self.open.push(Node::new(name, shape, self.at));
        let result = walk(self);
        if let Some(mut node) = self.open.pop() {
            node.len = self.at.saturating_sub(node.offset);
            self.attach(node)?;
        }
        result
    }

    /// The type of the open group, and its meaning for people.
    pub(crate) fn say(&mut self, value: impl Into<Value>, text: impl Into<String>) {
        if let Some(node) = self.open.last_mut() {
            node.value = value.into();
            node.text = text.into();
        }
    }

    /// Says more of the open group, for people.
    pub(crate) fn add_text(&mut self, text: &str) {
        if let Some(node) = self.open.last_mut() {
            if !node.text.is_empty() {
                node.text.push_str(", ");
            }
            node.text.push_str(text);
        }
    }

    /// A member of the open group that stands in no octet of its own.
    pub(crate) fn member(&mut self, name: &'static str, value: Value) {
        if let Some(node) = self.last() {
            node.extra.push((name, value));
        }
    }

    /// The next `len` octets by themselves: `short` is what it is called if they do not suffice, and what they hold
    /// beyond it is trailing.
    pub(crate) fn within<T>(
        &mut self,
        len: usize,
        short: Kind,
        walk: impl FnOnce(&mut Self) -> Step<T>,
    ) -> Step<T> {
        let outer = (self.end, self.short);
        let end = self.at.saturating_add(len).min(self.end);
        // where the octets end too early for the length, their end is what is missed
        let cut = len > self.left();
        self.end = end;
        self.short = if cut { self.short } else { short };
        let result = walk(self);
        if result.is_ok() {
            self.trailing();
        }
        (self.end, self.short) = outer;
        result
    }

    /// The next `len` octets by themselves. What cannot be understood of them does not stop the walk.
    pub(crate) fn region(&mut self, len: usize, walk: impl FnOnce(&mut Self) -> Step) -> Step {
        let end = self.at.saturating_add(len).min(self.end);
        if self.within(len, Kind::Truncated, walk).is_err() && self.at < end {
            let left = end.saturating_sub(self.at);
            self.mark("not explained", left, |all| octets(all.len()))?;
        }
        Ok(())
    }

    /// Whatever is left is too much.
    pub(crate) fn trailing(&mut self) {
        let left = self.left();
        if left > 0 {
            self.record(Fault::new(
                Kind::TrailingOctets,
                self.at,
                "the end",
                octets(left),
            ));
            self.rest_as("trailing octets");
        }
    }

    /// All that is left, as one leaf for people.
    pub(crate) fn rest_as(&mut self, name: &'static str) {
        let left = self.left();
        if left > 0 {
            // it cannot be short: that many are left
            let _ = self.mark(name, left, |all| octets(all.len()));
        }
    }

    fn attach(&mut self, node: Node) -> Step {
        self.nodes = self.nodes.saturating_add(1);
        if let Some(parent) = self.open.last_mut() {
            parent.children.push(node);
        }
        if self.nodes < NODES_MAX {
            return Ok(());
        }
        Err(self.fail(Fault::new(
            Kind::BadValue,
            self.at,
            format!("at most {NODES_MAX} fields"),
            "more",
        )))
    }

    /// The node that was attached last.
    fn last(&mut self) -> Option<&mut Node> {
        self.open.last_mut()?.children.last_mut()
    }

    /// The node of the open group that was attached last.
    pub(crate) fn done(&self) -> Option<&Node> {
        self.open.last()?.children.last()
    }
}

/// Big endian; at most eight octets count.
pub(crate) fn unsigned(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0, |value, octet| (value << 8) | u64::from(*octet))
}

/// Big endian, two's complement, of one to eight octets.
pub(crate) fn signed(octets: &[u8]) -> i64 {
    let start = if first(octets) & 0x80 == 0 { 0 } else { -1 };
    octets
        .iter()
        .fold(start, |value, octet| (value << 8) | i64::from(*octet))
}

pub(crate) fn first(octets: &[u8]) -> u8 {
    octets.first().copied().unwrap_or_default()
}

fn size(octets: &[u8]) -> usize {
    match octets {
        [short] => usize::from(*short),
        [_, long @ ..] => usize::try_from(unsigned(long)).unwrap_or(usize::MAX),
        [] => 0,
    }
}

fn octets(count: usize) -> String {
    match count {
        1 => "1 octet".to_owned(),
        count => format!("{count} octets"),
    }
}
