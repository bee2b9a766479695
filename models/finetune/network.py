"""The face detector YuNet in PyTorch, and the decoder of its outputs.

The network is written from YuNet's specification (models/README.md) and shares no code with the ONNX export. So the
reference values that it computes (tests/golden/make_detector_golden.py) check the exported file independently.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
# For each level: the first convolutions of the heads for class, object, box, and landmarks.
HEADS = ((29, 41, 35, 47), (31, 43, 37, 49), (33, 45, 39, 51))
NMS_OVERLAP = 0.45

Boxes = NDArray[np.float32]  # [N, 4]: left, top, right, bottom
Landmarks = NDArray[np.float32]  # [N, 5, 2]


class YuNet(nn.Module):
    """Maps pictures [B, 3, H, W] (BGR, 0 to 255) to one row of 16 numbers for each prior [B, P, 16]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        with np.load(weights, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        self.names = {int(key[:2]): key[3:].removesuffix(".weight") for key in arrays if key.endswith(".weight")}
        self.convolutions = nn.ModuleDict()
        for number, name in self.names.items():
            weight = torch.tensor(arrays[f"{number:02d}.{name}.weight"])
            outputs, inputs, side, _ = weight.shape
            depthwise = inputs == 1 and side == 3
            layer = nn.Conv2d(
                outputs if depthwise else inputs,
                outputs,
                side,
                stride=2 if number == 0 else 1,
                padding=side // 2,
                groups=outputs if depthwise else 1,
            )
            layer.weight.data = weight
            layer.bias.data = torch.tensor(arrays[f"{number:02d}.{name}.bias"])
            self.convolutions[str(number)] = layer

    def save(self, path: Path) -> None:
        arrays = {}
        for number, name in self.names.items():
            layer = self.convolutions[str(number)]
            arrays[f"{number:02d}.{name}.weight"] = layer.weight.detach().numpy()
            arrays[f"{number:02d}.{name}.bias"] = layer.bias.detach().numpy()
        np.savez(path, **arrays)

    def _unit(self, x: Tensor, number: int, relu: bool = True) -> Tensor:
        x = self.convolutions[str(number + 1)](self.convolutions[str(number)](x))
        return functional.relu(x) if relu else x

    def _units(self, x: Tensor, *numbers: int) -> Tensor:
        for number in numbers:
            x = self._unit(x, number)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.convolutions["0"](x))
        x = _pool(self._units(x, 1))
        x = _pool(self._units(x, 3, 5, 7, 9))
        level8 = self._units(x, 11, 13)
        level16 = self._units(_pool(level8), 15, 17)
        level32 = self._units(_pool(level16), 19, 21)
        level32 = self._unit(level32, 27)
        level16 = self._unit(_double(level32) + level16, 25)
        level8 = self._unit(_double(level16) + level8, 23)
        levels = []
        for features, heads in zip((level8, level16, level32), HEADS, strict=True):
            channels = torch.cat([self._unit(features, number, relu=False) for number in heads], 1)
            levels.append(channels.flatten(2).transpose(1, 2))
        return torch.cat(levels, 1)


def _pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def priors(height: int, width: int) -> Tensor:
    """Returns the left edge, the top edge, and the stride of each prior [P, 3]."""
    rows = []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        rows.append(torch.stack([x.flatten() * stride, y.flatten() * stride, torch.full((x.numel(),), stride)], 1))
    return torch.cat(rows).float()


def decode(outputs: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes [..., P, 4], scores [..., P], and landmarks [..., P, 5, 2] in pixels."""
    stride = prior[:, 2:3]
    centre = outputs[..., 2:4] * stride + prior[:, :2]
    # The limit only prevents overflow. No box is 400 times larger than its stride.
    size = torch.exp(outputs[..., 4:6].clamp(-6, 6)) * stride
    boxes = torch.cat([centre - size / 2, centre + size / 2], -1)
    scores = torch.sqrt(torch.sigmoid(outputs[..., 0]) * torch.sigmoid(outputs[..., 1]))
    landmarks = outputs[..., 6:16].reshape(*outputs.shape[:-1], 5, 2) * stride[:, None] + prior[:, None, :2]
    return boxes, scores, landmarks


def overlaps(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Returns the intersection over union of each pair of boxes, [len(a), len(b)]."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    return shared / (_area(a)[:, None] + _area(b)[None] - shared + 1e-9)


def _area(boxes: Boxes) -> NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def suppress(boxes: Boxes, scores: NDArray[np.float32]) -> list[int]:
    """Returns the indices of the boxes that remain, best score first."""
    order = list(np.argsort(-scores, kind="stable"))
    kept = []
    while order:
        best = order.pop(0)
        kept.append(int(best))
        if order:
            free = overlaps(boxes[best : best + 1], boxes[order])[0] <= NMS_OVERLAP
            order = [index for index, is_free in zip(order, free, strict=True) if is_free]
    return kept


@torch.no_grad()
def detect(
    network: YuNet, picture: NDArray[np.uint8], threshold: float
) -> tuple[Boxes, NDArray[np.float32], Landmarks]:
    """Finds the faces in a BGR picture at its own size. The scores are at least `threshold`."""
    height, width = picture.shape[:2]
    canvas = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
    canvas[:height, :width] = picture
    outputs = network(torch.from_numpy(canvas.transpose(2, 0, 1)[None].copy()))[0]
    boxes, scores, landmarks = (x.numpy() for x in decode(outputs, priors(*canvas.shape[:2])))
    chosen = scores > threshold
    boxes, scores, landmarks = boxes[chosen], scores[chosen], landmarks[chosen]
    kept = suppress(boxes, scores)
    return boxes[kept], scores[kept], landmarks[kept]
