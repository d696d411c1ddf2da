//! What a client gets that reads every object by its class, and what the object list is worth.

use dlms::{
    Access, AccessOutcome, ActionResult, DataAccessResult, InvokeId, LongInvokeId, Response,
    cosem::{
        Code, Field, Value, activity_calendar as calendar,
        association::{self, ListedObject},
        clock, data,
        disconnect_control::{self, ControlMode, ControlState},
        image_transfer::{self, Status},
        limiter, name, profile, push_setup, register, schedule,
        script_table::SCRIPTS,
        security_setup::{self, Policy},
    },
};

use super::*;

fn read<T: Value>(device: &mut Device, field: &Field<T>, name: Obis) -> T {
    read_as(device, View::Management, field, name)
}

fn read_as<T: Value>(device: &mut Device, view: View, field: &Field<T>, name: Obis) -> T {
    let answer = device.get(view, &field.of(name), None, NOW);
    field.read(&answer.unwrap()).unwrap()
}

/// Every attribute of every class that the meter has, in the type of its class.
#[test]
fn every_attribute_has_its_type() {
    let device = &mut device(None);
    read(device, &data::VALUE, name::LOGICAL_DEVICE_NAME);
    read(device, &register::VALUE, name::IMPORT);
    read(device, &register::SCALER_UNIT, name::OPERATING_TIME);
    read(device, &profile::BUFFER, name::LOAD_PROFILE);
    read(device, &profile::CAPTURE_OBJECTS, name::EVENT_LOG);
    read(device, &profile::CAPTURE_PERIOD, name::LOAD_PROFILE);
    read(device, &profile::SORT_METHOD, name::LOAD_PROFILE);
    read(device, &profile::SORT_OBJECT, name::LOAD_PROFILE);
    read(device, &profile::ENTRIES_IN_USE, name::EVENT_LOG);
    read(device, &profile::PROFILE_ENTRIES, name::EVENT_LOG);
    assert!(read(device, &clock::TIME, name::CLOCK).unix_ms().is_some());
    read(device, &clock::TIME_ZONE, name::CLOCK);
    read(device, &clock::STATUS, name::CLOCK);
    read(device, &clock::DAYLIGHT_SAVINGS_BEGIN, name::CLOCK);
    read(device, &clock::DAYLIGHT_SAVINGS_END, name::CLOCK);
    read(device, &clock::DAYLIGHT_SAVINGS_DEVIATION, name::CLOCK);
    read(device, &clock::DAYLIGHT_SAVINGS_ENABLED, name::CLOCK);
    read(device, &clock::CLOCK_BASE, name::CLOCK);
    let association = name::CURRENT_ASSOCIATION;
    read(device, &association::ASSOCIATED_PARTNERS_ID, association);
    read(device, &association::APPLICATION_CONTEXT_NAME, association);
    read(device, &association::XDLMS_CONTEXT_INFO, association);
    read(
        device,
        &association::AUTHENTICATION_MECHANISM_NAME,
        association,
    );
    read(device, &association::ASSOCIATION_STATUS, association);
    let setup = read(device, &association::SECURITY_SETUP_REFERENCE, association);
    assert_eq!(setup.0, name::SECURITY_SETUP.bytes());
    let security = name::SECURITY_SETUP;
    let policy = read(device, &security_setup::SECURITY_POLICY, security);
    assert!(policy.covers(Policy::AUTHENTICATED_REQUEST.and(Policy::ENCRYPTED_RESPONSE)));
    read(device, &security_setup::SECURITY_SUITE, security);
    read(device, &security_setup::CERTIFICATES, security);
    let titles = [
        read(device, &security_setup::CLIENT_SYSTEM_TITLE, security).0,
        read(device, &security_setup::SERVER_SYSTEM_TITLE, security).0,
    ];
    let known = [device.titles.client, device.titles.server];
    assert_eq!(
        titles,
        known.map(|title| Some(dlms::SystemTitle::new(title)))
    );
    let relay = name::DISCONNECT_CONTROL;
    assert!(read(device, &disconnect_control::OUTPUT_STATE, relay));
    let state = read(device, &disconnect_control::CONTROL_STATE, relay);
    let mode = read(device, &disconnect_control::CONTROL_MODE, relay);
    assert_eq!((state, mode), (ControlState::Connected, ControlMode::Mode4));
}

