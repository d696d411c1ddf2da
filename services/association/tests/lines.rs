//! Meters that are not behind a TCP connection with the wrapper: over UDP, over HDLC on TCP, over HDLC on a serial line,
//! each through a real gateway, in a ciphered association.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on has failed; its meters end with it"
)]

mod bench;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use bench::{Bench, get, lab_keys, permit, support, why};
use dlms::{
    ClientAccess, Data, LinkConfig, Mechanism, Meter, MeterConfig, Request, Response, Suite,
    SystemTitle, hdlc, meter,
};
use latchkey_proto::{
    association::v1::{
        self as pb, CreateMeterRequest, Delivery, HdlcOptions, OpenAssociationRequest,
        OpenAssociationResponse, ReleaseAssociationRequest, Transport,
    },
    custody::v1 as custody,
};
use rustix::{
    io::Errno,
    pty::{OpenptFlags, openpt, ptsname, unlockpt},
};
use softcipher::{Keys, Setup, SoftCipher};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tonic::{Code, Status};

/// The meter's end of a line.
enum Line {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Serial(OwnedFd),
}

impl Line {
    /// What comes next; nothing at the end.
    async fn hear(&mut self) -> Vec<u8> {
        let mut room = vec![0; 4096];
        let count = match self {
            Self::Udp(socket) => {
                let (count, from) = socket.recv_from(&mut room).await.unwrap();
                socket.connect(from).await.unwrap();
                count
            }
            Self::Tcp(stream) => stream.read(&mut room).await.unwrap_or(0),
            Self::Serial(line) => loop {
                match rustix::io::read(&line, &mut room) {
                    Ok(count) => break count,
                    // Nothing yet, or nobody has the device open.
                    Err(Errno::AGAIN | Errno::IO) => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            },
        };
        room.truncate(count);
        room
    }

    async fn say(&mut self, frame: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(frame).await.unwrap(), frame.len()),
            Self::Tcp(stream) => stream.write_all(frame).await.unwrap(),
            Self::Serial(line) => assert_eq!(rustix::io::write(line, frame), Ok(frame.len())),
        }
    }
}

/// The value of every attribute of this meter.
fn value() -> Data {
    Data::OctetString(vec![0x7E; 200])
}

/// A meter with the lab keys, HLS with GMAC and glo, at the end of a line; until the line ends.
async fn serve(link: LinkConfig, mut line: Line) {
    let keys = lab_keys(1);
    let title = SystemTitle::new(keys.server_system_title());
    let access = ClientAccess::ciphered(1, Mechanism::HlsGmac, vec![]);
    let config = MeterConfig {
        link,
        ..MeterConfig::new(title, vec![access])
    };
    let setup = Setup {
        peer: Some(SystemTitle::new(keys.client_system_title())),
        ..Setup::new(Suite::Suite0, title)
    };
    let held = Keys {
        encryption: Some((*keys.ek()).into()),
        authentication: Some((*keys.ak()).into()),
        ..Keys::default()
    };
    let mut cipher = SoftCipher::new(setup, held).unwrap();
    let mut meter = Meter::new(config, vec![7; 16]);
    loop {
        while let Some(effect) = meter.poll() {
            match effect {
                meter::Effect::Transmit(frame) => line.say(&frame).await,
                meter::Effect::Cipher(job) => {
                    let result = cipher.run(job.op);
                    meter.handle_cipher(0, job.id, result);
                }
                meter::Effect::Ask(Request::Get { invoke, .. }) => {
                    let data = value();
                    meter.answer(0, Response::GetData { invoke, data }).unwrap();
                }
                meter::Effect::Ask(other) => panic!("{other:?}"),
                meter::Effect::Event(_) => meter.refill(vec![8; 16]),
                meter::Effect::Timer(_) => {}
            }
        }
        let octets = line.hear().await;
        if octets.is_empty() {
            return;
        }
        meter.handle_bytes(0, &octets);
    }
}

/// Runs a meter until it ends or the test does.
fn start(bench: &Bench, meter: impl Future<Output = ()> + Send + 'static) {
    let shutdown = bench.stack.tasks.shutdown().clone();
    bench.stack.tasks.spawn("meter", async move {
        tokio::select! {
            () = meter => {}
            () = shutdown.fired() => {}
        }
    });
}

