//! `zdb import`: reads the data directory of a 0-db v2 and writes what is in it as a new log.
//!
//! The data files, in order, are the history: each record is appended again as SET or DEL would, with its
//! own timestamp, so that the new directory holds what a server would that had been sent the same. The
//! index is a second witness. Where they disagree:
//!
//! | disagreement | what counts |
//! |---|---|
//! | the index shows a key that has a tombstone | the tombstone: the delete was acknowledged |
//! | the index hides a key without tombstone or newer version | the record: 0-db loses keys that way |
//! | key or time of a record | the data file; it is told (user mode) |
//! | checksum of a payload | the one that the payload meets |
//! | where records begin, behind a damaged head | the index, then the records' own chain, then a search |
//! | the newest version of a key is lost | the key is deleted: an old value must not pass for the new one |
//! | the number of ids given out | the larger: no id is given out twice |
//! | the mode | the index; without one, the keys |
//! | name of a namespace | its directory |
//! | password and settings are lost | the namespace is frozen until an administrator has looked |
//!
//! Beside that: an empty data file, of a jump ahead of a large value, is no damage; what a compaction took
//! away (flag 2) is no record. In user mode an entry is taken to be of the data file with the index
//! file's number, since 0-db leaves the number in it 0. A sequential id that 0-db gave out twice, after it
//! lost the end of an index, becomes two versions of that id.
//!
//! The old directories are only read. The new ones carry a mark until all is durable, and a server refuses
//! them until then. Memory is bounded: windows of a few MiB on the old files, the new log's
//! write buffer, and the index of the new log, some 18 bytes for each key.

pub mod format;
mod replay;
pub(crate) mod report;
mod settings;
mod source;
pub mod walk;
pub(crate) mod writer;

use crate::disk::system::SystemFiles;
use crate::disk::{Files, Root};
use crate::engine::log::format::segment_base;
use crate::engine::recovery::{IMPORT_UNFINISHED_NAME, REPAIR_UNFINISHED_NAME};
use crate::limits::{NAMESPACE_NAME_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::options::parse_size;
use crate::server::process;
use clap::Parser;
use format::BadHeader;
use report::Report;
use source::{OldNamespace, Window};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use writer::Writer;

/// All is copied, but something in the old directories was damaged.
const EXIT_DAMAGED: u8 = 3;

/// Copies the data directory of a 0-db v2 into new directories of zdb: namespaces with their settings, keys,
/// history, deletes and times. The old directories are only read.
#[derive(Parser)]
#[command(
    name = "zdb import",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = "Exit codes: 0 all is copied; 1 it could not be done; 3 copied, but something was damaged, and \
                  the lines about damage say what.\n\n\
                  Example: zdb import --data /old/data --index /old/index --to-data /disk1/data --to-index /disk1/index"
)]
pub struct Arguments {
    /// Data directory of the 0-db, which must not be running.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Index directory of the 0-db.
    #[arg(long, value_name = "DIR")]
    pub index: PathBuf,
    /// New data directory; created if missing, must not hold a log.
    #[arg(long, value_name = "DIR", default_value = "./zdb-data")]
    pub to_data: PathBuf,
    /// New index directory; created if missing.
    #[arg(long, value_name = "DIR", default_value = "./zdb-index")]
    pub to_index: PathBuf,
    /// Size at which a new data file is closed and the next begins, from 512k to just below 4G.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub datasize: u64,
}

/// Runs `zdb import`; `arguments` are those behind the word.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(
        [OsString::from("zdb import")].into_iter().chain(arguments),
    ) {
        Ok(arguments) => arguments,
        Err(error) => {
            let text = error.render();
            if error.use_stderr() {
                eprint!("{text}");
                return ExitCode::FAILURE;
            }
            print!("{text}");
            return ExitCode::SUCCESS;
        }
    };
    match run(&arguments) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(EXIT_DAMAGED),
        Err(line) => {
            process::warn(&format!("import: {line}"));
            ExitCode::FAILURE
        }
    }
}

/// True where something was damaged.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    if arguments.datasize < SEGMENT_BYTES_MIN || arguments.datasize >= u64::from(u32::MAX) {
        return Err("--datasize must be at least 512k and below 4294967295 bytes".into());
    }
    check_apart([&arguments.data, &arguments.index], [&arguments.to_data, &arguments.to_index])?;
    if arguments.data.canonicalize().ok() == arguments.index.canonicalize().ok() {
        return Err("--data and --index are the same directory: a 0-db has two".into());
    }
    for directory in [&arguments.data, &arguments.index] {
        source::check_not_running(directory)?;
    }
    let namespaces = source::namespaces(&arguments.data, &arguments.index)?;
    check_versions(&namespaces)?;
    if namespaces.is_empty() {
        return Err(format!(
            "there is no namespace of a 0-db v2 in {} and {}",
            arguments.data.display(),
            arguments.index.display()
        ));
    }
    let files = open_new(&arguments.to_data, &arguments.to_index)?;
    let bytes = namespaces.iter().flat_map(|namespace| namespace.data_files.values()).sum();
    let mut report = Report::new(bytes);
    let outcome = copy(&namespaces, files, arguments.datasize, &mut report);
    outcome.map_err(|line| {
        format!(
            "{line}\nzdb: import: not finished: make room or mend what the line says, remove {} and {}, and run \
             it again",
            arguments.to_data.display(),
            arguments.to_index.display()
        )
    })?;
    report.finish();
    Ok(report.is_damaged())
}

