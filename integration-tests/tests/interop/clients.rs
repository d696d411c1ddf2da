//! Foreign clients, programs of their own, and our simulated meter in front of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::path_text;
use serde_json::Value;
use simulator::{
    Auth as SimAuth, Happening, LabKeys, MeterOptions, MeterServer, Transport as SimTransport,
};
use tokio::{runtime::Runtime, sync::mpsc};

use super::{Auth, Feature, Form, Peer, Session, Transport, keys, meters};

/// gurux-dlms, its decipherment replaced by one that checks.
pub(super) const GURUX: Peer = Peer {
    name: "gurux-dlms 1.0.203 client, our meter",
    cannot: &[],
    partly: &[],
    only: None,
    hold: with_gurux,
};

/// dlms-cosem.
pub(super) const DLMS_COSEM: Peer = Peer {
    name: "dlms-cosem 25.1.0 client, our meter",
    cannot: &[
        (
            Feature::Glo,
            "dlms-cosem sends every ciphered APDU in general-glo-ciphering, whatever was negotiated",
        ),
        (
            Feature::ByEntry,
            "dlms-cosem's entry descriptor cannot be encoded (`to_bytes` fails); it reads profiles by range",
        ),
    ],
    partly: &[(
        Feature::Hdlc,
        "tried without security: the ciphered AARQ takes two segments, and dlms-cosem sends the second without a frame",
    )],
    only: Some(Form::GeneralGlo),
    hold: with_dlms_cosem,
};

fn with_gurux(session: Session) -> Result<()> {
    let protection = match session.form {
        Form::Plain => "plain",
        Form::Glo => "glo",
        Form::GeneralGlo => "general-glo",
    };
    let suite = if session.auth == Auth::Hls7 { "1" } else { "0" };
    let more = [
        "--protection",
        protection,
        "--information",
        "64",
        "--suite",
        suite,
    ];
    hold("gurux_client.py", "127.31.0.3:4059", session, &more)
}

fn with_dlms_cosem(mut session: Session) -> Result<()> {
    if session.transport == Transport::Hdlc {
        (session.auth, session.form) = (Auth::None, Form::Plain);
    }
    let protection = if session.form == Form::Plain {
        "plain"
    } else {
        "general-glo"
    };
    hold(
        "dlms_cosem_client.py",
        "127.31.0.4:4059",
        session,
        &["--protection", protection],
    )
}

/// Starts a meter, lets a client read everything and reset it, and asks the meter what it saw.
fn hold(script: &str, address: &str, session: Session, more: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let meter = Meter::start(address, session, dir.path())?;
    let peer_keys = keys::file(dir.path())?;
    let common = [
        address,
        path_text(&peer_keys)?,
        "--auth",
        keys::auth_name(session.auth),
        "--transport",
        keys::transport_name(session.transport),
        "--pdu",
        "300",
        "--reset",
        "3",
    ];
    let output = Command::new(meters::peers().join("bin/python"))
        .arg(meters::scripts().join(script))
        .args(common)
        .args(more)
        .stdin(Stdio::null())
        .output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{script}: {out}\n{err}");
    let read: Value =
        serde_json::from_str(out.trim()).with_context(|| format!("{script}: {out}\n{err}"))?;
    ensure!(read["reset"] == "accepted", "{read}");
    ensure!(read["objects"].as_u64() > Some(10), "{read}");
    meter.executed_one_reset()
}

struct Meter {
    runtime: Runtime,
    events: mpsc::Receiver<simulator::Event>,
    stop: kit::ShutdownTrigger,
}

impl Meter {
    fn start(address: &str, session: Session, dir: &Path) -> Result<Self> {
        let lab_keys = LabKeys::read(&lab_file(session, dir)?)?;
        let mut options = MeterOptions::new(address.parse()?, lab_keys);
        options.boot_seconds = 0.5;
        options.auth = match session.auth {
            Auth::None => SimAuth::None,
            Auth::Low => SimAuth::Low,
            Auth::Hls5 => SimAuth::Hls5,
            Auth::Hls6 => SimAuth::Hls6,
            Auth::Hls7 => SimAuth::Hls7,
        };
        options.transport = match session.transport {
            Transport::Tcp => SimTransport::Tcp,
            Transport::Udp => SimTransport::Udp,
            Transport::Hdlc => SimTransport::Hdlc,
        };
        if session.form == Form::Plain {
            options.forms = vec!["plain".parse()?];
        }
        let runtime = Runtime::new()?;
        let (sender, events) = mpsc::channel(4096);
        let (stop, shutdown) = kit::shutdown();
        let server = runtime.block_on(MeterServer::bind(options))?;
        runtime.spawn(async move { server.run(sender, shutdown).await });
        Ok(Self {
            runtime,
            events,
            stop,
        })
    }

    fn executed_one_reset(mut self) -> Result<()> {
        let mut resets = 0;
        let mut opened = 0;
        let end = async {
            // the restart is the last thing that a cold reset makes
            while let Some(event) = self.events.recv().await {
                match event.what {
                    Happening::Association {
                        outcome: "opened",
                        client_sap: 1,
                        ..
                    } => opened += 1,
                    Happening::Reset { .. } => resets += 1,
                    Happening::Listening { .. } if resets > 0 => break,
                    _ => {}
                }
            }
        };
        self.runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), end).await })
            .context("the meter did not come back")?;
        ensure!(
            resets == 1 && opened == 1,
            "{resets} resets, {opened} associations"
        );
        self.stop.fire();
        Ok(())
    }
}

/// The meter's own key file.
fn lab_file(session: Session, dir: &Path) -> Result<PathBuf> {
    let mut lines = vec![
        ("client_system_title", hex::encode(keys::CLIENT)),
        ("server_system_title", hex::encode(keys::SERVER)),
        ("ek", hex::encode(keys::EK)),
        ("ak", hex::encode(keys::AK)),
        ("password", hex::encode(keys::PASSWORD)),
        ("hls_secret", hex::encode(keys::HLS_SECRET)),
    ];
    let mut text = String::new();
    if session.auth == Auth::Hls7 {
        text.push_str("suite = 1\n");
        lines.push((
            "server_signing_private_key",
            hex::encode(keys::SERVER_PRIVATE),
        ));
        lines.push(("client_signing_public_key", keys::CLIENT_PUBLIC.to_owned()));
    }
    for (name, value) in lines {
        text.push_str(&format!("{name} = \"{value}\"\n"));
    }
    let path = dir.join("meter-keys.toml");
    fs::write(&path, text)?;
    Ok(path)
}
