//! --metrics: the text by a strict reading of its format, and bad, slow and many scrapers.

use compat_tests::server::{Setup, poll};
use compat_tests::wire::{self, FakeMaster, field, follow, in_sync, introduce};
use compat_tests::{Reply, Server, args};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const TIME_MAX: Duration = Duration::from_secs(30);

fn start(flags: &[&str]) -> (Server, SocketAddr) {
    let server = Setup::new().flags(&["--metrics", "127.0.0.1:0"]).flags(flags).start();
    let line =
        server.wait_for_log("the address of the metrics", |line| line.contains("metrics on"));
    let address =
        line.strip_prefix("metrics on http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let address = address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    (server, address)
}

/// Sends bytes and reads to the end: status line, header lines, body.
fn ask(address: SocketAddr, request: &[u8]) -> (String, HashMap<String, String>, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(TIME_MAX)).expect("a time limit");
    stream.write_all(request).expect("it is sent");
    response(&mut stream)
}

fn response(stream: &mut TcpStream) -> (String, HashMap<String, String>, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the response ends");
    let text = String::from_utf8(bytes).expect("it is text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().expect("a status line").to_owned();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        (name.to_ascii_lowercase(), value.to_owned())
    });
    (status, headers.collect(), body.to_owned())
}

fn scrape(address: SocketAddr) -> Scrape {
    let (status, headers, body) = ask(address, b"GET /metrics HTTP/1.1\r\nHost: zdb\r\n\r\n");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers["content-type"].starts_with("text/plain; version=0.0.4"), "{headers:?}");
    assert_eq!(headers["content-length"], body.len().to_string());
    Scrape::parse(&body)
}

/// Scrapes until a sample has a value: a text may be a moment old.
#[track_caller]
fn wait_for(address: SocketAddr, sample: &str, wanted: impl Fn(f64) -> bool) -> Scrape {
    let mut last = None;
    poll(TIME_MAX, || {
        let scrape = scrape(address);
        last = scrape.samples.get(sample).copied();
        last.is_some_and(&wanted).then_some(scrape)
    })
    .unwrap_or_else(|| panic!("{sample} is {last:?}"))
}

