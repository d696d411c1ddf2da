//! The keys of one side in software: AES-GCM-128 with tags of 12 octets.

use aes_gcm::aead::{Aead as _, Payload, consts::U12};
use aes_gcm::aes::Aes128;
use aes_gcm::{AesGcm, KeyInit as _};
use dlms::security::{GENERAL_GLO, TAG, aad, nonce};
use dlms::{
    CipherFailure, CipherOp, CipherOutput, Ciphered, GmacToken, Protection, SecurityControl,
    SystemTitle,
};

/// EK and AK of the Green Book's examples.
pub(crate) const EK: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
pub(crate) const AK: [u8; 16] = [
    0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF,
];

#[derive(Clone)]
pub(crate) struct Soft {
    pub(crate) title: SystemTitle,
    pub(crate) ek: [u8; 16],
    pub(crate) ak: [u8; 16],
    /// The counter used last.
    pub(crate) sent: u32,
    /// The peer's counter accepted last.
    pub(crate) received: u32,
    /// Some peers use one counter for the HLS5 token and the APDU that carries it.
    pub(crate) token_shares_counter: bool,
    /// What a job fails with, once.
    pub(crate) fails: Option<CipherFailure>,
}

impl Soft {
    pub(crate) fn new(title: SystemTitle) -> Self {
        Self {
            title,
            ek: EK,
            ak: AK,
            sent: 0,
            received: 0,
            token_shares_counter: false,
            fails: None,
        }
    }

    fn gcm(&self) -> AesGcm<Aes128, U12, U12> {
        AesGcm::new(&self.ek.into())
    }

    pub(crate) fn seal(&self, title: SystemTitle, counter: u32, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let payload = Payload { msg, aad };
        self.gcm()
            .encrypt(&nonce(title, counter).into(), payload)
            .unwrap()
    }

    pub(crate) fn open(
        &self,
        title: SystemTitle,
        counter: u32,
        aad: &[u8],
        msg: &[u8],
    ) -> Option<Vec<u8>> {
        let payload = Payload { msg, aad };
        self.gcm()
            .decrypt(&nonce(title, counter).into(), payload)
            .ok()
    }

    pub(crate) fn protect(&self, apdu: &[u8], protection: Protection, counter: u32) -> Vec<u8> {
        let control = SecurityControl::AUTH_ENC;
        let tag = protection.tag(apdu[0]).unwrap();
        let title = (tag == GENERAL_GLO).then_some(self.title);
        let body = self.seal(self.title, counter, &aad(control, &self.ak, &[]), apdu);
        Ciphered {
            tag,
            title,
            control,
            counter,
            body,
        }
        .encode()
    }

    pub(crate) fn token(&self, challenge: &[u8], counter: u32) -> Vec<u8> {
        let control = SecurityControl::AUTH;
        let sealed = self.seal(self.title, counter, &aad(control, &self.ak, challenge), &[]);
        let tag: [u8; TAG] = sealed.try_into().unwrap();
        GmacToken {
            control,
            counter,
            tag,
        }
        .encode()
    }

    pub(crate) fn run(&mut self, op: CipherOp) -> Result<CipherOutput, CipherFailure> {
        if let Some(failure) = self.fails.take() {
            return Err(failure);
        }
        match op {
            CipherOp::Protect {
                apdu, protection, ..
            } => {
                self.sent += 1;
                Ok(CipherOutput::Apdu(
                    self.protect(&apdu, protection, self.sent),
                    self.sent,
                ))
            }
            CipherOp::Unprotect {
                apdu, peer_title, ..
            } => self.unprotect(&apdu, peer_title),
            CipherOp::Answer { challenge, .. } => {
                self.sent += u32::from(!self.token_shares_counter);
                let counter = self.sent + u32::from(self.token_shares_counter);
                Ok(CipherOutput::Token(self.token(&challenge, counter)))
            }
            CipherOp::Verify {
                token,
                challenge,
                peer_title,
                ..
            } => {
                let token = GmacToken::decode(&token).unwrap();
                let aad = aad(token.control, &self.ak, &challenge);
                self.open(peer_title, token.counter, &aad, &token.tag)
                    .map(|_| CipherOutput::Verified)
                    .ok_or(CipherFailure::AuthFailed)
            }
        }
    }

    fn unprotect(
        &mut self,
        apdu: &[u8],
        peer_title: SystemTitle,
    ) -> Result<CipherOutput, CipherFailure> {
        let Ciphered {
            control,
            counter,
            body,
            ..
        } = Ciphered::decode(apdu).unwrap();
        if counter <= self.received {
            return Err(CipherFailure::Replay {
                expected: self.received + 1,
            });
        }
        let plain = self
            .open(peer_title, counter, &aad(control, &self.ak, &[]), &body)
            .ok_or(CipherFailure::AuthFailed)?;
        self.received = counter;
        Ok(CipherOutput::Apdu(plain, counter))
    }
}
