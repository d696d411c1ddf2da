//! The auditor: policy, permits, the 4059 allowlist and the trail of everything commanded.
//!
//! It calls nobody. What it signs, it signs with its own token; what it says, it has written before.
//!
//! ```text
//!  Authorise ─▶ policy (Cedar) ─▶ intent in the trail, durable ─▶ permit signed ─▶ answer
//!  Record ────────────────────▶ entry in the trail, durable ───────────────────▶ receipt
//!                                   │
//!                 Merkle tree ◀─────┘──▶ checkpoint signed ─▶ proofs, export
//! ```
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kit::{Health, Listener, Server, Shutdown, StartError, Tasks};
use latchkey_proto::audit::v1::allowlist_service_server::AllowlistServiceServer;
use latchkey_proto::audit::v1::permit_service_server::PermitServiceServer;
use latchkey_proto::audit::v1::trail_service_server::TrailServiceServer;
use tokio::sync::watch;

mod allowlist;
mod api;
mod auditor;
mod config;
mod crash;
mod error;
pub mod policy;
mod request;
mod sequencer;
mod signer;
mod store;
mod trail;

pub use allowlist::Network;
pub use config::{Config, Reporter, Role, Seed, Side};
pub use crash::CRASH_POINTS;
pub use error::{Error, StartFault};

use api::Api;
use auditor::Auditor;
use policy::Policy;
use sequencer::Writer;
use signer::{Keys, Sign};
use store::Store;
use trail::Trail;

/// How often a checkpoint is signed while entries come in. Whoever asks for one gets it at once.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Runs the auditor until `shutdown` fires, then lets running requests end.
#[must_use]
pub fn serve(
    config: Config,
    listener: Listener,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), StartError>> {
    Box::pin(run(config, listener, shutdown))
}

async fn run(config: Config, listener: Listener, shutdown: Shutdown) -> Result<(), StartError> {
    let token = hsm::Token::open(&config.token, hsm::Role::Auditor).await?;
    let tasks = Tasks::new(shutdown.clone());
    let server = Server::new("auditor", &config.server)?;
    let identity = kit::tls::Identity::of(&config.server.tls)?;
    let (finish, finished) = kit::shutdown();
    let (api, writable) = start(config, Arc::new(token), &tasks, finished).await?;
    let server = server
        .add(PermitServiceServer::new(api.clone()))
        .add(TrailServiceServer::new(api.clone()))
        .add(AllowlistServiceServer::new(api.clone()));
    tasks.spawn(
        "health",
        tell_health(server.health(), writable, shutdown.clone()),
    );
    tasks.spawn(
        "checkpoints",
        sign_checkpoints(api.trail.clone(), shutdown.clone()),
    );
    tasks.spawn(
        "certificate",
        watch_certificate(identity, api.auditor.clone(), shutdown.clone()),
    );
    drop(api);
    server.serve(listener, shutdown).await?;
    // only now: requests that were let end needed the writer
    finish.fire();
    tasks.join().await;
    Ok(())
}

/// Everything but the server: recovers the trail, starts the writer (which ends with `finished`), and says so in the
/// trail.
async fn start(
    config: Config,
    signer: Arc<dyn Sign>,
    tasks: &Tasks,
    finished: Shutdown,
) -> Result<(Api, watch::Receiver<bool>), StartError> {
    let policy = Policy::load(config.policy_dir.as_deref())?;
    let keys = Keys::read(&config.origin, signer.as_ref()).await?;
    let store = Store::open(&config.database).await?;
    let (tree, signed) = trail::recover(&store, &keys).await?;
    tracing::info!(size = tree.size(), vkey = %keys.log, "the trail is whole");
    let (writer, ends) = Writer::new(store.clone(), tree);
    tasks.spawn("writer", writer.run(finished));
    let trail = Trail::new(
        store.clone(),
        keys.clone(),
        signer.clone(),
        ends.head,
        signed,
    );
    let auditor = Auditor {
        config,
        policy,
        store,
        keys,
        signer,
        sequencer: ends.sequencer,
    };
    auditor.announce().await?;
    let api = Api {
        auditor: Arc::new(auditor),
        trail: Arc::new(trail),
    };
    Ok((api, ends.writable))
}

/// Reports in its own trail when its TLS certificate is about to end.
async fn watch_certificate(
    identity: Arc<kit::tls::Identity>,
    auditor: Arc<Auditor>,
    shutdown: Shutdown,
) {
    let mut expiring = identity.expiring();
    loop {
        let news = expiring.borrow_and_update().clone();
        if let Some(news) = news
            && let Err(error) = auditor.report_certificate(news.story()).await
        {
            tracing::warn!(%error, "the end of our certificate is not in the trail");
        }
        tokio::select! {
            changed = expiring.changed() => if changed.is_err() { return },
            () = shutdown.fired() => return,
        }
    }
}

/// Health follows the writer: who cannot write the trail authorises nothing.
async fn tell_health(health: Health, mut writable: watch::Receiver<bool>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.fired() => return,
            changed = writable.changed() => if changed.is_err() { return },
        }
        let serving = *writable.borrow_and_update();
        health.set(serving).await;
    }
}

/// Signs a checkpoint each second in which something was appended, and a last one at the end.
async fn sign_checkpoints(trail: Arc<Trail>, shutdown: Shutdown) {
    loop {
        let ending = tokio::select! {
            () = shutdown.fired() => true,
            () = tokio::time::sleep(CHECKPOINT_EVERY) => false,
        };
        if let Err(error) = trail.checkpoint().await {
            tracing::error!(error = %kit::status::chain(&error), "no checkpoint could be signed");
        }
        if ending {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
