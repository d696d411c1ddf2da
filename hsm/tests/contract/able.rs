//! What a token can do is found out when it is opened; what it cannot is refused or done otherwise, and said.

use std::fs;
use std::path::Path;

use hsm::ceremony::{self, Plan, Transcript};
use hsm::{
    Capabilities, Curve, Error, GcmBackend, KeyDerivation, OaepHash, Role, Token, TokenConfig,
};
use zeroize::Zeroizing;

use crate::lab::{Brand, Lab, scenario};

scenario! {
    /// The differences between the two brands, in one place.
    async fn a_token_says_what_it_can_do(lab) {
        lab.add_key("transport-rsa-1");
        let token = lab.open(Role::Custody).await.unwrap();
        let able = token.capabilities().remove(0);
        assert_eq!((able.token.as_str(), able.role), ("custody", Role::Custody));
        assert!(!able.model.is_empty() && !able.serial.is_empty());
        assert_eq!(able.gcm, Some(GcmBackend::Token));
        assert!(able.off.is_empty(), "{:?}", able.off);
        let derivation: Vec<_> = able.key_derivation.values().copied().collect();
        match lab.brand {
            Brand::Softhsm => {
                assert_eq!(derivation, [KeyDerivation::DigestKey; 2]);
                assert_eq!(able.oaep, Some(OaepHash::Sha1));
                assert_eq!(able.lacks, ["CKM_ECDSA_SHA256", "CKM_ECDSA_SHA384"]);
            }
            Brand::Kryoptic => {
                assert_eq!(derivation, [KeyDerivation::TokenSp800; 2]);
                assert_eq!(able.oaep, Some(OaepHash::Sha256));
                assert_eq!(able.lacks, ["CKM_AES_KEY_WRAP_PAD"]);
            }
        }
        drop(token);
        let (ok, text) = report(lab, &["--role", "custody"]);
        assert!(ok && text == able.to_string(), "{text}");
        let (ok, json) = report(lab, &["--role", "custody", "--json"]);
        assert!(ok, "{json}");
        assert_eq!(serde_json::from_str::<Capabilities>(&json).unwrap(), able);
        let (ok, text) = report(lab, &["--role", "auditor"]);
        assert!(!ok && text.contains(match lab.brand {
            Brand::Softhsm => "unfit",
            Brand::Kryoptic => "lacks CKM_EDDSA",
        }), "{text}");
    }
}

fn report(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_latchkey-ceremony"));
    let output = lab
        .command(program)
        .args(["report", "--module", lab.module().to_str().unwrap()])
        .args(["--token", "custody", "--pin-file", "custody.pin"])
        .args(arguments)
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

scenario! {
    /// As an HSM in FIPS mode, which has no GCM that DLMS could use: everything is done by blocks,
    /// from the ceremony on.
    async fn a_token_without_gcm_serves_by_blocks(lab) {
        lab.without("CKM_AES_GCM");
        let plan = fs::read_to_string(lab.plan()).unwrap();
        let plan = plan.split("[[token]]").next().unwrap();
        let token = "[[token]]\nlabel = \"blocks\"\nrole = \"custody\"\n\
             so_pin_file = \"blocks.so\"\npin_file = \"blocks.pin\"\n";
        fs::write(lab.path("blocks.toml"), format!("{plan}{token}")).unwrap();
        let transcript =
            ceremony::run(&Plan::load(&lab.path("blocks.toml")).unwrap(), "2026-01-02T00:00:00Z");
        let transcript = transcript.unwrap();
        let keys = &transcript.body.tokens[0].keys;
        let kek = keys.iter().find(|key| key.label == "kek-ak-1").unwrap();
        assert_eq!(kek.attributes["ALLOWED_MECHANISMS"], "CKM_AES_ECB");

        let config = TokenConfig::new(lab.module(), "blocks", lab.path("blocks.pin"));
        let token = Token::open(&config, Role::Custody).await.unwrap();
        assert_eq!(token.capabilities()[0].gcm, Some(GcmBackend::EcbGhash));
        let blob = token.protect_ak("kek-ak-1", b"m1", &[0xD0; 16]).await.unwrap();
        assert_eq!(token.reveal_ak("kek-ak-1", b"m1", &blob).await.unwrap().as_slice(), [0xD0; 16]);
        let moved = token.reveal_ak("kek-ak-1", b"m2", &blob).await;
        assert!(matches!(moved, Err(Error::AuthFailed)), "{moved:?}");
        let clear = Zeroizing::new((0..16).collect::<Vec<u8>>());
        let wrapped = token.wrap_clear("kek-ek-1", &clear).await.unwrap();
        let key = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        let aad = hex::decode("30D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF").unwrap();
        let plain = hex::decode("C0010000080000010000FF0200").unwrap();
        let sealed = token.seal(&key, *b"MMM\0\0\xBCaN\x01\x23\x45\x67", &aad, &plain).await.unwrap();
        assert_eq!(
            hex::encode_upper(sealed),
            "411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B"
        );
        assert!(token.health().await);
        // told to use what it has not, it is refused
        let mut config = config;
        config.gcm = Some(GcmBackend::Token);
        Token::open(&config, Role::Custody).await.unwrap_err();
    }
}

scenario! {
    /// SoftHSM has no other way of signing.
    on Kryoptic: async fn a_token_that_hashes_by_itself_signs_too(lab) {
        lab.without("CKM_ECDSA");
        let plan = fs::read_to_string(lab.plan()).unwrap();
        let plan = plan.split("[[token]]").next().unwrap();
        let token = "[[token]]\nlabel = \"hashing\"\nrole = \"custody\"\n\
             so_pin_file = \"hashing.so\"\npin_file = \"hashing.pin\"\n";
        fs::write(lab.path("hashing.toml"), format!("{plan}{token}")).unwrap();
        let plan = Plan::load(&lab.path("hashing.toml")).unwrap();
        let transcript = ceremony::run(&plan, "2026-01-02T00:00:00Z").unwrap();
        Transcript::verify(&transcript.render().unwrap()).unwrap();
        let config = TokenConfig::new(lab.module(), "hashing", lab.path("hashing.pin"));
        let token = Token::open(&config, Role::Custody).await.unwrap();
        let able = token.capabilities().remove(0);
        assert!(able.off.is_empty() && able.lacks.contains(&"CKM_ECDSA".to_owned()), "{able}");
        for (curve, label) in [(Curve::P256, "sign-p256-1"), (Curve::P384, "sign-p384-1")] {
            let signature = token.sign_ecdsa(curve, label, b"message").await.unwrap();
            let public = token.public_key(label).await.unwrap();
            assert!(curve.verifies(&public[1..], b"message", &signature));
        }
    }
}

scenario! {
    /// What was stored by GCM cannot be read without it.
    async fn a_token_that_lost_its_gcm_is_refused(lab) {
        lab.without("CKM_AES_GCM");
        let error = lab.open(Role::Custody).await.unwrap_err();
        assert!(
            matches!(&error, Error::KeyOff { label, .. } if label == "kek-ak-1"),
            "{error}"
        );
    }
}
