//! The values of attributes, in the types of their classes.

use dlms::{
    ApplicationContext, Data, Mechanism, Obis, Selection, SystemTitle,
    cosem::{
        Bits, Code, DateTime, Octets, Time, Title, activity_calendar as calendar,
        association::{
            self, ClientSap, ContextInfo, ContextName, ListedObject, MechanismName, Partners,
        },
        clock::{self, ClockBase, ClockStatus},
        data, disconnect_control as relay, image_transfer as image,
        limiter::{self, Actions, Monitored},
        name,
        profile::{self, CaptureObject, SortMethod},
        push_setup::{self as push, Destination, PushObject, RepetitionDelay},
        register::{self, ScalerUnit, Unit},
        schedule,
        script_table::{self as scripts, Action, Reference, Script, Service},
        security_setup::{self as security, Policy},
    },
};

use crate::{
    Profile,
    device::Device,
    fault::FaultKind,
    logs::{EventLog, LoadProfile},
    objects::{
        View, buffer, result,
        table::{self, Object},
    },
    options::{MANAGEMENT_SAP, PUBLIC_SAP, SERVER_SAP, Terms},
    rtc,
};

impl Device {
    /// The value of a readable attribute.
    pub(super) fn read(
        &self,
        view: View,
        object: &Object,
        index: i8,
        selection: Option<&Selection>,
        now: u64,
    ) -> Result<Data, u8> {
        if index == 1 {
            return Ok(data::LOGICAL_NAME.data(&object.name));
        }
        let value = match object.class_id {
            1 => self.value(object.name),
            3 => self.register(object.name, index, now),
            7 if index == 2 => Some(self.buffer(object.name, selection)?),
            7 => self.profile(object.name, index),
            8 => self.clock(index, now),
            9 => (index == 2).then(|| scripts::SCRIPTS.data(&script_list(object.name))),
            15 => self.association(view, index),
            18 => self.image_transfer(index),
            20 => calendar(index),
            22 => no_schedule(index),
            40 => self.push_setup(index),
            64 => self.security_setup(index),
            70 => self.disconnect_control(index),
            71 => no_limit(index),
            _ => None,
        };
        value.ok_or(result::OBJECT_UNDEFINED)
    }

    fn value(&self, name: Obis) -> Option<Data> {
        let serial = hex::encode_upper(self.titles.server.get(3..).unwrap_or_default());
        Some(match name {
            // manufacturer and serial number: 3 + 10 characters, unique as the system title is
            name::LOGICAL_DEVICE_NAME => text(&format!("LKM{serial}")),
            name::DEVICE_ID_1 => text(&serial),
            name::DEVICE_ID_3 if self.profile == Profile::Procedure => text(self.state_text()),
            name::DEVICE_ID_3 => text("Latchkey simulated meter"),
            name::ACTIVE_FIRMWARE => text(self.hardware.metrology.firmware),
            name::MODULE_FIRMWARE => text(self.hardware.comm.firmware),
            name::INVOCATION_COUNTER => Data::DoubleLongUnsigned(self.cipher.client()),
            name::POWER_FAILURES => Data::DoubleLongUnsigned(self.hardware.power_failures),
            name::EVENT_CODE => {
                Data::LongUnsigned(self.events.entries().back().map_or(0, |entry| entry.1))
            }
            name::PROFILE_STATUS => Data::Unsigned(
                self.load_profile
                    .entries()
                    .back()
                    .map_or(0, |entry| entry.1),
            ),
            table::RING_LOG => Data::OctetString(self.ring.tail(RING_TAIL)),
            _ => return None,
        })
    }

