//! The commands about files: what was written where.
//!
//! The model's offsets are its own. A client captures them from NSINFO, as it must with the server's.

use super::{Answer, Command, Model, Session, admin, atoll};
use crate::reply::Reply;
use bytes::Bytes;

pub(super) const COMMANDS: &[Command] = &[
    admin("INDEX", Model::index),
    admin("DATA", Model::data),
    admin("HOOKS", |_, _, _| Ok(Reply::Array(Vec::new()))),
    admin("NSJUMP", Model::nsjump),
    admin("RELOAD", Model::reload),
];

const SUBCOMMAND_BYTES_MAX: usize = 256;
/// Where the first record of a file is.
const HEADER_BYTES: usize = 4096;
/// From one record to the next.
const RECORD_BYTES: usize = 64;

/// One namespace's share of the log.
#[derive(Clone, Debug)]
pub(super) struct Records {
    files: Vec<Vec<Record>>,
}

#[derive(Clone, Debug)]
struct Record {
    key: Bytes,
    /// `None` where the record ends the key.
    value: Option<Bytes>,
    /// `None` where it was written just now.
    timestamp: Option<u32>,
}

impl Records {
    pub(super) fn new() -> Records {
        Records { files: vec![Vec::new()] }
    }

    pub(super) fn wrote(&mut self, key: Bytes, value: Bytes, timestamp: u32) {
        self.push(Record { key, value: Some(value), timestamp: Some(timestamp) });
    }

    pub(super) fn ended(&mut self, key: Bytes) {
        self.push(Record { key, value: None, timestamp: None });
    }

    fn push(&mut self, record: Record) {
        self.files.last_mut().expect("there is a file").push(record);
    }

    /// The file that is written now, and where the next record goes in it.
    pub(super) fn current(&self) -> (usize, usize) {
        let last = self.files.len() - 1;
        (last, HEADER_BYTES + RECORD_BYTES * self.files[last].len())
    }
}

/// CRC-32C from zero and without the last inversion, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

/// The rule of the commands with a subcommand.
fn subcommand(arguments: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
    let sub = arguments.get(1).ok_or("Missing arguments")?;
    if arguments.iter().any(|argument| argument.is_empty()) {
        return Err("Invalid argument");
    }
    if sub.len() > SUBCOMMAND_BYTES_MAX {
        return Err("Argument too long");
    }
    Ok(sub.to_ascii_uppercase())
}

impl Model {
    fn index(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        let sub = subcommand(arguments)?;
        match (&sub[..], &arguments[2..]) {
            (b"DIRTY", [word]) if word.eq_ignore_ascii_case(b"RESET") => Ok(Reply::ok()),
            (b"DIRTY", [_]) => Err("Unknown INDEX DIRTY subcommand"),
            (b"DIRTY", _) => Ok(Reply::Array(Vec::new())),
            _ => Err("Unknown INDEX subcommand"),
        }
    }

    fn data(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if subcommand(arguments)? != b"RAW" {
            return Err("Unknown DATA subcommand");
        }
        let [file, offset, ..] = arguments[2..] else { return Err("Missing arguments") };
        let now = self.now.as_secs() as u32;
        let records = &self.current(session).records;
        let file = usize::try_from(atoll(file)).ok();
        let file = file.and_then(|file| records.files.get(file)).ok_or("Invalid Request")?;
        // As with the server's, a negative offset is one far behind the end.
        let offset = atoll(offset) as u64 as usize;
        if offset >= HEADER_BYTES + RECORD_BYTES * file.len() {
            return Err("EOF");
        }
        // Before the first record there is a header, from which the server goes on to that record.
        let offset = offset.max(HEADER_BYTES);
        let within = offset - HEADER_BYTES;
        if !within.is_multiple_of(RECORD_BYTES) {
            return Err("Unexpected Internal Error");
        }
        let record = &file[within / RECORD_BYTES];
        let previous = if within == 0 { 0 } else { offset - RECORD_BYTES };
        let value = record.value.clone().unwrap_or_default();
        Ok(Reply::Array(vec![
            Reply::Bulk(record.key.clone()),
            Reply::Integer(previous as i64),
            Reply::bulk(format!("0x{:08x}", crc32c(&value))),
            Reply::Integer(record.value.is_none().into()),
            Reply::Integer(record.timestamp.unwrap_or(now).into()),
            record.value.clone().map_or(Reply::Nil, Reply::Bulk),
        ]))
    }

    /// All namespaces go on in a new file.
    fn nsjump(&mut self, _: &mut Session, _: &[&[u8]]) -> Answer {
        for namespace in &mut self.namespaces {
            namespace.records.files.push(Vec::new());
        }
        Ok(Reply::ok())
    }

    fn reload(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        super::exact(arguments, 2)?;
        super::settings::check_name(arguments[1])?;
        self.find(arguments[1]).ok_or("Namespace not found")?;
        Ok(Reply::ok())
    }
}
