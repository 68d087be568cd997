//! The load generator: one thread, epoll, requests prepared once and stamped before each send.
//!
//! Every connection sends a batch of `pipeline` requests, waits for all its replies, and sends the
//! next. A reply is checked for its type, its length and, for GET, that the value is that key's.

use crate::load::{Command, Keys, Load, scattered_key, write_key};
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A server that leaves every connection without a reply for this long has failed.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often the clock of the server is compared with the end of the measurement.
const CHECK_EVERY: Duration = Duration::from_millis(20);
pub const LATENCY_MAX_NS: u64 = 120_000_000_000;
/// A value starts with the stamp that makes it differ, then repeats its key.
pub const STAMP_SIZE: usize = 8;
pub const KEY_SIZE: usize = 16;
const ID_SIZE: usize = 8;

/// When a measurement ends.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub warmup: Duration,
    /// Ends when both are reached ...
    pub wall_min: Duration,
    pub server_cpu_min: Duration,
    /// ... or this.
    pub wall_max: Duration,
}

/// What was seen between the end of the warm-up and the end of the window.
#[derive(Debug)]
pub struct Outcome {
    pub requests: u64,
    pub elapsed: Duration,
    pub server_cpu: Duration,
    pub client_cpu: Duration,
    /// Nanoseconds from sending a batch to its last reply.
    pub latency: Histogram<u64>,
}

/// Runs `load` for the length of `window`. `server_cpu` reads the CPU time the server used so far.
pub fn measure(
    address: SocketAddr,
    load: &Load,
    constant: bool,
    window: &Window,
    server_cpu: &dyn Fn() -> Result<Duration>,
) -> Result<Outcome> {
    Generator::connect(address, load, constant)?.measure(window, server_cpu)
}

/// Sends every request of a load whose keys come each once.
pub fn fill(address: SocketAddr, load: &Load) -> Result<()> {
    Generator::connect(address, load, false)?.run_out()
}

/// Sends about `count` requests, and returns how many were answered.
pub fn send_some(address: SocketAddr, load: &Load, count: u64) -> Result<u64> {
    Generator::connect(address, load, false)?.run_some(count)
}

struct Generator {
    epoll: Epoll,
    connections: Vec<Connection>,
    source: Source,
    /// Connections with a batch under way.
    busy: usize,
    last_reply: Instant,
}

