mod typed;

use dlms::cosem::Value as _;

use super::*;
use crate::{
    Profile,
    device::tests::{device, options},
    logs::LoadProfile,
    rtc,
};

const NOW: u64 = 2_000;

fn attribute(class_id: u16, name: &str, index: i8) -> Attribute {
    Attribute {
        class_id,
        name: name.parse().unwrap(),
        index,
    }
}

fn get(device: &mut Device, class_id: u16, name: &str, index: i8) -> Result<Data, u8> {
    device.get(
        View::Management,
        &attribute(class_id, name, index),
        None,
        NOW,
    )
}

/// The result of an ACTION, whatever it returns.
fn done(outcome: Result<Option<Data>, u8>) -> u8 {
    outcome.err().unwrap_or(result::OK)
}

fn act(device: &mut Device, class_id: u16, name: &str, index: i8, parameter: Data) -> u8 {
    let method = Method {
        class_id,
        name: name.parse().unwrap(),
        index,
    };
    done(device.act(View::Management, &method, Some(&parameter), NOW))
}

fn procedure() -> Device {
    let options = crate::MeterOptions {
        profile: Profile::Procedure,
        ..options()
    };
    Device::new(&options, 1_767_268_800_000).unwrap()
}

fn rows(data: Result<Data, u8>) -> Vec<Data> {
    data.unwrap().as_elements().unwrap().to_vec()
}

const SCRIPTS: &str = "0.0.10.1.0.255";
const RELAY: &str = "0.0.96.3.10.255";
const LOAD: &str = "1.0.99.1.0.255";
const EVENTS: &str = "0.0.99.98.0.255";

#[test]
fn every_readable_attribute_of_every_object_reads() {
    for mut device in [device(None), procedure()] {
        for object in table::all(device.profile) {
            for (index, mode) in object.attributes {
                let attribute = Attribute {
                    class_id: object.class_id,
                    name: object.name,
                    index: *index,
                };
                let answer = device.get(View::Management, &attribute, None, NOW);
                match mode & table::READ {
                    0 => assert_eq!(answer, Err(result::READ_WRITE_DENIED), "{attribute:?}"),
                    _ => assert!(answer.is_ok(), "{attribute:?}: {answer:?}"),
                }
            }
        }
    }
}

#[test]
fn what_is_not_there_is_refused_with_the_standards_codes() {
    let mut device = device(None);
    for (class_id, name, index, expected) in [
        (1, "9.9.9.9.9.9", 2, result::OBJECT_UNDEFINED),
        (1, RELAY, 2, result::OBJECT_CLASS_INCONSISTENT),
        (70, RELAY, 5, result::OBJECT_UNDEFINED),
        (70, RELAY, 0, result::OBJECT_UNDEFINED),
        (15, "0.0.40.0.0.255", 7, result::READ_WRITE_DENIED),
    ] {
        assert_eq!(
            get(&mut device, class_id, name, index),
            Err(expected),
            "{name} {index}"
        );
    }
    assert_eq!(
        act(&mut device, 1, "0.0.96.1.2.255", 1, Data::Integer(0)),
        result::READ_WRITE_DENIED
    );
    assert_eq!(
        act(&mut device, 70, "0.0.96.1.2.255", 1, Data::Integer(0)),
        result::OBJECT_CLASS_INCONSISTENT
    );
    assert_eq!(
        act(&mut device, 9, SCRIPTS, 1, Data::Integer(3)),
        result::TYPE_UNMATCHED
    );
    assert_eq!(
        act(&mut device, 9, SCRIPTS, 1, Data::LongUnsigned(4)),
        result::OBJECT_UNDEFINED
    );
    assert_eq!(device.take_accepted(), None);
    let refused = device
        .take_happened()
        .into_iter()
        .filter(|what| matches!(what, Happening::Refused { .. }));
    assert_eq!(refused.count(), 9);
}

#[test]
fn the_public_client_reads_the_invocation_counter_its_association_and_nothing_else() {
    let mut device = device(None);
    for object in table::all(device.profile) {
        for (index, mode) in object.attributes {
            let attribute = Attribute {
                class_id: object.class_id,
                name: object.name,
                index: *index,
            };
            let answer = device.get(View::Public, &attribute, None, NOW);
            let visible =
                [name::INVOCATION_COUNTER, name::CURRENT_ASSOCIATION].contains(&object.name);
            if visible && mode & table::READ != 0 {
                assert!(answer.is_ok());
            } else {
                assert_eq!(answer, Err(result::READ_WRITE_DENIED), "{}", object.name);
            }
        }
        for index in object.methods {
            let method = Method {
                class_id: object.class_id,
                name: object.name,
                index: *index,
            };
            let answer = device.act(View::Public, &method, Some(&Data::Integer(0)), NOW);
            assert_eq!(answer, Err(result::READ_WRITE_DENIED), "{method:?}");
        }
    }
    let clock = attribute(8, "0.0.1.0.0.255", 2);
    let value = Data::OctetString(vec![0; 12]);
    assert_eq!(
        device.set(View::Public, &clock, &value, NOW),
        result::READ_WRITE_DENIED
    );
}

