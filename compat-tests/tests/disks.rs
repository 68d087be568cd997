//! Disks that fail, on the real kernel: one that is gone at once, and one of which a part cannot be read.

use compat_tests::mount::Mount;
use compat_tests::server::{Setup, poll};
use compat_tests::{Client, Reply, Server, args};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BLOCK: u64 = 4096;
const TIME_MAX: Duration = Duration::from_secs(60);
/// Nothing that is read from the disk stays in memory.
const FLAGS: [&str; 4] = ["--datasize", "1M", "--cache", "0"];

fn value(at: usize) -> String {
    format!("{at:08}").repeat(1 + at % 700)
}

fn key(at: usize) -> String {
    format!("key-{at}")
}

/// A line of INFO or NSINFO.
#[track_caller]
fn field(client: &mut Client, request: &[&str], name: &str) -> String {
    let request: Vec<&[u8]> = request.iter().map(|word| word.as_bytes()).collect();
    let text = client.call(&request).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let found = text.lines().find_map(|line| {
        let (left, right) = line.split_once(':')?;
        (left == name).then(|| right.trim().to_owned())
    });
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

// A disk that is gone

/// Writes until the disk is gone, and says which keys were acknowledged.
fn write_until_refused(server: &Server, begun: impl FnOnce()) -> (usize, Reply) {
    let mut client = server.connect();
    let mut begun = Some(begun);
    for at in 0..1_000_000 {
        if at == 500
            && let Some(begun) = begun.take()
        {
            begun();
        }
        let reply = client.call(args!["SET", key(at), value(at)]);
        if reply != Reply::bulk(key(at)) {
            return (at, reply);
        }
    }
    panic!("a disk that is gone takes everything");
}

#[test]
fn a_disk_that_is_gone_costs_nothing_that_was_acknowledged() {
    for policy in ["always", "everysec"] {
        let mount = Mount::ext4(192);
        let flags = [&FLAGS[..], &["--sync", policy]].concat();
        let mut server = Setup::new().home(mount.path()).flags(&flags).start();
        let (written, refusal) = write_until_refused(&server, || mount.shut_down());
        assert!(refusal.is_error(), "--sync {policy}: {refusal:?} for key {written}");
        let mut client = server.connect();
        // It says what is wrong, goes on answering, and refuses every further write.
        assert_ne!(field(&mut client, &["INFO"], "log_broken"), "no", "--sync {policy}");
        assert!(client.call(args!["SET", "more", "value"]).is_error(), "--sync {policy}");
        client.expect(args!["PING"], Reply::Simple("PONG".into()));
        client.expect(args!["GET", "never written"], Reply::Nil);
        // What is in memory it has; of the rest it does not say that it is not there.
        for at in 0..written {
            let found = client.call(args!["GET", key(at)]);
            let allowed = [Reply::bulk(value(at)), Reply::error("Internal Error")];
            assert!(allowed.contains(&found), "--sync {policy}: {}: {found:?}", key(at));
        }
        assert!(server.is_running());
        // Who stops it is told, too.
        assert!(!server.terminate().success(), "--sync {policy}: {:#?}", server.log());
        mount.mount_again();
        server.resume();
        let mut client = server.connect();
        for at in 0..written {
            let found = client.call(args!["GET", key(at)]);
            assert_eq!(found, Reply::bulk(value(at)), "--sync {policy}: {}", key(at));
        }
        client.expect(args!["SET", "again", "value"], Reply::bulk("again"));
    }
}

// Sectors that cannot be read

/// Where a file begins on its device, in bytes, if it is there in one piece.
fn place_on_device(path: &Path) -> Option<u64> {
    let output = Command::new("filefrag").args(["-v", "-b4096"]).arg(path).output();
    let output = output.expect("filefrag runs: it comes with mkfs.ext4");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "   0:        0..     255:      34816..     35071:    256:             last,eof"
    let mut extents: Vec<(u64, u64)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> =
            line.split([':', '.', ' ']).filter(|word| !word.is_empty()).collect();
        let numbers: Vec<u64> = words.iter().map_while(|word| word.parse().ok()).collect();
        if let [_, logical, _, physical, ..] = numbers[..] {
            extents.push((logical, physical));
        }
    }
    let (_, first) = *extents.first()?;
    let is_whole = extents.iter().all(|(logical, physical)| physical - first == *logical);
    is_whole.then_some(first * BLOCK)
}

/// Writes keys over several segments and stops. Says in which segment each has its record.
fn fill(home: &Path, keys: usize) -> BTreeMap<usize, String> {
    let mut server = Setup::new().home(home).flags(&FLAGS).start();
    let mut client = server.connect();
    for at in 0..keys {
        client.expect(args!["SET", key(at), value(at)], Reply::bulk(key(at)));
    }
    server.terminate();
    let text = Command::new(compat_tests::server::binary())
        .args(["dump", "--json", "--data"])
        .arg(home.join("data"))
        .arg("--index")
        .arg(home.join("index"))
        .output()
        .expect("the binary runs");
    let text = String::from_utf8(text.stdout).expect("JSON is text");
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let sets = text.lines().map(parse).filter(|one| one["kind"] == "set");
    sets.map(|one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let number = text("key").trim_start_matches("key-").parse().expect("one of our keys");
        (number, text("segment"))
    })
    .collect()
}

