//! How a reset comes to be: looked up, planned, checked for a request that was made before, stored, begun.

use machine::{Limits, Millis, Reset, Survey, Tier};
use sha2::{Digest as _, Sha256};

use kit::clock;
use latchkey_proto::{
    association::v1::Meter,
    audit::v1::Purpose,
    reset::v1::{Reset as ResetMessage, ResetState},
};

use crate::{
    crew::Crew,
    driver::{self, Deps},
    error::Error,
    fit,
    office::{self, Plea},
    plan,
    profile::{Operation, Profile},
    store::{Created, Order, Row},
};

/// What a caller wants, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) request_id: String,
    pub(crate) meter_id: String,
    pub(crate) tier: Tier,
    pub(crate) reason: String,
    pub(crate) ticket: String,
    pub(crate) principal: String,
    pub(crate) validate_only: bool,
}

impl Wish {
    /// What makes two requests the same: everything but their id.
    fn digest(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        for part in [
            &self.meter_id,
            self.tier.name(),
            &self.reason,
            &self.ticket,
            &self.principal,
        ] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().to_vec()
    }
}

/// Creates a reset, or finds the one that the same request created.
pub(crate) async fn create(deps: &Deps, crew: &Crew, wish: &Wish) -> Result<ResetMessage, Error> {
    if let Some(row) = deps.store.by_request(&wish.request_id).await? {
        return known(wish, &row);
    }
    let meter = deps.meters.meter(&wish.meter_id).await?;
    let profile = profile(deps, &meter)?;
    let operation = operation(profile, wish.tier)?;
    if wish.validate_only {
        let fit = rehearse(deps, wish, &meter, profile, operation).await?;
        return Ok(imagined(wish, &fit));
    }
    let order = Order {
        reset_id: kit::context::new_id(),
        request_id: wish.request_id.clone(),
        request_digest: wish.digest(),
        meter_id: wish.meter_id.clone(),
        tier: wish.tier,
        reason: wish.reason.clone(),
        ticket: wish.ticket.clone(),
        principal: wish.principal.clone(),
        profile: profile.name.clone(),
    };
    let since = meter.create_time.as_ref().and_then(clock::from_timestamp);
    let identity = deps
        .store
        .identity(&wish.meter_id, since.map_or(0, clock::micros))
        .await?;
    let now = driver::now();
    let seed = office::seed(&order.reset_id);
    let rules = machine::Rules {
        identity,
        ..plan::rules(
            profile,
            operation,
            wish.tier,
            limits(deps, operation, now),
            seed,
        )
    };
    let (machine, marks, _) = Reset::begin(rules, now).into_parts();
    match deps.store.create(&order, &machine, &marks).await? {
        Created::New => {}
        Created::Known(row) => return known(wish, &row),
        Created::UnderWay(reset_id) => {
            return Err(Error::ResetUnderWay {
                meter_id: wish.meter_id.clone(),
                reset_id,
            });
        }
    }
    let row = deps.store.load(&order.reset_id).await?;
    let row = row.ok_or_else(|| Error::ResetUnknown(order.reset_id.clone()))?;
    let message = message(&row);
    crew.start(row);
    Ok(message)
}

/// The profile of a meter.
pub(crate) fn profile<'a>(deps: &'a Deps, meter: &Meter) -> Result<&'a Profile, Error> {
    deps.profiles
        .get(&meter.profile)
        .ok_or_else(|| Error::ProfileUnknown {
            meter_id: meter.meter_id.clone(),
            profile: meter.profile.clone(),
        })
}

fn operation(profile: &Profile, tier: Tier) -> Result<&Operation, Error> {
    profile.operation(tier).ok_or_else(|| {
        let has = profile.tier_names();
        Error::field(
            "tier",
            format!(
                "is {}, but the meter's profile {:?} has only: {has}",
                tier.name(),
                profile.name
            ),
        )
    })
}

fn known(wish: &Wish, row: &Row) -> Result<ResetMessage, Error> {
    if row.order.request_digest == wish.digest() && !wish.validate_only {
        Ok(message(row))
    } else {
        Err(Error::RequestReused(wish.request_id.clone()))
    }
}

