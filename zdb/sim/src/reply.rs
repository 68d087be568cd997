//! Replies as a strict client reads them, in RESP2 and RESP3.

/// How deep replies may nest.
const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    /// Arrays, sets and, as keys and values in turn, maps.
    Many(Vec<Reply>),
    /// What the server sends unasked.
    Push(Vec<Reply>),
    /// Doubles, booleans, big numbers.
    Other(Vec<u8>),
}

impl std::fmt::Display for Reply {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Simple(text) => write!(out, "+{}", text.escape_ascii()),
            Self::Error(text) => write!(out, "-{}", text.escape_ascii()),
            Self::Integer(number) => write!(out, ":{number}"),
            Self::Bulk(bytes) => write!(out, "${}", bytes.escape_ascii()),
            Self::Other(text) => write!(out, ",{}", text.escape_ascii()),
            Self::Nil => write!(out, "nil"),
            Self::Many(many) | Self::Push(many) => {
                write!(out, "[")?;
                many.iter().try_for_each(|one| write!(out, "{one} "))?;
                write!(out, "]")
            }
        }
    }
}

impl Reply {
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    pub fn bulk(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The first reply and its bytes; `None`: it is not whole yet; an error says what is no RESP.
pub fn parse(bytes: &[u8], resp3: bool) -> Result<Option<(Reply, usize)>, String> {
    let mut parser = Parser { bytes, at: 0, resp3 };
    let reply = parser.reply(0)?;
    Ok(reply.map(|reply| (reply, parser.at)))
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    resp3: bool,
}

impl Parser<'_> {
    fn line(&mut self) -> Result<Option<&[u8]>, String> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            return Ok(None);
        };
        match rest.get(end + 1) {
            None if rest[end] == b'\r' => Ok(None),
            Some(b'\n') if rest[end] == b'\r' => {
                self.at += end + 2;
                Ok(Some(&rest[..end]))
            }
            _ => Err("a line does not end with CR LF".into()),
        }
    }

    fn number(&mut self) -> Result<Option<i64>, String> {
        let Some(line) = self.line()? else { return Ok(None) };
        let text = std::str::from_utf8(line).map_err(|_| "no number")?;
        let number: i64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
        if number.to_string() != text {
            return Err(format!("{text:?} is an odd number"));
        }
        Ok(Some(number))
    }

    fn reply(&mut self, depth: usize) -> Result<Option<Reply>, String> {
        if depth > DEPTH_MAX {
            return Err("nested too deep".into());
        }
        let Some(&kind) = self.bytes.get(self.at) else { return Ok(None) };
        self.at += 1;
        if matches!(kind, b'_' | b'%' | b'~' | b'>' | b'=' | b',' | b'#' | b'(' | b'!' | b'|')
            && !self.resp3
        {
            return Err(format!("{:?} on a connection in RESP2", kind as char));
        }
        Ok(match kind {
            b'+' => self.line()?.map(|line| Reply::Simple(line.to_vec())),
            b'-' => self.line()?.map(|line| Reply::Error(line.to_vec())),
            b':' => self.number()?.map(Reply::Integer),
            b'_' => self.line()?.map(|_| Reply::Nil),
            b',' | b'#' | b'(' => self.line()?.map(|line| Reply::Other(line.to_vec())),
            b'$' | b'=' | b'!' => {
                let Some(length) = self.number()? else { return Ok(None) };
                if length == -1 && kind == b'$' && !self.resp3 {
                    return Ok(Some(Reply::Nil));
                }
                let length = usize::try_from(length).map_err(|_| "a negative length")?;
                let Some(with_end) = self.bytes[self.at..].get(..length + 2) else {
                    return Ok(None);
                };
                if &with_end[length..] != b"\r\n" {
                    return Err("a bulk does not end with CR LF".into());
                }
                let text = with_end[..length].to_vec();
                self.at += length + 2;
                Some(match kind {
                    b'!' => Reply::Error(text),
                    b'=' if text.get(3) != Some(&b':') => return Err("no kind of text".into()),
                    b'=' => Reply::Bulk(text[4..].to_vec()),
                    _ => Reply::Bulk(text),
                })
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Some(count) = self.number()? else { return Ok(None) };
                if count == -1 && kind == b'*' && !self.resp3 {
                    return Ok(Some(Reply::Nil));
                }
                let count = usize::try_from(count).map_err(|_| "a negative count")?;
                let count = if matches!(kind, b'%' | b'|') { 2 * count } else { count };
                let mut many = Vec::new();
                for _ in 0..count {
                    let Some(one) = self.reply(depth + 1)? else { return Ok(None) };
                    many.push(one);
                }
                Some(if kind == b'>' { Reply::Push(many) } else { Reply::Many(many) })
            }
            other => return Err(format!("{:?} begins no reply", other as char)),
        })
    }
}
