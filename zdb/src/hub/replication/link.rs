//! A replica's side of the link: it introduces itself to its master, takes the log as it comes, and tells how
//! far it is. What does not belong where it stands is refused, and the link begun anew.

use super::receiving::Word;
use crate::command::replication::{Address, LinkState, SyncRequest, newest_terms, without_check};
use crate::engine::damage_check;
use crate::engine::log::Policy;
use crate::engine::log::copy::{CopiedSegment, CopyTrouble};
use crate::engine::log::format::LogId;
use crate::engine::node::{Errand, Promise};
use crate::hub::{Hub, Peer};
use crate::limits::{
    REPLICA_LINE_BYTES_MAX, REPLICA_OUTPUT_BYTES_MAX, REPLICA_RETRY_MS, REPLICA_SILENCE_MS,
    REPLICA_STATUS_MS, TERM_MAX,
};
use crate::resp::{Progress, Request, RequestParser};
use xxhash_rust::xxh3::xxh3_64;

impl Hub {
    /// A server that the loop is to connect to.
    pub fn take_dial(&mut self) -> Option<Address> {
        self.affairs.dial.take()
    }

    /// The end of an attempt to connect: the key of the connection, if it is still wanted.
    pub fn dialed(&mut self, to: &Address, result: Result<Peer, String>) -> Option<u64> {
        let now_ms = self.engine.now.monotonic_ms;
        let link = self.server.replication.link.as_ref();
        let is_wanted = link.is_some_and(|link| link.state == LinkState::Dialing && link.to == *to);
        if !is_wanted || self.stopping {
            return None;
        }
        let peer = match result {
            Ok(peer) => peer,
            Err(text) => {
                self.break_link(&text);
                return None;
            }
        };
        let key = self.open_link(peer);
        let link = self.server.replication.link.as_mut().expect("just looked");
        link.state = LinkState::Handshake { connection: key };
        link.heard_ms = now_ms;
        link.acked_ms = now_ms;
        link.parser = RequestParser::new();
        link.partial.clear();
        link.segment = None;
        link.is_stuck = false;
        (link.file, link.published) = (None, None);
        self.introduce(key);
        self.ask_for_log(key);
        Some(key)
    }

    fn introduce(&mut self, key: u64) {
        if let Some(password) = self.server.replication.master_password.clone() {
            self.send(key, &[b"AUTH", &password]);
        }
        let settings = &self.server.settings;
        let announced = (settings.announce_host.clone(), settings.announce_port);
        let (host, port) = &announced;
        let port = if *port == 0 { self.server.replication.port } else { *port };
        let (port, node) = (port.to_string(), format!("{:08x}", self.engine.node.name));
        let mut words = vec!["REPLCONF", "listening-port", &port, "node", &node];
        if !host.is_empty() {
            words.extend(["ip-address", host]);
        }
        words.push("check");
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.say(key, &words);
        self.affairs.announced = announced;
    }

    fn ask_for_log(&mut self, key: u64) {
        let (terms, is_all) = newest_terms(self.engine.terms.list());
        let position = self.engine.log.end();
        let request = SyncRequest {
            log: self.engine.log.id.0,
            secret_check: xxh3_64(&self.engine.secret_bytes()),
            position,
            promised: self.engine.node.promised,
            versions: self.engine.versions_before(position),
            owed: self.engine.node.owed,
            terms,
            is_all,
            is_bare: self.engine.is_bare(),
        };
        let words = request.words();
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        self.say(key, &words);
    }

    /// Ends the link, to try again a while later.
    pub(super) fn break_link(&mut self, cause: &str) {
        self.drop_link();
        let Some(link) = &mut self.server.replication.link else { return };
        if link.trouble != cause {
            link.trouble = cause.to_owned();
            let to = link.to.clone();
            self.engine.log.notices.push(format!("master {to}: {cause}; trying again"));
        }
    }

    /// Closes the connection to the master.
    pub(super) fn drop_link(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        let Some(link) = &mut self.server.replication.link else { return };
        if link.is_up() {
            link.down_ms = now_ms;
        }
        let connection = link.connection();
        (link.segment, link.is_stuck) = (None, false);
        link.state = LinkState::Down { retry_ms: now_ms + REPLICA_RETRY_MS };
        let (file, published) = (link.file.take(), link.published.take());
        if let Some(file) = file {
            let is_idle = !file.writing;
            self.affairs.leftover = Some(file);
            if is_idle {
                self.remove_leftover();
            }
        }
        if published.is_some() && !self.stopping {
            // What came so far is taken in by a start, the rest is asked for then.
            self.affairs.restarts = true;
        }
        if let Some(key) = connection {
            self.let_go(key);
        }
    }

