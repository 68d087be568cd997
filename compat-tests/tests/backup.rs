//! `zdb backup` of servers that run, write, clean, follow others or went back, and `zdb restore` of what it copied: the
//! newest state, and that of a second in between.

use compat_tests::import::{Imported, contents, run};
use compat_tests::offline::Stopped;
use compat_tests::server::{Setup, binary, poll, scratch_dir};
use compat_tests::{Client, Reply, Server, args, seed};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const TIME_MAX: Duration = Duration::from_secs(60);
const SMALL: [&str; 4] = ["--datasize", "524288", "--cleaner-rate", "0"];

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A directory for backups of one server.
struct Backups {
    home: TempDir,
}

/// What a backup says that it did.
#[derive(Debug)]
struct Copied {
    records: u64,
    bytes: u64,
}

impl Backups {
    fn new() -> Backups {
        Backups { home: scratch_dir() }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("backup")
    }

    fn command(&self, server: &Server, flags: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("backup").arg(self.dir()).arg("--from").arg(place(server)).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A backup that ends well.
    #[track_caller]
    fn take(&self, server: &Server) -> Copied {
        self.take_with(server, 0, &[])
    }

    #[track_caller]
    fn take_with(&self, server: &Server, code: i32, flags: &[&str]) -> Copied {
        let ended = run(self.command(server, flags));
        assert_eq!(ended.code, Some(code), "zdb backup: {}", ended.text);
        let line = ended.text.lines().find(|line| line.contains(" bytes copied in "));
        let words: Vec<&str> = line.expect("a summary").split(' ').collect();
        let number = |what: &str| {
            let at = words.iter().position(|word| *word == what).expect("a word");
            words[at - 1].parse().expect("a number")
        };
        Copied { records: number("records,"), bytes: number("bytes") }
    }

    fn restore_command(&self, to: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("restore").arg(self.dir()).args(flags);
        command.arg("--to-data").arg(to.join("data"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Restores into directories of their own.
    #[track_caller]
    fn restore(&self, code: i32, flags: &[&str]) -> (Stopped, String) {
        let to = Stopped { home: scratch_dir() };
        let ended = run(self.restore_command(to.home.path(), flags));
        assert_eq!(ended.code, Some(code), "zdb restore: {}", ended.text);
        if code == 0 {
            // Its sidecars are made at the first start.
            let mut first = to.serve();
            first.terminate();
            drop(first);
            to.expect(0, "check", &[]);
        }
        (to, ended.text)
    }

    /// Directories of sets, the oldest first.
    fn sets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir()).into_iter().flatten();
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut sets: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
        sets.sort();
        sets
    }

    /// The segments of all sets, in the order of the log.
    fn segments(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for set in self.sets() {
            let entries = std::fs::read_dir(set).expect("a set");
            let paths = entries.map(|entry| entry.expect("an entry").path());
            let mut paths: Vec<PathBuf> = paths
                .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
                .collect();
            paths.sort();
            found.extend(paths);
        }
        found
    }
}

fn place(server: &Server) -> String {
    format!("{} {}", server.address().ip(), server.address().port())
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("the copy can be read");
    bytes[offset] ^= 1;
    std::fs::write(path, bytes).expect("the copy can be written");
}

/// A process that a test may leave at any point.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn verify(client: &mut Client, model: &Model) {
    for (key, value) in model {
        assert_eq!(client.call(args!["GET", key]), Reply::bulk(value), "{key:?}");
    }
    assert_eq!(client.call(args!["DBSIZE"]).into_integer(), model.len() as i64);
}

/// Overwrites and deletes at random.
fn churn(client: &mut Client, random: &mut Rng, model: &mut Model, count: usize) {
    for _ in 0..count {
        let key = format!("key-{}", random.usize(..200)).into_bytes();
        if random.u8(..6) == 0 {
            client.call(args!["DEL", key]);
            model.remove(&key);
        } else {
            let mut value = random.u64(..).to_string().into_bytes();
            value.resize(value.len() + random.usize(..2000), b'v');
            client.expect(
                args!["SET", key, value],
                match model.get(&key) == Some(&value) {
                    true => Reply::Nil,
                    false => Reply::bulk(&key),
                },
            );
            model.insert(key, value);
        }
    }
}

fn time_s(client: &mut Client) -> u64 {
    let time = client.call(args!["TIME"]).into_array().remove(0).into_bytes();
    String::from_utf8_lossy(&time).parse().expect("seconds")
}

/// Waits for the next second; returns the one that has passed.
fn pass_second(client: &mut Client) -> u64 {
    let now = time_s(client);
    poll(TIME_MAX, || (time_s(client) > now).then_some(())).expect("time passes");
    now
}

fn field(client: &mut Client, name: &str) -> String {
    let text = client.call(args!["INFO", "all"]).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("INFO has {name}: {text}")).trim().to_owned()
}

