//! The decision: may this plan be carried out? Default deny, and any doubt is a no.

mod catalogue;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::str::FromStr as _;

use aws_lc_rs::digest;
use cedar_policy::{
    Authorizer, Context, Decision as Verdict, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode,
    Validator,
};
use latchkey_proto::audit::v1::{AllowlistSide, Command, CommandService, Purpose, Tier};

pub(crate) use catalogue::canonical_name;
use catalogue::{Catalogue, tier_name};

/// A policy bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the policy bundle is refused: {file}: {what}")]
pub struct PolicyError {
    file: &'static str,
    what: String,
}

impl PolicyError {
    fn new(file: &'static str, what: impl ToString) -> Self {
        Self {
            file,
            what: what.to_string(),
        }
    }
}

/// A policy bundle, loaded and validated.
pub struct Policy {
    schema: Schema,
    policies: PolicySet,
    catalogue: Catalogue,
    summary: String,
}

/// Who is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Peer name.
    pub name: &'a str,
    /// Its roles, by the configuration.
    pub roles: &'a [&'a str],
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The meter.
    pub meter_id: &'a str,
    /// What for.
    pub purpose: Purpose,
    /// The tier, for a reset.
    pub tier: Tier,
    /// The commands, none for a connect.
    pub commands: &'a [Command],
    /// Nothing will be done.
    pub rehearsal: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, by these policies.
    Allowed(Vec<String>),
    /// No.
    Denied {
        /// The policies that forbid it; empty if merely none permits it.
        policy_ids: Vec<String>,
        /// Whom, what and why, in one line.
        cause: String,
    },
}

