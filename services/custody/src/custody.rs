//! Custody itself: opening and closing cipher contexts.

use std::sync::Arc;

use aws_lc_rs::digest;
use dlms::{Mechanism, security::ReplayWindow};
use kit::{PeerName, Shutdown, clock};
use latchkey_proto::audit::v1::{EntryKind, Permit, Purpose, SignedPermit};
use tokio::sync::{Mutex, Semaphore};
use zeroize::Zeroizing;

use crate::{
    apdu::Asked,
    challenge,
    client::Certificates,
    context::{Context, Contexts, Stage, State},
    counters::{Beginning, Policy, Supply},
    error::Error,
    keyring::{Keyring, MeterKeys},
    memory::Memory,
    outstanding::Outstanding,
    permit::{Gate, Verified},
    rewrap::Rewrapping,
    rotation::{Agreements, Rotating, Which},
    seal::Kind,
    store::{CounterOf, KeyRow, Store},
    terms::{Leave, Terms},
    trail::{self, Reporter},
};

/// What the parts of custody share.
#[derive(Clone)]
pub(crate) struct Custody {
    pub(crate) store: Store,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) contexts: Arc<Contexts>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) reporter: Reporter,
    /// By how much the clocks of those who issue certificates may differ from ours.
    pub(crate) certificate_skew: std::time::Duration,
    pub(crate) counters: Policy,
    pub(crate) memory: Arc<Memory>,
    pub(crate) lab_import: bool,
    pub(crate) rewrapping: Rewrapping,
    pub(crate) leave: Leave,
    /// Ends the streams of cipher jobs.
    pub(crate) shutdown: Shutdown,
    /// One for each bulk import that may be under way.
    pub(crate) imports: Arc<Semaphore>,
    pub(crate) rotations: Rotations,
    pub(crate) agreements: Arc<Agreements>,
}

/// What the configuration says of rotations.
#[derive(Clone, Copy)]
pub(crate) struct Rotations {
    /// Associations opened for one in 24 hours without a proof.
    pub(crate) openings_max: u32,
    /// How long keys that are out of use are kept.
    pub(crate) retire: std::time::Duration,
}

/// A context that is wanted; parsed.
pub(crate) struct Wanted {
    pub(crate) permit: SignedPermit,
    pub(crate) meter_id: String,
    pub(crate) terms: Terms,
    /// Of a rotation of keys: which of its keys.
    pub(crate) which: Option<Which>,
}

/// A context that is open.
pub(crate) struct Opened {
    pub(crate) context_id: String,
    pub(crate) client_title: Vec<u8>,
    pub(crate) server_title: Vec<u8>,
    pub(crate) authentication_value: Zeroizing<Vec<u8>>,
    pub(crate) certificate: Vec<u8>,
}

impl Custody {
    /// Opens a context: permit, then terms, then keys, then (durably) the association, then (durably) counters.
    pub(crate) async fn open(&self, peer: &PeerName, wanted: Wanted) -> Result<Opened, Error> {
        let now = clock::now();
        let mut verified = self.verified(peer, &wanted.permit, &wanted.meter_id)?;
        let row = self.store.keys(&wanted.meter_id).await?;
        let terms = wanted.terms;
        let public =
            self.may_be_had(&wanted, row.as_ref())
                .await
                .inspect_err(|error| match error {
                    Error::Database(_) | Error::Token(_) => {}
                    _ => self.refused(&verified.permit, &[], error),
                })?;
        let (keys, rotating) = self.keys_of(&mut verified, &wanted, row.as_ref()).await?;
        let opened = self.opened(&terms, row.as_ref()).await?;
        self.count_association(peer, &wanted, &verified.permit, public)
            .await?;
        let generations = row.as_ref().map(|row| row.generations).unwrap_or_default();
        let in_use = CounterOf::InUse {
            generation: generations.encryption,
        };
        let new = rotating.as_ref().and_then(Rotating::counter_of);
        let counter_of = new.unwrap_or(in_use);
        let Beginning {
            fence,
            received_before,
            supply,
        } = self.begin(row.as_ref(), counter_of, &terms).await?;
        // A new key was never heard of.
        let received_before = received_before.filter(|_| new.is_none());
        let encryption_alone = row.as_ref().is_some_and(KeyRow::names_encryption_alone);
        let state = fresh(&terms, received_before, supply);
        let Verified {
            permit,
            allowed,
            ends,
        } = verified;
        let context = Context {
            id: opened.context_id.clone(),
            owner: peer.clone(),
            permit,
            allowed,
            ends,
            terms,
            public,
            encryption_alone,
            keys,
            challenge: if terms.mechanism.is_high_level() {
                opened.authentication_value.to_vec()
            } else {
                Vec::new()
            },
            rotating,
            received_before,
            fence,
            counter_of,
            state: Mutex::new(state),
        };
        self.contexts.insert(context, now)?;
        Ok(opened)
    }

