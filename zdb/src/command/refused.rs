//! Commands of Redis 7.4 that have no place here, each with why, and what to do instead.

type Reason = (&'static str, &'static [&'static str]);

const COMMANDS: &[Reason] = &[
    (
        "values are plain bytes, without lists; keep them in keys of their own",
        &[
            "BLMOVE",
            "BLMPOP",
            "BLPOP",
            "BRPOP",
            "BRPOPLPUSH",
            "LINDEX",
            "LINSERT",
            "LLEN",
            "LMOVE",
            "LMPOP",
            "LPOP",
            "LPOS",
            "LPUSH",
            "LPUSHX",
            "LRANGE",
            "LREM",
            "LSET",
            "LTRIM",
            "RPOP",
            "RPOPLPUSH",
            "RPUSH",
            "RPUSHX",
        ],
    ),
    (
        "values are plain bytes, without hashes; keep the fields in keys of their own",
        &[
            "HDEL",
            "HEXISTS",
            "HEXPIRE",
            "HEXPIREAT",
            "HEXPIRETIME",
            "HGET",
            "HGETALL",
            "HINCRBY",
            "HINCRBYFLOAT",
            "HKEYS",
            "HLEN",
            "HMGET",
            "HMSET",
            "HPERSIST",
            "HPEXPIRE",
            "HPEXPIREAT",
            "HPEXPIRETIME",
            "HPTTL",
            "HRANDFIELD",
            "HSCAN",
            "HSET",
            "HSETNX",
            "HSTRLEN",
            "HTTL",
            "HVALS",
        ],
    ),
    (
        "values are plain bytes, without sets; keep the members in keys of their own",
        &[
            "SADD",
            "SCARD",
            "SDIFF",
            "SDIFFSTORE",
            "SINTER",
            "SINTERCARD",
            "SINTERSTORE",
            "SISMEMBER",
            "SMEMBERS",
            "SMISMEMBER",
            "SMOVE",
            "SPOP",
            "SRANDMEMBER",
            "SREM",
            "SSCAN",
            "SUNION",
            "SUNIONSTORE",
        ],
    ),
    (
        "values are plain bytes, without sorted sets; SCAN goes through keys in the order of their writing",
        &[
            "BZMPOP",
            "BZPOPMAX",
            "BZPOPMIN",
            "ZADD",
            "ZCARD",
            "ZCOUNT",
            "ZDIFF",
            "ZDIFFSTORE",
            "ZINCRBY",
            "ZINTER",
            "ZINTERCARD",
            "ZINTERSTORE",
            "ZLEXCOUNT",
            "ZMPOP",
            "ZMSCORE",
            "ZPOPMAX",
            "ZPOPMIN",
            "ZRANDMEMBER",
            "ZRANGE",
            "ZRANGEBYLEX",
            "ZRANGEBYSCORE",
            "ZRANGESTORE",
            "ZRANK",
            "ZREM",
            "ZREMRANGEBYLEX",
            "ZREMRANGEBYRANK",
            "ZREMRANGEBYSCORE",
            "ZREVRANGE",
            "ZREVRANGEBYLEX",
            "ZREVRANGEBYSCORE",
            "ZREVRANK",
            "ZSCAN",
            "ZSCORE",
            "ZUNION",
            "ZUNIONSTORE",
        ],
    ),
    (
        "values are plain bytes, without streams; a namespace in sequential mode numbers what is appended",
        &[
            "XACK",
            "XADD",
            "XAUTOCLAIM",
            "XCLAIM",
            "XDEL",
            "XGROUP",
            "XINFO",
            "XLEN",
            "XPENDING",
            "XRANGE",
            "XREAD",
            "XREADGROUP",
            "XREVRANGE",
            "XSETID",
            "XTRIM",
        ],
    ),
    (
        "values are plain bytes, without bits, places or sketches; compute in the client",
        &[
            "BITCOUNT",
            "BITFIELD",
            "BITFIELD_RO",
            "BITOP",
            "BITPOS",
            "GEOADD",
            "GEODIST",
            "GEOHASH",
            "GEOPOS",
            "GEORADIUS",
            "GEORADIUSBYMEMBER",
            "GEORADIUSBYMEMBER_RO",
            "GEORADIUS_RO",
            "GEOSEARCH",
            "GEOSEARCHSTORE",
            "GETBIT",
            "LCS",
            "PFADD",
            "PFCOUNT",
            "PFDEBUG",
            "PFMERGE",
            "PFSELFTEST",
            "SETBIT",
            "SORT",
            "SORT_RO",
        ],
    ),
    (
        "values are written whole; GET, then SET with IFEQ changes one safely",
        &[
            "APPEND",
            "DECR",
            "DECRBY",
            "GETDEL",
            "GETSET",
            "INCR",
            "INCRBY",
            "INCRBYFLOAT",
            "MSETNX",
            "SETRANGE",
        ],
    ),
    ("it is an old name; use GETRANGE", &["SUBSTR"]),
    (
        "keys do not expire; DEL ends one",
        &[
            "EXPIRE",
            "EXPIREAT",
            "EXPIRETIME",
            "GETEX",
            "PERSIST",
            "PEXPIRE",
            "PEXPIREAT",
            "PEXPIRETIME",
            "PSETEX",
            "SETEX",
        ],
    ),
    (
        "keys keep their names; GET, SET and DEL move one",
        &["COPY", "MIGRATE", "MOVE", "RENAME", "RENAMENX"],
    ),
    (
        "values have no form of their own; GET and SET copy one",
        &["DUMP", "RESTORE", "RESTORE-ASKING"],
    ),
    ("it would hold up all clients; use SCAN with MATCH, or KSCAN", &["KEYS"]),
    ("nothing is evicted, no key is touched", &["TOUCH"]),
    (
        "there are namespaces, not numbered databases; SELECT one, then FLUSH",
        &["FLUSHALL", "FLUSHDB"],
    ),
    ("there are namespaces, not numbered databases", &["SWAPDB"]),
    (
        "this is one server, not a cluster; use PUBLISH and SUBSCRIBE",
        &["SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"],
    ),
    (
        "keys cannot be between MULTI and EXEC; SET with IFEQ changes one only if nobody else did",
        &["UNWATCH", "WATCH"],
    ),
    (
        "there are no scripts; MSET and SET with NX, XX or IFEQ are atomic",
        &["EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO", "FUNCTION", "SCRIPT"],
    ),
    ("there are no modules", &["MODULE"]),
    ("there is one user, whose password is --admin; namespaces have their own by NSSET", &["ACL"]),
    ("this is one server, not a cluster", &["ASKING", "CLUSTER", "READONLY", "READWRITE"]),
    ("REPLICAOF makes a replica, and REPLICAOF NO ONE a master", &["FAILOVER", "SYNC"]),
    (
        "every write is in the log already; CONFIG SET appendfsync says when it is on the disk",
        &["BGREWRITEAOF", "BGSAVE", "LASTSAVE", "SAVE", "WAITAOF"],
    ),
    ("this server paints nothing", &["LOLWUT"]),
];

/// Subcommands, by the command that has others here.
const SUBCOMMANDS: &[(&str, &[Reason])] = &[
    (
        "CLIENT",
        &[
            (
                "nothing is told to clients that keep values; WAIT tells what others do",
                &["CACHING", "GETREDIR", "TRACKING", "TRACKINGINFO"],
            ),
            ("no command blocks here", &["UNBLOCK"]),
        ],
    ),
    ("COMMAND", &[("use COMMAND GETKEYS", &["GETKEYSANDFLAGS"])]),
    (
        "DEBUG",
        &[(
            "only SLEEP and SCRUB make sense here",
            &[
                "AOFSTAT",
                "ASSERT",
                "CHANGE-REPL-ID",
                "CLIENT-EVICTION",
                "CONFIG-REWRITE-FORCE-ALL",
                "DIGEST",
                "DIGEST-VALUE",
                "DROP-CLUSTER-PACKET-FILTER",
                "ERROR",
                "HTSTATS",
                "HTSTATS-KEY",
                "JMAP",
                "LEAK",
                "LISTPACK",
                "LOADAOF",
                "LOG",
                "MALLCTL",
                "MALLCTL-STR",
                "OBJECT",
                "OOM",
                "PANIC",
                "POPULATE",
                "PROTOCOL",
                "QUICKLIST",
                "QUICKLIST-PACKED-THRESHOLD",
                "RELOAD",
                "REPLICATE",
                "REPLYBUFFER",
                "RESTART",
                "SDSLEN",
                "SEGFAULT",
                "SET-ACTIVE-EXPIRE",
                "SET-DISABLE-DENY-SCRIPTS",
                "STRINGMATCH-LEN",
                "STRUCTSIZE",
                "ZIPLIST",
            ],
        )],
    ),
    (
        "LATENCY",
        &[(
            "it draws for people; LATENCY LATEST, HISTORY and HISTOGRAM have the numbers",
            &["DOCTOR", "GRAPH"],
        )],
    ),
    ("MEMORY", &[("INFO memory has what is known", &["DOCTOR", "MALLOC-STATS", "PURGE", "STATS"])]),
    (
        "PUBSUB",
        &[(
            "this is one server, not a cluster; use PUBSUB CHANNELS and NUMSUB",
            &["SHARDCHANNELS", "SHARDNUMSUB"],
        )],
    ),
    ("OBJECT", &[("nothing is counted by key", &["FREQ", "IDLETIME", "REFCOUNT"])]),
];

fn find(reasons: &[Reason], name: &[u8]) -> Option<(&'static str, &'static str)> {
    reasons.iter().find_map(|(reason, names)| {
        let name = names.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name))?;
        Some((*name, *reason))
    })
}

