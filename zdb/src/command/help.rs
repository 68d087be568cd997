//! What the HELP of each command with subcommands prints.

pub const CLIENT: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME | SETNAME <name>",
    "    The name of this connection.",
    "ID",
    "    The number of this connection.",
    "INFO",
    "    This connection as a line of CLIENT LIST.",
    "KILL <ip:port>",
    "KILL <option> <value> [<option> <value> ...]",
    "    Ends connections. Options are ADDR, LADDR, TYPE (normal, master, replica, pubsub), USER, ID,",
    "    SKIPME (yes, no) and MAXAGE (seconds).",
    "LIST [TYPE <type> | ID <id> [<id> ...]]",
    "    All connections, a line each.",
    "NO-EVICT (ON|OFF) | NO-TOUCH (ON|OFF)",
    "    Accepted: nothing is evicted, no key is touched.",
    "PAUSE <ms> [WRITE|ALL]",
    "    Holds requests, or those that write, for up to an hour.",
    "REPLY (ON|OFF|SKIP)",
    "    Whether this connection gets replies.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    The library of this connection.",
    "UNPAUSE",
    "    Ends a pause.",
    "HELP",
    "    Prints this help.",
];

pub const COMMAND: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    What COMMAND INFO says of all commands.",
    "COUNT",
    "    How many commands there are.",
    "DOCS [<command> ...]",
    "    What they do, and their arguments.",
    "GETKEYS <command> [<arg> ...]",
    "    The keys in a request.",
    "INFO [<command> ...]",
    "    Their number of words, their flags, and where their keys are.",
    "LIST [FILTERBY PATTERN <pattern>]",
    "    Their names.",
    "HELP",
    "    Prints this help.",
];

pub const CONFIG: &[&str] = &[
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern> [<pattern> ...]",
    "    The settings whose names match, and their values.",
    "SET <name> <value> [<name> <value> ...]",
    "    Changes settings of the running server: all of these or none.",
    "REWRITE",
    "    Keeps the settings in zdb.conf of the data directory for the next start, where flags win.",
    "RESETSTAT",
    "    Sets the counters of INFO back.",
    "HELP",
    "    Prints this help.",
];

pub const DEBUG: &[&str] = &[
    "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CLEAN",
    "    Looks through all data files now for space to give back, whatever the setting cleaner says.",
    "SLEEP <seconds>",
    "    Stops the whole server for up to 60 seconds; decimals allowed.",
    "SCRUB <START|STOP>",
    "    Begins to read all closed files and verify them, due or not, or ends it; INFO scrub shows it.",
    "HELP",
    "    Prints this help.",
];

pub const LATENCY: &[&str] = &[
    "LATENCY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "HISTOGRAM [COMMAND ...]",
    "    How often the commands took how many microseconds, up to each power of two.",
    "LATEST",
    "    Of each event: its name, the time, milliseconds and the worst ever of its last sample.",
    "HISTORY <event>",
    "    Unix time and milliseconds of up to 160 samples, oldest first. Events are command,",
    "    fast-command and commit (the wait for the log).",
    "RESET [<event> ...]",
    "    Forgets the samples of these events, or of all.",
    "HELP",
    "    Prints this help.",
];

pub const PUBSUB: &[&str] = &[
    "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CHANNELS [<pattern>]",
    "    The channels that somebody is subscribed to by their names.",
    "NUMPAT",
    "    How many different patterns there are.",
    "NUMSUB [<channel> ...]",
    "    How many connections are subscribed to each of these channels by its name.",
    "HELP",
    "    Prints this help.",
];

pub const SLOWLOG: &[&str] = &[
    "SLOWLOG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET [<count>]",
    "    The newest <count> entries (10; -1: all): id, unix time, microseconds, arguments,",
    "    address and name of the client. A request that waits for the disk counts with its wait.",
    "LEN",
    "    How many entries there are.",
    "RESET",
    "    Empties the slow log.",
    "HELP",
    "    Prints this help.",
];
