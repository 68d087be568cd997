//! Requests as they arrive: an incremental parser that copies nothing and resumes where it stopped.
//!
//! The parser keeps places in the caller's buffer, not bytes. Only inline commands (`PING` typed into
//! a terminal) are unquoted into a scratch buffer. The grammar is section 1.2 of the 0-db
//! specification without its defects: every error ends the connection.

/// Longest single argument, payload included. 0-db accepts this size and refuses one byte more.
pub const BULK_BYTES_MAX: usize = crate::limits::PAYLOAD_BYTES_MAX;
/// Longest sum of all arguments of one request: a payload, a key, and room for as much again.
pub const REQUEST_BYTES_MAX: usize = 2 * BULK_BYTES_MAX;
/// Most arguments of a request, command name included.
pub const ARGUMENT_COUNT_MAX: usize = 1024;
/// Longest `*count` or `$length` line, its LF included.
pub const HEADER_LINE_BYTES_MAX: usize = 8192;
/// Longest inline command, without its LF (Redis: PROTO_INLINE_MAX_SIZE).
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes after each payload: CR LF from every client, not checked.
const BULK_END_BYTES: usize = 2;
/// Longest request on the wire, every header line padded to its limit: the most that a connection
/// has to buffer before `parse` answers something other than `Incomplete`.
pub const REQUEST_WIRE_BYTES_MAX: usize = HEADER_LINE_BYTES_MAX
    + ARGUMENT_COUNT_MAX * (HEADER_LINE_BYTES_MAX + BULK_END_BYTES)
    + REQUEST_BYTES_MAX;
/// A scratch buffer over this size is given back after its inline command: an idle connection
/// should not hold 64 KiB for one long line.
const SCRATCH_BYTES_KEPT: usize = 1024;

// A span holds 32-bit places; a lone payload of the largest size must fit beside its command.
const _: () = assert!(REQUEST_WIRE_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BULK_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX < REQUEST_BYTES_MAX);

/// The client broke the protocol: answer `-{reply}` and close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolError {
    /// The text without the leading `-`.
    pub reply: &'static str,
}

impl ProtocolError {
    const ARRAY_EXPECTED: Self = Self::new("Malformed request, array expected");
    const HEADER_TOO_LONG: Self = Self::new("Malformed request, header line too long");
    const MALFORMED_QUERY: Self = Self::new("Malformed query string");
    const MISSING_ARGUMENTS: Self = Self::new("Missing arguments");
    const TOO_MANY_ARGUMENTS: Self = Self::new("Too many arguments");
    const NEGATIVE_COUNT: Self = Self::new("Internal memory error");
    const PAYLOAD_TOO_BIG: Self = Self::new("Payload too big");
    const INLINE_TOO_BIG: Self = Self::new("Too big inline request");
    const UNBALANCED_QUOTES: Self = Self::new("Unbalanced quotes in request");

    const fn new(reply: &'static str) -> Self {
        Self { reply }
    }
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reply)
    }
}

impl std::error::Error for ProtocolError {}

/// How far `RequestParser::parse` came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call again with the same bytes and more behind them.
    Incomplete,
    /// The first `consumed` bytes are one request, or a run of blank lines: then `request` is empty
    /// and wants no reply. Blank lines are handed over at once, so that they never pile up.
    Complete { consumed: usize },
}

/// One argument's place in the input, or in the scratch buffer of an inline command.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    size: u32,
}

impl Span {
    /// Both numbers are below `REQUEST_WIRE_BYTES_MAX`, which fits 32 bits (asserted above).
    fn new(start: usize, size: usize) -> Self {
        Self { start: start as u32, size: size as u32 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Start,
    Arguments,
    Complete,
}

/// The arguments of one complete request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    spans: &'a [Span],
    bytes: &'a [u8],
}

impl<'a> Request<'a> {
    /// Number of arguments, command name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True for a run of blank lines, which wants no reply.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`, 0 being the command name. Panics past the end, like an index.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        slice(self.bytes, self.spans[index])
    }

    /// The request without its last argument, and that one.
    pub fn split_last(&self) -> Option<(Request<'a>, &'a [u8])> {
        let (last, spans) = self.spans.split_last()?;
        Some((Request { spans, bytes: self.bytes }, slice(self.bytes, *last)))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |&span| slice(bytes, span))
    }
}

