//! The key ceremony.
