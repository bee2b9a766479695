//! Edits of the text of a config that keep the rest of the text, such as comments.
//!
//! The daemon saves changed settings in this way, and `maskd setup` writes the answers of
//! the user. This module knows no key. A caller must check the edited text as a config.

use toml_edit::{Document, DocumentMut, Item, TableLike, Value};

use super::renamed;

/// A change to one key of a config.
#[derive(Debug, Clone)]
pub(crate) struct ConfigEdit {
    section: &'static str,
    key: &'static str,
    /// The new value, or `None` if the key becomes a comment.
    value: Option<Value>,
}

impl ConfigEdit {
    /// Sets a key.
    pub(crate) fn set(
        section: &'static str,
        key: &'static str,
        value: impl Into<Value>,
    ) -> ConfigEdit {
        ConfigEdit {
            section,
            key,
            value: Some(value.into()),
        }
    }

    /// Sets a key if there is a value, and otherwise turns it into a comment, so that it has
    /// its default.
    pub(crate) fn set_or_unset(
        section: &'static str,
        key: &'static str,
        value: Option<impl Into<Value>>,
    ) -> ConfigEdit {
        ConfigEdit {
            section,
            key,
            value: value.map(Into::into),
        }
    }
}

/// Why a config cannot be edited. Each message is a clause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    /// The text is not TOML.
    #[error("the config file is no longer valid TOML")]
    Syntax,
    /// A key is where a section should be.
    #[error("{0} is not a section of the config file")]
    NoSection(String),
    /// A key shares its line with others.
    #[error("{0} cannot be taken out of the config file: remove it by hand")]
    Entangled(String),
}

/// Returns the text of a config with these changes. A key that is new to the text takes the
/// place of its commented-out default or example, such as `#fps = 15` or `# green-pin = 17`.
/// Without either, it is added to the end of its section.
///
/// # Errors
/// Returns an [`EditError`] if the text cannot be changed in this way.
pub(crate) fn edited(text: &str, edits: &[ConfigEdit]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for ConfigEdit {
        section,
        key,
        value,
    } in edits
    {
        text = match value {
            Some(value) => {
                let text = with_example(&text, section, key).unwrap_or(text);
                let mut document = parse(&text)?;
                set(&mut document, section, key, value.clone())?;
                document.to_string()
            }
            None => commented_out(&text, section, key)?,
        };
    }
    Ok(text)
}

/// Parses the text of a config.
fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|_| EditError::Syntax)
}

/// Sets a key of a document. The comment after its present value is kept.
fn set(
    document: &mut DocumentMut,
    section: &str,
    key: &str,
    mut value: Value,
) -> Result<(), EditError> {
    let table = document
        .entry(section)
        .or_insert_with(toml_edit::table)
        .as_table_like_mut()
        .ok_or_else(|| EditError::NoSection(section.to_owned()))?;
    if let Some(old) = renamed::old_name(section, key) {
        rename(table, old, key);
    }
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    match table.get_mut(key) {
        Some(item) => *item = Item::Value(value),
        None => {
            table.insert(key, Item::Value(value));
        }
    }
    Ok(())
}

/// Renames a key and keeps the comments around it. If a section has both names, it is
/// left unchanged. Parsing the file again then reports the problem.
fn rename(section: &mut dyn TableLike, old: &str, new: &str) {
    if section.contains_key(new) {
        return;
    }
    let decor = section.key(old).map(|key| key.leaf_decor().clone());
    if let (Some(decor), Some(item)) = (decor, section.remove(old)) {
        section.insert(new, item);
        if let Some(mut key) = section.key_mut(new) {
            *key.leaf_decor_mut() = decor;
        }
    }
}

/// Returns the text with the commented-out default or example of a key turned into a key.
/// Returns `None` if the text has the key, perhaps under its former name, or if it has no example
/// that is valid TOML.
fn with_example(text: &str, section: &str, key: &str) -> Option<String> {
    let has_key = |text: &str, key: &str| {
        let document = Document::parse(text).ok()?;
        let table = document.get(section).and_then(Item::as_table_like);
        Some(table.is_some_and(|table| table.contains_key(key)))
    };
    let old_name = renamed::old_name(section, key);
    if has_key(text, key)? || old_name.is_some_and(|old| has_key(text, old) == Some(true)) {
        return None;
    }
    let header = format!("[{section}]");
    let mut is_in_section = false;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            is_in_section = trimmed == header;
        } else if trimmed.starts_with("# [") {
            // The example of a section.
            is_in_section = false;
        }
        let example = line.strip_prefix("# ").or_else(|| line.strip_prefix('#'));
        let example = example.filter(|_| is_in_section);
        let name = example.and_then(|example| Some(example.split_once('=')?.0.trim()));
        if let Some(example) = example.filter(|_| name == Some(key)) {
            let (before, after) = (&text[..start], &text[start + line.len()..]);
            let changed = [before, example, after].concat();
            return (has_key(&changed, key) == Some(true)).then_some(changed);
        }
        start += line.len();
    }
    None
}

