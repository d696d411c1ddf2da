//! Key custody: the only process that can use a meter's keys.
//!
//! ```text
//!  KeyService ──▶ keys ──────┐                          ┌─▶ keyring, own, hls ──▶ HSM token (EK never leaves it)
//!                            ├─▶ custody ─▶ permit gate │
//!  CipherService ▶ cipher ───┤       │      terms ──────┤   (which associations may be had with a meter)
//!                 ▶ receive ─┘       │      step, apdu, │   (plaintext against permit and deny-list,
//!                                    │      transfer    │    whole, in lists and in blocks)
//!                                    │      outstanding │   (answers against requests)
//!                                    │                  └─▶ store (counters, permit uses, wrapped keys)
//!                                    └─▶ trail ──▶ auditor
//! ```
//!
//! It ciphers an APDU only if a permit signed by the auditor covers it, octet by octet (P2); takes invocation counters
//! from blocks that are durable before use (P4); counts a limited command durably before it is ciphered (P1, P5); and
//! lets no key byte out (P3).
//!
//! What of the keys is in its memory, and where; `tests/core_image` looks for anything else:
//!
//! | what | where | how long |
//! |---|---|---|
//! | authentication key (AK) | `keyring::MeterKeys`, one copy for each cipher context | from OpenContext to the context's end |
//! | the same | `keyring::Gcm` and the token's job: the associated data of one APDU | that call |
//! | the same, at an import | the token's job; a buffer of cryptoki's that is freed and not wiped | that call, until the next of its size |
//! | password (LLS), HLS secret of MD5 | `keyring`, and the response of OpenContext | as long as the context, that call |
//! | dedicated key | the token's job, the InitiateRequest it is sent in | that call |
//! | key agreed for one APDU | the token's job, where the token has no KDF | that call |
//! | PIN | `hsm`, for a token that must be opened anew | the process |
//! | private TLS key from a file | rustls; not with a key in the token | the process |
//!
//! All of ours is in `Zeroizing` or `SecretString`, made as large as it becomes. Keys of `ImportLabKeys` come in clear
//! through the buffers of TLS and HTTP/2, which nobody wipes. The process leaves no core dump, lets nobody read it, and
//! locks its memory where it may (`kit::config::Memory`).

#![forbid(unsafe_code)]

mod apdu;
mod api;
mod certificate;
mod certificates;
mod challenge;
mod cipher;
mod client;
mod config;
mod context;
mod counters;
mod crash;
mod custody;
mod error;
mod floors;
mod hls;
mod keyring;
mod keys;
mod memory;
mod metrics;
mod outstanding;
mod own;
mod permit;
mod receive;
mod restored;
mod rewrap;
mod rotation;
mod seal;
mod step;
mod store;
mod terms;
mod tokens;
mod trail;
mod transfer;

use std::{path::Path, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use futures::future::BoxFuture;
use kit::{Listener, Server, Shutdown, StartError, Tasks, Trail, permit::PermitKey};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        cipher_service_server::CipherServiceServer, key_service_server::KeyServiceServer,
    },
};
use tokio::sync::Semaphore;

use crate::{
    client::Certificates,
    context::Contexts,
    custody::{Custody, Rotations},
    keyring::Keyring,
    memory::{Memory, Recall},
    permit::Gate,
    rewrap::Rewrapping,
    store::Store,
    terms::Leave,
    tokens::Watch,
    trail::Reporter,
};
pub use crate::{config::Config, crash::CRASH_POINTS, error::Error};

/// Bulk imports under way at one time: each keeps the token as busy as it may.
const IMPORTS_MAX: usize = 2;

/// Runs until `shutdown` fires, then drains and returns.
#[must_use]
pub fn serve(
    config: Config,
    listener: Listener,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), StartError>> {
    Box::pin(run(config, listener, shutdown))
}

