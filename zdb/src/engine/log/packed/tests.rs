//! Packed files in memory: every record is found, what is not there is gone, and damage is noticed.

use super::*;
use crate::engine::index::Place;
use std::collections::BTreeSet;

const BASE: u64 = 7 << 20;
const SEED: u64 = 99;

/// Numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % count.max(1)
    }
}

fn record(position: u64, key_bytes: usize, payload_bytes: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload_bytes).map(|at| (at as u64 ^ position) as u8).collect();
    let head = Head {
        kind: Kind::Set,
        flags: 0,
        key_length: key_bytes as u8,
        payload_length: payload_bytes as u32,
        payload_check: format::payload_check(SEED, &payload),
        sequence: position / ALIGN,
        timestamp: 5,
        namespace: 3,
        previous: Place::NONE,
        replaced: None,
    };
    let mut out = vec![0; head.bytes() as usize];
    format::encode(&mut out, SEED, position, &head, &vec![b'k'; key_bytes], &payload);
    out
}

/// A file, with position, offset and length of each record.
struct Made {
    file: Vec<u8>,
    header: SegmentHeader,
    packed: Packed,
    records: Vec<(u64, u64, u64)>,
}

fn made(seed: u64, residues: &[Residue]) -> Made {
    let mut random = Random(seed);
    let mut builder = Builder::new(BASE);
    let mut records = Vec::new();
    let mut position = BASE + SEGMENT_HEADER_BYTES + 8 * random.below(2);
    let mut file = vec![0; SEGMENT_HEADER_BYTES as usize];
    let put = |file: &mut Vec<u8>, (offset, blocks): (u64, AlignedBuffer)| {
        assert_eq!(file.len() as u64, offset, "blocks come in their order");
        file.extend_from_slice(&blocks);
    };
    for _ in 0..random.below(400) {
        let payload = match random.below(20) {
            0 => random.below(40_000),
            1 => 4096 - 44,
            2 => 0,
            _ => random.below(600),
        };
        let bytes = record(position, random.below(256) as usize, payload as usize);
        records.push((position, builder.file_bytes(), bytes.len() as u64));
        builder.push(position, &bytes);
        position +=
            bytes.len() as u64 + if random.below(2) == 0 { 0 } else { 8 * random.below(999) };
        if builder.pending_bytes() > 50_000 {
            put(&mut file, builder.take());
        }
    }
    let cover = Cover {
        log: LogId([4; 16]),
        seed: SEED,
        capacity: (position - BASE).next_multiple_of(BLOCK),
        previous_end: 4096,
        created: 1,
        count: 1,
        end: position,
        judged_until: position + 800,
        rests_on: position + 1600,
        is_undecided: seed.is_multiple_of(2),
    };
    let finished = builder.finish(cover, residues);
    put(&mut file, finished.rest);
    assert_eq!(file.len() as u64, finished.file_bytes);
    file[..BLOCK as usize].copy_from_slice(&finished.header);
    let header = SegmentHeader::decode(&file).expect("a header");
    Made { file, header, packed: finished.packed, records }
}

/// Looks a position up as a reader does: with few bytes first, and then with as many as it takes.
fn look(made: &Made, position: u64, first_bytes: usize) -> Found {
    let Some((offset, is_exact)) = made.packed.offset_before(position) else { return Found::Gone };
    let remaining = made.packed.records_end() - offset;
    let rest = &made.file[offset as usize..made.packed.records_end() as usize];
    let mut bytes = first_bytes.min(rest.len());
    loop {
        match find(&rest[..bytes], remaining, SEED, position) {
            Found::Short(needed) => {
                assert!(needed > bytes && needed <= rest.len(), "{needed} bytes of {bytes}");
                bytes = needed;
            }
            Found::At(at) => {
                assert!(!is_exact || at == 0);
                return Found::At(offset as usize + at);
            }
            found => return found,
        }
    }
}

