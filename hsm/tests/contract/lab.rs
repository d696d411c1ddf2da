//! A laboratory: every test has tokens of its own, of every brand.
//!
//! Software tokens find their files through environment variables, which are the process's. So
//! each test runs its body in a process of its own: this one again, told to run that test alone.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::session::{Session, UserType};
use hsm::ceremony::{self, Plan};
use hsm::{Error, GcmBackend, Role, Token, TokenConfig};

/// Declares a test whose body runs beside freshly made tokens: once on each brand, or, where it
/// says `on Softhsm:`, on that alone.
macro_rules! scenario {
    ($(#[doc = $doc:expr])* async fn $name:ident($lab:ident) $body:block) => {
        $(#[doc = $doc])*
        fn $name(brand: $crate::lab::Brand, test: &str) {
            $crate::lab::stage(brand, test, async |$lab: &$crate::lab::Lab| $body);
        }
        mod $name {
            $crate::lab::on!($name, softhsm, Softhsm);
            $crate::lab::on!($name, kryoptic, Kryoptic);
        }
    };
    ($(#[doc = $doc:expr])* on $brand:ident: async fn $name:ident($lab:ident) $body:block) => {
        $(#[doc = $doc])*
        #[test]
        fn $name() {
            let test = concat!(module_path!(), "::", stringify!($name));
            let brand = $crate::lab::Brand::$brand;
            $crate::lab::stage(brand, test, async |$lab: &$crate::lab::Lab| $body);
        }
    };
}
macro_rules! on {
    ($scenario:ident, $test:ident, $brand:ident) => {
        #[test]
        fn $test() {
            let test = concat!(module_path!(), "::", stringify!($test));
            super::$scenario($crate::lab::Brand::$brand, test);
        }
    };
}
pub(crate) use {on, scenario};

/// A software token there are many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brand {
    /// SoftHSM 2.6, of Debian.
    Softhsm,
    /// Kryoptic 1.5, built by `integration-tests/kryoptic/build`.
    Kryoptic,
}

impl Brand {
    /// Its PKCS#11 module.
    pub(crate) fn module(self) -> &'static Path {
        Path::new(match self {
            Self::Softhsm => "/usr/lib/softhsm/libsofthsm2.so",
            Self::Kryoptic => concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/tools/kryoptic/libkryoptic_pkcs11.so"
            ),
        })
    }

    /// The environment variable that names its configuration, and the file.
    fn configuration(self) -> (&'static str, &'static str) {
        match self {
            Self::Softhsm => ("SOFTHSM2_CONF", "softhsm2.conf"),
            Self::Kryoptic => ("KRYOPTIC_CONF", "kryoptic.toml"),
        }
    }

    /// The roles that one of its tokens can serve. Kryoptic has EdDSA, which an auditor signs with,
    /// from OpenSSL 3.2 on: newer than Debian's.
    pub(crate) fn roles(self) -> &'static [Role] {
        match self {
            Self::Softhsm => &[Role::Custody, Role::Auditor],
            Self::Kryoptic => &[Role::Custody],
        }
    }
}

/// The laboratory's directory, and what its tokens are.
pub(crate) struct Lab {
    directory: PathBuf,
    pub(crate) brand: Brand,
}

