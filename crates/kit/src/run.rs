//! A service as a process.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Listener, Shutdown, StartError, Telemetry, config, memory, shutdown};

/// What every service's configuration has.
pub trait ServiceConfig: DeserializeOwned + Send + 'static {
    /// How it listens.
    fn server(&self) -> &config::Server;

    /// Its logs, traces and metrics.
    fn telemetry(&self) -> &config::Telemetry;

    /// What may see its memory, where that can be said: without it nobody may, and it may go to swap.
    fn memory(&self) -> Option<&config::Memory> {
        None
    }

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

fn start<C: ServiceConfig>(
    name: &'static str,
    arguments: &Arguments,
    serve: fn(C, Listener, Shutdown) -> BoxFuture<'static, Result<(), StartError>>,
) -> Result<(), StartError> {
    let config: C = config::load(&arguments.config)?;
    if arguments.check_config {
        return Ok(());
    }
    let kept = memory::keep_private(config.memory())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let telemetry = Telemetry::start(name, config.telemetry())?;
        kept.say();
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
