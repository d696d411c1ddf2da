//! Class 70, Disconnect control: whether the premises are supplied. Latchkey reads it and never moves it.

use super::value::Zero;

class! {
    70, "Disconnect control";
    attributes {
        /// The physical state of the relay: true is closed, the premises are supplied.
        2 OUTPUT_STATE "output_state": bool;
        /// The logical state.
        3 CONTROL_STATE "control_state": ControlState;
        /// What may move it, and how.
        4 CONTROL_MODE "control_mode": ControlMode;
    }
    methods {
        /// Opens the relay.
        1 REMOTE_DISCONNECT "remote_disconnect": Zero;
        /// Closes the relay, or lets somebody close it by hand: that depends on the mode.
        2 REMOTE_RECONNECT "remote_reconnect": Zero;
    }
}

codes! {
    /// The logical state. Read strictly.
    pub enum ControlState as "enum 0..2", strict {
        /// Open.
        Disconnected = 0, "disconnected";
        /// Closed.
        Connected = 1, "connected";
        /// Open; somebody on the spot may close it.
        ReadyForReconnection = 2, "ready_for_reconnection";
    }
}

codes! {
    /// What may move the relay, and how (Blue Book 4.5.8, table of control modes). Read strictly.
    pub enum ControlMode as "enum 0..7", strict {
        /// Nothing: it is always connected.
        None = 0, "none";
        /// Opened remotely, by hand and locally; reconnected by hand after a remote release.
        Mode1 = 1, "remote, manual and local disconnection; released reconnection";
        /// Opened remotely, by hand and locally; reconnected remotely or by hand.
        Mode2 = 2, "remote, manual and local disconnection; direct reconnection";
        /// Opened remotely and locally; reconnected by hand after a remote release.
        Mode3 = 3, "remote and local disconnection; released reconnection";
        /// Opened remotely and locally; reconnected remotely or by hand.
        Mode4 = 4, "remote and local disconnection; direct reconnection";
        /// Mode 1, and the meter may close it itself.
        Mode5 = 5, "remote, manual and local disconnection; released or local reconnection";
        /// Mode 3, and the meter may close it itself.
        Mode6 = 6, "remote and local disconnection; released or local reconnection";
        /// Of version 1 of the class: opened remotely and locally; reconnected remotely, by hand or by the meter.
        Mode7 = 7, "remote and local disconnection; direct or local reconnection";
    }
}

impl ControlMode {
    /// The state after `remote_disconnect`.
    #[must_use]
    pub const fn after_disconnect(self, state: ControlState) -> ControlState {
        match self {
            Self::None => state,
            Self::Mode1
            | Self::Mode2
            | Self::Mode3
            | Self::Mode4
            | Self::Mode5
            | Self::Mode6
            | Self::Mode7 => ControlState::Disconnected,
        }
    }

    /// The state after `remote_reconnect`: connected at once in modes 2, 4 and 7; in the others somebody has to push a
    /// button.
    #[must_use]
    pub const fn after_reconnect(self, state: ControlState) -> ControlState {
        match (self, state) {
            (Self::None, state) => state,
            (Self::Mode2 | Self::Mode4 | Self::Mode7, _) | (_, ControlState::Connected) => {
                ControlState::Connected
            }
            (
                Self::Mode1 | Self::Mode3 | Self::Mode5 | Self::Mode6,
                ControlState::Disconnected | ControlState::ReadyForReconnection,
            ) => ControlState::ReadyForReconnection,
        }
    }
}