/// Lets the cleaner look at everything, until it finds nothing more to do.
#[track_caller]
fn clean(client: &mut Client) {
    client.expect(args!["CONFIG", "SET", "appendfsync", "always"], Reply::ok());
    client.call(args!["SET", "durable", "now"]);
    client.call(args!["DEL", "durable"]);
    client.expect(args!["CONFIG", "SET", "appendfsync", "everysec"], Reply::ok());
    let mut before = None;
    let rested = poll(TIME_MAX, || {
        let done = field(client, "cleaner_segments_cleaned");
        if field(client, "cleaner_state") != "resting" {
            return None;
        }
        if before.as_ref() == Some(&done) {
            return Some(());
        }
        before = Some(done);
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        None
    });
    assert!(rested.is_some(), "the cleaner does not come to rest");
}

#[test]
fn a_further_backup_copies_what_is_new() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    let mut random = Rng::with_seed(seed("further"));
    let mut model = Model::new();
    let backups = Backups::new();
    churn(&mut client, &mut random, &mut model, 2000);
    let first = backups.take(&server);
    assert!(backups.segments().len() > 2 && first.bytes > 1_000_000, "{first:?}");
    let before = contents(&backups.sets()[0]);
    let second = backups.take(&server);
    assert_eq!((second.records, second.bytes), (0, 0));
    churn(&mut client, &mut random, &mut model, 300);
    let third = backups.take(&server);
    assert!(third.bytes > 10_000 && third.bytes < 700_000, "{third:?}");
    // Sealed segments are never written to again.
    let last = backups.segments().len() - 1;
    let sealed = &backups.segments()[..last.min(2)];
    let after = contents(&backups.sets()[0]);
    assert!(sealed.iter().all(|path| before[path] == after[path]), "an old copy was changed");
    let (restored, _) = backups.restore(0, &[]);
    verify(&mut restored.serve().connect(), &model);
    let mut list = Command::new(binary());
    list.arg("restore").arg(backups.dir()).arg("--list");
    let listed = run(list);
    assert_eq!((listed.code, listed.text.lines().count()), (Some(0), 4), "{}", listed.text);
    // From the beginning.
    let full = backups.take_with(&server, 0, &["--full"]);
    assert!(full.bytes >= first.bytes, "{full:?}");
    assert_eq!(backups.sets().len(), 2);
    let (restored, _) = backups.restore(0, &[]);
    verify(&mut restored.serve().connect(), &model);
}

/// What was acknowledged before a backup begins is in it, whatever is written and cleaned meanwhile.
#[test]
fn what_was_acknowledged_is_there() {
    let server = Server::start(&SMALL);
    server.connect().expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let (counted, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (counted, is_over) = (counted.clone(), is_over.clone());
        let mut client = server.connect();
        std::thread::spawn(move || {
            for number in 1.. {
                let value = format!("{number} {}", "v".repeat(900));
                let key = format!("key-{}", number % 50);
                client.expect(args!["SET", key, value], Reply::bulk(&key));
                client.expect(args!["SET", "number", number.to_string()], Reply::bulk("number"));
                counted.store(number, Ordering::SeqCst);
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
            }
        })
    };
    let backups = Backups::new();
    let mut client = server.connect();
    for _ in 0..6 {
        let wanted = counted.load(Ordering::SeqCst) + 300;
        poll(TIME_MAX, || (counted.load(Ordering::SeqCst) >= wanted).then_some(()))
            .expect("writes");
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        let least = counted.load(Ordering::SeqCst);
        backups.take(&server);
        let most = counted.load(Ordering::SeqCst) + 1;
        let (restored, _) = backups.restore(0, &[]);
        let restored = restored.serve();
        let mut client = restored.connect();
        let number = client.call(args!["GET", "number"]).into_bytes();
        let number: u64 = String::from_utf8_lossy(&number).parse().expect("a number");
        assert!((least..=most).contains(&number), "{number} is not in {least}..={most}");
        for at in 0..50.min(number) {
            let last = number - at;
            let value = client.call(args!["GET", format!("key-{}", last % 50)]).into_bytes();
            let value = String::from_utf8_lossy(&value).into_owned();
            let found: u64 =
                value.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
            assert!(found == last || found == last + 50, "key-{}: {found}, not {last}", last % 50);
        }
    }
    is_over.store(true, Ordering::SeqCst);
    writer.join().expect("the writer ends well");
}

