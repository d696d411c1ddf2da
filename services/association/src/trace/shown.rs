//! What may be seen of a frame.

use dlms::{
    hdlc::{Control, Frame, LLC_COMMAND, LLC_RESPONSE},
    security::{GENERAL_CIPHERING, GENERAL_DED, GENERAL_GLO, SecurityControl, plain_tag},
    wrapper::HEADER,
};

/// Octets of a damaged frame that are shown: no more than its header can have.
const DAMAGED: usize = 11;

/// A frame of the wrapper.
pub(super) fn wrapper(frame: &[u8]) -> String {
    let apdu = frame.get(HEADER..).unwrap_or_default();
    if is_encrypted(apdu) {
        return hex::encode(frame);
    }
    part(frame, HEADER.saturating_add(1), apdu.len())
}

/// The I frames of one direction: a segment is as secret as the one that began its APDU.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// The next segment continues an APDU, that is encrypted or is not.
    continues: Option<bool>,
}

impl Segments {
    /// A frame of HDLC: its octets, and what they mean unless they are damaged.
    pub(super) fn shown(&mut self, octets: &[u8], frame: Option<&Frame>) -> String {
        let Some(frame) = frame else {
            return self.damaged(octets);
        };
        let numbered = matches!(frame.control, Control::Information { .. });
        if !numbered && !matches!(frame.control, Control::UnnumberedInformation { .. }) {
            if !supervisory(frame.control) {
                // The link begins anew, or ends: what was not whole by then is never continued.
                self.continues = None;
            }
            return hex::encode(octets);
        }
        let information = frame.information.as_slice();
        // Behind it: FCS and flag.
        let header = octets
            .len()
            .saturating_sub(information.len())
            .saturating_sub(3);
        // A UI frame stands for itself, also between the segments of an APDU in I frames.
        let continues = self.continues.filter(|_| numbered);
        let apdu = information
            .strip_prefix(&LLC_COMMAND)
            .or_else(|| information.strip_prefix(&LLC_RESPONSE))
            .filter(|_| continues.is_none());
        // Without an LLC header nothing begins here: a last segment that was sent again, say. It is as good as plain.
        let encrypted = continues.unwrap_or_else(|| apdu.is_some_and(is_encrypted));
        if numbered {
            self.continues = frame.segmented.then_some(encrypted);
        }
        if encrypted {
            return hex::encode(octets);
        }
        let (shown, left_out) = match apdu {
            Some(apdu) => (LLC_COMMAND.len().saturating_add(1), apdu.len()),
            None => (0, information.len()),
        };
        part(octets, header.saturating_add(shown), left_out)
    }

    /// Of a damaged frame it is not known where what stands: it is shown whole if an encrypted APDU begins in it.
    fn damaged(&self, octets: &[u8]) -> String {
        let begins = |llc: &[u8]| {
            octets
                .windows(llc.len())
                .take(DAMAGED.saturating_add(1))
                .position(|window| window == llc)
                .and_then(|at| octets.get(at.saturating_add(llc.len())..))
                .is_some_and(is_encrypted)
        };
        if octets.len() <= DAMAGED || begins(&LLC_COMMAND) || begins(&LLC_RESPONSE) {
            return hex::encode(octets);
        }
        part(octets, DAMAGED, octets.len().saturating_sub(DAMAGED))
    }
}

const fn supervisory(control: Control) -> bool {
    matches!(
        control,
        Control::ReceiveReady { .. } | Control::ReceiveNotReady { .. } | Control::Reject { .. }
    )
}

/// Whether what follows the header of this APDU is ciphertext, as its control octet says: one that is authenticated only
/// holds its command in clear. An APDU that ends before its control octet counts as plain, and so does one that is signed:
/// what is in there is not looked for.
fn is_encrypted(apdu: &[u8]) -> bool {
    control(apdu).is_some_and(SecurityControl::is_encrypted)
}

/// The control octet of a ciphered APDU, of which no more may be known than the first segment.
fn control(apdu: &[u8]) -> Option<SecurityControl> {
    let (tag, rest) = apdu.split_first()?;
    let content = match *tag {
        GENERAL_GLO | GENERAL_DED => after_string(rest)?,
        GENERAL_CIPHERING => {
            // Transaction, originator, recipient, date-time, other information.
            let key_info = (0..5).try_fold(rest, |rest, _| after_string(rest))?;
            match key_info {
                [0, content @ ..] | [1, 0, _, content @ ..] => content,
                [1, 1, _, wrapped @ ..] => after_string(wrapped)?,
                [1, 2, agreed @ ..] => after_string(after_string(agreed)?)?,
                _ => return None,
            }
        }
        tag if plain_tag(tag).is_some() => rest,
        _ => return None,
    };
    let (_, content) = length(content)?;
    content.first().copied().map(SecurityControl::new)
}

/// What follows an octet-string.
fn after_string(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = length(octets)?;
    rest.get(length..)
}

