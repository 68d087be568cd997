//! Settings that can change while the server runs. Flags give them at the start, then `zdb.conf` those
//! that no flag gave, then CONFIG SET; CONFIG REWRITE keeps them in `zdb.conf`.

use super::replication::{Address, is_host};
use crate::engine::log::Policy;
use crate::limits::{CLEANER_RATE_BYTES, MIN_REPLICAS_MAX, SCRUB_DAYS_MAX, SLOWLOG_ENTRIES_MAX};

/// Lines of `zdb.conf` before the settings.
const FILE_HEAD: &str = "\
# Settings that CONFIG REWRITE kept: a name and a value in each line. Flags of the command line win over them.
";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which a client is let go, in seconds; 0: never.
    pub timeout_s: u64,
    /// Most clients that are served at once.
    pub clients_max: u64,
    /// Requests that take this long and longer enter the slow log, in microseconds; negative: none.
    pub slowlog_slower_than_us: i64,
    pub slowlog_entries_max: usize,
    /// What takes this long and longer is an event for LATENCY, in milliseconds; 0: nothing is.
    pub latency_threshold_ms: u64,
    /// When a write is acknowledged.
    pub policy: Policy,
    /// Time between two flushes where the policy is to flush at times, in milliseconds.
    pub sync_period_ms: u64,
    /// Memory for records that were read, in bytes; 0: none.
    pub cache_bytes: u64,
    /// Live payload bytes that `default` may hold during this run; 0: no limit.
    pub default_bytes_max: u64,
    /// Seconds after which a written data file is closed and the next begun; 0: never.
    pub rotate_s: u64,
    /// Whether space that nobody needs is given back, and how many bytes of segments the cleaner works through
    /// in a second for that; 0: as fast as it can.
    pub cleaner: bool,
    pub cleaner_rate_bytes: u64,
    /// Bytes a second that the scrub reads; 0: it is off.
    pub scrub_rate: u64,
    /// Days from one pass of the scrub to the next; 0: none begins by itself.
    pub scrub_days: u64,
    /// Whether there are more log lines.
    pub verbose: bool,
    /// Whom the server follows: empty where nobody said, `no one`, or host and port.
    pub replica_of: String,
    /// Replicas that must have a write before it is acknowledged, and servers that have the log, this one
    /// included; 0: twice as many as that and one.
    pub min_replicas: usize,
    pub nodes: usize,
    /// For Sentinel: the lowest is taken first, 0 never.
    pub replica_priority: u32,
    /// Where masters are told that this server can be reached; empty and 0: where they see it, and its own port.
    pub announce_host: String,
    pub announce_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout_s: 0,
            clients_max: 10_000,
            slowlog_slower_than_us: 10_000,
            slowlog_entries_max: 128,
            latency_threshold_ms: 0,
            policy: Policy::Every { period_ms: 1000 },
            sync_period_ms: 1000,
            cache_bytes: 256 << 20,
            default_bytes_max: 0,
            rotate_s: 0,
            cleaner: true,
            cleaner_rate_bytes: CLEANER_RATE_BYTES,
            scrub_rate: 4 << 20,
            scrub_days: 0,
            verbose: false,
            replica_of: String::new(),
            min_replicas: 0,
            nodes: 0,
            replica_priority: 100,
            announce_host: String::new(),
            announce_port: 0,
        }
    }
}

/// One setting under its name.
pub struct Setting {
    pub name: &'static str,
    /// The flags that give it, by their long names.
    pub flags: &'static [&'static str],
    pub get: fn(&Settings) -> String,
    /// Takes a value, or says what it takes.
    set: fn(&mut Settings, &str) -> Result<(), &'static str>,
}

const NUMBER: &str = "{} takes a number from 0 on";
const SIZE: &str = "{} takes a number of bytes, with an optional suffix k, M, G or T";

pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "appendfsync",
        flags: &["sync", "synctime"],
        get: |settings| policy_name(settings.policy).into(),
        set: |settings, value| {
            settings.policy = match value {
                "always" => Policy::Always,
                "everysec" => Policy::Every { period_ms: settings.sync_period_ms },
                "no" => Policy::No,
                _ => return Err("{} takes always, everysec or no"),
            };
            Ok(())
        },
    },
    Setting {
        name: "cache",
        flags: &["cache"],
        get: |settings| settings.cache_bytes.to_string(),
        set: |settings, value| size(value).map(|given| settings.cache_bytes = given),
    },
    Setting {
        name: "cleaner",
        flags: &["cleaner"],
        get: |settings| if settings.cleaner { "yes" } else { "no" }.into(),
        set: |settings, value| {
            settings.cleaner = match value {
                "yes" => true,
                "no" => false,
                _ => return Err("{} takes yes or no"),
            };
            Ok(())
        },
    },
    Setting {
        name: "cleaner-rate",
        flags: &["cleaner-rate"],
        get: |settings| settings.cleaner_rate_bytes.to_string(),
        set: |settings, value| size(value).map(|given| settings.cleaner_rate_bytes = given),
    },
    Setting {
        name: "latency-monitor-threshold",
        flags: &[],
        get: |settings| settings.latency_threshold_ms.to_string(),
        set: |settings, value| number(value).map(|given| settings.latency_threshold_ms = given),
    },
    Setting {
        name: "loglevel",
        flags: &["verbose"],
        get: |settings| if settings.verbose { "verbose" } else { "notice" }.into(),
        set: |settings, value| {
            settings.verbose = match value {
                "debug" | "verbose" => true,
                "notice" | "warning" => false,
                _ => return Err("{} takes debug, verbose, notice or warning"),
            };
            Ok(())
        },
    },
    Setting {
        name: "maxclients",
        flags: &["maxclients"],
        get: |settings| settings.clients_max.to_string(),
        set: |settings, value| {
            settings.clients_max = value
                .parse()
                .ok()
                .filter(|count| *count > 0)
                .ok_or("{} takes a number from 1 on")?;
            Ok(())
        },
    },
    Setting {
        name: "maxsize",
        flags: &["maxsize"],
        get: |settings| settings.default_bytes_max.to_string(),
        set: |settings, value| size(value).map(|given| settings.default_bytes_max = given),
    },
    Setting {
        name: "rotate",
        flags: &["rotate"],
        get: |settings| settings.rotate_s.to_string(),
        set: |settings, value| {
            settings.rotate_s = Some(number(value)?)
                .filter(|seconds| *seconds <= SECONDS_MAX)
                .ok_or("{} takes a number of seconds of at most 2147483647")?;
            Ok(())
        },
    },
    Setting {
        name: "scrub-days",
        flags: &["scrub-days"],
        get: |settings| settings.scrub_days.to_string(),
        set: |settings, value| {
            settings.scrub_days = Some(number(value)?)
                .filter(|days| *days <= SCRUB_DAYS_MAX)
                .ok_or("{} takes a number of days of at most 36500")?;
            Ok(())
        },
    },
    Setting {
        name: "scrub-rate",
        flags: &["scrub-rate"],
        get: |settings| settings.scrub_rate.to_string(),
        set: |settings, value| size(value).map(|given| settings.scrub_rate = given),
    },
    Setting {
        name: "min-replicas-to-write",
        flags: &["min_replicas"],
        get: |settings| settings.min_replicas.to_string(),
        set: |settings, value| {
            settings.min_replicas = Some(number(value)? as usize)
                .filter(|count| *count <= MIN_REPLICAS_MAX)
                .ok_or("{} takes a number of at most 16")?;
            Ok(())
        },
    },
    Setting {
        name: "nodes",
        flags: &["nodes"],
        get: |settings| settings.nodes.to_string(),
        set: |settings, value| {
            settings.nodes = Some(number(value)? as usize)
                .filter(|count| *count <= 2 * MIN_REPLICAS_MAX)
                .ok_or("{} takes a number of at most 32")?;
            Ok(())
        },
    },
    Setting {
        name: "replica-announce-ip",
        flags: &["replica_announce_ip"],
        get: |settings| settings.announce_host.clone(),
        set: |settings, value| {
            if !value.is_empty() && !is_host(value) {
                return Err("{} takes the name or the address of a host, or nothing");
            }
            settings.announce_host = value.into();
            Ok(())
        },
    },
    Setting {
        name: "replica-announce-port",
        flags: &["replica_announce_port"],
        get: |settings| settings.announce_port.to_string(),
        set: |settings, value| {
            settings.announce_port =
                value.parse().map_err(|_| "{} takes a port, or 0 for that of the server")?;
            Ok(())
        },
    },
    Setting {
        name: "replica-priority",
        flags: &["replica_priority"],
        get: |settings| settings.replica_priority.to_string(),
        set: |settings, value| {
            settings.replica_priority = value.parse().map_err(|_| NUMBER)?;
            Ok(())
        },
    },
    // What a client or Sentinel said later counts for more than the command line.
    Setting {
        name: "replicaof",
        flags: &[],
        get: |settings| settings.replica_of.clone(),
        set: |settings, value| {
            let is_known = value.is_empty() || value == "no one" || Address::parse(value).is_some();
            if !is_known {
                return Err("{} takes a host and a port, or no one");
            }
            settings.replica_of = value.into();
            Ok(())
        },
    },
    Setting {
        name: "slowlog-log-slower-than",
        flags: &[],
        get: |settings| settings.slowlog_slower_than_us.to_string(),
        set: |settings, value| {
            settings.slowlog_slower_than_us = value.parse().map_err(
                |_| "{} takes a number of microseconds; 0 for all requests, -1 for none",
            )?;
            Ok(())
        },
    },
    Setting {
        name: "slowlog-max-len",
        flags: &[],
        get: |settings| settings.slowlog_entries_max.to_string(),
        set: |settings, value| {
            settings.slowlog_entries_max = Some(number(value)? as usize)
                .filter(|count| *count <= SLOWLOG_ENTRIES_MAX)
                .ok_or("{} takes a number of at most 65536")?;
            Ok(())
        },
    },
    Setting {
        name: "timeout",
        flags: &["timeout"],
        get: |settings| settings.timeout_s.to_string(),
        set: |settings, value| {
            settings.timeout_s = Some(number(value)?)
                .filter(|seconds| *seconds <= SECONDS_MAX)
                .ok_or("{} takes a number of seconds of at most 2147483647")?;
            Ok(())
        },
    },
];

