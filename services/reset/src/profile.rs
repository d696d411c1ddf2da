//! Reset profiles: which operation each tier is on a kind of meter, and what it does to it.
//!
//! A profile can only name what the deny-list leaves. The list is compiled in: no file, no configuration and no caller
//! widens it.

use std::{collections::BTreeMap, fmt, path::Path};

use dlms::{Data, Obis};
use latchkey_proto::audit::v1::{Command, CommandService};
use machine::{Expect, Tier};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const EMBEDDED: [(&str, &str); 2] = [
    ("standard.toml", include_str!("../profiles/standard.toml")),
    ("procedure.toml", include_str!("../profiles/procedure.toml")),
];

/// Classes none of whose methods restarts a meter; most of them destroy or move something.
const DENIED_CLASSES: [(u16, &str); 14] = [
    (3, "a register's method resets a measured value"),
    (4, "an extended register's method resets a measured value"),
    (5, "a demand register's methods reset measured values"),
    (6, "a register activation changes tariffs"),
    (7, "a profile's methods clear or capture measured data"),
    (12, "an association's methods change access rights"),
    (15, "an association's methods change access rights"),
    (18, "an image transfer replaces firmware"),
    (20, "an activity calendar changes tariffs"),
    (21, "a register monitor triggers scripts"),
    (22, "a schedule triggers scripts"),
    (64, "a security setup changes keys"),
    (70, "a disconnect control moves the relay"),
    (71, "a limiter moves the relay"),
];

/// Script tables and objects that are never executed, whatever their class.
const DENIED_OBJECTS: [([u8; 6], &str); 4] = [
    (
        [0, 0, 10, 0, 0, 255],
        "the global meter reset destroys data",
    ),
    (
        [0, 0, 10, 0, 1, 255],
        "the MDI reset closes a billing period",
    ),
    (
        [0, 0, 10, 0, 106, 255],
        "the disconnect script moves the relay",
    ),
    (
        [0, 0, 10, 0, 107, 255],
        "the image activation script replaces firmware",
    ),
];

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
#[error("reset profile {file}: {what}")]
pub(crate) struct ProfileError {
    file: String,
    what: String,
}

/// A COSEM object, written `CLASS/OBIS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Object {
    pub(crate) class_id: u16,
    pub(crate) name: Obis,
}

impl TryFrom<String> for Object {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no object: expected CLASS/OBIS such as 70/0.0.96.3.10.255");
        let (class_id, name) = text.split_once('/').ok_or_else(wrong)?;
        let class_id = class_id.parse().map_err(|_| wrong())?;
        let name = name.parse().map_err(|_| wrong())?;
        Ok(Self { class_id, name })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class_id, self.name)
    }
}

impl Object {
    /// Reading an attribute of it, as often as the permit lasts.
    pub(crate) fn get(self, index: i32) -> Command {
        Command {
            service: CommandService::Get.into(),
            class_id: u32::from(self.class_id),
            logical_name: self.name.to_string(),
            index,
            ..Command::default()
        }
    }
}

/// The objects of a meter that guards and evidence are read from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Objects {
    pub(crate) identity: Object,
    pub(crate) image_transfer: Object,
    pub(crate) clock: Object,
    pub(crate) relay: Object,
    pub(crate) firmware_metrology: Object,
    pub(crate) firmware_module: Object,
    pub(crate) power_failures: Option<Object>,
    pub(crate) uptime: Option<Object>,
    pub(crate) event_log: Option<Object>,
    pub(crate) load_profile: Option<Object>,
}

/// The one command of a tier.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) object: Object,
    pub(crate) method: i32,
    pub(crate) parameter: Vec<u8>,
    pub(crate) label: String,
    pub(crate) outage_seconds: u64,
    pub(crate) expect: Expect,
}

impl Operation {
    /// The command, to be ciphered once.
    pub(crate) fn command(&self) -> Command {
        Command {
            service: CommandService::Action.into(),
            class_id: u32::from(self.object.class_id),
            logical_name: self.object.name.to_string(),
            index: self.method,
            parameter: self.parameter.clone(),
            selection: Vec::new(),
            max_uses: 1,
        }
    }

    /// Whether an invocation asks for exactly this. Numbers are compared as numbers: a person who types `0` need not
    /// know whether the meter wants an integer or an unsigned.
    pub(crate) fn is(&self, object: Object, method: i32, parameter: &[u8]) -> bool {
        let number = |octets: &[u8]| Data::decode(octets).ok().and_then(|data| data.as_i64());
        let same = self.parameter == parameter
            || number(&self.parameter).is_some_and(|ours| number(parameter) == Some(ours));
        self.object == object && self.method == method && same
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ACTION {} method {} {}",
            self.object, self.method, self.label
        )
    }
}

/// How one kind of meter is reset.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) latching_verified: bool,
    pub(crate) tripwire_events: Vec<u16>,
    pub(crate) objects: Objects,
    tiers: BTreeMap<Tier, Operation>,
}

impl Profile {
    pub(crate) fn operation(&self, tier: Tier) -> Option<&Operation> {
        self.tiers.get(&tier)
    }

