//! `latchkey.custody.v1.CipherService`.

use dlms::{
    KeyChoice, Protection, SecurityControl, Suite,
    agreement::{AlgorithmId, KeyId},
};
use kit::{PeerName, clock};
use latchkey_proto::custody::v1::{
    AlgorithmId as PbAlgorithmId, AnswerChallengeRequest, AnswerChallengeResponse,
    BeginRotationRequest, BeginRotationResponse, CipherRequest, CloseContextRequest,
    CloseContextResponse, GetPermitUseRequest, GetPermitUseResponse, GetRotationRequest,
    GetRotationResponse, HintInvocationCounterRequest, HintInvocationCounterResponse, KeyInfo,
    KeyKind, OpenContextRequest, OpenContextResponse, PermitUse, ProtectRequest, ProtectResponse,
    Protection as PbProtection, Rotation, RotationKeys, RotationState as PbRotationState, Security,
    SecurityPolicy, UnprotectRequest, UnprotectResponse, VerifyAnswerRequest, VerifyAnswerResponse,
    cipher_service_server::CipherService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Violations, mechanism,
    stream::{self, Results},
};
use crate::{
    certificate::DER_MAX,
    custody::{Custody, Wanted},
    error::Error,
    rotation::Which,
    store::{RotationRow, RotationState},
    terms::Terms,
};

/// Longest APDU.
const APDU_MAX: usize = 65_535;
/// Longest answer to a challenge that is looked at.
const TOKEN_MAX: usize = 128;

#[tonic::async_trait]
impl CipherService for Custody {
    async fn open_context(
        &self,
        request: Request<OpenContextRequest>,
    ) -> Result<Response<OpenContextResponse>, Status> {
        let peer = kit::peer(&request);
        let wanted = wanted(request.into_inner())?;
        let mut opened = self.open(&peer, wanted).await?;
        Ok(Response::new(OpenContextResponse {
            context_id: opened.context_id,
            client_system_title: opened.client_title,
            server_system_title: opened.server_title,
            calling_authentication_value: std::mem::take(&mut *opened.authentication_value),
            client_certificate: opened.certificate,
        }))
    }

