//! Packed segments of a stopped server, and what a cleaner that was stopped left beside them.

use super::{Flow, Lost, Seen, Stop, StoredLog, Trouble, Visitor};
use crate::engine::chain::Link;
use crate::engine::log::format::{self, BLOCK, Kind, RECORD_HEAD_BYTES, Verified};
use crate::engine::log::packed::{self, Found, Packed, Stops};
use crate::engine::log::sidecar::LogEntry;
use crate::engine::packed_walk::{self, PackedItem, PackedWalk};
use crate::engine::scanner::Scanner;
use crate::limits::KEY_BYTES_MAX;
use crate::offline::witness::Witness;

impl StoredLog {
    /// Tells of files that count for nothing.
    pub(super) fn left_over(&self, visitor: &mut dyn Visitor) -> Flow {
        for base in &self.chain.left_over {
            let name = format::segment_name(*base);
            visitor.note(&format!(
                "segment {name} was cleaned, and what is left of it is in the segment before it: the next start \
                 of the server removes it"
            ))?;
        }
        for name in &self.unfinished {
            visitor.note(&format!(
                "{name} is a cleaned segment that was not finished: the next start of the server removes it"
            ))?;
        }
        Ok(())
    }

    fn packed_scanner(&self, link: &Link) -> Scanner<'_> {
        let base = link.header.base;
        Scanner::new(&*self.files, &self.buffer, self.id.seed(), base, link.file, link.size)
    }

    /// Its sidecar. Without the header nobody knows which one belongs to these records.
    fn packed_witness(&self, link: &Link) -> Witness {
        let header = link.header;
        let seed = self.page_seed(header.base, header.packed.as_ref());
        Witness::read(&*self.files, header.base, seed.filter(|_| link.damage.is_none()))
    }

    /// Shows the records about namespaces of a packed segment; false where its sidecar and its trailer cannot
    /// tell them all.
    pub(super) fn packed_namespaces_only(
        &self,
        link: &Link,
        visitor: &mut dyn Visitor,
    ) -> Result<bool, Stop> {
        let (base, seed) = (link.header.base, self.id.seed());
        let mut witness = self.packed_witness(link);
        let trailer = link.header.packed.filter(|_| link.damage.is_none()).and_then(|header| {
            let read =
                packed_walk::read_trailer(&*self.files, (link.file, link.size), seed, &header);
            Some((header, read?))
        });
        let Some((header, trailer)) = trailer else { return Ok(false) };
        if witness.ending().is_none() || !witness.troubles.is_empty() {
            return Ok(false);
        }
        let packed = Packed::new(base, header, trailer.stops);
        let mut scanner = self.packed_scanner(link);
        while let Some(entry) = witness.before(u64::MAX) {
            let Some((start, _)) = packed
                .offset_before(entry.position)
                .filter(|_| matches!(entry.kind, Kind::Namespace | Kind::NamespaceEnd))
            else {
                continue;
            };
            let bytes =
                format::record_bytes(entry.key_length.into(), entry.payload_length as usize);
            let heads = BLOCK + (RECORD_HEAD_BYTES + KEY_BYTES_MAX) as u64;
            let bytes = scanner.bytes(base + start, bytes + heads)?;
            let remaining = packed.records_end() - start;
            let Found::At(at) = packed::find(bytes, remaining, seed, entry.position) else {
                continue;
            };
            if let Some(record) = Verified::check(&bytes[at..], seed, entry.position) {
                let position = entry.position;
                visitor.record(&Seen {
                    base,
                    position,
                    offset: start + at as u64,
                    record,
                    from_buffer: false,
                    entry: Some(entry),
                    is_covered: true,
                    end: position + record.head.bytes(),
                })?;
            }
        }
        Ok(true)
    }

    /// Shows all of a packed segment.
    pub(super) fn packed_segment(&self, link: &Link, visitor: &mut dyn Visitor) -> Flow {
        let (base, seed) = (link.header.base, self.id.seed());
        let Some(header) = link.header.packed else { return Ok(()) };
        let is_header_lost = link.damage.is_some();
        let mut trailer =
            packed_walk::read_trailer(&*self.files, (link.file, link.size), seed, &header)
                .filter(|_| !is_header_lost);
        visitor.residues(link, trailer.as_ref().map(|trailer| &trailer.residues[..]))?;
        if trailer.is_none() && !is_header_lost {
            visitor.trouble(Trouble {
                file: format::segment_name(base),
                offset: packed::trailer_range(&header).0,
                what: "trailer",
                line: "the trailer of a cleaned segment is damaged: all records are there, but what those that \
                       were dropped did to counters and ids is not known"
                    .into(),
            })?;
        }
        let stops = trailer.as_mut().map(|trailer| std::mem::take(&mut trailer.stops));
        let packed = Packed::new(base, header, stops.unwrap_or_default());
        let scanner = self.packed_scanner(link);
        let walk = match is_header_lost {
            true => PackedWalk::open_ended(scanner, seed, &packed),
            false => PackedWalk::new(scanner, seed, &packed, 0),
        };
        let mut witness = self.packed_witness(link);
        let stops = self.packed_records(link, walk, &mut witness, visitor)?;
        if trailer.is_some()
            && let Some(stops) = stops
            && stops.finish() != packed.stops()
        {
            visitor.trouble(Trouble {
                file: format::segment_name(base),
                offset: packed::trailer_range(&header).0,
                what: "trailer",
                line: "the stops of a cleaned segment are not those of its records".into(),
            })?;
        }
        visitor.advance(0);
        match is_header_lost {
            true => Ok(()),
            false => self.judge_sidecar(base, false, &witness, visitor),
        }
    }

    /// Shows the records of a packed segment. Returns their stops, where nothing is damaged.
    fn packed_records(
        &self,
        link: &Link,
        mut walk: PackedWalk<'_>,
        witness: &mut Witness,
        visitor: &mut dyn Visitor,
    ) -> Result<Option<Stops>, Stop> {
        let base = link.header.base;
        let mut stops = Some(Stops::new(base));
        let mut done = 0;
        loop {
            let item = match walk.next_item() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(line) => {
                    let file = (walk.offset(), link.size.max(walk.offset()));
                    let log = (walk.least(), base.saturating_add(link.header.capacity));
                    visitor.lost(lost_bytes(base, file, log, line, witness))?;
                    return Ok(None);
                }
            };
            match item {
                PackedItem::Record { position, offset, head } => {
                    packed_surplus(base, position, witness, visitor)?;
                    if let Some(stops) = &mut stops {
                        stops.push(position, offset);
                    }
                    let entry = witness.at(position);
                    let end = position + head.bytes();
                    let is_covered = witness.covers(position, end);
                    let record = Verified::with_head(head, walk.record(offset, &head));
                    let from_buffer = false;
                    visitor.record(&Seen {
                        base,
                        position,
                        offset,
                        record,
                        from_buffer,
                        entry,
                        is_covered,
                        end,
                    })?;
                }
                PackedItem::Damaged { start, end, lost, positions } => {
                    stops = None;
                    let cause = super::cause(&walk.scanner, base + start, base + end);
                    let log = match &lost {
                        Some(lost) => (lost.position, positions.1),
                        None => positions,
                    };
                    packed_surplus(base, log.0, witness, visitor)?;
                    let told = lost_bytes(base, (start, end), log, cause, witness);
                    let head = lost.map(|lost| (lost.head, lost.key));
                    visitor.lost(Lost { head, ..told })?;
                }
            }
            let at = walk.offset().min(link.size);
            visitor.advance(at.saturating_sub(done));
            done = at;
        }
        packed_surplus(base, u64::MAX, witness, visitor)?;
        visitor.advance(link.size.saturating_sub(done));
        Ok(stops)
    }
}

/// Bytes of a file, with the positions that records in them can have had.
fn lost_bytes(
    base: u64,
    file: (u64, u64),
    log: (u64, u64),
    cause: String,
    witness: &mut Witness,
) -> Lost {
    let entries: Vec<LogEntry> = std::iter::from_fn(|| witness.before(log.1)).collect();
    Lost {
        base,
        start: log.0,
        end: log.1,
        offset: file.0,
        bytes: file.1 - file.0,
        cause,
        head: None,
        is_covered: witness.covers(log.0, log.1),
        entries,
        is_file: false,
        is_part: false,
    }
}

/// Entries of the sidecar before `position` that met no record.
fn packed_surplus(
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
                "an entry of a record at position {}, which the segment does not have",
                entry.position
            ),
        })?;
    }
    Ok(())
}
