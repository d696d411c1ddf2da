//! The head-end's own public keys: what a meter must be told.

use std::path::Path;

use latchkey_proto::custody::v1 as pb;
use serde::Deserialize;
use serde_json::{Value, json};

use super::octets;
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::output::Output;

pub(super) async fn run(suite: u8, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let keys = client_keys(suite, session).await?;
    output.result(&keys.json(), || keys.text());
    Ok(Exit::OK)
}

/// The head-end's public keys of a suite.
#[derive(Debug, Deserialize)]
pub(crate) struct ClientKeys {
    suite: u8,
    signing_key: String,
    agreement_key: String,
    #[serde(default)]
    signing_certificate: String,
}

impl ClientKeys {
    /// What `keys client` printed into a file.
    pub(crate) fn read(path: &Path, suite: u8) -> Result<Self, Failure> {
        let text = file::read(path)?;
        let keys: Self = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} holds no public keys: {error}", path.display())).mend(
                format!("write it with: latchkey --output json keys client --suite {suite}"),
            )
        })?;
        if keys.suite == suite {
            return Ok(keys);
        }
        Err(Failure::usage(format!(
            "{} holds keys of suite {}, not {suite}",
            path.display(),
            keys.suite
        )))
    }

    /// For ECDSA and ECDH, X || Y.
    pub(crate) fn octets(&self) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let length = if self.suite == 2 { 96 } else { 64 };
        Ok((
            octets("signing_key", &self.signing_key, length)?,
            octets("agreement_key", &self.agreement_key, length)?,
        ))
    }

    fn json(&self) -> Value {
        json!({
            "suite": self.suite,
            "signing_key": self.signing_key,
            "agreement_key": self.agreement_key,
            "signing_certificate": self.signing_certificate,
        })
    }

    fn text(&self) -> String {
        let certificate = match self.signing_certificate.as_str() {
            "" => "none",
            certificate => certificate,
        };
        format!(
            "suite:               {}\nsigning key:         {}\nagreement key:       {}\nsigning certificate: {certificate}",
            self.suite, self.signing_key, self.agreement_key
        )
    }
}

/// Asks custody for them.
pub(crate) async fn client_keys(suite: u8, session: &Session) -> Result<ClientKeys, Failure> {
    let request = pb::GetClientKeysRequest {
        security_suite: suite.into(),
    };
    let response = session
        .keys()?
        .get_client_keys(request)
        .await
        .map_err(|status| {
            Failure::status(
                &format!("read the head-end's public keys of suite {suite}"),
                &status,
            )
        })?
        .into_inner();
    Ok(ClientKeys {
        suite,
        signing_key: hex::encode(response.signing_key),
        agreement_key: hex::encode(response.agreement_key),
        signing_certificate: hex::encode(response.signing_certificate),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keys_client_prints_is_read_back() {
        let keys = ClientKeys {
            suite: 1,
            signing_key: "66".repeat(64),
            agreement_key: "77".repeat(64),
            signing_certificate: String::new(),
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), keys.json().to_string()).unwrap();
        let read = ClientKeys::read(file.path(), 1).unwrap();
        assert_eq!(read.octets().unwrap().0, [0x66; 64]);
        assert!(ClientKeys::read(file.path(), 2).is_err());
    }
}
