//! The lines at which a test may kill the process: before and after each durable step and each irreversible act.

kit::crash_points! {
    /// A reset is wanted, its row is not there.
    BEFORE_CREATE = "reset.create.before";
    /// The row of a new reset is there, nobody drives it.
    AFTER_CREATE = "reset.create.after";
    /// The logs are surveyed, that is not stored.
    AFTER_SURVEY = "reset.survey.after";
    /// A permit is wanted.
    BEFORE_AUTHORISE = "reset.authorise.before";
    /// The auditor has signed, the permit is not stored.
    AFTER_AUTHORISE = "reset.authorise.after";
    /// The guards are read, that is not stored.
    AFTER_GUARDS = "reset.guards.after";
    /// The row says ACTING, the command has not left.
    BEFORE_ACT = "reset.act.before";
    /// The command has left and may have been executed, the row does not say what came of it.
    AFTER_ACT = "reset.act.after";
    /// The meter's counter is read, that is not stored.
    AFTER_COUNTER = "reset.counter.after";
    /// The evidence is read, that is not stored.
    AFTER_PROBE = "reset.probe.after";
    /// The meter answers again, that is not stored.
    AFTER_POLL = "reset.poll.after";
    /// The meter is read again, that is not stored.
    AFTER_READ = "reset.read.after";
    /// A new state is about to be stored.
    BEFORE_COMMIT = "reset.commit.before";
    /// A new state is stored, its effect has not begun.
    AFTER_COMMIT = "reset.commit.after";
    /// A rotation is wanted, its row is not there.
    BEFORE_CREATE_ROTATION = "reset.rotation.before_create";
    /// The row of a new rotation is there, nobody carries it on.
    AFTER_CREATE_ROTATION = "reset.rotation.after_create";
    /// A rotation has its permit, the attempt has not begun.
    BEFORE_ROTATE = "reset.rotation.before_attempt";
    /// An attempt has come to something, the row does not say what.
    AFTER_ROTATE = "reset.rotation.after_attempt";
    /// A new state of a rotation is about to be stored.
    BEFORE_COMMIT_ROTATION = "reset.rotation.before_commit";
    /// A new state of a rotation is stored, its effect has not begun.
    AFTER_COMMIT_ROTATION = "reset.rotation.after_commit";
    /// An entry is owed to the trail.
    BEFORE_RECORD = "reset.record.before";
    /// An entry is in the trail, its receipt is not stored.
    AFTER_RECORD = "reset.record.after";
    /// The receipt is stored.
    AFTER_RECEIPT = "reset.receipt.after";
}
