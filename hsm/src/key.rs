//! What keys there are, what each may do, and handles to keys that cannot outlive their session.

use std::collections::BTreeMap;
use std::ffi::c_ulong;
use std::sync::Arc;

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{
    Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;

use crate::error::Error;
use crate::pool::Grave;
use crate::token::Role;

/// A meter's key inside the token: non-extractable, unreadable, gone with its last clone.
///
/// It is bound to one session. When the token is opened again it is stale ([`Error::StaleKey`])
/// and the key must be unwrapped again.
#[derive(Clone, Debug)]
pub struct KeyHandle(Arc<Held>);

#[derive(Debug)]
struct Held {
    object: ObjectHandle,
    /// The opened session the object belongs to; no two of a process share a number.
    session: u64,
    grave: Arc<Grave>,
}

impl KeyHandle {
    pub(crate) fn new(object: ObjectHandle, session: u64, grave: Arc<Grave>) -> Self {
        Self(Arc::new(Held {
            object,
            session,
            grave,
        }))
    }

    /// The object, if `session` is the one it lives in.
    pub(crate) fn object_in(&self, session: u64) -> Result<ObjectHandle, Error> {
        if self.0.session == session {
            Ok(self.0.object)
        } else {
            Err(Error::StaleKey)
        }
    }

    /// The worker that owns it.
    pub(crate) fn worker(&self) -> usize {
        self.0.grave.worker()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.grave.bury(self.session, self.object);
    }
}

/// The kinds of keys the ceremony makes, told by their labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `kek-ek-N`: wraps and unwraps meters' encryption keys; nothing else.
    KekEk,
    /// `kek-ak-N`: ciphers meters' authentication keys.
    KekAk,
    /// `transport-N`: unwraps keys that come from outside.
    Transport,
    /// `log-N`, `permit-N`, and the auditor's `transcript`.
    Ed25519,
    /// The custody token's `transcript`.
    P256,
}

impl Kind {
    /// The kind a label promises on a token of this role.
    pub(crate) fn of(role: Role, label: &str) -> Option<Self> {
        let stem = label.trim_end_matches(|c: char| c.is_ascii_digit());
        let numbered = stem.len() < label.len() && stem.ends_with('-');
        match (role, stem) {
            (Role::Custody, "transcript") if label == stem => Some(Self::P256),
            (Role::Auditor, "transcript") if label == stem => Some(Self::Ed25519),
            (Role::Custody, "kek-ek-") if numbered => Some(Self::KekEk),
            (Role::Custody, "kek-ak-") if numbered => Some(Self::KekAk),
            (Role::Custody, "transport-") if numbered => Some(Self::Transport),
            (Role::Auditor, "log-" | "permit-") if numbered => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// As errors and transcripts call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KekEk => "key-encryption key for encryption keys",
            Self::KekAk => "key-encryption key for authentication keys",
            Self::Transport => "transport key",
            Self::Ed25519 => "Ed25519 signing key",
            Self::P256 => "ECDSA P-256 signing key",
        }
    }

    fn is_secret(self) -> bool {
        match self {
            Self::KekEk | Self::KekAk | Self::Transport => true,
            Self::Ed25519 | Self::P256 => false,
        }
    }

    fn class(self) -> ObjectClass {
        if self.is_secret() {
            ObjectClass::SECRET_KEY
        } else {
            ObjectClass::PRIVATE_KEY
        }
    }

    /// The one mechanism the key may be used with.
    fn mechanism(self) -> MechanismType {
        match self {
            Self::KekEk | Self::Transport => MechanismType::AES_KEY_WRAP,
            Self::KekAk => MechanismType::AES_GCM,
            Self::Ed25519 => MechanismType::EDDSA,
            Self::P256 => MechanismType::ECDSA,
        }
    }

