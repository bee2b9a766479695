"""Checks that a classifier from `maskd train` gives the same results in other runtimes.

    python tests/python/check_model.py MODEL DATASET REPORT

MODEL is the ONNX file, DATASET is the folder that it was trained on, and REPORT is the file that
`maskd eval --model MODEL --dataset DATASET --report REPORT` wrote. This script compares the
probabilities of each picture in the report with the probabilities from onnxruntime and OpenCV's
DNN. It also compares the metadata with the data set. The pictures must be 224 x 224, because
resizing would affect the comparison.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
LIMIT = 1e-4  # Maximum difference between probabilities.
# Minimum change in a probability when the colors are swapped. With a smaller change,
# the comparison could not detect swapped colors.
TRAP = 1e-2


def require(passed: bool, sentence: str) -> None:
    if not passed:
        raise SystemExit(f"check_model.py: {sentence}")


def network_input(picture: Path) -> NDArray[np.float32]:
    """Reads a picture in the input format from models/README.md: [1, 3, 224, 224], RGB, -1 to 1."""
    with Image.open(picture) as image:
        require(image.size == (SIDE, SIDE), f"{picture} has {image.size} pixels")
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    scaled = pixels / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def digest(folder: Path) -> str:
    """Computes the digest that the documentation of `Dataset::digest` describes."""
    lines = sorted(
        f"{picture.parent.name}/{hashlib.sha256(picture.read_bytes()).hexdigest()}\n"
        for picture in folder.glob("*/*.png")
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_metadata(model: bytes, folder: Path) -> list[str]:
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    labels = json.loads(metadata["labels"])
    scores = json.loads(metadata["scores"])
    require(labels == sorted(path.name for path in folder.iterdir()), f"labels {labels}")
    require(metadata["format"] == "maskd-classifier-1", f"format {metadata['format']}")
    require(metadata["recipe"] in ("tutorial", "robust"), f"recipe {metadata['recipe']}")
    require(metadata["seed"].isdecimal(), f"seed {metadata['seed']}")
    require(metadata["version"].count(".") == 2, f"version {metadata['version']}")
    require(metadata["dataset_sha256"] == digest(folder), "dataset_sha256 belongs to other pictures")
    require(len(bytes.fromhex(metadata["backbone_sha256"])) == 32, "backbone_sha256 is not a hash")
    require(0 <= scores["accuracy"] <= 1 and scores["labels"] == labels, "the scores are invalid")
    return labels


def main(model_file: Path, folder: Path, report_file: Path) -> None:
    model = model_file.read_bytes()
    labels = check_metadata(model, folder)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    net = cv2.dnn.readNetFromONNX(str(model_file))

    def by_onnxruntime(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return session.run(["probabilities"], {"image": image})[0][0]

    def by_opencv(image: NDArray[np.float32]) -> NDArray[np.float32]:
        net.setInput(image, "image")
        return net.forward("probabilities")[0]

    pictures = json.loads(report_file.read_text(encoding="utf-8"))["pictures"]
    there = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.png"))
    require([judged["picture"] for judged in pictures] == there, "the report contains other pictures")
    worst = {"onnxruntime": 0.0, "OpenCV": 0.0}
    trap = 0.0
    for judged in pictures:
        require(judged["label"] == Path(judged["picture"]).parent.name, f"label of {judged}")
        require(list(judged["probabilities"]) == labels, f"probabilities of {judged}")
        expected = np.array(list(judged["probabilities"].values()))
        image = network_input(folder / judged["picture"])
        for runtime, run in {"onnxruntime": by_onnxruntime, "OpenCV": by_opencv}.items():
            off = float(np.abs(run(image) - expected).max())
            require(off < LIMIT, f"{runtime} differs by {off:.1e} on {judged['picture']}")
            worst[runtime] = max(worst[runtime], off)
        swapped = np.ascontiguousarray(image[:, ::-1])
        trap = max(trap, float(np.abs(by_onnxruntime(swapped) - expected).max()))
    require(trap > TRAP, f"swapped colors change the probabilities by only {trap:.1e}")
    found = ", ".join(f"{runtime} {off:.1e}" for runtime, off in worst.items())
    print(f"{len(pictures)} pictures, largest differences: {found}; with swapped colors {trap:.1e}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
