//! The cleaner gives space back, and nothing but what a namespace wants no more: overwritten, deleted and flushed
//! values, on the real disk, through stops, kills, a lost index and a full disk.

use compat_tests::client::encode;
use compat_tests::mount::Mount;
use compat_tests::server::{Buffer, Setup, poll};
use compat_tests::{Client, Reply, Server, args, count_from_env, seed};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

const SMALL: [&str; 6] = ["--datasize", "524288", "--cache", "1M", "--cleaner-rate", "0"];
const CLEAN_TIME_MAX: Duration = Duration::from_secs(60);

/// What a namespace must hold.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Bytes of the segments.
fn log_bytes(data: &Path) -> u64 {
    let entries = std::fs::read_dir(data).expect("the data directory can be listed");
    let logs = entries.map(|entry| entry.expect("it can be read"));
    let logs = logs.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "log"));
    // A file may be renamed meanwhile.
    logs.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn field(client: &mut Client, name: &str) -> String {
    let text = client.call(args!["INFO", "all"]).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("INFO has {name}: {text}")).trim().to_owned()
}

fn number(client: &mut Client, name: &str) -> u64 {
    field(client, name).parse().expect("a number")
}

/// Lets the cleaner look at everything, until it finds nothing more to do.
#[track_caller]
fn clean(client: &mut Client) {
    // What is not durable yet it leaves alone. On a full disk this is refused, and then all else was, too.
    client.expect(args!["CONFIG", "SET", "appendfsync", "always"], Reply::ok());
    client.call(args!["SET", "durable", "now"]);
    client.call(args!["DEL", "durable"]);
    client.expect(args!["CONFIG", "SET", "appendfsync", "everysec"], Reply::ok());
    let mut before = None;
    let rested = poll(CLEAN_TIME_MAX, || {
        let done = number(client, "cleaner_segments_cleaned");
        if field(client, "cleaner_state") != "resting" {
            return None;
        }
        if before == Some(done) {
            return Some(());
        }
        before = Some(done);
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        None
    });
    assert!(rested.is_some(), "the cleaner does not come to rest");
}

/// Overwrites and deletes at random; every reply is well.
fn churn(client: &mut Client, random: &mut Rng, model: &mut Model, keys: usize, count: usize) {
    for _ in 0..count.div_ceil(100) {
        let mut requests = Vec::new();
        for _ in 0..100 {
            let key = format!("key-{}", random.usize(..keys)).into_bytes();
            if random.u8(..10) == 0 {
                encode(args!["DEL", key], &mut requests);
                model.remove(&key);
            } else {
                let value = random_value(random);
                encode(args!["SET", key, value], &mut requests);
                model.insert(key, value);
            }
        }
        let (replies, sent) = client.pipeline(&requests, 100);
        sent.expect("the requests are taken");
        for reply in replies {
            let is_missing = reply == Reply::error("Key not found");
            assert!(!reply.is_error() || is_missing, "a write is answered with {reply:?}");
        }
    }
}

fn random_value(random: &mut Rng) -> Vec<u8> {
    let length = if random.u8(..50) == 0 { random.usize(..20_000) } else { random.usize(..400) };
    let mut value = random.u64(..).to_string().into_bytes();
    value.resize(value.len() + length, random.u8(..));
    value
}

#[track_caller]
fn verify(client: &mut Client, model: &Model, keys: usize) {
    for at in 0..keys {
        let key = format!("key-{at}").into_bytes();
        let expected = model.get(&key).map_or(Reply::Nil, Reply::bulk);
        assert_eq!(client.call(args!["GET", key]), expected, "key-{at}");
    }
    assert_eq!(scan(client), model.keys().cloned().collect(), "SCAN shows what is there");
    assert_eq!(client.call(args!["DBSIZE"]).into_integer(), model.len() as i64);
}

fn scan(client: &mut Client) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let mut page = client.call(args!["SCAN", cursor, "COUNT", "300"]).into_array();
        let keys = page.remove(1).into_array();
        for key in keys {
            let key = key.into_bytes().to_vec();
            assert!(found.insert(key), "SCAN shows a key twice");
        }
        cursor = page.remove(0).into_bytes().to_vec();
        if cursor == b"0" {
            return found;
        }
    }
}

