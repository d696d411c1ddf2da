//! Class 8, Clock.

pub use super::date_time::ClockStatus;
use super::date_time::DateTime;
use super::value::Zero;

class! {
    8, "Clock";
    attributes {
        /// Local date and time, with the deviation to UTC.
        2 TIME "time": DateTime;
        /// Minutes from local time without daylight saving to UTC.
        3 TIME_ZONE "time_zone": i16;
        /// Whether the time can be trusted.
        4 STATUS "status": ClockStatus;
        /// When daylight saving begins.
        5 DAYLIGHT_SAVINGS_BEGIN "daylight_savings_begin": DateTime;
        /// When daylight saving ends.
        6 DAYLIGHT_SAVINGS_END "daylight_savings_end": DateTime;
        /// Minutes by which daylight saving moves the time.
        7 DAYLIGHT_SAVINGS_DEVIATION "daylight_savings_deviation": i8;
        /// Whether daylight saving is used.
        8 DAYLIGHT_SAVINGS_ENABLED "daylight_savings_enabled": bool;
        /// Where the time comes from.
        9 CLOCK_BASE "clock_base": ClockBase;
    }
    methods {
        /// Moves the time to the nearest quarter of an hour.
        1 ADJUST_TO_QUARTER "adjust_to_quarter": Zero;
        /// Moves the time to the nearest start of a measuring period.
        2 ADJUST_TO_MEASURING_PERIOD "adjust_to_measuring_period": Zero;
        /// Moves the time to the nearest minute.
        3 ADJUST_TO_MINUTE "adjust_to_minute": Zero;
        /// Moves the time to the one preset by method 5.
        4 ADJUST_TO_PRESET_TIME "adjust_to_preset_time": Zero;
        /// Presets a time.
        5 PRESET_ADJUSTING_TIME "preset_adjusting_time": Preset;
        /// Moves the time by seconds, -900 to 900.
        6 SHIFT_TIME "shift_time": i16;
    }
}

structure! {
    /// A time to move to, and when that may be asked for.
    pub struct Preset as "structure of preset_time, validity_interval_start and validity_interval_end" {
        /// The time.
        preset_time: DateTime,
        /// From when on it is valid.
        validity_interval_start: DateTime,
        /// Until when it is valid.
        validity_interval_end: DateTime,
    }
}

codes! {
    /// Where the time comes from.
    pub enum ClockBase as "enum 0..5", lenient {
        /// Not defined.
        NotDefined = 0, "not defined";
        /// A crystal inside.
        InternalCrystal = 1, "internal crystal";
        /// The mains, 50 Hz.
        Mains50Hz = 2, "mains frequency 50 Hz";
        /// The mains, 60 Hz.
        Mains60Hz = 3, "mains frequency 60 Hz";
        /// GPS.
        Gps = 4, "GPS";
        /// Radio.
        RadioControlled = 5, "radio controlled";
    }
}
