//! `zdb check`, `zdb dump` and `zdb repair`: whole and damaged directories of a stopped server.

use compat_tests::import::{contents, run};
use compat_tests::mount::Mount;
use compat_tests::offline::{Stopped, history};
use compat_tests::server::{Buffer, Setup, binary, poll, scratch_dir};
use compat_tests::{Client, Reply, args};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What takes longer has hung.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Everything that a namespace can be and a key can go through, over three segments.
fn exercise(client: &mut Client) {
    for (number, text) in ["one", "two", "three"].iter().enumerate() {
        let time = (1000 + number).to_string();
        client.expect(args!["SET", "history", text, time], Reply::bulk("history"));
    }
    client.expect(args!["SET", "deleted", "x"], Reply::bulk("deleted"));
    client.expect(args!["DEL", "deleted"], Reply::ok());
    client.expect(args!["MSET", "m1", "a", "m2", "b"], Reply::ok());
    client.expect(args!["SET", b"\xff\x00binary", b"\x00\xfe"], Reply::bulk(b"\xff\x00binary"));
    for (name, settings) in [
        ("ids", &[("mode", "seq")][..]),
        ("closed", &[("password", "secret"), ("public", "0"), ("maxsize", "123456")]),
        ("worm", &[("worm", "1")]),
        ("locked", &[]),
        ("frozen", &[]),
        ("gone", &[]),
    ] {
        client.expect(args!["NSNEW", name], Reply::ok());
        for (property, value) in settings {
            client.expect(args!["NSSET", name, property, value], Reply::ok());
        }
    }
    client.expect(args!["SELECT", "ids"], Reply::ok());
    for id in 0..40u64 {
        let value = format!("value {id} {}", "v".repeat(500));
        client.expect(args!["SET", "", value], Reply::bulk(id.to_le_bytes()));
    }
    client.expect(args!["NSJUMP"], Reply::ok());
    client.expect(args!["SET", 7u64.to_le_bytes(), "updated"], Reply::bulk(7u64.to_le_bytes()));
    client.expect(args!["DEL", 9u64.to_le_bytes()], Reply::ok());
    for name in ["worm", "locked", "frozen", "gone", "closed"] {
        let password = if name == "closed" { vec!["secret"] } else { vec![] };
        client.call(&[vec!["SELECT", name], password].concat());
        client.expect(args!["SET", "key", name], Reply::bulk("key"));
    }
    client.expect(args!["FLUSH"], Reply::ok());
    client.expect(args!["SET", "after", "flush"], Reply::bulk("after"));
    client.expect(args!["SELECT", "default"], Reply::ok());
    client.expect(args!["NSDEL", "gone"], Reply::ok());
    client.expect(args!["NSSET", "locked", "lock", "1"], Reply::ok());
    client.expect(args!["NSSET", "frozen", "freeze", "1"], Reply::ok());
    client.expect(args!["NSJUMP"], Reply::ok());
    client.expect(args!["SET", "history", "four", "1003"], Reply::bulk("history"));
    client.expect(args!["SET", "last", "value"], Reply::bulk("last"));
}

fn sample() -> Stopped {
    // With paddings between the records.
    Stopped::after(&["--datasize", "512k", "--sync", "always"], exercise)
}

fn versions(texts: &[(&str, u64)]) -> Vec<(String, Vec<u8>)> {
    texts.iter().map(|(text, time)| (time.to_string(), text.as_bytes().to_vec())).collect()
}

