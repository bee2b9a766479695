//! Finds and classifies the faces in single pictures. `maskd classify`, `maskd eval`, and
//! the API use this module, because they need verdicts but no tracks.

use std::sync::Arc;

use image::RgbImage;

use crate::decision::decide::{LabelError, VerdictPolicy};
use crate::decision::frame_result::{FaceRecord, FaceResult, PictureRecord};
use crate::vision::head::Head;
use crate::vision::pipeline::{Classification, Pipeline, PipelineError, RecognizedFace};

/// The models and the policy for verdicts.
#[derive(Debug)]
pub struct Recognizer {
    pipeline: Pipeline,
    policy: VerdictPolicy,
}

impl Recognizer {
    /// Creates a recognizer. The policy must be for the labels of the pipeline's head.
    #[must_use]
    pub fn new(pipeline: Pipeline, policy: VerdictPolicy) -> Recognizer {
        Recognizer { pipeline, policy }
    }

    /// The head in use.
    #[must_use]
    pub fn head(&self) -> &Head {
        self.pipeline.head()
    }

    /// The labels of the head.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.pipeline.head().labels()
    }

    /// Replaces the head, which must be for the same backbone.
    ///
    /// # Errors
    /// [`LabelError`] if the labels of the head do not match the config. In that case,
    /// nothing changes.
    pub fn set_head(&mut self, head: Arc<Head>) -> Result<(), LabelError> {
        self.policy = self.policy.with_labels(head.labels())?;
        self.pipeline.set_head(head);
        Ok(())
    }

    /// Replaces the thresholds of the policy, as [`VerdictPolicy::set_thresholds`] does.
    pub fn set_thresholds(&mut self, mask_from: f32, no_mask_to: f32) {
        self.policy.set_thresholds(mask_from, no_mask_to);
    }

    /// Finds and classifies the faces in a picture. Every face is classified, even if its
    /// size or score makes the verdict unsure, so that every result contains
    /// probabilities. The face with the best detector score is first.
    ///
    /// # Errors
    /// [`PipelineError`] if a model fails.
    pub fn faces(&mut self, pixels: &RgbImage) -> Result<Vec<FaceResult>, PipelineError> {
        let recognized = self.recognize(pixels)?.into_iter();
        Ok(recognized.map(|(result, _)| result).collect())
    }

    /// Like [`faces`](Recognizer::faces), but also returns the classification of each face,
    /// with its crop and its feature.
    ///
    /// # Errors
    /// [`PipelineError`] if a model fails.
    pub fn recognize(
        &mut self,
        pixels: &RgbImage,
    ) -> Result<Vec<(FaceResult, Classification)>, PipelineError> {
        let recognized = self.pipeline.recognize(pixels)?.into_iter();
        let results = recognized.map(|recognized| {
            let RecognizedFace {
                face,
                classification,
            } = recognized;
            let face_probability = classification.face.map(|opinion| opinion.probability);
            let verdict =
                self.policy
                    .verdict(&face, &classification.probabilities, face_probability);
            let result = FaceResult {
                face,
                track: None,
                probabilities: Some(classification.probabilities.clone()),
                verdict,
                verdict_alone: Some(verdict),
            };
            (result, classification)
        });
        Ok(results.collect())
    }

    /// Returns the record of a picture with these faces. `picture` is the name of the
    /// picture in the record.
    #[must_use]
    pub fn record(
        &self,
        picture: String,
        pixels: &RgbImage,
        faces: &[FaceResult],
    ) -> PictureRecord {
        let labels = self.labels();
        PictureRecord {
            picture,
            width: pixels.width(),
            height: pixels.height(),
            faces: faces
                .iter()
                .map(|face| FaceRecord::new(face, labels))
                .collect(),
        }
    }
}
