//! Hexadecimal text made frames: bare hex, trace files, pasted logs. Frames may be split over lines or joined in one.

use std::collections::BTreeMap;

use super::cut::{self, Form};

/// Where a frame comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The line it begins in, from 1.
    pub(crate) line: usize,
    /// As the trace file has it: seconds since 1970.
    pub(crate) time: Option<String>,
    pub(crate) meter: Option<String>,
    /// `>` to the meter, `<` from it.
    pub(crate) direction: Option<char>,
}

/// One frame, or what was given of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) origin: Origin,
    pub(crate) form: Form,
    pub(crate) octets: Vec<u8>,
    /// The trace left the APDU out but for its tag: so many octets.
    pub(crate) withheld: Option<usize>,
    /// What stands where a hexadecimal digit should.
    pub(crate) bad_hex: Option<String>,
}

impl Frame {
    pub(crate) fn of(form: Form, octets: &[u8]) -> Self {
        Self {
            origin: Origin::default(),
            form,
            octets: octets.to_vec(),
            withheld: None,
            bad_hex: None,
        }
    }
}

/// All frames of a text, in the order in which they are complete.
pub(crate) fn frames(text: &str) -> Vec<Frame> {
    let mut assembler = Assembler::default();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(piece) = piece(line, number) {
            assembler.push(piece);
        }
    }
    assembler.finish()
}

/// The octets of one line.
#[derive(Clone, Debug, Default)]
struct Piece {
    origin: Origin,
    octets: Vec<u8>,
    withheld: Option<usize>,
    bad_hex: Option<String>,
}

fn piece(line: &str, number: usize) -> Option<Piece> {
    let line = line.split('#').next().unwrap_or_default();
    let mut piece = trace_line(line).or_else(|| free_line(line))?;
    piece.origin.line = number;
    (!piece.octets.is_empty() || piece.bad_hex.is_some()).then_some(piece)
}

/// `SECONDS.MICROS METER DIRECTION HEX`, as the association service writes it.
fn trace_line(line: &str) -> Option<Piece> {
    let mut words = line.split_whitespace();
    let (time, meter, direction) = (words.next()?, words.next()?, words.next()?);
    let (seconds, micros) = time.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let direction = match direction {
        ">" => '>',
        "<" => '<',
        _ => return None,
    };
    if !(digits(seconds) && digits(micros)) {
        return None;
    }
    let rest: Vec<&str> = words.collect();
    let rest = rest.join(" ");
    let (shown, left_out) = match rest.split_once("..") {
        Some((shown, left_out)) => (shown, Some(left_out)),
        None => (rest.as_str(), None),
    };
    let mut piece = free_line(shown).unwrap_or_default();
    piece.withheld = left_out.and_then(|words| {
        words
            .split(|c: char| !c.is_ascii_digit())
            .find_map(|number| number.parse().ok())
    });
    piece.origin = Origin {
        line: 0,
        time: Some(time.to_owned()),
        meter: Some(meter.to_owned()),
        direction: Some(direction),
    };
    Some(piece)
}

/// A part of a line.
enum Token {
    Octets(Vec<u8>),
    /// Octets up to a character that is no digit.
    Broken(Vec<u8>, String),
    Word,
}

/// Any line: the longest run of hexadecimal octets in it.
fn free_line(line: &str) -> Option<Piece> {
    let text = line
        .replace("\\x", " ")
        .replace("0x", " ")
        .replace("0X", " ");
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || ",;[](){}\"'|=<>".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let words = without_offset(&words);
    let alone = words.len() == 1;
    let mut runs: Vec<Piece> = vec![Piece::default()];
    let (mut prose, mut last_is_octets) = (false, false);
    for word in words {
        let token = token(word, alone);
        last_is_octets = !matches!(token, Token::Word);
        match (token, runs.last_mut()) {
            (Token::Octets(octets), Some(run)) => run.octets.extend(octets),
            (Token::Broken(octets, found), Some(run)) => {
                run.octets.extend(octets);
                run.bad_hex.get_or_insert(found);
            }
            _ => {
                prose = true;
                runs.push(Piece::default());
            }
        }
    }
    let direction = direction(line);
    let mut longest = runs.into_iter().max_by_key(|run| run.octets.len())?;
    longest.origin.direction = direction;
    // "received 43 bytes" is no octet
    let meant = !prose || longest.octets.len() >= 4 || (direction.is_some() && last_is_octets);
    meant.then_some(longest)
}

/// A hex dump begins its lines with an offset.
fn without_offset<'a, 'b>(words: &'b [&'a str]) -> &'b [&'a str] {
    let [first, rest @ ..] = words else {
        return words;
    };
    let offset = matches!(first.len(), 4 | 8)
        && u32::from_str_radix(first, 16).is_ok_and(|offset| offset % 16 == 0)
        && rest.first().is_some_and(|word| word.len() == 2)
        && rest
            .iter()
            .take(16)
            .all(|word| word.len() != 4 || u16::from_str_radix(word, 16).is_err());
    if offset { rest } else { words }
}