/// Asks policy about the whole plan, and how it would cross the meter's link; and does nothing. The line says the latter.
async fn rehearse(
    deps: &Deps,
    wish: &Wish,
    meter: &Meter,
    profile: &Profile,
    operation: &Operation,
) -> Result<String, Error> {
    let survey = Survey {
        events: Some(1),
        load_profile: Some(1),
    };
    let commands = plan::reset(profile, operation, survey, &meter.invocation_counter_name);
    let plea = Plea {
        request_id: wish.request_id.clone(),
        meter_id: &wish.meter_id,
        purpose: Purpose::Reset,
        tier: office::tier(wish.tier),
        commands: commands.clone(),
        principal: &wish.principal,
        reason: &wish.reason,
        ticket: &wish.ticket,
        reset_id: "",
        max_associations: deps.config.associations_max(),
        lifetime_seconds: deps.config.permit_lifetime_seconds,
        validate_only: true,
    };
    deps.office.authorise(plea).await.map_err(Error::Upstream)?;
    let fits = deps.meters.plan(&wish.meter_id, commands).await;
    match fits.map_err(Error::Upstream)? {
        Some(fits) => fit::line(&fits),
        None => Ok(String::new()),
    }
}

/// What a rehearsal shows: a reset that was not created.
fn imagined(wish: &Wish, fit: &str) -> ResetMessage {
    let mut detail = "policy and plan allow it; nothing was done".to_owned();
    if !fit.is_empty() {
        detail = format!("{detail}; {fit}");
    }
    let now = clock::timestamp(clock::now());
    ResetMessage {
        meter_id: wish.meter_id.clone(),
        tier: office::tier(wish.tier).into(),
        reason: wish.reason.clone(),
        ticket: wish.ticket.clone(),
        principal: wish.principal.clone(),
        state: ResetState::Planned.into(),
        detail,
        create_time: Some(now),
        update_time: Some(now),
        ..ResetMessage::default()
    }
}

fn limits(deps: &Deps, operation: &Operation, now: Millis) -> Limits {
    let config = &deps.config;
    let outage_ms = operation.outage_seconds * 1000;
    let rejoin_ms = config.rejoin_seconds.max(operation.outage_seconds) * 1000;
    let temporary_failure_ms = config.temporary_failure_wait_seconds * 1000;
    let attempts = u64::from(config.attempts_max);
    // Every attempt with its longest waits, and as long again for services that are down.
    let deadline = now.plus(attempts * 2 * (rejoin_ms + temporary_failure_ms + outage_ms));
    Limits {
        outage_ms,
        rejoin_ms,
        poll_ms: config.poll_seconds * 1000,
        temporary_failure_ms,
        attempts_max: config.attempts_max,
        permits_max: config.attempts_max.saturating_mul(4),
        failures_max: 5,
        deadline,
    }
}

/// A reset as it goes out.
pub(crate) fn message(row: &Row) -> ResetMessage {
    let outcome = row.machine.outcome().or_else(|| row.machine.cancellation());
    let timestamp = |micros| Some(clock::timestamp(clock::from_micros(micros)));
    ResetMessage {
        reset_id: row.order.reset_id.clone(),
        meter_id: row.order.meter_id.clone(),
        tier: office::tier(row.order.tier).into(),
        reason: row.order.reason.clone(),
        ticket: row.order.ticket.clone(),
        principal: row.order.principal.clone(),
        state: state(row.machine.phase()).into(),
        verdict: outcome
            .and_then(|o| o.verdict)
            .map_or(0, |v| verdict(v).into()),
        detail: outcome.map_or_else(String::new, |o| office::limited(&o.detail, 1024)),
        exit_code: outcome.map_or(0, machine::Outcome::exit_code),
        create_time: timestamp(row.create_us),
        update_time: timestamp(row.update_us),
    }
}

fn state(phase: machine::Phase) -> ResetState {
    match phase {
        machine::Phase::Planned => ResetState::Planned,
        machine::Phase::Guarding => ResetState::Guarding,
        machine::Phase::Acting => ResetState::Acting,
        machine::Phase::Probing => ResetState::Probing,
        machine::Phase::Waiting => ResetState::Waiting,
        machine::Phase::Validating => ResetState::Validating,
        machine::Phase::Done => ResetState::Done,
        machine::Phase::Cancelled => ResetState::Cancelled,
    }
}

fn verdict(verdict: machine::Verdict) -> latchkey_proto::reset::v1::Verdict {
    use latchkey_proto::reset::v1::Verdict as Message;
    match verdict {
        machine::Verdict::Succeeded => Message::Succeeded,
        machine::Verdict::NoOp => Message::NoOp,
        machine::Verdict::Partial => Message::Partial,
        machine::Verdict::NotAccepted => Message::NotAccepted,
        machine::Verdict::ZombieResolved => Message::ZombieResolved,
        machine::Verdict::Unreachable => Message::Unreachable,
        machine::Verdict::Refused => Message::Refused,
        machine::Verdict::DataRisk => Message::DataRisk,
        machine::Verdict::SupplyChanged => Message::SupplyChanged,
    }
}