    /// The keys of a context: those that are in use, or one that a rotation asks about.
    async fn keys_of(
        &self,
        verified: &mut Verified,
        wanted: &Wanted,
        row: Option<&KeyRow>,
    ) -> Result<(Option<MeterKeys>, Option<Rotating>), Error> {
        let terms = &wanted.terms;
        match (wanted.which, row) {
            (Some(which), Some(row)) => {
                let entered = Box::pin(self.enter(verified, (terms, row), which)).await;
                let entered = entered.inspect_err(|error| match error {
                    Error::Database(_) | Error::Token(_) => {}
                    _ => self.refused(&verified.permit, &[], error),
                })?;
                Ok((Some(entered.keys), Some(entered.rotating)))
            }
            (Some(_), None) => Err(Error::KeysUnknown {
                meter: wanted.meter_id.clone(),
            }),
            (None, _) => {
                self.settled(verified, terms, row)?;
                Ok((self.keys_for(terms, row).await?, None))
            }
        }
    }

    /// Whether the meter's keys may be used, the association may be had with it, and the certificates it stands on hold;
    /// and whether it is the public client's.
    async fn may_be_had(&self, wanted: &Wanted, row: Option<&KeyRow>) -> Result<bool, Error> {
        if let Some(row) = row {
            match row.usable() {
                // Compromised keys serve to be replaced, and for nothing else.
                Err(Error::KeysCompromised { .. }) if wanted.which.is_some() => {}
                usable => usable?,
            }
        }
        let terms = &wanted.terms;
        let public = terms.check(&wanted.meter_id, row, self.leave)?;
        if let Some(row) = row {
            // Boxed: it is rare, and large.
            Box::pin(self.certificates_hold(terms, row)).await?;
        }
        Ok(public)
    }

    /// A permit that holds. One that does not leaves a denial in the trail.
    pub(crate) fn verified(
        &self,
        peer: &PeerName,
        permit: &SignedPermit,
        meter_id: &str,
    ) -> Result<Verified, Error> {
        self.gate
            .check(permit, meter_id, clock::now())
            .inspect_err(|error| {
                // Nothing in a permit that does not hold can be believed: the entry names the caller.
                let entry = trail::entry(
                    EntryKind::Denial,
                    peer.as_str(),
                    meter_id,
                    error.to_string(),
                );
                self.reporter.refused(entry);
            })
    }

