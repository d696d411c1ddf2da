//! The command surface. The doc comments are the help texts.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use latchkey_proto::audit::v1 as audit;

use crate::output::Format;

mod certificate;
mod keys;
mod meter;
mod sim;

pub(crate) use certificate::*;
pub(crate) use keys::*;
pub(crate) use meter::*;
pub(crate) use sim::*;

/// Resets smart meters remotely, safely and provably.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 success, 1 access denied, 2 no response, others in docs/cli.md."
)]
pub(crate) struct Cli {
    /// Client configuration. Default: LATCHKEY_CONFIG, then .latchkey/latchkey.toml, then /etc/latchkey/latchkey.toml.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Text for people, or one JSON object per line.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole development stack under one folder.
    #[command(subcommand)]
    Dev(Dev),
    /// Reset a meter.
    Reset(Reset),
    /// Look at resets, or stop one.
    #[command(subcommand)]
    Resets(Resets),
    /// Enrol, list and forget meters.
    #[command(subcommand)]
    Meter(Meter),
    /// Put meter keys into custody, and see what it holds (never a key byte).
    #[command(subcommand)]
    Keys(Keys),
    /// Read, export and verify the trail.
    #[command(subcommand)]
    Audit(Audit),
    /// Who may pass port 4059, and to which meters.
    #[command(subcommand)]
    Allowlist(Allowlist),
    /// Play meters.
    #[command(subcommand)]
    Sim(Sim),
    /// Explain what was on the wire, octet by octet.
    #[command(subcommand)]
    Trace(Trace),
    /// Check everything Latchkey needs on this host, and say how to mend what is wrong.
    Doctor,
    /// Open an association with a meter, prove it both ways, release it (procedure, step 1).
    Connect(Connect),
    /// Read one attribute (procedure, step 2).
    GetObject(GetObject),
    /// Invoke a method; a reset method becomes a reset with all its guards (procedure, step 4).
    InvokeMethod(InvokeMethod),
    /// Read the newest entries of a profile (procedure, step 6).
    ReadProfile(ReadProfile),
}