#[inline]
fn slice(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.start as usize..][..span.size as usize]
}

/// Parser of one connection. One request at a time; its memory is reused for the next.
#[derive(Debug)]
pub struct RequestParser {
    spans: Vec<Span>,
    scratch: Vec<u8>,
    phase: Phase,
    is_inline: bool,
    /// Arguments announced by the `*` line. Never used to reserve memory.
    argument_count: usize,
    /// First byte of the input that is not parsed yet.
    at: usize,
    /// Bytes before this place hold no LF of the current line, so they are not searched again.
    searched: usize,
    /// Length of the bulk at `at` whose header is parsed and whose payload is still coming.
    pending_bulk_bytes: Option<usize>,
    argument_bytes: usize,
    wanted_bytes: usize,
}

impl Default for RequestParser {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestParser {
    pub const fn new() -> Self {
        Self {
            spans: Vec::new(),
            scratch: Vec::new(),
            phase: Phase::Start,
            is_inline: false,
            argument_count: 0,
            at: 0,
            searched: 0,
            pending_bulk_bytes: None,
            argument_bytes: 0,
            wanted_bytes: 0,
        }
    }

    /// Forgets the current request. `parse` does it by itself after a complete one.
    #[inline]
    pub fn reset(&mut self) {
        self.spans.clear();
        if self.is_inline {
            self.scratch.clear();
            self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
            self.is_inline = false;
        }
        self.phase = Phase::Start;
        self.at = 0;
        self.searched = 0;
        self.pending_bulk_bytes = None;
        self.argument_bytes = 0;
        self.wanted_bytes = 0;
    }

    /// `input` starts at the first byte of the request. After `Incomplete`, call again with the same
    /// start and more bytes: what was parsed is not looked at again. After an error, only `reset`
    /// leads on.
    #[inline]
    pub fn parse(&mut self, input: &[u8]) -> Result<Progress, ProtocolError> {
        if self.phase == Phase::Complete {
            self.reset();
        }
        if self.phase == Phase::Start {
            match input.first() {
                Some(b'*') => {}
                Some(&first) => return self.parse_line(input, first),
                None => return Ok(Progress::Incomplete),
            }
            let Some((number, next)) = self.parse_header(input, 0)? else {
                return Ok(Progress::Incomplete);
            };
            self.argument_count = argument_count(number)?;
            self.at = next;
            self.phase = Phase::Arguments;
        }
        self.parse_arguments(input)
    }

    /// The request that `parse` completed, over the same `input`.
    #[inline]
    pub fn request<'a>(&'a self, input: &'a [u8]) -> Request<'a> {
        assert!(self.phase == Phase::Complete, "request() before parse() said Complete");
        let bytes = if self.is_inline { &self.scratch } else { input };
        Request { spans: &self.spans, bytes }
    }

    /// Bytes still missing of the current argument and its line end, for sizing the read buffer:
    /// at most `BULK_BYTES_MAX` + 2. 0 where it is not known.
    pub fn bytes_wanted(&self) -> usize {
        self.wanted_bytes
    }

    #[inline]
    fn parse_arguments(&mut self, input: &[u8]) -> Result<Progress, ProtocolError> {
        while self.spans.len() < self.argument_count {
            let bulk_bytes = match self.pending_bulk_bytes {
                Some(bulk_bytes) => bulk_bytes,
                None => {
                    let Some(bulk_bytes) = self.parse_bulk_header(input)? else {
                        return Ok(Progress::Incomplete);
                    };
                    bulk_bytes
                }
            };
            let next = self.at + bulk_bytes + BULK_END_BYTES;
            if next > input.len() {
                self.pending_bulk_bytes = Some(bulk_bytes);
                self.wanted_bytes = next - input.len();
                return Ok(Progress::Incomplete);
            }
            self.pending_bulk_bytes = None;
            self.spans.push(Span::new(self.at, bulk_bytes));
            self.at = next;
        }
        self.wanted_bytes = 0;
        self.phase = Phase::Complete;
        Ok(Progress::Complete { consumed: self.at })
    }