#[test]
fn every_record_is_found_and_nothing_else() {
    for seed in 0..10 {
        let made = made(seed, &[]);
        let positions: BTreeSet<u64> =
            made.records.iter().map(|(position, ..)| *position).collect();
        for first_bytes in [0, 100, 4096, 50_000] {
            for (position, offset, bytes) in &made.records {
                assert_eq!(look(&made, *position, first_bytes), Found::At(*offset as usize));
                for other in [position - 8, position + 8, position + bytes] {
                    let is_there = positions.contains(&other);
                    assert!(is_there || look(&made, other, first_bytes) == Found::Gone, "{other}");
                }
            }
            for other in [0, BASE, made.packed.header.end, u64::MAX / 2] {
                assert_eq!(look(&made, other, first_bytes), Found::Gone);
            }
        }
    }
}

#[test]
fn stops_are_the_first_records_of_their_blocks() {
    for seed in 0..10 {
        let made = made(seed, &[]);
        let (offset, length) = trailer_range(&made.packed.header);
        let trailer = &made.file[offset as usize..][..length];
        let header = made.header.packed.expect("packed");
        assert_eq!(header, made.packed.header);
        let stops = decode_trailer(trailer, SEED, &header).expect("a trailer").stops;
        assert_eq!(stops, made.packed.stops());
        let mut last_block = 0;
        let mut expected = Vec::new();
        for (position, offset, _) in &made.records {
            if offset / BLOCK > last_block {
                last_block = offset / BLOCK;
                expected.push((*offset, *position));
            }
        }
        let found: Vec<_> = stops.iter().map(|stop| (stop.offset(), stop.position(BASE))).collect();
        assert_eq!(found, expected);
        for (at, (offset, _)) in expected.iter().enumerate() {
            assert_eq!(made.packed.stop_behind(*offset), expected.get(at + 1).copied());
            assert_eq!(made.packed.stop_behind(*offset - 1), Some(expected[at]));
        }
        for (position, ..) in &made.records {
            let behind = made.packed.offset_behind(*position);
            let before = made.records.iter().filter(|(other, ..)| other < position);
            assert!(before.clone().all(|(_, offset, _)| *offset < behind));
        }
    }
}

#[test]
fn a_damaged_payload_is_found_and_a_damaged_head_is_told() {
    let mut made = made(3, &[]);
    let at = made.records.iter().position(|(_, _, bytes)| *bytes > 500).expect("a long one") + 1;
    let (position, offset, bytes) = made.records[at];
    made.file[(offset + bytes) as usize - 9] ^= 1;
    assert_eq!(
        look(&made, position, 100),
        Found::At(offset as usize),
        "the payload is not looked at"
    );
    // Two records of one block, the first of which is no stop.
    let mut pairs = made.records.windows(2).enumerate().skip(1);
    let is_inside = |at: usize, pair: &[(u64, u64, u64)]| {
        made.records[at - 1].1 / BLOCK == pair[1].1 / BLOCK && pair[1].0 > pair[0].0 + pair[0].2
    };
    let (_, pair) = pairs.find(|(at, pair)| is_inside(*at, pair)).expect("three in a block");
    let [(first, offset, bytes), (second, other, _)] = pair else { unreachable!("two") };
    for within in 0..RECORD_HEAD_BYTES {
        let byte = *offset as usize + within;
        made.file[byte] ^= 0x20;
        let found = look(&made, *first, 4096);
        assert!(found == Found::Damaged || found == Found::Gone, "{found:?} at {within}");
        assert_eq!(found, Found::Damaged, "{within}");
        assert_eq!(look(&made, *first + bytes, 4096), Found::Damaged, "it may be there or not");
        assert_eq!(look(&made, *second, 4096), Found::At(*other as usize), "behind it");
        made.file[byte] ^= 0x20;
    }
}

fn residue(random: &mut Random) -> Residue {
    let mut residue = Residue::new(6);
    for _ in 0..random.below(5) {
        residue.use_id(random.below(100));
    }
    residue.keys_added = random.below(100);
    residue.keys_removed = random.below(100);
    residue.bytes_added = random.below(100);
    residue.bytes_removed = random.below(100);
    residue.key_bytes_added = random.below(100);
    residue.key_bytes_removed = random.below(100);
    residue.inserts = random.below(100);
    residue.is_used = random.below(2) == 0;
    residue
}

