//! How APDUs travel to a meter.

use latchkey_proto::association::v1::{self as pb, HdlcOptions};

/// The information field and the window that hold where nobody said otherwise (IEC 62056-46).
const INFORMATION_DEFAULT: u16 = 128;
const WINDOW_DEFAULT: u8 = 1;

/// How APDUs travel to a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The wrapper over TCP.
    Tcp,
    /// The wrapper over UDP.
    Udp,
    /// HDLC, over TCP or a serial line.
    Hdlc(Hdlc),
}

/// The HDLC parameters of a meter; what the message leaves open is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hdlc {
    /// Octets of the server address: 1, 2 or 4.
    pub address_octets: u8,
    /// Physical device address; 0 means none.
    pub physical_address: u16,
    /// Largest information field proposed, in octets.
    pub max_information: u16,
    /// Window proposed, in frames.
    pub window: u8,
}

impl Transport {
    /// What a message says, which the directory's rules hold for; `None` if a value is out of range.
    #[must_use]
    pub fn parse(transport: i32, hdlc: &HdlcOptions) -> Option<Self> {
        Some(match pb::Transport::try_from(transport).ok()? {
            pb::Transport::Unspecified | pb::Transport::Tcp => Self::Tcp,
            pb::Transport::Udp => Self::Udp,
            pb::Transport::Hdlc => Self::Hdlc(Hdlc::parse(hdlc)?),
        })
    }

    /// Its number in messages and rows.
    #[must_use]
    pub const fn kind(self) -> pb::Transport {
        match self {
            Self::Tcp => pb::Transport::Tcp,
            Self::Udp => pb::Transport::Udp,
            Self::Hdlc(_) => pb::Transport::Hdlc,
        }
    }

    /// The HDLC parameters as they go into a message.
    #[must_use]
    pub fn options(self) -> Option<HdlcOptions> {
        match self {
            Self::Tcp | Self::Udp => None,
            Self::Hdlc(hdlc) => Some(HdlcOptions {
                address_octets: hdlc.address_octets.into(),
                physical_address: hdlc.physical_address.into(),
                max_information: hdlc.max_information.into(),
                window: hdlc.window.into(),
            }),
        }
    }
}

impl Hdlc {
    fn parse(options: &HdlcOptions) -> Option<Self> {
        let hdlc = Self {
            address_octets: u8::try_from(address_octets(options)).ok()?,
            physical_address: u16::try_from(options.physical_address).ok()?,
            max_information: u16::try_from(options.max_information).ok()?,
            window: u8::try_from(options.window).ok()?,
        };
        Some(Self {
            max_information: match hdlc.max_information {
                0 => INFORMATION_DEFAULT,
                octets => octets,
            },
            window: hdlc.window.max(WINDOW_DEFAULT),
            ..hdlc
        })
    }
}

/// How long the server address is, said or not.
pub(super) const fn address_octets(options: &HdlcOptions) -> u32 {
    match (options.address_octets, options.physical_address) {
        (0, 0) => 1,
        (0, _) => 2,
        (octets, _) => octets,
    }
}
