//! Custody's configuration.

use std::{path::PathBuf, time::Duration};

use kit::{
    PeerName, ServiceConfig,
    config::{Client, ConfigError, Database, Memory, Server, Telemetry},
};
use serde::Deserialize;

use crate::{counters::Policy, store::COUNTER_END};

/// Custody's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How it listens. `KeyService` belongs to people who enrol meters, `CipherService` to the association service.
    pub server: Server,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// What may see its memory: nobody, unless this says otherwise.
    #[serde(default)]
    pub memory: Memory,
    /// Where wrapped keys, counters and permit uses are kept. A database restored from a backup holds counters that
    /// were used already: raise every `next_counter` above what the meters have seen before serving from it.
    pub database: Database,
    /// The token that holds `kek-ek-1`, `kek-ak-1`, `kek-hs-1`, `kek-mk-1` and `transport-1`, and the head-end's own
    /// `sign-p256-1`, `agree-p256-1` (suite 1), `sign-p384-1`, `agree-p384-1` (suite 2). What it lacks, meters do without.
    pub token: hsm::TokenConfig,
    /// More tokens with the same keys (`[[tokens]]`), at most 15: copies made in a ceremony. Work goes to those that do
    /// it; custody serves while one of them does. One with other keys is refused at the start. Give each a module of its
    /// own, if only a copy of one file: what recovers one disturbs the others of its module.
    #[serde(default)]
    pub tokens: Vec<hsm::TokenConfig>,
    /// The generation of key-encryption keys that new keys are kept under: N of `kek-ek-N`, `kek-ak-N`, `kek-hs-N` and
    /// `kek-mk-N`. Default: the newest of which the token has all four. Pin it while replicas are restarted after a
    /// ceremony: one that does not know a generation yet cannot use keys that another keeps under it.
    #[serde(default)]
    pub kek_generation: Option<u32>,
    /// The backup token, for the time of a re-wrap (`RewrapKeys`): it is opened when one begins and left when it ends.
    /// Its PIN file need not exist before, and should not after. Without it no key comes under another generation.
    #[serde(default)]
    pub backup_token: Option<hsm::TokenConfig>,
    /// The auditor, for entries of the trail. Permits are checked without it.
    pub auditor: Client,
    /// The auditor's Ed25519 public key that permits are checked with: 64 hex digits.
    pub permit_key_file: PathBuf,
    /// Whose permits are obeyed: the services that may have asked the auditor, such as
    /// `spiffe://latchkey.test/latchkey/reset`. At least one.
    pub requesters: Vec<PeerName>,
    /// Whether keys of laboratory meters may be imported in clear. Default false.
    #[serde(default)]
    pub lab_import: bool,
    /// Whether associations may be authenticated by HLS with MD5 or SHA-1 (mechanisms 3 and 4). Default false.
    #[serde(default)]
    pub allow_legacy_hls: bool,
    /// Whether APDUs may be encrypted and not authenticated (security control 2x), with meters whose keys came in for it.
    /// Default false: nothing received so is
    /// authentic, and whoever is in the middle can turn a permitted command into another.
    #[serde(default)]
    pub allow_encryption_only: bool,
    /// X.509 certificate of `sign-p256-1`, PEM or DER, for meters of suite 1 that want it in the AARQ: its subject's
    /// common name is the client system title, 16 hex digits.
    #[serde(default)]
    pub client_certificate_suite1_file: Option<PathBuf>,
    /// The same of `sign-p384-1`, for meters of suite 2.
    #[serde(default)]
    pub client_certificate_suite2_file: Option<PathBuf>,
    /// Fewest invocation counters reserved at one time, 1..4096. Default 16. Blocks that are used up quickly double.
    #[serde(default = "default_counter_block")]
    pub counter_block: u32,
    /// Most invocation counters reserved at one time, `counter_block`..65536. Default 1024. A crash leaves a gap of at
    /// most this many in the counters of a meter.
    #[serde(default = "default_counter_block_max")]
    pub counter_block_max: u32,
    /// The invocation counter from which on the trail, a metric and `MeterKeys` warn that a meter needs a new encryption
    /// key, 1..4278190080 (where custody refuses). Default 4026531840, 2^32 - 2^28.
    #[serde(default = "default_counter_warning")]
    pub counter_warning: u32,
    /// A file of this replica's own, on a disk that is not restored with the database: which counters it reserved last.
    /// By it a database is known that was restored from a backup, or failed over to a copy that lags. It is made where it
    /// is missing; where it is missing though the database was used, every counter is raised by `counter_restore_gap`.
    /// Without it nothing is noticed, and counters repeat.
    #[serde(default)]
    pub counter_state_file: Option<PathBuf>,
    /// By how much every invocation counter is raised when the database went back, 1..268435456: more than any meter may
    /// have used since the backup. Default 1048576, 2^20.
    #[serde(default = "default_counter_jump")]
    pub counter_restore_gap: u32,
    /// By how much the invocation counters of a meter may be raised within a day because of what it shows unauthenticated,
    /// 0..268435456. Larger jumps need a person. Default 1048576, 2^20.
    #[serde(default = "default_counter_jump")]
    pub counter_hint_max: u32,
    /// Seconds by which the clocks of custody and auditor may differ, at most 300. Default 5.
    #[serde(default = "default_clock_skew_seconds")]
    pub clock_skew_seconds: u64,
    /// Cipher contexts held at one time; the one idle longest makes room. Default 4096.
    #[serde(default = "default_contexts_max")]
    pub contexts_max: usize,
    /// Unwrapped keys held in the token at one time. Default 1024.
    #[serde(default = "default_unwrapped_keys_max")]
    pub unwrapped_keys_max: usize,
    /// Associations that a rotation of keys may open with a meter in 24 hours without the meter proving any key, 4..1000.
    /// Default 12. Each may be a failed authentication, and some meters lock everybody out after a few.
    #[serde(default = "default_rotation_openings_max")]
    pub rotation_openings_max: u32,
    /// Seconds after which a key that a rotation has put out of use is destroyed, and one that the meter did not take is
    /// given up, at least 3600. Default 604,800: a week.
    #[serde(default = "default_rotation_retire_seconds")]
    pub rotation_retire_seconds: u64,
}

