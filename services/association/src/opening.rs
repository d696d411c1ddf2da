//! How an association is opened: link, cipher context, AARQ.
//!
//! The link comes first: a meter that is silent (it boots, say) costs no use of the permit, and a permit that does not
//! hold costs the meter no more than a TCP handshake.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dlms::{ClientConfig, Conformance, SystemTitle};
use kit::PeerName;
use latchkey_proto::{
    audit::v1::{CommandService, Permit, SignedPermit},
    custody::v1::{self as custody, Mechanism, OpenContextResponse, Protection},
};
use prost::Message as _;

use crate::{
    custody::{Context, Custody, Terms},
    directory::{Address, Meter, Security, Transport},
    error::Error,
    link::Gateway,
    session::{Opened, Session},
    trace::Trace,
};

/// The public client: reads what everybody may, in clear.
const PUBLIC_SAP: u16 = 16;

/// What every opening needs.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) gateway: Gateway,
    pub(crate) custody: Custody,
    pub(crate) trace: Trace,
    pub(crate) max_pdu: u16,
    pub(crate) answer_timeout: Duration,
}

/// One opening.
pub(crate) struct Opening {
    pub(crate) tools: Arc<Tools>,
    pub(crate) meter: Meter,
    pub(crate) permit: SignedPermit,
    pub(crate) services: Conformance,
    pub(crate) public_client: bool,
    pub(crate) request_id: String,
}

/// What the permit says, before custody has judged it: enough to refuse what is plainly wrong. Returns the services
/// to be proposed: SET only if the permit holds one.
pub(crate) fn examine(
    permit: &SignedPermit,
    meter_id: &str,
    caller: &PeerName,
) -> Result<Conformance, Error> {
    let permit = Permit::decode(permit.body.as_slice()).map_err(|_| Error::PermitMalformed)?;
    if permit.meter_id != meter_id {
        let (permit, asked) = (
            permit.meter_id.chars().take(64).collect(),
            meter_id.to_owned(),
        );
        return Err(Error::PermitMeterMismatch { permit, asked });
    }
    if permit.requester != caller.as_str() {
        let given = permit.requester.chars().take(255).collect();
        return Err(Error::PermitRequesterMismatch {
            given,
            caller: caller.to_string(),
        });
    }
    let sets = permit
        .commands
        .iter()
        .any(|command| command.service() == CommandService::Set);
    Ok(if sets {
        Conformance::RESET | Conformance::SET
    } else {
        Conformance::RESET
    })
}

impl Opening {
    pub(crate) async fn run(self) -> Result<(Session, Opened), Error> {
        let request_id = self.request_id.clone();
        kit::context::scope(request_id, Box::pin(self.open())).await
    }

    async fn open(self) -> Result<(Session, Opened), Error> {
        let address = self.check_carried()?;
        let link = self.tools.gateway.connect(&self.meter.id, address).await?;
        let (mechanism, protection) = self.manner();
        let terms = Terms {
            permit: self.permit.clone(),
            meter_id: self.meter.id.clone(),
            mechanism,
            protection,
        };
        let (context, granted) = Context::open(self.tools.custody.clone(), terms)
            .await
            .map_err(Error::Custody)?;
        let config = match self.client_config(&granted) {
            Ok(config) => config,
            Err(error) => {
                context.close().await;
                return Err(error);
            }
        };
        let trace = self.tools.trace.of(&self.meter.id);
        let mut session = Session::new(self.meter.id.clone(), config, link, context, trace);
        match session.open().await {
            Ok(opened) => Ok((session, opened)),
            Err(error) => {
                session.close().await;
                Err(error)
            }
        }
    }

    /// What the directory knows and this service does not do yet is refused: it must not be opened as something else.
    fn check_carried(&self) -> Result<SocketAddr, Error> {
        let Meter {
            address,
            transport,
            protection,
            security,
            ..
        } = &self.meter;
        let plainest = Security::parse(&custody::Security::default(), *protection);
        match address {
            Address::Ip(address) if *transport == Transport::Tcp && plainest == Some(*security) => {
                Ok(*address)
            }
            Address::Ip(_) | Address::Serial(_) => Err(Error::Unsupported(
                "its transport or its security is not carried yet".to_owned(),
            )),
        }
    }

