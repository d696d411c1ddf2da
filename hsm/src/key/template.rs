//! What keys are while a session holds them, and how a token is told to demand it.

use std::ffi::c_ulong;

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};

use crate::able::GcmBackend;

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

/// The same, with the mechanisms it may be used with: for keys of our own making, which no unwrap
/// template constrains.
pub(crate) fn working_key(gcm: GcmBackend) -> Vec<Attribute> {
    let mut template = vec![Attribute::AllowedMechanisms(vec![
        ciphering(gcm),
        MechanismType::AES_CMAC,
    ])];
    template.extend(meter_key());
    template
}

/// What a key is ciphered with.
pub(super) fn ciphering(gcm: GcmBackend) -> MechanismType {
    match gcm {
        GcmBackend::Token => MechanismType::AES_GCM,
        GcmBackend::EcbGhash => MechanismType::AES_ECB,
    }
}

/// Attributes of a key made to see how the token ciphers, and destroyed.
pub(crate) fn test_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        super::value_length(16),
    ]
}

/// Attributes of an HLS secret in use: it can be digested, and nothing else. `kek-hs-N` unwraps to
/// nothing else; the shared secret of a key agreement is one, too.
pub(crate) fn secret() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]
}

/// Attributes of a meter's master key (its KEK) in use: it wraps and unwraps, and nothing else.
/// `kek-mk-N` unwraps to nothing else.
pub(crate) fn master_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]
}

/// Attributes of a key on its way from one key-encryption key to another, in a backup token: it can be wrapped, and
/// nothing else. A backup token's key-encryption keys unwrap to nothing else.
pub(crate) fn passing_through(key_type: KeyType) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Copyable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]
}

/// A key under which private keys cross from the backup token, once: on the side that unwraps.
pub(crate) fn bridge() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(true),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]
}

/// Attributes of a key made to cipher one APDU and to be sent along with it, wrapped.
pub(crate) fn passing_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Encrypt(true),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// Attributes of a key on its way in, good for nothing but being wrapped again. `transport-N`
/// unwraps to nothing else. Whether it is readable is left open: an authentication key must be. So
/// is its type: an HLS secret is no AES key.
pub(crate) fn incoming() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
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

/// [`incoming`], of this type, readable or not.
pub(crate) fn incoming_key(key_type: KeyType, readable: bool) -> Vec<Attribute> {
    let mut template = incoming();
    template.push(Attribute::KeyType(key_type));
    template.push(Attribute::Sensitive(!readable));
    template
}

/// A `CK_ATTRIBUTE` array as the value of an attribute, which cryptoki 0.12 has no type for.
/// It must live until the call that uses it has returned.
pub(crate) struct NestedTemplate {
    pub(super) values: Vec<Box<[u8]>>,
    pub(super) bytes: Vec<u8>,
}

impl NestedTemplate {
    pub(crate) fn new(template: &[Attribute]) -> Self {
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

    pub(crate) fn attribute(&self) -> Attribute {
        Attribute::VendorDefined((UNWRAP_TEMPLATE, self.bytes.clone()))
    }
}

/// Type and value of the attributes that occur in unwrap templates (PKCS#11 header values).
fn raw(attribute: &Attribute) -> Option<(c_ulong, Box<[u8]>)> {
    let boolean = |kind: c_ulong, value: bool| Some((kind, Box::from([u8::from(value)])));
    let number = |kind: c_ulong, value: c_ulong| Some((kind, Box::from(value.to_ne_bytes())));
    match *attribute {
        Attribute::Class(ObjectClass::SECRET_KEY) => number(0x000, 0x04),
        Attribute::KeyType(KeyType::GENERIC_SECRET) => number(0x100, 0x10),
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

/// CKA_UNWRAP_TEMPLATE.
pub(super) const UNWRAP_TEMPLATE: AttributeType = AttributeType::VendorDefined(0x4000_0212);
pub(super) const ATTRIBUTE_SIZE: usize =
    size_of::<c_ulong>() + size_of::<usize>() + size_of::<c_ulong>();
// `NestedTemplate` writes the struct by hand: no padding, and a length as wide as usize.
const _: () = assert!(size_of::<c_ulong>() == size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_of_a_template_reaches_the_token() {
        for template in [
            meter_key(),
            secret(),
            master_key(),
            incoming(),
            passing_through(KeyType::GENERIC_SECRET),
            bridge(),
        ] {
            let nested = NestedTemplate::new(&template);
            assert_eq!(nested.values.len(), template.len());
            assert_eq!(nested.bytes.len(), template.len() * ATTRIBUTE_SIZE);
        }
    }
}
