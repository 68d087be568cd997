//! The way to the server that is backed up: words go there, words come back.

use crate::command::replication::{Address, check_of};
use crate::limits::{REPLICA_DIAL_MS, REPLICA_SILENCE_MS, REPLICA_STATUS_MS};
use crate::output::Output;
use crate::resp::{Progress, Protocol, RequestParser};
use crate::server::MasterTls;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// What was dealt with stays in the buffer up to so many bytes.
const DONE_BYTES_MAX: usize = 1 << 20;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

pub struct Master {
    stream: Stream,
    input: Vec<u8>,
    /// Where the next words begin, and where they end once they are whole.
    at: usize,
    end: usize,
    parser: RequestParser,
    chunk: Vec<u8>,
    heard: Instant,
}

impl Master {
    pub fn connect(to: &Address, tls: Option<&MasterTls>) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot connect to {to}: {error}");
        let stream = connect(to).map_err(cannot)?;
        stream.set_nodelay(true).map_err(cannot)?;
        stream.set_read_timeout(Some(Duration::from_millis(REPLICA_STATUS_MS))).map_err(cannot)?;
        stream
            .set_write_timeout(Some(Duration::from_millis(REPLICA_SILENCE_MS)))
            .map_err(cannot)?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(tls) => Stream::Tls(Box::new(StreamOwned::new(tls.connection(&to.host)?, stream))),
        };
        Ok(Self {
            stream,
            input: Vec::new(),
            at: 0,
            end: 0,
            parser: RequestParser::new(),
            chunk: vec![0; READ_BYTES],
            heard: Instant::now(),
        })
    }

    /// Says words, and their check.
    pub fn say_checked(&mut self, words: &[&[u8]]) -> Result<(), String> {
        let check = check_of(words);
        self.say(&[words, &[check.as_bytes()]].concat())
    }

    pub fn say(&mut self, words: &[&[u8]]) -> Result<(), String> {
        let mut output = Output::default();
        let mut writer = output.writer(Protocol::Resp2);
        writer.array(words.len());
        words.iter().for_each(|word| writer.bulk(word));
        let mut slices = Vec::new();
        output.slices(0, &mut slices);
        let sent = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(&slices.concat()),
            Stream::Tls(stream) => stream.write_all(&slices.concat()).and_then(|()| stream.flush()),
        };
        sent.map_err(|error| format!("the connection broke: {error}"))
    }

    /// Waits for the next words, at most a while. True: `words` are there.
    pub fn listen(&mut self) -> Result<bool, String> {
        loop {
            if self.find_words()? {
                return Ok(true);
            }
            let read = match &mut self.stream {
                Stream::Plain(stream) => stream.read(&mut self.chunk),
                Stream::Tls(stream) => stream.read(&mut self.chunk),
            };
            match read {
                Ok(0) => return Err("it closed the connection".into()),
                Ok(count) => {
                    self.heard = Instant::now();
                    self.input.extend_from_slice(&self.chunk[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if self.heard.elapsed() > Duration::from_millis(REPLICA_SILENCE_MS) {
                        return Err("it has been silent for too long".into());
                    }
                    return Ok(false);
                }
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }

    /// Looks for whole words in what came.
    fn find_words(&mut self) -> Result<bool, String> {
        if self.end > self.at {
            self.at = self.end;
        }
        if self.at > DONE_BYTES_MAX {
            self.input.drain(..self.at);
            (self.at, self.end) = (0, 0);
        }
        while let Some(first) = self.input.get(self.at) {
            if !matches!(first, b'+' | b'-') {
                return match self.parser.parse(&self.input[self.at..]) {
                    Ok(Progress::Complete { consumed }) => {
                        self.end = self.at + consumed;
                        Ok(true)
                    }
                    Ok(Progress::Incomplete) => Ok(false),
                    Err(error) => {
                        Err(format!("it says what is none of zdb's words: {}", error.reply))
                    }
                };
            }
            // A reply, and not an array of words.
            let rest = &self.input[self.at..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                return Ok(false);
            };
            if rest[0] == b'-' {
                let text = String::from_utf8_lossy(rest[1..length].trim_ascii_end());
                return Err(format!("it says: {}", text.escape_debug()));
            }
            self.at += length + 1;
        }
        Ok(false)
    }

    /// What `listen` found.
    pub fn words(&self) -> Vec<&[u8]> {
        self.parser.request(&self.input[self.at..self.end]).iter().collect()
    }
}

fn connect(to: &Address) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (to.host.as_str(), to.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_millis(REPLICA_DIAL_MS)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
