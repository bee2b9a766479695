//! The frame-to-verdict path: detector, crops, backbone and head, in the order
//! in which they run.
//!
//! Owns no state of time: what tracks and decisions remember lies in `track`
//! and `decide`. The daemon, `classify` and `bench` all go through here.

use std::sync::Arc;

use image::RgbImage;

use crate::config::Config;
use crate::frame::{Crop, Face, PictureError, Scaler};
use crate::onnx::{self, Classifier, Graph, ModelError, ModelFile, ThreadPool};
use crate::platform::system;
use crate::vision::detect::{DetectError, Detector, DetectorOptions};
use crate::vision::embed::{Backbone, Embedder, Feature};
use crate::vision::head::Head;

// Statics: a constant would be in the binary once for each part of the program that
// names it.

/// The classifier that is compiled in; `models/README.md` has its source.
pub static SHIPPED_CLASSIFIER: &[u8] = include_bytes!("../../models/mask_classifier.onnx");
/// The face detector that is compiled in; `models/README.md` has its source.
pub static SHIPPED_DETECTOR: &[u8] = include_bytes!("../../models/face_detector.onnx");

/// Why a frame got no verdicts.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The frame cannot be scaled or cut.
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

/// A stage of the frame-to-verdict path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Faces are looked for.
    Detect,
    /// They are cut out.
    Crop,
    /// The backbone runs.
    Embed,
    /// The head runs.
    Head,
}

impl Stage {
    /// All there are, in their order.
    pub const ALL: [Stage; 4] = [Stage::Detect, Stage::Crop, Stage::Embed, Stage::Head];

    /// Its name outside.
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

/// What the classifier makes of one face.
#[derive(Debug, Clone)]
pub struct Classification {
    /// The face with its margin.
    pub crop: Crop,
    /// What the backbone makes of the crop.
    pub feature: Feature,
    /// The probability of each label of the head.
    pub probabilities: Vec<f32>,
}

/// The stages of the frame-to-verdict path with their models.
#[derive(Debug)]
pub struct Pipeline {
    detector: Detector,
    embedder: Embedder,
    head: Arc<Head>,
    scaler: Scaler,
    margin: f32,
}

impl Pipeline {
    /// Opens the models that `config` names, or the shipped ones; both at the
    /// same time, since each takes a while. The faces of a frame are shared by
    /// `threads` threads.
    ///
    /// # Errors
    /// The first model that is not what it should be.
    pub fn open(config: &Config, threads: usize) -> Result<Pipeline, ModelError> {
        let team = ThreadPool::of(threads);
        std::thread::scope(|scope| {
            let detector = scope.spawn(|| open_detector(config, team.clone()));
            let classifier = open_classifier(config, threads, team.clone());
            let detector = detector
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let (embedder, head) = classifier?;
            Ok(Pipeline {
                detector,
                embedder,
                head: Arc::new(head),
                scaler: Scaler::default(),
                margin: config.classify.margin,
            })
        })
    }

    /// The head in use.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head in use, to be kept elsewhere too.
    #[must_use]
    pub fn shared_head(&self) -> Arc<Head> {
        Arc::clone(&self.head)
    }

    /// The faces of a frame, best score first.
    ///
    /// # Errors
    /// [`PipelineError`] if the model gives up or the frame is empty.
    pub fn detect(&mut self, pixels: &RgbImage) -> Result<Vec<Face>, PipelineError> {
        Ok(self.detector.detect(pixels)?)
    }

    /// The crop of each face, with the configured margin around its box.
    ///
    /// # Errors
    /// [`PipelineError::Picture`] if a face lies outside the frame.
    pub fn cut(&mut self, pixels: &RgbImage, faces: &[Face]) -> Result<Vec<Crop>, PipelineError> {
        let (width, height) = pixels.dimensions();
        let mut crops = Vec::with_capacity(faces.len());
        for face in faces {
            // A margin below 0 may leave nothing of a face at the edge.
            let region = face.rect.region(self.margin, width, height);
            let region = region.or_else(|| face.rect.region(0.0, width, height));
            crops.push(
                self.scaler
                    .crop(pixels, region.ok_or(PictureError::Region)?)?,
            );
        }
        Ok(crops)
    }

    /// The features of each crop.
    ///
    /// # Errors
    /// [`PipelineError::Model`] if the backbone gives up.
    pub fn embed(&mut self, crops: &[Crop]) -> Result<Vec<Feature>, PipelineError> {
        Ok(self.embedder.embed(crops)?)
    }

    /// A look at each face of a frame, in their order: [`cut`], [`embed`] and
    /// the head.
    ///
    /// # Errors
    /// As its stages.
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

    /// As [`classify`](Pipeline::classify); `done` is called at the end of each
    /// stage for whoever has a clock, if there are faces.
    ///
    /// # Errors
    /// As its stages.
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
        let looks = crops
            .into_iter()
            .zip(features)
            .map(|(crop, feature)| Classification {
                probabilities: self.head.probabilities(&feature),
                crop,
                feature,
            });
        let looks = looks.collect();
        done(Stage::Head);
        Ok(looks)
    }

    /// Takes another head, from the next look on.
    pub fn set_head(&mut self, head: Arc<Head>) {
        self.head = head;
    }
}

fn open_detector(config: &Config, team: ThreadPool) -> Result<Detector, ModelError> {
    let options = DetectorOptions {
        side: config.detect.input_size,
        threshold: config.detect.threshold,
    };
    match &config.models.detector {
        Some(path) => Detector::new(
            &path.display().to_string(),
            &onnx::read_file(path)?,
            options,
            team,
        ),
        None => Detector::new(
            "face_detector.onnx (shipped)",
            SHIPPED_DETECTOR,
            options,
            team,
        ),
    }
}

/// The backbone and the head that `config` names, or the shipped ones. A file
/// that holds a head alone goes with the shipped backbone.
///
/// # Errors
/// [`ModelError`] if the file is none, or if its head was made for another
/// backbone.
pub fn open_model(config: &Config) -> Result<(Graph, Head), ModelError> {
    let shipped = || {
        let classifier = Classifier::parse("mask_classifier.onnx (shipped)", SHIPPED_CLASSIFIER);
        system::forget(SHIPPED_CLASSIFIER);
        classifier
    };
    let Some(path) = &config.models.classifier else {
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
                        onnx::to_hex(&file.backbone_sha256[..6]),
                        onnx::to_hex(&backbone.backbone_sha256[..6])
                    ),
                });
            }
            Ok((backbone.backbone, Head::from_file(file)))
        }
    }
}

fn open_classifier(
    config: &Config,
    threads: usize,
    team: ThreadPool,
) -> Result<(Embedder, Head), ModelError> {
    let (backbone, head) = open_model(config)?;
    let backbone = Backbone::new(backbone)?;
    Ok((Embedder::new(&backbone, threads, team)?, head))
}
