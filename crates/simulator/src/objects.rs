//! The COSEM server: which objects there are, who may do what with them, and what they do.

use dlms::{Attribute, Conformance, Data, Method, Selection};

use crate::{
    Happening,
    device::Device,
    objects::table::{Object, lookup},
    physics::{BoardState, Tier},
    rtc,
};

mod buffer;
mod read;
mod table;

/// Who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The public client, SAP 16: reads the invocation counter and nothing else.
    Public,
    /// The management client, SAP 1, authenticated as the meter's options say.
    Management,
}

/// Data-Access-Result and Action-Result: the same numbers for what both can say.
pub(crate) mod result {
    pub(crate) const OK: u8 = 0;
    pub(crate) const TEMPORARY_FAILURE: u8 = 2;
    pub(crate) const READ_WRITE_DENIED: u8 = 3;
    pub(crate) const OBJECT_UNDEFINED: u8 = 4;
    pub(crate) const OBJECT_CLASS_INCONSISTENT: u8 = 9;
    pub(crate) const OBJECT_UNAVAILABLE: u8 = 11;
    pub(crate) const TYPE_UNMATCHED: u8 = 12;
}

impl Device {
    /// Serves a GET.
    pub(crate) fn get(
        &mut self,
        view: View,
        attribute: &Attribute,
        selection: Option<&Selection>,
        now: u64,
    ) -> Result<Data, u8> {
        let answer = self.try_get(view, attribute, selection, now);
        if let Err(result) = answer {
            self.refused(
                "get",
                attribute.class_id,
                attribute.name,
                attribute.index,
                result,
            );
        }
        answer
    }

    /// Serves a SET; the result.
    pub(crate) fn set(&mut self, view: View, attribute: &Attribute, value: &Data, now: u64) -> u8 {
        match self.try_set(view, attribute, value, now) {
            Ok(()) => {
                self.tell(Happening::Set {
                    class: attribute.class_id,
                    obis: attribute.name.to_string(),
                    attribute: attribute.index,
                });
                result::OK
            }
            Err(result) => {
                self.refused(
                    "set",
                    attribute.class_id,
                    attribute.name,
                    attribute.index,
                    result,
                );
                result
            }
        }
    }

    /// Serves an ACTION; the result. No method of this meter returns data.
    pub(crate) fn act(
        &mut self,
        view: View,
        method: &Method,
        parameter: Option<&Data>,
        now: u64,
    ) -> u8 {
        match self.try_act(view, method, parameter, now) {
            Ok(()) => {
                self.tell(Happening::Action {
                    class: method.class_id,
                    obis: method.name.to_string(),
                    method: method.index,
                });
                result::OK
            }
            Err(result) => {
                self.refused("action", method.class_id, method.name, method.index, result);
                result
            }
        }
    }

    /// Whether an ACTION would reset the meter.
    pub(crate) fn is_reset(&self, method: &Method) -> bool {
        matches!(
            (method.class_id, method.name.bytes(), method.index),
            (9, table::RESET_SCRIPTS, 1) | (1, table::DEVICE_ID_3, 1)
        )
    }

    fn try_get(
        &self,
        view: View,
        attribute: &Attribute,
        selection: Option<&Selection>,
        now: u64,
    ) -> Result<Data, u8> {
        let object = self.reachable(view, attribute.class_id, attribute.name.bytes())?;
        if object.attribute(attribute.index)? & table::READ == 0 {
            return Err(result::READ_WRITE_DENIED);
        }
        if selection.is_some() && !(object.class_id == 7 && attribute.index == 2) {
            return Err(result::TYPE_UNMATCHED);
        }
        self.read(object, attribute.index, selection, now)
    }

    fn try_set(
        &mut self,
        view: View,
        attribute: &Attribute,
        value: &Data,
        now: u64,
    ) -> Result<(), u8> {
        let object = self.reachable(view, attribute.class_id, attribute.name.bytes())?;
        if object.attribute(attribute.index)? & table::WRITE == 0 {
            return Err(result::READ_WRITE_DENIED);
        }
        match object.class_id {
            8 => {
                let moment = value
                    .as_bytes()
                    .and_then(rtc::moment)
                    .ok_or(result::TYPE_UNMATCHED)?;
                self.rtc.set(now, moment);
                Ok(())
            }
            70 => {
                let Data::Enum(mode) = value else {
                    return Err(result::TYPE_UNMATCHED);
                };
                if !self.hardware.relay.set_mode(*mode) {
                    return Err(result::TYPE_UNMATCHED);
                }
                self.tell_relay("set", false);
                Ok(())
            }
            _ => Err(result::READ_WRITE_DENIED),
        }
    }

