//! Tokens that fail on command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use hsm::ceremony::{self, Plan};
use hsm::{Error, KeyHandle, Role, Token, TokenConfig};
use hsm_shim::Shim;
use tempfile::TempDir;

pub(crate) const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const KEK: &str = "kek-ek-1";

/// A directory with tokens in it.
pub(crate) struct Site(TempDir);

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        let pin = site.path("pin");
        fs::copy(base().join("pin"), &pin).unwrap();
        fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of the one token, behind a shim of its own.
    pub(crate) fn token(&self, name: &str) -> Shim {
        copy(&base().join("tokens"), &self.tokens(name));
        self.shim(name)
    }

    /// Where the files of that token are.
    pub(crate) fn tokens(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.tokens"))
    }

    fn shim(&self, name: &str) -> Shim {
        let conf = self.path(&format!("{name}.conf"));
        configure(&conf, &self.tokens(name));
        Shim::install(self.0.path(), name, Path::new(SOFTHSM), Some(&conf))
    }

    /// A token of the same plan, and with other keys.
    pub(crate) fn stranger(&self, name: &str) -> Shim {
        fs::create_dir(self.tokens(name)).unwrap();
        let shim = self.shim(name);
        hold_ceremony(self.0.path(), shim.module(), name);
        shim
    }

    /// Tokens of one module whose keys were born in a backup token.
    pub(crate) fn clones(&self, name: &str, labels: &[&str]) -> Shim {
        fs::create_dir(self.tokens(name)).unwrap();
        let shim = self.shim(name);
        let mut text = format!("module = {:?}\ncreate_pins = true\n", shim.module());
        for (label, role) in [("backup", "backup")]
            .into_iter()
            .chain(labels.iter().map(|label| (*label, "custody")))
        {
            text += &format!(
                "[[token]]\nlabel = \"{label}\"\nrole = \"{role}\"\n\
                 so_pin_file = \"{label}.so-pin\"\npin_file = \"{label}.pin\"\n"
            );
        }
        let plan = self.path(&format!("{name}.plan"));
        fs::write(&plan, text).unwrap();
        ceremony::run(&Plan::load(&plan).unwrap(), "2026-01-01T00:00:00Z").unwrap();
        shim
    }

    pub(crate) fn config(&self, shim: &Shim) -> TokenConfig {
        TokenConfig::new(shim.module(), "custody", self.path("pin"))
    }

    pub(crate) async fn open(&self, shim: &Shim) -> Result<Token, Error> {
        Token::open(&self.config(shim), Role::Custody).await
    }
}

/// The token that all others are copies of: one ceremony for all tests.
fn base() -> &'static Path {
    static BASE: OnceLock<TempDir> = OnceLock::new();
    let made = BASE.get_or_init(|| {
        let base = tempfile::tempdir().unwrap();
        let tokens = base.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let conf = base.path().join("base.conf");
        configure(&conf, &tokens);
        let shim = Shim::install(base.path(), "base", Path::new(SOFTHSM), Some(&conf));
        hold_ceremony(base.path(), shim.module(), "base");
        fs::copy(base.path().join("base.pin"), base.path().join("pin")).unwrap();
        base
    });
    made.path()
}

fn hold_ceremony(directory: &Path, module: &Path, name: &str) {
    let plan = directory.join(format!("{name}.plan"));
    let text = format!(
        "module = {module:?}\ncreate_pins = true\n[[token]]\nlabel = \"custody\"\nrole = \"custody\"\n\
         so_pin_file = \"{name}.so-pin\"\npin_file = \"{name}.pin\"\n\
         keys = [\"kek-ek-1\", \"kek-ak-1\", \"kek-hs-1\", \"kek-mk-1\", \"sign-p256-1\", \"transcript\"]\n"
    );
    fs::write(&plan, text).unwrap();
    ceremony::run(&Plan::load(&plan).unwrap(), "2026-01-01T00:00:00Z").unwrap();
}

fn configure(conf: &Path, tokens: &Path) {
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(conf, text).unwrap();
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Runs that test alone in a process of its own, in this directory.
pub(crate) fn in_a_process(test: &str, variables: &[(&str, &Path)]) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--include-ignored"]);
    command.envs(variables.iter().copied());
    command.output().unwrap()
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !so().await {
        assert!(Instant::now() < limit, "waited in vain: {what}");
        tick.tick().await;
    }
}

pub(crate) async fn unwrap(token: &Token, wrapped: &[u8]) -> KeyHandle {
    token.unwrap_key(KEK, wrapped).await.unwrap()
}

/// Callers that want work done all the time, as custody does: a stale key is unwrapped again.
pub(crate) struct Load {
    tasks: tokio::task::JoinSet<()>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) done: u64,
    pub(crate) stale: u64,
    /// What failed, and must not.
    pub(crate) failed: Vec<String>,
}

impl Load {
    /// As many callers, each with a key of its own.
    pub(crate) async fn start(token: &Token, callers: u8) -> Self {
        let mut load = Self {
            tasks: tokio::task::JoinSet::new(),
            stop: Arc::default(),
            counts: Arc::default(),
        };
        for caller in 0..callers {
            let (token, stop) = (token.clone(), Arc::clone(&load.stop));
            let counts = Arc::clone(&load.counts);
            let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
            load.tasks.spawn(async move {
                let mut key = token.unwrap_key(KEK, &wrapped).await.unwrap();
                let mut first = None;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let sealed = seal(&token, &wrapped, &mut key, caller, &counts).await;
                    let mut counts = counts.lock().unwrap();
                    match sealed {
                        Ok(sealed) if *first.get_or_insert_with(|| sealed.clone()) == sealed => {
                            counts.done += 1;
                        }
                        Ok(_) => counts
                            .failed
                            .push("ciphered under another's key".to_owned()),
                        Err(error) => counts.failed.push(error.to_string()),
                    }
                }
            });
        }
        load
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap().clone()
    }

    /// Waits until so many more pieces of work are done.
    pub(crate) async fn more(&self, pieces: u64) {
        let before = self.counts().done;
        until("work goes on", async || {
            self.counts().done >= before + pieces
        })
        .await;
    }

    pub(crate) async fn end(self) -> Counts {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.tasks.join_all().await;
        self.counts.lock().unwrap().clone()
    }
}

/// One piece of work, with the key unwrapped again when it is stale.
async fn seal(
    token: &Token,
    wrapped: &[u8],
    key: &mut KeyHandle,
    caller: u8,
    counts: &Mutex<Counts>,
) -> Result<Vec<u8>, Error> {
    for _ in 0..8 {
        match token.seal(key, [caller; 12], b"", b"text").await {
            Err(Error::StaleKey) => {
                counts.lock().unwrap().stale += 1;
                *key = token.unwrap_key(KEK, wrapped).await?;
            }
            done => return done,
        }
    }
    Err(Error::StaleKey)
}
