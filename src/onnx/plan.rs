//! Prepares models and runs them.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(target_arch = "x86_64")]
use fearless_simd::Level;
use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb::{ModelProto, NodeProto};
use tract_onnx::prelude::*;

use super::check::floats;
use super::error::{ModelError, guarded, one_line};
#[cfg(target_arch = "aarch64")]
use super::ops::blocked::Half;
use super::pool::ThreadPool;
use super::rewrite;
#[cfg(any(test, target_arch = "aarch64"))]
use crate::platform::hex;
use crate::platform::system;

/// SHA-256 of the models that may be computed with 16-bit floats, which are the built-in face
/// detector and the built-in backbone, and the number of their first convolutions that need 32-bit
/// floats. In another model, the values between the layers may be too large.
///
/// The second layer of the backbone multiplies differences of adjacent pixels by up to 56, and
/// rounding errors with them.
#[cfg(any(test, target_arch = "aarch64"))]
const HALF_PRECISION: [(&str, usize); 2] = [
    (
        "29d585c78254c19832c5df4183db4aed87c85d27a61841e99e571666e9829a43",
        0,
    ),
    (
        "4feeba44c77f4c3874ff976f0df06d95f0944481ad4370f7637ad67ed80ea316",
        3,
    ),
];

/// The shapes of a model's outputs.
pub(super) type Shapes = Vec<Option<Vec<usize>>>;

/// A model that has passed the checks but is not yet ready to run.
#[derive(Clone)]
pub struct Graph {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) proto: ModelProto,
}

impl std::fmt::Debug for Graph {
    // A derived `Debug` would print all weights.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Computes the SHA-256 of the graph's nodes and weights. The hash covers each node
    /// in its protobuf form without its name and description, followed by the name,
    /// shape, and bytes of each initializer. Two files whose graphs perform the same
    /// computation with the same names have the same hash, even if their metadata and
    /// heads differ.
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

    /// If 16-bit floats are accurate enough for this model, and large enough, returns the number
    /// of its first convolutions that need 32-bit floats. This is known only of the built-in
    /// models.
    #[cfg(any(test, target_arch = "aarch64"))]
    fn half_precision(&self) -> Option<usize> {
        let sha256 = hex::encode(&self.sha256());
        let mut known = HALF_PRECISION.iter();
        known
            .find(|(model, _)| *model == sha256)
            .map(|(_, first)| *first)
    }

    /// Makes the model ready to run on inputs of the shape `input`, and checks that the
    /// outputs then have the shapes `outputs`.
    ///
    /// This function consumes the graph so that it can free the weights in the protobuf
    /// as soon as tract has copied them. If both copies were kept, the peak memory
    /// would be higher, which matters on a small board.
    ///
    /// # Errors
    /// [`ModelError::Unexpected`] if tract cannot run the model, or if its outputs
    /// have other shapes.
    pub fn into_plan<const N: usize>(
        self,
        input: [usize; 4],
        outputs: [&[usize]; N],
    ) -> Result<Plan, ModelError> {
        let kind = self.kind;
        let (plan, shapes) = self.compile(input)?;
        if !shapes
            .iter()
            .map(Option::as_deref)
            .eq(outputs.iter().copied().map(Some))
        {
            return Err(ModelError::Unexpected {
                model: plan.name,
                kind,
                problem: format!("its outputs have the shapes {shapes:?} instead of {outputs:?}"),
            });
        }
        Ok(plan)
    }

    /// Makes the model ready to run like [`into_plan`](Graph::into_plan), and returns the shapes
    /// of its outputs. `None` stands for an output that does not consist of 32-bit floats in a
    /// fixed shape.
    pub(super) fn compile(self, input: [usize; 4]) -> Result<(Plan, Shapes), ModelError> {
        // Processors without 16-bit floats are slow and do not need the hash of the model.
        #[cfg(target_arch = "aarch64")]
        let half = Half::detect().and_then(|half| Some((half, self.half_precision()?)));
        let Graph { name, kind, proto } = self;
        let build = || -> TractResult<(Arc<TypedSimplePlan>, Shapes)> {
            let model = onnx().model_for_proto_model(&proto)?;
            drop(proto);
            let model = model
                .with_input_fact(0, f32::fact(input).into())?
                .into_typed()?;
            #[cfg(target_arch = "aarch64")]
            let model = rewrite::use_blocked_layout(model, half)?;
            #[cfg(target_arch = "x86_64")]
            let model = rewrite::use_blocked_layout(model, Level::new())?;
            let mut model = model.into_decluttered()?;
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
        // Optimization needs several times as much memory as the optimized model.
        system::return_unused_memory();
        let plan = Plan {
            name,
            input,
            compiled: plan,
        };
        Ok((plan, shapes))
    }
}

/// A model that is ready to run. The [`Runner`]s of several threads share the plan.
#[derive(Debug, Clone)]
pub struct Plan {
    name: String,
    input: [usize; 4],
    compiled: Arc<TypedSimplePlan>,
}

impl Plan {
    /// Creates a runner for one thread, with its own buffers.
    ///
    /// # Errors
    /// [`ModelError::Run`] if tract cannot set up the runner.
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

/// Runs one model. Each thread needs its own runner.
#[derive(Debug)]
pub struct Runner {
    plan: Plan,
    state: TypedSimpleState,
}

impl Runner {
    /// Runs the model once, on the threads of `pool`. `fill` writes the input, which has
    /// the planar layout `[1, channels, height, width]` and is initially all zeros.
    ///
    /// # Errors
    /// [`ModelError::Run`] if tract fails.
    pub fn run(
        &mut self,
        pool: &ThreadPool,
        fill: impl FnOnce(&mut [f32]) + Send,
    ) -> Result<Outputs, ModelError> {
        let Runner { plan, state } = self;
        let values = pool.run_model(|| {
            guarded(|| {
                let mut input = Tensor::zero::<f32>(&plan.input)?;
                fill(input.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
                state.run(tvec!(input.into_tvalue()))
            })
        });
        let values = values.map_err(|problem| plan.failed(problem))?;
        Ok(Outputs {
            name: plan.name.clone(),
            values,
        })
    }
}

/// The outputs of one run.
#[derive(Debug)]
pub struct Outputs {
    name: String,
    values: TVec<TValue>,
}

impl Outputs {
    /// Returns the values of output number `index`, row by row. The shapes were checked
    /// when the plan was made.
    ///
    /// # Errors
    /// [`ModelError::Run`] if there is no such output.
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

#[cfg(test)]
mod tests {
    use crate::onnx::{Classifier, parse_detector};
    use crate::vision::pipeline::{SHIPPED_CLASSIFIER, SHIPPED_DETECTOR};

    /// If a built-in model changes, measure its features and verdicts with 16-bit floats (see
    /// docs/decisions/why-does-maskd-have-its-own-operators.md), and then change the hash.
    #[test]
    fn only_the_built_in_models_allow_half_precision() {
        let detector = parse_detector("detector", SHIPPED_DETECTOR).unwrap();
        assert_eq!(detector.half_precision(), Some(0));
        let mut backbone = Classifier::parse("classifier", SHIPPED_CLASSIFIER)
            .unwrap()
            .backbone;
        assert_eq!(backbone.half_precision(), Some(3));
        let graph = backbone.proto.graph.as_mut().unwrap();
        graph.initializer[0].name.push('x');
        assert_eq!(backbone.half_precision(), None);
    }
}
