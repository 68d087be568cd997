//! A backup set on the disk: a directory with the identity and the segments of a log, as in a data directory, and
//! with `backup`, which says how far it is. Bytes behind that are of a backup that was interrupted, and are
//! dropped by the next one.

use crate::engine::identity;
use crate::engine::log::copy::CopiedSegment;
use crate::engine::log::format::{
    self, ALIGN, BATCH_HEAD_BYTES, BLOCK, Kind, LogId, RECORD_BYTES_MAX, RECORD_HEAD_BYTES,
    SEGMENT_HEADER_BYTES, SegmentHeader, Verified,
};
pub use crate::engine::recovery::BACKUP_NAME as STATE_NAME;
use crate::engine::sending::Versions;
use crate::engine::terms::Term;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What a set's directory begins with; the time when it began follows, in Unix seconds.
pub const DIRECTORY_PREFIX: &str = "set-";
/// Directory in a set that stands for the index directory that it does not have.
pub const INDEX_NAME: &str = "index";
/// After so many bytes what came is made durable, so that a flush at the end does not take longer than a server
/// waits for a word.
const SYNC_BYTES: u64 = 64 << 20;
/// Runs that are remembered, the newest.
const RUNS_MAX: usize = 1000;

/// A backup that came to its end: it has all that the server had at a time of the server's clock, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub as_of_s: u64,
    pub position: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub log: LogId,
    /// What this backup is called by servers.
    pub node: u32,
    /// The log is here up to this place.
    pub position: u64,
    /// All that the server had then is here; 0: not even at the beginning.
    pub as_of_s: u64,
    pub terms: Vec<Term>,
    pub runs: Vec<Run>,
}

impl State {
    fn text(&self) -> String {
        let mut text = String::from("zdb backup 1\n");
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("writing to a string does not fail");
        };
        line(format_args!("log {}", self.log.to_hex()));
        line(format_args!("node {:08x}", self.node));
        line(format_args!("position {}", self.position));
        line(format_args!("as-of {}", self.as_of_s));
        for Term { number, node, start } in &self.terms {
            line(format_args!("term {number} {node:08x} {start}"));
        }
        for Run { as_of_s, position } in &self.runs {
            line(format_args!("run {as_of_s} {position}"));
        }
        let check = xxh3_64(text.as_bytes());
        writeln!(text, "check {check:016x}").expect("writing to a string does not fail");
        text
    }

    /// None: it is damaged, or of a version that this zdb does not know.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let checked = text.rfind("check ")?;
        let check = text[checked..].strip_prefix("check ")?.trim_end();
        if u64::from_str_radix(check, 16).ok()? != xxh3_64(&bytes[..checked]) {
            return None;
        }
        let mut lines = text[..checked].lines();
        if lines.next()? != "zdb backup 1" {
            return None;
        }
        let hex = |word: &str| u32::from_str_radix(word, 16).ok();
        let mut state = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["log", id] => state.log = LogId::from_hex(id)?,
                ["node", node] => state.node = hex(node)?,
                ["position", position] => state.position = position.parse().ok()?,
                ["as-of", time] => state.as_of_s = time.parse().ok()?,
                ["term", number, node, start] => state.terms.push(Term {
                    number: number.parse().ok()?,
                    node: hex(node)?,
                    start: start.parse().ok()?,
                }),
                ["run", as_of_s, position] => state
                    .runs
                    .push(Run { as_of_s: as_of_s.parse().ok()?, position: position.parse().ok()? }),
                _ => return None,
            }
        }
        Some(state)
    }
}

/// Why the log does not go on in a set.
pub enum Trouble {
    /// What came is not what belongs at this position.
    Wrong(u64, String),
    Failed(String),
}

/// A file that grows.
struct Growing {
    name: String,
    base: u64,
    file: File,
}

pub struct BackupSet {
    pub directory: PathBuf,
    pub state: State,
    seed: u64,
    /// Where what is written here ends. `state` follows when it is durable.
    written: u64,
    segment: Option<Growing>,
    /// The beginning of a record of which the rest did not come yet.
    partial: Vec<u8>,
    /// A packed segment that comes as a file: bytes it has and that came, and their checksum so far.
    packed: Option<(Growing, u64, u64, u64)>,
    unsynced_bytes: u64,
    /// Damage that the server has, too: it came the same way twice.
    pub known_damage: Option<u64>,
    /// What was told of damage, to be shown.
    pub damage: Vec<String>,
    pub segments_new: u64,
    pub bytes_new: u64,
    pub records_new: u64,
}