/// The error for a command of Redis that is not one of ours.
pub fn command(name: &[u8]) -> Option<String> {
    let (name, reason) = find(COMMANDS, name)?;
    Some(format!("Command not supported ({name}: {reason})"))
}

/// The same for a subcommand.
pub fn subcommand(container: &[u8], name: &[u8]) -> Option<String> {
    let (container, reasons) =
        SUBCOMMANDS.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(container))?;
    let (name, reason) = find(reasons, name)?;
    Some(format!("Command not supported ({container} {name}: {reason})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_name_is_there_once() {
        for reasons in std::iter::once(COMMANDS).chain(SUBCOMMANDS.iter().map(|(_, all)| *all)) {
            let names: Vec<&str> = reasons.iter().flat_map(|(_, names)| *names).copied().collect();
            let different: BTreeSet<&str> = names.iter().copied().collect();
            assert_eq!(names.len(), different.len());
            assert!(names.iter().all(|name| name.to_ascii_uppercase() == **name));
        }
        assert_eq!(
            command(b"lpush").as_deref(),
            Some(
                "Command not supported (LPUSH: values are plain bytes, without lists; keep them in keys of \
                 their own)"
            )
        );
        assert!(command(b"get").is_none());
        assert!(subcommand(b"client", b"tracking").is_some());
    }

    /// What is here is not refused, and what is refused is not here.
    #[test]
    fn no_command_of_ours_is_refused() {
        for ours in super::super::table::COMMANDS {
            assert!(command(ours.name.as_bytes()).is_none(), "{}", ours.name);
        }
    }
}
