//! Offload: closed segments are moved away while the server serves, and come back on demand, through the hook. Who
//! wants nothing of them does not wait.

use compat_tests::client::encoded;
use compat_tests::server::{Setup, poll, scratch_dir};
use compat_tests::{Client, Reply, Server, args};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TIME_MAX: Duration = Duration::from_secs(30);
const SMALL: [&str; 4] = ["--datasize", "512k", "--cache", "1M"];
const VALUE_BYTES: usize = 100_000;

/// A place where segments are moved to, and a hook that brings them back.
struct Store {
    dir: TempDir,
}

impl Store {
    /// `more` runs before a file is brought back: `exit 1` there keeps it away.
    fn new(more: &str) -> Store {
        let store = Store { dir: scratch_dir() };
        std::fs::create_dir(store.away()).expect("a place for segments");
        store.set_hook(more);
        store
    }

    fn set_hook(&self, more: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "#!/bin/sh\n[ $1 = missing-data ] || exit 0\ndir={dir}\necho \"$3\" >> $dir/calls\n{more}\n\
             cp $dir/away/$(basename $3) $3.tmp && mv $3.tmp $3\n"
        );
        let fresh = self.dir.path().join("hook.new");
        std::fs::write(&fresh, text).expect("the script can be written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&fresh, mode).expect("it can be made a program");
        std::fs::rename(fresh, self.hook()).expect("it takes the place of the old one");
    }

    fn hook(&self) -> PathBuf {
        self.dir.path().join("hook")
    }

    fn away(&self) -> PathBuf {
        self.dir.path().join("away")
    }

    fn setup(&self) -> Setup {
        Setup::new().flags(&SMALL).flags(&["--hook", &self.hook().to_string_lossy()])
    }

    /// Moves a file of the server away, as to another machine.
    fn take(&self, server: &Server, name: &str) {
        let from = server.data_dir().join(name);
        std::fs::copy(&from, self.away().join(name)).expect("it can be copied");
        std::fs::remove_file(from).expect("it can be removed");
    }

    /// Moves all closed segments away, and waits until the server has let go of them. Their names.
    #[track_caller]
    fn take_all(&self, server: &Server, client: &mut Client) -> Vec<String> {
        let mut names = segments(server);
        names.pop().expect("the last one is being written");
        names.iter().for_each(|name| self.take(server, name));
        wait_away(client, names.len() as u64);
        names
    }

    /// Names of the files that the hook was asked for.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        let name = |line: &str| Path::new(line).file_name().expect("a name").to_owned();
        text.lines().map(|line| name(line).to_string_lossy().into_owned()).collect()
    }
}

/// Names of the segments' files, the oldest first.
fn segments(server: &Server) -> Vec<String> {
    segments_of(&server.data_dir())
}

fn segments_of(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".log"))
        .collect();
    names.sort();
    names
}

fn number(client: &mut Client, name: &str) -> u64 {
    let text = client.call(args!["INFO", "all"]).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("INFO has {name}: {text}")).trim().parse().expect("a number")
}

#[track_caller]
fn wait_away(client: &mut Client, count: u64) {
    let seen = poll(TIME_MAX, || (number(client, "segments_away") == count).then_some(()));
    assert!(seen.is_some(), "{} segments are away, not {count}", number(client, "segments_away"));
}

fn value(number: u8) -> Vec<u8> {
    vec![number; VALUE_BYTES]
}

/// Twenty values, five in each file, and settings of namespaces among them. None of it is in memory any more.
fn fill(server: &mut Server) -> Client {
    let mut client = server.connect();
    for number in 0..20 {
        let key = number.to_string();
        client.expect(args!["SET", key, value(number)], Reply::bulk(&key));
        if number % 5 == 2 {
            let name = format!("space-{number}");
            client.expect(args!["NSNEW", name], Reply::ok());
            client.expect(args!["NSSET", name, "maxsize", "1000"], Reply::ok());
        }
    }
    client.expect(args!["DEL", "19"], Reply::ok());
    server.terminate();
    server.resume();
    let mut client = server.connect();
    client.expect(args!["SET", "last", "here"], Reply::bulk("last"));
    client
}

#[track_caller]
fn check(client: &mut Client, numbers: impl Iterator<Item = u8>) {
    for number in numbers {
        client.expect(args!["GET", number.to_string()], Reply::bulk(value(number)));
    }
}

fn open_and_gone(server: &Server) -> usize {
    let links = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("its files");
    let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    let is_gone = |path: &PathBuf| path.to_string_lossy().ends_with(".log (deleted)");
    targets.filter(is_gone).count()
}

