//! Writes classifier and head files, and adds and verifies the checksum of head files.

use std::collections::BTreeMap;

use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto,
    type_proto,
};

use super::check::{Checker, FACE_BIAS, FACE_OUTPUT, FACE_WEIGHT, FLOAT};
use super::error::ModelError;
use super::{CLASSIFIER_FORMAT, Classifier, FaceCheckTensors, HEAD_FORMAT, HeadFile, HeadTensors};
use crate::platform::hex;

/// Returns the bytes of the classifier file `base` with its head replaced by `head`, and
/// with `metadata` in addition to the entries that the format requires. The face check of
/// `base` stays, because it belongs to the backbone. The same arguments always give the
/// same bytes.
///
/// # Errors
/// Returns the errors of [`Classifier::parse`] if `base` is not a classifier.
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
    graph.output.retain(|output| output.name == FACE_OUTPUT);
    let probabilities = float_info("probabilities", &[None, Some(classes)]);
    graph.output.insert(0, probabilities);
    graph.value_info.retain(|value| value.name != "logits");
    graph
        .value_info
        .push(float_info("logits", &[None, Some(classes)]));
    proto.graph = Some(graph);
    proto
        .metadata_props
        .retain(|entry| ["licence", "source", FACE_CHECK_KEY].contains(&entry.key.as_str()));
    set_metadata(&mut proto, CLASSIFIER_FORMAT, head, metadata);
    Ok(proto.encode_to_vec())
}

/// Metadata key of the scores and the origin of the face check.
const FACE_CHECK_KEY: &str = "face_check";

/// Returns the bytes of the classifier file `base` with the face check `check`, which
/// replaces the face check of `base`, if there is one. `description` becomes the
/// metadata entry `face_check`. Everything else in the file stays unchanged.
///
/// # Errors
/// Returns the errors of [`Classifier::parse`] if `base` is not a classifier or `check`
/// cannot be used.
pub fn write_face_check(
    base: &[u8],
    check: &FaceCheckTensors,
    description: &str,
) -> Result<Vec<u8>, ModelError> {
    let checker = Checker {
        name: "the base model",
        kind: "classifier",
    };
    let (mut proto, mut graph) = checker.open(base, CLASSIFIER_FORMAT)?;
    let weights = [FACE_WEIGHT, FACE_BIAS];
    graph
        .initializer
        .retain(|tensor| !weights.contains(&tensor.name.as_str()));
    graph
        .node
        .retain(|node| !["face.logit", FACE_OUTPUT].contains(&node.name.as_str()));
    graph.output.retain(|output| output.name != FACE_OUTPUT);
    let features = check.weight.len() as i64;
    graph.initializer.extend([
        float_tensor(FACE_WEIGHT, &[1, features], &check.weight),
        float_tensor(FACE_BIAS, &[1], &[check.bias]),
    ]);
    graph.node.extend([
        NodeProto {
            op_type: "Gemm".to_owned(),
            name: "face.logit".to_owned(),
            input: ["features", FACE_WEIGHT, FACE_BIAS]
                .map(str::to_owned)
                .to_vec(),
            output: vec!["face.logit".to_owned()],
            attribute: vec![integer("transB", 1)],
            ..NodeProto::default()
        },
        NodeProto {
            op_type: "Sigmoid".to_owned(),
            name: FACE_OUTPUT.to_owned(),
            input: vec!["face.logit".to_owned()],
            output: vec![FACE_OUTPUT.to_owned()],
            ..NodeProto::default()
        },
    ]);
    graph.output.push(float_info(FACE_OUTPUT, &[None, Some(1)]));
    proto.graph = Some(graph);
    proto
        .metadata_props
        .retain(|entry| entry.key != FACE_CHECK_KEY);
    proto.metadata_props.push(StringStringEntryProto {
        key: FACE_CHECK_KEY.to_owned(),
        value: description.to_owned(),
    });
    let bytes = proto.encode_to_vec();
    Classifier::parse("the classifier with the face check", &bytes)?;
    Ok(bytes)
}