    /// The length in the `$` line at `at`, checked; `at` moves to the payload.
    #[inline]
    fn parse_bulk_header(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        self.wanted_bytes = 0;
        match input.get(self.at) {
            Some(b'$') => {}
            Some(_) => return Err(ProtocolError::MALFORMED_QUERY),
            None => return Ok(None),
        }
        let Some((number, next)) = self.parse_header(input, self.at)? else {
            return Ok(None);
        };
        let bulk_bytes = match number.and_then(|number| usize::try_from(number).ok()) {
            Some(bulk_bytes) if bulk_bytes <= BULK_BYTES_MAX => bulk_bytes,
            Some(_) => return Err(ProtocolError::PAYLOAD_TOO_BIG),
            None => return Err(ProtocolError::MALFORMED_QUERY),
        };
        let argument_bytes = self.argument_bytes + bulk_bytes;
        if argument_bytes > REQUEST_BYTES_MAX {
            return Err(ProtocolError::PAYLOAD_TOO_BIG);
        }
        self.argument_bytes = argument_bytes;
        self.at = next;
        Ok(Some(bulk_bytes))
    }

    /// The number in the line whose type byte is at `at` (None: not a number), and the place after
    /// its LF.
    #[inline]
    fn parse_header(
        &mut self,
        input: &[u8],
        at: usize,
    ) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
        match short_number(&input[at + 1..]) {
            Some((number, bytes)) => Ok(Some((Some(number), at + 1 + bytes))),
            None => self.parse_long_header(input, at),
        }
    }

    #[inline(never)]
    fn parse_long_header(
        &mut self,
        input: &[u8],
        at: usize,
    ) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
        let from = self.searched.max(at + 1);
        let limit = input.len().min(at + HEADER_LINE_BYTES_MAX);
        match find_line_feed(input, from, limit) {
            Some(line_feed) => {
                let line = &input[at + 1..line_feed];
                let text = line.strip_suffix(b"\r").unwrap_or(line);
                Ok(Some((parse_number(text), line_feed + 1)))
            }
            None if limit == at + HEADER_LINE_BYTES_MAX => Err(ProtocolError::HEADER_TOO_LONG),
            None => {
                self.searched = limit;
                Ok(None)
            }
        }
    }

    /// A request that is not an array: blank lines, an inline command, or an error.
    #[inline(never)]
    fn parse_line(&mut self, input: &[u8], first: u8) -> Result<Progress, ProtocolError> {
        if is_blank(first) {
            return self.parse_blank_lines(input);
        }
        if !first.is_ascii_alphabetic() {
            return Err(ProtocolError::ARRAY_EXPECTED);
        }
        let limit = input.len().min(INLINE_BYTES_MAX + 1);
        let Some(line_feed) = find_line_feed(input, self.searched, limit) else {
            return self.wait_for_line_feed(input);
        };
        self.is_inline = true;
        self.spans.clear();
        self.scratch.clear();
        split_words(&input[..line_feed], &mut self.spans, &mut self.scratch)?;
        // A web page can make a browser send these to any port, with commands in the lines behind.
        let last = self.spans.last().map_or(&[][..], |&word| slice(&self.scratch, word));
        let first = self.spans.first().map_or(&[][..], |&word| slice(&self.scratch, word));
        if last.starts_with(b"HTTP/")
            || [b"POST".as_slice(), b"Host:"].iter().any(|word| word.eq_ignore_ascii_case(first))
        {
            return Err(ProtocolError::ARRAY_EXPECTED);
        }
        self.phase = Phase::Complete;
        Ok(Progress::Complete { consumed: line_feed + 1 })
    }

    /// Redis skips blank lines between requests. A line that begins with a blank and then holds
    /// something is an error here.
    fn parse_blank_lines(&mut self, input: &[u8]) -> Result<Progress, ProtocolError> {
        let window = &input[..input.len().min(INLINE_BYTES_MAX + 1)];
        let from = self.searched.min(window.len());
        let blanks = window[from..].iter().take_while(|&&byte| is_blank(byte)).count();
        match window[from..from + blanks].iter().rposition(|&byte| byte == b'\n') {
            Some(index) => {
                self.phase = Phase::Complete;
                Ok(Progress::Complete { consumed: from + index + 1 })
            }
            None if from + blanks < window.len() => Err(ProtocolError::ARRAY_EXPECTED),
            None => self.wait_for_line_feed(input),
        }
    }

    fn wait_for_line_feed(&mut self, input: &[u8]) -> Result<Progress, ProtocolError> {
        if input.len() > INLINE_BYTES_MAX {
            return Err(ProtocolError::INLINE_TOO_BIG);
        }
        self.searched = input.len();
        Ok(Progress::Incomplete)
    }
}

