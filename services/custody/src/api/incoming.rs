//! Keys on their way in: what a request says, checked field by field.

use dlms::Suite;
use latchkey_proto::custody::v1::{ImportMeterKeysRequest, Mechanism, SecurityPolicy};

use super::{Violations, cipher::control, mechanism};
use crate::{
    error::Error,
    keyring,
    keys::{
        AUTHENTICATION_KEY, BROADCAST_KEY, ENCRYPTION_KEY, HLS_SECRET, Identity, LabKeys,
        MASTER_KEY, WrappedKeys, bit, policy_bit,
    },
};

/// Octets of a system title.
const TITLE: usize = 8;
const PASSWORD_MAX: usize = 64;
/// Octets of an HLS secret.
const SECRET_MIN: usize = 8;
const SECRET_MAX: usize = 64;
/// Octets that RFC 3394 adds.
const WRAP: usize = 8;
/// What the labels of RSA transport keys begin with.
const RSA: &str = "transport-rsa-";
/// Octets of what such a key enciphers: RSA-3072.
const RSA_LEN: usize = 384;
/// Characters of a transport key's label.
const LABEL_MAX: usize = 32;

/// The wrapped keys of one meter.
pub(super) fn wrapped(asked: ImportMeterKeysRequest) -> Result<(Identity, WrappedKeys), Error> {
    let mut violations = Violations::default();
    let mechanisms = mechanisms(&mut violations, &asked.mechanisms);
    let policies = policies(&mut violations, &asked.policies);
    let identity = Identity {
        suite: suite(&mut violations, asked.security_suite),
        mechanisms,
        policies,
        meter_id: asked.meter_id,
        client_title: asked.client_system_title,
        server_title: asked.server_system_title,
        signing_key: asked.server_signing_key,
        agreement_key: asked.server_agreement_key,
    };
    let keys = WrappedKeys {
        transport: transport(&mut violations, asked.transport),
        encryption_key: asked.wrapped_encryption_key,
        authentication_key: asked.wrapped_authentication_key,
        hls_secret: asked.wrapped_hls_secret,
        master_key: asked.wrapped_key_encryption_key,
        broadcast_key: asked.wrapped_broadcast_key,
    };
    if keys.transport.starts_with(RSA) {
        rsa_lengths(&mut violations, &keys);
    } else {
        lengths(&mut violations, &identity, &keys);
    }
    check(&identity, violations)?;
    Ok((identity, keys))
}

/// What RFC 3394 makes of the suite's keys.
fn lengths(violations: &mut Violations, identity: &Identity, keys: &WrappedKeys) {
    let wrapped = identity.suite.wrapped_len();
    for (field, octets) in [
        (ENCRYPTION_KEY, &keys.encryption_key),
        (AUTHENTICATION_KEY, &keys.authentication_key),
    ] {
        violations.length(field, octets, &[wrapped..=wrapped]);
    }
    let or_none = [0..=0, wrapped..=wrapped];
    violations.length(MASTER_KEY, &keys.master_key, &or_none);
    violations.length(BROADCAST_KEY, &keys.broadcast_key, &or_none);
    if !keys.hls_secret.is_empty() && !keys.hls_secret.len().is_multiple_of(8) {
        let why = "must have a multiple of 8 octets".to_owned();
        violations.check(HLS_SECRET, Err(why));
    }
    let secret = [0..=0, 16 + WRAP..=SECRET_MAX + WRAP];
    violations.length(HLS_SECRET, &keys.hls_secret, &secret);
}

/// What RSA-OAEP makes of anything: how long a key is comes out inside the token.
fn rsa_lengths(violations: &mut Violations, keys: &WrappedKeys) {
    let (one, or_none) = ([RSA_LEN..=RSA_LEN], [0..=0, RSA_LEN..=RSA_LEN]);
    violations.length(ENCRYPTION_KEY, &keys.encryption_key, &one);
    violations.length(AUTHENTICATION_KEY, &keys.authentication_key, &one);
    violations.length(MASTER_KEY, &keys.master_key, &or_none);
    violations.length(BROADCAST_KEY, &keys.broadcast_key, &or_none);
    violations.length(HLS_SECRET, &keys.hls_secret, &or_none);
}

