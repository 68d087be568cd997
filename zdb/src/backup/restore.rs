//! `zdb restore`: a data directory made of a set, as the server was at a time.

use super::set::{self, State};
use super::shown_time;
use super::until::Until;
use crate::disk::system::SystemFiles;
use crate::engine::chain::Link;
use crate::engine::identity;
use crate::engine::log::format::{self, BLOCK, Kind, SEGMENT_HEADER_BYTES};
use crate::engine::node::{self, Node};
use crate::engine::recovery::RESTORE_UNFINISHED_NAME;
use crate::import::report::shown_key;
use crate::offline::stored::{Flow, Lost, Seen, Stop, StoredLog, Trouble, Visitor};
use crate::offline::{EXIT_DAMAGED, EXIT_WHOLE, Lines, Progress};
use crate::server::process;
use clap::Parser;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are copied at once where a file cannot be copied as a whole.
const COPY_BYTES: usize = BLOCK as usize;

/// Makes a data directory of a backup.
#[derive(Parser)]
#[command(
    name = "zdb restore",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = "A server on the new directory has what the other one had: namespaces, settings, passwords, keys, history, ids, \
                  cursors and tokens. Its index is made at its first start, which reads all of the data; give it an empty --index. \
                  What it writes is a term of its own: the other one and its replicas never take it for theirs.\n\n\
                  Every record is verified. What is damaged is named, and copied as it is: a start leaves it out, and zdb repair \
                  shows what is lost.\n\n\
                  --until takes the server's clock into account; writes whose time an administrator gave count by those beside \
                  them.\n\n\
                  Exit codes: 0 all is restored; 1 restored but for what is damaged; 2 it could not be done.\n\n\
                  Examples: zdb restore /backup/disk1 --list\n\
                  \x20         zdb restore /backup/disk1 --to-data /disk1/data --until 2026-12-01T09:30:00Z"
)]
pub struct Arguments {
    /// Directory of the backup.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// New data directory; created if missing, must be empty.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    to_data: Option<PathBuf>,
    /// As it was at the end of this second: RFC 3339 with Z or an offset, or Unix seconds. Without it: all that the newest
    /// set has.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<u64>,
    /// Name of the set to take; without it the newest one that reaches back to --until.
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Show the sets and when they were added to, and nothing else.
    #[arg(long, conflicts_with_all = ["to_data", "until", "set"])]
    list: bool,
}

fn parse_time(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds);
    }
    let wanted = "RFC 3339 with Z or an offset, as 2026-12-01T09:30:00Z or 2026-12-01T10:30:00+01:00, or Unix seconds";
    let time: jiff::Timestamp =
        text.parse().map_err(|_| format!("not a time: it takes {wanted}"))?;
    u64::try_from(time.as_second()).map_err(|_| "a time before 1970".into())
}

pub fn run(arguments: &Arguments) -> Result<u8, String> {
    let directory = &arguments.directory;
    if directory.join(set::STATE_NAME).exists() {
        return Err(format!(
            "{} is a set of a backup: give the directory that it lies in",
            directory.display()
        ));
    }
    let mut sets = set::list(directory)?;
    if sets.is_empty() {
        return Err(format!("there is no backup in {}", directory.display()));
    }
    let mut lines = Lines::new();
    if arguments.list {
        return list(&sets, &mut lines);
    }
    if let Some(name) = &arguments.set {
        sets.retain(|path| path.file_name().is_some_and(|one| one == name.as_str()));
        if sets.is_empty() {
            return Err(format!("there is no set {name} in {}", directory.display()));
        }
    }
    let to = arguments.to_data.as_deref().expect("clap asks for it");
    look_at_new(to, directory)?;
    process::raise_open_files();
    let (source, end) = choose(&sets, arguments.until, &mut lines)?;
    restore(&source, end, to).map_err(|line| {
        format!(
            "{line}\nzdb: restore: not finished: make room or mend what the line says, remove {}, and run it again",
            to.display()
        )
    })?;
    let Source { walk, path, as_of_s, .. } = &source;
    let time_s = arguments.until.unwrap_or(*as_of_s);
    let time = if time_s == u64::MAX { "an unknown time".into() } else { shown_time(time_s) };
    lines.line(&format!(
        "{} holds all that {} has of {time}: {} records, {} bytes read in {:.1} s",
        to.display(),
        path.display(),
        walk.records,
        source.log.bytes(),
        walk.progress.seconds()
    ));
    if walk.damaged > 0 {
        lines.line(&format!(
            "{} damages: all else is restored; zdb repair with this directory shows what is lost",
            walk.damaged
        ));
    }
    lines.flush();
    Ok(if walk.damaged == 0 { EXIT_WHOLE } else { EXIT_DAMAGED })
}