async fn enrol(
    bench: &Bench,
    address: &str,
    transport: Transport,
    hdlc: Option<HdlcOptions>,
) -> String {
    let id = format!("m-{}", transport.as_str_name());
    let meter = pb::Meter {
        meter_id: id.clone(),
        address: address.to_owned(),
        mechanism: custody::Mechanism::HlsGmac.into(),
        protection: custody::Protection::Glo.into(),
        profile: "standard".to_owned(),
        transport: transport.into(),
        hdlc,
        ..pb::Meter::default()
    };
    let request = CreateMeterRequest { meter: Some(meter) };
    bench.meters().create_meter(request).await.unwrap();
    id
}

async fn open(bench: &Bench, id: &str) -> Result<OpenAssociationResponse, Status> {
    let request = OpenAssociationRequest {
        meter_id: id.to_owned(),
        permit: Some(permit(id, "reset")),
        holder: "r-1".to_owned(),
        public_client: false,
    };
    let opened = bench.client("reset").open_association(request).await?;
    Ok(opened.into_inner())
}

/// Opens, reads a long value, releases.
async fn whole_cycle(bench: &Bench, id: &str) -> OpenAssociationResponse {
    let opened = open(bench, id).await.unwrap();
    let mut client = bench.client("reset");
    for _ in 0..2 {
        let answer = client
            .invoke(get(&opened.association_id, 1, "0.0.96.1.0.255", 2))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.delivery(), Delivery::Answered, "{}", answer.cause);
        assert_eq!((answer.result, answer.data), (0, value().encode()));
    }
    let association_id = opened.association_id.clone();
    let release = ReleaseAssociationRequest { association_id };
    client.release_association(release).await.unwrap();
    opened
}

/// A trace file that no other test has, and how the association is told of it.
fn trace_file() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let told = format!("trace_file = {path:?}");
    (dir, path, told)
}

/// What the trace says of a meter: direction and frame of each line.
fn traced(path: &Path, id: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let of_meter = |line: &str| {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [_, meter, direction, frame] = words[..] else {
            panic!("{line}")
        };
        (meter == id).then(|| (direction.to_owned(), frame.to_owned()))
    };
    text.lines().filter_map(of_meter).collect()
}

fn hdlc_options() -> HdlcOptions {
    HdlcOptions {
        address_octets: 2,
        physical_address: 17,
        max_information: 64,
        window: 3,
    }
}

fn hdlc_link() -> LinkConfig {
    LinkConfig::Hdlc(hdlc::Config {
        address_octets: 2,
        physical: 17,
        max_info: 64,
        window: 3,
        ..hdlc::Config::default()
    })
}

#[tokio::test]
async fn over_udp_each_apdu_is_a_datagram() {
    let (_dir, path, trace) = trace_file();
    let bench = Bench::start(|_| {}, &trace).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    start(&bench, serve(LinkConfig::Udp, Line::Udp(socket)));
    let id = enrol(&bench, &address, Transport::Udp, None).await;
    let opened = whole_cycle(&bench, &id).await;
    assert_eq!(
        opened.server_system_title,
        lab_keys(1).server_system_title()
    );
    // A service that has stopped has written its trace.
    bench.stop().await;
    let frames = traced(&path, &id);
    // AARQ, pass 3, two GETs, RLRQ, and their answers.
    let directions: String = frames
        .iter()
        .map(|(direction, _)| direction.as_str())
        .collect();
    assert_eq!(directions, "><><><><><");
    assert!(
        frames.iter().all(|(_, frame)| frame.starts_with("0001")),
        "{frames:?}"
    );
}

#[tokio::test]
async fn an_opening_ends_in_time_however_long_an_answer_may_take() {
    let limits = "answer_timeout_ms = 120000\nopening_timeout_ms = 200";
    let bench = Bench::start(|_| {}, limits).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let id = enrol(&bench, &address, Transport::Udp, None).await;
    let opened = tokio::time::timeout(support::PATIENCE, open(&bench, &id)).await;
    let late = opened.expect("an end").unwrap_err();
    assert!(late.message().contains("was not open after"), "{late}");
    assert_eq!(
        why(Err::<(), _>(late)),
        (Code::Unavailable, "METER_UNREACHABLE".to_owned())
    );
    bench.stop().await;
}

