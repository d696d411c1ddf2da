use super::*;

const HIGH: [Mechanism; 5] = [
    Mechanism::HlsMd5,
    Mechanism::HlsSha1,
    Mechanism::HlsGmac,
    Mechanism::HlsSha256,
    Mechanism::HlsEcdsa,
];

fn answer(mechanism: Mechanism, suite: Suite, challenge: &[u8], own: &[u8]) -> CipherOp {
    CipherOp::Answer {
        peer_certificate: None,
        mechanism,
        challenge: challenge.to_vec(),
        own_challenge: own.to_vec(),
        peer_title: METER,
        suite,
    }
}

fn verify(
    mechanism: Mechanism,
    suite: Suite,
    token: &[u8],
    challenge: &[u8],
    peer: &[u8],
) -> CipherOp {
    CipherOp::Verify {
        mechanism,
        token: token.to_vec(),
        challenge: challenge.to_vec(),
        peer_challenge: peer.to_vec(),
        peer_title: CLIENT,
        suite,
    }
}

#[test]
fn tokens_are_of_their_challenge_their_maker_and_their_mechanism() {
    let (stoc, ctos) = ([1; 32], [2; 32]);
    for suite in SUITES {
        let Ends {
            mut client,
            mut meter,
        } = strangers(suite);
        for mechanism in HIGH {
            if mechanism == Mechanism::HlsEcdsa && suite == Suite::Suite0 {
                let none = client.run(answer(mechanism, suite, &stoc, &ctos));
                assert_eq!(none, Err(CipherFailure::Unavailable));
                continue;
            }
            let output = client.run(answer(mechanism, suite, &stoc, &ctos)).unwrap();
            let CipherOutput::Token(token) = output else {
                panic!("no token")
            };
            assert_eq!(Some(token.len()), mechanism.token_len(suite));
            let mut judge = |token: &[u8], own: &[u8], peer: &[u8]| {
                meter.run(verify(mechanism, suite, token, own, peer))
            };
            assert_eq!(judge(&token, &stoc, &ctos), Ok(CipherOutput::Verified));
            let wrong = Err(CipherFailure::AuthFailed);
            assert_eq!(judge(&token, &[3; 32], &ctos), wrong, "another challenge");
            assert_eq!(judge(&token, &stoc, &stoc), wrong, "reflected challenge");
            assert_eq!(judge(&token[1..], &stoc, &ctos), wrong, "short");
            for at in 0..token.len() {
                let mut bad = token.clone();
                bad[at] ^= 1;
                assert_eq!(judge(&bad, &stoc, &ctos), wrong, "octet {at}");
            }
            // the client's own token, come back
            let mut reflected = verify(mechanism, suite, &token, &ctos, &stoc);
            if let CipherOp::Verify { peer_title, .. } = &mut reflected {
                *peer_title = METER;
            }
            assert_eq!(client.run(reflected), wrong, "reflected token");
            let own = client.run(answer(mechanism, suite, &stoc, &stoc));
            assert_eq!(own, Err(CipherFailure::Refused), "one's own challenge");
        }
        for mechanism in [Mechanism::None, Mechanism::Low, Mechanism::HlsManufacturer] {
            let refused = client.run(answer(mechanism, suite, &stoc, &ctos));
            assert_eq!(refused, Err(CipherFailure::Refused));
        }
    }
}

/// Peers are known that say suite 0 in the token of every suite; none says another one.
#[test]
fn a_token_may_say_suite_0_in_any_suite() {
    let (stoc, ctos) = ([1; 16], [2; 16]);
    let mut zero = strangers(Suite::Suite0).client;
    let Ok(CipherOutput::Token(token)) =
        zero.run(answer(Mechanism::HlsGmac, Suite::Suite0, &stoc, &ctos))
    else {
        panic!("no token")
    };
    let (keys, _) = Keys::pair(Suite::Suite0, 1);
    let mut one = SoftCipher::new(
        setup(Suite::Suite1, METER),
        Keys {
            signing: None,
            ..keys
        },
    )
    .unwrap();
    let check = |token: &[u8]| verify(Mechanism::HlsGmac, Suite::Suite1, token, &stoc, &ctos);
    assert_eq!(one.run(check(&token)), Ok(CipherOutput::Verified));
    let mut other = token;
    other[0] = 0x12;
    assert_eq!(one.run(check(&other)), Err(CipherFailure::AuthFailed));
}
