//! The associations that are open: finds the right one, starts new ones, and keeps the promise of `Invoke`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kit::{PeerName, Tasks, context};
use latchkey_proto::{audit::v1::SignedPermit, custody::v1::RotationKeys};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    actor::{Actor, Invocation, Order},
    answer::Answer,
    command::Asked,
    directory::Meter,
    error::Error,
    lease::{Holder, Leases},
    opening::{Opening, Tools, examine},
    session::Opened,
};

/// Orders that wait for one association.
const QUEUE: usize = 4;
/// How long before the caller's deadline it is answered: an answer that comes too late would be an error at its end, and
/// an error means that nothing was sent.
const MARGIN: Duration = Duration::from_millis(500);
/// The caller's deadline, where it set none.
const NO_DEADLINE: Duration = Duration::from_secs(300);

/// All associations of this process.
#[derive(Clone)]
pub(crate) struct Associations {
    leases: Leases,
    tools: Arc<Tools>,
    tasks: Tasks,
    patience: Duration,
}

/// What is asked for.
pub(crate) struct OpenOrder {
    pub(crate) meter: Meter,
    pub(crate) permit: SignedPermit,
    pub(crate) holder: Holder,
    pub(crate) public_client: bool,
    /// Of a rotation: which of its keys.
    pub(crate) rotation_keys: RotationKeys,
}

impl Associations {
    pub(crate) fn new(tools: Tools, tasks: Tasks, patience: Duration) -> Self {
        Self {
            leases: Leases::new(patience),
            tools: Arc::new(tools),
            tasks,
            patience,
        }
    }

    /// Opens an association; its id and what was agreed.
    pub(crate) async fn open(&self, order: OpenOrder) -> Result<(String, Opened), Error> {
        let permit = examine(&order.permit, &order.meter.id, &order.holder.peer)?;
        let (sender, orders) = mpsc::channel(QUEUE);
        let lease = self.leases.take(&order.meter.id, order.holder, sender)?;
        let association_id = lease.association_id.clone();
        let opening = Opening {
            tools: Arc::clone(&self.tools),
            meter: order.meter,
            permit: order.permit,
            commands: permit.commands,
            public_client: order.public_client,
            rotation_keys: order.rotation_keys,
            request_id: context::request_id(),
        };
        let (reply, opened) = oneshot::channel();
        let actor = Actor {
            lease,
            orders,
            patience: self.patience,
        };
        self.tasks
            .spawn("association", Box::pin(actor.run(opening, reply)));
        let opened = opened.await.unwrap_or(Err(Error::TakenOver))?;
        Ok((association_id, opened))
    }

    /// Sends a request. An error means that nothing was sent.
    pub(crate) async fn invoke(
        &self,
        peer: &PeerName,
        association_id: &str,
        asked: Asked,
        answer_timeout: Duration,
    ) -> Result<Answer, Error> {
        let gone = || self.leases.gone(association_id, peer);
        let orders = self.leases.find(association_id, peer).ok_or_else(gone)?;
        let left = context::time_left(NO_DEADLINE);
        let respond_by = Instant::now() + left.checked_sub(MARGIN).ok_or(Error::TooLate)?;
        let sent = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let invocation = Invocation {
            asked,
            answer_timeout,
            respond_by,
            request_id: context::request_id(),
            sent: Arc::clone(&sent),
            reply,
        };
        let order = Order::Invoke(Box::new(invocation));
        orders.send(order).await.map_err(|_| gone())?;
        match answer.await {
            Ok(result) => result,
            // The association's task ended without a word. What it did before is in `sent`.
            Err(_) if sent.load(Ordering::SeqCst) => {
                Ok(Answer::unknown("the association ended in mid-call", 0))
            }
            Err(_) => Err(gone()),
        }
    }

    /// Releases an association; one that is gone is released.
    pub(crate) async fn release(&self, peer: &PeerName, association_id: &str) {
        let Some(orders) = self.leases.find(association_id, peer) else {
            return;
        };
        let (reply, over) = oneshot::channel();
        if orders.send(Order::Release { reply }).await.is_ok() {
            // An error is the end of the association, too.
            let _ = over.await;
        }
    }

    /// What every opening needs.
    pub(crate) fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Tells every association to end.
    pub(crate) fn stop_all(&self) {
        self.leases.stop_all();
    }
}
