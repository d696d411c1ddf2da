//! Requests as they may be: all faults are reported at once.

use dlms::{Data, Obis};
use kit::check;
use latchkey_proto::{
    audit::v1::Tier,
    reset::v1::{
        CreateResetRequest, GetObjectRequest, GetObjectsRequest, InvokeMethodRequest,
        ReadProfileRequest,
    },
};

use crate::{error::Error, orders::Wish, plan::LIST_MAX};

const PARAMETER_MAX: usize = 2048;
const ENTRIES_MAX: u32 = 100;

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(String, String)>);

impl Faults {
    /// Remembers what a check found.
    pub(super) fn note<T>(&mut self, field: &str, found: Result<T, String>) -> Option<T> {
        match found {
            Ok(value) => Some(value),
            Err(why) => {
                self.0.push((field.to_owned(), why));
                None
            }
        }
    }

    fn error(self) -> Error {
        Error::Invalid(self.0)
    }

    /// Checks what every request about a meter has.
    fn common(&mut self, request_id: &str, meter_id: &str, reason: &str) {
        self.note("request_id", check::uuid(request_id));
        self.note("meter_id", check::meter_id(meter_id));
        self.note("reason", check::text(reason, 0, 256));
    }
}

/// A wish for a reset.
pub(super) fn wish(request: &CreateResetRequest, principal: &str) -> Result<Wish, Error> {
    let mut faults = Faults::default();
    faults.common(&request.request_id, &request.meter_id, &request.reason);
    if request.reason.is_empty() {
        faults.note::<()>("reason", Err("is required".to_owned()));
    }
    faults.note("ticket", check::text(&request.ticket, 0, 64));
    let tier = faults.note("tier", tier(request.tier()));
    match tier {
        Some(tier) if faults.0.is_empty() => Ok(Wish {
            request_id: request.request_id.clone(),
            meter_id: request.meter_id.clone(),
            tier,
            reason: request.reason.clone(),
            ticket: request.ticket.clone(),
            principal: principal.to_owned(),
            validate_only: request.validate_only,
        }),
        _ => Err(faults.error()),
    }
}

fn tier(tier: Tier) -> Result<machine::Tier, String> {
    match tier {
        Tier::Soft => Ok(machine::Tier::Soft),
        Tier::Warm => Ok(machine::Tier::Warm),
        Tier::Cold => Ok(machine::Tier::Cold),
        Tier::Unspecified => Err("must be soft, warm or cold".to_owned()),
    }
}

/// The ids of a request to connect.
pub(super) fn connect(request_id: &str, meter_id: &str, reason: &str) -> Result<(), Error> {
    let mut faults = Faults::default();
    faults.common(request_id, meter_id, reason);
    if faults.0.is_empty() {
        Ok(())
    } else {
        Err(faults.error())
    }
}

/// The logical name of an object to be read.
pub(super) fn object(request: &GetObjectRequest) -> Result<Obis, Error> {
    let mut faults = Faults::default();
    faults.common(&request.request_id, &request.meter_id, &request.reason);
    faults.note("class_id", class_id(request.class_id));
    faults.note("attribute", index(request.attribute));
    let name = faults.note("logical_name", logical_name(&request.logical_name));
    match name {
        Some(name) if faults.0.is_empty() => Ok(name),
        _ => Err(faults.error()),
    }
}

/// The logical names of objects to be read.
pub(super) fn objects(request: &GetObjectsRequest) -> Result<Vec<Obis>, Error> {
    let mut faults = Faults::default();
    faults.common(&request.request_id, &request.meter_id, &request.reason);
    let attributes = &request.attributes;
    if attributes.is_empty() || attributes.len() > LIST_MAX {
        faults.note::<()>("attributes", Err(format!("must be 1..{LIST_MAX}")));
    }
    let mut names = Vec::new();
    // Only as many are looked at as are allowed.
    for (n, asked) in attributes.iter().take(LIST_MAX).enumerate() {
        let field = |name: &str| format!("attributes[{n}].{name}");
        faults.note(&field("class_id"), class_id(asked.class_id));
        faults.note(&field("attribute"), index(asked.attribute));
        let name = logical_name(&asked.logical_name);
        names.extend(faults.note(&field("logical_name"), name));
    }
    if faults.0.is_empty() {
        Ok(names)
    } else {
        Err(faults.error())
    }
}

/// The logical name of a profile to be read.
pub(super) fn profile(request: &ReadProfileRequest) -> Result<Obis, Error> {
    let mut faults = Faults::default();
    faults.common(&request.request_id, &request.meter_id, &request.reason);
    let entries = (1..=ENTRIES_MAX).contains(&request.entries);
    faults.note(
        "entries",
        if entries {
            Ok(())
        } else {
            Err("must be 1..100".to_owned())
        },
    );
    let name = faults.note("logical_name", logical_name(&request.logical_name));
    match name {
        Some(name) if faults.0.is_empty() => Ok(name),
        _ => Err(faults.error()),
    }
}

