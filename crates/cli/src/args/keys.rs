//! Verbs about the keys that custody holds.

use super::{KeysCertificate, KeysCsr};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use latchkey_proto::custody::v1 as custody;
use latchkey_proto::custody::v1::KeyKind;

use super::{Auth, Policy};

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Generate a meter's keys inside the token.
    Generate(Box<KeysGenerate>),
    /// What custody holds, for every meter or those that are asked for.
    List(Box<KeysList>),
    /// What custody holds for one meter.
    Show {
        /// The meter's id.
        meter: String,
    },
    /// Change keys of a meter over the air (needs the role security-admin).
    Rotate(Box<KeysRotate>),
    /// Changes of keys: all, or one.
    Rotations(KeysRotations),
    /// The head-end's own public keys of a suite: what a meter must be told for HLS7, signed APDUs and key agreement.
    Client {
        /// Security suite.
        #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
        suite: u8,
    },
    /// A certificate request (PKCS #10) for one of the head-end's own keys, signed in the token.
    Csr(KeysCsr),
    /// Certificates of meters, of authorities, and of the head-end's own keys.
    #[command(subcommand)]
    Certificate(KeysCertificate),
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
    /// Import a delivery: the wrapped keys of many meters, from CSV or JSON lines. Once more is no harm.
    ImportFile(Box<KeysImportFile>),
    /// Change what is known of a meter in clear; its open associations end.
    Update(Box<KeysUpdate>),
    /// Raise the invocation counters of a meter that was used elsewhere, or is ahead of a restored database. They are
    /// never lowered, and gaps do no harm.
    Counter {
        /// The meter's id.
        meter: String,
        /// The next counter is to be at least this: above all that the meter has seen.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_278_190_079))]
        at_least: u32,
        /// Why, for the trail.
        #[arg(long)]
        reason: String,
    },
    /// Say that somebody else may have a meter's keys: they serve for nothing but to be replaced.
    Compromise {
        /// The meter's id.
        meter: String,
        /// Why, for the trail.
        #[arg(long)]
        reason: String,
    },
    /// Destroy a meter's keys, for good. It may get other keys afterwards, never these.
    Destroy(Box<KeysDestroy>),
    /// Which keys a meter has and had, or whose key one is or was. Never a key byte.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Fingerprint {
        /// The meter's id.
        #[arg(group = "which")]
        meter: Option<String>,
        /// The fingerprint of a key: 16 octets in hex.
        #[arg(long, value_name = "HEX", group = "which")]
        of: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeysList {
    /// Only keys that came in so: generated, imported or lab.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Option<String>,
    /// Only keys in this state.
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Option<KeyState>,
    /// Only rows under this generation of key-encryption keys.
    #[arg(long, value_name = "N")]
    pub(crate) kek_generation: Option<u32>,
    /// Only keys stored before this time, such as 2026-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<jiff::Timestamp>,
    /// Only meters whose next invocation counter is at least this.
    #[arg(long, value_name = "N")]
    pub(crate) counter_min: Option<u32>,
    /// Only keys of this batch of an import, as the trail names it.
    #[arg(long, value_name = "ID")]
    pub(crate) batch: Option<String>,
    /// Instead of the list, the digest that the trail has of a batch.
    #[arg(long, requires = "batch")]
    pub(crate) digest: bool,
}

/// Whether a meter's keys may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyState {
    /// They may.
    Active,
    /// Somebody else may have them.
    Compromised,
    /// The secrets are gone.
    Destroyed,
}

