//! Keys on their way to a meter.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload, consts::U12};
use aes_gcm::{AesGcm, aes::Aes128};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_128, AES_256, AesKek, KeyWrap as _};
use hsm::{Curve, Role};
use zeroize::Zeroizing;

use crate::lab::scenario;

/// RFC 3394 in software: what a meter does.
fn unwrap(key: &[u8], wrapped: &[u8]) -> Vec<u8> {
    let cipher = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let mut out = vec![0; wrapped.len()];
    let kek = AesKek::new(cipher, key).unwrap();
    kek.unwrap(wrapped, &mut out).unwrap().to_vec()
}

fn seal(key: &[u8]) -> Vec<u8> {
    let payload = Payload {
        msg: b"apdu",
        aad: b"a",
    };
    let cipher = AesGcm::<Aes128, U12, U12>::new_from_slice(key).unwrap();
    cipher.encrypt(&[7; 12].into(), payload).unwrap()
}

scenario! {
    async fn what_is_sent_is_what_is_kept(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let old = Zeroizing::new(vec![9; 16]);
        let kept = token.wrap_clear("kek-mk-1", &old).await.unwrap();
        let master = token.unwrap_master_key("kek-mk-1", &kept).await.unwrap();

        let new = token.generate_for_meter("kek-ek-1", &master, 16).await.unwrap();
        let key = token.unwrap_key("kek-ek-1", &new.kept).await.unwrap();
        let sealed = token.seal(&key, [7; 12], b"a", b"apdu").await.unwrap();
        assert_eq!(sealed, seal(&unwrap(&old, &new.sent)), "both ends have one key");
        let other = token.generate_for_meter("kek-ek-1", &master, 16).await.unwrap();
        assert_ne!(new, other);

        let ak = Zeroizing::new(vec![5; 16]);
        let sent = token.wrap_for_meter(&master, &ak).await.unwrap();
        assert_eq!(unwrap(&old, &sent), *ak);
    }
}

scenario! {
    async fn a_new_master_key_is_in_force_where_it_is_known(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        for octets in [16, 32] {
            let old = Zeroizing::new(vec![9; octets]);
            let kept = token.wrap_clear("kek-mk-1", &old).await.unwrap();
            let master = token.unwrap_master_key("kek-mk-1", &kept).await.unwrap();
            let new = token.generate_master_for_meter("kek-mk-1", &master, octets).await.unwrap();
            let value = unwrap(&old, &new.sent);
            assert_eq!(unwrap(&value, &new.confirmed), value, "under itself");
            // it wraps and unwraps from here on
            let master = token.unwrap_master_key("kek-mk-1", &new.kept).await.unwrap();
            let next = token.generate_for_meter("kek-ek-1", &master, octets).await.unwrap();
            assert_eq!(unwrap(&value, &next.sent).len(), octets);
        }
    }
}

scenario! {
    async fn a_master_key_is_agreed_with_a_pair_of_its_own(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let info = b"\x60\x85\x74\x05\x08\x03\x02CLIENT..METER...";
        for (curve, algorithm, hash) in [
            (Curve::P256, &agreement::ECDH_P256, &digest::SHA256),
            (Curve::P384, &agreement::ECDH_P384, &digest::SHA384),
        ] {
            let meter = PrivateKey::generate(algorithm).unwrap();
            let public = meter.compute_public_key().unwrap();
            let (own, ours) = token.begin_agreement(curve).await.unwrap();
            let peer = &public.as_ref()[1..];
            let new = token.agree_master(&own, peer, info, "kek-mk-1").await.unwrap();
            let ours = UnparsedPublicKey::new(algorithm, [&[4], &ours[..]].concat());
            let derived = agreement::agree(&meter, ours, Unspecified, |z| {
                let octets = digest::digest(hash, &[&[0, 0, 0, 1], z, info].concat());
                Ok(octets.as_ref()[..curve.agreed()].to_vec())
            });
            let derived = derived.unwrap();
            assert!(new.sent.is_empty());
            assert_eq!(unwrap(&derived, &new.confirmed), derived, "{curve:?}");
            token.unwrap_master_key("kek-mk-1", &new.kept).await.unwrap();
        }
    }
}
