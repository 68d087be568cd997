//! Which log a data directory holds, and the secret of its key hashes.

use super::log::format::{self, BLOCK, LogId, SegmentHeader};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Files, Root};

pub const IDENTITY_NAME: &str = "identity";

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
    let text = format!("zdb log {}\nsecret {}\n", id.to_hex(), LogId(secret).to_hex());
    files
        .write_small(Root::Data, IDENTITY_NAME, text.as_bytes())
        .map_err(|error| format!("cannot write to the data directory: {error}"))
}

fn parse(text: &[u8]) -> Option<(LogId, [u8; 16])> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let id = LogId::from_hex(lines.next()?.strip_prefix("zdb log ")?)?;
    let secret = LogId::from_hex(lines.next()?.strip_prefix("secret ")?)?;
    Some((id, secret.0))
}
