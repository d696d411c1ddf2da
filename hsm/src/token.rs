//! The token, or several with the same keys: found by label and serial, logged in once, used through
//! their workers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};

use crate::able::{Capabilities, GcmBackend, KeyDerivation};
use crate::error::Error;
use crate::health::TokenHealth;
use crate::key::KeyHandle;
pub(crate) use crate::login::{find, is_pin_error, pin_error};
use crate::member::Member;
use crate::pool::{Engine, Line};
use crate::same::Proof;

/// Where a token is and how to log in to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The PKCS#11 module (a shared library). Tokens of a pool are best behind modules of their own,
    /// if only by copies of one file: what recovers one disturbs the others of its module.
    pub module: PathBuf,
    /// Label of the token.
    pub token_label: String,
    /// Serial number of the token; needed only where two tokens of the module share a label.
    #[serde(default)]
    pub token_serial: Option<String>,
    /// File that holds the user PIN and nothing else; readable by its owner alone. This, or one of the
    /// next two.
    #[serde(default)]
    pub pin_file: Option<PathBuf>,
    /// Name of the systemd credential that holds the user PIN: `LoadCredential=` or
    /// `LoadCredentialEncrypted=` in the unit.
    #[serde(default)]
    pub pin_credential: Option<String>,
    /// Whether the PIN is asked for on the terminal when the process starts. Default false.
    #[serde(default)]
    pub pin_prompt: bool,
    /// Where it is noted that the token refused the PIN, so that the same PIN is not tried again, not
    /// even after a restart. Default: `<PIN file>.<label>.refused` in the state directory that systemd
    /// made for the service, else beside the PIN. Remove the file to have the same PIN tried again. A
    /// PIN that was typed is not noted.
    #[serde(default)]
    pub pin_refused_file: Option<PathBuf>,
    /// How many sessions, each with a thread of its own, 1..256. Software tokens are fastest with 1, a
    /// network HSM wants 16 to 64. Default 1.
    #[serde(default = "one")]
    pub sessions: usize,
    /// Milliseconds after which a call that has not returned counts as hung, 100..600000. Default 10000.
    #[serde(default = "default_call_timeout_ms")]
    pub call_timeout_ms: u64,
    /// Objects made in the module after which it is initialised anew to have their memory back, 0 or
    /// 64 and more; 0 never. SoftHSM keeps 245 octets of each until then. Default 262144: at most some
    /// 64 MiB, or 80 under load. More than twice the keys that are in use at one time. Not done more
    /// often than every 100 ms.
    #[serde(default = "default_objects_max")]
    pub objects_max: u64,
    /// How AES-GCM is done: `token`, or `ecb-ghash` for a token that makes nonces itself. Left out:
    /// as the self-test finds, the token first.
    #[serde(default)]
    pub gcm: Option<GcmBackend>,
    /// Where agreed keys are derived: `token-sp800`, `digest-key`, or `host-z`, which brings shared
    /// secrets into this process. Left out: the first of the first two that the token can.
    #[serde(default)]
    pub key_derivation: Option<KeyDerivation>,
}

impl TokenConfig {
    /// A token with its PIN in a file, used through one session; everything else as it is by
    /// default.
    pub fn new(
        module: impl Into<PathBuf>,
        token_label: impl Into<String>,
        pin_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            module: module.into(),
            token_label: token_label.into(),
            token_serial: None,
            pin_file: Some(pin_file.into()),
            pin_credential: None,
            pin_prompt: false,
            pin_refused_file: None,
            sessions: one(),
            call_timeout_ms: default_call_timeout_ms(),
            objects_max: default_objects_max(),
            gcm: None,
            key_derivation: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Config { why });
        if !(1..=SESSIONS_MAX).contains(&self.sessions) {
            return refuse(format!(
                "sessions = {}; use 1 to {SESSIONS_MAX}",
                self.sessions
            ));
        }
        if !(100..=600_000).contains(&self.call_timeout_ms) {
            let why = format!(
                "call_timeout_ms = {}; use 100 to 600000",
                self.call_timeout_ms
            );
            return refuse(why);
        }
        if (1..OBJECTS_MIN).contains(&self.objects_max) {
            let why = format!(
                "objects_max = {}; use 0 or {OBJECTS_MIN} and more",
                self.objects_max
            );
            return refuse(why);
        }
        crate::pin::Source::of(self).map(drop)
    }
}

/// What a token is for; decides what it must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Token A: meters' keys.
    Custody,
    /// Token B: log and permit signatures.
    Auditor,
    /// The key of a service's TLS end, and nothing else.
    Tls,
    /// Where custody's keys are born and cloned from: away from every service but at ceremonies and re-wraps.
    Backup,
}

impl Role {
    /// As configuration and errors spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custody => "custody",
            Self::Auditor => "auditor",
            Self::Tls => "tls",
            Self::Backup => "backup",
        }
    }
}

