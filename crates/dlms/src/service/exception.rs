//! Exception-response.

use alloc::vec::Vec;

use crate::axdr::Reader;
use crate::error::Error;

/// Tag of an exception-response, which is never ciphered.
pub(crate) const EXCEPTION: u8 = 0xD8;

/// An exception-response (IEC 62056-5-3): the request was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exception {
    /// 1 service not allowed, 2 service unknown.
    pub state: u8,
    /// 1 operation not possible, 2 service not supported, 3 other reason, 4 PDU too long, 5 deciphering error,
    /// 6 invocation counter error.
    pub service: u8,
    /// With an invocation counter error: the counter the meter expects.
    pub counter: Option<u32>,
}

impl Exception {
    /// The association does not allow it now.
    pub const NOT_POSSIBLE: Self = Self::of(1);
    /// The service is not there.
    pub const NOT_SUPPORTED: Self = Self::of(2);
    /// Some other reason.
    pub const OTHER_REASON: Self = Self::of(3);
    /// The answer does not fit.
    pub const TOO_LONG: Self = Self::of(4);
    /// The APDU could not be deciphered.
    pub const DECIPHERING: Self = Self::of(5);

    const fn of(service: u8) -> Self {
        Self {
            state: 1,
            service,
            counter: None,
        }
    }

    /// The invocation counter is not above the last one; `expected` is the lowest that would do.
    #[must_use]
    pub const fn invocation_counter(expected: u32) -> Self {
        Self {
            state: 1,
            service: 6,
            counter: Some(expected),
        }
    }

    /// The name of the service error.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.service {
            1 => "operation-not-possible",
            2 => "service-not-supported",
            3 => "other-reason",
            4 => "pdu-too-long",
            5 => "deciphering-error",
            6 => "invocation-counter-error",
            _ => "unknown-service-error",
        }
    }

    /// Whether it speaks of keys or counters.
    #[must_use]
    pub const fn is_security(self) -> bool {
        matches!(self.service, 5 | 6)
    }

    /// After a counter error the standard has the counter, four octets; peers are known that leave it out, and one that
    /// writes its lowest octet alone, which says nothing.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (state, service) = (reader.u8()?, reader.u8()?);
        let counter = match (service, reader.left()) {
            (6, 0) => None,
            (6, 4) => Some(reader.u32()?),
            (6, found) => {
                return Err(Error::Bounds {
                    offset: reader.offset(),
                    expected: "an invocation counter of 4 octets, or none",
                    found,
                });
            }
            _ => None,
        };
        Ok(Self {
            state,
            service,
            counter,
        })
    }

    pub(super) fn encode_into(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[EXCEPTION, self.state, self.service]);
        if let Some(counter) = self.counter {
            out.extend_from_slice(&counter.to_be_bytes());
        }
    }
}
