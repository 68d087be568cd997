//! Replication as commands: who follows whom, what a replica says to its master, and who waits for replicas.
//! What is remembered of all that is here; the hub acts on it.

use super::order::Order;
use super::{Context, Outcome, shown};
use crate::disk::Read;
use crate::disk::aligned::AlignedBuffer;
use crate::engine::log::copy::CopiedSegment;
use crate::engine::log::format::LogId;
use crate::engine::node::Promise;
use crate::engine::sending::Versions;
use crate::engine::terms::Term;
use crate::limits::{HOST_BYTES_MAX, REPLICA_TERMS_MAX, TERM_MAX, WAIT_MS_MAX};
use crate::output::Output;
use crate::resp::{Request, RequestParser};
use std::collections::VecDeque;
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// A server to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    pub fn new(host: &str, port: &str) -> Option<Self> {
        let port = port.parse().ok().filter(|port| *port > 0)?;
        is_host(host).then(|| Self { host: host.to_owned(), port })
    }

    /// As `replicaof` has it: two words.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let address = Self::new(words.next()?, words.next()?)?;
        words.next().is_none().then_some(address)
    }
}

/// Whether it may be the name or the address of a host: no commas, which part the fields of INFO.
pub fn is_host(host: &str) -> bool {
    let is_plain = host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && is_plain
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.port)
    }
}

/// Whether clients may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    #[default]
    Open,
    /// The server copies another one.
    ReadOnly,
    /// Too few replicas are there, or it is not known yet that no other master is.
    NoReplicas,
}

impl Gate {
    pub fn text(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::ReadOnly => "READONLY You can't write against a read only replica.",
            Self::NoReplicas => "NOREPLICAS Not enough good replicas to write.",
        }
    }
}

/// A server that copies this one.
#[derive(Debug, Default)]
pub struct Replica {
    pub connection: u64,
    /// In terms.
    pub node: u32,
    /// Where it can be reached, as it says itself or as it is seen here.
    pub host: String,
    pub port: u16,
    /// It keeps the log and serves nobody: no write waits for it, and nobody is sent to it.
    pub is_backup: bool,
    pub stage: Stage,
    /// The log is sent up to here, and so far it has it, as safe as its policy says.
    pub sent: u64,
    pub acked: u64,
    /// When it last said something, in milliseconds of the loop's clock.
    pub heard_ms: u64,
    /// What it agreed to, and how far its log was then: the number of its last term, and its end.
    pub promised: Promise,
    pub log_at: (u64, u64),
    /// The same of what it had before it began anew.
    pub owed: (u64, u64),
    /// Reads of the log or of the file for it, in their order.
    pub reads: VecDeque<ReadAhead>,
    /// The whole file that it is being sent: base, bytes sent, and the checksum so far.
    pub file: Option<SentFile>,
}

impl Replica {
    /// Where it can be reached, in one word.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Bytes that are read to be sent.
#[derive(Debug)]
pub struct ReadAhead {
    /// The position, or the offset in the file.
    pub from: u64,
    pub length: u64,
    /// The whole blocks around the wanted bytes, and how many bytes of them are before these.
    pub blocks: Read,
    pub skip: u64,
    pub bytes: Option<AlignedBuffer>,
    /// Some blocks cannot be read: it is read once more without them.
    pub is_around: bool,
}

impl ReadAhead {
    pub fn end(&self) -> u64 {
        self.from + self.length
    }
}

#[derive(Clone, Debug)]
pub struct SentFile {
    pub base: u64,
    pub bytes: u64,
    pub sent: u64,
    /// Where its records end.
    pub end: u64,
    pub check: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It introduces itself.
    #[default]
    New,
    /// It waits until a term begins.
    Waiting,
    Online,
    /// It was told to start anew, or is about to.
    Leaving,
}

/// What a replica asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    pub log: [u8; 16],
    /// Tells whether it hashes keys alike.
    pub secret_check: u64,
    pub position: u64,
    pub promised: Promise,
    pub versions: Versions,
    /// Number of the last term and end of what it had before it began anew, and may have no more.
    pub owed: (u64, u64),
    /// Its newest terms, all of them where `is_all`.
    pub terms: Vec<Term>,
    pub is_all: bool,
    /// Its log has nothing but terms.
    pub is_bare: bool,
}