fn argument_count(number: Option<i64>) -> Result<usize, ProtocolError> {
    match number {
        None | Some(0) => Err(ProtocolError::MISSING_ARGUMENTS),
        Some(..0) => Err(ProtocolError::NEGATIVE_COUNT),
        Some(count) if count > ARGUMENT_COUNT_MAX as i64 => Err(ProtocolError::TOO_MANY_ARGUMENTS),
        Some(count) => Ok(count as usize),
    }
}

/// One to four digits and CR LF: every header of an ordinary request. Returns the number and the
/// bytes read, or None where the general way has to decide.
#[inline(always)]
fn short_number(text: &[u8]) -> Option<(i64, usize)> {
    const fn value(digit: u8) -> i64 {
        (digit - b'0') as i64
    }
    match *text {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(a), 3)),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(a) * 10 + value(b), 4)),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((value(a) * 100 + value(b) * 10 + value(c), 5))
        }
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', d @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((value(a) * 1000 + value(b) * 100 + value(c) * 10 + value(d), 6))
        }
        _ => None,
    }
}

/// Leading blanks, an optional sign, digits to the end. Saturates rather than wraps, so that a
/// number too large for 64 bits still is too large. None: not a number.
fn parse_number(text: &[u8]) -> Option<i64> {
    let blanks = text.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    let (sign, digits) = match &text[blanks..] {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |number, &byte| {
        byte.is_ascii_digit()
            .then(|| number.saturating_mul(10).saturating_add(sign * i64::from(byte - b'0')))
    })
}

fn find_line_feed(input: &[u8], from: usize, limit: usize) -> Option<usize> {
    input.get(from..limit)?.iter().position(|&byte| byte == b'\n').map(|index| from + index)
}

/// C `isspace`, which Redis splits inline commands at.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The words of an inline command, unquoted as Redis `sdssplitargs` does it, except that a NUL is an
/// ordinary byte where Redis drops the rest of the line.
fn split_words(
    line: &[u8],
    spans: &mut Vec<Span>,
    scratch: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    let mut rest = line;
    while let Some(&first) = rest.first() {
        if is_blank(first) {
            rest = &rest[1..];
            continue;
        }
        if spans.len() == ARGUMENT_COUNT_MAX {
            return Err(ProtocolError::TOO_MANY_ARGUMENTS);
        }
        let start = scratch.len();
        rest = unquote_word(rest, scratch)?;
        spans.push(Span::new(start, scratch.len() - start));
    }
    Ok(())
}

/// Appends the first word to `scratch`; returns what follows it.
fn unquote_word<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    let mut quote = None;
    loop {
        rest = match (quote, rest) {
            (None, []) => return Ok(rest),
            (None, [byte, ..]) if is_blank(*byte) => return Ok(rest),
            (None, [mark @ (b'"' | b'\''), tail @ ..]) => {
                quote = Some(*mark);
                tail
            }
            (Some(_), []) => return Err(ProtocolError::UNBALANCED_QUOTES),
            (Some(b'"'), [b'\\', b'x', high, low, tail @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                scratch.push(hex_value(*high) << 4 | hex_value(*low));
                tail
            }
            (Some(b'"'), [b'\\', byte, tail @ ..]) => {
                scratch.push(escaped(*byte));
                tail
            }
            (Some(b'\''), [b'\\', b'\'', tail @ ..]) => {
                scratch.push(b'\'');
                tail
            }
            // A closing quote ends the word: `"a"b` is refused.
            (Some(mark), [byte, tail @ ..]) if *byte == mark => {
                return match tail.first() {
                    Some(&next) if !is_blank(next) => Err(ProtocolError::UNBALANCED_QUOTES),
                    _ => Ok(tail),
                };
            }
            (_, [byte, tail @ ..]) => {
                scratch.push(*byte);
                tail
            }
        };
    }
}

