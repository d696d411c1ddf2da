//! The association service: talks DLMS to one meter at a time. It holds no key and decides nothing: custody ciphers
//! what a permit covers, the gateway connects to what the allowlist names.
//!
//! ```text
//!  gRPC ── api ── associations ── lease (one holder per meter)
//!                     └─ actor: one task per association
//!                          ├─ opening   link, then cipher context, then AARQ
//!                          └─ session   dlms::Client ── link ── gateway ── meter
//!                                            └── custody (cipher jobs)
//! ```
//! What `Invoke` and `InvokeList` promise: a gRPC error means that nothing was sent. From the first octet handed to the socket on, what
//! is not known is said as `DELIVERY_UNKNOWN`.

#![forbid(unsafe_code)]

use std::time::Duration;

use futures::future::BoxFuture;
use kit::{Listener, Shutdown, StartError, Tasks, Trail, client::channel};
use latchkey_proto::association::v1::{
    association_service_server::AssociationServiceServer, meter_service_server::MeterServiceServer,
};

pub mod command;
pub mod config;
pub mod directory;
pub mod error;
pub mod lane;
pub mod store;

mod actor;
mod answer;
mod api;
mod associations;
mod crash;
mod custodies;
mod custody;
mod failure;
mod inbox;
mod lease;
mod link;
mod opening;
mod plan;
mod proposal;
mod rotation;
mod session;
mod trace;

pub use config::Config;
pub use crash::CRASH_POINTS;

use crate::{
    api::{association::AssociationApi, meter::MeterApi},
    associations::Associations,
    custodies::Custodies,
    link::Gateway,
    opening::Tools,
    store::Store,
    trace::Trace,
};

/// Runs the service until `shutdown` fires; then it lets calls end, releases every association, and returns.
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
    let store = Store::open(&config.database).await?;
    let tasks = Tasks::new(shutdown.clone());
    let trace = match &config.trace_file {
        Some(path) => {
            let (trace, writer) = Trace::open(path)?;
            tasks.spawn("trace", writer.run());
            trace
        }
        None => Trace::default(),
    };
    let custody = Custodies::new(&config.custody, tls, &tasks)?;
    let watched = custody.clone().watch(shutdown.clone());
    tasks.spawn("custody", watched);
    let tools = Tools {
        gateway: Gateway::new(&config.gateway, tls, config.connect_timeout())?,
        custody,
        trace,
        max_pdu: config.max_pdu,
        answer_timeout: Duration::from_millis(config.answer_timeout_ms.into()),
        opening_timeout: config.opening_timeout(),
    };
    let associations = Associations::new(tools, tasks.clone(), config.lease());
    let trail = Trail::new(channel(&config.auditor, tls)?);
    trail.announce(&tasks, "association", &config);
    trail.watch_certificate(&tasks, tls)?;
    let meters = MeterApi {
        store: store.clone(),
        trail,
    };
    let api = AssociationApi {
        store: store.clone(),
        associations: associations.clone(),
        max_pdu: config.max_pdu,
        answer_timeout_ms: config.answer_timeout_ms,
    };
    let served = kit::Server::new("association", &config.server)?
        .add(MeterServiceServer::new(meters))
        .add(AssociationServiceServer::new(api))
        .serve(listener, shutdown)
        .await;
    associations.stop_all();
    // The trace's writer ends when the last association and these tools are gone.
    drop(associations);
    tasks.join().await;
    store.close().await;
    served
}
