//! Keys changed over the air: what is ciphered in a rotation, and what settles it.

use aws_lc_rs::key_wrap::{AES_128, AesKek, KeyWrap as _};
use dlms::{ActionResult, Data, Response, agreement::KeyTransfer};
use latchkey_proto::{
    audit::v1::{Command, Permit, Purpose, SignedPermit},
    custody::v1::{
        BeginRotationRequest, BeginRotationResponse, GetRotationRequest, ImportLabKeysRequest,
        Mechanism, OpenContextRequest, Protection, RotationKeys, RotationState,
    },
};
use tonic::Status;

use crate::{
    House,
    support::{Association, Meter, action, get, lab_keys, method, permit},
};

const ROTATED: &str = "meter-rotated";
const SETUP: &str = "0.0.43.0.0.255";
const IC: &str = "0.0.43.1.0.255";
const MASTER: [u8; 16] = [9; 16];

/// A permit to change the keys with these ids; the rotation's id is as often this octet.
fn rekey(id: u8, keys: &[u8]) -> Permit {
    let keys = keys.iter().map(|key| Data::Enum(*key)).collect();
    let named = Data::Structure(vec![Data::OctetString(vec![id; 16]), Data::Array(keys)]);
    let command = Command {
        max_uses: 4,
        ..action(64, SETUP, 2, &named.encode())
    };
    Permit {
        purpose: Purpose::Rekey.into(),
        tier: 0,
        max_associations: 100,
        ..permit(ROTATED, vec![command])
    }
}

async fn begin(house: &House, permit: &SignedPermit) -> Result<BeginRotationResponse, Status> {
    let request = BeginRotationRequest {
        permit: Some(permit.clone()),
        meter_id: ROTATED.to_owned(),
    };
    let begun = house.custody.clone().begin_rotation(request).await?;
    Ok(begun.into_inner())
}

async fn state(house: &House, id: u8) -> RotationState {
    let request = GetRotationRequest {
        rotation_id: uuid(id),
    };
    let rotation = house.custody.clone().get_rotation(request).await.unwrap();
    rotation.into_inner().rotation.unwrap().state()
}

