use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::data::Data;
use crate::hdlc::Config;
use crate::security::{KeyChoice, Suite};
use crate::service::{AccessOutcome, Accessed, LongInvokeId, Response};
use crate::status::{ActionResult, DataAccessResult};

fn plan(link: LinkConfig, network: Network, mtu: u16) -> Plan {
    Plan {
        path: Path { link, network, mtu },
        envelope: Envelope {
            protection: Protection::Glo,
            control: SecurityControl::AUTH_ENC,
            signed: false,
        },
        conformance: Conformance::RESET,
    }
}

fn hdlc(max_info: u16) -> LinkConfig {
    LinkConfig::Hdlc(Config {
        address_octets: 2,
        physical: 17,
        max_info,
        ..Config::default()
    })
}

fn get(class_id: u16, name: &str, index: i8) -> Command {
    Command::Get {
        attribute: Attribute {
            class_id,
            name: name.parse().unwrap(),
            index,
        },
        selection: None,
    }
}

/// The vendor's reset command.
fn reset(parameter: Data) -> Command {
    Command::Action {
        method: Method {
            class_id: 9,
            name: "0.0.10.1.0.255".parse().unwrap(),
            index: 1,
        },
        parameter: Some(parameter),
    }
}

fn short() -> Command {
    reset(Data::LongUnsigned(3))
}

fn long(octets: usize) -> Command {
    reset(Data::OctetString(vec![7; octets]))
}

#[test]
fn the_reset_command_is_16_35_43_91_or_103_octets_long() {
    let plain = short().with(InvokeId::new(1)).encode().len();
    assert_eq!(plain, 16);
    let udp = plan(LinkConfig::Udp, Network::V6, 0);
    assert_eq!(udp.sealed(plain), 35);
    assert_eq!(udp.sealed(plain) + HEADER, 43);
    for (link, network, due) in [
        (LinkConfig::Udp, Network::V6, 91),
        (LinkConfig::Tcp, Network::V6, 103),
        (LinkConfig::Udp, Network::V4, 71),
        (LinkConfig::Tcp, Network::V4, 83),
        // As the frame d-hdlc-i-glo-action of 50 octets.
        (hdlc(128), Network::V4, 50),
    ] {
        let crossing = plan(link, network, 1280).request(&short(), 0);
        assert_eq!(
            crossing,
            Crossing {
                fit: Fit::OneFrame,
                octets: Some(due)
            }
        );
    }
}

#[test]
fn one_frame_is_proposed_and_nothing_where_it_is_not_known() {
    for (link, network, mtu, due) in [
        (LinkConfig::Udp, Network::V6, 1280, Some(1280 - 48 - 8)),
        (LinkConfig::Tcp, Network::V6, 1280, Some(1280 - 60 - 8)),
        (LinkConfig::Tcp, Network::V4, 1500, Some(1500 - 40 - 8)),
        (LinkConfig::Tcp, Network::V6, 128, Some(60)),
        (LinkConfig::Tcp, Network::V6, 0, None),
        (hdlc(128), Network::V4, 0, Some(125)),
        (hdlc(2030), Network::V4, 0, Some(2027)),
        // Too short for a ciphered block: segments.
        (hdlc(32), Network::V4, 0, Some(51)),
    ] {
        let plan = plan(link, network, mtu);
        assert_eq!(plan.max_pdu(), due, "{plan:?}");
    }
}

