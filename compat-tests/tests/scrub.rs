//! The scrub: closed files are verified while the server serves.

use compat_tests::offline::{Record, Stopped};
use compat_tests::server::{Server, Setup, poll, scratch_dir};
use compat_tests::{Client, Reply, args};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What takes longer has hung.
const TIME_MAX: Duration = Duration::from_secs(60);
const SEGMENT_BYTES: u64 = 1 << 20;

fn field(client: &mut Client, name: &str) -> u64 {
    let text = client.call(args!["INFO", "scrub"]).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

/// Runs a pass to its end.
#[track_caller]
fn pass(client: &mut Client) {
    let before = field(client, "scrub_passes");
    client.expect(args!["DEBUG", "SCRUB", "START"], Reply::ok());
    wait_for(client, "scrub_passes", before + 1);
}

#[track_caller]
fn wait_for(client: &mut Client, name: &str, value: u64) {
    let met = poll(TIME_MAX, || (field(client, name) == value).then_some(()));
    assert!(met.is_some(), "{name} is {} and not {value}", field(client, name));
}

fn serve(home: &Path, flags: &[&str]) -> Server {
    let size = SEGMENT_BYTES.to_string();
    let days = ["--datasize", &size, "--scrub-days", "30"];
    Setup::new().home(home).flags(&days).flags(flags).start()
}

/// Three closed segments with a key each, and an open one.
fn fill(client: &mut Client) {
    for number in 0..3 {
        let value = format!("value {number} ").repeat(1000);
        client.expect(
            args!["SET", format!("key {number}"), value],
            Reply::bulk(format!("key {number}")),
        );
        client.expect(args!["NSJUMP"], Reply::ok());
    }
    client.expect(args!["SET", "last", "value"], Reply::bulk("last"));
    // The last jump is done, and so the segment before it is closed.
    client.expect(args!["CONFIG", "SET", "appendfsync", "always"], Reply::ok());
    client.expect(args!["SET", "last", "durable"], Reply::bulk("last"));
}

fn segments(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.join("data")).expect("the data");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut logs: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "log")).collect();
    logs.sort();
    logs
}

/// Flips a bit of the file while the server has it open.
fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("a segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("a byte");
    file.sync_all().expect("on the disk");
}

fn told(server: &Server, offset: u64) -> usize {
    let place = format!("scrub: segment {:016x}.log at offset {offset}: ", SEGMENT_BYTES);
    server.log().iter().filter(|line| line.contains(&place)).count()
}

/// Damage is told once, whatever passes and starts follow, and again if it was mended in between.
#[test]
fn damage_is_found_and_told_once() {
    let home = scratch_dir();
    let mut server = serve(home.path(), &["--scrub-rate", "1G"]);
    let mut client = server.connect();
    fill(&mut client);
    pass(&mut client);
    assert_eq!(field(&mut client, "scrub_damaged"), 0);
    // A namespace and three keys; the open segment is left out.
    assert_eq!(field(&mut client, "scrub_records"), 4);
    assert!(field(&mut client, "scrub_read_bytes") > 3 * 9000);
    // The second segment holds its key alone, behind the header.
    let (path, record) = (segments(home.path()).remove(1), 4096);
    flip(&path, record + 5000);
    for _ in 0..2 {
        pass(&mut client);
        assert_eq!(field(&mut client, "scrub_damaged"), 1);
        assert_eq!(told(&server, record), 1, "{:#?}", server.log());
    }
    let line = server.log().into_iter().find(|line| line.contains("scrub: ")).expect("the line");
    assert!(line.contains("are damaged, a record of namespace \"default\""), "{line}");
    let began = field(&mut client, "scrub_began");
    server.terminate();
    let mut server = serve(home.path(), &["--scrub-rate", "1G"]);
    let mut client = server.connect();
    assert_eq!(field(&mut client, "scrub_damaged"), 1, "a start has forgotten it");
    assert_eq!(field(&mut client, "scrub_began"), began);
    assert_eq!(field(&mut client, "scrub_due"), began + 30 * 86_400);
    pass(&mut client);
    assert_eq!(told(&server, record), 0, "{:#?}", server.log());
    flip(&path, record + 5000);
    pass(&mut client);
    assert_eq!(field(&mut client, "scrub_damaged"), 0);
    flip(&path, record + 5000);
    pass(&mut client);
    assert_eq!(told(&server, record), 1, "{:#?}", server.log());
    server.terminate();
}

/// The file `scrub`, as the server writes it.
fn keep(home: &Path, lines: &str) {
    // The checksum of the lines stands in the last one.
    let check = checksum(lines);
    std::fs::write(home.join("index/scrub"), format!("{lines}check {check:016x}\n"))
        .expect("a file");
}

fn checksum(lines: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(lines.as_bytes())
}

