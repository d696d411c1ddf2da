//! The nonce checker: what two custody processes on one PostgreSQL really gave out, under load, while they are killed
//! at any moment and at every line of counter reservation. No (key, nonce) pair goes with two ciphertexts.
//!
//! `LATCHKEY_NONCE_OPERATIONS` says how many ciphertexts are looked at: 100,000 without it. A million:
//! `LATCHKEY_NONCE_OPERATIONS=1000000 cargo test -p integration-tests --test nonces -- --nocapture`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and figures are for the reader"
)]

mod house;
mod meter;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use integration_tests::stack::until;

use crate::{
    house::{House, REPLICAS},
    meter::{Books, Meter, work},
};

/// Meters, each with two heads at a time that fight for it.
const METERS: usize = 8;
/// Longest time for an armed process to come to its line.
const REACHED: Duration = Duration::from_secs(120);
/// Longest time of load between two kills.
const SHARE: Duration = Duration::from_secs(60);

#[test]
fn no_nonce_is_used_twice_whatever_dies() -> Result<()> {
    let wanted = std::env::var("LATCHKEY_NONCE_OPERATIONS")
        .ok()
        .map_or(Ok(100_000), |count| count.parse())?;
    let mut house = House::build()?;
    for replica in 0..REPLICAS {
        house.start(replica, None)?;
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let _inside = runtime.enter();
    let books = Arc::new(Books::new(wanted));
    let meters: Vec<_> = (0..METERS).map(|n| Arc::new(Meter::new(n))).collect();
    runtime.block_on(house.enrol(&meters))?;
    let began = Instant::now();
    let custody = Arc::new(house.counter());
    let workers: Vec<_> = (0..METERS * 2)
        .map(|number| {
            let meter = Arc::clone(&meters[number / 2]);
            runtime.spawn(work(
                number,
                meter,
                Arc::clone(&books),
                Arc::clone(&custody),
            ))
        })
        .collect();
    let killed = kill_until(&mut house, &books);
    books.close();
    runtime.block_on(async {
        for worker in workers {
            worker.await.expect("a worker does not panic");
        }
    });
    let killed = killed?;
    let (ciphertexts, contexts) = books.sums();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{ciphertexts} ciphertexts of {contexts} contexts of {METERS} meters through {REPLICAS} replicas in {seconds:.0} s; \
         {} kills, of them {} at a line of their own; (key, nonce) pairs with two ciphertexts: {}",
        killed.total,
        killed.at_lines,
        books.repeated().len()
    );
    ensure!(books.repeated().is_empty(), "{:?}", books.repeated());
    ensure!(ciphertexts >= wanted, "the load ended early");
    Ok(())
}

struct Killed {
    total: usize,
    at_lines: usize,
}

/// Kills one replica after another until the books are full: at a moment nobody chose, then at the next line. In between
/// the load goes on for its share.
fn kill_until(house: &mut House, books: &Books) -> Result<Killed> {
    let lines = House::lines();
    let share = books.wanted() / (2 * lines.len()).max(1);
    let mut killed = Killed {
        total: 0,
        at_lines: 0,
    };
    let mut turn = 0;
    while !books.is_full() || (House::COMPILED_IN && killed.at_lines < lines.len()) {
        let (replica, line) = (turn % REPLICAS, lines[turn % lines.len()]);
        let enough = books.sums().0 + share;
        until(SHARE, || (books.sums().0 >= enough).then_some(()));
        std::thread::park_timeout(Duration::from_millis(u64::try_from(turn % 7)? * 9));
        house.kill(replica)?;
        killed.total += 1;
        if House::COMPILED_IN {
            if line.contains("raise") {
                house.forget(replica)?;
            }
            let marker = house.start(replica, Some(line))?;
            let reached = house.wait_dead(replica, REACHED)?;
            ensure!(reached && !marker.exists(), "{line} was never reached");
            killed.total += 1;
            killed.at_lines += 1;
        }
        house.start(replica, None)?;
        turn += 1;
    }
    Ok(killed)
}
