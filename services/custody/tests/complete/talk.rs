//! One association: custody on one side, a meter with the laboratory cipher on the other, the test between them.

use dlms::{
    ActionResult, CipherFailure, CipherOp, CipherOutput, Conformance, Data, KeyChoice, Mechanism,
    Protection, Response, SecurityControl, Suite, SystemTitle,
    agreement::AlgorithmId,
    initiate::{InitiateRequest, InitiateResponse},
};
use latchkey_proto::{
    audit::v1::{Command, Permit},
    custody::v1::{
        AlgorithmId as PbAlgorithmId, ImportLabKeysRequest, KeyInfo, Mechanism as PbMechanism,
        OpenContextRequest, OpenContextResponse, Protection as PbProtection, Security,
        SecurityPolicy,
    },
};
use softcipher::{Keys, Secret, Setup, SoftCipher};
use tonic::Status;

use crate::{
    House,
    support::{Association, CLIENT, PASSWORD, SERVER, permit},
};

/// A meter: what it holds, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Meter {
    pub(crate) id: String,
    pub(crate) suite: Suite,
    pub(crate) cipher: SoftCipher,
    /// As it is imported.
    pub(crate) request: ImportLabKeysRequest,
}

/// How an association is secured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) mechanism: Mechanism,
    pub(crate) protection: Protection,
    pub(crate) authenticated: bool,
    pub(crate) encrypted: bool,
    pub(crate) signed: bool,
    pub(crate) algorithm_id: AlgorithmId,
}

pub(crate) fn how(mechanism: Mechanism, protection: Protection) -> How {
    How {
        mechanism,
        protection,
        authenticated: true,
        encrypted: true,
        signed: false,
        algorithm_id: AlgorithmId::Standard,
    }
}

pub(crate) fn client() -> SystemTitle {
    SystemTitle::new(CLIENT)
}

pub(crate) fn server() -> SystemTitle {
    SystemTitle::new(SERVER)
}

impl Meter {
    /// A meter with everything its suite has, keys of its own, and enrolled for every mechanism.
    pub(crate) fn new(house: &House, id: &str, suite: Suite) -> Self {
        let seed = id.bytes().fold(u64::from(suite.id()), |seed, octet| {
            seed.wrapping_mul(257).wrapping_add(octet.into())
        });
        // The client's half of the pair stays unused: custody's keys are the token's.
        let (_, mut keys) = Keys::pair(suite, seed);
        if let Some(client) = house
            .client_keys
            .get(usize::from(suite.id()).wrapping_sub(1))
        {
            keys.peer_signing = softcipher::PublicKey::from_octets(&client.signing_key);
            keys.peer_agreement = softcipher::PublicKey::from_octets(&client.agreement_key);
        } else {
            (keys.signing, keys.agreement) = (None, None);
            (keys.peer_signing, keys.peer_agreement) = (None, None);
        }
        Self::with(id, suite, keys, AlgorithmId::Standard)
    }

    pub(crate) fn with(id: &str, suite: Suite, keys: Keys, algorithm_id: AlgorithmId) -> Self {
        let clear = |secret: &Option<Secret>| secret.as_ref().unwrap().expose().to_vec();
        let public = |key: &Option<softcipher::PrivateKey>| {
            key.as_ref()
                .map(|key| key.public().octets())
                .unwrap_or_default()
        };
        let mechanisms = [
            PbMechanism::Low,
            PbMechanism::HlsMd5,
            PbMechanism::HlsSha1,
            PbMechanism::HlsGmac,
            PbMechanism::HlsSha256,
            PbMechanism::HlsEcdsa,
        ];
        let request = ImportLabKeysRequest {
            meter_id: id.to_owned(),
            client_system_title: CLIENT.to_vec(),
            server_system_title: SERVER.to_vec(),
            encryption_key: clear(&keys.encryption),
            authentication_key: clear(&keys.authentication),
            password: PASSWORD.to_vec(),
            security_suite: suite.id().into(),
            hls_secret: clear(&keys.hls_secret),
            key_encryption_key: clear(&keys.master),
            server_signing_key: public(&keys.signing),
            server_agreement_key: public(&keys.agreement),
            mechanisms: mechanisms.map(Into::into).to_vec(),
            policies: [SecurityPolicy::Authenticated, SecurityPolicy::Encrypted]
                .map(Into::into)
                .to_vec(),
            ..ImportLabKeysRequest::default()
        };
        let setup = Setup {
            peer: Some(client()),
            algorithm_id,
            ..Setup::new(suite, server())
        };
        let mut cipher = SoftCipher::new(setup, keys).unwrap();
        // Its own counters began long ago.
        cipher.resume(softcipher::Counters {
            sent: 5000,
            received: None,
        });
        Self {
            id: id.to_owned(),
            suite,
            cipher,
            request,
        }
    }

