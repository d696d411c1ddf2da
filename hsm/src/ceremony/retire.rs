//! Destroying key-encryption keys that nothing needs any more.

use std::path::Path;

use serde::Deserialize;

use super::{Plan, Room, plan};
use crate::error::Error;
use crate::key::Kind;

/// What custody says of its generations of key-encryption keys: the output of
/// `latchkey keys generations --output json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// The generation that new keys are kept under.
    pub current: u32,
    /// Every generation that the token or a row knows.
    pub generations: Vec<Rows>,
}

/// What one generation is needed for.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Rows {
    /// Its number.
    pub generation: u32,
    /// Rows whose secrets are kept under it.
    pub rows: u64,
}

/// The report that the plan names.
pub(super) fn report(plan: &Plan) -> Result<Option<Report>, Error> {
    plan.generations_report.as_deref().map(read).transpose()
}

fn read(path: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|error| Error::Needed {
        why: format!(
            "{} is no report of generations ({error}); write it with: latchkey --output json keys generations",
            path.display()
        ),
    })
}

/// Destroys what the plan says and the token has; the labels of what was. All is checked before anything is done.
pub(super) fn destroy(room: &Room<'_>, report: Option<&Report>) -> Result<Vec<String>, Error> {
    let there = |label: &&String| room.keys.contains_key(*label);
    let labels: Vec<String> = room.plan.destroy.iter().filter(there).cloned().collect();
    for label in &labels {
        unneeded(label, report)?;
    }
    for kind in [Kind::KekEk, Kind::KekAk] {
        let mut left = room
            .keys
            .iter()
            .filter(|(label, _)| !labels.contains(label));
        if !labels.is_empty() && !left.any(|(_, found)| found.kind == kind) {
            let why = format!(
                "token `{}` would have no {} left",
                room.plan.label,
                kind.name()
            );
            return Err(Error::Needed { why });
        }
    }
    for label in &labels {
        if let Some(found) = room.keys.get(label) {
            room.session.destroy_object(found.object)?;
        }
    }
    Ok(labels)
}

fn unneeded(label: &str, report: Option<&Report>) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Needed { why });
    let Some(report) = report else {
        return refuse("the plan names no generations_report".to_owned());
    };
    let number = plan::number(label);
    let Some(rows) = report
        .generations
        .iter()
        .find(|rows| Some(rows.generation) == number)
    else {
        return refuse(format!(
            "the report says nothing of the generation of `{label}`; let custody write it with that key on its token"
        ));
    };
    if rows.rows > 0 {
        return refuse(format!(
            "{} rows of custody's database need `{label}`; wrap them anew first: latchkey keys rewrap",
            rows.rows
        ));
    }
    if Some(report.current) == number {
        return refuse(format!(
            "new keys are kept under `{label}`; set kek_generation in custody's configuration to a later one"
        ));
    }
    Ok(())
}
