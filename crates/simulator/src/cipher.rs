//! The meter's cryptography, in software with lab keys: suite 0, authenticated and encrypted, and HLS5 tokens.

use std::fmt;

use aes_gcm::{
    AesGcm, KeyInit as _,
    aead::{Aead as _, Payload, consts::U12},
    aes::Aes128,
};
use dlms::{
    CipherFailure, CipherOp, CipherOutput, Protection, SecurityControl, SystemTitle,
    security::{Ciphered, GmacToken, TAG, aad, nonce, plain_tag},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The invocation counters of one key, kept in NVRAM: they survive every reset, and never fall.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counters {
    /// Of the last APDU of the peer that was accepted; the next must be above.
    received: u32,
    /// Of the last APDU that was sent.
    sent: u32,
    /// `received` when the association began: what a lazy meter last wrote to its NVRAM.
    #[serde(skip)]
    at_open: u32,
    /// `received` before the last APDU.
    #[serde(skip)]
    before: u32,
}

impl Counters {
    /// The client's last accepted counter: what 0.0.43.1.0.255 shows (a client goes on with the one after it).
    pub(crate) fn client(&self) -> u32 {
        self.received
    }

    /// The meter's last used counter.
    pub(crate) fn server(&self) -> u32 {
        self.sent
    }

    /// An association begins.
    pub(crate) fn open(&mut self) {
        self.at_open = self.received;
    }

    /// A defect: forgets what the running association counted.
    pub(crate) fn roll_back(&mut self) {
        self.received = self.at_open;
    }

    /// The last APDU never arrived (it was lost on its way, by command).
    pub(crate) fn unreceive(&mut self) {
        self.received = self.before;
    }

    fn check(&self, counter: u32) -> Result<(), CipherFailure> {
        if counter > self.received {
            Ok(())
        } else {
            Err(CipherFailure::Replay {
                expected: self.received.saturating_add(1),
            })
        }
    }

    fn record(&mut self, counter: u32) {
        self.before = self.received;
        self.received = counter;
    }

    /// The next counter to send with; none is left after the last one.
    fn next(&mut self) -> Result<u32, CipherFailure> {
        self.sent = self.sent.checked_add(1).ok_or(CipherFailure::Unavailable)?;
        Ok(self.sent)
    }
}

/// One end of ciphered associations.
pub(crate) struct SoftCipher {
    own: SystemTitle,
    peer: SystemTitle,
    gcm: AesGcm<Aes128, U12, U12>,
    ak: Zeroizing<[u8; 16]>,
}

impl SoftCipher {
    pub(crate) fn new(own: [u8; 8], peer: [u8; 8], ek: &[u8; 16], ak: &[u8; 16]) -> Self {
        Self {
            own: SystemTitle::new(own),
            peer: SystemTitle::new(peer),
            gcm: AesGcm::new(ek.into()),
            ak: Zeroizing::new(*ak),
        }
    }

    /// Does one job.
    pub(crate) fn run(
        &self,
        op: &CipherOp,
        counters: &mut Counters,
    ) -> Result<CipherOutput, CipherFailure> {
        match op {
            CipherOp::Protect {
                apdu,
                protection: Protection::Plain,
                ..
            } => Ok(CipherOutput::Apdu(apdu.clone(), 0)),
            CipherOp::Protect {
                apdu, protection, ..
            } => self.protect(apdu, *protection, counters),
            CipherOp::Unprotect {
                apdu, peer_title, ..
            } => self.unprotect(apdu, *peer_title, counters),
            CipherOp::Answer { challenge, .. } => {
                let counter = counters.next()?;
                let tag = self.gmac(self.own, counter, challenge)?;
                let token = GmacToken {
                    control: SecurityControl::AUTH,
                    counter,
                    tag,
                };
                Ok(CipherOutput::Token(token.encode()))
            }
            CipherOp::Verify {
                token,
                challenge,
                peer_title,
                ..
            } => self.verify(token, challenge, *peer_title),
        }
    }

    fn protect(
        &self,
        apdu: &[u8],
        protection: Protection,
        counters: &mut Counters,
    ) -> Result<CipherOutput, CipherFailure> {
        let tag = apdu
            .first()
            .and_then(|tag| protection.tag(*tag))
            .ok_or(CipherFailure::Refused)?;
        let counter = counters.next()?;
        let control = SecurityControl::AUTH_ENC;
        let payload = Payload {
            msg: apdu,
            aad: &aad(control, self.ak.as_slice(), &[]),
        };
        let body = self
            .gcm
            .encrypt(&nonce(self.own, counter).into(), payload)
            .map_err(|_| CipherFailure::Unavailable)?;
        let title = plain_tag(tag).is_none().then_some(self.own);
        let ciphered = Ciphered {
            tag,
            title,
            control,
            counter,
            body,
        };
        Ok(CipherOutput::Apdu(ciphered.encode(), counter))
    }

    fn unprotect(
        &self,
        apdu: &[u8],
        peer_title: SystemTitle,
        counters: &mut Counters,
    ) -> Result<CipherOutput, CipherFailure> {
        let ciphered = Ciphered::decode(apdu).map_err(|_| CipherFailure::AuthFailed)?;
        let title = ciphered.title.unwrap_or(peer_title);
        if title != self.peer
            || peer_title != self.peer
            || ciphered.control != SecurityControl::AUTH_ENC
        {
            return Err(CipherFailure::AuthFailed);
        }
        // the counter is checked before the tag, and recorded only once the tag is right
        counters.check(ciphered.counter)?;
        let payload = Payload {
            msg: &ciphered.body,
            aad: &aad(ciphered.control, self.ak.as_slice(), &[]),
        };
        let plain = self
            .gcm
            .decrypt(&nonce(self.peer, ciphered.counter).into(), payload)
            .map_err(|_| CipherFailure::AuthFailed)?;
        counters.record(ciphered.counter);
        Ok(CipherOutput::Apdu(plain, ciphered.counter))
    }

    fn verify(
        &self,
        token: &[u8],
        challenge: &[u8],
        peer_title: SystemTitle,
    ) -> Result<CipherOutput, CipherFailure> {
        let token = GmacToken::decode(token).map_err(|_| CipherFailure::AuthFailed)?;
        if peer_title != self.peer {
            return Err(CipherFailure::AuthFailed);
        }
        // deciphering nothing checks the tag, in constant time
        let payload = Payload {
            msg: &token.tag,
            aad: &aad(token.control, self.ak.as_slice(), challenge),
        };
        self.gcm
            .decrypt(&nonce(self.peer, token.counter).into(), payload)
            .map_err(|_| CipherFailure::AuthFailed)?;
        Ok(CipherOutput::Verified)
    }

    fn gmac(
        &self,
        title: SystemTitle,
        counter: u32,
        challenge: &[u8],
    ) -> Result<[u8; TAG], CipherFailure> {
        let aad = aad(SecurityControl::AUTH, self.ak.as_slice(), challenge);
        let sealed = self.gcm.encrypt(
            &nonce(title, counter).into(),
            Payload {
                msg: &[],
                aad: &aad,
            },
        );
        sealed
            .ok()
            .and_then(|tag| tag.try_into().ok())
            .ok_or(CipherFailure::Unavailable)
    }
}

impl fmt::Debug for SoftCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftCipher")
            .field("own", &self.own)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 8] = *b"LKHcli01";
    const SERVER: [u8; 8] = *b"LKMmet01";
    const EK: [u8; 16] = [7; 16];
    const AK: [u8; 16] = [9; 16];

    fn ends() -> (SoftCipher, SoftCipher) {
        (
            SoftCipher::new(CLIENT, SERVER, &EK, &AK),
            SoftCipher::new(SERVER, CLIENT, &EK, &AK),
        )
    }

    fn protect(cipher: &SoftCipher, counters: &mut Counters, protection: Protection) -> Vec<u8> {
        let op = CipherOp::Protect {
            apdu: vec![0xC0, 1, 0xC1],
            protection,
            control: SecurityControl::AUTH_ENC,
            signed: false,
        };
        let CipherOutput::Apdu(apdu, _) = cipher.run(&op, counters).unwrap() else {
            panic!("no APDU")
        };
        apdu
    }

    fn unprotect(
        cipher: &SoftCipher,
        counters: &mut Counters,
        apdu: Vec<u8>,
    ) -> Result<CipherOutput, CipherFailure> {
        cipher.run(
            &CipherOp::Unprotect {
                apdu,
                peer_title: SystemTitle::new(CLIENT),
                protection: Protection::Glo,
                control: SecurityControl::AUTH_ENC,
                signed: false,
            },
            counters,
        )
    }

    #[test]
    fn both_forms_arrive_once_and_never_again() {
        let (client, meter) = ends();
        let (mut sending, mut receiving) = (Counters::default(), Counters::default());
        for (step, protection) in [Protection::Glo, Protection::GeneralGlo]
            .into_iter()
            .enumerate()
        {
            let apdu = protect(&client, &mut sending, protection);
            let counter = u32::try_from(step).unwrap() + 1;
            assert_eq!(
                unprotect(&meter, &mut receiving, apdu.clone()),
                Ok(CipherOutput::Apdu(vec![0xC0, 1, 0xC1], counter))
            );
            assert_eq!(
                unprotect(&meter, &mut receiving, apdu),
                Err(CipherFailure::Replay {
                    expected: counter + 1
                })
            );
        }
        assert_eq!(receiving.client(), 2);
    }

    #[test]
    fn a_wrong_tag_does_not_count() {
        let (client, meter) = ends();
        let mut receiving = Counters::default();
        let good = protect(&client, &mut Counters::default(), Protection::Glo);
        for at in 2..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(
                unprotect(&meter, &mut receiving, bad).is_err(),
                "octet {at}"
            );
            assert_eq!(receiving.client(), 0);
        }
        assert!(unprotect(&meter, &mut receiving, good).is_ok());
    }

    #[test]
    fn weaker_control_octets_and_other_titles_are_refused() {
        let (client, meter) = ends();
        let mut receiving = Counters::default();
        let apdu = protect(&client, &mut Counters::default(), Protection::GeneralGlo);
        let ciphered = Ciphered::decode(&apdu).unwrap();
        for control in [
            SecurityControl::AUTH,
            SecurityControl::ENC,
            SecurityControl::new(0),
        ] {
            let weaker = Ciphered {
                control,
                ..ciphered.clone()
            }
            .encode();
            assert_eq!(
                unprotect(&meter, &mut receiving, weaker),
                Err(CipherFailure::AuthFailed)
            );
        }
        let stranger = Ciphered {
            title: Some(SystemTitle::new(SERVER)),
            ..ciphered
        }
        .encode();
        assert_eq!(
            unprotect(&meter, &mut receiving, stranger),
            Err(CipherFailure::AuthFailed)
        );
    }

    #[test]
    fn tokens_are_of_the_challenge_and_of_the_other_end() {
        let (client, meter) = ends();
        let mut counters = Counters::default();
        let challenge = vec![1; 16];
        let answer = CipherOp::Answer {
            mechanism: dlms::Mechanism::HlsGmac,
            challenge: challenge.clone(),
            own_challenge: vec![2; 16],
            suite: dlms::Suite::Suite0,
            peer_title: SystemTitle::new(SERVER),
        };
        let CipherOutput::Token(token) = client.run(&answer, &mut counters).unwrap() else {
            panic!("no token")
        };
        let verify = |cipher: &SoftCipher, challenge: &[u8], peer| {
            let op = CipherOp::Verify {
                mechanism: dlms::Mechanism::HlsGmac,
                token: token.clone(),
                challenge: challenge.to_vec(),
                peer_challenge: vec![2; 16],
                suite: dlms::Suite::Suite0,
                peer_title: SystemTitle::new(peer),
            };
            cipher.run(&op, &mut Counters::default())
        };
        assert_eq!(
            verify(&meter, &challenge, CLIENT),
            Ok(CipherOutput::Verified)
        );
        assert_eq!(
            verify(&meter, &[2; 16], CLIENT),
            Err(CipherFailure::AuthFailed)
        );
        assert_eq!(
            verify(&client, &challenge, SERVER),
            Err(CipherFailure::AuthFailed),
            "reflection"
        );
        assert_eq!(counters.server(), 1, "a token spends a counter");
    }

    #[test]
    fn a_spent_counter_is_the_end() {
        let (client, _) = ends();
        let mut counters = Counters {
            sent: u32::MAX,
            ..Counters::default()
        };
        let op = CipherOp::Protect {
            apdu: vec![0xC0],
            protection: Protection::Glo,
            control: SecurityControl::AUTH_ENC,
            signed: false,
        };
        assert_eq!(
            client.run(&op, &mut counters),
            Err(CipherFailure::Unavailable)
        );
    }
}
