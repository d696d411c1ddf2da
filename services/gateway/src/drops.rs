//! What was dropped, and the trail's knowledge of it.
//!
//! A drop is counted at once, in memory of a fixed size, and reported in the background: one entry stands for all
//! drops of one source and cause within a window of 1 s, which doubles up to 10 s while they go on. While the auditor
//! is away the counts grow and the entries wait; none is lost, and nobody who is dropped can make us hold more.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use kit::{Shutdown, Trail, clock, context};
use latchkey_proto::audit::v1::{Entry, EntryKind};
use tokio::time::Instant;
use tonic::Code;

use crate::metrics;

/// Sources and causes that are told apart; what comes on top is counted without its source.
const KEYS_MAX: usize = 1024;
/// Entries that wait for the auditor; behind them the counts grow.
const WAITING_MAX: usize = 64;
const WINDOW_MIN: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(250);
/// How long the last report may take at shutdown.
const LAST_REPORT: Duration = Duration::from_secs(2);

/// Why a connection was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Cause {
    /// Nobody said that this host may connect.
    #[error("the source is not in the allowlist")]
    SourceNotListed,
    /// The allowlist is older than `relay.max_age_seconds`.
    #[error("the allowlist has expired")]
    ListExpired,
    /// `relay.limits.connections` is reached.
    #[error("too many connections")]
    TooManyConnections,
    /// `relay.limits.connections_per_source` is reached.
    #[error("too many connections from this source")]
    TooManyFromSource,
    /// No TLS 1.3, no certificate, or one of another authority or trust domain.
    #[error("the TLS handshake failed")]
    Tls,
    /// A good certificate, of a peer that `relay.peers` does not name.
    #[error("the certificate's name may not use the relay")]
    PeerNotAllowed,
    /// No PROXY header, or one without a destination.
    #[error("no PROXY header that names a destination")]
    Header,
    /// Nobody said that this meter may be reached.
    #[error("the destination is not in the allowlist")]
    DestinationNotListed,
    /// The meter may be reached, but not on this port.
    #[error("the destination port is not allowed")]
    PortNotAllowed,
    /// No serial line of this name is configured.
    #[error("there is no serial line of this name")]
    LineUnknown,
    /// The source sent something that is no unit of its framing.
    #[error("garbage from the source")]
    SourceGarbage,
    /// The meter sent something that is no wrapper PDU, or a datagram that is not exactly one.
    #[error("garbage from the meter")]
    MeterGarbage,
    /// A handshake, first octet or PDU that did not come in time.
    #[error("too slow")]
    TooSlow,
    /// The source or the meter was taken off the allowlist under an open connection.
    #[error("removed from the allowlist while connected")]
    Revoked,
}

impl Cause {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceNotListed => "source_not_listed",
            Self::ListExpired => "list_expired",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyFromSource => "too_many_from_source",
            Self::Tls => "tls",
            Self::PeerNotAllowed => "peer_not_allowed",
            Self::Header => "header",
            Self::DestinationNotListed => "destination_not_listed",
            Self::PortNotAllowed => "port_not_allowed",
            Self::LineUnknown => "line_unknown",
            Self::SourceGarbage => "source_garbage",
            Self::MeterGarbage => "meter_garbage",
            Self::TooSlow => "too_slow",
            Self::Revoked => "revoked",
        }
    }
}

/// The drops that have not been reported yet.
#[derive(Debug, Clone, Default)]
pub struct Drops(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    counts: HashMap<(IpAddr, Cause), Count>,
    waiting: VecDeque<(String, Entry)>,
}

#[derive(Debug)]
struct Count {
    count: u64,
    /// When the window of this count ends.
    due: Instant,
    window: Duration,
    /// The first drop of the window: when, and what was asked for.
    first: SystemTime,
    example: String,
}

impl Drops {
    /// Counts a drop. `example` says what was asked for, such as a destination; it is kept from the first drop of a
    /// window.
    pub fn count(&self, source: IpAddr, cause: Cause, example: &str) {
        self.count_at(Instant::now(), source, cause, example);
    }

    fn count_at(&self, now: Instant, source: IpAddr, cause: Cause, example: &str) {
        tracing::debug!(%source, %cause, example, "dropped");
        metrics::dropped(cause);
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = book.counts.contains_key(&(source, cause)) || book.counts.len() < KEYS_MAX;
        let source = if known {
            source
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        let count = book
            .counts
            .entry((source, cause))
            .or_insert_with(|| Count::new(now));
        if count.count == 0 {
            count.first = clock::now();
            count.example = example.chars().take(128).collect();
        }
        count.count = count.count.saturating_add(1);
    }

    /// Reports until shutdown, and then once more.
    pub async fn report(self, trail: Trail, shutdown: Shutdown) {
        while !shutdown.is_fired() {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = shutdown.fired() => break,
            }
            self.close_windows(Instant::now());
            tokio::select! {
                () = self.send_waiting(&trail) => {}
                () = shutdown.fired() => break,
            }
        }
        self.close_windows(Instant::now() + WINDOW_MAX);
        if tokio::time::timeout(LAST_REPORT, self.send_waiting(&trail))
            .await
            .is_err()
        {
            tracing::error!("the auditor did not take the last drop entries; this log has them");
        }
    }

