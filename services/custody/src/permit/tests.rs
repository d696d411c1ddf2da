use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use kit::{clock, status::Fault as _};
use latchkey_proto::audit::v1::Purpose;
use prost::Message as _;

use super::*;

const METER: &str = "meter-0001";
const RESET: &str = "spiffe://latchkey.test/latchkey/reset";

struct Auditor(Ed25519KeyPair);

impl Auditor {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn key(&self) -> PermitKey {
        PermitKey::new(self.0.public_key().as_ref()).unwrap()
    }

    fn sign(&self, permit: &Permit) -> SignedPermit {
        let body = permit.encode_to_vec();
        let signature = self
            .0
            .sign(&kit::permit::signing_input(&body))
            .as_ref()
            .to_vec();
        SignedPermit {
            body,
            signature,
            key_id: self.key().key_id(),
        }
    }

    fn gate(&self) -> Gate {
        Gate {
            key: self.key(),
            requesters: vec![RESET.parse().unwrap()],
            skew: Duration::from_secs(5),
        }
    }
}

fn now() -> SystemTime {
    clock::from_micros(1_800_000_000_000_000)
}

fn permit() -> Permit {
    Permit {
        permit_id: "018f3c5e-7b1a-7c3d-9e4f-5a6b7c8d9e0f".to_owned(),
        meter_id: METER.to_owned(),
        requester: RESET.to_owned(),
        purpose: Purpose::Reset.into(),
        commands: vec![Command {
            service: CommandService::Action.into(),
            class_id: 9,
            logical_name: "0.0.10.1.0.255".to_owned(),
            index: 1,
            parameter: vec![0x12, 0, 3],
            selection: Vec::new(),
            max_uses: 1,
        }],
        max_associations: 2,
        not_before: Some(clock::timestamp(now())),
        expire_time: Some(clock::timestamp(now() + Duration::from_secs(600))),
        ..Permit::default()
    }
}

fn reason(auditor: &Auditor, permit: &Permit) -> &'static str {
    match auditor.gate().check(&auditor.sign(permit), METER, now()) {
        Ok(_) => "OK",
        Err(error) => error.reason(),
    }
}

#[test]
fn a_good_permit_holds() {
    let auditor = Auditor::new();
    let verified = auditor
        .gate()
        .check(&auditor.sign(&permit()), METER, now())
        .ok()
        .unwrap();
    assert_eq!(verified.ends, now() + Duration::from_secs(605));
    let [allowed] = verified.allowed.as_slice() else {
        panic!("one command")
    };
    assert_eq!((allowed.max_uses, allowed.asked.class_id), (1, 9));
    assert_eq!(allowed.asked.parameter, [0x12, 0, 3]);
}

#[test]
fn a_permit_holds_for_its_meter_and_time_and_from_its_auditor() {
    let (auditor, stranger) = (Auditor::new(), Auditor::new());
    let (gate, good) = (auditor.gate(), permit());
    let check = |signed: &SignedPermit, meter: &str, seconds: u64| {
        gate.check(signed, meter, now() + Duration::from_secs(seconds))
            .err()
            .map(|e| e.reason())
    };
    let signed = auditor.sign(&good);
    assert_eq!(check(&signed, METER, 604), None);
    assert_eq!(check(&signed, METER, 605), Some("PERMIT_EXPIRED"));
    assert_eq!(check(&signed, "meter-0002", 0), Some("PERMIT_OTHER_METER"));
    assert_eq!(
        check(&stranger.sign(&good), METER, 0),
        Some("PERMIT_SIGNATURE_INVALID")
    );
    let forged = SignedPermit {
        key_id: auditor.key().key_id(),
        ..stranger.sign(&good)
    };
    assert_eq!(check(&forged, METER, 0), Some("PERMIT_SIGNATURE_INVALID"));
    let mut widened = good.clone();
    widened.max_associations = 1000;
    let widened = SignedPermit {
        body: widened.encode_to_vec(),
        ..signed
    };
    assert_eq!(check(&widened, METER, 0), Some("PERMIT_SIGNATURE_INVALID"));
    let early = gate.check(&auditor.sign(&good), METER, now() - Duration::from_secs(6));
    assert_eq!(
        early.err().map(|e| e.reason()),
        Some("PERMIT_NOT_YET_VALID")
    );
}

#[test]
fn a_permit_must_be_one_that_can_be_kept() {
    let auditor = Auditor::new();
    type Change = fn(&mut Permit);
    let changes: [(&str, Change); 11] = [
        ("another requester", |p| {
            p.requester = "spiffe://latchkey.test/latchkey/gateway".to_owned()
        }),
        ("no requester", |p| p.requester.clear()),
        ("no UUID", |p| p.permit_id = "1".to_owned()),
        ("no associations", |p| p.max_associations = 0),
        ("too many associations", |p| p.max_associations = 1025),
        ("too many commands", |p| {
            p.commands = vec![p.commands[0].clone(); 65]
        }),
        ("an ACTION without limit", |p| p.commands[0].max_uses = 0),
        ("an ACTION 17 times", |p| p.commands[0].max_uses = 17),
        ("no service", |p| p.commands[0].service = 0),
        ("no OBIS code", |p| {
            p.commands[0].logical_name = "0.0.10".to_owned()
        }),
        ("no class", |p| p.commands[0].class_id = 70_000),
    ];
    assert_eq!(reason(&auditor, &permit()), "OK");
    for (what, change) in changes {
        let mut permit = permit();
        change(&mut permit);
        assert_eq!(reason(&auditor, &permit), "PERMIT_INVALID", "{what}");
    }
}
