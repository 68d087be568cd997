//! `zdb import`: directories of a 0-db v2, whole and damaged, and a server over what was made of them.

use compat_tests::mount::Mount;
use compat_tests::old::{OldNamespace, Spot};
use compat_tests::server::{Setup, binary, poll, scratch_dir};
use compat_tests::{Reply, args, count_from_env, seed};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An import that takes longer has hung.
const IMPORT_TIME_MAX: Duration = Duration::from_secs(120);

/// What an import ended with.
struct Imported {
    code: Option<i32>,
    text: String,
}

struct Scene {
    home: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let home = scratch_dir();
        for root in ["data", "index"] {
            std::fs::create_dir_all(home.path().join("old").join(root)).expect("a directory");
        }
        Scene { home }
    }

    fn of(namespaces: &[&OldNamespace]) -> Scene {
        let scene = Scene::new();
        for namespace in namespaces {
            namespace.save(&scene.old());
        }
        scene
    }

    fn old(&self) -> PathBuf {
        self.home.path().join("old")
    }

    fn new_home(&self) -> PathBuf {
        self.home.path().join("new")
    }

    fn command(&self, old: &Path, new: &Path) -> Command {
        let mut command = Command::new(binary());
        command.arg("import");
        for (flag, place) in [
            ("--data", old.join("data")),
            ("--index", old.join("index")),
            ("--to-data", new.join("data")),
            ("--to-index", new.join("index")),
        ] {
            command.arg(flag).arg(place);
        }
        command.args(["--datasize", "32M"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn import(&self) -> Imported {
        run(self.command(&self.old(), &self.new_home()))
    }

    /// A server over the new directories.
    #[track_caller]
    fn serve(&self) -> compat_tests::Server {
        Setup::new().home(&self.new_home()).start()
    }

    /// Imports, and compares what a server shows.
    #[track_caller]
    fn expect(&self, code: i32, namespaces: &[&OldNamespace]) -> String {
        let before = contents(&self.old());
        let imported = self.import();
        assert_eq!(imported.code, Some(code), "exit code; {}", imported.text);
        assert!(contents(&self.old()) == before, "the old directory was changed");
        let mut server = self.serve();
        for namespace in namespaces {
            namespace.check(&mut server.connect());
        }
        assert!(server.log().iter().all(|line| !line.contains("damage")), "{:#?}", server.log());
        server.terminate();
        imported.text
    }
}

fn run(mut command: Command) -> Imported {
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Imported { code: output.status.code(), text }
}

/// Every file below a directory with its bytes and its time.
fn contents(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let modified = path.metadata().expect("an entry").modified().expect("a time");
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, (Vec::new(), modified));
        } else {
            let bytes = std::fs::read(&path).expect("a file");
            found.insert(path, (bytes, modified));
        }
    }
    found
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What a 0-db wrote for SET k v @100, SET k v2 @101, DEL k @102.
#[test]
fn the_old_format_is_that_of_a_0_db() {
    let mut namespace = OldNamespace::user("default");
    namespace.set(b"k", b"v", 100);
    namespace.set(b"k", b"v2", 101);
    namespace.delete(b"k", 102);
    let zeroes = "00".repeat(16);
    let index = format!(
        "49445830 04000000 {zeroes} 00000000 00
         01 1c000000 01000000 00000000 01 00000000 64000000 e5b33957 00000000 00000000 6b
         01 30000000 02000000 1d000000 01 00000000 65000000 f3bc4e07 00000000 1d000000 6b"
    );
    let data = format!(
        "44415430 03000000 {zeroes} 00000000
         01 01000000 00000000 e5b33957 00 64000000 6b 76
         01 02000000 1c000000 f3bc4e07 00 65000000 6b 7632
         01 00000000 30000000 00000000 01 66000000 6b"
    );
    assert_eq!(namespace.index[&0], from_hex(&index), "index");
    assert_eq!(namespace.data[&0], from_hex(&data), "data");
}

