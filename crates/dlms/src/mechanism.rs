//! Authentication mechanisms and application contexts: the object identifiers of the DLMS UA, 2.16.756.5.8.

use alloc::vec::Vec;

use crate::axdr::Reader;
use crate::error::Error;

/// Shortest challenge (IEC 62056-5-3, HLS).
pub const CHALLENGE_MIN: usize = 8;
/// Longest challenge or password.
pub const CHALLENGE_MAX: usize = 64;

const CONTEXT: [u8; 6] = [0x60, 0x85, 0x74, 0x05, 0x08, 0x01];
const MECHANISM: [u8; 6] = [0x60, 0x85, 0x74, 0x05, 0x08, 0x02];

/// How the parties of an association are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// 0, lowest level: not at all.
    None,
    /// 1, low level: a password.
    Low,
    /// 2, high level, the manufacturer's own.
    HlsManufacturer,
    /// 3, high level with MD5.
    HlsMd5,
    /// 4, high level with SHA-1.
    HlsSha1,
    /// 5, high level with GMAC.
    HlsGmac,
    /// 6, high level with SHA-256.
    HlsSha256,
    /// 7, high level with ECDSA.
    HlsEcdsa,
}

impl Mechanism {
    /// From its id, the last arc of its object identifier.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Low,
            2 => Self::HlsManufacturer,
            3 => Self::HlsMd5,
            4 => Self::HlsSha1,
            5 => Self::HlsGmac,
            6 => Self::HlsSha256,
            7 => Self::HlsEcdsa,
            _ => return None,
        })
    }

    /// Its id.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Low => 1,
            Self::HlsManufacturer => 2,
            Self::HlsMd5 => 3,
            Self::HlsSha1 => 4,
            Self::HlsGmac => 5,
            Self::HlsSha256 => 6,
            Self::HlsEcdsa => 7,
        }
    }

    /// Whether it has passes 3 and 4.
    #[must_use]
    pub const fn is_high_level(self) -> bool {
        self.id() >= 2
    }

    /// Whether the association values of this crate speak it: 0, 1 and 5.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        matches!(self.id(), 0 | 1 | 5)
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MECHANISM);
        out.push(self.id());
    }

    /// Reads the content octets of the object identifier, to the end of the reader.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        prefix(reader, MECHANISM, "the mechanism name 2.16.756.5.8.2")?;
        let offset = reader.offset();
        let found = reader.u8()?;
        reader.finish()?;
        Self::from_id(found).ok_or(Error::Unexpected {
            offset,
            expected: "a mechanism id 0..7",
            found,
        })
    }
}

/// The application context: referencing by logical or short names, with or without ciphering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplicationContext {
    /// 1: logical names, no ciphering.
    LogicalName,
    /// 2: short names, no ciphering.
    ShortName,
    /// 3: logical names, ciphering.
    LogicalNameCiphered,
    /// 4: short names, ciphering.
    ShortNameCiphered,
    /// Another id.
    Other(u8),
}

impl ApplicationContext {
    /// From its id, the last arc of its object identifier.
    #[must_use]
    pub const fn from_id(id: u8) -> Self {
        match id {
            1 => Self::LogicalName,
            2 => Self::ShortName,
            3 => Self::LogicalNameCiphered,
            4 => Self::ShortNameCiphered,
            _ => Self::Other(id),
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::LogicalName => 1,
            Self::ShortName => 2,
            Self::LogicalNameCiphered => 3,
            Self::ShortNameCiphered => 4,
            Self::Other(id) => id,
        }
    }

    /// The context of logical names, with or without ciphering.
    #[must_use]
    pub const fn logical_name(ciphered: bool) -> Self {
        if ciphered {
            Self::LogicalNameCiphered
        } else {
            Self::LogicalName
        }
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&CONTEXT);
        out.push(self.id());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        prefix(reader, CONTEXT, "the context name 2.16.756.5.8.1")?;
        let id = reader.u8()?;
        reader.finish()?;
        Ok(Self::from_id(id))
    }
}

fn prefix(reader: &mut Reader<'_>, arcs: [u8; 6], expected: &'static str) -> Result<(), Error> {
    arcs.into_iter()
        .try_for_each(|arc| reader.tag(arc, expected))
}
