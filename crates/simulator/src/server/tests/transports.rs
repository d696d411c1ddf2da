//! Every transport with every manner of security, and the faults of each.

use std::{os::fd::OwnedFd, sync::Arc};

use dlms::{
    Attribute, Command, Conformance, KeyChoice, LinkConfig, Response, Suite, SystemTitle,
    client as role, hdlc,
};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use softcipher::{Keys, PrivateKey, Setup, SoftCipher};
use tokio::{io::unix::AsyncFd, net::UdpSocket};

use super::*;
use crate::{Form, Policy, Transport};

mod telling;

const FORMS: [Protection; 8] = [
    Protection::Glo,
    Protection::GeneralGlo,
    Protection::Ded,
    Protection::GeneralDed,
    Protection::GeneralCiphering(KeyChoice::Identified),
    Protection::GeneralCiphering(KeyChoice::Wrapped),
    Protection::GeneralCiphering(KeyChoice::OnePass),
    Protection::GeneralCiphering(KeyChoice::Static),
];

/// The private keys of the client, for signing and for agreement.
fn client_keys(suite: Suite) -> [PrivateKey; 2] {
    let length = suite.public_key_len() / 2;
    [0x21, 0x43].map(|octet| PrivateKey::from_octets(&vec![octet; length]).unwrap())
}

fn lab_keys(suite: Suite) -> LabKeys {
    let mut next = 0_u8;
    let keys = LabKeys::generate_for(suite, |octets| {
        for octet in octets {
            next = next.wrapping_add(1);
            *octet = next;
        }
    });
    if suite == Suite::Suite0 {
        return keys;
    }
    let [signing, agreement] = client_keys(suite).map(|key| key.public().octets());
    keys.with_client_keys(&signing, &agreement).unwrap()
}

/// How a meter and its client are to meet.
#[derive(Debug, Clone)]
struct Meeting {
    transport: Transport,
    auth: Auth,
    suite: Suite,
    form: Protection,
    policy: Policy,
    signed: bool,
}

impl Meeting {
    fn over(transport: Transport) -> Self {
        Self {
            transport,
            auth: Auth::Hls5,
            suite: Suite::Suite0,
            form: Protection::Glo,
            policy: Policy::Both,
            signed: false,
        }
    }

    async fn rig(&self, change: impl FnOnce(&mut MeterOptions)) -> Rig {
        Rig::start(|options| {
            options.lab_keys = lab_keys(self.suite);
            options.transport = self.transport.clone();
            options.auth = self.auth;
            options.forms = vec![Form(self.form)];
            options.policy = self.policy;
            options.signed = self.signed;
            change(options);
        })
        .await
    }

    fn head_end(&self, rig: &Rig) -> HeadEnd {
        let mut head_end = rig.head_end();
        let lab = &rig.options.lab_keys;
        let [own, meter] = [lab.client_system_title(), lab.server_system_title()];
        let mut keys = lab.keys();
        if self.suite != Suite::Suite0 {
            let [signing, agreement] = client_keys(self.suite);
            let public = |octets: Vec<u8>| softcipher::PublicKey::from_octets(&octets);
            keys = Keys {
                signing: Some(signing),
                agreement: Some(agreement),
                peer_signing: public(lab.server_signing_key()),
                peer_agreement: public(lab.server_agreement_key()),
                ..keys
            };
        }
        let setup = Setup {
            peer: Some(SystemTitle::new(meter)),
            ..Setup::new(self.suite, SystemTitle::new(own))
        };
        head_end.cipher = SoftCipher::new(setup, keys).unwrap();
        let mechanism = self.auth.mechanism();
        let config = &mut head_end.config;
        config.link = match &self.transport {
            Transport::Tcp => LinkConfig::Tcp,
            Transport::Udp => LinkConfig::Udp,
            Transport::Hdlc | Transport::Serial { .. } => {
                LinkConfig::Hdlc(rig.options.hdlc.clone())
            }
        };
        config.mechanism = mechanism;
        config.protection = self.form;
        config.control = self.policy.control(self.suite);
        config.signed = self.signed;
        config.conformance = Conformance::RESET
            | Conformance::SET
            | Conformance::MULTIPLE_REFERENCES
            | Conformance::ACCESS;
        if mechanism == Mechanism::Low {
            config.authentication_value = lab.password().to_vec();
        }
        head_end
    }
}

