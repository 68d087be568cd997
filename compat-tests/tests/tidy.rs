//! The architecture as a test: who depends on whom, where `unsafe` stands, what every command has.

use compat_tests::server::workspace_dir;
use compat_tests::transcript;
use compat_tests::{Server, args};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which crates of the workspace a crate may name. One that is missing here may name none.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[("compat-tests", &["zdb"]), ("bench", &["zdb"])];

/// Where `unsafe` may stand: directories end with a slash.
const MAY_BE_UNSAFE: &[&str] = &[
    "zdb/src/disk/",
    "zdb/src/server/",
    "zdb/src/engine/log/buffer.rs",
    "zdb/src/engine/prefetch.rs",
    "bench/src/server.rs",
    // An allocator that takes notes: the trait is unsafe.
    "zdb/fuzz/src/allocations.rs",
];

/// A file above this many lines wants a second look.
const LINES_MAX: usize = 800;
/// Files that had their second look, and what it found. Lines of their unit tests do not count.
const MAY_BE_LONG: &[(&str, &str)] = &[];

#[test]
fn crates_depend_only_on_whom_they_may() {
    let manifests = manifests();
    let ours: BTreeSet<&String> = manifests.keys().collect();
    for (name, manifest) in &manifests {
        let allowed =
            MAY_DEPEND_ON.iter().find(|(from, _)| from == name).map_or(&[][..], |(_, to)| to);
        for dependency in dependencies(manifest) {
            assert!(
                !ours.contains(&dependency) || allowed.contains(&dependency.as_str()),
                "{name} may not depend on {dependency}"
            );
        }
    }
}

/// The names of all packages that a manifest names, in any section, under their own names.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |table: &toml::Table| {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in
                table.get(section).and_then(toml::Value::as_table).into_iter().flatten()
            {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                names.insert(renamed.unwrap_or(name).to_owned());
            }
        }
    };
    add(manifest);
    for (_, target) in manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten()
    {
        target.as_table().into_iter().for_each(&mut add);
    }
    names
}

/// The manifests of the workspace's members, by package name.
fn manifests() -> BTreeMap<String, toml::Table> {
    let read = |path: PathBuf| -> toml::Table {
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let workspace = read(workspace_dir().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("a list of members");
    let members: BTreeMap<String, toml::Table> = members
        .iter()
        .map(|member| {
            let manifest =
                read(workspace_dir().join(member.as_str().expect("a path")).join("Cargo.toml"));
            (manifest["package"]["name"].as_str().expect("a name").to_owned(), manifest)
        })
        .collect();
    assert!(members.contains_key("zdb"), "the server is a member of the workspace");
    members
}

/// All Rust files of the workspace, with their paths from its root.
fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for (name, _) in manifests() {
        collect(&workspace_dir().join(name), &mut sources);
    }
    assert!(sources.len() > 10, "the walk has found the sources");
    sources
}

fn collect(dir: &Path, sources: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.ends_with("target") {
            // What cargo-fuzz builds is not ours.
            continue;
        } else if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source is text");
            let name = path.strip_prefix(workspace_dir()).expect("it lies in the workspace");
            sources.push((name.to_string_lossy().into_owned(), text));
        }
    }
}

/// A line without its comment and without what stands in quotes on it.
fn code(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut signs = line.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' if quoted => drop(signs.next()),
            '"' => quoted = !quoted,
            '/' if !quoted && signs.peek() == Some(&'/') => break,
            _ if !quoted => code.push(sign),
            _ => {}
        }
    }
    code
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|sign: char| !sign.is_alphanumeric() && sign != '_').any(|part| part == word)
}

#[test]
fn unsafe_stands_where_it_may() {
    for (path, text) in sources() {
        let allowed = MAY_BE_UNSAFE.iter().any(|place| match place.ends_with('/') {
            true => path.starts_with(place),
            false => path == *place,
        });
        for (index, line) in text.lines().enumerate() {
            assert!(allowed || !has_word(&code(line), "unsafe"), "{path}:{}: unsafe", index + 1);
        }
    }
}

#[test]
fn no_place_is_unsafe_for_nothing() {
    let sources = sources();
    for place in MAY_BE_UNSAFE {
        let used = sources.iter().any(|(path, text)| {
            path.starts_with(place) && text.lines().any(|line| has_word(&code(line), "unsafe"))
        });
        assert!(used, "{place} has no unsafe: take it off the list");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            let code = code(line);
            for word in ["todo", "unimplemented", "dbg"] {
                let found = code.contains(&format!("{word}!")) && has_word(&code, word);
                assert!(!found, "{path}:{}: {word}!", index + 1);
            }
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            for word in ["TODO", "FIXME", "XXX"] {
                assert!(!has_word(comment, word), "{path}:{}: {word}", index + 1);
            }
        }
    }
}

#[test]
fn files_are_short() {
    for (path, text) in sources() {
        let lines = match text.find("#[cfg(test)]\nmod tests") {
            Some(end) => text[..end].lines().count(),
            None => text.lines().count(),
        };
        let looked_at = MAY_BE_LONG.iter().any(|(long, _)| *long == path);
        assert!(
            lines <= LINES_MAX || looked_at,
            "{path} has {lines} lines: split it, or say why not"
        );
        assert!(lines > LINES_MAX || !looked_at, "{path} is short now: take it off the list");
    }
}

/// Its first line says what a file is about.
#[test]
fn files_say_what_they_are() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{path} begins with its subject, after //!");
    }
}

#[test]
fn every_command_of_the_server_has_a_transcript() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    let listed = client.call(args!["COMMAND"]).into_array();
    let count = client.call(args!["COMMAND", "COUNT"]).into_integer();
    assert_eq!(count, listed.len() as i64, "COMMAND COUNT");
    let mut missing = Vec::new();
    let mut names = BTreeSet::new();
    for command in listed {
        let name = command.into_array().remove(0).into_bytes();
        let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
        if !transcript::dir().join(format!("{name}.txt")).is_file() {
            missing.push(name.clone());
        }
        names.insert(name);
    }
    assert!(missing.is_empty(), "no transcript for {missing:?}");
    for name in compat_tests::Model::command_names() {
        assert!(names.contains(&name.to_ascii_lowercase()), "COMMAND does not list {name}");
    }
}
