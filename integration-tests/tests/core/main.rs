//! The DLMS core end to end, through the real services and with keys in a real token: simulated meters of every transport,
//! mechanism, form, suite and policy, each value at least once. Each is enrolled as a person does it, connected to, read
//! singly, in lists, in blocks and by entry, written to and told what to do where a permit says so, reset, and released.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod manner;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use dlms::{Data, Selection};
use integration_tests::{
    caller::Caller,
    kryoptic,
    line::Line,
    stack::{SimMeter, Stack, path_text, until},
};
use latchkey_proto::{
    association::v1::{
        Delivery, InvokeListRequest, InvokeListResponse, InvokeRequest, InvokeResponse, ListForm,
        OpenAssociationRequest, OpenAssociationResponse, ReleaseAssociationRequest,
        association_service_client::AssociationServiceClient,
    },
    audit::v1::{
        AuthoriseRequest, Command, CommandService, Purpose, SignedPermit, Tier,
        permit_service_client::PermitServiceClient,
    },
    reset::v1::{
        AttributeName, ConnectMeterRequest, GetObjectsRequest, ReadProfileRequest,
        meter_access_service_client::MeterAccessServiceClient,
    },
};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PublicKeyData};
use serde_json::Value;
use simulator::LabKeys;

use crate::manner::{CERTIFIED, MANNERS, Manner};

/// How many meters are tried at a time.
const LANES: usize = 4;

/// What policy lets the test do besides: writing the clock, and any script of the vendor's table.
const MORE_POLICY: &str = r#"
@id("test-acts")
permit (principal, action in [Latchkey::Action::"set", Latchkey::Action::"act"], resource)
when {
  principal in [Latchkey::Role::"reset", Latchkey::Role::"operator"] &&
  context.purpose == "reset" &&
  [8, 9].contains(resource.classId)
};
"#;

#[test]
fn the_core_end_to_end() -> Result<()> {
    the_core(|_| Ok(()))
}

/// The same with meters' keys in a token of another brand.
#[test]
fn the_core_end_to_end_on_another_token() -> Result<()> {
    the_core(kryoptic::move_custody)
}

fn the_core(change: impl FnOnce(&mut Stack) -> Result<()>) -> Result<()> {
    let line = Line::open()?;
    let mut stack = Stack::prepare()?;
    change(&mut stack)?;
    allow(&stack, &line)?;
    stack.up()?;
    certify(&mut stack)?;
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| scope.spawn(|| lane(&stack, &line, &next)))
            .collect();
        lanes
            .into_iter()
            .flat_map(|lane| lane.join().expect("a lane"))
            .collect()
    });
    ensure!(failed.is_empty(), "{}\n{}", failed.join("\n"), stack.logs());
    Ok(())
}

/// Takes one manner after the other; what went wrong with each.
fn lane(stack: &Stack, line: &Line, next: &AtomicUsize) -> Vec<String> {
    let mut failed = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(manner) = MANNERS.get(number) else {
            return failed;
        };
        if let Err(error) = whole_life(stack, line, manner, number) {
            failed.push(format!("{}: {error:#}", manner.name));
        }
    }
}

/// What a cautious installation does not allow: mechanisms and policies of old, and acts that are no reset.
fn allow(stack: &Stack, line: &Line) -> Result<()> {
    prepend(
        stack,
        "custody",
        "allow_legacy_hls = true\nallow_encryption_only = true",
    )?;
    let policy = stack.dir().join("policy");
    fs::create_dir(&policy)?;
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/auditor/policy");
    for file in ["schema.cedarschema", "objects.toml"] {
        fs::copy(bundle.join(file), policy.join(file))?;
    }
    let rules = fs::read_to_string(bundle.join("policies.cedar"))?;
    let never =
        "@id(\"never-set\")\nforbid (principal, action == Latchkey::Action::\"set\", resource);\n";
    ensure!(rules.contains(never), "the rule against SET has moved");
    let rules = rules.replace(never, "");
    fs::write(policy.join("policies.cedar"), rules + MORE_POLICY)?;
    prepend(stack, "auditor", &format!("policy_dir = {policy:?}"))?;
    let gateway = stack.config("gateway");
    let text = fs::read_to_string(&gateway)?;
    let device = line.gateway_end();
    let serial =
        format!("\n[[serial]]\nname = \"cabinet-7\"\ndevice = {device:?}\nbaud = 115200\n");
    fs::write(&gateway, text + &serial)?;
    Ok(())
}

