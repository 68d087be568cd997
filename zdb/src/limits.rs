//! Every limit of the server, with its unit. Relations between them are asserted at the end.
//!
//! Fuzz targets are built with small limits in the same relations: what happens at a limit is then within
//! reach of inputs of a few hundred bytes, and a start costs no time.

/// A limit of the server, and what it is for the fuzz targets.
pub(crate) const fn scaled(limit: u64, fuzzed: u64) -> u64 {
    if cfg!(fuzzing) { fuzzed } else { limit }
}

/// Largest payload of a record, and largest bulk argument of a request, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = scaled(8 << 20, 64 << 10) as usize;
/// Largest key in bytes: its length is one byte in the record.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest namespace name in bytes.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 128;
/// Longest property name of NSSET in bytes.
pub const PROPERTY_NAME_BYTES_MAX: usize = 256;
/// Longest subcommand of INDEX and DATA in bytes.
pub const SUBCOMMAND_BYTES_MAX: usize = 256;
/// Longest property value of NSSET in bytes (so also the longest namespace password).
pub const PROPERTY_VALUE_BYTES_MAX: usize = 63;
/// Most versions before the newest one that NSSET history keeps by their count, and most days that it keeps
/// them.
pub const HISTORY_VERSIONS_MAX: u32 = u32::MAX - 1;
pub const HISTORY_DAYS_MAX: u32 = 36_500;
/// Longest password that AUTH looks at, in bytes.
pub const ADMIN_PASSWORD_BYTES_MAX: usize = 128;
/// Longest password that SELECT looks at, in bytes.
pub const SELECT_PASSWORD_BYTES_MAX: usize = 255;

/// Size of the write buffer in bytes. It holds at least four of the largest records, and two of it
/// fit Docker's default of 64 MiB for /dev/shm.
pub const WRITE_BUFFER_BYTES: usize = scaled(32 << 20, 512 << 10) as usize;
/// Room that the largest record needs in the write buffer behind what is on its way: a record that is partly on
/// the disk must be whole in the buffer, to be read.
pub const RECORD_ROOM_BYTES: u64 = (PAYLOAD_BYTES_MAX + 4096) as u64;
/// How many bytes of records wait before a write is started without a timer's help.
pub const WRITE_UNIT_BYTES: u64 = scaled(512 << 10, 16 << 10);
/// Largest single write to a segment in bytes.
pub const WRITE_BYTES_MAX: u64 = scaled(4 << 20, 64 << 10);
/// How many writes to the log are on their way at once where they need not be durable one by one.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;
/// How many records that wait for the disk are worth a write beside those on their way.
pub const COMMIT_RECORDS: u64 = 16;
/// How far ahead of the log's end blocks are zeroed where clients wait for the disk: an overwrite of
/// written blocks needs no journal commit of the file system.
pub const ZERO_AHEAD_BYTES: u64 = scaled(4 << 20, 64 << 10);
/// Size of one zeroing write in bytes.
pub const ZERO_UNIT_BYTES: u64 = scaled(1 << 20, 16 << 10);
/// Period of flushes under `--sync no`, in milliseconds: not a promise, but the sidecars and the time
/// of a restart depend on the flushed part of the log.
pub const LAZY_FLUSH_MS: u64 = 30_000;

/// Smallest size of a segment in bytes; the largest is below 4 GiB.
pub const SEGMENT_BYTES_MIN: u64 = scaled(512 << 10, 64 << 10);

/// Bytes of one page of a sidecar before it is closed.
pub const SIDECAR_PAGE_BYTES: usize = scaled(16 << 10, 256) as usize;

/// Most entries that one SCAN or RSCAN returns.
pub const SCAN_ENTRIES_MAX: usize = scaled(512, 8) as usize;
/// Most bytes of the log that one SCAN or RSCAN reads for the keys.
pub const SCAN_READ_BYTES_MAX: u64 = scaled(512 << 10, 32 << 10);
/// Longest pattern of SCAN MATCH in bytes: comparing takes up to pattern times key, for each key.
pub const PATTERN_BYTES_MAX: usize = 512;
/// Records nearer than this share one read of a scan, in bytes.
pub const SCAN_GAP_BYTES: u64 = scaled(16 << 10, 4 << 10);

