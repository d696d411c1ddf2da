//! HDLC: the worked examples by their ids, the faults by their kinds, and two stations with a bad line between them.

use dlms::hdlc::{Address, Control, Deframer, Fault, Frame, LLC_COMMAND, Parameters, Sequence};

fn octets(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(' ', "")).unwrap()
}

fn meter_17() -> Address {
    Address::server(2, 1, 17).unwrap()
}

fn client(sap: u16) -> Address {
    Address::client(sap).unwrap()
}

const fn information(send: u8, receive: u8) -> Control {
    Control::Information {
        send: Sequence::new(send),
        receive: Sequence::new(receive),
        poll: true,
    }
}

/// Both ways: the octets mean the frame, and the frame is the octets.
#[track_caller]
fn same(octets: &[u8], frame: &Frame) {
    assert_eq!(Frame::decode(octets).as_ref(), Ok(frame));
    assert_eq!(frame.encode().unwrap(), octets);
}

const SNRM: &str = "7EA00802232193BD647E";
const UA: &str = "7EA01F21022373E6C781801205019A06019A070400000001080400000001CCA27E";
const AARQ: &str =
    "7EA02C02232110AF9FE6E600601DA109060760857405080101BE10040E01000000065F1F0400001E1DFFFFC5E47E";
const UA_4: &str = "7EA023030002002373C0488180140502008006020080070400000001080400000001CE6A7E";
const GLO: &str = "7EA030022303324C4EE6E600CB2130000001020B283F1901034CE49AEA82EB6620983776580737D002A4A74A27795792467E";
const SNRM_128: &str = "7EA02102230393CB458180140502008006020080070400000001080400000001CE6A7E";

#[test]
fn hdlc_snrm() {
    let frame = Frame {
        destination: meter_17(),
        source: client(16),
        control: Control::SetNormalResponseMode { poll: true },
        segmented: false,
        information: vec![],
    };
    same(&octets(SNRM), &frame);
}

#[test]
fn hdlc_ua_params() {
    let frame = Frame::decode(&octets(UA)).unwrap();
    assert_eq!(frame.control, Control::UnnumberedAcknowledge { poll: true });
    assert_eq!((frame.destination, frame.source), (client(16), meter_17()));
    assert_eq!(
        Parameters::decode(&frame.information),
        Ok(Parameters::symmetric(154, 1))
    );
    same(&octets(UA), &frame);
}

#[test]
fn hdlc_i_frame_aarq() {
    let frame = Frame::decode(&octets(AARQ)).unwrap();
    assert_eq!(frame.control, information(0, 0));
    assert_eq!(frame.information[..3], LLC_COMMAND);
    let aarq = dlms::acse::Aarq::decode(&frame.information[3..]);
    assert!(aarq.is_ok());
    same(&octets(AARQ), &frame);
}

#[test]
fn hdlc_ua_4byte_addr() {
    let frame = Frame::decode(&octets(UA_4)).unwrap();
    assert_eq!(
        (frame.destination, frame.source),
        (client(1), Address::server(4, 1, 17).unwrap())
    );
    assert_eq!(
        Parameters::decode(&frame.information),
        Ok(Parameters::default())
    );
    assert_eq!(frame.information, Parameters::default().encode());
    same(&octets(UA_4), &frame);
}

/// A frame around the covered octets: with the FCS that the example gives it is whole, with another it is not.
#[track_caller]
fn checked(covered: &str, fcs: &str) {
    let good = octets(&format!("7E {covered} {fcs} 7E"));
    let at = good.len() - 3;
    let found = u16::from_be_bytes([good[at] ^ 1, good[at + 1]]);
    let mut bad = good.clone();
    bad[at] ^= 1;
    let expected = u16::from_be_bytes([good[at], good[at + 1]]);
    assert_eq!(
        Frame::decode(&bad),
        Err(Fault::Fcs {
            offset: at,
            expected,
            found
        })
    );
}

#[test]
fn hdlc_fcs_1() {
    checked("A00A000200232193", "1871");
    same(
        &octets("7E A00A000200232193 1871 7E"),
        &Frame {
            destination: Address::server(4, 1, 17).unwrap(),
            source: client(16),
            control: Control::SetNormalResponseMode { poll: true },
            segmented: false,
            information: vec![],
        },
    );
}

