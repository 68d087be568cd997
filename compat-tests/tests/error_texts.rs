//! Every error text, of the server and of 0-db, has a case: in a transcript, or in a test that is named.

use compat_tests::server::workspace_dir;
use compat_tests::transcript::{Action, load_all};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where the server's error texts are written.
const SOURCES: &[&str] =
    &["zdb/src/command", "zdb/src/hub", "zdb/src/hub.rs", "zdb/src/resp", "zdb/src/output.rs"];
/// Their sentences are lines for the operator, about masters and replicas; summaries, for COMMAND DOCS; the lines of HELP; reasons why a command of Redis is not
/// there, of which ping.txt has one of each form; and what the metrics are.
const NO_SOURCES: &[&str] = &[
    "zdb/src/command/table.rs",
    "zdb/src/command/help.rs",
    "zdb/src/command/refused.rs",
    "zdb/src/hub/metrics.rs",
    "zdb/src/hub/replication/feeding.rs",
    "zdb/src/hub/replication/link.rs",
    "zdb/src/hub/replication/receiving.rs",
];

/// Sentences in these sources that no client gets.
const NO_ERRORS: &[&str] = &[
    "line {}: {text}",
    "unknown setting: {name}",
    "has a damaged head",
    "cannot write the file {:?} to the data directory: {error}; replication waits for it",
    "before term {number} begins, the end of the log is taken from {from}",
    "term {number} begins: this server is the master",
    "term {} does not begin: of those who agree some began anew and have not yet what they had, so another server is waited for, which has it",
    "OK Already connected to specified master",
    "replica {host} {port} acknowledges position {position} and was sent the log up to {sent}: it is let go",
    "no one",
    "{} takes a host and a port, or no one",
];

/// Texts that no transcript can provoke: the text, or how it begins before `...`; why; the file and the name of
/// the test that does.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    (
        "Malformed request, array expected",
        BYTES,
        "requests",
        "malformed_requests_are_refused_and_closed",
    ),
    ("Malformed request, header line too long", BYTES, "requests", "endless_lines_are_closed"),
    ("Malformed query string", BYTES, "requests", "malformed_requests_are_refused_and_closed"),
    ("Internal memory error", BYTES, "requests", "malformed_requests_are_refused_and_closed"),
    ("Payload too big", BYTES, "requests", "the_header_is_enough_to_refuse"),
    ("Too big inline request", BYTES, "requests", "endless_lines_are_closed"),
    ("Unbalanced quotes in request", BYTES, "requests", "inline_commands"),
    ("Cannot write data right now", DISK, "regressions", "a_broken_log_refuses_every_change"),
    ("Cannot delete key (data)", DISK, "regressions", "a_broken_log_refuses_every_change"),
    ("Could not create namespace", DISK, "regressions", "a_broken_log_refuses_every_change"),
    ("Could not delete this namespace", DISK, "regressions", "a_broken_log_refuses_every_change"),
    ("Internal Server Error", DISK, "regressions", "a_broken_log_refuses_every_change"),
    ("Rewriting config file: {error}", DISK, "watch", "settings_are_kept"),
    (
        "max number of clients reached",
        "it comes without a request",
        "doors",
        "as_many_clients_as_allowed",
    ),
    (
        "DENIED zdb is running in protected mode...",
        "it takes an address that is not loopback",
        "doors",
        "strangers_are_told_to_use_a_password",
    ),
    (
        "a replica asks once for the log",
        "it takes a replica",
        "replication_wire",
        "a_master_says_what_a_replica_may_not_say",
    ),
    (
        "a server cannot copy itself",
        "it takes a replica",
        "replication_wire",
        "a_master_says_what_a_replica_may_not_say",
    ),
    (
        "Too many unfinished requests on all connections, try again later",
        BYTES,
        "connections",
        "unfinished_requests_share_a_limit",
    ),
    (
        "Too many {what} on one connection (at most {count_max})",
        MANY,
        "pubsub",
        "names_have_limits",
    ),
    (
        "Too many {what} on all connections together (at most {total_max})",
        MANY,
        "pubsub",
        "names_have_limits",
    ),
    (
        "Too many requests in one MULTI (at most {TRANSACTION_REQUESTS_MAX})",
        MANY,
        "pubsub",
        "a_transaction_has_a_limit",
    ),
    (
        "two servers with different logs cannot agree on a master: empty one of them first",
        "it takes two servers",
        "replication",
        "servers_with_different_logs_do_not_agree",
    ),
    (
        "NOMASTERLINK Can't SYNC while not connected with my master",
        "it takes two servers",
        "replication",
        "two_that_follow_each_other_lose_nothing",
    ),
    (
        "this server is being copied anew itself, and has nothing for others yet",
        "it takes a copy that began anew",
        "replication_wire",
        "half_a_copy_is_nobodys_master",
    ),
    (
        "as many servers as --nodes says have this log already",
        "it takes replicas",
        "replication",
        "a_write_waits_for_replicas_where_it_has_to",
    ),
    (
        "Unexpected Internal Error",
        "it takes an offset inside a record",
        "files",
        "a_raw_record_is_the_same_wherever_it_lies",
    ),
    (
        "Internal Error (the segment is away)",
        "it takes a file that was moved away",
        "offload",
        "what_stays_away_is_an_error_and_comes_back_later",
    ),
    (
        "Internal Error",
        "it takes damage on the disk",
        "crash",
        "a_flipped_byte_is_found_and_reported",
    ),
];
const BYTES: &str = "a transcript sends requests, not bytes";
const MANY: &str = "it takes very many requests";
const DISK: &str = "it takes a disk that fails";

