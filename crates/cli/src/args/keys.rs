//! Verbs about the keys that custody holds.

use clap::{Args, Subcommand};

use super::{Auth, Policy};

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Generate a meter's keys inside the token.
    Generate(Box<KeysGenerate>),
    /// What custody holds, for every meter.
    List,
    /// What custody holds for one meter.
    Show {
        /// The meter's id.
        meter: String,
    },
    /// The head-end's own public keys of a suite: what a meter must be told for HLS7, signed APDUs and key agreement.
    Client {
        /// Security suite.
        #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
        suite: u8,
    },
    /// Bring every meter's keys under another generation of key-encryption keys, while custody serves. Custody's
    /// configuration must name the backup token, and its PIN must be there. Run again, it goes on where it was.
    Rewrap {
        /// The N of kek-ek-N; 0 is the one that new keys are kept under.
        #[arg(long, value_name = "N", default_value_t = 0)]
        to: u32,
    },
    /// Which generations of key-encryption keys there are, and how much is under each.
    Generations,
    /// Import keys wrapped (RFC 3394) under the token's transport key.
    Import(Box<KeysImport>),
}

#[derive(Debug, Args)]
pub(crate) struct KeysGenerate {
    /// The meter's id.
    pub(crate) meter: String,
    #[command(flatten)]
    pub(crate) titles: Titles,
    /// Security suite.
    #[arg(long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) suite: u8,
    #[command(flatten)]
    pub(crate) uses: Uses,
    /// Make a broadcast encryption key (GBEK), too: the first of a group.
    #[arg(long)]
    pub(crate) broadcast: bool,
    /// A meter of the group whose broadcast encryption key is this one's, too.
    #[arg(long, value_name = "ID", conflicts_with = "broadcast")]
    pub(crate) broadcast_of: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KeysImport {
    /// The meter's id.
    pub(crate) meter: String,
    #[command(flatten)]
    pub(crate) titles: Titles,
    /// Security suite.
    #[arg(long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) suite: u8,
    /// Wrapped encryption key: 24 octets in hex, 40 in suite 2.
    #[arg(long, value_name = "HEX")]
    pub(crate) wrapped_ek: String,
    /// Wrapped authentication key, likewise.
    #[arg(long, value_name = "HEX")]
    pub(crate) wrapped_ak: String,
    /// Wrapped secret of HLS3, HLS4 or HLS6: 24..72 octets in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) wrapped_hls_secret: Option<String>,
    /// Wrapped key-encryption key: 24 octets in hex, 40 in suite 2.
    #[arg(long, value_name = "HEX")]
    pub(crate) wrapped_kek: Option<String>,
    /// Wrapped broadcast encryption key (GBEK), likewise; meters of a group have the same one.
    #[arg(long, value_name = "HEX")]
    pub(crate) wrapped_gbek: Option<String>,
    /// Label of the transport key that all are wrapped under: transport-1, unless another is named.
    #[arg(long, value_name = "LABEL", default_value = "")]
    pub(crate) transport: String,
    /// The meter's public key for ECDSA, X || Y: 64 octets in hex, 96 in suite 2.
    #[arg(long, value_name = "HEX")]
    pub(crate) server_signing_key: Option<String>,
    /// The meter's public key for ECDH, X || Y, likewise.
    #[arg(long, value_name = "HEX")]
    pub(crate) server_agreement_key: Option<String>,
    #[command(flatten)]
    pub(crate) uses: Uses,
}

#[derive(Debug, Args)]
pub(crate) struct Titles {
    /// System title the client uses: 8 octets in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) client_title: String,
    /// The meter's system title: 8 octets in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) server_title: String,
}

/// What a meter's keys may be used for.
#[derive(Debug, Args)]
pub(crate) struct Uses {
    /// What the keys are for: others are refused. May be given more than once. Default: any that they serve.
    #[arg(long, value_enum, value_name = "MECHANISM")]
    pub(crate) mechanism: Vec<Auth>,
    /// What may be left out of the protection of its APDUs: `auth` allows authenticated only, `enc` encrypted only (with
    /// leave of custody's configuration besides). May be given more than once. Default: neither.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) policy: Vec<Policy>,
}
