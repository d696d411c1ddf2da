//! xDLMS initiate: what client and server negotiate inside AARQ and AARE (IEC 62056-5-3).

mod error;

pub(crate) use error::CONFIRMED_SERVICE_ERROR;
pub use error::{ConfirmedService, ConfirmedServiceError, ServiceError, ServiceErrorKind};

use alloc::vec::Vec;
use core::fmt;

use crate::axdr::{Reader, put_prefixed};
use crate::conformance::Conformance;
use crate::error::Error;

/// The DLMS version there is.
pub const DLMS_VERSION: u8 = 6;
/// The VAA name of logical-name referencing.
pub const VAA_LOGICAL_NAME: i16 = 7;

/// InitiateRequest, tag 01.
#[derive(Clone, PartialEq, Eq)]
pub struct InitiateRequest {
    /// A key for this association alone. Latchkey never sends one.
    pub dedicated_key: Option<Vec<u8>>,
    /// Whether the server may answer.
    pub response_allowed: bool,
    /// Quality of service; no peer uses it.
    pub quality_of_service: Option<i8>,
    /// Proposed DLMS version.
    pub version: u8,
    /// Proposed services.
    pub conformance: Conformance,
    /// The longest APDU the client receives, in octets, ciphering included; 0 means no limit.
    pub max_pdu: u16,
}

impl InitiateRequest {
    /// A request of version 6 without a dedicated key.
    #[must_use]
    pub const fn new(conformance: Conformance, max_pdu: u16) -> Self {
        Self {
            dedicated_key: None,
            response_allowed: true,
            quality_of_service: None,
            version: DLMS_VERSION,
            conformance,
            max_pdu,
        }
    }

    /// Decodes an APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(0x01, "the tag of an InitiateRequest (01)")?;
        let dedicated_key = if reader.present()? {
            Some(reader.prefixed()?.to_vec())
        } else {
            None
        };
        let response_allowed = if reader.present()? {
            reader.u8()? != 0
        } else {
            true
        };
        let quality_of_service = if reader.present()? {
            Some(reader.i8()?)
        } else {
            None
        };
        let request = Self {
            dedicated_key,
            response_allowed,
            quality_of_service,
            version: reader.u8()?,
            conformance: read_conformance(&mut reader)?,
            max_pdu: reader.u16()?,
        };
        reader.finish()?;
        Ok(request)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from([0x01]);
        match &self.dedicated_key {
            Some(key) => {
                out.push(1);
                put_prefixed(&mut out, key);
            }
            None => out.push(0),
        }
        // DEFAULT TRUE: only the other value is written
        if self.response_allowed {
            out.push(0);
        } else {
            out.extend_from_slice(&[1, 0]);
        }
        put_quality(&mut out, self.quality_of_service);
        out.push(self.version);
        put_conformance(&mut out, self.conformance);
        out.extend_from_slice(&self.max_pdu.to_be_bytes());
        out
    }
}

/// The dedicated key is not shown.
impl fmt::Debug for InitiateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitiateRequest")
            .field("dedicated_key", &self.dedicated_key.as_ref().map(|_| "..."))
            .field("response_allowed", &self.response_allowed)
            .field("quality_of_service", &self.quality_of_service)
            .field("version", &self.version)
            .field("conformance", &self.conformance)
            .field("max_pdu", &self.max_pdu)
            .finish()
    }
}

/// InitiateResponse, tag 08.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitiateResponse {
    /// Quality of service; no peer uses it.
    pub quality_of_service: Option<i8>,
    /// Negotiated DLMS version.
    pub version: u8,
    /// Negotiated services.
    pub conformance: Conformance,
    /// The longest APDU the server receives, in octets, ciphering included; 0 means no limit.
    pub max_pdu: u16,
    /// 7 with logical names.
    pub vaa_name: i16,
}

impl InitiateResponse {
    /// A response of version 6 with logical names.
    #[must_use]
    pub const fn new(conformance: Conformance, max_pdu: u16) -> Self {
        Self {
            quality_of_service: None,
            version: DLMS_VERSION,
            conformance,
            max_pdu,
            vaa_name: VAA_LOGICAL_NAME,
        }
    }

    /// Decodes an APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(0x08, "the tag of an InitiateResponse (08)")?;
        let quality_of_service = if reader.present()? {
            Some(reader.i8()?)
        } else {
            None
        };
        let response = Self {
            quality_of_service,
            version: reader.u8()?,
            conformance: read_conformance(&mut reader)?,
            max_pdu: reader.u16()?,
            vaa_name: reader.array().map(i16::from_be_bytes)?,
        };
        reader.finish()?;
        Ok(response)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from([0x08]);
        put_quality(&mut out, self.quality_of_service);
        out.push(self.version);
        put_conformance(&mut out, self.conformance);
        out.extend_from_slice(&self.max_pdu.to_be_bytes());
        out.extend_from_slice(&self.vaa_name.to_be_bytes());
        out
    }
}

/// [APPLICATION 31] IMPLICIT BIT STRING (SIZE (24)): BER inside A-XDR, with its unused-bits octet.
fn read_conformance(reader: &mut Reader<'_>) -> Result<Conformance, Error> {
    for octet in [0x5F, 0x1F, 0x04, 0x00] {
        reader.tag(octet, "a conformance block (5F 1F 04 00)")?;
    }
    let [a, b, c] = reader.array()?;
    Ok(Conformance::new(u32::from_be_bytes([0, a, b, c])))
}

fn put_conformance(out: &mut Vec<u8>, conformance: Conformance) {
    let [_, a, b, c] = conformance.bits().to_be_bytes();
    out.extend_from_slice(&[0x5F, 0x1F, 0x04, 0x00, a, b, c]);
}

fn put_quality(out: &mut Vec<u8>, quality: Option<i8>) {
    out.push(u8::from(quality.is_some()));
    out.extend(quality.map(i8::cast_unsigned));
}
