//! The two layers of a head as arrays, and the Adam steps that update them.

use ndarray::{Array, Array1, Array2, Dimension, Zip};

use super::{Part, TrainError};
use crate::onnx::HeadTensors;

/// Adam's decay rate for the running mean of the gradient.
pub(super) const BETA_1: f64 = 0.9;
/// Adam's decay rate for the running mean of the squared gradient.
pub(super) const BETA_2: f64 = 0.999;
/// The term in Adam that avoids a division by zero.
const ADAM_EPSILON: f32 = 1e-7;

/// Weights, gradients, or moments of the two layers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layers {
    /// Weights of the hidden layer, `[hidden, features]`.
    pub(super) w1: Array2<f32>,
    /// Biases of the hidden layer, `[hidden]`.
    pub(super) b1: Array1<f32>,
    /// Weights of the output layer, `[classes, hidden]`.
    pub(super) w2: Array2<f32>,
    /// Biases of the output layer, `[classes]`.
    pub(super) b2: Array1<f32>,
}

impl Layers {
    pub(super) fn zeros(features: usize, hidden: usize, classes: usize) -> Layers {
        Layers {
            w1: Array2::zeros((hidden, features)),
            b1: Array1::zeros(hidden),
            w2: Array2::zeros((classes, hidden)),
            b2: Array1::zeros(classes),
        }
    }

    pub(super) fn from_tensors(tensors: HeadTensors) -> Result<Layers, TrainError> {
        let (hidden, classes) = (tensors.b1.len(), tensors.b2.len());
        let features = tensors.features();
        let shape = |error: ndarray::ShapeError| TrainError::Tensors(error.to_string());
        let layers = Layers {
            w1: Array2::from_shape_vec((hidden, features), tensors.w1).map_err(shape)?,
            b1: tensors.b1.into(),
            w2: Array2::from_shape_vec((classes, hidden), tensors.w2).map_err(shape)?,
            b2: tensors.b2.into(),
        };
        if !layers.squares_are_finite() {
            let problem = "some of them are not finite numbers";
            return Err(TrainError::Tensors(problem.to_owned()));
        }
        Ok(layers)
    }

    pub(super) fn to_tensors(&self) -> HeadTensors {
        // `iter` returns the values row by row, regardless of their order in memory.
        HeadTensors {
            w1: self.w1.iter().copied().collect(),
            b1: self.b1.to_vec(),
            w2: self.w2.iter().copied().collect(),
            b2: self.b2.to_vec(),
        }
    }

    /// Whether the squares of all values are finite. If a square in Adam's v were
    /// infinite, the corresponding weight would never change again.
    pub(super) fn squares_are_finite(&self) -> bool {
        self.iter().all(|value| (value * value).is_finite())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &f32> {
        let weights = [&self.w1, &self.w2].into_iter().flatten();
        weights.chain(&self.b1).chain(&self.b2)
    }

    /// Sets these gradients to zero, except those of `part`.
    pub(super) fn keep_only(&mut self, part: &Part) {
        for (unit, _) in part.units.iter().enumerate().filter(|(_, is_in)| !**is_in) {
            self.w1.row_mut(unit).fill(0.0);
            self.b1[unit] = 0.0;
        }
        for (class, _) in part
            .classes
            .iter()
            .enumerate()
            .filter(|(_, is_in)| !**is_in)
        {
            self.w2.row_mut(class).fill(0.0);
            self.b2[class] = 0.0;
        }
    }

    /// Takes one step of Adam against `gradients`. `rate` is the learning rate with
    /// bias correction, and `mean` and `square` are the moments m and v.
    pub(super) fn adam(
        &mut self,
        rate: f32,
        mean: &mut Layers,
        square: &mut Layers,
        gradients: &Layers,
    ) {
        let (w, m, v, g) = (self, mean, square, gradients);
        adam(rate, &mut w.w1, &mut m.w1, &mut v.w1, &g.w1);
        adam(rate, &mut w.b1, &mut m.b1, &mut v.b1, &g.b1);
        adam(rate, &mut w.w2, &mut m.w2, &mut v.w2, &g.w2);
        adam(rate, &mut w.b2, &mut m.b2, &mut v.b2, &g.b2);
    }
}

fn adam<D: Dimension>(
    rate: f32,
    weights: &mut Array<f32, D>,
    mean: &mut Array<f32, D>,
    square: &mut Array<f32, D>,
    gradients: &Array<f32, D>,
) {
    let (new_1, new_2) = ((1.0 - BETA_1) as f32, (1.0 - BETA_2) as f32);
    let zip = Zip::from(weights).and(mean).and(square).and(gradients);
    zip.for_each(|w, m, v, g| {
        *m += (g - *m) * new_1;
        *v += (g * g - *v) * new_2;
        *w -= rate * *m / (v.sqrt() + ADAM_EPSILON);
    });
}

/// Serializes tensors as the bits of their numbers, so that every format restores
/// them exactly.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::HeadTensors;

    pub(in crate::training::train) fn serialize<S: Serializer>(
        tensors: &HeadTensors,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let HeadTensors { w1, b1, w2, b2 } = tensors;
        [w1, b1, w2, b2]
            .map(|values| values.iter().map(|value| value.to_bits()).collect())
            .map(|bits: Vec<u32>| bits)
            .serialize(serializer)
    }

    pub(in crate::training::train) fn deserialize<'a, D: Deserializer<'a>>(
        deserializer: D,
    ) -> Result<HeadTensors, D::Error> {
        let bits = <[Vec<u32>; 4]>::deserialize(deserializer)?;
        let [w1, b1, w2, b2] =
            bits.map(|bits| bits.into_iter().map(f32::from_bits).collect::<Vec<f32>>());
        Ok(HeadTensors { w1, b1, w2, b2 })
    }
}
