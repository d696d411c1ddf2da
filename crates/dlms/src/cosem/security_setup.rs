//! Class 64, Security setup: what must be protected and with what, and how keys are changed. Versions 0 and 1.

use alloc::vec::Vec;

use super::value::{Code, Elements, Mismatch, Octets, Title, Value, code, strict};
pub use crate::agreement::{KeyId, KeyTransfer};
use crate::data::Data;
use crate::security::Suite;

class! {
    64, "Security setup";
    attributes {
        /// What must be protected.
        2 SECURITY_POLICY "security_policy": Policy;
        /// The security suite.
        3 SECURITY_SUITE "security_suite": Suite;
        /// The system title of the client.
        4 CLIENT_SYSTEM_TITLE "client_system_title": Title;
        /// The system title of the meter.
        5 SERVER_SYSTEM_TITLE "server_system_title": Title;
        /// The certificates the meter holds. From version 1.
        6 CERTIFICATES "certificates": Vec<Certificate>;
    }
    methods {
        /// Strengthens the policy; it never becomes weaker.
        1 SECURITY_ACTIVATE "security_activate": Policy;
        /// Replaces keys, each wrapped with the key-encrypting key. In version 0: `global_key_transfer`.
        2 KEY_TRANSFER "key_transfer": Vec<KeyTransfer>;
        /// Agrees on keys: ephemeral public keys and their signatures there and back. From version 1.
        3 KEY_AGREEMENT "key_agreement": Vec<AgreedKey> => Vec<AgreedKey>;
        /// Makes a key pair in the meter. From version 1.
        4 GENERATE_KEY_PAIR "generate_key_pair": KeyPair;
        /// Asks for a request to certify a key pair. From version 1.
        5 GENERATE_CERTIFICATE_REQUEST "generate_certificate_request": KeyPair => Octets;
        /// Gives the meter a certificate. From version 1.
        6 IMPORT_CERTIFICATE "import_certificate": Octets;
        /// Asks for a certificate. From version 1.
        7 EXPORT_CERTIFICATE "export_certificate": CertificateId => Octets;
        /// Takes a certificate from the meter. From version 1.
        8 REMOVE_CERTIFICATE "remove_certificate": CertificateId;
    }
}

/// A security policy of either version. Their codes differ, so that each says which one it is: version 0 counts from
/// 0 to 3, version 1 has bits from 2 up. 0 means the same in both: nothing must be protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Policy(u8);

impl Policy {
    /// Nothing must be protected.
    pub const NONE: Self = Self(0);
    /// Version 1, bit 2: requests are authenticated.
    pub const AUTHENTICATED_REQUEST: Self = Self(0x04);
    /// Version 1, bit 3: requests are encrypted.
    pub const ENCRYPTED_REQUEST: Self = Self(0x08);
    /// Version 1, bit 4: requests are signed.
    pub const SIGNED_REQUEST: Self = Self(0x10);
    /// Version 1, bit 5: responses are authenticated.
    pub const AUTHENTICATED_RESPONSE: Self = Self(0x20);
    /// Version 1, bit 6: responses are encrypted.
    pub const ENCRYPTED_RESPONSE: Self = Self(0x40);
    /// Version 1, bit 7: responses are signed.
    pub const SIGNED_RESPONSE: Self = Self(0x80);

    /// From the code of either version; `None` if it is of neither.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0..=3 => Some(Self(code)),
            _ if code & 0x03 == 0 => Some(Self(code)),
            _ => None,
        }
    }

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Both of two policies of version 1.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.bits() | other.bits())
    }

    /// Whether it asks for everything that `other` asks for, whatever their versions.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.bits() & other.bits() == other.bits()
    }

    /// In the bits of version 1. Version 0 means both directions.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self.0 {
            1 => 0x24,
            2 => 0x48,
            3 => 0x6C,
            bits => bits,
        }
    }
}

impl Value for Policy {
    const EXPECTED: &'static str = "enum 0..3, or bits from 2 up";

    fn to_data(&self) -> Data {
        Data::Enum(self.0)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let code = code(data, Self::EXPECTED)?;
        Self::from_code(code).ok_or_else(|| Mismatch::new(Self::EXPECTED, data))
    }
}

impl Value for Suite {
    const EXPECTED: &'static str = "enum 0..2";

    fn to_data(&self) -> Data {
        Data::Enum(self.id())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let id = code(data, <Self as Value>::EXPECTED)?;
        Self::from_id(id).ok_or_else(|| Mismatch::new(<Self as Value>::EXPECTED, data))
    }
}

