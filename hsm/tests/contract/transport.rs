//! Keys that come in under RSA-OAEP: nothing is shared with the maker but a public key.

use std::path::Path;

use aws_lc_rs::digest;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::MechanismType;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass};
use hsm::{Delivery, Error, Hash, Keks, OaepHash, Role, Token, TransportKey};
use zeroize::Zeroizing;

use crate::lab::{Brand, Lab, scenario};

const RSA: &str = "transport-rsa-1";

/// What this brand's tokens take.
fn hash(lab: &Lab) -> OaepHash {
    match lab.brand {
        Brand::Softhsm => OaepHash::Sha1,
        Brand::Kryoptic => OaepHash::Sha256,
    }
}

/// A key as its maker sends it.
fn sent_with(key: &TransportKey, hash: OaepHash, secret: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let public = PublicEncryptingKey::from_der(&key.spki).unwrap();
    assert_eq!(public.key_size_bits(), 3072);
    let public = OaepPublicEncryptingKey::new(public).unwrap();
    let mut sent = vec![0; public.ciphertext_size()];
    public
        .encrypt(algorithm, secret, &mut sent, None)
        .unwrap()
        .to_vec()
}

fn sent(key: &TransportKey, secret: &[u8]) -> Vec<u8> {
    sent_with(key, key.hash, secret)
}

async fn open(lab: &Lab) -> (Token, TransportKey) {
    lab.add_key(RSA);
    let token = lab.open(Role::Custody).await.unwrap();
    let key = token.transport_key(RSA).await.unwrap();
    assert_eq!(key.hash, hash(lab));
    (token, key)
}

scenario! {
    async fn keys_come_in_under_an_rsa_key(lab) {
        let (token, rsa) = open(lab).await;
        for octets in [16, 32] {
            let clear = Zeroizing::new(vec![0x11; octets]);
            let kept = token.import_wrapped(RSA, &sent(&rsa, &clear), "kek-ek-1").await.unwrap();
            let ours = token.wrap_clear("kek-ek-1", &clear).await.unwrap();
            assert_eq!(kept, ours, "RFC 3394 has one answer");
            token.unwrap_key("kek-ek-1", &kept).await.unwrap();
            let master = token.import_wrapped(RSA, &sent(&rsa, &clear), "kek-mk-1").await.unwrap();
            token.unwrap_master_key("kek-mk-1", &master).await.unwrap();
            let ak = token.import_ak(RSA, &sent(&rsa, &clear), "kek-ak-1", b"m1").await.unwrap();
            assert_eq!(token.reveal_ak("kek-ak-1", b"m1", &ak).await.unwrap(), clear);
        }
        for octets in [16, 40, 64] {
            let secret = vec![0x5E; octets];
            let kept = token.import_secret(RSA, &sent(&rsa, &secret), "kek-hs-1").await.unwrap();
            let held = token.unwrap_secret("kek-hs-1", &kept).await.unwrap();
            let made = token.digest_secret(&held, Hash::Sha256, &[], &[]).await.unwrap();
            assert_eq!(made, digest::digest(&digest::SHA256, &secret).as_ref());
        }
        // of a length that RFC 3394 would not have brought
        for secret in [&b"1"[..], b"password", b"thirteen octs", &[7; 64]] {
            let wrapped = sent(&rsa, secret);
            let kept = token.import_readable_secret(RSA, &wrapped, "kek-ak-1", b"m1").await.unwrap();
            assert_eq!(token.reveal_ak("kek-ak-1", b"m1", &kept).await.unwrap().as_slice(), secret);
        }
    }
}

scenario! {
    async fn what_rsa_does_not_open_or_may_not_bring_is_refused(lab) {
        let (token, rsa) = open(lab).await;
        let good = sent(&rsa, &[1; 16]);
        let other = match rsa.hash {
            OaepHash::Sha1 => OaepHash::Sha256,
            OaepHash::Sha256 => OaepHash::Sha1,
        };
        let mut damaged = good.clone();
        damaged[200] ^= 1;
        for bad in [damaged, sent_with(&rsa, other, &[1; 16]), vec![0; 384], vec![0xFF; 384]] {
            let refused = token.import_wrapped(RSA, &bad, "kek-ek-1").await;
            assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })), "{refused:?}");
            let refused = token.import_ak(RSA, &bad, "kek-ak-1", b"m1").await;
            assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })), "{refused:?}");
        }
        for length in [0, 24, 256, 383, 385] {
            let refused = token.import_wrapped(RSA, &vec![1; length], "kek-ek-1").await;
            assert!(matches!(refused, Err(Error::Length { .. })), "{length}: {refused:?}");
        }
        // keys and secrets of lengths that nothing here has
        for octets in [1, 8, 15, 17, 24, 64] {
            let wrapped = sent(&rsa, &vec![1; octets]);
            let refused = token.import_wrapped(RSA, &wrapped, "kek-ek-1").await;
            assert!(
                matches!(refused, Err(Error::Length { .. } | Error::WrappedKeyInvalid { .. })),
                "{octets}: {refused:?}"
            );
            let refused = token.import_ak(RSA, &wrapped, "kek-ak-1", b"m1").await;
            assert!(
                matches!(refused, Err(Error::Length { .. } | Error::WrappedKeyInvalid { .. })),
                "{octets}: {refused:?}"
            );
        }
        for octets in [1, 8, 13, 72] {
            let refused = token.import_secret(RSA, &sent(&rsa, &vec![1; octets]), "kek-hs-1").await;
            assert!(
                matches!(refused, Err(Error::Length { .. } | Error::WrappedKeyInvalid { .. })),
                "{octets}: {refused:?}"
            );
        }
        let refused = token.import_wrapped("transport-rsa-2", &good, "kek-ek-1").await;
        assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "{refused:?}");
        let refused = token.import_wrapped("transport-1", &good, "kek-ek-1").await;
        assert!(matches!(refused, Err(Error::Length { .. })), "{refused:?}");
        let refused = token.transport_key("transport-1").await;
        assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "{refused:?}");
        assert!(token.health().await);
    }
}

