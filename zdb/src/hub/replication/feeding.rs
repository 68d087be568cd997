//! A master, or a replica that has replicas of its own, sends the log as it grows.

use crate::command::replication::{ReadAhead, SentFile, Stage};
use crate::disk::{Done, Operation, Read};
use crate::engine::sending::Piece;
use crate::engine::{Waiter, log::format::BLOCK};
use crate::hub::Hub;
use crate::limits::{
    REPLICA_CHUNK_BYTES, REPLICA_OUTPUT_BYTES_MAX, REPLICA_READS_MAX, REPLICA_SILENCE_MS,
    REPLICA_STATUS_MS,
};
use crate::output::Output;
use crate::resp::Protocol;
use std::io;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is to be done for a replica.
enum Next {
    Nothing,
    /// A read was asked for, and perhaps there is more to ask for.
    Asked,
    /// An array of words, and where the log is then.
    Send(Vec<Vec<u8>>, u64),
    /// The same, written already.
    Push(Output, u64),
    Gone,
}

impl Hub {
    /// Looks after all replicas: sends what they lack, tells them how far the log is, lets silent ones go.
    pub(super) fn tend_replicas(&mut self, now_ms: u64) {
        if self.server.replication.replicas.is_empty() {
            self.engine.cleaner.floor = None;
            return;
        }
        let is_time = now_ms >= self.affairs.status_ms;
        if is_time {
            self.affairs.status_ms = now_ms + REPLICA_STATUS_MS;
        }
        let keys: Vec<u64> =
            self.server.replication.replicas.iter().map(|one| one.connection).collect();
        for key in keys {
            let Some(replica) = self.server.replication.replica_mut(key) else { continue };
            let is_silent = now_ms >= replica.heard_ms + REPLICA_SILENCE_MS;
            let stage = replica.stage;
            if self.get(key).is_none_or(|connection| connection.closing) {
                // It may still have to be told why.
                self.server.replication.replicas.retain(|one| one.connection != key);
                continue;
            }
            if is_silent {
                self.let_go(key);
                continue;
            }
            if stage == Stage::Online {
                self.feed(key);
            }
            if is_time && matches!(stage, Stage::Online | Stage::Waiting) {
                let (end, now_s) = (self.engine.log.end(), self.engine.now.unix_s());
                let (end, now_s) = (end.to_string(), now_s.to_string());
                self.say(key, &[b"STATUS", end.as_bytes(), now_s.as_bytes()]);
            }
        }
        self.engine.cleaner.floor = self.server.replication.copies().map(|one| one.sent).min();
    }

    /// Sends a replica as much of the log as it can take now.
    fn feed(&mut self, key: u64) {
        loop {
            let Some(replica) = self.server.replication.replica_mut(key) else { return };
            let asked: u64 = replica.reads.iter().map(|read| read.length).sum();
            let is_full = self.get(key).is_none_or(|connection| {
                connection.pending_bytes() + asked as usize >= REPLICA_OUTPUT_BYTES_MAX
            });
            if is_full {
                return;
            }
            match self.next_for(key) {
                Next::Nothing => return,
                Next::Asked => {}
                Next::Send(words, sent) => {
                    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                    self.say(key, &words);
                    if let Some(replica) = self.server.replication.replica_mut(key) {
                        replica.sent = sent;
                    }
                }
                Next::Push(output, sent) => {
                    self.push(key, output);
                    let replication = &mut self.server.replication;
                    let before = replication.replica_mut(key).map_or(sent, |one| one.sent);
                    replication.sent_bytes += sent - before;
                    if let Some(replica) = replication.replica_mut(key) {
                        replica.sent = sent;
                    }
                }
                Next::Gone => {
                    self.engine.log.notices.push(
                        "a replica is at a place of the log that was cleaned away: it begins anew"
                            .into(),
                    );
                    return self.let_go(key);
                }
            }
        }
    }

    fn next_for(&mut self, key: u64) -> Next {
        let Some(replica) = self.server.replication.replica_mut(key) else { return Next::Nothing };
        if replica.reads.len() >= REPLICA_READS_MAX {
            return Next::Nothing;
        }
        if replica.file.is_some() {
            return self.next_of_file(key);
        }
        let last = replica.reads.back();
        let (sent, is_behind) = (last.map_or(replica.sent, ReadAhead::end), last.is_some());
        let text = |number: u64| number.to_string().into_bytes();
        match self.engine.piece(sent, REPLICA_CHUNK_BYTES) {
            Piece::Read { file, offset, length } => {
                self.read_ahead(key, sent, Read { file, offset, length })
            }
            // First comes what is being read.
            _ if is_behind => Next::Nothing,
            Piece::Nothing => Next::Nothing,
            Piece::Gone => Next::Gone,
            Piece::Bytes(bytes) => {
                let end = sent + bytes.len() as u64;
                let mut output = Output::default();
                let mut writer = output.writer(Protocol::Resp2);
                writer.array(3);
                writer.bulk(b"RECORDS");
                writer.bulk(sent.to_string().as_bytes());
                writer.bulk(bytes);
                Next::Push(output, end)
            }
            Piece::Segment(next) => {
                let words = vec![
                    b"SEGMENT".to_vec(),
                    text(next.base),
                    text(next.capacity),
                    text(next.previous_end),
                ];
                Next::Send(words, next.base + BLOCK)
            }
            Piece::File { base, bytes, end, .. } => {
                let replica = self.server.replication.replica_mut(key).expect("looked up above");
                replica.file = Some(SentFile { base, bytes, sent: 0, end, check: 0 });
                Next::Send(vec![b"FILE".to_vec(), text(base), text(bytes)], sent)
            }
        }
    }

