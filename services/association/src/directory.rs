//! A meter, as the directory holds it.

mod address;
mod rule;
mod security;
mod transport;

use std::time::SystemTime;

use dlms::Obis;
use kit::{check, clock};
use latchkey_proto::{
    association::v1 as pb,
    custody::v1::{Mechanism, Protection},
};

pub use self::{
    address::Address,
    security::Security,
    transport::{Hdlc, Transport},
};
use crate::error::Error;

/// One enrolled meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub address: Address,
    /// How APDUs travel to it.
    pub transport: Transport,
    /// Client SAP of the management client.
    pub client_sap: u16,
    /// SAP of the logical device.
    pub server_sap: u16,
    /// How the association is authenticated.
    pub mechanism: Mechanism,
    /// How APDUs are protected.
    pub protection: Protection,
    /// Suite, policy, signature, key.
    pub security: Security,
    /// Its reset profile.
    pub profile: String,
    /// The invocation-counter object, or empty.
    pub invocation_counter_name: String,
    /// The largest packet that crosses its link unfragmented, in octets; 0 if not known.
    pub link_mtu: u16,
    /// It does not know RLRQ.
    pub no_release: bool,
    /// The head-end's certificate goes into the AARQ.
    pub send_certificate: bool,
    /// General block transfer may be proposed.
    pub general_block_transfer: bool,
    /// When it was enrolled.
    pub create_time: SystemTime,
}

