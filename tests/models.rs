//! Tests that an invalid model file leads to exit code 65 and an error message of one
//! sentence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::path::PathBuf;

use prost::Message;
use support::{assert_refused, frame, maskd, root, text};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};

/// Runs `classify` with these bytes as the model file.
fn with_model(key: &str, bytes: &[u8]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    fs::write(&model, bytes).unwrap();
    with_model_file(key, &model)
}

fn with_model_file(key: &str, model: &std::path::Path) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("maskd.toml");
    fs::write(
        &config,
        format!("[models]\n{key} = {:?}\n", model.to_str().unwrap()),
    )
    .unwrap();
    let picture = frame("maksssksksss128.jpg");
    maskd()
        .arg("classify")
        .arg("--config")
        .arg(&config)
        .arg(picture)
        .output()
        .unwrap()
}

fn shipped(name: &str) -> Vec<u8> {
    fs::read(root().join("models").join(name)).unwrap()
}

const CLASSIFIER: (&str, &str) = ("classifier", "mask_classifier.onnx");
const DETECTOR: (&str, &str) = ("detector", "face_detector.onnx");

#[test]
fn the_shipped_files_are_accepted_by_name() {
    for (key, name) in [CLASSIFIER, DETECTOR] {
        let output = with_model_file(key, &root().join("models").join(name));
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("without_mask"));
    }
}

#[test]
fn the_shipped_replay_set_goes_with_the_shipped_classifier() {
    use maskd::learning::replay::Replay;
    use maskd::onnx::Classifier;
    let classifier = Classifier::parse("shipped", &shipped("mask_classifier.onnx")).unwrap();
    let replay = Replay::parse(&shipped("replay.bin")).unwrap();
    assert_eq!(replay.backbone_sha256, classifier.backbone_sha256);
    for rows in [&replay.train, &replay.holdout] {
        for (number, label) in replay.labels.iter().enumerate() {
            assert!(classifier.labels.contains(label));
            let count = rows.labels.iter().filter(|label| **label == number).count();
            assert_eq!(count, rows.len() / replay.labels.len());
        }
    }
}

#[test]
fn files_that_are_no_models_are_refused() {
    for (key, name) in [CLASSIFIER, DETECTOR] {
        let bytes = shipped(name);
        assert_refused(&with_model(key, b""), 65, "is not an ONNX model");
        assert_refused(
            &with_model(key, b"certainly no protobuf"),
            65,
            "is not an ONNX model",
        );
        assert_refused(
            &with_model(key, &bytes[..bytes.len() / 2]),
            65,
            "is not an ONNX model",
        );
        assert_refused(
            &with_model(key, &bytes[..bytes.len() - 1]),
            65,
            "is not an ONNX model",
        );
    }
    let missing = PathBuf::from("nowhere.onnx");
    assert_refused(
        &with_model_file("detector", &missing),
        66,
        "cannot read the model nowhere.onnx",
    );
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("huge.onnx");
    fs::File::create(&model).unwrap().set_len(65 << 20).unwrap();
    assert_refused(
        &with_model_file("classifier", &model),
        65,
        "more than 64 MiB, the limit for models",
    );
    // This file reports a size of zero but never ends.
    let endless = PathBuf::from("/dev/zero");
    assert_refused(
        &with_model_file("classifier", &endless),
        66,
        "it is not a regular file",
    );
}

#[test]
fn a_model_in_the_place_of_another_is_refused() {
    let output = with_model("classifier", &shipped(DETECTOR.1));
    assert_refused(&output, 65, "its format is \"maskd-detector-1\"");
    let output = with_model("detector", &shipped(CLASSIFIER.1));
    assert_refused(&output, 65, "is not a face detector for maskd");
}

/// Returns the built-in model after applying `change` to it.
fn changed(name: &str, change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut proto = ModelProto::decode(&shipped(name)[..]).unwrap();
    change(&mut proto);
    proto.encode_to_vec()
}

fn set(proto: &mut ModelProto, key: &str, value: &str) {
    proto.metadata_props.retain(|entry| entry.key != key);
    proto.metadata_props.push(StringStringEntryProto {
        key: key.into(),
        value: value.into(),
    });
}

