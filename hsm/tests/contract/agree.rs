//! The head-end's own keys: signatures, and keys agreed with a meter.

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{AesGcm, aes::Aes128, aes::Aes256};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest;
use aws_lc_rs::error::Unspecified;
use hsm::{Curve, Error, GcmBackend, KeyDerivation, Role, Token};
use zeroize::Zeroizing;

use crate::lab::{Brand, Lab, scenario};

const OTHER_INFO: &[u8] = b"\x60\x85\x74\x05\x08\x03\x00MMM\0\0\0\0\x01MMM\0\0\xBCaN";

fn names(curve: Curve) -> (&'static str, &'static str, &'static agreement::Algorithm) {
    match curve {
        Curve::P256 => ("sign-p256-1", "agree-p256-1", &agreement::ECDH_P256),
        Curve::P384 => ("sign-p384-1", "agree-p384-1", &agreement::ECDH_P384),
    }
}

/// The key as software derives it.
fn derived(curve: Curve, own: &PrivateKey, public: &[u8]) -> Vec<u8> {
    let peer = UnparsedPublicKey::new(own.algorithm(), public);
    agreement::agree(own, peer, Unspecified, |z| {
        let hash = match curve {
            Curve::P256 => &digest::SHA256,
            Curve::P384 => &digest::SHA384,
        };
        let octets = digest::digest(hash, &[&[0, 0, 0, 1], z, OTHER_INFO].concat());
        Ok(octets.as_ref()[..curve.agreed()].to_vec())
    })
    .unwrap()
}

fn seal(key: &[u8], msg: &[u8]) -> Vec<u8> {
    let payload = Payload { msg, aad: b"a" };
    match key.len() {
        16 => AesGcm::<Aes128, U12, U12>::new_from_slice(key)
            .unwrap()
            .encrypt(&[7; 12].into(), payload)
            .unwrap(),
        _ => AesGcm::<Aes256, U12, U12>::new_from_slice(key)
            .unwrap()
            .encrypt(&[7; 12].into(), payload)
            .unwrap(),
    }
}

/// The ways in which a token of this brand derives keys, the one it takes by itself first.
fn derivations(lab: &Lab) -> &'static [KeyDerivation] {
    match lab.brand {
        Brand::Softhsm => &[KeyDerivation::DigestKey, KeyDerivation::HostZ],
        Brand::Kryoptic => &[
            KeyDerivation::TokenSp800,
            KeyDerivation::DigestKey,
            KeyDerivation::HostZ,
        ],
    }
}

scenario! {
    /// Wherever the key is derived, and however it is ciphered with.
    async fn token_and_software_agree_on_keys(lab) {
        let mut ways: Vec<_> = derivations(lab)
            .iter()
            .flat_map(|how| [(Some(*how), None), (Some(*how), Some(GcmBackend::EcbGhash))])
            .collect();
        ways.insert(0, (None, None));
        for (derivation, gcm) in ways {
            let mut config = lab.config(Role::Custody);
            config.key_derivation = derivation;
            config.gcm = gcm;
            let token = Token::open(&config, Role::Custody).await.unwrap();
            let found = token.capabilities().remove(0).key_derivation;
            let expected = derivation.unwrap_or(derivations(lab)[0]);
            assert_eq!(found.into_values().collect::<Vec<_>>(), [expected; 2]);
            for curve in [Curve::P256, Curve::P384] {
                agrees(&token, curve).await;
            }
        }
    }
}

async fn agrees(token: &Token, curve: Curve) {
    let (_, label, algorithm) = names(curve);
    let meter = PrivateKey::generate(algorithm).unwrap();
    let public = meter.compute_public_key().unwrap();
    let peer = &public.as_ref()[1..];

    let ours = token.public_key(label).await.unwrap();
    let key = token.agree(curve, label, peer, OTHER_INFO).await.unwrap();
    let sealed = token.seal(&key, [7; 12], b"a", b"static").await.unwrap();
    let expected = derived(curve, &meter, &ours);
    assert_eq!(sealed, seal(&expected, b"static"), "{curve:?}");

    let (key, ours) = token.agree_once(curve, peer, OTHER_INFO).await.unwrap();
    assert!(curve.is_public_key(&ours));
    let sealed = token.seal(&key, [7; 12], b"a", b"once").await.unwrap();
    let ours = [&[4], &ours[..]].concat();
    let expected = derived(curve, &meter, &ours);
    assert_eq!(sealed, seal(&expected, b"once"), "{curve:?}");
    let (_, other) = token.agree_once(curve, peer, OTHER_INFO).await.unwrap();
    assert_ne!(ours[1..], other, "a pair of its own each time");
}

