//! The auditor itself: record, then sign.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use kit::{PeerName, clock, context, crash_point, permit};
use latchkey_proto::audit::v1::{
    AllowlistEntry, AllowlistSide, AuthoriseRequest, AuthoriseResponse, Command, CommandDigest,
    Entry, EntryKind, Permit, RecordRequest, SignedPermit,
};
use prost::Message as _;

use crate::allowlist::Network;
use crate::config::{Config, Seed, Side};
use crate::crash;
use crate::error::Error;
use crate::policy::{Decision, Plan, Policy, Subject, hex};
use crate::request;
use crate::sequencer::{self, Draft, Effect, Placed, RequestKey, Sequencer};
use crate::signer::{Keys, PERMIT_KEY, Sign};
use crate::store::{Receipt, Store};

/// The role a service has that may present plans. Nobody else can have it.
const RESET_ROLE: &str = "reset";
/// Characters of an entry's detail.
const DETAIL: usize = 1024;

/// Everything a decision needs.
pub(crate) struct Auditor {
    pub(crate) config: Config,
    pub(crate) policy: Policy,
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) signer: Arc<dyn Sign>,
    pub(crate) sequencer: Sequencer,
}

/// Scopes of request ids.
const PERMIT: &str = "permit";
const DENIAL: &str = "denial";
const RECORD: &str = "record";
const SEED: &str = "seed";

impl Auditor {
    /// Decides a plan; if it may be, makes its intent durable, and only then signs the permit.
    ///
    /// The order keeps one promise through any crash: there is at most one permit for a request, and never
    /// one without its intent. Intent and unsigned permit are one transaction; whoever comes again with the
    /// same request finds that permit, and the same signature over it (Ed25519 is deterministic).
    pub(crate) async fn authorise(
        &self,
        caller: &PeerName,
        request: &AuthoriseRequest,
    ) -> Result<AuthoriseResponse, Error> {
        if let Err(error) = request::plan(request) {
            return Err(self.refuse(caller, request, Vec::new(), error).await);
        }
        let key = RequestKey::new(
            PERMIT,
            &request.request_id,
            caller,
            &request.encode_to_vec(),
        );
        if !request.validate_only {
            match self.known(&key).await {
                Ok(Some(placed)) => return self.hand_out(&key, placed.receipt).await,
                Ok(None) => {}
                Err(error @ Error::RequestReused(_)) => {
                    return Err(self.refuse(caller, request, Vec::new(), error).await);
                }
                Err(error) => return Err(error),
            }
        }
        match self.decide(caller, request) {
            Decision::Denied { policy_ids, cause } => {
                let error = Error::Denied { cause };
                Err(self.refuse(caller, request, policy_ids, error).await)
            }
            Decision::Allowed(policy_ids) if request.validate_only => Ok(AuthoriseResponse {
                permit: None,
                policy_ids,
            }),
            Decision::Allowed(policy_ids) => {
                let draft = self.intent(caller, request, policy_ids, key.clone());
                let placed = self.sequencer.append(draft).await?;
                // from here on the intent is durable; a crash leaves a permit to be signed, or nothing lost
                self.hand_out(&key, placed.receipt).await
            }
        }
    }

    fn decide(&self, caller: &PeerName, request: &AuthoriseRequest) -> Decision {
        let roles: &[&str] = if self.config.is_reset_service(caller) {
            &[RESET_ROLE]
        } else {
            &[]
        };
        let service = Subject {
            name: caller.as_str(),
            roles,
        };
        let person_roles = self.roles_of(&request.on_behalf_of);
        let person = Subject {
            name: &request.on_behalf_of,
            roles: &person_roles,
        };
        let plan = Plan {
            meter_id: &request.meter_id,
            purpose: request.purpose(),
            tier: request.tier(),
            commands: &request.commands,
            rehearsal: request.validate_only,
        };
        self.policy.decide(service, person, &plan)
    }

