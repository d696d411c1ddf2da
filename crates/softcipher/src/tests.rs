use dlms::{
    CipherFailure, CipherOp, CipherOutput, Ciphered, Conformance, KeyChoice, Mechanism, Protection,
    SecurityControl, Suite, SystemTitle,
    agreement::{AlgorithmId, KeyId},
    initiate::InitiateRequest,
    security::{Envelope, GeneralCiphering, GeneralSigning, KeyInfo},
};

use super::*;

mod keys;
mod tokens;

const CLIENT: SystemTitle = SystemTitle::new(*b"LKHcli01");
const METER: SystemTitle = SystemTitle::new(*b"LKMmet01");
const SUITES: [Suite; 3] = [Suite::Suite0, Suite::Suite1, Suite::Suite2];
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
const GET: [u8; 13] = [0xC0, 1, 0xC1, 0, 8, 0, 0, 1, 0, 0, 255, 2, 0];
const ANSWER: [u8; 5] = [0xC4, 1, 0xC1, 0, 0];

/// A manner of protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manner {
    protection: Protection,
    control: SecurityControl,
    signed: bool,
}

/// A client and its meter, with the dedicated key of an association in force.
struct Ends {
    client: SoftCipher,
    meter: SoftCipher,
}

fn setup(suite: Suite, own: SystemTitle) -> Setup {
    Setup {
        peer: Some(if own == CLIENT { METER } else { CLIENT }),
        ..Setup::new(suite, own)
    }
}

fn strangers(suite: Suite) -> Ends {
    let (client, meter) = Keys::pair(suite, 1);
    Ends {
        client: SoftCipher::new(setup(suite, CLIENT), client)
            .unwrap()
            .seeded(2),
        meter: SoftCipher::new(setup(suite, METER), meter)
            .unwrap()
            .seeded(3),
    }
}

fn ends(suite: Suite) -> Ends {
    let mut ends = strangers(suite);
    let manner = Manner {
        protection: Protection::Ded,
        control: SecurityControl::of(suite, true, true),
        signed: false,
    };
    let request = InitiateRequest::new(Conformance::RESET, 500).encode();
    let opening = protect(&mut ends.client, &request, manner).unwrap();
    let plain = unprotect(&mut ends.meter, CLIENT, &opening, manner).unwrap();
    let key = InitiateRequest::decode(&plain).unwrap().dedicated_key;
    assert_eq!(key.map(|key| key.len()), Some(suite.key_len()));
    ends
}

fn protect(cipher: &mut SoftCipher, apdu: &[u8], manner: Manner) -> Result<Vec<u8>, CipherFailure> {
    let output = cipher.run(CipherOp::Protect {
        apdu: apdu.to_vec(),
        protection: manner.protection,
        control: manner.control,
        signed: manner.signed,
    })?;
    match output {
        CipherOutput::Apdu(apdu, _) => Ok(apdu),
        other => panic!("{other:?}"),
    }
}

fn unprotect(
    cipher: &mut SoftCipher,
    peer_title: SystemTitle,
    apdu: &[u8],
    manner: Manner,
) -> Result<Vec<u8>, CipherFailure> {
    let output = cipher.run(CipherOp::Unprotect {
        apdu: apdu.to_vec(),
        peer_title,
        protection: manner.protection,
        control: manner.control,
        signed: manner.signed,
    })?;
    match output {
        CipherOutput::Apdu(apdu, _) => Ok(apdu),
        other => panic!("{other:?}"),
    }
}

/// Every manner that a suite has, plain ones too.
fn manners(suite: Suite) -> Vec<Manner> {
    let mut all = vec![];
    for signed in [false, true] {
        for (auth, enc) in [(true, true), (true, false), (false, true)] {
            let control = SecurityControl::of(suite, auth, enc);
            all.extend(FORMS.map(|protection| Manner {
                protection,
                control,
                signed,
            }));
        }
        all.push(Manner {
            protection: Protection::Plain,
            control: SecurityControl::of(suite, true, true),
            signed,
        });
    }
    all.retain(|manner| {
        let curve = matches!(
            manner.protection,
            Protection::GeneralCiphering(KeyChoice::OnePass | KeyChoice::Static)
        );
        suite != Suite::Suite0 || !(curve || manner.signed)
    });
    all
}