/// A pass that is due begins by itself, and one that a stop interrupted goes on where it was.
#[test]
fn a_pass_begins_when_it_is_due_and_goes_on_after_a_stop() {
    let home = scratch_dir();
    let mut server = serve(home.path(), &["--scrub-rate", "1G"]);
    fill(&mut server.connect());
    server.terminate();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("a clock").as_secs();
    let day = 86_400;
    for (days, scrub_days, begins) in [(29, "30", false), (31, "30", true), (31, "0", false)] {
        keep(home.path(), &format!("began {}\nended 7\n", now - days * day));
        let mut server = serve(home.path(), &["--scrub-rate", "1G", "--scrub-days", scrub_days]);
        let mut client = server.connect();
        if begins {
            wait_for(&mut client, "scrub_passes", 1);
            assert!(field(&mut client, "scrub_ended") >= now);
        } else {
            assert_eq!(field(&mut client, "scrub_began"), now - days * day);
            assert_eq!(field(&mut client, "scrub_running"), 0);
        }
        server.terminate();
    }
    let until = 3 * SEGMENT_BYTES;
    let lines = format!(
        "began {}\nended 7\nnext {:016x}\nuntil {until:016x}\n",
        now - day,
        2 * SEGMENT_BYTES
    );
    keep(home.path(), &lines);
    // At this rate it stays in its segment for a while.
    let mut server = serve(home.path(), &["--scrub-rate", "1k"]);
    let mut client = server.connect();
    let position =
        poll(TIME_MAX, || Some(field(&mut client, "scrub_position")).filter(|at| *at > 0));
    assert!(position.is_some_and(|at| at >= 2 * SEGMENT_BYTES), "{position:?}");
    client.expect(args!["CONFIG", "SET", "scrub-rate", "1G"], Reply::ok());
    wait_for(&mut client, "scrub_passes", 1);
    assert_eq!(field(&mut client, "scrub_records"), 1, "only the third segment was left");
    server.terminate();
    // What is no such file is none.
    std::fs::write(home.path().join("index/scrub"), "began 9\nended 9\ncheck 0\n").expect("a file");
    let mut server = serve(home.path(), &[]);
    assert_eq!(field(&mut server.connect(), "scrub_began"), 0);
    server.terminate();
}

/// What the cleaner wrote is read record by record, with what stands behind the records.
#[test]
fn cleaned_files_are_read_too() {
    let home = scratch_dir();
    let mut server = serve(home.path(), &["--scrub-rate", "1G"]);
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    for number in 0..60 {
        let key = format!("key {}", number % 10);
        let value = format!("value {number} ").repeat(500);
        client.expect(args!["SET", &key, value], Reply::bulk(key.clone()));
    }
    client.expect(args!["NSJUMP"], Reply::ok());
    client.expect(args!["CONFIG", "SET", "appendfsync", "always"], Reply::ok());
    client.expect(args!["SET", "last", "durable"], Reply::bulk("last"));
    let cleaned = poll(TIME_MAX, || {
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        let text = client.call(args!["INFO", "all"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().any(|line| line == "cleaner_segments_written: 1").then_some(())
    });
    assert!(cleaned.is_some(), "nothing is cleaned");
    pass(&mut client);
    // The settings of the namespace and the newest version of each key.
    assert_eq!(field(&mut client, "scrub_records"), 11);
    assert_eq!(field(&mut client, "scrub_damaged"), 0);
    let path = segments(home.path()).remove(0);
    let bytes = std::fs::metadata(&path).expect("the file").len();
    // In a record, and in the stops, with which the file ends.
    for (offset, damaged) in [(4096 + 20_000, 1), (bytes - 4096, 2)] {
        flip(&path, offset);
        pass(&mut client);
        assert_eq!(field(&mut client, "scrub_damaged"), damaged, "{:#?}", server.log());
    }
    server.terminate();
    let log = Stopped { home };
    let told = log.expect(1, "check", &[]);
    assert!(told.contains("2 damages"), "{told}");
}

/// It finds what `zdb check` finds.
#[test]
fn a_scrub_and_a_check_agree() {
    let home = scratch_dir();
    let mut server = serve(home.path(), &["--scrub-rate", "1G"]);
    fill(&mut server.connect());
    server.terminate();
    let log = Stopped { home };
    let records: Vec<Record> =
        log.records().into_iter().filter(|one| one.text("kind") == "set").collect();
    log.flip_in(&records[0], 10);
    log.flip_in(&records[1], 44 + 5 + 100);
    let told = log.expect(1, "check", &[]);
    assert!(told.contains("2 damages"), "{told}");
    let mut server = serve(log.home.path(), &["--scrub-rate", "1G"]);
    let mut client = server.connect();
    pass(&mut client);
    assert_eq!(field(&mut client, "scrub_damaged"), 2);
    server.terminate();
}
