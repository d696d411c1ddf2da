//! Ciphers, against published vectors and against software.

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{AesGcm, aes::Aes128};
use hsm::{Error, KeyHandle, Role, Token};
use zeroize::Zeroizing;

use crate::lab::scenario;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    ::hex::decode(text).unwrap().try_into().unwrap()
}

/// A key of known value, in use as a meter's key.
async fn known(token: &Token, key: &str) -> KeyHandle {
    let key = Zeroizing::new(::hex::decode(key).unwrap());
    let wrapped = token.wrap_clear("kek-ek-1", &key).await.unwrap();
    token.unwrap_key("kek-ek-1", &wrapped).await.unwrap()
}

// DLMS UA Green Book, the examples of ciphered APDUs and of HLS mechanism 5.
const EK: &str = "000102030405060708090A0B0C0D0E0F";
const AK: &str = "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF";
const NONCE: &str = "4D4D4D0000BC614E01234567";

scenario! {
    async fn green_book_vectors(lab) {
        for token in lab.each_gcm().await {
            let key = known(&token, EK).await;
            let aad = ::hex::decode(format!("30{AK}")).unwrap();
            for (plain, sealed) in [
                (
                    "C0010000080000010000FF0200",
                    "411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B",
                ),
                (
                    "01011000112233445566778899AABBCCDDEEFF0000065F1F0400007E1F04B0",
                    "801302FF8A7874133D414CED25B42534D28DB0047720606B175BD52211BE6841DB204D39EE6FDB\
                     8E356855",
                ),
            ] {
                let plain = ::hex::decode(plain).unwrap();
                let sealed = ::hex::decode(sealed).unwrap();
                assert_eq!(token.seal(&key, hex(NONCE), &aad, &plain).await.unwrap(), sealed);
                assert_eq!(token.open_sealed(&key, hex(NONCE), &aad, &sealed).await.unwrap(), plain);
            }
            // SC = 0x10: authenticated only, the text is part of the associated data
            let aad = ::hex::decode(format!("10{AK}C0010000080000010000FF0200")).unwrap();
            let tag = token.gmac(&key, hex(NONCE), &aad).await.unwrap();
            assert_eq!(tag, hex("06725D910F9221D263877516"));
            // f(StoC)
            let aad = ::hex::decode(format!("10{AK}503677524A323146")).unwrap();
            let nonce = hex("4D4D4D000000000100000001");
            let tag = token.gmac(&key, nonce, &aad).await.unwrap();
            assert_eq!(tag, hex("1A52FE7DD3E72748973C1E28"));
            // a bare tag is verified by opening it
            assert!(token.open_sealed(&key, nonce, &aad, &tag).await.unwrap().is_empty());
            let wrong = token.open_sealed(&key, nonce, &aad, &[0; 12]).await;
            assert!(matches!(wrong, Err(Error::AuthFailed)));
            // SC = 0x20: encrypted only
            let plain = ::hex::decode("C0010000080000010000FF0200").unwrap();
            let bare = token.cipher_only(&key, hex(NONCE), &plain).await.unwrap();
            assert_eq!(::hex::encode_upper(&bare), "411312FF935A47566827C467BC");
            assert_eq!(token.cipher_only(&key, hex(NONCE), &bare).await.unwrap(), plain);
        }
    }
}

scenario! {
    async fn token_and_software_agree(lab) {
        for token in lab.each_gcm().await {
            let key = known(&token, EK).await;
            let software = AesGcm::<Aes128, U12, U12>::new(&hex::<16>(EK).into());
            for length in [0usize, 1, 15, 16, 17, 255, 1024, 65_535] {
                let msg = token.random(length.clamp(1, 1024)).await.unwrap().repeat(64);
                let msg = &msg[..length];
                let aad = token.random(33).await.unwrap();
                let nonce: [u8; 12] = token.random(12).await.unwrap().try_into().unwrap();
                let sealed = token.seal(&key, nonce, &aad, msg).await.unwrap();
                let payload = Payload { msg, aad: &aad };
                assert_eq!(software.encrypt(&nonce.into(), payload).unwrap(), sealed, "{length}");
                assert_eq!(token.open_sealed(&key, nonce, &aad, &sealed).await.unwrap(), msg);
            }
            let mac = aws_lc_rs::cmac::Key::new(aws_lc_rs::cmac::AES_128, &hex::<16>(EK)).unwrap();
            let mac = aws_lc_rs::cmac::sign(&mac, &[0; 16]).unwrap();
            assert_eq!(token.check_value(&key).await.unwrap(), mac.as_ref()[..5]);
        }
    }
}

