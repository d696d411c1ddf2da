//! From a certificate to a trust anchor.

use std::collections::BTreeMap;

use dlms::SystemTitle;
use hsm::Curve;

use super::{Certificate, Fault, Kind, Now, said};
use kit::clock;

/// Authorities between a device and its anchor, at most.
const DEPTH_MAX: u32 = 4;

/// One authority that custody knows.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pub(crate) fingerprint: String,
    pub(crate) anchor: bool,
    pub(crate) der: Vec<u8>,
}

/// What was revoked: by fingerprint of the issuer and serial number, when (microseconds since the epoch).
pub(crate) type Revoked = BTreeMap<(String, String), i64>;

/// All that chains are built of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authorities {
    pub(crate) all: Vec<Authority>,
    pub(crate) revoked: Revoked,
}

/// What a certificate must be besides signed and in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) kind: Kind,
    /// The curve of the suite; any for an authority.
    pub(crate) curve: Option<Curve>,
    /// Whose it must be.
    pub(crate) title: Option<SystemTitle>,
}

impl Authorities {
    /// Whether a certificate is what is expected, and a chain of valid authorities leads from it to an anchor.
    pub(crate) fn verify(
        &self,
        certificate: &Certificate<'_>,
        expected: Expected,
        at: Now,
    ) -> Result<(), Fault> {
        certificate.usable_as(expected.kind)?;
        if expected.curve.is_some() && certificate.curve() != expected.curve {
            return Err(Fault::Curve);
        }
        if let Some(title) = expected.title {
            let found = certificate.title().ok_or(Fault::NoTitle)?;
            if found != title {
                return Err(Fault::Title {
                    found: found.to_string(),
                    expected: title.to_string(),
                });
            }
        }
        certificate.in_time(at)?;
        if expected.kind == Kind::Anchor {
            // Believed because somebody who may do so said so; that it fits together is all it can show.
            return if certificate.is_self_issued() && !certificate.signed_by(certificate) {
                Err(Fault::Signature)
            } else {
                Ok(())
            };
        }
        let read: Vec<(&Authority, Certificate<'_>)> = self
            .all
            .iter()
            .filter_map(|one| Some((one, Certificate::read(&one.der).ok()?)))
            .collect();
        self.climb(certificate, &read, at, 0)
    }

    /// Goes one step up, and on. Of several authorities with one name the first whose chain holds will do.
    fn climb(
        &self,
        certificate: &Certificate<'_>,
        read: &[(&Authority, Certificate<'_>)],
        at: Now,
        below: u32,
    ) -> Result<(), Fault> {
        let mut fault = if certificate.is_self_issued() {
            Fault::SelfSigned
        } else {
            Fault::UnknownIssuer(certificate.issuer())
        };
        let issuers = read
            .iter()
            .filter(|(_, issuer)| certificate.names_issuer(issuer))
            .filter(|(_, issuer)| issuer.der() != certificate.der());
        for (authority, issuer) in issuers {
            if !certificate.signed_by(issuer) {
                fault = Fault::Signature;
                continue;
            }
            let serial = (authority.fingerprint.clone(), certificate.serial());
            if let Some(since) = self.revoked.get(&serial) {
                return Err(Fault::Revoked(said(clock::from_micros(*since))));
            }
            match self.stands(authority, issuer, read, at, below) {
                Ok(()) => return Ok(()),
                Err(Fault::TooLong) => fault = Fault::TooLong,
                Err(why) => {
                    fault = Fault::Issuer {
                        name: issuer.subject(),
                        fault: Box::new(why),
                    };
                }
            }
        }
        Err(fault)
    }

    /// Whether an authority may have signed what has `below` authorities between it and the device.
    fn stands(
        &self,
        authority: &Authority,
        issuer: &Certificate<'_>,
        read: &[(&Authority, Certificate<'_>)],
        at: Now,
        below: u32,
    ) -> Result<(), Fault> {
        issuer.is_issuer()?;
        if issuer.path_length().is_some_and(|most| below > most) || below >= DEPTH_MAX {
            return Err(Fault::TooLong);
        }
        issuer.in_time(at)?;
        if authority.anchor {
            return Ok(());
        }
        self.climb(issuer, read, at, below + 1)
    }
}
