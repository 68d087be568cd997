//! Segments that have a sidecar and no file: those that are away, of which the stub has all that a start needs, and
//! those that are missing.

use super::errand;
use crate::disk::{FileId, Files, Root};
use crate::engine::chain::{self, Chain};
use crate::engine::identity;
use crate::engine::log::format::{self, LogId, SegmentHeader};
use crate::engine::log::segments;
use crate::engine::log::stub::{self, Stub};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

/// Stand-ins for the files of segments that are away: their bases join the others. Stubs of files that are here are
/// removed: they count for nothing, and might later. Without what a start needs of one it goes no further: what
/// its deletes ended would live again.
pub(super) fn stand_in(
    files: &dyn Files,
    (id, sidecar_seed): (LogId, u64),
    bases: &mut Vec<u64>,
) -> Result<HashMap<u64, FileId>, String> {
    let explain = |error| format!("cannot read the index directory: {error}");
    let names = files.list(Root::Index).map_err(explain)?;
    for base in names.iter().filter_map(|name| format::stub_base(name)) {
        if bases.binary_search(&base).is_ok() {
            let _ = files.remove(Root::Index, &format::stub_name(base));
        }
    }
    let Kept { stubs, lost } = kept(files, (id, sidecar_seed), bases).map_err(explain)?;
    if let Some(base) = lost.first() {
        return Err(refusal(*base));
    }
    let mut stand_ins = HashMap::new();
    for (base, stub) in stubs {
        let file = files.stand_in(stub.file_bytes, &stub.parts).map_err(explain)?;
        stand_ins.insert(base, file);
    }
    bases.extend(stand_ins.keys());
    bases.sort_unstable();
    Ok(stand_ins)
}

/// What is kept of segments that have no file.
#[derive(Default)]
struct Kept {
    /// Those that a start can do with.
    stubs: Vec<(u64, Stub)>,
    /// The bases of those that it cannot do with, and for which no packed segment stands.
    lost: Vec<u64>,
}

fn kept(files: &dyn Files, (id, sidecar_seed): (LogId, u64), bases: &[u64]) -> io::Result<Kept> {
    let Kept { mut stubs, mut lost } = Kept::default();
    for (base, stub) in stub::find(files, id, sidecar_seed, bases)? {
        match stub {
            Some(stub) => stubs.push((base, stub)),
            None => lost.push(base),
        }
    }
    chain::without_packed(files, bases, &mut lost);
    for header in stubs.iter().filter_map(|(_, stub)| stub.header()) {
        if header.packed.is_some() {
            let end = header.base.saturating_add(header.capacity);
            lost.retain(|base| *base < header.base || *base >= end);
        }
    }
    Ok(Kept { stubs, lost })
}

/// What was read of the stand-ins is all that they are for: from now on nothing is read there. The files that are away.
pub(super) fn let_go(
    files: &dyn Files,
    chain: &Chain,
    stand_ins: &HashMap<u64, FileId>,
) -> Result<HashSet<FileId>, String> {
    let explain = |error| format!("cannot open a segment that is away: {error}");
    let away: HashSet<FileId> =
        chain.links.iter().filter(|link| link.is_away).map(|link| link.file).collect();
    for file in stand_ins.values() {
        match away.contains(file) {
            true => files
                .stand_in(0, &[])
                .and_then(|none| files.replace(*file, none))
                .map_err(explain)?,
            // A packed segment has its addresses.
            false => files.close(*file),
        }
    }
    Ok(away)
}

/// The headers of segments that are away, for who opens no log yet.
pub(super) fn headers(files: &dyn Files, names: &[String]) -> Result<Vec<SegmentHeader>, String> {
    let Kept { stubs, lost } = kept_by_names(files, names)?;
    match lost.first() {
        Some(base) => Err(refusal(*base)),
        None => Ok(stubs.iter().filter_map(|(_, stub)| stub.header()).collect()),
    }
}

/// The same by the names in the data directory.
fn kept_by_names(files: &dyn Files, names: &[String]) -> Result<Kept, String> {
    let bases = format::segment_bases(names);
    let known = identity::read(files, names, &bases)?;
    let (Some(id), Some(secret)) = (known.id, known.secret) else { return Ok(Kept::default()) };
    kept(files, (id, segments::sidecar_seed(id, &secret)), &bases)
        .map_err(|error| format!("cannot list the index directory: {error}"))
}

/// Segments that have a sidecar or a stub but no file, and are not only away: their records are out of reach. What a
/// log that is to go back needs of those that are away counts, too.
pub fn missing(files: &dyn Files) -> Result<Vec<u64>, String> {
    let (mut missing, data) = without_file(files)?;
    if !missing.is_empty() {
        let kept = kept_by_names(files, &data)?;
        let away: HashSet<u64> = kept.stubs.iter().map(|(base, _)| *base).collect();
        let node = errand::read_node(files, &data)?;
        let there = format::segment_bases(&data);
        missing.retain(|base| !away.contains(base) || errand::needs(&node, &there, *base));
    }
    Ok(missing)
}

/// Segments that have a sidecar or a stub but no file, wherever that is; and the names in the data directory.
pub fn without_file(files: &dyn Files) -> Result<(Vec<u64>, Vec<String>), String> {
    let list = |root, what| {
        files.list(root).map_err(|error| format!("cannot list the {what} directory: {error}"))
    };
    let (data, index) = (list(Root::Data, "data")?, list(Root::Index, "index")?);
    let there = format::segment_bases(&data);
    let known = |name: &String| format::sidecar_base(name).or_else(|| format::stub_base(name));
    let known: BTreeSet<u64> = index.iter().filter_map(known).collect();
    let mut missing: Vec<u64> =
        known.into_iter().filter(|base| there.binary_search(base).is_err()).collect();
    if !missing.is_empty() {
        chain::without_packed(files, &there, &mut missing);
    }
    Ok((missing, data))
}

/// Why a start cannot do without the file of a segment that is away.
pub(super) fn refusal(base: u64) -> String {
    format!(
        "segment {} is away, and what was kept of it ({} and {} in --index) is damaged: bring its file back, and \
         start again",
        format::segment_name(base),
        format::stub_name(base),
        format::sidecar_name(base)
    )
}
