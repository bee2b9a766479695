//! Determines what labels mean, and compares verdicts with labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::Serialize;

use crate::cli::Failure;
use crate::decision::decide::Verdict;
use crate::frame::decoding::{decode, read};
use crate::frame::names::Unused;

/// Whether a person really wears a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    Masked,
    Unmasked,
}

/// The meaning of each label. The config determines the meaning of the model's labels. On
/// the command line, the user can define the meaning of other labels.
#[derive(Debug)]
pub(super) struct Truths(BTreeMap<String, Truth>);

impl Truths {
    /// `labels` are the labels of the model, and `configured` are the labels that count
    /// as masked according to the config. `masked` and `unmasked` are other labels, whose
    /// meaning the user defines.
    pub(super) fn new(
        labels: &[String],
        configured: &[String],
        masked: &[String],
        unmasked: &[String],
    ) -> Result<Truths, Failure> {
        let mut truths = BTreeMap::new();
        for label in labels {
            let truth = if configured.contains(label) {
                Truth::Masked
            } else {
                Truth::Unmasked
            };
            truths.insert(label.clone(), truth);
        }
        let masked = masked.iter().map(|label| (label, Truth::Masked));
        let unmasked = unmasked.iter().map(|label| (label, Truth::Unmasked));
        for (label, truth) in masked.chain(unmasked) {
            let known = *truths.entry(label.clone()).or_insert(truth);
            if known == truth {
                continue;
            }
            let sentence = if labels.contains(label) {
                format!(
                    "{label:?} is a label of the model: to change what it means, set \
                     classify.masked-labels in the config"
                )
            } else {
                format!("{label:?} cannot be both a --masked-label and an --unmasked-label")
            };
            return Err(Failure::new(Failure::USAGE, sentence));
        }
        Ok(Truths(truths))
    }

    /// Returns the meaning of a label, or `None` if the meaning is not known.
    pub(super) fn of(&self, label: &str) -> Option<Truth> {
        self.0.get(label).copied()
    }
}

/// Why a label without a known meaning is not used.
pub(super) const UNKNOWN_LABEL: &str = "the model has no such label; say what it stands for with \
     --masked-label or --unmasked-label";

/// How a verdict compares with the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Right,
    Wrong,
    /// The verdict on the face is `unsure`.
    Unsure,
    /// The face was not found.
    NotFound,
}

impl Outcome {
    /// Compares a verdict with the truth. If `verdict` is `None`, the face was not found.
    /// If `truth` is `None`, the truth is not known, and no verdict is right.
    pub(super) fn new(truth: Option<Truth>, verdict: Option<Verdict>) -> Outcome {
        match (verdict, truth) {
            (None, _) => Outcome::NotFound,
            (Some(Verdict::Unsure(_)), _) => Outcome::Unsure,
            (Some(Verdict::Masked(_)), Some(Truth::Masked))
            | (Some(Verdict::Unmasked(_)), Some(Truth::Unmasked)) => Outcome::Right,
            (Some(Verdict::Masked(_) | Verdict::Unmasked(_)), _) => Outcome::Wrong,
        }
    }
}

/// Number of faces with each outcome.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcomes {
    pub(super) all: usize,
    /// Number of faces that were found.
    pub(super) found: usize,
    /// Number of faces that were found and got the right verdict.
    pub(super) right: usize,
    /// Number of faces that were found and got the verdict `unsure`.
    pub(super) unsure: usize,
}

impl Outcomes {
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.all += 1;
        self.found += usize::from(outcome != Outcome::NotFound);
        self.right += usize::from(outcome == Outcome::Right);
        self.unsure += usize::from(outcome == Outcome::Unsure);
    }
}

pub(super) fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// Reads and decodes a picture, or returns the reason that it cannot be used.
pub(super) fn pixels(picture: &Path) -> Result<RgbImage, String> {
    let bytes = read(picture).map_err(|error| error.to_string())?;
    decode(&bytes).map_err(|error| error.to_string())
}

/// A picture that was skipped because it cannot be used.
#[derive(Debug, Serialize)]
pub(super) struct SkippedRecord {
    /// Path within the data set.
    picture: String,
    why: String,
}

impl SkippedRecord {
    pub(super) fn new(skipped: &Unused, folder: &Path) -> SkippedRecord {
        SkippedRecord {
            picture: name_within(&skipped.path, folder),
            why: skipped.why.clone(),
        }
    }
}

pub(super) fn skipped(path: &Path, why: String) -> Unused {
    Unused {
        path: PathBuf::from(path),
        why,
    }
}

/// Returns the path of a picture within the folder of its data set.
pub(super) fn name_within(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder)
        .unwrap_or(path)
        .display()
        .to_string()
}
