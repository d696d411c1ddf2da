//! The reviewed plan.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::Deserialize;

use super::transcript::Transcript;
use crate::error::Error;
use crate::key::Kind;
use crate::token::Role;

/// What the ceremony shall make. A TOML file; unknown fields are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The PKCS#11 module (a shared library).
    pub module: PathBuf,
    /// Whether PIN files and transport components that do not exist are made, of random digits and
    /// octets, readable by their owner alone. Only for tokens that do not exist either.
    #[serde(default)]
    pub create_pins: bool,
    /// Whether keys that the plan lists and a token lacks are made on it: to give a token that is in use a new kind of
    /// key, or to go on with a ceremony that broke off. Keys that are there are compared as ever.
    #[serde(default)]
    pub add_keys: bool,
    /// Whether a PIN whose file does not exist is asked for on the terminal, twice where it is a new one: it is then in no
    /// file. Default false. Not together with `create_pins`.
    #[serde(default)]
    pub pin_prompt: bool,
    /// The transcript of the ceremony before: a token that it tells of must have the serial number and the public keys it
    /// had then, so that nobody puts another in its place. Left out: nothing is compared.
    #[serde(default)]
    pub previous_transcript: Option<PathBuf>,
    /// What `latchkey keys generations --output json` printed when nothing more needed the keys that are to be destroyed.
    /// Required where a token lists keys under `destroy`.
    #[serde(default)]
    pub generations_report: Option<PathBuf>,
    /// The tokens, in the order of their making: `[[token]]`. Backup tokens come first; what the first of them has, those
    /// after it do not make themselves but get from it.
    #[serde(rename = "token")]
    pub tokens: Vec<TokenPlan>,
    #[serde(skip)]
    digest: String,
}

/// One token of a plan.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenPlan {
    /// Its label, 1 to 32 printable ASCII characters.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// File with the security officer's PIN. Services never see it: take it away afterwards.
    pub so_pin_file: PathBuf,
    /// File with the user PIN.
    pub pin_file: PathBuf,
    /// Labels of its keys. Left out: `kek-ek-1`, `kek-ak-1`, `kek-hs-1`, `kek-mk-1`, `transport-1`,
    /// `sign-p256-1`, `sign-p384-1`, `agree-p256-1`, `agree-p384-1`, `transcript` for custody and for its backup;
    /// `log-1`, `permit-1`, `transcript` for the auditor; `tls-1`, `transcript` for a token of one service's TLS
    /// key. A custody token that lists no `kek-hs`
    /// serves no HLS secrets, one without `kek-mk` no master keys, one without `sign` or `agree`
    /// keys of a curve not the security suite of that curve. `transport-rsa-N` takes keys in from
    /// makers who encipher with its public half (RSA-OAEP); a custody token has none unless it is
    /// listed.
    #[serde(default)]
    keys: Option<Vec<String>>,
    /// Labels of key-encryption keys (`kek-ek-N`, `kek-ak-N`, `kek-hs-N`, `kek-mk-N`) that are destroyed if the token has
    /// them: not among `keys`. Refused while custody's `generations_report` says that anything needs one.
    #[serde(default)]
    pub destroy: Vec<String>,
    /// Files with the components of the transport key, 64 hexadecimal digits each, held by
    /// different people; the key is their XOR. Left out: a random key, under which nobody can send.
    #[serde(default)]
    pub transport_components: Vec<PathBuf>,
}

impl Plan {
    /// Reads a plan. Relative paths in it are relative to its own directory.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        let mut plan = Self::parse(&text)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        plan.module = directory.join(&plan.module);
        for file in [&mut plan.previous_transcript, &mut plan.generations_report] {
            *file = file.as_ref().map(|file| directory.join(file));
        }
        for token in &mut plan.tokens {
            token.so_pin_file = directory.join(&token.so_pin_file);
            token.pin_file = directory.join(&token.pin_file);
            for component in &mut token.transport_components {
                *component = directory.join(&*component);
            }
        }
        Ok(plan)
    }

    /// Parses and checks the text of a plan.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut plan: Self = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        plan.digest = hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
        plan.check()?;
        Ok(plan)
    }

    /// SHA-256 of the text, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        self.digest.clone()
    }

    /// The transcript of the ceremony before, verified.
    pub(super) fn previous(&self) -> Result<Option<Transcript>, Error> {
        let Some(path) = &self.previous_transcript else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        Transcript::verify(&text).map(Some)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(refuse("it names no [[token]]".to_owned()));
        }
        if self.pin_prompt && self.create_pins {
            let why = "create_pins makes the files of PINs that pin_prompt would ask for; use one of them";
            return Err(refuse(why.to_owned()));
        }
        let first_other = self
            .tokens
            .iter()
            .position(|token| token.role != Role::Backup);
        let last_backup = self
            .tokens
            .iter()
            .rposition(|token| token.role == Role::Backup);
        if first_other < last_backup && first_other.is_some() {
            let why = "backup tokens come first: the keys of the others are cloned from them";
            return Err(refuse(why.to_owned()));
        }
        if self.generations_report.is_none() && self.tokens.iter().any(|t| !t.destroy.is_empty()) {
            let why = "keys are destroyed only with custody's generations_report";
            return Err(refuse(why.to_owned()));
        }
        let mut labels = BTreeSet::new();
        let mut files = BTreeSet::new();
        for token in &self.tokens {
            token.check()?;
            if !labels.insert(&token.label) {
                return Err(refuse(format!("token `{}` is named twice", token.label)));
            }
            let secrets = [&token.so_pin_file, &token.pin_file].into_iter();
            for file in secrets.chain(&token.transport_components) {
                if !files.insert(file) {
                    let why = format!("{} is used twice; one file for one secret", file.display());
                    return Err(refuse(why));
                }
            }
        }
        Ok(())
    }
}

