//! Verbs about meters.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use latchkey_proto::association::v1 as association;
use latchkey_proto::custody::v1 as custody;

/// How an association is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Auth {
    /// Lowest level: no authentication.
    None,
    /// Low level: a password.
    Low,
    /// High level with MD5 (mechanism 3): refused unless custody's configuration allows it.
    Hls3,
    /// High level with SHA-1 (mechanism 4): refused unless custody's configuration allows it.
    Hls4,
    /// High level with GMAC (mechanism 5).
    Hls5,
    /// High level with SHA-256 (mechanism 6).
    Hls6,
    /// High level with ECDSA (mechanism 7): suites 1 and 2.
    Hls7,
}

impl From<Auth> for custody::Mechanism {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::None => Self::None,
            Auth::Low => Self::Low,
            Auth::Hls3 => Self::HlsMd5,
            Auth::Hls4 => Self::HlsSha1,
            Auth::Hls5 => Self::HlsGmac,
            Auth::Hls6 => Self::HlsSha256,
            Auth::Hls7 => Self::HlsEcdsa,
        }
    }
}

/// How APDUs are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protection {
    /// Not ciphered.
    Plain,
    /// The service-specific global tags.
    Glo,
    /// general-glo-ciphering.
    GeneralGlo,
    /// A dedicated key for each association, with the service-specific dedicated tags.
    Ded,
    /// A dedicated key, with general-ded-ciphering.
    GeneralDed,
    /// general-ciphering, with the key that --key-info says.
    GeneralCiphering,
}

impl From<Protection> for custody::Protection {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::Plain => Self::Plain,
            Protection::Glo => Self::Glo,
            Protection::GeneralGlo => Self::GeneralGlo,
            Protection::Ded => Self::Ded,
            Protection::GeneralDed => Self::GeneralDed,
            Protection::GeneralCiphering => Self::GeneralCiphering,
        }
    }
}

/// What of an APDU is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Authenticated only.
    Auth,
    /// Encrypted only: refused unless custody's configuration allows it.
    Enc,
    /// Authenticated and encrypted.
    AuthEnc,
}

impl From<Policy> for custody::SecurityPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Auth => Self::Authenticated,
            Policy::Enc => Self::Encrypted,
            Policy::AuthEnc => Self::AuthenticatedEncrypted,
        }
    }
}

/// Where the key of general-ciphering comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyInfo {
    /// The global unicast encryption key.
    Identified,
    /// A fresh key for every APDU, wrapped under the meter's key-encryption key.
    Wrapped,
    /// Agreed with one ephemeral and one static key, C(1e, 1s).
    OnePass,
    /// Agreed with two static keys, C(0e, 2s).
    Static,
}

impl From<KeyInfo> for custody::KeyInfo {
    fn from(key_info: KeyInfo) -> Self {
        match key_info {
            KeyInfo::Identified => Self::Unspecified,
            KeyInfo::Wrapped => Self::Wrapped,
            KeyInfo::OnePass => Self::AgreedOnePass,
            KeyInfo::Static => Self::AgreedStatic,
        }
    }
}

/// How the AlgorithmID of a key derivation is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlgorithmId {
    /// 60 85 74 05 08 03 xx.
    Standard,
    /// 60 85 74 06 08 03 xx.
    Legacy,
}

impl From<AlgorithmId> for custody::AlgorithmId {
    fn from(algorithm_id: AlgorithmId) -> Self {
        match algorithm_id {
            AlgorithmId::Standard => Self::Standard,
            AlgorithmId::Legacy => Self::Legacy,
        }
    }
}

/// How APDUs travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// The wrapper over TCP.
    Tcp,
    /// The wrapper over UDP.
    Udp,
    /// HDLC over TCP, or over a serial line.
    Hdlc,
}

impl From<Transport> for association::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
            Transport::Hdlc => Self::Hdlc,
        }
    }
}

