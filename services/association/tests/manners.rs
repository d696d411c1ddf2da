//! Simulated meters of every transport, mechanism, form, suite and policy, each value at least once: opened as the
//! directory says, and asked for everything that a permit can hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod bench;

use std::panic::AssertUnwindSafe;

use bench::{Bench, party, permit_for, why};
use dlms::{Data, Suite};
use futures::FutureExt as _;
use latchkey_proto::{
    association::v1::{
        CreateMeterRequest, Delivery, HdlcOptions, InvokeListRequest, InvokeListResponse,
        InvokeRequest, InvokeResponse, ListForm, Meter, OpenAssociationRequest,
        OpenAssociationResponse, ReleaseAssociationRequest, Transport,
    },
    audit::v1::{Command, CommandService},
    custody::v1::{KeyInfo, Mechanism, Protection, Security, SecurityPolicy},
};
use simulator::{Auth, MeterOptions, Policy};
use tonic::{Code, Status};

/// One way of talking to a meter: in the simulator's words and in the directory's.
struct Manner {
    suite: Suite,
    auth: Auth,
    mechanism: Mechanism,
    form: &'static str,
    protection: Protection,
    transport: Transport,
    /// What is unusual about the meter, and how the directory says it.
    more: fn(&mut MeterOptions, &mut Meter),
}

fn security(meter: &mut Meter) -> &mut Security {
    meter.security.get_or_insert_default()
}

/// Every value at least once.
const MANNERS: [Manner; 14] = [
    Manner {
        suite: Suite::Suite0,
        auth: Auth::None,
        mechanism: Mechanism::None,
        form: "plain",
        protection: Protection::Plain,
        transport: Transport::Hdlc,
        more: |_, _| {},
    },
    Manner {
        suite: Suite::Suite0,
        auth: Auth::Low,
        mechanism: Mechanism::Low,
        form: "plain",
        protection: Protection::Plain,
        transport: Transport::Udp,
        more: |_, _| {},
    },
    Manner {
        suite: Suite::Suite0,
        auth: Auth::LowCiphered,
        mechanism: Mechanism::Low,
        form: "glo",
        protection: Protection::Glo,
        transport: Transport::Tcp,
        more: |_, meter| meter.no_release = true,
    },
    Manner {
        suite: Suite::Suite0,
        auth: Auth::Hls3,
        mechanism: Mechanism::HlsMd5,
        form: "plain",
        protection: Protection::Plain,
        transport: Transport::Tcp,
        more: |_, _| {},
    },
    Manner {
        suite: Suite::Suite0,
        auth: Auth::Hls4,
        mechanism: Mechanism::HlsSha1,
        form: "general-glo",
        protection: Protection::GeneralGlo,
        transport: Transport::Udp,
        more: |_, _| {},
    },
    Manner {
        suite: Suite::Suite1,
        auth: Auth::Hls5,
        mechanism: Mechanism::HlsGmac,
        form: "glo",
        protection: Protection::Glo,
        transport: Transport::Hdlc,
        more: |options, meter| {
            options.policy = Policy::Authenticated;
            security(meter).policy = SecurityPolicy::Authenticated.into();
        },
    },
    Manner {
        suite: Suite::Suite2,
        auth: Auth::Hls5,
        mechanism: Mechanism::HlsGmac,
        form: "ded",
        protection: Protection::Ded,
        transport: Transport::Tcp,
        more: |_, _| {},
    },
    Manner {
        suite: Suite::Suite0,
        auth: Auth::Hls5,
        mechanism: Mechanism::HlsGmac,
        form: "general-ded",
        protection: Protection::GeneralDed,
        transport: Transport::Udp,
        more: |options, meter| {
            options.services.gbt = true;
            meter.general_block_transfer = true;
        },
    },
    Manner {
        suite: Suite::Suite0,
        auth: Auth::Hls6,
        mechanism: Mechanism::HlsSha256,
        form: "general-identified",
        protection: Protection::GeneralCiphering,
        transport: Transport::Tcp,
        more: |_, meter| meter.link_mtu = 576,
    },
    Manner {
        suite: Suite::Suite1,
        auth: Auth::Hls6,
        mechanism: Mechanism::HlsSha256,
        form: "general-wrapped",
        protection: Protection::GeneralCiphering,
        transport: Transport::Hdlc,
        more: |options, meter| {
            options.hdlc.address_octets = 4;
            options.hdlc.physical = 300;
            options.hdlc.max_info = 256;
            options.hdlc.window = 3;
            meter.hdlc = Some(HdlcOptions {
                address_octets: 4,
                physical_address: 300,
                max_information: 256,
                window: 3,
            });
            security(meter).key_info = KeyInfo::Wrapped.into();
        },
    },
    Manner {
        suite: Suite::Suite1,
        auth: Auth::Hls7,
        mechanism: Mechanism::HlsEcdsa,
        form: "general-one-pass",
        protection: Protection::GeneralCiphering,
        transport: Transport::Udp,
        more: |_, meter| {
            meter.send_certificate = true;
            security(meter).key_info = KeyInfo::AgreedOnePass.into();
        },
    },
    Manner {
        suite: Suite::Suite2,
        auth: Auth::Hls7,
        mechanism: Mechanism::HlsEcdsa,
        form: "general-static",
        protection: Protection::GeneralCiphering,
        transport: Transport::Tcp,
        more: |options, meter| {
            options.signed = true;
            security(meter).signed = true;
            security(meter).key_info = KeyInfo::AgreedStatic.into();
        },
    },
    Manner {
        suite: Suite::Suite2,
        auth: Auth::Hls7,
        mechanism: Mechanism::HlsEcdsa,
        form: "general-glo",
        protection: Protection::GeneralGlo,
        transport: Transport::Hdlc,
        more: |options, meter| {
            options.policy = Policy::Encrypted;
            security(meter).policy = SecurityPolicy::Encrypted.into();
        },
    },
    Manner {
        suite: Suite::Suite1,
        auth: Auth::Hls5,
        mechanism: Mechanism::HlsGmac,
        form: "glo",
        protection: Protection::Glo,
        transport: Transport::Udp,
        more: |options, meter| {
            options.signed = true;
            security(meter).signed = true;
        },
    },
];