/// Files that were moved away give their space back, and each comes back when somebody wants what is in it, once.
#[test]
fn what_was_moved_away_comes_back_on_demand() {
    let store = Store::new("");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    assert!(names.len() >= 4, "{names:?}");
    assert_eq!(open_and_gone(&server), 0, "their space is free");
    client.expect(args!["GET", "last"], Reply::bulk("here"));
    client.expect(args!["SET", "3", "new"], Reply::bulk("3"));
    assert_eq!(store.calls(), Vec::<String>::new(), "nobody wanted what is in them");
    client.expect(args!["GET", "3"], Reply::bulk("new"));
    check(&mut client, 0..1);
    assert_eq!(store.calls(), names[..1]);
    check(&mut client, 1..3);
    check(&mut client, 4..19);
    let mut calls = store.calls();
    calls.sort();
    assert_eq!(calls, names, "each was asked for once");
    assert_eq!(number(&mut client, "segments_away"), 0);
    assert_eq!(number(&mut client, "segments_brought_back"), names.len() as u64);
    // And away again.
    let again = store.take_all(&server, &mut client);
    assert_eq!(again, names);
    check(&mut client, 4..19);
}

/// Whoever wants nothing of a file that is brought back by a slow hook is served meanwhile.
#[test]
fn others_do_not_wait_for_a_file() {
    let store = Store::new("until [ -e $dir/go ]; do sleep 0.05; done");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    let mut waiting: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send_raw(&encoded(args!["GET", "1"])).expect("it takes the request");
    }
    let asked = poll(TIME_MAX, || (!store.calls().is_empty()).then_some(()));
    asked.expect("the hook runs");
    let begun = Instant::now();
    for number in 0..2000_u32 {
        let key = format!("meanwhile-{number}");
        client.expect(args!["SET", key, "v"], Reply::bulk(&key));
        client.expect(args!["GET", key], Reply::bulk("v"));
    }
    assert!(begun.elapsed() < TIME_MAX, "{:?}", begun.elapsed());
    for client in &mut waiting {
        assert!(client.is_quiet(), "the file is not back");
    }
    std::fs::write(store.dir.path().join("go"), "").expect("the hook is let go on");
    for client in &mut waiting {
        assert_eq!(client.receive().expect("the answer comes"), Reply::bulk(value(1)));
    }
    assert_eq!(store.calls(), names[..1], "three wanted it, and one hook ran");
}

/// A start needs nothing of what is away: the stubs and the sidecars tell it all.
#[test]
fn a_start_brings_nothing_back() {
    let store = Store::new("");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    for kill in [false, true] {
        let before = client.call(args!["NSLIST"]);
        let info = |client: &mut Client| {
            let text = client.call(args!["NSINFO", "space-7"]).into_bytes();
            let text = String::from_utf8_lossy(&text).into_owned();
            let is_setting = |line: &&str| !line.contains("_bytes") || line.contains("limits");
            let lines = text.lines().filter(is_setting).filter(|line| !line.contains("disk_"));
            lines.filter(|line| !line.contains("_current_")).map(str::to_owned).collect()
        };
        let settings: Vec<String> = info(&mut client);
        match kill {
            true => server.kill(),
            false => assert_eq!(server.terminate().code(), Some(143)),
        }
        server.resume();
        client = server.connect();
        assert_eq!(store.calls(), Vec::<String>::new(), "kill: {kill}");
        let told = server.log();
        assert!(!told.iter().any(|line| line.contains("damage")), "{told:?}");
        assert_eq!(number(&mut client, "segments_away"), names.len() as u64);
        assert_eq!(client.call(args!["NSLIST"]), before);
        assert_eq!(info(&mut client), settings);
        client.expect(args!["GET", "19"], Reply::Nil);
        client.expect(args!["GET", "last"], Reply::bulk("here"));
    }
    check(&mut client, 0..19);
    assert_eq!(store.calls().len(), names.len());
    // A lost index is made anew from the files: without them it cannot be.
    let names = store.take_all(&server, &mut client);
    server.terminate();
    std::fs::remove_dir_all(server.index_dir()).expect("the index is lost");
    for name in &names {
        std::fs::copy(store.away().join(name), server.data_dir().join(name))
            .expect("it comes back");
    }
    server.resume();
    check(&mut server.connect(), 0..19);
}

