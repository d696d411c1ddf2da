//! Faults that are played with APDUs on their way out, in any transport.

use dlms::{
    Frame, LinkConfig,
    acse::{Aare, Aarq, Diagnostic},
    hdlc,
};

use crate::fault::{ArmedFault, FaultKind};

const AARQ: u8 = 0x60;
const AARE: u8 = 0x61;
const RLRE: u8 = 0x63;
/// LLC of what a meter sends (IEC 62056-46).
const LLC_ANSWER: [u8; 3] = [0xE6, 0xE7, 0x00];
const LLC_LENGTH: usize = 3;

/// An APDU in what carries it, if it is whole.
enum Carrier {
    Wrapper(Frame),
    Hdlc(hdlc::Frame),
}

impl Carrier {
    fn decode(link: &LinkConfig, octets: &[u8]) -> Option<Self> {
        match link {
            LinkConfig::Tcp | LinkConfig::Udp => Frame::decode(octets).ok().map(Self::Wrapper),
            LinkConfig::Hdlc(_) => {
                let frame = hdlc::Frame::decode(octets).ok()?;
                let whole = matches!(frame.control, hdlc::Control::Information { .. })
                    && !frame.segmented
                    && frame.information.len() > LLC_LENGTH;
                whole.then_some(Self::Hdlc(frame))
            }
        }
    }

    fn apdu(&self) -> &[u8] {
        match self {
            Self::Wrapper(frame) => &frame.apdu,
            Self::Hdlc(frame) => frame.information.get(LLC_LENGTH..).unwrap_or_default(),
        }
    }

    /// With another APDU; nothing if that does not fit.
    fn with(self, apdu: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Wrapper(frame) => {
                let apdu = apdu.to_vec();
                Frame { apdu, ..frame }.encode().ok()
            }
            Self::Hdlc(frame) => {
                let information = [&LLC_ANSWER[..], apdu].concat();
                hdlc::Frame {
                    information,
                    ..frame
                }
                .encode()
                .ok()
            }
        }
    }
}

/// The challenge in an AARQ that has just come in whole.
pub(super) fn challenge(link: &LinkConfig, octets: &[u8]) -> Option<Vec<u8>> {
    let carrier = Carrier::decode(link, octets)?;
    let tag = carrier.apdu().first();
    let aarq = Aarq::decode(carrier.apdu()).ok();
    aarq.filter(|_| tag == Some(&AARQ))?.authentication_value
}

/// Whether what goes out is the answer to an association request.
pub(super) fn is_aare(link: &LinkConfig, octets: &[u8]) -> bool {
    let carrier = Carrier::decode(link, octets);
    carrier.is_some_and(|carrier| carrier.apdu().first() == Some(&AARE))
}

/// What goes out with this APDU in the place of its own.
pub(super) fn replaced(link: &LinkConfig, octets: Vec<u8>, apdu: &[u8]) -> Vec<u8> {
    let carrier = Carrier::decode(link, &octets);
    carrier
        .and_then(|carrier| carrier.with(apdu))
        .unwrap_or(octets)
}

/// What goes out, with the fault that is armed. `challenge`: the client's, as far as it was seen.
pub(super) fn bent(
    link: &LinkConfig,
    octets: Vec<u8>,
    challenge: Option<&[u8]>,
    fault: &mut ArmedFault,
) -> Vec<Vec<u8>> {
    let Some(carrier) = Carrier::decode(link, &octets) else {
        return vec![octets];
    };
    let apdu = match carrier.apdu().first() {
        Some(&AARE) => aare(carrier.apdu(), challenge, fault),
        Some(&RLRE) if fault.is(FaultKind::ShortRlre) => shortened(carrier.apdu()),
        _ => None,
    };
    let octets = match (apdu, carrier) {
        (Some(apdu), carrier) => carrier.with(&apdu).unwrap_or(octets),
        (None, Carrier::Wrapper(frame)) if fault.strikes(FaultKind::PortsNotSwapped) => {
            let swapped = Frame {
                source: frame.destination,
                destination: frame.source,
                ..frame
            };
            swapped.encode().unwrap_or(octets)
        }
        (None, _) => octets,
    };
    if fault.strikes(FaultKind::DoubledAnswer) {
        vec![octets.clone(), octets]
    } else {
        vec![octets]
    }
}

