//! `latchkey`: development stacks, resets, meters, keys, the trail, simulated meters, a doctor, and the
//! procedure's own verbs. `docs/cli.md` is the manual.
//!
//! Results go to stdout, one JSON object per line with `--output json`; progress and errors go to stderr.
//! Everything that touches a meter goes through the services, under a permit. This program holds no key but those of
//! laboratory meters.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

mod access;
mod allowlist;
mod args;
mod argv;
mod audit;
mod client;
mod config;
mod data;
mod dev;
mod doctor;
mod exit;
mod failure;
mod file;
mod keys;
mod meter;
mod output;
mod reset;
mod signal;
mod sim;
mod trace;

use args::{Cli, Command};
use exit::Exit;
use failure::Failure;
use output::{Format, Output};

const HELP: &str = "`latchkey VERB --help` names every flag";

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(argv::normalise(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, argv::wants_json(std::env::args_os())),
    };
    let output = Output::new(cli.output);
    match run(cli, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit().into()
        }
    }
}

/// Help and version are results; anything else is a usage error. clap's own code for it, 2, is the procedure's
/// "no response", so it becomes 64 here.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let said = error.to_string();
        // The last line is a hint for people.
        let what = said.split("For more information").next().unwrap_or(&said);
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        let failure = Failure::usage(what.trim_start_matches("error: ")).mend(HELP);
        Output::new(Format::Json).failure(&failure);
        return failure.exit().into();
    }
    // Nothing can be said if the terminal is gone.
    let _ = error.print();
    if error.use_stderr() {
        Exit::USAGE.into()
    } else {
        Exit::OK.into()
    }
}

fn run(cli: Cli, output: &Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start the async runtime", &error))?;
    let request_id = cli
        .command
        .request_id()
        .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let search = config::Search::new(cli.config, std::env::var_os("LATCHKEY_CONFIG"));
    let session = client::Session::new(search, request_id.clone());
    // Boxed: the future of every verb at once is large.
    let work = Box::pin(dispatch(cli.command, &session, output));
    let result = runtime.block_on(kit::context::scope(request_id.clone(), work));
    result.map_err(|failure| failure.with_request(&request_id))
}

async fn dispatch(
    command: Command,
    session: &client::Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match command {
        Command::Dev(verb) => dev::run(verb, output).await,
        Command::Reset(args) => reset::start(args, session, output).await,
        Command::Resets(verb) => reset::manage(verb, session, output).await,
        Command::Meter(verb) => meter::run(verb, session, output).await,
        Command::Keys(verb) => keys::run(verb, session, output).await,
        Command::Audit(verb) => audit::run(verb, session, output).await,
        Command::Allowlist(verb) => allowlist::run(verb, session, output).await,
        Command::Sim(verb) => sim::run(verb, session, output).await,
        Command::Trace(verb) => trace::run(verb, output),
        Command::Doctor => doctor::run(session, output).await,
        Command::Connect(args) => access::connect(args, session, output).await,
        Command::GetObject(args) => access::get_object(args, session, output).await,
        Command::InvokeMethod(args) => access::invoke_method(args, session, output).await,
        Command::ReadProfile(args) => access::read_profile(args, session, output).await,
    }
}
