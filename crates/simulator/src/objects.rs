//! The COSEM server: which objects there are, who may do what with them, and what they do.

use dlms::{
    Attribute, Data, Method, Obis, Request, Selection,
    cosem::{Wrong, clock, disconnect_control, name, profile, script_table},
};

use crate::{
    Happening,
    device::Device,
    objects::table::{Object, lookup},
    physics::{BoardState, Tier},
};

mod buffer;
mod read;
mod respond;
mod table;

pub(crate) use respond::respond;

/// Who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The public client, SAP 16: reads the invocation counter, its own association, and nothing else.
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

    /// Serves an ACTION; what the method returns, if it returns anything.
    pub(crate) fn act(
        &mut self,
        view: View,
        method: &Method,
        parameter: Option<&Data>,
        now: u64,
    ) -> Result<Option<Data>, u8> {
        let outcome = self.try_act(view, method, parameter, now);
        match outcome {
            Ok(_) => self.tell(Happening::Action {
                class: method.class_id,
                obis: method.name.to_string(),
                method: method.index,
            }),
            Err(result) => {
                self.refused("action", method.class_id, method.name, method.index, result);
            }
        }
        outcome
    }

    /// Whether a request would reset the meter.
    pub(crate) fn is_reset(&self, request: &Request) -> bool {
        let resets = |method: &&Method| {
            matches!(
                (method.class_id, method.name, method.index),
                (9, table::RESET_SCRIPTS, 1) | (1, name::DEVICE_ID_3, 1)
            )
        };
        respond::methods(request).iter().any(resets)
    }

    fn try_get(
        &self,
        view: View,
        attribute: &Attribute,
        selection: Option<&Selection>,
        now: u64,
    ) -> Result<Data, u8> {
        let object = self.reachable(view, attribute.class_id, attribute.name)?;
        if object.attribute(view, attribute.index)? & table::READ == 0 {
            return Err(result::READ_WRITE_DENIED);
        }
        let buffer = (profile::CLASS.class_id, profile::BUFFER.index);
        if selection.is_some() && (object.class_id, attribute.index) != buffer {
            return Err(result::TYPE_UNMATCHED);
        }
        self.read(view, object, attribute.index, selection, now)
    }

    fn try_set(
        &mut self,
        view: View,
        attribute: &Attribute,
        value: &Data,
        now: u64,
    ) -> Result<(), u8> {
        let object = self.reachable(view, attribute.class_id, attribute.name)?;
        if object.attribute(view, attribute.index)? & table::WRITE == 0 {
            return Err(result::READ_WRITE_DENIED);
        }
        match object.class_id {
            8 => {
                let time = clock::TIME.read(value).map_err(unmatched)?;
                let moment = time.unix_ms().ok_or(result::TYPE_UNMATCHED)?;
                self.rtc.set(now, moment);
                Ok(())
            }
            70 => {
                let mode = disconnect_control::CONTROL_MODE.read(value);
                if !self.hardware.relay.set_mode(mode.map_err(unmatched)?) {
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
    ) -> Result<Option<Data>, u8> {
        let object = self.reachable(view, method.class_id, method.name)?;
        if !self.methods(view, object).contains(&method.index) {
            return Err(result::READ_WRITE_DENIED);
        }
        match (object.class_id, object.name, method.index) {
            (1, name::DEVICE_ID_3, 1) => {
                zero(parameter)?;
                self.request_reset(Tier::Cold)?;
            }
            (9, table::RESET_SCRIPTS, 1) => {
                self.request_reset(match script(parameter)? {
                    1 => Tier::Soft,
                    2 => Tier::Warm,
                    3 => Tier::Cold,
                    _ => return Err(result::OBJECT_UNDEFINED),
                })?;
            }
            (9, name::GLOBAL_METER_RESET, 1) => {
                script(parameter)?;
                self.wipe(now);
            }
            (64, _, 2) => self.transfer_keys(parameter)?,
            (64, _, 3) => return self.agree_keys(parameter).map(Some),
            (70, _, index) => {
                zero(parameter)?;
                self.move_relay(index);
            }
            (7, name::LOAD_PROFILE, 1) => {
                zero(parameter)?;
                self.load_profile.clear();
            }
            (7, name::EVENT_LOG, 1) => {
                zero(parameter)?;
                self.events.clear(self.rtc.shows(now));
            }
            _ => return Err(result::READ_WRITE_DENIED),
        }
        Ok(None)
    }

    /// The methods of a client. Keys are changed by who ciphers, and as far as the meter has what it takes.
    fn methods(&self, view: View, object: &Object) -> &'static [i8] {
        match view {
            View::Public => &[],
            View::Management if object.name == name::SECURITY_SETUP => {
                if self.is_ciphered(view) {
                    self.cipher.key_methods()
                } else {
                    &[]
                }
            }
            View::Management => object.methods,
        }
    }

    /// The object, if the client may know of it and its board can answer.
    fn reachable(&self, view: View, class_id: u16, name: Obis) -> Result<&'static Object, u8> {
        let object = lookup(self.profile, class_id, name)?;
        if !object.is_visible(view) {
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
        if method == disconnect_control::REMOTE_DISCONNECT.index {
            self.hardware.relay.remote_disconnect();
        } else {
            self.hardware.relay.remote_reconnect();
        }
        self.tell_relay("action", self.hardware.relay.moves() != before);
    }

    fn refused(&mut self, service: &'static str, class: u16, name: Obis, index: i8, result: u8) {
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
fn zero(parameter: Option<&Data>) -> Result<(), u8> {
    profile::RESET
        .read(parameter)
        .map(|_| ())
        .map_err(unmatched)
}

/// The script id of class 9, method 1: a long-unsigned and nothing else.
fn script(parameter: Option<&Data>) -> Result<u16, u8> {
    match parameter {
        Some(Data::LongUnsigned(_)) => script_table::EXECUTE.read(parameter).map_err(unmatched),
        _ => Err(result::TYPE_UNMATCHED),
    }
}

fn unmatched(_: Wrong) -> u8 {
    result::TYPE_UNMATCHED
}

#[cfg(test)]
mod tests;
