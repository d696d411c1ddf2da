//! One association under way: the [`dlms::Client`] value, its socket and its cipher context, and the loop that carries
//! out what the value asks for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dlms::{
    Cause, CipherJob, CipherOp, Client, ClientConfig, Conformance, Effect, Event, wrapper::HEADER,
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    answer::Answer,
    command::{Asked, Kind},
    crash,
    custody::{Context, is_command},
    error::Error,
    failure,
    inbox::Inbox,
    link::Link,
    plan::Plan,
    trace::MeterTrace,
};

/// Longest time for a release, and for each part of a farewell.
const FAREWELL: Duration = Duration::from_secs(2);
const READ: usize = 4096;

pub(crate) struct Session {
    pub(crate) meter_id: String,
    client: Client,
    link: Link,
    context: Context,
    trace: MeterTrace,
    /// How requests cross the link, by what the meter granted.
    plan: Plan,
    /// The longest APDU the meter receives; 0 means no limit.
    server_max_pdu: u16,
    epoch: Instant,
    timer: Option<Instant>,
    buffer: Vec<u8>,
    /// The invocation counter that the meter expects, as it said in place of an AARE.
    pub(crate) shown: Option<u32>,
    /// What the meter granted.
    conformance: Conformance,
    /// What it said unasked.
    inbox: Inbox,
    /// The request under way, from the moment it is asked for to its answer.
    current: Option<Current>,
    /// The link broke without an orderly end: not the meter's doing.
    broken: bool,
    /// The link ended in order: the meter closed it.
    closed_by_meter: bool,
}

/// A request under way.
struct Current {
    kind: Kind,
    /// Custody let it through: what is transmitted from now on is its own. Before that it may be the link's.
    released: bool,
    /// Set just before its first octet is handed to the socket.
    sent: Arc<AtomicBool>,
}

/// What an association has come to when it is open.
pub(crate) struct Opened {
    pub(crate) server_title: Vec<u8>,
    pub(crate) conformance: u32,
    /// The longest APDU the meter receives.
    pub(crate) server_max_pdu: u16,
    /// The longest APDU this side said it receives.
    pub(crate) client_max_pdu: u16,
}

/// What happens while nothing was asked.
pub(crate) enum Stir {
    /// Octets came, or the end of them.
    Read(std::io::Result<usize>),
    /// The association's timer.
    Time,
}

impl Session {
    pub(crate) fn new(
        meter_id: String,
        (config, plan): (ClientConfig, Plan),
        link: Link,
        context: Context,
        trace: MeterTrace,
    ) -> Self {
        // A datagram comes whole: the longest that is taken must fit.
        let room = match usize::from(config.max_pdu) {
            0 => usize::from(u16::MAX),
            max_pdu => READ.max(max_pdu.saturating_add(HEADER)),
        };
        Self {
            meter_id,
            plan,
            client: Client::new(config),
            link,
            context,
            trace,
            epoch: Instant::now(),
            timer: None,
            buffer: vec![0; room],
            server_max_pdu: 0,
            shown: None,
            conformance: Conformance::NONE,
            inbox: Inbox::default(),
            current: None,
            broken: false,
            closed_by_meter: false,
        }
    }

    /// AARQ to the last pass of HLS.
    pub(crate) async fn open(&mut self) -> Result<Opened, Error> {
        self.client.open(self.now_ms());
        match self.next_event().await {
            Event::Opened {
                server_title,
                conformance,
                max_pdu,
            } => {
                self.conformance = conformance;
                self.server_max_pdu = max_pdu;
                self.plan.granted(conformance);
                Ok(Opened {
                    server_title: server_title
                        .map(|title| title.bytes().to_vec())
                        .unwrap_or_default(),
                    conformance: conformance.bits(),
                    server_max_pdu: max_pdu,
                    client_max_pdu: self.plan.max_pdu,
                })
            }
            Event::Failed(cause) => Err(self.opening_error(cause)),
            Event::NotSent(_) | Event::Answered(_) | Event::Notified(_) | Event::Released => Err(
                Error::Protocol("the association ended while it was opened".to_owned()),
            ),
        }
    }

