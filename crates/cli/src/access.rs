//! The procedure's own verbs: each goes through the services, under a permit; none goes round them.

use std::net::SocketAddr;

use latchkey_proto::association::v1::{GetMeterRequest, Meter};
use latchkey_proto::custody::v1::Mechanism;
use latchkey_proto::reset::v1 as pb;
use serde_json::json;

use crate::args;
use crate::client::Session;
use crate::data;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::output::Output;
use crate::reset;

pub(crate) async fn connect(
    args: args::Connect,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let address = SocketAddr::new(args.ip, args.port);
    let meter = meter_at(address, session).await?;
    check_mechanism(&args.auth, &meter)?;
    output.waiting(format!("opening an association with {}", meter.meter_id));
    let response = session
        .access()?
        .connect_meter(pb::ConnectMeterRequest {
            request_id: session.request_id(),
            meter_id: meter.meter_id.clone(),
            reason: String::new(),
        })
        .await
        .map_err(|status| {
            Failure::status(
                &format!("connect to {} at {address}", meter.meter_id),
                &status,
            )
        })?
        .into_inner();
    output.done();
    remember(&meter.meter_id, session, output)?;
    let json = json!({
        "meter_id": meter.meter_id,
        "address": address.to_string(),
        "mechanism": name_of(meter.mechanism()),
        "server_system_title": hex::encode(&response.server_system_title),
        "conformance": format!("{:06x}", response.conformance),
        "server_max_receive_pdu_size": response.server_max_receive_pdu_size,
    });
    output.result(&json, || {
        format!(
            "{} at {address}: {}\n\
             {}conformance {:06x}, largest APDU {}",
            meter.meter_id,
            opened(meter.mechanism()),
            title(&response.server_system_title),
            response.conformance,
            response.server_max_receive_pdu_size,
        )
    });
    Ok(Exit::OK)
}

/// What an association of this mechanism shows about who answered.
fn opened(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::HlsGmac => "association proved both ways with HLS5 and released",
        Mechanism::HlsMd5 => "association proved both ways with HLS3 and released",
        Mechanism::HlsSha1 => "association proved both ways with HLS4 and released",
        Mechanism::HlsSha256 => "association proved both ways with HLS6 and released",
        Mechanism::HlsEcdsa => "association proved both ways with HLS7 and released",
        Mechanism::Low => {
            "association opened with LOW and released; the password went in clear, and the meter proved nothing"
        }
        Mechanism::None => "association opened with NONE and released; nobody proved anything",
        Mechanism::Unspecified => "association opened and released",
    }
}

/// A plain association tells no system title.
fn title(octets: &[u8]) -> String {
    match octets {
        [] => String::new(),
        octets => format!("system title {}, ", hex::encode(octets)),
    }
}

pub(crate) async fn get_object(
    args: args::GetObject,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let meter_id = meter_of(args.meter.as_deref(), session)?;
    let attributes = attributes(&args)?;
    match attributes.as_slice() {
        [attribute] => one_object(attribute, meter_id, session, output).await,
        attributes => objects(attributes, meter_id, session, output).await,
    }
}

/// Which attributes are asked for: one index and one class for all of them, or one for each.
fn attributes(args: &args::GetObject) -> Result<Vec<pb::AttributeName>, Failure> {
    let ids = args.id.len();
    let counts = |given: usize| given == ids || given <= 1;
    if !counts(args.attribute.len()) || !counts(args.class.len()) {
        return Err(Failure::usage(format!(
            "{ids} objects, {} attributes, {} classes",
            args.attribute.len(),
            args.class.len()
        ))
        .mend("give --attribute once for all objects or once for each; --class likewise, or not at all"));
    }
    let nth = |given: &[i32], at: usize| given.get(at).or(given.first()).copied();
    let class = |at: usize| args.class.get(at).or(args.class.first()).copied();
    Ok((0..)
        .zip(&args.id)
        .map(|(at, id)| pb::AttributeName {
            class_id: class(at).unwrap_or_default().into(),
            logical_name: id.clone(),
            attribute: nth(&args.attribute, at).unwrap_or_default(),
        })
        .collect())
}

fn words(attribute: &pb::AttributeName) -> String {
    format!(
        "attribute {} of {}",
        attribute.attribute, attribute.logical_name
    )
}