#[test]
fn a_killed_backup_is_gone_on_with() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    let mut random = Rng::with_seed(seed("killed backup"));
    let mut model = Model::new();
    let backups = Backups::new();
    churn(&mut client, &mut random, &mut model, 300);
    let old = model.clone();
    let pass = pass_second(&mut client).to_string();
    backups.take(&server);
    churn(&mut client, &mut random, &mut model, 3000);
    for round in 0..3 {
        let copies = backups.segments().len();
        let slow = backups.command(&server, &["--rate", "1M"]).spawn().expect("the binary runs");
        let slow = Running(slow);
        poll(TIME_MAX, || (backups.segments().len() > copies).then_some(())).expect("copies");
        // Two at once are refused.
        let other = run(backups.command(&server, &[]));
        assert_eq!(other.code, Some(2), "{}", other.text);
        assert!(other.text.contains("another backup"), "{}", other.text);
        drop(slow);
        if round == 0 {
            let (restored, _) = backups.restore(0, &["--until", &pass]);
            verify(&mut restored.serve().connect(), &old);
        }
    }
    backups.take(&server);
    assert_eq!(backups.sets().len(), 1);
    let (restored, _) = backups.restore(0, &[]);
    verify(&mut restored.serve().connect(), &model);
    let (restored, _) = backups.restore(0, &["--until", &pass]);
    verify(&mut restored.serve().connect(), &old);
}

#[test]
fn every_second_comes_back() {
    for policy in ["always", "everysec", "no"] {
        let server = Setup::new().flags(&SMALL).flags(&["--sync", policy]).start();
        let mut client = server.connect();
        let mut random = Rng::with_seed(seed("every second"));
        let (mut model, mut ids) = (Model::new(), 0u64);
        let mut seconds = Vec::new();
        let backups = Backups::new();
        client.expect(args!["NSNEW", "ids"], Reply::ok());
        client.expect(args!["NSSET", "ids", "mode", "seq"], Reply::ok());
        for round in 0..6 {
            churn(&mut client, &mut random, &mut model, 150);
            client
                .expect(args!["MSET", "a", round.to_string(), "b", round.to_string()], Reply::ok());
            model.insert("a".into(), round.to_string().into());
            model.insert("b".into(), round.to_string().into());
            // A time that the client chose is not when it was written.
            for time in ["7", "4000000000"] {
                let value = format!("{round}");
                client.expect(args!["SET", time, value, time], Reply::bulk(time));
                model.insert(time.into(), value.into());
            }
            client.expect(args!["SELECT", "ids"], Reply::ok());
            for _ in 0..10 {
                client.expect(args!["SET", "", "value"], Reply::bulk(ids.to_le_bytes()));
                ids += 1;
            }
            client.expect(args!["SELECT", "default"], Reply::ok());
            let second = pass_second(&mut client);
            seconds.push((second, model.clone(), ids));
            if round % 2 == 1 {
                backups.take(&server);
            }
        }
        for (second, model, ids) in &seconds {
            let (restored, _) = backups.restore(0, &["--until", &second.to_string()]);
            let restored = restored.serve();
            let mut client = restored.connect();
            verify(&mut client, model);
            client.expect(args!["SELECT", "ids"], Reply::ok());
            client.expect(args!["SET", "", "next"], Reply::bulk(ids.to_le_bytes()));
        }
        let (first, last) = (seconds[0].0 - 100, seconds[5].0 + 100_000);
        let (_, text) = backups.restore(2, &["--until", &first.to_string()]);
        assert!(text.contains("begins later"), "{text}");
        let (_, text) = backups.restore(2, &["--until", &last.to_string()]);
        assert!(text.contains("nobody knows"), "{text}");
    }
}