fn both(first: Residue, later: &Residue) -> Residue {
    let mut both = first;
    both.follow(later);
    both
}

#[test]
fn residues_that_follow_each_other_are_one() {
    let mut random = Random(5);
    for _ in 0..1000 {
        let [a, b, c] = [0; 3].map(|_| residue(&mut random));
        assert_eq!(both(both(a, &b), &c), both(a, &both(b, &c)));
        assert_eq!(both(Residue::new(6), &a), a);
        assert_eq!(both(a, &Residue::new(6)), a);
    }
}

/// The next id behind a segment is the same whether its records are there or not.
#[test]
fn ids_are_used_up_as_by_the_records() {
    let mut random = Random(6);
    for _ in 0..1000 {
        let start = random.below(50);
        let mut parts = [Residue::new(6); 3];
        let mut next = start;
        for part in &mut parts {
            for _ in 0..random.below(6) {
                let most = next + random.below(3);
                let id = random.below(most + 1);
                part.use_id(id);
                next = next.max(id) + 1;
            }
        }
        let all = both(both(parts[0], &parts[1]), &parts[2]);
        assert_eq!((start + all.ids).max(all.ids_floor), next);
    }
}

#[test]
fn residues_come_back_as_they_went_in() {
    let mut random = Random(8);
    let residues: Vec<Residue> =
        (0..7).map(|number| Residue { namespace: number * 1000, ..residue(&mut random) }).collect();
    let made = made(9, &residues);
    let (offset, length) = trailer_range(&made.packed.header);
    let trailer = &made.file[offset as usize..][..length];
    let read = decode_trailer(trailer, SEED, &made.packed.header).expect("a trailer");
    assert_eq!(read.residues, residues);
    for at in 0..length {
        let mut damaged = trailer.to_vec();
        damaged[at] ^= 0x10;
        assert!(decode_trailer(&damaged, SEED, &made.packed.header).is_none(), "byte {at}");
    }
    let other =
        PackedHeader { judged_until: made.packed.header.judged_until + 8, ..made.packed.header };
    assert!(decode_trailer(trailer, SEED, &other).is_none(), "the trailer of an earlier cleaning");
    assert!(decode_trailer(&trailer[..length - 1], SEED, &made.packed.header).is_none());
}

#[test]
fn any_flipped_byte_of_a_header_is_noticed() {
    let made = made(1, &[]);
    assert!(made.header.packed.is_some_and(|packed| packed.record_bytes > 0));
    for at in 0..128 {
        for bit in 0..8 {
            let mut damaged = made.file[..BLOCK as usize].to_vec();
            damaged[at] ^= 1 << bit;
            assert!(SegmentHeader::decode(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
}

/// A record that is forgotten counts as its head says.
#[test]
fn forgotten_records_are_counted() {
    let head = |kind, replaced| Head {
        kind,
        flags: 0,
        key_length: 10,
        payload_length: if kind == Kind::Set { 100 } else { 0 },
        payload_check: 0,
        sequence: 1,
        timestamp: 0,
        namespace: 6,
        previous: Place::NONE,
        replaced,
    };
    let mut residue = Residue::new(6);
    residue.forget(&head(Kind::Delete, None));
    assert_eq!(residue, Residue::new(6), "a delete of nothing did nothing");
    residue.forget(&head(Kind::Set, None));
    residue.forget(&head(Kind::Set, Some(30)));
    residue.forget(&head(Kind::Delete, Some(100)));
    let expected = Residue {
        keys_added: 1,
        keys_removed: 1,
        bytes_added: 200,
        bytes_removed: 130,
        key_bytes_added: 10,
        key_bytes_removed: 10,
        inserts: 1,
        is_used: true,
        ..Residue::new(6)
    };
    assert_eq!(residue, expected);
}
