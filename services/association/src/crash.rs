//! The lines at which a test may kill the process: around the one irreversible act of this service, the socket write of
//! a command. The `association.*` points are passed by every command, the `association.act.*` points only by a SET or
//! an ACTION.

use crate::command::Kind;

/// Every crash point of this service, for the test that walks them all.
pub const CRASH_POINTS: &[&str] = &[
    "association.before_send",
    "association.after_send",
    "association.after_answer",
    "association.act.before_send",
    "association.act.after_send",
    "association.act.after_answer",
];

/// The command is ciphered; no octet of it has left.
pub(crate) fn before_send(kind: Kind) {
    kit::crash_point("association.before_send");
    if kind == Kind::Act {
        kit::crash_point("association.act.before_send");
    }
}

/// The command was handed to the socket; nobody has been told.
pub(crate) fn after_send(kind: Kind) {
    kit::crash_point("association.after_send");
    if kind == Kind::Act {
        kit::crash_point("association.act.after_send");
    }
}

/// The answer is here; nobody has been told.
pub(crate) fn after_answer(kind: Kind) {
    kit::crash_point("association.after_answer");
    if kind == Kind::Act {
        kit::crash_point("association.act.after_answer");
    }
}