/// The logical name of an object to be invoked.
pub(super) fn method(request: &InvokeMethodRequest) -> Result<Obis, Error> {
    let mut faults = Faults::default();
    faults.common(&request.request_id, &request.meter_id, &request.reason);
    faults.note("class_id", class_id(request.class_id));
    faults.note("method", index(request.method));
    faults.note("parameter", parameter(&request.parameter));
    let name = faults.note("logical_name", logical_name(&request.logical_name));
    match name {
        Some(name) if faults.0.is_empty() => Ok(name),
        _ => Err(faults.error()),
    }
}

fn logical_name(text: &str) -> Result<Obis, String> {
    text.parse().map_err(|_| {
        "must be a logical name (OBIS code) of six numbers 0..255, such as 0.0.96.3.10.255"
            .to_owned()
    })
}

fn class_id(class_id: u32) -> Result<(), String> {
    if class_id <= 65_535 {
        Ok(())
    } else {
        Err("must be 0..65535".to_owned())
    }
}

fn index(index: i32) -> Result<(), String> {
    if (1..=127).contains(&index) {
        Ok(())
    } else {
        Err("must be 1..127".to_owned())
    }
}

fn parameter(octets: &[u8]) -> Result<(), String> {
    if octets.len() > PARAMETER_MAX {
        return Err(format!("has more than {PARAMETER_MAX} octets"));
    }
    if octets.is_empty() {
        return Ok(());
    }
    Data::decode(octets)
        .map(drop)
        .map_err(|error| format!("is no A-XDR Data: {error}"))
}

#[cfg(test)]
mod tests {
    use latchkey_proto::reset::v1::AttributeName;

    use super::*;

    const ID: &str = "0190b6a0-0000-7000-8000-000000000001";

    fn fields(error: Error) -> Vec<String> {
        match error {
            Error::Invalid(faults) => faults.into_iter().map(|(field, _)| field).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let empty = CreateResetRequest::default();
        let error = wish(&empty, "p").expect_err("everything is missing");
        assert_eq!(fields(error), ["request_id", "meter_id", "reason", "tier"]);
        let good = CreateResetRequest {
            request_id: ID.to_owned(),
            meter_id: "m-1".to_owned(),
            tier: Tier::Cold.into(),
            reason: "hangs".to_owned(),
            ..CreateResetRequest::default()
        };
        assert_eq!(wish(&good, "p").expect("good").tier, machine::Tier::Cold);
    }

    #[test]
    fn malformed_names_are_refused() {
        for bad in ["", "banana", "1.2.3", "0.0.96.1.2.256", "0.0.96.1.2.255.1"] {
            let request = GetObjectRequest {
                request_id: ID.to_owned(),
                meter_id: "m-1".to_owned(),
                logical_name: bad.to_owned(),
                attribute: 2,
                ..GetObjectRequest::default()
            };
            assert_eq!(fields(object(&request).expect_err(bad)), ["logical_name"]);
        }
    }

    #[test]
    fn every_attribute_of_a_list_is_checked() {
        let name = |logical_name: &str, attribute| AttributeName {
            class_id: 0,
            logical_name: logical_name.to_owned(),
            attribute,
        };
        let request = |attributes| GetObjectsRequest {
            request_id: ID.to_owned(),
            meter_id: "m-1".to_owned(),
            attributes,
            ..GetObjectsRequest::default()
        };
        let good = request(vec![name("0.0.1.0.0.255", 2); 16]);
        assert_eq!(objects(&good).expect("good").len(), 16);
        let bad = request(vec![name("0.0.1.0.0.255", 2), name("banana", 0)]);
        assert_eq!(
            fields(objects(&bad).expect_err("bad")),
            ["attributes[1].attribute", "attributes[1].logical_name"]
        );
        for count in [0, 17] {
            let request = request(vec![name("0.0.1.0.0.255", 2); count]);
            assert_eq!(
                fields(objects(&request).expect_err("count")),
                ["attributes"]
            );
        }
    }

    #[test]
    fn a_parameter_is_data() {
        let request = InvokeMethodRequest {
            request_id: ID.to_owned(),
            meter_id: "m-1".to_owned(),
            logical_name: "0.0.96.1.2.255".to_owned(),
            method: 200,
            parameter: vec![0x0f],
            ..InvokeMethodRequest::default()
        };
        assert_eq!(
            fields(method(&request).expect_err("bad")),
            ["method", "parameter"]
        );
    }
}
