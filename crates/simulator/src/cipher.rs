//! The meter's keys and their counters, as they are kept in NVRAM, and the cipher that uses them.

use std::fmt;

use dlms::{
    CipherFailure, CipherOp, CipherOutput, Ciphered, Protection, SecurityControl, Suite,
    SystemTitle,
    agreement::{KeyAgreement, KeyTransfer},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use softcipher::{Counters, Keys, Secret, Session, Setup, SoftCipher};
use zeroize::Zeroizing;

use crate::{
    MeterOptions,
    fault::{ArmedFault, FaultKind},
};

/// The keys of the meter, the invocation counters of its unicast key, and what faults do to them.
#[derive(Debug)]
pub(crate) struct Cipher {
    soft: SoftCipher,
    suite: Suite,
    /// Whether the keys are others than those of the laboratory.
    changed: bool,
    /// Whether keys wait for the end of the association.
    staged: bool,
    /// The client's counter when the association began: what a lazy meter last wrote to its NVRAM.
    at_open: Option<u32>,
    /// The client's counter before the last APDU.
    before: Option<u32>,
}

impl Cipher {
    /// The keys of the laboratory, or those that were kept; and the counters that were kept.
    pub(crate) fn new(
        options: &MeterOptions,
        counters: KeptCounters,
        kept: Option<KeptKeys>,
    ) -> Result<Self, softcipher::KeyError> {
        let (lab, changed) = (&options.lab_keys, kept.is_some());
        let keys = match kept {
            Some(kept) => kept.into_keys(lab.keys()),
            None => lab.keys(),
        };
        let suite = lab.suite();
        let own = SystemTitle::new(lab.server_system_title());
        let setup = Setup {
            peer: Some(SystemTitle::new(lab.client_system_title())),
            algorithm_id: options.algorithm_id,
            ..Setup::new(suite, own)
        };
        let mut soft = SoftCipher::new(setup, keys)?;
        soft.resume(counters.into());
        Ok(Self::of(soft, suite, changed))
    }

    pub(crate) fn of(soft: SoftCipher, suite: Suite, changed: bool) -> Self {
        Self {
            soft,
            suite,
            changed,
            staged: false,
            at_open: None,
            before: None,
        }
    }

    /// The suite of its keys.
    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// The keys in force.
    pub(crate) fn keys(&self) -> &Keys {
        self.soft.keys()
    }

    /// Does one job of an association.
    pub(crate) fn run(
        &mut self,
        session: &mut Session,
        op: CipherOp,
    ) -> Result<CipherOutput, CipherFailure> {
        let receives = matches!(op, CipherOp::Unprotect { .. });
        let before = self.soft.counters().received;
        let output = self.soft.run_in(session, op)?;
        if receives {
            self.before = before;
        }
        Ok(output)
    }

    /// Makes what is to go out instead of an answer, if a fault of ciphering is armed and it is its turn. The association
    /// value itself would send nothing that is not protected as agreed.
    pub(crate) fn instead(
        &mut self,
        session: &mut Session,
        answer: &CipherOp,
        fault: &mut ArmedFault,
    ) -> Option<Vec<u8>> {
        let mut bent = answer.clone();
        let CipherOp::Protect {
            protection,
            control,
            signed,
            ..
        } = &mut bent
        else {
            return None;
        };
        let change: fn(Vec<u8>) -> Vec<u8> = if fault.strikes(FaultKind::PlainAnswer) {
            (*protection, *signed) = (Protection::Plain, false);
            |apdu| apdu
        } else if fault.strikes(FaultKind::WeakerAnswer) {
            let (suite, encrypted) = (control.suite().unwrap_or_default(), control.is_encrypted());
            *control = SecurityControl::of(suite, !encrypted, encrypted);
            |apdu| apdu
        } else if fault.strikes(FaultKind::ReplayedCounter) {
            let counters = self.soft.counters();
            self.soft.resume(Counters {
                sent: counters.sent.saturating_sub(1),
                ..counters
            });
            |apdu| apdu
        } else if fault.strikes(FaultKind::BadTag) {
            bad_tag
        } else if fault.strikes(FaultKind::WrongSuite) {
            other_suite
        } else {
            return None;
        };
        match self.run(session, bent) {
            Ok(CipherOutput::Apdu(apdu, _)) => Some(change(apdu)),
            Ok(CipherOutput::Token(_) | CipherOutput::Verified) | Err(_) => None,
        }
    }

    /// The client's last accepted counter: what 0.0.43.1.0.255 shows (a client goes on with the one after it).
    pub(crate) fn client(&self) -> u32 {
        self.soft.counters().received.unwrap_or(0)
    }

    /// The meter's last used counter.
    pub(crate) fn server(&self) -> u32 {
        self.soft.counters().sent
    }

    /// An association begins.
    pub(crate) fn open(&mut self) {
        self.at_open = self.soft.counters().received;
    }

    /// An association has ended: keys that were transferred or agreed in it come into force. Whether there were any.
    pub(crate) fn close(&mut self) -> bool {
        self.changed |= self.staged;
        self.staged = false;
        self.soft.commit() > 0
    }

    /// A defect: forgets what the running association counted.
    pub(crate) fn roll_back(&mut self) {
        self.receive(self.at_open);
    }

    /// The last APDU never arrived (it was lost on its way, by command).
    pub(crate) fn unreceive(&mut self) {
        self.receive(self.before);
    }

    fn receive(&mut self, received: Option<u32>) {
        let counters = self.soft.counters();
        self.soft.resume(Counters {
            received,
            ..counters
        });
    }

    /// Which methods of the security setup its keys allow: key transfer with a master key, key agreement with the keys
    /// that both ends sign with.
    pub(crate) fn key_methods(&self) -> &'static [i8] {
        let keys = self.keys();
        let signed = keys.signing.is_some() && keys.peer_signing.is_some();
        match (keys.master.is_some(), signed) {
            (false, false) => &[],
            (true, false) => &[2],
            (false, true) => &[3],
            (true, true) => &[2, 3],
        }
    }

    /// Takes new keys, all or none; they come into force when the association ends.
    pub(crate) fn transferred(&mut self, keys: &[KeyTransfer]) -> Result<(), CipherFailure> {
        self.soft.transferred(keys)?;
        self.staged = true;
        Ok(())
    }

    /// Agrees on new keys, all or none; they come into force when the association ends.
    pub(crate) fn accept(
        &mut self,
        keys: &[KeyAgreement],
    ) -> Result<Vec<KeyAgreement>, CipherFailure> {
        let answers = self.soft.accept(keys)?;
        self.staged = true;
        Ok(answers)
    }

    /// A defect: what was taken is not kept.
    pub(crate) fn forget(&mut self) {
        self.soft.discard();
        self.staged = false;
    }

    /// What must survive the death of the meter. The association does not: its keys are in force after it.
    pub(crate) fn kept(&self) -> (KeptCounters, Option<KeptKeys>) {
        if !self.staged {
            let keys = self.changed.then(|| KeptKeys::of(self.keys()));
            return (self.soft.counters().into(), keys);
        }
        let mut after = self.soft.clone();
        after.commit();
        (after.counters().into(), Some(KeptKeys::of(after.keys())))
    }
}

