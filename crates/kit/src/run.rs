//! A service as a process.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Listener, Shutdown, StartError, Telemetry, config, shutdown};

/// What every service's configuration has.
pub trait ServiceConfig: DeserializeOwned + Send + 'static {
    /// How it listens.
    fn server(&self) -> &config::Server;

    /// Its logs, traces and metrics.
    fn telemetry(&self) -> &config::Telemetry;

    /// What types alone cannot check.
    ///
    /// # Errors
    /// Names the key, what is wrong, and what would be right.
    fn check(&self) -> Result<(), config::ConfigError> {
        Ok(())
    }
}

#[derive(Parser)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit: 0 if it is good, 1 if not.
    #[arg(long)]
    check_config: bool,
}

/// Runs a service until SIGTERM or SIGINT, then lets it drain. Exit code 0 after an orderly end, 1 otherwise.
pub fn run<C: ServiceConfig>(
    name: &'static str,
    serve: fn(C, Listener, Shutdown) -> BoxFuture<'static, Result<(), StartError>>,
) -> ExitCode {
    let arguments = Arguments::parse();
    match start(name, &arguments, serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(
                clippy::print_stderr,
                reason = "the log may not be set up yet, and this line must be seen"
            )]
            {
                eprintln!("latchkey-{name}: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// No core dump, not even through a pipe, and no debugger of the same user: memory holds authentication keys, private
/// TLS keys and the token's PIN, and a crash must not write them down.
fn keep_memory_private() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn start<C: ServiceConfig>(
    name: &'static str,
    arguments: &Arguments,
    serve: fn(C, Listener, Shutdown) -> BoxFuture<'static, Result<(), StartError>>,
) -> Result<(), StartError> {
    let config: C = config::load(&arguments.config)?;
    if arguments.check_config {
        return Ok(());
    }
    keep_memory_private()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let telemetry = Telemetry::start(name, config.telemetry())?;
        let listen = config.server().listen;
        let listener = Listener::bind(listen).await.map_err(|e| {
            StartError::context(format!("cannot listen on {listen}; is it taken?"), e)
        })?;
        let (trigger, shutdown) = shutdown();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut service = serve(config, listener, shutdown);
        let ended = tokio::select! {
            ended = &mut service => ended,
            _ = terminate.recv() => { trigger.fire(); service.await }
            _ = interrupt.recv() => { trigger.fire(); service.await }
        };
        telemetry.stop();
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_not_dumped() -> std::io::Result<()> {
        use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
        keep_memory_private()?;
        assert_eq!(dumpable_behavior()?, DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        Ok(())
    }
}
