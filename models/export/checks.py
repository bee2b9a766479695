"""Compares newly exported models with the reference values in tests/golden.

The limits are far above the differences in correct files, and far below the differences that known mistakes cause.
Without these checks, a wrong export would only lead to slightly worse results and could go unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import yunet_decode
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FRAMES = ROOT / "assets" / "frames"
GOLDEN = ROOT / "tests" / "golden"

BOX_LIMIT = 0.05  # In pixels, for boxes and landmarks. The reference values have three decimals.
SCORE_LIMIT = 0.002
FEATURE_LIMIT = 1e-3  # As a fraction of the largest feature.
PROBABILITY_LIMIT = 1e-4

# Each mistake in the preparation of the picture must move a box or change a score by at
# least these values, or change the number of faces. Otherwise, the check could not
# detect the mistake.
TRAP_BOX = 1.0
TRAP_SCORE = 0.02


# For the output of each convolution, the mean and the standard deviation of each channel.
Norms = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


class CheckError(Exception):
    """The outputs of a model differ from the reference values."""


def _json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def _rgb(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _session(model: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def _require(passed: bool, sentence: str) -> None:
    if not passed:
        raise CheckError(sentence)


def _difference(found: yunet_decode.Faces, expected: yunet_decode.Faces) -> tuple[float, float]:
    """Returns the largest difference between boxes and landmarks in pixels, and the largest difference between
    scores."""
    if len(found) != len(expected):
        return float("inf"), float("inf")
    delta = np.abs(found - expected)
    return float(np.delete(delta, 4, axis=1).max()), float(delta[:, 4].max())


def _mistakes(picture: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Returns versions of the picture, each prepared with a mistake that does not raise an error."""
    image = yunet_decode.network_input(picture)
    mean = np.array([104, 117, 123], dtype=np.float32).reshape(1, 3, 1, 1)
    return {
        "RGB for BGR": yunet_decode.network_input(picture, swap=False),
        "mean subtracted": image - mean,
        "scaled to 0..1": image / np.float32(255),
    }


def detector(model: bytes, reference: str) -> None:
    """Compares the results for all frames of a reference, and checks that each known mistake would be detected."""
    session = _session(model)
    golden = _json(reference)
    right: list[tuple[float, float]] = []
    wrong: dict[str, list[bool]] = {}
    faces = 0
    for name, rows in golden["frames"].items():
        expected = np.array([[*row["box"], row["score"], *sum(row["landmarks"], [])] for row in rows])
        faces += len(rows)
        picture = _rgb(FRAMES / name)

        def differs(image: NDArray[np.float32], expected: yunet_decode.Faces = expected) -> tuple[float, float]:
            found = yunet_decode.faces(session, image, golden["threshold"], golden["nms"])
            return _difference(found, expected)

        box, score = differs(yunet_decode.network_input(picture))
        _require(
            box <= BOX_LIMIT and score <= SCORE_LIMIT,
            f"The detector differs from {reference} on {name} by {box:.4f} pixels and {score:.5f} in score.",
        )
        right.append((box, score))
        for mistake, image in _mistakes(picture).items():
            box, score = differs(image)
            wrong.setdefault(mistake, []).append(box >= TRAP_BOX or score >= TRAP_SCORE)

    box, score = (max(column) for column in zip(*right, strict=True))
    print(f"detector: {faces} faces of {reference} agree; they differ by at most {box:.4f} pixels and {score:.5f} in score")
    for mistake, shows in wrong.items():
        print(f"detector: the mistake '{mistake}' is detected in {sum(shows)} of {len(shows)} frames")
        _require(all(shows), f"The check does not detect the mistake '{mistake}' in every frame.")


def _with_internals(model: bytes) -> bytes:
    """Returns the classifier with `features` and `logits` as additional outputs."""
    proto = onnx.load_from_string(model)
    proto.graph.output.extend(proto.graph.value_info)
    return proto.SerializeToString()


def classifier(model: bytes) -> None:
    """Compares the features, logits, and probabilities of all crops with the values from Keras."""
    crops = _json("crops.json")
    golden = _json("classifier.json")
    pixels = np.stack([_rgb(GOLDEN / "crops" / crop["crop"]) for crop in crops])
    image = pixels.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
    outputs = ["features", "logits", "probabilities"]
    found = dict(zip(outputs, _session(_with_internals(model)).run(outputs, {"image": image}), strict=True))
    expected = {key: np.array([golden[crop["crop"]][key] for crop in crops]) for key in outputs}

    delta = np.abs(found["features"] - expected["features"]).max(axis=1)
    feature = float((delta / np.abs(expected["features"]).max(axis=1)).max())
    logit = float(np.abs(found["logits"] - expected["logits"]).max())
    probability = float(np.abs(found["probabilities"] - expected["probabilities"]).max())
    print(
        f"classifier: {len(crops)} crops; largest differences: features {feature:.1e} (relative), "
        f"logits {logit:.1e}, probabilities {probability:.1e}"
    )
    _require(feature < FEATURE_LIMIT, f"The classifier's features differ from Keras's features by {feature:.1e}.")
    _require(probability < PROBABILITY_LIMIT, f"The probabilities differ from Keras's probabilities by {probability:.1e}.")
    _check_labels(crops, found["probabilities"])
    _check_pads(model, image, expected["features"])


