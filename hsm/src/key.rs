//! What keys there are, what each may do, and handles to keys that cannot outlive their session.

mod kind;
mod template;

use std::collections::BTreeMap;
use std::ffi::c_ulong;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

pub(crate) use self::kind::Kind;
use self::template::{ATTRIBUTE_SIZE, UNWRAP_TEMPLATE};
pub(crate) use self::template::{
    NestedTemplate, bridge, incoming_key, master_key, meter_key, passing_key, passing_through,
    secret, test_key, working_key,
};
use crate::able::GcmBackend;
use crate::cipher;
use crate::curve::Curve;
use crate::error::Error;
use crate::module::making;
use crate::pool::Grave;
use crate::token::Role;
use crate::{oaep, sign};

/// A meter's key inside the token: unreadable, gone with its last clone.
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
    /// Of a key that nobody else could bring back.
    spare: Option<Spare>,
    /// Where such a key is after its session was lost.
    moved: Mutex<Option<KeyHandle>>,
}

/// A key wrapped under a key-encryption key of the token.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    pub(crate) kek: String,
    pub(crate) wrapped: Vec<u8>,
}

impl KeyHandle {
    pub(crate) fn new(
        object: ObjectHandle,
        session: u64,
        grave: Arc<Grave>,
        spare: Option<Spare>,
    ) -> Self {
        Self(Arc::new(Held {
            object,
            session,
            grave,
            spare,
            moved: Mutex::new(None),
        }))
    }

    /// The object, if `session` is the one it lives in.
    pub(crate) fn object_in(&self, session: u64) -> Result<ObjectHandle, Error> {
        if self.0.session == session {
            return Ok(self.0.object);
        }
        match &*self.moved() {
            Some(moved) => moved.object_in(session),
            None => Err(Error::StaleKey),
        }
    }

    /// The token that holds it, and the worker of it that owns it.
    pub(crate) fn place(&self) -> (usize, usize) {
        match &*self.moved() {
            Some(moved) => moved.place(),
            None => self.0.grave.place(),
        }
    }

    /// What brings it back when its session is lost.
    pub(crate) fn spare(&self) -> Option<&Spare> {
        self.0.spare.as_ref()
    }

    /// From now on it is another object: the same key, brought back.
    pub(crate) fn move_to(&self, fresh: Self) {
        *self.moved() = Some(fresh);
    }

    fn moved(&self) -> MutexGuard<'_, Option<Self>> {
        self.0.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.grave.bury(self.session, self.object);
    }
}

/// Makes the key on the token.
pub(crate) fn create(session: &Session, role: Role, kind: Kind, label: &str) -> Result<(), Error> {
    let names = [
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(label.as_bytes().to_vec()),
    ];
    let mut private = policy_here(session, role, kind)?;
    private.extend(names.clone());
    if kind.is_secret() {
        let nested = kind.unwrap_template(role);
        private.extend(nested.as_ref().map(NestedTemplate::attribute));
        private.push(Attribute::ValueLen(KEK_LEN.into()));
        session.generate_key(&Mechanism::AesKeyGen, &private)?;
        return Ok(());
    }
    let nested = kind.unwrap_template(role);
    private.extend(nested.as_ref().map(NestedTemplate::attribute));
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::Verify(!matches!(kind, Kind::Agree(_) | Kind::TransportRsa)),
    ];
    let mechanism = match (kind, kind.curve()) {
        (Kind::TransportRsa, _) => {
            public.push(Attribute::ModulusBits(c_ulong::from(oaep::BITS).into()));
            public.push(Attribute::PublicExponent(oaep::EXPONENT.to_vec()));
            Mechanism::RsaPkcsKeyPairGen
        }
        (_, Some(curve)) => {
            public.push(Attribute::EcParams(curve.oid().to_vec()));
            Mechanism::EccKeyPairGen
        }
        (_, None) => {
            public.push(Attribute::EcParams(ED25519_NAME.to_vec()));
            Mechanism::EccEdwardsKeyPairGen
        }
    };
    public.extend(names);
    session.generate_key_pair(&mechanism, &public, &private)?;
    Ok(())
}