    /// The procedure's reading of 0.0.96.1.2.255: the state of the internal disconnect switch.
    fn state_text(&self) -> &'static str {
        match self.hardware.relay.state() {
            relay::ControlState::Connected => "CONNECTED",
            relay::ControlState::Disconnected => "DISCONNECTED",
            relay::ControlState::ReadyForReconnection => "READY_FOR_RECONNECTION",
        }
    }

    fn register(&self, name: Obis, index: i8, now: u64) -> Option<Data> {
        let (value, unit) = match name {
            name::OPERATING_TIME => (self.hardware.uptime_s(now), Unit::SECOND),
            name::IMPORT => (self.import_wh(), Unit::WATT_HOUR),
            _ => return None,
        };
        Some(match index {
            2 => register::VALUE.data(&Data::DoubleLongUnsigned(value)),
            3 => register::SCALER_UNIT.data(&ScalerUnit { scaler: 0, unit }),
            _ => return None,
        })
    }

    /// Rows are found by number, or by what they are sorted by: the clock.
    fn buffer(&self, name: Obis, selection: Option<&Selection>) -> Result<Data, u8> {
        if let Some(Selection::Range { column, .. }) = selection
            && *column != Selection::clock_column()
        {
            return Err(result::TYPE_UNMATCHED);
        }
        let rows = match name {
            name::LOAD_PROFILE => profile::select(
                buffer::LOAD_COLUMNS,
                buffer::load_rows(self.load_profile.entries()),
                selection,
            ),
            _ => profile::select(
                buffer::EVENT_COLUMNS,
                buffer::event_rows(self.events.entries()),
                selection,
            ),
        };
        rows.map(|rows| profile::BUFFER.data(&rows))
            .map_err(|_| result::TYPE_UNMATCHED)
    }

    fn profile(&self, name: Obis, index: i8) -> Option<Data> {
        let (columns, period_s, entries, capacity) = match name {
            name::LOAD_PROFILE => (
                buffer::LOAD_COLUMNS,
                u32::try_from(LoadProfile::PERIOD_S).unwrap_or(0),
                self.load_profile.entries().len(),
                LoadProfile::CAPACITY,
            ),
            // 0: captured when something happens
            _ => (
                buffer::EVENT_COLUMNS,
                0,
                self.events.entries().len(),
                EventLog::CAPACITY,
            ),
        };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Some(match index {
            3 => profile::CAPTURE_OBJECTS.data(&columns.to_vec()),
            4 => profile::CAPTURE_PERIOD.data(&period_s),
            // oldest entry first: entry `entries_in_use` is the newest
            5 => profile::SORT_METHOD.data(&SortMethod::Fifo),
            6 => profile::SORT_OBJECT.data(&CaptureObject::CLOCK),
            7 => profile::ENTRIES_IN_USE.data(&count(entries)),
            8 => profile::PROFILE_ENTRIES.data(&count(capacity)),
            _ => return None,
        })
    }

    /// The clock shows UTC and knows no daylight saving.
    fn clock(&self, index: i8, now: u64) -> Option<Data> {
        Some(match index {
            2 => clock::TIME.data(&rtc::date_time(self.rtc.shows(now))),
            3 => clock::TIME_ZONE.data(&0),
            4 => clock::STATUS.data(&ClockStatus(0)),
            5 => clock::DAYLIGHT_SAVINGS_BEGIN.data(&DateTime::ANY),
            6 => clock::DAYLIGHT_SAVINGS_END.data(&DateTime::ANY),
            7 => clock::DAYLIGHT_SAVINGS_DEVIATION.data(&0),
            8 => clock::DAYLIGHT_SAVINGS_ENABLED.data(&false),
            9 => clock::CLOCK_BASE.data(&ClockBase::InternalCrystal),
            _ => return None,
        })
    }

    /// With the fault `fota-busy`, a transfer of which four blocks have come.
    fn image_transfer(&self, index: i8) -> Option<Data> {
        let busy = self.fault.is(FaultKind::FotaBusy);
        let blocks = Bits {
            count: 64,
            octets: vec![0xF0, 0, 0, 0, 0, 0, 0, 0],
        };
        Some(match index {
            2 => image::IMAGE_BLOCK_SIZE.data(&512),
            3 => image::IMAGE_TRANSFERRED_BLOCKS_STATUS.data(&if busy {
                blocks
            } else {
                Bits::default()
            }),
            4 => image::IMAGE_FIRST_NOT_TRANSFERRED_BLOCK_NUMBER.data(&if busy { 4 } else { 0 }),
            5 => image::IMAGE_TRANSFER_ENABLED.data(&true),
            6 => image::IMAGE_TRANSFER_STATUS.data(&if busy {
                image::Status::Initiated
            } else {
                image::Status::NotInitiated
            }),
            7 => image::IMAGE_TO_ACTIVATE_INFO.data(&Vec::new()),
            _ => return None,
        })
    }

    fn security_setup(&self, index: i8) -> Option<Data> {
        let Terms {
            control,
            ciphered,
            signed,
            ..
        } = self.terms;
        let bits = [
            (
                ciphered && control.is_authenticated(),
                Policy::AUTHENTICATED_REQUEST,
            ),
            (
                ciphered && control.is_authenticated(),
                Policy::AUTHENTICATED_RESPONSE,
            ),
            (
                ciphered && control.is_encrypted(),
                Policy::ENCRYPTED_REQUEST,
            ),
            (
                ciphered && control.is_encrypted(),
                Policy::ENCRYPTED_RESPONSE,
            ),
            (signed, Policy::SIGNED_REQUEST),
            (signed, Policy::SIGNED_RESPONSE),
        ];
        let demanded = bits.into_iter().filter_map(|(is, bit)| is.then_some(bit));
        let policy = demanded.fold(Policy::NONE, Policy::and);
        let title = |octets| Title(Some(SystemTitle::new(octets)));
        Some(match index {
            2 => security::SECURITY_POLICY.data(&policy),
            3 => security::SECURITY_SUITE.data(&self.cipher.suite()),
            4 => security::CLIENT_SYSTEM_TITLE.data(&title(self.titles.client)),
            5 => security::SERVER_SYSTEM_TITLE.data(&title(self.titles.server)),
            6 => security::CERTIFICATES.data(&Vec::new()),
            _ => return None,
        })
    }

    /// What is sent after a boot, and where to; once, without being confirmed.
    fn push_setup(&self, index: i8) -> Option<Data> {
        let objects = table::PUSHED.map(|(class_id, name)| PushObject {
            class_id,
            name,
            attribute: 2,
            data_index: 0,
            part: None,
        });
        let (objects, address) = match self.push.address {
            Some(address) => (objects.to_vec(), address.to_string()),
            None => (Vec::new(), String::new()),
        };
        let destination = Destination {
            transport: Code(u8::from(self.push.is_datagram)),
            destination: Octets(address.into_bytes()),
            message: Code(0),
        };
        Some(match index {
            2 => push::PUSH_OBJECT_LIST.data(&objects),
            3 => push::SEND_DESTINATION_AND_METHOD.data(&destination),
            4 => push::COMMUNICATION_WINDOW.data(&Vec::new()),
            5 => push::RANDOMISATION_START_INTERVAL.data(&0),
            6 => push::NUMBER_OF_RETRIES.data(&0),
            7 => push::REPETITION_DELAY.data(&RepetitionDelay::Fixed(0)),
            _ => return None,
        })
    }

    fn disconnect_control(&self, index: i8) -> Option<Data> {
        let latch = &self.hardware.relay;
        Some(match index {
            2 => relay::OUTPUT_STATE.data(&latch.is_closed()),
            3 => relay::CONTROL_STATE.data(&latch.state()),
            4 => relay::CONTROL_MODE.data(&latch.mode()),
            _ => return None,
        })
    }

    fn association(&self, view: View, index: i8) -> Option<Data> {
        let (client, mechanism) = match view {
            View::Public => (PUBLIC_SAP, Mechanism::None),
            View::Management => (MANAGEMENT_SAP, self.terms.mechanism),
        };
        let ciphered = self.is_ciphered(view);
        let info = ContextInfo {
            conformance: self.terms.conformance,
            max_receive_pdu: self.terms.max_pdu,
            max_send_pdu: self.terms.max_pdu,
            version: 6,
            quality_of_service: 0,
            cyphering_info: Some(association::Secret::default()),
        };
        let partners = Partners {
            client: ClientSap(client),
            server: SERVER_SAP,
        };
        let setup = if ciphered {
            name::SECURITY_SETUP.bytes().to_vec()
        } else {
            Vec::new()
        };
        Some(match index {
            2 => association::OBJECT_LIST.data(&self.object_list(view)),
            3 => association::ASSOCIATED_PARTNERS_ID.data(&partners),
            4 => association::APPLICATION_CONTEXT_NAME
                .data(&ContextName(ApplicationContext::logical_name(ciphered))),
            5 => association::XDLMS_CONTEXT_INFO.data(&info),
            6 => association::AUTHENTICATION_MECHANISM_NAME.data(&MechanismName(mechanism)),
            // or nobody could ask
            8 => association::ASSOCIATION_STATUS.data(&association::Status::Associated),
            9 => association::SECURITY_SETUP_REFERENCE.data(&Octets(setup)),
            _ => return None,
        })
    }

    /// What a client sees, and may do with it, as an association object of version 1 says it.
    fn object_list(&self, view: View) -> Vec<ListedObject> {
        let ciphered = self.is_ciphered(view);
        table::all(self.profile)
            .filter(|object| object.is_visible(view))
            .map(|object| listed(object, view, self.methods(view, object), ciphered))
            .collect()
    }

    /// Whether a client's APDUs must be ciphered.
    pub(super) fn is_ciphered(&self, view: View) -> bool {
        view == View::Management && self.terms.ciphered
    }
}

