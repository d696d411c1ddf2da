//! Several commands in one request, values in blocks, and what a meter says unasked.

use dlms::{
    Access, AccessOutcome, Accessed, ActionResult, Attribute, Confirmation, Data, DataAccessResult,
    KeyChoice, LongInvokeId, Mechanism, Method, Notification, Protection, Request, Response, Suite,
};
use latchkey_proto::{
    audit::v1::{Command, EntryKind},
    custody::v1::GetPermitUseRequest,
};

use crate::{
    House,
    support::{action, get, method, reason, set, until},
    talk::{Meter, Talk, how, permit_of},
};

const OBJECT: &str = "0.0.96.1.0.255";
const OTHER: &str = "0.0.96.1.1.255";
const SCRIPTS: &str = "0.0.10.1.0.255";
const RELAY: &str = "0.0.96.3.10.255";
const OK: DataAccessResult = DataAccessResult::new(0);

fn attribute(name: &str) -> Attribute {
    Attribute {
        class_id: 1,
        name: name.parse().unwrap(),
        index: 2,
    }
}

fn read(name: &str) -> Access {
    Access::Get {
        attribute: attribute(name),
        selection: None,
    }
}

fn act(method: Method, parameter: u16) -> Access {
    Access::Action {
        method,
        parameter: Some(Data::LongUnsigned(parameter)),
    }
}

fn access(id: u32, accesses: Vec<Access>) -> Vec<u8> {
    Request::Access {
        invoke: LongInvokeId::new(id),
        time: None,
        accesses,
    }
    .encode()
}

fn accessed(id: u32, count: usize) -> Vec<u8> {
    let done = Accessed {
        outcome: AccessOutcome::Action(ActionResult::new(0)),
        data: Data::Null,
    };
    Response::Access {
        invoke: LongInvokeId::new(id),
        time: None,
        specifications: None,
        results: vec![done; count],
    }
    .encode()
}

pub(crate) async fn lists_are_covered_and_counted_whole(house: &House) {
    let meter = Meter::new(house, "lists", Suite::Suite1);
    let meter = meter.enrolled(house).await;
    let twice = Command {
        max_uses: 2,
        ..action(9, SCRIPTS, 1, &[0x12, 0, 4])
    };
    let permit = permit_of(&[
        get(1, OBJECT, 2),
        get(1, OTHER, 2),
        action(9, SCRIPTS, 1, &[0x12, 0, 3]),
        twice,
        set(1, OTHER, 2, &[0x11, 7]),
    ]);
    let how = how(Mechanism::HlsGmac, Protection::GeneralGlo);
    let mut talk = Talk::under(house, meter, how, &permit).await.unwrap();
    talk.establish().await.unwrap();
    a_list_of_reads(&mut talk).await;
    lists_that_are_refused(&mut talk).await;
    a_list_of_everything(&mut talk).await;

    let request = GetPermitUseRequest {
        permit_id: permit.permit_id.clone(),
    };
    let custody = &mut talk.association.custody;
    let used = custody.get_permit_use(request).await.unwrap().into_inner();
    let mut used: Vec<_> = used.uses.iter().map(|used| used.command_index).collect();
    used.sort_unstable();
    assert_eq!(used, [2, 3, 3, 4]);
    until("the trail names all of them in one entry", async || {
        let entries = house.bed.auditor.entries(EntryKind::KeyUse);
        entries.iter().any(|entry| {
            entry.permit_id == permit.permit_id
                && entry.commands.len() == 4
                && entry.detail.starts_with("4 limited commands")
        })
    })
    .await;
}

async fn a_list_of_reads(talk: &mut Talk) {
    let invoke = talk.association.next();
    let attributes = vec![(attribute(OBJECT), None), (attribute(OTHER), None)];
    let list = Request::GetList { invoke, attributes }.encode();
    assert_eq!(talk.send(list.clone()).await.unwrap(), list);
    let answer = |results| Response::GetList { invoke, results }.encode();
    let one = answer(vec![Ok(Data::Null)]);
    let refused = talk.receive(&one).await;
    assert_eq!(reason(refused), "RESPONSE_REFUSED", "one result for two");
    let two = answer(vec![Ok(Data::Null), Err(DataAccessResult::new(3))]);
    talk.receive(&two).await.unwrap();
}

