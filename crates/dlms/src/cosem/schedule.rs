//! Class 22, Single action schedule: one script, at given times.

use alloc::vec::Vec;

use super::date_time::{Date, Time};
use super::script_table::Reference;

class! {
    22, "Single action schedule";
    attributes {
        /// The script that is executed.
        2 EXECUTED_SCRIPT "executed_script": Reference;
        /// What the execution times may look like.
        3 TYPE "type": Kind;
        /// When it is executed.
        4 EXECUTION_TIME "execution_time": Vec<Execution>;
    }
    methods {}
}

structure! {
    /// One execution, or with an open date a repeated one.
    pub struct Execution as "structure of time and date" {
        /// The time of day.
        time: Time,
        /// The date.
        date: Date,
    }
}

codes! {
    /// What execution times may look like.
    pub enum Kind as "enum 1..5", lenient {
        /// One execution; its date may be open.
        Single = 1, "one time, wildcards in the date";
        /// Some, all at the same time of day; dates are given in full.
        SameTime = 2, "same times, no wildcards";
        /// Some, all at the same time of day; dates may be open.
        SameTimeOpenDate = 3, "same times, wildcards in the date";
        /// Some; dates are given in full.
        AnyTime = 4, "different times, no wildcards";
        /// Some; dates may be open.
        AnyTimeOpenDate = 5, "different times, wildcards in the date";
    }
}
