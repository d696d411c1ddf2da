//! Connections to the services, made when they are first wanted.

use std::path::PathBuf;
use std::sync::OnceLock;

use latchkey_proto::association::v1::association_service_client::AssociationServiceClient;
use latchkey_proto::association::v1::meter_service_client::MeterServiceClient;
use latchkey_proto::audit::v1::allowlist_service_client::AllowlistServiceClient;
use latchkey_proto::audit::v1::trail_service_client::TrailServiceClient;
use latchkey_proto::custody::v1::key_service_client::KeyServiceClient;
use latchkey_proto::reset::v1::key_rotation_service_client::KeyRotationServiceClient;
use latchkey_proto::reset::v1::meter_access_service_client::MeterAccessServiceClient;
use latchkey_proto::reset::v1::reset_service_client::ResetServiceClient;

use crate::config::{self, Config, Search};
use crate::failure::Failure;

/// One run of the command: its configuration and its request id.
pub(crate) struct Session {
    search: Search,
    request_id: String,
    config: OnceLock<(PathBuf, Config)>,
}

impl Session {
    pub(crate) fn new(search: Search, request_id: String) -> Self {
        Self {
            search,
            request_id,
            config: OnceLock::new(),
        }
    }

    /// The id that joins this run to logs and trail, and makes its request safe to repeat.
    pub(crate) fn request_id(&self) -> String {
        self.request_id.clone()
    }

    pub(crate) fn config(&self) -> Result<&Config, Failure> {
        self.loaded().map(|(_, config)| config)
    }

    /// Where `connect` remembers its meter: beside the configuration.
    pub(crate) fn connected_meter_file(&self) -> Result<PathBuf, Failure> {
        self.loaded()
            .map(|(path, _)| path.with_file_name("connected-meter"))
    }

    fn loaded(&self) -> Result<&(PathBuf, Config), Failure> {
        if let Some(loaded) = self.config.get() {
            return Ok(loaded);
        }
        let path = self.search.find()?;
        let config = config::load(&path)?;
        Ok(self.config.get_or_init(|| (path, config)))
    }

    pub(crate) fn keys(&self) -> Result<KeyServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.custody).map(KeyServiceClient::new)
    }

    pub(crate) fn meters(&self) -> Result<MeterServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.association).map(MeterServiceClient::new)
    }

    pub(crate) fn associations(&self) -> Result<AssociationServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.association).map(AssociationServiceClient::new)
    }

    pub(crate) fn resets(&self) -> Result<ResetServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.reset).map(ResetServiceClient::new)
    }

    pub(crate) fn rotations(&self) -> Result<KeyRotationServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.reset).map(KeyRotationServiceClient::new)
    }

    pub(crate) fn access(&self) -> Result<MeterAccessServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.reset).map(MeterAccessServiceClient::new)
    }

    pub(crate) fn trail(&self) -> Result<TrailServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.auditor).map(TrailServiceClient::new)
    }

    pub(crate) fn allowlist(&self) -> Result<AllowlistServiceClient<kit::Channel>, Failure> {
        let config = self.config()?;
        channel(config, &config.auditor).map(AllowlistServiceClient::new)
    }
}

/// A connection to one service.
pub(crate) fn channel(
    config: &Config,
    client: &kit::config::Client,
) -> Result<kit::Channel, Failure> {
    kit::client::channel(client, &config.tls).map_err(|error| {
        Failure::configuration(format!("could not set up the connection to {}: {error}", client.endpoint))
            .mend("check [tls] in the client configuration; `latchkey doctor` looks at every file it names")
    })
}

/// Pages through a list until its end.
macro_rules! all_pages {
    ($client:expr, $method:ident, $request:expr, $items:ident, $what:expr) => {{
        let mut client = $client;
        let mut request = $request;
        let mut all = Vec::new();
        loop {
            let page = client
                .$method(request.clone())
                .await
                .map_err(|status| $crate::failure::Failure::status($what, &status))?
                .into_inner();
            all.extend(page.$items);
            if page.next_page_token.is_empty() {
                break all;
            }
            request.page_token = page.next_page_token;
        }
    }};
}
pub(crate) use all_pages;