impl Lab {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The PKCS#11 module.
    pub(crate) fn module(&self) -> &'static Path {
        self.brand.module()
    }

    /// A laboratory inside this one, with tokens of its own for other programs.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) fn within(&self, name: &str) -> Self {
        let inner = Self {
            directory: self.path(name),
            brand: self.brand,
        };
        fs::create_dir_all(inner.path("tokens")).unwrap();
        inner.configure(None);
        inner
    }

    /// The plan of the standard ceremony.
    pub(crate) fn plan(&self) -> PathBuf {
        let path = self.path("plan.toml");
        if !path.exists() {
            let mut text = format!(
                "module = \"{}\"\ncreate_pins = true\n",
                self.module().display()
            );
            for role in self.brand.roles() {
                text += &planned(*role);
            }
            fs::write(&path, text).unwrap();
        }
        path
    }

    /// Has the ceremony make one more key on the custody token.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) fn add_key(&self, label: &str) {
        let plan = Plan::load(&self.plan()).unwrap();
        let mut keys = plan.tokens[0].keys();
        keys.push(label.to_owned());
        let role = "role = \"custody\"\n";
        let text = fs::read_to_string(self.plan()).unwrap();
        assert!(text.contains(role) && !text.contains("keys ="));
        let text = text.replace(role, &format!("{role}keys = {keys:?}\n"));
        fs::write(self.plan(), format!("add_keys = true\n{text}")).unwrap();
        ceremony::run(&Plan::load(&self.plan()).unwrap(), "2026-01-02T00:00:00Z").unwrap();
    }

    pub(crate) fn config(&self, role: Role) -> TokenConfig {
        let pin = self.path(&format!("{}.pin", role.as_str()));
        TokenConfig::new(self.module(), role.as_str(), pin)
    }

    /// The custody token, opened once for each way of doing GCM.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) async fn each_gcm(&self) -> [Token; 2] {
        let open = async |gcm| {
            let mut config = self.config(Role::Custody);
            config.gcm = Some(gcm);
            let token = Token::open(&config, Role::Custody).await.unwrap();
            assert_eq!(token.capabilities()[0].gcm, Some(gcm));
            token
        };
        [
            open(GcmBackend::Token).await,
            open(GcmBackend::EcbGhash).await,
        ]
    }

    pub(crate) async fn open(&self, role: Role) -> Result<Token, Error> {
        Token::open(&self.config(role), role).await
    }

    fn configure(&self, without: Option<&str>) {
        let tokens = self.path("tokens");
        let tokens = tokens.display();
        let text = match self.brand {
            Brand::Softhsm => {
                // SoftHSM 2.6 overlooks the first of a list of exclusions
                let mechanisms =
                    without.map_or_else(|| "ALL".to_owned(), |m| format!("-CKM_MD5,{m}"));
                format!(
                    "directories.tokendir = {tokens}\nlog.level = ERROR\nslots.mechanisms = {mechanisms}\n"
                )
            }
            Brand::Kryoptic => {
                let mechanisms = without.map(|m| format!("mechanisms = [\"DENY\", \"{m}\"]\n"));
                let mechanisms = mechanisms.unwrap_or_default();
                let slot = |slot| {
                    format!(
                        "[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{tokens}/{slot}.sql\"\n{mechanisms}"
                    )
                };
                (1..=KRYOPTIC_SLOTS).map(slot).collect()
            }
        };
        fs::write(self.path(self.brand.configuration().1), text).unwrap();
    }

    /// Takes a mechanism away. Only before the module is loaded.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) fn without(&self, mechanism: &str) {
        self.configure(Some(mechanism));
    }

    /// The attacker has the PIN and calls the module as he likes.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) fn attacker(&self) -> (Pkcs11, Session) {
        self.behind("custody")
    }

    /// Every token object of the token, by class and label, with what names it among all objects.
    #[allow(dead_code, reason = "one of the two users of this file does")]
    pub(crate) fn objects(&self, token: &str) -> BTreeMap<String, String> {
        let (_context, session) = self.behind(token);
        let ids = [
            AttributeType::Class,
            AttributeType::Label,
            AttributeType::UniqueId,
        ];
        let found = session.find_objects(&[Attribute::Token(true)]).unwrap();
        let named = found.into_iter().map(|object| {
            let read = session.get_attributes(object, &ids).unwrap();
            let [class, label, id] = &read[..] else {
                panic!("{read:?}");
            };
            (format!("{class:?} {label:?}"), format!("{id:?}"))
        });
        named.collect()
    }

    /// A session with the token, past the module under test: a copy is a module of its own.
    fn behind(&self, token: &str) -> (Pkcs11, Session) {
        let copy = tempfile::NamedTempFile::new_in(&self.directory)
            .unwrap()
            .into_temp_path();
        fs::copy(self.module(), &copy).unwrap();
        let context = Pkcs11::new(&copy).unwrap();
        let flags = CInitializeFlags::OS_LOCKING_OK;
        context.initialize(CInitializeArgs::new(flags)).unwrap();
        let slots = context.get_slots_with_token().unwrap().into_iter();
        let mut slots =
            slots.filter(|slot| context.get_token_info(*slot).unwrap().label() == token);
        let session = context.open_rw_session(slots.next().unwrap()).unwrap();
        // kept, for a test may take it away
        let kept = self.path(&format!("{token}.kept"));
        if !kept.exists() {
            fs::copy(self.path(&format!("{token}.pin")), &kept).unwrap();
        }
        let pin = fs::read_to_string(kept).unwrap();
        session
            .login(UserType::User, Some(&pin.trim().into()))
            .unwrap();
        (context, session)
    }

    /// Runs `program` with the laboratory's tokens.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let (variable, file) = self.brand.configuration();
        command
            .env(variable, self.path(file))
            .current_dir(&self.directory);
        command
    }
}

