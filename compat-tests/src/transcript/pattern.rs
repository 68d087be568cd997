//! Expected replies: exact but for the tokens in their texts.

use super::text::{Text, Variables};
use crate::reply::Reply;

#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    Any,
    Nil,
    Simple(Text),
    Error(Text),
    Integer(Text),
    Bulk(Text),
    /// The elements; `...` at the end allows more.
    Array(Vec<Pattern>, Rest),
    /// The elements of what comes unasked on RESP3.
    Push(Vec<Pattern>, Rest),
    /// Pairs in any order, in a map or in the flat array that stands for one in RESP2.
    Map(Vec<(Pattern, Pattern)>, Rest),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    None,
    Allowed,
}

impl Pattern {
    /// Reads one expected reply, which takes the whole of `source`.
    pub fn parse(source: &str) -> Result<Pattern, String> {
        // At the outermost level these go to the end of the line, commas and all.
        let source = source.trim();
        match source.as_bytes() {
            [b'+', ..] => return Ok(Pattern::Simple(Text::parse(&source[1..])?)),
            [b'-', ..] => return Ok(Pattern::Error(Text::parse(&source[1..])?)),
            [b':', ..] => return Ok(Pattern::Integer(Text::parse(&source[1..])?)),
            _ => {}
        }
        let mut reader = Reader { rest: source };
        let pattern = reader.value()?;
        reader.skip_blanks();
        if !reader.rest.is_empty() {
            return Err(format!("unexpected {:?} after the reply", reader.rest));
        }
        Ok(pattern)
    }

    pub fn matches(&self, reply: &Reply, variables: &mut Variables) -> bool {
        match (self, reply) {
            (Pattern::Any, _) | (Pattern::Nil, Reply::Nil) => true,
            (Pattern::Simple(text), Reply::Simple(given)) => {
                text.matches(given.as_bytes(), variables)
            }
            (Pattern::Error(text), Reply::Error(given)) => {
                text.matches(given.as_bytes(), variables)
            }
            (Pattern::Integer(text), Reply::Integer(given)) => {
                text.matches(given.to_string().as_bytes(), variables)
            }
            (Pattern::Bulk(text), Reply::Bulk(given)) => text.matches(given, variables),
            (Pattern::Array(patterns, rest), Reply::Array(given))
            | (Pattern::Push(patterns, rest), Reply::Push(given)) => {
                count_fits(patterns.len(), given.len(), *rest)
                    && patterns
                        .iter()
                        .zip(given)
                        .all(|(pattern, reply)| pattern.matches(reply, variables))
            }
            (Pattern::Map(patterns, rest), Reply::Map(given)) => {
                let given: Vec<_> = given.iter().map(|(key, value)| (key, value)).collect();
                matches_pairs(patterns, *rest, &given, variables)
            }
            (Pattern::Map(patterns, rest), Reply::Array(given))
                if given.len().is_multiple_of(2) =>
            {
                let given: Vec<_> =
                    given.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect();
                matches_pairs(patterns, *rest, &given, variables)
            }
            _ => false,
        }
    }

