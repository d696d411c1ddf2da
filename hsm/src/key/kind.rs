//! The kinds of keys the ceremony makes, and what each may do.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, KeyType, ObjectClass};

use super::template::{self, NestedTemplate};
use crate::able::GcmBackend;
use crate::curve::Curve;
use crate::token::Role;

/// The kinds of keys the ceremony makes, told by their labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `kek-ek-N`: wraps and unwraps meters' encryption keys; nothing else.
    KekEk,
    /// `kek-ak-N`: ciphers meters' authentication keys.
    KekAk,
    /// `kek-hs-N`: wraps and unwraps meters' HLS secrets; nothing else.
    KekHs,
    /// `kek-mk-N`: wraps and unwraps meters' master keys (their KEKs); nothing else.
    KekMk,
    /// `transport-N`: unwraps keys that come from outside.
    Transport,
    /// `transport-rsa-N`: the same, from a maker who has its public half.
    TransportRsa,
    /// `log-N`, `permit-N`, and the auditor's `transcript`.
    Ed25519,
    /// The custody token's `transcript`.
    Transcript,
    /// `sign-p256-N`, `sign-p384-N`: the head-end's own, for HLS with ECDSA and signed APDUs.
    Sign(Curve),
    /// `agree-p256-N`, `agree-p384-N`: the head-end's own, for key agreement.
    Agree(Curve),
    /// `tls-N`: a service's own, for its TLS handshakes.
    Tls,
}

impl Kind {
    /// The kind a label promises on a token of this role.
    pub(crate) fn of(role: Role, label: &str) -> Option<Self> {
        let stem = label.trim_end_matches(|c: char| c.is_ascii_digit());
        let numbered = stem.len() < label.len() && stem.ends_with('-');
        match (role, stem) {
            (Role::Custody | Role::Backup, "transcript") if label == stem => Some(Self::Transcript),
            (Role::Auditor, "transcript") if label == stem => Some(Self::Ed25519),
            (Role::Tls, "transcript") if label == stem => Some(Self::Transcript),
            (Role::Tls, "tls-") if numbered => Some(Self::Tls),
            (Role::Custody | Role::Backup, stem) if numbered => match stem {
                "kek-ek-" => Some(Self::KekEk),
                "kek-ak-" => Some(Self::KekAk),
                "kek-hs-" => Some(Self::KekHs),
                "kek-mk-" => Some(Self::KekMk),
                "transport-" => Some(Self::Transport),
                // Each token makes its own: makers can be told of a new one.
                "transport-rsa-" if role == Role::Custody => Some(Self::TransportRsa),
                "sign-p256-" => Some(Self::Sign(Curve::P256)),
                "sign-p384-" => Some(Self::Sign(Curve::P384)),
                "agree-p256-" => Some(Self::Agree(Curve::P256)),
                "agree-p384-" => Some(Self::Agree(Curve::P384)),
                _ => None,
            },
            (Role::Auditor, "log-" | "permit-") if numbered => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// As errors and transcripts call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KekEk => "key-encryption key for encryption keys",
            Self::KekAk => "key-encryption key for authentication keys",
            Self::KekHs => "key-encryption key for HLS secrets",
            Self::KekMk => "key-encryption key for master keys",
            Self::Transport => "transport key",
            Self::TransportRsa => "RSA transport key",
            Self::Ed25519 => "Ed25519 signing key",
            Self::Transcript => "ECDSA P-256 signing key",
            Self::Sign(Curve::P256) => "ECDSA P-256 key of the head-end",
            Self::Sign(Curve::P384) => "ECDSA P-384 key of the head-end",
            Self::Agree(Curve::P256) => "ECDH P-256 key of the head-end",
            Self::Agree(Curve::P384) => "ECDH P-384 key of the head-end",
            Self::Tls => "ECDSA P-256 key of a TLS end",
        }
    }

    pub(crate) fn is_secret(self) -> bool {
        match self {
            Self::KekEk | Self::KekAk | Self::KekHs | Self::KekMk | Self::Transport => true,
            Self::TransportRsa
            | Self::Ed25519
            | Self::Transcript
            | Self::Sign(_)
            | Self::Agree(_)
            | Self::Tls => false,
        }
    }

