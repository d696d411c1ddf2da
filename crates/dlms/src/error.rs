//! What can be wrong with octets, or with the moment at which something is asked.

/// A value that could not be decoded, encoded or accepted.
///
/// Decoding errors name the offset into the octets that were given, what was expected there and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The octets end too early.
    #[error("offset {offset}: {needed} octets expected, {found} left; the sender cut it short")]
    Truncated {
        /// Where reading stood.
        offset: usize,
        /// How many octets were needed.
        needed: usize,
        /// How many were left.
        found: usize,
    },
    /// An octet has a value that does not belong there.
    #[error("offset {offset}: expected {expected}, found {found:#04x}")]
    Unexpected {
        /// Where it stands.
        offset: usize,
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: u8,
    },
    /// A length or a number is outside its bounds.
    #[error("offset {offset}: expected {expected}, found {found}")]
    Bounds {
        /// Where it stands.
        offset: usize,
        /// The bounds.
        expected: &'static str,
        /// The value found.
        found: usize,
    },
    /// Octets follow the end of the value.
    #[error("offset {offset}: expected the end, found {found} more octets")]
    Trailing {
        /// Where the value ended.
        offset: usize,
        /// How many octets follow.
        found: usize,
    },
    /// A required element is absent.
    #[error("offset {offset}: expected {expected}, found none")]
    Missing {
        /// Where the enclosing element ended.
        offset: usize,
        /// The element.
        expected: &'static str,
    },
    /// A logical name (OBIS code) in text form is wrong.
    #[error(
        "expected six numbers of 0..255, such as 0.0.96.3.10.255 or 0-0:96.3.10.255, found {found:?}"
    )]
    LogicalName {
        /// The first 32 characters of the text.
        found: alloc::string::String,
    },
    /// The APDU does not fit into what the peer receives, or into a frame.
    #[error("the APDU has {found} octets, the receiver takes {limit}; ask for less")]
    TooLong {
        /// The largest length allowed.
        limit: usize,
        /// The length it would have.
        found: usize,
    },
    /// The association is in a state that does not allow the call.
    #[error("expected an association that is {expected}, found one that is {found}")]
    State {
        /// The state the call needs.
        expected: &'static str,
        /// The state it is in.
        found: &'static str,
    },
    /// The station at the other end of an HDLC link did not answer.
    #[error("no answer from the station at the other end of the link in {tries} tries")]
    Silent {
        /// How often a frame was sent.
        tries: u8,
    },
    /// The station at the other end of an HDLC link has ended it, or does not take it.
    #[error(
        "expected a station at the other end of the link that {expected}, found one that {found}"
    )]
    Link {
        /// What the link needs it to do.
        expected: &'static str,
        /// What it said.
        found: &'static str,
    },
}
