//! The services that run on this host: their configurations, and every file, token, database and port these name.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hsm::{Role, Token, TokenConfig};
use kit::ServiceConfig;
use kit::config::{Database, Tls};

use super::{Finding, database, files, ports};
use crate::config::Config;
use crate::failure::chain;

/// What a service's configuration names.
pub(super) struct Service {
    name: &'static str,
    path: PathBuf,
    needs: Result<Needs, String>,
}

struct Needs {
    tls: Tls,
    database: Option<Database>,
    tokens: Vec<(TokenConfig, Role)>,
    relay: Option<SocketAddr>,
    /// Further files that must be readable.
    files: Vec<(&'static str, PathBuf)>,
}

impl Needs {
    fn of(config: &impl ServiceConfig) -> Self {
        Self {
            tls: config.server().tls.clone(),
            database: None,
            tokens: Vec::new(),
            relay: None,
            files: Vec::new(),
        }
    }
}

/// The services whose configurations the client's names.
pub(super) fn services(config: &Config) -> Vec<Service> {
    let named = &config.doctor;
    [
        load(&named.auditor, "auditor", |config: &auditor::Config| {
            Needs {
                database: Some(config.database.clone()),
                tokens: vec![(config.token.clone(), Role::Auditor)],
                ..Needs::of(config)
            }
        }),
        load(&named.custody, "custody", |config: &custody::Config| {
            Needs {
                database: Some(config.database.clone()),
                tokens: std::iter::once(&config.token)
                    .chain(&config.tokens)
                    .map(|token| (token.clone(), Role::Custody))
                    .collect(),
                files: vec![("permit key", config.permit_key_file.clone())],
                ..Needs::of(config)
            }
        }),
        load(&named.gateway, "gateway", |config: &gateway::Config| {
            Needs {
                relay: Some(config.relay.listen),
                ..Needs::of(config)
            }
        }),
        load(
            &named.association,
            "association",
            |config: &association::Config| Needs {
                database: Some(config.database.clone()),
                ..Needs::of(config)
            },
        ),
        load(&named.reset, "reset", |config: &reset::Config| Needs {
            database: Some(config.database.clone()),
            ..Needs::of(config)
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn load<C: ServiceConfig>(
    path: &Option<PathBuf>,
    name: &'static str,
    needs: impl FnOnce(&C) -> Needs,
) -> Option<Service> {
    let path = path.clone()?;
    let loaded = kit::config::load::<C>(&path);
    let needs = loaded
        .map(|config| needs(&config))
        .map_err(|error| error.to_string());
    Some(Service { name, path, needs })
}

impl Service {
    pub(super) async fn check(self, gateway_is_up: bool) -> Vec<Finding> {
        let check = format!("config {}", self.name);
        let needs = match self.needs {
            Ok(needs) => needs,
            Err(why) => {
                return vec![Finding::bad(
                    check,
                    why,
                    "correct it; deploy/config holds an example",
                )];
            }
        };
        let mut findings = vec![Finding::good(check, self.path.display().to_string())];
        findings.extend(files::identity(self.name, &needs.tls, &self.path));
        for (what, path) in &needs.files {
            let mend = "make it in the key ceremony, or correct its path";
            findings.push(files::readable(
                &format!("{what} {}", self.name),
                path,
                mend,
            ));
        }
        for (config, role) in &needs.tokens {
            findings.extend(token(self.name, config, *role).await);
        }
        if let Some(database) = needs.database {
            findings.push(database::check(self.name, &database).await);
        }
        if let Some(relay) = needs.relay {
            findings.extend(ports::relay(relay, gateway_is_up));
        }
        findings
    }
}

/// Module, PIN, and a log-in that proves the token fit for its role.
async fn token(service: &str, config: &TokenConfig, role: Role) -> Vec<Finding> {
    let module = files::readable(
        &format!("module {service}"),
        &config.module,
        "install it (Debian: apt install softhsm2), or correct token.module",
    );
    let pin = match &config.pin_file {
        Some(file) => files::secret(&format!("PIN {service}"), file),
        // A credential is the service's alone, and nobody is asked for a PIN here.
        None => {
            let check = format!("PIN {service}");
            let known = "it is not in a file: log-in is not tried here";
            return vec![module, Finding::good(check, known.to_owned())];
        }
    };
    // Without these the log-in can only fail, and a wrong PIN is counted.
    if module.is_bad() || pin.is_bad() {
        return vec![module, pin];
    }
    vec![module, pin, log_in(service, config, role).await]
}

async fn log_in(service: &str, config: &TokenConfig, role: Role) -> Finding {
    let check = format!("token {service}");
    match Token::open(config, role).await {
        Ok(_) => Finding::good(
            check,
            format!("{} can do what {service} needs", config.token_label),
        ),
        Err(error) => Finding::bad(
            check,
            chain(&error),
            format!(
                "check token.token_label and the PIN{}; SoftHSM needs SOFTHSM2_CONF; a new token needs the ceremony",
                config.pin_file.as_deref().map(shown).unwrap_or_default()
            ),
        ),
    }
}

fn shown(path: &Path) -> String {
    format!(" in {}", path.display())
}