/// `alone`: nothing else stands in the line.
fn token(word: &str, alone: bool) -> Token {
    if word.ends_with(':') || is_date(word) || (!alone && is_time(word)) {
        return Token::Word;
    }
    let digits: String = word.chars().filter(|c| !matches!(c, ':' | '-')).collect();
    let parts_even = word
        .split([':', '-'])
        .all(|part| part.len().is_multiple_of(2) || part.len() == 1 && word.len() > 1);
    if digits.is_empty() {
        return Token::Word;
    }
    if digits.chars().all(|c| c.is_ascii_hexdigit()) {
        if digits.len() == word.len() && digits.len().is_multiple_of(2) {
            return hex::decode(&digits).map_or(Token::Word, Token::Octets);
        }
        if digits.len() != word.len() && parts_even {
            return octets_of_parts(word);
        }
        if digits.len() == 1 && alone {
            return hex::decode(format!("0{digits}")).map_or(Token::Word, Token::Octets);
        }
        return match digits.len() {
            8.. => broken(&digits, "half an octet"),
            _ => Token::Word,
        };
    }
    let hexadecimal = digits.chars().filter(char::is_ascii_hexdigit).count();
    let mostly = hexadecimal.saturating_mul(5) >= digits.chars().count().saturating_mul(4);
    let starts = digits.starts_with(|c: char| c.is_ascii_digit());
    let long = digits.len() >= 16 || (starts && digits.len() >= 6);
    if mostly && long && !word.contains(['.', '/', 'T']) {
        let found = digits.chars().find(|c| !c.is_ascii_hexdigit());
        return broken(&digits, &found.map_or(String::new(), |c| format!("{c:?}")));
    }
    Token::Word
}

/// `7E:A0:7` is three octets.
fn octets_of_parts(word: &str) -> Token {
    let mut octets = Vec::new();
    for part in word.split([':', '-']).filter(|part| !part.is_empty()) {
        let part = if part.len() == 1 {
            format!("0{part}")
        } else {
            part.to_owned()
        };
        match hex::decode(part) {
            Ok(part) => octets.extend(part),
            Err(_) => return Token::Word,
        }
    }
    Token::Octets(octets)
}

fn broken(digits: &str, found: &str) -> Token {
    let good: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
    let whole = good.get(..good.len() / 2 * 2).unwrap_or_default();
    Token::Broken(hex::decode(whole).unwrap_or_default(), found.to_owned())
}

/// `2026-11-22`
fn is_date(word: &str) -> bool {
    let mut parts = word.split('-');
    let numbers = |part: Option<&str>, len| {
        part.is_some_and(|part| part.len() == len && part.bytes().all(|b| b.is_ascii_digit()))
    };
    numbers(parts.next(), 4)
        && numbers(parts.next(), 2)
        && numbers(parts.next(), 2)
        && parts.next().is_none()
}

/// `23:59:59`
fn is_time(word: &str) -> bool {
    let parts: Vec<Option<u8>> = word
        .split(':')
        .map(|part| (part.len() == 2).then(|| part.parse().ok()).flatten())
        .collect();
    matches!(parts.as_slice(), [Some(0..24), Some(0..60), Some(0..60)])
}

/// Which way a line of a log goes, if it says so.
fn direction(line: &str) -> Option<char> {
    let line = line.to_lowercase();
    let word = |wanted: &[&str]| {
        line.split(|c: char| !c.is_ascii_alphabetic())
            .any(|word| wanted.contains(&word))
    };
    let sent = line.contains("->")
        || line.contains(">>")
        || word(&["tx", "send", "sending", "sent", "snd", "write"]);
    let received = line.contains("<-")
        || line.contains("<<")
        || word(&[
            "rx",
            "recv",
            "received",
            "receive",
            "receiving",
            "rcv",
            "read",
        ]);
    match (sent, received) {
        (true, false) => Some('>'),
        (false, true) => Some('<'),
        _ => None,
    }
}

/// Puts pieces together until they are frames; each meter and direction by itself.
#[derive(Default)]
struct Assembler {
    waiting: BTreeMap<(Option<String>, Option<char>), Piece>,
    frames: Vec<Frame>,
}

impl Assembler {
    fn push(&mut self, piece: Piece) {
        let key = (piece.origin.meter.clone(), piece.origin.direction);
        let piece = match self.waiting.remove(&key) {
            None => piece,
            Some(waiting) => {
                let joined = [waiting.octets.as_slice(), &piece.octets].concat();
                let fresh =
                    !cut::good(&joined) && (cut::good(&piece.octets) || cut::begins(&piece.octets));
                if fresh || piece.withheld.is_some() || waiting.bad_hex.is_some() {
                    self.whole(waiting);
                    piece
                } else {
                    Piece {
                        octets: joined,
                        bad_hex: piece.bad_hex,
                        ..waiting
                    }
                }
            }
        };
        if let Some(open) = self.take(piece) {
            self.waiting.insert(key, open);
        }
    }

    /// Takes every frame that is whole; gives back what is not.
    fn take(&mut self, mut piece: Piece) -> Option<Piece> {
        if piece.withheld.is_some() {
            self.whole(piece);
            return None;
        }
        while !piece.octets.is_empty() {
            let cut = cut::first(&piece.octets);
            if cut.open {
                return Some(piece);
            }
            let rest = piece.octets.get(cut.next..).unwrap_or_default().to_vec();
            piece.octets.truncate(cut.len);
            let bad_hex = if rest.is_empty() {
                piece.bad_hex.take()
            } else {
                None
            };
            self.frames.push(Frame {
                origin: piece.origin.clone(),
                form: cut.form,
                octets: std::mem::replace(&mut piece.octets, rest),
                withheld: None,
                bad_hex,
            });
        }
        None
    }

    /// A frame of which no more will come.
    fn whole(&mut self, piece: Piece) {
        let form = match piece.octets.is_empty() {
            true => Form::Apdu,
            false => cut::first(&piece.octets).form,
        };
        self.frames.push(Frame {
            origin: piece.origin,
            form,
            octets: piece.octets,
            withheld: piece.withheld,
            bad_hex: piece.bad_hex,
        });
    }

    fn finish(mut self) -> Vec<Frame> {
        for piece in std::mem::take(&mut self.waiting).into_values() {
            self.whole(piece);
        }
        self.frames
    }
}
