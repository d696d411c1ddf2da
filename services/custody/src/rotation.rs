//! Keys changed over the air: made here, sent under a permit, in force when the meter has proven them.
//!
//! ```text
//!               BeginRotation            ACTION ciphered               NEW proven
//!   (nothing) ────────────────▶ new ────────────────────▶ unsettled ────────────────▶ active
//!                                ▲                            │
//!                                └──────── OLD proven ────────┘
//! ```
//!
//! - The new keys are in the database before anybody can send them; before they are ciphered the row says that nobody
//!   knows which keys the meter has. A crash at any line is a state that the next attempt goes on from.
//! - What decides is what the meter proves: that it opens an association under the new keys, or under the old ones. A
//!   meter takes all keys of one transfer or none, so one proof is about all of them. An answer to the ACTION decides
//!   nothing where a proof can be had: a meter may say yes and lose power before it has written.
//! - A proof of the old keys is also the end of every request that is still on its way: the meter has taken a later
//!   invocation counter. What it leaves open is a meter that took the keys, has not noticed that the association is over,
//!   and changes then; so the new keys stay, for the next rotation to find them in force, until `rotation_retire_seconds`
//!   after the proof.
//! - The master key opens no association. Whether the meter has the new one it says when it is sent that key once more,
//!   wrapped under itself: whoever unwraps it has it, and has nothing to change. Broadcast keys cannot be asked about at
//!   all: there the authenticated yes decides, and a lost one is asked for again.
//! - A permit names the rotation and its keys. The octets that go out are custody's own, and it ciphers no others: a
//!   wrapped key of another day is refused like any other APDU.

mod answer;
mod begin;
mod candidate;
mod proof;
mod sweep;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use dlms::{Data, Obis, agreement::KeyId};
use hsm::EphemeralHandle;

use crate::{apdu::Service, error::Error, permit::Allowed};

/// Keys that change together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeySet(u8);

impl KeySet {
    const MASTER: Self = Self(1 << 3);

    /// Bit n: the key with id n. None, unknown ones, and the master key beside another are no set.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        let set = Self(bits);
        let sound = matches!(bits, 1..=8) && (set == Self::MASTER || bits < Self::MASTER.0);
        sound.then_some(set)
    }

    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// In the order of their ids.
    pub(crate) fn iter(self) -> impl Iterator<Item = KeyId> {
        (0..4)
            .filter_map(KeyId::from_id)
            .filter(move |key| self.contains(*key))
    }

    pub(crate) fn contains(self, key: KeyId) -> bool {
        self.0 & (1 << key.id()) != 0
    }

    pub(crate) fn is_master(self) -> bool {
        self == Self::MASTER
    }

    /// Whether APDUs are under one of them: then opening an association proves which keys are in force.
    pub(crate) fn ciphers(self) -> bool {
        self.contains(KeyId::GlobalUnicastEncryption) || self.contains(KeyId::GlobalAuthentication)
    }
}

impl std::fmt::Display for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.iter().map(abbreviation).collect();
        f.write_str(&names.join(", "))
    }
}

/// The additional authenticated data of a rotation's parameter: `send` or `confirm`.
pub(crate) fn parameter_binding(rotation: &crate::store::RotationRow, what: &str) -> Vec<u8> {
    begin::binding(rotation, what)
}

/// A key as the database calls it.
pub(crate) const fn name_of(key: KeyId) -> &'static str {
    match key {
        KeyId::GlobalUnicastEncryption => "encryption",
        KeyId::GlobalBroadcastEncryption => "broadcast",
        KeyId::GlobalAuthentication => "authentication",
        KeyId::Master => "master",
    }
}

const fn abbreviation(key: KeyId) -> &'static str {
    match key {
        KeyId::GlobalUnicastEncryption => "GUEK",
        KeyId::GlobalBroadcastEncryption => "GBEK",
        KeyId::GlobalAuthentication => "GAK",
        KeyId::Master => "master key",
    }
}

/// What a permit of PURPOSE_REKEY names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) rotation_id: String,
    pub(crate) keys: KeySet,
    /// By `key_agreement`.
    pub(crate) agreed: bool,
    /// The security setup.
    pub(crate) setup: Obis,
}

/// `key_transfer` of class 64.
pub(crate) const TRANSFER: i8 = 2;
/// `key_agreement` of class 64.
pub(crate) const AGREEMENT: i8 = 3;
/// Security setup.
const CLASS: u16 = 64;

impl Plan {
    /// From the commands of a permit.
    pub(crate) fn of(commands: &[Allowed]) -> Result<Self, Error> {
        let methods: Vec<i8> = commands.iter().map(|command| command.asked.index).collect();
        let agreed = match methods.as_slice() {
            [TRANSFER] => false,
            [AGREEMENT, TRANSFER] => true,
            _ => {
                return refused(
                    "it names key_transfer, or key_agreement and then the transfer that confirms it",
                );
            }
        };
        let Some(first) = commands.first().map(|command| &command.asked) else {
            return refused("it names no command");
        };
        let same = commands.iter().map(|command| &command.asked).all(|asked| {
            (asked.service, asked.class_id) == (Service::Action, CLASS)
                && (asked.name, &asked.parameter) == (first.name, &first.parameter)
        });
        if !same || !is_setup(first.name) {
            return refused("its commands are of one security setup and one rotation");
        }
        let Some((rotation_id, keys)) = named(&first.parameter) else {
            return refused("its parameter names no rotation and its keys");
        };
        if agreed && !keys.is_master() {
            return refused("the master key alone is agreed");
        }
        Ok(Self {
            rotation_id,
            keys,
            agreed,
            setup: first.name,
        })
    }
}

