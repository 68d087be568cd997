//! Texts of a transcript: literal bytes, variables, and the tokens that stand for what varies.

use crate::model::secure_answer;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The values that a case has captured, by name.
pub type Variables = HashMap<String, Vec<u8>>;

/// How far from the clock of the test `<now>` may be, in seconds: a slow machine's hesitation.
const NOW_TOLERANCE_S: u64 = 30;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Literal(Vec<u8>),
    Variable(String),
    /// SHA-1 in lower-case hexadecimal of challenge, colon, password.
    Sha1(Text),
    /// Any bytes.
    Any,
    /// Any bytes without a line end.
    Line,
    /// Decimal digits.
    Int,
    /// Seconds since the epoch, close to now.
    Now,
    Hex(usize),
    Bytes(usize),
    /// What the tokens inside match goes into a variable.
    Capture(Box<Token>, String),
}

#[derive(Clone, PartialEq)]
pub struct Text {
    tokens: Vec<Token>,
    /// As it was written, for messages.
    source: String,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Text {
    /// Reads a text in which `\` escapes, `<...>` is a token and `${...}` a variable.
    pub fn parse(source: &str) -> Result<Text, String> {
        let bytes = source.as_bytes();
        let mut tokens = Vec::new();
        let mut literal = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (length, token) = match &bytes[at..] {
                [b'\\', rest @ ..] => {
                    let (length, byte) = escape(rest)?;
                    literal.push(byte);
                    at += 1 + length;
                    continue;
                }
                [b'<', ..] => {
                    let length = closing(&source[at..], '<', '>')?;
                    (length, token(&source[at + 1..at + length - 1])?)
                }
                [b'$', b'{', ..] => {
                    let length = closing(&source[at..], '{', '}')?;
                    (length, Token::Variable(source[at + 2..at + length - 1].into()))
                }
                [byte, ..] => {
                    literal.push(*byte);
                    at += 1;
                    continue;
                }
                [] => unreachable!("the loop ends before"),
            };
            at += length;
            if let Token::Literal(bytes) = token {
                literal.extend_from_slice(&bytes);
                continue;
            }
            if !literal.is_empty() {
                tokens.push(Token::Literal(std::mem::take(&mut literal)));
            }
            tokens.push(token);
        }
        if !literal.is_empty() {
            tokens.push(Token::Literal(literal));
        }
        Ok(Text { tokens, source: source.into() })
    }

    /// As it stands in the transcript.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The bytes of a text that has nothing to match, as requests must be.
    pub fn value(&self, variables: &Variables) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for token in &self.tokens {
            bytes.extend(token_value(token, variables)?);
        }
        Ok(bytes)
    }

    /// Whether these bytes match; captures what they were asked to.
    pub fn matches(&self, bytes: &[u8], variables: &mut Variables) -> bool {
        match match_tokens(&self.tokens, bytes, variables) {
            Some(captured) => {
                variables.extend(captured);
                true
            }
            None => false,
        }
    }

    /// A text that matches nothing the first one does: it begins with bytes no reply has.
    pub fn altered(&self) -> Text {
        let mut altered = self.clone();
        let sign = "~~altered~~";
        altered.tokens.insert(0, Token::Literal(sign.into()));
        altered.source.insert_str(0, sign);
        altered
    }

    /// Several lines, each ended.
    pub fn lines(lines: &[Text]) -> Text {
        let mut whole = Text { tokens: Vec::new(), source: String::new() };
        for line in lines {
            whole.tokens.extend(line.tokens.iter().cloned());
            whole.tokens.push(Token::Literal(b"\n".into()));
            whole.source.push_str(&line.source);
            whole.source.push('\n');
        }
        whole
    }
}

fn escape(rest: &[u8]) -> Result<(usize, u8), String> {
    Ok(match rest {
        [b'r', ..] => (1, b'\r'),
        [b'n', ..] => (1, b'\n'),
        [b't', ..] => (1, b'\t'),
        [b'0', ..] => (1, 0),
        [b'x', high, low, ..] => {
            let digits = [*high, *low];
            let digits =
                std::str::from_utf8(&digits).map_err(|_| "\\x takes two hexadecimal digits")?;
            (3, u8::from_str_radix(digits, 16).map_err(|_| "\\x takes two hexadecimal digits")?)
        }
        [byte @ (b'\\' | b'"' | b'<' | b'$'), ..] => (1, *byte),
        _ => return Err("unknown escape".into()),
    })
}