/// A reset command, its answer and what is read before and after it, over the poorest link that is enrolled.
#[test]
fn every_read_of_a_reset_fits_one_frame() {
    let reads = [
        get(70, "0.0.96.3.10.255", 2),
        get(70, "0.0.96.3.10.255", 3),
        get(70, "0.0.96.3.10.255", 4),
        get(1, "0.0.43.1.0.255", 2),
        get(1, "0.0.42.0.0.255", 2),
        get(1, "0.0.96.7.21.255", 2),
        get(8, "0.0.1.0.0.255", 2),
        get(8, "0.0.1.0.0.255", 4),
        get(18, "0.0.44.0.0.255", 6),
        get(7, "0.0.99.98.0.255", 7),
    ];
    for link in [LinkConfig::Tcp, LinkConfig::Udp, hdlc(128)] {
        let plan = plan(link, Network::V6, 128);
        let limit = plan.max_pdu().unwrap();
        for command in reads.iter().chain([&short()]) {
            assert_eq!(plan.request(command, 0).fit, Fit::OneFrame, "{command:?}");
            let answer = plan.response(command, limit);
            assert_eq!(answer.fit, Fit::OneFrame, "{command:?}");
            assert!(answer.octets.is_some_and(|octets| octets <= 128));
        }
    }
}

#[test]
fn what_is_longer_goes_in_blocks_where_the_service_has_them() {
    let mut plan = plan(LinkConfig::Udp, Network::V6, 128);
    // A GET answer in blocks is granted, a long ACTION is not.
    let buffer = get(7, "1.0.99.1.0.255", 2);
    assert_eq!(
        plan.response(&buffer, 72),
        Crossing {
            fit: Fit::Blocks,
            octets: None
        }
    );
    assert_eq!(plan.request(&long(200), 0).fit, Fit::TooLong);
    plan.conformance = plan.conformance | Conformance::BLOCK_TRANSFER_ACTION;
    let crossing = plan.request(&long(200), 0);
    assert_eq!(crossing.fit, Fit::Blocks);
    assert_eq!(crossing.octets, Some(blocks_of_long(&plan, 203, 72)));
    // General blocks carry any service.
    plan.conformance = Conformance::RESET | Conformance::GENERAL_BLOCK_TRANSFER;
    assert_eq!(plan.request(&long(200), 0).fit, Fit::Blocks);
    // A meter that receives less than the link carries counts as the link.
    let mut plan = self::plan(LinkConfig::Tcp, Network::V6, 0);
    assert_eq!(plan.request(&long(200), 0).fit, Fit::OneFrame);
    assert_eq!(plan.request(&long(200), 128).fit, Fit::TooLong);
    plan.conformance = plan.conformance | Conformance::BLOCK_TRANSFER_ACTION;
    assert_eq!(plan.request(&long(200), 128).fit, Fit::Blocks);
}

/// The same by making the blocks.
fn blocks_of_long(plan: &Plan, value: usize, limit: usize) -> usize {
    use crate::service::Request;
    let invoke = InvokeId::new(1);
    let mut left = value;
    let mut sum = 0;
    let mut block = 1;
    while left > 0 {
        let apdu = |octets: usize| {
            let raw = vec![0; octets];
            let Command::Action { method, .. } = short() else {
                unreachable!()
            };
            if block == 1 {
                Request::ActionFirstBlock {
                    invoke,
                    method,
                    last: false,
                    block,
                    octets: raw,
                }
            } else {
                Request::ActionBlock {
                    invoke,
                    last: false,
                    block,
                    octets: raw,
                }
            }
            .encode()
            .len()
        };
        let taken = (1..=left)
            .rev()
            .find(|octets| plan.sealed(apdu(*octets)) <= limit)
            .unwrap();
        sum += plan.on_link(plan.sealed(apdu(taken)));
        left -= taken;
        block += 1;
    }
    sum
}

#[test]
fn hdlc_carries_in_segments_what_has_no_blocks() {
    let plan = plan(hdlc(64), Network::V4, 0);
    let crossing = plan.request(&long(200), 0);
    // 16 - 3 + 203 octets, ciphered, behind the LLC header, in four frames of at most 64.
    let information = plan.sealed(13 + 203) + 3;
    assert_eq!(information, 239);
    assert_eq!(
        crossing,
        Crossing {
            fit: Fit::Blocks,
            octets: Some(information + 4 * 12)
        }
    );
    assert_eq!(plan.request(&long(200), 100).fit, Fit::TooLong);
}