/// A rotation's id and keys, from a structure of an octet-string and an array of enums in rising order.
fn named(parameter: &[u8]) -> Option<(String, KeySet)> {
    let data = Data::decode(parameter).ok()?;
    let Data::Structure(fields) = &data else {
        return None;
    };
    let [Data::OctetString(id), Data::Array(keys)] = fields.as_slice() else {
        return None;
    };
    let (mut bits, mut last) = (0_u8, None);
    for key in keys {
        let Data::Enum(id) = key else { return None };
        if last >= Some(*id) {
            return None;
        }
        last = Some(*id);
        bits |= 1_u8.checked_shl(u32::from(*id))?;
    }
    // One spelling for one rotation.
    if data.encode() != parameter {
        return None;
    }
    let id = uuid::Uuid::from_slice(id).ok()?;
    Some((id.to_string(), KeySet::from_bits(bits)?))
}

fn is_setup(name: Obis) -> bool {
    let [a, b, c, d, _, f] = name.bytes();
    [a, b, c, d, f] == [0, 0, 43, 0, 255]
}

fn refused<T>(why: &'static str) -> Result<T, Error> {
    Err(Error::PermitRefused {
        why: why.to_owned(),
    })
}

/// For which keys of a rotation a context is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Old,
    New,
}

/// What a context is for, if it is for a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rotating {
    pub(crate) plan: Plan,
    pub(crate) which: Which,
    /// The generation of the new encryption key that its APDUs are under, if they are: its counters are that key's.
    pub(crate) encryption: Option<u32>,
    /// How often the keys were sent before.
    pub(crate) attempts: u32,
}

/// Our halves of key agreements under way. They live in the token's sessions: when one is lost, its agreement is begun
/// again.
#[derive(Default)]
pub(crate) struct Agreements(Mutex<HashMap<String, Half>>);

/// Our half of one.
#[derive(Clone)]
pub(crate) struct Half {
    pub(crate) own: EphemeralHandle,
    /// The parameter of the method.
    pub(crate) parameter: Vec<u8>,
}

/// Agreements under way at one time.
const AGREEMENTS: usize = 256;

impl Agreements {
    pub(crate) fn get(&self, rotation_id: &str) -> Option<Half> {
        self.held().get(rotation_id).cloned()
    }

    pub(crate) fn put(&self, rotation_id: &str, half: Half) {
        let mut held = self.held();
        if held.len() >= AGREEMENTS {
            held.clear();
        }
        held.insert(rotation_id.to_owned(), half);
    }

    pub(crate) fn remove(&self, rotation_id: &str) {
        self.held().remove(rotation_id);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<String, Half>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apdu::Asked;

    fn parameter(id: &[u8], keys: &[u8]) -> Vec<u8> {
        let keys = keys.iter().map(|key| Data::Enum(*key)).collect();
        Data::Structure(vec![Data::OctetString(id.to_vec()), Data::Array(keys)]).encode()
    }

    fn command(index: i8, parameter: Vec<u8>) -> Allowed {
        Allowed {
            asked: Asked {
                service: Service::Action,
                class_id: 64,
                name: Obis::new([0, 0, 43, 0, 0, 255]),
                index,
                parameter,
                selection: Vec::new(),
            },
            max_uses: 1,
            named: None,
        }
    }

    const ID: [u8; 16] = [7; 16];

    #[test]
    fn a_permit_names_one_rotation_and_its_keys() {
        let plan = Plan::of(&[command(2, parameter(&ID, &[0, 2]))]).unwrap();
        assert_eq!(plan.rotation_id, "07070707-0707-0707-0707-070707070707");
        assert!(plan.keys.ciphers() && !plan.agreed);
        assert_eq!(plan.keys.to_string(), "GUEK, GAK");
        let master = parameter(&ID, &[3]);
        let agreed = [command(3, master.clone()), command(2, master.clone())];
        assert!(Plan::of(&agreed).unwrap().agreed);
        assert!(Plan::of(&[command(2, master)]).unwrap().keys.is_master());
    }

    #[test]
    fn what_is_not_exactly_that_is_refused() {
        let good = || parameter(&ID, &[0]);
        let mut other_class = command(2, good());
        other_class.asked.class_id = 70;
        let mut other_name = command(2, good());
        other_name.asked.name = Obis::new([0, 0, 43, 1, 0, 255]);
        let mut read = command(2, good());
        read.asked.service = Service::Get;
        let mut twice = good();
        twice.push(0);
        for commands in [
            vec![],
            vec![other_class],
            vec![other_name],
            vec![read],
            vec![command(1, good())],
            vec![command(8, good())],
            vec![command(2, good()), command(2, good())],
            vec![command(3, good()), command(2, good())],
            vec![
                command(3, parameter(&ID, &[3])),
                command(2, parameter(&[8; 16], &[3])),
            ],
            vec![command(2, twice)],
            vec![command(2, parameter(&ID[1..], &[0]))],
            vec![command(2, parameter(&ID, &[]))],
            vec![command(2, parameter(&ID, &[0, 3]))],
            vec![command(2, parameter(&ID, &[2, 0]))],
            vec![command(2, parameter(&ID, &[0, 0]))],
            vec![command(2, parameter(&ID, &[4]))],
            vec![command(2, vec![0])],
        ] {
            let refused = Plan::of(&commands);
            assert!(
                matches!(refused, Err(Error::PermitRefused { .. })),
                "{commands:?}"
            );
        }
    }
}