#[test]
fn a_whole_directory_is_whole_and_stays_as_it_is() {
    let old = sample();
    let before = contents(old.home.path());
    let text = old.expect(0, "check", &[]);
    assert!(text.contains("whole") && !text.contains("damage"), "{text}");
    let summary = old.objects("check", &["--rate", "100M"]).pop().expect("a summary");
    assert_eq!((&summary["type"], &summary["damaged"]), (&"summary".into(), &0.into()));
    // 40 ids, one of them deleted; six in default; worm, locked, frozen, closed.
    assert_eq!(summary["keys"], 39 + 5 + 4, "{summary}");
    let (new, text) = old.repair(0);
    assert!(text.contains("all is saved"), "{text}");
    assert!(contents(old.home.path()) == before, "the directory was changed");
    assert_eq!(old.story(), new.story());
    let again = new.objects("check", &[]).pop().expect("a summary");
    for name in ["keys", "versions", "deletes", "namespaces", "live_bytes", "history_bytes"] {
        assert_eq!(again[name], summary[name], "{name}");
    }
    let mut server = new.serve();
    let mut client = server.connect();
    let all = versions(&[("four", 1003), ("three", 1002), ("two", 1001), ("one", 1000)]);
    assert_eq!(history(&mut client, b"history"), all);
    client.expect(args!["SELECT", "ids"], Reply::ok());
    client.expect(args!["GET", 7u64.to_le_bytes()], Reply::bulk("updated"));
    // The update used an id up, as in 0-db.
    client.expect(args!["SET", "", "next"], Reply::bulk(41u64.to_le_bytes()));
    client.expect(args!["SELECT", "frozen"], Reply::ok());
    client.expect(args!["SELECT", "closed"], Reply::error("Namespace protected and private"));
    client.expect(args!["SELECT", "closed", "secret"], Reply::ok());
    client.expect(args!["GET", "key"], Reply::Nil);
    client.expect(args!["GET", "after"], Reply::bulk("flush"));
    server.terminate();
}

#[test]
fn a_dump_shows_what_was_asked_for() {
    let old = sample();
    let text = old.expect(0, "dump", &["--namespace", "ids", "--keys-only"]);
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("an id")).collect();
    assert_eq!(numbers[..40], (0..40).collect::<Vec<u64>>());
    assert_eq!(numbers[40..], [7, 9], "the update and the delete");
    let text = old.expect(0, "dump", &["--limit", "3", "--payload", "--namespace", "default"]);
    assert_eq!(text.lines().filter(|line| !line.starts_with("segment")).count(), 3, "{text}");
    assert!(text.contains("history \"one\""), "{text}");
    let place = old.record("last");
    let from = place.number("position").to_string();
    let objects = old.objects("dump", &["--from", &from, "--payload"]);
    let record = objects.iter().find(|one| one["type"] == "record").expect("a record");
    assert_eq!((&record["key"], &record["value"]), (&"last".into(), &"value".into()));
    let objects = old.objects("dump", &["--segment", place.text("segment")]);
    let names = objects.iter().filter(|one| one["kind"] == "set").map(|one| &one["namespace"]);
    assert_eq!(names.collect::<Vec<_>>(), ["default", "default"]);
    let binary = old.records().into_iter().find(|one| one.text("key_hex") == "ff0062696e617279");
    assert_eq!(binary.expect("the binary key").text("value_hex"), "00fe");
    // A reader that goes away.
    let mut child = old.command("dump", &["--json"]).spawn().expect("the binary runs");
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    let status = child.wait().expect("it ends");
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

/// Damages a sample and runs the commands: exit codes of check and repair, and what check's line has.
#[track_caller]
fn damaged(
    (check, repair): (i32, i32),
    line: &str,
    damage: impl FnOnce(&Stopped),
) -> (Stopped, Stopped, String) {
    let old = sample();
    damage(&old);
    let before = contents(old.home.path());
    let text = old.expect(check, "check", &[]);
    assert!(text.contains(line), "no {line:?} in:\n{text}");
    let objects = old.objects("check", &[]);
    let count = objects.iter().filter(|one| one["type"] == "damage").count();
    assert_eq!(objects.last().expect("a summary")["damaged"], count);
    old.run("dump", &[]);
    let (new, told) = old.repair(repair);
    assert!(contents(old.home.path()) == before, "the directory was changed");
    (old, new, told)
}

#[test]
fn a_damaged_payload_costs_its_version() {
    let flip = |old: &Stopped| old.flip_in(&old.record("history"), 44 + 7 + 2);
    let (_, new, told) = damaged((1, 1), "key \"history\"", flip);
    assert!(told.contains("a version of key \"history\" of namespace \"default\""), "{told}");
    assert!(told.contains("is deleted: its newest version is lost"), "{told}");
    let server = new.serve();
    let mut client = server.connect();
    // Not "three", which is older.
    client.expect(args!["GET", "history"], Reply::Nil);
    client.expect(args!["GET", "last"], Reply::bulk("value"));
}