impl Manner {
    fn name(&self) -> String {
        let transport = self
            .transport
            .as_str_name()
            .trim_start_matches("TRANSPORT_");
        format!(
            "{transport} {} {} suite {}",
            self.auth,
            self.form,
            self.suite.id()
        )
    }

    /// A bench whose meter is like this, and is in the directory as `m-1`.
    async fn bench(&self) -> Bench {
        let mut meter = Meter {
            meter_id: "m-1".to_owned(),
            mechanism: self.mechanism.into(),
            protection: self.protection.into(),
            profile: "standard".to_owned(),
            transport: self.transport.into(),
            ..Meter::default()
        };
        let needs_suite =
            self.protection != Protection::Plain || self.mechanism == Mechanism::HlsEcdsa;
        if needs_suite {
            security(&mut meter).suite = self.suite.id().into();
        }
        let change = |options: &mut MeterOptions| {
            options.auth = self.auth;
            options.forms = vec![self.form.parse().unwrap()];
            options.transport = match self.transport {
                Transport::Udp => simulator::Transport::Udp,
                Transport::Hdlc => simulator::Transport::Hdlc,
                _ => simulator::Transport::Tcp,
            };
            (self.more)(options, &mut meter);
        };
        let bench = Bench::bare(party(self.suite, 7), change, "", "").await;
        meter.address = bench.meter.to_string();
        let request = CreateMeterRequest { meter: Some(meter) };
        bench.meters().create_meter(request).await.unwrap();
        bench
    }
}

fn command(service: CommandService, class_id: u32, name: &str, index: i32) -> Command {
    Command {
        service: service.into(),
        class_id,
        logical_name: name.to_owned(),
        index,
        max_uses: u32::from(service != CommandService::Get),
        ..Command::default()
    }
}

/// The reset script table; `1` is the soft reset.
fn script(id: u8) -> Command {
    Command {
        parameter: vec![0x12, 0, id],
        ..command(CommandService::Action, 9, "0.0.10.1.0.255", 1)
    }
}

/// A value for the clock that is none, and long.
fn long_set() -> Command {
    Command {
        parameter: Data::OctetString(vec![0xA5; 1_500]).encode(),
        ..command(CommandService::Set, 8, "0.0.1.0.0.255", 2)
    }
}

/// A parameter that is no script, and long.
fn long_action() -> Command {
    Command {
        parameter: Data::OctetString(vec![0x5A; 1_500]).encode(),
        ..script(0)
    }
}

fn gets() -> Vec<Command> {
    let get = |class_id, name, index| command(CommandService::Get, class_id, name, index);
    vec![
        get(70, "0.0.96.3.10.255", 2),
        get(70, "0.0.96.3.10.255", 3),
        get(1, "0.0.96.1.77.255", 2),
        get(1, "0.0.42.0.0.255", 2),
    ]
}

fn profile() -> Command {
    command(CommandService::Get, 7, "1.0.99.1.0.255", 2)
}

/// Everything a permit could hold.
fn commands() -> Vec<Command> {
    let mut commands = gets();
    commands.extend([profile(), script(1), long_set(), long_action()]);
    commands
}

