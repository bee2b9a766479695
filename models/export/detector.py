"""Builds the face detector's ONNX graph from YuNet's convolutions."""

from __future__ import annotations

import io

import numpy as np
from graph import Graph
from numpy.typing import NDArray

FORMAT = "maskd-detector-1"
STRIDES = (8, 16, 32)
CHANNELS = 16

# Numbers of convolutions in the weights file. A unit consists of the two convolutions
# n and n + 1.
_STEM = 0
_BEFORE_FIRST_POOL = (1,)
_BEFORE_SECOND_POOL = (3, 5, 7, 9)
_STRIDE_8 = (11, 13)
_STRIDE_16 = (15, 17)
_STRIDE_32 = (19, 21)
_NECK = (23, 25, 27)

# Each level has 1 channel for the classification, 1 for the object, 4 for the box, and
# 10 for the landmarks, in this order.
_HEADS = ((29, 41, 35, 47), (31, 43, 37, 49), (33, 45, 39, 51))

METADATA = {
    "format": FORMAT,
    "licence": "BSD-3-Clause",
    "source": "YuNet from ShiqiYu/libfacedetection, commit acf7b254, src/facedetectcnn-data.cpp, "
    "fine-tuned on faces with masks (models/finetune)",
}

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


class _Weights:
    """The 53 convolutions, accessed by their number."""

    def __init__(self, file: bytes) -> None:
        with np.load(io.BytesIO(file), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        self._names = {int(key[:2]): key[3:].removesuffix(".weight") for key in arrays if key.endswith(".weight")}
        self._arrays = arrays

    def name(self, number: int) -> str:
        return self._names[number]

    def pair(self, number: int) -> Pair:
        stem = f"{number:02d}.{self._names[number]}"
        return self._arrays[f"{stem}.weight"], self._arrays[f"{stem}.bias"]


class _Builder:
    """Builds the graph, with one method for each of YuNet's building blocks."""

    def __init__(self, weights: _Weights) -> None:
        self.graph = Graph("face_detector")
        self._weights = weights

    def stem(self, source: str) -> str:
        name = self._weights.name(_STEM)
        weight, bias = self._weights.pair(_STEM)
        convolved = self.graph.convolution(source, name, weight, bias, stride=2, pads=(1, 1, 1, 1))
        return self.graph.node("Relu", [convolved], f"{name}.relu")

    def unit(self, source: str, number: int) -> str:
        """Adds a 1x1 convolution without activation, a 3x3 depthwise convolution, and a ReLU."""
        name = self._weights.name(number + 1)
        point = self.graph.convolution(source, self._weights.name(number), *self._weights.pair(number))
        deep = self._depthwise(point, name, self._weights.pair(number + 1))
        return self.graph.node("Relu", [deep], f"{name}.relu")

    def units(self, source: str, numbers: tuple[int, ...]) -> str:
        for number in numbers:
            source = self.unit(source, number)
        return source

    def pool(self, source: str, name: str) -> str:
        return self.graph.node("MaxPool", [source], name, kernel_shape=[2, 2], strides=[2, 2])

    def add_doubled(self, small: str, large: str, name: str) -> str:
        """Upsamples by two with nearest-neighbor interpolation, and adds the result to the finer level.

        Because the scale is a constant, height and width stay variable. Runtimes have a fast path for the mode
        "asymmetric" with "floor", which repeats each pixel exactly.
        """
        scales = self.graph.constant("double.scales", np.array([1, 1, 2, 2], dtype=np.float32))
        doubled = self.graph.node(
            "Resize",
            [small, "", scales],
            f"{name}.doubled",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return self.graph.node("Add", [doubled, large], name)

    def head(self, source: str, level: int) -> str:
        """Adds the four heads of a level as a single unit without a final ReLU.

        Depthwise convolutions do not mix channels, so concatenating the heads does not change any value, and two
        convolutions are cheaper than eight.
        """
        output = f"stride{STRIDES[level]}"
        point = _side_by_side([self._weights.pair(number) for number in _HEADS[level]])
        deep = _side_by_side([self._weights.pair(number + 1) for number in _HEADS[level]])
        between = self.graph.convolution(source, f"head.{output}.pointwise", *point)
        return self._depthwise(between, output, deep)

    def _depthwise(self, source: str, name: str, pair: Pair) -> str:
        weight, bias = pair
        return self.graph.convolution(source, name, weight, bias, pads=(1, 1, 1, 1), group=weight.shape[0])


def _side_by_side(pairs: list[Pair]) -> Pair:
    return np.concatenate([weight for weight, _ in pairs]), np.concatenate([bias for _, bias in pairs])


def build(weights_file: bytes) -> bytes:
    """Returns the detector as the bytes of an ONNX file."""
    build = _Builder(_Weights(weights_file))
    graph = build.graph
    image = graph.input("image", [1, 3, "H", "W"])

    x = build.pool(build.units(build.stem(image), _BEFORE_FIRST_POOL), "pool1")
    x = build.pool(build.units(x, _BEFORE_SECOND_POOL), "pool2")
    level8 = build.units(x, _STRIDE_8)
    level16 = build.units(build.pool(level8, "pool3"), _STRIDE_16)
    level32 = build.units(build.pool(level16, "pool4"), _STRIDE_32)

    level32 = build.unit(level32, _NECK[2])
    level16 = build.unit(build.add_doubled(level32, level16, "neck.stride16"), _NECK[1])
    level8 = build.unit(build.add_doubled(level16, level8, "neck.stride8"), _NECK[0])

    for level, source in enumerate((level8, level16, level32)):
        name = build.head(source, level)
        graph.output(name, [1, CHANNELS, f"H/{STRIDES[level]}", f"W/{STRIDES[level]}"])
    return graph.to_bytes(METADATA)