/// The bytes up to and with the closing sign of the opening one that `source` begins with.
fn closing(source: &str, open: char, close: char) -> Result<usize, String> {
    let mut depth = 0;
    for (at, sign) in source.char_indices() {
        if sign == open {
            depth += 1;
        } else if sign == close {
            depth -= 1;
            if depth == 0 {
                return Ok(at + 1);
            }
        }
    }
    Err(format!("{open} without {close}"))
}

fn token(source: &str) -> Result<Token, String> {
    if let Some(inner) = source.strip_prefix("sha1:") {
        return Ok(Token::Sha1(Text::parse(inner)?));
    }
    if let Some((kind, name)) = source.split_once('=') {
        return Ok(Token::Capture(Box::new(token(kind)?), name.into()));
    }
    let number =
        |text: &str| text.parse::<usize>().map_err(|_| format!("<{source}> wants a number"));
    Ok(match source.splitn(3, ':').collect::<Vec<_>>()[..] {
        ["any"] => Token::Any,
        ["line"] => Token::Line,
        ["int"] => Token::Int,
        ["now"] => Token::Now,
        ["hex", count] => Token::Hex(number(count)?),
        ["bytes", count] => Token::Bytes(number(count)?),
        ["repeat", count, bytes] => {
            let bytes = Text::parse(bytes)?.value(&Variables::new())?;
            Token::Literal(bytes.repeat(number(count)?))
        }
        _ => return Err(format!("unknown token <{source}>")),
    })
}

fn token_value(token: &Token, variables: &Variables) -> Result<Vec<u8>, String> {
    match token {
        Token::Literal(bytes) => Ok(bytes.clone()),
        Token::Variable(name) => variables.get(name).cloned().ok_or(format!("no variable {name}")),
        Token::Sha1(text) => {
            let text = text.value(variables)?;
            let colon = text
                .iter()
                .position(|&byte| byte == b':')
                .ok_or("sha1 takes challenge:password")?;
            Ok(secure_answer(&text[..colon], &text[colon + 1..]).into_bytes())
        }
        other => Err(format!("{other:?} stands for many values, not for one")),
    }
}

/// The captures of the first way in which the tokens match all of the bytes.
fn match_tokens(tokens: &[Token], bytes: &[u8], variables: &Variables) -> Option<Variables> {
    let Some((token, rest)) = tokens.split_first() else {
        return bytes.is_empty().then(Variables::new);
    };
    let (token, name) = match token {
        Token::Capture(inner, name) => (&**inner, Some(name)),
        token => (token, None),
    };
    for length in lengths(token, bytes, variables) {
        if let Some(mut captured) = match_tokens(rest, &bytes[length..], variables) {
            if let Some(name) = name {
                captured.insert(name.clone(), bytes[..length].into());
            }
            return Some(captured);
        }
    }
    None
}

/// How many of the first bytes a token may take.
fn lengths(token: &Token, bytes: &[u8], variables: &Variables) -> std::ops::Range<usize> {
    // No range holds a number: the token does not match.
    const NONE: std::ops::Range<usize> = 0..0;
    let digits = || bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let exactly = |count: usize, fits: bool| if fits { count..count + 1 } else { NONE };
    match token {
        Token::Any => 0..bytes.len() + 1,
        Token::Line => {
            let line_end = bytes.iter().position(|&byte| byte == b'\n');
            0..line_end.unwrap_or(bytes.len()) + 1
        }
        Token::Int => exactly(digits(), digits() > 0),
        Token::Now => exactly(digits(), is_now(&bytes[..digits()])),
        Token::Hex(count) => {
            let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            exactly(*count, bytes.get(..*count).is_some_and(|bytes| bytes.iter().all(is_hex)))
        }
        Token::Bytes(count) => exactly(*count, bytes.len() >= *count),
        Token::Literal(_) | Token::Variable(_) | Token::Sha1(_) => {
            match token_value(token, variables) {
                Ok(value) => exactly(value.len(), bytes.starts_with(&value)),
                Err(_) => NONE,
            }
        }
        Token::Capture(..) => unreachable!("a capture holds no capture"),
    }
}

fn is_now(digits: &[u8]) -> bool {
    let seconds = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    seconds.is_some_and(|seconds| seconds.abs_diff(now) <= NOW_TOLERANCE_S)
}