    /// Follows the master no more.
    pub(super) fn end_link(&mut self) {
        self.drop_link();
        self.server.replication.link = None;
    }

    /// The connection is gone.
    pub(in crate::hub) fn link_closed(&mut self, key: u64) {
        let link = self.server.replication.link.as_ref();
        if link.is_some_and(|link| link.connection() == Some(key)) {
            self.break_link("the connection was closed");
        }
    }

    pub(super) fn tend_link(&mut self, now_ms: u64) {
        let Some(link) = &self.server.replication.link else { return };
        let (state, heard_ms) = (link.state, link.heard_ms);
        match state {
            LinkState::Down { retry_ms } => {
                if now_ms >= retry_ms && self.may_dial() {
                    self.affairs.dial = Some(link.to.clone());
                    self.server.replication.link.as_mut().expect("just looked").state =
                        LinkState::Dialing;
                }
            }
            LinkState::Dialing => {}
            LinkState::Handshake { connection } | LinkState::Following { connection } => {
                if now_ms >= heard_ms + REPLICA_SILENCE_MS {
                    return self.break_link("it has been silent for too long");
                }
                if self.affairs.asks_again && self.is_node_saved() {
                    self.affairs.asks_again = false;
                    self.ask_for_log(connection);
                }
                self.run_link(connection);
                self.acknowledge_link(now_ms);
                let end = self.engine.log.end();
                if let Some(link) = &mut self.server.replication.link
                    && link.is_up()
                    && end >= link.master_end
                {
                    link.level_ms = now_ms;
                }
            }
        }
    }

    pub(super) fn may_dial(&self) -> bool {
        let is_clear = self.affairs.leftover.is_none();
        self.is_node_saved() && is_clear && !self.affairs.restarts && !self.stopping
    }

    /// Tells the master how far the log is here.
    fn acknowledge_link(&mut self, now_ms: u64) {
        let Some(link) = &self.server.replication.link else { return };
        let LinkState::Following { connection } = link.state else { return };
        let end = self.engine.log.end();
        let position = match self.engine.log.policy {
            Policy::Always => self.engine.log.durable().min(end),
            _ => self.engine.log.acknowledged().min(end),
        };
        if position == link.acked && now_ms < link.acked_ms + REPLICA_STATUS_MS {
            return;
        }
        let link = self.server.replication.link.as_mut().expect("just looked");
        (link.acked, link.acked_ms) = (position, now_ms);
        self.say(connection, &[b"REPLCONF", b"ack", position.to_string().as_bytes(), b"check"]);
    }

    // ---------------------------------------------------------------- what the master says

    /// Bytes came from the master.
    pub(in crate::hub) fn link_received(&mut self, key: u64) {
        let now_ms = self.engine.now.monotonic_ms;
        if let Some(link) = &mut self.server.replication.link
            && link.connection() == Some(key)
        {
            link.heard_ms = now_ms;
            self.run_link(key);
        }
    }

    /// Goes through what came, as far as it can be taken now. The rest stays with the kernel, and the master waits.
    fn run_link(&mut self, key: u64) {
        self.take_link_input(key);
        let is_busy = self.is_link_busy();
        let Some(connection) = self.get_mut(key) else { return };
        if std::mem::replace(&mut connection.takes_no_more, is_busy) != is_busy {
            self.touch_key(key);
        }
    }

