//! Makes untrusted text safe to display. File names, HTTP headers, and requests may
//! contain control characters, which could change the state of a terminal or forge a log
//! line.

use std::borrow::Cow;
use std::fmt::{Display, Write};

/// Whether a character may change how a terminal or a log shows the text around it.
fn is_unsafe(c: char) -> bool {
    // In addition to control characters, these are line separators, marks that change the
    // direction of the text, and invisible characters.
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns the text with its control characters, including line ends, written as escapes
/// such as `\u{1b}` or `\n`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe)
}

/// Returns a count with its noun, such as "1 picture" or "2 pictures". The noun must form
/// its plural with "s".
pub(crate) fn counted<N: Copy + Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Returns a number of people, such as "1 person" or "2 people".
pub(crate) fn people(count: usize) -> String {
    match count {
        1 => "1 person".to_owned(),
        count => format!("{count} people"),
    }
}

/// Escapes text like [`printable`], but keeps line ends and tabs.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && c != '\n' && c != '\t')
}

/// Escapes the characters in JSON text that change how a terminal shows the text. The
/// meaning of the JSON stays the same.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // In JSON, ASCII control characters other than DEL occur only as whitespace outside
    // strings.
    let is_unsafe = |c: char| is_unsafe(c) && (!c.is_ascii_control() || c == '\u{7f}');
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
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
    fn a_noun_agrees_with_its_count() {
        assert_eq!(counted(0_u32, "label"), "0 labels");
        assert_eq!(counted(1_usize, "label"), "1 label");
        assert_eq!(counted(2_u64, "label"), "2 labels");
    }

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
        fn json_means_the_same(
            text in any::<String>(),
            more in "[\\x00-\\x20\u{7f}-\u{a0}\u{202a}-\u{202e}\u{e0001}]*",
        ) {
            let value = serde_json::json!({ "key": text, more: [1, 2] });
            let plain = serde_json::to_string_pretty(&value).unwrap();
            let safe = printable_json(&plain);
            prop_assert!(safe.chars().all(|c| c == '\n' || !is_unsafe(c)));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }

        #[test]
        fn nothing_unsafe_is_left(text in any::<String>()) {
            prop_assert!(!printable(&text).contains(is_unsafe));
            let again = printable(&text).into_owned();
            prop_assert_eq!(printable(&again), again.as_str());
        }
    }
}
