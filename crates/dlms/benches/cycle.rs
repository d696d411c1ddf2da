//! A whole cycle over loopback TCP (connect, HLS5, GET, ACTION, release, close): the CPU time of both sides together, of
//! this crate, of `dlms-cosem-rs`, and of the bare exchange of the same octets, in one run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and may fail by panicking"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use dlms::client::Event;
use support::{ours, theirs};

/// Cycles of one measurement, and how many measurements are taken of each: the best counts.
const CYCLES: u32 = 1000;
const ROUNDS: u32 = 5;

fn main() {
    // `cargo test --benches` only looks whether it runs
    let cycles = if std::env::args().any(|arg| arg == "--bench") {
        CYCLES
    } else {
        3
    };
    let script = record();
    let octets: usize = script.iter().map(|(_, octets)| octets.len()).sum();
    println!(
        "cycle: {} frames, {octets} octets, {cycles} cycles",
        script.len()
    );
    let mut best = [f64::INFINITY; 3];
    for _ in 0..ROUNDS {
        let round = [
            measure(
                cycles,
                &mut |listener| bare_meter(listener, &script, cycles),
                &mut |to| {
                    bare_client(to, &script);
                },
            ),
            measure(
                cycles,
                &mut |listener| our_meter(listener, cycles),
                &mut our_client(),
            ),
            measure(
                cycles,
                &mut |listener| their_meter(listener, cycles),
                &mut their_client(),
            ),
        ];
        for (best, one) in best.iter_mut().zip(round) {
            *best = best.min(one);
        }
    }
    for (name, cpu) in ["bare TCP", "latchkey", "dlms_cosem_rs"]
        .into_iter()
        .zip(best)
    {
        println!("cycle/{name:<14} {cpu:>7.1} µs of CPU, both sides together (best of {ROUNDS})");
    }
}

type Script = Vec<(bool, Vec<u8>)>;

/// The frames of one cycle in memory, and whether the client sends them.
fn record() -> Script {
    let mut keys = (ours::keys(support::CLIENT), ours::keys(support::METER));
    let (mut client, mut meter) = (ours::client(), ours::meter());
    let (mut script, mut asked): (Script, _) = (vec![], 0);
    client.open(0);
    loop {
        let sent = script.len();
        let event = ours::step_client(&mut client, &mut keys.0, |octets| {
            script.push((true, octets.to_vec()));
        });
        if let Some(event) = event
            && !go_on(&mut client, &event, &mut asked)
        {
            return script;
        }
        for (_, octets) in &script[sent..] {
            meter.handle_bytes(0, octets);
        }
        let sent = script.len();
        ours::step_meter(&mut meter, &mut keys.1, |octets| {
            script.push((false, octets.to_vec()))
        });
        for (_, octets) in &script[sent..] {
            client.handle_bytes(0, octets);
        }
    }
}

/// What a client does after an event; false after the last.
fn go_on(client: &mut dlms::Client, event: &Event, asked: &mut u32) -> bool {
    match event {
        Event::Opened { .. } => client.request(0, ours::get()).unwrap(),
        Event::Answered(_) if *asked == 0 => {
            *asked = 1;
            client.request(0, ours::action()).unwrap();
        }
        Event::Answered(_) => client.release(0),
        Event::Released => return false,
        other => panic!("{other:?}"),
    }
    true
}

/// Microseconds of CPU for each cycle, of both threads.
fn measure(
    cycles: u32,
    meter: &mut (dyn FnMut(&TcpListener) + Send),
    client: &mut dyn FnMut(SocketAddr),
) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let started = Instant::now();
    let cpu = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let before = cpu_ns();
            meter(&listener);
            cpu_ns() - before
        });
        let before = cpu_ns();
        for _ in 0..cycles {
            client(address);
        }
        cpu_ns() - before + server.join().unwrap()
    });
    assert!(started.elapsed().as_secs() < 600);
    cpu as f64 / 1000.0 / f64::from(cycles)
}

/// What this thread has spent, in nanoseconds.
fn cpu_ns() -> u64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    spent.split(' ').next().unwrap().parse().unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn bare_client(address: SocketAddr, script: &Script) {
    play(&mut connect(address), script, true);
}

