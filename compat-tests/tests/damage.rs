//! What a start makes of a damaged log whose sidecars are gone: ids stay ids, and none is given out twice.

use compat_tests::offline::{Record, Stopped};
use compat_tests::{Client, Reply, args};

const IDS: u64 = 40;

fn id(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// Five of them are more than a block.
fn value(number: u64) -> String {
    format!("value {number} {}", "v".repeat(900))
}

/// A namespace of ids, the sixth of which has a newer version at the end.
fn sample() -> Stopped {
    Stopped::after(&[], |client| {
        client.expect(args!["NSNEW", "ids"], Reply::ok());
        client.expect(args!["NSSET", "ids", "mode", "seq"], Reply::ok());
        client.expect(args!["SELECT", "ids"], Reply::ok());
        for number in 0..IDS {
            client.expect(args!["SET", "", value(number)], Reply::bulk(id(number)));
        }
        client.expect(args!["SET", id(5), "newer"], Reply::bulk(id(5)));
    })
}

/// Damages the heads of these records, and leaves nothing that tells of them.
fn damage(log: &Stopped, is_damaged: impl Fn(&Record) -> bool) {
    let damaged: Vec<Record> = log.records().into_iter().filter(is_damaged).collect();
    assert!(!damaged.is_empty(), "no record to damage");
    damaged.iter().for_each(|record| log.flip_in(record, 10));
    forget(log);
}

fn forget(log: &Stopped) {
    for path in log.files("index", "sidecar") {
        std::fs::remove_file(path).expect("a sidecar");
    }
}

fn is_version_of(record: &Record, numbers: std::ops::Range<u64>) -> bool {
    record.text("kind") == "set" && record.0["id"].as_u64().is_some_and(|id| numbers.contains(&id))
}

/// Gives an id out in the namespace, which is beyond all that were.
#[track_caller]
fn expect_new_id(client: &mut Client, least: u64) -> u64 {
    let next = client.call(args!["SET", "", "new"]).into_bytes();
    let next = u64::from_le_bytes(next[..].try_into().expect("an id"));
    assert!(next >= least, "id {next} meant another value before");
    next
}

/// Also not by a later start, which goes by the sidecar of the first and sees no damage.
#[test]
fn an_id_in_damaged_bytes_is_not_given_out_again() {
    for numbers in [IDS - 5..IDS, IDS - 1..IDS, 3..IDS] {
        let log = sample();
        damage(&log, |record| is_version_of(record, numbers.clone()));
        log.serve().terminate();
        let mut server = log.serve();
        let mut client = server.connect();
        client.expect(args!["SELECT", "ids"], Reply::ok());
        let next = expect_new_id(&mut client, IDS);
        expect_new_id(&mut client, next + 1);
        client.expect(args!["GET", id(2)], Reply::bulk(value(2)));
        client.expect(args!["GET", id(IDS - 1)], Reply::Nil);
        server.terminate();
        let mut server = log.serve();
        let mut client = server.connect();
        client.expect(args!["SELECT", "ids"], Reply::ok());
        expect_new_id(&mut client, next + 2);
        client.expect(args!["GET", id(next)], Reply::bulk("new"));
        server.terminate();
    }
}

/// Here not even the end of the log is left to tell that something was there.
#[test]
fn ids_at_a_damaged_end_are_not_given_out_again() {
    let log = sample();
    let records = log.records();
    let first = records.iter().find(|one| is_version_of(one, IDS - 5..IDS)).expect("a record");
    let path = log.data().join(first.text("segment"));
    let mut bytes = std::fs::read(&path).expect("the segment");
    let noise = bytes[first.offset() as usize..].iter_mut().enumerate();
    noise.for_each(|(at, byte)| *byte = (at * 37 % 251) as u8 | 1);
    std::fs::write(&path, bytes).expect("the segment");
    forget(&log);
    log.serve().terminate();
    let mut server = log.serve();
    let mut client = server.connect();
    client.expect(args!["SELECT", "ids"], Reply::ok());
    client.expect(args!["GET", id(IDS - 6)], Reply::bulk(value(IDS - 6)));
    // An update took an id, too.
    expect_new_id(&mut client, IDS + 1);
    server.terminate();
}

/// With the records that make a namespace and give it its mode, what is lost is its name alone.
#[test]
fn a_namespace_whose_own_records_are_lost_keeps_its_ids() {
    for payload_too in [false, true] {
        let log = sample();
        if payload_too {
            let records = log.records();
            let own = records.iter().filter(|record| record.text("kind") == "namespace");
            own.for_each(|record| log.flip_in(record, 44 + 3 + 1));
            forget(&log);
        } else {
            damage(&log, |record| record.text("kind") == "namespace");
        }
        for _ in 0..2 {
            let mut server = log.serve();
            let mut client = server.connect();
            client.expect(args!["SELECT", "recovered-1"], Reply::ok());
            client.expect(args!["GET", id(7)], Reply::bulk(value(7)));
            client.expect(args!["GET", id(5)], Reply::bulk("newer"));
            let info = client.call(args!["NSINFO", "recovered-1"]).into_bytes();
            let info = String::from_utf8_lossy(&info).into_owned();
            assert!(info.contains("mode: sequential") && info.contains("entries: 40"), "{info}");
            let refused = Reply::Error("Namespace is temporarily locked (read-only)".into());
            client.expect(args!["SET", "", "x"], refused);
            server.terminate();
        }
        let mut server = log.serve();
        let mut client = server.connect();
        client.expect(args!["NSSET", "recovered-1", "lock", "0"], Reply::ok());
        client.expect(args!["SELECT", "recovered-1"], Reply::ok());
        expect_new_id(&mut client, IDS + 1);
        server.terminate();
    }
}
