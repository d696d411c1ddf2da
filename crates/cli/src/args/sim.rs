//! Verbs that play meters.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Sim {
    /// Play one meter; prints a JSON line per event.
    Meter(Box<SimMeter>),
    /// Play many meters.
    Fleet(Box<SimFleet>),
    /// Make a key file for a laboratory meter.
    Keys(SimKeys),
}

#[derive(Debug, Args)]
pub(crate) struct SimKeys {
    /// Where to. An existing file is left alone.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Security suite. In suites 1 and 2 the meter gets key pairs, and must be told the head-end's public keys.
    #[arg(long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) suite: u8,
    /// With suites 1 and 2: the head-end's public keys, as `latchkey keys client --suite N --output json` prints them.
    /// Default: custody is asked.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_keys: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SimMeter {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Its keys: TOML, hex values.
    #[arg(long, value_name = "FILE")]
    pub(crate) lab_keys: PathBuf,
    /// Start with the relay open, as after a disconnection for non-payment.
    #[arg(long)]
    pub(crate) disconnected: bool,
    /// Keep non-volatile memory in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) kind: SimKind,
}

/// What kind of meter is played.
#[derive(Clone, Debug, Args)]
pub(crate) struct SimKind {
    /// `standard` or `procedure`.
    #[arg(long, value_name = "NAME", default_value = "standard")]
    pub(crate) profile: simulator::Profile,
    /// What carries its APDUs: tcp, udp, hdlc, or serial:PATH[,BAUD].
    #[arg(long, value_name = "NAME", default_value = "tcp")]
    pub(crate) transport: simulator::Transport,
    /// HDLC: octets of its address, 1, 2 or 4. Default: 1, or 2 with a physical address.
    #[arg(long, value_name = "1|2|4")]
    pub(crate) hdlc_address_octets: Option<u8>,
    /// HDLC: its physical device address.
    #[arg(long, value_name = "N")]
    pub(crate) hdlc_physical_address: Option<u16>,
    /// HDLC: the largest information field it takes and sends, 32..2030 octets. Default: 128.
    #[arg(long, value_name = "OCTETS")]
    pub(crate) hdlc_max_information: Option<u16>,
    /// HDLC: its window, 1..7. Default: 1.
    #[arg(long, value_name = "N")]
    pub(crate) hdlc_window: Option<u8>,
    /// What it demands of the management client: none, low, low-ciphered, hls3, hls4, hls5, hls6, hls7.
    #[arg(long, value_name = "NAME", default_value = "hls5")]
    pub(crate) auth: simulator::Auth,
    /// A form that APDUs may have: plain, glo, general-glo, ded, general-ded, general-identified, general-wrapped,
    /// general-one-pass, general-static. May be given more than once. Default: what goes with the mechanism.
    #[arg(long, value_name = "FORM")]
    pub(crate) form: Vec<simulator::Form>,
    /// What of a ciphered APDU is protected: authenticated, encrypted or both.
    #[arg(long, value_name = "NAME", default_value = "both")]
    pub(crate) policy: simulator::Policy,
    /// Demands signed APDUs, and signs its answers.
    #[arg(long)]
    pub(crate) signed: bool,
    /// How it writes the AlgorithmID when a key is agreed.
    #[arg(long, value_enum, default_value_t = super::AlgorithmId::Standard)]
    pub(crate) algorithm_id: super::AlgorithmId,
    /// The longest APDU it receives, 64..65535 octets; 0 for no limit. A small one forces blocks.
    #[arg(long, value_name = "OCTETS", default_value_t = 1024)]
    pub(crate) max_pdu: u16,
    /// It takes no lists of attributes.
    #[arg(long)]
    pub(crate) no_lists: bool,
    /// It has no ACCESS service.
    #[arg(long)]
    pub(crate) no_access: bool,
    /// It has no block transfer of GET, SET and ACTION.
    #[arg(long)]
    pub(crate) no_blocks: bool,
    /// It has general block transfer.
    #[arg(long)]
    pub(crate) gbt: bool,
    /// It tells each entry of its event log to an associated client.
    #[arg(long)]
    pub(crate) events: bool,
    /// Where it says, after a boot, that it is on the mesh again.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) push: Option<SocketAddr>,
    /// A fault to play.
    #[arg(long, value_name = "NAME[=ARG]")]
    pub(crate) fault: Option<simulator::Fault>,
    /// How long a cold start takes; a warm one takes half of it.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 5.0,
        overrides_with = "boot_seconds"
    )]
    pub(crate) boot_seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct SimFleet {
    /// Play the meters of this `dev init` folder.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["count", "base"], required_unless_present = "count")]
    pub(crate) dir: Option<PathBuf>,
    /// Play this many meters with fresh keys.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub(crate) count: Option<u16>,
    /// The first meter's address; the others follow it.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.10.0.1:4059")]
    pub(crate) base: SocketAddr,
    /// With --count: write every meter's key file into this folder.
    #[arg(long, value_name = "DIR", requires = "count")]
    pub(crate) keys_out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) kind: SimKind,
}