async fn one_object(
    asked: &pb::AttributeName,
    meter_id: String,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("read {} in {meter_id}", words(asked));
    output.waiting(format!("reading {} in {meter_id}", asked.logical_name));
    // The name goes as it was typed: the service refuses a malformed one, and its denial is in the trail.
    let response = session
        .access()?
        .get_object(pb::GetObjectRequest {
            request_id: session.request_id(),
            meter_id: meter_id.clone(),
            class_id: asked.class_id,
            logical_name: asked.logical_name.clone(),
            attribute: asked.attribute,
            reason: String::new(),
        })
        .await
        .map_err(|status| Failure::status(&what, &status))?
        .into_inner();
    output.done();
    refused_by_meter(response.result, &what)?;
    let json = value_json(asked, response.class_id, &meter_id, &response.data);
    output.result(&json, || data::text(&response.data));
    Ok(Exit::OK)
}

fn value_json(
    asked: &pb::AttributeName,
    class_id: u32,
    meter_id: &str,
    octets: &[u8],
) -> serde_json::Value {
    let mut json = data::json(octets);
    if let Some(json) = json.as_object_mut() {
        json.insert("meter_id".into(), json!(meter_id));
        json.insert("class_id".into(), json!(class_id));
        json.insert("logical_name".into(), json!(asked.logical_name));
        json.insert("attribute".into(), json!(asked.attribute));
    }
    json
}

/// Several attributes, in one request if the meter can. Each that the meter refuses says so; the first decides the exit
/// code.
async fn objects(
    asked: &[pb::AttributeName],
    meter_id: String,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("read {} attributes in {meter_id}", asked.len());
    output.waiting(format!("reading {} attributes in {meter_id}", asked.len()));
    let response = session
        .access()?
        .get_objects(pb::GetObjectsRequest {
            request_id: session.request_id(),
            meter_id: meter_id.clone(),
            attributes: asked.to_vec(),
            reason: String::new(),
        })
        .await
        .map_err(|status| Failure::status(&what, &status))?
        .into_inner();
    output.done();
    let mut refused = None;
    let mut rows = Vec::new();
    for (asked, value) in asked.iter().zip(&response.values) {
        let mut json = value_json(asked, value.class_id, &meter_id, &value.data);
        let mut said = data::text(&value.data);
        let what = format!("read {} in {meter_id}", words(asked));
        if let Err(failure) = refused_by_meter(value.result, &what) {
            json = json!({
                "meter_id": meter_id,
                "class_id": value.class_id,
                "logical_name": asked.logical_name,
                "attribute": asked.attribute,
            });
            said = format!(
                "refused: {} ({})",
                data::result_name(value.result),
                value.result
            );
            refused.get_or_insert(failure);
        }
        if let Some(json) = json.as_object_mut() {
            json.insert("result".into(), json!(value.result));
        }
        let name = format!("{}:{}", asked.logical_name, asked.attribute);
        rows.push((json, vec![name, value.class_id.to_string(), said]));
    }
    output.table(&["ATTRIBUTE", "CLASS", "VALUE"], &rows);
    output.note(match response.one_request {
        true => "read in one request",
        false => "read one after the other: the meter takes no list",
    });
    refused.map_or(Ok(Exit::OK), Err)
}

pub(crate) async fn invoke_method(
    args: args::InvokeMethod,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let meter_id = meter_of(args.object.meter.as_deref(), session)?;
    let parameter = args
        .data
        .as_deref()
        .map(data::parse)
        .transpose()?
        .unwrap_or_default();
    let what = format!(
        "invoke method {} of {} in {meter_id}",
        args.method, args.object.id
    );
    let response = session
        .access()?
        .invoke_method(pb::InvokeMethodRequest {
            request_id: session.request_id(),
            meter_id,
            class_id: args.class.into(),
            logical_name: args.object.id,
            method: args.method,
            parameter,
            reason: String::new(),
        })
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    let reset = reset::begun(response.into_inner().reset)?;
    reset::follow(session.resets()?, reset, output).await
}

pub(crate) async fn read_profile(
    args: args::ReadProfile,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let meter_id = meter_of(args.object.meter.as_deref(), session)?;
    let what = format!(
        "read {} entries of {} in {meter_id}",
        args.entries, args.object.id
    );
    output.waiting(format!("reading {} in {meter_id}", args.object.id));
    let response = session
        .access()?
        .read_profile(pb::ReadProfileRequest {
            request_id: session.request_id(),
            meter_id: meter_id.clone(),
            logical_name: args.object.id.clone(),
            entries: args.entries,
            reason: String::new(),
        })
        .await
        .map_err(|status| Failure::status(&what, &status))?
        .into_inner();
    output.done();
    refused_by_meter(response.result, &what)?;
    let mut json = data::json(&response.data);
    if let Some(json) = json.as_object_mut() {
        json.insert("meter_id".into(), json!(meter_id));
        json.insert("logical_name".into(), json!(args.object.id));
        json.insert("entries_in_use".into(), json!(response.entries_in_use));
    }
    output.result(&json, || {
        format!(
            "{}\n{} entries in use",
            data::text(&response.data),
            response.entries_in_use
        )
    });
    Ok(Exit::OK)
}