/// A serial line that is none: the client's end, and the path of the meter's.
#[expect(
    deprecated,
    reason = "the other way in is unsafe; this descriptor is owned, and stays open as long as it is waited for"
)]
fn line() -> (Arc<AsyncFd<OwnedFd>>, Transport) {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&near).unwrap();
    let path = ptsname(&near, vec![]).unwrap().into_string().unwrap();
    rustix::io::ioctl_fionbio(&near, true).unwrap();
    let transport = format!("serial:{path},115200").parse().unwrap();
    (Arc::new(AsyncFd::new(near).unwrap()), transport)
}

fn relay() -> Attribute {
    Attribute {
        class_id: 70,
        name: RELAY.parse().unwrap(),
        index: 2,
    }
}

/// A value, one in blocks, several at once, and a reset.
async fn visit(head_end: &mut HeadEnd, meeting: &Meeting) {
    let mut association = match head_end.open().await {
        Ok(association) => association,
        Err(event) => panic!("{meeting:?}: {event:?}"),
    };
    let value = association.get(70, RELAY, 2).await;
    assert_eq!(value, Ok(Data::Boolean(true)), "{meeting:?}");
    let list = association.get(15, "0.0.40.0.0.255", 2).await.unwrap();
    assert!(list.encode().len() > 1024, "{meeting:?}");
    let command = Command::GetList(vec![(relay(), None), (relay(), None)]);
    let answer = association.ask(command).await;
    assert!(
        matches!(&answer, role::Event::Answered(Response::GetList { results, .. }) if results.len() == 2),
        "{meeting:?}: {answer:?}"
    );
    let reset = association.act(9, SCRIPTS, 1, Data::LongUnsigned(1)).await;
    assert_eq!(reset, Some(0), "{meeting:?}");
    association.closed().await;
}

const NETWORKS: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Hdlc];

#[tokio::test]
async fn every_transport_carries_a_whole_visit_and_the_next() {
    let (near, serial) = line();
    for transport in NETWORKS.into_iter().chain([serial]) {
        let meeting = Meeting::over(transport.clone());
        let rig = meeting.rig(|_| ()).await;
        let mut head_end = meeting.head_end(&rig);
        if matches!(transport, Transport::Serial { .. }) {
            head_end.line = Some(Arc::clone(&near));
        }
        for _ in 0..2 {
            visit(&mut head_end, &meeting).await;
        }
        let happened = rig.end().await;
        assert_eq!(executed(&happened), 2, "{transport}");
    }
}

#[tokio::test]
async fn every_mechanism_opens_and_a_wrong_secret_does_not() {
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        for auth in [
            "none",
            "low",
            "low-ciphered",
            "hls3",
            "hls4",
            "hls5",
            "hls6",
            "hls7",
        ] {
            let auth: Auth = auth.parse().unwrap();
            if auth == Auth::Hls7 && suite == Suite::Suite0 {
                continue;
            }
            for form in [Protection::Plain, Protection::Glo] {
                let meeting = Meeting {
                    auth,
                    suite,
                    form,
                    ..Meeting::over(Transport::Tcp)
                };
                let rig = meeting.rig(|_| ()).await;
                visit(&mut meeting.head_end(&rig), &meeting).await;
                let mut wrong = meeting.head_end(&rig);
                spoil(&mut wrong, &meeting);
                let refused = wrong.open().await.is_err();
                assert_eq!(
                    refused,
                    auth != Auth::None || form != Protection::Plain,
                    "{meeting:?}"
                );
            }
        }
    }
}

/// Another password, other keys, and another secret.
fn spoil(head_end: &mut HeadEnd, meeting: &Meeting) {
    let (other, _) = Keys::pair(meeting.suite, 99);
    let setup = Setup::new(meeting.suite, head_end.config.client_title.unwrap());
    head_end.cipher = SoftCipher::new(setup, other).unwrap();
    if let [first, ..] = head_end.config.authentication_value.as_mut_slice() {
        *first ^= 1;
    }
}

