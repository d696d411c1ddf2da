//! `latchkey keys`: keys into custody; descriptions, never keys, out of it.

use latchkey_proto::custody::v1 as pb;
use serde_json::{Value, json};

use crate::args::{self, Titles};
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::{Output, time};

pub(crate) async fn run(
    verb: args::Keys,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Keys::Generate { meter, titles } => generate(meter, &titles, session, output).await,
        args::Keys::List => list(session, output).await,
        args::Keys::Show { meter } => show(meter, session, output).await,
        args::Keys::Import {
            meter,
            titles,
            wrapped_ek,
            wrapped_ak,
        } => {
            let request = pb::ImportMeterKeysRequest {
                meter_id: meter,
                client_system_title: octets("--client-title", &titles.client_title, 8)?,
                server_system_title: octets("--server-title", &titles.server_title, 8)?,
                wrapped_encryption_key: octets("--wrapped-ek", &wrapped_ek, 24)?,
                wrapped_authentication_key: octets("--wrapped-ak", &wrapped_ak, 24)?,
                ..pb::ImportMeterKeysRequest::default()
            };
            import(request, session, output).await
        }
    }
}

async fn generate(
    meter: String,
    titles: &Titles,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::GenerateMeterKeysRequest {
        meter_id: meter.clone(),
        client_system_title: octets("--client-title", &titles.client_title, 8)?,
        server_system_title: octets("--server-title", &titles.server_title, 8)?,
        ..pb::GenerateMeterKeysRequest::default()
    };
    let response = session
        .keys()?
        .generate_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&format!("generate keys for {meter}"), &status))?;
    show_one(response.into_inner().keys, output)
}

async fn import(
    request: pb::ImportMeterKeysRequest,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("import keys for {}", request.meter_id);
    let response = session
        .keys()?
        .import_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    show_one(response.into_inner().keys, output)
}

async fn show(meter_id: String, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let what = format!("read what custody holds for {meter_id}");
    let response = session
        .keys()?
        .get_meter_keys(pb::GetMeterKeysRequest { meter_id })
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    show_one(response.into_inner().keys, output)
}

async fn list(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let request = pb::ListMeterKeysRequest {
        page_size: 500,
        page_token: String::new(),
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

fn show_one(keys: Option<pb::MeterKeys>, output: &Output) -> Result<Exit, Failure> {
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
        "CHECK VALUE",
        "PASSWORD",
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
        hex::encode(&keys.check_value),
        if keys.has_password { "yes" } else { "no" }.to_owned(),
        keys.next_invocation_counter.to_string(),
        keys.source.clone(),
        time(keys.create_time.as_ref()),
    ]
}

fn json_of(keys: &pb::MeterKeys) -> Value {
    json!({
        "meter_id": keys.meter_id,
        "client_system_title": hex::encode(&keys.client_system_title),
        "server_system_title": hex::encode(&keys.server_system_title),
        "check_value": hex::encode(&keys.check_value),
        "has_password": keys.has_password,
        "next_invocation_counter": keys.next_invocation_counter,
        "source": keys.source,
        "create_time": time(keys.create_time.as_ref()),
    })
}

/// Hex of an exact length. The text itself is not repeated: it may be a key.
fn octets(flag: &str, text: &str, length: usize) -> Result<Vec<u8>, Failure> {
    match hex::decode(text) {
        Ok(octets) if octets.len() == length => Ok(octets),
        _ => Err(Failure::usage(format!(
            "{flag} is malformed: expected {length} octets in hex ({} digits)",
            length * 2
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_have_an_exact_length() {
        assert_eq!(octets("--x", "0102", 2).unwrap(), [1, 2]);
        for text in ["01", "010203", "zz", "0102 "] {
            let said = octets("--x", text, 2).unwrap_err().to_string();
            assert!(said.contains("4 digits") && !said.contains("zz"), "{said}");
        }
    }
}
