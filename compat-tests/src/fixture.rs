//! Data directories of every version of the format, kept in git, and what their makers wrote into them.
//!
//! `fixtures/data-<version>.tar.gz` has the directories `data` and `index` of a server that has stopped, and
//! `fixtures/data-<version>.json` what is in them, as the maker sent it. Both come from
//! `cargo run -p compat-tests --example make_fixture`; what is in git is never made anew.

use crate::offline::history;
use crate::server::{Setup, poll, workspace_dir};
use crate::{Client, Reply, Server, args};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What takes longer has hung.
const CLEAN_TIME_MAX: Duration = Duration::from_secs(60);
const CLEAN_ROUNDS_MAX: usize = 10;

/// Where the directories of the versions are kept.
pub fn dir() -> PathBuf {
    workspace_dir().join("compat-tests/fixtures")
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Time and value of a version; the time is none where the server chose it.
type Version = (Option<u32>, Vec<u8>);

#[derive(Default)]
struct Namespace {
    settings: BTreeMap<String, String>,
    /// Versions from the oldest to the newest.
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    deleted: Vec<Vec<u8>>,
    next_id: u64,
    /// One more than the highest id that was given out.
    ids_given: u64,
}

/// Writes to a server, and keeps a list of what it wrote.
pub struct Maker {
    client: Client,
    namespaces: BTreeMap<String, Namespace>,
    selected: String,
}

impl Maker {
    fn ok(&mut self, request: &[&str]) {
        self.client.expect(request, Reply::ok());
    }

    fn current(&mut self) -> &mut Namespace {
        self.namespaces.get_mut(&self.selected).expect("a namespace is selected")
    }

    fn create(&mut self, name: &str, settings: &[(&str, &str)]) {
        self.ok(&["NSNEW", name]);
        self.namespaces.insert(name.into(), Namespace::default());
        settings.iter().for_each(|(property, value)| self.change(name, property, value));
    }

    fn change(&mut self, name: &str, property: &str, value: &str) {
        self.ok(&["NSSET", name, property, value]);
        let settings = &mut self.namespaces.get_mut(name).expect("it was made").settings;
        settings.insert(property.into(), value.into());
    }

    fn select(&mut self, name: &str) {
        let password = self.namespaces[name].settings.get("password").cloned();
        match password {
            Some(password) => self.ok(&["SELECT", name, &password]),
            None => self.ok(&["SELECT", name]),
        }
        self.selected = name.into();
    }

    fn set(&mut self, key: &[u8], value: &[u8], time: u32) {
        let is_new_id = key.is_empty();
        let reply = self.client.call(args!["SET", key, value, time.to_string()]);
        let key = if is_new_id { reply.into_bytes().to_vec() } else { key.to_vec() };
        let namespace = self.current();
        if is_new_id {
            let id = u64::from_le_bytes(key[..].try_into().expect("an id"));
            namespace.ids_given = id + 1;
        }
        namespace.keys.entry(key).or_default().push((Some(time), value.to_vec()));
        // An update uses an id up, too.
        namespace.next_id += 1;
    }

    fn set_all(&mut self, pairs: &[(&str, &str)]) {
        let mut request = vec!["MSET"];
        pairs.iter().for_each(|(key, value)| request.extend([key, value]));
        self.ok(&request);
        for (key, value) in pairs {
            let versions = self.current().keys.entry(key.as_bytes().to_vec()).or_default();
            versions.push((None, value.as_bytes().to_vec()));
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.client.expect(args!["DEL", key], Reply::ok());
        let namespace = self.current();
        namespace.keys.remove(key).expect("it was set");
        namespace.deleted.push(key.to_vec());
    }

    fn flush(&mut self) {
        self.ok(&["FLUSH"]);
        let namespace = self.current();
        namespace.deleted.extend(std::mem::take(&mut namespace.keys).into_keys());
        (namespace.next_id, namespace.ids_given) = (0, 0);
    }

    /// Lets the cleaner look at everything until it finds no more.
    fn clean(&mut self) {
        let mut before = None;
        let rested = poll(CLEAN_TIME_MAX, || {
            let info = self.client.call(args!["INFO", "all"]).into_bytes();
            let info = String::from_utf8_lossy(&info).into_owned();
            let field = |name: &str| {
                let found = info.lines().find_map(|line| line.strip_prefix(name));
                found.expect("INFO tells it").trim().to_owned()
            };
            if field("cleaner_state:") != "resting" {
                return None;
            }
            let cleaned = field("cleaner_segments_cleaned:");
            if before.as_ref() == Some(&cleaned) {
                return Some(());
            }
            before = Some(cleaned);
            self.ok(&["DEBUG", "CLEAN"]);
            None
        });
        assert!(rested.is_some(), "the cleaner does not come to its end");
    }

    /// Namespaces that have more versions of a key than they want. Only after a start: what was read or written
    /// lately is in memory, and still shown from there.
    fn uncleaned(&mut self) -> Vec<&'static str> {
        let most = [("newest", 1), ("two before", 3), ("cleaned ids", 1), ("skipped ids", 1)];
        let mut found = Vec::new();
        for (name, most) in most {
            self.select(name);
            let keys: Vec<Vec<u8>> = self.current().keys.keys().cloned().collect();
            if keys.iter().any(|key| history(&mut self.client, key).len() > most) {
                found.push(name);
            }
        }
        found
    }

    /// Of the versions in the list only those stay that the cleaner has left: the newest ones.
    fn forget_cleaned(&mut self) {
        let name = self.selected.clone();
        let mut namespace = self.namespaces.remove(&name).expect("a namespace is selected");
        for (key, versions) in &mut namespace.keys {
            let left = history(&mut self.client, key);
            assert!(!left.is_empty() && left.len() <= versions.len(), "{name}: {left:?}");
            versions.drain(..versions.len() - left.len());
            let newest = versions.iter().rev().map(|(_, value)| value);
            assert!(newest.eq(left.iter().map(|(_, value)| value)), "{name}: {left:?}");
        }
        self.namespaces.insert(name, namespace);
    }

    /// The next id as the server tells it.
    fn next_id(&mut self, namespace: &str) -> u64 {
        let info = self.client.call(args!["NSINFO", namespace]).into_bytes();
        next_id_in(&String::from_utf8_lossy(&info))
    }

    fn list(&self) -> Value {
        let namespaces = self.namespaces.iter().map(|(name, namespace)| {
            let keys = namespace.keys.iter().map(|(key, versions)| {
                let versions = versions.iter().rev();
                let versions: Vec<Value> =
                    versions.map(|(time, value)| json!([time, to_hex(value)])).collect();
                json!({"key": to_hex(key), "versions": versions})
            });
            json!({
                "name": name,
                "settings": namespace.settings,
                "next_id": namespace.next_id,
                "ids_given": namespace.ids_given,
                "keys": keys.collect::<Vec<Value>>(),
                "deleted": namespace.deleted.iter().map(|key| to_hex(key)).collect::<Vec<_>>(),
            })
        });
        json!({"namespaces": namespaces.collect::<Vec<Value>>()})
    }
}

/// Fills directories below `home` and gives the list of what is in them.
pub fn make(home: &Path) -> Value {
    let mut server = Setup::new().home(home).flags(&["--datasize", "512k"]).start();
    let default = ("default".to_owned(), Namespace::default());
    let mut maker = Maker {
        client: server.connect(),
        namespaces: BTreeMap::from([default]),
        selected: "default".into(),
    };
    for round in 0..4u32 {
        for key in 0..10u32 {
            let value = format!("round {round} of key {key}");
            maker.set(format!("key {key}").as_bytes(), value.as_bytes(), 1000 * round + key);
        }
        maker.set(b"\x00\xffbinary\r\n", &[round as u8, 0, 255], 77 + round);
    }
    maker.set(b"empty", b"", 5);
    maker.set(b"long", &[b'l'; 20_000], 6);
    maker.delete(b"key 3");
    maker.delete(b"key 4");
    maker.set(b"key 4", b"again", 4_000_000_000);
    maker.set_all(&[("one", "1"), ("two", "2"), ("key 5", "in a batch")]);
    maker.create("ids", &[("mode", "seq")]);
    maker.create("closed", &[("password", "a secret"), ("public", "0"), ("maxsize", "123456")]);
    maker.create("readable", &[("password", "other"), ("public", "1")]);
    maker.create("worm", &[]);
    maker.create("locked", &[]);
    maker.create("frozen", &[("mode", "seq")]);
    maker.create("empty", &[]);
    maker.create("gone", &[]);
    maker.select("ids");
    for id in 0..50u64 {
        maker.set(b"", format!("value of {id}").as_bytes(), 9000 + id as u32);
    }
    maker.set(&7u64.to_le_bytes(), b"updated", 9100);
    maker.delete(&8u64.to_le_bytes());
    maker.ok(&["NSJUMP"]);
    for name in ["closed", "readable", "worm", "locked", "gone"] {
        maker.select(name);
        maker.set(b"key", name.as_bytes(), 1);
        maker.set(b"key 2", b"first", 2);
        maker.set(b"key 2", b"second", 3);
    }
    maker.select("closed");
    maker.flush();
    maker.set(b"after", b"the flush", 10);
    maker.select("frozen");
    maker.set(b"", b"cold", 11);
    maker.select("default");
    maker.ok(&["NSDEL", "gone"]);
    maker.namespaces.remove("gone");
    // A segment that a start has closed, with records from the write buffer.
    server.kill();
    server.resume();
    maker.client = server.connect();
    maker.selected = "default".into();
    maker.set(b"key 0", b"after a kill", 12);
    maker.set_all(&[("one", "11"), ("three", "3")]);
    maker.change("worm", "worm", "1");
    maker.change("locked", "lock", "1");
    maker.change("frozen", "freeze", "1");
    maker.ok(&["NSJUMP"]);
    maker.set(b"last", b"value", 13);
    make_cleaned(&mut server, &mut maker);
    let list = maker.list();
    server.terminate();
    list
}

/// What the cleaner left: versions as namespaces keep them, tombstones, and the ids of records that are gone.
fn make_cleaned(server: &mut Server, maker: &mut Maker) {
    maker.create("newest", &[("history", "0")]);
    maker.create("two before", &[("history", "2")]);
    // As many days as nobody will wait for.
    maker.create("days", &[("history", "36500d")]);
    maker.create("skipped ids", &[("mode", "seq"), ("history", "0")]);
    maker.ok(&["NSJUMP"]);
    make_skipped(server, maker);
    for name in ["newest", "two before", "days"] {
        maker.select(name);
        for round in 0..6u32 {
            for key in 0..8u32 {
                let value = format!("{name}: round {round} of key {key} ").repeat(20);
                let time = if name == "days" { 4_000_000_000 } else { 20 };
                maker.set(format!("key {key}").as_bytes(), value.as_bytes(), time + round);
            }
        }
        maker.delete(b"key 5");
        maker.ok(&["NSJUMP"]);
    }
    maker.create("cleaned ids", &[("mode", "seq"), ("history", "0")]);
    maker.select("cleaned ids");
    for id in 0..40u64 {
        maker.set(b"", format!("value of {id}").repeat(20).as_bytes(), 30);
    }
    for id in (0..40u64).filter(|id| id % 8 != 1) {
        maker.delete(&id.to_le_bytes());
    }
    // The cleaner leaves the last segment alone.
    maker.ok(&["NSJUMP"]);
    maker.select("default");
    maker.set(b"last of all", b"value", 14);
    // The cleaner leaves alone what is not durable yet.
    for _ in 0..CLEAN_ROUNDS_MAX {
        maker.clean();
        server.terminate();
        server.resume();
        maker.client = server.connect();
        if maker.uncleaned().is_empty() {
            break;
        }
    }
    assert_eq!(maker.uncleaned(), [""; 0], "the cleaner has left something");
    for name in ["newest", "two before", "days", "cleaned ids", "skipped ids"] {
        maker.select(name);
        maker.forget_cleaned();
    }
    // Whatever has ids may have given some out in the bytes that were lost.
    for (name, skips) in
        [("ids", true), ("frozen", true), ("skipped ids", true), ("cleaned ids", false)]
    {
        let next = maker.next_id(name);
        let listed = &mut maker.namespaces.get_mut(name).expect("it was made").next_id;
        let is_right = if skips { next > *listed } else { next == *listed };
        assert!(is_right, "{name}: {next} after {listed} ids");
        *listed = next;
    }
}

/// A segment loses its end, so that nobody knows how many ids were given out there; then the cleaner takes it.
fn make_skipped(server: &mut Server, maker: &mut Maker) {
    maker.select("skipped ids");
    for id in 0..40u64 {
        maker.set(b"", format!("value of {id} ").repeat(80).as_bytes(), 40);
    }
    server.terminate();
    let newest = |directory: PathBuf, ending: &str| {
        let entries = std::fs::read_dir(directory).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|one| one == ending)).max()
    };
    let log = newest(server.data_dir(), "log").expect("a segment");
    let mut bytes = std::fs::read(&log).expect("the segment");
    let from = bytes.len() * 3 / 4;
    let noise = bytes[from..].iter_mut().enumerate();
    noise.for_each(|(at, byte)| *byte = (at * 37 % 251) as u8 | 1);
    std::fs::write(&log, bytes).expect("the segment");
    std::fs::remove_file(newest(server.index_dir(), "sidecar").expect("a sidecar"))
        .expect("the sidecar");
    server.resume();
    maker.client = server.connect();
    maker.select("skipped ids");
    let mut lost = 0;
    for id in 0..40u64 {
        let key = id.to_le_bytes();
        if maker.client.call(args!["GET", key]) == Reply::Nil {
            maker.current().keys.remove(&key[..]);
            lost += 1;
        } else {
            maker.set(&key, format!("newer value of {id}").as_bytes(), 41);
        }
    }
    assert!((1..20).contains(&lost), "{lost} ids are lost");
    maker.ok(&["NSJUMP"]);
}

