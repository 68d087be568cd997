//! A replica has what its master has: all of it, at the same places, through kills, broken links, changes of
//! who is the master, and copies that begin anew.

use compat_tests::certificates::Certificates;
use compat_tests::client::encode;
use compat_tests::server::{Buffer, Setup, poll};
use compat_tests::wire::{field, follow, in_sync};
use compat_tests::{Client, Reply, Server, args, count_from_env, seed};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const TIME_MAX: Duration = Duration::from_secs(30);
const SMALL: [&str; 4] = ["--datasize", "524288", "--cleaner-rate", "0"];

fn setup(flags: &[&str]) -> Setup {
    Setup::new().flags(&SMALL).flags(flags)
}

fn place(of: SocketAddr) -> String {
    format!("{} {}", of.ip(), of.port())
}

fn replica(of: &Server, flags: &[&str]) -> Server {
    setup(flags).flags(&["--replicaof", &place(of.address())]).start()
}

/// All that clients can see of a namespace: keys in their order with cursors, values, all versions with tokens.
fn everything(client: &mut Client) -> BTreeMap<String, Vec<Reply>> {
    let mut all = BTreeMap::new();
    for name in client.call(args!["NSLIST"]).into_array() {
        let name = name.into_bytes();
        client.expect(args!["SELECT", name], Reply::ok());
        let mut seen = Vec::new();
        let info = client.call(args!["NSINFO", name]).into_bytes();
        let info = String::from_utf8_lossy(&info).into_owned();
        let is_same = |line: &&str| {
            let wanted =
                ["entries:", "data_size_bytes:", "mode:", "worm:", "locked:", "data_limits_bytes:"];
            wanted.iter().any(|name| line.starts_with(name)) || line.starts_with("history:")
        };
        seen.extend(info.lines().filter(is_same).map(Reply::bulk));
        let mut cursor: Option<Vec<u8>> = None;
        loop {
            let page = match &cursor {
                None => client.call(args!["SCAN"]),
                Some(cursor) => client.call(args!["SCAN", cursor]),
            };
            let Reply::Array(parts) = &page else { break };
            let Reply::Array(entries) = &parts[1] else { panic!("SCAN answers {page:?}") };
            // Where a page ends is each server's own affair.
            for entry in entries {
                seen.push(entry.clone());
                let key = entry.clone().into_array().remove(0).into_bytes();
                seen.push(client.call(args!["GET", key]));
                let mut version = client.call(args!["HISTORY", key]);
                while let Reply::Array(parts) = &version {
                    let token = parts[0].clone();
                    seen.push(version);
                    let Reply::Bulk(token) = token else { break };
                    version = client.call(args!["HISTORY", key, token]);
                }
            }
            let Reply::Bulk(next) = &parts[0] else { panic!("SCAN answers {page:?}") };
            cursor = Some(next.to_vec());
        }
        all.insert(String::from_utf8_lossy(&name).into_owned(), seen);
    }
    all
}

#[track_caller]
fn same(master: &Server, replica: &Server) {
    in_sync(master, replica);
    let (ours, theirs) = (everything(&mut master.connect()), everything(&mut replica.connect()));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, ours) in &ours {
        for (at, (one, other)) in ours.iter().zip(&theirs[name]).enumerate() {
            assert_eq!(one, other, "{name}, number {at}");
        }
        assert_eq!(ours.len(), theirs[name].len(), "{name}");
    }
}

/// Writes of all kinds in the selected namespace.
fn churn(client: &mut Client, random: &mut Rng, count: usize) {
    for _ in 0..count.div_ceil(50) {
        let mut requests = Vec::new();
        for _ in 0..50 {
            let key = format!("key-{}", random.usize(..200));
            let value = vec![random.u8(..); random.usize(..3000)];
            match random.u8(..10) {
                0 => encode(args!["DEL", key], &mut requests),
                1 => encode(args!["MSET", key, value, "second", "one"], &mut requests),
                2 => encode(args!["SET", key, value, "1700000000"], &mut requests),
                _ => encode(args!["SET", key, value], &mut requests),
            }
        }
        // A server that is killed answers no more.
        if client.pipeline(&requests, 50).1.is_err() {
            return;
        }
    }
}

