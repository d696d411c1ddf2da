//! The head-end's own key pairs and certificates: what a meter must be told of us.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{PoisonError, RwLock},
};

use dlms::{Suite, SystemTitle};
use hsm::{Curve, Token};
use kit::StartError;
use latchkey_proto::custody::v1::GetClientKeysResponse;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    certificate::{Certificate, Fault, Kind, Now, curve},
    config::Config,
    custody::Custody,
    error::Error,
    keyring::{agreement_label, signing_label},
};

/// The certificates of the head-end's own keys: from files that are configured, or else from the token.
#[derive(Default)]
pub(crate) struct Certificates(RwLock<BTreeMap<(u8, &'static str), Own>>);

#[derive(Clone)]
struct Own {
    title: SystemTitle,
    der: Vec<u8>,
}

impl Certificates {
    /// Reads the certificates and refuses one that is not of the token's key, or names no system title.
    pub(crate) async fn load(config: &Config, token: &Token) -> Result<Self, StartError> {
        let all = Self::default();
        let files = [
            (Suite::Suite1, &config.client_certificate_suite1_file),
            (Suite::Suite2, &config.client_certificate_suite2_file),
        ];
        for (suite, file) in files {
            let Some(curve) = curve(suite) else { continue };
            let of = [
                (Kind::ClientSigning, signing_label(curve)),
                (Kind::ClientAgreement, agreement_label(curve)),
            ];
            for (kind, label) in of {
                let der = match file {
                    Some(file) if kind == Kind::ClientSigning => {
                        from_file(file, label, token).await?
                    }
                    _ => {
                        let Some(der) = token.certificates(label).await?.into_iter().next() else {
                            continue;
                        };
                        der
                    }
                };
                all.take(suite, &der, kind).map_err(|fault| {
                    StartError::context(format!("certificate of key {label} in the token"), fault)
                })?;
            }
        }
        Ok(all)
    }

    /// Uses this certificate from now on.
    pub(crate) fn take(&self, suite: Suite, der: &[u8], kind: Kind) -> Result<(), Fault> {
        let certificate = Certificate::read(der)?;
        let own = Own {
            title: certificate.title().ok_or(Fault::NoTitle)?,
            der: der.to_vec(),
        };
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert((suite.id(), kind.name()), own);
        Ok(())
    }

    /// Uses none from now on.
    pub(crate) fn forget(&self, suite: Suite, kind: Kind) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(suite.id(), kind.name()));
    }

    fn find(&self, suite: Suite, kind: Kind) -> Option<Own> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&(suite.id(), kind.name())).cloned()
    }

    /// The certificate of the signing key of a suite for a client with this title, DER; empty if there is none. A meter
    /// compares the title with that of the AARQ, so another client's would not do.
    pub(crate) fn of(&self, suite: Suite, title: SystemTitle) -> Vec<u8> {
        match self.find(suite, Kind::ClientSigning) {
            Some(own) if own.title == title => own.der,
            Some(own) => {
                tracing::warn!(
                    configured = %own.title,
                    enrolled = %title,
                    "the client certificate is another client system title's and is not sent"
                );
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Why the certificate of one of our keys does not hold now; none if it does, or there is no certificate.
    pub(crate) fn fault(&self, suite: Suite, kind: Kind, at: Now) -> Option<Fault> {
        let own = self.find(suite, kind)?;
        match Certificate::read(&own.der) {
            Ok(certificate) => certificate.in_time(at).err(),
            Err(fault) => Some(fault),
        }
    }
}

async fn from_file(file: &Path, label: &str, token: &Token) -> Result<Vec<u8>, StartError> {
    let name = file.display();
    let text = std::fs::read(file)
        .map_err(|e| StartError::context(format!("client certificate {name}"), e))?;
    let der = parse(&text, &token.public_key(label).await?);
    der.map_err(|why| StartError::msg(format!("client certificate {name}: {why}")))
}

/// `public` is the token's key, an uncompressed point.
fn parse(text: &[u8], public: &[u8]) -> Result<Vec<u8>, &'static str> {
    let der = if text.starts_with(b"-----") {
        CertificateDer::from_pem_slice(text).map_err(|_| "it is no PEM certificate")?
    } else {
        CertificateDer::from(text)
    };
    let (rest, certificate) =
        X509Certificate::from_der(&der).map_err(|_| "it is no X.509 certificate")?;
    if !rest.is_empty() {
        return Err("octets follow the certificate");
    }
    if certificate.public_key().subject_public_key.data.as_ref() != public {
        return Err("its public key is not that of the token's signing key");
    }
    let usage = certificate.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err("its key usage is not digitalSignature");
    }
    let mut names = certificate.subject().iter_common_name();
    let title = match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().and_then(title),
        _ => None,
    };
    title.ok_or("its subject has not one common name: the client system title, 16 hex digits")?;
    Ok(der.to_vec())
}

