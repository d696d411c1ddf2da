//! What custody holds: descriptions, never a key byte.

use aws_lc_rs::digest;
use latchkey_proto::custody::v1 as pb;
use serde_json::{Value, json};

use crate::access::name_of;
use crate::args::KeysList;
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::{Output, short, time};

/// One meter's.
pub(super) async fn show(
    meter_id: String,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let keys = held(&meter_id, session).await?;
    table(&[keys], output);
    Ok(Exit::OK)
}

/// What custody holds for a meter now.
pub(super) async fn held(meter_id: &str, session: &Session) -> Result<pb::MeterKeys, Failure> {
    let what = format!("read what custody holds for {meter_id}");
    let request = pb::GetMeterKeysRequest {
        meter_id: meter_id.to_owned(),
    };
    let response = session
        .keys()?
        .get_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    response.into_inner().keys.ok_or_else(undescribed)
}

/// Those that are asked for.
pub(super) async fn list(
    args: &KeysList,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::ListMeterKeysRequest {
        page_size: 500,
        page_token: String::new(),
        source: args.source.clone().unwrap_or_default(),
        state: args
            .state
            .map_or(pb::KeyState::Unspecified, Into::into)
            .into(),
        kek_generation: args.kek_generation.unwrap_or_default(),
        create_time_before: args.before.map(|before| prost_types::Timestamp {
            seconds: before.as_second(),
            nanos: before.subsec_nanosecond(),
        }),
        next_invocation_counter_min: args.counter_min.unwrap_or_default(),
    };
    let mut all = all_pages!(
        session.keys()?,
        list_meter_keys,
        request,
        keys,
        "list what custody holds"
    );
    if let Some(batch) = &args.batch {
        all.retain(|keys| keys.import_id == *batch);
    }
    if args.digest {
        let digest = digest_of(&all);
        let json = json!({ "meters": all.len(), "digest": digest });
        output.result(&json, || {
            format!("{} meters, SHA-256 of their lines {digest}", all.len())
        });
    } else {
        table(&all, output);
    }
    Ok(Exit::OK)
}

/// What the trail says of a batch: SHA-256 of a line for each meter, by id.
fn digest_of(all: &[pb::MeterKeys]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for keys in all {
        let line = format!("{} {}\n", keys.meter_id, hex::encode(&keys.check_value));
        hash.update(line.as_bytes());
    }
    hex::encode(hash.finish())
}

/// The description that an answer must come with.
pub(super) fn one(keys: Option<pb::MeterKeys>, output: &Output) -> Result<Exit, Failure> {
    table(&[keys.ok_or_else(undescribed)?], output);
    Ok(Exit::OK)
}

fn undescribed() -> Failure {
    let what = "custody answered without a description";
    Failure::new(Exit::INTERNAL, Party::Service, what)
}

fn table(all: &[pb::MeterKeys], output: &Output) {
    let rows: Vec<_> = all.iter().map(|keys| (json_of(keys), row(keys))).collect();
    let header = [
        "METER",
        "CLIENT TITLE",
        "METER TITLE",
        "SUITE",
        "CHECK VALUE",
        "ALSO",
        "NEXT COUNTER",
        "SOURCE",
        "STORED",
        "STATE",
    ];
    output.table(&header, &rows);
}

fn row(keys: &pb::MeterKeys) -> Vec<String> {
    vec![
        keys.meter_id.clone(),
        hex::encode(&keys.client_system_title),
        hex::encode(&keys.server_system_title),
        keys.security_suite.to_string(),
        hex::encode(&keys.check_value),
        also(keys),
        keys.next_invocation_counter.to_string(),
        keys.source.clone(),
        time(keys.create_time.as_ref()),
        state(keys),
    ]
}

fn state(keys: &pb::MeterKeys) -> String {
    let state = keys.state();
    short(state.as_str_name(), "KEY_STATE_").to_owned()
}

/// What is held besides the two global keys.
fn also(keys: &pb::MeterKeys) -> String {
    let all = [
        (keys.has_password, "password"),
        (keys.has_hls_secret, "HLS secret"),
        (keys.has_key_encryption_key, "KEK"),
        (keys.has_broadcast_key, "GBEK"),
        (!keys.server_signing_key.is_empty(), "signing key"),
        (!keys.server_agreement_key.is_empty(), "agreement key"),
    ];
    let held: Vec<_> = all
        .into_iter()
        .filter_map(|(held, name)| held.then_some(name))
        .collect();
    match held.as_slice() {
        [] => "-".to_owned(),
        held => held.join(", "),
    }
}

fn json_of(keys: &pb::MeterKeys) -> Value {
    json!({
        "meter_id": keys.meter_id,
        "client_system_title": hex::encode(&keys.client_system_title),
        "server_system_title": hex::encode(&keys.server_system_title),
        "check_value": hex::encode(&keys.check_value),
        "security_suite": keys.security_suite,
        "mechanisms": keys.mechanisms().map(name_of).collect::<Vec<_>>(),
        "policies": keys
            .policies()
            .map(|policy| short(policy.as_str_name(), "SECURITY_POLICY_"))
            .collect::<Vec<_>>(),
        "has_password": keys.has_password,
        "has_hls_secret": keys.has_hls_secret,
        "has_key_encryption_key": keys.has_key_encryption_key,
        "server_signing_key": hex::encode(&keys.server_signing_key),
        "server_agreement_key": hex::encode(&keys.server_agreement_key),
        "next_invocation_counter": keys.next_invocation_counter,
        "source": keys.source,
        "create_time": time(keys.create_time.as_ref()),
        "row_version": keys.row_version,
        "state": state(keys),
        "state_reason": keys.state_reason,
        "has_broadcast_key": keys.has_broadcast_key,
        "broadcast_check_value": hex::encode(&keys.broadcast_check_value),
        "change_time": time(keys.change_time.as_ref()),
        "import_id": keys.import_id,
    })
}
