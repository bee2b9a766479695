"""Decodes the detector's raw outputs with NumPy. It is used only in the checks.

The daemon has its own decoder. This decoder shows in a few lines which results the daemon's decoder must give.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from detector import STRIDES
from numpy.typing import NDArray

MAX_BEFORE_NMS = 1000

# Each row has x1, y1, x2, y2, the score, and five landmarks as x, y.
Faces = NDArray[np.float64]


def network_input(rgb: NDArray[np.uint8], *, swap: bool = True) -> NDArray[np.float32]:
    """Returns the picture as BGR 0..255, padded with zeros at the bottom and right to a multiple of 32."""
    height, width, _ = rgb.shape
    canvas = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), dtype=np.float32)
    canvas[:height, :width] = rgb[:, :, ::-1] if swap else rgb
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])


def faces(session: ort.InferenceSession, image: NDArray[np.float32], threshold: float, nms: float) -> Faces:
    outputs = session.run([f"stride{stride}" for stride in STRIDES], {"image": image})
    rows = np.concatenate([_level(out[0], stride) for out, stride in zip(outputs, STRIDES, strict=True)])
    rows = rows[rows[:, 4] > threshold]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MAX_BEFORE_NMS]
    return _suppress(rows, nms)


def _level(raw: NDArray[np.float32], stride: int) -> Faces:
    """Decodes all cells of a level. A cell's prior is its top-left corner rather than its center."""
    channels, height, width = raw.shape
    row, column = np.mgrid[0:height, 0:width]
    value = raw.astype(np.float64)
    score = np.sqrt(_sigmoid(value[0]) * _sigmoid(value[1]))
    centre_x, centre_y = (column + value[2]) * stride, (row + value[3]) * stride
    half_w, half_h = np.exp(value[4]) * stride / 2, np.exp(value[5]) * stride / 2
    box = [centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h]
    marks = [((row if i % 2 else column) + value[6 + i]) * stride for i in range(channels - 6)]
    return np.stack([*box, score, *marks], axis=-1).reshape(height * width, -1)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def _suppress(rows: Faces, limit: float) -> Faces:
    kept: list[NDArray[np.float64]] = []
    for row in rows:
        if all(overlap(row, other) <= limit for other in kept):
            kept.append(row)
    return np.stack(kept) if kept else rows[:0]


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Computes the intersection over union of two boxes."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))
