//! Two HDLC stations: what they say to each other, and to one that does not do as it should.

use dlms::Error;
use dlms::hdlc::{
    Address, Config, Control, Effect, Frame, LLC_COMMAND, LLC_RESPONSE, Parameters, Sequence,
    Station,
};

const LONGEST: usize = 2048;
const TIMEOUT: u64 = 1000;

pub(crate) fn config(max_info: u16, window: u8) -> Config {
    Config {
        address_octets: 2,
        physical: 17,
        max_info,
        window,
        timeout_ms: TIMEOUT,
        retries: 3,
    }
}

pub(crate) fn primary(config: Config) -> Station {
    Station::primary(config, 16, 1, LONGEST).unwrap()
}

pub(crate) fn secondary(config: Config) -> Station {
    Station::secondary(config, 1, LONGEST).unwrap()
}

fn meter() -> Address {
    Address::server(2, 1, 17).unwrap()
}

fn client(sap: u16) -> Address {
    Address::client(sap).unwrap()
}

fn frame(destination: Address, source: Address, control: Control, information: &[u8]) -> Frame {
    Frame {
        destination,
        source,
        control,
        segmented: false,
        information: information.to_vec(),
    }
}

fn to_meter(control: Control, information: &[u8]) -> Vec<u8> {
    frame(meter(), client(16), control, information)
        .encode()
        .unwrap()
}

fn to_client(control: Control, information: &[u8]) -> Vec<u8> {
    frame(client(16), meter(), control, information)
        .encode()
        .unwrap()
}

const fn i(send: u8, receive: u8) -> Control {
    Control::Information {
        send: Sequence::new(send),
        receive: Sequence::new(receive),
        poll: true,
    }
}

const fn rr(receive: u8) -> Control {
    Control::ReceiveReady {
        receive: Sequence::new(receive),
        poll: true,
    }
}

const fn rnr(receive: u8) -> Control {
    Control::ReceiveNotReady {
        receive: Sequence::new(receive),
        poll: true,
    }
}

const SNRM: Control = Control::SetNormalResponseMode { poll: true };
const DISC: Control = Control::Disconnect { poll: true };
const UA: Control = Control::UnnumberedAcknowledge { poll: true };
const DM: Control = Control::DisconnectedMode { poll: true };

/// The frames it writes, as short text: `I00P`, `I01PS` with the S bit, `RR1P`, `SNRM`.
fn written(station: &mut Station) -> Vec<String> {
    effects(station)
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Transmit(octets) => Some(short(&octets)),
            Effect::Connected | Effect::Disconnected | Effect::Failed(_) => None,
        })
        .collect()
}

fn short(octets: &[u8]) -> String {
    let frame = Frame::decode(octets).unwrap();
    let name = frame.control.name();
    let poll = if frame.control.poll() { "P" } else { "" };
    let segmented = if frame.segmented { "S" } else { "" };
    match frame.control {
        Control::Information { send, receive, .. } => {
            format!("I{}{}{poll}{segmented}", send.number(), receive.number())
        }
        Control::ReceiveReady { receive, .. }
        | Control::ReceiveNotReady { receive, .. }
        | Control::Reject { receive, .. } => format!("{name}{}{poll}", receive.number()),
        _ => name.to_owned(),
    }
}

fn effects(station: &mut Station) -> Vec<Effect> {
    std::iter::from_fn(|| station.poll()).collect()
}

/// Carries frames between two stations until both are silent; what was said, `>` by the client.
fn talk(client: &mut Station, meter: &mut Station) -> Vec<String> {
    let mut said = vec![];
    for _ in 0..1000 {
        let (ours, theirs) = (effects(client), effects(meter));
        if ours.is_empty() && theirs.is_empty() {
            return said;
        }
        for effect in ours {
            match effect {
                Effect::Transmit(octets) => {
                    said.push(format!(">{}", short(&octets)));
                    meter.receive(0, &octets);
                }
                other => said.push(format!("{other:?}")),
            }
        }
        for effect in theirs {
            if let Effect::Transmit(octets) = effect {
                said.push(format!("<{}", short(&octets)));
                client.receive(0, &octets);
            }
        }
    }
    panic!("no end: {said:?}");
}

