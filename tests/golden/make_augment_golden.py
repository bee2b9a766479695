"""Generates the reference values for augmentation by running Keras's own code on fixed draws.

This script does not repeat any formula from maskd or Keras. It records the matrices that `apply_affine_transform`
passes to scipy, and the pictures that `apply_affine_transform` returns.

    python make_augment_golden.py
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tf_keras.preprocessing import image as keras_image
from tf_keras.src.preprocessing import image as keras_source

GOLDEN = Path(__file__).resolve().parent
PICTURES = GOLDEN / "augment"
SIDE = 224
# For a picture that is stored at a reduced size, the distance between two compared pixels,
# in pixels of the original picture.
STRIDE = 4

Draw = dict[str, Any]


def draw(**values: float | bool) -> Draw:
    nothing: Draw = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "shear": 0.0, "zx": 1.0, "zy": 1.0}
    return {**nothing, "flip": False, "channel_shift": 0.0, **values}


_MATRICES: list[Draw] = [
    # Each change is applied alone, so that a failing case identifies the wrong
    # change.
    draw(),
    draw(theta=20.0),
    draw(theta=-7.25),
    draw(tx=31.5),
    draw(ty=-44.8),
    draw(shear=0.15),
    draw(shear=25.0),
    draw(zx=0.85),
    draw(zy=1.15),
    # Changes are combined, so that the test detects factors in the wrong order.
    draw(theta=15.0, tx=-20.0, ty=12.5),
    draw(theta=-12.0, shear=30.0, zx=1.3, zy=0.7),
    draw(theta=18.3, tx=40.1, ty=-37.7, shear=-0.12, zx=0.91, zy=1.09),
    draw(theta=-170.0, tx=150.0, ty=90.0, shear=-60.0, zx=2.5, zy=0.3),
]

# Channel shifts are whole numbers, because maskd rounds the pixels before it adds a shift,
# whereas Keras rounds them afterward.
_PICTURES: list[tuple[str, str, str, bool, Draw]] = [
    # name, crop, fill, whole (or one pixel in STRIDE x STRIDE), draw
    ("tutorial", "mask_large", "nearest", True, _MATRICES[11]),
    ("tutorial_flipped", "bare_plain", "nearest", True, draw(theta=-19.0, tx=22.0, ty=35.0, zx=1.14, flip=True)),
    ("strong", "mask_printed", "nearest", True, draw(theta=-35.0, tx=60.0, ty=-50.0, shear=20.0, zx=1.4, zy=0.6)),
    ("brighter", "bare_beard", "nearest", False, draw(theta=9.0, channel_shift=37.0)),
    ("darker", "bare_beard", "nearest", False, draw(tx=4.3, channel_shift=-61.0, flip=True)),
    ("constant", "mask_small", "constant", False, draw(theta=18.0, tx=-33.3, ty=40.0, zx=1.4, zy=1.2)),
    ("reflect", "mask_small", "reflect", False, draw(theta=-28.0, tx=70.2, ty=-81.0, zx=2.6, zy=2.2)),
    ("wrap", "mask_small", "wrap", False, draw(theta=-28.0, tx=70.2, ty=-81.0, zx=2.6, zy=2.2)),
]


def pixels(crop: str) -> NDArray[np.float32]:
    with Image.open(GOLDEN / "crops" / f"{crop}.png") as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.float32)


def affine(picture: NDArray[np.float32], values: Draw, fill: str) -> NDArray[np.float32]:
    return keras_image.apply_affine_transform(
        picture,
        **{name: values[name] for name in ("theta", "tx", "ty", "shear", "zx", "zy")},
        row_axis=0,
        col_axis=1,
        channel_axis=2,
        fill_mode=fill,
        order=1,
    )


def matrix(values: Draw) -> list[list[float]]:
    """Returns the 3x3 matrix for (x, y, 1). Keras passes a 2x2 matrix and an offset for (row, column) to scipy."""
    caught: list[tuple[Any, Any]] = []

    def catch(channel: Any, linear: Any, offset: Any, **_: Any) -> Any:
        caught.append((np.array(linear), np.array(offset)))
        return channel

    with mock.patch.object(keras_source.ndimage.interpolation, "affine_transform", catch):
        affine(np.zeros((SIDE, SIDE, 3), dtype=np.float32), values, "nearest")
    if not caught:  # If nothing changes, Keras does not call scipy.
        return np.eye(3).tolist()
    linear, offset = caught[0]
    return [
        [linear[1, 1], linear[1, 0], offset[1]],
        [linear[0, 1], linear[0, 0], offset[0]],
        [0.0, 0.0, 1.0],
    ]


def view(crop: str, fill: str, values: Draw) -> NDArray[np.uint8]:
    """Runs the steps of `ImageDataGenerator.apply_transform` in the same order."""
    picture = affine(pixels(crop), values, fill)
    if values["channel_shift"]:
        picture = keras_source.apply_channel_shift(picture, values["channel_shift"], 2)
    if values["flip"]:
        picture = keras_source.flip_axis(picture, 1)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def main() -> None:
    matrices = [{"draw": values, "matrix": matrix(values)} for values in _MATRICES]
    entries = []
    PICTURES.mkdir(exist_ok=True)
    for name, crop, fill, whole, values in _PICTURES:
        stride = 1 if whole else STRIDE
        buffer = io.BytesIO()
        Image.fromarray(view(crop, fill, values)[::stride, ::stride]).save(buffer, "PNG", optimize=True)
        (PICTURES / f"{name}.png").write_bytes(buffer.getvalue())
        print(f"{name}.png: {len(buffer.getvalue())} bytes")
        entry = {"picture": f"{name}.png", "crop": f"{crop}.png", "fill": fill, "stride": stride, "draw": values}
        entries.append(entry)
    text = json.dumps({"matrices": matrices, "pictures": entries}, indent=1) + "\n"
    (GOLDEN / "augment.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
