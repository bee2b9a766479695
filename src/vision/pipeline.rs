//! Runs the stages that lead from a frame to classified faces, in this order: detector,
//! crops, backbone and head.
//!
//! Owns the models, and keeps no state from frame to frame; `track` holds the tracks.
//! The daemon, `classify`, `eval` and `bench` all use this module.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;

use crate::frame::{Crop, Face, PictureError, Scaler};
use crate::onnx::{self, Classifier, Graph, ModelError, ModelFile, ThreadPool};
use crate::platform::hex;
use crate::platform::system;
use crate::vision::detect::{DetectError, Detector, DetectorOptions};
use crate::vision::embed::{Backbone, Embedder, Feature};
use crate::vision::head::{Head, HeadId};

// These are statics because the compiler may copy a constant to each use.

/// The built-in classifier; see `models/README.md` for its source.
pub static SHIPPED_CLASSIFIER: &[u8] = include_bytes!("../../models/mask_classifier.onnx");
/// The built-in face detector; see `models/README.md` for its source.
pub static SHIPPED_DETECTOR: &[u8] = include_bytes!("../../models/face_detector.onnx");

/// The reason the faces in a frame could not be classified.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The frame cannot be scaled or cropped.
    #[error("the frame cannot be used: {0}")]
    Picture(#[from] PictureError),
}

impl From<DetectError> for PipelineError {
    fn from(error: DetectError) -> PipelineError {
        match error {
            DetectError::Model(error) => error.into(),
            DetectError::Picture(error) => error.into(),
        }
    }
}

/// A stage of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The detector finds the faces in the frame.
    Detect,
    /// The faces are cropped from the frame.
    Crop,
    /// The backbone computes the features of the crops.
    Embed,
    /// The head classifies the features.
    Head,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 4] = [Stage::Detect, Stage::Crop, Stage::Embed, Stage::Head];

    /// The name of the stage in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Detect => "detect",
            Stage::Crop => "crop",
            Stage::Embed => "embed",
            Stage::Head => "head",
        }
    }
}

/// The classification of one face.
#[derive(Debug, Clone)]
pub struct Classification {
    /// The crop of the face, including the margin.
    pub crop: Crop,
    /// The backbone's output for the crop.
    pub feature: Feature,
    /// The head that computed the probabilities.
    pub head: HeadId,
    /// The probability of each label of the head.
    pub probabilities: Vec<f32>,
}

/// The models that a [`Pipeline`] runs, and their options.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineOptions {
    /// Path of the detector file. If it is absent, the built-in detector is used.
    pub detector_file: Option<PathBuf>,
    /// Path of a classifier file or a head file. If it is absent, the built-in classifier is
    /// used.
    pub classifier_file: Option<PathBuf>,
    /// Options for the detector.
    pub detector: DetectorOptions,
    /// Margin that is added on each side of a face's box, as a fraction of the box's width
    /// and height.
    pub margin: f32,
}

/// The models for all stages, ready to run.
#[derive(Debug)]
pub struct Pipeline {
    detector: Detector,
    embedder: Embedder,
    head: Arc<Head>,
    head_id: HeadId,
    scaler: Scaler,
    margin: f32,
}

impl Pipeline {
    /// Opens both models at the same time, because each takes a while. `threads` threads
    /// share the faces in a frame.
    ///
    /// # Errors
    /// [`ModelError`] for the first model that cannot be used.
    pub fn open(options: &PipelineOptions, threads: usize) -> Result<Pipeline, ModelError> {
        let pool = ThreadPool::of(threads);
        let (detector, classifier) = pool.join(
            || open_detector(options, pool.clone()),
            || open_classifier(options.classifier_file.as_deref(), threads, pool.clone()),
        );
        let detector = detector?;
        let (embedder, head) = classifier?;
        Ok(Pipeline {
            detector,
            embedder,
            head: Arc::new(head),
            head_id: HeadId::default(),
            scaler: Scaler::default(),
            margin: options.margin,
        })
    }

    /// The head in use.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head in use, shared with the caller.
    #[must_use]
    pub fn shared_head(&self) -> Arc<Head> {
        Arc::clone(&self.head)
    }

    /// Detects the faces in a frame and returns them with the best score first.
    ///
    /// # Errors
    /// [`PipelineError`] if the model fails or the frame is empty.
    pub fn detect(&mut self, pixels: &RgbImage) -> Result<Vec<Face>, PipelineError> {
        Ok(self.detector.detect(pixels)?)
    }

    /// Crops each face from the frame, with the configured margin around its box.
    ///
    /// # Errors
    /// [`PipelineError::Picture`] if a face lies outside the frame.
    pub fn cut(&mut self, pixels: &RgbImage, faces: &[Face]) -> Result<Vec<Crop>, PipelineError> {
        let (width, height) = pixels.dimensions();
        let mut crops = Vec::with_capacity(faces.len());
        for face in faces {
            // With a negative margin, nothing might remain of a face at the edge of the
            // frame, so the crop then has no margin.
            let region = face.rect.region(self.margin, width, height);
            let region = region.or_else(|| face.rect.region(0.0, width, height));
            crops.push(
                self.scaler
                    .crop(pixels, region.ok_or(PictureError::Region)?)?,
            );
        }
        Ok(crops)
    }

