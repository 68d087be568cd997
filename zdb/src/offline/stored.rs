//! The log of a stopped server from its first record to its last, each with what its sidecar says, and
//! what is lost between. Reads only.

mod packed;

use super::witness::Witness;
use crate::disk::Files;
use crate::disk::Root;
use crate::engine::chain::{self, Chain, Link};
use crate::engine::identity;
use crate::engine::log::buffer::WriteBuffer;
use crate::engine::log::format::{
    self, BLOCK, Head, Kind, LogId, PackedHeader, SEGMENT_HEADER_BYTES, Verified,
};
use crate::engine::log::packed::Residue;
use crate::engine::log::segments;
use crate::engine::log::sidecar::{LogEntry, PageEnd};
use crate::engine::recovery;
use crate::engine::scanner::Scanner;
use crate::engine::walk::{Item, Walk};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// Why a walk ends early.
pub enum Stop {
    /// Whoever looks has seen enough.
    Enough,
    Failed(String),
}

impl From<String> for Stop {
    fn from(line: String) -> Self {
        Self::Failed(line)
    }
}

pub type Flow = Result<(), Stop>;

/// A whole record.
pub struct Seen<'a> {
    pub base: u64,
    pub position: u64,
    /// Where it begins in the file.
    pub offset: u64,
    pub record: Verified<'a>,
    pub from_buffer: bool,
    /// What the sidecar says of it; none also where the sidecar does not reach.
    pub entry: Option<LogEntry>,
    /// Whether the sidecar reaches here.
    pub is_covered: bool,
    /// The end of the batch that it is in, or its own.
    pub end: u64,
}

/// Bytes of the log that are no whole record.
pub struct Lost {
    pub base: u64,
    /// Positions: of the record that was there or, where none is known, those that records in these bytes
    /// can have had.
    pub start: u64,
    pub end: u64,
    /// Where the bytes are in the file, and how many.
    pub offset: u64,
    pub bytes: u64,
    pub cause: String,
    /// Head and key of the record that was there, where these are whole.
    pub head: Option<(Head, Vec<u8>)>,
    /// What the sidecar says was there.
    pub entries: Vec<LogEntry>,
    /// Whether the sidecar tells of all records that were there.
    pub is_covered: bool,
    /// Whether whole files are missing, of which parts follow.
    pub is_file: bool,
    /// Whether it is a part of a larger loss that was told already.
    pub is_part: bool,
}

/// What is wrong and costs no record by itself.
pub struct Trouble {
    /// Name of the file.
    pub file: String,
    pub offset: u64,
    /// One word for programs.
    pub what: &'static str,
    pub line: String,
}