fn default_rotation_openings_max() -> u32 {
    12
}
fn default_rotation_retire_seconds() -> u64 {
    7 * 24 * 60 * 60
}
fn default_counter_block() -> u32 {
    16
}
fn default_counter_block_max() -> u32 {
    1024
}
fn default_counter_jump() -> u32 {
    1 << 20
}
fn default_counter_warning() -> u32 {
    0xF000_0000
}
fn default_clock_skew_seconds() -> u64 {
    5
}
fn default_contexts_max() -> usize {
    4096
}
fn default_unwrapped_keys_max() -> usize {
    1024
}

impl Config {
    pub(crate) fn counters(&self) -> Policy {
        Policy {
            block_min: self.counter_block,
            block_max: self.counter_block_max,
            warning: self.counter_warning,
            restore_gap: self.counter_restore_gap,
            hint_max: self.counter_hint_max,
        }
    }

    pub(crate) fn clock_skew(&self) -> Duration {
        Duration::from_secs(self.clock_skew_seconds)
    }
}

impl Config {
    /// Whether a token would be opened anew sooner than all keys in use are unwrapped twice.
    fn objects_are_few(&self) -> bool {
        let least = u64::try_from(self.unwrapped_keys_max)
            .unwrap_or(u64::MAX)
            .saturating_mul(2);
        std::iter::once(&self.token)
            .chain(&self.tokens)
            .any(|token| (1..=least).contains(&token.objects_max))
    }
}

impl ServiceConfig for Config {
    fn server(&self) -> &Server {
        &self.server
    }

    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn memory(&self) -> Option<&Memory> {
        Some(&self.memory)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            (
                "requesters",
                self.requesters.is_empty(),
                "is empty: no permit would be obeyed; name at least one peer",
            ),
            (
                "counter_block",
                !(1..=4096).contains(&self.counter_block),
                "must be 1..4096",
            ),
            (
                "counter_block_max",
                !(self.counter_block..=65_536).contains(&self.counter_block_max),
                "must be counter_block..65536",
            ),
            (
                "counter_restore_gap",
                !(1..=1 << 28).contains(&self.counter_restore_gap),
                "must be 1..268435456",
            ),
            (
                "counter_hint_max",
                self.counter_hint_max > 1 << 28,
                "must be at most 268435456",
            ),
            (
                "counter_warning",
                !(1..=COUNTER_END).contains(&self.counter_warning),
                "must be 1..4278190080",
            ),
            (
                "clock_skew_seconds",
                self.clock_skew_seconds > 300,
                "must be at most 300",
            ),
            (
                "contexts_max",
                self.contexts_max == 0,
                "must be greater than 0",
            ),
            (
                "rotation_openings_max",
                !(4..=1000).contains(&self.rotation_openings_max),
                "must be 4..1000",
            ),
            (
                "rotation_retire_seconds",
                !(3600..=31_536_000).contains(&self.rotation_retire_seconds),
                "must be 3600..31536000",
            ),
            (
                "objects_max of a token",
                self.objects_are_few(),
                "must be 0 or more than twice unwrapped_keys_max: the token would be opened anew all the time",
            ),
            (
                "unwrapped_keys_max",
                self.unwrapped_keys_max == 0,
                "must be greater than 0",
            ),
        ];
        match bounds.iter().find(|(_, broken, _)| *broken) {
            Some((key, _, why)) => Err(ConfigError::msg(format!("{key} {why}"))),
            None => Ok(()),
        }
    }
}
