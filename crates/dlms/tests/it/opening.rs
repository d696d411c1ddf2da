//! Openings over UDP, where anybody may answer before the meter does.

use dlms::acse::{Aare, AssociationResult, Diagnostic};
use dlms::client::Event;
use dlms::{
    ApplicationContext, Awaiting, Cause, CipherFailure, Exception, LinkConfig, Mechanism,
    Protection, SystemTitle,
};

use crate::pair::{METER_TITLE, Pair, client_config, meter_config};

fn pair(protection: Protection) -> Pair {
    let mut client = client_config(Mechanism::HlsGmac, protection);
    client.link = LinkConfig::Udp;
    let mut meter = meter_config(Mechanism::HlsGmac, protection.is_ciphered());
    meter.link = LinkConfig::Udp;
    Pair::with(client, meter)
}

/// An AARE that the meter sent to somebody: what there is to be seen on the line.
fn seen(protection: Protection) -> Aare {
    let mut pair = pair(protection);
    pair.open();
    Aare::decode(&pair.frames[1].apdu).unwrap()
}

type Change = fn(&mut Aare);

const REJECTED: Change = |aare| aare.result = AssociationResult::RejectedPermanent;

/// What is made of an AARE, and why the opening fails if nothing better comes.
fn forgeries() -> Vec<(Change, Cause)> {
    let (expected, found) = (METER_TITLE, SystemTitle::new([9; 8]));
    let (proposed, granted) = (
        ApplicationContext::LogicalNameCiphered,
        ApplicationContext::LogicalName,
    );
    vec![
        (
            |aare| aare.responding_title = Some(SystemTitle::new([9; 8])),
            Cause::WrongServerTitle { expected, found },
        ),
        (
            |aare| aare.context = ApplicationContext::LogicalName,
            Cause::ContextDowngrade { proposed, granted },
        ),
        (
            |aare| aare.mechanism = Some(Mechanism::Low),
            Cause::MechanismDowngrade {
                proposed: Mechanism::HlsGmac,
                granted: Some(Mechanism::Low),
            },
        ),
        (
            |aare| aare.authentication_value = None,
            Cause::BadChallenge { found: 0 },
        ),
        (
            |aare| aare.user_information = None,
            Cause::BadInitiate("there is none"),
        ),
        (
            |aare| {
                let information = aare.user_information.as_mut().unwrap();
                *information.last_mut().unwrap() ^= 1;
            },
            Cause::Cipher {
                during: Awaiting::Aare,
                failure: CipherFailure::AuthFailed,
            },
        ),
    ]
}

/// Opens it with this before what the meter says, or instead of it.
fn opening(protection: Protection, forged: Vec<u8>, answered: bool) -> Pair {
    let mut pair = pair(protection);
    let forged = dlms::Frame {
        source: 1,
        destination: 1,
        apdu: forged,
    };
    let forged = forged.encode().unwrap();
    pair.to_client = Box::new(move |octets| match (answered, octets[8]) {
        (true, 0x61) => vec![forged.clone(), forged.clone(), octets],
        (true, _) => vec![octets],
        (false, _) => vec![forged.clone()],
    });
    pair.open();
    pair
}

#[test]
fn what_anybody_may_have_said_ends_no_opening() {
    let aare = seen(Protection::Glo);
    let rejection = Cause::Rejected {
        result: AssociationResult::RejectedPermanent,
        diagnostic: aare.diagnostic,
        error: None,
    };
    let mut cases: Vec<(Vec<u8>, Cause)> = forgeries()
        .into_iter()
        .map(|(change, cause)| {
            let mut forged = aare.clone();
            change(&mut forged);
            (forged.encode(), cause)
        })
        .collect();
    let mut rejected = aare;
    REJECTED(&mut rejected);
    cases.push((rejected.encode(), rejection));
    cases.push((vec![0xD8, 1, 5], Cause::NotOpened(Exception::DECIPHERING)));
    for (forged, cause) in cases {
        let mut pair = opening(Protection::Glo, forged.clone(), true);
        assert!(matches!(pair.event(), Event::Opened { .. }), "{cause}");
        let mut pair = opening(Protection::Glo, forged, false);
        assert!(pair.events.is_empty(), "{cause}");
        pair.expire();
        assert_eq!(pair.failure(), cause);
        assert_eq!(pair.frames.len(), 2, "nothing is sent twice");
    }
}

#[test]
fn in_a_plain_association_a_rejection_is_taken_at_its_word() {
    let mut rejected = seen(Protection::Plain);
    rejected.diagnostic = Diagnostic::NO_REASON;
    REJECTED(&mut rejected);
    let mut pair = opening(Protection::Plain, rejected.encode(), true);
    assert!(matches!(pair.failure(), Cause::Rejected { .. }));
}