impl TokenPlan {
    /// Labels of its keys.
    pub fn keys(&self) -> Vec<String> {
        let standard: &[&str] = match self.role {
            Role::Custody | Role::Backup => &[
                "kek-ek-1",
                "kek-ak-1",
                "kek-hs-1",
                "kek-mk-1",
                "transport-1",
                "sign-p256-1",
                "sign-p384-1",
                "agree-p256-1",
                "agree-p384-1",
                TRANSCRIPT,
            ],
            Role::Auditor => &["log-1", "permit-1", TRANSCRIPT],
            Role::Tls => &["tls-1", TRANSCRIPT],
        };
        let standard = || standard.iter().copied().map(str::to_owned).collect();
        self.keys.clone().unwrap_or_else(standard)
    }

    fn check(&self) -> Result<(), Error> {
        let printable = self.label.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !printable || self.label.trim() != self.label || !(1..=32).contains(&self.label.len()) {
            let why = "a token's label is 1 to 32 printable ASCII characters";
            return Err(refuse(format!("`{}`: {why}", self.label.escape_debug())));
        }
        let keys = self.keys();
        for key in &keys {
            kind(self, key)?;
        }
        for key in &self.destroy {
            let kek = matches!(
                kind(self, key)?,
                Kind::KekEk | Kind::KekAk | Kind::KekHs | Kind::KekMk
            );
            if !kek || keys.contains(key) {
                let why = "`destroy` lists key-encryption keys, and none of `keys`";
                return Err(refuse(format!("`{key}`: {why}")));
            }
        }
        let distinct: BTreeSet<&String> = keys.iter().collect();
        if distinct.len() != keys.len() {
            return Err(refuse(format!("token `{}` lists a key twice", self.label)));
        }
        if !keys.iter().any(|key| key == TRANSCRIPT) {
            let why = format!(
                "token `{}` needs a key `{TRANSCRIPT}` to sign with",
                self.label
            );
            return Err(refuse(why));
        }
        let transports = keys
            .iter()
            .filter(|key| kind(self, key).ok() == Some(Kind::Transport));
        match (self.transport_components.len(), transports.count()) {
            (0, _) => Ok(()),
            (1, _) => Err(refuse(
                "one component is the whole key; use two, held by different people".to_owned(),
            )),
            (_, 1) => Ok(()),
            _ => Err(refuse(
                "components need exactly one transport key".to_owned(),
            )),
        }
    }
}

/// The kind of a planned key.
pub(super) fn kind(token: &TokenPlan, label: &str) -> Result<Kind, Error> {
    Kind::of(token.role, label).ok_or_else(|| {
        refuse(format!(
            "`{}` is no key of a token of role {}; see the labels in the documentation of `keys`",
            label.escape_debug(),
            token.role.as_str(),
        ))
    })
}

/// The N of a key's label.
pub(super) fn number(label: &str) -> Option<u32> {
    label.rsplit('-').next()?.parse().ok()
}

fn refuse(why: String) -> Error {
    Error::Plan { why }
}

/// The key that signs the transcript, and nothing else.
pub(super) const TRANSCRIPT: &str = "transcript";

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        module = "/m.so"
        [[token]]
        label = "a"
        role = "custody"
        so_pin_file = "a.so"
        pin_file = "a.pin"
        [[token]]
        label = "b"
        role = "auditor"
        so_pin_file = "b.so"
        pin_file = "b.pin"
        keys = ["log-1", "log-2", "permit-1", "transcript"]
    "#;

    #[test]
    fn the_shipped_plan_is_good() {
        let plan = Plan::parse(include_str!("../../../deploy/ceremony/plan.toml")).unwrap();
        let roles: Vec<_> = plan.tokens.iter().map(|token| token.role).collect();
        assert_eq!(roles, [Role::Backup, Role::Custody, Role::Auditor]);
    }

    #[test]
    fn a_plan_has_the_standard_keys_unless_it_says_otherwise() {
        let plan = Plan::parse(GOOD).unwrap();
        assert_eq!(
            plan.tokens[0].keys(),
            [
                "kek-ek-1",
                "kek-ak-1",
                "kek-hs-1",
                "kek-mk-1",
                "transport-1",
                "sign-p256-1",
                "sign-p384-1",
                "agree-p256-1",
                "agree-p384-1",
                "transcript"
            ]
        );
        assert_eq!(
            plan.tokens[1].keys(),
            ["log-1", "log-2", "permit-1", "transcript"]
        );
        assert_eq!(plan.digest.len(), 64);
    }

    #[test]
    fn a_bad_plan_is_refused_with_its_cause() {
        for (from, to, cause) in [
            (r#"label = "b""#, r#"label = "a""#, "named twice"),
            (r#"label = "b""#, r#"label = """#, "1 to 32"),
            (r#""b.pin""#, r#""a.pin""#, "one file for one secret"),
            (
                r#""log-2""#,
                r#""kek-ek-1""#,
                "no key of a token of role auditor",
            ),
            (r#""log-2""#, r#""log-1""#, "lists a key twice"),
            (r#", "transcript""#, "", "needs a key `transcript`"),
            ("keys =", "kyes =", "unknown field"),
            (
                "keys =",
                "transport_components = [\"x\"]\nkeys =",
                "one component",
            ),
            (
                "keys =",
                "transport_components = [\"x\", \"y\"]\nkeys =",
                "exactly one",
            ),
            (r#"role = "auditor""#, r#"role = "king""#, "king"),
            (
                "[[token]]\n        label = \"a\"",
                "create_pins = true\npin_prompt = true\n[[token]]\n        label = \"a\"",
                "use one of them",
            ),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = Plan::parse(&text).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