#[test]
fn hdlc_fcs_2() {
    checked("A0199575546835E6E600C0018100080000010000FF0100", "0DFD");
    let frame = Frame::decode(&octets(
        "7E A0199575546835E6E600C0018100080000010000FF0100 0DFD 7E",
    ));
    // The HCS of this example stands in it: 6835 behind 95 75 54.
    assert!(frame.is_ok());
}

#[test]
fn hdlc_fcs_3() {
    checked("A0107595B85101E6E700C5018100", "36CF");
}

#[test]
fn hdlc_hcs() {
    let mut bad = octets(AARQ);
    assert_eq!(bad[1..7], octets("A02C02232110"));
    assert_eq!(bad[7..9], octets("AF9F"));
    bad[7] ^= 0x40;
    assert_eq!(
        Frame::decode(&bad),
        Err(Fault::Hcs {
            offset: 7,
            expected: 0xAF9F,
            found: 0xEF9F
        })
    );
}

#[test]
fn d_hdlc_i_glo_action() {
    let frame = Frame::decode(&octets(GLO)).unwrap();
    assert_eq!(frame.control, information(1, 1));
    assert_eq!(frame.source, client(1));
    assert_eq!(frame.information[3], 0xCB);
    same(&octets(GLO), &frame);
}

#[test]
fn d_hdlc_snrm_neg128() {
    let frame = Frame {
        destination: meter_17(),
        source: client(1),
        control: Control::SetNormalResponseMode { poll: true },
        segmented: false,
        information: Parameters::symmetric(128, 1).encode(),
    };
    same(&octets(SNRM_128), &frame);
}

#[test]
fn every_kind_of_damage_has_its_own_fault() {
    let good = octets(AARQ);
    let length = good.len() - 2;
    let with = |at: usize, octet: u8| {
        let mut bad = good.clone();
        bad[at] = octet;
        Frame::decode(&bad).unwrap_err()
    };
    assert_eq!(
        with(0, 0),
        Fault::OpeningFlag {
            offset: 0,
            found: 0
        }
    );
    assert_eq!(
        with(1, 0x50),
        Fault::Format {
            offset: 1,
            found: 0x50
        }
    );
    for announced in [length - 1, length + 1] {
        assert_eq!(
            with(2, u8::try_from(announced).unwrap()),
            Fault::Length {
                offset: 1,
                expected: announced,
                found: length
            }
        );
    }
    assert!(matches!(
        with(5, 0x20),
        Fault::Fcs { .. } | Fault::Hcs { .. }
    ));
    assert!(matches!(with(20, 0), Fault::Fcs { offset: 43, .. }));
}

#[test]
fn a_frame_cut_short_or_run_on_is_told_by_its_length_and_flags() {
    let good = octets(AARQ);
    let length = good.len() - 2;
    // Truncated somewhere, with and without the flag that every good frame ends in.
    assert_eq!(
        Frame::decode(&good[..20]),
        Err(Fault::Truncated {
            offset: 20,
            needed: good.len() - 20,
            found: 0
        })
    );
    assert_eq!(
        Frame::decode(&[&good[..20], &[0x7E]].concat()),
        Err(Fault::Length {
            offset: 1,
            expected: length,
            found: 19
        })
    );
    assert_eq!(
        Frame::decode(&good[..good.len() - 1]),
        Err(Fault::ClosingFlag {
            offset: length + 1,
            found: None
        })
    );
    let mut unclosed = good.clone();
    unclosed[length + 1] = 0x7F;
    assert_eq!(
        Frame::decode(&unclosed),
        Err(Fault::ClosingFlag {
            offset: length + 1,
            found: Some(0x7F)
        })
    );
    assert_eq!(
        Frame::decode(&[&good[..], &[1, 2]].concat()),
        Err(Fault::Trailing {
            offset: good.len(),
            found: 2
        })
    );
    assert!(Frame::decode(&[&[0x7E; 3][..], &good, &[0x7E]].concat()).is_ok());
}

/// A frame with these octets and the right check sequence, found by trying.
fn sealed(header: &[u8]) -> Vec<u8> {
    (0..=u16::MAX)
        .map(|fcs| [&[0x7E], header, &fcs.to_be_bytes(), &[0x7E]].concat())
        .find(|frame| !matches!(Frame::decode(frame), Err(Fault::Fcs { .. })))
        .unwrap()
}

