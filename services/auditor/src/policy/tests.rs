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

fn set(object: &str, index: i32) -> Command {
    Command {
        parameter: vec![0x03, 0x01],
        ..command(CommandService::Set, object, index)
    }
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

fn select(octets: Vec<u8>, command: Command) -> Command {
    Command {
        selection: octets,
        ..command
    }
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
const PROCEDURE: &str = "1/0.0.96.1.2.255";
const RELAY: &str = "70/0.0.96.3.10.255";
const PROFILE: &str = "7/1.0.99.1.0.255";

/// Every command of the table, each with the purpose and tier it is asked under.
fn questions() -> Vec<(&'static str, Purpose, Tier, Vec<Command>)> {
    let (read, reset) = (Purpose::Read, Purpose::Reset);
    let none = Tier::Unspecified;
    let cold = act(SCRIPTS, 1, &[0x12, 0, 3]);
    let event_log = select(columns(1, 2), get("7/0.0.99.98.0.255", 2));
    vec![
        ("connect", Purpose::Connect, none, vec![]),
        ("get logical device name", read, none, vec![get("1/0.0.42.0.0.255", 2)]),
        ("get firmware", read, none, vec![get("1/1.0.0.2.0.255", 2)]),
        ("get image transfer status", read, none, vec![get("18/0.0.44.0.0.255", 6)]),
        ("get clock", read, none, vec![get("8/0.0.1.0.0.255", 2)]),
        ("get invocation counter", read, none, vec![get("1/0.0.43.1.0.255", 2)]),
        ("get power failures", read, none, vec![get("1/0.0.96.7.21.255", 2)]),
        ("get uptime", read, none, vec![get("3/0.0.96.8.0.255", 2)]),
        ("get relay", read, none, vec![get(RELAY, 2)]),
        ("get reset object", read, none, vec![get(PROCEDURE, 2)]),
        ("get event log", read, none, vec![get("7/0.0.99.98.0.255", 2)]),
        ("get event log, entries", read, none, vec![event_log]),
        ("get object list", read, none, vec![get("15/0.0.40.0.0.255", 2)]),
        ("get profile shape", read, none, vec![get(PROFILE, 7)]),
        ("get profile, columns 1-2", read, none, vec![select(columns(1, 2), get(PROFILE, 2))]),
        ("get profile, columns 1-3", read, none, vec![select(columns(1, 3), get(PROFILE, 2))]),
        ("get profile, all columns", read, none, vec![select(columns(1, 0), get(PROFILE, 2))]),
        ("get profile, whole", read, none, vec![get(PROFILE, 2)]),
        ("get energy", read, none, vec![get("3/1.0.1.8.0.255", 2)]),
        ("get billing profile", read, none, vec![get("7/0.0.98.1.0.255", 2)]),
        ("get consumer message", read, none, vec![get("1/0.0.96.13.0.255", 2)]),
        ("get security setup", read, none, vec![get("64/0.0.43.0.0.255", 2)]),
        ("get global reset", read, none, vec![get("9/0.0.10.0.0.255", 2)]),
        ("get unknown object", read, none, vec![get("1/0.0.96.1.9.255", 2)]),
        ("get relay as a register", read, none, vec![get("3/0.0.96.3.10.255", 2)]),
        ("set clock", reset, Tier::Cold, vec![set("8/0.0.1.0.0.255", 2)]),
        ("set relay mode", reset, Tier::Cold, vec![set(RELAY, 4)]),
        ("relay disconnect", reset, Tier::Cold, vec![act(RELAY, 1, &[0x0F, 0])]),
        ("relay reconnect", reset, Tier::Cold, vec![act(RELAY, 2, &[0x0F, 0])]),
        ("global reset", reset, Tier::Cold, vec![act("9/0.0.10.0.0.255", 1, &[0x12, 0, 3])]),
        ("MDI reset", reset, Tier::Cold, vec![act("9/0.0.10.0.1.255", 1, &[0x12, 0, 3])]),
        ("profile reset", reset, Tier::Cold, vec![act(PROFILE, 1, &[0x0F, 0])]),
        ("register reset", reset, Tier::Cold, vec![act("3/1.0.1.8.0.255", 1, &[0x0F, 0])]),
        ("firmware activate", reset, Tier::Cold, vec![act("18/0.0.44.0.0.255", 4, &[0x0F, 0])]),
        ("key transfer", reset, Tier::Cold, vec![act("64/0.0.43.0.0.255", 2, &[])]),
        ("change HLS secret", reset, Tier::Cold, vec![act("15/0.0.40.0.0.255", 2, &[])]),
        ("cold reset", reset, Tier::Cold, vec![cold.clone()]),
        ("cold reset, guards", reset, Tier::Cold, vec![get(RELAY, 2), cold.clone()]),
        ("cold reset, procedure", reset, Tier::Cold, vec![act(PROCEDURE, 1, &[0x0F, 0])]),
        ("warm reset", reset, Tier::Warm, vec![act(SCRIPTS, 1, &[0x12, 0, 2])]),
        ("soft reset", reset, Tier::Soft, vec![act(SCRIPTS, 1, &[0x12, 0, 1])]),
        ("cold script in tier soft", reset, Tier::Soft, vec![cold.clone()]),
        ("unlisted script", reset, Tier::Cold, vec![act(SCRIPTS, 1, &[0x12, 0, 4])]),
        ("cold reset to read", read, none, vec![cold.clone()]),
        ("cold reset twice", reset, Tier::Cold, vec![cold.clone(), cold.clone()]),
        ("cold reset, two uses", reset, Tier::Cold, vec![Command { max_uses: 2, ..cold }]),
    ]
}

/// Who may do what: `v`iewer, `o`perator, `e`ngineer, `i`nstaller; nobody else may anything.
const GOLDEN: &str = "\
connect                    -oei
get logical device name    -oei
get firmware               -oei
get image transfer status  -oei
get clock                  -oei
get invocation counter     -oei
get power failures         -oe-
get uptime                 -oe-
get relay                  -oe-
get reset object           -oe-
get event log              -oe-
get event log, entries     -oe-
get object list            --e-
get profile shape          -oe-
get profile, columns 1-2   -oe-
get profile, columns 1-3   ----
get profile, all columns   ----
get profile, whole         ----
get energy                 ----
get billing profile        ----
get consumer message       ----
get security setup         ----
get global reset           ----
get unknown object         ----
get relay as a register    ----
set clock                  ----
set relay mode             ----
relay disconnect           ----
relay reconnect            ----
global reset               ----
MDI reset                  ----
profile reset              ----
register reset             ----
firmware activate          ----
key transfer               ----
change HLS secret          ----
cold reset                 -o--
cold reset, guards         -o--
cold reset, procedure      -o--
warm reset                 -o--
soft reset                 -o--
cold script in tier soft   ----
unlisted script            ----
cold reset to read         ----
cold reset twice           ----
cold reset, two uses       ----
";

#[test]
fn the_golden_decision_table() {
    let policy = policy();
    let mut table = String::new();
    for (name, purpose, tier, commands) in questions() {
        let answers: String = ROLES
            .iter()
            .map(|role| {
                let plan = plan(purpose, tier, &commands);
                match policy.decide(RESET, person(&[role]), &plan) {
                    Decision::Allowed(_) => role.chars().next().unwrap(),
                    Decision::Denied { .. } => '-',
                }
            })
            .collect();
        assert!(answers.ends_with("--"), "{name}: a security role may");
        table.push_str(&format!("{name:26} {}\n", &answers[..4]));
    }
    assert_eq!(table, GOLDEN, "\n{table}");
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
    let stranger = Subject { roles: &[], ..RESET };
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
        assert_eq!(selection(&good[..at]).0, if at == 0 { "none" } else { "other" });
    }
    for (at, value) in [(0, 1), (1, 1), (2, 3), (3, 5), (8, 5), (13, 0x10), (16, 0x10)] {
        let mut changed = good.clone();
        changed[at] = value;
        assert_eq!(selection(&changed).0, "other", "octet {at}");
    }
    let longer = [good, vec![0]].concat();
    assert_eq!(selection(&longer).0, "other");
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
