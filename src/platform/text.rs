//! Text from outside, made safe to show. File names, HTTP headers and requests may hold
//! control characters, which could change the state of a terminal or forge a line of the
//! log.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character may change how a terminal or a log shows the text around it.
fn is_unsafe(c: char) -> bool {
    // Besides control characters: line separators, and marks that change the direction of
    // the text.
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text with its control characters, including line ends, written as escapes
/// such as `\u{1b}` or `\n`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe)
}

/// Same as [`printable`], but keeps line ends and tabs.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && c != '\n' && c != '\t')
}

fn escaped(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            // Writing to a string cannot fail.
            let _ = match c {
                '\n' | '\r' | '\t' => write!(safe, "{}", c.escape_default()),
                c => write!(safe, "{}", c.escape_unicode()),
            };
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_become_escapes() {
        assert_eq!(
            printable("a\u{1b}[2J\r\nb\u{9b}m"),
            "a\\u{1b}[2J\\r\\nb\\u{9b}m"
        );
        assert_eq!(printable("abc\u{202e}fdp.exe"), "abc\\u{202e}fdp.exe");
        assert_eq!(printable_lines("a:\n\tb\u{7}"), "a:\n\tb\\u{7}");
        for plain in ["", "Türe 門 🚪", "C:\\x", "\"quoted\""] {
            assert!(matches!(printable(plain), Cow::Borrowed(same) if same == plain));
        }
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in any::<String>()) {
            prop_assert!(!printable(&text).contains(is_unsafe));
            let again = printable(&text).into_owned();
            prop_assert_eq!(printable(&again), again.as_str());
        }
    }
}