/// A device of which nothing can be read from a place on where a segment begins, and the segments that are behind it.
struct Cut {
    image: File,
    place: u64,
    behind: Vec<u8>,
    lost: BTreeSet<String>,
}

impl Cut {
    fn new(mount: &Mount, segments: &BTreeSet<String>) -> Self {
        let places: BTreeMap<&String, u64> = segments
            .iter()
            .map(|name| {
                let place = place_on_device(&mount.path().join("data").join(name));
                (name, place.unwrap_or_else(|| panic!("{name} is not in one piece")))
            })
            .collect();
        let mut sorted: Vec<u64> = places.values().copied().collect();
        sorted.sort_unstable();
        let place = sorted[sorted.len() / 2];
        let lost = places.iter().filter(|(_, one)| **one >= place);
        let lost = lost.map(|(name, _)| (*name).clone()).collect();
        let image =
            File::options().read(true).write(true).open(mount.image()).expect("our own image");
        let length = image.metadata().expect("it is open").len();
        let mut behind = vec![0; (length - place) as usize];
        image.read_exact_at(&mut behind, place).expect("the image is whole");
        image.set_len(place).expect("the image can be cut");
        Self { image, place, behind, lost }
    }

    fn mend(self) {
        self.image.set_len(self.place + self.behind.len() as u64).expect("the image can grow");
        self.image.write_all_at(&self.behind, self.place).expect("the image can be written");
    }
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_served() {
    const KEYS: usize = 4_000;
    let mount = Mount::ext4_on_device(96);
    let segments = fill(mount.path(), KEYS);
    let names: BTreeSet<String> = segments.values().cloned().collect();
    assert!(names.len() > 6, "{names:?}");
    let mut server = Setup::new().home(mount.path()).flags(&FLAGS).start();
    let mut client = server.connect();
    let cut = Cut::new(&mount, &names);
    let is_lost = |at: usize| cut.lost.contains(&segments[&at]);
    let mut lost = 0;
    for at in 0..KEYS {
        let found = client.call(args!["GET", key(at)]);
        match is_lost(at) {
            true => assert_eq!(found, Reply::error("Internal Error"), "{}", key(at)),
            false => assert_eq!(found, Reply::bulk(value(at)), "{}", key(at)),
        }
        lost += usize::from(is_lost(at));
    }
    assert!((100..KEYS - 100).contains(&lost), "{lost} keys are on bad sectors");
    // An operator sees it, and where.
    let told = field(&mut client, &["NSINFO", "default"], "stats_data_io_errors");
    assert_eq!(told, lost.to_string());
    server.wait_for_log("a record that cannot be read", |line| line.contains("cannot be read"));
    // Mended sectors are read again: nothing was given up for good.
    cut.mend();
    for at in 0..KEYS {
        client.expect(args!["GET", key(at)], Reply::bulk(value(at)));
    }
    server.terminate();
}

/// What can be read of a bad disk is copied, at once or later.
#[test]
fn a_replica_gets_all_but_what_cannot_be_read() {
    const KEYS: usize = 2_000;
    let mount = Mount::ext4_on_device(96);
    let segments = fill(mount.path(), KEYS);
    let mut server = Setup::new().home(mount.path()).flags(&FLAGS).start();
    let cut = Cut::new(&mount, &segments.values().cloned().collect());
    let is_lost = |at: usize| cut.lost.contains(&segments[&at]);
    let master = format!("{} {}", server.address().ip(), server.address().port());
    let replica = Setup::new().flags(&FLAGS).flags(&["--replicaof", &master]).start();
    let found = |at: usize| {
        let reply =
            Client::connect(replica.address()).ok()?.try_call(args!["GET", key(at)]).ok()?;
        (reply == Reply::bulk(value(at))).then_some(())
    };
    for at in (0..KEYS).rev().filter(|at| !is_lost(*at)) {
        let there = poll(TIME_MAX, || found(at));
        assert!(there.is_some(), "{} of {}: {:#?}", key(at), segments[&at], replica.log());
    }
    let lost = (0..KEYS).filter(|at| is_lost(*at)).count();
    assert!((100..KEYS - 100).contains(&lost), "{lost} keys are on bad sectors");
    assert!((0..KEYS).filter(|at| is_lost(*at)).all(|at| found(at).is_none()));
    // The kernel's loop device says zeroes at times where a disk says an error: both are lost.
    replica.wait_for_log("what is lost", |line| line.contains("are damaged on the server"));
    cut.mend();
    server.terminate();
}
