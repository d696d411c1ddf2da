//! A laboratory: every test has tokens of its own.
//!
//! SoftHSM finds its tokens through an environment variable, which is one for the process. So
//! each test runs its body in a process of its own: this one again, told to run that test alone.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hsm::ceremony::{self, Plan};
use hsm::{Error, Role, Token, TokenConfig};

/// Declares a test whose body runs beside freshly made tokens.
macro_rules! scenario {
    ($(#[doc = $doc:expr])* async fn $name:ident($lab:ident) $body:block) => {
        $(#[doc = $doc])*
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            $crate::lab::stage(name, async |$lab: &$crate::lab::Lab| $body);
        }
    };
}
pub(crate) use scenario;

/// The laboratory's directory.
pub(crate) struct Lab(PathBuf);

impl Lab {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The plan of the standard ceremony.
    pub(crate) fn plan(&self) -> PathBuf {
        let path = self.path("plan.toml");
        if !path.exists() {
            let text = format!(
                r#"
                module = "{MODULE}"
                create_pins = true
                [[token]]
                label = "custody"
                role = "custody"
                so_pin_file = "custody.so"
                pin_file = "custody.pin"
                transport_components = ["transport.one", "transport.two"]
                [[token]]
                label = "auditor"
                role = "auditor"
                so_pin_file = "auditor.so"
                pin_file = "auditor.pin"
                "#
            );
            fs::write(&path, text).unwrap();
        }
        path
    }

    pub(crate) fn config(&self, role: Role) -> TokenConfig {
        let pin = self.path(&format!("{}.pin", role.as_str()));
        TokenConfig::new(MODULE, role.as_str(), pin)
    }

    pub(crate) async fn open(&self, role: Role) -> Result<Token, Error> {
        Token::open(&self.config(role), role).await
    }

    fn configure(&self, mechanisms: &str) {
        let tokens = self.path("tokens");
        let text = format!(
            "directories.tokendir = {}\nlog.level = ERROR\nslots.mechanisms = {mechanisms}\n",
            tokens.display()
        );
        fs::write(self.path("softhsm2.conf"), text).unwrap();
    }

    /// Takes a mechanism away. Only before the module is loaded.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) fn without(&self, mechanism: &str) {
        // SoftHSM 2.6 overlooks the first of a list of exclusions
        self.configure(&format!("-CKM_MD5,{mechanism}"));
    }

    /// Runs `program` with the laboratory's tokens.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .current_dir(&self.0);
        command
    }
}

/// Runs `body` in a process of its own, after a ceremony in another.
pub(crate) fn stage(name: &str, body: impl AsyncFnOnce(&Lab)) {
    let name = name.split_once("::").map_or(name, |(_, test)| test);
    if let Some(directory) = env::var_os(DIRECTORY) {
        let lab = Lab(directory.into());
        if env::var_os(CEREMONY).is_some() {
            ceremony::run(&Plan::load(&lab.plan()).unwrap(), "2026-01-01T00:00:00Z").unwrap();
        } else {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(body(&lab));
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab(directory.path().to_owned());
    fs::create_dir(lab.path("tokens")).unwrap();
    lab.configure("ALL");
    let again = |act: Option<&str>| {
        let mut command = lab.command(&env::current_exe().unwrap());
        command
            .args([name, "--exact", "--nocapture"])
            .env(DIRECTORY, &lab.0);
        command.envs(act.map(|act| (act, "1")));
        succeed(name, &command.output().unwrap());
    };
    again(Some(CEREMONY));
    again(None);
}

fn succeed(name: &str, output: &Output) {
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(
        output.status.success(),
        "{name}: {}\n{out}\n{err}",
        output.status
    );
    // A filter that matches nothing would succeed as well.
    assert!(out.contains("1 passed"), "{name} did not run\n{out}");
}

pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const DIRECTORY: &str = "LATCHKEY_LAB";
const CEREMONY: &str = "LATCHKEY_LAB_CEREMONY";
