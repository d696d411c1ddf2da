//! Each way in which a frame may be bad, and its name.

use super::*;

/// Good frames: wrapper, HDLC with and without information, an APDU by itself.
fn good() -> Vec<Vector> {
    let vectors = vectors().into_iter();
    vectors
        .filter(|vector| !vector.id.starts_with("hdlc-fcs"))
        .collect()
}

fn hdlc() -> Vec<Vector> {
    good()
        .into_iter()
        .filter(|vector| vector.hex.starts_with("7E"))
        .collect()
}

#[test]
fn a_frame_cut_anywhere_is_truncated() {
    for vector in good() {
        let digits = vector.hex.len();
        for cut in (2..digits).step_by(2) {
            let hex = &vector.hex[..cut];
            let kind = kinds(hex);
            // what ends in a flag may as well have a wrong length
            let expected = if vector.hex.starts_with("7E") && hex.ends_with("7E") && cut > 2 {
                Kind::LengthMismatch
            } else {
                Kind::Truncated
            };
            assert_eq!(
                kind,
                [Some(expected)],
                "{} cut after {cut} digits",
                vector.id
            );
        }
    }
}

#[test]
fn half_an_octet_is_truncated_too() {
    assert_eq!(kinds("C001C1000100002B0100FF020"), [Some(Kind::Truncated)]);
}

#[test]
fn a_changed_octet_of_hdlc_is_a_wrong_check_sequence() {
    for vector in hdlc() {
        let octets = hex::decode(&vector.hex).unwrap();
        // flags and length are other faults
        for at in 3..octets.len() - 1 {
            for bit in 0..8 {
                let mut changed = octets.clone();
                changed[at] ^= 1 << bit;
                let kinds = kinds(&hex::encode(changed));
                assert!(
                    matches!(kinds.as_slice(), [Some(Kind::WrongHcs | Kind::WrongFcs)]),
                    "{} octet {at}: {kinds:?}",
                    vector.id
                );
            }
        }
    }
}

#[test]
fn every_single_fault_of_hdlc_by_its_name() {
    let snrm = "7EA00802232193BD647E";
    let i = "7EA02C02232110AF9FE6E600601DA109060760857405080101BE10040E01000000065F1F0400001E1DFFFFC5E47E";
    for (hex, kind) in [
        // FCS, HCS
        ("7EA00802232193BD657E", Kind::WrongFcs),
        (&*i.replace("AF9F", "AF9E"), Kind::WrongHcs),
        (&*i.replace("C5E4", "C5E5"), Kind::WrongFcs),
        (&*i.replace("1E1DFFFF", "1E1DFFFE"), Kind::WrongFcs),
        // length
        ("7EA00902232193BD647E", Kind::LengthMismatch),
        ("7EA00702232193BD647E", Kind::LengthMismatch),
        (&*i.replace("7EA02C", "7EA02D"), Kind::LengthMismatch),
        (&*i.replace("E600601D", "E60060"), Kind::LengthMismatch),
        (&*i.replace("E600601D", "E60060001D"), Kind::LengthMismatch),
        // flags
        ("7EA00802232193BD64", Kind::Truncated),
        ("7EA00802232193BD64FF", Kind::MissingFlag),
        ("A00802232193BD647E", Kind::MissingFlag),
        // the rest
        ("7E900802232193BD647E", Kind::BadValue),
        (&*format!("{snrm}0102"), Kind::TrailingOctets),
        (&*format!("{i}AABB"), Kind::TrailingOctets),
    ] {
        assert_eq!(kinds(hex), [Some(kind)], "{hex}");
    }
}

#[test]
fn faults_inside_a_sound_hdlc_frame_are_those_of_its_apdu() {
    let get = "C001C1000100002B0100FF0200";
    for (apdu, kind) in [
        (get.to_owned(), None),
        (format!("{get}00"), Some(Kind::TrailingOctets)),
        (get[..24].to_owned(), Some(Kind::Truncated)),
        (format!("77{get}"), Some(Kind::UnknownTag)),
    ] {
        let body = format!("022303 32 0000 E6E600 {apdu} 0000").replace(' ', "");
        let mut octets = vec![0xa0, u8::try_from(body.len() / 2 + 2).unwrap()];
        octets.extend(hex::decode(body).unwrap());
        let hcs = super::super::hdlc::check_sequence(&octets[..6]);
        octets[6..8].copy_from_slice(&hcs);
        let end = octets.len() - 2;
        let fcs = super::super::hdlc::check_sequence(&octets[..end]);
        octets[end..].copy_from_slice(&fcs);
        let hex = format!("7E{}7E", hex::encode(octets));
        assert_eq!(kinds(&hex), [kind], "{hex}");
    }
}

