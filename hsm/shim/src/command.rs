//! What tests tell a shim.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What a function shall do in place of its work, or before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Return this code (`CKR_*`) and do nothing.
    Return(u64),
    /// Do not return before the fault is cleared; then go on.
    Hang,
    /// Close all sessions of the token first, as another part of the process might.
    CloseAll,
    /// Log the token out first.
    Logout,
    /// Abort the process.
    Crash,
    /// Add a line with function and handle to [`Shim::log`], and go on. Before other faults of the function, to
    /// note also what they answer.
    Log,
    /// Of `C_GetTokenInfo`: set these flags (`CKF_*`).
    TokenFlags(u64),
    /// Of `C_GetTokenInfo`: allow this many sessions.
    SessionsMax(u64),
}

impl Fault {
    fn words(self) -> String {
        match self {
            Self::Return(code) => format!("return {code}"),
            Self::Hang => "hang".to_owned(),
            Self::CloseAll => "close-all".to_owned(),
            Self::Logout => "logout".to_owned(),
            Self::Crash => "crash".to_owned(),
            Self::Log => "log".to_owned(),
            Self::TokenFlags(flags) => format!("token-flags {flags}"),
            Self::SessionsMax(count) => format!("sessions {count}"),
        }
    }

    fn parse(words: &[&str]) -> Option<Self> {
        Some(match words {
            ["return", code] => Self::Return(code.parse().ok()?),
            ["hang"] => Self::Hang,
            ["close-all"] => Self::CloseAll,
            ["logout"] => Self::Logout,
            ["crash"] => Self::Crash,
            ["log"] => Self::Log,
            ["token-flags", flags] => Self::TokenFlags(flags.parse().ok()?),
            ["sessions", count] => Self::SessionsMax(count.parse().ok()?),
            _ => return None,
        })
    }
}

/// One line of the file.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) id: u64,
    /// A function's name, `*` for all.
    pub(crate) function: String,
    /// How often; always if none.
    pub(crate) times: Option<u64>,
    pub(crate) fault: Fault,
}

impl Rule {
    pub(crate) fn is_for(&self, function: &str) -> bool {
        self.function == function || self.function == "*"
    }
}

/// A shim that was installed.
#[derive(Debug)]
pub struct Shim {
    module: PathBuf,
    rules: Mutex<(u64, Vec<Rule>)>,
}

impl Shim {
    /// Puts a copy of the shim at `directory/name.so`, and behind it a copy of the module `real`,
    /// which reads `conf` as its SoftHSM configuration, or that of the environment.
    ///
    /// # Panics
    /// If the shim was not built, or the files cannot be copied.
    pub fn install(directory: &Path, name: &str, real: &Path, conf: Option<&Path>) -> Self {
        let built = std::env::current_exe().expect("this program has a path");
        let beside = built.parent().map(|beside| beside.join(FILE));
        let above = built
            .ancestors()
            .nth(2)
            .map(|above| above.join("deps").join(FILE));
        let shim = [beside, above]
            .into_iter()
            .flatten()
            .find(|path| path.exists());
        let shim = shim.unwrap_or_else(|| panic!("{FILE} is not beside {}", built.display()));
        let module = directory.join(format!("{name}.so"));
        let copy = directory.join(format!("{name}.real.so"));
        fs::copy(shim, &module).expect("the shim is copied");
        fs::copy(real, &copy).expect("the real module is copied");
        let conf = conf
            .map(|conf| conf.display().to_string())
            .unwrap_or_default();
        let settings = format!("{}\n{conf}\n", copy.display());
        fs::write(module.with_extension("real"), settings).expect("its settings are written");
        let shim = Self {
            module,
            rules: Mutex::new((0, Vec::new())),
        };
        shim.write(&[]);
        shim
    }

    /// A shim that another process installed.
    pub fn at(module: &Path) -> Self {
        Self {
            module: module.to_owned(),
            rules: Mutex::new((1 << 32, Vec::new())),
        }
    }

    /// The module to load.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// From now on each call of `function` (`*`: of any) fails so. Returns the fault's number.
    pub fn always(&self, function: &str, fault: Fault) -> u64 {
        self.add(function, None, fault)
    }

    /// The next `times` calls of `function` fail so.
    pub fn next(&self, times: u64, function: &str, fault: Fault) -> u64 {
        self.add(function, Some(times), fault)
    }

    /// The token seems to have been removed: no slot has one, and nothing of it works.
    pub fn remove_token(&self) {
        self.always(
            "C_GetTokenInfo",
            Fault::Return(cryptoki_sys::CKR_TOKEN_NOT_PRESENT),
        );
        self.always(
            "C_OpenSession",
            Fault::Return(cryptoki_sys::CKR_TOKEN_NOT_PRESENT),
        );
        for function in USES {
            self.always(function, Fault::Return(cryptoki_sys::CKR_DEVICE_REMOVED));
        }
    }

    /// All faults end.
    pub fn clear(&self) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.1.clear();
        self.write(&rules.1);
    }

    /// One fault ends.
    pub fn clear_one(&self, id: u64) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.1.retain(|rule| rule.id != id);
        self.write(&rules.1);
    }

    /// What [`Fault::Log`] noted: function and handle of each call, oldest first.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.module.with_extension("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often that function is in the log.
    pub fn logged(&self, function: &str) -> usize {
        let of = |line: &&String| line.split(' ').next() == Some(function);
        self.log().iter().filter(of).count()
    }

    fn add(&self, function: &str, times: Option<u64>, fault: Fault) -> u64 {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.0 += 1;
        let id = rules.0;
        rules.1.push(Rule {
            id,
            function: function.to_owned(),
            times,
            fault,
        });
        self.write(&rules.1);
        id
    }

    fn write(&self, rules: &[Rule]) {
        let mut text = String::new();
        for rule in rules {
            let times = rule
                .times
                .map_or_else(|| "-".to_owned(), |times| times.to_string());
            writeln!(
                text,
                "{} {} {times} {}",
                rule.id,
                rule.function,
                rule.fault.words()
            )
            .expect("text takes more text");
        }
        // Whole or not at all: a call may read it at any moment.
        let draft = self.module.with_extension("draft");
        fs::write(&draft, text).expect("faults are written");
        fs::rename(draft, self.module.with_extension("faults")).expect("faults are put in place");
    }
}

/// The rules in a file of faults.
pub(crate) fn parse(text: &str) -> Vec<Rule> {
    let rule = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [id, function, times, fault @ ..] = words.as_slice() else {
            return None;
        };
        Some(Rule {
            id: id.parse().ok()?,
            function: (*function).to_owned(),
            times: times.parse().ok(),
            fault: Fault::parse(fault)?,
        })
    };
    text.lines().filter_map(rule).collect()
}

/// The file that cargo makes of this crate.
const FILE: &str = "libhsm_shim.so";

/// Functions that need the token.
const USES: [&str; 18] = [
    "C_Login",
    "C_CreateObject",
    "C_DestroyObject",
    "C_GetAttributeValue",
    "C_FindObjectsInit",
    "C_EncryptInit",
    "C_Encrypt",
    "C_DecryptInit",
    "C_Decrypt",
    "C_DigestInit",
    "C_SignInit",
    "C_Sign",
    "C_GenerateKey",
    "C_GenerateKeyPair",
    "C_WrapKey",
    "C_UnwrapKey",
    "C_DeriveKey",
    "C_GenerateRandom",
];
