//! The control octet (IEC 62056-46, 6.4.3): what a frame is, and its numbers.

/// A number of an I frame, modulo 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequence(u8);

impl Sequence {
    /// The number modulo 8.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        Self(number & 7)
    }

    /// 0..7.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The one after it.
    pub(super) const fn next(self) -> Self {
        Self::new(self.0.wrapping_add(1))
    }

    /// How many steps lead from `from` to this, 0..7.
    pub(super) const fn since(self, from: Self) -> u8 {
        self.0.wrapping_sub(from.0) & 7
    }
}

/// What a frame is. `poll` is the P bit in a command and the F bit in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// I: a numbered part of an APDU; `receive` is the number expected next, and acknowledges those before it.
    Information {
        /// N(S).
        send: Sequence,
        /// N(R).
        receive: Sequence,
        /// P/F.
        poll: bool,
    },
    /// RR: ready, and an acknowledgement.
    ReceiveReady {
        /// N(R).
        receive: Sequence,
        /// P/F.
        poll: bool,
    },
    /// RNR: busy, and an acknowledgement.
    ReceiveNotReady {
        /// N(R).
        receive: Sequence,
        /// P/F.
        poll: bool,
    },
    /// REJ: send again from this number on.
    Reject {
        /// N(R).
        receive: Sequence,
        /// P/F.
        poll: bool,
    },
    /// SNRM: set the link up, all numbers from 0.
    SetNormalResponseMode {
        /// P.
        poll: bool,
    },
    /// DISC: take the link down.
    Disconnect {
        /// P.
        poll: bool,
    },
    /// UA: SNRM or DISC is done.
    UnnumberedAcknowledge {
        /// F.
        poll: bool,
    },
    /// DM: the link is down.
    DisconnectedMode {
        /// F.
        poll: bool,
    },
    /// FRMR: a frame that repeating does not help; only SNRM and DISC do.
    FrameReject {
        /// F.
        poll: bool,
    },
    /// UI: an APDU without a number, unacknowledged.
    UnnumberedInformation {
        /// P/F.
        poll: bool,
    },
}

const POLL: u8 = 0x10;

impl Control {
    /// The octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        let (bits, poll) = match self {
            Self::Information {
                send,
                receive,
                poll,
            } => ((receive.0 << 5) | (send.0 << 1), poll),
            Self::ReceiveReady { receive, poll } => ((receive.0 << 5) | 0x01, poll),
            Self::ReceiveNotReady { receive, poll } => ((receive.0 << 5) | 0x05, poll),
            Self::Reject { receive, poll } => ((receive.0 << 5) | 0x09, poll),
            Self::SetNormalResponseMode { poll } => (0x83, poll),
            Self::Disconnect { poll } => (0x43, poll),
            Self::UnnumberedAcknowledge { poll } => (0x63, poll),
            Self::DisconnectedMode { poll } => (0x0F, poll),
            Self::FrameReject { poll } => (0x87, poll),
            Self::UnnumberedInformation { poll } => (0x03, poll),
        };
        if poll { bits | POLL } else { bits }
    }

    /// What an octet means; nothing if DLMS has no such frame.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Option<Self> {
        let poll = octet & POLL != 0;
        let receive = Sequence::new(octet >> 5);
        if octet & 1 == 0 {
            let send = Sequence::new(octet >> 1);
            return Some(Self::Information {
                send,
                receive,
                poll,
            });
        }
        match octet & 0x0F {
            0x01 => return Some(Self::ReceiveReady { receive, poll }),
            0x05 => return Some(Self::ReceiveNotReady { receive, poll }),
            0x09 => return Some(Self::Reject { receive, poll }),
            _ => {}
        }
        match octet & !POLL {
            0x83 => Some(Self::SetNormalResponseMode { poll }),
            0x43 => Some(Self::Disconnect { poll }),
            0x63 => Some(Self::UnnumberedAcknowledge { poll }),
            0x0F => Some(Self::DisconnectedMode { poll }),
            0x87 => Some(Self::FrameReject { poll }),
            0x03 => Some(Self::UnnumberedInformation { poll }),
            _ => None,
        }
    }

    /// The P/F bit.
    #[must_use]
    pub const fn poll(self) -> bool {
        self.octet() & POLL != 0
    }

    /// Its abbreviation in the standard.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Information { .. } => "I",
            Self::ReceiveReady { .. } => "RR",
            Self::ReceiveNotReady { .. } => "RNR",
            Self::Reject { .. } => "REJ",
            Self::SetNormalResponseMode { .. } => "SNRM",
            Self::Disconnect { .. } => "DISC",
            Self::UnnumberedAcknowledge { .. } => "UA",
            Self::DisconnectedMode { .. } => "DM",
            Self::FrameReject { .. } => "FRMR",
            Self::UnnumberedInformation { .. } => "UI",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_means_one_thing_or_nothing() {
        for octet in 0..=u8::MAX {
            if let Some(control) = Control::from_octet(octet) {
                assert_eq!(control.octet(), octet);
                assert_eq!(control.poll(), octet & 0x10 != 0);
            }
        }
        let named = |octet| Control::from_octet(octet).map(Control::name);
        for (octet, name) in [
            (0x10, "I"),
            (0x32, "I"),
            (0x31, "RR"),
            (0x15, "RNR"),
            (0x59, "REJ"),
            (0x93, "SNRM"),
            (0x53, "DISC"),
            (0x73, "UA"),
            (0x1F, "DM"),
            (0x97, "FRMR"),
            (0x13, "UI"),
        ] {
            assert_eq!(named(octet), Some(name));
        }
        assert_eq!((named(0x0D), named(0x7F), named(0xE3)), (None, None, None));
    }

    #[test]
    fn numbers_go_round_at_eight() {
        assert_eq!(Sequence::new(7).next(), Sequence::new(0));
        assert_eq!(Sequence::new(1).since(Sequence::new(6)), 3);
    }
}
