//! Authentication mechanisms and application contexts: the object identifiers of the DLMS UA, 2.16.756.5.8.

use crate::axdr::Reader;
use crate::error::Error;
use crate::security::{GmacToken, Suite, SystemTitle};

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

    /// Whether the association values of this crate speak it: all but 2, which every manufacturer does otherwise.
    ///
    /// 3 and 4 rest on broken hashes: a policy outside of this crate decides whether they may be used.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        !matches!(self, Self::HlsManufacturer)
    }

    /// The shortest challenge it may have, in octets; the longest is [`CHALLENGE_MAX`].
    #[must_use]
    pub const fn challenge_min(self) -> usize {
        match self {
            Self::HlsEcdsa => 32,
            Self::None
            | Self::Low
            | Self::HlsManufacturer
            | Self::HlsMd5
            | Self::HlsSha1
            | Self::HlsGmac
            | Self::HlsSha256 => CHALLENGE_MIN,
        }
    }

    /// Octets of its token f(challenge) in a suite. Nothing where there is none: below HLS, the manufacturer's own, and
    /// ECDSA in suite 0, which has no curve.
    #[must_use]
    pub const fn token_len(self, suite: Suite) -> Option<usize> {
        match self {
            Self::None | Self::Low | Self::HlsManufacturer => None,
            Self::HlsMd5 => Some(16),
            Self::HlsSha1 => Some(20),
            Self::HlsGmac => Some(GmacToken::LENGTH),
            Self::HlsSha256 => Some(32),
            Self::HlsEcdsa => match suite.signature_len() {
                0 => None,
                length => Some(length),
            },
        }
    }

    /// The content octets of its object identifier.
    pub(crate) const fn name(self) -> [u8; 7] {
        let [a, b, c, d, e, f] = MECHANISM;
        [a, b, c, d, e, f, self.id()]
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

/// A piece of what a token is computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The HLS secret goes here: a holder of keys that does not show it digests it in its place.
    Secret,
    /// These octets.
    Octets(&'a [u8]),
}

/// What the token of HLS 3, 4, 6 or 7 is computed over, by the party that makes it (HLS 5: [`crate::security::aad`]).
///
/// 3 and 4: challenge || secret, hashed. 6: secret || own title || other title || challenge || own challenge, hashed.
/// 7: the same without the secret, signed. The challenge is the one that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HlsInput<'a> {
    mechanism: Mechanism,
    titles: [[u8; 8]; 2],
    challenges: [&'a [u8]; 2],
}

impl<'a> HlsInput<'a> {
    /// Of a token that `signer` makes for `other`, over the challenge it received from `other` and the one it had sent.
    /// Nothing for mechanisms whose tokens are made otherwise.
    ///
    /// To check a peer's token: the peer is the signer, and received one's own challenge.
    #[must_use]
    pub const fn new(
        mechanism: Mechanism,
        signer: SystemTitle,
        other: SystemTitle,
        received: &'a [u8],
        sent: &'a [u8],
    ) -> Option<Self> {
        match mechanism {
            Mechanism::HlsMd5 | Mechanism::HlsSha1 | Mechanism::HlsSha256 | Mechanism::HlsEcdsa => {
                Some(Self {
                    mechanism,
                    titles: [signer.bytes(), other.bytes()],
                    challenges: [received, sent],
                })
            }
            Mechanism::None | Mechanism::Low | Mechanism::HlsManufacturer | Mechanism::HlsGmac => {
                None
            }
        }
    }

    /// The pieces, in their order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let [signer, other] = self.titles.each_ref().map(|title| Piece::Octets(title));
        let [received, sent] = self.challenges.map(Piece::Octets);
        let all = [signer, other, received, sent];
        match self.mechanism {
            Mechanism::HlsSha256 => [Some(Piece::Secret), None].into_iter().chain(all.map(Some)),
            Mechanism::HlsEcdsa => [None, None].into_iter().chain(all.map(Some)),
            Mechanism::None
            | Mechanism::Low
            | Mechanism::HlsManufacturer
            | Mechanism::HlsMd5
            | Mechanism::HlsSha1
            | Mechanism::HlsGmac => [Some(received), Some(Piece::Secret)]
                .into_iter()
                .chain([None; 4]),
        }
        .flatten()
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

    /// The content octets of its object identifier.
    pub(crate) const fn name(self) -> [u8; 7] {
        let [a, b, c, d, e, f] = CONTEXT;
        [a, b, c, d, e, f, self.id()]
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn tokens_and_challenges_of_each_mechanism() {
        for (id, token) in [
            None,
            None,
            None,
            Some(16),
            Some(20),
            Some(17),
            Some(32),
            Some(64),
        ]
        .into_iter()
        .enumerate()
        {
            let mechanism = Mechanism::from_id(u8::try_from(id).unwrap()).unwrap();
            assert_eq!(mechanism.token_len(Suite::Suite1), token);
            assert_eq!(mechanism.is_supported(), id != 2);
            assert_eq!(mechanism.challenge_min(), if id == 7 { 32 } else { 8 });
        }
        assert_eq!(Mechanism::HlsEcdsa.token_len(Suite::Suite0), None);
        assert_eq!(Mechanism::HlsEcdsa.token_len(Suite::Suite2), Some(96));
    }

    #[test]
    fn tokens_are_computed_over_their_pieces_in_order() {
        let (signer, other) = (SystemTitle::new([1; 8]), SystemTitle::new([2; 8]));
        let pieces = |mechanism| {
            let input = HlsInput::new(mechanism, signer, other, b"received", b"sent")?;
            Some(input.pieces().fold(Vec::new(), |mut all, piece| {
                match piece {
                    Piece::Secret => all.extend_from_slice(b"SECRET"),
                    Piece::Octets(octets) => all.extend_from_slice(octets),
                }
                all
            }))
        };
        let titles = [[1; 8], [2; 8]].concat();
        let both = [&titles[..], b"receivedsent"].concat();
        for mechanism in [Mechanism::HlsMd5, Mechanism::HlsSha1] {
            assert_eq!(pieces(mechanism).unwrap(), b"receivedSECRET");
        }
        let secret_first = [b"SECRET", &both[..]].concat();
        assert_eq!(pieces(Mechanism::HlsSha256), Some(secret_first));
        assert_eq!(pieces(Mechanism::HlsEcdsa), Some(both));
        for mechanism in [
            Mechanism::Low,
            Mechanism::HlsGmac,
            Mechanism::HlsManufacturer,
        ] {
            assert_eq!(pieces(mechanism), None);
        }
    }
}
