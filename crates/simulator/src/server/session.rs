//! One association, whatever carries it: jobs, requests, events, and what goes out.

use std::time::Duration;

use dlms::{
    MeterConfig, Notification, Request,
    meter::{Effect, Event},
};
use softcipher::Session;
use tokio::time::sleep;

use super::{Running, bend, challenge};
use crate::{
    Error, FaultKind, Happening,
    device::{Aftermath, Device},
    objects::{View, respond},
    options::PUBLIC_SAP,
};

/// Why a conversation ended, for the `disconnected` event.
pub(super) type Reason = &'static str;

/// Where frames go.
pub(super) trait Outlet: Send {
    /// Sends a frame; whether it could.
    fn send(&mut self, frame: &[u8]) -> impl Future<Output = bool> + Send;
}

/// A client and its association.
pub(super) struct Talk {
    association: dlms::Meter,
    session: Session,
    pub(super) view: View,
    /// Open, and authenticated where that is asked.
    open: bool,
    /// An old association is still open: none is granted.
    stuck: bool,
    /// When the association wants to be told the time.
    pub(super) timer: Option<u64>,
    /// The client's challenge, where a fault needs it.
    challenge: Option<Vec<u8>>,
    /// What goes out instead of the next answer.
    instead: Option<Vec<u8>>,
}

impl Talk {
    /// Whether it is the management client, associated.
    pub(super) fn hears_events(&self) -> bool {
        self.open && self.view == View::Management
    }
}

impl Running {
    /// A client that has said nothing yet.
    pub(super) fn talk(&mut self) -> Talk {
        let stuck = self.device.fault.strikes(FaultKind::StuckAssociation);
        let config = if stuck {
            MeterConfig {
                clients: Vec::new(),
                ..self.config.clone()
            }
        } else {
            self.config.clone()
        };
        let challenge = challenge(&self.config);
        Talk {
            association: dlms::Meter::new(config, challenge),
            session: Session::default(),
            view: View::Public,
            open: false,
            stuck,
            timer: None,
            challenge: None,
            instead: None,
        }
    }

    /// Takes octets, and does all that follows from them. Why it is over, if it is.
    pub(super) async fn hear(
        &mut self,
        talk: &mut Talk,
        outlet: &mut impl Outlet,
        octets: &[u8],
    ) -> Result<Option<Reason>, Error> {
        self.device.advance(self.now());
        if self.device.fault.is(FaultKind::ReflectedChallenge)
            && let Some(challenge) = bend::challenge(self.link(), octets)
        {
            talk.challenge = Some(challenge);
        }
        talk.association.handle_bytes(self.now(), octets);
        self.drain(talk, outlet).await
    }

    /// The time an association asked for has come.
    pub(super) async fn tick(
        &mut self,
        talk: &mut Talk,
        outlet: &mut impl Outlet,
    ) -> Result<Option<Reason>, Error> {
        talk.timer = None;
        talk.association.handle_timeout(self.now());
        self.drain(talk, outlet).await
    }

    /// Tells the client something, if it can be told it now.
    pub(super) async fn tell(
        &mut self,
        talk: &mut Talk,
        outlet: &mut impl Outlet,
        notification: &Notification,
    ) -> Result<Option<Reason>, Error> {
        match talk.association.notify(self.now(), notification) {
            Ok(()) => self.drain(talk, outlet).await,
            Err(_) => Ok(None),
        }
    }

