//! The relay: a latch moved by pulses, and the COSEM control state above it (class 70).

use serde::{Deserialize, Serialize};

/// Class 70, attribute 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ControlState {
    Disconnected,
    Connected,
    ReadyForReconnection,
}

impl ControlState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connected => "connected",
            Self::ReadyForReconnection => "ready_for_reconnection",
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Disconnected => 0,
            Self::Connected => 1,
            Self::ReadyForReconnection => 2,
        }
    }
}

/// A latching relay. Its state is mechanical: it survives every reset and every power cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relay {
    closed: bool,
    state: ControlState,
    mode: u8,
    moves: u32,
}

impl Relay {
    /// A relay as it was left, in control mode 4 (remote reconnection closes directly).
    pub(crate) fn new(closed: bool) -> Self {
        let state = if closed {
            ControlState::Connected
        } else {
            ControlState::Disconnected
        };
        Self {
            closed,
            state,
            mode: 4,
            moves: 0,
        }
    }

    /// Whether the premises are supplied (attribute 2).
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn state(&self) -> ControlState {
        self.state
    }

    /// Attribute 4.
    pub(crate) fn mode(&self) -> u8 {
        self.mode
    }

    /// How often the contacts moved.
    pub(crate) fn moves(&self) -> u32 {
        self.moves
    }

    /// Writes attribute 4; false if it is not a mode (0..6).
    pub(crate) fn set_mode(&mut self, mode: u8) -> bool {
        let good = mode <= 6;
        if good {
            self.mode = mode;
        }
        good
    }

    /// Method 1, `remote_disconnect`: opens in every mode but 0.
    pub(crate) fn remote_disconnect(&mut self) {
        if self.mode != 0 {
            self.state = ControlState::Disconnected;
            self.pulse(false);
        }
    }

    /// Method 2, `remote_reconnect`: closes in modes 2 and 4, arms the button in 1, 3, 5 and 6, does nothing in 0.
    pub(crate) fn remote_reconnect(&mut self) {
        match self.mode {
            2 | 4 => {
                self.state = ControlState::Connected;
                self.pulse(true);
            }
            1 | 3 | 5 | 6 if !self.closed => self.state = ControlState::ReadyForReconnection,
            _ => {}
        }
    }

    /// A defect: the latch jumps to its other side.
    pub(crate) fn slip(&mut self) {
        let closed = !self.closed;
        self.state = if closed {
            ControlState::Connected
        } else {
            ControlState::Disconnected
        };
        self.pulse(closed);
    }

    fn pulse(&mut self, closed: bool) {
        if self.closed != closed {
            self.closed = closed;
            self.moves = self.moves.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnection_depends_on_the_mode() {
        for (mode, closed, state) in [
            (0, true, ControlState::Connected),
            (1, false, ControlState::ReadyForReconnection),
            (2, true, ControlState::Connected),
            (3, false, ControlState::ReadyForReconnection),
            (4, true, ControlState::Connected),
            (5, false, ControlState::ReadyForReconnection),
            (6, false, ControlState::ReadyForReconnection),
        ] {
            let mut relay = Relay::new(true);
            assert!(relay.set_mode(mode));
            relay.remote_disconnect();
            assert_eq!(relay.is_closed(), mode == 0, "mode {mode}");
            relay.remote_reconnect();
            assert_eq!(
                (relay.is_closed(), relay.state()),
                (closed, state),
                "mode {mode}"
            );
        }
        assert!(!Relay::new(true).set_mode(7));
    }

    #[test]
    fn asking_twice_moves_once() {
        let mut relay = Relay::new(true);
        relay.remote_disconnect();
        relay.remote_disconnect();
        assert_eq!(relay.moves(), 1);
        relay.slip();
        assert!(relay.is_closed());
    }
}
