//! The table of commands. COMMAND, COMMAND DOCS and the gatekeeper read the same rows.

use super::{
    Context, Outcome, auth, batch, catalogue, client, condition, config, control, files, hooks,
    info, keys, latency, namespaces, publish, raw, replication, scan, slowlog, system, transaction,
    watch, write,
};
use crate::output::Output;
use crate::resp::Request;

type Handler = fn(&mut Context<'_>, Request<'_>, &mut Output) -> Outcome;

#[derive(Clone, Copy, Debug)]
pub enum Arity {
    Any,
    /// That many words with the command, none of them empty.
    Exact(usize),
    /// At least that many words with the command.
    AtLeast(usize),
}

impl Arity {
    /// The error for a request that does not have it.
    pub fn refuse(self, request: Request<'_>) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::Exact(count) if request.len() != count => Some("Unexpected arguments"),
            Self::Exact(_) if request.iter().any(<[u8]>::is_empty) => Some("Invalid argument"),
            Self::AtLeast(count) if request.len() < count => Some("Missing arguments"),
            Self::Exact(_) | Self::AtLeast(_) => None,
        }
    }

    /// In Redis's notation: negative for a minimum.
    pub fn redis(self) -> i64 {
        match self {
            Self::Any => -1,
            Self::Exact(count) => count as i64,
            Self::AtLeast(count) => -(count as i64),
        }
    }
}

pub struct Command {
    pub name: &'static str,
    pub arity: Arity,
    pub admin: bool,
    /// Redis's flags: what a client library may assume.
    pub flags: &'static [&'static str],
    /// First key, last key, step, as in Redis; zeroes for none.
    pub keys: (i64, i64, i64),
    pub group: &'static str,
    /// The arguments, for a hint.
    pub arguments: &'static str,
    pub summary: &'static str,
    pub run: Handler,
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const ADMIN: &[&str] = &["admin"];
const ADMIN_WRITE: &[&str] = &["admin", "write"];
const SLOW: &[&str] = &["loading", "stale"];
const FAST: &[&str] = &["fast", "loading", "stale"];
const MESSAGES: &[&str] = &["pubsub", "loading", "stale"];
const TRANSACTION: &[&str] = &["noscript", "loading", "stale", "fast"];
const TRANSACTION_END: &[&str] = &["noscript", "loading", "stale"];
const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);

macro_rules! commands {
    ($($name:literal $arity:expr, $admin:literal, $flags:expr, $keys:expr, $group:literal, $arguments:literal,
       $summary:literal => $run:path;)*) => {
        &[$(Command {
            name: $name, arity: $arity, admin: $admin, flags: $flags, keys: $keys, group: $group,
            arguments: $arguments, summary: $summary, run: $run,
        }),*]
    };
}

use Arity::{Any, AtLeast, Exact};

