//! Scans of every shape: records at all places of a block, many pages, writers at work meanwhile.

use compat_tests::client::encode;
use compat_tests::load::scan;
use compat_tests::server::{Buffer, Setup};
use compat_tests::{Client, Reply, Server, args, seed};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

/// The block of the disk, around multiples of which the sizes lie.
const BLOCK_BYTES: usize = 4096;

/// Sends requests in one pipeline; all replies must be bulk strings, which SET answers with a key.
fn write_all(client: &mut Client, requests: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    requests.iter().for_each(|(key, value)| encode(args!["SET", key, value], &mut bytes));
    let (replies, ending) = client.pipeline(&bytes, requests.len());
    ending.expect("all replies come");
    replies.into_iter().map(|reply| reply.into_bytes().to_vec()).collect()
}

/// Records that begin and end at block boundaries or near them, updated out of order: the reads of a
/// scan touch each other in all ways. Looked at with a warm cache, and with an empty one.
#[test]
fn records_around_block_boundaries() {
    let seed = seed("records around block boundaries");
    let mut random = Rng::with_seed(seed);
    for round in 0..20 {
        let mode = ["seq", "user"][round % 2];
        let flags = ["--mode", mode, "--datasize", "1M", "--cache", "1M"];
        let mut server = Setup::new().flags(&flags).buffer(Buffer::None).start();
        let mut client = server.connect();
        let mut value = |version: usize| {
            // The head of a record and a key take a few dozen bytes.
            let blocks = random.usize(1..12);
            let size = blocks * BLOCK_BYTES - 40 - random.usize(0..6) * 8;
            let mut value = format!("{version}:").into_bytes();
            value.resize(size, version as u8);
            value
        };
        let first: Vec<(Vec<u8>, Vec<u8>)> = (0..60)
            .map(|number: u64| match mode {
                "seq" => (Vec::new(), value(0)),
                _ => (number.to_le_bytes().to_vec(), value(0)),
            })
            .collect();
        let keys = write_all(&mut client, &first);
        let mut lengths: BTreeMap<Vec<u8>, usize> =
            keys.iter().cloned().zip(first.iter().map(|(_, value)| value.len())).collect();
        for version in 1..4 {
            let updates: Vec<(Vec<u8>, Vec<u8>)> = keys
                .iter()
                .filter(|key| (key[0] as usize + version).is_multiple_of(3))
                .map(|key| (key.clone(), value(version)))
                .collect();
            write_all(&mut client, &updates);
            updates.into_iter().for_each(|(key, value)| {
                lengths.insert(key, value.len());
            });
            let place = format!("round {round}, version {version}, ZDB_SEED={seed}");
            check(&mut client, &lengths, &place);
            server.terminate();
            server.resume();
            client = server.connect();
            check(&mut client, &lengths, &format!("{place}, after a restart"));
        }
    }
}

#[track_caller]
fn check(client: &mut Client, lengths: &BTreeMap<Vec<u8>, usize>, place: &str) {
    let scanned = scan(client).unwrap_or_else(|error| panic!("{place}: {error}"));
    let scanned: BTreeMap<Vec<u8>, usize> =
        scanned.into_iter().map(|(key, length, _)| (key.to_vec(), length as usize)).collect();
    assert_eq!(scanned, *lengths, "{place}");
}

/// More keys than a page of a sidecar, a batch or a segment holds, of all sizes a key may have.
#[test]
fn many_pages() {
    let seed = seed("many pages");
    let mut random = Rng::with_seed(seed);
    let mut server = Server::start(&["--datasize", "1M", "--cache", "1M"]);
    let mut client = server.connect();
    let mut lengths = BTreeMap::new();
    for batch in 0..30 {
        let requests: Vec<(Vec<u8>, Vec<u8>)> = (0..1000)
            .map(|number| {
                let mut key = format!("{batch}-{number}-").into_bytes();
                key.resize(random.usize(key.len()..=255), b'k');
                let size = random.usize(1..200);
                (key, vec![b'v'; size])
            })
            .collect();
        write_all(&mut client, &requests);
        requests.into_iter().for_each(|(key, value)| {
            lengths.insert(key, value.len());
        });
    }
    check(&mut client, &lengths, &format!("ZDB_SEED={seed}"));
    let doomed: BTreeSet<Vec<u8>> =
        lengths.keys().filter(|_| random.u8(..10) > 0).cloned().collect();
    let mut requests = Vec::new();
    doomed.iter().for_each(|key| encode(args!["DEL", key], &mut requests));
    let (replies, ending) = client.pipeline(&requests, doomed.len());
    ending.expect("all replies come");
    assert!(replies.iter().all(|reply| *reply == Reply::ok()));
    lengths.retain(|key, _| !doomed.contains(key));
    check(&mut client, &lengths, &format!("nine of ten deleted, ZDB_SEED={seed}"));
    server.kill();
    server.resume();
    let mut client = server.connect();
    check(&mut client, &lengths, &format!("after a kill, ZDB_SEED={seed}"));
}

