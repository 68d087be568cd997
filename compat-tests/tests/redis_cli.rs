//! Redis's own programs against the server: redis-cli in all its modes, and redis-benchmark.

use compat_tests::certificates::text;
use compat_tests::checks::Checks;
use compat_tests::door::{Door, PASSWORD};
use compat_tests::program::{Running, finish, run, run_with};
use compat_tests::terminal::Terminal;
use compat_tests::{Reply, Server, args};
use std::process::Command;

/// The program with what it needs to get through the door, without a password.
fn program(name: &str, door: &Door) -> Command {
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &door.port().to_string()]);
    if let Some(authority) = door.authority() {
        command.args(["--tls", "--cacert", text(&authority)]);
    }
    command
}

/// redis-cli as the admin.
fn redis_cli(door: &Door) -> Command {
    let mut command = program("redis-cli", door);
    command.args(["--no-auth-warning", "-a", PASSWORD]);
    command
}

/// Both doors; what stands in a loop over them runs on TCP and on TLS.
fn doors() -> [Door; 2] {
    [Door::plain(), Door::tls()]
}

/// Keys `key0` to `key{count - 1}` with values `value0` and so on.
fn fill(door: &Door, count: usize) {
    let mut requests = Vec::new();
    for number in 0..count {
        compat_tests::client::encode(
            args!["SET", format!("key{number}"), format!("value{number}")],
            &mut requests,
        );
    }
    let printed = run_with(redis_cli(door).arg("--pipe"), &requests);
    assert!(printed.contains(&format!("errors: 0, replies: {count}")), "{printed}");
}

fn commands(door: &Door, protocol: &str) {
    let mut checks = Checks::of(format!("redis-cli {protocol}"));
    let cli = |words: &[&str]| run(redis_cli(door).arg(protocol).args(words));
    let mut same = |words: &[&str], expected: &str| {
        checks.same(&words.join(" "), cli(words), expected);
    };
    same(&["PING"], "PONG\n");
    same(&["SET", "key", "value with blanks"], "key\n");
    same(&["GET", "key"], "value with blanks\n");
    same(&["GET", "missing"], "\n");
    same(&["DEL", "missing"], "Key not found\n\n");
    same(&["EXISTS", "key"], "1\n");
    same(&["--no-raw", "MGET", "key", "missing"], "1) \"value with blanks\"\n2) (nil)\n");
    same(&["--csv", "MGET", "key", "missing"], "\"value with blanks\",NULL\n");
    same(&["--json", "MGET", "key", "missing"], "[\"value with blanks\",null]\n");
    let settings = match protocol {
        "-3" => "{\"databases\":\"1\"}\n",
        _ => "[\"databases\",\"1\"]\n",
    };
    same(&["--json", "CONFIG", "GET", "databases"], settings);
    same(&["--quoted-input", "SET", "\"\\x00\\xff\"", "\"\\r\\n\""], "\0\u{fffd}\n");
    same(&["--no-raw", "--quoted-input", "GET", "\"\\x00\\xff\""], "\"\\r\\n\"\n");
    same(&["-d", ",", "MGET", "key", "key"], "value with blanks,value with blanks\n");
    same(&["-n", "0", "GET", "key"], "value with blanks\n");
    same(&["-r", "3", "-i", "0.01", "PING"], "PONG\nPONG\nPONG\n");
    same(&["MSET", "a", "1", "b", "2"], "OK\n");
    same(&["--no-raw", "SET", "a", "3", "NX"], "(nil)\n");
    same(&["SET", "a", "3", "GET"], "1\n");
    same(&["UNLINK", "a", "b", "c"], "2\n");
    same(&["TYPE", "key"], "string\n");
    same(&["OBJECT", "ENCODING", "key"], "raw\n");
    same(&["NSNEW", "ns"], "OK\n");
    same(&["--no-raw", "NSLIST"], "1) \"default\"\n2) \"ns\"\n");
    same(&["NSDEL", "ns"], "OK\n");
    let refused = finish(redis_cli(door).args([protocol, "-e", "DEL", "missing"]), b"");
    checks.same("the exit status with -e", refused.status.code(), Some(1));
    checks.same("the error with -e", refused.stderr, "Key not found\n".to_owned());
    let unselected = finish(redis_cli(door).args([protocol, "-n", "7", "PING"]), b"");
    let error = unselected.text() + &unselected.stderr;
    checks.holds("-n 7", error.contains("Namespace not found"), || error.clone());
    checks.finish();
}

