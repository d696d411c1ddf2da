//! How an association is opened: link, cipher context, AARQ.
//!
//! The link comes first: a meter that is silent (it boots, say) costs no use of the permit, and a permit that does not
//! hold costs the meter no more than a TCP handshake.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use dlms::{ClientConfig, Data};
use kit::PeerName;
use latchkey_proto::{
    audit::v1::{Command, CommandService, Permit, SignedPermit},
    custody::v1::RotationKeys,
};
use prost::Message as _;
use tokio::time::{Instant, timeout};

use crate::{
    command,
    custodies::Custodies,
    custody::Terms,
    directory::{Meter, Transport},
    error::Error,
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
    pub(crate) custody: Custodies,
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

    /// Opens it; once more if the meter turns out to be ahead of custody's counters, and they could be raised.
    async fn open(self) -> Result<(Session, Opened), Error> {
        let (error, shown) = match self.once().await? {
            Tried::Opened(session, opened) => return Ok((*session, opened)),
            Tried::Hinted => return self.again().await,
            Tried::Refused(error, shown) => (error, shown),
        };
        // A counter that is too low looks so; and so does a wrong key, or a meter that is away.
        let may_be_behind = match error {
            Error::SecurityContext(_) => true,
            // Over UDP a meter that is away looks the same, and every question costs an association of the permit.
            Error::MeterUnreachable { .. } => !matches!(self.meter.transport, Transport::Udp),
            _ => false,
        };
        let ciphered = Manner::of(&self.meter, self.public_client).is_ciphered()
            && self.rotation_keys == RotationKeys::Unspecified;
        if !(may_be_behind && ciphered && shown.is_none() && self.asks_counter().await) {
            return Err(error);
        }
        self.again().await
    }

    async fn again(self) -> Result<(Session, Opened), Error> {
        tracing::warn!(
            meter_id = self.meter.id,
            "the meter is ahead of custody's invocation counter: the association is opened once more"
        );
        match self.once().await? {
            Tried::Opened(session, opened) => Ok((*session, opened)),
            Tried::Refused(error, _) => Err(error),
            Tried::Hinted => Err(Error::SecurityContext(
                "its invocation counter is ahead again".to_owned(),
            )),
        }
    }

    /// Asks the meter for its counter as the public client, if the permit covers it, and tells custody. Whether custody
    /// raised its own.
    async fn asks_counter(&self) -> bool {
        let name = &self.meter.invocation_counter_name;
        let reads = |command: &&Command| {
            command.service() == CommandService::Get
                && (command.class_id, command.index) == (1, 2)
                && !name.is_empty()
                && command.logical_name == *name
        };
        let Some(command) = self.commands.iter().find(reads) else {
            return false;
        };
        let public = Self {
            tools: Arc::clone(&self.tools),
            meter: self.meter.clone(),
            permit: self.permit.clone(),
            commands: vec![command.clone()],
            public_client: true,
            request_id: self.request_id.clone(),
            rotation_keys: RotationKeys::Unspecified,
        };
        let Ok(Tried::Opened(mut session, _)) = public.once().await else {
            return false;
        };
        let raised = match shown(&mut session, command, self.tools.answer_timeout).await {
            Some(shown) => session.hint(shown).await,
            None => false,
        };
        session.release().await;
        raised
    }

    async fn once(&self) -> Result<Tried, Error> {
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
        let opened = self.tools.custody.open(terms).await;
        let (context, granted) = opened.map_err(Error::Custody)?;
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
            Ok(opened) => Ok(Tried::Opened(Box::new(session), opened)),
            Err(error) => {
                let shown = session.shown;
                let hinted = match shown {
                    Some(expected) => session.hint(expected).await,
                    None => false,
                };
                session.close().await;
                Ok(match hinted {
                    true => Tried::Hinted,
                    false => Tried::Refused(error, shown),
                })
            }
        }
    }
}

/// What came of an opening that reached the meter, or tried to.
enum Tried {
    Opened(Box<Session>, Opened),
    /// The meter said which counter it expects, and custody has raised its own.
    Hinted,
    /// It did not open. The counter that the meter expects, if it said one.
    Refused(Error, Option<u32>),
}

/// The invocation counter that the meter shows in clear.
async fn shown(session: &mut Session, command: &Command, limit: Duration) -> Option<u32> {
    let asked = command::parse(Some(command)).ok()?;
    let sent = Arc::new(AtomicBool::new(false));
    let by = Instant::now() + limit;
    let answer = session.invoke(asked, limit, by, &sent).await.ok()?.render();
    match (answer.result, Data::decode(&answer.data)) {
        (0, Ok(Data::DoubleLongUnsigned(shown))) => Some(shown),
        _ => None,
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