/// A length (A-XDR), and what follows it.
fn length(octets: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = octets.split_first()?;
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let (length, rest) = rest.split_at_checked(usize::from(*first & 0x7F))?;
    let length = length.iter().try_fold(0_usize, |length, octet| {
        length.checked_mul(256)?.checked_add(usize::from(*octet))
    });
    Some((length?, rest))
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
    fn only_encrypted_frames_are_shown_whole() {
        let glo = in_wrapper(&[0xc8, 0x03, 0x30, 0, 0]);
        assert_eq!(wrapper(&glo), hex::encode(&glo));
        let aarq = in_wrapper(&[0x60, 0x04, 0xac, b'P', b'W', b'D']);
        assert_eq!(wrapper(&aarq), "000100010001000660.. (6 octets, plain)");
        let get = in_wrapper(&[0xc0, 1, 0xc1, 0, 3]);
        assert!(!wrapper(&get).contains("c1"), "{}", wrapper(&get));
        assert_eq!(wrapper(&[]), ".. (0 octets, plain)");
    }

    /// An APDU in each form, with this control octet; the last one in general-signing.
    fn forms(control: u8) -> Vec<Vec<u8>> {
        let content = [&[control, 0, 0, 0, 1], b"COMMAND".as_slice(), &[0xaa; 12]].concat();
        let content = [&[24], content.as_slice()].concat();
        let form = |head: &[u8]| [head, &content].concat();
        let title = b"\x08TITLE678";
        // Transaction, two titles, no date-time, no other information.
        let general = [&[0xdd, 1, 9], title.as_slice(), title, &[0, 0]].concat();
        let general = |key_info: &[u8]| form(&[&general, key_info].concat());
        let glo = form(&[0xc8]);
        let long = [&[0xcc, 0x82, 0, 24], glo.get(2..).unwrap()].concat();
        let signed = [
            &[0xdf, 1, 9],
            title.as_slice(),
            title,
            &[0, 0, 26],
            &glo,
            &[64],
            &[7; 64],
        ];
        vec![
            form(&[0xd0]),
            form(&[&[0xdb], title.as_slice()].concat()),
            form(&[0xdc, 0]),
            long,
            general(&[0]),
            general(&[1, 0, 0]),
            general(&[&[1, 1, 0, 24], [7; 24].as_slice()].concat()),
            general(&[&[1, 2, 1, 1, 0x81, 128], [7; 128].as_slice()].concat()),
            general(&[1, 2, 1, 2, 0]),
            glo.clone(),
            signed.concat(),
        ]
    }

    #[test]
    fn what_is_only_authenticated_is_not_shown() {
        let secret = hex::encode("COMMAND");
        // Suites 0, 1 and 2; the last is neither authenticated nor encrypted.
        for control in [0x10, 0x11, 0x12, 0x50, 0x00] {
            for apdu in forms(control) {
                let line = wrapper(&in_wrapper(&apdu));
                assert!(
                    line.ends_with(", plain)") && !line.contains(&secret),
                    "{line}"
                );
                let frame = in_hdlc(0, false, &[&LLC_RESPONSE, apdu.as_slice()].concat());
                let line = shown(&mut Segments::default(), &frame);
                assert!(
                    line.ends_with(", plain)") && !line.contains(&secret),
                    "{line}"
                );
                let mut octets = frame.encode().unwrap();
                octets.pop();
                let line = Segments::default().shown(&octets, None);
                assert!(
                    line.ends_with(", plain)") && !line.contains(&secret),
                    "{line}"
                );
            }
        }
        for control in [0x20, 0x30, 0x31, 0x32, 0x70] {
            let mut forms = forms(control);
            let signed = in_wrapper(&forms.pop().unwrap());
            assert!(wrapper(&signed).ends_with(", plain)"));
            for apdu in forms {
                let frame = in_wrapper(&apdu);
                assert_eq!(wrapper(&frame), hex::encode(&frame));
            }
        }
    }

    #[test]
    fn an_apdu_that_ends_before_its_control_octet_is_plain() {
        for apdu in forms(0x30) {
            for end in 0..apdu.len() {
                let known = control(&apdu[..end]);
                assert!(known.is_none_or(|known| known.octet() == 0x30), "{end}");
            }
        }
        let mut segments = Segments::default();
        for frame in [
            in_hdlc(0, true, b"\xe6\xe6\x00\xc8\x18"),
            in_hdlc(1, false, b"\x10\0\0\0\x01COMMAND"),
        ] {
            let line = shown(&mut segments, &frame);
            assert!(line.ends_with(", plain)"), "{line}");
        }
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
        // A last segment that is sent again begins nothing.
        let again = shown(&mut segments, &in_hdlc(2, false, b"WORD"));
        assert!(again.ends_with(".. (4 octets, plain)") && !again.contains(&hex::encode("W")));
        for frame in [
            in_hdlc(3, true, b"\xe6\xe7\x00\xc8\x03\x30"),
            in_hdlc(4, false, b"ciphertext"),
        ] {
            let octets = frame.encode().unwrap();
            assert_eq!(shown(&mut segments, &frame), hex::encode(octets));
        }
    }

    #[test]
    fn an_encrypted_apdu_that_was_broken_off_vouches_for_no_other() {
        let first = in_hdlc(0, true, b"\xe6\xe6\x00\xc8\x18\x30");
        let poll = true;
        let of = |control, information: &[u8]| Frame {
            control,
            ..in_hdlc(0, false, information)
        };
        let aarq = b"\xe6\xe6\x00\x60PASSWORD";
        let secret = hex::encode("PASS");
        let mut segments = Segments::default();
        shown(&mut segments, &first);
        let ui = of(Control::UnnumberedInformation { poll }, aarq);
        assert!(!shown(&mut segments, &ui).contains(&secret));
        let ready = Control::ReceiveReady {
            receive: Sequence::new(1),
            poll,
        };
        shown(&mut segments, &of(ready, &[]));
        assert!(!shown(&mut segments, &in_hdlc(1, true, b"more")).contains("plain"));
        shown(
            &mut segments,
            &of(Control::SetNormalResponseMode { poll }, &[]),
        );
        let line = shown(&mut segments, &in_hdlc(0, false, aarq));
        assert!(!line.contains(&secret), "{line}");
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
