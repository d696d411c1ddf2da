//! Certificates in the token: CKO_CERTIFICATE objects beside the keys they are about.
//!
//! A chain is the certificate itself, labelled as its key (`tls-1`), and those of its issuers in their order
//! (`tls-1.issuer-1`, ..). They are public: whoever can log in can replace them, and whoever uses them verifies them.

use cryptoki::object::{Attribute, AttributeType, CertificateType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error::Error;
use crate::pool::Engine;
use crate::token::Token;

/// Certificates of one chain, at most.
pub const CHAIN_MAX: usize = 8;
/// Octets of a certificate, at most.
const DER_MAX: usize = 8192;

impl Token {
    /// The chain that is kept for the key of that label, DER, the key's own certificate first; empty if there is none.
    pub async fn certificates(&self, label: &str) -> Result<Vec<Vec<u8>>, Error> {
        let label = label.to_owned();
        self.on_any(move |engine| {
            let mut chain = Vec::new();
            for place in 0..CHAIN_MAX {
                let Some(object) = find(engine.session(), &place_label(&label, place))? else {
                    break;
                };
                chain.push(value(engine.session(), object)?);
            }
            Ok(chain)
        })
        .await
    }

    /// Keeps a chain for the key of that label instead of the one there is: the key's own certificate first, then its
    /// issuers. The new one is whole before the old one goes.
    ///
    /// # Errors
    /// [`Error::Certificate`] if the first is not about the key, or one is no certificate.
    pub async fn store_certificates(&self, label: &str, chain: Vec<Vec<u8>>) -> Result<(), Error> {
        let label = label.to_owned();
        self.on_any(move |engine| store(engine, &label, &chain))
            .await
    }

    /// Forgets the chain that is kept for the key of that label; whether there was one.
    pub async fn remove_certificates(&self, label: &str) -> Result<bool, Error> {
        let label = label.to_owned();
        self.on_any(move |engine| {
            let old = objects(engine.session(), &label)?;
            for object in &old {
                engine.session().destroy_object(*object)?;
            }
            Ok(!old.is_empty())
        })
        .await
    }
}

fn store(engine: &Engine, label: &str, chain: &[Vec<u8>]) -> Result<(), Error> {
    let refuse = |why: &str| Error::Certificate {
        label: label.to_owned(),
        why: why.to_owned(),
    };
    if !(1..=CHAIN_MAX).contains(&chain.len()) || chain.iter().any(|der| der.len() > DER_MAX) {
        return Err(refuse(
            "a chain is 1 to 8 certificates of at most 8192 octets",
        ));
    }
    let mut templates = Vec::with_capacity(chain.len());
    for (place, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der)
            .ok()
            .filter(|(rest, _)| rest.is_empty())
            .ok_or_else(|| refuse("it is no X.509 certificate"))?;
        if place == 0 {
            let mut keys = engine.keys();
            let key = keys.find(|(name, key)| *name == label && key.kind.is_certified());
            let about = certificate.public_key().subject_public_key.data.as_ref();
            if key.and_then(|(_, key)| key.public.as_deref()) != Some(about) {
                return Err(refuse("its public key is not that of the token's key"));
            }
        }
        templates.push(template(&place_label(label, place), &certificate, der));
    }
    let session = engine.session();
    let old = objects(session, label)?;
    for template in templates {
        session.create_object(&template)?;
    }
    for object in old {
        session.destroy_object(object)?;
    }
    Ok(())
}

fn template(label: &str, certificate: &X509Certificate<'_>, der: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(label.as_bytes().to_vec()),
        Attribute::Subject(certificate.subject().as_raw().to_vec()),
        Attribute::Issuer(certificate.issuer().as_raw().to_vec()),
        Attribute::Value(der.to_vec()),
    ]
}

fn place_label(label: &str, place: usize) -> String {
    match place {
        0 => label.to_owned(),
        place => format!("{label}.issuer-{place}"),
    }
}

/// Every certificate of a chain, more of a place than one if an exchange broke off.
fn objects(session: &Session, label: &str) -> Result<Vec<ObjectHandle>, Error> {
    let mut all = Vec::new();
    for place in 0..CHAIN_MAX {
        all.extend(of_label(session, &place_label(label, place))?);
    }
    Ok(all)
}

fn of_label(session: &Session, label: &str) -> Result<Vec<ObjectHandle>, Error> {
    Ok(session.find_objects(&[
        Attribute::Token(true),
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::Label(label.as_bytes().to_vec()),
    ])?)
}

/// The certificate of that place. Of two, which an exchange that broke off leaves behind, either is good.
fn find(session: &Session, label: &str) -> Result<Option<ObjectHandle>, Error> {
    Ok(of_label(session, label)?.first().copied())
}

fn value(session: &Session, object: ObjectHandle) -> Result<Vec<u8>, Error> {
    match session
        .get_attributes(object, &[AttributeType::Value])?
        .into_iter()
        .next()
    {
        Some(Attribute::Value(der)) => Ok(der),
        _ => Err(Error::Contract {
            why: "a certificate has no value".to_owned(),
        }),
    }
}