    fn take_link_input(&mut self, key: u64) {
        if let Word::Drop(cause) = self.go_on_copying() {
            return self.break_link(&cause);
        }
        if self.is_link_busy() {
            return;
        }
        let Some(connection) = self.get_mut(key) else { return };
        if !connection.has_input() {
            return;
        }
        let (input, start) = connection.take_input();
        let mut at = start;
        let mut dropped = None;
        while at < input.len() {
            if matches!(input[at], b'+' | b'-') {
                // A reply, and not an array of words.
                let Some(length) = input[at..].iter().position(|byte| *byte == b'\n') else {
                    if input.len() - at > REPLICA_LINE_BYTES_MAX {
                        let text = "it says what is none of ours: a line without an end";
                        dropped = Some(text.into());
                    }
                    break;
                };
                let line = input[at..at + length].trim_ascii_end();
                at += length + 1;
                if line[0] == b'-' {
                    let text = String::from_utf8_lossy(&line[1..]).escape_debug().to_string();
                    dropped = Some(format!("it says: {text}"));
                    break;
                }
                continue;
            }
            let link = self.server.replication.link.as_mut().expect("the caller looked");
            let mut parser = std::mem::take(&mut link.parser);
            let word = match parser.parse(&input[at..]) {
                Ok(Progress::Complete { consumed }) => {
                    let word = self.hear(key, parser.request(&input[at..]));
                    at += consumed;
                    word
                }
                Ok(Progress::Incomplete) => {
                    self.server.replication.link.as_mut().expect("just looked").parser = parser;
                    break;
                }
                Err(error) => Word::Drop(format!("it says what is none of ours: {}", error.reply)),
            };
            match word {
                Word::Done => {}
                Word::Wait => break,
                Word::Drop(cause) => {
                    dropped = Some(cause);
                    break;
                }
            }
        }
        self.input_bytes -= at - start;
        let Self { slots, spare_inputs, .. } = self;
        let connection = slots[(key & 0xff_ffff) as usize].connection.as_mut();
        if let Some(connection) = connection.filter(|connection| connection.key == key) {
            connection.give_input(input, at, spare_inputs);
        }
        if at > start {
            // There may be room for more.
            self.touch_key(key);
        }
        if let Some(cause) = dropped {
            self.break_link(&cause);
        }
    }

    /// Whether nothing more can be taken before the disk has done something.
    fn is_link_busy(&self) -> bool {
        let Some(link) = &self.server.replication.link else { return true };
        let is_file_behind = link
            .file
            .as_ref()
            .is_some_and(|file| file.is_whole || file.waiting.len() >= REPLICA_OUTPUT_BYTES_MAX);
        link.segment.is_some() || link.is_stuck || is_file_behind || self.affairs.restarts
    }

    /// Takes what waited: the rest of records, or a segment.
    fn go_on_copying(&mut self) -> Word {
        if self.server.replication.link.as_ref().is_some_and(|link| link.is_stuck) {
            let word = self.copy(&[]);
            if !matches!(word, Word::Done) {
                return word;
            }
        }
        let next = self.server.replication.link.as_ref().and_then(|link| link.segment);
        let Some(next) = next else { return Word::Done };
        let word = self.take_rest();
        if !matches!(word, Word::Done) {
            return word;
        }
        let now_ms = self.engine.now.monotonic_ms;
        let link = self.server.replication.link.as_mut().expect("just looked");
        let end = self.engine.log.end();
        // The seal may be damaged, too.
        let is_lost = self.engine.damage.ends_at(end);
        let next = if is_lost { CopiedSegment { previous_end: end, ..next } } else { next };
        match self.engine.copy_segment(next) {
            Ok(()) => {
                link.segment = None;
                link.heard_ms = now_ms;
                Word::Done
            }
            Err(CopyTrouble::Wrong(text) | CopyTrouble::Damaged(text)) => Word::Drop(text),
            // A disk that is full may have room later.
            Err(CopyTrouble::Wait | CopyTrouble::Failed) => {
                link.heard_ms = now_ms;
                Word::Wait
            }
        }
    }

    /// Takes the rest of a segment, in which no whole record begins.
    pub(super) fn take_rest(&mut self) -> Word {
        while let Some(link) = &self.server.replication.link
            && !link.partial.is_empty()
        {
            let position = self.engine.log.end();
            let text = format!("the record at position {position} is not whole");
            match self.meet_damage(text.clone(), true) {
                Word::Done if self.engine.log.end() > position => {}
                Word::Done => return Word::Drop(text),
                word => return word,
            }
        }
        Word::Done
    }

    /// No whole record begins in what came. Once it may be the way here that damaged it. What comes a second time is
    /// what the master has: it stays damaged here, too.
    fn meet_damage(&mut self, text: String, is_all: bool) -> Word {
        let (position, seed) = (self.engine.log.end(), self.engine.log.seed);
        let link = self.server.replication.link.as_mut().expect("the caller looked");
        let met = Some((position, damage_check(&link.partial, seed, position)));
        let is_known = link.damage == met || self.engine.damage.goes_on_at(position);
        link.damage = met;
        if !is_known {
            return Word::Drop(text);
        }
        match self.engine.begin_damage(&link.partial, is_all) {
            true => self.copy(&[]),
            // How far it goes is told by what is to come.
            false => Word::Done,
        }
    }