    /// Does all that the association wants done; then the reset it was asked for, whose answer is out by now.
    async fn drain(
        &mut self,
        talk: &mut Talk,
        outlet: &mut impl Outlet,
    ) -> Result<Option<Reason>, Error> {
        while let Some(effect) = talk.association.poll() {
            let end = match effect {
                Effect::Transmit(frame) => self.transmit(talk, outlet, frame).await?,
                Effect::Cipher(job) => {
                    let Device { cipher, fault, .. } = &mut self.device;
                    if talk.open {
                        talk.instead = cipher.instead(&mut talk.session, &job.op, fault);
                    }
                    let result = cipher.run(&mut talk.session, job.op);
                    talk.association.handle_cipher(self.now(), job.id, result);
                    None
                }
                Effect::Ask(request) => self.ask(talk, &request),
                Effect::Event(event) => self.association_event(talk, event),
                Effect::Timer(at) => {
                    talk.timer = Some(at);
                    None
                }
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        let Some(tier) = self.device.take_accepted() else {
            return Ok(None);
        };
        let aftermath = self.device.reset(tier, self.now());
        self.device.save()?;
        Ok((aftermath == Aftermath::SessionGone).then_some("reset"))
    }

    /// Sends a frame. NVRAM is written first: no counter that was seen outside may ever be used again.
    async fn transmit(
        &mut self,
        talk: &mut Talk,
        outlet: &mut impl Outlet,
        mut frame: Vec<u8>,
    ) -> Result<Option<Reason>, Error> {
        self.device.save()?;
        let delay = Duration::from_millis(self.device.fault.delay_ms());
        if !delay.is_zero() {
            tokio::select! {
                () = self.shutdown.fired() => return Ok(Some("shutdown")),
                () = sleep(delay) => {}
            }
        }
        if let Some(instead) = talk.instead.take() {
            frame = bend::replaced(self.link(), frame, &instead);
        }
        let refused = talk.stuck && bend::is_aare(self.link(), &frame);
        let Self { device, config, .. } = self;
        let frames = if refused {
            vec![bend::replaced(&config.link, frame, &NOT_POSSIBLE)]
        } else {
            let challenge = talk.challenge.as_deref();
            bend::bent(&config.link, frame, challenge, &mut device.fault)
        };
        for frame in frames {
            if !outlet.send(&frame).await {
                return Ok(Some("broken"));
            }
        }
        Ok(refused.then(|| self.tell_stuck()))
    }

    /// A meter whose old association was never released allows no other.
    fn tell_stuck(&mut self) -> Reason {
        self.device.tell(Happening::Association {
            outcome: "refused",
            client_sap: 0,
            detail: "fault stuck-association: an old association is still open".into(),
        });
        "stuck association"
    }

    /// Serves one request.
    fn ask(&mut self, talk: &mut Talk, request: &Request) -> Option<Reason> {
        if let Some(reason) = self.lose_request(request) {
            return Some(reason);
        }
        let now = self.now();
        let response = respond(&mut self.device, talk.view, request, now);
        if changes_keys(request) {
            if self.device.fault.strikes(FaultKind::RekeyForgotten) {
                self.device.cipher.forget();
            }
            if self.device.fault.strikes(FaultKind::LostRekeyAck) {
                self.device.tell(Happening::Dropped {
                    what: "answer",
                    why: "fault lost-rekey-ack".into(),
                });
                return Some("link lost");
            }
        }
        if self.device.has_accepted() {
            let lost = self.device.fault.strikes(FaultKind::LostAck);
            if lost {
                self.device.tell(Happening::Dropped {
                    what: "answer",
                    why: "fault lost-ack".into(),
                });
            }
            if lost || self.device.fault.is(FaultKind::RebootBeforeAck) {
                let tier = self.device.take_accepted()?;
                self.device.reset(tier, now);
                return Some("reset");
            }
        }
        if talk.association.answer(now, response).is_err() {
            return Some("out of step");
        }
        None
    }

    /// Plays a request that was lost on its way: the meter knows nothing of it, not even its counter.
    fn lose_request(&mut self, request: &Request) -> Option<Reason> {
        let fault = &mut self.device.fault;
        let why = if changes_keys(request) && fault.strikes(FaultKind::LostRekeyRequest) {
            "fault lost-rekey-request"
        } else if self.device.is_reset(request) && self.device.fault.strikes(FaultKind::LostRequest)
        {
            "fault lost-request"
        } else {
            return None;
        };
        self.device.cipher.unreceive();
        self.device.tell(Happening::Dropped {
            what: "request",
            why: why.into(),
        });
        Some("link lost")
    }

    fn association_event(&mut self, talk: &mut Talk, event: Event) -> Option<Reason> {
        let (outcome, client_sap, detail) = match event {
            Event::Opened {
                client_sap,
                client_title,
                mechanism,
            } => {
                self.device.cipher.open();
                talk.open = true;
                talk.view = if client_sap == PUBLIC_SAP {
                    View::Public
                } else {
                    View::Management
                };
                let title =
                    client_title.map_or_else(|| "none".to_owned(), |title| title.to_string());
                (
                    "opened",
                    client_sap,
                    format!("{mechanism:?}, client system title {title}"),
                )
            }
            Event::Refused { client_sap, why } => {
                talk.open = false;
                ("refused", client_sap, why.to_owned())
            }
            Event::Released => {
                talk.open = false;
                self.device.association_ended(talk.view, self.now());
                ("released", 0, String::new())
            }
            Event::Confirmed(_) => return None,
            Event::NotDeciphered(failure) => {
                self.device.tell(Happening::Dropped {
                    what: "request",
                    why: failure.to_string(),
                });
                return None;
            }
            Event::Failed(error) => {
                self.device.tell(Happening::Dropped {
                    what: "frame",
                    why: error.to_string(),
                });
                return Some("not DLMS");
            }
        };
        talk.association.refill(challenge(&self.config));
        self.device.tell(Happening::Association {
            outcome,
            client_sap,
            detail,
        });
        None
    }
}

/// `key_transfer` or `key_agreement` of a security setup.
fn changes_keys(request: &Request) -> bool {
    matches!(request, Request::Action { method, .. } if method.class_id == 64 && [2, 3].contains(&method.index))
}

/// exception-response, service-not-allowed, operation-not-possible.
const NOT_POSSIBLE: [u8; 3] = [0xD8, 1, 1];
