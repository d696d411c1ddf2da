//! The auditor, as seen from here: permits, and entries of the trail.

use kit::{Channel, Trail, clock};
use latchkey_proto::audit::v1::{
    AuthoriseRequest, Command, CommandDigest, Entry, EntryKind, Permit, Purpose, SignedPermit,
    Tier, permit_service_client::PermitServiceClient,
};
use machine::Record;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::Status;
use uuid::Uuid;

use crate::store::Order;

/// Longest text of an entry.
const DETAIL_MAX: usize = 1024;
const REASON_MAX: usize = 256;
/// A permit is not used any more this long before it expires: a call with it must still be under way then.
const PERMIT_MARGIN_SECONDS: u64 = 30;

/// A client of the auditor.
#[derive(Debug, Clone)]
pub(crate) struct Office {
    permits: PermitServiceClient<Channel>,
    trail: Trail,
}

/// What a permit is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Plea<'a> {
    pub(crate) request_id: String,
    pub(crate) meter_id: &'a str,
    pub(crate) purpose: Purpose,
    pub(crate) tier: Tier,
    pub(crate) commands: Vec<Command>,
    pub(crate) principal: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) ticket: &'a str,
    pub(crate) reset_id: &'a str,
    pub(crate) max_associations: u32,
    pub(crate) lifetime_seconds: u32,
    pub(crate) validate_only: bool,
}

/// A signed permit, and what is read off it without checking it: key custody does that.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    pub(crate) signed: SignedPermit,
    pub(crate) permit: Permit,
}

impl Leave {
    /// From what the auditor gave.
    pub(crate) fn new(signed: SignedPermit) -> Option<Self> {
        let permit = Permit::decode(signed.body.as_slice()).ok()?;
        Some(Self { signed, permit })
    }

    /// From what was stored.
    pub(crate) fn decode(octets: &[u8]) -> Option<Self> {
        if octets.is_empty() {
            return None;
        }
        SignedPermit::decode(octets).ok().and_then(Self::new)
    }

    /// Whether there is time left to use it.
    pub(crate) fn is_fresh(&self) -> bool {
        let expiry = self
            .permit
            .expire_time
            .as_ref()
            .and_then(clock::from_timestamp);
        let margin = std::time::Duration::from_secs(PERMIT_MARGIN_SECONDS);
        expiry.is_some_and(|expiry| clock::now() + margin < expiry)
    }
}

impl Office {
    pub(crate) fn new(channel: Channel, trail: Trail) -> Self {
        Self {
            permits: PermitServiceClient::new(channel),
            trail,
        }
    }

    /// Asks. `None` is a yes without a permit: it was only a question.
    pub(crate) async fn authorise(&self, plea: Plea<'_>) -> Result<Option<Leave>, Status> {
        let request = AuthoriseRequest {
            request_id: plea.request_id,
            meter_id: plea.meter_id.to_owned(),
            purpose: plea.purpose.into(),
            tier: plea.tier.into(),
            commands: plea.commands,
            on_behalf_of: plea.principal.to_owned(),
            reason: plea.reason.to_owned(),
            ticket: plea.ticket.to_owned(),
            reset_id: plea.reset_id.to_owned(),
            max_associations: plea.max_associations,
            lifetime_seconds: plea.lifetime_seconds,
            validate_only: plea.validate_only,
        };
        let response = self.permits.clone().authorise(request).await?;
        Ok(response.into_inner().permit.and_then(Leave::new))
    }

    /// Appends an entry under a request id of ours; its leaf.
    pub(crate) async fn deliver(&self, request_id: &str, entry: Entry) -> Result<u64, Status> {
        self.trail.record_as(request_id.to_owned(), entry).await
    }
}

/// The entry that a record of the machine becomes.
pub(crate) fn entry(
    order: &Order,
    permit_id: &str,
    commands: &[Command],
    record: &Record,
) -> Entry {
    let common = Entry {
        principal: order.principal.clone(),
        meter_id: order.meter_id.clone(),
        reset_id: order.reset_id.clone(),
        permit_id: permit_id.to_owned(),
        purpose: Purpose::Reset.into(),
        tier: tier(order.tier).into(),
        reason: order.reason.clone(),
        ticket: order.ticket.clone(),
        request_id: order.request_id.clone(),
        ..Entry::default()
    };
    match record {
        Record::Outcome {
            attempt,
            detail,
            counter,
        } => Entry {
            kind: EntryKind::Outcome.into(),
            commands: digests(commands),
            detail: limited(&format!("attempt {attempt}: {detail}"), DETAIL_MAX),
            invocation_counter: *counter,
            ..common
        },
        Record::Verdict(outcome) => Entry {
            kind: match outcome.verdict {
                Some(_) => EntryKind::Verdict.into(),
                None => EntryKind::Outcome.into(),
            },
            verdict: outcome
                .verdict
                .map_or("", machine::Verdict::name)
                .to_owned(),
            detail: limited(&outcome.detail, DETAIL_MAX),
            ..common
        },
    }
}

