//! The certificate store: putting certificates in, and believing them or not.
//!
//! A meter's public keys are bound by the seals of its row, and so is the fact that one came from a certificate: who
//! writes into the database can neither exchange the key nor make its certificate's end be forgotten. The certificate
//! itself, its authorities and what was revoked are rows like others; they are verified whenever they are used, so the
//! worst that can be written there is what takes a meter away. Trust anchors come in through this service, and the trail
//! has each of them.

use std::{collections::BTreeMap, time::Duration};

use dlms::{Suite, SystemTitle};
use kit::clock;
use latchkey_proto::audit::v1::{Entry, EntryKind};

use crate::{
    certificate::{Authorities, Certificate, Expected, Fault, Kind, List, Now, curve, said},
    custody::Custody,
    error::Error,
    keyring::{MeterKeys, agreement_label, signing_label},
    store::{CertificateRow, KeyRow},
    terms::Terms,
    trail,
};

/// In [`KeyRow::policies`]: the key for ECDSA came from a certificate, and serves as long as that does.
pub(crate) const SIGNING_CERTIFIED: u8 = 0x40;
/// The same of the key for ECDH.
pub(crate) const AGREEMENT_CERTIFIED: u8 = 0x80;

/// A certificate on its way in; parsed.
pub(crate) struct Incoming {
    pub(crate) kind: Kind,
    /// Empty unless it is a meter's.
    pub(crate) meter_id: String,
    pub(crate) suite: Suite,
    pub(crate) der: Vec<u8>,
    /// Believed in the place of the ones there were: an expired one of the same key use is left in the store.
    pub(crate) why: String,
}

/// A certificate and what is to be said of it now.
pub(crate) struct Described {
    pub(crate) row: CertificateRow,
    /// Why it is not believed now; none if it is.
    pub(crate) fault: Option<Fault>,
}

impl KeyRow {
    /// Whether this public key came from a certificate.
    pub(crate) fn is_certified(&self, kind: Kind) -> bool {
        self.policies & certified_bit(kind) != 0
    }

    /// The public key for this use.
    fn public_key(&self, kind: Kind) -> &[u8] {
        match kind {
            Kind::MeterAgreement => &self.server_agreement_key,
            _ => &self.server_signing_key,
        }
    }
}

fn certified_bit(kind: Kind) -> u8 {
    match kind {
        Kind::MeterSigning => SIGNING_CERTIFIED,
        Kind::MeterAgreement => AGREEMENT_CERTIFIED,
        _ => 0,
    }
}

impl Custody {
    fn time(&self) -> Now {
        Now {
            now: clock::now(),
            skew: self.certificate_skew,
        }
    }

