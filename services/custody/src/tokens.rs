//! Custody's tokens: opened together, and watched.
//!
//! Custody serves while one of them does its work. What becomes of each is in the log, in the metrics and in the trail.

use std::{sync::Arc, time::Duration};

use hsm::{Role, Token, TokenConfig, TokenHealth, TokenState};
use kit::Health;
use latchkey_proto::audit::v1::EntryKind;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge},
};

use crate::{
    config::Config,
    memory::Memory,
    store::Store,
    trail::{self, Reporter},
};

/// How often the tokens are asked to prove themselves.
const CHECK: Duration = Duration::from_secs(2);

/// Opens all that are configured: see [`Token::open_all`].
pub(crate) async fn open(config: &Config) -> Result<Token, hsm::Error> {
    let all: Vec<TokenConfig> = configured(config).cloned().collect();
    Token::open_all(&all, Role::Custody).await
}

/// Their labels, in the order of configuration.
pub(crate) fn labels(config: &Config) -> Vec<&str> {
    configured(config)
        .map(|token| token.token_label.as_str())
        .collect()
}

/// How those that are open do their work.
pub(crate) fn manner(token: &Token) -> String {
    let able = token.capabilities();
    let said = able.iter().map(|able| {
        let summary = able.summary();
        tracing::info!(
            token = able.token,
            model = able.model,
            summary,
            "token is open"
        );
        format!("{}: {summary}", able.token)
    });
    said.collect::<Vec<_>>().join("; ")
}

fn configured(config: &Config) -> impl Iterator<Item = &TokenConfig> {
    std::iter::once(&config.token).chain(&config.tokens)
}

/// Looks after the tokens.
pub(crate) struct Watch {
    token: Token,
    store: Store,
    reporter: Reporter,
    instruments: Instruments,
}

impl Watch {
    pub(crate) fn new(token: Token, store: Store, reporter: Reporter) -> Self {
        Self {
            token,
            store,
            reporter,
            instruments: Instruments::new(),
        }
    }

    /// Serving exactly while a token does its work and counters may be had. The check also takes back tokens that were
    /// out.
    pub(crate) async fn follow(self, memory: Arc<Memory>, health: Health) {
        // All worked when they were opened, or are about to be reported.
        let mut known: Vec<Option<TokenHealth>> = vec![None; self.token.tokens().len()];
        loop {
            let healthy = self.token.health().await;
            for (known, now) in known.iter_mut().zip(self.token.tokens()) {
                self.report(known.as_ref(), &now).await;
                self.instruments.record(known.as_ref(), &now);
                *known = Some(now);
            }
            health.set(healthy && memory.is_sure()).await;
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Says that a token failed, in another way than before, or works again.
    async fn report(&self, known: Option<&TokenHealth>, now: &TokenHealth) {
        let said = match (known.map(|known| &known.state), &now.state) {
            (None | Some(TokenState::Works), TokenState::Works) => return,
            (Some(TokenState::Out { why: before, .. }), TokenState::Out { why, .. })
                if before == why =>
            {
                return;
            }
            (_, TokenState::Out { why, error }) => {
                let why = why.as_str();
                tracing::warn!(token = now.name, why, error, "a token is out");
                format!("token {:?} is out ({why}): {error}", now.name)
            }
            (_, TokenState::Works) => {
                tracing::warn!(token = now.name, "a token works again");
                format!("token {:?} works again", now.name)
            }
        };
        let entry = trail::entry(EntryKind::Token, "", "", said);
        match self.store.enqueue_start(&entry).await {
            Ok(()) => self.reporter.stored(),
            Err(error) => {
                let error = kit::status::chain(&error);
                tracing::error!(token = now.name, error, "it is missing from the trail");
            }
        }
    }
}

/// Labels are the names of configured tokens: few.
struct Instruments {
    operations: Counter<u64>,
    failures: Counter<u64>,
    initialisations: Counter<u64>,
    works: Gauge<u64>,
    queued: Gauge<u64>,
    objects: Gauge<u64>,
    epoch: Gauge<u64>,
}

impl Instruments {
    fn new() -> Self {
        let meter = opentelemetry::global::meter("latchkey");
        Self {
            operations: meter
                .u64_counter("custody.token.operations")
                .with_description("Pieces of work given to the token")
                .build(),
            failures: meter
                .u64_counter("custody.token.failures")
                .with_description("Pieces of work that the token itself failed to do")
                .build(),
            initialisations: meter
                .u64_counter("custody.token.initialisations")
                .with_description(
                    "New initialisations of the token's module, planned or after a failure",
                )
                .build(),
            works: meter
                .u64_gauge("custody.token.works")
                .with_description("1 while the token is given work, else 0")
                .build(),
            queued: meter
                .u64_gauge("custody.token.queued")
                .with_description("Pieces of work that wait for the token")
                .build(),
            objects: meter
                .u64_gauge("custody.token.objects")
                .with_description("Objects made in the module since its last initialisation")
                .build(),
            epoch: meter
                .u64_gauge("custody.token.epoch")
                .with_description("Initialisations of the token's module, less one")
                .build(),
        }
    }

    fn record(&self, known: Option<&TokenHealth>, now: &TokenHealth) {
        let token = || KeyValue::new("token", now.name.clone());
        let since = |count: fn(&TokenHealth) -> u64| {
            count(now).saturating_sub(known.map(count).unwrap_or_default())
        };
        self.operations
            .add(since(|token| token.operations), &[token()]);
        self.failures.add(since(|token| token.failures), &[token()]);
        for (why, count) in [
            ("planned", since(|token| token.planned)),
            ("failure", since(|token| token.forced)),
        ] {
            self.initialisations
                .add(count, &[token(), KeyValue::new("why", why)]);
        }
        let works = u64::from(now.state == TokenState::Works);
        let queued = u64::try_from(now.queued).unwrap_or(u64::MAX);
        for (gauge, value) in [
            (&self.works, works),
            (&self.queued, queued),
            (&self.objects, now.objects),
            (&self.epoch, now.epoch),
        ] {
            gauge.record(value, &[token()]);
        }
    }
}
