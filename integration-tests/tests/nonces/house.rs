//! Two custody processes on one PostgreSQL, and whoever may ask them.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use integration_tests::{
    caller::Caller,
    postgres::Postgres,
    stack::{Stack, binary, path_text, until},
};
use kit::{Channel, clock, permit::PermitKey};
use latchkey_proto::{
    audit::v1::{Command as Permitted, CommandService, Permit, Purpose, SignedPermit, Tier},
    custody::v1::{
        ImportLabKeysRequest, Mechanism, cipher_service_client::CipherServiceClient,
        key_service_client::KeyServiceClient,
    },
};
use prost::Message as _;

use crate::meter::{AK, CLIENT, Meter, OBJECT, SERVER};

/// Custody processes.
pub(crate) const REPLICAS: usize = 2;
const PORTS: [u16; REPLICAS] = [7411, 7412];

/// A token, a database, and the processes.
pub(crate) struct House {
    stack: Stack,
    _database: Postgres,
    key: Arc<Ed25519KeyPair>,
    running: [Option<Child>; REPLICAS],
}

/// Where permits are signed, and custody is found.
pub(crate) struct Counter {
    key: Arc<Ed25519KeyPair>,
    channels: Vec<Channel>,
}

impl House {
    /// Lines at which a process may be killed are only in debug builds.
    pub(crate) const COMPILED_IN: bool = cfg!(debug_assertions);

