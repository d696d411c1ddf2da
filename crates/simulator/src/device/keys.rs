//! New keys, by the methods of the security setup (class 64).

use dlms::{CipherFailure, Data, agreement::KeyAgreement, cosem::security_setup::KEY_TRANSFER};

use crate::{device::Device, logs::code, objects::result};

impl Device {
    /// Method 2, `key_transfer`: keys wrapped with the master key, all or none. They come into force when the
    /// association ends: the answer still goes out under the old ones.
    pub(crate) fn transfer_keys(&mut self, parameter: Option<&Data>) -> Result<(), u8> {
        let keys = KEY_TRANSFER
            .read(parameter)
            .map_err(|_| result::TYPE_UNMATCHED)?;
        self.cipher.transferred(&keys).map_err(refusal)
    }

    /// Method 3, `key_agreement`: each key by two ephemeral ones, signed by their owners (2e0s). As above.
    pub(crate) fn agree_keys(&mut self, parameter: Option<&Data>) -> Result<Data, u8> {
        let suite = self.cipher.suite();
        let items = parameter.and_then(|items| KeyAgreement::from_data(suite, items).ok());
        let items = items.ok_or(result::TYPE_UNMATCHED)?;
        let answers = self.cipher.accept(&items).map_err(refusal)?;
        Ok(KeyAgreement::to_data(&answers))
    }

    /// An association has ended, whichever way.
    pub(crate) fn association_ended(&mut self, now: u64) {
        if self.cipher.close() {
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