fn aare(apdu: &[u8], challenge: Option<&[u8]>, fault: &mut ArmedFault) -> Option<Vec<u8>> {
    if fault.strikes(FaultKind::TruncatedAare) {
        let half = apdu.len() / 2;
        return apdu.get(..half).map(<[u8]>::to_vec);
    }
    let mut aare = Aare::decode(apdu).ok()?;
    if let Some(challenge) = challenge
        && fault.strikes(FaultKind::ReflectedChallenge)
    {
        aare.authentication_value = Some(challenge.to_vec());
        return Some(aare.encode());
    }
    if fault.is(FaultKind::BareAare) && aare.diagnostic == Diagnostic::AUTHENTICATION_REQUIRED {
        aare.diagnostic = Diagnostic::NULL;
        aare.mechanism = None;
        return Some(aare.encode());
    }
    None
}

/// With its first length 4 too small, where it can be.
fn shortened(apdu: &[u8]) -> Option<Vec<u8>> {
    let mut apdu = apdu.to_vec();
    let length = apdu.get_mut(1)?;
    *length = length.checked_sub(4)?;
    Some(apdu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(name: &str) -> ArmedFault {
        ArmedFault::new(Some(name.parse().unwrap()))
    }

    fn wrapped(apdu: &[u8]) -> Vec<u8> {
        Frame {
            source: 1,
            destination: 16,
            apdu: apdu.to_vec(),
        }
        .encode()
        .unwrap()
    }

    fn framed(apdu: &[u8]) -> Vec<u8> {
        hdlc::Frame {
            destination: hdlc::Address::client(16).unwrap(),
            source: hdlc::Address::server(1, 1, 0).unwrap(),
            control: hdlc::Control::Information {
                send: hdlc::Sequence::new(0),
                receive: hdlc::Sequence::new(1),
                poll: true,
            },
            segmented: false,
            information: [&LLC_ANSWER[..], apdu].concat(),
        }
        .encode()
        .unwrap()
    }

    /// An AARE with HLS5, the challenge of 8 octets.
    const HLS: &str = "6142A109060760857405080101A203020100A305A10302010E88020780890760857405080205\
        AA0A8008503677524A323146BE10040E0800065F1F040000501F01F40007";

    #[test]
    fn every_transport_can_be_bent() {
        let aare = hex::decode(HLS).unwrap();
        let links = [
            (LinkConfig::Tcp, wrapped as fn(&[u8]) -> Vec<u8>),
            (LinkConfig::Udp, wrapped),
            (LinkConfig::Hdlc(hdlc::Config::default()), framed),
        ];
        for (link, carry) in links {
            let sent = carry(&aare);
            assert!(is_aare(&link, &sent));
            let bend = |name: &str| {
                let mut fault = armed(name);
                let bent = bent(&link, sent.clone(), Some(&[7; 16]), &mut fault);
                let apdu = Carrier::decode(&link, &bent[0]).unwrap().apdu().to_vec();
                (bent.len(), apdu)
            };
            assert_eq!(bend("lost-ack"), (1, aare.clone()));
            assert_eq!(bend("doubled-answer"), (2, aare.clone()));
            assert_eq!(bend("truncated-aare").1, aare[..aare.len() / 2]);
            let reflected = Aare::decode(&bend("reflected-challenge").1).unwrap();
            assert_eq!(reflected.authentication_value, Some(vec![7; 16]));
            let bare = Aare::decode(&bend("bare-aare").1).unwrap();
            assert_eq!((bare.mechanism, bare.diagnostic), (None, Diagnostic::NULL));
            let exception = replaced(&link, sent.clone(), &[0xD8, 1, 1]);
            assert_eq!(exception, carry(&[0xD8, 1, 1]));
        }
        let swapped = bent(
            &LinkConfig::Tcp,
            wrapped(&[0xC4]),
            None,
            &mut armed("ports-not-swapped"),
        );
        let frame = Frame::decode(&swapped[0]).unwrap();
        assert_eq!((frame.source, frame.destination), (16, 1));
        let rlre = [0x63, 0x28, 0x80, 1, 0];
        let short = bent(
            &LinkConfig::Tcp,
            wrapped(&rlre),
            None,
            &mut armed("short-rlre"),
        );
        assert_eq!(short, [wrapped(&[0x63, 0x24, 0x80, 1, 0])]);
    }

    #[test]
    fn what_is_not_one_whole_apdu_goes_out_as_it_is() {
        let mut fault = armed("truncated-aare");
        let receive_ready = hdlc::Frame {
            control: hdlc::Control::ReceiveReady {
                receive: hdlc::Sequence::new(1),
                poll: true,
            },
            information: vec![],
            ..hdlc::Frame::decode(&framed(&[1])).unwrap()
        };
        let octets = receive_ready.encode().unwrap();
        let link = LinkConfig::Hdlc(hdlc::Config::default());
        assert_eq!(bent(&link, octets.clone(), None, &mut fault), [octets]);
        assert_eq!(bent(&link, vec![1], None, &mut fault), [[1]]);
        assert_eq!(challenge(&link, &[1]), None);
    }
}
