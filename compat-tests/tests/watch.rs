//! Watching the server as operators do: MONITOR, WAIT, CLIENT, SLOWLOG, CONFIG, and redis-cli's modes.

use compat_tests::client::{Client, encoded};
use compat_tests::server::{Setup, poll, scratch_dir};
use compat_tests::{Reply, Server, args};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long something may take that others wait for.
const TIME_MAX: Duration = Duration::from_secs(20);
/// What the server keeps for a client that does not read, with what the kernel holds.
const UNREAD_BYTES_MAX: u64 = 48 << 20;

fn info_field(client: &mut Client, field: &str) -> String {
    let text = client.call(args!["INFO", "all"]).into_bytes();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("INFO has no {field}: {text}")).trim().to_owned()
}

fn client_count(client: &mut Client) -> usize {
    let list = client.call(args!["CLIENT", "LIST"]).into_bytes();
    String::from_utf8_lossy(&list).lines().count()
}

/// It sees all of a pipeline, in order, and between its own replies.
#[test]
fn a_monitor_sees_everything_in_order() {
    let server = Server::start::<&str>(&[]);
    let mut monitor = server.connect();
    monitor.expect(args!["MONITOR"], Reply::ok());
    let mut client = server.connect();
    let requests: Vec<u8> =
        (0..1000).flat_map(|at| encoded(args!["SET", format!("key{at}"), "value"])).collect();
    let (replies, sent) = client.pipeline(&requests, 1000);
    sent.expect("all requests are taken");
    assert_eq!(replies.len(), 1000);
    for at in 0..1000 {
        let Reply::Simple(line) = monitor.receive().expect("a line") else { panic!("no line") };
        assert!(line.ends_with(&format!("\"SET\" \"key{at}\" \"value\"")), "{line}");
    }
    client.expect(
        args!["MGET", "key1", "key2"],
        Reply::Array(vec![Reply::bulk("value"), Reply::bulk("value")]),
    );
}

/// One that stops reading costs a bounded amount of memory and is let go; others do not notice.
#[test]
fn a_deaf_monitor_is_let_go() {
    let server = Server::start::<&str>(&[]);
    let mut monitor = server.connect();
    monitor.expect(args!["MONITOR"], Reply::ok());
    let mut client = server.connect();
    // A monitor sees the first 4 KiB of each word.
    let mut words = vec![b"ECHO".to_vec()];
    words.resize(400, vec![b'v'; 4 << 10]);
    client.call(&words);
    let before = server.resident_bytes();
    let mut peak = before;
    let gone = poll(TIME_MAX, || {
        client.call(&words);
        peak = peak.max(server.resident_bytes());
        (client_count(&mut client) == 1).then_some(())
    });
    assert!(gone.is_some(), "the monitor stays");
    assert_eq!(info_field(&mut client, "client_output_buffer_limit_disconnections"), "1");
    assert!(peak - before < 2 * UNREAD_BYTES_MAX, "{} bytes", peak - before);
    server.ask_others();
}

/// Many wait for the same command: each is told once, and none twice.
#[test]
fn all_who_wait_are_told_once() {
    let server = Server::start::<&str>(&[]);
    let mut waiters: Vec<Client> = (0..50)
        .map(|_| {
            let mut waiter = server.connect();
            waiter.send_raw(&encoded(args!["WAIT", "SET", "60000"])).expect("it is taken");
            waiter.expect(args!["PING"], Reply::Simple("PONG".into()));
            waiter
        })
        .collect();
    let mut client = server.connect();
    assert_eq!(info_field(&mut client, "blocked_clients"), "50");
    let requests: Vec<u8> =
        (0..200).flat_map(|at| encoded(args!["SET", format!("key{at}"), "value"])).collect();
    let (replies, sent) = client.pipeline(&requests, 200);
    sent.expect("all requests are taken");
    assert_eq!(replies.len(), 200);
    for waiter in &mut waiters {
        assert_eq!(waiter.receive().expect("a reply"), Reply::Simple("SET".into()));
        waiter.expect(args!["PING"], Reply::Simple("PONG".into()));
        assert!(waiter.is_quiet(), "told twice");
    }
    assert_eq!(info_field(&mut client, "blocked_clients"), "0");
}

