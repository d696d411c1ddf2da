//! What a meter says unasked: EventNotification and DataNotification.

use alloc::vec::Vec;

use super::part::{put_attribute, put_time, read_attribute, read_time};
use super::{Attribute, LongInvokeId};
use crate::axdr::Reader;
use crate::data::Data;
use crate::error::Error;

/// Tag of a DataNotification.
const DATA: u8 = 0x0F;
/// Tag of a DataNotification-Confirm.
const CONFIRM: u8 = 0x10;
/// Tag of an EventNotificationRequest.
const EVENT: u8 = 0xC2;

/// A plaintext notification.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// C2: an attribute has this value. Never confirmed.
    Event {
        /// When, by the meter's clock: a COSEM date-time.
        time: Option<[u8; 12]>,
        /// Which.
        attribute: Attribute,
        /// Its value.
        value: Data,
    },
    /// 0F: what a push setup sends.
    Data {
        /// Id and flags; if it is confirmed a [`Confirmation`] is due.
        invoke: LongInvokeId,
        /// When, by the meter's clock: a COSEM date-time.
        time: Option<[u8; 12]>,
        /// What is pushed: mostly a structure of the values of a push object list.
        body: Data,
    },
}

impl Notification {
    /// Whether a plaintext APDU with this first octet is a notification.
    #[must_use]
    pub const fn is_tag(tag: u8) -> bool {
        matches!(tag, DATA | EVENT)
    }

    /// Decodes a plaintext notification that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let notification = match reader.u8()? {
            DATA => Self::Data {
                invoke: LongInvokeId::from_bits(reader.u32()?),
                time: read_time(&mut reader)?,
                body: Data::read(&mut reader)?,
            },
            EVENT => Self::Event {
                time: if reader.present()? {
                    read_time(&mut reader)?
                } else {
                    None
                },
                attribute: read_attribute(&mut reader)?,
                value: Data::read(&mut reader)?,
            },
            found => {
                return Err(Error::Unexpected {
                    offset: 0,
                    expected: "the tag of a notification (0F, C2)",
                    found,
                });
            }
        };
        reader.finish()?;
        Ok(notification)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the octets of the APDU.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Event {
                time,
                attribute,
                value,
            } => {
                out.extend_from_slice(&[EVENT, u8::from(time.is_some())]);
                if time.is_some() {
                    put_time(out, time.as_ref());
                }
                put_attribute(out, *attribute);
                value.encode_into(out);
            }
            Self::Data { invoke, time, body } => {
                out.push(DATA);
                out.extend_from_slice(&invoke.bits().to_be_bytes());
                put_time(out, time.as_ref());
                body.encode_into(out);
            }
        }
    }

    /// The confirmation that is due, if one is.
    #[must_use]
    pub fn confirmation(&self) -> Option<Confirmation> {
        match self {
            Self::Data { invoke, .. } if invoke.is_confirmed() => Some(Confirmation {
                invoke: *invoke,
                time: None,
            }),
            Self::Data { .. } | Self::Event { .. } => None,
        }
    }
}

/// 10: DataNotification-Confirm, the answer to a confirmed [`Notification::Data`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// Id and flags of the notification.
    pub invoke: LongInvokeId,
    /// When, by the client's clock: a COSEM date-time.
    pub time: Option<[u8; 12]>,
}

impl Confirmation {
    /// Decodes a plaintext confirmation that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(CONFIRM, "the tag of a DataNotification-Confirm (10)")?;
        let confirmation = Self {
            invoke: LongInvokeId::from_bits(reader.u32()?),
            time: read_time(&mut reader)?,
        };
        reader.finish()?;
        Ok(confirmation)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from([CONFIRM]);
        out.extend_from_slice(&self.invoke.bits().to_be_bytes());
        put_time(&mut out, self.time.as_ref());
        out
    }
}