/// Random sets, updates, deletes and jumps.
fn exercise(namespace: &mut OldNamespace, random: &mut fastrand::Rng, steps: usize) {
    for step in 0..steps {
        let timestamp = random.u32(..);
        let payload: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
        let mut live: Vec<&Vec<u8>> = namespace.live.keys().collect();
        live.sort();
        let some = (!live.is_empty()).then(|| live[random.usize(..live.len())].clone());
        match (random.u32(..20), some) {
            (0..3, Some(key)) => drop(namespace.delete(&key, timestamp)),
            (3..8, Some(key)) => drop(namespace.set(&key, &payload, timestamp)),
            (8, _) if step % 16 == 0 => namespace.jump(),
            _ if namespace.sequential => drop(namespace.set(b"", &payload, timestamp)),
            _ => {
                let key: Vec<u8> = (0..random.usize(1..=255)).map(|_| random.u8(..)).collect();
                namespace.set(&key, &payload, timestamp);
            }
        }
    }
}

#[test]
fn whole_histories_arrive() {
    let seed = seed("whole_histories_arrive");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = vec![OldNamespace::user("default"), OldNamespace::new(b"not \xff utf8", false)];
    all.push(OldNamespace::sequential("ids"));
    let mut private = OldNamespace::user("private");
    private.password = b"secret word".to_vec();
    private.public = false;
    private.max_bytes = 123_456_789;
    private.describe();
    // A cleared password stays in the file behind the end.
    private.descriptor.as_mut().expect("described").extend(b"an older, longer password");
    let mut worm = OldNamespace::sequential("worm");
    worm.worm = true;
    worm.describe();
    all.extend([private, worm, OldNamespace::user("empty"), OldNamespace::sequential("no ids")]);
    for namespace in &mut all {
        namespace.datasize = 4096;
        if !namespace.name.starts_with(b"empty") && namespace.name != b"no ids" {
            exercise(namespace, &mut random, 600);
        }
    }
    // A value larger than a file leaves an empty one behind.
    let large: Vec<u8> = (0..8 << 20).map(|_| random.u8(..)).collect();
    all[0].set(b"large", &large, 5);
    all[0].set(b"empty value", b"", 6);
    let namespaces: Vec<&OldNamespace> = all.iter().collect();
    let scene = Scene::of(&namespaces);
    let text = scene.expect(0, &namespaces);
    assert!(!text.contains("damage"), "{text}");
    assert!(text.contains("namespace \"ids\": sequential mode"), "{text}");
    // The copy takes writes where the old one stopped.
    let server = scene.serve();
    let mut client = server.connect();
    client.expect(args!["SELECT", "ids"], Reply::ok());
    let next = all[2].next_id.to_le_bytes();
    client.expect(args!["SET", "", "more"], Reply::bulk(next));
    client.expect(args!["SELECT", "worm"], Reply::ok());
    let key = all[4].live.keys().next().expect("a key").clone();
    let refused = Reply::error("Namespace is protected by worm mode");
    client.expect(args!["SET", key, "other"], refused);
    client.expect(args!["SELECT", "private"], Reply::error("Namespace protected and private"));
    let names = client.call(args!["NSLIST"]).into_array();
    assert_eq!(names.len(), all.len(), "{names:?}");
}

// ---------------------------------------------------------------- damage

/// Ten keys in user mode, each set, half of them updated, in files of three records.
fn ten_keys() -> OldNamespace {
    let mut namespace = OldNamespace::user("ten");
    namespace.datasize = 400;
    for round in 0..2u32 {
        for key in 0..10u32 {
            if round == 0 || key % 2 == 0 {
                let payload = format!("{round}-{key}-").repeat(20);
                namespace.set(format!("key{key}").as_bytes(), payload.as_bytes(), 1000 + round);
            }
        }
    }
    namespace
}

/// Finds a record by its payload's first bytes.
fn record(namespace: &OldNamespace, round: u32, key: u32) -> Spot {
    let payload = format!("{round}-{key}-").repeat(20);
    for (file, bytes) in &namespace.data {
        let found = bytes.windows(payload.len()).position(|window| window == payload.as_bytes());
        if let Some(at) = found {
            return Spot { file: *file, offset: at - 18 - 4 };
        }
    }
    panic!("no record of round {round} and key {key}");
}