    fn intent(
        &self,
        caller: &PeerName,
        request: &AuthoriseRequest,
        policy_ids: Vec<String>,
        key: RequestKey,
    ) -> Draft {
        let now = clock::now();
        let lifetime = Duration::from_secs(request.lifetime_seconds.into());
        let permit = Permit {
            permit_id: uuid::Uuid::now_v7().to_string(),
            leaf_index: 0, // the writer knows
            log_origin: self.config.origin.clone(),
            meter_id: request.meter_id.clone(),
            principal: request.on_behalf_of.clone(),
            requester: caller.to_string(),
            purpose: request.purpose,
            tier: request.tier,
            commands: request.commands.clone(),
            max_associations: request.max_associations,
            not_before: Some(clock::timestamp(now)),
            expire_time: Some(clock::timestamp(now + lifetime)),
            reset_id: request.reset_id.clone(),
        };
        let entry = Entry {
            permit_id: permit.permit_id.clone(),
            policy_ids: policy_ids.clone(),
            detail: format!("allowed for {} s", request.lifetime_seconds),
            ..entry_of(EntryKind::Intent, caller, request)
        };
        Draft {
            entry,
            key: Some(key),
            effect: Effect::Permit(Box::new(permit), policy_ids),
        }
    }

    /// The signed permit of a receipt, signed now if it was not yet.
    async fn hand_out(
        &self,
        key: &RequestKey,
        receipt: Receipt,
    ) -> Result<AuthoriseResponse, Error> {
        let (signature, key_id) = if receipt.key_id.is_empty() {
            crash_point(crash::BEFORE_SIGN_PERMIT);
            let message = permit::signing_input(&receipt.permit);
            let signature = self.signer.sign(PERMIT_KEY, &message).await?.to_vec();
            crash_point(crash::AFTER_SIGN_PERMIT);
            let key_id = self.keys.permit.key_id();
            self.store
                .put_signature(key.scope, &key.request_id, &signature, &key_id)
                .await
                .map_err(|e| Error::TrailUnwritable(Some(e)))?;
            crash_point(crash::AFTER_STORE_PERMIT);
            (signature, key_id)
        } else {
            (receipt.signature, receipt.key_id)
        };
        Ok(AuthoriseResponse {
            permit: Some(SignedPermit {
                body: receipt.permit,
                signature,
                key_id,
            }),
            policy_ids: receipt.policy_ids,
        })
    }

    /// Records a refusal, and returns the error for the caller: the refusal itself, unless it could not be
    /// recorded.
    async fn refuse(
        &self,
        caller: &PeerName,
        request: &AuthoriseRequest,
        policy_ids: Vec<String>,
        error: Error,
    ) -> Error {
        let has_id = kit::check::uuid(&request.request_id).is_ok();
        let body = request.encode_to_vec();
        // Once per request, not per id: an id that was used before must not keep a denial out of the trail.
        let key = has_id.then(|| RequestKey::new(DENIAL, &request.request_id, caller, &body));
        let key = key.map(|key| RequestKey {
            request_id: format!("{}/{}", key.request_id, hex(&key.digest)),
            ..key
        });
        let entry = Entry {
            policy_ids,
            detail: clip(&error.to_string(), DETAIL),
            ..if matches!(error, Error::Invalid(_)) {
                malformed(caller, request)
            } else {
                entry_of(EntryKind::Denial, caller, request)
            }
        };
        let draft = Draft {
            entry,
            key,
            effect: Effect::None,
        };
        match self.sequencer.append(draft).await {
            Ok(_) => error,
            Err(worse) => worse,
        }
    }

    /// Appends what another service or person reports.
    pub(crate) async fn record(
        &self,
        caller: &PeerName,
        request: RecordRequest,
    ) -> Result<u64, Error> {
        let Some(mut entry) = request.entry else {
            let fault = ("entry".to_owned(), "is required".to_owned());
            return Err(Error::Invalid(vec![fault]));
        };
        request::entry(&request.request_id, &entry)?;
        let kind = entry.kind();
        let reporter = self.config.reporter(caller);
        if !reporter.is_some_and(|reporter| reporter.reports(kind)) {
            return Err(self.refuse_report(caller, kind).await);
        }
        // what the auditor sets is no part of the request
        entry.schema_version = 0;
        entry.append_time = None;
        entry.reporter = caller.to_string();
        let key = RequestKey::new(RECORD, &request.request_id, caller, &entry.encode_to_vec());
        let placed = self.sequencer.append(Draft {
            entry,
            key: Some(key),
            effect: Effect::None,
        });
        Ok(placed.await?.receipt.leaf_index)
    }

