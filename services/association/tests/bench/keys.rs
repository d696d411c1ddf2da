//! Suite 0 in software, the client's side, for the fake custody.

use aes_gcm::{
    AesGcm, KeyInit as _,
    aead::{Aead as _, Payload, consts::U12},
    aes::Aes128,
};
use dlms::{
    Protection, SecurityControl, SystemTitle,
    security::{Ciphered, GmacToken, aad, nonce, plain_tag},
};
use simulator::LabKeys;

pub(crate) struct SoftKeys {
    pub(crate) client: [u8; 8],
    pub(crate) server: [u8; 8],
    pub(crate) password: Vec<u8>,
    gcm: AesGcm<Aes128, U12, U12>,
    ak: [u8; 16],
}

impl SoftKeys {
    pub(crate) fn new(keys: &LabKeys) -> Self {
        Self {
            client: keys.client_system_title(),
            server: keys.server_system_title(),
            password: keys.password().to_vec(),
            gcm: AesGcm::new(keys.ek().into()),
            ak: *keys.ak(),
        }
    }

    pub(crate) fn seal(&self, apdu: &[u8], protection: Protection, counter: u32) -> Vec<u8> {
        let tag = protection.tag(apdu[0]).unwrap();
        let own = SystemTitle::new(self.client);
        let control = SecurityControl::AUTH_ENC;
        let payload = Payload {
            msg: apdu,
            aad: &aad(control, &self.ak, &[]),
        };
        let body = self
            .gcm
            .encrypt(&nonce(own, counter).into(), payload)
            .unwrap();
        let title = plain_tag(tag).is_none().then_some(own);
        Ciphered {
            tag,
            title,
            control,
            counter,
            body,
        }
        .encode()
    }

    pub(crate) fn open(&self, apdu: &[u8]) -> Option<Vec<u8>> {
        let ciphered = Ciphered::decode(apdu).ok()?;
        let payload = Payload {
            msg: &ciphered.body,
            aad: &aad(ciphered.control, &self.ak, &[]),
        };
        self.gcm
            .decrypt(
                &nonce(SystemTitle::new(self.server), ciphered.counter).into(),
                payload,
            )
            .ok()
    }

    pub(crate) fn token(&self, challenge: &[u8], counter: u32) -> Vec<u8> {
        let control = SecurityControl::AUTH;
        let payload = Payload {
            msg: &[],
            aad: &aad(control, &self.ak, challenge),
        };
        let tag = self
            .gcm
            .encrypt(
                &nonce(SystemTitle::new(self.client), counter).into(),
                payload,
            )
            .unwrap();
        GmacToken {
            control,
            counter,
            tag: tag.try_into().unwrap(),
        }
        .encode()
    }

    pub(crate) fn verify(&self, token: &[u8], challenge: &[u8]) -> bool {
        let Ok(token) = GmacToken::decode(token) else {
            return false;
        };
        let payload = Payload {
            msg: &token.tag,
            aad: &aad(token.control, &self.ak, challenge),
        };
        self.gcm
            .decrypt(
                &nonce(SystemTitle::new(self.server), token.counter).into(),
                payload,
            )
            .is_ok()
    }
}