    /// Reads bytes that a replica is sent when they come.
    fn read_ahead(&mut self, key: u64, from: u64, wanted: Read) -> Next {
        let Read { file, offset, length } = wanted;
        let start = offset / BLOCK * BLOCK;
        let blocks_bytes = (offset + length).next_multiple_of(BLOCK) - start;
        let blocks = Read { file, offset: start, length: blocks_bytes };
        let operation = Operation::Read { file, offset: start, length: blocks_bytes };
        self.engine.work_for(Waiter::Replica(key, from), operation);
        let (skip, bytes, is_around) = (offset - start, None, false);
        let replica = self.server.replication.replica_mut(key).expect("the caller looked it up");
        replica.reads.push_back(ReadAhead { from, length, blocks, skip, bytes, is_around });
        Next::Asked
    }

    /// Goes on with a whole file.
    fn next_of_file(&mut self, key: u64) -> Next {
        let replica = self.server.replication.replica_mut(key).expect("the caller looked it up");
        let (sent, file) = (replica.sent, replica.file.clone().expect("the caller looked"));
        let is_backup = replica.is_backup;
        let asked = replica.reads.back().map_or(file.sent, ReadAhead::end);
        let text = |number: u64| number.to_string().into_bytes();
        if file.sent == file.bytes {
            replica.file = None;
            let words = vec![b"FILE-END".to_vec(), text(file.base), text(file.check)];
            // A replica takes them into its index as a start does.
            let is_last = !matches!(self.engine.piece(file.end, 1), Piece::File { .. });
            if is_last && !is_backup {
                self.leaving(key);
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                self.say(key, &words);
                return Next::Send(vec![b"RESTART".to_vec()], file.end);
            }
            return Next::Send(words, file.end);
        }
        if asked == file.bytes {
            return Next::Nothing;
        }
        match self.engine.piece(sent, 1) {
            Piece::File { base, file: open, .. } if base == file.base => {
                let length = (file.bytes - asked).min(REPLICA_CHUNK_BYTES);
                self.read_ahead(key, asked, Read { file: open, offset: asked, length })
            }
            _ => Next::Gone,
        }
    }

    /// Bytes of the log, or of a file, were read for a replica.
    pub(super) fn replica_read(&mut self, key: u64, from: u64, result: io::Result<Done>) {
        let Some(replica) = self.server.replication.replica_mut(key) else { return };
        let Some(read) = replica.reads.iter_mut().find(|read| read.from == from) else { return };
        match result {
            Ok(Done::Bytes(bytes)) if bytes.len() as u64 >= read.skip + read.length => {
                read.bytes = Some(bytes);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound && !read.is_around => {
                read.is_around = true;
                let Read { file, offset, length } = read.blocks;
                self.engine.log.notices.push(format!(
                    "cannot read all of a segment for a replica ({error}): it is sent what can be read around that"
                ));
                let operation = Operation::ReadAround { file, offset, length };
                return self.engine.work_for(Waiter::Replica(key, from), operation);
            }
            result => {
                let cause = result
                    .err()
                    .map_or_else(|| "it is too short".into(), |error| error.to_string());
                self.engine
                    .log
                    .notices
                    .push(format!("cannot read a segment for a replica: {cause}"));
                return self.let_go(key);
            }
        }
        let mut sent_bytes = 0;
        while let Some(replica) = self.server.replication.replica_mut(key)
            && replica.reads.front().is_some_and(|read| read.bytes.is_some())
            && let Some(ReadAhead { from, length, skip, bytes: Some(bytes), .. }) =
                replica.reads.pop_front()
        {
            let bytes = &bytes[skip as usize..][..length as usize];
            sent_bytes += length;
            match &mut replica.file {
                Some(file) => {
                    file.sent += length;
                    file.check = xxh3_64_with_seed(bytes, file.check);
                    self.send(key, &[b"BYTES", bytes]);
                }
                None => {
                    replica.sent += length;
                    self.send(key, &[b"RECORDS", from.to_string().as_bytes(), bytes]);
                }
            }
        }
        self.server.replication.sent_bytes += sent_bytes;
        self.feed(key);
    }
}
