//! Where the allowlist comes from: the auditor, asked again and again, and a file for when it is away.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use kit::{Channel, Shutdown, clock};
use latchkey_proto::audit::v1::{
    GetAllowlistRequest, allowlist_service_client::AllowlistServiceClient,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::Status;

use crate::{allowlist::Allowlist, config::Relay};

/// The list in force; `None` admits nobody.
pub type Current = watch::Receiver<Option<Arc<Allowlist>>>;

/// Longest wait for an auditor who is asked out of turn.
const FRESH_WAIT: Duration = Duration::from_secs(1);
/// Shortest pause between two questions to the auditor.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Asks for the auditor's newest list out of turn: a meter enrolled a moment ago is not in the last one.
#[derive(Debug, Clone)]
pub struct Fresh {
    wanted: watch::Sender<u64>,
    served: watch::Receiver<u64>,
}

impl Fresh {
    /// Waits until the auditor has been asked after this call began, but not for long.
    pub async fn wait(&self) {
        let mut mine = 0;
        self.wanted.send_modify(|count| {
            *count = count.wrapping_add(1);
            mine = *count;
        });
        let mut served = self.served.clone();
        let answered = served.wait_for(|count| *count >= mine);
        if tokio::time::timeout(FRESH_WAIT, answered).await.is_err() {
            tracing::debug!("the auditor did not answer out of turn");
        }
    }
}

/// A cache from further in the future than this was written by another clock.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(60);

/// Longer than any wait for an answer.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps the list fresh.
#[derive(Debug)]
pub struct Feed {
    auditor: AllowlistServiceClient<Channel>,
    cache_file: PathBuf,
    max_age: Duration,
    poll: Duration,
    list: watch::Sender<Option<Arc<Allowlist>>>,
    /// The version the auditor gave this process, if it did: the cache's does not count, since an auditor whose
    /// database was lost begins again.
    version: Option<u64>,
    /// When the auditor last said that the list in force is its own.
    confirmed: Instant,
    saved: Option<Instant>,
    auditor_away: bool,
    wanted: watch::Receiver<u64>,
    served: watch::Sender<u64>,
}

impl Feed {
    /// A feed, what it feeds, and how to hurry it. There is no list before [`Self::follow`] runs.
    #[must_use]
    pub fn new(auditor: Channel, config: &Relay) -> (Self, Current, Fresh) {
        let (list, current) = watch::channel(None);
        let (want, wanted) = watch::channel(0);
        let (served, done) = watch::channel(0);
        let feed = Self {
            auditor: AllowlistServiceClient::new(auditor),
            cache_file: config.cache_file.clone(),
            max_age: config.max_age(),
            poll: Duration::from_millis(config.poll_ms),
            list,
            version: None,
            confirmed: Instant::now(),
            saved: None,
            auditor_away: false,
            wanted,
            served,
        };
        let fresh = Fresh {
            wanted: want,
            served: done,
        };
        (feed, current, fresh)
    }

    /// Follows the auditor until shutdown.
    pub async fn follow(mut self, shutdown: Shutdown) {
        self.start_from_cache();
        while !shutdown.is_fired() {
            // An auditor that takes its time, or is seldom asked, keeps no old list in force.
            let expiry = self.expiry();
            let asked_for = *self.wanted.borrow_and_update();
            tokio::select! {
                () = self.refresh() => {}
                () = sleep_until(expiry) => {}
                () = shutdown.fired() => return,
            }
            self.expire();
            self.served.send_replace(asked_for);
            let next = self.expiry().min(Instant::now() + self.poll);
            let hurry = async {
                tokio::time::sleep(PAUSE_MIN).await;
                if self.wanted.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = hurry => {}
                () = shutdown.fired() => return,
            }
            self.expire();
        }
    }

    /// When the list in force ends, unless the auditor confirms it; far away while there is none.
    fn expiry(&self) -> Instant {
        if self.list.borrow().is_some() {
            self.confirmed + self.max_age
        } else {
            Instant::now() + FAR
        }
    }

    fn expire(&mut self) {
        if self.list.borrow().is_some() && self.confirmed.elapsed() >= self.max_age {
            tracing::error!("the allowlist has expired: nobody may pass until the auditor is back");
            self.version = None;
            self.list.send_replace(None);
        }
    }

    async fn refresh(&mut self) {
        match self.ask().await {
            Ok(()) => {
                if std::mem::take(&mut self.auditor_away) {
                    tracing::info!("the auditor is back");
                }
            }
            Err(status) => {
                if !std::mem::replace(&mut self.auditor_away, true) {
                    tracing::warn!(%status, "the auditor does not give the allowlist; the last one holds until it expires");
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Status> {
        let asked = Instant::now();
        let request = GetAllowlistRequest {
            known_version: self.version.unwrap_or(0),
        };
        let answer = self.auditor.get_allowlist(request).await?.into_inner();
        // The list was true when it was asked for, not when the answer arrived.
        self.confirmed = asked;
        if Some(answer.version) != self.version {
            self.version = Some(answer.version);
            let list = Allowlist::from_entries(answer.version, &answer.entries);
            tracing::info!(
                version = list.version(),
                sources = list.sources().len(),
                meters = list.meters().len(),
                "allowlist"
            );
            self.list.send_replace(Some(Arc::new(list)));
            self.saved = None;
        }
        if self
            .saved
            .is_none_or(|saved| saved.elapsed() >= self.max_age / 10)
        {
            self.save();
        }
        Ok(())
    }

    fn start_from_cache(&mut self) {
        match Cache::load(&self.cache_file, self.max_age, clock::now()) {
            Ok(Some((list, age))) => {
                tracing::info!(
                    version = list.version(),
                    age_seconds = age.as_secs(),
                    "allowlist from the cache"
                );
                self.confirmed = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
                self.list.send_replace(Some(Arc::new(list)));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, file = %self.cache_file.display(), "the allowlist cache is not used");
            }
        }
    }

    fn save(&mut self) {
        let Some(list) = self.list.borrow().clone() else {
            return;
        };
        let confirmed = clock::now()
            .checked_sub(self.confirmed.elapsed())
            .unwrap_or_else(clock::now);
        match Cache::of(&list, confirmed).save(&self.cache_file) {
            Ok(()) => self.saved = Some(Instant::now()),
            Err(error) => {
                tracing::error!(%error, file = %self.cache_file.display(), "the allowlist cannot be cached; mend it before the next restart");
            }
        }
    }
}

/// The cache file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    version: u64,
    confirmed_micros: i64,
    sources: Vec<IpNet>,
    meters: Vec<IpNet>,
}

#[derive(Debug, thiserror::Error)]
enum CacheError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error("it is no allowlist cache: {0}")]
    Malformed(#[from] toml::de::Error),
    #[error("it cannot be written: {0}")]
    Unwritable(#[from] toml::ser::Error),
    #[error("it has expired")]
    Expired,
    #[error("it is from the future: has the clock been set back?")]
    Future,
}

impl Cache {
    fn of(list: &Allowlist, confirmed: SystemTime) -> Self {
        Self {
            version: list.version(),
            confirmed_micros: clock::micros(confirmed),
            sources: list.sources().to_vec(),
            meters: list.meters().to_vec(),
        }
    }

    /// The cached list and its age; `None` if there is no file.
    fn load(
        path: &Path,
        max_age: Duration,
        now: SystemTime,
    ) -> Result<Option<(Allowlist, Duration)>, CacheError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let cache: Self = toml::from_str(&text)?;
        let confirmed = clock::from_micros(cache.confirmed_micros);
        let age = match now.duration_since(confirmed) {
            Ok(age) => age,
            Err(ahead) if ahead.duration() <= CLOCK_STEP_MAX => Duration::ZERO,
            Err(_) => return Err(CacheError::Future),
        };
        if age >= max_age {
            return Err(CacheError::Expired);
        }
        Ok(Some((
            Allowlist::new(cache.version, cache.sources, cache.meters),
            age,
        )))
    }

    /// Replaces the file whole: a crash leaves the old one or the new one. Readable by us alone, since who can write
    /// it can pass.
    fn save(&self, path: &Path) -> Result<(), CacheError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let text = toml::to_string(self)?;
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn list() -> Allowlist {
        Allowlist::new(
            3,
            vec!["127.0.0.1/32".parse().unwrap()],
            vec!["127.10.0.0/16".parse().unwrap()],
        )
    }

    #[test]
    fn the_cache_comes_back_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("allowlist.toml");
        let then = clock::from_micros(1_700_000_000_000_000);
        assert!(matches!(Cache::load(&path, HOUR, then), Ok(None)));
        Cache::of(&list(), then).save(&path).unwrap();
        let minute = Duration::from_secs(60);
        let (loaded, age) = Cache::load(&path, HOUR, then + minute).unwrap().unwrap();
        assert_eq!((loaded, age), (list(), minute));
        assert!(matches!(
            Cache::load(&path, HOUR, then + HOUR),
            Err(CacheError::Expired)
        ));
        assert!(matches!(
            Cache::load(&path, HOUR, then - HOUR),
            Err(CacheError::Future)
        ));
    }

    #[test]
    fn a_damaged_cache_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("allowlist.toml");
        for text in ["", "version = 1", "sources = ['0.0.0.0']", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            assert!(
                matches!(
                    Cache::load(&path, HOUR, clock::now()),
                    Err(CacheError::Malformed(_))
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn the_cache_is_ours_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("allowlist.toml");
        Cache::of(&list(), clock::now()).save(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