fn title(hex: &str) -> Option<SystemTitle> {
    SystemTitle::from_slice(&hex::decode(hex).ok()?)
}

impl Custody {
    /// The public keys of a suite, and the certificate that is configured for it.
    pub(crate) async fn client_keys(&self, curve: Curve) -> Result<GetClientKeysResponse, Error> {
        let signing = self.public_key(signing_label(curve)).await;
        let agreement = self.public_key(agreement_label(curve)).await;
        // A token may have been given the one and not the other.
        let (signing_key, agreement_key) = match (signing, agreement) {
            (Err(error), Err(_)) => return Err(error),
            (Ok(key), Err(Error::TokenLacks { .. })) => (key, Vec::new()),
            (Err(Error::TokenLacks { .. }), Ok(key)) => (Vec::new(), key),
            (signing, agreement) => (signing?, agreement?),
        };
        let suite = match curve {
            Curve::P256 => Suite::Suite1,
            Curve::P384 => Suite::Suite2,
        };
        let certificate = self.certificates.find(suite, Kind::ClientSigning);
        Ok(GetClientKeysResponse {
            signing_key,
            agreement_key,
            signing_certificate: certificate.map(|own| own.der).unwrap_or_default(),
        })
    }

    /// X || Y.
    async fn public_key(&self, label: &str) -> Result<Vec<u8>, Error> {
        let point = self.keyring.token().public_key(label).await?;
        // An uncompressed point; DLMS leaves its first octet out.
        Ok(point.get(1..).unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose};

    use super::*;

    fn certificate(names: &[&str], usage: &[KeyUsagePurpose]) -> (Vec<u8>, String, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.key_usages = usage.to_vec();
        let signed = params.self_signed(&key).unwrap();
        (
            signed.der().to_vec(),
            signed.pem(),
            key.public_key_raw().to_vec(),
        )
    }

    #[test]
    fn a_certificate_is_of_the_tokens_key_and_names_the_title() {
        let (der, pem, public) =
            certificate(&["4D4D4D0000000001"], &[KeyUsagePurpose::DigitalSignature]);
        for text in [der.as_slice(), pem.as_bytes()] {
            assert_eq!(parse(text, &public).unwrap(), der);
        }
        let why = |text: &[u8], public: &[u8]| parse(text, public).err().unwrap();
        assert!(why(&der, &public[1..]).contains("public key"));
        assert!(why(&der[1..], &public).contains("no X.509"));
        assert!(why(&[&der[..], b"x"].concat(), &public).contains("follow"));
        assert!(why(b"-----BEGIN", &public).contains("PEM"));
        for names in [&["4D4D4D00000000"][..], &["head-end"], &[]] {
            let (der, _, public) = certificate(names, &[]);
            assert!(why(&der, &public).contains("common name"), "{names:?}");
        }
        let (der, _, public) = certificate(&["4D4D4D0000000001"], &[KeyUsagePurpose::KeyAgreement]);
        assert!(why(&der, &public).contains("key usage"));
    }
}
