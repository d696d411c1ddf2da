//! Signatures: by the token, or in tests by a key in memory.

use futures::future::BoxFuture;
use kit::StartError;
use kit::permit::PermitKey;
use tlog::VerifierKey;

use crate::error::Error;

/// Label of the key that signs checkpoints.
pub(crate) const LOG_KEY: &str = "log-1";
/// Label of the key that signs permits.
pub(crate) const PERMIT_KEY: &str = "permit-1";

/// Signs with Ed25519, by key label.
pub(crate) trait Sign: Send + Sync + 'static {
    /// The signature over `message`.
    fn sign<'a>(
        &'a self,
        label: &'static str,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<[u8; 64], Error>>;

    /// The public key.
    fn public_key<'a>(&'a self, label: &'static str) -> BoxFuture<'a, Result<Vec<u8>, Error>>;
}

impl Sign for hsm::Token {
    fn sign<'a>(
        &'a self,
        label: &'static str,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<[u8; 64], Error>> {
        Box::pin(async move {
            self.sign_ed25519(label, message)
                .await
                .map_err(Error::Token)
        })
    }

    fn public_key<'a>(&'a self, label: &'static str) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async move { self.public_key(label).await.map_err(Error::Token) })
    }
}

/// The public halves.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// Verifies checkpoints; its name is the log's origin.
    pub(crate) log: VerifierKey,
    /// Verifies permits.
    pub(crate) permit: PermitKey,
}

impl Keys {
    /// Reads them from the token.
    pub(crate) async fn read(origin: &str, signer: &dyn Sign) -> Result<Self, StartError> {
        let log = signer.public_key(LOG_KEY).await?;
        let log = <[u8; 32]>::try_from(log.as_slice())
            .map_err(|_| StartError::msg(format!("key {LOG_KEY} is not Ed25519")))?;
        let permit = signer.public_key(PERMIT_KEY).await?;
        let permit = PermitKey::new(&permit)
            .ok_or_else(|| StartError::msg(format!("key {PERMIT_KEY} is not Ed25519")))?;
        Ok(Self {
            log: VerifierKey::new(origin, log)?,
            permit,
        })
    }
}

/// Checks an Ed25519 signature.
pub(crate) fn ed25519(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message, signature)
        .is_ok()
}