/// The end of a wait and what it waits for come at the same time: one reply, whichever.
#[test]
fn a_wait_ends_once() {
    let server = Server::start::<&str>(&[]);
    let mut waiter = server.connect();
    let mut client = server.connect();
    let (mut told, mut timed_out) = (0, 0);
    for round in 0..20u64 {
        let begun = Instant::now();
        waiter.send_raw(&encoded(args!["WAIT", "GET", "100"])).expect("it is taken");
        waiter.expect(args!["PING"], Reply::Simple("PONG".into()));
        let at = Duration::from_millis(90 + round);
        while begun.elapsed() < at {
            client.expect(args!["PING"], Reply::Simple("PONG".into()));
        }
        client.expect(args!["GET", "key"], Reply::Nil);
        match waiter.receive().expect("a reply") {
            Reply::Simple(name) if name == "GET" => told += 1,
            Reply::Error(text) if text == "Timeout" => timed_out += 1,
            other => panic!("neither: {other:?}"),
        }
        waiter.expect(args!["PING"], Reply::Simple("PONG".into()));
    }
    println!("{told} told, {timed_out} timed out");
    assert_eq!(told + timed_out, 20);
}

/// A reply to WAIT never lands inside an MGET that is being sent.
#[test]
fn what_is_pushed_stays_out_of_replies() {
    let server = Server::start(&["--cache", "0"]);
    let mut client = server.connect();
    let value = vec![b'v'; 64 << 10];
    let keys: Vec<String> = (0..100).map(|at| format!("key{at}")).collect();
    for key in &keys {
        client.call(args!["SET", key, &value]);
    }
    let mut monitor = server.connect();
    monitor.expect(args!["MONITOR"], Reply::ok());
    let mut request = vec![b"MGET".to_vec()];
    request.extend(keys.iter().map(|key| key.clone().into_bytes()));
    for _ in 0..20 {
        monitor.send_raw(&encoded(&request)).expect("it is taken");
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
        let (mut arrays, mut lines) = (0, 0);
        while arrays < 1 || lines < 2 {
            match monitor.receive().expect("a reply") {
                Reply::Array(elements) => {
                    assert!(elements.iter().all(|one| *one == Reply::bulk(&value)));
                    assert_eq!(elements.len(), 100);
                    arrays += 1;
                }
                Reply::Simple(_) => lines += 1,
                other => panic!("unexpected: {other:?}"),
            }
        }
    }
}

#[test]
fn clients_are_killed_idle_busy_and_oneself() {
    let server = Server::start::<&str>(&[]);
    let mut admin = server.connect();
    let mut idle = server.connect();
    let id = idle.call(args!["CLIENT", "ID"]).into_integer();
    admin.expect(args!["CLIENT", "KILL", "ID", id.to_string()], Reply::Integer(1));
    idle.wait_closed().expect("the idle one is closed");

    // Busy: it has requests under way and does not read.
    let mut busy = server.connect();
    let id = busy.call(args!["CLIENT", "ID"]).into_integer();
    let value = vec![b'v'; 256 << 10];
    busy.call(args!["SET", "key", &value]);
    let requests: Vec<u8> = (0..200).flat_map(|_| encoded(args!["GET", "key"])).collect();
    busy.send_raw(&requests).expect("requests are taken");
    admin.expect(args!["CLIENT", "KILL", "ID", id.to_string(), "SKIPME", "no"], Reply::Integer(1));
    let gone = poll(TIME_MAX, || (client_count(&mut admin) == 1).then_some(()));
    assert!(gone.is_some(), "the busy one stays");

    let address = admin.tcp().local_addr().expect("an address").to_string();
    admin.expect(args!["CLIENT", "KILL", &address], Reply::ok());
    admin.wait_closed().expect("it asked for it");
    server.ask_others();
}

