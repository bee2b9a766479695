"""Runs maskd's classifier in another runtime, as a worker process.

    peer.py onnxruntime|litert|opencv|keras CLASSIFIER THREADS

If THREADS is 0, the runtime uses its own default. The process keeps running through all rounds, so that loading is not
measured. It prints one JSON object per line. The first object contains the version. For each request `{"crops": [...],
"seconds": S}` on standard input, the process repeatedly runs the classifier on the crops for S seconds. It answers with
the milliseconds of each run and the probabilities for each crop. Crops are pictures of 224 x 224 pixels. The process
ends when its input ends.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker import Json, end_with, serve  # noqa: E402

Run = Callable[[np.ndarray], np.ndarray]

SIDE = 224


def onnxruntime(classifier: str, threads: int) -> tuple[Run, str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    if threads:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = ort.InferenceSession(classifier, options, providers=["CPUExecutionProvider"])
    return lambda crop: session.run(None, {"image": crop})[0], ort.__version__


def litert(classifier: str, threads: int) -> tuple[Run, str]:
    import importlib.metadata

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(classifier, num_threads=threads or os.cpu_count())
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    probabilities = interpreter.get_output_details()[0]["index"]

    def run(crop: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image, crop)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities)

    return run, importlib.metadata.version("ai-edge-litert")


def opencv(classifier: str, threads: int) -> tuple[Run, str]:
    if threads:
        cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(classifier)

    def run(crop: np.ndarray) -> np.ndarray:
        net.setInput(crop, "image")
        return net.forward("probabilities")

    return run, cv2.__version__


def keras(classifier: str, threads: int) -> tuple[Run, str]:
    import tensorflow as tf
    from tf_keras.models import load_model

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = load_model(classifier, compile=False)
    return lambda crop: model.predict(crop, verbose=0), tf.__version__


PEERS: dict[str, tuple[Callable[[str, int], tuple[Run, str]], bool]] = {
    # The second value is true if the channels are the last axis of the input.
    "onnxruntime": (onnxruntime, False),
    "litert": (litert, True),
    "opencv": (opencv, False),
    "keras": (keras, True),
}


def read(picture: str, channels_last: bool) -> np.ndarray:
    """Reads a crop in the input format from models/README.md: RGB, value / 127.5 - 1."""
    pixels = cv2.imread(picture)
    if pixels is None or pixels.shape != (SIDE, SIDE, 3):
        raise ValueError(f"{picture} is not a picture of {SIDE} x {SIDE} pixels")
    values = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray((values if channels_last else values.transpose(2, 0, 1))[None])


def begin(name: str, classifier: str, threads: int) -> tuple[Json, Callable[[Json], Json]]:
    load, channels_last = PEERS[name]
    run, version = load(classifier, threads)

    def answer(request: Json) -> Json:
        crops = [read(crop, channels_last) for crop in request["crops"]]
        probabilities = [run(crop)[0].tolist() for crop in crops]
        times = []
        end = time.perf_counter() + request["seconds"]
        while (started := time.perf_counter()) < end:
            run(crops[len(times) % len(crops)])
            times.append((time.perf_counter() - started) * 1000)
        return {"ms": times, "probabilities": probabilities}

    return {"version": version}, answer


def main() -> int:
    name, classifier, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    return serve(lambda: begin(name, classifier, threads))


if __name__ == "__main__":
    end_with(main)
