//! What a request must be before it is looked at further. All faults are reported at once.

use kit::{PeerName, check};
use latchkey_proto::audit::v1::{
    AuthoriseRequest, Command, CommandDigest, CommandService, Entry, EntryKind, Purpose, Tier,
};

use crate::error::Error;
use crate::policy::canonical_name;

const COMMANDS: usize = 64;
/// `key_agreement`, and the transfer that confirms what was agreed.
const REKEY_COMMANDS: usize = 2;
const PARAMETER: usize = 2048;
const SELECTION: usize = 512;
const MAX_USES: u32 = 16;
const ASSOCIATIONS: u32 = 1024;
const LIFETIME_SECONDS: u32 = 24 * 60 * 60;
const POLICY_IDS: usize = 64;

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<(String, String)>);

impl Faults {
    /// Remembers what a check found.
    pub(crate) fn note(&mut self, field: impl Into<String>, found: Result<(), String>) {
        if let Err(why) = found {
            self.0.push((field.into(), why));
        }
    }

    /// An error if there was any.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(self.0))
        }
    }
}

/// Whether a plan is one. What may be in it is for policy to say.
pub(crate) fn plan(request: &AuthoriseRequest) -> Result<(), Error> {
    let mut faults = Faults::default();
    faults.note("request_id", check::uuid(&request.request_id));
    faults.note("meter_id", check::meter_id(&request.meter_id));
    faults.note("on_behalf_of", peer(&request.on_behalf_of));
    faults.note("reason", check::text(&request.reason, 1, 256));
    faults.note("ticket", check::text(&request.ticket, 0, 64));
    let count = request.commands.len();
    let (purpose, tier) = (request.purpose(), request.tier());
    let number = match purpose {
        Purpose::Unspecified => Err("is required".to_owned()),
        Purpose::Connect => Ok(0..=0),
        Purpose::Read | Purpose::Reset => Ok(1..=COMMANDS),
        Purpose::Rekey => Ok(1..=REKEY_COMMANDS),
    };
    match number {
        Err(why) => faults.note("purpose", Err(why)),
        Ok(number) => faults.note(
            "commands",
            require(number.contains(&count), || {
                format!(
                    "must be {} to {}, not {count}",
                    number.start(),
                    number.end()
                )
            }),
        ),
    }
    let is_reset = purpose == Purpose::Reset;
    faults.note(
        "tier",
        require(
            is_reset != (tier == Tier::Unspecified) || purpose == Purpose::Unspecified,
            || "is required for PURPOSE_RESET, and for nothing else".to_owned(),
        ),
    );
    let belongs = is_reset || purpose == Purpose::Rekey;
    if !request.reset_id.is_empty() || (belongs && !request.validate_only) {
        faults.note("reset_id", check::uuid(&request.reset_id));
    }
    faults.note(
        "max_associations",
        range(request.max_associations, 1, ASSOCIATIONS),
    );
    faults.note(
        "lifetime_seconds",
        range(request.lifetime_seconds, 1, LIFETIME_SECONDS),
    );
    for (at, command) in request.commands.iter().enumerate().take(COMMANDS) {
        command_faults(&mut faults, &format!("commands[{at}]"), command);
    }
    faults.finish()
}

fn command_faults(faults: &mut Faults, path: &str, command: &Command) {
    let service = command.service();
    let is_get = service == CommandService::Get;
    faults.note(
        format!("{path}.service"),
        require(service != CommandService::Unspecified, || {
            "must be GET, SET or ACTION".to_owned()
        }),
    );
    object_faults(
        faults,
        path,
        command.class_id,
        &command.logical_name,
        command.index,
    );
    faults.note(
        format!("{path}.parameter"),
        at_most(command.parameter.len(), PARAMETER).and_then(|()| {
            require(!is_get || command.parameter.is_empty(), || {
                "belongs to SET and ACTION".to_owned()
            })
        }),
    );
    faults.note(
        format!("{path}.selection"),
        at_most(command.selection.len(), SELECTION).and_then(|()| {
            require(is_get || command.selection.is_empty(), || {
                "belongs to GET".to_owned()
            })
        }),
    );
    faults.note(
        format!("{path}.max_uses"),
        range(command.max_uses, u32::from(!is_get), MAX_USES),
    );
}

