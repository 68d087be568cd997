//! `zdb import` as a process, over directories of its own, and old stores to feed it.

use crate::old::OldNamespace;
use crate::server::{Setup, binary, scratch_dir};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What an import ended with.
pub struct Imported {
    pub code: Option<i32>,
    pub text: String,
}

/// Old directories, and a place for the new ones.
pub struct Scene {
    pub home: TempDir,
}

impl Scene {
    /// With these namespaces in its old directories.
    pub fn of(namespaces: &[&OldNamespace]) -> Scene {
        let scene = Scene { home: scratch_dir() };
        for root in ["data", "index"] {
            std::fs::create_dir_all(scene.old().join(root)).expect("a directory");
        }
        for namespace in namespaces {
            namespace.save(&scene.old());
        }
        scene
    }

    pub fn old(&self) -> PathBuf {
        self.home.path().join("old")
    }

    pub fn new_home(&self) -> PathBuf {
        self.home.path().join("new")
    }

    /// `zdb import` from the directories below one home to those below another.
    pub fn command(&self, old: &Path, new: &Path) -> Command {
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

    pub fn import(&self) -> Imported {
        run(self.command(&self.old(), &self.new_home()))
    }

    /// A server over the new directories.
    #[track_caller]
    pub fn serve(&self) -> crate::Server {
        Setup::new().home(&self.new_home()).start()
    }

    /// Imports, and compares what a server shows.
    #[track_caller]
    pub fn expect(&self, code: i32, namespaces: &[&OldNamespace]) -> String {
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

/// Runs a program to its end.
pub fn run(mut command: Command) -> Imported {
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Imported { code: output.status.code(), text }
}

/// Every file below a directory with its bytes and its time.
pub fn contents(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
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

/// Random sets, updates, deletes and jumps.
pub fn exercise(namespace: &mut OldNamespace, random: &mut fastrand::Rng, steps: usize) {
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

/// Ten keys in user mode, each set, half of them updated, in files of three records.
pub fn ten_keys() -> OldNamespace {
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