/// Objects that a reset looks at before it begins: nothing is due, nothing watches, nothing is sent.
#[test]
fn nothing_happens_by_itself() {
    let device = &mut device(None);
    read(
        device,
        &schedule::EXECUTED_SCRIPT,
        name::DISCONNECT_SCHEDULE,
    );
    read(device, &schedule::TYPE, name::DISCONNECT_SCHEDULE);
    let times = read(device, &schedule::EXECUTION_TIME, name::DISCONNECT_SCHEDULE);
    assert_eq!(times, []);
    let watched = read(device, &limiter::MONITORED_VALUE, name::LIMITER);
    assert_eq!(watched.class_id, 0);
    read(device, &limiter::THRESHOLD_ACTIVE, name::LIMITER);
    read(device, &limiter::THRESHOLD_NORMAL, name::LIMITER);
    read(device, &limiter::THRESHOLD_EMERGENCY, name::LIMITER);
    read(device, &limiter::MIN_OVER_THRESHOLD_DURATION, name::LIMITER);
    read(
        device,
        &limiter::MIN_UNDER_THRESHOLD_DURATION,
        name::LIMITER,
    );
    assert_eq!(
        read(device, &limiter::EMERGENCY_PROFILE, name::LIMITER),
        None
    );
    read(
        device,
        &limiter::EMERGENCY_PROFILE_GROUP_ID_LIST,
        name::LIMITER,
    );
    assert!(!read(
        device,
        &limiter::EMERGENCY_PROFILE_ACTIVE,
        name::LIMITER
    ));
    read(device, &limiter::ACTIONS, name::LIMITER);
    let pushed = read(device, &push_setup::PUSH_OBJECT_LIST, name::PUSH_SETUP);
    assert_eq!(pushed, []);
    read(
        device,
        &push_setup::SEND_DESTINATION_AND_METHOD,
        name::PUSH_SETUP,
    );
    read(device, &push_setup::COMMUNICATION_WINDOW, name::PUSH_SETUP);
    read(
        device,
        &push_setup::RANDOMISATION_START_INTERVAL,
        name::PUSH_SETUP,
    );
    read(device, &push_setup::NUMBER_OF_RETRIES, name::PUSH_SETUP);
    read(device, &push_setup::REPETITION_DELAY, name::PUSH_SETUP);
}

#[test]
fn the_push_setup_says_what_is_sent_where_to() {
    let options = crate::MeterOptions {
        transport: crate::Transport::Udp,
        notify: crate::Notify {
            push: Some("127.0.0.9:4059".parse().unwrap()),
            ..crate::Notify::default()
        },
        ..options()
    };
    let device = &mut Device::new(&options, 0).unwrap();
    let objects = read(device, &push_setup::PUSH_OBJECT_LIST, name::PUSH_SETUP);
    for object in &objects {
        let pushed = Attribute {
            class_id: object.class_id,
            name: object.name,
            index: object.attribute,
        };
        assert!(device.get(View::Management, &pushed, None, NOW).is_ok());
    }
    assert_eq!(objects.len(), 3);
    let to = read(
        device,
        &push_setup::SEND_DESTINATION_AND_METHOD,
        name::PUSH_SETUP,
    );
    assert_eq!(to.transport, Code(1));
    assert_eq!(to.destination.0, b"127.0.0.9:4059");
}

