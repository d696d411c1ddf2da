//! The keys both sides of every session have, and the file that tells them to a peer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use dlms::{Suite, SystemTitle};
use softcipher::{Keys, PrivateKey, PublicKey, Secret, Setup, SoftCipher};

use super::{Auth, Transport};

pub(super) const CLIENT: [u8; 8] = *b"LKHINTER";
pub(super) const SERVER: [u8; 8] = *b"LKMINTER";
pub(super) const EK: [u8; 16] = *b"interop-ek-00001";
pub(super) const AK: [u8; 16] = *b"interop-ak-00001";
pub(super) const PASSWORD: &[u8] = b"interop1";
pub(super) const HLS_SECRET: &[u8; 16] = b"interop-secret-1";
/// Private keys on P-256, and X || Y of their public halves.
pub(super) const CLIENT_PRIVATE: [u8; 32] = [0x11; 32];
pub(super) const SERVER_PRIVATE: [u8; 32] = [0x22; 32];
pub(super) const CLIENT_PUBLIC: &str = "0217e617f0b6443928278f96999e69a23a4f2c152bdf6d6cdf66e5b80282d4ed\
                                        194a7debcb97712d2dda3ca85aa8765a56f45fc758599652f2897c65306e5794";
pub(super) const SERVER_PUBLIC: &str = "d65a93977caa3d1b081852ff57a79e465f1660577304baead505dd3a48589cf3\
                                        50185e895372df6221ea3a137557e473fddb6755f05bd507c3c533fce9c91285";

/// The key file of a foreign peer.
pub(super) fn file(dir: &Path) -> Result<PathBuf> {
    let lines = [
        ("client_system_title", hex::encode(CLIENT)),
        ("server_system_title", hex::encode(SERVER)),
        ("ek", hex::encode(EK)),
        ("ak", hex::encode(AK)),
        ("password", hex::encode(PASSWORD)),
        ("hls_secret", hex::encode(HLS_SECRET)),
        ("client_signing_private_key", hex::encode(CLIENT_PRIVATE)),
        ("client_signing_public_key", CLIENT_PUBLIC.to_owned()),
        ("server_signing_private_key", hex::encode(SERVER_PRIVATE)),
        ("server_signing_public_key", SERVER_PUBLIC.to_owned()),
    ];
    let text: String = lines
        .iter()
        .map(|(name, value)| format!("{name} = \"{value}\"\n"))
        .collect();
    let path = dir.join("peer-keys.toml");
    fs::write(&path, text)?;
    Ok(path)
}

pub(super) fn auth_name(auth: Auth) -> &'static str {
    match auth {
        Auth::None => "none",
        Auth::Low => "low",
        Auth::Hls5 => "hls5",
        Auth::Hls6 => "hls6",
        Auth::Hls7 => "hls7",
    }
}

pub(super) fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Hdlc => "hdlc",
    }
}

/// Octets nobody has used before.
pub(super) fn random(count: usize) -> Vec<u8> {
    let mut octets = vec![0; count];
    aws_lc_rs::rand::fill(&mut octets).expect("the system gives random octets");
    octets
}

/// The client's keys at work.
pub(super) fn cipher(auth: Auth) -> Result<SoftCipher> {
    let hls7 = auth == Auth::Hls7;
    let suite = if hls7 { Suite::Suite1 } else { Suite::Suite0 };
    let peer = hex::decode(SERVER_PUBLIC)?;
    let keys = Keys {
        encryption: Some(EK.into()),
        authentication: Some(AK.into()),
        hls_secret: Some(Secret::new(HLS_SECRET.to_vec())),
        signing: PrivateKey::from_octets(&CLIENT_PRIVATE).filter(|_| hls7),
        peer_signing: PublicKey::from_octets(&peer).filter(|_| hls7),
        ..Keys::default()
    };
    Ok(SoftCipher::new(
        Setup::new(suite, SystemTitle::new(CLIENT)),
        keys,
    )?)
}