    /// An association that is for no rotation uses the keys that are in force: it must be known which they are.
    fn settled(
        &self,
        verified: &Verified,
        terms: &Terms,
        row: Option<&KeyRow>,
    ) -> Result<(), Error> {
        let permit = &verified.permit;
        if permit.purpose() == Purpose::Rekey {
            let error = Error::PermitRefused {
                why:
                    "it is for a change of keys, and the association does not say for which of them"
                        .to_owned(),
            };
            self.refused(permit, &[], &error);
            return Err(error);
        }
        match row.and_then(|row| row.rotation_id.as_ref()) {
            Some(rotation) if terms.is_ciphered() => Err(Error::KeysUnsettled {
                meter: permit.meter_id.clone(),
                rotation: rotation.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// What of a row is used under these terms: nothing without ciphering and HLS.
    async fn keys_for(
        &self,
        terms: &Terms,
        row: Option<&KeyRow>,
    ) -> Result<Option<MeterKeys>, Error> {
        match row {
            Some(row) if terms.is_ciphered() || terms.mechanism.is_high_level() => {
                let keys = self.keyring.meter_keys(row, terms.need()).await?;
                if terms.mechanism == Mechanism::HlsEcdsa && !challenge::is_flag(keys.client_title)
                {
                    return Err(Error::AssociationRefused {
                        why: "challenges are signed for client system titles that begin with a capital letter",
                    });
                }
                Ok(Some(keys))
            }
            _ => Ok(None),
        }
    }

    async fn count_association(
        &self,
        peer: &PeerName,
        wanted: &Wanted,
        permit: &Permit,
        public: bool,
    ) -> Result<(), Error> {
        let how = wanted.terms.describe(public);
        let detail = format!("association opened by {peer}, {how}");
        let entry = trail::under_permit(EntryKind::KeyUse, permit, &[], detail);
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
                    self.refused(permit, &[], error);
                }
            })?;
        self.reporter.stored();
        Ok(())
    }

    /// What the association service needs for its AARQ.
    async fn opened(&self, terms: &Terms, row: Option<&KeyRow>) -> Result<Opened, Error> {
        let authentication_value = match (terms.mechanism, row) {
            (Mechanism::Low, Some(row)) => self.keyring.reveal(row, Kind::Password).await?,
            (mechanism, _) if mechanism.is_high_level() => {
                Zeroizing::new(self.challenge(mechanism).await?)
            }
            _ => Zeroizing::default(),
        };
        let (client_title, server_title) = row.map_or_else(Default::default, |row| {
            let server = row.server_system_title.clone();
            match terms.mechanism {
                Mechanism::None => (Vec::new(), server),
                _ => (row.client_system_title.clone(), server),
            }
        });
        let title = dlms::SystemTitle::from_slice(&client_title);
        let certificate = match (terms.mechanism, title) {
            (Mechanism::HlsEcdsa, Some(title)) => self.certificates.of(terms.suite(), title),
            _ => Vec::new(),
        };
        Ok(Opened {
            context_id: uuid::Uuid::now_v7().to_string(),
            client_title,
            server_title,
            authentication_value,
            certificate,
        })
    }

    /// CtoS: drawn again while it could be read as a response.
    async fn challenge(&self, mechanism: Mechanism) -> Result<Vec<u8>, Error> {
        let length = match mechanism {
            Mechanism::HlsEcdsa => challenge::CHALLENGE_ECDSA,
            _ => challenge::CHALLENGE,
        };
        loop {
            let drawn = self.keyring.token().random(length).await?;
            if !challenge::is_response(&drawn) {
                return Ok(drawn);
            }
        }
    }

    /// Forgets a context and remembers the last counter taken from its meter.
    pub(crate) async fn close(&self, peer: &PeerName, id: &str) -> Result<(), Error> {
        let Some(context) = self.contexts.remove(id, peer) else {
            return Ok(());
        };
        let state = context.state.lock().await;
        let proven = context.terms.mechanism.is_high_level()
            && context.terms.counts_globally()
            && matches!(state.stage, Stage::Open | Stage::Released);
        match state.received.highest() {
            Some(last) if proven => {
                self.store
                    // No fence: what is proven may rise, even if a later context has begun; but not for another key.
                    .raise_received_under(
                        &context.permit.meter_id,
                        context.keys.as_ref().map_or(0, MeterKeys::generation),
                        last,
                    )
                    .await
            }
            _ => Ok(()),
        }
    }

    /// Forgets a context that a later one has ended, when that shows.
    pub(crate) fn fenced(&self, peer: &PeerName, id: &str, error: &Error) {
        if matches!(error, Error::ContextFenced) {
            drop(self.contexts.remove(id, peer));
        }
    }

    /// Leaves a refusal in the trail and in the log.
    pub(crate) fn refused(&self, permit: &Permit, asked: &[Asked], error: &Error) {
        tracing::warn!(meter_id = permit.meter_id, permit_id = permit.permit_id, %error, "refused");
        self.reporter.refused(trail::under_permit(
            EntryKind::Denial,
            permit,
            asked,
            error.to_string(),
        ));
    }
}

/// Where a context begins.
fn fresh(terms: &Terms, received_before: Option<u32>, supply: Supply) -> State {
    State {
        stage: first_stage(terms),
        counters: supply,
        received: window(terms, received_before),
        dedicated: None,
        counter_asked: None,
        transactions: Vec::new(),
        outstanding: Outstanding::default(),
        transfer: None,
        again: false,
        rekeying: false,
    }
}

/// Where an association stands before anything is ciphered.
fn first_stage(terms: &Terms) -> Stage {
    if terms.is_ciphered() || terms.mechanism.is_high_level() {
        Stage::New
    } else {
        Stage::Open
    }
}

/// Which counters under the global key are new. With low-level security nothing proves that the meter is alive, so they
/// rise over all associations, and so without authentication; with HLS, within this one: see [`crate::receive`].
fn window(terms: &Terms, received_before: Option<u32>) -> ReplayWindow {
    match received_before {
        Some(last) if terms.mechanism == Mechanism::Low || !terms.control.is_authenticated() => {
            ReplayWindow::after(1, last)
        }
        _ => ReplayWindow::new(1),
    }
}
