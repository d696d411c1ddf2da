//! Options that are words on a command line.

use std::{fmt, path::PathBuf, str::FromStr};

use dlms::{KeyChoice, Mechanism, Protection, SecurityControl, Suite};

use crate::Error;

/// Finds a word in its table, or names the known ones.
fn find<T: Copy>(what: &'static str, table: &[(&'static str, T)], name: &str) -> Result<T, Error> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        Error::UnknownWord {
            what,
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// The word of a value.
fn word<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    let found = table.iter().find(|(_, known)| known == value);
    found.map_or("?", |(name, _)| name)
}

/// Which reset interface a meter offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Disconnect control and a vendor's script table 0.0.10.1.0.255 with scripts 1 soft, 2 warm, 3 cold.
    #[default]
    Standard,
    /// The standard objects, and the procedure's own: 0.0.96.1.2.255, attribute 2 the state, method 1 the cold reset.
    Procedure,
}

const PROFILES: &[(&str, Profile)] = &[
    ("standard", Profile::Standard),
    ("procedure", Profile::Procedure),
];

impl Profile {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        word(PROFILES, &self)
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        find("profile", PROFILES, text)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the management client (SAP 1) authenticates. The public client (SAP 16) never does, and reads one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// Not at all. Nothing is ciphered, unless the forms say otherwise.
    None,
    /// By the password of the lab keys. Nothing is ciphered, unless the forms say otherwise.
    Low,
    /// By the password, inside of ciphered associations.
    LowCiphered,
    /// HLS 3: MD5 over the HLS secret of the lab keys.
    Hls3,
    /// HLS 4: SHA-1 over it.
    Hls4,
    /// HLS 5: GMAC.
    #[default]
    Hls5,
    /// HLS 6: SHA-256 over the HLS secret and both titles and challenges.
    Hls6,
    /// HLS 7: ECDSA. Suites 1 and 2.
    Hls7,
}

const AUTHS: &[(&str, Auth)] = &[
    ("none", Auth::None),
    ("low", Auth::Low),
    ("low-ciphered", Auth::LowCiphered),
    ("hls3", Auth::Hls3),
    ("hls4", Auth::Hls4),
    ("hls5", Auth::Hls5),
    ("hls6", Auth::Hls6),
    ("hls7", Auth::Hls7),
];

impl Auth {
    /// The mechanism.
    #[must_use]
    pub const fn mechanism(self) -> Mechanism {
        match self {
            Self::None => Mechanism::None,
            Self::Low | Self::LowCiphered => Mechanism::Low,
            Self::Hls3 => Mechanism::HlsMd5,
            Self::Hls4 => Mechanism::HlsSha1,
            Self::Hls5 => Mechanism::HlsGmac,
            Self::Hls6 => Mechanism::HlsSha256,
            Self::Hls7 => Mechanism::HlsEcdsa,
        }
    }
}

impl FromStr for Auth {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        find("authentication", AUTHS, text)
    }
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(AUTHS, self))
    }
}

/// A form that APDUs may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form(pub Protection);

const FORMS: &[(&str, Form)] = &[
    ("plain", Form(Protection::Plain)),
    ("glo", Form(Protection::Glo)),
    ("general-glo", Form(Protection::GeneralGlo)),
    ("ded", Form(Protection::Ded)),
    ("general-ded", Form(Protection::GeneralDed)),
    (
        "general-identified",
        Form(Protection::GeneralCiphering(KeyChoice::Identified)),
    ),
    (
        "general-wrapped",
        Form(Protection::GeneralCiphering(KeyChoice::Wrapped)),
    ),
    (
        "general-one-pass",
        Form(Protection::GeneralCiphering(KeyChoice::OnePass)),
    ),
    (
        "general-static",
        Form(Protection::GeneralCiphering(KeyChoice::Static)),
    ),
];

impl FromStr for Form {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        find("form", FORMS, text)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(FORMS, self))
    }
}

/// What of a ciphered APDU is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Authenticated, in clear: security control 1x.
    Authenticated,
    /// Encrypted, without a tag: 2x. Whoever flips a bit is not noticed.
    Encrypted,
    /// Authenticated and encrypted: 3x.
    #[default]
    Both,
}