/// Returns the bytes of a head file with the input `features` \[N, F\] and the output
/// `probabilities`.
#[must_use]
pub fn write_head(head: &HeadFile, metadata: &[(&str, String)]) -> Vec<u8> {
    let classes = Some(head.labels.len() as i64);
    let graph = GraphProto {
        name: "head".to_owned(),
        node: head_nodes(),
        initializer: head_tensors(head),
        input: vec![float_info(
            "features",
            &[None, Some(head.head.features() as i64)],
        )],
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

/// Returns the nodes that compute `probabilities` from `features`.
pub(super) fn head_nodes() -> Vec<NodeProto> {
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
    vec![
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
    ]
}

/// Metadata key of the checksum that [`write_sealed_head`] adds.
const CHECKSUM_KEY: &str = "sha256";

/// Writes a head file like [`write_head`], and adds one more metadata entry at the end:
/// `sha256`, the SHA-256 of all bytes before it. A protobuf that is truncated between
/// two fields is still valid, but the checksum reveals the truncation.
#[must_use]
pub fn write_sealed_head(head: &HeadFile, metadata: &[(&str, String)]) -> Vec<u8> {
    let mut bytes = write_head(head, metadata);
    let entry = checksum_entry(&bytes);
    bytes.extend(entry);
    bytes
}

/// Verifies the checksum that [`write_sealed_head`] adds. `name` is the name of the file
/// in error messages.
///
/// # Errors
/// [`ModelError::Unexpected`] if the checksum is missing or wrong.
pub fn check_seal(name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    // The entry has the same length in all files.
    let length = checksum_entry(&[]).len();
    let content = bytes.len().checked_sub(length);
    let parts = content.map(|content| bytes.split_at(content));
    if parts.is_some_and(|(content, end)| checksum_entry(content) == end) {
        return Ok(());
    }
    let checker = Checker { name, kind: "head" };
    checker.fail("its checksum is missing or wrong: it is damaged, or was not written by maskd")
}

/// Returns the metadata entry to append to `content`. Concatenated protobufs are parsed
/// as a single protobuf with concatenated lists. If the entry is appended to the bytes
/// of a model, it therefore becomes a part of the model's metadata.
fn checksum_entry(content: &[u8]) -> Vec<u8> {
    let entry = StringStringEntryProto {
        key: CHECKSUM_KEY.to_owned(),
        value: hex::encode(&Sha256::digest(content)),
    };
    let proto = ModelProto {
        metadata_props: vec![entry],
        ..ModelProto::default()
    };
    proto.encode_to_vec()
}

/// Returns the metadata of an ONNX file, without the entries that [`write_head`],
/// [`write_classifier`], and [`write_sealed_head`] add: `format`, `labels`,
/// `backbone_sha256`, and `sha256`. If a key occurs more than once, the first value is
/// used.
///
/// # Errors
/// [`ModelError::NotOnnx`] if the bytes are not an ONNX model.
pub fn read_metadata(name: &str, bytes: &[u8]) -> Result<BTreeMap<String, String>, ModelError> {
    let proto = ModelProto::decode(bytes).map_err(|_| ModelError::NotOnnx {
        model: name.to_owned(),
    })?;
    let mut metadata = BTreeMap::new();
    for StringStringEntryProto { key, value } in proto.metadata_props {
        if !["format", "labels", "backbone_sha256", CHECKSUM_KEY].contains(&key.as_str()) {
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
    // Serializing a list of strings cannot fail.
    let labels = serde_json::to_string(&head.labels).unwrap_or_default();
    let own = [
        ("format", format.to_owned()),
        ("labels", labels),
        ("backbone_sha256", hex::encode(&head.backbone_sha256)),
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
    let features = head.head.features() as i64;
    let HeadTensors { w1, b1, w2, b2 } = &head.head;
    let hidden = b1.len() as i64;
    let classes = b2.len() as i64;
    vec![
        float_tensor("head.0.weight", &[hidden, features], w1),
        float_tensor("head.0.bias", &[hidden], b1),
        float_tensor("head.2.weight", &[classes, hidden], w2),
        float_tensor("head.2.bias", &[classes], b2),
    ]
}

fn float_tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        raw_data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        ..TensorProto::default()
    }
}

/// Describes a tensor of 32-bit floats. In `shape`, `None` stands for the variable batch
/// size `N`.
pub(super) fn float_info(name: &str, shape: &[Option<i64>]) -> ValueInfoProto {
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

pub(super) fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: attribute_proto::AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}