/// A token, logged in and proven fit; or several that hold the same keys, which do each other's work.
/// Clones share its sessions. Its methods need a Tokio runtime with its timer on.
///
/// Work goes to the tokens that do it, in turn; a key stays with the token and session that
/// unwrapped it. A token that fails is taken out, and what it was asked to do another one does. The
/// handles it held are stale ([`Error::StaleKey`]): unwrap the key again, and it is on another one.
/// [`Token::health`] looks after those that are out and takes them back; call it every few seconds.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    role: Role,
    members: Vec<Member>,
    /// What the first one opened did, for the others to undo.
    proof: OnceLock<Arc<Proof>>,
    next: AtomicUsize,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.members.iter().map(Member::name).collect();
        write!(f, "Token({}, {})", names.join(", "), self.0.role.as_str())
    }
}

impl Token {
    /// Finds the token, logs in and probes it. Refuses a token that cannot do what `role` needs
    /// and says which mechanism is missing or wrong. A wrong PIN is tried once and never again.
    pub fn open(config: &TokenConfig, role: Role) -> BoxFuture<'static, Result<Self, Error>> {
        Self::open_all(std::slice::from_ref(config), role)
    }

    /// The same with several tokens that hold the same keys, at most 16. One that holds other keys,
    /// or cannot do what `role` needs, is refused by name, and so is everything. One that is not there
    /// or fails is left out, if another works, and taken in when it does.
    pub fn open_all(
        configs: &[TokenConfig],
        role: Role,
    ) -> BoxFuture<'static, Result<Self, Error>> {
        let configs = configs.to_vec();
        Box::pin(async move {
            let token = Self::new(configs, role)?;
            token.begin().await?;
            Ok(token)
        })
    }

    fn new(configs: Vec<TokenConfig>, role: Role) -> Result<Self, Error> {
        if !(1..=MEMBERS_MAX).contains(&configs.len()) {
            return Err(Error::Config {
                why: format!("{} tokens; use 1 to {MEMBERS_MAX}", configs.len()),
            });
        }
        configs.iter().try_for_each(TokenConfig::check)?;
        let names: Vec<_> = configs
            .iter()
            .map(|config| name(config, &configs))
            .collect();
        let members = configs.into_iter().zip(names).enumerate();
        let members = members
            .map(|(place, (config, name))| Member::new(config, role, (place, name)))
            .collect();
        Ok(Self(Arc::new(Inner {
            role,
            members,
            proof: OnceLock::new(),
            next: AtomicUsize::new(0),
        })))
    }

    /// Opens every token that is there.
    async fn begin(&self) -> Result<(), Error> {
        let mut first = None;
        for member in &self.0.members {
            match member.open(self.proof()).await {
                Ok(()) => {}
                Err(error) if error.is_of_token() => {
                    member.record().take_out(member.name(), &error);
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match first {
            Some(error) if !self.0.members.iter().any(Member::works) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a token does real work with its keys now, in each of its sessions. Tokens that are out
    /// are looked for by this call.
    pub async fn health(&self) -> bool {
        let proof = self.proof();
        let checks = self.0.members.iter().map(|member| member.check(proof));
        join_all(checks).await.contains(&true)
    }

    /// How each token is, by what is known: asks none of them. In the order of configuration.
    pub fn tokens(&self) -> Vec<TokenHealth> {
        self.0.members.iter().map(Member::health).collect()
    }

    /// Random octets from the token, 1 to 1024.
    pub async fn random(&self, length: usize) -> Result<Vec<u8>, Error> {
        if !(1..=1024).contains(&length) {
            return Err(Error::Length {
                what: "the random string",
                length,
                allowed: "1..=1024",
            });
        }
        self.on_any(move |engine| {
            let mut random = vec![0; length];
            engine.session().generate_random_slice(&mut random)?;
            Ok(random)
        })
        .await
    }

    /// The token's label; of several, that of the first.
    pub fn label(&self) -> &str {
        self.0.members.first().map_or("", Member::name)
    }

    /// What each token that was opened can do, as its self-test found.
    pub fn capabilities(&self) -> Vec<Capabilities> {
        let opened = self.0.members.iter().filter_map(Member::shared);
        opened
            .map(|shared| shared.able.report(&shared.label, shared.role))
            .collect()
    }

    /// Runs `op` on the next worker in turn. It may be run again, elsewhere, where a token failed.
    pub(crate) async fn on_any<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        self.on_one_of_them(op, Waits::No).await
    }

    /// The same, waiting for a place in the queue.
    pub(crate) async fn on_any_patiently<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        self.on_one_of_them(op, Waits::ForAPlace).await
    }

    async fn on_one_of_them<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Clone + Send + 'static,
        waits: Waits,
    ) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            let (member, line) = self.next();
            let Some(line) = line else {
                return Err(Error::TokenGone {
                    label: member.name().to_owned(),
                });
            };
            let op = op.clone();
            let done = match waits {
                Waits::No => line.call(op).await,
                Waits::ForAPlace => line.call_patiently(op).await,
            };
            member.record().note(member.name(), &done);
            tries += 1;
            match done {
                Err(error) if error.is_passing() && tries <= TRIES_MAX => {}
                // Another one's turn, as long as there is another one.
                Err(error) if error.is_of_token() && tries <= TRIES_MAX && self.any_works() => {}
                Err(Error::Busy) if tries < self.0.members.len() => {}
                done => return done,
            }
        }
    }

    /// Runs `op` on the worker that owns the key. If its token fails and another one works, the key
    /// is stale: it can be unwrapped there. One with a spare is brought back here.
    pub(crate) async fn on_owner<T: Send + 'static>(
        &self,
        key: &KeyHandle,
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let Some(spare) = key.spare() else {
            return self.on_place(key.place(), op).await;
        };
        for _ in 0..TRIES_MAX {
            match self.on_place(key.place(), op.clone()).await {
                Err(Error::StaleKey) => {
                    key.move_to(self.unwrap_key(&spare.kek, &spare.wrapped).await?);
                }
                done => return done,
            }
        }
        Err(Error::StaleKey)
    }

    async fn on_place<T: Send + 'static>(
        &self,
        (place, worker): (usize, usize),
        op: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let member = self.0.members.get(place).ok_or(Error::StaleKey)?;
        let line = member.lines().get(worker).ok_or(Error::StaleKey)?;
        if !member.works() && self.any_works() {
            return Err(Error::StaleKey);
        }
        let done = line.call(op).await;
        member.record().note(member.name(), &done);
        match done {
            Err(error) if error.is_passing() => Err(Error::StaleKey),
            Err(error) if error.is_of_token() && self.any_works() => Err(Error::StaleKey),
            // The session does its work, and knows no such key.
            Err(Error::Refused { code, .. }) if is_stale(code) => Err(Error::StaleKey),
            done => done,
        }
    }

    /// Where the proof is, if there are others to prove it to.
    fn proof(&self) -> Option<&OnceLock<Arc<Proof>>> {
        (self.0.members.len() > 1).then_some(&self.0.proof)
    }

    fn any_works(&self) -> bool {
        self.0.members.iter().any(Member::works)
    }

    /// The next token and worker in turn, among those that work; if none does, among all.
    fn next(&self) -> (&Member, Option<&Line>) {
        // Scattered: two kinds of work that alternate must not each get a token of its own.
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        let turn = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let members = &self.0.members;
        let lines = |all: bool| {
            let members = members.iter().filter(move |member| all || member.works());
            members.flat_map(|member| member.lines().iter().map(move |line| (member, line)))
        };
        let pick = |all: bool| {
            let index = turn.checked_rem(lines(all).count())?;
            lines(all).nth(index)
        };
        match pick(false).or_else(|| pick(true)) {
            Some((member, line)) => (member, Some(line)),
            // `new` makes at least one member.
            None => (&members[0], None),
        }
    }

    /// The next worker in turn.
    #[cfg(test)]
    pub(crate) fn next_line(&self) -> &Line {
        self.next().1.unwrap()
    }
}