async fn lists_that_are_refused(talk: &mut Talk) {
    let script = method(9, SCRIPTS, 1);
    let relay = act(method(70, RELAY, 2), 0);
    let scripts = |numbers: &[u16]| numbers.iter().map(|it| act(script, *it)).collect();
    for (what, accesses, expected) in [
        (
            "one is not covered",
            vec![read(OBJECT), read("0.0.96.1.2.255")],
            "APDU_NOT_PERMITTED",
        ),
        ("another parameter", scripts(&[3, 5]), "APDU_NOT_PERMITTED"),
        ("the relay", vec![read(OBJECT), relay], "APDU_FORBIDDEN"),
        ("once twice", scripts(&[3, 3]), "PERMIT_USES_SPENT"),
        ("twice thrice", scripts(&[4, 4, 4]), "PERMIT_USES_SPENT"),
    ] {
        let refused = talk.association.protect(access(1, accesses)).await;
        assert_eq!(reason(refused), expected, "{what}");
    }
}

/// Nothing of what was refused was counted: all of it can still be done.
async fn a_list_of_everything(talk: &mut Talk) {
    let script = |number| act(method(9, SCRIPTS, 1), number);
    let write = Access::Set {
        attribute: attribute(OTHER),
        selection: None,
        value: Data::Unsigned(7),
    };
    let all = vec![script(4), read(OBJECT), script(3), write, script(4)];
    let all = access(2, all);
    assert_eq!(talk.send(all.clone()).await.unwrap(), all);
    let refused = talk.receive(&accessed(3, 5)).await;
    assert_eq!(reason(refused), "RESPONSE_REFUSED", "another long id");
    talk.receive(&accessed(2, 5)).await.unwrap();
    let again = access(3, vec![read(OBJECT), script(3)]);
    let refused = talk.association.protect(again).await;
    assert_eq!(reason(refused), "PERMIT_USES_SPENT");
}

fn block(talk: &mut Talk, number: u32, octets: &[u8], last: bool) -> Vec<u8> {
    let octets = octets.to_vec();
    match number {
        1 => Request::SetFirstBlock {
            invoke: talk.association.next(),
            attribute: attribute(OBJECT),
            selection: None,
            last,
            block: 1,
            octets,
        },
        block => Request::SetBlock {
            invoke: talk.association.invoke(),
            last,
            block,
            octets,
        },
    }
    .encode()
}

async fn acknowledge(talk: &mut Talk, block: u32) {
    let invoke = talk.association.invoke();
    let answer = Response::SetBlockAck { invoke, block }.encode();
    talk.receive(&answer).await.unwrap();
}

pub(crate) async fn values_go_out_in_blocks(house: &House) {
    let value = Data::OctetString((0..150).collect()).encode();
    let commands = [set(1, OBJECT, 2, &value), set(1, OTHER, 2, &[0x11, 7])];
    let forms = [
        Protection::Glo,
        Protection::Ded,
        Protection::GeneralCiphering(KeyChoice::Wrapped),
    ];
    for (number, protection) in forms.into_iter().enumerate() {
        let meter = Meter::new(house, &format!("blocks-{number}"), Suite::Suite0);
        let meter = meter.enrolled(house).await;
        let how = how(Mechanism::HlsGmac, protection);
        let mut talk = Talk::established(house, meter, how, commands.to_vec()).await;
        let (a, b, c) = (&value[..60], &value[60..120], &value[120..]);

        let wrong = block(&mut talk, 1, &value[1..60], false);
        let wrong = talk.association.protect(wrong).await;
        assert_eq!(reason(wrong), "APDU_NOT_PERMITTED");
        let first = block(&mut talk, 1, a, false);
        talk.send(first).await.unwrap();
        let second = block(&mut talk, 2, b, false);
        let early = talk.association.protect(second.clone()).await;
        assert_eq!(
            reason(early),
            "APDU_NOT_PERMITTED",
            "the first is not acknowledged"
        );
        acknowledge(&mut talk, 1).await;
        deviations_are_refused(&mut talk, &value).await;
        let second = block(&mut talk, 2, b, false);
        assert_eq!(talk.send(second.clone()).await.unwrap(), second);
        acknowledge(&mut talk, 2).await;
        let last = block(&mut talk, 3, c, true);
        assert_eq!(talk.send(last.clone()).await.unwrap(), last);
        assert_eq!(talk.counter > 0, protection == Protection::Glo);
        let invoke = talk.association.invoke();
        let done = Response::SetLastBlock {
            invoke,
            result: OK,
            block: 3,
        };
        talk.receive(&done.encode()).await.unwrap();
        // It was counted, once.
        let whole = block(&mut talk, 1, &value, true);
        assert_eq!(
            reason(talk.association.protect(whole).await),
            "PERMIT_USES_SPENT"
        );
        let text = "deviations are in the trail";
        until(text, async || {
            let entries = house.bed.auditor.entries(EntryKind::Denial);
            entries
                .iter()
                .any(|entry| entry.detail.contains("value in blocks"))
        })
        .await;
    }
}

