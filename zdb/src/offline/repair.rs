//! `zdb repair`: what can be read of a damaged directory, in a new one; or its sidecars alone, made anew.

use super::output::{Lines, Progress};
use super::replay::{Outcome, Replay};
use super::stored::{Flow, Lost, Seen, Stop, StoredLog, Trouble, Visitor};
use super::{EXIT_DAMAGED, EXIT_WHOLE, Places};
use crate::disk::system::SystemFiles;
use crate::disk::{Files, Root};
use crate::engine::chain::Link;
use crate::engine::log::Policy;
use crate::engine::log::format;
use crate::engine::recovery::{self, REPAIR_UNFINISHED_NAME, StartOptions};
use crate::import;
use crate::import::writer::Writer;
use crate::limits::SEGMENT_BYTES_MIN;
use crate::server::process;
use clap::Parser;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Saves what can be read of the directories of a stopped server into new ones: namespaces with their settings,
/// keys, history, deletes, times and ids. The old directories are only read.
#[derive(Parser)]
#[command(
    name = "zdb repair",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = "What is lost is told with segment, offset and, where they are known, keys. A key whose newest version is \
                  lost is deleted rather than shown with an older value; a namespace whose settings are lost is frozen; \
                  no id is given out twice. Tokens of HISTORY and cursors of SCAN are other ones in the new directories.\n\n\
                  Exit codes: 0 all is saved; 1 something is lost; 2 it could not be done.\n\n\
                  Examples: zdb repair --data /disk1/data --index /disk1/index --to-data /disk2/data --to-index /disk2/index\n\
                  \x20         zdb repair --sidecars --data /disk1/data --index /disk1/index"
)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// New data directory; created if missing, must not hold a log.
    #[arg(long, value_name = "DIR", required_unless_present = "sidecars")]
    to_data: Option<PathBuf>,
    /// New index directory; created if missing.
    #[arg(long, value_name = "DIR", required_unless_present = "sidecars")]
    to_index: Option<PathBuf>,
    /// Make the sidecars in --index anew, and nothing else. Those of damaged segments stay: they tell
    /// what was there.
    #[arg(long, conflicts_with_all = ["to_data", "to_index"])]
    sidecars: bool,
}

pub fn run(arguments: &Arguments) -> Result<u8, String> {
    match (&arguments.to_data, &arguments.to_index) {
        (Some(data), Some(index)) => salvage(&arguments.places, data, index),
        _ => rebuild_sidecars(&arguments.places),
    }
}

fn salvage(places: &Places, to_data: &Path, to_index: &Path) -> Result<u8, String> {
    places.look()?;
    import::check_apart([&places.data, &places.index], [to_data, to_index])?;
    let log = StoredLog::open(Box::new(places.open_to_read()?))?;
    let files = import::open_new(to_data, to_index)?;
    let mut lines = Lines::new();
    let outcome = copy(&log, files, &mut lines).map_err(|line| {
        format!(
            "{line}\nzdb: repair: not finished: make room or mend what the line says, remove {} and {}, and run it \
             again",
            to_data.display(),
            to_index.display()
        )
    })?;
    lines.line(&outcome.text());
    lines.flush();
    Ok(if outcome.is_all_saved() { EXIT_WHOLE } else { EXIT_DAMAGED })
}

/// Copies a log into new directories and prints what is lost.
pub fn copy(log: &StoredLog, files: SystemFiles, lines: &mut Lines) -> Result<Outcome, String> {
    let largest = u64::from(u32::MAX) / format::BLOCK * format::BLOCK;
    let segment_bytes = log.segment_bytes().unwrap_or(0).clamp(SEGMENT_BYTES_MIN, largest);
    let writer = Writer::start(files, segment_bytes, REPAIR_UNFINISHED_NAME, log.secret)?;
    let mut replay = Replay::new(log, writer, lines);
    match log.visit(&|_| true, &mut replay) {
        Ok(()) | Err(Stop::Enough) => {}
        Err(Stop::Failed(line)) => return Err(line),
    }
    replay.finish()
}

/// Makes the sidecars of whole segments anew, as a start does where they are missing.
fn rebuild_sidecars(places: &Places) -> Result<u8, String> {
    let log = StoredLog::open(Box::new(places.open_to_read()?))?;
    let mut lines = Lines::new();
    let mut look = Look {
        damaged: BTreeSet::new(),
        whole: Vec::new(),
        progress: Progress::new(log.bytes(), 0),
        lines: &mut lines,
    };
    match log.visit(&|_| true, &mut look) {
        Ok(()) | Err(Stop::Enough) => {}
        Err(Stop::Failed(line)) => return Err(line),
    }
    look.progress.clear();
    let (damaged, whole) = (look.damaged, look.whole);
    let (id, left) = (log.id, log.buffer_place.clone());
    drop(log);
    let (files, warnings) = SystemFiles::open(&places.data, &places.index)?;
    warnings.iter().for_each(|line| process::warn(line));
    let whole: Vec<u64> = whole.into_iter().filter(|base| !damaged.contains(base)).collect();
    for base in &whole {
        let name = format::sidecar_name(*base);
        match files.remove(Root::Index, &name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("cannot remove sidecar {name}: {error}"));
            }
            _ => {}
        }
    }
    let mut random = [0; 32];
    process::fill_random(&mut random);
    let (mut engine, report) = recovery::start(
        &files,
        StartOptions {
            mode: None,
            policy: Policy::No,
            segment_bytes: SEGMENT_BYTES_MIN,
            cache_bytes: 0,
            buffer: left,
            random,
        },
    )?;
    assert!(engine.log.id == id, "the directories stayed locked by nobody else");
    engine.log.discard_buffer();
    for line in &report.damage {
        process::warn(&format!("damage: {line}"));
    }
    files
        .sync_directory(Root::Index)
        .map_err(|error| format!("cannot flush {}: {error}", places.index.display()))?;
    let missing: Vec<u64> = whole
        .iter()
        .copied()
        .filter(|base| files.read_part(Root::Index, &format::sidecar_name(*base), 0, 1).is_err())
        .collect();
    if let Some(base) = missing.first() {
        return Err(format!(
            "sidecar {} could not be written: make room in {}",
            format::sidecar_name(*base),
            places.index.display()
        ));
    }
    lines.line(&format!("{} sidecars made anew, {} kept", whole.len(), damaged.len()));
    lines.flush();
    Ok(if damaged.is_empty() { EXIT_WHOLE } else { EXIT_DAMAGED })
}

/// Finds the segments that are damaged.
struct Look<'a> {
    damaged: BTreeSet<u64>,
    whole: Vec<u64>,
    progress: Progress,
    lines: &'a mut Lines,
}

impl Visitor for Look<'_> {
    fn segment(&mut self, link: &Link) -> Flow {
        self.whole.push(link.header.base);
        if link.damage.is_some() {
            self.damaged.insert(link.header.base);
        }
        Ok(())
    }

    fn record(&mut self, _: &Seen<'_>) -> Flow {
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        if self.damaged.insert(lost.base) {
            self.progress.clear();
            self.lines.line(&format!(
                "segment {} at offset {}: {}: its sidecar stays; zdb repair --to-data saves what can be read",
                format::segment_name(lost.base),
                lost.offset,
                lost.cause
            ));
        }
        Ok(())
    }

    fn trouble(&mut self, trouble: Trouble) -> Flow {
        if trouble.what == "foreign" {
            return Err(Stop::Failed(trouble.line));
        }
        Ok(())
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes, 0);
    }
}
