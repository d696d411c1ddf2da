//! The key ceremony: makes tokens and their keys from one reviewed plan, and proves what it made.
//!
//! Run on tokens that do not exist, or are empty, it makes everything. Run on tokens that have
//! keys, it compares them with the plan, changes nothing, and refuses if anything differs; only with
//! `add_keys` it makes those that are missing. Either way it ends in a [`Transcript`] signed by every token.
//!
//! ```toml
//! module = "/usr/lib/softhsm/libsofthsm2.so"
//! create_pins = true                     # laboratories; elsewhere people bring the files
//!
//! [[token]]
//! label = "latchkey-backup"              # first: custody's keys are born in it and cloned into the others
//! role = "backup"
//! so_pin_file = "backup.so-pin"
//! pin_file = "backup.pin"
//!
//! [[token]]
//! label = "latchkey-custody"
//! role = "custody"
//! so_pin_file = "custody.so-pin"         # offline after the ceremony
//! pin_file = "custody.pin"
//! transport_components = ["transport.1", "transport.2"]
//!
//! [[token]]
//! label = "latchkey-auditor"
//! role = "auditor"
//! so_pin_file = "auditor.so-pin"
//! pin_file = "auditor.pin"
//! ```

mod clone;
mod plan;
mod retire;
mod secret;
mod transcript;

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use cryptoki::context::{Function, Info, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use secrecy::SecretString;

pub use clone::Crossing;
pub use plan::{Plan, TokenPlan};
pub use retire::Report;
pub use transcript::{
    BackupRecord, Body, KeyRecord, ModuleRecord, Outcome, SignatureRecord, TokenRecord, Transcript,
};

use crate::error::Error;
use crate::key::{self, Found, Kind};
use crate::module::Module;
use crate::token::Role;
use crate::{probe, sign, token, wrap};
use secret::Component;

/// Carries out the plan. `date` goes into the transcript as it is; the caller has the clock.
///
/// This blocks, for seconds on some HSMs: call it from a thread that may.
pub fn run(plan: &Plan, date: &str) -> Result<Transcript, Error> {
    plan.check()?;
    let module = Module::load(&plan.module)?;
    let entered = module.enter();
    let context = entered.context();
    // Look at all of it, and read every secret, before touching any of it.
    let look = |token| Entrance::find(context, plan, token);
    let entrances: Vec<_> = plan.tokens.iter().map(look).collect::<Result<_, _>>()?;
    let previous = plan.previous()?;
    let report = retire::report(plan)?;
    let mut rooms: Vec<Room<'_>> = Vec::with_capacity(entrances.len());
    for entrance in entrances {
        let backup = rooms.iter().find(|room| room.plan.role == Role::Backup);
        let mut room = Room::enter(context, plan, entrance, backup)?;
        if let Some(previous) = &previous {
            room.is_as_in(context, previous)?;
        }
        room.destroyed = retire::destroy(&room, report.as_ref())?;
        rooms.push(room);
    }
    let tokens = rooms
        .iter()
        .map(|room| room.record(context))
        .collect::<Result<_, _>>()?;
    let body = Body {
        format: transcript::FORMAT.to_owned(),
        date: date.to_owned(),
        plan_sha256: plan.digest(),
        previous: previous
            .map(|previous| previous.fingerprint())
            .transpose()?,
        module: module_record(&module, context)?,
        tokens,
    };
    let signed = body.signed_octets()?;
    let signatures = rooms
        .iter()
        .map(|room| room.sign(&signed))
        .collect::<Result<_, _>>()?;
    Ok(Transcript { body, signatures })
}

/// A token before anything is done to it: where it is, if it is, and what opens it.
struct Entrance<'a> {
    plan: &'a TokenPlan,
    slot: Option<Slot>,
    /// Needed only to initialise token or user PIN.
    so_pin: Option<SecretString>,
    pin: SecretString,
    /// The transport key, if its components are at hand.
    component: Option<Component>,
}