impl SyncRequest {
    /// As the words of PSYNC.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![
            "PSYNC".to_owned(),
            LogId(self.log).to_hex(),
            format!("{:016x}", self.secret_check),
            self.position.to_string(),
            self.promised.number.to_string(),
            format!("{:08x}", self.promised.node),
            if self.is_bare { "bare" } else { "data" }.to_owned(),
            self.versions.word(),
            format!("{}:{}", self.owed.0, self.owed.1),
            if self.is_all { "all" } else { "newest" }.to_owned(),
        ];
        let terms = self.terms.iter();
        words.extend(terms.map(|term| format!("{}:{:08x}:{}", term.number, term.node, term.start)));
        words
    }
}

/// The newest terms, as many as PSYNC takes, and whether these are all.
pub fn newest_terms(all: &[Term]) -> (Vec<Term>, bool) {
    let newest = &all[all.len().saturating_sub(REPLICA_TERMS_MAX)..];
    (newest.to_vec(), newest.len() == all.len())
}

/// The connection to the server that is copied.
#[derive(Debug)]
pub struct Link {
    pub to: Address,
    pub state: LinkState,
    /// When it last heard something, and since when it is down, in milliseconds of the loop's clock.
    pub heard_ms: u64,
    pub down_ms: u64,
    /// How far the master is, by its own word.
    pub master_end: u64,
    /// When the log here was last as far as that, in milliseconds of the loop's clock.
    pub level_ms: u64,
    pub acked: u64,
    pub acked_ms: u64,
    pub parser: RequestParser,
    /// The beginning of a record of which the rest did not come yet.
    pub partial: Vec<u8>,
    /// Where what came was no whole record, and which bytes it was.
    pub damage: Option<(u64, u64)>,
    /// The next segment, as long as it cannot begin.
    pub segment: Option<CopiedSegment>,
    /// Records wait for room in the write buffer.
    pub is_stuck: bool,
    pub file: Option<ReceivedFile>,
    /// The last whole file that came: only a start takes it into the log.
    pub published: Option<u64>,
    /// The last trouble, told once.
    pub trouble: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It is tried again then.
    Down {
        retry_ms: u64,
    },
    Dialing,
    Handshake {
        connection: u64,
    },
    Following {
        connection: u64,
    },
}

/// A whole file that is coming in.
#[derive(Debug)]
pub struct ReceivedFile {
    pub base: u64,
    pub bytes: u64,
    /// Bytes that came, and those that were written.
    pub received: u64,
    pub check: u64,
    pub file: Option<crate::disk::FileId>,
    /// What came and was not handed to the disk yet.
    pub waiting: Vec<u8>,
    pub written: u64,
    pub writing: bool,
    /// All came, and was what was sent.
    pub is_whole: bool,
    pub is_publishing: bool,
    /// It is there under its own name.
    pub is_published: bool,
}

impl Link {
    pub fn new(to: Address, now_ms: u64) -> Self {
        Self {
            to,
            state: LinkState::Down { retry_ms: now_ms },
            heard_ms: now_ms,
            down_ms: now_ms,
            master_end: 0,
            level_ms: now_ms,
            acked: 0,
            acked_ms: 0,
            parser: RequestParser::new(),
            partial: Vec::new(),
            damage: None,
            segment: None,
            is_stuck: false,
            file: None,
            published: None,
            trouble: String::new(),
        }
    }

    pub fn connection(&self) -> Option<u64> {
        match self.state {
            LinkState::Handshake { connection } | LinkState::Following { connection } => {
                Some(connection)
            }
            LinkState::Down { .. } | LinkState::Dialing => None,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, LinkState::Following { .. })
    }

    /// What the log here, which ends at `end`, lacks of what the master has told of: bytes, and since when it is so:
    /// milliseconds. Without a link nobody knows of the bytes, and time passes.
    pub fn lag(&self, end: u64, now_ms: u64) -> (u64, u64) {
        let bytes = self.master_end.saturating_sub(end);
        let is_level = self.is_up() && bytes == 0;
        (bytes, if is_level { 0 } else { now_ms.saturating_sub(self.level_ms) })
    }

    /// Whether whole files come, or came: the log goes on only behind a start.
    pub fn has_files(&self) -> bool {
        self.file.is_some() || self.published.is_some()
    }
}

/// A master that asks others whether it may begin a term.
#[derive(Debug)]
pub struct Candidate {
    pub number: u64,
    /// How far the log has to be before the term may begin, and who has it up to there.
    pub wanted: Option<(u64, u64)>,
    /// The operator knows why it does not begin.
    pub is_told: bool,
}

