//! The configurations of a development stack: every path absolute, every peer named.

use std::fmt::Display;
use std::path::Path;

use crate::dev::layout::{ADMIN, DOMAIN, Layout, OPERATOR, RELAY, SERVICES, peer_name};
use crate::dev::tokens::{AUDITOR_TOKEN, CUSTODY_TOKEN, MODULE};
use crate::failure::Failure;
use crate::file::{self, Mode};

/// Writes what is missing; what is there stays. Says how many files it wrote.
pub(crate) fn write(layout: &Layout) -> Result<usize, Failure> {
    let mut written = 0;
    for (service, port) in SERVICES {
        let text = service_config(layout, service, port);
        written += usize::from(file::write_new(
            &layout.service_config(service),
            text,
            Mode::Public,
        )?);
    }
    for (who, path) in [
        (OPERATOR, layout.client_config()),
        (ADMIN, layout.admin_config()),
    ] {
        written += usize::from(file::write_new(
            &path,
            client_config(layout, who),
            Mode::Public,
        )?);
    }
    Ok(written)
}

fn service_config(layout: &Layout, service: &str, port: u16) -> String {
    let own = match service {
        "custody" => custody(layout),
        "association" => association(layout),
        "reset" => reset(layout),
        "auditor" => auditor(layout),
        _ => gateway(layout),
    };
    let rows: String = peers(service)
        .iter()
        .map(|(method, who)| {
            let names: Vec<_> = who
                .iter()
                .map(|who| format!("\"{}\"", peer_name(who)))
                .collect();
            format!("\"latchkey.{method}\" = [{}]\n", names.join(", "))
        })
        .collect();
    format!(
        "# Made by `latchkey dev init`: {service} of a development stack. deploy/config explains every key.\n\
         {}\n[server]\nlisten = \"127.0.0.1:{port}\"\n\n[server.tls]\n{}\n[server.peers]\n{rows}",
        own.root_first(),
        tls(layout, service),
    )
}

/// A configuration in parts: TOML wants the keys of the root before the first table.
struct Own {
    root: String,
    tables: String,
}

impl Own {
    fn root_first(&self) -> String {
        format!("{}\n{}", self.root, self.tables)
    }
}

fn custody(layout: &Layout) -> Own {
    Own {
        root: format!(
            "permit_key_file = {}\nrequesters = [\"{}\"]\n# laboratory meters only: their keys may come in clear, over mTLS\nlab_import = true\ncounter_state_file = {}\n",
            quoted(layout.permit_key().display()),
            peer_name("reset"),
            quoted(layout.counter_state().display()),
        ),
        tables: [
            database(layout, "custody"),
            token(layout, CUSTODY_TOKEN),
            client("auditor"),
        ]
        .join("\n"),
    }
}

fn association(layout: &Layout) -> Own {
    let gateway = format!(
        "[gateway]\naddress = \"{RELAY}\"\npeer = \"{}\"\n",
        peer_name("gateway")
    );
    Own {
        root: String::new(),
        tables: [
            database(layout, "association"),
            client("custody"),
            client("auditor"),
            gateway,
        ]
        .join("\n"),
    }
}

fn reset(layout: &Layout) -> Own {
    // One call opens an association or waits for an answer: several turns with the meter.
    let association = format!("{}timeout_ms = 60000\n", client("association"));
    Own {
        // Simulated meters are back within seconds, and on no mesh that could be flooded.
        root: "poll_seconds = 1\n".to_owned(),
        tables: [database(layout, "reset"), association, client("auditor")].join("\n"),
    }
}

fn auditor(layout: &Layout) -> Own {
    let people = format!(
        "# Who guards does not command: the operator enrols and resets, the admin changes the source side of the\n\
         # allowlist (latchkey --config {} allowlist ...).\n\
         [roles]\n\"{}\" = [\"operator\", \"installer\"]\n\"{}\" = [\"security-admin\"]\n",
        layout.admin_config().display(),
        peer_name(OPERATOR),
        peer_name(ADMIN),
    );
    let source = "[[allowlist]]\nside = \"source\"\nnetwork = \"127.0.0.1/32\"\n\
                  reason = \"the association service of this stack\"\n"
        .to_owned();
    Own {
        root: format!("origin = \"{DOMAIN}/trail\"\n"),
        tables: [
            database(layout, "auditor"),
            token(layout, AUDITOR_TOKEN),
            people,
            source,
        ]
        .join("\n"),
    }
}

fn gateway(layout: &Layout) -> Own {
    let relay = format!(
        "[relay]\nlisten = \"{RELAY}\"\npeers = [\"{}\"]\ncache_file = {}\npoll_ms = 200\n# Laboratory meters listen where they like.\nlab_any_port = true\n",
        peer_name("association"),
        quoted(layout.gateway_cache().display()),
    );
    Own {
        root: String::new(),
        tables: [relay, client("auditor")].join("\n"),
    }
}

