//! A client in whole interactions: its meter is honest, the wire and the holder of its keys are not.

use super::table::{Side, Table};

/// Takes one input through an association.
///
/// # Panics
/// If the client does, or if a promise of it is broken.
pub fn run(octets: &[u8]) {
    Table::play(octets, Side::Client);
}
