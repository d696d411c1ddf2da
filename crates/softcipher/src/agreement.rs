//! New symmetric keys: transferred under the master key, or agreed by two ephemeral ones (class 64, methods 2 and 3).
//!
//! New keys are staged first, for the answer still goes out under the old ones; [`SoftCipher::commit`] puts them in force.

use dlms::{
    CipherFailure, SystemTitle,
    agreement::{KeyAgreement, KeyId, KeyTransfer, SignedKey},
};

use crate::{
    PrivateKey, PublicKey, Secret, SoftCipher,
    gcm::{unwrap, wrap},
};

/// The client's half of a key agreement under way: its ephemeral key.
pub struct Ephemeral {
    key: KeyId,
    private: PrivateKey,
}

impl std::fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ephemeral({:?}, ..)", self.key)
    }
}

impl SoftCipher {
    /// The client's message of a key transfer: a new key, wrapped under the master key, and staged here.
    ///
    /// # Errors
    /// There is no master key, or the new key has another length than the suite's.
    pub fn transfer(&mut self, key: KeyId, new: Secret) -> Result<KeyTransfer, CipherFailure> {
        let kek = self.keys.master.as_ref();
        let kek = kek.ok_or(CipherFailure::Unavailable)?;
        if new.expose().len() != self.suite.key_len() {
            return Err(CipherFailure::Refused);
        }
        let wrapped = wrap(kek.expose(), new.expose()).ok_or(CipherFailure::Unavailable)?;
        self.staged.push((key, new));
        Ok(KeyTransfer { key, wrapped })
    }

    /// The meter's side of it: unwraps the keys and stages them, all or none.
    ///
    /// # Errors
    /// One was wrapped under another key, was changed, or has another length.
    pub fn transferred(&mut self, items: &[KeyTransfer]) -> Result<(), CipherFailure> {
        let kek = self.keys.master.as_ref();
        let kek = kek.ok_or(CipherFailure::Unavailable)?;
        let open = |item: &KeyTransfer| {
            let key = unwrap(kek.expose(), &item.wrapped)
                .filter(|key| key.expose().len() == self.suite.key_len());
            key.map(|key| (item.key, key))
        };
        let new: Option<Vec<_>> = items.iter().map(open).collect();
        self.staged.extend(new.ok_or(CipherFailure::AuthFailed)?);
        Ok(())
    }

    /// The client's message of a key agreement, and the private half to finish it with.
    ///
    /// # Errors
    /// The suite has no curve, or there is no signing key.
    pub fn propose(&mut self, key: KeyId) -> Result<(KeyAgreement, Ephemeral), CipherFailure> {
        let private = PrivateKey::generate(self.suite, &mut self.random);
        let private = private.ok_or(CipherFailure::Unavailable)?;
        let data = self.signed(key, &private)?;
        Ok((KeyAgreement { key, data }, Ephemeral { key, private }))
    }

    /// Finishes a key agreement with the meter's answer, and stages the key.
    ///
    /// # Errors
    /// The answer is of another key, or not signed by the peer.
    pub fn agreed(
        &mut self,
        ephemeral: &Ephemeral,
        answer: &KeyAgreement,
    ) -> Result<(), CipherFailure> {
        let peer = self.partner().ok_or(CipherFailure::Refused)?;
        if answer.key != ephemeral.key {
            return Err(CipherFailure::AuthFailed);
        }
        let z = self.shared(&ephemeral.private, answer)?;
        let new = self.derive_for(answer.key, &z, &self.own.bytes(), peer);
        self.staged.push((answer.key, new));
        Ok(())
    }

    /// The meter's side of it: answers each proposal, and stages the keys, all or none.
    ///
    /// # Errors
    /// A proposal is not signed by the peer, or a key of our own is missing.
    pub fn accept(&mut self, items: &[KeyAgreement]) -> Result<Vec<KeyAgreement>, CipherFailure> {
        let client: SystemTitle = self.partner().ok_or(CipherFailure::Refused)?;
        let (mut answers, mut new) = (Vec::new(), Vec::new());
        for item in items {
            let private = PrivateKey::generate(self.suite, &mut self.random);
            let private = private.ok_or(CipherFailure::Unavailable)?;
            let z = self.shared(&private, item)?;
            new.push((
                item.key,
                self.derive_for(item.key, &z, &client.bytes(), self.own),
            ));
            let data = self.signed(item.key, &private)?;
            answers.push(KeyAgreement {
                key: item.key,
                data,
            });
        }
        self.staged.append(&mut new);
        Ok(answers)
    }

    /// Puts the staged keys in force. A new encryption key begins with new counters. How many there were.
    pub fn commit(&mut self) -> usize {
        let staged = std::mem::take(&mut self.staged);
        let count = staged.len();
        for (key, new) in staged {
            self.install(key, new);
        }
        count
    }

    /// Forgets the staged keys.
    pub fn discard(&mut self) {
        self.staged.clear();
    }

    fn signed(&self, key: KeyId, private: &PrivateKey) -> Result<SignedKey, CipherFailure> {
        let signing = self.keys.signing.as_ref();
        let public = private.public().octets();
        let signature = signing
            .ok_or(CipherFailure::Unavailable)?
            .sign(&KeyAgreement::signing_input(key, &public));
        Ok(SignedKey { public, signature })
    }

    fn shared(&self, own: &PrivateKey, item: &KeyAgreement) -> Result<Secret, CipherFailure> {
        let signer = self.keys.peer_signing.as_ref();
        let signer = signer.ok_or(CipherFailure::Unavailable)?;
        let input = KeyAgreement::signing_input(item.key, &item.data.public);
        if !signer.verify(&input, &item.data.signature) {
            return Err(CipherFailure::AuthFailed);
        }
        PublicKey::from_octets(&item.data.public)
            .and_then(|public| own.agree(&public))
            .ok_or(CipherFailure::AuthFailed)
    }
}
