//! What may be seen of a frame.

use dlms::{
    hdlc::{Control, Frame, LLC_COMMAND, LLC_RESPONSE},
    security::is_ciphered,
    wrapper::HEADER,
};

/// Octets of a damaged frame that are shown: no more than its header can have.
const DAMAGED: usize = 11;

/// A frame of the wrapper.
pub(super) fn wrapper(frame: &[u8]) -> String {
    let apdu = frame.get(HEADER..).unwrap_or_default();
    if is_ciphered(apdu) {
        return hex::encode(frame);
    }
    part(frame, HEADER.saturating_add(1), apdu.len())
}

/// The I frames of one direction: a segment is as secret as the one that began its APDU.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// The next segment continues an APDU, that is ciphered or is not.
    continues: Option<bool>,
}

impl Segments {
    /// A frame of HDLC: its octets, and what they mean unless they are damaged.
    pub(super) fn shown(&mut self, octets: &[u8], frame: Option<&Frame>) -> String {
        let Some(frame) = frame else {
            return self.damaged(octets);
        };
        let has_apdu = matches!(
            frame.control,
            Control::Information { .. } | Control::UnnumberedInformation { .. }
        );
        if !has_apdu {
            return hex::encode(octets);
        }
        let information = frame.information.as_slice();
        // Behind it: FCS and flag.
        let header = octets
            .len()
            .saturating_sub(information.len())
            .saturating_sub(3);
        let (llc, apdu) = match self.continues {
            Some(_) => (0, information),
            None => {
                let apdu = information
                    .strip_prefix(&LLC_COMMAND)
                    .or_else(|| information.strip_prefix(&LLC_RESPONSE));
                (LLC_COMMAND.len(), apdu.unwrap_or_default())
            }
        };
        let ciphered = self.continues.unwrap_or_else(|| is_ciphered(apdu));
        let begins = self.continues.is_none();
        self.continues = frame.segmented.then_some(ciphered);
        if ciphered {
            return hex::encode(octets);
        }
        let tag = usize::from(begins);
        part(
            octets,
            header.saturating_add(llc).saturating_add(tag),
            information.len().saturating_sub(llc),
        )
    }

    /// Of a damaged frame it is not known where what stands: it is shown whole if a ciphered APDU begins in it.
    fn damaged(&self, octets: &[u8]) -> String {
        let begins = |llc: &[u8]| {
            octets
                .windows(llc.len())
                .take(DAMAGED.saturating_add(1))
                .position(|window| window == llc)
                .and_then(|at| octets.get(at.saturating_add(llc.len())..))
                .is_some_and(is_ciphered)
        };
        if octets.len() <= DAMAGED || begins(&LLC_COMMAND) || begins(&LLC_RESPONSE) {
            return hex::encode(octets);
        }
        part(octets, DAMAGED, octets.len().saturating_sub(DAMAGED))
    }
}

fn part(frame: &[u8], shown: usize, left_out: usize) -> String {
    let shown = frame.get(..shown).unwrap_or(frame);
    format!("{}.. ({left_out} octets, plain)", hex::encode(shown))
}

#[cfg(test)]
mod tests {
    use dlms::hdlc::{Address, Sequence};

    use super::*;

    fn in_wrapper(apdu: &[u8]) -> Vec<u8> {
        dlms::Frame {
            source: 1,
            destination: 1,
            apdu: apdu.to_vec(),
        }
        .encode()
        .unwrap()
    }

    #[test]
    fn only_ciphered_frames_are_shown_whole() {
        let glo = in_wrapper(&[0xc8, 0x03, 0x30, 0, 0]);
        assert_eq!(wrapper(&glo), hex::encode(&glo));
        let aarq = in_wrapper(&[0x60, 0x04, 0xac, b'P', b'W', b'D']);
        assert_eq!(wrapper(&aarq), "000100010001000660.. (6 octets, plain)");
        let get = in_wrapper(&[0xc0, 1, 0xc1, 0, 3]);
        assert!(!wrapper(&get).contains("c1"), "{}", wrapper(&get));
        assert_eq!(wrapper(&[]), ".. (0 octets, plain)");
    }

    fn in_hdlc(send: u8, segmented: bool, information: &[u8]) -> Frame {
        Frame {
            destination: Address::server(1, 1, 0).unwrap(),
            source: Address::client(1).unwrap(),
            control: Control::Information {
                send: Sequence::new(send),
                receive: Sequence::new(0),
                poll: true,
            },
            segmented,
            information: information.to_vec(),
        }
    }

    fn shown(segments: &mut Segments, frame: &Frame) -> String {
        segments.shown(&frame.encode().unwrap(), Some(frame))
    }

    #[test]
    fn segments_are_shown_as_the_first_of_them_is() {
        let mut segments = Segments::default();
        let secret = b"\xe6\xe6\x00\x60PASS";
        let plain = [
            in_hdlc(0, true, secret),
            in_hdlc(1, true, b"WORD"),
            in_hdlc(2, false, b"\xc8\x00"),
        ];
        let lines: Vec<String> = plain
            .iter()
            .map(|frame| shown(&mut segments, frame))
            .collect();
        assert!(
            lines[0].ends_with("e6e60060.. (5 octets, plain)"),
            "{lines:?}"
        );
        assert!(lines[1].ends_with(".. (4 octets, plain)"), "{lines:?}");
        assert!(lines[2].ends_with(".. (2 octets, plain)"), "{lines:?}");
        for line in &lines {
            assert!(!line.contains(&hex::encode("PA")) && !line.contains(&hex::encode("WO")));
        }
        for frame in [
            in_hdlc(3, true, b"\xe6\xe7\x00\xc8\x03\x30"),
            in_hdlc(4, false, b"ciphertext"),
        ] {
            let octets = frame.encode().unwrap();
            assert_eq!(shown(&mut segments, &frame), hex::encode(octets));
        }
    }

    #[test]
    fn a_damaged_frame_shows_no_secret() {
        let segments = Segments::default();
        let damaged = |information: &[u8]| {
            let mut octets = in_hdlc(0, false, information).encode().unwrap();
            let last = octets.len() - 2;
            octets[last] ^= 1;
            (segments.damaged(&octets), hex::encode(&octets))
        };
        let (shown, _) = damaged(b"\xe6\xe6\x00\x60PASSWORD");
        assert!(shown.ends_with(", plain)") && !shown.contains(&hex::encode("PASS")));
        let (shown, whole) = damaged(b"\xe6\xe7\x00\xcc\x03\x30\x00\x00");
        assert_eq!(shown, whole);
    }
}
