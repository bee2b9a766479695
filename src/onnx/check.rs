//! The checks that a model file must pass before it is used.
//!
//! This module defines which formats, inputs, outputs, labels, and heads are valid.

use std::collections::HashSet;

use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

use super::error::ModelError;
use super::label::Label;
use super::{FaceCheckTensors, HeadTensors, LARGEST_FEATURE, MAX_FEATURES, MIN_FEATURES};
use crate::platform::text::counted;

/// ONNX's code for 32-bit floats (`TensorProto.DataType.FLOAT`).
pub(super) const FLOAT: i32 = 1;
/// Names of the optional output `face` of a classifier, and of the weight and the bias
/// that this output is computed with.
pub(super) const FACE_OUTPUT: &str = "face";
pub(super) const FACE_WEIGHT: &str = "face.weight";
pub(super) const FACE_BIAS: &str = "face.bias";
const MAX_LABELS: usize = 64;
const MAX_HIDDEN: usize = 4096;

/// Runs the checks, and holds the names that appear in error messages.
pub(super) struct Checker<'a> {
    pub(super) name: &'a str,
    pub(super) kind: &'static str,
}

impl Checker<'_> {
    pub(super) fn fail<T>(&self, problem: impl Into<String>) -> Result<T, ModelError> {
        Err(ModelError::Unexpected {
            model: self.name.to_owned(),
            kind: self.kind,
            problem: problem.into(),
        })
    }

    pub(super) fn open(
        &self,
        bytes: &[u8],
        format: &str,
    ) -> Result<(ModelProto, GraphProto), ModelError> {
        let (proto, graph) = self.decode(bytes)?;
        match metadata(&proto, "format") {
            Some(found) if found == format => {}
            Some(found) if is_newer(found, format) => {
                return self.fail(format!(
                    "its format {found:?} is newer than {format:?}, which this maskd knows: \
                     update maskd"
                ));
            }
            Some(found) => {
                return self.fail(format!("its format is {found:?} instead of {format:?}"));
            }
            None => {
                return self.fail(format!("it lacks the metadata \"format\" = {format:?}"));
            }
        }
        self.check_tensors(&graph)?;
        Ok((proto, graph))
    }

    /// Decodes a model, and returns it without its graph, followed by its graph.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<(ModelProto, GraphProto), ModelError> {
        let not_onnx = || ModelError::NotOnnx {
            model: self.name.to_owned(),
        };
        let mut proto = ModelProto::decode(bytes).map_err(|_| not_onnx())?;
        let graph = proto.graph.take().filter(|graph| !graph.node.is_empty());
        Ok((proto, graph.ok_or_else(not_onnx)?))
    }

    /// Checks that the values of all weights are in the file.
    pub(super) fn check_tensors(&self, graph: &GraphProto) -> Result<(), ModelError> {
        for (name, tensor) in tensors(graph) {
            if !tensor.external_data.is_empty() {
                return self.fail(format!("the values of {name:?} are in another file"));
            }
            if tensor.data_type == FLOAT && floats(tensor).is_none() {
                return self.fail(format!(
                    "the number of values of {name:?} does not match its shape"
                ));
            }
        }
        Ok(())
    }

    /// Checks that the weights of the graph are finite. Otherwise, the outputs of the
    /// graph could be infinite or NaN.
    pub(super) fn finite(&self, graph: &GraphProto) -> Result<(), ModelError> {
        for (name, tensor) in tensors(graph) {
            let values = floats(tensor).unwrap_or_default();
            // A tensor with a single value may be infinite, because it may be the limit
            // of a `Clip`, for example.
            let is_limit = values.len() == 1;
            let fits = |value: &f32| value.is_finite() || is_limit && value.is_infinite();
            if !values.iter().all(fits) {
                return self.fail(format!("a weight of {name:?} is not a finite number"));
            }
        }
        Ok(())
    }

    /// Checks that the graph has exactly one input, called `name`, of 32-bit floats. In
    /// `shape`, `None` stands for any size.
    pub(super) fn input(
        &self,
        graph: &GraphProto,
        name: &str,
        shape: &[Option<i64>],
    ) -> Result<(), ModelError> {
        let input = self.only_input(graph)?;
        if input.name != name {
            return self.fail(format!("its input is {:?} instead of {name:?}", input.name));
        }
        self.shape(input, shape)
    }

    /// Returns the input of the graph, which must be the only one. In files of old versions of
    /// ONNX, the weights are inputs, too.
    pub(super) fn only_input<'a>(
        &self,
        graph: &'a GraphProto,
    ) -> Result<&'a ValueInfoProto, ModelError> {
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
        match inputs[..] {
            [input] => Ok(input),
            _ => self.fail(format!("it has {} inputs instead of one", inputs.len())),
        }
    }

    /// Checks that the input consists of 32-bit floats in this shape, in which `None` stands for
    /// any size.
    pub(super) fn shape(
        &self,
        input: &ValueInfoProto,
        shape: &[Option<i64>],
    ) -> Result<(), ModelError> {
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

    pub(super) fn outputs(&self, graph: &GraphProto, names: &[&str]) -> Result<(), ModelError> {
        let found = output_names(graph);
        if found == names {
            return Ok(());
        }
        self.fail(format!("its outputs are {found:?} instead of {names:?}"))
    }

    pub(super) fn labels(&self, proto: &ModelProto) -> Result<Vec<String>, ModelError> {
        let Some(text) = metadata(proto, "labels") else {
            return self.fail("it lacks the metadata \"labels\"");
        };
        let Ok(labels) = serde_json::from_str::<Vec<String>>(text) else {
            return self.fail("its metadata \"labels\" is not a JSON array of names");
        };
        if !(2..=MAX_LABELS).contains(&labels.len()) {
            return self.fail(format!(
                "it has {} instead of 2 to 64",
                counted(labels.len(), "label")
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

    /// Checks that the nodes after `features` form a head, and returns the head's
    /// tensors.
    pub(super) fn head(
        &self,
        graph: &GraphProto,
        classes: usize,
    ) -> Result<HeadTensors, ModelError> {
        let steps = [
            ("Gemm", &["head.0.weight", "head.0.bias"][..]),
            ("Relu", &[]),
            ("Gemm", &["head.2.weight", "head.2.bias"]),
            ("Softmax", &[]),
        ];
        match chain(&nodes_without(graph, FACE_WEIGHT), &steps) {
            Some("probabilities") => {}
            Some(_) => return self.fail("its head does not end in \"probabilities\""),
            None => {
                return self.fail(
                    "after \"features\" it does not have the head Gemm, Relu, Gemm, Softmax with the \
                     weights head.0 and head.2",
                );
            }
        }
        let values = |name| finite_values(graph, name);
        let tensors = [
            values("head.0.weight"),
            values("head.0.bias"),
            values("head.2.weight"),
            values("head.2.bias"),
        ];
        let [Some(w1), Some(b1), Some(w2), Some(b2)] = tensors else {
            return self.fail("a weight of its head is missing, or not a finite 32-bit float");
        };
        let head = HeadTensors { w1, b1, w2, b2 };
        let (hidden, features) = (head.b1.len(), head.features());
        if !(MIN_FEATURES..=MAX_FEATURES).contains(&features) {
            return self.fail(format!(
                "its head has {features} inputs instead of {MIN_FEATURES} to {MAX_FEATURES}"
            ));
        }
        let fits = (1..=MAX_HIDDEN).contains(&hidden)
            && head.w1.len() == hidden * features
            && head.w2.len() == classes * hidden
            && head.b2.len() == classes;
        if !fits {
            return self.fail(format!(
                "its head does not map {features} features to {classes} labels"
            ));
        }
        if overflows(&head) {
            return self.fail("the weights of its head are so large that its outputs overflow");
        }
        Ok(head)
    }

    /// Checks the outputs of a classifier whose feature vectors have the length `features`. If
    /// the classifier has the optional output `face`, returns the tensors of its face check.
    pub(super) fn face_check(
        &self,
        graph: &GraphProto,
        features: usize,
    ) -> Result<Option<FaceCheckTensors>, ModelError> {
        if output_names(graph) != ["probabilities", FACE_OUTPUT] {
            self.outputs(graph, &["probabilities"])?;
            return Ok(None);
        }
        let steps = [("Gemm", &[FACE_WEIGHT, FACE_BIAS][..]), ("Sigmoid", &[])];
        if chain(&nodes_without(graph, "head.0.weight"), &steps) != Some(FACE_OUTPUT) {
            return self.fail(
                "its output \"face\" is not computed from \"features\" by Gemm with the weights \
                 face.weight and face.bias, and Sigmoid",
            );
        }
        let tensors = (
            finite_values(graph, FACE_WEIGHT),
            finite_values(graph, FACE_BIAS),
        );
        let (Some(weight), Some(bias)) = tensors else {
            return self
                .fail("a weight of its face check is missing, or not a finite 32-bit float");
        };
        let [bias] = bias[..] else {
            return self.fail("face.bias does not have exactly one value");
        };
        if weight.len() != features {
            return self.fail(format!("face.weight does not have {features} values"));
        }
        if !is_representable(largest(&weight, &[bias], LARGEST_FEATURE)) {
            return self
                .fail("the weights of its face check are so large that its output overflows");
        }
        Ok(Some(FaceCheckTensors { weight, bias }))
    }

    /// Cuts the model off after `tensor`, so that `tensor` becomes the only output.
    pub(super) fn cut(
        &self,
        mut proto: ModelProto,
        mut graph: GraphProto,
        tensor: &str,
    ) -> Result<ModelProto, ModelError> {
        let mut wanted: HashSet<String> = HashSet::from([tensor.to_owned()]);
        let mut kept = Vec::new();
        // ONNX keeps nodes in topological order, so one pass from the end finds
        // everything that `tensor` depends on.
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

fn output_names(graph: &GraphProto) -> Vec<&str> {
    graph
        .output
        .iter()
        .map(|output| output.name.as_str())
        .collect()
}

/// Returns the nodes that do not use the weight `name`.
fn nodes_without<'a>(graph: &'a GraphProto, name: &str) -> Vec<&'a NodeProto> {
    let uses = |node: &NodeProto| node.input.iter().any(|input| input == name);
    graph.node.iter().filter(|node| !uses(node)).collect()
}

/// Follows the nodes, starting at `features`. Each step names an operator, and the
/// weights that the operator uses in addition to the result of the previous step. No
/// other node may use this result. Returns the name of the last result, or `None` if
/// the nodes do not match the steps.
fn chain<'a>(nodes: &[&'a NodeProto], steps: &[(&str, &[&str])]) -> Option<&'a str> {
    let mut tensor = "features";
    for (op, weights) in steps {
        let mut users = nodes
            .iter()
            .filter(|node| node.input.iter().any(|input| input == tensor));
        let (Some(node), None) = (users.next(), users.next()) else {
            return None;
        };
        let inputs = node.input.iter().map(String::as_str);
        let fits = node.op_type == *op
            && inputs.eq([tensor].iter().chain(*weights).copied())
            && (*op != "Gemm" || is_plain_gemm(node));
        match &node.output[..] {
            [output] if fits => tensor = output,
            _ => return None,
        }
    }
    Some(tensor)
}

/// Returns the values of the weight `name`, or `None` if there is no such weight or one of
/// its values is not a finite 32-bit float.
fn finite_values(graph: &GraphProto, name: &str) -> Option<Vec<f32>> {
    let mut found = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.name == name);
    let values = found.next().and_then(floats);
    values.filter(|values| values.iter().all(|value| value.is_finite()))
}

