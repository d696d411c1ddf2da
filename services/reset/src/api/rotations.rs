//! `latchkey.reset.v1.KeyRotationService`.

use futures::stream::{self, BoxStream, StreamExt as _};
use kit::peer;
use latchkey_proto::{
    audit::v1::Purpose,
    reset::v1::{
        GetKeyRotationRequest, GetKeyRotationResponse, KeyRotation, ListKeyRotationsRequest,
        ListKeyRotationsResponse, RetryKeyRotationRequest, RetryKeyRotationResponse,
        RotateKeysRequest, RotateKeysResponse, WatchKeyRotationRequest, WatchKeyRotationResponse,
        key_rotation_service_server::KeyRotationService,
    },
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{Api, Asked};
use crate::{
    error::Error,
    rotation::{self, Rotation, State},
    store::CreatedRotation,
};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1000;

#[tonic::async_trait]
impl KeyRotationService for Api {
    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        let principal = peer(&request).to_string();
        let request = request.into_inner();
        match self.create_rotation(&request, &principal).await {
            Ok(rotation) => Ok(Response::new(RotateKeysResponse {
                rotation: Some(rotation),
            })),
            Err(error) => {
                let asked = Asked {
                    principal,
                    purpose: Purpose::Rekey,
                    meter_id: request.meter_id,
                    reason: request.reason,
                    ticket: request.ticket,
                    ..Asked::default()
                };
                Err(self.refuse(asked, error).await)
            }
        }
    }

    async fn get_key_rotation(
        &self,
        request: Request<GetKeyRotationRequest>,
    ) -> Result<Response<GetKeyRotationResponse>, Status> {
        let rotation = self.rotation(&request.into_inner().rotation_id).await?;
        Ok(Response::new(GetKeyRotationResponse {
            rotation: Some(rotation.message()),
        }))
    }

    async fn list_key_rotations(
        &self,
        request: Request<ListKeyRotationsRequest>,
    ) -> Result<Response<ListKeyRotationsResponse>, Status> {
        let request = request.into_inner();
        let size = match request.page_size {
            0 => PAGE_DEFAULT,
            size @ 1..=PAGE_MAX => size,
            _ => return Err(Error::field("page_size", "must be 0..1000").into()),
        };
        if !request.page_token.is_empty() {
            kit::check::uuid(&request.page_token).map_err(|why| Error::field("page_token", why))?;
        }
        let of = (request.meter_id.as_str(), request.active_only);
        let rows = self
            .deps
            .store
            .list_rotations(of, &request.page_token, i64::from(size))
            .await
            .map_err(Status::from)?;
        let full = u32::try_from(rows.len()).is_ok_and(|count| count == size);
        let last = rows.last().filter(|_| full);
        Ok(Response::new(ListKeyRotationsResponse {
            next_page_token: last
                .map(|row| row.asked.rotation_id.clone())
                .unwrap_or_default(),
            rotations: rows.iter().map(Rotation::message).collect(),
        }))
    }

    type WatchKeyRotationStream = BoxStream<'static, Result<WatchKeyRotationResponse, Status>>;

    async fn watch_key_rotation(
        &self,
        request: Request<WatchKeyRotationRequest>,
    ) -> Result<Response<Self::WatchKeyRotationStream>, Status> {
        let rotation_id = request.into_inner().rotation_id;
        // First, so that no change is missed between the two.
        let changed = self.clerk.subscribe(&rotation_id);
        let rotation = self.rotation(&rotation_id).await?;
        let watcher = Watcher {
            api: self.clone(),
            told: None,
            rotation,
            changed,
        };
        let changes = stream::try_unfold(watcher, |mut watcher| async move {
            match watcher.next().await {
                Ok(Some(rotation)) => Ok(Some((
                    WatchKeyRotationResponse {
                        rotation: Some(rotation),
                    },
                    watcher,
                ))),
                Ok(None) => Ok(None),
                Err(error) => Err(Status::from(error)),
            }
        });
        Ok(Response::new(changes.boxed()))
    }

    async fn retry_key_rotation(
        &self,
        request: Request<RetryKeyRotationRequest>,
    ) -> Result<Response<RetryKeyRotationResponse>, Status> {
        let rotation = self.rotation(&request.into_inner().rotation_id).await?;
        if rotation.state == State::Done {
            return Err(Error::RotationOver(rotation.asked.rotation_id).into());
        }
        if !self.clerk.poke(&rotation.asked.rotation_id) {
            return Err(Error::Stopping.into());
        }
        Ok(Response::new(RetryKeyRotationResponse {
            rotation: Some(rotation.message()),
        }))
    }
}

/// Tells a rotation whenever it has changed.
struct Watcher {
    api: Api,
    /// The version that was told last.
    told: Option<i64>,
    rotation: Rotation,
    changed: Option<watch::Receiver<()>>,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<KeyRotation>, Error> {
        loop {
            if self.told != Some(self.rotation.version) {
                self.told = Some(self.rotation.version);
                return Ok(Some(self.rotation.message()));
            }
            if self.rotation.state == State::Done {
                return Ok(None);
            }
            // Nobody carries it on: the service stops.
            let Some(changed) = &mut self.changed else {
                return Ok(None);
            };
            tokio::select! {
                news = changed.changed() => if news.is_err() {
                    self.changed = None;
                },
                () = self.api.shutdown.fired() => return Ok(None),
            }
            let rotation_id = &self.rotation.asked.rotation_id;
            if let Some(rotation) = self.api.deps.store.rotation(rotation_id).await? {
                self.rotation = rotation;
            }
        }
    }
}

impl Api {
    async fn create_rotation(
        &self,
        request: &RotateKeysRequest,
        principal: &str,
    ) -> Result<KeyRotation, Error> {
        let asked = rotation::Asked::parse(request, principal)?;
        self.deps.meters.meter(&asked.meter_id).await?;
        // Policy first: what it refuses is not even stored. The permit is asked for when it is used.
        self.deps
            .office
            .authorise(self.clerk.rehearsal(&asked))
            .await
            .map_err(Error::Upstream)?;
        let rotation = Rotation::new(asked);
        match self.deps.store.create_rotation(&rotation).await? {
            CreatedRotation::New => {
                let message = rotation.message();
                self.clerk.start(rotation);
                Ok(message)
            }
            CreatedRotation::Known(known) => {
                match known.asked.request_digest == rotation.asked.request_digest {
                    true => Ok(known.message()),
                    false => Err(Error::RequestReused(rotation.asked.request_id)),
                }
            }
            CreatedRotation::UnderWay(other) => Err(Error::RotationUnderWay {
                meter_id: rotation.asked.meter_id,
                rotation_id: other,
            }),
        }
    }

    async fn rotation(&self, rotation_id: &str) -> Result<Rotation, Error> {
        kit::check::uuid(rotation_id).map_err(|why| Error::field("rotation_id", why))?;
        let rotation = self.deps.store.rotation(rotation_id).await?;
        rotation.ok_or_else(|| Error::RotationUnknown(rotation_id.to_owned()))
    }
}