/// What a backup copied before the cleaner came can be restored to any second; what it copied after cannot.
#[test]
fn what_the_cleaner_took_is_in_older_copies() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let mut random = Rng::with_seed(seed("cleaned since"));
    let mut model = Model::new();
    let backups = Backups::new();
    let mut seconds = Vec::new();
    for _ in 0..4 {
        churn(&mut client, &mut random, &mut model, 800);
        seconds.push((pass_second(&mut client), model.clone()));
        backups.take(&server);
        clean(&mut client);
    }
    backups.take(&server);
    assert_eq!(backups.sets().len(), 1);
    let (restored, _) = backups.restore(0, &[]);
    verify(&mut restored.serve().connect(), &model);
    for (second, model) in &seconds {
        let (restored, _) = backups.restore(0, &["--until", &second.to_string()]);
        verify(&mut restored.serve().connect(), model);
    }
    // Another set begins with cleaned segments.
    assert_ne!(field(&mut client, "cleaner_segments_cleaned"), "0");
    let full = backups.take_with(&server, 0, &["--full"]);
    let ended = run({
        let newest = backups.sets()[1].file_name().expect("a name").to_string_lossy().into_owned();
        let second = seconds[0].0.to_string();
        let to = scratch_dir();
        backups.restore_command(to.path(), &["--until", &second, "--set", &newest])
    });
    assert_eq!(ended.code, Some(2), "{full:?} {}", ended.text);
    assert!(ended.text.contains("had already dropped"), "{}", ended.text);
    let (restored, _) = backups.restore(0, &["--until", &seconds[0].0.to_string()]);
    verify(&mut restored.serve().connect(), &seconds[0].1);
    // Between two backups the cleaner comes, more than once, and deletes go.
    for _ in 0..4 {
        churn(&mut client, &mut random, &mut model, 1500);
        clean(&mut client);
        backups.take(&server);
        let (restored, _) = backups.restore(0, &[]);
        verify(&mut restored.serve().connect(), &model);
    }
}

/// Two servers with the same log, one of which went back and on from there, share a directory and nothing more.
#[test]
fn a_log_that_parted_begins_another_set() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    three(&mut client);
    let second = pass_second(&mut client).to_string();
    client.expect(args!["SET", "four", "value"], Reply::bulk("four"));
    let later = pass_second(&mut client).to_string();
    let backups = Backups::new();
    backups.take(&server);
    let (restored, _) = backups.restore(0, &["--until", &second]);
    let restored = restored.serve();
    let value = "other".repeat(2000);
    restored.connect().expect(args!["SET", "four", value], Reply::bulk("four"));
    let copied = backups.take(&restored);
    assert!(copied.bytes < 30_000, "what is the same is not copied: {copied:?}");
    assert_eq!(backups.sets().len(), 2);
    let (newest, _) = backups.restore(0, &[]);
    newest.serve().connect().expect(args!["GET", "four"], Reply::bulk(value));
    let oldest = backups.sets()[0].file_name().expect("a name").to_string_lossy().into_owned();
    for flags in [&["--set", &oldest][..], &["--set", &oldest, "--until", &later]] {
        let (old, _) = backups.restore(0, flags);
        old.serve().connect().expect(args!["GET", "four"], Reply::bulk("value"));
    }
    // And back again.
    client.expect(args!["SET", "five", "value"], Reply::bulk("five"));
    backups.take(&server);
    assert_eq!(backups.sets().len(), 3);
    let (newest, _) = backups.restore(0, &[]);
    let newest = newest.serve();
    newest.connect().expect(args!["GET", "four"], Reply::bulk("value"));
    newest.connect().expect(args!["GET", "five"], Reply::bulk("value"));
}