    /// Authorities, and what is revoked of them and of this certificate.
    async fn authorities_for(
        &self,
        certificates: &[&Certificate<'_>],
    ) -> Result<Authorities, Error> {
        let mut authorities = self.store.authorities().await?;
        let mut serials: Vec<String> = certificates.iter().map(|one| one.serial()).collect();
        for one in &authorities.all {
            serials.extend(Certificate::read(&one.der).ok().map(|one| one.serial()));
        }
        serials.sort();
        serials.dedup();
        self.store.add_revoked(&mut authorities, &serials).await?;
        Ok(authorities)
    }

    /// Verifies a certificate and keeps it. A meter's key comes into use with it, a certificate of the head-end's own key
    /// goes into the token. One that is there already changes nothing.
    pub(crate) async fn import_certificate(
        &self,
        principal: &str,
        incoming: Incoming,
    ) -> Result<Described, Error> {
        let kind = incoming.kind;
        let refuse = |fault| refused(kind, &incoming.meter_id, fault);
        let certificate = Certificate::read(&incoming.der).map_err(refuse)?;
        let held = match kind.is_of_meter() {
            true => Some(self.stored_keys(&incoming.meter_id).await?),
            false => None,
        };
        let expected = expected(&incoming, held.as_ref())?;
        let authorities = self.authorities_for(&[&certificate]).await?;
        authorities
            .verify(&certificate, expected, self.time())
            .map_err(refuse)
            .inspect_err(|error| {
                let detail = format!("certificate refused: {error}");
                let entry = trail::entry(EntryKind::Denial, principal, &incoming.meter_id, detail);
                self.reporter.refused(entry);
            })?;
        let row = CertificateRow {
            fingerprint: certificate.fingerprint(),
            kind,
            meter_id: incoming.meter_id.clone(),
            suite: incoming.suite,
            not_after: certificate.not_after(),
            der: incoming.der.clone(),
            create_us: clock::micros(clock::now()),
        };
        let entry = entry_of(principal, &row, &certificate, &incoming.why);
        // First the certificate, then the key: in between the key is the one that was.
        self.store.insert_certificate(&row, &entry).await?;
        self.reporter.stored();
        match (kind, held) {
            (Kind::MeterSigning | Kind::MeterAgreement, Some(held)) => {
                self.take_key(principal, held, &certificate, &incoming)
                    .await?;
            }
            (Kind::ClientSigning | Kind::ClientAgreement, _) => {
                let label = own_label(kind, incoming.suite)?;
                let chain = vec![incoming.der.clone()];
                let token = self.keyring.token();
                token
                    .store_certificates(label, chain)
                    .await
                    .map_err(|e| match e {
                        hsm::Error::Certificate { .. } => refuse(Fault::OtherKey),
                        other => other.into(),
                    })?;
                self.certificates
                    .take(incoming.suite, &incoming.der, kind)
                    .map_err(refuse)?;
            }
            _ => {}
        }
        Ok(Described { row, fault: None })
    }

    /// Puts the key of a certificate into the meter's row, which is sealed anew.
    async fn take_key(
        &self,
        principal: &str,
        held: KeyRow,
        certificate: &Certificate<'_>,
        incoming: &Incoming,
    ) -> Result<(), Error> {
        let key = certificate.public_key().to_vec();
        let mut changed = held.clone();
        changed.policies |= certified_bit(incoming.kind);
        match incoming.kind {
            Kind::MeterAgreement => changed.server_agreement_key = key,
            _ => changed.server_signing_key = key,
        }
        if changed.policies == held.policies
            && changed.public_key(incoming.kind) == held.public_key(incoming.kind)
        {
            return Ok(());
        }
        let why = format!("certificate {}", certificate.fingerprint());
        self.update_keys(principal, (&held, changed), &why).await?;
        Ok(())
    }

    /// Forgets a certificate. A key that is in use because of it, and of no other, goes with it.
    pub(crate) async fn delete_certificate(
        &self,
        principal: &str,
        fingerprint: &str,
        why: &str,
    ) -> Result<(), Error> {
        let Some(row) = self.store.certificate(fingerprint).await? else {
            return Err(Error::CertificateUnknown {
                fingerprint: fingerprint.to_owned(),
            });
        };
        if matches!(row.kind, Kind::MeterSigning | Kind::MeterAgreement) {
            self.drop_key(principal, &row).await?;
        }
        if matches!(row.kind, Kind::ClientSigning | Kind::ClientAgreement) {
            let label = own_label(row.kind, row.suite)?;
            let kept = self.keyring.token().certificates(label).await?;
            if kept.first() == Some(&row.der) {
                self.keyring.token().remove_certificates(label).await?;
                self.certificates.forget(row.suite, row.kind);
            }
        }
        let subject = Certificate::read(&row.der).map_or_else(|_| String::new(), |c| c.subject());
        let detail = format!(
            "certificate deleted: {} {subject}, SHA-256 {fingerprint}; {why}",
            row.kind.name()
        );
        let entry = trail::entry(EntryKind::Certificate, principal, &row.meter_id, detail);
        self.store.delete_certificate(fingerprint, &entry).await?;
        self.reporter.stored();
        Ok(())
    }

    async fn drop_key(&self, principal: &str, row: &CertificateRow) -> Result<(), Error> {
        let Some(held) = self.store.keys(&row.meter_id).await? else {
            return Ok(());
        };
        let about = |der: &[u8]| {
            Certificate::read(der).is_ok_and(|one| one.public_key() == held.public_key(row.kind))
        };
        let all = self
            .store
            .meter_certificates(&row.meter_id, row.kind)
            .await?;
        let other = all
            .iter()
            .any(|one| one.fingerprint != row.fingerprint && about(&one.der));
        if other || !about(&row.der) || !held.is_certified(row.kind) {
            return Ok(());
        }
        let mut changed = held.clone();
        changed.policies &= !certified_bit(row.kind);
        match row.kind {
            Kind::MeterAgreement => changed.server_agreement_key.clear(),
            _ => changed.server_signing_key.clear(),
        }
        let why = format!("certificate {} deleted", row.fingerprint);
        self.update_keys(principal, (&held, changed), &why).await?;
        Ok(())
    }

    /// What is to be said of certificates now.
    pub(crate) async fn describe(
        &self,
        rows: Vec<CertificateRow>,
    ) -> Result<Vec<Described>, Error> {
        let read: Vec<_> = rows.iter().map(|row| Certificate::read(&row.der)).collect();
        let good: Vec<_> = read.iter().filter_map(|one| one.as_ref().ok()).collect();
        let authorities = self.authorities_for(&good).await?;
        let faults: Vec<Option<Fault>> = rows
            .iter()
            .zip(&read)
            .map(|(row, read)| match read {
                Err(fault) => Some(fault.clone()),
                Ok(certificate) => {
                    let expected = Expected {
                        kind: row.kind,
                        curve: (!row.kind.is_authority())
                            .then(|| curve(row.suite))
                            .flatten(),
                        title: None,
                    };
                    authorities.verify(certificate, expected, self.time()).err()
                }
            })
            .collect();
        Ok(rows
            .into_iter()
            .zip(faults)
            .map(|(row, fault)| Described { row, fault })
            .collect())
    }

    /// Takes a revocation list of an authority that is known here; how many certificates it names.
    pub(crate) async fn import_revocations(
        &self,
        principal: &str,
        der: &[u8],
    ) -> Result<List, Error> {
        let authorities = self.store.authorities().await?;
        let list = List::read(der, &authorities, self.time())
            .map_err(|fault| refused(Kind::Authority, "", fault))?;
        let detail = format!(
            "revocation list of {}: {} certificates, of {}, next due {}",
            list.name,
            list.revoked.len(),
            said(list.this_update),
            said(list.next_update),
        );
        let entry = trail::entry(EntryKind::Certificate, principal, "", detail);
        let stored = self.store.store_revocations(&list, &entry).await?;
        self.reporter.stored();
        if stored {
            Ok(list)
        } else {
            Err(Error::RevocationsOlder { name: list.name })
        }
    }

    /// Whether the certificates that an association under these terms stands on hold now: those of the meter's keys, where
    /// they came from certificates, and those of ours, where we have some.
    pub(crate) async fn certificates_hold(&self, terms: &Terms, row: &KeyRow) -> Result<(), Error> {
        let mut kinds = Vec::new();
        if terms.uses_signatures() {
            kinds.push((Kind::MeterSigning, Kind::ClientSigning));
        }
        if terms.uses_agreement() {
            kinds.push((Kind::MeterAgreement, Kind::ClientAgreement));
        }
        for (meters, ours) in kinds {
            if let Some(fault) = self.certificates.fault(terms.suite(), ours, self.time()) {
                return Err(refused(ours, "", fault));
            }
            if row.is_certified(meters) {
                self.certificate_holds(row, meters).await?;
            }
        }
        Ok(())
    }

    /// One certificate of the key in use that holds is enough: a new one comes in before the old one ends.
    async fn certificate_holds(&self, row: &KeyRow, kind: Kind) -> Result<(), Error> {
        let rows = self.store.meter_certificates(&row.meter_id, kind).await?;
        let mut worst = Fault::Missing;
        for kept in &rows {
            match self.verify_for(row, kind, &kept.der).await? {
                Ok(()) => return Ok(()),
                // The youngest that is about this key says it best.
                Err(Fault::OtherKey) => {}
                Err(fault) if worst == Fault::Missing => worst = fault,
                Err(_) => {}
            }
        }
        Err(refused(kind, &row.meter_id, worst))
    }

    async fn verify_for(
        &self,
        row: &KeyRow,
        kind: Kind,
        der: &[u8],
    ) -> Result<Result<(), Fault>, Error> {
        let certificate = match Certificate::read(der) {
            Ok(certificate) => certificate,
            Err(fault) => return Ok(Err(fault)),
        };
        if certificate.public_key() != row.public_key(kind) {
            return Ok(Err(Fault::OtherKey));
        }
        let authorities = self.authorities_for(&[&certificate]).await?;
        let expected = Expected {
            kind,
            curve: curve(row.suite),
            title: SystemTitle::from_slice(&row.server_system_title),
        };
        Ok(authorities.verify(&certificate, expected, self.time()))
    }

    /// Whether a certificate that came with the meter's AARE is its own, of the key that is held, and holds.
    pub(crate) async fn shown_certificate_holds(
        &self,
        keys: &MeterKeys,
        der: &[u8],
    ) -> Result<(), Error> {
        let row = self.stored_keys(&keys.meter_id).await?;
        let kind = Kind::MeterSigning;
        self.verify_for(&row, kind, der)
            .await?
            .map_err(|fault| refused(kind, &row.meter_id, fault))
    }

    /// A request (PKCS #10, DER) for a certificate of one of the head-end's own keys.
    pub(crate) async fn signing_request(
        &self,
        (kind, suite): (Kind, Suite),
        title: SystemTitle,
    ) -> Result<Vec<u8>, Error> {
        let label = own_label(kind, suite)?;
        let title = title.bytes();
        let subject = match kind {
            Kind::ClientAgreement => hsm::Subject::Agreement { title },
            _ => hsm::Subject::Signing { title },
        };
        Ok(self
            .keyring
            .token()
            .certificate_request(label, &subject)
            .await?)
    }

    /// Says once a day which certificates end soon, or have ended.
    pub(crate) async fn watch_certificates(self) {
        let shutdown = self.shutdown.clone();
        loop {
            if let Err(error) = self.report_ends().await {
                tracing::warn!(%error, "cannot look which certificates end soon");
            }
            tokio::select! {
                () = shutdown.fired() => return,
                () = tokio::time::sleep(DAY) => {}
            }
        }
    }

    async fn report_ends(&self) -> Result<(), Error> {
        let now = clock::now();
        let mut ends = BTreeMap::new();
        for days in [0, 1, 7, 30] {
            let found = self.store.certificates_ending(now + DAY * days).await?;
            gauge().record(
                found,
                &[opentelemetry::KeyValue::new("within_days", i64::from(days))],
            );
            ends.insert(days, found);
        }
        let ended = |days| ends.get(&days).copied().unwrap_or(0);
        if ended(30) == 0 {
            return Ok(());
        }
        let detail = format!(
            "certificates of meters and authorities: {} have expired, {} will within 1 day, {} within 7, {} within 30",
            ended(0),
            ended(1) - ended(0),
            ended(7) - ended(0),
            ended(30) - ended(0),
        );
        tracing::warn!(runbook = "docs/runbooks/certificate-expiry.md", "{detail}");
        let entry = trail::entry(EntryKind::Certificate, "", "", detail);
        self.store.enqueue_start(&entry).await?;
        self.reporter.stored();
        Ok(())
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn gauge() -> &'static opentelemetry::metrics::Gauge<i64> {
    static ENDING: std::sync::OnceLock<opentelemetry::metrics::Gauge<i64>> =
        std::sync::OnceLock::new();
    ENDING.get_or_init(|| {
        opentelemetry::global::meter("latchkey")
            .i64_gauge("custody.certificates.ending")
            .with_description(
                "Certificates in the store that have ended within so many days from now",
            )
            .build()
    })
}

fn expected(incoming: &Incoming, held: Option<&KeyRow>) -> Result<Expected, Error> {
    let kind = incoming.kind;
    if kind.is_authority() {
        return Ok(Expected {
            kind,
            curve: None,
            title: None,
        });
    }
    let suite = held.map_or(incoming.suite, |held| held.suite);
    let title = held.map(|held| {
        SystemTitle::from_slice(&held.server_system_title).ok_or_else(|| Error::KeyRowChanged {
            meter: held.meter_id.clone(),
        })
    });
    let fits = curve(suite).filter(|_| suite == incoming.suite);
    Ok(Expected {
        kind,
        curve: Some(fits.ok_or_else(|| refused(kind, &incoming.meter_id, Fault::Curve))?),
        title: title.transpose()?,
    })
}

/// The head-end's own key of a suite.
fn own_label(kind: Kind, suite: Suite) -> Result<&'static str, Error> {
    let curve = curve(suite).ok_or_else(|| refused(kind, "", Fault::Curve))?;
    Ok(match kind {
        Kind::ClientAgreement => agreement_label(curve),
        _ => signing_label(curve),
    })
}

fn refused(kind: Kind, meter_id: &str, fault: Fault) -> Error {
    let what = match (kind, meter_id) {
        (Kind::MeterSigning, meter) => format!("of the signing key of meter {meter}"),
        (Kind::MeterAgreement, meter) => format!("of the agreement key of meter {meter}"),
        (Kind::MeterTls, meter) => format!("of the TLS key of meter {meter}"),
        (Kind::ClientSigning, _) => "of the head-end's signing key".to_owned(),
        (Kind::ClientAgreement, _) => "of the head-end's agreement key".to_owned(),
        (Kind::Anchor | Kind::Authority, _) => "of an authority".to_owned(),
    };
    Error::CertificateRefused { what, fault }
}

fn entry_of(
    principal: &str,
    row: &CertificateRow,
    certificate: &Certificate<'_>,
    why: &str,
) -> Entry {
    let detail = format!(
        "certificate imported: {} {}, issued by {}, until {}, SHA-256 {}; {why}",
        row.kind.name(),
        certificate.subject(),
        certificate.issuer(),
        said(row.not_after),
        row.fingerprint,
    );
    trail::entry(EntryKind::Certificate, principal, &row.meter_id, detail)
}
