//! Why a service could not start, or had to stop.

use std::{error::Error, fmt};

/// Why a service could not start, or had to stop: one line for a person, with its causes.
#[derive(Debug)]
pub struct StartError(Box<dyn Error + Send + Sync>);

impl StartError {
    /// An error that is only a message.
    #[must_use]
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// An error with what was being done before it.
    #[must_use]
    pub fn context(what: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::msg(format!("{what}: {cause}"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

// `StartError` is not an `Error` itself: that is what lets `?` turn every error into one.
impl<E: Error + Send + Sync + 'static> From<E> for StartError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}