/// Whether a head computes infinite or NaN values for some features. Such a head would
/// output NaN as a probability, and no verdict may be based on NaN.
fn overflows(head: &HeadTensors) -> bool {
    let hidden = largest(&head.w1, &head.b1, LARGEST_FEATURE);
    let logits = largest(&head.w2, &head.b2, hidden);
    !is_representable(hidden.max(logits))
}

/// Returns the largest absolute value that a layer can output if its inputs are at most
/// `input`.
fn largest(weights: &[f32], bias: &[f32], input: f64) -> f64 {
    let rows = weights.chunks_exact(weights.len() / bias.len());
    let outputs = rows.zip(bias).map(|(row, bias)| {
        let sum: f64 = row.iter().map(|weight| f64::from(weight.abs())).sum();
        sum * input + f64::from(bias.abs())
    });
    outputs.fold(0.0, f64::max)
}

/// Whether a 32-bit float can represent `value`. The factor 2 leaves a margin for
/// rounding errors in sums.
fn is_representable(value: f64) -> bool {
    value <= f64::from(f32::MAX) / 2.0
}

/// Returns a format without its version number: `maskd-head` for `maskd-head-1`.
pub(super) fn family(format: &str) -> &str {
    format.rsplit_once('-').map_or(format, |(family, _)| family)
}

