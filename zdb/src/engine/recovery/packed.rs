//! Starting over what the cleaner left: packed segments, the files that they stand for, and unfinished ones.

use super::{Ended, LOST_TO_THE_DISK, Recovery, absent, store_pages};
use crate::disk::{FileId, Root};
use crate::engine::chain::{Chain, Link};
use crate::engine::forgotten::Forgotten;
use crate::engine::log::format::{
    self, BLOCK, ID_RECORD_BYTES_MIN, Kind, PackedHeader, RECORD_HEAD_BYTES, SEGMENT_HEADER_BYTES,
    Verified,
};
use crate::engine::log::packed::{self, Found, Packed, Trailer};
use crate::engine::log::segments::Segment;
use crate::engine::log::sidecar::{PageBuilder, PageEnd};
use crate::engine::packed_walk::{self, PackedItem, PackedWalk};
use crate::engine::scanner::Scanner;
use crate::limits::KEY_BYTES_MAX;

impl Recovery<'_> {
    /// Removes packed segments that were not finished: nothing depends on them yet. What cannot be removed,
    /// on a read-only disk, is only in the way.
    pub(super) fn remove_unfinished(&self, names: &[String]) {
        for name in names.iter().filter(|name| format::unfinished_base(name).is_some()) {
            let _ = self.files.remove(Root::Data, name);
        }
    }

    /// Removes the segments that a packed one stands for, and their sidecars, of which some may have been
    /// left alone.
    pub(super) fn remove_left_over(&self, chain: &Chain) -> Result<(), String> {
        for base in &chain.left_over {
            let _ = self.files.remove(Root::Data, &format::segment_name(*base));
        }
        let packed = |link: &&Link| link.damage.is_none() && link.header.packed.is_some();
        let headers = chain.links.iter().filter(packed).map(|link| link.header);
        let ranges: Vec<(u64, u64)> =
            headers.map(|one| (one.base, one.base.saturating_add(one.capacity))).collect();
        if ranges.is_empty() {
            return Ok(());
        }
        let names = self
            .files
            .list(Root::Index)
            .map_err(|error| format!("cannot list the index directory: {error}"))?;
        let known = |name: &String| format::sidecar_base(name).or_else(|| format::stub_base(name));
        for base in names.iter().filter_map(known) {
            let before = ranges.partition_point(|(from, _)| *from < base);
            if before.checked_sub(1).is_some_and(|at| base < ranges[at].1) {
                self.forget_sidecar(base)?;
            }
        }
        Ok(())
    }

    /// Applies a packed segment from its sidecar and, behind that, from its records.
    pub(super) fn load_packed(&mut self, link: &Link) -> Result<Ended, String> {
        let (packed, trailer) = self.open_packed(link)?;
        let header = packed.header;
        let base = link.header.base;
        self.forgotten = match trailer {
            Some(trailer) => Forgotten::begin(trailer.residues, &mut self.namespaces),
            None => {
                let addresses = link.header.capacity.saturating_sub(SEGMENT_HEADER_BYTES);
                let forgotten = Forgotten::unknown(addresses.saturating_sub(header.record_bytes));
                self.ids_lost_max = self.ids_lost_max.saturating_add(forgotten.ids_lost_max());
                forgotten
            }
        };
        let mut segment = Segment::packed(base, link.header.capacity, link.file, packed);
        // Without the header nobody knows which sidecar belongs to these records.
        let (resume, ended) = match link.damage {
            None => self.apply_sidecar(&mut segment, false),
            Some(_) => (base + SEGMENT_HEADER_BYTES, None),
        };
        if ended.is_none() && link.is_away {
            return Err(absent::refusal(base));
        }
        if ended.is_none() {
            self.scan_packed(&mut segment, link.size, resume)?;
        }
        let forgotten = std::mem::take(&mut self.forgotten);
        forgotten.add_lost(&mut self.ids_of_lost);
        forgotten.end(&mut self.namespaces);
        self.segments.push(segment);
        Ok(Ended { end: header.end, sealed: true, is_open: false })
    }

    /// What has to be in memory of a packed segment, and its trailer if that is whole.
    fn open_packed(&mut self, link: &Link) -> Result<(Packed, Option<Trailer>), String> {
        let (base, Some(header)) = (link.header.base, link.header.packed) else {
            unreachable!("only called for packed segments")
        };
        let name = format::segment_name(base);
        let is_header_lost = link.damage.is_some();
        if !is_header_lost
            && let Some(mut trailer) =
                packed_walk::read_trailer(self.files, (link.file, link.size), self.seed, &header)
        {
            let stops = std::mem::take(&mut trailer.stops);
            return Ok((Packed::new(base, header, stops), Some(trailer)));
        }
        let what = if is_header_lost { "header" } else { "trailer" };
        let offset = if is_header_lost { 0 } else { packed::trailer_range(&header).0 };
        self.report.damage.push(format!(
            "segment {name} at offset {offset}: the {what} of a cleaned segment is damaged: its records are \
             served, but counters of namespaces may be off, and ids of sequential ones are skipped"
        ));
        let packed = Packed::new(base, header, Vec::new());
        let scanner = Scanner::new(self.files, self.buffer, self.seed, base, link.file, link.size);
        let walk = match is_header_lost {
            true => PackedWalk::open_ended(scanner, self.seed, &packed),
            false => PackedWalk::new(scanner, self.seed, &packed, 0),
        };
        let rebuilt = packed_walk::rebuild(walk)?;
        let header = match is_header_lost {
            true => PackedHeader {
                record_bytes: rebuilt.end.0 - SEGMENT_HEADER_BYTES,
                end: rebuilt.end.1,
                ..header
            },
            false => header,
        };
        Ok((Packed::new(base, header, rebuilt.stops), None))
    }

    /// Applies the records from a position on, and makes the missing part of the sidecar.
    fn scan_packed(&mut self, segment: &mut Segment, size: u64, from: u64) -> Result<(), String> {
        let base = segment.base;
        let page_seed = self.segments.page_seed(segment);
        let packed = segment.packed.as_deref().expect("only called for packed segments");
        let scanner = Scanner::new(self.files, self.buffer, self.seed, base, segment.file, size);
        let mut walk = PackedWalk::new(scanner, self.seed, packed, from);
        let mut builder = PageBuilder::new();
        let mut pages = Vec::new();
        while let Some(item) = walk.next_item()? {
            match item {
                PackedItem::Record { position, .. } if position < from => {}
                PackedItem::Record { position, offset, head } => {
                    self.report.scanned += 1;
                    if !matches!(head.kind, Kind::Padding | Kind::Seal | Kind::Batch) {
                        let record = Verified::with_head(head, walk.record(offset, &head));
                        let end = position + head.bytes();
                        let (key, payload) = (record.key(), record.payload());
                        self.take(&mut builder, (position, end), &head, key, payload);
                    }
                }
                PackedItem::Damaged { positions, .. } if positions.1 <= from => {}
                PackedItem::Damaged { start, end, lost, positions } => {
                    self.report_damaged(base, start, end - start);
                    let is_known = lost.is_some();
                    if let Some(lost) = lost {
                        self.step_over(&mut builder, lost.position, &lost.head, &lost.key);
                    }
                    if !is_known {
                        // More than were there, where the residue of a namespace counts them, too.
                        let ids = (end - start) / ID_RECORD_BYTES_MIN;
                        self.lose_ids(&mut builder, positions.1, ids);
                    }
                }
            }
            if builder.is_full() {
                pages.push(builder.finish(page_seed, PageEnd::Open, 0));
            }
        }
        let records_end = base + packed.records_end();
        for one in walk.scanner.unreadable().iter().filter(|one| one.start < records_end) {
            self.report.damage.push(format!(
                "segment {} at offset {}: {} bytes cannot be read ({}): {LOST_TO_THE_DISK}",
                format::segment_name(base),
                one.start - base,
                one.end - one.start,
                one.error
            ));
        }
        pages.push(builder.finish(page_seed, PageEnd::Sealed, packed.header.end));
        store_pages(self.files, segment, pages);
        Ok(())
    }

    /// Reads the record of a position, of so many bytes: its offset in the file, and bytes that begin with it.
    pub(super) fn read_packed_entry(
        &self,
        file: FileId,
        packed: &Packed,
        position: u64,
        bytes: u64,
    ) -> (u64, Vec<u8>) {
        let Some((offset, _)) = packed.offset_before(position) else { return (0, Vec::new()) };
        // It begins in the block of that one, and before it begin only others that do.
        let heads = BLOCK + (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;
        let mut found = self.read_bytes(file, offset, bytes + heads);
        let remaining = packed.records_end() - offset;
        match packed::find(&found, remaining, self.seed, position) {
            Found::At(at) => (offset + at as u64, found.split_off(at)),
            Found::Gone | Found::Damaged | Found::Short(_) => (offset, Vec::new()),
        }
    }
}