/// What a power cut took of the server is not mixed with what it wrote instead.
#[test]
fn a_server_that_lost_its_end_begins_another_set() {
    let mut server = Setup::new().flags(&SMALL).flags(&["--sync", "no"]).start();
    let mut client = server.connect();
    three(&mut client);
    client.expect(args!["CONFIG", "SET", "appendfsync", "always"], Reply::ok());
    client.expect(args!["SET", "kept", "value"], Reply::bulk("kept"));
    client.expect(args!["CONFIG", "SET", "appendfsync", "no"], Reply::ok());
    let kept = field(&mut client, "log_position");
    client.expect(args!["SET", "lost", "value"], Reply::bulk("lost"));
    assert_ne!(field(&mut client, "log_position"), kept);
    let backups = Backups::new();
    backups.take(&server);
    drop(client);
    server.kill();
    server.lose_buffer();
    server.resume();
    let mut client = server.connect();
    client.expect(args!["GET", "lost"], Reply::Nil);
    client.expect(args!["SET", "other", "value"], Reply::bulk("other"));
    backups.take(&server);
    let (restored, _) = backups.restore(0, &[]);
    let restored = restored.serve();
    let mut client = restored.connect();
    client.expect(args!["GET", "lost"], Reply::Nil);
    for key in ["kept", "other"] {
        client.expect(args!["GET", key], Reply::bulk("value"));
    }
}

/// Segments of their own for three keys.
fn three(client: &mut Client) {
    for key in ["one", "two", "three"] {
        let value = key.repeat(100);
        client.expect(args!["SET", key, value], Reply::bulk(key));
        client.expect(args!["NSJUMP"], Reply::ok());
    }
}

#[test]
fn a_damaged_copy_costs_its_own_records() {
    let server = Server::start(&SMALL);
    three(&mut server.connect());
    server.connect().expect(args!["SET", "four", "value"], Reply::bulk("four"));
    let backups = Backups::new();
    backups.take(&server);
    let segments = backups.segments();
    let name = segments[1].file_name().expect("a name").to_string_lossy().into_owned();
    flip(&segments[1], 4096 + 200);
    let (restored, text) = backups.restore(1, &[]);
    assert!(text.contains(&format!("segment {name} at offset 4096")), "{text}");
    assert!(text.contains("key \"two\""), "{text}");
    let restored = restored.serve();
    let mut client = restored.connect();
    client.expect(args!["GET", "one"], Reply::bulk("one".repeat(100)));
    client.expect(args!["GET", "three"], Reply::bulk("three".repeat(100)));
    client.expect(args!["GET", "four"], Reply::bulk("value"));
    assert_ne!(client.call(args!["GET", "two"]), Reply::bulk("two".repeat(100)));
    // Its header, too.
    flip(&segments[1], 10);
    let (_, text) = backups.restore(1, &[]);
    assert!(text.contains(&name), "{text}");
    // One that is gone.
    std::fs::remove_file(&segments[1]).expect("a copy");
    let (restored, text) = backups.restore(1, &[]);
    assert!(text.contains(&name) && text.contains("missing"), "{text}");
    let restored = restored.serve();
    let mut client = restored.connect();
    client.expect(args!["GET", "three"], Reply::bulk("three".repeat(100)));
    client.expect(args!["GET", "one"], Reply::bulk("one".repeat(100)));
    // Nothing is added to a set that lacks something.
    let ended = run(backups.command(&server, &[]));
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    assert!(ended.text.contains(&name) && ended.text.contains("--full"), "{}", ended.text);
    // What says how far the set is.
    flip(&backups.sets()[0].join("backup"), 20);
    let (restored, text) = backups.restore(1, &[]);
    assert!(text.contains("backup is damaged"), "{text}");
    restored.serve().connect().expect(args!["GET", "four"], Reply::bulk("value"));
    let ended = run(backups.command(&server, &[]));
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    assert!(ended.text.contains("--full"), "{}", ended.text);
    backups.take_with(&server, 0, &["--full"]);
    let (restored, _) = backups.restore(0, &[]);
    restored.serve().connect().expect(args!["GET", "two"], Reply::bulk("two".repeat(100)));
}

#[test]
fn an_end_that_is_missing_is_told() {
    let server = Server::start(&SMALL);
    three(&mut server.connect());
    let backups = Backups::new();
    backups.take(&server);
    let last = backups.segments().pop().expect("a segment");
    std::fs::remove_file(last).expect("a copy");
    let (_, text) = backups.restore(1, &[]);
    assert!(text.contains("the end is missing"), "{text}");
}

