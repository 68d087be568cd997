//! Publish and subscribe, MULTI and CLIENT KILL: limits, clients that do not read, many at once, and Redis's own
//! programs. What single requests are answered stands in the transcripts.

use compat_tests::client::encoded;
use compat_tests::server::poll;
use compat_tests::{Client, Reply, Server, args};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

const TIME_MAX: Duration = Duration::from_secs(30);

fn message(channel: &str, message: impl AsRef<[u8]>) -> Reply {
    Reply::Array(vec![Reply::bulk("message"), Reply::bulk(channel), Reply::bulk(message)])
}

fn subscribe(client: &mut Client, channel: &str) {
    let reply = client.call(args!["SUBSCRIBE", channel]).into_array();
    assert_eq!(reply[..2], [Reply::bulk("subscribe"), Reply::bulk(channel)]);
}

fn field(client: &mut Client, section: &str, name: &str) -> u64 {
    let info = client.call(args!["INFO", section]).into_bytes();
    let info = String::from_utf8_lossy(&info).into_owned();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let line =
        line.or_else(|| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {info}"))
}

#[test]
fn names_have_limits() {
    let server = Server::start::<&str>(&[]);
    let words = |word: &str, prefix: String, count: usize| {
        let names = (0..count).map(|at| format!("{prefix}{at}"));
        std::iter::once(word.to_owned()).chain(names).collect::<Vec<_>>()
    };
    // 1,024 channels of one connection; a request that goes beyond subscribes to none of its names.
    let mut client = server.connect();
    client.send_raw(&encoded(&words("SUBSCRIBE", "a".into(), 1000))).expect("it is taken");
    (0..1000).for_each(|_| drop(client.receive().expect("a reply for each channel")));
    let refused = Reply::error("Too many channels on one connection (at most 1024)");
    client.expect(&words("SUBSCRIBE", "b".into(), 25), refused.clone());
    // Those that it has already do not count.
    client.send_raw(&encoded(&words("SUBSCRIBE", "a".into(), 1000))).expect("it is taken");
    (0..1000).for_each(|_| drop(client.receive().expect("a reply for each channel")));
    client.send_raw(&encoded(&words("SUBSCRIBE", "b".into(), 24))).expect("it is taken");
    (0..24).for_each(|_| drop(client.receive().expect("a reply for each channel")));
    client.expect(args!["SUBSCRIBE", "c"], refused);
    // 32 patterns of one connection, 1,024 different ones of all.
    let mut others = Vec::new();
    for at in 0..32 {
        let mut other = server.connect();
        other.send_raw(&encoded(&words("PSUBSCRIBE", format!("{at}."), 32))).expect("it is taken");
        (0..32).for_each(|_| drop(other.receive().expect("a reply for each pattern")));
        let refused = "Too many patterns on one connection (at most 32)";
        other.expect(args!["PSUBSCRIBE", "one more"], Reply::error(refused));
        others.push(other);
    }
    let mut last = server.connect();
    let refused = "Too many patterns on all connections together (at most 1024)";
    last.expect(args!["PSUBSCRIBE", "new"], Reply::error(refused));
    let known = last.call(args!["PSUBSCRIBE", "0.0"]).into_array();
    assert_eq!(known[2], Reply::Integer(1), "a pattern that others have is none more");
    // 16,384 different channels of all.
    for at in 1..16 {
        let mut other = server.connect();
        for part in 0..2 {
            let prefix = format!("{at}.{part}.");
            other.send_raw(&encoded(&words("SUBSCRIBE", prefix, 512))).expect("it is taken");
            (0..512).for_each(|_| drop(other.receive().expect("a reply for each channel")));
        }
        others.push(other);
    }
    let mut last = server.connect();
    let refused = "Too many channels on all connections together (at most 16384)";
    last.expect(args!["SUBSCRIBE", "new"], Reply::error(refused));
    let channels = last.call(args!["PUBSUB", "CHANNELS"]).into_array();
    assert_eq!(channels.len(), 16384);
    assert_eq!(field(&mut last, "Stats", "pubsub_channels"), 16384);
    assert_eq!(field(&mut last, "Stats", "pubsub_patterns"), 1024);
    drop(others);
    drop(client);
    // Those that are gone leave room.
    let left = poll(TIME_MAX, || (field(&mut last, "Stats", "pubsub_channels") == 0).then_some(()));
    assert!(left.is_some(), "channels of connections that are gone");
    subscribe(&mut last, "new");
}

#[test]
fn a_transaction_has_a_limit() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client.expect(args!["MULTI"], Reply::ok());
    for _ in 0..64 {
        client.expect(args!["PING"], Reply::Simple("QUEUED".into()));
    }
    let refused = Reply::error("Too many requests in one MULTI (at most 64)");
    client.expect(args!["PING"], refused);
    let aborted = "EXECABORT Transaction discarded because of previous errors.";
    client.expect(args!["EXEC"], Reply::error(aborted));
    client.expect(args!["PING"], Reply::Simple("PONG".into()));
}