impl<'a> Entrance<'a> {
    fn find(context: &Pkcs11, plan: &Plan, token: &'a TokenPlan) -> Result<Self, Error> {
        let slot = match token::find(context, &token.label, None) {
            Ok(slot) => Some(slot),
            Err(Error::TokenNotFound { .. }) => None,
            Err(other) => return Err(other),
        };
        let could = slot.map_or_else(|| free_slot(context), Ok)?;
        let fresh = slot.is_none();
        match probe::ceremony_mechanisms(context, could, &token.label, token.role) {
            // Kryoptic says what a token can once there is one: it is asked again then.
            Err(Error::Refused {
                function: Function::GetMechanismList,
                ..
            }) if fresh => {}
            asked => asked?,
        }
        if fresh && plan.create_pins {
            secret::create_pin(&token.so_pin_file)?;
            secret::create_pin(&token.pin_file)?;
        }
        let bare = fresh || !context.get_token_info(could)?.user_pin_initialized();
        let whose = |who: &str| format!("{who} PIN of token `{}`", token.label);
        let so_pin = bare
            .then(|| {
                let whose = whose("security officer's");
                secret::pin(plan, &token.so_pin_file, (&whose, fresh))
            })
            .transpose()?;
        let at_hand = token.transport_components.iter().all(|path| path.exists());
        Ok(Self {
            plan: token,
            slot,
            so_pin,
            pin: secret::pin(plan, &token.pin_file, (&whose("user"), bare))?,
            component: if fresh || at_hand {
                secret::combine(token, fresh && plan.create_pins)?
            } else {
                None
            },
        })
    }

    /// Initialises what is not: the token, then the user PIN.
    fn open(&self, context: &Pkcs11) -> Result<Slot, Error> {
        let Some(so_pin) = &self.so_pin else {
            return token::find(context, &self.plan.label, None);
        };
        if self.slot.is_none() {
            context.init_token(free_slot(context)?, so_pin, &self.plan.label)?;
        }
        // The slot's number may have changed with the token.
        let slot = token::find(context, &self.plan.label, None)?;
        let session = context.open_rw_session(slot)?;
        log_in(&session, UserType::So, &self.plan.label, so_pin)?;
        session.init_pin(&self.pin)?;
        // The user cannot log in while the security officer is in, on any session.
        session.logout()?;
        Ok(slot)
    }
}

fn free_slot(context: &Pkcs11) -> Result<Slot, Error> {
    for slot in context.get_slots_with_token()? {
        if !context.get_token_info(slot)?.token_initialized() {
            return Ok(slot);
        }
    }
    Err(Error::Plan {
        why: "no slot holds an uninitialised token; add one, or correct the token's label".into(),
    })
}

/// One token, logged in, its keys made or found as planned.
struct Room<'a> {
    plan: &'a TokenPlan,
    slot: Slot,
    session: Session,
    keys: BTreeMap<String, Found>,
    outcome: Outcome,
    /// Check value of the transport key, where its components are at hand.
    transport_check: Option<String>,
    /// What the backup token has to do with its keys.
    backed: BTreeMap<String, BackupRecord>,
    /// Labels of the keys that were destroyed.
    destroyed: Vec<String>,
}

