//! How many connections there may be, in all and from one source.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::drops::Cause;

/// The places of the relay.
#[derive(Debug, Clone)]
pub struct Places {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    taken: Mutex<HashMap<IpAddr, usize>>,
    total: watch::Sender<usize>,
    connections: usize,
    per_source: usize,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    source: IpAddr,
    inner: Arc<Inner>,
}

impl Places {
    /// All free.
    #[must_use]
    pub fn new(connections: usize, per_source: usize) -> Self {
        let inner = Inner {
            taken: Mutex::default(),
            total: watch::Sender::new(0),
            connections,
            per_source,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take(&self, source: IpAddr) -> Result<Place, Cause> {
        let mut taken = self
            .inner
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *self.inner.total.borrow() >= self.inner.connections {
            return Err(Cause::TooManyConnections);
        }
        let of_source = taken.entry(source).or_default();
        if *of_source >= self.inner.per_source {
            return Err(Cause::TooManyFromSource);
        }
        *of_source = of_source.saturating_add(1);
        self.inner
            .total
            .send_modify(|total| *total = total.saturating_add(1));
        Ok(Place {
            source,
            inner: Arc::clone(&self.inner),
        })
    }

    /// Waits until every place is free.
    pub async fn all_free(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self
            .inner
            .total
            .subscribe()
            .wait_for(|total| *total == 0)
            .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .inner
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(of_source) = taken.get_mut(&self.source) {
            *of_source = of_source.saturating_sub(1);
            if *of_source == 0 {
                taken.remove(&self.source);
            }
        }
        self.inner
            .total
            .send_modify(|total| *total = total.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_come_back() {
        let places = Places::new(3, 2);
        let (a, b): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        let first = places.take(a).unwrap();
        let _second = places.take(a).unwrap();
        assert_eq!(places.take(a).unwrap_err(), Cause::TooManyFromSource);
        let third = places.take(b).unwrap();
        assert_eq!(places.take(b).unwrap_err(), Cause::TooManyConnections);
        drop(first);
        let fourth = places.take(b).unwrap();
        drop((_second, third, fourth));
        places.all_free().await;
        assert!(
            places.inner.taken.lock().unwrap().is_empty(),
            "nothing is kept of a source that left"
        );
    }
}