#[tokio::test]
async fn every_form_suite_and_policy_is_served_in_kind() {
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        for (form, policy) in FORMS
            .into_iter()
            .flat_map(|form| [(form, "both"), (form, "authenticated"), (form, "encrypted")])
        {
            let policy: Policy = policy.parse().unwrap();
            let clear_key = form.is_dedicated() && policy == Policy::Authenticated;
            let curve = matches!(
                form,
                Protection::GeneralCiphering(KeyChoice::OnePass | KeyChoice::Static)
            );
            for signed in [false, true] {
                if clear_key || suite == Suite::Suite0 && (curve || signed) {
                    continue;
                }
                let meeting = Meeting {
                    suite,
                    form,
                    policy,
                    signed,
                    ..Meeting::over(Transport::Tcp)
                };
                let rig = meeting.rig(|_| ()).await;
                visit(&mut meeting.head_end(&rig), &meeting).await;
                let mut other = meeting.head_end(&rig);
                other.config.control = match policy {
                    Policy::Both => Policy::Encrypted,
                    Policy::Authenticated | Policy::Encrypted => Policy::Both,
                }
                .control(suite);
                assert!(other.open().await.is_err(), "{meeting:?}");
            }
        }
    }
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let changes: [fn(&mut MeterOptions); 8] = [
        |options| options.auth = Auth::Hls7,
        |options| options.signed = true,
        |options| options.max_pdu = 63,
        |options| options.forms = vec![Form(FORMS[6])],
        |options| {
            options.forms = vec![Form(Protection::Ded)];
            options.policy = Policy::Authenticated;
        },
        |options| {
            options.hdlc = hdlc::Config {
                physical: 500,
                ..hdlc::Config::default()
            };
        },
        |options| options.transport = "serial:/dev/null".parse().unwrap(),
        |options| options.transport = "serial:/dev/there-is-none".parse().unwrap(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut options = crate::device::tests::options();
        change(&mut options);
        let error = MeterServer::bind(options).await.unwrap_err();
        let serial = matches!(error, Error::Serial { .. });
        assert!(
            serial == (index > 5) && (serial || matches!(error, Error::Options(_))),
            "{index}: {error}"
        );
    }
}

/// What a client says of each fault of a meter that does not speak as it should.
#[tokio::test]
async fn traps_are_noticed_in_every_transport() {
    let table = [
        ("plain-answer", "Unprotected"),
        ("weaker-answer", "WrongProtection"),
        ("wrong-suite", "WrongProtection"),
        ("bad-tag", "AuthFailed"),
        ("reflected-challenge", "Reflected"),
        ("truncated-aare", "Malformed"),
        ("stuck-association=1", "Exception"),
        ("bare-aare", ""),
        ("short-rlre", ""),
        ("doubled-answer=20", ""),
    ];
    for transport in NETWORKS {
        for (fault, cause) in table {
            let meeting = Meeting::over(transport.clone());
            let rig = meeting
                .rig(|options| options.fault = Some(fault.parse().unwrap()))
                .await;
            let mut head_end = meeting.head_end(&rig);
            // anyone may send a datagram: what is wrong with one is no more than a datagram lost
            let lost = transport == Transport::Udp;
            head_end.config.answer_timeout_ms = if lost { 300 } else { 60_000 };
            let first = match head_end.open().await {
                Ok(mut association) => {
                    association
                        .ask(Command::Get {
                            attribute: relay(),
                            selection: None,
                        })
                        .await
                }
                Err(event) => event.unwrap(),
            };
            let shown = format!("{first:?}");
            if cause.is_empty() {
                let answered = matches!(first, role::Event::Answered(Response::GetData { .. }));
                assert!(answered, "{transport} {fault}: {shown}");
            } else {
                let failed = matches!(first, role::Event::Failed(_));
                let cause = if lost && shown.contains("TimedOut") {
                    "TimedOut"
                } else {
                    cause
                };
                assert!(
                    failed && shown.contains(cause),
                    "{transport} {fault}: {shown}"
                );
            }
            head_end.config.answer_timeout_ms = 60_000;
            // the fault has worn off, or does no harm
            visit(&mut head_end, &meeting).await;
        }
    }
}

/// These are answers a client must not take; it goes on waiting for the right one, in vain.
#[tokio::test]
async fn answers_that_are_none_are_passed_over() {
    for (transport, fault) in [
        (Transport::Tcp, "ports-not-swapped"),
        (Transport::Udp, "ports-not-swapped"),
        (Transport::Tcp, "replayed-counter"),
        (Transport::Udp, "replayed-counter"),
        (Transport::Hdlc, "replayed-counter"),
    ] {
        let meeting = Meeting::over(transport.clone());
        let rig = meeting
            .rig(|options| options.fault = Some(fault.parse().unwrap()))
            .await;
        let mut head_end = if fault == "ports-not-swapped" {
            // the management client and its device have the same port
            let mut public = rig.head_end().plain(16, Mechanism::None, &[]);
            public.config.link = meeting.head_end(&rig).config.link;
            public
        } else {
            meeting.head_end(&rig)
        };
        head_end.config.answer_timeout_ms = 300;
        let event = match head_end.open().await {
            Ok(mut association) => {
                association
                    .ask(Command::Get {
                        attribute: relay(),
                        selection: None,
                    })
                    .await
            }
            Err(event) => event.unwrap(),
        };
        let shown = format!("{event:?}");
        assert!(shown.contains("TimedOut"), "{transport} {fault}: {shown}");
        head_end.config.answer_timeout_ms = 60_000;
        head_end.association().await.release().await;
    }
}

