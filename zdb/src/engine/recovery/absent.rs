//! Segments that have a sidecar and no file: those that are away, of which the stub has all that a start needs, and
//! those that are missing.

use crate::disk::{FileId, Files, Root};
use crate::engine::chain::{self, Chain};
use crate::engine::identity;
use crate::engine::log::format::{self, LogId};
use crate::engine::log::{segments, stub};
use std::collections::{HashMap, HashSet};

/// Stand-ins for the files of segments that are away, of which there is all that a start needs: their bases join the
/// others. Stubs of files that are here are removed: they count for nothing, and might later.
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
    let mut stand_ins = HashMap::new();
    for (base, stub) in stub::usable(files, id, sidecar_seed, bases).map_err(explain)? {
        let file = files.stand_in(stub.file_bytes, &stub.parts).map_err(explain)?;
        stand_ins.insert(base, file);
    }
    bases.extend(stand_ins.keys());
    bases.sort_unstable();
    Ok(stand_ins)
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

/// Of segments that have a sidecar but no file, those that a start can do without: they are away.
fn away(files: &dyn Files, names: &[String]) -> Result<HashSet<u64>, String> {
    let mut bases: Vec<u64> = names.iter().filter_map(|name| format::segment_base(name)).collect();
    bases.sort_unstable();
    let known = identity::read(files, names, &bases)?;
    let (Some(id), Some(secret)) = (known.id, known.secret) else { return Ok(HashSet::new()) };
    let stubs = stub::usable(files, id, segments::sidecar_seed(id, &secret), &bases)
        .map_err(|error| format!("cannot list the index directory: {error}"))?;
    Ok(stubs.into_iter().map(|(base, _)| base).collect())
}

/// Segments that have a sidecar but no file, and are not only away: their records are out of reach.
pub fn missing(files: &dyn Files) -> Result<Vec<u64>, String> {
    let (mut missing, data) = without_file(files)?;
    if !missing.is_empty() {
        let away = away(files, &data)?;
        missing.retain(|base| !away.contains(base));
    }
    Ok(missing)
}

/// Segments that have a sidecar but no file, wherever that is; and the names in the data directory.
pub fn without_file(files: &dyn Files) -> Result<(Vec<u64>, Vec<String>), String> {
    let list = |root, what| {
        files.list(root).map_err(|error| format!("cannot list the {what} directory: {error}"))
    };
    let (data, index) = (list(Root::Data, "data")?, list(Root::Index, "index")?);
    let segments: HashSet<u64> =
        data.iter().filter_map(|name| format::segment_base(name)).collect();
    let has_file = |base: &u64| segments.contains(base);
    let bases = index.iter().filter_map(|name| format::sidecar_base(name));
    let mut missing: Vec<u64> = bases.filter(|base| !has_file(base)).collect();
    if !missing.is_empty() {
        let mut there: Vec<u64> = segments.iter().copied().collect();
        there.sort_unstable();
        chain::without_packed(files, &there, &mut missing);
    }
    Ok((missing, data))
}

/// Why a start cannot do without the file of a segment that is away.
pub(super) fn refusal(base: u64) -> String {
    format!(
        "segment {} is away, and its sidecar {} is damaged: bring its file back, and start again",
        format::segment_name(base),
        format::sidecar_name(base)
    )
}