/// Who may call what: the arrows of the picture in docs/architecture.md, and the operator.
fn peers(service: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match service {
        "custody" => &[
            ("custody.v1.KeyService", &[OPERATOR]),
            ("custody.v1.CipherService", &["association"]),
        ],
        "association" => &[
            ("association.v1.MeterService", &[OPERATOR]),
            ("association.v1.MeterService/GetMeter", &[OPERATOR, "reset"]),
            ("association.v1.AssociationService", &["reset"]),
            // a plan opens nothing
            (
                "association.v1.AssociationService/PlanAssociation",
                &[OPERATOR, "reset"],
            ),
        ],
        "reset" => &[
            ("reset.v1.ResetService", &[OPERATOR]),
            ("reset.v1.MeterAccessService", &[OPERATOR]),
            ("reset.v1.KeyRotationService", &[ADMIN]),
        ],
        "auditor" => &[
            ("audit.v1.PermitService", &["reset"]),
            ("audit.v1.TrailService", &[OPERATOR, ADMIN]),
            (
                "audit.v1.TrailService/Record",
                &["custody", "association", "reset", "gateway"],
            ),
            ("audit.v1.AllowlistService", &[OPERATOR, ADMIN]),
            (
                "audit.v1.AllowlistService/GetAllowlist",
                &[OPERATOR, ADMIN, "gateway"],
            ),
        ],
        // It serves health alone, which needs no entry; a list must not be empty.
        _ => &[("gateway.v1.GatewayService", &[OPERATOR])],
    }
}

fn client_config(layout: &Layout, who: &str) -> String {
    let mut text = format!(
        "# Made by `latchkey dev init`: the command line of a development stack, for {who}.\n[tls]\n{}",
        tls(layout, who)
    );
    for (service, _) in SERVICES {
        text.push('\n');
        text.push_str(&client(service));
        if service == "reset" {
            // Reads go to the meter and back within one call.
            text.push_str("timeout_ms = 120000\n");
        }
    }
    text.push_str(&format!(
        "\n[doctor]\nsofthsm2_conf = {}\n",
        quoted(layout.softhsm_conf().display())
    ));
    for (service, _) in SERVICES {
        text.push_str(&format!(
            "{service} = {}\n",
            quoted(layout.service_config(service).display())
        ));
    }
    text
}

fn tls(layout: &Layout, who: &str) -> String {
    let path = |path: &Path| quoted(path.display());
    format!(
        "certificate_file = {}\nkey_file = {}\nca_file = {}\ntrust_domain = \"{DOMAIN}\"\n",
        path(&layout.certificate(who)),
        path(&layout.key(who)),
        path(&layout.ca()),
    )
}

fn client(service: &str) -> String {
    let port = SERVICES
        .iter()
        .find(|(name, _)| *name == service)
        .map_or(0, |(_, port)| *port);
    format!(
        "[{service}]\nendpoint = \"https://127.0.0.1:{port}\"\npeer = \"{}\"\n",
        peer_name(service)
    )
}

fn database(layout: &Layout, service: &str) -> String {
    let url = format!("sqlite://{}", layout.database(service).display());
    format!("[database]\nurl = {}\n", quoted(url))
}

fn token(layout: &Layout, token: &str) -> String {
    format!(
        "[token]\nmodule = \"{MODULE}\"\ntoken_label = \"{token}\"\npin_file = {}\n",
        quoted(layout.pin(token).display())
    )
}

/// A TOML string: a path may hold anything.
fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use kit::config::{ConfigError, load};

    use super::*;

    /// A stack in a folder whose name needs quoting.
    fn stack() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("a \"stack\"")).unwrap();
        layout
            .folders()
            .iter()
            .for_each(|folder| file::private_folder(folder).unwrap());
        (dir, layout)
    }

    #[test]
    fn every_service_accepts_its_configuration() -> Result<(), ConfigError> {
        let (_dir, layout) = stack();
        assert_eq!(write(&layout).unwrap(), 7);
        assert_eq!(write(&layout).unwrap(), 0);
        load::<custody::Config>(&layout.service_config("custody"))?;
        load::<association::Config>(&layout.service_config("association"))?;
        load::<reset::Config>(&layout.service_config("reset"))?;
        load::<auditor::Config>(&layout.service_config("auditor"))?;
        load::<gateway::Config>(&layout.service_config("gateway"))?;
        let client = crate::config::load(&layout.client_config()).unwrap();
        assert_eq!(
            client.doctor.custody,
            Some(layout.service_config("custody"))
        );
        Ok(())
    }

    #[test]
    fn the_examples_of_deploy_load() -> Result<(), ConfigError> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config");
        load::<custody::Config>(&folder.join("custody.toml"))?;
        load::<association::Config>(&folder.join("association.toml"))?;
        load::<reset::Config>(&folder.join("reset.toml"))?;
        load::<auditor::Config>(&folder.join("auditor.toml"))?;
        load::<gateway::Config>(&folder.join("gateway.toml"))?;
        crate::config::load(&folder.join("latchkey.toml")).unwrap();
        Ok(())
    }
}
