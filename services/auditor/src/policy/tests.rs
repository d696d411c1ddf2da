use super::*;

const METER: &str = "meter-0001";
const RESET: Subject<'_> = Subject {
    name: "spiffe://latchkey.test/latchkey/reset",
    roles: &["reset"],
};
const ROLES: [&str; 6] = [
    "viewer",
    "operator",
    "engineer",
    "installer",
    "security-admin",
    "security-auditor",
];

fn command(service: CommandService, object: &str, index: i32) -> Command {
    let (class_id, logical_name) = object.split_once('/').unwrap();
    Command {
        service: service.into(),
        class_id: class_id.parse().unwrap(),
        logical_name: logical_name.to_owned(),
        index,
        max_uses: u32::from(service != CommandService::Get),
        ..Command::default()
    }
}

fn get(object: &str, index: i32) -> Command {
    command(CommandService::Get, object, index)
}

fn act(object: &str, index: i32, parameter: &[u8]) -> Command {
    Command {
        parameter: parameter.to_vec(),
        ..command(CommandService::Action, object, index)
    }
}

fn columns(first: u16, last: u16) -> Vec<u8> {
    let mut octets = vec![2, 0x02, 4, 0x06, 0, 0, 0, 1, 0x06, 0, 0, 0, 0, 0x12];
    octets.extend(first.to_be_bytes());
    octets.push(0x12);
    octets.extend(last.to_be_bytes());
    octets
}

fn plan<'a>(purpose: Purpose, tier: Tier, commands: &'a [Command]) -> Plan<'a> {
    Plan {
        meter_id: METER,
        purpose,
        tier,
        commands,
        rehearsal: false,
    }
}

