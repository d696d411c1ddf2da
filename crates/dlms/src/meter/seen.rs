//! What a meter has served before, so that a duplicate of the network is not executed again.
//!
//! In a ciphered association counters tell duplicates. Without ciphering nothing does but the octets: over UDP a
//! request to write or act that is, octet for octet, one of the last is a duplicate (our clients number their requests;
//! a client that does not, and means the same twice within eight requests, is not served the second). A stream makes no
//! duplicates of its own: there a request counts as one only if it had come, the same, before its predecessor was
//! answered, for no client asks two things at once.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How many requests are remembered: fewer than there are invoke ids, or the same command would be a duplicate of itself
/// after a round of them.
const REMEMBERED: usize = 8;

/// What was seen on one connection.
#[derive(Default)]
pub(super) struct Seen {
    /// Fingerprints of the requests to write or act, the last one at the end.
    requests: VecDeque<u64>,
    /// The answer to the last of them.
    answer: Option<Vec<u8>>,
    /// The last of them is not answered yet.
    unanswered: bool,
    /// Fingerprint of the AARQ that opened the association, and the AARE that did.
    opening: Option<(u64, Vec<u8>)>,
    /// Octets came while nothing was under way.
    fresh: bool,
}

/// What a request is.
pub(super) enum Sight {
    New,
    /// A duplicate of the last one: its answer, if it was given, may be repeated.
    Last,
    /// A duplicate.
    Old,
}

impl Seen {
    /// Octets came while nothing was under way.
    pub(super) fn fresh(&mut self) {
        self.fresh = true;
    }

    /// Looks at a request to write or act, and remembers it.
    pub(super) fn look(&mut self, print: u64, datagrams: bool) -> Sight {
        let waited = !core::mem::take(&mut self.fresh);
        let last = self.requests.back() == Some(&print);
        if last && (datagrams || waited) {
            return Sight::Last;
        }
        if datagrams && self.requests.contains(&print) {
            return Sight::Old;
        }
        if self.requests.len() >= REMEMBERED {
            self.requests.pop_front();
        }
        self.requests.push_back(print);
        (self.answer, self.unanswered) = (None, true);
        Sight::New
    }

    /// A request that neither writes nor acts.
    pub(super) fn pass(&mut self) {
        (self.fresh, self.unanswered) = (false, false);
    }

    /// Remembers the answer, if it is that of the last request to write or act.
    pub(super) fn answered(&mut self, answer: &[u8]) {
        if core::mem::take(&mut self.unanswered) {
            self.answer = Some(answer.to_vec());
        }
    }

    pub(super) fn answer(&self) -> Option<Vec<u8>> {
        self.answer.clone()
    }

    /// Remembers how the association was opened.
    pub(super) fn opened(&mut self, print: u64, aare: Vec<u8>) {
        self.opening = Some((print, aare));
    }

    /// The association is over.
    pub(super) fn closed(&mut self) {
        self.opening = None;
    }

    /// The AARE that answered the same AARQ, which opened the association there is.
    pub(super) fn aare(&self, print: u64) -> Option<Vec<u8>> {
        self.opening
            .as_ref()
            .filter(|(opened, _)| *opened == print)
            .map(|(_, aare)| aare.clone())
    }
}