/// A label; `transport-1` for none.
fn transport(violations: &mut Violations, label: String) -> String {
    if label.is_empty() {
        return keyring::TRANSPORT.to_owned();
    }
    let number = label
        .strip_prefix(RSA)
        .or_else(|| label.strip_prefix("transport-"))
        .unwrap_or_default();
    let good = !number.is_empty()
        && label.len() <= LABEL_MAX
        && number.bytes().all(|octet| octet.is_ascii_digit());
    if !good {
        let why = "must be the label of a transport key, transport-N or transport-rsa-N".to_owned();
        violations.check("transport", Err(why));
    }
    label
}

/// The suite with this id; suite 0 beside a violation.
pub(super) fn suite(violations: &mut Violations, id: u32) -> Suite {
    let suite = u8::try_from(id).ok().and_then(Suite::from_id);
    if suite.is_none() {
        let why = "must be 0, 1 or 2".to_owned();
        violations.check("security_suite", Err(why));
    }
    suite.unwrap_or_default()
}

/// The mechanisms that are named, as a row keeps them.
pub(super) fn mechanisms(violations: &mut Violations, named: &[i32]) -> u8 {
    let known = |named: &i32| mechanism(Mechanism::try_from(*named).ok()?);
    named.iter().fold(0, |bits, named| match known(named) {
        Some(dlms::Mechanism::None) | None => {
            let why = "must name mechanisms that authenticate".to_owned();
            violations.check("mechanisms", Err(why));
            bits
        }
        Some(mechanism) => bits | bit(mechanism),
    })
}

/// The policies that are named besides authenticated and encrypted, as a row keeps them.
pub(super) fn policies(violations: &mut Violations, named: &[i32]) -> u8 {
    named
        .iter()
        .fold(0, |bits, named| match SecurityPolicy::try_from(*named) {
            Ok(SecurityPolicy::Unspecified) | Err(_) => {
                let why = "must name policies".to_owned();
                violations.check("policies", Err(why));
                bits
            }
            Ok(policy) => bits | policy_bit(control(Suite::Suite0, policy)),
        })
}

/// A meter id, two titles, two public keys. The titles differ: with one title for both, client and meter would share
/// nonces.
pub(super) fn check(identity: &Identity, mut violations: Violations) -> Result<(), Error> {
    let (client, server) = (&identity.client_title, &identity.server_title);
    violations.check("meter_id", kit::check::meter_id(&identity.meter_id));
    violations.length("client_system_title", client, &[TITLE..=TITLE]);
    violations.length("server_system_title", server, &[TITLE..=TITLE]);
    if client == server {
        violations.check(
            "server_system_title",
            Err("must differ from the client's".to_owned()),
        );
    }
    public_key(&mut violations, identity, SIGNING_KEY);
    public_key(&mut violations, identity, AGREEMENT_KEY);
    violations.none()
}

fn public_key(violations: &mut Violations, identity: &Identity, field: &str) {
    let key = match field {
        SIGNING_KEY => &identity.signing_key,
        _ => &identity.agreement_key,
    };
    let good = match keyring::curve(identity.suite) {
        _ if key.is_empty() => Ok(()),
        None => Err("suite 0 has no public keys".to_owned()),
        Some(curve) if curve.is_public_key(key) => Ok(()),
        Some(curve) => Err(format!(
            "must be X then Y of a point on the suite's curve, {} octets",
            curve.pair()
        )),
    };
    violations.check(field, good);
}

const SIGNING_KEY: &str = "server_signing_key";
const AGREEMENT_KEY: &str = "server_agreement_key";

pub(super) fn check_lab(keys: &LabKeys, length: usize, violations: &mut Violations) {
    let key = [0..=0, length..=length];
    violations.length("encryption_key", &keys.encryption_key, &key);
    violations.length("authentication_key", &keys.authentication_key, &key);
    violations.length("key_encryption_key", &keys.master_key, &key);
    violations.length("broadcast_key", &keys.broadcast_key, &key);
    violations.length("password", &keys.password, &[0..=PASSWORD_MAX]);
    let secret = [0..=0, SECRET_MIN..=SECRET_MAX];
    violations.length("hls_secret", &keys.hls_secret, &secret);
    if keys.encryption_key.is_empty() != keys.authentication_key.is_empty() {
        let why = "goes with the encryption key: both or neither".to_owned();
        violations.check("authentication_key", Err(why));
    }
    if keys.encryption_key.is_empty() && !keys.master_key.is_empty() {
        let why = "goes with an encryption key".to_owned();
        violations.check("key_encryption_key", Err(why));
    }
    if keys.encryption_key.is_empty() && !keys.broadcast_key.is_empty() {
        let why = "goes with an encryption key".to_owned();
        violations.check("broadcast_key", Err(why));
    }
}
