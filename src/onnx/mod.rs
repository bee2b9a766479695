//! ONNX models: reading, checking, splitting, writing and running them.
//!
//! The only module that uses tract and the ONNX protobuf; its interface is plain
//! numbers. It knows what files must look like (names, shapes, metadata), and not
//! what the numbers mean.
//!
//! A model file is untrusted input: any fault in it becomes one [`ModelError`],
//! never a panic.

mod check;
mod error;
#[cfg(target_arch = "aarch64")]
mod kernels;
mod label;
mod ops;
mod plan;
mod rewrite;
mod write;

use std::path::Path;

use prost::Message;
use tract_onnx::pb::ModelProto;

use crate::platform::{files, hex};
use check::{Checker, family, metadata};
pub use error::{ModelError, panics_are_caught};
pub use label::{Label, LabelError, UNLABELLED};
pub use plan::{Graph, Outputs, Plan, Runner, ThreadPool};
pub use write::{check_seal, read_metadata, write_classifier, write_head, write_sealed_head};

/// Maximum size of a model file, in bytes (64 MiB; the built-in classifier has
/// 9 MiB).
pub const MAX_MODEL_BYTES: u64 = 64 * 1024 * 1024;

/// Length of the feature vector between backbone and head.
pub const FEATURES: usize = 1280;

/// Channels of each detector output: class, object, 4 box coordinates, 10 landmark
/// coordinates.
pub const DETECTOR_CHANNELS: usize = 16;

/// Strides of the detector's three outputs, in order, in pixels.
pub const DETECTOR_STRIDES: [usize; 3] = [8, 16, 32];

const CLASSIFIER_FORMAT: &str = "maskd-classifier-1";
const DETECTOR_FORMAT: &str = "maskd-detector-1";
const HEAD_FORMAT: &str = "maskd-head-1";

/// Reads a model file of at most [`MAX_MODEL_BYTES`].
///
/// # Errors
/// [`ModelError::Read`] and [`ModelError::TooLarge`].
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

/// The weights of a head, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadTensors {
    /// `[hidden, FEATURES]`
    pub w1: Vec<f32>,
    /// `[hidden]`
    pub b1: Vec<f32>,
    /// `[classes, hidden]`
    pub w2: Vec<f32>,
    /// `[classes]`
    pub b2: Vec<f32>,
}

/// A classifier file that passed every check, split at `features`.
#[derive(Debug)]
pub struct Classifier {
    /// From a crop to its feature vector.
    pub backbone: Graph,
    /// SHA-256 of the backbone, see [`Graph::sha256`].
    pub backbone_sha256: [u8; 32],
    /// Names of the classes, in the order of the head's outputs.
    pub labels: Vec<String>,
    /// The head's weights.
    pub head: HeadTensors,
}

impl Classifier {
    /// Splits a classifier file into backbone and head: metadata `format` = `maskd-classifier-1` and
    /// `labels` = a JSON array of names; input `image` \[N, 3, 224, 224\];
    /// a tensor `features` \[N, 1280\]; then Gemm (`head.0.weight`,
    /// `head.0.bias`), Relu, Gemm (`head.2.weight`, `head.2.bias`), Softmax to
    /// the output `probabilities`.
    ///
    /// `name` stands for the file in messages.
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
        checker.outputs(&graph, &["probabilities"])?;
        let labels = checker.labels(&proto)?;
        let head = checker.head(&graph, labels.len())?;
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
        })
    }
}

/// The content of a head file: the part of a [`Classifier`] after `features`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadFile {
    /// SHA-256 of the backbone whose features the head takes.
    pub backbone_sha256: [u8; 32],
    /// Names of the classes, in the order of the outputs.
    pub labels: Vec<String>,
    /// The weights.
    pub head: HeadTensors,
}

/// Either kind of file that holds a head.
#[derive(Debug)]
pub enum ModelFile {
    /// Backbone and head.
    Classifier(Box<Classifier>),
    /// A head alone.
    Head(HeadFile),
}

impl ModelFile {
    /// Parses a classifier file or a head file. A head file has the metadata `format` = `maskd-head-1`,
    /// `labels`, and `backbone_sha256` = 64 hexadecimal digits; input `features`
    /// \[N, 1280\]; then as in [`Classifier::parse`].
    ///
    /// # Errors
    /// Those of [`Classifier::parse`].
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
        checker.input(&graph, "features", &[None, Some(FEATURES as i64)])?;
        checker.outputs(&graph, &["probabilities"])?;
        let labels = checker.labels(&proto)?;
        let head = checker.head(&graph, labels.len())?;
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

/// Checks a face detector file: metadata `format` = `maskd-detector-1`, input
/// `image` \[1, 3, H, W\], outputs `stride8`, `stride16`, `stride32`.
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
    proto.graph = Some(graph);
    Ok(Graph {
        name: name.to_owned(),
        kind: checker.kind,
        proto,
    })
}
