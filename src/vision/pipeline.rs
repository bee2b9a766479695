//! Runs the stages that lead from a frame to classified faces, in this order: detector,
//! crops, backbone, and head.
//!
//! This module owns the models. It keeps no state from frame to frame, because `track`
//! holds the tracks. The daemon, `classify`, `eval`, and `bench` all use this module.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;

use crate::frame::{Crop, Face, PictureError, Scaler};
use crate::onnx::{self, Classifier, FaceCheckTensors, Graph, ModelError, ModelFile, ThreadPool};
use crate::platform::hex;
use crate::platform::system;
use crate::vision::detect::{DetectError, Detector, DetectorOptions};
use crate::vision::embed::{Backbone, Embedder, Feature};
use crate::vision::face_check::{
    Detections, FaceCheck, FaceCheckOptions, FaceOpinion, is_same_place,
};
use crate::vision::head::{self, Head, HeadId};

// These are statics because the compiler may copy a constant to each place that uses it.

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
    /// The opinion of the face check, or `None` if there is no face check.
    pub face: Option<FaceOpinion>,
}

/// A face in a picture and its classification.
#[derive(Debug, Clone)]
pub struct RecognizedFace {
    /// The face's position, score, and landmarks.
    pub face: Face,
    /// The classification of the face.
    pub classification: Classification,
}

/// When and how a face with an uncertain classification is classified a second time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SecondLook {
    /// A face is classified again if no label has at least this probability. Between 0 and
    /// 1. With 0, no face is classified again.
    pub below: f32,
    /// Margin of the second crop, in the same unit as [`PipelineOptions::margin`].
    pub margin: f32,
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
    /// Options for boxes that the detector scores low.
    pub face_check: FaceCheckOptions,
    /// Margin that is added on each side of a face's box, as a fraction of the box's width
    /// and height.
    pub margin: f32,
    /// Options for faces with uncertain classifications.
    pub second_look: SecondLook,
}