/// Replies of one connection that wait in memory before its requests wait too, in bytes.
pub const OUTPUT_BYTES_MAX: usize = scaled(1 << 20, 32 << 10) as usize;
/// Replies that one connection gets before others have theirs, in bytes.
pub const TURN_BYTES_MAX: usize = scaled(256 << 10, 8 << 10) as usize;
/// Replies in a turn, in bytes, beyond which connections get `OUTPUT_BYTES_SHARE` at first and then wait in
/// the queue; and those that the queue gets in each turn.
pub const TURN_BYTES_TOTAL_MAX: usize = scaled(256 << 10, 32 << 10) as usize;
/// What a reply of unknown length counts for in that, in bytes: sixteen of them are under way at once.
pub const UNKNOWN_REPLY_BYTES: usize = OUTPUT_BYTES_MAX / 16;
/// Replies of all connections together. Beyond it a connection with more than its share waits.
pub const OUTPUT_BYTES_TOTAL_MAX: usize = scaled(1 << 30, 128 << 10) as usize;
/// Beyond this, clients that have taken nothing for a while are let go, those with most waiting first.
pub const OUTPUT_BYTES_LAST_MAX: usize = 2 * OUTPUT_BYTES_TOTAL_MAX;
/// How long such a client has taken nothing, in milliseconds.
pub const OUTPUT_STALLED_MS: u64 = 10_000;
/// The share that each connection has in any case, in bytes.
pub const OUTPUT_BYTES_SHARE: usize = scaled(16 << 10, 2 << 10) as usize;
/// A payload of this size and more is sent from the cache or the read buffer without a copy.
pub const SHARE_BYTES_MIN: usize = scaled(16 << 10, 1 << 10) as usize;
/// Requests of one connection that are under way at once.
pub const REQUESTS_IN_FLIGHT_MAX: usize = scaled(1024, 32) as usize;
/// Bytes of half-sent and waiting requests that all connections together may hold.
pub const INPUT_BYTES_TOTAL_MAX: usize = scaled(2 << 30, 512 << 10) as usize;
/// Bytes that a thread of sockets has received and the hub has not looked at; more are left to the kernel.
pub const THREAD_INPUT_BYTES_MAX: usize = 4 << 20;
/// Threads that serve clients: each takes 8 MiB for what it receives.
pub const THREADS_MAX: u16 = 64;

/// What may wait for a client that is sent things unasked (MONITOR, mirrors, messages) before it is let go, in bytes.
pub const PUSH_OUTPUT_BYTES_MAX: usize = scaled(32 << 20, 256 << 10) as usize;

/// Bytes of the log that wait for a replica to take them, and those that it is sent at once.
pub const REPLICA_OUTPUT_BYTES_MAX: usize = scaled(4 << 20, 64 << 10) as usize;
/// Reads for a replica that are on their way at once.
pub const REPLICA_READS_MAX: usize = 4;
pub const REPLICA_CHUNK_BYTES: u64 = scaled(256 << 10, 8 << 10);
/// Terms that a replica tells of its log: by these it is found where it parts from another one.
pub const REPLICA_TERMS_MAX: usize = 64;
/// The largest number of a term that is taken from another server: there is always a next one.
pub const TERM_MAX: u64 = 1 << 62;
/// Longest line of a master that is no array of words, in bytes.
pub const REPLICA_LINE_BYTES_MAX: usize = 4096;
/// Largest segment, in bytes; one that the cleaner wrote has a trailer beside that, which is smaller.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 32;
/// How often a master tells its replicas how far it is, and they it, in milliseconds.
pub const REPLICA_STATUS_MS: u64 = 1000;
/// After such a silence the other side of a link is taken for gone, in milliseconds.
pub const REPLICA_SILENCE_MS: u64 = 10_000;
/// How long after a broken link it is tried again, and how long an attempt may take, in milliseconds.
pub const REPLICA_RETRY_MS: u64 = 1000;
pub const REPLICA_DIAL_MS: u64 = 5000;
/// Longest name of a host, in bytes.
pub const HOST_BYTES_MAX: usize = 255;
/// Most replicas that may be asked for before a write is acknowledged.
pub const MIN_REPLICAS_MAX: usize = 16;

