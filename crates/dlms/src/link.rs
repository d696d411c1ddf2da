//! What carries APDUs between a client and a meter: the wrapper over TCP, the wrapper over UDP, or HDLC.
//!
//! A [`Link`] turns APDUs into the octets of the transport and back. An association of either role owns one, and passes
//! on what it is told: that octets came, that the time has come, that an APDU is to be sent.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

pub(crate) use crate::hdlc::Effect as LinkEffect;

use crate::error::Error;
use crate::hdlc::{self, Station};
use crate::wrapper::{Frame, HEADER, Reassembler};

/// How APDUs travel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LinkConfig {
    /// The wrapper over a stream of octets that may split and merge frames (IEC 62056-47, TCP).
    #[default]
    Tcp,
    /// The wrapper over datagrams, one frame in each (IEC 62056-47, UDP). A datagram that is not exactly one frame is
    /// dropped and counted, and never ends an association: anyone may send one.
    Udp,
    /// HDLC, over a stream of octets or a serial line (IEC 62056-46).
    Hdlc(hdlc::Config),
}

/// The smallest room for one APDU, whatever was proposed: an AARQ with a certificate comes before any negotiation.
const APDU_MIN: usize = 2048;
/// Datagrams that wait to be taken; more are dropped, as a network drops them.
const WAITING_MAX: usize = 16;

/// The link of one association.
///
/// After every call: [`Self::poll`] until there is nothing, [`Self::take`] while an APDU can be taken (and `poll`
/// again after it), and [`Self::deadline`].
#[derive(Debug)]
pub(crate) struct Link {
    kind: Kind,
    effects: VecDeque<LinkEffect>,
    failed: bool,
    dropped: u64,
}

#[derive(Debug)]
enum Kind {
    Tcp(Reassembler),
    Udp {
        waiting: VecDeque<Frame>,
        /// Octets of APDUs that may wait.
        bound: usize,
    },
    Hdlc {
        station: Box<Station>,
        /// The port of this end.
        own_sap: u16,
    },
    /// The ports do not fit the addresses of the link: this is said when it is to be set up.
    Impossible(Error),
}

impl Link {
    /// The link of a client between these ports. `max_pdu`: the longest APDU it receives, 0 for no limit.
    pub(crate) fn client(
        config: &LinkConfig,
        client_sap: u16,
        server_sap: u16,
        max_pdu: u16,
    ) -> Self {
        Self::new(config, max_pdu, client_sap, |config, longest| {
            Station::primary(config, client_sap, server_sap, longest)
        })
    }

    /// The link of a meter with this logical device. `max_pdu`: the longest APDU it receives, 0 for no limit.
    pub(crate) fn meter(config: &LinkConfig, server_sap: u16, max_pdu: u16) -> Self {
        Self::new(config, max_pdu, server_sap, |config, longest| {
            Station::secondary(config, server_sap, longest)
        })
    }

    fn new(
        config: &LinkConfig,
        max_pdu: u16,
        own_sap: u16,
        station: impl FnOnce(hdlc::Config, usize) -> Result<Station, Error>,
    ) -> Self {
        let longest = match usize::from(max_pdu) {
            0 => usize::from(u16::MAX),
            limit => limit.max(APDU_MIN),
        };
        let bound = HEADER.saturating_add(longest).saturating_mul(2);
        let kind = match config {
            LinkConfig::Tcp => Kind::Tcp(Reassembler::new(bound)),
            LinkConfig::Udp => Kind::Udp {
                waiting: VecDeque::new(),
                bound,
            },
            LinkConfig::Hdlc(config) => match station(config.clone(), longest) {
                Ok(station) => Kind::Hdlc {
                    station: Box::new(station),
                    own_sap,
                },
                Err(error) => Kind::Impossible(error),
            },
        };
        Self {
            kind,
            effects: VecDeque::new(),
            failed: false,
            dropped: 0,
        }
    }