async fn meter_at(address: SocketAddr, session: &Session) -> Result<Meter, Failure> {
    let request = GetMeterRequest {
        meter_id: String::new(),
        address: address.to_string(),
    };
    let response = session.meters()?.get_meter(request).await.map_err(|status| {
        let failure = Failure::status(&format!("find a meter at {address}"), &status);
        match status.code() {
            tonic::Code::NotFound => failure.mend("enrol it: latchkey meter add ID --address ADDR:PORT --lab-keys FILE --profile NAME"),
            _ => failure,
        }
    })?;
    response.into_inner().meter.ok_or_else(|| {
        Failure::new(
            Exit::INTERNAL,
            Party::Service,
            "the meter directory answered without a meter",
        )
    })
}

/// The mechanism is a fact of the enrolment, not a wish of the caller: asking for another one is the procedure's
/// "security context mismatch".
fn check_mechanism(asked: &str, meter: &Meter) -> Result<(), Failure> {
    let enrolled = name_of(meter.mechanism());
    let mismatch = |why: String| {
        Failure::new(
            Exit::ACCESS_DENIED,
            Party::Caller,
            format!("security context mismatch: {why}"),
        )
        .mend(format!(
            "{} is enrolled with {enrolled}: ask with --auth {enrolled}",
            meter.meter_id
        ))
    };
    match mechanism(asked) {
        Some(mechanism) if mechanism == meter.mechanism() => Ok(()),
        Some(mechanism) => Err(mismatch(format!(
            "{} was asked for with {}, and is enrolled with {enrolled}",
            meter.meter_id,
            name_of(mechanism)
        ))),
        None if asked.eq_ignore_ascii_case("HLS2") => Err(mismatch(
            "HLS2 is each manufacturer's own, and not spoken here".to_owned(),
        )),
        None => Err(
            Failure::usage(format!("--auth {asked:?} is no mechanism")).mend(format!(
                "use NONE, LOW, HLS3, HLS4, HLS5, HLS6 or HLS7; {} is enrolled with {enrolled}",
                meter.meter_id
            )),
        ),
    }
}

fn mechanism(name: &str) -> Option<Mechanism> {
    match name.to_uppercase().as_str() {
        "NONE" | "LOWEST" => Some(Mechanism::None),
        "LOW" | "LLS" => Some(Mechanism::Low),
        "HLS3" | "MD5" => Some(Mechanism::HlsMd5),
        "HLS4" | "SHA1" | "SHA-1" => Some(Mechanism::HlsSha1),
        "HLS5" | "GMAC" => Some(Mechanism::HlsGmac),
        "HLS6" | "SHA256" | "SHA-256" => Some(Mechanism::HlsSha256),
        "HLS7" | "ECDSA" => Some(Mechanism::HlsEcdsa),
        _ => None,
    }
}

pub(crate) fn name_of(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::Unspecified => "UNKNOWN",
        Mechanism::None => "NONE",
        Mechanism::Low => "LOW",
        Mechanism::HlsGmac => "HLS5",
        Mechanism::HlsMd5 => "HLS3",
        Mechanism::HlsSha1 => "HLS4",
        Mechanism::HlsSha256 => "HLS6",
        Mechanism::HlsEcdsa => "HLS7",
    }
}

/// The meter answered, and the answer is no.
fn refused_by_meter(result: u32, what: &str) -> Result<(), Failure> {
    let exit = Exit::of_meter_result(result);
    if exit == Exit::OK {
        return Ok(());
    }
    let failure = Failure::new(
        exit,
        Party::Meter,
        format!(
            "could not {what}: the meter answered {} ({result})",
            data::result_name(result)
        ),
    );
    Err(match exit {
        Exit::TRY_LATER => failure.mend("the meter is busy (firmware update or scheduled read): ask again in 15 minutes"),
        Exit::ACCESS_DENIED => failure.mend("the association's rights do not cover this attribute"),
        _ => failure.mend("check the logical name, the class (--class) and the attribute against the meter's object list"),
    })
}