#[test]
fn damage_of_the_server_is_told_and_copied() {
    let old = Stopped::after(&SMALL, |client| {
        three(client);
        client.expect(args!["SET", "four", "value"], Reply::bulk("four"));
    });
    let segment = old.files("data", "log").remove(1);
    old.flip(&segment, 4096 + 200);
    let server = old.serve();
    let backups = Backups::new();
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    let ended = run(backups.command(&server, &[]));
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.contains(&format!("segment {name} at offset 4096")), "{}", ended.text);
    backups.take(&server);
    let (restored, text) = backups.restore(1, &[]);
    assert!(text.contains(&name), "{text}");
    let restored = restored.serve();
    restored.connect().expect(args!["GET", "three"], Reply::bulk("three".repeat(100)));
    restored.connect().expect(args!["GET", "four"], Reply::bulk("value"));
}

#[test]
fn a_backup_that_follows_has_everything_a_moment_later() {
    let mut server = Setup::new().flags(&SMALL).flags(&["--sync", "always"]).start();
    let mut client = server.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let mut random = Rng::with_seed(seed("follow"));
    let mut model = Model::new();
    let backups = Backups::new();
    let follower = backups.command(&server, &["--follow"]).spawn().expect("the binary runs");
    let follower = Running(follower);
    let mut seconds = Vec::new();
    for round in 0..4 {
        churn(&mut client, &mut random, &mut model, 600);
        seconds.push((pass_second(&mut client), model.clone()));
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        if round == 2 {
            // It finds the way back.
            let port = server.address().port().to_string();
            server.set_flags(&[&SMALL[..], &["--sync", "always", "--port", &port]].concat());
            drop(client);
            server.terminate();
            server.resume();
            client = server.connect();
        }
    }
    let is_up = |client: &mut Client| (field(client, "connected_backups") == "1").then_some(());
    poll(TIME_MAX, || is_up(&mut client)).expect("the backup follows");
    // No write waits for a backup, and Sentinel does not learn of it.
    assert_eq!(field(&mut client, "connected_slaves"), "0");
    let last = seconds[3].0;
    let is_there = || {
        let mut list = Command::new(binary());
        list.arg("restore").arg(backups.dir()).arg("--until").arg(last.to_string());
        let to = scratch_dir();
        list.arg("--to-data").arg(to.path().join("data"));
        (run(list).code == Some(0)).then_some(())
    };
    poll(TIME_MAX, is_there).expect("the backup says that it has the last second");
    drop(follower);
    for (second, model) in &seconds {
        let (restored, _) = backups.restore(0, &["--until", &second.to_string()]);
        verify(&mut restored.serve().connect(), model);
    }
}

#[test]
fn a_replica_is_copied_like_its_master() {
    let master = Server::start(&SMALL);
    let replica = Setup::new().flags(&SMALL).flags(&["--replicaof", &place(&master)]).start();
    let mut client = master.connect();
    three(&mut client);
    client.expect(args!["SET", "open", "value"], Reply::bulk("open"));
    client.expect(args!["WAIT", "1", "60000"], Reply::Integer(1));
    let backups = Backups::new();
    backups.take(&replica);
    let (restored, _) = backups.restore(0, &[]);
    let restored = restored.serve();
    restored.connect().expect(args!["GET", "one"], Reply::bulk("one".repeat(100)));
    restored.connect().expect(args!["GET", "open"], Reply::bulk("value"));
    // The log is the same: the next one may be of the master.
    client.expect(args!["SET", "more", "value"], Reply::bulk("more"));
    let copied = backups.take(&master);
    assert!(copied.bytes < 10_000, "{copied:?}");
    let (restored, _) = backups.restore(0, &[]);
    restored.serve().connect().expect(args!["GET", "more"], Reply::bulk("value"));
}