fn bare_meter(listener: &TcpListener, script: &Script, cycles: u32) {
    for _ in 0..cycles {
        let mut stream = accept(listener);
        play(&mut stream, script, false);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

/// Sends one's own frames, and reads as much as the other's.
fn play(stream: &mut TcpStream, script: &Script, client: bool) {
    let mut buffer = [0; 2048];
    for (by_client, octets) in script {
        if *by_client == client {
            stream.write_all(octets).unwrap();
        } else {
            let mut left = octets.len();
            while left > 0 {
                left -= stream.read(&mut buffer[..left]).unwrap();
            }
        }
    }
}

fn our_client() -> impl FnMut(SocketAddr) {
    let mut keys = ours::keys(support::CLIENT);
    move |address| {
        let (mut stream, mut client, mut asked) = (connect(address), ours::client(), 0);
        let mut buffer = [0; 2048];
        client.open(0);
        loop {
            let event = ours::step_client(&mut client, &mut keys, |octets| {
                stream.write_all(octets).unwrap();
            });
            match event {
                Some(event) => {
                    if !go_on(&mut client, &event, &mut asked) {
                        return;
                    }
                }
                None => {
                    let read = stream.read(&mut buffer).unwrap();
                    client.handle_bytes(0, &buffer[..read]);
                }
            }
        }
    }
}

fn our_meter(listener: &TcpListener, cycles: u32) {
    let mut keys = ours::keys(support::METER);
    let mut buffer = [0; 2048];
    for _ in 0..cycles {
        let (mut stream, mut meter) = (accept(listener), ours::meter());
        loop {
            let read = stream.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            meter.handle_bytes(0, &buffer[..read]);
            ours::step_meter(&mut meter, &mut keys, |octets| {
                stream.write_all(octets).unwrap()
            });
        }
    }
}

/// The peer knows the wrapper as a header; its users frame and read themselves.
fn write_frame(stream: &mut TcpStream, ports: [u8; 4], apdu: &[u8]) {
    let [a, b, c, d] = ports;
    let [high, low] = u16::try_from(apdu.len()).unwrap().to_be_bytes();
    let frame = [&[0, 1, a, b, c, d, high, low], apdu].concat();
    stream.write_all(&frame).unwrap();
}

/// One frame, without its header; false at the end.
fn read_frame(stream: &mut TcpStream, apdu: &mut Vec<u8>) -> bool {
    apdu.resize(2048, 0);
    let mut read = 0;
    loop {
        let some = stream.read(&mut apdu[read..]).unwrap();
        read += some;
        if some == 0 {
            return false;
        }
        if read >= 8 && read == 8 + usize::from(u16::from_be_bytes([apdu[6], apdu[7]])) {
            apdu.truncate(read);
            apdu.drain(..8);
            return true;
        }
    }
}

fn their_client() -> impl FnMut(SocketAddr) {
    let (mut counter, mut out, mut answer) = (0, [0; 1024], vec![]);
    move |address| {
        let (mut stream, mut client) = (connect(address), theirs::client(counter));
        let mut exchange = |request: &[u8], answer: &mut Vec<u8>| {
            write_frame(&mut stream, [0, 1, 0, 1], request);
            assert!(read_frame(&mut stream, answer));
        };
        theirs::open(&mut client, &mut out, &mut exchange, &mut answer);
        theirs::get(&mut client, &mut out, &mut exchange, &mut answer);
        theirs::action(&mut client, &mut out, &mut exchange, &mut answer);
        theirs::release(&mut client, &mut out, &mut exchange, &mut answer);
        counter = client.invocation_counter();
    }
}

fn their_meter(listener: &TcpListener, cycles: u32) {
    let (mut meter, mut request, mut out) = (theirs::meter(), vec![], [0; 1024]);
    for _ in 0..cycles {
        let mut stream = accept(listener);
        meter.reset();
        while read_frame(&mut stream, &mut request) {
            let length = meter.handle(&request, &mut out).unwrap();
            write_frame(&mut stream, [0, 1, 0, 1], &out[..length]);
        }
    }
}