#[test]
fn one_command() {
    for protocol in ["-2", "-3"] {
        doors().iter().for_each(|door| commands(door, protocol));
    }
}

/// A URL, a user name, another connection, standard input as the last argument or as the commands.
fn ways_in(door: &Door, protocol: &str) {
    let mut checks = Checks::of(format!("redis-cli {protocol}"));
    let scheme = if door.authority().is_some() { "rediss" } else { "redis" };
    let port = door.port();
    for user in [format!("default:{PASSWORD}"), PASSWORD.to_owned()] {
        let mut command = Command::new("redis-cli");
        let url = format!("{scheme}://{user}@127.0.0.1:{port}/0");
        command.args([protocol, "--no-auth-warning", "-u", &url]);
        if let Some(authority) = door.authority() {
            command.args(["--cacert", text(&authority)]);
        }
        let listed = run(command.args(["CONFIG", "GET", "port"]));
        checks.holds(&url, listed.starts_with("port"), || listed.clone());
    }
    let user = ["--no-auth-warning", "--user", "default", "--pass", PASSWORD];
    let listed =
        run(program("redis-cli", door).args(user).args([protocol, "CONFIG", "GET", "port"]));
    checks.holds("--user", listed.starts_with("port"), || listed.clone());
    let environment = run(program("redis-cli", door)
        .env("REDISCLI_AUTH", PASSWORD)
        .args([protocol, "CONFIG", "GET", "port"]));
    checks.holds("REDISCLI_AUTH", environment.starts_with("port"), || environment.clone());
    let anybody = run(program("redis-cli", door).args([protocol, "NSNEW", "anybody"]));
    checks.same("no password", anybody.as_str(), "Permission denied\n\n");
    let wrong = finish(
        program("redis-cli", door).args([
            "--no-auth-warning",
            "-a",
            "wrong",
            protocol,
            "NSNEW",
            "anybody",
        ]),
        b"",
    );
    let wrong = wrong.text() + &wrong.stderr;
    checks.holds("a wrong password", wrong.contains("Permission denied"), || wrong.clone());

    let binary = b"\x00\xff\r\nlast line\n";
    let stored = run_with(redis_cli(door).args([protocol, "-x", "SET", "input"]), binary);
    checks.same("-x", stored.as_str(), "input\n");
    let got = finish(redis_cli(door).args([protocol, "GET", "input"]), b"");
    checks.same("GET of -x", got.stdout, [&binary[..], b"\n"].concat());
    let tagged = ["-X", "tag", "SET", "tagged", "tag"];
    checks.same("-X", run_with(redis_cli(door).arg(protocol).args(tagged), b"value"), "tagged\n");
    checks.same("GET of -X", run(redis_cli(door).args([protocol, "GET", "tagged"])), "value\n");

    // Commands one after another: redis-cli goes on after an error.
    let lines: String = (0..500).map(|number| format!("SET line{number} {number}\n")).collect();
    let lines = lines + "GET line499\nNOSUCHCOMMAND\n2 ECHO \"twice said\"\nSELECT 0\nPING\n";
    let printed = run_with(redis_cli(door).arg(protocol), lines.as_bytes());
    let end = "line499\n499\nCommand not supported\n\ntwice said\ntwice said\nOK\nPONG\n";
    checks.holds("commands on standard input", printed.ends_with(end), || printed.clone());
    checks.finish();
}

#[test]
fn other_ways_in() {
    for protocol in ["-2", "-3"] {
        doors().iter().for_each(|door| ways_in(door, protocol));
    }
}

