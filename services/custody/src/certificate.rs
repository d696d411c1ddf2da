//! X.509 certificates of DLMS (Green Book, public key certificates; IEC 62056-5-3): what they say, and whether it holds.
//!
//! A certificate is read with `x509-parser` and its signature is checked with `aws-lc-rs`; the rules of a chain are here
//! (ADR 0017 says why). They are narrow on purpose: two algorithms, ECDSA on P-256 with SHA-256 and on P-384 with
//! SHA-384, which is what security suites 1 and 2 have; every issuer an authority that may sign certificates; every
//! certificate of the chain valid now, and none of them revoked; no critical extension that is not understood.

mod chain;
mod revocation;

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use dlms::{Suite, SystemTitle};
use hsm::Curve;
use kit::clock;
use x509_parser::{
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384, OID_X509_SERIALNUMBER,
    },
    prelude::{FromDer as _, ParsedExtension, X509Certificate},
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

pub(crate) use self::{
    chain::{Authorities, Authority, Expected},
    revocation::List,
};

/// Octets of a certificate, at most.
pub(crate) const DER_MAX: usize = 8192;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Where chains end: what it signs is believed.
    Anchor,
    /// Between an anchor and the others.
    Authority,
    /// A meter's key of ECDSA.
    MeterSigning,
    /// A meter's key of ECDH.
    MeterAgreement,
    /// A meter's key of TLS.
    MeterTls,
    /// The head-end's own key of ECDSA; the certificate lives in the token.
    ClientSigning,
    /// The head-end's own key of ECDH; the certificate lives in the token.
    ClientAgreement,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Anchor,
        Self::Authority,
        Self::MeterSigning,
        Self::MeterAgreement,
        Self::MeterTls,
        Self::ClientSigning,
        Self::ClientAgreement,
    ];

    /// As the column has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Anchor => "ANCHOR",
            Self::Authority => "AUTHORITY",
            Self::MeterSigning => "METER_SIGNING",
            Self::MeterAgreement => "METER_AGREEMENT",
            Self::MeterTls => "METER_TLS",
            Self::ClientSigning => "CLIENT_SIGNING",
            Self::ClientAgreement => "CLIENT_AGREEMENT",
        }
    }

    /// Whether it is about one meter.
    pub(crate) fn is_of_meter(self) -> bool {
        matches!(
            self,
            Self::MeterSigning | Self::MeterAgreement | Self::MeterTls
        )
    }

    /// Whether others are signed with it.
    pub(crate) fn is_authority(self) -> bool {
        matches!(self, Self::Anchor | Self::Authority)
    }
}

/// Why a certificate is not believed. Each is a reason of its own for whoever has to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is no X.509 certificate of version 3 in DER")]
    Malformed,
    #[error(
        "it is signed with another algorithm than ECDSA on P-256 with SHA-256 or on P-384 with SHA-384"
    )]
    Algorithm,
    #[error("its key is not on the curve of the security suite")]
    Curve,
    #[error("it is not valid before {0}")]
    NotYetValid(String),
    #[error("it expired at {0}")]
    Expired(String),
    #[error("its key usage does not allow {0}")]
    Usage(&'static str),
    #[error("it is no authority that may sign certificates")]
    NotAuthority,
    #[error("it is an authority, where a device is expected")]
    IsAuthority,
    #[error(
        "its subject names no system title: 16 hexadecimal digits as common name or serial number"
    )]
    NoTitle,
    #[error("it is of system title {found}, expected {expected}")]
    Title { found: String, expected: String },
    #[error("it has a critical extension that is not understood: {0}")]
    Critical(String),
    #[error("it is signed by itself and is no trust anchor here")]
    SelfSigned,
    #[error("no authority here has issued it: {0}")]
    UnknownIssuer(String),
    #[error("its signature is not that of the authority it names")]
    Signature,
    #[error("the chain to a trust anchor is longer than an authority in it allows")]
    TooLong,
    #[error("its authority, {name}: {fault}")]
    Issuer { name: String, fault: Box<Fault> },
    #[error("it was revoked at {0}")]
    Revoked(String),
    #[error("the key it is about is not the one that is held")]
    OtherKey,
    #[error("it was imported and is not in the store any more")]
    Missing,
}

