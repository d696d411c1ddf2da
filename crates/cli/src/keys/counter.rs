//! Where a meter's invocation counters go on.

use latchkey_proto::custody::v1 as pb;
use serde_json::json;

use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Raises the counters; they are never lowered.
pub(super) async fn raise(
    meter: String,
    (at_least, reason): (u32, String),
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::RaiseInvocationCounterRequest {
        meter_id: meter,
        at_least,
        reason,
    };
    let raised = session
        .keys()?
        .raise_invocation_counter(request)
        .await
        .map_err(|status| Failure::status("raise the invocation counter", &status))?
        .into_inner();
    let before = raised.previous_invocation_counter;
    let keys = raised.keys.unwrap_or_default();
    let next = keys.next_invocation_counter;
    let left = keys.invocation_counters_left;
    let json = json!({
        "meter_id": keys.meter_id,
        "previous_invocation_counter": before,
        "next_invocation_counter": next,
        "invocation_counters_left": left,
    });
    output.result(&json, || {
        if u64::from(before) == next {
            format!(
                "{}: the next counter is {next}, as before; {left} are left",
                keys.meter_id
            )
        } else {
            format!(
                "{}: the next counter is {next}, it was {before}; {left} are left",
                keys.meter_id
            )
        }
    });
    Ok(Exit::OK)
}
