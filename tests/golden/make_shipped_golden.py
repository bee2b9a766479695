"""Owns the reference values of the classifier as it is shipped: tests/golden/shipped.json.

    python make_shipped_golden.py

To be run after `maskd train` has made another head. It needs the packages of
models/export/requirements.txt: onnxruntime gives the values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[1]
sys.path.insert(0, str(ROOT / "models" / "export"))

import checks  # noqa: E402

answers = checks.run_shipped((ROOT / "models" / "mask_classifier.onnx").read_bytes())
(GOLDEN / "shipped.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
for crop, answer in answers.items():
    print(f"{crop}: P(with_mask) = {answer['probabilities'][0]:.6f}")