/// Clients that are turned away and still get to read why, at once; further ones are just closed.
pub const REJECTED_CLIENTS_MAX: u64 = 128;
/// Open files beside those of clients and of what is open at the start: new segments and sidecars.
/// Clients that are being turned away and hooks have a file open each, too.
pub const OPEN_FILES_RESERVE: u64 = REJECTED_CLIENTS_MAX + HOOKS_RUNNING_MAX as u64 + 320;
/// Wrong passwords that one peer may send at once.
pub const PASSWORD_FAILURES_MAX: u64 = 32;
/// How long one of them counts, one after the other, in milliseconds.
pub const PASSWORD_FAILURE_FORGIVEN_MS: u64 = 1000;
/// Peers whose wrong passwords are counted at once.
pub const THROTTLED_SOURCES_MAX: usize = 4096;

/// Shortest, usual and longest time that a WAIT waits, in milliseconds.
pub const WAIT_MS_MIN: u64 = 100;
pub const WAIT_MS_DEFAULT: u64 = 5000;
pub const WAIT_MS_MAX: u64 = 1_800_000;
/// Longest word behind the requests of a MASTER, in bytes.
pub const OWNER_BYTES_MAX: usize = 32;
/// Longest CLIENT PAUSE in milliseconds: a forgotten one must end.
pub const CLIENT_PAUSE_MS_MAX: u64 = 3_600_000;
/// Longest DEBUG SLEEP in microseconds: not even a signal ends it earlier.
pub const DEBUG_SLEEP_US_MAX: u64 = 60_000_000;
/// Most entries of the slow log, most words of an entry, and most bytes of a word.
pub const SLOWLOG_ENTRIES_MAX: usize = 65536;
pub const SLOWLOG_ARGUMENTS_MAX: usize = 32;
pub const SLOWLOG_ARGUMENT_BYTES_MAX: usize = 128;

/// Longest part of a word that MONITOR shows, in bytes: in quotes it is up to four times as long.
pub const MONITOR_WORD_BYTES_MAX: usize = 4 << 10;
/// Clients that wait by WAIT at once; each request of all others looks at every one of them.
pub const WAITS_MAX: u64 = 1024;
/// Longest name of a channel, and longest pattern of channels, in bytes: comparing takes up to pattern times
/// name, for each pattern and each message.
pub const CHANNEL_BYTES_MAX: usize = 255;
pub const CHANNEL_PATTERN_BYTES_MAX: usize = 128;
/// Channels, and patterns, that one connection may be subscribed to. What is sent to a subscriber has the limit
/// `PUSH_OUTPUT_BYTES_MAX`.
pub const CHANNELS_MAX: usize = scaled(1024, 8) as usize;
pub const PATTERNS_MAX: usize = scaled(32, 4) as usize;
/// Different channels, and patterns, of all connections together: PUBSUB CHANNELS lists the ones, each PUBLISH
/// tries the others.
pub const CHANNELS_TOTAL_MAX: usize = scaled(16 << 10, 12) as usize;
pub const PATTERNS_TOTAL_MAX: usize = scaled(1024, 6) as usize;
/// Requests that one connection may send between MULTI and EXEC, and their bytes.
pub const TRANSACTION_REQUESTS_MAX: usize = scaled(64, 8) as usize;
pub const TRANSACTION_BYTES_MAX: usize = scaled(64 << 10, 4 << 10) as usize;
/// Longest name a client may give itself, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 256;

