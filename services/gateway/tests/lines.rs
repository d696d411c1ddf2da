//! Meters that are not behind a TCP connection with the wrapper: UDP, HDLC over TCP, serial lines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{cell::RefCell, net::SocketAddr, os::fd::OwnedFd, path::PathBuf, time::Duration};

use gateway::proxy::{Answer, FRAMING_TLV, HDLC};
use ppp::v2::{Addresses, Builder, Command, Protocol, Unix, Version};
use rustix::{
    io::Errno,
    pty::{OpenptFlags, openpt, ptsname, unlockpt},
};
use support::{PATIENCE, Stack, meter, pdu, until};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UdpSocket,
    time::timeout,
};

const US: &str = "127.0.0.1";
const HERE: &[&str] = &["127.0.0.1/32"];
const ANY_PORT: &str = "lab_any_port = true";

fn header(protocol: Protocol, to: impl Into<Addresses>, framing: Option<u8>) -> Vec<u8> {
    let builder = Builder::with_addresses(Version::Two | Command::Proxy, protocol, to);
    let builder = match framing {
        Some(framing) => builder.write_tlv(FRAMING_TLV, &[framing]).unwrap(),
        None => builder,
    };
    builder.build().unwrap()
}

fn udp(meter: SocketAddr) -> Vec<u8> {
    let from: SocketAddr = "127.0.0.1:1".parse().unwrap();
    header(Protocol::Datagram, (from, meter), None)
}

fn hdlc(meter: SocketAddr) -> Vec<u8> {
    let from: SocketAddr = "127.0.0.1:1".parse().unwrap();
    header(Protocol::Stream, (from, meter), Some(HDLC))
}

fn line(name: &str) -> Vec<u8> {
    let mut path = [0; 108];
    path[..name.len()].copy_from_slice(name.as_bytes());
    header(Protocol::Stream, Unix::new([0; 108], path), None)
}

/// A datagram behind its length.
fn message(datagram: &[u8]) -> Vec<u8> {
    let length = u16::try_from(datagram.len()).unwrap().to_be_bytes();
    [&length[..], datagram].concat()
}

async fn say(to: &mut (impl AsyncWrite + Unpin), octets: &[u8]) {
    to.write_all(octets).await.unwrap();
    to.flush().await.unwrap();
}

/// Reads exactly these octets.
async fn hear(from: &mut (impl AsyncRead + Unpin), due: &[u8]) {
    let mut heard = vec![0; due.len()];
    timeout(PATIENCE, from.read_exact(&mut heard))
        .await
        .expect("octets")
        .unwrap();
    assert_eq!(heard, due);
}

/// Reads to an end that is not orderly.
async fn cut_off(from: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, from.read_to_end(&mut rest)).await;
    assert!(end.expect("an end").is_err(), "the gateway's end is abrupt");
    assert!(rest.is_empty(), "{rest:02x?}");
}

/// Receives one datagram, and where it is from.
async fn received(meter: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut room = vec![0; 9000];
    let got = timeout(PATIENCE, meter.recv_from(&mut room)).await;
    let (count, from) = got.expect("a datagram").unwrap();
    room.truncate(count);
    (room, from)
}

async fn udp_meter() -> (UdpSocket, SocketAddr) {
    let meter = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = meter.local_addr().unwrap();
    (meter, address)
}

#[tokio::test]
async fn each_datagram_is_one_message_both_ways() {
    let (meter, address) = udp_meter().await;
    let stack = Stack::start(HERE, HERE, ANY_PORT).await;
    let (mut tls, answer) = stack
        .dial_with(US, "association", &udp(address))
        .await
        .unwrap();
    assert_eq!(answer, Answer::Connected as u8);

    // Two messages in one write, one in two: each leaves as one datagram.
    let (first, second, third) = (pdu(b"first"), pdu(b"2"), pdu(&[7; 3000]));
    say(&mut tls, &[message(&first), message(&second)].concat()).await;
    let third_message = message(&third);
    let (head, tail) = third_message.split_at(1000);
    say(&mut tls, head).await;
    say(&mut tls, tail).await;
    let mut gateway = None;
    for due in [&first, &second, &third] {
        let (datagram, from) = received(&meter).await;
        assert_eq!(datagram, *due);
        gateway = Some(from);
    }
    for answer in [&second, &third, &first] {
        meter.send_to(answer, gateway.unwrap()).await.unwrap();
        hear(&mut tls, &message(answer)).await;
    }
    drop(tls);
    stack.stop().await;
}