/// A damaged sidecar is made anew from the file, which the hook brings back for it.
#[test]
fn a_damaged_sidecar_brings_its_file_back() {
    let store = Store::new("");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    server.terminate();
    let sidecar = server.index_dir().join(names[1].replace(".log", ".sidecar"));
    let mut bytes = std::fs::read(&sidecar).expect("a sidecar");
    bytes[70] ^= 1;
    std::fs::write(&sidecar, bytes).expect("it can be changed");
    let stub = server.index_dir().join(names[2].replace(".log", ".stub"));
    std::fs::remove_file(stub).expect("a stub is there");
    server.resume();
    assert_eq!(store.calls(), names[1..3], "those that a start needs");
    let mut client = server.connect();
    assert_eq!(number(&mut client, "segments_away"), names.len() as u64 - 2);
    check(&mut client, 0..19);
    // Without a hook no start goes on: what the deletes in the segment ended would live again.
    let names = store.take_all(&server, &mut client);
    server.terminate();
    std::fs::write(&sidecar, "nonsense").expect("it can be changed");
    server.set_flags(&SMALL);
    let refusal = server.try_resume().expect_err("a start without the segment");
    let is_told = |line: &String| line.contains(&names[1]) && line.contains("bring its file back");
    assert!(refusal.log.iter().any(is_told), "{refusal:?}");
    std::fs::remove_file(&sidecar).expect("the sidecar is there");
    server.try_resume().expect_err("a start with the stub alone");
    std::fs::copy(store.away().join(&names[1]), server.data_dir().join(&names[1])).expect("a copy");
    server.resume();
    check(&mut server.connect(), 5..9);
    for name in &names {
        std::fs::copy(store.away().join(name), server.data_dir().join(name)).expect("a copy");
    }
    check(&mut server.connect(), 0..19);
}

/// A hook may move each file away as soon as it hears of it.
#[test]
fn each_file_may_leave_as_soon_as_it_is_closed() {
    let store = Store::new("");
    let dir = store.dir.path().display().to_string();
    let text = format!(
        "#!/bin/sh\ncase $1 in\njump-data) mv $3 {dir}/away/;;\nmissing-data) echo $3 >> {dir}/calls; \
         cp {dir}/away/$(basename $3) $3;;\nesac\n"
    );
    std::fs::write(store.hook(), text).expect("the script can be written");
    let mut server = store.setup().start();
    let mut client = server.connect();
    for number in 0..100 {
        let key = number.to_string();
        client.expect(args!["SET", key, value(number)], Reply::bulk(&key));
    }
    let all_left = poll(TIME_MAX, || {
        let moved = segments_of(&store.away()).len();
        (moved >= 15 && number(&mut client, "segments_away") == moved as u64).then_some(())
    });
    assert!(all_left.is_some(), "{:?}", segments_of(&store.away()));
    for kill in [true, false] {
        match kill {
            true => server.kill(),
            false => assert_eq!(server.terminate().code(), Some(143)),
        }
        server.resume();
        client = server.connect();
        assert!(!server.log().iter().any(|line| line.contains("damage")), "{:?}", server.log());
        client.expect(args!["SET", "more", kill.to_string()], Reply::bulk("more"));
    }
    check(&mut client, 0..100);
}

/// What does not come back is an error to who wants it, and to nobody else; nothing is lost.
#[test]
fn what_stays_away_is_an_error_and_comes_back_later() {
    let store = Store::new("exit 3");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    let refused = Reply::error("Internal Error (the segment is away)");
    client.expect(args!["GET", "1"], refused.clone());
    client.expect(args!["GET", "1"], refused.clone());
    assert_eq!(store.calls().len(), 2, "each access asks again");
    let name = names[0].clone();
    server.wait_for_log("which file is away", move |line| {
        line.contains(&name) && line.contains("is away") && line.contains("missing-data")
    });
    client.expect(args!["GET", "last"], Reply::bulk("here"));
    // A hook that says it went well, and brought nothing, or another file.
    store.set_hook("exit 0");
    client.expect(args!["GET", "1"], refused.clone());
    store.set_hook(&format!("cp $dir/away/{} $3; exit 0", names[1]));
    client.expect(args!["GET", "1"], refused.clone());
    server.wait_for_log("that it is another one", |line| line.contains("another one"));
    std::fs::remove_file(server.data_dir().join(&names[0])).expect("the wrong one is there");
    // The operator puts it back by hand.
    let back = server.data_dir().join(&names[0]);
    std::fs::copy(store.away().join(&names[0]), back).expect("it can be copied");
    client.expect(args!["GET", "1"], Reply::bulk(value(1)));
    // Without a hook.
    server.terminate();
    let home = server.data_dir();
    assert!(home.exists());
    server.set_flags(&SMALL);
    server.resume();
    let mut client = server.connect();
    client.expect(args!["GET", "1"], Reply::bulk(value(1)));
    client.expect(args!["GET", "12"], refused);
    store.set_hook("");
    server.terminate();
    server.set_flags(&["--hook", &store.hook().to_string_lossy()]);
    server.resume();
    check(&mut server.connect(), 0..19);
}

