//! Foreign meters, and our client in front of them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use dlms::{
    Attribute, ClientConfig, Data, LinkConfig, Mechanism, Method, Protection, Response,
    SecurityControl, Selection, Suite, SystemTitle, hdlc,
};
use integration_tests::{
    driver::Driver,
    foreign_meter::{self, ForeignMeter, Way},
    stack::path_text,
};
use serde_json::Value;

use super::{Auth, Feature, Form, Peer, Session, Transport, keys};

/// `dlms-cosem-rs`, linked into this test.
pub(super) const COSEM_RS: Peer = Peer {
    name: "our client, `dlms-cosem-rs` 0.1.0 meter",
    cannot: &[
        (
            Feature::Hls6,
            "`dlms-cosem-rs` refuses HLS6: it implements HLS with GMAC only",
        ),
        (
            Feature::Hls7,
            "`dlms-cosem-rs` refuses HLS7: it implements HLS with GMAC only",
        ),
    ],
    partly: &[],
    only: None,
    hold: with_cosem_rs,
};

/// gurux-dlms, a program of its own.
pub(super) const GURUX: Peer = Peer {
    name: "our client, gurux-dlms 1.0.203 meter",
    cannot: &[],
    partly: &[],
    only: None,
    hold: with_gurux,
};

fn with_cosem_rs(session: Session) -> Result<()> {
    let way = Way {
        transport: match session.transport {
            Transport::Tcp => foreign_meter::Transport::Tcp,
            Transport::Udp => foreign_meter::Transport::Udp,
            Transport::Hdlc => foreign_meter::Transport::Hdlc,
        },
        auth: match session.auth {
            Auth::None => foreign_meter::Auth::None,
            Auth::Low => foreign_meter::Auth::Low(keys::PASSWORD),
            Auth::Hls5 | Auth::Hls6 | Auth::Hls7 => foreign_meter::Auth::Gmac,
        },
        keys: foreign_meter::Keys {
            ek: keys::EK,
            ak: keys::AK,
            client_system_title: keys::CLIENT,
            server_system_title: keys::SERVER,
        },
    };
    let meter = ForeignMeter::start_as("127.31.0.1:0".parse()?, way, true)?;
    use_everything(meter.address, session, "FRNMETER00000001")?;
    ensure!(meter.life().executed == [2], "{:?}", meter.life());
    ensure!(meter.life().relay_commands.is_empty(), "{:?}", meter.life());
    Ok(())
}