/// The names in the calendar lead from the season to the script, and the script is there.
#[test]
fn the_calendar_leads_to_a_script_that_exists() {
    let device = &mut device(None);
    let at = name::ACTIVITY_CALENDAR;
    read(device, &calendar::CALENDAR_NAME_ACTIVE, at);
    let seasons = read(device, &calendar::SEASON_PROFILE_ACTIVE, at);
    let weeks = read(device, &calendar::WEEK_PROFILE_TABLE_ACTIVE, at);
    let days = read(device, &calendar::DAY_PROFILE_TABLE_ACTIVE, at);
    assert_eq!(seasons[0].week, weeks[0].name);
    assert_eq!(weeks[0].sunday, days[0].id);
    let action = &days[0].schedule[0];
    let scripts = read(device, &SCRIPTS, action.table);
    assert!(
        scripts
            .iter()
            .any(|script| script.identifier == action.selector)
    );
    read(device, &calendar::CALENDAR_NAME_PASSIVE, at);
    read(device, &calendar::SEASON_PROFILE_PASSIVE, at);
    read(device, &calendar::WEEK_PROFILE_TABLE_PASSIVE, at);
    read(device, &calendar::DAY_PROFILE_TABLE_PASSIVE, at);
    let next = read(device, &calendar::ACTIVATE_PASSIVE_CALENDAR_TIME, at);
    assert_eq!(next.unix_ms(), None);
}

#[test]
fn a_running_image_transfer_shows_which_blocks_came() {
    for (fault, status, first) in [
        (None, Status::NotInitiated, 0),
        (Some("fota-busy"), Status::Initiated, 4),
    ] {
        let device = &mut device(fault);
        let at = name::IMAGE_TRANSFER;
        assert_eq!(
            read(device, &image_transfer::IMAGE_TRANSFER_STATUS, at),
            status
        );
        assert!(read(device, &image_transfer::IMAGE_TRANSFER_ENABLED, at));
        read(device, &image_transfer::IMAGE_BLOCK_SIZE, at);
        read(device, &image_transfer::IMAGE_TO_ACTIVATE_INFO, at);
        let missing = &image_transfer::IMAGE_FIRST_NOT_TRANSFERRED_BLOCK_NUMBER;
        assert_eq!(read(device, missing, at), first);
        let blocks = read(device, &image_transfer::IMAGE_TRANSFERRED_BLOCKS_STATUS, at);
        let came = (0..).take_while(|place| blocks.get(*place) == Some(true));
        assert_eq!(came.count(), usize::try_from(first).unwrap());
    }
}

/// The list is tried out: what it grants is answered, what it does not grant is denied. Methods are not tried, they
/// would do what they say.
#[test]
fn the_object_list_tells_each_client_the_truth() {
    for view in [View::Public, View::Management] {
        let device = &mut device(None);
        let listed: Vec<ListedObject> = read_as(
            device,
            view,
            &association::OBJECT_LIST,
            name::CURRENT_ASSOCIATION,
        );
        let version = |object: &ListedObject| object.class_id == 15 && object.version == 1;
        assert!(listed.iter().any(version), "rights are those of version 1");
        for object in table::all(device.profile) {
            let found = listed.iter().find(|listed| listed.name == object.name);
            assert_eq!(found.is_some(), object.is_visible(view), "{}", object.name);
            for index in 1..=12 {
                let attribute = Attribute {
                    class_id: object.class_id,
                    name: object.name,
                    index,
                };
                let granted = found.is_some_and(|listed| listed.rights.attribute(index, 1).read);
                let answer = device.get(view, &attribute, None, NOW);
                assert_eq!(answer.is_ok(), granted, "{view:?} {attribute:?}");
            }
            let methods = found.map_or(0, |listed| listed.rights.methods.len());
            assert_eq!(methods, device.methods(view, object).len());
        }
        let ciphered = |object: &ListedObject| {
            let first = object.rights.attribute(1, 1);
            first.authenticated_request == (view == View::Management)
        };
        assert!(listed.iter().all(ciphered));
    }
}

#[test]
fn rights_are_not_authenticated_where_nothing_is_ciphered() {
    let options = crate::MeterOptions {
        auth: crate::Auth::Low,
        ..options()
    };
    let mut device = Device::new(&options, 0).unwrap();
    let listed = read(
        &mut device,
        &association::OBJECT_LIST,
        name::CURRENT_ASSOCIATION,
    );
    let clock = listed
        .iter()
        .find(|object| object.name == name::CLOCK)
        .unwrap();
    assert_eq!(clock.rights.attributes[1].mode, Code(3));
    let policy = read(
        &mut device,
        &security_setup::SECURITY_POLICY,
        name::SECURITY_SETUP,
    );
    assert_eq!(policy, Policy::NONE);
}