pub const COMMANDS: &[Command] = commands! {
    "get" Exact(2), false, READ, ONE_KEY, "string", "key",
        "The value of a key, or nil." => keys::get;
    "set" Any, false, WRITE, ONE_KEY, "string",
        "key value [timestamp] [NX | XX | IFEQ comparison-value] [GET]",
        "Stores a value; returns the key, or nil when the value is the one already there." => write::set;
    "setx" Any, false, WRITE, ONE_KEY, "string",
        "key value [timestamp] [NX | XX | IFEQ comparison-value] [GET]",
        "The same as SET." => write::set;
    "mget" Any, false, READ, (1, -1, 1), "string", "key [key ...]",
        "The values of up to 1023 keys." => keys::multi_get;
    "del" Any, false, WRITE, ONE_KEY, "generic", "key [timestamp]",
        "Ends a key; an error when there is none." => write::delete;
    "exists" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "1 when the key is there, else 0." => keys::exists;
    "check" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "Reads the value from the disk: 1 whole, 0 damaged, -1 unreadable, nil missing." => keys::check;
    "length" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "Bytes of the value, or nil." => keys::length;
    "keytime" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "Unix time of the last update in seconds, or nil." => keys::keytime;
    "keycur" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "A cursor that SCAN and RSCAN go on from." => keys::keycur;
    "history" Any, false, READ, ONE_KEY, "generic", "key [token]",
        "A version of a key, and the token of the one before." => keys::history;
    "scan" Any, false, READ, NO_KEYS, "generic",
        "[cursor [MATCH pattern] [COUNT count] [TYPE type]]",
        "Keys in the order of the log, oldest first; an error when there are no more." => scan::scan;
    "scanx" Any, false, READ, NO_KEYS, "generic", "[cursor]",
        "The same as SCAN." => scan::scan;
    "rscan" Any, false, READ, NO_KEYS, "generic", "[cursor]",
        "Keys in the reverse order of the log." => scan::reverse_scan;
    "mset" Any, false, WRITE, (1, -1, 2), "string", "key value [key value ...]",
        "Stores values of many keys, all or none." => batch::multi_set;
    "setnx" Any, false, WRITE, ONE_KEY, "string", "key value",
        "Stores a value where there is none: 1, else 0." => condition::set_if_missing;
    "unlink" AtLeast(2), false, WRITE, (1, -1, 1), "generic", "key [key ...]",
        "Ends keys; returns how many there were." => write::unlink;
    "getrange" Exact(4), false, READ, ONE_KEY, "string", "key start end",
        "Part of a value; negative numbers count from its end." => keys::range;
    "strlen" Exact(2), false, READ, ONE_KEY, "string", "key",
        "Bytes of the value, 0 when there is none." => keys::string_length;
    "type" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "string, or none." => keys::kind;
    "ttl" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "-1: keys do not expire; -2 when there is none." => keys::time_to_live;
    "pttl" Exact(2), false, READ, ONE_KEY, "generic", "key",
        "-1: keys do not expire; -2 when there is none." => keys::time_to_live;
    "memory" AtLeast(2), false, READ, (2, 2, 1), "server", "USAGE key [SAMPLES count]",
        "Bytes that a key takes in log and index, or nil." => keys::memory;
    "object" AtLeast(2), false, READ, (2, 2, 1), "generic", "ENCODING key",
        "raw, or nil." => keys::object;
    "randomkey" Any, false, READ, NO_KEYS, "generic", "",
        "Some key, or nil." => keys::random_key;
    "kscan" Any, false, READ, NO_KEYS, "generic", "prefix [cursor]",
        "Keys that begin with a prefix, and the cursor to go on from; 0 at the end." => scan::prefix_scan;
    "flush" Any, false, WRITE, NO_KEYS, "server", "",
        "Ends all keys of a private namespace, and their history." => namespaces::flush;
    "dbsize" Any, false, READ, NO_KEYS, "server", "",
        "How many keys the namespace has." => system::dbsize;
    "select" Any, false, FAST, NO_KEYS, "connection", "namespace [password | SECURE hash]",
        "Goes to a namespace." => namespaces::select;
    "nsnew" Exact(2), true, ADMIN_WRITE, NO_KEYS, "server", "name",
        "Makes a namespace." => namespaces::create;
    "nsdel" Exact(2), true, ADMIN_WRITE, NO_KEYS, "server", "name",
        "Removes a namespace and everything in it." => namespaces::remove;
    "nslist" Any, false, FAST, NO_KEYS, "server", "",
        "The names of all namespaces." => namespaces::list;
    "nsinfo" Exact(2), false, FAST, NO_KEYS, "server", "name",
        "Size, limits and state of a namespace." => namespaces::info;
    "nsset" Exact(4), true, ADMIN_WRITE, NO_KEYS, "server", "name property value",
        "Sets maxsize, password, public, worm, lock, freeze, mode or history of a namespace." => namespaces::set;
    "auth" Any, false, FAST, NO_KEYS, "connection", "[default] password | SECURE CHALLENGE | SECURE hash",
        "Becomes admin." => auth::auth;
    "nsjump" Any, true, ADMIN, NO_KEYS, "server", "",
        "Goes on in a new data file." => files::jump;
    "reload" Exact(2), true, ADMIN, NO_KEYS, "server", "name",
        "Forgets what is kept in memory beside the files." => files::reload;
    "index" AtLeast(2), true, ADMIN, NO_KEYS, "server", "DIRTY | DIRTY RESET",
        "Index files that were modified in place: none." => files::index;
    "data" AtLeast(2), true, ADMIN, NO_KEYS, "server", "RAW id offset",
        "The record at an offset of a data file, whatever became of its key." => raw::data;
    "hooks" Any, true, ADMIN, NO_KEYS, "server", "",
        "The hooks that run, and those that ended lately." => hooks::hooks;
    "ping" Any, false, FAST, NO_KEYS, "connection", "", "Answers PONG." => system::ping;
    "echo" Any, false, FAST, NO_KEYS, "connection", "message", "Answers the message." => system::echo;
    "time" Any, false, FAST, NO_KEYS, "server", "",
        "Unix seconds and microseconds." => system::time;
    "info" Any, false, SLOW, NO_KEYS, "server", "[section [section ...]]",
        "State and counters of the server." => info::info;
    "hello" Any, false, FAST, NO_KEYS, "connection", "[protover [AUTH user password] [SETNAME name]]",
        "Chooses RESP2 or RESP3." => client::hello;
    "client" AtLeast(2), false, SLOW, NO_KEYS, "connection", "subcommand [argument ...]",
        "Names, lists, ends and holds connections." => client::client;
    "command" Any, false, SLOW, NO_KEYS, "server", "[subcommand [argument ...]]",
        "The commands of this server." => catalogue::command;
    "config" AtLeast(2), true, ADMIN, NO_KEYS, "server", "subcommand [argument ...]",
        "Settings of the running server." => config::config;
    "slowlog" AtLeast(2), true, ADMIN, NO_KEYS, "server", "subcommand [argument ...]",
        "The requests that took longest." => slowlog::slowlog;
    "latency" AtLeast(2), true, ADMIN, NO_KEYS, "server", "subcommand [argument ...]",
        "How long commands take." => latency::latency;
    "monitor" Any, true, ADMIN, NO_KEYS, "server", "",
        "Shows all requests from now on." => watch::monitor;
    "wait" Any, false, FAST, NO_KEYS, "generic", "command [milliseconds]",
        "Tells when another client runs a command here; * for any." => watch::wait;
    "mirror" Any, true, ADMIN, NO_KEYS, "server", "",
        "Sends all requests from now on, for a peer to do the same." => watch::mirror;
    "master" Any, true, ADMIN, NO_KEYS, "server", "",
        "From now on each request ends with the id of its owner." => watch::master;
    "role" Any, false, FAST, NO_KEYS, "server", "", "The part in a replication: master or slave." => replication::role;
    "replicaof" Any, true, ADMIN, NO_KEYS, "server", "<host port | NO ONE>",
        "Copies another server from now on, or none." => replication::replica_of;
    "slaveof" Any, true, ADMIN, NO_KEYS, "server", "<host port | NO ONE>",
        "The same as REPLICAOF." => replication::replica_of;
    "replconf" Any, true, ADMIN, NO_KEYS, "server", "[name value ...]",
        "What a replica tells of itself." => replication::replconf;
    "psync" Any, true, ADMIN, NO_KEYS, "server",
        "log secret-check position promised-number promised-node <bare | data> versions owed <all | newest> [term ...]",
        "Sends the log to a replica." => replication::psync;
    "subscribe" AtLeast(2), false, MESSAGES, NO_KEYS, "pubsub", "channel [channel ...]",
        "From now on gets the messages of these channels." => publish::subscribe;
    "unsubscribe" Any, false, MESSAGES, NO_KEYS, "pubsub", "[channel [channel ...]]",
        "Ends subscriptions to these channels, or to all." => publish::unsubscribe;
    "psubscribe" AtLeast(2), false, MESSAGES, NO_KEYS, "pubsub", "pattern [pattern ...]",
        "From now on gets the messages of all channels that match a pattern." => publish::pattern_subscribe;
    "punsubscribe" Any, false, MESSAGES, NO_KEYS, "pubsub", "[pattern [pattern ...]]",
        "Ends subscriptions to these patterns, or to all." => publish::pattern_unsubscribe;
    "publish" AtLeast(3), false, MESSAGES, NO_KEYS, "pubsub", "channel message",
        "Sends a message to who is subscribed to the channel now; how many these are." => publish::publish;
    "pubsub" AtLeast(2), false, SLOW, NO_KEYS, "pubsub", "subcommand [argument ...]",
        "Shows channels and patterns that somebody is subscribed to." => publish::pubsub;
    "multi" Exact(1), false, TRANSACTION, NO_KEYS, "transactions", "",
        "Keeps the next requests, about the server and its clients, to run them together." => transaction::multi;
    "exec" Exact(1), false, TRANSACTION_END, NO_KEYS, "transactions", "",
        "Runs the requests since MULTI with nothing between them: all their replies." => transaction::exec;
    "discard" Exact(1), false, TRANSACTION, NO_KEYS, "transactions", "",
        "Forgets the requests since MULTI." => transaction::discard;
    "debug" AtLeast(2), true, ADMIN, NO_KEYS, "server", "subcommand [argument ...]",
        "SLEEP stops the server for a time; SCRUB begins or ends a verification of the files." => control::debug;
    "reset" Any, false, FAST, NO_KEYS, "connection", "", "Makes the connection new." => control::reset;
    "quit" Any, false, FAST, NO_KEYS, "connection", "", "Closes the connection." => system::quit;
    "stop" Any, false, ADMIN, NO_KEYS, "server", "",
        "Stops the server cleanly, for an admin." => system::stop;
    "shutdown" Any, false, ADMIN, NO_KEYS, "server", "[NOSAVE | SAVE] [NOW] [FORCE]",
        "Stops the server cleanly, for an admin, without a reply." => control::shutdown;
};

