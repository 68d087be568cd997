//! The commands that look at the server and its clients.

use super::watchers::Wait;
use super::{Answer, Command, Model, Session, admin, map, open};
use crate::reply::Reply;
use bytes::Bytes;
use std::collections::BTreeMap;

pub(super) const COMMANDS: &[Command] = &[
    open("INFO", Model::info),
    open("CLIENT", Model::client),
    admin("CONFIG", Model::config),
    open("COMMAND", Model::command),
    admin("SLOWLOG", Model::slowlog),
    admin("LATENCY", Model::latency),
];

const CLIENT_NAME_BYTES_MAX: usize = 256;

/// What can be set while the server runs, with what it is at first.
const SETTINGS: &[(&str, &str)] = &[
    ("appendfsync", "everysec"),
    ("cache", "268435456"),
    ("cleaner", "yes"),
    ("cleaner-rate", "67108864"),
    ("latency-monitor-threshold", "0"),
    ("loglevel", "notice"),
    ("maxclients", "10000"),
    ("maxsize", "0"),
    ("min-replicas-to-write", "0"),
    ("nodes", "0"),
    ("replica-announce-ip", ""),
    ("replica-announce-port", "0"),
    ("replica-priority", "100"),
    ("replicaof", ""),
    ("rotate", "0"),
    ("scrub-days", "0"),
    ("scrub-rate", "4194304"),
    ("slowlog-log-slower-than", "10000"),
    ("slowlog-max-len", "128"),
    ("timeout", "0"),
];
/// What cannot.
const FIXED: &[(&str, &str)] = &[("appendonly", "yes"), ("databases", "1"), ("save", "")];

/// What these commands keep for the whole server.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// Replies that no request of their connection waits for, with its id.
    pub pushed: Vec<(u64, Reply)>,
    /// Connections that are shown all requests.
    pub monitors: Vec<u64>,
    pub mirrors: Vec<u64>,
    pub waits: Vec<Wait>,
    /// The namespace of each connection, after its last request.
    pub places: BTreeMap<u64, u64>,
    /// Who owns the request that runs.
    pub owner: i64,
    /// Settings that are not what they were at first, and those that survive a restart.
    settings: BTreeMap<&'static str, String>,
    kept: BTreeMap<&'static str, String>,
    /// The requests that the slow log holds, newest first.
    slow: Vec<Vec<Bytes>>,
}

/// What these commands keep for one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Watcher {
    /// As CLIENT SETNAME or HELLO gave it.
    pub name: Bytes,
    /// Its requests end with their owner.
    pub is_master: bool,
    pub replies: Replies,
}

/// What CLIENT REPLY has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    #[default]
    On,
    Off,
    SkipNext,
    Skip,
}

impl Replies {
    /// For the next request.
    pub fn next(self) -> Self {
        match self {
            Replies::SkipNext => Replies::Skip,
            Replies::Skip => Replies::On,
            other => other,
        }
    }

    pub fn are_off(self) -> bool {
        self != Replies::On
    }
}

/// The word behind the name of a command that has subcommands.
pub(super) fn subcommand(arguments: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
    Ok(arguments.get(1).ok_or("Missing arguments")?.to_ascii_uppercase())
}

/// The error for a subcommand that there is not.
pub(super) fn unknown(arguments: &[&[u8]]) -> &'static str {
    let name = String::from_utf8_lossy(arguments[0]).to_ascii_uppercase();
    let word = String::from_utf8_lossy(arguments[1]).to_ascii_uppercase();
    let refused = [
        (
            "CLIENT",
            "TRACKING",
            "nothing is told to clients that keep values; WAIT tells what others do",
        ),
        ("CLIENT", "UNBLOCK", "no command blocks here"),
        ("COMMAND", "GETKEYSANDFLAGS", "use COMMAND GETKEYS"),
        (
            "PUBSUB",
            "SHARDCHANNELS",
            "this is one server, not a cluster; use PUBSUB CHANNELS and NUMSUB",
        ),
        ("DEBUG", "SEGFAULT", "only SLEEP and SCRUB make sense here"),
        (
            "LATENCY",
            "DOCTOR",
            "it draws for people; LATENCY LATEST, HISTORY and HISTOGRAM have the numbers",
        ),
    ];
    let why = refused.iter().find(|(container, sub, _)| *container == name && *sub == word);
    match why {
        Some((_, _, why)) => format!("Command not supported ({name} {word}: {why})").leak(),
        None => format!("Unknown {name} subcommand ({name} HELP lists them)").leak(),
    }
}