#[tokio::test]
async fn bad_datagrams_are_counted_and_end_nothing_and_spoofed_ones_do_not_even_arrive() {
    let (meter, address) = udp_meter().await;
    let stack = Stack::start(
        HERE,
        HERE,
        &format!("{ANY_PORT}\n[relay.limits]\nmax_pdu = 100"),
    )
    .await;
    let (mut tls, _) = stack
        .dial_with(US, "association", &udp(address))
        .await
        .unwrap();
    say(&mut tls, &message(&pdu(b"request"))).await;
    let (_, gateway) = received(&meter).await;

    // Another socket: the kernel lets nothing of it through, so nothing of it is counted either.
    let (spoofer, _) = udp_meter().await;
    spoofer.send_to(&pdu(b"spoofed"), gateway).await.unwrap();
    let joined = [pdu(b"a"), pdu(b"b")].concat();
    for bad in [
        &pdu(b"truncated")[..12],
        &joined,
        &pdu(&[7; 101]),
        &[0; 5000],
        b"",
        b"garbage",
    ] {
        meter.send_to(bad, gateway).await.unwrap();
    }
    meter.send_to(&pdu(b"answer"), gateway).await.unwrap();
    hear(&mut tls, &message(&pdu(b"answer"))).await;
    stack.auditor.drops("garbage from the meter", 6).await;

    // It still goes both ways.
    say(&mut tls, &message(&pdu(b"more"))).await;
    assert_eq!(received(&meter).await.0, pdu(b"more"));
    drop(tls);
    stack.stop().await;
}

#[tokio::test]
async fn a_meter_that_is_away_for_a_while_ends_no_udp_connection() {
    let (meter, address) = udp_meter().await;
    let stack = Stack::start(HERE, HERE, ANY_PORT).await;
    let (mut tls, _) = stack
        .dial_with(US, "association", &udp(address))
        .await
        .unwrap();
    drop(meter);
    // Nobody listens: ICMP says so, and that is a rumour.
    say(&mut tls, &message(&pdu(b"lost"))).await;
    let meter = UdpSocket::bind(address).await.unwrap();
    let again = async {
        loop {
            say(&mut tls, &message(&pdu(b"again"))).await;
            let mut room = [0; 100];
            let heard = timeout(Duration::from_millis(50), meter.recv(&mut room)).await;
            if let Ok(count) = heard {
                return room[..count.unwrap()].to_vec();
            }
        }
    };
    let heard = timeout(PATIENCE, again).await.expect("a datagram");
    assert!(heard == pdu(b"again") || heard == pdu(b"lost"));
    drop(tls);
    stack.stop().await;
}

#[tokio::test]
async fn udp_meters_are_subject_to_the_same_list_and_limits() {
    let (_meter, address) = udp_meter().await;
    let elsewhere: SocketAddr = "127.10.0.1:4059".parse().unwrap();
    let stack = Stack::start(
        HERE,
        HERE,
        &format!("{ANY_PORT}\n[relay.limits]\nidle_timeout_ms = 300"),
    )
    .await;
    let (_, answer) = stack
        .dial_with(US, "association", &udp(elsewhere))
        .await
        .unwrap();
    assert_eq!(answer, Answer::Refused as u8);
    stack
        .auditor
        .drops("not in the allowlist (to 127.10.0.1:4059/udp)", 1)
        .await;

    let header = udp(address);
    let dial = || stack.dial_with(US, "association", &header);
    let (mut tls, _) = dial().await.unwrap();
    say(&mut tls, &message(b"no wrapper PDU")).await;
    cut_off(&mut tls).await;
    stack.auditor.drops("garbage from the source", 1).await;

    let (mut quiet, _) = dial().await.unwrap();
    cut_off(&mut quiet).await;

    let (mut tls, _) = dial().await.unwrap();
    stack.auditor.set(HERE, &["127.10.0.1/32"]);
    cut_off(&mut tls).await;
    stack.auditor.drops("removed from the allowlist", 1).await;
    stack.stop().await;
}

/// A frame of this length between its flags, with flags in it.
fn frame(length: u8) -> Vec<u8> {
    [
        &[0x7E, 0xA0, length][..],
        &vec![0x7E; usize::from(length) - 2],
        &[0x7E],
    ]
    .concat()
}