impl Command {
    /// The request id the caller chose, if it did.
    pub(crate) fn request_id(&self) -> Option<String> {
        match self {
            Self::Reset(reset) => reset.request_id.clone(),
            Self::Keys(Keys::Rotate(rotate)) => rotate.request_id.clone(),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Make certificates, tokens, keys and configurations. What is there stays.
    Init {
        /// Where everything goes.
        #[arg(long, value_name = "DIR", default_value = ".latchkey")]
        dir: PathBuf,
        /// How many simulated meters: odd ones `standard`, even ones `procedure`.
        #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=5000))]
        meters: u16,
    },
    /// Run all five services and the simulated meters in this process, until Ctrl-C.
    Run {
        /// The folder `dev init` made.
        #[arg(long, value_name = "DIR", default_value = ".latchkey")]
        dir: PathBuf,
    },
    /// Wait until every service is healthy.
    Wait {
        /// The folder `dev init` made.
        #[arg(long, value_name = "DIR", default_value = ".latchkey")]
        dir: PathBuf,
        /// How long at most.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        seconds: u64,
    },
    /// Enrol every simulated meter: allowlist, keys, directory. What is enrolled stays.
    Enrol {
        /// The folder `dev init` made.
        #[arg(long, value_name = "DIR", default_value = ".latchkey")]
        dir: PathBuf,
    },
}

/// How deep a reset goes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Tier {
    /// Clear application-layer buffers; no board restarts.
    Soft,
    /// Restart the meter's operating system.
    Warm,
    /// Cycle the internal power supply: both boards restart.
    Cold,
}

impl From<Tier> for audit::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Soft => Self::Soft,
            Tier::Warm => Self::Warm,
            Tier::Cold => Self::Cold,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The meter's id.
    pub(crate) meter: String,
    /// How deep.
    #[arg(long, value_enum)]
    pub(crate) tier: Tier,
    /// Why, for the trail.
    #[arg(long, default_value = "operator request")]
    pub(crate) reason: String,
    /// Ticket or work order, for the trail.
    #[arg(long, default_value = "")]
    pub(crate) ticket: String,
    /// Tell the story until the verdict, and exit with its code.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Run policy and plan only: change nothing, send nothing.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) validate_only: bool,
    /// UUID of this request. The same id again is the same reset, never a second one.
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Resets {
    /// Resets, newest first.
    List {
        /// Only of this meter.
        #[arg(long, value_name = "ID", default_value = "")]
        meter: String,
    },
    /// The story of one reset.
    Show {
        /// The reset's id.
        reset_id: String,
        /// Tell the story until the verdict, and exit with its code.
        #[arg(long)]
        wait: bool,
    },
    /// Stop a reset that has not acted yet.
    Cancel {
        /// The reset's id.
        reset_id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The newest signed checkpoint, and the key it verifies with.
    Checkpoint,
    /// Entries, oldest first.
    List {
        /// Only about this meter.
        #[arg(long, value_name = "ID", default_value = "")]
        meter: String,
        /// Only of this reset.
        #[arg(long, value_name = "ID", default_value = "")]
        reset: String,
    },
    /// Write the whole trail under one checkpoint.
    Export {
        /// Where to.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check an exported trail, offline, with nothing but the public key.
    Verify {
        /// The exported trail.
        file: PathBuf,
        /// The verifier key, or a file that holds it.
        #[arg(long, value_name = "FILE_OR_VKEY")]
        key: String,
    },
}

/// One side of the allowlist.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Side {
    /// Hosts that may open connections through the gateway.
    Source,
    /// Meters that may be reached.
    Meter,
}

impl From<Side> for audit::AllowlistSide {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Meter => Self::Meter,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Allowlist {
    /// The current list.
    List,
    /// Add a network.
    Add {
        /// Which side.
        #[arg(value_enum)]
        side: Side,
        /// Such as 10.40.0.0/24.
        network: String,
        /// Why, for the trail.
        #[arg(long)]
        reason: String,
    },
    /// Remove a network.
    Remove {
        /// Which side.
        #[arg(value_enum)]
        side: Side,
        /// As it was added.
        network: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// Say what each octet of frames and APDUs means. Asks no service.
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Hex, a trace file of the association service, or a log that holds hex. Default: standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A laboratory meter's keys and titles, to decipher with: TOML, hex values. May be given more than once.
    #[arg(long, value_name = "FILE")]
    pub(crate) lab_keys: Vec<PathBuf>,
    /// A file with an encryption key, to decipher with: its hex alone, or a key file with `ek`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ek: Vec<PathBuf>,
    /// A file with an authentication key, to check tags with: its hex alone, or a key file with `ak`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ak: Vec<PathBuf>,
    /// A file with a dedicated key: its hex alone, or a key file with `dk`.
    #[arg(long, value_name = "FILE")]
    pub(crate) dk: Vec<PathBuf>,
    /// System title of a sender: 8 octets in hex, or a key file that names titles. Not needed where the frames do.
    #[arg(long, value_name = "HEX|FILE")]
    pub(crate) system_title: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The meter's IP address.
    #[arg(long)]
    pub(crate) ip: IpAddr,
    /// The meter's TCP port.
    #[arg(long, default_value_t = 4059)]
    pub(crate) port: u16,
    /// NONE, LOW, HLS3, HLS4, HLS5, HLS6 or HLS7: must be what the meter is enrolled with.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) auth: String,
}

/// Which object of which meter.
#[derive(Debug, Args)]
pub(crate) struct Object {
    /// Logical name (OBIS code), such as 0.0.96.1.2.255.
    #[arg(long, value_name = "OBIS")]
    pub(crate) id: String,
    /// The meter's id. Default: the one `connect` proved last.
    #[arg(long, value_name = "ID")]
    pub(crate) meter: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GetObject {
    /// Logical name (OBIS code), such as 0.0.96.1.2.255. May be given up to 16 times: all are read in one request if the
    /// meter takes lists.
    #[arg(long, value_name = "OBIS", required = true)]
    pub(crate) id: Vec<String>,
    /// The meter's id. Default: the one `connect` proved last.
    #[arg(long, value_name = "ID")]
    pub(crate) meter: Option<String>,
    /// Attribute index: once for all objects, or once for each.
    #[arg(long, value_name = "N", required = true, value_parser = clap::value_parser!(i32).range(1..=127))]
    pub(crate) attribute: Vec<i32>,
    /// COSEM class: once for all objects, or once for each. Default: what the profile or the Blue Book say for this
    /// logical name.
    #[arg(long, value_name = "N")]
    pub(crate) class: Vec<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct InvokeMethod {
    #[command(flatten)]
    pub(crate) object: Object,
    /// Method index.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=127))]
    pub(crate) method: i32,
    /// Parameter: N (an integer), or TYPE:VALUE such as long-unsigned:3; see docs/cli.md.
    #[arg(long, value_name = "DATA", allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// COSEM class. Default: what the profile or the Blue Book say for this logical name.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) class: u16,
}

#[derive(Debug, Args)]
pub(crate) struct ReadProfile {
    #[command(flatten)]
    pub(crate) object: Object,
    /// How many of the newest entries.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) entries: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_surface_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_procedures_lines_parse() {
        for line in [
            "latchkey dlms-client –connect –ip 192.168.1.50 –port 4059 –auth HLS7",
            "latchkey get-object –id 0.0.96.1.2.255 –attribute 2",
            "latchkey invoke-method –id 0.0.96.1.2.255 –method 1 –data 0",
            "latchkey read-profile –id 1.0.99.1.0.255 –entries 1",
        ] {
            let argv = crate::argv::normalise(line.split(' ').map(Into::into));
            Cli::try_parse_from(argv).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn the_laboratorys_lines_parse() {
        for line in [
            "latchkey sim meter --listen 127.10.9.1:4059 --lab-keys k --profile procedure --auth low --fault slow=100",
            "latchkey meter add m --address 127.10.9.1:4059 --lab-keys k --profile standard --auth none --output json",
            "latchkey reset m --tier soft --wait --request-id 0191d1a2-0000-7000-8000-000000000000",
            "latchkey sim fleet --count 200 --base 127.10.0.1:4059",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "latchkey sim fleet",
            "latchkey reset m",
            "latchkey reset m --tier hot",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