/// Who looks at a log. The calls come in the order of the log.
pub trait Visitor {
    fn segment(&mut self, link: &Link) -> Flow;
    /// What the forgotten records of a packed segment did to its namespaces, before its records; none where
    /// that is lost.
    fn residues(&mut self, _: &Link, _: Option<&[Residue]>) -> Flow {
        Ok(())
    }
    fn record(&mut self, seen: &Seen<'_>) -> Flow;
    fn lost(&mut self, lost: Lost) -> Flow;
    fn trouble(&mut self, trouble: Trouble) -> Flow;
    /// Something that a crash leaves and that is no damage.
    fn note(&mut self, line: &str) -> Flow;
    /// So many bytes of the log are done with.
    fn advance(&mut self, bytes: u64);
}

pub struct StoredLog {
    files: Box<dyn Files>,
    buffer: WriteBuffer,
    /// Where a killed server left its write buffer.
    pub buffer_place: Option<PathBuf>,
    pub id: LogId,
    pub secret: Option<[u8; 16]>,
    pub chain: Chain,
    /// Bases of sidecars whose segments are gone.
    orphans: Vec<u64>,
    /// Those of segments that were moved away while a server ran.
    stubs: HashSet<u64>,
    bases: Vec<u64>,
    /// Files that a cleaner left in the middle of its work.
    unfinished: Vec<String>,
}

impl StoredLog {
    pub fn open(files: Box<dyn Files>) -> Result<Self, String> {
        let names = files
            .list(Root::Data)
            .map_err(|error| format!("cannot list the data directory: {error}"))?;
        if let Some(line) = recovery::unfinished(&names) {
            return Err(line);
        }
        let mut bases = format::segment_bases(&names);
        let mut known = identity::read(&*files, &names, &bases)
            .unwrap_or(identity::Identity { id: None, secret: None });
        if known.id.is_none() {
            known.id = identity::from_segments(&*files, &bases);
        }
        let Some(id) = known.id else {
            return Err("the identity file and every segment header are damaged: without the id of the log no \
                        record can be told from other bytes. Restore the file \"identity\" of the data directory \
                        from a backup"
                .into());
        };
        let copy = recovery::errand::read_node(&*files, &names)?.buffer_suffix();
        let buffer_place = recovery::left_buffer(&*files, &names, id, copy);
        let left = match &buffer_place {
            Some(directory) => WriteBuffer::left(directory, id, copy)?,
            None => None,
        };
        let buffer = match left {
            Some(buffer) => buffer,
            None => WriteBuffer::private()?,
        };
        let chain = chain::read(&*files, &buffer, id, &bases, &HashMap::new())?;
        bases.retain(|base| !chain.left_over.contains(base));
        let (orphans, _) = recovery::without_file(&*files)?;
        let stubs = files
            .list(Root::Index)
            .map_err(|error| format!("cannot list the index directory: {error}"))?;
        let stubs = stubs.iter().filter_map(|name| format::stub_base(name)).collect();
        let is_unfinished = |name: &String| format::unfinished_base(name).is_some();
        let unfinished = names.into_iter().filter(is_unfinished).collect();
        let secret = known.secret;
        Ok(Self {
            files,
            buffer,
            buffer_place,
            id,
            secret,
            chain,
            orphans,
            stubs,
            bases,
            unfinished,
        })
    }

    /// Bytes of all segment files.
    pub fn bytes(&self) -> u64 {
        self.chain.links.iter().map(|link| link.size).sum()
    }

    /// The size that segments were made with.
    pub fn segment_bytes(&self) -> Option<u64> {
        let is_raw = |link: &&Link| link.damage.is_none() && link.header.packed.is_none();
        let whole = self.chain.links.iter().filter(is_raw);
        whole.map(|link| link.header.capacity).max()
    }

    fn page_seed(&self, base: u64, packed: Option<&PackedHeader>) -> Option<u64> {
        let secret = self.secret.as_ref()?;
        Some(segments::page_seed(segments::sidecar_seed(self.id, secret), base, packed))
    }

    /// Shows everything to a visitor; of segments that are not wanted, if their sidecars are whole, only
    /// what is about namespaces.
    pub fn visit(&self, is_wanted: &dyn Fn(&Link) -> bool, visitor: &mut dyn Visitor) -> Flow {
        if self.secret.is_none() {
            visitor.trouble(Trouble {
                file: identity::IDENTITY_NAME.into(),
                offset: 0,
                what: "identity",
                line: "missing or damaged: the sidecars cannot be believed; a start makes a new identity and new \
                       sidecars"
                    .into(),
            })?;
        }
        for (base, line) in &self.chain.refused {
            let file = format::segment_name(*base);
            visitor.trouble(Trouble { file, offset: 0, what: "foreign", line: line.clone() })?;
        }
        self.left_over(visitor)?;
        let mut expected = 0;
        for at in 0..self.chain.links.len() {
            let link = &self.chain.links[at];
            let base = link.header.base;
            self.missing(expected, base, true, visitor)?;
            if expected > base {
                visitor.trouble(Trouble {
                    file: format::segment_name(base),
                    offset: 0,
                    what: "chain",
                    line: "its addresses are those of the segment before it, too".into(),
                })?;
            }
            expected = base.saturating_add(link.header.capacity);
            visitor.segment(link)?;
            if let Some(line) = &link.damage {
                let file = format::segment_name(base);
                let line = line.split_once(": ").map_or(line.as_str(), |(_, line)| line).to_owned();
                visitor.trouble(Trouble { file, offset: 0, what: "header", line })?;
            }
            let is_packed = link.header.packed.is_some();
            if is_packed && !is_wanted(link) && self.packed_namespaces_only(link, visitor)? {
                continue;
            } else if is_packed {
                self.packed_segment(link, visitor)?;
            } else if is_wanted(link) || !self.namespaces_only(link, visitor)? {
                self.segment(at, visitor)?;
            }
        }
        self.missing(expected, u64::MAX, false, visitor)
    }

