//! The lines at which a test may kill the process: before and after each durable step and each signature.

kit::crash_points! {
    /// Before the transaction that makes a batch of entries durable.
    BEFORE_COMMIT = "auditor.commit.before";
    /// After it, before anybody was told.
    AFTER_COMMIT = "auditor.commit.after";
    /// The intent is durable, its permit is not signed.
    BEFORE_SIGN_PERMIT = "auditor.permit.before_sign";
    /// The permit is signed, its signature is not stored.
    AFTER_SIGN_PERMIT = "auditor.permit.after_sign";
    /// The signature is stored, the caller does not have it.
    AFTER_STORE_PERMIT = "auditor.permit.after_store";
    /// A checkpoint is wanted.
    BEFORE_SIGN_CHECKPOINT = "auditor.checkpoint.before_sign";
    /// The checkpoint is signed, it is not stored.
    AFTER_SIGN_CHECKPOINT = "auditor.checkpoint.after_sign";
    /// The checkpoint is stored, nobody has it.
    AFTER_STORE_CHECKPOINT = "auditor.checkpoint.after_store";
}