    /// Somebody reports what another saw: that is worth an entry of its own.
    async fn refuse_report(&self, caller: &PeerName, kind: EntryKind) -> Error {
        let error = Error::ReportForbidden {
            peer: caller.to_string(),
            kind: kind.as_str_name(),
        };
        let mut denial = self.own_entry(EntryKind::Denial, clip(&error.to_string(), DETAIL));
        denial.principal = caller.to_string();
        match self.append(denial, None, Effect::None).await {
            Ok(_) => error,
            Err(worse) => worse,
        }
    }

    /// Puts a network on the allowlist, or takes it off; returns the version of the list after it.
    pub(crate) async fn change_allowlist(
        &self,
        caller: &PeerName,
        change: Change<'_>,
    ) -> Result<u64, Error> {
        let name = caller.to_string();
        let roles = self.roles_of(&name);
        let subject = Subject {
            name: &name,
            roles: &roles,
        };
        let mut entry = self.own_entry(EntryKind::Allowlist, change.to_string());
        entry.reporter.clone_from(&name);
        entry.principal.clone_from(&name);
        entry.reason = change.reason.unwrap_or_default().to_owned();
        if let Decision::Denied { policy_ids, cause } =
            self.policy.decide_allowlist(subject, change.side)
        {
            entry.kind = EntryKind::Denial.into();
            entry.policy_ids = policy_ids;
            entry.detail = clip(&format!("denied: {cause}"), DETAIL);
            self.append(entry, None, Effect::None).await?;
            return Err(Error::Denied { cause });
        }
        let effect = change.effect(name);
        Ok(self.append(entry, None, effect).await?.version)
    }

    /// Tells the trail that this process runs, and under which policy; and sows the allowlist.
    pub(crate) async fn announce(&self) -> Result<(), Error> {
        // the debug form holds paths and names, no secret; its digest tells one configuration from another
        let config = digest::digest(&digest::SHA256, format!("{:?}", self.config).as_bytes());
        let config = hex(config.as_ref());
        let version = env!("CARGO_PKG_VERSION");
        let dumps = self.config.memory.allow_dumps;
        let detail = format!(
            "auditor {version}, memory.allow_dumps = {dumps}, configuration sha256:{config}"
        );
        let start = self.own_entry(EntryKind::Start, detail);
        self.append(start, None, Effect::None).await?;
        let policy = self.own_entry(EntryKind::Policy, self.policy.summary().to_owned());
        self.append(policy, None, Effect::None).await?;
        for seed in &self.config.allowlist {
            self.sow(seed).await?;
        }
        Ok(())
    }

    /// That its TLS certificate is about to end.
    pub(crate) async fn report_certificate(&self, story: String) -> Result<(), Error> {
        let entry = self.own_entry(EntryKind::Certificate, story);
        self.append(entry, None, Effect::None).await.map(drop)
    }

    /// Each network once for ever: the receipt stays, so that what somebody removed does not come back.
    async fn sow(&self, seed: &Seed) -> Result<(), Error> {
        let own_name = self.config.own_name();
        let side = match seed.side {
            Side::Source => AllowlistSide::Source,
            Side::Meter => AllowlistSide::Meter,
        };
        let change = Change {
            side,
            network: seed.network,
            reason: Some(&seed.reason),
        };
        let mut entry = self.own_entry(EntryKind::Allowlist, change.to_string());
        entry.reason.clone_from(&seed.reason);
        let key = RequestKey {
            scope: SEED,
            request_id: change.to_string(),
            digest: Vec::new(),
        };
        let effect = change.effect(own_name);
        self.append(entry, Some(key), effect).await.map(drop)
    }

