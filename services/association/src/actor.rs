//! One task per association: it alone owns the socket and the association's value, so nothing has to be locked, and
//! a caller who goes away in mid-call leaves nothing half done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    answer::Answer,
    command::Asked,
    error::Error,
    lease::Lease,
    opening::Opening,
    session::{Opened, Session, Stir},
};

/// What an association is told to do.
pub(crate) enum Order {
    /// Send a request.
    Invoke(Box<Invocation>),
    /// Release the association.
    Release {
        /// Told when it is over.
        reply: oneshot::Sender<()>,
    },
}

/// A request to be sent.
pub(crate) struct Invocation {
    pub(crate) asked: Asked,
    pub(crate) answer_timeout: Duration,
    /// The caller must be answered by then.
    pub(crate) respond_by: Instant,
    pub(crate) request_id: String,
    /// Set just before the first octet is handed to the socket.
    pub(crate) sent: Arc<AtomicBool>,
    pub(crate) reply: oneshot::Sender<Result<Answer, Error>>,
}

/// An association from its opening to its end.
pub(crate) struct Actor {
    pub(crate) lease: Lease,
    pub(crate) orders: mpsc::Receiver<Order>,
    /// How long it stays open without an order.
    pub(crate) patience: Duration,
}

/// What made the actor move.
enum Wake {
    Order(Option<Order>),
    Stirred(Stir),
    Expired,
    Stopped,
}

impl Actor {
    pub(crate) async fn run(
        mut self,
        opening: Opening,
        opened: oneshot::Sender<Result<Opened, Error>>,
    ) {
        // The holder's earlier association first: many meters hold only one.
        if let Some(previous) = self.lease.previous.take() {
            previous.fired().await;
        }
        let stop = self.lease.stop.clone();
        let session = tokio::select! {
            session = opening.run() => session,
            () = stop.fired() => Err(Error::TakenOver),
        };
        match session {
            Err(error) => {
                // A caller who has gone does not need to know.
                let _ = opened.send(Err(error));
            }
            Ok((session, facts)) => {
                let session = if opened.send(Ok(facts)).is_ok() {
                    Box::pin(self.obey(session)).await
                } else {
                    Some(session)
                };
                if let Some(session) = session {
                    session.release().await;
                }
            }
        }
    }

    /// Obeys orders until it has to end; the session, if it is still to be released.
    async fn obey(&mut self, mut session: Session) -> Option<Session> {
        let mut expires = Instant::now() + self.patience;
        loop {
            let wake = tokio::select! {
                biased;
                () = self.lease.stop.fired() => Wake::Stopped,
                order = self.orders.recv() => Wake::Order(order),
                stir = session.stir() => Wake::Stirred(stir),
                () = sleep_until(expires) => Wake::Expired,
            };
            match wake {
                Wake::Order(Some(Order::Invoke(invocation))) => {
                    if !self.invoke(&mut session, *invocation).await {
                        self.end(session).await;
                        return None;
                    }
                    expires = Instant::now() + self.patience;
                }
                Wake::Order(Some(Order::Release { reply })) => {
                    session.release().await;
                    let _ = reply.send(());
                    return None;
                }
                Wake::Stirred(stir) => {
                    if !session.take_in(stir).await {
                        tracing::info!(meter_id = session.meter_id, "the association has ended");
                        self.end(session).await;
                        return None;
                    }
                }
                Wake::Expired => {
                    tracing::info!(meter_id = session.meter_id, "the lease has ended");
                    return Some(session);
                }
                Wake::Order(None) | Wake::Stopped => return Some(session),
            }
        }
    }

    /// Closes a session that is over already, and keeps it in mind if that was the meter's doing.
    async fn end(&self, session: Session) {
        if session.was_closed_by_meter() {
            self.lease.closed_by_meter();
        }
        session.close().await;
    }

    /// Sends a request; whether the association is still open after it.
    async fn invoke(&self, session: &mut Session, invocation: Invocation) -> bool {
        let Invocation {
            asked,
            answer_timeout,
            respond_by,
            request_id,
            sent,
            reply,
        } = invocation;
        // A caller who has gone, or has no time left, gets nothing sent in its name.
        if reply.is_closed() || Instant::now() >= respond_by {
            let _ = reply.send(Err(Error::TooLate));
            return true;
        }
        let sending = session.invoke(asked, answer_timeout, respond_by, &sent);
        let result = tokio::select! {
            result = kit::context::scope(request_id, sending) => result,
            () = self.lease.stop.fired() => {
                if sent.load(Ordering::SeqCst) {
                    Ok(Answer::unknown("the association was taken over, or the service stops", session.spent_counter()))
                } else {
                    Err(Error::TakenOver)
                }
            }
        };
        if reply.send(result).is_err() {
            tracing::warn!(
                meter_id = session.meter_id,
                "the caller left before its answer came"
            );
        }
        session.is_open()
    }
}
