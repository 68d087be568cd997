//! Bugs that the simulator has to find, to show that it would. They are there only in builds with
//! `--cfg fuzzing`, and only when asked for: in the server `is` is false when it is compiled.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Writes are acknowledged before what they rest on is written or flushed.
    EarlyAck = 1,
    /// A flush is taken for done that was never asked for.
    SkippedFlush,
    /// The checksum of a payload is not compared.
    NoChecksum,
    /// Writes that have to be durable when they end are not.
    LazyWrite,
    /// A page of a sidecar is written before its records are durable.
    EarlySidecar,
    /// The records of a batch that is not whole count.
    HalfBatch,
    /// The next segment is written to before the one before is durable.
    EarlySwitch,
    /// The cleaner takes keys with the same hash for one.
    HashClean,
    /// The cleaner drops deletes while older segments have what they ended.
    LooseDelete,
    /// The cleaner forgets what dropped records did to counters.
    NoResidue,
    /// A master acknowledges what no replica has.
    LoneAck,
    /// A candidate begins its term without what those who agreed have.
    NoCatchUp,
    /// A start forgets what was promised.
    BrokenPromise,
    /// A log that is to go back stays as it is.
    NoCut,
}

/// Those that one server shows.
pub const BUGS: [(&str, Bug); 10] = [
    ("early-ack", Bug::EarlyAck),
    ("skipped-flush", Bug::SkippedFlush),
    ("no-checksum", Bug::NoChecksum),
    ("lazy-write", Bug::LazyWrite),
    ("early-sidecar", Bug::EarlySidecar),
    ("half-batch", Bug::HalfBatch),
    ("early-switch", Bug::EarlySwitch),
    ("hash-clean", Bug::HashClean),
    ("loose-delete", Bug::LooseDelete),
    ("no-residue", Bug::NoResidue),
];

/// Those that it takes replicas to show.
pub const REPLICA_BUGS: [(&str, Bug); 4] = [
    ("lone-ack", Bug::LoneAck),
    ("no-catch-up", Bug::NoCatchUp),
    ("broken-promise", Bug::BrokenPromise),
    ("no-cut", Bug::NoCut),
];

#[cfg(fuzzing)]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// From now on the server has this bug.
#[cfg(fuzzing)]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(fuzzing)]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

#[cfg(not(fuzzing))]
#[inline(always)]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}