    /// The curve of an elliptic-curve key; none of an Ed25519 or RSA key.
    pub(crate) fn curve(self) -> Option<Curve> {
        match self {
            Self::Transcript | Self::Tls => Some(Curve::P256),
            Self::Sign(curve) | Self::Agree(curve) => Some(curve),
            _ => None,
        }
    }

    /// Whether certificates are about keys of this kind.
    pub(crate) fn is_certified(self) -> bool {
        matches!(self, Self::Sign(_) | Self::Agree(_) | Self::Tls)
    }

    /// Octets of its public key as the token has it.
    pub(super) fn public_length(self) -> usize {
        self.curve().map_or(32, |curve| curve.pair() + 1)
    }

    fn class(self) -> ObjectClass {
        if self.is_secret() {
            ObjectClass::SECRET_KEY
        } else {
            ObjectClass::PRIVATE_KEY
        }
    }

    /// Whether it wraps and unwraps.
    fn wraps(self) -> bool {
        matches!(self, Self::KekEk | Self::KekHs | Self::KekMk)
    }

    /// The mechanisms the key may be used with: one, but for keys of key agreement, which sign the request for their
    /// own certificate (PKCS #10 knows no other proof of possession, and NIST SP 800-56A, 5.6.3.2 allows this one).
    fn mechanisms(self) -> Vec<MechanismType> {
        let mechanism = match self {
            Self::KekEk | Self::KekHs | Self::KekMk | Self::Transport => {
                MechanismType::AES_KEY_WRAP
            }
            Self::TransportRsa => MechanismType::RSA_PKCS_OAEP,
            Self::KekAk => MechanismType::AES_GCM,
            Self::Ed25519 => MechanismType::EDDSA,
            Self::Transcript | Self::Sign(_) | Self::Tls => MechanismType::ECDSA,
            Self::Agree(_) => return vec![MechanismType::ECDH1_DERIVE, MechanismType::ECDSA],
        };
        vec![mechanism]
    }

    /// Whether a backup token keeps it, to be cloned into working tokens. A `transcript` key speaks for its own token.
    pub(crate) fn is_kept(self) -> bool {
        !matches!(self, Self::Ed25519 | Self::Transcript | Self::Tls)
    }

