//! What can be wrong with a frame.

use serde_json::{Value, json};

/// The kinds of faults; `docs/cli.md` lists them for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The octets end before the frame or the APDU does.
    Truncated,
    /// A length says something else than what is there.
    LengthMismatch,
    /// An HDLC flag is not where it belongs.
    MissingFlag,
    /// The header check sequence does not fit the header.
    WrongHcs,
    /// The frame check sequence does not fit the frame.
    WrongFcs,
    /// A tag or a choice that the standard does not have.
    UnknownTag,
    /// Octets follow where nothing may follow.
    TrailingOctets,
    /// A field has a value that it cannot have.
    BadValue,
    /// The authentication tag does not verify with the keys that were given.
    WrongTag,
    /// Characters that are no hexadecimal digits.
    BadHex,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::LengthMismatch => "length_mismatch",
            Self::MissingFlag => "missing_flag",
            Self::WrongHcs => "wrong_hcs",
            Self::WrongFcs => "wrong_fcs",
            Self::UnknownTag => "unknown_tag",
            Self::TrailingOctets => "trailing_octets",
            Self::BadValue => "bad_value",
            Self::WrongTag => "wrong_tag",
            Self::BadHex => "bad_hex",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::LengthMismatch => "length mismatch",
            Self::MissingFlag => "missing flag",
            Self::WrongHcs => "wrong HCS",
            Self::WrongFcs => "wrong FCS",
            Self::UnknownTag => "unknown tag",
            Self::TrailingOctets => "trailing octets",
            Self::BadValue => "bad value",
            Self::WrongTag => "wrong authentication tag",
            Self::BadHex => "not hexadecimal",
        }
    }
}

/// The first thing that is wrong with a frame. It repeats no octet of a plaintext but the one that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Octets into the frame; into the plaintext or the joined APDU where `within` names one.
    pub(crate) offset: usize,
    pub(crate) expected: String,
    pub(crate) found: String,
    /// The octets that `offset` counts, where they are not the frame's own.
    pub(crate) within: Option<&'static str>,
}

impl Fault {
    pub(crate) fn new(
        kind: Kind,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            offset,
            expected: expected.into(),
            found: found.into(),
            within: None,
        }
    }

    pub(crate) fn within(mut self, within: &'static str) -> Self {
        self.within.get_or_insert(within);
        self
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kind": self.kind.name(),
            "offset": self.offset,
            "expected": self.expected,
            "found": self.found,
            "within": self.within,
            "message": self.to_string(),
        })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at offset {}", self.kind.words(), self.offset)?;
        if let Some(within) = self.within {
            write!(f, " of the {within}")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}