fn person<'a>(roles: &'a [&'a str]) -> Subject<'a> {
    Subject {
        name: "spiffe://latchkey.test/operator/alice",
        roles,
    }
}

fn policy() -> Policy {
    Policy::load(None).unwrap()
}

fn denial(decision: Decision) -> (Vec<String>, String) {
    match decision {
        Decision::Denied { policy_ids, cause } => (policy_ids, cause),
        Decision::Allowed(ids) => panic!("allowed by {ids:?}"),
    }
}

const SCRIPTS: &str = "9/0.0.10.1.0.255";
const RELAY: &str = "70/0.0.96.3.10.255";

/// The plan of a line of the golden table: `PURPOSE [TIER][: COMMAND, COMMAND…]`.
fn parse(line: &str) -> (Purpose, Tier, Vec<Command>) {
    let (what, commands) = line.split_once(':').unwrap_or((line, ""));
    let (purpose, tier) = what.trim().split_once(' ').unwrap_or((what.trim(), ""));
    let purpose = match purpose {
        "connect" => Purpose::Connect,
        "read" => Purpose::Read,
        "reset" => Purpose::Reset,
        "rekey" => Purpose::Rekey,
        other => panic!("{other}"),
    };
    let tiers = [Tier::Unspecified, Tier::Soft, Tier::Warm, Tier::Cold];
    let tier = tiers.into_iter().find(|t| tier_name(*t) == tier).unwrap();
    let commands = commands.split(',').filter(|c| !c.is_empty());
    (purpose, tier, commands.map(parse_command).collect())
}

fn parse_command(text: &str) -> Command {
    let mut words = text.split_whitespace();
    let mut next = || words.next().unwrap();
    let service = match next() {
        "get" => CommandService::Get,
        "set" => CommandService::Set,
        "act" => CommandService::Action,
        other => panic!("{other}"),
    };
    let mut command = command(service, next(), next().parse().unwrap());
    while let Some(word) = words.next() {
        if word == "columns" {
            let (first, last) = words.next().unwrap().split_once('-').unwrap();
            command.selection = columns(first.parse().unwrap(), last.parse().unwrap());
        } else if let Some(uses) = word.strip_prefix('x') {
            command.max_uses = uses.parse().unwrap();
        } else {
            command.parameter = catalogue::unhex(word).unwrap();
        }
    }
    command
}

#[test]
fn the_golden_decision_table() {
    let policy = policy();
    let mut count = 0;
    for line in include_str!("golden.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (question, expected) = line.split_once('|').unwrap();
        let (purpose, tier, commands) = parse(question);
        let plan = plan(purpose, tier, &commands);
        let may = |role: &&str| {
            matches!(
                policy.decide(RESET, person(&[role]), &plan),
                Decision::Allowed(_)
            )
        };
        let answers = ROLES.iter().filter(|role| may(role));
        let answers: Vec<&str> = answers.copied().collect();
        let letters: String = answers.iter().map(|role| &role[..1]).collect();
        assert_eq!(letters, expected.trim(), "{line}: {answers:?}");
        count += 1;
    }
    assert!(count > 60, "the table has {count} lines");
}

#[test]
fn a_denial_names_who_what_and_which_rule() {
    let policy = policy();
    let commands = [get(RELAY, 2), act(RELAY, 2, &[0x0F, 0])];
    let plan = plan(Purpose::Reset, Tier::Cold, &commands);
    let (ids, cause) = denial(policy.decide(RESET, person(&["operator"]), &plan));
    assert_eq!(ids, ["never-relay"]);
    assert_eq!(
        cause,
        "spiffe://latchkey.test/latchkey/reset may not act 70/0.0.96.3.10.255 method 2: \
         forbidden by never-relay"
    );
}

#[test]
fn both_the_service_and_the_person_are_asked() {
    let policy = policy();
    let commands = [get("8/0.0.1.0.0.255", 2)];
    let plan = plan(Purpose::Read, Tier::Unspecified, &commands);
    let allowed = policy.decide(RESET, person(&["operator"]), &plan);
    assert_eq!(allowed, Decision::Allowed(vec!["read-state".to_owned()]));
    let stranger = Subject {
        roles: &[],
        ..RESET
    };
    let (ids, cause) = denial(policy.decide(stranger, person(&["operator"]), &plan));
    assert!(ids.is_empty());
    assert!(cause.contains("latchkey/reset") && cause.contains("no policy permits it"));
    let (_, cause) = denial(policy.decide(RESET, person(&[]), &plan));
    assert!(cause.contains("operator/alice"), "{cause}");
}

#[test]
fn whoever_guards_does_not_command_even_with_a_second_role() {
    let policy = policy();
    let commands = [get("8/0.0.1.0.0.255", 2)];
    let plan = plan(Purpose::Read, Tier::Unspecified, &commands);
    for guard in ["security-admin", "security-auditor"] {
        let roles = ["operator", guard];
        let (ids, _) = denial(policy.decide(RESET, person(&roles), &plan));
        assert_eq!(ids, ["guards-never-command"]);
    }
}

#[test]
fn keys_are_changed_for_security_administrators_by_the_service_that_presents() {
    let policy = policy();
    let commands = [act("64/0.0.43.0.0.255", 2, &[0x09, 0x10])];
    let plan = plan(Purpose::Rekey, Tier::Unspecified, &commands);
    let allowed = policy.decide(RESET, person(&["security-admin"]), &plan);
    let by = ["rekey-decided", "rekey-presented"].map(str::to_owned);
    assert_eq!(allowed, Decision::Allowed(by.into()));
    for roles in [
        &["operator"][..],
        &["reset"],
        &["security-auditor"],
        &["operator", "security-admin"],
        &["security-admin", "security-auditor"],
    ] {
        denial(policy.decide(RESET, person(roles), &plan));
    }
    let stranger = Subject {
        roles: &["security-admin"],
        ..RESET
    };
    denial(policy.decide(stranger, person(&["security-admin"]), &plan));
}

#[test]
fn an_engineer_may_rehearse_a_reset_and_not_do_it() {
    let policy = policy();
    let commands = [act(SCRIPTS, 1, &[0x12, 0, 3])];
    let mut plan = plan(Purpose::Reset, Tier::Cold, &commands);
    denial(policy.decide(RESET, person(&["engineer"]), &plan));
    plan.rehearsal = true;
    assert!(matches!(
        policy.decide(RESET, person(&["engineer"]), &plan),
        Decision::Allowed(_)
    ));
}

#[test]
fn the_allowlist_is_changed_by_who_may() {
    let policy = policy();
    let may = |roles: &[&str], side| {
        matches!(
            policy.decide_allowlist(person(roles), side),
            Decision::Allowed(_)
        )
    };
    let (source, meter) = (AllowlistSide::Source, AllowlistSide::Meter);
    assert!(may(&["security-admin"], source) && may(&["security-admin"], meter));
    assert!(may(&["installer"], meter) && !may(&["installer"], source));
    assert!(!may(&["operator"], meter) && !may(&[], source));
    assert!(!may(&["security-admin", "security-auditor"], source));
}

#[test]
fn only_the_exact_entry_descriptor_selects_columns() {
    assert_eq!(selection(&[]), ("none", 0, 0));
    assert_eq!(selection(&columns(1, 2)), ("entry", 1, 2));
    for last in [0, 1] {
        assert_eq!(selection(&columns(2, last)), ("other", 0, 0));
    }
    assert_eq!(selection(&columns(0, 2)), ("other", 0, 0));
    let good = columns(1, 2);
    for at in 0..good.len() {
        assert_eq!(
            selection(&good[..at]).0,
            if at == 0 { "none" } else { "other" }
        );
    }
    for (at, value) in [
        (0, 1),
        (1, 1),
        (2, 3),
        (3, 5),
        (8, 5),
        (13, 0x10),
        (16, 0x10),
    ] {
        let mut changed = good.clone();
        changed[at] = value;
        assert_eq!(selection(&changed).0, "other", "octet {at}");
    }
    let longer = [good, vec![0]].concat();
    assert_eq!(selection(&longer).0, "other");
}

#[test]
fn what_the_reset_service_encodes_is_what_is_read_here() {
    for (from_column, to_column) in [(1, 1), (1, 2), (3, 7)] {
        let encoded = dlms::Selection::Entry {
            from_entry: 9,
            to_entry: 0,
            from_column,
            to_column,
        };
        assert_eq!(
            selection(&encoded.encode()),
            ("entry", from_column, to_column)
        );
    }
}

// ---- the fail-open traps

const SCHEMA_TEXT: &str = include_str!("../../policy/schema.cedarschema");
const POLICY_TEXT: &str = include_str!("../../policy/policies.cedar");
const OBJECT_TEXT: &str = include_str!("../../policy/objects.toml");

#[test]
fn a_forbid_that_fails_to_evaluate_denies() {
    // valid by the strictest validator, yet it overflows when it is evaluated; Cedar would pass over it
    let overflowing = format!(
        "{POLICY_TEXT}
        @id(\"overflows\")
        forbid (principal, action == Latchkey::Action::\"get\", resource)
        when {{ (context.maxUses + 1) * 9223372036854775807 * 2 < 0 }};"
    );
    let policy = Policy::parse(SCHEMA_TEXT, &overflowing, OBJECT_TEXT).unwrap();
    let commands = [get("8/0.0.1.0.0.255", 2)];
    let plan = plan(Purpose::Read, Tier::Unspecified, &commands);
    let (_, cause) = denial(policy.decide(RESET, person(&["operator"]), &plan));
    assert!(cause.contains("could not be decided"), "{cause}");
}

#[test]
fn a_request_that_misses_context_is_refused_by_the_schema() {
    let policy = policy();
    let commands = [get("8/0.0.1.0.0.255", 2)];
    let plan = plan(Purpose::Read, Tier::Unspecified, &commands);
    for left_out in 0..policy.context(&commands[0], &plan).len() {
        let mut question = policy.question(&commands[0], &plan);
        question.context.remove(left_out);
        let (ids, cause) = denial(policy.ask(SERVICE, RESET, question));
        assert!(ids.is_empty());
        assert!(cause.contains("could not be decided"), "{cause}");
    }
}

#[test]
fn a_service_that_is_not_said_is_denied() {
    let policy = policy();
    let commands = [command(CommandService::Unspecified, "8/0.0.1.0.0.255", 2)];
    let plan = plan(Purpose::Read, Tier::Unspecified, &commands);
    denial(policy.decide(RESET, person(&["operator"]), &plan));
}

#[test]
fn a_bundle_with_any_fault_is_refused() {
    let refuse = |policies: &str| {
        let policies = format!("{POLICY_TEXT}\n{policies}");
        let error = Policy::parse(SCHEMA_TEXT, &policies, OBJECT_TEXT).err();
        error.map(|e| e.to_string()).unwrap()
    };
    // not in the schema
    refuse("@id(\"x\") forbid (principal, action, resource) when { context.sourceIp == 1 };");
    refuse("@id(\"x\") permit (principal, action == Latchkey::Action::\"gets\", resource);");
    refuse("@id(\"x\") permit (principal in Latchkey::Rule::\"reset\", action, resource);");
    // can never apply: most likely a mistake
    refuse("@id(\"x\") forbid (principal, action, resource) when { false };");
    // nameless, ill named, named twice
    refuse("forbid (principal, action, resource is Latchkey::Meter);");
    refuse("@id(\"Not Good\") forbid (principal, action, resource is Latchkey::Meter);");
    refuse("@id(\"connect\") forbid (principal, action, resource is Latchkey::Meter);");
    refuse("@id(\"x\") permit (principal == ?principal, action, resource);");
    refuse("@id(\"x\") permit (principal");
    assert!(Policy::parse("entity", POLICY_TEXT, OBJECT_TEXT).is_err());
    assert!(Policy::parse(SCHEMA_TEXT, POLICY_TEXT, "object = 1").is_err());
    assert!(Policy::load(Some(Path::new("/nonexistent"))).is_err());
}

#[test]
fn the_summary_changes_with_every_file() {
    let summary = |objects: &str| {
        let policy = Policy::parse(SCHEMA_TEXT, POLICY_TEXT, objects).unwrap();
        policy.summary().to_owned()
    };
    let commented = format!("{OBJECT_TEXT}# a comment\n");
    assert_ne!(summary(OBJECT_TEXT), summary(&commented));
    assert_eq!(summary(OBJECT_TEXT), policy().summary());
}