    /// Every line of custody between the reservation of a counter and its use, and what raises counters.
    pub(crate) fn lines() -> Vec<&'static str> {
        let parts = ["counters", "protect", "received", "association"];
        let of = |point: &&&str| parts.iter().any(|part| point.contains(part));
        custody::CRASH_POINTS.iter().filter(of).copied().collect()
    }

    pub(crate) fn build() -> Result<Self> {
        let database = Postgres::start()?;
        database.create("custody")?;
        let stack = Stack::prepare()?;
        let key = Ed25519KeyPair::generate().context("a key")?;
        let permit_key = PermitKey::new(key.public_key().as_ref()).context("32 octets")?;
        let key_file = stack.dir().join("test-permit.key");
        fs::write(&key_file, hex::encode(permit_key.octets()))?;
        let text = fs::read_to_string(stack.config("custody"))?;
        for (replica, port) in PORTS.iter().enumerate() {
            let mut lines = vec![
                format!("permit_key_file = {:?}", path_text(&key_file)?),
                "counter_block = 8".to_owned(),
                "counter_block_max = 256".to_owned(),
                format!("counter_state_file = {:?}", state(&stack, replica)),
            ];
            for line in text.lines() {
                let key = line.split('=').next().unwrap_or_default().trim();
                match key {
                    "permit_key_file" | "counter_state_file" => {}
                    "url" => lines.push(format!("url = \"{}\"", database.url("custody"))),
                    "listen" => lines.push(format!("listen = \"{}:{port}\"", stack.host())),
                    _ => lines.push(line.to_owned()),
                }
            }
            fs::write(
                stack.config(&format!("custody-{replica}")),
                lines.join("\n"),
            )?;
        }
        Ok(Self {
            stack,
            _database: database,
            key: Arc::new(key),
            running: [None, None],
        })
    }

    /// Starts a replica, armed with a line or not, and waits until it listens or is dead. The marker of the line.
    pub(crate) fn start(&mut self, replica: usize, line: Option<&str>) -> Result<PathBuf> {
        let marker = self.stack.dir().join(format!("crash-{replica}"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.stack.dir().join(format!("custody-{replica}.log")))?;
        let mut command = Command::new(binary("latchkey-custody")?);
        command
            .arg("--config")
            .arg(self.stack.config(&format!("custody-{replica}")))
            .env("SOFTHSM2_CONF", self.stack.dir().join("hsm/softhsm2.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(line) = line {
            File::create(&marker)?;
            command.env("LATCHKEY_CRASH_AT", format!("{line}:{}", marker.display()));
        }
        self.running[replica] = Some(command.spawn()?);
        let address = (self.stack.host(), PORTS[replica]);
        until(Duration::from_secs(60), || {
            (TcpStream::connect(address).is_ok() || self.is_dead(replica)).then_some(())
        })
        .with_context(|| self.log(replica))?;
        if line.is_none() && self.is_dead(replica) {
            anyhow::bail!("replica {replica} did not start: {}", self.log(replica));
        }
        Ok(marker)
    }

    fn is_dead(&mut self, replica: usize) -> bool {
        self.running[replica]
            .as_mut()
            .is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    pub(crate) fn wait_dead(&mut self, replica: usize, limit: Duration) -> Result<bool> {
        Ok(until(limit, || self.is_dead(replica).then_some(())).is_some())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, replica: usize) -> Result<()> {
        if let Some(mut child) = self.running[replica].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The replica loses what it remembers of the counters: at its next start it trusts no database.
    pub(crate) fn forget(&self, replica: usize) -> Result<()> {
        Ok(fs::remove_file(state(&self.stack, replica))?)
    }

    fn log(&self, replica: usize) -> String {
        let file = self.stack.dir().join(format!("custody-{replica}.log"));
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Puts the meters' keys in.
    pub(crate) async fn enrol(&self, meters: &[Arc<Meter>]) -> Result<()> {
        let operator = Caller::new(&self.stack, "operator-dev");
        let mut keys = KeyServiceClient::new(operator.channel_at("custody", PORTS[0])?);
        for meter in meters {
            let request = ImportLabKeysRequest {
                meter_id: meter.id.clone(),
                client_system_title: CLIENT.to_vec(),
                server_system_title: SERVER.to_vec(),
                encryption_key: meter.key.to_vec(),
                authentication_key: AK.to_vec(),
                mechanisms: vec![Mechanism::HlsGmac.into()],
                ..ImportLabKeysRequest::default()
            };
            keys.import_lab_keys(request).await?;
        }
        Ok(())
    }

    /// For the load.
    pub(crate) fn counter(&self) -> Counter {
        let association = Caller::new(&self.stack, "association");
        let channel = |port: &u16| association.channel_at("custody", *port).expect("a channel");
        Counter {
            key: Arc::clone(&self.key),
            channels: PORTS.iter().map(channel).collect(),
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for replica in 0..REPLICAS {
            let _ = self.kill(replica);
        }
    }
}

impl Counter {
    /// A way to one of them.
    pub(crate) fn custody(&self, replica: usize) -> CipherServiceClient<Channel> {
        CipherServiceClient::new(self.channels[replica].clone())
    }

    /// A permit to read one object of a meter, as the auditor would sign it.
    pub(crate) fn permit(&self, meter_id: &str) -> SignedPermit {
        let now = clock::now();
        let body = Permit {
            permit_id: kit::context::new_id(),
            leaf_index: 7,
            log_origin: "latchkey.test/trail".to_owned(),
            meter_id: meter_id.to_owned(),
            principal: Caller::name("operator-dev"),
            requester: Caller::name("reset"),
            purpose: Purpose::Read.into(),
            tier: Tier::Unspecified.into(),
            commands: vec![Permitted {
                service: CommandService::Get.into(),
                class_id: 1,
                logical_name: OBJECT.to_owned(),
                index: 2,
                ..Permitted::default()
            }],
            max_associations: 1,
            not_before: Some(clock::timestamp(now)),
            expire_time: Some(clock::timestamp(now + Duration::from_secs(600))),
            reset_id: String::new(),
        }
        .encode_to_vec();
        let signature = self.key.sign(&kit::permit::signing_input(&body));
        let key = PermitKey::new(self.key.public_key().as_ref()).expect("32 octets");
        SignedPermit {
            signature: signature.as_ref().to_vec(),
            key_id: key.key_id(),
            body,
        }
    }
}

fn state(stack: &Stack, replica: usize) -> PathBuf {
    stack.dir().join(format!("custody-{replica}.counters"))
}
