//! A development PKI: one authority, and a certificate per service and person. Not for production: the authority's
//! key lies beside its certificates.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SigningKey,
};

use crate::dev::layout::{ADMIN, DOMAIN, Layout, OPERATOR, SERVICES, peer_name};
use crate::failure::Failure;
use crate::file::{self, Mode};

const CA_DAYS: u64 = 3650;
const LEAF_DAYS: u64 = 397;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes what is missing; what is there stays. Says how many certificates it made.
pub(crate) fn make(layout: &Layout) -> Result<usize, Failure> {
    let (issuer, fresh) = authority(layout)?;
    let mut made = 0;
    for who in SERVICES
        .map(|(service, _)| service)
        .into_iter()
        .chain([OPERATOR, ADMIN])
    {
        let (certificate, key) = (layout.certificate(who), layout.key(who));
        // A leaf of an authority that is gone is of no use.
        if fresh || !certificate.exists() || !key.exists() {
            leaf(&issuer, &peer_name(who), &certificate, &key)?;
            made += 1;
        }
    }
    Ok(made)
}

/// The authority, and whether it is a new one.
fn authority(layout: &Layout) -> Result<(Issuer<'static, KeyPair>, bool), Failure> {
    let (certificate, key) = (layout.ca(), layout.ca_key());
    let params = authority_params().map_err(|error| unmade(&certificate, &error))?;
    if certificate.exists() && key.exists() {
        let pair = KeyPair::from_pem(&file::read(&key)?).map_err(|error| {
            Failure::file("use", &key, &error)
                .mend("remove the pki folder and run `latchkey dev init` again")
        })?;
        return Ok((Issuer::new(params, pair), false));
    }
    let pair = key_pair().map_err(|error| unmade(&key, &error))?;
    let signed = params
        .self_signed(&pair)
        .map_err(|error| unmade(&certificate, &error))?;
    file::write(&key, pair.serialize_pem(), Mode::Secret)?;
    file::write(&certificate, signed.pem(), Mode::Public)?;
    Ok((Issuer::new(params, pair), true))
}

fn leaf(
    issuer: &Issuer<'_, impl SigningKey>,
    name: &str,
    certificate: &Path,
    key: &Path,
) -> Result<(), Failure> {
    let pair = key_pair().map_err(|error| unmade(key, &error))?;
    let signed = leaf_params(name)
        .and_then(|params| params.signed_by(&pair, issuer))
        .map_err(|error| unmade(certificate, &error))?;
    // Key first: a certificate without its key would look finished to the next run.
    file::write(key, pair.serialize_pem(), Mode::Secret)?;
    file::write(certificate, signed.pem(), Mode::Public)
}

fn key_pair() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(
        DnType::CommonName,
        format!("{DOMAIN} development authority"),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS);
    Ok(params)
}

/// One URI name, who it is; a host name and an address for tools that ask where it is.
fn leaf_params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let last = name.rsplit('/').next().unwrap_or(name);
    params.distinguished_name.push(DnType::CommonName, last);
    params.subject_alt_names = vec![
        SanType::URI(name.try_into()?),
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_DAYS);
    Ok(params)
}

/// From yesterday, so that a clock which is a little behind accepts it too.
fn valid_for(params: &mut CertificateParams, days: u64) {
    let now = kit::clock::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * u32::try_from(days).unwrap_or(u32::MAX)).into();
}

fn unmade(path: &Path, error: &rcgen::Error) -> Failure {
    Failure::file("make", path, error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn tls(layout: &Layout, who: &str) -> kit::config::Tls {
        kit::config::Tls::files(
            layout.certificate(who),
            layout.key(who),
            layout.ca(),
            DOMAIN,
        )
    }

    #[test]
    fn every_certificate_holds_its_owners_name_and_a_second_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        layout
            .folders()
            .iter()
            .for_each(|folder| file::private_folder(folder).unwrap());
        assert_eq!(make(&layout).unwrap(), 7);
        for who in [
            "custody",
            "association",
            "reset",
            "auditor",
            "gateway",
            OPERATOR,
            ADMIN,
        ] {
            let tls = tls(&layout, who);
            assert_eq!(kit::tls::own_name(&tls).unwrap().as_str(), peer_name(who));
            kit::tls::server_config(&tls).unwrap_or_else(|error| panic!("{who}: {error}"));
            let mode = std::fs::metadata(layout.key(who))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{who}");
        }
        let before = file::read(&layout.certificate("reset")).unwrap();
        assert_eq!(make(&layout).unwrap(), 0);
        std::fs::remove_file(layout.key("custody")).unwrap();
        assert_eq!(make(&layout).unwrap(), 1);
        assert_eq!(file::read(&layout.certificate("reset")).unwrap(), before);
        kit::tls::server_config(&tls(&layout, "custody")).unwrap();
    }

    #[test]
    fn a_new_authority_makes_new_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        layout
            .folders()
            .iter()
            .for_each(|folder| file::private_folder(folder).unwrap());
        make(&layout).unwrap();
        std::fs::remove_file(layout.ca()).unwrap();
        assert_eq!(make(&layout).unwrap(), 7);
    }
}
