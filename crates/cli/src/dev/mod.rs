//! `latchkey dev`: a whole stack under one folder, for people who develop, test or want to see it work.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args;
use crate::client::Session;
use crate::config::Search;
use crate::doctor;
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::output::Output;

pub(crate) mod configs;
pub(crate) mod fleet;
pub(crate) mod layout;
pub(crate) mod pki;
mod run;
mod tokens;

use layout::Layout;

pub(crate) async fn run(verb: args::Dev, output: &Output) -> Result<Exit, Failure> {
    match verb {
        args::Dev::Init { dir, meters } => init(&Layout::new(&dir)?, meters, output).await,
        args::Dev::Run { dir } => run::run(&Layout::new(&dir)?, output).await,
        args::Dev::Wait { dir, seconds } => {
            wait(
                &session(&Layout::new(&dir)?),
                Duration::from_secs(seconds),
                output,
            )
            .await?;
            output.result(&json!({ "ready": true }), || {
                "every service is healthy".to_owned()
            });
            Ok(Exit::OK)
        }
        args::Dev::Enrol { dir } => {
            let layout = Layout::new(&dir)?;
            let meters = fleet::enrol(&layout, &session(&layout), output).await?;
            output.result(&json!({ "enrolled": meters }), || {
                format!("{meters} meters are enrolled")
            });
            Ok(Exit::OK)
        }
    }
}

async fn init(layout: &Layout, meters: u16, output: &Output) -> Result<Exit, Failure> {
    for folder in layout.folders() {
        file::private_folder(&folder)?;
    }
    tokens::write_softhsm_conf(layout)?;
    in_softhsm_environment(&layout.softhsm_conf())?;
    let certificates = pki::make(layout)?;
    output.note(&format!(
        "certificates: {certificates} made, in {}",
        layout.root().join("pki").display()
    ));
    fleet::make(layout, meters)?;
    let ceremony = tokens::make(layout).await?;
    output.note(&format!("tokens: {ceremony}"));
    let configs = configs::write(layout)?;
    output.note(&format!(
        "configurations: {configs} made, in {}",
        layout.root().join("config").display()
    ));
    let json = json!({ "dir": layout.root(), "config": layout.client_config() });
    output.result(&json, || {
        format!(
            "a development stack is ready in {}",
            layout.root().display()
        )
    });
    Ok(Exit::OK)
}

/// A session of the stack's own operator.
fn session(layout: &Layout) -> Session {
    let search = Search::new(Some(layout.client_config()), None);
    Session::new(search, kit::context::request_id())
}

/// Waits until every service is healthy.
async fn wait(session: &Session, patience: Duration, output: &Output) -> Result<(), Failure> {
    let config = session.config()?;
    let started = Instant::now();
    loop {
        let missing = doctor::unhealthy(config).await;
        if missing.is_empty() {
            output.done();
            return Ok(());
        }
        let missing = missing.join(", ");
        if started.elapsed() > patience {
            let what = format!("not healthy after {} s: {missing}", patience.as_secs());
            return Err(Failure::new(Exit::SERVICE_DOWN, Party::Service, what)
                .mend("read their logs; `latchkey doctor` says what they lack"));
        }
        output.waiting(format!("waiting for {missing}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// SoftHSM reads `SOFTHSM2_CONF` from the environment alone, and a process may not change its own: so this program
/// starts itself again with it, and does not return from here. In the right environment it does nothing.
pub(crate) fn in_softhsm_environment(conf: &Path) -> Result<(), Failure> {
    if std::env::var_os(SOFTHSM).is_some_and(|set| set == conf) {
        return Ok(());
    }
    let program =
        std::env::current_exe().map_err(|error| Failure::io("find this program", &error))?;
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(SOFTHSM, conf)
        .exec();
    Err(Failure::io("start again with SOFTHSM2_CONF", &error))
}

const SOFTHSM: &str = "SOFTHSM2_CONF";
