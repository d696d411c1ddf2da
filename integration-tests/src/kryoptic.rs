//! Custody's token on another brand: Kryoptic, where `latchkey dev init` makes one of SoftHSM.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::stack::{Stack, binary, path_text};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const LABEL: &str = "latchkey-custody";

/// Holds a ceremony on a Kryoptic token and has custody use it. The auditor's stays where it was: with Debian's OpenSSL
/// Kryoptic has no EdDSA. Call before custody is started, and before its keys are asked for.
///
/// # Errors
/// If Kryoptic is not built, or the ceremony fails.
pub fn move_custody(stack: &mut Stack) -> Result<()> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tools/kryoptic/libkryoptic_pkcs11.so");
    ensure!(
        module.exists(),
        "{} is not built: integration-tests/kryoptic/build",
        module.display()
    );
    let module = fs::canonicalize(module)?;
    let (module, hsm) = (path_text(&module)?, stack.dir().join("hsm"));
    let (conf, plan) = (hsm.join("kryoptic.toml"), hsm.join("kryoptic-plan.toml"));
    let store = hsm.join("kryoptic.sql");
    let slot = format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = {store:?}\n");
    fs::write(&conf, slot)?;
    // The PINs are those that were made for the token it replaces.
    let token = format!(
        "module = {module:?}\ncreate_pins = true\n[[token]]\nlabel = {LABEL:?}\nrole = \"custody\"\n\
         so_pin_file = \"{LABEL}.so-pin\"\npin_file = \"{LABEL}.pin\"\n"
    );
    fs::write(&plan, token)?;
    let held = Command::new(binary("latchkey-ceremony")?)
        .env("KRYOPTIC_CONF", &conf)
        .arg("--plan")
        .arg(&plan)
        .output()?;
    let said = String::from_utf8_lossy(&held.stderr);
    ensure!(held.status.success(), "the ceremony: {said}");
    let config = stack.config("custody");
    let text = fs::read_to_string(&config)?;
    ensure!(text.contains(SOFTHSM), "custody's module has moved");
    fs::write(&config, text.replace(SOFTHSM, module))?;
    stack.set("custody", "KRYOPTIC_CONF", path_text(&conf)?);
    Ok(())
}
