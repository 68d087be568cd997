//! The arguments of a command as the table writes them, taken apart for COMMAND DOCS.
//!
//! `word` is a value, `WORD` stands for itself, `[ ]` may be left out, `a | b` is one of them, `word ...`
//! may be repeated. A `WORD` belongs to the values behind it.

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub token: Option<String>,
    pub is_optional: bool,
    pub is_multiple: bool,
    /// Whether it is one of its parts, or all of them.
    is_choice: bool,
    pub parts: Vec<Argument>,
}

impl Argument {
    /// Redis's name for its kind.
    pub fn kind(&self) -> &'static str {
        match (&self.token, self.parts.len()) {
            (_, 1..) if self.is_choice => "oneof",
            (_, 1..) => "block",
            (Some(_), _) if self.name.is_empty() || self.is_pure_token() => "pure-token",
            _ if self.name == "key" => "key",
            _ => "string",
        }
    }

    fn is_pure_token(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.to_ascii_lowercase() == self.name)
    }

    fn value(word: &str) -> Self {
        Self { name: word.into(), ..Self::default() }
    }

    /// One argument of several.
    fn of(mut parts: Vec<Argument>, is_choice: bool) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let name = names.join(if is_choice { "-or-" } else { "-" });
        Self { name, is_choice, parts, ..Self::default() }
    }
}

/// The arguments of a line of the table.
pub fn parse(text: &str) -> Vec<Argument> {
    let spaced = text.replace('[', " [ ").replace(']', " ] ");
    let mut words = spaced.split_whitespace().peekable();
    alternatives(&mut words)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// Up to the end or a closing bracket.
fn alternatives(words: &mut Words<'_>) -> Vec<Argument> {
    let mut choices = vec![sequence(words)];
    while words.next_if_eq(&"|").is_some() {
        choices.push(sequence(words));
    }
    match choices.len() {
        1 => choices.remove(0),
        _ => {
            let choices = choices.into_iter().map(|parts| Argument::of(parts, false)).collect();
            vec![Argument::of(choices, true)]
        }
    }
}

fn sequence(words: &mut Words<'_>) -> Vec<Argument> {
    let mut found: Vec<Argument> = Vec::new();
    while let Some(word) = words.next_if(|word| !matches!(*word, "|" | "]")) {
        match word {
            "[" => {
                let inner = alternatives(words);
                words.next();
                let mut optional = Argument::of(inner, false);
                match found.last_mut() {
                    // `key [key ...]` is one argument.
                    Some(last) if optional.is_multiple && last.name == optional.name => {
                        last.is_multiple = true;
                    }
                    _ => {
                        optional.is_optional = true;
                        found.push(optional);
                    }
                }
            }
            "..." => {
                // `[field value ...]`: all of the sequence is repeated.
                let mut all = Argument::of(std::mem::take(&mut found), false);
                all.is_multiple = true;
                found.push(all);
            }
            word if word.chars().all(|sign| sign.is_ascii_uppercase()) => {
                let behind = sequence(words);
                let mut argument = match behind.is_empty() {
                    true => Argument::value(&word.to_ascii_lowercase()),
                    false => Argument::of(behind, false),
                };
                argument.token = Some(word.into());
                found.push(argument);
            }
            word => found.push(Argument::value(word)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As redis-cli writes it.
    fn written(argument: &Argument) -> String {
        let parts = |between: &str| {
            let parts: Vec<String> = argument.parts.iter().map(written).collect();
            parts.join(between)
        };
        let inner = match argument.kind() {
            "oneof" => parts("|"),
            "block" => parts(" "),
            "pure-token" => String::new(),
            _ => argument.name.clone(),
        };
        let mut text = match &argument.token {
            Some(token) => format!("{token} {inner}").trim_end().to_owned(),
            None => inner,
        };
        if argument.is_multiple {
            text = format!("{text} [{text} ...]");
        }
        if argument.is_optional { format!("[{text}]") } else { text }
    }

    #[test]
    fn lines_of_the_table() {
        for (line, hint) in [
            ("", ""),
            ("key value [timestamp]", "key value [timestamp]"),
            ("key [key ...]", "key [key ...]"),
            ("key value [key value ...]", "key value [key value [key value ...]]"),
            ("[section ...]", "[section [section ...]]"),
            ("[NX | XX] [GET]", "[NX|XX] [GET]"),
            ("name [password | SECURE hash]", "name [password|SECURE hash]"),
            ("[AUTH user password] [SETNAME name]", "[AUTH user password] [SETNAME name]"),
        ] {
            let found: Vec<String> = parse(line).iter().map(written).collect();
            assert_eq!(found.join(" "), hint, "{line}");
        }
        let kinds: Vec<&str> = parse("key NX [a | B]").iter().map(Argument::kind).collect();
        assert_eq!(kinds, ["key", "oneof"]);
    }

    /// Whatever the table holds can be taken apart.
    #[test]
    fn all_lines_end() {
        for command in super::super::table::COMMANDS {
            assert_eq!(parse(command.arguments).is_empty(), command.arguments.is_empty());
        }
    }
}
