//! Finds and classifies the faces in single pictures. Commands use this module if they
//! need verdicts but no tracks.

use image::RgbImage;

use super::{Failure, Global};
use crate::config::Config;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::FaceResult;
use crate::vision::pipeline::{Pipeline, PipelineError, RecognizedFace};

/// The models and the policy for verdicts.
pub(super) struct Recognizer {
    pipeline: Pipeline,
    policy: VerdictPolicy,
    labels: Vec<String>,
}

impl Recognizer {
    /// Opens the configured models. With `--state`, the head is the one that is in use in
    /// that directory.
    pub(super) fn open(config: &Config, global: &Global) -> Result<Recognizer, Failure> {
        let mut pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(0))?;
        if let Some(head) = global.learned_head(pipeline.head())? {
            pipeline.set_head(head);
        }
        let labels = pipeline.head().labels().to_vec();
        let policy = VerdictPolicy::new(config.classify.verdict_options(), &labels)
            .map_err(|error| Failure::new(Failure::CONFIG, error))?;
        Ok(Recognizer {
            pipeline,
            policy,
            labels,
        })
    }

    /// The labels of the head.
    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Finds and classifies the faces in a picture. Every face is classified, even if its
    /// size or score makes the verdict unsure, so that every result contains
    /// probabilities. The face with the best detector score is first.
    pub(super) fn faces(&mut self, pixels: &RgbImage) -> Result<Vec<FaceResult>, PipelineError> {
        let recognized = self.pipeline.recognize(pixels)?.into_iter();
        let results = recognized.map(|recognized| {
            let RecognizedFace {
                face,
                classification,
            } = recognized;
            let verdict = self.policy.verdict(&face, &classification.probabilities);
            FaceResult {
                face,
                track: None,
                probabilities: Some(classification.probabilities),
                verdict,
                verdict_alone: Some(verdict),
            }
        });
        Ok(results.collect())
    }
}