    /// Its keys in custody.
    pub(crate) async fn enrolled(self, house: &House) -> Self {
        let mut keys = house.bed.keys(house.running.address);
        keys.import_lab_keys(self.request.clone()).await.unwrap();
        self
    }

    /// The same without keys for ciphering.
    pub(crate) fn bare(mut self) -> Self {
        self.request.encryption_key.clear();
        self.request.authentication_key.clear();
        self.request.key_encryption_key.clear();
        self
    }
}

/// An association.
pub(crate) struct Talk {
    pub(crate) association: Association,
    pub(crate) opened: OpenContextResponse,
    pub(crate) meter: Meter,
    pub(crate) how: How,
    /// What was told of the counter of the request protected last.
    pub(crate) counter: u32,
}

impl Talk {
    /// Opens a context under a permit of these commands.
    pub(crate) async fn open(
        house: &House,
        meter: Meter,
        how: How,
        commands: Vec<Command>,
    ) -> Result<Self, Status> {
        Self::under(house, meter, how, &permit_of(&commands)).await
    }

    pub(crate) async fn under(
        house: &House,
        meter: Meter,
        how: How,
        permit: &Permit,
    ) -> Result<Self, Status> {
        let permit = Permit {
            meter_id: meter.id.clone(),
            ..permit.clone()
        };
        let request = OpenContextRequest {
            permit: Some(house.bed.auditor.sign(&permit)),
            meter_id: meter.id.clone(),
            mechanism: mechanism(how.mechanism).into(),
            protection: protection(how.protection).into(),
            security: Some(security(meter.suite, how)),
            rotation_keys: 0,
        };
        let (association, opened) = Association::open_as(&house.custody, request).await?;
        Ok(Self {
            association,
            opened,
            meter,
            how,
            counter: 0,
        })
    }

    /// The same, and everything up to the first command.
    pub(crate) async fn established(
        house: &House,
        meter: Meter,
        how: How,
        commands: Vec<Command>,
    ) -> Self {
        let mut talk = Self::open(house, meter, how, commands).await.unwrap();
        talk.establish().await.unwrap();
        talk
    }

    pub(crate) fn control(&self) -> SecurityControl {
        SecurityControl::of(self.meter.suite, self.how.authenticated, self.how.encrypted)
    }

    fn is_ciphered(&self) -> bool {
        self.how.protection.is_ciphered()
    }

    /// A request on its way: through custody, and as the meter reads it.
    pub(crate) async fn send(&mut self, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let (apdu, counter) = self.association.protect(request).await?;
        self.counter = counter;
        Ok(self.meter_reads(apdu).unwrap())
    }

    pub(crate) fn meter_reads(&mut self, apdu: Vec<u8>) -> Result<Vec<u8>, CipherFailure> {
        let read = self.meter.cipher.run(CipherOp::Unprotect {
            apdu,
            peer_title: client(),
            protection: self.how.protection,
            control: self.control(),
            signed: self.how.signed,
        })?;
        match read {
            CipherOutput::Apdu(apdu, _) => Ok(apdu),
            other => panic!("{other:?}"),
        }
    }

    /// What the meter sends for a plaintext.
    pub(crate) fn meter_sends(&mut self, plain: &[u8]) -> Vec<u8> {
        let how = self.how;
        self.meter_sends_as(plain, how)
    }

    pub(crate) fn meter_sends_as(&mut self, plain: &[u8], how: How) -> Vec<u8> {
        let sent = self.meter.cipher.run(CipherOp::Protect {
            apdu: plain.to_vec(),
            protection: how.protection,
            control: SecurityControl::of(self.meter.suite, how.authenticated, how.encrypted),
            signed: how.signed,
        });
        match sent.unwrap() {
            CipherOutput::Apdu(apdu, _) => apdu,
            other => panic!("{other:?}"),
        }
    }

    /// A response on its way back.
    pub(crate) async fn receive(&mut self, plain: &[u8]) -> Result<Vec<u8>, Status> {
        let apdu = self.meter_sends(plain);
        self.association.unprotect(apdu).await
    }

    /// AARQ and AARE.
    pub(crate) async fn initiate(&mut self) -> Result<(), Status> {
        let request = InitiateRequest::new(Conformance::new(0x10), 1024);
        let read = self.send(request.encode()).await?;
        let mut read = InitiateRequest::decode(&read).unwrap();
        let dedicated = read.dedicated_key.take();
        assert_eq!(read, request, "all else is as it was");
        let expected = self.how.protection.is_dedicated();
        assert_eq!(
            dedicated.as_ref().map(Vec::len),
            expected.then_some(self.meter.suite.key_len())
        );
        let response = InitiateResponse::new(Conformance::new(0x10), 1024).encode();
        assert_eq!(self.receive(&response).await?, response);
        Ok(())
    }