/// The head-end's signing key, as an uncompressed point.
struct HeadEnd(Vec<u8>);

impl PublicKeyData for HeadEnd {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Gives the head-end a certificate for the client title of one meter, and custody that certificate.
fn certify(stack: &mut Stack) -> Result<()> {
    let keys = key_file(stack, CERTIFIED);
    stack.ok(&["sim", "keys", "--out", path_text(&keys)?, "--suite", "1"])?;
    let title = LabKeys::read(&keys)
        .map_err(|error| anyhow!("{error}"))?
        .client_system_title();
    let told = stack.json(&["keys", "client", "--suite", "1"])?;
    let point = told["signing_key"].as_str().context("a signing key")?;
    let key = HeadEnd([vec![4], hex::decode(point)?].concat());
    let mut params = CertificateParams::default();
    let name = hex::encode_upper(title);
    params.distinguished_name.push(DnType::CommonName, name);
    let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate()?);
    let file = stack.dir().join("client.pem");
    fs::write(&file, params.signed_by(&key, &issuer)?.pem())?;
    prepend(
        stack,
        "custody",
        &format!("client_certificate_suite1_file = {file:?}"),
    )?;
    stack.terminate("custody")?;
    stack.up()
}

fn key_file(stack: &Stack, name: &str) -> PathBuf {
    stack.dir().join(format!("core-{name}.keys.toml"))
}

/// Puts lines before a configuration's own: the keys of its root.
fn prepend(stack: &Stack, service: &str, more: &str) -> Result<()> {
    let file = stack.config(service);
    let text = fs::read_to_string(&file)?;
    fs::write(&file, format!("{more}\n{text}"))?;
    Ok(())
}

/// A meter from its keys to its release.
fn whole_life(stack: &Stack, line: &Line, manner: &Manner, number: usize) -> Result<()> {
    let id = format!("core-{}", manner.name);
    let number = u8::try_from(number)?;
    let keys = stack.dir().join(format!("{id}.keys.toml"));
    let keys_path = path_text(&keys)?;
    stack.ok(&["sim", "keys", "--out", keys_path, "--suite", manner.suite])?;
    let serial = manner.name.starts_with("serial");
    let address = stack.meter_address(number);
    let device = format!("serial:{},115200", path_text(line.meter_end())?);
    let mut sim = words(manner.sim);
    if serial {
        sim.extend(["--transport", &device]);
    }
    let meter = SimMeter::start(stack.dir(), &id, &address, &keys, "standard", &sim)?;
    let address = if serial { "serial:cabinet-7" } else { &address };
    stack.enrol(&id, address, &keys, "standard", &words(manner.add))?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        people(stack, &id).await?;
        permitted(stack, &id, manner).await
    })?;
    reset(stack, &id, &meter)
}

fn words(flags: &str) -> Vec<&str> {
    flags.split_whitespace().collect()
}

