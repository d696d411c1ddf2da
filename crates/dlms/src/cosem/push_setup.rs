//! Class 40, Push setup: what a meter sends by itself, where to and when. Versions 0 to 2.

use alloc::vec::Vec;

use super::date_time::DateTime;
use super::value::{Code, Elements, Mismatch, Octets, Value, Zero};
use crate::data::Data;
use crate::obis::Obis;

class! {
    40, "Push setup";
    attributes {
        /// What is sent.
        2 PUSH_OBJECT_LIST "push_object_list": Vec<PushObject>;
        /// Where to.
        3 SEND_DESTINATION_AND_METHOD "send_destination_and_method": Destination;
        /// When it may be sent; empty is always.
        4 COMMUNICATION_WINDOW "communication_window": Vec<Window>;
        /// Seconds within which a random delay falls before it is sent.
        5 RANDOMISATION_START_INTERVAL "randomisation_start_interval": u16;
        /// How often it is tried again.
        6 NUMBER_OF_RETRIES "number_of_retries": u8;
        /// How long it waits before it tries again.
        7 REPETITION_DELAY "repetition_delay": RepetitionDelay;
        /// The port it leaves by. From version 1.
        8 PORT_REFERENCE "port_reference": Octets;
        /// The client it is sent to. From version 1.
        9 PUSH_CLIENT_SAP "push_client_SAP": i8;
        /// How it is protected. From version 1.
        10 PUSH_PROTECTION_PARAMETERS "push_protection_parameters": Vec<Data>;
        /// Whether it is confirmed, and by what. From version 2.
        11 PUSH_OPERATION_METHOD "push_operation_method": OperationMethod;
        /// How often it is confirmed. From version 2.
        12 CONFIRMATION_PARAMETERS "confirmation_parameters": Confirmation;
        /// When it was last confirmed. From version 2.
        13 LAST_CONFIRMATION_DATE_TIME "last_confirmation_date_time": DateTime;
    }
    methods {
        /// Sends it.
        1 PUSH "push": Zero;
        /// Forgets the last confirmation. From version 2.
        2 RESET "reset": Zero;
    }
}

/// An attribute that is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct PushObject {
    /// Its class.
    pub class_id: u16,
    /// Its object.
    pub name: Obis,
    /// Its index; 0 is all of them.
    pub attribute: i8,
    /// The element of it, from 1; 0 is the whole attribute.
    pub data_index: u16,
    /// Which rows and columns of a buffer. From version 2.
    pub part: Option<BufferPart>,
}

/// The part of a buffer that is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferPart {
    /// The rows: structure of restriction_type (0 none, 1 by date, 2 by entry) and its parameters.
    pub restriction: Data,
    /// The columns: array of capture objects; empty is all.
    pub columns: Data,
}

impl Value for PushObject {
    const EXPECTED: &'static str = "structure of class_id, logical_name, attribute_index, data_index, from version 2 restriction and columns";

    fn to_data(&self) -> Data {
        let mut elements = Vec::from([
            self.class_id.to_data(),
            self.name.to_data(),
            self.attribute.to_data(),
            self.data_index.to_data(),
        ]);
        if let Some(part) = &self.part {
            elements.extend([part.restriction.clone(), part.columns.clone()]);
        }
        Data::Structure(elements)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let count = data.as_elements().map_or(0, <[Data]>::len);
        let mut elements = Elements::of(data, if count == 6 { 6 } else { 4 }, Self::EXPECTED)?;
        Ok(Self {
            class_id: elements.next()?,
            name: elements.next()?,
            attribute: elements.next()?,
            data_index: elements.next()?,
            part: match count {
                6 => Some(BufferPart {
                    restriction: elements.next()?,
                    columns: elements.next()?,
                }),
                _ => None,
            },
        })
    }
}

structure! {
    /// Where a push goes.
    pub struct Destination as "structure of transport_service, destination and message" {
        /// The transport: 0 TCP, 1 UDP, 2 FTP, 3 SMTP, 4 SMS, 5 HDLC, 6 M-Bus, 7 Zigbee; from 200 a manufacturer's.
        transport: Code,
        /// The address, as the transport writes it.
        destination: Octets,
        /// The encoding: 0 A-XDR, 1 XML; from 128 a manufacturer's.
        message: Code,
    }
}

structure! {
    /// A time in which it may be sent.
    pub struct Window as "structure of start_time and end_time" {
        /// From.
        start: DateTime,
        /// To.
        end: DateTime,
    }
}

/// How long a meter waits before it tries again.
#[derive(Debug, Clone, PartialEq)]
pub enum RepetitionDelay {
    /// To version 1: seconds.
    Fixed(u16),
    /// From version 2: it grows.
    Growing(GrowingDelay),
}

structure! {
    /// A delay that grows from `min_s` by `exponent` (in hundredths) to `max_s`.
    pub struct GrowingDelay as "structure of repetition_delay_min, repetition_delay_exponent and repetition_delay_max" {
        /// Seconds before the first repetition.
        min_s: u16,
        /// Growth, in hundredths.
        exponent: u16,
        /// Seconds at most.
        max_s: u16,
    }
}

impl Value for RepetitionDelay {
    const EXPECTED: &'static str = "long-unsigned, from version 2 structure of three";

    fn to_data(&self) -> Data {
        match self {
            Self::Fixed(seconds) => seconds.to_data(),
            Self::Growing(delay) => delay.to_data(),
        }
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        match data.as_elements() {
            Some(_) => GrowingDelay::from_data(data).map(Self::Growing),
            None => u16::from_data(data).map(Self::Fixed),
        }
    }
}

codes! {
    /// Whether a push is confirmed.
    pub enum OperationMethod as "enum 0..2", lenient {
        /// No; repeated when the layer below fails.
        Unconfirmed = 0, "unconfirmed, retry on supporting protocol layer failure";
        /// No; repeated when the layer below does not confirm it.
        ConfirmedBelow = 1, "unconfirmed, retry on missing supporting protocol layer confirmation";
        /// Yes; repeated when no confirmation comes.
        Confirmed = 2, "confirmed, retry on missing confirmation";
    }
}

structure! {
    /// How often a push is confirmed.
    pub struct Confirmation as "structure of confirmation_start_date and confirmation_interval" {
        /// From when on.
        start: DateTime,
        /// Seconds.
        interval_s: u32,
    }
}