/// What is done about a full queue.
#[derive(Clone, Copy)]
enum Waits {
    /// It is said to be busy.
    No,
    ForAPlace,
}

/// As errors and logs call a token: its label, and its module where another one has the same label.
fn name(config: &TokenConfig, all: &[TokenConfig]) -> String {
    let label = &config.token_label;
    let alone = all
        .iter()
        .filter(|other| other.token_label == *label)
        .count()
        == 1;
    match (alone, &config.token_serial) {
        (true, _) => label.clone(),
        (false, Some(serial)) => format!("{label} (serial {serial})"),
        (false, None) => format!("{label} ({})", config.module.display()),
    }
}

/// Codes by which a module says that it has no such object: what a session answers about a key that
/// somebody destroyed.
fn is_stale(code: cryptoki::error::RvError) -> bool {
    use cryptoki::error::RvError;
    matches!(
        code,
        RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::WrappingKeyHandleInvalid
            | RvError::UnwrappingKeyHandleInvalid
    )
}

fn one() -> usize {
    1
}

fn default_call_timeout_ms() -> u64 {
    10_000
}

fn default_objects_max() -> u64 {
    262_144
}

const SESSIONS_MAX: usize = 256;
const MEMBERS_MAX: usize = 16;
const OBJECTS_MIN: u64 = 64;
/// How often a piece of work is begun again: each token can fail once, and lose its session once.
const TRIES_MAX: usize = 8;
