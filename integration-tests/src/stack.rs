//! A whole Latchkey as real processes below one scratch folder, on loopback addresses of its own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// The services, in the order they are started.
pub const SERVICES: [&str; 5] = ["auditor", "custody", "gateway", "association", "reset"];

/// A running stack. Dropping it kills its processes and removes its folder.
#[derive(Debug)]
pub struct Stack {
    dir: TempDir,
    host: Ipv4Addr,
    processes: BTreeMap<String, Child>,
    environment: BTreeMap<String, BTreeMap<String, String>>,
}

/// A simulated meter in a process of its own.
#[derive(Debug)]
pub struct SimMeter {
    /// Its id in the stack.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Its laboratory keys.
    pub lab_keys: PathBuf,
    events: PathBuf,
    child: Child,
}

impl Stack {
    /// Makes certificates, tokens and configurations, starts all services, and waits until they are healthy.
    ///
    /// # Errors
    /// If anything of it fails; the message holds the end of the logs.
    pub fn start() -> Result<Self> {
        let mut stack = Self::prepare()?;
        stack.up()?;
        Ok(stack)
    }

    /// Makes the folder, but starts nothing: the caller may change the configurations first.
    ///
    /// # Errors
    /// If `latchkey dev init` fails.
    pub fn prepare() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("latchkey-").tempdir()?;
        let stack = Self {
            dir,
            host: own_host(),
            processes: BTreeMap::new(),
            environment: BTreeMap::new(),
        };
        stack.ok(&[
            "dev",
            "init",
            "--dir",
            path_text(stack.dir())?,
            "--meters",
            "1",
        ])?;
        // The same ports on addresses of its own, so that stacks can run side by side.
        let here = format!("{}:", stack.host);
        let files = SERVICES
            .map(|service| stack.config(service))
            .into_iter()
            .chain(["latchkey.toml", "admin.toml"].map(|name| stack.dir().join(name)));
        for file in files {
            fs::write(
                &file,
                fs::read_to_string(&file)?.replace("127.0.0.1:", &here),
            )?;
        }
        Ok(stack)
    }

    /// Starts every service that is not running and waits for health.
    ///
    /// # Errors
    /// If one does not become healthy in time.
    pub fn up(&mut self) -> Result<()> {
        for service in SERVICES {
            self.spawn(service)?;
        }
        self.wait_healthy()
    }

    /// Waits until every service is healthy.
    ///
    /// # Errors
    /// If one does not become healthy in time.
    pub fn wait_healthy(&self) -> Result<()> {
        self.ok(&[
            "dev",
            "wait",
            "--dir",
            path_text(self.dir())?,
            "--seconds",
            "60",
        ])
        .map(drop)
        .with_context(|| self.logs())
    }

    /// Starts one service; nothing if it runs.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&mut self, service: &str) -> Result<()> {
        if self.is_running(service) {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir().join(format!("{service}.test.log")))?;
        let mut command = Command::new(binary(&format!("latchkey-{service}"))?);
        command
            .arg("--config")
            .arg(self.config(service))
            .env("SOFTHSM2_CONF", self.dir().join("hsm/softhsm2.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(environment) = self.environment.get(service) {
            command.envs(environment);
        }
        let child = command
            .spawn()
            .with_context(|| format!("start latchkey-{service}"))?;
        self.processes.insert(service.to_owned(), child);
        Ok(())
    }

    /// Arms a crash point: the service kills itself at that line, once. Call before [`Self::spawn`].
    ///
    /// # Errors
    /// If the marker file cannot be written.
    pub fn arm(&mut self, service: &str, point: &str) -> Result<PathBuf> {
        let marker = self.dir().join(format!("crash-{point}"));
        File::create(&marker)?;
        let value = format!("{point}:{}", marker.display());
        self.set(service, "LATCHKEY_CRASH_AT", &value);
        Ok(marker)
    }

    /// Gives a service one more variable in its environment, from its next start on.
    pub fn set(&mut self, service: &str, name: &str, value: &str) {
        let environment = self.environment.entry(service.to_owned()).or_default();
        environment.insert(name.to_owned(), value.to_owned());
    }

    /// Whether a service's process is there.
    pub fn is_running(&mut self, service: &str) -> bool {
        self.processes
            .get_mut(service)
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it was never started.
    pub fn kill(&mut self, service: &str) -> Result<()> {
        let child = self
            .processes
            .get_mut(service)
            .context("it was never started")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGHUP: it looks at its TLS certificates at once.
    ///
    /// # Errors
    /// If it was never started.
    pub fn hang_up(&self, service: &str) -> Result<()> {
        let child = self
            .processes
            .get(service)
            .context("it was never started")?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .context("a process id")?;
        Ok(rustix::process::kill_process(
            pid,
            rustix::process::Signal::HUP,
        )?)
    }

    /// SIGTERM, and wait for an orderly end.
    ///
    /// # Errors
    /// If it does not end in time or not with code 0.
    pub fn terminate(&mut self, service: &str) -> Result<()> {
        let child = self
            .processes
            .get_mut(service)
            .context("it was never started")?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .context("a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = until(Duration::from_secs(30), || child.try_wait().ok().flatten())
            .context("it did not end")?;
        ensure!(status.success(), "latchkey-{service} ended with {status}");
        Ok(())
    }

    /// The folder of this stack.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The loopback address of this stack's services.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// A meter address of this stack: `127.x.y.N:4059`.
    #[must_use]
    pub fn meter_address(&self, number: u8) -> String {
        let [a, b, c, _] = self.host.octets();
        format!(
            "{}:4059",
            Ipv4Addr::new(a, b, c, 10_u8.saturating_add(number))
        )
    }

    /// The configuration file of a service.
    #[must_use]
    pub fn config(&self, service: &str) -> PathBuf {
        self.dir().join("config").join(format!("{service}.toml"))
    }

    /// Runs `latchkey` against this stack.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn latchkey(&self, arguments: &[&str]) -> Result<Output> {
        self.command()?
            .args(arguments)
            .output()
            .context("run latchkey")
    }

    /// Starts `latchkey` with its standard output going to a file.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tell(&self, arguments: &[&str], to: &Path) -> Result<Child> {
        let mut command = self.command()?;
        command
            .args(arguments)
            .stdout(File::create(to)?)
            .stderr(Stdio::null());
        command.spawn().context("run latchkey")
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary("latchkey")?);
        command
            .stdin(Stdio::null())
            .env("LATCHKEY_CONFIG", self.dir().join("latchkey.toml"))
            .env("SOFTHSM2_CONF", self.dir().join("hsm/softhsm2.conf"));
        Ok(command)
    }

    /// Runs `latchkey` and expects exit code 0; returns standard output.
    ///
    /// # Errors
    /// If it ended otherwise, with what it printed.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.latchkey(arguments)?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            output.status.success(),
            "latchkey {} ended with {}\n{out}\n{err}",
            arguments.join(" "),
            output.status
        );
        Ok(out.into_owned())
    }

    /// The same with `--output json`; returns the last object printed.
    ///
    /// # Errors
    /// If it failed or printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ok(&[&["--output", "json"], arguments].concat())?;
        let last = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .context("it printed nothing")?;
        serde_json::from_str(last)
            .or_else(|_| serde_json::from_str(&text))
            .with_context(|| format!("no JSON: {text}"))
    }

    /// Starts a simulated meter in its own process and enrols it.
    ///
    /// # Errors
    /// If either fails.
    pub fn meter(&self, number: u8, profile: &str, more: &[&str]) -> Result<SimMeter> {
        let id = format!("sim-{number}");
        let address = self.meter_address(number);
        let lab_keys = self.dir().join(format!("{id}.keys.toml"));
        self.ok(&["sim", "keys", "--out", path_text(&lab_keys)?])?;
        let meter = SimMeter::start(self.dir(), &id, &address, &lab_keys, profile, more)?;
        self.enrol(&id, &address, &lab_keys, profile, &[])?;
        Ok(meter)
    }

    /// Enrols a meter.
    ///
    /// # Errors
    /// If it is refused.
    pub fn enrol(
        &self,
        id: &str,
        address: &str,
        lab_keys: &Path,
        profile: &str,
        more: &[&str],
    ) -> Result<()> {
        let keys = path_text(lab_keys)?;
        let fixed = [
            "meter",
            "add",
            id,
            "--address",
            address,
            "--lab-keys",
            keys,
            "--profile",
            profile,
        ];
        self.ok(&[&fixed, more].concat()).map(drop)
    }

    /// The end of every log, for the message of a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let tail = |service: &&str| {
            let text = fs::read_to_string(self.dir().join(format!("{service}.test.log")))
                .unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!(
                "--- {service}\n{}",
                lines.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        };
        SERVICES.iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl SimMeter {
    /// Starts `latchkey sim meter`. Its state file makes it survive a restart.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub fn start(
        dir: &Path,
        id: &str,
        address: &str,
        lab_keys: &Path,
        profile: &str,
        more: &[&str],
    ) -> Result<Self> {
        let events = dir.join(format!("{id}.events.jsonl"));
        let state = dir.join(format!("{id}.state"));
        let listened = |events: &Path| {
            let told = told(events);
            told.iter()
                .filter(|one| one["event"] == "listening")
                .count()
        };
        let before = listened(&events);
        let child = Command::new(binary("latchkey")?)
            .args([
                "sim",
                "meter",
                "--listen",
                address,
                "--profile",
                profile,
                "--lab-keys",
            ])
            .arg(lab_keys)
            .arg("--state")
            .arg(&state)
            .args(["--boot-seconds", "1"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(File::options().create(true).append(true).open(&events)?)
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(dir.join(format!("{id}.log")))?,
            )
            .spawn()?;
        let meter = Self {
            id: id.to_owned(),
            address: address.to_owned(),
            lab_keys: lab_keys.to_owned(),
            events,
            child,
        };
        let listening = || (listened(&meter.events) > before).then_some(());
        until(Duration::from_secs(10), listening)
            .with_context(|| format!("{id} does not listen on {address}"))?;
        Ok(meter)
    }

    /// Everything it has printed so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        told(&self.events)
    }

    /// Its events of one kind.
    #[must_use]
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        self.events()
            .into_iter()
            .filter(|event| event["event"] == kind)
            .collect()
    }
}

/// What a meter has written into its file of events.
fn told(events: &Path) -> Vec<Value> {
    let text = fs::read_to_string(events).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

impl Drop for SimMeter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer or the time is over.
pub fn until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A program of the workspace, built by `integration-tests/run` before the tests.
///
/// # Errors
/// If it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test runs from target/*/deps")?;
    let path = folder.join(name);
    if !path.exists() {
        bail!("{name} is not built: run integration-tests/run, or cargo build --workspace --bins");
    }
    Ok(path)
}

/// A path as text.
///
/// # Errors
/// If it is no UTF-8.
pub fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// A loopback /24 that no other test of this run uses.
fn own_host() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id()
        .wrapping_mul(31)
        .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
        % (200 * 250);
    let octet = |n: u32| u8::try_from(n).unwrap_or(1);
    Ipv4Addr::new(127, octet(40 + number / 250), octet(1 + number % 250), 1)
}