fn object_faults(faults: &mut Faults, path: &str, class_id: u32, name: &str, index: i32) {
    faults.note(format!("{path}.class_id"), range(class_id, 1, 65_535));
    faults.note(
        format!("{path}.logical_name"),
        require(canonical_name(name).as_deref() == Some(name), || {
            "must be six dotted numbers, such as 0.0.96.3.10.255".to_owned()
        }),
    );
    faults.note(
        format!("{path}.index"),
        require((1..=127).contains(&index), || {
            "must be from 1 to 127".to_owned()
        }),
    );
}

/// Whether an entry may be recorded by whoever reports it.
pub(crate) fn entry(request_id: &str, entry: &Entry) -> Result<(), Error> {
    let mut faults = Faults::default();
    faults.note("request_id", check::uuid(request_id));
    let refused = match entry.kind() {
        EntryKind::Unspecified => Err("is required".to_owned()),
        EntryKind::Intent | EntryKind::Policy => {
            Err("only the auditor itself records this kind".to_owned())
        }
        EntryKind::Denial
        | EntryKind::Outcome
        | EntryKind::Verdict
        | EntryKind::Key
        | EntryKind::Meter
        | EntryKind::Allowlist
        | EntryKind::Drop
        | EntryKind::Start
        | EntryKind::KeyUse
        | EntryKind::Token
        | EntryKind::Certificate => Ok(()),
    };
    faults.note("entry.kind", refused);
    if !entry.meter_id.is_empty() {
        faults.note("entry.meter_id", check::meter_id(&entry.meter_id));
    }
    for (field, text, max) in [
        ("principal", &entry.principal, 255),
        ("reset_id", &entry.reset_id, 64),
        ("permit_id", &entry.permit_id, 64),
        ("reason", &entry.reason, 256),
        ("ticket", &entry.ticket, 64),
        ("detail", &entry.detail, 1024),
        ("verdict", &entry.verdict, 64),
        ("request_id", &entry.request_id, 64),
    ] {
        faults.note(format!("entry.{field}"), check::text(text, 0, max));
    }
    faults.note(
        "entry.policy_ids",
        at_most(entry.policy_ids.len(), POLICY_IDS),
    );
    for id in entry.policy_ids.iter().take(POLICY_IDS) {
        faults.note("entry.policy_ids", check::text(id, 1, 64));
    }
    faults.note("entry.commands", at_most(entry.commands.len(), COMMANDS));
    for (at, command) in entry.commands.iter().enumerate().take(COMMANDS) {
        digest_faults(&mut faults, &format!("entry.commands[{at}]"), command);
    }
    faults.finish()
}

fn digest_faults(faults: &mut Faults, path: &str, command: &CommandDigest) {
    object_faults(
        faults,
        path,
        command.class_id,
        &command.logical_name,
        command.index,
    );
    faults.note(
        format!("{path}.digest"),
        require(command.digest.len() == 32, || {
            "must be 32 octets of SHA-256".to_owned()
        }),
    );
}

fn peer(name: &str) -> Result<(), String> {
    name.parse::<PeerName>()
        .map(drop)
        .map_err(|_| "must be a peer name: spiffe://TRUST-DOMAIN/PATH".to_owned())
}

fn range(value: u32, min: u32, max: u32) -> Result<(), String> {
    require((min..=max).contains(&value), || {
        format!("must be from {min} to {max}")
    })
}

