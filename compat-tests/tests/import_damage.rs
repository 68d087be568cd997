//! `zdb import` over damaged directories of a 0-db v2: what is whole arrives, what is lost is told.

use compat_tests::import::{Scene, exercise, ten_keys};
use compat_tests::old::{OldNamespace, Spot};
use compat_tests::{Reply, args, count_from_env, seed};

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

/// One damaged byte costs one record at most: all other keys are there with all their versions.
#[test]
fn one_damaged_byte_costs_one_record() {
    let seed = seed("one_damaged_byte_costs_one_record");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..count_from_env("ZDB_IMPORT_ROUNDS", 16) {
        let mut all = [OldNamespace::user("user"), OldNamespace::sequential("ids")];
        let mut damaged = Vec::new();
        for namespace in &mut all {
            namespace.datasize = 8192;
            exercise(namespace, &mut random, 150);
            let (spot, key) = namespace.records[random.usize(..namespace.records.len())].clone();
            // An id that becomes that of another key cannot be told from an update of that.
            let record = &namespace.file(spot.file)[spot.offset..];
            let payload = u32::from_le_bytes([record[1], record[2], record[3], record[4]]) as usize;
            let at = loop {
                let at = random.usize(..18 + key.len() + payload.min(4));
                if !(namespace.sequential && (18..26).contains(&at)) {
                    break at;
                }
            };
            if let Some(byte) = namespace.file(spot.file).get_mut(spot.offset + at) {
                *byte ^= 1 << random.u32(..8);
            }
            damaged.push(key);
        }
        let scene = Scene::of(&[&all[0], &all[1]]);
        let imported = scene.import();
        assert!(matches!(imported.code, Some(0 | 3)), "{}", imported.text);
        println!("round {round}\n{}", imported.text);
        let server = scene.serve();
        let mut client = server.connect();
        for (namespace, damaged) in all.iter().zip(&damaged) {
            client.expect(&[&b"SELECT"[..], &namespace.name], Reply::ok());
            for key in namespace.live.keys().filter(|key| *key != damaged) {
                namespace.check_key(&mut client, key);
            }
        }
    }
}

#[test]
fn heads_that_differ_from_the_index_are_told() {
    let mut namespace = OldNamespace::user("differ");
    namespace.set(b"first", b"value", 1);
    let (_, spot) = namespace.set(b"second", b"value", 2);
    check_damage(
        namespace,
        |namespace| {
            namespace.file(0)[spot.offset + 14] = 9;
            namespace.live.get_mut(&b"second"[..]).expect("live")[0].timestamp = 9;
        },
        &["says key \"second\" at 9, the index key \"second\" at 2"],
    );
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
