//! What a meter is told when it is made.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use crate::{Error, Fault, LabKeys};

/// Everything that makes one simulated meter.
#[derive(Debug, Clone)]
pub struct MeterOptions {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Keys and titles.
    pub lab_keys: LabKeys,
    /// Which objects it has.
    pub profile: Profile,
    /// How its management client authenticates.
    pub auth: Auth,
    /// A fault to play.
    pub fault: Option<Fault>,
    /// How long a cold boot takes; a warm one takes half of it. At most 3600.
    pub boot_seconds: f64,
    /// Where to keep what a real meter keeps in NVRAM; without it a killed meter starts anew.
    pub state_file: Option<PathBuf>,
    /// Whether a meter that is made anew starts with its relay open, as after a disconnection for non-payment.
    pub disconnected: bool,
    /// A connection with no traffic for this long is closed.
    pub idle_seconds: f64,
}

impl MeterOptions {
    /// A healthy meter of the standard profile with HLS5, booting in 5 s.
    #[must_use]
    pub fn new(listen: SocketAddr, lab_keys: LabKeys) -> Self {
        Self {
            listen,
            lab_keys,
            profile: Profile::Standard,
            auth: Auth::Hls5,
            fault: None,
            boot_seconds: 5.0,
            state_file: None,
            disconnected: false,
            idle_seconds: 120.0,
        }
    }

    /// The boot time in milliseconds.
    pub(crate) fn boot_ms(&self) -> Result<u64, Error> {
        millis(self.boot_seconds).ok_or(Error::BootSeconds(self.boot_seconds))
    }

    /// The idle time-out in milliseconds; nonsense means the default of two minutes.
    pub(crate) fn idle_ms(&self) -> u64 {
        millis(self.idle_seconds)
            .filter(|ms| *ms > 0)
            .unwrap_or(120_000)
    }
}

/// Milliseconds of a reasonable number of seconds.
fn millis(seconds: f64) -> Option<u64> {
    let good = (0.0..=3600.0).contains(&seconds);
    let duration = good.then(|| std::time::Duration::try_from_secs_f64(seconds).ok())??;
    u64::try_from(duration.as_millis()).ok()
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

impl Profile {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Procedure => "procedure",
        }
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "standard" => Ok(Self::Standard),
            "procedure" => Ok(Self::Procedure),
            _ => Err(Error::UnknownWord {
                what: "profile",
                name: text.to_owned(),
                known: "standard, procedure",
            }),
        }
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
    /// Not at all; nothing is ciphered.
    None,
    /// By the password of the lab keys; nothing is ciphered.
    Low,
    /// HLS5 (GMAC); every APDU authenticated and encrypted, by `glo` or `general-glo`.
    #[default]
    Hls5,
}

impl FromStr for Auth {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "none" => Ok(Self::None),
            "low" => Ok(Self::Low),
            "hls5" => Ok(Self::Hls5),
            _ => Err(Error::UnknownWord {
                what: "authentication",
                name: text.to_owned(),
                known: "none, low, hls5",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_or_name_the_known_ones() {
        assert_eq!("procedure".parse::<Profile>().unwrap(), Profile::Procedure);
        assert_eq!("low".parse::<Auth>().unwrap(), Auth::Low);
        assert!(
            "hls7"
                .parse::<Auth>()
                .unwrap_err()
                .to_string()
                .contains("none, low, hls5")
        );
        assert!(
            "idis"
                .parse::<Profile>()
                .unwrap_err()
                .to_string()
                .contains("standard, procedure")
        );
    }

    #[test]
    fn times_are_bounded() {
        for (seconds, expected) in [
            (0.0, Some(0)),
            (0.25, Some(250)),
            (3600.0, Some(3_600_000)),
            (3600.1, None),
            (-1.0, None),
            (f64::NAN, None),
        ] {
            assert_eq!(millis(seconds), expected, "{seconds}");
        }
    }
}
