//! What custody holds: descriptions, never a key byte.

use latchkey_proto::custody::v1 as pb;
use serde_json::{Value, json};

use crate::access::name_of;
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::{Output, time};

/// One meter's.
pub(super) async fn show(
    meter_id: String,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("read what custody holds for {meter_id}");
    let response = session
        .keys()?
        .get_meter_keys(pb::GetMeterKeysRequest { meter_id })
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    one(response.into_inner().keys, output)
}

/// Every meter's.
pub(super) async fn list(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let request = pb::ListMeterKeysRequest {
        page_size: 500,
        ..pb::ListMeterKeysRequest::default()
    };
    let all = all_pages!(
        session.keys()?,
        list_meter_keys,
        request,
        keys,
        "list what custody holds"
    );
    table(&all, output);
    Ok(Exit::OK)
}

/// The description that an answer must come with.
pub(super) fn one(keys: Option<pb::MeterKeys>, output: &Output) -> Result<Exit, Failure> {
    let keys = keys.ok_or_else(|| {
        Failure::new(
            Exit::INTERNAL,
            Party::Service,
            "custody answered without a description",
        )
    })?;
    table(&[keys], output);
    Ok(Exit::OK)
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
        held(keys),
        keys.next_invocation_counter.to_string(),
        keys.source.clone(),
        time(keys.create_time.as_ref()),
    ]
}

/// What is held besides the two global keys.
fn held(keys: &pb::MeterKeys) -> String {
    let all = [
        (keys.has_password, "password"),
        (keys.has_hls_secret, "HLS secret"),
        (keys.has_key_encryption_key, "KEK"),
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
        "has_password": keys.has_password,
        "has_hls_secret": keys.has_hls_secret,
        "has_key_encryption_key": keys.has_key_encryption_key,
        "server_signing_key": hex::encode(&keys.server_signing_key),
        "server_agreement_key": hex::encode(&keys.server_agreement_key),
        "next_invocation_counter": keys.next_invocation_counter,
        "source": keys.source,
        "create_time": time(keys.create_time.as_ref()),
    })
}