/// A text in the format, read as strictly as its description allows.
#[derive(Debug)]
struct Scrape {
    /// By name and labels as they stand in the line.
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Scrape {
    #[track_caller]
    fn parse(text: &str) -> Scrape {
        let mut scrape = Scrape { samples: BTreeMap::new(), kinds: BTreeMap::new() };
        assert!(text.ends_with('\n'), "the last line is ended");
        assert!(!text.contains('\r'));
        let mut helped = String::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                assert!(!help.is_empty() && is_name(name), "{line}");
                assert!(!scrape.kinds.contains_key(name), "{name} comes twice");
                helped = name.into();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                assert_eq!(name, helped, "the help of a family stands before its type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(scrape.kinds.insert(name.into(), kind.into()).is_none(), "{line}");
                family = name.into();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let (name, labels) = match series.split_once('{') {
                    Some((name, labels)) => (name, labels.strip_suffix('}').expect("a brace")),
                    None => (series, ""),
                };
                let suffixes: &[&str] = match scrape.kinds.get(&family).map(String::as_str) {
                    Some("histogram") => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let suffix = name.strip_prefix(&family);
                assert!(suffix.is_some_and(|one| suffixes.contains(&one)), "{line} in {family}");
                check_labels(labels);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(scrape.samples.insert(series.into(), value).is_none(), "{line} twice");
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// Buckets grow with their bounds, the last is all, and agrees with the count.
    fn check_histograms(&self) {
        let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (sample, value) in &self.samples {
            let Some((name, labels)) = sample.split_once("_bucket{") else { continue };
            let (others, bound) = labels.rsplit_once("le=\"").expect("a bound");
            let bound = match bound.strip_suffix("\"}").expect("a quote") {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().expect("a number"),
            };
            let others = others.trim_end_matches(',');
            let key = if others.is_empty() { "".into() } else { format!("{{{others}}}") };
            series.entry(format!("{name}_count{key}")).or_default().push((bound, *value));
        }
        assert!(!series.is_empty(), "there are histograms");
        for (count, mut buckets) in series {
            buckets.sort_by(|one, two| one.0.total_cmp(&two.0));
            assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{count}: {buckets:?}");
            let (bound, all) = *buckets.last().expect("a bucket");
            assert_eq!((bound, all), (f64::INFINITY, self.samples[&count]), "{count}");
            assert!(self.samples.contains_key(&count.replacen("_count", "_sum", 1)));
        }
    }

    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample}"))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|sign: char| sign.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

/// `name="value",name="value"`, with the three escapes and no other.
fn check_labels(mut labels: &str) {
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(is_name(name) && !name.contains(':'), "{name}");
        let mut end = None;
        let mut signs = rest.char_indices();
        while let Some((at, sign)) = signs.next() {
            match sign {
                '\\' => {
                    let escaped = signs.next().map(|(_, sign)| sign);
                    assert!(matches!(escaped, Some('\\' | '"' | 'n')), "{rest}");
                }
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        labels = &rest[end.unwrap_or_else(|| panic!("{rest}")) + 1..];
        labels = labels.strip_prefix(',').unwrap_or(labels);
    }
}

#[test]
fn the_numbers_are_those_of_the_server() {
    let (server, address) = start(&["--sync", "always", "--maxsize", "1M"]);
    let mut client = server.connect();
    let before = scrape(address);
    for number in 0..50 {
        let key = number.to_string();
        client.expect(args!["SET", key, vec![b'v'; 100]], Reply::bulk(&key));
        client.expect(args!["GET", key], Reply::bulk(vec![b'v'; 100]));
    }
    assert!(client.call(args!["NOSUCH"]).is_error());
    assert!(client.call(args!["GET"]).is_error());
    client.expect(args!["NSJUMP"], Reply::ok());
    let after =
        wait_for(address, "zdb_command_calls_total{command=\"nsjump\"}", |value| value == 1.0);
    let grown = |sample: &str| after.value(sample) - before.samples.get(sample).unwrap_or(&0.0);
    assert_eq!(grown("zdb_command_calls_total{command=\"set\"}"), 50.0);
    assert_eq!(grown("zdb_command_duration_seconds_count{command=\"get\"}"), 50.0);
    assert_eq!(grown("zdb_requests_unknown_total"), 1.0);
    assert_eq!(grown("zdb_command_rejected_total{command=\"get\"}"), 1.0);
    assert_eq!(after.value("zdb_namespace_keys{namespace=\"default\"}"), 50.0);
    assert_eq!(after.value("zdb_namespace_live_bytes{namespace=\"default\"}"), 5000.0);
    assert_eq!(after.value("zdb_namespace_limit_bytes{namespace=\"default\"}"), 1048576.0);
    assert_eq!(after.value("zdb_clients"), 1.0);
    assert_eq!(after.value("zdb_log_segments"), 2.0);
    assert_eq!(after.value("zdb_log_broken"), 0.0);
    assert!(grown("zdb_data_written_bytes_total") > 5000.0);
    assert!(grown("zdb_log_writes_total") > 0.0);
    assert!(grown("zdb_network_received_bytes_total") > 5000.0);
    assert!(after.value("zdb_commit_duration_seconds_count") >= 50.0);
    let commit = after.value("zdb_commit_duration_seconds_sum");
    assert!(commit > 0.0 && commit < 100.0, "{commit} s for 50 commits");
    assert!(after.value("process_resident_memory_bytes") > 1e6);
    assert!(after.value("zdb_disk_free_bytes{directory=\"data\"}") > 0.0);
    let durable = after.value("zdb_log_durable_position_bytes");
    assert!(durable <= after.value("zdb_log_appended_position_bytes"));
}

/// What an operator is woken for: a link that is down, a replica that falls behind, writes that are refused.
#[test]
fn replicas_and_their_master_tell_how_far_they_are() {
    let role = |role: &str| format!("zdb_replication_role{{role=\"{role}\"}}");
    let (master, of_master) = start(&[]);
    let (mut replica, of_replica) = start(&[]);
    let alone = scrape(of_master);
    assert_eq!(
        (alone.value(&role("master")), alone.value(&role("replica"))),
        (1.0, 0.0),
        "before it is followed"
    );
    for name in ["replicas", "backups", "term", "syncs_full_total", "sent_bytes_total"] {
        assert_eq!(alone.value(&format!("zdb_replication_{name}")), 0.0, "{name}");
    }
    for name in ["link_up", "lag_bytes", "lag_seconds"] {
        // An alert for a replica must not wake for a master.
        assert!(!alone.samples.contains_key(&format!("zdb_replication_{name}")), "{name}");
    }
    let mut client = master.connect();
    for number in 0..50 {
        let key = number.to_string();
        client.expect(args!["SET", key, vec![b'v'; 1000]], Reply::bulk(&key));
    }
    follow(&mut replica.connect(), master.address());
    in_sync(&master, &replica);
    let level = wait_for(of_replica, "zdb_replication_link_up", |value| value == 1.0);
    assert_eq!((level.value(&role("master")), level.value(&role("replica"))), (0.0, 1.0));
    assert_eq!(level.value("zdb_replication_lag_bytes"), 0.0);
    assert_eq!(level.value("zdb_replication_lag_seconds"), 0.0);
    let port = replica.address().port();
    let each =
        |name: &str| format!("zdb_replication_replica_{name}{{address=\"127.0.0.1:{port}\"}}");
    let followed = wait_for(of_master, &each("lag_bytes"), |value| value == 0.0);
    assert!(followed.value(&each("heard_seconds")) < 3.0);
    assert_eq!(followed.value("zdb_replication_replicas"), 1.0);
    assert_eq!(followed.value("zdb_replication_syncs_full_total"), 1.0);
    assert_eq!(followed.value("zdb_replication_syncs_partial_total"), 1.0);
    assert!(followed.value("zdb_replication_sent_bytes_total") > 50_000.0);
    // A replica that takes nothing falls behind, by both of them.
    let mut copy = introduce(&master, "00c0ffee");
    copy.expect(args!["REPLCONF", "ip-address", "a\"b"], Reply::ok());
    let fake = FakeMaster::default();
    follow(&mut replica.connect(), fake.address());
    let (call, asked) = fake.asked();
    assert_eq!(wire::ask(&mut copy, &asked.words).expect("it answers")[0], "CONTINUE");
    client.expect(args!["SET", "more", vec![b'v'; 10_000]], Reply::bulk("more"));
    let behind = "zdb_replication_replica_lag_bytes{address=\"a\\\"b:9\"}";
    wait_for(of_master, behind, |value| value > 10_000.0);
    let silent = "zdb_replication_replica_heard_seconds{address=\"a\\\"b:9\"}";
    wait_for(of_master, silent, |value| value > 1.0);
    let down = wait_for(of_replica, "zdb_replication_lag_seconds", |value| value > 0.5);
    assert_eq!(down.value("zdb_replication_link_up"), 0.0);
    drop((call, copy));
    // One that says that it has more than it sends.
    let (mut call, asked) = fake.asked();
    let (position, end) = (asked.position().to_string(), (asked.position() + 7777).to_string());
    let go_on = wire::said(args!["CONTINUE", position, "0", end, "0"]);
    call.send_raw(&go_on).expect("it is there");
    let late = wait_for(of_replica, "zdb_replication_lag_bytes", |value| value == 7777.0);
    assert_eq!(late.value("zdb_replication_link_up"), 1.0);
    assert_eq!(field(&mut replica.connect(), "lag_bytes").as_deref(), Some("7777"));
    wait_for(of_replica, "zdb_replication_lag_seconds", |value| value > 1.0);
    let seconds = field(&mut replica.connect(), "lag_seconds").and_then(|text| text.parse().ok());
    assert!(seconds.is_some_and(|seconds: u64| (1..30).contains(&seconds)), "{seconds:?}");
    call.send_raw(&wire::said(args!["STATUS", position, "0"])).expect("it is there");
    wait_for(of_replica, "zdb_replication_lag_seconds", |value| value == 0.0);
    // It becomes a master, and of a term.
    replica.connect().expect(args!["REPLICAOF", "NO", "ONE"], Reply::ok());
    replica.connect().expect(args!["SET", "own", "1"], Reply::bulk("own"));
    let own = wait_for(of_replica, &role("master"), |value| value == 1.0);
    assert_eq!(own.value("zdb_replication_term"), 1.0);
    replica.terminate();
}

#[test]
fn writes_that_wait_for_replicas_in_vain_are_counted() {
    let (server, address) = start(&["--min-replicas", "1"]);
    let mut client = server.connect();
    for key in ["a", "b"] {
        assert!(client.call(args!["SET", key, "1"]).is_error());
    }
    client.expect(args!["GET", "a"], Reply::Nil);
    wait_for(address, "zdb_replication_writes_refused_total", |value| value == 2.0);
    let refused = field(&mut client, "writes_refused_for_replicas");
    assert_eq!(refused.as_deref(), Some("2"));
}

#[test]
fn the_space_of_each_namespace_is_told() {
    let (server, address) = start(&[]);
    let mut client = server.connect();
    for (name, history) in [("forever", "forever"), ("none", "0"), ("gone", "forever")] {
        client.expect(args!["NSNEW", name], Reply::ok());
        client.expect(args!["NSSET", name, "history", history], Reply::ok());
        client.expect(args!["SELECT", name], Reply::ok());
        for number in 0..3 {
            client.expect(args!["SET", "key", format!("value {number}")], Reply::bulk("key"));
        }
    }
    client.expect(args!["SELECT", "default"], Reply::ok());
    client.expect(args!["NSDEL", "gone"], Reply::ok());
    let after = wait_for(address, "zdb_log_ended_bytes", |value| value > 0.0);
    // A head of 44 bytes, a key of 3, a value of 7, and what is missing to a multiple of 8.
    let record = 56.0;
    assert_eq!(after.value("zdb_log_ended_bytes"), 3.0 * record);
    let space = |name: &str| {
        ["live", "history", "dead"].map(|what| {
            after.value(&format!("zdb_namespace_record_{what}_bytes{{namespace=\"{name}\"}}"))
        })
    };
    assert_eq!(space("forever"), [record, 2.0 * record, 0.0]);
    assert_eq!(space("none"), [record, 0.0, 2.0 * record]);
    assert_eq!(after.value("zdb_disk_full"), 0.0);
}

#[test]
fn what_is_read_from_the_disk_is_cached_and_counted() {
    let (mut server, _) = start(&[]);
    let mut client = server.connect();
    for number in 0..20 {
        let key = number.to_string();
        client.expect(args!["SET", key, vec![b'v'; 1000]], Reply::bulk(&key));
    }
    server.terminate();
    let lines = server.log().len();
    server.resume();
    let line = server.log()[lines..].iter().find(|line| line.contains("metrics on")).cloned();
    let line = line.expect("it serves metrics again");
    let address = line["metrics on http://".len()..].trim_end_matches("/metrics").parse();
    let address = address.expect("an address");
    let mut client = server.connect();
    for _ in 0..3 {
        for number in 0..20 {
            client.expect(args!["GET", number.to_string()], Reply::bulk(vec![b'v'; 1000]));
        }
    }
    let after =
        wait_for(address, "zdb_command_calls_total{command=\"get\"}", |value| value == 60.0);
    assert_eq!(after.value("zdb_cache_misses_total"), 20.0);
    assert_eq!(after.value("zdb_cache_hits_total"), 40.0);
    assert_eq!(after.value("zdb_cache_records"), 20.0);
    assert_eq!(after.value("zdb_data_reads_total"), 20.0);
    assert!(after.value("zdb_cache_bytes") > 20_000.0);
}

/// Names of namespaces are any bytes: they stay one label.
#[test]
fn strange_names_stay_in_their_quotes() {
    let (server, address) = start(&[]);
    let mut client = server.connect();
    for name in
        [&b"a\"b"[..], b"back\\slash", b"two\nlines", b"\xff\xfe", b"}{,=", "\u{3b6}".as_bytes()]
    {
        client.expect(args!["NSNEW", name], Reply::ok());
    }
    let scrape =
        wait_for(address, "zdb_namespace_keys{namespace=\"\u{3b6}\"}", |value| value == 0.0);
    for shown in ["a\\\"b", "back\\\\slash", "two\\nlines", "\u{fffd}\u{fffd}", "}{,="] {
        assert_eq!(scrape.value(&format!("zdb_namespace_keys{{namespace=\"{shown}\"}}")), 0.0);
    }
}

#[test]
fn requests_of_all_kinds_are_answered() {
    let (server, address) = start(&[]);
    let long = [b"GET /metrics HTTP/1.1\r\nCookie: ".to_vec(), vec![b'c'; 20_000]].concat();
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    for (request, status) in [
        (&b"GET /metrics HTTP/1.0\r\n\r\n"[..], "200 OK"),
        (b"GET /metrics?name[]=up HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        (b"GET /metrics/more HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", "405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", "400 Bad Request"),
        (b"*1\r\n$4\r\nPING\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/9.9\r\n\r\n", "400 Bad Request"),
        (&long, "431 Request Header Fields Too Large"),
        (many.as_bytes(), "431 Request Header Fields Too Large"),
    ] {
        let shown = request[..request.len().min(60)].escape_ascii();
        let (line, headers, body) = ask(address, request);
        assert_eq!(line, format!("HTTP/1.1 {status}"), "{shown}");
        assert_eq!(headers["connection"], "close", "{shown}");
        assert_eq!(headers["content-length"], body.len().to_string(), "{shown}");
    }
    let (line, headers, body) = ask(address, b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((&*line, &*body), ("HTTP/1.1 200 OK", ""));
    assert!(headers["content-length"].parse::<usize>().is_ok_and(|length| length > 1000));
    // In pieces, and more than is needed.
    let mut stream = TcpStream::connect(address).expect("a connection");
    for byte in b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" {
        stream.write_all(&[*byte]).expect("it is sent");
    }
    assert_eq!(response(&mut stream).0, "HTTP/1.1 200 OK");
    server.ask_others();
}

/// Scrapers that say nothing, or read nothing, cost neither clients nor other scrapers anything for long.
#[test]
fn slow_scrapers_stall_nobody() {
    let (mut server, address) = start(&[]);
    let mut client = server.connect();
    for number in 0..2000 {
        client.expect(args!["NSNEW", format!("namespace-with-a-long-name-{number}")], Reply::ok());
    }
    let deaf: Vec<TcpStream> = (0..6)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is sent");
            stream
        })
        .collect();
    scrape(address);
    let mut silent: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let mut slowest = Duration::ZERO;
    for number in 0..300 {
        let before = Instant::now();
        client.expect(args!["SET", "key", number.to_string()], Reply::bulk("key"));
        slowest = slowest.max(before.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "one SET took {slowest:?}");
    // The silent ones are turned away, now or when their time is over; then there is room again.
    for stream in &mut silent {
        stream.set_read_timeout(Some(TIME_MAX)).expect("a time limit");
        let mut text = String::new();
        match stream.read_to_string(&mut text) {
            Ok(_) => assert!(text.is_empty() || text.contains("408"), "{text}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    drop(deaf);
    let back = poll(TIME_MAX, || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.starts_with("HTTP/1.1 200").then_some(())
    });
    assert!(back.is_some(), "no scrape succeeds any more");
    // A stop waits for none of them.
    let _silent = TcpStream::connect(address).expect("a connection");
    let before = Instant::now();
    assert_eq!(server.terminate().code(), Some(143));
    assert!(before.elapsed() < Duration::from_secs(10), "the stop took {:?}", before.elapsed());
}

#[test]
fn impossible_addresses_are_refused() {
    let (server, address) = start(&[]);
    for place in [&address.to_string()[..], "127.0.0.1", "nonsense:port", "203.0.113.1:1"] {
        let refusal = Setup::new().flags(&["--metrics", place]).try_start();
        let refusal = refusal.err().unwrap_or_else(|| panic!("{place} was accepted"));
        assert_eq!(refusal.code, Some(1), "{refusal:?}");
        assert!(
            refusal.log.iter().any(|line| line.contains("cannot serve metrics")),
            "{refusal:?}"
        );
    }
    server.ask_others();
}