#[test]
fn classifiers_of_another_form_are_refused_with_the_reason() {
    type Change = fn(&mut ModelProto);
    let cases: &[(&str, Change)] = &[
        ("lacks the metadata \"format\"", |p| {
            p.metadata_props.clear();
        }),
        ("is not a JSON array", |p| set(p, "labels", "with_mask")),
        ("it has 1 label", |p| set(p, "labels", "[\"with_mask\"]")),
        ("1280 features to 3 labels", |p| {
            set(p, "labels", "[\"a\",\"b\",\"c\"]");
        }),
        ("it has the label \"a\" twice", |p| {
            set(p, "labels", "[\"a\",\"a\"]");
        }),
        ("\"unsure\" cannot be a label", |p| {
            set(p, "labels", "[\"a\",\"unsure\"]");
        }),
        ("its input is \"picture\"", |p| {
            graph(p).input[0].name = "picture".into();
        }),
        ("its outputs are", |p| {
            graph(p).output[0].name = "scores".into();
        }),
        ("does not have the head", |p| {
            let nodes = &mut graph(p).node;
            nodes
                .iter_mut()
                .find(|node| node.op_type == "Softmax")
                .unwrap()
                .op_type = "Sigmoid".into();
        }),
        ("does not have the head", |p| {
            for node in &mut graph(p).node {
                for name in node.input.iter_mut().chain(&mut node.output) {
                    if name == "features" {
                        *name = "pooled".into();
                    }
                }
            }
        }),
        ("does not match its shape", |p| {
            weight(p, "head.0.weight").raw_data.truncate(4000);
        }),
        ("weight of its head is missing, or not a finite", |p| {
            weight(p, "head.2.bias").raw_data = f32::NAN.to_le_bytes().repeat(2);
        }),
        ("outputs overflow", |p| {
            let weights = &mut weight(p, "head.0.weight").raw_data;
            *weights = 1e38_f32.to_le_bytes().repeat(weights.len() / 4);
        }),
        ("outputs overflow", |p| {
            // Neither layer causes an overflow on its own.
            for name in ["head.0.weight", "head.2.weight"] {
                let weights = &mut weight(p, name).raw_data;
                *weights = (-1e18_f32).to_le_bytes().repeat(weights.len() / 4);
            }
        }),
        ("outputs overflow", |p| {
            weight(p, "head.2.bias").raw_data = f32::MAX.to_le_bytes().repeat(2);
        }),
        ("is not a finite number", |p| {
            let backbone = graph(p).initializer.iter_mut();
            let mut tensors = backbone.filter(|tensor| tensor.raw_data.len() > 400);
            let weights = &mut tensors.next().unwrap().raw_data;
            weights[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        ("in another file", |p| {
            let entry = StringStringEntryProto {
                key: "location".into(),
                value: "/etc/passwd".into(),
            };
            weight(p, "head.0.bias").external_data.push(entry);
        }),
    ];
    for (reason, change) in cases {
        assert_refused(
            &with_model("classifier", &changed(CLASSIFIER.1, change)),
            65,
            reason,
        );
    }
}

#[test]
fn classifiers_with_another_face_check_are_refused_with_the_reason() {
    type Change = fn(&mut ModelProto);
    let cases: &[(&str, Change)] = &[
        ("its outputs are", |p| {
            graph(p).output[1].name = "faces".into();
        }),
        ("its output \"face\" is not computed", |p| {
            let nodes = &mut graph(p).node;
            let sigmoid = nodes.iter_mut().find(|node| node.op_type == "Sigmoid");
            sigmoid.unwrap().op_type = "Tanh".into();
        }),
        ("its output \"face\" is not computed", |p| {
            let gemm = graph(p)
                .node
                .iter_mut()
                .find(|node| node.name == "face.logit");
            gemm.unwrap().input[0] = "head.0".into();
        }),
        (
            "a weight of its face check is missing, or not a finite",
            |p| {
                weight(p, "face.bias").raw_data = f32::NAN.to_le_bytes().to_vec();
            },
        ),
        (
            "a weight of its face check is missing, or not a finite",
            |p| {
                graph(p)
                    .initializer
                    .retain(|tensor| tensor.name != "face.weight");
            },
        ),
        ("face.bias does not have exactly one value", |p| {
            let bias = weight(p, "face.bias");
            (bias.dims, bias.raw_data) = (vec![2], vec![0; 8]);
        }),
        ("face.weight does not have 1280 values", |p| {
            let weights = weight(p, "face.weight");
            (weights.dims, weights.raw_data) = (vec![1, 640], vec![0; 640 * 4]);
        }),
        (
            "its face check are so large that its output overflows",
            |p| {
                let weights = &mut weight(p, "face.weight").raw_data;
                *weights = 1e38_f32.to_le_bytes().repeat(weights.len() / 4);
            },
        ),
    ];
    for (reason, change) in cases {
        assert_refused(
            &with_model("classifier", &changed(CLASSIFIER.1, change)),
            65,
            reason,
        );
    }
}

#[test]
fn a_detector_with_weights_that_are_not_finite_is_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        let bytes = changed(DETECTOR.1, |p| {
            let tensors = graph(p).initializer.iter_mut();
            let mut tensors = tensors.filter(|tensor| tensor.raw_data.len() > 400);
            let weights = &mut tensors.next().unwrap().raw_data;
            weights[..4].copy_from_slice(&value.to_le_bytes());
        });
        let output = with_model("detector", &bytes);
        assert_refused(&output, 65, "is not a finite number");
    }
}

/// Moves the first large weight of a model into a `Constant` node after applying `change`
/// to it.
fn with_constant(model: &str, change: impl FnOnce(&mut TensorProto)) -> Vec<u8> {
    changed(model, |p| {
        let graph = graph(p);
        let is_large = |tensor: &TensorProto| tensor.raw_data.len() > 400;
        let first = graph.initializer.iter().position(is_large).unwrap();
        let mut tensor = graph.initializer.remove(first);
        let output = vec![tensor.name.clone()];
        change(&mut tensor);
        let value = AttributeProto {
            name: "value".into(),
            r#type: AttributeType::Tensor.into(),
            t: Some(tensor),
            ..AttributeProto::default()
        };
        let node = NodeProto {
            op_type: "Constant".into(),
            output,
            attribute: vec![value],
            ..NodeProto::default()
        };
        graph.node.insert(0, node);
    })
}

#[test]
fn constants_are_checked_like_weights() {
    for (key, model) in [CLASSIFIER, DETECTOR] {
        let output = with_model(key, &with_constant(model, |_| ()));
        assert!(output.status.success(), "{key}: {}", text(&output.stderr));
        for value in [f32::NAN, f32::NEG_INFINITY] {
            let bytes = with_constant(model, |tensor| {
                tensor.raw_data[..4].copy_from_slice(&value.to_le_bytes());
            });
            let output = with_model(key, &bytes);
            assert_refused(&output, 65, "is not a finite number");
        }
        let elsewhere = with_constant(model, |tensor| {
            tensor.external_data.push(StringStringEntryProto {
                key: "location".into(),
                value: "/etc/passwd".into(),
            });
        });
        assert_refused(&with_model(key, &elsewhere), 65, "in another file");
    }
}

/// A head may be far more confident than the built-in head, as long as its outputs are
/// finite numbers.
#[test]
fn a_head_with_large_weights_is_accepted() {
    let bytes = changed(CLASSIFIER.1, |p| {
        let weights = &mut weight(p, "head.2.weight").raw_data;
        for value in weights.as_chunks_mut::<4>().0 {
            *value = (f32::from_le_bytes(*value) * 1e6).to_le_bytes();
        }
    });
    let output = with_model("classifier", &bytes);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A classifier file from an earlier version has no face check. It must still classify
/// the same faces.
#[test]
fn a_classifier_without_a_face_check_is_accepted() {
    let bytes = changed(CLASSIFIER.1, |p| {
        let graph = graph(p);
        graph.output.truncate(1);
        graph.node.retain(|node| !node.name.starts_with("face"));
        graph
            .initializer
            .retain(|tensor| !tensor.name.starts_with("face"));
    });
    assert!(bytes.len() < shipped(CLASSIFIER.1).len() - 5000);
    let output = with_model("classifier", &bytes);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let with = with_model_file("classifier", &root().join("models").join(CLASSIFIER.1));
    assert_eq!(text(&output.stdout), text(&with.stdout));
}

/// The face check belongs to the backbone. Replacing the head therefore keeps the face
/// check, and replacing the face check keeps the digest of the backbone, so that
/// existing heads still fit.
#[test]
fn the_face_check_and_the_head_are_replaced_independently() {
    use maskd::onnx::{Classifier, FEATURES, FaceCheckTensors, write_classifier, write_face_check};
    use maskd::vision::head::Head;
    let base = shipped(CLASSIFIER.1);
    let before = Classifier::parse("shipped", &base).unwrap();
    let check = FaceCheckTensors {
        weight: (0..FEATURES).map(|index| index as f32 / 1e4).collect(),
        bias: -1.5,
    };
    let bytes = write_face_check(&base, &check, "{}").unwrap();
    let twice = write_face_check(&bytes, &check, "{}").unwrap();
    assert_eq!(
        bytes, twice,
        "it replaces a face check, and adds none beside it"
    );
    let changed = Classifier::parse("changed", &bytes).unwrap();
    assert_eq!(changed.face_check.as_ref(), Some(&check));
    assert_eq!(changed.backbone_sha256, before.backbone_sha256);
    assert_eq!(changed.head, before.head);

    let mut head = Head::of(&changed).to_file();
    head.head.b2 = vec![0.25, -0.25];
    let bytes = write_classifier(&bytes, &head, &[("seed", "7".to_owned())]).unwrap();
    let trained = Classifier::parse("trained", &bytes).unwrap();
    assert_eq!(trained.face_check, Some(check.clone()));
    assert_eq!(trained.head.b2, [0.25, -0.25]);
    let proto = ModelProto::decode(&bytes[..]).unwrap();
    let description = proto.metadata_props.iter().find(|p| p.key == "face_check");
    assert_eq!(description.unwrap().value, "{}");

    let mut broken = check;
    broken.weight[3] = f32::INFINITY;
    let error = write_face_check(&base, &broken, "{}").unwrap_err();
    assert!(
        error.to_string().contains("not a finite 32-bit float"),
        "{error}"
    );
}

fn graph(proto: &mut ModelProto) -> &mut tract_onnx::pb::GraphProto {
    proto.graph.as_mut().unwrap()
}

fn weight<'a>(proto: &'a mut ModelProto, name: &str) -> &'a mut TensorProto {
    graph(proto)
        .initializer
        .iter_mut()
        .find(|tensor| tensor.name == name)
        .unwrap()
}

