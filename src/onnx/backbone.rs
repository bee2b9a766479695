//! Reads the file of a backbone, and turns it into a classifier file without a head.
//!
//! A backbone file comes from outside of maskd, so its tensors may have any names. This
//! module renames them, checks that the graph has the shape of a backbone, and runs it once
//! on test pictures.

use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto};

use super::check::{Checker, family, metadata};
use super::error::ModelError;
use super::plan::{Graph, Plan};
use super::pool::ThreadPool;
use super::write::{float_info, head_nodes, integer};
use super::{CLASSIFIER_FORMAT, Classifier, LARGEST_FEATURE, MAX_FEATURES, MIN_FEATURES};

/// Side of the pictures that are a backbone's input, in pixels.
const SIDE: usize = 224;

/// Names that have a meaning in a classifier file. Other tensors must not have these names,
/// or names that begin with one of them and a period.
const RESERVED: [&str; 7] = [
    "image",
    "features",
    "head",
    "logits",
    "probabilities",
    "face",
    "backbone",
];

/// A backbone that passed every check and can get a head.
#[derive(Debug)]
pub struct BackboneFile {
    /// The bytes of a classifier file, to which [`write_classifier`](super::write_classifier)
    /// adds a head.
    pub base: Vec<u8>,
    /// The graph that computes the features of a crop.
    pub backbone: Graph,
    /// SHA-256 of the backbone; see [`Graph::sha256`].
    pub backbone_sha256: [u8; 32],
    /// Length of the feature vectors.
    pub features: usize,
}

impl BackboneFile {
    /// Parses the file of a backbone, or of a classifier, of which only the backbone and the
    /// face check are used.
    ///
    /// A backbone has one input of 32-bit floats \[N, 3, 224, 224\] and one output \[N, F\] or
    /// \[N, F, 1, 1\]. N is variable or 1, and F is from [`MIN_FEATURES`] to [`MAX_FEATURES`].
    /// The input contains planes of red, green, and blue from -1 to 1, so a backbone that
    /// expects other values must convert them itself.
    ///
    /// `name` is the name of the file in error messages.
    ///
    /// # Errors
    /// A [`ModelError`] that says what is wrong with the file.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<BackboneFile, ModelError> {
        let checker = Checker {
            name,
            kind: "backbone",
        };
        let (mut proto, mut graph) = checker.decode(bytes)?;
        let format = metadata(&proto, "format").map(family);
        if format == Some(family(CLASSIFIER_FORMAT)) {
            let classifier = Classifier::parse(name, bytes)?;
            return Ok(BackboneFile {
                base: bytes.to_vec(),
                backbone: classifier.backbone,
                backbone_sha256: classifier.backbone_sha256,
                features: classifier.head.features(),
            });
        }
        checker.check_tensors(&graph)?;
        checker.finite(&graph)?;
        let input = checker.only_input(&graph)?.clone();
        let batch = checker.picture_input(&input, SIDE as i64)?;
        let [output] = &graph.output[..] else {
            let outputs = graph.output.len();
            return checker.fail(format!(
                "it has {outputs} outputs instead of one, the features"
            ));
        };
        let output = output.name.clone();
        if has_subgraphs(&graph) {
            return checker.fail("it contains control flow, such as If or Loop");
        }
        rename(&mut graph, &input.name, &output);
        graph.input = vec![float_info(
            "image",
            &[batch, Some(3), Some(SIDE as i64), Some(SIDE as i64)],
        )];
        "features".clone_into(&mut graph.output[0].name);

        let cut = checker.cut(proto.clone(), graph.clone(), "features")?;
        let (plan, shapes) = checker.graph(cut).compile([1, 3, SIDE, SIDE])?;
        let features = checker.feature_count(&shapes)?;
        checker.check_features(&plan, features)?;
        if shapes[0].as_ref().is_some_and(|shape| shape.len() > 2) {
            flatten(&mut graph);
        }

        let cut = checker.cut(proto.clone(), graph, "features")?;
        let backbone = checker.graph(cut);
        let backbone_sha256 = backbone.sha256();
        let mut graph = backbone.proto.graph.clone().unwrap_or_default();
        graph.node.extend(head_nodes());
        graph.output = vec![float_info("probabilities", &[batch, None])];
        graph.value_info = vec![float_info("features", &[batch, Some(features as i64)])];
        proto.graph = Some(graph);
        proto
            .metadata_props
            .retain(|entry| ["licence", "source"].contains(&entry.key.as_str()));
        proto.metadata_props.push(StringStringEntryProto {
            key: "format".to_owned(),
            value: CLASSIFIER_FORMAT.to_owned(),
        });
        Ok(BackboneFile {
            base: proto.encode_to_vec(),
            backbone,
            backbone_sha256,
            features,
        })
    }
}

