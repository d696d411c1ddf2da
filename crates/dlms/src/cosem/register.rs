//! Class 3, Register: a number with a unit.

use super::value::{Code, Mismatch, Value, Zero};
use crate::data::Data;

class! {
    3, "Register";
    attributes {
        /// The number as it is stored; times ten to the power of the scaler it is in the unit.
        2 VALUE "value": Data;
        /// The scaler and the unit.
        3 SCALER_UNIT "scaler_unit": ScalerUnit;
    }
    methods {
        /// Sets the value to its default. Never to be invoked on what is billed.
        1 RESET "reset": Zero;
    }
}

structure! {
    /// What a stored number means.
    pub struct ScalerUnit as "structure of scaler and unit" {
        /// The exponent to the base ten.
        scaler: i8,
        /// The unit.
        unit: Unit,
    }
}

/// A physical unit (Blue Book 4.3.2, table of units): an open set of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(pub u8);

impl Unit {
    /// Seconds.
    pub const SECOND: Self = Self(7);
    /// Watts.
    pub const WATT: Self = Self(27);
    /// Watt-hours.
    pub const WATT_HOUR: Self = Self(30);
    /// A number without a unit.
    pub const COUNT: Self = Self(255);

    /// Its symbol, for those a meter of electricity uses.
    #[must_use]
    pub const fn symbol(self) -> Option<&'static str> {
        Some(match self.0 {
            4 => "d",
            5 => "h",
            6 => "min",
            7 => "s",
            9 => "\u{b0}C",
            27 => "W",
            28 => "VA",
            29 => "var",
            30 => "Wh",
            31 => "VAh",
            32 => "varh",
            33 => "A",
            35 => "V",
            44 => "Hz",
            255 => "",
            _ => return None,
        })
    }
}

impl Value for Unit {
    const EXPECTED: &'static str = "enum";

    fn to_data(&self) -> Data {
        Data::Enum(self.0)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        Code::from_data(data).map(|code| Self(code.0))
    }
}
