//! Files of the log as clients see them: NSJUMP, --rotate, DATA RAW, RELOAD.

use compat_tests::client::encode;
use compat_tests::server::poll;
use compat_tests::{Client, Reply, Server, args};
use std::time::{Duration, Instant};

const EOF: &str = "EOF";
const NO_RECORD: &str = "Unexpected Internal Error";

/// The number of the current file, and where the next record goes in it.
fn current(client: &mut Client, namespace: &str) -> (u64, u64) {
    place_in(client.call(args!["NSINFO", namespace]))
}

fn place_in(namespace: Reply) -> (u64, u64) {
    let text = namespace.into_bytes();
    let text = String::from_utf8(text.to_vec()).expect("NSINFO is text");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.parse().expect("a number")
    };
    (field("data_current_id: "), field("data_current_offset: "))
}

fn raw(client: &mut Client, (id, offset): (u64, u64)) -> Reply {
    client.call(args!["DATA", "RAW", id.to_string(), offset.to_string()])
}

fn jump(client: &mut Client) {
    client.expect(args!["NSJUMP"], Reply::ok());
}

fn segments(server: &Server) -> usize {
    let entries = std::fs::read_dir(server.data_dir()).expect("the data directory");
    entries
        .filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().ends_with(".log")
        })
        .count()
}

/// A key of its own brings the namespace's settings into the log, which are a record too.
fn settle(client: &mut Client) {
    client.expect(args!["SET", "settled", "x"], Reply::bulk("settled"));
    client.expect(args!["DEL", "settled", "1"], Reply::ok());
    client.expect(args!["NSJUMP"], Reply::ok());
}

/// Writes behind an NSINFO in one pipeline: nothing comes between the two, no padding either.
fn set_at(client: &mut Client, namespace: &str, key: &str, value: &[u8]) -> (u64, u64) {
    let mut requests = Vec::new();
    encode(args!["NSINFO", namespace], &mut requests);
    encode(args!["SET", key, value, "1234"], &mut requests);
    let (mut replies, end) = client.pipeline(&requests, 2);
    end.expect("the pipeline is answered");
    assert_eq!(replies.pop(), Some(Reply::bulk(key)));
    place_in(replies.remove(0))
}

/// CRC-32C from zero and without the last inversion, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

fn record(key: &str, value: Option<&[u8]>, previous: u64) -> Reply {
    let check = format!("0x{:08x}", crc32c(value.unwrap_or_default()));
    Reply::Array(vec![
        Reply::bulk(key),
        Reply::Integer(previous as i64),
        Reply::bulk(check),
        Reply::Integer(value.is_none().into()),
        Reply::Integer(1234),
        value.map_or(Reply::Nil, Reply::bulk),
    ])
}

// NSJUMP

/// Jumps beside writers: nothing is lost, and what was sealed is whole after a kill.
#[test]
fn jumps_beside_writers_lose_nothing() {
    for policy in ["everysec", "always"] {
        let mut server = Server::start(&["--datasize", "1M", "--sync", policy]);
        let address = server.address();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                std::thread::spawn(move || {
                    let mut client = Client::connect(address).expect("a connection");
                    for number in 0..150u32 {
                        let key = format!("{writer}-{number}");
                        let value = vec![number as u8; 1000 + 100 * number as usize];
                        client.expect(args!["SET", key, value], Reply::bulk(&key));
                    }
                })
            })
            .collect();
        let mut client = server.connect();
        let before = current(&mut client, "default").0;
        for _ in 0..40 {
            jump(&mut client);
        }
        assert!(current(&mut client, "default").0 >= before + 40);
        for writer in writers {
            writer.join().expect("the writer ends");
        }
        server.kill();
        server.resume();
        let mut client = server.connect();
        client.expect(args!["DBSIZE"], Reply::Integer(450));
        for (writer, number) in (0..3).flat_map(|writer| (0..150u32).map(move |n| (writer, n))) {
            let value = vec![number as u8; 1000 + 100 * number as usize];
            client.expect(args!["GET", format!("{writer}-{number}")], Reply::bulk(value));
        }
        let log = server.log();
        assert!(!log.iter().any(|line| line.contains("damage")), "{log:#?}");
    }
}

