//! One association per meter: who holds which meter.
//!
//! Leases live in memory. When this process dies its sockets close, and with them every association, so nothing must
//! outlive it; the same holder comes back and opens again. Two of these processes must not share a meter directory:
//! against that, custody's permits and counters still hold (no command twice, no nonce twice).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kit::{PeerName, Shutdown, ShutdownTrigger};
use tokio::{sync::mpsc, time::Instant};

use crate::{actor::Order, error::Error};

/// How many associations that their meters ended are remembered: whoever sent a command in one asks within minutes.
const CLOSED_MAX: usize = 4096;

/// All leases.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    table: Arc<Mutex<Table>>,
    length: Duration,
}

#[derive(Debug, Default)]
struct Table {
    by_meter: HashMap<String, Row>,
    meter_of: HashMap<String, String>,
    /// The newest associations that their meters ended, and whose they were.
    closed_by_meter: VecDeque<(String, PeerName)>,
}

#[derive(Debug)]
struct Row {
    association_id: String,
    holder: Holder,
    orders: mpsc::Sender<Order>,
    stop: ShutdownTrigger,
    gone: Shutdown,
    last_call: Instant,
}

/// Who holds a meter: the caller by its certificate, and the name it gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) peer: PeerName,
    pub(crate) name: String,
}

/// One lease; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) association_id: String,
    meter_id: String,
    peer: PeerName,
    table: Arc<Mutex<Table>>,
    /// Fires when the association has to end: taken over, or the service stops.
    pub(crate) stop: Shutdown,
    /// The association of the same holder that has to end first.
    pub(crate) previous: Option<Shutdown>,
    gone: ShutdownTrigger,
}

impl Leases {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            table: Arc::default(),
            length,
        }
    }

    /// Takes a meter. Its own holder takes it over: the association that is open is told to end.
    pub(crate) fn take(
        &self,
        meter_id: &str,
        holder: Holder,
        orders: mpsc::Sender<Order>,
    ) -> Result<Lease, Error> {
        let mut table = lock(&self.table);
        let previous = match table.by_meter.get(meter_id) {
            Some(row) if row.holder != holder => {
                let left = self
                    .length
                    .saturating_sub(row.last_call.elapsed())
                    .max(Duration::from_secs(1));
                return Err(Error::MeterBusy {
                    meter_id: meter_id.to_owned(),
                    left,
                });
            }
            Some(row) => {
                row.stop.fire();
                Some(row.gone.clone())
            }
            None => None,
        };
        let association_id = uuid::Uuid::now_v7().to_string();
        let (stop_trigger, stop) = kit::shutdown();
        let (gone_trigger, gone) = kit::shutdown();
        let peer = holder.peer.clone();
        let row = Row {
            association_id: association_id.clone(),
            holder,
            orders,
            stop: stop_trigger,
            gone,
            last_call: Instant::now(),
        };
        if let Some(old) = table.by_meter.insert(meter_id.to_owned(), row) {
            table.meter_of.remove(&old.association_id);
        }
        table
            .meter_of
            .insert(association_id.clone(), meter_id.to_owned());
        Ok(Lease {
            association_id,
            meter_id: meter_id.to_owned(),
            peer,
            table: Arc::clone(&self.table),
            stop,
            previous,
            gone: gone_trigger,
        })
    }

    /// Where to send an order for an association; only its own caller finds it. Counts as a call that names it.
    pub(crate) fn find(
        &self,
        association_id: &str,
        peer: &PeerName,
    ) -> Option<mpsc::Sender<Order>> {
        let mut table = lock(&self.table);
        let meter_id = table.meter_of.get(association_id)?.clone();
        let row = table.by_meter.get_mut(&meter_id)?;
        if row.association_id != association_id || row.holder.peer != *peer {
            return None;
        }
        row.last_call = Instant::now();
        Some(row.orders.clone())
    }

    /// Why an association is not found.
    pub(crate) fn gone(&self, association_id: &str, peer: &PeerName) -> Error {
        let table = lock(&self.table);
        let mut closed = table.closed_by_meter.iter();
        match closed.any(|(id, whose)| id == association_id && whose == peer) {
            true => Error::ClosedByMeter,
            false => Error::AssociationGone,
        }
    }

    /// Tells every association to end.
    pub(crate) fn stop_all(&self) {
        for row in lock(&self.table).by_meter.values() {
            row.stop.fire();
        }
    }
}

impl Lease {
    /// The meter ended the association. Remembered in memory only: after a restart nobody knows.
    pub(crate) fn closed_by_meter(&self) {
        let mut table = lock(&self.table);
        if table.closed_by_meter.len() >= CLOSED_MAX {
            table.closed_by_meter.pop_front();
        }
        let closed = (self.association_id.clone(), self.peer.clone());
        table.closed_by_meter.push_back(closed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.meter_of.remove(&self.association_id);
        // After a take-over the row is somebody else's.
        if table
            .by_meter
            .get(&self.meter_id)
            .is_some_and(|row| row.association_id == self.association_id)
        {
            table.by_meter.remove(&self.meter_id);
        }
        self.gone.fire();
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(peer: &str, name: &str) -> Holder {
        Holder {
            peer: format!("spiffe://t/{peer}").parse().unwrap(),
            name: name.to_owned(),
        }
    }

    fn take(leases: &Leases, holder: &Holder) -> Result<Lease, Error> {
        leases.take("m-1", holder.clone(), mpsc::channel(1).0)
    }

    #[test]
    fn one_holder_at_a_time() {
        let leases = Leases::new(Duration::from_secs(60));
        let (first, second, namesake) = (
            holder("reset", "r-1"),
            holder("reset", "r-2"),
            holder("cli", "r-1"),
        );
        let lease = take(&leases, &first).unwrap();
        for other in [&second, &namesake] {
            assert!(matches!(
                take(&leases, other),
                Err(Error::MeterBusy { left, .. }) if left > Duration::from_secs(50)
            ));
        }
        drop(lease);
        assert!(take(&leases, &second).is_ok());
    }

    #[test]
    fn the_same_holder_takes_over() {
        let leases = Leases::new(Duration::from_secs(60));
        let me = holder("reset", "r-1");
        let first = take(&leases, &me).unwrap();
        let second = take(&leases, &me).unwrap();
        assert!(first.stop.is_fired() && !second.stop.is_fired());
        let previous = second.previous.clone().unwrap();
        assert!(!previous.is_fired());
        assert!(
            leases.find(&first.association_id, &me.peer).is_none(),
            "the old one is not found any more"
        );
        drop(first);
        assert!(previous.is_fired(), "the new one may begin");
        assert!(
            leases.find(&second.association_id, &me.peer).is_some(),
            "the end of the old one is not that of the new"
        );
        drop(second);
        assert!(lock(&leases.table).by_meter.is_empty() && lock(&leases.table).meter_of.is_empty());
    }

    #[test]
    fn an_association_is_its_callers_alone() {
        let leases = Leases::new(Duration::from_secs(60));
        let lease = take(&leases, &holder("reset", "r-1")).unwrap();
        assert!(
            leases
                .find(&lease.association_id, &holder("reset", "").peer)
                .is_some()
        );
        assert!(
            leases
                .find(&lease.association_id, &holder("cli", "").peer)
                .is_none()
        );
        assert!(leases.find("no-such", &holder("reset", "").peer).is_none());
        leases.stop_all();
        assert!(lease.stop.is_fired());
    }
}