fn copy(
    namespaces: &[OldNamespace],
    files: SystemFiles,
    segment_bytes: u64,
    report: &mut Report,
) -> Result<(), String> {
    // Every segment of the new log stays open.
    process::raise_open_files();
    let before = source::fingerprint(namespaces);
    let mut writer = Writer::start(files, segment_bytes, IMPORT_UNFINISHED_NAME, None)?;
    for namespace in namespaces {
        if namespace.name.len() > NAMESPACE_NAME_BYTES_MAX {
            report.damage(&format!(
                "namespace {}: its name is longer than {NAMESPACE_NAME_BYTES_MAX} bytes, so no client could select \
                 it: it is left out",
                namespace.shown()
            ));
            continue;
        }
        if namespace.version_one_files > 0 {
            report.damage(&format!(
                "namespace {}: {} files of 0-db v1 (zdb-data-*, zdb-index-*) are left out",
                namespace.shown(),
                namespace.version_one_files
            ));
        }
        replay::replay(namespace, &mut writer, report)?;
    }
    // While the new directory still has its mark.
    if source::fingerprint(namespaces) != before {
        return Err(
            "the old files changed while they were read: stop the 0-db that writes to them".into(),
        );
    }
    writer.finish()
}

/// The new directories must be others than the old ones, and not lie in them.
pub(crate) fn check_apart(old: [&Path; 2], new: [&Path; 2]) -> Result<(), String> {
    let old = old.map(|directory| {
        directory
            .canonicalize()
            .map_err(|error| format!("cannot open {}: {error}", directory.display()))
    });
    for old in old {
        let old = old?;
        for new in new {
            if real_path(new).starts_with(&old) {
                return Err(format!(
                    "the new directory {} lies in the old one ({}): the old one is never written to, choose another \
                     with --to-data and --to-index",
                    new.display(),
                    old.display()
                ));
            }
        }
    }
    Ok(())
}

/// The real path of a directory of which the last parts may not exist yet.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or_else(|_| Path::new(""));
            return real.join(rest);
        }
    }
    absolute
}

/// Refuses, before anything is written, what another 0-db wrote.
fn check_versions(namespaces: &[OldNamespace]) -> Result<(), String> {
    for namespace in namespaces {
        if namespace.data_files.is_empty() && namespace.version_one_files > 0 {
            return Err(format!(
                "namespace {} is of 0-db v1 ({}): start a 0-db v2 on it first, which migrates it, or move it away",
                namespace.shown(),
                namespace.data_directory.display()
            ));
        }
        let mut other = None;
        for number in namespace.data_files.keys() {
            let mut window = Window::open(&namespace.data_path(*number))?;
            let header = window.at(0, format::DATA_HEADER_BYTES as usize);
            match format::check_data_header(header, *number) {
                Err(BadHeader::Version(version)) if other.is_none_or(|same| same == version) => {
                    other = Some(version);
                }
                // One that is ours: what is wrong with the others is damage.
                _ => {
                    other = None;
                    break;
                }
            }
        }
        if let Some(version) = other {
            return Err(format!(
                "the data files of namespace {} are of version {version}; this reads version 3, of 0-db v2",
                namespace.shown()
            ));
        }
    }
    Ok(())
}

/// Opens new directories, which must not hold a log.
pub(crate) fn open_new(data: &Path, index: &Path) -> Result<SystemFiles, String> {
    let (files, warnings) = SystemFiles::open(data, index)?;
    for line in warnings {
        process::warn(&line);
    }
    let names = files
        .list(Root::Data)
        .map_err(|error| format!("cannot list {}: {error}", data.display()))?;
    for (mark, what) in [(IMPORT_UNFINISHED_NAME, "import"), (REPAIR_UNFINISHED_NAME, "repair")] {
        if names.iter().any(|name| name == mark) {
            return Err(format!(
                "an earlier {what} into {} did not end: remove {} and {}, then run it again",
                data.display(),
                data.display(),
                index.display()
            ));
        }
    }
    if names.iter().any(|name| segment_base(name).is_some()) {
        return Err(format!(
            "{} holds a log already: choose an empty directory with --to-data",
            data.display()
        ));
    }
    Ok(files)
}
