//! `latchkey sim`: meters to practise on.

use std::path::Path;
use std::pin::pin;

use rand::Rng as _;
use serde_json::{Value, json};
use simulator::{Auth, Fleet, LabKeys, MeterOptions};
use tokio::sync::mpsc;

use crate::args;
use crate::dev;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::meter::lab_keys;
use crate::output::Output;
use crate::signal;

/// Events that wait to be printed; a laboratory that does not read holds the meters up, and loses nothing.
const EVENTS: usize = 1024;

pub(crate) async fn run(verb: args::Sim, output: &Output) -> Result<Exit, Failure> {
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
        args::Sim::Keys { out } => {
            let made = make_keys(&out)?;
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

/// Makes a key file. One that is there stays; says whether it made one.
pub(crate) fn make_keys(path: &Path) -> Result<bool, Failure> {
    if path.exists() {
        return Ok(false);
    }
    fresh_keys().write(path).map_err(failed).map(|()| true)
}

fn fresh_keys() -> LabKeys {
    LabKeys::generate(|octets| rand::rng().fill_bytes(octets))
}

fn one(args: &args::SimMeter) -> Result<MeterOptions, Failure> {
    let mut options = MeterOptions::new(args.listen, lab_keys(&args.lab_keys)?);
    options.profile = args.profile;
    options.auth = match args.auth {
        args::Auth::None => Auth::None,
        args::Auth::Low => Auth::Low,
        args::Auth::Hls5 => Auth::Hls5,
    };
    options.fault.clone_from(&args.fault);
    options.boot_seconds = args.boot_seconds;
    options.state_file.clone_from(&args.state);
    options.disconnected = args.disconnected;
    Ok(options)
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
            None => fresh_keys(),
        };
        let mut meter = MeterOptions::new(address, keys);
        meter.boot_seconds = args.boot_seconds;
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