/// The error for a command that there is not.
pub(super) fn not_supported(name: &[u8]) -> &'static str {
    let refused = [
        ("KEYS", "it would hold up all clients; use SCAN with MATCH, or KSCAN"),
        ("LPUSH", "values are plain bytes, without lists; keep them in keys of their own"),
        (
            "WATCH",
            "keys cannot be between MULTI and EXEC; SET with IFEQ changes one only if nobody else did",
        ),
        ("FLUSHALL", "there are namespaces, not numbered databases; SELECT one, then FLUSH"),
    ];
    let why = refused.iter().find(|(refused, _)| name.eq_ignore_ascii_case(refused.as_bytes()));
    match why {
        Some((name, why)) => format!("Command not supported ({name}: {why})").leak(),
        None => "Command not supported",
    }
}

pub(super) fn help(name: &str) -> Answer {
    let line = format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    Ok(Reply::Array(vec![Reply::Simple(line)]))
}

impl Model {
    fn space(&self) -> String {
        let mut all = [0, 0, self.ended_bytes];
        let mut lines = String::new();
        for (slot, one) in self.namespaces.iter().enumerate() {
            let [live, history, dead] = one.space();
            all = [all[0] + live, all[1] + history, all[2] + dead];
            let (retention, name) = (&one.history, String::from_utf8_lossy(&one.name));
            lines += &format!(
                "ns{slot}: live_bytes={live},history_bytes={history},dead_bytes={dead},history={retention},\
                 name={name}\n"
            );
        }
        let [live, history, dead] = all;
        format!(
            "\n# space\ndata_live_bytes: {live}\ndata_history_bytes: {history}\ndata_dead_bytes: {dead}\n\
             data_ended_bytes: {}\ndisk_full: 0\n{lines}",
            self.ended_bytes
        )
    }

    fn info(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        let asked: Vec<String> = arguments[1..]
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
            .collect();
        let keyspace: String = self
            .namespaces
            .iter()
            .enumerate()
            .map(|(slot, one)| {
                let name = String::from_utf8_lossy(&one.name);
                format!("db{slot}:keys={},expires=0,avg_ttl=0,name={name}\r\n", one.live_count())
            })
            .collect();
        let text = format!("{INFO}{}{}{keyspace}", self.space(), REDIS_INFO.replace('\n', "\r\n"));
        let mut sections: Vec<String> = Vec::new();
        for line in text.split_inclusive('\n') {
            match line.starts_with("# ") || sections.is_empty() {
                true => sections.push(line.to_owned()),
                false => sections.last_mut().expect("there is one").push_str(line),
            }
        }
        sections.retain(|section| {
            let title = section[2..].lines().next().unwrap_or_default().to_ascii_lowercase();
            let extra = title == "commandstats" || title == "latencystats";
            asked.is_empty() && !extra
                || asked.iter().any(|word| *word == title || word == "all" || word == "everything")
        });
        Ok(Reply::bulk(sections.concat()))
    }