#[test]
fn the_disconnect_control_really_moves_the_relay() {
    let mut device = device(None);
    assert_eq!(get(&mut device, 70, RELAY, 2), Ok(Data::Boolean(true)));
    assert_eq!(act(&mut device, 70, RELAY, 1, Data::Integer(0)), result::OK);
    assert_eq!(get(&mut device, 70, RELAY, 2), Ok(Data::Boolean(false)));
    assert_eq!(get(&mut device, 70, RELAY, 3), Ok(Data::Enum(0)));
    assert_eq!(act(&mut device, 70, RELAY, 2, Data::Integer(0)), result::OK);
    assert_eq!(get(&mut device, 70, RELAY, 2), Ok(Data::Boolean(true)));
    let told = device.take_happened();
    let moved = |what: &&Happening| {
        matches!(
            what,
            Happening::Relay {
                moved: true,
                cause: "action",
                ..
            }
        )
    };
    assert_eq!(told.iter().filter(moved).count(), 2);
    let action = |method| Happening::Action {
        class: 70,
        obis: RELAY.to_owned(),
        method,
    };
    assert!(told.contains(&action(1)) && told.contains(&action(2)));
}

#[test]
fn scripts_and_the_procedures_object_ask_for_their_tier() {
    for (script, tier) in [(1, Tier::Soft), (2, Tier::Warm), (3, Tier::Cold)] {
        let mut device = device(None);
        assert_eq!(
            act(&mut device, 9, SCRIPTS, 1, Data::LongUnsigned(script)),
            result::OK
        );
        assert_eq!(device.take_accepted(), Some(tier));
    }
    let mut device = procedure();
    let name = "0.0.96.1.2.255";
    assert_eq!(
        get(&mut device, 1, name, 2),
        Ok(Data::OctetString(b"CONNECTED".to_vec()))
    );
    assert_eq!(
        act(&mut device, 1, name, 1, Data::LongUnsigned(0)),
        result::TYPE_UNMATCHED
    );
    assert_eq!(act(&mut device, 1, name, 1, Data::Integer(0)), result::OK);
    assert_eq!(device.take_accepted(), Some(Tier::Cold));
    assert_eq!(
        act(&mut device, 9, SCRIPTS, 1, Data::LongUnsigned(3)),
        result::OBJECT_UNDEFINED
    );
    act(&mut device, 70, RELAY, 1, Data::Integer(0));
    assert_eq!(
        get(&mut device, 1, name, 2),
        Ok(Data::OctetString(b"DISCONNECTED".to_vec()))
    );
}

#[test]
fn the_global_meter_reset_does_the_harm_it_is_denied_for() {
    let mut device = device(None);
    assert_eq!(
        act(&mut device, 9, "0.0.10.0.0.255", 1, Data::LongUnsigned(1)),
        result::OK
    );
    assert_eq!(
        get(&mut device, 7, LOAD, 7),
        Ok(Data::DoubleLongUnsigned(0))
    );
    assert_eq!(
        get(&mut device, 3, "1.0.1.8.0.255", 2),
        Ok(Data::DoubleLongUnsigned(0))
    );
    assert_eq!(device.take_accepted(), None);
}

#[test]
fn profiles_read_by_entry() {
    let mut device = device(None);
    let mut entry = |from_entry, to_entry, from_column, to_column| {
        let selection = Selection::Entry {
            from_entry,
            to_entry,
            from_column,
            to_column,
        };
        device.get(
            View::Management,
            &attribute(7, LOAD, 2),
            Some(&selection),
            NOW,
        )
    };
    let newest = rows(entry(96, 96, 1, 0));
    assert_eq!(newest.len(), 1);
    let cells = newest[0].as_elements().unwrap();
    assert_eq!(
        cells[0],
        Data::OctetString(hex::decode("07ea0101040c000000000000").unwrap())
    );
    assert_eq!(
        cells[1..],
        [Data::Unsigned(0), Data::DoubleLongUnsigned(1_234_000)]
    );
    assert_eq!(rows(entry(1, 0, 1, 0)).len(), 96);
    assert_eq!(
        rows(entry(90, 95, 2, 2))[0].as_elements().unwrap(),
        [Data::Unsigned(0)]
    );
    assert_eq!(rows(entry(97, 0, 1, 0)), []);
    for (from, to, from_column, to_column) in
        [(0, 1, 1, 0), (5, 4, 1, 0), (1, 1, 0, 0), (1, 1, 3, 2)]
    {
        assert_eq!(
            entry(from, to, from_column, to_column),
            Err(result::TYPE_UNMATCHED)
        );
    }
}

