//! What a server with replicas, or that is one, keeps about itself beside the log: its name in terms, what it
//! promised to whom, and what the next start has to do before the log is opened.

use super::log::format::LogId;
use std::fmt::Write;
use xxhash_rust::xxh3::xxh3_64;

pub const FILE_NAME: &str = "replication";

/// The newest term that a server agreed to: it follows none before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Promise {
    pub number: u64,
    /// Who begins that term.
    pub node: u32,
}

/// What a start does first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errand {
    #[default]
    None,
    /// Begins anew as a copy of this log, with its secret of key hashes: an overwrite goes by the hash alone, so
    /// that all copies must have the same. What is there is set aside.
    Adopt { log: LogId, secret: [u8; 16], aside_s: u64 },
    /// Takes the log back to a position; what is behind it is set aside. `kept`: number of the last term and end of what
    /// stays, which is owed where even that cannot be kept.
    Rewind { position: u64, aside_s: u64, kept: (u64, u64) },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// In terms; 0: this server never had to do with replication.
    pub name: u32,
    pub promised: Promise,
    /// Its log began elsewhere: another server on this machine may have a log with the same id.
    pub is_copy: bool,
    pub errand: Errand,
    /// Number of the last term and end of a log that this server had before it began anew; until it has as much again,
    /// somebody else must have it for a term to begin. Zeroes: it lacks nothing.
    pub owed: (u64, u64),
}

impl Node {
    /// Whether it takes part in replication.
    pub fn is_named(&self) -> bool {
        self.name != 0
    }

    /// What tells its write buffer from those of other copies.
    pub fn buffer_suffix(&self) -> Option<u32> {
        self.is_copy.then_some(self.name)
    }

    /// Name of the directory where an errand sets things aside.
    pub fn aside(aside_s: u64) -> String {
        format!("aside-{aside_s}")
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("writing to a string does not fail");
        };
        line(format_args!("node {:08x}", self.name));
        line(format_args!("promised {} {:08x}", self.promised.number, self.promised.node));
        if self.is_copy {
            line(format_args!("copy"));
        }
        if self.owed != (0, 0) {
            line(format_args!("owed {} {}", self.owed.0, self.owed.1));
        }
        match self.errand {
            Errand::None => {}
            Errand::Adopt { log, secret, aside_s } => {
                let secret = LogId(secret).to_hex();
                line(format_args!("adopt {} {secret} {aside_s}", log.to_hex()));
            }
            Errand::Rewind { position, aside_s, kept: (term, end) } => {
                line(format_args!("rewind {position} {aside_s} {term} {end}"));
            }
        }
        let check = xxh3_64(text.as_bytes());
        writeln!(text, "check {check:016x}").expect("writing to a string does not fail");
        text
    }

    /// None: the file is damaged, or of a version that this zdb does not know.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let checked = text.rfind("check ")?;
        let check = text[checked..].strip_prefix("check ")?.trim_end();
        if u64::from_str_radix(check, 16).ok()? != xxh3_64(&bytes[..checked]) {
            return None;
        }
        let hex = |word: &str| u32::from_str_radix(word, 16).ok();
        let mut node = Self::default();
        for line in text[..checked].lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["node", name] => node.name = hex(name)?,
                ["promised", number, name] => {
                    node.promised = Promise { number: number.parse().ok()?, node: hex(name)? };
                }
                ["copy"] => node.is_copy = true,
                ["owed", term, end] => node.owed = (term.parse().ok()?, end.parse().ok()?),
                ["adopt", log, secret, at] => {
                    let (log, secret) = (LogId::from_hex(log)?, LogId::from_hex(secret)?.0);
                    node.errand = Errand::Adopt { log, secret, aside_s: at.parse().ok()? };
                }
                ["rewind", position, at, ref kept @ ..] => {
                    let kept = match *kept {
                        [term, end] => (term.parse().ok()?, end.parse().ok()?),
                        // Once it did not say it.
                        [] => (0, 0),
                        _ => return None,
                    };
                    let (position, aside_s) = (position.parse().ok()?, at.parse().ok()?);
                    node.errand = Errand::Rewind { position, aside_s, kept };
                }
                _ => return None,
            }
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewind_of_an_older_version_is_known() {
        let mut text = "node 00000003\npromised 7 deadbeef\nrewind 8192 9\n".to_owned();
        let check = xxh3_64(text.as_bytes());
        writeln!(text, "check {check:016x}").expect("writing to a string does not fail");
        let node = Node::parse(text.as_bytes()).expect("it is whole");
        assert_eq!(node.errand, Errand::Rewind { position: 8192, aside_s: 9, kept: (0, 0) });
    }

    #[test]
    fn what_is_kept_comes_back_and_nothing_else() {
        let promised = Promise { number: 7, node: 0xdead_beef };
        for errand in [
            Errand::None,
            Errand::Adopt { log: LogId([5; 16]), secret: [6; 16], aside_s: 9 },
            Errand::Rewind { position: 1 << 40, aside_s: 1_800_000_000, kept: (4, 1 << 39) },
        ] {
            let node = Node { name: 3, promised, is_copy: true, errand, owed: (5, 8192) };
            let text = node.text().into_bytes();
            assert_eq!(Node::parse(&text), Some(node));
            for at in 0..text.len() {
                let mut damaged = text.clone();
                damaged[at] ^= 1;
                assert!(Node::parse(&damaged).is_none_or(|one| one == node), "byte {at}");
                assert_eq!(
                    Node::parse(&text[..at]).filter(|one| *one != node),
                    None,
                    "cut at {at}"
                );
            }
        }
    }
}
