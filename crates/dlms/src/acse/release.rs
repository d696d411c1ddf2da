//! RLRQ and RLRE: an association is released.

use alloc::vec::Vec;

use super::{begin, envelope, nested, octets, put, put_nested, seal};
use crate::error::Error;

macro_rules! release {
    ($(#[$doc:meta])* $name:ident, $tag:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            /// reason, 80: 0 normal, 1 urgent or not finished, 30 user defined.
            pub reason: Option<u8>,
            /// user-information, BE: in a ciphered association, the ciphered initiate APDU.
            pub user_information: Option<Vec<u8>>,
        }

        impl $name {
            /// Decodes an APDU that fills `octets` exactly.
            ///
            /// # Errors
            /// What is malformed, with its offset.
            pub fn decode(apdu: &[u8]) -> Result<Self, Error> {
                let (reason, user_information) = read(apdu, $tag, $expected)?;
                Ok(Self { reason, user_information })
            }

            /// The octets of the APDU.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                let mut out = begin($tag);
                if let Some(reason) = self.reason {
                    put(&mut out, 0x80, &[reason]);
                }
                if let Some(information) = &self.user_information {
                    put_nested(&mut out, 0xBE, 0x04, information);
                }
                seal(out)
            }
        }
    };
}

release! {
    /// A-RELEASE request, tag 62.
    Rlrq, 0x62, "the tag of an RLRQ (62)"
}

release! {
    /// A-RELEASE response, tag 63.
    Rlre, 0x63, "the tag of an RLRE (63)"
}

fn read(
    apdu: &[u8],
    tag: u8,
    expected: &'static str,
) -> Result<(Option<u8>, Option<Vec<u8>>), Error> {
    let mut reader = envelope(apdu, tag, expected)?;
    let (mut reason, mut information) = (None, None);
    while reader.left() > 0 {
        let tag = reader.u8()?;
        let mut inner = reader.nested()?;
        match tag {
            0x80 => {
                reason = Some(inner.u8()?);
                inner.finish()?;
            }
            0xBE => information = Some(octets(nested(&mut inner, 0x04, "an octet string (04)")?)),
            _ => {}
        }
    }
    Ok((reason, information))
}