#[test]
fn space_of_overwritten_and_deleted_values_comes_back() {
    const KEYS: usize = 500;
    let mut random = Rng::with_seed(seed("cleaned and restarted"));
    let mut server = Server::start(&SMALL);
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let mut model = Model::new();
    for round in 0..3 {
        churn(&mut client, &mut random, &mut model, KEYS, 10_000);
        let before = log_bytes(&server.data_dir());
        // What is not durable yet is not cleaned: a busy disk may take seconds for that.
        let mut after = before;
        let is_half = poll(CLEAN_TIME_MAX, || {
            clean(&mut client);
            after = log_bytes(&server.data_dir());
            (after < before / 2).then_some(())
        });
        let live: usize = model.iter().map(|(key, value)| key.len() + value.len() + 60).sum();
        assert!(is_half.is_some(), "round {round}: {before} bytes became {after}");
        assert!(after < 3 * live as u64 + (2 << 20), "{after} bytes for {live} that live");
        verify(&mut client, &model, KEYS);
        match round {
            0 => drop(server.terminate()),
            1 => server.kill(),
            _ => {
                server.terminate();
                std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
            }
        }
        server.resume();
        client = server.connect();
        verify(&mut client, &model, KEYS);
    }
    let info = client.call(args!["NSINFO", "default"]).into_bytes();
    let info = String::from_utf8_lossy(&info).into_owned();
    let bytes: usize = model.values().map(Vec::len).sum();
    assert!(info.contains(&format!("data_size_bytes: {bytes}\n")), "{info}");
    assert!(info.contains("data_history_bytes: 0\n"), "{info}");
}

#[test]
fn as_many_versions_stay_as_the_namespace_keeps() {
    let mut server = Server::start(&SMALL);
    let mut client = server.connect();
    for (name, history) in [("two", "2"), ("all", "forever"), ("year", "365d")] {
        client.expect(args!["NSNEW", name], Reply::ok());
        client.expect(args!["NSSET", name, "history", history], Reply::ok());
        client.expect(args!["SELECT", name], Reply::ok());
        for version in 0..20 {
            for key in 0..50 {
                let value = format!("{name} {key} {version} {}", "v".repeat(700));
                client
                    .expect(args!["SET", format!("k{key}"), value], Reply::bulk(format!("k{key}")));
            }
        }
    }
    clean(&mut client);
    assert!(number(&mut client, "cleaner_records_dropped") > 500, "the cleaner was at work");
    for restart in [false, true] {
        if restart {
            server.terminate();
            std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
            server.resume();
            client = server.connect();
        }
        for (name, least, most) in [("two", 3, 19), ("all", 20, 20), ("year", 20, 20)] {
            client.expect(args!["SELECT", name], Reply::ok());
            let mut shown = Vec::new();
            for key in 0..50 {
                let versions = history(&mut client, &format!("k{key}"));
                for (at, version) in versions.iter().enumerate() {
                    let expected = format!("{name} {key} {} ", 19 - at);
                    assert!(version.starts_with(expected.as_bytes()), "{name} k{key} {at}");
                }
                shown.push(versions.len());
            }
            assert!(shown.iter().all(|count| *count >= least), "{name}: {shown:?}");
            // What is in the write buffer is still shown.
            assert!(!restart || shown.iter().any(|count| *count <= most), "{name}: {shown:?}");
        }
    }
}

/// The versions of a key, the newest first.
fn history(client: &mut Client, key: &str) -> Vec<Vec<u8>> {
    let mut versions = Vec::new();
    let mut reply = client.call(args!["HISTORY", key]).into_array();
    loop {
        versions.push(reply.remove(2).into_bytes().to_vec());
        match reply.remove(0) {
            Reply::Nil => return versions,
            token => match client.call(args!["HISTORY", key, token.into_bytes()]) {
                Reply::Array(next) => reply = next,
                gone => {
                    assert_eq!(gone, Reply::error("No more history"));
                    return versions;
                }
            },
        }
    }
}