/// Most seconds that a setting takes.
const SECONDS_MAX: u64 = i32::MAX as u64;

const _: () = {
    assert!(SLOWLOG_ENTRIES_MAX == 65536, "as the text of slowlog-max-len says");
    assert!(SCRUB_DAYS_MAX == 36_500, "as the text of scrub-days says");
    assert!(SECONDS_MAX == 2147483647, "as the texts of rotate and timeout say");
};

pub fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Always => "always",
        Policy::Every { .. } => "everysec",
        Policy::No => "no",
    }
}

pub fn find(name: &[u8]) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name.as_bytes().eq_ignore_ascii_case(name))
}

impl Settings {
    /// Servers that have the log, this one included.
    pub fn nodes(&self) -> usize {
        if self.nodes == 0 { 2 * self.min_replicas + 1 } else { self.nodes }
    }

    /// Sets what is named, or says what is wrong with the value.
    pub fn set(&mut self, setting: &Setting, value: &str) -> Result<(), String> {
        (setting.set)(self, value.trim()).map_err(|text| text.replace("{}", setting.name))
    }

    /// What `zdb.conf` is to hold: all that is not as it is by itself.
    pub fn to_file(&self) -> String {
        let usual = Self { sync_period_ms: self.sync_period_ms, ..Self::default() };
        let lines = SETTINGS
            .iter()
            .filter(|setting| (setting.get)(self) != (setting.get)(&usual))
            .map(|setting| format!("{} {}\n", setting.name, (setting.get)(self)));
        FILE_HEAD.chars().chain(lines.flat_map(|line| line.chars().collect::<Vec<_>>())).collect()
    }