    /// Changes with everything that one tier of it says. What is hashed never changes its form: a reset under way
    /// outlives a new version of this service.
    pub(crate) fn digest(&self, operation: &Operation) -> String {
        let o = &self.objects;
        let optional = |object: Option<Object>| object.map_or_else(String::new, |o| o.to_string());
        let expect = &operation.expect;
        let lines = [
            o.identity.to_string(),
            o.image_transfer.to_string(),
            o.clock.to_string(),
            o.relay.to_string(),
            o.firmware_metrology.to_string(),
            o.firmware_module.to_string(),
            optional(o.power_failures),
            optional(o.uptime),
            optional(o.event_log),
            optional(o.load_profile),
            self.latching_verified.to_string(),
            format!("{:?}", self.tripwire_events),
            operation.object.to_string(),
            operation.method.to_string(),
            hex::encode(&operation.parameter),
            operation.outage_seconds.to_string(),
            format!("{} {}", expect.power_failure, expect.uptime),
            format!("{} {:?}", expect.session_ends, expect.start_events),
        ];
        hex::encode(Sha256::digest(lines.join("\n")))
    }

    /// The tiers it has, for a person.
    pub(crate) fn tier_names(&self) -> String {
        let names: Vec<&str> = self.tiers.keys().map(|tier| tier.name()).collect();
        names.join(", ")
    }

    /// The tier that an invocation is, if it is one.
    pub(crate) fn tier_of(&self, object: Object, method: i32, parameter: &[u8]) -> Option<Tier> {
        let found = self
            .tiers
            .iter()
            .find(|(_, operation)| operation.is(object, method, parameter));
        found.map(|(tier, _)| *tier)
    }

    /// The class under which this profile knows a logical name.
    pub(crate) fn class_of(&self, name: Obis) -> Option<u16> {
        let o = &self.objects;
        let fixed = [
            o.identity,
            o.image_transfer,
            o.clock,
            o.relay,
            o.firmware_metrology,
            o.firmware_module,
        ];
        let optional = [o.power_failures, o.uptime, o.event_log, o.load_profile]
            .into_iter()
            .flatten();
        let acts = self.tiers.values().map(|operation| operation.object);
        let mut known = fixed.into_iter().chain(optional).chain(acts);
        known
            .find(|object| object.name == name)
            .map(|object| object.class_id)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        kit::check::text(&file.name, 1, 64).map_err(|why| format!("name {why}"))?;
        if file.tiers.is_empty() {
            return Err("it has no tier".to_owned());
        }
        let tiers = file.tiers.into_iter().map(|(tier, action)| {
            let operation = action
                .check()
                .map_err(|why| format!("tier {}: {why}", tier.name()))?;
            Ok((tier, operation))
        });
        Ok(Self {
            name: file.name,
            latching_verified: file.latching_verified,
            tripwire_events: file.tripwire_events,
            objects: file.objects,
            tiers: tiers.collect::<Result<_, String>>()?,
        })
    }
}

/// All loaded profiles, by name.
#[derive(Debug, Clone)]
pub(crate) struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// The embedded ones, and those of a directory. A name that is there twice is refused.
    pub(crate) fn load(dir: Option<&Path>) -> Result<Self, ProfileError> {
        let mut profiles = BTreeMap::new();
        for (file, text) in EMBEDDED {
            add(&mut profiles, file, text)?;
        }
        let Some(dir) = dir else {
            return Ok(Self(profiles));
        };
        let failed = |file: &Path, error: std::io::Error| ProfileError {
            file: file.display().to_string(),
            what: error.to_string(),
        };
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(|error| failed(dir, error))?;
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == "toml")
        });
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|error| failed(&file, error))?;
            add(&mut profiles, &file.display().to_string(), &text)?;
        }
        Ok(Self(profiles))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Profile> {
        self.0.get(name)
    }
}

