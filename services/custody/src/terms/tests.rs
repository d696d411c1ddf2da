use kit::status::Fault as _;

use super::*;

const ALL: Leave = Leave {
    legacy_hls: true,
    encryption_only: true,
};

fn terms(mechanism: Mechanism, protection: Protection) -> Terms {
    Terms {
        mechanism,
        protection,
        control: SecurityControl::AUTH_ENC,
        signed: false,
        algorithm_id: AlgorithmId::Standard,
    }
}

/// Everything that could be held, in this suite.
fn full(suite: Suite) -> KeyRow {
    let public = suite.public_key_len();
    KeyRow {
        wrapped_encryption_key: vec![1; suite.wrapped_len()],
        sealed_authentication_key: vec![1; 44],
        sealed_password: vec![1; 40],
        wrapped_hls_secret: vec![1; 24],
        sealed_hls_secret: vec![1; 44],
        wrapped_master_key: vec![1; suite.wrapped_len()],
        server_signing_key: vec![1; public],
        server_agreement_key: vec![1; public],
        suite,
        policies: 3,
        ..KeyRow::default()
    }
}

fn without_keys(row: KeyRow) -> KeyRow {
    KeyRow {
        wrapped_encryption_key: Vec::new(),
        sealed_authentication_key: Vec::new(),
        ..row
    }
}

/// Whether it may be had; `Some(true)` as the public client's.
fn had(terms: Terms, row: &KeyRow) -> Option<bool> {
    terms.check("m", Some(row), ALL).ok()
}

fn why(terms: Terms, row: &KeyRow, leave: Leave) -> String {
    terms.check("m", Some(row), leave).unwrap_err().to_string()
}

const MECHANISMS: [Mechanism; 7] = [
    Mechanism::None,
    Mechanism::Low,
    Mechanism::HlsMd5,
    Mechanism::HlsSha1,
    Mechanism::HlsGmac,
    Mechanism::HlsSha256,
    Mechanism::HlsEcdsa,
];

#[test]
fn the_table_of_mechanisms() {
    let suite1 = full(Suite::Suite1);
    let control = SecurityControl::of(Suite::Suite1, true, true);
    let plain = |mechanism| Terms {
        control,
        ..terms(mechanism, Protection::Plain)
    };
    let glo = |mechanism| Terms {
        control,
        ..terms(mechanism, Protection::Glo)
    };
    let (yes, no, public) = (Some(false), None, Some(true));
    // in clear with keys, in clear without, ciphered with keys, ciphered without
    for (mechanism, expected) in MECHANISMS.into_iter().zip([
        [public, public, no, no],
        [no, yes, no, no],
        [no, yes, yes, no],
        [no, yes, yes, no],
        [no, no, yes, no],
        [no, yes, yes, no],
        [no, yes, yes, no],
    ]) {
        let bare = without_keys(suite1.clone());
        let found = [
            had(plain(mechanism), &suite1),
            had(plain(mechanism), &bare),
            had(glo(mechanism), &suite1),
            had(glo(mechanism), &bare),
        ];
        assert_eq!(found, expected, "{mechanism:?}");
    }
    let unknown = plain(Mechanism::Low).check("m", None, ALL).unwrap_err();
    assert_eq!(unknown.reason(), "KEYS_UNKNOWN");
    assert!(!plain(Mechanism::None).check("m", None, ALL).unwrap());
    let password = KeyRow {
        sealed_password: vec![1; 40],
        ..KeyRow::default()
    };
    assert_eq!(
        had(plain(Mechanism::None), &password),
        yes,
        "it has no keys"
    );
    assert_eq!(
        had(terms(Mechanism::HlsManufacturer, Protection::Glo), &suite1),
        no
    );
}

#[test]
fn a_mechanism_that_was_not_named_is_refused() {
    let enrolled = |named: &[Mechanism]| KeyRow {
        mechanisms: named
            .iter()
            .fold(0, |bits, mechanism| bits | bit(*mechanism)),
        ..full(Suite::Suite0)
    };
    let glo = |mechanism| terms(mechanism, Protection::Glo);
    let gmac = enrolled(&[Mechanism::HlsGmac]);
    for mechanism in MECHANISMS {
        let expected = (mechanism == Mechanism::HlsGmac).then_some(false);
        assert_eq!(had(glo(mechanism), &gmac), expected, "{mechanism:?}");
    }
    let low = enrolled(&[Mechanism::Low, Mechanism::HlsGmac]);
    assert_eq!(had(glo(Mechanism::Low), &low), Some(false));
    assert_eq!(had(glo(Mechanism::HlsGmac), &low), Some(false));
    let unnamed = enrolled(&[]);
    assert!(why(glo(Mechanism::Low), &unnamed, ALL).contains("not named"));
    assert_eq!(had(glo(Mechanism::HlsGmac), &unnamed), Some(false));
    // The public client needs no naming.
    assert_eq!(
        had(terms(Mechanism::None, Protection::Plain), &gmac),
        Some(true)
    );
}