fn list(sets: &[PathBuf], lines: &mut Lines) -> Result<u8, String> {
    let mut code = EXIT_WHOLE;
    for path in sets {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match set::read_state(path) {
            Ok(state) => {
                let as_of = match state.as_of_s {
                    0 => "unfinished".into(),
                    time_s => format!("has all of {}", shown_time(time_s)),
                };
                lines.line(&format!("{name}: {as_of}, position {}", state.position));
                for run in &state.runs {
                    let time = shown_time(run.as_of_s);
                    lines.line(&format!("    {time}  position {}", run.position));
                }
            }
            Err(line) => {
                code = EXIT_DAMAGED;
                lines.line(&format!("damage: {name}: {line}"));
            }
        }
    }
    lines.flush();
    Ok(code)
}

/// The new directory must be empty, and no part of the backup.
fn look_at_new(to: &Path, backup: &Path) -> Result<(), String> {
    let real = crate::import::real_path(to);
    if real.starts_with(crate::import::real_path(backup)) {
        return Err(format!(
            "{} lies in the backup: choose another directory with --to-data",
            to.display()
        ));
    }
    let entries = match fs::read_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| format!("cannot list {}: {error}", to.display()))?,
    };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    if names.any(|name| name == RESTORE_UNFINISHED_NAME) {
        return Err(format!(
            "an earlier restore into {} did not end: remove it, then run it again",
            to.display()
        ));
    }
    let mut entries = fs::read_dir(to).into_iter().flatten().flatten();
    if entries.any(|entry| entry.file_name() != "lost+found") {
        return Err(format!(
            "{} is not empty: choose another directory with --to-data",
            to.display()
        ));
    }
    Ok(())
}

/// A set that was looked at.
struct Source {
    path: PathBuf,
    as_of_s: u64,
    log: StoredLog,
    walk: Walk,
}

/// The set to take, and where its log is to end; none: with all of it.
fn choose(
    sets: &[PathBuf],
    until: Option<u64>,
    lines: &mut Lines,
) -> Result<(Source, Option<u64>), String> {
    let mut refusal = String::new();
    for path in sets.iter().rev() {
        let (state, damage) = match set::read_state(path) {
            Ok(state) => (state, None),
            // Its records tell, too, how far it is.
            Err(line) => (State { as_of_s: u64::MAX, ..State::default() }, Some(line)),
        };
        if state.as_of_s == 0 {
            refusal = format!("{} was not finished", path.display());
            continue;
        }
        if until.is_some_and(|until| until >= state.as_of_s) {
            let line = format!(
                "{} has all of {}, and of a time after that nobody knows",
                path.display(),
                shown_time(state.as_of_s)
            );
            refusal = if refusal.is_empty() { line } else { format!("{refusal}; {line}") };
            break;
        }
        let mut source = look(path, until, &state)?;
        damage.into_iter().for_each(|line| source.walk.damage(line));
        let cut = source.walk.until.position();
        let rests_on = source.rests_on(cut);
        if cut.is_some_and(|cut| cut <= source.walk.first) {
            refusal = format!("{} begins later", path.display());
            continue;
        }
        if let (Some(cut), Some(judged)) = (cut, rests_on)
            && judged > cut
        {
            let earliest = source.time_of(judged)?;
            refusal = format!(
                "{} reaches back to {}: before that the cleaner had already dropped what was replaced later",
                path.display(),
                earliest.map_or_else(|| "its end".into(), shown_time),
            );
            continue;
        }
        source.walk.told.drain(..).for_each(|line| lines.line(&line));
        return Ok((source, cut));
    }
    Err(match until {
        Some(until) => format!("{} cannot be restored: {refusal}", shown_time(until)),
        None => refusal,
    })
}

