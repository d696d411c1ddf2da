//! AARE: the server's answer to an AARQ.

use alloc::vec::Vec;
use core::fmt;

use super::aarq::read_title;
use super::{REQUIREMENTS, begin, envelope, nested, octets, put, put_nested, seal};
use crate::axdr::Reader;
use crate::error::Error;
use crate::mechanism::{ApplicationContext, Mechanism};
use crate::security::SystemTitle;

/// Whether the association is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AssociationResult {
    /// 0: granted; with HLS, until pass 4 only for passes 3 and 4.
    Accepted,
    /// 1: asking again changes nothing.
    RejectedPermanent,
    /// 2: not now.
    RejectedTransient,
}

/// result-source-diagnostic: who says so, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Diagnostic {
    /// A1: the ACSE service user.
    User(u8),
    /// A2: the ACSE service provider.
    Provider(u8),
}

impl Diagnostic {
    /// No reason to give.
    pub const NULL: Self = Self::User(0);
    /// No reason given.
    pub const NO_REASON: Self = Self::User(1);
    /// The application context is not supported.
    pub const CONTEXT_NOT_SUPPORTED: Self = Self::User(2);
    /// The calling AP title is not recognised.
    pub const CALLING_TITLE_NOT_RECOGNISED: Self = Self::User(3);
    /// The mechanism is not recognised.
    pub const MECHANISM_NOT_RECOGNISED: Self = Self::User(11);
    /// A mechanism is required.
    pub const MECHANISM_REQUIRED: Self = Self::User(12);
    /// The password or the secret is wrong.
    pub const AUTHENTICATION_FAILURE: Self = Self::User(13);
    /// Passes 3 and 4 are due.
    pub const AUTHENTICATION_REQUIRED: Self = Self::User(14);

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User(code) => match code {
                0 => "null",
                1 => "no-reason-given",
                2 => "application-context-name-not-supported",
                3 => "calling-AP-title-not-recognized",
                4 => "calling-AP-invocation-identifier-not-recognized",
                5 => "calling-AE-qualifier-not-recognized",
                6 => "calling-AE-invocation-identifier-not-recognized",
                7 => "called-AP-title-not-recognized",
                8 => "called-AP-invocation-identifier-not-recognized",
                9 => "called-AE-qualifier-not-recognized",
                10 => "called-AE-invocation-identifier-not-recognized",
                11 => "authentication-mechanism-name-not-recognised",
                12 => "authentication-mechanism-name-required",
                13 => "authentication-failure",
                14 => "authentication-required",
                _ => "unknown-user-diagnostic",
            },
            Self::Provider(code) => match code {
                0 => "null",
                1 => "no-reason-given",
                2 => "no-common-acse-version",
                _ => "unknown-provider-diagnostic",
            },
        }
    }

    /// Its code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::User(code) | Self::Provider(code) => code,
        }
    }

    /// Whether it speaks of authentication.
    #[must_use]
    pub const fn is_security(self) -> bool {
        matches!(self, Self::User(11..=14))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.code())
    }
}

/// A-ASSOCIATE response, tag 61.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aare {
    /// application-context-name, A1.
    pub context: ApplicationContext,
    /// result, A2.
    pub result: AssociationResult,
    /// result-source-diagnostic, A3.
    pub diagnostic: Diagnostic,
    /// responding-AP-title, A4: the server's system title.
    pub responding_title: Option<SystemTitle>,
    /// responding-AE-qualifier, A5: the server's certificate.
    pub responding_ae_qualifier: Option<Vec<u8>>,
    /// mechanism-name, 89. Some servers leave it out even with HLS.
    pub mechanism: Option<Mechanism>,
    /// responding-authentication-value, AA: the challenge StoC.
    pub authentication_value: Option<Vec<u8>>,
    /// user-information, BE: an InitiateResponse, ciphered or not, or a ConfirmedServiceError.
    pub user_information: Option<Vec<u8>>,
}