/// A stop does not wait for a hook.
#[test]
fn a_stop_does_not_wait_for_a_file() {
    let store = Store::new("sleep 1000");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    store.take_all(&server, &mut client);
    let mut waiting = server.connect();
    let mut request = Vec::new();
    compat_tests::client::encode(args!["GET", "1"], &mut request);
    waiting.send_raw(&request).expect("it takes the request");
    poll(TIME_MAX, || (!store.calls().is_empty()).then_some(())).expect("the hook runs");
    let begun = Instant::now();
    server.terminate();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let refused = Reply::error("Internal Error (the segment is away)");
    assert_eq!(waiting.receive().expect("it is answered"), refused);
    let sleeps = std::process::Command::new("pkill").args(["-f", "sleep 1000"]).status();
    assert!(sleeps.is_ok());
}

/// The cleaner and the scrub have nothing brought back; what is cleaned after it came back stays as it is wanted.
#[test]
fn the_cleaner_and_the_scrub_pass_by() {
    let store = Store::new("");
    let mut server = store.setup().flags(&["--scrub-days", "30", "--scrub-rate", "1G"]).start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    for number in 0..15 {
        let key = number.to_string();
        client.expect(args!["SET", key, "new"], Reply::bulk(&key));
    }
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    client.expect(args!["NSJUMP"], Reply::ok());
    client.expect(args!["CONFIG", "SET", "cleaner-rate", "0"], Reply::ok());
    client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
    client.expect(args!["DEBUG", "SCRUB", "START"], Reply::ok());
    let rests = |client: &mut Client| {
        let text = client.call(args!["INFO", "all"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains("cleaner_state: resting") && text.contains("scrub_running: 0")
    };
    poll(TIME_MAX, || rests(&mut client).then_some(())).expect("they come to rest");
    assert_eq!(store.calls(), Vec::<String>::new());
    assert_eq!(number(&mut client, "scrub_damaged"), 0);
    assert_eq!(number(&mut client, "segments_away"), names.len() as u64);
    // Back, and then cleaned: the packed one can go and come like any other.
    check(&mut client, 15..19);
    for name in &names {
        if !server.data_dir().join(name).exists() {
            std::fs::copy(store.away().join(name), server.data_dir().join(name)).expect("a copy");
        }
    }
    server.terminate();
    server.resume();
    let mut client = server.connect();
    assert_eq!(number(&mut client, "segments_away"), 0);
    client.expect(args!["CONFIG", "SET", "cleaner-rate", "0"], Reply::ok());
    client.expect(args!["CONFIG", "SET", "appendfsync", "always"], Reply::ok());
    client.expect(args!["SET", "durable", "now"], Reply::bulk("durable"));
    client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
    let cleaned = poll(TIME_MAX, || {
        (number(&mut client, "cleaner_segments_cleaned") > 0 && rests(&mut client)).then_some(())
    });
    cleaned.expect("something is cleaned");
    let packed = store.take_all(&server, &mut client);
    server.terminate();
    server.resume();
    let mut client = server.connect();
    assert_eq!(number(&mut client, "segments_away"), packed.len() as u64);
    check(&mut client, 15..19);
    for number in 0..15 {
        client.expect(args!["GET", number.to_string()], Reply::bulk("new"));
    }
    client.expect(
        args!["NSLIST"],
        client_list(&["default", "space-2", "space-7", "space-12", "space-17"]),
    );
}

fn client_list(names: &[&str]) -> Reply {
    Reply::Array(names.iter().map(Reply::bulk).collect())
}

/// A replica gets what is away, too: it is brought back for it.
#[test]
fn a_replica_gets_what_is_away() {
    let store = Store::new("");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = store.take_all(&server, &mut client);
    let replica = Setup::new().flags(&SMALL).start();
    let mut other = replica.connect();
    let port = server.address().port().to_string();
    other.expect(args!["REPLICAOF", "127.0.0.1", port], Reply::ok());
    // It begins anew, and its connections with it.
    let is_there = || {
        let mut other = Client::connect(replica.address()).ok()?;
        let reply = other.try_call(args!["GET", "last"]).ok()?;
        (reply == Reply::bulk("here")).then_some(())
    };
    poll(TIME_MAX, is_there).expect("the replica has everything");
    let mut other = replica.connect();
    check(&mut other, 0..19);
    let mut calls = store.calls();
    calls.sort();
    calls.dedup();
    assert_eq!(calls, names);
}

/// A file that was only renamed has left, too: its name is what counts.
#[test]
fn a_file_under_another_name_is_away() {
    let store = Store::new("");
    let mut server = store.setup().start();
    let mut client = fill(&mut server);
    let names = segments(&server);
    let kept = server.data_dir().join("kept");
    std::fs::rename(server.data_dir().join(&names[0]), &kept).expect("a name on the same disk");
    wait_away(&mut client, 1);
    std::fs::rename(&kept, store.away().join(&names[0])).expect("it goes on");
    check(&mut client, 0..3);
    assert_eq!(store.calls(), names[..1]);
    // Nobody knows whether another file in its place is as good: the one that was there is served.
    let copy = server.data_dir().join("copy");
    std::fs::copy(server.data_dir().join(&names[1]), &copy).expect("it can be copied");
    std::fs::rename(copy, server.data_dir().join(&names[1])).expect("it takes its place");
    let name = names[1].clone();
    server.wait_for_log("that it stays open", move |line| {
        line.contains(&name) && line.contains("another file has its name")
    });
    check(&mut client, 4..8);
    assert_eq!(store.calls(), names[..1], "no hook was needed");
    assert_eq!(number(&mut client, "segments_let_go"), 1);
}

/// Who looks through what is away gets all of it or an error, and nothing is reckoned without it.
#[test]
fn nothing_is_told_or_written_without_what_is_away() {
    let store = Store::new("exit 3");
    let mut server = store.setup().start();
    let mut client = server.connect();
    client.expect(args!["NSNEW", "ids"], Reply::ok());
    client.expect(args!["NSSET", "ids", "mode", "seq"], Reply::ok());
    client.expect(args!["SELECT", "ids"], Reply::ok());
    let id = |number: u64| number.to_le_bytes().to_vec();
    for number in 0..4 {
        client.expect(args!["SET", "", value(number as u8)], Reply::bulk(id(number)));
    }
    client.expect(args!["SELECT", "default"], Reply::ok());
    let mut client = fill(&mut server);
    store.take_all(&server, &mut client);
    let away = Reply::error("Internal Error (the segment is away)");
    for words in [args!["SCAN"], args!["SCAN", "0", "COUNT", "100"], args!["KSCAN", "1"]] {
        client.expect(words, away.clone());
    }
    client.expect(args!["CHECK", "1"], away.clone());
    client.expect(args!["HISTORY", "1"], away.clone());
    client.expect(args!["SELECT", "ids"], Reply::ok());
    client.expect(args!["SET", id(1), "short"], away.clone());
    client.expect(args!["SET", id(1), "short", "XX"], away.clone());
    client.expect(args!["DEL", id(2)], away.clone());
    assert!(!server.log().iter().any(|line| line.contains("damage")), "{:?}", server.log());
    store.set_hook("");
    client.expect(args!["SET", id(1), "short"], Reply::bulk(id(1)));
    client.expect(args!["DEL", id(2)], Reply::ok());
    let info = client.call(args!["NSINFO", "ids"]).into_bytes();
    let info = String::from_utf8_lossy(&info);
    let bytes = format!("data_size_bytes: {}\n", 2 * VALUE_BYTES + "short".len());
    assert!(info.contains(&bytes), "{info}");
    client.expect(args!["SELECT", "default"], Reply::ok());
    let mut keys = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.call(args!["SCAN", cursor]);
        let Reply::Array(parts) = reply else { panic!("SCAN gives {reply:?}") };
        let Reply::Array(more) = &parts[1] else { panic!("SCAN gives keys: {parts:?}") };
        keys.extend(more.iter().map(|key| format!("{key:?}")));
        cursor = String::from_utf8_lossy(&parts[0].clone().into_bytes()).into_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(keys.len(), 20, "{keys:?}");
}

/// Without a hook nobody could bring a removed file back: what is open may be all that is left of it.
#[test]
fn without_a_hook_the_only_copy_is_kept() {
    let mut server = Setup::new().flags(&SMALL).start();
    let mut client = fill(&mut server);
    let names = segments(&server);
    let path = server.data_dir().join(&names[0]);
    std::fs::remove_file(&path).expect("it can be removed");
    let line = server.wait_for_log("that it was removed", |line| line.contains("gone from --data"));
    check(&mut client, 0..3);
    assert_eq!(number(&mut client, "segments_away"), 0);
    // As the line says.
    let number = line.split("file ").nth(1).and_then(|rest| rest.split(' ').next());
    let open = format!("/proc/{}/fd/{}", server.pid(), number.expect("the number of a file"));
    std::fs::copy(open, &path).expect("it can be copied back");
    server.kill();
    server.resume();
    check(&mut server.connect(), 0..19);
}