impl Policy {
    /// Loads the bundle of a directory, or the one compiled in.
    ///
    /// # Errors
    /// Says which file is wrong, and what about it. Any finding of the strict validator is an error.
    pub fn load(dir: Option<&Path>) -> Result<Self, PolicyError> {
        let read = |file: &'static str, embedded: &str| match dir {
            None => Ok(embedded.to_owned()),
            Some(dir) => {
                std::fs::read_to_string(dir.join(file)).map_err(|e| PolicyError::new(file, e))
            }
        };
        Self::parse(
            &read(SCHEMA, include_str!("../policy/schema.cedarschema"))?,
            &read(POLICIES, include_str!("../policy/policies.cedar"))?,
            &read(OBJECTS, include_str!("../policy/objects.toml"))?,
        )
    }

    fn parse(schema: &str, policies: &str, objects: &str) -> Result<Self, PolicyError> {
        let mut hasher = digest::Context::new(&digest::SHA256);
        for part in [schema, policies, objects] {
            // the length keeps two bundles from running into the same octets
            hasher.update(format!("{}\n", part.len()).as_bytes());
            hasher.update(part.as_bytes());
        }
        let digest = hex(hasher.finish().as_ref());
        let (schema, warnings) =
            Schema::from_cedarschema_str(schema).map_err(|e| PolicyError::new(SCHEMA, e))?;
        if let Some(warning) = warnings.into_iter().next() {
            return Err(PolicyError::new(SCHEMA, warning));
        }
        let policies = named(policies)?;
        let findings = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        if !findings.validation_passed_without_warnings() {
            return Err(PolicyError::new(POLICIES, findings));
        }
        let catalogue = Catalogue::parse(objects)?;
        let count = policies.policies().count();
        let summary = format!(
            "sha256:{digest} ({count} policies, {} members)",
            catalogue.len()
        );
        Ok(Self {
            schema,
            policies,
            catalogue,
            summary,
        })
    }

    /// The SHA-256 of the bundle, and its extent, for the trail.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Decides a plan for the service that presents it and for the person it is for: both must be allowed
    /// every command of it.
    #[must_use]
    pub fn decide(&self, service: Subject<'_>, person: Subject<'_>, plan: &Plan<'_>) -> Decision {
        let mut allowed = BTreeSet::new();
        for (kind, subject) in [(SERVICE, service), (PERSON, person)] {
            let questions: Vec<Question> = if plan.commands.is_empty() {
                vec![Question::connect(plan)]
            } else {
                let to_question = |command| self.question(command, plan);
                plan.commands.iter().map(to_question).collect()
            };
            for question in questions {
                match self.ask(kind, subject, question) {
                    Decision::Allowed(policy_ids) => allowed.extend(policy_ids),
                    denied @ Decision::Denied { .. } => return denied,
                }
            }
        }
        Decision::Allowed(allowed.into_iter().collect())
    }

    /// Decides a change of the allowlist.
    #[must_use]
    pub fn decide_allowlist(&self, person: Subject<'_>, side: AllowlistSide) -> Decision {
        let id = match side {
            AllowlistSide::Unspecified => "",
            AllowlistSide::Source => "source",
            AllowlistSide::Meter => "meter",
        };
        let question = Question {
            action: "change-allowlist",
            resource: Resource::Plain("Allowlist", id.to_owned()),
            context: Vec::new(),
            text: format!("change the {id} side of the allowlist"),
        };
        self.ask(PERSON, person, question)
    }

    fn question(&self, command: &Command, plan: &Plan<'_>) -> Question {
        let action = match command.service() {
            CommandService::Get => "get",
            CommandService::Set => "set",
            CommandService::Action => "act",
            CommandService::Unspecified => "",
        };
        let member = if action == "act" {
            "method"
        } else {
            "attribute"
        };
        let object = format!("{}/{}", command.class_id, command.logical_name);
        let text = format!("{action} {object} {member} {}", command.index);
        Question {
            action,
            context: self.context(command, plan),
            resource: Resource::Object {
                id: format!("{object} {member} {}", command.index),
                class_id: command.class_id,
                logical_name: command.logical_name.clone(),
                data_class: self.catalogue.data_class(command).to_owned(),
            },
            text,
        }
    }

    fn context(&self, command: &Command, plan: &Plan<'_>) -> Vec<(String, RestrictedExpression)> {
        let is_act = |c: &&Command| c.service() != CommandService::Get;
        let acts = plan.commands.iter().filter(is_act).count();
        let (selection, first, last) = selection(&command.selection);
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let number = |value: u32| RestrictedExpression::new_long(i64::from(value));
        let purpose = match plan.purpose {
            Purpose::Unspecified => "",
            Purpose::Connect => "connect",
            Purpose::Read => "read",
            Purpose::Reset => "reset",
            Purpose::Rekey => "rekey",
        };
        [
            ("purpose", text(purpose)),
            ("tier", text(tier_name(plan.tier))),
            ("rehearsal", RestrictedExpression::new_bool(plan.rehearsal)),
            ("acts", number(u32::try_from(acts).unwrap_or(u32::MAX))),
            ("maxUses", number(command.max_uses)),
            (
                "fitsTier",
                RestrictedExpression::new_bool(self.catalogue.fits_tier(command, plan.tier)),
            ),
            ("selection", text(selection)),
            ("firstColumn", number(first.into())),
            ("lastColumn", number(last.into())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// One decision of Cedar. Cedar passes over a policy that fails to evaluate, which would turn a forbid
    /// into a yes: so any error at all is a no.
    fn ask(&self, kind: &'static str, subject: Subject<'_>, question: Question) -> Decision {
        let what = question.text.clone();
        let (ids, why) = match self.evaluate(kind, subject, question) {
            Ok(Ok(policy_ids)) => return Decision::Allowed(policy_ids),
            Ok(Err(ids)) if ids.is_empty() => (ids, "no policy permits it".to_owned()),
            Ok(Err(ids)) => {
                let why = format!("forbidden by {}", ids.join(", "));
                (ids, why)
            }
            Err(error) => (Vec::new(), format!("it could not be decided: {error}")),
        };
        Decision::Denied {
            policy_ids: ids,
            cause: format!("{} may not {what}: {why}", subject.name),
        }
    }

    /// The policies that allow, or the policies that deny.
    fn evaluate(
        &self,
        kind: &'static str,
        subject: Subject<'_>,
        question: Question,
    ) -> Result<Result<Vec<String>, Vec<String>>, Undecided> {
        let principal = uid(kind, subject.name)?;
        let roles = subject.roles.iter().map(|role| uid("Role", role));
        let roles = roles.collect::<Result<HashSet<_>, _>>()?;
        let resource = question.resource.entity()?;
        let request = Request::new(
            principal.clone(),
            uid("Action", question.action)?,
            resource.uid(),
            Context::from_pairs(question.context)?,
            Some(&self.schema),
        )?;
        let subject = Entity::new_no_attrs(principal, roles);
        let entities = Entities::from_entities([subject, resource], Some(&self.schema))?;
        let answer = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        if let Some(error) = answer.diagnostics().errors().next() {
            return Err(Undecided(error.to_string()));
        }
        let mut ids: Vec<String> = answer
            .diagnostics()
            .reason()
            .map(ToString::to_string)
            .collect();
        ids.sort();
        Ok(match answer.decision() {
            Verdict::Allow => Ok(ids),
            Verdict::Deny => Err(ids),
        })
    }
}

/// One question to Cedar.
struct Question {
    action: &'static str,
    resource: Resource,
    context: Vec<(String, RestrictedExpression)>,
    /// What it is, for a person.
    text: String,
}

impl Question {
    fn connect(plan: &Plan<'_>) -> Self {
        Self {
            action: "connect",
            resource: Resource::Plain("Meter", plan.meter_id.to_owned()),
            context: Vec::new(),
            text: format!("connect to {}", plan.meter_id),
        }
    }
}

enum Resource {
    Plain(&'static str, String),
    Object {
        id: String,
        class_id: u32,
        logical_name: String,
        data_class: String,
    },
}

impl Resource {
    fn entity(self) -> Result<Entity, Undecided> {
        match self {
            Self::Plain(kind, id) => Ok(Entity::new_no_attrs(uid(kind, &id)?, HashSet::new())),
            Self::Object {
                id,
                class_id,
                logical_name,
                data_class,
            } => {
                let attributes = HashMap::from([
                    (
                        "classId".to_owned(),
                        RestrictedExpression::new_long(class_id.into()),
                    ),
                    (
                        "logicalName".to_owned(),
                        RestrictedExpression::new_string(logical_name),
                    ),
                ]);
                let parents = HashSet::from([uid("DataClass", &data_class)?]);
                Ok(Entity::new(uid("CosemObject", &id)?, attributes, parents)?)
            }
        }
    }
}

/// Cedar could not answer: which is a no.
#[derive(Debug)]
struct Undecided(String);

impl<E: std::error::Error> From<E> for Undecided {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for Undecided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The policies under the names their `@id` gives them. Without a name a decision could not be explained.
fn named(text: &str) -> Result<PolicySet, PolicyError> {
    let parsed = PolicySet::from_str(text).map_err(|e| PolicyError::new(POLICIES, e))?;
    if parsed.templates().next().is_some() {
        return Err(PolicyError::new(POLICIES, "templates are not used here"));
    }
    let mut policies = PolicySet::new();
    for policy in parsed.policies() {
        let id = policy.annotation("id").unwrap_or_default();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if id.is_empty() || id.len() > 64 || !id.chars().all(plain) {
            let what = format!("every policy needs an @id of [a-z0-9-], found {id:?}");
            return Err(PolicyError::new(POLICIES, what));
        }
        policies
            .add(policy.new_id(PolicyId::new(id)))
            .map_err(|e| PolicyError::new(POLICIES, e))?;
    }
    Ok(policies)
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, Undecided> {
    let kind = EntityTypeName::from_str(&format!("Latchkey::{kind}"))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

/// Kind, first and last column of an encoded selective access. Only the exact encoding of an entry
/// descriptor counts as one (IEC 62056-6-2, profile generic: selector 2, structure of two
/// double-long-unsigned and two long-unsigned); everything else is "other", which no profile rule permits.
fn selection(octets: &[u8]) -> (&'static str, u16, u16) {
    match octets {
        [] => ("none", 0, 0),
        [
            2, // selector: entry descriptor
            0x02,
            4, // structure of four
            0x06,
            _,
            _,
            _,
            _, // from entry
            0x06,
            _,
            _,
            _,
            _, // to entry
            0x12,
            first_high,
            first_low, // from selected value
            0x12,
            last_high,
            last_low, // to selected value; 0 means "the last", which is "other" here
        ] => {
            let first = u16::from_be_bytes([*first_high, *first_low]);
            let last = u16::from_be_bytes([*last_high, *last_low]);
            if first >= 1 && last >= first {
                ("entry", first, last)
            } else {
                ("other", 0, 0)
            }
        }
        _ => ("other", 0, 0),
    }
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

const SCHEMA: &str = "schema.cedarschema";
const POLICIES: &str = "policies.cedar";
const OBJECTS: &str = "objects.toml";
const SERVICE: &str = "Service";
const PERSON: &str = "Person";

#[cfg(test)]
mod tests;