#[tokio::test]
async fn lost_answers_and_requests_are_lost_in_every_transport() {
    for transport in NETWORKS {
        for (fault, resets) in [
            ("lost-ack", 1),
            ("lost-request", 0),
            ("reboot-before-ack", 1),
        ] {
            let meeting = Meeting::over(transport.clone());
            let mut rig = meeting
                .rig(|options| options.fault = Some(fault.parse().unwrap()))
                .await;
            let mut head_end = meeting.head_end(&rig);
            head_end.config.answer_timeout_ms = 500;
            let mut association = head_end.association().await;
            let answer = association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await;
            assert_eq!(answer, None, "{transport} {fault}");
            drop(association);
            if resets > 0 {
                rig.until(|what| matches!(what, Happening::Rejoin { .. }))
                    .await;
            }
            head_end.config.answer_timeout_ms = 60_000;
            let mut association = head_end.association().await;
            let failures = association.get(1, POWER_FAILURES, 2).await;
            assert_eq!(
                failures,
                Ok(Data::DoubleLongUnsigned(resets)),
                "{transport} {fault}"
            );
            drop(association);
            assert_eq!(executed(&rig.end().await), usize::try_from(resets).unwrap());
        }
    }
}

#[tokio::test]
async fn small_apdus_and_frames_force_blocks_and_segments() {
    for transport in NETWORKS {
        let meeting = Meeting::over(transport);
        let rig = meeting
            .rig(|options| {
                options.max_pdu = 128;
                options.hdlc.max_info = 64;
                options.hdlc.window = 3;
                options.hdlc.address_octets = 4;
                options.hdlc.physical = 17;
            })
            .await;
        let mut head_end = meeting.head_end(&rig);
        head_end.config.max_pdu = 128;
        visit(&mut head_end, &meeting).await;
    }
}

#[tokio::test]
async fn services_are_granted_as_the_options_say() {
    for (lists, access, blocks, gbt) in [(true, true, true, true), (false, false, false, false)] {
        let meeting = Meeting::over(Transport::Tcp);
        let rig = meeting
            .rig(|options| {
                options.services = crate::Services {
                    lists,
                    access,
                    gbt,
                    blocks,
                };
            })
            .await;
        let mut head_end = meeting.head_end(&rig);
        head_end.config.conformance = Conformance::new(0x00FF_FFFF);
        let association = head_end.association().await;
        let Some(granted) = association.granted else {
            panic!("nothing granted")
        };
        for (bit, has) in [
            (Conformance::MULTIPLE_REFERENCES, lists),
            (Conformance::ACCESS, access),
            (Conformance::BLOCK_TRANSFER_GET, blocks),
            (Conformance::BLOCK_TRANSFER_SET, blocks),
            (Conformance::GENERAL_BLOCK_TRANSFER, gbt),
            (Conformance::EVENT_NOTIFICATION, false),
        ] {
            assert_eq!(granted.contains(bit), has);
        }
    }
}

#[tokio::test]
async fn requests_that_come_twice_are_executed_once() {
    for (auth, form) in [
        (Auth::None, Protection::Plain),
        (Auth::Hls5, Protection::Glo),
    ] {
        let meeting = Meeting {
            auth,
            form,
            ..Meeting::over(Transport::Udp)
        };
        let rig = meeting.rig(|_| ()).await;
        let mut head_end = meeting.head_end(&rig);
        head_end.doubled = true;
        for _ in 0..2 {
            visit(&mut head_end, &meeting).await;
        }
        assert_eq!(executed(&rig.end().await), 2, "{meeting:?}");
    }
}

#[tokio::test]
async fn a_flood_of_strangers_crowds_nobody_out_who_speaks() {
    let meeting = Meeting::over(Transport::Udp);
    let rig = meeting.rig(|_| ()).await;
    let mut head_end = meeting.head_end(&rig);
    let mut association = head_end.association().await;
    for round in 0..4 {
        for _ in 0..20 {
            let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            stranger.send_to(b"no DLMS", rig.address).await.unwrap();
        }
        let value = association.get(70, RELAY, 2).await;
        assert_eq!(value, Ok(Data::Boolean(true)), "round {round}");
    }
}
