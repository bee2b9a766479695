//! Templates for the bodies of webhooks.
//!
//! A template is JSON with placeholders such as `{{message}}`, which are the names of the fields of
//! an event. Inside a JSON string, a placeholder is replaced with the text of the field, with
//! escapes as JSON requires. Elsewhere, it is replaced with the JSON value of the field. The result
//! is therefore always valid JSON, whatever the field contains. This module does no I/O.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::event::Event;

/// The placeholder for the whole event.
const WHOLE: &str = "event";

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// A field inside a JSON string.
    Text(String),
    /// A field outside of JSON strings.
    Value(String),
}

/// A template that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// Why a template cannot be used, worded to follow the name of its config key. No message repeats
/// more of the template than the name of a placeholder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder has no end.
    #[error("has a {{{{ without }}}}: write placeholders as {{{{message}}}}")]
    Open,
    /// A placeholder follows an incomplete escape.
    #[error("has a placeholder within an escape: write a backslash as \\\\")]
    Escape,
    /// There is no field with this name.
    #[error("has the unknown placeholder {{{{{name}}}}}; the known ones are {known}")]
    Unknown {
        /// The name, shortened.
        name: String,
        /// The names of all fields.
        known: String,
    },
    /// The result would not be JSON.
    #[error("is not valid JSON: column {column}: {problem}")]
    Json {
        /// Column in the template with its placeholders replaced.
        column: usize,
        /// The parser's message.
        problem: String,
    },
}

impl Template {
    /// Parses a template, and checks that it yields JSON for events of every kind.
    ///
    /// # Errors
    /// Returns a [`TemplateError`].
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let events: Vec<Map<String, Value>> = Event::examples()
            .filter_map(|json| serde_json::from_str(&json).ok())
            .collect();
        let known: BTreeSet<&str> = events
            .iter()
            .flat_map(|event| event.keys().map(String::as_str))
            .chain([WHOLE])
            .collect();
        let template = Template::split(text, &known)?;
        for event in &events {
            let json = template.render(event);
            serde_json::from_str::<serde::de::IgnoredAny>(&json).map_err(|error| {
                let problem = error.to_string();
                let problem = problem.split(" at line").next().unwrap_or_default();
                TemplateError::Json {
                    column: error.column(),
                    problem: problem.to_owned(),
                }
            })?;
        }
        Ok(template)
    }

    fn split(text: &str, known: &BTreeSet<&str>) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut is_in_string = false;
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or(TemplateError::Open)?;
            is_in_string = ends_in_string(before, is_in_string).ok_or(TemplateError::Escape)?;
            parts.push(Part::Literal(before.to_owned()));
            let name = name.trim();
            if !known.contains(name) {
                let known: Vec<&str> = known.iter().copied().collect();
                return Err(TemplateError::Unknown {
                    name: name.chars().take(32).collect(),
                    known: known.join(", "),
                });
            }
            parts.push(if is_in_string {
                Part::Text(name.to_owned())
            } else {
                Part::Value(name.to_owned())
            });
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(Template(parts))
    }

    /// Returns the body for an event. Inside a string, a field that the event does not have is
    /// empty. Elsewhere, it is null.
    pub(super) fn render(&self, event: &Map<String, Value>) -> String {
        let value = |name: &str| match name {
            WHOLE => Value::Object(event.clone()),
            name => event.get(name).cloned().unwrap_or(Value::Null),
        };
        self.0
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.clone(),
                Part::Value(name) => value(name).to_string(),
                Part::Text(name) => {
                    let text = match value(name) {
                        Value::Null => String::new(),
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    let quoted = Value::String(text).to_string();
                    quoted[1..quoted.len() - 1].to_owned()
                }
            })
            .collect()
    }
}

/// Whether a JSON string is open at the end of `text`. `is_open` tells whether one is open at its
/// beginning. Returns `None` if `text` ends within an escape, such as `\\u00`.
fn ends_in_string(text: &str, mut is_open: bool) -> Option<bool> {
    // Number of characters that the current escape still needs.
    let mut escape = 0;
    let mut before = ' ';
    for c in text.chars() {
        match c {
            'u' if escape == 1 && before == '\\' => escape = 4,
            _ if escape > 0 => escape -= 1,
            '\\' if is_open => escape = 1,
            '"' => is_open = !is_open,
            _ => {}
        }
        before = c;
    }
    (escape == 0).then_some(is_open)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(more: Value) -> Map<String, Value> {
        let mut event: Map<String, Value> =
            serde_json::from_str(&Event::examples().next().unwrap()).unwrap();
        if let Value::Object(more) = more {
            event.extend(more);
        }
        event
    }

    #[test]
    fn placeholders_are_replaced() {
        let text = "{\"title\": \"{{device}}: {{ message }}\", \"n\": {{unmasked_faces}}, \
                    \"seconds\": {{seconds}}, \"why\": \"{{seconds}}\", \"all\": {{event}}, \
                    \"nested\": {\"deep\": {\"ok\": {{clock_synchronized}}}}}";
        let event = event(json!({"message": "a \"b\"\n\\"}));
        let body = Template::parse(text).unwrap().render(&event);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["title"], "front-door: a \"b\"\n\\");
        assert_eq!(body["n"], 1);
        assert_eq!(body["seconds"], Value::Null);
        assert_eq!(body["why"], "");
        assert_eq!(body["all"], Value::Object(event));
        assert_eq!(body["nested"]["deep"]["ok"], true);
    }

    #[test]
    fn wrong_templates_are_refused_in_words() {
        for (text, words) in [
            ("{\"a\": \"{{message}\"}", "has a {{ without }}"),
            (
                "{\"a\": \"{{nobody}}\"}",
                "the unknown placeholder {{nobody}}",
            ),
            ("{\"a\": {{message}}", "is not valid JSON"),
            ("{{message}} {{message}}", "is not valid JSON"),
            ("[\"\\{{message}}\"]", "within an escape"),
            ("[\"\\u00{{id}}\"]", "within an escape"),
            ("text", "is not valid JSON"),
            ("", "is not valid JSON"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_field_stays_inside_its_string(text in any::<String>(), key in any::<String>()) {
            let template = "{\"a\": \"<{{message}}>\", \"b\": {{message}}, \"\\\"{{device}}\": 1}";
            let event = event(json!({"message": text, "device": key}));
            let body = Template::parse(template).unwrap().render(&event);
            let body: Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(&body["a"], &json!(format!("<{text}>")));
            prop_assert_eq!(&body["b"], &json!(text));
            prop_assert_eq!(&body[format!("\"{key}")], 1);
        }

        #[test]
        fn a_template_that_is_accepted_always_yields_json(
            text in r#"([{}\[\]",:\\ au1]|\{\{message\}\}|\{\{event\}\}|\{\{seconds\}\}){0,12}"#,
            message in any::<String>(),
        ) {
            if let Ok(template) = Template::parse(&text) {
                let body = template.render(&event(json!({"message": message})));
                let body = serde_json::from_str::<Value>(&body);
                // As a key, a field can only repeat another key, which JSON allows.
                prop_assert!(body.is_ok(), "{}: {:?}", text, body);
            }
        }
    }
}