#[test]
fn what_is_weak_needs_leave() {
    let row = full(Suite::Suite0);
    let none = Leave::default();
    for mechanism in [Mechanism::HlsMd5, Mechanism::HlsSha1] {
        let weak = terms(mechanism, Protection::Glo);
        assert!(why(weak, &row, none).contains("allow_legacy_hls"));
        assert_eq!(had(weak, &row), Some(false));
    }
    let bare = Terms {
        control: SecurityControl::ENC,
        ..terms(Mechanism::HlsGmac, Protection::Glo)
    };
    assert!(why(bare, &row, none).contains("allow_encryption_only"));
    assert_eq!(had(bare, &row), Some(false));
    // Neither is to be had with a meter whose keys came in for both, or for the other.
    let authenticated = Terms {
        control: SecurityControl::AUTH,
        ..bare
    };
    for (policies, expected) in [(0, [false, false]), (1, [true, false]), (2, [false, true])] {
        let row = KeyRow {
            policies,
            ..full(Suite::Suite0)
        };
        let found = [authenticated, bare].map(|terms| had(terms, &row).is_some());
        assert_eq!(found, expected, "{policies}");
    }
    let own = Protection::GeneralCiphering(KeyChoice::Wrapped);
    let own = Terms {
        protection: own,
        ..bare
    };
    assert!(why(own, &row, ALL).contains("of its own"));
    let sha_only = KeyRow {
        sealed_hls_secret: Vec::new(),
        ..row
    };
    let md5 = terms(Mechanism::HlsMd5, Protection::Glo);
    assert!(why(md5, &sha_only, ALL).contains("was not named"));
    let sha1 = terms(Mechanism::HlsSha1, Protection::Glo);
    assert_eq!(had(sha1, &sha_only), Some(false));
}

#[test]
fn the_suite_is_that_of_the_keys() {
    for held in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        for asked in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
            let glo = Terms {
                control: SecurityControl::of(asked, true, true),
                ..terms(Mechanism::HlsGmac, Protection::Glo)
            };
            assert_eq!(had(glo, &full(held)).is_some(), held == asked);
            let ecdsa = Terms {
                mechanism: Mechanism::HlsEcdsa,
                ..glo
            };
            let curve = held == asked && held != Suite::Suite0;
            assert_eq!(
                had(ecdsa, &full(held)).is_some(),
                curve,
                "{held:?} {asked:?}"
            );
        }
    }
}

#[test]
fn the_table_of_protections() {
    let row = full(Suite::Suite1);
    let of = |protection, control| Terms {
        control,
        ..terms(Mechanism::HlsGmac, protection)
    };
    let both = SecurityControl::of(Suite::Suite1, true, true);
    let authenticated = SecurityControl::of(Suite::Suite1, true, false);
    use KeyChoice::{Identified, OnePass, Static, Wrapped};
    use Protection::{Ded, GeneralCiphering, GeneralDed, GeneralGlo, Glo};
    type Take = fn(&mut KeyRow);
    let without: [(Protection, Take); 4] = [
        (GeneralCiphering(Wrapped), |row| {
            row.wrapped_master_key.clear()
        }),
        (GeneralCiphering(OnePass), |row| {
            row.server_signing_key.clear()
        }),
        (GeneralCiphering(OnePass), |row| {
            row.server_agreement_key.clear()
        }),
        (GeneralCiphering(Static), |row| {
            row.server_agreement_key.clear()
        }),
    ];
    for (protection, take) in without {
        let mut row = row.clone();
        assert_eq!(
            had(of(protection, both), &row),
            Some(false),
            "{protection:?}"
        );
        take(&mut row);
        assert_eq!(had(of(protection, both), &row), None, "{protection:?}");
    }
    for protection in [Glo, GeneralGlo, GeneralCiphering(Identified)] {
        assert_eq!(had(of(protection, both), &row), Some(false));
        assert_eq!(had(of(protection, authenticated), &row), Some(false));
    }
    for protection in [Ded, GeneralDed] {
        assert_eq!(had(of(protection, both), &row), Some(false));
        assert!(why(of(protection, authenticated), &row, ALL).contains("dedicated"));
    }
    for octet in [0x01, 0x71, 0xB1, 0x33] {
        assert_eq!(
            had(of(Glo, SecurityControl::new(octet)), &row),
            None,
            "{octet:02X}"
        );
    }
}

#[test]
fn what_is_signed_is_ciphered_and_of_a_suite_with_signatures() {
    let signed = |suite, protection| Terms {
        control: SecurityControl::of(suite, true, true),
        signed: true,
        ..terms(Mechanism::HlsGmac, protection)
    };
    assert_eq!(
        had(signed(Suite::Suite1, Protection::Glo), &full(Suite::Suite1)),
        Some(false)
    );
    assert_eq!(
        had(signed(Suite::Suite0, Protection::Glo), &full(Suite::Suite0)),
        None
    );
    let unsigned = KeyRow {
        server_signing_key: Vec::new(),
        ..full(Suite::Suite1)
    };
    assert_eq!(had(signed(Suite::Suite1, Protection::Glo), &unsigned), None);
    let plain = Terms {
        mechanism: Mechanism::HlsSha256,
        ..signed(Suite::Suite1, Protection::Plain)
    };
    let bare = without_keys(full(Suite::Suite1));
    assert!(why(plain, &bare, ALL).contains("ciphered, too"));
    let public = Terms {
        mechanism: Mechanism::None,
        ..plain
    };
    assert_eq!(had(public, &bare), None);
}
