//! Mutual TLS 1.3, with peers known by the URI SAN of their certificate (X.509-SVID).
//!
//! The private key is in a token (a service in production has none on disk) or in a file (development). Certificates,
//! authorities and key files are followed while the service runs: [`Identity`].

mod expiry;
mod handshake;
mod identity;
mod token;

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use self::identity::Present;
pub use self::{
    expiry::Expiring,
    handshake::{Acceptor, Connector},
    identity::{Identity, RELOAD_EVERY},
};
use crate::{PeerName, StartError, config::Tls};

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// There is none, or it cannot be parsed.
    #[error("the peer showed no certificate that can be read")]
    Unreadable,
    /// It has no URI SAN, or more than one.
    #[error("the peer's certificate holds {0} URI names, expected exactly one")]
    Names(usize),
    /// Its name is no peer name.
    #[error(transparent)]
    Name(#[from] crate::PeerNameError),
    /// Its name is of another trust domain.
    #[error("the peer is {found}, which is not of trust domain {expected}")]
    TrustDomain {
        /// The peer.
        found: PeerName,
        /// Ours.
        expected: String,
    },
}

/// The name in a certificate chain that has been verified.
///
/// # Errors
/// Says what is wrong with the name.
pub fn peer_of(
    certificates: &[CertificateDer<'_>],
    trust_domain: &str,
) -> Result<PeerName, TlsError> {
    let first = certificates.first().ok_or(TlsError::Unreadable)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| TlsError::Unreadable)?;
    let names: Vec<&str> = certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [name] = names.as_slice() else {
        return Err(TlsError::Names(names.len()));
    };
    let name: PeerName = name.parse()?;
    if name.trust_domain() == trust_domain {
        Ok(name)
    } else {
        Err(TlsError::TrustDomain {
            found: name,
            expected: trust_domain.to_owned(),
        })
    }
}

/// The server end: asks every client for a certificate of the trust domain. It is as of now: [`Acceptor`] follows its
/// files.
///
/// # Errors
/// If a file or the token cannot be used, or does not fit the others.
pub fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, StartError> {
    server_end(&Identity::of(tls)?.present().0, &tls.trust_domain)
}

/// The client end: the server must show `expected`. It is as of now: [`Connector`] follows its files.
///
/// # Errors
/// If a file or the token cannot be used, or does not fit the others.
pub fn client_config(tls: &Tls, expected: &PeerName) -> Result<Arc<ClientConfig>, StartError> {
    client_end(&Identity::of(tls)?.present().0, expected)
}

/// Our own name, as our certificate says.
///
/// # Errors
/// If the certificate cannot be read or holds no good name.
pub fn own_name(tls: &Tls) -> Result<PeerName, StartError> {
    let name = Identity::of(tls)?.present().0.name.clone();
    name.map_err(StartError::msg)
}

fn server_end(present: &Present, trust_domain: &str) -> Result<Arc<ServerConfig>, StartError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::clone(&present.roots);
    let chain = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let verifier = Arc::new(PeerClient {
        chain,
        trust_domain: trust_domain.to_owned(),
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&present.key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session skips the verifier, and each one issues tickets for the next: a certificate shown once would
    // hold for ever, long after it expired.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_end(present: &Present, expected: &PeerName) -> Result<Arc<ClientConfig>, StartError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = PeerServer {
        roots: Arc::clone(&present.roots),
        expected: expected.clone(),
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&present.key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // As at the server end: every connection verifies the peer's certificate.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A client's chain, checked by webpki, and its name.
#[derive(Debug)]
struct PeerClient {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientCertVerifier for PeerClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        peer_of(std::slice::from_ref(end_entity), &self.trust_domain).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A server's chain, and its name instead of its host name: services are known by what they are, not by where.
#[derive(Debug)]
struct PeerServer {
    roots: Arc<RootCertStore>,
    expected: PeerName,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PeerServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let found = peer_of(
            std::slice::from_ref(end_entity),
            self.expected.trust_domain(),
        )
        .map_err(refused)?;
        if found == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(format!(
                "the server is {found}, expected {}",
                self.expected
            )))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(
            "TLS 1.2 is not spoken here".to_owned(),
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn refused(error: TlsError) -> rustls::Error {
    rustls::Error::General(error.to_string())
}