scenario! {
    /// A manufacturer's file under RSA, through the same door as any other.
    async fn a_delivery_comes_in_under_an_rsa_key(lab) {
        let (token, rsa) = open(lab).await;
        let delivery = |number: u8| Delivery {
            transport: RSA.to_owned(),
            keks: Keks {
                encryption: "kek-ek-1".to_owned(),
                master: "kek-mk-1".to_owned(),
                secret: "kek-hs-1".to_owned(),
            },
            encryption: sent(&rsa, &[number; 16]),
            broadcast: Vec::new(),
            master: sent(&rsa, &[number; 32]),
            secret: sent(&rsa, &[number; 24]),
        };
        let mut deliveries: Vec<_> = (0..7).map(delivery).collect();
        deliveries[3].secret = sent(&rsa, &[3; 23]);
        deliveries[4].master.truncate(100);
        let kept = token.take_in(deliveries).await.unwrap();
        for (number, kept) in (0u8..).zip(&kept) {
            let bad = [None, Some("secret"), Some("master")][match number {
                3 => 1,
                4 => 2,
                _ => 0,
            }];
            assert_eq!(kept.as_ref().err().map(|rejected| rejected.part), bad, "{number}");
            if let Ok(kept) = kept {
                let clear = Zeroizing::new(vec![number; 16]);
                assert_eq!(kept.encryption, token.wrap_clear("kek-ek-1", &clear).await.unwrap());
            }
        }
    }
}

scenario! {
    /// Without the token nobody deciphers a maker's file, and with its PIN nobody makes more of the
    /// key than a way in.
    async fn an_rsa_transport_key_lets_in_and_does_nothing_else(lab) {
        let (_token, rsa) = open(lab).await;
        let (_context, session) = lab.attacker();
        let find = [Attribute::Label(RSA.into()), Attribute::Class(ObjectClass::PRIVATE_KEY)];
        let private = session.find_objects(&find).unwrap()[0];
        let read = [AttributeType::PrivateExponent, AttributeType::Prime1];
        for info in session.get_attribute_info(private, &read).unwrap() {
            assert!(matches!(info, AttributeInfo::Sensitive), "{info:?}");
        }
        let wrapped = sent(&rsa, &[1; 16]);
        let (hash, mask) = match rsa.hash {
            OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
            OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        };
        let oaep = PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty());
        let oaep = Mechanism::RsaPkcsOaep(oaep);
        session.decrypt(&oaep, private, &wrapped).unwrap_err();
        session.decrypt(&Mechanism::RsaPkcs, private, &wrapped).unwrap_err();
        session.sign(&Mechanism::RsaPkcs, private, &[1; 32]).unwrap_err();
        for change in [Attribute::Decrypt(true), Attribute::Extractable(true), Attribute::Modifiable(true)] {
            session.update_attributes(private, &[change]).unwrap_err();
        }
        for usable in [Attribute::Encrypt(true), Attribute::Decrypt(true), Attribute::Token(true)] {
            let mut template = vec![
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Private(true),
                Attribute::Extractable(true),
            ];
            template.push(usable);
            session.unwrap_key(&oaep, private, &wrapped, &template).unwrap_err();
        }
    }
}

scenario! {
    async fn the_public_half_is_written_for_makers(lab) {
        let (token, rsa) = open(lab).await;
        drop(token);
        let program = Path::new(env!("CARGO_BIN_EXE_latchkey-ceremony"));
        let printed = lab
            .command(program)
            .args(["transport-key", "--module", lab.module().to_str().unwrap()])
            .args(["--token", "custody", "--pin-file", "custody.pin", "--object", RSA])
            .output()
            .unwrap();
        let text = String::from_utf8(printed.stdout).unwrap();
        let how = format!("RSA-OAEP with {}, ", rsa.hash);
        assert!(text.starts_with(&how) && text.ends_with(&rsa.pem()), "{text}");
        assert!(text.contains(&hex::encode(rsa.fingerprint())), "{text}");
        std::fs::write(lab.path("maker.pem"), &text).unwrap();
        let said = lab
            .command(Path::new("openssl"))
            .args(["pkey", "-pubin", "-in", "maker.pem", "-noout", "-text"])
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("(3072 bit)") && said.contains("65537"), "{said}");
    }
}