/// Commands that may be between MULTI and EXEC: those that never wait for the log, a record or another client, and
/// of which the replies are not many bytes. CONFIG REWRITE waits for its file, but has taken the settings by then.
const IN_TRANSACTIONS: &[&str] = &[
    "client",
    "config",
    "dbsize",
    "echo",
    "info",
    "latency",
    "nsinfo",
    "ping",
    "publish",
    "pubsub",
    "replicaof",
    "role",
    "select",
    "slaveof",
    "slowlog",
    "time",
];

/// Slots of the hash table over the names: a power of two, some eight times the number of commands.
const SLOTS: usize = 512;

/// Finds commands by name.
pub struct Table {
    slots: [u8; SLOTS],
    /// Of each command, whether it is flagged as fast, and whether it reads keys that it names.
    fast: Vec<bool>,
    lookup: Vec<bool>,
    /// Whether it adds to the log.
    writes: Vec<bool>,
    /// Whether it may be between MULTI and EXEC.
    queued: Vec<bool>,
}

impl Table {
    pub fn new() -> Self {
        const { assert!(COMMANDS.len() < SLOTS / 4) };
        let mut slots = [u8::MAX; SLOTS];
        for (at, command) in COMMANDS.iter().enumerate() {
            let mut slot = Self::slot(command.name.as_bytes());
            while slots[slot] != u8::MAX {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = at as u8;
        }
        let fast = COMMANDS.iter().map(|command| command.flags.contains(&"fast")).collect();
        let lookup = COMMANDS
            .iter()
            .map(|command| command.flags.contains(&"readonly") && command.keys != NO_KEYS)
            .collect();
        let adds = |command: &Command| command.flags.contains(&"write") || command.name == "nsjump";
        let writes = COMMANDS.iter().map(adds).collect();
        let queued =
            COMMANDS.iter().map(|command| IN_TRANSACTIONS.contains(&command.name)).collect();
        Self { slots, fast, lookup, writes, queued }
    }

    /// First, last and number of letters tell nearly all names apart; the rest is probing.
    fn slot(name: &[u8]) -> usize {
        let (first, last) = match name {
            [] => (0, 0),
            [first, .., last] => (*first, *last),
            [only] => (*only, *only),
        };
        let mix = usize::from(first | 0x20) * 7 + usize::from(last | 0x20) * 31 + name.len() * 101;
        mix % SLOTS
    }

    pub fn find(&self, name: &[u8]) -> Option<&'static Command> {
        self.position(name).map(|at| &COMMANDS[at])
    }

