//! Reads, checks, splits, writes, and runs ONNX models.
//!
//! This is the only module that uses tract and the ONNX protobuf; its interface uses
//! only plain numbers. It knows which names, shapes, and metadata a file must have, but
//! not what the numbers mean.
//!
//! A model file is untrusted input, so any fault in it is returned as a [`ModelError`]
//! and never causes a panic.

mod backbone;
mod check;
mod error;
#[cfg(target_arch = "aarch64")]
mod kernels;
mod label;
mod ops;
mod plan;
mod pool;
mod protected_attribute;
mod rewrite;
mod write;

use std::path::Path;

use prost::Message;
use tract_onnx::pb::ModelProto;

use crate::platform::{files, hex};
pub use backbone::BackboneFile;
use check::{Checker, family, metadata};
pub use error::{ModelError, panics_are_caught};
pub use label::{Label, LabelError, UNLABELLED};
pub use plan::{Graph, Outputs, Plan, Runner};
pub use pool::ThreadPool;
pub use write::{
    check_seal, read_metadata, write_classifier, write_face_check, write_head, write_sealed_head,
};

/// Maximum size of a model file in bytes (64 MiB). The built-in classifier is 10 MiB.
pub const MAX_MODEL_BYTES: u64 = 64 * 1024 * 1024;

/// Length of the built-in backbone's feature vector, which is the input of the head. Other
/// backbones compute feature vectors of [`MIN_FEATURES`] to [`MAX_FEATURES`] values.
pub const FEATURES: usize = 1280;

/// Minimum length of a backbone's feature vector.
pub const MIN_FEATURES: usize = 2;

/// Maximum length of a backbone's feature vector.
pub const MAX_FEATURES: usize = 4096;

/// The largest absolute value of a feature for which a head must compute finite results. The
/// built-in backbone computes features from 0 to 6, but other backbones may compute larger
/// features.
pub const LARGEST_FEATURE: f64 = 1e4;

/// Number of channels in each detector output: class, object, 4 box coordinates, and 10
/// landmark coordinates.
pub const DETECTOR_CHANNELS: usize = 16;

/// Strides of the detector's three outputs in pixels, in the order of the outputs.
pub const DETECTOR_STRIDES: [usize; 3] = [8, 16, 32];

const CLASSIFIER_FORMAT: &str = "maskd-classifier-1";
const DETECTOR_FORMAT: &str = "maskd-detector-1";
const HEAD_FORMAT: &str = "maskd-head-1";

/// Reads a model file of at most [`MAX_MODEL_BYTES`].
///
/// # Errors
/// [`ModelError::Read`] if the file cannot be read, and [`ModelError::TooLarge`] if it
/// is too large.
pub fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let model = path.display().to_string();
    files::read_bounded(path, MAX_MODEL_BYTES).map_err(|error| match error.source.kind() {
        std::io::ErrorKind::FileTooLarge => ModelError::TooLarge { model },
        _ => ModelError::Read {
            model,
            source: error.source,
        },
    })
}

/// The weights of a head, stored row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadTensors {
    /// Weights of the hidden layer, `[hidden, features]`.
    pub w1: Vec<f32>,
    /// Biases of the hidden layer, `[hidden]`.
    pub b1: Vec<f32>,
    /// Weights of the output layer, `[classes, hidden]`.
    pub w2: Vec<f32>,
    /// Biases of the output layer, `[classes]`.
    pub b2: Vec<f32>,
}

impl HeadTensors {
    /// Returns the length of the feature vectors that are the head's input, or 0 if the head
    /// has no hidden units.
    #[must_use]
    pub fn features(&self) -> usize {
        self.w1.len().checked_div(self.b1.len()).unwrap_or(0)
    }
}

/// The weights of a face check, which uses the features of a crop to decide whether the
/// crop shows a face.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceCheckTensors {
    /// The weights, one for each feature.
    pub weight: Vec<f32>,
    /// The bias.
    pub bias: f32,
}

/// A classifier file that passed every check, split at `features`.
#[derive(Debug)]
pub struct Classifier {
    /// The part of the graph that turns a crop into its feature vector.
    pub backbone: Graph,
    /// SHA-256 of the backbone; see [`Graph::sha256`].
    pub backbone_sha256: [u8; 32],
    /// Names of the classes, in the order of the head's outputs.
    pub labels: Vec<String>,
    /// The head's weights.
    pub head: HeadTensors,
    /// The weights of the face check, if the file contains one. The face check belongs to
    /// the backbone and not to the head.
    pub face_check: Option<FaceCheckTensors>,
}

