//! Generations of key-encryption keys: which there are, and every meter's keys under another.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use latchkey_proto::custody::v1 as pb;
use serde_json::{Value, json};

use crate::client::Session;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::Output;

/// Every meter's keys under generation `to`, 0 for the one that new keys are kept under. Whoever breaks it off, or is
/// broken off, asks again: it goes on where it was.
pub(super) async fn rewrap(to: u32, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let what = "bring the keys under another generation";
    let failed = |status: tonic::Status| {
        Failure::status(what, &status)
            .mend("run it again: what is done is done, it goes on with the rest")
    };
    let request = pb::RewrapKeysRequest { to_generation: to };
    // What is refused at the beginning says itself what is to be done.
    let begun = session.keys()?.rewrap_keys(request).await;
    let begun = begun.map_err(|status| Failure::status(what, &status))?;
    let mut reports = begun.into_inner();
    let bar = bar();
    let mut last = pb::RewrapKeysResponse::default();
    while let Some(report) = reports.message().await.map_err(failed)? {
        bar.set_length(report.meters_total);
        bar.set_position(report.meters_done.saturating_add(report.meters_failed));
        last = report;
    }
    bar.finish_and_clear();
    if !last.finished {
        let text = "custody ended before the re-wrap did";
        let failure = Failure::new(Exit::INTERNAL, Party::Service, text);
        return Err(failure.mend("run it again: what is done is done, it goes on with the rest"));
    }
    output.result(&report_json(&last), || report_text(&last));
    Ok(if last.meters_failed == 0 {
        Exit::OK
    } else {
        Exit::PARTIAL
    })
}

/// Which generations there are, and how much is under each. As JSON it is what a ceremony asks for before it destroys one.
pub(super) async fn generations(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let response = session
        .keys()?
        .list_kek_generations(pb::ListKekGenerationsRequest {})
        .await
        .map_err(|status| Failure::status("list the generations", &status))?
        .into_inner();
    output.result(&generations_json(&response), || generations_text(&response));
    Ok(Exit::OK)
}

fn bar() -> ProgressBar {
    // Draws on stderr, and only if that is a terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{bar:40} {human_pos}/{human_len} meters, {per_sec}, {eta} to go";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn report_json(report: &pb::RewrapKeysResponse) -> Value {
    json!({
        "to_generation": report.to_generation,
        "meters_total": report.meters_total,
        "meters_done": report.meters_done,
        "meters_again": report.meters_again,
        "meters_failed": report.meters_failed,
        "failed_meter_ids": report.failed_meter_ids,
    })
}

fn report_text(report: &pb::RewrapKeysResponse) -> String {
    let mut text = format!(
        "keys of {} meters are under generation {} now",
        report.meters_done, report.to_generation
    );
    if report.meters_failed > 0 {
        text += &format!(
            "\n{} meters stay as they were: their keys do not open under the generation their row names\n{}",
            report.meters_failed,
            report.failed_meter_ids.join("\n")
        );
    }
    text
}

fn generations_json(response: &pb::ListKekGenerationsResponse) -> Value {
    let generations = response.generations.iter().map(|kek| {
        json!({
            "generation": kek.generation,
            "usable": kek.usable,
            "has_hls_secrets": kek.has_hls_secrets,
            "has_master_keys": kek.has_master_keys,
            "rows": kek.row_count,
        })
    });
    json!({
        "current": response.current_generation,
        "generations": generations.collect::<Vec<_>>(),
    })
}

fn generations_text(response: &pb::ListKekGenerationsResponse) -> String {
    let line = |kek: &pb::KekGeneration| {
        let here = match (kek.usable, kek.generation == response.current_generation) {
            (true, true) => "on the token, new keys come under it",
            (true, false) => "on the token",
            (false, _) => "not on the token",
        };
        format!(
            "generation {}: {} rows, {here}",
            kek.generation, kek.row_count
        )
    };
    let lines: Vec<_> = response.generations.iter().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_is_what_a_ceremony_reads() {
        let response = pb::ListKekGenerationsResponse {
            generations: vec![pb::KekGeneration {
                generation: 1,
                usable: true,
                row_count: 7,
                ..pb::KekGeneration::default()
            }],
            current_generation: 2,
        };
        let text = generations_json(&response).to_string();
        let read: hsm::ceremony::Report = serde_json::from_str(&text).unwrap();
        assert_eq!((read.current, read.generations[0].rows), (2, 7));
        assert!(generations_text(&response).contains("7 rows, on the token"));
    }
}