/// What people do: connect, read one thing, several, the newest entries of a profile; and rehearse a reset.
async fn people(stack: &Stack, id: &str) -> Result<()> {
    let channel = Caller::new(stack, "operator-dev").channel("reset")?;
    let mut access = MeterAccessServiceClient::new(channel);
    let (meter_id, request_id) = (|| id.to_owned(), kit::context::new_id);
    let connect = ConnectMeterRequest {
        request_id: request_id(),
        meter_id: meter_id(),
        ..ConnectMeterRequest::default()
    };
    access.connect_meter(connect).await.context("connect")?;
    let name = |logical_name: &str, attribute| AttributeName {
        class_id: 0,
        logical_name: logical_name.to_owned(),
        attribute,
    };
    let objects = GetObjectsRequest {
        request_id: request_id(),
        meter_id: meter_id(),
        attributes: vec![name("0.0.96.3.10.255", 2), name("0.0.42.0.0.255", 2)],
        ..GetObjectsRequest::default()
    };
    let read = access.get_objects(objects).await.context("objects")?;
    let read = read.into_inner();
    let closed = Data::Boolean(true).encode();
    ensure!(
        read.one_request && read.values[0].data == closed && read.values[1].result == 0,
        "{read:?}"
    );
    let profile = ReadProfileRequest {
        request_id: request_id(),
        meter_id: meter_id(),
        logical_name: "1.0.99.1.0.255".to_owned(),
        entries: 3,
        ..ReadProfileRequest::default()
    };
    let read = access.read_profile(profile).await.context("profile")?;
    let rows = Data::decode(&read.into_inner().data)?;
    ensure!(rows.as_elements().is_some_and(|rows| rows.len() == 3));
    let rehearsed = stack.json(&["reset", id, "--tier", "cold", "--validate-only"])?;
    ensure!(
        rehearsed
            .to_string()
            .contains("the command crosses the link"),
        "{rehearsed}"
    );
    Ok(())
}

fn command(service: CommandService, class_id: u32, name: &str, index: i32) -> Command {
    Command {
        service: service.into(),
        class_id,
        logical_name: name.to_owned(),
        index,
        max_uses: if service == CommandService::Get { 0 } else { 2 },
        ..Command::default()
    }
}

fn relay(index: i32) -> Command {
    command(CommandService::Get, 70, "0.0.96.3.10.255", index)
}

/// When the entries of the load profile were captured, all of them.
fn captures() -> Command {
    let entries = Selection::Entry {
        from_entry: 1,
        to_entry: 0,
        from_column: 1,
        to_column: 2,
    };
    Command {
        selection: entries.encode(),
        ..command(CommandService::Get, 7, "1.0.99.1.0.255", 2)
    }
}

/// A time that is none, and longer than any meter here receives at once.
fn long_set() -> Command {
    Command {
        parameter: Data::OctetString(vec![0xA5; 1_500]).encode(),
        ..command(CommandService::Set, 8, "0.0.1.0.0.255", 2)
    }
}

/// A script of the vendor's table; one that is none, if it is long.
fn script(parameter: &Data) -> Command {
    Command {
        parameter: parameter.encode(),
        ..command(CommandService::Action, 9, "0.0.10.1.0.255", 1)
    }
}

fn long_action() -> Command {
    script(&Data::OctetString(vec![0x5A; 1_500]))
}

/// An association of the reset service, under a permit of the auditor.
struct Talk {
    associations: AssociationServiceClient<kit::Channel>,
    id: String,
}

impl Talk {
    async fn open(
        stack: &Stack,
        meter_id: &str,
        commands: Vec<Command>,
    ) -> Result<(Self, OpenAssociationResponse)> {
        let reset = Caller::new(stack, "reset");
        let permit = authorise(&reset, meter_id, commands).await?;
        let mut associations = AssociationServiceClient::new(reset.channel("association")?);
        let request = OpenAssociationRequest {
            meter_id: meter_id.to_owned(),
            permit: Some(permit),
            holder: "core-test".to_owned(),
            public_client: false,
        };
        let opened = associations.open_association(request).await?.into_inner();
        let id = opened.association_id.clone();
        Ok((Self { associations, id }, opened))
    }

    async fn invoke(&mut self, command: Command) -> Result<InvokeResponse> {
        let request = InvokeRequest {
            association_id: self.id.clone(),
            command: Some(command),
            answer_timeout_ms: 15_000,
        };
        let answer = self.associations.invoke(request).await?.into_inner();
        ensure!(answer.delivery() == Delivery::Answered, "{}", answer.cause);
        Ok(answer)
    }

    async fn list(&mut self, commands: Vec<Command>, form: ListForm) -> Result<InvokeListResponse> {
        let request = InvokeListRequest {
            association_id: self.id.clone(),
            commands,
            form: form.into(),
            answer_timeout_ms: 15_000,
        };
        let answer = self.associations.invoke_list(request).await?.into_inner();
        ensure!(answer.delivery() == Delivery::Answered, "{}", answer.cause);
        Ok(answer)
    }

