//! A service that runs as several processes: which of them to ask.
//!
//! Each process is asked for its health (`grpc.health.v1`) every [`CHECK`]. New work goes to those that serve, in turn;
//! the others come last, because a check may be older than the truth. Whoever keeps state in one process (a cipher
//! context) keeps its [`Replica`], and never moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{Channel, Shutdown, StartError, client, config, config::Tls};

/// How often each process is asked for its health.
const CHECK: Duration = Duration::from_secs(2);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(2);

/// One process of a service.
#[derive(Debug, Clone)]
pub struct Replica {
    endpoint: Arc<str>,
    channel: Channel,
    serving: Arc<AtomicBool>,
}

impl Replica {
    /// The way to it.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Its address, for the log.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// It did not do its work: it comes last until its health says that it serves.
    pub fn failed(&self) {
        self.set(false);
    }

    fn set(&self, serving: bool) {
        if self.serving.swap(serving, Ordering::Relaxed) != serving {
            tracing::warn!(endpoint = &*self.endpoint, serving, "a replica changed");
        }
    }

    async fn check(&self, service: &str) {
        let asked = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut health = HealthClient::new(self.channel());
        let answer = tokio::time::timeout(ANSWER, health.check(asked)).await;
        let serving = matches!(
            answer,
            Ok(Ok(response)) if response.get_ref().status() == ServingStatus::Serving
        );
        self.set(serving);
    }
}

/// All processes of a service. Clones share what is known of their health.
#[derive(Debug, Clone)]
pub struct Replicas {
    all: Arc<[Replica]>,
    turn: Arc<AtomicUsize>,
}

impl Replicas {
    /// Makes a channel to each. Nothing is connected yet, and each is taken to serve.
    ///
    /// # Errors
    /// If the addresses are none, too many or doubled, or a TLS file cannot be used.
    pub fn new(config: &config::Replicas, tls: &Tls) -> Result<Self, StartError> {
        let clients = config
            .clients()
            .map_err(|error| StartError::msg(error.to_string()))?;
        let replica = |one: &config::Client| {
            Ok(Replica {
                endpoint: one.endpoint.as_str().into(),
                channel: client::channel(one, tls)?,
                serving: Arc::new(AtomicBool::new(true)),
            })
        };
        Ok(Self {
            all: clients
                .iter()
                .map(replica)
                .collect::<Result<_, StartError>>()?,
            turn: Arc::default(),
        })
    }

    /// All of them, in the order in which new work should be offered: those that serve take turns, then the rest.
    #[must_use]
    pub fn in_turn(&self) -> Vec<Replica> {
        let mut all = self.all.to_vec();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(all.len()).unwrap_or_default();
        all.rotate_left(first);
        all.sort_by_key(|replica| !replica.serving.load(Ordering::Relaxed));
        all
    }

    /// All of them, as they are configured, but those that do not serve last: for work that should stay in one place.
    #[must_use]
    pub fn in_order(&self) -> Vec<Replica> {
        let mut all = self.all.to_vec();
        all.sort_by_key(|replica| !replica.serving.load(Ordering::Relaxed));
        all
    }

    /// Follows the health of `service` on each until shutdown. One process alone is not asked: there is no other.
    pub async fn watch(self, service: &'static str, shutdown: Shutdown) {
        if self.all.len() < 2 {
            return;
        }
        loop {
            futures::future::join_all(self.all.iter().map(|one| one.check(service))).await;
            tokio::select! {
                () = shutdown.fired() => return,
                () = tokio::time::sleep(CHECK) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<config::Replicas, toml::de::Error> {
        toml::from_str(&format!("peer = 'spiffe://t/latchkey/custody'\n{text}"))
    }

    #[test]
    fn one_address_or_several_each_once() {
        let count = |text| config(text).unwrap().clients().map(|all| all.len());
        assert_eq!(count("endpoint = 'https://a:1'").unwrap(), 1);
        assert_eq!(
            count("endpoints = ['https://a:1', 'https://b:1']").unwrap(),
            2
        );
        for wrong in [
            "",
            "endpoints = []",
            "endpoints = ['https://a:1', 'https://a:1']",
            "endpoint = 'https://a:1'\nendpoints = ['https://a:1']",
        ] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert!(config("endpoint = 'https://a:1'\nretries = 3").is_err());
    }

    fn replicas(dir: &std::path::Path) -> Replicas {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let name = "spiffe://t/latchkey/association".to_owned();
        parameters
            .subject_alt_names
            .push(rcgen::SanType::URI(name.try_into().unwrap()));
        let certificate = parameters.self_signed(&key).unwrap();
        let (pem, secret) = (dir.join("a.pem"), dir.join("a.key"));
        std::fs::write(&pem, certificate.pem()).unwrap();
        std::fs::write(&secret, key.serialize_pem()).unwrap();
        let tls = Tls::files(pem.clone(), secret, pem, "t");
        let all =
            "endpoints = ['https://127.0.0.1:1', 'https://127.0.0.1:2', 'https://127.0.0.1:3']";
        Replicas::new(&config(all).unwrap(), &tls).unwrap()
    }

    #[tokio::test]
    async fn those_that_serve_take_turns_and_the_others_come_last() {
        let dir = tempfile::tempdir().unwrap();
        let replicas = replicas(dir.path());
        let first = |replicas: &Replicas| replicas.in_turn()[0].endpoint().to_owned();
        let turns: std::collections::BTreeSet<_> = (0..3).map(|_| first(&replicas)).collect();
        assert_eq!(turns.len(), 3, "each has its turn");
        replicas.all[1].failed();
        for _ in 0..6 {
            let order = replicas.in_turn();
            assert_eq!(order.len(), 3, "none is given up");
            assert_eq!(order[2].endpoint(), "https://127.0.0.1:2");
        }
        // Nothing listens there: the check says so.
        replicas.all[0].check("x").await;
        assert_eq!(first(&replicas), "https://127.0.0.1:3");
    }
}
