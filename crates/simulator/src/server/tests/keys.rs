//! Keys that are changed over the air: in force when the association ends, and never lost.

use dlms::agreement::{KeyId, KeyTransfer};
use softcipher::{Keys, Secret, Setup, SoftCipher};

use dlms::SystemTitle;

use super::*;

const SECURITY: &str = "0.0.43.0.0.255";
const DENIED: Option<u8> = Some(3);

/// The parameter that brings these keys, each its number and then itself; and the client's cipher, which knows them too.
fn transfer(head_end: &mut HeadEnd, keys: &[(KeyId, u8)]) -> Data {
    let item = |(key, octet): &(KeyId, u8)| {
        let new = Secret::from([*octet; 16]);
        head_end.cipher.transfer(*key, new).unwrap()
    };
    KeyTransfer::to_data(&keys.iter().map(item).collect::<Vec<_>>())
}

const BOTH: &[(KeyId, u8)] = &[
    (KeyId::GlobalUnicastEncryption, 0x11),
    (KeyId::GlobalAuthentication, 0x22),
];

async fn opens(head_end: &mut HeadEnd) -> bool {
    match head_end.open().await {
        Ok(association) => {
            association.release().await;
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn new_keys_are_in_force_when_the_association_ends() {
    let mut rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    let parameter = transfer(&mut head_end, BOTH);
    let mut association = head_end.association().await;
    assert_eq!(association.act(64, SECURITY, 2, parameter).await, Some(0));
    let answer = association.get(70, RELAY, 2).await;
    assert_eq!(answer, Ok(Data::Boolean(true)), "still under the old ones");
    association.release().await;
    assert!(!opens(&mut head_end).await, "the old ones are gone");
    assert_eq!(head_end.cipher.commit(), 2);
    assert!(opens(&mut head_end).await);
    rig.until(|what| {
        matches!(
            what,
            Happening::Logged {
                code: code::KEYS_CHANGED
            }
        )
    })
    .await;
    rig.end().await;
}

/// The answer is lost, or the meter dies with it: what was said to be taken is taken.
#[tokio::test]
async fn new_keys_survive_the_meter() {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("meter.json"));
    let rig = Rig::start(|options| options.state_file.clone_from(&file)).await;
    let mut head_end = rig.head_end();
    let parameter = transfer(&mut head_end, BOTH);
    let mut association = head_end.association().await;
    assert_eq!(association.act(64, SECURITY, 2, parameter).await, Some(0));
    // what is in the file now is what a meter has that dies now: nobody was released
    let saved = std::fs::read(file.as_ref().unwrap()).unwrap();
    drop(association);
    let address = rig.address;
    rig.end().await;
    std::fs::write(file.as_ref().unwrap(), saved).unwrap();

    let rig = Rig::start(|options| {
        options.state_file = file;
        options.listen = address;
    })
    .await;
    assert!(!opens(&mut head_end).await, "the old ones are gone");
    head_end.cipher.commit();
    assert!(opens(&mut head_end).await);
    rig.end().await;
}

/// The client did not see the answer and goes on with the old keys or the new ones: one of them works.
#[tokio::test]
async fn after_a_lost_connection_the_new_keys_are_in_force() {
    let rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    let parameter = transfer(&mut head_end, BOTH);
    let mut association = head_end.association().await;
    assert_eq!(association.act(64, SECURITY, 2, parameter).await, Some(0));
    drop(association);
    head_end.cipher.commit();
    assert!(opens(&mut head_end).await);
    rig.end().await;
}

#[tokio::test]
async fn a_new_master_key_brings_the_next_ones() {
    let rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    for keys in [&[(KeyId::Master, 0x33)], &BOTH[..1]] {
        let parameter = transfer(&mut head_end, keys);
        let mut association = head_end.association().await;
        assert_eq!(association.act(64, SECURITY, 2, parameter).await, Some(0));
        association.release().await;
        head_end.cipher.commit();
    }
    assert!(opens(&mut head_end).await);
    rig.end().await;
}

#[tokio::test]
async fn keys_are_taken_all_or_none() {
    let rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    // wrapped under a master key that the meter does not have
    let stranger = Keys {
        master: Some([9; 16].into()),
        ..Keys::default()
    };
    let title = SystemTitle::new(*b"LKHcli99");
    let mut stranger = SoftCipher::new(Setup::new(dlms::Suite::Suite0, title), stranger).unwrap();
    let key = KeyId::GlobalAuthentication;
    let foreign = stranger.transfer(key, Secret::from([0x22; 16])).unwrap();
    let key = KeyId::GlobalUnicastEncryption;
    let own = head_end
        .cipher
        .transfer(key, Secret::from([0x11; 16]))
        .unwrap();
    head_end.cipher.discard();
    let mut association = head_end.association().await;
    for (parameter, expected) in [
        (KeyTransfer::to_data(&[own.clone(), foreign]), DENIED),
        (KeyTransfer::to_data(&[]), Some(12)),
        (Data::Integer(0), Some(12)),
    ] {
        let answer = association.act(64, SECURITY, 2, parameter).await;
        assert_eq!(answer, expected);
    }
    let nobody = association.act(64, SECURITY, 3, Data::Integer(0)).await;
    assert_eq!(nobody, DENIED, "suite 0 agrees on no keys");
    association.release().await;
    assert!(opens(&mut head_end).await, "nothing has changed");

    let mut public = rig.head_end().plain(16, Mechanism::None, &[]);
    let mut association = public.association().await;
    let parameter = KeyTransfer::to_data(&[own]);
    assert_eq!(association.act(64, SECURITY, 2, parameter).await, DENIED);
    drop(association);
    rig.end().await;
}