#[test]
fn ids_go_on_where_they_were() {
    let mut server = Server::start(&SMALL);
    let mut client = server.connect();
    client.expect(args!["NSNEW", "ids"], Reply::ok());
    client.expect(args!["NSSET", "ids", "mode", "seq"], Reply::ok());
    client.expect(args!["NSSET", "ids", "history", "0"], Reply::ok());
    client.expect(args!["SELECT", "ids"], Reply::ok());
    let mut live = BTreeMap::new();
    let mut next = 0_u64;
    for round in 0..4_000_u64 {
        let id = client.call(args!["SET", "", format!("{round} {}", "i".repeat(900))]).into_bytes();
        assert_eq!(id, next.to_le_bytes().as_slice());
        live.insert(next, round);
        next += 1;
        if round % 3 > 0 {
            client.expect(args!["DEL", next.wrapping_sub(1).to_le_bytes()], Reply::ok());
            live.remove(&(next - 1));
        }
    }
    clean(&mut client);
    assert!(log_bytes(&server.data_dir()) < 3 << 20, "{}", log_bytes(&server.data_dir()));
    for restart in 0..3 {
        if restart > 0 {
            server.terminate();
            if restart == 2 {
                std::fs::remove_dir_all(server.index_dir()).expect("the index can be removed");
            }
            server.resume();
            client = server.connect();
            client.expect(args!["SELECT", "ids"], Reply::ok());
        }
        for id in 0..next {
            let value = client.call(args!["GET", id.to_le_bytes()]);
            match live.get(&id) {
                None => assert_eq!(value, Reply::Nil, "id {id}"),
                Some(round) => {
                    let start = format!("{round} i");
                    assert!(value.into_bytes().starts_with(start.as_bytes()), "id {id}");
                }
            }
        }
        let id = client.call(args!["SET", "", format!("{next} i")]).into_bytes();
        assert_eq!(id, next.to_le_bytes().as_slice(), "after {restart} restarts");
        live.insert(next, next);
        next += 1;
    }
}

#[test]
fn space_of_flushed_and_removed_namespaces_comes_back() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    for name in ["flushed", "removed", "kept"] {
        client.expect(args!["NSNEW", name], Reply::ok());
        client.expect(args!["NSSET", name, "password", "secret"], Reply::ok());
        client.expect(args!["NSSET", name, "public", "0"], Reply::ok());
        client.expect(args!["SELECT", name, "secret"], Reply::ok());
        for at in 0..4_000 {
            let key = format!("{name}-{at}");
            client.expect(args!["SET", key, "x".repeat(1000)], Reply::bulk(&key));
        }
    }
    clean(&mut client);
    let before = log_bytes(&server.data_dir());
    assert!(before > 12 << 20, "all is kept by default: {before}");
    client.expect(args!["SELECT", "flushed", "secret"], Reply::ok());
    client.expect(args!["FLUSH"], Reply::ok());
    client.expect(args!["NSDEL", "removed"], Reply::ok());
    clean(&mut client);
    let after = log_bytes(&server.data_dir());
    assert!(after < 6 << 20, "{before} bytes became {after}");
    client.expect(args!["SELECT", "kept", "secret"], Reply::ok());
    assert_eq!(scan(&mut client).len(), 4_000);
    // One packed segment stands for those that nobody has anything in.
    assert_eq!(number(&mut client, "cleaner_failures"), 0);
}

