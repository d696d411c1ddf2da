//! gRPC clients of a stack's services, in the name of anybody who has a certificate in it.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use kit::{
    Channel,
    config::{Client, Tls},
};

use crate::stack::Stack;

/// Where the services of a development stack listen.
const PORTS: [(&str, u16); 4] = [
    ("auditor", 7404),
    ("custody", 7401),
    ("association", 7402),
    ("reset", 7403),
];
const DOMAIN: &str = "latchkey.test";

/// Somebody with a certificate.
#[derive(Debug, Clone)]
pub struct Caller {
    tls: Tls,
    host: std::net::Ipv4Addr,
}

impl Caller {
    /// By the name of its certificate: a service, `operator-dev` or `operator-admin`.
    #[must_use]
    pub fn new(stack: &Stack, who: &str) -> Self {
        let file = |end: &str| pki(stack.dir(), &format!("{who}.{end}"));
        Self {
            tls: Tls::files(file("crt"), file("key"), pki(stack.dir(), "ca.crt"), DOMAIN),
            host: stack.host(),
        }
    }

    /// The peer name of anybody in a stack.
    #[must_use]
    pub fn name(who: &str) -> String {
        match who.strip_prefix("operator-") {
            Some(person) => format!("spiffe://{DOMAIN}/operator/{person}"),
            None => format!("spiffe://{DOMAIN}/latchkey/{who}"),
        }
    }

    /// A way to a service. Inside a runtime.
    ///
    /// # Errors
    /// If there is no such service, or no such certificate.
    pub fn channel(&self, service: &str) -> Result<Channel> {
        let port = PORTS.iter().find(|(name, _)| *name == service);
        let (_, port) = port.context("a service with an API")?;
        self.channel_at(service, *port)
    }

    /// A way to a process of a service that listens on another port.
    ///
    /// # Errors
    /// If there is no such certificate.
    pub fn channel_at(&self, service: &str, port: u16) -> Result<Channel> {
        let client = Client {
            endpoint: format!("https://{}:{port}", self.host),
            peer: Self::name(service).parse()?,
            timeout_ms: 120_000,
        };
        kit::client::channel(&client, &self.tls).map_err(|error| anyhow!("{error}"))
    }
}

fn pki(dir: &Path, file: &str) -> std::path::PathBuf {
    dir.join("pki").join(file)
}
