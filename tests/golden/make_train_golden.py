"""Generates train.json in this folder, with Keras's results for given weights and batches.

Features and initial weights are not stored, because the generator `Numbers` produces the same values here and in
tests/train_golden.rs. Keras itself performs every training step (`train_on_batch`,
`tf_keras.optimizers.legacy.Adam`).

    python make_train_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# With oneDNN, the order of sums would depend on the number of threads.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FEATURES = 1280
HIDDEN = 6
SAMPLES = 4
STEPS = 10
INIT_LR = 1e-3
# This decay is much larger than the tutorial's decay, so that it has a visible effect within ten steps.
DECAY = 0.1


class Numbers:
    """A 32-bit linear congruential generator with the multiplier and increment from Numerical Recipes."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        # The low bits of such a generator have short periods.
        return self.state >> 8

    def uniform(self, *shape: int) -> Floats:
        """Draws numbers that are at least 0 and less than 1, in row-major order. They are exact in float32."""
        count = int(np.prod(shape))
        return np.array([self.next() / 2**24 for _ in range(count)], dtype=np.float32).reshape(shape)

    def weights(self, scale: float, *shape: int) -> Floats:
        """Draws numbers between -scale / 2 and scale / 2. They are exact if scale is a power of two."""
        return (self.uniform(*shape) - np.float32(0.5)) * np.float32(scale)


def build(classes: int) -> tf_keras.Model:
    """Builds the head. The scaled dropout mask is a second input, so that the mask is known."""
    features = tf_keras.Input((FEATURES,))
    keep = tf_keras.Input((HIDDEN,))
    hidden = tf_keras.layers.Dense(HIDDEN, activation="relu")(features)
    logits = tf_keras.layers.Dense(classes)(tf_keras.layers.Multiply()([hidden, keep]))
    # Keras's "softmax" is not used, because it attaches its logits to the result, and binary_crossentropy would treat
    # them as logits of sigmoids (see the documentation of src/training/train/mod.rs). TensorFlow's softmax returns only
    # probabilities.
    probabilities = tf_keras.layers.Activation(tf.nn.softmax)(logits)
    return tf_keras.Model([features, keep], [probabilities, logits])


def hexadecimal(values: Any) -> str:
    """Formats values in row-major order with eight hexadecimal digits per float32."""
    return np.asarray(values, dtype=">f4").tobytes().hex()


def tensors(layers: list[Any]) -> dict[str, str]:
    """Transposes the weights, because Keras stores [inputs, outputs] and maskd stores [outputs, inputs]."""
    w1, b1, w2, b2 = (np.asarray(layer) for layer in layers)
    return {"w1": hexadecimal(w1.T), "b1": hexadecimal(b1), "w2": hexadecimal(w2.T), "b2": hexadecimal(b2)}


def case(name: str, seed: int, classes: int, dropout: float, class_weights: list[float]) -> dict[str, Any]:
    numbers = Numbers(seed)
    w1 = numbers.weights(0.125, HIDDEN, FEATURES)
    b1 = numbers.weights(0.125, HIDDEN)
    w2 = numbers.weights(1.0, classes, HIDDEN)
    b2 = numbers.weights(0.125, classes)
    # Unlike features from a backbone, these features are centered on 0, so that each
    # unit is active for about half of the samples.
    features = numbers.weights(2.0, STEPS, SAMPLES, FEATURES)
    labels = [[numbers.next() % classes for _ in range(SAMPLES)] for _ in range(STEPS)]
    masks = numbers.uniform(STEPS, SAMPLES, HIDDEN) >= dropout
    if dropout:
        # The masks keep at least one unit in every sample, because a sample without
        # any unit would train only the last bias.
        masks[:, :, 0] = True
    keep = masks.astype(np.float32) / np.float32(1 - dropout)
    targets = np.eye(classes, dtype=np.float32)[np.array(labels)]

    both = build(classes)
    both.set_weights([w1.T, b1, w2.T, b2])
    model = tf_keras.Model(both.inputs, both.outputs[0])
    loss = "binary_crossentropy" if classes == 2 else "categorical_crossentropy"
    optimizer = tf_keras.optimizers.legacy.Adam(learning_rate=INIT_LR, decay=DECAY)
    model.compile(loss=loss, optimizer=optimizer, metrics=["accuracy"])

    weights = np.array(class_weights or [1.0] * classes, dtype=np.float32)
    with tf.GradientTape() as tape:
        probabilities, logits = both([features[0], keep[0]], training=True)
        value = model.compiled_loss(tf.constant(targets[0]), probabilities, sample_weight=tf.constant(weights[labels[0]]))
    gradients = tape.gradient(value, model.trainable_weights)

    class_weight = dict(enumerate(class_weights)) or None
    losses = [
        float(model.train_on_batch([features[i], keep[i]], targets[i], class_weight=class_weight)[0])
        for i in range(STEPS)
    ]
    assert np.isclose(losses[0], float(value), rtol=1e-6)

    rows = features.reshape(-1, FEATURES), np.ones((STEPS * SAMPLES, HIDDEN), np.float32)
    evaluation = model.evaluate(rows, targets.reshape(-1, classes), batch_size=STEPS * SAMPLES, verbose=0)
    trained = tensors(model.get_weights())
    # These weights give logits of a few hundred, for which Keras clips the loss
    # of two classes.
    w1, b1, w2, b2 = model.get_weights()
    model.set_weights([w1, b1, w2 * np.float32(256), b2])
    saturated = model.evaluate(rows, targets.reshape(-1, classes), batch_size=STEPS * SAMPLES, verbose=0)

    print(f"{name}: losses {losses[0]:.6f} to {losses[-1]:.6f}, evaluation {evaluation}, saturated {saturated}")
    active = np.mean(np.maximum(rows[0] @ w1 + b1, 0) > 0, axis=0)
    print(f"  active units {active}, p {np.round(probabilities, 3).tolist()}")
    return {
        "name": name,
        "seed": seed,
        "classes": classes,
        "hidden": HIDDEN,
        "samples": SAMPLES,
        "dropout": dropout,
        "init_lr": INIT_LR,
        "decay": DECAY,
        "class_weights": class_weights,
        "labels": labels,
        "masks": ["".join("01"[int(kept)] for kept in mask.flat) for mask in masks] if dropout else None,
        "logits": hexadecimal(logits),
        "gradients": tensors(gradients),
        "losses": losses,
        "trained": trained,
        "evaluation": evaluation,
        "saturated": saturated,
    }


def main() -> None:
    cases = [
        case("two classes", 4, 2, 0.0, []),
        case("two classes with a mask", 2, 2, 0.5, []),
        case("three classes with a mask and class weights", 3, 3, 0.25, [0.5, 1.0, 1.5]),
    ]
    path = Path(__file__).resolve().parent / "train.json"
    text = json.dumps(cases, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {len(text)} characters")


if __name__ == "__main__":
    main()
