//! What an import tells: how far it is, what was damaged, what came of it.

use crate::limits::IMPORT_DAMAGE_LINES_MAX;
use crate::server::process;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two states of the line on a terminal, and between two lines elsewhere.
const TERMINAL_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(10);
/// Longest part of a key that is shown, in bytes.
const KEY_SHOWN_BYTES_MAX: usize = 64;

pub struct Report {
    started: Instant,
    shown: Instant,
    is_terminal: bool,
    bytes_total: u64,
    bytes_done: u64,
    pub records: u64,
    damage_lines: usize,
}

impl Report {
    pub fn new(bytes_total: u64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            shown: now,
            is_terminal: std::io::stderr().is_terminal(),
            bytes_total,
            bytes_done: 0,
            records: 0,
            damage_lines: 0,
        }
    }

    /// A line about something that is not whole. All count, the first ones are printed.
    pub fn damage(&mut self, line: &str) {
        self.damage_lines += 1;
        if self.damage_lines <= IMPORT_DAMAGE_LINES_MAX {
            self.clear();
            process::warn(&format!("damage: {line}"));
        }
    }

    pub fn is_damaged(&self) -> bool {
        self.damage_lines > 0
    }

    pub fn say(&mut self, line: &str) {
        self.clear();
        process::say(line);
    }

    /// `bytes` more of the old data files are done with.
    pub fn advance(&mut self, bytes: u64) {
        self.bytes_done += bytes;
        let period = if self.is_terminal { TERMINAL_PERIOD } else { LINE_PERIOD };
        if self.shown.elapsed() < period {
            return;
        }
        self.shown = Instant::now();
        let line = self.state();
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r{line}\x1b[K");
        } else {
            process::say(&line);
        }
    }

    fn state(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let percent = (self.bytes_done * 100).checked_div(self.bytes_total).unwrap_or(100);
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        format!(
            "{percent} % of {:.0} MiB, {} records, {:.1} MiB/s",
            mib(self.bytes_total),
            self.records,
            mib(self.bytes_done) / seconds
        )
    }

    fn clear(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    /// The last line.
    pub fn finish(&mut self) {
        let more = self.damage_lines.saturating_sub(IMPORT_DAMAGE_LINES_MAX);
        if more > 0 {
            self.clear();
            process::warn(&format!("damage: {more} more lines are not shown"));
        }
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = self.records as f64 / seconds;
        let outcome = if self.is_damaged() {
            "import done, but not all was whole: see the lines about damage"
        } else {
            "import done, all is copied"
        };
        let records = self.records;
        self.say(&format!("{outcome}; {records} records in {seconds:.1} s, {rate:.0} a second"));
    }
}

/// A key for people: an id as its number, other bytes escaped.
pub fn shown_key(key: &[u8], sequential: bool) -> String {
    if let (true, Ok(id)) = (sequential, key.try_into().map(u64::from_le_bytes)) {
        return format!("id {id}");
    }
    let cut = &key[..key.len().min(KEY_SHOWN_BYTES_MAX)];
    let dots = if cut.len() < key.len() { "..." } else { "" };
    format!("key \"{}\"{dots}", cut.escape_ascii())
}
