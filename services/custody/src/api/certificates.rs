//! The certificate store of `latchkey.custody.v1.KeyService`.

use std::time::{Duration, SystemTime};

use dlms::{Suite, SystemTitle};
use kit::{PeerName, clock};
use latchkey_proto::custody::v1::{
    self as pb, CertificateKind, CreateSigningRequestRequest, CreateSigningRequestResponse,
    DeleteCertificateRequest, DeleteCertificateResponse, ImportCertificateRequest,
    ImportCertificateResponse, ImportRevocationListRequest, ImportRevocationListResponse,
    ListCertificatesRequest, ListCertificatesResponse,
};

use super::Violations;
use crate::{
    certificate::{Certificate, DER_MAX, Kind},
    certificates::{Described, Incoming},
    custody::Custody,
    error::Error,
    store::CertificatesWanted,
};

/// Characters of a reason for the trail.
const REASON_MAX: usize = 256;
/// Octets of a revocation list.
const LIST_MAX: usize = 512 * 1024;
const PAGE_MAX: u32 = 500;
const DAYS_MAX: u32 = 36_500;

pub(super) async fn import(
    custody: &Custody,
    peer: &PeerName,
    asked: ImportCertificateRequest,
) -> Result<ImportCertificateResponse, Error> {
    let mut violations = Violations::default();
    let kind = kind(asked.kind());
    if kind.is_none() {
        violations.check("kind", Err("is required".to_owned()));
    }
    let of_meter = kind.is_some_and(Kind::is_of_meter);
    if of_meter {
        violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
    } else if !asked.meter_id.is_empty() {
        let why = "goes with a meter's certificate".to_owned();
        violations.check("meter_id", Err(why));
    }
    let authority = kind.is_some_and(Kind::is_authority);
    let suite = suite(&mut violations, asked.security_suite, authority);
    violations.length("der", &asked.der, &[1..=DER_MAX]);
    reason(&mut violations, &asked.reason);
    violations.none()?;
    let incoming = Incoming {
        kind: kind.ok_or_else(|| Error::Request(Vec::new()))?,
        meter_id: asked.meter_id,
        suite,
        der: asked.der,
        why: asked.reason,
    };
    let described = custody.import_certificate(peer.as_str(), incoming).await?;
    Ok(ImportCertificateResponse {
        certificate: Some(render(described)),
    })
}

pub(super) async fn list(
    custody: &Custody,
    asked: ListCertificatesRequest,
) -> Result<ListCertificatesResponse, Error> {
    let mut violations = Violations::default();
    if asked.page_size > PAGE_MAX {
        violations.check("page_size", Err(format!("must be at most {PAGE_MAX}")));
    }
    if asked.within_days > DAYS_MAX {
        violations.check("within_days", Err(format!("must be at most {DAYS_MAX}")));
    }
    if !asked.meter_id.is_empty() {
        violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
    }
    let ours = |token: &str| token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit());
    if !asked.page_token.is_empty() && !ours(&asked.page_token) {
        violations.check("page_token", Err("is none of ours".to_owned()));
    }
    violations.none()?;
    let size = match asked.page_size {
        0 => 100,
        size => size,
    };
    let day = Duration::from_secs(24 * 3600);
    let wanted = CertificatesWanted {
        kind: kind(asked.kind()),
        meter_id: asked.meter_id.clone(),
        ends_before: (asked.within_days > 0).then(|| clock::now() + day * asked.within_days),
    };
    let mut rows = custody
        .store
        .list_certificates(&wanted, &asked.page_token, size.saturating_add(1))
        .await?;
    let full = usize::try_from(size).unwrap_or(usize::MAX);
    let more = rows.len() > full;
    rows.truncate(full);
    let next_page_token = rows
        .last()
        .filter(|_| more)
        .map(|row| row.fingerprint.clone())
        .unwrap_or_default();
    let certificates = custody.describe(rows).await?;
    Ok(ListCertificatesResponse {
        certificates: certificates.into_iter().map(render).collect(),
        next_page_token,
    })
}

pub(super) async fn delete(
    custody: &Custody,
    peer: &PeerName,
    asked: DeleteCertificateRequest,
) -> Result<DeleteCertificateResponse, Error> {
    let mut violations = Violations::default();
    violations.length("fingerprint", &asked.fingerprint, &[32..=32]);
    reason(&mut violations, &asked.reason);
    violations.none()?;
    custody
        .delete_certificate(
            peer.as_str(),
            &hex::encode(asked.fingerprint),
            &asked.reason,
        )
        .await?;
    Ok(DeleteCertificateResponse {})
}

