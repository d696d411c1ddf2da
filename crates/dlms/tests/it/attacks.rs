//! What a client refuses: other keys, weaker terms, its own words sent back.

use dlms::acse::{Aare, AssociationResult, Diagnostic};
use dlms::client::Event;
use dlms::{
    ActionResult, ApplicationContext, Cause, CauseClass, CipherFailure, CipherOutput, Ciphered,
    Data, Error, Exception, Frame, InvokeId, Mechanism, Protection, Request, Response,
    SecurityControl, SystemTitle,
};

use crate::pair::{
    CLIENT_TITLE, CTOS, METER_TITLE, Pair, action, client_config, get, meter_config,
};

fn frame(apdu: Vec<u8>) -> Vec<u8> {
    Frame {
        source: 1,
        destination: 1,
        apdu,
    }
    .encode()
    .unwrap()
}

/// Opens an HLS5 association whose AARE is bent on its way.
fn with_aare(protection: Protection, bend: impl Fn(&mut Aare) + 'static) -> Pair {
    let mut pair = Pair::new(Mechanism::HlsGmac, protection);
    pair.to_client = Box::new(move |octets| {
        if octets[8] != 0x61 {
            return vec![octets];
        }
        let mut aare = Aare::decode(&octets[8..]).unwrap();
        bend(&mut aare);
        vec![frame(aare.encode())]
    });
    pair.open();
    pair
}