/// A storm of jumps in pipelines: each is a file of its own, and all of them start again.
#[test]
fn a_storm_of_jumps() {
    let count = compat_tests::count_from_env("ZDB_JUMP_COUNT", 300);
    let home =
        tempfile::Builder::new().prefix("zdb-test-").tempdir_in("/dev/shm").expect("/dev/shm");
    let setup = compat_tests::server::Setup::new().flags(&["--datasize", "512k"]);
    let mut server = setup.home(home.path()).start();
    let mut client = server.connect();
    client.expect(args!["SET", "first", "x"], Reply::bulk("first"));
    let started = Instant::now();
    for _ in 0..count / 100 {
        let mut requests = Vec::new();
        (0..100).for_each(|_| encode(args!["NSJUMP"], &mut requests));
        let (replies, end) = client.pipeline(&requests, 100);
        end.expect("the pipeline is answered");
        assert!(replies.iter().all(|reply| *reply == Reply::ok()), "{replies:?}");
    }
    println!("{} jumps in {:?}", count / 100 * 100, started.elapsed());
    assert_eq!(current(&mut client, "default").0, (count / 100 * 100) as u64);
    client.expect(args!["SET", "last", "y"], Reply::bulk("last"));
    server.kill();
    server.resume();
    let mut client = server.connect();
    client.expect(args!["GET", "first"], Reply::bulk("x"));
    client.expect(args!["GET", "last"], Reply::bulk("y"));
    client.expect(args!["DBSIZE"], Reply::Integer(2));
    assert_eq!(server.terminate().code(), Some(143));
}

/// An emptied file costs what is in it, not the size of a full one.
#[test]
fn a_file_that_was_left_is_cut() {
    let server = Server::start(&["--datasize", "32M"]);
    let mut client = server.connect();
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    for _ in 0..3 {
        jump(&mut client);
    }
    let sizes = || -> Vec<u64> {
        let entries = std::fs::read_dir(server.data_dir()).expect("the data directory");
        let entries = entries.map(|entry| entry.expect("an entry"));
        let logs = entries.filter(|one| one.file_name().to_string_lossy().ends_with(".log"));
        logs.map(|one| one.metadata().expect("its size").len()).collect()
    };
    let cut = poll(Duration::from_secs(20), || {
        (sizes().iter().filter(|size| **size < 64 << 10).count() == 3).then_some(())
    });
    assert!(cut.is_some(), "{:?}", sizes());
}

#[test]
fn no_jump_on_a_full_disk() {
    let mount = compat_tests::mount::Mount::ext4(96);
    std::fs::write(mount.path().join("filler"), vec![0; 60 << 20]).expect("the filler fits");
    let setup = compat_tests::server::Setup::new().flags(&["--datasize", "2M"]);
    let server = setup.home(mount.path()).start();
    let mut client = server.connect();
    let value = vec![b'v'; 1 << 20];
    let refused = Reply::error("Cannot write data right now");
    for number in 0.. {
        let reply = client.call(args!["SET", number.to_string(), value]);
        if reply == refused {
            break;
        }
        assert!(number < 200, "the disk of 96 MiB never fills");
    }
    let at = current(&mut client, "default");
    client.expect(args!["NSJUMP"], refused);
    // Padding may have followed the records, no file.
    assert_eq!(current(&mut client, "default").0, at.0, "nothing has changed");
    client.expect(args!["GET", "0"], Reply::bulk(value));
}

// --rotate