    fn client(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        let sub = subcommand(arguments)?;
        if matches!(&sub[..], b"LIST" | b"KILL" | b"PAUSE" | b"UNPAUSE") && !session.admin {
            return Err("Permission denied");
        }
        let (channels, patterns) = self.subscriber(session).counts();
        let is_subscriber = channels + patterns > 0;
        let line = |session: &Session| {
            let name = String::from_utf8_lossy(&session.watcher.name);
            let flags = if is_subscriber { "P" } else { "N" };
            format!(
                "id={} addr=model:1 laddr=model:2 name={name} flags={flags} sub={channels} psub={patterns} ssub=0\n",
                session.id
            )
        };
        let id = |word: &[u8]| {
            std::str::from_utf8(word)
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|id: &u64| *id > 0)
        };
        match (&sub[..], &arguments[2..]) {
            (b"SETINFO", [name, value]) => match name.to_ascii_uppercase().as_slice() {
                b"LIB-NAME" | b"LIB-VER" => check_client_name(value).map(|()| Reply::ok()),
                _ => Err("Unrecognized option of CLIENT SETINFO"),
            },
            (b"SETNAME", [name]) => {
                check_client_name(name)?;
                session.watcher.name = Bytes::copy_from_slice(name);
                Ok(Reply::ok())
            }
            (b"GETNAME", []) if session.watcher.name.is_empty() => Ok(Reply::Nil),
            (b"GETNAME", []) => Ok(Reply::Bulk(session.watcher.name.clone())),
            (b"ID", []) => Ok(Reply::Integer(session.id as i64)),
            (b"LIST", [word, rest @ ..])
                if word.eq_ignore_ascii_case(b"ID") && !rest.is_empty() =>
            {
                let ids: Option<Vec<u64>> = rest.iter().map(|word| id(word)).collect();
                let ids = ids.ok_or("Invalid client ID")?;
                Ok(Reply::bulk(if ids.contains(&session.id) {
                    line(session)
                } else {
                    String::new()
                }))
            }
            (b"LIST", [word, kind]) if word.eq_ignore_ascii_case(b"TYPE") => {
                match kind.to_ascii_lowercase().as_slice() {
                    b"normal" if !is_subscriber => Ok(Reply::bulk(line(session))),
                    b"pubsub" if is_subscriber => Ok(Reply::bulk(line(session))),
                    b"normal" | b"master" | b"replica" | b"slave" | b"pubsub" => {
                        Ok(Reply::bulk(""))
                    }
                    _ => {
                        Err(format!("Unknown client type '{}'", String::from_utf8_lossy(kind))
                            .leak())
                    }
                }
            }
            (b"LIST" | b"INFO", []) => Ok(Reply::bulk(line(session))),
            (b"KILL", [_]) => Err("No such client"),
            (b"KILL", pairs) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                // Others are not known: whether it is itself among those that are meant.
                let (mut is_meant, mut skips_me) = (true, true);
                for pair in pairs.chunks_exact(2) {
                    let value = pair[1];
                    let shown = String::from_utf8_lossy(value);
                    match pair[0].to_ascii_uppercase().as_slice() {
                        b"ID" => {
                            let id = id(value).ok_or("client-id should be greater than 0")?;
                            is_meant &= id == session.id;
                        }
                        b"USER" if value == b"default" => {}
                        b"USER" => return Err(format!("No such user '{shown}'").leak()),
                        b"TYPE" => match value {
                            b"normal" => is_meant &= !is_subscriber,
                            b"pubsub" => is_meant &= is_subscriber,
                            b"master" | b"replica" | b"slave" => is_meant = false,
                            _ => return Err(format!("Unknown client type '{shown}'").leak()),
                        },
                        b"MAXAGE" => {
                            id(value).ok_or("maxage is not an integer or out of range")?;
                            is_meant = false;
                        }
                        b"ADDR" | b"LADDR" => is_meant = false,
                        b"SKIPME" if value == b"yes" => skips_me = true,
                        b"SKIPME" if value == b"no" => skips_me = false,
                        b"SKIPME" => return Err("Invalid argument"),
                        _ => return Err("Unexpected arguments"),
                    }
                }
                let is_killed = is_meant && !skips_me;
                session.closed |= is_killed;
                Ok(Reply::Integer(i64::from(is_killed)))
            }
            (b"PAUSE", [ms, mode @ ..]) if mode.len() < 2 => {
                let ms = std::str::from_utf8(ms).ok().and_then(|text| text.parse::<u64>().ok());
                ms.filter(|ms| *ms <= 3_600_000)
                    .ok_or("timeout is not an integer or out of range")?;
                match mode.first().map(|mode| mode.to_ascii_uppercase()).as_deref() {
                    None | Some(b"ALL" | b"WRITE") => Ok(Reply::ok()),
                    Some(_) => Err("CLIENT PAUSE mode must be WRITE or ALL"),
                }
            }
            (b"UNPAUSE", []) => Ok(Reply::ok()),
            (b"NO-EVICT" | b"NO-TOUCH", [on]) => match on.to_ascii_uppercase().as_slice() {
                b"ON" | b"OFF" => Ok(Reply::ok()),
                _ => Err("Invalid argument"),
            },
            (b"REPLY", [mode]) => {
                session.watcher.replies = match mode.to_ascii_uppercase().as_slice() {
                    b"ON" => Replies::On,
                    b"OFF" => Replies::Off,
                    b"SKIP" => Replies::SkipNext,
                    _ => return Err("Invalid argument"),
                };
                Ok(Reply::ok())
            }
            (b"HELP", []) => help("CLIENT"),
            (
                b"SETINFO" | b"SETNAME" | b"GETNAME" | b"ID" | b"LIST" | b"INFO" | b"KILL"
                | b"PAUSE" | b"UNPAUSE" | b"NO-EVICT" | b"NO-TOUCH" | b"REPLY" | b"HELP",
                _,
            ) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }

    fn config(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        match (&subcommand(arguments)?[..], &arguments[2..]) {
            (b"GET", []) => Err("Missing arguments"),
            (b"GET", patterns) => {
                let value = |name: &str, first: &str| {
                    self.watch.settings.get(name).cloned().unwrap_or_else(|| first.to_owned())
                };
                let all =
                    SETTINGS.iter().chain(FIXED).map(|(name, first)| (*name, value(name, first)));
                let asked = all.filter(|(name, _)| {
                    patterns.iter().any(|pattern| {
                        let pattern = String::from_utf8_lossy(pattern).to_ascii_lowercase();
                        match pattern.strip_suffix('*') {
                            Some(start) => name.starts_with(start),
                            None => *name == pattern,
                        }
                    })
                });
                Ok(map(asked.map(|(name, value)| (name, Reply::bulk(value)))))
            }
            (b"SET", pairs) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                let mut settings = self.watch.settings.clone();
                for pair in pairs.chunks_exact(2) {
                    let name = String::from_utf8_lossy(pair[0]).to_ascii_lowercase();
                    let value = String::from_utf8_lossy(pair[1]).into_owned();
                    settings.insert(known(&name, pair[0])?, checked(&name, value)?);
                }
                self.watch.settings = settings;
                Ok(Reply::ok())
            }
            (b"REWRITE", []) => {
                self.watch.kept = self.watch.settings.clone();
                Ok(Reply::ok())
            }
            (b"RESETSTAT", []) => Ok(Reply::ok()),
            (b"HELP", []) => help("CONFIG"),
            (b"SET" | b"REWRITE" | b"RESETSTAT" | b"HELP", _) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }

    /// What CONFIG REWRITE did not keep is as it was at first.
    pub(super) fn scrub_is_off(&self) -> bool {
        self.watch.settings.get("scrub-rate").is_some_and(|rate| rate == "0")
    }

    pub(super) fn setting(&self, name: &str) -> &str {
        let first =
            SETTINGS.iter().find(|(known, _)| *known == name).map_or("", |(_, first)| first);
        self.watch.settings.get(name).map_or(first, String::as_str)
    }

    pub(super) fn restart_settings(&mut self) {
        self.watch = Watch { kept: self.watch.kept.clone(), ..Watch::default() };
        self.watch.settings = self.watch.kept.clone();
    }

    fn slowlog(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        match (&subcommand(arguments)?[..], &arguments[2..]) {
            (b"LEN", []) => Ok(Reply::Integer(self.watch.slow.len() as i64)),
            (b"RESET", []) => {
                self.watch.slow.clear();
                Ok(Reply::ok())
            }
            (b"GET", rest) if rest.len() < 2 => {
                let count = match rest {
                    [word] => std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()),
                    _ => Some(10),
                };
                let count = match count {
                    Some(-1) => usize::MAX,
                    Some(count @ 0..) => count as usize,
                    _ => return Err("count should be greater than or equal to -1"),
                };
                let entry = |words: &Vec<Bytes>| {
                    let words = words.iter().map(|word| Reply::Bulk(word.clone())).collect();
                    let number = || Reply::Integer(0);
                    let name = || Reply::bulk("");
                    Reply::Array(vec![
                        number(),
                        Reply::Integer(self.now.as_secs() as i64),
                        number(),
                        Reply::Array(words),
                        Reply::bulk("model:1"),
                        name(),
                    ])
                };
                Ok(Reply::Array(self.watch.slow.iter().take(count).map(entry).collect()))
            }
            (b"HELP", []) => help("SLOWLOG"),
            (b"LEN" | b"RESET" | b"GET" | b"HELP", _) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }

    /// The model takes no time for anything, but each command was called once.
    fn latency(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        match (&subcommand(arguments)?[..], &arguments[2..]) {
            (b"HISTOGRAM", names) => {
                let all: Vec<String> =
                    Model::command_names().map(str::to_ascii_lowercase).collect();
                let asked = all.iter().filter(|name| {
                    names.iter().any(|given| given.eq_ignore_ascii_case(name.as_bytes()))
                });
                Ok(map(asked.map(|name| {
                    let steps = Reply::Map(vec![(Reply::Integer(1), Reply::Integer(1))]);
                    let fields = [("calls", Reply::Integer(1)), ("histogram_usec", steps)];
                    (name.as_str(), map(fields))
                })))
            }
            (b"LATEST", []) | (b"HISTORY", [_]) => Ok(Reply::Array(Vec::new())),
            (b"RESET", _) => Ok(Reply::Integer(0)),
            (b"HELP", []) => help("LATENCY"),
            (b"LATEST" | b"HISTORY" | b"HELP", _) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }

    fn command(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        let names: Vec<String> = Model::command_names().map(str::to_ascii_lowercase).collect();
        let entry = |name: &String| {
            let none = || Reply::Array(Vec::new());
            let number = Reply::Integer;
            Reply::Array(vec![
                Reply::bulk(name),
                number(-1),
                none(),
                number(0),
                number(0),
                number(0),
                none(),
            ])
        };
        let asked =
            |given: &&[u8]| names.iter().find(|name| given.eq_ignore_ascii_case(name.as_bytes()));
        if arguments.len() == 1 {
            return Ok(Reply::Array(names.iter().map(entry).collect()));
        }
        match (&subcommand(arguments)?[..], &arguments[2..]) {
            (b"INFO", []) => Ok(Reply::Array(names.iter().map(entry).collect())),
            (b"COUNT", []) => Ok(Reply::Integer(names.len() as i64)),
            (b"LIST", []) => Ok(Reply::Array(names.iter().map(Reply::bulk).collect())),
            (b"LIST", [filter, pattern, given])
                if filter.eq_ignore_ascii_case(b"FILTERBY")
                    && pattern.eq_ignore_ascii_case(b"PATTERN") =>
            {
                let given = String::from_utf8_lossy(given).into_owned();
                Ok(Reply::Array(
                    names.iter().filter(|name| **name == given).map(Reply::bulk).collect(),
                ))
            }
            (b"INFO", given) => Ok(Reply::Array(
                given.iter().map(|given| asked(given).map_or(Reply::Nil, entry)).collect(),
            )),
            (b"DOCS", given) => {
                let all = given.is_empty();
                let listed = names
                    .iter()
                    .filter(|name| all || given.iter().any(|given| asked(given) == Some(name)));
                Ok(map(listed.map(|name| (name.as_str(), docs(name)))))
            }
            (b"GETKEYS", [name, rest @ ..]) => {
                let step = match asked(name).map(String::as_str) {
                    None => return Err("Invalid command specified"),
                    Some("get") if rest.len() == 1 => 1,
                    Some("mget") if !rest.is_empty() => 1,
                    Some("mset") if !rest.is_empty() => 2,
                    Some("get" | "mget" | "mset") => {
                        return Err("Invalid number of arguments specified for command");
                    }
                    Some(_) => return Err("The command has no key arguments"),
                };
                Ok(Reply::Array(rest.iter().step_by(step).map(Reply::bulk).collect()))
            }
            (b"HELP", []) => help("COMMAND"),
            (b"COUNT" | b"LIST" | b"GETKEYS" | b"HELP", _) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }

    /// Notes a request in the slow log, where all are slow.
    pub(super) fn note_slow(&mut self, arguments: &[&[u8]]) {
        let slower_than = self.watch.settings.get("slowlog-log-slower-than");
        if slower_than.is_some_and(|us| us == "0") {
            let words = arguments.iter().map(|word| Bytes::copy_from_slice(word)).collect();
            self.watch.slow.insert(0, words);
        }
        let length = self.watch.settings.get("slowlog-max-len");
        self.watch.slow.truncate(length.map_or(128, |text| text.parse().unwrap_or(128)));
    }
}

/// What COMMAND DOCS says of one command; of its arguments only those of GET.
fn docs(name: &str) -> Reply {
    let key = map([("name", Reply::bulk("key")), ("type", Reply::bulk("key"))]);
    let arguments = (name == "get").then_some(("arguments", Reply::Array(vec![key])));
    map([("summary", Reply::bulk(name))].into_iter().chain(arguments))
}

/// A setting that can be changed.
fn known(name: &str, given: &[u8]) -> Result<&'static str, &'static str> {
    if let Some((known, _)) = SETTINGS.iter().find(|(known, _)| *known == name) {
        return Ok(known);
    }
    let fixed = FIXED.iter().any(|(known, _)| *known == name);
    let given = String::from_utf8_lossy(given).into_owned();
    Err(match name {
        "requirepass" => {
            "requirepass cannot be changed while the server runs (it is the flag --admin)"
        }
        _ if fixed => format!("{name} cannot be changed while the server runs").leak(),
        _ => format!("Unknown setting: {given}").leak(),
    })
}

/// A value as CONFIG GET shows it.
fn checked(name: &str, value: String) -> Result<String, &'static str> {
    let number: Option<u64> = value.parse().ok();
    let error = match name {
        "appendfsync" if matches!(&*value, "always" | "everysec" | "no") => return Ok(value),
        "appendfsync" => "takes always, everysec or no",
        "loglevel" => match &*value {
            "debug" | "verbose" => return Ok("verbose".into()),
            "notice" | "warning" => return Ok("notice".into()),
            _ => "takes debug, verbose, notice or warning",
        },
        "cleaner" if matches!(&*value, "yes" | "no") => return Ok(value),
        "cleaner" => "takes yes or no",
        "cache" | "cleaner-rate" | "maxsize" | "scrub-rate" => {
            match value.strip_suffix('M').map(str::parse::<u64>) {
                Some(Ok(mib)) => return Ok((mib << 20).to_string()),
                _ if number.is_some() => return Ok(value),
                _ => "takes a number of bytes, with an optional suffix k, M, G or T",
            }
        }
        "maxclients" if number.is_some_and(|count| count > 1_000_000) => {
            return Err(
                "maxclients can be 10000 at most: raise the limit of open files (ulimit -n)",
            );
        }
        "maxclients" if number.is_some_and(|count| count > 0) => return Ok(value),
        "maxclients" => "takes a number from 1 on",
        "slowlog-log-slower-than" if value.parse::<i64>().is_ok() => return Ok(value),
        "slowlog-log-slower-than" => {
            "takes a number of microseconds; 0 for all requests, -1 for none"
        }
        "slowlog-max-len" if number.is_some_and(|count| count > 65536) => {
            "takes a number of at most 65536"
        }
        "min-replicas-to-write" if number.is_some_and(|count| count > 16) => {
            "takes a number of at most 16"
        }
        "replica-announce-ip"
            if value.len() <= 255
                && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') =>
        {
            return Ok(value);
        }
        "replica-announce-ip" => "takes the name or the address of a host, or nothing",
        "replica-announce-port" if number.is_some_and(|port| port <= 65535) => return Ok(value),
        "replica-announce-port" => "takes a port, or 0 for that of the server",
        "nodes" if number.is_some_and(|count| count > 32) => "takes a number of at most 32",
        "replicaof" => "is changed by REPLICAOF",
        "scrub-days" if number.is_some_and(|days| days > 36500) => {
            "takes a number of days of at most 36500"
        }
        "rotate" | "timeout" if number.is_some_and(|seconds| seconds > i32::MAX as u64) => {
            "takes a number of seconds of at most 2147483647"
        }
        _ if number.is_some() => return Ok(value),
        _ => "takes a number from 0 on",
    };
    Err(format!("{name} {error}").leak())
}

