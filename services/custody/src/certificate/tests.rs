//! Chains made with rcgen, which shares no code with what reads them here, and each way in which one does not hold.

use std::time::Duration;

use dlms::SystemTitle;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, RevocationReason,
    RevokedCertParams, SerialNumber, SignatureAlgorithm,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const TITLE: &str = "4D4D4D0000000001";

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Ca {
    fn params(name: &str, path: Option<u8>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(match path {
            Some(most) => BasicConstraints::Constrained(most),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, -10, 3650);
        params
    }

    fn root(name: &str, on: &'static SignatureAlgorithm) -> Self {
        Self::with(name, on, |_| {})
    }

    fn with(
        name: &str,
        on: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate_for(on).unwrap();
        let mut params = Self::params(name, None);
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            der,
        }
    }

    /// An authority under this one.
    fn under(&self, name: &str, path: Option<u8>) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = Self::params(name, path);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            der,
        }
    }

    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        self.leaf_on(&PKCS_ECDSA_P256_SHA256, change)
    }

    fn leaf_on(
        &self,
        on: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let key = KeyPair::generate_for(on).unwrap();
        let mut params = device();
        change(&mut params);
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }

    fn authority(&self, anchor: bool) -> Authority {
        Authority {
            fingerprint: Certificate::read(&self.der).unwrap().fingerprint(),
            anchor,
            der: self.der.clone(),
        }
    }
}

/// A meter's signing certificate, as the Green Book has it.
fn device() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, TITLE);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, -1, 100);
    params
}

fn valid(params: &mut CertificateParams, from: i64, until: i64) {
    let at = |days: i64| {
        let days_off = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 {
            clock::now() - days_off
        } else {
            clock::now() + days_off
        }
    };
    params.not_before = at(from).into();
    params.not_after = at(until).into();
}

fn now() -> Now {
    Now {
        now: clock::now(),
        skew: Duration::from_secs(5),
    }
}

fn title() -> SystemTitle {
    SystemTitle::new(*b"MMM\0\0\0\0\x01")
}

fn signing() -> Expected {
    Expected {
        kind: Kind::MeterSigning,
        curve: Some(Curve::P256),
        title: Some(title()),
    }
}

fn trusting(authorities: &[Authority]) -> Authorities {
    Authorities {
        all: authorities.to_vec(),
        ..Authorities::default()
    }
}

fn check(authorities: &Authorities, der: &[u8], expected: Expected) -> Result<(), Fault> {
    authorities.verify(&Certificate::read(der)?, expected, now())
}

#[test]
fn a_chain_of_the_profile_is_believed() {
    let root = Ca::root("utility", &PKCS_ECDSA_P384_SHA384);
    let middle = root.under("manufacturer", Some(0));
    let known = trusting(&[middle.authority(false), root.authority(true)]);
    let leaf = middle.leaf(|_| {});
    assert_eq!(check(&known, &leaf, signing()), Ok(()));
    let read = Certificate::read(&leaf).unwrap();
    assert_eq!((read.title(), read.public_key().len()), (Some(title()), 64));
    assert_eq!(read.issuer(), "CN=manufacturer");
    // straight under the anchor, on the larger curve, for the other uses
    for (kind, change) in [
        (
            Kind::MeterAgreement,
            (|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]) as fn(&mut CertificateParams),
        ),
        (Kind::MeterTls, |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        (Kind::ClientSigning, |_| {}),
    ] {
        let leaf = root.leaf_on(&PKCS_ECDSA_P384_SHA384, change);
        let expected = Expected {
            kind,
            curve: Some(Curve::P384),
            ..signing()
        };
        assert_eq!(check(&known, &leaf, expected), Ok(()), "{kind:?}");
    }
    // the title as the subject's serial number
    let leaf = root.leaf(|p| {
        p.distinguished_name = DistinguishedName::new();
        let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
        p.distinguished_name.push(serial, TITLE.to_lowercase());
    });
    assert_eq!(check(&known, &leaf, signing()), Ok(()));
}