#[test]
fn whole_frames_that_dlms_does_not_know_are_faults_of_their_own() {
    let unknown = sealed(&[0xA0, 7, 0x03, 0x21, 0xEF]);
    assert_eq!(
        Frame::decode(&unknown),
        Err(Fault::Control {
            offset: 5,
            found: 0xEF
        })
    );
    let three = sealed(&[0xA0, 9, 0x02, 0x02, 0x03, 0x21, 0x93]);
    assert_eq!(
        Frame::decode(&three),
        Err(Fault::Address {
            offset: 3,
            found: 3
        })
    );
}

/// T14: a frame is as long as it says; a 7E within it, even as the last octet of the FCS, ends nothing.
#[test]
fn t14_a_flag_in_the_last_octet_of_the_fcs_ends_nothing() {
    let mut seen = 0;
    for number in 0..2000_u32 {
        let frame = Frame {
            destination: client(16),
            source: meter_17(),
            control: information(1, 1),
            segmented: false,
            information: [&LLC_COMMAND[..], &[0x7E], &number.to_be_bytes()].concat(),
        };
        let encoded = frame.encode().unwrap();
        let ends_twice = encoded.ends_with(&[0x7E, 0x7E]);
        seen += usize::from(ends_twice);
        assert_eq!(Frame::decode(&encoded), Ok(frame.clone()));
        // In a stream, with the next frame behind a flag of its own, or behind the same one.
        for shared in [0, 1] {
            let stream = [&encoded[..], &encoded[shared..]].concat();
            assert_eq!(
                deframed(&[&stream]),
                vec![Ok(frame.clone()), Ok(frame.clone())]
            );
        }
    }
    assert!(seen > 3, "{seen}");
}

fn deframed(parts: &[&[u8]]) -> Vec<Result<Frame, Fault>> {
    let mut deframer = Deframer::default();
    let mut seen = vec![];
    for mut part in parts.iter().copied() {
        while let Some(found) = deframer.next(&mut part) {
            seen.push(found);
        }
    }
    seen
}

/// T13: lengths around 256 octets, where a peer writes a wrong length field.
#[test]
fn t13_lengths_around_256_are_right_and_wrong_ones_are_told() {
    for room in 236..270 {
        let frame = Frame {
            destination: meter_17(),
            source: client(16),
            control: information(0, 0),
            segmented: true,
            information: vec![0x55; room],
        };
        let encoded = frame.encode().unwrap();
        let length = encoded.len() - 2;
        let field = usize::from(u16::from_be_bytes([encoded[1] & 7, encoded[2]]));
        assert_eq!(field, length);
        same(&encoded, &frame);
        let mut wrong = encoded.clone();
        wrong[1] ^= 0x01;
        assert!(
            matches!(Frame::decode(&wrong), Err(Fault::Length { found, .. }) if found == length)
        );
        let next = octets(SNRM);
        let stream = deframed(&[&wrong, &next]);
        assert_eq!(stream.len(), 2, "{stream:?}");
        assert!(stream[0].is_err() && stream[1].is_ok());
    }
}

#[test]
fn junk_before_the_first_flag_is_passed_over_and_faults_are_told_once() {
    let good = octets(SNRM);
    let mut bad = octets(AARQ);
    bad[12] ^= 1;
    let stream = [b"junk", &good[..], &bad, &bad, &good[..4], &good, &good].concat();
    for chunk in [1, 3, stream.len()] {
        let seen = deframed(&stream.chunks(chunk).collect::<Vec<_>>());
        let kinds: Vec<bool> = seen.iter().map(Result::is_ok).collect();
        assert_eq!(kinds, [true, false, false, false, true, true], "{seen:?}");
    }
    let mut deframer = Deframer::default();
    let mut rest = &stream[..];
    let mut seen = vec![];
    while deframer.next(&mut rest).is_some() {
        seen.push(deframer.octets().to_vec());
    }
    // The one cut short ends where the next begins.
    assert_eq!(seen, [&good, &bad, &bad, &good[..4], &good, &good]);
    let mut deframer = Deframer::default();
    assert!(deframer.next(&mut &good[..5]).is_none());
    assert_eq!(
        deframer.end(),
        Some(Fault::Truncated {
            offset: 5,
            needed: 5,
            found: 0
        })
    );
}
