//! What a start does before it opens the log of a server that is to follow another one: it begins anew as a
//! copy, or goes back to where its log parted from the other's. Nothing is thrown away: what the log loses is
//! moved to a directory of its own, which `zdb dump` and `zdb repair` read. Each step may be done twice, since
//! a start may be interrupted at any of them.

use super::{StartOptions, absent, identity, left_buffer, open_log};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{FileId, Files, Root};
use crate::engine::log::format::{self, BLOCK, LogId, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::node::{self, Errand, Node, Promise};
use crate::engine::scrub;
use crate::planted::{self, Bug};
use std::io;

/// Bytes that are copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// What this server keeps about itself.
pub fn read_node(files: &dyn Files, names: &[String]) -> Result<Node, String> {
    if !names.iter().any(|name| name == node::FILE_NAME) {
        return Ok(Node::default());
    }
    let bytes = files
        .read_small(Root::Data, node::FILE_NAME)
        .map_err(|error| format!("cannot read the file {:?}: {error}", node::FILE_NAME))?;
    let mut node = Node::parse(&bytes).ok_or_else(|| {
        format!(
            "the file {:?} of the data directory is damaged: it says what this server promised to others. \
             Remove it only if this server follows another one that has all of the data",
            node::FILE_NAME
        )
    })?;
    if planted::is(Bug::BrokenPromise) {
        node.promised = Promise::default();
    }
    Ok(node)
}

/// Does the errand. Returns a line about what was set aside, and what the server keeps from now on.
pub fn run(
    files: &dyn Files,
    mut node: Node,
    options: &StartOptions,
) -> Result<(Node, Option<String>), String> {
    let explain = |error: io::Error| format!("cannot set data aside: {error}");
    let list = || files.list(Root::Data).map_err(explain);
    // What only the write buffer has belongs to what is set aside.
    let names = list()?;
    let mut bases = format::segment_bases(&names);
    let known = identity::read(files, &names, &bases)?.id;
    if let Some(id) = known
        && left_buffer(files, &names, id, node.buffer_suffix()).is_some()
    {
        let (mut engine, _) = open_log(files, options, Node { errand: Errand::None, ..node })?;
        engine.log.discard_buffer();
        engine.close_files(files);
        bases = format::segment_bases(&list()?);
    }
    let line = match node.errand {
        Errand::None => None,
        Errand::Rewind { position, aside_s, kept } => {
            let id = known.ok_or("the log to be rewound has no identity")?;
            let aside = Node::aside(aside_s);
            let away = absent::headers(files, &list()?)?;
            match rewind(files, (&bases, away), position, &aside).map_err(explain)? {
                Rewound::Done => is_aside(files, &aside).then(|| {
                    format!(
                        "what this server wrote from position {position} on and nobody else has is in {aside} of \
                         the data directory (zdb dump --data shows it)"
                    )
                }),
                Rewound::IsPacked => {
                    let secret = identity::read(files, &list()?, &bases)?.secret;
                    let secret = secret.ok_or("the log to be rewound has no secret")?;
                    node.owed = node.owed.max(kept);
                    // Without its packed segments the log would look like one that can go back.
                    node.errand = Errand::Adopt { log: id, secret, aside_s };
                    write_node(files, &node)?;
                    adopt(files, &mut node, (id, secret, &aside), &bases)?
                }
            }
        }
        Errand::Adopt { log, secret, aside_s } => {
            adopt(files, &mut node, (log, secret, &Node::aside(aside_s)), &bases)?
        }
    };
    node.errand = Errand::None;
    write_node(files, &node)?;
    Ok((node, line))
}

pub fn write_node(files: &dyn Files, node: &Node) -> Result<(), String> {
    files
        .write_small(Root::Data, node::FILE_NAME, node.text().as_bytes())
        .map_err(|error| format!("cannot write to the data directory: {error}"))
}

fn adopt(
    files: &dyn Files,
    node: &mut Node,
    (log, secret, aside): (LogId, [u8; 16], &str),
    bases: &[u64],
) -> Result<Option<String>, String> {
    let explain = |error: io::Error| format!("cannot set data aside: {error}");
    keep_identity(files, aside, !bases.is_empty()).map_err(explain)?;
    for base in bases {
        set_aside(files, *base, aside).map_err(explain)?;
    }
    for name in files.list(Root::Index).map_err(explain)? {
        let is_of_segment =
            format::sidecar_base(&name).is_some() || format::stub_base(&name).is_some();
        if is_of_segment || name == scrub::FILE_NAME {
            files.remove(Root::Index, &name).map_err(explain)?;
        }
    }
    files.sync_directory(Root::Index).map_err(explain)?;
    files.sync_directory(Root::Data).map_err(explain)?;
    identity::write(files, log, secret)?;
    node.is_copy = true;
    Ok(is_aside(files, aside).then(|| {
        format!("the log that this server had is in {aside} of the data directory; nothing reads it any more")
    }))
}

/// The directory of what is set aside is one that zdb's other commands can read.
fn keep_identity(files: &dyn Files, aside: &str, is_needed: bool) -> io::Result<()> {
    let kept = format!("{aside}/{}", identity::IDENTITY_NAME);
    if !is_needed || is_aside(files, aside) {
        return Ok(());
    }
    files.make_directory(Root::Data, aside)?;
    match files.read_small(Root::Data, identity::IDENTITY_NAME) {
        Ok(text) => files.write_small(Root::Data, &kept, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether anything was set aside, by this attempt or an earlier one.
fn is_aside(files: &dyn Files, aside: &str) -> bool {
    files.read_small(Root::Data, &format!("{aside}/{}", identity::IDENTITY_NAME)).is_ok()
}

fn set_aside(files: &dyn Files, base: u64, aside: &str) -> io::Result<()> {
    let name = format::segment_name(base);
    files.rename(Root::Data, &name, &format!("{aside}/{name}"))
}

enum Rewound {
    Done,
    /// The position is in a segment in which records have no places of their own.
    IsPacked,
}

/// Of a log that has these segments, beside those that are away.
fn rewind(
    files: &dyn Files,
    (bases, away): (&[u64], Vec<SegmentHeader>),
    position: u64,
    aside: &str,
) -> io::Result<Rewound> {
    if planted::is(Bug::NoCut) {
        return Ok(Rewound::Done);
    }
    if let Some(base) = away.iter().map(|one| one.base).find(|one| is_needed(bases, *one, position))
    {
        return Err(io::Error::other(format!(
            "the log goes back to position {position}, and segment {} is away: bring its file back, and start again",
            format::segment_name(base)
        )));
    }
    // Of a segment that begins here nothing stays but its header.
    let within =
        bases.iter().rposition(|base| base.saturating_add(SEGMENT_HEADER_BYTES) < position);
    // What the cleaner dropped since records that go now had superseded it would be missed.
    let kept = bases[..within.map_or(0, |at| at + 1)].iter().map(|base| read_header(files, *base));
    for header in kept.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().chain(away) {
        if header.packed.is_some_and(|packed| packed.rests_on_min() > position) {
            return Ok(Rewound::IsPacked);
        }
    }
    let first_moved = within.map_or(0, |at| at + 1);
    let mut is_any = first_moved < bases.len();
    let mut cut = None;
    if let Some(base) = within.map(|at| bases[at]) {
        let file = files.open(Root::Data, &format::segment_name(base))?;
        let size = files.size(file)?;
        match position < base + size {
            true => cut = Some((base, file, size)),
            false => files.close(file),
        }
        is_any |= cut.is_some();
    }
    if !is_any {
        // An earlier attempt may have got no further than to move the last of them.
        forget_behind(files, position)?;
        return Ok(Rewound::Done);
    }
    keep_identity(files, aside, true)?;
    if let Some((base, file, size)) = cut {
        // An earlier attempt that got further than this has cut the file already.
        let kept = format!("{aside}/{}", format::segment_name(base));
        match files.open(Root::Data, &kept) {
            Ok(kept) => files.close(kept),
            Err(_) => copy(files, file, size, &kept)?,
        }
    }
    for base in bases[first_moved..].iter().rev() {
        set_aside(files, *base, aside)?;
    }
    forget_behind(files, position)?;
    files.sync_directory(Root::Data)?;
    if let Some((base, file, _)) = cut {
        forget_sidecar(files, base)?;
        files.sync_directory(Root::Index)?;
        cut_behind(files, file, position - base)?;
        files.close(file);
    }
    files.sync_directory(Root::Index)?;
    Ok(Rewound::Done)
}

/// Whether a start cannot do its errand without a segment that has no file, where those with these bases have one.
pub fn needs(node: &Node, bases: &[u64], base: u64) -> bool {
    match node.errand {
        Errand::Rewind { position, .. } => is_needed(bases, base, position),
        Errand::None | Errand::Adopt { .. } => false,
    }
}

/// Whether a segment without a file is to be cut or set aside where a log goes back to a position.
fn is_needed(bases: &[u64], base: u64, position: u64) -> bool {
    let behind = bases.iter().find(|one| **one >= base);
    behind != Some(&base) && behind.is_none_or(|next| *next > position)
}

/// `None`: it is damaged.
fn read_header(files: &dyn Files, base: u64) -> io::Result<Option<SegmentHeader>> {
    let file = files.open(Root::Data, &format::segment_name(base))?;
    let mut block = AlignedBuffer::new(BLOCK as usize);
    let read = files.read_at(file, 0, &mut block);
    files.close(file);
    block.truncate(read?);
    Ok(SegmentHeader::decode(&block).ok())
}

/// Removes what the index directory has of segments that begin at or behind a position: others will have their names.
fn forget_behind(files: &dyn Files, position: u64) -> io::Result<()> {
    for name in files.list(Root::Index)? {
        let base = format::sidecar_base(&name).or_else(|| format::stub_base(&name));
        if base.is_some_and(|base| base.saturating_add(SEGMENT_HEADER_BYTES) >= position) {
            files.remove(Root::Index, &name)?;
        }
    }
    files.sync_directory(Root::Index)
}

fn forget_sidecar(files: &dyn Files, base: u64) -> io::Result<()> {
    for name in [format::stub_name(base), format::sidecar_name(base)] {
        match files.remove(Root::Index, &name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn copy(files: &dyn Files, from: FileId, size: u64, name: &str) -> io::Result<()> {
    let unfinished = format!("{name}.new");
    let (to, _) = files.create(Root::Data, &unfinished, size, size)?;
    let mut offset = 0;
    while offset < size {
        let mut blocks = AlignedBuffer::new(COPY_BYTES.min(size - offset) as usize);
        files.read_at(from, offset, &mut blocks)?;
        files.write_at(to, offset, &blocks)?;
        offset += blocks.len() as u64;
    }
    files.sync(to)?;
    files.close(to);
    files.rename(Root::Data, &unfinished, name)?;
    files.sync_directory(Root::Data)
}

/// Cuts the file of a segment behind its first `length` bytes, so that zeroes follow them, and makes that
/// durable.
pub fn cut_behind(files: &dyn Files, file: FileId, length: u64) -> io::Result<()> {
    let block = length / BLOCK * BLOCK;
    files.truncate(file, length.next_multiple_of(BLOCK))?;
    if block < length {
        let mut last = AlignedBuffer::new(BLOCK as usize);
        files.read_at(file, block, &mut last)?;
        let kept = (length - block) as usize;
        if last[kept..].iter().any(|byte| *byte != 0) {
            last[kept..].fill(0);
            files.write_at(file, block, &last)?;
        }
    }
    files.sync(file)
}