fn at_most(length: usize, max: usize) -> Result<(), String> {
    require(length <= max, || {
        format!("has {length}, at most {max} allowed")
    })
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> AuthoriseRequest {
        AuthoriseRequest {
            request_id: "0190b6a0-0000-7000-8000-000000000001".to_owned(),
            meter_id: "meter-0001".to_owned(),
            purpose: Purpose::Reset.into(),
            tier: Tier::Cold.into(),
            commands: vec![Command {
                service: CommandService::Action.into(),
                class_id: 9,
                logical_name: "0.0.10.1.0.255".to_owned(),
                index: 1,
                parameter: vec![0x12, 0, 3],
                selection: Vec::new(),
                max_uses: 1,
            }],
            on_behalf_of: "spiffe://latchkey.test/operator/alice".to_owned(),
            reason: "hangs".to_owned(),
            ticket: String::new(),
            reset_id: "0190b6a0-0000-7000-8000-000000000002".to_owned(),
            max_associations: 2,
            lifetime_seconds: 600,
            validate_only: false,
        }
    }

    fn fields(error: Error) -> Vec<String> {
        match error {
            Error::Invalid(faults) => faults.into_iter().map(|(field, _)| field).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_good_plan_passes_and_each_fault_is_named() {
        plan(&good()).unwrap();
        type Change = fn(&mut AuthoriseRequest);
        let changes: [(&str, Change); 22] = [
            ("request_id", |r| r.request_id = "1".to_owned()),
            ("meter_id", |r| r.meter_id = "a/b".to_owned()),
            ("purpose", |r| r.purpose = 9),
            ("tier", |r| r.tier = 0),
            ("commands", |r| r.commands.clear()),
            ("commands", |r| r.commands = vec![r.commands[0].clone(); 65]),
            ("on_behalf_of", |r| r.on_behalf_of = "alice".to_owned()),
            ("reason", |r| r.reason.clear()),
            ("reason", |r| r.reason = "x".repeat(257)),
            ("ticket", |r| r.ticket = "a\nb".to_owned()),
            ("reset_id", |r| r.reset_id.clear()),
            ("max_associations", |r| r.max_associations = 0),
            ("max_associations", |r| r.max_associations = 1025),
            ("lifetime_seconds", |r| r.lifetime_seconds = 86_401),
            ("commands[0].service", |r| r.commands[0].service = 7),
            ("commands[0].class_id", |r| r.commands[0].class_id = 65_536),
            ("commands[0].logical_name", |r| {
                r.commands[0].logical_name = "0.0.10.1.0.0255".to_owned();
            }),
            ("commands[0].index", |r| r.commands[0].index = 0),
            ("commands[0].parameter", |r| {
                r.commands[0].parameter = vec![0; 2049];
            }),
            ("commands[0].selection", |r| {
                r.commands[0].selection = vec![2];
            }),
            ("commands[0].max_uses", |r| r.commands[0].max_uses = 0),
            ("commands[0].max_uses", |r| r.commands[0].max_uses = 17),
        ];
        for (field, change) in changes {
            let mut request = good();
            change(&mut request);
            assert_eq!(fields(plan(&request).unwrap_err()), [field]);
        }
    }

    #[test]
    fn a_rehearsal_needs_no_reset() {
        let request = AuthoriseRequest {
            validate_only: true,
            reset_id: String::new(),
            ..good()
        };
        plan(&request).unwrap();
    }

    #[test]
    fn a_connect_has_no_commands_and_no_tier() {
        let request = AuthoriseRequest {
            purpose: Purpose::Connect.into(),
            ..good()
        };
        assert_eq!(fields(plan(&request).unwrap_err()), ["commands", "tier"]);
    }

    #[test]
    fn intents_and_policies_are_the_auditors_own() {
        let id = good().request_id;
        let of = |kind: EntryKind| Entry {
            kind: kind.into(),
            ..Entry::default()
        };
        entry(&id, &of(EntryKind::Outcome)).unwrap();
        for kind in [EntryKind::Unspecified, EntryKind::Intent, EntryKind::Policy] {
            assert_eq!(fields(entry(&id, &of(kind)).unwrap_err()), ["entry.kind"]);
        }
        let long = Entry {
            detail: "x".repeat(1025),
            commands: vec![CommandDigest::default()],
            ..of(EntryKind::Outcome)
        };
        let found = fields(entry("", &long).unwrap_err());
        assert_eq!(found.len(), 6, "{found:?}");
    }
}
