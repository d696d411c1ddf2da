//! `latchkey doctor`: looks at everything Latchkey needs on this host; each finding says how to mend it.
//!
//! It changes nothing and needs no service to be up. It does log in to the tokens, once each: a wrong PIN counts.

use std::path::PathBuf;

use serde_json::json;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Session, channel};
use crate::config::Config;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

mod database;
mod files;
mod local;
mod ports;

/// What became of one check.
#[derive(Debug)]
pub(crate) struct Finding {
    check: String,
    /// What was found; or what is wrong and how to mend it.
    outcome: Result<String, Trouble>,
}

#[derive(Debug)]
struct Trouble {
    wrong: String,
    mend: String,
}

impl Finding {
    fn good(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            outcome: Ok(detail.into()),
        }
    }

    fn bad(check: impl Into<String>, wrong: impl Into<String>, mend: impl Into<String>) -> Self {
        let trouble = Trouble {
            wrong: wrong.into(),
            mend: mend.into(),
        };
        Self {
            check: check.into(),
            outcome: Err(trouble),
        }
    }

    fn is_bad(&self) -> bool {
        self.outcome.is_err()
    }

    fn show(&self, output: &Output) {
        let (check, outcome) = (&self.check, self.outcome.as_ref());
        let json = match outcome {
            Ok(detail) => json!({ "check": check, "ok": true, "detail": detail }),
            Err(trouble) => {
                json!({ "check": check, "ok": false, "detail": trouble.wrong, "mend": trouble.mend })
            }
        };
        output.result(&json, || match outcome {
            Ok(detail) => format!("ok    {check:<26} {detail}"),
            Err(trouble) => format!(
                "FAIL  {check:<26} {}\n      {:<26} mend: {}",
                trouble.wrong, "", trouble.mend
            ),
        });
    }
}

pub(crate) async fn run(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let config = session.config()?;
    if let Some(softhsm) = &config.doctor.softhsm2_conf {
        crate::dev::in_softhsm_environment(softhsm)?;
    }
    let healthy = health(config).await;
    let gateway_is_up = healthy
        .iter()
        .any(|finding| finding.check == "health gateway" && !finding.is_bad());
    let mut findings = vec![files::clock()];
    findings.extend(files::identity(
        "client",
        &config.tls,
        &PathBuf::from("the client configuration"),
    ));
    for service in local::services(config) {
        findings.extend(service.check(gateway_is_up).await);
    }
    findings.extend(healthy);
    for finding in &findings {
        finding.show(output);
    }
    let bad = findings.iter().filter(|finding| finding.is_bad()).count();
    output.note(&format!("{} checks, {bad} to mend", findings.len()));
    Ok(if bad == 0 {
        Exit::OK
    } else {
        Exit::CONFIGURATION
    })
}

/// Whether each service says it is healthy.
pub(crate) async fn health(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, client) in config.services() {
        let check = format!("health {service}");
        // Without an identity of our own nobody can be asked: that is no word about the service.
        if let Err(error) = kit::client::channel(client, &config.tls) {
            findings.push(Finding::bad(
                check,
                format!("{} was not asked: {}", client.endpoint, error),
                "correct [tls] or the endpoint in the client configuration first",
            ));
            continue;
        }
        findings.push(match serving(config, client).await {
            Ok(()) => Finding::good(check, format!("{} is serving", client.endpoint)),
            Err(why) => Finding::bad(
                check,
                format!("{}: {why}", client.endpoint),
                format!("start it, or read its log: latchkey-{service} --config FILE (development: deploy/quickstart)"),
            ),
        });
    }
    findings
}

async fn serving(config: &Config, client: &kit::config::Client) -> Result<(), String> {
    let channel = channel(config, client).map_err(|failure| failure.to_string())?;
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(std::time::Duration::from_secs(3));
    match HealthClient::new(channel).check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
        Ok(answer) => Err(format!(
            "it says {}",
            answer.get_ref().status().as_str_name()
        )),
        Err(status) => Err(status.message().to_owned()),
    }
}

/// The names of the services that are not healthy.
pub(crate) async fn unhealthy(config: &Config) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (service, client) in config.services() {
        if serving(config, client).await.is_err() {
            names.push(service);
        }
    }
    names
}