#[tokio::test]
async fn over_hdlc_on_tcp_what_is_long_goes_in_segments_and_blocks() {
    let (_dir, path, trace) = trace_file();
    let bench = Bench::start(|_| {}, &trace).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    start(&bench, async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(hdlc_link(), Line::Tcp(stream)).await;
    });
    let id = enrol(&bench, &address, Transport::Hdlc, Some(hdlc_options())).await;
    let opened = whole_cycle(&bench, &id).await;
    // One frame: the information field less the LLC header.
    assert_eq!(opened.client_max_receive_pdu_size, 61);

    bench.stop().await;
    let frames = traced(&path, &id);
    let controls: Vec<String> = frames.iter().map(|(_, frame)| control(frame)).collect();
    assert_eq!(controls[..2], ["SNRM", "UA"]);
    assert_eq!(controls[controls.len() - 2..], ["DISC", "UA"]);
    // The AARQ is longer than an information field; of none of its segments anything is seen.
    assert_eq!(controls[2..4], ["I S", "I"]);
    assert!(frames[2].1.contains("e6e60060.. ("), "{}", frames[2].1);
    assert!(frames[3].1.ends_with(" octets, plain)"), "{}", frames[3].1);
    for (_, frame) in frames.iter().filter(|(_, frame)| !frame.contains("..")) {
        let octets = hex::decode(frame).unwrap();
        assert!(hdlc::Frame::decode(&octets).is_ok(), "{frame}");
    }
}

/// What a line of the trace is: the name of its frame, and whether another segment follows.
fn control(frame: &str) -> String {
    let header = frame.split("..").next().unwrap();
    let octets = hex::decode(header).unwrap();
    // Two octets of server address and one of client address, in either order.
    let control = hdlc::Control::from_octet(octets[6]).unwrap();
    let segmented = if octets[1] & 0x08 == 0 { "" } else { " S" };
    format!("{}{segmented}", control.name())
}

#[tokio::test]
async fn over_hdlc_on_a_serial_line_that_the_gateway_names() {
    let line = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&line).unwrap();
    let device = ptsname(&line, vec![]).unwrap().into_string().unwrap();
    rustix::io::ioctl_fionbio(&line, true).unwrap();
    let relay = format!("[[serial]]\nname = 'cabinet-7'\ndevice = '{device}'");
    let bench = Bench::start_with(|_| {}, "", &relay).await;
    start(&bench, serve(hdlc_link(), Line::Serial(line)));
    let options = Some(hdlc_options());
    let id = enrol(&bench, "serial:cabinet-7", Transport::Hdlc, options).await;
    whole_cycle(&bench, &id).await;

    // The line is free again as soon as the gateway has seen the end.
    support::until("it opens again", || async {
        open(&bench, &id).await.is_ok()
    })
    .await;
    // Another meter on the same line is told that it is taken.
    let neighbour = pb::Meter {
        meter_id: "neighbour".to_owned(),
        address: "serial:cabinet-7".to_owned(),
        mechanism: custody::Mechanism::HlsGmac.into(),
        protection: custody::Protection::Glo.into(),
        profile: "standard".to_owned(),
        transport: Transport::Hdlc.into(),
        hdlc: Some(HdlcOptions {
            physical_address: 18,
            ..hdlc_options()
        }),
        ..pb::Meter::default()
    };
    let meter_request = CreateMeterRequest {
        meter: Some(neighbour),
    };
    bench.meters().create_meter(meter_request).await.unwrap();
    let busy = open(&bench, "neighbour").await.unwrap_err();
    assert!(
        busy.message()
            .contains("another connection has its serial line"),
        "{busy}"
    );
    assert_eq!(
        why(Err::<(), _>(busy)),
        (Code::Unavailable, "METER_UNREACHABLE".to_owned())
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_line_that_the_gateway_does_not_name_is_refused() {
    let bench = Bench::start(|_| {}, "").await;
    let id = enrol(&bench, "serial:attic", Transport::Hdlc, None).await;
    let refused = open(&bench, &id).await;
    assert_eq!(
        why(refused),
        (Code::PermissionDenied, "GATEWAY_REFUSED".to_owned())
    );
    bench.stop().await;
}
