//! Class 15, Association LN: what a client may do, and what was negotiated with it. Versions 0 to 3.

use alloc::vec::Vec;
use core::fmt;

use super::value::{Code, Elements, Mismatch, Octets, Text, Value, code};
use crate::conformance::Conformance;
use crate::data::Data;
use crate::mechanism::{ApplicationContext, Mechanism};
use crate::obis::Obis;

class! {
    15, "Association LN";
    attributes {
        /// The objects that the client can see, and its rights to them.
        2 OBJECT_LIST "object_list": Vec<ListedObject>;
        /// Who is associated.
        3 ASSOCIATED_PARTNERS_ID "associated_partners_id": Partners;
        /// The application context.
        4 APPLICATION_CONTEXT_NAME "application_context_name": ContextName;
        /// What was negotiated.
        5 XDLMS_CONTEXT_INFO "xDLMS_context_info": ContextInfo;
        /// The authentication mechanism.
        6 AUTHENTICATION_MECHANISM_NAME "authentication_mechanism_name": MechanismName;
        /// The password or the HLS secret; hardly any meter lets it be read.
        7 SECRET "secret": Secret;
        /// How far the association is.
        8 ASSOCIATION_STATUS "association_status": Status;
        /// The security setup of the association. From version 1.
        9 SECURITY_SETUP_REFERENCE "security_setup_reference": Octets;
        /// The users of the client. From version 2.
        10 USER_LIST "user_list": Vec<User>;
        /// The user of this association. From version 2.
        11 CURRENT_USER "current_user": User;
    }
    methods {
        /// Passes 3 and 4 of HLS.
        1 REPLY_TO_HLS_AUTHENTICATION "reply_to_HLS_authentication": Octets => Octets;
        /// Changes the HLS secret.
        2 CHANGE_HLS_SECRET "change_HLS_secret": Secret;
        /// Adds an object to the list.
        3 ADD_OBJECT "add_object": ListedObject;
        /// Removes an object from the list.
        4 REMOVE_OBJECT "remove_object": ListedObject;
        /// Adds a user. From version 2.
        5 ADD_USER "add_user": User;
        /// Removes a user. From version 2.
        6 REMOVE_USER "remove_user": User;
    }
}

structure! {
    /// An object, and what the client may do with it.
    pub struct ListedObject as "structure of class_id, version, logical_name and access_rights" {
        /// Its class.
        class_id: u16,
        /// Version of its class.
        version: u8,
        /// Its name.
        name: Obis,
        /// The rights.
        rights: AccessRights,
    }
}

structure! {
    /// Rights to the members of an object. A member that is not listed does not exist for the client.
    pub struct AccessRights as "structure of attribute_access and method_access" {
        /// To its attributes.
        attributes: Vec<AttributeAccess>,
        /// To its methods.
        methods: Vec<MethodAccess>,
    }
}

impl AccessRights {
    /// The right to an attribute; `version` is that of the association object.
    #[must_use]
    pub fn attribute(&self, index: i8, version: u8) -> Access {
        let found = self.attributes.iter().find(|access| access.index == index);
        found.map_or(Access::default(), |access| {
            Access::to_attribute(access.mode.0, version)
        })
    }

    /// The right to a method; `version` is that of the association object.
    #[must_use]
    pub fn method(&self, index: i8, version: u8) -> Access {
        let found = self.methods.iter().find(|access| access.index == index);
        found.map_or(Access::default(), |access| access.mode.access(version))
    }
}

structure! {
    /// The right to an attribute.
    pub struct AttributeAccess as "structure of attribute_id, access_mode and access_selectors" {
        /// The attribute.
        index: i8,
        /// The access mode; what it means depends on the version of the association object: [`Access::to_attribute`].
        mode: Code,
        /// The selectors of selective access; `None` if there is none.
        selectors: Option<Vec<i8>>,
    }
}

structure! {
    /// The right to a method.
    pub struct MethodAccess as "structure of method_id and access_mode" {
        /// The method.
        index: i8,
        /// The access mode.
        mode: MethodMode,
    }
}