fn add(
    profiles: &mut BTreeMap<String, Profile>,
    file: &str,
    text: &str,
) -> Result<(), ProfileError> {
    let refused = |what: String| ProfileError {
        file: file.to_owned(),
        what,
    };
    let profile = Profile::parse(text).map_err(refused)?;
    let name = profile.name.clone();
    match profiles.insert(name.clone(), profile) {
        None => Ok(()),
        Some(_) => Err(refused(format!("there is another profile {name:?}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    latching_verified: bool,
    tripwire_events: Vec<u16>,
    objects: Objects,
    tiers: BTreeMap<Tier, Action>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    action: Object,
    method: i32,
    parameter: String,
    label: String,
    outage_seconds: u64,
    #[serde(default)]
    expect: Traces,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Traces {
    power_failure: bool,
    start_events: Vec<u16>,
    uptime: bool,
    session_ends: bool,
}

impl Action {
    fn check(self) -> Result<Operation, String> {
        denied(self.action)?;
        if !(1..=127).contains(&self.method) {
            return Err("method must be 1..127".to_owned());
        }
        if !(1..=3_600).contains(&self.outage_seconds) {
            return Err("outage_seconds must be 1..3600".to_owned());
        }
        kit::check::text(&self.label, 0, 64).map_err(|why| format!("label {why}"))?;
        let parameter =
            hex::decode(&self.parameter).map_err(|_| "parameter must be hex".to_owned())?;
        if !parameter.is_empty() {
            Data::decode(&parameter)
                .map_err(|error| format!("parameter is no A-XDR Data: {error}"))?;
        }
        Ok(Operation {
            object: self.action,
            method: self.method,
            parameter,
            label: self.label,
            outage_seconds: self.outage_seconds,
            expect: Expect {
                power_failure: self.expect.power_failure,
                start_events: self.expect.start_events,
                uptime: self.expect.uptime,
                session_ends: self.expect.session_ends,
            },
        })
    }
}

/// The compile-time deny-list.
fn denied(object: Object) -> Result<(), String> {
    let class = DENIED_CLASSES
        .iter()
        .find(|(class_id, _)| *class_id == object.class_id);
    if let Some((_, why)) = class {
        return Err(format!("{object} is never invoked: {why}"));
    }
    let name = DENIED_OBJECTS
        .iter()
        .find(|(name, _)| *name == object.name.bytes());
    match name {
        Some((_, why)) => Err(format!("{object} is never invoked: {why}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_action(action: &str) -> Result<Profile, String> {
        let text = include_str!("../profiles/procedure.toml");
        Profile::parse(&text.replace("\"1/0.0.96.1.2.255\"", &format!("{action:?}")))
    }

    #[test]
    fn the_embedded_profiles_are_good() {
        let profiles = Profiles::load(None).expect("good");
        let standard = profiles.get("standard").expect("there");
        assert_eq!(standard.tier_names(), "soft, warm, cold");
        let cold = standard.operation(Tier::Cold).expect("there");
        assert_eq!(
            cold.to_string(),
            "ACTION 9/0.0.10.1.0.255 method 1 script 3"
        );
        assert_eq!(cold.command().parameter, [0x12, 0, 3]);
        assert_eq!(cold.command().max_uses, 1);
        let procedure = profiles.get("procedure").expect("there");
        assert_eq!(procedure.tier_names(), "cold");
        assert_eq!(
            procedure.class_of("0.0.96.1.2.255".parse().expect("a name")),
            Some(1)
        );
    }

    #[test]
    fn the_deny_list_holds() {
        for bad in [
            "9/0.0.10.0.0.255",
            "9/0.0.10.0.1.255",
            "9/0.0.10.0.106.255",
            "9/0.0.10.0.107.255",
            "1/0.0.10.0.0.255",
            "70/0.0.96.3.10.255",
            "70/1.2.3.4.5.6",
            "7/1.0.99.1.0.255",
            "3/1.0.1.8.0.255",
            "4/1.0.1.6.0.255",
            "5/1.0.1.4.0.255",
            "64/0.0.43.0.0.255",
            "15/0.0.40.0.0.255",
        ] {
            let error = with_action(bad).expect_err(bad);
            assert!(error.contains("never invoked"), "{error}");
        }
        assert!(with_action("9/0.0.10.1.0.255").is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(with_action("banana").is_err_and(|e| e.contains("CLASS/OBIS")));
        let text = include_str!("../profiles/procedure.toml");
        assert!(Profile::parse(&text.replace("0f00", "0f")).is_err_and(|e| e.contains("A-XDR")));
        assert!(Profile::parse(&text.replace("0f00", "x")).is_err_and(|e| e.contains("hex")));
        assert!(
            Profile::parse(&format!("surprise = 1\n{text}")).is_err_and(|e| e.contains("surprise"))
        );
        assert!(
            Profile::parse(&text.replace("outage_seconds = 12", "outage_seconds = 0")).is_err()
        );
    }

    #[test]
    fn a_directory_adds_profiles_and_none_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = include_str!("../profiles/procedure.toml");
        let put =
            |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        put("acme.toml", &text.replace("\"procedure\"", "\"acme\""));
        put("readme.txt", "not a profile");
        assert!(
            Profiles::load(Some(dir.path()))
                .expect("good")
                .get("acme")
                .is_some()
        );
        put("again.toml", text);
        let error = Profiles::load(Some(dir.path()))
            .expect_err("twice")
            .to_string();
        assert!(
            error.contains("again.toml") && error.contains("another profile"),
            "{error}"
        );
    }

    #[test]
    fn an_invocation_is_recognised_by_number() {
        let profiles = Profiles::load(None).expect("good");
        let procedure = profiles.get("procedure").expect("there");
        let object = Object::try_from("1/0.0.96.1.2.255".to_owned()).expect("an object");
        for zero in [&[0x0f, 0][..], &[0x11, 0], &[0x12, 0, 0]] {
            assert_eq!(procedure.tier_of(object, 1, zero), Some(Tier::Cold));
        }
        assert_eq!(procedure.tier_of(object, 1, &[0x0f, 1]), None);
        assert_eq!(procedure.tier_of(object, 2, &[0x0f, 0]), None);
        assert_eq!(procedure.tier_of(object, 1, &[]), None);
    }
}