/// Who does not read is let go at 32 MiB; who reads gets everything, and so does the publisher its replies.
#[test]
fn a_subscriber_that_does_not_read_is_let_go() {
    let server = Server::start::<&str>(&[]);
    let (mut lazy, mut eager) = (server.connect(), server.connect());
    subscribe(&mut lazy, "news");
    subscribe(&mut eager, "news");
    let mut publisher = server.connect();
    let text = vec![b'm'; 1 << 20];
    for at in 0..100 {
        // After 32 MiB, and what the sockets take, there is one receiver left.
        let count = publisher.call(args!["PUBLISH", "news", &text]).into_integer();
        assert!(count == 1 || at < 60 && count == 2, "{count} receivers of message {at}");
        assert_eq!(eager.receive().expect("a message"), message("news", &text));
    }
    assert_eq!(field(&mut publisher, "clients", "output_limit_disconnections"), 1);
    publisher.expect(
        args!["PUBSUB", "NUMSUB", "news"],
        Reply::Array(vec![Reply::bulk("news"), Reply::Integer(1)]),
    );
}

/// Many subscribers, some of which come and go, and a pipeline of messages: each gets all in their order.
fn many_subscribers(flags: &[&str]) {
    const MESSAGES: usize = 2000;
    let server = Server::start(flags);
    let mut subscribers: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    for (at, client) in subscribers.iter_mut().enumerate() {
        subscribe(client, "news");
        if at % 2 == 0 {
            subscribe(client, "others");
        }
    }
    let address = server.address();
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for at in 0..MESSAGES {
                    let text = format!("message {at}");
                    assert_eq!(client.receive().expect("a message"), message("news", text));
                }
            })
        })
        .collect();
    let comes_and_goes = std::thread::spawn(move || {
        for _ in 0..50 {
            let mut client = Client::connect(address).expect("a connection");
            subscribe(&mut client, "news");
        }
    });
    let mut publisher = server.connect();
    let mut requests = Vec::new();
    for at in 0..MESSAGES {
        requests.extend(encoded(args!["PUBLISH", "news", format!("message {at}")]));
    }
    let (replies, result) = publisher.pipeline(&requests, MESSAGES);
    result.expect("all are answered");
    assert!(replies.into_iter().all(|reply| reply.into_integer() >= 40));
    readers.into_iter().for_each(|reader| reader.join().expect("all messages came"));
    comes_and_goes.join().expect("connections");
}

#[test]
fn many_subscribers_get_everything() {
    many_subscribers(&[]);
}

#[test]
fn many_subscribers_get_everything_with_threads() {
    many_subscribers(&["--threads", "3", "--threads-busy", "0"]);
}

