"""Assembles ONNX files from nodes, initializers, and metadata.

The modules for the two models determine what is in a graph. This module ensures that the same
content always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PRODUCER = "maskd-export"
PRODUCER_VERSION = "1"

# This opset is old enough for OpenCV 4 and tract, and new enough for Resize and
# Clip in the forms that are used here.
OPSET = 13
IR_VERSION = 8

Shape = Sequence[int | str]


class Graph:
    """Collects the parts of a graph in the order in which they are added."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._named: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape) -> str:
        self._inputs.append(_float_tensor(name, shape))
        return name

    def output(self, name: str, shape: Shape) -> None:
        self._outputs.append(_float_tensor(name, shape))

    def internal(self, name: str, shape: Shape) -> None:
        """Records the shape of a tensor inside the graph, so that other programs can rely on it."""
        self._named.append(_float_tensor(name, shape))

    def constant(self, name: str, value: NDArray[np.floating]) -> str:
        """Adds a float32 initializer. A name may be used more than once if the value is the same."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
        known = self._initialisers.setdefault(name, tensor)
        if known.SerializeToString() != tensor.SerializeToString():
            raise ValueError(f"Two different initializers are named {name}.")
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Adds a node with one output. The node and its output have the same name."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def convolution(
        self,
        source: str,
        output: str,
        weight: NDArray[np.floating],
        bias: NDArray[np.floating],
        *,
        stride: int = 1,
        pads: Sequence[int] = (0, 0, 0, 0),
        group: int = 1,
    ) -> str:
        """Adds a convolution. `pads` contains the padding at the top, left, bottom, and right."""
        return self.node(
            "Conv",
            [source, self.constant(f"{output}.weight", weight), self.constant(f"{output}.bias", bias)],
            output,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=list(pads),
            group=group,
        )

    def to_bytes(self, metadata: dict[str, str]) -> bytes:
        graph = helper.make_graph(
            self._nodes,
            self._name,
            self._inputs,
            self._outputs,
            initializer=list(self._initialisers.values()),
            value_info=self._named,
        )
        model = helper.make_model(
            graph,
            producer_name=PRODUCER,
            producer_version=PRODUCER_VERSION,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, dict(sorted(metadata.items())))
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def _float_tensor(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