    fn try_act(
        &mut self,
        view: View,
        method: &Method,
        parameter: Option<&Data>,
        now: u64,
    ) -> Result<(), u8> {
        let object = self.reachable(view, method.class_id, method.name.bytes())?;
        if !object.methods.contains(&method.index) {
            return Err(result::READ_WRITE_DENIED);
        }
        match (object.class_id, object.name, method.index) {
            (1, table::DEVICE_ID_3, 1) => {
                integer(parameter)?;
                self.request_reset(Tier::Cold)
            }
            (9, table::RESET_SCRIPTS, 1) => {
                let tier = match script(parameter)? {
                    1 => Tier::Soft,
                    2 => Tier::Warm,
                    3 => Tier::Cold,
                    _ => return Err(result::OBJECT_UNDEFINED),
                };
                self.request_reset(tier)
            }
            (9, table::GLOBAL_RESET, 1) => {
                script(parameter)?;
                self.wipe(now);
                Ok(())
            }
            (70, _, index) => {
                integer(parameter)?;
                self.move_relay(index);
                Ok(())
            }
            (7, table::LOAD_PROFILE, 1) => {
                integer(parameter)?;
                self.load_profile.clear();
                Ok(())
            }
            (7, table::EVENT_LOG, 1) => {
                integer(parameter)?;
                self.events.clear(self.rtc.shows(now));
                Ok(())
            }
            _ => Err(result::READ_WRITE_DENIED),
        }
    }

    /// The object, if the client may know of it and its board can answer.
    fn reachable(&self, view: View, class_id: u16, name: [u8; 6]) -> Result<&'static Object, u8> {
        let object = lookup(self.profile, class_id, name)?;
        if view == View::Public && object.name != table::INVOCATION_COUNTER {
            return Err(result::READ_WRITE_DENIED);
        }
        match self.hardware.board(object.board).state {
            BoardState::Running { .. } => Ok(object),
            BoardState::Panic | BoardState::Off => Err(result::OBJECT_UNAVAILABLE),
            BoardState::Bootloader { .. } | BoardState::Post { .. } => {
                Err(result::TEMPORARY_FAILURE)
            }
        }
    }

    fn request_reset(&mut self, tier: Tier) -> Result<(), u8> {
        match self.accept_reset(tier) {
            result::OK => Ok(()),
            refused => Err(refused),
        }
    }

    fn move_relay(&mut self, method: i8) {
        let before = self.hardware.relay.moves();
        if method == 1 {
            self.hardware.relay.remote_disconnect();
        } else {
            self.hardware.relay.remote_reconnect();
        }
        self.tell_relay("action", self.hardware.relay.moves() != before);
    }

    fn refused(
        &mut self,
        service: &'static str,
        class: u16,
        name: dlms::Obis,
        index: i8,
        result: u8,
    ) {
        self.tell(Happening::Refused {
            service,
            class,
            obis: name.to_string(),
            index,
            result,
        });
    }
}

/// The parameter `integer 0` that most methods take.
fn integer(parameter: Option<&Data>) -> Result<(), u8> {
    match parameter {
        Some(Data::Integer(0)) => Ok(()),
        _ => Err(result::TYPE_UNMATCHED),
    }
}

/// The script id of class 9, method 1: long-unsigned.
fn script(parameter: Option<&Data>) -> Result<u16, u8> {
    match parameter {
        Some(Data::LongUnsigned(id)) => Ok(*id),
        _ => Err(result::TYPE_UNMATCHED),
    }
}

/// The longest APDU, either way, ciphering included.
pub(crate) const MAX_PDU: u16 = 1024;

/// The services this meter has; general protection is added for ciphered clients.
pub(crate) const CONFORMANCE: Conformance = Conformance::new(
    Conformance::GET.bits()
        | Conformance::SET.bits()
        | Conformance::ACTION.bits()
        | Conformance::SELECTIVE_ACCESS.bits()
        | Conformance::BLOCK_TRANSFER_GET.bits()
        | Conformance::PRIORITY_MANAGEMENT.bits(),
);

#[cfg(test)]
mod tests;
