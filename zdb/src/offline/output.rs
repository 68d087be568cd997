//! What the offline commands print: lines on stdout, JSON with `--json`, and how far they are where stderr
//! is a terminal.

use std::fmt::Write as _;
use std::io::{BufWriter, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two states of the line on a terminal.
const PERIOD: Duration = Duration::from_millis(200);
/// Longest sleep of a command with `--rate`, so that signals and the line on the terminal stay quick.
const SLEEP_MAX: Duration = Duration::from_millis(200);
const MIB: f64 = (1 << 20) as f64;

/// Lines on stdout or elsewhere. A reader that goes away, as head does, is no error.
pub struct Lines {
    out: BufWriter<Box<dyn Write>>,
    closed: bool,
}

impl Lines {
    /// On stdout.
    pub fn new() -> Self {
        Self::to(Box::new(std::io::stdout()))
    }

    pub fn to(out: Box<dyn Write>) -> Self {
        Self { out: BufWriter::with_capacity(64 << 10, out), closed: false }
    }

    pub fn line(&mut self, line: &str) {
        let written = self.out.write_all(line.as_bytes()).and_then(|()| self.out.write_all(b"\n"));
        self.closed |= written.is_err();
    }

    /// What was printed is seen now.
    pub fn flush(&mut self) {
        self.closed |= self.out.flush().is_err();
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// How far a command is, and how fast it may go.
pub struct Progress {
    started: Instant,
    shown: Instant,
    is_terminal: bool,
    bytes_total: u64,
    bytes_done: u64,
    /// Bytes a second; 0: as fast as it goes.
    rate: u64,
}

impl Progress {
    pub fn new(bytes_total: u64, rate: u64) -> Self {
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        Self { started: now, shown: now, is_terminal, bytes_total, bytes_done: 0, rate }
    }

    pub fn advance(&mut self, bytes: u64, records: u64) {
        self.bytes_done += bytes;
        while let Some(wait) = self.ahead() {
            std::thread::sleep(wait.min(SLEEP_MAX));
            self.show(records);
        }
        self.show(records);
    }

    /// How long to wait for the rate.
    fn ahead(&self) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        let due = Duration::from_secs_f64(self.bytes_done as f64 / self.rate as f64);
        due.checked_sub(self.started.elapsed()).filter(|wait| !wait.is_zero())
    }

    fn show(&mut self, records: u64) {
        if !self.is_terminal || self.shown.elapsed() < PERIOD {
            return;
        }
        self.shown = Instant::now();
        let percent = (self.bytes_done * 100).checked_div(self.bytes_total).unwrap_or(100).min(100);
        let _ = write!(
            std::io::stderr().lock(),
            "\r{percent} % of {:.0} MiB, {records} records, {:.1} MiB/s\x1b[K",
            self.bytes_total as f64 / MIB,
            self.bytes_done as f64 / MIB / self.seconds()
        );
    }

    /// Takes the line away, before others are printed.
    pub fn clear(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(0.001)
    }

    pub fn mib_per_s(&self) -> f64 {
        self.bytes_done as f64 / MIB / self.seconds()
    }
}

/// One JSON object on one line.
pub struct Object(String);

impl Object {
    pub fn new(kind: &str) -> Self {
        Self(String::from("{")).text("type", kind)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        quote(&mut self.0, name);
        self.0.push(':');
    }

    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        quote(&mut self.0, value);
        self
    }

    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    /// A number, or null.
    pub fn maybe(mut self, name: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => {
                self.name(name);
                self.0.push_str("null");
                self
            }
        }
    }

    pub fn truth(mut self, name: &str, value: bool) -> Self {
        self.name(name);
        self.0.push_str(if value { "true" } else { "false" });
        self
    }

    pub fn texts(mut self, name: &str, values: &[&str]) -> Self {
        self.name(name);
        self.0.push('[');
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.0.push(',');
            }
            quote(&mut self.0, value);
        }
        self.0.push(']');
        self
    }

    /// Bytes as two hexadecimal digits each under `<name>_hex` and, where they are text, under `<name>` too.
    pub fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        if let Ok(text) = std::str::from_utf8(bytes) {
            self = self.text(name, text);
        }
        self.name(&format!("{name}_hex"));
        self.0.push('"');
        for byte in bytes {
            self.0.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            self.0.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        self.0.push('"');
        self
    }

    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for sign in text.chars() {
        match sign {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{0}'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(sign));
            }
            _ => out.push(sign),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes_what_it_must() {
        let line = Object::new("a\"b\\c\n")
            .number("n", 7)
            .maybe("none", None)
            .truth("yes", true)
            .texts("list", &["x", "y"])
            .bytes("key", b"k\x00\xff")
            .bytes("word", b"w")
            .finish();
        assert_eq!(
            line,
            "{\"type\":\"a\\\"b\\\\c\\u000a\",\"n\":7,\"none\":null,\"yes\":true,\"list\":[\"x\",\"y\"],\
             \"key_hex\":\"6b00ff\",\"word\":\"w\",\"word_hex\":\"77\"}"
        );
    }
}
