//! Asks a server again and again where its log ends, on one connection.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SILENCE_MAX: Duration = Duration::from_secs(30);

pub struct Watcher {
    stream: TcpStream,
}

/// The section `replication` of INFO.
pub struct Info {
    text: String,
}

impl Watcher {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("cannot connect to ask for INFO")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Watcher { stream })
    }

    pub fn look(&mut self) -> Result<Info> {
        self.stream.write_all(b"INFO replication\r\n")?;
        let mut reply = Vec::new();
        let mut part = [0; 4096];
        loop {
            let count = self.stream.read(&mut part).context("no answer to INFO")?;
            ensure!(count > 0, "the server closed the connection instead of answering INFO");
            reply.extend_from_slice(&part[..count]);
            if let Some(text) = bulk(&reply)? {
                return Ok(Info { text });
            }
        }
    }

    /// The end of the server's log, what it has in memory included.
    pub fn end(&mut self) -> Result<u64> {
        self.look()?.number("master_repl_offset")
    }
}

impl Info {
    pub fn number(&self, name: &str) -> Result<u64> {
        let line = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.trim().parse().ok());
        number.with_context(|| format!("INFO replication has no {name}"))
    }
}

/// The text of a bulk string; none while some of it is still to come.
fn bulk(reply: &[u8]) -> Result<Option<String>> {
    let Some(head_end) = reply.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&reply[..head_end]);
    let Some(length) = head.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok())
    else {
        bail!("INFO answered {head}");
    };
    let body = &reply[head_end + 2..];
    Ok((body.len() >= length + 2).then(|| String::from_utf8_lossy(&body[..length]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_string_cut_anywhere_is_waited_for() {
        let reply = b"$24\r\nrole:master\r\nnumber:12\r\n\r\n";
        for cut in 0..reply.len() {
            assert!(bulk(&reply[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        let info = Info { text: bulk(reply).unwrap().unwrap() };
        assert_eq!(info.number("number").unwrap(), 12);
        assert!(info.number("role").is_err());
        assert!(bulk(b"-ERR no\r\n").is_err());
    }
}