/// Somebody who waits until so many replicas have the log up to a position.
#[derive(Debug)]
pub struct ReplicaWait {
    pub client: super::ClientRef,
    pub count: usize,
    pub position: u64,
    /// None: for ever.
    pub until_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Replication {
    /// Whom it follows; none: it is a master.
    pub master: Option<Address>,
    pub link: Option<Link>,
    pub candidate: Option<Candidate>,
    pub replicas: Vec<Replica>,
    pub waits: Vec<ReplicaWait>,
    pub gate: Gate,
    /// What this server is called by others: 40 hexadecimal digits, new with each start.
    pub run_id: String,
    /// Where replicas and Sentinel reach this server.
    pub port: u16,
    /// What the master wants to hear.
    pub master_password: Option<Vec<u8>>,
    pub syncs_full: u64,
    pub syncs_partial: u64,
    /// Bytes of the log, and of files of it, that went to replicas and backups.
    pub sent_bytes: u64,
    /// Writes that were refused since too few replicas were there, or none was sure who is the master.
    pub writes_refused: u64,
}

impl Replication {
    pub fn role(&self) -> &'static str {
        if self.master.is_some() { "slave" } else { "master" }
    }

    pub fn replica_mut(&mut self, connection: u64) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|one| one.connection == connection)
    }

    /// Servers that copy the log now.
    pub fn online(&self) -> impl Iterator<Item = &Replica> {
        self.copies().filter(|one| !one.is_backup)
    }

    /// The same, and backups.
    pub fn copies(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|one| one.stage == Stage::Online)
    }
}

// -------------------------------------------------------------------- commands

/// REPLICAOF and SLAVEOF.
pub fn replica_of(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() != 3 {
        return context.error(out, "Invalid arguments");
    }
    let (host, port) = (request.get(1), request.get(2));
    if host.eq_ignore_ascii_case(b"NO") && port.eq_ignore_ascii_case(b"ONE") {
        return Outcome::Order(Box::new(Order::Follow(None)));
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap_or_default().to_owned();
    match Address::new(&text(host), &text(port)) {
        Some(address) => Outcome::Order(Box::new(Order::Follow(Some(address)))),
        None => context.error(out, "Invalid master: REPLICAOF takes a host and a port, or NO ONE"),
    }
}

/// What a replica tells of itself, in pairs of words.
pub fn replconf(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() < 3 || request.len().is_multiple_of(2) {
        return context.error(out, "Invalid arguments");
    }
    let all: Vec<&[u8]> = request.iter().collect();
    let has_check = all[all.len() - 2].eq_ignore_ascii_case(b"check");
    if has_check && checked(&all).is_none() {
        return context.error(out, "REPLCONF was damaged on its way");
    }
    let now_ms = context.engine.now.monotonic_ms;
    let connection = context.client.connection;
    let peer = context.session.peer.clone();
    let replicas = &mut context.server.replication.replicas;
    let words: Vec<&[u8]> = request.iter().skip(1).collect();
    if replicas.iter().all(|one| one.connection != connection) {
        let host = peer.rsplit_once(':').map_or(peer.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        replicas.push(Replica { connection, host, heard_ms: now_ms, ..Replica::default() });
    }
    context.session.is_replica = true;
    let replica = context.server.replication.replica_mut(connection).expect("just pushed");
    replica.heard_ms = now_ms;
    for pair in words.chunks_exact(2) {
        let value = std::str::from_utf8(pair[1]).unwrap_or_default();
        match pair[0].to_ascii_lowercase().as_slice() {
            b"listening-port" => match value.parse() {
                Ok(port) => replica.port = port,
                Err(_) => return context.error(out, "Invalid listening-port"),
            },
            // It stands in lines and lists that others read.
            b"ip-address" if is_host(value) => replica.host = value.to_owned(),
            b"ip-address" => return context.error(out, "Invalid ip-address"),
            b"node" => match u32::from_str_radix(value, 16) {
                Ok(node) if node != 0 => replica.node = node,
                _ => return context.error(out, "Invalid node"),
            },
            // The reply would come between what is sent unasked.
            b"ack" if words.len() > 2 && !has_check => {
                return context.error(out, "Invalid arguments");
            }
            b"ack" => {
                let Ok(position) = value.parse() else {
                    return context.error(out, "Invalid position");
                };
                return Outcome::Order(Box::new(Order::Acknowledged(position)));
            }
            b"backup" => replica.is_backup = value == "yes",
            b"capa" | b"version" | b"check" => {}
            _ => {
                let text = format!("Unrecognized REPLCONF option: {}", shown(pair[0]));
                return context.error(out, &text);
            }
        }
    }
    context.ok(out)
}

/// The word that ends what servers say to each other, but for records and files, which have checksums of their own: what
/// a network damages unnoticed would be another position, or another promise.
pub fn check_of(words: &[&[u8]]) -> String {
    let mut all = Vec::new();
    for word in words {
        all.extend((word.len() as u64).to_le_bytes());
        all.extend_from_slice(word);
    }
    format!("{:016x}", xxh3_64(&all))
}

/// What a server said to who copies it: without the check, where it has one. `None`: that is not right.
pub fn without_check<'a, 'b>(words: &'b [&'a [u8]]) -> Option<&'b [&'a [u8]]> {
    match words.first() {
        None | Some(&b"" | &b"RECORDS" | &b"BYTES") => Some(words),
        Some(_) => checked(words),
    }
}