const POLICIES: &[(&str, Policy)] = &[
    ("authenticated", Policy::Authenticated),
    ("encrypted", Policy::Encrypted),
    ("both", Policy::Both),
];

impl Policy {
    /// The control octet in a suite.
    #[must_use]
    pub const fn control(self, suite: Suite) -> SecurityControl {
        let authenticated = matches!(self, Self::Authenticated | Self::Both);
        let encrypted = matches!(self, Self::Encrypted | Self::Both);
        SecurityControl::of(suite, authenticated, encrypted)
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        find("policy", POLICIES, text)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(POLICIES, self))
    }
}

/// What carries a meter's APDUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Transport {
    /// The wrapper over TCP: one connection at a time.
    #[default]
    Tcp,
    /// The wrapper over UDP: an association for each client address.
    Udp,
    /// HDLC over TCP: one connection at a time.
    Hdlc,
    /// HDLC over a serial line. On the command line `serial:PATH` or `serial:PATH,BAUD`.
    Serial {
        /// The device, such as /dev/ttyUSB0 or one end of a pseudo terminal.
        path: PathBuf,
        /// Bits a second; 8 data bits, no parity, one stop bit.
        baud: u32,
    },
}

const BAUD: u32 = 9600;

impl FromStr for Transport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(line) = text.strip_prefix("serial:").filter(|line| !line.is_empty()) {
            // a number after the last comma is the speed; any other comma belongs to the path
            let (path, baud) = line
                .rsplit_once(',')
                .and_then(|(path, baud)| Some((path, baud.parse().ok()?)))
                .unwrap_or((line, BAUD));
            let path = PathBuf::from(path);
            return Ok(Self::Serial { path, baud });
        }
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "hdlc" => Ok(Self::Hdlc),
            _ => Err(Error::UnknownWord {
                what: "transport",
                name: text.to_owned(),
                known: "tcp, udp, hdlc, serial:PATH[,BAUD]".to_owned(),
            }),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Hdlc => f.write_str("hdlc"),
            Self::Serial { path, baud } => write!(f, "serial:{},{baud}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<T: FromStr<Err = Error> + fmt::Display + Copy>(table: &[(&str, T)]) {
        for (name, value) in table {
            assert_eq!(value.to_string(), *name);
            assert_eq!(name.parse::<T>().unwrap().to_string(), *name);
        }
        let Err(error) = "melt".parse::<T>() else {
            panic!("melt is a word")
        };
        let message = error.to_string();
        assert!(
            table.iter().all(|(name, _)| message.contains(name)),
            "{message}"
        );
    }

    #[test]
    fn words_go_there_and_back_or_name_the_known_ones() {
        there_and_back(PROFILES);
        there_and_back(AUTHS);
        there_and_back(FORMS);
        there_and_back(POLICIES);
        for text in [
            "tcp",
            "udp",
            "hdlc",
            "serial:/dev/ttyS0,115200",
            "serial:/a,b,9600",
        ] {
            assert_eq!(text.parse::<Transport>().unwrap().to_string(), text);
        }
        for (text, whole) in [
            ("serial:/dev/ttyS0", "serial:/dev/ttyS0,9600"),
            ("serial:a,b", "serial:a,b,9600"),
        ] {
            assert_eq!(text.parse::<Transport>().unwrap().to_string(), whole);
        }
        for bad in ["serial:", "serial", "TCP", ""] {
            let error = bad.parse::<Transport>().unwrap_err();
            assert!(error.to_string().contains("serial:PATH[,BAUD]"), "{error}");
        }
    }

    #[test]
    fn policies_are_control_octets() {
        for (policy, octet) in [
            (Policy::Authenticated, 0x11),
            (Policy::Encrypted, 0x21),
            (Policy::Both, 0x31),
        ] {
            assert_eq!(policy.control(Suite::Suite1).octet(), octet);
        }
        for (_, auth) in AUTHS {
            assert!(auth.mechanism().is_supported());
        }
    }
}
