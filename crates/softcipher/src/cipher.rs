//! Jobs, done.

use dlms::{
    CipherFailure, CipherOp, CipherOutput, Ciphered, Protection, SecurityControl, Suite,
    SystemTitle,
    agreement::{AlgorithmId, KeyId},
    security::{Envelope, GeneralHeader, GeneralSigning, aad, plain_tag},
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Counters, KeyError, Keys, Secret,
    gcm::{Gcm, Seal, clear},
    hls::Challenge,
    random::Random,
    space::Space,
};

/// What one side is like, besides its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// The suite of all its keys. Jobs of another are refused.
    pub suite: Suite,
    /// Its own system title.
    pub own: SystemTitle,
    /// The only peer it deals with; absent means whoever the jobs name.
    pub peer: Option<SystemTitle>,
    /// How AlgorithmID is written when a key is derived.
    pub algorithm_id: AlgorithmId,
    /// Width of the receive windows: 1 for counters that rise strictly, up to 64.
    pub window: u32,
}

impl Setup {
    /// Any peer, the standard's AlgorithmID, counters that rise strictly.
    #[must_use]
    pub const fn new(suite: Suite, own: SystemTitle) -> Self {
        Self {
            suite,
            own,
            peer: None,
            algorithm_id: AlgorithmId::Standard,
            window: 1,
        }
    }
}

/// One end of associations with one peer: its keys, their counters, and the association that runs.
#[derive(Clone)]
pub struct SoftCipher {
    pub(crate) suite: Suite,
    pub(crate) own: SystemTitle,
    pub(crate) algorithm_id: AlgorithmId,
    pub(crate) keys: Keys,
    pub(crate) random: Random,
    /// Keys that were transferred or agreed, not in force yet.
    pub(crate) staged: Vec<(KeyId, Secret)>,
    pub(crate) session: Session,
    peer: Option<SystemTitle>,
    window: u32,
    unicast: Option<Space>,
    broadcast: Option<Space>,
}

/// What belongs to one association: its dedicated key, and whom it is with. A [`SoftCipher`] has one of its own; who
/// serves several at once keeps one for each: see [`SoftCipher::run_in`].
#[derive(Clone, Default)]
pub struct Session {
    /// Whom the last job named: keys are agreed with him.
    pub(crate) met: Option<SystemTitle>,
    /// The transaction of the last general APDU received: an answer repeats it.
    pub(crate) transaction: Option<Vec<u8>>,
    pub(crate) dedicated: Option<Box<Space>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?}, ..)", self.met)
    }
}

impl std::fmt::Debug for SoftCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftCipher")
            .field("own", &self.own)
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

impl SoftCipher {
    /// With these keys, whose counters begin anew: see [`Self::resume`].
    ///
    /// # Errors
    /// A key that does not belong to the suite.
    pub fn new(setup: Setup, keys: Keys) -> Result<Self, KeyError> {
        keys.check(setup.suite)?;
        let mut cipher = Self {
            suite: setup.suite,
            own: setup.own,
            algorithm_id: setup.algorithm_id,
            keys,
            random: Random::System,
            staged: Vec::new(),
            session: Session::default(),
            peer: setup.peer,
            window: setup.window,
            unicast: None,
            broadcast: None,
        };
        cipher.unicast = cipher.space(cipher.keys.encryption.as_ref());
        cipher.broadcast = cipher.space(cipher.keys.broadcast.as_ref());
        Ok(cipher)
    }

