"""Cuts and measures pictures, as a worker process.

This file owns everything that `run --extra` does with pixels. `run` starts it in the virtual environment, because it
needs OpenCV. It prints one JSON object per line. The first has the version. Then, the process answers each request:

- `{"cut": PATH, "view": VIEW, "to": PATH}` writes a part of a picture to a PNG file. `framing.View` describes VIEW.
- `{"measure": PATH, "box": BOX, "forehead": BOX}` answers with measures of the face in the box. BOX is left, top, width
  and height in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker import Json, end_with, serve  # noqa: E402

Image = Any
# The side to which a face is scaled before `sharpness_scaled` is measured, so that faces of all sizes compare.
SCALED = 64


def main() -> int:
    def begin() -> tuple[Json, Callable[[Json], Json]]:
        import cv2

        cv2.setNumThreads(1)

        def answer(request: Json) -> Json:
            if "cut" in request:
                return cut(read(request["cut"]), request["view"], request["to"])
            return measure(read(request["measure"]), request["box"], request["forehead"])

        return {"opencv": cv2.__version__}, answer

    return serve(begin)


def read(path: str) -> Image:
    import cv2

    image = cv2.imread(path)
    if image is None:
        raise ValueError(f"{path} cannot be read")
    return image


def cut(image: Image, view: Json, to: str) -> Json:
    """Rotates a picture about a point, cuts the window out, and writes it. Where the window reaches beyond the picture,
    it is black."""
    import cv2
    import numpy

    if view["degrees"]:
        turn = cv2.getRotationMatrix2D(tuple(view["about"]), view["degrees"], 1.0)
        image = cv2.warpAffine(image, turn, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR)
    left, top, width, height = view["window"]
    part = numpy.zeros((height, width, 3), numpy.uint8)
    y0, y1 = max(0, top), min(image.shape[0], top + height)
    x0, x1 = max(0, left), min(image.shape[1], left + width)
    part[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return {"written": bool(cv2.imwrite(to, part))}


def measure(image: Image, box: list[float], forehead: list[float]) -> Json:
    """Measures a face. All light is the luma of BT.601, 0 to 255, as the camera delivers it."""
    import cv2
    import numpy

    height, width = image.shape[:2]
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    face = inside(gray, box)
    brow = inside(gray, forehead)
    across = max(0.0, min(box[0] + box[2], width) - max(box[0], 0))
    down = max(0.0, min(box[1] + box[3], height) - max(box[1], 0))
    # The difference between the largest and the smallest of the three colors is 0 for gray.
    color = float((image.max(axis=2).astype(int) - image.min(axis=2)).mean())
    if min(face.shape) < 3:
        return {"color": color, "forehead": None, "measures": None}
    variance = max(1.0, float(face.var()))
    scaled = cv2.resize(face, (SCALED, SCALED), interpolation=cv2.INTER_AREA)
    return {
        "color": color,
        "forehead": float(numpy.median(brow)) if brow.size else None,
        "measures": {
            "sharpness": float(cv2.Laplacian(face, cv2.CV_64F).var()) / variance,
            "sharpness_scaled": float(cv2.Laplacian(scaled, cv2.CV_64F).var()) / max(1.0, float(scaled.var())),
            "light": float(face.mean()),
            "forehead": float(numpy.median(brow if brow.size else face)),
            "contrast": float(face.std()),
            "light_to_frame": float(face.mean() - gray.mean()),
            "inside": across * down / (box[2] * box[3]),
        },
    }


def inside(gray: Image, box: list[float]) -> Image:
    """Returns the part of a picture that is in a box."""
    left, top, width, height = box
    x0, y0 = max(0, round(left)), max(0, round(top))
    return gray[y0 : max(y0, round(top + height)), x0 : max(x0, round(left + width))]


if __name__ == "__main__":
    end_with(main)