    /// Sets the link up, over a transport that is connected. Ends in `Connected` or `Failed`. A client's call: a meter
    /// is told `Connected` if its link knows of such a thing (HDLC), else it just receives APDUs.
    pub(crate) fn connect(&mut self, now_ms: u64) {
        match &mut self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } => self.effects.push_back(LinkEffect::Connected),
            Kind::Hdlc { station, .. } => station.connect(now_ms),
            Kind::Impossible(error) => {
                self.effects.push_back(LinkEffect::Failed(error.clone()));
            }
        }
    }

    /// Takes the link down. Ends in `Disconnected`, whether the other side answers or not.
    pub(crate) fn disconnect(&mut self, now_ms: u64) {
        match &mut self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } | Kind::Impossible(_) => {
                self.effects.push_back(LinkEffect::Disconnected);
            }
            Kind::Hdlc { station, .. } => station.disconnect(now_ms),
        }
    }

    /// Sends an APDU from port `frame.source` to port `frame.destination`. With HDLC the ports are those of the link.
    ///
    /// # Errors
    /// [`Error::TooLong`] if no frame holds it, [`Error::State`] if the link is not connected or still sends others.
    /// Nothing was sent.
    pub(crate) fn send(&mut self, now_ms: u64, frame: &Frame) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } => {
                let octets = frame.encode()?;
                self.effects.push_back(LinkEffect::Transmit(octets));
                Ok(())
            }
            Kind::Hdlc { station, .. } => station.send(now_ms, &frame.apdu),
            Kind::Impossible(error) => Err(error.clone()),
        }
    }

    /// Takes octets from the transport: of a datagram all of it, of a stream as much as came.
    pub(crate) fn receive(&mut self, now_ms: u64, octets: &[u8]) {
        match &mut self.kind {
            Kind::Tcp(reassembler) => reassembler.push(octets),
            Kind::Udp { waiting, bound } => {
                let held: usize = waiting.iter().map(|frame| frame.apdu.len()).sum();
                match Frame::decode(octets) {
                    Ok(frame)
                        if waiting.len() < WAITING_MAX
                            && held.saturating_add(frame.apdu.len()) <= *bound =>
                    {
                        waiting.push_back(frame);
                    }
                    Ok(_) | Err(_) => self.dropped = self.dropped.saturating_add(1),
                }
            }
            Kind::Hdlc { station, .. } => station.receive(now_ms, octets),
            Kind::Impossible(_) => {}
        }
    }

    /// The next whole APDU and its ports, if there is one. To be called while one can be taken: what is not taken waits,
    /// within bounds.
    pub(crate) fn take(&mut self) -> Option<Frame> {
        match &mut self.kind {
            Kind::Tcp(reassembler) => match reassembler.next() {
                Ok(frame) => frame,
                Err(error) => {
                    if !self.failed {
                        self.failed = true;
                        self.effects.push_back(LinkEffect::Failed(error));
                    }
                    None
                }
            },
            Kind::Udp { waiting, .. } => waiting.pop_front(),
            Kind::Hdlc { station, own_sap } => station.take().map(|(source, apdu)| Frame {
                source,
                destination: *own_sap,
                apdu,
            }),
            Kind::Impossible(_) => None,
        }
    }

    /// The time asked for by [`Self::deadline`] has come. A call that comes early or late does no harm.
    pub(crate) fn timeout(&mut self, now_ms: u64) {
        match &mut self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } | Kind::Impossible(_) => {}
            Kind::Hdlc { station, .. } => station.timeout(now_ms),
        }
    }

    /// When [`Self::timeout`] is to be called, if ever. To be asked again after every other call.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        match &self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } | Kind::Impossible(_) => None,
            Kind::Hdlc { station, .. } => station.deadline(),
        }
    }

    /// A client still waits for an answer after it has taken all that came (a notification, a duplicate): HDLC goes on
    /// polling the meter then. To be called in that case; else a client's link is silent after each APDU that came.
    pub(crate) fn listen(&mut self, now_ms: u64) {
        match &mut self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } | Kind::Impossible(_) => {}
            Kind::Hdlc { station, .. } => station.listen(now_ms),
        }
    }

    /// The next thing to be done, until there is none.
    pub(crate) fn poll(&mut self) -> Option<LinkEffect> {
        self.effects.pop_front().or_else(|| match &mut self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } | Kind::Impossible(_) => None,
            Kind::Hdlc { station, .. } => station.poll(),
        })
    }

    /// Datagrams (UDP) or frames (HDLC) that were dropped because they were damaged, not due, or not ours.
    pub(crate) const fn dropped(&self) -> u64 {
        match &self.kind {
            Kind::Tcp(_) | Kind::Udp { .. } | Kind::Impossible(_) => self.dropped,
            Kind::Hdlc { station, .. } => station.dropped(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn frame(apdu: &[u8]) -> Frame {
        Frame {
            source: 1,
            destination: 16,
            apdu: apdu.to_vec(),
        }
    }

    #[test]
    fn a_stream_may_split_and_merge_and_junk_ends_it_after_what_came_before() {
        let mut link = Link::client(&LinkConfig::Tcp, 16, 1, 1024);
        link.connect(0);
        assert_eq!(link.poll(), Some(LinkEffect::Connected));
        let octets = [frame(&[1]), frame(&[2])].map(|frame| frame.encode().unwrap());
        link.receive(0, &[&octets.concat()[..], &[0xFF]].concat());
        assert_eq!(link.take(), Some(frame(&[1])));
        assert_eq!(link.take(), Some(frame(&[2])));
        assert_eq!((link.poll(), link.take()), (None, None));
        assert!(matches!(link.poll(), Some(LinkEffect::Failed(_))));
        assert_eq!((link.take(), link.poll()), (None, None));
    }

    #[test]
    fn bad_datagrams_are_dropped_and_counted_and_floods_are_bounded() {
        let mut link = Link::meter(&LinkConfig::Udp, 1, 1024);
        let good = frame(&[0xC0, 1]).encode().unwrap();
        let joined = [good.clone(), good.clone()].concat();
        for bad in [&good[..9], &joined, b"junk", &[]] {
            link.receive(0, bad);
        }
        assert_eq!((link.dropped(), link.take()), (4, None));
        for _ in 0..20 {
            link.receive(0, &good);
        }
        assert_eq!(link.dropped(), 8);
        let taken: Vec<Frame> = core::iter::from_fn(|| link.take()).collect();
        assert_eq!(taken, vec![frame(&[0xC0, 1]); 16]);
        assert_eq!(link.poll(), None);
    }
}
