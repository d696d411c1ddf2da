//! High-level security: our answer to the meter's challenge, and the check of the meter's answer to ours.

use aws_lc_rs::digest;
use dlms::{GmacToken, HlsInput, Mechanism, Piece, SecurityControl, Suite, security::aad};
use hsm::Hash;
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    challenge,
    error::Error,
    keyring::{HlsSecret, Kek, Keyring, MeterKeys, STALE_MAX, Sender, Under, curve, signing_label},
};

/// One authentication, as one side sees it.
#[derive(Clone, Copy)]
pub(crate) struct Challenge<'a> {
    pub(crate) mechanism: Mechanism,
    /// Of the association: of the control octet of HLS5, of the curve of HLS7.
    pub(crate) suite: Suite,
    /// The one that is answered.
    pub(crate) received: &'a [u8],
    /// The other one.
    pub(crate) sent: &'a [u8],
}

impl Keyring {
    /// f(StoC). `counter` is spent by HLS5 and not used by the others.
    pub(crate) async fn answer(
        &self,
        keys: &MeterKeys,
        asked: Challenge<'_>,
        counter: u32,
    ) -> Result<Vec<u8>, Error> {
        match asked.mechanism {
            Mechanism::HlsGmac => {
                let control = SecurityControl::of(asked.suite, true, false);
                let tag = self
                    .gmac(keys, (Sender::Client, control, counter), asked.received)
                    .await?;
                let token = GmacToken {
                    control,
                    counter,
                    tag,
                };
                Ok(token.encode())
            }
            Mechanism::HlsEcdsa => {
                let curve = curve(asked.suite).ok_or(NOT_HLS)?;
                let message = octets(&input(keys, asked, Sender::Client)?);
                if challenge::is_signed_apdu(&message) {
                    return Err(Error::ChallengeAmbiguous);
                }
                let label = signing_label(curve);
                Ok(self.token().sign_ecdsa(curve, label, &message).await?)
            }
            _ => self.hashed(keys, asked, Sender::Client).await,
        }
    }

    /// Whether a token is the meter's f(CtoS). Returns the counter of the global key that it proves, if it does: that
    /// of an HLS5 token, which is under the tag.
    pub(crate) async fn proves(
        &self,
        keys: &MeterKeys,
        asked: Challenge<'_>,
        token: &[u8],
    ) -> Result<Option<Proof>, Error> {
        let bare = Proof { counter: None };
        match asked.mechanism {
            Mechanism::HlsGmac => {
                let Ok(theirs) = GmacToken::decode(token) else {
                    return Ok(None);
                };
                if !theirs.is_of(asked.suite) {
                    return Ok(None);
                }
                // With the meter's title in the nonce our own token, sent back, does not verify.
                let of = (Sender::Server, theirs.control, theirs.counter);
                let ours = self.gmac(keys, of, asked.received).await?;
                let proof = Proof {
                    counter: Some(theirs.counter),
                };
                Ok(bool::from(ours.ct_eq(&theirs.tag)).then_some(proof))
            }
            Mechanism::HlsEcdsa => {
                let curve = curve(asked.suite).ok_or(NOT_HLS)?;
                let message = octets(&input(keys, asked, Sender::Server)?);
                let right = curve.verifies(&keys.signing_key, &message, token);
                Ok(right.then_some(bare))
            }
            _ => {
                let ours = self.hashed(keys, asked, Sender::Server).await?;
                Ok(bool::from(ours.ct_eq(token)).then_some(bare))
            }
        }
    }

    async fn gmac(
        &self,
        keys: &MeterKeys,
        (sender, control, counter): (Sender, SecurityControl, u32),
        challenge: &[u8],
    ) -> Result<[u8; dlms::security::TAG], Error> {
        let gcm = keys
            .gcm(control, sender, counter)
            .with_aad(aad(control, keys.ak(), challenge));
        let tag = self.protect(keys, Under::Global, &gcm, &[]).await?;
        let length = tag.len();
        tag.try_into().map_err(|_| {
            Error::Token(hsm::Error::Length {
                what: "the tag",
                length,
                allowed: "12",
            })
        })
    }

    /// The token of HLS 3, 4 and 6 that this side makes.
    async fn hashed(
        &self,
        keys: &MeterKeys,
        asked: Challenge<'_>,
        signer: Sender,
    ) -> Result<Vec<u8>, Error> {
        let mut tries = 0..STALE_MAX;
        loop {
            match self.hashed_once(keys, asked, signer).await {
                Err(error) if error.is_stale() && tries.next().is_some() => {}
                done => return done,
            }
        }
    }

    async fn hashed_once(
        &self,
        keys: &MeterKeys,
        asked: Challenge<'_>,
        signer: Sender,
    ) -> Result<Vec<u8>, Error> {
        let input = input(keys, asked, signer)?;
        let (before, after) = around(&input);
        let hash = match asked.mechanism {
            Mechanism::HlsSha1 => Some(Hash::Sha1),
            Mechanism::HlsSha256 => Some(Hash::Sha256),
            _ => None,
        };
        match (&keys.hls_secret, hash) {
            (HlsSecret::Wrapped(wrapped), Some(hash)) => {
                let token = self.token();
                let secret = token
                    .unwrap_secret(&Kek::Secret.of(keys.kek_generation), wrapped)
                    .await?;
                Ok(token.digest_secret(&secret, hash, &before, &after).await?)
            }
            (HlsSecret::Readable(secret), hash) => {
                let all = Zeroizing::new([&before[..], secret, &after].concat());
                Ok(match hash {
                    Some(Hash::Sha256) => digest::digest(&digest::SHA256, &all).as_ref().to_vec(),
                    Some(Hash::Sha1) => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &all)
                        .as_ref()
                        .to_vec(),
                    None => Md5::digest(&*all).to_vec(),
                })
            }
            (HlsSecret::Wrapped(_) | HlsSecret::None, _) => Err(NOT_HLS),
        }
    }
}

/// What a right answer proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    /// A counter of the meter's under the global key, as new as the challenge.
    pub(crate) counter: Option<u32>,
}

fn input<'a>(
    keys: &MeterKeys,
    asked: Challenge<'a>,
    signer: Sender,
) -> Result<HlsInput<'a>, Error> {
    let (own, other) = match signer {
        Sender::Client => (keys.client_title, keys.server_title),
        Sender::Server => (keys.server_title, keys.client_title),
    };
    HlsInput::new(asked.mechanism, own, other, asked.received, asked.sent).ok_or(NOT_HLS)
}

/// What comes before the secret, and what after it.
fn around(input: &HlsInput<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut before, mut after, mut passed) = (Vec::new(), Vec::new(), false);
    for piece in input.pieces() {
        match piece {
            Piece::Secret => passed = true,
            Piece::Octets(octets) if passed => after.extend_from_slice(octets),
            Piece::Octets(octets) => before.extend_from_slice(octets),
        }
    }
    (before, after)
}

fn octets(input: &HlsInput<'_>) -> Vec<u8> {
    around(input).0
}

const NOT_HLS: Error = Error::OutOfOrder {
    why: "the association has no such HLS",
};