/// What redis-cli needs for its own work has no place here: one clear line, and an end.
#[test]
fn modes_without_a_place_end_with_a_line() {
    let door = Door::plain();
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = text(script.path());
    let modes: [(&[&str], &str); 4] = [
        (&["--eval", path], "Command not supported (EVAL"),
        (&["--rdb", path], "Command not supported (SYNC"),
        (&["--replica"], "Command not supported (SYNC"),
        (&["--functions-rdb", path], "Unrecognized REPLCONF option: rdb-only"),
    ];
    let mut checks = Checks::of("redis-cli");
    for (words, expected) in modes {
        let ended = finish(redis_cli(&door).args(words), b"");
        let said = ended.text() + &ended.stderr;
        checks.holds(&words.join(" "), said.contains(expected), || said.clone());
    }
    checks.finish();
}

/// Data in bulk: `--pipe` ends its stream with an ECHO, and counts errors by their first byte.
#[test]
fn pipes() {
    for door in doors() {
        for protocol in ["-2", "-3"] {
            fill(&door, 20_000);
            let mut requests = Vec::new();
            compat_tests::client::encode(args!["DEL", "missing"], &mut requests);
            compat_tests::client::encode(args!["GET", "key1"], &mut requests);
            let ended = finish(redis_cli(&door).args([protocol, "--pipe"]), &requests);
            assert_eq!(ended.status.code(), Some(1), "an error in the stream is told");
            let printed = ended.text() + &ended.stderr;
            assert!(printed.contains("errors: 1, replies: 2"), "{printed}");
            assert!(printed.contains("Key not found"), "{printed}");
        }
        let mut client = door.server.connect();
        client.expect(args!["DBSIZE"], Reply::Integer(20_000));
        client.expect(args!["GET", "key19999"], Reply::bulk("value19999"));
    }
}

/// Commands as lines, which `--pipe` sends as they are.
#[test]
fn pipes_lines() {
    let door = Door::plain();
    let lines: String = (0..1000).map(|number| format!("SET line{number} \"a b\"\r\n")).collect();
    let printed = run_with(redis_cli(&door).arg("--pipe"), lines.as_bytes());
    assert!(printed.contains("errors: 0, replies: 1000"), "{printed}");
    door.server.connect().expect(args!["GET", "line999"], Reply::bulk("a b"));
}

fn walk(door: &Door, protocol: &str) {
    let mut checks = Checks::of(format!("redis-cli {protocol}"));
    let cli = |words: &[&str]| run(redis_cli(door).arg(protocol).args(words));
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut keys: Vec<String> = (0..2000).map(|number| format!("key{number}")).collect();
    keys.push("large".into());
    keys.sort();
    checks.same("--scan", sorted(&cli(&["--scan"])), keys);
    let some: Vec<String> = (1990..2000).map(|number| format!("key{number}")).collect();
    checks.same("--pattern", sorted(&cli(&["--scan", "--pattern", "key199?"])), some);
    checks.same("a pattern that none has", cli(&["--scan", "--pattern", "none*"]), "");
    let mut holds = |words: &[&str], expected: &[&str]| {
        let printed = cli(words);
        for part in expected {
            checks.holds(&format!("{words:?}: {part}"), printed.contains(part), || printed.clone());
        }
    };
    let sampled = "Sampled 2001 keys in the keyspace!";
    let biggest = "Biggest string found '\"large\"' has 5000 bytes";
    holds(&["--bigkeys"], &[sampled, biggest, "2001 strings with"]);
    holds(&["--bigkeys", "-i", "0.001"], &[sampled, biggest]);
    holds(&["--memkeys"], &[sampled, "Biggest string found '\"large\"' has"]);
    holds(&["--memkeys", "--memkeys-samples", "5"], &[sampled]);
    checks.finish();
}

#[test]
fn walks_over_the_keys() {
    for door in doors() {
        fill(&door, 2000);
        door.server.connect().expect(args!["SET", "large", vec![b'x'; 5000]], Reply::bulk("large"));
        walk(&door, "-2");
        walk(&door, "-3");
    }
}

