//! The table of objects: class, version, name, board, and the rights of the management client.

use dlms::{Obis, cosem::name};

use crate::{
    Profile,
    objects::{View, result},
    physics::BoardKind,
};

/// One COSEM object. Attributes and methods that are not listed do not exist.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) class_id: u16,
    pub(crate) version: u8,
    pub(crate) name: Obis,
    pub(crate) board: BoardKind,
    /// Index and access mode.
    pub(crate) attributes: &'static [(i8, u8)],
    /// Those of the security setup depend on the keys.
    pub(crate) methods: &'static [i8],
}

impl Object {
    /// The access mode of an attribute.
    pub(crate) fn attribute(&self, view: View, index: i8) -> Result<u8, u8> {
        let found = self.attributes.iter().find(|(known, _)| *known == index);
        found
            .map(|(_, mode)| self.mode(view, *mode))
            .ok_or(result::OBJECT_UNDEFINED)
    }

    /// What is left of an access mode for a client: the public one reads, and that only what it sees.
    pub(crate) fn mode(&self, view: View, mode: u8) -> u8 {
        match view {
            View::Management => mode,
            View::Public if self.is_visible(view) => mode & READ,
            View::Public => 0,
        }
    }

    /// Whether a client may know of it. The public one sees the invocation counter, and the association that says so.
    pub(crate) fn is_visible(&self, view: View) -> bool {
        match view {
            View::Management => true,
            View::Public => {
                [name::INVOCATION_COUNTER, name::CURRENT_ASSOCIATION].contains(&self.name)
            }
        }
    }
}

/// Access mode bits (class 15, attribute 2).
pub(crate) const READ: u8 = 1;
/// Access mode bits (class 15, attribute 2).
pub(crate) const WRITE: u8 = 2;
const BOTH: u8 = READ | WRITE;

/// Class 1: the procedure's "Log Buffering", a ring of text; the manufacturer's own.
pub(crate) const RING_LOG: Obis = Obis::new([0, 128, 99, 98, 0, 255]);
/// What is pushed after a boot: who it is, what time it is, how often its power failed. Always attribute 2.
pub(crate) const PUSHED: [(u16, Obis); 3] = [
    (1, name::LOGICAL_DEVICE_NAME),
    (8, name::CLOCK),
    (1, name::POWER_FAILURES),
];
/// Class 9: the vendor's scripts 1 soft, 2 warm, 3 cold reset.
pub(crate) const RESET_SCRIPTS: Obis = Obis::new([0, 0, 10, 1, 0, 255]);

const VALUE: &[(i8, u8)] = &readable::<2>();
const REGISTER: &[(i8, u8)] = &readable::<3>();

/// Attributes 1 to N, to be read.
const fn readable<const N: usize>() -> [(i8, u8); N] {
    let mut attributes = [(1, READ); N];
    let mut index: i8 = 1;
    let mut rest: &mut [(i8, u8)] = &mut attributes;
    while let [first, others @ ..] = rest {
        first.0 = index;
        index += 1;
        rest = others;
    }
    attributes
}

use BoardKind::{Comm, Metrology};

/// The objects of every profile.
const COMMON: &[Object] = &[
    value(name::LOGICAL_DEVICE_NAME, Comm),
    value(name::DEVICE_ID_1, Metrology),
    value(name::ACTIVE_FIRMWARE, Metrology),
    value(name::MODULE_FIRMWARE, Comm),
    value(name::INVOCATION_COUNTER, Comm),
    value(name::POWER_FAILURES, Metrology),
    value(name::EVENT_CODE, Metrology),
    value(name::PROFILE_STATUS, Metrology),
    value(RING_LOG, Metrology),
    object(3, 0, name::OPERATING_TIME, Metrology, REGISTER, &[]),
    object(3, 0, name::IMPORT, Metrology, REGISTER, &[]),
    object(7, 1, name::EVENT_LOG, Metrology, &readable::<8>(), &[1]),
    object(7, 1, name::LOAD_PROFILE, Metrology, &readable::<8>(), &[1]),
    object(8, 0, name::CLOCK, Metrology, CLOCK_RIGHTS, &[]),
    object(9, 0, name::GLOBAL_METER_RESET, Metrology, VALUE, &[1]),
    object(9, 0, name::TARIFF_SCRIPTS, Metrology, VALUE, &[]),
    object(
        15,
        1,
        name::CURRENT_ASSOCIATION,
        Comm,
        ASSOCIATION_RIGHTS,
        &[1],
    ),
    object(18, 0, name::IMAGE_TRANSFER, Comm, &readable::<7>(), &[]),
    object(
        20,
        0,
        name::ACTIVITY_CALENDAR,
        Metrology,
        &readable::<10>(),
        &[],
    ),
    object(
        22,
        0,
        name::DISCONNECT_SCHEDULE,
        Metrology,
        &readable::<4>(),
        &[],
    ),
    object(40, 0, name::PUSH_SETUP, Comm, &readable::<7>(), &[]),
    object(64, 1, name::SECURITY_SETUP, Comm, &readable::<6>(), &[]),
    object(
        70,
        0,
        name::DISCONNECT_CONTROL,
        Metrology,
        RELAY_RIGHTS,
        &[1, 2],
    ),
    object(71, 0, name::LIMITER, Metrology, &readable::<11>(), &[]),
];

const CLOCK_RIGHTS: &[(i8, u8)] = &[
    (1, READ),
    (2, BOTH),
    (3, READ),
    (4, READ),
    (5, READ),
    (6, READ),
    (7, READ),
    (8, READ),
    (9, READ),
];

const RELAY_RIGHTS: &[(i8, u8)] = &[(1, READ), (2, READ), (3, READ), (4, BOTH)];

/// Attribute 7, the secret, exists and nobody may read it.
const ASSOCIATION_RIGHTS: &[(i8, u8)] = &[
    (1, READ),
    (2, READ),
    (3, READ),
    (4, READ),
    (5, READ),
    (6, READ),
    (7, 0),
    (8, READ),
    (9, READ),
];

/// What only the profile `standard` has: device ID 3 as the Blue Book means it, and a vendor's reset scripts.
const STANDARD: &[Object] = &[
    value(name::DEVICE_ID_3, Metrology),
    object(9, 0, RESET_SCRIPTS, Comm, VALUE, &[1]),
];

/// What only the profile `procedure` has: device ID 3 with the state text and a method.
const PROCEDURE: &[Object] = &[object(1, 0, name::DEVICE_ID_3, Metrology, VALUE, &[1])];

/// All objects of a profile.
pub(crate) fn all(profile: Profile) -> impl Iterator<Item = &'static Object> {
    COMMON.iter().chain(match profile {
        Profile::Standard => STANDARD,
        Profile::Procedure => PROCEDURE,
    })
}

/// The object with this name, if it is of this class.
pub(crate) fn lookup(profile: Profile, class_id: u16, name: Obis) -> Result<&'static Object, u8> {
    let object = all(profile)
        .find(|object| object.name == name)
        .ok_or(result::OBJECT_UNDEFINED)?;
    if object.class_id == class_id {
        Ok(object)
    } else {
        Err(result::OBJECT_CLASS_INCONSISTENT)
    }
}

const fn value(name: Obis, board: BoardKind) -> Object {
    object(1, 0, name, board, VALUE, &[])
}

const fn object(
    class_id: u16,
    version: u8,
    name: Obis,
    board: BoardKind,
    attributes: &'static [(i8, u8)],
    methods: &'static [i8],
) -> Object {
    Object {
        class_id,
        version,
        name,
        board,
        attributes,
        methods,
    }
}
