//! Custody over mTLS with a real token: what it does, and above all what it refuses.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::path::Path;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use dlms::{Data, InvokeId, Method, Request, Response};
use kit::{Channel, Tasks};
use latchkey_proto::{
    audit::v1::{EntryKind, Permit},
    custody::v1::{
        GenerateMeterKeysRequest, GetMeterKeysRequest, GetPermitUseRequest, ImportLabKeysRequest,
        ImportMeterKeysRequest, ListMeterKeysRequest, Mechanism, Protection,
        cipher_service_client::CipherServiceClient,
    },
};
use support::{
    AK, Association, Bed, CLIENT, COMPONENTS, EK, Meter, PASSWORD, Running, SERVER, action, get,
    lab_keys, method, permit, reason, until, with_token,
};
use tonic::Code;

const METER: &str = "meter-0001";
const SCRIPTS: &str = "0.0.10.1.0.255";
const RELAY: &str = "0.0.96.3.10.255";
const IC: &str = "0.0.43.1.0.255";

#[test]
fn custody_with_a_real_token() {
    with_token("custody_with_a_real_token", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

struct House {
    bed: Bed,
    running: Running,
    custody: CipherServiceClient<Channel>,
}

impl House {
    /// A context with HLS5 on the laboratory meter, under a permit of the reset's commands.
    async fn hls(&self) -> Association {
        let signed = self.bed.auditor.sign(&reset_permit());
        Association::hls(&self.custody, &signed, METER)
            .await
            .unwrap()
    }
}

/// Reads of relay and counter, and the cold reset script once.
fn reset_permit() -> Permit {
    let commands = vec![
        get(70, RELAY, 2),
        action(9, SCRIPTS, 1, &[0x12, 0, 3]),
        get(1, IC, 2),
        action(70, RELAY, 2, &[0x0F, 0]),
    ];
    permit(METER, commands)
}

fn cold() -> (Method, Option<Data>) {
    (method(9, SCRIPTS, 1), Some(Data::LongUnsigned(3)))
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    lab_import_is_off_unless_configured(&bed, &tasks).await;
    let running = bed
        .custody("lab_import = true\ncounter_block = 4", &tasks)
        .await;
    let custody = bed.cipher(running.address, "latchkey/association");
    let house = House {
        bed,
        running,
        custody,
    };
    let mut meter = Meter::new();

    keys_go_in_and_none_comes_out(&house).await;
    wrapped_keys_are_imported(&house).await;
    a_reset_is_ciphered_once(&house, &mut meter).await;
    nothing_comes_before_its_turn(&house, &mut meter).await;
    only_the_permit_is_ciphered(&house, &mut meter).await;
    a_false_meter_is_found_out(&house, &mut meter).await;
    responses_are_authentic_and_new(&house, &mut meter).await;
    recordings_are_old(&house, &mut meter).await;
    blocks_follow_a_permitted_get(&house, &mut meter).await;
    low_level_security_believes_rising_counters_only(&house, &mut meter).await;
    general_glo_names_the_sender(&house, &mut meter).await;
    the_public_client_reads_counters_only(&house).await;
    a_permit_opens_what_it_says(&house).await;
    contexts_belong_to_their_peer(&house, &mut meter).await;
    a_moved_row_is_noticed(&house).await;
    let house = uses_outlive_a_restart(house, &mut meter, &tasks).await;
    no_secret_is_at_rest(&house).await;

    house.running.stop().await;
    trigger.fire();
    tasks.join().await;
}

async fn lab_import_is_off_unless_configured(bed: &Bed, tasks: &Tasks) {
    let running = bed.custody("", tasks).await;
    let mut keys = bed.keys(running.address);
    let refused = keys.import_lab_keys(lab_keys(METER)).await;
    assert_eq!(
        refused.as_ref().unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(reason(refused), "LAB_IMPORT_OFF");
    let unknown = keys
        .get_meter_keys(GetMeterKeysRequest {
            meter_id: METER.to_owned(),
        })
        .await;
    assert_eq!(reason(unknown), "KEYS_UNKNOWN");
    until("the refusal is in the trail", async || {
        !bed.auditor.entries(EntryKind::Denial).is_empty()
    })
    .await;
    until("the start is in the trail", async || {
        bed.auditor.entries(EntryKind::Start).len() == 1
    })
    .await;
    running.stop().await;
}

async fn keys_go_in_and_none_comes_out(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    let first = keys
        .import_lab_keys(lab_keys(METER))
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(
        (
            first.check_value.len(),
            first.has_password,
            first.source.as_str()
        ),
        (5, true, "lab")
    );
    assert!(
        first.next_invocation_counter > 20_000_000,
        "above what was used before the import"
    );
    let again = keys
        .import_lab_keys(lab_keys(METER))
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(first, again, "the same keys change nothing");
    for other in [
        ImportLabKeysRequest {
            encryption_key: vec![7; 16],
            ..lab_keys(METER)
        },
        ImportLabKeysRequest {
            authentication_key: vec![7; 16],
            ..lab_keys(METER)
        },
        ImportLabKeysRequest {
            password: b"another".to_vec(),
            ..lab_keys(METER)
        },
        ImportLabKeysRequest {
            server_system_title: vec![7; 8],
            ..lab_keys(METER)
        },
    ] {
        let refused = keys.import_lab_keys(other).await;
        assert_eq!(refused.as_ref().unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(reason(refused), "KEYS_EXIST");
    }
    for bad in [
        ImportLabKeysRequest {
            encryption_key: vec![7; 15],
            ..lab_keys("m")
        },
        ImportLabKeysRequest {
            authentication_key: Vec::new(),
            ..lab_keys("m")
        },
        ImportLabKeysRequest {
            server_system_title: CLIENT.to_vec(),
            ..lab_keys("m")
        },
        ImportLabKeysRequest {
            password: vec![b'x'; 65],
            ..lab_keys("m")
        },
        lab_keys("no/meter"),
    ] {
        assert_eq!(reason(keys.import_lab_keys(bad).await), "REQUEST_INVALID");
    }
    let generate = GenerateMeterKeysRequest {
        meter_id: "meter-0002".to_owned(),
        client_system_title: CLIENT.to_vec(),
        server_system_title: b"MMM\0\0\0\0\x02".to_vec(),
    };
    let made = keys
        .generate_meter_keys(generate.clone())
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(
        (
            made.source.as_str(),
            made.next_invocation_counter,
            made.has_password
        ),
        ("generated", 1, false)
    );
    assert_ne!(made.check_value, first.check_value);
    assert_eq!(
        reason(keys.generate_meter_keys(generate).await),
        "KEYS_EXIST"
    );

    let page = |page_token: &str| ListMeterKeysRequest {
        page_size: 1,
        page_token: page_token.to_owned(),
    };
    let one = keys.list_meter_keys(page("")).await.unwrap().into_inner();
    assert_eq!(
        (one.keys[0].meter_id.as_str(), one.next_page_token.as_str()),
        (METER, METER)
    );
    let two = keys
        .list_meter_keys(page(&one.next_page_token))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (two.keys[0].meter_id.as_str(), two.next_page_token.as_str()),
        ("meter-0002", "")
    );
    until("both are in the trail", async || {
        house.bed.auditor.entries(EntryKind::Key).len() == 2
    })
    .await;
}

async fn wrapped_keys_are_imported(house: &House) {
    let [a, b] = COMPONENTS;
    let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
    let wrap = |key: &[u8]| {
        let kek = AesKek::new(&AES_256, &transport).unwrap();
        kek.wrap(key, &mut [0; 24]).unwrap().to_vec()
    };
    let mut keys = house.bed.keys(house.running.address);
    let request = ImportMeterKeysRequest {
        meter_id: "meter-0003".to_owned(),
        client_system_title: CLIENT.to_vec(),
        server_system_title: SERVER.to_vec(),
        wrapped_encryption_key: wrap(&EK),
        wrapped_authentication_key: wrap(&AK),
    };
    let held = keys
        .import_meter_keys(request.clone())
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(held.source, "imported");
    let lab = keys
        .get_meter_keys(GetMeterKeysRequest {
            meter_id: METER.to_owned(),
        })
        .await;
    assert_eq!(
        held.check_value,
        lab.unwrap().into_inner().keys.unwrap().check_value,
        "the same EK"
    );
    let again = keys
        .import_meter_keys(request.clone())
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(again, held);
    let mut other = request.clone();
    other.wrapped_authentication_key = wrap(&[9; 16]);
    assert_eq!(reason(keys.import_meter_keys(other).await), "KEYS_EXIST");
    for field in 0..2 {
        let mut damaged = ImportMeterKeysRequest {
            meter_id: "meter-0004".to_owned(),
            ..request.clone()
        };
        match field {
            0 => damaged.wrapped_encryption_key[3] ^= 1,
            _ => damaged.wrapped_authentication_key[3] ^= 1,
        }
        assert_eq!(
            reason(keys.import_meter_keys(damaged).await),
            "WRAPPED_KEY_INVALID"
        );
    }
    // They work: an association proves EK and AK to a meter that has them.
    let signed = house.bed.auditor.sign(&permit("meter-0003", Vec::new()));
    let mut association = Association::hls(&house.custody, &signed, "meter-0003")
        .await
        .unwrap();
    association.establish(&mut Meter::new()).await.unwrap();
}

async fn a_reset_is_ciphered_once(house: &House, meter: &mut Meter) {
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

async fn nothing_comes_before_its_turn(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    let read = association.get_apdu(70, RELAY, 2);
    assert_eq!(
        reason(association.protect(read.clone()).await),
        "OUT_OF_ORDER",
        "before the AARQ"
    );
    assert_eq!(
        reason(association.answer(&[1; 16], SERVER).await),
        "OUT_OF_ORDER"
    );
    assert_eq!(
        reason(association.verify(vec![0x10; 17]).await),
        "OUT_OF_ORDER"
    );
    association.initiate(meter).await.unwrap();
    assert_eq!(
        reason(association.protect(read.clone()).await),
        "OUT_OF_ORDER",
        "before HLS"
    );
    assert_eq!(
        reason(association.reply(vec![0x10; 17]).await),
        "APDU_NOT_PERMITTED",
        "no token yet"
    );
    let token = association.answer(&[0xAB; 16], SERVER).await.unwrap();
    meter
        .spent
        .insert(u32::from_be_bytes(token[1..5].try_into().unwrap()));
    assert_eq!(
        reason(association.answer(&[0xAC; 16], SERVER).await),
        "OUT_OF_ORDER",
        "once"
    );
    assert_eq!(
        reason(association.reply(vec![0x10; 17]).await),
        "APDU_NOT_PERMITTED",
        "another token"
    );
    assert_eq!(
        reason(association.protect(read.clone()).await),
        "OUT_OF_ORDER",
        "before pass 4"
    );
    let reply = association.reply(token.clone()).await.unwrap();
    meter.open(&reply);
    assert_eq!(
        reason(association.reply(token).await),
        "APDU_NOT_PERMITTED",
        "once"
    );
    let early = association.verify(vec![0x10; 17]).await;
    assert_eq!(reason(early), "OUT_OF_ORDER", "the answer has not come");
    let release = dlms::initiate::InitiateRequest::new(dlms::Conformance::new(1), 0).encode();
    let (apdu, _) = association.protect(release.clone()).await.unwrap();
    meter.open(&apdu);
    assert_eq!(
        reason(association.protect(release).await),
        "OUT_OF_ORDER",
        "one AARQ, one RLRQ"
    );
    assert_eq!(
        reason(association.protect(read).await),
        "OUT_OF_ORDER",
        "after the RLRQ"
    );
}

async fn only_the_permit_is_ciphered(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let zero = || Some(Data::Integer(0));
    let refused = [
        (
            "reconnect, though the permit says so",
            method(70, RELAY, 2),
            zero(),
            "APDU_FORBIDDEN",
        ),
        ("disconnect", method(70, RELAY, 1), zero(), "APDU_FORBIDDEN"),
        (
            "global reset",
            method(9, "0.0.10.0.0.255", 1),
            Some(Data::LongUnsigned(1)),
            "APDU_FORBIDDEN",
        ),
        (
            "key transfer",
            method(64, "0.0.43.0.0.255", 2),
            zero(),
            "APDU_FORBIDDEN",
        ),
        (
            "another script",
            method(9, SCRIPTS, 1),
            Some(Data::LongUnsigned(1)),
            "APDU_NOT_PERMITTED",
        ),
        (
            "another table",
            method(9, "0.0.10.1.1.255", 1),
            Some(Data::LongUnsigned(3)),
            "APDU_NOT_PERMITTED",
        ),
    ];
    for (what, method, parameter, expected) in refused {
        let apdu = association.action_apdu(method, parameter);
        let result = association.protect(apdu).await;
        assert_eq!(
            result.as_ref().unwrap_err().code(),
            Code::PermissionDenied,
            "{what}"
        );
        assert_eq!(reason(result), expected, "{what}");
    }
    let billing = association.get_apdu(7, "1.0.98.1.0.255", 2);
    assert_eq!(
        reason(association.protect(billing).await),
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

async fn a_false_meter_is_found_out(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.initiate(meter).await.unwrap();
    let own = association.challenge.clone();
    assert_eq!(
        reason(association.answer(&own, SERVER).await),
        "CHALLENGE_REFUSED",
        "reflection"
    );
    assert_eq!(
        reason(association.answer(&[1; 16], *b"MMM\0\0\0\0\x09").await),
        "CHALLENGE_REFUSED"
    );
    let reconnect = association.action_apdu(method(70, RELAY, 2), Some(Data::Integer(0)));
    assert_eq!(
        reason(association.answer(&reconnect, SERVER).await),
        "CHALLENGE_REFUSED",
        "a request in disguise"
    );
    assert_eq!(
        reason(association.answer(&[1; 7], SERVER).await),
        "REQUEST_INVALID"
    );

    let token = association.answer(&[1; 16], SERVER).await.unwrap();
    meter
        .spent
        .insert(u32::from_be_bytes(token[1..5].try_into().unwrap()));
    let reply = association.reply(token.clone()).await.unwrap();
    meter.open(&reply);
    let answer = Response::Action {
        invoke: association.invoke(),
        result: dlms::ActionResult::new(0),
        data: Some(Ok(Data::OctetString(token.clone()))),
    };
    let ciphered = meter.seal(0xCF, &answer.encode());
    association.unprotect(ciphered).await.unwrap();
    let refused = association.verify(token).await;
    assert_eq!(refused.as_ref().unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(
        reason(refused),
        "HLS_ANSWER_WRONG",
        "our own token, sent back"
    );
    let right = meter.token(SERVER, meter.counter, &association.challenge);
    assert_eq!(
        reason(association.verify(right).await),
        "CONTEXT_UNKNOWN",
        "there is one try"
    );
}

async fn responses_are_authentic_and_new(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    let (apdu, _) = association.protect(read).await.unwrap();
    meter.open(&apdu);
    let value = association.value(Data::Boolean(true));
    let good = meter.seal(0xCC, &value);

    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let refused = association.unprotect(changed).await;
    assert_eq!(refused.as_ref().unwrap_err().code(), Code::DataLoss);
    assert_eq!(reason(refused), "CIPHERTEXT_INVALID");
    let counter = meter.counter;
    for (what, apdu) in [
        (
            "authenticated only",
            meter.seal_with(0xCC, 0x10, counter, &value),
        ),
        (
            "encrypted only",
            meter.seal_with(0xCC, 0x20, counter, &value),
        ),
        (
            "another suite",
            meter.seal_with(0xCC, 0x31, counter, &value),
        ),
        (
            "the broadcast key",
            meter.seal_with(0xCC, 0x70, counter, &value),
        ),
        ("not ciphered", value.clone()),
        (
            "the answer to an ACTION",
            meter.seal_with(0xCF, 0x30, counter, &value),
        ),
        ("another form", meter.seal_with(0xDB, 0x30, counter, &value)),
        (
            "a tag that is not the plaintext's",
            meter.seal_with(0xCC, 0x30, counter, &[0xC7, 1, 0xC1, 0, 0]),
        ),
        ("malformed", vec![0xCC, 0x01, 0x30]),
    ] {
        let refused = association.unprotect(apdu).await;
        assert_eq!(
            refused.as_ref().unwrap_err().code(),
            Code::DataLoss,
            "{what}"
        );
        assert_eq!(reason(refused), "RESPONSE_REFUSED", "{what}");
    }
    assert_eq!(association.unprotect(good.clone()).await.unwrap(), value);
    assert_eq!(
        reason(association.unprotect(good).await),
        "RESPONSE_REFUSED",
        "nothing waits for it"
    );
    let read = association.get_apdu(70, RELAY, 2);
    let (apdu, _) = association.protect(read).await.unwrap();
    meter.open(&apdu);
    let replayed = meter.seal_with(0xCC, 0x30, counter, &association.value(Data::Boolean(true)));
    assert_eq!(
        reason(association.unprotect(replayed).await),
        "CIPHERTEXT_INVALID",
        "an old counter"
    );
    association.close().await.unwrap();
}

async fn recordings_are_old(house: &House, meter: &mut Meter) {
    // What the meter said once, in an association long ago.
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    let recorded = meter.seal(0xCC, &association.value(Data::Boolean(true)));
    association.close().await.unwrap();

    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    assert_eq!(
        reason(association.unprotect(recorded).await),
        "CIPHERTEXT_INVALID"
    );
    association.close().await.unwrap();

    // A cold start took the meter's counter away; HLS proves that it is the meter all the same.
    let lost = meter.counter;
    meter.counter = 10;
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    association.close().await.unwrap();
    until("the trail says so", async || {
        let entries = house.bed.auditor.entries(EntryKind::KeyUse);
        entries
            .iter()
            .any(|entry| entry.detail.contains("went back"))
    })
    .await;
    meter.counter = lost;
}

async fn blocks_follow_a_permitted_get(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    let invoke = association.invoke();
    let block = |block, last| {
        Response::GetBlock {
            invoke,
            last,
            block,
            payload: Ok(vec![3, 1]),
        }
        .encode()
    };
    let next = |block| Request::GetNext { invoke, block }.encode();
    assert_eq!(
        reason(association.protect(next(1)).await),
        "APDU_NOT_PERMITTED",
        "no block came"
    );
    let first = meter.seal(0xCC, &block(1, false));
    association.unprotect(first).await.unwrap();
    assert_eq!(
        reason(association.protect(next(2)).await),
        "APDU_NOT_PERMITTED",
        "another block"
    );
    let (apdu, _) = association.protect(next(1)).await.unwrap();
    assert_eq!(meter.open(&apdu), next(1));
    assert_eq!(
        reason(association.protect(next(1)).await),
        "APDU_NOT_PERMITTED",
        "once"
    );
    let last = meter.seal(0xCC, &block(2, true));
    association.unprotect(last).await.unwrap();
    assert_eq!(
        reason(association.protect(next(2)).await),
        "APDU_NOT_PERMITTED",
        "it was the last"
    );
}

async fn low_level_security_believes_rising_counters_only(house: &House, meter: &mut Meter) {
    let signed = house.bed.auditor.sign(&reset_permit());
    let how = (Mechanism::Low, Protection::Glo);
    meter.counter += 100;
    let mut association = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    assert_eq!(association.challenge, PASSWORD);
    association.initiate(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    let value = association.value(Data::Boolean(false));
    let ciphered = meter.seal(0xCC, &value);
    assert_eq!(association.unprotect(ciphered).await.unwrap(), value);

    let mut association = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    let highest = meter.counter;
    meter.counter -= 3;
    let refused = association.initiate(meter).await;
    assert_eq!(
        reason(refused),
        "CIPHERTEXT_INVALID",
        "nothing proves the meter alive"
    );
    meter.counter = highest;
}

async fn general_glo_names_the_sender(house: &House, meter: &mut Meter) {
    let signed = house.bed.auditor.sign(&reset_permit());
    let how = (Mechanism::HlsGmac, Protection::GeneralGlo);
    let mut association = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    association.initiate(meter).await.unwrap();
    let token = association.answer(&[1; 16], SERVER).await.unwrap();
    meter
        .spent
        .insert(u32::from_be_bytes(token[1..5].try_into().unwrap()));
    let reply = association.reply(token).await.unwrap();
    assert_eq!((reply[0], &reply[2..10]), (0xDB, &CLIENT[..]));
    meter.open(&reply);
    meter.counter += 1;
    let theirs = meter.token(SERVER, meter.counter, &association.challenge);
    let answer = Response::Action {
        invoke: association.invoke(),
        result: dlms::ActionResult::new(0),
        data: Some(Ok(Data::OctetString(theirs.clone()))),
    };
    let good = meter.seal(0xDB, &answer.encode());
    let mut stranger = good.clone();
    stranger[9] ^= 1;
    assert_eq!(
        reason(association.unprotect(stranger).await),
        "RESPONSE_REFUSED"
    );
    association.unprotect(good).await.unwrap();
    association.verify(theirs).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    assert_eq!(
        meter.open(&association.protect(read.clone()).await.unwrap().0),
        read
    );
}

async fn the_public_client_reads_counters_only(house: &House) {
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
    let other = plain.get_apdu(70, RELAY, 3);
    assert_eq!(reason(plain.protect(other).await), "APDU_NOT_PERMITTED");
    let refused = Association::hls(&house.custody, &bare, "meter-bare").await;
    assert_eq!(reason(refused.map(|_| ())), "KEYS_UNKNOWN");
}

async fn a_permit_opens_what_it_says(house: &House) {
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

async fn contexts_belong_to_their_peer(house: &House, meter: &mut Meter) {
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

async fn a_moved_row_is_noticed(house: &House) {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    // The keys of the generated meter-0002 replace those of a victim, check value and all.
    let mut keys = house.bed.keys(house.running.address);
    keys.import_lab_keys(lab_keys("victim")).await.unwrap();
    let (good, moved, swapped) = (
        "SELECT 1",
        "UPDATE meter_keys SET (wrapped_encryption_key, check_value) = \
         (SELECT wrapped_encryption_key, check_value FROM meter_keys WHERE meter_id = 'meter-0002') WHERE meter_id = 'victim'",
        "UPDATE meter_keys SET (sealed_authentication_key) = \
         (SELECT sealed_authentication_key FROM meter_keys WHERE meter_id = 'meter-0002') WHERE meter_id = 'victim'",
    );
    for (statement, expected) in [
        (good, None),
        (moved, Some("KEY_ROW_CHANGED")),
        (swapped, Some("KEY_ROW_CHANGED")),
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
        let signed = house.bed.auditor.sign(&permit("victim", Vec::new()));
        let opened = Association::hls(&house.custody, &signed, "victim")
            .await
            .map(drop);
        match expected {
            None => opened.unwrap(),
            Some(expected) => assert_eq!(reason(opened), expected),
        }
    }
    pool.close().await;
}

async fn uses_outlive_a_restart(house: House, meter: &mut Meter, tasks: &Tasks) -> House {
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

async fn no_secret_is_at_rest(house: &House) {
    let pin = std::fs::read_to_string(house.bed.dir.join("pin")).unwrap();
    let secrets: [&[u8]; 4] = [&EK, &AK, PASSWORD, pin.trim().as_bytes()];
    for file in std::fs::read_dir(&house.bed.dir).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("custody.db") {
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        for secret in secrets {
            let hex = hex::encode(secret);
            for form in [secret, hex.as_bytes(), hex.to_uppercase().as_bytes()] {
                assert!(
                    !content.windows(form.len()).any(|window| window == form),
                    "{name} holds a secret"
                );
            }
        }
    }
}