/// All sets in a directory, the oldest first.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: io::Error| format!("cannot list {}: {error}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(DIRECTORY_PREFIX).and_then(|rest| rest.parse::<u64>().ok());
        found.extend(number.map(|number| (number, directory.join(name))));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

pub fn read_state(directory: &Path) -> Result<State, String> {
    let path = directory.join(STATE_NAME);
    let bytes =
        fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    State::parse(&bytes).ok_or_else(|| {
        format!(
            "{} is damaged, or of a newer zdb: nothing can be added to this set; zdb backup --full begins another",
            path.display()
        )
    })
}

impl BackupSet {
    /// Begins a set in a directory of sets.
    pub fn create(
        parent: &Path,
        now_s: u64,
        state: State,
        secret: [u8; 16],
    ) -> Result<Self, String> {
        let newest = list(parent)?.last().and_then(|path| number_of(path)).unwrap_or(0);
        let number = now_s.max(newest + 1);
        let directory = parent.join(format!("{DIRECTORY_PREFIX}{number}"));
        let cannot = |error: io::Error| format!("cannot make {}: {error}", directory.display());
        for path in [&directory, &directory.join(INDEX_NAME)] {
            DirBuilder::new().mode(0o700).create(path).map_err(cannot)?;
        }
        write_small(&directory, identity::IDENTITY_NAME, &identity::text(state.log, secret))?;
        let mut set = Self::new(directory, state);
        set.save(None)?;
        sync_directory(parent)?;
        Ok(set)
    }