/// The names that a client may have.
pub(super) fn check_client_name(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > CLIENT_NAME_BYTES_MAX {
        return Err("Argument too long");
    }
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err("Client names cannot contain spaces, newlines or special characters.");
    }
    Ok(())
}

/// The text of INFO; the model counts nothing.
const INFO: &str = "# server
server_name: 0-db (zdb)
server_revision: model
engine_revision: model
instance_id: 1
boot_time: 0
uptime: 0

# clients
clients_lifetime: 1

# internals
sequential_key_size: 8
data_version: 3
index_version: 4

# stats
commands_executed: 0
commands_failed: 0
commands_unauthorized: 0
index_disk_read_failed: 0
index_disk_write_failed: 0
data_disk_read_failed: 0
data_disk_write_failed: 0
index_disk_read_bytes: 0
index_disk_read_mb: 0.00
index_disk_write_bytes: 0
index_disk_write_mb: 0.00
data_disk_read_bytes: 0
data_disk_read_mb: 0.00
data_disk_write_bytes: 0
data_disk_write_mb: 0.00
network_rx_bytes: 0
network_rx_mb: 0.00
network_tx_bytes: 0
network_tx_mb: 0.00
# scrub
scrub_running: 0
scrub_position: 0
scrub_due: 0
";

/// Redis's sections.
const REDIS_INFO: &str = "
# Server
redis_version:7.4.0
run_id:0123456789012345678901234567890123456789
zdb_version:0.1.0
redis_mode:standalone
process_id:1
tcp_port:1
uptime_in_seconds:0

# Clients
connected_clients:1
maxclients:10000
blocked_clients:0

# Memory
used_memory:0
used_memory_human:0B
used_memory_rss:0
maxmemory:0

# Persistence
loading:0
rdb_bgsave_in_progress:0
aof_enabled:1
aof_rewrite_in_progress:0
aof_last_write_status:ok

# Stats
total_connections_received:1
total_commands_processed:0
instantaneous_ops_per_sec:0
keyspace_hits:0
keyspace_misses:0

# Replication
role:master
connected_slaves:0
master_repl_offset:0

# CPU
used_cpu_sys:0.000000
used_cpu_user:0.000000

# Commandstats
cmdstat_info:calls=1,usec=1,usec_per_call=1.00,rejected_calls=0,failed_calls=0

# Latencystats
latency_percentiles_usec_info:p50=1.000,p99=1.000,p99.9=1.000

# Cluster
cluster_enabled:0

# Keyspace
";
