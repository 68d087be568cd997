//! Which log a data directory holds, and the secret of its key hashes.

use super::log::format::{self, BLOCK, LogId, SegmentHeader};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Files, Root};
use xxhash_rust::xxh3::xxh3_64;

pub const IDENTITY_NAME: &str = "identity";
/// Begins the last line.
const CHECK: &str = "check ";

/// What is left of the identity: a lost id is in every segment too, a lost secret is nowhere else.
pub struct Identity {
    pub id: Option<LogId>,
    pub secret: Option<[u8; 16]>,
}

/// Reads the identity from its file or, where that is lost, the id from a segment.
pub fn read(files: &dyn Files, names: &[String], bases: &[u64]) -> Result<Identity, String> {
    if names.iter().any(|name| name == IDENTITY_NAME) {
        let text = files
            .read_small(Root::Data, IDENTITY_NAME)
            .map_err(|error| format!("cannot read the log's identity file: {error}"))?;
        if let Some((id, secret)) = parse(&text) {
            return Ok(Identity { id: Some(id), secret: Some(secret) });
        }
    }
    Ok(Identity { id: from_segments(files, bases), secret: None })
}

/// The id that the first whole segment header names.
pub fn from_segments(files: &dyn Files, bases: &[u64]) -> Option<LogId> {
    bases.iter().find_map(|base| {
        let file = files.open(Root::Data, &format::segment_name(*base)).ok()?;
        let mut block = AlignedBuffer::new(BLOCK as usize);
        let read = files.read_at(file, 0, &mut block);
        files.close(file);
        read.ok()?;
        SegmentHeader::decode(&block).ok().map(|header| header.log)
    })
}

pub fn write(files: &dyn Files, id: LogId, secret: [u8; 16]) -> Result<(), String> {
    files
        .write_small(Root::Data, IDENTITY_NAME, text(id, secret).as_bytes())
        .map_err(|error| format!("cannot write to the data directory: {error}"))
}

pub fn text(id: LogId, secret: [u8; 16]) -> String {
    let mut text = format!("zdb log {}\nsecret {}\n", id.to_hex(), LogId(secret).to_hex());
    text += &format!("{CHECK}{:016x}\n", xxh3_64(text.as_bytes()));
    text
}

/// A file of before there was a check ends without one.
pub fn parse(bytes: &[u8]) -> Option<(LogId, [u8; 16])> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let id = LogId::from_hex(lines.next()?.strip_prefix("zdb log ")?)?;
    let secret = LogId::from_hex(lines.next()?.strip_prefix("secret ")?)?;
    if let Some(line) = lines.next() {
        let check = u64::from_str_radix(line.strip_prefix(CHECK)?, 16).ok()?;
        let checked = &bytes[..text.find(line)?];
        if check != xxh3_64(checked) {
            return None;
        }
    }
    Some((id, secret.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_and_a_damaged_one_is_not() {
        let (id, secret) = (LogId([7; 16]), [9; 16]);
        let text = text(id, secret).into_bytes();
        assert_eq!(parse(&text), Some((id, secret)));
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                // The case of a digit and the kind of the last line's end mean nothing.
                let found = parse(&damaged);
                assert!(found.is_none_or(|one| one == (id, secret)), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn one_of_before_there_was_a_check_is_read() {
        let old = format!("zdb log {}\nsecret {}\n", "07".repeat(16), "09".repeat(16));
        assert_eq!(parse(old.as_bytes()), Some((LogId([7; 16]), [9; 16])));
        for cut in 0..old.len() - 1 {
            assert_eq!(parse(&old.as_bytes()[..cut]), None, "{cut} bytes");
        }
    }
}