/// Packs the directories below `home` and their list as a version.
pub fn pack(home: &Path, list: &Value, version: &str) {
    std::fs::create_dir_all(dir()).expect("a directory for the fixtures");
    let text = serde_json::to_string_pretty(list).expect("a list");
    std::fs::write(dir().join(format!("data-{version}.json")), text + "\n").expect("the list");
    let archive = dir().join(format!("data-{version}.tar.gz"));
    tar(&["--sparse", "-czf"], &archive, home, &["data", "index"]);
}

/// Unpacks a version into `home` and gives its list.
pub fn unpack(version: &str, home: &Path) -> Value {
    tar(&["-xzf"], &dir().join(format!("data-{version}.tar.gz")), home, &[]);
    let list = std::fs::read(dir().join(format!("data-{version}.json"))).expect("the list");
    serde_json::from_slice(&list).expect("the list is JSON")
}

fn tar(flags: &[&str], archive: &Path, home: &Path, names: &[&str]) {
    let mut command = Command::new("tar");
    command.args(flags).arg(archive).arg("-C").arg(home).args(names);
    let status = command.status().expect("tar runs");
    assert!(status.success(), "tar {flags:?} {}", archive.display());
}

/// The next id in what NSINFO says.
fn next_id_in(info: &str) -> u64 {
    let next = info.lines().find_map(|line| line.strip_prefix("next_internal_id: 0x"));
    let next = next.expect("NSINFO tells it");
    u64::from_str_radix(next, 16).expect("a number").swap_bytes()
}

