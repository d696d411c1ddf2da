//! The reset service: decides and drives resets.
//!
//! ```text
//!  ResetService ───────▶ orders ──▶ store (rows, stories, readings, entries owed)
//!  MeterAccessService ─┐    │         ▲
//!                      │    ▼         │ every transition, before its effect
//!                      │  crew ──▶ driver ⇄ machine (the reset as a value)
//!                      │              │
//!                      ├──────────────┼──▶ office ──▶ auditor (permits, trail)
//!                      └──────────────┴──▶ meters ──▶ association service ──▶ meter
//! ```
//!
//! It sees no key, no APDU and no measured value. A command leaves only under a permit whose intent is in the trail
//! (P1); a lost answer is unknown, never failed, and never sent again without proof (P5); the relay is read and never
//! commanded (P6).

#![forbid(unsafe_code)]

mod api;
mod bluebook;
mod config;
mod crash;
mod crew;
mod denials;
mod driver;
mod effect;
mod error;
mod facts;
mod failure;
mod fit;
mod meter;
mod office;
mod orders;
mod plan;
mod profile;
mod rotation;
mod store;

use std::sync::Arc;

use futures::future::BoxFuture;
use kit::{Listener, Server, Shutdown, StartError, Tasks, Trail};
use latchkey_proto::reset::v1::{
    key_rotation_service_server::KeyRotationServiceServer,
    meter_access_service_server::MeterAccessServiceServer,
    reset_service_server::ResetServiceServer,
};
use tokio::sync::Semaphore;

use crate::{
    api::Api, crew::Crew, denials::Denials, driver::Deps, meter::Meters, office::Office,
    profile::Profiles, rotation::Clerk, store::Store,
};
pub use crate::{config::Config, crash::CRASH_POINTS, error::Error};

/// Runs until `shutdown` fires, then drains and returns. Resets that have not ended go on at the next start.
#[must_use]
pub fn serve(
    config: Config,
    listener: Listener,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), StartError>> {
    Box::pin(run(config, listener, shutdown))
}

async fn run(config: Config, listener: Listener, shutdown: Shutdown) -> Result<(), StartError> {
    let tls = &config.server.tls;
    let auditor = kit::client::channel(&config.auditor, tls)?;
    let trail = Trail::new(auditor.clone());
    let tasks = Tasks::new(shutdown.clone());
    trail.announce(&tasks, "reset", &config);
    trail.watch_certificate(&tasks, tls)?;
    let office = Office::new(auditor, trail);
    let meters = Meters::new(kit::client::channel(&config.association, tls)?);
    let store = Store::new(kit::sql::open(&config.database, store::MIGRATIONS).await?);
    let profiles = Profiles::load(config.profile_dir.as_deref())?;
    let slots = Arc::new(Semaphore::new(config.concurrency));
    let server = config.server.clone();
    let deps = Arc::new(Deps {
        config,
        profiles,
        store,
        meters,
        office,
        slots,
    });
    let crew = Crew::new(deps.clone(), tasks.clone());
    crew.recover().await?;
    let clerk = Clerk::new(deps.clone(), tasks.clone());
    clerk.recover().await?;
    let denials = Denials::new(deps.store.clone(), deps.office.clone());
    tasks.spawn("denials", denials.clone().run(shutdown.clone()));
    let api = Api {
        deps,
        denials,
        crew,
        clerk,
        shutdown: shutdown.clone(),
    };
    let limit = server.max_message_bytes;
    let served = Server::new("reset", &server)?
        .add(ResetServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add(KeyRotationServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add(MeterAccessServiceServer::new(api).max_decoding_message_size(limit))
        .serve(listener, shutdown)
        .await;
    tasks.join().await;
    served
}
