use super::*;
use crate::note::tests::ed25519;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use proptest::prelude::*;

const ORIGIN: &str = "latchkey.test/trail";

struct Signer {
    pair: Ed25519KeyPair,
    key: VerifierKey,
}

impl Signer {
    fn new(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public_key = pair.public_key().as_ref().try_into().unwrap();
        let key = VerifierKey::new(ORIGIN, public_key).unwrap();
        Self { pair, key }
    }

    fn export(&self, bodies: &[Vec<u8>]) -> Vec<u8> {
        let tree: Tree = bodies.iter().map(|body| leaf_hash(body)).collect();
        let mut file = head(&self.sign(tree.size(), tree.root()));
        for (index, body) in (0..).zip(bodies) {
            file.push_str(&line(index, body));
        }
        file.into_bytes()
    }

    fn sign(&self, size: u64, root: Hash) -> String {
        let checkpoint = Checkpoint::new(ORIGIN, size, root).unwrap();
        let signature = self.pair.sign(checkpoint.to_string().as_bytes());
        checkpoint.seal(&self.key, signature.as_ref().try_into().unwrap())
    }
}

fn bodies(count: u8) -> Vec<Vec<u8>> {
    // lengths 0, 1, 2, …: every amount of base64 padding occurs
    (0..count)
        .map(|i| (0..i).map(|j| i.wrapping_mul(37).wrapping_add(j)).collect())
        .collect()
}

fn lines(file: &[u8]) -> Vec<String> {
    let text = core::str::from_utf8(file).unwrap();
    text.split_inclusive('\n').map(String::from).collect()
}

/// The part of the file that holds the octet at `offset`.
fn part_of(file: &[u8], offset: usize) -> What {
    let line = file[..offset].iter().filter(|o| **o == b'\n').count();
    match line {
        0 => What::Header,
        1..7 => What::Checkpoint,
        entry => What::Entry(u64::try_from(entry - 7).unwrap()),
    }
}

#[test]
fn an_export_verifies_however_it_is_cut_into_chunks() {
    let signer = Signer::new(1);
    for count in [0, 1, 2, 7] {
        let file = signer.export(&bodies(count));
        let whole = verify(&file, &signer.key, ed25519).unwrap();
        assert_eq!(whole.size, u64::from(count));
        assert_eq!(whole.origin, ORIGIN);
        for chunk in [1, 3, 100] {
            let mut verifier = Verifier::new(signer.key.clone(), ed25519);
            for octets in file.chunks(chunk) {
                verifier.push(octets).unwrap();
            }
            assert_eq!(verifier.finish().unwrap(), whole);
        }
    }
}

#[test]
fn changing_any_octet_to_anything_else_fails_and_names_the_part() {
    let signer = Signer::new(1);
    let file = signer.export(&bodies(5));
    for offset in 0..file.len() {
        for value in 0..=u8::MAX {
            if value == file[offset] {
                continue;
            }
            let mut changed = file.clone();
            changed[offset] = value;
            let failure = verify(&changed, &signer.key, ed25519).unwrap_err();
            assert_eq!(
                failure.what,
                part_of(&file, offset),
                "octet {offset} changed to {value:#04x}: {failure}"
            );
        }
    }
}

#[test]
fn removing_or_adding_any_octet_fails() {
    let signer = Signer::new(1);
    let file = signer.export(&bodies(4));
    for offset in 0..file.len() {
        assert!(
            verify(&file[..offset], &signer.key, ed25519).is_err(),
            "cut at {offset}"
        );
        let mut shorter = file.clone();
        shorter.remove(offset);
        assert!(
            verify(&shorter, &signer.key, ed25519).is_err(),
            "without octet {offset}"
        );
    }
    for offset in 0..=file.len() {
        for extra in [b' ', b'\n', b'\r', b'0', b'A', b'=', 0, 0xFF] {
            let mut longer = file.clone();
            longer.insert(offset, extra);
            assert!(
                verify(&longer, &signer.key, ed25519).is_err(),
                "{extra:#04x} added at {offset}"
            );
        }
    }
}