impl Fault {
    /// Its machine-readable reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "CERTIFICATE_MALFORMED",
            Self::Algorithm => "CERTIFICATE_ALGORITHM",
            Self::Curve => "CERTIFICATE_CURVE",
            Self::NotYetValid(_) => "CERTIFICATE_NOT_YET_VALID",
            Self::Expired(_) => "CERTIFICATE_EXPIRED",
            Self::Usage(_) => "CERTIFICATE_USAGE",
            Self::NotAuthority => "CERTIFICATE_NO_AUTHORITY",
            Self::IsAuthority => "CERTIFICATE_OF_AUTHORITY",
            Self::NoTitle | Self::Title { .. } => "CERTIFICATE_SYSTEM_TITLE",
            Self::Critical(_) => "CERTIFICATE_EXTENSION",
            Self::SelfSigned => "CERTIFICATE_SELF_SIGNED",
            Self::UnknownIssuer(_) => "CERTIFICATE_ISSUER_UNKNOWN",
            Self::Signature => "CERTIFICATE_SIGNATURE",
            Self::TooLong => "CERTIFICATE_CHAIN_TOO_LONG",
            // The certificate may be in order: what is to be mended is above it.
            Self::Issuer { .. } => "CERTIFICATE_ISSUER",
            Self::Revoked(_) => "CERTIFICATE_REVOKED",
            Self::OtherKey => "CERTIFICATE_OTHER_KEY",
            Self::Missing => "CERTIFICATE_MISSING",
        }
    }
}

/// When, and with how much doubt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) now: SystemTime,
    /// By how much clocks may differ.
    pub(crate) skew: Duration,
}

/// A certificate that was read.
pub(crate) struct Certificate<'a> {
    x509: X509Certificate<'a>,
    der: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads one, and refuses what is not of the profile.
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, Fault> {
        let (rest, x509) = X509Certificate::from_der(der).map_err(|_| Fault::Malformed)?;
        if !rest.is_empty() || der.len() > DER_MAX || x509.version().0 != 2 {
            return Err(Fault::Malformed);
        }
        let certificate = Self { x509, der };
        certificate.point().ok_or(Fault::Algorithm)?;
        algorithm(&certificate.x509.signature_algorithm).ok_or(Fault::Algorithm)?;
        certificate.extensions_understood()?;
        Ok(certificate)
    }

    /// SHA-256 of it, in hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, self.der))
    }

    pub(crate) fn der(&self) -> &'a [u8] {
        self.der
    }

    pub(crate) fn subject(&self) -> String {
        self.x509.subject().to_string()
    }

    pub(crate) fn issuer(&self) -> String {
        self.x509.issuer().to_string()
    }

    /// In hexadecimal.
    pub(crate) fn serial(&self) -> String {
        hex::encode(self.x509.raw_serial())
    }

    pub(crate) fn not_before(&self) -> SystemTime {
        time(self.x509.validity().not_before.timestamp())
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        time(self.x509.validity().not_after.timestamp())
    }

    /// The curve of its key.
    pub(crate) fn curve(&self) -> Option<Curve> {
        self.point().map(|(curve, _)| curve)
    }

    /// X || Y.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.point().map_or(&[], |(_, key)| key)
    }

    fn point(&self) -> Option<(Curve, &[u8])> {
        point(self.x509.public_key())
    }

    /// The system title in its subject: the common name, or else the serial number; 16 hexadecimal digits. Not two that
    /// differ.
    pub(crate) fn title(&self) -> Option<SystemTitle> {
        let subject = self.x509.subject();
        let names = subject
            .iter_common_name()
            .chain(subject.iter_by_oid(&OID_X509_SERIALNUMBER))
            .filter_map(|name| hex::decode(name.as_str().ok()?).ok())
            .filter_map(|octets| SystemTitle::from_slice(&octets));
        let mut names: Vec<SystemTitle> = names.collect();
        names.dedup();
        match names.as_slice() {
            [title] => Some(*title),
            _ => None,
        }
    }

    fn extensions_understood(&self) -> Result<(), Fault> {
        for extension in self.x509.extensions() {
            let understood = matches!(
                extension.parsed_extension(),
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::CertificatePolicies(_)
                    | ParsedExtension::SubjectAlternativeName(_)
                    | ParsedExtension::SubjectKeyIdentifier(_)
                    | ParsedExtension::AuthorityKeyIdentifier(_)
            );
            if extension.critical && !understood {
                return Err(Fault::Critical(extension.oid.to_id_string()));
            }
        }
        Ok(())
    }

    /// Whether it is valid at this time.
    pub(crate) fn in_time(&self, at: Now) -> Result<(), Fault> {
        let (from, until) = (self.not_before(), self.not_after());
        if at.now + at.skew < from {
            return Err(Fault::NotYetValid(said(from)));
        }
        if at.now > until + at.skew {
            return Err(Fault::Expired(said(until)));
        }
        Ok(())
    }

    /// Whether it may be used for this: what it says itself.
    fn usable_as(&self, kind: Kind) -> Result<(), Fault> {
        if kind.is_authority() {
            return self.is_issuer();
        }
        let constraints = self
            .x509
            .basic_constraints()
            .map_err(|_| Fault::Malformed)?;
        if constraints.is_some_and(|found| found.value.ca) {
            return Err(Fault::IsAuthority);
        }
        let usage = self.x509.key_usage().map_err(|_| Fault::Malformed)?;
        let allows = |wanted: fn(&x509_parser::extensions::KeyUsage) -> bool| {
            usage.as_ref().is_some_and(|usage| wanted(usage.value))
        };
        let (allowed, what) = match kind {
            Kind::MeterSigning | Kind::ClientSigning => (
                allows(x509_parser::extensions::KeyUsage::digital_signature),
                "signatures (digitalSignature)",
            ),
            Kind::MeterAgreement | Kind::ClientAgreement => (
                allows(x509_parser::extensions::KeyUsage::key_agreement),
                "key agreement (keyAgreement)",
            ),
            _ => {
                let tls = self
                    .x509
                    .extended_key_usage()
                    .map_err(|_| Fault::Malformed)?;
                let server = tls.is_some_and(|tls| tls.value.server_auth || tls.value.client_auth);
                (server, "TLS (extended key usage serverAuth or clientAuth)")
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(Fault::Usage(what))
        }
    }

    /// Whether it may sign certificates.
    fn is_issuer(&self) -> Result<(), Fault> {
        let constraints = self
            .x509
            .basic_constraints()
            .map_err(|_| Fault::Malformed)?;
        let usage = self.x509.key_usage().map_err(|_| Fault::Malformed)?;
        let signs = usage.is_some_and(|usage| usage.value.key_cert_sign());
        if constraints.is_some_and(|found| found.value.ca) && signs {
            Ok(())
        } else {
            Err(Fault::NotAuthority)
        }
    }

    /// How many authorities may stand between it and a device, if it says.
    fn path_length(&self) -> Option<u32> {
        let constraints = self.x509.basic_constraints().ok().flatten()?;
        constraints.value.path_len_constraint
    }

    fn is_self_issued(&self) -> bool {
        self.x509.subject().as_raw() == self.x509.issuer().as_raw()
    }

    /// Whether the name it gives for its issuer is this one's, and the key identifiers, where both have one.
    fn names_issuer(&self, issuer: &Certificate<'_>) -> bool {
        if self.x509.issuer().as_raw() != issuer.x509.subject().as_raw() {
            return false;
        }
        let wanted = self.x509.extensions().iter().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
                _ => None,
            }
        });
        let found = issuer.x509.extensions().iter().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id),
                _ => None,
            }
        });
        wanted
            .zip(found)
            .is_none_or(|(wanted, found)| wanted == found)
    }

    /// Whether this one's key signed it.
    fn signed_by(&self, issuer: &Certificate<'_>) -> bool {
        signed(
            issuer.x509.public_key(),
            &self.x509.signature_algorithm,
            self.x509.tbs_certificate.as_ref(),
            &self.x509.signature_value.data,
        )
    }
}

