//! Certificate requests (PKCS #10, RFC 2986) for keys of the token.

use std::sync::{Mutex, PoisonError};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};

use crate::curve::Curve;
use crate::error::Error;
use crate::sign::der_signature;
use crate::token::Token;

/// Who a certificate is to be about, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A service: its peer name, the URI SAN of an X.509-SVID (`spiffe://DOMAIN/PATH`), and DNS names for tools that ask
    /// where it is. The common name is the last part of the path. For server and client authentication.
    Service {
        /// The peer name.
        uri: String,
        /// DNS names, or none.
        dns: Vec<String>,
    },
    /// A DLMS client that signs: the common name is its system title, 16 upper-case hexadecimal digits; key usage
    /// digitalSignature (Green Book, public key certificate profile).
    Signing {
        /// The client system title.
        title: [u8; 8],
    },
    /// A DLMS client that agrees on keys: likewise, key usage keyAgreement.
    Agreement {
        /// The client system title.
        title: [u8; 8],
    },
}

impl Token {
    /// A request for a certificate about the key of that label, DER, signed by this key.
    ///
    /// # Errors
    /// [`Error::Certificate`] if the subject cannot be written or does not go with the key's kind, and as
    /// [`Token::sign_certified`].
    pub async fn certificate_request(
        &self,
        label: &str,
        subject: &Subject,
    ) -> Result<Vec<u8>, Error> {
        let refuse = |why: String| Error::Certificate {
            label: label.to_owned(),
            why,
        };
        let prefix = match subject {
            Subject::Service { .. } => "tls-",
            Subject::Signing { .. } => "sign-",
            Subject::Agreement { .. } => "agree-",
        };
        if !label.starts_with(prefix) {
            return Err(refuse(format!("for such a subject the key is {prefix}..")));
        }
        let (curve, public) = self.certified_key(label).await?;
        let params = params(subject).map_err(|error| refuse(error.to_string()))?;
        // rcgen signs synchronously and the token does not. What is signed depends on nothing but the arguments: the
        // first round says what it is, the second takes the signature.
        let draft = Draft::new(curve, public);
        params
            .serialize_request(&draft)
            .map_err(|error| refuse(error.to_string()))?;
        let message = draft.message();
        let signature = self.sign_certified(label, &message).await?;
        draft.put(der_signature(&signature));
        let request = params.serialize_request(&draft);
        let request = request.map_err(|error| refuse(error.to_string()))?;
        if draft.message() == message {
            Ok(request.der().to_vec())
        } else {
            Err(refuse("the request was written in two ways".to_owned()))
        }
    }
}

fn params(subject: &Subject) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    match subject {
        Subject::Service { uri, dns } => {
            let name = uri.rsplit('/').next().unwrap_or(uri);
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
            for name in dns {
                let name = SanType::DnsName(name.as_str().try_into()?);
                params.subject_alt_names.push(name);
            }
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
        }
        Subject::Signing { title } | Subject::Agreement { title } => {
            let name = hex::encode_upper(title);
            // PrintableString: what meters' parsers know.
            let name = DnValue::PrintableString(name.as_str().try_into()?);
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![match subject {
                Subject::Agreement { .. } => KeyUsagePurpose::KeyAgreement,
                _ => KeyUsagePurpose::DigitalSignature,
            }];
        }
    }
    Ok(params)
}

/// A key that notes what it is to sign, and gives the signature it was given.
struct Draft {
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
    /// What is to be signed, and its signature.
    noted: Mutex<(Vec<u8>, Vec<u8>)>,
}

impl Draft {
    fn new(curve: Curve, public: Vec<u8>) -> Self {
        let algorithm = match curve {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        };
        Self {
            algorithm,
            public,
            noted: Mutex::default(),
        }
    }

    fn message(&self) -> Vec<u8> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.0.clone()
    }

    fn put(&self, signature: Vec<u8>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.1 = signature;
    }
}

impl PublicKeyData for Draft {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Draft {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.0 = message.to_vec();
        Ok(noted.1.clone())
    }
}
