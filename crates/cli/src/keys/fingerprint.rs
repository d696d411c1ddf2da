//! Which keys a meter has and had, and whose key one is.

use latchkey_proto::custody::v1 as pb;
use serde_json::json;

use super::octets;
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, time};

pub(super) async fn run(
    meter: Option<String>,
    fingerprint: Option<String>,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::ListKeyFingerprintsRequest {
        meter_id: meter.unwrap_or_default(),
        fingerprint: match &fingerprint {
            Some(text) => octets("--of", text, 16)?,
            None => Vec::new(),
        },
    };
    let found = session
        .keys()?
        .list_key_fingerprints(request)
        .await
        .map_err(|status| Failure::status("look for fingerprints", &status))?
        .into_inner()
        .fingerprints;
    let rows: Vec<_> = found
        .iter()
        .map(|found| {
            let json = json!({
                "fingerprint": hex::encode(&found.fingerprint),
                "meter_id": found.meter_id,
                "kind": found.kind,
                "generation": found.generation,
                "create_time": time(found.create_time.as_ref()),
            });
            let row = vec![
                hex::encode(&found.fingerprint),
                found.meter_id.clone(),
                found.kind.clone(),
                found.generation.to_string(),
                time(found.create_time.as_ref()),
            ];
            (json, row)
        })
        .collect();
    let header = ["FINGERPRINT", "METER", "KIND", "GENERATION", "STORED"];
    output.table(&header, &rows);
    Ok(Exit::OK)
}
