//! Worked examples: how meters write these values.

use super::*;
use crate::cosem::association::{
    APPLICATION_CONTEXT_NAME, Access, AccessRights, AttributeAccess, ContextInfo, MethodAccess,
    OBJECT_LIST, XDLMS_CONTEXT_INFO,
};
use crate::cosem::disconnect_control::{CONTROL_MODE, CONTROL_STATE, ControlMode, ControlState};
use crate::cosem::image_transfer::{
    IMAGE_TRANSFER_STATUS, IMAGE_TRANSFERRED_BLOCKS_STATUS, Status,
};
use crate::cosem::profile::{CaptureObject, ENTRIES_IN_USE, fill, select};
use crate::cosem::script_table::{Action, EXECUTE, SCRIPTS, Script, Service};
use crate::cosem::security_setup::{KEY_TRANSFER, KeyId, KeyTransfer, SECURITY_POLICY};
use crate::selection::Selection;

fn data(hex: &str) -> Data {
    Data::decode(&hex::decode(hex).unwrap()).unwrap()
}

#[test]
fn integers_of_any_width_are_taken_where_they_fit() {
    for (number, expected) in [
        (Data::DoubleLongUnsigned(7), Some(7)),
        (Data::Unsigned(7), Some(7)),
        (Data::Long64(7), Some(7)),
        (Data::Integer(-1), None),
        (Data::Long64Unsigned(1 << 32), None),
        (Data::Null, None),
    ] {
        assert_eq!(ENTRIES_IN_USE.read(&number).ok(), expected, "{number:?}");
    }
}

#[test]
fn the_relay_and_the_firmware_are_read_strictly() {
    for number in [Data::Unsigned(1), Data::Integer(1), Data::Boolean(true)] {
        assert!(CONTROL_STATE.read(&number).is_err());
        assert!(CONTROL_MODE.read(&number).is_err());
        assert!(IMAGE_TRANSFER_STATUS.read(&number).is_err());
    }
    assert!(
        disconnect_control::OUTPUT_STATE
            .read(&Data::Unsigned(1))
            .is_err()
    );
    assert!(CONTROL_STATE.read(&Data::Enum(3)).is_err());
    assert!(CONTROL_MODE.read(&Data::Enum(8)).is_err());
    assert!(IMAGE_TRANSFER_STATUS.read(&Data::Enum(8)).is_err());
    let running: Vec<u8> = Status::ALL
        .iter()
        .filter(|status| status.is_running())
        .map(|status| status.code())
        .collect();
    assert_eq!(running, [1, 2, 5]);
}

#[test]
fn reconnection_depends_on_the_mode() {
    use ControlState::{Connected, Disconnected, ReadyForReconnection};
    for (mode, disconnected, reconnected) in [
        (ControlMode::None, Connected, Connected),
        (ControlMode::Mode1, Disconnected, ReadyForReconnection),
        (ControlMode::Mode2, Disconnected, Connected),
        (ControlMode::Mode3, Disconnected, ReadyForReconnection),
        (ControlMode::Mode4, Disconnected, Connected),
        (ControlMode::Mode5, Disconnected, ReadyForReconnection),
        (ControlMode::Mode6, Disconnected, ReadyForReconnection),
        (ControlMode::Mode7, Disconnected, Connected),
    ] {
        assert_eq!(mode.after_disconnect(Connected), disconnected, "{mode:?}");
        assert_eq!(mode.after_reconnect(disconnected), reconnected, "{mode:?}");
        assert_eq!(mode.after_reconnect(Connected), Connected, "{mode:?}");
    }
    assert_eq!(
        ControlMode::Mode1.after_disconnect(ReadyForReconnection),
        Disconnected
    );
}

#[test]
fn a_script_says_what_it_touches() {
    let scripts = data("010102021200010101020516021200460906000060030aff0f010f00");
    let relay = Action {
        service: Service::Execute,
        class_id: 70,
        name: name::DISCONNECT_CONTROL,
        index: 1,
        parameter: Data::Integer(0),
    };
    let script = Script {
        identifier: 1,
        actions: vec![relay],
    };
    assert_eq!(SCRIPTS.read(&scripts), Ok(vec![script]));
    assert_eq!(EXECUTE.data(&3).encode(), [0x12, 0, 3]);
    assert_eq!(EXECUTE.of(name::GLOBAL_METER_RESET).class_id, 9);
}

#[test]
fn a_mismatch_says_where() {
    let scripts = data("01020202120001010002020901000100");
    let wrong = SCRIPTS.read(&scripts).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "class 9 attribute 2 (scripts) element 2.1: expected long-unsigned, found octet-string of 1 octets"
    );
    let wrong = EXECUTE.read(None).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "class 9 method 1 (execute): expected long-unsigned, found none"
    );
}