impl Meter {
    /// Reads and checks every field, and says all that is wrong at once.
    ///
    /// # Errors
    /// [`Error::Invalid`]
    pub fn parse(meter: &pb::Meter, create_time: SystemTime) -> Result<Self, Error> {
        let mut faults = Faults::default();
        faults.note("meter_id", check::meter_id(&meter.meter_id));
        faults.note("profile", check::text(&meter.profile, 1, 64));
        let address = faults.note("address", Address::parse(&meter.address));
        let client_sap = faults.note("client_sap", sap(meter.client_sap));
        let server_sap = faults.note("server_sap", sap(meter.server_sap));
        let name = &meter.invocation_counter_name;
        let name = faults.note("invocation_counter_name", logical_name(name));
        for (field, why) in rule::broken(meter) {
            faults.note::<()>(field, Err(why.to_owned()));
        }
        let transport = Transport::parse(meter.transport, &meter.hdlc.unwrap_or_default());
        let security = Security::parse(&meter.security.unwrap_or_default(), meter.protection());
        match (address, client_sap, server_sap, name, transport, security) {
            (
                Some(address),
                Some(client_sap),
                Some(server_sap),
                Some(invocation_counter_name),
                Some(transport),
                Some(security),
            ) if faults.0.is_empty() => Ok(Self {
                id: meter.meter_id.clone(),
                address,
                transport,
                client_sap,
                server_sap,
                mechanism: meter.mechanism(),
                protection: meter.protection(),
                security,
                profile: meter.profile.clone(),
                invocation_counter_name,
                link_mtu: u16::try_from(meter.link_mtu).unwrap_or(0),
                no_release: meter.no_release,
                send_certificate: meter.send_certificate,
                general_block_transfer: meter.general_block_transfer,
                create_time,
            }),
            _ => Err(Error::Invalid(faults.0)),
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
            transport: self.transport.kind().into(),
            security: Some(self.security.render()),
            hdlc: self.transport.options(),
            link_mtu: self.link_mtu.into(),
            no_release: self.no_release,
            send_certificate: self.send_certificate,
            general_block_transfer: self.general_block_transfer,
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

    /// Which of several meters at one address it is: HDLC knows devices behind one line apart by their physical
    /// address.
    #[must_use]
    pub const fn physical_address(&self) -> u16 {
        match self.transport {
            Transport::Tcp | Transport::Udp => 0,
            Transport::Hdlc(hdlc) => hdlc.physical_address,
        }
    }
}

/// The faults found so far.
#[derive(Default)]
struct Faults(Vec<(String, String)>);

impl Faults {
    fn note<T>(&mut self, field: &str, found: Result<T, String>) -> Option<T> {
        found
            .map_err(|why| self.0.push((format!("meter.{field}"), why)))
            .ok()
    }
}

/// A logical name in its canonical dotted form, or none.
fn logical_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let obis: Result<Obis, _> = text.parse();
    obis.map(|obis| obis.to_string())
        .map_err(|_| "must be six dotted numbers, such as 0.0.43.1.0.255".to_owned())
}

/// 0 means 1.
fn sap(value: u32) -> Result<u16, String> {
    u16::try_from(value)
        .map(|sap| sap.max(1))
        .map_err(|_| "must be 0..65535".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use latchkey_proto::custody::v1::{self as custody, AlgorithmId, KeyInfo, SecurityPolicy};

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

    /// A meter that uses every field.
    pub(crate) fn full(id: &str) -> pb::Meter {
        pb::Meter {
            transport: pb::Transport::Hdlc.into(),
            hdlc: Some(pb::HdlcOptions {
                address_octets: 4,
                physical_address: 16_000,
                max_information: 512,
                window: 3,
            }),
            mechanism: Mechanism::HlsEcdsa.into(),
            protection: Protection::GeneralCiphering.into(),
            security: Some(custody::Security {
                suite: 2,
                policy: SecurityPolicy::Encrypted.into(),
                signed: true,
                key_info: KeyInfo::AgreedStatic.into(),
                algorithm_id: AlgorithmId::Legacy.into(),
            }),
            link_mtu: 1_280,
            no_release: true,
            send_certificate: true,
            general_block_transfer: true,
            ..sample(id, "127.0.0.1:4059")
        }
    }

    /// The fields that a change makes wrong.
    fn wrong(change: impl FnOnce(&mut pb::Meter)) -> Vec<String> {
        let mut bad = sample("m-1", "127.0.0.1:4059");
        change(&mut bad);
        match Meter::parse(&bad, clock::from_micros(0)) {
            Err(Error::Invalid(wrong)) => wrong
                .iter()
                .map(|(field, _)| field.trim_start_matches("meter.").to_owned())
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_and_canonicalises() {
        let now = clock::from_micros(7);
        let meter = Meter::parse(&sample("m-1", "[::ffff:127.10.0.1]:4059"), now).unwrap();
        assert_eq!((meter.client_sap, meter.server_sap), (1, 1));
        assert_eq!(meter.address.to_string(), "127.10.0.1:4059");
        assert_eq!(meter.invocation_counter_name, "0.0.43.1.0.255");
        let said = meter.render();
        assert_eq!(said.transport(), pb::Transport::Tcp);
        assert_eq!(
            said.security.unwrap().policy(),
            SecurityPolicy::AuthenticatedEncrypted
        );
        assert_eq!(
            Meter::parse(&said, now).unwrap(),
            meter,
            "what is rendered can be read"
        );
        let full = Meter::parse(&full("m-2"), now).unwrap();
        assert_eq!(Meter::parse(&full.render(), now).unwrap(), full);
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let now = clock::from_micros(7);
        let line = pb::Meter {
            transport: pb::Transport::Hdlc.into(),
            hdlc: Some(pb::HdlcOptions {
                physical_address: 17,
                ..pb::HdlcOptions::default()
            }),
            ..sample("m-1", "serial:line-1")
        };
        let line = Meter::parse(&line, now).unwrap();
        let hdlc = Hdlc {
            address_octets: 2,
            physical_address: 17,
            max_information: 128,
            window: 1,
        };
        assert_eq!(line.transport, Transport::Hdlc(hdlc));
        let plain = pb::Meter {
            mechanism: Mechanism::None.into(),
            protection: Protection::Plain.into(),
            ..sample("m-1", "127.0.0.1:4059")
        };
        let plain = Meter::parse(&plain, now).unwrap();
        assert_eq!(plain.security.policy, SecurityPolicy::Unspecified);
        assert_eq!(Meter::parse(&plain.render(), now).unwrap(), plain);
    }

    #[test]
    fn every_fact_makes_another_meter() {
        let now = clock::from_micros(7);
        let one = Meter::parse(&full("m-1"), now).unwrap();
        let later = Meter::parse(&full("m-1"), clock::from_micros(8)).unwrap();
        assert!(one.same_facts(&later));
        let changes: [fn(&mut pb::Meter); 8] = [
            |m| m.transport = pb::Transport::Hdlc.into(),
            |m| m.hdlc.as_mut().unwrap().window = 2,
            |m| m.security.as_mut().unwrap().suite = 1,
            |m| m.security.as_mut().unwrap().algorithm_id = 1,
            |m| m.link_mtu = 1_500,
            |m| m.no_release = false,
            |m| m.send_certificate = false,
            |m| m.general_block_transfer = false,
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut other = full("m-1");
            change(&mut other);
            let other = Meter::parse(&other, now).unwrap();
            assert_eq!(one.same_facts(&other), n == 0, "change {n}");
        }
    }

    #[test]
    fn says_all_that_is_wrong_at_once() {
        let all = wrong(|m| {
            *m = pb::Meter {
                meter_id: "a/b".to_owned(),
                address: "meter.example:4059".to_owned(),
                client_sap: 65_536,
                server_sap: 70_000,
                invocation_counter_name: "0.0.43".to_owned(),
                ..pb::Meter::default()
            }
        });
        let expected = [
            "meter_id",
            "profile",
            "address",
            "client_sap",
            "server_sap",
            "invocation_counter_name",
            "mechanism",
            "protection",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn security_that_does_not_go_together() {
        let with = |change: fn(&mut pb::Meter, &mut custody::Security)| {
            wrong(|m| {
                let mut security = custody::Security::default();
                change(m, &mut security);
                m.security = Some(security);
            })
        };
        assert_eq!(with(|_, s| s.suite = 3), ["security.suite"]);
        assert_eq!(with(|_, s| s.signed = true), ["security.signed"]);
        assert_eq!(with(|_, s| s.policy = 9), ["security.policy"]);
        assert_eq!(with(|_, s| s.key_info = 9), ["security.key_info"]);
        assert_eq!(with(|_, s| s.algorithm_id = 9), ["security.algorithm_id"]);
        assert_eq!(with(|_, s| s.algorithm_id = 1), ["security.algorithm_id"]);
        assert_eq!(
            with(|_, s| s.key_info = KeyInfo::Wrapped.into()),
            ["security.key_info"]
        );
        assert_eq!(
            with(|m, s| {
                m.protection = Protection::GeneralCiphering.into();
                s.key_info = KeyInfo::AgreedOnePass.into();
            }),
            ["security.key_info"],
            "suite 0 has no agreed keys"
        );
        assert_eq!(
            wrong(|m| m.mechanism = Mechanism::HlsEcdsa.into()),
            ["mechanism"]
        );
        assert_eq!(wrong(|m| m.send_certificate = true), ["send_certificate"]);
        assert_eq!(
            with(|m, s| {
                m.protection = Protection::Plain.into();
                *s = custody::Security {
                    suite: 1,
                    policy: SecurityPolicy::Authenticated.into(),
                    signed: true,
                    ..custody::Security::default()
                };
            }),
            ["security.suite", "security.policy", "security.signed"]
        );
    }

    #[test]
    fn links_that_do_not_go_together() {
        let hdlc = |change: fn(&mut pb::Meter, &mut pb::HdlcOptions)| {
            wrong(|m| {
                m.transport = pb::Transport::Hdlc.into();
                let mut options = pb::HdlcOptions::default();
                change(m, &mut options);
                m.hdlc = Some(options);
            })
        };
        assert_eq!(wrong(|m| m.transport = 9), ["transport"]);
        assert_eq!(
            wrong(|m| m.hdlc = Some(pb::HdlcOptions::default())),
            ["hdlc"]
        );
        assert_eq!(wrong(|m| m.link_mtu = 127), ["link_mtu"]);
        assert_eq!(wrong(|m| m.link_mtu = 65_536), ["link_mtu"]);
        assert_eq!(
            wrong(|m| {
                m.address = "serial:line-1".to_owned();
                m.link_mtu = 1_280;
            }),
            ["transport", "link_mtu"]
        );
        assert_eq!(hdlc(|_, o| o.address_octets = 3), ["hdlc.address_octets"]);
        assert_eq!(hdlc(|_, o| o.window = 8), ["hdlc.window"]);
        assert_eq!(
            hdlc(|_, o| o.max_information = 31),
            ["hdlc.max_information"]
        );
        assert_eq!(hdlc(|m, _| m.client_sap = 128), ["client_sap"]);
        assert_eq!(hdlc(|m, _| m.server_sap = 128), ["server_sap"]);
        assert_eq!(
            hdlc(|_, o| o.physical_address = 128),
            ["hdlc.physical_address"]
        );
        assert_eq!(
            hdlc(|_, o| {
                o.address_octets = 1;
                o.physical_address = 1;
            }),
            ["hdlc.physical_address"]
        );
    }
}