pub(super) async fn import_revocations(
    custody: &Custody,
    peer: &PeerName,
    asked: ImportRevocationListRequest,
) -> Result<ImportRevocationListResponse, Error> {
    let mut violations = Violations::default();
    violations.length("der", &asked.der, &[1..=LIST_MAX]);
    violations.none()?;
    let list = custody
        .import_revocations(peer.as_str(), &asked.der)
        .await?;
    Ok(ImportRevocationListResponse {
        revoked_count: u32::try_from(list.revoked.len()).unwrap_or(u32::MAX),
        this_update_time: Some(clock::timestamp(list.this_update)),
        next_update_time: Some(list.next_update)
            .filter(|due| *due > SystemTime::UNIX_EPOCH)
            .map(clock::timestamp),
        issuer: list.name,
    })
}

pub(super) async fn signing_request(
    custody: &Custody,
    asked: CreateSigningRequestRequest,
) -> Result<CreateSigningRequestResponse, Error> {
    let mut violations = Violations::default();
    let own = [Kind::ClientSigning, Kind::ClientAgreement];
    let kind = kind(asked.kind()).filter(|kind| own.contains(kind));
    if kind.is_none() {
        let why = "must be CLIENT_SIGNING or CLIENT_AGREEMENT".to_owned();
        violations.check("kind", Err(why));
    }
    let suite = suite(&mut violations, asked.security_suite, false);
    violations.length("client_system_title", &asked.client_system_title, &[8..=8]);
    let title = SystemTitle::from_slice(&asked.client_system_title);
    violations.none()?;
    let (Some(kind), Some(title)) = (kind, title) else {
        return Err(Error::Request(Vec::new()));
    };
    let der = custody.signing_request((kind, suite), title).await?;
    Ok(CreateSigningRequestResponse { der })
}

fn reason(violations: &mut Violations, text: &str) {
    if text.chars().count() > REASON_MAX {
        let why = format!("must have at most {REASON_MAX} characters");
        violations.check("reason", Err(why));
    }
}

/// Suite 1 or 2; for an authority none.
fn suite(violations: &mut Violations, id: u32, authority: bool) -> Suite {
    let suite = u8::try_from(id).ok().and_then(Suite::from_id);
    match suite {
        Some(Suite::Suite0) if authority => Suite::Suite0,
        Some(suite @ (Suite::Suite1 | Suite::Suite2)) if !authority => suite,
        _ => {
            let why = match authority {
                true => "must be 0 for an authority",
                false => "must be 1 or 2: suite 0 has no certificates",
            };
            violations.check("security_suite", Err(why.to_owned()));
            Suite::Suite0
        }
    }
}

fn kind(said: CertificateKind) -> Option<Kind> {
    Some(match said {
        CertificateKind::Unspecified => return None,
        CertificateKind::Anchor => Kind::Anchor,
        CertificateKind::Authority => Kind::Authority,
        CertificateKind::MeterSigning => Kind::MeterSigning,
        CertificateKind::MeterAgreement => Kind::MeterAgreement,
        CertificateKind::MeterTls => Kind::MeterTls,
        CertificateKind::ClientSigning => Kind::ClientSigning,
        CertificateKind::ClientAgreement => Kind::ClientAgreement,
    })
}

fn rendered(kind: Kind) -> CertificateKind {
    match kind {
        Kind::Anchor => CertificateKind::Anchor,
        Kind::Authority => CertificateKind::Authority,
        Kind::MeterSigning => CertificateKind::MeterSigning,
        Kind::MeterAgreement => CertificateKind::MeterAgreement,
        Kind::MeterTls => CertificateKind::MeterTls,
        Kind::ClientSigning => CertificateKind::ClientSigning,
        Kind::ClientAgreement => CertificateKind::ClientAgreement,
    }
}

fn render(Described { row, fault }: Described) -> pb::Certificate {
    let mut message = pb::Certificate {
        fingerprint: hex::decode(&row.fingerprint).unwrap_or_default(),
        kind: rendered(row.kind).into(),
        meter_id: row.meter_id,
        security_suite: row.suite.id().into(),
        not_after_time: Some(clock::timestamp(row.not_after)),
        valid: fault.is_none(),
        fault_reason: fault
            .as_ref()
            .map_or_else(String::new, |fault| fault.reason().to_owned()),
        fault: fault.map_or_else(String::new, |fault| fault.to_string()),
        create_time: Some(clock::timestamp(clock::from_micros(row.create_us))),
        ..pb::Certificate::default()
    };
    if let Ok(certificate) = Certificate::read(&row.der) {
        message.subject = certificate.subject();
        message.issuer = certificate.issuer();
        message.serial_number = hex::decode(certificate.serial()).unwrap_or_default();
        message.system_title = certificate
            .title()
            .map_or_else(Vec::new, |title| title.bytes().to_vec());
        message.public_key = certificate.public_key().to_vec();
        message.not_before_time = Some(clock::timestamp(certificate.not_before()));
    }
    message.der = row.der;
    message
}