/// Whether the format `found` is a later version of the format `known`.
fn is_newer(found: &str, known: &str) -> bool {
    let number = |format: &str| -> Option<u32> { format.rsplit_once('-')?.1.parse().ok() };
    family(found) == family(known) && number(found) > number(known)
}

pub(super) fn metadata<'a>(proto: &'a ModelProto, key: &str) -> Option<&'a str> {
    let mut entries = proto.metadata_props.iter();
    entries
        .find(|entry| entry.key == key)
        .map(|entry| entry.value.as_str())
}

/// Returns the shape of a tensor of 32-bit floats, with `None` for each variable size.
pub(super) fn dimensions(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
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

/// Whether the node computes `y = x W^T + b`, that is, `transB` is set and alpha and
/// beta are 1.
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

/// Returns the weights of a graph with their names: its initializers, and the tensors
/// in the attributes of its nodes, such as `Constant` nodes.
fn tensors(graph: &GraphProto) -> impl Iterator<Item = (&str, &TensorProto)> {
    let initializers = graph.initializer.iter();
    let constants = graph.node.iter().flat_map(|node| {
        let name = node.output.first().map_or("", String::as_str);
        let attributes = node.attribute.iter();
        let tensors = attributes.flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
        tensors.map(move |tensor| (name, tensor))
    });
    initializers
        .map(|tensor| (tensor.name.as_str(), tensor))
        .chain(constants)
}

/// Returns the values of a tensor. Returns `None` if they are not 32-bit floats or if
/// their number does not match the tensor's shape.
pub(super) fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
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
