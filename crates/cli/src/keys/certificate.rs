//! Requests for certificates of the head-end's own keys, and the certificate store.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latchkey_proto::custody::v1 as pb;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use crate::args::{KeysCertificate, KeysCsr};
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file::{self, Mode};
use crate::output::{Output, time};

/// A request for a certificate of one of the head-end's own keys.
pub(super) async fn csr(
    args: &KeysCsr,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let kind = match args.agreement {
        true => pb::CertificateKind::ClientAgreement,
        false => pb::CertificateKind::ClientSigning,
    };
    let request = pb::CreateSigningRequestRequest {
        kind: kind.into(),
        security_suite: args.suite.into(),
        client_system_title: super::octets("--client-title", &args.client_title, 8)?,
    };
    let response = session
        .keys()?
        .create_signing_request(request)
        .await
        .map_err(|status| Failure::status("have a certificate request signed", &status))?;
    let pem = pem("CERTIFICATE REQUEST", &response.into_inner().der);
    match &args.out {
        Some(path) => {
            file::write(path, &pem, Mode::Public)?;
            let json = json!({ "file": path, "request": pem });
            output.result(&json, || format!("written to {}", path.display()));
        }
        None => output.result(&json!({ "request": pem }), || pem.trim_end().to_owned()),
    }
    Ok(Exit::OK)
}

/// The store.
pub(super) async fn run(
    verb: KeysCertificate,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        KeysCertificate::Import {
            of,
            meter,
            suite,
            reason,
            file,
        } => {
            let request = pb::ImportCertificateRequest {
                kind: pb::CertificateKind::from(of).into(),
                meter_id: meter,
                security_suite: suite.map_or(0, u32::from),
                der: der(&file, "CERTIFICATE")?,
                reason,
            };
            let kept = import(session, request).await?;
            table(&[kept], output);
        }
        KeysCertificate::List {
            of,
            meter,
            within_days,
        } => {
            let request = pb::ListCertificatesRequest {
                page_size: 500,
                kind: of
                    .map_or(pb::CertificateKind::Unspecified, Into::into)
                    .into(),
                meter_id: meter,
                within_days,
                ..pb::ListCertificatesRequest::default()
            };
            let all = all_pages!(
                session.keys()?,
                list_certificates,
                request,
                certificates,
                "list certificates"
            );
            table(&all, output);
        }
        KeysCertificate::Delete {
            fingerprint,
            reason,
        } => {
            let request = pb::DeleteCertificateRequest {
                fingerprint: super::octets("FINGERPRINT", &fingerprint, 32)?,
                reason,
            };
            session
                .keys()?
                .delete_certificate(request)
                .await
                .map_err(|status| Failure::status("delete a certificate", &status))?;
            output.result(&json!({ "deleted": fingerprint }), || "deleted".to_owned());
        }
        KeysCertificate::Revocations { file } => {
            revocations(&file, session, output).await?;
        }
    }
    Ok(Exit::OK)
}

/// Sends a certificate to custody; what it keeps.
async fn import(
    session: &Session,
    request: pb::ImportCertificateRequest,
) -> Result<pb::Certificate, Failure> {
    let response = session
        .keys()?
        .import_certificate(request)
        .await
        .map_err(|status| Failure::status("import a certificate", &status))?;
    response.into_inner().certificate.ok_or_else(|| {
        let what = "custody answered without a description";
        Failure::new(Exit::INTERNAL, Party::Service, what)
    })
}

/// Sends a revocation list to custody.
async fn revocations(file: &Path, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = pb::ImportRevocationListRequest {
        der: der(file, "X509 CRL")?,
    };
    let response = session
        .keys()?
        .import_revocation_list(request)
        .await
        .map_err(|status| Failure::status("import a revocation list", &status))?;
    let taken = response.into_inner();
    let next = time(taken.next_update_time.as_ref());
    let json = json!({
        "issuer": taken.issuer,
        "revoked_count": taken.revoked_count,
        "this_update_time": time(taken.this_update_time.as_ref()),
        "next_update_time": next,
    });
    output.result(&json, || {
        format!(
            "{} certificates of {} are revoked; the next list is due {next}",
            taken.revoked_count, taken.issuer
        )
    });
    Ok(())
}

/// A file's content, out of PEM if need be.
fn der(path: &Path, label: &str) -> Result<Vec<u8>, Failure> {
    let octets = std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
    if !octets.starts_with(b"-----") {
        return Ok(octets);
    }
    let found = Pem::iter_from_buffer(&octets)
        .filter_map(Result::ok)
        .find(|block| block.label == label);
    found.map(|block| block.contents).ok_or_else(|| {
        let what = format!("{} holds no PEM block {label}", path.display());
        Failure::usage(what)
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END " + label + "-----\n"
}

fn table(all: &[pb::Certificate], output: &Output) {
    let rows: Vec<_> = all.iter().map(|one| (json_of(one), row(one))).collect();
    let header = [
        "FOR", "METER", "SUITE", "SUBJECT", "ISSUER", "UNTIL", "BELIEVED", "SHA-256",
    ];
    output.table(&header, &rows);
}

fn row(one: &pb::Certificate) -> Vec<String> {
    vec![
        of(one),
        one.meter_id.clone(),
        one.security_suite.to_string(),
        one.subject.clone(),
        one.issuer.clone(),
        time(one.not_after_time.as_ref()),
        match one.fault.as_str() {
            "" => "yes".to_owned(),
            fault => format!("no: {fault}"),
        },
        hex::encode(&one.fingerprint),
    ]
}

fn of(one: &pb::Certificate) -> String {
    let name = one.kind().as_str_name();
    let name = name.strip_prefix("CERTIFICATE_KIND_").unwrap_or(name);
    name.to_lowercase().replace('_', "-")
}

fn json_of(one: &pb::Certificate) -> Value {
    json!({
        "fingerprint": hex::encode(&one.fingerprint),
        "for": of(one),
        "meter_id": one.meter_id,
        "security_suite": one.security_suite,
        "subject": one.subject,
        "issuer": one.issuer,
        "serial_number": hex::encode(&one.serial_number),
        "system_title": hex::encode(&one.system_title),
        "public_key": hex::encode(&one.public_key),
        "not_before_time": time(one.not_before_time.as_ref()),
        "not_after_time": time(one.not_after_time.as_ref()),
        "valid": one.valid,
        "fault_reason": one.fault_reason,
        "fault": one.fault,
        "create_time": time(one.create_time.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_read_as_it_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let octets: Vec<u8> = (0..=255).collect();
        std::fs::write(file.path(), pem("CERTIFICATE", &octets)).unwrap();
        assert_eq!(der(file.path(), "CERTIFICATE").unwrap(), octets);
        assert!(der(file.path(), "X509 CRL").is_err());
        std::fs::write(file.path(), &octets).unwrap();
        assert_eq!(der(file.path(), "CERTIFICATE").unwrap(), octets);
    }
}
