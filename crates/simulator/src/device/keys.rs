//! New keys, by the methods of the security setup (class 64).

use dlms::{CipherFailure, Data, agreement::KeyAgreement, cosem::security_setup::KEY_TRANSFER};

use crate::{
    device::Device,
    fault::FaultKind,
    logs::code,
    objects::{View, result},
};

impl Device {
    /// Method 2, `key_transfer`: keys wrapped with the master key, all or none. They come into force when the
    /// association ends: the answer still goes out under the old ones.
    pub(crate) fn transfer_keys(&mut self, parameter: Option<&Data>) -> Result<(), u8> {
        self.take_keys()?;
        let keys = KEY_TRANSFER
            .read(parameter)
            .map_err(|_| result::TYPE_UNMATCHED)?;
        if keys.is_empty() {
            return Err(result::TYPE_UNMATCHED);
        }
        self.cipher.transferred(&keys).map_err(refusal)
    }

    /// Method 3, `key_agreement`: each key by two ephemeral ones, signed by their owners (2e0s). As above.
    pub(crate) fn agree_keys(&mut self, parameter: Option<&Data>) -> Result<Data, u8> {
        self.take_keys()?;
        let suite = self.cipher.suite();
        let items = parameter.and_then(|items| KeyAgreement::from_data(suite, items).ok());
        let items = items.filter(|items| !items.is_empty());
        let items = items.ok_or(result::TYPE_UNMATCHED)?;
        let answers = self.cipher.accept(&items).map_err(refusal)?;
        Ok(KeyAgreement::to_data(&answers))
    }

    fn take_keys(&mut self) -> Result<(), u8> {
        match self.fault.strikes(FaultKind::RekeyRefused) {
            true => Err(result::READ_WRITE_DENIED),
            false => Ok(()),
        }
    }

    /// An association of this client has ended, whichever way. Only the one that ciphers can have brought keys.
    pub(crate) fn association_ended(&mut self, view: View, now: u64) {
        if view == View::Management && self.cipher.close() {
            self.log(now, code::KEYS_CHANGED);
            self.tell_counters();
        }
    }
}

/// Nothing of it will ever work with the same octets.
fn refusal(failure: CipherFailure) -> u8 {
    match failure {
        CipherFailure::Unavailable => result::OBJECT_UNAVAILABLE,
        CipherFailure::AuthFailed | CipherFailure::Refused | CipherFailure::Replay { .. } => {
            result::READ_WRITE_DENIED
        }
    }
}

#[cfg(test)]
mod tests {
    use dlms::{Suite, SystemTitle, agreement::KeyId};
    use softcipher::{Keys, Setup, SoftCipher};

    use super::*;
    use crate::{cipher::Cipher, device::tests::device};

    /// Both ends, as they know each other.
    fn ends(suite: Suite) -> (SoftCipher, Device) {
        let mut device = device(None);
        let [client, meter] = [device.titles.client, device.titles.server].map(SystemTitle::new);
        let (own, its) = Keys::pair(suite, 7);
        let end = |own, peer, keys| {
            let setup = Setup {
                peer: Some(peer),
                ..Setup::new(suite, own)
            };
            SoftCipher::new(setup, keys).unwrap()
        };
        device.cipher = Cipher::of(end(meter, client, its), suite, false);
        (end(client, meter, own), device)
    }

    #[test]
    fn keys_are_agreed_on_by_both_ends() {
        for suite in [Suite::Suite1, Suite::Suite2] {
            let (mut client, mut device) = ends(suite);
            assert_eq!(device.cipher.key_methods(), [2, 3]);
            for key in [KeyId::GlobalUnicastEncryption, KeyId::Master] {
                let (proposal, ephemeral) = client.propose(key).unwrap();
                let answer = device.agree_keys(Some(&KeyAgreement::to_data(&[proposal])));
                let answers = KeyAgreement::from_data(suite, &answer.unwrap()).unwrap();
                client.agreed(&ephemeral, &answers[0]).unwrap();
            }
            let before = device.cipher.kept();
            assert!(before.1.is_some(), "kept before they are in force");
            device.association_ended(View::Public, 1);
            let master = &device.cipher.keys().master;
            assert_eq!(*master, Keys::pair(suite, 7).1.master, "not yet");
            device.association_ended(View::Management, 1);
            client.commit();
            assert_eq!(device.cipher.keys().encryption, client.keys().encryption);
            assert_eq!(device.cipher.keys().master, client.keys().master);
            let logged = device.events.entries().back().map(|entry| entry.1);
            assert_eq!(logged, Some(code::KEYS_CHANGED));
        }
    }

    #[test]
    fn a_proposal_that_the_client_did_not_sign_is_refused() {
        let (mut client, mut device) = ends(Suite::Suite1);
        let (mut proposal, _) = client.propose(KeyId::Master).unwrap();
        proposal.key = KeyId::GlobalUnicastEncryption; // its signature is of another
        let answer = device.agree_keys(Some(&KeyAgreement::to_data(&[proposal])));
        assert_eq!(answer, Err(result::READ_WRITE_DENIED));
        for nonsense in [None, Some(&Data::Array(Vec::new())), Some(&Data::Null)] {
            assert_eq!(device.agree_keys(nonsense), Err(result::TYPE_UNMATCHED));
        }
        device.association_ended(View::Management, 1);
        assert_eq!(device.cipher.keys().encryption, client.keys().encryption);
        assert!(device.cipher.kept().1.is_none(), "nothing has changed");
    }
}