fn connected(ours: Config, theirs: Config) -> (Station, Station) {
    let (mut client, mut meter) = (primary(ours), secondary(theirs));
    client.connect(0);
    talk(&mut client, &mut meter);
    assert!(client.is_connected() && meter.is_connected());
    (client, meter)
}

/// A client that is connected to a meter played by the test, with an APDU of so many octets on its way.
fn asking(octets: usize, max_info: u16, window: u8) -> Station {
    let mut client = primary(config(max_info, window));
    client.connect(0);
    client.receive(
        0,
        &to_client(UA, &Parameters::symmetric(max_info, window).encode()),
    );
    client.send(0, &vec![0xC0; octets]).unwrap();
    written(&mut client);
    client
}

#[test]
fn a_whole_cycle_with_segments_both_ways() {
    let (mut client, mut meter) = connected(config(64, 1), config(64, 1));
    client.send(0, &[0xC0; 100]).unwrap();
    assert_eq!(
        talk(&mut client, &mut meter),
        [">I00PS", "<RR1P", ">I10P"],
        "the poll waits for the answer"
    );
    assert_eq!(meter.take(), Some((16, vec![0xC0; 100])));
    assert_eq!(client.deadline(), Some(TIMEOUT));
    meter.send(0, &[0xC4; 130]).unwrap();
    assert_eq!(
        talk(&mut client, &mut meter),
        ["<I02PS", ">RR1P", "<I12PS", ">RR2P", "<I22P"]
    );
    assert_eq!(client.take(), Some((1, vec![0xC4; 130])));
    assert_eq!(client.deadline(), None, "nothing is due");
    client.send(0, &[0xC0]).unwrap();
    meter.send(0, &[0xC4]).unwrap();
    assert_eq!(talk(&mut client, &mut meter), [">I23P", "<I33P"]);
    client.disconnect(0);
    assert_eq!(
        talk(&mut client, &mut meter),
        [">DISC", "<UA", "Disconnected"]
    );
    assert!(!client.is_connected() && !meter.is_connected());
    assert_eq!((client.dropped(), meter.dropped()), (0, 0));
}

#[test]
fn a_window_lets_several_frames_go_before_one_poll() {
    let (mut client, mut meter) = connected(config(32, 3), config(32, 7));
    assert_eq!(client.parameters().window_transmit, 3);
    client.send(0, &[0xC0; 120]).unwrap();
    assert_eq!(
        talk(&mut client, &mut meter),
        [">I00S", ">I10S", ">I20PS", "<RR3P", ">I30P"]
    );
    assert_eq!(meter.take().map(|(_, apdu)| apdu.len()), Some(120));
    meter.send(0, &[0xC4; 90]).unwrap();
    assert_eq!(talk(&mut client, &mut meter), ["<I04S", "<I14S", "<I24P"]);
    assert_eq!(client.take().map(|(_, apdu)| apdu.len()), Some(90));
}

#[test]
fn sizes_are_negotiated_and_an_empty_answer_means_the_defaults() {
    let (client, meter) = connected(config(512, 3), config(256, 7));
    assert_eq!(client.parameters(), Parameters::symmetric(256, 3));
    assert_eq!(meter.parameters(), Parameters::symmetric(256, 3));
    let mut client = primary(config(512, 7));
    client.connect(0);
    client.receive(0, &to_client(UA, &[]));
    assert_eq!(client.parameters(), Parameters::default());
    // What is proposed by default is proposed by silence.
    let mut client = primary(config(128, 1));
    client.connect(0);
    assert_eq!(
        effects(&mut client),
        [Effect::Transmit(to_meter(SNRM, &[]))]
    );
    let mut client = primary(config(512, 7));
    client.connect(0);
    client.receive(0, &to_client(UA, &[0x81, 0x80, 3, 5, 1, 0]));
    assert!(matches!(effects(&mut client)[..], [_, Effect::Failed(_)]));
}

#[test]
fn without_an_answer_the_same_octets_go_a_bounded_number_of_times() {
    let mut client = primary(config(128, 1));
    client.connect(0);
    client.receive(0, &to_client(UA, &[]));
    effects(&mut client);
    client.send(0, &[0xC0, 1]).unwrap();
    let first = effects(&mut client);
    assert_eq!(first.len(), 1);
    for _ in 0..3 {
        let deadline = client.deadline().unwrap();
        client.timeout(deadline - 1);
        assert_eq!(effects(&mut client), []);
        client.timeout(deadline);
        assert_eq!(effects(&mut client), first);
    }
    client.timeout(client.deadline().unwrap());
    assert_eq!(
        effects(&mut client),
        [Effect::Failed(Error::Silent { tries: 4 })]
    );
    assert_eq!(client.deadline(), None);
    assert!(client.send(0, &[0xC0]).is_err());
}

