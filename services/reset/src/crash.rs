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
    /// An entry is owed to the trail.
    BEFORE_RECORD = "reset.record.before";
    /// An entry is in the trail, its receipt is not stored.
    AFTER_RECORD = "reset.record.after";
    /// The receipt is stored.
    AFTER_RECEIPT = "reset.receipt.after";
}