/// A key that is written over and over, with more versions in the days that are kept than the cleaner follows
/// from the newest one down: the versions of the days before go all the same.
#[test]
fn days_of_a_key_that_is_written_all_the_time() {
    const OLD: usize = 3_000;
    const NEW: usize = 1_500;
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "2d"], Reply::ok());
    let seconds = client.call(args!["TIME"]).into_array().remove(0).into_bytes();
    let now = String::from_utf8_lossy(&seconds).into_owned();
    let now: u64 = now.parse().expect("a number");
    for at in 0..OLD + NEW {
        let time = if at < OLD { now - 3 * 86_400 } else { now - 3_600 };
        let value = format!("{at} {}", "x".repeat(400));
        client.expect(args!["SET", "counter", value, time.to_string()], Reply::bulk("counter"));
    }
    for at in 0..2_000 {
        let value = format!("{at} {}", "x".repeat(400));
        let key = format!("other-{at}");
        client.expect(args!["SET", key, value], Reply::bulk(&key));
    }
    clean(&mut client);
    let dropped = number(&mut client, "cleaner_records_dropped");
    assert!((OLD as u64 * 9 / 10..OLD as u64).contains(&dropped), "{dropped} of {OLD} dropped");
    // The newest one was written when the last old one became history.
    let versions = history(&mut client, "counter");
    assert!(versions.len() > NEW, "{} versions are left of {NEW} and more", versions.len());
    assert!(versions[0].starts_with(format!("{} ", OLD + NEW - 1).as_bytes()));
}

/// A key that was deleted while all history was kept stays deleted, when less is kept later on.
#[test]
fn a_delete_stays_as_long_as_there_is_something_that_it_ended() {
    let mut server = Server::start(&SMALL);
    let mut client = server.connect();
    for (name, history) in [("all", "forever"), ("days", "9d"), ("none", "0")] {
        client.expect(args!["NSNEW", name], Reply::ok());
        client.expect(args!["NSSET", name, "history", history], Reply::ok());
    }
    let fill = |client: &mut Client| {
        client.expect(args!["SELECT", "none"], Reply::ok());
        for at in 0..1500 {
            let value = format!("{at} {}", "x".repeat(600));
            client.expect(args!["SET", "k", value], Reply::bulk("k"));
        }
    };
    let in_both = |client: &mut Client, request: &[&[u8]], reply: Reply| {
        for name in ["all", "days"] {
            client.expect(args!["SELECT", name], Reply::ok());
            client.expect(request, reply.clone());
        }
    };
    in_both(&mut client, args!["SET", "deleted", "once"], Reply::bulk("deleted"));
    fill(&mut client);
    in_both(&mut client, args!["DEL", "deleted"], Reply::ok());
    fill(&mut client);
    clean(&mut client);
    assert!(number(&mut client, "cleaner_segments_cleaned") > 1);
    for name in ["all", "days"] {
        client.expect(args!["NSSET", name, "history", "0"], Reply::ok());
    }
    for _ in 0..3 {
        fill(&mut client);
        clean(&mut client);
    }
    in_both(&mut client, args!["GET", "deleted"], Reply::Nil);
    server.terminate();
    server.resume();
    client = server.connect();
    in_both(&mut client, args!["GET", "deleted"], Reply::Nil);
}

#[test]
fn a_scan_shows_all_while_segments_are_replaced() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let mut steady = BTreeSet::new();
    let mut random = Rng::with_seed(seed("scans beside the cleaner"));
    let mut model = Model::new();
    for round in 0..30 {
        for at in 0..20 {
            let key = format!("steady-{round}-{at}");
            client.expect(args!["SET", key, "here"], Reply::bulk(&key));
            steady.insert(key.into_bytes());
        }
        churn(&mut client, &mut random, &mut model, 200, 1_000);
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        let found = scan(&mut client);
        assert!(steady.is_subset(&found), "round {round}");
    }
    assert!(number(&mut client, "cleaner_segments_cleaned") > 10, "the cleaner was at work");
    let all: BTreeSet<Vec<u8>> = model.keys().cloned().chain(steady).collect();
    assert_eq!(scan(&mut client), all);
}