    /// Opens a set to go on with it.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let state = read_state(directory)?;
        let mut set = Self::new(directory.to_owned(), state);
        set.drop_unfinished()?;
        Ok(set)
    }

    fn new(directory: PathBuf, state: State) -> Self {
        Self {
            directory,
            seed: state.log.seed(),
            written: state.position,
            state,
            segment: None,
            partial: Vec::new(),
            packed: None,
            unsynced_bytes: 0,
            known_damage: None,
            damage: Vec::new(),
            segments_new: 0,
            bytes_new: 0,
            records_new: 0,
        }
    }

    pub fn secret(&self) -> Result<[u8; 16], String> {
        let path = self.directory.join(identity::IDENTITY_NAME);
        let bytes =
            fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        identity::parse(&bytes).map(|(_, secret)| secret).ok_or_else(|| {
            format!("{} is damaged: zdb backup --full begins another set", path.display())
        })
    }

    /// Up to where the log is here.
    pub fn position(&self) -> u64 {
        self.written
    }

    /// Whether it is in the middle of something.
    pub fn is_within(&self) -> bool {
        !self.partial.is_empty() || self.packed.is_some()
    }

    /// What a backup left that did not come to its end.
    fn drop_unfinished(&mut self) -> Result<(), String> {
        let position = self.state.position;
        let mut last = None;
        for name in names(&self.directory)? {
            let base = match (format::segment_base(&name), format::unfinished_base(&name)) {
                (Some(base), _) if base < position => {
                    last = last.max(Some(base));
                    continue;
                }
                (Some(_), _) | (_, Some(_)) => name,
                _ => continue,
            };
            let path = self.directory.join(base);
            fs::remove_file(&path)
                .map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
        }
        let Some(base) = last else {
            return match position {
                0 => Ok(()),
                _ => Err(format!(
                    "the segments of {} are gone: zdb backup --full begins another set",
                    self.directory.display()
                )),
            };
        };
        let name = format::segment_name(base);
        let path = self.directory.join(&name);
        let cannot = |error: io::Error| format!("cannot open {}: {error}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(cannot)?;
        let mut block = vec![0; BLOCK as usize];
        let size = file.metadata().map_err(cannot)?.len();
        file.read_exact_at(&mut block[..size.min(BLOCK) as usize], 0).map_err(cannot)?;
        let header = SegmentHeader::decode(&block).ok();
        if header.is_some_and(|header| header.packed.is_some()) {
            return Ok(());
        }
        let length = position - base;
        if size < length {
            return Err(format!(
                "{} is shorter than it was: zdb backup --full begins another set",
                path.display()
            ));
        }
        file.set_len(length).map_err(cannot)?;
        self.segment = Some(Growing { name, base, file });
        Ok(())
    }

    /// A further set with what this one has up to a position, where the server's log goes on in another way. Its
    /// segments are shared as far as they are the same. None: that cannot be, since the cleaner judged what is
    /// before by what is behind.
    pub fn cut(&self, parent: &Path, now_s: u64, position: u64) -> Result<Option<Self>, String> {
        let mut bases = format::segment_bases(&names(&self.directory)?);
        let path_of = |base: u64| self.directory.join(format::segment_name(base));
        let behind =
            bases.split_off(bases.partition_point(|base| base + SEGMENT_HEADER_BYTES < position));
        let Some(last) = bases.pop() else { return Ok(None) };
        for base in bases.iter().chain([&last]) {
            let header = read_header(&path_of(*base)).ok();
            let packed = header.and_then(|header| header.packed);
            if packed.is_some_and(|packed| packed.rests_on_min() > position) {
                return Ok(None);
            }
        }
        // The position may be behind the end of the last segment that stays.
        let position = match behind.first() {
            None => position,
            Some(next) => position.min(self.end_before(last, *next)?),
        };
        let terms = self.state.terms.iter().filter(|term| term.start < position).copied();
        let state = State {
            position: 0,
            terms: terms.collect(),
            runs: self.state.runs.iter().filter(|run| run.position <= position).copied().collect(),
            as_of_s: 0,
            ..self.state.clone()
        };
        let mut set = Self::create(parent, now_s, state, self.secret()?)?;
        let cannot =
            |what: &Path, error: io::Error| format!("cannot copy {}: {error}", what.display());
        for base in bases {
            let name = format::segment_name(base);
            let (from, to) = (self.directory.join(&name), set.directory.join(&name));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(|error| cannot(&from, error))?;
            }
        }
        let (from, to) = (path_of(last), set.directory.join(format::segment_name(last)));
        fs::copy(&from, &to).map_err(|error| cannot(&from, error))?;
        let file = OpenOptions::new().write(true).open(&to);
        file.and_then(|file| file.sync_all()).map_err(|error| cannot(&to, error))?;
        sync_directory(&set.directory)?;
        set.state.position = position;
        set.written = position;
        set.save(None)?;
        Self::open(&set.directory).map(Some)
    }

    /// Which versions of its segments the set has, up to where it counts. An error: one is missing.
    pub fn versions(&self) -> Result<Versions, String> {
        let mut bases = format::segment_bases(&names(&self.directory)?);
        bases.retain(|base| *base < self.state.position);
        let mut headers = Vec::new();
        let mut follows = Some(0);
        for base in bases {
            // One whose header is damaged is another version to every server.
            let header = read_header(&self.directory.join(format::segment_name(base))).ok();
            if let Some(missing) = follows.filter(|follows| *follows < base) {
                return Err(self.line_of_missing(missing));
            }
            follows = header.map(|header| base.saturating_add(header.capacity));
            headers.push((base, header.and_then(|header| header.packed)));
        }
        if let Some(missing) = follows.filter(|follows| *follows < self.state.position) {
            return Err(self.line_of_missing(missing));
        }
        Ok(Versions::of(headers.into_iter()))
    }

    fn line_of_missing(&self, base: u64) -> String {
        format!(
            "segment {} of {} is missing: zdb backup --full begins another set",
            format::segment_name(base),
            self.directory.display()
        )
    }

    /// Where the records of a segment end that another one follows.
    fn end_before(&self, base: u64, next: u64) -> Result<u64, String> {
        let path = self.directory.join(format::segment_name(base));
        if let Some(packed) = read_header(&path)?.packed {
            return Ok(packed.end);
        }
        match read_header(&self.directory.join(format::segment_name(next)))?.previous_end {
            // A seal reaches to the end of the file.
            0 => {
                let size = fs::metadata(&path).map(|metadata| metadata.len());
                size.map(|size| base + size)
                    .map_err(|error| format!("cannot read {}: {error}", path.display()))
            }
            end => Ok(end),
        }
    }

    // ---------------------------------------------------------------- what comes

    pub fn segment(&mut self, next: CopiedSegment) -> Result<(), Trouble> {
        self.end_segment()?;
        let name = format::segment_name(next.base);
        let path = self.directory.join(&name);
        let header = SegmentHeader {
            log: self.state.log,
            base: next.base,
            capacity: next.capacity,
            previous_end: next.previous_end,
            created: next.created_s,
            packed: None,
        };
        let file = new_file(&path).and_then(|file| {
            file.write_all_at(&header.encode(), 0)?;
            Ok(file)
        });
        let file = file.map_err(|error| failed(&path, &error))?;
        self.segment = Some(Growing { name, base: next.base, file });
        self.written = next.base + SEGMENT_HEADER_BYTES;
        self.segments_new += 1;
        self.came(SEGMENT_HEADER_BYTES)
    }

    /// The open segment is whole.
    fn end_segment(&mut self) -> Result<(), Trouble> {
        if !self.partial.is_empty() {
            let at = self.written;
            if self.known_damage != Some(at) {
                let text = format!("the record at position {at} is not whole");
                return Err(Trouble::Wrong(at, text));
            }
            self.tell_damage(at, self.partial.len() as u64);
            self.written += self.partial.len() as u64;
            self.partial.clear();
        }
        self.sync()?;
        self.segment = None;
        Ok(())
    }

    /// Bytes of the log from a position on, which are written as they come.
    pub fn records(&mut self, position: u64, bytes: &[u8]) -> Result<(), Trouble> {
        let end = self.written + self.partial.len() as u64;
        let Some(Growing { name, base, file }) = &self.segment else {
            return Err(Trouble::Wrong(position, "records came before their segment".into()));
        };
        if position != end {
            let text = format!("records of position {position} came where {end} follows");
            return Err(Trouble::Wrong(position, text));
        }
        file.write_all_at(bytes, position - base)
            .map_err(|error| failed(&self.directory.join(name), &error))?;
        self.came(bytes.len() as u64)?;
        if self.partial.is_empty() {
            let taken = self.verify(bytes)?;
            self.partial.extend_from_slice(&bytes[taken..]);
        } else {
            let mut partial = std::mem::take(&mut self.partial);
            partial.extend_from_slice(bytes);
            let taken = self.verify(&partial)?;
            partial.drain(..taken);
            self.partial = partial;
        }
        Ok(())
    }

    /// Looks at the whole records at the start, and says how many bytes these are.
    fn verify(&mut self, bytes: &[u8]) -> Result<usize, Trouble> {
        let mut at = 0;
        while bytes.len() - at >= RECORD_HEAD_BYTES {
            let rest = &bytes[at..];
            let length = match whole_record(rest, self.seed, self.written) {
                Whole::Record(record) => {
                    if record.head.kind == Kind::Term {
                        self.take_term(&record, self.written);
                    }
                    self.records_new += 1;
                    record.head.bytes()
                }
                Whole::Short => break,
                Whole::Damaged => {
                    let start = self.written;
                    if self.known_damage != Some(start) {
                        let text =
                            format!("what came for position {start} is no whole record of it");
                        return Err(Trouble::Wrong(start, text));
                    }
                    match next_whole(rest, self.seed, start) {
                        Some(length) => {
                            self.tell_damage(start, length);
                            self.known_damage = None;
                            length
                        }
                        None if rest.len() as u64 <= 2 * RECORD_BYTES_MAX => break,
                        None => {
                            // A record may begin in the rest.
                            let length = rest.len() as u64 / ALIGN * ALIGN - RECORD_BYTES_MAX;
                            self.tell_damage(start, length);
                            self.known_damage = Some(start + length);
                            length
                        }
                    }
                }
            };
            self.written += length;
            at += length as usize;
        }
        Ok(at)
    }

    fn take_term(&mut self, record: &Verified<'_>, start: u64) {
        let is_next = self.state.terms.last().is_none_or(|last| last.start < start);
        if is_next && let Ok(number) = record.key().try_into().map(u64::from_le_bytes) {
            self.state.terms.push(Term { number, node: record.head.namespace, start });
        }
    }

    fn tell_damage(&mut self, position: u64, bytes: u64) {
        let (name, base) = match &self.segment {
            Some(segment) => (segment.name.as_str(), segment.base),
            None => ("", 0),
        };
        self.damage.push(format!(
            "segment {name} at offset {}: {bytes} bytes are damaged on the server, too; they are kept as they are",
            position - base
        ));
    }

    /// A packed segment begins to come.
    pub fn file(&mut self, base: u64, bytes: u64) -> Result<(), Trouble> {
        self.end_segment()?;
        let name = format::unfinished_name(base);
        let path = self.directory.join(&name);
        let file = new_file(&path).map_err(|error| failed(&path, &error))?;
        self.packed = Some((Growing { name, base, file }, bytes, 0, 0));
        Ok(())
    }

    pub fn file_bytes(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let Some((growing, _, came, check)) = &mut self.packed else {
            return Err(Trouble::Wrong(self.written, "bytes of a file came without one".into()));
        };
        growing
            .file
            .write_all_at(bytes, *came)
            .map_err(|error| failed(&self.directory.join(&growing.name), &error))?;
        *came += bytes.len() as u64;
        *check = xxh3_64_with_seed(bytes, *check);
        self.came(bytes.len() as u64)
    }

    pub fn file_end(&mut self, told: u64) -> Result<(), Trouble> {
        let Some((growing, bytes, came, check)) = self.packed.take() else {
            return Err(Trouble::Wrong(self.written, "the end of a file came without one".into()));
        };
        if came != bytes || check != told {
            return Err(Trouble::Wrong(growing.base, "a file did not come as it was sent".into()));
        }
        let path = self.directory.join(&growing.name);
        growing.file.sync_all().map_err(|error| failed(&path, &error))?;
        self.unsynced_bytes = 0;
        let header = read_header(&path).map_err(Trouble::Failed)?;
        let Some(packed) = header.packed.filter(|_| header.base == growing.base) else {
            return Err(Trouble::Wrong(
                growing.base,
                "a file came that is no packed segment".into(),
            ));
        };
        let name = format::segment_name(growing.base);
        self.look_at_packed(&path, &name, packed.record_bytes)?;
        fs::rename(&path, self.directory.join(&name)).map_err(|error| failed(&path, &error))?;
        self.written = packed.end;
        self.segments_new += 1;
        Ok(())
    }

    /// Looks at the records of a packed segment: each tells its own position.
    fn look_at_packed(&mut self, path: &Path, name: &str, bytes: u64) -> Result<(), Trouble> {
        let explain = |error: io::Error| failed(path, &error);
        let mut file = File::open(path).map_err(explain)?;
        io::copy(&mut (&mut file).take(SEGMENT_HEADER_BYTES), &mut io::sink()).map_err(explain)?;
        let mut rest = file.take(bytes);
        let mut window = Vec::new();
        let mut at = 0;
        let mut offset = SEGMENT_HEADER_BYTES;
        loop {
            if window.len() - at < RECORD_BYTES_MAX as usize {
                window.drain(..at);
                at = 0;
                let wanted = 2 * RECORD_BYTES_MAX - window.len() as u64;
                (&mut rest).take(wanted).read_to_end(&mut window).map_err(explain)?;
            }
            if window.len() == at {
                return Ok(());
            }
            let fields = format::decode_fields(&window[at..]);
            let position = fields.map_or(0, |head| head.sequence * ALIGN);
            let length = match Verified::check(&window[at..], self.seed, position) {
                Some(record) => {
                    if record.head.kind == Kind::Term {
                        self.take_term(&record, position);
                    }
                    self.records_new += 1;
                    record.head.bytes()
                }
                None => {
                    let told = self.damage.last().is_some_and(|line| line.contains(name));
                    if !told {
                        self.damage.push(format!(
                            "segment {name} at offset {offset}: damaged on the server, too; it is kept as it is"
                        ));
                    }
                    ALIGN.min((window.len() - at) as u64)
                }
            };
            at += length as usize;
            offset += length;
        }
    }

    fn came(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.bytes_new += bytes;
        self.unsynced_bytes += bytes;
        match self.unsynced_bytes < SYNC_BYTES {
            true => Ok(()),
            false => self.sync(),
        }
    }

    fn sync(&mut self) -> Result<(), Trouble> {
        let open = self.packed.as_ref().map(|(growing, ..)| growing).or(self.segment.as_ref());
        if let Some(Growing { name, file, .. }) = open {
            let path = self.directory.join(name);
            file.sync_all().map_err(|error| failed(&path, &error))?;
        }
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// Makes what came durable, and says so.
    pub fn save(&mut self, run: Option<Run>) -> Result<(), String> {
        if let Some(Growing { name, base, file }) = &self.segment {
            // Behind the last record of a block follow zeroes, as in a log.
            let path = self.directory.join(name);
            let length = (self.written + self.partial.len() as u64 - base).next_multiple_of(BLOCK);
            let sized = file.set_len(length).and_then(|()| file.sync_all());
            sized.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        sync_directory(&self.directory)?;
        self.unsynced_bytes = 0;
        self.state.position = self.written;
        if let Some(run) = run {
            self.state.as_of_s = run.as_of_s;
            self.state.runs.push(run);
        }
        let surplus = self.state.runs.len().saturating_sub(RUNS_MAX);
        self.state.runs.drain(..surplus);
        write_small(&self.directory, STATE_NAME, &self.state.text())
    }
}

enum Whole<'a> {
    Record(Verified<'a>),
    /// There are too few bytes to tell.
    Short,
    Damaged,
}

fn whole_record(bytes: &[u8], seed: u64, position: u64) -> Whole<'_> {
    let Some(head) = format::decode_fields(bytes) else { return Whole::Damaged };
    if (bytes.len() as u64) < head.bytes() {
        let is_head_there = bytes.len() >= head.payload_offset();
        let is_damaged = is_head_there && format::decode_head(bytes, seed, position).is_none();
        return if is_damaged { Whole::Damaged } else { Whole::Short };
    }
    match Verified::check(bytes, seed, position) {
        Some(record) if record.head.kind != Kind::Batch => Whole::Record(record),
        Some(batch) if are_members_whole(&batch, seed, position) => Whole::Record(batch),
        _ => Whole::Damaged,
    }
}

