//! ONNX models: reading, checking, cutting and running them.
//!
//! The only module that knows tract and the ONNX protobuf; what it hands out
//! are plain numbers. It knows what files must look like (names, shapes,
//! metadata), not what the numbers mean.
//!
//! A model file is outside input: whatever is wrong with it ends as one
//! [`ModelError`], never as a panic.

#[cfg(target_arch = "aarch64")]
mod kernels;
mod label;
mod ops;
mod rewrite;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto,
    type_proto,
};
use tract_onnx::prelude::multithread::{
    Executor, multithread_tract_scope, set_threading_panel_threshold,
};
use tract_onnx::prelude::*;

use crate::platform::{files, system};

pub use label::{Label, LabelError, UNLABELLED};

/// Largest model file that is read, in bytes (64 MiB; the shipped classifier
/// has 9 MiB).
pub const MAX_MODEL_BYTES: u64 = 64 * 1024 * 1024;

/// Length of the feature vector between backbone and head.
pub const FEATURES: usize = 1280;

/// Channels of each detector output: class, object, 4 box numbers, 10 landmark
/// numbers.
pub const DETECTOR_CHANNELS: usize = 16;

/// Strides of the detector's three outputs, in their order, in pixels.
pub const DETECTOR_STRIDES: [usize; 3] = [8, 16, 32];

const CLASSIFIER_FORMAT: &str = "maskd-classifier-1";
const DETECTOR_FORMAT: &str = "maskd-detector-1";
const HEAD_FORMAT: &str = "maskd-head-1";

/// ONNX's number for 32-bit floats (`TensorProto.DataType.FLOAT`).
const FLOAT: i32 = 1;
/// How many panels a product of matrices must have for a team to share it. tract's
/// own 64 leaves out most of the backbone.
const SHARED_PANELS: usize = 16;
const MAX_LABELS: usize = 64;
const MAX_HIDDEN: usize = 4096;

