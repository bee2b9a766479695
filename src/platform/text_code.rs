//! The machine-readable form of a sentence. With it, a client can write the sentence in another
//! language.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The code of a sentence, and the values in the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TextCode {
    /// Name of the sentence, such as `one-class`. Later versions may have other codes, so a
    /// client shows the sentence itself if it does not know the code.
    pub code: String,
    /// The values in the sentence, by name. Each one is a whole number or a text, such as a
    /// label or the error message of a camera.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub values: BTreeMap<String, Value>,
}

impl TextCode {
    /// Creates a code without values.
    #[must_use]
    pub fn new(code: &str) -> TextCode {
        TextCode {
            code: code.to_owned(),
            values: BTreeMap::new(),
        }
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> TextCode {
        self.values.insert(name.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_empty_values() {
        let plain = TextCode::new("no-samples");
        let json = serde_json::to_string(&plain).unwrap();
        assert_eq!(json, r#"{"code":"no-samples"}"#);
        assert_eq!(serde_json::from_str::<TextCode>(&json).unwrap(), plain);
        let full = TextCode::new("too-few-people")
            .with("label", "hat")
            .with("people", 1);
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(
            json,
            r#"{"code":"too-few-people","values":{"label":"hat","people":1}}"#
        );
        assert_eq!(serde_json::from_str::<TextCode>(&json).unwrap(), full);
    }
}
