//! `zdb import`: directories of a 0-db v2, and a server over what was made of them.

use compat_tests::import::{Imported, Scene, exercise, run, ten_keys};
use compat_tests::mount::Mount;
use compat_tests::old::OldNamespace;
use compat_tests::server::{Setup, binary, poll};
use compat_tests::{Reply, args, count_from_env, seed};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An import that takes longer has hung.
const IMPORT_TIME_MAX: Duration = Duration::from_secs(120);

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