fn are_members_whole(batch: &Verified<'_>, seed: u64, position: u64) -> bool {
    let (first, bytes) = (position + BATCH_HEAD_BYTES as u64, batch.payload());
    let mut at = 0;
    while at < bytes.len() {
        let Some(member) = Verified::check(&bytes[at..], seed, first + at as u64) else {
            return false;
        };
        at += member.head.bytes() as usize;
    }
    true
}

/// How many bytes before the next whole record are damaged; none: it did not come yet.
fn next_whole(bytes: &[u8], seed: u64, position: u64) -> Option<u64> {
    (ALIGN..bytes.len() as u64)
        .step_by(ALIGN as usize)
        .find(|at| Verified::check(&bytes[*at as usize..], seed, position + at).is_some())
}

fn read_header(path: &Path) -> Result<SegmentHeader, String> {
    let mut block = vec![0; BLOCK as usize];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut block, 0));
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    SegmentHeader::decode(&block).map_err(|line| format!("{}: {line}", path.display()))
}

fn failed(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Failed(format!("cannot write {}: {error}", path.display()))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(DIRECTORY_PREFIX)?.parse().ok()
}

fn names(directory: &Path) -> Result<Vec<String>, String> {
    let cannot = |error: io::Error| format!("cannot list {}: {error}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        names.push(entry.map_err(cannot)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Replaces a small file as a whole; durable when it returns.
pub fn write_small(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = directory.join(name);
    let unfinished = directory.join(format!("{name}.new"));
    let written = new_file(&unfinished).and_then(|file| {
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)
    });
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    sync_directory(directory)
}

pub fn sync_directory(directory: &Path) -> Result<(), String> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| format!("cannot flush {}: {error}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_comes_back_and_no_damaged_one_does() {
        let state = State {
            log: LogId([7; 16]),
            node: 0xfeed,
            position: 1 << 40,
            as_of_s: 1_796_000_001,
            terms: vec![Term { number: 3, node: 9, start: 4096 }],
            runs: vec![Run { as_of_s: 1_796_000_000, position: 8192 }],
        };
        let text = state.text().into_bytes();
        assert_eq!(State::parse(&text), Some(state.clone()));
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert!(State::parse(&damaged).is_none_or(|one| one == state), "byte {at}");
            assert!(State::parse(&text[..at]).is_none_or(|one| one == state), "cut at {at}");
        }
    }
}