fn bad_tag(mut apdu: Vec<u8>) -> Vec<u8> {
    if let Some(last) = apdu.last_mut() {
        *last ^= 1;
    }
    apdu
}

fn other_suite(apdu: Vec<u8>) -> Vec<u8> {
    match Ciphered::decode(&apdu) {
        Ok(mut ciphered) => {
            ciphered.control = SecurityControl::new(ciphered.control.octet() ^ 0x01);
            ciphered.encode()
        }
        Err(_) => apdu,
    }
}

/// The counters of the unicast key in NVRAM.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptCounters {
    /// Of the last APDU of the client that was accepted; the next must be above. 0 if there was none.
    received: u32,
    /// Of the last APDU that was sent.
    sent: u32,
}

impl From<Counters> for KeptCounters {
    fn from(counters: Counters) -> Self {
        Self {
            received: counters.received.unwrap_or(0),
            sent: counters.sent,
        }
    }
}

impl From<KeptCounters> for Counters {
    fn from(kept: KeptCounters) -> Self {
        Self {
            sent: kept.sent,
            received: (kept.received > 0).then_some(kept.received),
        }
    }
}

/// Keys in NVRAM: only if they are others than those of the laboratory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptKeys {
    encryption: Option<Hex>,
    authentication: Option<Hex>,
    broadcast: Option<Hex>,
    master: Option<Hex>,
}

impl KeptKeys {
    fn of(keys: &Keys) -> Self {
        let hex = |key: &Option<Secret>| key.clone().map(Hex);
        Self {
            encryption: hex(&keys.encryption),
            authentication: hex(&keys.authentication),
            broadcast: hex(&keys.broadcast),
            master: hex(&keys.master),
        }
    }

    /// The others are those of the laboratory.
    fn into_keys(self, lab: Keys) -> Keys {
        let secret = |key: Option<Hex>| key.map(|Hex(key)| key);
        Keys {
            encryption: secret(self.encryption),
            authentication: secret(self.authentication),
            broadcast: secret(self.broadcast),
            master: secret(self.master),
            ..lab
        }
    }
}

/// A key in a file, in hex.
struct Hex(Secret);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Zeroizing::new(hex::encode(self.0.expose())))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        let octets = hex::decode(text.as_str());
        octets
            .map(|octets| Self(Secret::new(octets)))
            .map_err(|_| D::Error::custom("a key is not hexadecimal"))
    }
}
