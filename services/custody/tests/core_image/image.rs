//! What is in the memory of another process: everything a core dump of it would hold.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Octets to look for, each under the name of its kind.
#[derive(Default)]
pub(crate) struct Needles(Vec<(String, Vec<u8>)>);

/// How often octets of a kind were found, and in which mappings.
#[derive(Debug, Default, Clone)]
pub(crate) struct Found {
    pub(crate) count: usize,
    pub(crate) places: BTreeMap<String, usize>,
}

/// By kind; a kind that was not found is not there.
pub(crate) type Findings = BTreeMap<String, Found>;

impl Needles {
    /// Looks for it as it is, and as libraries keep big numbers: the other way round. The schedule of an AES key begins
    /// (to encipher) or ends (to decipher) with the key itself.
    pub(crate) fn add(&mut self, kind: &str, octets: &[u8]) {
        assert!(octets.len() >= 4, "{kind} is too short to look for");
        self.0.push((kind.to_owned(), octets.to_vec()));
        self.0
            .push((kind.to_owned(), octets.iter().rev().copied().collect()));
    }

    /// The first four octets of each, to where it is.
    fn heads(&self) -> HashMap<[u8; 4], Vec<usize>> {
        let mut heads: HashMap<_, Vec<_>> = HashMap::new();
        for (number, (_, octets)) in self.0.iter().enumerate() {
            heads
                .entry(octets[..4].try_into().unwrap())
                .or_default()
                .push(number);
        }
        heads
    }
}

/// Stops a process, reads all it can write, and lets it go on.
pub(crate) fn scan(pid: u32, needles: &Needles) -> Findings {
    let id = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(id, Signal::STOP).unwrap();
    // A child of ours: it has stopped when the kernel says so.
    let stopped = waitpid(Some(id), WaitOptions::UNTRACED).unwrap();
    assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    let found = read(pid, needles);
    kill_process(id, Signal::CONT).unwrap();
    found
}

fn read(pid: u32, needles: &Needles) -> Findings {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let heads = needles.heads();
    // Most positions are passed by on the first two octets.
    let mut begins = vec![false; 1 << 16];
    for head in heads.keys() {
        begins[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
    }
    let (mut found, mut total) = (Findings::new(), 0);
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let place = fields.nth(3).unwrap_or("anonymous").to_owned();
        // What only the kernel writes, and what is as it is in a file of the program.
        if !rights.starts_with("rw") || place.starts_with("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let from = u64::from_str_radix(from, 16).unwrap();
        let to = u64::from_str_radix(to, 16).unwrap();
        let mut octets = vec![0; usize::try_from(to - from).unwrap()];
        let mut done = 0;
        while done < octets.len() {
            match memory.read_at(&mut octets[done..], from + done as u64) {
                Ok(0) | Err(_) => break,
                Ok(read) => done += read,
            }
        }
        octets.truncate(done);
        total += done;
        for at in 0..octets.len().saturating_sub(4) {
            let first = usize::from(u16::from_be_bytes([octets[at], octets[at + 1]]));
            if !begins[first] {
                continue;
            }
            let head: [u8; 4] = octets[at..at + 4].try_into().unwrap();
            for number in heads.get(&head).into_iter().flatten() {
                let (kind, needle) = &needles.0[*number];
                if octets[at..].starts_with(needle) {
                    let found = found.entry(kind.clone()).or_default();
                    found.count += 1;
                    *found.places.entry(place.clone()).or_default() += 1;
                }
            }
        }
    }
    assert!(total > 1 << 20, "the memory was read: {total} octets");
    found
}
