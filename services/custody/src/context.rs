//! Cipher contexts: one per association, in memory, bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use dlms::security::ReplayWindow;
use hsm::KeyHandle;
use kit::PeerName;
use latchkey_proto::audit::v1::Permit;

use crate::{
    counters::Supply, error::Error, keyring::MeterKeys, outstanding::Outstanding, permit::Allowed,
    rotation::Rotating, store::CounterOf, terms::Terms, transfer::Transfer,
};

/// Where an association stands. Nothing but the next step is ciphered.
///
/// ```text
/// New ─InitiateRequest─▶ Initiated ─AnswerChallenge─▶ Challenged ─reply_to_HLS─▶ Replied ─VerifyAnswer─▶ Open
///                            └──────────── low level: InitiateResponse ────────────────────────────────▲
/// any after Initiated ─InitiateRequest (of the RLRQ)─▶ Released
/// Initiated ─InitiateRequest (of the RLRQ)─▶ New, once; then Released
/// ```
///
/// A meter may still hold an association that nobody released, and refuse the AARQ: then that one is released, and the
/// AARQ sent once more.
///
/// Without ciphering the AARQ need not pass through custody: New is as good as Initiated, and there is no Released.
/// Without HLS either it is Open from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing has been ciphered.
    New,
    /// The AARQ's InitiateRequest has been ciphered.
    Initiated,
    /// f(StoC) has been computed: this token, and no other, may be sent by reply_to_HLS.
    Challenged {
        /// In the form of the mechanism.
        token: Vec<u8>,
        /// StoC.
        challenge: Vec<u8>,
    },
    /// reply_to_HLS has been ciphered: f(CtoS) is awaited.
    Replied {
        /// Invoke id of reply_to_HLS.
        invoke: u8,
        /// StoC.
        challenge: Vec<u8>,
    },
    /// The meter is proven, or needs no proof: commands may be ciphered.
    Open,
    /// The RLRQ's InitiateRequest has been ciphered: nothing more is.
    Released,
}

/// A cipher context.
pub(crate) struct Context {
    pub(crate) id: String,
    /// Who opened it. Nobody else may use it.
    pub(crate) owner: PeerName,
    pub(crate) permit: Permit,
    pub(crate) allowed: Vec<Allowed>,
    /// When the permit ends.
    pub(crate) ends: SystemTime,
    pub(crate) terms: Terms,
    /// Not ciphered, towards a meter that has keys: the public client, for invocation counters alone.
    pub(crate) public: bool,
    /// Whether the meter's keys came in for encryption without authentication, among others.
    pub(crate) encryption_alone: bool,
    /// Of a context with ciphering or HLS.
    pub(crate) keys: Option<MeterKeys>,
    /// CtoS; empty without HLS.
    pub(crate) challenge: Vec<u8>,
    /// What it changes, if it is for a rotation of keys.
    pub(crate) rotating: Option<Rotating>,
    /// The last counter taken from the meter before this context.
    pub(crate) received_before: Option<u32>,
    /// Its place among the contexts of its meter in all replicas: once the meter's fence is higher, it has ended. None
    /// for one that ends no others.
    pub(crate) fence: Option<i64>,
    /// Of which key its counters are.
    pub(crate) counter_of: CounterOf,
    pub(crate) state: tokio::sync::Mutex<State>,
}

impl Context {
    /// The keys of a ciphered context.
    pub(crate) fn ciphering(&self) -> Option<&MeterKeys> {
        self.keys.as_ref().filter(|_| self.terms.is_ciphered())
    }
}

/// What changes in a context.
pub(crate) struct State {
    pub(crate) stage: Stage,
    /// An association that the meter still held was released, and this one begun again.
    pub(crate) again: bool,
    /// Invocation counters of the global key that are reserved and unused.
    pub(crate) counters: Supply,
    /// Those taken from the meter, under the global key.
    pub(crate) received: ReplayWindow,
    /// From the AARQ on, in a context with one.
    pub(crate) dedicated: Option<Dedicated>,
    /// Invoke id of a GET of the meter's invocation counter that has no answer yet.
    pub(crate) counter_asked: Option<u8>,
    /// Transactions of requests under keys of their own that have no answer yet.
    pub(crate) transactions: Vec<Vec<u8>>,
    pub(crate) outstanding: Outstanding,
    /// A value that goes out in blocks; see [`Self::is_transferring`].
    pub(crate) transfer: Option<Transfer>,
    /// The ACTION of a rotation has no answer yet.
    pub(crate) rekeying: bool,
}