#[test]
fn a_damaged_older_version_leaves_the_others() {
    let flip = |old: &Stopped| {
        let record = old.records().into_iter().find(|one| one.text("value") == "two");
        old.flip_in(&record.expect("a version"), 44 + 7 + 1);
    };
    let (_, new, _) = damaged((1, 1), "key \"history\"", flip);
    let server = new.serve();
    let all = versions(&[("four", 1003), ("three", 1002), ("one", 1000)]);
    assert_eq!(history(&mut server.connect(), b"history"), all);
}

/// Of a damaged head or key the sidecar knows whose it was.
#[test]
fn a_damaged_head_or_key_is_told_by_the_sidecar() {
    for at in [0, 10, 20, 44] {
        let flip = |old: &Stopped| old.flip_in(&old.record("history"), at);
        let (old, new, told) = damaged((1, 1), "a version of a key of 7 bytes", flip);
        assert!(told.contains("key \"history\" of namespace \"default\" is deleted"), "{told}");
        new.serve().connect().expect(args!["GET", "history"], Reply::Nil);
        // Without it nothing is known.
        old.files("index", "sidecar").iter().for_each(|path| drop(std::fs::remove_file(path)));
        let (new, _) = old.repair(1);
        new.serve().connect().expect(args!["GET", "history"], Reply::bulk("three"));
    }
}

#[test]
fn damage_that_costs_nothing_is_told_all_the_same() {
    let padding = |old: &Stopped| {
        let objects = old.objects("dump", &[]);
        let padding = objects.iter().rev().find(|one| one["kind"] == "padding");
        let padding = compat_tests::offline::Record(padding.expect("a padding").clone());
        old.flip_in(&padding, 60);
    };
    let (old, new, told) = damaged((1, 0), "damaged", padding);
    assert!(told.contains("no record was there"), "{told}");
    assert_eq!(old.story(), new.story());
    let header = |old: &Stopped| old.flip(&old.files("data", "log")[1], 30);
    let (old, new, _) = damaged((1, 0), "damaged segment header", header);
    assert_eq!(old.story(), new.story());
    let sidecar = |old: &Stopped| old.flip(&old.files("index", "sidecar")[0], 100);
    let (old, new, _) = damaged((1, 0), "a page of", sidecar);
    assert_eq!(old.story(), new.story());
    let missing =
        |old: &Stopped| std::fs::remove_file(&old.files("index", "sidecar")[1]).expect("a sidecar");
    let (old, new, _) = damaged((1, 0), ".sidecar at offset 0: it is missing", missing);
    assert_eq!(old.story(), new.story());
    let identity =
        |old: &Stopped| std::fs::remove_file(old.data().join("identity")).expect("the identity");
    let (old, new, _) = damaged((1, 0), "identity at offset 0: missing or damaged", identity);
    assert_eq!(old.story(), new.story());
}

#[test]
fn a_cut_segment_costs_what_was_behind() {
    let cut = |old: &Stopped| {
        let record = old.records().into_iter().find(|one| one.0["id"] == 20).expect("an id");
        let path = old.data().join(record.text("segment"));
        let file = std::fs::File::options().write(true).open(path).expect("a segment");
        file.set_len(record.offset() + 100).expect("cut");
    };
    let (_, new, told) = damaged((1, 1), "of namespace \"ids\"", cut);
    assert!(told.contains("id 20 of namespace \"ids\""), "{told}");
    let server = new.serve();
    let mut client = server.connect();
    client.expect(args!["SELECT", "ids"], Reply::ok());
    client.expect(
        args!["GET", 19u64.to_le_bytes()],
        Reply::bulk(format!("value 19 {}", "v".repeat(500))),
    );
    client.expect(args!["GET", 20u64.to_le_bytes()], Reply::Nil);
    let next = client.call(args!["SET", "", "new"]).into_bytes();
    let next = u64::from_le_bytes(next[..].try_into().expect("an id"));
    assert!(next >= 41, "id {next} meant another value before");
}

