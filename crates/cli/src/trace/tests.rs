use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::explain::{Explained, Explainer};
use super::fault::Kind;
use super::input::{self, Frame};
use super::keys::Keys;
use super::node::{Node, Shape};
use super::render;

mod faults;
mod foreign;
mod reading;

/// A published or derived example.
#[derive(Deserialize)]
struct Vector {
    id: String,
    hex: String,
    keys: std::collections::BTreeMap<String, String>,
    /// By JSON pointer into the frame's object.
    expect: std::collections::BTreeMap<String, Value>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("tests/vectors.json")).unwrap()
}

/// The keys of the Green Book's examples.
const EK: &str = "000102030405060708090A0B0C0D0E0F";
const AK: &str = "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF";
const CLIENT: &str = "4D4D4D0000000001";
const SERVER: &str = "4D4D4D0000BC614E";

fn green_book() -> Keys {
    keys(&[
        ("ek", EK),
        ("ak", AK),
        ("system_title", CLIENT),
        ("system_title", SERVER),
    ])
}

fn keys(named: &[(&str, &str)]) -> Keys {
    let mut keys = Keys::default();
    for (name, value) in named {
        let octets = hex::decode(value).unwrap();
        match *name {
            "ek" => keys.ek.push(Zeroizing::new(octets)),
            "ak" => keys.ak.push(Zeroizing::new(octets)),
            "dk" => keys.dk.push(Zeroizing::new(octets)),
            "system_title" => keys.titles.push(octets.try_into().unwrap()),
            other => panic!("{other}"),
        }
    }
    keys
}

/// Every frame of a text.
fn explained(text: &str, keys: Keys) -> Vec<(Frame, Explained)> {
    let mut explainer = Explainer::new(keys);
    input::frames(text)
        .into_iter()
        .map(|frame| {
            let explained = explainer.explain(&frame);
            (frame, explained)
        })
        .collect()
}

/// Every frame of a text, as programs get it.
fn json(text: &str, keys: Keys) -> Vec<Value> {
    (1..)
        .zip(explained(text, keys))
        .map(|(number, (frame, explained))| render::json(number, &frame.origin, &explained))
        .collect()
}

/// The kinds of the faults of every frame of a text.
fn kinds(text: &str) -> Vec<Option<Kind>> {
    explained(text, Keys::default())
        .into_iter()
        .map(|(_, explained)| explained.fault.map(|fault| fault.kind))
        .collect()
}

/// Every octet is in one leaf, and in no other.
fn assert_tiled(tree: &Node, len: usize, what: &str) {
    fn leaves(node: &Node, found: &mut Vec<(usize, usize)>) {
        if node.shape == Shape::Leaf {
            found.push((node.offset, node.len));
        }
        for child in &node.children {
            leaves(child, found);
        }
    }
    let mut found = Vec::new();
    leaves(tree, &mut found);
    let mut next = 0;
    for (offset, len) in found {
        assert_eq!(offset, next, "{what}");
        next += len;
    }
    assert_eq!(next, len, "{what}");
}

#[test]
fn every_vector_explains() {
    for vector in vectors() {
        let id = &vector.id;
        let named: Vec<_> = vector
            .keys
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let frames = json(&vector.hex, keys(&named));
        let [frame] = frames.as_slice() else {
            panic!("{id}: {} frames", frames.len());
        };
        assert_eq!(frame["fault"], Value::Null, "{id}");
        for (pointer, expected) in &vector.expect {
            let found = frame.pointer(pointer);
            assert_eq!(found, Some(expected), "{id} {pointer}: {frame}");
        }
    }
}

#[test]
fn every_octet_of_every_vector_is_in_one_leaf() {
    for vector in vectors() {
        for (frame, explained) in explained(&vector.hex, green_book()) {
            assert_tiled(&explained.tree, frame.octets.len(), &vector.id);
            for part in &explained.parts {
                assert_tiled(&part.tree, part.octets.len(), &vector.id);
            }
            // and so every octet is in the text
            let text = render::text(1, &frame.origin, &explained);
            assert!(!text.contains("not explained"), "{}: {text}", vector.id);
        }
    }
}

#[test]
fn no_key_and_no_password_is_shown() {
    let initiate = "21303001234567801302FF8A7874133D414CED25B42534D28DB0047720606B175BD52211BE6841DB204D39EE6FDB8E356855";
    let password = "6036A1090607608574050801018A0207808B0760857405080201AC0A80083132333435363738BE10040E01000000065F1F0400007E1F04B0";
    let secret = "C101C1000F0000280000FF070009083132333435363738";
    for (hex, secret) in [
        (initiate, "00112233445566778899aabbccddeeff"),
        (password, "3132333435363738"),
        (secret, "3132333435363738"),
    ] {
        for (frame, explained) in explained(hex, green_book()) {
            assert_eq!(explained.fault, None);
            let shown = [
                render::json(1, &frame.origin, &explained).to_string(),
                render::text(1, &frame.origin, &explained),
            ];
            for shown in shown {
                let digits: String = shown.chars().filter(|c| !c.is_whitespace()).collect();
                assert!(!digits.contains(secret), "{shown}");
                assert!(digits.contains("notshown"), "{shown}");
                assert!(!digits.to_lowercase().contains(&EK.to_lowercase()));
            }
        }
    }
}

#[test]
fn keys_come_from_files_and_files_are_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let lab = format!(
        "client_system_title = \"{CLIENT}\"\nserver_system_title = \"{SERVER}\"\nek = \"{EK}\" # global\nak = '{AK}'\n"
    );
    let lab = file("lab", &lab);
    let spaced = file("ek", "00010203 04050607\n08090A0B 0C0D0E0F\n");
    for ek in [&spaced, &lab] {
        assert_eq!(
            super::key(ek, "ek").unwrap().as_slice(),
            hex::decode(EK).unwrap()
        );
    }
    let client: [u8; 8] = hex::decode(CLIENT).unwrap().try_into().unwrap();
    let from_file = super::titles(lab.to_str().unwrap()).unwrap();
    assert_eq!((from_file.len(), from_file[0]), (2, client));
    assert_eq!(super::titles(CLIENT).unwrap(), [client]);
    for bad in ["000102", "zz", "ek = 5", ""] {
        let said = super::key(&file("bad", bad), "ek").unwrap_err().to_string();
        assert!(bad.is_empty() || !said.contains(bad), "{said}");
    }
    assert!(super::titles("4D4D").is_err());
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..300), form in 0..4_u8) {
        // beginnings that lead deeper than noise does
        let begin: &[u8] = match form {
            0 => &[],
            1 => &[0x7e, 0xa0],
            2 => &[0, 1, 0, 1, 0, 1, 0],
            _ => &[0xdb, 8],
        };
        let text = hex::encode([begin, &octets].concat());
        for (frame, explained) in explained(&text, green_book()) {
            assert_tiled(&explained.tree, frame.octets.len(), &text);
            let _ = render::text(1, &frame.origin, &explained);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n#0-9a-fA-F:x>]{0,200}") {
        let _ = json(&text, green_book());
    }

    #[test]
    fn a_changed_vector_never_panics(index in 0..53_usize, at in any::<prop::sample::Index>(), by in 1..=255_u8) {
        let vectors = vectors();
        let vector = &vectors[index % vectors.len()];
        let mut octets = hex::decode(&vector.hex).unwrap();
        let at = at.index(octets.len());
        octets[at] ^= by;
        for (frame, explained) in explained(&hex::encode(octets), green_book()) {
            assert_tiled(&explained.tree, frame.octets.len(), &vector.id);
        }
    }
}