/// An open association whose next answer is bent on its way.
fn with_answer(protection: Protection, bend: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> Pair {
    let mut pair = Pair::opened(Mechanism::HlsGmac, protection);
    pair.to_client = Box::new(move |octets| vec![frame(bend(octets[8..].to_vec()))]);
    pair.request(action());
    pair
}

fn other_keys(pair: &mut Pair, change: fn(&mut softcipher::Setup, &mut softcipher::Keys)) {
    pair.client_keys.change(change);
}

#[test]
fn wrong_keys_and_titles_end_in_a_security_cause() {
    let change: [fn(&mut Pair); 4] = [
        |pair| other_keys(pair, |_, keys| keys.encryption = Some([9; 16].into())),
        |pair| other_keys(pair, |_, keys| keys.authentication = Some([9; 16].into())),
        |pair| other_keys(pair, |setup, _| setup.own = SystemTitle::new([9; 8])),
        |pair| {
            pair.client_keys.set_sent(4);
            pair.meter_keys.set_received(290);
        },
    ];
    for (index, change) in change.into_iter().enumerate() {
        let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
        change(&mut pair);
        pair.open();
        let cause = pair.failure();
        let expected = if index == 3 {
            Exception::invocation_counter(291)
        } else {
            Exception::DECIPHERING
        };
        assert_eq!(cause, Cause::NotOpened(expected));
        assert_eq!(cause.class(), CauseClass::Security);
        assert!(pair.asked.is_empty());
    }
}

#[test]
fn a_meter_without_the_keys_cannot_answer() {
    for during in [0, 1, 2] {
        let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
        if during == 0 {
            pair.client_keys.fails = None;
            pair.to_client = Box::new(|mut octets| {
                let last = octets.len() - 1;
                octets[last] ^= 1;
                vec![octets]
            });
            pair.open();
        } else {
            pair.open();
            pair.event();
            pair.meter_keys.set_sent(pair.meter_keys.sent() + 10);
            let forged = if during == 1 {
                pair.meter_keys.clone()
            } else {
                pair.client_keys.clone()
            };
            pair.to_client = Box::new(move |_| {
                let mut forger = forged.clone();
                forger.change(|_, keys| keys.encryption = Some([9; 16].into()));
                vec![frame(forger.protect(
                    &[0xC7, 1, 0xC2, 0, 0],
                    Protection::Glo,
                    50,
                ))]
            });
            pair.request(action());
        }
        let cause = pair.failure();
        assert!(
            matches!(
                cause,
                Cause::Cipher {
                    failure: CipherFailure::AuthFailed,
                    ..
                }
            ),
            "{cause}"
        );
        assert_eq!(cause.class(), CauseClass::Security);
    }
}

#[test]
fn a_weaker_context_is_refused() {
    for (protection, granted) in [
        (Protection::Glo, ApplicationContext::LogicalName),
        (
            Protection::GeneralGlo,
            ApplicationContext::ShortNameCiphered,
        ),
        (Protection::Plain, ApplicationContext::LogicalNameCiphered),
    ] {
        let mut pair = with_aare(protection, move |aare| aare.context = granted);
        assert!(
            matches!(pair.failure(), Cause::ContextDowngrade { granted: found, .. } if found == granted)
        );
    }
}

#[test]
fn another_mechanism_is_refused() {
    let mut pair = with_aare(Protection::Glo, |aare| {
        aare.mechanism = Some(Mechanism::Low)
    });
    assert!(matches!(
        pair.failure(),
        Cause::MechanismDowngrade {
            granted: Some(Mechanism::Low),
            ..
        }
    ));

    let mut pair = Pair::new(Mechanism::None, Protection::Plain);
    pair.to_client = Box::new(|octets| {
        let mut aare = Aare::decode(&octets[8..]).unwrap();
        aare.diagnostic = Diagnostic::AUTHENTICATION_REQUIRED;
        vec![frame(aare.encode())]
    });
    pair.open();
    assert!(matches!(
        pair.failure(),
        Cause::MechanismDowngrade { granted: None, .. }
    ));
}

#[test]
fn our_own_words_sent_back_are_refused() {
    let mut pair = with_aare(Protection::Glo, |aare| {
        aare.authentication_value = Some(CTOS.to_vec())
    });
    assert_eq!(pair.failure(), Cause::Reflected { what: "challenge" });

    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.expected_server_title = None;
    let mut pair = Pair::with(config, meter_config(Mechanism::HlsGmac, true));
    pair.to_client = Box::new(|octets| {
        let mut aare = Aare::decode(&octets[8..]).unwrap();
        aare.responding_title = Some(CLIENT_TITLE);
        vec![frame(aare.encode())]
    });
    pair.open();
    assert_eq!(
        pair.failure(),
        Cause::Reflected {
            what: "system title"
        }
    );

    // in a plain HLS5 association an attacker can put our own token into pass 4
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    let own = pair.client_keys.token(crate::pair::STOC, 1);
    pair.to_client = Box::new(move |octets| {
        let Ok(Response::Action { invoke, result, .. }) = Response::decode(&octets[8..]) else {
            return vec![octets];
        };
        let data = Some(Ok(Data::OctetString(own.clone())));
        vec![frame(
            Response::Action {
                invoke,
                result,
                data,
            }
            .encode(),
        )]
    });
    pair.open();
    assert_eq!(pair.failure(), Cause::Reflected { what: "token" });
}

#[test]
fn another_meter_is_refused() {
    let found = SystemTitle::new(*b"XYZ12345");
    let mut pair = with_aare(Protection::Glo, move |aare| {
        aare.responding_title = Some(found)
    });
    assert_eq!(
        pair.failure(),
        Cause::WrongServerTitle {
            expected: METER_TITLE,
            found
        }
    );

    let mut pair = with_answer(Protection::GeneralGlo, move |apdu| {
        let mut ciphered = Ciphered::decode(&apdu).unwrap();
        ciphered.title = Some(found);
        ciphered.encode()
    });
    assert_eq!(
        pair.failure(),
        Cause::WrongServerTitle {
            expected: METER_TITLE,
            found
        }
    );
}

#[test]
fn an_empty_title_in_general_glo_is_the_meters_own() {
    let mut pair = with_answer(Protection::GeneralGlo, |apdu| {
        let mut ciphered = Ciphered::decode(&apdu).unwrap();
        ciphered.title = None;
        ciphered.encode()
    });
    assert!(matches!(pair.event(), Event::Answered(_)));
}

#[test]
fn challenges_out_of_bounds_are_refused() {
    for found in [0, 7, 65] {
        let mut pair = with_aare(Protection::Glo, move |aare| {
            aare.authentication_value = Some(vec![1; found])
        });
        assert_eq!(pair.failure(), Cause::BadChallenge { found });
    }
    let mut pair = with_aare(Protection::Plain, |aare| aare.authentication_value = None);
    assert_eq!(pair.failure(), Cause::BadChallenge { found: 0 });
}

#[test]
fn answers_that_are_not_protected_as_they_must_be_are_refused() {
    let mut pair = with_answer(Protection::Glo, |_| vec![0xC7, 1, 0xC2, 0, 0]);
    assert_eq!(pair.failure(), Cause::Unprotected { tag: 0xC7 });

    for octet in [0x00, 0x10, 0x20, 0x31, 0x70, 0xB0] {
        let mut pair = with_answer(Protection::Glo, move |apdu| {
            let mut ciphered = Ciphered::decode(&apdu).unwrap();
            ciphered.control = SecurityControl::new(octet);
            ciphered.encode()
        });
        let cause = pair.failure();
        assert!(
            matches!(cause, Cause::WrongProtection { found, .. } if found.octet() == octet),
            "{cause}"
        );
    }

    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    pair.to_client = Box::new(|octets| {
        let mut ciphered = Ciphered::decode(&octets[8..]).unwrap();
        ciphered.tag = 0xCC;
        vec![frame(ciphered.encode())]
    });
    pair.client.request(pair.now, action()).unwrap();
    let dlms::Effect::Cipher(job) = pair.client.poll().unwrap() else {
        panic!("no job");
    };
    let protected = pair.client_keys.run(job.op);
    pair.client.handle_cipher(pair.now, job.id, protected);
    pair.client_keys.opens_as = Some(vec![0xC7, 1, 0xC1, 0, 0]);
    pair.run();
    assert_eq!(
        pair.failure(),
        Cause::WrongTag {
            found: 0xCC,
            inside: 0xC7
        }
    );

    let mut pair = with_aare(Protection::Glo, |aare| {
        aare.user_information =
            Some(dlms::initiate::InitiateResponse::new(dlms::Conformance::RESET, 0).encode());
    });
    assert_eq!(pair.failure(), Cause::Unprotected { tag: 0x08 });
}

#[test]
fn an_exception_in_a_ciphered_association_is_a_hint_that_ends_it() {
    let mut pair = with_answer(Protection::Glo, |_| vec![0xD8, 1, 6, 0, 0, 1, 0x23]);
    let cause = pair.failure();
    assert_eq!(
        cause,
        Cause::Exception(Exception::invocation_counter(0x123))
    );
    assert_eq!(cause.class(), CauseClass::Security);

    let mut pair = with_answer(Protection::Plain, |_| vec![0xD8, 1, 2]);
    assert_eq!(
        pair.event(),
        Event::Answered(Response::Exception(Exception::NOT_SUPPORTED))
    );
    assert!(pair.client.is_ready());
}

#[test]
fn an_answer_with_another_invoke_id_is_dropped() {
    for protection in [Protection::Plain, Protection::Glo] {
        let mut pair = Pair::opened(Mechanism::None, protection);
        pair.to_meter = Box::new(|_| vec![]);
        pair.request(get());
        let mut answer = |invoke, counter| {
            let data = Data::Unsigned(invoke);
            let apdu = Response::GetData {
                invoke: InvokeId::from_octet(invoke),
                data,
            }
            .encode();
            let keys = pair.meter_keys.clone();
            let apdu = if protection.is_ciphered() {
                keys.protect(&apdu, protection, counter)
            } else {
                apdu
            };
            pair.inject(apdu);
            pair.events.len()
        };
        assert_eq!((answer(0xC2, 10), answer(0x45, 11)), (0, 0));
        // the priority bit may differ: jDLMS clears it
        assert_eq!(answer(0x41, 12), 1);
        assert_eq!(pair.value(), Data::Unsigned(0x41));
    }
}

#[test]
fn an_answer_of_another_service_fails() {
    let mut pair = with_answer(Protection::Plain, |apdu| {
        let invoke = Response::decode(&apdu).unwrap().invoke().unwrap();
        Response::GetData {
            invoke,
            data: Data::Null,
        }
        .encode()
    });
    assert!(matches!(pair.failure(), Cause::Mismatch(_)));
}

#[test]
fn a_meter_that_accepts_pass_3_must_prove_itself() {
    type Bend = fn(InvokeId) -> Response;
    let bent: [(Bend, Cause); 4] = [
        (
            |invoke| Response::Action {
                invoke,
                result: ActionResult::SUCCESS,
                data: None,
            },
            Cause::NoServerProof,
        ),
        (
            |invoke| {
                let data = Some(Ok(Data::OctetString(vec![0x10; 17])));
                Response::Action {
                    invoke,
                    result: ActionResult::SUCCESS,
                    data,
                }
            },
            Cause::NoServerProof,
        ),
        (
            |invoke| Response::Action {
                invoke,
                result: ActionResult::READ_WRITE_DENIED,
                data: None,
            },
            Cause::AuthenticationRefused(ActionResult::READ_WRITE_DENIED),
        ),
        (
            |_| Response::Exception(Exception::NOT_POSSIBLE),
            Cause::Exception(Exception::NOT_POSSIBLE),
        ),
    ];
    for (bend, cause) in bent {
        let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
        pair.to_client = Box::new(move |octets| match Response::decode(&octets[8..]) {
            Ok(response) => vec![frame(bend(response.invoke().unwrap()).encode())],
            Err(_) => vec![octets],
        });
        pair.open();
        assert_eq!(pair.failure(), cause);
    }
}

#[test]
fn a_refusing_meter_is_quoted() {
    let mut pair = with_aare(Protection::Glo, |aare| {
        aare.result = AssociationResult::RejectedTransient;
        aare.diagnostic = Diagnostic::NO_REASON;
        aare.user_information = Some(vec![0x0E, 1, 6, 3]);
    });
    let cause = pair.failure();
    assert_eq!(cause.class(), CauseClass::Refused);
    assert_eq!(
        cause.to_string(),
        "the meter refused the association: RejectedTransient, no-reason-given (1), pdu-size-too-short"
    );
    // a rejection may be ciphered, or say nothing more
    for information in [None, Some(vec![0x28, 1, 1])] {
        let mut pair = with_aare(Protection::Glo, move |aare| {
            aare.result = AssociationResult::RejectedPermanent;
            aare.diagnostic = Diagnostic::AUTHENTICATION_FAILURE;
            aare.user_information.clone_from(&information);
        });
        assert_eq!(pair.failure().class(), CauseClass::Security);
    }
}

#[test]
fn a_clear_apdu_never_leaves_by_a_mistake_of_the_key_holder() {
    let ciphered = |tag, title, control| {
        let body = vec![0; 20];
        Ciphered {
            tag,
            title,
            control,
            counter: 1,
            body,
        }
        .encode()
    };
    let (good, stranger) = (SecurityControl::AUTH_ENC, SystemTitle::new([9; 8]));
    for (protection, output) in [
        (Protection::Glo, None),
        (Protection::Glo, Some(vec![])),
        (
            Protection::Glo,
            Some(ciphered(0xC8, None, SecurityControl::AUTH)),
        ),
        (Protection::Glo, Some(ciphered(0xCB, None, good))),
        (
            Protection::Glo,
            Some(ciphered(0xDB, Some(CLIENT_TITLE), good)),
        ),
        (
            Protection::GeneralGlo,
            Some(ciphered(0xDB, Some(stranger), good)),
        ),
    ] {
        let mut client = Pair::opened(Mechanism::None, protection).client;
        client.request(0, get()).unwrap();
        let Some(dlms::Effect::Cipher(job)) = client.poll() else {
            panic!("no job")
        };
        let dlms::CipherOp::Protect { apdu, .. } = job.op else {
            panic!("another job")
        };
        client.handle_cipher(0, job.id, Ok(CipherOutput::Apdu(output.unwrap_or(apdu), 1)));
        assert!(matches!(
            client.cause(),
            Some(Cause::BadCipherOutput { .. })
        ));
        assert!(
            !core::iter::from_fn(|| client.poll())
                .any(|effect| matches!(effect, dlms::Effect::Transmit(_)))
        );
    }
}

#[test]
fn junk_and_an_unusable_initiate_response_are_named() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    pair.client.handle_bytes(0, &[0, 2]);
    pair.run();
    assert!(matches!(
        pair.failure(),
        Cause::Malformed(Error::Unexpected { offset: 1, .. })
    ));

    let bend: [fn(&mut dlms::initiate::InitiateResponse); 2] =
        [|it| it.version = 5, |it| it.max_pdu = 11];
    for bend in bend {
        let mut pair = with_aare(Protection::Plain, move |aare| {
            let mut response = dlms::initiate::InitiateResponse::new(dlms::Conformance::RESET, 0);
            bend(&mut response);
            aare.user_information = Some(response.encode());
        });
        assert!(matches!(pair.failure(), Cause::BadInitiate(_)));
    }
    let mut pair = with_aare(Protection::Plain, |aare| aare.user_information = None);
    assert!(matches!(pair.failure(), Cause::BadInitiate(_)));
}

#[test]
fn nothing_secret_is_shown() {
    let mut pair = Pair::new(Mechanism::Low, Protection::Plain);
    pair.client.open(0);
    let mut shown = format!(
        "{:?} {:?}",
        client_config(Mechanism::Low, Protection::Plain),
        pair.client
    );
    while let Some(effect) = pair.client.poll() {
        shown += &format!("{effect:?}");
        if let dlms::Effect::Transmit(octets) = effect {
            shown += &format!("{:?}", dlms::acse::Aarq::decode(&octets[8..]).unwrap());
        }
    }
    shown += &format!("{:?}", meter_config(Mechanism::Low, false));
    let op = dlms::CipherOp::Protect {
        apdu: b"12345678".to_vec(),
        protection: Protection::Glo,
        control: SecurityControl::AUTH_ENC,
        signed: false,
    };
    shown += &format!("{op:?} {:?}", CipherOutput::Apdu(b"12345678".to_vec(), 1));
    for secret in ["12345678", "49, 50, 51", "3132"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(matches!(Request::decode(&[]), Err(Error::Truncated { .. })));
}