#[test]
fn snrm_is_repeated_refused_or_given_up_and_can_be_tried_again() {
    let mut client = primary(config(128, 1));
    client.connect(0);
    for _ in 0..4 {
        client.timeout(client.deadline().unwrap());
    }
    let seen = effects(&mut client);
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[4], Effect::Failed(Error::Silent { tries: 4 }));
    client.connect(0);
    client.receive(0, &to_client(DM, &[]));
    assert!(matches!(
        effects(&mut client)[..],
        [_, Effect::Failed(Error::Link { .. })]
    ));
    client.connect(0);
    client.receive(0, &to_client(UA, &[]));
    assert_eq!(effects(&mut client)[1], Effect::Connected);
    // A second UA is late, and nothing.
    client.receive(0, &to_client(UA, &[]));
    assert_eq!((effects(&mut client), client.dropped()), (vec![], 1));
}

#[test]
fn disc_ends_in_disconnected_whatever_the_meter_says() {
    for answer in [Some(UA), Some(DM), None] {
        let mut client = asking(1, 128, 1);
        client.disconnect(0);
        assert_eq!(written(&mut client), ["DISC"]);
        match answer {
            Some(control) => client.receive(0, &to_client(control, &[])),
            None => {
                for _ in 0..4 {
                    client.timeout(client.deadline().unwrap());
                }
            }
        }
        assert_eq!(effects(&mut client).last(), Some(&Effect::Disconnected));
        client.disconnect(0);
        assert_eq!(effects(&mut client), [Effect::Disconnected]);
    }
}

#[test]
fn a_lost_answer_comes_again_and_the_request_is_taken_once() {
    let (mut client, mut meter) = connected(config(128, 1), config(128, 1));
    client.send(0, &[0xC0, 7]).unwrap();
    talk(&mut client, &mut meter);
    assert!(meter.take().is_some());
    meter.send(0, &[0xC4, 7]).unwrap();
    let lost = effects(&mut meter);
    client.timeout(client.deadline().unwrap());
    let said = talk(&mut client, &mut meter);
    assert_eq!(said, [">I00P", "<I01P"]);
    assert_eq!(lost.len(), 1);
    assert_eq!(meter.take(), None);
    assert_eq!(client.take(), Some((1, vec![0xC4, 7])));
    assert_eq!(client.take(), None);
}

#[test]
fn a_slow_meter_is_polled_until_it_answers() {
    let (mut client, mut meter) = connected(config(128, 1), config(128, 1));
    client.send(0, &[0xC0, 7]).unwrap();
    talk(&mut client, &mut meter);
    let mut now = 0;
    for _ in 0..50 {
        now = client.deadline().unwrap();
        client.timeout(now);
        let said = talk(&mut client, &mut meter);
        assert!(
            said == [">I00P", "<RR1P"] || said == [">RR0P", "<RR1P"],
            "{said:?}"
        );
    }
    assert_eq!(meter.take().map(|(_, apdu)| apdu.len()), Some(2));
    assert_eq!(meter.take(), None);
    meter.send(now, &[0xC4]).unwrap();
    assert_eq!(talk(&mut client, &mut meter), Vec::<String>::new());
    client.timeout(client.deadline().unwrap());
    assert_eq!(talk(&mut client, &mut meter), [">RR0P", "<I01P"]);
}

#[test]
fn part_of_a_window_lost_is_sent_again_from_there() {
    let mut client = asking(100, 32, 7);
    client.receive(0, &to_client(rr(2), &[]));
    assert_eq!(written(&mut client), ["I20S", "I30P"]);
    // Nothing new: an old answer, or the beginning is lost. Only time tells.
    client.receive(0, &to_client(rr(2), &[]));
    assert_eq!(written(&mut client), Vec::<String>::new());
    client.timeout(client.deadline().unwrap());
    assert_eq!(written(&mut client), ["I20S", "I30P"]);
    // REJ says it outright; but not for ever.
    for _ in 0..2 {
        let receive = Sequence::new(2);
        client.receive(
            0,
            &to_client(
                Control::Reject {
                    receive,
                    poll: true,
                },
                &[],
            ),
        );
        assert_eq!(written(&mut client), ["I20S", "I30P"]);
    }
    let receive = Sequence::new(2);
    client.receive(
        0,
        &to_client(
            Control::Reject {
                receive,
                poll: true,
            },
            &[],
        ),
    );
    assert_eq!(written(&mut client), Vec::<String>::new());
    client.timeout(client.deadline().unwrap());
    assert_eq!(
        effects(&mut client),
        [Effect::Failed(Error::Silent { tries: 4 })]
    );
}