/// The models for all stages, ready to run.
#[derive(Debug)]
pub struct Pipeline {
    detector: Detector,
    embedder: Embedder,
    head: Arc<Head>,
    head_id: HeadId,
    /// `None` if the classifier file contains no face check, or if it is switched off.
    face_check: Option<FaceCheck>,
    /// Minimum detector score at which a box counts as a face without the face check.
    threshold: f32,
    scaler: Scaler,
    margin: f32,
    second_look: SecondLook,
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
        let (embedder, head, face_check) = classifier?;
        let is_on = options.face_check.low_threshold < options.detector.threshold;
        let face_check = face_check.filter(|_| is_on);
        Ok(Pipeline {
            detector,
            embedder,
            head: Arc::new(head),
            head_id: HeadId::default(),
            face_check: face_check.map(|tensors| FaceCheck::new(tensors, options.face_check)),
            threshold: options.detector.threshold,
            scaler: Scaler::default(),
            margin: options.margin,
            second_look: options.second_look,
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

    /// Detects the faces in a frame, and the boxes that need a second opinion. Without a face
    /// check, there are no such boxes.
    ///
    /// # Errors
    /// [`PipelineError`] if the model fails or the frame is empty.
    pub fn detect(&mut self, pixels: &RgbImage) -> Result<Detections, PipelineError> {
        let found = self.detector.detect(pixels)?;
        let options = self.face_check.as_ref().map(FaceCheck::options);
        Ok(Detections::new(found, self.threshold, options))
    }

    /// Detects and classifies the faces in a single picture, with the best score first. Up to
    /// [`MAX_CANDIDATES`] boxes with low scores are among them, if the face check accepts
    /// them.
    ///
    /// [`MAX_CANDIDATES`]: crate::vision::face_check::MAX_CANDIDATES
    ///
    /// # Errors
    /// Same as [`detect`](Pipeline::detect) and [`classify`](Pipeline::classify).
    pub fn recognize(&mut self, pixels: &RgbImage) -> Result<Vec<RecognizedFace>, PipelineError> {
        let detections = self.detect(pixels)?;
        let sure = detections.faces.len();
        let faces = detections.in_one_picture();
        let classifications = self.classify(pixels, &faces)?;
        let mut recognized: Vec<RecognizedFace> = Vec::with_capacity(faces.len());
        for (index, (mut face, classification)) in
            faces.into_iter().zip(classifications).enumerate()
        {
            let accepted = classification.face.filter(|opinion| opinion.is_face);
            if let Some(opinion) = accepted
                && self.is_uncertain(&face)
            {
                face.face_check = Some(opinion.probability);
            }
            let is_apart = |known: &RecognizedFace| !is_same_place(&known.face, &face);
            if index < sure || accepted.is_some() && recognized.iter().all(is_apart) {
                recognized.push(RecognizedFace {
                    face,
                    classification,
                });
            }
        }
        Ok(recognized)
    }

    /// Whether the score of a box is so low that its verdict depends on the face check.
    /// Returns false if there is no face check.
    #[must_use]
    pub fn is_uncertain(&self, face: &Face) -> bool {
        let check = self.face_check.as_ref();
        check.is_some_and(|check| face.score < check.options().certain_from)
    }

    /// Crops each face from the frame, with the configured margin around its box.
    ///
    /// # Errors
    /// [`PipelineError::Picture`] if a face lies outside the frame.
    pub fn cut(&mut self, pixels: &RgbImage, faces: &[Face]) -> Result<Vec<Crop>, PipelineError> {
        self.cut_with(self.margin, pixels, faces)
    }

    fn cut_with(
        &mut self,
        margin: f32,
        pixels: &RgbImage,
        faces: &[Face],
    ) -> Result<Vec<Crop>, PipelineError> {
        let (width, height) = pixels.dimensions();
        let mut crops = Vec::with_capacity(faces.len());
        for face in faces {
            // With a negative margin, nothing may remain of a face at the edge of the
            // frame. Such a face is cropped without a margin.
            let region = face.rect.region(margin, width, height);
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

    /// Classifies each face in a frame by running [`cut`], [`embed`], and the head. If the
    /// result is uncertain, a second crop with another margin is classified too, and the
    /// logits are averaged ([`SecondLook`]). The crop and the feature in the result are
    /// those of the first crop. The results are in the order of the faces.
    ///
    /// # Errors
    /// Same as [`cut`] and [`embed`].
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
    /// called. If a face is classified again, `done` is called twice for each stage.
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
                    face: self
                        .face_check
                        .as_ref()
                        .map(|check| check.opinion(&feature)),
                    crop,
                    feature,
                });
        let mut classifications: Vec<Classification> = classifications.collect();
        done(Stage::Head);
        self.look_again(pixels, faces, &mut classifications, done)?;
        Ok(classifications)
    }

    /// Classifies the uncertain faces again, and corrects their probabilities.
    fn look_again(
        &mut self,
        pixels: &RgbImage,
        faces: &[Face],
        classifications: &mut [Classification],
        mut done: impl FnMut(Stage),
    ) -> Result<(), PipelineError> {
        let uncertain: Vec<usize> = (0..faces.len())
            .filter(|&index| self.needs_second_look(&faces[index], &classifications[index]))
            .collect();
        if uncertain.is_empty() {
            return Ok(());
        }
        let again: Vec<Face> = uncertain.iter().map(|index| faces[*index]).collect();
        let crops = self.cut_with(self.second_look.margin, pixels, &again)?;
        done(Stage::Crop);
        let features = self.embed(&crops)?;
        done(Stage::Embed);
        for (index, second) in uncertain.into_iter().zip(features) {
            let first = self.head.logits(&classifications[index].feature);
            let second = self.head.logits(&second);
            let mean: Vec<f32> = first
                .iter()
                .zip(&second)
                .map(|(a, b)| f32::midpoint(*a, *b))
                .collect();
            classifications[index].probabilities = head::softmax(&mean);
        }
        done(Stage::Head);
        Ok(())
    }

    /// Whether no label is probable enough. A box that the face check refused does not need
    /// a second look, because it is not a face.
    fn needs_second_look(&self, face: &Face, classification: &Classification) -> bool {
        let is_refused = classification
            .face
            .is_some_and(|opinion| !opinion.is_face && self.is_uncertain(face));
        let probabilities = classification.probabilities.iter();
        !is_refused && probabilities.copied().fold(0.0, f32::max) < self.second_look.below
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
    let mut detector = options.detector;
    detector.threshold = detector.threshold.min(options.face_check.low_threshold);
    if let Some(path) = &options.detector_file {
        let name = path.display().to_string();
        Detector::new(&name, &onnx::read_file(path)?, detector, pool)
    } else {
        let name = "face_detector.onnx (built-in)";
        Detector::new(name, SHIPPED_DETECTOR, detector, pool)
    }
}

/// Opens the backbone and the head in a classifier file. Without a file, this function
/// opens the built-in backbone and head. A file that contains only a head is combined
/// with the built-in backbone.
///
/// # Errors
/// [`ModelError`] if the file cannot be used, or if its head was trained for a different
/// backbone.
pub fn open_model(classifier_file: Option<&Path>) -> Result<(Graph, Head), ModelError> {
    let (backbone, head, _) = open_parts(classifier_file)?;
    Ok((backbone, head))
}

/// The parts of a classifier: its backbone, its head, and the face check that belongs to
/// the backbone.
type Parts = (Graph, Head, Option<FaceCheckTensors>);

/// Like [`open_model`], but also returns the face check, if there is one.
fn open_parts(classifier_file: Option<&Path>) -> Result<Parts, ModelError> {
    let shipped = || {
        let classifier = Classifier::parse("mask_classifier.onnx (built-in)", SHIPPED_CLASSIFIER);
        system::release_file_pages(SHIPPED_CLASSIFIER);
        classifier
    };
    let Some(path) = classifier_file else {
        let classifier = shipped()?;
        let head = Head::of(&classifier);
        return Ok((classifier.backbone, head, classifier.face_check));
    };
    let name = path.display().to_string();
    match ModelFile::parse(&name, &onnx::read_file(path)?)? {
        ModelFile::Classifier(classifier) => {
            let head = Head::of(&classifier);
            Ok((classifier.backbone, head, classifier.face_check))
        }
        ModelFile::Head(file) => {
            let shipped = shipped()?;
            let features = shipped.head.features();
            if file.backbone_sha256 != shipped.backbone_sha256 || file.head.features() != features {
                return Err(ModelError::Unexpected {
                    model: name,
                    kind: "head",
                    problem: format!(
                        "it was made for the backbone {}, not for {}",
                        hex::encode(&file.backbone_sha256[..6]),
                        hex::encode(&shipped.backbone_sha256[..6])
                    ),
                });
            }
            Ok((shipped.backbone, Head::from_file(file), shipped.face_check))
        }
    }
}

fn open_classifier(
    classifier_file: Option<&Path>,
    threads: usize,
    pool: ThreadPool,
) -> Result<(Embedder, Head, Option<FaceCheckTensors>), ModelError> {
    let (backbone, head, face_check) = open_parts(classifier_file)?;
    let backbone = Backbone::new(backbone, head.features())?;
    Ok((Embedder::new(&backbone, threads, pool)?, head, face_check))
}
