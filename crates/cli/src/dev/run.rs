//! `latchkey dev run`: five services and the simulated meters in one process.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use kit::{Listener, ServiceConfig, Shutdown, StartError};
use simulator::Fleet;
use tokio::sync::mpsc;

use super::{in_softhsm_environment, session, wait};
use crate::dev::fleet;
use crate::dev::layout::Layout;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::Output;
use crate::signal;

/// A service, or the meters, until its end.
type Running = BoxFuture<'static, (&'static str, Result<(), StartError>)>;

pub(crate) async fn run(layout: &Layout, output: &Output) -> Result<Exit, Failure> {
    in_softhsm_environment(&layout.softhsm_conf())?;
    // Databases and the meters' memories are nobody else's business.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let quiet = kit::config::Telemetry {
        // cryptoki calls every mechanism of the token that it has no name for an error.
        log: "warn,cryptoki::mechanism=off".to_owned(),
        ..kit::config::Telemetry::default()
    };
    let telemetry = kit::Telemetry::start("dev", &quiet)
        .map_err(|error| Failure::configuration(format!("telemetry: {error}")))?;
    let (trigger, shutdown) = kit::shutdown();
    let mut parts = start(layout, &shutdown).await?;
    let mut ready = pin!(announce(layout, output));
    let mut stop = pin!(signal::interrupted());
    let (mut announced, mut stopping) = (false, false);
    let mut first_failure = None;
    while !parts.is_empty() {
        tokio::select! {
            Some((name, ended)) = parts.next() => {
                // One part missing is no stack: the others drain.
                trigger.fire();
                stopping = true;
                if let Err(error) = ended {
                    first_failure.get_or_insert_with(|| unstartable(name, &error));
                }
            }
            ended = &mut ready, if !announced && !stopping => {
                announced = true;
                if let Err(failure) = ended {
                    first_failure.get_or_insert(failure);
                    trigger.fire();
                }
            }
            asked = &mut stop, if !stopping => {
                asked?;
                stopping = true;
                output.note("draining");
                trigger.fire();
            }
        }
    }
    telemetry.stop();
    first_failure.map_or(Ok(Exit::OK), Err)
}

async fn start(layout: &Layout, shutdown: &Shutdown) -> Result<FuturesUnordered<Running>, Failure> {
    let parts: FuturesUnordered<Running> = FuturesUnordered::new();
    let config = |service: &str| layout.service_config(service);
    parts.push(service("auditor", &config("auditor"), auditor::serve, shutdown).await?);
    parts.push(service("custody", &config("custody"), custody::serve, shutdown).await?);
    parts.push(service("gateway", &config("gateway"), gateway::serve, shutdown).await?);
    parts.push(
        service(
            "association",
            &config("association"),
            association::serve,
            shutdown,
        )
        .await?,
    );
    parts.push(service("reset", &config("reset"), reset::serve, shutdown).await?);
    parts.push(meters(layout, shutdown.clone()).await?);
    Ok(parts)
}

async fn service<C: ServiceConfig>(
    name: &'static str,
    config: &Path,
    serve: fn(C, Listener, Shutdown) -> BoxFuture<'static, Result<(), StartError>>,
    shutdown: &Shutdown,
) -> Result<Running, Failure> {
    let config: C = kit::config::load(config).map_err(|error| {
        Failure::configuration(error.to_string()).mend("make the stack first: latchkey dev init")
    })?;
    let address = config.server().listen;
    let listener = Listener::bind(address).await.map_err(|error| {
        Failure::io(&format!("listen on {address} for {name}"), &error)
            .mend("is a stack running already? `deploy/quickstart --down` stops the one it started")
    })?;
    let serving = serve(config, listener, shutdown.clone());
    Ok(Box::pin(async move { (name, serving.await) }))
}

/// The meters' events are for laboratories; nobody reads them here.
async fn meters(layout: &Layout, shutdown: Shutdown) -> Result<Running, Failure> {
    let options = fleet::options(layout.root())?;
    let fleet = Fleet::bind(options)
        .await
        .map_err(|error| Failure::io("start the meters", &error))?;
    let (events, _) = mpsc::channel(1);
    Ok(Box::pin(async move {
        (
            "meters",
            fleet.run(events, shutdown).await.map_err(StartError::from),
        )
    }))
}

async fn announce(layout: &Layout, output: &Output) -> Result<(), Failure> {
    wait(&session(layout), Duration::from_secs(60), output).await?;
    let config = layout.client_config();
    output.result(&serde_json::json!({ "ready": true, "config": config }), || {
        format!(
            "ready\n  export LATCHKEY_CONFIG={}\n  latchkey dev enrol --dir {}\n  latchkey reset meter-0001 --tier cold --wait",
            config.display(),
            layout.root().display()
        )
    });
    Ok(())
}

fn unstartable(name: &str, error: &StartError) -> Failure {
    Failure::new(Exit::SERVICE_DOWN, Party::Setup, format!("{name}: {error}"))
        .mend("`latchkey doctor` looks at everything it needs")
}