    /// Computes the features of each crop.
    ///
    /// # Errors
    /// [`PipelineError::Model`] if the backbone fails.
    pub fn embed(&mut self, crops: &[Crop]) -> Result<Vec<Feature>, PipelineError> {
        Ok(self.embedder.embed(crops)?)
    }

    /// Classifies each face in a frame by running [`cut`], [`embed`] and the head. The
    /// results are in the order of the faces.
    ///
    /// # Errors
    /// Same as the stages.
    ///
    /// [`cut`]: Pipeline::cut
    /// [`embed`]: Pipeline::embed
    pub fn classify(
        &mut self,
        pixels: &RgbImage,
        faces: &[Face],
    ) -> Result<Vec<Classification>, PipelineError> {
        self.classify_by_stages(pixels, faces, |_| ())
    }

    /// Like [`classify`](Pipeline::classify), but also calls `done` at the end of each
    /// stage, so that the caller can time the stages. If there are no faces, `done` is not
    /// called.
    ///
    /// # Errors
    /// Same as [`classify`](Pipeline::classify).
    pub fn classify_by_stages(
        &mut self,
        pixels: &RgbImage,
        faces: &[Face],
        mut done: impl FnMut(Stage),
    ) -> Result<Vec<Classification>, PipelineError> {
        if faces.is_empty() {
            return Ok(Vec::new());
        }
        let crops = self.cut(pixels, faces)?;
        done(Stage::Crop);
        let features = self.embed(&crops)?;
        done(Stage::Embed);
        let classifications =
            crops
                .into_iter()
                .zip(features)
                .map(|(crop, feature)| Classification {
                    head: self.head_id,
                    probabilities: self.head.probabilities(&feature),
                    crop,
                    feature,
                });
        let classifications = classifications.collect();
        done(Stage::Head);
        Ok(classifications)
    }

    /// Number of faces that are classified at the same time, at least 1.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.embedder.threads()
    }

    /// The id of the head in use.
    #[must_use]
    pub fn head_id(&self) -> HeadId {
        self.head_id
    }

    /// Replaces the head. The next classification uses the new head.
    pub fn set_head(&mut self, head: Arc<Head>) {
        self.head = head;
        self.head_id = self.head_id.next();
    }
}

fn open_detector(options: &PipelineOptions, pool: ThreadPool) -> Result<Detector, ModelError> {
    if let Some(path) = &options.detector_file {
        let name = path.display().to_string();
        Detector::new(&name, &onnx::read_file(path)?, options.detector, pool)
    } else {
        let name = "face_detector.onnx (built-in)";
        Detector::new(name, SHIPPED_DETECTOR, options.detector, pool)
    }
}

/// Opens the backbone and the head in a classifier file. Without a file, this function
/// opens the built-in backbone and head. If the file contains only a head, it is combined
/// with the built-in backbone.
///
/// # Errors
/// [`ModelError`] if the file cannot be used, or if its head was trained for a different
/// backbone.
pub fn open_model(classifier_file: Option<&Path>) -> Result<(Graph, Head), ModelError> {
    let shipped = || {
        let classifier = Classifier::parse("mask_classifier.onnx (built-in)", SHIPPED_CLASSIFIER);
        system::release_file_pages(SHIPPED_CLASSIFIER);
        classifier
    };
    let Some(path) = classifier_file else {
        let classifier = shipped()?;
        let head = Head::of(&classifier);
        return Ok((classifier.backbone, head));
    };
    let name = path.display().to_string();
    match ModelFile::parse(&name, &onnx::read_file(path)?)? {
        ModelFile::Classifier(classifier) => {
            let head = Head::of(&classifier);
            Ok((classifier.backbone, head))
        }
        ModelFile::Head(file) => {
            let backbone = shipped()?;
            if file.backbone_sha256 != backbone.backbone_sha256 {
                return Err(ModelError::Unexpected {
                    model: name,
                    kind: "head",
                    problem: format!(
                        "it was made for the backbone {}, not for {}",
                        hex::encode(&file.backbone_sha256[..6]),
                        hex::encode(&backbone.backbone_sha256[..6])
                    ),
                });
            }
            Ok((backbone.backbone, Head::from_file(file)))
        }
    }
}

fn open_classifier(
    classifier_file: Option<&Path>,
    threads: usize,
    pool: ThreadPool,
) -> Result<(Embedder, Head), ModelError> {
    let (backbone, head) = open_model(classifier_file)?;
    let backbone = Backbone::new(backbone)?;
    Ok((Embedder::new(&backbone, threads, pool)?, head))
}