impl Generator {
    fn connect(address: SocketAddr, load: &Load, constant: bool) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?;
        let template = Template::new(load);
        let mut connections = Vec::with_capacity(load.clients);
        for place in 0..load.clients {
            let stream = TcpStream::connect(address)
                .with_context(|| format!("cannot connect client {place} to {address}"))?;
            stream.set_nodelay(true)?;
            if let Some(name) = load.spaces.of_connection(place) {
                select(&stream, &name)?;
            }
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
            connections.push(Connection::new(stream, template.clone(), load, constant));
        }
        let source = Source::new(load.keys);
        Ok(Generator { epoll, connections, source, busy: 0, last_reply: Instant::now() })
    }

    fn measure(
        mut self,
        window: &Window,
        server_cpu: &dyn Fn() -> Result<Duration>,
    ) -> Result<Outcome> {
        let mut unused = new_histogram()?;
        let begin = Instant::now();
        self.start_all()?;
        while begin.elapsed() < window.warmup {
            self.turn(&mut unused, true)?;
        }

        let mut latency = new_histogram()?;
        let (server_before, client_before, start) = (server_cpu()?, own_cpu()?, Instant::now());
        let mut requests = 0;
        let mut next_check = start + CHECK_EVERY;
        loop {
            requests += self.turn(&mut latency, true)?;
            let now = Instant::now();
            if now < next_check {
                continue;
            }
            next_check = now + CHECK_EVERY;
            let elapsed = now - start;
            let used = server_cpu()? - server_before;
            if elapsed >= window.wall_max
                || (elapsed >= window.wall_min && used >= window.server_cpu_min)
            {
                let outcome = Outcome {
                    requests,
                    elapsed,
                    server_cpu: used,
                    client_cpu: own_cpu()? - client_before,
                    latency,
                };
                while self.busy > 0 {
                    self.turn(&mut unused, false)?;
                }
                return Ok(outcome);
            }
        }
    }

    fn run_out(mut self) -> Result<()> {
        let mut unused = new_histogram()?;
        self.start_all()?;
        while self.busy > 0 {
            self.turn(&mut unused, true)?;
        }
        Ok(())
    }

    fn run_some(mut self, count: u64) -> Result<u64> {
        let mut unused = new_histogram()?;
        self.start_all()?;
        let mut requests = 0;
        while requests < count {
            requests += self.turn(&mut unused, true)?;
        }
        while self.busy > 0 {
            requests += self.turn(&mut unused, false)?;
        }
        Ok(requests)
    }

    fn start_all(&mut self) -> Result<()> {
        self.last_reply = Instant::now();
        for place in 0..self.connections.len() {
            self.start(place)?;
        }
        Ok(())
    }

    /// Sends the next batch on a connection, unless the keys have run out.
    fn start(&mut self, place: usize) -> Result<()> {
        let connection = &mut self.connections[place];
        if connection.prepare(&mut self.source) {
            self.busy += 1;
            connection.sent_at = Instant::now();
            connection.send(&self.epoll, place)?;
        }
        Ok(())
    }

    /// One wait and all that it reports; returns how many requests were answered in full batches.
    fn turn(&mut self, latency: &mut Histogram<u64>, restart: bool) -> Result<u64> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::from(100_u16)) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error).context("epoll_wait failed"),
        };
        if count == 0 {
            ensure!(
                self.last_reply.elapsed() < SILENCE_MAX,
                "no reply for {} s, {} connections are waiting",
                SILENCE_MAX.as_secs(),
                self.busy
            );
            return Ok(0);
        }
        let mut requests = 0;
        for event in &events[..count] {
            let place = event.data() as usize;
            let connection = &mut self.connections[place];
            if event.events().contains(EpollFlags::EPOLLOUT) {
                connection.send(&self.epoll, place)?;
            }
            if !event
                .events()
                .intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
            {
                continue;
            }
            if connection.receive()? {
                let now = Instant::now();
                let waited_ns = (now - connection.sent_at).as_nanos() as u64;
                latency.record(waited_ns.min(LATENCY_MAX_NS))?;
                requests += connection.batch as u64;
                self.last_reply = now;
                self.busy -= 1;
                if restart {
                    self.start(place)?;
                }
            }
        }
        Ok(requests)
    }
}

/// Moves a fresh connection into a namespace.
pub fn select(mut stream: &TcpStream, name: &str) -> Result<()> {
    stream.write_all(format!("SELECT {name}\r\n").as_bytes())?;
    let mut reply = [0; 256];
    let count = stream.read(&mut reply)?;
    ensure!(&reply[..count] == b"+OK\r\n", "SELECT {name} answered {:?}", text(&reply[..count]));
    Ok(())
}

pub fn new_histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, LATENCY_MAX_NS, 3)?)
}