#[test]
fn a_pause_holds_and_ends() {
    let mut server = Server::start::<&str>(&[]);
    let mut admin = server.connect();
    let mut client = server.connect();
    let begun = Instant::now();
    admin.expect(args!["CLIENT", "PAUSE", "300", "WRITE"], Reply::ok());
    client.expect(args!["GET", "key"], Reply::Nil);
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "held for {:?}", begun.elapsed());
    // A long one ends when it is taken back, for a whole pipeline.
    admin.expect(args!["CLIENT", "PAUSE", "3600000", "ALL"], Reply::ok());
    let requests: Vec<u8> = (0..100).flat_map(|_| encoded(args!["GET", "key"])).collect();
    client.send_raw(&requests).expect("requests are taken");
    assert!(client.is_quiet(), "answered during the pause");
    admin.expect(args!["CLIENT", "UNPAUSE"], Reply::ok());
    for _ in 0..100 {
        assert_eq!(client.receive().expect("a reply"), Reply::bulk("value"));
    }
    // And it does not stand in the way of a stop.
    admin.expect(args!["CLIENT", "PAUSE", "3600000"], Reply::ok());
    client.send_raw(&requests).expect("requests are taken");
    let begun = Instant::now();
    assert_eq!(server.terminate().code(), Some(143));
    assert!(begun.elapsed() < TIME_MAX, "a stop took {:?}", begun.elapsed());
}

#[test]
fn what_is_slow_is_noted() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client.expect(args!["CONFIG", "SET", "latency-monitor-threshold", "20"], Reply::ok());
    client.expect(args!["DEBUG", "SLEEP", "0.05"], Reply::ok());
    client.expect(args!["CONFIG", "SET", "slowlog-log-slower-than", "-1"], Reply::ok());
    let entries = client.call(args!["SLOWLOG", "GET", "-1"]).into_array();
    let sleep = entries
        .into_iter()
        .map(Reply::into_array)
        .find(|entry| format!("{:?}", entry[3]).contains("SLEEP"))
        .expect("the sleep is noted");
    let Reply::Integer(us) = sleep[2] else { panic!("no time: {sleep:?}") };
    assert!((50_000..5_000_000).contains(&us), "{us} us");
    assert_eq!(sleep[3], Reply::Array(["DEBUG", "SLEEP", "0.05"].map(Reply::bulk).to_vec()));
    let events = client.call(args!["LATENCY", "LATEST"]).into_array();
    assert!(format!("{events:?}").contains("command"), "{events:?}");
    let history = client.call(args!["LATENCY", "HISTORY", "command"]).into_array();
    assert!(!history.is_empty(), "no history");
    // Long requests are cut.
    client.expect(args!["CONFIG", "SET", "slowlog-log-slower-than", "0"], Reply::ok());
    let mut request = vec![b"MGET".to_vec()];
    request.extend((0..100).map(|_| vec![b'k'; 200]));
    client.call(&request);
    let entry = client.call(args!["SLOWLOG", "GET", "1"]).into_array().remove(0).into_array();
    let words = entry[3].clone().into_array();
    assert_eq!(words.len(), 32);
    assert_eq!(words[31], Reply::bulk("... (70 more arguments)"));
    assert_eq!(words[1].clone().into_bytes().len(), 128 + "... (72 more bytes)".len());
}

