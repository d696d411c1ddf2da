use std::os::unix::fs::PermissionsExt as _;

use super::*;

const GOOD: &str = r#"
client_system_title = "4D4D4D0000BC614E"
server_system_title = "4d4d4d0000000001"
ek = "000102030405060708090A0B0C0D0E0F"
ak = "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF"
password = "3132333435363738"
"#;

fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u8;
    move |octets| {
        for octet in octets {
            next = next.wrapping_add(1);
            *octet = next;
        }
    }
}

#[test]
fn a_file_of_old_reads_as_suite_0_in_hex_of_either_case() {
    let keys = LabKeys::parse(GOOD).unwrap();
    assert_eq!(
        keys.server_system_title(),
        [0x4d, 0x4d, 0x4d, 0, 0, 0, 0, 1]
    );
    assert_eq!((keys.suite(), keys.ek()[15]), (Suite::Suite0, 0x0f));
    assert_eq!(keys.password(), b"12345678");
    assert!(keys.hls_secret().is_empty() && keys.kek().is_empty());
    assert!(keys.server_signing_key().is_empty());
    assert_eq!(keys.keys().check(Suite::Suite0), Ok(()));
}

#[test]
fn bad_files_are_refused_without_repeating_a_key() {
    let ek = "000102030405060708090A0B0C0D0E0F";
    let long = |name: &str, octets: usize| format!("{GOOD}{name} = \"{}\"\n", "45".repeat(octets));
    let cases = [
        GOOD.replace("ek =", "kek ="),
        format!("{GOOD}hls6 = \"00\"\n"),
        GOOD.replace(ek, "0001"),
        GOOD.replace(ek, "zz0102030405060708090A0B0C0D0E0F"),
        GOOD.replace(&format!("\"{ek}\""), ek),
        GOOD.replace("4d4d4d0000000001", "4D4D4D0000BC614E"),
        GOOD.replace("3132333435363738", &"31".repeat(65)),
        GOOD.replace("3132333435363738", "313"),
        format!("suite = 3\n{GOOD}"),
        format!("suite = 2\n{GOOD}"),
        long("kek", 32),
        long("hls_secret", 65),
        long("server_signing_private_key", 32),
        format!("suite = 1\n{}", long("server_signing_private_key", 48)),
        format!(
            "suite = 1\n{GOOD}server_agreement_private_key = \"{}\"\n",
            "FF".repeat(32)
        ),
        format!("suite = 1\n{}", long("client_signing_public_key", 64)),
    ];
    for (index, case) in cases.iter().enumerate() {
        let Err(reason) = LabKeys::parse(case) else {
            panic!("case {index} was accepted")
        };
        assert!(!reason.contains("0405060708"), "case {index}: {reason}");
        assert!(!reason.contains("454545"), "case {index}: {reason}");
    }
}

#[test]
fn debug_shows_titles_and_no_key() {
    let shown = format!("{:?}", LabKeys::parse(GOOD).unwrap());
    assert!(shown.contains("4d4d4d0000000001"));
    for secret in ["000102", "d0d1", "3132", "49, 50", "208, 209"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn written_keys_read_back_and_belong_to_their_owner() {
    let folder = tempfile::tempdir().unwrap();
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        let path = folder.path().join(format!("meter-{}.toml", suite.id()));
        let mut keys = LabKeys::generate_for(suite, counting());
        if suite != Suite::Suite0 {
            let client = LabKeys::generate_for(suite, |octets| octets.fill(9));
            let public = [client.server_signing_key(), client.server_agreement_key()];
            keys = keys.with_client_keys(&public[0], &public[1]).unwrap();
        }
        keys.write(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let read = LabKeys::read(&path).unwrap();
        assert_eq!(*read.render(), *keys.render());
        assert_eq!((read.suite(), read.ek()), (suite, keys.ek()));
        assert_eq!(read.ek().len(), suite.key_len());
        assert_eq!(read.server_signing_key(), keys.server_signing_key());
        assert_eq!(read.server_signing_key().len(), suite.public_key_len());
        assert_eq!(read.keys().check(suite), Ok(()));
        assert!(read.server_system_title.starts_with(b"LKM"));
        assert!(
            keys.write(&path).is_err(),
            "a key file must not be overwritten"
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let old = LabKeys::parse(GOOD).unwrap();
    let general = |choice| Protection::GeneralCiphering(choice);
    for (auth, form, missing) in [
        (Auth::Hls5, Protection::Glo, None),
        (Auth::Hls6, Protection::Glo, Some("hls_secret")),
        (
            Auth::Hls7,
            Protection::Glo,
            Some("server_signing_private_key"),
        ),
        (Auth::Hls5, general(KeyChoice::Wrapped), Some("kek")),
        (
            Auth::Hls5,
            general(KeyChoice::Static),
            Some("server_agreement_private_key"),
        ),
    ] {
        assert_eq!(
            old.missing(auth, &[form], false),
            missing,
            "{auth} {form:?}"
        );
    }
    assert!(old.missing(Auth::Hls5, &[], true).is_some());
    let new = LabKeys::generate_for(Suite::Suite1, counting());
    let missing = new.missing(Auth::Hls7, &[], false);
    assert_eq!(missing, Some("client_signing_public_key"));
    let own = [new.server_signing_key(), new.server_agreement_key()];
    let whole = new.clone().with_client_keys(&own[0], &own[1]).unwrap();
    let all = [general(KeyChoice::OnePass), general(KeyChoice::Wrapped)];
    assert_eq!(whole.missing(Auth::Hls7, &all, true), None);
    assert!(new.with_client_keys(&own[0][1..], &own[1]).is_err());
}
