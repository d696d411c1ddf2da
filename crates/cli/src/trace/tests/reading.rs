//! Text in, frames out.

use super::*;

const SNRM: &str = "7EA00802232193BD647E";
const GET: &str = "000100010001000DC001C1000100002B0100FF0200";

fn octets(text: &str) -> Vec<String> {
    input::frames(text)
        .iter()
        .map(|frame| hex::encode_upper(&frame.octets))
        .collect()
}

#[test]
fn hex_as_people_write_it() {
    for text in [
        "7EA00802232193BD647E",
        "7ea00802232193bd647e",
        "7E A0 08 02 23 21 93 BD 64 7E",
        "7E:A0:08:02:23:21:93:BD:64:7E",
        "7E-A0-08-02-23-21-93-BD-64-7E",
        "0x7E, 0xA0, 0x08, 0x02, 0x23, 0x21, 0x93, 0xBD, 0x64, 0x7E",
        "0x7EA00802232193BD647E",
        r#"b"\x7e\xa0\x08\x02\x23\x21\x93\xbd\x64\x7e""#,
        "[7EA0 0802 2321 93BD 647E]",
        "7EA00802  # the beginning\n232193BD647E # the end\n",
        "7E A0 08 02 23\n\n21 93 BD\r\n64 7E\n",
        "# a comment\n7EA00802232193BD647E",
        "TX: 10:23:11\t7E A0 08 02 23 21 93 BD 64 7E",
        "2026-11-22 10:23:11.123 INFO sending 10 bytes: 7E A0 08 02 23 21 93 BD 64 7E",
        "2026-11-22T10:23:11Z DEBUG hdlc send 7ea00802232193bd647e",
        "00000000: 7ea0 0802 2321 93bd 647e  ~...#!..d~",
        "0000  7e a0 08 02 23 21 93 bd 64 7e   ~...#!..d~",
        "{\"frame\": \"7EA00802232193BD647E\"}",
    ] {
        assert_eq!(octets(text), [SNRM], "{text}");
    }
}

#[test]
fn frames_joined_in_one_line_and_split_over_many() {
    let joined = format!("{SNRM}{GET}{SNRM}{SNRM}{GET}");
    let expected = [SNRM, GET, SNRM, SNRM, GET];
    assert_eq!(octets(&joined), expected);
    for width in [2, 6, 14, 20, 34, 62] {
        let split: Vec<_> = joined
            .as_bytes()
            .chunks(width)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        assert_eq!(octets(&split.join("\n")), expected, "{width}");
    }
}

#[test]
fn two_hdlc_frames_may_share_a_flag_and_flags_may_fill() {
    assert_eq!(octets(&format!("{SNRM}{}", &SNRM[2..])), [SNRM, SNRM]);
    let filled = format!("7E7E{SNRM}7E7E");
    assert_eq!(kinds(&filled), [None]);
    let filled = format!("{SNRM}7E7E7E{SNRM}");
    assert_eq!(kinds(&filled), [None, None]);
}

#[test]
fn apdus_by_themselves_one_a_line_split_or_joined() {
    let (get, answer) = ("C001C1000100002B0100FF0200", "C401C1000600001391");
    let lines = format!("{get}\n{answer}\n");
    assert_eq!(octets(&lines), [get, answer]);
    assert_eq!(octets(&format!("{get}{answer}")), [get, answer]);
    assert_eq!(
        octets("C001C100 0100002B\n0100FF02 00\nC401C1000600001391"),
        [get, answer]
    );
    // after the LLC header, as some logs have it
    assert_eq!(kinds(&format!("E6E600{get}")), [None]);
    // one that was cut does not swallow the next
    assert_eq!(
        kinds(&format!("C001C1\n{answer}")),
        [Some(Kind::Truncated), None]
    );
}

#[test]
fn the_trace_file_of_the_association_service() {
    let text = "1763845200.000120 m-1 > 0001000100010006 60.. (54 octets, plain)\n\
        1763845200.020000 m-1 < 000100010001000661.. (66 octets, plain)\n\
        1763845200.040000 m-1 > 0001000100010023CB2130000001020B283F1901034CE49AEA82EB6620983776580737D002A4A74A277957\n\
        1763845200.050000 m-2 > 00010001000100\n\
        1763845200.060000 m-1 > 7ea00802232193bd647e\n\
        1763845200.061000 m-1 > 7ea02c02232110af9fe6e60060.. (30 octets, plain)\n\
        1763845200.062000 m-1 > 7ea88102232112550b.. (122 octets, plain)\n\
        1763845200.070000 m-2 > 23cb2130000001020b283f1901034ce49aea82eb6620983776580737d002a4a74a277957\n";
    let frames = json(text, green_book());
    let said: Vec<_> = frames
        .iter()
        .map(|frame| {
            assert_eq!(frame["fault"], Value::Null, "{frame}");
            (
                frame["meter"].as_str().unwrap(),
                frame["direction"].as_str().unwrap(),
                frame["frame"]["kind"].as_str().unwrap(),
                frame["apdu"]["type"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("m-1", "to_meter", "wrapper", "AARQ"),
            ("m-1", "from_meter", "wrapper", "AARE"),
            ("m-1", "to_meter", "wrapper", "glo-action-request"),
            ("m-1", "to_meter", "hdlc", ""),
            ("m-1", "to_meter", "hdlc", "AARQ"),
            ("m-1", "to_meter", "hdlc", ""),
            ("m-2", "to_meter", "wrapper", "glo-action-request"),
        ]
    );
    assert_eq!(frames[0]["frame"]["withheld"], 54);
    assert_eq!(frames[2]["time"], "1763845200.040000");
    assert_eq!(frames[6]["line"], 4);
    assert_eq!(frames[6]["plaintext"]["verified"], true);
}

#[test]
fn what_is_no_hex_is_left_alone_or_named() {
    assert!(input::frames("").is_empty());
    assert!(input::frames("no frame in here\nreceived 43 bytes at 10:23:11\n").is_empty());
    assert_eq!(kinds("7EA00802232193BG647E"), [Some(Kind::Truncated)]);
    assert_eq!(kinds("C401C1000600001391XY"), [Some(Kind::BadHex)]);
}
