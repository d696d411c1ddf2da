//! What is proposed to a meter: the services its permit needs and no others, and how the association is secured.
//!
//! | proposed | if |
//! |---|---|
//! | GET, SET, ACTION | the permit holds one; ACTION also for passes 3 and 4 of HLS |
//! | block transfer of each | with it (of ACTION only for a command: passes 3 and 4 are short) |
//! | selective access | a command of the permit has a selection |
//! | multiple references (with-list) | the permit holds two commands of one service |
//! | ACCESS | the permit holds two commands, and APDUs are not ciphered in a service-specific form |
//! | notifications | not to the public client, and not with HDLC, where an idle link would have to be asked for them |
//! | general block transfer | the directory says that the meter can do it |
//!
//! ACCESS has no service-specific tags of ciphering. In an association with such tags it would go in the general form, which
//! the conformance block must grant; and a peer is known that, once it has granted that, answers everything so.
//!
//! A permit without commands (it only proves that an association opens) proposes GET: some meters refuse an association
//! without any service.

use dlms::{
    ClientConfig, Conformance, KeyChoice, LinkConfig, Mechanism, Protection, SecurityControl,
    SystemTitle, security::Suite,
};
use latchkey_proto::{
    audit::v1::{Command, CommandService},
    custody::v1::{self as custody, KeyInfo, OpenContextResponse, SecurityPolicy},
};

use crate::{
    directory::{Meter, Security, Transport},
    error::Error,
};

/// The public client: reads what everybody may, in clear.
const PUBLIC_SAP: u16 = 16;

/// As whom a meter is spoken to, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) client_sap: u16,
    pub(crate) mechanism: custody::Mechanism,
    pub(crate) protection: custody::Protection,
    pub(crate) security: Security,
}

impl Manner {
    /// As the public client, or as the directory says.
    pub(crate) fn of(meter: &Meter, public_client: bool) -> Self {
        if public_client {
            return Self {
                client_sap: PUBLIC_SAP,
                mechanism: custody::Mechanism::None,
                protection: custody::Protection::Plain,
                security: Security::NONE,
            };
        }
        Self {
            client_sap: meter.client_sap,
            mechanism: meter.mechanism,
            protection: meter.protection,
            security: meter.security,
        }
    }

    /// Whether APDUs are ciphered, so that a counter may be too low.
    pub(crate) fn is_ciphered(&self) -> bool {
        !matches!(
            self.protection,
            custody::Protection::Plain | custody::Protection::Unspecified
        )
    }

    /// Whether it is the public client.
    fn is_public(&self) -> bool {
        self.client_sap == PUBLIC_SAP && self.mechanism == custody::Mechanism::None
    }

    /// The mechanism, as the association's value knows it.
    pub(crate) fn mechanism(&self) -> Result<Mechanism, Error> {
        Ok(match self.mechanism {
            custody::Mechanism::None => Mechanism::None,
            custody::Mechanism::Low => Mechanism::Low,
            custody::Mechanism::HlsMd5 => Mechanism::HlsMd5,
            custody::Mechanism::HlsSha1 => Mechanism::HlsSha1,
            custody::Mechanism::HlsGmac => Mechanism::HlsGmac,
            custody::Mechanism::HlsSha256 => Mechanism::HlsSha256,
            custody::Mechanism::HlsEcdsa => Mechanism::HlsEcdsa,
            custody::Mechanism::Unspecified => {
                return Err(Error::Unsupported("no mechanism".to_owned()));
            }
        })
    }

    /// The protection, likewise.
    pub(crate) fn protection(&self) -> Result<Protection, Error> {
        Ok(match self.protection {
            custody::Protection::Plain => Protection::Plain,
            custody::Protection::Glo => Protection::Glo,
            custody::Protection::GeneralGlo => Protection::GeneralGlo,
            custody::Protection::Ded => Protection::Ded,
            custody::Protection::GeneralDed => Protection::GeneralDed,
            custody::Protection::GeneralCiphering => {
                Protection::GeneralCiphering(match self.security.key_info {
                    KeyInfo::Unspecified => KeyChoice::Identified,
                    KeyInfo::Wrapped => KeyChoice::Wrapped,
                    KeyInfo::AgreedOnePass => KeyChoice::OnePass,
                    KeyInfo::AgreedStatic => KeyChoice::Static,
                })
            }
            custody::Protection::Unspecified => {
                return Err(Error::Unsupported("no protection".to_owned()));
            }
        })
    }

