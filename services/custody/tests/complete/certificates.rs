//! The certificate store: a meter whose keys come from its certificates, what is refused, and what happens at the end.

use std::time::Duration;

use dlms::{Mechanism, Protection, Suite};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        Certificate, CertificateKind, CreateSigningRequestRequest, DeleteCertificateRequest,
        GetClientKeysRequest, GetMeterKeysRequest, ImportCertificateRequest,
        ImportRevocationListRequest, ListCertificatesRequest,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams, SerialNumber,
    SignatureAlgorithm,
};
use rustls_pki_types::CertificateSigningRequestDer;
use tonic::Status;

use crate::{
    House,
    forms::commands,
    support::{CLIENT, SERVER, reason, until},
    talk::{Meter, Talk, how},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A public key that somebody else holds the other half of.
struct Theirs(Vec<u8>);

impl PublicKeyData for Theirs {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            der,
        }
    }

    /// A certificate of the meter's for a key of this use, X || Y.
    fn of_meter(&self, usage: KeyUsagePurpose, serial: u64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let title = hex::encode_upper(SERVER);
        params.distinguished_name.push(DnType::CommonName, title);
        params.key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = (kit::clock::now() - DAY).into();
        params.not_after = (kit::clock::now() + DAY * 60).into();
        params
    }

    fn issue(&self, params: &CertificateParams, key: &[u8]) -> Vec<u8> {
        let point = [&[4], key].concat();
        let issued = params.signed_by(&Theirs(point), &self.issuer).unwrap();
        issued.der().to_vec()
    }

    fn revoke(&self, serial: u64) -> Vec<u8> {
        let now = kit::clock::now();
        let list = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: (now - DAY).into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

async fn import(
    house: &House,
    kind: CertificateKind,
    meter_id: &str,
    der: &[u8],
) -> Result<Certificate, Status> {
    let request = ImportCertificateRequest {
        kind: kind.into(),
        meter_id: meter_id.to_owned(),
        security_suite: u32::from(kind > CertificateKind::Authority),
        der: der.to_vec(),
        reason: "delivery 17".to_owned(),
    };
    let mut keys = house.bed.keys(house.running.address);
    let done = keys.import_certificate(request).await?;
    Ok(done.into_inner().certificate.unwrap())
}

async fn listed(house: &House, meter_id: &str) -> Vec<Certificate> {
    let request = ListCertificatesRequest {
        meter_id: meter_id.to_owned(),
        ..ListCertificatesRequest::default()
    };
    let mut keys = house.bed.keys(house.running.address);
    let page = keys.list_certificates(request).await.unwrap();
    page.into_inner().certificates
}

/// HLS with ECDSA, both ways, and a read.
async fn speaks(house: &House, meter: &Meter) -> Result<(), Status> {
    let how = how(Mechanism::HlsEcdsa, Protection::Glo);
    let mut talk = Talk::open(house, meter.clone(), how, commands()).await?;
    talk.establish().await?;
    talk.read(1, "0.0.96.1.0.255", 2).await?;
    talk.association.close().await
}

pub(crate) async fn a_meters_key_comes_with_its_certificate(house: &House) {
    let id = "certified";
    let mut meter = Meter::new(house, id, Suite::Suite1);
    let (signing, agreement) = (
        std::mem::take(&mut meter.request.server_signing_key),
        std::mem::take(&mut meter.request.server_agreement_key),
    );
    let meter = meter.enrolled(house).await;
    assert_eq!(reason(speaks(house, &meter).await), "ASSOCIATION_REFUSED");
    let utility = Authority::new("utility");
    let kind = CertificateKind::MeterSigning;
    let params = utility.of_meter(KeyUsagePurpose::DigitalSignature, 1);
    let der = utility.issue(&params, &signing);
    assert_eq!(
        reason(import(house, kind, id, &der).await),
        "CERTIFICATE_ISSUER_UNKNOWN"
    );
    import(house, CertificateKind::Anchor, "", &utility.der)
        .await
        .unwrap();
    // each that does not fit is refused by name, and changes nothing
    let mut wrong = Vec::new();
    let mut other = params.clone();
    other.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    wrong.push((other, "CERTIFICATE_USAGE"));
    let mut other = params.clone();
    other.distinguished_name = DistinguishedName::new();
    let title = hex::encode_upper(CLIENT);
    other.distinguished_name.push(DnType::CommonName, title);
    wrong.push((other, "CERTIFICATE_SYSTEM_TITLE"));
    let mut other = params.clone();
    other.not_after = (kit::clock::now() - DAY / 2).into();
    wrong.push((other, "CERTIFICATE_EXPIRED"));
    let mut other = params.clone();
    other.not_before = (kit::clock::now() + DAY / 2).into();
    wrong.push((other, "CERTIFICATE_NOT_YET_VALID"));
    for (params, expected) in wrong {
        let der = utility.issue(&params, &signing);
        assert_eq!(reason(import(house, kind, id, &der).await), expected);
    }
    assert!(listed(house, id).await.is_empty());
    let kept = import(house, kind, id, &der).await.unwrap();
    assert!(kept.valid && kept.public_key == signing && kept.system_title == SERVER);
    import(house, kind, id, &der).await.unwrap();
    assert_eq!(listed(house, id).await.len(), 1, "again changes nothing");
    let mut keys = house.bed.keys(house.running.address);
    let request = GetMeterKeysRequest {
        meter_id: id.to_owned(),
    };
    let held = keys.get_meter_keys(request).await.unwrap().into_inner();
    let held = held.keys.unwrap();
    assert!(held.server_signing_key_certified && held.server_signing_key == signing);
    assert!(!held.server_agreement_key_certified && held.server_agreement_key.is_empty());
    speaks(house, &meter).await.unwrap();
    let usage = KeyUsagePurpose::KeyAgreement;
    let der = utility.issue(&utility.of_meter(usage, 2), &agreement);
    let kind = CertificateKind::MeterAgreement;
    import(house, kind, id, &der).await.unwrap();
    speaks(house, &meter).await.unwrap();
    until("the trail has what came in", async || {
        let entries = house.bed.auditor.entries(EntryKind::Certificate);
        let of = |what: &str| entries.iter().any(|entry| entry.detail.contains(what));
        of("ANCHOR CN=utility") && of("METER_SIGNING") && of("METER_AGREEMENT")
    })
    .await;
    the_aare_may_show_it(house, &meter, &utility, &signing).await;
    it_ends(house, &meter, &utility, &signing).await;
}

/// A certificate in the AARE is looked at: the meter's own of the key that is held, or nothing is answered.
async fn the_aare_may_show_it(house: &House, meter: &Meter, utility: &Authority, signing: &[u8]) {
    let usage = KeyUsagePurpose::DigitalSignature;
    let good = utility.issue(&utility.of_meter(usage, 9), signing);
    let stranger = Authority::new("stranger");
    let forged = stranger.issue(&stranger.of_meter(usage, 9), signing);
    let key = KeyPair::generate().unwrap();
    let another = key.der_bytes().get(1..).unwrap();
    let another = utility.issue(&utility.of_meter(usage, 9), another);
    for (shown, expected) in [
        (forged, Some("CERTIFICATE_ISSUER_UNKNOWN")),
        (another, Some("CERTIFICATE_OTHER_KEY")),
        (b"no certificate".to_vec(), Some("CERTIFICATE_MALFORMED")),
        (good, None),
    ] {
        let how = how(Mechanism::HlsEcdsa, Protection::Glo);
        let mut talk = Talk::open(house, meter.clone(), how, commands())
            .await
            .unwrap();
        talk.initiate().await.unwrap();
        let request = latchkey_proto::custody::v1::AnswerChallengeRequest {
            context_id: talk.association.context_id.clone(),
            server_challenge: vec![3; 32],
            server_system_title: SERVER.to_vec(),
            server_certificate: shown,
        };
        let answered = talk.association.custody.answer_challenge(request).await;
        match expected {
            None => assert_eq!(answered.unwrap().into_inner().token.len(), 64),
            Some(expected) => assert_eq!(reason(answered), expected),
        }
    }
}

/// Revoked, replaced, deleted.
async fn it_ends(house: &House, meter: &Meter, utility: &Authority, signing: &[u8]) {
    let id = &meter.request.meter_id;
    let mut keys = house.bed.keys(house.running.address);
    let revoke = |der: Vec<u8>| ImportRevocationListRequest { der };
    let stranger = Authority::new("stranger");
    let refused = keys
        .import_revocation_list(revoke(stranger.revoke(1)))
        .await;
    assert_eq!(reason(refused), "CERTIFICATE_ISSUER_UNKNOWN");
    let list = utility.revoke(1);
    let taken = keys.import_revocation_list(revoke(list.clone())).await;
    assert_eq!(taken.unwrap().into_inner().revoked_count, 1);
    assert_eq!(reason(speaks(house, meter).await), "CERTIFICATE_REVOKED");
    let shown = listed(house, id).await;
    let revoked = shown.iter().find(|one| !one.valid).unwrap();
    assert_eq!(revoked.fault_reason, "CERTIFICATE_REVOKED");
    // whoever writes into the database cannot make it be forgotten
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let statement = "DELETE FROM certificates WHERE kind = 'METER_SIGNING'";
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
    assert_eq!(reason(speaks(house, meter).await), "CERTIFICATE_MISSING");
    // a new one of the same key
    let usage = KeyUsagePurpose::DigitalSignature;
    let der = utility.issue(&utility.of_meter(usage, 3), signing);
    let kept = import(house, CertificateKind::MeterSigning, id, &der)
        .await
        .unwrap();
    speaks(house, meter).await.unwrap();
    // deleted: the key goes with it
    let delete = DeleteCertificateRequest {
        fingerprint: kept.fingerprint,
        reason: "meter exchanged".to_owned(),
    };
    keys.delete_certificate(delete.clone()).await.unwrap();
    let refused = keys.delete_certificate(delete).await;
    assert_eq!(reason(refused), "CERTIFICATE_UNKNOWN");
    assert_eq!(reason(speaks(house, meter).await), "ASSOCIATION_REFUSED");
}

pub(crate) async fn the_head_ends_own_certificates_live_in_the_token(house: &House) {
    let utility = Authority::new("head-end authority");
    import(house, CertificateKind::Anchor, "", &utility.der)
        .await
        .unwrap();
    let mut keys = house.bed.keys(house.running.address);
    for kind in [
        CertificateKind::ClientSigning,
        CertificateKind::ClientAgreement,
    ] {
        let request = CreateSigningRequestRequest {
            kind: kind.into(),
            security_suite: 1,
            client_system_title: CLIENT.to_vec(),
        };
        let der = keys.create_signing_request(request).await.unwrap();
        let der = CertificateSigningRequestDer::from(der.into_inner().der);
        let request = CertificateSigningRequestParams::from_der(&der).unwrap();
        let issued = request.signed_by(&utility.issuer).unwrap();
        // the other key's certificate is refused: by its key usage, before the token sees it
        let other = match kind {
            CertificateKind::ClientSigning => CertificateKind::ClientAgreement,
            _ => CertificateKind::ClientSigning,
        };
        assert_eq!(
            reason(import(house, other, "", issued.der()).await),
            "CERTIFICATE_USAGE"
        );
        import(house, kind, "", issued.der()).await.unwrap();
        if kind == CertificateKind::ClientSigning {
            let request = GetClientKeysRequest { security_suite: 1 };
            let shown = keys.get_client_keys(request).await.unwrap().into_inner();
            assert_eq!(shown.signing_certificate, issued.der().to_vec());
        }
    }
    let client = [
        i32::from(CertificateKind::ClientSigning),
        i32::from(CertificateKind::ClientAgreement),
    ];
    for one in listed(house, "").await {
        if client.contains(&one.kind) {
            let delete = DeleteCertificateRequest {
                fingerprint: one.fingerprint,
                reason: String::new(),
            };
            keys.delete_certificate(delete).await.unwrap();
        }
    }
    let request = GetClientKeysRequest { security_suite: 1 };
    let shown = keys.get_client_keys(request).await.unwrap().into_inner();
    assert!(shown.signing_certificate.is_empty());
}
