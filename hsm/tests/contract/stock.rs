//! Many meters' keys at one time.

use aws_lc_rs::cmac;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use hsm::{Comparison, Delivery, Error, Keks, Role, Sealing};

use crate::key::transport;
use crate::lab::{Lab, scenario};

fn sent(lab: &Lab, key: &[u8]) -> Vec<u8> {
    let kek = AesKek::new(&AES_256, &transport(lab)).unwrap();
    kek.wrap(key, &mut vec![0; key.len() + 8]).unwrap().to_vec()
}

fn keks() -> Keks {
    Keks {
        encryption: "kek-ek-1".to_owned(),
        master: "kek-mk-1".to_owned(),
        secret: "kek-hs-1".to_owned(),
    }
}

fn key(number: u8) -> [u8; 16] {
    let mut key = [0xA5; 16];
    key[3] = number;
    key
}

fn delivery(lab: &Lab, number: u8) -> Delivery {
    Delivery {
        transport: "transport-1".to_owned(),
        keks: keks(),
        encryption: sent(lab, &key(number)),
        broadcast: sent(lab, &[0xBB; 16]),
        master: sent(lab, &[number; 32]),
        secret: sent(lab, &[number; 40]),
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = cmac::Key::new(cmac::AES_128, key).unwrap();
    cmac::sign(&key, text).unwrap().as_ref().to_vec()
}

scenario! {
    /// More than one job, with two bad rows among them: the others come in, in their order.
    async fn a_delivery_comes_in_in_its_order(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let mut deliveries: Vec<_> = (0..150).map(|number| delivery(lab, number)).collect();
        deliveries[70].master[5] ^= 1;
        deliveries[71].secret.truncate(24);
        let kept = token.take_in(deliveries).await.unwrap();
        assert_eq!(kept.len(), 150);
        for (number, kept) in (0..).zip(&kept) {
            let part = match number {
                70 => Some("master"),
                71 => Some("secret"),
                _ => None,
            };
            let kept = match kept {
                Ok(kept) => kept,
                Err(rejected) => {
                    assert_eq!(Some(rejected.part), part, "{number}: {rejected:?}");
                    continue;
                }
            };
            assert_eq!(part, None, "{number} came in");
            let marks = kept.encryption_marks.unwrap();
            assert_eq!(marks.fingerprint.as_slice(), mac(&key(number), b"latchkey-key-id1"));
            assert_eq!(marks.check_value, mac(&key(number), &[0; 16])[..5]);
            let handle = token.unwrap_key("kek-ek-1", &kept.encryption).await.unwrap();
            assert_eq!(token.fingerprint(&handle).await.unwrap(), marks.fingerprint);
            assert_eq!(token.check_value(&handle).await.unwrap(), marks.check_value);
            assert_eq!(
                kept.broadcast_marks.unwrap().fingerprint.as_slice(),
                mac(&[0xBB; 16], b"latchkey-key-id1")
            );
            token.unwrap_master_key("kek-mk-1", &kept.master).await.unwrap();
            token.unwrap_secret("kek-hs-1", &kept.secret).await.unwrap();
        }
        let stored = kept.iter().flatten().map(|kept| ("kek-ek-1".to_owned(), kept.encryption.clone()));
        let marks = token.marks_of(stored.collect()).await.unwrap();
        let marks: Vec<_> = marks.into_iter().map(Result::unwrap).collect();
        let expected: Vec<_> = kept.iter().flatten().map(|kept| kept.encryption_marks.unwrap()).collect();
        assert_eq!(marks, expected);
    }
}

scenario! {
    /// A transport key that is not there is no fault of a row.
    async fn a_delivery_under_no_key_of_ours_is_refused_whole(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let mut deliveries: Vec<_> = (0..3).map(|number| delivery(lab, number)).collect();
        deliveries[1].transport = "transport-9".to_owned();
        let refused = token.take_in(deliveries).await;
        assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "{refused:?}");
    }
}

scenario! {
    async fn readable_secrets_are_sealed_and_compared_inside(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let sealing = |number: u8| Sealing {
            transport: "transport-1".to_owned(),
            wrapped: sent(lab, &key(number)),
            is_key: true,
            kek: "kek-ak-1".to_owned(),
            aad: vec![number; 60],
        };
        let mut sealings: Vec<_> = (0..100).map(sealing).collect();
        sealings[99].wrapped[0] ^= 1;
        let sealed = token.seal_in(sealings).await.unwrap();
        assert!(matches!(sealed[99], Err(Error::WrappedKeyInvalid { .. })));
        let held: Vec<_> = sealed.iter().flatten().cloned().collect();
        let revealed = token.reveal_ak("kek-ak-1", &[7; 60], &held[7]).await.unwrap();
        assert_eq!(revealed.as_slice(), key(7));

        let mut comparisons: Vec<_> = (0..80)
            .map(|number| Comparison {
                incoming: sealing(number),
                held: held[usize::from(number)].clone(),
            })
            .collect();
        comparisons[3].incoming.wrapped = sent(lab, &key(200));
        comparisons[4].incoming.wrapped[0] ^= 1;
        comparisons[5].held[30] ^= 1;
        comparisons[6].held.clear();
        comparisons[7].incoming.aad.push(0);
        let same = token.compare_in(comparisons).await.unwrap();
        for (number, same) in same.into_iter().enumerate() {
            assert_eq!(same, !(3..=7).contains(&number), "{number}");
        }
    }
}