#[test]
fn every_manner_arrives_both_ways_and_once() {
    for suite in SUITES {
        let Ends {
            mut client,
            mut meter,
        } = ends(suite);
        for manner in manners(suite) {
            let request = protect(&mut client, &GET, manner).unwrap();
            assert_eq!(
                unprotect(&mut meter, CLIENT, &request, manner),
                Ok(GET.to_vec()),
                "{manner:?}"
            );
            let answer = protect(&mut meter, &ANSWER, manner).unwrap();
            assert_eq!(
                unprotect(&mut client, METER, &answer, manner),
                Ok(ANSWER.to_vec()),
                "{manner:?}"
            );
            if manner.protection != Protection::Plain {
                for (cipher, peer, apdu) in [
                    (&mut meter, CLIENT, &request),
                    (&mut client, METER, &answer),
                ] {
                    let again = unprotect(cipher, peer, apdu, manner);
                    assert!(
                        matches!(again, Err(CipherFailure::Replay { .. })),
                        "{manner:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_sent_is_as_long_as_foreseen() {
    for suite in SUITES {
        let mut client = ends(suite).client;
        for manner in manners(suite) {
            for length in [13, 100, 130, 250, 1000] {
                let plain = [&GET[..], &vec![0; length - 13]].concat();
                let apdu = protect(&mut client, &plain, manner).unwrap();
                let inner = length + manner.protection.overhead(manner.control, length);
                let outer = if manner.signed {
                    GeneralSigning::overhead(suite, inner)
                } else {
                    0
                };
                assert_eq!(apdu.len(), inner + outer, "{manner:?} {length}");
            }
        }
    }
}

/// Whatever is asked, nothing that was protected otherwise is taken: not less, not more, not in another suite. The two
/// forms of one key are the same protection.
#[test]
fn nothing_else_than_asked_is_taken() {
    for suite in [Suite::Suite0, Suite::Suite1] {
        let Ends { mut client, meter } = ends(suite);
        let all = manners(suite);
        for sent in &all {
            let apdu = protect(&mut client, &GET, *sent).unwrap();
            for asked in &all {
                // without ciphering there is no control octet to differ
                let plain =
                    sent.protection == Protection::Plain && asked.protection == sent.protection;
                let good = sent.protection.is_as_good_as(asked.protection)
                    && sent.control == asked.control;
                let same = (good || plain) && sent.signed == asked.signed;
                let before = meter.counters();
                let mut meter = meter.clone();
                let taken = unprotect(&mut meter, CLIENT, &apdu, *asked);
                assert_eq!(taken.is_ok(), same, "sent {sent:?}, asked {asked:?}");
                if !same {
                    assert_eq!(taken, Err(CipherFailure::AuthFailed));
                    assert_eq!(meter.counters(), before);
                }
            }
        }
    }
    let mut zero = ends(Suite::Suite0).client;
    let mut one = ends(Suite::Suite1).meter;
    let manner = Manner {
        protection: Protection::Glo,
        control: SecurityControl::AUTH_ENC,
        signed: false,
    };
    let apdu = protect(&mut zero, &GET, manner).unwrap();
    assert!(
        unprotect(&mut one, CLIENT, &apdu, manner).is_err(),
        "a suite of other keys"
    );
}

#[test]
fn no_changed_octet_is_taken_and_none_counts() {
    for suite in [Suite::Suite0, Suite::Suite1] {
        let Ends { mut client, meter } = ends(suite);
        for manner in manners(suite) {
            let authentic = manner.signed
                || (manner.protection != Protection::Plain && manner.control.is_authenticated());
            if !authentic {
                continue;
            }
            let good = protect(&mut client, &GET, manner).unwrap();
            let slow = manner.signed
                || manner.protection == Protection::GeneralCiphering(KeyChoice::OnePass);
            for at in (0..good.len()).step_by(if slow { 7 } else { 1 }) {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                let mut meter = meter.clone();
                let before = meter.counters();
                let taken = unprotect(&mut meter, CLIENT, &bad, manner);
                assert!(taken.is_err(), "{manner:?} octet {at}");
                assert_eq!(meter.counters(), before, "{manner:?} octet {at}");
                assert_eq!(
                    unprotect(&mut meter, CLIENT, &good, manner),
                    Ok(GET.to_vec()),
                    "{manner:?} after octet {at}"
                );
            }
            for end in 0..good.len() {
                assert!(unprotect(&mut meter.clone(), CLIENT, &good[..end], manner).is_err());
            }
        }
    }
}

const AUTH_ENC: Manner = Manner {
    protection: Protection::Glo,
    control: SecurityControl::AUTH_ENC,
    signed: false,
};

#[test]
fn peers_are_who_they_say_and_nobody_is_himself() {
    let Ends {
        mut client,
        mut meter,
    } = ends(Suite::Suite0);
    let general = Manner {
        protection: Protection::GeneralGlo,
        ..AUTH_ENC
    };
    let good = protect(&mut client, &GET, general).unwrap();
    let stranger = SystemTitle::new([9; 8]);
    for peer in [stranger, METER] {
        assert_eq!(
            unprotect(&mut meter, peer, &good, general),
            Err(CipherFailure::AuthFailed)
        );
    }
    let mut ciphered = Ciphered::decode(&good).unwrap();
    ciphered.title = Some(stranger);
    assert!(unprotect(&mut meter, CLIENT, &ciphered.encode(), general).is_err());
    // one that leaves its title out is taken for the one it is expected to be
    ciphered.title = None;
    assert_eq!(
        unprotect(&mut meter, CLIENT, &ciphered.encode(), general),
        Ok(GET.to_vec())
    );
    let reflected = protect(&mut meter, &ANSWER, general).unwrap();
    assert!(unprotect(&mut meter, METER, &reflected, general).is_err());
}

#[test]
fn compression_other_suites_and_no_protection_are_refused() {
    let mut client = ends(Suite::Suite0).client;
    for octet in [0xB0, 0x00, 0x31, 0x33, 0x40] {
        let manner = Manner {
            control: SecurityControl::new(octet),
            ..AUTH_ENC
        };
        assert_eq!(
            protect(&mut client, &GET, manner),
            Err(CipherFailure::Refused),
            "{octet:02X}"
        );
    }
    for apdu in [&[][..], &[0xD8, 1, 1], &[0x60, 0], &[0xDB, 0], &[0xD9, 0]] {
        assert_eq!(
            protect(&mut client, apdu, AUTH_ENC),
            Err(CipherFailure::Refused),
            "{apdu:02X?}"
        );
    }
}

#[test]
fn the_broadcast_key_has_counters_of_its_own() {
    let Ends {
        mut client,
        mut meter,
    } = ends(Suite::Suite0);
    let broadcast = Manner {
        control: SecurityControl::new(0x70),
        ..AUTH_ENC
    };
    let before = (client.counters(), meter.counters());
    let apdu = protect(&mut client, &GET, broadcast).unwrap();
    assert_eq!(Envelope::of(&apdu).unwrap().counter, Some(1));
    assert_eq!(
        unprotect(&mut meter, CLIENT, &apdu, broadcast),
        Ok(GET.to_vec())
    );
    assert!(unprotect(&mut meter, CLIENT, &apdu, broadcast).is_err());
    assert_eq!((client.counters(), meter.counters()), before);
    for protection in [Protection::Ded, FORMS[4]] {
        let manner = Manner {
            protection,
            ..broadcast
        };
        assert_eq!(
            protect(&mut client, &GET, manner),
            Err(CipherFailure::Refused)
        );
    }
}

#[test]
fn dedicated_keys_are_fresh_and_never_in_clear() {
    let mut ends = strangers(Suite::Suite0);
    let ded = Manner {
        protection: Protection::Ded,
        ..AUTH_ENC
    };
    assert_eq!(
        protect(&mut ends.client, &GET, ded),
        Err(CipherFailure::Unavailable)
    );
    let request = InitiateRequest::new(Conformance::RESET, 500);
    let clear = Manner {
        control: SecurityControl::AUTH,
        ..ded
    };
    let plain = request.encode();
    assert_eq!(
        protect(&mut ends.client, &plain, clear),
        Err(CipherFailure::Refused)
    );
    let mut keys = vec![];
    for _ in 0..2 {
        let opening = protect(&mut ends.client, &plain, ded).unwrap();
        let plain = unprotect(&mut ends.meter, CLIENT, &opening, ded).unwrap();
        let request = InitiateRequest::decode(&plain).unwrap();
        keys.push(request.dedicated_key.unwrap());
        let apdu = protect(&mut ends.client, &GET, ded).unwrap();
        assert_eq!(
            Envelope::of(&apdu).unwrap().counter,
            Some(1),
            "counters of its own"
        );
        assert!(unprotect(&mut ends.meter, CLIENT, &apdu, ded).is_ok());
    }
    assert_ne!(keys[0], keys[1]);
    // an association without one ends the one before
    let opening = protect(&mut ends.client, &plain, AUTH_ENC).unwrap();
    unprotect(&mut ends.meter, CLIENT, &opening, AUTH_ENC).unwrap();
    let apdu = protect(&mut ends.client, &GET, ded).unwrap();
    let refused = unprotect(&mut ends.meter, CLIENT, &apdu, ded);
    assert_eq!(refused, Err(CipherFailure::Unavailable));
    let mut short = request;
    short.dedicated_key = Some(vec![1; 15]);
    let opening = protect(&mut ends.client, &short.encode(), AUTH_ENC).unwrap();
    assert_eq!(
        unprotect(&mut ends.meter, CLIENT, &opening, ded),
        Err(CipherFailure::Refused)
    );
}

#[test]
fn associations_at_once_have_a_dedicated_key_each_and_counters_in_common() {
    let (mut ends, other) = (strangers(Suite::Suite0), strangers(Suite::Suite0));
    let ded = Manner {
        protection: Protection::Ded,
        ..AUTH_ENC
    };
    let plain = InitiateRequest::new(Conformance::RESET, 500).encode();
    let mut clients = [ends.client, other.client.seeded(8)];
    clients[1].resume(Counters {
        sent: 50,
        received: None,
    });
    let mut sessions = [Session::default(), Session::default()];
    let mut ask = |session: &mut Session, apdu: Vec<u8>| {
        let op = CipherOp::Unprotect {
            apdu,
            peer_title: CLIENT,
            protection: Protection::Ded,
            control: SecurityControl::AUTH_ENC,
            signed: false,
        };
        ends.meter.run_in(session, op)
    };
    for (client, session) in clients.iter_mut().zip(&mut sessions) {
        let opening = protect(client, &plain, ded).unwrap();
        assert!(ask(session, opening.clone()).is_ok());
        assert!(matches!(
            ask(session, opening),
            Err(CipherFailure::Replay { .. })
        ));
    }
    let apdus = clients
        .each_mut()
        .map(|client| protect(client, &GET, ded).unwrap());
    assert_eq!(
        ask(&mut sessions[1], apdus[0].clone()),
        Err(CipherFailure::AuthFailed)
    );
    for (session, apdu) in sessions.iter_mut().zip(apdus) {
        assert_eq!(ask(session, apdu), Ok(CipherOutput::Apdu(GET.to_vec(), 1)));
    }
    assert_eq!(ends.meter.counters().received, Some(51));
}

#[test]
fn ephemeral_keys_need_their_owners_signature() {
    let choice = KeyChoice::OnePass;
    let Ends {
        mut client,
        mut meter,
    } = ends(Suite::Suite1);
    let manner = Manner {
        protection: Protection::GeneralCiphering(choice),
        control: SecurityControl::of(Suite::Suite1, true, true),
        signed: false,
    };
    // the keys of somebody else, whose agreement key the meter would even compute with
    let (other, _) = Keys::pair(Suite::Suite1, 99);
    let (mut known, _) = Keys::pair(Suite::Suite1, 1);
    known.signing = other.signing;
    let mut forger = SoftCipher::new(setup(Suite::Suite1, CLIENT), known).unwrap();
    forger.resume(client.counters());
    let forged = protect(&mut forger, &GET, manner).unwrap();
    assert_eq!(
        unprotect(&mut meter, CLIENT, &forged, manner),
        Err(CipherFailure::AuthFailed)
    );
    let good = protect(&mut client, &GET, manner).unwrap();
    let mut changed = GeneralCiphering::decode(&good).unwrap();
    changed.key_info = Some(KeyInfo::one_pass(vec![4; 128]));
    assert!(unprotect(&mut meter, CLIENT, &changed.encode(), manner).is_err());
    changed.key_info = None;
    assert!(unprotect(&mut meter, CLIENT, &changed.encode(), manner).is_err());
    assert_eq!(
        unprotect(&mut meter, CLIENT, &good, manner),
        Ok(GET.to_vec())
    );
}

#[test]
fn an_answer_is_of_the_transaction_of_its_request() {
    let Ends {
        mut client,
        mut meter,
    } = ends(Suite::Suite0);
    let manner = Manner {
        protection: FORMS[4],
        ..AUTH_ENC
    };
    for _ in 0..2 {
        let request = protect(&mut client, &GET, manner).unwrap();
        unprotect(&mut meter, CLIENT, &request, manner).unwrap();
        let answer = protect(&mut meter, &ANSWER, manner).unwrap();
        let [request, answer] =
            [request, answer].map(|apdu| GeneralCiphering::decode(&apdu).unwrap().header);
        assert_eq!(request.transaction_id, answer.transaction_id);
        assert_eq!(answer.originator, request.recipient);
    }
}
