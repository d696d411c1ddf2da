//! Keys: in under other keys, out never.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::{Mechanism, aead::GcmParams};
use cryptoki::object::{
    Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;
use hsm::{Curve, Error, Role};
use zeroize::Zeroizing;

use crate::lab::{Brand, Lab, scenario};

scenario! {
    async fn a_generated_key_comes_back_the_same(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        assert_eq!(wrapped.len(), 24);
        assert_eq!(token.generate_wrapped("kek-ek-1", 32).await.unwrap().len(), 40);
        let refused = token.generate_wrapped("kek-ek-1", 24).await;
        assert!(matches!(refused, Err(Error::Length { .. })));
        let first = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        let second = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        let sealed = token.seal(&first, [1; 12], b"a", b"t").await.unwrap();
        assert_eq!(token.open_sealed(&second, [1; 12], b"a", &sealed).await.unwrap(), b"t");
        assert_ne!(token.generate_wrapped("kek-ek-1", 16).await.unwrap(), wrapped);
    }
}

scenario! {
    async fn a_damaged_or_foreign_key_does_not_unwrap(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        for index in 0..wrapped.len() {
            let mut damaged = wrapped.clone();
            damaged[index] ^= 1;
            let error = token.unwrap_key("kek-ek-1", &damaged).await.unwrap_err();
            assert!(matches!(error, Error::WrappedKeyInvalid { .. }), "{error}");
        }
        for kek in ["kek-ek-2", "kek-ak-1", "transport-1", "transcript", ""] {
            let error = token.unwrap_key(kek, &wrapped).await.unwrap_err();
            assert!(matches!(error, Error::KeyNotFound { .. }), "{kek}: {error}");
        }
        for length in [0, 16, 23, 25, 48] {
            let error = token.unwrap_key("kek-ek-1", &vec![0; length]).await.unwrap_err();
            assert!(matches!(error, Error::Length { .. }), "{length}: {error}");
        }
        assert!(token.health().await);
    }
}

/// The transport key, from its components.
pub(crate) fn transport(lab: &Lab) -> [u8; 32] {
    let mut transport = [0; 32];
    for name in ["transport.one", "transport.two"] {
        let component = std::fs::read_to_string(lab.path(name)).unwrap();
        let component = hex::decode(component.trim()).unwrap();
        transport
            .iter_mut()
            .zip(component)
            .for_each(|(octet, part)| *octet ^= part);
    }
    transport
}

/// A key as its maker sends it: wrapped under the key that the components make.
fn sent(lab: &Lab, key: &[u8; 16]) -> [u8; 24] {
    let mut wrapped = [0; 24];
    AesKek::new(&AES_256, &transport(lab))
        .unwrap()
        .wrap(key, &mut wrapped)
        .unwrap();
    wrapped
}

scenario! {
    async fn keys_come_in_under_the_transport_key(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let (wrapped_ek, wrapped_ak) = (sent(lab, &[0x11; 16]), sent(lab, &[0x22; 16]));

        let kept = token.import_wrapped("transport-1", &wrapped_ek, "kek-ek-1").await.unwrap();
        assert_ne!(kept, wrapped_ek);
        let imported = token.unwrap_key("kek-ek-1", &kept).await.unwrap();
        let clear = Zeroizing::new(vec![0x11; 16]);
        let clear = token.wrap_clear("kek-ek-1", &clear).await.unwrap();
        let clear = token.unwrap_key("kek-ek-1", &clear).await.unwrap();
        let sealed = token.seal(&imported, [1; 12], b"", b"same").await.unwrap();
        assert_eq!(token.open_sealed(&clear, [1; 12], b"", &sealed).await.unwrap(), b"same");

        let blob = token.import_ak("transport-1", &wrapped_ak, "kek-ak-1", b"m1").await.unwrap();
        let revealed = token.reveal_ak("kek-ak-1", b"m1", &blob).await.unwrap();
        assert_eq!(revealed.as_slice(), [0x22; 16]);

        let mut damaged = wrapped_ek;
        damaged[0] ^= 1;
        let error = token.import_wrapped("transport-1", &damaged, "kek-ek-1").await.unwrap_err();
        assert!(matches!(error, Error::WrappedKeyInvalid { .. }), "{error}");
    }
}

scenario! {
    async fn an_authentication_key_is_bound_to_its_owner(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let blob = token.protect_ak("kek-ak-1", b"meter-1", &[0xD0; 16]).await.unwrap();
        let ak = token.reveal_ak("kek-ak-1", b"meter-1", &blob).await.unwrap();
        assert_eq!(ak.as_slice(), [0xD0; 16]);
        let twin = token.protect_ak("kek-ak-1", b"meter-1", &[0xD0; 16]).await.unwrap();
        assert_ne!(twin, blob, "a nonce of its own each time");
        assert!(!blob.windows(16).any(|window| window == [0xD0; 16]));
        let moved = token.reveal_ak("kek-ak-1", b"meter-2", &blob).await;
        assert!(matches!(moved, Err(Error::AuthFailed)));
        for length in [0, 12, 27, blob.len() - 1] {
            let cut = token.reveal_ak("kek-ak-1", b"meter-1", &blob[..length]).await;
            assert!(matches!(cut, Err(Error::AuthFailed)));
        }
        for index in 0..blob.len() {
            let mut damaged = blob.clone();
            damaged[index] ^= 4;
            let damaged = token.reveal_ak("kek-ak-1", b"meter-1", &damaged).await;
            assert!(matches!(damaged, Err(Error::AuthFailed)), "octet {index}");
        }
    }
}

fn key(session: &Session, label: &str) -> ObjectHandle {
    let found = session.find_objects(&[
        Attribute::Label(label.into()),
        Attribute::Class(ObjectClass::SECRET_KEY),
    ]);
    *found.unwrap().first().unwrap()
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Pkcs11Error>) -> RvError {
    match outcome {
        Err(Pkcs11Error::Pkcs11(code, _)) => code,
        other => panic!("allowed: {other:?}"),
    }
}

/// An unwrap template, with some attributes otherwise.
fn unwrapped(changes: &[Attribute]) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(true),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ];
    for attribute in &mut template {
        let same = |change: &&Attribute| change.attribute_type() == attribute.attribute_type();
        if let Some(change) = changes.iter().find(same) {
            *attribute = change.clone();
        }
    }
    template
}

