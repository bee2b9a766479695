"""Writes the head of an ONNX classifier as arrays that Keras can load.

    head.py CLASSIFIER OUT.npz

This script runs in the virtual environment that has the `onnx` package. TensorFlow is in a different one.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import numpy_helper


def main(classifier: str, out: str) -> None:
    arrays = {each.name: numpy_helper.to_array(each) for each in onnx.load(classifier).graph.initializer}
    # ONNX stores the kernel of a dense layer as outputs x inputs, and Keras stores it as
    # inputs x outputs.
    np.savez(
        out,
        kernel0=arrays["head.0.weight"].T,
        bias0=arrays["head.0.bias"],
        kernel2=arrays["head.2.weight"].T,
        bias2=arrays["head.2.bias"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
