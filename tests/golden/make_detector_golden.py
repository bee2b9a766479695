"""Generates tests/golden/detector.json, which contains the reference values for the built-in detector.

    python make_detector_golden.py

The values come from PyTorch and the weights (models/finetune/network.py), and not from the ONNX file. Run this after
models/finetune has trained other weights. It needs the packages in models/finetune/requirements.txt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import torch

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[1]
sys.path.insert(0, str(ROOT / "models" / "finetune"))

from network import NMS_OVERLAP, YuNet, detect  # noqa: E402  (needs the path above)

# No score is close to this threshold, so decoders whose pixels differ a little find the same faces.
THRESHOLD = 0.58

torch.set_num_threads(1)
network = YuNet(ROOT / "models" / "export" / "yunet" / "finetuned.npz").eval()
frames = {}
# The same frames as those of the published detector.
for name in json.loads((GOLDEN / "yunet.json").read_text(encoding="utf-8"))["frames"]:
    picture = cv2.imread(str(ROOT / "assets" / "frames" / name))
    boxes, scores, landmarks = detect(network, picture, THRESHOLD)
    frames[name] = [
        {
            "box": [round(float(x), 3) for x in box],
            "score": round(float(score), 4),
            "landmarks": [[round(float(x), 3) for x in point] for point in points],
        }
        for box, score, points in zip(boxes, scores, landmarks, strict=True)
    ]
golden = {"threshold": THRESHOLD, "nms": NMS_OVERLAP, "frames": frames}
(GOLDEN / "detector.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
print(f"detector.json: {sum(len(rows) for rows in frames.values())} faces in {len(frames)} frames")
