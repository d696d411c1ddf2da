//! The corpora of the fuzz targets, replayed through the code that the targets run: what a fuzzer once reached stays
//! reached, and what it once found stays mended.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of a test may fail by panicking"
)]

#[path = "../fuzz/src/lib.rs"]
mod drive;

use std::path::PathBuf;

/// A target, how many neighbours of each input are tried, and what it does.
type Target = (&'static str, usize, fn(&[u8]));

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(root.join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let octets = std::fs::read(&path).unwrap();
        (path, octets)
    };
    files.into_iter().map(read).collect()
}

/// Runs all inputs; says which one it was that failed.
fn replay(target: &str, run: fn(&[u8])) {
    let inputs = inputs(target);
    assert!(inputs.len() > 50, "{} inputs", inputs.len());
    for (path, octets) in inputs {
        let outcome = std::panic::catch_unwind(|| run(&octets));
        assert!(outcome.is_ok(), "{} failed", path.display());
    }
}

#[test]
fn decode() {
    replay("decode", drive::decode::run);
    let selectors: std::collections::BTreeSet<_> = inputs("decode")
        .iter()
        .filter_map(|(_, octets)| octets.first())
        .map(|selector| selector % drive::decode::DECODERS)
        .collect();
    assert_eq!(selectors.len(), usize::from(drive::decode::DECODERS));
}

#[test]
fn hdlc() {
    replay("hdlc", drive::hdlc::run);
}

#[test]
fn client() {
    replay("client", |octets| {
        drive::client::run(octets);
    });
    reaches("client", drive::client::run);
}

#[test]
fn meter() {
    replay("meter", |octets| {
        drive::meter::run(octets);
    });
    reaches("meter", drive::meter::run);
}

/// Inputs next to those of the corpora: a few octets changed, added or cut, the same every time.
#[test]
fn neighbours() {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        // xorshift
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap() % below.max(1)
    };
    let targets: [Target; 4] = [
        ("decode", 20, drive::decode::run),
        ("hdlc", 20, drive::hdlc::run),
        ("client", 3, |octets| {
            drive::client::run(octets);
        }),
        ("meter", 3, |octets| {
            drive::meter::run(octets);
        }),
    ];
    for (target, times, run) in targets {
        for (path, octets) in inputs(target) {
            for _ in 0..times {
                let mut changed = octets.clone();
                for _ in 0..=random(3) {
                    let at = random(changed.len());
                    match random(4) {
                        0 => changed.truncate(at),
                        1 => changed.insert(at, u8::try_from(random(256)).unwrap()),
                        _ => {
                            if let Some(octet) = changed.get_mut(at) {
                                *octet ^= 1 << random(8);
                            }
                        }
                    }
                }
                let outcome = std::panic::catch_unwind(|| run(&changed));
                assert!(outcome.is_ok(), "{}: {changed:02X?}", path.display());
            }
        }
    }
}

/// A corpus in which nothing is ever opened, executed or answered would prove nothing.
fn reaches(target: &str, run: fn(&[u8]) -> drive::Reached) {
    let inputs = inputs(target);
    let reached: Vec<_> = inputs.iter().map(|(_, octets)| run(octets)).collect();
    let some = |what: fn(&drive::Reached) -> bool| reached.iter().filter(|one| what(one)).count();
    let counts = [
        some(|one| one.opened > 0),
        some(|one| one.executed > 0),
        some(|one| one.answered > 1),
        some(|one| one.released),
    ];
    assert!(counts.iter().all(|count| *count > 4), "{counts:?}");
}