#[test]
fn everything_replicates() {
    let master = setup(&[]).start();
    let mut client = master.connect();
    let mut random = Rng::with_seed(seed("replication"));
    churn(&mut client, &mut random, 500);
    client.expect(args!["NSNEW", "ids"], Reply::ok());
    client.expect(args!["NSSET", "ids", "mode", "seq"], Reply::ok());
    let first = replica(&master, &[]);
    in_sync(&master, &first);
    client.expect(args!["SELECT", "ids"], Reply::ok());
    for at in 0..300 {
        client.call(args!["SET", "", format!("value {at}")]);
    }
    client.call(args!["DEL", 7u64.to_le_bytes()]);
    for name in ["users", "gone", "flushed"] {
        client.expect(args!["NSNEW", name], Reply::ok());
        client.expect(args!["NSSET", name, "password", "secret"], Reply::ok());
        client.expect(args!["NSSET", name, "public", "0"], Reply::ok());
        client.expect(args!["SELECT", name, "secret"], Reply::ok());
        churn(&mut client, &mut random, 200);
        if name == "flushed" {
            client.expect(args!["FLUSH"], Reply::ok());
            client.call(args!["SET", "after", "the flush"]);
        }
    }
    client.expect(args!["SELECT", "default"], Reply::ok());
    client.expect(args!["NSDEL", "gone"], Reply::ok());
    for name in ["users", "flushed"] {
        client.expect(args!["NSSET", name, "password", "*"], Reply::ok());
    }
    client.expect(args!["NSSET", "users", "maxsize", "100000000"], Reply::ok());
    client.expect(args!["NSSET", "users", "history", "5"], Reply::ok());
    client.expect(args!["NSJUMP"], Reply::ok());
    client.call(args!["SET", "large", vec![9; 8 << 20]]);
    churn(&mut client, &mut random, 500);
    same(&master, &first);
    let second = replica(&master, &["--threads", "2", "--threads-busy", "0", "--sync", "always"]);
    same(&master, &second);
    // Replicas of replicas.
    let third = replica(&second, &["--buffer", "none"]);
    in_sync(&master, &second);
    same(&second, &third);
    let refused = first.connect().call(args!["SET", "a", "b"]);
    let text = "READONLY You can't write against a read only replica.";
    assert_eq!(refused, Reply::error(text));
    for request in [args!["NSNEW", "x"], args!["DEL", "a"], args!["NSJUMP"], args!["FLUSH"]] {
        assert_eq!(first.connect().call(request), Reply::error(text));
    }
    churn(&mut client, &mut random, 50);
    let count = client.call(args!["WAIT", "2", "10000"]).into_integer();
    assert_eq!(count, 2);
    same(&master, &third);
}

/// Kills either of both in the middle of writes, again and again.
fn kills(flags: &[&str], rounds: usize) {
    let mut random = Rng::with_seed(seed("replication"));
    let mut master = setup(flags).start();
    churn(&mut master.connect(), &mut random, 100);
    let mut copy = replica(&master, flags);
    in_sync(&master, &copy);
    for round in 0..rounds {
        let mut client = master.connect();
        let count = random.usize(1..2000);
        std::thread::scope(|scope| {
            let mut random = random.fork();
            let pause = Duration::from_millis(random.u64(..300));
            let load = scope.spawn(move || churn(&mut client, &mut random, count));
            std::thread::sleep(pause);
            match round % 4 {
                0 => copy.kill(),
                1 => drop(copy.terminate()),
                2 => master.kill(),
                _ => drop(master.terminate()),
            }
            load.join().expect("the load ends");
        });
        match round % 4 {
            0 | 1 => copy.resume(),
            _ => {
                let port = master.address().port().to_string();
                master.set_flags(&[flags, &SMALL, &["--port", &port]].concat());
                master.resume();
            }
        }
        churn(&mut master.connect(), &mut random, 100);
        same(&master, &copy);
    }
}

#[test]
fn kills_cost_no_more_than_a_link_everysec() {
    kills(&["--sync", "everysec"], count_from_env("ZDB_REPLICATION_ROUNDS", 12));
}