    /// Suite and policy, as the control octet says them.
    pub(crate) fn control(&self) -> SecurityControl {
        let suite = Suite::from_id(self.security.suite).unwrap_or_default();
        let (authenticated, encrypted) = match self.security.policy {
            SecurityPolicy::Authenticated => (true, false),
            SecurityPolicy::Encrypted => (false, true),
            SecurityPolicy::Unspecified | SecurityPolicy::AuthenticatedEncrypted => (true, true),
        };
        SecurityControl::of(suite, authenticated, encrypted)
    }
}

/// The services to propose for these commands.
pub(crate) fn conformance(commands: &[Command], meter: &Meter, manner: &Manner) -> Conformance {
    let count = |service| {
        let of = commands
            .iter()
            .filter(|command| command.service() == service);
        of.count()
    };
    let gets = count(CommandService::Get);
    let sets = count(CommandService::Set);
    let actions = count(CommandService::Action);
    let hls = manner.mechanism().is_ok_and(Mechanism::is_high_level);
    let told = !manner.is_public();
    let specific = matches!(
        manner.protection,
        custody::Protection::Glo | custody::Protection::Ded
    );
    let proposals = [
        (
            gets > 0 || commands.is_empty(),
            Conformance::GET | Conformance::BLOCK_TRANSFER_GET,
        ),
        (sets > 0, Conformance::SET | Conformance::BLOCK_TRANSFER_SET),
        (
            actions > 0,
            Conformance::ACTION | Conformance::BLOCK_TRANSFER_ACTION,
        ),
        (hls, Conformance::ACTION),
        (
            commands.iter().any(|command| !command.selection.is_empty()),
            Conformance::SELECTIVE_ACCESS,
        ),
        (
            told && gets.max(sets).max(actions) > 1,
            Conformance::MULTIPLE_REFERENCES,
        ),
        (told && commands.len() > 1 && !specific, Conformance::ACCESS),
        (
            told && !matches!(meter.transport, Transport::Hdlc(_)),
            Conformance::EVENT_NOTIFICATION | Conformance::DATA_NOTIFICATION,
        ),
        (
            told && meter.general_block_transfer,
            Conformance::GENERAL_BLOCK_TRANSFER,
        ),
    ];
    let proposed = proposals.into_iter().filter(|(wanted, _)| *wanted);
    proposed.fold(Conformance::NONE, |all, (_, services)| all | services)
}

/// How APDUs travel to the meter.
pub(crate) fn link(meter: &Meter) -> LinkConfig {
    match meter.transport {
        Transport::Tcp => LinkConfig::Tcp,
        Transport::Udp => LinkConfig::Udp,
        Transport::Hdlc(hdlc) => LinkConfig::Hdlc(dlms::hdlc::Config {
            address_octets: hdlc.address_octets,
            physical: hdlc.physical_address,
            max_info: hdlc.max_information,
            window: hdlc.window,
            ..dlms::hdlc::Config::default()
        }),
    }
}

/// The association to be opened: as the directory says, with what custody granted.
pub(crate) fn client_config(
    meter: &Meter,
    manner: &Manner,
    conformance: Conformance,
    granted: &OpenContextResponse,
) -> Result<ClientConfig, Error> {
    let certificate = &granted.client_certificate;
    let send_certificate = meter.send_certificate && !manner.is_public();
    if send_certificate && certificate.is_empty() {
        return Err(Error::Unsupported(
            "the meter wants our certificate in the AARQ, and custody has none configured"
                .to_owned(),
        ));
    }
    Ok(ClientConfig {
        link: link(meter),
        client_sap: manner.client_sap,
        server_sap: meter.server_sap,
        mechanism: manner.mechanism()?,
        protection: manner.protection()?,
        control: manner.control(),
        signed: manner.security.signed,
        client_title: title(&granted.client_system_title)?,
        expected_server_title: title(&granted.server_system_title)?,
        authentication_value: granted.calling_authentication_value.clone(),
        certificate: send_certificate.then(|| certificate.clone()),
        conformance,
        release: !meter.no_release,
        // It acts only where a meter says "not now": most often it still holds an association that nobody released.
        recover: true,
        ..ClientConfig::default()
    })
}

fn title(octets: &[u8]) -> Result<Option<SystemTitle>, Error> {
    match octets {
        [] => Ok(None),
        octets => SystemTitle::from_slice(octets).map(Some).ok_or_else(|| {
            Error::Unsupported("custody gave a system title that has not 8 octets".to_owned())
        }),
    }
}

