//! A delivery: the file in which a manufacturer sends the wrapped keys of many meters. CSV or JSON lines; one row a
//! meter, read one at a time.
//!
//! The names of the columns are those of the request that a row becomes. What is the same in all rows may stand once,
//! before them: `# name = value` in CSV, `{"defaults": {..}}` in JSON lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use clap::ValueEnum as _;
use latchkey_proto::custody::v1 as pb;
use serde_json::Value;

use crate::args::{Auth, Policy};
use crate::exit::Exit;
use crate::failure::{Failure, Party};

/// The longest line: a row under RSA-OAEP has some 4,500 characters.
const LINE_MAX: u64 = 64 * 1024;

/// What a row says, by column.
pub(super) type Row = BTreeMap<String, String>;

/// A row as it is sent, or why it cannot be.
pub(super) type Parsed = Result<pb::ImportMeterKeysRequest, String>;

/// The rows of a file, in its order.
pub(super) struct Delivery<R> {
    reader: R,
    /// How many lines were read.
    line: u64,
    /// How many octets were read.
    octets: u64,
    defaults: Row,
    /// Of CSV, when its heading was read; JSON lines have none.
    columns: Option<Vec<String>>,
}

/// One row.
pub(super) struct Item {
    /// Counted from 1.
    pub(super) line: u64,
    /// Where in the file it ends.
    pub(super) octets: u64,
    /// As the row says it, if it does.
    pub(super) meter_id: String,
    pub(super) parsed: Parsed,
}

impl Delivery<BufReader<File>> {
    /// Opens a file; `defaults` stand for what neither a row nor the file says.
    pub(super) fn open(path: &Path, defaults: Row) -> Result<(Self, u64), Failure> {
        let file = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
        let length = file.metadata().map_or(0, |about| about.len());
        Ok((Self::new(BufReader::new(file), defaults), length))
    }
}

impl<R: BufRead> Delivery<R> {
    pub(super) fn new(reader: R, defaults: Row) -> Self {
        Self {
            reader,
            line: 0,
            octets: 0,
            defaults,
            columns: None,
        }
    }

    /// The next row. An error is of the file as a whole.
    pub(super) fn next_row(&mut self) -> Result<Option<Item>, Failure> {
        while let Some(text) = self.next_line()? {
            let text = text.trim();
            let first = text.trim_start_matches('\u{feff}');
            let row = match (first.as_bytes().first(), &self.columns) {
                (None, _) => continue,
                (Some(b'{'), None) => match json(first).map(|it| self.without_defaults(it)) {
                    Ok(None) => continue,
                    Ok(Some(row)) => Ok(row),
                    Err(why) => Err(why),
                },
                (Some(b'#'), None) => {
                    self.csv_default(first)?;
                    continue;
                }
                (Some(_), None) => {
                    self.columns = Some(self.heading(first)?);
                    continue;
                }
                (Some(_), Some(columns)) => csv_row(columns, text),
            };
            let row = row.map(|row| self.completed(row));
            let meter_id = row.as_ref().ok().and_then(|row| row.get("meter_id"));
            return Ok(Some(Item {
                line: self.line,
                octets: self.octets,
                meter_id: meter_id.cloned().unwrap_or_default(),
                parsed: row.and_then(|row| request(&row)),
            }));
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(LINE_MAX);
        let read = limited
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::io("read the file", &error))?;
        self.line += 1;
        self.octets += u64::try_from(read).unwrap_or(u64::MAX);
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LINE_MAX {
            return Err(self.bad("is longer than 65,536 octets"));
        }
        let text = String::from_utf8(line);
        Ok(Some(text.map_err(|_| self.bad("is no UTF-8"))?))
    }

    fn csv_default(&mut self, text: &str) -> Result<(), Failure> {
        let Some((name, value)) = text.trim_start_matches('#').split_once('=') else {
            return Ok(()); // a remark
        };
        let name = self.known(name.trim())?;
        self.defaults.insert(name, value.trim().to_owned());
        Ok(())
    }

    fn heading(&self, text: &str) -> Result<Vec<String>, Failure> {
        let columns = fields(text).map_err(|why| self.bad(&why))?;
        let columns: Vec<_> = columns
            .iter()
            .map(|name| self.known(name.trim()))
            .collect::<Result<_, _>>()?;
        if columns.iter().any(|name| name == "meter_id") {
            return Ok(columns);
        }
        Err(self.bad("is neither JSON nor a CSV heading with meter_id"))
    }

    fn known(&self, name: &str) -> Result<String, Failure> {
        if COLUMNS.contains(&name) {
            return Ok(name.to_owned());
        }
        Err(self.bad(&format!(
            "names a column that nothing is known of: {name:?}"
        )))
    }