    /// The texts of all errors in it.
    pub fn errors(&self) -> Vec<&Text> {
        match self {
            Pattern::Error(text) => vec![text],
            Pattern::Array(patterns, _) | Pattern::Push(patterns, _) => {
                patterns.iter().flat_map(Pattern::errors).collect()
            }
            Pattern::Map(pairs, _) => pairs
                .iter()
                .flat_map(|(key, value)| [key, value])
                .flat_map(Pattern::errors)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Patterns that what matches this one does not match: other kinds, other texts, other counts.
    pub fn alterations(&self) -> Vec<Pattern> {
        let mut altered = vec![match self {
            Pattern::Any => return Vec::new(),
            Pattern::Error(text) => Pattern::Simple(text.clone()),
            _ => Pattern::Error(Text::parse("altered").expect("a literal")),
        }];
        match self {
            Pattern::Any | Pattern::Nil => {}
            Pattern::Simple(text) => altered.push(Pattern::Simple(text.altered())),
            Pattern::Error(text) => altered.push(Pattern::Error(text.altered())),
            Pattern::Integer(text) => altered.push(Pattern::Integer(text.altered())),
            Pattern::Bulk(text) => altered.push(Pattern::Bulk(text.altered())),
            Pattern::Push(patterns, rest) => {
                altered.push(Pattern::Array(patterns.clone(), *rest));
                let elements = Pattern::Array(patterns.clone(), *rest).alterations();
                altered.extend(elements.into_iter().map(|pattern| match pattern {
                    Pattern::Array(patterns, rest) => Pattern::Push(patterns, rest),
                    other => other,
                }));
            }
            Pattern::Array(patterns, rest) => {
                for index in 0..patterns.len() {
                    for element in patterns[index].alterations() {
                        let mut patterns = patterns.clone();
                        patterns[index] = element;
                        altered.push(Pattern::Array(patterns, *rest));
                    }
                }
                if *rest == Rest::None {
                    let mut more = patterns.clone();
                    more.push(Pattern::Any);
                    altered.push(Pattern::Array(more, Rest::None));
                }
            }
            Pattern::Map(pairs, rest) => {
                for index in 0..pairs.len() {
                    let (key, value) = &pairs[index];
                    let keys = key.alterations().into_iter().map(|key| (key, value.clone()));
                    let values = value.alterations().into_iter().map(|value| (key.clone(), value));
                    for pair in keys.chain(values) {
                        let mut pairs = pairs.clone();
                        pairs[index] = pair;
                        altered.push(Pattern::Map(pairs, *rest));
                    }
                }
            }
        }
        altered
    }
}

fn count_fits(wanted: usize, given: usize, rest: Rest) -> bool {
    given == wanted || (rest == Rest::Allowed && given > wanted)
}

fn matches_pairs(
    patterns: &[(Pattern, Pattern)],
    rest: Rest,
    given: &[(&Reply, &Reply)],
    variables: &mut Variables,
) -> bool {
    count_fits(patterns.len(), given.len(), rest)
        && patterns.iter().all(|(key, value)| {
            given
                .iter()
                .any(|pair| key.matches(pair.0, variables) && value.matches(pair.1, variables))
        })
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Result<Pattern, String> {
        self.skip_blanks();
        if self.take("[") {
            let (elements, rest) = self.sequence("]", Self::value)?;
            return Ok(Pattern::Array(elements, rest));
        }
        if self.take("push [") {
            let (elements, rest) = self.sequence("]", Self::value)?;
            return Ok(Pattern::Push(elements, rest));
        }
        if self.take("{") {
            let (pairs, rest) = self.sequence("}", |reader| {
                let key = reader.value()?;
                if !reader.take("=") {
                    return Err("a map wants key = value".into());
                }
                Ok((key, reader.value()?))
            })?;
            return Ok(Pattern::Map(pairs, rest));
        }
        match self.rest.as_bytes().first() {
            Some(b'"') => Ok(Pattern::Bulk(Text::parse(self.quoted()?)?)),
            Some(b':') => Ok(Pattern::Integer(Text::parse(&self.word()[1..])?)),
            Some(b'-') => Ok(Pattern::Error(Text::parse(&self.word()[1..])?)),
            Some(b'+') => Ok(Pattern::Simple(Text::parse(&self.word()[1..])?)),
            _ => match self.word() {
                "nil" => Ok(Pattern::Nil),
                "any" => Ok(Pattern::Any),
                other => Err(format!("no reply begins like {other:?}")),
            },
        }
    }

    fn sequence<T>(
        &mut self,
        end: &str,
        element: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<(Vec<T>, Rest), String> {
        let mut elements = Vec::new();
        loop {
            if self.take(end) {
                return Ok((elements, Rest::None));
            }
            if self.take("...") {
                return if self.take(end) {
                    Ok((elements, Rest::Allowed))
                } else {
                    Err(format!("... comes last, before {end}"))
                };
            }
            elements.push(element(self)?);
            if !self.take(",") && !self.rest.trim_start().starts_with(end) {
                return Err(format!("a comma or {end} is missing before {:?}", self.rest));
            }
        }
    }

    /// What stands between quotes, escapes untouched.
    fn quoted(&mut self) -> Result<&'a str, String> {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => at += 2,
                b'"' => {
                    let inner = &self.rest[1..at];
                    self.rest = &self.rest[at + 1..];
                    return Ok(inner);
                }
                _ => at += 1,
            }
        }
        Err("a quote is not closed".into())
    }

    /// Up to the next separator.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find([',', ']', '}']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.trim_end()
    }
}
