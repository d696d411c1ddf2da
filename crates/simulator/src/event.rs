//! What a meter tells its laboratory: one JSON object per event.

use serde::Serialize;

/// Something that happened in or to one meter. As JSON it is one flat object with the field `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, RFC 3339 with milliseconds, by the host's clock when the meter started plus time elapsed.
    pub time: String,
    /// The meter's address, which is its name in a fleet.
    pub meter: String,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// The meter listens; again after each boot.
    Listening {
        /// The address, with the port that was really bound.
        address: String,
        /// The name of the meter's profile.
        profile: &'static str,
    },
    /// A client connected.
    Connected {
        /// Its address.
        peer: String,
    },
    /// A connection ended.
    Disconnected {
        /// Why.
        reason: &'static str,
    },
    /// An association was opened, refused or released.
    Association {
        /// `opened`, `refused` or `released`.
        outcome: &'static str,
        /// Client SAP, if it is known.
        client_sap: u16,
        /// One line for a person.
        detail: String,
    },
    /// A method was executed.
    Action {
        /// COSEM class.
        class: u16,
        /// Logical name, dotted.
        obis: String,
        /// Method.
        method: i8,
    },
    /// An attribute was written.
    Set {
        /// COSEM class.
        class: u16,
        /// Logical name, dotted.
        obis: String,
        /// Attribute.
        attribute: i8,
    },
    /// A request was answered with an error; nothing was executed.
    Refused {
        /// `get`, `set` or `action`.
        service: &'static str,
        /// COSEM class.
        class: u16,
        /// Logical name, dotted.
        obis: String,
        /// Attribute or method.
        index: i8,
        /// Data-Access-Result or Action-Result.
        result: u8,
    },
    /// The relay: at the start, after each boot and whenever it moved.
    Relay {
        /// Whether the premises are supplied.
        output: bool,
        /// `disconnected`, `connected` or `ready_for_reconnection`.
        control_state: &'static str,
        /// Control mode, 0..6.
        control_mode: u8,
        /// Whether it moved.
        moved: bool,
        /// Why it is told.
        cause: &'static str,
    },
    /// The counters that are evidence.
    Counters {
        /// Invocation counter of the last accepted APDU of the client.
        client: u32,
        /// Invocation counter the meter will use next.
        server: u32,
        /// Power failures.
        power_failures: u32,
    },
    /// A reset was executed; told once per reset, before the boards go down.
    Reset {
        /// `soft`, `warm` or `cold`.
        tier: &'static str,
        /// How many resets this process has executed.
        executed: u32,
    },
    /// A board starts, tests itself or runs again.
    Boot {
        /// The tier that caused it.
        tier: &'static str,
        /// `metrology` or `comm`.
        board: &'static str,
        /// `bootloader`, `post`, `running` or `panic`.
        phase: &'static str,
    },
    /// The metrological LED.
    Led {
        /// `slow_pulse`, `solid_red` or `rapid_stutter`.
        state: &'static str,
    },
    /// An entry was added to the standard event log.
    Logged {
        /// Event code.
        code: u16,
    },
    /// The meter is on the mesh again.
    Rejoin {
        /// Milliseconds of silence.
        silent_ms: u64,
    },
    /// Something was thrown away, on purpose or because it was bad.
    Dropped {
        /// What: `request`, `answer`, `connection` or `frame`.
        what: &'static str,
        /// Why.
        why: String,
    },
}
