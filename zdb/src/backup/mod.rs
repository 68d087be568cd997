//! `zdb backup`: the log of a running server in a directory, from time to time or all along. `zdb restore`: a data
//! directory made of it, as the server was at a second of one's choice.
//!
//! A backup is a copy of the log that never loses anything: what is appended is added, what was copied once stays.
//! It asks the server for the log as a replica does, verifies each record, and has no index; the server waits for
//! it with nothing, and sends nobody to it. A directory holds **sets** (`set.rs`): each begins with all that the
//! server had, and goes on with what came later. A further one begins where the log cannot be gone on with, or
//! where somebody wants it.
//!
//! What a server was at a time follows from the log alone: everything before the first record of a later second
//! (`until.rs`). What the cleaner had dropped before it was copied is not there, so times before that are refused.

mod master;
mod restore;
mod set;
mod take;
mod until;

use crate::offline;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Runs the command of this name, if it is one of these; `arguments` are those behind the word.
pub fn main(word: &OsStr, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    Some(match word.to_str()? {
        "backup" => offline::run("backup", arguments, take::run),
        "restore" => offline::run("restore", arguments, restore::run),
        _ => return None,
    })
}

/// A time for people, as `--until` takes it.
fn shown_time(unix_s: u64) -> String {
    match jiff::Timestamp::from_second(i64::try_from(unix_s).unwrap_or(i64::MAX)) {
        Ok(time) => time.to_string(),
        Err(_) => unix_s.to_string(),
    }
}

fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