    /// The attributes that make the key what it is: set at birth, demanded ever after.
    ///
    /// MODIFIABLE and COPYABLE are what keeps the rest true: with either, the PIN alone suffices
    /// to set DECRYPT on a key-encryption key and to unwrap every stored key by hand.
    fn policy(self) -> Vec<Attribute> {
        let mut policy = vec![
            Attribute::Class(self.class()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Copyable(false),
            Attribute::Derive(false),
        ];
        if self.is_secret() {
            policy.extend([
                Attribute::KeyType(KeyType::AES),
                Attribute::Encrypt(self == Self::KekAk),
                Attribute::Decrypt(self == Self::KekAk),
                Attribute::Wrap(self == Self::KekEk),
                Attribute::Unwrap(self != Self::KekAk),
                Attribute::Sign(false),
                Attribute::Verify(false),
            ]);
        } else {
            policy.extend([
                Attribute::KeyType(if self == Self::P256 {
                    KeyType::EC
                } else {
                    KeyType::EC_EDWARDS
                }),
                Attribute::Sign(true),
                Attribute::Decrypt(false),
                Attribute::Unwrap(false),
            ]);
        }
        policy.push(Attribute::AllowedMechanisms(vec![self.mechanism()]));
        policy
    }

    /// What every key unwrapped by a key of this kind must be, enforced by the token.
    fn unwrap_template(self) -> Option<NestedTemplate> {
        match self {
            Self::KekEk => Some(NestedTemplate::new(&meter_key())),
            Self::Transport => Some(NestedTemplate::new(&incoming_key())),
            Self::KekAk | Self::Ed25519 | Self::P256 => None,
        }
    }
}

/// Attributes of a meter's encryption key in use. `kek-ek-N` unwraps to nothing else.
pub(crate) fn meter_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        // the check value is a CMAC
        Attribute::Sign(true),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        // last: SoftHSM sets one after the other, and after this one none
        Attribute::Modifiable(false),
    ]
}

/// Attributes of a key on its way in, good for nothing but being wrapped again. `transport-N`
/// unwraps to nothing else. Whether it is readable is left open: an authentication key must be.
pub(crate) fn incoming_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Extractable(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// Makes the key on the token.
pub(crate) fn create(session: &Session, kind: Kind, label: &str) -> Result<(), Error> {
    let names = [
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(label.as_bytes().to_vec()),
    ];
    let mut private = kind.policy();
    private.extend(names.clone());
    if kind.is_secret() {
        let nested = kind.unwrap_template();
        private.extend(nested.as_ref().map(NestedTemplate::attribute));
        private.push(Attribute::ValueLen(KEK_LEN.into()));
        session.generate_key(&Mechanism::AesKeyGen, &private)?;
        return Ok(());
    }
    let (mechanism, curve) = match kind {
        Kind::P256 => (Mechanism::EccKeyPairGen, P256_OID),
        _ => (Mechanism::EccEdwardsKeyPairGen, ED25519_NAME),
    };
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve.to_vec()),
    ];
    public.extend(names);
    session.generate_key_pair(&mechanism, &public, &private)?;
    Ok(())
}

/// Puts a transport key of known value on the token.
pub(crate) fn import(
    session: &Session,
    kind: Kind,
    label: &str,
    value: &[u8],
) -> Result<(), Error> {
    let nested = kind.unwrap_template();
    let mut template = kind.policy();
    template.extend(nested.as_ref().map(NestedTemplate::attribute));
    template.push(Attribute::Label(label.as_bytes().to_vec()));
    template.push(Attribute::Id(label.as_bytes().to_vec()));
    create_with_value(session, template, value)?;
    Ok(())
}

/// `C_CreateObject` that leaves no copy of the value behind.
pub(crate) fn create_with_value(
    session: &Session,
    mut template: Vec<Attribute>,
    value: &[u8],
) -> Result<ObjectHandle, Error> {
    use zeroize::Zeroize as _;
    template.push(Attribute::Value(value.to_vec()));
    let made = session.create_object(&template);
    if let Some(Attribute::Value(value)) = template.last_mut() {
        value.zeroize();
    }
    Ok(made?)
}

/// A key found on the token and proved to be what its label promises.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) object: ObjectHandle,
    /// Raw public key: 32 octets for Ed25519, the 65 octets of an uncompressed point for P-256.
    pub(crate) public: Option<Vec<u8>>,
    /// The attributes as read back, in words.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// Lists the token's keys. A key of ours that is not as it must be is an error; a label that is
/// none of ours is left alone.
pub(crate) fn survey(
    session: &Session,
    token: &str,
    role: Role,
) -> Result<BTreeMap<String, Found>, Error> {
    let mut found = BTreeMap::new();
    for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
        for object in session.find_objects(&[Attribute::Token(true), Attribute::Class(class)])? {
            let label = label_of(session, object)?;
            let unfit = |why: String| Error::KeyUnfit {
                token: token.to_owned(),
                label: label.clone(),
                why,
            };
            let Some(kind) = Kind::of(role, &label) else {
                tracing::warn!(token, label, "key is none of ours and is not used");
                continue;
            };
            let attributes = verify(session, kind, object).map_err(|e| e.into_error(unfit))?;
            let public =
                if kind.is_secret() {
                    None
                } else {
                    Some(public_key(session, &label, kind)?.ok_or_else(|| {
                        unfit("its public key is missing or malformed".to_owned())
                    })?)
                };
            let key = Found {
                kind,
                object,
                public,
                attributes,
            };
            if found.insert(label.clone(), key).is_some() {
                return Err(unfit("there are two keys of that label".to_owned()));
            }
        }
    }
    Ok(found)
}

