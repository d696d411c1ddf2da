//! The keys used last, as objects of the token.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Handles by meter. One that falls out is destroyed in the token with its last clone.
///
/// `H` is a key handle; tests of the order need none.
pub(super) struct Cache<H> {
    max: usize,
    tick: u64,
    held: HashMap<Arc<str>, Held<H>>,
    /// Meters by the tick of their last use: the first is the one used longest ago.
    order: BTreeMap<u64, Arc<str>>,
}

struct Held<H> {
    wrapped: Vec<u8>,
    handle: H,
    used: u64,
}

impl<H: Clone> Cache<H> {
    /// Of at most `max` handles.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            tick: 0,
            held: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// The handle of a meter, if it is of this wrapped key.
    pub(super) fn get(&mut self, meter_id: &str, wrapped: &[u8]) -> Option<H> {
        self.tick += 1;
        let held = self
            .held
            .get_mut(meter_id)
            .filter(|held| held.wrapped == wrapped)?;
        if let Some(meter) = self.order.remove(&held.used) {
            self.order.insert(self.tick, meter);
        }
        held.used = self.tick;
        Some(held.handle.clone())
    }

    /// Holds a handle, in place of an older one of the meter, or of the one used longest ago.
    pub(super) fn put(&mut self, meter_id: &str, wrapped: &[u8], handle: H) {
        self.remove(meter_id);
        if self.held.len() >= self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.held.remove(&oldest);
        }
        self.tick += 1;
        let meter: Arc<str> = meter_id.into();
        let held = Held {
            wrapped: wrapped.to_vec(),
            handle,
            used: self.tick,
        };
        self.order.insert(self.tick, Arc::clone(&meter));
        self.held.insert(meter, held);
    }

    /// Lets go of a meter's handle.
    pub(super) fn remove(&mut self, meter_id: &str) {
        if let Some(held) = self.held.remove(meter_id) {
            self.order.remove(&held.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_used_longest_ago_makes_room() {
        let mut cache = Cache::new(2);
        cache.put("a", b"1", 'a');
        cache.put("b", b"1", 'b');
        assert_eq!(cache.get("a", b"1"), Some('a'));
        cache.put("c", b"1", 'c');
        assert_eq!(cache.get("b", b"1"), None);
        assert_eq!(cache.get("a", b"1"), Some('a'));
        assert_eq!(cache.get("c", b"1"), Some('c'));
        // one of another wrapped key is another key
        assert_eq!(cache.get("a", b"2"), None);
        cache.put("a", b"2", 'A');
        assert_eq!(cache.get("a", b"2"), Some('A'));
        assert_eq!((cache.held.len(), cache.order.len()), (2, 2));
        cache.remove("a");
        cache.remove("a");
        cache.put("d", b"1", 'd');
        assert_eq!(cache.get("c", b"1"), Some('c'));
        assert_eq!((cache.held.len(), cache.order.len()), (2, 2));
    }
}