/// Commands as the trail may hold them.
pub(crate) fn digests(commands: &[Command]) -> Vec<CommandDigest> {
    let digest = |command: &Command| CommandDigest {
        service: command.service,
        class_id: command.class_id,
        logical_name: command.logical_name.clone(),
        index: command.index,
        digest: Sha256::new()
            .chain_update(&command.parameter)
            .chain_update(&command.selection)
            .finalize()
            .to_vec(),
    };
    commands.iter().map(digest).collect()
}

/// A caller's text as the trail takes it.
pub(crate) fn reason(text: &str) -> String {
    limited(text, REASON_MAX)
}

/// Without control characters, and no longer than allowed.
pub(crate) fn limited(text: &str, max: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(max)
        .collect()
}

/// The tier on the wire.
pub(crate) fn tier(tier: machine::Tier) -> Tier {
    match tier {
        machine::Tier::Soft => Tier::Soft,
        machine::Tier::Warm => Tier::Warm,
        machine::Tier::Cold => Tier::Cold,
    }
}

/// The request id of the n-th permit of a reset: the same after a crash, so that the auditor gives the same permit.
pub(crate) fn permit_request_id(reset_id: &str, number: u32) -> String {
    derived(
        b"latchkey-reset-permit\n",
        &[reset_id.as_bytes(), &number.to_be_bytes()],
    )
}

/// The request id of the permit for an attempt of a rotation: the same after a crash.
pub(crate) fn rotation_request_id(rotation_id: &str, attempt: u32) -> String {
    derived(
        b"latchkey-rotation-permit\n",
        &[rotation_id.as_bytes(), &attempt.to_be_bytes()],
    )
}

/// The request id of a permit for a single command. The auditor knows one caller, this service: an id as a person chose
/// it could be that of somebody else's request, or of the next permit of a reset, which would then get none.
pub(crate) fn visit_request_id(principal: &str, request_id: &str) -> String {
    let parts = [principal.as_bytes(), b"\n", request_id.as_bytes()];
    derived(b"latchkey-visit-permit\n", &parts)
}

fn derived(what: &[u8], parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new().chain_update(what);
    for part in parts {
        digest.update(part);
    }
    let mut octets = [0; 16];
    for (octet, from) in octets.iter_mut().zip(digest.finalize().iter()) {
        *octet = *from;
    }
    uuid::Builder::from_custom_bytes(octets)
        .into_uuid()
        .to_string()
}

/// A number for the jitter of a reset: the random part of its id.
pub(crate) fn seed(reset_id: &str) -> u64 {
    Uuid::try_parse(reset_id).map_or(0, |id| id.as_u64_pair().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_repeatable_and_distinct() {
        let (a, b) = (
            "0190b6a0-0000-7000-8000-000000000001",
            "0190b6a0-0000-7000-8000-000000000002",
        );
        assert_eq!(permit_request_id(a, 1), permit_request_id(a, 1));
        assert_ne!(permit_request_id(a, 1), permit_request_id(a, 2));
        assert_ne!(permit_request_id(a, 1), permit_request_id(b, 1));
        assert!(kit::check::uuid(&permit_request_id(a, 1)).is_ok());
        // nobody chooses another's
        let next = permit_request_id(a, 2);
        assert_ne!(visit_request_id("alice", &next), next);
        assert_ne!(visit_request_id("alice", a), visit_request_id("bob", a));
        assert_eq!(visit_request_id("bob", a), visit_request_id("bob", a));
    }

    #[test]
    fn parameters_do_not_reach_the_trail() {
        let command = Command {
            parameter: vec![0x12, 0, 3],
            ..Command::default()
        };
        let digests = digests(&[command]);
        let [digest] = digests.as_slice() else {
            panic!("one in, one out")
        };
        assert_eq!(
            hex::encode(&digest.digest),
            hex::encode(Sha256::digest([0x12, 0, 3]))
        );
    }

    #[test]
    fn texts_fit_the_trail() {
        assert_eq!(limited("a\nb", 10), "a b");
        assert_eq!(limited("abc", 2), "ab");
    }
}