/// Decimal cursors over many pages: SCAN with its options, and KSCAN, which looks on until it has enough.
#[test]
fn pages_with_decimal_cursors() {
    const KEY_COUNT: usize = 3000;
    let mut server = Server::start(&["--datasize", "512k", "--cache", "1M"]);
    let mut client = server.connect();
    // A few with a prefix among many without, and 1200 in a row.
    let key = |number: usize| match number {
        0..1800 if number.is_multiple_of(100) => format!("few-{number}"),
        0..1800 => format!("other-{number}"),
        _ => format!("row-{number}"),
    };
    let all: Vec<(Vec<u8>, Vec<u8>)> = (0..KEY_COUNT)
        .map(|number| (key(number).into_bytes(), vec![b'v'; 1 + number * 7 % 300]))
        .collect();
    write_all(&mut client, &all);
    let keys = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        (0..KEY_COUNT).map(key).filter(|key| wanted(key)).collect()
    };
    for life in 0..2 {
        for (count, page_max) in [(None, 10), (Some("9"), 9), (Some("77"), 77), (Some("9999"), 512)]
        {
            let more: Vec<&str> = count.map_or(Vec::new(), |count| vec!["COUNT", count]);
            let pages = follow(&mut client, &["SCAN"], &more);
            let place = format!("COUNT {count:?}, life {life}");
            assert!(pages.iter().all(|page| page.len() <= page_max), "{place}");
            assert_eq!(pages.concat(), keys(&|_| true), "{place}");
        }
        let pages = follow(&mut client, &["SCAN"], &["MATCH", "*-?99", "COUNT", "500"]);
        let wanted = |key: &str| {
            key.len() >= 4 && key.ends_with("99") && key.rfind('-') == Some(key.len() - 4)
        };
        assert_eq!(pages.concat(), keys(&wanted), "life {life}");
        let few = follow(&mut client, &["KSCAN", "few-"], &[]);
        assert_eq!(few.concat(), keys(&|key| key.starts_with("few-")), "life {life}");
        assert!(few[0].len() > 1, "life {life}: KSCAN looks on: {}", few[0].len());
        let row = follow(&mut client, &["KSCAN", "row-"], &[]);
        assert_eq!(row.concat(), keys(&|key| key.starts_with("row-")), "life {life}");
        assert!(row.len() > 2, "life {life}: 1200 keys in {} pages", row.len());
        client.expect(args!["KSCAN", "none-"], Reply::error("No keys match"));
        server.terminate();
        server.resume();
        client = server.connect();
    }
}

/// The pages of keys that a command gives from cursor 0 to cursor 0.
fn follow(client: &mut Client, command: &[&str], more: &[&str]) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut cursor = String::from("0");
    loop {
        let request = [command, &[&cursor], more].concat();
        let [next, page] = client.call(&request).into_array().try_into().expect("cursor and keys");
        let text = |reply: Reply| String::from_utf8(reply.into_bytes().into()).expect("text");
        pages.push(page.into_array().into_iter().map(text).collect());
        cursor = text(next);
        if cursor == "0" {
            return pages;
        }
        assert!(pages.len() < 10_000, "the pages have no end");
    }
}

/// While others write, a scan sees every key that nobody touches, each once, and ends.
#[test]
fn scans_beside_writers() {
    let seed = seed("scans beside writers");
    let server = Server::start(&["--datasize", "1M", "--cache", "1M"]);
    let mut client = server.connect();
    let still: Vec<(Vec<u8>, Vec<u8>)> = (0..3000)
        .map(|number| (format!("still-{number}").into_bytes(), vec![b's'; number % 900]))
        .collect();
    let expected: BTreeSet<Vec<u8>> = write_all(&mut client, &still).into_iter().collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (done, address) = (&done, server.address());
            scope.spawn(move || {
                let mut random = Rng::with_seed(seed + writer);
                let mut client = Client::connect(address).expect("the server accepts");
                while !done.load(Ordering::Relaxed) {
                    let key = format!("moving-{writer}-{}", random.u8(..50));
                    let value = vec![random.u8(..); random.usize(..2000)];
                    if random.u8(..4) == 0 {
                        client.call(args!["DEL", key]);
                    } else {
                        client.call(args!["SET", key, value]);
                    }
                }
            });
        }
        let result = std::panic::catch_unwind(|| {
            for round in 0..10 {
                let command = ["SCAN", "RSCAN"][round % 2];
                let seen = walk(&server, command);
                let unique: BTreeSet<Vec<u8>> = seen.iter().cloned().collect();
                assert_eq!(
                    seen.len(),
                    unique.len(),
                    "{command} shows a key twice, ZDB_SEED={seed}"
                );
                assert_eq!(unique, expected, "{command}, ZDB_SEED={seed}");
            }
        });
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// The keys that nobody touches, as one scan meets them.
fn walk(server: &Server, command: &str) -> Vec<Vec<u8>> {
    const CALLS_MAX: usize = 20_000;
    let mut client = server.connect();
    let mut keys = Vec::new();
    let mut reply = client.call(args![command]);
    for _ in 0..CALLS_MAX {
        if reply == Reply::error("No more data") {
            return keys;
        }
        let mut parts = reply.into_array();
        let entries = parts.remove(1).into_array();
        assert!(!entries.is_empty(), "a reply of a scan has an entry at least");
        for entry in entries {
            let key = entry.into_array().remove(0).into_bytes();
            if key.starts_with(b"still-") {
                keys.push(key.to_vec());
            } else if command == "SCAN" && keys.len() == 3000 {
                // It has seen all; what is written behind it could keep it busy for ever.
                return keys;
            }
        }
        reply = client.call(args![command, parts.remove(0).into_bytes()]);
    }
    panic!("{command} does not end");
}