#[track_caller]
fn check_damage(
    mut namespace: OldNamespace,
    damage: impl FnOnce(&mut OldNamespace),
    lines: &[&str],
) {
    damage(&mut namespace);
    let scene = Scene::of(&[&namespace]);
    let text = scene.expect(3, &[&namespace]);
    for line in lines {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

fn lose_index(namespace: &mut OldNamespace) {
    namespace.index.clear();
}

/// The newest version of a key is lost, and nothing older stands in for it.
fn lose_key(namespace: &mut OldNamespace, key: &str, was_only: bool) {
    namespace.expect_missing(key.as_bytes());
    // In user mode the inserts that arrived are counted.
    namespace.next_id -= u64::from(was_only);
}

#[test]
fn torn_tails_of_an_index() {
    for missing in [1, 20, 37] {
        check_damage(
            ten_keys(),
            |namespace| {
                let last = *namespace.index.keys().last().expect("files");
                let file = namespace.index_file(last);
                file.truncate(file.len() - missing);
            },
            &["a damaged entry"],
        );
    }
    // What 0-db appends behind a torn entry is misparsed from there on.
    check_damage(
        ten_keys(),
        |namespace| {
            let file = namespace.index_file(0);
            let end = file.len();
            file.drain(end - 45..end - 38);
        },
        &["a damaged entry"],
    );
}

#[test]
fn index_tails_of_zeroes_and_noise() {
    for tail in [vec![0; 100], (0..100u8).map(|at| at.wrapping_mul(89) | 0x81).collect()] {
        check_damage(
            ten_keys(),
            |namespace| namespace.index_file(0).extend(&tail),
            &["a damaged entry"],
        );
    }
}

#[test]
fn index_files_that_are_missing() {
    check_damage(ten_keys(), |namespace| drop(namespace.index.remove(&1)), &["i1", "is missing"]);
    check_damage(ten_keys(), lose_index, &["taken to be in user mode"]);
    let mut ids = OldNamespace::sequential("ids");
    exercise(&mut ids, &mut fastrand::Rng::with_seed(7), 300);
    check_damage(ids, lose_index, &["taken to be in sequential mode"]);
}

#[test]
fn index_headers_that_are_damaged() {
    check_damage(ten_keys(), |namespace| namespace.index_file(0)[0] ^= 1, &["i0 at offset 0"]);
    check_damage(
        ten_keys(),
        |namespace| namespace.index_file(1).truncate(7),
        &["i1 at offset 0", "cut off"],
    );
    check_damage(
        ten_keys(),
        |namespace| namespace.index_file(1).clear(),
        &["i1 at offset 0", "cut off"],
    );
}

/// The mode in the header of an index: the other files or the keys tell better.
#[test]
fn a_damaged_mode_is_noticed() {
    let one_file = || {
        let mut namespace = OldNamespace::user("one");
        namespace.set(b"key", b"value", 1);
        namespace.set(b"other", b"value", 2);
        namespace
    };
    check_damage(one_file(), |namespace| namespace.index_file(0)[28] = 1, &["in user mode"]);
    let mut namespace = ten_keys();
    namespace.index_file(1)[28] = 1;
    Scene::of(&[&namespace]).expect(0, &[&namespace]);
}

/// The data files are whole: whatever one bit of each index file says, the copy is too.
#[test]
fn an_index_that_is_damaged_takes_nothing_away() {
    let seed = seed("an_index_that_is_damaged_takes_nothing_away");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..count_from_env("ZDB_IMPORT_ROUNDS", 16) {
        let mut all = [OldNamespace::user("user"), OldNamespace::sequential("ids")];
        for namespace in &mut all {
            namespace.datasize = 8192;
            exercise(namespace, &mut random, 150);
            for bytes in namespace.index.values_mut() {
                // Not the headers: they have a test of their own.
                if bytes.len() > 29 {
                    let at = random.usize(29..bytes.len());
                    bytes[at] ^= 1 << random.u32(..8);
                }
            }
        }
        println!("round {round}");
        let scene = Scene::of(&[&all[0], &all[1]]);
        let imported = scene.import();
        assert!(matches!(imported.code, Some(0 | 3)), "{}", imported.text);
        println!("{}", imported.text);
        let server = scene.serve();
        for namespace in &all {
            namespace.check(&mut server.connect());
        }
    }
}

#[test]
fn data_headers_that_are_damaged() {
    check_damage(
        ten_keys(),
        |namespace| namespace.file(1)[0] ^= 1,
        &["d1 at offset 0: the file header is damaged"],
    );
    check_damage(
        ten_keys(),
        |namespace| namespace.file(1)[24] = 9,
        &["d1 at offset 0: the file header says file 9"],
    );
    check_damage(
        ten_keys(),
        |namespace| namespace.file(1)[4] = 2,
        &["d1 at offset 0: the file header says version 2"],
    );
}

#[test]
fn a_data_file_that_is_missing() {
    let namespace = ten_keys();
    // The second versions of the last keys.
    let last = *namespace.data.keys().last().expect("files");
    let lost: Vec<u32> =
        (0..10).step_by(2).filter(|key| record(&namespace, 1, *key).file == last).collect();
    assert!(!lost.is_empty() && lost.len() < 5, "{lost:?}");
    check_damage(
        namespace,
        |namespace| {
            namespace.data.remove(&last);
            for key in &lost {
                lose_key(namespace, &format!("key{key}"), false);
            }
        },
        &[
            "the data file is missing",
            "records behind the end of",
            "no older version passes for it",
        ],
    );
    // First versions: the newer ones stay, with a shorter history.
    let namespace = ten_keys();
    let in_first: Vec<u32> = (0..10).filter(|key| record(&namespace, 0, *key).file == 0).collect();
    check_damage(
        namespace,
        |namespace| {
            namespace.data.remove(&0);
            for key in &in_first {
                if key % 2 == 1 {
                    lose_key(namespace, &format!("key{key}"), true);
                } else {
                    namespace.live.get_mut(format!("key{key}").as_bytes()).expect("live").remove(0);
                }
            }
        },
        &["d0: the data file is missing"],
    );
    check_damage(
        ten_keys(),
        |namespace| {
            let gone: Vec<u32> =
                (0..10).filter(|key| record(namespace, 0, *key).file == 1).collect();
            namespace.data.remove(&1);
            namespace.index.remove(&1);
            for key in gone {
                if key % 2 == 1 {
                    lose_key(namespace, &format!("key{key}"), true);
                } else {
                    namespace.live.get_mut(format!("key{key}").as_bytes()).expect("live").remove(0);
                }
            }
        },
        &["data and index files 1 to 1 are missing"],
    );
}

#[test]
fn flags_that_did_not_reach_the_disk() {
    // A crash between the two index writes of an update, or after the flag of one that was lost: 0-db does not
    // show the key any more.
    check_damage(
        ten_keys(),
        |namespace| {
            let entry = namespace.entry_of(b"key3");
            namespace.index_file(entry.file)[entry.offset + 13] |= 1;
        },
        &["does not show 1 keys"],
    );
    // A delete whose flag was lost: 0-db shows the key again.
    check_damage(
        ten_keys(),
        |namespace| {
            let entry = namespace.entry_of(b"key4");
            namespace.delete(b"key4", 77);
            namespace.index_file(entry.file)[entry.offset + 13] = 0;
        },
        &["they stay deleted"],
    );
}

#[test]
fn payloads_that_are_damaged() {
    let flip = |namespace: &mut OldNamespace, round, key| {
        let spot = record(namespace, round, key);
        namespace.file(spot.file)[spot.offset + 30] ^= 4;
    };
    for with_index in [true, false] {
        let index = |namespace: &mut OldNamespace| {
            if !with_index {
                lose_index(namespace);
            }
        };
        // The only version.
        check_damage(
            ten_keys(),
            |namespace| {
                flip(namespace, 0, 5);
                lose_key(namespace, "key5", true);
                index(namespace);
            },
            &["the payload is damaged of key \"key5\"", "1 record is lost"],
        );
        // The newest of two.
        check_damage(
            ten_keys(),
            |namespace| {
                flip(namespace, 1, 4);
                lose_key(namespace, "key4", false);
                index(namespace);
            },
            &["the payload is damaged of key \"key4\"", "no older version passes for it"],
        );
        // The older of two.
        check_damage(
            ten_keys(),
            |namespace| {
                flip(namespace, 0, 4);
                namespace.live.get_mut(&b"key4"[..]).expect("live").remove(0);
                index(namespace);
            },
            &["the payload is damaged of key \"key4\"", "1 record is lost"],
        );
    }
}

#[test]
fn checksums_that_are_damaged_are_healed_by_the_index() {
    check_damage(
        ten_keys(),
        |namespace| {
            let spot = record(namespace, 0, 5);
            namespace.file(spot.file)[spot.offset + 9] ^= 0x10;
        },
        &["the index has a copy that agrees"],
    );
}

#[test]
fn heads_that_are_damaged() {
    // Length of the key; length of the payload, to a little more, much more and far beyond; flags.
    for (at, flip) in [(0, 1), (0, 0x40), (1, 1), (1, 0x40), (2, 2), (4, 0xff), (13, 0x80)] {
        for with_index in [true, false] {
            for key in [1u32, 5, 7] {
                check_damage(
                    ten_keys(),
                    |namespace| {
                        let spot = record(namespace, 0, key);
                        namespace.file(spot.file)[spot.offset + at] ^= flip;
                        lose_key(namespace, &format!("key{key}"), true);
                        if !with_index {
                            lose_index(namespace);
                        }
                    },
                    &["at offset"],
                );
            }
        }
    }
}

/// The index knows no tombstones: they are found by the chain of the records behind.
#[test]
fn tombstones_behind_a_damaged_head_are_found() {
    for with_index in [true, false] {
        let mut namespace = OldNamespace::user("chain");
        namespace.set(b"first", b"one", 1);
        namespace.set(b"second", b"two", 2);
        let (_, broken) = namespace.set(b"broken", b"lost", 3);
        namespace.delete(b"first", 4);
        namespace.set(b"last", b"three", 5);
        namespace.delete(b"second", 6);
        check_damage(
            namespace,
            |namespace| {
                namespace.file(0)[broken.offset + 4] = 0x7f;
                lose_key(namespace, "broken", true);
                if !with_index {
                    lose_index(namespace);
                }
            },
            &["the head of a record is damaged"],
        );
    }
}

#[test]
fn data_tails_that_are_cut_off_or_zero() {
    for cut in [1, 17, 60, 90] {
        check_damage(
            ten_keys(),
            |namespace| {
                let last = *namespace.data.keys().last().expect("files");
                assert_eq!(record(namespace, 1, 8).file, last);
                let file = namespace.file(last);
                file.truncate(file.len() - cut);
                lose_key(namespace, "key8", false);
            },
            &["cut off", "no older version passes for it"],
        );
    }
    check_damage(
        ten_keys(),
        |namespace| namespace.file(0).extend(vec![0; 100_000]),
        &["nothing but zeroes up to the end; 100000 bytes"],
    );
    check_damage(
        ten_keys(),
        |namespace| namespace.file(0).extend((0..5000).map(|at: u32| ((at * at) >> 3) as u8)),
        &["no record can be found any more"],
    );
}

#[test]
fn compacted_records_are_no_damage() {
    let mut namespace = ten_keys();
    namespace.placeholder(5);
    namespace.set(b"behind", b"it", 6);
    namespace.placeholder(7);
    let scene = Scene::of(&[&namespace]);
    let text = scene.expect(0, &[&namespace]);
    assert!(text.contains("2 records compacted away before"), "{text}");
}

#[test]
fn a_namespace_without_its_settings_is_frozen() {
    for descriptor in [None, Some(vec![1, 0, 0, 0, 3]), Some(vec![2; 40])] {
        let mut namespace = ten_keys();
        namespace.descriptor = descriptor;
        let scene = Scene::of(&[&namespace]);
        let imported = scene.import();
        assert_eq!(imported.code, Some(3), "{}", imported.text);
        assert!(imported.text.contains("so it is frozen"), "{}", imported.text);
        let server = scene.serve();
        let mut client = server.connect();
        client.expect(args!["SELECT", "ten"], Reply::ok());
        let frozen = Reply::error("Namespace is temporarily frozen (read-write disabled)");
        client.expect(args!["GET", "key1"], frozen);
        client.expect(args!["NSSET", "ten", "public", "1"], Reply::ok());
        client.expect(args!["NSSET", "ten", "freeze", "0"], Reply::ok());
        namespace.check(&mut client);
    }
    check_damage(
        ten_keys(),
        |namespace| namespace.descriptor.as_mut().expect("described")[15] ^= 1,
        &["it names another namespace"],
    );
}

#[test]
fn lost_ids_stay_used_up() {
    let ids = || {
        let mut namespace = OldNamespace::sequential("ids");
        namespace.datasize = 300;
        for id in 0..20u64 {
            namespace.set(b"", format!("value {id}").repeat(8).as_bytes(), 50);
            if id % 4 == 3 {
                namespace.set(&(namespace.next_id - 2).to_le_bytes(), b"updated", 60);
            }
        }
        namespace
    };
    let first = |namespace: &OldNamespace| {
        let mut keys: Vec<Vec<u8>> = namespace.live.keys().cloned().collect();
        keys.sort_by_key(|key| u64::from_le_bytes(key[..].try_into().expect("an id")));
        keys
    };
    // The last file is gone: the index tells how many ids there were.
    check_damage(
        ids(),
        |namespace| {
            let last = *namespace.data.keys().last().expect("files");
            let gone = namespace.data.remove(&last).expect("a file");
            for key in first(namespace) {
                let newest = &namespace.live[&key].last().expect("a version").payload;
                let needle = [&key[..], newest].concat();
                if gone.windows(needle.len()).any(|window| window == needle) {
                    namespace.expect_missing(&key);
                }
            }
        },
        &["the ids stay used up"],
    );
    // Two files in the middle, with and without their index: later ids are still right.
    for (with_index, file) in [(true, 2), (false, 2), (true, 3), (false, 3)] {
        check_damage(
            ids(),
            |namespace| {
                let mut gone = namespace.data.remove(&file).expect("a file");
                gone.extend(namespace.data.remove(&(file + 1)).expect("a file"));
                if !with_index {
                    namespace.index.remove(&file);
                    namespace.index.remove(&(file + 1));
                }
                for key in first(namespace) {
                    let versions = namespace.live.get_mut(&key).expect("live");
                    let newest = versions.len() - 1;
                    let mut is_current = true;
                    for at in (0..=newest).rev() {
                        let needle = [&key[..], &versions[at].payload].concat();
                        if gone.windows(needle.len()).any(|window| window == needle) {
                            versions.remove(at);
                            is_current &= at != newest;
                        }
                    }
                    // Without its index nobody knows that a newer version was there.
                    if versions.is_empty() || (!is_current && with_index) {
                        namespace.expect_missing(&key);
                    }
                }
            },
            &["missing"],
        );
    }
    // A damaged id: that record is lost, and the ids behind it are still right.
    check_damage(
        ids(),
        |namespace| {
            let key = first(namespace)[4].clone();
            let newest = namespace.live[&key].last().expect("a version").payload.clone();
            let needle = [&key[..], &newest].concat();
            let (file, at) = namespace
                .data
                .iter()
                .find_map(|(file, bytes)| {
                    let at = bytes.windows(needle.len()).position(|window| window == needle)?;
                    Some((*file, at))
                })
                .expect("the record");
            namespace.file(file)[at + 5] ^= 0x20;
            namespace.expect_missing(&key);
        },
        &["was never given out", "1 record is lost"],
    );
}

#[test]
fn names_that_no_client_could_select_are_left_out() {
    let whole = ten_keys();
    let mut long = ten_keys();
    long.name = vec![b'x'; 200];
    let scene = Scene::of(&[&whole, &long]);
    let text = scene.expect(3, &[&whole]);
    assert!(text.contains("longer than 128 bytes"), "{text}");
}

#[test]
fn files_of_version_one_are_left_out_or_refused() {
    let whole = ten_keys();
    let scene = Scene::of(&[&whole]);
    std::fs::write(scene.old().join("data/ten/zdb-data-00000"), b"old").expect("a file");
    let text = scene.expect(3, &[&whole]);
    assert!(text.contains("1 files of 0-db v1"), "{text}");

    let scene = Scene::of(&[&whole]);
    std::fs::create_dir(scene.old().join("data/older")).expect("a directory");
    std::fs::write(scene.old().join("data/older/zdb-data-00000"), b"old").expect("a file");
    let imported = scene.import();
    assert_eq!(imported.code, Some(1), "{}", imported.text);
    assert!(imported.text.contains("is of 0-db v1"), "{}", imported.text);
    assert!(!scene.new_home().exists(), "nothing is made where nothing is copied");
}

/// Whatever the bytes are: an import ends in order, and a server serves what it made.
#[test]
fn any_damage_leaves_a_whole_copy() {
    let seed = seed("any_damage_leaves_a_whole_copy");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..count_from_env("ZDB_IMPORT_ROUNDS", 24) {
        let mut all = [OldNamespace::user("user"), OldNamespace::sequential("ids")];
        for namespace in &mut all {
            namespace.datasize = 8192;
            exercise(namespace, &mut random, 200);
            for _ in 0..random.usize(1..12) {
                let files = match random.bool() {
                    true => &mut namespace.data,
                    false => &mut namespace.index,
                };
                if files.is_empty() {
                    continue;
                }
                let number = *files.keys().nth(random.usize(..files.len())).expect("a file");
                let bytes = files.get_mut(&number).expect("a file");
                let at = random.usize(..=bytes.len());
                let end = random.usize(at..=bytes.len()).min(at + 300);
                match random.u32(..7) {
                    0 => bytes.truncate(at),
                    1 => bytes[at..end].fill(0),
                    2 => bytes[at..end].iter_mut().for_each(|byte| *byte = random.u8(..)),
                    3 => drop(bytes.drain(at..end)),
                    4 => drop(files.remove(&number)),
                    _ if at < end => bytes[at] ^= 1 << random.u32(..8),
                    _ => {}
                }
            }
        }
        let scene = Scene::of(&[&all[0], &all[1]]);
        let imported = scene.import();
        assert!(matches!(imported.code, Some(0 | 3)), "round {round}: {}", imported.text);
        let server = scene.serve();
        let mut client = server.connect();
        for namespace in &all {
            let selected = client.call(&[&b"SELECT"[..], &namespace.name]);
            assert_eq!(selected, Reply::ok(), "round {round}: {}", imported.text);
            let keys = compat_tests::old::scan(&mut client);
            let count = client.call(args!["DBSIZE"]).into_integer();
            assert_eq!(keys.len() as i64, count, "round {round}: {}", imported.text);
            for (key, length, _) in keys {
                let value = client.call(&[&b"GET"[..], &key]).into_bytes();
                assert_eq!(value.len() as i64, length, "round {round}");
                client.expect(&[&b"CHECK"[..], &key], Reply::Integer(1));
            }
        }
    }
}

// ---------------------------------------------------------------- refusals

#[track_caller]
fn check_refused(imported: &Imported, line: &str) {
    assert_eq!(imported.code, Some(1), "exit code; {}", imported.text);
    assert!(imported.text.contains(line), "no {line:?} in:\n{}", imported.text);
}

#[test]
fn what_cannot_be_imported_is_refused() {
    let whole = ten_keys();
    let scene = Scene::of(&[&whole]);
    let (old, new) = (scene.old(), scene.new_home());
    let with = |flags: &[(&str, PathBuf)]| {
        let mut command = Command::new(binary());
        command.arg("import").stdin(Stdio::null());
        for (flag, place) in flags {
            command.arg(flag).arg(place);
        }
        run(command)
    };
    let flags = |data: PathBuf, index: PathBuf, to_data: PathBuf, to_index: PathBuf| {
        with(&[
            ("--data", data),
            ("--index", index),
            ("--to-data", to_data),
            ("--to-index", to_index),
        ])
    };
    let (data, index) = (old.join("data"), old.join("index"));
    check_refused(&with(&[("--data", data.clone())]), "--index");
    let inside = flags(data.clone(), index.clone(), data.clone(), new.join("index"));
    check_refused(&inside, "lies in the old one");
    let inside =
        flags(data.clone(), index.clone(), new.join("data"), data.join("../index/deep/er"));
    check_refused(&inside, "lies in the old one");
    let same = flags(data.clone(), data.clone(), new.join("data"), new.join("index"));
    check_refused(&same, "are the same directory");
    let missing = flags(old.join("nothing"), index.clone(), new.join("data"), new.join("index"));
    check_refused(&missing, "cannot open");
    let same = flags(data.clone(), index.clone(), new.join("one"), new.join("one"));
    check_refused(&same, "are the same directory");
    let empty = scene.home.path().join("empty");
    std::fs::create_dir_all(&empty).expect("a directory");
    let nothing = flags(empty.clone(), index.join("ten"), new.join("data"), new.join("index"));
    check_refused(&nothing, "there is no namespace");
    std::fs::remove_dir_all(&new).expect("the lock files that were made");

    // A running 0-db holds both lock files.
    for root in ["data", "index"] {
        let path = old.join(root).join(".lockfile");
        let held = File::open(path).expect("the lock file");
        held.lock().expect("the lock");
        check_refused(&scene.import(), "a 0-db is running on");
    }
    assert!(!new.exists(), "nothing is made where nothing is copied");

    // Into a directory that holds a log, and out of one.
    assert_eq!(scene.import().code, Some(0));
    check_refused(&scene.import(), "holds a log already");
    let again = flags(new.join("data"), new.join("index"), empty.join("data"), empty.join("index"));
    check_refused(&again, "is a directory of this zdb");
    let server = scene.serve();
    whole.check(&mut server.connect());
    check_refused(&scene.import(), "another zdb is running");

    let mut other = ten_keys();
    for file in other.data.values_mut() {
        file[4] = 9;
    }
    check_refused(&Scene::of(&[&other]).import(), "are of version 9");
}

#[test]
fn the_old_directory_may_be_read_only() {
    let whole = ten_keys();
    let scene = Scene::of(&[&whole]);
    let view = Mount::read_only(&scene.old());
    let imported = run(scene.command(view.path(), &scene.new_home()));
    assert_eq!(imported.code, Some(0), "{}", imported.text);
    whole.check(&mut scene.serve().connect());
}

/// Many records, for what takes its time.
fn many(count: usize) -> OldNamespace {
    let mut namespace = OldNamespace::user("many");
    let payload = vec![b'x'; 1000];
    for at in 0..count {
        namespace.set(format!("key {at}").as_bytes(), &payload, at as u32);
    }
    namespace
}

#[test]
fn a_killed_import_is_not_served_and_begins_anew() {
    let whole = many(40_000);
    let scene = Scene::of(&[&whole]);
    let mut child =
        scene.command(&scene.old(), &scene.new_home()).spawn().expect("the binary runs");
    let mark = scene.new_home().join("data/import-unfinished");
    let begun = poll(IMPORT_TIME_MAX, || {
        let names = std::fs::read_dir(mark.parent().expect("a directory")).ok()?;
        let log = names.flatten().any(|name| name.path().extension().is_some_and(|e| e == "log"));
        (log && mark.exists()).then_some(())
    });
    assert!(begun.is_some(), "the import begins");
    child.kill().expect("our own child can be killed");
    let status = child.wait().expect("our own child can be waited for");
    assert_eq!(status.code(), None, "killed before it was done");
    let refusal = Setup::new().home(&scene.new_home()).try_start().err().expect("a refusal");
    let told = refusal
        .log
        .iter()
        .any(|line| line.contains("an import into this data directory did not end"));
    assert!(told, "{refusal:?}");
    check_refused(&scene.import(), "an earlier import");
    std::fs::remove_dir_all(scene.new_home()).expect("the half copy");
    let imported = scene.import();
    assert_eq!(imported.code, Some(0), "{}", imported.text);
    let server = scene.serve();
    let mut client = server.connect();
    client.expect(args!["SELECT", "many"], Reply::ok());
    client.expect(args!["DBSIZE"], Reply::Integer(40_000));
}

#[test]
fn a_full_disk_ends_the_import() {
    let scene = Scene::of(&[&many(40_000)]);
    let mount = Mount::ext4(24);
    let imported = run(scene.command(&scene.old(), mount.path()));
    check_refused(&imported, "not finished: make room");
    assert!(imported.text.contains("No space left"), "{}", imported.text);
    let refusal = Setup::new().home(mount.path()).try_start().err().expect("a refusal");
    assert!(refusal.log.iter().any(|line| line.contains("did not end")), "{refusal:?}");
}

#[test]
fn a_file_that_grows_meanwhile_is_noticed() {
    use std::io::Write;
    let scene = Scene::of(&[&many(40_000)]);
    let mut child =
        scene.command(&scene.old(), &scene.new_home()).spawn().expect("the binary runs");
    let mark = scene.new_home().join("data/import-unfinished");
    assert!(poll(IMPORT_TIME_MAX, || mark.exists().then_some(())).is_some(), "it begins");
    let mut file = File::options()
        .append(true)
        .open(scene.old().join("data/many/d0"))
        .expect("the old data file");
    file.write_all(b"more").expect("written");
    let status = child.wait().expect("our own child can be waited for");
    assert_eq!(status.code(), Some(1));
    assert!(mark.exists(), "the copy is not taken for whole");
}

/// ZDB_IMPORT_KEYS=1000000 with a release build gives the rate.
#[test]
fn many_keys() {
    let count = count_from_env("ZDB_IMPORT_KEYS", 30_000);
    let mut namespace = OldNamespace::user("default");
    namespace.datasize = 8 << 20;
    for at in 0..count {
        namespace.set(format!("key {at:012}").as_bytes(), b"a value of some bytes", 7);
    }
    let scene = Scene::of(&[&namespace]);
    let begun = Instant::now();
    let imported = scene.import();
    let elapsed = begun.elapsed();
    assert_eq!(imported.code, Some(0), "{}", imported.text);
    println!("{count} keys in {elapsed:?}\n{}", imported.text);
    let server = scene.serve();
    let mut client = server.connect();
    client.expect(args!["DBSIZE"], Reply::Integer(count as i64));
    let last = format!("key {:012}", count - 1);
    client.expect(args!["GET", last], Reply::bulk("a value of some bytes"));
}