/// What was read, and its answer, in each form.
fn read_answers() -> [(Command, Response); 3] {
    let Command::Get { attribute, .. } = get(70, "0.0.96.3.10.255", 2) else {
        unreachable!()
    };
    let data = Data::Boolean(true);
    let one = Response::GetData {
        invoke: InvokeId::new(1),
        data: data.clone(),
    };
    let list = Response::GetList {
        invoke: InvokeId::new(1),
        results: vec![Ok(data.clone()); 3],
    };
    let outcome = AccessOutcome::Get(DataAccessResult::SUCCESS);
    let access = Response::Access {
        invoke: LongInvokeId::new(1),
        time: None,
        specifications: None,
        results: vec![Accessed { outcome, data }; 2],
    };
    let selection = None;
    let accesses = vec![
        Access::Get {
            attribute,
            selection
        };
        2
    ];
    [
        (get(70, "0.0.96.3.10.255", 2), one),
        (Command::GetList(vec![(attribute, None); 3]), list),
        (Command::Access(accesses), access),
    ]
}

/// What was written or done, and its answer.
fn act_answers() -> [(Command, Response); 4] {
    let Command::Action { method, .. } = short() else {
        unreachable!()
    };
    let attribute = Attribute {
        class_id: 1,
        name: method.name,
        index: 2,
    };
    let invoke = InvokeId::new(1);
    let (written, done) = (DataAccessResult::SUCCESS, ActionResult::SUCCESS);
    let set = Command::Set {
        attribute,
        selection: None,
        value: Data::Null,
    };
    let set_answer = Response::Set {
        invoke,
        result: written,
    };
    let sets = Response::SetList {
        invoke,
        results: vec![written; 3],
    };
    let action = Response::Action {
        invoke,
        result: done,
        data: None,
    };
    let actions = Response::ActionList {
        invoke,
        outcomes: vec![(done, None); 3],
    };
    [
        (set, set_answer),
        (
            Command::SetList(vec![(attribute, None, Data::Null); 3]),
            sets,
        ),
        (short(), action),
        (Command::ActionList(vec![(method, None); 3]), actions),
    ]
}

#[test]
fn expected_answers_are_as_long_as_real_ones() {
    for (command, answer) in read_answers().into_iter().chain(act_answers()) {
        assert_eq!(
            expected_answer(&command),
            Some(answer.encode().len()),
            "{command:?}"
        );
    }
    assert_eq!(expected_answer(&get(7, "1.0.99.1.0.255", 2)), None);
}

#[test]
fn signatures_and_key_information_count() {
    let mut plan = plan(LinkConfig::Tcp, Network::V6, 300);
    plan.envelope = Envelope {
        protection: Protection::GeneralCiphering(KeyChoice::OnePass),
        control: SecurityControl::of(Suite::Suite1, true, true),
        signed: true,
    };
    let crossing = plan.request(&short(), 0);
    assert_eq!(crossing.fit, Fit::TooLong);
    assert!(crossing.octets.is_some_and(|octets| octets > 300));
    plan.path.mtu = 500;
    assert_eq!(plan.request(&short(), 0).fit, Fit::OneFrame);
}

#[test]
fn room_is_what_sealing_leaves() {
    let mut plan = plan(LinkConfig::Tcp, Network::V6, 0);
    for (protection, signed) in [
        (Protection::Plain, false),
        (Protection::Glo, false),
        (Protection::GeneralGlo, false),
        (Protection::GeneralCiphering(KeyChoice::Identified), true),
    ] {
        plan.envelope.protection = protection;
        plan.envelope.signed = signed;
        for limit in (150..420).chain([65_500, 65_535]) {
            let room = plan.room(limit);
            assert!(plan.sealed(room) <= limit, "{limit}");
            assert!(plan.sealed(room + 1) > limit, "{limit}");
        }
    }
    let lengths: Vec<usize> = [2, 128, 129, 130, 131, 258, 259]
        .map(without_its_length)
        .into();
    assert_eq!(lengths, [1, 127, 127, 128, 129, 255, 256]);
}
