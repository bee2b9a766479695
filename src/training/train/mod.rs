//! Trains a head: computes the weights of the head from features and their labels.
//!
//! This module owns the loss, the backward pass, Adam, and the training history. It knows
//! nothing about pictures, folders, or how batches are chosen. It is pure, because
//! batches and the seed are arguments, and it uses no threads.
//!
//! # Forward
//! For a batch of n samples, with the shapes of [`HeadTensors`]:
//!
//! ```text
//! a = x w1' + b1                 [n, hidden] = [n, features] [features, hidden]
//! h = max(0, a) * keep           [n, hidden]   keep = 0 or 1 / (1 - dropout)
//! z = h w2' + b2                 [n, classes] = [n, hidden] [hidden, classes]
//! p = softmax(z)                 [n, classes]
//! ```
//!
//! # Loss
//! The tutorial trains its two softmax outputs p0 and p1 with Keras's
//! `binary_crossentropy`, which is the *mean* of the binary cross-entropies of the
//! columns. For the one-hot target t with the label y and the other class o, and
//! because p0 + p1 = 1:
//!
//! ```text
//! -1/2 sum_k [t_k ln p_k + (1 - t_k) ln(1 - p_k)]
//!   = -1/2 [ln p_y + ln(1 - p_o)] = -1/2 [ln p_y + ln p_y] = -ln p_y
//! ```
//!
//! That is exactly the categorical cross-entropy of the two softmax outputs.
//! Therefore, the gradient is dL/dz = p - t for two or more classes.
//!
//! The reported loss is clipped in the same way as in Keras. For two classes, p is
//! clamped to 1e-7 .. 1 - 1e-7, and 1e-7 is added inside the logarithm. For more
//! classes, Keras computes the loss from the logits without clipping (tf-keras 2.21,
//! `binary_crossentropy` and `categorical_crossentropy` in `backend.py`). With two
//! classes, the loss is therefore at most 15.42. In Keras, the maximum is 15.38,
//! because Keras rounds 1 - p to f32, or 15.34 when TensorFlow has optimized the graph.
//!
//! The gradient is the derivative of the loss without clipping. In contrast, Keras
//! multiplies p - t by p_y / (p_y + 1e-7), and sets the gradient to zero where p is
//! clamped. In Keras, a sample that is entirely wrong therefore has no effect.
//!
//! There is one pitfall. For `Dense(2, "softmax")` with `binary_crossentropy`, tf-keras
//! computes a different loss, because the activations of the layer carry
//! `_keras_logits` (see `_get_logits` in version 2.21). tf-keras treats the *logits* of
//! the softmax as the logits of two sigmoids, and trains with (sigmoid(z) - t) / 2.
//! This module computes the loss as documented above, which is also what Keras computes
//! from probabilities.
//!
//! For the loss of a batch, the loss of each sample is multiplied by the sample's class
//! weight, and the sum of the products is divided by n (Keras's `sum_over_batch_size`).
//!
//! # Backward
//! Here c is the class weight of each sample divided by n:
//!
//! ```text
//! dz  = (p - t) c                [n, classes]
//! dw2 = dz' h,   db2 = sum dz    [classes, hidden], [classes]
//! da  = (dz w2) keep, if h > 0   [n, hidden]
//! dw1 = da' x,   db1 = sum da    [hidden, features], [hidden]
//! ```
//!
//! # Adam
//! The tutorial's `Adam(lr=INIT_LR, decay=INIT_LR / EPOCHS)` is called
//! `tf_keras.optimizers.legacy.Adam` today. It uses the form that Kingma and Ba
//! (arXiv:1412.6980) give just before section 2.1, in which epsilon is added outside the
//! root and is not bias-corrected (`optimizers/legacy/adam.py` and TensorFlow's
//! `ResourceApplyAdam`). `decay` is per step, not per epoch (`_decayed_lr` in
//! `optimizers/legacy/optimizer_v2.py`). With s finished steps and t = s + 1:
//!
//! ```text
//! lr = init_lr / (1 + decay s)
//! m += (g - m) (1 - 0.9)
//! v += (g g - v) (1 - 0.999)
//! w -= lr sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + 1e-7)
//! ```
//!
//! # The same seed gives the same bits
//! Random numbers depend only on the seed and the step number. Sums are computed in a
//! fixed order on CPUs of the same kind. A CPU with different vector instructions may
//! round the last digit differently.

mod average;
mod layers;

use ndarray::{Array2, ArrayView2, Axis, Zip};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::onnx::{FEATURES, HeadTensors, MAX_FEATURES};
use crate::vision::head::argmax;

pub use average::average_logits;
use layers::{BETA_1, BETA_2, Layers, bits};

/// Minimum distance of probabilities from 0 and 1. Keras calls it `epsilon()`.
const CLIP: f64 = 1e-7;
/// The random number stream for the initial weights. Step t, counted from 1, draws
/// its dropout from stream t.
const INITIAL_STREAM: u64 = 0;

/// The reason why a head cannot be trained.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum TrainError {
    /// An option is out of range.
    #[error("a head cannot be trained with {0}")]
    Options(String),
    /// The weights or the saved state do not have the shapes of a head.
    #[error("the weights to start from are not those of a head: {0}")]
    Tensors(String),
    /// The features, labels, or mask do not match each other or the head.
    #[error("the batch does not match the head: {0}")]
    Batch(String),
    /// A result is NaN or infinite. The weights are left unchanged.
    #[error(
        "the {what} after {steps} steps of training is not a finite number: use a lower learning rate"
    )]
    NotFinite {
        /// "loss" or "gradient".
        what: &'static str,
        /// Number of steps that were finished before the failure.
        steps: u64,
    },
}