    /// The place of a command in the table.
    #[inline]
    pub fn position(&self, name: &[u8]) -> Option<usize> {
        let mut slot = Self::slot(name);
        loop {
            let at = usize::from(self.slots[slot]);
            if COMMANDS.get(at)?.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(at);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// Whether requests for it are too short to be timed one by one.
    #[inline]
    pub fn is_fast(&self, at: usize) -> bool {
        self.fast[at]
    }

    /// Whether it adds to the log.
    #[inline]
    pub fn writes(&self, at: usize) -> bool {
        self.writes[at]
    }

    /// Whether it may be between MULTI and EXEC.
    pub fn may_be_queued(&self, at: usize) -> bool {
        self.queued[at]
    }

    /// Whether it reads keys that it names.
    #[inline]
    pub fn looks_up(&self, at: usize) -> bool {
        self.lookup[at]
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        let table = Table::new();
        for command in COMMANDS {
            assert_eq!(table.find(command.name.as_bytes()).map(|c| c.name), Some(command.name));
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(table.find(upper.as_bytes()).map(|c| c.name), Some(command.name));
        }
        assert!(IN_TRANSACTIONS.iter().all(|name| table.find(name.as_bytes()).is_some()));
        for other in ["", "g", "gett", "flushall", "\0"] {
            assert!(table.find(other.as_bytes()).is_none(), "{other:?}");
        }
    }
}