/// Walks through a set up to a time.
fn look(path: &Path, until: Option<u64>, state: &State) -> Result<Source, String> {
    let index = path.join(set::INDEX_NAME);
    let _ = DirBuilder::new().mode(0o700).create(&index);
    let log = StoredLog::open(Box::new(SystemFiles::open_to_read(path, &index)?))?;
    let mut walk = Walk::new(until.unwrap_or(u64::MAX), state.position, log.bytes());
    match log.visit(&|_| true, &mut walk) {
        Ok(()) | Err(Stop::Enough) => {}
        Err(Stop::Failed(line)) => return Err(line),
    }
    walk.finish(state.as_of_s);
    Ok(Source { path: path.to_owned(), as_of_s: state.as_of_s, log, walk })
}

impl Source {
    /// Up to where the cleaner knew the log when it dropped something of what is before a position.
    fn rests_on(&self, cut: Option<u64>) -> Option<u64> {
        let is_before = |link: &&Link| cut.is_none_or(|cut| link.header.base < cut);
        let links = self.log.chain.links.iter().filter(is_before);
        links.filter_map(|link| link.header.packed).map(|packed| packed.rests_on_min()).max()
    }

    /// The time of the first record behind a position that has the server's clock.
    fn time_of(&mut self, position: u64) -> Result<Option<u64>, String> {
        let mut clock = Clock { position, time_s: None };
        match self.log.visit(&|link| link.header.packed.is_none(), &mut clock) {
            Ok(()) | Err(Stop::Enough) => Ok(clock.time_s),
            Err(Stop::Failed(line)) => Err(line),
        }
    }
}

struct Walk {
    until: Until,
    /// Where the set says that it ends.
    position: u64,
    /// Where the first record begins.
    first: u64,
    records: u64,
    damaged: u64,
    told: Vec<String>,
    progress: Progress,
}

impl Walk {
    fn new(time_s: u64, position: u64, bytes: u64) -> Self {
        Self {
            until: Until::new(time_s),
            position,
            first: 0,
            records: 0,
            damaged: 0,
            told: Vec::new(),
            progress: Progress::new(bytes, 0),
        }
    }

    fn damage(&mut self, line: String) {
        self.damaged += 1;
        self.told.push(format!("damage: {line}"));
    }

    fn finish(&mut self, as_of_s: u64) {
        self.until.finish(as_of_s);
        self.progress.clear();
        let end = self.until.end();
        if self.until.position().is_none() && end < self.position {
            let position = self.position;
            self.damage(format!(
                "the end is missing: the set had the log up to position {position}, and it ends at {end}"
            ));
        }
    }
}

impl Visitor for Walk {
    fn segment(&mut self, link: &Link) -> Flow {
        if self.first == 0 {
            self.first = link.header.base + SEGMENT_HEADER_BYTES;
        }
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let head = seen.record.head;
        if self.until.record(head.kind, head.timestamp, seen.end) {
            return Err(Stop::Enough);
        }
        self.records += u64::from(!matches!(head.kind, Kind::Padding | Kind::Seal));
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Flow {
        if lost.is_part {
            return Ok(());
        }
        let name = format::segment_name(lost.base);
        if lost.is_file {
            self.damage(format!(
                "segments from {name} on are missing: positions {} to {}",
                lost.start, lost.end
            ));
            return Ok(());
        }
        let key = match &lost.head {
            Some((head, key)) if matches!(head.kind, Kind::Set | Kind::Delete) => {
                format!(", of {}", shown_key(key, head.flags & format::FLAG_ID != 0))
            }
            _ => String::new(),
        };
        self.damage(format!(
            "segment {name} at offset {}: {} bytes{key}: {}",
            lost.offset, lost.bytes, lost.cause
        ));
        Ok(())
    }

    fn trouble(&mut self, trouble: Trouble) -> Flow {
        // A set has no sidecars.
        if trouble.what != "sidecar" {
            let Trouble { file, offset, line, .. } = trouble;
            self.damage(format!("{file} at offset {offset}: {line}"));
        }
        Ok(())
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes, self.records);
    }
}

