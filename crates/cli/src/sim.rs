//! `latchkey sim`: meters to practise on.

use std::path::Path;
use std::pin::pin;

use dlms::Suite;
use rand::Rng as _;
use serde_json::{Value, json};
use simulator::{Fleet, LabKeys, MeterOptions, Notify, Services};
use tokio::sync::mpsc;

use crate::args;
use crate::client::Session;
use crate::dev;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::keys::{ClientKeys, client_keys};
use crate::meter::lab_keys;
use crate::output::Output;
use crate::signal;

/// Events that wait to be printed; a laboratory that does not read holds the meters up, and loses nothing.
const EVENTS: usize = 1024;

pub(crate) async fn run(
    verb: args::Sim,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Sim::Meter(args) => play([one(&args)?], output).await,
        args::Sim::Fleet(args) => {
            let options = match &args.dir {
                Some(dir) => dev::fleet::options(dir)?,
                None => fresh(&args)?,
            };
            output.note(&format!(
                "playing {} meters; Ctrl-C ends them",
                options.len()
            ));
            play(options, output).await
        }
        args::Sim::Keys(args) => {
            let made = new_keys(&args, session).await?;
            let out = &args.out;
            output.result(&json!({ "file": out, "made": made }), || {
                format!(
                    "{} {}",
                    out.display(),
                    if made { "made" } else { "was there already" }
                )
            });
            Ok(Exit::OK)
        }
    }
}

/// Makes a key file. In suites 1 and 2 it also holds the public keys of the head-end, which such a meter must know.
async fn new_keys(args: &args::SimKeys, session: &Session) -> Result<bool, Failure> {
    if args.out.exists() {
        return Ok(false);
    }
    let mut keys = fresh_keys(suite(args.suite)?);
    let none = args.client_keys.as_deref() == Some(Path::new("none"));
    if args.suite > 0 && !none {
        let client = match &args.client_keys {
            Some(path) => ClientKeys::read(path, args.suite)?,
            None => client_keys(args.suite, session).await.map_err(|failure| {
                failure.mend(
                    "start custody, or give its public keys with --client-keys FILE, or `none` if neither HLS7 nor signed APDUs nor key agreement is wanted",
                )
            })?,
        };
        let (signing, agreement) = client.octets()?;
        keys = keys
            .with_client_keys(&signing, &agreement)
            .map_err(failed)?;
    }
    keys.write(&args.out).map_err(failed).map(|()| true)
}

fn suite(id: u8) -> Result<Suite, Failure> {
    Suite::from_id(id).ok_or_else(|| Failure::usage(format!("there is no security suite {id}")))
}

/// Makes a key file of suite 0. One that is there stays; says whether it made one.
pub(crate) fn make_keys(path: &Path) -> Result<bool, Failure> {
    if path.exists() {
        return Ok(false);
    }
    fresh_keys(Suite::Suite0)
        .write(path)
        .map_err(failed)
        .map(|()| true)
}

fn fresh_keys(suite: Suite) -> LabKeys {
    LabKeys::generate_for(suite, |octets| rand::rng().fill_bytes(octets))
}

fn one(args: &args::SimMeter) -> Result<MeterOptions, Failure> {
    let mut options = MeterOptions::new(args.listen, lab_keys(&args.lab_keys)?);
    kind(&mut options, &args.kind);
    options.state_file.clone_from(&args.state);
    options.disconnected = args.disconnected;
    Ok(options)
}

/// What kind of meter it is. Whether the options fit together is for the simulator to say.
fn kind(options: &mut MeterOptions, kind: &args::SimKind) {
    options.profile = kind.profile;
    options.transport = kind.transport.clone();
    let physical = kind.hdlc_physical_address.unwrap_or_default();
    options.hdlc = dlms::hdlc::Config {
        // two octets are the fewest that hold a physical address
        address_octets: kind
            .hdlc_address_octets
            .unwrap_or(if physical > 0 { 2 } else { 1 }),
        physical,
        max_info: kind.hdlc_max_information.unwrap_or(options.hdlc.max_info),
        window: kind.hdlc_window.unwrap_or(options.hdlc.window),
        ..options.hdlc
    };
    options.auth = kind.auth;
    options.forms.clone_from(&kind.form);
    options.policy = kind.policy;
    options.signed = kind.signed;
    options.algorithm_id = match kind.algorithm_id {
        args::AlgorithmId::Standard => dlms::agreement::AlgorithmId::Standard,
        args::AlgorithmId::Legacy => dlms::agreement::AlgorithmId::Legacy,
    };
    options.max_pdu = kind.max_pdu;
    options.services = Services {
        lists: !kind.no_lists,
        access: !kind.no_access,
        gbt: kind.gbt,
        blocks: !kind.no_blocks,
    };
    options.notify = Notify {
        events: kind.events,
        push: kind.push,
    };
    options.fault.clone_from(&kind.fault);
    options.boot_seconds = kind.boot_seconds;
}

fn fresh(args: &args::SimFleet) -> Result<Vec<MeterOptions>, Failure> {
    let count = args.count.unwrap_or(1);
    if let Some(folder) = &args.keys_out {
        file::private_folder(folder)?;
    }
    let addresses = simulator::fleet_addresses(args.base, count.into()).map_err(failed)?;
    let mut options = Vec::with_capacity(addresses.len());
    for (number, address) in (1..).zip(addresses) {
        let keys = match &args.keys_out {
            Some(folder) => {
                let path = folder.join(format!("{}.keys.toml", dev::fleet::name(number)));
                make_keys(&path)?;
                lab_keys(&path)?
            }
            None => fresh_keys(Suite::Suite0),
        };
        let mut meter = MeterOptions::new(address, keys);
        kind(&mut meter, &args.kind);
        options.push(meter);
    }
    Ok(options)
}

/// Runs meters until a signal; every event is a JSON line on stdout.
async fn play(
    options: impl IntoIterator<Item = MeterOptions>,
    output: &Output,
) -> Result<Exit, Failure> {
    let fleet = Fleet::bind(options).await.map_err(failed)?;
    let (trigger, shutdown) = kit::shutdown();
    let (sender, mut events) = mpsc::channel(EVENTS);
    let mut meters = pin!(fleet.run(sender, shutdown));
    let mut stop = pin!(signal::interrupted());
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            Some(event) = events.recv() => tell(&event, output),
            ended = &mut meters => break ended,
            stopped = &mut stop, if !stopping => {
                stopped?;
                stopping = true;
                trigger.fire();
            }
        }
    };
    while let Ok(event) = events.try_recv() {
        tell(&event, output);
    }
    ended.map_err(failed).map(|()| Exit::OK)
}

fn tell(event: &simulator::Event, output: &Output) {
    let line = serde_json::to_value(event)
        .unwrap_or_else(|error| json!({ "unprintable": error.to_string() }));
    output.result(&line, || Value::to_string(&line));
}

fn failed(error: simulator::Error) -> Failure {
    let what = format!("the simulator: {}", crate::failure::chain(&error));
    Failure::new(Exit::LOCAL_FILE, Party::Setup, what)
}