/// Options for training a head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Length of the feature vectors, which depends on the backbone. At least 1, and at most
    /// [`MAX_FEATURES`].
    pub features: usize,
    /// Number of units in the hidden layer, at least 1.
    pub hidden: usize,
    /// Fraction of the hidden units that each step drops. It is at least 0 and less
    /// than 1.
    pub dropout: f32,
    /// Learning rate of the first step, greater than 0.
    pub init_lr: f32,
    /// Keras's time-based decay per step, at least 0. After s steps, the learning
    /// rate is `init_lr / (1 + decay * s)`.
    pub decay: f32,
    /// Seed for the initial weights and for dropout.
    pub seed: u64,
    /// Weight of each class in the loss, greater than 0 and usually 1 on average. If
    /// the list is empty, all weights are 1.
    pub class_weights: Vec<f32>,
}

impl Default for TrainOptions {
    /// Returns the tutorial's options, which are 128 units, a dropout of 0.5, a
    /// learning rate of 1e-4 with a decay for 20 epochs, and the seed of the
    /// tutorial's split. The length of the feature vectors is that of the built-in backbone.
    fn default() -> TrainOptions {
        TrainOptions {
            features: FEATURES,
            hidden: 128,
            dropout: 0.5,
            init_lr: 1e-4,
            decay: 1e-4 / 20.0,
            seed: 42,
            class_weights: Vec::new(),
        }
    }
}

/// The result for a batch, computed before the step changes the weights. Dropout is
/// active, and the loss includes the class weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLoss {
    /// Mean loss over the batch.
    pub loss: f32,
    /// Number of samples whose label had the highest probability.
    pub correct: usize,
    /// Number of samples in the batch.
    pub samples: usize,
}

/// How well a head performs on a set of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean cross-entropy in nats.
    pub loss: f32,
    /// Fraction of the samples that are classified correctly, between 0 and 1.
    pub accuracy: f32,
}

impl Metrics {
    /// Averages the steps of an epoch. Returns `None` if there are no samples.
    #[must_use]
    pub fn of_epoch(steps: &[StepLoss]) -> Option<Metrics> {
        let samples: usize = steps.iter().map(|step| step.samples).sum();
        let correct: usize = steps.iter().map(|step| step.correct).sum();
        let loss: f64 = steps
            .iter()
            .map(|step| f64::from(step.loss) * step.samples as f64)
            .sum();
        (samples > 0).then(|| Metrics {
            loss: (loss / samples as f64) as f32,
            accuracy: correct as f32 / samples as f32,
        })
    }
}

/// One epoch of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, counted from 1.
    pub epoch: usize,
    /// Learning rate at the end of the epoch.
    pub learning_rate: f32,
    /// Mean loss over the steps; see [`StepLoss`].
    pub loss: f32,
    /// Mean accuracy over the steps, between 0 and 1.
    pub accuracy: f32,
    /// [`Metrics::loss`] on the validation samples after the epoch.
    pub val_loss: f32,
    /// [`Metrics::accuracy`] on the validation samples after the epoch.
    pub val_accuracy: f32,
}

/// The epochs of a training run, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History(pub Vec<EpochRecord>);

impl History {
    /// Returns the epoch with the lowest validation loss. In a tie, the first epoch
    /// is returned.
    #[must_use]
    pub fn best(&self) -> Option<&EpochRecord> {
        let losses = self.0.iter().filter(|epoch| !epoch.val_loss.is_nan());
        losses.min_by(|a, b| a.val_loss.total_cmp(&b.val_loss))
    }
}

/// The complete state of a [`Trainer`], from which training can resume later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    options: TrainOptions,
    steps: u64,
    #[serde(with = "bits")]
    weights: HeadTensors,
    #[serde(with = "bits")]
    mean: HeadTensors,
    #[serde(with = "bits")]
    square: HeadTensors,
}

/// Trains a head.
///
/// ```
/// use maskd::training::train::{TrainOptions, Trainer};
///
/// let mut trainer = Trainer::new(2, TrainOptions::default())?;
/// let features = vec![0.5; 2 * 1280]; // two samples
/// let step = trainer.step(&features, &[0, 1])?;
/// assert_eq!(step.samples, 2);
/// assert_eq!(trainer.tensors().b2.len(), 2);
/// # Ok::<(), maskd::training::train::TrainError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Trainer {
    options: TrainOptions,
    /// Number of finished steps.
    steps: u64,
    weights: Layers,
    /// Adam's m, the running mean of the gradient.
    mean: Layers,
    /// Adam's v, the running mean of the squared gradient.
    square: Layers,
}

/// A part of the weights of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// For each hidden unit, whether its weights and its bias belong to the part.
    pub(crate) units: Vec<bool>,
    /// For each class, whether its row of the output layer and its bias belong to the part.
    pub(crate) classes: Vec<bool>,
}

impl Trainer {
    /// Starts with random weights from Glorot's uniform distribution between -limit
    /// and limit, where limit = sqrt(6 / (inputs + outputs)). This is Keras's
    /// default for dense layers (Glorot and Bengio 2010, equation 16). The biases
    /// are zero.
    ///
    /// # Errors
    /// [`TrainError::Options`] if an option is out of range.
    pub fn new(classes: usize, options: TrainOptions) -> Result<Trainer, TrainError> {
        check_options(classes, &options)?;
        let mut random = random(options.seed, INITIAL_STREAM);
        let mut weights = Layers::zeros(options.features, options.hidden, classes);
        glorot_uniform(&mut weights.w1, &mut random);
        glorot_uniform(&mut weights.w2, &mut random);
        Ok(Trainer {
            steps: 0,
            mean: Layers::zeros(options.features, options.hidden, classes),
            square: Layers::zeros(options.features, options.hidden, classes),
            weights,
            options,
        })
    }

