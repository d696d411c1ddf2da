//! Logical names of well-known objects (IEC 62056-6-1). `x` in a comment: the value group that numbers instances.

use crate::obis::Obis;

const fn name(a: u8, b: u8, c: u8, d: u8, e: u8) -> Obis {
    Obis::new([a, b, c, d, e, 255])
}

/// Class 8: the clock.
pub const CLOCK: Obis = name(0, 0, 1, 0, 0);
/// Class 1: the logical device name: three letters of the manufacturer, then what it likes; 16 octets at most.
pub const LOGICAL_DEVICE_NAME: Obis = name(0, 0, 42, 0, 0);
/// Class 1: device ID 1; the others follow in E, to 9.
pub const DEVICE_ID_1: Obis = name(0, 0, 96, 1, 0);
/// Class 1: device ID 3. It has no method: what the reset procedure uses it for is a manufacturer's own.
pub const DEVICE_ID_3: Obis = name(0, 0, 96, 1, 2);
/// Class 1: the active firmware of the meter.
pub const ACTIVE_FIRMWARE: Obis = name(1, 0, 0, 2, 0);
/// Class 1: the signature of the active firmware.
pub const ACTIVE_FIRMWARE_SIGNATURE: Obis = name(1, 0, 0, 2, 8);
/// Class 1: the firmware of the communication module.
pub const MODULE_FIRMWARE: Obis = name(1, 2, 0, 2, 0);
/// Class 70: the disconnect control.
pub const DISCONNECT_CONTROL: Obis = name(0, 0, 96, 3, 10);
/// Class 9: the scripts of the disconnect control.
pub const DISCONNECT_SCRIPTS: Obis = name(0, 0, 10, 0, 106);
/// Class 22: when the disconnect control is moved.
pub const DISCONNECT_SCHEDULE: Obis = name(0, 0, 15, 0, 1);
/// Class 71: the limiter.
pub const LIMITER: Obis = name(0, 0, 17, 0, 0);
/// Class 9: the global meter reset. It wipes data: never to be executed.
pub const GLOBAL_METER_RESET: Obis = name(0, 0, 10, 0, 0);
/// Class 9: the end of a billing period. Never to be executed.
pub const MDI_RESET: Obis = name(0, 0, 10, 0, 1);
/// Class 22: when a billing period ends.
pub const BILLING_SCHEDULE: Obis = name(0, 0, 15, 0, 0);
/// Class 9: the scripts of the tariffs, which the activity calendar executes.
pub const TARIFF_SCRIPTS: Obis = name(0, 0, 10, 0, 100);
/// Class 9: the activation of a firmware image.
pub const IMAGE_ACTIVATION_SCRIPTS: Obis = name(0, 0, 10, 0, 107);
/// Class 9: what sends a push.
pub const PUSH_SCRIPTS: Obis = name(0, 0, 10, 0, 108);
/// Class 22: when a firmware image is activated.
pub const IMAGE_ACTIVATION_SCHEDULE: Obis = name(0, 0, 15, 0, 2);
/// Class 20: the activity calendar.
pub const ACTIVITY_CALENDAR: Obis = name(0, 0, 13, 0, 0);
/// Class 18: the image transfer.
pub const IMAGE_TRANSFER: Obis = name(0, 0, 44, 0, 0);
/// Class 40: the push setup; x in E.
pub const PUSH_SETUP: Obis = name(0, 0, 25, 9, 0);
/// Class 64: the security setup; x in E.
pub const SECURITY_SETUP: Obis = name(0, 0, 43, 0, 0);
/// Class 1: the invocation counter of the security setup with the same E.
pub const INVOCATION_COUNTER: Obis = name(0, 0, 43, 1, 0);
/// Class 15: the current association.
pub const CURRENT_ASSOCIATION: Obis = Obis::CURRENT_ASSOCIATION;
/// Class 7: the standard event log.
pub const EVENT_LOG: Obis = name(0, 0, 99, 98, 0);
/// Class 7: the event log of fraud.
pub const FRAUD_LOG: Obis = name(0, 0, 99, 98, 1);
/// Class 7: the event log of the disconnector.
pub const DISCONNECTOR_LOG: Obis = name(0, 0, 99, 98, 2);
/// Class 1: the code of the latest event of the standard log; x in E.
pub const EVENT_CODE: Obis = name(0, 0, 96, 11, 0);
/// Class 7: the load profile with its short period.
pub const LOAD_PROFILE: Obis = name(1, 0, 99, 1, 0);
/// Class 7: the daily load profile.
pub const DAILY_PROFILE: Obis = name(1, 0, 99, 2, 0);
/// Class 1: the status that a load profile captures.
pub const PROFILE_STATUS: Obis = name(0, 0, 96, 10, 1);
/// Class 3: imported active energy, all tariffs.
pub const IMPORT: Obis = name(1, 0, 1, 8, 0);
/// Class 3: imported active power.
pub const IMPORT_POWER: Obis = name(1, 0, 1, 7, 0);
/// Class 1: how often the power failed in any phase.
pub const POWER_FAILURES: Obis = name(0, 0, 96, 7, 21);
/// Class 1: how often the power failed for long.
pub const LONG_POWER_FAILURES: Obis = name(0, 0, 96, 7, 9);
/// Class 3: time of operation.
pub const OPERATING_TIME: Obis = name(0, 0, 96, 8, 0);
/// Class 1 or 3: the error register.
pub const ERROR_REGISTER: Obis = name(0, 0, 97, 97, 0);
/// Class 1 or 3: the alarm register; x in E.
pub const ALARM_REGISTER: Obis = name(0, 0, 97, 98, 0);
/// Class 41: ports of TCP and UDP.
pub const TCP_UDP_SETUP: Obis = name(0, 0, 25, 0, 0);
/// Class 44: PPP.
pub const PPP_SETUP: Obis = name(0, 0, 25, 3, 0);
/// Class 47: the GSM modem and its signal.
pub const GSM_DIAGNOSTIC: Obis = name(0, 0, 25, 6, 0);