    async fn protect(
        &self,
        request: Request<ProtectRequest>,
    ) -> Result<Response<ProtectResponse>, Status> {
        let peer = kit::peer(&request);
        let done = self.protect_asked(&peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn unprotect(
        &self,
        request: Request<UnprotectRequest>,
    ) -> Result<Response<UnprotectResponse>, Status> {
        let peer = kit::peer(&request);
        let done = self.unprotect_asked(&peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn answer_challenge(
        &self,
        request: Request<AnswerChallengeRequest>,
    ) -> Result<Response<AnswerChallengeResponse>, Status> {
        let peer = kit::peer(&request);
        let done = self.answer_asked(&peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    async fn verify_answer(
        &self,
        request: Request<VerifyAnswerRequest>,
    ) -> Result<Response<VerifyAnswerResponse>, Status> {
        let peer = kit::peer(&request);
        let done = self.verify_asked(&peer, request.into_inner()).await?;
        Ok(Response::new(done))
    }

    type CipherStream = Results;

    async fn cipher(
        &self,
        request: Request<Streaming<CipherRequest>>,
    ) -> Result<Response<Results>, Status> {
        let peer = kit::peer(&request);
        let results = stream::results(self.clone(), peer, request.into_inner());
        Ok(Response::new(results))
    }

    async fn close_context(
        &self,
        request: Request<CloseContextRequest>,
    ) -> Result<Response<CloseContextResponse>, Status> {
        let peer = kit::peer(&request);
        self.close(&peer, &request.into_inner().context_id).await?;
        Ok(Response::new(CloseContextResponse {}))
    }

    async fn begin_rotation(
        &self,
        request: Request<BeginRotationRequest>,
    ) -> Result<Response<BeginRotationResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let mut violations = Violations::default();
        violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
        if asked.permit.is_none() {
            violations.check("permit", Err("is required".to_owned()));
        }
        violations.none()?;
        let permit = asked.permit.unwrap_or_default();
        let begun = self.begin_rotation(&peer, &permit, &asked.meter_id).await?;
        Ok(Response::new(BeginRotationResponse {
            rotation: Some(rotation(begun.rotation)),
            send: begun.send,
            confirm: begun.confirm,
        }))
    }

    async fn get_rotation(
        &self,
        request: Request<GetRotationRequest>,
    ) -> Result<Response<GetRotationResponse>, Status> {
        let rotation_id = request.into_inner().rotation_id;
        let mut violations = Violations::default();
        violations.check("rotation_id", kit::check::uuid(&rotation_id));
        violations.none()?;
        let row = self.store.rotation(&rotation_id).await?;
        let row = row.ok_or(Error::RotationUnknown)?;
        Ok(Response::new(GetRotationResponse {
            rotation: Some(rotation(row)),
        }))
    }

    async fn hint_invocation_counter(
        &self,
        request: Request<HintInvocationCounterRequest>,
    ) -> Result<Response<HintInvocationCounterResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        let mut violations = Violations::default();
        violations.check("context_id", kit::check::uuid(&asked.context_id));
        violations.none()?;
        let raised = self
            .hint_counter(&peer, &asked.context_id, asked.invocation_counter)
            .await?;
        Ok(Response::new(HintInvocationCounterResponse { raised }))
    }

    async fn get_permit_use(
        &self,
        request: Request<GetPermitUseRequest>,
    ) -> Result<Response<GetPermitUseResponse>, Status> {
        let permit_id = request.into_inner().permit_id;
        let mut violations = Violations::default();
        violations.check("permit_id", kit::check::uuid(&permit_id));
        violations.none()?;
        let (uses, associations) = self.store.permit_use(&permit_id).await?;
        let uses = uses
            .into_iter()
            .map(|used| PermitUse {
                command_index: used.command_index,
                invocation_counter: used.invocation_counter,
                use_time: Some(clock::timestamp(clock::from_micros(used.use_us))),
            })
            .collect();
        Ok(Response::new(GetPermitUseResponse { uses, associations }))
    }
}

/// What calls and jobs of a stream have in common: parse, call, render.
impl Custody {
    pub(super) async fn protect_asked(
        &self,
        peer: &PeerName,
        asked: ProtectRequest,
    ) -> Result<ProtectResponse, Error> {
        in_context(&asked.context_id, "apdu", &asked.apdu, 1..=APDU_MAX)?;
        let (apdu, invocation_counter) =
            self.protect(peer, &asked.context_id, &asked.apdu)
                .await
                .inspect_err(|error| self.fenced(peer, &asked.context_id, error))?;
        Ok(ProtectResponse {
            apdu,
            invocation_counter,
        })
    }

    pub(super) async fn unprotect_asked(
        &self,
        peer: &PeerName,
        asked: UnprotectRequest,
    ) -> Result<UnprotectResponse, Error> {
        in_context(&asked.context_id, "apdu", &asked.apdu, 1..=APDU_MAX)?;
        let apdu = self
            .unprotect(peer, &asked.context_id, &asked.apdu)
            .await
            .inspect_err(|error| self.fenced(peer, &asked.context_id, error))?;
        Ok(UnprotectResponse { apdu })
    }

    pub(super) async fn answer_asked(
        &self,
        peer: &PeerName,
        asked: AnswerChallengeRequest,
    ) -> Result<AnswerChallengeResponse, Error> {
        let (challenge, title) = (&asked.server_challenge, &asked.server_system_title);
        in_context(&asked.context_id, "server_challenge", challenge, 8..=64)?;
        let certificate = &asked.server_certificate;
        in_context(
            &asked.context_id,
            "server_certificate",
            certificate,
            0..=DER_MAX,
        )?;
        let token = self
            .answer_challenge(peer, &asked.context_id, challenge, (title, certificate))
            .await
            .inspect_err(|error| self.fenced(peer, &asked.context_id, error))?;
        Ok(AnswerChallengeResponse { token })
    }

    pub(super) async fn verify_asked(
        &self,
        peer: &PeerName,
        asked: VerifyAnswerRequest,
    ) -> Result<VerifyAnswerResponse, Error> {
        in_context(&asked.context_id, "token", &asked.token, 1..=TOKEN_MAX)?;
        self.verify_answer(peer, &asked.context_id, &asked.token)
            .await
            .inspect_err(|error| self.fenced(peer, &asked.context_id, error))?;
        Ok(VerifyAnswerResponse {})
    }
}

fn rotation(row: RotationRow) -> Rotation {
    let kind = |key| match key {
        KeyId::GlobalUnicastEncryption => KeyKind::GlobalUnicastEncryption,
        KeyId::GlobalBroadcastEncryption => KeyKind::GlobalBroadcastEncryption,
        KeyId::GlobalAuthentication => KeyKind::GlobalAuthentication,
        KeyId::Master => KeyKind::Master,
    };
    let state = match row.state {
        RotationState::New => PbRotationState::New,
        RotationState::Unsettled => PbRotationState::Unsettled,
        RotationState::Active => PbRotationState::Active,
        RotationState::Abandoned => PbRotationState::Abandoned,
    };
    Rotation {
        keys: row.keys.iter().map(|key| kind(key).into()).collect(),
        state: state.into(),
        agreed: row.agreed,
        attempts: row.attempts,
        unproven_openings: row.openings,
        detail: row.detail.chars().take(256).collect(),
        create_time: Some(clock::timestamp(clock::from_micros(row.create_us))),
        rotation_id: row.rotation_id,
        meter_id: row.meter_id,
    }
}

fn wanted(asked: OpenContextRequest) -> Result<Wanted, Error> {
    let mut violations = Violations::default();
    let which = match RotationKeys::try_from(asked.rotation_keys) {
        Ok(RotationKeys::Unspecified) => None,
        Ok(RotationKeys::Old) => Some(Which::Old),
        Ok(RotationKeys::New) => Some(Which::New),
        Err(_) => {
            violations.check("rotation_keys", Err("is not known here".to_owned()));
            None
        }
    };
    violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
    let security = asked.security.unwrap_or_default();
    let mechanism = mechanism(asked.mechanism());
    if mechanism.is_none() {
        violations.check("mechanism", Err("is required".to_owned()));
    }
    let protection = protection(asked.protection(), &security);
    if protection.is_none() {
        violations.check("protection", Err("is required".to_owned()));
    }
    let suite = u8::try_from(security.suite).ok().and_then(Suite::from_id);
    if suite.is_none() {
        let why = "must be 0, 1 or 2".to_owned();
        violations.check("security.suite", Err(why));
    }
    if asked.permit.is_none() {
        violations.check("permit", Err("is required".to_owned()));
    }
    known(&mut violations, &security);
    violations.none()?;
    match (asked.permit, mechanism, protection, suite) {
        (Some(permit), Some(mechanism), Some(protection), Some(suite)) => Ok(Wanted {
            permit,
            meter_id: asked.meter_id,
            which,
            terms: Terms {
                mechanism,
                protection,
                control: control(suite, security.policy()),
                signed: security.signed,
                algorithm_id: match security.algorithm_id() {
                    PbAlgorithmId::Unspecified | PbAlgorithmId::Standard => AlgorithmId::Standard,
                    PbAlgorithmId::Legacy => AlgorithmId::Legacy,
                },
            },
        }),
        // All are named above if they are missing.
        _ => Err(Error::Request(Vec::new())),
    }
}

/// What a newer caller may say, and this program would take for "not said".
fn known(violations: &mut Violations, security: &Security) {
    for (field, known) in [
        (
            "security.policy",
            SecurityPolicy::try_from(security.policy).is_ok(),
        ),
        (
            "security.key_info",
            KeyInfo::try_from(security.key_info).is_ok(),
        ),
        (
            "security.algorithm_id",
            PbAlgorithmId::try_from(security.algorithm_id).is_ok(),
        ),
    ] {
        if !known {
            violations.check(field, Err("is not known here".to_owned()));
        }
    }
}

fn protection(said: PbProtection, security: &Security) -> Option<Protection> {
    let key = match security.key_info() {
        KeyInfo::Unspecified => KeyChoice::Identified,
        KeyInfo::Wrapped => KeyChoice::Wrapped,
        KeyInfo::AgreedOnePass => KeyChoice::OnePass,
        KeyInfo::AgreedStatic => KeyChoice::Static,
    };
    match said {
        PbProtection::Unspecified => None,
        PbProtection::Plain => Some(Protection::Plain),
        PbProtection::Glo => Some(Protection::Glo),
        PbProtection::GeneralGlo => Some(Protection::GeneralGlo),
        PbProtection::Ded => Some(Protection::Ded),
        PbProtection::GeneralDed => Some(Protection::GeneralDed),
        PbProtection::GeneralCiphering => Some(Protection::GeneralCiphering(key)),
    }
}

pub(super) fn control(suite: Suite, policy: SecurityPolicy) -> SecurityControl {
    let (authenticated, encrypted) = match policy {
        SecurityPolicy::Unspecified | SecurityPolicy::AuthenticatedEncrypted => (true, true),
        SecurityPolicy::Authenticated => (true, false),
        SecurityPolicy::Encrypted => (false, true),
    };
    SecurityControl::of(suite, authenticated, encrypted)
}

fn in_context(
    context_id: &str,
    field: &str,
    octets: &[u8],
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<(), Error> {
    let mut violations = Violations::default();
    violations.check("context_id", kit::check::uuid(context_id));
    violations.length(field, octets, &[allowed]);
    violations.none()
}