    /// Starts with a trained head. The numbers of features and hidden units come from the
    /// head, not from the options.
    ///
    /// # Errors
    /// [`TrainError::Options`] if an option is out of range, and
    /// [`TrainError::Tensors`] if the weights are not finite or have the wrong
    /// lengths.
    pub fn from_head(tensors: HeadTensors, options: TrainOptions) -> Result<Trainer, TrainError> {
        let options = TrainOptions {
            features: tensors.features(),
            hidden: tensors.b1.len(),
            ..options
        };
        let classes = tensors.b2.len();
        check_options(classes, &options)?;
        Ok(Trainer {
            steps: 0,
            weights: Layers::from_tensors(tensors)?,
            mean: Layers::zeros(options.features, options.hidden, classes),
            square: Layers::zeros(options.features, options.hidden, classes),
            options,
        })
    }

    /// Resumes from a saved [`Trainer::state`]. The results are bit-identical to the
    /// results without an interruption.
    ///
    /// # Errors
    /// [`TrainError::Options`] or [`TrainError::Tensors`] if no trainer can have this
    /// state.
    pub fn from_state(state: TrainerState) -> Result<Trainer, TrainError> {
        let trainer = Trainer {
            steps: state.steps,
            weights: Layers::from_tensors(state.weights)?,
            mean: Layers::from_tensors(state.mean)?,
            square: Layers::from_tensors(state.square)?,
            options: state.options,
        };
        check_options(trainer.classes(), &trainer.options)?;
        let shape = |layers: &Layers| (layers.w1.dim(), layers.w2.dim());
        let TrainOptions {
            features, hidden, ..
        } = trainer.options;
        let expected = ((hidden, features), (trainer.classes(), hidden));
        let layers = [&trainer.weights, &trainer.mean, &trainer.square];
        if layers.into_iter().any(|layers| shape(layers) != expected) {
            let problem = "the parts of the saved state have different shapes";
            return Err(TrainError::Tensors(problem.to_owned()));
        }
        if trainer.square.iter().any(|value| *value < 0.0) {
            let problem = "the saved state has negative squares";
            return Err(TrainError::Tensors(problem.to_owned()));
        }
        Ok(trainer)
    }

    /// Returns the state from which training can resume later.
    #[must_use]
    pub fn state(&self) -> TrainerState {
        TrainerState {
            options: self.options.clone(),
            steps: self.steps,
            weights: self.weights.to_tensors(),
            mean: self.mean.to_tensors(),
            square: self.square.to_tensors(),
        }
    }

    /// Returns the current weights.
    #[must_use]
    pub fn tensors(&self) -> HeadTensors {
        self.weights.to_tensors()
    }

    /// Returns the number of finished steps.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the learning rate for the next step.
    #[must_use]
    pub fn learning_rate(&self) -> f32 {
        let slower = 1.0 + f64::from(self.options.decay) * self.steps as f64;
        (f64::from(self.options.init_lr) / slower) as f32
    }

    /// Takes a step on a batch. `features` are \[n, features\] in row-major order, and
    /// `labels` are the class indices of the n samples. Hidden units are dropped at
    /// random.
    ///
    /// # Errors
    /// [`TrainError::Batch`] or [`TrainError::NotFinite`]. After an error, nothing has
    /// changed.
    pub fn step(&mut self, features: &[f32], labels: &[usize]) -> Result<StepLoss, TrainError> {
        let dropout = self.options.dropout;
        let mask: Option<Vec<bool>> = (dropout > 0.0).then(|| {
            let mut random = random(self.options.seed, self.steps + 1);
            let units = labels.len() * self.options.hidden;
            (0..units)
                .map(|_| uniform(&mut random) >= dropout)
                .collect()
        });
        self.step_kept(features, labels, mask.as_deref())
    }

    /// Takes a step like [`Trainer::step`], but with a given dropout mask, \[n,
    /// hidden\] in row-major order. The mask is true for the units to keep. As with a
    /// random mask, the kept units are scaled by 1 / (1 - dropout).
    ///
    /// # Errors
    /// Returns the same errors as [`Trainer::step`].
    pub fn step_with_mask(
        &mut self,
        features: &[f32],
        labels: &[usize],
        mask: &[bool],
    ) -> Result<StepLoss, TrainError> {
        self.step_kept(features, labels, Some(mask))
    }

    fn step_kept(
        &mut self,
        features: &[f32],
        labels: &[usize],
        mask: Option<&[bool]>,
    ) -> Result<StepLoss, TrainError> {
        let (loss, gradients) = self.backward(features, labels, mask)?;
        self.descend(&gradients);
        Ok(loss)
    }

    /// Takes a step like [`Trainer::step`], but without dropout, and only on a part of the
    /// weights. All other weights stay exactly as they are.
    ///
    /// # Errors
    /// Returns the same errors as [`Trainer::step`], and [`TrainError::Tensors`] if the part
    /// does not have the shape of the head.
    pub(crate) fn step_part(
        &mut self,
        features: &[f32],
        labels: &[usize],
        part: &Part,
    ) -> Result<StepLoss, TrainError> {
        if (part.units.len(), part.classes.len()) != (self.options.hidden, self.classes()) {
            let problem = "the part to train does not have the shape of the head";
            return Err(TrainError::Tensors(problem.to_owned()));
        }
        let (loss, mut gradients) = self.backward(features, labels, None)?;
        gradients.keep_only(part);
        self.descend(&gradients);
        Ok(loss)
    }