    /// Turns every count whose window has ended into an entry, as long as there is room for entries.
    fn close_windows(&self, now: Instant) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { counts, waiting } = &mut *book;
        counts.retain(|(source, cause), count| {
            if count.due > now {
                return true;
            }
            if count.count == 0 {
                return false;
            }
            if waiting.len() < WAITING_MAX {
                let entry = count.entry(*source, *cause);
                tracing::info!(detail = entry.detail, "traffic dropped");
                waiting.push_back((context::new_id(), entry));
                count.next_window(now);
            }
            true
        });
    }

    /// Sends what waits, oldest first. An entry is kept until the auditor has it: a repeated request id is one entry.
    async fn send_waiting(&self, trail: &Trail) {
        loop {
            let front = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .waiting
                .front()
                .cloned();
            let Some((request_id, entry)) = front else {
                return;
            };
            match trail.record_as(request_id, entry).await {
                Ok(_) => {}
                Err(status)
                    if matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists) =>
                {
                    tracing::error!(%status, "the auditor refused a drop entry; this log has it");
                }
                Err(status) => {
                    tracing::warn!(%status, "the auditor did not take a drop entry; it waits");
                    return;
                }
            }
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .waiting
                .pop_front();
        }
    }
}

impl Count {
    fn new(now: Instant) -> Self {
        Self {
            count: 0,
            due: now + WINDOW_MIN,
            window: WINDOW_MIN,
            first: clock::now(),
            example: String::new(),
        }
    }

    /// The drops go on: the next entry may stand for more of them.
    fn next_window(&mut self, now: Instant) {
        self.count = 0;
        self.window = (self.window * 2).min(WINDOW_MAX);
        self.due = now + self.window;
    }

    fn entry(&self, source: IpAddr, cause: Cause) -> Entry {
        let who = if source.is_unspecified() {
            "other sources".to_owned()
        } else {
            source.to_string()
        };
        let asked = if self.example.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.example)
        };
        Entry {
            kind: EntryKind::Drop.into(),
            detail: format!(
                "dropped {} from {who}: {cause}{asked}; first at {} us UTC",
                self.count,
                clock::micros(self.first)
            ),
            count: self.count,
            ..Entry::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));

    fn entries(drops: &Drops) -> Vec<(u64, String)> {
        let book = drops.0.lock().unwrap();
        book.waiting
            .iter()
            .map(|(_, entry)| (entry.count, entry.detail.clone()))
            .collect()
    }

    #[test]
    fn like_drops_become_one_entry_and_windows_widen() {
        let drops = Drops::default();
        let mut now = Instant::now();
        for _ in 0..5 {
            drops.count_at(now, STRANGER, Cause::SourceNotListed, "");
        }
        drops.count_at(now, STRANGER, Cause::TooSlow, "to 127.10.0.1:4059");
        drops.close_windows(now);
        assert!(entries(&drops).is_empty(), "the window is open");

        now += WINDOW_MIN;
        drops.close_windows(now);
        let mut first = entries(&drops);
        first.sort();
        assert_eq!(
            first.iter().map(|(count, _)| *count).collect::<Vec<_>>(),
            [1, 5]
        );
        assert!(
            first[0].1.contains("too slow (to 127.10.0.1:4059)"),
            "{}",
            first[0].1
        );
        assert!(
            first[1]
                .1
                .starts_with("dropped 5 from 127.9.9.9: the source is not in the allowlist;"),
            "{}",
            first[1].1
        );

        drops.count_at(now, STRANGER, Cause::SourceNotListed, "");
        now += WINDOW_MIN;
        drops.close_windows(now);
        assert_eq!(entries(&drops).len(), 2, "the second window is 2 s");
        now += WINDOW_MIN;
        drops.close_windows(now);
        assert_eq!(entries(&drops).len(), 3);

        now += WINDOW_MAX;
        drops.close_windows(now);
        assert!(
            drops.0.lock().unwrap().counts.is_empty(),
            "a quiet source is forgotten"
        );
    }

    #[test]
    fn memory_is_bounded_and_no_drop_is_lost() {
        let drops = Drops::default();
        let mut now = Instant::now();
        for n in 0..20_000_u32 {
            let source = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
            drops.count_at(now, source, Cause::SourceNotListed, "");
        }
        let total = |drops: &Drops| {
            let book = drops.0.lock().unwrap();
            let counted: u64 = book.counts.values().map(|count| count.count).sum();
            counted
                + book
                    .waiting
                    .iter()
                    .map(|(_, entry)| entry.count)
                    .sum::<u64>()
        };
        assert_eq!(total(&drops), 20_000);
        assert!(drops.0.lock().unwrap().counts.len() <= KEYS_MAX + 1);
        for _ in 0..3 {
            now += WINDOW_MAX;
            drops.close_windows(now);
        }
        assert_eq!(drops.0.lock().unwrap().waiting.len(), WAITING_MAX);
        assert_eq!(total(&drops), 20_000, "what has no room waits as a count");
    }
}
