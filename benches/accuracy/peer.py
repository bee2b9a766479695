"""A program that maskd's verdicts are compared with, as a worker process.

This file owns how the peers are called. `run` starts it once for each peer in a virtual environment. It prints one JSON
object per line. The first has the versions. Then, the process answers each request `{"picture": PATH}` with the faces
that it finds, each with `box` (left, top, width, height in pixels) and `verdict` (`with_mask` or `without_mask`), or
with `faces` null if it can't read the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCHES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCHES))

from worker import Json, end_with, serve  # noqa: E402

Recognize = Callable[[Any], list[Json]]
LABELS = ("with_mask", "without_mask")


def tutorial() -> Recognize:
    """Loads the models of the Keras tutorial."""
    sys.path.insert(0, str(BENCHES / "tutorial"))
    from tutorial import Tutorial, boxes, crop, set_threads

    set_threads(1)
    models = Tutorial()

    def recognize(image: Any) -> list[Json]:
        found = boxes(image, models.detect(image))
        if not found:
            return []
        rows = models.classify([crop(image, box) for box in found])
        return [
            {
                "box": [int(left), int(top), int(right - left), int(bottom - top)],
                "verdict": LABELS[0] if with_mask > without_mask else LABELS[1],
            }
            for (left, top, right, bottom), (with_mask, without_mask) in zip(found, rows, strict=True)
        ]

    return recognize


def aizoo(folder: Path) -> Recognize:
    """Loads AIZOO's detector from the folder with its weights and `aizoo.py`."""
    sys.path.insert(0, str(folder))
    from aizoo import Aizoo

    detector = Aizoo()

    def recognize(image: Any) -> list[Json]:
        return [
            {"box": [float(x), float(y), float(width), float(height)], "verdict": label}
            for x, y, width, height, _, label in detector(image)
        ]

    return recognize


def main() -> int:
    parser = argparse.ArgumentParser(description="A peer as a worker; started by `run`.")
    parser.add_argument("name", choices=("tutorial", "aizoo"))
    parser.add_argument("--folder", type=Path, help="the folder with AIZOO's weights")
    options = parser.parse_args()

    def begin() -> tuple[Json, Callable[[Json], Json]]:
        recognize = tutorial() if options.name == "tutorial" else aizoo(options.folder)
        import cv2

        cv2.setNumThreads(1)

        def answer(request: Json) -> Json:
            image = cv2.imread(request["picture"])
            return {"faces": None if image is None else recognize(image)}

        return {"opencv": cv2.__version__}, answer

    return serve(begin)


if __name__ == "__main__":
    end_with(main)