    /// Tells custody which counter the meter shows; whether ours were raised, so that another opening may succeed.
    pub(crate) async fn hint(&self, shown: u32) -> bool {
        match self.context.hint(shown).await {
            Ok(raised) => raised,
            Err(status) => {
                tracing::warn!(meter_id = self.meter_id, shown, %status, "custody takes no hint");
                false
            }
        }
    }

    fn opening_error(&mut self, cause: Cause) -> Error {
        self.shown = match &cause {
            Cause::Exception(exception) | Cause::NotOpened(exception) => exception.counter,
            _ => None,
        };
        if self.broken {
            return Error::GatewayUnreachable(
                "the connection broke while the association was opened".to_owned(),
            );
        }
        failure::opening(&self.meter_id, cause, self.context.refusal.take())
    }

    /// Sends one request and waits for its answer, until `respond_by` at the latest. `sent` is set just before the
    /// first octet is handed to the socket: an error means that it is not set, and that nothing was sent.
    pub(crate) async fn invoke(
        &mut self,
        asked: Asked,
        answer_timeout: Duration,
        respond_by: Instant,
        sent: &Arc<AtomicBool>,
    ) -> Result<Answer, Error> {
        if !self.conformance.contains(asked.needs) {
            return Err(Error::NotGranted(asked.needs));
        }
        self.plan.check(&asked.command, self.server_max_pdu)?;
        let (kind, count) = (asked.kind, asked.count);
        self.current = Some(Current {
            kind,
            released: false,
            sent: Arc::clone(sent),
        });
        self.context.refusal = None;
        self.context.counter = 0;
        self.client
            .set_answer_timeout_ms(u64::try_from(answer_timeout.as_millis()).unwrap_or(u64::MAX));
        let event = match self.client.request(self.now_ms(), asked.command) {
            Ok(()) => timeout_at(respond_by, self.next_event()).await,
            Err(error) => {
                self.current = None;
                return Err(failure::request(&error));
            }
        };
        self.current = None;
        let counter = self.context.counter;
        let answer = match event {
            Ok(Event::Answered(response)) => {
                crash::after_answer(kind);
                Answer::of(response, count, counter)
            }
            Ok(Event::NotSent(_)) => return Err(self.not_sent()),
            Ok(event) if sent.load(Ordering::SeqCst) => {
                Answer::unknown(&self.loss(&event), counter)
            }
            Err(_) if sent.load(Ordering::SeqCst) => {
                Answer::unknown("no answer before the caller's deadline", counter)
            }
            Ok(_) => return Err(self.not_sent()),
            Err(_) => return Err(Error::TooLate),
        };
        Ok(answer.with(self.inbox.take()))
    }

    /// Why the answer to a request that was sent is not known.
    fn loss(&mut self, event: &Event) -> String {
        let refusal = self.context.refusal.take();
        match event {
            Event::Failed(cause) => failure::loss(cause, refusal.as_ref(), self.broken),
            Event::Opened { .. }
            | Event::Answered(_)
            | Event::NotSent(_)
            | Event::Notified(_)
            | Event::Released => "the association ended without an answer".to_owned(),
        }
    }

    fn not_sent(&mut self) -> Error {
        match self.context.refusal.take() {
            // With its context the association is gone.
            Some(status) if self.context.lost => {
                tracing::warn!(meter_id = self.meter_id, %status, "custody has lost the context");
                Error::AssociationGone
            }
            Some(status) => Error::Custody(status),
            None => Error::AssociationGone,
        }
    }

    /// RLRQ, and then everything is closed. Whatever the meter says to it, the association is over.
    pub(crate) async fn release(mut self) {
        if self.is_open() {
            self.client.release(self.now_ms());
            if timeout(FAREWELL, self.next_event()).await.is_err() {
                tracing::debug!(
                    meter_id = self.meter_id,
                    "the meter did not answer the release"
                );
            }
        }
        self.close().await;
    }

