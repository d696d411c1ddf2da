//! Class 71, Limiter: watches a value and executes scripts when it crosses a threshold. It can move a relay.

use alloc::vec::Vec;

use super::date_time::DateTime;
use super::script_table::Reference;
use crate::data::Data;
use crate::obis::Obis;

class! {
    71, "Limiter";
    attributes {
        /// What is watched; class 0 is nothing.
        2 MONITORED_VALUE "monitored_value": Monitored;
        /// The threshold now, in the type of the monitored value.
        3 THRESHOLD_ACTIVE "threshold_active": Data;
        /// The threshold in normal operation.
        4 THRESHOLD_NORMAL "threshold_normal": Data;
        /// The threshold in an emergency.
        5 THRESHOLD_EMERGENCY "threshold_emergency": Data;
        /// Seconds above the threshold before something is done.
        6 MIN_OVER_THRESHOLD_DURATION "min_over_threshold_duration": u32;
        /// Seconds below the threshold before something is done.
        7 MIN_UNDER_THRESHOLD_DURATION "min_under_threshold_duration": u32;
        /// The emergency.
        8 EMERGENCY_PROFILE "emergency_profile": Option<Emergency>;
        /// The emergencies that concern this meter.
        9 EMERGENCY_PROFILE_GROUP_ID_LIST "emergency_profile_group_id_list": Vec<u16>;
        /// Whether there is an emergency.
        10 EMERGENCY_PROFILE_ACTIVE "emergency_profile_active": bool;
        /// What is done.
        11 ACTIONS "actions": Actions;
    }
    methods {}
}

structure! {
    /// An attribute that is watched.
    pub struct Monitored as "structure of class_id, logical_name and attribute_index" {
        /// Its class.
        class_id: u16,
        /// Its object.
        name: Obis,
        /// Its index.
        attribute: i8,
    }
}

structure! {
    /// An emergency.
    pub struct Emergency as "structure of emergency_profile_id, activation_time and duration" {
        /// Its id, to be in the list of group ids.
        id: u16,
        /// When it begins.
        activation: DateTime,
        /// Its seconds.
        duration_s: u32,
    }
}

structure! {
    /// What is done at a threshold.
    pub struct Actions as "structure of action_over_threshold and action_under_threshold" {
        /// On the way up.
        over: Reference,
        /// On the way down.
        under: Reference,
    }
}