/// Compares a server with a list.
#[track_caller]
pub fn compare(server: &Server, list: &Value) {
    compare_all(server, list, false);
}

/// The same after a repair, which writes all anew: where versions are gone, the next id may be another one, but
/// not one that was given out.
#[track_caller]
pub fn compare_saved(server: &Server, list: &Value) {
    compare_all(server, list, true);
}

#[track_caller]
fn compare_all(server: &Server, list: &Value, is_saved: bool) {
    let mut client = server.connect();
    let namespaces = list["namespaces"].as_array().expect("a list");
    let listed = client.call(args!["NSLIST"]).into_array();
    assert_eq!(listed.len(), namespaces.len(), "{listed:?}");
    for namespace in namespaces {
        compare_namespace(&mut client, namespace, is_saved);
    }
}

#[track_caller]
fn compare_namespace(client: &mut Client, namespace: &Value, is_saved: bool) {
    let name = namespace["name"].as_str().expect("a name");
    let setting = |property: &str| namespace["settings"][property].as_str();
    let keys = namespace["keys"].as_array().expect("a list");
    let info = client.call(args!["NSINFO", name]).into_bytes();
    let info = String::from_utf8_lossy(&info).into_owned();
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let is_sequential = setting("mode") == Some("seq");
    let is_frozen = setting("freeze") == Some("1");
    let mut wanted = vec![
        format!("entries: {}", keys.len()),
        format!("public: {}", yes_no(setting("public") != Some("0"))),
        format!("worm: {}", yes_no(setting("worm") == Some("1"))),
        format!("locked: {}", yes_no(is_frozen || setting("lock") == Some("1"))),
        format!("password: {}", yes_no(setting("password").is_some())),
        format!("data_limits_bytes: {}", setting("maxsize").unwrap_or("0")),
        format!("mode: {}", if is_sequential { "sequential" } else { "userkey" }),
        format!("history: {}", setting("history").unwrap_or("forever")),
    ];
    if is_sequential && is_saved && namespace["ids_given"].is_u64() {
        let next = next_id_in(&info);
        let given = namespace["ids_given"].as_u64().expect("a number");
        assert!(next >= given, "{name}: the next id is {next}, but {given} were given out");
    } else if is_sequential {
        let next = namespace["next_id"].as_u64().expect("a number");
        wanted.push(format!("next_internal_id: {:#010x}", next.swap_bytes()));
    }
    for line in wanted {
        assert!(info.lines().any(|one| one == line), "{name}: no {line:?} in\n{info}");
    }
    match setting("password") {
        Some(password) => client.expect(args!["SELECT", name, password], Reply::ok()),
        None => client.expect(args!["SELECT", name], Reply::ok()),
    }
    if is_frozen {
        let refused = Reply::error("Namespace is temporarily frozen (read-write disabled)");
        client.expect(args!["GET", "key"], refused);
        client.expect(args!["NSSET", name, "freeze", "0"], Reply::ok());
    }
    for key in keys {
        let bytes = from_hex(key["key"].as_str().expect("a key"));
        let versions = key["versions"].as_array().expect("a list");
        let found = history(client, &bytes);
        assert_eq!(found.len(), versions.len(), "{name}: versions of {key}");
        for ((time, value), version) in found.into_iter().zip(versions) {
            assert_eq!(to_hex(&value), version[1], "{name}: a value of {key}");
            assert!(
                version[0].is_null() || version[0].as_u64() == time.parse().ok(),
                "{name}: {key}"
            );
        }
    }
    for key in namespace["deleted"].as_array().expect("a list") {
        let is_set_again = keys.iter().any(|one| one["key"] == *key);
        let bytes = from_hex(key.as_str().expect("a key"));
        if !is_set_again {
            client.expect(args!["GET", bytes], Reply::Nil);
        }
    }
}