#[tokio::test]
async fn hdlc_over_tcp_passes_frames_to_the_meter_and_what_comes_from_it() {
    let (listener, address) = meter().await;
    let stack = Stack::start(HERE, HERE, ANY_PORT).await;
    let header = hdlc(address);
    let dial = || stack.dial_with(US, "association", &header);
    let (mut tls, answer) = dial().await.unwrap();
    assert_eq!(answer, Answer::Connected as u8);
    let (mut meter, _) = listener.accept().await.unwrap();
    let (head, tail) = (frame(8), frame(200));
    say(&mut tls, &[&head[..], &tail[..50]].concat()).await;
    hear(&mut meter, &head).await;
    say(&mut tls, &tail[50..]).await;
    hear(&mut meter, &tail).await;
    // A damaged frame must be seen, to be explained.
    say(&mut meter, b"\x7E\xA0noise").await;
    hear(&mut tls, b"\x7E\xA0noise").await;
    drop(meter);
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, tls.read_to_end(&mut rest)).await;
    assert!(end.expect("an end").is_ok(), "the meter closed");

    // What is announced as HDLC is HDLC.
    let (mut tls, _) = dial().await.unwrap();
    let (mut meter, _) = listener.accept().await.unwrap();
    say(&mut tls, &pdu(b"wrapper")).await;
    cut_off(&mut tls).await;
    assert!(meter.read_u8().await.is_err(), "nothing of it arrived");
    stack.auditor.drops("garbage from the source", 1).await;
    stack.stop().await;
}

/// A meter at one end of a pair of pseudo-terminals; a device is at the other end.
struct Pty(OwnedFd);

impl Pty {
    fn open() -> (Self, PathBuf) {
        let meter = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&meter).unwrap();
        let device = ptsname(&meter, vec![]).unwrap().into_string().unwrap();
        rustix::io::ioctl_fionbio(&meter, true).unwrap();
        (Self(meter), device.into())
    }

    fn say(&self, octets: &[u8]) {
        assert_eq!(rustix::io::write(&self.0, octets), Ok(octets.len()));
    }

    async fn hear(&self, due: &[u8]) {
        let heard = RefCell::new(vec![]);
        until("the line brings octets", || async {
            let mut room = [0; 100];
            match rustix::io::read(&self.0, &mut room) {
                Ok(count) => heard.borrow_mut().extend_from_slice(&room[..count]),
                Err(error) => assert_eq!(error, Errno::AGAIN),
            }
            heard.borrow().len() >= due.len()
        })
        .await;
        assert_eq!(heard.into_inner(), due);
    }
}

fn configured(device: &std::path::Path) -> String {
    format!(
        "{ANY_PORT}\n[[serial]]\nname = 'cabinet-7'\ndevice = {device:?}\nbaud = 9600\n\
         [[serial]]\nname = 'missing'\ndevice = '/dev/does-not-exist'\nparity = 'even'"
    )
}

#[tokio::test]
async fn a_serial_line_is_opened_by_its_name_for_one_at_a_time() {
    let (meter, device) = Pty::open();
    let stack = Stack::start(HERE, HERE, &configured(&device)).await;
    let dial = |name: &'static str| {
        let stack = &stack;
        async move {
            stack
                .dial_with(US, "association", &line(name))
                .await
                .unwrap()
        }
    };
    let (mut tls, answer) = dial("cabinet-7").await;
    assert_eq!(answer, Answer::Connected as u8);
    // Every octet passes as it is: the line is raw.
    let all = [&frame(100)[..], &frame(7)].concat();
    say(&mut tls, &all).await;
    meter.hear(&all).await;
    let octets: Vec<u8> = (0..=255).collect();
    meter.say(&octets);
    hear(&mut tls, &octets).await;

    assert_eq!(dial("cabinet-7").await.1, Answer::Busy as u8);
    assert_eq!(dial("missing").await.1, Answer::Unreachable as u8);
    assert_eq!(dial("cabinet-8").await.1, Answer::Refused as u8);
    stack
        .auditor
        .drops(
            "there is no serial line of this name (to serial:cabinet-8)",
            1,
        )
        .await;

    drop(tls);
    until("the line is free again", || async {
        dial("cabinet-7").await.1 == Answer::Connected as u8
    })
    .await;
    stack.stop().await;
}

#[tokio::test]
async fn what_a_line_said_before_is_not_heard_and_its_end_is_the_meters() {
    let (meter, device) = Pty::open();
    let stack = Stack::start(HERE, HERE, &configured(&device)).await;
    meter.say(b"to whoever had the line before");
    let (mut tls, _) = stack
        .dial_with(US, "association", &line("cabinet-7"))
        .await
        .unwrap();
    meter.say(b"now");
    hear(&mut tls, b"now").await;
    // The device is gone, as when an adapter is pulled out.
    drop(meter);
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, tls.read_to_end(&mut rest)).await;
    assert!(end.expect("an end").is_ok() && rest.is_empty());
    stack.stop().await;
}