def run_shipped(model: bytes) -> dict[str, dict[str, list[float]]]:
    """Computes the logits, the probabilities, and the output of the face check of all crops with onnxruntime."""
    crops = _json("crops.json")
    outputs = ["logits", "probabilities", "face"]
    answers = {}
    session = _session(_with_internals(model))
    for crop in crops:
        pixels = _rgb(GOLDEN / "crops" / crop["crop"])
        image = pixels.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1)
        found = session.run(outputs, {"image": image})
        # Nine significant digits are enough to restore the same float32.
        answers[crop["crop"]] = {
            name: [float(f"{value:.9g}") for value in values[0]] for name, values in zip(outputs, found, strict=True)
        }
    return answers


def shipped(model: bytes) -> None:
    """Compares the built-in classifier, including its trained head, with its reference values."""
    golden = _json("shipped.json")
    found = run_shipped(model)
    largest = max(
        abs(a - b) for crop in golden for a, b in zip(golden[crop]["probabilities"], found[crop]["probabilities"], strict=True)
    )
    print(f"built-in classifier: {len(golden)} crops; largest difference in probabilities {largest:.1e}")
    _require(largest < PROBABILITY_LIMIT, f"The built-in classifier's probabilities differ from the reference by {largest:.1e}.")
    faces = max(abs(golden[crop]["face"][0] - found[crop]["face"][0]) for crop in golden)
    _require(faces < PROBABILITY_LIMIT, f"The face check differs from its reference by {faces:.1e}.")
    masked = [found[crop["crop"]]["probabilities"][0] for crop in _json("crops.json") if crop["label"] == "with_mask"]
    _require(min(masked) > 0.5, "The built-in classifier does not classify a masked crop as masked.")


def efficientnet(model: bytes, norms: Norms) -> None:
    """Compares the output of each convolution with its batch norm.

    A batch norm turns the values of a channel into values with the mean `beta` and the standard deviation `gamma`, over
    the pictures of the training. Photographs are similar to these pictures. If a weight is in the wrong place, or the
    pictures are prepared in another way, the values have another mean and another standard deviation.
    """
    pixels = np.stack([_square(path) for path in sorted(FRAMES.glob("*.jpg"))])
    image = pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(1, 3, 1, 1)
    deviation = np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(1, 3, 1, 1)
    mistakes = {
        "mean and deviation of ImageNet": ((image + 1) / 2 - mean) / deviation,
        "scaled to 0..1": (image + 1) / 2,
        "BGR for RGB": image[:, ::-1].copy(),
    }
    proto = onnx.load_from_string(model)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in norms)
    session = _session(proto.SerializeToString())

    def distances(image: NDArray[np.float32]) -> list[float]:
        """Returns the distance of each convolution from the means that its batch norm expects, in standard deviations."""
        found = []
        for name, values in zip(norms, session.run(list(norms), {"image": image}), strict=True):
            beta, gamma = norms[name]
            channels = np.abs(values.mean(axis=(0, 2, 3)) - beta) / np.maximum(np.abs(gamma), 0.1)
            found.append(float(np.median(channels)))
        return found

    right = distances(image)
    mean = float(np.mean(right))
    print(
        f"efficientnet: the means of {len(norms)} convolutions differ by {mean:.2f} standard deviations, of the first by "
        f"{right[0]:.2f}"
    )
    _require(mean < 0.2, f"The outputs of the convolutions differ from their batch norms by {mean:.2f} standard deviations.")
    for mistake, wrong in mistakes.items():
        first = distances(wrong)[0]
        print(f"efficientnet: with the mistake '{mistake}', the first differs by {first:.2f}")
        _require(first > 1.2 * right[0], f"The check does not detect the mistake '{mistake}'.")


def _square(path: Path) -> NDArray[np.float32]:
    """Returns the middle of a photograph, scaled to the size of the backbone's input."""
    with Image.open(path) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        middle = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return np.asarray(middle, dtype=np.float32)


def _check_labels(crops: list[dict[str, Any]], probabilities: NDArray[np.float32]) -> None:
    """Checks that the first output is the masked class. Its mean must be higher for masked crops than for unmasked
    crops."""
    masked = np.array([crop["label"] == "with_mask" for crop in crops])
    bare_mean, mask_mean = probabilities[~masked, 0].mean(), probabilities[masked, 0].mean()
    print(f"classifier: mean first output {mask_mean:.3f} on masked crops, {bare_mean:.3f} on unmasked crops")
    _require(mask_mean > bare_mean, "The first output is not the output for with_mask.")


def _check_pads(model: bytes, image: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    """Checks that the features reveal the most likely mistake, which is to pad strided convolutions on all sides. This
    mistake does not change any shapes."""
    proto = onnx.load_from_string(_with_internals(model))
    changed = 0
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "pads" and list(attribute.ints) == [0, 0, 1, 1]:
                attribute.ints[:] = [1, 1, 1, 1]
                changed += 1
    wrong = _session(proto.SerializeToString()).run(["features"], {"image": image})[0]
    error = float(np.linalg.norm(wrong - expected) / np.linalg.norm(expected))
    print(f"classifier: {changed} strided convolutions; with padding on all sides, the features would differ by {error:.0%}")
    _require(changed == 5 and error > 0.1, "The padding check does not detect wrong padding.")
