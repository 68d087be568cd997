//! Data directories of every version of the format, kept in git, and what their makers wrote into them.
//!
//! `fixtures/data-<version>.tar.gz` has the directories `data` and `index` of a server that has stopped, and
//! `fixtures/data-<version>.json` what is in them, as the maker sent it. Both come from
//! `cargo run -p compat-tests --example make_fixture`; what is in git is never made anew.

use crate::offline::history;
use crate::server::{Setup, workspace_dir};
use crate::{Client, Reply, Server, args};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        namespace.next_id = 0;
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
    let list = maker.list();
    server.terminate();
    list
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

/// Compares a server with a list.
#[track_caller]
pub fn compare(server: &Server, list: &Value) {
    let mut client = server.connect();
    let namespaces = list["namespaces"].as_array().expect("a list");
    let listed = client.call(args!["NSLIST"]).into_array();
    assert_eq!(listed.len(), namespaces.len(), "{listed:?}");
    for namespace in namespaces {
        compare_namespace(&mut client, namespace);
    }
}

#[track_caller]
fn compare_namespace(client: &mut Client, namespace: &Value) {
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
    ];
    if is_sequential {
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