impl From<KeyState> for custody::KeyState {
    fn from(state: KeyState) -> Self {
        match state {
            KeyState::Active => Self::Active,
            KeyState::Compromised => Self::Compromised,
            KeyState::Destroyed => Self::Destroyed,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeysImportFile {
    /// CSV or JSON lines, in hex; docs/cli.md describes them.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where rejected rows are told, one JSON object a line. Default: FILE.rejected.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Label of the transport key, where the file names none: transport-N or transport-rsa-N.
    #[arg(long, value_name = "LABEL")]
    pub(crate) transport: Option<String>,
    /// System title the client uses, where the file has none: 8 octets in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) client_title: Option<String>,
    /// Security suite, where the file says none.
    #[arg(long, value_name = "0|1|2", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) suite: Option<u8>,
    #[command(flatten)]
    pub(crate) uses: Uses,
}

#[derive(Debug, Args)]
pub(crate) struct KeysUpdate {
    /// The meter's id.
    pub(crate) meter: String,
    /// System title the client uses: 8 octets in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) client_title: Option<String>,
    /// The meter's system title: 8 octets in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) server_title: Option<String>,
    /// The meter's public key for ECDSA, X || Y: 64 octets in hex, 96 in suite 2; empty for none.
    #[arg(long, value_name = "HEX")]
    pub(crate) server_signing_key: Option<String>,
    /// The meter's public key for ECDH, X || Y, likewise.
    #[arg(long, value_name = "HEX")]
    pub(crate) server_agreement_key: Option<String>,
    #[command(flatten)]
    pub(crate) uses: Uses,
    /// Name no mechanism: any that the keys serve.
    #[arg(long, conflicts_with = "mechanism")]
    pub(crate) any_mechanism: bool,
    /// Name no policy: authenticated and encrypted alone.
    #[arg(long, conflicts_with = "policy")]
    pub(crate) no_policy: bool,
    /// The version of the row that the change was decided upon. Default: the one it has now.
    #[arg(long, value_name = "N")]
    pub(crate) version: Option<i64>,
    /// Why, for the trail.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct KeysDestroy {
    /// The meter's id.
    pub(crate) meter: String,
    /// The check value of the encryption key that is to be destroyed, 10 digits; empty for a meter without.
    #[arg(long, value_name = "HEX")]
    pub(crate) check_value: String,
    /// Why, for the trail.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct KeysRotate {
    /// The meter's id.
    pub(crate) meter: String,
    /// Which keys, with commas between them. The master key changes alone.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["guek", "gak"])]
    pub(crate) key: Vec<RotatedKey>,
    /// Agree on the master key (suites 1 and 2) instead of transferring it: needs no old one.
    #[arg(long)]
    pub(crate) agree: bool,
    /// Why, for the trail.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Ticket or work order.
    #[arg(long, value_name = "ID", default_value = "")]
    pub(crate) ticket: String,
    /// Tell the story until the verdict; the exit code is the verdict's.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Chosen by the caller: the same id again is the same rotation.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KeysRotations {
    /// One of them.
    pub(crate) rotation_id: Option<String>,
    /// Only those of this meter.
    #[arg(
        long,
        value_name = "ID",
        default_value = "",
        conflicts_with = "rotation_id"
    )]
    pub(crate) meter: String,
    /// Only those that are not over.
    #[arg(long, conflicts_with = "rotation_id")]
    pub(crate) active: bool,
    /// Look at it now, whatever its back-off says.
    #[arg(long, requires = "rotation_id")]
    pub(crate) retry: bool,
    /// Tell the story until the verdict; the exit code is the verdict's.
    #[arg(long, requires = "rotation_id")]
    pub(crate) wait: bool,
}

/// A key that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RotatedKey {
    /// Global unicast encryption key.
    Guek,
    /// Global authentication key.
    Gak,
    /// Global broadcast encryption key.
    Gbek,
    /// Master key (KEK), which wraps keys.
    Master,
}

impl From<RotatedKey> for KeyKind {
    fn from(key: RotatedKey) -> Self {
        match key {
            RotatedKey::Guek => Self::GlobalUnicastEncryption,
            RotatedKey::Gak => Self::GlobalAuthentication,
            RotatedKey::Gbek => Self::GlobalBroadcastEncryption,
            RotatedKey::Master => Self::Master,
        }
    }
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
