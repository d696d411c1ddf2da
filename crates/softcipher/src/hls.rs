//! The tokens of HLS 3 to 7.

use dlms::{
    CipherFailure, GmacToken, HlsInput, Mechanism, Piece, SecurityControl, Suite, SystemTitle,
    security::aad,
};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{Secret, SoftCipher, gcm::Seal};

/// One authentication: who is asked, and the challenges of both.
pub(crate) struct Challenge<'a> {
    pub(crate) mechanism: Mechanism,
    /// The one that is answered.
    pub(crate) received: &'a [u8],
    /// The other one.
    pub(crate) sent: &'a [u8],
    pub(crate) suite: Suite,
}

impl SoftCipher {
    /// One's own token.
    pub(crate) fn answer(
        &mut self,
        challenge: &Challenge<'_>,
        peer: SystemTitle,
    ) -> Result<Vec<u8>, CipherFailure> {
        self.admit(peer)?;
        if challenge.received == challenge.sent || challenge.suite != self.suite {
            return Err(CipherFailure::Refused);
        }
        match challenge.mechanism {
            Mechanism::HlsGmac => {
                let control = SecurityControl::of(self.suite, true, false);
                let counter = self.unicast()?.next()?;
                let tag = self.gmac(control, self.own, counter, challenge.received)?;
                let token = GmacToken {
                    control,
                    counter,
                    tag,
                };
                Ok(token.encode())
            }
            Mechanism::HlsEcdsa => {
                let message = self.message(challenge, self.own, peer)?;
                let key = self.keys.signing.as_ref();
                Ok(key.ok_or(CipherFailure::Unavailable)?.sign(&message))
            }
            Mechanism::HlsMd5 | Mechanism::HlsSha1 | Mechanism::HlsSha256 => {
                self.digest(challenge, self.own, peer)
            }
            Mechanism::None | Mechanism::Low | Mechanism::HlsManufacturer => {
                Err(CipherFailure::Refused)
            }
        }
    }

    /// Whether the peer's token is right. Here `received` is what the peer received: one's own challenge.
    pub(crate) fn verify(
        &mut self,
        challenge: &Challenge<'_>,
        token: &[u8],
        peer: SystemTitle,
    ) -> Result<(), CipherFailure> {
        self.admit(peer)?;
        if challenge.received == challenge.sent || challenge.suite != self.suite {
            return Err(CipherFailure::AuthFailed);
        }
        let good = match challenge.mechanism {
            Mechanism::HlsGmac => self.gmac_is_right(challenge, token, peer)?,
            Mechanism::HlsEcdsa => {
                let message = self.message(challenge, peer, self.own)?;
                let key = self.keys.peer_signing.as_ref();
                key.ok_or(CipherFailure::Unavailable)?
                    .verify(&message, token)
            }
            Mechanism::HlsMd5 | Mechanism::HlsSha1 | Mechanism::HlsSha256 => {
                self.digest(challenge, peer, self.own)?.ct_eq(token).into()
            }
            Mechanism::None | Mechanism::Low | Mechanism::HlsManufacturer => {
                return Err(CipherFailure::Refused);
            }
        };
        if good {
            Ok(())
        } else {
            Err(CipherFailure::AuthFailed)
        }
    }

    /// The token's counter need not rise: some peers spend one for it and the APDU that carries it.
    fn gmac_is_right(
        &mut self,
        challenge: &Challenge<'_>,
        token: &[u8],
        peer: SystemTitle,
    ) -> Result<bool, CipherFailure> {
        let Ok(token) = GmacToken::decode(token) else {
            return Ok(false);
        };
        if !token.is_of(self.suite) {
            return Ok(false);
        }
        let tag = self.gmac(token.control, peer, token.counter, challenge.received)?;
        Ok(tag.ct_eq(&token.tag).into())
    }

    fn gmac(
        &mut self,
        control: SecurityControl,
        title: SystemTitle,
        counter: u32,
        challenge: &[u8],
    ) -> Result<[u8; dlms::security::TAG], CipherFailure> {
        let aad = Zeroizing::new(aad(control, self.ak(control)?, challenge));
        let seal = Seal {
            control,
            title,
            counter,
            aad: &aad,
        };
        let sealed = self.unicast()?.gcm.seal(&seal, &[]);
        let tag = sealed.and_then(|tag| tag.try_into().ok());
        tag.ok_or(CipherFailure::Unavailable)
    }

    fn message(
        &self,
        challenge: &Challenge<'_>,
        signer: SystemTitle,
        other: SystemTitle,
    ) -> Result<Vec<u8>, CipherFailure> {
        let input = input(challenge, signer, other)?;
        let octets = input.pieces().filter_map(|piece| match piece {
            Piece::Octets(octets) => Some(octets),
            Piece::Secret => None,
        });
        Ok(octets.flatten().copied().collect())
    }

    fn digest(
        &self,
        challenge: &Challenge<'_>,
        signer: SystemTitle,
        other: SystemTitle,
    ) -> Result<Vec<u8>, CipherFailure> {
        let secret = self.keys.hls_secret.as_ref();
        let secret = secret.ok_or(CipherFailure::Unavailable)?;
        let input = input(challenge, signer, other)?;
        Ok(match challenge.mechanism {
            Mechanism::HlsMd5 => hash::<Md5>(&input, secret),
            Mechanism::HlsSha1 => hash::<Sha1>(&input, secret),
            Mechanism::HlsSha256
            | Mechanism::None
            | Mechanism::Low
            | Mechanism::HlsManufacturer
            | Mechanism::HlsGmac
            | Mechanism::HlsEcdsa => hash::<Sha256>(&input, secret),
        })
    }
}

fn input<'a>(
    challenge: &Challenge<'a>,
    signer: SystemTitle,
    other: SystemTitle,
) -> Result<HlsInput<'a>, CipherFailure> {
    let Challenge {
        mechanism,
        received,
        sent,
        ..
    } = *challenge;
    HlsInput::new(mechanism, signer, other, received, sent).ok_or(CipherFailure::Refused)
}

fn hash<D: Digest>(input: &HlsInput<'_>, secret: &Secret) -> Vec<u8> {
    let mut hash = D::new();
    for piece in input.pieces() {
        match piece {
            Piece::Secret => hash.update(secret.expose()),
            Piece::Octets(octets) => hash.update(octets),
        }
    }
    hash.finalize().to_vec()
}