    async fn append(
        &self,
        entry: Entry,
        key: Option<RequestKey>,
        effect: Effect,
    ) -> Result<Placed, Error> {
        let draft = Draft { entry, key, effect };
        self.sequencer.append(draft).await
    }

    async fn known(&self, key: &RequestKey) -> Result<Option<Placed>, Error> {
        let found = self.store.receipt(key.scope, &key.request_id).await;
        let receipt = found.map_err(Error::TrailUnreadable)?;
        receipt
            .map(|receipt| sequencer::same_request(key, receipt))
            .transpose()
    }

    fn roles_of(&self, name: &str) -> Vec<&'static str> {
        let peer = name.parse::<PeerName>();
        peer.map_or_else(|_| Vec::new(), |peer| self.config.roles_of(&peer))
    }

    fn own_entry(&self, kind: EntryKind, detail: String) -> Entry {
        Entry {
            kind: kind.into(),
            reporter: self.config.own_name(),
            detail,
            request_id: context::request_id(),
            ..Entry::default()
        }
    }
}

/// A change of the allowlist.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) side: AllowlistSide,
    pub(crate) network: Network,
    /// Why it is put there; `None` takes it off.
    pub(crate) reason: Option<&'a str>,
}

impl Change<'_> {
    fn effect(self, by: String) -> Effect {
        let network = self.network.to_string();
        match self.reason {
            None => Effect::Disallow(self.side, network),
            Some(reason) => Effect::Allow(AllowlistEntry {
                side: self.side.into(),
                network,
                reason: reason.to_owned(),
                added_by: by,
                add_time: None,
            }),
        }
    }
}

impl std::fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.reason.is_some() {
            "added"
        } else {
            "removed"
        };
        let side = match self.side {
            AllowlistSide::Unspecified => "no side",
            AllowlistSide::Source => "source",
            AllowlistSide::Meter => "meter",
        };
        write!(f, "{verb} {side} {}", self.network)
    }
}

impl RequestKey {
    fn new(scope: &'static str, request_id: &str, caller: &PeerName, body: &[u8]) -> Self {
        let mut hasher = digest::Context::new(&digest::SHA256);
        hasher.update(caller.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(body);
        Self {
            scope,
            request_id: request_id.to_owned(),
            digest: hasher.finish().as_ref().to_vec(),
        }
    }
}

/// What an entry says of a plan. Parameters only as digests.
fn entry_of(kind: EntryKind, caller: &PeerName, request: &AuthoriseRequest) -> Entry {
    Entry {
        kind: kind.into(),
        reporter: caller.to_string(),
        principal: request.on_behalf_of.clone(),
        meter_id: request.meter_id.clone(),
        reset_id: request.reset_id.clone(),
        purpose: request.purpose,
        tier: request.tier,
        commands: request.commands.iter().map(digest_of).collect(),
        reason: request.reason.clone(),
        ticket: request.ticket.clone(),
        request_id: context::request_id(),
        ..Entry::default()
    }
}

/// The same of a request that is none: only what can be trusted to be what it says, and no commands.
fn malformed(caller: &PeerName, request: &AuthoriseRequest) -> Entry {
    let mut entry = Entry {
        commands: Vec::new(),
        reason: clip(&request.reason, 256),
        ticket: clip(&request.ticket, 64),
        ..entry_of(EntryKind::Denial, caller, request)
    };
    if request.on_behalf_of.parse::<PeerName>().is_err() {
        entry.principal.clear();
    }
    if kit::check::meter_id(&entry.meter_id).is_err() {
        entry.meter_id.clear();
    }
    if kit::check::uuid(&entry.reset_id).is_err() {
        entry.reset_id.clear();
    }
    entry
}

fn digest_of(command: &Command) -> CommandDigest {
    let mut hasher = digest::Context::new(&digest::SHA256);
    hasher.update(&command.parameter);
    hasher.update(&command.selection);
    CommandDigest {
        service: command.service,
        class_id: command.class_id,
        logical_name: command.logical_name.clone(),
        index: command.index,
        digest: hasher.finish().as_ref().to_vec(),
    }
}

/// At most so many characters, none of them a control character.
fn clip(text: &str, max: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(max)
        .collect()
}
