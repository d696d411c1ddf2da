//! Revocation lists (RFC 5280, 5): which certificates of an authority hold no more.

use std::time::SystemTime;

use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::{Authorities, Certificate, Fault, Now, signed, time};

/// Entries of a list, at most.
const ENTRIES_MAX: usize = 100_000;

/// A list that its authority signed.
#[derive(Debug)]
pub(crate) struct List {
    /// Fingerprint of the authority.
    pub(crate) issuer: String,
    pub(crate) name: String,
    pub(crate) this_update: SystemTime,
    /// When the next one is due; the epoch if it does not say.
    pub(crate) next_update: SystemTime,
    /// Serial numbers in hexadecimal, and since when.
    pub(crate) revoked: Vec<(String, SystemTime)>,
}

impl List {
    /// Reads a list and finds the authority that signed it.
    pub(crate) fn read(der: &[u8], authorities: &Authorities, at: Now) -> Result<Self, Fault> {
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| Fault::Malformed)?;
        if !rest.is_empty() || list.iter_revoked_certificates().count() > ENTRIES_MAX {
            return Err(Fault::Malformed);
        }
        if let Some(unknown) = list.extensions().iter().find(|one| one.critical) {
            // A list of part of the certificates, or of changes alone, says so in a critical extension.
            return Err(Fault::Critical(unknown.oid.to_id_string()));
        }
        let this_update = time(list.last_update().timestamp());
        if this_update > at.now + at.skew {
            return Err(Fault::NotYetValid(super::said(this_update)));
        }
        let mut fault = Fault::UnknownIssuer(list.issuer().to_string());
        for authority in &authorities.all {
            let Ok(issuer) = Certificate::read(&authority.der) else {
                continue;
            };
            if issuer.x509.subject().as_raw() != list.issuer().as_raw() {
                continue;
            }
            let usage = issuer.x509.key_usage().ok().flatten();
            if !usage.is_some_and(|usage| usage.value.crl_sign()) {
                fault = Fault::Usage("revocation lists (cRLSign)");
                continue;
            }
            let of = (
                &list.signature_algorithm,
                list.tbs_cert_list.as_ref(),
                &list.signature_value.data,
            );
            if signed(issuer.x509.public_key(), of.0, of.1, of.2) {
                return Ok(Self {
                    issuer: authority.fingerprint.clone(),
                    name: issuer.subject(),
                    this_update,
                    next_update: list
                        .next_update()
                        .map_or(SystemTime::UNIX_EPOCH, |due| time(due.timestamp())),
                    revoked: list
                        .iter_revoked_certificates()
                        .map(|one| {
                            let since = time(one.revocation_date.timestamp());
                            (hex::encode(one.raw_serial()), since)
                        })
                        .collect(),
                });
            }
            fault = Fault::Signature;
        }
        Err(fault)
    }
}
