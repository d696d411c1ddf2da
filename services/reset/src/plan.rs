//! Which commands a reset needs: exactly these go into its permits, and nothing else is ever sent.

use dlms::Selection;
use latchkey_proto::audit::v1::Command;
use machine::{Rules, Survey, Tier};

use crate::profile::{Object, Operation, Profile};

/// How many of the newest events are read before the command; those after it come on top.
const EVENTS_BEFORE: u32 = 8;
/// Commands of one request.
pub(crate) const LIST_MAX: usize = 16;

/// One fact that is read from a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    Identity,
    ImageTransfer,
    ClockTime,
    ClockStatus,
    FirmwareMetrology,
    FirmwareModule,
    PowerFailures,
    Uptime,
    EventEntries,
    EventCapacity,
    Events,
    LoadProfileEntries,
    LoadProfileNewest,
    RelayOutput,
    RelayState,
    RelayMode,
}

impl Fact {
    /// Whether its answer is short: a few octets, so that several fit one answer of the meter. The rows of a log are
    /// not, and a meter that cannot read them would say nothing of the others either.
    const fn is_short(self) -> bool {
        !matches!(self, Self::Events | Self::LoadProfileNewest)
    }
}

/// Readings that can go in one request, in their order.
pub(crate) fn runs(readings: &[(Fact, Command)]) -> impl Iterator<Item = &[(Fact, Command)]> {
    readings
        .chunk_by(|(one, _), (next, _)| one.is_short() && next.is_short())
        .flat_map(|run| run.chunks(LIST_MAX))
}

/// Where the logs end: attribute 7 of each.
pub(crate) fn survey(profile: &Profile) -> Vec<Command> {
    let objects = &profile.objects;
    let logs = [objects.event_log, objects.load_profile];
    logs.into_iter().flatten().map(entries_in_use).collect()
}

/// Attribute 7 of a profile generic.
pub(crate) fn entries_in_use(log: Object) -> Command {
    log.get(7)
}

/// Everything that guards, evidence and validation read, in the order in which it is read: the relay last, seconds
/// before the command.
pub(crate) fn readings(profile: &Profile, survey: Survey) -> Vec<(Fact, Command)> {
    let o = &profile.objects;
    let mut readings = vec![
        (Fact::Identity, o.identity.get(2)),
        (Fact::ImageTransfer, o.image_transfer.get(6)),
        (Fact::FirmwareMetrology, o.firmware_metrology.get(2)),
        (Fact::FirmwareModule, o.firmware_module.get(2)),
    ];
    readings.extend(
        o.power_failures
            .map(|object| (Fact::PowerFailures, object.get(2))),
    );
    if let (Some(log), Some(entries)) = (o.event_log, survey.events) {
        let from = entries.saturating_sub(EVENTS_BEFORE - 1).max(1);
        readings.push((Fact::EventEntries, entries_in_use(log)));
        readings.push((Fact::EventCapacity, log.get(8)));
        readings.push((Fact::Events, newest(log, from, 2)));
    }
    if let (Some(profile), Some(entries)) = (o.load_profile, survey.load_profile) {
        readings.push((Fact::LoadProfileEntries, entries_in_use(profile)));
        // Column 1 is the clock: whether the entries survived needs their times, never their values.
        readings.push((Fact::LoadProfileNewest, newest(profile, entries.max(1), 1)));
    }
    readings.extend(o.uptime.map(|object| (Fact::Uptime, object.get(2))));
    readings.extend([
        (Fact::ClockTime, o.clock.get(2)),
        (Fact::ClockStatus, o.clock.get(4)),
        (Fact::RelayOutput, o.relay.get(2)),
        (Fact::RelayState, o.relay.get(3)),
        (Fact::RelayMode, o.relay.get(4)),
    ]);
    readings
}

/// The entries of a log from one on, and its first columns. "Up to the highest there is" makes one command serve
/// before and after (class 7, selector 2: entry 1 is the oldest, 0 the end).
pub(crate) fn newest(log: Object, from_entry: u32, to_column: u16) -> Command {
    let selection = Selection::Entry {
        from_entry,
        to_entry: 0,
        from_column: 1,
        to_column,
    };
    Command {
        selection: selection.encode(),
        ..log.get(2)
    }
}