/// These files are valid protobuf with the right names, but their graphs cannot be run.
#[test]
fn graphs_that_make_no_sense_are_refused_and_never_panic() {
    type Change = fn(&mut ModelProto);
    let cases: &[Change] = &[
        // This operator does not exist.
        |p| graph(p).node[3].op_type = "Frobnicate".into(),
        // A weight is missing.
        |p| {
            graph(p).initializer.remove(5);
        },
        // A weight has a different shape, but the same number of values.
        |p| {
            let tensor = graph(p)
                .initializer
                .iter_mut()
                .find(|t| t.dims.len() == 4)
                .unwrap();
            tensor.dims = vec![1, tensor.dims.iter().product(), 1, 1];
        },
        |p| graph(p).initializer.clear(),
        |p| graph(p).node.truncate(20),
        // Nodes have no inputs.
        |p| {
            graph(p)
                .node
                .iter_mut()
                .take(10)
                .for_each(|node| node.input.clear());
        },
        // Strides and pads are negative.
        |p| {
            for node in &mut graph(p).node {
                node.attribute
                    .iter_mut()
                    .for_each(|a| a.ints.iter_mut().for_each(|i| *i = -*i));
            }
        },
        |p| {
            for node in &mut graph(p).node {
                node.attribute.iter_mut().for_each(|a| a.ints.clear());
            }
        },
    ];
    for (key, name) in [CLASSIFIER, DETECTOR] {
        for (index, change) in cases.iter().enumerate() {
            let output = with_model(key, &changed(name, change));
            let errors = text(&output.stderr);
            assert_refused(&output, 65, "model");
            assert!(errors.len() < 2000, "{key} {index}: {errors}");
        }
    }
}
