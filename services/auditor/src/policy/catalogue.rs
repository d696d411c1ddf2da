//! Which COSEM object is what: `objects.toml`.

use std::collections::BTreeMap;

use latchkey_proto::audit::v1::{Command, CommandService, Tier};
use serde::Deserialize;

use super::PolicyError;

/// The data class of whatever the catalogue does not name.
pub(super) const UNKNOWN: &str = "unknown";

/// Attribute or method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Attribute,
    Method,
}

/// The objects Latchkey knows, each attribute and method by itself.
#[derive(Debug)]
pub(super) struct Catalogue(BTreeMap<(u32, String, Member, i32), Known>);

/// What is known of one attribute or method.
#[derive(Debug)]
struct Known {
    data_class: String,
    /// Parameter by tier name, for a method that is a tier of a reset.
    tiers: BTreeMap<String, Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    object: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    class_id: u16,
    logical_name: String,
    data_class: String,
    #[serde(default)]
    attributes: Vec<i8>,
    #[serde(default)]
    methods: Vec<i8>,
    #[serde(default)]
    tiers: BTreeMap<String, String>,
}

impl Catalogue {
    pub(super) fn parse(text: &str) -> Result<Self, PolicyError> {
        let refuse = |what: String| PolicyError::new("objects.toml", what);
        let file: File = toml::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let mut members = BTreeMap::new();
        for object in file.object {
            let named = format!("object {}/{}", object.class_id, object.logical_name);
            if canonical_name(&object.logical_name).as_deref() != Some(&object.logical_name) {
                return Err(refuse(format!(
                    "{named}: expected a name of six dotted numbers"
                )));
            }
            if !object.tiers.is_empty() && object.methods.len() != 1 {
                return Err(refuse(format!("{named}: tiers belong to one method")));
            }
            let tiers = parse_tiers(&object.tiers).map_err(|e| refuse(format!("{named}: {e}")))?;
            let attributes = object.attributes.iter().map(|i| (Member::Attribute, *i));
            let methods = object.methods.iter().map(|i| (Member::Method, *i));
            for (member, index) in attributes.chain(methods) {
                let key = (
                    u32::from(object.class_id),
                    object.logical_name.clone(),
                    member,
                    i32::from(index),
                );
                let known = Known {
                    data_class: object.data_class.clone(),
                    tiers: match member {
                        Member::Method => tiers.clone(),
                        Member::Attribute => BTreeMap::new(),
                    },
                };
                if index < 1 || members.insert(key, known).is_some() {
                    return Err(refuse(format!(
                        "{named}: index {index} is listed twice, or below 1"
                    )));
                }
            }
        }
        Ok(Self(members))
    }

    /// How many attributes and methods it names.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the object of a command tells or does.
    pub(super) fn data_class(&self, command: &Command) -> &str {
        self.known(command)
            .map_or(UNKNOWN, |known| &known.data_class)
    }

    /// Whether the command is the method of this tier, with the parameter of this tier.
    pub(super) fn fits_tier(&self, command: &Command, tier: Tier) -> bool {
        command.service() == CommandService::Action
            && self
                .known(command)
                .and_then(|known| known.tiers.get(tier_name(tier)))
                .is_some_and(|parameter| *parameter == command.parameter)
    }

    fn known(&self, command: &Command) -> Option<&Known> {
        let member = match command.service() {
            CommandService::Get | CommandService::Set => Member::Attribute,
            CommandService::Action => Member::Method,
            CommandService::Unspecified => return None,
        };
        self.0.get(&(
            command.class_id,
            command.logical_name.clone(),
            member,
            command.index,
        ))
    }
}

/// The tier as policies name it; empty for none.
pub(super) const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Unspecified => "",
        Tier::Soft => "soft",
        Tier::Warm => "warm",
        Tier::Cold => "cold",
    }
}

/// Six dotted decimal numbers of one octet each, without leading zeros: one spelling per object, so that
/// no object has a second name the policies do not know.
pub(crate) fn canonical_name(name: &str) -> Option<String> {
    let octets = name
        .split('.')
        .map(str::parse::<u8>)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|octets| octets.len() == 6)?;
    let numbers: Vec<String> = octets.iter().map(u8::to_string).collect();
    Some(numbers.join("."))
}

fn parse_tiers(tiers: &BTreeMap<String, String>) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let names = [Tier::Soft, Tier::Warm, Tier::Cold].map(tier_name);
    tiers
        .iter()
        .map(|(tier, parameter)| {
            if !names.contains(&tier.as_str()) {
                return Err(format!("{tier} is no tier: expected soft, warm or cold"));
            }
            let octets = unhex(parameter).ok_or_else(|| format!("{parameter} is not hex"))?;
            Ok((tier.clone(), octets))
        })
        .collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_one_spelling() {
        assert_eq!(
            canonical_name("0.0.96.1.2.255").as_deref(),
            Some("0.0.96.1.2.255")
        );
        assert_eq!(
            canonical_name("00.0.96.1.2.255").as_deref(),
            Some("0.0.96.1.2.255")
        );
        for bad in [
            "",
            "0.0.96.1.2",
            "0.0.96.1.2.256",
            "0-0:96.1.2.255",
            "0.0.96.1.2.255.",
        ] {
            assert_eq!(canonical_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn mistakes_in_the_file_are_refused() {
        let object = "[[object]]\nclass_id = 1\ndata_class = \"x\"\n";
        for rest in [
            "logical_name = \"0.0.1\"\nattributes = [1]",
            "logical_name = \"01.0.0.0.0.0\"\nattributes = [1]",
            "logical_name = \"1.0.0.0.0.0\"\nattributes = [0]",
            "logical_name = \"1.0.0.0.0.0\"\nattributes = [1, 1]",
            "logical_name = \"1.0.0.0.0.0\"\nmethods = [1]\ntiers = { hot = \"00\" }",
            "logical_name = \"1.0.0.0.0.0\"\nmethods = [1]\ntiers = { cold = \"0g\" }",
            "logical_name = \"1.0.0.0.0.0\"\nmethods = [1, 2]\ntiers = { cold = \"00\" }",
            "logical_name = \"1.0.0.0.0.0\"\nunknown = 1",
        ] {
            assert!(
                Catalogue::parse(&format!("{object}{rest}")).is_err(),
                "{rest}"
            );
        }
    }
}