async fn run(config: Config, listener: Listener, shutdown: Shutdown) -> Result<(), StartError> {
    let gate = Gate::new(permit_key(&config.permit_key_file)?, &config);
    let token = tokens::open(&config).await?;
    let max = config.unwrapped_keys_max;
    let keyring = Keyring::new(token.clone(), max, config.kek_generation).await;
    let keyring = keyring.map_err(|e| StartError::context("kek_generation", e))?;
    let certificates = Certificates::load(&config, &token).await?;
    let store = Store::new(kit::sql::open(&config.database, store::MIGRATIONS).await?);
    let trail = Trail::new(kit::client::channel(&config.auditor, &config.server.tls)?);
    let tasks = Tasks::new(shutdown.clone());
    trail.watch_certificate(&tasks, &config.server.tls)?;
    let (reporter, carrier) = Reporter::new(trail, store.clone());
    store.enqueue_start(&started(&config, &token)).await?;
    let watch = Watch::new(token.clone(), store.clone(), reporter.clone());
    let memory = remember(&config, &store, &tasks).await?;
    tasks.spawn("trail", carrier.run(shutdown.clone()));
    let custody = Custody {
        store,
        keyring: Arc::new(keyring),
        contexts: Arc::new(Contexts::new(config.contexts_max)),
        gate: Arc::new(gate),
        certificates: Arc::new(certificates),
        reporter,
        certificate_skew: config.clock_skew(),
        counters: config.counters(),
        memory: Arc::clone(&memory),
        lab_import: config.lab_import,
        rewrapping: Rewrapping::new(config.backup_token.clone()),
        leave: Leave {
            legacy_hls: config.allow_legacy_hls,
            encryption_only: config.allow_encryption_only,
        },
        shutdown: shutdown.clone(),
        imports: Arc::new(Semaphore::new(IMPORTS_MAX)),
        rotations: Rotations {
            openings_max: config.rotation_openings_max,
            retire: Duration::from_secs(config.rotation_retire_seconds),
        },
        agreements: Arc::default(),
    };
    custody.mark_stock().await.map_err(|error| {
        StartError::context("cannot take the fingerprints of stored keys", error)
    })?;
    tasks.spawn("counters", custody.clone().watch_counters(shutdown.clone()));
    tasks.spawn("retired keys", custody.clone().sweep(shutdown.clone()));
    tasks.spawn("certificates", custody.clone().watch_certificates());
    let limit = config.server.max_message_bytes;
    let server = Server::new("custody", &config.server)?
        .add(KeyServiceServer::new(custody.clone()).max_decoding_message_size(limit))
        .add(CipherServiceServer::new(custody).max_decoding_message_size(limit))
        .endless("/latchkey.custody.v1.CipherService/Cipher")
        .endless("/latchkey.custody.v1.KeyService/ImportMeterKeysBatch");
    let health = server.health();
    let served = tokio::select! {
        // The server first: it says that it serves when it begins.
        biased;
        served = server.serve(listener, shutdown) => served,
        () = watch.follow(memory, health) => Ok(()),
    };
    tasks.join().await;
    served
}

/// What was reserved, from the file beside the database. Nothing is served before the database was found to know it, or
/// every counter was raised.
async fn remember(
    config: &Config,
    store: &Store,
    tasks: &Tasks,
) -> Result<Arc<Memory>, StartError> {
    let (memory, scribe, recall) = Memory::open(config.counter_state_file.as_deref())?;
    let raised = restored::at_start(store, &recall, config.counter_restore_gap).await?;
    if let Some(mut scribe) = scribe {
        if raised || recall == Recall::Nothing {
            scribe.begin_anew().await?;
        }
        tasks.spawn("counter state", scribe.run());
    }
    Ok(Arc::new(memory))
}

/// What the trail says of this start. The digest changes with the configuration; it shows none of it.
fn started(config: &Config, token: &hsm::Token) -> latchkey_proto::audit::v1::Entry {
    let digest = digest::digest(&digest::SHA256, format!("{config:?}").as_bytes());
    let detail = format!(
        "custody started: tokens {:?} ({}), lab_import = {}, allow_legacy_hls = {}, allow_encryption_only = {}, \
         memory.allow_dumps = {}, configuration SHA-256 {}",
        tokens::labels(config),
        tokens::manner(token),
        config.lab_import,
        config.allow_legacy_hls,
        config.allow_encryption_only,
        config.memory.allow_dumps,
        hex::encode(digest)
    );
    trail::entry(EntryKind::Start, "", "", detail)
}

fn permit_key(file: &Path) -> Result<PermitKey, StartError> {
    let expected = "expected the auditor's Ed25519 public key, 64 hex digits";
    let text = std::fs::read_to_string(file)
        .map_err(|e| StartError::context(format!("permit_key_file {}", file.display()), e))?;
    let octets = hex::decode(text.trim()).ok();
    octets
        .and_then(|octets| PermitKey::new(&octets))
        .ok_or_else(|| StartError::msg(format!("permit_key_file {}: {expected}", file.display())))
}
