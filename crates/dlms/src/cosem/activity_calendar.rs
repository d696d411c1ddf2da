//! Class 20, Activity calendar: seasons, weeks and days, and the script that each time of a day executes.

use alloc::vec::Vec;

use super::date_time::{DateTime, Time};
use super::value::{Octets, Zero};
use crate::obis::Obis;

class! {
    20, "Activity calendar";
    attributes {
        /// The name of the calendar in use.
        2 CALENDAR_NAME_ACTIVE "calendar_name_active": Octets;
        /// The seasons in use.
        3 SEASON_PROFILE_ACTIVE "season_profile_active": Vec<Season>;
        /// The weeks in use.
        4 WEEK_PROFILE_TABLE_ACTIVE "week_profile_table_active": Vec<Week>;
        /// The days in use.
        5 DAY_PROFILE_TABLE_ACTIVE "day_profile_table_active": Vec<DayProfile>;
        /// The name of the next calendar.
        6 CALENDAR_NAME_PASSIVE "calendar_name_passive": Octets;
        /// The next seasons.
        7 SEASON_PROFILE_PASSIVE "season_profile_passive": Vec<Season>;
        /// The next weeks.
        8 WEEK_PROFILE_TABLE_PASSIVE "week_profile_table_passive": Vec<Week>;
        /// The next days.
        9 DAY_PROFILE_TABLE_PASSIVE "day_profile_table_passive": Vec<DayProfile>;
        /// When the next calendar comes into use.
        10 ACTIVATE_PASSIVE_CALENDAR_TIME "activate_passive_calendar_time": DateTime;
    }
    methods {
        /// Brings the next calendar into use at once.
        1 ACTIVATE_PASSIVE_CALENDAR "activate_passive_calendar": Zero;
    }
}

structure! {
    /// A season.
    pub struct Season as "structure of season_profile_name, season_start and week_name" {
        /// Its name.
        name: Octets,
        /// When it begins.
        start: DateTime,
        /// The week that repeats in it.
        week: Octets,
    }
}

structure! {
    /// A week: the day profile of each day.
    pub struct Week as "structure of week_profile_name and seven day ids" {
        /// Its name.
        name: Octets,
        /// Day id of Monday.
        monday: u8,
        /// Day id of Tuesday.
        tuesday: u8,
        /// Day id of Wednesday.
        wednesday: u8,
        /// Day id of Thursday.
        thursday: u8,
        /// Day id of Friday.
        friday: u8,
        /// Day id of Saturday.
        saturday: u8,
        /// Day id of Sunday.
        sunday: u8,
    }
}

structure! {
    /// A day.
    pub struct DayProfile as "structure of day_id and day_schedule" {
        /// Its id.
        id: u8,
        /// What it executes.
        schedule: Vec<DayAction>,
    }
}

structure! {
    /// What a time of a day executes.
    pub struct DayAction as "structure of start_time, script_logical_name and script_selector" {
        /// When.
        start: Time,
        /// The script table.
        table: Obis,
        /// The number of the script.
        selector: u16,
    }
}