/// redis-cli with its lines passed on as they come, also where nobody sees them on a terminal.
fn unbuffered(command: &Command) -> Command {
    let mut wrapped = Command::new("stdbuf");
    wrapped.arg("-oL").arg(command.get_program()).args(command.get_args());
    wrapped
}

#[test]
fn watches() {
    for door in doors() {
        fill(&door, 1234);
        let start = |words: &[&str]| Running::start(&mut unbuffered(redis_cli(&door).args(words)));
        for protocol in ["-2", "-3"] {
            let stat = start(&[protocol, "--stat", "-i", "0.02"]);
            // keys, memory, clients, blocked, requests (+since the last line), connections
            let line = stat.wait_for("1234 keys", |line| line.starts_with("1234 "));
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(words[1].ends_with(['K', 'M', 'G']), "memory in {line:?}");
            let clients: u64 = words[2].parse().unwrap_or_else(|_| panic!("clients in {line:?}"));
            assert!(clients >= 1, "this client at least: {line:?}");
            let requests: u64 = words[4].parse().unwrap_or_else(|_| panic!("requests in {line:?}"));
            assert!(requests >= 1234, "as many as were written at least: {line:?}");
            assert!(
                words.last().is_some_and(|n| n.parse::<u64>().is_ok()),
                "connections in {line:?}"
            );

            let latency = run(redis_cli(&door).args([protocol, "--latency", "-i", "0.1"]));
            let numbers: Vec<f64> =
                latency.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            assert_eq!(numbers.len(), 4, "least, most, mean, count: {latency:?}");
            assert!(numbers[3] >= 1.0, "{latency:?}");
            let history = start(&[protocol, "--latency-history", "-i", "0.1", "--raw"]);
            history.wait_for("a range", |line| line.contains("seconds range"));

            let monitor = start(&[protocol, "MONITOR"]);
            monitor.wait_for("the start", |line| line == "OK");
            let key = format!("watched{protocol}");
            run(redis_cli(&door).args(["SET", &key, "a \"quoted\" value"]));
            let line = monitor.wait_for("SET", |line| line.contains(&format!("\"{key}\"")));
            let end = format!("] \"SET\" \"{key}\" \"a \\\"quoted\\\" value\"");
            assert!(line.ends_with(&end), "{line:?}");
            let time = line.split(' ').next().and_then(|time| time.parse::<f64>().ok());
            assert!(time.is_some_and(|time| time > 1.7e9), "{line:?}");
            assert!(line.contains(" [0 127.0.0.1:"), "{line:?}");
            assert!(!monitor.lines().iter().any(|line| line.contains(PASSWORD)), "no password");
            // The SET above goes on counting as a key.
            run(redis_cli(&door).args(["DEL", &key]));
        }
    }
}

