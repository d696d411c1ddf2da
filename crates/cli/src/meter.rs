//! `latchkey meter`: the directory of meters.

use latchkey_proto::association::v1 as pb;
use latchkey_proto::audit::v1::AllowlistSide;
use latchkey_proto::custody::v1::{ImportLabKeysRequest, Mechanism, Protection};
use serde_json::{Value, json};
use simulator::LabKeys;

use crate::access::name_of;
use crate::allowlist;
use crate::args::{self, Auth, MeterAdd};
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::{Output, short, time};

pub(crate) async fn run(
    verb: args::Meter,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Meter::Add(args) => {
            let keys = lab_keys(&args.lab_keys)?;
            let meter = enrol(&args, &keys, session).await?;
            show_all(&[meter], output);
        }
        args::Meter::List => {
            let request = pb::ListMetersRequest {
                page_size: 500,
                page_token: String::new(),
            };
            let meters = all_pages!(
                session.meters()?,
                list_meters,
                request,
                meters,
                "list the meters"
            );
            show_all(&meters, output);
        }
        args::Meter::Show { meter } => show_all(&[one(meter, session).await?], output),
        args::Meter::Remove { meter } => {
            session
                .meters()?
                .delete_meter(pb::DeleteMeterRequest {
                    meter_id: meter.clone(),
                })
                .await
                .map_err(|status| Failure::status(&format!("forget {meter}"), &status))?;
            output.result(&json!({ "meter_id": meter, "removed": true }), || {
                format!("{meter} is forgotten")
            });
        }
    }
    Ok(Exit::OK)
}

pub(crate) fn lab_keys(path: &std::path::Path) -> Result<LabKeys, Failure> {
    LabKeys::read(path).map_err(|error| {
        Failure::io("use the laboratory keys", &error)
            .mend("make a key file with `latchkey sim keys --out FILE`")
    })
}

/// Keys, allowlist, directory. The keys come first: where laboratory keys are refused, nothing has changed. Each
/// step repeated changes nothing.
pub(crate) async fn enrol(
    args: &MeterAdd,
    keys: &LabKeys,
    session: &Session,
) -> Result<pb::Meter, Failure> {
    let meter_id = &args.meter;
    session
        .keys()?
        .import_lab_keys(import_request(meter_id, args.auth, keys))
        .await
        .map_err(|status| {
            Failure::status(&format!("import laboratory keys for {meter_id}"), &status)
        })?;
    let network = host_network(args.address.ip());
    allowlist::add(
        session,
        AllowlistSide::Meter,
        &network,
        &format!("meter {meter_id}"),
    )
    .await?;
    let response = session
        .meters()?
        .create_meter(pb::CreateMeterRequest {
            meter: Some(directory_entry(args)),
        })
        .await
        .map_err(|status| Failure::status(&format!("enrol {meter_id}"), &status))?;
    response.into_inner().meter.ok_or_else(nothing_came)
}

/// The network that holds one host alone.
fn host_network(address: std::net::IpAddr) -> String {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{prefix}")
}

/// Only what the mechanism uses: custody refuses plain APDUs to a meter whose keys it holds.
fn import_request(meter_id: &str, auth: Auth, keys: &LabKeys) -> ImportLabKeysRequest {
    let ciphered = auth == Auth::Hls5;
    let key = |key: &[u8]| if ciphered { key.to_vec() } else { Vec::new() };
    ImportLabKeysRequest {
        meter_id: meter_id.to_owned(),
        client_system_title: keys.client_system_title().to_vec(),
        server_system_title: keys.server_system_title().to_vec(),
        encryption_key: key(keys.ek()),
        authentication_key: key(keys.ak()),
        password: if auth == Auth::Low {
            keys.password().to_vec()
        } else {
            Vec::new()
        },
        security_suite: if ciphered {
            keys.suite().id().into()
        } else {
            0
        },
        ..ImportLabKeysRequest::default()
    }
}

fn directory_entry(args: &MeterAdd) -> pb::Meter {
    let (mechanism, protection) = match (args.auth, args.protection) {
        (Auth::None, _) => (Mechanism::None, Protection::Plain),
        (Auth::Low, _) => (Mechanism::Low, Protection::Plain),
        (Auth::Hls5, args::Protection::Glo) => (Mechanism::HlsGmac, Protection::Glo),
        (Auth::Hls5, args::Protection::GeneralGlo) => (Mechanism::HlsGmac, Protection::GeneralGlo),
    };
    pb::Meter {
        meter_id: args.meter.clone(),
        address: args.address.to_string(),
        client_sap: args.client_sap.into(),
        server_sap: args.server_sap.into(),
        mechanism: mechanism.into(),
        protection: protection.into(),
        profile: args.profile.clone(),
        invocation_counter_name: args.invocation_counter.clone(),
        ..pb::Meter::default()
    }
}

async fn one(meter_id: String, session: &Session) -> Result<pb::Meter, Failure> {
    let what = format!("read {meter_id} in the directory");
    let response = session
        .meters()?
        .get_meter(pb::GetMeterRequest {
            meter_id,
            address: String::new(),
        })
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    response.into_inner().meter.ok_or_else(nothing_came)
}

fn nothing_came() -> Failure {
    Failure::new(
        Exit::INTERNAL,
        Party::Service,
        "the meter directory answered without a meter",
    )
}

fn show_all(meters: &[pb::Meter], output: &Output) {
    let rows: Vec<_> = meters
        .iter()
        .map(|meter| (json_of(meter), row(meter)))
        .collect();
    output.table(
        &[
            "METER",
            "ADDRESS",
            "SAPS",
            "AUTH",
            "PROTECTION",
            "PROFILE",
            "ENROLLED",
        ],
        &rows,
    );
}

fn protection_of(meter: &pb::Meter) -> String {
    short(meter.protection().as_str_name(), "PROTECTION_")
        .to_lowercase()
        .replace('_', "-")
}

fn row(meter: &pb::Meter) -> Vec<String> {
    vec![
        meter.meter_id.clone(),
        meter.address.clone(),
        format!("{}/{}", meter.client_sap, meter.server_sap),
        name_of(meter.mechanism()).to_owned(),
        protection_of(meter),
        meter.profile.clone(),
        time(meter.create_time.as_ref()),
    ]
}

fn json_of(meter: &pb::Meter) -> Value {
    json!({
        "meter_id": meter.meter_id,
        "address": meter.address,
        "client_sap": meter.client_sap,
        "server_sap": meter.server_sap,
        "mechanism": name_of(meter.mechanism()),
        "protection": protection_of(meter),
        "profile": meter.profile,
        "invocation_counter_name": meter.invocation_counter_name,
        "create_time": time(meter.create_time.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> LabKeys {
        LabKeys::generate(|octets| octets.fill(7))
    }

    #[test]
    fn a_meter_gets_only_the_secrets_its_mechanism_uses() {
        let hls = import_request("m", Auth::Hls5, &keys());
        assert_eq!(
            (
                hls.encryption_key.len(),
                hls.authentication_key.len(),
                hls.password.len()
            ),
            (16, 16, 0)
        );
        let low = import_request("m", Auth::Low, &keys());
        assert!(low.encryption_key.is_empty() && !low.password.is_empty());
        let none = import_request("m", Auth::None, &keys());
        assert!(none.encryption_key.is_empty() && none.password.is_empty());
    }

    #[test]
    fn the_allowlist_gets_one_host() {
        assert_eq!(host_network([127, 10, 0, 1].into()), "127.10.0.1/32");
        assert_eq!(host_network("::1".parse().unwrap()), "::1/128");
    }
}