#[test]
fn a_part_of_the_answer_lost_is_asked_for_again() {
    let mut client = asking(1, 32, 3);
    let part = |send: u8, last: bool, poll: bool| {
        let mut frame = frame(client_address(), meter(), i(send, 1), &[0x11; 8]);
        frame.control = Control::Information {
            send: Sequence::new(send),
            receive: Sequence::new(1),
            poll,
        };
        frame.segmented = !last;
        if send == 0 {
            frame.information = [&LLC_RESPONSE[..], &[0x11; 8]].concat();
        }
        frame.encode().unwrap()
    };
    client.receive(0, &part(0, false, false));
    client.receive(0, &part(2, true, true));
    assert_eq!(written(&mut client), ["RR1P"]);
    client.receive(0, &part(1, false, false));
    client.receive(0, &part(2, true, true));
    assert_eq!(client.take(), Some((1, vec![0x11; 24])));
    assert_eq!(client.dropped(), 1);
}

fn client_address() -> Address {
    client(16)
}

#[test]
fn a_busy_meter_is_asked_later() {
    let mut client = asking(1, 128, 1);
    for _ in 0..10 {
        client.receive(0, &to_client(rnr(0), &[]));
        assert_eq!(written(&mut client), Vec::<String>::new());
        client.timeout(client.deadline().unwrap());
        assert_eq!(written(&mut client), ["RR0P"]);
    }
    client.receive(0, &to_client(rr(0), &[]));
    assert_eq!(written(&mut client), ["I00P"]);
    client.receive(0, &to_client(i(0, 1), &[0xE6, 0xE7, 0, 0xC4]));
    assert_eq!(client.take(), Some((1, vec![0xC4])));
}

#[test]
fn a_meter_whose_apdus_are_not_taken_is_busy() {
    let mut meter = secondary(config(128, 1));
    meter.receive(0, &to_meter(SNRM, &[]));
    let ask = |send| to_meter(i(send, 0), &[&LLC_COMMAND[..], &[0xC0, send]].concat());
    written(&mut meter);
    for send in 0..3 {
        meter.receive(0, &ask(send));
    }
    assert_eq!(written(&mut meter), ["RNR2P"]);
    assert_eq!(meter.take(), Some((16, vec![0xC0, 0])));
    meter.receive(0, &ask(2));
    assert_eq!(meter.take(), Some((16, vec![0xC0, 1])));
    assert_eq!(meter.take(), Some((16, vec![0xC0, 2])));
    assert_eq!(meter.take(), None);
}

#[test]
fn a_meter_keeps_to_its_client_and_learns_a_new_one_from_snrm() {
    let mut meter = secondary(config(128, 1));
    let from = |sap, control| {
        frame(self::meter(), client(sap), control, &[])
            .encode()
            .unwrap()
    };
    // Down: DM to whoever polls. For others: nothing.
    meter.receive(0, &from(5, rr(0)));
    meter.receive(0, &from(5, DISC));
    assert_eq!(written(&mut meter), ["DM", "DM"]);
    let other = Address::server(2, 2, 17).unwrap();
    meter.receive(0, &frame(other, client(16), SNRM, &[]).encode().unwrap());
    assert_eq!(written(&mut meter), Vec::<String>::new());
    meter.receive(0, &from(16, SNRM));
    assert_eq!(written(&mut meter), ["UA"]);
    for control in [rr(0), DISC] {
        meter.receive(0, &from(5, control));
        assert_eq!(written(&mut meter), Vec::<String>::new());
    }
    assert!(meter.is_connected());
    meter.receive(0, &from(5, SNRM));
    assert_eq!(
        effects(&mut meter),
        [
            Effect::Transmit(
                frame(
                    client(5),
                    self::meter(),
                    UA,
                    &Parameters::default().encode()
                )
                .encode()
                .unwrap()
            ),
            Effect::Connected
        ]
    );
}