/// Where a meter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Ip(SocketAddr),
    /// A serial line that the gateway's configuration names.
    Serial(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("serial:") {
            Some("") => Err("a serial line has a name: serial:NAME".to_owned()),
            Some(name) => Ok(Self::Serial(name.to_owned())),
            None => text
                .parse()
                .map(Self::Ip)
                .map_err(|_| "write it as ADDR:PORT or serial:NAME".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Serial(name) => write!(f, "serial:{name}"),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Meter {
    /// Enrol a meter: allowlist, laboratory keys, directory. Needs `lab_import = true` in custody's configuration.
    Add(Box<MeterAdd>),
    /// Meters by id.
    List,
    /// One meter.
    Show {
        /// Its id.
        meter: String,
    },
    /// How commands would fit the meter's link, before anything is sent.
    Plan(MeterPlan),
    /// Forget a meter. Its keys stay in custody, its address in the allowlist, its entries in the trail.
    Remove {
        /// Its id.
        meter: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MeterAdd {
    /// Its id: at most 64 characters of [A-Za-z0-9._-].
    pub(crate) meter: String,
    /// Where it listens, or the gateway's name of its serial line.
    #[arg(long, value_name = "ADDR:PORT|serial:NAME")]
    pub(crate) address: Address,
    /// TOML, hex values; see docs/cli.md.
    #[arg(long, value_name = "FILE")]
    pub(crate) lab_keys: PathBuf,
    /// Its reset profile: `standard`, `procedure`, or one of the reset service's profile_dir. Checked by the first reset.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: String,
    /// Wrapper port (HDLC: address) of the management client.
    #[arg(long, value_name = "SAP", default_value_t = 1)]
    pub(crate) client_sap: u16,
    /// Wrapper port (HDLC: upper address) of the logical device.
    #[arg(long, value_name = "SAP", default_value_t = 1)]
    pub(crate) server_sap: u16,
    /// Object the public client reads the invocation counter from; empty if the meter has none.
    #[arg(long, value_name = "OBIS", default_value = "0.0.43.1.0.255")]
    pub(crate) invocation_counter: String,
    /// The meter does not know RLRQ: the connection is closed instead.
    #[arg(long)]
    pub(crate) no_release: bool,
    /// Put what a change of keys needs into custody, too: the master key, and in suites 1 and 2 the meter's public key for
    /// signatures, where the key file has them.
    #[arg(long)]
    pub(crate) rotatable: bool,
    #[command(flatten)]
    pub(crate) security: Security,
    #[command(flatten)]
    pub(crate) link: Link,
}

/// How a meter's associations are secured.
#[derive(Clone, Debug, Args)]
pub(crate) struct Security {
    /// How it authenticates.
    #[arg(long, value_enum, default_value_t = Auth::Hls5)]
    pub(crate) auth: Auth,
    /// How its APDUs are protected. Default: `plain` with `--auth none` and `low`, else `glo`.
    #[arg(long, value_enum)]
    pub(crate) protection: Option<Protection>,
    /// Security suite. Default: that of the key file.
    #[arg(long, value_name = "0|1|2", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) suite: Option<u8>,
    /// What of its APDUs is protected. Default: authenticated and encrypted.
    #[arg(long, value_enum)]
    pub(crate) policy: Option<Policy>,
    /// APDUs are signed besides (general-signing). Suites 1 and 2.
    #[arg(long)]
    pub(crate) signed: bool,
    /// The key of `--protection general-ciphering`. Default: the global one, identified.
    #[arg(long, value_enum)]
    pub(crate) key_info: Option<KeyInfo>,
    /// How the AlgorithmID is written when a key is agreed: two forms are in the field.
    #[arg(long, value_enum)]
    pub(crate) algorithm_id: Option<AlgorithmId>,
    /// Send the head-end's certificate in the AARQ (HLS7).
    #[arg(long)]
    pub(crate) send_certificate: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            auth: Auth::Hls5,
            protection: None,
            suite: None,
            policy: None,
            signed: false,
            key_info: None,
            algorithm_id: None,
            send_certificate: false,
        }
    }
}

impl Security {
    /// What was asked for, or what goes with the mechanism.
    pub(crate) fn protection(&self) -> Protection {
        self.protection.unwrap_or(match self.auth {
            Auth::None | Auth::Low => Protection::Plain,
            Auth::Hls3 | Auth::Hls4 | Auth::Hls5 | Auth::Hls6 | Auth::Hls7 => Protection::Glo,
        })
    }
}

/// What lies between us and a meter.
#[derive(Clone, Debug, Args)]
pub(crate) struct Link {
    /// How APDUs travel.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// HDLC: octets of the server address. Default: 1, or 2 with a physical address.
    #[arg(long, value_name = "1|2|4")]
    pub(crate) hdlc_address_octets: Option<u32>,
    /// HDLC: physical device address, 0..16383.
    #[arg(long, value_name = "N")]
    pub(crate) hdlc_physical_address: Option<u32>,
    /// HDLC: largest information field proposed, 32..2030 octets. Default: 128.
    #[arg(long, value_name = "OCTETS")]
    pub(crate) hdlc_max_information: Option<u32>,
    /// HDLC: window proposed, 1..7. Default: 1.
    #[arg(long, value_name = "N")]
    pub(crate) hdlc_window: Option<u32>,
    /// The largest IP packet that crosses the link unfragmented, 128..65535 octets. Default: not known.
    #[arg(long, value_name = "OCTETS", default_value_t = 0)]
    pub(crate) mtu: u32,
    /// Propose general block transfer; some meters grant it and cannot do it.
    #[arg(long)]
    pub(crate) gbt: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            transport: Transport::Tcp,
            hdlc_address_octets: None,
            hdlc_physical_address: None,
            hdlc_max_information: None,
            hdlc_window: None,
            mtu: 0,
            gbt: false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct MeterPlan {
    /// The meter's id.
    pub(crate) meter: String,
    /// A read: CLASS:OBIS:ATTRIBUTE, such as 70:0.0.96.3.10.255:2. May be given more than once. Default: what every
    /// reset reads, and the reset commands of the profiles `standard` and `procedure`.
    #[arg(long, value_name = "CLASS:OBIS:N")]
    pub(crate) get: Vec<String>,
    /// A method: CLASS:OBIS:METHOD or CLASS:OBIS:METHOD:DATA, with DATA as in invoke-method. May be given more than once.
    #[arg(long, value_name = "CLASS:OBIS:N[:DATA]")]
    pub(crate) action: Vec<String>,
}