/// Why a model cannot be used. Each message is one whole sentence.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("cannot read the model {model}: {source}")]
    Read {
        /// The file.
        model: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_MODEL_BYTES`].
    #[error(
        "the model {model} has more than {} MiB, the limit for models",
        MAX_MODEL_BYTES / (1024 * 1024)
    )]
    TooLarge {
        /// The file.
        model: String,
    },
    /// The bytes are not an ONNX model.
    #[error("{model} is not an ONNX model, or it is cut off: fetch or make it again")]
    NotOnnx {
        /// The file.
        model: String,
    },
    /// An ONNX model, but not one of the expected form.
    #[error("the model {model} is no {kind} for maskd: {problem}")]
    Unexpected {
        /// The file.
        model: String,
        /// "classifier" or "face detector".
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The model was accepted, and then did not run.
    #[error("the model {model} does not run: {problem}")]
    Run {
        /// The file.
        model: String,
        /// What tract says, on one line.
        problem: String,
    },
}

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

/// The weights of a head as they lie in its file, row by row.
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

/// A classifier file that passed every check, cut at `features`.
#[derive(Debug)]
pub struct Classifier {
    /// From a picture to its features.
    pub backbone: Graph,
    /// SHA-256 of the backbone, see [`Graph::sha256`].
    pub backbone_sha256: [u8; 32],
    /// Names of the classes, in the order of the head's outputs.
    pub labels: Vec<String>,
    /// The head's weights.
    pub head: HeadTensors,
}

impl Classifier {
    /// Takes a classifier apart: metadata `format` = `maskd-classifier-1` and
    /// `labels` = a JSON array of names; input `image` \[N, 3, 224, 224\];
    /// a tensor `features` \[N, 1280\]; then Gemm (`head.0.weight`,
    /// `head.0.bias`), Relu, Gemm (`head.2.weight`, `head.2.bias`), Softmax to
    /// the output `probabilities`.
    ///
    /// `name` is what messages call it.
    ///
    /// # Errors
    /// A [`ModelError`] that says what about the file is not as expected.
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

/// A head by itself: what is left of a [`Classifier`] behind `features`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadFile {
    /// SHA-256 of the backbone whose features it was made for.
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
    /// Takes a classifier, or a head: metadata `format` = `maskd-head-1`,
    /// `labels`, and `backbone_sha256` = 64 hexadecimal digits; input `features`
    /// \[N, 1280\]; then as in [`Classifier::parse`].
    ///
    /// # Errors
    /// As [`Classifier::parse`].
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
        let Some(backbone_sha256) = metadata(&proto, "backbone_sha256").and_then(from_hex) else {
            return checker.fail("it lacks the metadata \"backbone_sha256\" of 64 hex digits");
        };
        Ok(ModelFile::Head(HeadFile {
            backbone_sha256,
            labels,
            head,
        }))
    }
}

/// The bytes of a classifier file with another head, and `metadata` beside what
/// the format itself asks for. The same input gives the same bytes.
///
/// # Errors
/// As [`Classifier::parse`], if `base` is no classifier.
pub fn write_classifier(
    base: &[u8],
    head: &HeadFile,
    metadata: &[(&str, String)],
) -> Result<Vec<u8>, ModelError> {
    let checker = Checker {
        name: "the base model",
        kind: "classifier",
    };
    let (mut proto, mut graph) = checker.open(base, CLASSIFIER_FORMAT)?;
    graph
        .initializer
        .retain(|tensor| !tensor.name.starts_with("head."));
    graph.initializer.extend(head_tensors(head));
    let classes = head.labels.len() as i64;
    graph.output = vec![float_info("probabilities", &[None, Some(classes)])];
    graph.value_info.retain(|value| value.name != "logits");
    graph
        .value_info
        .push(float_info("logits", &[None, Some(classes)]));
    proto.graph = Some(graph);
    proto
        .metadata_props
        .retain(|entry| entry.key == "licence" || entry.key == "source");
    set_metadata(&mut proto, CLASSIFIER_FORMAT, head, metadata);
    Ok(proto.encode_to_vec())
}

/// The bytes of a head file: input `features` \[N, 1280\], output
/// `probabilities`.
#[must_use]
pub fn write_head(head: &HeadFile, metadata: &[(&str, String)]) -> Vec<u8> {
    let node = |op: &str, input: &[&str], output: &str| NodeProto {
        op_type: op.to_owned(),
        name: format!("{output}.{}", op.to_lowercase()),
        input: input.iter().map(ToString::to_string).collect(),
        output: vec![output.to_owned()],
        attribute: match op {
            "Gemm" => vec![integer("transB", 1)],
            "Softmax" => vec![integer("axis", 1)],
            _ => Vec::new(),
        },
        ..NodeProto::default()
    };
    let classes = Some(head.labels.len() as i64);
    let graph = GraphProto {
        name: "head".to_owned(),
        node: vec![
            node(
                "Gemm",
                &["features", "head.0.weight", "head.0.bias"],
                "head.0",
            ),
            node("Relu", &["head.0"], "head.1"),
            node(
                "Gemm",
                &["head.1", "head.2.weight", "head.2.bias"],
                "logits",
            ),
            node("Softmax", &["logits"], "probabilities"),
        ],
        initializer: head_tensors(head),
        input: vec![float_info("features", &[None, Some(FEATURES as i64)])],
        output: vec![float_info("probabilities", &[None, classes])],
        ..GraphProto::default()
    };
    let mut proto = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 13,
        }],
        producer_name: "maskd".to_owned(),
        graph: Some(graph),
        ..ModelProto::default()
    };
    set_metadata(&mut proto, HEAD_FORMAT, head, metadata);
    proto.encode_to_vec()
}

/// The key of a [sealed](write_sealed_head) file's checksum.
const SEAL: &str = "sha256";

/// As [`write_head`], with one more entry of metadata at its end: `sha256`, the
/// SHA-256 of all bytes before that entry. A protobuf that is cut off between
/// two fields still reads as one; a sealed file that is cut off does not.
#[must_use]
pub fn write_sealed_head(head: &HeadFile, metadata: &[(&str, String)]) -> Vec<u8> {
    let mut bytes = write_head(head, metadata);
    let seal = seal(&bytes);
    bytes.extend(seal);
    bytes
}

/// Checks the seal of [`write_sealed_head`]; `name` is what messages call the
/// file.
///
/// # Errors
/// [`ModelError::Unexpected`] if it is missing or does not fit.
pub fn check_seal(name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    // It has the same length for all files.
    let length = seal(&[]).len();
    let content = bytes.len().checked_sub(length);
    let parts = content.map(|content| bytes.split_at(content));
    if parts.is_some_and(|(content, end)| seal(content) == end) {
        return Ok(());
    }
    let checker = Checker { name, kind: "head" };
    checker.fail("its checksum is missing or wrong: it is damaged, or was not written here")
}

/// The entry of metadata that goes behind `content`. One protobuf behind another
/// reads as one whose lists are joined.
fn seal(content: &[u8]) -> Vec<u8> {
    let entry = StringStringEntryProto {
        key: SEAL.to_owned(),
        value: to_hex(&Sha256::digest(content)),
    };
    let proto = ModelProto {
        metadata_props: vec![entry],
        ..ModelProto::default()
    };
    proto.encode_to_vec()
}

/// The metadata of an ONNX file, without what [`write_head`],
/// [`write_classifier`] and the seal add themselves: `format`, `labels`,
/// `backbone_sha256`, `sha256`. Of a key that is there twice, the first counts.
///
/// # Errors
/// [`ModelError::NotOnnx`].
pub fn read_metadata(name: &str, bytes: &[u8]) -> Result<BTreeMap<String, String>, ModelError> {
    let proto = ModelProto::decode(bytes).map_err(|_| ModelError::NotOnnx {
        model: name.to_owned(),
    })?;
    let mut metadata = BTreeMap::new();
    for StringStringEntryProto { key, value } in proto.metadata_props {
        if !["format", "labels", "backbone_sha256", SEAL].contains(&key.as_str()) {
            metadata.entry(key).or_insert(value);
        }
    }
    Ok(metadata)
}

fn set_metadata(
    proto: &mut ModelProto,
    format: &str,
    head: &HeadFile,
    metadata: &[(&str, String)],
) {
    // A list of strings can always be written as JSON.
    let labels = serde_json::to_string(&head.labels).unwrap_or_default();
    let own = [
        ("format", format.to_owned()),
        ("labels", labels),
        ("backbone_sha256", to_hex(&head.backbone_sha256)),
    ];
    for (key, value) in own.iter().chain(metadata) {
        let entry = StringStringEntryProto {
            key: (*key).to_owned(),
            value: value.clone(),
        };
        proto.metadata_props.push(entry);
    }
}

fn head_tensors(head: &HeadFile) -> Vec<TensorProto> {
    let HeadTensors { w1, b1, w2, b2 } = &head.head;
    let hidden = b1.len() as i64;
    let classes = b2.len() as i64;
    let tensor = |name: &str, dims: &[i64], values: &[f32]| TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        raw_data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        ..TensorProto::default()
    };
    vec![
        tensor("head.0.weight", &[hidden, FEATURES as i64], w1),
        tensor("head.0.bias", &[hidden], b1),
        tensor("head.2.weight", &[classes, hidden], w2),
        tensor("head.2.bias", &[classes], b2),
    ]
}

/// A tensor of 32-bit floats; `None` is the free number of pictures, `N`.
fn float_info(name: &str, shape: &[Option<i64>]) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;
    let dimension = |size: &Option<i64>| tensor_shape_proto::Dimension {
        value: Some(size.map_or_else(|| Value::DimParam("N".to_owned()), Value::DimValue)),
        ..tensor_shape_proto::Dimension::default()
    };
    let shape = TensorShapeProto {
        dim: shape.iter().map(dimension).collect(),
    };
    let tensor = type_proto::Tensor {
        elem_type: FLOAT,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: attribute_proto::AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8))
        .collect();
    bytes?.try_into().ok()
}

/// Checks a face detector file: metadata `format` = `maskd-detector-1`, input
/// `image` \[1, 3, H, W\], outputs `stride8`, `stride16`, `stride32`.
///
/// # Errors
/// A [`ModelError`] that says what about the file is not as expected.
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

/// The checks, with what their messages need.
struct Checker<'a> {
    name: &'a str,
    kind: &'static str,
}

impl Checker<'_> {
    fn fail<T>(&self, problem: impl Into<String>) -> Result<T, ModelError> {
        Err(ModelError::Unexpected {
            model: self.name.to_owned(),
            kind: self.kind,
            problem: problem.into(),
        })
    }

    fn open(&self, bytes: &[u8], format: &str) -> Result<(ModelProto, GraphProto), ModelError> {
        let not_onnx = || ModelError::NotOnnx {
            model: self.name.to_owned(),
        };
        let mut proto = ModelProto::decode(bytes).map_err(|_| not_onnx())?;
        let graph = proto.graph.take().filter(|graph| !graph.node.is_empty());
        let graph = graph.ok_or_else(not_onnx)?;
        match metadata(&proto, "format") {
            Some(found) if found == format => {}
            Some(found) if is_newer(found, format) => {
                return self.fail(format!(
                    "its format {found:?} is newer than {format:?}, which this maskd knows: \
                     update maskd"
                ));
            }
            Some(found) => {
                return self.fail(format!("its format is {found:?}, expected is {format:?}"));
            }
            None => {
                return self.fail(format!("it lacks the metadata \"format\" = {format:?}"));
            }
        }
        for tensor in &graph.initializer {
            if !tensor.external_data.is_empty() {
                let name = &tensor.name;
                return self.fail(format!("the values of {name:?} lie in another file"));
            }
            if tensor.data_type == FLOAT && floats(tensor).is_none() {
                let name = &tensor.name;
                return self.fail(format!("the values of {name:?} do not fit its shape"));
            }
        }
        Ok((proto, graph))
    }

    /// Exactly one input, `name`, of 32-bit floats; `None` is any size.
    fn input(
        &self,
        graph: &GraphProto,
        name: &str,
        shape: &[Option<i64>],
    ) -> Result<(), ModelError> {
        let weights: HashSet<&str> = graph
            .initializer
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        let inputs: Vec<_> = graph
            .input
            .iter()
            .filter(|input| !weights.contains(input.name.as_str()))
            .collect();
        let [input] = inputs.as_slice() else {
            return self.fail(format!(
                "it has {} inputs, expected is one, {name:?}",
                inputs.len()
            ));
        };
        if input.name != name {
            return self.fail(format!(
                "its input is {:?}, expected is {name:?}",
                input.name
            ));
        }
        let fits = dimensions(input).is_some_and(|found| {
            found.len() == shape.len()
                && found
                    .iter()
                    .zip(shape)
                    .all(|(found, want)| match (found, want) {
                        (Some(found), Some(want)) => found == want,
                        _ => true,
                    })
        });
        if fits {
            return Ok(());
        }
        let side = |size: &Option<i64>| size.map_or("any".to_owned(), |size| size.to_string());
        let shape: Vec<String> = shape.iter().map(side).collect();
        let shape = shape.join(", ");
        self.fail(format!(
            "its input is not of shape [{shape}] in 32-bit floats"
        ))
    }

    fn outputs(&self, graph: &GraphProto, names: &[&str]) -> Result<(), ModelError> {
        if graph
            .output
            .iter()
            .map(|output| output.name.as_str())
            .eq(names.iter().copied())
        {
            return Ok(());
        }
        let found: Vec<_> = graph
            .output
            .iter()
            .map(|output| output.name.as_str())
            .collect();
        self.fail(format!("its outputs are {found:?}, expected are {names:?}"))
    }

    fn labels(&self, proto: &ModelProto) -> Result<Vec<String>, ModelError> {
        let Some(text) = metadata(proto, "labels") else {
            return self.fail("it lacks the metadata \"labels\"");
        };
        let Ok(labels) = serde_json::from_str::<Vec<String>>(text) else {
            return self.fail("its metadata \"labels\" is not a JSON array of names");
        };
        if !(2..=MAX_LABELS).contains(&labels.len()) {
            return self.fail(format!(
                "it has {} labels, expected are 2 to 64",
                labels.len()
            ));
        }
        let mut seen = HashSet::new();
        for label in &labels {
            if let Err(error) = Label::new(label) {
                return self.fail(error.to_string());
            }
            if !seen.insert(label) {
                return self.fail(format!("it has the label {label:?} twice"));
            }
        }
        Ok(labels)
    }

    /// The head's tensors, once the nodes behind `features` are those of a head.
    fn head(&self, graph: &GraphProto, classes: usize) -> Result<HeadTensors, ModelError> {
        let mut tensor = "features";
        let steps = [
            ("Gemm", &["head.0.weight", "head.0.bias"][..]),
            ("Relu", &[]),
            ("Gemm", &["head.2.weight", "head.2.bias"]),
            ("Softmax", &[]),
        ];
        for (op, weights) in steps {
            let mut users = graph
                .node
                .iter()
                .filter(|node| node.input.iter().any(|input| input == tensor));
            let fits = |node: &&NodeProto| {
                node.op_type == op
                    && node.output.len() == 1
                    && node
                        .input
                        .iter()
                        .map(String::as_str)
                        .eq([tensor].iter().chain(weights).copied())
                    && (op != "Gemm" || is_plain_gemm(node))
            };
            match (users.next().filter(fits), users.next()) {
                (Some(node), None) => tensor = &node.output[0],
                _ => {
                    return self.fail(
                        "behind \"features\" it has not the head Gemm, Relu, Gemm, Softmax \
                         with the weights head.0 and head.2",
                    );
                }
            }
        }
        if tensor != "probabilities" {
            return self.fail("its head does not end in \"probabilities\"");
        }
        let values = |name: &str| {
            let mut found = graph
                .initializer
                .iter()
                .filter(|tensor| tensor.name == name);
            let values = found.next().and_then(floats);
            values.filter(|values| values.iter().all(|value| value.is_finite()))
        };
        let tensors = [
            values("head.0.weight"),
            values("head.0.bias"),
            values("head.2.weight"),
            values("head.2.bias"),
        ];
        let [Some(w1), Some(b1), Some(w2), Some(b2)] = tensors else {
            return self.fail("a weight of its head is missing, or not a finite 32-bit float");
        };
        let hidden = b1.len();
        let fits = (1..=MAX_HIDDEN).contains(&hidden)
            && w1.len() == hidden * FEATURES
            && w2.len() == classes * hidden
            && b2.len() == classes;
        if !fits {
            return self.fail(format!(
                "its head does not lead from {FEATURES} features to {classes} labels"
            ));
        }
        Ok(HeadTensors { w1, b1, w2, b2 })
    }

    /// The model up to `tensor`, which becomes its only output.
    fn cut(
        &self,
        mut proto: ModelProto,
        mut graph: GraphProto,
        tensor: &str,
    ) -> Result<ModelProto, ModelError> {
        let mut wanted: HashSet<String> = HashSet::from([tensor.to_owned()]);
        let mut kept = Vec::new();
        // ONNX keeps nodes in topological order, so one pass from the end finds
        // everything that `tensor` hangs on.
        for node in graph.node.drain(..).rev() {
            if node.output.iter().any(|output| wanted.contains(output)) {
                wanted.extend(node.input.iter().cloned());
                kept.push(node);
            }
        }
        if kept.is_empty() {
            return self.fail(format!("it has no tensor {tensor:?}"));
        }
        kept.reverse();
        graph.node = kept;
        graph
            .initializer
            .retain(|weights| wanted.contains(&weights.name));
        graph.value_info.clear();
        graph.output = vec![ValueInfoProto {
            name: tensor.to_owned(),
            ..ValueInfoProto::default()
        }];
        proto.graph = Some(graph);
        Ok(proto)
    }
}

/// A format without its number: `maskd-head` of `maskd-head-1`.
fn family(format: &str) -> &str {
    format.rsplit_once('-').map_or(format, |(family, _)| family)
}

/// Whether a format is a later one of the same family.
fn is_newer(found: &str, known: &str) -> bool {
    let number = |format: &str| -> Option<u32> { format.rsplit_once('-')?.1.parse().ok() };
    family(found) == family(known) && number(found) > number(known)
}

fn metadata<'a>(proto: &'a ModelProto, key: &str) -> Option<&'a str> {
    let mut entries = proto.metadata_props.iter();
    entries
        .find(|entry| entry.key == key)
        .map(|entry| entry.value.as_str())
}

/// The sizes of a tensor of 32-bit floats; `None` where a size is left open.
fn dimensions(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    if tensor.elem_type != FLOAT {
        return None;
    }
    let size = |dimension: &tensor_shape_proto::Dimension| match dimension.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(size)) => Some(size),
        _ => None,
    };
    Some(tensor.shape.as_ref()?.dim.iter().map(size).collect())
}

/// `y = x W^T + b`: `transB` set, and alpha and beta left at 1.
fn is_plain_gemm(node: &NodeProto) -> bool {
    node.attribute
        .iter()
        .all(|attribute| match attribute.name.as_str() {
            "transB" => attribute.i == 1,
            "transA" => attribute.i == 0,
            "alpha" | "beta" => attribute.f.to_bits() == 1.0_f32.to_bits(),
            _ => false,
        })
        && node
            .attribute
            .iter()
            .any(|attribute| attribute.name == "transB")
}

/// The values of a tensor of 32-bit floats, if there are as many as its shape
/// says.
fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    if tensor.data_type != FLOAT {
        return None;
    }
    let count = tensor.dims.iter().try_fold(1_usize, |count, &size| {
        count.checked_mul(usize::try_from(size).ok()?)
    })?;
    let values = if tensor.raw_data.is_empty() {
        tensor.float_data.clone()
    } else {
        let (chunks, []) = tensor.raw_data.as_chunks::<4>() else {
            return None;
        };
        chunks
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    };
    (values.len() == count).then_some(values)
}

/// A checked model, not yet made ready to run.
#[derive(Clone)]
pub struct Graph {
    name: String,
    kind: &'static str,
    proto: ModelProto,
}

impl std::fmt::Debug for Graph {
    // The weights of a derived `Debug` would fill the screen.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// SHA-256 over the graph's nodes and weights: each node in its protobuf
    /// form without name and description, then each initialiser's name, shape
    /// and bytes. Two files with the same computation and names have the same
    /// hash, whatever their metadata and their head.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let graph = self.proto.graph.as_ref();
        for node in graph.iter().flat_map(|graph| &graph.node) {
            let bare = NodeProto {
                name: String::new(),
                doc_string: String::new(),
                ..node.clone()
            };
            hash.update(bare.encode_length_delimited_to_vec());
        }
        for tensor in graph.iter().flat_map(|graph| &graph.initializer) {
            hash.update(tensor.name.as_bytes());
            hash.update([0]);
            for size in &tensor.dims {
                hash.update(size.to_le_bytes());
            }
            match floats(tensor) {
                Some(values) => values
                    .iter()
                    .for_each(|value| hash.update(value.to_le_bytes())),
                None => hash.update(tensor.encode_to_vec()),
            }
        }
        hash.finalize().into()
    }

    /// Makes the model ready to run on inputs of `input`, one shape for good,
    /// and checks that its outputs then have the shapes `outputs`.
    ///
    /// It takes the graph, and lets go of the file's form of the weights as soon as
    /// tract has its own: more than two forms would be the most memory of all that
    /// a small board ever needs.
    ///
    /// # Errors
    /// [`ModelError::Unexpected`] if tract cannot make it run, or if it would
    /// put out something else.
    pub fn into_plan<const N: usize>(
        self,
        input: [usize; 4],
        outputs: [&[usize]; N],
    ) -> Result<Plan, ModelError> {
        // `None` for an output that is not of one shape of 32-bit floats.
        type Shapes = Vec<Option<Vec<usize>>>;
        let Graph { name, kind, proto } = self;
        let build = || -> TractResult<(Arc<TypedSimplePlan>, Shapes)> {
            let model = onnx().model_for_proto_model(&proto)?;
            drop(proto);
            let mut model = model
                .with_input_fact(0, f32::fact(input).into())?
                .into_typed()?
                .into_decluttered()?;
            rewrite::rewrite(&mut model)?;
            let model = model.into_optimized()?;
            let mut shapes = Shapes::new();
            for index in 0..model.outputs.len() {
                let fact = model.output_fact(index)?;
                let is_float = fact.datum_type == f32::datum_type();
                shapes.push(
                    fact.shape
                        .as_concrete()
                        .filter(|_| is_float)
                        .map(<[usize]>::to_vec),
                );
            }
            Ok((model.into_runnable()?, shapes))
        };
        let unexpected = |problem| ModelError::Unexpected {
            model: name.clone(),
            kind,
            problem,
        };
        let (plan, shapes) = guarded(build).map_err(unexpected)?;
        if !shapes
            .iter()
            .map(Option::as_deref)
            .eq(outputs.iter().copied().map(Some))
        {
            let problem = format!("it puts out {shapes:?}, expected is {outputs:?}");
            return Err(unexpected(problem));
        }
        // What laying out took is several times what it left.
        system::give_back();
        Ok(Plan {
            name,
            input,
            compiled: plan,
        })
    }
}

/// A model that is ready to run; shared by the [`Runner`]s of several threads.
#[derive(Debug, Clone)]
pub struct Plan {
    name: String,
    input: [usize; 4],
    compiled: Arc<TypedSimplePlan>,
}

impl Plan {
    /// A runner for one thread, with buffers of its own.
    ///
    /// # Errors
    /// [`ModelError::Run`] if tract cannot set it up.
    pub fn runner(&self) -> Result<Runner, ModelError> {
        let state = guarded(|| self.compiled.spawn());
        let state = state.map_err(|problem| self.failed(problem))?;
        Ok(Runner {
            plan: self.clone(),
            state,
        })
    }

    fn failed(&self, problem: String) -> ModelError {
        ModelError::Run {
            model: self.name.clone(),
            problem,
        }
    }
}

/// Threads that share one run of a model.
///
/// They wait for work, and cost nothing while they do. What comes out of a run
/// does not depend on how many there are.
#[derive(Debug, Clone)]
pub struct ThreadPool(Executor);

impl ThreadPool {
    /// Nobody but the thread that calls.
    #[must_use]
    pub fn alone() -> ThreadPool {
        ThreadPool(Executor::SingleThread)
    }

    /// So many threads; of one, and if the system refuses, nobody but the one
    /// that calls.
    #[must_use]
    pub fn of(threads: usize) -> ThreadPool {
        if threads < 2 {
            return ThreadPool::alone();
        }
        set_threading_panel_threshold(SHARED_PANELS);
        // It panics where the system refuses a thread.
        let team = guarded(|| Ok(Executor::multithread_with_name(threads, "team")));
        team.map_or_else(|_| ThreadPool::alone(), ThreadPool)
    }
}

/// Runs one model; a thread has its own.
#[derive(Debug)]
pub struct Runner {
    plan: Plan,
    state: TypedSimpleState,
}

impl Runner {
    /// Runs the model once, shared by `team`, on what `fill` writes into the
    /// input, which comes zeroed and planar: `[1, channels, height, width]`, row
    /// by row.
    ///
    /// # Errors
    /// [`ModelError::Run`] if tract gives up.
    pub fn run(
        &mut self,
        team: &ThreadPool,
        fill: impl FnOnce(&mut [f32]) + Send,
    ) -> Result<Outputs, ModelError> {
        let Runner { plan, state } = self;
        let run = || {
            guarded(|| {
                let mut input = Tensor::zero::<f32>(&plan.input)?;
                fill(input.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
                multithread_tract_scope(team.0.clone(), || state.run(tvec!(input.into_tvalue())))
            })
        };
        // By one of the team: a thread from outside would wait for one at each
        // operation, and be woken again.
        let values = match &team.0 {
            Executor::MultiThread(pool) => pool.install(run),
            _ => run(),
        };
        let values = values.map_err(|problem| plan.failed(problem))?;
        Ok(Outputs {
            name: plan.name.clone(),
            values,
        })
    }
}

/// What one run put out.
#[derive(Debug)]
pub struct Outputs {
    name: String,
    values: TVec<TValue>,
}

impl Outputs {
    /// The values of output number `index`, row by row.
    ///
    /// # Errors
    /// [`ModelError::Run`] if there is no such output; the shapes were checked
    /// when the plan was made.
    pub fn get(&self, index: usize) -> Result<Cow<'_, [f32]>, ModelError> {
        let failed = |problem: String| ModelError::Run {
            model: self.name.clone(),
            problem,
        };
        let value = self.values.get(index);
        let value = value.ok_or_else(|| failed(format!("it has no output {index}")))?;
        let plain = value
            .try_as_plain_ram()
            .and_then(|view| view.as_slice::<f32>());
        plain
            .map(Cow::Borrowed)
            .map_err(|error| failed(one_line(&error)))
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside tract, where a panic is caught and reported as
/// a [`ModelError`]: a panic hook stays silent then.
#[must_use]
pub fn panics_are_caught() -> bool {
    GUARDED.get()
}

/// Runs tract, which may panic on a graph that is valid ONNX and still makes no
/// sense. State that a panic left half-changed is not used again: every caller
/// gives up on the model.
fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&error)),
        Err(_) => Err("its graph makes no sense".to_owned()),
    }
}

/// The whole chain of a tract error on one line; some of its messages list
/// every node of a graph, so it may be cut.
fn one_line(error: &TractError) -> String {
    const LONGEST: usize = 300;
    let line = format!("{error:#}");
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}