/// Counters are true: as many calls as there were, and their times in them.
#[test]
fn costs_are_counted() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    let requests: Vec<u8> = (0..500)
        .flat_map(|at| {
            let mut pair = encoded(args!["SET", format!("key{at}"), "value"]);
            pair.extend(encoded(args!["GET", format!("key{}", 2 * at)]));
            pair
        })
        .collect();
    let (replies, sent) = client.pipeline(&requests, 1000);
    sent.expect("all requests are taken");
    assert_eq!(replies.len(), 1000);
    client.call(args!["GET"]);
    let stats = info_field(&mut client, "cmdstat_get");
    assert!(stats.starts_with("calls=500,usec="), "{stats}");
    assert!(stats.ends_with(",rejected_calls=1,failed_calls=0"), "{stats}");
    let hits: u64 = info_field(&mut client, "keyspace_hits").parse().expect("a number");
    let misses: u64 = info_field(&mut client, "keyspace_misses").parse().expect("a number");
    assert_eq!(hits + misses, 500);
    assert!(hits >= 1 && misses >= 250, "{hits} {misses}");
    let Reply::Array(histogram) = client.call(args!["LATENCY", "HISTOGRAM", "set"]) else {
        panic!("no histogram")
    };
    let fields = histogram[1].clone().into_array();
    assert_eq!(fields[1], Reply::Integer(500));
    let steps = fields[3].clone().into_array();
    assert_eq!(steps.last(), Some(&Reply::Integer(500)), "the last step counts all: {steps:?}");
    client.expect(args!["CONFIG", "RESETSTAT"], Reply::ok());
    assert_eq!(info_field(&mut client, "keyspace_hits"), "0");
}

