//! Every version of the format that ever was: the server of today opens its directory and shows what its
//! maker wrote into it.

use compat_tests::fixture::{compare, compare_saved, dir, make, unpack};
use compat_tests::offline::Stopped;
use compat_tests::server::scratch_dir;

/// The versions in git.
fn versions() -> Vec<String> {
    let entries = std::fs::read_dir(dir()).expect("the fixtures");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("a name"));
    let version = |name: String| Some(name.strip_prefix("data-")?.strip_suffix(".tar.gz")?.into());
    let versions: Vec<String> = names.filter_map(version).collect();
    assert!(!versions.is_empty(), "no fixture in {}", dir().display());
    versions
}

#[test]
fn every_version_opens() {
    for version in versions() {
        for with_sidecars in [true, false] {
            let stopped = Stopped { home: scratch_dir() };
            let list = unpack(&version, stopped.home.path());
            if !with_sidecars {
                let sidecars = stopped.files("index", "sidecar");
                sidecars.iter().for_each(|path| std::fs::remove_file(path).expect("a sidecar"));
            }
            let mut server = stopped.serve();
            compare(&server, &list);
            let log = server.log();
            assert!(!log.iter().any(|line| line.contains("damage")), "{version}: {log:#?}");
            server.terminate();
            stopped.expect(0, "check", &[]);
        }
    }
}

/// A repair reads every version, too.
#[test]
fn every_version_can_be_repaired() {
    for version in versions() {
        let stopped = Stopped { home: scratch_dir() };
        let list = unpack(&version, stopped.home.path());
        stopped.expect(0, "check", &[]);
        let (new, _) = stopped.repair(0);
        compare_saved(&new.serve(), &list);
    }
}

/// What the maker writes down is what a server of today shows: the list is a true one.
#[test]
fn the_maker_tells_the_truth() {
    let stopped = Stopped { home: scratch_dir() };
    let list = make(stopped.home.path());
    compare(&stopped.serve(), &list);
}