/// Hooks that run at once; more of them wait.
pub const HOOKS_RUNNING_MAX: usize = 64;
/// Hooks that wait for their turn; more events than these are not told.
pub const HOOKS_WAITING_MAX: usize = 4096;
/// Runs of hooks that HOOKS shows.
pub const HOOK_ENTRIES_MAX: usize = 256;
/// How much of a segment must be dead for the cleaner to write the rest of it anew, in percent: at this it writes
/// one byte for each that it gives back; and where the disk is full.
pub const CLEANER_DEAD_PERCENT: u64 = 50;
pub const CLEANER_DEAD_PERCENT_FULL: u64 = 15;
/// Of one segment that is written anew, at least this part of the bytes must come back.
pub const CLEANER_SAVES_MIN: u64 = 8;
/// Small neighbours that are worth to become one, and segments beyond which that holds for all and not only for
/// what the cleaner left small.
pub const CLEANER_MERGE_MIN: usize = 4;
pub const CLEANER_SEGMENTS_MANY: usize = scaled(1024, 8) as usize;
/// Most segments that become one.
pub const CLEANER_RUN_MAX: usize = 64;
/// How many bytes of segments the cleaner works through in a second unless told otherwise.
pub const CLEANER_RATE_BYTES: u64 = 64 << 20;
/// What it reads at once, what it writes at once at least, in bytes, and the records it looks up at once.
pub const CLEANER_WINDOW_BYTES: u64 = scaled(256 << 10, 8 << 10);
pub const CLEANER_WRITE_BYTES: usize = scaled(1 << 20, 16 << 10) as usize;
pub const CLEANER_READS_MAX: usize = scaled(32, 4) as usize;
/// How often it looks at all segments where the log went on, and the time from one to the next, in milliseconds.
pub const CLEANER_SURVEY_MS: u64 = scaled(10_000, 100);
pub const CLEANER_SURVEY_STEP_MS: u64 = 1;
/// How often it does so in a log that does not go on, where versions become too old, in milliseconds.
pub const CLEANER_EXPIRY_MS: u64 = 86_400_000;
/// Bytes of an old file that an import reads at once, where no record is larger.
pub const IMPORT_WINDOW_BYTES: usize = scaled(4 << 20, 8 << 10) as usize;
/// Index entries of one damaged old file that an import keeps to find its way, 16 bytes each.
pub const IMPORT_HINTS_MAX: usize = 4 << 20;
/// Keys whose newest version is lost that an import remembers up to the end of their namespace.
pub const IMPORT_LOST_KEYS_MAX: usize = 64 << 10;
/// Lost stretches of the old files that an import remembers, 24 bytes each.
pub const IMPORT_LOST_RANGES_MAX: usize = 1 << 20;
/// Lines about damage that an import prints; the others are counted.
pub const IMPORT_DAMAGE_LINES_MAX: usize = 1000;
/// Bytes that a scrub reads at once.
pub const SCRUB_READ_BYTES: u64 = scaled(256 << 10, 8 << 10);
/// Blocks of a segment that the disk fails to give, one behind the other, until a scrub asks for no more of it.
pub const SCRUB_FAILED_BLOCKS_MAX: u64 = scaled(1024, 8);
/// Damaged places that a scrub remembers, so that each is told once.
pub const SCRUB_DAMAGE_MAX: usize = scaled(1024, 64) as usize;
/// Longest time between two passes of the scrub, in days.
pub const SCRUB_DAYS_MAX: u64 = 36_500;
/// Keys whose newest version is lost that a repair remembers up to its end, some 64 bytes each.
pub const REPAIR_LOST_KEYS_MAX: usize = scaled(1 << 20, 64) as usize;

const _: () = {
    assert!(WRITE_BUFFER_BYTES >= 3 * (PAYLOAD_BYTES_MAX + 4096));
    assert!(WRITE_BYTES_MAX as usize * WRITES_IN_FLIGHT_MAX <= WRITE_BUFFER_BYTES);
    assert!(ZERO_AHEAD_BYTES.is_multiple_of(ZERO_UNIT_BYTES));
    assert!(PAYLOAD_BYTES_MAX < (1 << 24) - 1);
    // The largest request that a mirror is sent fits more than once.
    assert!(PUSH_OUTPUT_BYTES_MAX >= 2 * PAYLOAD_BYTES_MAX);
    assert!(HOOKS_RUNNING_MAX < HOOK_ENTRIES_MAX);
    // Who has all that one connection may have leaves something to others.
    assert!(CHANNELS_MAX < CHANNELS_TOTAL_MAX && PATTERNS_MAX < PATTERNS_TOTAL_MAX);
};

/// How often it is looked for segments that were moved away, in milliseconds, and how many files at once.
pub const AWAY_LOOK_MS: u64 = 5000;
pub const AWAY_LOOK_FILES: usize = 1024;
/// How long somebody waits for a hook that is to bring a segment back, in milliseconds.
pub const HOOK_WAIT_MS_MAX: u64 = 600_000;
