//! Where words go: results to stdout, progress and errors to stderr.

use std::io::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The program's mouth.
pub(crate) struct Output {
    format: Format,
    spinner: ProgressBar,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        // Draws on stderr, and only if that is a terminal.
        let spinner = ProgressBar::hidden();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            spinner.set_style(style);
        }
        Self { format, spinner }
    }

    /// A result: JSON for programs, text for people.
    pub(crate) fn result(&self, json: &Value, text: impl FnOnce() -> String) {
        let line = match self.format {
            Format::Json => json.to_string(),
            Format::Text => text(),
        };
        self.line(&line);
    }

    /// Rows of a list: one JSON object per line, or aligned columns.
    pub(crate) fn table(&self, header: &[&str], rows: &[(Value, Vec<String>)]) {
        match self.format {
            Format::Json => rows
                .iter()
                .for_each(|(json, _)| self.line(&json.to_string())),
            Format::Text => {
                let cells: Vec<&[String]> = rows.iter().map(|(_, row)| row.as_slice()).collect();
                self.line(&columns(header, &cells));
            }
        }
    }

    /// Progress for people, on stderr; nothing a program needs.
    pub(crate) fn note(&self, text: &str) {
        // Nothing can be said if stderr is gone.
        self.spinner.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        self.done();
        match self.format {
            Format::Json => self.note(&failure.json().to_string()),
            Format::Text => self.note(&failure.to_string()),
        }
    }

    /// Shows on a terminal what is being waited for.
    pub(crate) fn waiting(&self, what: impl Into<String>) {
        self.spinner
            .set_draw_target(indicatif::ProgressDrawTarget::stderr());
        self.spinner.set_message(what.into());
        self.spinner.enable_steady_tick(Duration::from_millis(120));
    }

    /// A bar for long work of a known length, on stderr, and only if that is a terminal. Its owner moves and ends it.
    pub(crate) fn progress(&self, length: u64) -> ProgressBar {
        let bar = ProgressBar::new(length);
        let template = "{wide_bar} {percent}% {elapsed} ({eta} left)";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }

    pub(crate) fn done(&self) {
        self.spinner.finish_and_clear();
    }

    fn line(&self, text: &str) {
        // A reader that went away (`| head`) is no error of ours.
        self.spinner.suspend(|| {
            let mut stdout = std::io::stdout().lock();
            let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        });
    }
}

/// Left-aligned columns, two spaces apart.
fn columns(header: &[&str], rows: &[&[String]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let cells = cells.map(|cell| cell.chars().count());
        cells
            .chain(header.get(column).map(|cell| cell.len()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = render(&mut header.iter().copied());
    let body = rows
        .iter()
        .map(|row| render(&mut row.iter().map(String::as_str)));
    std::iter::once(head)
        .chain(body)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A protobuf timestamp as RFC 3339, in UTC; empty if it is not set.
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    timestamp
        .and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok())
        .map_or_else(String::new, |at| format!("{at:.3}"))
}

/// A protobuf timestamp as the time of day, in UTC.
pub(crate) fn time_of_day(timestamp: Option<&prost_types::Timestamp>) -> String {
    timestamp
        .and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok())
        .map_or_else(String::new, |at| at.strftime("%H:%M:%S%.3f").to_string())
}

/// A protobuf enum's name without its type: `VERDICT_NO_OP` is `NO_OP`.
pub(crate) fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "long".to_owned()],
            vec!["bcd".to_owned(), String::new()],
        ];
        let rows: Vec<&[String]> = rows.iter().map(Vec::as_slice).collect();
        assert_eq!(columns(&["ID", "X"], &rows), "ID   X\na    long\nbcd");
    }

    #[test]
    fn times_are_utc_and_absence_is_empty() {
        let at = prost_types::Timestamp {
            seconds: 1,
            nanos: 500_000_000,
        };
        assert_eq!(time(Some(&at)), "1970-01-01T00:00:01.500Z");
        assert_eq!(time_of_day(Some(&at)), "00:00:01.500");
        assert_eq!(time(None), "");
    }
}
