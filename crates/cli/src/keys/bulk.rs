//! `latchkey keys import-file`: the keys of many meters, batch by batch over one stream.
//!
//! The file is read as fast as custody stores: a batch is read when there is room for it on the way. Rows that are
//! refused go into a report; nothing else stops for them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clap::ValueEnum;
use futures::stream;
use latchkey_proto::custody::v1 as pb;
use prost::Message as _;
use serde_json::{Value, json};

use super::delivery::{Delivery, Row};
use crate::args::KeysImportFile;
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::Output;

/// Rows of one batch; custody takes no more.
const ROWS: usize = 512;
/// Octets of one batch; custody takes 1 MiB.
const OCTETS: usize = 768 * 1024;

pub(super) async fn run(
    args: &KeysImportFile,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let began = Instant::now();
    let (delivery, length) = Delivery::open(&args.file, defaults(args))?;
    let report = args.report.clone().unwrap_or_else(|| beside(&args.file));
    let shared = Arc::new(Mutex::new(Shared::new(report)));
    let batches = stream::iter(Batches {
        delivery,
        shared: Arc::clone(&shared),
        kept: None,
        ended: false,
    });
    let mut answers = session
        .keys()?
        .import_meter_keys_batch(batches)
        .await
        .map_err(|status| Failure::status("import the file", &status))?
        .into_inner();
    let bar = output.progress(length);
    let broken = loop {
        match answers.message().await {
            Ok(Some(answer)) => bar.set_position(lock(&shared).answered(&answer)?),
            Ok(None) => break None,
            Err(status) => break Some(Failure::status("import the file", &status)),
        }
    };
    bar.finish_and_clear();
    let mut shared = lock(&shared);
    let summary = shared.finish()?;
    output.result(&summary.json(began), || summary.text(began));
    // What the file has wrong stops its reading, and with it the stream.
    if let Some(failure) = shared.failure.take().or(broken) {
        return Err(failure
            .mend("run the same command again: what is stored stays, and is not stored twice"));
    }
    if !shared.sent.is_empty() {
        let what = "custody stopped before the end of the file";
        return Err(Failure::new(Exit::TRY_LATER, Party::Service, what)
            .mend("run the same command again: what is stored stays, and is not stored twice"));
    }
    Ok(if summary.rejected == 0 {
        Exit::OK
    } else {
        Exit::BAD_DATA
    })
}

/// What the command line says of all rows that do not say it themselves.
fn defaults(args: &KeysImportFile) -> Row {
    let suite = args.suite.map(|suite| suite.to_string());
    let all = [
        ("transport", args.transport.clone()),
        ("client_system_title", args.client_title.clone()),
        ("security_suite", suite),
        ("mechanisms", Some(spelt(&args.uses.mechanism))),
        ("policies", Some(spelt(&args.uses.policy))),
    ];
    let given = all
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    given
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// As the command line spells them.
fn spelt<T: ValueEnum>(values: &[T]) -> String {
    let names = values.iter().filter_map(ValueEnum::to_possible_value);
    let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
    names.join(" ")
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".rejected");
    PathBuf::from(name)
}

/// What the reading end and the answering end know together.
struct Shared {
    report: Report,
    /// Batches without answer: the line of each row, and where in the file the batch ends.
    sent: VecDeque<(Vec<u64>, u64)>,
    summary: Summary,
    /// What ended the reading.
    failure: Option<Failure>,
}

#[derive(Clone, Default)]
struct Summary {
    stored: u64,
    unchanged: u64,
    rejected: u64,
    batches: u64,
    report: Option<PathBuf>,
}

impl Shared {
    fn new(report: PathBuf) -> Self {
        Self {
            report: Report {
                path: report,
                file: None,
            },
            sent: VecDeque::new(),
            summary: Summary::default(),
            failure: None,
        }
    }

    fn reject(
        &mut self,
        line: u64,
        meter_id: &str,
        reason: &str,
        detail: &str,
    ) -> Result<(), Failure> {
        self.summary.rejected += 1;
        self.report.add(&json!({
            "line": line,
            "meter_id": meter_id,
            "reason": reason,
            "detail": detail,
        }))
    }