/// At the terminal: prompt, hints out of COMMAND DOCS, help, several lines, Ctrl-C.
fn at_the_terminal(door: &Door, protocol: &str) {
    let terminal = Terminal::start(redis_cli(door).arg(protocol));
    let prompt = format!("127.0.0.1:{}>", door.port());
    // The last line of the screen that is not empty, after the prompt.
    let last = |screen: &str| {
        let line = screen.lines().last().unwrap_or_default().to_owned();
        line.strip_prefix(&prompt).map(|rest| rest.trim().to_owned())
    };
    let is_last =
        |expected: &'static str| move |screen: &str| last(screen).as_deref() == Some(expected);
    terminal.wait_for("prompt", is_last(""));
    // A hint stands behind what is typed, and only COMMAND DOCS knows this command.
    terminal.write("nsset ");
    terminal.wait_for("hint", is_last("nsset name property value"));
    terminal.press("C-u");
    terminal.wait_for("empty line", is_last(""));
    terminal.write("keytime ");
    terminal.wait_for("hint", is_last("keytime key"));
    terminal.press("C-u");
    terminal.write("nsin");
    terminal.press("Tab");
    terminal.wait_for("name that Tab completes", |screen: &str| {
        last(screen).is_some_and(|line| line.to_ascii_uppercase().starts_with("NSINFO"))
    });
    terminal.press("C-u");
    terminal.wait_for("empty line", is_last(""));
    // redis-cli drops what is typed before its prompt is back.
    let ask = |line: &str, answer: &str| {
        terminal.enter(line);
        let is_answered = |screen: &str| screen.contains(answer) && is_last("")(screen);
        terminal.wait_for(&format!("{answer:?} after {line:?}"), is_answered);
    };
    ask("help nsnew", "NSNEW name\n  summary: ");
    ask("set key \"two words\"", "\n\"key\"\n");
    ask("mget key missing", "\n1) \"two words\"\n2) (nil)\n");
    ask("del missing", "\n(error) Key not found\n");
    ask("select 0", "select 0\nOK\n");
    ask("nsnew term", "nsnew term\nOK\n");
    ask("select term", "select term\nOK\n");
    ask("dbsize", "\n(integer) 0\n");
    ask("info server", "redis_version:");
    ask("clear", "");
    terminal.wait_for("empty screen", |screen| screen.lines().count() == 1);
    ask("select default", "select default\nOK\n");
    ask("nsdel term", "nsdel term\nOK\n");
    // A connection that the server closes is told, and made anew at the next command.
    let mut other = door.server.connect();
    other.expect(args!["AUTH", PASSWORD], Reply::ok());
    other.call(args!["CLIENT", "KILL", "TYPE", "normal"]);
    terminal.enter("get key");
    terminal.wait_for("closed connection", |screen| screen.ends_with("\nnot connected>"));
    ask("get key", "\n\"two words\"\n");
    terminal.press("C-c");
    assert_eq!(terminal.wait_for_end(), 0, "Ctrl-C ends it");
}

#[test]
fn interactive() {
    at_the_terminal(&Door::plain(), "-2");
    at_the_terminal(&Door::plain(), "-3");
}

#[test]
fn interactive_over_tls() {
    at_the_terminal(&Door::tls(), "-3");
}

/// A server that knows its clients by their certificates asks redis-cli for one.
#[test]
fn certificates_of_clients() {
    let certificates = compat_tests::certificates::Certificates::new();
    let mut flags = certificates.server_flags();
    flags.extend(["--tls-ca".to_owned(), text(&certificates.authority()).to_owned()]);
    let server = Server::start(&flags);
    let port = compat_tests::door::tls_port(&server).to_string();
    let cli = || {
        let mut command = Command::new("redis-cli");
        let authority = certificates.authority();
        command.args(["-h", "127.0.0.1", "-p", &port, "--tls", "--cacert", text(&authority)]);
        command
    };
    let (certificate, key) = certificates.client();
    let shown = ["--cert", text(&certificate), "--key", text(&key)];
    assert_eq!(run(cli().args(shown).args(["SET", "key", "value"])), "key\n");
    let refused = finish(cli().args(["GET", "key"]), b"");
    let said = refused.text() + &refused.stderr;
    assert!(!refused.status.success() && !said.contains("value"), "{said}");
    // An authority that signed neither is not trusted by either side.
    let strangers = compat_tests::certificates::Certificates::new();
    let (certificate, key) = strangers.client();
    let shown = ["--cert", text(&certificate), "--key", text(&key)];
    let refused = finish(cli().args(shown).args(["GET", "key"]), b"");
    let said = refused.text() + &refused.stderr;
    assert!(!refused.status.success() && !said.contains("value"), "{said}");
}