#[test]
fn files_rotate_by_their_age_and_idle_servers_do_nothing() {
    let server = Server::start(&["--rotate", "1"]);
    let mut client = server.connect();
    let started = Instant::now();
    for round in 0..2 {
        let (before, _) = current(&mut client, "default");
        client.expect(args!["SET", "key", format!("value {round}")], Reply::bulk("key"));
        assert_eq!(current(&mut client, "default").0, before, "not at once");
        let rotated = poll(Duration::from_secs(20), || {
            (current(&mut client, "default").0 == before + 1).then_some(())
        });
        assert!(rotated.is_some(), "round {round}: {:#?}", server.log());
        assert!(started.elapsed() >= Duration::from_secs(round + 1));
    }
    // Nothing was written since. Once the last jump is done, three periods bring no file and no I/O.
    let mut state = (0, 0);
    let quiet = poll(Duration::from_secs(30), || {
        let before = std::mem::replace(&mut state, (segments(&server), written_bytes(&server)));
        std::thread::sleep(Duration::from_secs(3));
        (state == before && state == (segments(&server), written_bytes(&server))).then_some(())
    });
    assert!(quiet.is_some(), "an idle server writes");
    client.expect(args!["GET", "key"], Reply::bulk("value 1"));
}

/// What the process gave to the disk.
fn written_bytes(server: &Server) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).expect("the process");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.expect("write_bytes").parse().expect("a number")
}

// DATA RAW

/// From the write buffer, from the disk, and after restarts in and out of order: the same reply.
#[test]
fn a_raw_record_is_the_same_wherever_it_lies() {
    let mut server = Server::start(&["--datasize", "8M"]);
    let mut client = server.connect();
    client.expect(args!["NSNEW", "other"], Reply::ok());
    settle(&mut client);
    let large = vec![b'l'; 3 << 20];
    let before = set_at(&mut client, "default", "before", b"b");
    let mut neighbour = server.connect();
    neighbour.expect(args!["SELECT", "other"], Reply::ok());
    let foreign = set_at(&mut neighbour, "other", "foreign", b"f");
    let key = set_at(&mut client, "default", "key", b"value");
    let empty = set_at(&mut client, "default", "empty", b"");
    let big = set_at(&mut client, "default", "large", &large);
    let mut requests = Vec::new();
    encode(args!["NSINFO", "default"], &mut requests);
    encode(args!["DEL", "key", "1234"], &mut requests);
    let (mut replies, end) = client.pipeline(&requests, 2);
    end.expect("the pipeline is answered");
    assert_eq!(replies.pop(), Some(Reply::ok()));
    let tombstone = place_in(replies.remove(0));
    let ended = current(&mut client, "default");
    let check = |client: &mut Client, what: &str| {
        for (place, expected) in [
            (before, record("before", Some(b"b"), 0)),
            (key, record("key", Some(b"value"), before.1)),
            (empty, record("empty", Some(b""), key.1)),
            (big, record("large", Some(&large), empty.1)),
            (tombstone, record("key", None, big.1)),
        ] {
            assert_eq!(raw(client, place), expected, "{what}: {place:?}");
        }
        // From the header and from records of others it goes on to the next one of the namespace.
        for (offset, expected) in [
            (foreign.1, record("key", Some(b"value"), before.1)),
            (0, record("before", Some(b"b"), 0)),
            (4095, record("before", Some(b"b"), 0)),
        ] {
            assert_eq!(raw(client, (key.0, offset)), expected, "{what}: {offset}");
        }
        for offset in [key.1 + 8, big.1 + 4096] {
            let place = (key.0, offset);
            assert_eq!(raw(client, place), Reply::error(NO_RECORD), "{what}: {place:?}");
        }
        assert_eq!(raw(client, ended), Reply::error(EOF), "{what}: behind the end");
        assert_eq!(raw(client, (key.0, 1 << 40)), Reply::error(EOF), "{what}: far behind");
        assert_eq!(raw(client, (99, 4096)), Reply::error("Invalid Request"), "{what}: no file");
        let mut other = server_select(client);
        assert_eq!(raw(&mut other, foreign), record("foreign", Some(b"f"), 0), "{what}");
        assert_eq!(raw(&mut other, key), Reply::error(EOF), "{what}: no more of the other");
    };
    check(&mut client, "in the write buffer");
    // 40 MiB later it is out of the buffer, and its file was left.
    jump(&mut client);
    for number in 0..20 {
        client.expect(args!["SET", "filler", vec![number; 2 << 20]], Reply::bulk("filler"));
    }
    check(&mut client, "on the disk");
    client.expect(args!["RELOAD", "default"], Reply::ok());
    check(&mut client, "after RELOAD");
    server.terminate();
    server.resume();
    check(&mut server.connect(), "after a stop");
    server.kill();
    server.resume();
    check(&mut server.connect(), "after a kill");
    server.kill();
    std::fs::remove_dir_all(server.index_dir()).expect("the index can be lost");
    server.resume();
    check(&mut server.connect(), "after the loss of the index");
}