    fn manner(&self) -> (Mechanism, Protection) {
        if self.public_client {
            (Mechanism::None, Protection::Plain)
        } else {
            (self.meter.mechanism, self.meter.protection)
        }
    }

    fn client_config(&self, granted: &OpenContextResponse) -> Result<ClientConfig, Error> {
        let title = |octets: &[u8]| match octets {
            [] => Ok(None),
            octets => SystemTitle::from_slice(octets).map(Some).ok_or_else(|| {
                Error::Unsupported("custody gave a system title that has not 8 octets".to_owned())
            }),
        };
        let (mechanism, protection) = self.manner();
        Ok(ClientConfig {
            client_sap: if self.public_client {
                PUBLIC_SAP
            } else {
                self.meter.client_sap
            },
            server_sap: self.meter.server_sap,
            mechanism: match mechanism {
                Mechanism::None => dlms::Mechanism::None,
                Mechanism::Low => dlms::Mechanism::Low,
                Mechanism::HlsGmac => dlms::Mechanism::HlsGmac,
                Mechanism::Unspecified
                | Mechanism::HlsMd5
                | Mechanism::HlsSha1
                | Mechanism::HlsSha256
                | Mechanism::HlsEcdsa => {
                    return Err(Error::Unsupported("no mechanism".to_owned()));
                }
            },
            protection: match protection {
                Protection::Plain => dlms::Protection::Plain,
                Protection::Glo => dlms::Protection::Glo,
                Protection::GeneralGlo => dlms::Protection::GeneralGlo,
                Protection::Unspecified
                | Protection::Ded
                | Protection::GeneralDed
                | Protection::GeneralCiphering => {
                    return Err(Error::Unsupported("no protection".to_owned()));
                }
            },
            client_title: title(&granted.client_system_title)?,
            expected_server_title: title(&granted.server_system_title)?,
            authentication_value: granted.calling_authentication_value.clone(),
            max_pdu: self.tools.max_pdu,
            conformance: self.services,
            answer_timeout_ms: u64::try_from(self.tools.answer_timeout.as_millis())
                .unwrap_or(u64::MAX),
            ..ClientConfig::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use latchkey_proto::audit::v1::Command;

    use super::*;

    fn permit(meter_id: &str, requester: &str, services: &[CommandService]) -> SignedPermit {
        let commands = services.iter().map(|service| Command {
            service: (*service).into(),
            ..Command::default()
        });
        let permit = Permit {
            meter_id: meter_id.to_owned(),
            requester: requester.to_owned(),
            commands: commands.collect(),
            ..Permit::default()
        };
        SignedPermit {
            body: permit.encode_to_vec(),
            ..SignedPermit::default()
        }
    }

    #[test]
    fn what_is_plainly_wrong_is_refused_here() {
        let me: PeerName = "spiffe://t/latchkey/reset".parse().unwrap();
        let examine = |permit: &SignedPermit| examine(permit, "m-1", &me);
        let services = [CommandService::Get, CommandService::Action];
        assert_eq!(
            examine(&permit("m-1", me.as_str(), &services)).unwrap(),
            Conformance::RESET
        );
        let with_set = permit("m-1", me.as_str(), &[CommandService::Set]);
        assert!(examine(&with_set).unwrap().contains(Conformance::SET));
        assert!(matches!(
            examine(&permit("m-2", me.as_str(), &services)),
            Err(Error::PermitMeterMismatch { permit, asked }) if permit == "m-2" && asked == "m-1"
        ));
        assert!(matches!(
            examine(&permit("m-1", "spiffe://t/latchkey/cli", &services)),
            Err(Error::PermitRequesterMismatch { .. })
        ));
        let garbage = SignedPermit {
            body: vec![0xff; 9],
            ..SignedPermit::default()
        };
        assert!(matches!(examine(&garbage), Err(Error::PermitMalformed)));
    }
}