    /// Takes a step of Adam against these gradients.
    fn descend(&mut self, gradients: &Layers) {
        let rate = f64::from(self.learning_rate());
        self.steps += 1;
        let t = self.steps as f64;
        let rate = rate * (1.0 - BETA_2.powf(t)).sqrt() / (1.0 - BETA_1.powf(t));
        let (mean, square) = (&mut self.mean, &mut self.square);
        self.weights.adam(rate as f32, mean, square, gradients);
    }

    /// Computes the loss and its derivative with respect to every weight. The
    /// arguments are the same as for [`Trainer::step_with_mask`]. Without a mask,
    /// all units are kept and not scaled.
    ///
    /// # Errors
    /// Returns the same errors as [`Trainer::step`].
    pub fn gradients(
        &self,
        features: &[f32],
        labels: &[usize],
        mask: Option<&[bool]>,
    ) -> Result<(StepLoss, HeadTensors), TrainError> {
        let (loss, gradients) = self.backward(features, labels, mask)?;
        Ok((loss, gradients.to_tensors()))
    }

    /// Implements the formulas in the module documentation, line by line.
    fn backward(
        &self,
        features: &[f32],
        labels: &[usize],
        mask: Option<&[bool]>,
    ) -> Result<(StepLoss, Layers), TrainError> {
        let x = self.batch(features)?;
        self.check_labels(&x, labels)?;
        let keep = 1.0 / (1.0 - self.options.dropout);
        let mut h = self.hidden(&x); // [n, hidden]
        if let Some(mask) = mask {
            if mask.len() != h.len() {
                let (n, hidden) = h.dim();
                let problem = format!("a mask of {} for {n} x {hidden} units", mask.len());
                return Err(TrainError::Batch(problem));
            }
            for (h, stays) in h.iter_mut().zip(mask) {
                *h = if *stays { *h * keep } else { 0.0 };
            }
        }
        let mut p = self.logits_of(&h); // [n, classes]
        let scores = score(&mut p, labels);

        let n = labels.len() as f32;
        let mut dz = p;
        let mut loss = 0.0;
        for ((mut dz, label), row_loss) in dz.rows_mut().into_iter().zip(labels).zip(&scores.losses)
        {
            let weight = self.class_weight(*label);
            loss += f64::from(weight) * row_loss;
            dz[*label] -= 1.0;
            dz *= weight / n;
        }
        let loss = StepLoss {
            loss: (loss / f64::from(n)) as f32,
            correct: scores.correct,
            samples: labels.len(),
        };
        if !loss.loss.is_finite() {
            return Err(self.not_finite("loss"));
        }

        let mut da = dz.dot(&self.weights.w2); // [n, hidden]
        let kept = if mask.is_some() { keep } else { 1.0 };
        Zip::from(&mut da).and(&h).for_each(|da, h| {
            // If a unit was dropped, `h` is also 0.
            *da = if *h > 0.0 { *da * kept } else { 0.0 };
        });
        let gradients = Layers {
            w1: da.t().dot(&x), // [hidden, features]
            b1: da.sum_axis(Axis(0)),
            w2: dz.t().dot(&h), // [classes, hidden]
            b2: dz.sum_axis(Axis(0)),
        };
        if !gradients.squares_are_finite() {
            return Err(self.not_finite("gradient"));
        }
        Ok((loss, gradients))
    }

    /// Computes loss and accuracy without dropout and class weights. The arguments
    /// are the same as for [`Trainer::step`].
    ///
    /// # Errors
    /// Returns the same errors as [`Trainer::step`].
    pub fn evaluate(&self, features: &[f32], labels: &[usize]) -> Result<Metrics, TrainError> {
        let x = self.batch(features)?;
        self.check_labels(&x, labels)?;
        let mut p = self.logits_of(&self.hidden(&x));
        let scores = score(&mut p, labels);
        let loss = scores.losses.iter().sum::<f64>() / labels.len() as f64;
        if !loss.is_finite() {
            return Err(self.not_finite("loss"));
        }
        Ok(Metrics {
            loss: loss as f32,
            accuracy: scores.correct as f32 / labels.len() as f32,
        })
    }

    /// Computes the logits, \[n, classes\] in row-major order, for `features` \[n,
    /// features\], without dropout.
    ///
    /// # Errors
    /// [`TrainError::Batch`] if the features do not match the head.
    pub fn logits(&self, features: &[f32]) -> Result<Vec<f32>, TrainError> {
        let x = self.batch(features)?;
        let z = self.logits_of(&self.hidden(&x));
        Ok(z.iter().copied().collect())
    }

    /// Computes the probabilities, \[n, classes\] in row-major order, for `features`
    /// \[n, features\], without dropout.
    ///
    /// # Errors
    /// [`TrainError::Batch`] if the features do not match the head.
    pub fn probabilities(&self, features: &[f32]) -> Result<Vec<f32>, TrainError> {
        let x = self.batch(features)?;
        let mut p = self.logits_of(&self.hidden(&x));
        for mut row in p.rows_mut() {
            softmax(row.iter_mut());
        }
        Ok(p.iter().copied().collect())
    }

