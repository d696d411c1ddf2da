//! Custody itself: opening and closing cipher contexts.

use std::sync::Arc;

use aws_lc_rs::digest;
use dlms::security::Protection;
use kit::{PeerName, clock};
use latchkey_proto::{
    audit::v1::{EntryKind, Permit, SignedPermit},
    custody::v1::Mechanism,
};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{
    apdu::{Asked, Outstanding},
    context::{Context, Contexts, Mode, Stage, State},
    error::Error,
    keyring::{Keyring, Kind},
    permit::Gate,
    store::{KeyRow, Store},
    trail::{self, Reporter},
};

/// Octets of our challenge CtoS (IEC 62056-5-3 allows 8..64).
const CHALLENGE: usize = 16;

/// What the parts of custody share.
#[derive(Clone)]
pub(crate) struct Custody {
    pub(crate) store: Store,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) contexts: Arc<Contexts>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) reporter: Reporter,
    pub(crate) counter_block: u32,
    pub(crate) lab_import: bool,
}

/// A context that is wanted; parsed.
pub(crate) struct Wanted {
    pub(crate) permit: SignedPermit,
    pub(crate) meter_id: String,
    pub(crate) mechanism: Mechanism,
    pub(crate) protection: Protection,
}

/// A context that is open.
pub(crate) struct Opened {
    pub(crate) context_id: String,
    pub(crate) client_title: Vec<u8>,
    pub(crate) server_title: Vec<u8>,
    pub(crate) authentication_value: Zeroizing<Vec<u8>>,
}

impl Custody {
    /// Opens a context: permit, then keys, then (durably) the association, then (durably) counters.
    pub(crate) async fn open(&self, peer: &PeerName, wanted: Wanted) -> Result<Opened, Error> {
        let now = clock::now();
        let verified = self
            .gate
            .check(&wanted.permit, &wanted.meter_id, now)
            .inspect_err(|error| {
                // Nothing in a permit that does not hold can be believed: the entry names the caller.
                let entry = trail::entry(
                    EntryKind::Denial,
                    peer.as_str(),
                    &wanted.meter_id,
                    error.to_string(),
                );
                self.reporter.refused(entry);
            })?;
        let row = self.store.keys(&wanted.meter_id).await?;
        let mode = mode(&wanted, row.as_ref())?;
        let keys = match &row {
            Some(row) if wanted.protection.is_ciphered() => {
                Some(self.keyring.meter_keys(row).await?)
            }
            _ => None,
        };
        self.count_association(peer, &wanted, &verified.permit, mode)
            .await?;
        let counters = match keys {
            Some(_) => {
                self.store
                    .reserve_counters(&wanted.meter_id, self.counter_block)
                    .await?
            }
            None => 0..0,
        };
        let opened = self.opened(wanted.mechanism, row.as_ref()).await?;
        let stage = if keys.is_some() {
            Stage::New
        } else {
            Stage::Open
        };
        let context = Context {
            id: opened.context_id.clone(),
            owner: peer.clone(),
            permit: verified.permit,
            allowed: verified.allowed,
            ends: verified.ends,
            mode,
            protection: wanted.protection,
            keys,
            challenge: if mode == Mode::Hls {
                opened.authentication_value.to_vec()
            } else {
                Vec::new()
            },
            received_before: row.and_then(|row| row.last_received),
            state: Mutex::new(State {
                stage,
                counters,
                received: None,
                proven: false,
                outstanding: Outstanding::default(),
            }),
        };
        self.contexts.insert(context, now);
        Ok(opened)
    }

    async fn count_association(
        &self,
        peer: &PeerName,
        wanted: &Wanted,
        permit: &Permit,
        mode: Mode,
    ) -> Result<(), Error> {
        let detail = format!("association opened by {peer}, {}", mode.describe());
        let entry = trail::under_permit(EntryKind::KeyUse, permit, None, detail);
        let digest = digest::digest(&digest::SHA256, &wanted.permit.body);
        self.store
            .count_association(
                &permit.permit_id,
                digest.as_ref(),
                permit.max_associations,
                &entry,
            )
            .await
            .inspect_err(|error| {
                if matches!(
                    error,
                    Error::PermitRefused { .. } | Error::PermitAssociationsSpent { .. }
                ) {
                    self.refused(permit, None, error);
                }
            })?;
        self.reporter.stored();
        Ok(())
    }