/// The CPU time of this thread, which is the whole generator.
pub fn own_cpu() -> Result<Duration> {
    Ok(Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

/// Where keys and stamps come from; one for all connections of a load.
struct Source {
    keys: Keys,
    random: fastrand::Rng,
    next: u64,
    stamp: u64,
}

impl Source {
    fn new(keys: Keys) -> Self {
        let mut random = fastrand::Rng::new();
        // A random start: no run repeats the values of an earlier one.
        let stamp = random.u64(..);
        let next = if let Keys::EachScattered { first, .. } = keys { first } else { 0 };
        Source { keys, random, next, stamp }
    }

    fn key(&mut self, out: &mut [u8]) -> bool {
        match self.keys {
            Keys::Random { span } => write_key(out, *b"key:", self.random.u64(..span)),
            Keys::Fixed { prefix, count } => write_key(out, prefix, self.random.u64(..count)),
            Keys::Each { count, .. } if self.next == count => return false,
            Keys::EachScattered { first, count } if self.next == first + count => return false,
            Keys::Each { prefix, .. } => write_key(out, prefix, self.next),
            Keys::EachScattered { .. } => write_key(out, *b"key:", scattered_key(self.next)),
        }
        self.next += 1;
        true
    }

    fn stamp(&mut self) -> [u8; STAMP_SIZE] {
        self.stamp = self.stamp.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.stamp.to_le_bytes()
    }
}

/// One batch of requests as bytes, with the places of what changes.
#[derive(Clone)]
struct Template {
    bytes: Vec<u8>,
    request_size: usize,
    /// For ids: in the value alone.
    key_at: usize,
    /// None for GET.
    value_at: Option<usize>,
    /// Where the key's number stands as an id.
    id_at: Option<usize>,
}

impl Template {
    fn new(load: &Load) -> Self {
        let mut request = Vec::new();
        request.extend_from_slice(match load.command {
            Command::Get => b"*2\r\n$3\r\nGET\r\n$16\r\n".as_slice(),
            Command::Set => b"*3\r\n$3\r\nSET\r\n$16\r\n".as_slice(),
            Command::Add => b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n".as_slice(),
            Command::SetId => b"*3\r\n$3\r\nSET\r\n$8\r\n\0\0\0\0\0\0\0\0\r\n".as_slice(),
        });
        let has_id = matches!(load.command, Command::Add | Command::SetId);
        let id_at = (load.command == Command::SetId).then(|| request.len() - ID_SIZE - 2);
        let mut key_at = request.len();
        if !has_id {
            request.extend_from_slice(&[b'k'; KEY_SIZE]);
            request.extend_from_slice(b"\r\n");
        }
        let value_at = (load.command != Command::Get).then(|| {
            request.extend_from_slice(format!("${}\r\n", load.value_size).as_bytes());
            let at = request.len();
            // Random bytes: nothing on the way can compress them.
            let mut random = fastrand::Rng::with_seed(1);
            request.extend((0..load.value_size).map(|_| random.u8(..)));
            request.extend_from_slice(b"\r\n");
            at
        });
        if let (true, Some(value_at)) = (has_id, value_at) {
            key_at = value_at + STAMP_SIZE;
        }
        Template {
            bytes: request.repeat(load.pipeline),
            request_size: request.len(),
            key_at,
            value_at,
            id_at,
        }
    }
}

struct Connection {
    stream: TcpStream,
    template: Template,
    sent: usize,
    to_send: usize,
    wants_out: bool,
    sent_at: Instant,
    batch: usize,
    replies: ReplyReader,
}

impl Connection {
    fn new(stream: TcpStream, template: Template, load: &Load, constant: bool) -> Self {
        let replies = ReplyReader::new(load, constant);
        Connection {
            stream,
            template,
            sent: 0,
            to_send: 0,
            wants_out: false,
            sent_at: Instant::now(),
            batch: 0,
            replies,
        }
    }

    /// Stamps fresh keys and values into the batch; false when the keys have run out.
    fn prepare(&mut self, source: &mut Source) -> bool {
        let Template { bytes, request_size, key_at, value_at, id_at } = &mut self.template;
        self.batch = 0;
        for request in bytes.chunks_exact_mut(*request_size) {
            let mut key = [0; KEY_SIZE];
            if !source.key(&mut key) {
                break;
            }
            request[*key_at..*key_at + KEY_SIZE].copy_from_slice(&key);
            if let Some(id_at) = *id_at {
                let number =
                    key[4..].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
                request[id_at..id_at + ID_SIZE].copy_from_slice(&number.to_le_bytes());
            }
            if let Some(value_at) = *value_at {
                let value = &mut request[value_at..];
                value[..STAMP_SIZE].copy_from_slice(&source.stamp());
                value[STAMP_SIZE..STAMP_SIZE + KEY_SIZE].copy_from_slice(&key);
            }
            self.batch += 1;
        }
        self.sent = 0;
        self.to_send = self.batch * *request_size;
        self.batch > 0
    }

    fn send(&mut self, epoll: &Epoll, place: usize) -> Result<()> {
        while self.sent < self.to_send {
            match (&self.stream).write(&self.template.bytes[self.sent..self.to_send]) {
                Ok(0) => bail!("the server closed a connection while a request was sent"),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending a request failed"),
            }
        }
        let wants_out = self.sent < self.to_send;
        if wants_out != self.wants_out {
            self.wants_out = wants_out;
            let flags = if wants_out {
                EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT
            } else {
                EpollFlags::EPOLLIN
            };
            epoll.modify(&self.stream, &mut EpollEvent::new(flags, place as u64))?;
        }
        Ok(())
    }

    /// Reads what is there; true when the batch is answered.
    fn receive(&mut self) -> Result<bool> {
        match (&self.stream).read(self.replies.space()) {
            Ok(0) => bail!(
                "the server closed a connection with {} replies missing",
                self.batch - self.replies.answered
            ),
            Ok(count) => self.replies.take(count, self.batch, &self.template),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).context("receiving a reply failed"),
        }
    }
}

/// Takes replies apart just far enough to know that they are right.
struct ReplyReader {
    command: Command,
    value_size: usize,
    /// The null server answers the same value to everybody: only its length can be checked.
    constant: bool,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the current reply that are still to come and need no look.
    skip: usize,
    answered: usize,
}

impl ReplyReader {
    fn new(load: &Load, constant: bool) -> Self {
        let size = (load.value_size + 64) * load.pipeline.min(16);
        ReplyReader {
            command: load.command,
            value_size: load.value_size,
            constant,
            buffer: vec![0; size.clamp(16 << 10, 256 << 10)].into_boxed_slice(),
            start: 0,
            end: 0,
            skip: 0,
            answered: 0,
        }
    }

    fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Takes `count` more bytes in; true when `batch` replies are complete, and then starts over.
    fn take(&mut self, count: usize, batch: usize, template: &Template) -> Result<bool> {
        self.end += count;
        while self.answered < batch {
            if self.skip > 0 {
                let skipped = self.skip.min(self.end - self.start);
                self.start += skipped;
                self.skip -= skipped;
                if self.skip > 0 {
                    break;
                }
                self.answered += 1;
                continue;
            }
            let key_at = self.answered * template.request_size + template.key_at;
            let key = &template.bytes[key_at..key_at + KEY_SIZE];
            let Some((looked_at, rest)) = self.check(&self.buffer[self.start..self.end], key)?
            else {
                break;
            };
            self.start += looked_at;
            self.skip = rest;
            if rest == 0 {
                self.answered += 1;
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.answered < batch {
            return Ok(false);
        }
        ensure!(
            self.start == self.end,
            "the server sent more than it was asked for: {:?}",
            text(&self.buffer[self.start..self.end])
        );
        self.answered = 0;
        Ok(true)
    }

    /// Checks the start of a reply: how many bytes of it were looked at and how many follow, or
    /// none where more bytes are needed to tell.
    fn check(&self, input: &[u8], key: &[u8]) -> Result<Option<(usize, usize)>> {
        let Some(line_end) = input.iter().take(1024).position(|&byte| byte == b'\r') else {
            ensure!(input.len() < 1024, "the server answered no RESP: {:?}", text(input));
            return Ok(None);
        };
        let (head, body_at) = (&input[..line_end], line_end + 2);
        match (self.command, head[0]) {
            (_, b'-') => bail!("the server answered an error: {}", text(&head[1..])),
            (Command::Set, b'+') if head == b"+OK" => {
                Ok((input.len() >= body_at).then_some((body_at, 0)))
            }
            (Command::Set, b'$') if head == b"$16" => {
                let whole = body_at + KEY_SIZE + 2;
                if input.len() < whole {
                    return Ok(None);
                }
                let echo = &input[body_at..body_at + KEY_SIZE];
                ensure!(
                    self.constant || echo == key,
                    "SET of {:?} answered another key, {:?}",
                    text(key),
                    text(echo)
                );
                Ok(Some((whole, 0)))
            }
            (Command::Add | Command::SetId, b'$') if head == b"$8" => {
                let whole = body_at + ID_SIZE + 2;
                Ok((input.len() >= whole).then_some((whole, 0)))
            }
            (Command::Get, b'$') if parse_number(&head[1..]) == Some(self.value_size) => {
                let looked_at = body_at + STAMP_SIZE + KEY_SIZE;
                if input.len() < looked_at {
                    return Ok(None);
                }
                let found = &input[body_at + STAMP_SIZE..looked_at];
                ensure!(
                    self.constant || found == key,
                    "GET of {:?} answered the value of {:?}",
                    text(key),
                    text(found)
                );
                Ok(Some((looked_at, self.value_size + 2 - STAMP_SIZE - KEY_SIZE)))
            }
            (command, _) => {
                bail!("{} of {:?} got the wrong reply {:?}", command.name(), text(key), text(head))
            }
        }
    }
}

fn parse_number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0'))
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LOADS;

    /// Feeds one reply cut at every byte; the reader must reach the same verdict each time.
    fn check(id: &str, reply: &[u8], good: bool) {
        let load = LOADS.iter().find(|load| load.id == id).unwrap();
        let mut template = Template::new(load);
        let key_at = template.key_at;
        template.bytes[key_at..key_at + KEY_SIZE].copy_from_slice(b"key:000000000001");
        for cut in 0..=reply.len() {
            let mut reader = ReplyReader::new(load, false);
            let mut verdict = Ok(false);
            for part in [&reply[..cut], &reply[cut..]] {
                if matches!(verdict, Ok(false)) {
                    reader.space()[..part.len()].copy_from_slice(part);
                    verdict = reader.take(part.len(), 1, &template);
                }
            }
            assert_eq!(verdict.is_ok_and(|done| done), good, "{id} {:?} cut at {cut}", text(reply));
        }
    }

    #[test]
    fn replies_are_checked() {
        check("set-100", b"+OK\r\n", true);
        check("set-100", b"$16\r\nkey:000000000001\r\n", true);
        check("set-100", b"$16\r\nkey:000000000002\r\n", false);
        check("set-100", b"$-1\r\n", false);
        check("set-100", b"-ERR disk full\r\n", false);
        let mut value = b"$100\r\nstamp...key:000000000001".to_vec();
        value.resize(6 + 100, b'x');
        value.extend_from_slice(b"\r\n");
        check("get-100", &value, true);
        value[6 + 8] = b'K';
        check("get-100", &value, false);
        check("get-100", b"$-1\r\n", false);
        check("get-100", b"$99\r\n", false);
    }

    #[test]
    fn an_id_is_a_reply_of_eight_bytes() {
        let keys = Keys::EachScattered { first: 7, count: 1 };
        let load = crate::load::plain(Command::SetId, keys);
        let template = Template::new(&load);
        let id_at = template.id_at.expect("an id");
        assert_eq!(&template.bytes[id_at - 4..id_at], b"$8\r\n");
        for (reply, good) in [(b"$8\r\n\r\n\r\n\0\0\0\0\r\n".as_slice(), true), (b"$-1\r\n", false)]
        {
            let mut reader = ReplyReader::new(&load, false);
            reader.space()[..reply.len()].copy_from_slice(reply);
            let done = reader.take(reply.len(), 1, &template).unwrap_or_default();
            assert_eq!(done, good, "{}", text(reply));
        }
    }
}