#[test]
fn a_full_disk_takes_deletes_and_then_writes_again() {
    let mount = Mount::ext4(24);
    let flags = ["--datasize", "1048576", "--cleaner-rate", "0"];
    let server = Setup::new().home(mount.path()).flags(&flags).start();
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let value = "f".repeat(8 << 10);
    let mut written = 0;
    let refusal = loop {
        let reply = client.call(args!["SET", format!("key-{written}"), value]);
        if reply.is_error() {
            break reply;
        }
        written += 1;
        assert!(written < 10_000, "the disk is never full");
    };
    assert_eq!(refusal, Reply::error("Cannot write data right now"));
    assert_eq!(field(&mut client, "disk_full"), "1");
    for at in 0..written {
        if at % 4 > 0 {
            let key = format!("key-{at}");
            client.expect(args!["DEL", key], Reply::ok());
        }
    }
    clean(&mut client);
    for at in 0..written / 4 {
        let key = format!("again-{at}");
        client.expect(args!["SET", key, value], Reply::bulk(&key));
    }
    assert_eq!(field(&mut client, "disk_full"), "0");
    for at in 0..written {
        let expected = if at % 4 > 0 { Reply::Nil } else { Reply::bulk(&value) };
        client.expect(args!["GET", format!("key-{at}")], expected);
    }
}

/// Rounds from `ZDB_CRASH_ROUNDS`, 10 unless set.
#[test]
fn what_was_acknowledged_survives_kills_while_cleaning() {
    const KEYS: usize = 60;
    let seed = seed("kills while cleaning");
    let mut random = Rng::with_seed(seed);
    for policy in ["always", "everysec", "no"] {
        let flags = [&SMALL[..], &["--sync", policy]].concat();
        let mut server = Setup::new().flags(&flags).buffer(Buffer::Private).start();
        let mut client = server.connect();
        client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
        let mut model = Model::new();
        let mut cleaned = 0;
        for round in 0..count_from_env("ZDB_CRASH_ROUNDS", 10) {
            churn(&mut client, &mut random, &mut model, KEYS, 3_000);
            client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
            // What was sent last may have happened or not.
            let mut maybe: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
            let mut requests = Vec::new();
            for _ in 0..random.usize(..200) {
                let key = format!("key-{}", random.usize(..KEYS)).into_bytes();
                let value = random_value(&mut random);
                encode(args!["SET", key, value], &mut requests);
                maybe.entry(key).or_default().push(value);
            }
            let _ = client.send_raw(&requests);
            std::thread::sleep(Duration::from_micros(random.u64(..60_000)));
            server.kill();
            server.resume();
            client = server.connect();
            for at in 0..KEYS {
                let key = format!("key-{at}").into_bytes();
                let found = client.call(args!["GET", key]);
                let mut allowed = vec![model.get(&key).map_or(Reply::Nil, Reply::bulk)];
                allowed.extend(maybe.remove(&key).into_iter().flatten().map(Reply::bulk));
                let place = format!("--sync {policy}, round {round}, ZDB_SEED={seed}, key-{at}");
                assert!(allowed.contains(&found), "{place}: {found:?}");
                match found {
                    Reply::Nil => drop(model.remove(&key)),
                    value => drop(model.insert(key, value.into_bytes().to_vec())),
                }
            }
            verify(&mut client, &model, KEYS);
            cleaned += number(&mut client, "cleaner_segments_cleaned");
        }
        clean(&mut client);
        cleaned += number(&mut client, "cleaner_segments_cleaned");
        assert!(cleaned > 0, "--sync {policy}: the cleaner was at work");
        verify(&mut client, &model, KEYS);
    }
}

#[test]
fn the_cleaner_can_be_told_to_rest() {
    let server = Server::start(&[&SMALL[..], &["--cleaner", "no"]].concat());
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let mut random = Rng::with_seed(3);
    let mut model = Model::new();
    churn(&mut client, &mut random, &mut model, 50, 10_000);
    assert_eq!(field(&mut client, "cleaner_state"), "off");
    assert_eq!(number(&mut client, "cleaner_segments_cleaned"), 0);
    client.expect(args!["CONFIG", "SET", "cleaner", "yes"], Reply::ok());
    client.expect(args!["CONFIG", "SET", "cleaner-rate", "0"], Reply::ok());
    clean(&mut client);
    assert!(number(&mut client, "cleaner_segments_cleaned") > 0);
    verify(&mut client, &model, 50);
}