    /// Tells of the segments from one position to another, of which there is no file.
    fn missing(&self, from: u64, to: u64, has_next: bool, visitor: &mut dyn Visitor) -> Flow {
        let is_gap = has_next && from < to;
        let before = self.bases.iter().filter(|base| **base < to).max().copied();
        let orphans: Vec<u64> = self
            .orphans
            .iter()
            .copied()
            .filter(|base| *base < to && before.is_none_or(|before| *base > before))
            .collect();
        if !is_gap && orphans.is_empty() {
            return Ok(());
        }
        let start = orphans.first().copied().unwrap_or(from);
        let start = if is_gap { start.min(from) } else { start };
        let witnesses: Vec<Witness> = orphans
            .iter()
            .map(|base| Witness::read(&*self.files, *base, self.page_seed(*base, None)))
            .collect();
        let stubs = orphans.iter().filter(|base| self.stubs.contains(base)).count();
        let away = match stubs {
            0 => String::new(),
            count => format!(", {count} of them moved away: bring them back to look at them"),
        };
        let is_told = !witnesses.is_empty() && witnesses.iter().all(|one| one.ending().is_some());
        let end = if has_next {
            to
        } else {
            witnesses.iter().filter_map(Witness::end).max().unwrap_or(start)
        };
        visitor.lost(Lost {
            base: start,
            start,
            end: end.max(start),
            offset: 0,
            bytes: end.saturating_sub(start),
            cause: match orphans.len() {
                0 => "files are missing".into(),
                count => format!("files are missing{away}; {count} sidecars tell what was there"),
            },
            head: None,
            entries: Vec::new(),
            is_covered: is_told,
            is_file: true,
            is_part: false,
        })?;
        for (base, mut witness) in orphans.into_iter().zip(witnesses) {
            while let Some(first) = witness.before(u64::MAX) {
                let mut entries = vec![first];
                while entries.len() < 1024
                    && let Some(entry) = witness.before(u64::MAX)
                {
                    entries.push(entry);
                }
                visitor.lost(Lost {
                    base,
                    start: first.position,
                    end: entries[entries.len() - 1].position,
                    offset: first.position - base,
                    bytes: entries[entries.len() - 1].position - first.position,
                    cause: String::new(),
                    head: None,
                    entries,
                    is_covered: true,
                    is_file: false,
                    is_part: true,
                })?;
            }
        }
        Ok(())
    }

    /// Shows the records about namespaces of a segment; false where its sidecar cannot tell them all.
    fn namespaces_only(&self, link: &Link, visitor: &mut dyn Visitor) -> Result<bool, Stop> {
        let base = link.header.base;
        let mut witness = Witness::read(&*self.files, base, self.page_seed(base, None));
        if witness.ending().is_none() || !witness.troubles.is_empty() {
            return Ok(false);
        }
        let mut scanner =
            Scanner::new(&*self.files, &self.buffer, self.id.seed(), base, link.file, link.size);
        while let Some(entry) = witness.before(u64::MAX) {
            if !matches!(entry.kind, Kind::Namespace | Kind::NamespaceEnd) {
                continue;
            }
            let position = entry.position;
            if let Some((head, from_buffer)) = scanner.whole_at(position)? {
                let record =
                    Verified::with_head(head, scanner.record(position, &head, from_buffer));
                let end = position + head.bytes();
                let entry = Some(entry);
                let is_covered = true;
                visitor.record(&Seen {
                    base,
                    position,
                    offset: position - base,
                    record,
                    from_buffer,
                    entry,
                    is_covered,
                    end,
                })?;
            }
        }
        Ok(true)
    }

