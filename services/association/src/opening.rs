//! How an association is opened: link, cipher context, AARQ.
//!
//! The link comes first: a meter that is silent (it boots, say) costs no use of the permit, and a permit that does not
//! hold costs the meter no more than a TCP handshake.

use std::{sync::Arc, time::Duration};

use dlms::ClientConfig;
use kit::PeerName;
use latchkey_proto::{
    audit::v1::{Command, Permit, SignedPermit},
    custody::v1::RotationKeys,
};
use prost::Message as _;
use tokio::time::timeout;

use crate::{
    custody::{Context, Terms},
    directory::Meter,
    error::Error,
    lane::Lane,
    link::Gateway,
    plan::Plan,
    proposal::{Manner, client_config, conformance},
    session::{Opened, Session},
    trace::Trace,
};

/// What every opening needs.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) gateway: Gateway,
    pub(crate) custody: Lane,
    pub(crate) trace: Trace,
    pub(crate) max_pdu: u16,
    pub(crate) answer_timeout: Duration,
    /// From the first octet to the last pass of HLS.
    pub(crate) opening_timeout: Duration,
}

/// One opening.
pub(crate) struct Opening {
    pub(crate) tools: Arc<Tools>,
    pub(crate) meter: Meter,
    pub(crate) permit: SignedPermit,
    /// What the permit covers: the services to propose follow from it.
    pub(crate) commands: Vec<Command>,
    pub(crate) public_client: bool,
    pub(crate) rotation_keys: RotationKeys,
    pub(crate) request_id: String,
}

/// What the permit says, before custody has judged it: enough to refuse what is plainly wrong.
pub(crate) fn examine(
    permit: &SignedPermit,
    meter_id: &str,
    caller: &PeerName,
) -> Result<Permit, Error> {
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
    Ok(permit)
}

impl Opening {
    pub(crate) async fn run(self) -> Result<(Session, Opened), Error> {
        let request_id = self.request_id.clone();
        kit::context::scope(request_id, Box::pin(self.open())).await
    }

    async fn open(self) -> Result<(Session, Opened), Error> {
        let manner = Manner::of(&self.meter, self.public_client);
        let conformance = conformance(&self.commands, &self.meter, &manner);
        let plan = Plan::new(&self.meter, &manner, conformance, self.tools.max_pdu)?;
        let Meter {
            id,
            address,
            transport,
            ..
        } = &self.meter;
        let gateway = &self.tools.gateway;
        let link = gateway.connect(id, address, *transport).await?;
        let terms = Terms {
            permit: self.permit.clone(),
            meter_id: self.meter.id.clone(),
            mechanism: manner.mechanism,
            protection: manner.protection,
            security: Some(manner.security.render()),
            rotation_keys: self.rotation_keys,
        };
        let (context, granted) = Context::open(self.tools.custody.clone(), terms)
            .await
            .map_err(Error::Custody)?;
        let config = match client_config(&self.meter, &manner, conformance, &granted) {
            Ok(config) => ClientConfig {
                max_pdu: plan.max_pdu,
                frame: plan.frame(),
                answer_timeout_ms: u64::try_from(self.tools.answer_timeout.as_millis())
                    .unwrap_or(u64::MAX),
                ..config
            },
            Err(error) => {
                context.close().await;
                return Err(error);
            }
        };
        let trace = self.tools.trace.of(&self.meter.id, self.meter.transport);
        let meter_id = self.meter.id.clone();
        let mut session = Session::new(meter_id, (config, plan), link, context, trace);
        // Each answer has its limit. A meter that answers in ever more blocks, each in time, would yet hold its lease for
        // as long as the gateway lets it.
        let limit = self.tools.opening_timeout;
        let opened = match timeout(limit, session.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::MeterUnreachable {
                meter_id: self.meter.id.clone(),
                cause: format!("the association was not open after {limit:?}"),
            }),
        };
        match opened {
            Ok(opened) => Ok((session, opened)),
            Err(error) => {
                session.close().await;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(meter_id: &str, requester: &str) -> SignedPermit {
        let permit = Permit {
            meter_id: meter_id.to_owned(),
            requester: requester.to_owned(),
            commands: vec![Command::default()],
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
        let good = examine(&permit("m-1", me.as_str())).unwrap();
        assert_eq!(good.commands.len(), 1);
        assert!(matches!(
            examine(&permit("m-2", me.as_str())),
            Err(Error::PermitMeterMismatch { permit, asked }) if permit == "m-2" && asked == "m-1"
        ));
        assert!(matches!(
            examine(&permit("m-1", "spiffe://t/latchkey/cli")),
            Err(Error::PermitRequesterMismatch { .. })
        ));
        let garbage = SignedPermit {
            body: vec![0xff; 9],
            ..SignedPermit::default()
        };
        assert!(matches!(examine(&garbage), Err(Error::PermitMalformed)));
    }
}
