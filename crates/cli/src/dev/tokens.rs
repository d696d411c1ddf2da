//! The two tokens of a development stack, in one SoftHSM store: made by the same ceremony as any other.

use hsm::Role;
use hsm::ceremony::{Outcome, Plan, Transcript};
use tlog::VerifierKey;

use crate::dev::layout::{DOMAIN, Layout};
use crate::exit::Exit;
use crate::failure::{Failure, Party, chain};
use crate::file::{self, Mode};

/// Where Debian puts SoftHSM.
pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const CUSTODY_TOKEN: &str = "latchkey-custody";
pub(crate) const AUDITOR_TOKEN: &str = "latchkey-auditor";

pub(crate) fn write_softhsm_conf(layout: &Layout) -> Result<(), Failure> {
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        layout.tokens().display()
    );
    file::write_new(&layout.softhsm_conf(), text, Mode::Public).map(drop)
}

/// Runs the ceremony and keeps what it says: the transcript, and the two public keys that others verify with. Tokens
/// that are there are compared with the plan and with the transcript. Says what it did.
pub(crate) async fn make(layout: &Layout) -> Result<String, Failure> {
    file::write_new(&layout.ceremony_plan(), plan_text(layout), Mode::Public)?;
    let plan = Plan::load(&layout.ceremony_plan()).map_err(failed)?;
    let date = jiff::Timestamp::try_from(kit::clock::now())
        .map_or_else(|_| String::new(), |now| format!("{now:.0}"));
    // It blocks on the token.
    let transcript = tokio::task::spawn_blocking(move || hsm::ceremony::run(&plan, &date))
        .await
        .map_err(|error| Failure::io("run the ceremony", &error))?
        .map_err(failed)?;
    keep(layout, &transcript)?;
    let created = transcript
        .body
        .tokens
        .iter()
        .filter(|token| token.outcome == Outcome::Created)
        .count();
    let fingerprint = transcript.fingerprint().map_err(failed)?;
    Ok(match created {
        0 => "0 made; those there are as the ceremony's transcript says".to_owned(),
        created => format!("{created} made; transcript {fingerprint}"),
    })
}

fn keep(layout: &Layout, transcript: &Transcript) -> Result<(), Failure> {
    let path = layout.ceremony_transcript();
    if path.exists() {
        let kept = Transcript::verify(&file::read(&path)?).map_err(failed)?;
        if !kept.same_tokens(transcript) {
            let what = format!("the tokens are not those of {}", path.display());
            return Err(Failure::new(Exit::CONFIGURATION, Party::Setup, what)
                .mend("put the tokens back, or start over: deploy/quickstart --clean"));
        }
    } else {
        file::write(&path, transcript.render().map_err(failed)?, Mode::Public)?;
    }
    let permit = public_key(transcript, "permit-1")?;
    file::write_new(
        &layout.permit_key(),
        format!("{}\n", hex::encode(permit)),
        Mode::Public,
    )?;
    let log = VerifierKey::new(&format!("{DOMAIN}/trail"), public_key(transcript, "log-1")?)
        .map_err(|error| Failure::io("name the trail's key", &error))?;
    file::write_new(&layout.trail_key(), format!("{log}\n"), Mode::Public)?;
    Ok(())
}

/// An Ed25519 key of the auditor's token.
fn public_key(transcript: &Transcript, label: &str) -> Result<[u8; 32], Failure> {
    let key = transcript.public_key(Role::Auditor, label);
    key.and_then(|key| key.try_into().ok()).ok_or_else(|| {
        Failure::configuration(format!(
            "the ceremony's transcript holds no Ed25519 public key {label}"
        ))
    })
}

fn plan_text(layout: &Layout) -> String {
    let quoted =
        |path: std::path::PathBuf| toml::Value::String(path.display().to_string()).to_string();
    let token = |label: &str, role: Role| {
        format!(
            "\n[[token]]\nlabel = \"{label}\"\nrole = \"{}\"\nso_pin_file = {}\npin_file = {}\n",
            role.as_str(),
            quoted(layout.so_pin(label)),
            quoted(layout.pin(label)),
        )
    };
    format!(
        "# Made by `latchkey dev init`: both tokens of a development stack.\nmodule = \"{MODULE}\"\ncreate_pins = true\n{}{}",
        token(CUSTODY_TOKEN, Role::Custody),
        token(AUDITOR_TOKEN, Role::Auditor),
    )
}

fn failed(error: hsm::Error) -> Failure {
    Failure::new(Exit::CONFIGURATION, Party::Setup, format!("the key ceremony: {}", chain(&error)))
        .mend("is SoftHSM installed (Debian: apt install softhsm2)? `deploy/quickstart --clean` starts over")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_one_the_ceremony_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        let plan = Plan::parse(&plan_text(&layout)).unwrap();
        let labels: Vec<_> = plan
            .tokens
            .iter()
            .map(|token| token.label.as_str())
            .collect();
        assert_eq!(labels, [CUSTODY_TOKEN, AUDITOR_TOKEN]);
        assert!(plan.create_pins);
    }
}