#[test]
fn profiles_read_by_range() {
    let mut device = device(None);
    device.log(1_000, 7);
    device.log(2_000, 8);
    device.log(3_000, 9);
    let moment = |ms: i64| Data::OctetString(rtc::date_time(1_767_268_800_000 + ms).0.to_vec());
    let mut range = |column: Data, from: Data, to: Data, columns: Vec<Data>| {
        let selection = Selection::Range {
            column,
            from,
            to,
            columns,
        };
        device.get(
            View::Management,
            &attribute(7, EVENTS, 2),
            Some(&selection),
            NOW,
        )
    };
    let clock = Selection::clock_column;
    assert_eq!(
        rows(range(clock(), moment(1_500), moment(3_000), vec![])).len(),
        2
    );
    let code = buffer::EVENT_COLUMNS[1].to_data();
    let codes = rows(range(
        clock(),
        moment(2_000),
        moment(2_000),
        vec![code.clone()],
    ));
    assert_eq!(codes, [Data::Structure(vec![Data::LongUnsigned(8)])]);
    assert_eq!(
        rows(range(clock(), moment(4_000), moment(1_000), vec![])),
        []
    );
    for (column, from, columns) in [
        (code, moment(0), vec![]),
        (clock(), Data::OctetString(vec![0; 11]), vec![]),
        (clock(), moment(0), vec![Data::Null]),
    ] {
        assert_eq!(
            range(column, from, moment(9_000), columns),
            Err(result::TYPE_UNMATCHED)
        );
    }
    let other = Selection::Other {
        selector: 3,
        parameters: Data::Null,
    };
    let events = attribute(7, EVENTS, 2);
    assert_eq!(
        device.get(View::Management, &events, Some(&other), NOW),
        Err(result::TYPE_UNMATCHED)
    );
    let count = attribute(7, EVENTS, 7);
    assert_eq!(
        device.get(View::Management, &count, Some(&other), NOW),
        Err(result::TYPE_UNMATCHED)
    );
}

#[test]
fn the_clock_and_the_control_mode_can_be_set() {
    let mut device = device(None);
    let clock = attribute(8, "0.0.1.0.0.255", 2);
    let value = Data::OctetString(hex::decode("07ea0601010c0000ff800000").unwrap());
    assert_eq!(
        device.set(View::Management, &clock, &value, NOW),
        result::OK
    );
    let shown = Data::OctetString(hex::decode("07ea0601010c000000000000").unwrap());
    assert_eq!(get(&mut device, 8, "0.0.1.0.0.255", 2), Ok(shown));
    assert_eq!(
        device.set(View::Management, &clock, &Data::Unsigned(1), NOW),
        result::TYPE_UNMATCHED
    );
    let mode = attribute(70, RELAY, 4);
    assert_eq!(
        device.set(View::Management, &mode, &Data::Enum(0), NOW),
        result::OK
    );
    assert_eq!(
        device.set(View::Management, &mode, &Data::Enum(7), NOW),
        result::TYPE_UNMATCHED
    );
    assert_eq!(
        device.set(
            View::Management,
            &attribute(70, RELAY, 2),
            &Data::Boolean(false),
            NOW
        ),
        result::READ_WRITE_DENIED
    );
}

#[test]
fn objects_of_a_board_that_boots_or_panics_cannot_be_had() {
    let mut device = device(Some("partial-metrology-only"));
    device.reset(Tier::Cold, NOW);
    assert_eq!(
        get(&mut device, 70, RELAY, 2),
        Err(result::TEMPORARY_FAILURE)
    );
    assert!(
        get(&mut device, 1, "1.2.0.2.0.255", 2).is_ok(),
        "the other board answers"
    );
    device.hardware.metrology.dies_in_post = true;
    device.advance(60_000);
    assert_eq!(
        get(&mut device, 70, RELAY, 2),
        Err(result::OBJECT_UNAVAILABLE)
    );
}

#[test]
fn the_object_list_tells_every_object_and_its_rights() {
    let mut device = device(None);
    let list = rows(get(&mut device, 15, "0.0.40.0.0.255", 2));
    assert_eq!(list.len(), table::all(Profile::Standard).count());
    let relay = list
        .iter()
        .find(|object| object.as_elements().unwrap()[0] == Data::LongUnsigned(70))
        .unwrap();
    let rights = relay.as_elements().unwrap()[3].as_elements().unwrap();
    assert_eq!(rights[0].as_elements().unwrap().len(), 4);
    assert_eq!(rights[1].as_elements().unwrap().len(), 2);
    assert_eq!(
        get(&mut device, 7, LOAD, 8),
        Ok(Data::DoubleLongUnsigned(
            u32::try_from(LoadProfile::CAPACITY).unwrap()
        ))
    );
}

#[test]
fn a_running_firmware_update_shows_in_the_image_transfer_status() {
    let status = |device: &mut Device| get(device, 18, "0.0.44.0.0.255", 6);
    assert_eq!(status(&mut device(None)), Ok(Data::Enum(0)));
    let mut busy = device(Some("fota-busy"));
    assert_eq!(status(&mut busy), Ok(Data::Enum(1)));
    assert_eq!(
        act(&mut busy, 9, SCRIPTS, 1, Data::LongUnsigned(3)),
        result::TEMPORARY_FAILURE
    );
}