fn uuid(id: u8) -> String {
    let hex = hex::encode([id; 16]);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

async fn open(
    house: &House,
    permit: &SignedPermit,
    keys: RotationKeys,
) -> Result<Association, Status> {
    let request = OpenContextRequest {
        permit: Some(permit.clone()),
        meter_id: ROTATED.to_owned(),
        mechanism: Mechanism::HlsGmac.into(),
        protection: Protection::Glo.into(),
        security: None,
        rotation_keys: keys.into(),
    };
    let opened = Association::open_as(&house.custody, request).await?;
    Ok(opened.0)
}

/// The encryption key that a parameter carries, as the meter unwraps it.
fn carried(parameter: &[u8]) -> [u8; 16] {
    let items = KeyTransfer::from_data(&Data::decode(parameter).unwrap()).unwrap();
    let mut out = [0; 24];
    let kek = AesKek::new(&AES_128, &MASTER).unwrap();
    let key = kek.unwrap(&items[0].wrapped, &mut out).unwrap();
    key.try_into().unwrap()
}

fn transfer(association: &mut Association, parameter: &[u8]) -> Vec<u8> {
    let parameter = Data::decode(parameter).unwrap();
    association.action_apdu(method(64, SETUP, 2), Some(parameter))
}

fn reason(refused: Result<impl Sized, Status>) -> String {
    kit::status::reason(&refused.err().expect("it is refused")).unwrap_or_default()
}

/// The meter answers the ACTION.
async fn answered(association: &mut Association, meter: &mut Meter, result: u8) {
    let answer = Response::Action {
        invoke: association.invoke(),
        result: ActionResult::new(result),
        data: None,
    };
    let ciphered = meter.seal(0xCF, &answer.encode());
    association.unprotect(ciphered).await.unwrap();
}

/// A reading association, as any reset begins.
async fn ordinary(house: &House) -> Result<Association, Status> {
    let reads = house
        .bed
        .auditor
        .sign(&permit(ROTATED, vec![get(1, IC, 2)]));
    Association::hls(&house.custody, &reads, ROTATED).await
}

/// Under a permit of PURPOSE_REKEY custody ciphers what it prepared, in a context for it, and nothing else; without one, no
/// change of keys at all.
pub(crate) async fn only_what_was_prepared_is_ciphered(house: &House) {
    let keys = ImportLabKeysRequest {
        key_encryption_key: MASTER.to_vec(),
        ..lab_keys(ROTATED)
    };
    let mut client = house.bed.keys(house.running.address);
    client.import_lab_keys(keys).await.unwrap();
    let mut meter = Meter::new(ROTATED);
    let signed = house.bed.auditor.sign(&rekey(1, &[0]));

    // No rotation has begun, and no other permit begins one.
    assert_eq!(
        reason(open(house, &signed, RotationKeys::Old).await),
        "ROTATION_UNKNOWN"
    );
    let reset = house
        .bed
        .auditor
        .sign(&permit(ROTATED, vec![get(1, IC, 2)]));
    assert_eq!(reason(begin(house, &reset).await), "PERMIT_INVALID");
    assert_eq!(
        reason(open(house, &reset, RotationKeys::New).await),
        "PERMIT_INVALID"
    );
    let first = begin(house, &signed).await.unwrap();
    let send = first.send.clone().unwrap();
    assert_eq!(
        begin(house, &signed).await.unwrap().send,
        first.send,
        "the same keys again"
    );
    assert_eq!(
        reason(ordinary_under(house, &signed).await),
        "PERMIT_INVALID"
    );

    let mut association = open(house, &signed, RotationKeys::Old).await.unwrap();
    association.establish(&mut meter).await.unwrap();
    let named = Data::decode(&rekey(1, &[0]).commands[0].parameter).unwrap();
    let mut forged = KeyTransfer::from_data(&Data::decode(&send.parameter).unwrap()).unwrap();
    forged[0].wrapped[0] ^= 1;
    for (parameter, refusal) in [
        (named, "APDU_NOT_PERMITTED"),
        (KeyTransfer::to_data(&forged), "APDU_NOT_PERMITTED"),
        (Data::Array(Vec::new()), "APDU_NOT_PERMITTED"),
    ] {
        let apdu = association.action_apdu(method(64, SETUP, 2), Some(parameter));
        assert_eq!(reason(association.protect(apdu).await), refusal);
    }
    let real = || Some(Data::decode(&send.parameter).unwrap());
    for other in [
        method(64, SETUP, 3),
        method(64, SETUP, 1),
        method(64, "0.0.43.0.1.255", 2),
        method(70, "0.0.96.3.10.255", 1),
    ] {
        let apdu = association.action_apdu(other, real());
        assert_eq!(
            reason(association.protect(apdu).await),
            "APDU_FORBIDDEN",
            "{other:?}"
        );
    }
    assert_eq!(
        state(house, 1).await,
        RotationState::New,
        "nothing has left"
    );
    no_way_round(house, &mut meter, &send.parameter).await;
}

async fn no_way_round(house: &House, meter: &mut Meter, parameter: &[u8]) {
    // A permit of a reset that names the very octets is no way round.
    let sly = permit(
        ROTATED,
        vec![action(64, SETUP, 2, parameter), get(1, IC, 2)],
    );
    let sly = house.bed.auditor.sign(&sly);
    let mut other = Association::hls(&house.custody, &sly, ROTATED)
        .await
        .unwrap();
    other.establish(meter).await.unwrap();
    let apdu = transfer(&mut other, parameter);
    assert_eq!(reason(other.protect(apdu).await), "APDU_FORBIDDEN");
}

async fn ordinary_under(house: &House, signed: &SignedPermit) -> Result<Association, Status> {
    Association::hls(&house.custody, signed, ROTATED).await
}

/// Sent is not in force; a yes is not, either. What the meter proves is.
pub(crate) async fn keys_are_in_force_when_the_meter_has_proven_them(house: &House) {
    let signed = house.bed.auditor.sign(&rekey(1, &[0]));
    let mut old = Meter::new(ROTATED);
    old.counter = 5000;
    let send = begin(house, &signed).await.unwrap().send.unwrap();
    let mut new = Meter::new(ROTATED);
    new.ek = carried(&send.parameter);
    assert_ne!(new.ek, old.ek);

    the_old_ones_are_proven(house, &signed, (&mut old, &mut new)).await;

    // Sent again, answered with yes, and then proven.
    let mut association = open(house, &signed, RotationKeys::Old).await.unwrap();
    association.establish(&mut old).await.unwrap();
    let apdu = transfer(&mut association, &send.parameter);
    let (apdu, _) = association.protect(apdu).await.unwrap();
    old.open(&apdu);
    answered(&mut association, &mut old, 0).await;
    assert_eq!(
        state(house, 1).await,
        RotationState::Unsettled,
        "a yes proves nothing"
    );
    let mut probe = open(house, &signed, RotationKeys::New).await.unwrap();
    probe.establish(&mut new).await.unwrap();
    assert_eq!(state(house, 1).await, RotationState::Active);
    assert!(
        new.spent.iter().all(|spent| *spent < 200),
        "counters begin anew: {:?}",
        new.spent
    );
    assert_eq!(
        begin(house, &signed).await.unwrap().send,
        None,
        "it is over"
    );
    assert_eq!(
        reason(open(house, &signed, RotationKeys::Old).await),
        "ROTATION_OVER"
    );
    for _ in 0..3 {
        // `Meter` counts what it takes: no counter comes twice.
        ordinary(house)
            .await
            .unwrap()
            .establish(&mut new)
            .await
            .unwrap();
    }
    no_old_octets(house, &mut new, &send.parameter).await;
}

/// Sent, and the answer lost: nobody else speaks to the meter. The old keys proven: as it was.
async fn the_old_ones_are_proven(
    house: &House,
    signed: &SignedPermit,
    (old, new): (&mut Meter, &mut Meter),
) {
    let send = begin(house, signed).await.unwrap().send.unwrap();
    let mut association = open(house, signed, RotationKeys::Old).await.unwrap();
    association.establish(old).await.unwrap();
    let apdu = transfer(&mut association, &send.parameter);
    let (lost, _) = association.protect(apdu).await.unwrap();
    assert_eq!(state(house, 1).await, RotationState::Unsettled);
    assert_eq!(reason(ordinary(house).await), "KEYS_UNSETTLED");
    let mut probe = open(house, signed, RotationKeys::New).await.unwrap();
    let initiate = probe.initiate(new).await;
    initiate.unwrap();
    assert_eq!(
        state(house, 1).await,
        RotationState::Unsettled,
        "an answer over no challenge"
    );
    let mut probe = open(house, signed, RotationKeys::Old).await.unwrap();
    probe.establish(old).await.unwrap();
    assert_eq!(state(house, 1).await, RotationState::New);
    let late = dlms::Ciphered::decode(&lost).unwrap().counter;
    assert!(
        old.spent.iter().any(|spent| *spent > late),
        "the lost request is dead"
    );
    ordinary(house).await.unwrap().establish(old).await.unwrap();
}

/// The next rotation sends other octets, and takes no old ones.
async fn no_old_octets(house: &House, new: &mut Meter, before: &[u8]) {
    let signed = house.bed.auditor.sign(&rekey(2, &[0]));
    let next = begin(house, &signed).await.unwrap().send.unwrap();
    assert_ne!(next.parameter, before);
    let mut association = open(house, &signed, RotationKeys::Old).await.unwrap();
    association.establish(new).await.unwrap();
    let apdu = transfer(&mut association, before);
    assert_eq!(
        reason(association.protect(apdu).await),
        "APDU_NOT_PERMITTED"
    );
    let apdu = transfer(&mut association, &next.parameter);
    let (apdu, _) = association.protect(apdu).await.unwrap();
    new.open(&apdu);
    answered(&mut association, new, 3).await;
    assert_eq!(state(house, 2).await, RotationState::New, "an authentic no");
}

/// A meter that proves nothing is not asked for ever.
pub(crate) async fn openings_without_a_proof_are_bounded(house: &House) {
    let signed = house.bed.auditor.sign(&rekey(2, &[0]));
    let mut opened = 0;
    let refused = loop {
        match open(house, &signed, RotationKeys::New).await {
            Ok(_) => opened += 1,
            Err(refused) => break refused,
        }
        assert!(opened < 50, "there is no bound");
    };
    assert_eq!(opened, 12, "rotation_openings_max");
    assert_eq!(
        kit::status::reason(&refused).unwrap(),
        "ROTATION_OPENINGS_SPENT"
    );
}
