//! One way of one connection: bytes and their end, in order, and when each may leave. Time comes from outside.

use super::{Cut, Flips, Link, WayCounts};
use fastrand::Rng;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A part in the queue costs about so much beside its bytes: many small ones count, too.
const PART_BYTES: usize = 64;
/// A throttled way sends this long's bytes at a time.
const PIECE: Duration = Duration::from_millis(10);
/// A throttled way that was woken late makes up for it, but not for a time when it had nothing to send.
const LATENESS_MAX: Duration = Duration::from_millis(50);

enum Part {
    Bytes { bytes: Vec<u8>, sent: usize },
    End(Cut),
}

/// What may leave now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    Bytes(&'a [u8]),
    End(Cut),
}

pub struct Line {
    link: Link,
    number: u64,
    parts: VecDeque<(Instant, Part)>,
    held_bytes: usize,
    held_bytes_max: usize,
    /// When the rate allows the next byte.
    ready_at: Instant,
    flipper: Option<Flipper>,
    pub counts: WayCounts,
}

impl Line {
    /// `number` tells this line from all others of its proxy.
    pub fn new(link: Link, number: u64, held_bytes_max: usize, now: Instant) -> Line {
        let mut line = Line {
            link: Link::PASS,
            number,
            parts: VecDeque::new(),
            held_bytes: 0,
            held_bytes_max,
            ready_at: now,
            flipper: None,
            counts: WayCounts::default(),
        };
        line.set(link);
        line
    }

    pub fn set(&mut self, link: Link) {
        if link.flips != self.link.flips {
            self.flipper = link.flips.map(|flips| Flipper::new(flips, self.number));
        }
        self.link = link;
    }

    pub fn has_room(&self) -> bool {
        self.held_bytes < self.held_bytes_max
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn push(&mut self, bytes: &[u8], now: Instant) {
        let mut bytes = bytes.to_vec();
        self.counts.received_bytes += bytes.len() as u64;
        if let Some(flipper) = &mut self.flipper {
            self.counts.flipped_bits += flipper.flip(&mut bytes);
        }
        self.held_bytes += bytes.len() + PART_BYTES;
        self.parts.push_back((now, Part::Bytes { bytes, sent: 0 }));
    }

    pub fn push_end(&mut self, cut: Cut, now: Instant) {
        self.parts.push_back((now, Part::End(cut)));
    }

    /// Bytes that nobody will get.
    pub fn lose(&mut self, count: usize) {
        self.counts.received_bytes += count as u64;
        self.counts.lost_bytes += count as u64;
    }

    /// All that is under way is lost.
    pub fn clear(&mut self) {
        for (_, part) in self.parts.drain(..) {
            if let Part::Bytes { bytes, sent } = part {
                self.counts.lost_bytes += (bytes.len() - sent) as u64;
            }
        }
        self.held_bytes = 0;
    }

    /// When the first part may leave, if there is one and time alone keeps it.
    pub fn due_at(&self) -> Option<Instant> {
        let (came_at, _) = self.parts.front()?;
        let due_at = *came_at + self.link.delay;
        match (self.link.is_stalled, self.link.bytes_per_s) {
            (true, _) => None,
            (false, None) => Some(due_at),
            (false, Some(_)) => Some(due_at.max(self.ready_at)),
        }
    }

    pub fn next(&self, now: Instant) -> Option<Next<'_>> {
        if self.due_at()? > now {
            return None;
        }
        Some(match &self.parts.front()?.1 {
            Part::End(cut) => Next::End(*cut),
            Part::Bytes { bytes, sent } => {
                let left = &bytes[*sent..];
                let piece = self.link.bytes_per_s.map_or(usize::MAX, |rate| {
                    (rate.get() as f64 * PIECE.as_secs_f64()).max(1.0) as usize
                });
                Next::Bytes(&left[..left.len().min(piece)])
            }
        })
    }

    /// So many of the bytes that [`Line::next`] showed have left.
    pub fn forwarded(&mut self, count: usize, now: Instant) {
        let Some((_, Part::Bytes { bytes, sent })) = self.parts.front_mut() else {
            panic!("bytes left that were not there");
        };
        *sent += count;
        if *sent == bytes.len() {
            self.held_bytes -= bytes.len() + PART_BYTES;
            self.parts.pop_front();
        }
        self.counts.forwarded_bytes += count as u64;
        if let Some(rate) = self.link.bytes_per_s {
            let from = self.ready_at.max(now.checked_sub(LATENESS_MAX).unwrap_or(now));
            self.ready_at = from + Duration::from_secs_f64(count as f64 / rate.get() as f64);
        } else {
            self.ready_at = now;
        }
    }

    /// The end that [`Line::next`] showed has been told.
    pub fn ended(&mut self) {
        self.parts.pop_front();
    }
}

/// Where the next bit is flipped.
struct Flipper {
    every_bytes: u64,
    random: Rng,
    /// From the next byte to the next flip, and to the end of the bytes in which that is the only one.
    flip_in_bytes: Option<u64>,
    window_bytes: u64,
}