/// Of a byte that is a hexadecimal digit.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn escaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(Vec<Vec<u8>>, usize), ProtocolError>;

    /// Arguments and bytes consumed of the first request; None while it is incomplete.
    fn outcome(parser: &mut RequestParser, input: &[u8]) -> Option<Outcome> {
        match parser.parse(input) {
            Ok(Progress::Incomplete) => None,
            Ok(Progress::Complete { consumed }) => {
                let arguments = parser.request(input).iter().map(<[u8]>::to_vec).collect();
                Some(Ok((arguments, consumed)))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Whole and byte by byte must end alike; a short input is also followed by more.
    #[track_caller]
    fn parse(input: &[u8]) -> Option<Outcome> {
        let whole = outcome(&mut RequestParser::new(), input);
        if input.len() < 100_000 {
            let mut parser = RequestParser::new();
            let by_byte = (1..=input.len()).find_map(|end| outcome(&mut parser, &input[..end]));
            let is_blank_run = matches!(&whole, Some(Ok((arguments, _))) if arguments.is_empty());
            if !is_blank_run {
                assert_eq!(whole, by_byte, "{}", input[..input.len().min(80)].escape_ascii());
            }
        }
        whole
    }

    #[track_caller]
    fn accepted(input: &[u8], arguments: &[&[u8]]) {
        let outcome = parse(input);
        let name = input[..input.len().min(80)].escape_ascii();
        let (found, consumed) =
            outcome.expect("complete").unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(found == arguments, "{name}: {} arguments differ", found.len());
        assert_eq!(consumed, input.len(), "{name}");
    }

    #[track_caller]
    fn refused(input: &[u8], reply: &str) {
        let name = input[..input.len().min(80)].escape_ascii();
        match parse(input) {
            Some(Err(error)) => assert_eq!(error.reply, reply, "{name}"),
            Some(Ok(_)) => panic!("{name}: accepted"),
            None => panic!("{name}: incomplete"),
        }
    }

    #[track_caller]
    fn incomplete(input: &[u8]) {
        assert_eq!(parse(input), None, "{}", input[..input.len().min(80)].escape_ascii());
    }

    fn request_of(sizes: &[usize]) -> Vec<u8> {
        let mut input = format!("*{}\r\n", sizes.len()).into_bytes();
        for &size in sizes {
            input.extend(format!("${size}\r\n").bytes());
            input.resize(input.len() + size, b'x');
            input.extend(b"\r\n");
        }
        input
    }

    #[test]
    fn arrays() {
        accepted(b"*1\r\n$4\r\nPING\r\n", &[b"PING"]);
        accepted(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n*1\r\n", &[b"SET", b"k", b"\r\n*1"]);
        accepted(b"*1\r\n$0\r\n\r\n", &[b""]);
        for size in [9, 10, 99, 100, 999, 1000, 9999, 10000] {
            accepted(&request_of(&[size]), &[&vec![b'x'; size]]);
        }
        incomplete(b"");
        incomplete(b"*");
        incomplete(b"*1\r\n$4\r\nPING\r");
    }

    #[test]
    fn tolerated_lines() {
        accepted(b"*1\n$4\nPING\r\n", &[b"PING"]);
        accepted(b"*1\r\n$4\r\nPINGxx", &[b"PING"]);
        accepted(b"* 1\r\n$\t+4\r\nPING\r\n", &[b"PING"]);
        accepted(b"*0001\r\n$00004\r\nPING\r\n", &[b"PING"]);
        accepted(b"*1\r\n$-0\r\n\r\n", &[b""]);
    }

    #[test]
    fn counts_refused() {
        for input in [
            "*0\r\n", "*-0\n", "*\r\n", "*\n", "*x\r\n", "*1x\r\n", "*1 \r\n", "*1\r\r\n", "*+\r\n",
        ] {
            refused(input.as_bytes(), "Missing arguments");
        }
        refused(b"*-1\r\n", "Internal memory error");
        refused(b"*-99999999999999999999\r\n", "Internal memory error");
        refused(b"*1025\r\n", "Too many arguments");
        refused(b"*4294967297\r\n", "Too many arguments");
        refused(b"*18446744073709551617\r\n", "Too many arguments");
    }

    #[test]
    fn bulk_headers_refused() {
        for input in
            ["$-1", "$-3", "$", "$x", "$4x", "$ ", "$- 1", "$0x4", "$-99999999999999999999"]
        {
            refused(format!("*1\r\n{input}\r\n").as_bytes(), "Malformed query string");
        }
        for input in ["x", "*", ":1\r\n", "+OK\r\n", "\r\n"] {
            refused(format!("*1\r\n{input}").as_bytes(), "Malformed query string");
        }
        for size in ["8388609", "4294967300", "18446744073709551620"] {
            refused(format!("*1\r\n${size}\r\n").as_bytes(), "Payload too big");
        }
    }

    #[test]
    fn first_byte() {
        for first in 0..=u8::MAX {
            if first != b'*' && !first.is_ascii_alphabetic() && !is_blank(first) {
                refused(&[first], "Malformed request, array expected");
            }
        }
    }

    #[test]
    fn argument_count_limit() {
        accepted(&request_of(&[1; ARGUMENT_COUNT_MAX]), &[&b"x"[..]; ARGUMENT_COUNT_MAX]);
        refused(&request_of(&[1; ARGUMENT_COUNT_MAX + 1]), "Too many arguments");
        let words = |count| [b"x ".repeat(count), b"\n".to_vec()].concat();
        accepted(&words(ARGUMENT_COUNT_MAX), &[&b"x"[..]; ARGUMENT_COUNT_MAX]);
        refused(&words(ARGUMENT_COUNT_MAX + 1), "Too many arguments");
    }

    #[test]
    fn bulk_limit() {
        accepted(&request_of(&[BULK_BYTES_MAX]), &[&vec![b'x'; BULK_BYTES_MAX]]);
        refused(format!("*1\r\n${}\r\n", BULK_BYTES_MAX + 1).as_bytes(), "Payload too big");
    }

    #[test]
    fn request_limit() {
        let half = vec![b'x'; BULK_BYTES_MAX];
        assert_eq!(2 * BULK_BYTES_MAX, REQUEST_BYTES_MAX);
        let mut input = request_of(&[BULK_BYTES_MAX, BULK_BYTES_MAX, 0]);
        accepted(&input, &[&half, &half, b""]);
        input.truncate(input.len() - b"$0\r\n\r\n".len());
        input.extend(b"$1\r\n");
        refused(&input, "Payload too big");
    }

    #[test]
    fn header_limit() {
        let count = |bytes: usize| format!("*{}1\n", "0".repeat(bytes - 3)).into_bytes();
        assert_eq!(count(HEADER_LINE_BYTES_MAX).len(), HEADER_LINE_BYTES_MAX);
        accepted(&[&count(HEADER_LINE_BYTES_MAX), &b"$1\r\nx\r\n"[..]].concat(), &[b"x"]);
        refused(&count(HEADER_LINE_BYTES_MAX + 1), "Malformed request, header line too long");
        let length =
            |bytes: usize| format!("*1\r\n${}1\r\nx\r\n", "0".repeat(bytes - 4)).into_bytes();
        accepted(&length(HEADER_LINE_BYTES_MAX), &[b"x"]);
        refused(&length(HEADER_LINE_BYTES_MAX + 1), "Malformed request, header line too long");
        incomplete(&vec![b'*'; HEADER_LINE_BYTES_MAX - 1]);
        refused(&vec![b'*'; HEADER_LINE_BYTES_MAX], "Malformed request, header line too long");
    }

    #[test]
    fn inline_commands() {
        accepted(b"PING\r\n", &[b"PING"]);
        accepted(b"ping\n", &[b"ping"]);
        accepted(b"set  k\t\x0bv \r\n", &[b"set", b"k", b"v"]);
        accepted(b"SET \"a b\" 'c d' \"\" ''\r\n", &[b"SET", b"a b", b"c d", b"", b""]);
        accepted(b"E \"\\n\\r\\t\\b\\a\\\"\\\\\\q\"\n", &[b"E", b"\n\r\t\x08\x07\"\\q"]);
        accepted(b"E \"\\x00\\xfF\\xg1\\x1\"\n", &[b"E", b"\x00\xffxg1x1"]);
        accepted(b"E 'it\\'s \\n'\n", &[b"E", b"it's \\n"]);
        accepted(b"E a\\nb pre\"fix\" \x00\n", &[b"E", b"a\\nb", b"prefix", b"\0"]);
        for line in [
            "E \"a",
            "E 'a",
            "E \"a\"b",
            "E 'a'b",
            "E \"a\\\"",
            "E \"a\\",
            "E 'a\\'",
            "E a\"b\"\"c\"",
        ] {
            refused(format!("{line}\r\n").as_bytes(), "Unbalanced quotes in request");
        }
        incomplete(b"PING\r");
    }

    #[test]
    fn inline_limit() {
        let line = |bytes| [vec![b'x'; bytes], b"\n".to_vec()].concat();
        accepted(&line(INLINE_BYTES_MAX), &[&vec![b'x'; INLINE_BYTES_MAX]]);
        refused(&line(INLINE_BYTES_MAX + 1), "Too big inline request");
        incomplete(&vec![b'x'; INLINE_BYTES_MAX]);
        refused(&vec![b'x'; INLINE_BYTES_MAX + 1], "Too big inline request");
        refused(&vec![b' '; INLINE_BYTES_MAX + 1], "Too big inline request");
    }

    #[test]
    fn blank_lines_are_empty_requests() {
        for (input, consumed) in [
            ("\n", 1),
            ("\r\n", 2),
            (" \t\r\n", 4),
            ("\n\n \n", 4),
            ("\n  ", 1),
            ("\r\n*1\r\n", 2),
            ("\n PING\n", 1),
        ] {
            let mut parser = RequestParser::new();
            assert_eq!(
                parser.parse(input.as_bytes()),
                Ok(Progress::Complete { consumed }),
                "{input:?}"
            );
            assert!(parser.request(input.as_bytes()).is_empty());
        }
        incomplete(b"\r");
        incomplete(b"  ");
        refused(b" PING\n", "Malformed request, array expected");
        let mut parser = RequestParser::new();
        let input = b"\r\nPING\r\n";
        assert_eq!(parser.parse(input), Ok(Progress::Complete { consumed: 2 }));
        assert_eq!(parser.parse(&input[2..]), Ok(Progress::Complete { consumed: 6 }));
        assert_eq!(parser.request(&input[2..]).get(0), b"PING");
    }

    #[test]
    fn nothing_is_searched_twice() {
        for first in [b'*', b'P', b' '] {
            let input = vec![first; 8000];
            let mut parser = RequestParser::new();
            for end in 1..input.len() {
                assert_eq!(parser.parse(&input[..end]), Ok(Progress::Incomplete));
                assert!(parser.searched == end || first == b'*' && end == 1, "{first} {end}");
            }
        }
        let input = request_of(&[3, 5000, 4]);
        let mut parser = RequestParser::new();
        for end in 1..input.len() {
            assert_eq!(parser.parse(&input[..end]), Ok(Progress::Incomplete));
            // Left to look at: one short header line, or a payload whose end is known.
            assert!(end - parser.at < 10 || parser.pending_bulk_bytes.is_some());
        }
    }

    #[test]
    fn wanted_bytes() {
        let input = format!("*2\r\n$1\r\nx\r\n${BULK_BYTES_MAX}\r\nabc").into_bytes();
        let mut parser = RequestParser::new();
        assert_eq!(parser.bytes_wanted(), 0);
        parser.parse(&input[..9]).unwrap();
        assert_eq!(parser.bytes_wanted(), 2, "x, CR, LF less the x");
        parser.parse(&input[..12]).unwrap();
        assert_eq!(parser.bytes_wanted(), 0, "the next header is not known");
        parser.parse(&input).unwrap();
        assert_eq!(parser.bytes_wanted(), BULK_BYTES_MAX + 2 - 3);
        assert!(parser.spans.capacity() <= 4, "the count reserved memory");
        parser.reset();
        assert_eq!(parser.bytes_wanted(), 0);
    }

    #[test]
    fn errors_stay_until_reset() {
        let mut parser = RequestParser::new();
        for _ in 0..2 {
            assert_eq!(parser.parse(b"*1\r\n$-1\r\n"), Err(ProtocolError::MALFORMED_QUERY));
        }
        parser.reset();
        assert_eq!(parser.parse(b"PING\n"), Ok(Progress::Complete { consumed: 5 }));
    }

    #[test]
    fn a_long_inline_command_leaves_no_long_buffer() {
        let mut parser = RequestParser::new();
        let line = [vec![b'x'; INLINE_BYTES_MAX], b"\n".to_vec()].concat();
        parser.parse(&line).unwrap();
        parser.reset();
        assert!(parser.scratch.capacity() <= 2 * SCRATCH_BYTES_KEPT);
    }
}