enum Unfit {
    Token(cryptoki::error::Error),
    Why(String),
}

impl Unfit {
    fn into_error(self, unfit: impl Fn(String) -> Error) -> Error {
        match self {
            Self::Token(error) => error.into(),
            Self::Why(why) => unfit(why),
        }
    }
}

impl From<cryptoki::error::Error> for Unfit {
    fn from(error: cryptoki::error::Error) -> Self {
        Self::Token(error)
    }
}

fn verify(
    session: &Session,
    kind: Kind,
    object: ObjectHandle,
) -> Result<BTreeMap<String, String>, Unfit> {
    let policy = kind.policy();
    let types: Vec<AttributeType> = policy.iter().map(Attribute::attribute_type).collect();
    let read = session.get_attributes(object, &types)?;
    for wanted in &policy {
        let kind = wanted.attribute_type();
        let got = read.iter().find(|got| got.attribute_type() == kind);
        if got != Some(wanted) {
            let got = got.map_or_else(|| "absent".to_owned(), |got| in_words(got).1);
            let (name, value) = in_words(wanted);
            return Err(Unfit::Why(format!("{name} is {got} and must be {value}")));
        }
    }
    let mut words: BTreeMap<String, String> = read.iter().map(in_words).collect();
    if let Some(nested) = kind.unwrap_template() {
        let size = session.get_attribute_info(object, &[UNWRAP_TEMPLATE])?;
        let same = |got: &AttributeInfo| matches!(got, AttributeInfo::Available(size) if *size == nested.bytes.len());
        if !size.first().is_some_and(same) {
            return Err(Unfit::Why("UNWRAP_TEMPLATE is not ours".to_owned()));
        }
        words.insert(
            "UNWRAP_TEMPLATE".to_owned(),
            format!("{} attributes", nested.values.len()),
        );
    }
    Ok(words)
}

fn label_of(session: &Session, object: ObjectHandle) -> Result<String, Error> {
    match session
        .get_attributes(object, &[AttributeType::Label])?
        .first()
    {
        Some(Attribute::Label(label)) => Ok(String::from_utf8_lossy(label).into_owned()),
        _ => Ok(String::new()),
    }
}

fn public_key(session: &Session, label: &str, kind: Kind) -> Result<Option<Vec<u8>>, Error> {
    let objects = session.find_objects(&[
        Attribute::Token(true),
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Label(label.as_bytes().to_vec()),
    ])?;
    let [object] = objects.as_slice() else {
        return Ok(None);
    };
    let read = session.get_attributes(*object, &[AttributeType::EcPoint])?;
    let Some(Attribute::EcPoint(point)) = read.first() else {
        return Ok(None);
    };
    // The point stands bare or in a DER OCTET STRING, by module; these sizes fit one length octet.
    let length: u8 = if kind == Kind::P256 { 65 } else { 32 };
    let bare = point
        .strip_prefix(&[0x04, length])
        .filter(|p| p.len() == usize::from(length));
    let bare = bare.unwrap_or(point);
    Ok((bare.len() == usize::from(length)).then(|| bare.to_vec()))
}

/// An attribute by its PKCS#11 name and value, without the `CKA_`.
fn in_words(attribute: &Attribute) -> (String, String) {
    let text = format!("{attribute:?}");
    let name = format!("{:?}", attribute.attribute_type());
    let value = match attribute {
        Attribute::AllowedMechanisms(list) => list
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        Attribute::Class(class) => class.to_string(),
        Attribute::KeyType(key_type) => key_type.to_string(),
        _ => text.strip_prefix(&name).map_or_else(
            || text.clone(),
            |rest| rest.trim_matches(['(', ')']).to_owned(),
        ),
    };
    (upper_snake(&name), value)
}

fn upper_snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// A `CK_ATTRIBUTE` array as the value of an attribute, which cryptoki 0.12 has no type for.
/// It must live until the call that uses it has returned.
struct NestedTemplate {
    values: Vec<Box<[u8]>>,
    bytes: Vec<u8>,
}