/// The access mode of a method: a boolean in version 0 of the association object, later an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MethodMode {
    /// Version 0.
    Flag(bool),
    /// Later versions.
    Mode(u8),
}

impl MethodMode {
    /// What it allows; `version` is that of the association object.
    #[must_use]
    pub const fn access(self, version: u8) -> Access {
        match self {
            Self::Flag(access) => Access {
                execute: access,
                ..Access::NONE
            },
            Self::Mode(mode) => Access::to_method(mode, version),
        }
    }
}

impl Value for MethodMode {
    const EXPECTED: &'static str = "boolean or enum";

    fn to_data(&self) -> Data {
        match self {
            Self::Flag(access) => Data::Boolean(*access),
            Self::Mode(mode) => Data::Enum(*mode),
        }
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        match data.as_bool() {
            Some(access) => Ok(Self::Flag(access)),
            None => code(data, Self::EXPECTED).map(Self::Mode),
        }
    }
}

/// What an access mode means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Access {
    /// The attribute can be read.
    pub read: bool,
    /// The attribute can be written.
    pub write: bool,
    /// The method can be invoked.
    pub execute: bool,
    /// The request must be authenticated.
    pub authenticated_request: bool,
    /// The request must be encrypted.
    pub encrypted_request: bool,
    /// The request must be signed.
    pub signed_request: bool,
    /// The response is authenticated.
    pub authenticated_response: bool,
    /// The response is encrypted.
    pub encrypted_response: bool,
    /// The response is signed.
    pub signed_response: bool,
}

impl Access {
    /// No right.
    pub const NONE: Self = Self {
        read: false,
        write: false,
        execute: false,
        authenticated_request: false,
        encrypted_request: false,
        signed_request: false,
        authenticated_response: false,
        encrypted_response: false,
        signed_response: false,
    };

    /// The access mode of an attribute: to version 2 a number (1 read, 2 write, 3 both, 4 to 6 the same
    /// authenticated), from version 3 a set of bits. A number that has no meaning gives no right.
    #[must_use]
    pub const fn to_attribute(mode: u8, version: u8) -> Self {
        if version >= 3 {
            return Self {
                read: mode & 1 != 0,
                write: mode & 2 != 0,
                ..Self::protected(mode)
            };
        }
        Self {
            read: matches!(mode, 1 | 3 | 4 | 6),
            write: matches!(mode, 2 | 3 | 5 | 6),
            authenticated_request: matches!(mode, 4..=6),
            ..Self::NONE
        }
    }

    /// The access mode of a method: to version 2 a number (1 access, 2 authenticated access), from version 3 a set of
    /// bits.
    #[must_use]
    pub const fn to_method(mode: u8, version: u8) -> Self {
        if version >= 3 {
            return Self {
                execute: mode & 1 != 0,
                ..Self::protected(mode)
            };
        }
        Self {
            execute: matches!(mode, 1 | 2),
            authenticated_request: mode == 2,
            ..Self::NONE
        }
    }

    const fn protected(mode: u8) -> Self {
        Self {
            authenticated_request: mode & 0x04 != 0,
            encrypted_request: mode & 0x08 != 0,
            signed_request: mode & 0x10 != 0,
            authenticated_response: mode & 0x20 != 0,
            encrypted_response: mode & 0x40 != 0,
            signed_response: mode & 0x80 != 0,
            ..Self::NONE
        }
    }
}

structure! {
    /// The two ends.
    pub struct Partners as "structure of client_SAP and server_SAP" {
        /// The client.
        client: ClientSap,
        /// The logical device.
        server: u16,
    }
}

/// A client's SAP: an integer, or something wider where that is too narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientSap(pub u16);

impl Value for ClientSap {
    const EXPECTED: &'static str = "integer";