/// Each is refused, and ends nothing.
async fn deviations_are_refused(talk: &mut Talk, value: &[u8]) {
    let other = block(talk, 2, &value[61..121], false);
    let left_out = block(talk, 3, &value[120..], false);
    let again = Request::SetFirstBlock {
        invoke: talk.association.invoke(),
        attribute: attribute(OBJECT),
        selection: None,
        last: false,
        block: 1,
        octets: value[..60].to_vec(),
    };
    for (what, apdu) in [
        ("another value", other),
        ("a block left out", left_out),
        ("the first again", again.encode()),
    ] {
        let refused = talk.association.protect(apdu).await;
        assert_eq!(reason(refused), "APDU_NOT_PERMITTED", "{what}");
    }
}

/// A later block does not say what it is of, nor does the meter's leave to send it. Were two transfers begun at once,
/// the leave for the one could be shown for the other, and the meter would execute what nobody permitted.
pub(crate) async fn values_in_blocks_are_not_spliced(house: &House) {
    let value = |octet| Data::OctetString(vec![octet; 100]).encode();
    let (one, two) = (value(1), value(2));
    let commands = [
        set(1, OBJECT, 2, &one),
        set(1, OTHER, 2, &two),
        get(1, OBJECT, 2),
    ];
    for (number, between) in ["nothing", "a read", "a deviation"].into_iter().enumerate() {
        let meter = Meter::new(house, &format!("splice-{number}"), Suite::Suite0);
        let meter = meter.enrolled(house).await;
        let how = how(Mechanism::HlsGmac, Protection::Glo);
        let mut talk = Talk::established(house, meter, how, commands.to_vec()).await;
        let invoke = talk.association.next();
        let first = |name, octets: &[u8]| {
            Request::SetFirstBlock {
                invoke,
                attribute: attribute(name),
                selection: None,
                last: false,
                block: 1,
                octets: octets.to_vec(),
            }
            .encode()
        };
        let later = |octets: &[u8]| {
            Request::SetBlock {
                invoke,
                last: true,
                block: 2,
                octets: octets.to_vec(),
            }
            .encode()
        };
        talk.send(first(OBJECT, &one[..50])).await.unwrap();
        // The meter's leave for the first value is held back.
        let leave = Response::SetBlockAck { invoke, block: 1 }.encode();
        let leave = talk.meter_sends(&leave);
        let refused = match between {
            "a read" => {
                let apdu = talk.association.get_apdu(1, OBJECT, 2);
                Some(talk.association.protect(apdu).await)
            }
            "a deviation" => Some(talk.association.protect(later(&two[50..])).await),
            _ => None,
        };
        if let Some(refused) = refused {
            assert_eq!(reason(refused), "APDU_NOT_PERMITTED", "{between}");
        }
        let second = talk.association.protect(first(OTHER, &two[..50])).await;
        assert_eq!(reason(second), "APDU_NOT_PERMITTED", "{between}");
        talk.association.unprotect(leave).await.unwrap();
        let spliced = talk.association.protect(later(&two[50..])).await;
        assert_eq!(reason(spliced), "APDU_NOT_PERMITTED", "{between}");
        // The value that was begun can still be finished, and then comes the other.
        talk.send(later(&one[50..])).await.unwrap();
        let early = talk.association.protect(first(OTHER, &two[..50])).await;
        assert_eq!(
            reason(early),
            "APDU_NOT_PERMITTED",
            "its end is not answered"
        );
        let done = Response::SetLastBlock {
            invoke,
            result: OK,
            block: 2,
        };
        talk.receive(&done.encode()).await.unwrap();
        talk.send(first(OTHER, &two[..50])).await.unwrap();
    }
}