/// What 0-db 2.0.7 answers, beside what a success is answered.
const ZERO_DB: &[&str] = &[
    "Malformed request, array expected",
    "Missing arguments",
    "Too many arguments",
    "Malformed query string",
    "Payload too big",
    "Internal memory error",
    "Command not supported",
    "This is not a valid command",
    "Unexpected arguments",
    "Invalid argument",
    "Invalid arguments",
    "Argument too long",
    "Permission denied",
    "Unauthorized",
    "Your active namespace is not available anymore (probably removed).",
    "Namespace is temporarily locked (read-only)",
    "Namespace is temporarily frozen (read-write disabled)",
    "Namespace is in read-only mode",
    "Namespace is protected by worm mode",
    "Cannot delete a key when namespace is in worm mode",
    "No space left on this namespace",
    "Key too large",
    "Invalid key",
    "Invalid argument, key needed",
    "Invalid key, only update authorized",
    "Cannot write data right now",
    "Cannot write index right now",
    "Key not found",
    "Cannot delete key (data)",
    "Cannot delete key (index)",
    "Internal Error",
    "No more data",
    "Invalid key format",
    "No keys match",
    "Index running mode doesn't support this feature",
    "Command disabled in release code, not yet available",
    "No more history",
    "Invalid arguments (index query)",
    "Invalid arguments (invalid key)",
    "Unknown command to watch",
    "Invalid timeout",
    "Timeout",
    "Authentication disabled",
    "Password too long",
    "Access denied",
    "Only SECURE extra method supported",
    "Invalid hash length",
    "No CHALLENGE requested, secure authentication not available",
    "Internal generator error",
    "Namespace too long",
    "Namespace not found",
    "Namespace protected and private",
    "This name is not allowed",
    "This namespace is not available",
    "Could not create namespace",
    "Cannot remove default namespace",
    "This namespace doesn't exists",
    "Could not delete this namespace",
    "Cannot remove namespace you're currently using.",
    "Cannot update default namespace",
    "Invalid property",
    "Invalid property value (expected: user, seq)",
    "Cannot change mode of used namespace",
    "This server instance is configured to use a single runtime mode",
    "Flushing public namespace denied",
    "Internal Server Error",
    "Unknown INDEX subcommand",
    "Unknown INDEX DIRTY subcommand",
    "Unknown DATA subcommand",
    "EOF",
    "Unexpected Internal Error",
    "Invalid Request",
    "Internal Memory Error",
];

/// 0-db's texts that this server has no cause to send, and why.
const NEVER: &[(&str, &str)] = &[
    (
        "Cannot write index right now",
        "the index is made from the log, which is all that is written",
    ),
    ("Cannot delete key (index)", "the index is made from the log, which is all that is written"),
    ("Command disabled in release code, not yet available", "KSCAN is there"),
    (
        "Internal generator error",
        "random bytes come from the kernel, which does not run out of them",
    ),
    ("Internal Memory Error", "no reply takes memory that is not there: a server without it ends"),
];

#[test]
fn every_error_text_of_the_server_has_a_case() {
    let cases = cases();
    let mut missing = Vec::new();
    for (text, place) in texts_of_the_server() {
        if NO_ERRORS.contains(&text.as_str()) || is_elsewhere(&text) {
            continue;
        }
        if !cases.iter().any(|case| is_made_by(case, &text)) {
            missing.push(format!("{place}: {text}"));
        }
    }
    assert!(missing.is_empty(), "no transcript has these:\n{}", missing.join("\n"));
}

#[test]
fn every_error_text_of_0_db_has_a_case() {
    let cases = cases();
    let missing: Vec<&&str> = ZERO_DB
        .iter()
        .filter(|text| {
            !cases.iter().any(|case| case == *text)
                && !is_elsewhere(text)
                && !NEVER.iter().any(|(never, _)| never == *text)
        })
        .collect();
    assert!(missing.is_empty(), "no transcript has these: {missing:#?}");
}

