//! The client's configuration: who we are, and where the services are.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::Exit;
use crate::failure::{Failure, Party};

/// `latchkey.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The operator's certificate.
    pub(crate) tls: kit::config::Tls,
    /// Key custody.
    pub(crate) custody: kit::config::Client,
    /// The meter directory.
    pub(crate) association: kit::config::Client,
    /// Resets and single commands.
    pub(crate) reset: kit::config::Client,
    /// Policy, allowlist and trail.
    pub(crate) auditor: kit::config::Client,
    /// The gateway, for its health alone.
    pub(crate) gateway: kit::config::Client,
    /// What `latchkey doctor` looks at.
    #[serde(default)]
    pub(crate) doctor: Doctor,
}

/// What `latchkey doctor` looks at besides this file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Doctor {
    /// What `SOFTHSM2_CONF` is for the services, where the tokens are SoftHSM's.
    #[serde(default)]
    pub(crate) softhsm2_conf: Option<PathBuf>,
    /// Configurations of the services that run on this host. A service without one is checked for health alone.
    #[serde(default)]
    pub(crate) custody: Option<PathBuf>,
    /// See `custody`.
    #[serde(default)]
    pub(crate) association: Option<PathBuf>,
    /// See `custody`.
    #[serde(default)]
    pub(crate) reset: Option<PathBuf>,
    /// See `custody`.
    #[serde(default)]
    pub(crate) auditor: Option<PathBuf>,
    /// See `custody`.
    #[serde(default)]
    pub(crate) gateway: Option<PathBuf>,
}

impl Config {
    /// Every service by name.
    pub(crate) fn services(&self) -> [(&'static str, &kit::config::Client); 5] {
        [
            ("custody", &self.custody),
            ("association", &self.association),
            ("reset", &self.reset),
            ("auditor", &self.auditor),
            ("gateway", &self.gateway),
        ]
    }
}

/// Where the configuration is looked for, in order.
pub(crate) struct Search {
    /// A file somebody named: it must be there.
    named: Option<PathBuf>,
}

/// Of the folder somebody happens to be in.
const HERE: &str = ".latchkey/latchkey.toml";
const SYSTEM: &str = "/etc/latchkey/latchkey.toml";

impl Search {
    /// The flag beats the environment, and that beats the usual places.
    pub(crate) fn new(flag: Option<PathBuf>, environment: Option<OsString>) -> Self {
        let environment = environment
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        Self {
            named: flag.or(environment),
        }
    }

    pub(crate) fn find(&self) -> Result<PathBuf, Failure> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let here = Path::new(HERE);
        if here.exists() {
            return ours(here).map(|()| here.to_owned());
        }
        let found = Some(PathBuf::from(SYSTEM)).filter(|place| place.exists());
        found.ok_or_else(|| {
            Failure::configuration(format!("no client configuration: looked for {HERE} and {SYSTEM}"))
                .mend("name one with --config or LATCHKEY_CONFIG, or make a development stack with `latchkey dev init`")
        })
    }
}

/// A configuration that nobody named is taken only if nobody else could have put it there: it says which services are
/// believed, and the doctor loads the PKCS#11 modules it leads to.
fn ours(path: &Path) -> Result<(), Failure> {
    let us = rustix::process::geteuid().as_raw();
    for path in [path, path.parent().unwrap_or(path)] {
        let metadata =
            std::fs::metadata(path).map_err(|error| Failure::file("look at", path, &error))?;
        if metadata.uid() != us || metadata.mode() & 0o022 != 0 {
            return Err(Failure::configuration(format!(
                "{} is not used: it is another user's, or others may write to it",
                path.display()
            ))
            .mend("if you trust it, name the file with --config"));
        }
    }
    Ok(())
}

/// Reads a client configuration.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Exit::CONFIGURATION,
            Party::Setup,
            format!("could not read {}: {error}", path.display()),
        )
        .mend("name the file with --config, or make a development stack with `latchkey dev init`")
    })?;
    toml::from_str(&text).map_err(|error| {
        Failure::configuration(format!("{} is malformed: {error}", path.display()))
            .mend("compare it with deploy/config/latchkey.toml")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_beats_the_environment() {
        let search = Search::new(Some("a".into()), Some("b".into()));
        assert_eq!(search.find().unwrap(), Path::new("a"));
        let search = Search::new(None, Some("b".into()));
        assert_eq!(search.find().unwrap(), Path::new("b"));
    }

    #[test]
    fn a_configuration_that_others_can_write_must_be_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latchkey.toml");
        std::fs::write(&path, "").unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&path, 0o644);
        ours(&path).unwrap();
        set(&path, 0o664);
        let failure = ours(&path).unwrap_err();
        assert_eq!(failure.exit(), Exit::CONFIGURATION);
        assert!(failure.to_string().contains("--config"), "{failure}");
        set(&path, 0o644);
        set(dir.path(), 0o777);
        assert!(ours(&path).is_err(), "anybody can replace it");
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let failure = load(Path::new("/nonexistent/latchkey.toml")).unwrap_err();
        assert_eq!(failure.exit(), Exit::CONFIGURATION);
        assert!(failure.to_string().contains("dev init"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "surprise = 1").unwrap();
        assert!(
            load(file.path())
                .unwrap_err()
                .to_string()
                .contains("surprise")
        );
    }
}