#[test]
fn kills_cost_no_more_than_a_link_always() {
    kills(&["--sync", "always"], count_from_env("ZDB_REPLICATION_ROUNDS", 8));
}

#[test]
fn kills_cost_no_more_than_a_link_without_a_buffer() {
    kills(&["--buffer", "none"], count_from_env("ZDB_REPLICATION_ROUNDS", 8));
}

#[test]
fn a_copy_begins_with_what_the_cleaner_left() {
    let mut random = Rng::with_seed(seed("replication"));
    let master = setup(&[]).start();
    let mut client = master.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    for _ in 0..4 {
        churn(&mut client, &mut random, 2000);
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
    }
    let cleaned = poll(TIME_MAX, || {
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        let text = client.call(args!["INFO", "engine"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        let count = text.lines().find_map(|line| line.strip_prefix("cleaner_segments_cleaned: "));
        (count?.trim().parse::<u64>().ok()? > 3).then_some(())
    });
    assert!(cleaned.is_some(), "the cleaner has work");
    let copy = replica(&master, &[]);
    in_sync(&master, &copy);
    churn(&mut client, &mut random, 500);
    in_sync(&master, &copy);
    let values = |client: &mut Client| {
        let keys = (0..200).map(|at| format!("key-{at}"));
        keys.map(|key| client.call(args!["GET", key])).collect::<Vec<_>>()
    };
    assert_eq!(values(&mut client), values(&mut copy.connect()));
    assert_eq!(client.call(args!["DBSIZE"]), copy.connect().call(args!["DBSIZE"]));
}

#[test]
fn the_way_to_the_master_is_encrypted_where_it_is_told_to() {
    let certificates = Certificates::new();
    let mut flags = certificates.server_flags();
    let authority = certificates.authority().display().to_string();
    flags.extend(["--tls-ca".to_owned(), authority.clone()]);
    let master = Setup::new().flags(&SMALL).flags(&flags).start();
    churn(&mut master.connect(), &mut Rng::with_seed(seed("replication")), 200);
    let port = master.tls_address().port();
    let (certificate, key) = certificates.client();
    let of = |host: &str, with_certificate: bool| {
        let mut setup =
            setup(&["--replicaof", &format!("{host} {port}"), "--master-tls-ca", &authority]);
        if with_certificate {
            let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
            setup = setup.flags(&["--master-tls-cert", &certificate, "--master-tls-key", &key]);
        }
        setup.start()
    };
    let replica = of("127.0.0.1", true);
    same(&master, &replica);
    churn(&mut master.connect(), &mut Rng::with_seed(1), 3000);
    same(&master, &replica);
    // Without a certificate of its own, or to a host that the master's has not, nothing is copied.
    let refused = of("127.0.0.1", false);
    refused.wait_for_log("a refusal", |line| line.contains("TLS: master 127.0.0.1"));
    let other = of("127.1", true);
    let is_refusal = |line: &str| line.contains("no name that a certificate can have");
    other.wait_for_log("a refusal", |line| is_refusal(line) || line.contains("TLS: master"));
    for server in [refused, other] {
        assert_eq!(field(&mut server.connect(), "master_link_status").as_deref(), Some("down"));
    }
}

/// A replica behind NAT is shown where it says that it is.
#[test]
fn a_replica_tells_where_it_is_reached() {
    let master = setup(&[]).start();
    let flags = ["--replica-announce-ip", "replica.example", "--replica-announce-port", "9907"];
    let copy = replica(&master, &flags);
    in_sync(&master, &copy);
    let mut client = copy.connect();
    let shown = |host: &str, port: &str| {
        let start = format!("ip={host},port={port},state=online");
        let found = poll(TIME_MAX, || {
            let line = field(&mut master.connect(), "slave0")?;
            line.starts_with(&start).then_some(())
        });
        assert!(found.is_some(), "{:?}, not {start}", field(&mut master.connect(), "slave0"));
        let role = master.connect().call(args!["ROLE"]).into_array().remove(2).into_array();
        let role = role.into_iter().next().expect("it has a replica").into_array();
        assert_eq!(role[..2], [Reply::bulk(host), Reply::bulk(port)]);
    };
    shown("replica.example", "9907");
    // While it runs, too.
    let set = |client: &mut Client, host: &str, port: &str| {
        let request = ["CONFIG", "SET", "replica-announce-ip", host, "replica-announce-port", port];
        client.expect(&request, Reply::ok());
    };
    set(&mut client, "2001:db8::7", "1");
    shown("2001:db8::7", "1");
    set(&mut client, "", "0");
    shown("127.0.0.1", &copy.address().port().to_string());
    in_sync(&master, &copy);
    for (flag, value, why) in [
        ("--replica-announce-ip", "two words", "it takes the name or the address of a host"),
        ("--replica-announce-ip", "a,port=1", "it takes the name or the address of a host"),
        ("--replica-announce-ip", "", "it takes the name or the address of a host"),
        ("--replica-announce-port", "65536", "65536 is not in 0..=65535"),
        ("--replica-announce-port", "-1", "-1"),
        ("--replica-announce-port", "http", "invalid value 'http'"),
    ] {
        let refusal = setup(&[&format!("{flag}={value}")]).try_start();
        let refusal = refusal.err().unwrap_or_else(|| panic!("{flag} {value:?} is taken"));
        assert!(refusal.log.iter().any(|line| line.contains(why)), "{value:?}: {refusal:?}");
    }
}

#[test]
fn who_wrote_what_nobody_else_has_keeps_it_aside() {
    let mut random = Rng::with_seed(seed("replication"));
    let mut first = setup(&[]).start();
    churn(&mut first.connect(), &mut random, 300);
    let second = replica(&first, &[]);
    let third = replica(&first, &[]);
    in_sync(&first, &second);
    in_sync(&first, &third);
    // The link is gone, and both write on.
    second.connect().expect(args!["REPLICAOF", "NO", "ONE"], Reply::ok());
    follow(&mut third.connect(), second.address());
    first.connect().call(args!["SET", "alone", "what nobody else has"]);
    churn(&mut first.connect(), &mut random, 700);
    churn(&mut second.connect(), &mut random, 700);
    same(&second, &third);
    follow(&mut first.connect(), second.address());
    same(&second, &first);
    assert_eq!(first.connect().call(args!["GET", "alone"]), Reply::Nil);
    let line = first.wait_for_log("what was set aside", |line| line.contains("nobody else has"));
    let aside = line.split_whitespace().find(|word| word.starts_with("aside-")).expect("a name");
    let kept = first.data_dir().join(aside);
    std::fs::create_dir(first.data_dir().join("no-index")).expect("an empty directory");
    let dumped = std::process::Command::new(compat_tests::server::binary())
        .args(["dump", "--payload", "--data"])
        .arg(&kept)
        .arg("--index")
        .arg(first.data_dir().join("no-index"))
        .output()
        .expect("zdb dump runs");
    let text = String::from_utf8_lossy(&dumped.stdout);
    assert!(text.contains("what nobody else has"), "{aside}: {text} {dumped:?}");
    // And back again, after a kill.
    first.kill();
    first.resume();
    // What was not rewritten into its settings it has forgotten: it is a master.
    assert_eq!(field(&mut first.connect(), "role").as_deref(), Some("master"));
    follow(&mut second.connect(), first.address());
    follow(&mut third.connect(), first.address());
    churn(&mut first.connect(), &mut random, 300);
    same(&first, &second);
    same(&first, &third);
}

#[test]
fn a_server_with_another_log_begins_anew() {
    let mut random = Rng::with_seed(seed("replication"));
    let (master, other) = (setup(&[]).start(), setup(&[]).start());
    churn(&mut master.connect(), &mut random, 300);
    churn(&mut other.connect(), &mut random, 500);
    follow(&mut other.connect(), master.address());
    same(&master, &other);
    let line = other.wait_for_log("what was set aside", |line| line.contains("nothing reads it"));
    let aside = line.split_whitespace().find(|word| word.starts_with("aside-")).expect("a name");
    let old = Setup::new()
        .flags(&["--data", other.data_dir().join(aside).to_str().expect("a plain path")])
        .flags(&["--index", other.data_dir().join("index-of-old").to_str().expect("a plain path")])
        .buffer(Buffer::None)
        .start();
    assert_ne!(old.connect().call(args!["DBSIZE"]), Reply::Integer(0));
}

/// Two that follow each other give way to none.
#[test]
fn two_that_follow_each_other_lose_nothing() {
    let mut random = Rng::with_seed(seed("replication"));
    let one = setup(&[]).start();
    churn(&mut one.connect(), &mut random, 300);
    let other = replica(&one, &[]);
    in_sync(&one, &other);
    follow(&mut one.connect(), other.address());
    for server in [&one, &other] {
        server.wait_for_log("why it waits", |line| line.contains("NOMASTERLINK"));
        assert!(!server.log().iter().any(|line| line.contains("aside-")), "{:?}", server.log());
    }
    one.connect().expect(args!["REPLICAOF", "NO", "ONE"], Reply::ok());
    same(&one, &other);
}

#[test]
fn a_write_waits_for_replicas_where_it_has_to() {
    let flags = ["--min-replicas", "1"];
    let master = setup(&flags).start();
    let text = "NOREPLICAS Not enough good replicas to write.";
    assert_eq!(master.connect().call(args!["SET", "a", "1"]), Reply::error(text));
    let mut first = replica(&master, &flags);
    let taken = poll(TIME_MAX, || {
        (master.connect().call(args!["SET", "a", "1"]) == Reply::bulk("a")).then_some(())
    });
    assert!(taken.is_some(), "{:?} {:?}", master.log(), first.log());
    let second = replica(&master, &flags);
    in_sync(&master, &first);
    in_sync(&master, &second);
    churn(&mut master.connect(), &mut Rng::with_seed(seed("replication")), 300);
    same(&master, &first);
    // Of three servers two go on.
    first.kill();
    let mut client = master.connect();
    assert_eq!(client.call(args!["SET", "b", "2"]), Reply::bulk("b"));
    in_sync(&master, &second);
    // The other one takes over, with the promise of the one that comes back.
    second.connect().expect(args!["REPLICAOF", "NO", "ONE"], Reply::ok());
    assert_eq!(second.connect().call(args!["SET", "c", "3"]), Reply::error(text));
    first.resume();
    follow(&mut first.connect(), second.address());
    let taken = poll(TIME_MAX, || {
        (second.connect().call(args!["SET", "c", "3"]) == Reply::bulk("c")).then_some(())
    });
    assert!(taken.is_some(), "{:?} {:?}", second.log(), first.log());
    same(&second, &first);
    assert_eq!(second.connect().call(args!["GET", "b"]), Reply::bulk("2"));
    // The old master has nobody any more.
    assert_eq!(client.call(args!["SET", "d", "4"]), Reply::error(text));
    follow(&mut client, second.address());
    same(&second, &master);
}

/// With replicas for each write a server that others follow must not take their data away: one with another log is
/// told so, and one without any gets what the others have.
#[test]
fn servers_with_different_logs_do_not_agree() {
    let (first, second) = (setup(&[]).start(), setup(&[]).start());
    for server in [&first, &second] {
        server.connect().call(args!["SET", "key", "value"]);
        server.connect().expect(args!["CONFIG", "SET", "nodes", "3"], Reply::ok());
        let set = args!["CONFIG", "SET", "min-replicas-to-write", "1"];
        server.connect().expect(set, Reply::ok());
    }
    follow(&mut second.connect(), first.address());
    second.wait_for_log("a refusal", |line| line.contains("different logs cannot agree"));
    assert_eq!(second.connect().call(args!["GET", "key"]), Reply::bulk("value"));
    drop(second);
    let empty = setup(&["--min-replicas", "1", "--nodes", "3"]).start();
    follow(&mut first.connect(), empty.address());
    let taken = poll(TIME_MAX, || {
        let mut client = Client::connect(empty.address()).ok()?;
        (client.try_call(args!["SET", "other", "1"]).ok()? == Reply::bulk("other")).then_some(())
    });
    assert!(taken.is_some(), "{:?} {:?}", empty.log(), first.log());
    assert_eq!(empty.connect().call(args!["GET", "key"]), Reply::bulk("value"));
    same(&empty, &first);
}

/// Changes bytes of the segment's file that has this text, from the text's place on.
#[track_caller]
fn damage(server: &Server, text: &str, change: impl FnOnce(&mut [u8], usize)) {
    for entry in std::fs::read_dir(server.data_dir()).expect("the data directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|ending| ending != "log") {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("a segment");
        let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = found {
            change(&mut bytes, at);
            return std::fs::write(&path, bytes).expect("it can be changed");
        }
    }
    panic!("no segment has {text}");
}

/// A disk that lost some bytes can still be copied: what is lost stays lost, at its own place, everywhere.
#[test]
fn damage_does_not_keep_a_replica_from_all_the_rest() {
    let mut random = Rng::with_seed(seed("replication"));
    let mut first = setup(&["--cleaner", "no"]).start();
    let mut client = first.connect();
    let filler = |text: &str| text.repeat(9000 / text.len());
    client.expect(args!["SET", "payload", "old"], Reply::bulk("payload"));
    const TEXTS: [&str; 5] =
        ["in-a-payload-", "in-a-head-", "in-all-of-it-", "in-a-batch-", "in-a-member-"];
    for text in TEXTS {
        let before = format!("before {text}");
        client.expect(args!["SET", before, "kept"], Reply::bulk(&before));
        let key = if text == "in-a-payload-" { "payload" } else { text };
        match text {
            "in-a-batch-" | "in-a-member-" => {
                let more = format!("more {text}");
                client.expect(args!["MSET", key, filler(text), more, "kept"], Reply::ok());
            }
            _ => client.expect(args!["SET", key, filler(text)], Reply::bulk(key)),
        }
        churn(&mut client, &mut random, 100);
    }
    // At the end of a segment, with its seal, and in the middle of the next.
    client.expect(args!["NSJUMP"], Reply::ok());
    client.expect(args!["SET", "last", "of all"], Reply::bulk("last"));
    first.terminate();
    damage(&first, &filler("in-a-payload-"), |bytes, at| bytes[at + 5000] ^= 1);
    damage(&first, &filler("in-a-head-"), |bytes, at| bytes[at - 30] ^= 1);
    damage(&first, &filler("in-all-of-it-"), |bytes, at| bytes[at - 40..at + 8000].fill(0));
    damage(&first, &filler("in-a-batch-"), |bytes, at| bytes[at - 90] ^= 1);
    damage(&first, &filler("in-a-member-"), |bytes, at| bytes[at + 5000] ^= 1);
    first.resume();
    first.connect().expect(args!["SET", "since", "then"], Reply::bulk("since"));
    let mut second = replica(&first, &["--cleaner", "no"]);
    in_sync(&first, &second);
    second.wait_for_log("what is lost", |line| line.contains("are damaged on the server"));
    let check = |server: &Server| {
        let mut client = server.connect();
        for text in TEXTS {
            client.expect(args!["GET", format!("before {text}")], Reply::bulk("kept"));
        }
        client.expect(args!["GET", "payload"], Reply::error("Internal Error"));
        client.expect(args!["GET", "more in-a-batch-"], Reply::bulk("kept"));
        client.expect(args!["GET", "more in-a-member-"], Reply::bulk("kept"));
        client.expect(args!["GET", "last"], Reply::bulk("of all"));
    };
    check(&first);
    check(&second);
    let third = replica(&second, &["--cleaner", "no"]);
    in_sync(&second, &third);
    check(&third);
    // A start makes the same of it by the log alone, and goes on there.
    second.kill();
    std::fs::remove_dir_all(second.index_dir()).expect("the index can be removed");
    second.resume();
    churn(&mut first.connect(), &mut random, 100);
    in_sync(&first, &second);
    check(&second);
    assert!(!second.log().iter().any(|line| line.contains("begins anew")), "{:?}", second.log());
    let keys = |server: &Server| {
        (0..200)
            .map(|at| server.connect().call(args!["GET", format!("key-{at}")]))
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&first), keys(&second));
    follow(&mut third.connect(), second.address());
    in_sync(&second, &third);
    assert_eq!(keys(&first), keys(&third));
}