impl Classifier {
    /// Splits a classifier file into backbone, head, and face check.
    ///
    /// The file must have the metadata `format` = `maskd-classifier-1` and `labels` = a
    /// JSON array of names, the input `image` \[N, 3, 224, 224\], and a tensor
    /// `features` \[N, F\], where F is from [`MIN_FEATURES`] to [`MAX_FEATURES`]. This tensor
    /// must be followed by Gemm (`head.0.weight`, `head.0.bias`), Relu, Gemm
    /// (`head.2.weight`, `head.2.bias`), and Softmax, which computes the output
    /// `probabilities`.
    ///
    /// The file may have a second output `face` \[N, 1\], which Gemm (`face.weight`
    /// \[1, F\], `face.bias` \[1\]) and Sigmoid compute from `features`.
    ///
    /// `name` is the name of the file in error messages.
    ///
    /// # Errors
    /// A [`ModelError`] that says what is wrong with the file.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Classifier, ModelError> {
        let checker = Checker {
            name,
            kind: "classifier",
        };
        let (proto, graph) = checker.open(bytes, CLASSIFIER_FORMAT)?;
        checker.input(&graph, "image", &[None, Some(3), Some(224), Some(224)])?;
        let labels = checker.labels(&proto)?;
        let head = checker.head(&graph, labels.len())?;
        let face_check = checker.face_check(&graph, head.features())?;
        checker.finite(&graph)?;
        let backbone = Graph {
            name: name.to_owned(),
            kind: checker.kind,
            proto: checker.cut(proto, graph, "features")?,
        };
        let backbone_sha256 = backbone.sha256();
        Ok(Classifier {
            backbone,
            backbone_sha256,
            labels,
            head,
            face_check,
        })
    }
}

/// The content of a head file, which is the part of a [`Classifier`] after `features`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadFile {
    /// SHA-256 of the backbone whose features are the head's input.
    pub backbone_sha256: [u8; 32],
    /// Names of the classes, in the order of the outputs.
    pub labels: Vec<String>,
    /// The weights of the head.
    pub head: HeadTensors,
}

/// A file that contains a head, either with or without a backbone.
#[derive(Debug)]
pub enum ModelFile {
    /// A classifier file, which has a backbone and a head.
    Classifier(Box<Classifier>),
    /// A head file, which has only a head.
    Head(HeadFile),
}

impl ModelFile {
    /// Parses a classifier file or a head file.
    ///
    /// A head file has the metadata `format` = `maskd-head-1`, `labels`, and
    /// `backbone_sha256` = 64 hexadecimal digits. Its input is `features` \[N, F\],
    /// and the rest of the graph is as described in [`Classifier::parse`].
    ///
    /// # Errors
    /// Returns the same errors as [`Classifier::parse`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<ModelFile, ModelError> {
        let proto = ModelProto::decode(bytes).ok();
        let is_head = proto.is_some_and(|proto| {
            metadata(&proto, "format").is_some_and(|format| family(format) == family(HEAD_FORMAT))
        });
        if !is_head {
            let classifier = Classifier::parse(name, bytes)?;
            return Ok(ModelFile::Classifier(Box::new(classifier)));
        }
        let checker = Checker { name, kind: "head" };
        let (proto, graph) = checker.open(bytes, HEAD_FORMAT)?;
        checker.input(&graph, "features", &[None, None])?;
        checker.outputs(&graph, &["probabilities"])?;
        let labels = checker.labels(&proto)?;
        let head = checker.head(&graph, labels.len())?;
        checker.input(&graph, "features", &[None, Some(head.features() as i64)])?;
        let Some(backbone_sha256) = metadata(&proto, "backbone_sha256").and_then(hex::decode)
        else {
            return checker.fail("it lacks the metadata \"backbone_sha256\" of 64 hex digits");
        };
        Ok(ModelFile::Head(HeadFile {
            backbone_sha256,
            labels,
            head,
        }))
    }
}

/// Checks a face detector file. It must have the metadata `format` =
/// `maskd-detector-1`, the input `image` \[1, 3, H, W\], and the outputs `stride8`,
/// `stride16`, and `stride32`.
///
/// # Errors
/// A [`ModelError`] that says what is wrong with the file.
pub fn parse_detector(name: &str, bytes: &[u8]) -> Result<Graph, ModelError> {
    let checker = Checker {
        name,
        kind: "face detector",
    };
    let (mut proto, graph) = checker.open(bytes, DETECTOR_FORMAT)?;
    checker.input(&graph, "image", &[Some(1), Some(3), None, None])?;
    checker.outputs(&graph, &["stride8", "stride16", "stride32"])?;
    checker.finite(&graph)?;
    proto.graph = Some(graph);
    Ok(Graph {
        name: name.to_owned(),
        kind: checker.kind,
        proto,
    })
}