    fn to_data(&self) -> Data {
        i8::try_from(self.0).map_or(Data::LongUnsigned(self.0), Data::Integer)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        u16::from_data(data)
            .map(Self)
            .map_err(|_| Mismatch::new(Self::EXPECTED, data))
    }
}

structure! {
    /// What was negotiated.
    pub struct ContextInfo as "structure of conformance, two PDU sizes, dlms_version, quality_of_service and cyphering_info" {
        /// The services.
        conformance: Conformance,
        /// The longest APDU the server takes, in octets.
        max_receive_pdu: u16,
        /// The longest APDU the server sends, in octets.
        max_send_pdu: u16,
        /// The DLMS version: 6.
        version: u8,
        /// Not used.
        quality_of_service: i8,
        /// The dedicated key, where it was ciphered; meters keep it empty.
        cyphering_info: Option<Secret>,
    }
}

impl Value for Conformance {
    const EXPECTED: &'static str = "bit-string of 24 bits";

    fn to_data(&self) -> Data {
        let [_, octets @ ..] = self.bits().to_be_bytes();
        Data::BitString {
            bits: 24,
            bytes: octets.to_vec(),
        }
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        if let Data::BitString { bits: 24, bytes } = data
            && let [high, middle, low] = bytes.as_slice()
        {
            let bits = u32::from_be_bytes([0, *high, *middle, *low]);
            return Ok(Self::new(bits));
        }
        Err(Mismatch::new(Self::EXPECTED, data))
    }
}

/// The application context, as an object identifier in octets; read also as a structure of its seven arcs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContextName(pub ApplicationContext);

impl Value for ContextName {
    const EXPECTED: &'static str = "the context name 2.16.756.5.8.1.x";

    fn to_data(&self) -> Data {
        identifier(1, self.0.id())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let id = arc(data, 1, Self::EXPECTED)?;
        Ok(Self(ApplicationContext::from_id(id)))
    }
}

/// The authentication mechanism, as an object identifier in octets; read also as a structure of its seven arcs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MechanismName(pub Mechanism);

impl Value for MechanismName {
    const EXPECTED: &'static str = "the mechanism name 2.16.756.5.8.2.x, x 0..7";

    fn to_data(&self) -> Data {
        identifier(2, self.0.id())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        arc(data, 2, Self::EXPECTED).and_then(|id| {
            Mechanism::from_id(id)
                .map(Self)
                .ok_or_else(|| Mismatch::new(Self::EXPECTED, data))
        })
    }
}

fn identifier(kind: u8, id: u8) -> Data {
    Data::OctetString([0x60, 0x85, 0x74, 5, 8, kind, id].into())
}

/// The last arc of an object identifier of the DLMS UA.
fn arc(data: &Data, kind: u8, expected: &'static str) -> Result<u8, Mismatch> {
    let wrong = || Mismatch::new(expected, data);
    if let Some(octets) = data.as_bytes() {
        return match octets {
            [0x60, 0x85, 0x74, 5, 8, found, id] if *found == kind => Ok(*id),
            _ => Err(wrong()),
        };
    }
    let mut elements = Elements::of(data, 7, expected)?;
    for known in [2, 16, 756, 5, 8, u16::from(kind)] {
        if elements.next::<u16>()? != known {
            return Err(wrong());
        }
    }
    elements.next()
}

codes! {
    /// How far an association is.
    pub enum Status as "enum 0..2", lenient {
        /// Nobody is associated.
        NonAssociated = 0, "non-associated";
        /// HLS is not finished.
        Pending = 1, "association pending";
        /// It is in use.
        Associated = 2, "associated";
    }
}

structure! {
    /// A user of a client.
    pub struct User as "structure of user_id and user_name" {
        /// Its id.
        id: u8,
        /// Its name.
        name: Text,
    }
}

/// Octets that are not shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl Value for Secret {
    const EXPECTED: &'static str = "octet-string";

    fn to_data(&self) -> Data {
        Data::OctetString(self.0.clone())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        Octets::from_data(data).map(|octets| Self(octets.0))
    }
}