/// With and without the sidecar of the missing file.
#[test]
fn a_missing_segment_costs_its_records_only() {
    for with_sidecar in [true, false] {
        let remove = |old: &Stopped| {
            std::fs::remove_file(&old.files("data", "log")[1]).expect("a segment");
            if !with_sidecar {
                std::fs::remove_file(&old.files("index", "sidecar")[1]).expect("a sidecar");
            }
        };
        let (_, new, told) = damaged((1, 1), "files are missing", remove);
        assert!(told.contains("files are missing"), "{told}");
        let server = new.serve();
        let mut client = server.connect();
        let all = versions(&[("four", 1003), ("three", 1002), ("two", 1001), ("one", 1000)]);
        assert_eq!(history(&mut client, b"history"), all);
        client.expect(args!["SELECT", "ids"], Reply::ok());
        let seven = client.call(args!["GET", 7u64.to_le_bytes()]);
        // The update was in the missing file: with its sidecar the old value does not pass for it.
        assert_eq!(seven.clone() == Reply::Nil, with_sidecar, "{seven:?}");
        let next = client.call(args!["SET", "", "new"]).into_bytes();
        let next = u64::from_le_bytes(next[..].try_into().expect("an id"));
        assert!(next >= 41, "id {next} may have meant another value");
    }
}

#[test]
fn a_namespace_without_settings_is_frozen() {
    let flip = |old: &Stopped| {
        let records = old.records();
        let last = records
            .iter()
            .rfind(|one| one.text("kind") == "namespace" && one.text("namespace") == "locked");
        old.flip_in(last.expect("settings"), 44 + 6 + 2);
    };
    let (_, new, told) = damaged((1, 1), "settings of namespace \"locked\"", flip);
    assert!(told.contains("namespace \"locked\" is frozen"), "{told}");
    let server = new.serve();
    let mut client = server.connect();
    client.expect(args!["NSSET", "locked", "freeze", "0"], Reply::ok());
    client.expect(args!["SELECT", "locked"], Reply::ok());
    client.expect(args!["GET", "key"], Reply::bulk("locked"));
}

/// Its ids stay ids where its first settings are lost.
#[test]
fn ids_stay_ids() {
    let flip = |old: &Stopped| {
        let records = old.records();
        let settings = records
            .iter()
            .filter(|one| one.text("kind") == "namespace" && one.text("namespace") == "ids");
        settings.for_each(|one| old.flip_in(one, 3));
    };
    let (_, new, told) = damaged((1, 1), "a record of a namespace that is not there", flip);
    assert!(told.contains("in sequential mode and frozen"), "{told}");
    let server = new.serve();
    let mut client = server.connect();
    let names = client.call(args!["NSLIST"]).into_array();
    let name = names.into_iter().map(Reply::into_bytes).find(|name| name.starts_with(b"recovered"));
    let name = name.expect("a stand-in");
    client.expect(args!["NSSET", name, "freeze", "0"], Reply::ok());
    client.expect(args!["SELECT", name], Reply::ok());
    client.expect(args!["GET", 7u64.to_le_bytes()], Reply::bulk("updated"));
    client.expect(args!["SET", "", "new"], Reply::bulk(41u64.to_le_bytes()));
}

#[test]
fn sidecars_are_made_anew() {
    let old = sample();
    let story = old.story();
    old.flip(&old.files("index", "sidecar")[0], 100);
    std::fs::remove_file(&old.files("index", "sidecar")[1]).expect("a sidecar");
    old.expect(1, "check", &[]);
    let text = old.expect(0, "repair", &["--sidecars"]);
    assert!(text.contains("sidecars made anew"), "{text}");
    old.expect(0, "check", &[]);
    assert_eq!(old.story(), story);
    // Those of damaged segments are the witnesses of what is lost.
    old.flip_in(&old.record("history"), 44);
    let told = old.expect(1, "repair", &["--sidecars"]);
    assert!(told.contains("its sidecar stays"), "{told}");
    let (_, told) = old.repair(1);
    assert!(told.contains("key \"history\" of namespace \"default\" is deleted"), "{told}");
}