/// The lists above say nothing that is not so.
#[test]
fn the_exceptions_hold() {
    let (cases, texts) = (cases(), texts_of_the_server());
    for (text, reason, file, test) in ELSEWHERE {
        assert!(!cases.iter().any(|case| case == text), "{text}: a transcript has it ({reason})");
        assert!(
            texts.keys().any(|said| is_named(said, text)),
            "{text}: the server does not say that"
        );
        let path = workspace_dir().join("compat-tests/tests").join(file).with_extension("rs");
        let source = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(source.contains(&format!("fn {test}()")), "{text}: {file}.rs has no test {test}");
    }
    for text in NO_ERRORS {
        assert!(texts.contains_key(*text), "{text}: the server does not say that any more");
    }
    for (text, reason) in NEVER {
        assert!(!texts.contains_key(*text), "{text}: the server does say that ({reason})");
    }
}

fn is_elsewhere(text: &str) -> bool {
    ELSEWHERE.iter().any(|(elsewhere, ..)| is_named(text, elsewhere))
}

/// Whether a name is a text, or its beginning.
fn is_named(text: &str, name: &str) -> bool {
    match name.strip_suffix("...") {
        Some(beginning) => text.starts_with(beginning),
        None => text == name,
    }
}

/// The texts of all errors that a transcript expects.
fn cases() -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for transcript in load_all() {
        for step in transcript.cases.iter().flat_map(|case| &case.steps) {
            if let Action::Expect(pattern) | Action::Pushed { pattern, .. } = &step.action {
                texts.extend(pattern.errors().iter().map(|text| text.source().to_owned()));
            }
        }
    }
    texts
}

/// Whether a text can come from a format string: its parts between the braces, in their order.
fn is_made_by(text: &str, format: &str) -> bool {
    let parts: Vec<&str> =
        format.split('{').map(|part| part.split_once('}').map_or(part, |(_, part)| part)).collect();
    let [first, middle @ .., last] = &parts[..] else { return text == format };
    let Some(mut rest) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else {
        return false;
    };
    middle.iter().all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// The texts in the sources of the server, with the place of the first use of each.
///
/// A string literal counts where it is handed to `error` or `Err`, and wherever it reads like a sentence:
/// several words, the first one of letters. What a panic would say does not count.
fn texts_of_the_server() -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for source in SOURCES {
        collect(&workspace_dir().join(source), &mut texts);
    }
    assert!(texts.len() > 50, "the scan has found the texts");
    texts
}

fn collect(path: &Path, texts: &mut BTreeMap<String, String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory of sources") {
            collect(&entry.expect("an entry").path(), texts);
        }
        return;
    }
    let name = path.strip_prefix(workspace_dir()).expect("it lies there").to_string_lossy();
    if path.extension().is_none_or(|extension| extension != "rs") || NO_SOURCES.contains(&&*name) {
        return;
    }
    let source =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let source = source.split("#[cfg(test)]\nmod tests").next().expect("a first part");
    for (line, before, text) in literals(source) {
        if is_error_text(&before, &text) {
            texts.entry(text).or_insert_with(|| format!("{name}:{line}"));
        }
    }
}

fn is_error_text(before: &str, text: &str) -> bool {
    let before = before.trim_end();
    let statement = before.rsplit([';', '{', '}']).next().unwrap_or_default();
    let panics = ["expect(", "panic!(", "unreachable!("].iter().any(|call| before.ends_with(call))
        || statement.contains("assert");
    if panics || before.ends_with("simple(") || text.is_empty() {
        return false;
    }
    let is_handed_over = ["error(", "error(out,", "Err(", "refuse("]
        .iter()
        .any(|call| before.ends_with(call) || before.ends_with(&format!("{call} &format!(")));
    let mut words = text.split(' ');
    let first = words.next().unwrap_or_default().trim_end_matches(',');
    let is_sentence = words.next().is_some()
        && !first.is_empty()
        && first.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_handed_over || is_sentence
}

/// The string literals of a source: the line, the code before it, the text.
fn literals(source: &str) -> Vec<(usize, String, String)> {
    let mut literals = Vec::new();
    let mut code = String::new();
    let mut line = 1;
    let mut signs = source.chars().peekable();
    while let Some(sign) = signs.next() {
        line += usize::from(sign == '\n');
        match sign {
            '/' if signs.peek() == Some(&'/') => {
                while signs.next_if(|&sign| sign != '\n').is_some() {}
            }
            // A quote as a character, not the beginning of a string.
            '\'' if signs.peek() == Some(&'"') => {
                signs.next();
            }
            '"' => {
                let (start, is_bytes) = (line, code.ends_with('b'));
                let mut text = String::new();
                while let Some(sign) = signs.next_if(|&sign| sign != '"') {
                    line += usize::from(sign == '\n');
                    match (sign, signs.peek()) {
                        ('\\', Some('\n')) => {
                            while signs.next_if(|sign| sign.is_whitespace()).is_some() {}
                        }
                        ('\\', _) => text.extend(signs.next()),
                        _ => text.push(sign),
                    }
                }
                signs.next();
                if !is_bytes {
                    literals.push((start, code.clone(), text));
                }
                code.push_str("\"\"");
            }
            _ => code.push(sign),
        }
    }
    literals
}
