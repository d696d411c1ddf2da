//! General-ciphering, with each kind of key.
//!
//! Its counters are those of the global unicast key, whatever key an APDU is under: they rise, so that an APDU that
//! carries its own key cannot be played again either. A peer that begins anew at 0 with each key is not taken.

use dlms::{
    CipherFailure, KeyChoice, SecurityControl, Suite, SystemTitle,
    agreement::{Algorithm, AlgorithmId, KeyId, SignedKey, kdf_input, other_info, party_u_static},
    security::{GeneralCiphering, GeneralHeader, KeyInfo},
};
use sha2::{Digest as _, Sha256, Sha384};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    PrivateKey, PublicKey, Secret, SoftCipher,
    gcm::{Gcm, Seal, clear, unwrap, wrap},
};

/// The key of one APDU.
enum Key {
    Global,
    Own(Secret),
}

impl SoftCipher {
    pub(crate) fn seal_general(
        &mut self,
        apdu: &[u8],
        choice: KeyChoice,
        control: SecurityControl,
    ) -> Result<(Vec<u8>, u32), CipherFailure> {
        // here the key-info says which key it is
        if control.is_broadcast() {
            return Err(CipherFailure::Refused);
        }
        let counter = self.unicast()?.next()?;
        let tag = apdu.first().copied().unwrap_or_default();
        let header = self.header(tag, counter)?;
        let (key, key_info) = self.make(choice, &header)?;
        let aad = Zeroizing::new(header.aad(control, self.ak(control)?, apdu));
        let seal = Seal {
            control,
            title: self.own,
            counter,
            aad: &aad,
        };
        let body = self.gcm(&key)?.seal(&seal, apdu);
        let general = GeneralCiphering {
            header,
            key_info: Some(key_info),
            control,
            counter,
            body: body.ok_or(CipherFailure::Unavailable)?,
        };
        Ok((general.encode(), counter))
    }

    /// Form, control octet, parties and counter were found as they must be.
    pub(crate) fn open_general(&mut self, apdu: &[u8]) -> Result<(Vec<u8>, u32), CipherFailure> {
        let wrong = CipherFailure::AuthFailed;
        let general = GeneralCiphering::decode(apdu).map_err(|_| wrong)?;
        let (control, counter) = (general.control, general.counter);
        let title = general.header.originator.ok_or(wrong)?;
        if control.is_broadcast() {
            return Err(wrong);
        }
        let key = self.find(&general.header, general.key_info.as_ref())?;
        let clear = clear(control, &general.body);
        let aad = Zeroizing::new(general.aad(self.ak(control)?, clear));
        let seal = Seal {
            control,
            title,
            counter,
            aad: &aad,
        };
        let plain = self.gcm(&key)?.open(&seal, &general.body).ok_or(wrong)?;
        self.unicast()?.received.record(counter);
        self.session.transaction = Some(general.header.transaction_id);
        Ok((plain, counter))
    }

    fn gcm(&mut self, key: &Key) -> Result<Gcm, CipherFailure> {
        match key {
            Key::Global => Ok(self.unicast()?.gcm.clone()),
            Key::Own(key) => Gcm::new(key.expose()).ok_or(CipherFailure::Unavailable),
        }
    }

    /// A key for an APDU of ours, and what the receiver is told of it.
    fn make(
        &mut self,
        choice: KeyChoice,
        header: &GeneralHeader,
    ) -> Result<(Key, KeyInfo), CipherFailure> {
        let absent = CipherFailure::Unavailable;
        let recipient = header.recipient.ok_or(CipherFailure::Refused)?;
        match choice {
            KeyChoice::Identified => {
                let key = KeyInfo::Identified(KeyId::GlobalUnicastEncryption);
                Ok((Key::Global, key))
            }
            KeyChoice::Wrapped => {
                let mut key = Secret::new(vec![0; self.suite.key_len()]);
                self.random.fill(key.octets_mut());
                let kek = self.keys.master.as_ref().ok_or(absent)?;
                let wrapped = wrap(kek.expose(), key.expose()).ok_or(absent)?;
                Ok((Key::Own(key), KeyInfo::Wrapped(wrapped)))
            }
            KeyChoice::OnePass => {
                let peer = self.keys.peer_agreement.as_ref().ok_or(absent)?;
                let signing = self.keys.signing.as_ref().ok_or(absent)?;
                let ephemeral = PrivateKey::generate(self.suite, &mut self.random);
                let ephemeral = ephemeral.ok_or(absent)?;
                let public = ephemeral.public().octets();
                let signature = signing.sign(&public);
                let z = ephemeral.agree(peer).ok_or(absent)?;
                let key = self.derive(&z, &self.own.bytes(), recipient);
                let data = SignedKey { public, signature };
                Ok((Key::Own(key), KeyInfo::one_pass(data.encode())))
            }
            KeyChoice::Static => {
                let z = self.static_secret()?;
                let party_u = party_u_static(self.own, &header.transaction_id);
                let key = self.derive(&z, &party_u, recipient);
                Ok((Key::Own(key), KeyInfo::of_static()))
            }
        }
    }