scenario! {
    /// With the PIN and a stolen database row, no key comes out.
    async fn a_stored_key_stays_in_even_if_the_pin_is_stolen(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let (_context, session) = lab.attacker();
        let kek = key(&session, "kek-ek-1");
        let unwrap = |template: &[Attribute]| {
            session.unwrap_key(&Mechanism::AesKeyWrap, kek, &wrapped, template)
        };
        // as it should be: in, but neither read nor exported
        let inside = unwrap(&unwrapped(&[])).unwrap();
        let value = session.get_attribute_info(inside, &[AttributeType::Value]).unwrap();
        assert!(matches!(value[..], [AttributeInfo::Sensitive]), "{value:?}");
        let exported = session.wrap_key(&Mechanism::AesKeyWrap, kek, inside);
        assert_eq!(code(exported), RvError::KeyUnextractable);
        // in any other way: not at all
        for change in [
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Private(false),
            Attribute::Token(true),
            Attribute::Modifiable(true),
            Attribute::Copyable(true),
            Attribute::Wrap(true),
            Attribute::Unwrap(true),
            Attribute::Derive(true),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
        ] {
            code(unwrap(&unwrapped(std::slice::from_ref(&change))));
        }
        let readable = [Attribute::Sensitive(false), Attribute::Extractable(true)];
        code(unwrap(&unwrapped(&readable)));
        let short = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
        ];
        match lab.brand {
            Brand::Softhsm => drop(code(unwrap(&short))),
            // what is left out is as the template has it
            Brand::Kryoptic => {
                let filled = unwrap(&short).unwrap();
                let value = session.get_attribute_info(filled, &[AttributeType::Value]).unwrap();
                assert!(matches!(value[..], [AttributeInfo::Sensitive]), "{value:?}");
                let exported = session.wrap_key(&Mechanism::AesKeyWrap, kek, filled);
                assert_eq!(code(exported), RvError::KeyUnextractable);
            }
        }
    }
}