    fn segment(&self, at: usize, visitor: &mut dyn Visitor) -> Flow {
        let Link { header, file, size, .. } = &self.chain.links[at];
        let base = header.base;
        let is_last = at + 1 == self.chain.links.len();
        let mut witness = Witness::read(&*self.files, base, self.page_seed(base, None));
        let mut ending = self.chain.ending(at);
        if is_last && let Some((PageEnd::Recovered, end)) = witness.ending() {
            // Behind it nothing is ever taken for a record again.
            ending.known_end = Some(end);
        }
        let first = base + SEGMENT_HEADER_BYTES;
        let scanner = Scanner::new(&*self.files, &self.buffer, self.id.seed(), base, *file, *size);
        visitor.advance(SEGMENT_HEADER_BYTES.min(*size));
        let mut walk = match Walk::new(scanner, first, ending) {
            Ok(walk) => walk,
            Err(line) => {
                return self.unreadable(base, (first, base + size), &mut witness, line, visitor);
            }
        };
        let mut from_buffer_count = 0u64;
        loop {
            let start = walk.position();
            let item = match walk.next_item() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(line) => {
                    let end = (base + size).max(start);
                    return self.unreadable(base, (start, end), &mut witness, line, visitor);
                }
            };
            match item {
                Item::Record { position, head, from_buffer, end } => {
                    from_buffer_count += u64::from(from_buffer);
                    report_surplus(base, position, &mut witness, visitor)?;
                    let entry = witness.at(position);
                    let is_covered = witness.covers(position, position + head.bytes());
                    let bytes = walk.record(position, &head, from_buffer);
                    let record = Verified::with_head(head, bytes);
                    visitor.record(&Seen {
                        base,
                        position,
                        offset: position - base,
                        record,
                        from_buffer,
                        entry,
                        is_covered,
                        end,
                    })?;
                }
                Item::Batch { .. } => {}
                Item::Dropped { position, head } => {
                    let end = position + head.bytes();
                    let entries: Vec<LogEntry> = witness.at(position).into_iter().collect();
                    if entries.is_empty() {
                        let name = format::segment_name(base);
                        visitor.note(&format!(
                            "segment {name} at offset {}: a record of a batch that is not whole does not count",
                            position - base
                        ))?;
                    } else {
                        let cause = "its batch is damaged".into();
                        self.lost((base, position, end), cause, None, entries, &witness, visitor)?;
                    }
                }
                Item::Damaged { start, end, lost, is_half_written } => {
                    let cause = cause(&walk.scanner, start, end);
                    report_surplus(base, start, &mut witness, visitor)?;
                    let entries: Vec<LogEntry> =
                        std::iter::from_fn(|| witness.before(end)).collect();
                    if is_half_written && entries.is_empty() {
                        visitor.note(&format!(
                            "segment {} at offset {}: a write that a power cut took in part does not count; it \
                             was never acknowledged as durable",
                            format::segment_name(base),
                            start - base
                        ))?;
                        visitor.advance(walk.position().min(base + size) - start.min(base + size));
                        continue;
                    }
                    self.lost((base, start, end), cause, lost, entries, &witness, visitor)?;
                }
            }
            visitor.advance(walk.position().min(base + size) - start.min(base + size));
        }
        let is_closed = walk.is_sealed() || ending.known_end.is_some();
        self.tail((base, *size, header.capacity), is_last, is_closed, walk, &mut witness, visitor)?;
        visitor.advance(0);
        if from_buffer_count > 0 {
            visitor.note(&format!(
                "segment {}: {from_buffer_count} records are in the write buffer {} only: the next start of the \
                 server writes them to the segment",
                format::segment_name(base),
                self.buffer_place.as_deref().unwrap_or(std::path::Path::new("")).display()
            ))?;
        }
        self.judge_sidecar(base, is_last && !is_closed, &witness, visitor)
    }