/// The words before their check, if that is right.
pub fn checked<'a, 'b>(words: &'b [&'a [u8]]) -> Option<&'b [&'a [u8]]> {
    let (check, words) = words.split_last()?;
    (check_of(words).as_bytes() == *check).then_some(words)
}

/// `PSYNC log secret-check position promised-number promised-node bare|data versions owed-term:owed-end
/// all|newest [number:node:start ...] check`
pub fn psync(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    match parse_sync(request) {
        Some(sync) => Outcome::Order(Box::new(Order::Sync(Box::new(sync)))),
        None => context.error(
            out,
            "PSYNC here is zdb's own: only another zdb can be a replica (REPLICAOF), of this version",
        ),
    }
}

fn parse_sync(request: Request<'_>) -> Option<SyncRequest> {
    let words: Vec<&[u8]> = request.iter().collect();
    let words = checked(&words)?.iter().skip(1);
    let words: Vec<&str> =
        words.map(|word| std::str::from_utf8(word)).collect::<Result<_, _>>().ok()?;
    let [log, secret_check, position, number, node, content, versions, owed, extent, terms @ ..] =
        &words[..]
    else {
        return None;
    };
    let is_all = match *extent {
        "all" => true,
        "newest" => false,
        _ => return None,
    };
    let is_bare = match *content {
        "bare" => true,
        "data" => false,
        _ => return None,
    };
    if terms.len() > REPLICA_TERMS_MAX {
        return None;
    }
    let (owed_term, owed_end) = owed.split_once(':')?;
    let hex = |word: &str| u32::from_str_radix(word, 16).ok();
    let term = |word: &&str| {
        let mut parts = word.split(':');
        let (number, node) = (parts.next()?.parse().ok()?, hex(parts.next()?)?);
        Some(Term { number, node, start: parts.next()?.parse().ok()? })
    };
    Some(SyncRequest {
        log: LogId::from_hex(log)?.0,
        secret_check: u64::from_str_radix(secret_check, 16).ok()?,
        position: position.parse().ok()?,
        promised: Promise {
            number: number.parse().ok().filter(|number| *number <= TERM_MAX)?,
            node: hex(node)?,
        },
        versions: Versions::parse(versions)?,
        owed: (owed_term.parse().ok()?, owed_end.parse().ok()?),
        terms: terms.iter().map(term).collect::<Option<_>>()?,
        is_all,
        is_bare,
    })
}

/// WAIT as in Redis: how many replicas have what was written so far, at the latest after a time.
pub fn wait_for_replicas(
    context: &mut Context<'_>,
    request: Request<'_>,
    out: &mut Output,
) -> Outcome {
    let number = |at: usize| std::str::from_utf8(request.get(at)).ok()?.parse::<u64>().ok();
    match (number(1), number(2)) {
        (Some(count), Some(ms)) if ms <= WAIT_MS_MAX => {
            Outcome::Order(Box::new(Order::WaitReplicas { count: count as usize, ms }))
        }
        _ => context.error(out, "Invalid timeout"),
    }
}