    /// What the association service needs for its AARQ.
    async fn opened(&self, mechanism: Mechanism, row: Option<&KeyRow>) -> Result<Opened, Error> {
        let authentication_value = match (mechanism, row) {
            (Mechanism::HlsGmac, _) => {
                Zeroizing::new(self.keyring.token().random(CHALLENGE).await?)
            }
            (Mechanism::Low, Some(row)) => self.keyring.reveal(row, Kind::Password).await?,
            _ => Zeroizing::default(),
        };
        let titles = row.map(|row| {
            (
                row.client_system_title.clone(),
                row.server_system_title.clone(),
            )
        });
        let (client_title, server_title) = titles.unwrap_or_default();
        Ok(Opened {
            context_id: uuid::Uuid::now_v7().to_string(),
            client_title: if mechanism == Mechanism::None {
                Vec::new()
            } else {
                client_title
            },
            server_title,
            authentication_value,
        })
    }

    /// Forgets a context and remembers the last counter taken from its meter.
    pub(crate) async fn close(&self, peer: &PeerName, id: &str) -> Result<(), Error> {
        let Some(context) = self.contexts.remove(id, peer) else {
            return Ok(());
        };
        let state = context.state.lock().await;
        match state.received {
            Some(last) if state.proven => self
                .store
                .raise_received(&context.permit.meter_id, last)
                .await
                .map(drop),
            _ => Ok(()),
        }
    }

    /// Leaves a refusal in the trail and in the log.
    pub(crate) fn refused(&self, permit: &Permit, asked: Option<&Asked>, error: &Error) {
        tracing::warn!(meter_id = permit.meter_id, permit_id = permit.permit_id, %error, "refused");
        self.reporter.refused(trail::under_permit(
            EntryKind::Denial,
            permit,
            asked,
            error.to_string(),
        ));
    }
}

impl Mode {
    fn describe(self) -> &'static str {
        match self {
            Self::Public => "public client, not ciphered",
            Self::Plain => "not ciphered",
            Self::Low => "ciphered, low-level security",
            Self::Hls => "ciphered, HLS5",
        }
    }
}

/// Which kind of association this is, if it is one that may be had with this meter.
fn mode(wanted: &Wanted, row: Option<&KeyRow>) -> Result<Mode, Error> {
    let refused = |why| Err(Error::AssociationRefused { why });
    let has_keys = row.is_some_and(|row| !row.wrapped_encryption_key.is_empty());
    let has_password = row.is_some_and(|row| !row.sealed_password.is_empty());
    match (wanted.mechanism, wanted.protection.is_ciphered()) {
        (Mechanism::Unspecified, _) => refused("the mechanism is not said"),
        (Mechanism::None, true) => {
            refused("ciphering goes with low-level security or HLS, not without authentication")
        }
        (Mechanism::HlsGmac, false) => refused("HLS with GMAC goes with ciphering"),
        (Mechanism::None, false) => Ok(if has_keys { Mode::Public } else { Mode::Plain }),
        (_, _) if row.is_none() => Err(Error::KeysUnknown {
            meter: wanted.meter_id.clone(),
        }),
        (Mechanism::Low, _) if !has_password => refused("the meter has no password"),
        (Mechanism::Low, false) if has_keys => {
            refused("the meter has keys: its APDUs are ciphered")
        }
        (Mechanism::Low, false) => Ok(Mode::Plain),
        (_, true) if !has_keys => refused("the meter has no encryption key"),
        (Mechanism::Low, true) => Ok(Mode::Low),
        (Mechanism::HlsGmac, true) => Ok(Mode::Hls),
        (
            Mechanism::HlsMd5 | Mechanism::HlsSha1 | Mechanism::HlsSha256 | Mechanism::HlsEcdsa,
            _,
        ) => refused("the mechanism is not known here"),
    }
}