fn listed(object: &Object, view: View, methods: &[i8], ciphered: bool) -> ListedObject {
    // 1, 2, 3: read, write, both; 4, 5, 6: the same, authenticated
    let authenticated = |mode: u8| if ciphered && mode > 0 { mode + 3 } else { mode };
    let attributes = object.attributes.iter().map(|(index, mode)| {
        let selective =
            object.class_id == profile::CLASS.class_id && *index == profile::BUFFER.index;
        association::AttributeAccess {
            index: *index,
            mode: Code(authenticated(object.mode(view, *mode))),
            selectors: selective.then(|| vec![1, 2]),
        }
    });
    let methods = methods.iter().map(|index| association::MethodAccess {
        index: *index,
        mode: association::MethodMode::Mode(1 + u8::from(ciphered)),
    });
    ListedObject {
        class_id: object.class_id,
        version: object.version,
        name: object.name,
        rights: association::AccessRights {
            attributes: attributes.collect(),
            methods: methods.collect(),
        },
    }
}

/// The vendor's scripts execute methods of a manufacturer's class; those of the one tariff have nothing to switch.
fn script_list(table: Obis) -> Vec<Script> {
    let (count, vendor) = match table {
        table::RESET_SCRIPTS => (3, 1),
        name::GLOBAL_METER_RESET => (1, 0),
        _ => {
            return vec![Script {
                identifier: 1,
                actions: Vec::new(),
            }];
        }
    };
    let script = |number: i8| Script {
        identifier: u16::from(number.unsigned_abs()),
        actions: vec![Action {
            service: Service::Execute,
            class_id: 8192,
            name: Obis::new([0, 0, 199, 0, vendor, 255]),
            index: number,
            parameter: Data::Integer(0),
        }],
    };
    (1..=count).map(script).collect()
}