#[cfg(test)]
mod tests {
    use kit::clock;

    use super::*;
    use crate::directory::tests::{full, sample};

    fn command(service: CommandService, selection: &[u8]) -> Command {
        Command {
            service: service.into(),
            selection: selection.to_vec(),
            ..Command::default()
        }
    }

    fn meter(message: &latchkey_proto::association::v1::Meter) -> Meter {
        Meter::parse(message, clock::from_micros(0)).unwrap()
    }

    #[test]
    fn nothing_is_proposed_that_the_permit_does_not_need() {
        use CommandService::{Action, Get, Set};
        let hls = meter(&sample("m-1", "127.0.0.1:4059"));
        let told = Conformance::EVENT_NOTIFICATION | Conformance::DATA_NOTIFICATION;
        let reads = Conformance::GET | Conformance::BLOCK_TRANSFER_GET | told;
        let authenticates = Conformance::ACTION;
        let cases: [(&[Command], Conformance); 6] = [
            (&[], reads | authenticates),
            (&[command(Get, &[])], reads | authenticates),
            (
                &[command(Get, &[2])],
                reads | authenticates | Conformance::SELECTIVE_ACCESS,
            ),
            (
                &[command(Get, &[]), command(Get, &[])],
                reads | authenticates | Conformance::MULTIPLE_REFERENCES,
            ),
            (
                &[command(Get, &[]), command(Action, &[])],
                reads | authenticates | Conformance::BLOCK_TRANSFER_ACTION,
            ),
            (
                &[command(Set, &[])],
                Conformance::SET | Conformance::BLOCK_TRANSFER_SET | told | authenticates,
            ),
        ];
        for (commands, expected) in cases {
            let manner = Manner::of(&hls, false);
            assert_eq!(
                conformance(commands, &hls, &manner),
                expected,
                "{commands:?}"
            );
        }
        let public = Manner::of(&hls, true);
        assert_eq!(
            conformance(&[command(Get, &[]), command(Get, &[])], &hls, &public),
            Conformance::GET | Conformance::BLOCK_TRANSFER_GET,
            "the public client reads one counter"
        );
        let full = meter(&full("m-2"));
        let manner = Manner::of(&full, false);
        assert!(conformance(&[], &full, &manner).contains(Conformance::GENERAL_BLOCK_TRANSFER));
        let two = [command(Get, &[]), command(Set, &[])];
        let on_line = conformance(&two, &full, &manner);
        assert!(on_line.contains(Conformance::ACCESS));
        assert!(!on_line.contains(Conformance::EVENT_NOTIFICATION));
    }

    #[test]
    fn the_directory_says_how() {
        let full = meter(&full("m-2"));
        let manner = Manner::of(&full, false);
        assert_eq!(manner.mechanism().unwrap(), Mechanism::HlsEcdsa);
        assert_eq!(
            manner.protection().unwrap(),
            Protection::GeneralCiphering(KeyChoice::Static)
        );
        assert_eq!(manner.control().octet(), 0x22, "suite 2, encrypted only");
        let public = Manner::of(&full, true);
        assert_eq!(
            (public.client_sap, public.protection().unwrap()),
            (16, Protection::Plain)
        );
        assert_eq!(public.control(), SecurityControl::AUTH_ENC);
    }

    #[test]
    fn a_certificate_that_is_wanted_is_there_or_nothing_is_sent() {
        let udp = meter(&latchkey_proto::association::v1::Meter {
            transport: latchkey_proto::association::v1::Transport::Udp.into(),
            hdlc: None,
            ..full("m-2")
        });
        let manner = Manner::of(&udp, false);
        let mut granted = OpenContextResponse {
            client_system_title: vec![1; 8],
            calling_authentication_value: vec![2; 32],
            ..OpenContextResponse::default()
        };
        let config =
            |granted: &OpenContextResponse| client_config(&udp, &manner, Conformance::GET, granted);
        assert!(matches!(config(&granted), Err(Error::Unsupported(_))));
        granted.client_certificate = vec![0x30, 0];
        let made = config(&granted).unwrap();
        assert_eq!(made.certificate, Some(vec![0x30, 0]));
        assert_eq!(
            (made.link, made.signed, made.release),
            (LinkConfig::Udp, true, false)
        );
        granted.server_system_title = vec![1; 7];
        assert!(config(&granted).is_err());
    }
}