    /// Takes what such a file holds, but for the settings that flags gave.
    pub fn apply_file(
        &mut self,
        text: &str,
        is_given: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = |text: String| format!("line {}: {text}", at + 1);
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let setting =
                find(name.as_bytes()).ok_or_else(|| place(format!("unknown setting: {name}")))?;
            let mut given = self.clone();
            given.set(setting, value).map_err(place)?;
            if !setting.flags.iter().any(|flag| is_given(flag)) {
                *self = given;
            }
        }
        Ok(())
    }
}

fn number(value: &str) -> Result<u64, &'static str> {
    value.parse().map_err(|_| NUMBER)
}

/// As flags take sizes, and with Redis's lower-case suffixes too.
fn size(value: &str) -> Result<u64, &'static str> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'k' | b'K') => (&value[..value.len() - 1], 10),
        Some(b'm' | b'M') => (&value[..value.len() - 1], 20),
        Some(b'g' | b'G') => (&value[..value.len() - 1], 30),
        Some(b't' | b'T') => (&value[..value.len() - 1], 40),
        _ => (value, 0),
    };
    let number: u64 = digits.parse().map_err(|_| SIZE)?;
    number.checked_mul(1 << shift).ok_or(SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let mut settings = Settings::default();
        assert_eq!(settings.to_file(), FILE_HEAD);
        for (name, value) in [
            ("appendfsync", "always"),
            ("cache", "1048576"),
            ("cleaner", "no"),
            ("cleaner-rate", "1000"),
            ("latency-monitor-threshold", "5"),
            ("loglevel", "verbose"),
            ("maxclients", "7"),
            ("maxsize", "1024"),
            ("min-replicas-to-write", "1"),
            ("nodes", "3"),
            ("replica-announce-ip", "203.0.113.7"),
            ("replica-announce-port", "9907"),
            ("replica-priority", "7"),
            ("replicaof", "10.0.0.1 9900"),
            ("rotate", "60"),
            ("scrub-days", "7"),
            ("scrub-rate", "2097152"),
            ("slowlog-log-slower-than", "-1"),
            ("slowlog-max-len", "3"),
            ("timeout", "9"),
        ] {
            settings.set(find(name.as_bytes()).unwrap(), value).unwrap();
        }
        let text = settings.to_file();
        assert_eq!(text.lines().count(), 1 + SETTINGS.len());
        let mut again = Settings::default();
        again.apply_file(&text, |_| false).unwrap();
        assert_eq!(again, settings);
        let mut flags = Settings::default();
        flags.apply_file(&text, |flag| flag == "synctime").unwrap();
        assert_eq!((flags.policy, flags.timeout_s), (Settings::default().policy, 9));
    }

    #[test]
    fn a_wrong_file_says_where() {
        for (text, error) in [
            ("timeout", "line 1: timeout takes a number from 0 on"),
            ("# x\n\n nosuch 1", "line 3: unknown setting: nosuch"),
            ("cache 1G\nappendfsync maybe", "line 2: appendfsync takes always, everysec or no"),
            ("cache 99999999T", "line 1: cache takes a number of bytes"),
            ("maxclients 0", "line 1: maxclients takes a number from 1 on"),
        ] {
            let mut settings = Settings::default();
            let refused = settings.apply_file(text, |_| true).unwrap_err();
            assert!(refused.starts_with(error), "{text}: {refused}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("1k", 1 << 10), ("3m", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5G", "1kb", "\u{e9}", "99999999999999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
