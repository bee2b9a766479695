//! `[models]`: model files to use in place of the built-in ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Check;

/// `[models]`; an absent key means the built-in model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Models {
    /// ONNX file with backbone and head.
    pub classifier: Option<PathBuf>,
    /// ONNX file of the face detector.
    pub detector: Option<PathBuf>,
}

impl Models {
    pub(super) fn check(&self, check: &mut Check) {
        check.not_empty("models.classifier", self.classifier.as_deref());
        check.not_empty("models.detector", self.detector.as_deref());
    }
}