pub(crate) async fn answers_come_in_blocks(house: &House) {
    let meter = Meter::new(house, "answers", Suite::Suite0)
        .enrolled(house)
        .await;
    let commands = vec![action(9, SCRIPTS, 1, &[0x12, 0, 3])];
    let how = how(Mechanism::HlsSha256, Protection::Glo);
    let mut talk = Talk::established(house, meter, how, commands).await;
    let apdu = talk
        .association
        .action_apdu(method(9, SCRIPTS, 1), Some(Data::LongUnsigned(3)));
    talk.send(apdu).await.unwrap();
    let invoke = talk.association.invoke();
    let next = |block| Request::ActionNext { invoke, block }.encode();
    assert_eq!(
        reason(talk.association.protect(next(1)).await),
        "APDU_NOT_PERMITTED"
    );
    let octets = vec![0, 1, 0, 9, 2];
    let first = Response::ActionBlock {
        invoke,
        last: false,
        block: 1,
        octets,
    };
    talk.receive(&first.encode()).await.unwrap();
    let get_next = Request::GetNext { invoke, block: 1 }.encode();
    assert_eq!(
        reason(talk.association.protect(get_next).await),
        "APDU_NOT_PERMITTED"
    );
    assert_eq!(talk.send(next(1)).await.unwrap(), next(1));
    assert_eq!(
        reason(talk.association.protect(next(1)).await),
        "APDU_NOT_PERMITTED"
    );
    let last = Response::ActionBlock {
        invoke,
        last: true,
        block: 2,
        octets: vec![1, 2],
    };
    talk.receive(&last.encode()).await.unwrap();
    assert_eq!(
        reason(talk.association.protect(next(2)).await),
        "APDU_NOT_PERMITTED"
    );
}

pub(crate) async fn notifications_are_confirmed(house: &House) {
    let meter = Meter::new(house, "push", Suite::Suite1)
        .enrolled(house)
        .await;
    let notification = |id| Notification::Data {
        invoke: LongInvokeId::new(id),
        time: None,
        body: Data::Unsigned(1),
    };
    let confirm = |id| {
        Confirmation {
            invoke: LongInvokeId::new(id),
            time: None,
        }
        .encode()
    };
    let how_glo = how(Mechanism::HlsGmac, Protection::GeneralGlo);
    let mut talk = Talk::open(house, meter, how_glo, vec![]).await.unwrap();
    talk.initiate().await.unwrap();
    let early = talk.receive(&notification(1).encode()).await;
    assert_eq!(
        reason(early),
        "RESPONSE_REFUSED",
        "the meter is not proven yet"
    );
    let token = talk
        .association
        .answer(&[3; 32], crate::support::SERVER)
        .await
        .unwrap();
    talk.reply(&[3; 32], token).await.unwrap();

    let refused = talk.association.protect(confirm(2)).await;
    assert_eq!(reason(refused), "APDU_NOT_PERMITTED", "nothing to confirm");
    let sent = talk.meter_sends(&notification(2).encode());
    let read = talk.association.unprotect(sent.clone()).await.unwrap();
    assert_eq!(read, notification(2).encode());
    let again = talk.association.unprotect(sent).await;
    assert_eq!(reason(again), "CIPHERTEXT_INVALID", "a recording");
    assert_eq!(
        reason(talk.association.protect(confirm(3)).await),
        "APDU_NOT_PERMITTED"
    );
    assert_eq!(talk.send(confirm(2)).await.unwrap(), confirm(2));
    let refused = talk.association.protect(confirm(2)).await;
    assert_eq!(reason(refused), "APDU_NOT_PERMITTED", "once");
    let event = Notification::Event {
        time: None,
        attribute: attribute(OBJECT),
        value: Data::Boolean(true),
    };
    assert_eq!(talk.receive(&event.encode()).await.unwrap(), event.encode());

    // Under a key of its own nothing says that a notification is new.
    let how_own = how(
        Mechanism::HlsGmac,
        Protection::GeneralCiphering(KeyChoice::Wrapped),
    );
    let mut talk = Talk::established(house, talk.meter, how_own, vec![get(1, OBJECT, 2)]).await;
    let refused = talk.receive(&notification(4).encode()).await;
    assert_eq!(reason(refused), "RESPONSE_REFUSED");
}
