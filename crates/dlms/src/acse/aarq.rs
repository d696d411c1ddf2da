//! AARQ: a client asks for an association.

use alloc::vec::Vec;
use core::fmt;

use super::{REQUIREMENTS, begin, envelope, nested, octets, put, put_nested, seal};
use crate::error::Error;
use crate::mechanism::{ApplicationContext, Mechanism};
use crate::security::SystemTitle;

/// A-ASSOCIATE request, tag 60.
#[derive(Clone, PartialEq, Eq)]
pub struct Aarq {
    /// application-context-name, A1.
    pub context: ApplicationContext,
    /// calling-AP-title, A6: the client's system title.
    pub calling_title: Option<SystemTitle>,
    /// calling-AE-qualifier, A7: the client's certificate.
    pub calling_ae_qualifier: Option<Vec<u8>>,
    /// mechanism-name, 8B; absent without authentication.
    pub mechanism: Option<Mechanism>,
    /// calling-authentication-value, AC: the password, or the challenge CtoS.
    pub authentication_value: Option<Vec<u8>>,
    /// user-information, BE: an InitiateRequest, ciphered or not.
    pub user_information: Option<Vec<u8>>,
}

impl Aarq {
    /// Decodes an APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed or missing, with its offset.
    pub fn decode(apdu: &[u8]) -> Result<Self, Error> {
        let mut reader = envelope(apdu, 0x60, "the tag of an AARQ (60)")?;
        let mut context = None;
        let mut aarq = Self {
            context: ApplicationContext::Other(0),
            calling_title: None,
            calling_ae_qualifier: None,
            mechanism: None,
            authentication_value: None,
            user_information: None,
        };
        while reader.left() > 0 {
            let tag = reader.u8()?;
            let mut inner = reader.nested()?;
            match tag {
                0xA1 => {
                    let mut name = nested(&mut inner, 0x06, "an object identifier (06)")?;
                    context = Some(ApplicationContext::read(&mut name)?);
                }
                0xA6 => aarq.calling_title = read_title(&mut inner)?,
                0xA7 => {
                    let qualifier = nested(&mut inner, 0x04, "an octet string (04)")?;
                    aarq.calling_ae_qualifier = Some(octets(qualifier));
                }
                0x8B => aarq.mechanism = Some(Mechanism::read(&mut inner)?),
                0xAC => {
                    let value = nested(&mut inner, 0x80, "a character string (80)")?;
                    aarq.authentication_value = Some(octets(value));
                }
                0xBE => {
                    let information = nested(&mut inner, 0x04, "an octet string (04)")?;
                    aarq.user_information = Some(octets(information));
                }
                // protocol version, called titles, invocation ids, requirements, implementation information
                _ => {}
            }
        }
        aarq.context = context.ok_or(Error::Missing {
            offset: reader.offset(),
            expected: "an application context name (A1)",
        })?;
        Ok(aarq)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(0x60);
        put_nested(&mut out, 0xA1, 0x06, &self.context.name());
        if let Some(title) = self.calling_title {
            put_nested(&mut out, 0xA6, 0x04, &title.bytes());
        }
        if let Some(qualifier) = &self.calling_ae_qualifier {
            put_nested(&mut out, 0xA7, 0x04, qualifier);
        }
        if let Some(mechanism) = self.mechanism {
            put(&mut out, 0x8A, &REQUIREMENTS);
            put(&mut out, 0x8B, &mechanism.name());
        }
        if let Some(value) = &self.authentication_value {
            put_nested(&mut out, 0xAC, 0x80, value);
        }
        if let Some(information) = &self.user_information {
            put_nested(&mut out, 0xBE, 0x04, information);
        }
        seal(out)
    }
}

/// A title of no octets counts as none.
pub(super) fn read_title(
    inner: &mut crate::axdr::Reader<'_>,
) -> Result<Option<SystemTitle>, Error> {
    let offset = inner.offset();
    let title = nested(inner, 0x04, "an octet string (04)")?.rest();
    match SystemTitle::from_slice(title) {
        Some(title) => Ok(Some(title)),
        None if title.is_empty() => Ok(None),
        None => Err(Error::Bounds {
            offset,
            expected: "a system title of 8 octets",
            found: title.len(),
        }),
    }
}

/// The authentication value may be a password: it is not shown.
impl fmt::Debug for Aarq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aarq")
            .field("context", &self.context)
            .field("calling_title", &self.calling_title)
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}
