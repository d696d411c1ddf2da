//! The curves of DLMS security suites 1 and 2, and what is done with public keys outside the token.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, ParsedPublicKey,
};

/// A curve, with the hash that goes with it (IEC 62056-5-3, security suites).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Curve {
    /// P-256 with SHA-256: suite 1.
    P256,
    /// P-384 with SHA-384: suite 2.
    P384,
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        })
    }
}

impl Curve {
    /// Octets of a coordinate; half a public key, half a signature, all of a shared secret.
    pub const fn coordinate(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// Octets of a public key as DLMS writes it, X then Y, and of a signature, r then s.
    pub const fn pair(self) -> usize {
        self.coordinate() * 2
    }

    /// Octets of the AES key that is agreed with it: AES-128 in suite 1, AES-256 in suite 2.
    pub const fn agreed(self) -> usize {
        match self {
            Self::P256 => 16,
            Self::P384 => 32,
        }
    }

    /// Whether these octets, X then Y, are a public key: a point on the curve.
    pub fn is_public_key(self, public: &[u8]) -> bool {
        public.len() == self.pair()
            && ParsedPublicKey::new(self.verification(), point(public)).is_ok()
    }

    /// Whether `signature`, r then s, is that of the public key, X then Y, over the message. Public
    /// data: decided here and not by a token.
    pub fn verifies(self, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
        public.len() == self.pair()
            && ParsedPublicKey::new(self.verification(), point(public))
                .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }

    pub(crate) fn hash(self) -> &'static digest::Algorithm {
        match self {
            Self::P256 => &digest::SHA256,
            Self::P384 => &digest::SHA384,
        }
    }

    /// DER of its object identifier, as CKA_EC_PARAMS has it.
    pub(crate) fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07],
            Self::P384 => &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22],
        }
    }

    fn verification(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
        }
    }
}

/// The uncompressed point of X then Y.
pub(crate) fn point(public: &[u8]) -> Vec<u8> {
    let mut point = Vec::with_capacity(public.len() + 1);
    point.push(0x04);
    point.extend_from_slice(public);
    point
}

#[cfg(test)]
mod tests {
    use super::*;

    // DLMS UA Green Book, Annex C: the client's ephemeral key, its signing key, and its signature over
    // the former.
    const EPHEMERAL: &str = "C323C2BD45711DE4688637D919F92E9DB8FB2DFC213A88D21C9DC8DCBA917D81\
                             70511DE1BADB360D50058F794B0960AE11FA28D392CFF907A62D13E3357B1DC0";
    const SIGNING: &str = "BAAFFDE06A8CB1C9DAE8D94023C601DBBB249254BA22EDD827E820BCA2BCC643\
                           62FBB83D86A82B87BB8B7161D2AAB5521911A946B97A284A90F7785CD9047D25";
    const SIGNATURE: &str = "B51BE089D0B682863B2217201E73A1A9031968A9B4121DCBC3281A69739AF874\
                             29F5B3AC5471E7B6A04A2C0F2F8A25FD772A317DF97FC5463FEAC248EB8AB8BE";
    // NSA Suite B Implementer's Guide to FIPS 186-3, D.2.
    const PUBLIC_384: &str = "1FBAC8EEBD0CBF35640B39EFE0808DD774DEBFF20A2A329E91713BAF7D7F3C3E\
                              81546D883730BEE7E48678F857B02CA0EB213103BD68CE343365A8A4C3D4555F\
                              A385F5330203BDD76FFAD1F3AFFB95751C132007E1B240353CB0A4CF1693BDF9";
    const SIGNATURE_384: &str = "A0C27EC893092DEA1E1BD2CCFED3CF945C8134ED0C9F81311A0F4A05942DB8DB\
                                 ED8DD59F267471D5462AA14FE72DE85620AB3F45B74F10B6E11F96A2C8EB694D\
                                 206B9DDA86D3C7E331C26B22C987B7537726577667ADADF168EBBE803794A402";

    #[test]
    fn published_signatures_verify() {
        let octets = |text: &str| hex::decode(text).unwrap();
        let (public, signature) = (octets(SIGNING), octets(SIGNATURE));
        assert!(Curve::P256.verifies(&public, &octets(EPHEMERAL), &signature));
        assert!(!Curve::P256.verifies(&public, &octets(EPHEMERAL)[1..], &signature));
        let (public, signature) = (octets(PUBLIC_384), octets(SIGNATURE_384));
        let message = b"This is only a test message. It is 48 bytes long";
        assert!(Curve::P384.verifies(&public, message, &signature));
        assert!(!Curve::P384.verifies(&public, message, &signature[1..]));
    }

    #[test]
    fn only_points_of_the_curve_are_public_keys() {
        let mut public = hex::decode(EPHEMERAL).unwrap();
        assert!(Curve::P256.is_public_key(&public));
        assert!(!Curve::P384.is_public_key(&public));
        assert!(!Curve::P256.is_public_key(&public[..63]));
        public[63] ^= 1;
        assert!(!Curve::P256.is_public_key(&public), "off the curve");
        assert!(!Curve::P256.is_public_key(&[0; 64]), "infinity");
        assert!(!Curve::P256.verifies(&public, b"m", &[1; 64]));
    }
}
