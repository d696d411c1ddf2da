//! The lines at which a test may kill the process: before and after each durable step and each irreversible act.

kit::crash_points! {
    /// New keys are made, their row is not.
    BEFORE_STORE_KEYS = "custody.keys.before_store";
    /// The row of new keys is there, nobody has been told.
    AFTER_STORE_KEYS = "custody.keys.after_store";
    /// A change of stored keys is made, its row is not.
    BEFORE_CHANGE_KEYS = "custody.keys.before_change";
    /// The changed row is there, nobody has been told.
    AFTER_CHANGE_KEYS = "custody.keys.after_change";
    /// Keys of some meters are under new key-encryption keys, their rows are not.
    BEFORE_STORE_REWRAPPED = "custody.rewrap.before_store";
    /// The rows are written, and not committed.
    WITHIN_STORE_REWRAPPED = "custody.rewrap.within_store";
    /// They are committed, nobody has been told.
    AFTER_STORE_REWRAPPED = "custody.rewrap.after_store";
    /// A permit was checked, its association is not counted.
    BEFORE_COUNT_ASSOCIATION = "custody.association.before_count";
    /// An association is counted, its context is not open.
    AFTER_COUNT_ASSOCIATION = "custody.association.after_count";
    /// A block of invocation counters is wanted.
    BEFORE_RESERVE = "custody.counters.before_reserve";
    /// A block is reserved, none of it is used.
    AFTER_RESERVE = "custody.counters.after_reserve";
    /// A block is reserved, and not yet remembered outside the database.
    BEFORE_REMEMBER = "custody.counters.before_remember";
    /// A block is remembered outside the database, none of it is used.
    AFTER_REMEMBER = "custody.counters.after_remember";
    /// Counters are to be raised, by a gap or to a floor.
    BEFORE_RAISE = "custody.counters.before_raise";
    /// Counters are raised, nobody has been told.
    AFTER_RAISE = "custody.counters.after_raise";
    /// A limited command was checked, its use is not counted.
    BEFORE_COUNT_USE = "custody.use.before_count";
    /// A use is counted, the command is not ciphered: it never will be.
    AFTER_COUNT_USE = "custody.use.after_count";
    /// A request is ciphered, nobody has it.
    AFTER_PROTECT = "custody.protect.after_cipher";
    /// The meter's answer is verified, its counter is not stored.
    BEFORE_STORE_RECEIVED = "custody.received.before_store";
    /// The meter's counter is stored.
    AFTER_STORE_RECEIVED = "custody.received.after_store";
    /// New keys of a rotation are made, nothing is stored.
    BEFORE_BEGIN_ROTATION = "custody.rotation.before_begin";
    /// New keys of a rotation are stored, nobody has been told.
    AFTER_BEGIN_ROTATION = "custody.rotation.after_begin";
    /// A master key is agreed, it is not stored.
    BEFORE_AGREED_KEY = "custody.rotation.before_agreed";
    /// An agreed master key is stored, nobody has been told.
    AFTER_AGREED_KEY = "custody.rotation.after_agreed";
    /// New keys are about to be ciphered, the row does not say so.
    BEFORE_UNSETTLE = "custody.rotation.before_unsettle";
    /// The row says that nobody knows which keys the meter has, they are not ciphered.
    AFTER_UNSETTLE = "custody.rotation.after_unsettle";
    /// The meter has proven which keys it has, that is not stored.
    BEFORE_SETTLE = "custody.rotation.before_settle";
    /// It is stored which keys the meter has, nobody has been told.
    AFTER_SETTLE = "custody.rotation.after_settle";
    /// An entry is in the trail and still in the outbox.
    BEFORE_FORGET_ENTRY = "custody.outbox.before_forget";
    /// An entry is in the trail and no longer in the outbox.
    AFTER_FORGET_ENTRY = "custody.outbox.after_forget";
}