impl Aare {
    /// Decodes an APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed or missing, with its offset.
    pub fn decode(apdu: &[u8]) -> Result<Self, Error> {
        let mut reader = envelope(apdu, 0x61, "the tag of an AARE (61)")?;
        let (mut context, mut result, mut diagnostic) = (None, None, None);
        let mut optional = Optional::default();
        while reader.left() > 0 {
            let tag = reader.u8()?;
            let mut inner = reader.nested()?;
            match tag {
                0xA1 => {
                    let mut name = nested(&mut inner, 0x06, "an object identifier (06)")?;
                    context = Some(ApplicationContext::read(&mut name)?);
                }
                0xA2 => result = Some(read_result(&mut inner)?),
                0xA3 => diagnostic = Some(read_diagnostic(&mut inner)?),
                _ => optional.read(tag, &mut inner)?,
            }
        }
        let offset = reader.offset();
        let missing = |expected| Error::Missing { offset, expected };
        Ok(Self {
            context: context.ok_or_else(|| missing("an application context name (A1)"))?,
            result: result.ok_or_else(|| missing("a result (A2)"))?,
            diagnostic: diagnostic.ok_or_else(|| missing("a result source diagnostic (A3)"))?,
            responding_title: optional.title,
            responding_ae_qualifier: optional.qualifier,
            mechanism: optional.mechanism,
            authentication_value: optional.value,
            user_information: optional.information,
        })
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(0x61);
        put_nested(&mut out, 0xA1, 0x06, &self.context.name());
        let result = match self.result {
            AssociationResult::Accepted => 0,
            AssociationResult::RejectedPermanent => 1,
            AssociationResult::RejectedTransient => 2,
        };
        put_nested(&mut out, 0xA2, 0x02, &[result]);
        let (source, code) = match self.diagnostic {
            Diagnostic::User(code) => (0xA1, code),
            Diagnostic::Provider(code) => (0xA2, code),
        };
        put_nested(&mut out, 0xA3, source, &[0x02, 0x01, code]);
        if let Some(title) = self.responding_title {
            put_nested(&mut out, 0xA4, 0x04, &title.bytes());
        }
        if let Some(qualifier) = &self.responding_ae_qualifier {
            put_nested(&mut out, 0xA5, 0x04, qualifier);
        }
        if let Some(mechanism) = self.mechanism {
            put(&mut out, 0x88, &REQUIREMENTS);
            put(&mut out, 0x89, &mechanism.name());
        }
        if let Some(value) = &self.authentication_value {
            put_nested(&mut out, 0xAA, 0x80, value);
        }
        if let Some(information) = &self.user_information {
            put_nested(&mut out, 0xBE, 0x04, information);
        }
        seal(out)
    }
}

/// The elements that may be absent.
#[derive(Default)]
struct Optional {
    title: Option<SystemTitle>,
    qualifier: Option<Vec<u8>>,
    mechanism: Option<Mechanism>,
    value: Option<Vec<u8>>,
    information: Option<Vec<u8>>,
}

impl Optional {
    fn read(&mut self, tag: u8, inner: &mut Reader<'_>) -> Result<(), Error> {
        match tag {
            0xA4 => self.title = read_title(inner)?,
            0xA5 => self.qualifier = Some(octets(nested(inner, 0x04, "an octet string (04)")?)),
            0x89 => self.mechanism = Some(Mechanism::read(inner)?),
            0xAA => self.value = Some(octets(nested(inner, 0x80, "a character string (80)")?)),
            0xBE => self.information = Some(octets(nested(inner, 0x04, "an octet string (04)")?)),
            // protocol version (jDLMS begins with it), invocation ids, requirements, implementation information
            _ => {}
        }
        Ok(())
    }
}

fn read_result(inner: &mut Reader<'_>) -> Result<AssociationResult, Error> {
    let mut integer = nested(inner, 0x02, "an integer (02)")?;
    let offset = integer.offset();
    let found = integer.u8()?;
    integer.finish()?;
    match found {
        0 => Ok(AssociationResult::Accepted),
        1 => Ok(AssociationResult::RejectedPermanent),
        2 => Ok(AssociationResult::RejectedTransient),
        _ => Err(Error::Unexpected {
            offset,
            expected: "an association result 0..2",
            found,
        }),
    }
}

fn read_diagnostic(inner: &mut Reader<'_>) -> Result<Diagnostic, Error> {
    let offset = inner.offset();
    let source = inner.u8()?;
    let mut choice = inner.nested()?;
    inner.finish()?;
    let mut integer = nested(&mut choice, 0x02, "an integer (02)")?;
    let code = integer.u8()?;
    integer.finish()?;
    match source {
        0xA1 => Ok(Diagnostic::User(code)),
        0xA2 => Ok(Diagnostic::Provider(code)),
        found => Err(Error::Unexpected {
            offset,
            expected: "a diagnostic of the user (A1) or the provider (A2)",
            found,
        }),
    }
}