/// The policy of a key of this kind that is to be on this token.
pub(crate) fn policy_here(
    session: &Session,
    role: Role,
    kind: Kind,
) -> Result<Vec<Attribute>, Error> {
    if kind == Kind::KekAk {
        let gcm = cipher::choose(session, role.as_str(), None)?;
        return Ok(kind.policy_with(role, template::ciphering(gcm)));
    }
    match kind.curve() {
        Some(curve) => Ok(kind.policy_with(role, sign::choose(session, curve)?)),
        None => Ok(kind.policy(role)),
    }
}

/// Puts a transport key of known value on the token.
pub(crate) fn import(
    session: &Session,
    role: Role,
    (kind, label): (Kind, &str),
    value: &[u8],
) -> Result<(), Error> {
    let nested = kind.unwrap_template(role);
    let mut template = kind.policy(role);
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
    // First: SoftHSM sets one after the other, and after MODIFIABLE none.
    template.insert(0, Attribute::Value(value.to_vec()));
    making(1);
    let made = session.create_object(&template);
    if let Some(Attribute::Value(value)) = template.first_mut() {
        value.zeroize();
    }
    Ok(made?)
}

/// CKA_VALUE_LEN of a key of this many octets, at most 255.
pub(crate) fn value_length(octets: usize) -> Attribute {
    let octets = u8::try_from(octets).unwrap_or(u8::MAX);
    Attribute::ValueLen(c_ulong::from(octets).into())
}

/// A key found on the token and proved to be what its label promises.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) object: ObjectHandle,
    /// Raw public key: 32 octets for Ed25519, an uncompressed point of 65 or 97 octets for P-256
    /// and P-384. The SubjectPublicKeyInfo of an RSA key.
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
            let attributes =
                verify(session, role, kind, object).map_err(|e| e.into_error(unfit))?;
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

impl Found {
    /// How GCM is done with it: in the way that its policy allows.
    pub(crate) fn gcm(&self) -> GcmBackend {
        let allowed = self.attributes.get("ALLOWED_MECHANISMS");
        match allowed.map(String::as_str) {
            Some("CKM_AES_ECB") => GcmBackend::EcbGhash,
            _ => GcmBackend::Token,
        }
    }
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
    role: Role,
    kind: Kind,
    object: ObjectHandle,
) -> Result<BTreeMap<String, String>, Unfit> {
    let policies = kind.policies(role);
    let types: Vec<AttributeType> = kind
        .policy(role)
        .iter()
        .map(Attribute::attribute_type)
        .collect();
    let read = session.get_attributes(object, &types)?;
    let mut differences = policies.iter().map(|policy| difference(policy, &read));
    if let Some(Some(first)) = differences.next()
        && !differences.any(|difference| difference.is_none())
    {
        return Err(Unfit::Why(first));
    }
    let mut words: BTreeMap<String, String> = read.iter().map(in_words).collect();
    let sizes = kind.unwrap_template_sizes(role);
    if !sizes.is_empty() {
        let size = session.get_attribute_info(object, &[UNWRAP_TEMPLATE])?;
        let count = match size.first() {
            Some(AttributeInfo::Available(size)) => {
                sizes.iter().find(|count| *count * ATTRIBUTE_SIZE == *size)
            }
            _ => None,
        };
        let count = count.ok_or_else(|| Unfit::Why("UNWRAP_TEMPLATE is not ours".to_owned()))?;
        words.insert("UNWRAP_TEMPLATE".to_owned(), format!("{count} attributes"));
    }
    Ok(words)
}