/// Looks for the server's clock behind a position.
struct Clock {
    position: u64,
    time_s: Option<u64>,
}

impl Visitor for Clock {
    fn segment(&mut self, _: &Link) -> Flow {
        Ok(())
    }

    fn record(&mut self, seen: &Seen<'_>) -> Flow {
        let head = seen.record.head;
        if seen.position >= self.position && !matches!(head.kind, Kind::Set | Kind::Delete) {
            self.time_s = Some(head.timestamp.into());
            return Err(Stop::Enough);
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Flow {
        Ok(())
    }

    fn trouble(&mut self, _: Trouble) -> Flow {
        Ok(())
    }

    fn note(&mut self, _: &str) -> Flow {
        Ok(())
    }

    fn advance(&mut self, _: u64) {}
}

// -------------------------------------------------------------------- copying

fn restore(source: &Source, cut: Option<u64>, to: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .map_err(|error| format!("cannot make the directory {}: {error}", to.display()))?;
    set::write_small(to, RESTORE_UNFINISHED_NAME, "")?;
    let links = source.log.chain.links.iter().map(|link| link.header.base);
    let unused = source.log.chain.unused.iter().map(|(base, _)| *base);
    let mut bases: Vec<u64> = links.chain(unused).collect();
    bases.sort_unstable();
    bases.retain(|base| cut.is_none_or(|cut| base + SEGMENT_HEADER_BYTES < cut));
    for base in &bases {
        copy(&source.path, to, &format::segment_name(*base))?;
    }
    if let (Some(cut), Some(base)) = (cut, bases.last()) {
        cut_behind(&to.join(format::segment_name(*base)), cut - base)?;
    }
    if let Some(secret) = source.log.secret {
        set::write_small(to, identity::IDENTITY_NAME, &identity::text(source.log.id, secret))?;
    }
    let mut name = [0; 4];
    while name == [0; 4] {
        process::fill_random(&mut name);
    }
    let node = Node { name: u32::from_le_bytes(name), is_copy: true, ..Node::default() };
    set::write_small(to, node::FILE_NAME, &node.text())?;
    let mark = to.join(RESTORE_UNFINISHED_NAME);
    fs::remove_file(&mark).map_err(|error| format!("cannot remove {}: {error}", mark.display()))?;
    set::sync_directory(to)
}

/// Copies a segment; where the disk cannot read, zeroes take the place.
fn copy(from: &Path, to: &Path, name: &str) -> Result<(), String> {
    let (from, to) = (from.join(name), to.join(name));
    let cannot =
        |error: io::Error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    let source = File::open(&from).map_err(cannot)?;
    let target =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).map_err(cannot)?;
    match io::copy(&mut &source, &mut &target) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EIO) => {
            copy_in_blocks(&source, &target).map_err(cannot)?;
        }
        Err(error) => return Err(cannot(error)),
    }
    target.sync_all().map_err(cannot)
}

fn copy_in_blocks(source: &File, target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut block = [0; COPY_BYTES];
    for offset in (0..size).step_by(COPY_BYTES) {
        let length = COPY_BYTES.min((size - offset) as usize);
        match source.read_exact_at(&mut block[..length], offset) {
            Ok(()) => target.write_all_at(&block[..length], offset)?,
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Cuts a segment behind its first bytes, so that zeroes follow them in their block.
fn cut_behind(path: &Path, length: u64) -> Result<(), String> {
    let cut = OpenOptions::new().write(true).open(path).and_then(|file| {
        file.set_len(length)?;
        file.set_len(length.next_multiple_of(BLOCK))?;
        file.sync_all()
    });
    cut.map_err(|error| format!("cannot cut {}: {error}", path.display()))
}