    fn copy(&mut self, bytes: &[u8]) -> Word {
        let now_ms = self.engine.now.monotonic_ms;
        let link = self.server.replication.link.as_mut().expect("the caller looked");
        let mut partial = std::mem::take(&mut link.partial);
        let before = self.engine.log.end();
        let result = if partial.is_empty() {
            self.engine.copy_records(bytes)
        } else {
            partial.extend_from_slice(bytes);
            self.engine.copy_records(&partial)
        };
        // Before a trouble some may have been taken.
        let taken = (self.engine.log.end() - before) as usize;
        let link = self.server.replication.link.as_mut().expect("as above");
        if partial.is_empty() {
            partial.extend_from_slice(&bytes[taken..]);
        } else {
            partial.drain(..taken);
        }
        link.partial = partial;
        link.is_stuck = false;
        match result {
            Ok(_) => Word::Done,
            Err(CopyTrouble::Damaged(text)) => self.meet_damage(text, false),
            Err(CopyTrouble::Wrong(text)) => Word::Drop(text),
            Err(CopyTrouble::Wait | CopyTrouble::Failed) => {
                link.is_stuck = true;
                link.heard_ms = now_ms;
                Word::Wait
            }
        }
    }

    /// Does what the master says.
    fn hear(&mut self, key: u64, request: Request<'_>) -> Word {
        let words: Vec<&[u8]> = request.iter().collect();
        let Some(words) = without_check(&words) else {
            return Word::Drop("what it says was damaged on its way".into());
        };
        let text = |at: usize| words.get(at).and_then(|word| std::str::from_utf8(word).ok());
        let number = |at: usize| text(at).and_then(|text| text.parse::<u64>().ok());
        let name = *words.first().unwrap_or(&&b""[..]);
        let is_following = self.server.replication.link.as_ref().is_some_and(|link| link.is_up());
        let heard = match name {
            b"" => Some(Word::Done),
            b"AGAIN" => {
                // Not before what was promised is on the disk.
                self.affairs.asks_again = true;
                Some(Word::Done)
            }
            b"STATUS" => number(1).map(|end| {
                let link = self.server.replication.link.as_mut().expect("the caller looked");
                link.master_end = end;
                Word::Done
            }),
            b"PROMISE" => {
                let node = text(2).and_then(|text| u32::from_str_radix(text, 16).ok());
                number(1)
                    .zip(node)
                    .map(|(number, node)| self.hear_promise(Promise { number, node }))
            }
            b"CONTINUE" => {
                let end = number(3).unwrap_or(0);
                let words = number(1).zip(number(2));
                words.map(|(at, term)| self.hear_continue(key, (at, term, end)))
            }
            b"REWIND" => number(1).zip(number(2)).map(|(position, term)| {
                let (end, aside_s) = (self.engine.log.end(), self.engine.now.unix_s());
                if position == 0 || position >= end {
                    return Word::Drop(format!(
                        "it would have the log go back to {position}, and it ends at {end}"
                    ));
                }
                let kept = self.kept_before(position);
                self.hear_errand(Errand::Rewind { position, aside_s, kept }, term)
            }),
            b"ADOPT" => {
                let log = text(1).and_then(LogId::from_hex);
                let secret = text(2).and_then(LogId::from_hex);
                log.zip(secret).zip(number(3)).map(|((log, LogId(secret)), term)| {
                    let aside_s = self.engine.now.unix_s();
                    self.hear_errand(Errand::Adopt { log, secret, aside_s }, term)
                })
            }
            b"RESTART" if is_following => {
                let link = self.server.replication.link.as_ref().expect("the caller looked");
                if link.published.is_none() {
                    return Word::Drop("it would have this server start anew for nothing".into());
                }
                self.start_anew(Errand::None);
                Some(Word::Wait)
            }
            b"SEGMENT" if is_following => {
                let created_s = self.engine.now.unix_s();
                let link = self.server.replication.link.as_ref().expect("the caller looked");
                let (has_files, rest) = (link.has_files(), link.partial.len() as u64);
                let end = self.engine.log.end() + rest;
                number(1).zip(number(2)).zip(number(3)).map(|((base, capacity), previous_end)| {
                    let is_told = previous_end == 0 || previous_end == end;
                    if has_files || rest > 0 && !is_told {
                        let text = "a segment came in the middle of something else";
                        return Word::Drop(text.into());
                    }
                    let next = CopiedSegment { base, capacity, previous_end, created_s };
                    self.server.replication.link.as_mut().expect("as above").segment = Some(next);
                    self.go_on_copying()
                })
            }
            b"RECORDS" if is_following && words.len() == 3 => number(1).map(|position| {
                let link = self.server.replication.link.as_ref().expect("the caller looked");
                let end = self.engine.log.end() + link.partial.len() as u64;
                if link.has_files() {
                    Word::Drop("records came in the middle of files".into())
                } else if position == end {
                    self.copy(words[2])
                } else {
                    Word::Drop(format!("records of position {position} came where {end} follows"))
                }
            }),
            b"FILE" if is_following => {
                number(1).zip(number(2)).map(|(base, bytes)| self.hear_file(base, bytes))
            }
            b"BYTES" if is_following && words.len() == 2 => Some(self.hear_bytes(words[1])),
            b"FILE-END" if is_following => number(2).map(|check| self.hear_file_end(check)),
            _ => None,
        };
        heard.unwrap_or_else(|| {
            let shown = name[..name.len().min(32)].escape_ascii();
            Word::Drop(format!("it says what is not known here: {shown}"))
        })
    }