/// The curve of a suite's certificates; suite 0 has none.
pub(crate) fn curve(suite: Suite) -> Option<Curve> {
    crate::keyring::curve(suite)
}

fn point<'a>(key: &'a SubjectPublicKeyInfo<'_>) -> Option<(Curve, &'a [u8])> {
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let named = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let curve = if named == OID_EC_P256 {
        Curve::P256
    } else if named == OID_NIST_EC_P384 {
        Curve::P384
    } else {
        return None;
    };
    let (first, public) = key.subject_public_key.data.split_first()?;
    (*first == 0x04 && curve.is_public_key(public)).then_some((curve, public))
}

/// The curve that an algorithm of signatures goes with.
fn algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Option<Curve> {
    if algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256 {
        Some(Curve::P256)
    } else if algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA384 {
        Some(Curve::P384)
    } else {
        None
    }
}

fn signed(
    key: &SubjectPublicKeyInfo<'_>,
    with: &AlgorithmIdentifier<'_>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
    let Some((curve, _)) = point(key).filter(|(curve, _)| algorithm(with) == Some(*curve)) else {
        return false;
    };
    let how = match curve {
        Curve::P256 => &ECDSA_P256_SHA256_ASN1,
        Curve::P384 => &ECDSA_P384_SHA384_ASN1,
    };
    let public = UnparsedPublicKey::new(how, key.subject_public_key.data.as_ref());
    public.verify(message, signature).is_ok()
}

fn time(seconds: i64) -> SystemTime {
    clock::from_micros(seconds.saturating_mul(1_000_000))
}

/// A time as a person reads it: seconds since the epoch say less.
pub(crate) fn said(at: SystemTime) -> String {
    let seconds = clock::micros(at) / 1_000_000;
    x509_parser::time::ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
