//! IDs of face pictures on the command line. The beginning of an ID is enough if no other
//! ID begins with it.

use super::Failure;
use super::backend::Backend;
use crate::learning::SampleFilter;
use crate::learning::samples::is_complete_id;
use crate::platform::text::counted;

/// Minimum length of the beginning of an ID, in bytes.
const MIN_PREFIX: usize = 4;

/// Returns the IDs that the user means. A word that is an ID means this ID. Any other word
/// means the only ID that begins with it. A word that no ID begins with is returned as it
/// is, so that the command reports it like a deleted face picture. If `discarded` is true,
/// the user means discarded face pictures.
pub(super) fn resolve(
    backend: &dyn Backend,
    words: Vec<String>,
    discarded: bool,
) -> Result<Vec<String>, Failure> {
    let resolve = |word: String| {
        // A script that passes an ID of a deleted face picture must not change another one.
        if is_complete_id(&word) {
            return Ok(word);
        }
        let filter = SampleFilter {
            id: Some(word.clone()),
            discarded,
            ..SampleFilter::default()
        };
        let found = backend.samples(&filter)?.into_iter();
        choose(word, found.map(|sample| sample.id).collect())
    };
    words.into_iter().map(resolve).collect()
}

/// Returns the ID that a word means. `found` are the IDs that begin with the word.
pub(super) fn choose(word: String, found: Vec<String>) -> Result<String, Failure> {
    if found.is_empty() || found.contains(&word) {
        return Ok(word);
    }
    let mut found = found.into_iter();
    let (first, others) = (found.next(), found.len());
    let sentence = match first {
        _ if word.len() < MIN_PREFIX => format!(
            "{word:?} is too short: type at least the first {MIN_PREFIX} characters of the ID"
        ),
        Some(id) if others == 0 => return Ok(id),
        _ => format!(
            "the IDs of {} begin with {word:?}: type more characters",
            counted(others + 1, "face picture")
        ),
    };
    Err(Failure::new(Failure::USAGE, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(word: &str, found: &[&str]) -> Result<String, String> {
        let found = found.iter().map(ToString::to_string).collect();
        choose(word.to_owned(), found).map_err(|failure| failure.sentence)
    }

    #[test]
    fn a_word_means_itself_or_the_only_id_that_begins_with_it() {
        assert_eq!(chosen("face", &["face", "face-2"]).unwrap(), "face");
        assert_eq!(chosen("face", &["face-2"]).unwrap(), "face-2");
        assert_eq!(chosen("f", &["f", "face-2"]).unwrap(), "f");
        assert_eq!(chosen("nobody", &[]).unwrap(), "nobody");
        assert_eq!(chosen("x", &[]).unwrap(), "x");
    }

    #[test]
    fn a_word_that_may_mean_several_ids_is_refused() {
        let error = chosen("face", &["face-1", "face-2", "face-3"]).unwrap_err();
        let sentence = "the IDs of 3 face pictures begin with \"face\": type more characters";
        assert!(error.contains(sentence), "{error}");
        for found in [&["face-1"][..], &["face-1", "face-2"]] {
            let error = chosen("fac", found).unwrap_err();
            assert!(error.contains("\"fac\" is too short"), "{error}");
        }
    }
}