#[test]
fn every_single_fault_of_the_wrapper_by_its_name() {
    let good = "000100010001000DC001C1000100002B0100FF0200";
    for (hex, kind) in [
        (good.to_owned(), None),
        (good[..40].to_owned(), Some(Kind::Truncated)),
        (good.replace("000DC0", "000EC0"), Some(Kind::LengthMismatch)),
        (good.replace("000DC0", "000CC0"), Some(Kind::LengthMismatch)),
        (format!("{good}AABB"), Some(Kind::TrailingOctets)),
        (format!("{good}00"), Some(Kind::TrailingOctets)),
        (
            format!("{good}00").replace("000DC0", "000EC0"),
            Some(Kind::TrailingOctets),
        ),
        (good.replace("000DC0", "000D77"), Some(Kind::UnknownTag)),
        (good.replace("C001C1", "C007C1"), Some(Kind::UnknownTag)),
    ] {
        assert_eq!(kinds(&hex), [kind], "{hex}");
    }
}

#[test]
fn faults_name_their_offset_what_was_expected_and_what_was_found() {
    for (hex, fault) in [
        (
            "C401C100FF13",
            "trailing octets at offset 5: expected the end, found 1 octet",
        ),
        (
            "C401C10007",
            "unknown tag at offset 4: expected a Data tag (0..6, 9, 10, 12, 13, 15..33, 255), found 07",
        ),
        (
            "C401C10002",
            "truncated at offset 5: expected 1 octet, found the end",
        ),
        (
            "C81E3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B",
            "truncated at offset 31: expected 30 octets of ciphered-content, found 29 and the end",
        ),
        (
            "99",
            "unknown tag at offset 0: expected the tag of an APDU, found 99",
        ),
        (
            "7EA00802232193BD657E",
            "wrong FCS at offset 7: expected bd64, found bd65",
        ),
    ] {
        let [(_, explained)] = &explained(hex, Keys::default())[..] else {
            panic!("{hex}");
        };
        assert_eq!(
            explained.fault.as_ref().unwrap().to_string(),
            fault,
            "{hex}"
        );
    }
}

#[test]
fn a_wrong_tag_is_a_fault_only_where_keys_were_given() {
    let apdu = "C81E3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6C";
    assert_eq!(kinds(apdu), [None]);
    let frames = json(apdu, green_book());
    assert_eq!(frames[0]["fault"]["kind"], "wrong_tag");
    assert_eq!(frames[0]["plaintext"], Value::Null);
    // authenticated only: the content can be seen, but not believed
    let apdu = "C81E1001234567C0010000080000010000FF020006725D910F9221D263877517";
    let frames = json(apdu, green_book());
    assert_eq!(frames[0]["fault"]["kind"], "wrong_tag");
    assert_eq!(frames[0]["plaintext"]["verified"], false);
    assert_eq!(frames[0]["plaintext"]["apdu"]["type"], "get-request");
}

#[test]
fn a_key_of_another_suite_or_no_title_is_no_fault() {
    let apdu = "C81E3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B";
    let other = keys(&[("ek", &EK.repeat(2)), ("ak", AK), ("system_title", SERVER)]);
    for keys in [other, keys(&[("ek", EK), ("ak", AK)])] {
        let frames = json(apdu, keys);
        assert_eq!(frames[0]["fault"], Value::Null);
        assert_eq!(frames[0]["plaintext"], Value::Null);
        assert_ne!(frames[0]["notes"][0], Value::Null);
    }
}

#[test]
fn a_bad_frame_among_good_ones_spoils_none_of_them() {
    let snrm = "7EA00802232193BD647E";
    let get = "000100010001000DC001C1000100002B0100FF0200";
    for (bad, kind) in [
        ("7EA0FF02232193BD647E", Kind::LengthMismatch),
        ("7EA00802232193BD657E", Kind::WrongFcs),
        ("7EA0080223219300BD64", Kind::LengthMismatch),
    ] {
        let found = kinds(&format!("{snrm}{bad}{snrm}{get}"));
        assert_eq!(found, [None, Some(kind), None, None], "{bad}");
    }
    let found = kinds(&format!(
        "{get}\n{}\n{get}",
        get.replace("000DC0", "00FFC0")
    ));
    assert_eq!(found, [None, Some(Kind::LengthMismatch), None]);
}