    /// The attributes that make the key what it is: set at birth, demanded ever after.
    ///
    /// MODIFIABLE and COPYABLE are what keeps the rest true: with either, the PIN alone suffices
    /// to set DECRYPT on a key-encryption key and to unwrap every stored key by hand. On a backup
    /// token a key can be wrapped: that is what the token is for.
    pub(crate) fn policy(self, role: Role) -> Vec<Attribute> {
        let mut policy = vec![
            Attribute::Class(self.class()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(role == Role::Backup && self.is_kept()),
            Attribute::Modifiable(false),
            Attribute::Copyable(false),
            Attribute::Derive(matches!(self, Self::Agree(_))),
        ];
        if self.is_secret() {
            policy.extend([
                Attribute::KeyType(KeyType::AES),
                Attribute::Encrypt(self == Self::KekAk),
                Attribute::Decrypt(self == Self::KekAk),
                // A backup token wraps under its transport key to prove that a clone is the same.
                Attribute::Wrap(self.wraps() || (self == Self::Transport && role == Role::Backup)),
                Attribute::Unwrap(self != Self::KekAk),
                Attribute::Sign(false),
                Attribute::Verify(false),
            ]);
        } else {
            policy.extend([
                Attribute::KeyType(match self {
                    Self::Ed25519 => KeyType::EC_EDWARDS,
                    Self::TransportRsa => KeyType::RSA,
                    _ => KeyType::EC,
                }),
                Attribute::Sign(self != Self::TransportRsa),
                Attribute::Decrypt(false),
                Attribute::Unwrap(self == Self::TransportRsa),
            ]);
        }
        policy.push(Attribute::AllowedMechanisms(self.mechanisms()));
        policy
    }

    /// The same, for a token that does GCM, or signs by ECDSA, with this mechanism.
    pub(super) fn policy_with(self, role: Role, mechanism: MechanismType) -> Vec<Attribute> {
        let usual = [MechanismType::AES_GCM, MechanismType::ECDSA];
        let mut policy = self.policy(role);
        for attribute in &mut policy {
            if let Attribute::AllowedMechanisms(list) = attribute {
                for allowed in list.iter_mut().filter(|one| usual.contains(one)) {
                    *allowed = mechanism;
                }
            }
        }
        policy
    }

    /// The policies a key may have: the present one, and that of the first ceremonies, whose keys of key agreement do
    /// nothing else and so cannot sign a request for a certificate; and
    /// that of a token whose own GCM is of no use, or that signs nothing but what it hashes.
    pub(super) fn policies(self, role: Role) -> Vec<Vec<Attribute>> {
        let mut policies = vec![self.policy(role)];
        let other = match (self, self.curve()) {
            (Self::KekAk, _) => Some(template::ciphering(GcmBackend::EcbGhash)),
            (_, Some(Curve::P256)) => Some(MechanismType::ECDSA_SHA256),
            (_, Some(Curve::P384)) => Some(MechanismType::ECDSA_SHA384),
            (_, None) => None,
        };
        policies.extend(other.map(|mechanism| self.policy_with(role, mechanism)));
        if matches!(self, Self::Agree(_)) {
            let older = |attribute| match attribute {
                Attribute::Sign(_) => Attribute::Sign(false),
                Attribute::AllowedMechanisms(_) => {
                    Attribute::AllowedMechanisms(vec![MechanismType::ECDH1_DERIVE])
                }
                other => other,
            };
            policies.push(self.policy(role).into_iter().map(older).collect());
        }
        policies
    }

    /// What a key unwrapped by a key of this kind is, if there is one way only. A backup token unwraps to what can be
    /// wrapped again, and do nothing else.
    pub(crate) fn unwrapped(self, role: Role) -> Option<Vec<Attribute>> {
        match self {
            Self::KekEk | Self::KekMk if role == Role::Backup => {
                Some(template::passing_through(KeyType::AES))
            }
            Self::KekHs if role == Role::Backup => {
                Some(template::passing_through(KeyType::GENERIC_SECRET))
            }
            Self::KekEk => Some(template::meter_key()),
            Self::KekHs => Some(template::secret()),
            Self::KekMk => Some(template::master_key()),
            _ => None,
        }
    }

    /// What every key unwrapped by a key of this kind must be, enforced by the token.
    pub(crate) fn unwrap_template(self, role: Role) -> Option<NestedTemplate> {
        let template = match self {
            Self::Transport | Self::TransportRsa => Some(template::incoming()),
            _ => self.unwrapped(role),
        };
        template.map(|template| NestedTemplate::new(&template))
    }

    /// How many attributes that may have: the first transport keys demanded AES keys, so they let no HLS secrets in and
    /// all else.
    pub(super) fn unwrap_template_sizes(self, role: Role) -> Vec<usize> {
        let size = self.unwrap_template(role).map(|nested| nested.values.len());
        let older = (self == Self::Transport).then(|| size.map(|size| size + 1));
        size.into_iter().chain(older.flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_promises_a_kind_on_its_role_only() {
        for (label, kind) in [
            ("kek-ek-1", Kind::KekEk),
            ("kek-ak-20", Kind::KekAk),
            ("kek-hs-1", Kind::KekHs),
            ("kek-mk-1", Kind::KekMk),
            ("transport-1", Kind::Transport),
            ("transport-rsa-1", Kind::TransportRsa),
            ("sign-p256-1", Kind::Sign(Curve::P256)),
            ("agree-p384-2", Kind::Agree(Curve::P384)),
            ("transcript", Kind::Transcript),
        ] {
            assert_eq!(Kind::of(Role::Custody, label), Some(kind), "{label}");
        }
        assert_eq!(Kind::of(Role::Auditor, "transcript"), Some(Kind::Ed25519));
        assert_eq!(Kind::of(Role::Auditor, "kek-ek-1"), None);
        assert_eq!(Kind::of(Role::Tls, "tls-1"), Some(Kind::Tls));
        assert_eq!(Kind::of(Role::Tls, "transcript"), Some(Kind::Transcript));
        assert_eq!(Kind::of(Role::Custody, "tls-1"), None);
        for nonsense in [
            "",
            "1",
            "kek-ek-",
            "kek-ek",
            "log-1x",
            "Kek-ek-1",
            "permit-",
            "sign-p256",
            "sign-p521-1",
        ] {
            assert_eq!(Kind::of(Role::Custody, nonsense), None, "{nonsense}");
            assert_eq!(Kind::of(Role::Auditor, nonsense), None, "{nonsense}");
            assert_eq!(Kind::of(Role::Tls, nonsense), None, "{nonsense}");
        }
    }
}
