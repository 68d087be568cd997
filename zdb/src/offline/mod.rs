//! Commands for the directories of a stopped server: `zdb check` says what is damaged, `zdb dump` shows the
//! log as text, `zdb repair` saves what can be read.
//!
//! All three walk the log as a start does (`engine/walk.rs`), so that what they call a record is one to the
//! server too. They take part in the server's lock, and none of them writes to the directories that it
//! reads; only `repair --sidecars` does, and that is what a start does.

pub mod check;
pub mod dump;
mod known;
mod output;
#[cfg(test)]
mod packed_tests;
pub mod repair;
mod replay;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
mod witness;

pub use output::{Lines, Progress};
pub use stored::StoredLog;

use crate::disk::system::SystemFiles;
use crate::engine::log::format::segment_base;
use crate::server::process;
use clap::Parser;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub const EXIT_WHOLE: u8 = 0;
/// Something is damaged or lost.
pub const EXIT_DAMAGED: u8 = 1;
pub const EXIT_FAILED: u8 = 2;

/// The directories of a server.
#[derive(clap::Args)]
pub struct Places {
    /// Data directory of the server, which must not be running.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Index directory of the server.
    #[arg(long, value_name = "DIR")]
    pub index: PathBuf,
}

impl Places {
    /// Locks both directories to read them; nothing was touched where they are not a server's.
    pub fn open_to_read(&self) -> Result<SystemFiles, String> {
        self.look()?;
        // Every segment stays open.
        process::raise_open_files();
        SystemFiles::open_to_read(&self.data, &self.index)
    }

    /// Whether these are the directories of a zdb, by the names in them.
    pub fn look(&self) -> Result<(), String> {
        if self
            .data
            .canonicalize()
            .ok()
            .is_some_and(|data| self.index.canonicalize().ok() == Some(data))
        {
            return Err("--data and --index are the same directory: a server has two".into());
        }
        let names = names(&self.data)
            .map_err(|error| format!("cannot open --data {}: {error}", self.data.display()))?;
        names_of_index(&self.index)?;
        let is_ours = names.iter().any(|name| name == "identity" || segment_base(name).is_some());
        if is_ours {
            return Ok(());
        }
        let data = self.data.display();
        if names_below(&self.data, "d0") {
            return Err(format!(
                "{data} is a data directory of a 0-db: zdb import copies it into one of zdb, and says what is \
                 damaged in it"
            ));
        }
        if names.iter().any(|name| name.ends_with(".sidecar")) || names_below(&self.index, ".log") {
            return Err(format!("{data} is an index directory: --data and --index are exchanged"));
        }
        Err(format!("there is no log of a zdb in {data}: give the --data of the server"))
    }
}

fn names(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn names_of_index(index: &Path) -> Result<(), String> {
    names(index).map(|_| ()).map_err(|error| {
        format!(
            "cannot open --index {}: {error}. If the index is lost, give an empty directory: everything in it is \
             made anew from the data",
            index.display()
        )
    })
}

/// Whether a directory below this one holds a file with this name or ending.
fn names_below(directory: &Path, ending: &str) -> bool {
    let below = |entry: std::fs::DirEntry| names(&entry.path()).unwrap_or_default();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all = entries.flat_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        below(entry).into_iter().chain(std::iter::once(name))
    });
    all.any(|name| name == ending || (ending.starts_with('.') && segment_base(&name).is_some()))
}

/// Runs the command of this name, if it is one of these; `arguments` are those behind the word.
pub fn main(word: &std::ffi::OsStr, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    Some(match word.to_str()? {
        "check" => run("check", arguments, check::run),
        "dump" => run("dump", arguments, dump::run),
        "repair" => run("repair", arguments, repair::run),
        _ => return None,
    })
}

pub(crate) fn run<A: Parser>(
    word: &str,
    arguments: impl Iterator<Item = OsString>,
    command: impl FnOnce(&A) -> Result<u8, String>,
) -> ExitCode {
    let name = OsString::from(format!("zdb {word}"));
    let arguments = match A::try_parse_from([name].into_iter().chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let text = error.render();
            if error.use_stderr() {
                eprint!("{text}");
                return ExitCode::from(EXIT_FAILED);
            }
            print!("{text}");
            return ExitCode::SUCCESS;
        }
    };
    match command(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(line) => {
            process::warn(&format!("{word}: {line}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}