    /// Closes socket and cipher context without a word to the meter.
    pub(crate) async fn close(mut self) {
        let farewell = async {
            if let Err(error) = self.link.shutdown().await {
                tracing::debug!(%error, "the link did not close in order");
            }
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("the link did not close in time");
        }
        drop(self.link);
        if timeout(FAREWELL, self.context.close()).await.is_err() {
            tracing::debug!("custody did not close the context in time");
        }
    }

    /// Whether another command can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.client.is_ready() && !self.context.lost
    }

    /// Whether it was the meter that ended it.
    pub(crate) fn was_closed_by_meter(&self) -> bool {
        self.closed_by_meter && !self.broken
    }

    /// The invocation counter of the request that was ciphered last.
    pub(crate) fn spent_counter(&self) -> u32 {
        self.context.counter
    }

    /// What happens while nothing was asked. Safe to drop before it is ready.
    pub(crate) async fn stir(&mut self) -> Stir {
        let timer = self.timer;
        let time_out = async {
            match timer {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = self.link.read(&mut self.buffer) => Stir::Read(read),
            () = time_out => Stir::Time,
        }
    }

    /// Takes what [`Self::stir`] gave; whether the association is still open.
    pub(crate) async fn take_in(&mut self, stir: Stir) -> bool {
        self.wake(stir);
        !matches!(
            self.settle().await,
            Some(Event::Failed(_) | Event::Released)
        )
    }

    /// Runs until the association has something to say.
    async fn next_event(&mut self) -> Event {
        loop {
            if let Some(event) = self.settle().await {
                return event;
            }
            let stir = self.stir().await;
            self.wake(stir);
        }
    }

    fn wake(&mut self, stir: Stir) {
        match stir {
            Stir::Read(read) => self.absorb(read),
            Stir::Time => {
                self.timer = None;
                self.client.handle_timeout(self.now_ms());
            }
        }
    }

    fn absorb(&mut self, read: std::io::Result<usize>) {
        match read {
            Ok(0) => {
                self.closed_by_meter = true;
                self.client.closed();
            }
            Ok(count) => {
                let octets = self.buffer.get(..count).unwrap_or_default();
                self.trace.received(octets);
                self.client.handle_bytes(since(self.epoch), octets);
            }
            Err(error) => self.link_broke(&error),
        }
    }

    fn link_broke(&mut self, error: &std::io::Error) {
        tracing::debug!(meter_id = self.meter_id, %error, "the link broke");
        self.broken = true;
        self.client.closed();
    }

    /// Carries out effects until there are none, or there is an event.
    async fn settle(&mut self) -> Option<Event> {
        while let Some(effect) = self.client.poll() {
            match effect {
                Effect::Event(Event::Notified(notification)) => self.inbox.put(&notification),
                Effect::Event(event) => return Some(event),
                Effect::Timer(at_ms) => {
                    self.timer = self.epoch.checked_add(Duration::from_millis(at_ms))
                }
                Effect::Cipher(job) => self.cipher(job).await,
                Effect::Transmit(frame) => self.transmit(&frame).await,
            }
        }
        None
    }

    async fn cipher(&mut self, job: CipherJob) {
        let commands = matches!(&job.op, CipherOp::Protect { apdu, .. } if is_command(apdu));
        let id = job.id;
        let result = self.context.run(job).await;
        if let Some(current) = &mut self.current {
            current.released |= commands && result.is_ok();
        }
        self.client.handle_cipher(self.now_ms(), id, result);
    }

    /// Hands a frame to the socket.
    async fn transmit(&mut self, frame: &[u8]) {
        self.trace.sent(frame);
        let current = self.current.as_ref().filter(|current| current.released);
        if let Some(current) = current {
            crash::before_send(current.kind);
            // From here on the meter may have it, whatever happens.
            current.sent.store(true, Ordering::SeqCst);
        }
        let kind = current.map(|current| current.kind);
        let written = self.link.write(frame).await;
        if let Some(kind) = kind {
            crash::after_send(kind);
        }
        if let Err(error) = written {
            self.link_broke(&error);
        }
    }

    fn now_ms(&self) -> u64 {
        since(self.epoch)
    }
}

fn since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}
