//! Tests that `maskd train --backbone` refuses what is no backbone, and that everything works
//! with a classifier whose backbone is not the built-in one. The backbone of these tests has
//! random weights and computes 40 features, some of which are negative.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use maskd::learning::replay::Replay;
use maskd::onnx::{BackboneFile, Classifier};
use maskd::vision::pipeline::SHIPPED_CLASSIFIER;
use prost::Message;
use serde_json::Value;
use support::{
    Device, Running, assert_refused, built_in_head, frame, head, maskd, pieces, root, text,
    wait_for,
};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto,
    type_proto,
};

const FEATURES: usize = 40;

/// Returns a backbone with the output [N, 40, 1, 1]. Some tensors have names that a classifier
/// file uses for other tensors.
fn backbone() -> ModelProto {
    let mut seed = 1_u32;
    let mut weights = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>();
        let inputs = dims[1..].iter().product::<i64>().max(1) as f32;
        let values = (0..count).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed as f32 / u32::MAX as f32 - 0.5) * (48.0 / inputs).sqrt()
        });
        TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: 1,
            raw_data: values.flat_map(f32::to_le_bytes).collect(),
            ..TensorProto::default()
        }
    };
    let node = |op: &str, input: &[&str], output: &str, attributes: &[(&str, &[i64])]| NodeProto {
        op_type: op.into(),
        input: input.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        attribute: attributes
            .iter()
            .map(|(name, ints)| AttributeProto {
                name: (*name).into(),
                r#type: attribute_proto::AttributeType::Ints.into(),
                ints: ints.to_vec(),
                ..AttributeProto::default()
            })
            .collect(),
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: "random".into(),
        node: vec![
            node(
                "Conv",
                &["x", "features.0.weight", "features.0.bias"],
                "image",
                &[("kernel_shape", &[8, 8]), ("strides", &[8, 8])],
            ),
            node("Relu", &["image"], "features", &[]),
            node(
                "Conv",
                &["features", "head.0.weight"],
                "logits",
                &[("kernel_shape", &[1, 1])],
            ),
            node("GlobalAveragePool", &["logits"], "y", &[]),
        ],
        initializer: vec![
            weights("features.0.weight", &[24, 3, 8, 8]),
            weights("features.0.bias", &[24]),
            weights("head.0.weight", &[FEATURES as i64, 24, 1, 1]),
        ],
        input: vec![tensor("x", &[None, Some(3), Some(224), Some(224)])],
        output: vec![tensor(
            "y",
            &[None, Some(FEATURES as i64), Some(1), Some(1)],
        )],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 13,
        }],
        metadata_props: vec![StringStringEntryProto {
            key: "source".into(),
            value: "random numbers".into(),
        }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn tensor(name: &str, shape: &[Option<i64>]) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;
    let dimension = |size: &Option<i64>| tensor_shape_proto::Dimension {
        value: Some(size.map_or_else(|| Value::DimParam("N".into()), Value::DimValue)),
        ..tensor_shape_proto::Dimension::default()
    };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: 1,
                shape: Some(TensorShapeProto {
                    dim: shape.iter().map(dimension).collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn changed(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    let mut proto = backbone();
    change(proto.graph.as_mut().unwrap());
    proto.encode_to_vec()
}

fn weights<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    let mut tensors = graph.initializer.iter_mut();
    tensors.find(|tensor| tensor.name == name).unwrap()
}

/// Creates a data set with the labels `mask_on` and `mask_off`.
fn data_set(folder: &Path) -> PathBuf {
    let set = folder.join("set");
    pieces(&set);
    fs::rename(set.join("with_mask"), set.join("mask_on")).unwrap();
    fs::rename(set.join("without_mask"), set.join("mask_off")).unwrap();
    set
}

fn train(set: &Path, backbone: &Path, arguments: &[&str]) -> Output {
    maskd()
        .args(["train", "--recipe", "tutorial", "--epochs", "2"])
        .args(["--views", "1", "--batch-size", "8", "--init-lr", "0.0001"])
        .arg("--dataset")
        .arg(set)
        .arg("--val")
        .arg(set)
        .arg("--backbone")
        .arg(backbone)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn what_is_no_backbone_is_refused_with_the_reason() {
    type Change = fn(&mut GraphProto);
    let cases: &[(&str, Change)] = &[
        ("it has 2 inputs instead of one", |graph| {
            graph.input.push(tensor("mask", &[None]));
        }),
        (
            "its input is not of shape [any, 3, 224, 224] in 32-bit floats",
            |graph| graph.input = vec![tensor("x", &[None, Some(224), Some(224), Some(3)])],
        ),
        ("its input has room for exactly 8 pictures", |graph| {
            graph.input = vec![tensor("x", &[Some(8), Some(3), Some(224), Some(224)])];
        }),
        ("it has 2 outputs instead of one", |graph| {
            graph.output.push(tensor("logits", &[None]));
        }),
        ("end it with a global average pooling", |graph| {
            graph.output[0].name = "logits".into();
        }),
        ("it computes 1 features instead of 2 to 4096", |graph| {
            let last = weights(graph, "head.0.weight");
            last.dims[0] = 1;
            last.raw_data.truncate(24 * 4);
        }),
        ("is not a finite number", |graph| {
            weights(graph, "features.0.bias").raw_data = f32::NAN.to_le_bytes().repeat(24);
        }),
        ("its features are not all finite numbers", |graph| {
            for name in ["features.0.weight", "head.0.weight"] {
                let values = &mut weights(graph, name).raw_data;
                *values = 1e30_f32.to_le_bytes().repeat(values.len() / 4);
            }
        }),
        ("and the limit is 10000", |graph| {
            let values = &mut weights(graph, "head.0.weight").raw_data;
            *values = 1e5_f32.to_le_bytes().repeat(values.len() / 4);
        }),
        ("its features do not depend on the picture", |graph| {
            let values = &mut weights(graph, "features.0.weight").raw_data;
            *values = vec![0; values.len()];
        }),
        ("is not a backbone for maskd", |graph| {
            graph.node[1].op_type = "Frobnicate".into();
        }),
        ("it has no tensor", |graph| {
            graph
                .node
                .retain(|node| node.op_type != "GlobalAveragePool");
        }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let (file, model) = (folder.path().join("b.onnx"), folder.path().join("m.onnx"));
    let refused = |bytes: &[u8], exit: i32, words: &str| {
        fs::write(&file, bytes).unwrap();
        let output = train(&set, &file, &["--model", model.to_str().unwrap()]);
        assert_refused(&output, exit, words);
        assert!(!model.exists());
    };
    for (reason, change) in cases {
        refused(&changed(change), 65, reason);
    }
    refused(b"no protobuf", 65, "is not an ONNX model");
    let detector = fs::read(root().join("models/face_detector.onnx")).unwrap();
    refused(&detector, 65, "is not a backbone for maskd");
    fs::remove_file(&file).unwrap();
    let output = train(&set, &file, &["--model", model.to_str().unwrap()]);
    assert_refused(&output, 66, "cannot read the model");
}

#[test]
fn the_backbone_of_a_model_is_a_backbone() {
    let name = "the built-in model";
    let built_in = Classifier::parse(name, SHIPPED_CLASSIFIER).unwrap();
    let file = BackboneFile::parse(name, SHIPPED_CLASSIFIER).unwrap();
    assert_eq!(file.backbone_sha256, built_in.backbone_sha256);
    assert_eq!(file.features, 1280);
    let model = maskd::onnx::write_classifier(&file.base, &built_in_head(), &[]).unwrap();
    let model = Classifier::parse(name, &model).unwrap();
    assert_eq!(model.face_check, built_in.face_check);
}

/// A device whose config names a classifier and a replay set with another backbone.
struct Door {
    device: Device,
    config: PathBuf,
    set: PathBuf,
}

impl Door {
    fn new() -> Door {
        let device = Device::new();
        let set = data_set(device.folder.path());
        let (file, model) = (device.at("backbone.onnx"), device.at("model.onnx"));
        let (replay, report) = (device.at("replay.bin"), device.at("report.json"));
        fs::write(&file, backbone().encode_to_vec()).unwrap();
        let output = train(
            &set,
            &file,
            &[
                "--model",
                model.to_str().unwrap(),
                "--replay",
                replay.to_str().unwrap(),
                "--report",
                report.to_str().unwrap(),
            ],
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        let config = device.at("maskd.toml");
        let door = Door {
            device,
            config,
            set,
        };
        door.configure(&replay);
        door
    }

    fn configure(&self, replay: &Path) {
        let model = self.device.at("model.onnx");
        let camera = frame("maksssksksss10.jpg");
        let [model, replay, camera] =
            [model.as_path(), replay, camera.as_path()].map(|path| path.to_str().unwrap());
        let text = format!(
            "[models]\nclassifier = {model:?}\nreplay = {replay:?}\n\
             [classify]\nmasked-labels = [\"mask_on\"]\n\
             [indicate]\nwith-mask-label = \"mask_on\"\nwithout-mask-label = \"mask_off\"\n\
             [camera]\nsource = {camera:?}\nplayback-fps = 5\n\
             [refit]\nenabled = false\n[decide]\nstale-ms = 60000\n"
        );
        fs::write(&self.config, text).unwrap();
    }

    fn with_config<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [words, &["--config", self.config.to_str().unwrap()]].concat()
    }

    #[track_caller]
    fn stdout(&self, words: &[&str]) -> String {
        self.device.stdout(&self.with_config(words))
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        self.device.json(&self.with_config(words))
    }

    fn maskd(&self, words: &[&str]) -> Output {
        self.device.maskd(&self.with_config(words))
    }

    /// Returns the probability of `mask_on` for the face in an example photograph.
    fn probability(&self) -> f64 {
        let photo = frame("maksssksksss10.jpg");
        let line = self.json(&["classify", photo.to_str().unwrap()]);
        let face = &line["faces"][0]["probabilities"];
        face["mask_on"].as_f64().unwrap_or_else(|| panic!("{line}"))
    }
}

#[test]
fn another_backbone_trains_classifies_and_learns_on_the_device() {
    let door = Door::new();
    let bytes = fs::read(door.device.at("model.onnx")).unwrap();
    let model = Classifier::parse("model", &bytes).unwrap();
    assert_eq!(model.head.features(), FEATURES);
    assert_eq!(model.labels, ["mask_off", "mask_on"]);
    let metadata = maskd::onnx::read_metadata("model", &bytes).unwrap();
    assert_eq!(metadata["source"], "random numbers");
    assert_eq!(metadata["recipe"], "tutorial");
    let replay = Replay::parse(&fs::read(door.device.at("replay.bin")).unwrap()).unwrap();
    assert_eq!(replay.backbone_sha256, model.backbone_sha256);
    assert_eq!((replay.train.len(), replay.holdout.len()), (18, 6));
    assert!(replay.train.features.iter().any(|value| *value < 0.0));

    let set = door.set.to_str().unwrap();
    let imported = door.stdout(&["samples", "import", set]);
    assert_eq!(imported, "added: mask_off 12, mask_on 12\n");
    assert!(door.stdout(&["check"]).contains("replay set"));
    let report = door.stdout(&["eval", "--dataset", set]);
    assert!(report.contains("mask_on"), "{report}");
    let before = door.probability();

    let masked = door.json(&["samples", "list", "--label", "mask_on"]);
    let id = masked[0]["id"].as_str().unwrap();
    door.stdout(&["label", id, "mask_off"]);
    door.stdout(&["label", id, "mask_on"]);
    let record = door.json(&["refit", "--labels-checked"]);
    let outcome = &record["outcome"];
    assert_eq!(outcome["ruling"], "accepted", "{record}");
    assert_eq!(outcome["measured"]["replay_samples"], 6, "{record}");
    let warning = outcome["warning"].as_str().unwrap_or_default();
    assert!(!warning.contains("replay set"), "{record}");
    let after = door.probability();
    assert_ne!(before, after);

    assert_eq!(
        door.stdout(&["rollback"]),
        "the built-in model is in use now\n"
    );
    assert_eq!(door.probability(), before);
    assert_eq!(
        door.stdout(&["heads", "use", "1"]),
        "model 1 is in use now\n"
    );
    assert_eq!(door.probability(), after);

    // A head that was trained for the built-in backbone has other features, even if its
    // file claims something else.
    let name = door.device.at("other.onnx");
    let foreign = head(&name, |head| head.labels = model.labels.clone());
    let refused = door.maskd(&["heads", "import", &foreign]);
    assert_refused(&refused, 65, "was made for the backbone");
    let forged = head(&name, |head| {
        head.labels = model.labels.clone();
        head.backbone_sha256 = model.backbone_sha256;
    });
    let refused = door.maskd(&["heads", "import", &forged]);
    assert_refused(&refused, 65, "was made for the backbone");
}

#[test]
fn the_daemon_runs_enrolls_and_trains_with_another_backbone() {
    let door = Door::new();
    door.stdout(&["samples", "import", door.set.to_str().unwrap()]);
    let mut command = maskd();
    let state = door.device.at("state");
    command.args(door.with_config(&["run", "--state", state.to_str().unwrap()]));
    let running = Running::start(command, door.device.folder.path());
    wait_for("the daemon to see a face", || {
        let status = door.maskd(&["status"]);
        status.status.success().then_some(())
    });
    let enrolled = door.stdout(&["enroll", "mask_on", "--count", "1", "--seconds", "30"]);
    assert!(enrolled.contains("mask_on"), "{enrolled}");
    let record = door.json(&["refit", "--labels-checked"]);
    assert_eq!(record["outcome"]["ruling"], "accepted", "{record}");
    assert_eq!(record["outcome"]["measured"]["replay_samples"], 6);
    assert_eq!(
        door.stdout(&["rollback"]),
        "the built-in model is in use now\n"
    );
    running.stop();
}

#[test]
fn a_replay_set_for_another_classifier_is_refused() {
    let door = Door::new();
    let shipped = root().join("models/replay.bin");
    door.configure(&shipped);
    let words = "it was made with another backbone than the classifier's";
    for command in [&["samples", "list"][..], &["run"], &["check"]] {
        let output = door.maskd(command);
        assert_eq!(output.status.code(), Some(65), "{command:?}");
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(all.contains(words), "{command:?}: {all}");
    }
    let damaged = door.device.at("damaged.bin");
    fs::write(&damaged, b"maskd-replay-2").unwrap();
    for path in [damaged, door.device.at("nowhere.bin")] {
        door.configure(&path);
        let output = door.maskd(&["samples", "list"]);
        assert_refused(&output, 65, "cannot use the replay set");
    }
}
