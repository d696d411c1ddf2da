//! `latchkey trace`: what was on the wire, octet by octet. It asks no service, and sends nothing.

use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::meter::lab_keys;
use crate::output::Output;

mod acse;
mod apdu;
mod ciphered;
mod clock;
mod content_key;
mod cut;
mod data;
mod explain;
mod fault;
mod general;
mod hdlc;
mod initiate;
mod input;
mod keys;
mod node;
mod notification;
mod objects;
mod render;
mod service;
mod short;
mod talk;
#[cfg(test)]
mod tests;
mod token;
mod walk;

use explain::Explainer;
use keys::{Key, Keys, Lab};

/// The longest input: a day of a busy cell.
const INPUT_MAX: u64 = 64 << 20;

pub(crate) fn run(verb: args::Trace, output: &Output) -> Result<Exit, Failure> {
    match verb {
        args::Trace::Explain(args) => explain(&args, output),
    }
}

fn explain(args: &args::Explain, output: &Output) -> Result<Exit, Failure> {
    let keys = keys(args)?;
    let text = input(args.file.as_deref())?;
    let frames = input::frames(&text);
    if frames.is_empty() {
        return Err(Failure::new(
            Exit::BAD_DATA,
            Party::Caller,
            "there is no frame in the input: no octets in hexadecimal",
        )
        .mend(
            "give hex digits, a trace file of the association service, or a log that holds hex",
        ));
    }
    let mut explainer = Explainer::new(keys);
    let mut faulty = 0_usize;
    for (number, frame) in (1..).zip(&frames) {
        let explained = explainer.explain(frame);
        faulty = faulty.saturating_add(usize::from(explained.fault.is_some()));
        let json = render::json(number, &frame.origin, &explained);
        output.result(&json, || render::text(number, &frame.origin, &explained));
    }
    if faulty > 0 {
        output.note(&format!("{faulty} of {} frames have a fault", frames.len()));
        return Ok(Exit::BAD_DATA);
    }
    Ok(Exit::OK)
}

/// The file, or standard input. What is no UTF-8 stays in the text as no digit.
fn input(file: Option<&Path>) -> Result<String, Failure> {
    let mut octets = Vec::new();
    let read = |reader: &mut dyn std::io::Read, octets: &mut Vec<u8>| {
        reader.take(INPUT_MAX.saturating_add(1)).read_to_end(octets)
    };
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => std::fs::File::open(path)
            .and_then(|mut file| read(&mut file, &mut octets))
            .map_err(|error| Failure::file("read", path, &error))?,
        None => read(&mut std::io::stdin().lock(), &mut octets)
            .map_err(|error| Failure::io("read standard input", &error))?,
    };
    if u64::try_from(octets.len()).is_ok_and(|len| len > INPUT_MAX) {
        return Err(Failure::new(
            Exit::BAD_DATA,
            Party::Caller,
            "the input is longer than 64 MiB",
        )
        .mend("give the part that matters"));
    }
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

fn keys(args: &args::Explain) -> Result<Keys, Failure> {
    let mut keys = Keys::default();
    for title in &args.system_title {
        keys.titles.extend(titles(title)?);
    }
    for (paths, name, place) in [
        (&args.ek, "ek", &mut keys.ek),
        (&args.ak, "ak", &mut keys.ak),
        (&args.dk, "dk", &mut keys.dk),
    ] {
        for path in paths {
            place.push(key(path, name)?);
        }
    }
    for path in &args.lab_keys {
        let lab = lab_keys(path)?;
        keys.ek.push(Zeroizing::new(lab.ek().to_vec()));
        keys.ek.push(Zeroizing::new(lab.gbek().to_vec()));
        keys.ak.push(Zeroizing::new(lab.ak().to_vec()));
        keys.labs.push(Lab {
            server: lab.server_system_title(),
            keys: lab.keys(),
        });
        keys.titles.push(lab.client_system_title());
        keys.titles.push(lab.server_system_title());
    }
    Ok(keys)
}

/// A title in hex, or those of a key file.
fn titles(text: &str) -> Result<Vec<[u8; 8]>, Failure> {
    let path = Path::new(text);
    let texts = if path.is_file() {
        let file = file::secret(path)?;
        ["client_system_title", "server_system_title", "system_title"]
            .iter()
            .filter_map(|name| field(&file, name))
            .map(|title| title.to_string())
            .collect()
    } else {
        vec![text.to_owned()]
    };
    let titles: Option<Vec<_>> = texts
        .iter()
        .map(|text| hex::decode(text).ok()?.try_into().ok())
        .collect();
    titles.filter(|titles| !titles.is_empty()).ok_or_else(|| {
        Failure::usage(format!(
            "--system-title {text:?} is not 8 octets in hexadecimal, and no key file with titles"
        ))
    })
}

/// A key from a file: its hex alone, or that of its name in a key file. What the file holds is repeated nowhere.
fn key(path: &Path, name: &str) -> Result<Key, Failure> {
    let text = file::secret(path)?;
    let digits = field(&text, name)
        .unwrap_or_else(|| Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect()));
    let octets = hex::decode(digits.as_str()).unwrap_or_default();
    match octets.len() {
        16 | 32 => Ok(Zeroizing::new(octets)),
        _ => Err(Failure::usage(format!(
            "{} does not hold a key: 32 or 64 hexadecimal digits and nothing else, or `{name}` in a key file",
            path.display()
        ))),
    }
}

/// `NAME = "VALUE"` of a key file. Looked for by hand: an error of a TOML reader would quote the line.
fn field(text: &str, name: &str) -> Option<Zeroizing<String>> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        let value = value.split('#').next().unwrap_or_default();
        (found.trim() == name)
            .then(|| Zeroizing::new(value.trim().trim_matches(['"', '\'']).to_owned()))
    })
}