/// Access modes to version 2 are numbers, from version 3 bits: 4 is «authenticated read» in one and «no access, but
/// authenticated» in the other.
#[test]
fn access_rights_mean_what_their_version_says() {
    let rights = |version, mode| {
        let rights = AccessRights {
            attributes: vec![AttributeAccess {
                index: 2,
                mode: Code(mode),
                selectors: None,
            }],
            methods: vec![MethodAccess {
                index: 1,
                mode: MethodMode::Mode(mode),
            }],
        };
        (rights.attribute(2, version), rights.method(1, version))
    };
    let (attribute, method) = rights(1, 4);
    assert!(attribute.read && !attribute.write && attribute.authenticated_request);
    assert_eq!(method, Access::NONE);
    let (attribute, method) = rights(2, 2);
    assert!(!attribute.read && attribute.write && !attribute.authenticated_request);
    assert!(method.execute && method.authenticated_request);
    let (attribute, method) = rights(3, 4);
    assert!(!attribute.read && !attribute.write && attribute.authenticated_request);
    assert!(!method.execute);
    let (attribute, method) = rights(3, 0xEF);
    assert!(attribute.read && attribute.write && method.execute);
    assert!(attribute.encrypted_request && !attribute.signed_request);
    assert!(attribute.authenticated_response && attribute.encrypted_response);
    assert!(attribute.signed_response);
    assert!(MethodMode::Flag(true).access(0).execute);
    let (attribute, _) = rights(1, 7);
    assert_eq!(attribute, Access::NONE, "a number without a meaning");
    let none = AccessRights {
        attributes: vec![],
        methods: vec![],
    };
    assert_eq!(
        (none.attribute(2, 1), none.method(1, 3)),
        (Access::NONE, Access::NONE)
    );
}

#[test]
fn an_object_list_of_version_0_reads_too() {
    let list = data("0101020412004611000906000060030aff0202010102030f02160100010102020f010301");
    let list = OBJECT_LIST.read(&list).unwrap();
    assert_eq!(
        (list[0].class_id, list[0].name),
        (70, name::DISCONNECT_CONTROL)
    );
    assert!(list[0].rights.attribute(2, 0).read);
    assert!(list[0].rights.method(1, 0).execute && !list[0].rights.method(2, 0).execute);
    assert!(
        OBJECT_LIST.read(&Data::Null).is_err(),
        "no list is not an empty list"
    );
}

#[test]
fn the_context_name_comes_as_octets_or_as_arcs() {
    let octets = data("090760857405080103");
    let arcs = data("0207110211101202f41105110811011103");
    for name in [octets, arcs] {
        let read = APPLICATION_CONTEXT_NAME.read(&name);
        assert_eq!(
            read,
            Ok(ContextName(ApplicationContext::LogicalNameCiphered))
        );
    }
    let mechanism = data("090760857405080203");
    assert!(APPLICATION_CONTEXT_NAME.read(&mechanism).is_err());
}

#[test]
fn secrets_are_not_shown() {
    let info = ContextInfo {
        conformance: Conformance::RESET,
        max_receive_pdu: 1024,
        max_send_pdu: 1024,
        version: 6,
        quality_of_service: 0,
        cyphering_info: Some(Secret(b"0123456789abcdef".to_vec())),
    };
    assert!(!format!("{info:?}").contains("48, 49"));
    let wrong = association::SECRET.read(&Data::Unsigned(1)).unwrap_err();
    assert!(wrong.to_string().ends_with("found unsigned 1"));
    let read = XDLMS_CONTEXT_INFO.read(&XDLMS_CONTEXT_INFO.data(&info));
    assert_eq!(read, Ok(info));
}

#[test]
fn the_policy_of_either_version_is_understood() {
    let read = |code| SECURITY_POLICY.read(&Data::Enum(code));
    let both = Policy::AUTHENTICATED_REQUEST.and(Policy::ENCRYPTED_REQUEST);
    assert!(read(3).unwrap().covers(both) && read(0x6C).unwrap().covers(both));
    assert!(!read(1).unwrap().covers(both) && !read(0x24).unwrap().covers(both));
    assert!(read(0x6C).unwrap().covers(read(3).unwrap()));
    assert!(!read(0).unwrap().covers(Policy::SIGNED_RESPONSE));
    assert_eq!(read(2).unwrap().bits(), 0x48);
    for code in [5, 6, 7, 0x6D, 0xFF] {
        assert!(read(code).is_err(), "{code}");
    }
}

