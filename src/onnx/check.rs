//! The checks that a model file passes before anything else uses it.
//!
//! Owns the definition of a valid file: its format, inputs, outputs, labels and head.

use std::collections::HashSet;

use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

use super::error::ModelError;
use super::label::Label;
use super::{FEATURES, HeadTensors};

/// ONNX's code for 32-bit floats (`TensorProto.DataType.FLOAT`).
pub(super) const FLOAT: i32 = 1;
const MAX_LABELS: usize = 64;
const MAX_HIDDEN: usize = 4096;
/// A head must be able to compute with features of this size. Those of the built-in
/// backbone are at most 6; other backbones may have larger ones.
const LARGEST_FEATURE: f64 = 1e4;

/// Runs the checks, and holds the names that their error messages use.
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
                return self.fail(format!("the values of {name:?} are in another file"));
            }
            if tensor.data_type == FLOAT && floats(tensor).is_none() {
                let name = &tensor.name;
                return self.fail(format!(
                    "the number of values of {name:?} does not match its shape"
                ));
            }
        }
        Ok((proto, graph))
    }

    /// Checks that the weights of the graph are finite. Otherwise its outputs would not be
    /// numbers.
    pub(super) fn finite(&self, graph: &GraphProto) -> Result<(), ModelError> {
        for tensor in &graph.initializer {
            let values = floats(tensor).unwrap_or_default();
            // A single infinite value is a valid limit, for example of a `Clip`.
            let is_limit = values.len() == 1;
            let fits = |value: &f32| value.is_finite() || is_limit && value.is_infinite();
            if !values.iter().all(fits) {
                let name = &tensor.name;
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

    pub(super) fn outputs(&self, graph: &GraphProto, names: &[&str]) -> Result<(), ModelError> {
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

    pub(super) fn labels(&self, proto: &ModelProto) -> Result<Vec<String>, ModelError> {
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

    /// Checks that the nodes after `features` form a head, and returns the head's
    /// tensors.
    pub(super) fn head(
        &self,
        graph: &GraphProto,
        classes: usize,
    ) -> Result<HeadTensors, ModelError> {
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
                        "after \"features\" it has not the head Gemm, Relu, Gemm, Softmax with the \
                         weights head.0 and head.2",
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
        let head = HeadTensors { w1, b1, w2, b2 };
        if overflows(&head) {
            return self.fail("the weights of its head are so large that its outputs overflow");
        }
        Ok(head)
    }

    /// Cuts the model off after `tensor`, which becomes its only output.
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

/// Whether a head computes numbers that are not finite for some features. Such a head would
/// give a probability that is not a number, on which no verdict may rest.
fn overflows(head: &HeadTensors) -> bool {
    // The largest absolute value that a layer can output if its inputs are at most `input`.
    let largest = |weights: &[f32], bias: &[f32], input: f64| -> f64 {
        let rows = weights.chunks_exact(weights.len() / bias.len());
        let outputs = rows.zip(bias).map(|(row, bias)| {
            let sum: f64 = row.iter().map(|weight| f64::from(weight.abs())).sum();
            sum * input + f64::from(bias.abs())
        });
        outputs.fold(0.0, f64::max)
    };
    let hidden = largest(&head.w1, &head.b1, LARGEST_FEATURE);
    let logits = largest(&head.w2, &head.b2, hidden);
    // The margin allows for rounding errors in the sums.
    hidden.max(logits) > f64::from(f32::MAX) / 2.0
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

/// Returns the values of a tensor of 32-bit floats if their number matches its shape.
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