impl Checker<'_> {
    fn graph(&self, proto: ModelProto) -> Graph {
        Graph {
            name: self.name.to_owned(),
            kind: self.kind,
            proto,
        }
    }

    /// Checks that the input has the shape [N, 3, side, side], and returns N, which is `None` if
    /// it is variable.
    fn picture_input(&self, input: &ValueInfoProto, side: i64) -> Result<Option<i64>, ModelError> {
        self.shape(input, &[None, Some(3), Some(side), Some(side)])?;
        let batch = super::check::dimensions(input).and_then(|sizes| sizes[0]);
        match batch {
            None | Some(1) => Ok(batch),
            Some(batch) => self.fail(format!(
                "its input has room for exactly {batch} pictures: export it with a variable batch \
                 size, or for 1 picture"
            )),
        }
    }

    /// Returns the length of the feature vector.
    fn feature_count(&self, shapes: &[Option<Vec<usize>>]) -> Result<usize, ModelError> {
        let [Some(shape)] = shapes else {
            return self.fail("its output does not consist of 32-bit floats in a fixed shape");
        };
        let features = match shape[..] {
            [1, features] | [1, features, 1, 1] => features,
            [1, _, _, _] => {
                return self.fail(format!(
                    "its output has the shape {shape:?} instead of [1, features]: end it with a \
                     global average pooling"
                ));
            }
            _ => {
                return self.fail(format!(
                    "its output has the shape {shape:?} instead of [1, features]"
                ));
            }
        };
        if !(MIN_FEATURES..=MAX_FEATURES).contains(&features) {
            return self.fail(format!(
                "it computes {features} features instead of {MIN_FEATURES} to {MAX_FEATURES}"
            ));
        }
        Ok(features)
    }

    /// Runs the backbone on three test pictures, and checks its features.
    fn check_features(&self, plan: &Plan, features: usize) -> Result<(), ModelError> {
        let mut runner = plan.runner()?;
        let pool = ThreadPool::alone();
        let mut all = Vec::new();
        for picture in [black, white, noise] {
            let outputs = runner.run(&pool, |input| {
                for (index, value) in input.iter_mut().enumerate() {
                    *value = picture(index);
                }
            })?;
            all.extend_from_slice(&outputs.get(0)?);
        }
        if !all.iter().all(|value| value.is_finite()) {
            return self.fail("its features are not all finite numbers");
        }
        let largest = all.iter().map(|value| value.abs()).fold(0.0, f32::max);
        if f64::from(largest) > LARGEST_FEATURE {
            return self.fail(format!(
                "its features are as large as {largest:.0}, and the limit is {LARGEST_FEATURE:.0}"
            ));
        }
        let first = &all[..features];
        if all.chunks_exact(features).all(|other| other == first) {
            return self.fail("its features do not depend on the picture");
        }
        Ok(())
    }
}

fn black(_: usize) -> f32 {
    -1.0
}

fn white(_: usize) -> f32 {
    1.0
}

/// Returns a pseudorandom value from -1 to 1, by Knuth's multiplicative hashing.
fn noise(index: usize) -> f32 {
    let hash = (index as u32).wrapping_mul(2_654_435_761);
    (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn has_subgraphs(graph: &GraphProto) -> bool {
    let mut attributes = graph.node.iter().flat_map(|node| &node.attribute);
    attributes.any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
}

/// Renames the input to `image`, the output to `features`, and other tensors whose names have
/// a meaning in a classifier file.
fn rename(graph: &mut GraphProto, input: &str, output: &str) {
    let new_name = |name: &str| {
        let first = name.split('.').next().unwrap_or_default();
        if name == input {
            "image".to_owned()
        } else if name == output {
            "features".to_owned()
        } else if RESERVED.contains(&first) {
            // No other tensor can have this name, because all names that begin in this way
            // are changed.
            format!("backbone.{name}")
        } else {
            name.to_owned()
        }
    };
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            *name = new_name(name);
        }
    }
    for weights in &mut graph.initializer {
        weights.name = new_name(&weights.name);
    }
}

/// Turns `features`, which has the shape [N, F, 1, 1], into [N, F].
fn flatten(graph: &mut GraphProto) {
    // No other tensor can have this name, because `rename` changes it.
    const MAP: &str = "backbone";
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if name == "features" {
                MAP.clone_into(name);
            }
        }
    }
    graph.node.push(NodeProto {
        op_type: "Flatten".to_owned(),
        name: "features".to_owned(),
        input: vec![MAP.to_owned()],
        output: vec!["features".to_owned()],
        attribute: vec![integer("axis", 1)],
        ..NodeProto::default()
    });
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn reserved_names_are_changed_and_others_kept() {
        let node = |input: &str, output: &str| NodeProto {
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let mut graph = GraphProto {
            node: vec![
                node("x", "image"),
                node("image", "head.0.weight"),
                node("head.0.weight", "header"),
                node("header", "y"),
            ],
            ..GraphProto::default()
        };
        rename(&mut graph, "x", "y");
        let names: HashSet<&str> = graph
            .node
            .iter()
            .flat_map(|node| node.input.iter().chain(&node.output))
            .map(String::as_str)
            .collect();
        let expected = [
            "image",
            "backbone.image",
            "backbone.head.0.weight",
            "header",
            "features",
        ];
        assert_eq!(names, HashSet::from(expected));
    }

    #[test]
    fn noise_is_between_minus_one_and_one_and_varies() {
        let values: Vec<f32> = (0..1000).map(noise).collect();
        assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
        assert!(values.iter().any(|value| *value < -0.9));
        assert!(values.iter().any(|value| *value > 0.9));
    }
}
