"""Runs the networks in another runtime, between the markers that `count.c` recognizes.

    peers.py onnxruntime|litert FOLDER MODELS

This script runs in an emulated Python. FOLDER is the folder that `arm-python` created, and MODELS is the folder with
maskd's models. For each section between markers, the script prints one line with the name of the corresponding stage in
maskd.
"""

import os
import sys

PEER, FOLDER, MODELS = sys.argv[1:]
sys.path.insert(0, f"{FOLDER}/packages")

import numpy as np  # noqa: E402

# These values must be the same as in stages.rs.
BEGIN, END = 0x4D41534B, 0x4D41534C
ROUNDS = 3

SHAPES = {"detect-160": (1, 3, 128, 160), "detect-320": (1, 3, 256, 320), "embed": (1, 3, 224, 224)}


def mark(number):
    try:
        os.getpgid(number)
    except ProcessLookupError:
        return
    raise SystemExit("no process should have this ID")


def count(stage, work):
    work()
    for _ in range(ROUNDS):
        mark(BEGIN)
        work()
        mark(END)
        print(stage, flush=True)


def values(shape):
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def onnxruntime():
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for stage, shape in SHAPES.items():
        name = "mask_classifier" if stage == "embed" else "face_detector"
        session = ort.InferenceSession(f"{MODELS}/{name}.onnx", options, providers=["CPUExecutionProvider"])
        given = {"image": values(shape)}
        count(stage, lambda session=session, given=given: session.run(None, given))


def litert():
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(f"{FOLDER}/backbone.tflite", num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values((1, 224, 224, 3)))
    count("embed", interpreter.invoke)


{"onnxruntime": onnxruntime, "litert": litert}[PEER]()
