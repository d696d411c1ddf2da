//! A meter, as the directory holds it.

use std::{net::SocketAddr, time::SystemTime};

use dlms::Obis;
use kit::{check, clock};
use latchkey_proto::{
    association::v1 as pb,
    custody::v1::{Mechanism, Protection},
};

use crate::error::Error;

/// One enrolled meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Wrapper port of the management client.
    pub client_sap: u16,
    /// Wrapper port of the logical device.
    pub server_sap: u16,
    /// How the association is authenticated.
    pub mechanism: Mechanism,
    /// How APDUs are protected.
    pub protection: Protection,
    /// Its reset profile.
    pub profile: String,
    /// The invocation-counter object, or empty.
    pub invocation_counter_name: String,
    /// When it was enrolled.
    pub create_time: SystemTime,
}

impl Meter {
    /// Reads and checks every field, and says all that is wrong at once.
    ///
    /// # Errors
    /// [`Error::Invalid`]
    pub fn parse(meter: &pb::Meter, create_time: SystemTime) -> Result<Self, Error> {
        let mut wrong = Vec::new();
        let mut note = |field: &str, result: Result<(), String>| {
            if let Err(why) = result {
                wrong.push((format!("meter.{field}"), why));
            }
        };
        note("meter_id", check::meter_id(&meter.meter_id));
        note("profile", check::text(&meter.profile, 1, 64));
        let address = parse_address(&meter.address);
        note("address", address.as_ref().map(drop).map_err(Clone::clone));
        let client_sap = sap(meter.client_sap);
        note("client_sap", client_sap.map(drop).ok_or_else(sap_range));
        let server_sap = sap(meter.server_sap);
        note("server_sap", server_sap.map(drop).ok_or_else(sap_range));
        if meter.mechanism() == Mechanism::Unspecified {
            note("mechanism", Err("is required".to_owned()));
        }
        if meter.protection() == Protection::Unspecified {
            note("protection", Err("is required".to_owned()));
        }
        let name = &meter.invocation_counter_name;
        let name = if name.is_empty() {
            Ok(String::new())
        } else {
            parse_obis(name)
        };
        note(
            "invocation_counter_name",
            name.as_ref().map(drop).map_err(Clone::clone),
        );
        match (address, client_sap, server_sap, name) {
            (Ok(address), Some(client_sap), Some(server_sap), Ok(invocation_counter_name))
                if wrong.is_empty() =>
            {
                Ok(Self {
                    id: meter.meter_id.clone(),
                    address,
                    client_sap,
                    server_sap,
                    mechanism: meter.mechanism(),
                    protection: meter.protection(),
                    profile: meter.profile.clone(),
                    invocation_counter_name,
                    create_time,
                })
            }
            _ => Err(Error::Invalid(wrong)),
        }
    }

    /// As it goes into a message.
    #[must_use]
    pub fn render(&self) -> pb::Meter {
        pb::Meter {
            meter_id: self.id.clone(),
            address: self.address.to_string(),
            client_sap: self.client_sap.into(),
            server_sap: self.server_sap.into(),
            mechanism: self.mechanism.into(),
            protection: self.protection.into(),
            profile: self.profile.clone(),
            invocation_counter_name: self.invocation_counter_name.clone(),
            create_time: Some(clock::timestamp(self.create_time)),
            ..pb::Meter::default()
        }
    }

    /// Whether it is the same meter, whenever it was enrolled.
    #[must_use]
    pub fn same_facts(&self, other: &Self) -> bool {
        Self {
            create_time: other.create_time,
            ..self.clone()
        } == *other
    }
}

/// An address a meter can have: `IP:PORT`, in canonical form.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if text.is_empty() {
        return Err("is required".to_owned());
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.10.0.1:4059 or [fd20::1]:4059".to_owned()
    })?;
    let ip = address.ip().to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return Err("must be the address of one host, with a port".to_owned());
    }
    Ok(SocketAddr::new(ip, address.port()))
}

/// A logical name in its canonical dotted form.
pub(crate) fn parse_obis(text: &str) -> Result<String, String> {
    let obis: Result<Obis, _> = text.parse();
    obis.map(|obis| obis.to_string())
        .map_err(|_| "must be six dotted numbers, such as 0.0.43.1.0.255".to_owned())
}

/// 0 means 1.
fn sap(value: u32) -> Option<u16> {
    u16::try_from(value).ok().map(|sap| sap.max(1))
}

fn sap_range() -> String {
    "must be 0..65535".to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(id: &str, address: &str) -> pb::Meter {
        pb::Meter {
            meter_id: id.to_owned(),
            address: address.to_owned(),
            mechanism: Mechanism::HlsGmac.into(),
            protection: Protection::Glo.into(),
            profile: "standard".to_owned(),
            invocation_counter_name: "0-0:43.1.0.255".to_owned(),
            ..pb::Meter::default()
        }
    }

    #[test]
    fn reads_and_canonicalises() {
        let now = clock::from_micros(7);
        let meter = Meter::parse(&sample("m-1", "[::ffff:127.10.0.1]:4059"), now).unwrap();
        assert_eq!((meter.client_sap, meter.server_sap), (1, 1));
        assert_eq!(meter.address.to_string(), "127.10.0.1:4059");
        assert_eq!(meter.invocation_counter_name, "0.0.43.1.0.255");
        assert_eq!(
            Meter::parse(&meter.render(), now).unwrap(),
            meter,
            "what is rendered can be read"
        );
    }

    #[test]
    fn says_all_that_is_wrong_at_once() {
        let bad = pb::Meter {
            meter_id: "a/b".to_owned(),
            address: "meter.example:4059".to_owned(),
            client_sap: 65_536,
            server_sap: 70_000,
            invocation_counter_name: "0.0.43".to_owned(),
            ..pb::Meter::default()
        };
        let Err(Error::Invalid(wrong)) = Meter::parse(&bad, clock::from_micros(0)) else {
            panic!("accepted")
        };
        let fields: Vec<_> = wrong
            .iter()
            .map(|(field, _)| field.trim_start_matches("meter."))
            .collect();
        let all = [
            "meter_id",
            "profile",
            "address",
            "client_sap",
            "server_sap",
            "mechanism",
            "protection",
            "invocation_counter_name",
        ];
        assert_eq!(fields, all);
    }

    #[test]
    fn addresses_of_no_host_are_refused() {
        for bad in [
            "0.0.0.0:4059",
            "127.0.0.1:0",
            "224.0.0.1:4059",
            "[::]:4059",
            "127.0.0.1",
            "",
            "[::ffff:0.0.0.0]:1",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
