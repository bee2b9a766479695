//! `[models]`: model files to use instead of the built-in ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Check;

/// `[models]`. If a key is absent, the built-in model is used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Models {
    /// ONNX file with the classifier's backbone and head.
    pub classifier: Option<PathBuf>,
    /// File with the replay set of this classifier, which `maskd train --replay` writes.
    pub replay: Option<PathBuf>,
    /// ONNX file with the face detector.
    pub detector: Option<PathBuf>,
}

impl Models {
    pub(super) fn check(&self, check: &mut Check) {
        check.not_empty("models.classifier", self.classifier.as_deref());
        check.not_empty("models.replay", self.replay.as_deref());
        check.not_empty("models.detector", self.detector.as_deref());
    }
}