#[test]
fn settings_and_ids_come_back() {
    let server = Server::start(&SMALL);
    let mut client = server.connect();
    client.expect(args!["NSNEW", "ids"], Reply::ok());
    for (property, value) in [("mode", "seq"), ("maxsize", "1234567"), ("password", "secret")] {
        client.expect(args!["NSSET", "ids", property, value], Reply::ok());
    }
    client.expect(args!["SELECT", "ids", "secret"], Reply::ok());
    for id in 0..9u64 {
        client.expect(args!["SET", "", "value"], Reply::bulk(id.to_le_bytes()));
    }
    client.expect(args!["DEL", 8u64.to_le_bytes()], Reply::ok());
    let backups = Backups::new();
    backups.take(&server);
    let (restored, _) = backups.restore(0, &[]);
    let restored = restored.serve();
    let mut client = restored.connect();
    let info = client.call(args!["NSINFO", "ids"]).into_bytes();
    let info = String::from_utf8_lossy(&info).into_owned();
    assert!(
        info.contains("data_limits_bytes: 1234567\n") && info.contains("password: yes"),
        "{info}"
    );
    client.expect(args!["SELECT", "ids", "secret"], Reply::ok());
    client.expect(args!["GET", 7u64.to_le_bytes()], Reply::bulk("value"));
    client.expect(args!["SET", "", "next"], Reply::bulk(9u64.to_le_bytes()));
}

#[test]
fn what_cannot_be_done_is_told() {
    let server = Server::start(&["--datasize", "524288", "--admin", "secret"]);
    let backups = Backups::new();
    #[track_caller]
    fn refused(command: Command, words: &str) {
        let ended: Imported = run(command);
        assert_eq!(ended.code, Some(2), "{}", ended.text);
        assert!(ended.text.contains(words), "no {words:?} in {}", ended.text);
    }
    refused(backups.command(&server, &["--from", "localhost"]), "takes a host and a port");
    refused(backups.command(&server, &["--from", "127.0.0.1 1"]), "cannot connect to 127.0.0.1 1");
    refused(backups.command(&server, &["--rate", "10"]), "at least 64k");
    let password = backups.home.path().join("password");
    let flags = ["--masterauth-file", password.to_str().expect("text")];
    refused(backups.command(&server, &flags), "cannot read it");
    std::fs::write(&password, "wrong\n").expect("a file");
    refused(backups.command(&server, &flags), "Access denied");
    refused(backups.command(&server, &[]), "--masterauth-file");
    let to = backups.home.path().join("new");
    refused(backups.restore_command(&to, &[]), "no backup");
    std::fs::write(&password, "secret\n").expect("a file");
    let mut client = server.connect();
    client.expect(args!["AUTH", "secret"], Reply::ok());
    three(&mut client);
    assert_eq!(run(backups.command(&server, &flags)).code, Some(0));
    // Another log.
    let other = Server::start(&SMALL);
    three(&mut other.connect());
    let names = backups.segments();
    refused(backups.command(&other, &[]), "another log");
    refused(backups.command(&other, &["--full"]), "another log");
    assert_eq!(backups.segments(), names);
    // A set in place of the directory.
    let mut inside = Command::new(binary());
    inside.arg("backup").arg(&backups.sets()[0]).args(flags).arg("--from").arg(place(&server));
    refused(inside, "is a set of a backup");
    // A redis-server is no zdb.
    // Targets.
    refused(backups.restore_command(&backups.dir(), &[]), "lies in the backup");
    refused(backups.restore_command(&to, &["--until", "noon"]), "not a time");
    refused(backups.restore_command(&to, &["--set", "set-1"]), "there is no set");
    assert!(!to.exists());
    std::fs::create_dir_all(to.join("data")).expect("a directory");
    std::fs::write(to.join("data/letter"), "mine").expect("a file");
    refused(backups.restore_command(&to, &[]), "is not empty");
    std::fs::remove_file(to.join("data/letter")).expect("a file");
    std::fs::write(to.join("data/restore-unfinished"), "").expect("a file");
    refused(backups.restore_command(&to, &[]), "an earlier restore");
    let refusal = Setup::new().home(&to).try_start().err().expect("it is not whole");
    assert!(refusal.log.iter().any(|line| line.contains("zdb restore")), "{refusal:?}");
    // A server does not begin on a backup by mistake.
    let index = backups.home.path().join("index");
    let mut server = Command::new(binary());
    server.args(["--port", "0", "--data"]).arg(&backups.sets()[0]).arg("--index").arg(index);
    let ended = run(server);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.contains("zdb restore"), "{}", ended.text);
}
