//! The relay: a latch moved by pulses, and the COSEM control state above it (class 70).

use dlms::cosem::disconnect_control::{ControlMode, ControlState};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A latching relay. Its state is mechanical: it survives every reset and every power cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relay {
    closed: bool,
    #[serde(with = "state")]
    state: ControlState,
    #[serde(with = "mode")]
    mode: ControlMode,
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
            mode: ControlMode::Mode4,
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
    pub(crate) fn mode(&self) -> ControlMode {
        self.mode
    }

    /// How often the contacts moved.
    pub(crate) fn moves(&self) -> u32 {
        self.moves
    }

    /// Writes attribute 4; false if it is not a mode of version 0 (0..6).
    pub(crate) fn set_mode(&mut self, mode: ControlMode) -> bool {
        let good = mode != ControlMode::Mode7;
        if good {
            self.mode = mode;
        }
        good
    }

    /// Method 1, `remote_disconnect`.
    pub(crate) fn remote_disconnect(&mut self) {
        self.enter(self.mode.after_disconnect(self.state));
    }

    /// Method 2, `remote_reconnect`.
    pub(crate) fn remote_reconnect(&mut self) {
        self.enter(self.mode.after_reconnect(self.state));
    }

    fn enter(&mut self, state: ControlState) {
        self.state = state;
        self.pulse(state == ControlState::Connected);
    }

    /// A defect: the latch jumps to its other side.
    pub(crate) fn slip(&mut self) {
        self.enter(if self.closed {
            ControlState::Disconnected
        } else {
            ControlState::Connected
        });
    }

    fn pulse(&mut self, closed: bool) {
        if self.closed != closed {
            self.closed = closed;
            self.moves = self.moves.saturating_add(1);
        }
    }
}

/// The state in NVRAM: by name.
mod state {
    use super::{ControlState, Deserialize, Deserializer, Serializer, find};

    pub(super) fn serialize<S: Serializer>(state: &ControlState, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(state.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<ControlState, D::Error> {
        let name = String::deserialize(from)?;
        find(ControlState::ALL.iter().find(|state| state.name() == name))
    }
}

/// The mode in NVRAM: by code.
mod mode {
    use super::{ControlMode, Deserialize, Deserializer, Serializer, find};

    pub(super) fn serialize<S: Serializer>(mode: &ControlMode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(mode.code())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ControlMode, D::Error> {
        let code = u8::deserialize(from)?;
        find(ControlMode::ALL.iter().find(|mode| mode.code() == code))
    }
}

fn find<T: Copy, E: serde::de::Error>(found: Option<&T>) -> Result<T, E> {
    found
        .copied()
        .ok_or_else(|| E::custom("no such state or mode of a relay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnection_depends_on_the_mode() {
        for (mode, closed, state) in [
            (ControlMode::None, true, ControlState::Connected),
            (
                ControlMode::Mode1,
                false,
                ControlState::ReadyForReconnection,
            ),
            (ControlMode::Mode2, true, ControlState::Connected),
            (
                ControlMode::Mode3,
                false,
                ControlState::ReadyForReconnection,
            ),
            (ControlMode::Mode4, true, ControlState::Connected),
            (
                ControlMode::Mode5,
                false,
                ControlState::ReadyForReconnection,
            ),
            (
                ControlMode::Mode6,
                false,
                ControlState::ReadyForReconnection,
            ),
        ] {
            let mut relay = Relay::new(true);
            assert!(relay.set_mode(mode));
            relay.remote_disconnect();
            assert_eq!(relay.is_closed(), mode == ControlMode::None, "{mode:?}");
            relay.remote_reconnect();
            assert_eq!(
                (relay.is_closed(), relay.state()),
                (closed, state),
                "{mode:?}"
            );
        }
        assert!(!Relay::new(true).set_mode(ControlMode::Mode7));
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

    #[test]
    fn nvram_holds_names_and_codes() {
        let mut relay = Relay::new(true);
        relay.set_mode(ControlMode::Mode1);
        relay.remote_disconnect();
        relay.remote_reconnect();
        let text = serde_json::to_string(&relay).unwrap();
        assert_eq!(
            text,
            r#"{"closed":false,"state":"ready_for_reconnection","mode":1,"moves":1}"#
        );
        assert_eq!(serde_json::from_str::<Relay>(&text).unwrap(), relay);
        for broken in [
            text.replace("ready_for", "ready"),
            text.replace(":1,", ":8,"),
        ] {
            assert!(serde_json::from_str::<Relay>(&broken).is_err());
        }
    }
}
