//! Result codes that a meter answers with, their names, and what to do next.

use core::fmt;

/// What a result code means for another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It worked: there is nothing to retry.
    Done,
    /// The meter is busy: the same command again in fifteen minutes.
    Later,
    /// Find out first what the meter did; then once more at most.
    Reconcile,
    /// The transfer broke: a fresh association, then at once.
    Reassociate,
    /// It will never work: mend the profile, the rights or the command.
    Never,
}

macro_rules! result_code {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $constant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u8);

        impl $name {
            $($(#[$item])* pub const $constant: Self = Self($code);)*

            /// From the code on the wire; a code the standard does not name is kept.
            #[must_use]
            pub const fn new(code: u8) -> Self {
                Self(code)
            }

            /// The code on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                self.0
            }

            /// Whether it is success.
            #[must_use]
            pub const fn is_success(self) -> bool {
                self.0 == 0
            }

            /// The name the standard gives it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown-result",
                }
            }

            /// What it means for another attempt.
            #[must_use]
            pub const fn retry(self) -> Retry {
                retry(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({})", self.name(), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}, {})"), self.0, self.name())
            }
        }
    };
}

result_code! {
    /// Data-Access-Result of a GET or a SET (IEC 62056-5-3).
    DataAccessResult {
        /// Done.
        SUCCESS = 0, "success";
        /// The hardware failed.
        HARDWARE_FAULT = 1, "hardware-fault";
        /// Busy; try later.
        TEMPORARY_FAILURE = 2, "temporary-failure";
        /// The client has no right to it.
        READ_WRITE_DENIED = 3, "read-write-denied";
        /// There is no such object.
        OBJECT_UNDEFINED = 4, "object-undefined";
        /// The object is of another class.
        OBJECT_CLASS_INCONSISTENT = 9, "object-class-inconsistent";
        /// The object cannot be reached.
        OBJECT_UNAVAILABLE = 11, "object-unavailable";
        /// The value is of another type.
        TYPE_UNMATCHED = 12, "type-unmatched";
        /// The access is beyond the client's scope.
        SCOPE_OF_ACCESS_VIOLATED = 13, "scope-of-access-violated";
        /// The block is not there.
        DATA_BLOCK_UNAVAILABLE = 14, "data-block-unavailable";
        /// The long GET was given up.
        LONG_GET_ABORTED = 15, "long-get-aborted";
        /// No long GET is running.
        NO_LONG_GET_IN_PROGRESS = 16, "no-long-get-in-progress";
        /// The long SET was given up.
        LONG_SET_ABORTED = 17, "long-set-aborted";
        /// No long SET is running.
        NO_LONG_SET_IN_PROGRESS = 18, "no-long-set-in-progress";
        /// The block number is not the next.
        DATA_BLOCK_NUMBER_INVALID = 19, "data-block-number-invalid";
        /// Some other reason.
        OTHER_REASON = 250, "other-reason";
    }
}

result_code! {
    /// Action-Result of an ACTION (IEC 62056-5-3).
    ActionResult {
        /// Done.
        SUCCESS = 0, "success";
        /// The hardware failed.
        HARDWARE_FAULT = 1, "hardware-fault";
        /// Busy; try later.
        TEMPORARY_FAILURE = 2, "temporary-failure";
        /// The client has no right to it.
        READ_WRITE_DENIED = 3, "read-write-denied";
        /// There is no such object.
        OBJECT_UNDEFINED = 4, "object-undefined";
        /// The object is of another class.
        OBJECT_CLASS_INCONSISTENT = 9, "object-class-inconsistent";
        /// The object cannot be reached.
        OBJECT_UNAVAILABLE = 11, "object-unavailable";
        /// The parameter is of another type.
        TYPE_UNMATCHED = 12, "type-unmatched";
        /// The access is beyond the client's scope.
        SCOPE_OF_ACCESS_VIOLATED = 13, "scope-of-access-violated";
        /// The block is not there.
        DATA_BLOCK_UNAVAILABLE = 14, "data-block-unavailable";
        /// The long ACTION was given up.
        LONG_ACTION_ABORTED = 15, "long-action-aborted";
        /// No long ACTION is running.
        NO_LONG_ACTION_IN_PROGRESS = 16, "no-long-action-in-progress";
        /// Some other reason.
        OTHER_REASON = 250, "other-reason";
    }
}

/// A code that nobody named may hide an execution: reconcile, as for a hardware fault.
const fn retry(code: u8) -> Retry {
    match code {
        0 => Retry::Done,
        2 => Retry::Later,
        3 | 4 | 9 | 11 | 12 | 13 => Retry::Never,
        14..=19 => Retry::Reassociate,
        _ => Retry::Reconcile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn every_code_has_its_class() {
        let table = [
            (0, Retry::Done),
            (1, Retry::Reconcile),
            (2, Retry::Later),
            (3, Retry::Never),
            (4, Retry::Never),
            (9, Retry::Never),
            (11, Retry::Never),
            (12, Retry::Never),
            (13, Retry::Never),
            (14, Retry::Reassociate),
            (19, Retry::Reassociate),
            (250, Retry::Reconcile),
            (77, Retry::Reconcile),
        ];
        for (code, class) in table {
            assert_eq!(ActionResult::new(code).retry(), class, "{code}");
            assert_eq!(DataAccessResult::new(code).retry(), class, "{code}");
        }
        assert_eq!(ActionResult::new(3).to_string(), "read-write-denied (3)");
        assert_eq!(DataAccessResult::new(77).name(), "unknown-result");
    }
}
