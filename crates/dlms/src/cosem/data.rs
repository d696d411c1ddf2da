//! Class 1, Data: one value of any type.

use crate::data::Data;

class! {
    1, "Data";
    attributes {
        /// The value, of whatever type the object has.
        2 VALUE "value": Data;
    }
    methods {}
}