/// The invocation counter, for the public client; `None` if the meter has none or its name is no logical name.
pub(crate) fn counter(name: &str) -> Option<Command> {
    let name = name.parse().ok()?;
    Some(Object { class_id: 1, name }.get(2))
}

/// Everything but the act: what may still be read once a reset's own permit has expired.
pub(crate) fn evidence(profile: &Profile, survey: Survey, counter_name: &str) -> Vec<Command> {
    let readings = readings(profile, survey)
        .into_iter()
        .map(|(_, command)| command);
    readings.chain(counter(counter_name)).collect()
}

/// The whole of one tier of one reset.
pub(crate) fn reset(
    profile: &Profile,
    operation: &Operation,
    survey: Survey,
    counter_name: &str,
) -> Vec<Command> {
    let mut commands = evidence(profile, survey, counter_name);
    commands.push(operation.command());
    commands
}

/// What the machine needs to know of the profile; the rest of the rules is the caller's.
pub(crate) fn rules(
    profile: &Profile,
    operation: &Operation,
    tier: Tier,
    limits: machine::Limits,
    seed: u64,
) -> Rules {
    Rules {
        tier,
        action: operation.to_string(),
        identity: None,
        latching_verified: profile.latching_verified,
        expect: operation.expect.clone(),
        tripwires: profile.tripwire_events.clone(),
        limits,
        profile: profile.digest(operation),
        seed,
    }
}

#[cfg(test)]
mod tests {
    use latchkey_proto::audit::v1::CommandService;

    use super::*;
    use crate::profile::Profiles;

    #[test]
    fn a_plan_has_one_act_and_never_touches_the_relay() {
        let profiles = Profiles::load(None).expect("good");
        let survey = Survey {
            events: Some(3),
            load_profile: Some(96),
        };
        for (name, tier) in [
            ("standard", Tier::Soft),
            ("standard", Tier::Warm),
            ("standard", Tier::Cold),
            ("procedure", Tier::Cold),
        ] {
            let profile = profiles.get(name).expect("there");
            let operation = profile.operation(tier).expect("there");
            let commands = reset(profile, operation, survey, "0.0.43.1.0.255");
            let acts: Vec<_> = commands
                .iter()
                .filter(|c| c.service() != CommandService::Get)
                .collect();
            assert!(
                matches!(acts.as_slice(), [act] if act.service() == CommandService::Action && act.max_uses == 1)
            );
            assert!(acts.iter().all(|act| act.class_id != 70));
            assert!(commands.len() <= 64);
            // the profile's values are never asked for: only entries, only the clock
            for command in commands
                .iter()
                .filter(|c| c.logical_name == "1.0.99.1.0.255" && c.index == 2)
            {
                let selection = Selection::decode(&command.selection).expect("a selection");
                assert!(matches!(
                    selection,
                    Selection::Entry {
                        from_entry: 96,
                        from_column: 1,
                        to_column: 1,
                        ..
                    }
                ));
            }
            assert!(survey_is_subset(profile));
        }
    }

    fn survey_is_subset(profile: &Profile) -> bool {
        survey(profile)
            .iter()
            .all(|command| command.service() == CommandService::Get && command.index == 7)
    }

    #[test]
    fn the_newest_events_are_asked_for() {
        let profiles = Profiles::load(None).expect("good");
        let profile = profiles.get("standard").expect("there");
        for (entries, from) in [(0, 1), (1, 1), (8, 1), (9, 2), (100, 93)] {
            let survey = Survey {
                events: Some(entries),
                load_profile: None,
            };
            let readings = readings(profile, survey);
            let (_, command) = readings
                .iter()
                .find(|(fact, _)| *fact == Fact::Events)
                .expect("there");
            let selection = Selection::decode(&command.selection).expect("a selection");
            assert!(
                matches!(selection, Selection::Entry { from_entry, to_entry: 0, .. } if from_entry == from)
            );
        }
    }
}