#[test]
fn lists_are_served_one_by_one() {
    let device = &mut device(None);
    let invoke = InvokeId::new(1);
    let request = Request::GetList {
        invoke,
        attributes: vec![
            (clock::STATUS.of(name::CLOCK), None),
            (
                profile::BUFFER.of(name::LOAD_PROFILE),
                Some(Selection::entries(96, 0)),
            ),
            (attribute(1, "9.9.9.9.9.9", 2), None),
        ],
    };
    let Response::GetList { results, .. } = respond(device, View::Management, &request, NOW) else {
        panic!("another response");
    };
    assert_eq!(results[0], Ok(Data::Unsigned(0)));
    assert_eq!(results[1].as_ref().unwrap().as_elements().unwrap().len(), 1);
    assert_eq!(results[2], Err(DataAccessResult::OBJECT_UNDEFINED));
    let request = Request::SetList {
        invoke,
        values: vec![
            (attribute(70, RELAY, 4), None, Data::Enum(2)),
            (attribute(70, RELAY, 2), None, Data::Boolean(false)),
        ],
    };
    let answer = respond(device, View::Management, &request, NOW);
    let results = vec![
        DataAccessResult::SUCCESS,
        DataAccessResult::READ_WRITE_DENIED,
    ];
    assert_eq!(answer, Response::SetList { invoke, results });
    let script = script_table::EXECUTE.of(table::RESET_SCRIPTS);
    let request = Request::ActionList {
        invoke,
        methods: vec![
            (script, Some(Data::LongUnsigned(9))),
            (script, Some(Data::LongUnsigned(2))),
        ],
    };
    assert!(device.is_reset(&request));
    let answer = respond(device, View::Management, &request, NOW);
    let outcomes = vec![
        (ActionResult::OBJECT_UNDEFINED, None),
        (ActionResult::SUCCESS, None),
    ];
    assert_eq!(answer, Response::ActionList { invoke, outcomes });
    assert_eq!(device.take_accepted(), Some(Tier::Warm));
}

#[test]
fn access_goes_in_order_and_stops_where_it_is_told() {
    let device = &mut device(None);
    let accesses = vec![
        Access::Get {
            attribute: disconnect_control::OUTPUT_STATE.of(name::DISCONNECT_CONTROL),
            selection: None,
        },
        Access::Set {
            attribute: attribute(70, RELAY, 2),
            selection: None,
            value: Data::Boolean(false),
        },
        Access::Action {
            method: script_table::EXECUTE.of(table::RESET_SCRIPTS),
            parameter: Some(Data::LongUnsigned(3)),
        },
    ];
    let mut ask = |invoke: LongInvokeId| {
        let request = Request::Access {
            invoke,
            time: None,
            accesses: accesses.clone(),
        };
        let Response::Access {
            results,
            time: Some(_),
            specifications,
            ..
        } = respond(device, View::Management, &request, NOW)
        else {
            panic!("another response");
        };
        assert_eq!(specifications.is_some(), invoke.is_self_descriptive());
        let outcomes: Vec<AccessOutcome> = results.iter().map(|one| one.outcome).collect();
        assert_eq!(results[0].data, Data::Boolean(true));
        (outcomes, device.take_accepted())
    };
    let read = AccessOutcome::Get(DataAccessResult::SUCCESS);
    let denied = AccessOutcome::Set(DataAccessResult::READ_WRITE_DENIED);
    let done = AccessOutcome::Action(ActionResult::SUCCESS);
    let (outcomes, reset) = ask(LongInvokeId::new(1).self_describing());
    assert_eq!(
        (outcomes, reset),
        (vec![read, denied, done], Some(Tier::Cold))
    );
    let (outcomes, reset) = ask(LongInvokeId::new(2).breaking_on_error());
    assert_eq!((outcomes, reset), (vec![read, denied], None));
}