impl Flipper {
    fn new(flips: Flips, number: u64) -> Flipper {
        let random = Rng::with_seed(flips.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let every_bytes = flips.every_bytes.get();
        Flipper { every_bytes, random, flip_in_bytes: None, window_bytes: 0 }
    }

    /// Returns how many bits it flipped. How the bytes are cut into calls makes no difference.
    fn flip(&mut self, bytes: &mut [u8]) -> u64 {
        let mut flipped = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.window_bytes == 0 {
                self.window_bytes = self.every_bytes;
                self.flip_in_bytes = Some(self.random.u64(..self.every_bytes));
            }
            let taken = self.window_bytes.min((bytes.len() - at) as u64);
            match self.flip_in_bytes {
                Some(ahead) if ahead < taken => {
                    bytes[at + ahead as usize] ^= 1 << self.random.u8(..8);
                    self.flip_in_bytes = None;
                    flipped += 1;
                }
                Some(ahead) => self.flip_in_bytes = Some(ahead - taken),
                None => {}
            }
            self.window_bytes -= taken;
            at += taken as usize;
        }
        flipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    const MS: Duration = Duration::from_millis(1);

    fn line(link: Link, now: Instant) -> Line {
        Line::new(link, 0, 1000, now)
    }

    #[test]
    fn bytes_leave_that_long_after_they_came_however_many_are_under_way() {
        let start = Instant::now();
        let mut line = line(Link::delayed(50 * MS), start);
        for at in 0..5 {
            line.push(&[at], start + u32::from(at) * 10 * MS);
        }
        for at in 0..5 {
            let due_at = start + (50 + u32::from(at) * 10) * MS;
            assert_eq!(line.due_at(), Some(due_at));
            assert_eq!(line.next(due_at - MS), None);
            assert_eq!(line.next(due_at), Some(Next::Bytes(&[at])));
            line.forwarded(1, due_at);
        }
        // What is under way is measured by the delay of the moment, and stays in order.
        line.push(&[7], start);
        line.push_end(Cut::Fin, start);
        line.set(Link::PASS);
        assert_eq!(line.next(start), Some(Next::Bytes(&[7])));
        line.forwarded(1, start);
        assert_eq!(line.next(start), Some(Next::End(Cut::Fin)));
        line.ended();
        assert!(line.is_empty());
    }

    #[test]
    fn a_rate_is_kept_through_late_wakings_and_not_saved_up() {
        let start = Instant::now();
        let mut line = Line::new(Link::throttled(10_000), 0, usize::MAX, start);
        line.push(&[0; 20_000], start);
        let mut now = start;
        let mut sent = 0;
        while sent < 10_000 {
            now = now.max(line.due_at().expect("there is more")) + MS;
            let Some(Next::Bytes(bytes)) = line.next(now) else { panic!("it is due") };
            let count = bytes.len();
            line.forwarded(count, now);
            sent += count;
        }
        let elapsed = now - start;
        assert!((940 * MS..1010 * MS).contains(&elapsed), "{elapsed:?}");
        // After a pause of ten seconds the rate is what it was.
        line.clear();
        now += Duration::from_secs(10);
        line.push(&[0; 20_000], now);
        let paused_at = now;
        for _ in 0..100 {
            now = now.max(line.due_at().expect("there is more"));
            line.forwarded(100, now);
        }
        assert!(now - paused_at > 900 * MS, "{:?}", now - paused_at);
    }

    #[test]
    fn a_stall_holds_bytes_and_end_until_there_is_no_room() {
        let start = Instant::now();
        let mut line = line(Link::STALLED, start);
        line.push(&[1; 500], start);
        assert!(line.has_room());
        line.push(&[2; 500], start);
        assert!(!line.has_room());
        line.push_end(Cut::Reset, start);
        assert_eq!(line.due_at(), None);
        line.clear();
        assert_eq!(line.counts.lost_bytes, 1000);
        assert!(line.has_room() && line.is_empty());
        // Single bytes use up the room as well: their places in the queue count.
        (0..16).for_each(|_| line.push(&[1], start));
        assert!(!line.has_room());
    }

    #[test]
    fn one_bit_is_flipped_in_each_so_many_bytes_however_they_come() {
        let now = Instant::now();
        let flipped = |seed, number, piece| {
            let flips = Flips { every_bytes: NonZeroU64::new(100).expect("not zero"), seed };
            let mut line =
                Line::new(Link { flips: Some(flips), ..Link::PASS }, number, usize::MAX, now);
            let mut bytes = Vec::new();
            for part in [0; 1000].chunks(piece) {
                line.push(part, now);
                let Some(Next::Bytes(left)) = line.next(now) else { panic!("it is due") };
                bytes.extend_from_slice(left);
                let count = left.len();
                line.forwarded(count, now);
            }
            assert_eq!(line.counts.flipped_bits, 10);
            bytes
        };
        let bytes = flipped(1, 0, 1000);
        for window in bytes.chunks(100) {
            let bits: u32 = window.iter().map(|byte| byte.count_ones()).sum();
            assert_eq!(bits, 1);
        }
        assert_eq!(bytes, flipped(1, 0, 7), "the pieces make no difference");
        assert_ne!(bytes, flipped(2, 0, 1000), "another seed");
        assert_ne!(bytes, flipped(1, 1, 1000), "another connection");
    }
}
