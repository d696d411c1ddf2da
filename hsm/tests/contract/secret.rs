//! HLS secrets and meters' master keys: in wrapped, used inside, out never.

use aws_lc_rs::digest;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use hsm::{Error, Hash, Role};
use zeroize::Zeroizing;

use crate::key::transport;
use crate::lab::{Lab, scenario};

/// A secret as its maker sends it.
fn sent(lab: &Lab, secret: &[u8]) -> Vec<u8> {
    let mut wrapped = vec![0; secret.len() + 8];
    let kek = AesKek::new(&AES_256, &transport(lab)).unwrap();
    kek.wrap(secret, &mut wrapped).unwrap();
    wrapped
}

scenario! {
    /// f(StoC) of HLS with SHA-256, with a secret that nobody can read.
    async fn a_secret_is_digested_inside(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let secret = Zeroizing::new(b"HLS_SECRET_32_BYTES_LONG_0123456".to_vec());
        let blob = token.wrap_secret("kek-hs-1", &secret).await.unwrap();
        assert!(!blob.windows(8).any(|window| window == &secret[..8]));
        let held = token.unwrap_secret("kek-hs-1", &blob).await.unwrap();
        let after = hex::decode(
            "4D4D4D00000000014D4D4D0000BC614E503677524A3231464B35366956616759",
        );
        let token_made = token.digest_secret(&held, Hash::Sha256, &[], &after.unwrap()).await.unwrap();
        assert_eq!(
            hex::encode_upper(token_made),
            "7DA9E8901E79DF9E99339901DBC827FEAB7884C8C42F70BBAA7A92F28821E6B0"
        );
        let token_made = token.digest_secret(&held, Hash::Sha1, b"challenge", &[]).await.unwrap();
        let expected = [&b"challenge"[..], &secret].concat();
        let expected = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &expected);
        assert_eq!(token_made, expected.as_ref());
    }
}

scenario! {
    async fn secrets_of_every_wrappable_length_are_kept(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        for length in (16..=64u8).step_by(8) {
            let secret: Zeroizing<Vec<u8>> = Zeroizing::new((0..length).collect());
            let blob = token.wrap_secret("kek-hs-1", &secret).await.unwrap();
            let again = token.wrap_secret("kek-hs-1", &secret).await.unwrap();
            assert_eq!(blob, again, "the same secret, the same octets");
            let held = token.unwrap_secret("kek-hs-1", &blob).await.unwrap();
            let made = token.digest_secret(&held, Hash::Sha256, b"b", b"a").await.unwrap();
            let expected = [&b"b"[..], &secret, b"a"].concat();
            assert_eq!(made, digest::digest(&digest::SHA256, &expected).as_ref(), "{length}");
        }
        for length in [0, 8, 15, 17, 63, 72] {
            let secret = Zeroizing::new(vec![1; length]);
            let refused = token.wrap_secret("kek-hs-1", &secret).await;
            assert!(matches!(refused, Err(Error::Length { .. })), "{length}");
        }
    }
}

scenario! {
    async fn secrets_come_in_under_the_transport_key(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        for length in [16, 24, 40, 64u8] {
            let secret: Vec<u8> = (0..length).collect();
            let wrapped = sent(lab, &secret);
            let blob = token.import_secret("transport-1", &wrapped, "kek-hs-1").await.unwrap();
            let clear = Zeroizing::new(secret.clone());
            assert_eq!(blob, token.wrap_secret("kek-hs-1", &clear).await.unwrap());
            let held = token.unwrap_secret("kek-hs-1", &blob).await.unwrap();
            let made = token.digest_secret(&held, Hash::Sha256, &[], &[]).await.unwrap();
            assert_eq!(made, digest::digest(&digest::SHA256, &secret).as_ref());

            let readable = token
                .import_readable_secret("transport-1", &wrapped, "kek-ak-1", b"m1")
                .await
                .unwrap();
            let revealed = token.reveal_ak("kek-ak-1", b"m1", &readable).await.unwrap();
            assert_eq!(revealed.as_slice(), secret);
        }
        let mut damaged = sent(lab, &[7; 32]);
        damaged[0] ^= 1;
        let refused = token.import_secret("transport-1", &damaged, "kek-hs-1").await;
        assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })));
        for length in [0, 16, 23, 25, 80] {
            let refused = token.import_secret("transport-1", &vec![0; length], "kek-hs-1").await;
            assert!(matches!(refused, Err(Error::Length { .. })), "{length}");
        }
        let mut damaged = token.wrap_secret("kek-hs-1", &Zeroizing::new(vec![1; 16])).await.unwrap();
        damaged[1] ^= 0x40;
        let refused = token.unwrap_secret("kek-hs-1", &damaged).await;
        assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })));
        let ek = token.generate_wrapped("kek-ek-1", 32).await.unwrap();
        let refused = token.unwrap_secret("kek-hs-1", &ek).await;
        assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })), "another's key");
        assert!(token.health().await);
    }
}

scenario! {
    /// General-ciphering with a wrapped key: the sender's end and the receiver's.
    async fn a_key_travels_under_a_master_key(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        for octets in [16, 32] {
            let master = Zeroizing::new(vec![0x4B; octets]);
            let wrapped = token.wrap_clear("kek-mk-1", &master).await.unwrap();
            let held = token.unwrap_master_key("kek-mk-1", &wrapped).await.unwrap();
            let (key, travels) = token.generate_under(&held, octets).await.unwrap();
            assert_eq!(travels.len(), octets + 8);
            let sealed = token.seal(&key, [1; 12], b"a", b"text").await.unwrap();
            assert!(token.open_sealed(&key, [1; 12], b"a", &sealed).await.is_err(), "one way");
            let received = token.unwrap_under(&held, &travels).await.unwrap();
            assert_eq!(token.open_sealed(&received, [1; 12], b"a", &sealed).await.unwrap(), b"text");
            let (_, other) = token.generate_under(&held, octets).await.unwrap();
            assert_ne!(travels, other, "a key of its own each time");
            let mut damaged = travels;
            damaged[3] ^= 1;
            let refused = token.unwrap_under(&held, &damaged).await;
            assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })));
        }
        // what is kept as a master key is no encryption key, and the reverse
        let wrapped = token.generate_wrapped("kek-mk-1", 16).await.unwrap();
        let refused = token.unwrap_key("kek-ek-1", &wrapped).await;
        assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })));
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let refused = token.unwrap_master_key("kek-mk-1", &wrapped).await;
        assert!(matches!(refused, Err(Error::WrappedKeyInvalid { .. })));
        assert!(token.health().await);
    }
}