/// Filters together, on others; and nothing is published to who is killed.
#[test]
fn clients_are_killed_by_filters() {
    let server = Server::start::<&str>(&[]);
    let mut admin = server.connect();
    let (mut subscriber, mut normal, mut mirror) =
        (server.connect(), server.connect(), server.connect());
    let id = |client: &mut Client| client.call(args!["CLIENT", "ID"]).into_integer().to_string();
    let (subscriber_id, normal_id) = (id(&mut subscriber), id(&mut normal));
    let local = server.address().to_string();
    let address = normal.tcp().local_addr().expect("an address").to_string();
    subscribe(&mut subscriber, "news");
    mirror.expect(args!["MIRROR"], Reply::Simple("Starting mirroring".into()));
    let mut kill = |words: &[&str]| {
        let request: Vec<&str> = ["CLIENT", "KILL"].iter().chain(words).copied().collect();
        admin.call(&request)
    };
    for words in [
        &["TYPE", "normal", "ID", &subscriber_id][..],
        &["TYPE", "pubsub", "ID", &normal_id],
        &["TYPE", "pubsub", "LADDR", "127.0.0.1:1"],
        &["TYPE", "pubsub", "MAXAGE", "3600"],
        &["ADDR", &address, "TYPE", "master"],
        &["ADDR", &address, "ID", &subscriber_id],
    ] {
        assert_eq!(kill(words), Reply::Integer(0), "{words:?}");
    }
    assert_eq!(kill(&["TYPE", "pubsub", "LADDR", &local, "USER", "default"]), Reply::Integer(1));
    assert_eq!(kill(&["TYPE", "slave", "SKIPME", "no"]), Reply::Integer(1));
    // What it was sent of the requests so far comes first.
    while mirror.receive().is_ok() {}
    subscriber.receive().expect_err("it is closed");
    assert_eq!(kill(&[&address]), Reply::ok());
    normal.receive().expect_err("it is closed");
    assert_eq!(kill(&[&address]), Reply::error("No such client"));
    let mut last = server.connect();
    subscribe(&mut last, "news");
    // In one pipeline: no turn of the loop between the two.
    let mut requests = encoded(args!["CLIENT", "KILL", "TYPE", "pubsub"]);
    requests.extend(encoded(args!["PUBLISH", "news", "hello"]));
    requests.extend(encoded(args!["PUBSUB", "CHANNELS"]));
    let (replies, _) = admin.pipeline(&requests, 3);
    assert_eq!(replies, [Reply::Integer(1), Reply::Integer(0), Reply::Array(Vec::new())]);
}

/// A whole transaction in one write: what others publish comes before it or behind.
#[test]
fn nothing_comes_between_the_requests_of_a_transaction() {
    let server = Server::start::<&str>(&[]);
    let mut subscriber = server.connect();
    subscribe(&mut subscriber, "news");
    let address = server.address();
    let others: Vec<_> = ["a", "b"]
        .map(|name| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                let mut requests = encoded(args!["MULTI"]);
                for at in 0..10 {
                    requests.extend(encoded(args!["PUBLISH", "news", format!("{name}{at}")]));
                }
                requests.extend(encoded(args!["EXEC"]));
                for _ in 0..100 {
                    let (replies, result) = client.pipeline(&requests, 12);
                    result.expect("all are answered");
                    assert_eq!(replies[11], Reply::Array(vec![Reply::Integer(1); 10]));
                }
            })
        })
        .into();
    for _ in 0..200 {
        let first = subscriber.receive().expect("a message").into_array()[2].clone().into_bytes();
        let name = char::from(first[0]);
        assert_eq!(first[1..], *b"0");
        for at in 1..10 {
            let next = subscriber.receive().expect("a message");
            assert_eq!(next, message("news", format!("{name}{at}")));
        }
    }
    others.into_iter().for_each(|other| other.join().expect("it went through"));
}

fn redis_cli(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "redis-cli", "-p", &server.address().port().to_string()]).args(arguments);
    command
}

#[test]
fn redis_cli_subscribes() {
    let server = Server::start::<&str>(&[]);
    for (flags, channel, expected) in [
        (&["SUBSCRIBE", "news"][..], "news", &["message", "news", "hello"][..]),
        (&["PSUBSCRIBE", "n*"], "news", &["pmessage", "n*", "news", "hello"]),
        (&["-3", "SUBSCRIBE", "news"], "news", &["message", "news", "hello"]),
    ] {
        let mut subscriber = redis_cli(&server, flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli runs: ./test.sh installs it");
        let mut lines = BufReader::new(subscriber.stdout.take().expect("it is piped")).lines();
        let mut wait_for = |wanted: &str| {
            lines
                .by_ref()
                .map(|line| line.expect("a line"))
                .find(|line| {
                    line.trim().ends_with(wanted) || line.contains(&format!("\"{wanted}\""))
                })
                .unwrap_or_else(|| panic!("{flags:?}: no {wanted}"));
        };
        wait_for(flags[flags.len() - 1]);
        let sent = redis_cli(&server, &["PUBLISH", channel, "hello"]).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&sent.stdout).trim(), "1");
        expected.iter().for_each(|part| wait_for(part));
        subscriber.kill().expect("it runs still");
        subscriber.wait().expect("it ends");
        let mut admin = server.connect();
        let left = poll(TIME_MAX, || {
            let clients = admin.call(args!["CLIENT", "LIST", "TYPE", "pubsub"]);
            (clients == Reply::bulk("")).then_some(())
        });
        assert!(left.is_some(), "the subscriber is gone");
    }
}