    /// AARQ, AARE, and HLS if there is any.
    pub(crate) async fn establish(&mut self) -> Result<(), Status> {
        self.initiate().await?;
        if self.how.mechanism.is_high_level() {
            let challenge = [0xA5; 40];
            let token = self.association.answer(&challenge, SERVER).await?;
            self.reply(&challenge, token).await?;
        }
        Ok(())
    }

    /// HLS passes 3 and 4: the meter checks our token and makes its own.
    pub(crate) async fn reply(&mut self, challenge: &[u8], token: Vec<u8>) -> Result<(), Status> {
        let (ours, suite) = (self.association.challenge.clone(), self.meter.suite);
        let verify = CipherOp::Verify {
            mechanism: self.how.mechanism,
            token: token.clone(),
            challenge: challenge.to_vec(),
            peer_challenge: ours.clone(),
            peer_title: client(),
            suite,
        };
        assert_eq!(self.meter.cipher.run(verify), Ok(CipherOutput::Verified));
        let apdu = self
            .association
            .action_apdu(dlms::Method::REPLY_TO_HLS, Some(Data::OctetString(token)));
        assert_eq!(self.send(apdu.clone()).await?, apdu);
        let theirs = self.meter_answers(challenge);
        let answer = Response::Action {
            invoke: self.association.invoke(),
            result: ActionResult::new(0),
            data: Some(Ok(Data::OctetString(theirs.clone()))),
        };
        self.receive(&answer.encode()).await?;
        self.association.verify(theirs).await
    }

    /// f(CtoS).
    pub(crate) fn meter_answers(&mut self, challenge: &[u8]) -> Vec<u8> {
        let answer = CipherOp::Answer {
            peer_certificate: None,
            mechanism: self.how.mechanism,
            challenge: self.association.challenge.clone(),
            own_challenge: challenge.to_vec(),
            peer_title: client(),
            suite: self.meter.suite,
        };
        match self.meter.cipher.run(answer).unwrap() {
            CipherOutput::Token(token) => token,
            other => panic!("{other:?}"),
        }
    }

    /// A GET and its answer.
    pub(crate) async fn read(
        &mut self,
        class_id: u16,
        name: &str,
        index: i8,
    ) -> Result<(), Status> {
        let apdu = self.association.get_apdu(class_id, name, index);
        assert_eq!(self.send(apdu.clone()).await?, apdu);
        let value = self.association.value(Data::Boolean(true));
        if self.is_ciphered() {
            assert_eq!(self.receive(&value).await?, value);
        }
        Ok(())
    }
}

pub(crate) fn permit_of(commands: &[Command]) -> Permit {
    permit("", commands.to_vec())
}

fn mechanism(mechanism: Mechanism) -> PbMechanism {
    match mechanism {
        Mechanism::None => PbMechanism::None,
        Mechanism::Low => PbMechanism::Low,
        Mechanism::HlsManufacturer => PbMechanism::Unspecified,
        Mechanism::HlsMd5 => PbMechanism::HlsMd5,
        Mechanism::HlsSha1 => PbMechanism::HlsSha1,
        Mechanism::HlsGmac => PbMechanism::HlsGmac,
        Mechanism::HlsSha256 => PbMechanism::HlsSha256,
        Mechanism::HlsEcdsa => PbMechanism::HlsEcdsa,
    }
}

fn protection(protection: Protection) -> PbProtection {
    match protection {
        Protection::Plain => PbProtection::Plain,
        Protection::Glo => PbProtection::Glo,
        Protection::GeneralGlo => PbProtection::GeneralGlo,
        Protection::Ded => PbProtection::Ded,
        Protection::GeneralDed => PbProtection::GeneralDed,
        Protection::GeneralCiphering(_) => PbProtection::GeneralCiphering,
    }
}

fn security(suite: Suite, how: How) -> Security {
    let key_info = match how.protection {
        Protection::GeneralCiphering(KeyChoice::Wrapped) => KeyInfo::Wrapped,
        Protection::GeneralCiphering(KeyChoice::OnePass) => KeyInfo::AgreedOnePass,
        Protection::GeneralCiphering(KeyChoice::Static) => KeyInfo::AgreedStatic,
        _ => KeyInfo::Unspecified,
    };
    let policy = match (how.authenticated, how.encrypted) {
        (true, true) => SecurityPolicy::AuthenticatedEncrypted,
        (true, false) => SecurityPolicy::Authenticated,
        (false, _) => SecurityPolicy::Encrypted,
    };
    Security {
        suite: suite.id().into(),
        policy: policy.into(),
        signed: how.signed,
        key_info: key_info.into(),
        algorithm_id: match how.algorithm_id {
            AlgorithmId::Standard => PbAlgorithmId::Unspecified,
            AlgorithmId::Legacy => PbAlgorithmId::Legacy,
        }
        .into(),
    }
}