/// Over the unix socket, with TCP beside it and alone.
#[test]
fn over_a_unix_socket() {
    let door = Door::plain();
    let socket = door.socket();
    let cli = |words: &[&str]| {
        let login = ["--no-auth-warning", "-a", PASSWORD];
        run(Command::new("redis-cli").args(["-s", text(&socket)]).args(login).args(words))
    };
    assert_eq!(cli(&["SET", "key", "value"]), "key\n");
    assert_eq!(cli(&["-3", "GET", "key"]), "value\n");
    assert_eq!(run(redis_cli(&door).args(["GET", "key"])), "value\n");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("alone.sock");
    let setup = compat_tests::server::Setup::new().without_port();
    let _server = setup.flags(&["--socket", text(&socket)]).start();
    let alone = run(Command::new("redis-cli").args(["-s", text(&socket), "SET", "key", "value"]));
    assert_eq!(alone, "key\n");
}

/// redis-benchmark prints a line of CSV for each test, and no warning.
fn benchmark(door: &Door, tests: &str, names: &[&str], words: &[&str]) {
    let mut command = program("redis-benchmark", door);
    command.args(["-a", PASSWORD, "-t", tests, "--csv"]);
    let output = run(command.args(words));
    let printed: Vec<&str> = output.lines().filter_map(|line| line.split(',').next()).collect();
    let expected: Vec<String> =
        ["test"].iter().chain(names).map(|name| format!("\"{name}\"")).collect();
    assert_eq!(printed, expected, "{output}");
}

#[test]
fn benchmark_writes_and_reads() {
    let door = Door::plain();
    let benchmark = |words: &[&str]| benchmark(&door, "set,get", &["SET", "GET"], words);
    let mut client = door.server.connect();
    let key = "key:__rand_int__";
    benchmark(&["-n", "5000"]);
    client.expect(args!["DBSIZE"], Reply::Integer(1));
    client.expect(args!["LENGTH", key], Reply::Integer(3));
    benchmark(&["-n", "100000", "-P", "16", "-d", "100"]);
    // What the program sends as data is its own; it is letters, and the same for all keys.
    let value = client.call(args!["GET", key]).into_bytes();
    assert_eq!(value.len(), 100);
    assert!(value.iter().all(u8::is_ascii_graphic), "{value:?}");
    benchmark(&["-n", "50000", "-P", "16", "-r", "1000000", "-d", "100"]);
    let keys = compat_tests::load::scan(&mut client).expect("the scan agrees with DBSIZE");
    // Of 50,000 draws from a million all but some 1,250 are distinct.
    assert!((48_000..=50_001).contains(&keys.len()), "{} keys", keys.len());
    for (key, length, _) in keys.iter().step_by(1000) {
        assert!(key.starts_with(b"key:"), "{key:?}");
        assert_eq!(*length, 100, "{key:?}");
        client.expect(args!["GET", key], Reply::Bulk(value.clone()));
    }
    benchmark(&["-n", "2000", "-d", "65536", "-P", "4", "-r", "100"]);
    benchmark(&["-n", "20000", "-3", "-c", "200", "-r", "1000"]);
}

/// All its tests that make sense here: values, not lists, sets or scripts.
#[test]
fn benchmark_runs_what_makes_sense() {
    for door in doors() {
        let names = ["PING_INLINE", "PING_MBULK", "SET", "GET", "MSET (10 keys)"];
        let tests = "ping,set,get,mset";
        benchmark(&door, tests, &names, &["-n", "5000", "-P", "16", "-r", "1000"]);
        benchmark(&door, tests, &names, &["-n", "1000", "-3"]);
        benchmark(&door, "set,get", &["SET", "GET"], &["-n", "5000", "--threads", "2"]);
        let words = ["-a", PASSWORD, "-q", "-n", "2000", "-P", "16", "-t", tests];
        let quiet = run(program("redis-benchmark", &door).args(words));
        let summaries =
            quiet.split(['\r', '\n']).filter(|line| line.contains("requests per second"));
        assert_eq!(summaries.count(), 5, "{quiet:?}");
        // Any command of one's own, too.
        let words = ["-a", PASSWORD, "-q", "-n", "1000", "SETX", "key:__rand_int__", "value"];
        let own = run(program("redis-benchmark", &door).args(words));
        assert!(own.contains("requests per second"), "{own:?}");
    }
}