pub fn role(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if request.len() != 1 {
        return context.error(out, "Unexpected arguments");
    }
    let end = context.engine.log.appended() as i64;
    let replication = &context.server.replication;
    let mut writer = context.writer(out);
    if let Some(master) = &replication.master {
        let state = match replication.link.as_ref().map(|link| link.state) {
            Some(LinkState::Following { .. }) => "connected",
            Some(LinkState::Handshake { .. }) => "sync",
            Some(LinkState::Dialing) => "connecting",
            _ => "connect",
        };
        writer.array(5);
        writer.bulk(b"slave");
        writer.bulk(master.host.as_bytes());
        writer.integer(i64::from(master.port));
        writer.bulk(state.as_bytes());
        writer.integer(end);
        return Outcome::Done;
    }
    let online: Vec<&Replica> = replication.online().collect();
    writer.array(3);
    writer.bulk(b"master");
    writer.integer(end);
    writer.array(online.len());
    for one in online {
        writer.array(3);
        writer.bulk(one.host.as_bytes());
        writer.bulk(one.port.to_string().as_bytes());
        writer.bulk(one.acked.to_string().as_bytes());
    }
    Outcome::Done
}

/// Names and values of INFO replication.
pub fn information(context: &Context<'_>) -> Vec<(String, String)> {
    let (engine, server) = (&context.engine, &context.server);
    let replication = &server.replication;
    let now_ms = engine.now.monotonic_ms;
    let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
    let end = engine.log.appended();
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
    line("role", replication.role().into());
    if let (Some(master), Some(link)) = (&replication.master, &replication.link) {
        line("master_host", master.host.clone());
        line("master_port", master.port.to_string());
        line("master_link_status", if link.is_up() { "up" } else { "down" }.into());
        let heard = if link.connection().is_some() { seconds(link.heard_ms) as i64 } else { -1 };
        line("master_last_io_seconds_ago", heard.to_string());
        line("master_sync_in_progress", u8::from(link.file.is_some()).to_string());
        line("slave_read_repl_offset", end.to_string());
        line("slave_repl_offset", end.to_string());
        let (lag_bytes, lag_ms) = link.lag(end, now_ms);
        line("lag_bytes", lag_bytes.to_string());
        line("lag_seconds", (lag_ms / 1000).to_string());
        if !link.is_up() {
            line("master_link_down_since_seconds", seconds(link.down_ms).to_string());
        }
        line("slave_priority", server.settings.replica_priority.to_string());
        line("slave_read_only", "1".into());
        line("replica_announced", "1".into());
    }
    line("connected_slaves", replication.online().count().to_string());
    for (at, one) in replication.online().enumerate() {
        let value = format!(
            "ip={},port={},state=online,offset={},lag={}",
            one.host,
            one.port,
            one.acked,
            seconds(one.heard_ms)
        );
        line(&format!("slave{at}"), value);
    }
    let backups = replication.copies().filter(|one| one.is_backup).count();
    line("connected_backups", backups.to_string());
    line("master_failover_state", "no-failover".into());
    // As in Redis another one with each master; all that copy the log have the same.
    let last = engine.terms.last().map_or((0, 0), |term| (term.number, term.node));
    // One that begins with the next write counts already.
    let term = engine.term_due.map_or(last, |number| (number, engine.node.name));
    let log = &engine.log.id.to_hex()[..24];
    line("master_replid", format!("{log}{:08x}{:08x}", term.0 as u32, term.1));
    line("master_replid2", "0".repeat(40));
    line("master_repl_offset", end.to_string());
    line("second_repl_offset", "-1".into());
    line("repl_backlog_active", u8::from(!replication.replicas.is_empty()).to_string());
    line("repl_backlog_size", crate::limits::WRITE_BUFFER_BYTES.to_string());
    line("repl_backlog_first_byte_offset", engine.log.buffered_from().to_string());
    line("repl_backlog_histlen", (end - engine.log.buffered_from()).to_string());
    line("node", format!("{:08x}", engine.node.name));
    line("term", engine.terms.number().to_string());
    line("term_promised", engine.node.promised.number.to_string());
    line("term_candidate", u8::from(replication.candidate.is_some()).to_string());
    line("min_replicas", server.settings.min_replicas.to_string());
    line("nodes", server.settings.nodes.to_string());
    line("sync_full", replication.syncs_full.to_string());
    line("sync_partial_ok", replication.syncs_partial.to_string());
    line("replicas_sent_bytes", replication.sent_bytes.to_string());
    line("writes_refused_for_replicas", replication.writes_refused.to_string());
    lines
}