/// What a killed server had acknowledged is in its write buffer.
#[test]
fn a_killed_server_leaves_its_buffer() {
    let home = scratch_dir();
    let buffer =
        tempfile::Builder::new().prefix("zdb-test-").tempdir_in("/dev/shm").expect("/dev/shm");
    let place = buffer.path().to_string_lossy().into_owned();
    let setup = Setup::new().home(home.path()).buffer(Buffer::Default);
    let mut server = setup.flags(&["--sync", "no", "--buffer", &place]).start();
    let mut client = server.connect();
    for number in 0..200 {
        let key = format!("key {number}");
        client.expect(args!["SET", key, "value"], Reply::bulk(&key));
    }
    server.kill();
    let old = Stopped { home };
    let before = contents(old.home.path());
    let text = old.expect(0, "check", &[]);
    assert!(text.contains("are in the write buffer") && text.contains("200 keys"), "{text}");
    let (new, _) = old.repair(0);
    assert!(contents(old.home.path()) == before, "the directory was changed");
    let mut client_of_new = new.serve();
    client_of_new.connect().expect(args!["DBSIZE"], Reply::Integer(200));
    client_of_new.terminate();
    // The server itself still finds all of it.
    server.resume();
    server.connect().expect(args!["DBSIZE"], Reply::Integer(200));
}

#[test]
fn a_running_server_is_left_alone() {
    let old = sample();
    let mut server = old.serve();
    for word in ["check", "dump"] {
        let text = old.expect(2, word, &[]);
        assert!(text.contains("a zdb is running on"), "{text}");
    }
    let to = scratch_dir();
    let ended = run(old.repair_command(to.path()));
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    assert!(ended.text.contains("a zdb is running on"), "{}", ended.text);
    old.expect(2, "repair", &["--sidecars"]);
    assert!(!to.path().join("data").exists(), "nothing is made");
    server.terminate();
    old.expect(0, "check", &[]);
}

#[track_caller]
fn check_refused(flags: &[&str], line: &str) {
    let mut command = Command::new(binary());
    command.args(flags);
    let ended = run(command);
    assert_eq!(ended.code, Some(2), "{flags:?}: {}", ended.text);
    assert!(ended.text.contains(line), "{flags:?}: no {line:?} in {}", ended.text);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let old = sample();
    let home = scratch_dir();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    let (data, index) = (old.data(), old.index());
    let (data, index) = (data.to_string_lossy(), index.to_string_lossy());
    let empty = path("empty");
    std::fs::create_dir_all(home.path().join("0-db/default")).expect("a directory");
    std::fs::create_dir_all(&empty).expect("a directory");
    std::fs::write(home.path().join("0-db/default/d0"), b"DAT0").expect("a file");
    let before = contents(home.path());
    for word in ["check", "dump", "repair"] {
        let more = ["--to-data", &path("new/data"), "--to-index", &path("new/index")];
        let more: &[&str] = if word == "repair" { &more } else { &[] };
        let with = |data: &str, index: &str, line: &str| {
            check_refused(&[&[word, "--data", data, "--index", index], more].concat(), line);
        };
        with(&path("nothing"), &index, "cannot open --data");
        with(&data, &path("nothing"), "cannot open --index");
        with(&empty, &index, "there is no log of a zdb in");
        with(&path("0-db"), &empty, "is a data directory of a 0-db: zdb import");
        with(&index, &data, "are exchanged");
        with(&data, &data, "are the same directory");
        check_refused(&[&[word, "--data", &data], more].concat(), "--index");
    }
    let places = ["--data", &*data, "--index", &*index];
    check_refused(&[&["repair"], &places[..]].concat(), "--to-data");
    let inside = [&["repair"], &places[..], &["--to-data", &data, "--to-index", &empty]].concat();
    check_refused(&inside, "lies in the old one");
    let both = [&["repair", "--sidecars"], &places[..], &["--to-data", &empty]].concat();
    check_refused(&both, "cannot be used with");
    check_refused(&[&["check"], &places[..], &["--rate", "fast"]].concat(), "--rate");
    check_refused(&[&["dump"], &places[..], &["--segment", "first"]].concat(), "--segment");
    let other = [&["dump"], &places[..], &["--segment", "0000000000ffffff"]].concat();
    check_refused(&other, "there is no segment");
    assert!(contents(home.path()) == before, "something was touched");
    let (new, _) = old.repair(0);
    let again = run(old.repair_command(new.home.path()));
    assert_eq!(again.code, Some(2), "{}", again.text);
    assert!(again.text.contains("holds a log already"), "{}", again.text);
}

