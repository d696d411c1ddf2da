//! Every place where a test may kill this process: before and after each durable step and each signature.

use kit::crash_point;

/// Before the transaction that makes a batch of entries durable.
pub const BEFORE_COMMIT: &str = "auditor.before_commit";
/// After it, before anybody was told.
pub const AFTER_COMMIT: &str = "auditor.after_commit";
/// The intent is durable; its permit is not signed.
pub const BEFORE_PERMIT_SIGNED: &str = "auditor.before_permit_signed";
/// The permit is signed; its signature is not stored.
pub const AFTER_PERMIT_SIGNED: &str = "auditor.after_permit_signed";
/// The signature is stored; the caller does not have it.
pub const AFTER_PERMIT_STORED: &str = "auditor.after_permit_stored";
/// Before a checkpoint is signed.
pub const BEFORE_CHECKPOINT: &str = "auditor.before_checkpoint";
/// The checkpoint is signed; it is not stored.
pub const AFTER_CHECKPOINT_SIGNED: &str = "auditor.after_checkpoint_signed";
/// The checkpoint is stored; nobody has it.
pub const AFTER_CHECKPOINT_STORED: &str = "auditor.after_checkpoint_stored";

/// All of them, for the crash tests.
pub const ALL: [&str; 8] = [
    BEFORE_COMMIT,
    AFTER_COMMIT,
    BEFORE_PERMIT_SIGNED,
    AFTER_PERMIT_SIGNED,
    AFTER_PERMIT_STORED,
    BEFORE_CHECKPOINT,
    AFTER_CHECKPOINT_SIGNED,
    AFTER_CHECKPOINT_STORED,
];

pub(crate) fn here(name: &'static str) {
    crash_point(name);
}