#[test]
fn a_key_transfer_as_it_travels() {
    let transfer = data(&format!("0101020216000918{}", "ab".repeat(24)));
    let key = KeyTransfer {
        key: KeyId::GlobalUnicastEncryption,
        wrapped: vec![0xAB; 24],
    };
    assert_eq!(KEY_TRANSFER.read(Some(&transfer)), Ok(vec![key]));
    assert!(
        KEY_TRANSFER
            .read(Some(&data("01010202110009020102")))
            .is_err(),
        "a key id is an enum"
    );
}

#[test]
fn blocks_that_arrived() {
    let bits = data("040a8040");
    let blocks = IMAGE_TRANSFERRED_BLOCKS_STATUS.read(&bits).unwrap();
    let arrived: Vec<Option<bool>> = [0, 1, 9, 10].map(|place| blocks.get(place)).into();
    assert_eq!(arrived, [Some(true), Some(false), Some(true), None]);
}

const CODE: CaptureObject = CaptureObject::whole(1, name::EVENT_CODE, 2);

fn rows() -> Vec<Row> {
    let row = |minute: i64, code| {
        let time = DateTime::utc(1_767_268_800_000 + minute * 60_000).unwrap();
        Row(vec![time.to_data(), Data::LongUnsigned(code)])
    };
    vec![row(0, 10), row(15, 11), row(30, 12), row(45, 13)]
}

fn codes_of(selection: &Selection) -> Result<Vec<i64>, Wrong> {
    let rows = select(
        &[CaptureObject::CLOCK, CODE],
        rows().into_iter(),
        Some(selection),
    )?;
    Ok(rows
        .iter()
        .filter_map(|row| row.number(row.0.len() - 1))
        .collect())
}

#[test]
fn rows_are_selected_by_range() {
    let minute = |minute: i64| DateTime::utc(1_767_268_800_000 + minute * 60_000).unwrap();
    let between = |from, to| codes_of(&Selection::between(minute(from), minute(to), &[CODE]));
    assert_eq!(between(15, 30), Ok(vec![11, 12]));
    assert_eq!(between(16, 29), Ok(vec![]));
    assert_eq!(between(30, 15), Ok(vec![]));
    let by_code = Selection::Range {
        column: CODE.to_data(),
        from: Data::Unsigned(12),
        to: Data::Unsigned(99),
        columns: vec![],
    };
    assert_eq!(codes_of(&by_code), Ok(vec![12, 13]));
    let stranger = CaptureObject::whole(3, name::IMPORT, 2);
    for selection in [
        Selection::between(minute(0), minute(1), core::slice::from_ref(&stranger)),
        Selection::between(DateTime::ANY, minute(1), &[]),
        Selection::Range {
            column: CODE.to_data(),
            from: minute(0).to_data(),
            to: Data::Unsigned(1),
            columns: vec![],
        },
        Selection::Range {
            column: stranger.to_data(),
            from: Data::Unsigned(0),
            to: Data::Unsigned(1),
            columns: vec![],
        },
        Selection::Other {
            selector: 3,
            parameters: Data::Null,
        },
    ] {
        let wrong = codes_of(&selection).unwrap_err();
        assert!(wrong.to_string().contains("selective access"), "{wrong}");
    }
}

#[test]
fn rows_are_selected_by_entry() {
    let entry = |from_entry, to_entry, from_column, to_column| {
        codes_of(&Selection::Entry {
            from_entry,
            to_entry,
            from_column,
            to_column,
        })
    };
    assert_eq!(entry(2, 3, 2, 2), Ok(vec![11, 12]));
    assert_eq!(codes_of(&Selection::entries(4, 0)), Ok(vec![13]));
    assert_eq!(entry(5, 9, 1, 0), Ok(vec![]));
    for (from, to, first, last) in [(0, 1, 1, 0), (3, 2, 1, 0), (1, 1, 0, 0), (1, 1, 2, 1)] {
        assert!(entry(from, to, first, last).is_err());
    }
}

/// Tag 19, the type of a row once (structure of octet-string and long-unsigned), then two rows without tags.
#[test]
fn a_buffer_may_be_a_compact_array() {
    let buffer = data("13020209120a020a0b0007020c0d0008");
    let rows = profile::BUFFER.read(&buffer).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].number(1), Some(8));
}

#[test]
fn what_a_meter_left_out_is_filled_in() {
    let mut short = rows();
    short[1].0 = vec![Data::Null, Data::Null];
    short[2].0 = vec![Data::Null, Data::LongUnsigned(12)];
    fill(&mut short, &[CaptureObject::CLOCK, CODE], 900);
    let mut whole = rows();
    whole[1].0[1] = Data::LongUnsigned(10);
    assert_eq!(short, whole);
    let mut nothing = vec![Row(vec![Data::Null]), Row(vec![Data::Null])];
    fill(&mut nothing, &[CaptureObject::CLOCK], 900);
    assert_eq!(nothing[1].0, [Data::Null]);
}