/// A second client of the same server, in the namespace `other`.
fn server_select(client: &Client) -> Client {
    let address = client.tcp().peer_addr().expect("it is connected");
    let mut other = Client::connect(address).expect("a connection");
    other.expect(args!["SELECT", "other"], Reply::ok());
    other
}

/// Through thousands of records of others, over many pages of the sidecar.
#[test]
fn the_record_before_is_found_over_many_pages() {
    let mut server = Server::start(&["--datasize", "32M"]);
    let mut client = server.connect();
    client.expect(args!["NSNEW", "other"], Reply::ok());
    settle(&mut client);
    let first = set_at(&mut client, "default", "first", b"1");
    let mut other = server_select(&client);
    let mut requests = Vec::new();
    for number in 0..6000u32 {
        encode(args!["SET", number.to_le_bytes(), "x"], &mut requests);
    }
    let (replies, end) = other.pipeline(&requests, 6000);
    end.expect("the pipeline is answered");
    assert_eq!(replies.len(), 6000);
    let second = set_at(&mut client, "default", "second", b"2");
    let expected = record("second", Some(b"2"), first.1);
    assert_eq!(raw(&mut client, second), expected);
    assert_eq!(raw(&mut client, first), record("first", Some(b"1"), 0));
    server.terminate();
    server.resume();
    assert_eq!(raw(&mut server.connect(), second), expected);
}

/// Each record of a file, one after the other, by the offsets of the replies alone.
#[test]
fn a_walk_backwards_meets_every_record() {
    let server = Server::start(&["--datasize", "8M"]);
    let mut client = server.connect();
    let count = 500;
    let mut last = (0, 0);
    for number in 0..count {
        let value = vec![b'v'; fastrand::usize(..3000)];
        last = set_at(&mut client, "default", &number.to_string(), &value);
    }
    for number in (0..count).rev() {
        let reply = raw(&mut client, last).into_array();
        assert_eq!(reply[0], Reply::bulk(number.to_string()));
        let Reply::Integer(previous) = reply[1] else { panic!("an offset: {reply:?}") };
        last.1 = previous as u64;
    }
    assert_eq!(last.1, 0, "the first has none before it");
}

/// Padding lies between records that were flushed apart: none begins there, and none is hidden by it.
#[test]
fn padding_is_no_record() {
    let server = Server::start(&["--sync", "always"]);
    let mut client = server.connect();
    client.expect(args!["SET", "first", "x"], Reply::bulk("first"));
    let first = current(&mut client, "default");
    assert_eq!(raw(&mut client, first), Reply::error(EOF));
    client.expect(args!["SET", "second", "y", "1234"], Reply::bulk("second"));
    // In `always` each of them was written with the rest of its block.
    let place = (first.0, first.1.next_multiple_of(4096));
    let reply = raw(&mut client, place).into_array();
    assert_eq!((&reply[0], &reply[5]), (&Reply::bulk("second"), &Reply::bulk("y")));
    if place != first {
        assert_eq!(raw(&mut client, first), Reply::error(NO_RECORD));
    }
}

/// A damaged record is never shown.
#[test]
fn damage_is_not_shown() {
    let mut server = Server::start(&["--cache", "0"]);
    let mut client = server.connect();
    settle(&mut client);
    let place = set_at(&mut client, "default", "key", &[b'v'; 5000]);
    server.terminate();
    let file = std::fs::read_dir(server.data_dir())
        .expect("the data directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .expect("a segment");
    let mut bytes = std::fs::read(&file).expect("it can be read");
    bytes[place.1 as usize + 1000] ^= 1;
    std::fs::write(&file, bytes).expect("it can be written");
    server.resume();
    let mut client = server.connect();
    assert_eq!(raw(&mut client, place), Reply::error(NO_RECORD));
    server.wait_for_log("the damage", |line| line.contains("is damaged"));
}
