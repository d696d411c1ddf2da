//! A PostgreSQL server that lives as long as the test, on a free port of loopback.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::stack::until;

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    programs: PathBuf,
    port: u16,
    child: Child,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// If the server is not installed (`integration-tests/run` installs it) or does not start.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let dir = tempfile::Builder::new().prefix("latchkey-pg-").tempdir()?;
        let data = dir.path().join("data");
        if rustix::process::geteuid().is_root() {
            // The server refuses to run as root.
            ensure!(
                Command::new("chown")
                    .arg("postgres:")
                    .arg(dir.path())
                    .status()?
                    .success(),
                "chown"
            );
        }
        let made = as_postgres(&programs.join("initdb"))
            .args([
                "-U",
                "latchkey",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()?;
        ensure!(made.success(), "initdb failed");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let child = as_postgres(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "-k",
                "",
                "-c",
                "listen_addresses=127.0.0.1",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log"))?)
            .spawn()?;
        let server = Self {
            dir,
            programs,
            port,
            child,
        };
        let ready = || server.run("pg_isready", &[]).ok();
        until(Duration::from_secs(30), ready).with_context(|| server.log())?;
        Ok(server)
    }

    /// Makes a database.
    ///
    /// # Errors
    /// If it exists.
    pub fn create(&self, database: &str) -> Result<()> {
        self.run("createdb", &["-U", "latchkey", database])
    }

    /// Where a database is.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://latchkey@127.0.0.1:{}/{database}", self.port)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let output = Command::new(self.programs.join(program))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(arguments)
            .output()?;
        ensure!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // SIGINT: a fast, orderly shutdown.
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let _ = self.child.wait();
    }
}

fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed: run integration-tests/run")?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found
        .pop()
        .context("PostgreSQL's server is not installed: run integration-tests/run")
}

/// The program, as the user `postgres` when we are root; killed with us.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--pdeathsig=KILL").arg(program);
    command
}
