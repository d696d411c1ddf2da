//! The table of objects: class, version, name, board, and the rights of the management client.

use crate::{Profile, objects::result, physics::BoardKind};

/// One COSEM object. Attributes and methods that are not listed do not exist.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) class_id: u16,
    pub(crate) version: u8,
    pub(crate) name: [u8; 6],
    pub(crate) board: BoardKind,
    /// Index and access mode.
    pub(crate) attributes: &'static [(i8, u8)],
    pub(crate) methods: &'static [i8],
}

impl Object {
    /// The access mode of an attribute.
    pub(crate) fn attribute(&self, index: i8) -> Result<u8, u8> {
        let found = self.attributes.iter().find(|(known, _)| *known == index);
        found.map(|(_, mode)| *mode).ok_or(result::OBJECT_UNDEFINED)
    }
}

/// Access mode bits (class 15, attribute 2).
pub(crate) const READ: u8 = 1;
/// Access mode bits (class 15, attribute 2).
pub(crate) const WRITE: u8 = 2;
const BOTH: u8 = READ | WRITE;

pub(crate) const LOGICAL_DEVICE_NAME: [u8; 6] = [0, 0, 42, 0, 0, 255];
pub(crate) const DEVICE_ID_1: [u8; 6] = [0, 0, 96, 1, 0, 255];
pub(crate) const DEVICE_ID_3: [u8; 6] = [0, 0, 96, 1, 2, 255];
pub(crate) const METROLOGY_FIRMWARE: [u8; 6] = [1, 0, 0, 2, 0, 255];
pub(crate) const COMM_FIRMWARE: [u8; 6] = [1, 2, 0, 2, 0, 255];
pub(crate) const INVOCATION_COUNTER: [u8; 6] = [0, 0, 43, 1, 0, 255];
pub(crate) const POWER_FAILURES: [u8; 6] = [0, 0, 96, 7, 21, 255];
pub(crate) const UPTIME: [u8; 6] = [0, 0, 96, 8, 0, 255];
pub(crate) const EVENT_CODE: [u8; 6] = [0, 0, 96, 11, 0, 255];
pub(crate) const PROFILE_STATUS: [u8; 6] = [0, 0, 96, 10, 1, 255];
pub(crate) const RING_LOG: [u8; 6] = [0, 128, 99, 98, 0, 255];
pub(crate) const IMPORT: [u8; 6] = [1, 0, 1, 8, 0, 255];
pub(crate) const CLOCK: [u8; 6] = [0, 0, 1, 0, 0, 255];
pub(crate) const EVENT_LOG: [u8; 6] = [0, 0, 99, 98, 0, 255];
pub(crate) const LOAD_PROFILE: [u8; 6] = [1, 0, 99, 1, 0, 255];
pub(crate) const GLOBAL_RESET: [u8; 6] = [0, 0, 10, 0, 0, 255];
pub(crate) const RESET_SCRIPTS: [u8; 6] = [0, 0, 10, 1, 0, 255];
pub(crate) const SECURITY_SETUP: [u8; 6] = [0, 0, 43, 0, 0, 255];
const ASSOCIATION: [u8; 6] = [0, 0, 40, 0, 0, 255];
const IMAGE_TRANSFER: [u8; 6] = [0, 0, 44, 0, 0, 255];
const DISCONNECT_CONTROL: [u8; 6] = [0, 0, 96, 3, 10, 255];

const VALUE: &[(i8, u8)] = &[(1, READ), (2, READ)];
const REGISTER: &[(i8, u8)] = &[(1, READ), (2, READ), (3, READ)];
const BUFFER: &[(i8, u8)] = &[
    (1, READ),
    (2, READ),
    (3, READ),
    (4, READ),
    (5, READ),
    (6, READ),
    (7, READ),
    (8, READ),
];

use BoardKind::{Comm, Metrology};

/// The objects of every profile.
const COMMON: &[Object] = &[
    value(LOGICAL_DEVICE_NAME, Comm),
    value(DEVICE_ID_1, Metrology),
    value(METROLOGY_FIRMWARE, Metrology),
    value(COMM_FIRMWARE, Comm),
    value(INVOCATION_COUNTER, Comm),
    value(POWER_FAILURES, Metrology),
    value(EVENT_CODE, Metrology),
    value(PROFILE_STATUS, Metrology),
    value(RING_LOG, Metrology),
    object(3, 0, UPTIME, Metrology, REGISTER, &[]),
    object(3, 0, IMPORT, Metrology, REGISTER, &[]),
    object(7, 1, EVENT_LOG, Metrology, BUFFER, &[1]),
    object(7, 1, LOAD_PROFILE, Metrology, BUFFER, &[1]),
    object(
        8,
        0,
        CLOCK,
        Metrology,
        &[(1, READ), (2, BOTH), (3, READ), (4, READ)],
        &[],
    ),
    object(9, 0, GLOBAL_RESET, Metrology, VALUE, &[1]),
    object(15, 1, ASSOCIATION, Comm, ASSOCIATION_RIGHTS, &[1]),
    object(
        18,
        0,
        IMAGE_TRANSFER,
        Comm,
        &[(1, READ), (5, READ), (6, READ)],
        &[],
    ),
    object(
        64,
        1,
        SECURITY_SETUP,
        Comm,
        &[(1, READ), (2, READ), (3, READ), (4, READ), (5, READ)],
        &[],
    ),
    object(
        70,
        0,
        DISCONNECT_CONTROL,
        Metrology,
        &[(1, READ), (2, READ), (3, READ), (4, BOTH)],
        &[1, 2],
    ),
];

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
    value(DEVICE_ID_3, Metrology),
    object(9, 0, RESET_SCRIPTS, Comm, VALUE, &[1]),
];

/// What only the profile `procedure` has: device ID 3 with the state text and a method.
const PROCEDURE: &[Object] = &[object(1, 0, DEVICE_ID_3, Metrology, VALUE, &[1])];

/// All objects of a profile.
pub(crate) fn all(profile: Profile) -> impl Iterator<Item = &'static Object> {
    COMMON.iter().chain(match profile {
        Profile::Standard => STANDARD,
        Profile::Procedure => PROCEDURE,
    })
}

/// The object with this name, if it is of this class.
pub(crate) fn lookup(
    profile: Profile,
    class_id: u16,
    name: [u8; 6],
) -> Result<&'static Object, u8> {
    let object = all(profile)
        .find(|object| object.name == name)
        .ok_or(result::OBJECT_UNDEFINED)?;
    if object.class_id == class_id {
        Ok(object)
    } else {
        Err(result::OBJECT_CLASS_INCONSISTENT)
    }
}

const fn value(name: [u8; 6], board: BoardKind) -> Object {
    object(1, 0, name, board, VALUE, &[])
}

const fn object(
    class_id: u16,
    version: u8,
    name: [u8; 6],
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