#[test]
fn a_rejected_frame_is_over_only_with_a_new_snrm() {
    for bad in [to_meter(rr(3), &[]), to_meter(i(0, 0), &[0; 129])] {
        let mut meter = secondary(config(128, 1));
        meter.receive(0, &to_meter(SNRM, &[]));
        effects(&mut meter);
        meter.receive(0, &bad);
        let seen = effects(&mut meter);
        assert_eq!(seen[0], Effect::Disconnected);
        assert!(matches!(&seen[1], Effect::Transmit(octets) if short(octets) == "FRMR"));
        meter.receive(0, &to_meter(rr(0), &[]));
        assert_eq!(written(&mut meter), ["FRMR"]);
        meter.receive(0, &to_meter(SNRM, &[]));
        assert_eq!(effects(&mut meter)[1], Effect::Connected);
    }
    let mut client = asking(1, 128, 1);
    let rejected = Control::FrameReject { poll: true };
    client.receive(0, &to_client(rejected, &[0x10, 0, 4]));
    assert!(matches!(
        effects(&mut client)[..],
        [Effect::Failed(Error::Link { .. })]
    ));
    client.connect(0);
    client.receive(0, &to_client(UA, &[]));
    assert!(client.is_connected());
    client.receive(0, &to_client(DM, &[]));
    assert!(!client.is_connected());
}

#[test]
fn unnumbered_information_is_an_apdu_of_its_own() {
    let control = Control::UnnumberedInformation { poll: false };
    let mut client = asking(1, 128, 1);
    client.receive(0, &to_client(control, &[0xE6, 0xE6, 0, 0x0F, 1]));
    assert_eq!(client.take(), Some((1, vec![0x0F, 1])));
    client.receive(0, &to_client(control, &[1, 2, 3]));
    assert_eq!((client.take(), client.dropped()), (None, 1));
    let mut meter = secondary(config(128, 1));
    let all = Address::server(2, 0x7F, 0x7F).unwrap();
    let broadcast = frame(all, client_address(), control, &[0xE6, 0xE6, 0, 0xC8]);
    meter.receive(0, &broadcast.encode().unwrap());
    assert_eq!(meter.take(), Some((16, vec![0xC8])));
}

/// T18: after a request in segments a peer answers with N(S)=2 and N(R)=3 where 1 and 2 are due.
#[test]
fn t18_a_meter_that_lost_count_is_not_believed() {
    let mut client = asking(100, 64, 1);
    client.receive(0, &to_client(rr(1), &[]));
    assert_eq!(written(&mut client), ["I10P"]);
    for _ in 0..4 {
        client.receive(0, &to_client(i(2, 3), &[0xE6, 0xE7, 0, 0x61]));
        assert_eq!(client.take(), None);
        client.timeout(client.deadline().unwrap());
    }
    let last = effects(&mut client).pop();
    assert_eq!(last, Some(Effect::Failed(Error::Silent { tries: 4 })));
    // An AARQ with HLS, its challenge and a ciphered InitiateRequest stays in one frame of the standard's own size.
    let aarq = 105 + LLC_COMMAND.len();
    assert!(aarq <= usize::from(Config::default().max_info));
}

#[test]
fn after_an_apdu_that_was_not_the_answer_the_client_listens_on() {
    let mut client = asking(1, 128, 1);
    client.receive(0, &to_client(i(0, 1), &[0xE6, 0xE7, 0, 0xC2]));
    assert_eq!(client.take(), Some((1, vec![0xC2])));
    assert_eq!(client.deadline(), None);
    client.listen(0);
    client.timeout(client.deadline().unwrap());
    assert_eq!(written(&mut client), ["RR1P"]);
}

#[test]
fn an_apdu_without_end_is_not_held() {
    let mut client = asking(1, 128, 1);
    let mut part = frame(client_address(), meter(), i(0, 1), &[0; 128]);
    part.segmented = true;
    for send in 0..17 {
        part.control = i(send, 1);
        client.receive(0, &part.encode().unwrap());
    }
    assert!(matches!(
        effects(&mut client).last(),
        Some(Effect::Failed(Error::Link { .. }))
    ));
}