/// Settings outlive a restart once they are kept, flags win, and a wrong file is an error that says so.
#[test]
fn settings_are_kept() {
    let home = scratch_dir();
    let mut server = Setup::new().home(home.path()).start();
    let mut client = server.connect();
    for (name, value) in
        [("appendfsync", "always"), ("slowlog-max-len", "7"), ("timeout", "1000"), ("cache", "1M")]
    {
        client.expect(args!["CONFIG", "SET", name, value], Reply::ok());
    }
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    client.expect(args!["CONFIG", "REWRITE"], Reply::ok());
    let file = server.data_dir().join("zdb.conf");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("the file is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // Where it cannot be written, the client is told.
    let obstacle = server.data_dir().join("zdb.conf.new");
    std::fs::create_dir(&obstacle).expect("a directory");
    let refused = client.call(args!["CONFIG", "REWRITE"]);
    assert!(
        matches!(&refused, Reply::Error(text) if text.starts_with("Rewriting config file: ")),
        "{refused:?}"
    );
    std::fs::remove_dir(&obstacle).expect("it is empty");
    server.terminate();
    server.set_flags(&["--sync", "no"]);
    server.resume();
    let mut client = server.connect();
    let pairs = client.call(args!["CONFIG", "GET", "appendfsync", "slowlog-max-len", "cache"]);
    let expected =
        ["appendfsync", "no", "cache", "1048576", "slowlog-max-len", "7"].map(Reply::bulk);
    assert_eq!(pairs, Reply::Array(expected.to_vec()));
    client.expect(args!["GET", "key"], Reply::bulk("value"));
    server.terminate();
    std::fs::write(&file, "timeout 10\nnosuch 1\n").expect("the file can be written");
    let refusal = server.try_resume().expect_err("a wrong file is refused");
    let log = refusal.log.join("\n");
    assert!(log.contains("zdb.conf: line 2: unknown setting: nosuch"), "{log}");
}

/// The policy changes under load: all that was answered is there after a kill.
#[test]
fn the_sync_policy_changes_under_load() {
    let mut server = Server::start(&["--datasize", "1M"]);
    let mut admin = server.connect();
    let address = server.address();
    let writer = std::thread::spawn(move || {
        let mut client = Client::connect(address).expect("a connection");
        for at in 0..3000 {
            let key = format!("key{at}");
            client.expect(args!["SET", &key, vec![b'v'; 1000]], Reply::bulk(&key));
        }
    });
    let policies = ["always", "everysec", "no", "always", "no", "everysec"];
    let mut at = 0;
    while !writer.is_finished() {
        let policy = policies[at % policies.len()];
        admin.expect(args!["CONFIG", "SET", "appendfsync", policy], Reply::ok());
        admin.call(args!["SET", "beat", at.to_string()]);
        at += 1;
    }
    writer.join().expect("every SET was answered");
    assert!(at > 3, "the policy changed {at} times");
    server.kill();
    server.resume();
    let mut client = server.connect();
    client.expect(args!["DBSIZE"], Reply::Integer(3001));
}

/// Runs redis-cli for a while, or to its end, and returns what it printed, line by line.
fn redis_cli(server: &Server, arguments: &[&str], seconds: &str) -> String {
    let output = Command::new("timeout")
        .args([
            "-s",
            "INT",
            seconds,
            "stdbuf",
            "-oL",
            "redis-cli",
            "-p",
            &server.address().port().to_string(),
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("redis-cli runs: ./test.sh installs it");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn redis_cli_watches() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    let stat = redis_cli(&server, &["--stat", "-i", "0.2"], "3");
    let numbers: Vec<&str> = stat
        .lines()
        .find(|line| line.starts_with('1'))
        .unwrap_or_else(|| panic!("no line for one key: {stat}"))
        .split_whitespace()
        .collect();
    assert!(numbers[1].ends_with(['K', 'M']), "memory: {stat}");
    assert_eq!(numbers[2], "2", "clients: {stat}");
    let latency = redis_cli(&server, &["--latency", "--raw", "-i", "1"], "3");
    let count = latency.split_whitespace().nth(3).and_then(|count| count.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 0), "{latency}");
    let history = redis_cli(&server, &["--latency-history", "--raw", "-i", "1"], "4");
    assert!(history.lines().count() > 1, "{history}");
}

/// The terminal shows hints from COMMAND DOCS.
#[test]
fn redis_cli_shows_hints() {
    let server = Server::start::<&str>(&[]);
    let home = scratch_dir();
    let socket = home.path().join("tmux");
    let tmux = |arguments: &[&str]| {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&socket)
            .args(arguments)
            .env("HOME", home.path())
            .env_remove("TMUX")
            .output()
            .expect("tmux runs: ./test.sh installs it");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let port = server.address().port().to_string();
    let command = format!("redis-cli -p {port}");
    tmux(&["new-session", "-d", "-s", "hints", "-x", "150", "-y", "30", &command]);
    let wait_for = |wanted: &str| {
        let seen = poll(TIME_MAX, || {
            let screen = tmux(&["capture-pane", "-p", "-t", "hints"]);
            screen.contains(wanted).then_some(())
        });
        let screen = tmux(&["capture-pane", "-p", "-t", "hints"]);
        assert!(seen.is_some(), "no {wanted:?} on the screen: {screen}");
    };
    wait_for(&format!("127.0.0.1:{port}>"));
    tmux(&["send-keys", "-t", "hints", "NSSET "]);
    wait_for("NSSET name property value");
    tmux(&["send-keys", "-t", "hints", "C-u", "KEYTIME "]);
    wait_for("KEYTIME key");
    tmux(&["kill-server"]);
}

/// What is pushed while a long reply is under way comes behind it, and the connection goes on.
#[test]
fn a_push_behind_a_long_reply() {
    let server = Server::start::<&str>(&[]);
    let mut other = server.connect();
    let value = vec![b'v'; 60_000];
    let mut words = vec!["MGET".to_owned()];
    for at in 0..300 {
        let key = format!("key{at}");
        other.expect(args!["SET", &key, &value], Reply::bulk(&key));
        words.push(key);
    }
    let mut waiter = server.connect();
    waiter.send_raw(&encoded(args!["WAIT", "EXISTS", "60000"])).expect("it is taken");
    waiter.expect(args!["PING"], Reply::Simple("PONG".into()));
    // 18 MB that are not read: more than sockets and the server's own limit hold.
    waiter.send_raw(&encoded(&words)).expect("it is taken");
    let stuck = poll(TIME_MAX, || {
        let list = other.call(args!["CLIENT", "LIST"]).into_bytes();
        String::from_utf8_lossy(&list).contains("cmd=mget").then_some(())
    });
    assert!(stuck.is_some(), "the MGET is under way");
    other.expect(args!["EXISTS", "key0"], Reply::Integer(1));
    assert_eq!(waiter.receive().expect("the values").into_array().len(), 300);
    assert_eq!(waiter.receive().expect("the push"), Reply::Simple("EXISTS".into()));
    waiter.expect(args!["PING"], Reply::Simple("PONG".into()));
}
