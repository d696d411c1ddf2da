//! The gateway: passes traffic to meters that is allowed, over TCP, UDP and serial lines, and nothing else.
//!
//! It faces the meters, so it has little to lose: no database, no key but its TLS identity, no reading of what it
//! passes. Who may come in and where they may go is the auditor's allowlist ([`allowlist`], [`feed`]); what was dropped
//! goes to the auditor's trail ([`drops`]).

#![forbid(unsafe_code)]

use std::time::Duration;

use futures::future::BoxFuture;
use kit::{Listener, Shutdown, StartError, Tasks, Trail};
use tokio::net::TcpListener;

pub mod allowlist;
pub mod config;
pub mod destination;
pub mod drops;
pub mod feed;
pub mod limits;
pub mod pdu;
pub mod proxy;

mod datagrams;
mod dial;
mod flow;
mod metrics;
mod relay;

pub use config::Config;

use crate::{
    dial::Lines,
    drops::Drops,
    feed::{Current, Feed},
    relay::Relay,
};

/// Runs the gateway until `shutdown` fires; then it accepts nobody, lets connections end for `drain_seconds`, and cuts
/// the rest. `listener` is the admin port; the relay port opens when there is an allowlist, not before.
#[must_use]
pub fn serve(
    config: Config,
    listener: Listener,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), StartError>> {
    Box::pin(run(config, listener, shutdown))
}

async fn run(config: Config, listener: Listener, shutdown: Shutdown) -> Result<(), StartError> {
    let auditor = kit::client::channel(&config.auditor, &config.server.tls)?;
    let admin = kit::Server::new("gateway", &config.server)?;
    let health = admin.health();
    let (feed, list, fresh) = Feed::new(auditor.clone(), &config.relay);
    let drops = Drops::default();
    let (cut_trigger, cut) = kit::shutdown();
    let relay = Relay::new(
        config.relay.clone(),
        Lines::new(config.serial.clone()),
        &config.server.tls,
        (list.clone(), fresh),
        drops.clone(),
        cut,
    )?;
    let places = relay.places.clone();

    let background = Tasks::new(shutdown.clone());
    background.spawn("feed", feed.follow(shutdown.clone()));
    let trail = Trail::new(auditor);
    trail.announce(&background, "gateway", &config);
    trail.watch_certificate(&background, &config.server.tls)?;
    background.spawn("drops", drops.report(trail, shutdown.clone()));

    let connections = Tasks::new(shutdown.clone());
    let served = tokio::select! {
        biased;
        served = admin.serve(listener, shutdown.clone()) => served,
        failed = open_relay(relay, config.relay.listen, list.clone(), connections.clone()) => failed,
        () = follow_health(health, list) => Ok(()),
    };

    let drain = Duration::from_secs(config.server.drain_seconds);
    if tokio::time::timeout(drain, places.all_free())
        .await
        .is_err()
    {
        tracing::warn!("some connections did not end in time and are cut");
    }
    cut_trigger.fire();
    connections.join().await;
    background.join().await;
    served
}

/// Waits for a list, then listens for ever; returns only if it cannot.
async fn open_relay(
    relay: Relay,
    listen: std::net::SocketAddr,
    mut list: Current,
    connections: Tasks,
) -> Result<(), StartError> {
    if list.wait_for(Option::is_some).await.is_err() {
        return Err(StartError::msg("the allowlist feed ended"));
    }
    let listener = TcpListener::bind(listen).await.map_err(|e| {
        StartError::context(
            format!("cannot listen on {listen} for the relay; is it taken?"),
            e,
        )
    })?;
    tracing::info!(%listen, "relaying");
    connections.spawn("accept", relay.accept(listener, connections.clone()));
    std::future::pending().await
}

/// Serving exactly while there is a list in force.
async fn follow_health(health: kit::Health, mut list: Current) {
    loop {
        let serving = list.borrow_and_update().is_some();
        health.set(serving).await;
        if list.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
