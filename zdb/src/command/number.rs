//! Numbers in arguments, read as 0-db reads them.

/// C's `atoll`: leading blanks, a sign, digits up to anything else, 0 without any. A negative number is its
/// two's complement, so -1 is the largest; too many digits are the largest too.
pub fn atoll(text: &[u8]) -> u64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let value = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0u64, |value, byte| value.saturating_mul(10).saturating_add(u64::from(byte - b'0')));
    if negative { value.wrapping_neg() } else { value }
}

/// Whether a word is a number and nothing else: a sign perhaps, and digits.
pub fn is_number(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").or(word.strip_prefix(b"+")).unwrap_or(word);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::{atoll, is_number};

    #[test]
    fn words_that_are_numbers() {
        for (word, expected) in
            [("1", true), ("-1", true), ("+12", true), ("", false), ("-", false), ("1x", false)]
        {
            assert_eq!(is_number(word.as_bytes()), expected, "{word:?}");
        }
    }

    #[test]
    fn numbers_as_in_c() {
        for (text, expected) in [
            ("12", 12),
            (" +7x", 7),
            ("-1", u64::MAX),
            ("", 0),
            ("x", 0),
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(atoll(text.as_bytes()), expected, "{text:?}");
        }
    }
}
