//! The HDLC-based data link (IEC 62056-46): frames, and a station of either role.
//!
//! ```text
//!  primary (client)                                    secondary (meter)
//!     Down ──connect()──▶ SNRM ───────────────────────▶ Down
//!  Connected ◀──────────────────────────────── UA ◀──── Up, learns the client's address
//!     I S=1 ──────────────────────────────────────────▶  a part of the request
//!           ◀──────────────────────────────── RR ◀────
//!     I     ──────────────────────────────────────────▶  the rest; the poll is kept for the answer
//!           ◀──────────────────────────────── I S=1 ◀──
//!     RR    ──────────────────────────────────────────▶
//!     Apdu  ◀──────────────────────────────── I ◀────── answer()
//!     no answer in time: the same octets again, a bounded number of times ──▶ Failed
//!     DISC ───────────────────────────────────────────▶ Down
//!  Disconnected ◀───────────────────────────── UA, DM ◀─
//! ```

mod address;
mod control;
mod deframer;
mod frame;
mod parameters;
mod station;

pub use address::Address;
pub use control::{Control, Sequence};
pub use deframer::Deframer;
pub use frame::{FLAG, Fault, Frame, MAX_LENGTH};
pub use parameters::{MAX_INFO, MAX_WINDOW, Parameters};
pub use station::{Effect, LLC_COMMAND, LLC_RESPONSE, Station};

use crate::error::Error;

/// What an HDLC link is to be like. The ports of the association are its addresses: the client's, and the logical
/// device as the upper half of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Octets of the server's address: 1, 2 or 4.
    pub address_octets: u8,
    /// The physical device, the lower half of the server's address: 0..127, with four octets 0..16383; 0 with one octet.
    pub physical: u16,
    /// The longest information field proposed for both directions, 32..2030 octets. An AARQ that does not fit goes in
    /// segments, and some meters lose count of their frames after them: see that it fits.
    pub max_info: u16,
    /// How many frames may go unacknowledged, proposed for both directions: 1..7.
    pub window: u8,
    /// How long a client waits for the meter's answer to a frame, in milliseconds.
    pub timeout_ms: u64,
    /// How often it sends a frame again that was not answered.
    pub retries: u8,
}

/// What the standard assumes where nothing is negotiated; three more tries after three seconds each.
impl Default for Config {
    fn default() -> Self {
        Self {
            address_octets: 1,
            physical: 0,
            max_info: 128,
            window: 1,
            timeout_ms: 3000,
            retries: 3,
        }
    }
}

impl Config {
    /// The address of a logical device.
    ///
    /// # Errors
    /// [`Error::Bounds`] if the octets of the address cannot hold it.
    pub fn server(&self, logical: u16) -> Result<Address, Error> {
        Address::server(self.address_octets, logical, self.physical)
    }

    /// What it proposes.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::symmetric(
            self.max_info.clamp(1, MAX_INFO),
            self.window.clamp(1, MAX_WINDOW),
        )
    }

    /// A client asks again for an answer that is not ready, after so many milliseconds.
    const fn poll_ms(&self) -> u64 {
        match self.timeout_ms / 4 {
            0 => 1,
            quarter => quarter,
        }
    }
}