scenario! {
    /// RFC 3394 can be undone by hand with a key that deciphers. None does.
    async fn a_key_encryption_key_can_be_neither_changed_nor_turned(lab) {
        let (_context, session) = lab.attacker();
        let mut nonce = [0; 12];
        for label in ["kek-ek-1", "kek-ak-1", "kek-hs-1", "kek-mk-1", "transport-1"] {
            let kek = key(&session, label);
            let info = session.get_attribute_info(kek, &[AttributeType::Value]).unwrap();
            assert!(matches!(info[..], [AttributeInfo::Sensitive]), "{label}: {info:?}");
            for change in [
                Attribute::Decrypt(true),
                Attribute::Extractable(true),
                Attribute::Sensitive(false),
                Attribute::Modifiable(true),
                Attribute::Copyable(true),
                Attribute::Label(b"other".to_vec()),
            ] {
                let changed = code(session.update_attributes(kek, std::slice::from_ref(&change)));
                assert_eq!(changed, RvError::ActionProhibited, "{label} {change:?}");
            }
            for copy in [Attribute::Token(false), Attribute::Decrypt(true)] {
                let copied = code(session.copy_object(kek, &[copy]));
                assert_eq!(copied, RvError::ActionProhibited, "{label}");
            }
            code(session.decrypt(&Mechanism::AesEcb, kek, &[0; 16]));
            code(session.encrypt(&Mechanism::AesEcb, kek, &[0; 16]));
        }
        let params = GcmParams::new(&mut nonce, &[], 128.into()).unwrap();
        code(session.encrypt(&Mechanism::AesGcm(params), key(&session, "kek-ek-1"), &[0; 16]));
    }
}

scenario! {
    async fn signatures_verify_outside_the_token(lab) {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
        let custody = lab.open(Role::Custody).await.unwrap();
        let long = vec![7; 100_000];
        for message in [&b""[..], b"message", &long] {
            let signature = custody.sign_ecdsa(Curve::P256, "sign-p256-1", message).await.unwrap();
            let public = custody.public_key("sign-p256-1").await.unwrap();
            assert_eq!((public.len(), public[0]), (65, 4));
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
            public.verify(message, &signature).unwrap();
        }
        let absent = custody.sign_ed25519("log-1", b"").await;
        assert!(matches!(absent, Err(Error::KeyNotFound { .. })));
        let absent = custody.public_key("kek-ek-1").await;
        assert!(matches!(absent, Err(Error::KeyNotFound { .. })));
    }
}

scenario! {
    on Softhsm: async fn an_auditors_signatures_verify_outside_the_token(lab) {
        use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
        let auditor = lab.open(Role::Auditor).await.unwrap();
        for label in ["log-1", "permit-1", "transcript"] {
            let signature = auditor.sign_ed25519(label, b"message").await.unwrap();
            let public = auditor.public_key(label).await.unwrap();
            let public = UnparsedPublicKey::new(&ED25519, public);
            public.verify(b"message", &signature).unwrap();
            public.verify(b"massage", &signature).unwrap_err();
        }
        let other = auditor.sign_ecdsa(Curve::P256, "log-1", b"").await;
        assert!(matches!(other, Err(Error::KeyNotFound { .. })));
        let absent = auditor.sign_ed25519("log-2", b"").await;
        assert!(matches!(absent, Err(Error::KeyNotFound { .. })));
    }
}
