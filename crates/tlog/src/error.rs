//! What can be wrong with a proof, a note or a checkpoint.

/// A proof that does not hold, or text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A verifier key is not a C2SP Ed25519 key.
    #[error("malformed verifier key: {0}")]
    Key(&'static str),
    /// A signed note breaks its format.
    #[error("malformed signed note: {0}")]
    Note(&'static str),
    /// A checkpoint breaks its format.
    #[error("malformed checkpoint: {0}")]
    Checkpoint(&'static str),
    /// The note carries no signature by this key.
    #[error("the note is not signed by the key of {0}")]
    NotSigned(alloc::string::String),
    /// The signature is not over this text by this key.
    #[error("the signature by {0} does not verify")]
    Signature(alloc::string::String),
    /// A proof asks for a leaf or a tree that is not there.
    #[error("no such leaf or tree: {0}")]
    Range(&'static str),
    /// An inclusion or consistency proof does not lead to the root.
    #[error("the proof does not lead to the root")]
    Proof,
}