    /// Draws its random keys from a seed: for tests that must run the same way again. Never with keys that matter.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        self.random = Random::Seeded { seed, drawn: 0 };
        self
    }

    /// The counters of the global unicast key, to be kept over a restart.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.unicast
            .as_ref()
            .map_or_else(Counters::default, |space| Counters {
                sent: space.sent,
                received: space.received.highest(),
            })
    }

    /// Goes on with counters that were kept. One that is lower than it was means nonces used twice: only a laboratory
    /// that plays such a defect does that.
    pub fn resume(&mut self, counters: Counters) {
        let window = self.window;
        if let Some(space) = &mut self.unicast {
            space.sent = counters.sent;
            space.received = counters.received.map_or_else(
                || dlms::security::ReplayWindow::new(window),
                |highest| dlms::security::ReplayWindow::after(window, highest),
            );
        }
    }

    /// Does one job of an association among several: the keys and their counters are those of all of them.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_in(
        &mut self,
        session: &mut Session,
        op: CipherOp,
    ) -> Result<CipherOutput, CipherFailure> {
        std::mem::swap(&mut self.session, session);
        let output = self.run(op);
        std::mem::swap(&mut self.session, session);
        output
    }

    /// The keys in force, to be kept over a restart.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Does one job.
    ///
    /// # Errors
    /// Why it was not done. Nothing that was not authenticated has changed any counter of the peer.
    pub fn run(&mut self, op: CipherOp) -> Result<CipherOutput, CipherFailure> {
        match op {
            CipherOp::Protect {
                apdu,
                protection,
                control,
                signed,
            } => self.protect(Zeroizing::new(apdu), protection, control, signed),
            CipherOp::Unprotect {
                apdu,
                peer_title,
                protection,
                control,
                signed,
            } => {
                self.admit(peer_title)?;
                self.unprotect(apdu, protection, control, signed)
            }
            CipherOp::Answer {
                mechanism,
                challenge,
                own_challenge,
                peer_title,
                suite,
                ..
            } => {
                let challenge = Challenge {
                    mechanism,
                    received: &challenge,
                    sent: &own_challenge,
                    suite,
                };
                self.answer(&challenge, peer_title).map(CipherOutput::Token)
            }
            CipherOp::Verify {
                mechanism,
                token,
                challenge,
                peer_challenge,
                peer_title,
                suite,
            } => {
                let challenge = Challenge {
                    mechanism,
                    received: &challenge,
                    sent: &peer_challenge,
                    suite,
                };
                self.verify(&challenge, &token, peer_title)?;
                Ok(CipherOutput::Verified)
            }
        }
    }

    /// A peer with our own title would speak under our own nonces.
    pub(crate) fn admit(&mut self, peer: SystemTitle) -> Result<(), CipherFailure> {
        if peer == self.own || self.peer.is_some_and(|only| only != peer) {
            return Err(CipherFailure::AuthFailed);
        }
        self.session.met = Some(peer);
        Ok(())
    }

    pub(crate) fn partner(&self) -> Option<SystemTitle> {
        self.session.met.or(self.peer)
    }

    fn check(&self, control: SecurityControl) -> Result<(), CipherFailure> {
        if control.unsupported().is_some() || control.suite() != Some(self.suite) {
            return Err(CipherFailure::Refused);
        }
        Ok(())
    }

    fn protect(
        &mut self,
        apdu: Zeroizing<Vec<u8>>,
        protection: Protection,
        control: SecurityControl,
        signed: bool,
    ) -> Result<CipherOutput, CipherFailure> {
        let tag = apdu.first().copied().ok_or(CipherFailure::Refused)?;
        let initiates = is_initiate(tag);
        let signed = signed && !initiates;
        let (octets, counter) = if protection == Protection::Plain {
            (apdu.to_vec(), 0)
        } else {
            self.check(control)?;
            let apdu = if protection.is_dedicated() && tag == INITIATE_REQUEST {
                self.dedicate(&apdu, control)?
            } else {
                apdu
            };
            match (protection, initiates) {
                (Protection::GeneralCiphering(choice), false) => {
                    self.seal_general(&apdu, choice, control)?
                }
                (_, _) => self.seal(&apdu, protection, control)?,
            }
        };
        if !signed {
            return Ok(CipherOutput::Apdu(octets, counter));
        }
        let transaction = match counter {
            0 => self.unicast()?.next()?,
            counter => counter,
        };
        let header = self.header(tag, transaction)?;
        let signed = self.sign(header, octets)?;
        Ok(CipherOutput::Apdu(signed, counter))
    }

    /// The InitiateRequest with a fresh dedicated key in it: exactly as large as it becomes, so that no copy is left.
    fn dedicate(
        &mut self,
        apdu: &[u8],
        control: SecurityControl,
    ) -> Result<Zeroizing<Vec<u8>>, CipherFailure> {
        let [INITIATE_REQUEST, 0, rest @ ..] = apdu else {
            return Err(CipherFailure::Refused);
        };
        // a key that travels in clear is none
        if !control.is_encrypted() {
            return Err(CipherFailure::Refused);
        }
        let mut key = Zeroizing::new(vec![0; self.suite.key_len()]);
        self.random.fill(&mut key);
        let length = u8::try_from(key.len()).map_err(|_| CipherFailure::Unavailable)?;
        let room = key.len().saturating_add(rest.len()).saturating_add(3);
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        out.extend_from_slice(&[INITIATE_REQUEST, 1, length]);
        out.extend_from_slice(&key);
        out.extend_from_slice(rest);
        let gcm = Gcm::new(&key).ok_or(CipherFailure::Unavailable)?;
        self.session.dedicated = Some(Box::new(Space::new(gcm, self.window)));
        Ok(out)
    }

    /// The peer's dedicated key, from the InitiateRequest that was just deciphered; without one there is none any more.
    fn learn(&mut self, apdu: &[u8], control: SecurityControl) -> Result<(), CipherFailure> {
        self.session.dedicated = match apdu {
            [INITIATE_REQUEST, 0, ..] => None,
            [INITIATE_REQUEST, _, length, rest @ ..] => {
                let key = rest
                    .split_at_checked(usize::from(*length))
                    .filter(|_| usize::from(*length) == self.suite.key_len())
                    .filter(|_| control.is_encrypted())
                    .and_then(|(key, _)| Gcm::new(key));
                let key = key.ok_or(CipherFailure::Refused)?;
                Some(Box::new(Space::new(key, self.window)))
            }
            _ => return Ok(()),
        };
        Ok(())
    }

    fn seal(
        &mut self,
        apdu: &[u8],
        protection: Protection,
        control: SecurityControl,
    ) -> Result<(Vec<u8>, u32), CipherFailure> {
        let tag = apdu.first().and_then(|tag| protection.tag(*tag));
        let tag = tag.ok_or(CipherFailure::Refused)?;
        let dedicated = protection.is_dedicated() && !is_initiate_of(tag);
        let aad = self.aad(control, apdu)?;
        let title = self.own;
        let space = self.of(control, dedicated)?;
        let counter = space.next()?;
        let seal = Seal {
            control,
            title,
            counter,
            aad: &aad,
        };
        let body = space.gcm.seal(&seal, apdu);
        let body = body.ok_or(CipherFailure::Unavailable)?;
        let title = plain_tag(tag).is_none().then_some(title);
        let ciphered = Ciphered {
            tag,
            title,
            control,
            counter,
            body,
        };
        Ok((ciphered.encode(), counter))
    }

    fn unprotect(
        &mut self,
        apdu: Vec<u8>,
        protection: Protection,
        control: SecurityControl,
        signed: bool,
    ) -> Result<CipherOutput, CipherFailure> {
        let wrong = CipherFailure::AuthFailed;
        let envelope = Envelope::of(&apdu).map_err(|_| wrong)?;
        let initiates = is_initiate_of(envelope.tag);
        let (form, signed) = if initiates && protection.is_ciphered() {
            (Protection::Glo, false)
        } else {
            (protection, signed)
        };
        let asked = form.is_ciphered().then_some(control);
        let named = envelope
            .originator
            .is_none_or(|title| self.session.met == Some(title));
        let ours = envelope.recipient.is_none_or(|title| title == self.own);
        if !envelope.protection.is_as_good_as(form)
            || envelope.signed != signed
            || envelope.control != asked
            || !named
            || !ours
        {
            return Err(wrong);
        }
        let form = envelope.protection;
        if let Some(counter) = envelope.counter {
            self.check(control)?;
            self.of(control, form.is_dedicated())?.check(counter)?;
        }
        let apdu = if signed { self.verified(&apdu)? } else { apdu };
        let (mut plain, counter) = match form {
            Protection::Plain => return Ok(CipherOutput::Apdu(apdu, 0)),
            Protection::GeneralCiphering(_) => self.open_general(&apdu)?,
            Protection::Glo | Protection::GeneralGlo | Protection::Ded | Protection::GeneralDed => {
                self.open(&apdu, form)?
            }
        };
        // what is inside must be what this form is for: no other service, nothing ciphered twice
        let inside = plain.first().and_then(|tag| form.tag(*tag));
        if inside != Some(envelope.tag) {
            plain.zeroize();
            return Err(wrong);
        }
        if plain.first() == Some(&INITIATE_REQUEST) {
            self.learn(&plain, control)?;
        }
        Ok(CipherOutput::Apdu(plain, counter))
    }

    fn open(&mut self, apdu: &[u8], form: Protection) -> Result<(Vec<u8>, u32), CipherFailure> {
        let wrong = CipherFailure::AuthFailed;
        let Ciphered {
            control,
            counter,
            body,
            ..
        } = Ciphered::decode(apdu).map_err(|_| wrong)?;
        let title = self.session.met.ok_or(wrong)?;
        let aad = self.aad(control, clear(control, &body))?;
        let space = self.of(control, form.is_dedicated())?;
        let seal = Seal {
            control,
            title,
            counter,
            aad: &aad,
        };
        let plain = space.gcm.open(&seal, &body).ok_or(wrong)?;
        space.received.record(counter);
        Ok((plain, counter))
    }

    fn aad(
        &self,
        control: SecurityControl,
        clear: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CipherFailure> {
        Ok(Zeroizing::new(aad(control, self.ak(control)?, clear)))
    }

    /// The authentication key, where it is needed.
    pub(crate) fn ak(&self, control: SecurityControl) -> Result<&[u8], CipherFailure> {
        match &self.keys.authentication {
            Some(key) => Ok(key.expose()),
            None if control.is_authenticated() => Err(CipherFailure::Unavailable),
            None => Ok(&[]),
        }
    }

    /// Verifies a signed APDU, and takes it out.
    fn verified(&mut self, apdu: &[u8]) -> Result<Vec<u8>, CipherFailure> {
        let signing = GeneralSigning::decode(apdu).map_err(|_| CipherFailure::AuthFailed)?;
        let key = self.keys.peer_signing.as_ref();
        let key = key.ok_or(CipherFailure::Unavailable)?;
        let named =
            signing.header.originator.is_some() && signing.header.originator == self.session.met;
        if named && key.verify(&signing.signing_input(), &signing.signature) {
            self.session.transaction = Some(signing.header.transaction_id);
            Ok(signing.content)
        } else {
            Err(CipherFailure::AuthFailed)
        }
    }

    fn sign(&self, header: GeneralHeader, content: Vec<u8>) -> Result<Vec<u8>, CipherFailure> {
        let key = self.keys.signing.as_ref();
        let key = key.ok_or(CipherFailure::Unavailable)?;
        let mut signing = GeneralSigning {
            header,
            content,
            signature: Vec::new(),
        };
        signing.signature = key.sign(&signing.signing_input());
        Ok(signing.encode())
    }

    /// The header of a general APDU around a service with this tag: an answer is of its request's transaction.
    pub(crate) fn header(
        &mut self,
        plain_tag: u8,
        transaction: u32,
    ) -> Result<GeneralHeader, CipherFailure> {
        let recipient = self
            .session
            .met
            .or(self.peer)
            .ok_or(CipherFailure::Refused)?;
        let mut header = GeneralHeader::between(self.own, recipient, transaction.into());
        if let (0xC4..=0xC7 | 0xDA, Some(asked)) = (plain_tag, &self.session.transaction) {
            header.transaction_id.clone_from(asked);
        }
        Ok(header)
    }

    pub(crate) fn unicast(&mut self) -> Result<&mut Space, CipherFailure> {
        self.unicast.as_mut().ok_or(CipherFailure::Unavailable)
    }

    fn of(
        &mut self,
        control: SecurityControl,
        dedicated: bool,
    ) -> Result<&mut Space, CipherFailure> {
        let space = match (dedicated, control.is_broadcast()) {
            (true, false) => self.session.dedicated.as_deref_mut(),
            (false, false) => self.unicast.as_mut(),
            (false, true) => self.broadcast.as_mut(),
            (true, true) => return Err(CipherFailure::Refused),
        };
        space.ok_or(CipherFailure::Unavailable)
    }

    /// A key that takes the place of the one before.
    pub(crate) fn install(&mut self, key: KeyId, new: Secret) {
        match key {
            KeyId::GlobalUnicastEncryption => {
                self.unicast = self.space(Some(&new));
                self.keys.encryption = Some(new);
            }
            KeyId::GlobalBroadcastEncryption => {
                self.broadcast = self.space(Some(&new));
                self.keys.broadcast = Some(new);
            }
            KeyId::GlobalAuthentication => self.keys.authentication = Some(new),
            KeyId::Master => self.keys.master = Some(new),
        }
    }

    fn space(&self, key: Option<&Secret>) -> Option<Space> {
        let gcm = Gcm::new(key?.expose())?;
        Some(Space::new(gcm, self.window))
    }
}

const INITIATE_REQUEST: u8 = 0x01;

/// Whether a plaintext APDU is one of an initiate: those always travel under the global key, unsigned.
const fn is_initiate(plain: u8) -> bool {
    matches!(plain, INITIATE_REQUEST | 0x08 | 0x0E)
}

/// The same of a ciphered one.
const fn is_initiate_of(tag: u8) -> bool {
    matches!(tag, 0x21 | 0x28 | 0x2E)
}
