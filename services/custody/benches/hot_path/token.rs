//! The measuring stick: the same AES-GCM call on the same token, without gRPC, and without this repository.

use std::{ffi::OsStr, path::Path};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{Mechanism, aead::GcmParams},
    object::Attribute,
    session::UserType,
};
use futures::future::join_all;
use hsm::{Role, Token, TokenConfig};

use crate::gauge::{spent_us, thread_us};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Octets of a GET, and of control octet and authentication key.
const APDU: [u8; 13] = [0xC0; 13];
const AAD: [u8; 17] = [0x30; 17];
const ROUNDS: u32 = 9;
const COUNT: u32 = 10_000;

/// Runs one part and prints its rows.
pub(crate) fn part(dir: &Path, name: &OsStr) {
    match name.to_str() {
        Some("bare") => bare(dir),
        Some("hsm") => tokio::runtime::Runtime::new()
            .expect("a runtime")
            .block_on(through_hsm(dir)),
        other => panic!("no part {other:?}"),
    }
}

fn say(name: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    println!("{name:<44} {:>8.1} us CPU", rounds[rounds.len() / 2]);
}

fn nonce(counter: u32) -> [u8; 12] {
    let mut nonce = *b"MMM\0\0\0\0\x01\0\0\0\0";
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn bare(dir: &Path) {
    let pin = std::fs::read_to_string(dir.join("pin")).expect("a PIN");
    let context = Pkcs11::new(MODULE).expect("the module");
    context
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .expect("it begins");
    let slot = context.get_slots_with_initialized_token().expect("slots")[0];
    let session = context.open_rw_session(slot).expect("a session");
    let pin = pin.trim().to_owned().into();
    session.login(UserType::User, Some(&pin)).expect("a login");
    let template = [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(16.into()),
    ];
    let key = session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .expect("a key");
    let mut counter = 0;
    let rounds = (0..ROUNDS).map(|_| {
        let before = thread_us();
        for _ in 0..COUNT {
            counter += 1;
            let mut nonce = nonce(counter);
            let params = GcmParams::new(&mut nonce, &AAD, 96.into()).expect("parameters");
            let sealed = session.encrypt(&Mechanism::AesGcm(params), key, &APDU);
            assert_eq!(sealed.expect("sealed").len(), APDU.len() + 12);
        }
        (thread_us() - before) / f64::from(COUNT)
    });
    say("bare C_EncryptInit, C_Encrypt", rounds.collect());
}

async fn through_hsm(dir: &Path) {
    let config = TokenConfig::new(MODULE, "custody-test", dir.join("pin"));
    let token = Token::open(&config, Role::Custody).await.expect("a token");
    let wrapped = token.generate_wrapped("kek-ek-1", 16).await.expect("a key");
    let key = token.unwrap_key("kek-ek-1", &wrapped).await.expect("a key");
    let mut rounds = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        let first = round * COUNT;
        let before = spent_us();
        for counter in first..first + COUNT {
            let sealed = token.seal(&key, nonce(counter), &AAD, &APDU).await;
            assert!(sealed.is_ok());
        }
        rounds[0].push((spent_us() - before) / f64::from(COUNT));
        let before = spent_us();
        for batch in 0..COUNT / 16 {
            let jobs = (0..16).map(|n| token.seal(&key, nonce(batch * 16 + n), &AAD, &APDU));
            join_all(jobs).await;
        }
        rounds[1].push((spent_us() - before) / f64::from(COUNT));
        let before = spent_us();
        for _ in 0..COUNT / 16 {
            let key = token.unwrap_key("kek-ek-1", &wrapped).await.expect("a key");
            token.check_value(&key).await.expect("a value");
        }
        rounds[2].push((spent_us() - before) / f64::from(COUNT / 16));
    }
    for (name, rounds) in [
        "hsm crate, seal, one after the other",
        "hsm crate, seal, 16 at a time",
        "hsm crate, unwrap, check value, destroy",
    ]
    .into_iter()
    .zip(rounds)
    {
        say(name, rounds);
    }
}