/// A key on its way: structure of key_id and key_wrapped.
impl Value for KeyTransfer {
    const EXPECTED: &'static str = "structure of key_id and key_wrapped";

    fn to_data(&self) -> Data {
        Data::Structure(Vec::from([
            self.key.to_data(),
            Data::OctetString(self.wrapped.clone()),
        ]))
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let mut elements = Elements::of(data, 2, Self::EXPECTED)?;
        Ok(Self {
            key: elements.next()?,
            wrapped: elements.next::<Octets>()?.0,
        })
    }
}

/// Which key. Read strictly: the wrong one could not be taken back.
impl Value for KeyId {
    const EXPECTED: &'static str = "enum 0..3";

    fn to_data(&self) -> Data {
        Data::Enum(self.id())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let id = strict(data, Self::EXPECTED)?;
        Self::from_id(id).ok_or_else(|| Mismatch::new(Self::EXPECTED, data))
    }
}

structure! {
    /// One side of an agreement on a key.
    pub struct AgreedKey as "structure of key_id and key_data" {
        /// Which key is agreed.
        key: KeyId,
        /// A [`SignedKey`](crate::agreement::SignedKey) of the suite: 128 or 192 octets.
        data: Octets,
    }
}

codes! {
    /// What a key pair is for.
    pub enum KeyPair as "enum 0..2", lenient {
        /// Signatures.
        DigitalSignature = 0, "digital signature";
        /// Key agreement.
        KeyAgreement = 1, "key agreement";
        /// TLS.
        Tls = 2, "TLS";
    }
}

codes! {
    /// Whose certificate.
    pub enum Entity as "enum 0..3", lenient {
        /// The meter.
        Server = 0, "server";
        /// A client.
        Client = 1, "client";
        /// Who certifies.
        CertificationAuthority = 2, "certification authority";
        /// Somebody else.
        Other = 3, "other";
    }
}

codes! {
    /// What a certificate is for.
    pub enum CertificateType as "enum 0..3", lenient {
        /// Signatures.
        DigitalSignature = 0, "digital signature";
        /// Key agreement.
        KeyAgreement = 1, "key agreement";
        /// TLS.
        Tls = 2, "TLS";
        /// Something else.
        Other = 3, "other";
    }
}

structure! {
    /// A certificate that a meter holds.
    pub struct Certificate as "structure of entity, type, serial_number, issuer, subject and subject_alt_name" {
        /// Whose.
        entity: Entity,
        /// What for.
        kind: CertificateType,
        /// Its number.
        serial_number: Octets,
        /// Who certified it.
        issuer: Octets,
        /// Who it names.
        subject: Octets,
        /// Another name.
        subject_alt_name: Octets,
    }
}

/// Which certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateId {
    /// By whose it is and what it is for.
    Entity {
        /// Whose.
        entity: Entity,
        /// What for.
        kind: CertificateType,
        /// The system title of its owner.
        system_title: Octets,
    },
    /// By its number.
    Serial {
        /// Its number.
        serial_number: Octets,
        /// Who certified it.
        issuer: Octets,
    },
}

impl Value for CertificateId {
    const EXPECTED: &'static str = "structure of certificate_identification_type 0..1 and options";

    fn to_data(&self) -> Data {
        let (kind, options) = match self {
            Self::Entity {
                entity,
                kind,
                system_title,
            } => (
                0,
                Vec::from([entity.to_data(), kind.to_data(), system_title.to_data()]),
            ),
            Self::Serial {
                serial_number,
                issuer,
            } => (1, Vec::from([serial_number.to_data(), issuer.to_data()])),
        };
        Data::Structure(Vec::from([Data::Enum(kind), Data::Structure(options)]))
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let mut outer = Elements::of(data, 2, Self::EXPECTED)?;
        let kind: Code = outer.next()?;
        let options: Data = outer.next()?;
        match kind.0 {
            0 => {
                let mut inner = Elements::of(&options, 3, "structure of entity, type and title")?;
                Ok(Self::Entity {
                    entity: inner.next()?,
                    kind: inner.next()?,
                    system_title: inner.next()?,
                })
            }
            1 => {
                let mut inner = Elements::of(&options, 2, "structure of serial_number and issuer")?;
                Ok(Self::Serial {
                    serial_number: inner.next()?,
                    issuer: inner.next()?,
                })
            }
            _ => Err(Mismatch::new(Self::EXPECTED, data)),
        }
    }
}