    /// The key of an APDU of the peer's.
    fn find(
        &mut self,
        header: &GeneralHeader,
        key_info: Option<&KeyInfo>,
    ) -> Result<Key, CipherFailure> {
        let (wrong, absent) = (CipherFailure::AuthFailed, CipherFailure::Unavailable);
        let originator = header.originator.ok_or(wrong)?;
        match key_info {
            None | Some(KeyInfo::Identified(KeyId::GlobalUnicastEncryption)) => Ok(Key::Global),
            Some(KeyInfo::Identified(_)) => Err(wrong),
            Some(KeyInfo::Wrapped(wrapped)) => {
                let kek = self.keys.master.as_ref().ok_or(absent)?;
                let key = unwrap(kek.expose(), wrapped).ok_or(wrong)?;
                Ok(Key::Own(key))
            }
            Some(info @ KeyInfo::Agreed { data, .. }) => match info.choice() {
                Some(KeyChoice::OnePass) => {
                    let signed = SignedKey::decode(self.suite, data).map_err(|_| wrong)?;
                    let signer = self.keys.peer_signing.as_ref().ok_or(absent)?;
                    // an ephemeral key that nobody signed would be anybody's
                    if !signer.verify(&signed.public, &signed.signature) {
                        return Err(wrong);
                    }
                    let public = PublicKey::from_octets(&signed.public).ok_or(wrong)?;
                    let own = self.keys.agreement.as_ref().ok_or(absent)?;
                    let z = own.agree(&public).ok_or(wrong)?;
                    Ok(Key::Own(self.derive(&z, &originator.bytes(), self.own)))
                }
                Some(KeyChoice::Static) if data.is_empty() => {
                    let z = self.static_secret()?;
                    let party_u = party_u_static(originator, &header.transaction_id);
                    Ok(Key::Own(self.derive(&z, &party_u, self.own)))
                }
                Some(KeyChoice::Identified | KeyChoice::Wrapped | KeyChoice::Static) | None => {
                    Err(wrong)
                }
            },
        }
    }

    fn static_secret(&self) -> Result<Secret, CipherFailure> {
        let own = self.keys.agreement.as_ref();
        let peer = self.keys.peer_agreement.as_ref();
        own.zip(peer)
            .and_then(|(own, peer)| own.agree(peer))
            .ok_or(CipherFailure::Unavailable)
    }

    /// A content key: party V is the recipient.
    fn derive(&self, z: &Secret, party_u: &[u8], party_v: SystemTitle) -> Secret {
        self.derive_for(KeyId::GlobalUnicastEncryption, z, party_u, party_v)
    }

    pub(crate) fn derive_for(
        &self,
        key: KeyId,
        z: &Secret,
        party_u: &[u8],
        party_v: SystemTitle,
    ) -> Secret {
        let parties = (party_u, &party_v.bytes()[..]);
        derive(self.suite, self.algorithm_id, key, z, parties)
    }
}

/// A key from Z (SP 800-56A, one step: SHA-256, in suite 2 SHA-384) between two parties: the party U that began, as
/// PartyUInfo says it, and V.
#[must_use]
pub fn derive(
    suite: Suite,
    id: AlgorithmId,
    key: KeyId,
    z: &Secret,
    (party_u, party_v): (&[u8], &[u8]),
) -> Secret {
    let info = other_info(id, Algorithm::of(suite, key), party_u, party_v);
    let input = Zeroizing::new(kdf_input(z.expose(), &info));
    let length = suite.key_len();
    match suite {
        Suite::Suite0 | Suite::Suite1 => leftmost(&mut Sha256::digest(&*input), length),
        Suite::Suite2 => leftmost(&mut Sha384::digest(&*input), length),
    }
}

fn leftmost(digest: &mut [u8], length: usize) -> Secret {
    let key = Secret::from(digest.get(..length).unwrap_or_default());
    digest.zeroize();
    key
}