#[test]
fn a_cut_off_trail_names_the_missing_entry() {
    let signer = Signer::new(1);
    let file = lines(&signer.export(&bodies(4))).concat();
    let cut = file.rsplit_once("\n3 ").unwrap().0;
    let failure = verify(format!("{cut}\n").as_bytes(), &signer.key, ed25519).unwrap_err();
    assert_eq!(failure.what, What::Entry(3));
    let failure = verify(cut.as_bytes(), &signer.key, ed25519).unwrap_err();
    assert_eq!(failure.what, What::Entry(2));
}

#[test]
fn swapped_repeated_and_added_entries_fail() {
    let signer = Signer::new(1);
    let original = lines(&signer.export(&bodies(4)));
    let mut swapped = original.clone();
    swapped.swap(8, 9);
    let mut repeated = original.clone();
    repeated.insert(9, repeated[8].clone());
    let mut added = original;
    added.push(line(4, b"one more"));
    for (lines, what) in [
        (swapped, What::Entry(1)),
        (repeated, What::Entry(2)),
        (added, What::End),
    ] {
        let failure = verify(lines.concat().as_bytes(), &signer.key, ed25519).unwrap_err();
        assert_eq!(failure.what, what, "{failure}");
    }
}

#[test]
fn an_entry_rewritten_with_its_leaf_hash_is_not_the_tree() {
    let signer = Signer::new(1);
    let mut lines = lines(&signer.export(&bodies(4)));
    lines[8] = line(1, b"rewritten");
    let failure = verify(lines.concat().as_bytes(), &signer.key, ed25519).unwrap_err();
    assert_eq!(failure.what, What::Tree);
}

#[test]
fn a_trail_signed_again_by_another_key_fails() {
    let signer = Signer::new(1);
    let forged = Signer::new(2).export(&bodies(4));
    let failure = verify(&forged, &signer.key, ed25519).unwrap_err();
    assert_eq!(failure.what, What::Checkpoint);
}

#[test]
fn a_second_signature_fails() {
    let signer = Signer::new(1);
    let mut lines = lines(&signer.export(&bodies(2)));
    lines.insert(6, "— witness AAAAAAAA\n".to_string());
    let failure = verify(lines.concat().as_bytes(), &signer.key, ed25519).unwrap_err();
    assert_eq!(failure.what, What::Checkpoint);
}

#[test]
fn the_largest_entry_fits_its_line_and_a_larger_one_does_not() {
    let signer = Signer::new(1);
    let file = signer.export(&[alloc::vec![0xA5; MAX_BODY_LEN]]);
    assert!(verify(&file, &signer.key, ed25519).is_ok());
    let file = signer.export(&[alloc::vec![0xA5; MAX_BODY_LEN + 1]]);
    let failure = verify(&file, &signer.key, ed25519).unwrap_err();
    assert_eq!(failure.what, What::Entry(0));
    // an endless line is refused before it is stored
    let mut verifier = Verifier::new(signer.key, ed25519);
    let endless = alloc::vec![b'x'; MAX_LINE_LEN + 1];
    let first = verifier.push(&endless).unwrap_err();
    assert_eq!(verifier.push(b"x"), Err(first));
}

proptest! {
    #[test]
    fn any_trail_verifies_and_any_one_change_breaks_it(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..12),
        at in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
    ) {
        let signer = Signer::new(3);
        let mut file = signer.export(&bodies);
        prop_assert!(verify(&file, &signer.key, ed25519).is_ok());
        let offset = at.index(file.len());
        let part = part_of(&file, offset);
        file[offset] ^= flip;
        let failure = verify(&file, &signer.key, ed25519).unwrap_err();
        prop_assert_eq!(failure.what, part);
    }

    #[test]
    fn no_input_makes_it_panic(file in prop::collection::vec(any::<u8>(), 0..300)) {
        let signer = Signer::new(3);
        prop_assert!(verify(&file, &signer.key, ed25519).is_err());
        let mut after_header = HEADER.as_bytes().to_vec();
        after_header.push(b'\n');
        after_header.extend(&file);
        prop_assert!(verify(&after_header, &signer.key, ed25519).is_err());
    }
}
