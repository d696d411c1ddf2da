//! The values of attributes.

use dlms::{Data, Selection};

use crate::{
    Auth, Profile,
    device::Device,
    fault::FaultKind,
    logs::{EventLog, LoadProfile},
    objects::{
        CONFORMANCE, MAX_PDU, buffer, result,
        table::{self, Object},
    },
    physics::ControlState,
    rtc,
};

impl Device {
    /// The value of a readable attribute.
    pub(super) fn read(
        &self,
        object: &Object,
        index: i8,
        selection: Option<&Selection>,
        now: u64,
    ) -> Result<Data, u8> {
        if index == 1 {
            return Ok(octets(&object.name));
        }
        match object.class_id {
            1 => self.data_value(object.name),
            3 => Ok(self.register(object.name, index, now)),
            7 => self.profile_generic(object.name, index, selection),
            8 => Ok(self.clock(index, now)),
            9 => Ok(scripts(object.name)),
            15 => Ok(self.association(index)),
            18 => Ok(if index == 5 {
                Data::Boolean(true)
            } else {
                Data::Enum(self.image_status())
            }),
            64 => Ok(self.security_setup(index)),
            70 => Ok(self.disconnect_control(index)),
            _ => Err(result::OBJECT_UNDEFINED),
        }
    }

    fn data_value(&self, name: [u8; 6]) -> Result<Data, u8> {
        let serial = hex::encode_upper(self.titles.server.get(3..).unwrap_or_default());
        Ok(match name {
            // manufacturer and serial number: 3 + 10 characters, unique as the system title is
            table::LOGICAL_DEVICE_NAME => text(&format!("LKM{serial}")),
            table::DEVICE_ID_1 => text(&serial),
            table::DEVICE_ID_3 if self.profile == Profile::Procedure => text(self.state_text()),
            table::DEVICE_ID_3 => text("Latchkey simulated meter"),
            table::METROLOGY_FIRMWARE => text(self.hardware.metrology.firmware),
            table::COMM_FIRMWARE => text(self.hardware.comm.firmware),
            table::INVOCATION_COUNTER => Data::DoubleLongUnsigned(self.counters.client()),
            table::POWER_FAILURES => Data::DoubleLongUnsigned(self.hardware.power_failures),
            table::EVENT_CODE => {
                Data::LongUnsigned(self.events.entries().back().map_or(0, |entry| entry.1))
            }
            table::PROFILE_STATUS => Data::Unsigned(
                self.load_profile
                    .entries()
                    .back()
                    .map_or(0, |entry| entry.1),
            ),
            table::RING_LOG => Data::OctetString(self.ring.tail(RING_TAIL)),
            _ => return Err(result::OBJECT_UNDEFINED),
        })
    }

