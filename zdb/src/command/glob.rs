//! Patterns of SCAN MATCH and CONFIG GET, as Redis reads them: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//!
//! Source of the rules: <https://redis.io/docs/latest/commands/keys/>. Only the last star is ever gone
//! back to, so the time is at most pattern times text, whatever the pattern.

/// Whether the whole text matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut at) = (pattern, 0);
    // The pattern behind the last star, and how much text that star has taken.
    let mut star: Option<(&[u8], usize)> = None;
    loop {
        if let [b'*', behind @ ..] = rest {
            star = Some((behind, at));
            rest = behind;
            continue;
        }
        match text.get(at) {
            None if rest.is_empty() => return true,
            None => return false,
            Some(&byte) => {
                if let Some(behind) = take(rest, byte) {
                    rest = behind;
                    at += 1;
                    continue;
                }
            }
        }
        let Some((behind, taken)) = &mut star else { return false };
        *taken += 1;
        (rest, at) = (behind, *taken);
    }
}

/// The pattern behind its first element, where that takes this byte.
fn take(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', behind @ ..] => Some(behind),
        [b'\\', literal, behind @ ..] => (*literal == byte).then_some(behind),
        [b'[', behind @ ..] => take_class(behind, byte),
        [literal, behind @ ..] => (*literal == byte).then_some(behind),
    }
}

/// `behind` is what follows the opening bracket. As in Redis, a class that is not closed ends with the
/// pattern.
fn take_class(behind: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match behind {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, behind),
    };
    let mut found = false;
    loop {
        match rest {
            [] => break,
            [b']', behind @ ..] => {
                rest = behind;
                break;
            }
            [b'\\', literal, behind @ ..] => {
                found |= *literal == byte;
                rest = behind;
            }
            [low, b'-', high, behind @ ..] => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                rest = behind;
            }
            [literal, behind @ ..] => {
                found |= *literal == byte;
                rest = behind;
            }
        }
    }
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("save", "save", true),
            ("s*", "save", true),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?ave", "save", true),
            ("sav", "save", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]", "hb", true),
            ("h[c-a]", "hb", true),
            ("h[a-c]", "hd", false),
            ("h[\\]]", "h]", true),
            ("h[]x", "hx", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*\\", "x\\", true),
            ("[", "a", false),
            ("[a", "a", true),
            ("***x", "yyx", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let text = vec![b'a'; 100_000];
        assert!(!matches(b"*a*a*a*a*a*a*a*a*a*a*b", &text[..2000]));
        assert!(matches(b"*a*", &text));
    }
}
