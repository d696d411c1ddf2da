//! `latchkey keys csr` and `latchkey keys certificate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use latchkey_proto::custody::v1::CertificateKind;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CertificateUse {
    /// A trust anchor, where chains end.
    Anchor,
    /// An authority between an anchor and devices.
    Authority,
    /// A meter's key of ECDSA.
    MeterSigning,
    /// A meter's key of ECDH.
    MeterAgreement,
    /// A meter's key of TLS.
    MeterTls,
    /// The head-end's own key of ECDSA.
    ClientSigning,
    /// The head-end's own key of ECDH.
    ClientAgreement,
}

impl From<CertificateUse> for CertificateKind {
    fn from(of: CertificateUse) -> Self {
        match of {
            CertificateUse::Anchor => Self::Anchor,
            CertificateUse::Authority => Self::Authority,
            CertificateUse::MeterSigning => Self::MeterSigning,
            CertificateUse::MeterAgreement => Self::MeterAgreement,
            CertificateUse::MeterTls => Self::MeterTls,
            CertificateUse::ClientSigning => Self::ClientSigning,
            CertificateUse::ClientAgreement => Self::ClientAgreement,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeysCsr {
    /// Security suite of the key.
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) suite: u8,
    /// For the key of key agreement instead of the one that signs.
    #[arg(long)]
    pub(crate) agreement: bool,
    /// Client system title, 16 hex digits: the common name.
    #[arg(long, value_name = "HEX")]
    pub(crate) client_title: String,
    /// Write the request (PEM) here instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCertificate {
    /// Verify a certificate and keep it. A meter's key comes into use with it.
    Import {
        /// What it is for.
        #[arg(long = "for", value_enum)]
        of: CertificateUse,
        /// The meter, for a meter's.
        #[arg(long, value_name = "ID", default_value = "")]
        meter: String,
        /// Security suite, 1 or 2; not for an authority.
        #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
        suite: Option<u8>,
        /// Why, for the trail.
        #[arg(long, default_value = "operator request")]
        reason: String,
        /// The certificate, PEM or DER.
        file: PathBuf,
    },
    /// What is kept, until when, and whether it is believed now.
    List {
        /// Only those for this.
        #[arg(long = "for", value_enum)]
        of: Option<CertificateUse>,
        /// Only those of this meter.
        #[arg(long, value_name = "ID", default_value = "")]
        meter: String,
        /// Only those that end within so many days, or have ended.
        #[arg(long, value_name = "DAYS", default_value_t = 0)]
        within_days: u32,
    },
    /// Forget a certificate, and the key that is in use because of it alone.
    Delete {
        /// Its SHA-256, 64 hex digits.
        fingerprint: String,
        /// Why, for the trail.
        #[arg(long, default_value = "operator request")]
        reason: String,
    },
    /// Take the revocation list (CRL) of an authority that is kept.
    Revocations {
        /// The list, PEM or DER.
        file: PathBuf,
    },
}