    /// Views rows of features as a matrix \[n, features\].
    fn batch<'a>(&self, values: &'a [f32]) -> Result<ArrayView2<'a, f32>, TrainError> {
        let features = self.options.features;
        let not_rows = || {
            TrainError::Batch(format!(
                "{} features are not rows of {features}",
                values.len()
            ))
        };
        if !values.len().is_multiple_of(features) {
            return Err(not_rows());
        }
        let shape = (values.len() / features, features);
        let rows = ArrayView2::from_shape(shape, values).map_err(|_| not_rows())?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let (row, value) = (at / features, values[at]);
            let problem = format!("a feature of row {row}, counted from 0, is {value}");
            return Err(TrainError::Batch(problem));
        }
        Ok(rows)
    }

    /// Computes h without dropout, \[n, hidden\].
    fn hidden(&self, x: &ArrayView2<f32>) -> Array2<f32> {
        let mut h = x.dot(&self.weights.w1.t()) + &self.weights.b1;
        // Do not use `max` here, because `max` turns NaN into 0.
        h.mapv_inplace(|a| if a < 0.0 { 0.0 } else { a });
        h
    }

    /// Computes z, \[n, classes\].
    fn logits_of(&self, h: &Array2<f32>) -> Array2<f32> {
        h.dot(&self.weights.w2.t()) + &self.weights.b2
    }

    fn classes(&self) -> usize {
        self.weights.b2.len()
    }

    fn class_weight(&self, label: usize) -> f32 {
        let weight = self.options.class_weights.get(label);
        weight.copied().unwrap_or(1.0)
    }

    fn check_labels(&self, x: &ArrayView2<f32>, labels: &[usize]) -> Result<(), TrainError> {
        let (n, classes) = (x.nrows(), self.classes());
        if labels.len() != n || n == 0 {
            let problem = format!("{} labels for {n} rows of features", labels.len());
            return Err(TrainError::Batch(problem));
        }
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            let problem = format!("label {label} for {classes} classes, counted from 0");
            return Err(TrainError::Batch(problem));
        }
        Ok(())
    }

    fn not_finite(&self, what: &'static str) -> TrainError {
        let steps = self.steps;
        TrainError::NotFinite { what, steps }
    }
}

fn check_options(classes: usize, options: &TrainOptions) -> Result<(), TrainError> {
    let positive = |value: f32| value.is_finite() && value > 0.0;
    let problem = if classes < 2 {
        format!("fewer than two classes ({classes})")
    } else if !(1..=MAX_FEATURES).contains(&options.features) {
        format!("{} features", options.features)
    } else if options.hidden == 0 {
        "no hidden units".to_owned()
    } else if !(0.0..1.0).contains(&options.dropout) {
        format!(
            "a dropout of {}: it must be at least 0 and below 1",
            options.dropout
        )
    } else if !positive(options.init_lr) {
        format!("a learning rate of {}", options.init_lr)
    } else if !(options.decay.is_finite() && options.decay >= 0.0) {
        format!("a decay of {}", options.decay)
    } else if !options.class_weights.is_empty() && options.class_weights.len() != classes {
        format!(
            "{} class weights for {classes} classes",
            options.class_weights.len()
        )
    } else if let Some(weight) = options.class_weights.iter().find(|w| !positive(**w)) {
        format!("a class weight of {weight}")
    } else {
        return Ok(());
    };
    Err(TrainError::Options(problem))
}

/// Returns a ChaCha8 generator whose key consists of the bytes of the seed followed by
/// zeros, so that the random numbers depend only on the definition of ChaCha8.
/// `seed_from_u64` is not used because its definition may change in a new version of
/// the crate.
fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(stream);
    random
}

/// Draws a number that is at least 0 and less than 1. It is a multiple of 2^-24,
/// which f32 represents exactly.
fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / 16_777_216.0
}

/// Fills weights \[outputs, inputs\]; see [`Trainer::new`].
fn glorot_uniform(weights: &mut Array2<f32>, random: &mut ChaCha8Rng) {
    let (outputs, inputs) = weights.dim();
    let limit = (6.0 / (inputs + outputs) as f32).sqrt();
    weights.mapv_inplace(|_| (2.0 * uniform(random) - 1.0) * limit);
}

struct Scores {
    /// The loss of each sample, without class weights.
    losses: Vec<f64>,
    /// Number of samples whose label has the highest probability.
    correct: usize,
}

/// Turns logits \[n, classes\] into probabilities in place, and scores them.
fn score(logits: &mut Array2<f32>, labels: &[usize]) -> Scores {
    let classes = logits.ncols();
    let mut losses = Vec::with_capacity(labels.len());
    let mut correct = 0;
    for (mut row, label) in logits.rows_mut().into_iter().zip(labels) {
        let label_logit = row[*label];
        correct += usize::from(argmax(row.iter()) == Some(*label));
        let ln_p = f64::from(label_logit) - softmax(row.iter_mut());
        losses.push(if classes == 2 {
            -(ln_p.exp().clamp(CLIP, 1.0 - CLIP) + CLIP).ln()
        } else {
            -ln_p
        });
    }
    Scores { losses, correct }
}

