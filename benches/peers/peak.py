"""Measures the peak number of multiply-adds per second on one core of this machine by multiplying large float32
matrices.

The script prints one number, in billions. It comes from the fastest run with the faster of two libraries, because the
script measures what the machine can do and not what it usually does.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

SIDE = 768
RUNS = 60


def fastest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return SIDE**3 / min(times) / 1e9


def main() -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (2, SIDE, SIDE)).astype(np.float32)
    product = np.empty((SIDE, SIDE), np.float32)
    of_numpy = fastest(lambda: np.matmul(values[0], values[1], out=product))

    square = [SIDE, SIDE]
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, square) for name in ("a", "c")]
    weights = onnx.numpy_helper.from_array(values[1], "b")
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "product", tensors[:1], tensors[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    print(max(of_numpy, fastest(lambda: session.run(None, {"a": values[0]}))))


if __name__ == "__main__":
    main()
