//! What a permit lets through.

use dlms::{Data, InvokeId, Request, Response};
use kit::Tasks;
use latchkey_proto::{
    audit::v1::{EntryKind, Permit},
    custody::v1::{GetPermitUseRequest, Mechanism, Protection},
};
use tonic::Code;

use crate::{
    House, IC, METER, RELAY, SCRIPTS, cold, reset_permit,
    support::{Association, Meter, get, method, permit, reason, until},
};

pub(super) async fn a_reset_is_ciphered_once(house: &House, meter: &mut Meter) {
    let permit = reset_permit();
    let signed = house.bed.auditor.sign(&permit);
    let mut association = Association::hls(&house.custody, &signed, METER)
        .await
        .unwrap();
    association.establish(meter).await.unwrap();
    for _ in 0..6 {
        let read = association.get_apdu(70, RELAY, 2);
        let (apdu, _) = association.protect(read.clone()).await.unwrap();
        assert_eq!((apdu[0], meter.open(&apdu)), (0xC8, read));
        let value = association.value(Data::Boolean(true));
        let ciphered = meter.seal(0xCC, &value);
        assert_eq!(association.unprotect(ciphered).await.unwrap(), value);
    }
    let (script, parameter) = cold();
    let act = association.action_apdu(script, parameter.clone());
    let (apdu, counter) = association.protect(act.clone()).await.unwrap();
    assert_eq!((apdu[0], meter.open(&apdu)), (0xCB, act.clone()));
    let answer = Response::Action {
        invoke: association.invoke(),
        result: dlms::ActionResult::new(0),
        data: None,
    };
    let ciphered = meter.seal(0xCF, &answer.encode());
    assert_eq!(
        association.unprotect(ciphered).await.unwrap(),
        answer.encode()
    );

    let again = association.protect(act).await;
    assert_eq!(again.as_ref().unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(reason(again), "PERMIT_USES_SPENT");
    let act = association.action_apdu(script, parameter.clone());
    assert_eq!(
        reason(association.protect(act).await),
        "PERMIT_USES_SPENT",
        "nor under another invoke id"
    );
    // Nor in another association.
    let mut other = Association::hls(&house.custody, &signed, METER)
        .await
        .unwrap();
    other.establish(meter).await.unwrap();
    let act = other.action_apdu(script, parameter);
    assert_eq!(reason(other.protect(act).await), "PERMIT_USES_SPENT");
    other.close().await.unwrap();
    other.close().await.unwrap();

    the_act_is_on_record(house, &permit, counter).await;
}

async fn the_act_is_on_record(house: &House, permit: &Permit, counter: u32) {
    let asked = GetPermitUseRequest {
        permit_id: permit.permit_id.clone(),
    };
    let used = house
        .custody
        .clone()
        .get_permit_use(asked)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((used.uses.len(), used.associations), (1, 2));
    assert_eq!(
        (used.uses[0].command_index, used.uses[0].invocation_counter),
        (1, counter)
    );
    let nothing = GetPermitUseRequest {
        permit_id: kit::context::new_id(),
    };
    let nothing = house
        .custody
        .clone()
        .get_permit_use(nothing)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((nothing.uses.len(), nothing.associations), (0, 0));

    until("the act is in the trail with its counter", async || {
        let entries = house.bed.auditor.entries(EntryKind::KeyUse);
        let of_act = entries
            .iter()
            .filter(|entry| entry.invocation_counter == counter);
        let of_act: Vec<_> = of_act
            .filter(|entry| entry.permit_id == permit.permit_id)
            .collect();
        of_act.len() == 1 && of_act[0].commands.len() == 1 && of_act[0].reset_id == "reset-1"
    })
    .await;
    until("the refusals are in the trail", async || {
        let entries = house.bed.auditor.entries(EntryKind::Denial);
        entries
            .iter()
            .filter(|entry| entry.permit_id == permit.permit_id)
            .count()
            == 3
    })
    .await;
}

pub(super) async fn only_the_permit_is_ciphered(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let zero = || Some(Data::Integer(0));
    let script = |id| Some(Data::LongUnsigned(id));
    let refused = [
        (method(70, RELAY, 2), zero(), "APDU_FORBIDDEN"), // though the permit says so
        (method(70, RELAY, 1), zero(), "APDU_FORBIDDEN"),
        (method(9, "0.0.10.0.0.255", 1), script(1), "APDU_FORBIDDEN"),
        (method(64, "0.0.43.0.0.255", 2), zero(), "APDU_FORBIDDEN"),
        (method(9, SCRIPTS, 1), script(1), "APDU_NOT_PERMITTED"),
        (
            method(9, "0.0.10.1.1.255", 1),
            script(3),
            "APDU_NOT_PERMITTED",
        ),
    ];
    for (method, parameter, expected) in refused {
        let apdu = association.action_apdu(method, parameter);
        let result = association.protect(apdu).await;
        assert_eq!(result.as_ref().unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(reason(result), expected, "{method:?}");
    }
    let billing = association.get_apdu(7, "1.0.98.1.0.255", 2);
    assert_eq!(
        reason(association.protect(billing).await),
        "APDU_NOT_PERMITTED"
    );
    let every_attribute = association.get_apdu(70, RELAY, 0);
    assert_eq!(
        reason(association.protect(every_attribute).await),
        "APDU_NOT_PERMITTED"
    );
    let next = Request::GetNext {
        invoke: InvokeId::new(1),
        block: 1,
    }
    .encode();
    assert_eq!(
        reason(association.protect(next).await),
        "APDU_NOT_PERMITTED"
    );
    assert_eq!(
        reason(association.protect(Vec::new()).await),
        "REQUEST_INVALID"
    );
    until(
        "every refusal is in the trail with its command",
        async || {
            let entries = house.bed.auditor.entries(EntryKind::Denial);
            let with_command = |class| {
                entries
                    .iter()
                    .any(|e| e.commands.iter().any(|c| c.class_id == class))
            };
            with_command(70) && with_command(64) && with_command(7)
        },
    )
    .await;
}

pub(super) async fn the_public_client_reads_counters_only(house: &House) {
    let signed = house.bed.auditor.sign(&reset_permit());
    let how = (Mechanism::None, Protection::Plain);
    let mut public = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    let read = public.get_apdu(1, IC, 2);
    assert_eq!(public.protect(read.clone()).await.unwrap(), (read, 0));
    let relay = public.get_apdu(70, RELAY, 2);
    assert_eq!(reason(public.protect(relay).await), "APDU_NOT_PERMITTED");
    let (script, parameter) = cold();
    let act = public.action_apdu(script, parameter);
    assert_eq!(reason(public.protect(act).await), "APDU_NOT_PERMITTED");
    for (how, expected) in [
        ((Mechanism::Low, Protection::Plain), "ASSOCIATION_REFUSED"),
        (
            (Mechanism::HlsGmac, Protection::Plain),
            "ASSOCIATION_REFUSED",
        ),
        ((Mechanism::None, Protection::Glo), "ASSOCIATION_REFUSED"),
        ((Mechanism::Unspecified, Protection::Glo), "REQUEST_INVALID"),
        (
            (Mechanism::HlsGmac, Protection::Unspecified),
            "REQUEST_INVALID",
        ),
    ] {
        let refused = Association::open(&house.custody, &signed, METER, how).await;
        assert_eq!(reason(refused.map(|_| ())), expected, "{how:?}");
    }
    // A meter that has no keys is served in clear, under the permit.
    let bare = house
        .bed
        .auditor
        .sign(&permit("meter-bare", vec![get(70, RELAY, 2)]));
    let mut plain = Association::open(&house.custody, &bare, "meter-bare", how)
        .await
        .unwrap();
    let read = plain.get_apdu(70, RELAY, 2);
    assert_eq!(plain.protect(read.clone()).await.unwrap(), (read, 0));
    let next = |invoke| Request::GetNext { invoke, block: 1 }.encode();
    let more = next(plain.invoke());
    assert_eq!(plain.protect(more.clone()).await.unwrap(), (more, 0));
    let none = next(InvokeId::new(9));
    assert_eq!(reason(plain.protect(none).await), "APDU_NOT_PERMITTED");
    let other = plain.get_apdu(70, RELAY, 3);
    assert_eq!(reason(plain.protect(other).await), "APDU_NOT_PERMITTED");
    let refused = Association::hls(&house.custody, &bare, "meter-bare").await;
    assert_eq!(reason(refused.map(|_| ())), "KEYS_UNKNOWN");
}

pub(super) async fn a_permit_opens_what_it_says(house: &House) {
    let open = async |permit: &Permit, meter: &str| {
        let signed = house.bed.auditor.sign(permit);
        Association::hls(&house.custody, &signed, meter)
            .await
            .map(drop)
    };
    let good = Permit {
        max_associations: 2,
        ..reset_permit()
    };
    open(&good, METER).await.unwrap();
    open(&good, METER).await.unwrap();
    assert_eq!(
        reason(open(&good, METER).await),
        "PERMIT_ASSOCIATIONS_SPENT"
    );
    let wider = Permit {
        max_associations: 3,
        ..good.clone()
    };
    assert_eq!(
        reason(open(&wider, METER).await),
        "PERMIT_INVALID",
        "another body under the same id"
    );
    assert_eq!(
        reason(open(&reset_permit(), "meter-0002").await),
        "PERMIT_OTHER_METER"
    );
    let expired = Permit {
        expire_time: reset_permit().not_before,
        ..reset_permit()
    };
    let earlier = Permit {
        not_before: expired.not_before.map(|t| prost_types::Timestamp {
            seconds: t.seconds - 100,
            ..t
        }),
        expire_time: expired.not_before.map(|t| prost_types::Timestamp {
            seconds: t.seconds - 50,
            ..t
        }),
        ..expired
    };
    assert_eq!(reason(open(&earlier, METER).await), "PERMIT_EXPIRED");
    let mut signed = house.bed.auditor.sign(&reset_permit());
    signed.signature[7] ^= 1;
    let forged = Association::hls(&house.custody, &signed, METER)
        .await
        .map(drop);
    assert_eq!(forged.as_ref().unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(reason(forged), "PERMIT_SIGNATURE_INVALID");
}

pub(super) async fn contexts_belong_to_their_peer(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let owner = association.custody.clone();
    association.custody = house.bed.cipher(house.running.address, "latchkey/other");
    let read = association.get_apdu(70, RELAY, 2);
    assert_eq!(
        reason(association.protect(read.clone()).await),
        "CONTEXT_UNKNOWN"
    );
    association.close().await.unwrap();
    association.custody = owner;
    meter.open(&association.protect(read.clone()).await.unwrap().0);
    // A newer association with the meter ends this one: its counters are above.
    let _newer = house.hls().await;
    assert_eq!(reason(association.protect(read).await), "CONTEXT_UNKNOWN");
    let mut stranger = house.bed.cipher(house.running.address, "latchkey/gateway");
    let asked = GetPermitUseRequest {
        permit_id: kit::context::new_id(),
    };
    assert_eq!(
        stranger.get_permit_use(asked).await.unwrap_err().code(),
        Code::PermissionDenied
    );
}

pub(super) async fn uses_outlive_a_restart(
    house: House,
    meter: &mut Meter,
    tasks: &Tasks,
) -> House {
    let House {
        bed,
        running,
        custody,
    } = house;
    let signed = bed.auditor.sign(&reset_permit());
    let mut association = Association::hls(&custody, &signed, METER).await.unwrap();
    association.establish(meter).await.unwrap();
    let (script, parameter) = cold();
    let act = association.action_apdu(script, parameter.clone());
    meter.open(&association.protect(act).await.unwrap().0);
    running.stop().await;

    let running = bed
        .custody("lab_import = true\ncounter_block = 4", tasks)
        .await;
    let custody = bed.cipher(running.address, "latchkey/association");
    association.custody = custody.clone();
    let read = association.get_apdu(70, RELAY, 2);
    assert_eq!(
        reason(association.protect(read).await),
        "CONTEXT_UNKNOWN",
        "contexts are not kept"
    );
    let mut association = Association::hls(&custody, &signed, METER).await.unwrap();
    association.establish(meter).await.unwrap();
    let act = association.action_apdu(script, parameter);
    assert_eq!(reason(association.protect(act).await), "PERMIT_USES_SPENT");
    House {
        bed,
        running,
        custody,
    }
}