impl<'a> Room<'a> {
    fn enter(
        context: &Pkcs11,
        plan: &Plan,
        entrance: Entrance<'a>,
        backup: Option<&Room<'_>>,
    ) -> Result<Self, Error> {
        let slot = entrance.open(context)?;
        let token = entrance.plan;
        probe::ceremony_mechanisms(context, slot, &token.label, token.role)?;
        let mut component = entrance.component;
        let session = context.open_rw_session(slot)?;
        log_in(&session, UserType::User, &token.label, &entrance.pin)?;
        let empty = session.find_objects(&[Attribute::Token(true)])?.is_empty();
        let missing = match (empty, plan.add_keys) {
            (true, _) => token.keys(),
            (false, true) => missing(token, &key::survey(&session, &token.label, token.role)?),
            (false, false) => Vec::new(),
        };
        if !missing.is_empty() && component.is_none() {
            component = secret::combine(token, plan.create_pins)?;
        }
        let kept = |label: &String| backup.is_some_and(|backup| backup.has_kept(label));
        let (kept, own): (Vec<_>, Vec<_>) = missing.iter().cloned().partition(kept);
        create_keys(&session, token, &own, component.as_ref())?;
        let crossings = match backup {
            Some(backup) => backup.give(token, &session, kept)?,
            None => BTreeMap::new(),
        };
        let outcome = match (empty, missing.is_empty()) {
            (true, _) => Outcome::Created,
            (false, false) => Outcome::Extended,
            (false, true) => Outcome::Unchanged,
        };
        let keys = key::survey(&session, &token.label, token.role)?;
        compare(&session, token, &keys)?;
        if let Some(component) = &component {
            check_transport(&session, token, &keys, component)?;
        }
        let backed = match backup {
            Some(backup) => backup.prove(token, &session, &keys, crossings)?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            plan: token,
            slot,
            session,
            keys,
            outcome,
            transport_check: component
                .map(|component| component.check_value())
                .transpose()?,
            backed,
            destroyed: Vec::new(),
        })
    }

    /// Whether it is a backup token that has the key to be cloned.
    fn has_kept(&self, label: &str) -> bool {
        self.keys
            .get(label)
            .is_some_and(|found| found.kind.is_kept())
    }

    fn end(&self) -> clone::End<'_> {
        end(self.plan, &self.session)
    }

    /// Clones these keys into another token.
    fn give(
        &self,
        to: &TokenPlan,
        session: &Session,
        labels: Vec<String>,
    ) -> Result<BTreeMap<String, Crossing>, Error> {
        let mut crossings = BTreeMap::new();
        if labels.is_empty() {
            return Ok(crossings);
        }
        let there = key::survey(session, &to.label, to.role)?;
        let speaker = there
            .get(plan::TRANSCRIPT)
            .ok_or_else(|| differs(to, "no transcript key"))?;
        let mut doors = clone::Doors::default();
        let ends = (self.end(), end(to, session));
        for label in labels {
            let origin = self
                .keys
                .get(&label)
                .ok_or_else(|| differs(to, "no origin"))?;
            let key = (label.as_str(), origin);
            let crossing = clone::clone(&mut doors, ends, key, speaker)?;
            crossings.insert(label, crossing);
        }
        doors.close(session)?;
        Ok(crossings)
    }

    /// Proves that each key that both tokens have is the same; tells of those that only the other has.
    fn prove(
        &self,
        to: &TokenPlan,
        session: &Session,
        keys: &BTreeMap<String, Found>,
        mut crossings: BTreeMap<String, Crossing>,
    ) -> Result<BTreeMap<String, BackupRecord>, Error> {
        let mut backed = BTreeMap::new();
        for (label, clone) in keys.iter().filter(|(_, found)| found.kind.is_kept()) {
            let Some(origin) = self.keys.get(label) else {
                continue;
            };
            let ends = (self.end(), end(to, session));
            let same = clone::same(ends.0, ends.1, label, (origin, clone))?;
            let record = BackupRecord {
                token: self.plan.label.clone(),
                cloned: crossings.remove(label),
                same,
            };
            backed.insert(label.clone(), record);
        }
        Ok(backed)
    }

    /// A token that the previous transcript tells of is that token still.
    fn is_as_in(&self, context: &Pkcs11, previous: &Transcript) -> Result<(), Error> {
        let tokens = &previous.body.tokens;
        let Some(then) = tokens.iter().find(|then| then.label == self.plan.label) else {
            return Ok(());
        };
        let serial = context
            .get_token_info(self.slot)?
            .serial_number()
            .to_owned();
        if serial != then.serial {
            let why = format!(
                "its serial number is {serial}, and was {} in previous_transcript; a replacement needs another label",
                then.serial
            );
            return Err(differs(self.plan, &why));
        }
        for key in &then.keys {
            let public = self.keys.get(&key.label).map(|now| now.public.as_ref());
            let other = public.is_some_and(|public| public.map(hex::encode) != key.public_key);
            let own = key.label == plan::TRANSCRIPT;
            if other || (own && public.is_none()) {
                let why = format!("key `{}` is not as in previous_transcript", key.label);
                return Err(differs(self.plan, &why));
            }
        }
        Ok(())
    }

    fn record(&self, context: &Pkcs11) -> Result<TokenRecord, Error> {
        let info = context.get_token_info(self.slot)?;
        let mut keys = Vec::with_capacity(self.keys.len());
        let left = |label: &&String| !self.destroyed.contains(label);
        for (label, found) in self.keys.iter().filter(|(label, _)| left(label)) {
            keys.push(KeyRecord {
                label: label.clone(),
                kind: found.kind.name().to_owned(),
                public_key: found.public.as_ref().map(hex::encode),
                check_value: self
                    .transport_check
                    .clone()
                    .filter(|_| found.kind == Kind::Transport),
                attributes: found.attributes.clone(),
                refused: self.attack(label, found)?,
                backup: self.backed.get(label).cloned(),
            });
        }
        Ok(TokenRecord {
            label: self.plan.label.clone(),
            role: self.plan.role,
            serial: info.serial_number().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            hardware_version: info.hardware_version().to_string(),
            firmware_version: info.firmware_version().to_string(),
            outcome: self.outcome,
            keys,
            destroyed: self.destroyed.clone(),
        })
    }

    /// Tries what must be refused. Each try is harmless if it is not.
    fn attack(&self, label: &str, found: &Found) -> Result<Vec<String>, Error> {
        let same = [Attribute::Label(label.as_bytes().to_vec())];
        let modified = self.session.update_attributes(found.object, &same);
        let copied = self
            .session
            .copy_object(found.object, &[Attribute::Token(false)]);
        let mut refused = vec![
            self.must_refuse(label, "to modify it", modified.map(|()| None))?,
            self.must_refuse(label, "to copy it", copied.map(Some))?,
        ];
        if let Some(template) = found.kind.unwrapped(self.plan.role) {
            let wrapped = wrap::generate(&self.session, found.object, 16)?;
            let second = match self.plan.role {
                // It is there to wrap them again; but not to use them.
                Role::Backup => ("to unwrap a key as usable", Attribute::Encrypt(true)),
                _ => (
                    "to unwrap a key as extractable",
                    Attribute::Extractable(true),
                ),
            };
            let first = ("to unwrap a key as readable", Attribute::Sensitive(false));
            let read = [first, second];
            for (what, open) in read {
                let got = wrap::unwrap_as(
                    &self.session,
                    found.object,
                    &wrapped,
                    (template.clone(), &open),
                );
                refused.push(self.must_refuse(label, what, got.map(Some))?);
            }
        }
        Ok(refused)
    }

    fn must_refuse(
        &self,
        label: &str,
        what: &str,
        outcome: Result<Option<ObjectHandle>, Pkcs11Error>,
    ) -> Result<String, Error> {
        match outcome {
            Err(Pkcs11Error::Pkcs11(code, _)) => Ok(format!("{what}: {code:?}")),
            Err(other) => Err(other.into()),
            Ok(made) => {
                if let Some(made) = made {
                    self.session.destroy_object(made)?;
                }
                Err(Error::KeyUnfit {
                    token: self.plan.label.clone(),
                    label: label.to_owned(),
                    why: format!("the token allows {what}"),
                })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Result<SignatureRecord, Error> {
        let label = plan::TRANSCRIPT;
        let key = self
            .keys
            .get(label)
            .ok_or_else(|| differs(self.plan, "no transcript key"))?;
        let signature = sign::sign(&self.session, key.kind, key.object, message)?;
        Ok(SignatureRecord {
            token: self.plan.label.clone(),
            key: label.to_owned(),
            signature: hex::encode(signature),
        })
    }
}

fn log_in(session: &Session, user: UserType, label: &str, pin: &SecretString) -> Result<(), Error> {
    match session.login(user, Some(pin)) {
        Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Pkcs11Error::Pkcs11(code, Function::Login)) if token::is_pin_error(code) => {
            Err(token::pin_error(label, code))
        }
        Err(other) => Err(other.into()),
    }
}

fn end<'a>(token: &'a TokenPlan, session: &'a Session) -> clone::End<'a> {
    clone::End {
        token: &token.label,
        role: token.role,
        session,
    }
}

/// What the plan lists and the token has not.
fn missing(token: &TokenPlan, keys: &BTreeMap<String, Found>) -> Vec<String> {
    let mut planned = token.keys();
    planned.retain(|label| !keys.contains_key(label));
    planned
}

fn create_keys(
    session: &Session,
    token: &TokenPlan,
    labels: &[String],
    component: Option<&Component>,
) -> Result<(), Error> {
    for label in labels {
        let kind = plan::kind(token, label)?;
        match (kind, component) {
            (Kind::Transport, Some(component)) => {
                key::import(session, token.role, (kind, label), component.value())?;
            }
            _ => key::create(session, token.role, kind, label)?,
        }
    }
    Ok(())
}

/// The token's transport key is the one of these components.
fn check_transport(
    session: &Session,
    token: &TokenPlan,
    keys: &BTreeMap<String, Found>,
    component: &Component,
) -> Result<(), Error> {
    for found in keys.values().filter(|found| found.kind == Kind::Transport) {
        let wrapped = component.wrap_test_key()?;
        let template = key::incoming_key(KeyType::AES, false);
        let unwrapped =
            session.unwrap_key(&Mechanism::AesKeyWrap, found.object, &wrapped, &template);
        match unwrapped {
            Ok(test) => session.destroy_object(test)?,
            Err(_) => {
                return Err(differs(
                    token,
                    "the transport key is not of these components",
                ));
            }
        }
    }
    Ok(())
}

/// The token holds what the plan lists and nothing else.
fn compare(
    session: &Session,
    token: &TokenPlan,
    keys: &BTreeMap<String, Found>,
) -> Result<(), Error> {
    let planned = token.keys();
    if let Some(missing) = planned.iter().find(|label| !keys.contains_key(*label)) {
        let why = format!("key `{missing}` is missing; add_keys = true in the plan makes it");
        return Err(differs(token, &why));
    }
    let known = |label: &&String| planned.contains(label) || token.destroy.contains(label);
    if let Some(extra) = keys.keys().find(|label| !known(label)) {
        return Err(differs(token, &format!("key `{extra}` is not in the plan")));
    }
    let mut objects = 0;
    for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
        let template = [Attribute::Token(true), Attribute::Class(class)];
        objects += session.find_objects(&template)?.len();
    }
    if objects == keys.len() {
        Ok(())
    } else {
        Err(differs(
            token,
            "it holds a key whose label is none of Latchkey's",
        ))
    }
}

fn differs(token: &TokenPlan, why: &str) -> Error {
    Error::Differs {
        token: token.label.clone(),
        why: why.to_owned(),
    }
}

fn module_record(module: &Module, context: &Pkcs11) -> Result<ModuleRecord, Error> {
    let library = std::fs::read(module.path()).map_err(|source| Error::File {
        path: module.path().to_owned(),
        source,
    })?;
    let info = context.get_library_info()?;
    Ok(ModuleRecord {
        path: module.path().display().to_string(),
        sha256: hex::encode(digest::digest(&digest::SHA256, &library)),
        manufacturer: info.manufacturer_id().to_owned(),
        description: Info::library_description(&info).to_owned(),
        version: Info::library_version(&info).to_string(),
        cryptoki_version: info.cryptoki_version().to_string(),
    })
}
