//! The keys of one side, and what a test may do to them.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test helper: a broken fixture ends the test"
)]

use dlms::{
    CipherFailure, CipherOp, CipherOutput, Mechanism, Protection, SecurityControl, Suite,
    SystemTitle,
};
use softcipher::{Counters, Keys, Setup, SoftCipher};

/// EK and AK of the Green Book's examples.
pub(crate) const EK: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
pub(crate) const AK: [u8; 16] = [
    0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF,
];

#[derive(Clone)]
pub(crate) struct Soft {
    cipher: SoftCipher,
    setup: Setup,
    keys: Keys,
    /// Some peers use one counter for the HLS5 token and the APDU that carries it.
    pub(crate) token_shares_counter: bool,
    /// What a job fails with, once.
    pub(crate) fails: Option<CipherFailure>,
    /// What an APDU is said to be when it is deciphered, once, by an executor that does not look at it.
    pub(crate) opens_as: Option<Vec<u8>>,
}

impl Soft {
    /// Suite 0 with the keys of the examples, both sides the same.
    pub(crate) fn new(title: SystemTitle) -> Self {
        let keys = Keys {
            encryption: Some(EK.into()),
            authentication: Some(AK.into()),
            ..Keys::default()
        };
        Self::of(Setup::new(Suite::Suite0, title), keys)
    }

    pub(crate) fn of(setup: Setup, keys: Keys) -> Self {
        Self {
            cipher: SoftCipher::new(setup, keys.clone())
                .expect("keys of the suite")
                .seeded(7),
            setup,
            keys,
            token_shares_counter: false,
            fails: None,
            opens_as: None,
        }
    }

    /// With another key or another title; its counters go on.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Setup, &mut Keys)) {
        let counters = self.cipher.counters();
        change(&mut self.setup, &mut self.keys);
        *self = Self::of(self.setup, self.keys.clone());
        self.cipher.resume(counters);
    }

    /// The counter used last.
    pub(crate) fn sent(&self) -> u32 {
        self.cipher.counters().sent
    }

    pub(crate) fn set_sent(&mut self, sent: u32) {
        let received = self.cipher.counters().received;
        self.cipher.resume(Counters { sent, received });
    }

    /// The peer's counter accepted last.
    pub(crate) fn set_received(&mut self, received: u32) {
        self.cipher.resume(Counters {
            sent: self.sent(),
            received: Some(received),
        });
    }

    /// An APDU with a counter of the test's choice; one's own counters stay where they are.
    pub(crate) fn protect(&self, apdu: &[u8], protection: Protection, counter: u32) -> Vec<u8> {
        self.protect_as(apdu, protection, SecurityControl::AUTH_ENC, counter)
    }

    pub(crate) fn protect_as(
        &self,
        apdu: &[u8],
        protection: Protection,
        control: SecurityControl,
        counter: u32,
    ) -> Vec<u8> {
        let mut twin = self.clone();
        twin.set_sent(counter - 1);
        let op = CipherOp::Protect {
            apdu: apdu.to_vec(),
            protection,
            control,
            signed: false,
        };
        match twin.cipher.run(op) {
            Ok(CipherOutput::Apdu(apdu, spent)) if spent == counter => apdu,
            other => panic!("no APDU: {other:?}"),
        }
    }

    /// An HLS5 token with a counter of the test's choice.
    pub(crate) fn token(&self, challenge: &[u8], counter: u32) -> Vec<u8> {
        let mut twin = self.clone();
        twin.set_sent(counter - 1);
        let op = CipherOp::Answer {
            peer_certificate: None,
            mechanism: Mechanism::HlsGmac,
            challenge: challenge.to_vec(),
            own_challenge: vec![],
            peer_title: SystemTitle::new([0xFE; 8]),
            suite: self.setup.suite,
        };
        match twin.cipher.run(op) {
            Ok(CipherOutput::Token(token)) => token,
            other => panic!("no token: {other:?}"),
        }
    }

    pub(crate) fn run(&mut self, op: CipherOp) -> Result<CipherOutput, CipherFailure> {
        if let Some(failure) = self.fails.take() {
            return Err(failure);
        }
        if matches!(op, CipherOp::Unprotect { .. })
            && let Some(plain) = self.opens_as.take()
        {
            return Ok(CipherOutput::Apdu(plain, 99));
        }
        let sent = self.sent();
        let answers = matches!(op, CipherOp::Answer { .. });
        let output = self.cipher.run(op);
        if answers && self.token_shares_counter {
            self.set_sent(sent);
        }
        output
    }
}