scenario! {
    async fn whatever_is_altered_the_tag_is_wrong(lab) {
        for token in lab.each_gcm().await {
            let key = known(&token, EK).await;
            let sealed = token.seal(&key, [7; 12], b"aad", b"plaintext").await.unwrap();
            for index in 0..sealed.len() {
                let mut altered = sealed.clone();
                altered[index] ^= 0x80;
                let opened = token.open_sealed(&key, [7; 12], b"aad", &altered).await;
                assert!(matches!(opened, Err(Error::AuthFailed)), "octet {index}: {opened:?}");
            }
            for (nonce, aad, length) in [
                ([8; 12], &b"aad"[..], sealed.len()),
                ([7; 12], b"aae", sealed.len()),
                ([7; 12], b"", sealed.len()),
                ([7; 12], b"aad", sealed.len() - 1),
                ([7; 12], b"aad", 11),
                ([7; 12], b"aad", 0),
            ] {
                let opened = token.open_sealed(&key, nonce, aad, &sealed[..length]).await;
                assert!(matches!(opened, Err(Error::AuthFailed)), "{opened:?}");
            }
            // and the token is none the worse for it
            let opened = token.open_sealed(&key, [7; 12], b"aad", &sealed).await.unwrap();
            assert_eq!(opened, b"plaintext");
            assert!(token.health().await);
        }
    }
}

scenario! {
    async fn too_much_is_refused_before_it_reaches_the_token(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let key = known(&token, EK).await;
        let much = vec![0; 131_073];
        assert!(matches!(token.seal(&key, [1; 12], b"", &much).await, Err(Error::Length { .. })));
        assert!(matches!(token.gmac(&key, [1; 12], &much).await, Err(Error::Length { .. })));
        assert!(matches!(token.random(0).await, Err(Error::Length { .. })));
        assert!(matches!(token.random(1025).await, Err(Error::Length { .. })));
        assert_ne!(token.random(32).await.unwrap(), token.random(32).await.unwrap());
    }
}

scenario! {
    async fn many_tasks_share_the_token(lab) {
        let mut config = lab.config(Role::Custody);
        config.sessions = 3;
        let token = Token::open(&config, Role::Custody).await.unwrap();
        let software = AesGcm::<Aes128, U12, U12>::new(&hex::<16>(EK).into());
        let known_key = known(&token, EK).await;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0u8..64 {
            let (token, known_key, software) = (token.clone(), known_key.clone(), software.clone());
            tasks.spawn(async move {
                // a key of its own, used, dropped and unwrapped again
                let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
                let mut first = None;
                for round in 0u8..10 {
                    let own = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
                    let text = [task, round];
                    let mut nonce = [task; 12];
                    nonce[11] = round;
                    let sealed = token.seal(&own, nonce, &[], &text).await.unwrap();
                    assert_eq!(token.open_sealed(&own, nonce, &[], &sealed).await.unwrap(), text);
                    let value = token.check_value(&own).await.unwrap();
                    assert_eq!(*first.get_or_insert(value), value, "another's key");
                    let shared = token.seal(&known_key, nonce, &[], &text).await.unwrap();
                    assert_eq!(software.encrypt(&nonce.into(), &text[..]).unwrap(), shared);
                }
                first.unwrap()
            });
        }
        let values: std::collections::BTreeSet<_> = tasks.join_all().await.into_iter().collect();
        assert_eq!(values.len(), 64, "every task had a key of its own");
    }
}