/// Writes down the meter for the verbs that follow. Not being able to is no failure of `connect`.
fn remember(meter_id: &str, session: &Session, output: &Output) -> Result<(), Failure> {
    let path = session.connected_meter_file()?;
    if file::write(&path, meter_id, file::Mode::Public).is_err() {
        output.note(&format!(
            "note: {} cannot be written; name the meter with --meter {meter_id} from here on",
            path.display()
        ));
    }
    Ok(())
}

fn meter_of(named: Option<&str>, session: &Session) -> Result<String, Failure> {
    if let Some(meter) = named {
        return Ok(meter.to_owned());
    }
    let path = session.connected_meter_file()?;
    let remembered = std::fs::read_to_string(path).unwrap_or_default();
    match remembered.trim() {
        "" => Err(Failure::usage("which meter?")
            .mend("name it with --meter ID, or prove one first: latchkey connect --ip IP --port 4059 --auth HLS5")),
        meter => Ok(meter.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(mechanism: Mechanism) -> Meter {
        Meter {
            meter_id: "m".into(),
            mechanism: mechanism.into(),
            ..Meter::default()
        }
    }

    #[test]
    fn the_mechanism_must_be_the_enrolled_one() {
        for (asked, enrolled) in [
            ("hls5", Mechanism::HlsGmac),
            ("LOW", Mechanism::Low),
            ("None", Mechanism::None),
        ] {
            assert!(check_mechanism(asked, &meter(enrolled)).is_ok(), "{asked}");
        }
        let failure = check_mechanism("LOW", &meter(Mechanism::HlsGmac)).unwrap_err();
        assert_eq!(failure.exit(), Exit::ACCESS_DENIED);
    }

    #[test]
    fn another_mechanism_is_a_security_context_mismatch() {
        assert!(check_mechanism("hls7", &meter(Mechanism::HlsEcdsa)).is_ok());
        for (asked, enrolled) in [
            ("HLS7", Mechanism::HlsGmac),
            ("HLS2", Mechanism::HlsSha256),
            ("HLS5", Mechanism::HlsEcdsa),
        ] {
            let failure = check_mechanism(asked, &meter(enrolled)).unwrap_err();
            assert_eq!(failure.exit(), Exit::ACCESS_DENIED);
            let said = failure.to_string();
            let mend = format!("ask with --auth {}", name_of(enrolled));
            assert!(said.contains("mismatch") && said.contains(&mend), "{said}");
        }
        for nonsense in ["MD6", "HLS", "HLS8"] {
            let failure = check_mechanism(nonsense, &meter(Mechanism::Low)).unwrap_err();
            assert_eq!(failure.exit(), Exit::USAGE);
        }
    }

    #[test]
    fn one_attribute_index_for_all_objects_or_one_for_each() {
        let asked = |ids: &[&str], attribute: &[i32], class: &[u16]| {
            attributes(&args::GetObject {
                id: ids.iter().map(|id| (*id).to_owned()).collect(),
                meter: None,
                attribute: attribute.to_vec(),
                class: class.to_vec(),
            })
        };
        let both = asked(&["1.0.0.2.0.255", "0.0.1.0.0.255"], &[2], &[]).unwrap();
        assert!(
            both.iter()
                .all(|one| one.attribute == 2 && one.class_id == 0)
        );
        let each = asked(&["1.0.0.2.0.255", "0.0.1.0.0.255"], &[2, 4], &[1, 8]).unwrap();
        assert_eq!((each[1].attribute, each[1].class_id), (4, 8));
        assert!(asked(&["1.0.0.2.0.255"], &[2, 4], &[]).is_err());
    }

    #[test]
    fn only_what_was_proved_is_said_to_be() {
        assert!(opened(Mechanism::HlsGmac).contains("proved both ways"));
        assert!(opened(Mechanism::Low).contains("meter proved nothing"));
        assert!(opened(Mechanism::None).contains("nobody proved anything"));
        assert_eq!(title(&[]), "");
        assert_eq!(title(&[0x4c, 0x4b]), "system title 4c4b, ");
    }

    #[test]
    fn the_meters_no_is_not_silence() {
        assert!(refused_by_meter(0, "x").is_ok());
        assert_eq!(
            refused_by_meter(4, "x").unwrap_err().exit(),
            Exit::NOT_ACCEPTED
        );
        assert!(
            refused_by_meter(2, "x")
                .unwrap_err()
                .to_string()
                .contains("15 minutes")
        );
    }
}
