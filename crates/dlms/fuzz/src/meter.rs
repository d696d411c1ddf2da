//! A meter in whole interactions: its client is honest, the wire and the holder of its keys are not.

use super::table::{Reached, Side, Table};

/// Takes one input through an association. Says how far it came.
///
/// # Panics
/// If the meter does, or if a promise of it is broken.
pub fn run(octets: &[u8]) -> Reached {
    Table::play(octets, Side::Meter)
}