#[test]
fn what_a_certificate_says_of_itself_must_fit() {
    let root = Ca::root("utility", &PKCS_ECDSA_P256_SHA256);
    let known = trusting(&[root.authority(true)]);
    let named = |name: &'static str| {
        move |p: &mut CertificateParams| {
            p.distinguished_name = DistinguishedName::new();
            p.distinguished_name.push(DnType::CommonName, name);
        }
    };
    let refused = |der: &[u8]| check(&known, der, signing()).unwrap_err().reason();
    for (der, reason) in [
        (
            root.leaf(named("4D4D4D0000000002")),
            "CERTIFICATE_SYSTEM_TITLE",
        ),
        (root.leaf(named("meter one")), "CERTIFICATE_SYSTEM_TITLE"),
        (
            root.leaf(|p| {
                p.distinguished_name
                    .push(DnType::CustomDnType(vec![2, 5, 4, 5]), "4D4D4D0000000002");
            }),
            "CERTIFICATE_SYSTEM_TITLE",
        ),
        (
            root.leaf(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            "CERTIFICATE_USAGE",
        ),
        (root.leaf(|p| p.key_usages.clear()), "CERTIFICATE_USAGE"),
        (root.leaf(|p| valid(p, -10, -1)), "CERTIFICATE_EXPIRED"),
        (root.leaf(|p| valid(p, 1, 10)), "CERTIFICATE_NOT_YET_VALID"),
        (
            root.leaf_on(&PKCS_ECDSA_P384_SHA384, |_| {}),
            "CERTIFICATE_CURVE",
        ),
        (root.leaf_on(&PKCS_ED25519, |_| {}), "CERTIFICATE_ALGORITHM"),
        (root.under("x", None).der, "CERTIFICATE_OF_AUTHORITY"),
        (
            root.leaf(|p| {
                let mut odd = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                odd.set_criticality(true);
                p.custom_extensions = vec![odd];
            }),
            "CERTIFICATE_EXTENSION",
        ),
        (b"no certificate".to_vec(), "CERTIFICATE_MALFORMED"),
    ] {
        assert_eq!(refused(&der), reason);
    }
    let mut longer = root.leaf(|_| {});
    longer.push(0);
    assert_eq!(refused(&longer), "CERTIFICATE_MALFORMED");
    // within the skew of clocks it is neither too early nor too late
    let leaf = root.leaf(|_| {});
    let read = Certificate::read(&leaf).unwrap();
    let at = |time: SystemTime| {
        let when = Now {
            now: time,
            skew: Duration::from_secs(5),
        };
        read.in_time(when).is_ok()
    };
    let second = Duration::from_secs(1);
    assert!(at(read.not_before() - 5 * second) && at(read.not_after() + 5 * second));
    assert!(!at(read.not_before() - 6 * second) && !at(read.not_after() + 6 * second));
}