/// One tariff, all the year and all the day; no other calendar is waiting.
fn calendar(index: i8) -> Option<Data> {
    let (season, week) = (|| Octets(b"ALL".to_vec()), || Octets(b"WEEK".to_vec()));
    Some(match index {
        2 => calendar::CALENDAR_NAME_ACTIVE.data(&Octets(b"SINGLE".to_vec())),
        3 => {
            let [month, day] = [1, 1];
            let start = [0xFF, 0xFF, month, day, 0xFF, 0, 0, 0, 0, 0x80, 0, 0];
            calendar::SEASON_PROFILE_ACTIVE.data(&vec![calendar::Season {
                name: season(),
                start: DateTime(start),
                week: week(),
            }])
        }
        4 => calendar::WEEK_PROFILE_TABLE_ACTIVE.data(&vec![calendar::Week {
            name: week(),
            monday: 1,
            tuesday: 1,
            wednesday: 1,
            thursday: 1,
            friday: 1,
            saturday: 1,
            sunday: 1,
        }]),
        5 => calendar::DAY_PROFILE_TABLE_ACTIVE.data(&vec![calendar::DayProfile {
            id: 1,
            schedule: vec![calendar::DayAction {
                start: Time::MIDNIGHT,
                table: name::TARIFF_SCRIPTS,
                selector: 1,
            }],
        }]),
        6 => calendar::CALENDAR_NAME_PASSIVE.data(&Octets::default()),
        7 => calendar::SEASON_PROFILE_PASSIVE.data(&Vec::new()),
        8 => calendar::WEEK_PROFILE_TABLE_PASSIVE.data(&Vec::new()),
        9 => calendar::DAY_PROFILE_TABLE_PASSIVE.data(&Vec::new()),
        10 => calendar::ACTIVATE_PASSIVE_CALENDAR_TIME.data(&DateTime::ANY),
        _ => return None,
    })
}

/// Nothing moves the relay by itself.
fn no_schedule(index: i8) -> Option<Data> {
    Some(match index {
        2 => schedule::EXECUTED_SCRIPT.data(&Reference::NONE),
        3 => schedule::TYPE.data(&schedule::Kind::Single),
        4 => schedule::EXECUTION_TIME.data(&Vec::new()),
        _ => return None,
    })
}

/// Nothing is watched, and nothing done.
fn no_limit(index: i8) -> Option<Data> {
    let nothing = Monitored {
        class_id: 0,
        name: Obis::new([0; 6]),
        attribute: 0,
    };
    let zero = Data::DoubleLongUnsigned(0);
    Some(match index {
        2 => limiter::MONITORED_VALUE.data(&nothing),
        3 => limiter::THRESHOLD_ACTIVE.data(&zero),
        4 => limiter::THRESHOLD_NORMAL.data(&zero),
        5 => limiter::THRESHOLD_EMERGENCY.data(&zero),
        6 => limiter::MIN_OVER_THRESHOLD_DURATION.data(&0),
        7 => limiter::MIN_UNDER_THRESHOLD_DURATION.data(&0),
        8 => limiter::EMERGENCY_PROFILE.data(&None),
        9 => limiter::EMERGENCY_PROFILE_GROUP_ID_LIST.data(&Vec::new()),
        10 => limiter::EMERGENCY_PROFILE_ACTIVE.data(&false),
        11 => limiter::ACTIONS.data(&Actions {
            over: Reference::NONE,
            under: Reference::NONE,
        }),
        _ => return None,
    })
}

fn text(text: &str) -> Data {
    Data::OctetString(text.as_bytes().to_vec())
}

/// How much of the ring log one GET shows.
const RING_TAIL: usize = 16 * 1024;
