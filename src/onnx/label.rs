//! The names of classes.
//!
//! This module defines which names are valid labels. `protected_attribute` lists the words
//! that are refused because they stand for attributes of people. The same rule applies to labels in
//! model files, in names of picture folders, in the config, and in requests. This module
//! is in the same folder as the code for model files because every label is written to a
//! model file.

use std::fmt;

use super::protected_attribute;

/// Maximum length of a label in characters.
const MAX_CHARACTERS: usize = 64;

/// Maximum length of a label in bytes. File systems limit the name of a folder to this
/// length, and the replay set has room for this many bytes.
const MAX_BYTES: usize = 255;

/// The name of the folder for samples without a label, and the word for these samples
/// in commands. This word is not a label.
pub const UNLABELLED: &str = "unlabelled";

/// Words that cannot be labels because they have another meaning where a label is
/// expected. In this order, they stand for the folder for samples without a label, the
/// command that deletes a sample, the folder for features, and the verdict on a face
/// when no label is certain enough.
const RESERVED: [&str; 4] = [UNLABELLED, "discard", "features", "unsure"];

/// The name that a user gives to a class. The name is stored in the model. The folder
/// with the pictures of the class has the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// A name that cannot be a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The name cannot be the name of a folder, or has another meaning.
    #[error(
        "{:?} cannot be a label: use 1 to {MAX_CHARACTERS} characters (at most {MAX_BYTES} \
         bytes) without \"/\" and control characters, with no dot at the start, no space at \
         either end, and none of the words \"unlabelled\", \"discard\", \"features\", and \
         \"unsure\"",
        beginning(.0)
    )]
    Name(String),
    /// The name contains a word for an attribute of people that maskd does not classify.
    #[error(
        "{name:?} cannot be a label: the word {word:?} stands for the {attribute} of people, and \
         maskd does not classify people by emotion, ethnicity, religion, age, sex, or similar \
         attributes; for example, Article 5 of the EU AI Act (Regulation (EU) 2024/1689) prohibits \
         inferring emotions at work and in schools, and inferring race, religion, or sexual \
         orientation from biometric data (this is not legal advice)"
    )]
    ProtectedAttribute {
        /// The name.
        name: String,
        /// The word in the name, in lowercase without diacritics.
        word: &'static str,
        /// The attribute that the word stands for.
        attribute: &'static str,
    },
}

/// Returns the beginning of a name, so that a message about a huge name stays readable.
fn beginning(name: &str) -> String {
    match name.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

impl Label {
    /// Accepts any name of 1 to 64 characters that can be the name of a visible
    /// folder.
    ///
    /// Spaces within a name are part of the name. A name with a space at either end is
    /// refused rather than trimmed, because the folder would keep the space, and two
    /// labels would look the same.
    ///
    /// # Errors
    /// [`LabelError::Name`] for any other name, and for `unlabelled`, `discard`,
    /// `features`, and `unsure`. [`LabelError::ProtectedAttribute`] for a name with a word
    /// for emotion, ethnicity, religion, age, sex, or a similar attribute of people.
    pub fn new(name: &str) -> Result<Label, LabelError> {
        let fits = (1..=MAX_CHARACTERS).contains(&name.chars().count())
            && name.len() <= MAX_BYTES
            && !name.starts_with('.')
            && name.trim() == name
            && !name.contains(|c: char| c == '/' || c.is_control())
            && !RESERVED.contains(&name);
        if !fits {
            return Err(LabelError::Name(name.to_owned()));
        }
        match protected_attribute::find(name) {
            None => Ok(Label(name.to_owned())),
            Some((word, attribute)) => Err(LabelError::ProtectedAttribute {
                name: name.to_owned(),
                word,
                attribute,
            }),
        }
    }

    /// Returns the label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::onnx::{FEATURES, HeadFile, HeadTensors, ModelFile, write_head};

    #[test]
    fn names_of_any_language_are_labels_and_what_no_folder_is_called_is_none() {
        for name in [
            "with_mask",
            "ohne Maske",
            "마스크",
            "A-1",
            "x",
            "a.b",
            &"ä".repeat(64),
        ] {
            assert_eq!(Label::new(name).unwrap().as_str(), name);
        }
        for name in [
            "",
            " ",
            ".",
            "..",
            ".x",
            "a/b",
            " a",
            "a\u{a0}",
            "a\nb",
            "a\0b",
            "unlabelled",
            "discard",
            "features",
            "unsure",
            &"l".repeat(65),
            &"😀".repeat(64),
        ] {
            assert!(Label::new(name).is_err(), "{name:?}");
        }
        let error = Label::new("a/b").unwrap_err().to_string();
        assert!(
            error.starts_with("\"a/b\" cannot be a label: use 1 to 64"),
            "{error}"
        );
    }

    #[test]
    fn a_huge_name_is_not_repeated() {
        let error = Label::new(&"ä".repeat(100_000)).unwrap_err().to_string();
        assert!(
            error.len() < 500 && error.contains("ä…\" cannot"),
            "{error}"
        );
    }

    #[test]
    fn attributes_of_people_are_no_labels() {
        let error = Label::new("Happy face").unwrap_err().to_string();
        for words in [
            "\"Happy face\" cannot be a label: the word \"happy\" stands for the emotion of people",
            "Regulation (EU) 2024/1689",
            "not legal advice",
        ] {
            assert!(error.contains(words), "{error}");
        }
        let read = through_a_file(["with_mask", "Männer"]).unwrap_err();
        assert!(read.contains("the sex of people"), "{read}");
    }

    /// Writes a head file with these labels, and reads the labels back.
    fn through_a_file(labels: [&str; 2]) -> Result<Vec<String>, String> {
        let file = HeadFile {
            backbone_sha256: [5; 32],
            labels: labels.map(str::to_owned).to_vec(),
            head: HeadTensors {
                w1: vec![0.25; FEATURES],
                b1: vec![0.0],
                w2: vec![1.0, -1.0],
                b2: vec![0.0; 2],
            },
        };
        match ModelFile::parse("test", &write_head(&file, &[])) {
            Ok(ModelFile::Head(file)) => Ok(file.labels),
            Ok(ModelFile::Classifier(_)) => Err("it became a classifier".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every valid label works as the name of a single folder and as a label in a
        /// model. A model with any other text as a label is refused.
        #[test]
        fn a_label_is_a_folder_and_a_name_in_a_model(
            name in prop_oneof!["\\PC{0,70}", "[a-z ./]{0,6}", ".{0,9}", "[a-z_]{1,20}"],
        ) {
            let read = through_a_file([&name, "another one"]);
            let Ok(label) = Label::new(&name) else {
                prop_assert!(read.is_err(), "{read:?}");
                return Ok(());
            };
            prop_assume!(name != "another one");
            prop_assert_eq!(read, Ok(vec![name.clone(), "another one".to_owned()]));
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join(label.as_str())).unwrap();
            let entries: Vec<_> = fs::read_dir(&folder).unwrap().collect();
            let [Ok(entry)] = &entries[..] else {
                panic!("{entries:?}");
            };
            let file_name = entry.file_name();
            prop_assert_eq!(file_name.to_str(), Some(name.as_str()));
        }
    }
}