#[test]
fn a_chain_that_is_broken_is_refused_where_it_is() {
    let root = Ca::root("utility", &PKCS_ECDSA_P256_SHA256);
    let middle = root.under("manufacturer", Some(0));
    let leaf = middle.leaf(|_| {});
    let refused =
        |known: &[Authority], der: &[u8]| check(&trusting(known), der, signing()).unwrap_err();
    // nobody, a stranger, itself
    let unknown = "CERTIFICATE_ISSUER_UNKNOWN";
    assert_eq!(refused(&[], &leaf).reason(), unknown);
    assert_eq!(refused(&[root.authority(true)], &leaf).reason(), unknown);
    let key = KeyPair::generate().unwrap();
    let own = device().self_signed(&key).unwrap().der().to_vec();
    let all = [root.authority(true), middle.authority(false)];
    assert_eq!(refused(&all, &own).reason(), "CERTIFICATE_SELF_SIGNED");
    // the authority between, with no anchor above it
    let fault = refused(&[middle.authority(false)], &leaf);
    let above =
        matches!(&fault, Fault::Issuer { fault, .. } if matches!(**fault, Fault::UnknownIssuer(_)));
    assert!(above, "{fault}");
    // another of the same name and key identifier
    let forged = Ca::with("manufacturer", &PKCS_ECDSA_P256_SHA256, |p| {
        let id = Certificate::read(&middle.der).unwrap();
        let id = id
            .x509
            .extensions()
            .iter()
            .find_map(|e| match e.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        p.key_identifier_method = KeyIdMethod::PreSpecified(id.unwrap());
    });
    let fault = refused(&all, &forged.leaf(|_| {}));
    assert_eq!(fault, Fault::Signature);
    // any octet of it changed
    let mut changed = leaf;
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert_eq!(refused(&all, &changed), Fault::Signature);
    // a device as authority, and one authority too many
    let key = KeyPair::generate().unwrap();
    let der = device()
        .signed_by(&key, &root.issuer)
        .unwrap()
        .der()
        .to_vec();
    let posing = Ca {
        issuer: Issuer::new(device(), key),
        der,
    };
    let known = [root.authority(true), posing.authority(false)];
    let fault = refused(
        &known,
        &posing.leaf(|p| {
            p.use_authority_key_identifier_extension = false;
        }),
    );
    let no_authority =
        matches!(&fault, Fault::Issuer { fault, .. } if **fault == Fault::NotAuthority);
    assert!(no_authority, "{fault}");
    let lower = middle.under("factory", None);
    let known = [
        root.authority(true),
        middle.authority(false),
        lower.authority(false),
    ];
    assert_eq!(
        refused(&known, &lower.leaf(|_| {})).reason(),
        "CERTIFICATE_CHAIN_TOO_LONG"
    );
    // an authority that has expired
    let old = Ca::with("old", &PKCS_ECDSA_P256_SHA256, |p| valid(p, -100, -1));
    let fault = refused(&[old.authority(true)], &old.leaf(|_| {}));
    assert!(fault.to_string().contains("expired"), "{fault}");
}

#[test]
fn an_anchor_is_an_authority_and_signs_itself() {
    let root = Ca::root("utility", &PKCS_ECDSA_P256_SHA256);
    let anchor = Expected {
        kind: Kind::Anchor,
        curve: None,
        title: None,
    };
    let nobody = Authorities::default();
    assert_eq!(check(&nobody, &root.der, anchor), Ok(()));
    let mut changed = root.der.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert_eq!(check(&nobody, &changed, anchor), Err(Fault::Signature));
    assert_eq!(
        check(&nobody, &root.leaf(|_| {}), anchor),
        Err(Fault::NotAuthority)
    );
    let expected = Expected {
        kind: Kind::Authority,
        ..anchor
    };
    let middle = root.under("manufacturer", None);
    assert!(check(&nobody, &middle.der, expected).is_err());
    let known = trusting(&[root.authority(true)]);
    assert_eq!(check(&known, &middle.der, expected), Ok(()));
}

#[test]
fn a_revocation_list_of_its_authority_takes_certificates_away() {
    let root = Ca::root("utility", &PKCS_ECDSA_P256_SHA256);
    let other = Ca::root("other", &PKCS_ECDSA_P256_SHA256);
    let leaf = root.leaf(|p| p.serial_number = Some(SerialNumber::from(77)));
    let list = |by: &Ca, update: SystemTime| {
        CertificateRevocationListParams {
            this_update: update.into(),
            next_update: (update + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(77),
                revocation_time: (update - DAY).into(),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&by.issuer)
        .unwrap()
        .der()
        .to_vec()
    };
    let mut known = trusting(&[root.authority(true), other.authority(true)]);
    assert_eq!(check(&known, &leaf, signing()), Ok(()));
    let read = |der: &[u8]| List::read(der, &known, now());
    let good = read(&list(&root, clock::now() - DAY)).unwrap();
    assert_eq!(
        (good.issuer.as_str(), good.revoked.len()),
        (known.all[0].fingerprint.as_str(), 1)
    );
    // later than now, of a stranger, changed
    assert!(read(&list(&root, clock::now() + DAY)).is_err());
    let stranger = Ca::root("stranger", &PKCS_ECDSA_P256_SHA256);
    assert!(read(&list(&stranger, clock::now() - DAY)).is_err());
    let mut changed = list(&root, clock::now() - DAY);
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert_eq!(read(&changed).unwrap_err(), Fault::Signature);
    for (serial, since) in &good.revoked {
        let key = (good.issuer.clone(), serial.clone());
        known.revoked.insert(key, clock::micros(*since));
    }
    let fault = check(&known, &leaf, signing()).unwrap_err();
    assert_eq!(fault.reason(), "CERTIFICATE_REVOKED", "{fault}");
    // a number of another authority's is another certificate
    let same = other.leaf(|p| p.serial_number = Some(SerialNumber::from(77)));
    assert_eq!(check(&known, &same, signing()), Ok(()));
}