    /// Takes the answer to the oldest batch; says how far in the file that is.
    fn answered(&mut self, answer: &pb::ImportMeterKeysBatchResponse) -> Result<u64, Failure> {
        let (lines, octets) = self.sent.pop_front().ok_or_else(|| {
            let what = "custody answered to a batch that was never sent";
            Failure::new(Exit::INTERNAL, Party::Service, what)
        })?;
        self.summary.batches += 1;
        self.summary.stored += u64::from(answer.stored_count);
        self.summary.unchanged += u64::from(answer.unchanged_count);
        for row in &answer.rejected {
            let index = usize::try_from(row.index).unwrap_or(usize::MAX);
            let line = lines.get(index).copied().unwrap_or_default();
            self.reject(line, &row.meter_id, &row.reason, &row.detail)?;
        }
        Ok(octets)
    }

    fn finish(&mut self) -> Result<Summary, Failure> {
        self.report.flush()?;
        self.summary.report = self.report.file.is_some().then(|| self.report.path.clone());
        Ok(self.summary.clone())
    }
}

impl Summary {
    fn json(&self, began: Instant) -> Value {
        json!({
            "stored": self.stored,
            "unchanged": self.unchanged,
            "rejected": self.rejected,
            "batches": self.batches,
            "report": self.report,
            "seconds": began.elapsed().as_secs_f64(),
        })
    }

    fn text(&self, began: Instant) -> String {
        let mut text = format!(
            "{} stored, {} held already, {} rejected, in {:.1} s",
            self.stored,
            self.unchanged,
            self.rejected,
            began.elapsed().as_secs_f64()
        );
        if let Some(report) = &self.report {
            text += &format!("; rejected rows: {}", report.display());
        }
        text
    }
}

/// Rejected rows, one JSON object a line. No file where none is rejected.
struct Report {
    path: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Report {
    fn add(&mut self, row: &Value) -> Result<(), Failure> {
        let failed = |error| Failure::file("write", &self.path, &error);
        if self.file.is_none() {
            let file = File::create(&self.path).map_err(failed)?;
            self.file = Some(BufWriter::new(file));
        }
        match &mut self.file {
            Some(file) => writeln!(file, "{row}").map_err(failed),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match &mut self.file {
            Some(file) => file
                .flush()
                .map_err(|error| Failure::file("write", &self.path, &error)),
            None => Ok(()),
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The batches of a file, read when they are wanted.
struct Batches {
    delivery: Delivery<BufReader<File>>,
    shared: Arc<Mutex<Shared>>,
    /// A row that found its batch full.
    kept: Option<(u64, u64, pb::ImportMeterKeysRequest)>,
    ended: bool,
}

impl Batches {
    /// The next row that can be sent; those that cannot are reported.
    fn next_good(&mut self) -> Result<Option<(u64, u64, pb::ImportMeterKeysRequest)>, Failure> {
        if let Some(kept) = self.kept.take() {
            return Ok(Some(kept));
        }
        while let Some(item) = self.delivery.next_row()? {
            match item.parsed {
                Ok(request) => return Ok(Some((item.line, item.octets, request))),
                Err(why) => {
                    let mut shared = lock(&self.shared);
                    shared.reject(item.line, &item.meter_id, "ROW_INVALID", &why)?;
                }
            }
        }
        Ok(None)
    }

    fn next_batch(&mut self) -> Result<Option<pb::ImportMeterKeysBatchRequest>, Failure> {
        let (mut meters, mut lines) = (Vec::new(), Vec::new());
        let (mut octets, mut end) = (0, 0);
        while meters.len() < ROWS {
            let Some((line, at, request)) = self.next_good()? else {
                break;
            };
            let size = request.encoded_len() + 8;
            if octets + size > OCTETS && !meters.is_empty() {
                self.kept = Some((line, at, request));
                break;
            }
            octets += size;
            end = at;
            lines.push(line);
            meters.push(request);
        }
        if meters.is_empty() {
            return Ok(None);
        }
        lock(&self.shared).sent.push_back((lines, end));
        Ok(Some(pb::ImportMeterKeysBatchRequest { meters }))
    }
}

impl Iterator for Batches {
    type Item = pb::ImportMeterKeysBatchRequest;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.next_batch().unwrap_or_else(|failure| {
            lock(&self.shared).failure = Some(failure);
            None
        });
        self.ended = batch.is_none();
        batch
    }
}
