//! `latchkey meter`: the directory of meters.

use latchkey_proto::association::v1 as pb;
use latchkey_proto::custody::v1::{KeyInfo, SecurityPolicy as Policy};
use serde_json::{Value, json};
use simulator::LabKeys;

use crate::access::name_of;
use crate::args;
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::{Output, short, time};

mod enrol;
mod plan;

pub(crate) use enrol::enrol;

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
        args::Meter::Plan(args) => plan::run(&args, session, output).await?,
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
            "METER", "ADDRESS", "LINK", "SAPS", "AUTH", "SECURITY", "PROFILE", "ENROLLED",
        ],
        &rows,
    );
}

fn row(meter: &pb::Meter) -> Vec<String> {
    vec![
        meter.meter_id.clone(),
        meter.address.clone(),
        link(meter),
        format!("{}/{}", meter.client_sap, meter.server_sap),
        name_of(meter.mechanism()).to_owned(),
        security(meter),
        meter.profile.clone(),
        time(meter.create_time.as_ref()),
    ]
}

/// A protobuf name as it is typed on the command line: `PROTECTION_GENERAL_GLO` is `general-glo`.
fn word(name: &str, prefix: &str) -> String {
    short(name, prefix).to_lowercase().replace('_', "-")
}

fn transport_of(meter: &pb::Meter) -> String {
    match meter.transport() {
        pb::Transport::Unspecified => "tcp".to_owned(),
        transport => word(transport.as_str_name(), "TRANSPORT_"),
    }
}

fn link(meter: &pb::Meter) -> String {
    let mut link = transport_of(meter);
    let mut add = |what: String| {
        link.push(' ');
        link.push_str(&what);
    };
    if let Some(hdlc) = meter.hdlc {
        add(format!("physical {}", hdlc.physical_address));
        add(format!("{} octets", hdlc.max_information));
    }
    if meter.link_mtu > 0 {
        add(format!("mtu {}", meter.link_mtu));
    }
    link
}

fn protection_of(meter: &pb::Meter) -> String {
    word(meter.protection().as_str_name(), "PROTECTION_")
}

/// Form, suite, and what is not as usual.
fn security(meter: &pb::Meter) -> String {
    let security = meter.security.unwrap_or_default();
    let mut said = vec![protection_of(meter)];
    if security.suite > 0 {
        said.push(format!("suite {}", security.suite));
    }
    match security.policy() {
        Policy::Authenticated => said.push("authenticated only".to_owned()),
        Policy::Encrypted => said.push("encrypted only".to_owned()),
        Policy::Unspecified | Policy::AuthenticatedEncrypted => {}
    }
    if security.signed {
        said.push("signed".to_owned());
    }
    if security.key_info() != KeyInfo::Unspecified {
        said.push(word(security.key_info().as_str_name(), "KEY_INFO_"));
    }
    said.join(", ")
}

fn json_of(meter: &pb::Meter) -> Value {
    let security = meter.security.unwrap_or_default();
    let hdlc = meter.hdlc.map(|hdlc| {
        json!({
            "address_octets": hdlc.address_octets,
            "physical_address": hdlc.physical_address,
            "max_information": hdlc.max_information,
            "window": hdlc.window,
        })
    });
    json!({
        "meter_id": meter.meter_id,
        "address": meter.address,
        "transport": transport_of(meter),
        "hdlc": hdlc,
        "link_mtu": meter.link_mtu,
        "client_sap": meter.client_sap,
        "server_sap": meter.server_sap,
        "mechanism": name_of(meter.mechanism()),
        "protection": protection_of(meter),
        "suite": security.suite,
        "policy": word(security.policy().as_str_name(), "SECURITY_POLICY_"),
        "signed": security.signed,
        "key_info": word(security.key_info().as_str_name(), "KEY_INFO_"),
        "algorithm_id": word(security.algorithm_id().as_str_name(), "ALGORITHM_ID_"),
        "send_certificate": meter.send_certificate,
        "no_release": meter.no_release,
        "general_block_transfer": meter.general_block_transfer,
        "profile": meter.profile,
        "invocation_counter_name": meter.invocation_counter_name,
        "create_time": time(meter.create_time.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use latchkey_proto::custody::v1::{Protection, Security};

    use super::*;

    #[test]
    fn a_meter_is_told_in_the_words_it_was_enrolled_with() {
        let meter = pb::Meter {
            transport: pb::Transport::Hdlc.into(),
            protection: Protection::GeneralCiphering.into(),
            security: Some(Security {
                suite: 2,
                policy: Policy::Authenticated.into(),
                signed: true,
                key_info: KeyInfo::AgreedOnePass.into(),
                ..Security::default()
            }),
            hdlc: Some(pb::HdlcOptions {
                physical_address: 17,
                max_information: 128,
                ..pb::HdlcOptions::default()
            }),
            link_mtu: 576,
            ..pb::Meter::default()
        };
        assert_eq!(link(&meter), "hdlc physical 17 128 octets mtu 576");
        assert_eq!(
            security(&meter),
            "general-ciphering, suite 2, authenticated only, signed, agreed-one-pass"
        );
        assert_eq!(link(&pb::Meter::default()), "tcp");
    }
}
