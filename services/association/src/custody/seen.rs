//! Which APDUs of a meter were taken already in one association.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use dlms::{
    CipherFailure, Protection,
    security::{Envelope, ReplayWindow},
};

use super::is_global;

/// APDUs that are remembered whole.
const DIGESTS_MAX: usize = 16;

/// What was taken. Only what custody found authentic is recorded.
#[derive(Debug)]
pub(super) struct Seen {
    /// Counters under the global key.
    global: ReplayWindow,
    /// Counters under the dedicated key, which begin again with every association.
    dedicated: ReplayWindow,
    /// APDUs under a key of their own, or under a signature alone: no counter orders them, so a second one is known by
    /// being the same, octet for octet.
    digests: VecDeque<u64>,
}

/// A window of one: the standard lets counters only rise.
impl Default for Seen {
    fn default() -> Self {
        Self {
            global: ReplayWindow::new(1),
            dedicated: ReplayWindow::new(1),
            digests: VecDeque::new(),
        }
    }
}

impl Seen {
    /// Whether an APDU is new.
    pub(super) fn check(&self, envelope: &Envelope, apdu: &[u8]) -> Result<(), CipherFailure> {
        match (self.window(envelope.protection), envelope.counter) {
            (Some(window), Some(counter)) => {
                window
                    .check(counter)
                    .map_err(|replay| CipherFailure::Replay {
                        expected: replay.expected,
                    })
            }
            _ if self.digests.contains(&digest(apdu)) => Err(CipherFailure::Replay {
                expected: envelope
                    .counter
                    .map_or(0, |counter| counter.saturating_add(1)),
            }),
            _ => Ok(()),
        }
    }

    /// Remembers an APDU that is authentic.
    pub(super) fn record(&mut self, envelope: &Envelope, digest: u64) {
        let counter = envelope.counter.unwrap_or(0);
        match envelope.protection {
            protection if is_global(protection) => self.global.record(counter),
            protection if protection.is_dedicated() => self.dedicated.record(counter),
            _ => {
                if self.digests.len() >= DIGESTS_MAX {
                    self.digests.pop_front();
                }
                self.digests.push_back(digest);
            }
        }
    }

    fn window(&self, protection: Protection) -> Option<&ReplayWindow> {
        if is_global(protection) {
            Some(&self.global)
        } else if protection.is_dedicated() {
            Some(&self.dedicated)
        } else {
            None
        }
    }
}

/// A short name of an APDU. Whoever finds another with the same name gets that one dropped, and nothing else.
pub(super) fn digest(apdu: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    apdu.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use dlms::{KeyChoice, SecurityControl};

    use super::*;

    fn envelope(protection: Protection, counter: u32) -> Envelope {
        Envelope {
            tag: 0,
            protection,
            control: Some(SecurityControl::AUTH_ENC),
            counter: Some(counter),
            originator: None,
            recipient: None,
            signed: false,
        }
    }

    #[test]
    fn every_key_has_its_own_counters() {
        let mut seen = Seen::default();
        let glo = |counter| envelope(Protection::Glo, counter);
        let ded = |counter| envelope(Protection::GeneralDed, counter);
        seen.record(&glo(5_000), 0);
        assert!(
            seen.check(&ded(0), b"").is_ok(),
            "dedicated counters begin at 0"
        );
        seen.record(&ded(0), 0);
        assert!(seen.check(&ded(0), b"").is_err());
        assert_eq!(
            seen.check(&glo(5_000), b""),
            Err(CipherFailure::Replay { expected: 5_001 })
        );
        assert!(seen.check(&glo(5_001), b"").is_ok());
        let identified = Protection::GeneralCiphering(KeyChoice::Identified);
        assert!(seen.check(&envelope(identified, 4_999), b"").is_err());
    }

    #[test]
    fn keys_of_one_apdu_have_no_counters_in_order() {
        let mut seen = Seen::default();
        let wrapped = |counter| envelope(Protection::GeneralCiphering(KeyChoice::Wrapped), counter);
        seen.record(&wrapped(9), digest(b"one"));
        assert!(seen.check(&wrapped(9), b"two").is_ok());
        assert!(seen.check(&wrapped(9), b"one").is_err());
        for n in 0..DIGESTS_MAX {
            seen.record(&wrapped(0), digest(&n.to_be_bytes()));
        }
        assert_eq!(seen.digests.len(), DIGESTS_MAX, "bounded");
    }
}