/// A token of the standard ceremony's plan.
pub(crate) fn planned(role: Role) -> String {
    let name = role.as_str();
    let mut text = format!(
        "[[token]]\nlabel = \"{name}\"\nrole = \"{name}\"\n\
         so_pin_file = \"{name}.so\"\npin_file = \"{name}.pin\"\n"
    );
    if role == Role::Custody {
        text += "transport_components = [\"transport.one\", \"transport.two\"]\n";
    }
    text
}

/// Runs `body` in a process of its own, after a ceremony in another.
pub(crate) fn stage(brand: Brand, name: &str, body: impl AsyncFnOnce(&Lab)) {
    let name = name.split_once("::").map_or(name, |(_, test)| test);
    if let Some(directory) = env::var_os(DIRECTORY) {
        let directory = directory.into();
        let lab = Lab { directory, brand };
        if env::var_os(CEREMONY).is_some() {
            ceremony::run(&Plan::load(&lab.plan()).unwrap(), "2026-01-01T00:00:00Z").unwrap();
        } else {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(body(&lab));
        }
        return;
    }
    assert!(
        brand.module().exists(),
        "{brand:?} is not there: {} (integration-tests/run installs or builds it)",
        brand.module().display()
    );
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().to_owned();
    let lab = Lab { directory, brand };
    fs::create_dir(lab.path("tokens")).unwrap();
    lab.configure(None);
    let again = |act: Option<&str>| {
        let mut command = lab.command(&env::current_exe().unwrap());
        command
            .args([name, "--exact", "--nocapture"])
            .env(DIRECTORY, &lab.directory);
        command.envs(act.map(|act| (act, "1")));
        succeed(name, &command.output().unwrap());
    };
    again(Some(CEREMONY));
    again(None);
}

fn succeed(name: &str, output: &Output) {
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(
        output.status.success(),
        "{name}: {}\n{out}\n{err}",
        output.status
    );
    // A filter that matches nothing would succeed as well.
    assert!(out.contains("1 passed"), "{name} did not run\n{out}");
    for line in out.lines().filter(|line| line.starts_with(FIGURE)) {
        figure(line);
    }
}

/// Shows what a scenario measured, past the test that runs it.
pub(crate) fn figure(text: &str) {
    let text = text.strip_prefix(FIGURE).unwrap_or(text);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{FIGURE}{text}").unwrap();
}

const FIGURE: &str = "figure: ";
/// Kryoptic has as many slots as its configuration says; SoftHSM always one that is free.
const KRYOPTIC_SLOTS: u8 = 4;
const DIRECTORY: &str = "LATCHKEY_LAB";
const CEREMONY: &str = "LATCHKEY_LAB_CEREMONY";