    /// The log here has more than that of the master, or another one. Where others rely on it, it gives way only to
    /// the master of a term, or where a candidate asks for what another one has.
    fn hear_errand(&mut self, errand: Errand, term: u64) -> Word {
        if term > TERM_MAX {
            return Word::Drop(format!("it names term {term}, which cannot be"));
        }
        let is_candidate = self.server.replication.candidate.is_some();
        let is_relied_on = self.server.settings.min_replicas > 0 && self.engine.log.end() > 0;
        if is_relied_on && !is_candidate && (term == 0 || term < self.engine.node.promised.number) {
            return Word::Drop(
                "it is not the master of the newest term, and would have the log here give way"
                    .into(),
            );
        }
        self.start_anew(errand);
        Word::Wait
    }

    fn hear_promise(&mut self, asked: Promise) -> Word {
        let known = self.engine.node.promised;
        if asked.number > TERM_MAX {
            return Word::Drop(format!("it wants term {}, which cannot be", asked.number));
        }
        if self.server.replication.candidate.is_some() {
            // It would begin its own term all the same, and whoever agreed to both would follow the earlier one.
            return Word::Drop(format!(
                "it wants term {}, and this server is to be the master itself",
                asked.number
            ));
        }
        if asked.number < known.number || asked.number == known.number && asked.node != known.node {
            return Word::Drop(format!(
                "it wants term {}, but {} was promised to another one",
                asked.number, known.number
            ));
        }
        if asked != known {
            self.engine.node.promised = asked;
            self.affairs.changed += 1;
        }
        self.affairs.asks_again = true;
        Word::Done
    }

    fn hear_continue(&mut self, key: u64, (position, term, master_end): (u64, u64, u64)) -> Word {
        let end = self.engine.log.end();
        if position != end {
            return Word::Drop(format!("it would go on at {position}, and the log ends at {end}"));
        }
        let is_candidate = self.server.replication.candidate.is_some();
        // Without replicas for each write nothing is promised to anybody.
        let is_bound = self.server.settings.min_replicas > 0 && !is_candidate;
        if is_bound && term < self.engine.node.promised.number {
            return Word::Drop(format!(
                "it is the master of term {term}, and a later one was promised to another server"
            ));
        }
        let now_ms = self.engine.now.monotonic_ms;
        let link = self.server.replication.link.as_mut().expect("the caller looked");
        let to = link.to.clone();
        link.state = LinkState::Following { connection: key };
        link.trouble.clear();
        link.master_end = master_end;
        // The first word to the master tells where the log is.
        (link.acked, link.acked_ms) = (u64::MAX, now_ms);
        self.engine.log.notices.push(format!("copies {to} from position {position} on"));
        Word::Done
    }
}