    /// The procedure's reading of 0.0.96.1.2.255: the state of the internal disconnect switch.
    fn state_text(&self) -> &'static str {
        match self.hardware.relay.state() {
            ControlState::Connected => "CONNECTED",
            ControlState::Disconnected => "DISCONNECTED",
            ControlState::ReadyForReconnection => "READY_FOR_RECONNECTION",
        }
    }

    fn register(&self, name: [u8; 6], index: i8, now: u64) -> Data {
        let (value, unit) = match name {
            table::UPTIME => (self.hardware.uptime_s(now), UNIT_SECOND),
            _ => (self.import_wh(), UNIT_WATT_HOUR),
        };
        match index {
            2 => Data::DoubleLongUnsigned(value),
            _ => Data::Structure(vec![Data::Integer(0), Data::Enum(unit)]),
        }
    }

    fn profile_generic(
        &self,
        name: [u8; 6],
        index: i8,
        selection: Option<&Selection>,
    ) -> Result<Data, u8> {
        let load = name == table::LOAD_PROFILE;
        let count =
            |count: usize| Data::DoubleLongUnsigned(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(match index {
            2 if load => buffer::load_profile(self.load_profile.entries(), selection)?,
            2 => buffer::event_log(self.events.entries(), selection)?,
            3 if load => captured(buffer::LOAD_COLUMNS),
            3 => captured(buffer::EVENT_COLUMNS),
            4 => Data::DoubleLongUnsigned(if load {
                u32::try_from(LoadProfile::PERIOD_S).unwrap_or(0)
            } else {
                0 // captured when something happens
            }),
            5 => Data::Enum(SORT_FIFO),
            6 => buffer::descriptor(&(8, table::CLOCK)),
            7 if load => count(self.load_profile.entries().len()),
            7 => count(self.events.entries().len()),
            _ if load => count(LoadProfile::CAPACITY),
            _ => count(EventLog::CAPACITY),
        })
    }

    fn clock(&self, index: i8, now: u64) -> Data {
        match index {
            2 => octets(&rtc::date_time(self.rtc.shows(now))),
            3 => Data::Long(0),
            _ => Data::Unsigned(0),
        }
    }

    fn image_status(&self) -> u8 {
        // 1: image transfer initiated
        u8::from(self.fault.is(FaultKind::FotaBusy))
    }

    fn security_setup(&self, index: i8) -> Data {
        match index {
            // version 1: bits 2 and 3 ask for authenticated and encrypted requests, 5 and 6 for such responses
            2 => Data::Enum(if self.auth == Auth::Hls5 { 0x6C } else { 0 }),
            3 => Data::Enum(0),
            4 => octets(&self.titles.client),
            _ => octets(&self.titles.server),
        }
    }

    fn disconnect_control(&self, index: i8) -> Data {
        let relay = &self.hardware.relay;
        match index {
            2 => Data::Boolean(relay.is_closed()),
            3 => Data::Enum(relay.state().code()),
            _ => Data::Enum(relay.mode()),
        }
    }

    fn association(&self, index: i8) -> Data {
        let [_, conformance @ ..] = CONFORMANCE.bits().to_be_bytes();
        let (context, mechanism) = match self.auth {
            Auth::None => (1, 0),
            Auth::Low => (1, 1),
            Auth::Hls5 => (3, 5),
        };
        match index {
            2 => Data::Array(table::all(self.profile).map(list_element).collect()),
            3 => Data::Structure(vec![Data::Integer(1), Data::LongUnsigned(1)]),
            4 => octets(&[0x60, 0x85, 0x74, 0x05, 0x08, 0x01, context]),
            5 => Data::Structure(vec![
                Data::BitString {
                    bits: 24,
                    bytes: conformance.to_vec(),
                },
                Data::LongUnsigned(MAX_PDU),
                Data::LongUnsigned(MAX_PDU),
                Data::Unsigned(6),
                Data::Integer(0),
                Data::OctetString(Vec::new()),
            ]),
            6 => octets(&[0x60, 0x85, 0x74, 0x05, 0x08, 0x02, mechanism]),
            8 => Data::Enum(2), // associated, or nobody could ask
            _ => octets(&table::SECURITY_SETUP),
        }
    }
}

/// One element of the object list (class 15, attribute 2).
fn list_element(object: &Object) -> Data {
    let attributes = object.attributes.iter().map(|(index, mode)| {
        let selectors = if object.class_id == 7 && *index == 2 {
            Data::Array(vec![Data::Integer(1), Data::Integer(2)])
        } else {
            Data::Null
        };
        Data::Structure(vec![Data::Integer(*index), Data::Enum(*mode), selectors])
    });
    let methods = object
        .methods
        .iter()
        .map(|index| Data::Structure(vec![Data::Integer(*index), Data::Enum(1)]));
    Data::Structure(vec![
        Data::LongUnsigned(object.class_id),
        Data::Unsigned(object.version),
        octets(&object.name),
        Data::Structure(vec![
            Data::Array(attributes.collect()),
            Data::Array(methods.collect()),
        ]),
    ])
}

fn captured(columns: &[buffer::Column]) -> Data {
    Data::Array(columns.iter().map(buffer::descriptor).collect())
}

/// Scripts (class 9, attribute 2). The vendor's scripts execute methods of a manufacturer's class.
fn scripts(name: [u8; 6]) -> Data {
    let ids = if name == table::RESET_SCRIPTS {
        1..=3_u16
    } else {
        1..=1
    };
    let vendor = [0, 0, 199, 0, u8::from(name == table::RESET_SCRIPTS), 255];
    let elements = ids.map(|id| {
        let action = Data::Structure(vec![
            Data::Enum(2),
            Data::LongUnsigned(8192),
            octets(&vendor),
            Data::Integer(i8::try_from(id).unwrap_or(0)),
            Data::Integer(0),
        ]);
        Data::Structure(vec![Data::LongUnsigned(id), Data::Array(vec![action])])
    });
    Data::Array(elements.collect())
}

fn octets(octets: &[u8]) -> Data {
    Data::OctetString(octets.to_vec())
}

fn text(text: &str) -> Data {
    octets(text.as_bytes())
}

const UNIT_SECOND: u8 = 7;
const UNIT_WATT_HOUR: u8 = 30;
/// Oldest entry first: entry `entries_in_use` is the newest.
const SORT_FIFO: u8 = 1;
/// How much of the ring log one GET shows.
const RING_TAIL: usize = 16 * 1024;