scenario! {
    /// SoftHSM has no KDF: told to use one, it agrees on nothing.
    on Softhsm: async fn a_derivation_that_a_token_has_not_is_not_replaced(lab) {
        let mut config = lab.config(Role::Custody);
        config.key_derivation = Some(KeyDerivation::TokenSp800);
        let token = Token::open(&config, Role::Custody).await.unwrap();
        let able = token.capabilities().remove(0);
        assert!(able.key_derivation.is_empty());
        assert_eq!(able.off.keys().collect::<Vec<_>>(), ["agree-p256-1", "agree-p384-1"]);
        let public = token.public_key("sign-p256-1").await.unwrap();
        let refused = token.agree(Curve::P256, "agree-p256-1", &public[1..], b"").await;
        assert!(matches!(refused, Err(Error::KeyOff { .. })), "{refused:?}");
        // not even with a key pair for once
        token.agree_once(Curve::P256, &public[1..], b"").await.unwrap_err();
    }
}

scenario! {
    async fn a_key_off_the_curve_is_refused_before_the_token_sees_it(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let (_, label, algorithm) = names(Curve::P256);
        let public = PrivateKey::generate(algorithm).unwrap().compute_public_key().unwrap();
        let mut off = public.as_ref()[1..].to_vec();
        off[63] ^= 1;
        for peer in [&off[..], &[0; 64], &[], &public.as_ref()[..64], public.as_ref()] {
            let refused = token.agree(Curve::P256, label, peer, OTHER_INFO).await;
            assert!(matches!(refused, Err(Error::PublicKeyInvalid)), "{}", peer.len());
            let refused = token.agree_once(Curve::P256, peer, OTHER_INFO).await;
            assert!(matches!(refused, Err(Error::PublicKeyInvalid)));
        }
        let refused = token.agree(Curve::P256, "sign-p256-1", &public.as_ref()[1..], &[]).await;
        assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "a key for signing");
        let refused = token.agree(Curve::P384, label, &[0; 96], &[]).await;
        assert!(matches!(refused, Err(Error::PublicKeyInvalid)));
    }
}

scenario! {
    async fn the_head_end_signs_on_both_curves(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        for curve in [Curve::P256, Curve::P384] {
            let (label, other, _) = names(curve);
            let public = token.public_key(label).await.unwrap();
            for message in [&b""[..], b"message", &[7; 100_000]] {
                let signature = token.sign_ecdsa(curve, label, message).await.unwrap();
                assert_eq!(signature.len(), curve.pair());
                assert!(curve.verifies(&public[1..], message, &signature));
                assert!(!curve.verifies(&public[1..], b"massage", &signature));
            }
            for wrong in [other, "transcript", "sign-p256-2"] {
                let refused = token.sign_ecdsa(curve, wrong, b"").await;
                assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "{wrong}");
            }
        }
    }
}

scenario! {
    async fn a_dedicated_key_is_held_and_not_shown(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        for octets in [16, 32] {
            let clear = Zeroizing::new(vec![0xDE; octets]);
            let key = token.hold_clear(&clear).await.unwrap();
            let sealed = token.seal(&key, [7; 12], b"a", b"text").await.unwrap();
            assert_eq!(sealed, seal(&clear, b"text"));
            // without a tag: the same ciphertext, and the same call takes it back
            let bare = token.cipher_only(&key, [7; 12], b"text").await.unwrap();
            assert_eq!(bare, sealed[..4]);
            assert_eq!(token.cipher_only(&key, [7; 12], &bare).await.unwrap(), b"text");
        }
        let refused = token.hold_clear(&Zeroizing::new(vec![0; 24])).await;
        assert!(matches!(refused, Err(Error::Length { .. })));
    }
}

scenario! {
    /// A token that cannot do suite 1 and 2 still serves suite 0, and says what it does without.
    async fn a_token_without_key_agreement_serves_what_it_can(lab) {
        lab.without("CKM_ECDH1_DERIVE");
        let token = lab.open(Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        token.sign_ecdsa(Curve::P256, "sign-p256-1", b"m").await.unwrap();
        let public = token.public_key("sign-p256-1").await.unwrap();
        let refused = token.agree(Curve::P256, "agree-p256-1", &public[1..], b"").await;
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, Error::KeyOff { label, .. } if label == "agree-p256-1"),
            "{error}"
        );
        let refused = token.public_key("agree-p384-1").await;
        assert!(matches!(refused, Err(Error::KeyOff { .. })), "nobody is told a key that is not used");
        assert!(token.health().await);
    }
}
