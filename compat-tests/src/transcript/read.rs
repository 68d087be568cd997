//! Transcripts from their text.

use super::table::Table;
use super::{Action, Case, Form, Pattern, Restart, Step, Text};
use std::iter::{Enumerate, Peekable};
use std::str::Lines;

pub(super) struct Reader<'a> {
    lines: Peekable<Enumerate<Lines<'a>>>,
    cases: Vec<Case>,
    /// The table that the lines belong to now.
    table: Option<Table>,
}

impl Reader<'_> {
    /// The cases of a file, or the line that means nothing, from 1.
    pub fn read(source: &str) -> Result<Vec<Case>, (usize, String)> {
        let mut reader =
            Reader { lines: source.lines().enumerate().peekable(), cases: Vec::new(), table: None };
        while let Some((index, text)) = reader.lines.next() {
            reader.take(index + 1, text).map_err(|error| (index + 1, error))?;
        }
        reader.end_table().map_err(|error| (source.lines().count(), error))?;
        Ok(reader.cases)
    }

    fn take(&mut self, line: usize, text: &str) -> Result<(), String> {
        if text.trim().is_empty() || text.starts_with('#') {
            return Ok(());
        }
        if let Some(title) = text.strip_prefix("== ") {
            self.end_table()?;
            self.cases.push(Case {
                title: title.into(),
                flags: Vec::new(),
                steps: Vec::new(),
                goes_on: false,
            });
            return Ok(());
        }
        if self.cases.is_empty() && self.table.is_none() {
            return Err("a case begins with ==".into());
        }
        if let Some(directive) = text.strip_prefix("! ") {
            return self.direct(line, directive);
        }
        if let Some(table) = &mut self.table
            && text.starts_with('|')
        {
            self.cases.extend(table.line(line, text)?);
            return Ok(());
        }
        let action = self.action(text)?;
        self.steps().push(Step { line, state: String::new(), action });
        Ok(())
    }

    fn end_table(&mut self) -> Result<(), String> {
        match self.table.take() {
            Some(table) if table.is_empty() => Err("the table above has no line".into()),
            _ => Ok(()),
        }
    }

    fn steps(&mut self) -> &mut Vec<Step> {
        match &mut self.table {
            Some(table) => table.steps(),
            None => &mut self.cases.last_mut().expect("take has looked").steps,
        }
    }

    fn direct(&mut self, line: usize, directive: &str) -> Result<(), String> {
        if let Some(table) = &mut self.table
            && table.direct(directive)?
        {
            return Ok(());
        }
        let words: Vec<&str> = directive.split_whitespace().collect();
        match &words[..] {
            ["before"] => {
                // The case goes away: the lines of the table bring their own.
                let case = self.cases.pop().filter(|case| case.steps.is_empty());
                let case = case.ok_or("a table has a case of its own")?;
                self.table = Some(Table::new(case.title, case.flags));
            }
            ["server", flags @ ..] => {
                let case = self.cases.last_mut().filter(|case| case.steps.is_empty());
                let case = case.ok_or("the flags of the server come first in a case")?;
                case.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            }
            _ => {
                for action in step(&words, directive)? {
                    self.steps().push(Step { line, state: String::new(), action });
                }
            }
        }
        Ok(())
    }

    /// A request, or a reply, which may go on over the next lines.
    fn action(&mut self, text: &str) -> Result<Action, String> {
        match text.trim_end() {
            "closed" => return Ok(Action::Closed),
            "silent" => return Ok(Action::Silent),
            "lines:" => {
                let mut block = Vec::new();
                while let Some((_, text)) = self.lines.next_if(|(_, text)| text.starts_with("  ")) {
                    block.push(Text::parse(&text[2..])?);
                }
                return Ok(Action::Expect(Pattern::Bulk(Text::lines(&block))));
            }
            _ => {}
        }
        if let Some(action) = request(text)? {
            return Ok(action);
        }
        let (connection, text) = pushed(text);
        let mut whole = text.to_owned();
        while open_brackets(&whole) {
            let (_, more) = self.lines.next().ok_or("a bracket is not closed")?;
            whole.push(' ');
            whole.push_str(more.trim());
        }
        let pattern = Pattern::parse(&whole)?;
        Ok(match connection {
            Some(connection) => Action::Pushed { connection, pattern },
            None => Action::Expect(pattern),
        })
    }
}

/// What a directive does, once or several times.
fn step(words: &[&str], directive: &str) -> Result<Vec<Action>, String> {
    Ok(match *words {
        ["restart"] => vec![Action::Restart(Restart::Clean)],
        ["kill"] => vec![Action::Restart(Restart::Kill)],
        ["restart", count] => {
            let count: usize = count.parse().map_err(|_| "restart takes a count")?;
            vec![Action::Restart(Restart::Clean); count]
        }
        ["disconnect", connection] => {
            vec![Action::Disconnect { connection: connection.into() }]
        }
        ["exited", code] => {
            vec![Action::Exited(code.parse().map_err(|_| "exited takes a number")?)]
        }
        _ => return Err(format!("unknown directive {directive:?}")),
    })
}

/// A request line: `> ...`, `name> ...`, or with `>>` for the inline form.
pub(super) fn request(line: &str) -> Result<Option<Action>, String> {
    let Some(sign) = line.find('>') else {
        return Ok(None);
    };
    let name = &line[..sign];
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    let (form, rest) = match line[sign + 1..].strip_prefix('>') {
        Some(rest) => (Form::Inline, rest),
        None => (Form::Array, &line[sign + 1..]),
    };
    let connection = if name.is_empty() { "main" } else { name };
    let arguments = words(rest)?;
    if arguments.is_empty() {
        return Err("a request has a name at least".into());
    }
    Ok(Some(Action::Send { connection: connection.into(), form, arguments }))
}

/// The connection of a line `name< reply`, and the reply.
fn pushed(line: &str) -> (Option<String>, &str) {
    match line.split_once("< ") {
        Some((name, reply))
            if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
        {
            (Some(name.into()), reply)
        }
        _ => (None, line),
    }
}

/// Words separated by blanks; quotes keep blanks together.
fn words(line: &str) -> Result<Vec<Text>, String> {
    let mut words = Vec::new();
    let bytes = line.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let quoted = bytes[at] == b'"';
        let start = if quoted { at + 1 } else { at };
        let end_sign = if quoted { b'"' } else { b' ' };
        at = start;
        while at < bytes.len() && bytes[at] != end_sign {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        if quoted && at >= bytes.len() {
            return Err("a quote is not closed".into());
        }
        words.push(Text::parse(&line[start..at.min(bytes.len())])?);
        if quoted {
            at += 1;
        }
    }
    Ok(words)
}

/// Whether a bracket outside quotes waits for its end.
fn open_brackets(text: &str) -> bool {
    if !text.starts_with(['[', '{']) {
        return false;
    }
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for sign in text.chars() {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
    }
    depth > 0
}
