//! The interop matrix: our client with foreign meters, foreign clients with our simulated meter, over real sockets.
//!
//! Every cell is either a session that has just been held, or says what the peer cannot do and why. The table is written
//! to `target/interop.md`, and `docs/interop.md` must be it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod clients;
mod keys;
mod meters;

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// What a peer is tried with, a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feature {
    NoSecurity,
    Lls,
    Hls5,
    Hls6,
    Hls7,
    Glo,
    GeneralGlo,
    Tcp,
    Udp,
    Hdlc,
    Blocks,
    ByEntry,
}

const FEATURES: [(Feature, &str); 12] = [
    (Feature::NoSecurity, "no security"),
    (Feature::Lls, "low-level security"),
    (Feature::Hls5, "HLS5 (GMAC), suite 0"),
    (Feature::Hls6, "HLS6 (SHA-256)"),
    (Feature::Hls7, "HLS7 (ECDSA P-256)"),
    (Feature::Glo, "service-specific global ciphering"),
    (Feature::GeneralGlo, "general-glo-ciphering"),
    (Feature::Tcp, "wrapper over TCP"),
    (Feature::Udp, "wrapper over UDP"),
    (Feature::Hdlc, "HDLC over TCP, segmented"),
    (Feature::Blocks, "GET in blocks"),
    (Feature::ByEntry, "profile read by entry"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auth {
    None,
    Low,
    Hls5,
    Hls6,
    Hls7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Glo,
    GeneralGlo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
    Hdlc,
}

/// One association, in which everything is tried that it allows.
#[derive(Debug, Clone, Copy)]
struct Session {
    auth: Auth,
    form: Form,
    transport: Transport,
}

/// The sessions of a peer, each with the rows that it fills.
const SESSIONS: [(Auth, Form, Transport, &[Feature]); 8] = {
    use Feature as F;
    [
        (
            Auth::None,
            Form::Plain,
            Transport::Tcp,
            &[F::NoSecurity, F::Tcp, F::Blocks, F::ByEntry],
        ),
        (Auth::Low, Form::Plain, Transport::Tcp, &[F::Lls]),
        (Auth::Hls5, Form::Glo, Transport::Tcp, &[F::Hls5, F::Glo]),
        (
            Auth::Hls5,
            Form::GeneralGlo,
            Transport::Tcp,
            &[F::GeneralGlo],
        ),
        (Auth::Hls6, Form::Plain, Transport::Tcp, &[F::Hls6]),
        (Auth::Hls7, Form::Plain, Transport::Tcp, &[F::Hls7]),
        (Auth::Hls5, Form::Glo, Transport::Udp, &[F::Udp]),
        (Auth::Hls5, Form::Glo, Transport::Hdlc, &[F::Hdlc]),
    ]
};

/// A column of the table.
struct Peer {
    name: &'static str,
    /// What it cannot do, and why.
    cannot: &'static [(Feature, &'static str)],
    /// What it can only in part, and why.
    partly: &'static [(Feature, &'static str)],
    /// The only ciphered form it speaks, if it is only one.
    only: Option<Form>,
    /// Holds a session, and reads, reads in blocks, reads by entry and executes a script in it.
    hold: fn(Session) -> Result<()>,
}

/// Whether a session was held, and the footnote of its cell.
type Cell = (Feature, bool, Option<&'static str>);

impl Peer {
    /// The rows of its column.
    fn try_everything(&self) -> Result<Vec<Cell>> {
        let note = |notes: &[(Feature, &'static str)], feature| {
            notes
                .iter()
                .find(|(of, _)| *of == feature)
                .map(|(_, why)| *why)
        };
        let mut rows: Vec<Cell> = self
            .cannot
            .iter()
            .map(|(of, why)| (*of, false, Some(*why)))
            .collect();
        for (auth, form, transport, features) in SESSIONS {
            let shown = features
                .iter()
                .filter(|feature| note(self.cannot, **feature).is_none());
            let shown: Vec<Cell> = shown
                .map(|of| (*of, true, note(self.partly, *of)))
                .collect();
            if shown.is_empty() {
                continue;
            }
            let form = match (form, self.only) {
                (Form::Plain, _) | (_, None) => form,
                (_, Some(only)) => only,
            };
            let session = Session {
                auth,
                form,
                transport,
            };
            (self.hold)(session).with_context(|| format!("{}: {session:?}", self.name))?;
            rows.extend(shown);
        }
        Ok(rows)
    }
}

/// Why the cell is what it is: a footnote for each reason.
fn table(columns: &[(&Peer, Vec<Cell>)]) -> Result<String> {
    let mut notes: Vec<&str> = Vec::new();
    let mut text = String::from(HEAD);
    let names: Vec<_> = columns.iter().map(|(peer, _)| peer.name).collect();
    writeln!(text, "| | {} |", names.join(" | "))?;
    writeln!(text, "|---|{}", "---|".repeat(columns.len()))?;
    for (feature, name) in FEATURES {
        write!(text, "| {name} |")?;
        for (_, rows) in columns {
            let cell = rows.iter().find(|(of, ..)| *of == feature);
            let (_, held, why) = cell.context("every row is tried or explained")?;
            let note = why.map(|why| {
                let known = notes.iter().position(|note| *note == why);
                known.unwrap_or_else(|| {
                    notes.push(why);
                    notes.len() - 1
                }) + 1
            });
            write!(text, " {}", if *held { "yes" } else { "no" })?;
            if let Some(number) = note {
                write!(text, " ({number})")?;
            }
            write!(text, " |")?;
        }
        text.push('\n');
    }
    text.push_str("\nWhat a peer cannot do, or only in part, and why:\n\n");
    for (at, note) in notes.iter().enumerate() {
        writeln!(text, "{}. {note}", at + 1)?;
    }
    Ok(text)
}

const HEAD: &str = "# Interoperability

Written by `integration-tests/tests/interop`, which holds every session of this table over real sockets. \"Yes\" means: an
association was opened, a value read, a value longer than one APDU read in blocks, a profile read by entry (where the peer
can), and a script executed once; our client then releases the association, a foreign one has just reset our meter.

";

#[test]
fn the_matrix_is_what_was_tried() -> Result<()> {
    let peers = [
        meters::COSEM_RS,
        meters::GURUX,
        clients::GURUX,
        clients::DLMS_COSEM,
    ];
    let columns: Vec<_> = peers
        .iter()
        .map(|peer| Ok((peer, peer.try_everything()?)))
        .collect::<Result<_>>()?;
    let written = table(&columns)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    fs::write(root.join("target/interop.md"), &written)?;
    let committed = fs::read_to_string(root.join("docs/interop.md")).unwrap_or_default();
    assert!(
        committed == written,
        "docs/interop.md is not what was tried: copy target/interop.md over it, and read the difference"
    );
    Ok(())
}
