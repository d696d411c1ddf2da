//! The client's configuration: who we are, and where the services are.

use std::ffi::OsString;
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

const PLACES: [&str; 2] = [".latchkey/latchkey.toml", "/etc/latchkey/latchkey.toml"];

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
        let found = PLACES
            .into_iter()
            .map(PathBuf::from)
            .find(|place| place.exists());
        found.ok_or_else(|| {
            Failure::configuration(format!("no client configuration: looked for {}", PLACES.join(" and ")))
                .mend("name one with --config or LATCHKEY_CONFIG, or make a development stack with `latchkey dev init`")
        })
    }
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