/// An association under way.
struct Talk<'a> {
    bench: &'a Bench,
    id: String,
}

async fn open(bench: &Bench) -> Result<OpenAssociationResponse, Status> {
    let request = OpenAssociationRequest {
        meter_id: "m-1".to_owned(),
        permit: Some(permit_for("m-1", "reset", commands())),
        holder: "r-1".to_owned(),
        public_client: false,
    };
    let mut client = bench.client("reset");
    Ok(client.open_association(request).await?.into_inner())
}

impl Talk<'_> {
    async fn invoke(&self, command: Command) -> InvokeResponse {
        let request = InvokeRequest {
            association_id: self.id.clone(),
            command: Some(command),
            answer_timeout_ms: 10_000,
        };
        let mut client = self.bench.client("reset");
        client.invoke(request).await.unwrap().into_inner()
    }

    async fn list(
        &self,
        commands: Vec<Command>,
        form: ListForm,
    ) -> Result<InvokeListResponse, Status> {
        let request = InvokeListRequest {
            association_id: self.id.clone(),
            commands,
            form: form.into(),
            answer_timeout_ms: 10_000,
        };
        let mut client = self.bench.client("reset");
        Ok(client.invoke_list(request).await?.into_inner())
    }

    async fn answered(&self, command: Command) -> (u32, Vec<u8>) {
        let answer = self.invoke(command).await;
        assert_eq!(answer.delivery(), Delivery::Answered, "{}", answer.cause);
        (answer.result, answer.data)
    }
}

/// What the meter says to four questions in one request.
fn assert_listed(listed: &InvokeListResponse) {
    assert_eq!(listed.delivery(), Delivery::Answered, "{}", listed.cause);
    let results: Vec<_> = listed.results.iter().map(|one| one.result).collect();
    assert_eq!(results, [0, 0, 4, 0]);
    assert_eq!(listed.results[0].data, Data::Boolean(true).encode());
    assert_eq!(listed.results[1].data, Data::Enum(1).encode());
}

async fn whole_cycle(manner: &Manner) {
    let bench = manner.bench().await;
    let opened = open(&bench).await.unwrap();
    let talk = Talk {
        bench: &bench,
        id: opened.association_id.clone(),
    };
    let (result, relay) = talk.answered(gets()[0].clone()).await;
    assert_eq!((result, relay), (0, Data::Boolean(true).encode()));
    let (result, rows) = talk.answered(profile()).await;
    let limit = usize::try_from(opened.client_max_receive_pdu_size).unwrap();
    assert_eq!(result, 0);
    assert!(rows.len() > limit, "{} octets came in blocks", rows.len());
    assert_listed(&talk.list(gets(), ListForm::WithList).await.unwrap());

    // Longer than the meter receives: they go in blocks, and are wrong when they are whole.
    assert_eq!(talk.answered(long_set()).await, (12, vec![]));
    assert_eq!(talk.answered(long_action()).await, (12, vec![]));

    let specific = matches!(manner.protection, Protection::Glo | Protection::Ded);
    let mixed = vec![gets()[0].clone(), script(9), gets()[3].clone()];
    match talk.list(mixed, ListForm::Access).await {
        Err(status) => {
            assert!(specific, "{status}");
            let why = why(Err::<(), _>(status));
            assert_eq!(
                why,
                (Code::FailedPrecondition, "SERVICE_NOT_GRANTED".to_owned())
            );
        }
        Ok(answer) => {
            assert!(!specific);
            assert_eq!(answer.delivery(), Delivery::Answered, "{}", answer.cause);
            let results: Vec<_> = answer.results.iter().map(|one| one.result).collect();
            assert_eq!(results, [0, 4], "it stops at the script that is none");
        }
    }

    let soft = talk.invoke(script(1)).await;
    assert_eq!((soft.delivery(), soft.result), (Delivery::Answered, 0));
    let global = matches!(
        (manner.form, manner.protection),
        ("general-identified", _) | (_, Protection::Glo | Protection::GeneralGlo)
    );
    assert_eq!(
        soft.invocation_counter > 0,
        global,
        "of the global key, or 0"
    );
    bench.told(r#""event":"reset","tier":"soft""#).await;

    let release = ReleaseAssociationRequest {
        association_id: opened.association_id,
    };
    let mut client = bench.client("reset");
    client.release_association(release).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_meter_of_every_manner_is_talked_to_in_its_own() {
    let mut failed = Vec::new();
    for manner in &MANNERS {
        let cycle = AssertUnwindSafe(whole_cycle(manner)).catch_unwind();
        if cycle.await.is_err() {
            failed.push(manner.name());
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