/// Returns the text with the lines of a key turned into comments.
fn commented_out(text: &str, section: &str, key: &str) -> Result<String, EditError> {
    let document = Document::parse(text).map_err(|_| EditError::Syntax)?;
    let table = document.get(section).and_then(Item::as_table_like);
    let Some((name, item)) = table.and_then(|table| table.get_key_value(key)) else {
        return Ok(text.to_owned());
    };
    let entangled = || EditError::Entangled(format!("{section}.{key}"));
    let (name, value) = name.span().zip(item.span()).ok_or_else(entangled)?;
    let mut changed = String::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if start < value.end && name.start < end {
            changed += "# ";
        }
        changed += line;
        start = end;
    }
    // Other keys on the same line would be lost.
    let mut expected: toml::Table = text.parse().map_err(|_| EditError::Syntax)?;
    if let Some(table) = expected
        .get_mut(section)
        .and_then(toml::Value::as_table_mut)
    {
        table.remove(key);
    }
    if changed.parse::<toml::Table>().ok() == Some(expected) {
        Ok(changed)
    } else {
        Err(entangled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config, SHIPPED};
    use crate::indicate::pins::Line;

    fn unset(section: &'static str, key: &'static str) -> ConfigEdit {
        ConfigEdit::set_or_unset(section, key, None::<bool>)
    }

    #[test]
    fn keys_take_the_places_of_their_examples() {
        let edits = [
            ConfigEdit::set("indicate", "green-pin", 5),
            ConfigEdit::set("web", "listen", "0.0.0.0:8080"),
            ConfigEdit::set("camera", "source", "rpicam"),
        ];
        let text = edited(SHIPPED, &edits).unwrap();
        let expected = SHIPPED
            .replace("# green-pin = 17\n", "green-pin = 5\n")
            .replace(
                "# listen = \"127.0.0.1:8080\"\n",
                "listen = \"0.0.0.0:8080\"\n",
            )
            .replace("#source = \"examples\"\n", "source = \"rpicam\"\n");
        assert_eq!(text, expected);
        let config = config::parse("any", &text).unwrap();
        assert_eq!(config.indicate.green_pin, Some(Line::Number(5)));
    }

    #[test]
    fn every_example_of_a_section_can_be_used_in_place() {
        let mut section = String::new();
        let mut seen = 0;
        for line in SHIPPED.lines() {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).to_owned();
            } else if line.starts_with("# [") {
                section.clear();
            }
            let Some(example) = line.strip_prefix('#') else {
                continue;
            };
            let example = example.strip_prefix(' ').unwrap_or(example);
            let key = example.split_once(" = ").map(|(key, _)| key);
            let Some(key) = key.filter(|key| !section.is_empty() && !key.contains(' ')) else {
                continue;
            };
            let text = with_example(SHIPPED, &section, key).unwrap();
            let removed = line.len() - example.len();
            assert_eq!(text.len() + removed, SHIPPED.len(), "{section}.{key}");
            seen += 1;
        }
        assert!(seen > 100, "only {seen} examples were found");
    }

    #[test]
    fn other_text_stays_and_new_keys_go_to_the_end_of_their_section() {
        let text =
            "# mine\n[camera] # the camera\nsource = 'webcam' # USB\n[decide]\nhold-ms = 7\n";
        let edits = [
            ConfigEdit::set("camera", "source", "rpicam"),
            ConfigEdit::set("camera", "fps", 5),
            ConfigEdit::set("web", "listen", "127.0.0.1:80"),
        ];
        assert_eq!(
            edited(text, &edits).unwrap(),
            "# mine\n[camera] # the camera\nsource = \"rpicam\" # USB\nfps = 5\n[decide]\nhold-ms = 7\n\n\
             [web]\nlisten = \"127.0.0.1:80\"\n"
        );
    }

    #[test]
    fn a_key_becomes_a_comment_and_a_key_again() {
        let listen = [unset("web", "listen")];
        let text = "[web]\n# Why.\nlisten = \"[::]:80\" # all\nlive-fps = 5.0\n";
        let without = edited(text, &listen).unwrap();
        assert_eq!(without, text.replace("listen", "# listen"));
        let again = [ConfigEdit::set("web", "listen", "[::]:80")];
        assert_eq!(edited(&without, &again).unwrap(), text);
        assert_eq!(edited("", &listen).unwrap(), "");
        let lines = "[indicate]\nactive-low = [\n  \"red\",\n]\nbuzzer-hz = 90\n";
        let without = edited(lines, &[unset("indicate", "active-low")]).unwrap();
        assert_eq!(
            without,
            "[indicate]\n# active-low = [\n#   \"red\",\n# ]\nbuzzer-hz = 90\n"
        );
    }

    #[test]
    fn a_key_with_its_former_name_is_renamed_and_its_default_stays_a_comment() {
        let text = "[classify]\n#masked-threshold = 0.5\nmask-from = 0.8\n";
        let edit = ConfigEdit::set("classify", "masked-threshold", 0.7);
        let expected = "[classify]\n#masked-threshold = 0.5\nmasked-threshold = 0.7\n";
        assert_eq!(edited(text, &[edit]).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        let listen = unset("web", "listen");
        let inline = "web = { listen = \"[::]:80\", live-fps = 5.0 }\n";
        let refused = edited(inline, std::slice::from_ref(&listen));
        assert_eq!(refused, Err(EditError::Entangled("web.listen".to_owned())));
        let set = ConfigEdit::set("web", "listen", "[::]:80");
        let refused = edited("web = 3\n", std::slice::from_ref(&set));
        assert_eq!(refused, Err(EditError::NoSection("web".to_owned())));
        for edit in [listen, set] {
            assert_eq!(edited("[web", &[edit]), Err(EditError::Syntax));
        }
        assert_eq!(config::parse("any", SHIPPED).unwrap(), Config::default());
    }
}