/// Turns logits into probabilities in place, and returns ln(sum(exp(logits))). The
/// logits are shifted by the largest one so that no exponential overflows.
fn softmax<'a>(row: impl IntoIterator<Item = &'a mut f32>) -> f64 {
    let mut row: Vec<&mut f32> = row.into_iter().collect();
    let largest = row.iter().fold(f32::NEG_INFINITY, |max, z| max.max(**z));
    let mut sum = 0.0;
    for z in &mut row {
        **z = (**z - largest).exp();
        sum += **z;
    }
    for power in row {
        *power /= sum;
    }
    f64::from(largest) + f64::from(sum).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options() -> TrainOptions {
        TrainOptions {
            hidden: 16,
            init_lr: 1e-2,
            ..TrainOptions::default()
        }
    }

    /// Makes `n` samples of two classes. The first half of the features is larger in
    /// one class, and the second half is larger in the other.
    fn separable(n: usize) -> (Vec<f32>, Vec<usize>) {
        let mut random = random(7, 7);
        let labels: Vec<usize> = (0..n).map(|sample| sample % 2).collect();
        let mut features = Vec::with_capacity(n * FEATURES);
        for label in &labels {
            for at in 0..FEATURES {
                let shift = if usize::from(at < FEATURES / 2) == *label {
                    0.3
                } else {
                    0.0
                };
                features.push(uniform(&mut random) + shift);
            }
        }
        (features, labels)
    }

    fn train(trainer: &mut Trainer, epochs: usize) -> Vec<StepLoss> {
        let (features, labels) = separable(64);
        let mut steps = Vec::new();
        for _ in 0..epochs {
            for (x, y) in features.chunks(16 * FEATURES).zip(labels.chunks(16)) {
                steps.push(trainer.step(x, y).expect("all is finite"));
            }
        }
        steps
    }

    #[test]
    fn a_separable_set_is_learned() {
        let options = TrainOptions {
            hidden: 32,
            init_lr: 1e-3,
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::new(2, options).unwrap();
        let (features, labels) = separable(64);
        let before = trainer.evaluate(&features, &labels).unwrap();
        let steps = train(&mut trainer, 20);
        let after = trainer.evaluate(&features, &labels).unwrap();
        assert!(before.loss > 0.3, "{before:?}");
        assert_eq!(after.accuracy, 1.0);
        assert!(after.loss < 0.02, "{after:?}");
        let last = Metrics::of_epoch(&steps[76..]).unwrap();
        assert!(last.loss < 0.2 && last.accuracy > 0.9, "{last:?}");
    }

    #[test]
    fn each_seed_gives_its_own_bits_each_time() {
        let run = |seed| {
            let mut trainer = Trainer::new(2, TrainOptions { seed, ..options() }).unwrap();
            let losses = train(&mut trainer, 2);
            (trainer.tensors(), losses)
        };
        assert_eq!(run(1), run(1));
        let ((one, _), (two, _)) = (run(1), run(2));
        assert_ne!(one.w1, two.w1);
    }

    #[test]
    fn the_numbers_of_a_seed_do_not_change() {
        // If these values change, existing commands will produce different heads.
        let trainer = Trainer::new(2, TrainOptions::default()).unwrap();
        let tensors = trainer.tensors();
        assert_eq!(
            tensors.w1[..3],
            [-0.052_243_106, -0.019_811_632, -0.053_744_58]
        );
    }

    #[test]
    fn a_resumed_training_is_the_same_as_an_uninterrupted_one() {
        let mut whole = Trainer::new(2, options()).unwrap();
        train(&mut whole, 2);
        let saved = serde_json::to_vec(&whole.state()).unwrap();
        let mut resumed = Trainer::from_state(serde_json::from_slice(&saved).unwrap()).unwrap();
        assert_eq!(resumed, whole);
        assert_eq!(train(&mut resumed, 2), train(&mut whole, 2));
        assert_eq!(resumed, whole);
    }

    #[test]
    fn an_inconsistent_state_is_refused() {
        let state = Trainer::new(2, options()).unwrap().state();
        let broken = |change: fn(&mut TrainerState)| {
            let mut state = state.clone();
            change(&mut state);
            Trainer::from_state(state).unwrap_err()
        };
        let errors = [
            broken(|state| state.mean.b2.push(0.0)),
            broken(|state| state.options.hidden = 3),
            broken(|state| state.square.b1[0] = -1.0),
            broken(|state| state.weights.w2[0] = f32::NAN),
            broken(|state| state.weights.w1.truncate(1)),
        ];
        for error in errors {
            assert!(matches!(error, TrainError::Tensors(_)), "{error}");
        }
    }

    #[test]
    fn training_can_start_from_a_head() {
        let mut trainer = Trainer::new(2, options()).unwrap();
        train(&mut trainer, 1);
        let tensors = trainer.tensors();
        let warm = Trainer::from_head(tensors.clone(), TrainOptions::default()).unwrap();
        assert_eq!(warm.tensors(), tensors);
        assert_eq!(warm.steps(), 0);
    }

    #[test]
    fn initial_weights_fill_the_range_of_glorot() {
        let tensors = Trainer::new(2, TrainOptions::default()).unwrap().tensors();
        for (weights, inputs, outputs) in [(&tensors.w1, 1280.0, 128.0), (&tensors.w2, 128.0, 2.0)]
        {
            let limit: f32 = (6.0_f32 / (inputs + outputs)).sqrt();
            let largest = weights.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
            assert!(largest <= limit && largest > 0.95 * limit, "{largest}");
            let mean = weights.iter().sum::<f32>() / weights.len() as f32;
            assert!(mean.abs() < 0.1 * limit, "{mean}");
        }
        assert_eq!(tensors.b1, [0.0; 128]);
        assert_eq!(tensors.b2, [0.0; 2]);
    }

    #[test]
    fn dropout_drops_its_share_and_other_units_in_each_step() {
        let (features, labels) = separable(64);
        let mut trainer = Trainer::new(2, TrainOptions::default()).unwrap();
        let draw = |trainer: &Trainer| -> Vec<bool> {
            let mut random = random(trainer.options.seed, trainer.steps + 1);
            (0..64 * 128).map(|_| uniform(&mut random) >= 0.5).collect()
        };
        let (mut given, mask) = (trainer.clone(), draw(&trainer));
        let kept = mask.iter().filter(|kept| **kept).count() as f32 / mask.len() as f32;
        assert!((kept - 0.5).abs() < 0.02, "{kept}");
        trainer.step(&features, &labels).unwrap();
        given.step_with_mask(&features, &labels, &mask).unwrap();
        assert_eq!(trainer, given);
        assert_ne!(mask, draw(&trainer));
    }

    #[test]
    fn class_weights_scale_the_loss_and_the_gradient() {
        let (features, _) = separable(4);
        let labels = [1; 4];
        let plain = Trainer::new(2, options()).unwrap();
        let weighted = TrainOptions {
            class_weights: vec![0.5, 1.5],
            ..options()
        };
        let weighted = Trainer::new(2, weighted).unwrap();
        let (loss, gradients) = plain.gradients(&features, &labels, None).unwrap();
        let (loss_weighted, gradients_weighted) =
            weighted.gradients(&features, &labels, None).unwrap();
        assert!((loss_weighted.loss / loss.loss - 1.5).abs() < 1e-6);
        assert!((gradients_weighted.b2[0] / gradients.b2[0] - 1.5).abs() < 1e-6);
        assert_eq!(
            plain.evaluate(&features, &labels),
            weighted.evaluate(&features, &labels)
        );
    }

    #[test]
    fn the_learning_rate_decays_with_the_steps() {
        let options = TrainOptions {
            decay: 0.5,
            ..options()
        };
        let mut trainer = Trainer::new(2, options).unwrap();
        assert_eq!(trainer.learning_rate(), 1e-2);
        train(&mut trainer, 1);
        assert_eq!(trainer.steps(), 4);
        assert!((trainer.learning_rate() - 1e-2 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_changes_when_a_result_is_not_finite() {
        let (mut features, labels) = separable(16);
        let mut trainer = Trainer::new(2, options()).unwrap();
        train(&mut trainer, 1);
        let before = trainer.clone();
        let wrong: Vec<usize> = labels.iter().map(|label| 1 - label).collect();
        // The gradient is finite, but its square is not.
        let large: Vec<f32> = features.iter().map(|value| value * 1e25).collect();
        let error = trainer.step(&large, &wrong).unwrap_err();
        let expected = TrainError::NotFinite {
            what: "gradient",
            steps: 4,
        };
        assert_eq!(error, expected);
        let mut tensors = trainer.tensors();
        tensors.w1.fill(1e18);
        let error = Trainer::from_head(tensors, options()).unwrap();
        let error = error.evaluate(&large, &labels).unwrap_err();
        assert!(error.to_string().starts_with("the loss after 0 steps"));
        for value in [f32::NAN, f32::INFINITY] {
            features[FEATURES + 3] = value;
            let error = trainer.step(&features, &labels).unwrap_err();
            assert!(error.to_string().contains("row 1"), "{error}");
            assert!(trainer.evaluate(&features, &labels).is_err());
            assert!(trainer.probabilities(&features).is_err());
        }
        assert_eq!(trainer, before);
    }

    #[test]
    fn batches_that_do_not_match_are_refused() {
        let trainer = Trainer::new(2, options()).unwrap();
        let x = vec![0.5; 2 * FEATURES];
        let refused = |x: &[f32], labels: &[usize], mask: Option<&[bool]>| {
            let error = trainer.gradients(x, labels, mask).unwrap_err();
            assert!(matches!(error, TrainError::Batch(_)), "{error}");
        };
        refused(&x[1..], &[0, 1], None);
        refused(&x, &[0], None);
        refused(&x, &[0, 2], None);
        refused(&x, &[0, 1], Some(&[true; 31]));
        refused(&[], &[], None);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let refused = |classes, change: fn(&mut TrainOptions)| {
            let mut options = options();
            change(&mut options);
            let error = Trainer::new(classes, options).unwrap_err();
            assert!(matches!(error, TrainError::Options(_)), "{error}");
        };
        refused(1, |_| {});
        refused(2, |options| options.hidden = 0);
        refused(2, |options| options.dropout = 1.0);
        refused(2, |options| options.dropout = f32::NAN);
        refused(2, |options| options.init_lr = 0.0);
        refused(2, |options| options.init_lr = f32::INFINITY);
        refused(2, |options| options.decay = -1.0);
        refused(2, |options| options.class_weights = vec![1.0]);
        refused(2, |options| options.class_weights = vec![1.0, 0.0]);
    }

    #[test]
    fn the_best_epoch_has_the_lowest_validation_loss() {
        let epoch = |epoch, val_loss| EpochRecord {
            epoch,
            learning_rate: 1e-4,
            loss: 0.0,
            accuracy: 1.0,
            val_loss,
            val_accuracy: 1.0,
        };
        let losses = [0.4, 0.2, f32::NAN, 0.2, 0.3];
        let history = History((1..).zip(losses).map(|(n, loss)| epoch(n, loss)).collect());
        assert_eq!(history.best().map(|epoch| epoch.epoch), Some(2));
        assert_eq!(History::default().best(), None);
    }

    #[test]
    fn probabilities_are_the_softmax_of_the_logits() {
        let trainer = Trainer::new(3, options()).unwrap();
        let (features, _) = separable(2);
        let z = trainer.logits(&features).unwrap();
        let p = trainer.probabilities(&features).unwrap();
        for (z, p) in z.chunks(3).zip(p.chunks(3)) {
            let sum: f32 = z.iter().map(|z| z.exp()).sum();
            for (z, p) in z.iter().zip(p) {
                assert!((z.exp() / sum - p).abs() < 1e-6);
            }
        }
    }

    /// Computes the loss directly from its definition, in f64 and with plain loops.
    /// Returns the loss, and the input of the ReLU that is closest to 0. If `clip` is 0,
    /// the logarithm is not clipped, as in the loss whose gradient the trainer computes.
    fn plain_loss(
        weights: &[Vec<f64>; 4],
        x: &[f32],
        labels: &[usize],
        class_weights: &[f32],
        keep: &[f64],
        clip: f64,
    ) -> (f64, f64) {
        let [w1, b1, w2, b2] = weights;
        let (hidden, classes) = (b1.len(), b2.len());
        let (mut loss, mut kink) = (0.0, f64::INFINITY);
        for (n, label) in labels.iter().enumerate() {
            let x = &x[n * FEATURES..][..FEATURES];
            let h: Vec<f64> = (0..hidden)
                .map(|unit| {
                    let w1 = &w1[unit * FEATURES..][..FEATURES];
                    let a: f64 = w1.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
                    kink = kink.min((a + b1[unit]).abs());
                    (a + b1[unit]).max(0.0) * keep[n * hidden + unit]
                })
                .collect();
            let z: Vec<f64> = (0..classes)
                .map(|class| {
                    let w2 = &w2[class * hidden..][..hidden];
                    w2.iter().zip(&h).map(|(w, h)| w * h).sum::<f64>() + b2[class]
                })
                .collect();
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            let p = (z[*label].exp() / sum).clamp(clip, 1.0 - clip) + clip;
            loss -= f64::from(class_weights[*label]) * p.ln();
        }
        (loss / labels.len() as f64, kink)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Checks every weight whose feature is nonzero somewhere in the batch. The
        /// gradients of the other weights are 0.
        #[test]
        fn gradients_are_finite_differences(
            seed in any::<u64>(),
            classes in 2_usize..5,
            hidden in 1_usize..5,
            n in 1_usize..5,
            dropout in prop::sample::select(vec![0.0_f32, 0.3, 0.5]),
        ) {
            const STEP: f64 = 1e-5;
            let mut random = random(seed, 1 << 32);
            let columns: Vec<usize> = (0..6).map(|_| random.next_u32() as usize % FEATURES).collect();
            let mut x = vec![0.0; n * FEATURES];
            for row in x.chunks_mut(FEATURES) {
                for column in &columns {
                    row[*column] = 6.0 * uniform(&mut random);
                }
            }
            let labels: Vec<usize> = (0..n).map(|_| random.next_u32() as usize % classes).collect();
            let class_weights: Vec<f32> = (0..classes).map(|_| 0.5 + uniform(&mut random)).collect();
            let mask: Vec<bool> = (0..n * hidden).map(|_| uniform(&mut random) >= dropout).collect();
            let keep: Vec<f64> = mask
                .iter()
                .map(|kept| f64::from(u8::from(*kept)) / f64::from(1.0 - dropout))
                .collect();
            let mut weights = |count| (0..count).map(|_| uniform(&mut random) - 0.5).collect::<Vec<f32>>();
            let tensors = HeadTensors {
                w1: weights(hidden * FEATURES),
                b1: weights(hidden),
                w2: weights(classes * hidden),
                b2: weights(classes),
            };

            let options = TrainOptions { dropout, class_weights: class_weights.clone(), ..options() };
            let trainer = Trainer::from_head(tensors.clone(), options).unwrap();
            let (loss, gradients) = trainer.gradients(&x, &labels, Some(&mask)).unwrap();
            let HeadTensors { w1, b1, w2, b2 } = &tensors;
            let mut weights = [w1, b1, w2, b2].map(|values| values.iter().copied().map(f64::from).collect::<Vec<f64>>());
            let clip = if classes == 2 { CLIP } else { 0.0 };
            let (plain, kink) = plain_loss(&weights, &x, &labels, &class_weights, &keep, clip);
            // A finite difference across the kink of the ReLU does not approximate a
            // gradient.
            prop_assume!(kink > 6.0 * STEP);
            prop_assert!((f64::from(loss.loss) - plain).abs() < 1e-5 * (1.0 + plain));

            let HeadTensors { w1, b1, w2, b2 } = &gradients;
            for (layer, gradients) in [w1, b1, w2, b2].into_iter().enumerate() {
                for (at, gradient) in gradients.iter().enumerate() {
                    if layer == 0 && !columns.contains(&(at % FEATURES)) {
                        prop_assert_eq!(*gradient, 0.0);
                        continue;
                    }
                    let value = weights[layer][at];
                    weights[layer][at] = value + STEP;
                    let (above, _) = plain_loss(&weights, &x, &labels, &class_weights, &keep, 0.0);
                    weights[layer][at] = value - STEP;
                    let (below, _) = plain_loss(&weights, &x, &labels, &class_weights, &keep, 0.0);
                    weights[layer][at] = value;
                    let difference = (above - below) / (2.0 * STEP);
                    let error = (f64::from(*gradient) - difference).abs();
                    prop_assert!(error < 1e-5 * (1.0 + difference.abs()), "{layer} {at}: {gradient} {difference}");
                }
            }
        }
    }
}