    /// What is behind the last record of a segment.
    fn tail(
        &self,
        (base, size, capacity): (u64, u64, u64),
        is_last: bool,
        is_closed: bool,
        mut walk: Walk<'_>,
        witness: &mut Witness,
        visitor: &mut dyn Visitor,
    ) -> Flow {
        let position = walk.position();
        let told = witness.end().filter(|end| *end > position);
        let unreadable = walk.scanner.unreadable().iter().map(|one| one.end).max();
        let unreadable = unreadable.filter(|end| *end > position);
        let end = match (told, unreadable) {
            _ if is_closed => told,
            (Some(end), _) if witness.ending().is_some() || is_last => Some(end),
            _ if !is_last => Some((base + size).max(base + capacity).max(position)),
            (_, unreadable) => unreadable,
        };
        visitor.advance((base + size).saturating_sub(position));
        if let Some(end) = end {
            let cause = match (is_last, unreadable) {
                (_, Some(_)) => cause(&walk.scanner, position, end),
                (true, None) => "the end is missing".into(),
                (false, None) => {
                    "the end is missing: neither a seal nor the next segment tells it".into()
                }
            };
            let entries = std::iter::from_fn(|| witness.before(end)).collect();
            return self.lost((base, position, end), cause, None, entries, witness, visitor);
        }
        if is_closed || !walk.scanner.is_torn(position)? {
            return Ok(());
        }
        if size < capacity && base + size > position + BLOCK {
            // Only a stop in order, or a start, cuts a file, and both cut it behind its last record.
            let cause = "the end is damaged".into();
            let end = base + size;
            return self.lost((base, position, end), cause, None, Vec::new(), witness, visitor);
        }
        visitor.note(&format!(
            "segment {} at offset {}: a torn write at the end of the log, as a crash leaves it; it was never \
             acknowledged as durable",
            format::segment_name(base),
            position - base
        ))?;
        Ok(())
    }

    /// The rest of a segment is out of reach.
    fn unreadable(
        &self,
        base: u64,
        (start, end): (u64, u64),
        witness: &mut Witness,
        line: String,
        visitor: &mut dyn Visitor,
    ) -> Flow {
        let end = end.max(witness.end().unwrap_or(end));
        let entries = std::iter::from_fn(|| witness.before(end)).collect();
        visitor.advance(end - start);
        self.lost((base, start, end), line, None, entries, witness, visitor)
    }

    fn lost(
        &self,
        (base, start, end): (u64, u64, u64),
        mut cause: String,
        head: Option<(Head, Vec<u8>)>,
        entries: Vec<LogEntry>,
        witness: &Witness,
        visitor: &mut dyn Visitor,
    ) -> Flow {
        let is_covered = witness.covers(start, end);
        let is_about_keys = head.as_ref().is_none_or(|(head, _)| {
            !matches!(head.kind, Kind::Padding | Kind::Seal | Kind::Batch | Kind::Term)
        });
        if is_covered && entries.is_empty() && is_about_keys {
            cause.push_str("; the sidecar knows of no record here");
        }
        let (is_file, is_part) = (false, false);
        let (offset, bytes) = (start - base, end - start);
        visitor.lost(Lost {
            base,
            start,
            end,
            offset,
            bytes,
            cause,
            head,
            entries,
            is_covered,
            is_file,
            is_part,
        })
    }

    fn judge_sidecar(
        &self,
        base: u64,
        is_open: bool,
        witness: &Witness,
        visitor: &mut dyn Visitor,
    ) -> Flow {
        if self.secret.is_none() {
            return Ok(());
        }
        let file = format::sidecar_name(base);
        for (offset, line) in &witness.troubles {
            let line = line.clone();
            visitor.trouble(Trouble {
                file: file.clone(),
                offset: *offset,
                what: "sidecar",
                line,
            })?;
        }
        let line = match witness.ending() {
            _ if !witness.troubles.is_empty() || is_open => return Ok(()),
            None if witness.is_missing => "it is missing",
            None => "its last page is missing",
            Some(_) => return Ok(()),
        };
        let offset = 0;
        visitor.trouble(Trouble { file, offset, what: "sidecar", line: line.into() })
    }
}

/// Entries of the sidecar before `position` that met no record.
fn report_surplus(
    base: u64,
    position: u64,
    witness: &mut Witness,
    visitor: &mut dyn Visitor,
) -> Flow {
    while let Some(entry) = witness.before(position) {
        visitor.trouble(Trouble {
            file: format::sidecar_name(base),
            offset: witness.page_of(entry.position),
            what: "sidecar",
            line: format!(
                "an entry of a record at offset {} of the segment, where none is",
                entry.position - base
            ),
        })?;
    }
    Ok(())
}

/// Why bytes are lost.
fn cause(scanner: &Scanner<'_>, start: u64, end: u64) -> String {
    let unreadable = scanner.unreadable().iter().find(|one| one.start < end && start < one.end);
    match unreadable {
        Some(one) => format!("the disk cannot read {} bytes ({})", one.end - one.start, one.error),
        None if start >= scanner.end() => "the file is cut short".into(),
        None => "damaged".into(),
    }
}
