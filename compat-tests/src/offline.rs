//! `zdb check`, `zdb dump` and `zdb repair` as processes, over directories of a server.

use crate::import::{Imported, run};
use crate::server::{Setup, binary, scratch_dir};
use crate::{Client, Reply, Server, args};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Directories of a server that has stopped.
pub struct Stopped {
    pub home: TempDir,
}

/// A record that `zdb dump --json` shows.
#[derive(Clone, Debug)]
pub struct Record(pub Value);

impl Record {
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    pub fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_default()
    }

    /// Where it is in the file of its segment.
    pub fn offset(&self) -> u64 {
        let base = self.text("segment").trim_end_matches(".log");
        self.number("position") - u64::from_str_radix(base, 16).expect("a segment's name")
    }
}

impl Stopped {
    /// What a server leaves that ran with these flags and was used like this.
    pub fn after(flags: &[&str], exercise: impl FnOnce(&mut Client)) -> Stopped {
        let home = scratch_dir();
        let mut server = Setup::new().home(home.path()).flags(flags).start();
        exercise(&mut server.connect());
        server.terminate();
        Stopped { home }
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn index(&self) -> PathBuf {
        self.home.path().join("index")
    }

    /// A command on these directories.
    pub fn command(&self, word: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg(word).arg("--data").arg(self.data()).arg("--index").arg(self.index());
        command.args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, word: &str, flags: &[&str]) -> Imported {
        run(self.command(word, flags))
    }

    #[track_caller]
    pub fn expect(&self, code: i32, word: &str, flags: &[&str]) -> String {
        let ended = self.run(word, flags);
        assert_eq!(ended.code, Some(code), "zdb {word}: {}", ended.text);
        ended.text
    }

    pub fn repair_command(&self, to: &Path) -> Command {
        let mut command = self.command("repair", &[]);
        command.arg("--to-data").arg(to.join("data")).arg("--to-index").arg(to.join("index"));
        command
    }

    /// Repairs into directories of their own.
    #[track_caller]
    pub fn repair(&self, code: i32) -> (Stopped, String) {
        let to = Stopped { home: scratch_dir() };
        let ended = run(self.repair_command(to.home.path()));
        assert_eq!(ended.code, Some(code), "zdb repair: {}", ended.text);
        to.expect(0, "check", &[]);
        (to, ended.text)
    }

    /// The objects that a command prints with `--json`.
    #[track_caller]
    pub fn objects(&self, word: &str, flags: &[&str]) -> Vec<Value> {
        let text = self.run(word, &[&["--json"], flags].concat()).text;
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
        };
        text.lines().map(parse).collect()
    }

    /// Records of keys and namespaces.
    #[track_caller]
    pub fn records(&self) -> Vec<Record> {
        let objects = self.objects("dump", &["--payload"]).into_iter();
        let records = objects.filter(|one| one["type"] == "record").map(Record);
        records.filter(|one| !matches!(one.text("kind"), "padding" | "seal")).collect()
    }

    /// The same without what depends on the place, for comparisons.
    #[track_caller]
    pub fn story(&self) -> Vec<Value> {
        let mut records: Vec<Value> = self.records().into_iter().map(|one| one.0).collect();
        for record in &mut records {
            let is_namespace = record["kind"] == "namespace" || record["kind"] == "removal";
            let fields = record.as_object_mut().expect("an object");
            for name in ["segment", "position", "sequence", "previous", "flags", "in_write_buffer"]
            {
                fields.remove(name);
            }
            if is_namespace {
                fields.remove("time");
            }
        }
        records
    }

    /// The newest record of this key.
    #[track_caller]
    pub fn record(&self, key: &str) -> Record {
        let mut records = self.records();
        records.retain(|one| one.text("key") == key);
        records.pop().unwrap_or_else(|| panic!("no record of {key}"))
    }

    pub fn flip(&self, path: &Path, offset: u64) {
        let mut bytes = std::fs::read(path).expect("the file can be read");
        bytes[offset as usize] ^= 1;
        std::fs::write(path, bytes).expect("the file can be written");
    }

    /// Flips a bit of a record, at so many bytes from its start.
    pub fn flip_in(&self, record: &Record, at: u64) {
        self.flip(&self.data().join(record.text("segment")), record.offset() + at);
    }

    /// Files of one ending, in the order of the log.
    pub fn files(&self, root: &str, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.home.path().join(root)).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut files: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|one| one == ending)).collect();
        files.sort();
        files
    }

    #[track_caller]
    pub fn serve(&self) -> Server {
        Setup::new().home(self.home.path()).start()
    }
}

/// The values of a key from the newest to the oldest, with their times.
#[track_caller]
pub fn history(client: &mut Client, key: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut versions = Vec::new();
    let mut reply = client.call(args!["HISTORY", key]);
    while let Reply::Array(mut parts) = reply {
        let value = parts.remove(2).into_bytes().to_vec();
        let time = String::from_utf8(parts.remove(1).into_bytes().to_vec()).expect("a time");
        versions.push((time, value));
        let token = parts.remove(0);
        let Reply::Bulk(token) = token else { break };
        reply = client.call(args!["HISTORY", key, token]);
    }
    versions
}
