//! `latchkey.custody.v1.CipherService`.

use dlms::security::Protection;
use kit::clock;
use latchkey_proto::custody::v1::{
    AnswerChallengeRequest, AnswerChallengeResponse, CloseContextRequest, CloseContextResponse,
    GetPermitUseRequest, GetPermitUseResponse, Mechanism, OpenContextRequest, OpenContextResponse,
    PermitUse, ProtectRequest, ProtectResponse, Protection as PbProtection, UnprotectRequest,
    UnprotectResponse, VerifyAnswerRequest, VerifyAnswerResponse,
    cipher_service_server::CipherService,
};
use tonic::{Request, Response, Status};

use super::Violations;
use crate::{
    custody::{Custody, Wanted},
    error::Error,
};

/// Longest APDU.
const APDU_MAX: usize = 65_535;
/// Octets of SC || IC || T.
const TOKEN: usize = 17;

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
            client_certificate: Vec::new(),
        }))
    }

    async fn protect(
        &self,
        request: Request<ProtectRequest>,
    ) -> Result<Response<ProtectResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        in_context(&asked.context_id, "apdu", &asked.apdu, 1..=APDU_MAX)?;
        let (apdu, invocation_counter) =
            self.protect(&peer, &asked.context_id, &asked.apdu).await?;
        Ok(Response::new(ProtectResponse {
            apdu,
            invocation_counter,
        }))
    }

    async fn unprotect(
        &self,
        request: Request<UnprotectRequest>,
    ) -> Result<Response<UnprotectResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        in_context(&asked.context_id, "apdu", &asked.apdu, 1..=APDU_MAX)?;
        let apdu = self
            .unprotect(&peer, &asked.context_id, &asked.apdu)
            .await?;
        Ok(Response::new(UnprotectResponse { apdu }))
    }

    async fn answer_challenge(
        &self,
        request: Request<AnswerChallengeRequest>,
    ) -> Result<Response<AnswerChallengeResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        in_context(
            &asked.context_id,
            "server_challenge",
            &asked.server_challenge,
            8..=64,
        )?;
        let (challenge, title) = (&asked.server_challenge, &asked.server_system_title);
        let token = self
            .answer_challenge(&peer, &asked.context_id, challenge, title)
            .await?;
        Ok(Response::new(AnswerChallengeResponse { token }))
    }

    async fn verify_answer(
        &self,
        request: Request<VerifyAnswerRequest>,
    ) -> Result<Response<VerifyAnswerResponse>, Status> {
        let peer = kit::peer(&request);
        let asked = request.into_inner();
        in_context(&asked.context_id, "token", &asked.token, TOKEN..=TOKEN)?;
        self.verify_answer(&peer, &asked.context_id, &asked.token)
            .await?;
        Ok(Response::new(VerifyAnswerResponse {}))
    }

    async fn close_context(
        &self,
        request: Request<CloseContextRequest>,
    ) -> Result<Response<CloseContextResponse>, Status> {
        let peer = kit::peer(&request);
        self.close(&peer, &request.into_inner().context_id).await?;
        Ok(Response::new(CloseContextResponse {}))
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

fn wanted(asked: OpenContextRequest) -> Result<Wanted, Error> {
    let mut violations = Violations::default();
    violations.check("meter_id", kit::check::meter_id(&asked.meter_id));
    let mechanism = asked.mechanism();
    if mechanism == Mechanism::Unspecified {
        violations.check("mechanism", Err("is required".to_owned()));
    }
    let protection = match asked.protection() {
        PbProtection::Plain => Some(Protection::Plain),
        PbProtection::Glo => Some(Protection::Glo),
        PbProtection::GeneralGlo => Some(Protection::GeneralGlo),
        PbProtection::Unspecified
        | PbProtection::Ded
        | PbProtection::GeneralDed
        | PbProtection::GeneralCiphering => None,
    };
    if protection.is_none() {
        violations.check("protection", Err("is required".to_owned()));
    }
    if asked.permit.is_none() {
        violations.check("permit", Err("is required".to_owned()));
    }
    violations.none()?;
    match (asked.permit, protection) {
        (Some(permit), Some(protection)) => Ok(Wanted {
            permit,
            meter_id: asked.meter_id,
            mechanism,
            protection,
        }),
        // Both are named above if they are missing.
        _ => Err(Error::Request(Vec::new())),
    }
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