/// Thirty MiB, for what takes its time.
fn large() -> Stopped {
    Stopped::after(&["--datasize", "8M"], |client| {
        let value = vec![b'v'; 30_000];
        for number in 0..1000 {
            let key = format!("key {number}");
            client.expect(args!["SET", key, value], Reply::bulk(&key));
        }
    })
}

/// In front of the C library: reads that touch these bytes of a file fail, as on a disk with a bad sector.
const BAD_SECTOR: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset) {
    static ssize_t (*real)(int, void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pread64");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    long long bad = atoll(getenv("BAD_OFFSET"));
    if (strstr(path, getenv("BAD_FILE")) && offset < bad + 4096 && bad < offset + (off64_t)count) {
        errno = EIO;
        return -1;
    }
    return real(fd, bytes, count, offset);
}
"#;

#[test]
fn a_bad_sector_costs_the_records_in_it() {
    let old = large();
    let place = old.record("key 300");
    let library = old.home.path().join("bad_sector.so");
    let source = old.home.path().join("bad_sector.c");
    std::fs::write(&source, BAD_SECTOR).expect("the source");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(compiler.status().expect("a C compiler").success());
    let bad = (place.offset() + 10_000) / 4096 * 4096;
    let with_bad_sector = |mut command: Command| {
        command.env("LD_PRELOAD", &library).env("BAD_FILE", place.text("segment"));
        command.env("BAD_OFFSET", bad.to_string());
        run(command)
    };
    let ended = with_bad_sector(old.command("check", &[]));
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    let line = "the disk cannot read 4096 bytes (Input/output error (os error 5)); lost: a version of key \"key 300\"";
    assert!(ended.text.contains(line), "{}", ended.text);
    assert!(ended.text.contains("\n1 damage;"), "one record is lost: {}", ended.text);
    assert_eq!(with_bad_sector(old.command("dump", &["--keys-only"])).code, Some(1));
    let new = Stopped { home: scratch_dir() };
    let ended = with_bad_sector(old.repair_command(new.home.path()));
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    new.serve().connect().expect(args!["DBSIZE"], Reply::Integer(999));
}

#[track_caller]
fn check_unfinished(home: &Path) {
    assert!(home.join("data/repair-unfinished").exists(), "the mark");
    let refusal = Setup::new().home(home).try_start().err().expect("a refusal");
    let told = refusal
        .log
        .iter()
        .any(|line| line.contains("a repair into this data directory did not end"));
    assert!(told, "{refusal:?}");
}

#[test]
fn a_full_disk_ends_a_repair() {
    let old = large();
    let mount = Mount::ext4(24);
    let ended = run(old.repair_command(mount.path()));
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    assert!(ended.text.contains("not finished: make room"), "{}", ended.text);
    check_unfinished(mount.path());
}

#[test]
fn a_killed_repair_is_not_served_and_begins_anew() {
    let old = large();
    let to = scratch_dir();
    let mut child = old.repair_command(to.path()).spawn().expect("the binary runs");
    let mark = to.path().join("data/repair-unfinished");
    assert!(poll(TIME_MAX, || mark.exists().then_some(())).is_some(), "it begins");
    child.kill().expect("our own child can be killed");
    let status = child.wait().expect("our own child can be waited for");
    assert_eq!(status.code(), None, "killed before it was done");
    check_unfinished(to.path());
    let again = run(old.repair_command(to.path()));
    assert_eq!(again.code, Some(2), "{}", again.text);
    assert!(again.text.contains("an earlier repair into"), "{}", again.text);
    std::fs::remove_dir_all(to.path().join("data")).expect("the half copy");
    std::fs::remove_dir_all(to.path().join("index")).expect("the half copy");
    let again = run(old.repair_command(to.path()));
    assert_eq!(again.code, Some(0), "{}", again.text);
}

/// Directories on a disk that is mounted read-only.
#[test]
fn a_read_only_disk_is_enough() {
    let old = sample();
    let view = Mount::read_only(old.home.path());
    for word in ["check", "dump"] {
        let mut command = Command::new(binary());
        command.arg(word);
        command.arg("--data").arg(view.path().join("data"));
        command.arg("--index").arg(view.path().join("index"));
        let ended = run(command);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
    }
}
