//! A transparency log as values: Merkle tree, proofs, checkpoints, and the export file.
//!
//! ```text
//!  entry bodies ──leaf_hash──▶ Tree (compact range) ──root──▶ Checkpoint ──Ed25519──▶ signed note
//!        │                                                                               │
//!        └───────────────────────────── export file ◀───────────────────────────────────┘
//! ```
//!
//! - [`tree`]: RFC 6962 hashing and the tree that grows by one leaf in O(log n).
//! - [`proof`]: inclusion and consistency proofs, made and verified (RFC 6962, 2.1; RFC 9162, 2.1.3 and 2.1.4).
//! - [`note`]: C2SP signed notes and verifier keys, Ed25519 (type 0x01).
//! - [`checkpoint`]: C2SP tlog-checkpoint.
//! - [`export`]: a whole trail as one text file that anybody can verify offline.
//!
//! Nothing here signs or verifies a signature: signing happens in a token, so the octets to sign go
//! out and the signature comes in; verification takes the Ed25519 function as a closure.
//!
//! ```
//! use tlog::{Checkpoint, Tree, leaf_hash};
//!
//! let mut tree = Tree::new();
//! for body in ["one", "two", "three"] {
//!     tree.push(leaf_hash(body.as_bytes()));
//! }
//! let checkpoint = Checkpoint::new("latchkey.test/trail", tree.size(), tree.root())?;
//! assert!(checkpoint.to_string().starts_with("latchkey.test/trail\n3\n"));
//! # Ok::<(), tlog::Error>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::wildcard_enum_match_arm,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

pub mod checkpoint;
mod error;
pub mod export;
pub mod note;
pub mod proof;
pub mod tree;

pub use self::checkpoint::Checkpoint;
pub use self::error::Error;
pub use self::note::{Note, VerifierKey};
pub use self::tree::{Hash, Tree, leaf_hash};