/// A meter in Python; it says at the end what it was asked.
struct Gurux {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Gurux {
    fn start(address: &str, session: Session, dir: &Path) -> Result<Self> {
        let mut command = Command::new(peers().join("bin/python"));
        command
            .arg(scripts().join("gurux_meter.py"))
            .args([address, path_text(&keys::file(dir)?)?])
            .args(["--auth", keys::auth_name(session.auth)])
            .args(["--transport", keys::transport_name(session.transport)]);
        if session.form != Form::Plain {
            command.arg("--ciphered");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let says = BufReader::new(child.stdout.take().context("its output")?);
        let mut meter = Self { child, says };
        ensure!(meter.line()? == "ready", "it is not ready");
        Ok(meter)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Ends it; what it saw.
    fn end(mut self) -> Result<Value> {
        drop(self.child.stdin.take().map(|mut input| input.flush()));
        let line = self.line()?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| line)
    }
}

impl Drop for Gurux {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_gurux(session: Session) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let address = "127.31.0.2:4059";
    let meter = Gurux::start(address, session, dir.path())?;
    use_everything(address.parse()?, session, "GRX0000000000001")?;
    let seen = meter.end()?;
    ensure!(seen["executed"] == serde_json::json!([2]), "{seen}");
    ensure!(seen["opened"] == 1, "{seen}");
    ensure!(seen["blocks"].as_u64() >= Some(2), "{seen}");
    ensure!(
        (seen["segmented"].as_u64() > Some(2)) == (session.transport == Transport::Hdlc),
        "{seen}"
    );
    ensure!(
        (seen["glo"].as_u64() > Some(0)) == (session.form == Form::Glo),
        "{seen}"
    );
    ensure!(
        (seen["general-glo"].as_u64() > Some(0)) == (session.form == Form::GeneralGlo),
        "{seen}"
    );
    Ok(())
}

/// The longest APDU our client receives: short, so that a long value comes in blocks.
const MAX_PDU: u16 = 300;

fn use_everything(address: SocketAddr, session: Session, name: &str) -> Result<()> {
    let mut driver = Driver::open(address, config(session), keys::cipher(session.auth)?)?;
    let attribute = |class_id, name: &str, index| -> Result<Attribute> {
        Ok(Attribute {
            class_id,
            name: name.parse()?,
            index,
        })
    };
    let get = |attribute, selection| dlms::Command::Get {
        attribute,
        selection,
    };
    let read = driver.get(get(attribute(1, "0.0.42.0.0.255", 2)?, None))?;
    ensure!(
        read == Data::OctetString(name.as_bytes().to_vec()),
        "{read:?}"
    );
    let profile = attribute(7, "1.0.99.1.0.255", 2)?;
    let all = driver.get(get(profile, None))?;
    ensure!(
        all.encode().len() > usize::from(MAX_PDU),
        "it came in one APDU"
    );
    let second = Selection::Entry {
        from_entry: 2,
        to_entry: 2,
        from_column: 1,
        to_column: 0,
    };
    let one = driver.get(get(profile, Some(second)))?;
    let (Data::Array(all), Data::Array(one)) = (all, one) else {
        anyhow::bail!("a buffer is an array");
    };
    ensure!(one.len() == 1 && all.get(1) == one.first(), "{one:?}");
    let method = Method {
        class_id: 9,
        name: "0.0.10.1.0.255".parse()?,
        index: 1,
    };
    let parameter = Some(Data::LongUnsigned(2));
    match driver.ask(dlms::Command::Action { method, parameter })? {
        Response::Action { result, .. } if result == dlms::ActionResult::SUCCESS => {}
        other => anyhow::bail!("{other:?}"),
    }
    driver.release()
}

fn config(session: Session) -> ClientConfig {
    let high = session.auth != Auth::None && session.auth != Auth::Low;
    let title = |octets| (high || session.form != Form::Plain).then(|| SystemTitle::new(octets));
    let suite = if session.auth == Auth::Hls7 {
        Suite::Suite1
    } else {
        Suite::Suite0
    };
    ClientConfig {
        link: match session.transport {
            Transport::Tcp => LinkConfig::Tcp,
            Transport::Udp => LinkConfig::Udp,
            Transport::Hdlc => LinkConfig::Hdlc(hdlc::Config {
                max_info: 64,
                ..hdlc::Config::default()
            }),
        },
        client_sap: 1,
        mechanism: match session.auth {
            Auth::None => Mechanism::None,
            Auth::Low => Mechanism::Low,
            Auth::Hls5 => Mechanism::HlsGmac,
            Auth::Hls6 => Mechanism::HlsSha256,
            Auth::Hls7 => Mechanism::HlsEcdsa,
        },
        protection: match session.form {
            Form::Plain => Protection::Plain,
            Form::Glo => Protection::Glo,
            Form::GeneralGlo => Protection::GeneralGlo,
        },
        control: SecurityControl::of(suite, true, true),
        client_title: title(keys::CLIENT),
        expected_server_title: title(keys::SERVER),
        authentication_value: match session.auth {
            Auth::None => Vec::new(),
            Auth::Low => keys::PASSWORD.to_vec(),
            Auth::Hls5 | Auth::Hls6 => keys::random(16),
            Auth::Hls7 => keys::random(32),
        },
        max_pdu: MAX_PDU,
        ..ClientConfig::default()
    }
}

pub(super) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/peers")
}

pub(super) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}
