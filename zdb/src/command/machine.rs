//! The door to the process and its clock: what commands ask of the machine they run on.

/// What the process has taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessUsage {
    pub id: u32,
    /// Bytes that the allocator has handed out; 0 where it does not tell.
    pub allocated_bytes: u64,
    pub resident_bytes: u64,
    pub system_memory_bytes: u64,
    /// Processor time in microseconds.
    pub user_us: u64,
    pub system_us: u64,
    pub main_user_us: u64,
    pub main_system_us: u64,
    pub children_user_us: u64,
    pub children_system_us: u64,
}

/// Functions, so that a simulator can be the machine.
pub struct Machine {
    /// Nanoseconds of a clock that never goes back.
    pub clock_ns: fn() -> u64,
    /// Stops everything for so many microseconds.
    pub sleep_us: fn(u64),
    pub usage: fn() -> ProcessUsage,
}