    async fn release(mut self) -> Result<()> {
        let request = ReleaseAssociationRequest {
            association_id: self.id,
        };
        self.associations.release_association(request).await?;
        Ok(())
    }
}

async fn authorise(reset: &Caller, meter_id: &str, commands: Vec<Command>) -> Result<SignedPermit> {
    let request = AuthoriseRequest {
        request_id: kit::context::new_id(),
        meter_id: meter_id.to_owned(),
        purpose: Purpose::Reset.into(),
        tier: Tier::Soft.into(),
        commands,
        on_behalf_of: Caller::name("operator-dev"),
        reason: "the core, end to end".to_owned(),
        reset_id: kit::context::new_id(),
        max_associations: 1,
        lifetime_seconds: 300,
        ..AuthoriseRequest::default()
    };
    let mut permits = PermitServiceClient::new(reset.channel("auditor")?);
    let response = permits.authorise(request).await?.into_inner();
    response.permit.context("a permit")
}

/// What a permit of its own lets be asked: everything that a request can be.
async fn permitted(stack: &Stack, id: &str, manner: &Manner) -> Result<()> {
    let no_script = script(&Data::LongUnsigned(9));
    let commands = vec![
        relay(2),
        relay(3),
        captures(),
        long_set(),
        long_action(),
        no_script.clone(),
    ];
    let (mut talk, opened) = Talk::open(stack, id, commands).await?;
    let untitled = ["tcp-none", "udp-low"].contains(&manner.name);
    ensure!(
        untitled == opened.server_system_title.is_empty(),
        "{opened:?}"
    );
    let rows = talk.invoke(captures()).await.context("GET in blocks")?;
    ensure!(rows.result == 0, "the captures: {}", rows.result);
    let limit = usize::try_from(opened.client_max_receive_pdu_size)?;
    ensure!(
        rows.data.len() > limit,
        "{} octets of {limit}",
        rows.data.len()
    );

    let listed = talk
        .list(vec![relay(2), relay(3)], ListForm::WithList)
        .await;
    let results = results(&listed.context("with-list")?);
    let closed = Data::Boolean(true).encode();
    ensure!(
        results == [(0, closed.clone()), (0, Data::Enum(1).encode())],
        "{results:?}"
    );

    for (what, long) in [("a long SET", long_set()), ("a long ACTION", long_action())] {
        let answer = talk.invoke(long).await.context(what)?;
        ensure!(
            answer.result == 12,
            "{what} was wrong as a whole: {}",
            answer.result
        );
    }
    let mixed = vec![relay(2), no_script, relay(3)];
    match talk.list(mixed, ListForm::Access).await {
        Ok(answer) => {
            let results = self::results(&answer);
            ensure!(manner.access, "ACCESS was not to be had");
            ensure!(results == [(0, closed), (4, vec![])], "{results:?}");
        }
        Err(error) => {
            ensure!(!manner.access, "ACCESS: {error:?}");
            ensure!(format!("{error:?}").contains("did not grant"), "{error:?}");
        }
    }
    talk.release().await
}

fn results(answer: &InvokeListResponse) -> Vec<(u32, Vec<u8>)> {
    let results = answer.results.iter();
    results.map(|one| (one.result, one.data.clone())).collect()
}

/// A cold reset, with all its guards and its evidence.
fn reset(stack: &Stack, id: &str, meter: &SimMeter) -> Result<()> {
    let done = stack.json(&["reset", id, "--tier", "cold", "--wait"])?;
    ensure!(done["verdict"] == "SUCCEEDED", "{done}");
    let resets = meter.events_of("reset");
    let tiers: Vec<&Value> = resets.iter().map(|event| &event["tier"]).collect();
    ensure!(tiers == ["cold"], "{resets:?}");
    let unmoved = meter
        .events_of("relay")
        .iter()
        .all(|event| event["moved"] == false);
    ensure!(unmoved, "the relay has moved");
    until(Duration::from_secs(10), || {
        let released = |event: &Value| event["outcome"] == "released";
        meter
            .events_of("association")
            .iter()
            .any(released)
            .then_some(())
    })
    .context("no association was released")
}