/// A dedicated key. It was made for this context and is gone with it, and so are its counters.
pub(crate) struct Dedicated {
    pub(crate) key: KeyHandle,
    /// The next invocation counter to send with.
    pub(crate) next: u32,
    pub(crate) received: ReplayWindow,
}

impl State {
    /// Whether the answer to reply_to_HLS has been taken.
    pub(crate) fn answered_hls(&self) -> bool {
        matches!(self.stage, Stage::Replied { invoke, .. } if !self.outstanding.waits(invoke))
    }

    /// Whether a value in blocks was begun that the meter has not answered to the end. A block that deviates, or one
    /// that is never sent, ends nothing: the meter may still wait for the next.
    pub(crate) fn is_transferring(&self) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| self.outstanding.waits(transfer.invoke()))
    }

    /// A request in this transaction was ciphered under a key of its own.
    pub(crate) fn began(&mut self, transaction: Vec<u8>) {
        if self.transactions.len() >= TRANSACTIONS {
            self.transactions.remove(0);
        }
        self.transactions.push(transaction);
    }
}

/// Transactions remembered at one time.
const TRANSACTIONS: usize = 16;

/// All contexts.
pub(crate) struct Contexts {
    max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    tick: u64,
    held: HashMap<String, Held>,
}

struct Held {
    context: Arc<Context>,
    used: u64,
}