/// The first attribute that is not as the policy says; none if all are.
fn difference(policy: &[Attribute], read: &[Attribute]) -> Option<String> {
    policy.iter().find_map(|wanted| {
        let kind = wanted.attribute_type();
        let got = read.iter().find(|got| got.attribute_type() == kind);
        if got.is_some_and(|got| same(got, wanted)) {
            return None;
        }
        let got = got.map_or_else(|| "absent".to_owned(), |got| in_words(got).1);
        let (name, value) = in_words(wanted);
        Some(format!("{name} is {got} and must be {value}"))
    })
}

/// Whether two attributes say the same: a list of mechanisms has no order.
fn same(got: &Attribute, wanted: &Attribute) -> bool {
    match (got, wanted) {
        (Attribute::AllowedMechanisms(got), Attribute::AllowedMechanisms(wanted)) => {
            got.len() == wanted.len() && wanted.iter().all(|one| got.contains(one))
        }
        _ => got == wanted,
    }
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
    if kind == Kind::TransportRsa {
        return oaep::public_key(session, *object);
    }
    let read = session.get_attributes(*object, &[AttributeType::EcPoint])?;
    let Some(Attribute::EcPoint(point)) = read.first() else {
        return Ok(None);
    };
    let bare = bare_point(point, kind.public_length());
    // A key of another curve would have a public key of the same length.
    Ok(bare.filter(|bare| kind.curve().is_none_or(|curve| on_curve(curve, bare))))
}

/// A point of this length: it stands bare or in a DER OCTET STRING, by module. These lengths fit
/// one length octet.
pub(crate) fn bare_point(point: &[u8], length: usize) -> Option<Vec<u8>> {
    let bare = match point {
        [0x04, prefix, bare @ ..] if usize::from(*prefix) == length && bare.len() == length => bare,
        bare => bare,
    };
    (bare.len() == length).then(|| bare.to_vec())
}

fn on_curve(curve: Curve, point: &[u8]) -> bool {
    matches!(point, [0x04, public @ ..] if curve.is_public_key(public))
}

/// An attribute by its PKCS#11 name and value, without the `CKA_`.
fn in_words(attribute: &Attribute) -> (String, String) {
    let text = format!("{attribute:?}");
    let name = format!("{:?}", attribute.attribute_type());
    let value = match attribute {
        Attribute::AllowedMechanisms(list) => {
            // in one order, whatever the token's is
            let mut names: Vec<_> = list.iter().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        }
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

/// Octets of a key-encryption key: AES-256.
pub(crate) const KEK_LEN: c_ulong = 32;
/// DER of PrintableString "edwards25519", the form PKCS#11 3.0 section 2.3.10 names and SoftHSM takes.
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

#[cfg(test)]
mod tests {
    use cryptoki::mechanism::MechanismType;

    use super::*;

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

    use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
    use cryptoki::object::KeyType;

    use crate::lab::scenario;

    scenario! {
        async fn a_transport_key_of_the_first_ceremonies_lets_keys_in(lab) {
            let token = lab.open(Role::Custody).await.unwrap();
            let made = token.on_any(|engine| {
                let mut old = template::incoming();
                old.push(Attribute::KeyType(KeyType::AES));
                let nested = NestedTemplate::new(&old);
                let mut template = Kind::Transport.policy(Role::Custody);
                template.push(nested.attribute());
                template.push(Attribute::Label(b"transport-2".to_vec()));
                create_with_value(engine.session(), template, &[7; 32]).map(drop)
            });
            made.await.unwrap();
            drop(token);
            let token = lab.open(Role::Custody).await.unwrap();
            let sent = |key: &[u8]| {
                let kek = AesKek::new(&AES_256, &[7; 32]).unwrap();
                kek.wrap(key, &mut vec![0; key.len() + 8]).unwrap().to_vec()
            };
            let kept = token.import_wrapped("transport-2", &sent(&[1; 16]), "kek-ek-1").await;
            token.unwrap_key("kek-ek-1", &kept.unwrap()).await.unwrap();
            let secret = token.import_secret("transport-2", &sent(&[2; 40]), "kek-hs-1").await;
            assert!(matches!(secret, Err(Error::Refused { .. })), "{secret:?}");
        }
    }
}
