use super::*;

#[test]
fn keys_are_agreed_and_transferred() {
    for suite in [Suite::Suite1, Suite::Suite2] {
        let Ends {
            mut client,
            mut meter,
        } = ends(suite);
        let manner = Manner {
            control: SecurityControl::of(suite, true, true),
            ..AUTH_ENC
        };
        let unicast = KeyId::GlobalUnicastEncryption;
        let (proposal, ephemeral) = client.propose(unicast).unwrap();
        let answers = meter.accept(std::slice::from_ref(&proposal)).unwrap();
        client.agreed(&ephemeral, &answers[0]).unwrap();
        let old = protect(&mut meter, &ANSWER, manner).unwrap();
        assert_eq!(
            unprotect(&mut client, METER, &old, manner),
            Ok(ANSWER.to_vec()),
            "not in force yet"
        );
        assert_eq!((client.commit(), meter.commit()), (1, 1));
        assert_eq!(client.counters(), Counters::default());
        let new = protect(&mut client, &GET, manner).unwrap();
        assert_eq!(
            unprotect(&mut meter, CLIENT, &new, manner),
            Ok(GET.to_vec())
        );

        let mut forged = proposal;
        forged.key = KeyId::Master;
        assert_eq!(meter.accept(&[forged]), Err(CipherFailure::AuthFailed));

        let length = suite.key_len();
        let items = [
            client.transfer(KeyId::GlobalAuthentication, Secret::new(vec![5; length])),
            client.transfer(unicast, Secret::new(vec![6; length])),
        ]
        .map(Result::unwrap);
        let mut spoilt = items.to_vec();
        spoilt[1].wrapped[3] ^= 1;
        assert_eq!(meter.transferred(&spoilt), Err(CipherFailure::AuthFailed));
        assert_eq!(meter.commit(), 0, "all or none");
        meter.transferred(&items).unwrap();
        assert_eq!((client.commit(), meter.commit()), (2, 2));
        let new = protect(&mut client, &GET, manner).unwrap();
        assert_eq!(
            unprotect(&mut meter, CLIENT, &new, manner),
            Ok(GET.to_vec())
        );
        let short = client.transfer(unicast, Secret::new(vec![6; 8]));
        assert_eq!(short, Err(CipherFailure::Refused));
    }
    assert_eq!(
        ends(Suite::Suite0)
            .client
            .propose(KeyId::Master)
            .map(|_| ()),
        Err(CipherFailure::Unavailable)
    );
}

#[test]
fn both_sides_write_algorithm_ids_alike_or_do_not_meet() {
    let suite = Suite::Suite1;
    let manner = Manner {
        protection: Protection::GeneralCiphering(KeyChoice::Static),
        control: SecurityControl::of(suite, true, true),
        signed: false,
    };
    let (client, meter) = Keys::pair(suite, 1);
    let make = |own, keys: &Keys, algorithm_id| {
        let setup = Setup {
            algorithm_id,
            ..setup(suite, own)
        };
        SoftCipher::new(setup, keys.clone()).unwrap()
    };
    for (left, right) in [
        (AlgorithmId::Standard, AlgorithmId::Legacy),
        (AlgorithmId::Legacy, AlgorithmId::Legacy),
    ] {
        let apdu = protect(&mut make(CLIENT, &client, left), &GET, manner).unwrap();
        let taken = unprotect(&mut make(METER, &meter, right), CLIENT, &apdu, manner);
        assert_eq!(taken.is_ok(), left == right);
    }
}

#[test]
fn counters_are_kept_and_run_out() {
    let Ends { mut client, meter } = strangers(Suite::Suite0);
    client.resume(Counters {
        sent: u32::MAX - 1,
        received: Some(41),
    });
    let last = protect(&mut client, &GET, AUTH_ENC).unwrap();
    assert_eq!(Ciphered::decode(&last).unwrap().counter, u32::MAX);
    assert_eq!(
        protect(&mut client, &GET, AUTH_ENC),
        Err(CipherFailure::Unavailable)
    );
    let mut meter = SoftCipher::clone(&meter);
    for (sent, taken) in [(40, false), (41, true), (45, true), (45, false)] {
        meter.resume(Counters {
            sent,
            received: None,
        });
        let apdu = protect(&mut meter, &ANSWER, AUTH_ENC).unwrap();
        let result = unprotect(&mut client, METER, &apdu, AUTH_ENC);
        assert_eq!(result.is_ok(), taken, "after {sent}");
    }
    assert_eq!(client.counters().received, Some(46));
}

#[test]
fn a_window_takes_what_was_overtaken() {
    let (client, meter) = Keys::pair(Suite::Suite0, 1);
    let mut sender = SoftCipher::new(setup(Suite::Suite0, CLIENT), client).unwrap();
    let wide = Setup {
        window: 8,
        ..setup(Suite::Suite0, METER)
    };
    let mut receiver = SoftCipher::new(wide, meter).unwrap();
    let apdus = [(); 4].map(|()| protect(&mut sender, &GET, AUTH_ENC).unwrap());
    for (at, taken) in [
        (2, true),
        (0, true),
        (0, false),
        (3, true),
        (1, true),
        (2, false),
    ] {
        let result = unprotect(&mut receiver, CLIENT, &apdus[at], AUTH_ENC);
        assert_eq!(result.is_ok(), taken, "{at}");
    }
}

#[test]
fn keys_belong_to_their_suite() {
    let (good, _) = Keys::pair(Suite::Suite1, 1);
    assert_eq!(good.check(Suite::Suite1), Ok(()));
    assert!(matches!(
        good.check(Suite::Suite2),
        Err(KeyError::Length {
            which: "encryption",
            expected: 32,
            found: 16,
            ..
        })
    ));
    let curve = Keys {
        encryption: None,
        authentication: None,
        broadcast: None,
        master: None,
        ..good.clone()
    };
    assert!(matches!(
        curve.check(Suite::Suite2),
        Err(KeyError::Curve {
            which: "signing",
            ..
        })
    ));
    for length in [0, 65] {
        let keys = Keys {
            hls_secret: Some(Secret::new(vec![1; length])),
            ..good.clone()
        };
        assert_eq!(
            keys.check(Suite::Suite1),
            Err(KeyError::HlsSecret { found: length })
        );
    }
    for wrong in [&[0; 32][..], &[0xFF; 32], &[1; 31], &[0; 48]] {
        assert!(PrivateKey::from_octets(wrong).is_none());
    }
    assert!(
        PublicKey::from_octets(&[1; 64]).is_none(),
        "not on the curve"
    );
    assert!(wrap(&[1; 16], &[1; 8]).is_none() && unwrap(&[1; 24], &[1; 24]).is_none());
}

#[test]
fn nothing_shows_a_key() {
    let mut ends = ends(Suite::Suite1);
    let (_, ephemeral) = ends.client.propose(KeyId::Master).unwrap();
    let keys = Keys {
        encryption: Some([0xAB; 16].into()),
        hls_secret: Some(Secret::new(b"very secret".to_vec())),
        ..Keys::pair(Suite::Suite1, 1).0
    };
    let shown = format!("{:?} {keys:?} {ephemeral:?}", ends.client);
    for secret in ["171", "AB", "very", "118, 101"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