    /// Takes defaults out of a JSON line; `None` if it was nothing else.
    fn without_defaults(&mut self, mut value: BTreeMap<String, Value>) -> Option<Row> {
        if let Some(Value::Object(defaults)) = value.remove("defaults") {
            let defaults = defaults
                .into_iter()
                .map(|(name, value)| (name, text(value)));
            self.defaults.extend(defaults);
            return None;
        }
        Some(
            value
                .into_iter()
                .map(|(name, value)| (name, text(value)))
                .collect(),
        )
    }

    fn completed(&self, mut row: Row) -> Row {
        for (name, value) in &self.defaults {
            if row.get(name).is_none_or(String::is_empty) {
                row.insert(name.clone(), value.clone());
            }
        }
        row
    }

    fn bad(&self, why: &str) -> Failure {
        let what = format!("line {} {why}", self.line);
        Failure::new(Exit::BAD_DATA, Party::Caller, what)
            .mend("see docs/cli.md for the form of a delivery")
    }
}

const COLUMNS: [&str; 14] = [
    "meter_id",
    "client_system_title",
    "server_system_title",
    "security_suite",
    "mechanisms",
    "policies",
    "transport",
    "wrapped_encryption_key",
    "wrapped_authentication_key",
    "wrapped_broadcast_key",
    "wrapped_key_encryption_key",
    "wrapped_hls_secret",
    "server_signing_key",
    "server_agreement_key",
];

fn json(text: &str) -> Result<BTreeMap<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("is no JSON object: {error}"))
}

/// A value as CSV would have it.
fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        Value::Array(values) => {
            let values: Vec<_> = values.into_iter().map(text).collect();
            values.join(" ")
        }
        other => other.to_string(),
    }
}

fn csv_row(columns: &[String], text: &str) -> Result<Row, String> {
    let fields = fields(text)?;
    if fields.len() != columns.len() {
        return Err(format!(
            "has {} fields, the heading {}",
            fields.len(),
            columns.len()
        ));
    }
    Ok(columns.iter().cloned().zip(fields).collect())
}

/// The fields of a line of CSV (RFC 4180, without line breaks in fields); `;` separates, too.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' | ';' if !quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    if quoted {
        return Err("has a quotation mark without its other".to_owned());
    }
    Ok(fields)
}

fn push(fields: &mut [String], letter: char) {
    if let Some(last) = fields.last_mut() {
        last.push(letter);
    }
}

/// The request of a row. Values are not repeated in what is wrong: they may be keys.
fn request(row: &Row) -> Parsed {
    if let Some(name) = row.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
        return Err(format!("names a column that nothing is known of: {name:?}"));
    }
    let value = |name: &str| row.get(name).map_or("", |value| value.trim());
    let octets =
        |name: &str| hex::decode(value(name)).map_err(|_| format!("{name} is not written in hex"));
    let suite = match value("security_suite") {
        "" => 0,
        suite => suite
            .parse()
            .map_err(|_| "security_suite is no number".to_owned())?,
    };
    Ok(pb::ImportMeterKeysRequest {
        meter_id: value("meter_id").to_owned(),
        client_system_title: octets("client_system_title")?,
        server_system_title: octets("server_system_title")?,
        security_suite: suite,
        mechanisms: named(value("mechanisms"), |name| {
            let auth = Auth::from_str(name, true).ok()?;
            Some(pb::Mechanism::from(auth).into())
        })
        .map_err(|()| "mechanisms names one that nothing is known of".to_owned())?,
        policies: named(value("policies"), |name| {
            let policy = Policy::from_str(name, true).ok()?;
            Some(pb::SecurityPolicy::from(policy).into())
        })
        .map_err(|()| "policies names one that nothing is known of".to_owned())?,
        transport: value("transport").to_owned(),
        wrapped_encryption_key: octets("wrapped_encryption_key")?,
        wrapped_authentication_key: octets("wrapped_authentication_key")?,
        wrapped_broadcast_key: octets("wrapped_broadcast_key")?,
        wrapped_key_encryption_key: octets("wrapped_key_encryption_key")?,
        wrapped_hls_secret: octets("wrapped_hls_secret")?,
        server_signing_key: octets("server_signing_key")?,
        server_agreement_key: octets("server_agreement_key")?,
    })
}

fn named(value: &str, of: impl Fn(&str) -> Option<i32>) -> Result<Vec<i32>, ()> {
    let names = value.split([' ', '+', '|']).filter(|name| !name.is_empty());
    names.map(|name| of(name).ok_or(())).collect()
}

#[cfg(test)]
mod tests;