impl NestedTemplate {
    fn new(template: &[Attribute]) -> Self {
        let mut values = Vec::with_capacity(template.len());
        let mut bytes = Vec::with_capacity(template.len() * ATTRIBUTE_SIZE);
        for (kind, value) in template.iter().filter_map(raw) {
            // struct CK_ATTRIBUTE { CK_ULONG type; void *pValue; CK_ULONG ulValueLen; }
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.as_ptr().expose_provenance().to_ne_bytes());
            bytes.extend(value.len().to_ne_bytes());
            values.push(value);
        }
        Self { values, bytes }
    }

    fn attribute(&self) -> Attribute {
        Attribute::VendorDefined((UNWRAP_TEMPLATE, self.bytes.clone()))
    }
}

/// Type and value of the attributes that occur in unwrap templates (PKCS#11 header values).
fn raw(attribute: &Attribute) -> Option<(c_ulong, Box<[u8]>)> {
    let boolean = |kind: c_ulong, value: bool| Some((kind, Box::from([u8::from(value)])));
    let number = |kind: c_ulong, value: c_ulong| Some((kind, Box::from(value.to_ne_bytes())));
    match *attribute {
        Attribute::Class(ObjectClass::SECRET_KEY) => number(0x000, 0x04),
        Attribute::KeyType(KeyType::AES) => number(0x100, 0x1F),
        Attribute::Token(value) => boolean(0x001, value),
        Attribute::Private(value) => boolean(0x002, value),
        Attribute::Sensitive(value) => boolean(0x103, value),
        Attribute::Encrypt(value) => boolean(0x104, value),
        Attribute::Decrypt(value) => boolean(0x105, value),
        Attribute::Wrap(value) => boolean(0x106, value),
        Attribute::Unwrap(value) => boolean(0x107, value),
        Attribute::Sign(value) => boolean(0x108, value),
        Attribute::Verify(value) => boolean(0x10A, value),
        Attribute::Derive(value) => boolean(0x10C, value),
        Attribute::Extractable(value) => boolean(0x162, value),
        Attribute::Modifiable(value) => boolean(0x170, value),
        Attribute::Copyable(value) => boolean(0x171, value),
        _ => None,
    }
}

/// Octets of a key-encryption key: AES-256.
pub(crate) const KEK_LEN: c_ulong = 32;
/// CKA_UNWRAP_TEMPLATE.
const UNWRAP_TEMPLATE: AttributeType = AttributeType::VendorDefined(0x4000_0212);
const ATTRIBUTE_SIZE: usize = size_of::<c_ulong>() + size_of::<usize>() + size_of::<c_ulong>();
// `NestedTemplate` writes the struct by hand: no padding, and a length as wide as usize.
const _: () = assert!(size_of::<c_ulong>() == size_of::<usize>());
/// DER of the OID prime256v1.
const P256_OID: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
/// DER of PrintableString "edwards25519", the form PKCS#11 3.0 section 2.3.10 names and SoftHSM takes.
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_promises_a_kind_on_its_role_only() {
        assert_eq!(Kind::of(Role::Custody, "kek-ek-1"), Some(Kind::KekEk));
        assert_eq!(Kind::of(Role::Custody, "kek-ak-20"), Some(Kind::KekAk));
        assert_eq!(Kind::of(Role::Custody, "transcript"), Some(Kind::P256));
        assert_eq!(Kind::of(Role::Auditor, "transcript"), Some(Kind::Ed25519));
        assert_eq!(Kind::of(Role::Auditor, "kek-ek-1"), None);
        for nonsense in [
            "", "1", "kek-ek-", "kek-ek", "log-1x", "Kek-ek-1", "permit-",
        ] {
            assert_eq!(Kind::of(Role::Custody, nonsense), None, "{nonsense}");
            assert_eq!(Kind::of(Role::Auditor, nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn every_attribute_of_a_template_reaches_the_token() {
        for template in [meter_key(), incoming_key()] {
            let nested = NestedTemplate::new(&template);
            assert_eq!(nested.values.len(), template.len());
            assert_eq!(nested.bytes.len(), template.len() * ATTRIBUTE_SIZE);
        }
    }

    #[test]
    fn attributes_read_as_in_the_standard() {
        let (name, value) = in_words(&Attribute::Extractable(false));
        assert_eq!((name.as_str(), value.as_str()), ("EXTRACTABLE", "false"));
        let (name, value) = in_words(&Attribute::AllowedMechanisms(vec![MechanismType::AES_GCM]));
        assert_eq!(
            (name.as_str(), value.as_str()),
            ("ALLOWED_MECHANISMS", "CKM_AES_GCM")
        );
    }
}