impl Contexts {
    /// None yet, and never more than `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            table: Mutex::new(Table::default()),
        }
    }

    /// Adds a context. A new exclusive one ends the others of its meter; an error if one that began later is here already.
    pub(crate) fn insert(&self, context: Context, now: SystemTime) -> Result<(), Error> {
        let mut table = self.table();
        table.tick += 1;
        let of_meter = |held: &Held| held.context.permit.meter_id == context.permit.meter_id;
        let later = |held: &Held| held.context.fence > context.fence;
        if context.fence.is_some() && table.held.values().any(|it| of_meter(it) && later(it)) {
            return Err(Error::ContextFenced);
        }
        table.held.retain(|_, held| {
            let fenced = context.fence.is_some() && held.context.fence.is_some();
            now < held.context.ends && !(fenced && of_meter(held))
        });
        if table.held.len() >= self.max {
            let idle = table
                .held
                .iter()
                .min_by_key(|(_, held)| held.used)
                .map(|(id, _)| id.clone());
            if let Some(idle) = idle {
                tracing::warn!(
                    context_id = idle,
                    "the cipher context idle longest makes room: raise contexts_max"
                );
                table.held.remove(&idle);
            }
        }
        let held = Held {
            used: table.tick,
            context: Arc::new(context),
        };
        table.held.insert(held.context.id.clone(), held);
        Ok(())
    }

    /// A context, for the peer that opened it, until its permit ends.
    pub(crate) fn get(
        &self,
        id: &str,
        peer: &PeerName,
        now: SystemTime,
    ) -> Result<Arc<Context>, Error> {
        let mut table = self.table();
        table.tick += 1;
        let tick = table.tick;
        let held = table
            .held
            .get_mut(id)
            .filter(|held| held.context.owner == *peer)
            .ok_or(Error::ContextUnknown)?;
        if now >= held.context.ends {
            table.held.remove(id);
            return Err(Error::PermitExpired);
        }
        held.used = tick;
        Ok(Arc::clone(&held.context))
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.table().held.clear();
    }

    /// Forgets a context of this peer, if it is there.
    pub(crate) fn remove(&self, id: &str, peer: &PeerName) -> Option<Arc<Context>> {
        let mut table = self.table();
        if table.held.get(id)?.context.owner != *peer {
            return None;
        }
        table.held.remove(id).map(|held| held.context)
    }

    /// Ends every context of a meter: its row was changed.
    pub(crate) fn end(&self, meter_id: &str) {
        let of = |held: &Held| held.context.permit.meter_id == meter_id;
        self.table().held.retain(|_, held| !of(held));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> SystemTime {
        kit::clock::from_micros(1_800_000_000_000_000)
    }

    fn peer(path: &str) -> PeerName {
        format!("spiffe://t/{path}").parse().unwrap()
    }

    fn plain(id: &str, seconds: u64) -> Context {
        Context {
            id: id.to_owned(),
            owner: peer("association"),
            permit: Permit::default(),
            allowed: Vec::new(),
            ends: now() + Duration::from_secs(seconds),
            terms: Terms {
                mechanism: dlms::Mechanism::None,
                protection: dlms::Protection::Plain,
                control: dlms::SecurityControl::AUTH_ENC,
                signed: false,
                algorithm_id: dlms::agreement::AlgorithmId::Standard,
            },
            public: false,
            encryption_alone: false,
            keys: None,
            challenge: Vec::new(),
            rotating: None,
            received_before: None,
            fence: None,
            counter_of: CounterOf::InUse { generation: 1 },
            state: tokio::sync::Mutex::new(State {
                stage: Stage::Open,
                counters: Supply::default(),
                received: ReplayWindow::new(1),
                dedicated: None,
                counter_asked: None,
                transactions: Vec::new(),
                outstanding: Outstanding::default(),
                transfer: None,
                again: false,
                rekeying: false,
            }),
        }
    }

    #[test]
    fn contexts_end_with_their_permit_and_belong_to_their_peer() {
        let contexts = Contexts::new(8);
        contexts.insert(plain("a", 10), now()).unwrap();
        let get = |peer: &PeerName, seconds| {
            contexts
                .get("a", peer, now() + Duration::from_secs(seconds))
                .err()
        };
        assert!(get(&peer("association"), 9).is_none());
        assert!(matches!(
            get(&peer("other"), 0),
            Some(Error::ContextUnknown)
        ));
        assert!(contexts.remove("a", &peer("other")).is_none());
        assert!(matches!(
            get(&peer("association"), 10),
            Some(Error::PermitExpired)
        ));
        assert!(matches!(
            get(&peer("association"), 0),
            Some(Error::ContextUnknown)
        ));
    }

    #[test]
    fn of_two_with_hls_the_newer_stays() {
        let contexts = Contexts::new(8);
        let there = |id: &str| contexts.get(id, &peer("association"), now()).is_ok();
        let hls = |id, meter_id: &str, fence| {
            let mut context = plain(id, 10);
            context.terms.mechanism = dlms::Mechanism::HlsSha1;
            context.permit.meter_id = meter_id.to_owned();
            context.fence = Some(fence);
            context
        };
        contexts.insert(plain("public", 10), now()).unwrap();
        contexts.insert(hls("a", "", 2), now()).unwrap();
        contexts.insert(hls("other", "m2", 1), now()).unwrap();
        assert!(there("a"));
        contexts.insert(hls("b", "", 3), now()).unwrap();
        assert!(!there("a") && there("b") && there("other") && there("public"));
        let late = contexts.insert(hls("a", "", 2), now());
        assert!(matches!(late, Err(Error::ContextFenced)));
        assert!(there("b"), "one that began earlier ends nothing");
    }

    #[test]
    fn there_are_never_more_than_configured() {
        let contexts = Contexts::new(2);
        let there = |id: &str| contexts.get(id, &peer("association"), now()).is_ok();
        contexts.insert(plain("a", 10), now()).unwrap();
        contexts.insert(plain("b", 10), now()).unwrap();
        assert!(there("a"), "a is used, b is idle");
        contexts.insert(plain("c", 10), now()).unwrap();
        assert!(there("a") && !there("b") && there("c"));
        contexts
            .insert(plain("d", 99), now() + Duration::from_secs(10))
            .unwrap();
        assert!(
            there("d") && !there("a") && !there("c"),
            "what has ended makes room first"
        );
    }
}
